/**
 * The service's import, whole, on the stand-ins of both sites and a database in memory.
 *
 * Everything is the real thing on the clock of the test; only sockets and disk are missing. The durable engine looks after
 * itself every few seconds, which makes days of virtual time slow: tests that need days take the engine in memory.
 */
import { createHash } from "node:crypto"
import { Context, type Duration, Effect, Layer, Option, Schedule } from "effect"
import { WebCrypto } from "effect/crypto"
import { HttpClient, HttpClientRequest } from "effect/http"
import type { SqlClient, SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import { WorkflowEngine } from "effect/workflow"
import * as ChessCom from "../../src/chess/ChessCom.ts"
import { isFinal } from "../../src/chess/domain/ImportJob.ts"
import type { Platform } from "../../src/chess/domain/Platform.ts"
import * as GameImport from "../../src/chess/GameImport.ts"
import * as GameStore from "../../src/chess/GameStore.ts"
import * as ImportStore from "../../src/chess/ImportStore.ts"
import * as Lichess from "../../src/chess/Lichess.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as SqliteClient from "../../src/chess/SqliteClient.ts"

/** The stand-ins that the clients of a world talk to. */
export class Sites extends Context.Service<Sites, Simulator.Simulator>()("test/Sites") {}

/** Both stand-ins, their history ending now. */
export const layerSites = (options: Simulator.Options = {}): Layer.Layer<Sites> =>
  Layer.effect(
    Sites,
    Effect.andThen(TestClock.setTime(Simulator.historyEnds), Simulator.make({ unlisted: "unknown", ...options }))
  )

/** Clients, stores, the durable engine and import, on a database that is given. */
export const layerService = (
  options: GameImport.Options = {},
  engine: typeof GameImport.layerEngine = GameImport.layerEngine
): Layer.Layer<
  GameImport.GameImport | GameStore.GameStore | ImportStore.ImportStore | Lichess.Lichess | ChessCom.ChessCom,
  unknown,
  Sites | SqlClient.SqlClient
> =>
  GameImport.layer(options).pipe(
    Layer.provide(engine),
    Layer.provideMerge(Layer.mergeAll(GameStore.layer, ImportStore.layer, WebCrypto.layer(promptCrypto))),
    Layer.provideMerge(Layer.mergeAll(Lichess.layer(), ChessCom.layer())),
    Layer.provide(Layer.effect(HttpClient.HttpClient, Effect.map(Sites, uncompressed)))
  )

// The engine hashes with WebCrypto, on a thread, for an unknown part of the real time. This is the part of it that is used.
const promptCrypto = {
  getRandomValues: (array: Uint8Array<ArrayBuffer>) => crypto.getRandomValues(array),
  randomUUID: () => crypto.randomUUID(),
  subtle: { digest: (_: "SHA-256", data: Uint8Array) => Promise.resolve(createHash("sha256").update(data).digest()) }
} as unknown as typeof crypto

// Large bodies are decompressed on a thread, which takes real time and none of the test's.
const uncompressed = (sites: Simulator.Simulator) =>
  HttpClient.make((request) =>
    sites.httpClient.execute(HttpClientRequest.setHeader(request, "accept-encoding", "identity"))
  )

/** All of it with the engine in memory, on a new database in memory. */
export const layerWorld = (simulator: Simulator.Options = {}, options: GameImport.Options = {}) =>
  layerService(options, WorkflowEngine.layerMemory).pipe(
    Layer.provideMerge(SqliteClient.layerMemory),
    Layer.provideMerge(layerSites(simulator)),
    Layer.orDie
  )

/** Lets the time pass, for what has been started a moment ago too. */
export const advance = (duration: Duration.Input) => Effect.andThen(settled, TestClock.adjust(duration))

// The clock waits for what it wakes, but not for what has just been started: that takes some turns of the event loop.
const settled = Effect.replicateEffect(
  Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void))),
  20,
  { discard: true }
)

/** Lets the time pass until the user's import has ended, at most two days. */
export const untilEnded = Effect.fnUntraced(function* (user: string, platform: Platform) {
  const imports = yield* GameImport.GameImport
  return yield* advance("1 second").pipe(
    Effect.andThen(imports.progress(user, platform)),
    Effect.map(Option.getOrThrow),
    Effect.repeat({ until: (progress) => isFinal(progress.status), schedule: Schedule.recurs(172_800) })
  )
})

/** Starts an import and lets the time pass until it has ended. */
export const importGames = Effect.fnUntraced(function* (
  user: string,
  platform: Platform,
  options: { readonly limit?: number; readonly owner?: string; readonly premium?: boolean } = {}
) {
  const imports = yield* GameImport.GameImport
  yield* imports.start({ user, platform, limit: 100_000, owner: "someone", premium: false, ...options })
  return yield* untilEnded(user, platform)
})

/** The ids of a user's stored games, newest first. */
export const storedIds = Effect.fnUntraced(function* (
  user: string,
  platform: Platform
): Effect.fn.Return<ReadonlyArray<string>, GameStore.InvalidCursor | SqlError.SqlError, GameStore.GameStore> {
  const store = yield* GameStore.GameStore
  const ids: Array<string> = []
  let cursor: string | null = null
  do {
    const page: GameStore.Page = yield* store.page({
      user,
      platform,
      limit: 1000,
      ...(cursor === null ? {} : { cursor })
    })
    ids.push(...page.games.map((game) => game.id))
    cursor = page.nextCursor
  } while (cursor !== null)
  return ids
})
