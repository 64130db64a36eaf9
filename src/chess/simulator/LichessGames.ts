/**
 * Writes a player's games as Lichess does: one JSON object a line, with its keys in Lichess's order, or PGN.
 *
 * A game is a function of the account and its number, so any of 200,000 can be written without the others. The parts
 * that do not depend on the number (moves, clocks) are rendered once and kept.
 */
import { Buffer } from "node:buffer"
import * as Calendar from "./Calendar.ts"
import * as Clocks from "./Clocks.ts"
import * as GamePool from "./GamePool.ts"
import * as Hash from "./Hash.ts"
import type { Opponent } from "./Names.ts"
import { type Account, historyEnds, type World } from "./World.ts"

/** Which optional fields an export carries, by the names of the query parameters. */
export interface Fields {
  readonly moves: boolean
  readonly tags: boolean
  readonly clocks: boolean
  readonly opening: boolean
  readonly pgnInJson: boolean
  readonly lastFen: boolean
  readonly division: boolean
}

/** What is known of a game before it is written. */
export interface Facts {
  readonly index: number
  readonly id: string
  readonly createdAt: number
  readonly lastMoveAt: number
  readonly rated: boolean
  readonly variant: string
  readonly perf: string
  /** The account's own side; `undefined` in an imported game. */
  readonly colour: GamePool.Colour
  /** The lower-case name of the other side, if it has one. */
  readonly opponent: string | undefined
}

/** Writes games. */
export interface LichessGames {
  readonly facts: (account: Account, index: number) => Facts
  /** A writer of the JSON of this account's games, without the line end. */
  readonly json: (account: Account, fields: Fields) => Writer
  /** A writer of the PGN of this account's games, with the two blank lines after it. */
  readonly pgn: (account: Account, fields: Fields) => Writer
}

/** Writes any game of one account, as a text or into a buffer. */
export interface Writer {
  readonly text: (index: number) => string
  /** Writes from `offset` on and gives the offset after it. A game takes less than `maxGameBytes`. */
  readonly into: (index: number, target: Buffer, offset: number) => number
}

/** No game takes more bytes than this. */
export const maxGameBytes = 32_768

/** A part that many games share, so that it is encoded once. */
interface Segment {
  readonly text: string
  readonly bytes: Buffer
}

type Part = string | Segment

/** The unusual games of an account. */
const oddities = [
  "engine",
  "anonymous",
  "imported",
  "no-start",
  "aborted",
  "from-position",
  "correspondence",
  "unlimited",
  "chess960",
  "three-check",
  "king-of-the-hill",
  "crazyhouse",
  "drawn-on-time",
  "arena",
  "no-moves"
] as const

type Oddity = (typeof oddities)[number]

/** Those without a second player's name. */
const nameless: ReadonlySet<Oddity> = new Set<Oddity>(["engine", "anonymous", "imported"])

