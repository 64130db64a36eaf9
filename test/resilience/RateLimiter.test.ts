import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Config, ConfigProvider, Duration, Effect, Exit, Fiber, Layer, Random } from "effect"
import { Deadline, RateLimiter, Retry } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { TokenBucket } from "../../src/resilience/internal/tokenBucket.ts"

const start = { startImmediately: true } as const

// Calls `times` times without waiting and counts what got through.
const burst = (limiter: RateLimiter.Calls, times: number) =>
  Effect.gen(function* () {
    let through = 0
    for (let i = 0; i < times; i++) {
      through += yield* limiter.executeIfAvailable(Effect.succeed(1)).pipe(Effect.orElseSucceed(() => 0))
    }
    return through
  })

// Forks a waiting call that notes its name and the time at which it runs.
const queued = (limiter: RateLimiter.Calls, log: Array<readonly [string, number]>, name: string) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => log.push([name, now]))).pipe(
    limiter.execute,
    Effect.forkChild(start)
  )

const refusedFor = (calls: RateLimiter.Calls) =>
  Effect.map(Effect.flip(calls.executeIfAvailable(Effect.void)), (error) => Duration.toMillis(error.retryAfter))

const stateOf = (limiter: RateLimiter.RateLimiter) =>
  Effect.map(limiter.state, (state) => ({ ...state, pausedFor: Duration.toMillis(state.pausedFor) }))

