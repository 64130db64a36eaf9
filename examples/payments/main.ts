/**
 * Serves payments: `npm run payments`. `PORT` (3000), `DATABASE_FILE` (data/payments.db), and the settings of `RateLimit`.
 */
import { createServer } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Config, Effect, Layer, Logger } from "effect"
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

export const main = Layer.effectDiscard(listening).pipe(
  Layer.provideMerge(HttpRouter.serve(Service.layer, { disableLogger: true, disableListenLog: true })),
  Layer.provide(IdempotencySql.layer()),
  Layer.provide(Layer.effectDiscard(Service.createTable)),
  Layer.provide(Layer.mergeAll(Database, Server, Logger.layer([Logger.consoleJson])))
)

NodeRuntime.runMain(Layer.launch(main))
