/**
 * Writes a player's games as Chess.com does in its monthly archives, with the keys in its order.
 *
 * A game is a function of the account and its number. Its place in the timeline is when it ended: that decides the month.
 */
import * as Calendar from "./Calendar.ts"
import * as Clocks from "./Clocks.ts"
import * as GamePool from "./GamePool.ts"
import * as Hash from "./Hash.ts"
import * as Names from "./Names.ts"
import { type Account, uuidOf, type World } from "./World.ts"

/** What is known of a game before it is written. */
export interface Facts {
  readonly index: number
  /** The uuid, or `live:<n>` or `daily:<n>` for a game that has none. */
  readonly id: string
  readonly startedAt: number
  readonly endedAt: number
}

/** Writes games. */
export interface ChessComGames {
  readonly facts: (account: Account, index: number) => Facts
  readonly json: (account: Account, index: number) => string
  /** The PGN of a game; empty for games that have none. */
  readonly pgn: (account: Account, index: number) => string
}

const oddities = [
  "no-pgn",
  "no-uuid",
  "bughouse",
  "daily",
  "daily-no-uuid",
  "thematic",
  "chess960",
  "no-moves",
  "uuid-url",
  "no-eco",
  "no-setup",
  "tournament",
  "king-of-the-hill",
  "three-check",
  "abandoned"
] as const

type Oddity = (typeof oddities)[number]

/** Creates the writer of a world. */
export const make = (world: World): ChessComGames => {
  const movesOf = Clocks.renderOnce(renderMoves)

  const detail = (account: Account, index: number): Detail => {
    const bits = Hash.combine(account.hash, index)
    const more = Hash.mix(bits ^ 0x6d6f7265)
    const oddity =
      Hash.unit(Hash.mix(bits ^ 0x6f646473)) < account.oddities ? oddities[more % oddities.length] : undefined
    const game =
      oddity === "chess960"
        ? world.pool.chess960(bits >>> 5)
        : oddity === "thematic"
          ? world.pool.fromPosition(bits >>> 5)
          : oddity === "three-check"
            ? world.pool.threeCheck(bits >>> 5)
            : world.pool.ordinary(bits >>> 5)
    const control = Clocks.controlOf(bits >>> 7)
    const moves = movesOf(game, control)
    const daily = oddity === "daily" || oddity === "daily-no-uuid" || oddity === "thematic"
    const endedAt = account.timeline.at(index)
    const duration = daily ? (2 + (more % 20)) * Calendar.dayMillis : moves.used
    return {
      index,
      bits,
      more,
      oddity,
      game,
      control,
      moves,
      daily,
      white: (bits & 1) === 0,
      opponent: account.rival ?? world.opponents[(bits >>> 3) % world.opponents.length]!,
      ending: endingOf(game, oddity, more),
      endedAt: Math.floor(endedAt / 1000),
      startedAt: Math.floor((endedAt - duration) / 1000),
      // Live and daily games are counted apart, so their numbers can meet.
      number: firstNumber(account) + (daily && index > 0 ? index - 1 : index),
      uuid: Names.uuid(index * 0x61c88647, account.hash, Hash.mix(account.hash ^ 0x75756964))
    }
  }

  const pgnOf = (account: Account, found: Detail): string => {
    const { daily, ending, game, oddity, opponent, white } = found
    if (oddity === "no-pgn" || oddity === "bughouse" || oddity === "no-moves") return ""
    const { own, other } = ratingsOf(account, found)
    const [first, second] = white ? [account.name, opponent.name] : [opponent.name, account.name]
    const [firstElo, secondElo] = white ? [own, other] : [other, own]
    const start = found.startedAt * 1000
    const end = found.endedAt * 1000
    const custom = game.initialFen === undefined ? "" : setUpTags(oddity, game.initialFen)
    const eco =
      oddity === "no-eco" || game.initialFen !== undefined
        ? ""
        : `[ECO "${game.opening.eco}"]\n[ECOUrl "${openingUrl(game.opening)}"]\n`
    const tournament = oddity === "tournament" ? `[Tournament "https://www.chess.com/tournament/live/${arena}"]\n` : ""
    const body = oddity === "abandoned" ? "" : `${daily ? found.moves.pgnDaily : found.moves.pgn} `
    const position = oddity === "abandoned" ? GamePool.usualFen : game.finalFen
    return `[Event "${daily ? "Let's Play!" : "Live Chess"}"]\n[Site "Chess.com"]\n[Date "${Calendar.dateTag(start)}"]\n[Round "-"]\n[White "${first}"]\n[Black "${second}"]\n[Result "${ending.result}"]\n${tournament}${custom}[CurrentPosition "${placement(position)}"]\n[Timezone "UTC"]\n${eco}[UTCDate "${Calendar.dateTag(start)}"]\n[UTCTime "${Calendar.timeTag(start)}"]\n[WhiteElo "${firstElo}"]\n[BlackElo "${secondElo}"]\n[TimeControl "${timeControl(found)}"]\n[Termination "${ending.winner === undefined ? "Game" : ending.winner === "white" ? first : second} ${ending.termination}"]\n[StartTime "${Calendar.timeTag(start)}"]\n[EndDate "${Calendar.dateTag(end)}"]\n[EndTime "${Calendar.timeTag(end)}"]\n[Link "${urlOf(found)}"]\n\n${body}${ending.result}\n`
  }

  const json = (account: Account, index: number): string => {
    const found = detail(account, index)
    const { bits, ending, game, more, oddity, opponent, white } = found
    const pgn = pgnOf(account, found)
    const { own, other } = ratingsOf(account, found)
    const bare = oddity === "no-moves" || oddity === "abandoned"
    const fen = bare ? GamePool.usualFen : pgn === "" ? game.finalFen : placement(game.finalFen)
    const [mine, theirs] = white ? [ending.white, ending.black] : [ending.black, ending.white]
    const ours = `{"rating":${own},"result":"${mine}","@id":"https://api.chess.com/pub/player/${account.id}","username":"${account.name}","uuid":"${uuidOf(account.hash)}"}`
    const others = `{"rating":${other},"result":"${theirs}","@id":"https://api.chess.com/pub/player/${opponent.id}","username":"${opponent.name}","uuid":"${opponent.uuid}"}`
    let text = `{"url":"${urlOf(found)}"`
    if (pgn !== "") text += `,"pgn":${JSON.stringify(pgn)}`
    text += `,"time_control":"${timeControl(found)}","end_time":${found.endedAt},"rated":${(bits >>> 10) % 14 !== 0 && oddity !== "no-pgn"}`
    if ((more & 3) === 0 && pgn !== "") {
      text += `,"accuracies":{"white":${accuracy(bits >>> 4)},"black":${accuracy(bits >>> 12)}}`
    }
    text += `,"tcn":"${bare ? "" : game.tcn}"`
    if (!anonymous(oddity)) text += `,"uuid":"${found.uuid}"`
    text += `,"initial_setup":"${oddity === "no-setup" ? "" : initialSetup(oddity, game)}","fen":"${fen}"`
    if (found.daily) text += `,"start_time":${found.startedAt}`
    text += `,"time_class":"${timeClass(found)}","rules":"${rulesOf(oddity)}","white":${white ? ours : others},"black":${white ? others : ours}`
    if (oddity !== "no-eco") {
      text += `,"eco":"${bare || game.initialFen !== undefined ? "https://www.chess.com/openings/Undefined" : openingUrl(game.opening)}"`
    }
    if (oddity === "tournament") text += `,"tournament":"https://api.chess.com/pub/tournament/${arena}"`
    return `${text}}`
  }

  return {
    json,
    pgn: (account, index) => pgnOf(account, detail(account, index)),
    facts: (account, index) => {
      const found = detail(account, index)
      return {
        index,
        id: anonymous(found.oddity) ? `${found.daily ? "daily" : "live"}:${found.number}` : found.uuid,
        startedAt: found.startedAt * 1000,
        endedAt: found.endedAt * 1000
      }
    }
  }
}

