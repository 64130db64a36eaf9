/**
 * The chess service: which parts there are, and what each is told of the settings.
 */
import { Duration, Layer } from "effect"
import * as ApiKeys from "./ApiKeys.ts"
import * as ChessCom from "./ChessCom.ts"
import * as Drain from "./Drain.ts"
import * as GameImport from "./GameImport.ts"
import * as GameStore from "./GameStore.ts"
import { MaxEventStreams } from "./Handlers.ts"
import * as ImportStore from "./ImportStore.ts"
import * as Lichess from "./Lichess.ts"
import * as Log from "./Log.ts"
import * as Retention from "./Retention.ts"
import * as Server from "./Server.ts"
import * as Settings from "./Settings.ts"
import * as SqliteClient from "./SqliteClient.ts"
import * as UpstreamClient from "./UpstreamClient.ts"
import * as Users from "./Users.ts"

/** Both sites, behind their rate limits and circuits. */
export const upstreams = (settings: Settings.Settings) => {
  const shared = {
    contact: settings.upstreamContact,
    attemptTimeout: settings.attemptTimeout,
    downloadTimeout: settings.downloadTimeout,
    deadline: settings.callTimeout,
    retryDelays: settings.retryDelays,
    circuitFailures: settings.circuitFailures,
    circuitOpenFor: settings.circuitOpenFor,
    circuitSuccesses: settings.circuitSuccesses
  }
  return Layer.merge(
    Lichess.layer({
      ...shared,
      baseUrl: settings.lichessBaseUrl,
      rateCapacity: settings.lichessRateCapacity,
      ratePerSecond: settings.lichessRatePerSecond,
      maxConcurrent: settings.lichessParallelCalls,
      maxExports: settings.lichessExportStreams,
      batchWindow: settings.lichessBatchWindow,
      idleTimeout: settings.exportIdleTimeout
    }),
    ChessCom.layer({
      ...shared,
      baseUrl: settings.chessComBaseUrl,
      rateCapacity: settings.chessComRateCapacity,
      ratePerSecond: settings.chessComRatePerSecond,
      maxConcurrent: settings.chessComParallelCalls
    })
  )
}

/** The connections to both sites. */
export const pool = (settings: Settings.Settings) =>
  UpstreamClient.layerPool({
    maxConnections: settings.poolConnections,
    maxConnectionsPerHost: settings.poolConnectionsPerHost,
    dnsTimeToLive: settings.poolDnsTtl,
    connectTimeout: settings.poolConnectTimeout
  })

/** Whether users exist. */
export const users = (settings: Settings.Settings) =>
  Users.layer({
    timeToLive: settings.userCacheTtl,
    capacity: settings.userCacheSize,
    deadline: settings.validateDeadline,
    chessComParallelCalls: settings.chessComParallelCalls,
    // The other half of what the deadline leaves beside one attempt is for the waits inside the client.
    maxWait: Duration.times(Duration.subtract(settings.validateDeadline, settings.attemptTimeout), 0.5)
  })

/** Imports, durable on the database. */
export const imports = (settings: Settings.Settings) =>
  Retention.layer({ keepFor: settings.importHistoryFor }).pipe(
    Layer.provideMerge(
      GameImport.layer({
        maxConcurrent: settings.maxConcurrentImports,
        maxQueued: settings.maxQueuedImports,
        maxPerOwner: settings.maxImportsPerUser,
        recentFor: settings.importRecentFor
      })
    ),
    Layer.provide(GameImport.layerEngine)
  )

/** What is stored: games, imports and how far each has come. */
export const stores = (settings: Settings.Settings) =>
  Layer.mergeAll(GameStore.layer, ImportStore.layer).pipe(
    // Two services would both take up the imports that the other one runs. Other programs may write for a moment: waiting
    // for them stops everything, and whatever is refused meanwhile is tried again or answered with an error.
    Layer.provideMerge(SqliteClient.layer({ file: settings.databaseFile, exclusive: true, busyTimeout: "250 millis" }))
  )

/** Everything behind the HTTP API, with the `HttpClient` for the sites left open. */
export const parts = (settings: Settings.Settings) =>
  Layer.mergeAll(users(settings), imports(settings), ApiKeys.layer(settings.apiKeys), Drain.layer).pipe(
    Layer.provideMerge(Layer.merge(upstreams(settings), stores(settings)))
  )

/** The service on a socket, with connections of its own. */
export const layer = (settings: Settings.Settings) =>
  Server.layer({
    host: settings.host,
    port: settings.port,
    // The rest of the time is for the imports to stop.
    shutdownTimeout: Duration.times(settings.shutdownTimeout, 0.8),
    idleTimeout: Duration.sum(settings.validateDeadline, Duration.minutes(1))
  }).pipe(
    Layer.provide(parts(settings)),
    Layer.provide(pool(settings)),
    Layer.provide(Layer.succeed(MaxEventStreams, settings.maxEventStreams))
  )

/** How the log is written. */
export const log = (settings: Settings.Settings) => Log.layer({ format: settings.logFormat, level: settings.logLevel })
