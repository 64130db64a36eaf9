/**
 * Decodes one game as Chess.com publishes it and puts it in the service's own terms.
 *
 * Only the fields that are used are declared, and few of them are required: bughouse games have no PGN, old ones no
 * uuid, live ones no start time but in the PGN. What cannot be kept becomes an `OddGame`, never an error.
 */
import { DateTime, Option, Result, Schema } from "effect"
import { SchemaJITCompiler } from "effect/schema"
import type { Game, GameBatch, OddGame, Player, Result as GameResult, Speed } from "./domain/Game.ts"

/** An epoch time in seconds that a `Date` can hold. */
const EpochSeconds = Schema.Finite.check(
  Schema.isBetween({ minimum: -8.64e12, maximum: 8.64e12 }, { expected: "an epoch time in seconds" })
)

const ChessComPlayer = Schema.Struct({
  username: Schema.optionalKey(Schema.String),
  rating: Schema.optionalKey(Schema.NullOr(Schema.Finite)),
  result: Schema.optionalKey(Schema.String)
})

/** An element of `games` in a month, as far as it is used. */
export const ChessComGame = Schema.Struct({
  url: Schema.String,
  uuid: Schema.optionalKey(Schema.String),
  pgn: Schema.optionalKey(Schema.String),
  time_control: Schema.optionalKey(Schema.String),
  time_class: Schema.optionalKey(Schema.String),
  start_time: Schema.optionalKey(EpochSeconds),
  end_time: Schema.optionalKey(EpochSeconds),
  rated: Schema.optionalKey(Schema.Boolean),
  rules: Schema.optionalKey(Schema.String),
  tcn: Schema.optionalKey(Schema.String),
  initial_setup: Schema.optionalKey(Schema.String),
  eco: Schema.optionalKey(Schema.String),
  white: ChessComPlayer,
  black: ChessComPlayer
})
export type ChessComGame = typeof ChessComGame.Type

SchemaJITCompiler.enable(ChessComGame.ast)
const decode = Schema.decodeUnknownResult(ChessComGame)

/**
 * Decodes the games of a month, newest first. An element that is not a game this service can keep is counted in `odd`
 * with its reason.
 */
export const decodeGames = (elements: ReadonlyArray<unknown>): GameBatch => {
  const games: Array<Game> = []
  const odd: Array<OddGame> = []
  for (const element of elements) {
    const decoded = decode(element)
    const game = Result.isFailure(decoded) ? decoded.failure.message : toGame(decoded.success)
    if (typeof game === "string") odd.push(oddGame(game, element))
    else games.push(game)
  }
  // Months come in the order their games ended, nearly always.
  games.sort((a, b) => (b.endedAt ?? b.playedAt) - (a.endedAt ?? a.playedAt))
  return { games, odd }
}

/** The game in the service's own terms, or the reason why it cannot be kept. */
export const toGame = (game: ChessComGame): Game | string => {
  const id = idOf(game)
  if (id === undefined) return "no uuid, and no number in the url"
  const tags = tagsOf(game.pgn)
  const endedAt = game.end_time === undefined ? null : game.end_time * 1000
  const playedAt = game.start_time === undefined ? (startOf(tags) ?? endedAt) : game.start_time * 1000
  if (playedAt === null) return "no time"
  const clock = clockOf(game.time_control)
  const initialFen = initialFenOf(game, tags)
  return {
    platform: "chess.com",
    id,
    url: game.url,
    rated: game.rated ?? false,
    variant: variantOf(game.rules ?? "chess", initialFen),
    speed: speedOf(game.time_class, clock),
    ...clock,
    playedAt,
    endedAt,
    white: toPlayer(game.white),
    black: toPlayer(game.black),
    result: resultOf(game, tags),
    termination: terminationOf(game),
    eco: ecoOf(tags),
    opening: openingOf(tag(tags, "ECOUrl") ?? game.eco),
    plies: game.tcn === undefined ? null : game.tcn.length >> 1,
    initialFen,
    pgn: game.pgn === undefined || game.pgn === "" ? null : game.pgn
  }
}

interface TimeControl {
  readonly baseSeconds: number | null
  readonly incrementSeconds: number | null
  readonly daysPerTurn: number | null
}

const oddGame = (reason: string, element: unknown): OddGame => ({
  reason: reason.slice(0, 500),
  raw: (JSON.stringify(element) ?? String(element)).slice(0, 4096)
})

// Live and daily games share one space of numbers: the number alone is not a name.
const idOf = (game: ChessComGame): string | undefined => {
  if (game.uuid !== undefined && game.uuid !== "") return game.uuid
  const match = /\/game\/(?:(live|daily)\/(\d+)|([0-9a-f]{8}-[0-9a-f-]{27}))$/.exec(game.url)
  if (match === null) return undefined
  return match[3] ?? `${match[1]}:${match[2]}`
}

