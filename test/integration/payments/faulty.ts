/**
 * The payment service, which kills itself at the step that `FAULT` names, when a key is "faulty" or any.
 */
import { createServer } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Effect, Layer, Logger } from "effect"
import { IdempotencyStore, Shutdown } from "effect-resilience/http"
import * as Sql from "effect-resilience/http/Idempotency/Sql"
import { HttpEffect, HttpRouter, HttpServer } from "effect/http"
import * as Service from "../../../examples/payments/Service.ts"
import * as SqliteClient from "../../../src/chess/SqliteClient.ts"

/** Where the process can die, from the first step of a request to the last. */
export const faults = [
  "before-begin",
  "after-begin",
  "in-transaction",
  "after-work",
  "after-completion",
  "after-commit",
  "before-answer",
  "after-answer"
] as const

type Fault = (typeof faults)[number]

const at = (fault: Fault) =>
  Effect.sync(() => {
    if (process.env["FAULT"] === fault) process.kill(process.pid, "SIGKILL")
  })

const Store = Layer.effect(
  IdempotencyStore.IdempotencyStore,
  Effect.map(Sql.make(), (store): IdempotencyStore.IdempotencyStore["Service"] => ({
    ...store,
    begin: (options) => at("before-begin").pipe(Effect.andThen(store.begin(options)), Effect.tap(at("after-begin"))),
    complete: (claim, response, timeToLive) =>
      at("after-work").pipe(
        Effect.andThen(store.complete(claim, response, timeToLive)),
        Effect.tap(at("after-completion"))
      ),
    transaction: (self) =>
      Effect.tap(store.transaction!(Effect.andThen(at("in-transaction"), self)), at("after-commit"))
  }))
)

const answering = HttpRouter.middleware(
  (app) =>
    Effect.tap(
      app,
      HttpEffect.appendPreResponseHandler((_, response) => Effect.as(at("before-answer"), response))
    ),
  { global: true }
)

// Node says when the answer has left.
const server = () =>
  createServer().on("request", (_, response) => {
    if (process.env["FAULT"] === "after-answer") response.on("finish", () => process.kill(process.pid, "SIGKILL"))
  })

const main = Layer.effectDiscard(
  HttpServer.addressFormattedWith((url) =>
    Effect.annotateLogs(Effect.logInfo("Listening"), { event: "http.listening", url })
  )
).pipe(
  Layer.provideMerge(
    HttpRouter.serve(Layer.merge(Service.layer, answering), { disableLogger: true, disableListenLog: true })
  ),
  Layer.provide(Store),
  Layer.provide(Shutdown.layer()),
  Layer.provide(Layer.effectDiscard(Effect.andThen(Service.createTable, Sql.createTable()))),
  Layer.provide(
    Layer.mergeAll(
      SqliteClient.layer({ file: process.env["DATABASE_FILE"] ?? ":memory:" }),
      NodeHttpServer.layer(server, { port: 0 }),
      Logger.layer([Logger.consoleJson])
    )
  )
)

if (process.argv[1]?.endsWith("faulty.ts") === true) NodeRuntime.runMain(Layer.launch(main))
