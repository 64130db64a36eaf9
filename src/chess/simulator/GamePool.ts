/**
 * A small pool of legal games, played at random from a seed.
 *
 * The games of all players take their moves from it: a pool game costs some milliseconds to play and is then reused with
 * other players, dates, clocks and endings. Each is played when it is first asked for.
 */
import { Chess } from "chess.js"
import * as Hash from "./Hash.ts"

/** The moves of one game, in the forms the two sites write. */
export interface PooledGame {
  /** Where it stands in the pool; no two pool games share a number. */
  readonly number: number
  readonly moves: ReadonlyArray<string>
  /** The moves in the two-characters-a-move notation of Chess.com. */
  readonly tcn: string
  readonly opening: Opening
  /** The position it began from, if that is not the usual one. */
  readonly initialFen: string | undefined
  readonly finalFen: string
  /** The side that mated the other. */
  readonly mate: Colour | undefined
}

/** A side. */
export type Colour = "white" | "black"

/** An opening by its ECO code and name; `plies` of the game belong to it. */
export interface Opening {
  readonly eco: string
  readonly name: string
  readonly plies: number
  readonly slug: string
}

/** The pool. */
export interface GamePool {
  /** An ordinary game; any number will do, it is reduced to the size of the pool. */
  readonly ordinary: (number: number) => PooledGame
  /** A game of Chess960, from one of a few starting positions. */
  readonly chess960: (number: number) => PooledGame
  /** A game from a set-up position. */
  readonly fromPosition: (number: number) => PooledGame
  /** An ordinary game that ends at the third check of a side, if there is one. */
  readonly threeCheck: (number: number) => PooledGame
}

/** The position every ordinary game begins from. */
export const usualFen = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"

/** How many ordinary games there are. */
export const size = 48

/** Creates the pool; nothing is played yet. */
export const make = (seed: number): GamePool => {
  const played = new Map<number, PooledGame>()
  const get = (number: number, play: () => PooledGame): PooledGame => {
    const known = played.get(number)
    if (known !== undefined) return known
    const game = play()
    played.set(number, game)
    return game
  }
  const ordinary = (number: number): PooledGame => {
    const reduced = number % size
    return get(reduced, () => play(reduced, Hash.combine(seed, reduced), lineOf(reduced), undefined))
  }
  return {
    ordinary,
    chess960: (number) => {
      const reduced = number % chess960Fens.length
      const fen = chess960Fens[reduced]!
      return get(1000 + reduced, () => ({
        ...play(1000 + reduced, Hash.combine(seed, 1000 + reduced), noLine, `${fen} w - - 0 1`),
        initialFen: `${fen} w KQkq - 0 1`
      }))
    },
    fromPosition: (number) => {
      const reduced = number % setUpFens.length
      return get(2000 + reduced, () =>
        play(2000 + reduced, Hash.combine(seed, 2000 + reduced), noLine, setUpFens[reduced]!)
      )
    },
    threeCheck: (number) => {
      const reduced = number % size
      return get(3000 + reduced, () => untilThirdCheck(ordinary(reduced), 3000 + reduced))
    }
  }
}

interface Line {
  readonly eco: string
  readonly name: string
  readonly moves: string
}

const noLine: Line = { eco: "A00", name: "Custom Position", moves: "" }

// Names with letters outside ASCII are among them on purpose.
const lines: ReadonlyArray<Line> = [
  { eco: "B20", name: "Sicilian Defense", moves: "e4 c5" },
  { eco: "B90", name: "Sicilian Defense: Najdorf Variation", moves: "e4 c5 Nf3 d6 d4 cxd4 Nxd4 Nf6 Nc3 a6" },
  { eco: "B02", name: "Alekhine Defense: Sämisch Attack", moves: "e4 Nf6 e5 Nd5 Nc3 Nxc3" },
  { eco: "C50", name: "Italian Game: Giuoco Pianissimo", moves: "e4 e5 Nf3 Nc6 Bc4 Bc5 d3" },
  { eco: "D80", name: "Grünfeld Defense", moves: "d4 Nf6 c4 g6 Nc3 d5" },
  { eco: "C60", name: "Ruy Lopez", moves: "e4 e5 Nf3 Nc6 Bb5" },
  { eco: "B12", name: "Caro-Kann Defense: Advance Variation", moves: "e4 c6 d4 d5 e5" },
  { eco: "E24", name: "Nimzo-Indian Defense: Sämisch Variation", moves: "d4 Nf6 c4 e6 Nc3 Bb4 a3 Bxc3+ bxc3" },
  { eco: "C00", name: "French Defense", moves: "e4 e6 d4 d5" },
  { eco: "A45", name: "Trompowsky Attack", moves: "d4 Nf6 Bg5" },
  { eco: "C20", name: "King's Pawn Game: Wayward Queen Attack", moves: "e4 e5 Qh5" },
  { eco: "D02", name: "Queen's Pawn Game: London System", moves: "d4 d5 Nf3 Nf6 Bf4" },
  { eco: "C47", name: "Four Knights Game: Scotch Variation", moves: "e4 e5 Nf3 Nc6 Nc3 Nf6 d4 exd4 Nxd4" },
  { eco: "A04", name: "Zukertort Opening: Sicilian Invitation", moves: "Nf3 c5" },
  { eco: "B01", name: "Scandinavian Defense: Mieses-Kotroč Variation", moves: "e4 d5 exd5 Qxd5" },
  { eco: "A00", name: "Van't Kruijs Opening", moves: "e3" }
]