// The tags of a PGN are its beginning; looking for one never runs into the moves.
const tagsOf = (pgn: string | undefined): string => {
  if (pgn === undefined) return ""
  const end = pgn.indexOf("\n\n")
  return end < 0 ? pgn : pgn.slice(0, end)
}

const tag = (tags: string, name: string): string | undefined => {
  const start = tags.indexOf(`[${name} "`)
  if (start < 0) return undefined
  const from = start + name.length + 3
  const to = tags.indexOf('"', from)
  return to < 0 ? undefined : tags.slice(from, to)
}

const startOf = (tags: string): number | null => {
  const date = tag(tags, "UTCDate")
  const time = tag(tags, "UTCTime")
  if (date === undefined || time === undefined) return null
  return Option.getOrNull(
    Option.map(DateTime.make(`${date.replaceAll(".", "-")}T${time}Z`), (start) => start.epochMilliseconds)
  )
}

// "600", "180+1", or "1/86400" for one move a day.
const clockOf = (control: string | undefined): TimeControl => {
  const live = /^(\d+)(?:\+(\d+))?$/.exec(control ?? "")
  if (live !== null) {
    return { baseSeconds: Number(live[1]), incrementSeconds: Number(live[2] ?? 0), daysPerTurn: null }
  }
  const daily = /^1\/(\d+)$/.exec(control ?? "")
  return {
    baseSeconds: null,
    incrementSeconds: null,
    daysPerTurn: daily === null ? null : Number(daily[1]) / 86_400
  }
}

const speeds: ReadonlyMap<string, Speed> = new Map([
  ["daily", "correspondence"],
  ["rapid", "rapid"],
  ["blitz", "blitz"],
  ["bullet", "bullet"]
])

const speedOf = (timeClass: string | undefined, clock: TimeControl): Speed => {
  const known = timeClass === undefined ? undefined : speeds.get(timeClass)
  if (known !== undefined) return known
  if (clock.baseSeconds === null) return "correspondence"
  // How Chess.com tells speeds apart: the minutes a side has for forty moves.
  const seconds = clock.baseSeconds + 40 * (clock.incrementSeconds ?? 0)
  if (seconds < 180) return "bullet"
  return seconds < 600 ? "blitz" : "rapid"
}

const variants: ReadonlyMap<string, string> = new Map([
  ["chess", "standard"],
  ["chess960", "chess960"],
  ["crazyhouse", "crazyhouse"],
  ["kingofthehill", "kingOfTheHill"],
  ["threecheck", "threeCheck"]
])

// Thematic games say they are plain chess and start elsewhere; Lichess has a name for that.
const variantOf = (rules: string, initialFen: string | null): string =>
  rules === "chess" && initialFen !== null ? "fromPosition" : (variants.get(rules) ?? rules)

const startPosition = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR"

const initialFenOf = (game: ChessComGame, tags: string): string | null => {
  const fen = game.initial_setup === undefined || game.initial_setup === "" ? tag(tags, "FEN") : game.initial_setup
  return fen === undefined || fen === "" || fen.startsWith(`${startPosition} w`) ? null : fen
}

const toPlayer = (player: typeof ChessComPlayer.Type): Player => ({
  id: player.username?.toLowerCase() ?? null,
  name: player.username ?? null,
  title: null,
  rating: player.rating ?? null,
  ratingDiff: null,
  aiLevel: null
})

const drawn: ReadonlySet<string> = new Set([
  "agreed",
  "repetition",
  "stalemate",
  "insufficient",
  "50move",
  "timevsinsufficient"
])

const resultOf = (game: ChessComGame, tags: string): GameResult => {
  const white = game.white.result ?? ""
  const black = game.black.result ?? ""
  if (white === "win") return "1-0"
  if (black === "win") return "0-1"
  if (drawn.has(white) && drawn.has(black)) return "1/2-1/2"
  const result = tag(tags, "Result")
  return result === "1-0" || result === "0-1" || result === "1/2-1/2" ? result : "*"
}

// The loser's word says how it ended; in a draw both say the same.
const terminationOf = (game: ChessComGame): string =>
  (game.white.result === "win" ? game.black.result : game.white.result) ?? "unknown"

const ecoOf = (tags: string): string | null => {
  const eco = tag(tags, "ECO")
  return eco !== undefined && /^[A-E]\d\d$/.test(eco) ? eco : null
}

// ".../openings/Closed-Sicilian-Defense-2...d6" is the Closed Sicilian Defense, after a move that is not in its name.
const openingOf = (url: string | undefined): string | null => {
  const slug = url === undefined ? undefined : /\/openings\/([^/?#]+)$/.exec(url)?.[1]
  if (slug === undefined || slug === "Undefined") return null
  const name = slug
    .replace(/-?(?:\.{3})?-?\d+\..*$/, "")
    .replaceAll("-", " ")
    .trim()
  return name === "" ? null : name
}
