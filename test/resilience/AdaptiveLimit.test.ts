import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Cause,
  Config,
  ConfigProvider,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Random,
  Scope,
  Semaphore
} from "effect"
import { AdaptiveLimit, Bulkhead, CircuitBreaker, Deadline, Priority, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const start = { startImmediately: true } as const

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter: Duration.Duration }> {}

// Calls of 100 ms each end, and the window with them.
const windows = Effect.fnUntraced(function* <A, E>(
  limit: AdaptiveLimit.AdaptiveLimit,
  count: number,
  call: Effect.Effect<A, E>,
  calls = 10
) {
  for (let i = 0; i < count; i++) {
    yield* Effect.forEach(Array.from({ length: calls }), () =>
      call.pipe(limit.execute, Effect.ignore, Effect.forkChild(start))
    )
    yield* TestClock.adjust(10_000)
  }
})

describe("AdaptiveLimit", () => {
  describe("execute", () => {
    it.effect("runs as many as the limit says, queues maxQueued and refuses the next", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 2, maxQueued: 1 })
        const gate = yield* Deferred.make<string>()
        const fibers = yield* Effect.forEach([1, 2, 3], () =>
          Deferred.await(gate).pipe(limit.execute, Effect.forkChild(start))
        )
        const refused = yield* Effect.flip(limit.execute(Effect.die("must not run")))
        assert.deepStrictEqual(
          [refused._tag, refused.limit, refused.running, refused.waiting],
          ["LimitReached", 2, 2, 1]
        )
        assert.strictEqual(refused.message, "Limit of 2 reached: 2 running, 1 waiting")
        yield* Deferred.succeed(gate, "done")
        assert.deepStrictEqual(yield* Effect.forEach(fibers, Fiber.join), ["done", "done", "done"])
        assert.deepStrictEqual(yield* limit.state, {
          limit: 2,
          running: 0,
          waiting: 0,
          rtt: undefined,
          baseline: undefined,
          partitions: {}
        })
        const { admitted, refused: count } = yield* limit.statistics
        assert.deepStrictEqual([admitted, count], [3, 1])
      })
    )

    it.effect("keeps the place of a success until the scope closes, and measures the effect alone", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 1, window: 1, minCalls: 1 })
        const scope = yield* Scope.make()
        const held = yield* Effect.sleep(100).pipe(limit.executeScoped, Scope.provide(scope), Effect.forkChild(start))
        yield* TestClock.adjust(100)
        yield* Fiber.join(held)
        yield* TestClock.adjust(5000)
        assert.strictEqual((yield* limit.state).running, 1)
        assert.strictEqual((yield* Effect.flip(limit.execute(Effect.void)))._tag, "LimitReached")
        yield* Scope.close(scope, Exit.void)
        const { rtt, running } = yield* limit.state
        assert.deepStrictEqual([running, rtt === undefined ? undefined : Duration.toMillis(rtt)], [0, 100])
        yield* Effect.scoped(Effect.flip(limit.executeScoped(Effect.fail("no"))))
        assert.strictEqual((yield* limit.state).running, 0)
      })
    )

    it.effect("leaks nothing when interrupted at any operation of executeScoped", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 1, maxQueued: 1 })
        const held = Effect.scoped(Effect.andThen(limit.executeScoped(Effect.yieldNow), Effect.yieldNow))
        const empty = Effect.map(limit.state, ({ running, waiting }) =>
          assert.deepStrictEqual([running, waiting], [0, 0])
        )
        assert.isAbove(yield* interruptEverywhere(held, empty), 5)
      })
    )

    it.effect("serves by priority, like a bulkhead", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 1, maxQueued: 5, priorities: "strict" })
        const log: Array<string> = []
        const fork = (priority: Priority.Priority) =>
          Effect.sync(() => log.push(priority)).pipe(limit.execute, Priority.as(priority), Effect.forkChild(start))
        const holder = yield* Effect.never.pipe(limit.execute, Effect.forkChild(start))
        yield* fork("low")
        yield* fork("high")
        yield* Fiber.interrupt(holder)
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(log, ["high", "low"])
      })
    )

    it.effect("gives a raised limit to those who wait, at once", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ algorithm: "aimd", initialLimit: 1, maxQueued: 50, minCalls: 1 })
        const fork = (millis: number) => Effect.sleep(millis).pipe(limit.execute, Effect.forkChild(start))
        yield* Effect.forEach([100, 1_000, 1_000, 1_000], fork)
        yield* TestClock.adjust(100)
        const { limit: now, running, waiting } = yield* limit.state
        assert.deepStrictEqual([now, running, waiting], [2, 2, 1])
      })
    )

    it.effect(
      "frees the place of a call that fails, dies or is interrupted, and of one whose classification dies",
      () =>
        Effect.gen(function* () {
          const limit = yield* AdaptiveLimit.make({
            initialLimit: 1,
            classify: (exit) => {
              if (Exit.isFailure(exit)) throw new Error("no idea")
              return "success"
            }
          })
          yield* Effect.exit(limit.execute(Effect.fail("failed")))
          yield* Effect.exit(limit.execute(Effect.die("died")))
          const fiber = yield* Effect.never.pipe(limit.execute, Effect.forkChild(start))
          assert.strictEqual((yield* limit.state).running, 1)
          yield* Fiber.interrupt(fiber)
          assert.strictEqual((yield* limit.state).running, 0)
        })
    )

    it.effect("leaks nothing when interrupted at any operation, with a free place or after a wait", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 1, maxLimit: 1, maxQueued: 1, partitions: { a: 0.5 } })
        const empty = Effect.map(limit.state, ({ partitions, running, waiting }) =>
          assert.deepStrictEqual([running, waiting, partitions["a"]], [0, 0, { guaranteed: 1, running: 0, waiting: 0 }])
        )
        const { execute } = limit.partition("a")
        const direct = yield* interruptEverywhere(execute(Effect.andThen(Effect.yieldNow, Effect.void)), empty)
        assert.isAbove(direct, 3)
        const contended = Effect.gen(function* () {
          yield* Effect.yieldNow.pipe(execute, Effect.forkChild(start))
          yield* execute(Effect.void)
        })
        assert.isAbove(yield* interruptEverywhere(contended, empty), 8)
      })
    )
  })

  describe("the limit", () => {
    const aimd = AdaptiveLimit.make({ algorithm: "aimd", minCalls: 10 })

    it.effect("grows while all is well and half of it is used", () =>
      Effect.gen(function* () {
        const limit = yield* aimd
        yield* windows(limit, 3, Effect.sleep(100))
        // The third time ten are less than half of 22.
        assert.strictEqual((yield* limit.state).limit, 21)
        assert.deepStrictEqual((yield* limit.state).rtt, Duration.millis(100))
      })
    )

    it.effect.each([
      ["a timeout inside it", Effect.sleep(200).pipe(Timeout.timeout(100)), 18],
      ["an error with a retryAfter", Effect.andThen(Effect.sleep(100), new Busy({ retryAfter: Duration.zero })), 18],
      ["a deadline inside it", Effect.sleep(200).pipe(Deadline.within(100)), 18],
      ["a call that takes longer than the timeout of aimd", Effect.sleep(5_001), 18],
      ["a success", Effect.sleep(100), 21],
      ["a failure of another kind", Effect.andThen(Effect.sleep(100), Effect.fail("failed")), 20],
      [
        "a refusal that says when to try again",
        Effect.andThen(
          Effect.sleep(100),
          Effect.fail(new CircuitBreaker.CircuitOpen({ key: "key", retryAfter: Duration.seconds(1) }))
        ),
        20
      ],
      [
        "a refusal",
        Effect.andThen(Effect.sleep(100), Effect.fail(new Bulkhead.BulkheadFull({ running: 1, waiting: 1 }))),
        20
      ],
      ["a defect", Effect.andThen(Effect.sleep(100), Effect.die("died")), 20],
      ["an interruption", Effect.andThen(Effect.sleep(100), Effect.interrupt), 20]
    ] as ReadonlyArray<readonly [string, Effect.Effect<unknown, unknown>, number]>)("after %s", ([, call, expected]) =>
      Effect.gen(function* () {
        const limit = yield* aimd
        yield* windows(limit, 1, call)
        assert.strictEqual((yield* limit.state).limit, expected)
      })
    )

    it.effect("shrinks when a deadline outside ends the calls, not when the caller goes away", () =>
      Effect.gen(function* () {
        const limit = yield* aimd
        const late = Effect.forEach(Array.from({ length: 10 }), () =>
          Effect.never.pipe(limit.execute, Deadline.within(150), Effect.forkChild(start))
        )
        const callers = yield* late
        yield* TestClock.adjust(100)
        yield* Effect.forEach(callers, Fiber.interrupt)
        yield* TestClock.adjust(100)
        assert.strictEqual((yield* limit.state).limit, 20)
        yield* late
        yield* TestClock.adjust(150)
        assert.strictEqual((yield* limit.state).limit, 18)
      })
    )

    it.effect("moves by what classify says", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ algorithm: "aimd", classify: () => "dropped" })
        yield* windows(limit, 1, Effect.sleep(100))
        assert.strictEqual((yield* limit.state).limit, 18)
      })
    )

    it.effect("stays between minLimit and maxLimit", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ algorithm: "aimd", minLimit: 4, maxLimit: 6, minCalls: 1 })
        yield* windows(limit, 4, Effect.sleep(100))
        assert.strictEqual((yield* limit.state).limit, 6)
        const busy = Effect.andThen(Effect.sleep(100), new Busy({ retryAfter: Duration.zero }))
        yield* windows(limit, 4, busy)
        assert.strictEqual((yield* limit.state).limit, 4)
      })
    )
  })

  describe("in front of a server", () => {
    // A server that serves so many calls at once and lets the others queue, and more than enough callers who wait their
    // turn and never stop. Tells the limits of the last seconds of each phase.
    const served = Effect.fnUntraced(function* (
      algorithm: AdaptiveLimit.Algorithm,
      vary: boolean,
      phases: ReadonlyArray<readonly [capacity: number, seconds: number]>
    ) {
      const server = yield* Semaphore.make(1)
      const limit = yield* AdaptiveLimit.make({ algorithm, maxQueued: 100 })
      const call = Effect.flatMap(vary ? Random.nextBetween(50, 150) : Effect.succeed(100), (millis) =>
        server.withPermit(Effect.sleep(millis))
      ).pipe(Timeout.timeout(300), limit.execute, Effect.ignore)
      for (let i = 0; i < 80; i++) yield* Effect.forkChild(Effect.forever(call), start)
      const seen: Array<Array<number>> = []
      for (const [capacity, seconds] of phases) {
        yield* server.resize(capacity)
        const limits: Array<number> = []
        for (let second = 0; second < seconds; second++) {
          yield* TestClock.adjust(1_000)
          limits.push((yield* limit.state).limit)
        }
        seen.push(limits.slice(-15))
      }
      return { seen, state: yield* limit.state }
    })
    const median = (limits: ReadonlyArray<number>) => limits.toSorted((a, b) => a - b)[limits.length >> 1] ?? 0

    // aimd finds the timeout, three times the capacity; the others find a short queue.
    for (const [algorithm, most] of [
      ["aimd", 3],
      ["vegas", 1.6],
      ["gradient2", 2.5]
    ] as const) {
      for (const seed of [1, 2]) {
        it.effect(`${algorithm} finds the capacity, follows it down and up again, seed ${seed}`, () =>
          Effect.gen(function* () {
            const { seen } = yield* served(algorithm, seed !== 1, [
              [20, 40],
              [5, 40],
              [20, 40]
            ])
            const [before, during, after] = seen.map(median)
            assert.isAtLeast(before ?? 0, 18)
            assert.isAtMost(before ?? 0, 20 * most)
            assert.isAtLeast(during ?? 0, 5)
            assert.isAtMost(during ?? 0, 5 * Math.max(most, 2.6))
            assert.isAtLeast(after ?? 0, 18)
            assert.isAtMost(after ?? 0, 20 * most)
          }).pipe(Random.withSeed(seed))
        )
      }
    }

    // What the defaults are: given in full, they change nothing, second by second.
    const rest = { initialLimit: 20, minLimit: 1, maxLimit: 200, minCalls: 10, maxQueued: 0 }
    for (const [short, full] of [
      [
        { algorithm: "aimd" },
        { ...rest, algorithm: { name: "aimd", backoff: 0.9, timeout: "5 seconds" }, window: "100 millis" }
      ],
      [
        { algorithm: "vegas" },
        { ...rest, algorithm: { name: "vegas", alpha: 3, beta: 6, probeEvery: 30 }, window: "100 millis" }
      ],
      [
        {},
        {
          ...rest,
          algorithm: { name: "gradient2", smoothing: 0.2, queue: 4, longWindow: 600, tolerance: 1.5 },
          window: "1 second"
        }
      ]
    ] as ReadonlyArray<readonly [AdaptiveLimit.Options, AdaptiveLimit.Options & { algorithm: { name: string } }]>) {
      it.effect(`${full.algorithm.name} has the defaults of its table`, () =>
        Effect.gen(function* () {
          const limitsOf = Effect.fnUntraced(function* (options: AdaptiveLimit.Options) {
            const limit = yield* AdaptiveLimit.make(options)
            const server = yield* Semaphore.make(20)
            const call = Effect.flatMap(Random.nextIntBetween(50, 150), (millis) =>
              server.withPermit(Effect.sleep(millis))
            ).pipe(limit.execute, Effect.ignore, Effect.andThen(Effect.sleep(100)))
            const fibers = yield* Effect.forEach(Array.from({ length: 90 }), () =>
              Effect.forkChild(Effect.forever(call), start)
            )
            const states: Array<readonly [limit: number, baseline: string]> = []
            for (let second = 0; second < 40; second++) {
              // First it is a little slower, and then so slow that calls take longer than any timeout.
              if (second === 15) yield* server.resize(14)
              if (second === 20) yield* server.resize(1)
              yield* TestClock.adjust(1_000)
              const { baseline, limit: now } = yield* limit.state
              states.push([now, Duration.toMillis(baseline ?? 0).toFixed(2)])
            }
            yield* Effect.forEach(fibers, Fiber.interrupt)
            return states
          })
          const seeded = (options: AdaptiveLimit.Options) => limitsOf(options).pipe(Random.withSeed("defaults"))
          const states = yield* seeded(short)
          assert.isAbove(new Set(states.map(([limit]) => limit)).size, 4)
          assert.deepStrictEqual(states, yield* seeded(full))
        })
      )
    }

    it.effect("vegas notices that the server itself has become slower, and keeps its limit", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ algorithm: "vegas", maxQueued: 100 })
        let millis = 100
        const server = yield* Semaphore.make(20)
        const call = Effect.suspend(() => server.withPermit(Effect.sleep(millis))).pipe(limit.execute, Effect.ignore)
        for (let i = 0; i < 80; i++) yield* Effect.forkChild(Effect.forever(call), start)
        yield* TestClock.adjust("30 seconds")
        millis = 300
        yield* TestClock.adjust("3 minutes")
        // Every now and then it halves the limit for a window, to measure: what counts is the limit in between.
        const limits: Array<number> = []
        for (let second = 0; second < 15; second++) {
          yield* TestClock.adjust("1 second")
          limits.push((yield* limit.state).limit)
        }
        const { baseline } = yield* limit.state
        assert.isAtLeast(median(limits), 18)
        assert.isAtMost(median(limits), 32)
        assert.isAtLeast(Duration.toMillis(baseline ?? 0), 290)
        assert.isAtMost(Duration.toMillis(baseline ?? 0), 330)
      })
    )
  })

  describe("partitions", () => {
    const fork = (calls: AdaptiveLimit.Calls) => Effect.never.pipe(calls.execute, Effect.forkChild(start))

    it.effect("lets one use what the other does not, and gives each its part whatever the other does", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 10, partitions: { live: 0.7, batch: 0.3 } })
        const live = limit.partition("live")
        const batch = limit.partition("batch")
        for (let i = 0; i < 10; i++) yield* fork(batch)
        assert.strictEqual((yield* Effect.flip(batch.execute(Effect.void)))._tag, "LimitReached")
        for (let i = 0; i < 7; i++) yield* fork(live)
        assert.strictEqual((yield* Effect.flip(live.execute(Effect.void))).running, 17)
        assert.deepStrictEqual((yield* limit.state).partitions, {
          live: { guaranteed: 7, running: 7, waiting: 0 },
          batch: { guaranteed: 3, running: 10, waiting: 0 }
        })
      })
    )

    it.effect("gives a freed place to a waiting partition that has less than its part, before all others", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({
          initialLimit: 4,
          maxQueued: 9,
          partitions: { live: 0.5, batch: 0.25 }
        })
        const [batch, live] = [limit.partition("batch"), limit.partition("live")]
        const holders = yield* Effect.forEach([1, 2, 3, 4], () => fork(batch))
        const others = yield* Effect.forEach([1, 2], () => fork(live))
        yield* fork(batch)
        yield* fork(limit)
        yield* fork(live)
        // Six run, which is two too many: the first places that are freed are not replaced.
        yield* Effect.forEach(holders.slice(0, 2), Fiber.interrupt)
        assert.deepStrictEqual((yield* limit.state).running, 4)
        assert.deepStrictEqual((yield* limit.state).waiting, 3)
        // One of live ends: live is owed its second place.
        yield* Effect.forEach(others.slice(0, 1), Fiber.interrupt)
        const { partitions, waiting } = yield* limit.state
        assert.deepStrictEqual([partitions["live"]?.running, partitions["live"]?.waiting, waiting], [2, 0, 2])
      })
    )

    it.effect("guarantees more as the limit grows, to those who wait as well", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({
          algorithm: "aimd",
          initialLimit: 4,
          minCalls: 1,
          maxQueued: 9,
          partitions: { live: 0.5, batch: 0.5 }
        })
        const [batch, live] = [limit.partition("batch"), limit.partition("live")]
        yield* Effect.forEach([1, 2, 3, 4], () => fork(batch))
        yield* Effect.forEach([1, 2], () => Effect.sleep(100).pipe(live.execute, Effect.forkChild(start)))
        yield* Effect.forEach([1, 2, 3, 4], () => fork(live))
        assert.deepStrictEqual((yield* limit.state).partitions["live"], { guaranteed: 2, running: 2, waiting: 4 })
        // The limit is 5 then, of which three are for live.
        yield* TestClock.adjust(100)
        assert.deepStrictEqual((yield* limit.state).partitions["live"], { guaranteed: 3, running: 3, waiting: 1 })
      })
    )

    it.effect("serves those who wait in proportion to their parts, and those of no partition in between", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({
          initialLimit: 10,
          maxLimit: 10,
          maxQueued: 200,
          partitions: { live: 0.6, batch: 0.3 }
        })
        const log: Array<string> = []
        const [batch, live] = [limit.partition("batch"), limit.partition("live")]
        const wait = (name: string, calls: AdaptiveLimit.Calls) =>
          Effect.sync(() => log.push(name)).pipe(
            Effect.andThen(Effect.sleep(1)),
            calls.execute,
            Effect.forkChild(start)
          )
        yield* Effect.forEach([live, live, live, live, live, live, batch, batch, batch], fork)
        const last = yield* fork(limit)
        for (let i = 0; i < 60; i++) {
          yield* wait("batch", batch)
          yield* wait("live", live)
          yield* wait("rest", limit)
        }
        assert.deepStrictEqual(log, [])
        // One place, which is nobody's by right.
        yield* Fiber.interrupt(last)
        yield* TestClock.adjust(50)
        const served = log.slice(0, 50)
        assert.strictEqual(served.length, 50)
        assert.closeTo(served.filter((name) => name === "live").length, 30, 1)
        assert.closeTo(served.filter((name) => name === "batch").length, 15, 1)
        assert.closeTo(served.filter((name) => name === "rest").length, 5, 1)
      })
    )

    it.effect("dies on a name that was not configured, and refuses it in the types", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ partitions: { live: 0.5 } })
        expectTypeOf(limit).toEqualTypeOf<AdaptiveLimit.AdaptiveLimit<"live">>()
        const unknown: AdaptiveLimit.AdaptiveLimit<string> = yield* AdaptiveLimit.make<string>({
          partitions: { live: 1 }
        })
        const exit = yield* Effect.exit(unknown.partition("other").execute(Effect.void))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, 'AdaptiveLimit: there is no partition "other"')
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ minLimit: 0 }, "minLimit must be an integer >= 1, got 0"],
      [{ minLimit: 5, maxLimit: 4 }, "maxLimit must be an integer >= 5, got 4"],
      [{ minLimit: 5, initialLimit: 4 }, "initialLimit must be an integer >= 5, got 4"],
      [{ maxLimit: 5, initialLimit: 6 }, "initialLimit must be at most the maxLimit 5, got 6"],
      [{ minCalls: 0 }, "minCalls must be an integer >= 1, got 0"],
      [{ window: 0 }, "window must be a finite duration over zero, got 0"],
      [{ maxQueued: -1 }, "maxQueued must be an integer >= 0, got -1"],
      [{ algorithm: { name: "aimd", backoff: 1 } }, "algorithm.backoff must be at least 0.5 and under 1, got 1"],
      [{ algorithm: { name: "aimd", timeout: 0 } }, "algorithm.timeout must be over zero, got 0"],
      [{ algorithm: { name: "vegas", alpha: 0 } }, "algorithm.alpha must be a finite number > 0, got 0"],
      [{ algorithm: { name: "vegas", beta: 3 } }, "algorithm.beta must be a finite number > 3, got 3"],
      [{ algorithm: { name: "vegas", probeEvery: 0 } }, "algorithm.probeEvery must be a finite number > 0, got 0"],
      [{ algorithm: { name: "gradient2", smoothing: 0 } }, "algorithm.smoothing must be over 0 and at most 1, got 0"],
      [{ algorithm: { name: "gradient2", queue: 0 } }, "algorithm.queue must be a finite number > 0, got 0"],
      [{ algorithm: { name: "gradient2", longWindow: 9 } }, "algorithm.longWindow must be an integer >= 10, got 9"],
      [{ algorithm: { name: "gradient2", tolerance: 0 } }, "algorithm.tolerance must be a finite number >= 1, got 0"],
      [{ partitions: { a: 0 } }, "partitions.a must be over 0 and at most 1, got 0"],
      [{ partitions: { a: 0.6, b: 0.6 } }, "partitions must be at most 1 in all, got 1.2"],
      [{ partitions: { a: 1 }, priorities: "strict" }, 'priorities must be "ignored" with partitions, got "strict"']
    ] as ReadonlyArray<readonly [AdaptiveLimit.Options<string>, string]>)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(AdaptiveLimit.make(options))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, `AdaptiveLimit: ${message}`)
      })
    )

    it.effect("starts at 20, or at the nearest that is allowed", () =>
      Effect.gen(function* () {
        const limits = yield* Effect.forEach([{}, { maxLimit: 8 }, { minLimit: 30 }, { minLimit: 300 }], (options) =>
          Effect.flatMap(AdaptiveLimit.make(options), ({ state }) => state)
        )
        assert.deepStrictEqual(
          limits.map(({ limit }) => limit),
          [20, 8, 30, 300]
        )
      })
    )

    it("adds nothing but LimitReached to the type of a call", () => {
      const guarded = (limit: AdaptiveLimit.AdaptiveLimit, self: Effect.Effect<number, "E", "R">) => limit.execute(self)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | AdaptiveLimit.LimitReached, "R">>()
    })
  })

  describe("layer", () => {
    it.effect("provides the limit of a context, with its partitions", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.AdaptiveLimit
        assert.strictEqual(yield* limit.partition("live").execute(Effect.succeed(1)), 1)
      }).pipe(Effect.provide(AdaptiveLimit.layer({ partitions: { live: 0.5 } })))
    )

    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.AdaptiveLimit
        assert.strictEqual((yield* limit.state).limit, 4)
      }).pipe(
        Effect.provide(
          Layer.provide(
            AdaptiveLimit.layerConfig({ initialLimit: Config.Int("INITIAL_LIMIT") }),
            ConfigProvider.layer(ConfigProvider.fromUnknown({ INITIAL_LIMIT: 4 }))
          )
        )
      )
    )
  })
})
