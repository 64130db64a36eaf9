/**
 * Takes payments, each once: a charge and its `Idempotency-Key` are one transaction of the database.
 *
 * All but the charge comes from the toolkit: the layers at the end are the whole server, from the outermost inwards.
 */
import { Effect, Layer, Schema } from "effect"
import {
  ApiError,
  Health,
  Idempotency,
  LoadShedding,
  RateLimit,
  RateLimitStore,
  RequestContext,
  RequestLog,
  RequestTimeout,
  Shutdown
} from "effect-resilience/http"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { SqlClient } from "effect/sql"

const Charge = Schema.Struct({
  account: Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(64)),
  amount: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 }))
})

/** Creates the table of charges, unless there is one. */
export const createTable = SqlClient.SqlClient.use(
  (sql) =>
    sql`CREATE TABLE IF NOT EXISTS charge (id INTEGER PRIMARY KEY, account TEXT NOT NULL, amount INTEGER NOT NULL)`
)

const charge = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const { account, amount } = yield* HttpServerRequest.schemaBodyJson(Charge).pipe(ApiError.orInvalid("body"))
    const rows = yield* sql<{ id: number }>`INSERT INTO charge ${sql.insert({ account, amount })} RETURNING id`
    return HttpServerResponse.jsonUnsafe({ ...rows[0], account, amount }, { status: 201 })
  }).pipe(
    Effect.catchTag("SqlError", (error) =>
      Effect.andThen(Effect.logError("A charge was not written", error), Effect.fail(new ApiError.DatabaseFailed({})))
    )
  )

const charges = Layer.unwrap(
  Effect.map(SqlClient.SqlClient, (sql) => HttpRouter.add("POST", "/charges", charge(sql)))
).pipe(Layer.provide(Idempotency.layer({ required: true, lease: "2 seconds", maxDuration: "10 seconds" })))

const health = Layer.unwrap(
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const { phase } = yield* Shutdown.Shutdown
    const checks = { database: { check: Effect.asVoid(sql`SELECT 1`), timeout: "2 seconds" } } as const
    return Health.layerRoutes({ phase }).pipe(Layer.provide(Health.layer({ checks })))
  })
)

/** The routes, on a database, a store of keys that is in it, and the life of the server. */
export const layer = Layer.mergeAll(
  RequestContext.layer(),
  Shutdown.layerMiddleware,
  RequestLog.layer(),
  LoadShedding.layer({ lag: { bearable: "500 millis" } }),
  RateLimit.layerConfig(),
  RequestTimeout.layerConfig(),
  ApiError.around(Layer.merge(charges, health))
).pipe(Layer.provide(RateLimitStore.layerMemory()))
