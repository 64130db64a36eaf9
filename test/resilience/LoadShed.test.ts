import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Random, Ref } from "effect"
import { AdaptiveLimit, Bulkhead, LoadShed, Priority, RetryAfter } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const start = { startImmediately: true } as const

// A load shedder whose load is what the reference says, measured by every call.
const shedding = Effect.fnUntraced(function* (options: Omit<LoadShed.Options, "signals"> = {}) {
  const load = yield* Ref.make(0)
  const shed = yield* LoadShed.make({ signals: { load: Ref.get(load) }, interval: 0, ...options })
  return { load, shed }
})

// How many of a thousand calls of a priority are refused.
const refusedOf = (shed: LoadShed.LoadShed, priority: Priority.Priority) =>
  Effect.gen(function* () {
    const before = (yield* shed.statistics)[priority]
    for (let i = 0; i < 1_000; i++) yield* Effect.void.pipe(shed.execute, Priority.as(priority), Effect.ignore)
    const after = (yield* shed.statistics)[priority]
    assert.strictEqual(after.admitted + after.refused - before.admitted - before.refused, 1_000)
    return after.refused - before.refused
  })

describe("LoadShed", () => {
  describe("execute", () => {
    it.effect("lets everything through while the load is low", () =>
      Effect.gen(function* () {
        const { shed } = yield* shedding()
        assert.strictEqual(yield* shed.execute(Effect.succeed(1)), 1)
        assert.strictEqual(yield* Effect.flip(shed.execute(Effect.fail("failed"))), "failed")
      })
    )

    // At 0.8 half of the low ones go, at 1 half of the normal ones, and so on.
    it.effect.each([
      [0.7, [0, 0, 0, 0]],
      [0.8, [0, 0, 0, 500]],
      [0.9, [0, 0, 0, 1_000]],
      [1, [0, 0, 500, 1_000]],
      [1.1, [0, 0, 1_000, 1_000]],
      [1.3, [0, 500, 1_000, 1_000]],
      [1.5, [0, 1_000, 1_000, 1_000]],
      [2.25, [500, 1_000, 1_000, 1_000]],
      [3, [1_000, 1_000, 1_000, 1_000]],
      [Infinity, [1_000, 1_000, 1_000, 1_000]]
    ] as const)("at a load of %d refuses of a thousand critical, high, normal and low ones %o", ([now, expected]) =>
      Effect.gen(function* () {
        const { load, shed } = yield* shedding()
        yield* Ref.set(load, now)
        for (const [index, priority] of Priority.all.entries()) {
          assert.closeTo(yield* refusedOf(shed, priority), expected[index] ?? 0, 60)
        }
      }).pipe(Random.withSeed("thousand"))
    )

    it.effect("says in the refusal who was refused, why, and when to come back", () =>
      Effect.gen(function* () {
        const { load, shed } = yield* shedding({ retryAfter: "2 seconds" })
        yield* Ref.set(load, 1.25)
        const waits = new Set<number>()
        for (let i = 0; i < 50; i++) {
          const refused = yield* Effect.die("must not run").pipe(shed.execute, Effect.flip)
          assert.deepStrictEqual([refused._tag, refused.priority, refused.load], ["Overloaded", "normal", 1.25])
          const millis = Duration.toMillis(refused.retryAfter)
          assert.isAtLeast(millis, 1_000)
          assert.isAtMost(millis, 3_000)
          waits.add(millis)
          assert.deepStrictEqual(RetryAfter.fromError(refused), refused.retryAfter)
          assert.match(refused.message, /^Overloaded: at 125 % no more normal calls, try again after /)
        }
        assert.isAbove(waits.size, 15)
        // With another load they are others.
        yield* Ref.set(load, 1.5)
        assert.strictEqual((yield* Effect.flip(shed.execute(Effect.void))).load, 1.5)
      }).pipe(Random.withSeed("waits"))
    )

    it.effect("asks to come back after a second by default, give or take a half", () =>
      Effect.gen(function* () {
        const shed = yield* LoadShed.make({ signals: { load: Effect.succeed(9) } })
        const waitOf = (drawn: number) =>
          Effect.flip(shed.execute(Effect.void)).pipe(
            Effect.map(({ retryAfter }) => Duration.toMillis(retryAfter)),
            Effect.provideService(Random.Random, { nextDoubleUnsafe: () => drawn, nextIntUnsafe: () => 0 })
          )
        assert.deepStrictEqual([yield* waitOf(0), yield* waitOf(0.9999)], [500, 1_500])
      })
    )

    it.effect("goes by the greatest of its signals", () =>
      Effect.gen(function* () {
        const shed = yield* LoadShed.make({
          signals: { loop: Effect.succeed(0.2), queue: Effect.succeed(5), places: Effect.succeed(1) }
        })
        assert.strictEqual((yield* Effect.flip(shed.execute(Effect.void))).load, 5)
        assert.deepStrictEqual(yield* shed.state, {
          load: 5,
          signals: { loop: 0.2, queue: 5, places: 1 },
          refusing: { critical: 1, high: 1, normal: 1, low: 1 }
        })
      })
    )

    it.effect("measures at most once per interval, and once however many come", () =>
      Effect.gen(function* () {
        let measured = 0
        const signal = Effect.andThen(
          Effect.sync(() => measured++),
          Effect.as(Effect.yieldNow, 0)
        )
        const shed = yield* LoadShed.make({ signals: { signal } })
        assert.strictEqual(measured, 0)
        yield* Effect.all(
          [1, 2, 3].map(() => shed.execute(Effect.void)),
          { concurrency: "unbounded" }
        )
        yield* TestClock.adjust(99)
        yield* shed.execute(Effect.void)
        assert.strictEqual(measured, 1)
        yield* TestClock.adjust(1)
        yield* shed.execute(Effect.void)
        assert.strictEqual(measured, 2)
      })
    )

    it.effect("lets calls through when a signal dies or gives nonsense", () =>
      Effect.gen(function* () {
        const shed = yield* LoadShed.make({
          signals: { broken: Effect.die("broken"), nothing: Effect.succeed(NaN), negative: Effect.succeed(-1) }
        })
        assert.strictEqual(yield* shed.execute(Effect.succeed(1)), 1)
        assert.strictEqual((yield* shed.state).load, 0)
      })
    )

    it.effect("has only what it lets through interrupted, and measures again after an interruption", () =>
      Effect.gen(function* () {
        const { load, shed } = yield* shedding()
        yield* Ref.set(load, 0.5)
        const operations = yield* interruptEverywhere(shed.execute(Effect.yieldNow), Effect.void)
        assert.isAbove(operations, 3)
        yield* Ref.set(load, 9)
        assert.strictEqual((yield* Effect.flip(shed.execute(Effect.void))).load, 9)
      })
    )
  })

  describe("utilisation", () => {
    it.effect("is the part of the places that is taken, of a bulkhead or an adaptive limit", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 4 })
        const limit = yield* AdaptiveLimit.make({ initialLimit: 2 })
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        yield* Effect.never.pipe(limit.execute, Effect.forkChild(start))
        assert.strictEqual(yield* LoadShed.utilisation(bulkhead.state), 0.25)
        assert.strictEqual(yield* LoadShed.utilisation(limit.state), 0.5)
      })
    )
  })

  describe("queue", () => {
    it.effect("is how many wait, in terms of what is bearable", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 9 })
        const signal = LoadShed.queue(bulkhead.state, 4)
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        assert.strictEqual(yield* signal, 0)
        yield* Effect.never.pipe(bulkhead.execute, Effect.forkChild(start))
        assert.strictEqual(yield* signal, 0.25)
        assert.throws(() => LoadShed.queue(bulkhead.state, 0), "LoadShed: bearable must be a finite number > 0, got 0")
      })
    )
  })

  describe("delay", () => {
    it.effect("is how long the oldest waiter has waited, in terms of what is bearable", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 9, priorities: "strict" })
        const signal = LoadShed.delay(bulkhead.queueDelay, "200 millis")
        const fork = (priority: Priority.Priority) =>
          Effect.never.pipe(bulkhead.execute, Priority.as(priority), Effect.forkChild(start))
        yield* fork("low")
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* signal, 0)
        const low = yield* fork("low")
        yield* TestClock.adjust(100)
        const high = yield* fork("high")
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* signal, 1)
        yield* Fiber.interrupt(low)
        assert.strictEqual(yield* signal, 0.5)
        yield* Fiber.interrupt(high)
        assert.strictEqual(yield* signal, 0)
      })
    )

    it.effect("of an adaptive limit, too", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 1, maxQueued: 1 })
        yield* Effect.never.pipe(limit.execute, Effect.forkChild(start))
        yield* Effect.never.pipe(limit.execute, Effect.forkChild(start))
        yield* TestClock.adjust(300)
        assert.deepStrictEqual(yield* limit.queueDelay, Duration.millis(300))
      })
    )
  })

  describe("eventLoopLag", () => {
    it.effect("is how much later than asked its timer came, and half of it after each that came in time", () =>
      Effect.gen(function* () {
        const real = yield* Clock.Clock
        let late = 0
        const clock: Clock.Clock = {
          ...real,
          sleep: (duration) => real.sleep(Duration.sum(duration, Duration.millis(late)))
        }
        const signal = yield* Effect.provideService(LoadShed.eventLoopLag(), Clock.Clock, clock)
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* signal, 0)
        late = 80
        // The timer that is running was still in time, the next comes 80 ms late.
        yield* TestClock.adjust(50)
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* signal, 0.5)
        late = 0
        yield* TestClock.adjust(30)
        assert.strictEqual(yield* signal, 0.8)
        yield* TestClock.adjust(50)
        assert.strictEqual(yield* signal, 0.4)
        yield* TestClock.adjust(500)
        assert.isBelow(yield* signal, 0.01)
      })
    )

    it.effect("measures until its scope closes", () =>
      Effect.gen(function* () {
        let sleeps = 0
        const real = yield* Clock.Clock
        const clock: Clock.Clock = {
          ...real,
          sleep: (duration) => {
            sleeps++
            return real.sleep(duration)
          }
        }
        yield* Effect.scoped(
          Effect.andThen(Effect.provideService(LoadShed.eventLoopLag({ every: 10 }), Clock.Clock, clock), () =>
            TestClock.adjust(100)
          )
        )
        const before = sleeps
        assert.isAtLeast(before, 10)
        yield* TestClock.adjust(100)
        assert.strictEqual(sleeps, before)
      })
    )
  })

  describe("in front of a bulkhead", () => {
    it.effect("keeps the important calls fast while more comes in than can be done", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 10, maxQueued: 1_000 })
        const shed = yield* LoadShed.make({ signals: { queue: LoadShed.queue(bulkhead.state, 50) } })
        const waits: Array<number> = []
        // Ten places and 100 ms each bear 100 calls a second. For 30 seconds come 40 high and 200 low ones a second.
        const call = (priority: Priority.Priority) =>
          Effect.flatMap(Clock.currentTimeMillis, (came) =>
            Effect.andThen(Clock.currentTimeMillis, (started) => {
              waits.push(started - came)
              return Effect.sleep(100)
            }).pipe(bulkhead.execute, shed.execute, Effect.ignore, Priority.as(priority))
          ).pipe(Effect.forkChild(start))
        for (let tick = 0; tick < 1_200; tick++) {
          yield* call("high")
          for (let i = 0; i < 5; i++) yield* call("low")
          yield* TestClock.adjust(25)
        }
        const { high, low } = yield* shed.statistics
        assert.strictEqual(high.refused, 0)
        assert.closeTo(low.admitted, 1_800, 100)
        assert.isBelow(Math.max(...waits), 600)
      }).pipe(Random.withSeed("front"))
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ interval: -1 }, "interval must be finite and not negative, got -1"],
      [{ retryAfter: Infinity }, "retryAfter must be finite and not negative, got Infinity"],
      [{ thresholds: { low: { from: NaN, to: 1 } } }, "thresholds.low.from must be zero or more, got NaN"],
      [{ thresholds: { high: { from: 2, to: 1 } } }, "thresholds.high.to must be at least 2, got 1"]
    ] as const)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(LoadShed.make({ signals: {}, ...options }))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, `LoadShed: ${message}`)
      })
    )

    it("adds nothing but Overloaded to the type of a call", () => {
      const guarded = (shed: LoadShed.LoadShed, self: Effect.Effect<number, "E", "R">) => shed.execute(self)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | LoadShed.Overloaded, "R">>()
    })

    it.effect("is provided by a layer", () =>
      Effect.gen(function* () {
        const shed = yield* LoadShed.LoadShed
        assert.strictEqual((yield* Effect.flip(shed.execute(Effect.void))).load, 9)
      }).pipe(Effect.provide(LoadShed.layer({ signals: { load: Effect.succeed(9) } })))
    )
  })
})
