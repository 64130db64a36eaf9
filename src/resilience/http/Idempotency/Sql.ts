/**
 * Keeps idempotency keys in a table of a SQL database: SQLite or PostgreSQL.
 *
 * What the work writes through the same `SqlClient`, and the completion of its key, are one transaction: there is no moment
 * at which a process can die between them. The time is that of the PostgreSQL server, or of the process for SQLite.
 *
 * | defaults | the table is `idempotency_key` | expired keys are removed every 10 minutes, 1,000 in one step |
 */
import { Clock, Duration, Effect, Layer, Schedule, Schema } from "effect"
import { SecureRandom } from "effect/crypto"
import * as Base64 from "effect/encoding/Base64"
import { SqlClient, type SqlError } from "effect/sql"
import type { Begun, Known, StoredResponse } from "../IdempotencyStore.ts"
import { IdempotencyStore, IdempotencyStoreError } from "../IdempotencyStore.ts"

/** Where the keys are. */
export interface Options {
  /** The name of the table. Defaults to "idempotency_key". */
  readonly table?: string | undefined
  /** How often expired keys are removed: over zero. Defaults to 10 minutes. */
  readonly cleanupEvery?: Duration.Input | undefined
}

/** Creates the table, unless there is one. For those who write their migrations themselves: it is what `layer` does. */
export const createTable = Effect.fnUntraced(function* (
  options: Pick<Options, "table"> = {}
): Effect.fn.Return<void, SqlError.SqlError, SqlClient.SqlClient> {
  const sql = yield* SqlClient.SqlClient
  const name = options.table ?? "idempotency_key"
  // A status that is null means that the key is claimed and not completed.
  yield* sql`CREATE TABLE IF NOT EXISTS ${sql(name)} (
    id TEXT NOT NULL PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    token TEXT NOT NULL,
    lease_ends_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    status INTEGER,
    headers TEXT,
    body TEXT
  )`
  yield* sql`CREATE INDEX IF NOT EXISTS ${sql(`${name}_expires_at`)} ON ${sql(name)} (expires_at)`
})

/** Creates the store on a table that is there. */
export const make = Effect.fnUntraced(function* (
  options: Pick<Options, "table"> = {}
): Effect.fn.Return<IdempotencyStore["Service"], never, SqlClient.SqlClient> {
  const sql = yield* SqlClient.SqlClient
  const table = sql(options.table ?? "idempotency_key")
  const now = sql.onDialectOrElse({
    pg: () => Effect.succeed(sql.literal("(extract(epoch from clock_timestamp()) * 1000)::bigint")),
    orElse: () => Effect.map(Clock.currentTimeMillis, (millis) => sql.literal(String(Math.floor(millis))))
  })
  // Added to a time: a whole number of milliseconds, written into the statement since drivers send numbers as they like.
  const millis = (duration: Duration.Duration) =>
    sql.literal(String(Math.min(maxMillis, Math.ceil(Duration.toMillis(duration)))))

  const select = Effect.fnUntraced(function* (key: string, fingerprint: string) {
    const time = yield* now
    const rows = yield* sql<Row>`SELECT fingerprint, status, headers, body, lease_ends_at - ${time} AS lease_ends_in,
      expires_at - ${time} AS expires_in FROM ${table} WHERE id = ${key}`
    return known(rows[0], fingerprint)
  })

  const begin = Effect.fnUntraced(function* (options: Parameters<IdempotencyStore["Service"]["begin"]>[0]) {
    const { fingerprint, key, lease, timeToLive } = options
    const token = SecureRandom.uuidV4Unsafe()
    // A key can be released between the two statements. Then it can be claimed.
    for (let attempt = 0; attempt < 5; attempt++) {
      const time = yield* now
      const claimed = yield* sql`INSERT INTO ${table} AS kept (id, fingerprint, token, lease_ends_at, expires_at)
        VALUES (${key}, ${fingerprint}, ${token}, ${time} + ${millis(lease)}, ${time} + ${millis(timeToLive)})
        ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, token = excluded.token,
          lease_ends_at = excluded.lease_ends_at, expires_at = excluded.expires_at, status = NULL, headers = NULL, body = NULL
        WHERE (kept.status IS NOT NULL AND kept.expires_at <= ${time})
          OR (kept.status IS NULL AND kept.lease_ends_at <= ${time}
            AND (kept.fingerprint = excluded.fingerprint OR kept.expires_at <= ${time}))
        RETURNING token`
      if (claimed.length > 0) return { _tag: "Claimed", claim: { key, token } } satisfies Begun
      const found = yield* select(key, fingerprint)
      if (found._tag !== "Unknown") return found
    }
    return { _tag: "Running", leaseEndsIn: lease } satisfies Begun
  })

  return {
    begin: (options) => storeError(begin(options)),
    find: ({ fingerprint, key }) => storeError(select(key, fingerprint)),
    renew: ({ key, token }, lease) =>
      Effect.flatMap(now, (time) =>
        changed(sql`UPDATE ${table} SET lease_ends_at = ${time} + ${millis(lease)}
          WHERE id = ${key} AND token = ${token} AND status IS NULL RETURNING id`)
      ),
    complete: ({ key, token }, response, timeToLive) =>
      Effect.flatMap(now, (time) =>
        changed(sql`UPDATE ${table} SET status = ${response.status}, headers = ${JSON.stringify(response.headers)},
            body = ${response.body === undefined ? null : Base64.encode(response.body)},
            expires_at = ${time} + ${millis(timeToLive)}
          WHERE id = ${key} AND token = ${token} AND status IS NULL RETURNING id`)
      ),
    release: ({ key, token }) =>
      changed(sql`DELETE FROM ${table} WHERE id = ${key} AND token = ${token} AND status IS NULL RETURNING id`),
    cleanup: storeError(
      Effect.gen(function* () {
        for (let removed = 0; ; yield* Effect.yieldNow) {
          const time = yield* now
          const rows = yield* sql`DELETE FROM ${table} WHERE id IN (SELECT id FROM ${table}
            WHERE expires_at <= ${time} AND (status IS NOT NULL OR lease_ends_at <= ${time}) LIMIT ${sql.literal(String(step))})
            RETURNING id`
          removed += rows.length
          if (rows.length < step) return removed
        }
      })
    ),
    transaction: <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | IdempotencyStoreError, R> =>
      // What fails is told apart from the transaction that fails, whatever its error is.
      Effect.catch(
        sql.withTransaction(Effect.mapError(self, (error) => new Failed(error))),
        (error): Effect.Effect<never, E | IdempotencyStoreError> =>
          error instanceof Failed
            ? Effect.fail(error.error as E)
            : Effect.fail(new IdempotencyStoreError({ cause: error }))
      )
  }
})

