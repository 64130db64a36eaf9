import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Data, Duration, Effect, Exit, Fiber, Layer, Random } from "effect"
import { AdaptiveThrottle, Bulkhead, Deadline, RetryAfter, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter: Duration.Duration }> {}

const busy = new Busy({ retryAfter: Duration.zero })

const times = <E>(count: number, call: Effect.Effect<unknown, E>) =>
  Effect.forEach(Array.from({ length: count }), () => Effect.ignore(call), { discard: true })

describe("AdaptiveThrottle", () => {
  describe("execute", () => {
    it.effect("refuses none while the other side accepts half of the calls", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.make()
        for (let i = 0; i < 200; i++) {
          assert.strictEqual(yield* throttle.execute(Effect.succeed(i)), i)
          assert.strictEqual(yield* Effect.flip(throttle.execute(busy)), busy)
        }
        assert.deepStrictEqual(yield* throttle.state, { requests: 400, accepts: 200, refusing: 0 })
      })
    )

    it.effect.each([
      [0, 1, 0.5],
      [10, 30, 20 / 41],
      [10, 10, 0],
      [0, 8, 8 / 9],
      [0, 99, 0.9]
    ] as const)("after %d accepted and %d rejected calls refuses with the probability %d", ([accepted, rejected, p]) =>
      Effect.gen(function* () {
        // Drawn so that nothing is refused until then.
        const throttle = yield* AdaptiveThrottle.make()
        yield* times(accepted, throttle.execute(Effect.void))
        yield* times(rejected, throttle.execute(busy))
        assert.closeTo((yield* throttle.state).refusing, p, 1e-12)
      }).pipe(Effect.provideService(Random.Random, { nextDoubleUnsafe: () => 1, nextIntUnsafe: () => 0 }))
    )

    it.effect(
      "sends a tenth of the calls to a side that rejects everything, and all of them some time after it is well",
      () =>
        Effect.gen(function* () {
          const throttle = yield* AdaptiveThrottle.make()
          let sent = 0
          const dead = throttle.execute(
            Effect.andThen(
              Effect.sync(() => sent++),
              busy
            )
          )
          yield* times(1_000, throttle.execute(Effect.void))
          for (let second = 0; second < 300; second++) {
            yield* times(10, dead)
            yield* TestClock.adjust(1_000)
          }
          sent = 0
          yield* times(1_000, dead)
          assert.closeTo(sent, 100, 30)
          // It is well again.
          for (let second = 0; second < 300; second++) {
            yield* times(10, throttle.execute(Effect.void))
            yield* TestClock.adjust(1_000)
          }
          assert.strictEqual((yield* throttle.state).refusing, 0)
        }).pipe(Random.withSeed("dead"))
    )

    it.effect("forgets what is older than the window", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.make({ window: "20 seconds" })
        yield* times(3, throttle.execute(Effect.void))
        yield* TestClock.adjust("10 seconds")
        yield* times(2, throttle.execute(Effect.void))
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual((yield* throttle.state).requests, 5)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* throttle.state).requests, 2)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* throttle.state).requests, 0)
        yield* throttle.execute(Effect.void)
        yield* TestClock.adjust("27 seconds")
        assert.strictEqual((yield* throttle.state).requests, 0)
        yield* TestClock.adjust("1000 days")
        yield* throttle.execute(Effect.void)
        assert.strictEqual((yield* throttle.state).requests, 1)
      })
    )

    it.effect("says in the refusal how many it refuses, and when to come back", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.make({ retryAfter: "3 seconds" })
        yield* throttle.execute(Effect.void)
        yield* Effect.ignore(throttle.execute(busy))
        yield* Effect.ignore(throttle.execute(busy))
        const refused = yield* Effect.flip(throttle.execute(Effect.die("must not run")))
        assert.deepStrictEqual([refused._tag, refused.refusing], ["Throttled", 0.25])
        assert.strictEqual((yield* throttle.state).requests, 4)
        assert.deepStrictEqual(RetryAfter.fromError(refused), Duration.seconds(3))
        assert.strictEqual(refused.message, "Throttled: 25 % of the calls are refused, try again after 3s")
      }).pipe(Effect.provideService(Random.Random, { nextDoubleUnsafe: () => 0, nextIntUnsafe: () => 0 }))
    )

    it.effect.each([
      ["a success", Effect.void, [1, 1]],
      ["a failure", Effect.fail("not found"), [1, 1]],
      ["a defect", Effect.die("died"), [1, 1]],
      ["an error with a retryAfter", busy, [1, 0]],
      ["a timeout", Effect.never.pipe(Timeout.timeout(100)), [1, 0]],
      ["an interruption", Effect.interrupt, [0, 0]],
      ["a refusal", Effect.fail(new Bulkhead.BulkheadFull({ running: 1, waiting: 1 })), [0, 0]]
    ] as ReadonlyArray<readonly [string, Effect.Effect<unknown, unknown>, readonly [number, number]]>)(
      "counts %s",
      ([, call, expected]) =>
        Effect.gen(function* () {
          const throttle = yield* AdaptiveThrottle.make()
          const fiber = yield* Effect.forkChild(Effect.exit(throttle.execute(call)))
          yield* TestClock.adjust(100)
          yield* Fiber.await(fiber)
          const { accepts, requests } = yield* throttle.state
          assert.deepStrictEqual([requests, accepts], expected)
        })
    )

    it.effect("counts a call that a deadline outside has ended as rejected", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.make()
        yield* Effect.never.pipe(
          throttle.execute,
          Deadline.within(100),
          Effect.ignore,
          Effect.forkChild({ startImmediately: true })
        )
        yield* TestClock.adjust(100)
        const { accepts, requests } = yield* throttle.state
        assert.deepStrictEqual([requests, accepts], [1, 0])
      })
    )

    it.effect("counts a call that is interrupted anywhere not at all, or as the whole call that it was", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.make()
        let ended = 0
        const call = throttle.execute(Effect.andThen(Effect.yieldNow, Effect.void)).pipe(
          Effect.onExit((exit) =>
            Effect.sync(() => {
              if (Exit.isSuccess(exit)) ended++
            })
          )
        )
        const operations = yield* interruptEverywhere(call, Effect.void)
        assert.isAbove(operations, 3)
        const { accepts, requests } = yield* throttle.state
        assert.strictEqual(requests, accepts)
        assert.isAtLeast(requests, ended)
        assert.isAtMost(requests, operations + 1)
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ ratio: 0.9 }, "ratio must be a finite number >= 1, got 0.9"],
      [{ maxRefused: 1 }, "maxRefused must be at least 0 and under 1, got 1"],
      [{ window: 0 }, "window must be a finite duration over zero, got 0"],
      [{ retryAfter: -1 }, "retryAfter must be finite and not negative, got -1"]
    ] as const)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(AdaptiveThrottle.make(options))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, `AdaptiveThrottle: ${message}`)
      })
    )

    it("adds nothing but Throttled to the type of a call", () => {
      const guarded = (throttle: AdaptiveThrottle.AdaptiveThrottle, self: Effect.Effect<number, "E", "R">) =>
        throttle.execute(self)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | AdaptiveThrottle.Throttled, "R">>()
    })

    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.AdaptiveThrottle
        yield* Effect.ignore(throttle.execute(busy))
        assert.strictEqual((yield* throttle.state).requests, 1)
      }).pipe(
        Effect.provide(
          Layer.provide(
            AdaptiveThrottle.layerConfig({ ratio: Config.Number("RATIO") }),
            ConfigProvider.layer(ConfigProvider.fromUnknown({ RATIO: 1.5 }))
          )
        )
      )
    )

    it.effect("is provided by a layer", () =>
      Effect.gen(function* () {
        const throttle = yield* AdaptiveThrottle.AdaptiveThrottle
        assert.strictEqual(yield* throttle.execute(Effect.succeed(1)), 1)
      }).pipe(Effect.provide(AdaptiveThrottle.layer()))
    )
  })
})
