/**
 * Sends 1,000 requests at once to the payment service, with 100 keys, and counts the charges: there are 100.
 */
import { ConfigProvider, Console, Effect, Layer, Schedule } from "effect"
import { Shutdown } from "effect-resilience/http"
import * as IdempotencySql from "effect-resilience/http/Idempotency/Sql"
import { HttpRouter } from "effect/http"
import { SqlClient } from "effect/sql"
import * as SqliteClient from "../src/chess/SqliteClient.ts"
import * as Service from "./payments/Service.ts"

const program = Effect.gen(function* () {
  yield* Service.createTable
  const sql = yield* SqlClient.SqlClient
  const app = Service.layer.pipe(
    Layer.provide(IdempotencySql.layer()),
    Layer.provide(Shutdown.layer()),
    Layer.provide(Layer.succeed(SqlClient.SqlClient, sql)),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ RATE_LIMIT_REQUESTS: "2000" })))
  )
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  const charge = (order: number) =>
    Effect.promise(() => {
      const headers = { "content-type": "application/json", "idempotency-key": `order-${order}`, "x-api-key": "demo" }
      const body = JSON.stringify({ account: "ann", amount: order + 1 })
      return server.handler(new Request("http://localhost/charges", { method: "POST", headers, body }))
    }).pipe(
      Effect.repeat({ until: ({ status }) => status === 201, schedule: Schedule.spaced("50 millis"), times: 100 })
    )
  const orders = Array.from({ length: 1_000 }, (_, i) => i % 100)
  const answers = yield* Effect.forEach(orders, charge, { concurrency: "unbounded" })
  const [row] = yield* sql<{ charges: number }>`SELECT count(*) AS charges FROM charge`
  const replayed = answers.filter(({ headers }) => headers.has("x-idempotent-replayed")).length
  yield* Console.log(`1000 requests, 100 keys: ${row?.charges} charges, ${replayed} repeats were given their answer`)
})

Effect.runFork(Effect.scoped(Effect.provide(program, SqliteClient.layerMemory)))