/** Creates the writer of a world. */
export const make = (world: World): LichessGames => {
  const movesOf = Clocks.renderOnce(renderMoves)
  // What an opponent's side begins with is the same in all games.
  const sides = world.opponents.map(sideOf)

  const detail = (account: Account, index: number): Detail => {
    const bits = Hash.combine(account.hash, index)
    const more = Hash.mix(bits ^ 0x6d6f7265)
    const drawn =
      Hash.unit(Hash.mix(bits ^ 0x6f646473)) < account.oddities ? oddities[more % oddities.length] : undefined
    // A game that a rival shares has that rival on the other side.
    const oddity = account.rival !== undefined && drawn !== undefined && nameless.has(drawn) ? undefined : drawn
    const game = gameOf(world.pool, oddity, bits)
    const control = Clocks.controlOf(bits >>> 7)
    const moves = movesOf(game, control)
    const ending = endingOf(game, oddity, more)
    const number = (bits >>> 3) % world.opponents.length
    const colour = (bits & 1) === 0 ? "white" : "black"
    const createdAt = account.timeline.at(index)
    const duration =
      oddity === "correspondence" || oddity === "unlimited"
        ? (1 + (more % 9)) * Calendar.dayMillis
        : oddity === "no-start"
          ? 0
          : moves.used
    // Games of the generated history have all ended by its end.
    const lastMoveAt = createdAt < historyEnds ? Math.min(createdAt + duration, historyEnds) : createdAt + duration
    return {
      index,
      bits,
      more,
      oddity,
      game,
      control,
      moves,
      ending,
      colour,
      opponent: account.rival ?? world.opponents[number]!,
      opposite: account.rival === undefined ? sides[number]! : sideOf(account.rival),
      createdAt,
      lastMoveAt
    }
  }

  const facts = (account: Account, index: number): Facts => {
    const found = detail(account, index)
    const { perf, variant } = kindOf(found)
    return {
      index,
      id: idOf(account, index),
      createdAt: found.createdAt,
      lastMoveAt: found.lastMoveAt,
      rated: isRated(found),
      variant,
      perf,
      colour: found.colour,
      opponent: found.oddity !== undefined && nameless.has(found.oddity) ? undefined : found.opponent.id
    }
  }

  const json = (account: Account, fields: Fields): Writer => {
    const own = sideOf(account)
    const pgnOf = fields.pgnInJson ? pgnWriter(account, fields, "\\n", '\\"') : undefined
    return writer((index) => {
      const found = detail(account, index)
      const { control, ending, game, moves, oddity } = found
      const id = idOf(account, index)
      const kind = kindOf(found)
      const rated = isRated(found)
      const players = playersOf(account, found, own)
      const short = oddity === "no-start" || oddity === "no-moves" || oddity === "aborted"
      let head = `{"id":"${id}","rated":${rated ? "true" : "false"},"variant":"${kind.variant}","speed":"${kind.speed}","perf":"${kind.perf}","createdAt":${found.createdAt},"lastMoveAt":${found.lastMoveAt},"status":"${ending.status}","source":"${kind.source}",${players}`
      if (game.initialFen !== undefined) head += `,"initialFen":"${game.initialFen}"`
      if (ending.winner !== undefined) head += ending.winner === "white" ? ',"winner":"white"' : ',"winner":"black"'
      let tail = ""
      if (kind.days !== undefined) tail += `,"daysPerTurn":${kind.days}`
      if (oddity === "arena") tail += `,"tournament":"${idOf(account, index % 97)}"`
      if (kind.clocked) {
        tail += `,"clock":{"initial":${control.base},"increment":${control.increment},"totalTime":${Clocks.expected(control)}}`
      }
      if (fields.lastFen) tail += `,"lastFen":"${short ? (game.initialFen ?? GamePool.usualFen) : game.finalFen}"`
      if (fields.division && !short && game.moves.length > 44) tail += ',"division":{"middle":20,"end":44}'
      if (oddity === "imported") tail += `,"import":{"date":"${Calendar.dateTag(found.createdAt)}"}`
      tail += "}"

      const parts: Array<Part> = [head]
      if (fields.opening && !short && game.initialFen === undefined) parts.push(moves.opening)
      if (fields.moves) parts.push(short ? (oddity === "aborted" ? moves.first : ',"moves":""') : moves.json)
      if (fields.clocks && !short && kind.clocked) parts.push(moves.clocks)
      if (pgnOf !== undefined) {
        parts.push(',"pgn":"')
        pgnOf(parts, found, id)
        tail = `"${tail}`
      }
      parts.push(tail)
      return parts
    })
  }

  const pgn = (account: Account, fields: Fields): Writer => {
    const write = pgnWriter(account, fields, "\n", '"')
    return writer((index) => {
      const parts: Array<Part> = []
      write(parts, detail(account, index), idOf(account, index))
      return parts
    })
  }

  return { facts, json, pgn }
}

interface Detail {
  readonly index: number
  readonly bits: number
  readonly more: number
  readonly oddity: Oddity | undefined
  readonly game: GamePool.PooledGame
  readonly control: Clocks.Control
  readonly moves: Moves
  readonly ending: Ending
  readonly colour: GamePool.Colour
  readonly opponent: Opponent
  /** The beginning of the opponent's side in JSON. */
  readonly opposite: string
  readonly createdAt: number
  readonly lastMoveAt: number
}

const writer = (partsOf: (index: number) => ReadonlyArray<Part>): Writer => ({
  text: (index) => {
    let text = ""
    for (const part of partsOf(index)) text += typeof part === "string" ? part : part.text
    return text
  },
  into: (index, target, offset) => {
    let end = offset
    for (const part of partsOf(index)) {
      if (typeof part === "string") {
        end += target.write(part, end)
      } else {
        target.set(part.bytes, end)
        end += part.bytes.length
      }
    }
    return end
  }
})

const segment = (text: string): Segment => ({ text, bytes: Buffer.from(text) })

