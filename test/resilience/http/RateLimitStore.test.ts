import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Random } from "effect"
import { RateLimitStore } from "effect-resilience/http"
import { rateLimitStoreContract } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

type Log = ReadonlyArray<{ readonly at: number; readonly cost: number }>
type Allows = (log: Log, now: number, cost: number) => boolean

const sum = (log: Log) => log.reduce((total, { cost }) => total + cost, 0)

// Whether a request may pass, from the whole history of those that did.
const references: Record<string, (limit: number, window: number, burst: number) => Allows> = {
  "sliding-window": (limit, window) => (log, now, cost) =>
    sum(log.filter(({ at }) => at > now - window)) + cost <= limit,
  "sliding-window-counter": (limit, window) => (log, now, cost) => {
    // Windows without a gap from the first request on, and again from the first after two without any.
    let start = 0
    let [previous, current] = [0, 0]
    const advance = (to: number) => {
      while (to >= start + window && previous + current > 0) {
        start += window
        previous = current
        current = 0
      }
    }
    for (const call of log) {
      advance(call.at)
      if (previous + current === 0) start = call.at
      current += call.cost
    }
    advance(now)
    return current + previous * (1 - (now - start) / window) + cost <= limit + 1e-6
  },
  // ITU-T I.371, continuous-state leaky bucket.
  gcra: (limit, window, burst) => (log, now, cost) => {
    let content = 0
    let last = 0
    for (const call of log) {
      content = Math.max(0, content - ((call.at - last) * limit) / window) + call.cost
      last = call.at
    }
    return Math.max(0, content - ((now - last) * limit) / window) + cost <= burst + 1e-6
  }
}
references["token-bucket"] = references["gcra"]!

const mostIn = (log: Log, window: number) =>
  log.reduce((most, { at }) => Math.max(most, sum(log.filter((call) => call.at >= at && call.at < at + window))), 0)

const cases = Object.keys(references).flatMap((algorithm) =>
  ["a", "b", "c", "d", "e", "f"].map(
    (seed) => [algorithm as NonNullable<RateLimitStore.Policy["algorithm"]>, seed] as const
  )
)

const policy = { limit: 10, window: "1 minute" } as const