/** Provides `IdempotencyStore` on a table that it creates if need be, and removes expired keys from. */
export const layer = (options: Options = {}): Layer.Layer<IdempotencyStore, SqlError.SqlError, SqlClient.SqlClient> =>
  Layer.effect(
    IdempotencyStore,
    Effect.gen(function* () {
      const cleanupEvery = Duration.fromInputUnsafe(options.cleanupEvery ?? "10 minutes")
      if (!(Duration.toMillis(cleanupEvery) > 0)) {
        throw new RangeError(`Idempotency/Sql: cleanupEvery must be over zero, got ${Duration.toMillis(cleanupEvery)}`)
      }
      yield* createTable(options)
      const store = yield* make(options)
      yield* store.cleanup.pipe(
        Effect.catch((error) => Effect.logWarning("Expired idempotency keys were not removed", error)),
        Effect.repeat(Schedule.spaced(cleanupEvery)),
        Effect.delay(cleanupEvery),
        Effect.forkScoped
      )
      return store
    })
  )

interface Row {
  readonly fingerprint: string
  readonly status: number | null
  readonly headers: string | null
  readonly body: string | null
  // Large integers come as text from some drivers.
  readonly lease_ends_in: number | string
  readonly expires_in: number | string
}

const known = (row: Row | undefined, fingerprint: string): Known => {
  if (row === undefined) return { _tag: "Unknown" }
  const leaseEndsIn = Number(row.lease_ends_in)
  if (Number(row.expires_in) <= 0 && (row.status !== null || leaseEndsIn <= 0)) return { _tag: "Unknown" }
  if (row.fingerprint !== fingerprint) return { _tag: "OtherRequest" }
  if (row.status !== null) return { _tag: "Completed", response: responseOf(row.status, row) }
  return leaseEndsIn <= 0 ? { _tag: "Unknown" } : { _tag: "Running", leaseEndsIn: Duration.millis(leaseEndsIn) }
}

const responseOf = (status: number, { body, headers }: Row): StoredResponse => {
  const bytes = body === null ? undefined : Base64.decode(body)
  return {
    status,
    headers: decodeHeaders(headers ?? "[]"),
    ...(bytes?._tag === "Success" ? { body: bytes.success } : {})
  }
}

const decodeHeaders = Schema.decodeSync(
  Schema.fromJsonString(Schema.Array(Schema.Tuple([Schema.String, Schema.String])))
)

// Keys removed in one step, and the longest time there is: some thousand years.
const step = 1_000
const maxMillis = 1e14

const storeError = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, IdempotencyStoreError, R> =>
  Effect.mapError(self, (cause) => new IdempotencyStoreError({ cause }))

const changed = <E, R>(self: Effect.Effect<ReadonlyArray<unknown>, E, R>) =>
  storeError(Effect.map(self, (rows) => rows.length > 0))

class Failed {
  readonly error: unknown
  constructor(error: unknown) {
    this.error = error
  }
}
