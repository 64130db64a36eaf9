import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Layer, Logger, Option, References, Scheduler, Stream } from "effect"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { GameImport, type ImportProgress, type StartRequest } from "../../src/chess/GameImport.ts"
import { ImportStore } from "../../src/chess/ImportStore.ts"
import type { Platform } from "../../src/chess/domain/Platform.ts"
import * as SqliteClient from "../../src/chess/SqliteClient.ts"
import type * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as World from "../support/importWorld.ts"

const users = ["anna", "bela", "cora", "dora", "emil", "finn"].map((name): Simulator.User => ({
  name,
  lichess: { games: 400, oddities: 0 },
  chessCom: { games: 400 }
}))

// As slow as the site: an import of 400 games takes 20 seconds.
const slow: Simulator.Options = { users, lichess: { gamesPerSecond: 20 } }

const start = Effect.fnUntraced(function* (user: string, options: Partial<StartRequest> = {}) {
  const imports = yield* GameImport
  return yield* imports.start({ user, platform: "lichess", limit: 100_000, owner: user, premium: false, ...options })
})

const progress = Effect.fnUntraced(function* (user: string, platform: Platform = "lichess") {
  const imports = yield* GameImport
  return Option.getOrThrow(yield* imports.progress(user, platform))
})

const cancel = Effect.fnUntraced(function* (user: string) {
  const imports = yield* GameImport
  return Option.getOrThrow(yield* imports.cancel(user, "lichess"))
})

const list = Effect.gen(function* () {
  const imports = yield* GameImport
  const { queued, recent, running, slots } = yield* imports.list
  const names = (progresses: ReadonlyArray<ImportProgress>) => progresses.map((_) => _.user).join(" ")
  return { queued: names(queued), recent: names(recent), running: names(running), slots }
})

const exports = Effect.map(
  Effect.flatMap(World.Sites, (sites) => sites.requests),
  (_) => _.lichess.exports
)

/** Runs against one process of the service on the database and the sites of the test, which outlive it. */
const inProcess = <A, E, R>(self: Effect.Effect<A, E, R>, options?: Parameters<typeof World.layerService>[0]) =>
  Effect.scopedWith((scope) =>
    Effect.flatMap(Layer.buildWithScope(Layer.fresh(Layer.orDie(World.layerService(options))), scope), (services) =>
      Effect.provide(self, services)
    )
  )

const layerMachine = Layer.mergeAll(SqliteClient.layerMemory, World.layerSites(slow)).pipe(Layer.orDie)