const lineOf = (number: number): Line => lines[number % lines.length]!

const chess960Fens = [
  "bqnrkbnr/pppppppp/8/8/8/8/PPPPPPPP/BQNRKBNR",
  "nrbkqbrn/pppppppp/8/8/8/8/PPPPPPPP/NRBKQBRN",
  "rbknnqbr/pppppppp/8/8/8/8/PPPPPPPP/RBKNNQBR"
]

const setUpFens = [
  "rnbqkb1r/pp2pppp/3p1n2/8/3NP3/8/PPP2PPP/RNBQKB1R w KQkq - 1 5",
  "r1bqkbnr/pppp1ppp/2n5/4p3/2B1P3/5N2/PPPP1PPP/RNBQK2R b KQkq - 3 3"
]

// The lengths follow what was seen: a tenth of the games up to 36 plies, half up to 60, nine tenths up to 108.
const lengths = [4, 21, 28, 36, 40, 44, 47, 51, 55, 58, 60, 63, 67, 72, 78, 84, 91, 99, 108, 121, 152]

const play = (number: number, seed: number, line: Line, fen: string | undefined): PooledGame => {
  const random = Hash.sequence(seed)
  const chess = fen === undefined ? new Chess() : new Chess(fen)
  const prepared = line.moves === "" ? [] : line.moves.split(" ")
  const length = Math.max(prepared.length, lengths[number % lengths.length]!)
  const moves: Array<string> = []
  let tcn = ""
  while (moves.length < length) {
    const possible = chess.moves()
    if (possible.length === 0) break
    const move = chess.move(prepared[moves.length] ?? choose(possible, random))
    moves.push(move.san)
    tcn += toTcn(move.from, move.to, move.promotion)
  }
  const mated = chess.isCheckmate()
  return {
    number,
    moves,
    tcn,
    opening: { eco: line.eco, name: line.name, plies: prepared.length, slug: slugOf(line.name) },
    initialFen: fen,
    finalFen: chess.fen(),
    mate: mated ? (chess.turn() === "w" ? "black" : "white") : undefined
  }
}

// Mates when it can, else prefers to take and to give check, so that games look played and come to an end.
const choose = (possible: ReadonlyArray<string>, random: () => number): string => {
  const mate = possible.find((move) => move.endsWith("#"))
  if (mate !== undefined) return mate
  const sharp = random() < 0.4 ? possible.filter((move) => move.includes("x") || move.endsWith("+")) : []
  const choice = sharp.length === 0 ? possible : sharp
  return choice[Math.floor(random() * choice.length)]!
}

const untilThirdCheck = (game: PooledGame, number: number): PooledGame => {
  const checks: Record<Colour, number> = { white: 0, black: 0 }
  const end = game.moves.findIndex((move, ply) => {
    const colour = ply % 2 === 0 ? "white" : "black"
    return (move.endsWith("+") || move.endsWith("#")) && ++checks[colour] === 3
  })
  if (end === -1) return { ...game, number }
  const chess = new Chess()
  for (const move of game.moves.slice(0, end + 1)) chess.move(move)
  return {
    ...game,
    number,
    moves: game.moves.slice(0, end + 1),
    tcn: game.tcn.slice(0, 2 * (end + 1)),
    finalFen: chess.fen(),
    mate: end % 2 === 0 ? "white" : "black"
  }
}

const squares = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?"
const promotions = "{~}(^)[_]@#$"
const promotable = "qnrb"

const toTcn = (from: string, to: string, promotion: string | undefined): string => {
  const square = (name: string): number => name.charCodeAt(0) - 97 + 8 * (name.charCodeAt(1) - 49)
  const start = squares[square(from)]!
  if (promotion === undefined) return start + squares[square(to)]!
  const sideways = to.charCodeAt(0) - from.charCodeAt(0) + 1
  return start + promotions[3 * promotable.indexOf(promotion) + sideways]!
}

const slugOf = (name: string): string =>
  name
    .normalize("NFD")
    .replaceAll(/[^A-Za-z0-9 -]/g, "")
    .replaceAll(" ", "-")
