import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Random, Scheduler } from "effect"
import { RateLimiter } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { exactCalls, SlidingWindow } from "../../src/resilience/internal/slidingWindow.ts"

const start = { startImmediately: true } as const

const run = (calls: RateLimiter.Calls) =>
  Effect.match(calls.executeIfAvailable(Effect.void), {
    onFailure: (error) => Duration.toMillis(error.retryAfter),
    onSuccess: () => 0
  })

const peek = (calls: RateLimiter.Calls) => Effect.map(calls.peek, Duration.toMillis)

const burst = (calls: RateLimiter.Calls, times: number) =>
  Effect.gen(function* () {
    let through = 0
    for (let i = 0; i < times; i++) if ((yield* run(calls)) === 0) through++
    return through
  })

// Forks a waiting call that notes its name and the time at which it runs.
const queued = (calls: RateLimiter.Calls, log: Array<readonly [string, number]>, name: string) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => log.push([name, now]))).pipe(
    calls.execute,
    Effect.forkChild(start)
  )

const gcra = { algorithm: "gcra", limit: 4, window: "1 second" } as const
const fixed = { algorithm: "fixed-window", limit: 4, window: "1 second" } as const
const sliding = { algorithm: "sliding-window", limit: 4, window: "1 second" } as const
const smooth = { algorithm: "smooth", interval: "250 millis" } as const
const bucket = { algorithm: "token-bucket", capacity: 4, refillPerSecond: 4 } as const
const algorithms: Record<string, RateLimiter.Limit> = { bucket, gcra, fixed, sliding, smooth }
const names = Object.keys(algorithms)
const named = (name: string): RateLimiter.Limit => algorithms[name] ?? bucket

// What was let through, call by call.
type Log = ReadonlyArray<{ readonly at: number; readonly cost: number }>

const sum = (log: Log) => log.reduce((total, { cost }) => total + cost, 0)

// The algorithms as one would write them down: whether a call may be made, from the whole history of those that were.
const references: Record<string, (limit: number, window: number) => (log: Log, now: number, cost: number) => boolean> =
  {
    // ITU-T I.371, continuous-state leaky bucket: drained at a constant rate, one may be poured in while it does not overflow.
    gcra: (limit, window) => (log, now, cost) => {
      let content = 0
      let last = 0
      for (const call of log) {
        content = Math.max(0, content - ((call.at - last) * limit) / window) + call.cost
        last = call.at
      }
      return Math.max(0, content - ((now - last) * limit) / window) + cost <= limit + 1e-6
    },
    // Windows follow from the history: each begins with the first call that is in none before.
    fixed: (limit, window) => (log, now, cost) => {
      let begin = -Infinity
      let used = 0
      for (const call of log) {
        if (call.at >= begin + window) {
          begin = call.at
          used = 0
        }
        used += call.cost
      }
      return (now >= begin + window ? 0 : used) + cost <= limit
    },
    sliding: (limit, window) => (log, now, cost) => sum(log.filter(({ at }) => at > now - window)) + cost <= limit,
    // Windows without a gap from the first call on, and again from the first after two without any.
    counter: (limit, window) => (log, now, cost) => {
      let begin = 0
      let previous = 0
      let current = 0
      const advance = (to: number) => {
        while (to >= begin + window && previous + current > 0) {
          begin += window
          previous = current
          current = 0
        }
      }
      for (const call of log) {
        advance(call.at)
        if (previous + current === 0) begin = call.at
        current += call.cost
      }
      advance(now)
      return current + previous * (1 - (now - begin) / window) + cost <= limit + 1e-6
    },
    smooth: (limit, window) => (log, now) => {
      let next = -Infinity
      for (const { at, cost } of log) next = Math.max(next, at) + (cost * window) / limit
      return now >= next - 1e-6
    }
  }

const optionsOf = (name: string, limit: number, window: number): RateLimiter.Limit => {
  switch (name) {
    case "gcra":
      return { algorithm: "gcra", limit, window }
    case "fixed":
      return { algorithm: "fixed-window", limit, window }
    case "sliding":
      return { algorithm: "sliding-window", limit, window }
    case "counter":
      return { algorithm: "sliding-window-counter", limit, window }
    default:
      return { algorithm: "smooth", interval: window / limit }
  }
}

// The most that was let through in any window of that length.
const mostIn = (log: Log, window: number) =>
  log.reduce((most, { at }) => Math.max(most, sum(log.filter((call) => call.at >= at && call.at < at + window))), 0)

const seeds = ["a", "b", "c", "d", "e", "f"]

