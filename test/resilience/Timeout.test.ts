import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Logger } from "effect"
import { Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

// Work of a given length that keeps a record of how it ended.
const work = (millis: number, log: Array<string>) =>
  Effect.sleep(millis).pipe(
    Effect.as("done"),
    Effect.onExit((exit) => Effect.sync(() => log.push(Exit.isSuccess(exit) ? "finished" : "stopped")))
  )

describe("Timeout", () => {
  describe("timeout", () => {
    it.effect("returns the result of work that ends before the limit", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fiber = yield* work(999, log).pipe(Timeout.timeout("1 second"), Effect.forkChild)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* Fiber.join(fiber), "done")
        assert.deepStrictEqual(log, ["finished"])
      })
    )

    it.effect("fails with TimedOut, which carries the limit, and interrupts the work", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fiber = yield* work(1001, log).pipe(Timeout.timeout("1 second"), Effect.forkChild)
        yield* TestClock.adjust(999)
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* TestClock.adjust(1)
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.strictEqual(error._tag, "TimedOut")
        assert.strictEqual(Duration.toMillis(error.after), 1000)
        assert.strictEqual(error.message, "Timed out after 1s")
        assert.deepStrictEqual(log, ["stopped"])
      })
    )

    it.effect("limits each run of the same effect on its own", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const limited = Timeout.timeout(work(80, log), 100)
        const first = yield* Effect.forkChild(limited)
        yield* TestClock.adjust(50)
        const second = yield* Effect.forkChild(limited)
        yield* TestClock.adjust(30)
        assert.strictEqual(yield* Fiber.join(first), "done")
        yield* Effect.yieldNow
        yield* Fiber.interrupt(second)
        assert.deepStrictEqual(log, ["finished", "stopped"])
      })
    )

    it.effect("answers only after the finalizers of the interrupted work have run", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fiber = yield* Effect.never.pipe(
          Effect.ensuring(
            Effect.andThen(
              Effect.sleep(50),
              Effect.sync(() => log.push("released"))
            )
          ),
          Timeout.timeout(10),
          Effect.forkChild
        )
        yield* TestClock.adjust(59)
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "TimedOut")
        assert.deepStrictEqual(log, ["released"])
      })
    )

    it.effect("keeps the result of work that ends at the same tick, when that was due first", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fiber = yield* work(100, log).pipe(Timeout.timeout(100), Effect.forkChild)
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* Fiber.join(fiber), "done")
        assert.deepStrictEqual(log, ["finished"])
      })
    )

    it.effect("times out work that would end at the same tick, when the limit was due first", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fiber = yield* Effect.sleep(50).pipe(
          Effect.andThen(work(50, log)),
          Timeout.timeout(100),
          Effect.forkChild
        )
        yield* TestClock.adjust(100)
        assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "TimedOut")
        assert.deepStrictEqual(log, ["stopped"])
      })
    )

    it.effect("waits for work that ignores interruption and still reports the timeout", () =>
      Effect.gen(function* () {
        const fiber = yield* Effect.uninterruptible(Effect.sleep(500)).pipe(
          Effect.as("late"),
          Timeout.timeout(100),
          Effect.forkChild
        )
        yield* TestClock.adjust(499)
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "TimedOut")
      })
    )

    it.effect("reports the timeout, and not a failure that comes after it", () =>
      Effect.gen(function* () {
        const fiber = yield* Effect.sleep(500).pipe(
          Effect.andThen(Effect.fail("late")),
          Effect.uninterruptible,
          Timeout.timeout(100),
          Effect.forkChild
        )
        yield* TestClock.adjust(500)
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.instanceOf(error, Timeout.TimedOut)
      })
    )

    it.effect("passes a failure and a defect of the work on", () =>
      Effect.gen(function* () {
        const failure = yield* Effect.exit(Effect.fail("no").pipe(Timeout.timeout(10)))
        assert.deepStrictEqual(failure, Exit.fail("no"))
        const later = yield* Effect.sleep(5).pipe(
          Effect.andThen(Effect.die("bug")),
          Timeout.timeout(10),
          Effect.exit,
          Effect.forkChild
        )
        yield* TestClock.adjust(5)
        assert.deepStrictEqual(yield* Fiber.join(later), Exit.die("bug"))
      })
    )

    it.effect("does not report an interruption from outside as a timeout", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fiber = yield* work(1000, log).pipe(Timeout.timeout(100), Effect.forkChild)
        yield* TestClock.adjust(50)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.deepStrictEqual(log, ["stopped"])
      })
    )

    it.effect("starts no timer for work that ends at once", () =>
      Effect.gen(function* () {
        const sleeps: Array<number> = []
        yield* Effect.succeed(1).pipe(Timeout.timeout(100), recordingSleeps(sleeps))
        yield* Effect.exit(Effect.fail(1).pipe(Timeout.timeout(100), recordingSleeps(sleeps)))
        assert.deepStrictEqual(sleeps, [])
      })
    )

    it.effect("sets its timer to whole milliseconds, which a timer does not cut off", () =>
      Effect.gen(function* () {
        const sleeps: Array<number> = []
        const fiber = yield* Effect.never.pipe(
          Timeout.timeout(Duration.micros(99_500n)),
          recordingSleeps(sleeps),
          Effect.forkChild({ startImmediately: true })
        )
        assert.deepStrictEqual(sleeps, [100])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect("stops the timer on success, failure and interruption", () =>
      Effect.gen(function* () {
        const sleeps: Array<number> = []
        for (const end of ["success", "failure", "interruption"] as const) {
          const answer = yield* Deferred.make<void, string>()
          const fiber = yield* Deferred.await(answer).pipe(
            Timeout.timeout(100),
            recordingSleeps(sleeps),
            Effect.forkChild({ startImmediately: true })
          )
          assert.deepStrictEqual(sleeps, [100])
          if (end === "success") yield* Deferred.succeed(answer, undefined)
          if (end === "failure") yield* Deferred.fail(answer, "no")
          if (end === "interruption") yield* Fiber.interrupt(fiber)
          yield* Fiber.await(fiber)
          assert.deepStrictEqual(sleeps, [])
        }
      })
    )

    it.effect("does not start work that has no time, and times it out", () =>
      Effect.gen(function* () {
        for (const none of [0, -1, Number.NaN, Duration.negativeInfinity]) {
          let started = false
          const error = yield* Effect.sync(() => (started = true)).pipe(Timeout.timeout(none), Effect.flip)
          assert.strictEqual(error._tag, "TimedOut")
          assert.isFalse(started)
        }
      })
    )

    it.effect("starts no timer when the limit is infinite", () =>
      Effect.gen(function* () {
        const sleeps: Array<number> = []
        const fiber = yield* Effect.never.pipe(
          Timeout.timeout(Duration.infinity),
          recordingSleeps(sleeps),
          Effect.forkChild({ startImmediately: true })
        )
        assert.deepStrictEqual(sleeps, [])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect("lets the tighter of two nested limits fire first, and tells which it was", () =>
      Effect.gen(function* () {
        const nested = (inner: number, outer: number) =>
          Effect.never.pipe(Timeout.timeout(inner), Timeout.timeout(outer), Effect.flip, Effect.forkChild)
        const inner = yield* nested(10, 20)
        const outer = yield* nested(20, 10)
        yield* TestClock.adjust(20)
        assert.strictEqual(Duration.toMillis((yield* Fiber.join(inner)).after), 10)
        assert.strictEqual(Duration.toMillis((yield* Fiber.join(outer)).after), 10)
      })
    )

    it.effect("runs the work in the caller's context", () =>
      Effect.gen(function* () {
        const name = Effect.service(Name).pipe(Timeout.timeout("1 second"), Effect.provideService(Name, "ada"))
        assert.strictEqual(yield* name, "ada")
      })
    )

    it.effect("leaves no work running when interrupted at any operation", () =>
      Effect.gen(function* () {
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        ).pipe(Timeout.timeout("1 second"))
        const operations = yield* interruptEverywhere(
          call,
          Effect.sync(() => assert.strictEqual(running, 0))
        )
        assert.isAbove(operations, 2)
      })
    )

    it("adds TimedOut to the errors and nothing else", () => {
      const guarded = (self: Effect.Effect<number, "E", Name>) => self.pipe(Timeout.timeout("1 second"))
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | Timeout.TimedOut, Name>>()
      expectTypeOf(Timeout.timeout(Effect.succeed(1), 1)).toEqualTypeOf<Effect.Effect<number, Timeout.TimedOut>>()
    })
  })

  describe("makeLeaving", () => {
    // Work that ignores interruption for so long.
    const stubborn = (millis: number, log: Array<string> = []) => Effect.uninterruptible(work(millis, log))

    it.effect("answers when the time is up, and leaves what does not end to end on its own, counted", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const timeout = yield* Timeout.makeLeaving({ after: 100 })
        const fiber = yield* stubborn(500, log).pipe(timeout.execute, Effect.forkChild)
        yield* TestClock.adjust(99)
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 0 })
        yield* TestClock.adjust(1)
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.strictEqual(error._tag, "TimedOut")
        assert.strictEqual(Duration.toMillis(error.after), 100)
        assert.deepStrictEqual(yield* timeout.state, { running: 1, total: 1 })
        assert.deepStrictEqual(log, [])
        yield* TestClock.adjust(400)
        assert.deepStrictEqual(log, ["finished"])
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 1 })
      })
    )

    it.effect("interrupts what it leaves, and lets its finalizers run to their end", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const timeout = yield* Timeout.makeLeaving({ after: 10 })
        const fiber = yield* Effect.never.pipe(
          Effect.ensuring(
            Effect.andThen(
              Effect.sleep(50),
              Effect.sync(() => log.push("released"))
            )
          ),
          timeout.execute,
          Effect.forkChild
        )
        yield* TestClock.adjust(10)
        assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "TimedOut")
        assert.deepStrictEqual(yield* timeout.state, { running: 1, total: 1 })
        yield* TestClock.adjust(50)
        assert.deepStrictEqual(log, ["released"])
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 1 })
      })
    )

    it.effect("does not count work that ends when it is interrupted", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const timeout = yield* Timeout.makeLeaving({ after: 10 })
        const fiber = yield* work(100, log).pipe(timeout.execute, Effect.forkChild)
        yield* TestClock.adjust(10)
        assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "TimedOut")
        assert.deepStrictEqual(log, ["stopped"])
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 0 })
      })
    )

    it.effect("waits for the work while as many as may are left behind", () =>
      Effect.gen(function* () {
        const timeout = yield* Timeout.makeLeaving({ after: 100, maxLeft: 2 })
        const call = stubborn(500).pipe(timeout.execute, Effect.forkChild)
        const fibers = yield* Effect.all([call, call, call])
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(
          fibers.map((fiber) => fiber.pollUnsafe() !== undefined),
          [true, true, false]
        )
        assert.deepStrictEqual(yield* timeout.state, { running: 2, total: 2 })
        yield* TestClock.adjust(400)
        assert.strictEqual((yield* Effect.flip(Fiber.join(fibers[2])))._tag, "TimedOut")
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 2 })
        const next = yield* call
        yield* TestClock.adjust(100)
        assert.isDefined(next.pollUnsafe())
        yield* TestClock.adjust(400)
      })
    )

    it.effect("leaves 16 behind by default", () =>
      Effect.gen(function* () {
        const timeout = yield* Timeout.makeLeaving({ after: 1 })
        yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(timeout.execute(stubborn(50))))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* timeout.state, { running: 16, total: 16 })
        yield* TestClock.adjust(50)
      })
    )

    it.effect("passes results, failures and defects on, and says nothing of a failure that comes too late", () =>
      Effect.gen(function* () {
        const lines: Array<unknown> = []
        const timeout = yield* Timeout.makeLeaving({ after: 100 })
        assert.strictEqual(yield* timeout.execute(Effect.succeed(1)), 1)
        assert.deepStrictEqual(yield* Effect.exit(timeout.execute(Effect.fail("no"))), Exit.fail("no"))
        assert.deepStrictEqual(yield* Effect.exit(timeout.execute(Effect.die("bug"))), Exit.die("bug"))
        const late = yield* Effect.sleep(200).pipe(
          Effect.andThen(Effect.fail("late")),
          Effect.uninterruptible,
          timeout.execute,
          Effect.provide(Logger.layer([Logger.make(({ message }) => lines.push(message))])),
          Effect.forkChild
        )
        yield* TestClock.adjust(300)
        assert.strictEqual((yield* Effect.flip(Fiber.join(late))) instanceof Timeout.TimedOut, true)
        assert.deepStrictEqual(lines, [])
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 1 })
      })
    )

    it.effect("waits for the work when interrupted from outside, and counts nothing", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const timeout = yield* Timeout.makeLeaving({ after: 100 })
        const fiber = yield* stubborn(80, log).pipe(timeout.execute, Effect.forkChild)
        yield* TestClock.adjust(50)
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber))
        yield* TestClock.adjust(29)
        assert.strictEqual(interrupting.pollUnsafe(), undefined)
        yield* TestClock.adjust(1)
        assert.isDefined(interrupting.pollUnsafe())
        assert.deepStrictEqual(log, ["finished"])
        assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 0 })
      })
    )

    it.effect("does not limit anything when its time is infinite", () =>
      Effect.gen(function* () {
        const timeout = yield* Timeout.makeLeaving({ after: "Infinity" })
        const call = Effect.succeed(1)
        assert.strictEqual(timeout.execute(call), call)
      })
    )

    it.effect("leaves no work running uncounted when interrupted at any operation", () =>
      Effect.gen(function* () {
        let running = 0
        const timeout = yield* Timeout.makeLeaving({ after: "1 second" })
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        ).pipe(timeout.execute)
        const operations = yield* interruptEverywhere(
          call,
          Effect.gen(function* () {
            assert.strictEqual(running, 0)
            assert.deepStrictEqual(yield* timeout.state, { running: 0, total: 0 })
          })
        )
        assert.isAbove(operations, 2)
      })
    )

    it.effect.each([
      [{ after: 0 }, "Timeout: after must be over zero, got 0"],
      [{ after: -1 }, "Timeout: after must be over zero, got -1"],
      [{ after: 1, maxLeft: 0 }, "Timeout: maxLeft must be an integer >= 1, got 0"],
      [{ after: 1, maxLeft: 1.5 }, "Timeout: maxLeft must be an integer >= 1, got 1.5"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Timeout.makeLeaving(options))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", message)
      })
    )

    it("adds TimedOut to the errors and nothing else", () => {
      const guarded = (timeout: Timeout.Leaving, self: Effect.Effect<number, "E", Name>) => self.pipe(timeout.execute)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | Timeout.TimedOut, Name>>()
    })
  })
})

type Name = "Name"
const Name = Context.Service<Name, string>("test/Name")

// A clock whose sleeps never end by themselves, and are listed while they last.
const recordingSleeps = (sleeps: Array<number>) =>
  Effect.updateService(Clock.Clock, (clock): Clock.Clock => ({
    ...clock,
    sleep: (duration) =>
      Effect.acquireUseRelease(
        Effect.sync(() => sleeps.push(Duration.toMillis(duration))),
        () => Effect.never,
        () => Effect.sync(() => sleeps.pop())
      )
  }))
