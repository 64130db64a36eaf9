/**
 * Stands in for lichess.org and Chess.com: both APIs, any number of invented players, and faults on demand.
 *
 * Everything follows from the seed: game number `n` of a player is always the same, nothing is remembered per game.
 * Use `httpClient` in tests on virtual time, `listen` for real sockets. See `World` for which names exist, `LichessSite`
 * and `ChessComSite` for the rules kept, `Faults` for what can go wrong.
 */
import { Clock, Effect, type Scope } from "effect"
import type { HttpClient } from "effect/http"
import type { Platform } from "../domain/Platform.ts"
import * as ChessComGames from "./ChessComGames.ts"
import * as ChessComSite from "./ChessComSite.ts"
import * as Faults from "./Faults.ts"
import * as Hash from "./Hash.ts"
import * as InProcess from "./InProcess.ts"
import * as LichessGames from "./LichessGames.ts"
import * as LichessSite from "./LichessSite.ts"
import type { Requests, Site } from "./Site.ts"
import * as Sockets from "./Sockets.ts"
import * as World from "./World.ts"

/** Both stand-ins and their world. */
export interface Simulator {
  readonly lichess: Site<LichessSite.Endpoint>
  readonly chessCom: Site<ChessComSite.Endpoint>
  /** Answers requests to either site in this process, on the clock of the fiber that asks. */
  readonly httpClient: HttpClient.HttpClient
  /** What has been asked of both sites. */
  readonly requests: Effect.Effect<{
    readonly lichess: Requests<LichessSite.Endpoint>
    readonly chessCom: Requests<ChessComSite.Endpoint>
  }>
  /** The sites' time now, in epoch milliseconds: the clock's, but never before `historyEnds`. */
  readonly now: Effect.Effect<number>
  /** All games a site would give out for a user now, oldest first; none for a user without an account. */
  readonly games: (user: string, platform: Platform) => Effect.Effect<ReadonlyArray<SimulatedGame>>
  /** The JSON of a game as the site would send it; Lichess with PGN, clocks and opening. `undefined` if there is no such user. */
  readonly gameJson: (user: string, platform: Platform, index: number) => string | undefined
  /** Lists a player or changes one: opens, closes, or gives games. */
  readonly put: (user: World.User) => Effect.Effect<void>
}

/** A game, by its number among the player's games. */
export interface SimulatedGame {
  readonly index: number
  /** As the store names it: Lichess's id; Chess.com's uuid, else `live:<n>` or `daily:<n>`. */
  readonly id: string
  /** Created (Lichess) or started (Chess.com), in epoch milliseconds. */
  readonly playedAt: number
  readonly endedAt: number
}

/** The world and the rules of both sites. */
export interface Options {
  /** What everything is generated from. Defaults to 1. */
  readonly seed?: number | undefined
  /** Players with stated accounts. Defaults to none. */
  readonly users?: ReadonlyArray<World.User> | undefined
  /** Whether names that are not listed exist as their letters say (see `World`) or not at all. Defaults to `generated`. */
  readonly unlisted?: "generated" | "unknown" | undefined
  /** The share of unusual games, 0 to 1. Defaults to 0.05. */
  readonly oddities?: number | undefined
  readonly lichess?: LichessSite.Options | undefined
  readonly chessCom?: ChessComSite.Options | undefined
}

/** The fields of an export with everything an import asks for. */
const importFields: LichessGames.Fields = {
  moves: true,
  tags: true,
  clocks: true,
  opening: true,
  pgnInJson: true,
  lastFen: false,
  division: false
}

/** Creates the stand-ins. Nothing runs until a request comes. */
export const make = (options: Options = {}): Effect.Effect<Simulator> =>
  Effect.map(Clock.Clock, (clock) => {
    const seed = options.seed ?? 1
    const offset = Math.max(0, World.historyEnds - clock.currentTimeMillisUnsafe())
    const world = World.make({
      seed,
      users: options.users ?? [],
      unlisted: options.unlisted ?? "generated",
      oddities: options.oddities ?? 0.05,
      startedAt: clock.currentTimeMillisUnsafe() + offset
    })
    const lichessGames = LichessGames.make(world)
    const chessComGames = ChessComGames.make(world)
    const lichess = LichessSite.make(
      world,
      lichessGames,
      Faults.make<LichessSite.Endpoint>(Hash.combine(seed, 3), { bodies: ["games"], games: ["games"] }),
      offset,
      options.lichess ?? {}
    )
    const chessCom = ChessComSite.make(
      world,
      chessComGames,
      Faults.make<ChessComSite.Endpoint>(Hash.combine(seed, 4), {
        bodies: ["player", "archives", "month"],
        games: ["month"]
      }),
      offset,
      options.chessCom ?? {}
    )
    const now = Effect.map(Clock.currentTimeMillis, (millis) => millis + offset)

    return {
      lichess,
      chessCom,
      now,
      httpClient: InProcess.make({ lichess: lichess.handle, chessCom: chessCom.handle }),
      requests: Effect.all({ lichess: lichess.requests, chessCom: chessCom.requests }),
      put: (user) => Effect.sync(() => world.put(user)),
      gameJson: (user, platform, index) => {
        const account = world.account(platform, user)?.games()
        if (account === undefined) return undefined
        return platform === "lichess"
          ? lichessGames.json(account, importFields).text(index)
          : chessComGames.json(account, index)
      },
      games: (user, platform) =>
        Effect.map(now, (nowMillis) => {
          const account = world.account(platform, user)?.games()
          if (account === undefined) return []
          const games: Array<SimulatedGame> = []
          const count = account.timeline.count(nowMillis)
          for (let index = 0; index < count; index++) {
            if (platform === "lichess") {
              const { createdAt, id, lastMoveAt } = lichessGames.facts(account, index)
              if (lastMoveAt <= nowMillis) games.push({ index, id, playedAt: createdAt, endedAt: lastMoveAt })
            } else {
              const { endedAt, id, startedAt } = chessComGames.facts(account, index)
              games.push({ index, id, playedAt: startedAt, endedAt })
            }
          }
          return games
        })
    }
  })

/** Where to listen. */
export interface ListenOptions {
  /** Defaults to 0: any free port. */
  readonly lichessPort?: number | undefined
  /** Defaults to 0: any free port. */
  readonly chessComPort?: number | undefined
  /** Defaults to 127.0.0.1. */
  readonly host?: string | undefined
}

/** Opens both stand-ins on sockets until the scope closes, and gives the base URLs to configure. */
export const listen = (
  simulator: Simulator,
  options: ListenOptions = {}
): Effect.Effect<
  { readonly lichessBaseUrl: string; readonly chessComBaseUrl: string },
  Sockets.ListenFailed,
  Scope.Scope
> => {
  const host = options.host ?? "127.0.0.1"
  return Effect.map(
    Effect.all([
      Sockets.listen(simulator.lichess, { port: options.lichessPort ?? 0, host }),
      Sockets.listen(simulator.chessCom, { port: options.chessComPort ?? 0, host })
    ]),
    ([lichess, chessCom]) => ({ lichessBaseUrl: lichess, chessComBaseUrl: `${chessCom}/pub` })
  )
}

export { ListenFailed } from "./Sockets.ts"
export { historyEnds, type AccountOptions, type AccountState, type User } from "./World.ts"