describe("RateLimitStore", () => {
  describe("makeMemory", () => {
    for (const { name, run } of rateLimitStoreContract({ advance: TestClock.adjust })) {
      it.effect(name, () => Effect.provide(run, RateLimitStore.layerMemory()))
    }

    it.effect.each(cases)(
      "%s lets through what its model does, and tells a true retryAfter, seed %s",
      ([algorithm, seed]) =>
        Effect.gen(function* () {
          const store = yield* RateLimitStore.makeMemory()
          const limit = yield* Random.nextIntBetween(1, 12)
          const window = yield* Random.nextIntBetween(10, 2_000)
          const bursts = algorithm === "gcra" || algorithm === "token-bucket"
          const burst = bursts ? yield* Random.nextIntBetween(1, 2 * limit) : limit
          const rule = { algorithm, limit, window, ...(bursts ? { burst } : {}) }
          const allows = references[algorithm]!(limit, window, burst)
          const log: Array<{ at: number; cost: number }> = []
          for (let step = 0; step < 300; step++) {
            const cost = (yield* Random.nextIntBetween(0, 3)) > 0 ? 1 : yield* Random.nextIntBetween(1, burst)
            const now = yield* Clock.currentTimeMillis
            const [decision] = yield* store.take([{ key: "k", policy: rule, cost }])
            const wait = Duration.toMillis(decision!.retryAfter)
            assert.strictEqual(decision!.allowed, allows(log, now, cost), `step ${step}`)
            assert.strictEqual(wait === 0, decision!.allowed)
            if (wait > 0) {
              assert.isTrue(allows(log, now + wait, cost), `late, step ${step}`)
              assert.isFalse(allows(log, now + wait - 1, cost), `early, step ${step}`)
            } else log.push({ at: now, cost })
            const pause = yield* Random.nextIntBetween(0, 8)
            if (pause > 5) yield* TestClock.adjust(yield* Random.nextIntBetween(0, Math.ceil((2 * window) / limit)))
            if (pause === 0) yield* TestClock.adjust(wait)
          }
          assert.isAbove(log.length, 40)
          const most =
            { "sliding-window": limit, "sliding-window-counter": 2 * limit }[algorithm as string] ?? burst + limit
          assert.isAtMost(mostIn(log, window), most)
        }).pipe(Random.withSeed(seed))
    )

    it.effect("takes no more than its bytes for a million addresses, and keeps who is near a limit", () =>
      Effect.gen(function* () {
        setFlagsFromString("--expose-gc")
        const collect = runInNewContext("gc") as () => void
        const maxBytes = 16 * 1024 * 1024
        const store = yield* RateLimitStore.makeMemory({ maxBytes })
        const heavy = { key: "heavy", policy, cost: 9 }
        assert.isTrue((yield* store.take([heavy]))[0]!.allowed)
        collect()
        const before = process.memoryUsage().heapUsed
        for (let i = 0; i < 1_000_000; i++) {
          yield* store.take([{ key: `default ip:10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, policy, cost: 1 }])
        }
        const statistics = yield* store.statistics
        collect()
        const grown = process.memoryUsage().heapUsed - before
        assert.isAtMost(statistics.bytes, maxBytes)
        assert.isAbove(statistics.keys, 25_000)
        assert.strictEqual(statistics.keys + statistics.evictions, 1_000_001)
        assert.isBelow(grown, 1.1 * maxBytes)
        assert.deepInclude((yield* store.take([{ ...heavy, cost: 2 }]))[0], { allowed: false, remaining: 1 })
      })
    )

    it.effect("keeps its bytes where each key has a long log, or a long name", () =>
      Effect.gen(function* () {
        const maxBytes = 1024 * 1024
        const store = yield* RateLimitStore.makeMemory({ maxBytes })
        const long = { limit: 1_000, window: "1 minute" } as const
        for (let key = 0; key < 100; key++) {
          for (let i = 0; i < 150; i++) {
            yield* store.take([{ key: `k${key}`, policy: long, cost: 1 }])
            yield* TestClock.adjust(1)
          }
          yield* store.take([{ key: `${key}`.repeat(10_000), policy: long, cost: 1 }])
          assert.isAtMost((yield* store.statistics).bytes, maxBytes)
        }
      })
    )

    it.effect("forgets keys of which nothing is taken any more, without counting them as evicted", () =>
      Effect.gen(function* () {
        const store = yield* RateLimitStore.makeMemory()
        for (let i = 0; i < 1_000; i++) yield* store.take([{ key: `old ${i}`, policy, cost: 1 }])
        assert.strictEqual((yield* store.statistics).keys, 1_000)
        yield* TestClock.adjust("1 minute")
        for (let i = 0; i < 1_000; i++) yield* store.take([{ key: `new ${i}`, policy, cost: 1 }])
        const { bytes, evictions, keys } = yield* store.statistics
        assert.strictEqual(keys, 1_000)
        assert.strictEqual(evictions, 0)
        assert.isBelow(bytes, 1_000 * 500)
      })
    )

    it.effect("lets those go first who have taken little, however long ago others came", () =>
      Effect.gen(function* () {
        const store = yield* RateLimitStore.makeMemory({ maxBytes: 65_536 })
        yield* store.take([{ key: "first", policy, cost: 5 }])
        for (let i = 0; i < 2_000; i++) yield* store.take([{ key: `flood ${i}`, policy, cost: 1 }])
        assert.isAbove((yield* store.statistics).evictions, 1_000)
        assert.strictEqual((yield* store.take([{ key: "first", policy, cost: 1 }]))[0]!.remaining, 4)
        // The last of the flood is still there, the first has gone.
        assert.strictEqual((yield* store.take([{ key: "flood 1999", policy, cost: 1 }]))[0]!.remaining, 8)
        assert.strictEqual((yield* store.take([{ key: "flood 0", policy, cost: 1 }]))[0]!.remaining, 9)
      })
    )

    it.effect("another way to count begins with what was taken", () =>
      Effect.gen(function* () {
        const store = yield* RateLimitStore.makeMemory()
        yield* store.take([{ key: "k", policy: { ...policy, algorithm: "gcra" }, cost: 4 }])
        const [decision] = yield* store.take([
          { key: "k", policy: { ...policy, algorithm: "sliding-window" }, cost: 1 }
        ])
        assert.strictEqual(decision!.remaining, 5)
      })
    )

    it.effect.each([
      [{ maxBytes: 1_000 }, policy, 1, "RateLimitStore: maxBytes must be a finite number >= 65536, got 1000"],
      [{}, policy, 0, "RateLimitStore: cost must be over 0 and finite, got 0"],
      [{}, { ...policy, limit: 0 }, 1, "RateLimitStore: limit must be a finite number >= 1, got 0"],
      [{}, { ...policy, window: 0 }, 1, "RateLimitStore: window must be a finite duration over zero, got 0"],
      [
        {},
        { ...policy, algorithm: "token-bucket" as const, burst: 0 },
        1,
        "RateLimitStore: burst must be a finite number >= 1, got 0"
      ]
    ] as const)("dies on %j %j %s", ([options, policy, cost, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(
          Effect.flatMap(RateLimitStore.makeMemory(options), (store) => store.take([{ key: "k", policy, cost }]))
        )
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.strictEqual((Cause.squash(exit.cause) as RangeError).message, message)
      })
    )
  })
})
