import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Config,
  ConfigProvider,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  Random,
  Scheduler,
  Scope
} from "effect"
import { Bulkhead, Deadline, Priority } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const start = { startImmediately: true } as const

// A call that ends when it is told to, and says that it ran.
const call = (log: Array<string>, name: string, gate: Deferred.Deferred<void>) =>
  Effect.sync(() => log.push(name)).pipe(Effect.andThen(Deferred.await(gate)), Effect.as(name))

describe("Bulkhead", () => {
  describe("execute", () => {
    it.effect("returns the result of a call that fits, and is empty afterwards", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        assert.strictEqual(yield* bulkhead.execute(Effect.succeed(1)), 1)
        assert.strictEqual(yield* Effect.succeed(2).pipe(bulkhead.execute), 2)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
      })
    )

    it.effect("runs maxConcurrent calls, queues maxQueued and refuses the next", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2, maxQueued: 3 })
        const gate = yield* Deferred.make<void>()
        const log: Array<string> = []
        const fibers: Array<Fiber.Fiber<string, Bulkhead.BulkheadFull>> = []
        for (const name of ["a", "b", "c", "d", "e"]) {
          fibers.push(yield* call(log, name, gate).pipe(bulkhead.execute, Effect.forkChild(start)))
        }
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 2, running: 2, waiting: 3 })
        assert.deepStrictEqual(log, ["a", "b"])

        const refused = yield* Effect.flip(bulkhead.execute(Effect.die("must not run")))
        assert.strictEqual(refused._tag, "BulkheadFull")
        assert.strictEqual(refused.running, 2)
        assert.strictEqual(refused.waiting, 3)
        assert.strictEqual(refused.message, "Bulkhead full: 2 running, 3 waiting")

        yield* Deferred.succeed(gate, undefined)
        assert.deepStrictEqual(yield* Effect.forEach(fibers, Fiber.join), ["a", "b", "c", "d", "e"])
        assert.deepStrictEqual(log, ["a", "b", "c", "d", "e"])
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 2, running: 0, waiting: 0 })
      })
    )

    it.effect("says in every refusal how many calls there are at that moment", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        const refused = Effect.map(Effect.flip(bulkhead.execute(Effect.void)), (error) => [
          error.running,
          error.waiting
        ])
        const fork = Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        yield* fork
        yield* fork
        assert.deepStrictEqual(yield* refused, [1, 1])
        assert.deepStrictEqual(yield* refused, [1, 1])
        yield* bulkhead.resize(2)
        yield* fork
        assert.deepStrictEqual(yield* refused, [2, 1])
      })
    )

    it.effect("never waits by default", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        assert.strictEqual((yield* Effect.flip(bulkhead.execute(Effect.void)))._tag, "BulkheadFull")
      })
    )

    it.effect("frees the place of a call that fails, dies or is interrupted, and leaves its error alone", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        assert.strictEqual(yield* Effect.flip(bulkhead.execute(Effect.fail("failed"))), "failed")
        const died = yield* Effect.exit(bulkhead.execute(Effect.die("died")))
        assert.isTrue(Exit.isFailure(died) && Cause.hasDies(died.cause))
        const fiber = yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        assert.strictEqual((yield* bulkhead.state).running, 1)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
      })
    )

    it.effect("lets a waiter that is interrupted leave the queue, and never runs it", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 3 })
        const gate = yield* Deferred.make<void>()
        const log: Array<string> = []
        const fork = (name: string) => call(log, name, gate).pipe(bulkhead.execute, Effect.forkChild(start))
        const first = yield* fork("first")
        const [b, c, d] = [yield* fork("b"), yield* fork("c"), yield* fork("d")]
        yield* Fiber.interrupt(c)
        assert.strictEqual((yield* bulkhead.state).waiting, 2)
        // Its place in the queue is free again, at the end.
        const e = yield* fork("e")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.awaitAll([first, b, d, e])
        assert.deepStrictEqual(log, ["first", "b", "d", "e"])
      })
    )

    it.effect("passes the place on when a waiter is interrupted between being served and starting", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 2 })
        const gate = yield* Deferred.make<void>()
        const log: Array<string> = []
        const holder = yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        const served = yield* call(log, "served", gate).pipe(bulkhead.execute, Effect.forkChild(start))
        const next = yield* call(log, "next", gate).pipe(bulkhead.execute, Effect.forkChild(start))
        holder.interruptUnsafe()
        // The holder has gone, the place is the waiter's, and the waiter has not started yet.
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 1, waiting: 1 })
        assert.deepStrictEqual(log, [])
        served.interruptUnsafe()
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 1, waiting: 0 })
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual(yield* Fiber.join(next), "next")
        assert.deepStrictEqual(log, ["next"])
        assert.strictEqual((yield* bulkhead.state).running, 0)
      })
    )

    it.effect("starts a waiter outside the stack of the call that ends", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        const log: Array<string> = []
        const gate = yield* Deferred.make<void>()
        const holder = yield* Deferred.await(gate).pipe(bulkhead.execute, Effect.forkChild(start))
        const waiter = yield* Effect.sync(() => log.push("waiter")).pipe(bulkhead.execute, Effect.forkChild(start))
        holder.addObserver(() => log.push("holder"))
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(waiter)
        assert.deepStrictEqual(log, ["holder", "waiter"])
      })
    )

    it.effect("keeps the order of arrival under churn, and never more than maxConcurrent run", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 3, maxQueued: 1_000 })
        const waited: Array<number> = []
        const started: Array<number> = []
        const gone = new Set<number>()
        let running = 0
        let most = 0
        const fibers: Array<Fiber.Fiber<void, Bulkhead.BulkheadFull>> = []
        for (let i = 0; i < 600; i++) {
          waited.push(i)
          const work = Effect.sync(() => {
            started.push(i)
            most = Math.max(most, ++running)
          }).pipe(
            Effect.andThen(Effect.sleep(1 + (yield* Random.nextIntBetween(0, 20)))),
            Effect.ensuring(Effect.sync(() => running--))
          )
          fibers.push(yield* work.pipe(bulkhead.execute, Effect.forkChild(start)))
          const victim = yield* Random.nextIntBetween(0, i)
          if (i % 3 === 0 && i > 0 && !started.includes(victim)) {
            gone.add(victim)
            yield* Fiber.interrupt(fibers[victim]!)
          }
          if (i % 5 === 0) yield* TestClock.adjust(2)
        }
        yield* TestClock.adjust("1 minute")
        yield* Fiber.awaitAll(fibers)
        assert.isAbove(gone.size, 50)
        assert.strictEqual(most, 3)
        assert.deepStrictEqual(
          started,
          waited.filter((i) => !gone.has(i))
        )
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 3, running: 0, waiting: 0 })
      }).pipe(Random.withSeed("churn"))
    )

    it.effect("holds 100,000 waiters, of which half leave from anywhere and half are served, at a flat cost each", () =>
      Effect.gen(function* () {
        const waiters = 50_000
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 2 * waiters })
        const gate = yield* Deferred.make<void>()
        let ran = 0
        const work = Effect.sync(() => {
          ran++
        })
        yield* Deferred.await(gate).pipe(bulkhead.execute, Effect.forkChild(start))
        const staying: Array<Fiber.Fiber<void, Bulkhead.BulkheadFull>> = []
        const leaving: Array<Fiber.Fiber<void, Bulkhead.BulkheadFull>> = []
        for (let i = 0; i < waiters; i++) {
          staying.push(yield* work.pipe(bulkhead.execute, Effect.forkChild(start)))
          leaving.push(yield* work.pipe(bulkhead.execute, Effect.forkChild(start)))
        }
        for (const fiber of leaving) fiber.interruptUnsafe()
        assert.strictEqual((yield* bulkhead.state).waiting, waiters)
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.awaitAll(staying)
        assert.strictEqual(ran, waiters)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
      })
    )

    it.effect("runs when the last place is freed while it is suspended at any operation of its arrival", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        // Suspends the call at its n-th operation and lets the holder end before it goes on.
        const suspendedAt = Effect.fnUntraced(function* (at: number) {
          const holder = yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
          const base = new Scheduler.MixedScheduler()
          let operations = 0
          const scheduler: Scheduler.Scheduler = {
            executionMode: base.executionMode,
            makeDispatcher: () => base.makeDispatcher(),
            shouldYield: (fiber) => {
              if (++operations !== at) return base.shouldYield(fiber)
              holder.interruptUnsafe()
              return true
            }
          }
          const fiber = yield* Effect.succeed("ran").pipe(
            bulkhead.execute,
            Effect.provideService(Scheduler.Scheduler, scheduler),
            Effect.forkChild
          )
          yield* TestClock.adjust(0)
          yield* Fiber.interrupt(holder)
          yield* TestClock.adjust(0)
          assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
          assert.strictEqual(yield* Fiber.join(fiber), "ran")
          return operations
        })
        const operations = yield* suspendedAt(0)
        assert.isAbove(operations, 3)
        for (let at = 1; at <= operations; at++) yield* suspendedAt(at)
      })
    )

    it.effect(
      "does not overfill the queue when that fills up while it is suspended at any operation of its arrival",
      () =>
        Effect.gen(function* () {
          const suspendedAt = Effect.fnUntraced(function* (at: number) {
            const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
            const hang = Effect.runForkWith(yield* Effect.context())
            hang(bulkhead.execute(Effect.never))
            const base = new Scheduler.MixedScheduler()
            let operations = 0
            const scheduler: Scheduler.Scheduler = {
              executionMode: base.executionMode,
              makeDispatcher: () => base.makeDispatcher(),
              shouldYield: (fiber) => {
                if (++operations !== at) return base.shouldYield(fiber)
                hang(bulkhead.execute(Effect.never))
                return true
              }
            }
            const fiber = yield* Effect.never.pipe(
              bulkhead.execute,
              Effect.provideService(Scheduler.Scheduler, scheduler),
              Effect.forkChild
            )
            yield* TestClock.adjust(0)
            assert.strictEqual((yield* bulkhead.statistics).mostWaiting, 1)
            yield* Fiber.interrupt(fiber)
            return operations
          })
          const operations = yield* suspendedAt(0)
          assert.isAbove(operations, 3)
          for (let at = 1; at <= operations; at++) yield* suspendedAt(at)
        })
    )

    it.effect("leaks nothing when interrupted at any operation, with a free place or after a wait", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        const empty = Effect.map(bulkhead.state, (state) =>
          assert.deepStrictEqual(state, { maxConcurrent: 1, running: 0, waiting: 0 })
        )
        const direct = yield* interruptEverywhere(bulkhead.execute(Effect.andThen(Effect.yieldNow, Effect.void)), empty)
        assert.isAbove(direct, 3)

        // Another fiber holds the place for a moment, so the call waits and is served.
        const contended = Effect.gen(function* () {
          yield* Effect.yieldNow.pipe(bulkhead.execute, Effect.forkChild(start))
          yield* bulkhead.execute(Effect.void)
        })
        assert.isAbove(yield* interruptEverywhere(contended, empty), 8)
      })
    )
  })

  describe("executeScoped", () => {
    it.effect("keeps the place of a success until the scope closes, and then gives it to the next", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        const scope = yield* Scope.make()
        assert.strictEqual(yield* bulkhead.executeScoped(Effect.succeed(1)).pipe(Scope.provide(scope)), 1)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 1, waiting: 0 })
        const next = yield* Effect.forkChild(Effect.scoped(bulkhead.executeScoped(Effect.succeed(2))), start)
        assert.strictEqual((yield* bulkhead.state).waiting, 1)
        const error = yield* Effect.flip(bulkhead.execute(Effect.void))
        assert.deepStrictEqual([error._tag, error.running, error.waiting], ["BulkheadFull", 1, 1])
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(yield* Fiber.join(next), 2)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
      })
    )

    it.effect("gives the place of a failure back at once, and of a success when the scope has closed before", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        const scope = yield* Scope.make()
        assert.strictEqual(yield* Effect.flip(Scope.provide(bulkhead.executeScoped(Effect.fail("no")), scope)), "no")
        assert.strictEqual((yield* bulkhead.state).running, 0)
        yield* Scope.provide(bulkhead.executeScoped(Scope.close(scope, Exit.void)), scope)
        assert.strictEqual((yield* bulkhead.state).running, 0)
      })
    )

    it.effect("leaks nothing when interrupted at any operation, with a free place or after a wait", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        const empty = Effect.map(bulkhead.state, (state) =>
          assert.deepStrictEqual(state, { maxConcurrent: 1, running: 0, waiting: 0 })
        )
        const held = Effect.scoped(Effect.andThen(bulkhead.executeScoped(Effect.yieldNow), Effect.yieldNow))
        assert.isAbove(yield* interruptEverywhere(held, empty), 5)
        const contended = Effect.andThen(Effect.forkChild(bulkhead.execute(Effect.yieldNow), start), held)
        assert.isAbove(yield* interruptEverywhere(contended, empty), 8)
      })
    )

    it("adds BulkheadFull and needs a scope", () => {
      const held = (bulkhead: Bulkhead.Bulkhead, self: Effect.Effect<number, "E", "R">) => bulkhead.executeScoped(self)
      expectTypeOf(held).returns.toEqualTypeOf<Effect.Effect<number, "E" | Bulkhead.BulkheadFull, "R" | Scope.Scope>>()
    })
  })

  describe("with priorities", () => {
    // One holds the only place; then the others come, named by their priority and number. Returns the order in which they run.
    const orderOf = Effect.fnUntraced(function* (
      options: Omit<Bulkhead.Options, "maxConcurrent">,
      arrivals: ReadonlyArray<Priority.Priority>
    ) {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, ...options })
      const gate = yield* Deferred.make<void>()
      const log: Array<string> = []
      const refused: Array<string> = []
      yield* Deferred.await(gate).pipe(bulkhead.execute, Effect.forkChild(start))
      const fibers: Array<Fiber.Fiber<unknown>> = []
      const counts = { critical: 0, high: 0, normal: 0, low: 0 }
      for (const priority of arrivals) {
        const name = `${priority} ${++counts[priority]}`
        const waiter = Effect.sync(() => log.push(name)).pipe(
          bulkhead.execute,
          Priority.as(priority),
          Effect.catchTag("BulkheadFull", () => Effect.sync(() => refused.push(name)))
        )
        fibers.push(yield* Effect.forkChild(waiter, start))
      }
      yield* TestClock.adjust(0)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.awaitAll(fibers)
      return { log, refused }
    })

    it.effect("ignores them by default", () =>
      Effect.gen(function* () {
        const { log } = yield* orderOf({ maxQueued: 9 }, ["low", "critical", "normal"])
        assert.deepStrictEqual(log, ["low 1", "critical 1", "normal 1"])
      })
    )

    it.effect("strict: serves the highest first, and the first of the same", () =>
      Effect.gen(function* () {
        const { log } = yield* orderOf({ maxQueued: 9, priorities: "strict" }, [
          "low",
          "normal",
          "high",
          "normal",
          "critical",
          "high"
        ])
        assert.deepStrictEqual(log, ["critical 1", "high 1", "high 2", "normal 1", "normal 2", "low 1"])
      })
    )

    it.effect("strict: a higher one takes the place of the last of the lowest when the queue is full", () =>
      Effect.gen(function* () {
        const { log, refused } = yield* orderOf({ maxQueued: 3, priorities: "strict" }, [
          "normal",
          "low",
          "low",
          "high",
          "low",
          "normal",
          "normal",
          "critical"
        ])
        assert.sameMembers(refused, ["low 2", "low 3", "low 1", "normal 3", "normal 2"])
        assert.deepStrictEqual(log, ["critical 1", "high 1", "normal 1"])
      })
    )

    it.effect("weighted: serves each by its weight, so that the low ones run in between", () =>
      Effect.gen(function* () {
        const waiting = [...Array<"critical">(24).fill("critical"), ...Array<"low">(24).fill("low")]
        const { log } = yield* orderOf({ maxQueued: 100, priorities: "weighted" }, waiting)
        // 8 to 1 of the first 27, whatever the order within them.
        assert.strictEqual(log.slice(0, 27).filter((name) => name.startsWith("low")).length, 3)
        assert.strictEqual(log.slice(0, 9).filter((name) => name.startsWith("low")).length, 1)
        assert.strictEqual(log.length, 48)
      })
    )

    it.effect("weighted: takes other weights, and gives no credit for having been away", () =>
      Effect.gen(function* () {
        const weights = { high: 1, low: 1 }
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 99, priorities: "weighted", weights })
        const log: Array<string> = []
        const fork = (priority: Priority.Priority) =>
          Effect.sync(() => log.push(priority)).pipe(
            Effect.andThen(Effect.sleep(1)),
            bulkhead.execute,
            Priority.as(priority),
            Effect.forkChild(start)
          )
        for (let i = 0; i < 21; i++) yield* fork("high")
        yield* TestClock.adjust(10)
        // The low ones come late: from now on they get every second place, not all of them.
        for (let i = 0; i < 10; i++) yield* fork("low")
        yield* TestClock.adjust(11)
        assert.deepStrictEqual(log.slice(11, 21).filter((name) => name === "low").length, 5)
      })
    )

    it.effect("weighted: in a full queue, makes room for one that has less than its share", () =>
      Effect.gen(function* () {
        const { log, refused } = yield* orderOf(
          { maxQueued: 6, priorities: "weighted", weights: { high: 2, low: 1 } },
          [...Array<"low">(6).fill("low"), ...Array<"high">(6).fill("high")]
        )
        assert.strictEqual(log.filter((name) => name.startsWith("high")).length, 4)
        assert.strictEqual(log.filter((name) => name.startsWith("low")).length, 2)
        assert.sameMembers(refused, ["low 3", "low 4", "low 5", "low 6", "high 5", "high 6"])
      })
    )

    it.effect("tells the one that was displaced how full it is, and counts it", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1, priorities: "strict" })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        const low = yield* Effect.never.pipe(bulkhead.execute, Priority.as("low"), Effect.flip, Effect.forkChild(start))
        yield* Effect.never.pipe(bulkhead.execute, Priority.as("high"), Effect.forkChild(start))
        const refused = yield* Fiber.join(low)
        assert.deepStrictEqual([refused._tag, refused.running], ["BulkheadFull", 1])
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 1, waiting: 1 })
        assert.strictEqual((yield* bulkhead.statistics).dropped, 1)
      })
    )
  })

  describe("with the order adaptive", () => {
    // Calls of 10 ms come every 5 ms to one place: twice what it bears.
    const overloaded = Effect.fnUntraced(function* (order: "fifo" | "adaptive", calls: number) {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1_000, order })
      const waits: Array<number> = []
      const started: Array<number> = []
      for (let i = 0; i < calls; i++) {
        const came = yield* Clock.currentTimeMillis
        yield* Clock.currentTimeMillis.pipe(
          Effect.tap((now) =>
            Effect.sync(() => {
              waits.push(now - came)
              started.push(i)
            })
          ),
          Effect.andThen(Effect.sleep(10)),
          bulkhead.execute,
          Effect.ignore,
          Effect.forkChild(start)
        )
        yield* TestClock.adjust(5)
      }
      return { bulkhead, waits: [...waits], started: [...started] }
    })

    it.effect("serves the first first as long as there is no overload", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 9, order: "adaptive" })
        const log: Array<number> = []
        yield* Effect.forEach([0, 1, 2, 3], (i) =>
          Effect.sync(() => log.push(i)).pipe(
            Effect.andThen(Effect.sleep(20)),
            bulkhead.execute,
            Effect.forkChild(start)
          )
        )
        yield* TestClock.adjust(80)
        assert.deepStrictEqual(log, [0, 1, 2, 3])
        assert.strictEqual((yield* bulkhead.statistics).dropped, 0)
      })
    )

    it.effect("under overload keeps the wait of those it serves short, at full throughput", () =>
      Effect.gen(function* () {
        const fifo = yield* overloaded("fifo", 400)
        const adaptive = yield* overloaded("adaptive", 400)
        assert.strictEqual(adaptive.started.length, fifo.started.length)
        // First come first served, everyone waits for as long as the overload has lasted.
        assert.isAbove(fifo.waits.at(-1) ?? 0, 900)
        assert.isAtMost(Math.max(...adaptive.waits.slice(20)), 10)
        const { waiting } = yield* adaptive.bulkhead.state
        assert.isAtMost(waiting, 3)
        assert.isAbove((yield* adaptive.bulkhead.statistics).dropped, 150)
      })
    )

    it.effect("has a target of 5 ms and an interval of 100 ms by default", () =>
      Effect.gen(function* () {
        const orderOf = Effect.fnUntraced(function* (overload?: Bulkhead.OverloadOptions) {
          const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 99, order: "adaptive", overload })
          const log: Array<number> = []
          for (let i = 0; i < 200; i++) {
            yield* Effect.sync(() => log.push(i)).pipe(
              Effect.andThen(Effect.sleep(3)),
              bulkhead.execute,
              Effect.ignore,
              Effect.forkChild(start)
            )
            yield* TestClock.adjust(i < 100 ? 2 : 4)
          }
          return log
        })
        const byDefault = yield* orderOf()
        assert.deepStrictEqual(byDefault, yield* orderOf({ target: 5, interval: 100 }))
        assert.notDeepEqual(byDefault, yield* orderOf({ target: 4, interval: 100 }))
        assert.notDeepEqual(byDefault, yield* orderOf({ target: 5, interval: 95 }))
      })
    )

    it.effect("takes it for overload only when nobody came through within the target during the whole interval", () =>
      Effect.gen(function* () {
        const overload = { target: 50, interval: 200 }
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 99, order: "adaptive", overload })
        const log: Array<number> = []
        const call = (i: number) =>
          Effect.sync(() => log.push(i)).pipe(
            Effect.andThen(Effect.sleep(60)),
            bulkhead.execute,
            Effect.ignore,
            Effect.forkChild(start)
          )
        yield* Effect.forEach(
          Array.from({ length: 12 }, (_, i) => i),
          call
        )
        // Served at 60, 120, 180 and 240: the interval has not passed since the first of them.
        yield* TestClock.adjust(240)
        assert.deepStrictEqual(log, [0, 1, 2, 3, 4])
        // At 300 it has: from then on the last, and those over 100 ms are refused.
        yield* TestClock.adjust(60)
        assert.deepStrictEqual(log, [0, 1, 2, 3, 4, 11])
        assert.strictEqual((yield* bulkhead.state).waiting, 0)
        assert.strictEqual((yield* bulkhead.statistics).dropped, 6)
        // A place that finds nobody waiting ends the overload.
        yield* TestClock.adjust(60)
        yield* Effect.forEach([20, 21, 22], call)
        yield* TestClock.adjust(200)
        assert.deepStrictEqual(log.slice(-3), [20, 21, 22])
      })
    )
  })

  describe("statistics", () => {
    it.effect("counts what became of every call, and the most there ever were", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2, maxQueued: 2, maxWait: 100 })
        const fork = Effect.sleep(150).pipe(bulkhead.execute, Effect.ignore, Effect.forkChild(start))
        yield* fork
        yield* fork
        const left = yield* fork
        yield* fork
        yield* fork
        yield* Fiber.interrupt(left)
        yield* TestClock.adjust(1_000)
        yield* bulkhead.execute(Effect.void)
        assert.deepStrictEqual(yield* bulkhead.statistics, {
          admitted: 3,
          refused: 1,
          timedOut: 1,
          dropped: 0,
          left: 1,
          mostRunning: 2,
          mostWaiting: 2
        })
      })
    )
  })

  describe("against a simple model", () => {
    interface Entry {
      readonly id: number
      readonly priority: Priority.Priority
    }

    // What a bulkhead does, with arrays and searches.
    class Model {
      running: Array<Entry> = []
      waiting: Array<Entry> = []
      refused = 0
      dropped = 0
      left = 0
      admitted = 0
      private readonly served = new Map<Priority.Priority, number>()
      private time = 0
      limit: number
      readonly maxQueued: number
      readonly mode: "ignored" | "strict" | "weighted"
      constructor(limit: number, maxQueued: number, mode: "ignored" | "strict" | "weighted") {
        this.limit = limit
        this.maxQueued = maxQueued
        this.mode = mode
      }
      line(priority: Priority.Priority) {
        return this.waiting.filter((one) => one.priority === priority)
      }
      arrive(entry: Entry) {
        if (this.running.length < this.limit) {
          this.admitted++
          this.running.push(entry)
          return
        }
        if (this.waiting.length >= this.maxQueued) {
          const victim = this.maxQueued === 0 ? undefined : this.victim(entry)
          if (victim === undefined) {
            this.refused++
            return
          }
          this.dropped++
          this.waiting = this.waiting.filter((one) => one !== victim)
        }
        if (this.line(entry.priority).length === 0) {
          this.served.set(entry.priority, Math.max(this.served.get(entry.priority) ?? 0, this.time))
        }
        this.waiting.push(entry)
      }
      victim(entry: Entry): Entry | undefined {
        if (this.mode === "ignored") return undefined
        if (this.mode === "strict") {
          const lower = Priority.all.slice(Priority.all.indexOf(entry.priority) + 1).toReversed()
          return lower.map((priority) => this.line(priority).at(-1)).find((one) => one !== undefined)
        }
        const share = (priority: Priority.Priority, extra: number) =>
          (this.line(priority).length + extra) / weights[priority]
        const [most] = Priority.all
          .filter((priority) => priority !== entry.priority)
          .toSorted((a, b) => share(b, 0) - share(a, 0))
        return most !== undefined && share(most, 0) > share(entry.priority, 1) ? this.line(most).at(-1) : undefined
      }
      fill() {
        while (this.waiting.length > 0 && this.running.length < this.limit) {
          const next = this.next()
          this.waiting = this.waiting.filter((one) => one !== next)
          this.admitted++
          this.running.push(next)
        }
      }
      next(): Entry {
        const present = Priority.all.filter((priority) => this.line(priority).length > 0)
        if (this.mode === "ignored") return this.waiting[0]!
        if (this.mode === "strict") return this.line(present[0]!)[0]!
        const chosen = present.toSorted((a, b) => (this.served.get(a) ?? 0) - (this.served.get(b) ?? 0))[0]!
        const before = this.served.get(chosen) ?? 0
        this.time = Math.max(this.time, before)
        this.served.set(chosen, before + 1 / weights[chosen])
        return this.line(chosen)[0]!
      }
      gone(id: number) {
        if (this.waiting.some((one) => one.id === id)) this.left++
        this.waiting = this.waiting.filter((one) => one.id !== id)
        this.running = this.running.filter((one) => one.id !== id)
        this.fill()
      }
      resize(to: number) {
        this.limit = to
        this.fill()
      }
    }
    const weights = { critical: 8, high: 4, normal: 2, low: 1 }

    for (const mode of ["ignored", "strict", "weighted"] as const) {
      it.effect.each([1, 2, 3, 4, 5, 6])(`does the same with priorities ${mode}, seed %i`, (seed) =>
        Effect.gen(function* () {
          const maxQueued = yield* Random.nextIntBetween(0, 7)
          const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2, maxQueued, priorities: mode })
          const model = new Model(2, maxQueued, mode)
          const running = new Set<number>()
          const calls = new Map<number, { readonly gate: Deferred.Deferred<void>; readonly fiber: Fiber.Fiber<void> }>()
          for (let id = 0; id < 400; id++) {
            const step = yield* Random.nextIntBetween(0, 10)
            const known = Array.from(calls.keys())
            const victim = known[yield* Random.nextIntBetween(0, Math.max(1, known.length))]
            if (step < 5 || victim === undefined) {
              const priority = Priority.all[yield* Random.nextIntBetween(0, 3)] ?? "normal"
              const gate = yield* Deferred.make<void>()
              const fiber = yield* Effect.sync(() => running.add(id)).pipe(
                Effect.andThen(Deferred.await(gate)),
                Effect.ensuring(Effect.sync(() => running.delete(id))),
                bulkhead.execute,
                Effect.ignore,
                Priority.as(priority),
                Effect.forkChild(start)
              )
              calls.set(id, { gate, fiber })
              model.arrive({ id, priority: mode === "ignored" ? "normal" : priority })
            } else if (step < 9) {
              const call = calls.get(victim)!
              calls.delete(victim)
              if (step < 7 && running.has(victim)) yield* Deferred.succeed(call.gate, undefined)
              else yield* Effect.forkChild(Fiber.interrupt(call.fiber), start)
              model.gone(victim)
            } else {
              const to = yield* Random.nextIntBetween(1, 4)
              yield* bulkhead.resize(to)
              model.resize(to)
            }
            yield* TestClock.adjust(0)
            assert.sameMembers(
              Array.from(running),
              model.running.map((one) => one.id)
            )
            const { admitted, dropped, left, refused } = yield* bulkhead.statistics
            assert.deepStrictEqual(
              { ...(yield* bulkhead.state), admitted, dropped, left, refused },
              {
                maxConcurrent: model.limit,
                running: model.running.length,
                waiting: model.waiting.length,
                admitted: model.admitted,
                dropped: model.dropped,
                left: model.left,
                refused: model.refused
              }
            )
          }
        }).pipe(Random.withSeed(seed))
      )
    }
  })

  describe("makeKeyed", () => {
    it.effect("gives every key its own places, and forgets a key that nobody uses", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 1 })
        const gate = yield* Deferred.make<void>()
        const log: Array<string> = []
        const fork = (key: string, name: string) =>
          call(log, name, gate).pipe(bulkhead.execute({ key }), Effect.forkChild(start))
        yield* fork("a", "a1")
        yield* fork("b", "b1")
        yield* fork("a", "a2")
        assert.deepStrictEqual(log, ["a1", "b1"])
        const refused = yield* Effect.void.pipe(bulkhead.execute({ key: "a" }), Effect.flip)
        assert.deepStrictEqual([refused.key, refused.running, refused.waiting], ["a", 1, 1])
        assert.strictEqual(refused.message, 'Bulkhead "a" full: 1 running, 1 waiting')
        assert.deepStrictEqual(yield* bulkhead.states, [
          { key: "a", maxConcurrent: 1, running: 1, waiting: 1 },
          { key: "b", maxConcurrent: 1, running: 1, waiting: 0 }
        ])
        yield* Deferred.succeed(gate, undefined)
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(log, ["a1", "b1", "a2"])
        assert.deepStrictEqual(yield* bulkhead.states, [])
        assert.deepStrictEqual(yield* bulkhead.state("a"), { maxConcurrent: 1, running: 0, waiting: 0 })
        const { admitted, mostRunning, refused: count } = yield* bulkhead.statistics
        assert.deepStrictEqual([admitted, mostRunning, count], [3, 1, 1])
      })
    )

    it.effect("refuses a new key while maxKeys are in use, even where calls may wait", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 5, maxKeys: 2 })
        const fork = (key: string) => Effect.never.pipe(bulkhead.execute({ key }), Effect.forkChild(start))
        const first = yield* fork("a")
        yield* fork("b")
        const refused = yield* Effect.void.pipe(bulkhead.execute({ key: "c" }), Effect.flip)
        assert.strictEqual(refused.message, 'Bulkhead "c" full: too many keys are in use')
        yield* fork("b")
        assert.strictEqual((yield* bulkhead.state("b")).waiting, 1)
        yield* Fiber.interrupt(first)
        yield* Effect.void.pipe(bulkhead.execute({ key: "c" }))
      })
    )

    it.effect("resizes every key, those to come as well", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 5 })
        const fork = (key: string) => Effect.never.pipe(bulkhead.execute({ key }), Effect.forkChild(start))
        yield* fork("a")
        yield* fork("a")
        yield* bulkhead.resize(2)
        assert.deepStrictEqual(yield* bulkhead.state("a"), { maxConcurrent: 2, running: 2, waiting: 0 })
        assert.strictEqual((yield* bulkhead.state("b")).maxConcurrent, 2)
        yield* fork("b")
        yield* fork("b")
        assert.strictEqual((yield* bulkhead.state("b")).running, 2)
      })
    )

    it.effect("leaks nothing when interrupted at any operation, and keeps no key", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 1, maxKeys: 1 })
        const guarded = bulkhead.execute({ key: "key" })
        const empty = Effect.map(bulkhead.states, (states) => assert.deepStrictEqual(states, []))
        const contended = Effect.gen(function* () {
          yield* Effect.yieldNow.pipe(guarded, Effect.forkChild(start))
          yield* guarded(Effect.void)
        })
        assert.isAbove(yield* interruptEverywhere(contended, empty), 8)
      })
    )

    it("adds nothing but BulkheadFull to the type of a call", () => {
      const guarded = (bulkhead: Bulkhead.KeyedBulkhead, self: Effect.Effect<number, "E", "R">) =>
        bulkhead.execute({ key: "key" })(self)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | Bulkhead.BulkheadFull, "R">>()
    })

    it.effect("dies on { maxKeys: 0 }", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Bulkhead.makeKeyed({ maxConcurrent: 1, maxKeys: 0 }))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, "Bulkhead: maxKeys must be an integer >= 1, got 0")
      })
    )
  })

  describe("with a maxWait", () => {
    it.effect("refuses a waiter after that long, and the others keep their places", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 3, maxWait: "1 second" })
        const log: Array<string> = []
        yield* Effect.sleep(1500).pipe(bulkhead.execute, Effect.forkChild(start))
        const early = yield* Effect.die("must not run").pipe(bulkhead.execute, Effect.flip, Effect.forkChild(start))
        yield* TestClock.adjust(600)
        const later = yield* Effect.sync(() => log.push("later")).pipe(bulkhead.execute, Effect.forkChild(start))
        yield* TestClock.adjust(399)
        assert.strictEqual((yield* bulkhead.state).waiting, 2)
        yield* TestClock.adjust(1)
        const refused = yield* Fiber.join(early)
        assert.deepStrictEqual([refused._tag, refused.running, refused.waiting], ["BulkheadFull", 1, 1])
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(later)
        assert.deepStrictEqual(log, ["later"])
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
      })
    )

    it.effect("does not limit the call itself, and keeps no timer for one that was served or left", () =>
      Effect.gen(function* () {
        const sleeping = new Set<number>()
        const real = yield* Clock.Clock
        let sleeps = 0
        const clock: Clock.Clock = {
          ...real,
          sleep: (duration) => {
            const id = sleeps++
            sleeping.add(id)
            return Effect.ensuring(
              real.sleep(duration),
              Effect.sync(() => sleeping.delete(id))
            )
          }
        }
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 3, maxWait: "1 second" })
        const gate = yield* Deferred.make<void>()
        const holder = yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        const fork = Effect.provideService(bulkhead.execute(Deferred.await(gate)), Clock.Clock, clock).pipe(
          Effect.forkChild(start)
        )
        const served = yield* fork
        const left = yield* fork
        assert.strictEqual(sleeping.size, 2)
        yield* Fiber.interrupt(left)
        assert.strictEqual(sleeping.size, 1)
        yield* Fiber.interrupt(holder)
        assert.strictEqual(sleeping.size, 0)
        yield* TestClock.adjust("1 minute")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(served)
      })
    )

    it.effect("waits without limit by default", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        yield* Effect.void.pipe(bulkhead.execute, Effect.forkChild(start))
        yield* TestClock.adjust("1000 days")
        assert.strictEqual((yield* bulkhead.state).waiting, 1)
      })
    )

    it.effect("never waits with a maxWait of zero", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 3, maxWait: 0 })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        assert.strictEqual((yield* Effect.flip(bulkhead.execute(Effect.void)))._tag, "BulkheadFull")
      })
    )
  })

  describe("with a deadline", () => {
    it.effect("leaves the queue when the deadline around it ends", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        const waiter = yield* Effect.die("must not run").pipe(
          bulkhead.execute,
          Deadline.within("1 second"),
          Effect.flip,
          Effect.forkChild(start)
        )
        assert.strictEqual((yield* bulkhead.state).waiting, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(waiter))._tag, "DeadlineExceeded")
        assert.strictEqual((yield* bulkhead.state).waiting, 0)
      })
    )

    it.effect("does not join the queue with no time left", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        // Work that outlives the fiber which enforces its deadline.
        const late = yield* Effect.sleep(200).pipe(
          Effect.andThen(bulkhead.execute(Effect.void)),
          Effect.flip,
          Effect.forkDetach(start),
          Deadline.within(100)
        )
        yield* TestClock.adjust(200)
        const refused = yield* Fiber.join(late)
        assert.strictEqual(refused._tag, "BulkheadFull")
        assert.strictEqual(refused.waiting, 0)
      })
    )
  })

  describe("resize", () => {
    it.effect("gives new places to those who wait, in order", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 5 })
        const gate = yield* Deferred.make<void>()
        const log: Array<string> = []
        for (const name of ["a", "b", "c", "d"]) {
          yield* call(log, name, gate).pipe(bulkhead.execute, Effect.forkChild(start))
        }
        yield* bulkhead.resize(3)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 3, running: 3, waiting: 1 })
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(log, ["a", "b", "c"])
      })
    )

    it.effect("lets running calls finish and replaces none of them until they are few enough", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 3, maxQueued: 5 })
        const fork = (millis: number) => Effect.sleep(millis).pipe(bulkhead.execute, Effect.forkChild(start))
        yield* Effect.forEach([10, 20, 30, 5, 5], fork)
        yield* bulkhead.resize(1)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 3, waiting: 2 })
        yield* TestClock.adjust(20)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 1, waiting: 2 })
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 1, waiting: 1 })
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(yield* bulkhead.state, { maxConcurrent: 1, running: 0, waiting: 0 })
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ maxConcurrent: 0 }, "Bulkhead: maxConcurrent must be an integer >= 1, got 0"],
      [{ maxConcurrent: 1.5 }, "Bulkhead: maxConcurrent must be an integer >= 1, got 1.5"],
      [{ maxConcurrent: NaN }, "Bulkhead: maxConcurrent must be an integer >= 1, got NaN"],
      [{ maxConcurrent: 1, maxQueued: -1 }, "Bulkhead: maxQueued must be an integer >= 0, got -1"],
      [{ maxConcurrent: 1, maxQueued: Infinity }, "Bulkhead: maxQueued must be an integer >= 0, got Infinity"],
      [{ maxConcurrent: 1, maxWait: -1 }, "Bulkhead: maxWait must be zero or more, got -1"],
      [{ maxConcurrent: 1, weights: { low: 0 } }, "Bulkhead: weights.low must be a finite number > 0, got 0"],
      [
        { maxConcurrent: 1, overload: { target: 0 } },
        "Bulkhead: overload.target must be a finite duration over zero, got 0"
      ],
      [
        { maxConcurrent: 1, overload: { interval: Infinity } },
        "Bulkhead: overload.interval must be a finite duration over zero, got Infinity"
      ]
    ] as const)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Bulkhead.make(options))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, message)
      })
    )

    it.effect("dies when resized to nonsense, and stays as it was", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2 })
        assert.isTrue(Exit.isFailure(yield* Effect.exit(bulkhead.resize(0))))
        assert.strictEqual((yield* bulkhead.state).maxConcurrent, 2)
      })
    )

    it("adds nothing but BulkheadFull to the type of a call", () => {
      const guarded = (bulkhead: Bulkhead.Bulkhead, self: Effect.Effect<number, "E", "R">) => bulkhead.execute(self)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | Bulkhead.BulkheadFull, "R">>()
    })
  })

  describe("layer", () => {
    it.effect("provides the bulkhead of a context", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.Bulkhead
        assert.strictEqual((yield* bulkhead.state).maxConcurrent, 7)
      }).pipe(Effect.provide(Bulkhead.layer({ maxConcurrent: 7 })))
    )

    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.Bulkhead
        assert.strictEqual((yield* bulkhead.state).maxConcurrent, 4)
      }).pipe(
        Effect.provide(
          Layer.provide(
            Bulkhead.layerConfig({ maxConcurrent: Config.Int("MAX_CONCURRENT"), maxQueued: Config.Int("MAX_QUEUED") }),
            ConfigProvider.layer(ConfigProvider.fromUnknown({ MAX_CONCURRENT: 4, MAX_QUEUED: 2 }))
          )
        )
      )
    )
  })
})
