/**
 * One finished game, in the same terms for both sites.
 *
 * Every field comes from the site's JSON; the PGN is kept verbatim, as it came. What a site does not say is `null`.
 */
import type { Platform } from "./Platform.ts"

/** How fast a game was. Chess.com's `daily` is `correspondence`. */
export type Speed = "ultrabullet" | "bullet" | "blitz" | "rapid" | "classical" | "correspondence"

/** The outcome, as PGN writes it. `*` is a game without one. */
export type Result = "1-0" | "0-1" | "1/2-1/2" | "*"

/** One side of a game. An anonymous player or an engine has no `id`. */
export interface Player {
  /** The lower-case user name. */
  readonly id: string | null
  /** The name to show. */
  readonly name: string | null
  readonly title: string | null
  readonly rating: number | null
  readonly ratingDiff: number | null
  /** The level of an engine opponent. */
  readonly aiLevel: number | null
}

/** A game of either site. */
export interface Game {
  readonly platform: Platform
  /** Lichess: the 8-character id, case-sensitive. Chess.com: the uuid, else `live:<n>` or `daily:<n>`. */
  readonly id: string
  readonly url: string
  readonly rated: boolean
  /** Normalised to Lichess's names (`standard`, `chess960`, `threeCheck` …); unknown ones stay as they came. */
  readonly variant: string
  readonly speed: Speed
  /** Seconds on the clock at the start, and added per move; both `null` in correspondence. */
  readonly baseSeconds: number | null
  readonly incrementSeconds: number | null
  readonly daysPerTurn: number | null
  /** When it was created (Lichess) or started (Chess.com), in epoch milliseconds. */
  readonly playedAt: number
  readonly endedAt: number | null
  readonly white: Player
  readonly black: Player
  readonly result: Result
  /** How it ended, in the site's own word (`mate`, `resign`, `timeout`, `checkmated`, `agreed` …). */
  readonly termination: string
  readonly eco: string | null
  readonly opening: string | null
  readonly plies: number | null
  readonly initialFen: string | null
  readonly pgn: string | null
}

/** A line or array element that is not a game this service can keep, with the reason. */
export interface OddGame {
  readonly reason: string
  /** The beginning of what came, at most 4,096 characters. */
  readonly raw: string
}

/** Several games of one body, decoded together; what could not be kept is counted, never an error. */
export interface GameBatch {
  readonly games: ReadonlyArray<Game>
  readonly odd: ReadonlyArray<OddGame>
}