/** The parts of a game that depend on its moves and its clock alone. */
interface Moves {
  readonly json: Segment
  readonly first: Segment
  readonly clocks: Segment
  readonly opening: Segment
  readonly pgn: Segment
  readonly pgnWithClocks: Segment
  readonly used: number
}

const renderMoves = (game: GamePool.PooledGame, control: Clocks.Control): Moves => {
  const clocks = Clocks.play(game, control)
  const start = control.base * 100 + 3
  const shown = [start, start, ...clocks.left.slice(2)]
  // One entry more than plies, except after a mate.
  if (game.mate === undefined) shown.push(clocks.left.at(-2) ?? start)
  const numbered = game.moves.map((move, ply) => (ply % 2 === 0 ? `${ply / 2 + 1}. ${move}` : move))
  const timed = game.moves.map((move, ply) => {
    const mark = ply % 2 === 0 ? "." : "..."
    return `${Math.floor(ply / 2) + 1}${mark} ${move} { [%clk ${Clocks.toSeconds(shown[ply]!)}] }`
  })
  const { eco, name, plies } = game.opening
  return {
    json: segment(`,"moves":"${game.moves.join(" ")}"`),
    first: segment(`,"moves":"${game.moves[0] ?? ""}"`),
    clocks: segment(`,"clocks":[${shown.join(",")}]`),
    opening: segment(`,"opening":{"eco":"${eco}","name":${JSON.stringify(name)},"ply":${plies}}`),
    pgn: segment(`${numbered.join(" ")} `),
    pgnWithClocks: segment(`${timed.join(" ")} `),
    used: clocks.used * 10
  }
}

interface Ending {
  readonly status: string
  readonly winner: GamePool.Colour | undefined
}

const gameOf = (pool: GamePool.GamePool, oddity: Oddity | undefined, bits: number): GamePool.PooledGame =>
  oddity === "chess960"
    ? pool.chess960(bits >>> 5)
    : oddity === "from-position"
      ? pool.fromPosition(bits >>> 5)
      : oddity === "three-check"
        ? pool.threeCheck(bits >>> 5)
        : pool.ordinary(bits >>> 5)

const endingOf = (game: GamePool.PooledGame, oddity: Oddity | undefined, more: number): Ending => {
  const winner = (more & 1) === 0 ? "white" : "black"
  if (oddity === "no-start") return { status: "noStart", winner }
  if (oddity === "aborted") return { status: "aborted", winner: undefined }
  if (oddity === "drawn-on-time" && game.mate === undefined) return { status: "outoftime", winner: undefined }
  if (game.mate !== undefined) {
    const checkmate = game.moves.at(-1)?.endsWith("#") === true
    return { status: checkmate ? "mate" : "variantEnd", winner: game.mate }
  }
  const chance = (more >>> 8) % 100
  if (chance < 56) return { status: "resign", winner }
  if (chance < 86) return { status: "outoftime", winner }
  if (chance < 90) return { status: "timeout", winner }
  return { status: "draw", winner: undefined }
}

interface Kind {
  readonly variant: string
  readonly speed: string
  readonly perf: string
  readonly source: string
  readonly clocked: boolean
  readonly days: number | undefined
}

const kindOf = ({ bits, control, oddity }: Detail): Kind => {
  const slow = oddity === "correspondence" || oddity === "unlimited"
  const speed = slow ? "correspondence" : speedOf(control)
  const variant = oddity === undefined ? "standard" : (variants[oddity] ?? "standard")
  return {
    variant,
    speed,
    perf: variant === "standard" || variant === "fromPosition" ? speed : variant,
    source: oddity === undefined ? ((bits & 48) === 0 ? "lobby" : "pool") : (sources[oddity] ?? "friend"),
    clocked: !slow && oddity !== "imported",
    days: oddity === "correspondence" ? 1 + ((bits >>> 9) % 5) : undefined
  }
}

const variants: { readonly [K in Oddity]?: string } = {
  "from-position": "fromPosition",
  chess960: "chess960",
  "three-check": "threeCheck",
  "king-of-the-hill": "kingOfTheHill",
  crazyhouse: "crazyhouse"
}

const sources: { readonly [K in Oddity]?: string } = {
  engine: "ai",
  anonymous: "lobby",
  imported: "import",
  arena: "arena",
  "no-start": "arena",
  correspondence: "lobby",
  "drawn-on-time": "pool"
}

