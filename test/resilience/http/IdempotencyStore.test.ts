import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, expectTypeOf, it, layer } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Layer } from "effect"
import { IdempotencyStore } from "effect-resilience/http"
import * as Sql from "effect-resilience/http/Idempotency/Sql"
import { idempotencyStoreContract } from "effect-resilience/testing"
import { SqlClient, SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import * as SqliteClient from "../../../src/chess/SqliteClient.ts"
import * as Postgres from "../../support/postgres.ts"

const lease = Duration.seconds(1)
const timeToLive = Duration.seconds(3)
const answer = (size: number) => ({ status: 200, headers: [], body: new Uint8Array(size) })
const begin = (store: IdempotencyStore.IdempotencyStore["Service"], key: string) =>
  store.begin({ key, fingerprint: "f", lease, timeToLive })
const claimed = (begun: IdempotencyStore.Begun) =>
  begun._tag === "Claimed" ? begun.claim : assert.fail(`not claimed: ${begun._tag}`)

describe("IdempotencyStore", () => {
  describe("makeMemory", () => {
    for (const { name, run } of idempotencyStoreContract({ advance: TestClock.adjust })) {
      it.effect(name, () => Effect.provide(run, IdempotencyStore.layerMemory()))
    }

    it.effect("refuses new keys when it is full, and forgets none that is kept", () =>
      Effect.gen(function* () {
        const store = yield* IdempotencyStore.makeMemory({ maxKeys: 3 })
        for (const key of ["a", "b", "c"])
          yield* store.complete(claimed(yield* begin(store, key)), answer(1), timeToLive)
        const error = yield* Effect.flip(begin(store, "d"))
        assert.deepInclude(error, { _tag: "IdempotencyStoreFull", maxKeys: 3 })
        for (const key of ["a", "b", "c"]) assert.strictEqual((yield* begin(store, key))._tag, "Completed")
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual((yield* begin(store, "d"))._tag, "Claimed")
      })
    )

    it.effect("forgets what has expired as new keys come", () =>
      Effect.gen(function* () {
        const store = yield* IdempotencyStore.makeMemory({ maxKeys: 1_000 })
        for (let round = 0; round < 5; round++) {
          for (let i = 0; i < 400; i++) {
            yield* store.complete(claimed(yield* begin(store, `${round} ${i}`)), answer(1), timeToLive)
          }
          yield* TestClock.adjust("3 seconds")
        }
        assert.isBelow(yield* store.cleanup, 900)
        assert.strictEqual(yield* store.cleanup, 0)
      })
    )

    it.effect("keeps that an answer was given when there is no room for what it said", () =>
      Effect.gen(function* () {
        const store = yield* IdempotencyStore.makeMemory({ maxBytes: 1_000 })
        for (const key of ["a", "b"]) yield* store.complete(claimed(yield* begin(store, key)), answer(600), timeToLive)
        const [a, b] = [yield* begin(store, "a"), yield* begin(store, "b")]
        assert.deepStrictEqual(a._tag === "Completed" && a.response.body?.length, 600)
        assert.deepStrictEqual(b, { _tag: "Completed", response: { status: 200, headers: [] } })
        yield* TestClock.adjust("3 seconds")
        yield* store.complete(claimed(yield* begin(store, "b")), answer(600), timeToLive)
        const again = yield* begin(store, "b")
        assert.deepStrictEqual(again._tag === "Completed" && again.response.body?.length, 600)
      })
    )

    it.effect.each([
      [{ maxKeys: 0 }, "IdempotencyStore: maxKeys must be an integer >= 1, got 0"],
      [{ maxBytes: -1 }, "IdempotencyStore: maxBytes must be a finite number >= 0, got -1"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(IdempotencyStore.makeMemory(options))
        assert.strictEqual(Exit.isFailure(exit) && (Cause.squash(exit.cause) as RangeError).message, message)
      })
    )
  })

  describe("Sql on SQLite", () => {
    for (const { name, run } of idempotencyStoreContract({ advance: TestClock.adjust })) {
      it.effect(name, () => Effect.provide(run, Sql.layer().pipe(Layer.provide(SqliteClient.layerMemory))))
    }

    it.effect("removes expired keys by itself, more than one step of them", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const store = yield* IdempotencyStore.IdempotencyStore
        yield* sql`INSERT INTO keys WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
          SELECT 'k' || i, 'f', 't', 0, 1000, 200, '[]', NULL FROM n`
        yield* begin(store, "kept")
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* sql`SELECT id FROM keys`, [])
      }).pipe(
        Effect.provide(
          Sql.layer({ table: "keys", cleanupEvery: "1 minute" }).pipe(Layer.provideMerge(SqliteClient.layerMemory))
        )
      )
    )

    it.live("keeps keys in the file, for the next process too", () =>
      Effect.gen(function* () {
        const directory = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "keys-"))),
          (path) => Effect.sync(() => rmSync(path, { recursive: true }))
        )
        const open = Layer.fresh(
          Sql.layer().pipe(Layer.provide(SqliteClient.layer({ file: join(directory, "keys.db") })))
        )
        yield* Effect.provide(
          IdempotencyStore.IdempotencyStore.use((store) =>
            Effect.gen(function* () {
              yield* store.complete(claimed(yield* begin(store, "a")), answer(3), timeToLive)
            })
          ),
          open
        )
        const found = yield* Effect.provide(
          IdempotencyStore.IdempotencyStore.use((store) => begin(store, "a")),
          open
        )
        assert.strictEqual(found._tag, "Completed")
      })
    )

    it.effect("is not there when the database is not", () =>
      Effect.gen(function* () {
        const store = yield* Sql.make({ table: "missing" })
        const error = yield* Effect.flip(begin(store, "a"))
        assert.strictEqual(error._tag, "IdempotencyStoreError")
        const inner = yield* Effect.flip(store.transaction!(Effect.fail("own" as const)))
        assert.strictEqual(inner, "own")
      }).pipe(Effect.provide(SqliteClient.layerMemory))
    )
  })

  describe.runIf(Postgres.isReachable())("Sql on PostgreSQL", () => {
    layer(Sql.layer().pipe(Layer.provideMerge(Postgres.layer)), { excludeTestServices: true })((it) => {
      // Side by side: here time is real.
      it.effect("keeps the whole contract", () =>
        Effect.forEach(
          idempotencyStoreContract({ advance: Effect.sleep, lease: "400 millis" }).filter(
            ({ name }) => !name.startsWith("cleanup")
          ),
          ({ name, run }) =>
            Effect.catchCause(run, (cause) => Effect.die(new Error(name, { cause: Cause.squash(cause) }))),
          { concurrency: "unbounded", discard: true }
        )
      )

      it.effect("cleanup, alone", () =>
        Effect.forEach(
          idempotencyStoreContract({ advance: Effect.sleep, lease: "300 millis" }).filter(({ name }) =>
            name.startsWith("cleanup")
          ),
          ({ run }) => run,
          { discard: true }
        ).pipe(Effect.provide(Sql.layer({ table: "to_clean" })))
      )

      it.effect("a transaction that fails takes the completion back", () =>
        Effect.gen(function* () {
          const store = yield* IdempotencyStore.IdempotencyStore
          const claim = claimed(yield* begin(store, "t"))
          yield* Effect.exit(
            store.transaction!(Effect.andThen(store.complete(claim, answer(1), timeToLive), Effect.fail("no")))
          )
          assert.strictEqual((yield* begin(store, "t"))._tag, "Running")
        })
      )
    })
  })

  it("has exact types", () => {
    expectTypeOf(Sql.layer()).toEqualTypeOf<
      Layer.Layer<IdempotencyStore.IdempotencyStore, SqlError.SqlError, SqlClient.SqlClient>
    >()
    expectTypeOf(IdempotencyStore.layerMemory()).toEqualTypeOf<Layer.Layer<IdempotencyStore.IdempotencyStore>>()
  })
})
