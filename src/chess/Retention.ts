/**
 * Removes what nobody asks for any more, so that the database grows with games and users, not with imports.
 *
 * At the start and then once a day: imports that ended long ago, except the latest of each user; what any import of that
 * age skipped; and what the durable engine noted about workflows that have ended. Games and checkpoints stay. Rows go in
 * small steps, between which everything else has its turn.
 */
import { Clock, Duration, Effect, Layer, Schedule, type Scope } from "effect"
import { MachineId, Snowflake } from "effect/cluster"
import { SqlClient, type SqlError } from "effect/sql"
import { ImportStore } from "./ImportStore.ts"

/** How long things are kept. */
export interface Options {
  /** How long after its end an import is kept. Defaults to 30 days. */
  readonly keepFor?: Duration.Input | undefined
}

/** Sweeps now and then once a day, until the scope closes. A sweep that fails is tried again the next day. */
export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<void, never, ImportStore | SqlClient.SqlClient | Scope.Scope> {
  const store = yield* ImportStore
  const sql = yield* SqlClient.SqlClient
  const keepFor = Duration.toMillis(options.keepFor ?? "30 days")

  const sweep = Effect.gen(function* () {
    const before = (yield* Clock.currentTimeMillis) - keepFor
    const imports = yield* store.prune(before)
    const messages = yield* pruneMessages(sql, before)
    if (imports + messages === 0) return
    yield* Effect.annotateLogs(Effect.logInfo("Removed old imports"), { event: "retention.swept", imports, messages })
  }).pipe(Effect.catch((error) => Effect.logWarning("Old imports not removed, trying again tomorrow", error)))

  yield* Effect.forkScoped(Effect.repeat(sweep, Schedule.spaced("1 day")))
})

/** Sweeps as long as the layer lives. The tables of the durable engine must exist: provide it first. */
export const layer = (options?: Options): Layer.Layer<never, never, ImportStore | SqlClient.SqlClient> =>
  Layer.effectDiscard(make(options))

/**
 * Removes the engine's requests that were answered and were made before then, in epoch milliseconds, with their answers,
 * and succeeds with how many rows that were. The engine itself never does, and needs those of running workflows only.
 */
export const pruneMessages = Effect.fnUntraced(function* (
  sql: SqlClient.SqlClient,
  before: number
): Effect.fn.Return<number, SqlError.SqlError> {
  // An id begins with the time it was made at.
  const end = Snowflake.make({ timestamp: before, machineId: MachineId.make(0), sequence: 0 })
  const answered = sql`SELECT request_id FROM cluster_messages
    WHERE id < ${end} AND processed = ${sql.literal("TRUE")} ORDER BY id LIMIT ${stepRows}`
  const step = Effect.zipWith(
    sql`DELETE FROM cluster_replies WHERE request_id IN (${answered}) RETURNING 1 AS removed`,
    sql`DELETE FROM cluster_messages WHERE request_id IN (${answered}) RETURNING 1 AS removed`,
    (replies, messages) => replies.length + messages.length
  ).pipe(sql.withTransaction)
  let total = 0
  for (;;) {
    const removed = yield* step
    if (removed === 0) return total
    total += removed
    yield* Effect.yieldNow
  }
})

/** Requests that one step removes: some milliseconds of work. */
const stepRows = 500