const unrated: ReadonlySet<Oddity | undefined> = new Set<Oddity>([
  "engine",
  "anonymous",
  "imported",
  "from-position",
  "no-start",
  "unlimited"
])

const isRated = ({ bits, oddity }: Detail): boolean => !unrated.has(oddity) && (bits >>> 10) % 12 !== 0

const speedOf = (control: Clocks.Control): string => {
  const seconds = Clocks.expected(control)
  if (seconds < 30) return "ultraBullet"
  if (seconds < 180) return "bullet"
  if (seconds < 480) return "blitz"
  if (seconds < 1500) return "rapid"
  return "classical"
}

const sideOf = (player: Account | Opponent): string => {
  const title = player.title === undefined ? "" : `,"title":"${player.title}"`
  const flair = "flair" in player && player.flair !== undefined ? `,"flair":"${player.flair}"` : ""
  const patron = "patron" in player && player.patron ? ',"patron":true,"patronColor":10' : ""
  return `{"user":{"name":"${player.name}"${title}${flair}${patron},"id":"${player.id}"}`
}

interface Ratings {
  readonly own: number
  readonly other: number
  readonly ownDiff: number
  readonly otherDiff: number
}

const ratingsOf = (account: Account, { bits, colour, ending, index, more }: Detail): Ratings => {
  const own = account.rating + Math.round(120 * Math.sin(index / 400)) + (bits % 41)
  const other = own + ((more >>> 4) % 241) - 120
  const size = 1 + ((more >>> 12) % 11)
  const won = ending.winner === undefined ? 0 : ending.winner === colour ? 1 : -1
  return { own, other, ownDiff: won * size, otherDiff: -won * (size + (more & 1)) }
}

const playersOf = (account: Account, found: Detail, own: string): string => {
  const { oddity, opposite } = found
  if (oddity === "imported") return importedPlayers
  const ratings = ratingsOf(account, found)
  const counted = isRated(found) && oddity !== "aborted"
  const mine = `${own},"rating":${ratings.own}${counted ? `,"ratingDiff":${ratings.ownDiff}` : ""}}`
  const theirs =
    oddity === "engine"
      ? `{"aiLevel":${1 + (found.more % 8)}}`
      : oddity === "anonymous"
        ? "{}"
        : `${opposite},"rating":${ratings.other}${counted ? `,"ratingDiff":${ratings.otherDiff}` : ""}${found.more % 31 === 0 ? ',"provisional":true' : ""}}`
  return found.colour === "white"
    ? `"players":{"white":${mine},"black":${theirs}}`
    : `"players":{"white":${theirs},"black":${mine}}`
}

const importedPlayers = '"players":{"white":{"name":"Varnell, Ostin (2785)"},"black":{"name":"Quimby, Trell (2660)"}}'

const terminations: Readonly<Record<string, string>> = {
  outoftime: "Time forfeit",
  timeout: "Abandoned",
  aborted: "Abandoned",
  noStart: "Abandoned"
}

const variantNames: Readonly<Record<string, string>> = {
  standard: "Standard",
  chess960: "Chess960",
  fromPosition: "From Position",
  threeCheck: "Three-check",
  kingOfTheHill: "King of the Hill",
  crazyhouse: "Crazyhouse"
}

