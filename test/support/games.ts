/**
 * Makes games of invented players for tests.
 */
import type { Game, Player } from "../../src/chess/domain/Game.ts"

const player = (id: string | null, rating: number | null = 1500): Player => ({
  id,
  name: id,
  title: null,
  rating,
  ratingDiff: null,
  aiLevel: null
})

/** The n-th game of a series: a later n is a later game, one minute apart. */
export const makeGame = (n: number, changes: Partial<Game> = {}): Game => {
  const id = `game${String(n).padStart(4, "0")}`
  return {
    platform: "lichess",
    id,
    url: `https://lichess.example/${id}`,
    rated: true,
    variant: "standard",
    speed: "blitz",
    baseSeconds: 180,
    incrementSeconds: 2,
    daysPerTurn: null,
    playedAt: 1_700_000_000_000 + n * 60_000,
    endedAt: 1_700_000_000_000 + n * 60_000 + 30_000,
    white: player("rook-lifter"),
    black: player("pawn-storm"),
    result: "1-0",
    termination: "mate",
    eco: "C50",
    opening: "Italian Game",
    plies: 41,
    initialFen: null,
    pgn: `[Event "Game ${n}"]\n\n1. e4 e5 1-0\n`,
    ...changes
  }
}

/** Games `from` to `to`, both included, the newest first. */
export const makeGames = (from: number, to: number): ReadonlyArray<Game> =>
  Array.from({ length: to - from + 1 }, (_, index) => makeGame(to - index))
