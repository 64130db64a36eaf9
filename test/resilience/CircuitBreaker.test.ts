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
  Schedule,
  Scheduler,
  Stream
} from "effect"
import { Bulkhead, CircuitBreaker, Deadline, RateLimiter, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
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
      [{ maxRetryAfter: -1 }, "CircuitBreaker: maxRetryAfter must not be negative, got -1 ms"]
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
        const breaker = yield* opened({ maxKeys: 1 })
        yield* TestClock.adjust(100)
        const probe = yield* pending(breaker)
        yield* outcome(good.pipe(breaker.execute({ key: "other" })))
        yield* probe.fail
        assert.deepStrictEqual(
          (yield* breaker.states).map((state) => state.key),
          ["other"]
        )
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

  describe("layer", () => {
    it.effect("provides a breaker", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* outcome(bad.pipe(breaker.execute({ key })))
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      }).pipe(Effect.provide(CircuitBreaker.layer({ failures: 1 })))
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