// The PGN inside JSON is written in its escaped form at once: `newline` and `quote` are what stands for them.
const pgnWriter = (account: Account, fields: Fields, newline: string, quote: string) => {
  const end = `${quote}]${newline}`
  const tag = (name: string): string => `[${name} ${quote}`
  const event = tag("Event")
  const site = `${end}${tag("Site")}https://lichess.org/`
  const date = `${end}${tag("Date")}`
  const white = `${end}${tag("Round")}-${end}${tag("White")}`
  const black = `${end}${tag("Black")}`
  const resultTag = `${end}${tag("Result")}`
  const gameId = `${end}${tag("GameId")}`
  const utcDate = `${end}${tag("UTCDate")}`
  const utcTime = `${end}${tag("UTCTime")}`
  const whiteElo = `${end}${tag("WhiteElo")}`
  const blackElo = `${end}${tag("BlackElo")}`
  const whiteDiff = `${end}${tag("WhiteRatingDiff")}`
  const blackDiff = `${end}${tag("BlackRatingDiff")}`
  const whiteTitle = `${end}${tag("WhiteTitle")}`
  const blackTitle = `${end}${tag("BlackTitle")}`
  const variant = `${end}${tag("Variant")}`
  const control = `${end}${tag("TimeControl")}`
  const eco = `${end}${tag("ECO")}`
  const opening = `${end}${tag("Opening")}`
  const termination = `${end}${tag("Termination")}`
  const fen = `${end}${tag("FEN")}`
  const setUp = `${end}${tag("SetUp")}1`
  const afterTags = `${end}${newline}`
  const afterGame = `${newline}${newline}${newline}`

  return (parts: Array<Part>, found: Detail, id: string): void => {
    const { game, moves, oddity } = found
    const kind = kindOf(found)
    const result =
      found.ending.winner === "white"
        ? "1-0"
        : found.ending.winner === "black"
          ? "0-1"
          : found.ending.status === "aborted"
            ? "*"
            : "1/2-1/2"
    let text = ""
    if (fields.tags) {
      const day = Calendar.dateTag(found.createdAt)
      const ratings = ratingsOf(account, found)
      const named = oddity === undefined || !nameless.has(oddity)
      const { opponent } = found
      const other = named
        ? opponent.name
        : oddity === "engine"
          ? `lichess AI level ${1 + (found.more % 8)}`
          : "Anonymous"
      const otherElo = named ? ratings.other : "?"
      const rated = isRated(found)
      const mineFirst = found.colour === "white"
      const first = oddity === "imported" ? "Varnell, Ostin (2785)" : mineFirst ? account.name : other
      const second = oddity === "imported" ? "Quimby, Trell (2660)" : mineFirst ? other : account.name
      text = `${event}${rated ? "rated" : "casual"} ${kind.perf} game${site}${id}${date}${day}${white}${first}${black}${second}${resultTag}${result}${gameId}${id}${utcDate}${day}${utcTime}${Calendar.timeTag(found.createdAt)}`
      text +=
        oddity === "imported"
          ? `${whiteElo}?${blackElo}?`
          : mineFirst
            ? `${whiteElo}${ratings.own}${blackElo}${otherElo}`
            : `${whiteElo}${otherElo}${blackElo}${ratings.own}`
      if (rated && oddity !== "aborted") {
        const [left, right] = mineFirst ? [ratings.ownDiff, ratings.otherDiff] : [ratings.otherDiff, ratings.ownDiff]
        text += `${whiteDiff}${left >= 0 ? "+" : ""}${left}${blackDiff}${right >= 0 ? "+" : ""}${right}`
      }
      if (account.title !== undefined && oddity !== "imported") {
        text += `${mineFirst ? whiteTitle : blackTitle}${account.title}`
      }
      if (opponent.title !== undefined && named) text += `${mineFirst ? blackTitle : whiteTitle}${opponent.title}`
      text += `${variant}${variantNames[kind.variant]}${control}${kind.clocked ? `${found.control.base}+${found.control.increment}` : "-"}${eco}${game.initialFen === undefined ? game.opening.eco : "?"}`
      if (fields.opening) text += `${opening}${game.initialFen === undefined ? game.opening.name : "?"}`
      text += `${termination}${terminations[found.ending.status] ?? "Normal"}`
      if (game.initialFen !== undefined) text += `${fen}${game.initialFen}${setUp}`
      text += afterTags
    }
    if (oddity === "aborted") text += `1. ${game.moves[0] ?? ""} `
    parts.push(text)
    if (oddity !== "aborted" && oddity !== "no-start" && oddity !== "no-moves") {
      parts.push(fields.clocks && kind.clocked ? moves.pgnWithClocks : moves.pgn)
    }
    parts.push(`${result}${afterGame}`)
  }
}

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
const pairs = Array.from({ length: 62 * 62 }, (_, value) => digits[Math.floor(value / 62)]! + digits[value % 62]!)
const half = 62 ** 4
// Odd and not a multiple of 31, so that stepping by it visits every number below 62^4 once.
const stride = 9_132_283

// The right half steps through all its values, the left half shifts with it: no two games of a player share an id.
const idOf = (account: Account, index: number): string => {
  const right = ((account.hash % half) + index * stride) % half
  const left = (Hash.mix(account.hash ^ 0x6c656674) + Hash.mix(right)) % half
  return pairs[Math.floor(left / 3844)]! + pairs[left % 3844]! + pairs[Math.floor(right / 3844)]! + pairs[right % 3844]!
}
