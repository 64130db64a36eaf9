import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Config, ConfigProvider, Context, Duration, Effect, Exit, Fiber, Layer, Random } from "effect"
import { AdaptiveTimeout, Deadline, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

// Makes calls of these lengths one after the other, and tells how each ended.
const calls = (timeout: AdaptiveTimeout.AdaptiveTimeout, lengths: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(
      Effect.forEach(lengths, (length) =>
        Effect.sleep(length).pipe(
          timeout.execute,
          Effect.as("ok" as const),
          Effect.catchTag("TimedOut", ({ after }) => Effect.succeed(Duration.toMillis(after)))
        )
      )
    )
    yield* TestClock.adjust("30 days")
    return yield* Fiber.join(fiber)
  })

const same = (length: number, times: number) => Array.from({ length: times }, () => length)
const limitOf = (timeout: AdaptiveTimeout.AdaptiveTimeout) =>
  Effect.map(timeout.state, ({ limit }) => Duration.toMillis(limit))
const between = (value: number, low: number, high: number) =>
  assert.isTrue(value >= low && value <= high, `${value} is not between ${low} and ${high}`)

describe("AdaptiveTimeout", () => {
  describe("execute", () => {
    it.effect("gives the ceiling until there are enough samples, then the factor times the percentile", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: "10 seconds", factor: 3, minSamples: 20 })
        yield* calls(timeout, same(100, 19))
        assert.strictEqual(yield* limitOf(timeout), 10_000)
        yield* calls(timeout, [100])
        between(yield* limitOf(timeout), 292, 308)
        const limit = yield* limitOf(timeout)
        assert.deepStrictEqual(yield* calls(timeout, [limit - 1, limit + 1]), ["ok", limit])
      })
    )

    it.effect("has the defaults its documentation names", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: "10 seconds" })
        const lengths = Array.from({ length: 99 }, (_, index) => (index < 93 ? 100 : 1000))
        yield* calls(timeout, lengths)
        assert.strictEqual(yield* limitOf(timeout), 10_000)
        // With 94 of 100, the 95th percentile is one of the slow ones, and twice that the limit.
        yield* calls(timeout, [100])
        between(yield* limitOf(timeout), 1950, 2050)
        yield* calls(timeout, same(100, 200))
        between(yield* limitOf(timeout), 195, 205)
        yield* calls(timeout, same(1, 5000))
        assert.strictEqual(yield* limitOf(timeout), 50)
        const short = yield* AdaptiveTimeout.make({ ceiling: 20, minSamples: 1 })
        yield* calls(short, [1])
        assert.strictEqual(yield* limitOf(short), 20)
      })
    )

    it.effect("stays between floor and ceiling", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 1000, floor: 200, minSamples: 1 })
        yield* calls(timeout, [10])
        assert.strictEqual(yield* limitOf(timeout), 200)
        const slow = yield* AdaptiveTimeout.make({ ceiling: 1000, floor: 200, minSamples: 1 })
        yield* calls(slow, [800])
        assert.strictEqual(yield* limitOf(slow), 1000)
      })
    )

    it.effect("follows a dependency that gets slower without cutting it off, whatever the factor", () =>
      Effect.gen(function* () {
        for (const factor of [1, 2]) {
          const timeout = yield* AdaptiveTimeout.make({ ceiling: "30 seconds", factor })
          yield* calls(timeout, same(50, 3000))
          const ends = yield* calls(timeout, same(5000, 500))
          const timedOut = ends.filter((end) => end !== "ok").length
          // From 50 ms to 5 s the limit is doubled 7 times at most, and then stays until the percentile has followed.
          assert.isAtMost(
            ends.findIndex((end) => end === "ok"),
            7
          )
          assert.isAtMost(timedOut, 7)
          between(yield* limitOf(timeout), 4875 * factor, 5125 * factor)
        }
      })
    )

    it.effect("comes down again when the dependency gets faster", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: "30 seconds" })
        yield* calls(timeout, same(5000, 2000))
        between(yield* limitOf(timeout), 9750, 10_250)
        yield* calls(timeout, same(100, 3100))
        between(yield* limitOf(timeout), 195, 205)
      })
    )

    it.effect("reaches the ceiling while nothing answers, and comes back after one quick answer", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 1000 })
        yield* calls(timeout, same(100, 1000))
        const usual = yield* limitOf(timeout)
        const ends = yield* calls(timeout, same(5000, 5))
        assert.deepStrictEqual(ends, [usual, 2 * usual, 4 * usual, 1000, 1000])
        assert.strictEqual((yield* timeout.state).inARow, 5)
        yield* calls(timeout, [100])
        assert.strictEqual(yield* limitOf(timeout), usual)
        assert.strictEqual((yield* timeout.state).inARow, 0)
      })
    )

    it.effect("keeps the doubled limit after an answer that needed it", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 10_000 })
        yield* calls(timeout, same(100, 1000))
        const usual = yield* limitOf(timeout)
        assert.deepStrictEqual(yield* calls(timeout, [300, 300]), [usual, "ok"])
        assert.strictEqual(yield* limitOf(timeout), 2 * usual)
      })
    )

    it.effect("keeps its percentile right although it cuts the slowest calls off", () =>
      Effect.gen(function* () {
        // A long tail: the limit is the 95th percentile itself, so that one call in twenty is never seen to its end.
        const lengths = yield* Effect.replicateEffect(Random.next, 5000).pipe(
          Effect.map((numbers) => numbers.map((number) => Math.round(100 / (1 - number) ** 0.5))),
          Random.withSeed("tail")
        )
        const timeout = yield* AdaptiveTimeout.make({ ceiling: "1 hour", factor: 1 })
        const ends = yield* calls(timeout, lengths)
        const share = ends.slice(1000).filter((end) => end !== "ok").length / 4000
        between(share, 0.02, 0.06)
        // The true percentile: 100 / sqrt(0.05) = 447 ms.
        between(Duration.toMillis((yield* timeout.state).percentile), 380, 520)
      })
    )

    it.effect("measures neither failures, defects, interruptions, nor calls that end at once", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 1000, minSamples: 1 })
        yield* timeout.execute(Effect.succeed(1))
        yield* Effect.exit(timeout.execute(Effect.fail("no")))
        const ends = [Effect.fail("no"), Effect.die("bug"), Effect.interrupt].map((end) =>
          Effect.sleep(10).pipe(Effect.andThen(end), timeout.execute, Effect.exit, Effect.forkChild)
        )
        yield* Effect.all(ends)
        yield* TestClock.adjust(10)
        const interrupted = yield* Effect.forkChild(timeout.execute(Effect.sleep(100)))
        yield* TestClock.adjust(10)
        yield* Fiber.interrupt(interrupted)
        const { limit, samples } = yield* timeout.state
        assert.deepStrictEqual({ limit: Duration.toMillis(limit), samples }, { limit: 1000, samples: 0 })
      })
    )

    it.effect("counts timeouts, as samples too, and not the deadline around them", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 100 })
        assert.deepStrictEqual(yield* calls(timeout, [50, 200]), ["ok", 100])
        const fiber = yield* Effect.sleep(200).pipe(timeout.execute, Deadline.within(50), Effect.exit, Effect.forkChild)
        yield* TestClock.adjust(50)
        yield* Fiber.join(fiber)
        const { inARow, samples, timeouts } = yield* timeout.state
        assert.deepStrictEqual({ inARow, samples, timeouts }, { inARow: 1, samples: 2, timeouts: 1 })
      })
    )

    it.effect("interrupts what is too late, and answers when its finalizers have run", () =>
      Effect.gen(function* () {
        let released = false
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 100 })
        const fiber = yield* Effect.never.pipe(
          Effect.ensuring(
            Effect.andThen(
              Effect.sleep(50),
              Effect.sync(() => (released = true))
            )
          ),
          timeout.execute,
          Effect.forkChild
        )
        yield* TestClock.adjust(100)
        // Counted when the time is up, not when the last finalizer has ended.
        assert.strictEqual((yield* timeout.state).timeouts, 1)
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* TestClock.adjust(50)
        assert.instanceOf(yield* Effect.flip(Fiber.join(fiber)), Timeout.TimedOut)
        assert.isTrue(released)
      })
    )

    it.effect("counts work that ignores the interruption once, as a timeout", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 100 })
        const fiber = yield* Effect.forkChild(Effect.exit(timeout.execute(Effect.uninterruptible(Effect.sleep(300)))))
        yield* TestClock.adjust(300)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(fiber)))
        const { samples, timeouts } = yield* timeout.state
        assert.deepStrictEqual({ samples, timeouts }, { samples: 1, timeouts: 1 })
      })
    )

    it.effect("passes results, failures and defects on, in the caller's context", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 100 })
        assert.strictEqual(yield* timeout.execute(Effect.service(Name)).pipe(Effect.provideService(Name, "ada")), "ada")
        assert.deepStrictEqual(yield* Effect.exit(timeout.execute(Effect.fail("no"))), Exit.fail("no"))
        assert.deepStrictEqual(yield* Effect.exit(timeout.execute(Effect.die("bug"))), Exit.die("bug"))
      })
    )

    it.effect("leaves no work running when interrupted at any operation, and measures nothing twice", () =>
      Effect.gen(function* () {
        let running = 0
        let tries = 0
        const timeout = yield* AdaptiveTimeout.make({ ceiling: "1 second" })
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        ).pipe(timeout.execute)
        const operations = yield* interruptEverywhere(
          call,
          Effect.gen(function* () {
            tries++
            assert.strictEqual(running, 0)
            assert.isAtMost((yield* timeout.state).samples, tries + 1)
          })
        )
        assert.isAbove(operations, 2)
      })
    )

    it.effect("does the same under a clock that is set back", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.make({ ceiling: 1000, minSamples: 1 })
        const back = Effect.updateService(Clock.Clock, (clock): Clock.Clock => ({
          ...clock,
          currentTimeMillisUnsafe: () => -clock.currentTimeMillisUnsafe(),
          sleep: clock.sleep,
          monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe()
        }))
        const fiber = yield* Effect.sleep(100).pipe(timeout.execute, back, Effect.forkChild)
        yield* TestClock.adjust(100)
        yield* Fiber.join(fiber)
        between(yield* limitOf(timeout), 195, 205)
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ ceiling: 0 }, "AdaptiveTimeout: ceiling must be over zero and finite, got 0"],
      [{ ceiling: "Infinity" }, "AdaptiveTimeout: ceiling must be over zero and finite, got Infinity"],
      [{ ceiling: 10, floor: 11 }, "AdaptiveTimeout: floor must be over zero and at most ceiling, got 11"],
      [{ ceiling: 10, floor: 0 }, "AdaptiveTimeout: floor must be over zero and at most ceiling, got 0"],
      [{ ceiling: 10, percentile: 1 }, "AdaptiveTimeout: percentile must be over 0 and under 1, got 1"],
      [{ ceiling: 10, percentile: 95 }, "AdaptiveTimeout: percentile must be over 0 and under 1, got 95"],
      [{ ceiling: 10, factor: 0.9 }, "AdaptiveTimeout: factor must be a finite number >= 1, got 0.9"],
      [{ ceiling: 10, minSamples: 0 }, "AdaptiveTimeout: minSamples must be an integer >= 1, got 0"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(AdaptiveTimeout.make(options))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", message)
      })
    )
  })

  describe("layerConfig", () => {
    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const timeout = yield* AdaptiveTimeout.AdaptiveTimeout
        assert.strictEqual(yield* limitOf(timeout), 5000)
      }).pipe(
        Effect.provide(
          AdaptiveTimeout.layerConfig({ ceiling: Config.Duration("CEILING") }).pipe(
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ CEILING: "5 seconds" })))
          )
        )
      )
    )
  })

  it("adds TimedOut to the errors and nothing else", () => {
    const guarded = (timeout: AdaptiveTimeout.AdaptiveTimeout, self: Effect.Effect<number, "E", Name>) =>
      self.pipe(timeout.execute)
    expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | Timeout.TimedOut, Name>>()
  })
})

type Name = "Name"
const Name = Context.Service<Name, string>("test/Name")
