/**
 * A database of its own on a PostgreSQL server, for as long as the tests of a file run: that of `TEST_POSTGRES_URL`, or one
 * on the usual local port.
 */
import { connect } from "node:net"
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"

const url = process.env["TEST_POSTGRES_URL"] ?? "postgres://postgres@127.0.0.1:5432/postgres"

const reachable = await new Promise<boolean>((resolve) => {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port || 5432), timeout: 1_000 })
  const end = (answers: boolean) => () => {
    socket.destroy()
    resolve(answers)
  }
  socket.on("connect", end(true)).on("error", end(false)).on("timeout", end(false))
})

/** Whether there is a server. */
export const isReachable = (): boolean => {
  if (!reachable) console.warn("Not tested on PostgreSQL: set TEST_POSTGRES_URL, or start one on 127.0.0.1:5432")
  return reachable
}

const on = (database: string) => {
  const target = new URL(url)
  target.pathname = `/${database}`
  return PgClient.layer({ url: Redacted.make(target.href), maxConnections: 4 })
}

/** Provides the client of a new database, which is dropped when the scope closes. */
export const layer = Layer.unwrap(
  Effect.gen(function* () {
    const name = `resilience_${process.pid}_${Math.random().toString(36).slice(2)}`
    const admin = on(new URL(url).pathname.slice(1) || "postgres")
    yield* Effect.acquireRelease(
      SqlClient.SqlClient.use((sql) => sql`CREATE DATABASE ${sql(name)}`.unprepared).pipe(Effect.provide(admin)),
      () =>
        SqlClient.SqlClient.use((sql) => sql`DROP DATABASE ${sql(name)} WITH (FORCE)`.unprepared).pipe(
          Effect.provide(admin),
          Effect.orDie
        )
    )
    return on(name)
  })
)