interface Detail {
  readonly index: number
  readonly bits: number
  readonly more: number
  readonly oddity: Oddity | undefined
  readonly game: GamePool.PooledGame
  readonly control: Clocks.Control
  readonly moves: Moves
  readonly daily: boolean
  readonly white: boolean
  readonly opponent: Names.Opponent
  readonly ending: Ending
  readonly endedAt: number
  readonly startedAt: number
  readonly number: number
  readonly uuid: string
}

interface Moves {
  readonly pgn: string
  readonly pgnDaily: string
  readonly used: number
}

const renderMoves = (game: GamePool.PooledGame, control: Clocks.Control): Moves => {
  const { left, used } = Clocks.play(game, control)
  const write = (clock: (ply: number) => string): string =>
    game.moves
      .map((move, ply) => `${Math.floor(ply / 2) + 1}${ply % 2 === 0 ? "." : "..."} ${move} {[%clk ${clock(ply)}]}`)
      .join(" ")
  return {
    pgn: write((ply) => Clocks.toTenths(left[ply]!)),
    // The clock of a daily game starts anew with each move.
    pgnDaily: write((ply) => Clocks.toSeconds(8_640_000 - ((left[ply]! * 7919) % 8_000_000))),
    used: used * 10
  }
}

interface Ending {
  readonly winner: GamePool.Colour | undefined
  readonly result: string
  readonly white: string
  readonly black: string
  readonly termination: string
}