describe("RateLimiter", () => {
  describe("execute", () => {
    it.effect("lets a burst of the capacity through, then one call per refill", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 16, refillPerSecond: 8 })
        const log: Array<readonly [string, number]> = []
        for (let i = 0; i < 20; i++) yield* queued(limiter, log, `${i}`)
        assert.strictEqual(log.length, 16)
        assert.strictEqual((yield* limiter.state).waiting, 4)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(log.slice(15), [
          ["15", 0],
          ["16", 125],
          ["17", 250],
          ["18", 375],
          ["19", 500]
        ])
        assert.deepStrictEqual(yield* stateOf(limiter), { tokens: 4, refillPerSecond: 8, waiting: 0, pausedFor: 0 })
      })
    )

    it.effect("returns what the call returns, and spends a token also on a failure", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 3, refillPerSecond: 1 })
        assert.strictEqual(yield* limiter.execute(Effect.succeed("ok")), "ok")
        assert.strictEqual(yield* Effect.flip(limiter.execute(Effect.fail("no"))), "no")
        const died = yield* Effect.exit(limiter.execute(Effect.die("dead")))
        assert.isTrue(Exit.isFailure(died) && Cause.hasDies(died.cause))
        assert.strictEqual((yield* limiter.state).tokens, 0)
      })
    )

    it.effect("never holds more than the capacity after a long idle time", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 5, refillPerSecond: 100 })
        yield* TestClock.adjust("30 days")
        assert.strictEqual((yield* limiter.state).tokens, 5)
        assert.strictEqual(yield* burst(limiter, 20), 5)
        yield* TestClock.adjust("30 days")
        assert.strictEqual(yield* burst(limiter, 20), 5)
      })
    )

    it.effect("serves waiters in the order in which they came, whatever they cost", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1 })
        assert.strictEqual(yield* burst(limiter, 20), 10)
        const log: Array<readonly [string, number]> = []
        yield* queued(limiter.costing(5), log, "large")
        yield* queued(limiter, log, "small")
        yield* queued(limiter.costing(0.5), log, "half")
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(log, [
          ["large", 5000],
          ["small", 6000],
          ["half", 6500]
        ])
      })
    )

    it.effect("moves the others up when a waiter is interrupted, first, middle or last", () =>
      Effect.gen(function* () {
        for (const gone of [0, 1, 2, 3]) {
          const from = yield* Clock.currentTimeMillis
          const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1 })
          yield* limiter.execute(Effect.void)
          const log: Array<readonly [string, number]> = []
          const fibers: Array<Fiber.Fiber<number, RateLimiter.RateLimited>> = []
          for (const name of ["a", "b", "c", "d"]) fibers.push(yield* queued(limiter, log, name))
          yield* TestClock.adjust(400)
          yield* Fiber.interrupt(fibers[gone]!)
          assert.strictEqual((yield* limiter.state).waiting, 3)
          yield* TestClock.adjust(9600)
          const left = ["a", "b", "c", "d"].filter((_, i) => i !== gone)
          assert.deepStrictEqual(
            log.map(([name, at]) => [name, at - from]),
            left.map((name, i) => [name, (i + 1) * 1000])
          )
          assert.strictEqual((yield* limiter.state).waiting, 0)
        }
      })
    )

    it.effect("refuses at once when the turn would come after maxWait", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, maxWait: "2 seconds" })
        const log: Array<readonly [string, number]> = []
        for (const name of ["now", "first", "second"]) yield* queued(limiter, log, name)
        const refused = yield* Effect.flip(limiter.execute(Effect.die("must not run")))
        assert.strictEqual(refused._tag, "RateLimited")
        assert.strictEqual(Duration.toMillis(refused.retryAfter), 3000)
        assert.strictEqual(refused.cost, 1)
        assert.strictEqual(refused.waiting, 2)
        assert.strictEqual(refused.message, "Rate limited: try again after 3s (2 waiting)")
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(
          log.map(([name]) => name),
          ["now", "first", "second"]
        )
      })
    )

    it.effect("counts only those who still wait when it says how long the wait is", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 2, refillPerSecond: 1, maxWait: "3 seconds" })
        yield* burst(limiter, 2)
        const log: Array<readonly [string, number]> = []
        yield* queued(limiter, log, "first")
        const leaves = yield* queued(limiter, log, "leaves")
        yield* queued(limiter, log, "third")
        assert.strictEqual(yield* refusedFor(limiter), 4000)
        yield* Fiber.interrupt(leaves)
        assert.strictEqual(yield* refusedFor(limiter), 3000)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* refusedFor(limiter), 2000)
        assert.strictEqual(yield* refusedFor(limiter.costing(2)), 3000)
      })
    )

    it.effect("refuses at once when maxQueued calls wait", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, maxQueued: 2 })
        const log: Array<readonly [string, number]> = []
        for (const name of ["now", "first", "second"]) yield* queued(limiter, log, name)
        assert.strictEqual((yield* Effect.flip(limiter.execute(Effect.void))).waiting, 2)
        yield* TestClock.adjust("1 second")
        yield* queued(limiter, log, "third")
        assert.strictEqual((yield* limiter.state).waiting, 2)
      })
    )

    it.effect("never waits with a maxWait or a maxQueued of zero", () =>
      Effect.gen(function* () {
        for (const options of [{ maxWait: 0 }, { maxQueued: 0 }]) {
          const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1000, ...options })
          yield* limiter.execute(Effect.void)
          assert.strictEqual((yield* Effect.flip(limiter.execute(Effect.void)))._tag, "RateLimited")
        }
      })
    )

    it.effect("has the defaults its documentation names", () =>
      Effect.gen(function* () {
        const slow = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1 / 10 })
        yield* burst(slow, 1)
        for (let i = 0; i < 3; i++) yield* Effect.void.pipe(slow.execute, Effect.forkChild(start))
        const late = yield* Effect.flip(slow.execute(Effect.void))
        assert.strictEqual(Duration.toMillis(late.retryAfter), 40_000)
        assert.strictEqual(late.waiting, 3)

        const fast = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 100 })
        yield* burst(fast, 1)
        for (let i = 0; i < 1000; i++) yield* Effect.void.pipe(fast.execute, Effect.forkChild(start))
        const full = yield* Effect.flip(fast.execute(Effect.void))
        assert.strictEqual(Duration.toMillis(full.retryAfter), 10_010)
        assert.strictEqual(full.waiting, 1000)

        const adaptive = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 8 })
        yield* adaptive.throttled()
        assert.strictEqual((yield* adaptive.state).refillPerSecond, 4)
        yield* TestClock.adjust(999)
        yield* adaptive.throttled()
        assert.isAbove((yield* adaptive.state).refillPerSecond, 4)
        yield* TestClock.adjust("29001 millis")
        assert.strictEqual((yield* adaptive.state).refillPerSecond, 8)
        for (let i = 0; i < 10; i++) {
          yield* adaptive.throttled()
          yield* TestClock.adjust("1 second")
        }
        yield* adaptive.throttled("2 hours")
        assert.deepStrictEqual(yield* stateOf(adaptive), {
          tokens: (yield* adaptive.state).tokens,
          refillPerSecond: 0.8,
          waiting: 0,
          pausedFor: 3_600_000
        })
      })
    )

    it.effect("serves 20,000 waiters at once, and lets as many leave, without nesting them", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 50_000, refillPerSecond: 50_000, maxQueued: 50_000 })
        yield* limiter.costing(50_000).execute(Effect.void)
        // The first in line holds up the others until it leaves, when there are tokens for all of them.
        const first = yield* limiter.costing(50_000).execute(Effect.void).pipe(Effect.forkChild(start))
        let ran = 0
        const fibers: Array<Fiber.Fiber<number, RateLimiter.RateLimited>> = []
        for (let i = 0; i < 40_000; i++) {
          fibers.push(yield* Effect.sync(() => ran++).pipe(limiter.execute, Effect.forkChild(start)))
        }
        yield* TestClock.adjust("900 millis")
        for (let i = 0; i < 40_000; i += 2) fibers[i]!.interruptUnsafe()
        assert.strictEqual((yield* limiter.state).waiting, 20_001)
        assert.strictEqual(ran, 0)
        yield* Fiber.interrupt(first)
        yield* Fiber.awaitAll(fibers)
        assert.strictEqual(ran, 20_000)
        assert.deepStrictEqual(yield* stateOf(limiter), {
          tokens: 25_000,
          refillPerSecond: 50_000,
          waiting: 0,
          pausedFor: 0
        })
      })
    )

    it.effect("leaks nothing when interrupted at any operation, with a token or while it waits", () =>
      Effect.gen(function* () {
        const free = yield* RateLimiter.make({ capacity: 1e6, refillPerSecond: 1 })
        const noWaiters = Effect.map(free.state, (state) => assert.strictEqual(state.waiting, 0))
        yield* interruptEverywhere(free.execute(Effect.void), noWaiters)

        // Two wait, the first leaves, and the second has its turn or a wait of its own, each time with a fresh limiter.
        let limiter = free
        const contended = Effect.gen(function* () {
          limiter = yield* RateLimiter.make({ capacity: 4, refillPerSecond: 1e-3, maxWait: "Infinity" })
          yield* limiter.costing(3).execute(Effect.void)
          const first = yield* limiter.costing(2).execute(Effect.void).pipe(Effect.forkChild(start))
          const second = yield* limiter.execute(Effect.void).pipe(Effect.forkChild(start))
          const third = yield* limiter.execute(Effect.void).pipe(Effect.forkChild(start))
          yield* Fiber.interrupt(first)
          yield* Fiber.join(second)
          yield* Fiber.interrupt(third)
        })
        const tried = yield* interruptEverywhere(
          contended,
          Effect.gen(function* () {
            const state = yield* limiter.state
            assert.strictEqual(state.waiting, 0)
            // And whoever comes next is not held up by anyone who has gone.
            if (state.tokens >= 1) yield* limiter.executeIfAvailable(Effect.void)
          })
        )
        assert.isAbove(tried, 20)
      })
    )
  })

  describe("executeIfAvailable", () => {
    it.effect("runs with a token, and says how long until there is one", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 2, refillPerSecond: 4 })
        assert.strictEqual(yield* burst(limiter, 5), 2)
        assert.strictEqual(yield* refusedFor(limiter), 250)
        yield* TestClock.adjust(249)
        assert.strictEqual(yield* refusedFor(limiter), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* limiter.executeIfAvailable(Effect.succeed("ok")), "ok")
      })
    )

    it.effect("does not overtake those who wait", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1 })
        yield* burst(limiter, 10)
        const log: Array<readonly [string, number]> = []
        yield* queued(limiter.costing(5), log, "waits")
        yield* TestClock.adjust("4 seconds")
        assert.strictEqual((yield* limiter.state).tokens, 4)
        assert.strictEqual(yield* refusedFor(limiter), 2000)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* burst(limiter, 1), 1)
        assert.deepStrictEqual(log, [["waits", 5000]])
      })
    )

    it.effect.each([0.1, 1 / 3, 0.7, 1, 3, 7, 8, 60 / 90, 999.9, 12_345.678])(
      "tells a true retryAfter at %d per second: waiting that long succeeds, a millisecond less does not",
      (refillPerSecond) =>
        Effect.gen(function* () {
          const limiter = yield* RateLimiter.make({ capacity: 5, refillPerSecond })
          yield* burst(limiter, 5)
          for (let i = 0; i < 300; i++) {
            const cost = i % 7 === 0 ? 5 : i % 3 === 0 ? 0.3 : 1
            if (i % 50 === 49) yield* limiter.throttled(i)
            const calls = limiter.costing(cost)
            if ((yield* burst(calls, 1)) === 1) continue
            const wait = yield* refusedFor(calls)
            assert.isTrue(Number.isInteger(wait) && wait >= 1)
            yield* TestClock.adjust(wait - 1)
            assert.strictEqual(yield* burst(calls, 1), 0, `early, call ${i}`)
            yield* TestClock.adjust(1)
            assert.strictEqual(yield* burst(calls, 1), 1, `late, call ${i}`)
          }
        })
    )
  })

  describe("costing", () => {
    it.effect("is not a token short because fractions do not add up exactly", () =>
      Effect.gen(function* () {
        assert.isBelow(3.3 - 1.1, 2.2)
        const limiter = yield* RateLimiter.make({ capacity: 3.3, refillPerSecond: 1e-6 })
        assert.strictEqual(yield* burst(limiter.costing(1.1), 1), 1)
        assert.strictEqual(yield* burst(limiter.costing(2.2), 1), 1)
        assert.strictEqual((yield* limiter.state).tokens, 0)
      })
    )

    it.effect("takes as many tokens as the call costs", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1 })
        yield* limiter.costing(2.5).execute(Effect.void)
        assert.strictEqual((yield* limiter.state).tokens, 7.5)
        const refused = yield* Effect.flip(limiter.costing(10).executeIfAvailable(Effect.void))
        assert.deepStrictEqual([refused.cost, Duration.toMillis(refused.retryAfter)], [10, 2500])

        yield* limiter.throttled("1 minute")
        for (const cost of [1, 0.5]) {
          const paused = yield* Effect.flip(limiter.costing(cost).executeIfAvailable(Effect.void))
          assert.deepStrictEqual([paused.cost, Duration.toMillis(paused.retryAfter)], [cost, 60_000])
        }
      })
    )

    it.effect.each([
      [11, "RateLimiter: cost must be over 0 and at most the capacity 10, got 11"],
      [0, "RateLimiter: cost must be over 0 and at most the capacity 10, got 0"],
      [-1, "RateLimiter: cost must be over 0 and at most the capacity 10, got -1"],
      [NaN, "RateLimiter: cost must be over 0 and at most the capacity 10, got NaN"]
    ] as const)("dies at once on a cost of %d", ([cost, message]) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1 })
        const { execute, executeIfAvailable } = limiter.costing(cost)
        for (const exit of [
          yield* Effect.exit(execute(Effect.void)),
          yield* Effect.exit(executeIfAvailable(Effect.void))
        ]) {
          const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
          assert.instanceOf(defect, RangeError)
          assert.strictEqual(defect.message, message)
        }
        assert.strictEqual((yield* limiter.state).tokens, 10)
      })
    )
  })

  describe("inside a retry", () => {
    it.effect("refuses with a hint that brings the next attempt exactly when it is let through", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 0.3 })
        yield* burst(limiter, 1)
        const attempts: Array<readonly [number, number]> = []
        const fiber = yield* Effect.flatMap(Retry.CurrentAttempt, (attempt) =>
          Effect.map(Clock.currentTimeMillis, (now) => attempts.push([attempt, now]))
        ).pipe(
          limiter.executeIfAvailable,
          Retry.make({ schedule: Retry.delays([0, 0]) }).execute,
          Effect.forkChild(start)
        )
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(attempts, [[2, 3334]])
      })
    )
  })

  describe("throttled", () => {
    it.effect("pauses as long as asked, lets one call through then, and the others at the lower rate", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({
          capacity: 16,
          refillPerSecond: 8,
          maxWait: "2 minutes",
          adaptive: { recovery: "1000 days" }
        })
        yield* limiter.throttled("1 minute")
        assert.deepStrictEqual(yield* stateOf(limiter), {
          tokens: 1,
          refillPerSecond: 4,
          waiting: 0,
          pausedFor: 60_000
        })
        assert.strictEqual(yield* refusedFor(limiter), 60_000)
        const log: Array<readonly [string, number]> = []
        for (const name of ["a", "b", "c"]) yield* queued(limiter, log, name)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(log, [["a", 60_000]])
        yield* TestClock.adjust("500 millis")
        assert.deepStrictEqual(log, [
          ["a", 60_000],
          ["b", 60_250],
          ["c", 60_500]
        ])
      })
    )

    it.effect("recovers in a straight line after the pause, up to the full rate", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({
          capacity: 100,
          refillPerSecond: 8,
          adaptive: { factor: 0.25, recovery: "8 seconds" }
        })
        yield* limiter.throttled("10 seconds")
        const rates: Array<number> = []
        for (let second = 0; second <= 18; second++) {
          rates.push((yield* limiter.state).refillPerSecond)
          yield* TestClock.adjust("1 second")
        }
        assert.deepStrictEqual(rates, [...Array.from({ length: 11 }, () => 2), 3, 4, 5, 6, 7, 8, 8, 8])
        // 1 kept, 2 to 8 per second for 6 seconds, and 8 per second for 3 more.
        assert.strictEqual((yield* limiter.state).tokens, 1 + 30 + 24)
      })
    )

    it.effect("cuts once for the answers that belong together, and never under the floor", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({
          capacity: 4,
          refillPerSecond: 10,
          adaptive: { factor: 0.5, floor: 0.2, recovery: "1000 days", cooldown: "5 seconds" }
        })
        const rate = Effect.map(limiter.state, (state) => Math.round(state.refillPerSecond * 100) / 100)
        for (let i = 0; i < 10; i++) yield* limiter.throttled()
        assert.strictEqual(yield* rate, 5)
        yield* TestClock.adjust("5 seconds")
        yield* limiter.throttled("20 seconds")
        assert.strictEqual(yield* rate, 2.5)
        yield* TestClock.adjust("19 seconds")
        yield* limiter.throttled("20 seconds")
        assert.deepStrictEqual([yield* rate, (yield* stateOf(limiter)).pausedFor], [2.5, 20_000])
        // A shorter request does not end a longer pause.
        yield* limiter.throttled("1 second")
        assert.strictEqual((yield* stateOf(limiter)).pausedFor, 20_000)
        yield* TestClock.adjust("20 seconds")
        yield* limiter.throttled()
        assert.strictEqual(yield* rate, 2)
        yield* TestClock.adjust("20 seconds")
        yield* limiter.throttled()
        assert.strictEqual(yield* rate, 2)
      })
    )

    it.effect("cuts nothing with a factor of 1", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 4, refillPerSecond: 10, adaptive: { factor: 1 } })
        yield* limiter.throttled("1 second")
        assert.strictEqual((yield* limiter.state).refillPerSecond, 10)
      })
    )

    it.effect.each([
      ["-1 seconds", 0],
      ["2 hours", 60_000],
      ["Infinity", 60_000]
    ] as const)("caps a pause of %s", ([retryAfter, pausedFor]) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({
          capacity: 4,
          refillPerSecond: 10,
          adaptive: { maxPause: "1 minute" }
        })
        yield* limiter.throttled(retryAfter)
        assert.strictEqual((yield* stateOf(limiter)).pausedFor, pausedFor)
      })
    )

    it.effect("refuses the waiters it makes too late, and keeps the others", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, maxWait: "10 seconds" })
        yield* burst(limiter, 1)
        const log: Array<readonly [string, number]> = []
        const first = yield* queued(limiter, log, "first")
        const second = yield* queued(limiter, log, "second")
        const patient = yield* Effect.void.pipe(limiter.execute, Deadline.within("3 seconds"), Effect.forkChild(start))
        const third = yield* Effect.forkChild(Effect.flip(limiter.execute(Effect.void)), start)
        const hurried = yield* Effect.void.pipe(
          limiter.execute,
          Deadline.within("5 seconds"),
          Effect.flip,
          Effect.forkChild(start)
        )
        assert.strictEqual((yield* limiter.state).waiting, 4)
        assert.strictEqual((yield* Effect.flip(Fiber.join(patient)))._tag, "RateLimited")
        assert.strictEqual(hurried.pollUnsafe(), undefined)

        // From now on first would have its turn after 7 s, second after 9 s, hurried and third beyond their limits.
        yield* limiter.throttled("5 seconds")
        yield* TestClock.adjust(0)
        assert.strictEqual((yield* Fiber.join(hurried))._tag, "RateLimited")
        assert.strictEqual((yield* Fiber.join(third))._tag, "RateLimited")
        assert.strictEqual((yield* limiter.state).waiting, 2)
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.awaitAll([first, second])
        assert.deepStrictEqual(
          log.map(([name]) => name),
          ["first", "second"]
        )
      })
    )

    it.effect("refuses the first in line when it wakes and its turn has become too late", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, maxWait: "10 seconds" })
        yield* burst(limiter, 1)
        const first = yield* limiter.execute(Effect.void).pipe(Effect.flip, Effect.forkChild(start))
        yield* limiter.throttled("1 minute")
        yield* TestClock.adjust("1 second")
        const refused = yield* Fiber.join(first)
        assert.deepStrictEqual([refused._tag, (yield* limiter.state).waiting], ["RateLimited", 0])
      })
    )
  })

  describe("with a deadline", () => {
    it.effect("refuses at once when the wait cannot end before it", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1 })
        yield* burst(limiter, 1)
        const refused = yield* limiter
          .execute(Effect.die("must not run"))
          .pipe(Deadline.within("1 second"), Effect.flip)
        assert.strictEqual(refused._tag, "RateLimited")
        const fiber = yield* Effect.succeed("ok").pipe(
          limiter.execute,
          Deadline.within("1001 millis"),
          Effect.forkChild(start)
        )
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), "ok")
      })
    )

    it.effect("runs with a token whatever is left", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1 })
        assert.strictEqual(yield* limiter.execute(Effect.succeed("ok")).pipe(Deadline.within(1)), "ok")
      })
    )
  })

  describe("time", () => {
    it.effect("is not moved by a wall clock that is set back or forth", () =>
      Effect.gen(function* () {
        yield* TestClock.adjust("1 hour")
        const limiter = yield* RateLimiter.make({ capacity: 4, refillPerSecond: 1 })
        yield* burst(limiter, 4)
        yield* TestClock.setTime(0)
        assert.strictEqual((yield* limiter.state).tokens, 0)
        assert.strictEqual(yield* refusedFor(limiter), 1000)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* burst(limiter, 4), 2)
      })
    )

    it.effect("waits a little longer after a timer that fired early, also at the limit of maxWait", () =>
      Effect.gen(function* () {
        const real = yield* Clock.Clock
        const slept: Array<number> = []
        let millis = 0.7
        let fire = () => {}
        const clock: Clock.Clock = {
          ...real,
          monotonicTimeNanosUnsafe: () => BigInt(Math.round(millis * 1e6)),
          sleep: (duration) =>
            Effect.callback((resume) => {
              slept.push(Duration.toMillis(duration))
              fire = () => resume(Effect.void)
            })
        }
        yield* Effect.gen(function* () {
          const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 8, maxWait: 125 })
          yield* burst(limiter, 1)
          const fiber = yield* limiter.execute(Effect.succeed("ok")).pipe(Effect.forkChild(start))
          millis = 125.5
          fire()
          assert.deepStrictEqual(slept, [125, 1])
          millis = 126.5
          fire()
          assert.strictEqual(yield* Fiber.join(fiber), "ok")
        }).pipe(Effect.provideService(Clock.Clock, clock))
      })
    )

    it.effect("never grants extra nor blocks for ever on a monotonic clock that goes back all the same", () =>
      Effect.gen(function* () {
        const real = yield* Clock.Clock
        let millis = 1e6
        const clock: Clock.Clock = {
          ...real,
          sleep: (duration) => real.sleep(duration),
          monotonicTimeNanosUnsafe: () => BigInt(Math.round(millis * 1e6))
        }
        const granted = yield* Effect.gen(function* () {
          const limiter = yield* RateLimiter.make({ capacity: 4, refillPerSecond: 1 })
          let granted = yield* burst(limiter, 10)
          yield* limiter.throttled("3 seconds")
          millis -= 900_000
          assert.strictEqual((yield* stateOf(limiter)).pausedFor, 3000)
          millis += 3000
          granted += yield* burst(limiter, 10)
          for (let i = 0; i < 100; i++) {
            // Two seconds forth and one back: only time that was never seen before counts as passed since the step back.
            millis += 2000
            granted += yield* burst(limiter, 10)
            millis -= 1000
            granted += yield* burst(limiter, 10)
          }
          return granted
        }).pipe(Effect.provideService(Clock.Clock, clock))
        // 4 at first, then at most 1 per second of the 203 seconds that were counted forth.
        assert.isTrue(granted > 150 && granted <= 4 + 203, `granted ${granted}`)
      })
    )

    it.each([0.1, 1 / 3, 8, 700.7])("loses no fraction of a token in a million calls at %d per second", (rate) => {
      const bucket = new TokenBucket(
        { capacity: 10, refillPerSecond: rate, factor: 1, floorPerSecond: rate, recoverMillis: 1, cooldownMillis: 0 },
        0
      )
      // Three calls ask for what comes in the time of two or so: a third is refused, and refusals round nothing either.
      const every = 750 / rate
      let taken = 0
      for (let i = 0; i <= 1_000_000; i++) if (bucket.takeIfAvailable(i * every, 1)) taken++
      assert.isBelow(taken, 800_000)
      // The bucket was never full after the first call: what came was given out, or is there.
      assert.closeTo(taken + bucket.tokens(1_000_000 * every), 10 + 750_000, 1e-6)
    })
  })

  describe("the bucket", () => {
    const bucketOf = (capacity: number, refillPerSecond: number, now: number) =>
      new TokenBucket(
        {
          capacity,
          refillPerSecond,
          factor: 0.5,
          floorPerSecond: refillPerSecond / 10,
          recoverMillis: 60_000,
          cooldownMillis: 1000
        },
        now
      )

    it.effect.each(["a", "b", "c"])("tells a true wait at any time and rate, seed %s", (seed) =>
      Effect.gen(function* () {
        const between = (min: number, max: number) => Effect.map(Random.next, (part) => min + part * (max - min))
        for (let i = 0; i < 20_000; i++) {
          // From just started to so long ago that a millisecond has few digits left for its fraction.
          const from = 10 ** (yield* between(0, 15))
          const bucket = bucketOf(10, 10 ** (yield* between(-2, 4)), from)
          assert.isTrue(bucket.takeIfAvailable(from, 10))
          if (i % 2 === 0) bucket.throttle(from, yield* between(0, 5))
          const cost = yield* between(0.1, 10)
          const now = from + (yield* between(0, 3))
          const wait = bucket.waitMillis(now, cost)
          if (wait > 0) assert.isFalse(bucket.takeIfAvailable(now + wait - 1, cost), `early: ${from}, ${cost}, ${wait}`)
          assert.isTrue(bucket.takeIfAvailable(now + wait, cost), `late: ${from}, ${cost}, ${wait}`)
        }
      }).pipe(Random.withSeed(seed))
    )

    it("stays exact however much it has given out", () => {
      const bucket = bucketOf(1e6, 1e6, 0)
      let now = 0
      for (let i = 0; i < 10_000; i++) {
        assert.isTrue(bucket.takeIfAvailable(now, 1e6))
        now += 1000
      }
      assert.isTrue(bucket.takeIfAvailable(now, 0.1))
      assert.closeTo(bucket.tokens(now), 999_999.9, 1e-9)
    })

    it("cannot count a wait beyond all numbers", () => {
      const bucket = bucketOf(10, 1e-300, 0)
      assert.isTrue(bucket.takeIfAvailable(0, 10))
      assert.strictEqual(bucket.waitMillis(0, 1), Infinity)
    })
  })

  describe("against a reference model", () => {
    // The bucket as one would write it down: exact fractions of a token in integers, one step per millisecond.
    const scale = 1000
    const model = (capacity: number, refillPerSecond: number) => {
      let tokens = capacity * scale
      const waiting: Array<{ readonly id: number; readonly cost: number }> = []
      const served: Array<readonly [id: number, at: number]> = []
      let now = 0
      const serve = () => {
        for (let first = waiting[0]; first !== undefined && tokens >= first.cost * scale; first = waiting[0]) {
          tokens -= first.cost * scale
          served.push([first.id, now])
          waiting.shift()
        }
      }
      return {
        served,
        waiting,
        tokens: () => tokens / scale,
        tick: () => {
          now++
          tokens = Math.min(capacity * scale, tokens + refillPerSecond)
          serve()
        },
        join: (id: number, cost: number) => {
          waiting.push({ id, cost })
          serve()
        },
        leave: (id: number) => {
          const at = waiting.findIndex((waiter) => waiter.id === id)
          if (at !== -1) waiting.splice(at, 1)
          serve()
        }
      }
    }

    it.effect.each(["a", "b", "c", "d", "e", "f", "g", "h"])(
      "serves the same calls at the same times, seed %s",
      (seed) =>
        Effect.gen(function* () {
          const capacity = yield* Random.nextIntBetween(1, 9)
          const refillPerSecond = yield* Random.nextIntBetween(20, 400)
          const limiter = yield* RateLimiter.make({ capacity, refillPerSecond, maxWait: "Infinity", maxQueued: 10_000 })
          const reference = model(capacity, refillPerSecond)
          const served: Array<readonly [id: number, at: number]> = []
          const fibers: Array<Fiber.Fiber<number, RateLimiter.RateLimited>> = []
          for (let step = 0; step < 400; step++) {
            const dice = yield* Random.nextIntBetween(0, 10)
            if (dice < 6) {
              const id = fibers.length
              const cost = yield* Random.nextIntBetween(1, capacity)
              fibers.push(
                yield* Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => served.push([id, now]))).pipe(
                  limiter.costing(cost).execute,
                  Effect.forkChild(start)
                )
              )
              reference.join(id, cost)
            } else if (dice < 8 && fibers.length > 0) {
              const id = yield* Random.nextIntBetween(0, fibers.length - 1)
              yield* Fiber.interrupt(fibers[id]!)
              // Those it held up are woken one after the other.
              for (let i = 0; i <= reference.waiting.length; i++) yield* Effect.yieldNow
              reference.leave(id)
            } else {
              const millis = yield* Random.nextIntBetween(
                1,
                dice === 8 ? 10 : Math.ceil((8000 * capacity) / refillPerSecond)
              )
              for (let i = 0; i < millis; i++) reference.tick()
              yield* TestClock.adjust(millis)
            }
            const state = yield* limiter.state
            assert.strictEqual(state.waiting, reference.waiting.length, `waiting, step ${step}`)
            assert.closeTo(state.tokens, reference.tokens(), 1e-6, `tokens, step ${step}`)
          }
          assert.isAbove(served.length, 100)
          assert.deepStrictEqual(served, reference.served)
        }).pipe(Random.withSeed(seed))
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ capacity: 0.5, refillPerSecond: 1 }, "RateLimiter: capacity must be a finite number >= 1, got 0.5"],
      [{ capacity: Infinity, refillPerSecond: 1 }, "RateLimiter: capacity must be a finite number >= 1, got Infinity"],
      [{ capacity: 1, refillPerSecond: 0 }, "RateLimiter: refillPerSecond must be a finite number > 0, got 0"],
      [{ capacity: 1, refillPerSecond: NaN }, "RateLimiter: refillPerSecond must be a finite number > 0, got NaN"],
      [{ capacity: 1, refillPerSecond: 1, maxWait: -1 }, "RateLimiter: maxWait must be zero or more, got -1"],
      [{ capacity: 1, refillPerSecond: 1, maxQueued: 1.5 }, "RateLimiter: maxQueued must be an integer >= 0, got 1.5"],
      [
        { capacity: 1, refillPerSecond: 1, adaptive: { factor: 0 } },
        "RateLimiter: adaptive.factor must be over 0 and at most 1, got 0"
      ],
      [
        { capacity: 1, refillPerSecond: 1, adaptive: { floor: 2 } },
        "RateLimiter: adaptive.floor must be over 0 and at most 1, got 2"
      ],
      [
        { capacity: 1, refillPerSecond: 1, adaptive: { recovery: 0 } },
        "RateLimiter: adaptive.recovery must be a finite duration over zero, got 0"
      ],
      [
        { capacity: 1, refillPerSecond: 1, adaptive: { cooldown: "Infinity" } },
        "RateLimiter: adaptive.cooldown must be finite and not negative, got Infinity"
      ],
      [
        { capacity: 1, refillPerSecond: 1, adaptive: { maxPause: "Infinity" } },
        "RateLimiter: adaptive.maxPause must be finite and not negative, got Infinity"
      ]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(RateLimiter.make(options))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.strictEqual(defect.message, message)
      })
    )

    it("adds nothing but RateLimited to the type of a call", () => {
      const limited = (limiter: RateLimiter.RateLimiter, self: Effect.Effect<number, "E", "R">) =>
        [limiter.execute(self), limiter.executeIfAvailable(self), self.pipe(limiter.costing(2).execute)] as const
      type Limited = Effect.Effect<number, "E" | RateLimiter.RateLimited, "R">
      expectTypeOf(limited).returns.toEqualTypeOf<readonly [Limited, Limited, Limited]>()
    })
  })

  describe("layer", () => {
    it.effect("provides the limiter of a context", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.RateLimiter
        assert.strictEqual((yield* limiter.state).tokens, 7)
      }).pipe(Effect.provide(RateLimiter.layer({ capacity: 7, refillPerSecond: 1 })))
    )

    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.RateLimiter
        const { refillPerSecond, tokens } = yield* limiter.state
        assert.deepStrictEqual([tokens, refillPerSecond], [4, 2.5])
      }).pipe(
        Effect.provide(
          Layer.provide(
            RateLimiter.layerConfig({
              capacity: Config.Number("CAPACITY"),
              refillPerSecond: Config.Number("REFILL"),
              maxWait: Config.Duration("MAX_WAIT"),
              adaptive: { factor: Config.Number("FACTOR") }
            }),
            ConfigProvider.layer(
              ConfigProvider.fromUnknown({ CAPACITY: 4, REFILL: 2.5, MAX_WAIT: "5 seconds", FACTOR: 0.7 })
            )
          )
        )
      )
    )
  })
})
