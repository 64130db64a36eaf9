/**
 * Serves payments: `npm run payments`. `PORT` (3000), `DATABASE_FILE` (data/payments.db), and the settings of
 * `RateLimit`, `RequestTimeout` and `Shutdown`. SIGTERM and SIGINT let what is in flight end first.
 */
import { createServer } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cause, Config, Effect, Exit, Layer, Logger } from "effect"
import { Shutdown } from "effect-resilience/http"
import * as IdempotencySql from "effect-resilience/http/Idempotency/Sql"
import { HttpRouter, HttpServer } from "effect/http"
import * as SqliteClient from "../../src/chess/SqliteClient.ts"
import * as Service from "./Service.ts"

const Database = Layer.unwrap(
  Effect.map(Config.String("DATABASE_FILE").pipe(Config.withDefault("data/payments.db")), (file) =>
    SqliteClient.layer({ file })
  )
)

const Server = Layer.unwrap(
  Effect.map(Config.Int("PORT").pipe(Config.withDefault(3000)), (port) => NodeHttpServer.layer(createServer, { port }))
)

const listening = HttpServer.addressFormattedWith((url) =>
  Effect.annotateLogs(Effect.logInfo(`Listening on ${url}`), { event: "http.listening", url })
)

const service = Layer.effectDiscard(listening).pipe(
  Layer.provideMerge(HttpRouter.serve(Service.layer, { disableLogger: true, disableListenLog: true })),
  Layer.provide(IdempotencySql.layer()),
  Layer.provide(Layer.effectDiscard(Service.createTable)),
  Layer.provide(Layer.merge(Database, Server))
)

const main = Shutdown.Shutdown.use(({ run }) => run(service)).pipe(
  Effect.provide(Layer.merge(Shutdown.layerConfig, Logger.layer([Logger.consoleJson])))
)

// To be told to stop is no failure.
NodeRuntime.runMain(main, {
  teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause) ? 0 : 1)
})
