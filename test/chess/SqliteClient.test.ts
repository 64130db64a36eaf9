import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { assert, describe, it, vi } from "@effect/vitest"
import { interruptEverywhere } from "effect-resilience/testing"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Schema, Stream } from "effect"
import { PersistedQueue } from "effect/persistence"
import { SqlClient } from "effect/sql"
import { fileOf, isSqliteClient, layer, layerMemory, SqliteClient } from "../../src/chess/SqliteClient.ts"

const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "sqlite-client-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)

const numbers = Effect.gen(function* () {
  const sql = yield* SqliteClient
  yield* sql`CREATE TABLE numbers (n INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL)`
  return sql
})

const count = (sql: SqlClient.SqlClient) =>
  Effect.map(sql<{ count: number }>`SELECT count(*) AS count FROM numbers`, (rows) => rows[0]!.count)

describe("SqliteClient", () => {
  describe("statements", () => {
    it.effect("inserts with the helper and reads rows, values and raw results", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        yield* sql`INSERT INTO numbers ${sql.insert([
          { n: 1, name: "one" },
          { n: 2, name: "two" }
        ])}`
        assert.deepStrictEqual(yield* sql`SELECT n, name FROM numbers WHERE n IN ${sql.in([1, 2])} ORDER BY n`, [
          { n: 1, name: "one" },
          { n: 2, name: "two" }
        ])
        assert.deepStrictEqual(yield* sql`SELECT n, name FROM numbers WHERE n = ${2}`.values, [[2, "two"]])
        assert.deepStrictEqual(yield* sql`SELECT n, name FROM numbers WHERE n = ${2}`.valuesUnprepared, [[2, "two"]])
        assert.deepStrictEqual(yield* sql`SELECT n, name FROM numbers WHERE n = ${2}`, [{ n: 2, name: "two" }])
        assert.deepStrictEqual(yield* sql`SELECT n FROM numbers WHERE n = ${2}`.unprepared, [{ n: 2 }])
        assert.deepStrictEqual(yield* sql`DELETE FROM numbers`.raw, { changes: 2, lastInsertRowid: 2 })
        assert.deepStrictEqual(yield* sql`DELETE FROM numbers`, [])
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("takes undefined for NULL and keeps bytes as they are", () =>
      Effect.gen(function* () {
        const sql = yield* SqliteClient
        assert.deepStrictEqual(
          yield* sql`SELECT ${undefined} AS missing, ${true} AS yes, ${new Uint8Array([0, 255])} AS bytes`,
          [{ missing: null, yes: 1, bytes: new Uint8Array([0, 255]) }]
        )
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("reads 64-bit integers as bigints when asked, and refuses to round them", () =>
      Effect.gen(function* () {
        const sql = yield* SqliteClient
        const big = sql`SELECT ${9_007_199_254_740_993n} AS big`
        assert.deepStrictEqual(yield* Effect.provideService(big, SqlClient.SafeIntegers, true), [
          { big: 9_007_199_254_740_993n }
        ])
        assert.include((yield* Effect.flip(big)).message, "too large")
        const small = sql`SELECT 1 AS small`
        assert.deepStrictEqual(yield* small, [{ small: 1 }])
        assert.deepStrictEqual(yield* Effect.provideService(small, SqlClient.SafeIntegers, true), [{ small: 1n }])
        assert.deepStrictEqual(yield* small, [{ small: 1 }])
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("keeps the maxPrepared statements that were used last", () =>
      Effect.gen(function* () {
        const sql = yield* SqliteClient
        const prepare = yield* Effect.acquireRelease(
          Effect.sync(() => vi.spyOn(DatabaseSync.prototype, "prepare")),
          (spy) => Effect.sync(() => spy.mockRestore())
        )
        for (const n of [1, 2, 1, 3, 1, 2, 1, 2]) assert.deepStrictEqual(yield* sql.unsafe(`SELECT ${n} AS n`), [{ n }])
        assert.deepStrictEqual(
          prepare.mock.calls.map(([text]) => text),
          ["SELECT 1 AS n", "SELECT 2 AS n", "SELECT 3 AS n", "SELECT 2 AS n"]
        )
      }).pipe(Effect.provide(layer({ file: ":memory:", maxPrepared: 2 })))
    )

    it.effect("dies on a maxPrepared that is not a whole number of at least 1", () =>
      Effect.gen(function* () {
        for (const maxPrepared of [0, -1, 1.5, Number.NaN]) {
          const exit = yield* Effect.exit(Effect.scoped(Layer.build(layer({ file: ":memory:", maxPrepared }))))
          assert.include(Exit.isFailure(exit) ? String(exit.cause) : "success", "maxPrepared must be an integer >= 1")
        }
      })
    )
  })

  describe("errors", () => {
    it.effect("classifies them", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const reasonOf = (statement: string) => Effect.map(Effect.flip(sql.unsafe(statement)), (error) => error.reason)
        yield* sql`INSERT INTO numbers VALUES (1, 'one')`
        assert.deepInclude(yield* reasonOf("INSERT INTO numbers VALUES (2, 'one')"), {
          _tag: "UniqueViolation",
          constraint: "numbers.name",
          operation: "execute"
        })
        assert.deepInclude(yield* reasonOf("INSERT INTO numbers VALUES (1, 'two')"), {
          _tag: "UniqueViolation",
          constraint: "numbers.n"
        })
        assert.deepInclude(yield* reasonOf("INSERT INTO numbers VALUES (3, NULL)"), { _tag: "ConstraintError" })
        assert.deepInclude(yield* reasonOf("SELECT * FROM absent"), {
          _tag: "UnknownError",
          message: "no such table: absent"
        })
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("enforces foreign keys", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        yield* sql`CREATE TABLE uses (n INTEGER REFERENCES numbers (n))`
        assert.strictEqual((yield* Effect.flip(sql`INSERT INTO uses VALUES (7)`)).reason._tag, "ConstraintError")
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("fails with a ConnectionError when the file cannot be opened", () =>
      Effect.gen(function* () {
        const path = yield* directory
        const error = yield* Effect.flip(Effect.scoped(Layer.build(layer({ file: path }))))
        assert.deepInclude(error.reason, { _tag: "ConnectionError", operation: "open" })
      })
    )

    it.effect("fails, and closes the file, when it is not a database", () =>
      Effect.gen(function* () {
        const file = join(yield* directory, "chess.db")
        writeFileSync(file, "1. e4 e5 ".repeat(1000))
        const error = yield* Effect.flip(Effect.scoped(Layer.build(layer({ file }))))
        assert.deepInclude(error.reason, { message: "file is not a database", operation: "open" })
      })
    )

    it.effect("fails with a LockTimeoutError when another process holds the lock for too long", () =>
      Effect.gen(function* () {
        const file = join(yield* directory, "chess.db")
        const client = Effect.map(Layer.build(Layer.fresh(layer({ file, busyTimeout: 1 }))), (context) =>
          Context.get(context, SqliteClient)
        )
        const first = yield* client
        const second = yield* client
        yield* first`CREATE TABLE t (n INTEGER)`
        const error = yield* first.withTransaction(Effect.flip(second`INSERT INTO t VALUES (1)`))
        assert.strictEqual(error.reason._tag, "LockTimeoutError")
        assert.strictEqual(error.isRetryable, true)
        yield* second`INSERT INTO t VALUES (1)`
      })
    )
  })

  describe("transactions", () => {
    it.effect("commits what succeeds and rolls back what fails", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        yield* sql.withTransaction(sql`INSERT INTO numbers VALUES (1, 'one')`)
        yield* Effect.flip(
          sql.withTransaction(Effect.andThen(sql`INSERT INTO numbers VALUES (2, 'two')`, Effect.fail("no")))
        )
        assert.strictEqual(yield* count(sql), 1)
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("rolls back only the inner one of two", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const insert = (n: number) => sql`INSERT INTO numbers VALUES (${n}, ${`${n}`})`
        yield* sql.withTransaction(
          insert(1).pipe(
            Effect.andThen(Effect.flip(sql.withTransaction(Effect.andThen(insert(2), Effect.fail("no"))))),
            Effect.andThen(sql.withTransaction(insert(3)))
          )
        )
        assert.deepStrictEqual(yield* sql`SELECT n FROM numbers ORDER BY n`.values, [[1], [3]])
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("stays usable when SQLite itself has rolled back", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const twice = Effect.andThen(
          sql`INSERT INTO numbers VALUES (1, 'one')`,
          sql`INSERT OR ROLLBACK INTO numbers VALUES (1, 'uno')`
        )
        assert.strictEqual((yield* Effect.flip(sql.withTransaction(twice))).reason._tag, "UniqueViolation")
        assert.strictEqual(yield* count(sql), 0)
        yield* sql.withTransaction(sql`INSERT INTO numbers VALUES (1, 'one')`)
        assert.strictEqual(yield* count(sql), 1)
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("makes other fibers wait until the transaction ends", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const gate = yield* Deferred.make<void>()
        const transaction = yield* sql
          .withTransaction(Effect.andThen(sql`INSERT INTO numbers VALUES (1, 'one')`, Deferred.await(gate)))
          .pipe(Effect.forkChild({ startImmediately: true }))
        const reader = yield* count(sql).pipe(Effect.forkChild({ startImmediately: true }))
        assert.isUndefined(reader.pollUnsafe())
        yield* Fiber.interrupt(transaction)
        assert.strictEqual(yield* Fiber.join(reader), 0)
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("leaves nothing behind, and the connection free, when interrupted at any operation", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const operations = yield* interruptEverywhere(
          sql.withTransaction(
            sql`INSERT INTO numbers VALUES (1, 'one')`.pipe(
              Effect.andThen(sql.withTransaction(sql.executeBatch("INSERT INTO numbers VALUES (?, ?)", [[2, "two"]]))),
              Effect.andThen(Stream.runDrain(sql`SELECT * FROM numbers`.stream))
            )
          ),
          Effect.gen(function* () {
            assert.include([0, 2], yield* count(sql))
            yield* sql.withTransaction(sql`DELETE FROM numbers`)
          })
        )
        assert.isAbove(operations, 20)
      }).pipe(Effect.provide(layerMemory))
    )
  })

  describe("stream", () => {
    it.effect("delivers every row in order, over many chunks", () =>
      Effect.gen(function* () {
        const sql = yield* SqliteClient
        const rows = sql<{
          n: number
        }>`WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ${1000})
          SELECT n FROM c`.stream
        assert.strictEqual(
          yield* Stream.runFold(
            rows,
            () => 0,
            (sum, row) => sum + row.n
          ),
          500_500
        )
        assert.strictEqual(yield* Stream.runCount(Stream.take(rows, 128)), 128)
        assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(rows, 1)), [{ n: 1 }])
        assert.deepStrictEqual(yield* Stream.runCollect(sql`SELECT 1 WHERE 1 = 0`.stream), [])
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("keeps its place when the same statement runs meanwhile", () =>
      Effect.gen(function* () {
        const sql = yield* SqliteClient
        const rows = sql<{ n: number }>`WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300)
          SELECT n FROM c`
        const seen: Array<number> = []
        yield* sql.withTransaction(
          Stream.runForEach(rows.stream, ({ n }) =>
            Effect.andThen(
              Effect.when(rows, Effect.succeed(n % 100 === 0)),
              Effect.sync(() => seen.push(n))
            )
          )
        )
        assert.deepStrictEqual(
          seen,
          Array.from({ length: 300 }, (_, index) => index + 1)
        )
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("lets go of the table when it is left early", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        yield* sql`INSERT INTO numbers VALUES (1, 'one'), (2, 'two')`
        assert.strictEqual(yield* Stream.runCount(Stream.take(sql`SELECT * FROM numbers`.stream, 1)), 1)
        yield* sql.withTransaction(
          Effect.andThen(
            Stream.runHead(
              sql`SELECT a.n FROM numbers a, numbers b, numbers c, numbers d, numbers e,
            numbers f, numbers g, numbers h`.stream
            ),
            sql`DROP TABLE numbers`
          )
        )
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("fails with a SqlError on a broken statement, and frees the connection", () =>
      Effect.gen(function* () {
        const sql = yield* SqliteClient
        const error = yield* Effect.flip(Stream.runDrain(sql`SELECT * FROM absent`.stream))
        assert.deepInclude(error.reason, { message: "no such table: absent", operation: "stream" })
        assert.deepStrictEqual(yield* sql`SELECT 1 AS one`, [{ one: 1 }])
      }).pipe(Effect.provide(layerMemory))
    )
  })

  describe("executeBatch", () => {
    it.effect("says how many rows each run changed", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const insert = "INSERT INTO numbers VALUES (?, ?) ON CONFLICT DO NOTHING"
        assert.deepStrictEqual(
          yield* sql.executeBatch(insert, [
            [1, "one"],
            [1, "uno"],
            [2, "two"]
          ]),
          [1, 0, 1]
        )
        assert.deepStrictEqual(yield* sql.executeBatch(insert, []), [])
      }).pipe(Effect.provide(layerMemory))
    )

    it.effect("is undone with its transaction", () =>
      Effect.gen(function* () {
        const sql = yield* numbers
        const batch = sql.executeBatch("INSERT INTO numbers VALUES (?, ?)", [
          [1, "one"],
          [1, "uno"]
        ])
        assert.deepInclude((yield* Effect.flip(sql.withTransaction(batch))).reason, {
          _tag: "UniqueViolation",
          operation: "executeBatch"
        })
        assert.strictEqual(yield* count(sql), 0)
      }).pipe(Effect.provide(layerMemory))
    )
  })

  describe("layer", () => {
    it.effect("creates the directory, keeps what was committed, and leaves one file", () =>
      Effect.gen(function* () {
        const path = join(yield* directory, "a", "b")
        const open = Effect.provide(Layer.fresh(layer({ file: join(path, "chess.db") })))
        yield* Effect.andThen(numbers, (sql) => sql`INSERT INTO numbers VALUES (1, 'one')`).pipe(open)
        assert.deepStrictEqual(readdirSync(path), ["chess.db"])
        yield* Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          assert.strictEqual(isSqliteClient(sql), true)
          assert.strictEqual(yield* count(sql), 1)
          assert.deepStrictEqual(yield* sql`PRAGMA journal_mode`, [{ journal_mode: "wal" }])
          assert.deepStrictEqual(yield* sql`PRAGMA synchronous`, [{ synchronous: 1 }])
          assert.deepStrictEqual(yield* sql`PRAGMA busy_timeout`, [{ timeout: 5000 }])
        }).pipe(open)
      })
    )

    it.effect("keeps a file for itself until it closes, if asked to, and lets others read it", () =>
      Effect.gen(function* () {
        const file = join(yield* directory, "data", "chess.db")
        const open = (exclusive: boolean) => Layer.build(Layer.fresh(layer({ file, exclusive })))
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Effect.provideContext(numbers, yield* open(true))
            const error = yield* Effect.flip(Effect.scoped(open(true)))
            assert.strictEqual(error.reason._tag, "LockTimeoutError")
            assert.strictEqual(error.reason.message, "another process uses this database")
            const other = yield* open(false)
            assert.strictEqual(yield* count(Context.get(other, SqlClient.SqlClient)), 0)
          })
        )
        yield* open(true)
      })
    )

    it.effect("keeps databases in memory apart", () =>
      Effect.gen(function* () {
        const open = Layer.build(Layer.fresh(layer({ file: ":memory:", exclusive: true })))
        yield* open
        yield* open
      })
    )

    it.effect("carries the durable queue of effect/persistence", () =>
      Effect.gen(function* () {
        const queue = yield* PersistedQueue.make({ name: "work", schema: Schema.Int })
        yield* queue.offer(42, { id: "a" })
        yield* queue.offer(42, { id: "a" })
        assert.strictEqual(yield* queue.take(Effect.succeed), 42)
      }).pipe(
        Effect.provide(
          PersistedQueue.layer.pipe(Layer.provide(PersistedQueue.layerStoreSql()), Layer.provideMerge(layerMemory))
        )
      )
    )
  })

  describe("fileOf", () => {
    it.each([
      ["file:./data/chess.db", "./data/chess.db"],
      ["file:chess.db", "chess.db"],
      ["file:/var/lib/chess.db", "/var/lib/chess.db"],
      ["file:///var/lib/chess.db", "/var/lib/chess.db"],
      ["file:./my%20games.db", "./my games.db"],
      ["file::memory:", ":memory:"]
    ])("reads %s as %s", (url, file) => {
      assert.deepStrictEqual(fileOf(url), Option.some(file))
    })

    it.each([
      "",
      "file:",
      "chess.db",
      "postgres://host/chess",
      "file://host/chess.db",
      "file:a.db?mode=ro",
      "file:%zz",
      "file:%00"
    ])("refuses %j", (url) => {
      assert.deepStrictEqual(fileOf(url), Option.none())
    })
  })
})
