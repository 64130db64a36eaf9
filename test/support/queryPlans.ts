/**
 * Asks SQLite how it would answer the statements of an effect.
 */
import { Effect } from "effect"
import { SqlClient, Statement } from "effect/sql"

/** Runs the effect, and succeeds with the steps of the query plans of all its statements, in order. */
export const queryPlans = Effect.fnUntraced(function* <A, E, R>(effect: Effect.Effect<A, E, R>) {
  const sql = yield* SqlClient.SqlClient
  const statements: Array<readonly [sql: string, params: ReadonlyArray<unknown>]> = []
  yield* Effect.provideService(effect, Statement.CurrentTransformer, (statement) =>
    Effect.sync(() => {
      statements.push(statement.compile())
      return statement
    })
  )
  const plans = yield* Effect.forEach(statements, ([text, params]) =>
    sql.unsafe<{ detail: string }>(`EXPLAIN QUERY PLAN ${text}`, params)
  )
  return plans.flat().map((step) => step.detail)
})
