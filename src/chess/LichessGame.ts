/**
 * Decodes one game as Lichess exports it and puts it in the service's own terms.
 *
 * Only the fields that are used are declared, and few of them are required: an engine has no user, an anonymous player
 * no name, an imported game no clock, an aborted one no moves. What cannot be kept becomes an `OddGame`, never an error.
 */
import { Result, Schema } from "effect"
import { SchemaJITCompiler } from "effect/schema"
import type { Game, GameBatch, OddGame, Player, Result as GameResult, Speed } from "./domain/Game.ts"

const GameId = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9]{8}$/, { expected: "a game id of 8 letters or digits" })
)

/** An epoch time a `Date` can hold. Games from before 2010 exist: imported ones carry the year they were played in. */
const EpochMillis = Schema.Finite.check(
  Schema.isBetween({ minimum: -8.64e15, maximum: 8.64e15 }, { expected: "an epoch time in milliseconds" })
)

const LichessUser = Schema.Struct({
  id: Schema.optionalKey(Schema.String),
  name: Schema.optionalKey(Schema.String),
  title: Schema.optionalKey(Schema.NullOr(Schema.String))
})

const LichessPlayer = Schema.Struct({
  user: Schema.optionalKey(Schema.NullOr(LichessUser)),
  name: Schema.optionalKey(Schema.String),
  rating: Schema.optionalKey(Schema.Finite),
  ratingDiff: Schema.optionalKey(Schema.Finite),
  aiLevel: Schema.optionalKey(Schema.Finite)
})

/** A line of `GET /api/games/user/{user}`, as far as it is used. */
export const LichessGame = Schema.Struct({
  id: GameId,
  rated: Schema.optionalKey(Schema.Boolean),
  variant: Schema.optionalKey(Schema.String),
  speed: Schema.optionalKey(Schema.String),
  createdAt: EpochMillis,
  lastMoveAt: Schema.optionalKey(EpochMillis),
  status: Schema.String,
  players: Schema.Struct({ white: LichessPlayer, black: LichessPlayer }),
  initialFen: Schema.optionalKey(Schema.String),
  winner: Schema.optionalKey(Schema.Literals(["white", "black"])),
  opening: Schema.optionalKey(
    Schema.Struct({ eco: Schema.optionalKey(Schema.String), name: Schema.optionalKey(Schema.String) })
  ),
  moves: Schema.optionalKey(Schema.String),
  pgn: Schema.optionalKey(Schema.String),
  daysPerTurn: Schema.optionalKey(Schema.Finite),
  clock: Schema.optionalKey(Schema.Struct({ initial: Schema.Finite, increment: Schema.Finite }))
})
export type LichessGame = typeof LichessGame.Type

// 200,000 of these are decoded in one import: compiled, decoding costs less than parsing the JSON did.
SchemaJITCompiler.enable(LichessGame.ast)
const decode = Schema.decodeUnknownResult(LichessGame)

/**
 * Decodes the lines of a piece of an export together. Blank lines are nothing; a line that is not a game this service
 * can keep is counted in `odd` with its reason.
 */
export const decodeLines = (lines: Iterable<string>): GameBatch => {
  const games: Array<Game> = []
  const odd: Array<OddGame> = []
  for (const line of lines) {
    if (isBlank(line)) continue
    const json = parse(line)
    if (Result.isFailure(json)) {
      odd.push(oddGame("not JSON", line))
      continue
    }
    const decoded = decode(json.success)
    if (Result.isFailure(decoded)) odd.push(oddGame(decoded.failure.message, line))
    else games.push(toGame(decoded.success))
  }
  return { games, odd }
}

/** Whether a line is nothing but white space. */
export const isBlank = (line: string): boolean => line.length === 0 || (line.length < 64 && line.trim().length === 0)

/** Whether a line is a whole JSON value: the last line of a body that was cut is not. */
export const isJson = (line: string): boolean => Result.isSuccess(parse(line))

/** The game in the service's own terms. */
export const toGame = (game: LichessGame): Game => ({
  platform: "lichess",
  id: game.id,
  url: `https://lichess.org/${game.id}`,
  rated: game.rated ?? false,
  variant: game.variant ?? "standard",
  speed: speedOf(game),
  baseSeconds: game.clock?.initial ?? null,
  incrementSeconds: game.clock?.increment ?? null,
  daysPerTurn: game.daysPerTurn ?? null,
  playedAt: game.createdAt,
  endedAt: game.lastMoveAt ?? null,
  white: toPlayer(game.players.white),
  black: toPlayer(game.players.black),
  result: resultOf(game),
  termination: game.status,
  eco: game.opening?.eco ?? null,
  opening: game.opening?.name ?? null,
  plies: game.moves === undefined ? null : countWords(game.moves),
  initialFen: game.initialFen ?? null,
  pgn: game.pgn === undefined || game.pgn === "" ? null : game.pgn
})

const parse = (line: string): Result.Result<unknown, unknown> => Result.try((): unknown => JSON.parse(line))

const oddGame = (reason: string, raw: string): OddGame => ({ reason: reason.slice(0, 500), raw: raw.slice(0, 4096) })

const toPlayer = (player: typeof LichessPlayer.Type): Player => {
  const user = player.user ?? undefined
  const name = user?.name ?? player.name ?? null
  return {
    id: user?.id ?? user?.name?.toLowerCase() ?? null,
    name,
    title: user?.title ?? null,
    rating: player.rating ?? null,
    ratingDiff: player.ratingDiff ?? null,
    aiLevel: player.aiLevel ?? null
  }
}

const resultOf = (game: LichessGame): GameResult => {
  if (game.winner !== undefined) return game.winner === "white" ? "1-0" : "0-1"
  return drawn.has(game.status) ? "1/2-1/2" : "*"
}

// How a finished game without a winner can have ended. A flag that falls when the opponent cannot mate is a draw, and so
// is racing kings with both kings home (`variantEnd`).
const drawn: ReadonlySet<string> = new Set([
  "draw",
  "stalemate",
  "outoftime",
  "timeout",
  "insufficientMaterialClaim",
  "variantEnd"
])

const speeds: ReadonlyMap<string, Speed> = new Map([
  ["ultraBullet", "ultrabullet"],
  ["bullet", "bullet"],
  ["blitz", "blitz"],
  ["rapid", "rapid"],
  ["classical", "classical"],
  ["correspondence", "correspondence"]
])

const speedOf = (game: LichessGame): Speed => {
  const known = game.speed === undefined ? undefined : speeds.get(game.speed)
  if (known !== undefined) return known
  if (game.clock === undefined) return "correspondence"
  // How Lichess itself tells speeds apart: the seconds a side has for forty moves.
  const seconds = game.clock.initial + 40 * game.clock.increment
  if (seconds < 30) return "ultrabullet"
  if (seconds < 180) return "bullet"
  if (seconds < 480) return "blitz"
  return seconds < 1500 ? "rapid" : "classical"
}

const countWords = (text: string): number => {
  let words = 0
  let at = 0
  while (at < text.length) {
    const space = text.indexOf(" ", at)
    const end = space < 0 ? text.length : space
    if (end > at) words++
    at = end + 1
  }
  return words
}
