import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Config,
  ConfigProvider,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Random,
  Schedule,
  Scheduler,
  Stream
} from "effect"
import { Bulkhead, CircuitBreaker, Deadline, RateLimiter, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpClient, type HttpClientError, HttpClientResponse } from "effect/http"
import { CircuitBreaker as EffectBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter: Duration.Duration }> {}

const key = "api"
const good = Effect.succeed("ok")
const bad = Effect.fail("bad" as const)

const tags = (breaker: CircuitBreaker.CircuitBreaker) =>
  Effect.map(breaker.states, (states) => states.map((state) => state._tag))

// Runs a call and says in one word how it ended.
const outcome = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(self), (exit) => {
    if (Exit.isSuccess(exit)) return "success"
    const error = Cause.findErrorOption(exit.cause)
    return error._tag === "Some" && error.value instanceof CircuitBreaker.CircuitOpen ? "refused" : "failure"
  })

const repeat = <A, E, R>(times: number, self: Effect.Effect<A, E, R>) =>
  Effect.forEach(Array.from({ length: times }), () => outcome(self))

// A call that is running until it is told how to end.
const pending = (breaker: CircuitBreaker.CircuitBreaker) =>
  Effect.gen(function* () {
    const answer = yield* Deferred.make<string, string>()
    const fiber = yield* Deferred.await(answer).pipe(
      breaker.execute({ key }),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    return {
      fiber,
      succeed: Effect.andThen(Deferred.succeed(answer, "late"), Fiber.join(fiber)),
      fail: Effect.andThen(Deferred.fail(answer, "late"), Fiber.join(fiber)),
      interrupt: Fiber.interrupt(fiber)
    }
  })

const opened = (options?: CircuitBreaker.Options) =>
  Effect.tap(CircuitBreaker.make({ failures: 1, openFor: 100, ...options }), (breaker) =>
    outcome(bad.pipe(breaker.execute({ key })))
  )

// A clock that only reads, for worlds too many to wait for.
const handClock = (nowMillis: () => number): Clock.Clock => ({
  currentTimeMillisUnsafe: nowMillis,
  currentTimeMillis: Effect.sync(nowMillis),
  currentTimeNanosUnsafe: () => BigInt(nowMillis()) * 1_000_000n,
  currentTimeNanos: Effect.sync(() => BigInt(nowMillis()) * 1_000_000n),
  monotonicTimeNanosUnsafe: () => BigInt(nowMillis()) * 1_000_000n,
  monotonicTimeNanos: Effect.sync(() => BigInt(nowMillis()) * 1_000_000n),
  sleep: () => Effect.never
})

// Every way a circuit with an open time of 100 ms and at most 50 ms half-open can stand.
const manual: ReadonlyArray<(breaker: CircuitBreaker.CircuitBreaker) => Effect.Effect<unknown, unknown>> = [
  () => Effect.void,
  (breaker) => good.pipe(breaker.execute({ key })),
  (breaker) => outcome(bad.pipe(breaker.execute({ key }))),
  (breaker) => Effect.andThen(breaker.open(key), TestClock.adjust(100)),
  (breaker) => Effect.andThen(breaker.open(key), Effect.andThen(TestClock.adjust(100), pending(breaker))),
  (breaker) =>
    breaker.open(key).pipe(Effect.andThen(TestClock.adjust(100)), Effect.andThen(good.pipe(breaker.execute({ key })))),
  (breaker) =>
    breaker
      .open(key)
      .pipe(
        Effect.andThen(TestClock.adjust(100)),
        Effect.andThen(pending(breaker)),
        Effect.andThen(TestClock.adjust(50))
      ),
  (breaker) => breaker.isolate(key)
]

// A scheduler that makes a fiber yield at its n-th operation, and only there.
const yieldingAt = (at: number): Scheduler.Scheduler => {
  const base = new Scheduler.MixedScheduler()
  let operations = 0
  return {
    executionMode: base.executionMode,
    makeDispatcher: () => base.makeDispatcher(),
    shouldYield: () => ++operations === at
  }
}

describe("CircuitBreaker", () => {
  describe("make", () => {
    it.effect("opens after 5 failures for 60 seconds and closes after 2 successes by default", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make()
        assert.deepStrictEqual(yield* repeat(4, bad.pipe(breaker.execute({ key }))), Array(4).fill("failure"))
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 4 })
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.deepStrictEqual(yield* breaker.state(key), {
          _tag: "Open",
          key,
          failures: 5,
          retryAfter: Duration.seconds(60),
          openings: 1
        })
        yield* TestClock.adjust(59_999)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        assert.strictEqual((yield* breaker.state(key))._tag, "HalfOpen")
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
      })
    )

    it.effect("has one rule, times no call, lets one probe run and gives it all the time by default", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make()
        assert.lengthOf((yield* breaker.totals).rules, 1)
        assert.strictEqual(yield* breaker.mode, "enabled")
        const slow = yield* pending(breaker)
        yield* TestClock.adjust("9 days")
        yield* slow.succeed
        assert.containsSubset(yield* breaker.totals, { calls: 1, slow: 0 })
        yield* breaker.open(key)
        yield* TestClock.adjust("60 seconds")
        yield* pending(breaker)
        yield* TestClock.adjust("9 days")
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
        assert.containsSubset(yield* breaker.state(key), { _tag: "HalfOpen", probing: true })
      })
    )

    it.effect("caps a hint at 1 hour and keeps 10,000 circuits by default", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        yield* outcome(new Busy({ retryAfter: Duration.hours(9) }).pipe(breaker.execute({ key })))
        const state = yield* breaker.state(key)
        assert.strictEqual(state._tag === "Open" && Duration.toMillis(state.retryAfter), 3_600_000)
        for (let index = 0; index < 10_500; index++) yield* good.pipe(breaker.execute({ key: `${index}` }))
        assert.strictEqual((yield* breaker.states).length, 10_000)
      })
    )

    for (const [options, message] of [
      [{ failures: 0 }, "CircuitBreaker: failures must be an integer >= 1, got 0"],
      [{ failures: 1.5 }, "CircuitBreaker: failures must be an integer >= 1, got 1.5"],
      [{ successesToClose: 0 }, "CircuitBreaker: successesToClose must be an integer >= 1, got 0"],
      [{ maxKeys: Number.NaN }, "CircuitBreaker: maxKeys must be an integer >= 1, got NaN"],
      [{ openFor: 0 }, "CircuitBreaker: openFor must be longer than 0 and end, got 0 ms"],
      [{ openFor: Duration.infinity }, "CircuitBreaker: openFor must be longer than 0 and end, got Infinity ms"],
      [{ maxRetryAfter: -1 }, "CircuitBreaker: maxRetryAfter must not be negative, got -1 ms"],
      [{ probes: 0 }, "CircuitBreaker: probes must be an integer >= 1, got 0"],
      [{ maxHalfOpen: 0 }, "CircuitBreaker: maxHalfOpen must be longer than 0, got 0 ms"],
      [{ slowAfter: -1 }, "CircuitBreaker: slowAfter must be zero or more, got -1 ms"],
      [{ slowCallRate: 1 }, "CircuitBreaker: slowAfter must be given with slowCallRate, got nothing"],
      [{ or: [{ slowCallRate: 1 }] }, "CircuitBreaker: slowAfter must be given with slowCallRate, got nothing"],
      [{ failureRate: 0 }, "CircuitBreaker: failureRate must be over 0 and at most 1, got 0"],
      [{ failureRate: 50 }, "CircuitBreaker: failureRate must be over 0 and at most 1, got 50"],
      [{ slowCallRate: Number.NaN }, "CircuitBreaker: slowCallRate must be over 0 and at most 1, got NaN"],
      [{ failureRate: 1, size: 0 }, "CircuitBreaker: size must be an integer >= 1, got 0"],
      [{ size: 5, within: 5 }, "CircuitBreaker: size must be left out beside within, got 5"],
      [{ within: Infinity }, "CircuitBreaker: within must be longer than 0 and end, got Infinity ms"],
      [{ minimumCalls: 3 }, "CircuitBreaker: minimumCalls must be left out without a rate, got 3"],
      [{ failureRate: 1, minimumCalls: 0 }, "CircuitBreaker: minimumCalls must be an integer >= 1, got 0"],
      [{ failureRate: 1, size: 5, minimumCalls: 6 }, "CircuitBreaker: minimumCalls must be at most size, 5, got 6"],
      [{ failures: 6, size: 5 }, "CircuitBreaker: failures must be at most size, 5, got 6"],
      [
        { failures: 5, failureRate: 0.5 },
        "CircuitBreaker: failures must be left out beside a rate without size or within, got 5"
      ],
      [{ size: 4 }, "CircuitBreaker: failures must be at most size, 4, got 5"],
      [{ or: [{ failures: 0 }] }, "CircuitBreaker: failures must be an integer >= 1, got 0"]
    ] as const) {
      it.effect(`dies: ${message}`, () =>
        Effect.gen(function* () {
          const exit = yield* Effect.exit(CircuitBreaker.make(options))
          assert.deepStrictEqual(exit, Exit.die(new RangeError(message)))
        })
      )
    }
  })

  describe("closed", () => {
    it.effect("passes results, failures and defects on as they are", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make()
        for (const exit of [Exit.succeed(1), Exit.fail("no"), Exit.die("bug")]) {
          assert.deepStrictEqual(yield* Effect.exit(breaker.execute({ key })(exit)), exit)
        }
      })
    )

    it.effect("does not add up failures across a success", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 3 })
        for (const call of [bad, bad, good, bad, bad])
          yield* outcome(breaker.execute({ key })(call as Effect.Effect<string, "bad">))
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 2 })
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("counts a defect and a timeout inside as failures, and ignores interruption", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 10 })
        yield* outcome(Effect.die("bug").pipe(breaker.execute({ key })))
        const slow = yield* Effect.never.pipe(
          Timeout.timeout(10),
          breaker.execute({ key }),
          Effect.exit,
          Effect.forkChild
        )
        yield* TestClock.adjust(10)
        yield* Fiber.join(slow)
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 2 })
        const outside = yield* Effect.never.pipe(
          breaker.execute({ key }),
          Timeout.timeout(10),
          Effect.exit,
          Effect.forkChild
        )
        yield* TestClock.adjust(10)
        yield* Fiber.join(outside)
        yield* outcome(Effect.interrupt.pipe(breaker.execute({ key })))
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 2 })
      })
    )

    it.effect("ignores the refusals of this package, which are not answers of the dependency", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        const inner = yield* opened()
        yield* outcome(good.pipe(inner.execute({ key }), breaker.execute({ key })))
        yield* outcome(good.pipe(Deadline.within(0), breaker.execute({ key })))
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        const running = yield* Effect.forkChild(bulkhead.execute(Effect.never), { startImmediately: true })
        yield* outcome(good.pipe(bulkhead.execute, breaker.execute({ key })))
        yield* Fiber.interrupt(running)
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 0.01, maxWait: 0 })
        yield* repeat(2, good.pipe(limiter.execute, breaker.execute({ key })))
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
        const late = yield* Effect.never.pipe(
          Deadline.within(10),
          breaker.execute({ key }),
          Effect.exit,
          Effect.forkChild
        )
        yield* TestClock.adjust(10)
        yield* Fiber.join(late)
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("keeps the circuits of two keys and of two breakers apart", () =>
      Effect.gen(function* () {
        const one = yield* opened()
        const two = yield* CircuitBreaker.make()
        assert.strictEqual(yield* outcome(good.pipe(one.execute({ key: "other" }))), "success")
        assert.strictEqual(yield* outcome(good.pipe(two.execute({ key }))), "success")
        assert.strictEqual(yield* outcome(good.pipe(one.execute({ key }))), "refused")
      })
    )

    it.effect("takes any string as a key", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        for (const odd of ["__proto__", "", "constructor", "k".repeat(10_000)]) {
          yield* outcome(bad.pipe(breaker.execute({ key: odd })))
          assert.strictEqual((yield* breaker.state(odd))._tag, "Open")
        }
      })
    )
  })

  describe("open", () => {
    it.effect("refuses without running the call, and says when to come back", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(30)
        let ran = false
        const error = yield* Effect.sync(() => (ran = true)).pipe(breaker.execute({ key }), Effect.flip)
        assert.isFalse(ran)
        assert.strictEqual(error._tag, "CircuitOpen")
        assert.strictEqual(error.key, key)
        assert.strictEqual(Duration.toMillis(error.retryAfter), 70)
        assert.strictEqual(error.message, 'Circuit "api" is open, next probe in 70ms')
        yield* TestClock.adjust(Duration.subtract(error.retryAfter, Duration.millis(1)))
        const later = yield* good.pipe(breaker.execute({ key }), Effect.flip)
        assert.strictEqual(Duration.toMillis(later.retryAfter), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
      })
    )

    it.effect("captures no stack for a refusal", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const error = yield* good.pipe(breaker.execute({ key }), Effect.flip)
        assert.notInclude(error.stack ?? "", "\n    at ")
      })
    )

    it.effect("stays open as long as the error that opened it asks, at least openFor, at most maxRetryAfter", () =>
      Effect.gen(function* () {
        for (const [asked, open] of [
          [50, 100],
          [250, 250],
          [5000, 1000],
          [-5, 100],
          [Infinity, 1000]
        ] as const) {
          const breaker = yield* CircuitBreaker.make({ failures: 2, openFor: 100, maxRetryAfter: "1 second" })
          const busy = new Busy({ retryAfter: Duration.millis(asked) }).pipe(breaker.execute({ key }))
          yield* outcome(busy)
          assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
          yield* outcome(busy)
          const state = yield* breaker.state(key)
          assert.strictEqual(state._tag === "Open" && Duration.toMillis(state.retryAfter), open)
        }
      })
    )

    it.effect("does not end early or late when the wall clock is set", () =>
      Effect.gen(function* () {
        yield* TestClock.adjust("1 hour")
        const breaker = yield* opened()
        yield* TestClock.setTime(0)
        const state = yield* breaker.state(key)
        assert.strictEqual(state._tag === "Open" && Duration.toMillis(state.retryAfter), 100)
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
      })
    )

    for (const [ending, openFor] of [
      ["a number of times", Schedule.upTo(Schedule.exponential(10), { times: 3 })],
      ["a time spent open", Schedule.upTo(Schedule.exponential(10), { duration: 50 })]
    ] as const) {
      it.effect(`gives the schedule's next delay to each opening in a row, and the last one after ${ending}`, () =>
        Effect.gen(function* () {
          const breaker = yield* CircuitBreaker.make({ failures: 1, openFor })
          const lengths: Array<number> = []
          for (let opening = 1; opening <= 5; opening++) {
            yield* outcome(bad.pipe(breaker.execute({ key })))
            const state = yield* breaker.state(key)
            if (state._tag !== "Open") return assert.fail(state._tag)
            assert.strictEqual(state.openings, opening)
            lengths.push(Duration.toMillis(state.retryAfter))
            yield* TestClock.adjust(state.retryAfter)
          }
          assert.deepStrictEqual(lengths, [10, 20, 40, 40, 40])
        })
      )
    }

    it.effect("starts the schedule again once closed for as long as it was last open, and not before", () =>
      Effect.gen(function* () {
        const openings = Effect.fnUntraced(function* (healthyFor: number) {
          const breaker = yield* CircuitBreaker.make({
            failures: 1,
            successesToClose: 1,
            openFor: Schedule.exponential(10)
          })
          yield* outcome(bad.pipe(breaker.execute({ key })))
          yield* TestClock.adjust(10)
          yield* outcome(bad.pipe(breaker.execute({ key })))
          yield* TestClock.adjust(20)
          yield* outcome(good.pipe(breaker.execute({ key })))
          assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
          yield* TestClock.adjust(healthyFor)
          yield* outcome(bad.pipe(breaker.execute({ key })))
          const state = yield* breaker.state(key)
          return state._tag === "Open" ? [state.openings, Duration.toMillis(state.retryAfter)] : undefined
        })
        assert.deepStrictEqual(yield* openings(19), [3, 40])
        assert.deepStrictEqual(yield* openings(20), [1, 10])
      })
    )

    it.effect("keeps the schedules of two keys apart", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: Schedule.exponential(10) })
        for (const each of ["a", "b"]) {
          yield* outcome(bad.pipe(breaker.execute({ key: each })))
          const state = yield* breaker.state(each)
          assert.strictEqual(state._tag === "Open" && Duration.toMillis(state.retryAfter), 10)
        }
      })
    )

    it.effect("draws the jitter of a schedule from the Random of the call that opens it", () =>
      Effect.gen(function* () {
        const length = Effect.fnUntraced(function* (seed: string) {
          const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: Schedule.jittered(Schedule.spaced(1000)) })
          yield* outcome(bad.pipe(breaker.execute({ key }))).pipe(Random.withSeed(seed))
          const state = yield* breaker.state(key)
          return state._tag === "Open" ? Duration.toMillis(state.retryAfter) : undefined
        })
        assert.strictEqual(yield* length("a"), yield* length("a"))
        assert.notStrictEqual(yield* length("a"), yield* length("b"))
      })
    )

    it.effect("stays at the last finite delay of a schedule that grows beyond all numbers", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: Schedule.exponential(10, 1e308) })
        for (let opening = 0; opening < 3; opening++) {
          yield* outcome(bad.pipe(breaker.execute({ key })))
          const state = yield* breaker.state(key)
          assert.strictEqual(state._tag === "Open" && Duration.toMillis(state.retryAfter), 10)
          yield* TestClock.adjust(10)
        }
      })
    )

    it.effect("rounds the time to come back up to whole milliseconds", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(Duration.micros(30_500n))
        const error = yield* good.pipe(breaker.execute({ key }), Effect.flip)
        assert.strictEqual(Duration.toMillis(error.retryAfter), 70)
      })
    )
  })

  describe("half open", () => {
    it.effect("lets exactly one of 1,000 callers through at the moment the open time ends", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(100)
        let ran = 0
        const outcomes = yield* Effect.forEach(
          Array.from({ length: 1000 }),
          () => Effect.sync(() => ran++).pipe(Effect.andThen(Effect.yieldNow), breaker.execute({ key }), outcome),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(ran, 1)
        assert.strictEqual(outcomes.filter((each) => each === "refused").length, 999)
      })
    )

    it.effect("refuses others while a slow probe runs, without a time to come back", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(100)
        const probe = yield* pending(breaker)
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* breaker.state(key), {
          _tag: "HalfOpen",
          key,
          failures: 1,
          successes: 0,
          probing: true,
          openings: 1
        })
        const error = yield* good.pipe(breaker.execute({ key }), Effect.flip)
        assert.isTrue(Duration.isZero(error.retryAfter))
        assert.strictEqual(error.message, 'Circuit "api" is being probed')
        yield* probe.succeed
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    it.effect("reopens on a failure at the last but one success, and counts the successes anew", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ successesToClose: 3 })
        yield* TestClock.adjust(100)
        yield* repeat(2, good.pipe(breaker.execute({ key })))
        yield* outcome(bad.pipe(breaker.execute({ key })))
        const state = yield* breaker.state(key)
        assert.strictEqual(state._tag === "Open" && state.openings, 2)
        assert.strictEqual(state.failures, 2)
        yield* TestClock.adjust(100)
        yield* repeat(2, good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "HalfOpen")
        yield* outcome(good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    it.effect("frees the place of a probe that is interrupted, and learns nothing from it", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(100)
        yield* outcome(good.pipe(breaker.execute({ key })))
        const probe = yield* pending(breaker)
        yield* probe.interrupt
        const state = yield* breaker.state(key)
        assert.isTrue(state._tag === "HalfOpen" && !state.probing && state.successes === 1)
        yield* outcome(good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    it.effect("frees the place of a probe whose outcome is ignored or whose classify throws", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(100)
        yield* outcome(bad.pipe(breaker.execute({ key, classify: () => "ignored" })))
        const thrown = yield* Effect.exit(
          bad.pipe(
            breaker.execute({
              key,
              classify: () => {
                throw new Error("no opinion")
              }
            })
          )
        )
        assert.isTrue(Exit.isFailure(thrown) && Cause.hasDies(thrown.cause))
        const state = yield* breaker.state(key)
        assert.isTrue(state._tag === "HalfOpen" && !state.probing && state.successes === 0)
      })
    )

    // A caller that has seen the open time end is suspended at each of its operations in turn, while another one probes.
    const overtaken = (
      probe: Effect.Effect<string, string>,
      check: (
        breaker: CircuitBreaker.CircuitBreaker,
        caller: Fiber.Fiber<string>,
        ran: () => boolean
      ) => Effect.Effect<void>
    ) =>
      Effect.gen(function* () {
        let overtakings = 0
        for (let at = 1; at <= 8; at++) {
          const breaker = yield* opened({ successesToClose: 1 })
          yield* TestClock.adjust(100)
          const gate = yield* Deferred.make<string>()
          let ran = false
          const caller = yield* Effect.suspend(() => {
            ran = true
            return Deferred.await(gate)
          }).pipe(
            breaker.execute({ key }),
            outcome,
            Effect.provideService(Scheduler.Scheduler, yieldingAt(at)),
            Effect.forkChild({ startImmediately: true })
          )
          if (!ran && (yield* outcome(probe.pipe(breaker.execute({ key })))) !== "refused") {
            overtakings++
            yield* Effect.yieldNow
            yield* check(breaker, caller, () => ran)
          }
          yield* Deferred.succeed(gate, "ok")
          yield* Fiber.join(caller)
          // Whatever the caller did, it holds no place now.
          yield* outcome(bad.pipe(breaker.execute({ key })))
          yield* TestClock.adjust(1000)
          assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        }
        assert.isAbove(overtakings, 1)
      })

    it.effect("refuses a caller that was overtaken by a probe which failed", () =>
      overtaken(bad, (_, caller, ran) =>
        Effect.gen(function* () {
          assert.strictEqual(yield* Fiber.join(caller), "refused")
          assert.isFalse(ran())
        })
      )
    )

    it.effect("takes a caller that was overtaken by a probe which closed the circuit for an ordinary one", () =>
      overtaken(good, (breaker, _, ran) =>
        Effect.gen(function* () {
          assert.isTrue(ran())
          assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
          yield* outcome(bad.pipe(breaker.execute({ key })))
          assert.strictEqual((yield* breaker.state(key))._tag, "Open")
        })
      )
    )

    it.effect("holds no place when interrupted at any operation of a probe", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ successesToClose: 1_000_000 })
        yield* TestClock.adjust(100)
        const operations = yield* interruptEverywhere(
          Effect.yieldNow.pipe(breaker.execute({ key })),
          Effect.gen(function* () {
            const state = yield* breaker.state(key)
            assert.isFalse(state._tag === "HalfOpen" && state.probing)
            assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
          })
        )
        assert.isAbove(operations, 3)
      })
    )
  })

  describe("a trip rule", () => {
    type Call = "good" | "bad"
    const effects = { good, bad: bad as Effect.Effect<string, "bad"> }
    const sequences = (length: number): ReadonlyArray<ReadonlyArray<Call>> =>
      length === 0
        ? [[]]
        : sequences(length - 1).flatMap((rest): Array<ReadonlyArray<Call>> => [
            [...rest, "good"],
            [...rest, "bad"]
          ])

    const rateOf = (calls: ReadonlyArray<Call>) => calls.filter((call) => call === "bad").length / calls.length

    // Each rule beside what it says, as plainly as possible, about all calls so far.
    for (const [rule, trips] of [
      [{ failures: 2, size: 3 }, (calls) => rateOf(calls.slice(-3)) * Math.min(calls.length, 3) >= 2],
      [{ failures: 3, size: 3 }, (calls) => calls.length >= 3 && rateOf(calls.slice(-3)) === 1],
      [{ failureRate: 0.5, size: 4, minimumCalls: 2 }, (calls) => calls.length >= 2 && rateOf(calls.slice(-4)) >= 0.5],
      [{ failureRate: 0.75, size: 4 }, (calls) => calls.length >= 4 && rateOf(calls.slice(-4)) >= 0.75],
      [
        { failures: 3, or: [{ failureRate: 0.6, size: 5, minimumCalls: 5 }] },
        (calls) =>
          (calls.length >= 3 && rateOf(calls.slice(-3)) === 1) || (calls.length >= 5 && rateOf(calls.slice(-5)) >= 0.6)
      ]
    ] satisfies ReadonlyArray<readonly [CircuitBreaker.Options, (calls: ReadonlyArray<Call>) => boolean]>) {
      it.effect(`${JSON.stringify(rule)} opens at the call at which it is broken, in any sequence of eight`, () =>
        Effect.gen(function* () {
          for (const sequence of sequences(8)) {
            const breaker = yield* CircuitBreaker.make(rule)
            for (const [index, call] of sequence.entries()) {
              const calls = sequence.slice(0, index + 1)
              yield* outcome(effects[call].pipe(breaker.execute({ key })))
              const { _tag } = yield* breaker.state(key)
              assert.strictEqual(_tag, trips(calls) ? "Open" : "Closed", calls.join(" "))
              if (_tag === "Open") break
            }
          }
        })
      )
    }

    it.effect("of 5 failures within 120 seconds counts them to the millisecond, whatever succeeds in between", () =>
      Effect.gen(function* () {
        for (const [gap, expected] of [
          [29_999, "Open"],
          [30_000, "Closed"]
        ] as const) {
          const breaker = yield* CircuitBreaker.make({ failures: 5, within: "120 seconds", openFor: "60 seconds" })
          for (let index = 0; index < 5; index++) {
            if (index > 0) yield* TestClock.adjust(gap)
            assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
            yield* outcome(good.pipe(breaker.execute({ key })))
            yield* outcome(bad.pipe(breaker.execute({ key })))
          }
          assert.strictEqual((yield* breaker.state(key))._tag, expected)
        }
      })
    )

    // The rule about time beside a plain list of what happened when. The tenths begin with the first call.
    for (const [rule, trips] of [
      [{ failures: 3, within: 100 }, (recent) => recent.filter(({ call }) => call === "bad").length >= 3],
      [
        { failureRate: 0.5, within: 100, minimumCalls: 3 },
        (recent) => recent.length >= 3 && rateOf(recent.map(({ call }) => call)) >= 0.5
      ]
    ] satisfies ReadonlyArray<
      readonly [CircuitBreaker.Options, (recent: ReadonlyArray<{ readonly call: Call }>) => boolean]
    >) {
      it.effect(`${JSON.stringify(rule)} forgets what is older, in any sequence of five calls`, () =>
        Effect.gen(function* () {
          const gaps = [10, 40, 100]
          const runs = sequences(5).flatMap((calls) =>
            gaps.flatMap((a) => gaps.flatMap((b) => gaps.map((c) => ({ calls, gaps: [0, a, b, c, a] }))))
          )
          for (const { calls, gaps } of runs) {
            const breaker = yield* CircuitBreaker.make(rule)
            const all: Array<{ readonly call: Call; readonly at: number }> = []
            let at = 0
            for (const [index, call] of calls.entries()) {
              yield* TestClock.adjust(gaps[index] ?? 0)
              at += gaps[index] ?? 0
              all.push({ call, at })
              yield* outcome(effects[call].pipe(breaker.execute({ key })))
              const { _tag } = yield* breaker.state(key)
              const recent = all.filter((each) => at - each.at < 100)
              assert.strictEqual(_tag, trips(recent) ? "Open" : "Closed", `${calls.join(" ")} ${gaps.join(" ")}`)
              if (_tag === "Open") break
            }
          }
        })
      )
    }

    it.effect("about rates in time forgets by tenths: the first call on time, a later one up to a tenth earlier", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failureRate: 1, within: 1000, minimumCalls: 99 })
        const calls = Effect.map(breaker.statistics(key), ({ rules }) => rules[0]?.calls)
        for (const at of [0, 99, 100, 199]) {
          yield* TestClock.setTime(at)
          yield* outcome(bad.pipe(breaker.execute({ key })))
        }
        const seen: Array<number | undefined> = []
        for (const at of [999, 1000, 1099, 1100, 5000]) {
          yield* TestClock.setTime(at)
          seen.push(yield* calls)
        }
        assert.deepStrictEqual(seen, [4, 2, 2, 0, 0])
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* TestClock.setTime(5999)
        assert.strictEqual(yield* calls, 1)
        yield* TestClock.setTime(6000)
        assert.strictEqual(yield* calls, 0)
      })
    )

    it.effect("about a rate is broken also by the success that makes the calls enough", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failureRate: 0.5, minimumCalls: 4 })
        for (const call of ["bad", "bad", "good"] as const) yield* outcome(effects[call].pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        yield* outcome(good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("about a rate looks at the last 100 calls and needs 20 by default", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failureRate: 0.5 })
        yield* repeat(19, bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
        yield* repeat(150, good.pipe(breaker.execute({ key: "healthy" })))
        assert.strictEqual((yield* breaker.statistics("healthy")).rules[0]?.calls, 100)
      })
    )

    it.effect("counts neither what is ignored nor what is refused", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failureRate: 0.5, size: 2, openFor: 100 })
        yield* repeat(5, Effect.interrupt.pipe(breaker.execute({ key })))
        yield* outcome(good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.statistics(key)).rules[0]?.calls, 1)
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* repeat(5, bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.statistics(key)).rules[0]?.calls, 2)
      })
    )

    it.effect("sees an empty window once the circuit has closed", () =>
      Effect.gen(function* () {
        for (const rule of [
          { failures: 2, size: 10 },
          { failures: 2, within: "1 hour" },
          { failureRate: 0.5, within: "1 hour", minimumCalls: 2 },
          { failures: 2, failureRate: 1, within: "1 hour", minimumCalls: 9 }
        ] as const) {
          const breaker = yield* CircuitBreaker.make({ ...rule, openFor: 100, successesToClose: 1 })
          yield* repeat(2, bad.pipe(breaker.execute({ key })))
          assert.strictEqual((yield* breaker.state(key))._tag, "Open")
          yield* TestClock.adjust(100)
          yield* outcome(good.pipe(breaker.execute({ key })))
          assert.strictEqual((yield* breaker.statistics(key)).rules[0]?.failures, 0)
          yield* outcome(bad.pipe(breaker.execute({ key })))
          assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
          yield* outcome(bad.pipe(breaker.execute({ key })))
          assert.strictEqual((yield* breaker.state(key))._tag, "Open")
        }
      })
    )
  })

  describe("slow calls", () => {
    const lasting = (breaker: CircuitBreaker.CircuitBreaker, millis: number, end: Effect.Effect<string, string>) =>
      Effect.gen(function* () {
        const fiber = yield* Effect.sleep(millis).pipe(
          Effect.andThen(end),
          breaker.execute({ key }),
          outcome,
          Effect.forkChild({ startImmediately: true })
        )
        yield* TestClock.adjust(millis)
        return yield* Fiber.join(fiber)
      })

    it.effect("are those that take longer than slowAfter, whether they succeed or fail", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ slowCallRate: 1, slowAfter: 100, size: 10, minimumCalls: 10 })
        const seen: Array<number | undefined> = []
        for (const [millis, end] of [
          [100, good],
          [101, good],
          [101, bad],
          [101, Effect.interrupt]
        ] as const) {
          yield* lasting(breaker, millis, end)
          seen.push((yield* breaker.statistics(key)).rules[0]?.slow)
        }
        assert.deepStrictEqual(seen, [0, 1, 2, 2])
        assert.containsSubset(yield* breaker.statistics(key), { slow: 2, successes: 2, failures: 1, ignored: 1 })
        assert.strictEqual((yield* breaker.totals).slow, 2)
      })
    )

    it.effect("leave the window as others come", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ slowCallRate: 1, slowAfter: 100, size: 2 })
        const seen: Array<number | undefined> = []
        for (const millis of [200, 10, 10, 200, 10]) {
          yield* lasting(breaker, millis, good)
          seen.push((yield* breaker.statistics(key)).rules[0]?.slow)
        }
        assert.deepStrictEqual(seen, [1, 1, 0, 1, 1])
      })
    )

    it.effect("open the circuit when they are too many, though all succeed", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ slowCallRate: 0.5, slowAfter: 100, size: 4 })
        for (const millis of [10, 200, 10]) yield* lasting(breaker, millis, good)
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        yield* lasting(breaker, 200, good)
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("do not close a half-open circuit where they can open it, and do elsewhere", () =>
      Effect.gen(function* () {
        for (const [rule, expected] of [
          [{ slowCallRate: 1, size: 1 }, "Open"],
          [{ failures: 1 }, "Closed"]
        ] as const) {
          const breaker = yield* CircuitBreaker.make({ ...rule, slowAfter: 100, openFor: 100, successesToClose: 1 })
          yield* breaker.open(key)
          yield* TestClock.adjust(100)
          yield* lasting(breaker, 101, good)
          assert.strictEqual((yield* breaker.state(key))._tag, expected)
        }
      })
    )

    it.effect("are measured from the start of a probe too", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ slowAfter: 100, failures: 1, openFor: 100 })
        yield* breaker.open(key)
        yield* TestClock.adjust(100)
        yield* lasting(breaker, 100, good)
        assert.strictEqual((yield* breaker.statistics(key)).slow, 0)
        yield* lasting(breaker, 101, good)
        assert.strictEqual((yield* breaker.statistics(key)).slow, 1)
      })
    )
  })

  describe("several probes", () => {
    it.effect("are let through, exactly as many as may run, out of 1,000 callers", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ probes: 3, successesToClose: 5 })
        yield* TestClock.adjust(100)
        let ran = 0
        const outcomes = yield* Effect.forEach(
          Array.from({ length: 1000 }),
          () => Effect.sync(() => ran++).pipe(Effect.andThen(Effect.yieldNow), breaker.execute({ key }), outcome),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(ran, 3)
        assert.strictEqual(outcomes.filter((each) => each === "refused").length, 997)
        const state = yield* breaker.state(key)
        assert.isTrue(state._tag === "HalfOpen" && state.successes === 3 && !state.probing)
      })
    )

    for (const end of ["succeed", "fail", "interrupt"] as const) {
      it.effect(`change nothing with a ${end} after another has closed the circuit`, () =>
        Effect.gen(function* () {
          const breaker = yield* opened({ probes: 2, successesToClose: 1 })
          yield* TestClock.adjust(100)
          const [first, second] = [yield* pending(breaker), yield* pending(breaker)]
          yield* first.succeed
          const expected = { _tag: "Closed", key, failures: 0 }
          assert.deepStrictEqual(yield* breaker.state(key), expected)
          yield* second[end]
          assert.deepStrictEqual(yield* breaker.state(key), expected)
        })
      )

      it.effect(`change nothing with a ${end} after another has opened it again`, () =>
        Effect.gen(function* () {
          const breaker = yield* opened({ probes: 2 })
          yield* TestClock.adjust(100)
          const [first, second] = [yield* pending(breaker), yield* pending(breaker)]
          yield* first.fail
          const before = yield* breaker.state(key)
          assert.strictEqual(before._tag, "Open")
          yield* second[end]
          assert.deepStrictEqual(yield* breaker.state(key), before)
          yield* TestClock.adjust(100)
          const [third, fourth] = [yield* pending(breaker), yield* pending(breaker)]
          assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
          yield* third.succeed
          yield* fourth.succeed
          assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        })
      )
    }

    it.effect("give back one place each", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ probes: 2, successesToClose: 9 })
        yield* TestClock.adjust(100)
        const [first, second] = [yield* pending(breaker), yield* pending(breaker)]
        yield* first.interrupt
        const third = yield* pending(breaker)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
        yield* second.interrupt
        yield* third.interrupt
        const state = yield* breaker.state(key)
        assert.isTrue(state._tag === "HalfOpen" && !state.probing)
      })
    )
  })

  describe("maxHalfOpen", () => {
    it.effect("opens the circuit again under probes that never end", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ maxHalfOpen: 50, openFor: Schedule.exponential(100) })
        const reader = yield* breaker.transitions.pipe(
          Stream.take(3),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        yield* TestClock.adjust(100)
        const probe = yield* pending(breaker)
        yield* TestClock.adjust(49)
        assert.containsSubset(yield* breaker.state(key), { _tag: "HalfOpen", probing: true })
        assert.isTrue(Duration.isZero((yield* Effect.flip(breaker.check(key))).retryAfter))
        yield* TestClock.adjust(1)
        const open = { _tag: "Open", key, failures: 1, retryAfter: Duration.millis(200), openings: 2 } as const
        assert.deepStrictEqual(yield* breaker.state(key), open)
        yield* TestClock.adjust(20)
        const error = yield* good.pipe(breaker.execute({ key }), Effect.flip)
        assert.strictEqual(Duration.toMillis(error.retryAfter), 180)
        yield* probe.succeed
        assert.containsSubset(yield* breaker.state(key), { _tag: "Open", openings: 2 })
        yield* TestClock.adjust(180)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        assert.deepStrictEqual(
          (yield* Fiber.join(reader)).map(({ from, to }) => `${from} ${to}`),
          ["Open HalfOpen", "HalfOpen Open", "Open HalfOpen"]
        )
      })
    )

    it.effect("does not refuse a caller who comes when the next open time would be over as well", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ maxHalfOpen: 50 })
        yield* TestClock.adjust(100)
        yield* pending(breaker)
        yield* TestClock.adjust(150)
        yield* breaker.check(key)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        assert.containsSubset(yield* breaker.state(key), { _tag: "HalfOpen", successes: 1, probing: false })
      })
    )

    it.effect("leaves probes that answer in time alone", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ maxHalfOpen: 50 })
        yield* TestClock.adjust(100)
        yield* outcome(good.pipe(breaker.execute({ key })))
        yield* TestClock.adjust(49)
        yield* outcome(good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )
  })

  describe("check", () => {
    it.effect("fails as a call would, and changes nothing but the count of refusals", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const open = yield* Effect.flip(breaker.check(key))
        assert.deepStrictEqual([open.key, Duration.toMillis(open.retryAfter)], [key, 100])
        assert.strictEqual((yield* breaker.statistics(key)).refused, 1)
        yield* TestClock.adjust(100)
        yield* breaker.check(key)
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
        const probe = yield* pending(breaker)
        assert.isTrue(Duration.isZero((yield* Effect.flip(breaker.check(key))).retryAfter))
        yield* probe.succeed
        yield* breaker.check(key)
        assert.containsSubset(yield* breaker.state(key), { _tag: "HalfOpen", successes: 1, probing: false })
        yield* breaker.check("never seen")
        assert.lengthOf(yield* breaker.states, 1)
      })
    )

    it.effect("can be read at once, by what is built on it", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const refusal = Effect.withFiberSucceed((fiber) => breaker.checkUnsafe(key, fiber))
        const refused = (yield* refusal) ?? Effect.die("not refused")
        assert.deepStrictEqual(yield* Effect.exit(refused), yield* Effect.exit(breaker.check(key)))
        yield* TestClock.adjust(100)
        assert.isUndefined(yield* refusal)
      })
    )

    it.effect("agrees with the call that follows in every state", () =>
      Effect.gen(function* () {
        for (const prepare of manual) {
          const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100, maxHalfOpen: 50 })
          yield* prepare(breaker)
          const before = yield* breaker.state(key)
          const checked = yield* Effect.exit(breaker.check(key))
          assert.deepStrictEqual(yield* breaker.state(key), before)
          const called = yield* outcome(good.pipe(breaker.execute({ key })))
          assert.strictEqual(Exit.isSuccess(checked) ? "success" : "refused", called)
        }
      })
    )
  })

  describe("open", () => {
    it.effect("opens at once, for the time that is asked or the open time", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ openFor: Schedule.exponential(10) })
        yield* breaker.open(key, "2 hours")
        const expected = { _tag: "Open", key, failures: 0, retryAfter: Duration.hours(2), openings: 1 } as const
        assert.deepStrictEqual(yield* breaker.state(key), expected)
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
        yield* TestClock.adjust("2 hours")
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        yield* breaker.open("other")
        assert.containsSubset(yield* breaker.state("other"), { retryAfter: Duration.millis(10) })
      })
    )

    it.effect("lengthens the time of an open circuit, and never shortens it", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        for (const [asked, expected] of [
          [50, 100],
          [undefined, 100],
          [500, 500],
          [200, 500]
        ] as const) {
          yield* breaker.open(key, asked)
          assert.containsSubset(yield* breaker.state(key), { openings: 1, retryAfter: Duration.millis(expected) })
        }
      })
    )

    it.effect("begins the open time of an open circuit again where none is asked", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust(60)
        yield* breaker.open(key)
        assert.containsSubset(yield* breaker.state(key), { openings: 1, retryAfter: Duration.millis(100) })
      })
    )

    it.effect("counts as in a row only those without health in between", () =>
      Effect.gen(function* () {
        for (const [healthyFor, openings] of [
          [999, 2],
          [1000, 1]
        ] as const) {
          const breaker = yield* CircuitBreaker.make()
          yield* breaker.open(key, "1 second")
          yield* TestClock.adjust("1 second")
          yield* repeat(2, good.pipe(breaker.execute({ key })))
          yield* TestClock.adjust(healthyFor)
          yield* breaker.open(key, "1 second")
          assert.containsSubset(yield* breaker.state(key), { _tag: "Open", openings })
        }
      })
    )

    it.effect("dies of a time that is none", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const exit = yield* Effect.exit(breaker.open(key, 0))
        const message = "CircuitBreaker: open duration must be longer than 0 and end, got 0 ms"
        assert.deepStrictEqual(exit, Exit.die(new RangeError(message)))
      })
    )
  })

  describe("isolate", () => {
    it.effect("refuses until closed by hand, in every state", () =>
      Effect.gen(function* () {
        for (const prepare of manual) {
          for (const end of ["close", "reset"] as const) {
            const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100, maxHalfOpen: 50 })
            yield* prepare(breaker)
            yield* breaker.isolate(key)
            yield* TestClock.adjust("9 days")
            yield* breaker.open(key, "1 second")
            assert.strictEqual((yield* breaker.state(key))._tag, "Isolated")
            const error = yield* good.pipe(breaker.execute({ key }), Effect.flip)
            assert.isFalse(Duration.isFinite(error.retryAfter))
            assert.strictEqual(error.message, 'Circuit "api" is isolated')
            yield* breaker[end](key)
            assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
            assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
          }
        }
      })
    )

    it.effect("is not undone by a probe that was running", () =>
      Effect.gen(function* () {
        for (const end of ["succeed", "fail", "interrupt"] as const) {
          const breaker = yield* opened({ successesToClose: 1 })
          yield* TestClock.adjust(100)
          const probe = yield* pending(breaker)
          yield* breaker.isolate(key)
          yield* probe[end]
          assert.strictEqual((yield* breaker.state(key))._tag, "Isolated")
        }
      })
    )

    it.effect("outlives open circuits when there is no room for all", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, maxKeys: 2 })
        yield* breaker.isolate("isolated")
        for (const each of ["a", "b", "c"]) {
          yield* outcome(bad.pipe(breaker.execute({ key: each })))
          assert.sameMembers(
            (yield* breaker.states).map((state) => state.key),
            ["isolated", each]
          )
        }
        yield* breaker.isolate("c")
        yield* breaker.isolate("d")
        assert.sameMembers(
          (yield* breaker.states).map((state) => state.key),
          ["c", "d"]
        )
      })
    )
  })

  describe("close and reset", () => {
    it.effect("let calls through with an empty window, in every state", () =>
      Effect.gen(function* () {
        for (const prepare of manual) {
          for (const act of ["close", "reset"] as const) {
            const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100, maxHalfOpen: 50 })
            yield* prepare(breaker)
            yield* breaker[act](key)
            assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
          }
        }
      })
    )

    it.effect("do not know a key that they have never seen", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make()
        yield* breaker.close(key)
        yield* breaker.reset(key)
        assert.deepStrictEqual(yield* breaker.states, [])
      })
    )

    it.effect("differ in the openings: only reset forgets how many there were in a row", () =>
      Effect.gen(function* () {
        for (const [act, expected] of [
          ["close", { openings: 2, retryAfter: Duration.millis(20) }],
          ["reset", { openings: 1, retryAfter: Duration.millis(10) }]
        ] as const) {
          const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: Schedule.exponential(10) })
          yield* outcome(bad.pipe(breaker.execute({ key })))
          yield* breaker[act](key)
          yield* outcome(bad.pipe(breaker.execute({ key })))
          assert.containsSubset(yield* breaker.state(key), expected)
        }
      })
    )

    it.effect("differ for a closed circuit: only reset empties its window, and what is running no longer counts", () =>
      Effect.gen(function* () {
        for (const [act, failures, late] of [
          ["close", 1, 2],
          ["reset", 0, 0]
        ] as const) {
          const breaker = yield* CircuitBreaker.make()
          const call = yield* pending(breaker)
          yield* outcome(bad.pipe(breaker.execute({ key })))
          yield* breaker[act](key)
          assert.strictEqual((yield* breaker.state(key)).failures, failures)
          yield* call.fail
          assert.strictEqual((yield* breaker.state(key)).failures, late)
        }
      })
    )
  })

  describe("mode", () => {
    it.effect('"disabled" runs everything and notices nothing', () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const before = [yield* breaker.states, yield* breaker.totals]
        yield* breaker.setMode("disabled")
        assert.strictEqual(yield* breaker.mode, "disabled")
        yield* breaker.check(key)
        yield* repeat(9, bad.pipe(breaker.execute({ key })))
        yield* repeat(9, bad.pipe(breaker.execute({ key: "other" })))
        assert.deepStrictEqual([yield* breaker.states, yield* breaker.totals], before)
        yield* breaker.setMode("enabled")
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
      })
    )

    it.effect('"metrics-only" runs and counts everything, and no circuit opens or closes', () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ failures: 1, or: [{ failureRate: 0.5, size: 4 }], mode: "metrics-only" })
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 1 })
        yield* breaker.open(key)
        yield* repeat(4, bad.pipe(breaker.execute({ key })))
        yield* breaker.check(key)
        assert.containsSubset(yield* breaker.state(key), { _tag: "Open", openings: 1, failures: 5 })
        const { failures, refused, rules } = yield* breaker.statistics(key)
        assert.deepStrictEqual([failures, refused, rules[1]?.calls], [5, 0, 4])
        yield* TestClock.adjust(100)
        yield* repeat(4, good.pipe(breaker.execute({ key })))
        assert.containsSubset(yield* breaker.state(key), { _tag: "Open", retryAfter: Duration.zero })
      })
    )

    it.effect("that is changed under a probe does not keep its place", () =>
      Effect.gen(function* () {
        for (const mode of ["disabled", "metrics-only"] as const) {
          for (const end of ["succeed", "fail"] as const) {
            const breaker = yield* opened({ successesToClose: 1 })
            yield* TestClock.adjust(100)
            const probe = yield* pending(breaker)
            yield* breaker.setMode(mode)
            yield* probe[end]
            assert.containsSubset(yield* breaker.state(key), { _tag: "HalfOpen", successes: 0, probing: false })
          }
        }
      })
    )

    it.effect("that is changed under an ordinary call decides what its end does", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        const [first, second] = [yield* pending(breaker), yield* pending(breaker)]
        yield* breaker.setMode("disabled")
        yield* first.fail
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
        yield* breaker.setMode("enabled")
        yield* second.fail
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("takes no call that it let through an open circuit for a probe", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ mode: "metrics-only", successesToClose: 1 })
        yield* breaker.open(key)
        const call = yield* pending(breaker)
        yield* breaker.setMode("enabled")
        yield* TestClock.adjust(100)
        const probe = yield* pending(breaker)
        yield* call.fail
        assert.containsSubset(yield* breaker.state(key), { _tag: "HalfOpen", probing: true })
        yield* probe.succeed
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )
  })

  describe("statistics", () => {
    it.effect("count what became of calls, per key and in all", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({
          failureRate: 0.75,
          size: 4,
          or: [{ failures: 9, within: "1 day" }]
        })
        yield* repeat(2, bad.pipe(breaker.execute({ key })))
        yield* outcome(good.pipe(breaker.execute({ key })))
        yield* outcome(Effect.interrupt.pipe(breaker.execute({ key })))
        const window = { slow: 0, slowCallRate: 0 }
        const times = { calls: undefined, slow: undefined, failureRate: undefined, slowCallRate: undefined }
        const expected = {
          calls: 4,
          successes: 1,
          failures: 2,
          ignored: 1,
          slow: 0,
          refused: 0,
          rules: [
            { ...window, calls: 3, failures: 2, failureRate: 2 / 3 },
            { ...times, failures: 2 }
          ]
        }
        assert.deepStrictEqual(yield* breaker.statistics(key), expected)
        assert.deepStrictEqual(yield* breaker.totals, expected)
        yield* outcome(good.pipe(breaker.execute({ key: "other" })))
        yield* repeat(3, bad.pipe(breaker.execute({ key })))
        assert.containsSubset(yield* breaker.statistics(key), { calls: 5, failures: 3, refused: 2 })
        assert.deepStrictEqual(yield* breaker.totals, {
          ...expected,
          calls: 6,
          successes: 2,
          failures: 3,
          refused: 2,
          rules: [
            { ...window, calls: 5, failures: 3, failureRate: 3 / 5 },
            { ...times, failures: 3 }
          ]
        })
      })
    )

    it.effect("are zero for a key never seen, with rates that do not exist", () =>
      Effect.gen(function* () {
        const none = { calls: 0, successes: 0, failures: 0, ignored: 0, slow: 0, refused: 0 }
        const unknown = { calls: undefined, slow: undefined, failureRate: undefined, slowCallRate: undefined }
        const breaker = yield* CircuitBreaker.make({ or: [{ failureRate: 1 }] })
        const rules = [
          { ...unknown, failures: 0 },
          { ...unknown, calls: 0, failures: 0, slow: 0 }
        ]
        assert.deepStrictEqual(yield* breaker.statistics(key), { ...none, rules })
        assert.deepStrictEqual(yield* breaker.totals, { ...none, rules })
        assert.deepStrictEqual(yield* breaker.states, [])
      })
    )

    it.effect("count late answers too, and totals those of circuits that are gone", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, maxKeys: 1 })
        const [late, dropped] = [yield* pending(breaker), yield* pending(breaker)]
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* late.succeed
        assert.containsSubset(yield* breaker.statistics(key), { successes: 1, failures: 1 })
        yield* outcome(good.pipe(breaker.execute({ key: "other" })))
        yield* dropped.fail
        assert.containsSubset(yield* breaker.statistics(key), { calls: 0 })
        assert.containsSubset(yield* breaker.totals, { calls: 4, successes: 2, failures: 2 })
      })
    )

    it.effect("outlive a reset", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* outcome(good.pipe(breaker.execute({ key })))
        yield* breaker.reset(key)
        assert.containsSubset(yield* breaker.statistics(key), { calls: 1, failures: 1, refused: 1 })
      })
    )
  })

  describe("interruption", () => {
    it.effect("at any operation of a call counts once or not at all, and changes no state", () =>
      Effect.gen(function* () {
        for (const options of [
          {},
          { failureRate: 0.5, within: "1 minute" },
          { slowAfter: 10 },
          { mode: "metrics-only" }
        ] satisfies ReadonlyArray<CircuitBreaker.Options>) {
          const breaker = yield* CircuitBreaker.make(options)
          let runs = 1
          let before = 0
          yield* interruptEverywhere(
            Effect.yieldNow.pipe(breaker.execute({ key })),
            Effect.gen(function* () {
              runs++
              const { calls, failures, successes } = yield* breaker.statistics(key)
              assert.isAtMost(calls, runs)
              assert.isAtLeast(calls, before)
              before = calls
              assert.strictEqual(failures, 0)
              assert.isAtMost(successes, 2)
              assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
            })
          )
        }
      })
    )

    it.effect("at any operation of one probe leaves the place of another alone", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ probes: 2, successesToClose: 1_000_000 })
        yield* TestClock.adjust(100)
        const other = yield* pending(breaker)
        yield* interruptEverywhere(
          Effect.yieldNow.pipe(breaker.execute({ key })),
          Effect.gen(function* () {
            const third = yield* pending(breaker)
            assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
            yield* third.succeed
          })
        )
        yield* other.interrupt
        assert.containsSubset(yield* breaker.state(key), { probing: false })
      })
    )

    it.effect("at any operation of a check or of a change by hand takes no place", () =>
      Effect.gen(function* () {
        for (const act of ["check", "open", "isolate", "close", "reset"] as const) {
          const breaker = yield* opened()
          yield* TestClock.adjust(100)
          yield* interruptEverywhere(
            breaker[act](key),
            Effect.gen(function* () {
              const state = yield* breaker.state(key)
              assert.isFalse(state._tag === "HalfOpen" && state.probing)
            })
          )
          yield* breaker.reset(key)
          assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "success")
        }
      })
    )
  })

  describe("settings", () => {
    it.effect("of a key replace the breaker's, trip rules as a whole", () =>
      Effect.gen(function* () {
        const strict = { failures: 1, openFor: 7 }
        const breaker = yield* CircuitBreaker.make({
          failures: 3,
          within: "1 minute",
          openFor: 100,
          successesToClose: 1,
          settings: (key) => (key.startsWith("strict") ? strict : key === "patient" ? { openFor: 5000 } : undefined)
        })
        for (const [each, failures, openFor] of [
          ["strict", 1, 7],
          ["strict too", 1, 7],
          ["patient", 3, 5000],
          ["plain", 3, 100]
        ] as const) {
          yield* repeat(failures - 1, bad.pipe(breaker.execute({ key: each })))
          assert.strictEqual((yield* breaker.state(each))._tag, "Closed")
          yield* outcome(bad.pipe(breaker.execute({ key: each })))
          assert.containsSubset(yield* breaker.state(each), { _tag: "Open", retryAfter: Duration.millis(openFor) })
          yield* TestClock.adjust(openFor)
          yield* outcome(good.pipe(breaker.execute({ key: each })))
          assert.strictEqual((yield* breaker.state(each))._tag, "Closed")
        }
        assert.lengthOf((yield* breaker.totals).rules, 1)
      })
    )

    it.effect("that many keys share are worked out once", () =>
      Effect.gen(function* () {
        let reads = 0
        const shared = {
          get failures() {
            reads++
            return 1
          }
        }
        const breaker = yield* CircuitBreaker.make({ settings: () => shared })
        yield* outcome(good.pipe(breaker.execute({ key: "one" })))
        const once = reads
        yield* outcome(good.pipe(breaker.execute({ key: "two" })))
        assert.isAbove(once, 0)
        assert.strictEqual(reads, once)
      })
    )

    it.effect("of a key can say what an exit means", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({
          failures: 1,
          settings: (key) => (key === "forgiving" ? { classify: () => "ignored" } : undefined)
        })
        yield* outcome(bad.pipe(breaker.execute({ key: "forgiving" })))
        assert.strictEqual((yield* breaker.state("forgiving"))._tag, "Closed")
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("that make no sense are a defect of the call, and leave no circuit", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ settings: () => ({ failures: 0 }) })
        const exit = yield* Effect.exit(good.pipe(breaker.execute({ key })))
        assert.deepStrictEqual(
          exit,
          Exit.die(new RangeError("CircuitBreaker: failures must be an integer >= 1, got 0"))
        )
        assert.deepStrictEqual(yield* breaker.states, [])
      })
    )
  })

  describe("a late answer", () => {
    // Admitted closed, and answered after `change` has happened: nothing about the state may be different.
    const late = Effect.fnUntraced(function* (
      end: "succeed" | "fail",
      change: (breaker: CircuitBreaker.CircuitBreaker) => Effect.Effect<unknown>
    ) {
      const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100, successesToClose: 2 })
      const call = yield* pending(breaker)
      yield* outcome(bad.pipe(breaker.execute({ key })))
      yield* change(breaker)
      const before = yield* breaker.state(key)
      yield* call[end]
      assert.deepStrictEqual(yield* breaker.state(key), before)
      return before._tag
    })
    const probed = (breaker: CircuitBreaker.CircuitBreaker) =>
      Effect.andThen(TestClock.adjust(100), outcome(good.pipe(breaker.execute({ key }))))

    for (const end of ["succeed", "fail"] as const) {
      it.effect(`changes nothing when it is a ${end} and the circuit has opened since`, () =>
        Effect.gen(function* () {
          assert.strictEqual(yield* late(end, () => Effect.void), "Open")
        })
      )

      it.effect(`changes nothing when it is a ${end} and the circuit is half open`, () =>
        Effect.gen(function* () {
          assert.strictEqual(yield* late(end, probed), "HalfOpen")
        })
      )

      it.effect(`changes nothing when it is a ${end} and the circuit has closed again`, () =>
        Effect.gen(function* () {
          const state = yield* late(end, (breaker) => Effect.andThen(probed(breaker), probed(breaker)))
          assert.strictEqual(state, "Closed")
        })
      )
    }

    it.effect("does not free the place of a probe that runs now", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100 })
        const call = yield* pending(breaker)
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* TestClock.adjust(100)
        const probe = yield* pending(breaker)
        yield* call.fail
        assert.strictEqual(yield* outcome(good.pipe(breaker.execute({ key }))), "refused")
        yield* probe.succeed
      })
    )
  })

  describe("any sequence", () => {
    const actions = ["good", "bad", "ignored", "wait"] as const
    type Action = (typeof actions)[number]
    const sequences = (length: number): Array<ReadonlyArray<Action>> =>
      length === 0 ? [[]] : sequences(length - 1).flatMap((rest) => actions.map((action) => [...rest, action]))

    // The same rules said as plainly as possible: opens at 2 failures for one wait, closes after 2 successes.
    const model = () => {
      let state: "Closed" | "Open" | "Ready" | "HalfOpen" = "Closed"
      let failures = 0
      let successes = 0
      return (action: Action): string => {
        if (action === "wait") {
          if (state === "Open") state = "Ready"
        } else if (state !== "Open") {
          if (state === "Ready") {
            state = "HalfOpen"
            successes = 0
          }
          if (action === "bad") {
            failures++
            if (state === "HalfOpen" || failures >= 2) state = "Open"
          } else if (action === "good") {
            if (state === "Closed") failures = 0
            else if (++successes === 2) {
              state = "Closed"
              failures = 0
            }
          }
        }
        return `${state === "Ready" ? "Open" : state} ${failures}`
      }
    }

    it.effect("of six calls and waits leads where the plain rules lead", () =>
      Effect.gen(function* () {
        const calls: Record<Exclude<Action, "wait">, Effect.Effect<string, string>> = {
          good,
          bad,
          ignored: Effect.interrupt
        }
        for (const sequence of sequences(6)) {
          const breaker = yield* CircuitBreaker.make({ failures: 2, openFor: 100, successesToClose: 2 })
          const expected = model()
          for (const [index, action] of sequence.entries()) {
            if (action === "wait") yield* TestClock.adjust(100)
            else yield* outcome(calls[action].pipe(breaker.execute({ key })))
            const state = yield* breaker.state(key)
            const at = sequence.slice(0, index + 1).join(" ")
            assert.strictEqual(`${state._tag} ${state.failures}`, expected(action), at)
          }
        }
      })
    )
  })

  describe("execute", () => {
    it.effect("asks classify what an exit means, per breaker and per call", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({
          failures: 2,
          classify: (exit) => (Exit.isSuccess(exit) && exit.value === "empty" ? "failure" : "success")
        })
        const empty = Effect.succeed("empty")
        yield* outcome(empty.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key)).failures, 1)
        yield* outcome(empty.pipe(breaker.execute({ key, classify: () => "ignored" })))
        assert.strictEqual((yield* breaker.state(key)).failures, 1)
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key)).failures, 0)
      })
    )

    it.effect("ignores interruption whatever classify says", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, classify: () => "failure" })
        yield* outcome(Effect.interrupt.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    it("adds CircuitOpen to the errors and nothing else", () => {
      const breaker = Effect.runSync(CircuitBreaker.make())
      const guarded = (self: Effect.Effect<number, "E", "R">) => self.pipe(breaker.execute({ key }))
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, "E" | CircuitBreaker.CircuitOpen, "R">>()
      const kept = breaker.execute({ key })
      expectTypeOf(kept(Effect.succeed(1))).toEqualTypeOf<Effect.Effect<number, CircuitBreaker.CircuitOpen>>()
      const classified = (self: Effect.Effect<number, "E", "R">) =>
        self.pipe(
          breaker.execute({
            key,
            classify: (exit) => {
              expectTypeOf(exit).toEqualTypeOf<Exit.Exit<number, "E">>()
              return "ignored"
            }
          })
        )
      expectTypeOf(classified).returns.toEqualTypeOf<Effect.Effect<number, "E" | CircuitBreaker.CircuitOpen, "R">>()
    })
  })

  it("says in the types of its options what belongs together", () => {
    expectTypeOf(CircuitBreaker.make).parameters.toEqualTypeOf<[options?: CircuitBreaker.Options | undefined]>()
    expectTypeOf(CircuitBreaker.make({ failures: 5 })).toEqualTypeOf<Effect.Effect<CircuitBreaker.CircuitBreaker>>()
    const breaker = Effect.runSync(CircuitBreaker.make())
    expectTypeOf(breaker.check(key)).toEqualTypeOf<Effect.Effect<void, CircuitBreaker.CircuitOpen>>()
    expectTypeOf(breaker.open(key, "15 minutes")).toEqualTypeOf<Effect.Effect<void>>()
    expectTypeOf<CircuitBreaker.Settings>().toExtend<CircuitBreaker.TripRule>()
    expectTypeOf<CircuitBreaker.Options>().toExtend<CircuitBreaker.Settings>()
  })

  describe("classify", () => {
    it("reads every kind of exit", () => {
      const refusal = new Deadline.DeadlineExceeded({ after: Duration.zero, started: false })
      for (const [exit, expected] of [
        [Exit.succeed(1), "success"],
        [Exit.fail("bad"), "failure"],
        [Exit.die("bug"), "failure"],
        [Exit.interrupt(1), "ignored"],
        [Exit.fail(refusal), "ignored"],
        [Exit.failCause(Cause.combine(Cause.fail(refusal), Cause.interrupt(1))), "ignored"],
        [Exit.failCause(Cause.combine(Cause.fail("bad"), Cause.interrupt(1))), "failure"],
        [Exit.failCause(Cause.combine(Cause.fail(refusal), Cause.die("bug"))), "failure"]
      ] as const) {
        assert.strictEqual(CircuitBreaker.classify(exit), expected)
      }
    })
  })

  describe("state", () => {
    it.effect("changes nothing, also when the open time is over", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        yield* TestClock.adjust("1 minute")
        const expected = { _tag: "Open", key, failures: 1, retryAfter: Duration.zero, openings: 1 } as const
        assert.deepStrictEqual(yield* breaker.state(key), expected)
        assert.deepStrictEqual(yield* breaker.state(key), expected)
        assert.deepStrictEqual(yield* breaker.state("never seen"), { _tag: "Closed", key: "never seen", failures: 0 })
        assert.deepStrictEqual(yield* breaker.states, [expected])
      })
    )
  })

  describe("maxKeys", () => {
    it.effect("drops idle closed circuits first and an open one only when there is no other", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 2, maxKeys: 3 })
        yield* repeat(2, bad.pipe(breaker.execute({ key: "open" })))
        yield* outcome(bad.pipe(breaker.execute({ key: "failing" })))
        for (const each of ["a", "b", "c", "d"]) {
          yield* outcome(good.pipe(breaker.execute({ key: each })))
          const keys = (yield* breaker.states).map((state) => state.key)
          assert.includeMembers(keys, ["open", "failing", each])
          assert.strictEqual(keys.length, 3)
        }
        for (const each of ["x", "y", "z"]) yield* repeat(2, bad.pipe(breaker.execute({ key: each })))
        assert.deepStrictEqual(yield* tags(breaker), ["Open", "Open", "Open"])
        yield* outcome(good.pipe(breaker.execute({ key: "new" })))
        assert.sameMembers(
          (yield* breaker.states).map((state) => state.key),
          ["new", "y", "z"]
        )
      })
    )

    it.effect("keeps a circuit in use over one that was used once", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ maxKeys: 3 })
        for (let index = 0; index < 50; index++) {
          yield* outcome(good.pipe(breaker.execute({ key: "busy" })))
          yield* outcome(good.pipe(breaker.execute({ key: `${index}` })))
          const keys = (yield* breaker.states).map((state) => state.key)
          assert.include(keys, "busy")
          assert.isAtMost(keys.length, 3)
        }
      })
    )

    it.effect("counts the failure of a call whose circuit was dropped meanwhile", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 2, maxKeys: 1 })
        const first = yield* pending(breaker)
        const second = yield* pending(breaker)
        yield* outcome(good.pipe(breaker.execute({ key: "other" })))
        yield* outcome(good.pipe(breaker.execute({ key: "other" })))
        assert.deepStrictEqual(
          (yield* breaker.states).map((state) => state.key),
          ["other"]
        )
        yield* first.fail
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 1 })
        yield* second.fail
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    it.effect("does not let a call of a dropped circuit change one that has opened since", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, successesToClose: 1, openFor: 100, maxKeys: 1 })
        const call = yield* pending(breaker)
        yield* outcome(good.pipe(breaker.execute({ key: "other" })))
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* TestClock.adjust(100)
        yield* outcome(good.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        yield* call.fail
        assert.deepStrictEqual(yield* breaker.state(key), { _tag: "Closed", key, failures: 0 })
      })
    )

    it.effect("does not bring back an open circuit that was dropped while it was probed", () =>
      Effect.gen(function* () {
        for (const end of ["succeed", "fail"] as const) {
          const breaker = yield* opened({ maxKeys: 1, successesToClose: 1 })
          yield* TestClock.adjust(100)
          const probe = yield* pending(breaker)
          yield* outcome(good.pipe(breaker.execute({ key: "other" })))
          yield* probe[end]
          assert.deepStrictEqual(
            (yield* breaker.states).map((state) => state.key),
            ["other"]
          )
        }
      })
    )
  })

  describe("transitions", () => {
    it.effect("tells every change of state in order", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100, successesToClose: 1 })
        const reader = yield* breaker.transitions.pipe(
          Stream.take(5),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* TestClock.adjust(100)
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* TestClock.adjust(100)
        yield* outcome(good.pipe(breaker.execute({ key })))
        const retryAfter = Duration.millis(100)
        assert.deepStrictEqual(yield* Fiber.join(reader), [
          { key, from: "Closed", to: "Open", failures: 1, retryAfter, openings: 1 },
          { key, from: "Open", to: "HalfOpen" },
          { key, from: "HalfOpen", to: "Open", failures: 2, retryAfter, openings: 2 },
          { key, from: "Open", to: "HalfOpen" },
          { key, from: "HalfOpen", to: "Closed" }
        ])
      })
    )

    it.effect("drops the oldest for a reader that does not keep up, and holds up nobody", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        const gate = yield* Deferred.make<void>()
        const reader = yield* breaker.transitions.pipe(
          Stream.tap(() => Deferred.await(gate)),
          Stream.take(129),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        yield* outcome(bad.pipe(breaker.execute({ key: "first" })))
        yield* Effect.yieldNow
        for (let index = 0; index < 1000; index++) yield* outcome(bad.pipe(breaker.execute({ key: `${index}` })))
        yield* Deferred.succeed(gate, undefined)
        const keys = (yield* Fiber.join(reader)).map((transition) => transition.key)
        assert.strictEqual(keys[0], "first")
        assert.strictEqual(keys.at(-1), "999")
      })
    )

    it.effect("ends with its reader", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        const reader = yield* Effect.forkChild(Stream.runDrain(breaker.transitions), { startImmediately: true })
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* Fiber.interrupt(reader)
        assert.strictEqual(yield* outcome(bad.pipe(breaker.execute({ key: "next" }))), "failure")
      })
    )
  })

  describe("toEffect", () => {
    // A dependency that answers as it is told, and what has been sent to it.
    const http = (answer: () => Effect.Effect<Response, HttpClientError.HttpClientError>) => {
      const sent: Array<string> = []
      const client = HttpClient.make((request) =>
        Effect.map(
          Effect.andThen(
            Effect.sync(() => sent.push(request.url)),
            Effect.suspend(answer)
          ),
          (response) => HttpClientResponse.fromWeb(request, response)
        )
      )
      return { client, sent }
    }
    const status = (code: number, headers?: Record<string, string>) =>
      Effect.sync(() => new Response(null, { status: code, ...(headers === undefined ? {} : { headers }) }))

    it.effect("guards an HttpClient by origin, with the open time that the answer asks for", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 2 })
        const { client, sent } = http(() => status(503, { "retry-after": "90" }))
        const guarded = HttpClient.withCircuitBreaker(client, { breaker: CircuitBreaker.toEffect(breaker) })
        for (const path of ["a", "b"]) {
          assert.strictEqual((yield* guarded.get(`http://api.test/${path}`)).status, 503)
        }
        const error = yield* Effect.flip(guarded.get("http://api.test/c"))
        assert.strictEqual(error._tag, "CircuitBreakerError")
        if (error._tag !== "CircuitBreakerError" || error.reason._tag !== "CircuitOpen") return assert.fail(error._tag)
        assert.deepStrictEqual([error.reason.key, Duration.toSeconds(error.reason.retryAfter)], ["http://api.test", 90])
        assert.notInclude(error.stack ?? "", "\n    at ")
        assert.lengthOf(sent, 2)
        yield* guarded.get("http://other.test/a")
        assert.containsSubset(yield* breaker.totals, { failures: 3, refused: 1 })
      })
    )

    it.effect("ignores a 429 and the caller's mistakes, and closes again after its probes", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: 100, successesToClose: 2 })
        let code = 429
        const { client } = http(() => status(code))
        const guarded = HttpClient.withCircuitBreaker(client, { breaker: CircuitBreaker.toEffect(breaker), key })
        for (code of [429, 404, 200]) yield* guarded.get("http://api.test/")
        assert.containsSubset(yield* breaker.statistics(key), { successes: 2, failures: 0, ignored: 1 })
        code = 500
        yield* guarded.get("http://api.test/")
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
        yield* TestClock.adjust(100)
        code = 200
        yield* guarded.get("http://api.test/")
        yield* guarded.get("http://api.test/")
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    it.effect("tells a circuit that is probed from one that is open", () =>
      Effect.gen(function* () {
        const breaker = yield* opened()
        const adapted = CircuitBreaker.toEffect(breaker)
        const refusal = () => Effect.map(Effect.flip(good.pipe(adapted.execute({ key }))), (error) => error.reason._tag)
        assert.strictEqual(yield* refusal(), "CircuitOpen")
        yield* TestClock.adjust(100)
        yield* pending(breaker)
        assert.strictEqual(yield* refusal(), "CircuitHalfOpen")
        yield* breaker.isolate(key)
        assert.strictEqual(yield* refusal(), "CircuitOpen")
      })
    )

    it.effect("passes exits on as they are, with and without classify, data first and last", () =>
      Effect.gen(function* () {
        const adapted = CircuitBreaker.toEffect(yield* CircuitBreaker.make({ failures: 99 }))
        const both = Exit.failCause(Cause.combine(Cause.fail("no"), Cause.die("bug")))
        for (const exit of [Exit.succeed(1), Exit.fail("no"), Exit.die("bug"), Exit.interrupt(7), both]) {
          for (const classify of [
            undefined,
            () => EffectBreaker.failure(),
            () => Effect.succeed(EffectBreaker.ignored)
          ]) {
            assert.deepStrictEqual(yield* Effect.exit(adapted.execute(exit, { key, classify })), exit)
            assert.deepStrictEqual(yield* Effect.exit(adapted.execute({ key, classify })(exit)), exit)
          }
        }
      })
    )

    it.effect("counts what classify says, or else what the breaker's own rule says", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ classify: () => "ignored" })
        const adapted = CircuitBreaker.toEffect(breaker)
        yield* outcome(adapted.execute(bad, { key }))
        yield* adapted.execute(good, { key, classify: () => EffectBreaker.failure() })
        yield* outcome(adapted.execute(bad, { key, classify: () => Effect.succeed(EffectBreaker.success) }))
        yield* outcome(adapted.execute(bad, { key, classify: () => EffectBreaker.ignored }))
        yield* outcome(adapted.execute(Effect.interrupt, { key, classify: () => EffectBreaker.failure() }))
        assert.containsSubset(yield* breaker.statistics(key), { successes: 1, failures: 1, ignored: 3 })
      })
    )

    it.effect("ignores a call whose classify dies, and dies with it", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        const adapted = CircuitBreaker.toEffect(breaker)
        const exit = yield* Effect.exit(adapted.execute(bad, { key, classify: () => Effect.die("no opinion") }))
        assert.deepStrictEqual(exit, Exit.failCause(Cause.combine(Cause.fail("bad" as const), Cause.die("no opinion"))))
        assert.containsSubset(yield* breaker.statistics(key), { calls: 1, ignored: 1 })
      })
    )

    it.effect("leaves the refusal of a circuit inside the call alone", () =>
      Effect.gen(function* () {
        const inner = yield* opened()
        const adapted = CircuitBreaker.toEffect(yield* CircuitBreaker.make())
        const call = good.pipe(inner.execute({ key }))
        for (const classify of [undefined, () => EffectBreaker.ignored]) {
          const error = yield* Effect.flip(adapted.execute(call, { key, classify }))
          assert.strictEqual(error._tag, "CircuitOpen")
        }
      })
    )

    it.effect("reads states and tells transitions in the words of the service", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ openFor: 100 })
        const adapted = CircuitBreaker.toEffect(breaker)
        const reader = yield* adapted.transitions.pipe(
          Stream.take(8),
          Stream.runCollect,
          Effect.forkChild({ startImmediately: true })
        )
        assert.deepStrictEqual(yield* adapted.state(key), { _tag: "Closed", key })
        yield* breaker.open(key)
        const retryAfter = Duration.millis(100)
        assert.deepStrictEqual(yield* adapted.state(key), { _tag: "Open", key, retryAfter, consecutiveOpenings: 1 })
        yield* TestClock.adjust(100)
        yield* good.pipe(adapted.execute({ key }))
        const halfOpen = { _tag: "HalfOpen", key, probing: false, consecutiveOpenings: 1 } as const
        assert.deepStrictEqual(yield* adapted.state(key), halfOpen)
        yield* good.pipe(adapted.execute({ key }))
        yield* breaker.isolate(key)
        const endless = { key, retryAfter: Duration.infinity, consecutiveOpenings: 0 }
        assert.deepStrictEqual(yield* adapted.state(key), { _tag: "Open", ...endless })
        yield* breaker.close(key)
        yield* breaker.open(key)
        yield* breaker.isolate(key)
        yield* breaker.reset(key)
        assert.deepStrictEqual(yield* Fiber.join(reader), [
          { key, from: "Closed", to: "Open", retryAfter, consecutiveOpenings: 1 },
          { key, from: "Open", to: "HalfOpen" },
          { key, from: "HalfOpen", to: "Closed" },
          { from: "Closed", to: "Open", ...endless },
          { key, from: "Open", to: "HalfOpen" },
          { key, from: "HalfOpen", to: "Closed" },
          { key, from: "Closed", to: "Open", retryAfter, consecutiveOpenings: 2 },
          { key, from: "Open", to: "HalfOpen" }
        ])
      })
    )

    it.effect("holds no place when interrupted at any operation of a probe", () =>
      Effect.gen(function* () {
        const breaker = yield* opened({ successesToClose: 1_000_000 })
        yield* TestClock.adjust(100)
        const adapted = CircuitBreaker.toEffect(breaker)
        const operations = yield* interruptEverywhere(
          Effect.yieldNow.pipe(
            adapted.execute({ key, classify: () => Effect.as(Effect.yieldNow, EffectBreaker.success) })
          ),
          Effect.gen(function* () {
            const state = yield* breaker.state(key)
            assert.isFalse(state._tag === "HalfOpen" && state.probing)
          })
        )
        assert.isAbove(operations, 6)
      })
    )

    it("is the service of effect/persistence in its types", () => {
      const adapted = CircuitBreaker.toEffect(Effect.runSync(CircuitBreaker.make()))
      expectTypeOf(adapted).toEqualTypeOf<EffectBreaker.CircuitBreaker>()
    })
  })

  describe("small worlds", () => {
    type End = "good" | "bad" | "ignored"
    type Event = { readonly start: number } | { readonly end: number } | "wait"

    // All orders in which three calls can start and end, and in which the open time can pass once or not at all.
    const orders = (started: number, running: ReadonlyArray<number>, waited: boolean): Array<ReadonlyArray<Event>> => {
      if (started === 3 && running.length === 0) return [[]]
      const then = (event: Event, rest: Array<ReadonlyArray<Event>>) => rest.map((each) => [event, ...each])
      return [
        ...(started < 3 ? then({ start: started }, orders(started + 1, [...running, started], waited)) : []),
        ...running.flatMap((call) =>
          then(
            { end: call },
            orders(
              started,
              running.filter((each) => each !== call),
              waited
            )
          )
        ),
        ...(waited ? [] : then("wait", orders(started, running, true)))
      ]
    }
    const endings: ReadonlyArray<End> = ["good", "bad", "ignored"]
    const ends = endings.flatMap((a) => endings.flatMap((b) => endings.map((c) => [a, b, c] as const)))

    interface World {
      state: "Closed" | "Open" | "Ready" | "HalfOpen" | "Isolated"
      failures: number
      successes: number
      /** The calls whose ends count in this state. */
      counting: Set<number>
    }

    // What the breaker has to do, said as plainly as possible: 2 failures open, for one wait; 2 successes close.
    const step = (world: World, event: Event, ends: ReadonlyArray<End>, probes: number): string => {
      const enter = (state: World["state"]) => {
        world.state = state
        world.counting = new Set()
        world.successes = 0
      }
      if (event === "wait") {
        if (world.state === "Open") world.state = "Ready"
        return "waited"
      }
      if ("start" in event) {
        if (world.state === "Open" || world.state === "Isolated") return "refused"
        if (world.state === "Ready") enter("HalfOpen")
        if (world.state === "HalfOpen" && world.counting.size >= probes) return "refused"
        world.counting.add(event.start)
        return "running"
      }
      const end = ends[event.end]
      if (!world.counting.delete(event.end) || end === "ignored") return "ended"
      if (end === "bad") {
        world.failures++
        if (world.state === "HalfOpen" || world.failures >= 2) enter("Open")
      } else if (world.state === "Closed") {
        world.failures = 0
      } else if (++world.successes >= 2) {
        enter("Closed")
        world.failures = 0
      }
      return "ended"
    }

    const beginnings: ReadonlyArray<{
      readonly world: Omit<World, "counting">
      readonly make: (breaker: CircuitBreaker.CircuitBreaker, pass: () => void) => Effect.Effect<unknown>
    }> = [
      { world: { state: "Closed", failures: 0, successes: 0 }, make: () => Effect.void },
      {
        world: { state: "Closed", failures: 1, successes: 0 },
        make: (breaker) => outcome(bad.pipe(breaker.execute({ key })))
      },
      { world: { state: "Open", failures: 0, successes: 0 }, make: (breaker) => breaker.open(key) },
      {
        world: { state: "Ready", failures: 0, successes: 0 },
        make: (breaker, pass) => Effect.map(breaker.open(key), pass)
      },
      {
        world: { state: "HalfOpen", failures: 0, successes: 1 },
        make: (breaker, pass) =>
          Effect.andThen(Effect.map(breaker.open(key), pass), outcome(good.pipe(breaker.execute({ key }))))
      },
      { world: { state: "Isolated", failures: 0, successes: 0 }, make: (breaker) => breaker.isolate(key) }
    ]

    for (const probes of [1, 2]) {
      it(`of three calls at once and probes ${probes} at a time lead where the plain rules lead, in every order`, () => {
        let worlds = 0
        for (const order of orders(0, [], false)) {
          for (const endsOfCalls of ends) {
            for (const beginning of beginnings) {
              worlds++
              let now = 0
              const clock = handClock(() => now)
              const context = Context.make(Clock.Clock, clock)
              const breaker = Effect.runSync(CircuitBreaker.make({ failures: 2, openFor: 100, probes }))
              const run = <A, E>(self: Effect.Effect<A, E>) => Effect.runSyncWith(context)(Effect.exit(self))
              run(beginning.make(breaker, () => void (now += 100)))
              const world: World = { ...beginning.world, counting: new Set() }
              const resumes = new Map<number, (exit: Exit.Exit<string, string>) => void>()

              for (const event of order) {
                const expected = step(world, event, endsOfCalls, probes)
                if (event === "wait") now += 100
                else if ("start" in event) {
                  const fiber = Effect.runForkWith(context)(
                    Effect.callback<string, string>((resume) => {
                      resumes.set(event.start, resume)
                    }).pipe(breaker.execute({ key }), Effect.exit)
                  )
                  const refused = fiber.pollUnsafe() !== undefined
                  assert.strictEqual(refused ? "refused" : "running", expected)
                } else {
                  const end = endsOfCalls[event.end]
                  resumes.get(event.end)?.(
                    end === "good" ? Exit.succeed("ok") : end === "bad" ? Exit.fail("no") : Exit.interrupt(1)
                  )
                }
                const state = Effect.runSyncWith(context)(breaker.state(key))
                const plain = world.state === "Ready" ? "Open" : world.state
                const halfOpen = state._tag === "HalfOpen" ? `${state.successes} ${state.probing}` : ""
                const same =
                  state._tag === plain &&
                  state.failures === world.failures &&
                  (plain !== "HalfOpen" || halfOpen === `${world.successes} ${world.counting.size > 0}`)
                if (!same) {
                  const at = `${JSON.stringify(order)} ${endsOfCalls.join(" ")} from ${beginning.world.state}`
                  assert.fail(`${state._tag} ${state.failures} ${halfOpen}, not as in ${JSON.stringify(world)}: ${at}`)
                }
              }
            }
          }
        }
        assert.strictEqual(worlds, 105 * 27 * 6)
      })
    }
  })

  describe("layer", () => {
    it.effect("provides a breaker", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      }).pipe(Effect.provide(CircuitBreaker.layer({ failures: 1 })))
    )

    it.effect("reads windows and rates from configuration", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* outcome(bad.pipe(breaker.execute({ key })))
        yield* TestClock.adjust("2 minutes")
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      }).pipe(
        Effect.provide(
          Layer.provide(
            CircuitBreaker.layerConfig({ failures: Config.Int("FAILURES"), within: Config.Duration("WITHIN") }),
            ConfigProvider.layer(ConfigProvider.fromUnknown({ FAILURES: 2, WITHIN: "2 minutes" }))
          )
        )
      )
    )

    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* outcome(bad.pipe(breaker.execute({ key })))
        const state = yield* breaker.state(key)
        assert.strictEqual(state._tag === "Open" && Duration.toMillis(state.retryAfter), 7000)
      }).pipe(
        Effect.provide(
          Layer.provide(
            CircuitBreaker.layerConfig({ failures: Config.Int("FAILURES"), openFor: Config.Duration("OPEN_FOR") }),
            ConfigProvider.layer(ConfigProvider.fromUnknown({ FAILURES: 1, OPEN_FOR: "7 seconds" }))
          )
        )
      )
    )
  })
})
