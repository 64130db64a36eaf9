import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber } from "effect"
import { Deadline, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const remainingMillis = Effect.map(Deadline.remaining, (left) =>
  left === undefined ? undefined : Duration.toMillis(left)
)

describe("Deadline", () => {
  describe("within", () => {
    it.effect("returns the result of work that ends in time", () =>
      Effect.gen(function* () {
        const fiber = yield* Effect.sleep(99).pipe(Effect.as("done"), Deadline.within(100), Effect.forkChild)
        yield* TestClock.adjust(99)
        assert.strictEqual(yield* Fiber.join(fiber), "done")
      })
    )

    it.effect("fails with DeadlineExceeded, which carries the time allowed, and interrupts the work", () =>
      Effect.gen(function* () {
        let stopped = false
        const fiber = yield* Effect.never.pipe(
          Effect.onInterrupt(() => Effect.sync(() => (stopped = true))),
          Deadline.within("5 seconds"),
          Effect.flip,
          Effect.forkChild
        )
        yield* TestClock.adjust(4999)
        assert.isFalse(stopped)
        yield* TestClock.adjust(1)
        const error = yield* Fiber.join(fiber)
        assert.isTrue(stopped)
        assert.strictEqual(error._tag, "DeadlineExceeded")
        assert.strictEqual(Duration.toMillis(error.after), 5000)
        assert.isTrue(error.started)
        assert.strictEqual(error.message, "Deadline exceeded after 5s")
      })
    )

    it.effect("does not start work when no time is left, and says so", () =>
      Effect.gen(function* () {
        for (const none of [0, -5, Duration.negativeInfinity]) {
          let started = false
          const error = yield* Effect.sync(() => (started = true)).pipe(Deadline.within(none), Effect.flip)
          assert.isFalse(started)
          assert.isFalse(error.started)
          assert.strictEqual(error.message, "Deadline exceeded before the work could start")
        }
      })
    )

    it.effect("does not start work in a fiber that has outlived the deadline it was forked under", () =>
      Effect.gen(function* () {
        let started = false
        const late = yield* Effect.sleep(200).pipe(
          Effect.andThen(Effect.sync(() => (started = true)).pipe(Deadline.within("1 hour"))),
          Effect.flip,
          Effect.forkDetach,
          Deadline.within(100)
        )
        yield* TestClock.adjust(200)
        const error = yield* Fiber.join(late)
        assert.isFalse(error.started)
        assert.isFalse(started)
      })
    )

    it.effect("is ended by an outer deadline that is tighter", () =>
      Effect.gen(function* () {
        const fiber = yield* Effect.sleep(30).pipe(
          Effect.andThen(Effect.never.pipe(Deadline.within(1000), Effect.flip)),
          Deadline.within(100),
          Effect.flip,
          Effect.forkChild
        )
        yield* TestClock.adjust(100)
        assert.strictEqual(Duration.toMillis((yield* Fiber.join(fiber)).after), 100)
      })
    )

    it.effect("holds the tighter end also for work that left the fiber which enforces it", () =>
      Effect.gen(function* () {
        const inner = yield* Effect.never.pipe(
          Deadline.within(1000),
          Effect.flip,
          Effect.forkDetach({ startImmediately: true }),
          Deadline.within(100)
        )
        yield* TestClock.adjust(100)
        assert.strictEqual(Duration.toMillis((yield* Fiber.join(inner)).after), 100)
      })
    )

    it.effect("can be nested tighter, and the time after it is the outer one again", () =>
      Effect.gen(function* () {
        const read = yield* Effect.gen(function* () {
          const outer = yield* remainingMillis
          const inner = yield* remainingMillis.pipe(Deadline.within(40))
          const after = yield* remainingMillis
          const wider = yield* remainingMillis.pipe(Deadline.within(4000))
          return [outer, inner, after, wider]
        }).pipe(Deadline.within(100))
        assert.deepStrictEqual(read, [100, 40, 100, 100])
      })
    )

    it.effect("does not report an interruption from outside as a deadline", () =>
      Effect.gen(function* () {
        const fiber = yield* Effect.never.pipe(Deadline.within(100), Effect.forkChild)
        yield* TestClock.adjust(50)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      })
    )

    it.effect("is not moved by a wall clock that is set back", () =>
      Effect.gen(function* () {
        yield* TestClock.adjust("1 hour")
        const fiber = yield* Effect.gen(function* () {
          yield* Effect.sleep(60)
          yield* TestClock.setTime(0)
          return yield* remainingMillis
        }).pipe(Deadline.within(100), Effect.forkChild)
        yield* TestClock.adjust(60)
        assert.strictEqual(yield* Fiber.join(fiber), 40)
      })
    )

    it.effect("tells its error from that of an attempt's timeout", () =>
      Effect.gen(function* () {
        const attempt = (millis: number) => Effect.never.pipe(Timeout.timeout(millis), Deadline.within(50), Effect.flip)
        const tight = yield* Effect.forkChild(attempt(20))
        const wide = yield* Effect.forkChild(attempt(80))
        yield* TestClock.adjust(80)
        assert.strictEqual((yield* Fiber.join(tight))._tag, "TimedOut")
        assert.strictEqual((yield* Fiber.join(wide))._tag, "DeadlineExceeded")
      })
    )

    it.effect("leaves no work running when interrupted at any operation", () =>
      Effect.gen(function* () {
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        ).pipe(Deadline.within("1 second"))
        const operations = yield* interruptEverywhere(
          call,
          Effect.sync(() => assert.strictEqual(running, 0))
        )
        assert.isAbove(operations, 2)
      })
    )

    it("adds DeadlineExceeded to the errors and nothing else", () => {
      const limited = (self: Effect.Effect<number, "E", "R">) => self.pipe(Deadline.within("1 second"))
      expectTypeOf(limited).returns.toEqualTypeOf<Effect.Effect<number, "E" | Deadline.DeadlineExceeded, "R">>()
    })
  })

  describe("remaining", () => {
    it.effect("is undefined without a deadline", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* remainingMillis, undefined)
        assert.strictEqual(yield* remainingMillis.pipe(Deadline.within(Duration.infinity)), undefined)
      })
    )

    it.effect("counts down, is inherited by children, and is never negative", () =>
      Effect.gen(function* () {
        const read: Array<number | undefined> = []
        const reader = Effect.gen(function* () {
          for (const wait of [0, 40, 60, 100]) {
            yield* Effect.sleep(wait)
            read.push(yield* remainingMillis)
          }
        })
        yield* reader.pipe(Effect.forkDetach({ startImmediately: true }), Deadline.within(100))
        yield* TestClock.adjust(200)
        assert.deepStrictEqual(read, [100, 60, 0, 0])
      })
    )
  })

  describe("remainingMillisUnsafe", () => {
    it.effect("reads the same from the fiber, Infinity without a deadline", () =>
      Effect.gen(function* () {
        const read = Effect.withFiberSucceed(Deadline.remainingMillisUnsafe)
        assert.strictEqual(yield* read, Infinity)
        assert.strictEqual(yield* read.pipe(Deadline.within(100)), 100)
      })
    )
  })

  describe("without", () => {
    it.effect("hides the deadline of the surroundings from what must outlive it", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* remainingMillis.pipe(Deadline.without, Deadline.within(100)), undefined)
      })
    )
  })
})
