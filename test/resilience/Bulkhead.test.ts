import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Config, ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, Random } from "effect"
import { Bulkhead, Deadline } from "effect-resilience"
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
      [{ maxConcurrent: 1, maxWait: -1 }, "Bulkhead: maxWait must be zero or more, got -1"]
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
