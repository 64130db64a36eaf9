/**
 * Takes payments, each once: a charge and its `Idempotency-Key` are one transaction of the database.
 *
 * Limits, keys and health come from the toolkit; what is written here is the charge.
 */
import { Effect, Layer, Schema } from "effect"
import { Idempotency, LoadShedding, RateLimit, RateLimitStore } from "effect-resilience/http"
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
    const { account, amount } = yield* HttpServerRequest.schemaBodyJson(Charge)
    const rows = yield* sql<{ id: number }>`INSERT INTO charge ${sql.insert({ account, amount })} RETURNING id`
    return yield* HttpServerResponse.json({ ...rows[0], account, amount }, { status: 201 })
  }).pipe(
    Effect.catchTag("SchemaError", ({ message }) =>
      HttpServerResponse.json(
        { error: message, code: "INVALID_REQUEST", statusCode: 400, metadata: {} },
        { status: 400 }
      )
    )
  )

const ready = (sql: SqlClient.SqlClient) =>
  Effect.match(sql`SELECT 1`, {
    onFailure: () => HttpServerResponse.jsonUnsafe({ status: "unhealthy" }, { status: 503 }),
    onSuccess: () => HttpServerResponse.jsonUnsafe({ status: "healthy" })
  })

const routes = HttpRouter.use((router) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* router.add("POST", "/charges", charge(sql))
    yield* router.add("GET", "/health/ready", ready(sql))
    yield* router.add("GET", "/health/live", HttpServerResponse.jsonUnsafe({ status: "healthy" }))
  })
)

/** The routes, on a database and a store of keys that is in it. */
export const layer = Layer.mergeAll(
  routes.pipe(Layer.provide(Idempotency.layer({ required: true, lease: "2 seconds", maxDuration: "10 seconds" }))),
  RateLimit.layerConfig(),
  LoadShedding.layer({ lag: { bearable: "500 millis" } })
).pipe(Layer.provide(RateLimitStore.layerMemory()))