const endingOf = (game: GamePool.PooledGame, oddity: Oddity | undefined, more: number): Ending => {
  const winner = (more & 1) === 0 ? "white" : "black"
  if (oddity === "bughouse") return decided(winner, "bughousepartnerlose", "won by partner")
  if (oddity === "abandoned" || oddity === "no-moves") return decided(winner, "abandoned", "won - game abandoned")
  if (game.mate !== undefined) {
    return game.moves.at(-1)?.endsWith("#") === true
      ? decided(game.mate, "checkmated", "won by checkmate")
      : decided(game.mate, "threecheck", "won by three check")
  }
  const chance = (more >>> 8) % 100
  if (chance < 40) return decided(winner, "resigned", "won by resignation")
  if (chance < 85) return decided(winner, "timeout", "won on time")
  if (chance < 90) return decided(winner, "abandoned", "won - game abandoned")
  return drawn[chance % drawn.length]!
}

const decided = (winner: GamePool.Colour, loss: string, termination: string): Ending => ({
  winner,
  result: winner === "white" ? "1-0" : "0-1",
  white: winner === "white" ? "win" : loss,
  black: winner === "white" ? loss : "win",
  termination
})

const drawn: ReadonlyArray<Ending> = (
  [
    ["agreed", "drawn by agreement"],
    ["repetition", "drawn by repetition"],
    ["insufficient", "drawn by insufficient material"],
    ["50move", "drawn by 50-move rule"],
    ["timevsinsufficient", "drawn by timeout vs insufficient material"]
  ] as const
).map(([code, termination]) => ({ winner: undefined, result: "1/2-1/2", white: code, black: code, termination }))

const ratingsOf = (
  account: Account,
  { bits, index, more }: Detail
): { readonly own: number; readonly other: number } => {
  const own = account.rating + Math.round(120 * Math.sin(index / 400)) + (bits % 41)
  return { own, other: Math.max(100, own + ((more >>> 4) % 241) - 120) }
}

const anonymous = (oddity: Oddity | undefined): boolean => oddity === "no-uuid" || oddity === "daily-no-uuid"

const rulesOf = (oddity: Oddity | undefined): string =>
  oddity === "bughouse"
    ? "bughouse"
    : oddity === "chess960"
      ? "chess960"
      : oddity === "king-of-the-hill"
        ? "kingofthehill"
        : oddity === "three-check"
          ? "threecheck"
          : "chess"

const timeControl = ({ bits, control, daily }: Detail): string =>
  daily
    ? `1/${86_400 * (1 + ((bits >>> 9) % 3))}`
    : control.increment === 0
      ? String(control.base)
      : `${control.base}+${control.increment}`

const timeClass = ({ control, daily }: Detail): string => {
  if (daily) return "daily"
  const seconds = Clocks.expected(control)
  return seconds < 180 ? "bullet" : seconds < 600 ? "blitz" : "rapid"
}

const urlOf = ({ daily, number, oddity, uuid }: Detail): string =>
  oddity === "uuid-url"
    ? `https://www.chess.com/game/${uuid}`
    : `https://www.chess.com/game/${daily ? "daily" : "live"}/${number}`

// Accounts take numbers from ranges of their own, wide enough for the most games an account can have.
const firstNumber = (account: Account): number => 100_000_000_000 + (account.hash % 400_000) * 2_000_000

const openingUrl = (opening: GamePool.Opening): string => `https://www.chess.com/openings/${opening.slug}`

const arena = "3-check-arena-4095869"

// Position, side to move and castling rights only, as in games that have a PGN.
const placement = (fen: string): string => `${fen.split(" ").slice(0, 3).join(" ")} -`

const accuracy = (bits: number): string => ((4000 + (bits % 5900)) / 100).toString()

// Chess.com writes castling rights of Chess960 as the files of the rooks.
const initialSetup = (oddity: Oddity | undefined, game: GamePool.PooledGame): string => {
  if (game.initialFen === undefined) return GamePool.usualFen
  return oddity === "chess960" ? withRookFiles(game.initialFen) : game.initialFen
}

const withRookFiles = (fen: string): string => {
  const pieces = fen.slice(fen.lastIndexOf("/") + 1, fen.indexOf(" "))
  const files = [pieces.lastIndexOf("R"), pieces.indexOf("R")].map((file) => String.fromCharCode(65 + file)).join("")
  return fen.replace("KQkq", files + files.toLowerCase())
}

const setUpTags = (oddity: Oddity | undefined, fen: string): string =>
  oddity === "chess960"
    ? `[Variant "Chess960"]\n[SetUp "1"]\n[FEN "${withRookFiles(fen)}"]\n`
    : `[SetUp "1"]\n[FEN "${fen}"]\n`