describe("RateLimiter algorithms", () => {
  describe("against reference models", () => {
    for (const name of Object.keys(references)) {
      it.effect.each(seeds)(
        `${name} lets through exactly what it should, and tells a true retryAfter, seed %s`,
        (seed) =>
          Effect.gen(function* () {
            const limit = yield* Random.nextIntBetween(1, 12)
            const window = yield* Random.nextIntBetween(10, 2000)
            const allows = (references[name] ?? assert.fail())(limit, window)
            const limiter = yield* RateLimiter.make(optionsOf(name, limit, window))
            const log: Array<{ at: number; cost: number }> = []
            for (let step = 0; step < 600; step++) {
              const cost = (yield* Random.nextIntBetween(0, 3)) > 0 ? 1 : yield* Random.nextIntBetween(1, limit)
              const calls = limiter.costing(cost)
              const now = yield* Clock.currentTimeMillis
              const wait = yield* peek(calls)
              assert.strictEqual(yield* run(calls), wait)
              assert.strictEqual(wait === 0, allows(log, now, cost), `step ${step}, at ${now}, cost ${cost}`)
              if (wait > 0) {
                assert.isFalse(allows(log, now + wait - 1, cost), `early, step ${step}`)
                assert.isTrue(allows(log, now + wait, cost), `late, step ${step}`)
              } else log.push({ at: now, cost })
              const pause = yield* Random.nextIntBetween(0, 8)
              if (pause > 5) yield* TestClock.adjust(yield* Random.nextIntBetween(0, Math.ceil((2 * window) / limit)))
              if (pause === 0) yield* TestClock.adjust(wait)
            }
            assert.isAbove(log.length, 100)
            if (name === "sliding") assert.isAtMost(mostIn(log, window), limit)
            if (name === "fixed" || name === "counter") assert.isAtMost(mostIn(log, window), 2 * limit)
          }).pipe(Random.withSeed(seed))
      )

      it.effect.each(seeds)(`${name} serves those who wait in order, at the first moment it can, seed %s`, (seed) =>
        Effect.gen(function* () {
          const limit = yield* Random.nextIntBetween(1, 8)
          const window = limit * (yield* Random.nextIntBetween(5, 50))
          const allows = (references[name] ?? assert.fail())(limit, window)
          const limiter = yield* RateLimiter.make({ ...optionsOf(name, limit, window), maxWait: "Infinity" })
          const served: Array<readonly [id: number, at: number]> = []
          const expected: Array<readonly [id: number, at: number]> = []
          const fibers: Array<Fiber.Fiber<number, RateLimiter.RateLimited>> = []
          let waiting: Array<{ id: number; cost: number; startAt: number | undefined }> = []
          const reservations: Array<{ id: number; cancel: Effect.Effect<void> }> = []
          const log: Array<{ at: number; cost: number }> = []
          let now = 0
          const serve = () => {
            for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
              const { cost, id, startAt } = first
              if (startAt === undefined ? !allows(log, now, cost) : startAt > now) return
              log.push({ at: now, cost })
              if (startAt === undefined) expected.push([id, now])
              waiting.shift()
            }
          }
          // How long a call that came now would wait, if nobody came or went.
          const waitOf = (cost: number) => {
            const future = [...log]
            let at = now
            for (const next of [...waiting, { cost, startAt: undefined }]) {
              if (next.startAt === undefined) while (!allows(future, at, next.cost)) at++
              else at = Math.max(at, next.startAt)
              future.push({ at, cost: next.cost })
            }
            return at - now
          }
          for (let step = 0; step < 200; step++) {
            const dice = yield* Random.nextIntBetween(0, 11)
            const cost = yield* Random.nextIntBetween(1, limit)
            const id = fibers.length
            if (dice < 5) {
              const wait = yield* peek(limiter.costing(cost))
              const note = Effect.flatMap(Clock.currentTimeMillis, (at) => Effect.sync(() => served.push([id, at])))
              fibers.push(yield* note.pipe(limiter.costing(cost).execute, Effect.forkChild(start)))
              waiting.push({ id, cost, startAt: undefined })
              serve()
              assert.strictEqual(wait === 0, waiting.length === 0, `peek, step ${step}`)
              if (step % 10 === 0) {
                const next = yield* Random.nextIntBetween(1, limit)
                assert.strictEqual(yield* peek(limiter.costing(next)), waitOf(next), `wait, step ${step}`)
              }
            } else if (dice === 5) {
              const { cancel, delay } = yield* limiter.costing(cost).reserve
              // An identity of its own, for which no fiber runs.
              waiting.push({ id: -step, cost, startAt: now + Duration.toMillis(delay) })
              if (Duration.toMillis(delay) > 0) reservations.push({ id: -step, cancel })
              serve()
            } else if (dice === 6 && id > 0) {
              const gone = yield* Random.nextIntBetween(0, id - 1)
              yield* Fiber.interrupt(fibers[gone]!)
              waiting = waiting.filter((waiter) => waiter.id !== gone)
              serve()
            } else if (dice === 7 && reservations.length > 0) {
              const gone = reservations.pop()
              if (gone !== undefined && waiting.some(({ id }) => id === gone.id)) {
                yield* gone.cancel
                waiting = waiting.filter((waiter) => waiter.id !== gone.id)
                serve()
              }
            } else {
              const millis = yield* Random.nextIntBetween(1, Math.ceil((6 * window) / limit))
              for (let i = 0; i < millis; i++) {
                now++
                serve()
              }
              yield* TestClock.adjust(millis)
            }
            // Those who were held up are woken one after the other.
            for (let i = 0; i <= waiting.length + 20; i++) yield* Effect.yieldNow
            assert.strictEqual((yield* limiter.state).waiting, waiting.length, `waiting, step ${step}`)
          }
          assert.isAbove(served.length, 20)
          assert.deepStrictEqual(served, expected)
          if (name === "sliding") assert.isAtMost(mostIn(log, window), limit)
        }).pipe(Random.withSeed(seed))
      )
    }
  })

  describe("gcra", () => {
    it.effect("lets a burst through, then one call per interval", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ ...gcra, burst: 2 })
        assert.strictEqual(yield* burst(limiter, 5), 2)
        assert.strictEqual(yield* run(limiter), 250)
        yield* TestClock.adjust(250)
        assert.strictEqual(yield* burst(limiter, 5), 1)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* limiter.state).tokens, 2)
        assert.strictEqual((yield* limiter.state).refillPerSecond, 4)
        assert.strictEqual(yield* burst(limiter, 5), 2)
      })
    )

    it.effect("loses no fraction of a token in 100,000 calls", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ algorithm: "gcra", limit: 700.7, window: "1 second", burst: 10 })
        let taken = 0
        for (let i = 0; i < 100_000; i++) {
          if ((yield* run(limiter)) === 0) taken++
          if (i % 2 === 0) yield* TestClock.adjust(1)
        }
        const { tokens } = yield* limiter.state
        assert.closeTo(taken + tokens, 10 + 50 * 700.7, 1e-3)
      })
    )
  })

  describe("fixed-window", () => {
    it.effect("lets twice the limit through at the edge of a window, and no more", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(fixed)
        assert.strictEqual(yield* burst(limiter, 1), 1)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* burst(limiter, 9), 3)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* burst(limiter, 9), 4)
        yield* TestClock.adjust(998)
        assert.strictEqual(yield* run(limiter), 2)
      })
    )
  })

  describe("sliding-window", () => {
    it.effect("lets through no more than the limit in any window", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(sliding)
        assert.strictEqual(yield* burst(limiter, 1), 1)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* burst(limiter, 9), 3)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* burst(limiter, 9), 1)
        assert.strictEqual(yield* run(limiter), 999)
        assert.strictEqual(yield* run(limiter.costing(4)), 1000)
        yield* TestClock.adjust(998)
        assert.strictEqual((yield* limiter.state).tokens, 0)
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* limiter.state).tokens, 3)
      })
    )

    it.effect.each(seeds)("keeps a high limit in every window too, up to a hundredth of it late, seed %s", (seed) =>
      Effect.gen(function* () {
        const limit = yield* Random.nextIntBetween(150, 600)
        const limiter = yield* RateLimiter.make({ algorithm: "sliding-window", limit, window: 1000 })
        const log: Array<{ at: number; cost: number }> = []
        for (let step = 0; step < 3000; step++) {
          const now = yield* Clock.currentTimeMillis
          const cost = (yield* Random.nextIntBetween(0, 20)) === 0 ? limit / 4 : 1
          const wait = yield* run(limiter.costing(cost))
          const within = sum(log.slice(-2 * limit).filter(({ at }) => at > now - 1000))
          if (wait === 0) assert.isAtMost(within + cost, limit)
          else {
            assert.isAbove(sum(log.slice(-2 * limit).filter(({ at }) => at > now - 1010)) + cost, limit)
            yield* TestClock.adjust(wait - 1)
            assert.notStrictEqual(yield* run(limiter.costing(cost)), 0)
            yield* TestClock.adjust(1)
            assert.strictEqual(yield* run(limiter.costing(cost)), 0)
          }
          log.push({ at: yield* Clock.currentTimeMillis, cost })
          if ((yield* Random.nextIntBetween(0, 3)) === 0) yield* TestClock.adjust(yield* Random.nextIntBetween(0, 9))
        }
      }).pipe(Random.withSeed(seed))
    )

    it("remembers a bounded number of entries, however high the limit", () => {
      const meter = new SlidingWindow({ algorithm: "sliding-window", limit: 1e9, windowMillis: 1000 })
      let most = 0
      for (let now = 0; now < 20_000; now += 0.25) {
        meter.take(now, 1)
        most = Math.max(most, meter.size)
      }
      assert.isAbove(most, exactCalls)
      assert.isAtMost(most, 2 * exactCalls + 1)
    })
  })

  describe("smooth", () => {
    it.effect("lets one call through per interval, and as many intervals pass as the last one cost", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(smooth)
        assert.strictEqual(yield* burst(limiter, 3), 1)
        assert.strictEqual(yield* run(limiter), 250)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* burst(limiter.costing(6), 3), 1)
        assert.strictEqual(yield* run(limiter), 1500)
        assert.strictEqual((yield* limiter.state).tokens, 0)
      })
    )
  })

  describe("every algorithm", () => {
    it.effect.each(names)("%s waits in order, up to maxWait, and refuses the others", (name) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ ...named(name), maxWait: "1 second", maxQueued: 3 })
        yield* limiter.costing(name === "smooth" ? 1 : 4).execute(Effect.void)
        const log: Array<readonly [string, number]> = []
        for (const call of ["a", "b", "c"]) yield* queued(limiter, log, call)
        assert.strictEqual((yield* Effect.flip(limiter.execute(Effect.void)))._tag, "RateLimited")
        assert.strictEqual((yield* limiter.state).waiting, 3)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(
          log.map(([call]) => call),
          ["a", "b", "c"]
        )
      })
    )

    it.effect.each(names)("%s pauses when throttled, whatever a call costs", (name) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ ...named(name), adaptive: { factor: 1, maxPause: "1 minute" } })
        yield* limiter.throttled("10 seconds")
        assert.strictEqual(Duration.toMillis((yield* limiter.state).pausedFor), 10_000)
        assert.strictEqual(yield* run(limiter), 10_000)
        assert.strictEqual(yield* run(limiter.costing(0.1)), 10_000)
        yield* TestClock.adjust(9999)
        assert.strictEqual(yield* run(limiter), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* run(limiter), 0)
        yield* limiter.throttled("10 hours")
        assert.strictEqual(Duration.toMillis((yield* limiter.state).pausedFor), 60_000)
        yield* limiter.throttled("1 second")
        assert.strictEqual(Duration.toMillis((yield* limiter.state).pausedFor), 60_000)
      })
    )

    it.effect("lets one call through when the pause ends, and the others in their time, where there is a rate", () =>
      Effect.gen(function* () {
        for (const limit of [bucket, gcra, smooth]) {
          const limiter = yield* RateLimiter.make({ ...limit, adaptive: { factor: 1 } })
          yield* limiter.throttled("10 seconds")
          yield* TestClock.adjust("10 seconds")
          assert.strictEqual(yield* burst(limiter, 9), 1)
          yield* TestClock.adjust(250)
          assert.strictEqual(yield* burst(limiter, 9), 1)
        }
      })
    )

    it.effect.each(names)("%s forgets nobody who is suspended on the way to the line", (name) =>
      Effect.gen(function* () {
        const base = new Scheduler.MixedScheduler()
        for (let suspendAt = 1; suspendAt <= 30; suspendAt++) {
          const limiter = yield* RateLimiter.make({ ...named(name), maxWait: "Infinity" })
          yield* burst(limiter, 4)
          const first = yield* limiter.execute(Effect.void).pipe(Effect.forkChild(start))
          let operations = 0
          const scheduler: Scheduler.Scheduler = {
            executionMode: base.executionMode,
            makeDispatcher: () => base.makeDispatcher(),
            shouldYield: () => ++operations === suspendAt
          }
          const second = yield* limiter
            .execute(Effect.void)
            .pipe(Effect.provideService(Scheduler.Scheduler, scheduler), Effect.forkChild(start))
          first.interruptUnsafe()
          const third = yield* limiter.reserve
          yield* third.cancel
          yield* TestClock.adjust("1 second")
          assert.isDefined(second.pollUnsafe(), `suspended at operation ${suspendAt}`)
          assert.strictEqual((yield* limiter.state).waiting, 0)
        }
      })
    )

    it.effect.each(names)("%s takes nothing when one only peeks, or reads the state", (name) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(named(name))
        const before = yield* limiter.state
        for (let i = 0; i < 10; i++) assert.strictEqual(yield* peek(limiter), 0)
        assert.deepStrictEqual(yield* limiter.state, before)
        assert.strictEqual(before.tokens, name === "smooth" ? 1 : 4)
        assert.strictEqual(before.refillPerSecond, 4)
      })
    )

    it.effect.each(names)("%s leaks nothing when interrupted at any operation", (name) =>
      Effect.gen(function* () {
        let limiter = yield* RateLimiter.make(named(name))
        const contended = Effect.gen(function* () {
          limiter = yield* RateLimiter.make({ ...named(name), maxWait: "Infinity" })
          yield* limiter.costing(name === "smooth" ? 1 : 4).execute(Effect.void)
          const first = yield* limiter.execute(Effect.void).pipe(Effect.forkChild(start))
          const second = yield* limiter.execute(Effect.void).pipe(Effect.forkChild(start))
          yield* Effect.acquireUseRelease(
            limiter.reserve,
            () => Effect.void,
            ({ cancel }) => cancel
          )
          yield* Fiber.interrupt(first)
          yield* Fiber.interrupt(second)
        })
        const tried = yield* interruptEverywhere(
          contended,
          Effect.map(limiter.state, ({ waiting }) => assert.strictEqual(waiting, 0))
        )
        assert.isAbove(tried, 20)
        assert.strictEqual((yield* limiter.state).waiting, 0)
      })
    )

    it.effect("is moved by no clock that goes back", () =>
      Effect.gen(function* () {
        const real = yield* Clock.Clock
        for (const name of names) {
          let millis = 1e6
          const clock: Clock.Clock = {
            ...real,
            sleep: (duration) => real.sleep(duration),
            monotonicTimeNanosUnsafe: () => BigInt(Math.round(millis * 1e6))
          }
          const granted = yield* Effect.gen(function* () {
            const limiter = yield* RateLimiter.make(named(name))
            let granted = yield* burst(limiter, 10)
            millis -= 900_000
            assert.isAtMost(yield* peek(limiter), 1000)
            for (let i = 0; i < 100; i++) {
              millis += 500
              granted += yield* burst(limiter, 10)
              millis -= 250
              granted += yield* burst(limiter, 10)
            }
            return granted
          }).pipe(Effect.provideService(Clock.Clock, clock))
          // 4 at first, or 1, then up to 4 per second of the 50 seconds that were counted forth.
          assert.isTrue(granted > 100 && granted <= 4 + 200, `${name} granted ${granted}`)
        }
      })
    )
  })

  describe("reserve", () => {
    it.effect.each(names)("%s tells when the call may be made, and keeps that place", (name) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(named(name))
        assert.strictEqual(Duration.toMillis((yield* limiter.reserve).delay), 0)
        yield* burst(limiter, 10)
        const log: Array<readonly [string, number]> = []
        const wait = yield* peek(limiter)
        const { delay } = yield* limiter.reserve
        assert.strictEqual(Duration.toMillis(delay), wait)
        assert.strictEqual((yield* limiter.state).waiting, 1)
        yield* queued(limiter, log, "behind")
        assert.notStrictEqual(yield* run(limiter), 0)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* limiter.state).waiting, 0)
        const [behind] = log
        assert.isAtLeast(behind?.[1] ?? 0, wait)
      })
    )

    it.effect.each(names)("%s gives back what was not used, once, before or after its time", (name) =>
      Effect.gen(function* () {
        for (const elapsed of [0, 100, 400]) {
          const limiter = yield* RateLimiter.make(named(name))
          yield* limiter.execute(Effect.void)
          yield* burst(limiter, 10)
          const expected = yield* peek(limiter)
          const reserved = yield* limiter.reserve
          assert.isAbove(yield* peek(limiter), name === "fixed" || name === "sliding" ? 0 : expected)
          yield* TestClock.adjust(elapsed)
          yield* reserved.cancel
          yield* reserved.cancel
          assert.strictEqual(yield* peek(limiter), Math.max(0, expected - elapsed))
          assert.strictEqual((yield* limiter.state).waiting, 0)
        }
      })
    )

    it.effect.each(names)("%s gives back what an immediate reservation took", (name) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(named(name))
        const before = yield* limiter.state
        const { cancel, delay } = yield* limiter.costing(1).reserve
        assert.strictEqual(Duration.toMillis(delay), 0)
        assert.isBelow((yield* limiter.state).tokens, before.tokens)
        yield* cancel
        assert.deepStrictEqual(yield* limiter.state, before)
      })
    )

    it.effect.each(names)("%s moves up those behind a reservation that is given back", (name) =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(named(name))
        const cost = name === "smooth" ? 1 : 4
        yield* limiter.costing(cost).execute(Effect.void)
        const log: Array<readonly [string, number]> = []
        const first = yield* peek(limiter)
        const { cancel } = yield* limiter.costing(cost).reserve
        yield* queued(limiter, log, "behind")
        yield* TestClock.adjust(100)
        yield* cancel
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(log, [["behind", first]])
      })
    )

    it.effect("gives nothing back to a window that is over", () =>
      Effect.gen(function* () {
        for (const limit of [fixed, sliding]) {
          const limiter = yield* RateLimiter.make(limit)
          const { cancel } = yield* limiter.costing(4).reserve
          yield* TestClock.adjust("1 second")
          assert.strictEqual(yield* burst(limiter, 9), 4)
          yield* cancel
          assert.strictEqual(yield* burst(limiter, 9), 0)
        }
      })
    )

    it.effect("gives back all it took where others took at the same time", () =>
      Effect.gen(function* () {
        for (const limit of [fixed, sliding]) {
          const limiter = yield* RateLimiter.make(limit)
          yield* limiter.execute(Effect.void)
          const { cancel } = yield* limiter.costing(3).reserve
          yield* cancel
          assert.strictEqual((yield* limiter.state).tokens, 3)
        }
      })
    )

    it.effect("is refused when the wait would be too long, or the queue is full", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ ...smooth, maxWait: "500 millis", maxQueued: 2 })
        for (const delay of [0, 250, 500]) {
          assert.strictEqual(Duration.toMillis((yield* limiter.reserve).delay), delay)
        }
        assert.strictEqual(Duration.toMillis((yield* Effect.flip(limiter.reserve)).retryAfter), 750)
        yield* TestClock.adjust(250)
        assert.strictEqual(Duration.toMillis((yield* limiter.reserve).delay), 500)
        yield* TestClock.adjust(0)
        assert.strictEqual((yield* Effect.flip(limiter.reserve)).waiting, 2)
      })
    )
  })

  describe("change", () => {
    it.effect("wakes those who wait when the limit is raised", () =>
      Effect.gen(function* () {
        const raised: ReadonlyArray<RateLimiter.Limit> = [
          { capacity: 400, refillPerSecond: 400 },
          { ...gcra, limit: 400 },
          { ...fixed, limit: 400 },
          { ...sliding, limit: 400 },
          { ...smooth, interval: 2.5 }
        ]
        for (const [i, to] of raised.entries()) {
          const limiter = yield* RateLimiter.make({ ...named(names[i] ?? ""), maxWait: "1 hour" })
          yield* burst(limiter, 4)
          const log: Array<readonly [string, number]> = []
          for (let n = 0; n < 10; n++) yield* queued(limiter, log, `${n}`)
          yield* limiter.change(to)
          const from = yield* Clock.currentTimeMillis
          // They are woken one after the other.
          for (let n = 0; n < 100; n++) yield* Effect.yieldNow
          yield* TestClock.adjust("1 second")
          assert.strictEqual(log.length, 10, names[i] ?? "")
          assert.isAtMost((log[9]?.[1] ?? Infinity) - from, 30, names[i] ?? "")
        }
      })
    )

    it.effect("refuses those whose turn would now come too late, or never", () =>
      Effect.gen(function* () {
        const lowered: ReadonlyArray<RateLimiter.Limit> = [
          { capacity: 2, refillPerSecond: 0.05 },
          { ...gcra, limit: 0.05, burst: 2 },
          { ...fixed, limit: 2, window: 20_000 },
          { ...sliding, limit: 2, window: 20_000 }
        ]
        for (const [i, to] of lowered.entries()) {
          const limiter = yield* RateLimiter.make({ ...named(names[i] ?? ""), maxWait: "10 seconds" })
          yield* burst(limiter, 4)
          const never = yield* limiter.costing(4).execute(Effect.void).pipe(Effect.flip, Effect.forkChild(start))
          const late = yield* limiter.execute(Effect.void).pipe(Effect.flip, Effect.forkChild(start))
          yield* limiter.change(to)
          yield* TestClock.adjust(0)
          assert.strictEqual(Duration.toMillis((yield* Fiber.join(never)).retryAfter), Infinity)
          assert.isAbove(Duration.toMillis((yield* Fiber.join(late)).retryAfter), 9000)
          assert.strictEqual((yield* limiter.state).waiting, 0)
        }
      })
    )

    it.effect("gives nothing away: what was taken stays taken", () =>
      Effect.gen(function* () {
        const raised: ReadonlyArray<readonly [RateLimiter.Limit, number]> = [
          [{ capacity: 8, refillPerSecond: 4 }, 0],
          [{ ...gcra, burst: 8 }, 0],
          [{ ...fixed, limit: 8 }, 4],
          [{ ...sliding, limit: 8 }, 4],
          [{ ...smooth, interval: 100 }, 0]
        ]
        for (const [i, [to, left]] of raised.entries()) {
          const limiter = yield* RateLimiter.make(named(names[i] ?? ""))
          yield* burst(limiter, 4)
          yield* limiter.change(to)
          assert.strictEqual(yield* burst(limiter, 9), left, names[i] ?? "")
          yield* limiter.change(named(names[i] ?? ""))
          assert.strictEqual(yield* burst(limiter, 9), 0, names[i] ?? "")
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(yield* burst(limiter, 9), i === 4 ? 1 : 4, names[i] ?? "")
        }
      })
    )

    it.effect("keeps a rate cut by throttled in proportion", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make({ ...bucket, adaptive: { recovery: "4 seconds" } })
        yield* limiter.throttled()
        yield* limiter.change({ capacity: 4, refillPerSecond: 8 })
        assert.strictEqual((yield* limiter.state).refillPerSecond, 4)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* limiter.state).refillPerSecond, 6)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* limiter.state).refillPerSecond, 8)
      })
    )

    it.effect("dies on another algorithm, and on numbers that make no sense", () =>
      Effect.gen(function* () {
        const limiter = yield* RateLimiter.make(gcra)
        for (const [to, message] of [
          [fixed, "RateLimiter: algorithm must be gcra, got fixed-window"],
          [{ ...gcra, limit: 0 }, "RateLimiter: limit must be a finite number > 0, got 0"]
        ] as const) {
          const exit = yield* Effect.exit(limiter.change(to))
          assert.strictEqual(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), `RangeError: ${message}`)
        }
        assert.strictEqual((yield* limiter.state).refillPerSecond, 4)
      })
    )
  })

  describe("makeWithin", () => {
    it.effect("takes of both limits, or of none", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ capacity: 3, refillPerSecond: 1 })
        const ann = yield* RateLimiter.makeWithin(all, sliding)
        const bob = yield* RateLimiter.makeWithin(all, { ...sliding, limit: 2 })
        assert.strictEqual(yield* burst(bob, 5), 2)
        // Bob is at his own limit, and took no more of the others.
        assert.strictEqual((yield* all.state).tokens, 1)
        assert.strictEqual(yield* run(bob), 1000)
        assert.strictEqual(yield* burst(ann, 5), 1)
        // All is used up, and nothing more is taken of Ann's own.
        assert.strictEqual((yield* ann.state).tokens, 3)
        assert.strictEqual((yield* all.state).tokens, 0)
        assert.strictEqual(yield* run(ann), 1000)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* run(ann), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* burst(ann, 5), 1)
      })
    )

    it.effect("serves those who wait for both in the order in which they got that far", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ algorithm: "smooth", interval: "1 second" })
        const ann = yield* RateLimiter.makeWithin(all, smooth)
        const bob = yield* RateLimiter.makeWithin(all, smooth)
        const log: Array<readonly [string, number]> = []
        for (const name of ["a0", "a1", "a2", "a3"]) yield* queued(ann, log, name)
        for (const name of ["b0", "b1"]) yield* queued(bob, log, name)
        yield* TestClock.adjust("10 seconds")
        // One of each in turn, not all of Ann's first.
        assert.deepStrictEqual(log, [
          ["a0", 0],
          ["b0", 1000],
          ["a1", 2000],
          ["b1", 3000],
          ["a2", 4000],
          ["a3", 5000]
        ])
        assert.deepStrictEqual([(yield* all.state).waiting, (yield* ann.state).waiting], [0, 0])
      })
    )

    it.effect("overtakes nobody who waits for the outer limit", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ capacity: 4, refillPerSecond: 1 })
        const ann = yield* RateLimiter.makeWithin(all, gcra)
        yield* all.costing(3).execute(Effect.void)
        const large = yield* all.costing(4).execute(Effect.void).pipe(Effect.forkChild(start))
        assert.strictEqual(yield* run(ann), 4000)
        yield* Fiber.interrupt(large)
        assert.strictEqual(yield* run(ann), 0)
      })
    )

    it.effect("is refused by the outer wait, and leaves both lines when interrupted", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ ...smooth, maxWait: "250 millis" })
        const ann = yield* RateLimiter.makeWithin(all, { ...gcra, limit: 1000, maxWait: "1 hour" })
        yield* all.execute(Effect.void)
        const first = yield* ann.execute(Effect.void).pipe(Effect.forkChild(start))
        assert.strictEqual((yield* all.state).waiting, 1)
        assert.strictEqual(Duration.toMillis((yield* Effect.flip(ann.execute(Effect.void))).retryAfter), 500)
        yield* Fiber.interrupt(first)
        assert.deepStrictEqual([(yield* all.state).waiting, (yield* ann.state).waiting], [0, 0])
        assert.strictEqual((yield* ann.state).tokens, 1000)
      })
    )

    it.effect("lets others go first in the outer line while the inner one is throttled", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ ...smooth, interval: 1000 })
        const ann = yield* RateLimiter.makeWithin(all, smooth)
        yield* all.execute(Effect.void)
        const log: Array<readonly [string, number]> = []
        yield* queued(ann, log, "ann")
        yield* queued(all, log, "other")
        yield* ann.throttled("5 seconds")
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(log, [
          ["other", 1000],
          ["ann", 5000]
        ])
      })
    )

    it.effect("reserves only what there is now", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make(smooth)
        const ann = yield* RateLimiter.makeWithin(all, gcra)
        const reserved = yield* ann.reserve
        assert.strictEqual(Duration.toMillis((yield* Effect.flip(ann.reserve)).retryAfter), 250)
        yield* reserved.cancel
        assert.deepStrictEqual([(yield* all.state).tokens, (yield* ann.state).tokens], [1, 4])
      })
    )

    it.effect.each(seeds)("never lets through more than any of the limits, and never stalls, seed %s", (seed) =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ ...sliding, limit: 5, maxWait: "Infinity" })
        const users = yield* Effect.forEach([1, 2, 3], (limit) =>
          RateLimiter.makeWithin(all, { ...sliding, limit, window: 700, maxWait: "Infinity" })
        )
        const logs: ReadonlyArray<Array<{ at: number; cost: number }>> = [[], [], []]
        const fibers: Array<Fiber.Fiber<number, RateLimiter.RateLimited>> = []
        for (let step = 0; step < 300; step++) {
          const user = yield* Random.nextIntBetween(0, 2)
          const call = Effect.flatMap(Clock.currentTimeMillis, (at) =>
            Effect.sync(() => (logs[user] ?? []).push({ at, cost: 1 }))
          )
          fibers.push(yield* call.pipe(users[user]!.execute, Effect.forkChild(start)))
          const dice = yield* Random.nextIntBetween(0, 6)
          if (dice === 0) yield* Fiber.interrupt(fibers[yield* Random.nextIntBetween(0, step)]!)
          if (dice === 1) yield* users[user]!.throttled(yield* Random.nextIntBetween(0, 300))
          if (dice > 3) yield* TestClock.adjust(yield* Random.nextIntBetween(0, 400))
        }
        yield* TestClock.adjust("10 minutes")
        for (const fiber of fibers) assert.isDefined(fiber.pollUnsafe())
        const everything = logs.flat().sort((a, b) => a.at - b.at)
        assert.isAbove(everything.length, 200)
        assert.isAtMost(mostIn(everything, 1000), 5)
        for (const [i, log] of logs.entries()) assert.isAtMost(mostIn(log, 700), i + 1)
        assert.strictEqual((yield* all.state).waiting, 0)
      }).pipe(Random.withSeed(seed))
    )

    it.effect("leaks nothing when interrupted at any operation", () =>
      Effect.gen(function* () {
        let all = yield* RateLimiter.make(smooth)
        let ann = yield* RateLimiter.makeWithin(all, gcra)
        const contended = Effect.gen(function* () {
          all = yield* RateLimiter.make({ ...smooth, maxWait: "Infinity" })
          ann = yield* RateLimiter.makeWithin(all, { ...gcra, maxWait: "Infinity" })
          yield* all.execute(Effect.void)
          const first = yield* ann.execute(Effect.void).pipe(Effect.forkChild(start))
          const second = yield* ann.execute(Effect.void).pipe(Effect.forkChild(start))
          yield* Fiber.interrupt(first)
          yield* Fiber.interrupt(second)
        })
        yield* interruptEverywhere(
          contended,
          Effect.gen(function* () {
            assert.deepStrictEqual([(yield* all.state).waiting, (yield* ann.state).waiting], [0, 0])
            assert.strictEqual((yield* ann.state).tokens, 4)
          })
        )
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ ...gcra, limit: Infinity }, "limit must be a finite number > 0, got Infinity"],
      [{ ...gcra, burst: 0.5 }, "burst must be a finite number >= 1, got 0.5"],
      [{ ...gcra, window: 0 }, "window must be a finite duration over zero, got 0"],
      [{ ...fixed, limit: 0.9 }, "limit must be a finite number >= 1, got 0.9"],
      [{ ...sliding, window: "Infinity" }, "window must be a finite duration over zero, got Infinity"],
      [{ ...smooth, interval: 0 }, "interval must be a finite duration over zero, got 0"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(RateLimiter.make(options))
        assert.strictEqual(
          String(Exit.isFailure(exit) && Cause.squash(exit.cause)),
          `RangeError: RateLimiter: ${message}`
        )
      })
    )

    it.effect.each([
      [gcra, 5, "over 0 and at most the burst 4, got 5"],
      [fixed, 5, "over 0 and at most the limit 4, got 5"],
      [sliding, 0, "over 0 and at most the limit 4, got 0"],
      [smooth, Infinity, "over 0 and finite, got Infinity"]
    ] as const)("dies at once on a cost that can never be, of %j", ([options, cost, message]) =>
      Effect.gen(function* () {
        const { execute, executeIfAvailable, peek, reserve } = (yield* RateLimiter.make(options)).costing(cost)
        const exits: ReadonlyArray<Exit.Exit<unknown, unknown>> = [
          yield* Effect.exit(execute(Effect.void)),
          yield* Effect.exit(executeIfAvailable(Effect.void)),
          yield* Effect.exit(reserve),
          yield* Effect.exit(peek)
        ]
        for (const exit of exits) {
          assert.strictEqual(
            String(Exit.isFailure(exit) && Cause.squash(exit.cause)),
            `RangeError: RateLimiter: cost must be ${message}`
          )
        }
      })
    )

    it.effect("defaults the burst of gcra to the limit, or to one call", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* (yield* RateLimiter.make(gcra)).state).tokens, 4)
        assert.strictEqual((yield* (yield* RateLimiter.make({ ...gcra, limit: 0.2 })).state).tokens, 1)
      })
    )
  })
})