describe("GameImport", () => {
  describe("start", () => {
    it.effect("runs as many imports as there are slots, queues the next, and says so", () =>
      Effect.gen(function* () {
        const first = yield* start("anna")
        assert.strictEqual(first.outcome, "started")
        assert.deepInclude(first.progress, {
          status: "starting",
          message: "Import slot acquired - starting...",
          queuePosition: null,
          estimatedWaitSeconds: null
        })
        yield* start("bela")
        const third = yield* start("cora")
        assert.deepInclude(third.progress, {
          status: "queued",
          message: "Import queued - 0 of 2 import slots available",
          queuePosition: 1,
          estimatedWaitSeconds: null
        })
        assert.deepStrictEqual(yield* list, {
          running: "anna bela",
          queued: "cora",
          recent: "",
          slots: { total: 2, available: 0 }
        })

        yield* World.advance("5 seconds")
        assert.deepInclude(yield* progress("anna"), {
          status: "importing",
          message: `Imported ${(yield* progress("anna")).imported} games...`
        })
        assert.isAtLeast((yield* progress("anna")).imported, 60)
        assert.strictEqual((yield* progress("cora")).status, "queued")

        yield* World.advance("20 seconds")
        assert.deepInclude(yield* progress("anna"), {
          status: "complete",
          message: "Import complete! 400 new games imported",
          imported: 400
        })
        assert.strictEqual((yield* progress("cora")).status, "importing")
        assert.strictEqual((yield* World.untilEnded("cora", "lichess")).imported, 400)
        assert.deepStrictEqual(yield* list, {
          running: "",
          queued: "",
          recent: "cora bela anna",
          slots: { total: 2, available: 2 }
        })
        assert.strictEqual((yield* exports).max, 2)
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("answers with the import that runs or waits already", () =>
      Effect.gen(function* () {
        const first = yield* start("anna")
        const again = yield* start("anna", { owner: "someone else", limit: 5 })
        assert.strictEqual(again.outcome, "already-running")
        assert.strictEqual(again.progress.importId, first.progress.importId)
        const other = yield* start("anna", { platform: "chess.com" })
        assert.strictEqual(other.outcome, "started")
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("starts one import however many ask at once, and keeps no place for the others", () =>
      Effect.gen(function* () {
        const outcomes = yield* Effect.forEach(
          Array.from({ length: 20 }),
          (_, index) => start("anna", { owner: `owner ${index}` }),
          { concurrency: "unbounded" }
        ).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, 10))
        assert.strictEqual(outcomes.filter((_) => _.outcome === "started").length, 1)
        assert.strictEqual(new Set(outcomes.map((_) => _.progress.importId)).size, 1)
        assert.deepStrictEqual((yield* list).slots, { total: 2, available: 1 })
        assert.strictEqual((yield* World.untilEnded("anna", "lichess")).imported, 400)
      }).pipe(Effect.provide(World.layerWorld(slow, { maxQueued: 100 })))
    )

    it.effect("leaves no import that nobody runs, wherever it is interrupted", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        let asked = 0
        const operations = yield* interruptEverywhere(
          Effect.suspend(() => start(`user-${asked++}`)),
          Effect.gen(function* () {
            const imports = yield* GameImport
            const { queued, running } = yield* imports.list
            const known = [...running, ...queued].map((_) => _.importId)
            assert.deepStrictEqual(known.sort(), (yield* store.unfinished).map((_) => _.importId).sort())
          })
        )
        assert.isAbove(operations, 50)
      }).pipe(Effect.provide(World.layerWorld(slow, { maxQueued: 10_000 })))
    )

    it.effect("lets premium imports run before others that wait longer", () =>
      Effect.gen(function* () {
        for (const user of ["anna", "bela", "cora", "dora"]) yield* start(user)
        yield* start("emil", { premium: true })
        assert.strictEqual((yield* list).queued, "emil cora dora")
        assert.strictEqual((yield* progress("cora")).queuePosition, 2)
        yield* World.advance("25 seconds")
        assert.include((yield* list).running, "emil")
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("refuses an import when the queue is full, and tells when to come again", () =>
      Effect.gen(function* () {
        yield* World.importGames("finn", "lichess")
        for (const user of ["anna", "bela", "cora"]) yield* start(user)
        const error = yield* Effect.flip(start("dora"))
        assert.deepInclude(error, { _tag: "ImportQueueFull", running: 2, waiting: 1 })
        assert.isTrue("retryAfter" in error)
        if ("retryAfter" in error) assert.approximately(Duration.toSeconds(error.retryAfter), 20, 3)
        assert.isTrue(Option.isNone(yield* Effect.flatMap(GameImport, (_) => _.progress("dora", "lichess"))))
      }).pipe(Effect.provide(World.layerWorld(slow, { maxQueued: 1 })))
    )

    it.effect("refuses an owner's import over the limit", () =>
      Effect.gen(function* () {
        for (const user of ["anna", "bela", "cora"]) yield* start(user, { owner: "one" })
        const error = yield* Effect.flip(start("dora", { owner: "one" }))
        assert.deepInclude(error, { _tag: "TooManyImports", maxPerOwner: 3 })
        yield* cancel("cora")
        assert.strictEqual((yield* start("dora", { owner: "one" })).outcome, "started")
      }).pipe(Effect.provide(World.layerWorld(slow, { maxPerOwner: 3 })))
    )

    it.effect("estimates the wait from the imports before", () =>
      Effect.gen(function* () {
        yield* World.importGames("finn", "lichess")
        for (const user of ["anna", "bela", "cora", "dora", "emil"]) yield* start(user)
        const estimate = Effect.map(progress("cora"), (_) => _.estimatedWaitSeconds ?? Number.NaN)
        assert.approximately(yield* estimate, 20, 3)
        assert.approximately((yield* progress("emil")).estimatedWaitSeconds ?? Number.NaN, 40, 5)
        yield* World.advance("8 seconds")
        assert.approximately(yield* estimate, 12, 3)
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("answers an import of a moment ago with its result, without asking the site", () =>
      Effect.gen(function* () {
        const first = yield* World.importGames("anna", "lichess")
        const before = (yield* Effect.flatMap(World.Sites, (sites) => sites.requests)).lichess.total
        yield* TestClock.adjust("4 minutes")
        const again = yield* start("anna")
        assert.strictEqual(again.outcome, "recent")
        assert.strictEqual(again.progress.importId, first.importId)
        assert.strictEqual((yield* Effect.flatMap(World.Sites, (sites) => sites.requests)).lichess.total, before)
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual((yield* start("anna")).outcome, "started")
      }).pipe(Effect.provide(World.layerWorld({ users })))
    )

    it.effect("does not call an import that ended by its limit recent", () =>
      Effect.gen(function* () {
        yield* World.importGames("anna", "lichess", { limit: 100 })
        assert.strictEqual((yield* start("anna", { limit: 100 })).outcome, "started")
      }).pipe(Effect.provide(World.layerWorld({ users })))
    )
  })

  describe("the log", () => {
    it.effect("says who waits, who gets a slot, and what was completed", () =>
      Effect.gen(function* () {
        const events: Array<unknown> = []
        const recorder = Logger.make(({ fiber, message }) => {
          const { event, user, ...rest } = fiber.getRef(References.CurrentLogAnnotations)
          if (String(event).startsWith("import."))
            events.push([message, event, user, rest["slots"] ?? [rest["new"], rest["checked"]]])
        })
        yield* Effect.gen(function* () {
          for (const user of ["anna", "bela"]) yield* start(user)
          yield* World.untilEnded("bela", "lichess")
        }).pipe(
          Effect.provide(Layer.provideMerge(World.layerWorld(slow, { maxConcurrent: 1 }), Logger.layer([recorder])))
        )
        assert.deepStrictEqual(events, [
          [["Import slot acquired"], "import.slot-acquired", "anna", "0/1"],
          [["Imports at capacity, waiting for a slot"], "import.waiting", "bela", "0/1"],
          [["Import completed"], "import.completed", "anna", [400, 406]],
          [["Import slot acquired"], "import.slot-acquired", "bela", "0/1"],
          [["Import completed"], "import.completed", "bela", [400, 406]]
        ])
      })
    )
  })

  describe("changes", () => {
    it.effect("shows how it is now, then each change, and ends with the last", () =>
      Effect.gen(function* () {
        const imports = yield* GameImport
        for (const user of ["anna", "bela", "cora"]) yield* start(user)
        const seen = yield* Effect.forkChild(Stream.runCollect(imports.changes("cora", "lichess")), {
          startImmediately: true
        })
        yield* World.untilEnded("cora", "lichess")
        yield* World.advance("1 second")
        const changes = yield* Fiber.join(seen)
        const states = changes.map((_) => _.status).filter((status, index, all) => status !== all[index - 1])
        assert.deepStrictEqual(states, ["queued", "starting", "importing", "complete"])
        assert.strictEqual(changes[0]?.queuePosition, 1)
        assert.strictEqual(changes.at(-1)?.message, "Import complete! 400 new games imported")
        const counts = changes.map((_) => _.imported)
        assert.deepStrictEqual(
          counts,
          [...counts].sort((a, b) => a - b)
        )
        assert.isAbove(new Set(counts).size, 10)
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("shows at once that others have left the queue", () =>
      Effect.gen(function* () {
        const imports = yield* GameImport
        for (const user of ["anna", "bela", "cora", "dora"]) yield* start(user)
        const positions: Array<number | null> = []
        yield* imports.changes("dora", "lichess").pipe(
          Stream.runForEach((change) => Effect.sync(() => positions.push(change.queuePosition))),
          Effect.forkChild({ startImmediately: true })
        )
        yield* World.advance("1 second")
        yield* cancel("cora")
        yield* World.advance("150 millis")
        assert.deepStrictEqual([...new Set(positions)], [2, 1])
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("shows at most ten changes a second, and a slow reader the newest", () =>
      Effect.gen(function* () {
        const imports = yield* GameImport
        yield* start("anna")
        const times: Array<number> = []
        const quick = yield* imports.changes("anna", "lichess").pipe(
          Stream.runForEach(() => Effect.map(Clock.currentTimeMillis, (now) => times.push(now))),
          Effect.forkChild({ startImmediately: true })
        )
        const slowly: Array<number> = []
        const reader = yield* imports.changes("anna", "lichess").pipe(
          Stream.runForEach((change) => {
            slowly.push(change.imported)
            return Effect.sleep("9 seconds")
          }),
          Effect.forkChild({ startImmediately: true })
        )
        yield* World.untilEnded("anna", "lichess")
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(quick)
        yield* Fiber.join(reader)
        for (let i = 1; i < times.length; i++) assert.isAtLeast(times[i]! - times[i - 1]!, 100)
        assert.isAtMost(slowly.length, 5)
        assert.strictEqual(slowly.at(-1), 400)
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("is the result alone for an import that has ended, and nothing for a user never imported", () =>
      Effect.gen(function* () {
        const imports = yield* GameImport
        yield* World.importGames("anna", "lichess")
        const [only, ...more] = yield* Stream.runCollect(imports.changes("anna", "lichess"))
        assert.strictEqual(only?.status, "complete")
        assert.strictEqual(more.length, 0)
        assert.deepStrictEqual(yield* Stream.runCollect(imports.changes("bela", "lichess")), [])
        assert.isTrue(Option.isNone(yield* imports.progress("bela", "lichess")))
      }).pipe(Effect.provide(World.layerWorld({ users })))
    )
  })

  describe("cancel", () => {
    it.effect("ends a running import at once, closes its stream and keeps what it brought", () =>
      Effect.gen(function* () {
        yield* start("anna")
        yield* World.advance("5 seconds")
        const cancelled = yield* cancel("anna")
        assert.deepInclude(cancelled, {
          status: "cancelled",
          message: `Import cancelled - ${cancelled.imported} new games imported`
        })
        assert.isAtLeast(cancelled.imported, 80)
        assert.strictEqual((yield* exports).now, 0)
        assert.strictEqual((yield* World.storedIds("anna", "lichess")).length, cancelled.imported)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* progress("anna"), cancelled)
        assert.strictEqual((yield* start("anna")).outcome, "started")
        assert.strictEqual((yield* World.untilEnded("anna", "lichess")).imported, 400 - cancelled.imported)
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("ends a waiting import at once, and those behind it move up", () =>
      Effect.gen(function* () {
        for (const user of ["anna", "bela", "cora", "dora"]) yield* start(user)
        assert.deepInclude(yield* cancel("cora"), { status: "cancelled", imported: 0, queuePosition: null })
        assert.deepInclude(yield* progress("dora"), { status: "queued", queuePosition: 1 })
        assert.strictEqual((yield* World.untilEnded("dora", "lichess")).status, "complete")
        assert.strictEqual((yield* progress("cora")).status, "cancelled")
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("ends an import that waits for a site in trouble", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        yield* sites.lichess.inject({ kind: "unavailable" })
        yield* start("anna")
        yield* World.advance("2 minutes")
        assert.strictEqual((yield* cancel("anna")).status, "cancelled")
        assert.deepStrictEqual((yield* list).slots, { total: 2, available: 2 })
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("changes nothing about an import that has ended", () =>
      Effect.gen(function* () {
        const done = yield* World.importGames("anna", "lichess")
        assert.deepStrictEqual(yield* cancel("anna"), done)
        const imports = yield* GameImport
        assert.isTrue(Option.isNone(yield* imports.cancel("bela", "lichess")))
      }).pipe(Effect.provide(World.layerWorld({ users })))
    )
  })

  describe("a site in trouble", () => {
    it.effect("delays an import, which then goes on behind what it has", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        yield* sites.lichess.inject({ kind: "cut-in-game", after: 150, times: 1 })
        yield* start("anna")
        yield* sites.lichess.inject({ kind: "unavailable", from: "1 second", for: "15 minutes" })
        yield* World.advance("10 minutes")
        const paused = yield* progress("anna")
        assert.strictEqual(paused.status, "queued")
        assert.isAtLeast(paused.imported, 150)
        yield* World.untilEnded("anna", "lichess")
        const done = yield* progress("anna")
        assert.deepInclude(done, { status: "complete", imported: 400 })
        assert.isBelow(done.checked, 420)
        assert.isAbove(done.finishedAt! - done.startedAt!, Duration.toMillis("15 minutes"))
      }).pipe(Effect.provide(World.layerWorld(slow)))
    )

    it.effect("fails an import when it brought nothing for many attempts; the next one goes on", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        yield* sites.lichess.inject({ kind: "cut-in-game", after: 150, times: 1 })
        const broken = yield* sites.lichess.inject({ kind: "reset", from: "1 second" })
        yield* start("anna")
        yield* World.advance("1 second")
        const failed = yield* World.untilEnded("anna", "lichess")
        assert.deepInclude(failed, { status: "failed", imported: 150 })
        assert.match(failed.error ?? "", /^Lichess is unavailable \(/)
        assert.strictEqual(failed.message, `Import failed: ${failed.error}`)
        yield* broken.remove
        yield* TestClock.adjust("5 minutes")
        yield* start("anna")
        assert.deepInclude(yield* World.untilEnded("anna", "lichess"), { status: "complete", imported: 250 })
      }).pipe(Effect.provide(World.layerWorld(slow, { maxAttempts: 4 })))
    )

    it.effect("waits as long as the site asks, and counts that once", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        yield* sites.lichess.inject({ kind: "too-many-requests", for: "5 minutes" })
        yield* start("anna")
        assert.deepInclude(yield* World.untilEnded("anna", "lichess"), { status: "complete", imported: 400 })
        assert.isAtMost((yield* sites.requests).lichess.byStatus["429"] ?? 0, 4)
      }).pipe(Effect.provide(World.layerWorld({ users }, { maxAttempts: 6 })))
    )

    it.effect("counts attempts in a row only", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        yield* sites.lichess.inject({ kind: "cut-between-games", after: 0, rate: 0.4, times: 12 })
        yield* sites.lichess.inject({ kind: "cut-between-games", after: 20, times: 24 })
        yield* start("anna")
        assert.deepInclude(yield* World.untilEnded("anna", "lichess"), { status: "complete", imported: 400 })
        assert.isAbove((yield* sites.requests).lichess.byEndpoint.games, 20)
      }).pipe(Effect.provide(World.layerWorld({ users }, { maxAttempts: 5 })))
    )

    it.effect("does not fail an import that moves a little with each attempt", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        yield* sites.lichess.inject({ kind: "cut-between-games", after: 20, times: 18 })
        yield* start("anna")
        assert.deepInclude(yield* World.untilEnded("anna", "lichess"), { status: "complete", imported: 400 })
      }).pipe(Effect.provide(World.layerWorld({ users }, { maxAttempts: 2 })))
    )
  })

  describe("a wait for a site", () => {
    const outage = Effect.fnUntraced(function* (duration: Duration.Input) {
      const sites = yield* World.Sites
      yield* sites.lichess.inject({ kind: "unavailable", for: duration })
    })

    const untilResting = (users: string) =>
      World.advance("1 second").pipe(
        Effect.andThen(list),
        Effect.repeat({ until: ({ queued, running }) => queued === users && running === "", times: 600 }),
        Effect.map((now) => assert.deepInclude(now, { running: "", queued: users }))
      )

    // Who has a slot, by what the log says, and how many had one at the same time.
    const recordSlots = Effect.sync(() => {
      const held = new Set<unknown>()
      const events: Array<string> = []
      const record = { max: 0, events }
      const recorder = Logger.make(({ fiber }) => {
        const { event, user } = fiber.getRef(References.CurrentLogAnnotations)
        if (!String(event).startsWith("import.")) return
        if (event === "import.slot-acquired") held.add(user)
        else if (event === "import.retry") return
        else held.delete(user)
        record.max = Math.max(record.max, held.size)
        events.push(`${user} ${event}`)
      })
      return { record, layer: Logger.layer([recorder]) }
    })

    it.effect("gives the slots to others, and takes them again in order when it is over", () =>
      Effect.gen(function* () {
        const { layer, record } = yield* recordSlots
        yield* Effect.gen(function* () {
          yield* outage("1 hour")
          for (const user of ["anna", "bela"]) yield* start(user)
          yield* World.advance("5 minutes")
          for (const user of ["cora", "dora", "emil"]) yield* start(user, { platform: "chess.com" })
          for (const user of ["cora", "dora", "emil"]) {
            const done = yield* World.untilEnded(user, "chess.com")
            assert.strictEqual(done.status, "complete")
            assert.isBelow(done.finishedAt! - done.createdAt, Duration.toMillis("1 minute"))
          }
          for (const user of ["anna", "bela"]) {
            const done = yield* World.untilEnded(user, "lichess")
            assert.deepInclude(done, { status: "complete", imported: 400 })
            assert.isAbove(done.finishedAt! - done.createdAt, Duration.toMillis("1 hour"))
          }
          assert.deepStrictEqual((yield* list).slots, { total: 2, available: 2 })
        }).pipe(Effect.provide(Layer.provideMerge(World.layerWorld(slow, { maxAttempts: 40 }), layer)))
        assert.strictEqual(record.max, 2)
        assert.deepStrictEqual(
          record.events.filter((_) => _.startsWith("anna") && !_.endsWith("waiting")).slice(0, 3),
          ["anna import.slot-acquired", "anna import.slot-released", "anna import.slot-acquired"]
        )
      })
    )

    it.effect("never lets more run than there are slots", () =>
      Effect.gen(function* () {
        const { layer, record } = yield* recordSlots
        yield* Effect.gen(function* () {
          yield* outage("20 minutes")
          for (const user of ["anna", "bela", "cora"]) yield* start(user)
          let queued = 0
          for (let second = 0; second < 1500; second++) {
            yield* World.advance("1 second")
            const now = yield* list
            assert.strictEqual(now.slots.available, now.running === "" ? 1 : 0)
            queued = Math.max(queued, now.queued.split(" ").length)
          }
          assert.strictEqual(queued, 3)
          for (const user of ["anna", "bela", "cora"]) {
            assert.deepInclude(yield* World.untilEnded(user, "lichess"), { status: "complete", imported: 400 })
          }
          assert.strictEqual((yield* exports).max, 1)
        }).pipe(
          Effect.provide(Layer.provideMerge(World.layerWorld(slow, { maxAttempts: 40, maxConcurrent: 1 }), layer))
        )
        assert.strictEqual(record.max, 1)
      })
    )

    it.effect("says for what and how long it waits, and counts for its owner", () =>
      Effect.gen(function* () {
        yield* outage("1 hour")
        yield* start("anna", { owner: "one" })
        const waiting = yield* World.advance("1 second").pipe(
          Effect.andThen(progress("anna")),
          Effect.repeat({ until: ({ estimatedWaitSeconds }) => (estimatedWaitSeconds ?? 0) > 10, times: 600 })
        )
        assert.deepInclude(waiting, { status: "queued", queuePosition: null, finishedAt: null })
        assert.match(waiting.message, /^Import waiting for its next attempt - Lichess is unavailable/)
        yield* World.advance("2 seconds")
        assert.strictEqual((yield* progress("anna")).estimatedWaitSeconds, waiting.estimatedWaitSeconds! - 2)
        assert.deepInclude(yield* list, { running: "", queued: "anna", slots: { total: 2, available: 2 } })
        assert.strictEqual((yield* start("anna")).outcome, "already-running")
        assert.strictEqual((yield* Effect.flip(start("bela", { owner: "one" })))._tag, "TooManyImports")
      }).pipe(Effect.provide(World.layerWorld(slow, { maxPerOwner: 1 })))
    )

    it.effect("can be cancelled at once, and so can the wait for a slot after it", () =>
      Effect.gen(function* () {
        yield* outage("10 minutes")
        for (const user of ["anna", "bela"]) yield* start(user)
        yield* World.advance("4 minutes")
        yield* untilResting("anna bela")
        const resting = yield* cancel("anna")
        assert.deepInclude(resting, { status: "cancelled", queuePosition: null, estimatedWaitSeconds: null })
        assert.deepInclude(yield* list, { running: "", queued: "bela" })

        const sites = yield* World.Sites
        yield* sites.chessCom.inject({ kind: "delay", delay: "50 seconds" })
        yield* start("cora", { platform: "chess.com" })
        yield* World.advance("1 second").pipe(
          Effect.andThen(progress("bela")),
          Effect.repeat({ until: (_) => _.queuePosition !== null, times: 300 })
        )
        assert.deepInclude(yield* progress("bela"), {
          status: "queued",
          message: "Import queued - 0 of 1 import slots available",
          queuePosition: 1
        })
        assert.deepInclude(yield* list, { running: "cora", queued: "bela" })
        assert.strictEqual((yield* cancel("bela")).status, "cancelled")
        assert.deepInclude(yield* list, { running: "cora", queued: "" })
      }).pipe(Effect.provide(World.layerWorld(slow, { maxAttempts: 40, maxConcurrent: 1 })))
    )

    it.effect("keeps the slot when it is short", () =>
      Effect.gen(function* () {
        const { layer, record } = yield* recordSlots
        yield* Effect.gen(function* () {
          const sites = yield* World.Sites
          yield* sites.lichess.inject({ kind: "cut-in-game", after: 150, times: 1 })
          for (const user of ["anna", "bela"]) yield* start(user)
          yield* World.untilEnded("bela", "lichess")
        }).pipe(Effect.provide(Layer.provideMerge(World.layerWorld(slow, { maxConcurrent: 1 }), layer)))
        assert.deepStrictEqual(record.events, [
          "anna import.slot-acquired",
          "bela import.waiting",
          "anna import.completed",
          "bela import.slot-acquired",
          "bela import.completed"
        ])
      })
    )

    it.effect("outlives a restart, in the old order", () =>
      Effect.gen(function* () {
        yield* outage("20 minutes")
        yield* inProcess(
          Effect.gen(function* () {
            for (const user of ["anna", "bela", "cora"]) yield* start(user)
            yield* World.advance("3 minutes").pipe(
              Effect.andThen(list),
              Effect.repeat({ until: ({ running }) => running === "", times: 100 })
            )
            assert.deepInclude(yield* list, { running: "", slots: { total: 2, available: 2 } })
          })
        )
        yield* inProcess(
          Effect.gen(function* () {
            const store = yield* ImportStore
            assert.deepStrictEqual(
              (yield* store.unfinished).map((_) => _.finishedAt),
              [null, null, null]
            )
            assert.deepInclude(yield* list, { running: "anna bela", queued: "cora" })
            for (const user of ["anna", "bela", "cora"]) {
              assert.deepInclude(yield* World.untilEnded(user, "lichess"), { status: "complete", imported: 400 })
            }
          }),
          { maxAttempts: 40 }
        )
      }).pipe(Effect.provide(layerMachine))
    )
  })

  describe("a restart", () => {
    it.effect("continues running imports first, then the waiting ones in their order", () =>
      Effect.gen(function* () {
        yield* inProcess(
          Effect.gen(function* () {
            for (const user of ["anna", "bela", "cora"]) yield* start(user)
            yield* start("dora", { premium: true })
            yield* World.advance("7 seconds")
          })
        )
        assert.strictEqual((yield* exports).now, 0)
        yield* inProcess(
          Effect.gen(function* () {
            const store = yield* ImportStore
            assert.isTrue((yield* store.unfinished).every((job) => job.finishedAt === null && job.error === null))
            assert.deepInclude(yield* list, { running: "anna bela", queued: "dora cora" })
            assert.isAtLeast((yield* progress("anna")).imported, 120)
            yield* World.untilEnded("cora", "lichess")
            for (const user of ["anna", "bela", "cora", "dora"]) {
              assert.deepInclude(yield* progress(user), { status: "complete", imported: 400 })
              assert.strictEqual((yield* World.storedIds(user, "lichess")).length, 400)
            }
          })
        )
      }).pipe(Effect.provide(layerMachine))
    )

    it.effect("lets those that had a slot go before premium ones when there are fewer slots", () =>
      Effect.gen(function* () {
        yield* inProcess(
          Effect.gen(function* () {
            for (const user of ["anna", "bela", "cora"]) yield* start(user)
            yield* start("dora", { premium: true })
            yield* World.advance("2 seconds")
          })
        )
        yield* inProcess(
          Effect.gen(function* () {
            assert.deepInclude(yield* list, { running: "anna", queued: "bela dora cora" })
          }),
          { maxConcurrent: 1 }
        )
      }).pipe(Effect.provide(layerMachine))
    )

    it.effect("stores what has come before it stops", () =>
      Effect.gen(function* () {
        yield* inProcess(Effect.andThen(start("anna"), World.advance(5900)))
        const imported = yield* inProcess(Effect.map(progress("anna"), (_) => _.imported))
        assert.isAtLeast(imported, 115)
      }).pipe(Effect.provide(layerMachine))
    )

    it.effect("runs an import whose row was made and never submitted", () =>
      Effect.gen(function* () {
        yield* inProcess(
          Effect.gen(function* () {
            const store = yield* ImportStore
            yield* store.create({ user: "anna", platform: "lichess", limit: 1000, owner: "one", premium: false })
          })
        )
        yield* inProcess(
          Effect.gen(function* () {
            assert.strictEqual((yield* start("anna")).outcome, "already-running")
            assert.strictEqual((yield* World.untilEnded("anna", "lichess")).imported, 400)
          })
        )
      }).pipe(Effect.provide(layerMachine))
    )

    it.effect("runs nothing again that had ended, and finishes each import once over many restarts", () =>
      Effect.gen(function* () {
        yield* inProcess(Effect.andThen(start("anna"), World.advance("1 second")))
        for (let i = 0; i < 8; i++) yield* inProcess(World.advance(500 + 700 * i))
        const done = yield* inProcess(World.untilEnded("anna", "lichess"))
        assert.deepInclude(done, { status: "complete", imported: 400 })
        const before = (yield* Effect.flatMap(World.Sites, (sites) => sites.requests)).lichess.total
        yield* inProcess(
          Effect.gen(function* () {
            yield* World.advance("20 seconds")
            assert.deepStrictEqual(yield* progress("anna"), done)
          })
        )
        assert.strictEqual((yield* Effect.flatMap(World.Sites, (sites) => sites.requests)).lichess.total, before)
      }).pipe(Effect.provide(layerMachine))
    )
  })
})
