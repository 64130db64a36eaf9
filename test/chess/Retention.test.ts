import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, Logger, Option } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import * as GameImport from "../../src/chess/GameImport.ts"
import * as ImportStore from "../../src/chess/ImportStore.ts"
import * as Retention from "../../src/chess/Retention.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as SqliteClient from "../../src/chess/SqliteClient.ts"
import * as World from "../support/importWorld.ts"

const rows = (table: string) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    Effect.map(sql<{ n: number }>`SELECT count(*) AS n FROM ${sql(table)}`, ([row]) => row?.n)
  )

const engineRows = Effect.all([rows("cluster_messages"), rows("cluster_replies")])

describe("pruneMessages", () => {
  const world = World.layerService().pipe(
    Layer.provideMerge(SqliteClient.layerMemory),
    Layer.provideMerge(
      World.layerSites({
        users: [
          { name: "tilda-borg", lichess: { games: 20 } },
          { name: "orson-vale", lichess: { games: 400 } }
        ],
        lichess: { gamesPerSecond: 20 }
      })
    ),
    Layer.orDie
  )

  it.effect("removes what ended workflows left, and nothing that a running one needs", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const imports = yield* GameImport.GameImport
      yield* World.importGames("tilda-borg", "lichess")
      yield* World.advance("5 seconds")
      // Its run and its one activity, each with an answer.
      assert.deepStrictEqual(yield* engineRows, [2, 2])
      assert.strictEqual(yield* Retention.pruneMessages(sql, Simulator.historyEnds), 0)
      assert.deepStrictEqual(yield* engineRows, [2, 2])

      yield* imports.start({ user: "orson-vale", platform: "lichess", limit: 1_000, owner: "o", premium: false })
      yield* World.advance("5 seconds")
      const now = Simulator.historyEnds + 86_400_000
      assert.strictEqual(yield* Retention.pruneMessages(sql, now), 4)
      assert.deepStrictEqual(yield* engineRows, [2, 0])

      assert.deepInclude(yield* World.untilEnded("orson-vale", "lichess"), { status: "complete", imported: 400 })
      yield* World.advance("5 seconds")
      assert.strictEqual(yield* Retention.pruneMessages(sql, now), 4)
      assert.deepStrictEqual(yield* engineRows, [0, 0])
      assert.strictEqual((yield* World.importGames("tilda-borg", "lichess")).status, "complete")
    }).pipe(Effect.provide(world))
  )
})

describe("Retention", () => {
  const at = Simulator.historyEnds
  const days = (count: number) => count * 86_400_000

  const endedImport = Effect.gen(function* () {
    const store = yield* ImportStore.ImportStore
    const { job } = yield* store.create({
      user: "tilda-borg",
      platform: "lichess",
      limit: 10,
      owner: "o",
      premium: false
    })
    const finishedAt = yield* Clock.currentTimeMillis
    yield* store.setStatus(job.importId, { status: "complete", message: "", finishedAt })
    return job.importId
  })

  const stores = ImportStore.layer.pipe(
    // The engine's tables, as it makes them.
    Layer.provideMerge(Layer.effectDiscard(Effect.scoped(Layer.build(Layer.fresh(GameImport.layerEngine))))),
    Layer.provideMerge(SqliteClient.layerMemory),
    Layer.provide(Logger.layer([]))
  )

  it.effect("sweeps when it starts and once a day", () =>
    Effect.gen(function* () {
      const store = yield* ImportStore.ImportStore
      const isKept = (importId: string) => Effect.map(store.get(importId), Option.isSome)
      yield* TestClock.setTime(at)
      const first = yield* endedImport
      yield* TestClock.setTime(at + days(1))
      const second = yield* endedImport
      yield* TestClock.setTime(at + days(30))
      yield* endedImport

      yield* Layer.build(Retention.layer())
      yield* TestClock.adjust(1)
      assert.isTrue(yield* isKept(first))
      yield* TestClock.adjust("23 hours")
      assert.isTrue(yield* isKept(first))
      yield* TestClock.adjust("1 hour")
      assert.isFalse(yield* isKept(first))
      assert.isTrue(yield* isKept(second))
      yield* TestClock.adjust("1 day")
      assert.isFalse(yield* isKept(second))

      yield* TestClock.setTime(at + days(70))
      const last = yield* endedImport
      yield* Effect.scoped(Effect.andThen(Layer.build(Retention.layer({ keepFor: "1 hour" })), TestClock.adjust(1)))
      assert.strictEqual(yield* rows("import_job"), 1)
      assert.isTrue(yield* isKept(last))
    }).pipe(Effect.provide(stores))
  )

  it.effect("tries again the next day when the database refused", () =>
    Effect.gen(function* () {
      const store = yield* ImportStore.ImportStore
      let refuses = true
      const moody = ImportStore.ImportStore.of({
        ...store,
        prune: (before) =>
          refuses
            ? Effect.fail(new SqlError.SqlError({ reason: SqlError.classifySqliteError(new Error("busy"), {}) }))
            : store.prune(before)
      })
      yield* TestClock.setTime(at)
      yield* endedImport
      yield* TestClock.setTime(at + days(40))
      yield* endedImport
      yield* Layer.build(Layer.provide(Retention.layer(), Layer.succeed(ImportStore.ImportStore, moody)))
      yield* TestClock.adjust("1 hour")
      refuses = false
      yield* TestClock.adjust("22 hours")
      assert.strictEqual(yield* rows("import_job"), 2)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* rows("import_job"), 1)
    }).pipe(Effect.provide(stores))
  )
})
