import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Config, ConfigProvider, Duration, Effect, Exit, Fiber, Layer, Random } from "effect"
import { KeyedRateLimiter, RateLimiter } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const start = { startImmediately: true } as const
const gcra = { algorithm: "gcra", limit: 2, window: "1 second" } as const

// How long the call has to wait: zero for one that was made.
const run = (limiter: KeyedRateLimiter.KeyedRateLimiter, key: string, cost = 1) =>
  Effect.match(Effect.void.pipe(limiter.executeIfAvailable({ key, cost })), {
    onFailure: (error) => Duration.toMillis(error.retryAfter),
    onSuccess: () => 0
  })

const defectOf = <A, E>(exit: Exit.Exit<A, E>) => (Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "none")

describe("KeyedRateLimiter", () => {
  describe("execute", () => {
    it.effect("limits each key by itself, and says which one it was", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ ...gcra, maxWait: 0 })
        for (const key of ["ann", "bob", "__proto__", ""]) {
          assert.strictEqual(yield* Effect.succeed(key).pipe(limiter.execute({ key })), key)
          yield* Effect.void.pipe(limiter.execute({ key }))
          const refused = yield* Effect.void.pipe(limiter.execute({ key }), Effect.flip)
          assert.deepStrictEqual([refused.key, Duration.toMillis(refused.retryAfter), refused.waiting], [key, 500, 0])
          assert.strictEqual(refused.message, `Rate limited "${key}": try again after 500ms (0 waiting)`)
        }
        assert.deepStrictEqual(yield* limiter.statistics, { keys: 4, waiting: 0, evictions: 0 })
      })
    )

    it.effect("waits in the line of its key", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ algorithm: "smooth", interval: "1 second" })
        const log: Array<readonly [string, number]> = []
        const call = (key: string) =>
          Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => log.push([key, now]))).pipe(
            limiter.execute({ key }),
            Effect.forkChild(start)
          )
        for (const key of ["ann", "ann", "ann", "bob", "bob"]) yield* call(key)
        assert.strictEqual((yield* limiter.state("ann")).waiting, 2)
        assert.strictEqual((yield* limiter.statistics).waiting, 3)
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(log, [
          ["ann", 0],
          ["bob", 0],
          ["ann", 1000],
          ["bob", 1000],
          ["ann", 2000]
        ])
        assert.strictEqual((yield* limiter.statistics).waiting, 0)
      })
    )

    it.effect("lets maxQueued calls wait under all keys together", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ ...gcra, maxQueued: 3 })
        for (const key of ["ann", "bob"]) {
          for (let i = 0; i < 4; i++)
            yield* Effect.void.pipe(limiter.execute({ key }), Effect.ignore, Effect.forkChild(start))
        }
        assert.deepStrictEqual([(yield* limiter.state("ann")).waiting, (yield* limiter.state("bob")).waiting], [2, 1])
      })
    )

    it.effect("takes what the call costs, and dies on a cost that can never be", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make(gcra)
        yield* Effect.void.pipe(limiter.execute({ key: "ann", cost: 2 }))
        assert.strictEqual(yield* run(limiter, "ann", 2), 1000)
        const message = "RangeError: KeyedRateLimiter: cost must be over 0 and at most the burst 2, got 3"
        const call = { key: "bob", cost: 3 }
        assert.strictEqual(defectOf(yield* Effect.void.pipe(limiter.execute(call), Effect.exit)), message)
        assert.strictEqual(defectOf(yield* Effect.void.pipe(limiter.executeIfAvailable(call), Effect.exit)), message)
        assert.strictEqual(defectOf(yield* Effect.exit(limiter.reserve(call))), message)
        assert.strictEqual(defectOf(yield* Effect.exit(limiter.peek(call))), message)
        assert.strictEqual((yield* limiter.statistics).keys, 1)
      })
    )

    it.effect("leaks nothing when interrupted at any operation", () =>
      Effect.gen(function* () {
        let limiter = yield* KeyedRateLimiter.make(gcra)
        const contended = Effect.gen(function* () {
          limiter = yield* KeyedRateLimiter.make(gcra)
          yield* Effect.void.pipe(limiter.execute({ key: "ann", cost: 2 }))
          const first = yield* Effect.void.pipe(limiter.execute({ key: "ann" }), Effect.forkChild(start))
          const second = yield* Effect.void.pipe(limiter.execute({ key: "ann" }), Effect.forkChild(start))
          yield* Fiber.interrupt(first)
          yield* Fiber.interrupt(second)
        })
        const tried = yield* interruptEverywhere(
          contended,
          Effect.gen(function* () {
            assert.strictEqual((yield* limiter.statistics).waiting, 0)
            assert.strictEqual((yield* limiter.state("ann")).waiting, 0)
          })
        )
        assert.isAbove(tried, 15)
      })
    )
  })

  describe("keys", () => {
    it.effect("are forgotten when there is nothing to remember about them", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ ...gcra, maxKeys: 1_000_000 })
        for (let i = 0; i < 20_000; i++) {
          yield* run(limiter, `key ${i}`)
          if (i % 20 === 19) yield* TestClock.adjust(10)
        }
        // 1,000 keys have called in the last half second. The hand is never far behind.
        const { evictions, keys } = yield* limiter.statistics
        assert.isTrue(keys >= 1000 && keys <= 2100, `${keys} keys`)
        assert.strictEqual(evictions, 0)
      })
    )

    it.effect("make room when there are too many, the one first that was not used lately", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ ...gcra, maxKeys: 100 })
        yield* run(limiter, "busy", 2)
        for (let i = 0; i < 1000; i++) {
          yield* run(limiter, `key ${i}`)
          assert.notStrictEqual(yield* run(limiter, "busy"), 0)
          assert.isAtMost((yield* limiter.statistics).keys, 100)
        }
        assert.strictEqual((yield* limiter.statistics).evictions, 901)
      })
    )

    it.effect("are not forgotten while calls wait or reservations are due", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ ...gcra, maxKeys: 2 })
        const fibers: Array<Fiber.Fiber<void, RateLimiter.RateLimited>> = []
        for (let i = 0; i < 10; i++) {
          yield* run(limiter, `key ${i}`, 2)
          if (i % 2 === 0) yield* limiter.reserve({ key: `key ${i}` })
          else fibers.push(yield* Effect.void.pipe(limiter.execute({ key: `key ${i}` }), Effect.forkChild(start)))
        }
        assert.deepStrictEqual(yield* limiter.statistics, { keys: 10, waiting: 10, evictions: 0 })
        yield* TestClock.adjust("500 millis")
        yield* Fiber.awaitAll(fibers)
        assert.strictEqual(yield* run(limiter, "key 0"), 500)
        yield* run(limiter, "one more")
        assert.isAtMost((yield* limiter.statistics).keys, 2)
      })
    )

    it.effect.each(["a", "b", "c"])("behave as one limiter each, forgotten or not, seed %s", (seed) =>
      Effect.gen(function* () {
        for (const algorithm of ["gcra", "fixed-window", "sliding-window"] as const) {
          const limit = { algorithm, limit: 3, window: "1 second" } as const
          const limiter = yield* KeyedRateLimiter.make(limit)
          const keys = Array.from({ length: 20 }, (_, i) => `${i}`)
          const each = yield* Effect.forEach(keys, () => RateLimiter.make(limit))
          for (let step = 0; step < 2000; step++) {
            const i = yield* Random.nextIntBetween(0, 19)
            const expected = yield* Effect.match(each[i]!.executeIfAvailable(Effect.void), {
              onFailure: (error) => Duration.toMillis(error.retryAfter),
              onSuccess: () => 0
            })
            assert.strictEqual(yield* run(limiter, keys[i]!), expected)
            assert.deepStrictEqual(yield* limiter.state(keys[i]!), yield* each[i]!.state)
            if ((yield* Random.nextIntBetween(0, 3)) === 0)
              yield* TestClock.adjust(yield* Random.nextIntBetween(0, 300))
          }
          // And calls of a single key let go of all others.
          yield* TestClock.adjust("1 minute")
          for (let i = 0; i < 200; i++) yield* run(limiter, "0")
          assert.strictEqual((yield* limiter.statistics).keys, 1)
        }
      }).pipe(Random.withSeed(seed))
    )
  })

  describe("makeWithin", () => {
    it.effect("takes of the key and of all, or of none", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ capacity: 3, refillPerSecond: 1 })
        const users = yield* KeyedRateLimiter.makeWithin(all, gcra)
        yield* run(users, "ann")
        yield* run(users, "ann")
        assert.strictEqual(yield* run(users, "ann"), 500)
        assert.strictEqual((yield* all.state).tokens, 1)
        assert.strictEqual(yield* run(users, "bob"), 0)
        assert.strictEqual(yield* run(users, "bob"), 1000)
        assert.strictEqual((yield* users.state("bob")).tokens, 1)
      })
    )

    it.effect("lets a key with many calls not hold up the others", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ algorithm: "smooth", interval: "1 second" })
        const users = yield* KeyedRateLimiter.makeWithin(all, { ...gcra, limit: 100 })
        const served: Array<string> = []
        const call = (key: string) =>
          Effect.sync(() => served.push(key)).pipe(users.execute({ key }), Effect.forkChild(start))
        for (let i = 0; i < 20; i++) yield* call("greedy")
        yield* call("ann")
        yield* call("bob")
        yield* TestClock.adjust("4 seconds")
        assert.deepStrictEqual(served, ["greedy", "greedy", "ann", "bob", "greedy"])
      })
    )

    it.effect("does not forget a key that waits for the outer limit only", () =>
      Effect.gen(function* () {
        const all = yield* RateLimiter.make({ algorithm: "smooth", interval: "10 seconds" })
        const users = yield* KeyedRateLimiter.makeWithin(all, { ...gcra, maxKeys: 1 })
        yield* all.execute(Effect.void)
        const fiber = yield* Effect.void.pipe(users.execute({ key: "ann" }), Effect.forkChild(start))
        for (let i = 0; i < 20; i++) yield* run(users, `key ${i}`)
        assert.strictEqual((yield* users.state("ann")).waiting, 1)
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(fiber)
        assert.strictEqual((yield* users.state("ann")).tokens, 1)
      })
    )

    it.effect("dies within anything that is no limiter", () =>
      Effect.gen(function* () {
        const copy = { ...(yield* RateLimiter.make(gcra)) }
        const exit = yield* Effect.exit(KeyedRateLimiter.makeWithin(copy, gcra))
        assert.strictEqual(
          defectOf(exit),
          "RangeError: KeyedRateLimiter: outer must be a limiter that RateLimiter made"
        )
      })
    )
  })

  describe("reserve, peek, throttled, change", () => {
    it.effect("are about one key, but for a change", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ ...gcra, maxWait: "1 minute" })
        const peek = (key: string) => Effect.map(limiter.peek({ key }), Duration.toMillis)
        const reserved = yield* limiter.reserve({ key: "ann", cost: 2 })
        assert.deepStrictEqual([yield* peek("ann"), yield* peek("bob")], [500, 0])
        yield* reserved.cancel
        assert.strictEqual(yield* peek("ann"), 0)
        yield* limiter.throttled({ key: "ann", retryAfter: "10 seconds" })
        assert.deepStrictEqual([yield* peek("ann"), yield* peek("bob")], [10_000, 0])
        assert.strictEqual((yield* limiter.statistics).keys, 1)

        yield* limiter.change({ ...gcra, limit: 4 })
        yield* run(limiter, "bob", 4)
        assert.deepStrictEqual([yield* peek("ann"), yield* peek("bob")], [10_000, 250])
        yield* limiter.change({ ...gcra, limit: 1 })
        assert.strictEqual(yield* peek("bob"), 1000)
        assert.strictEqual((yield* limiter.state("new")).tokens, 1)
      })
    )

    it.effect("wakes the waiters of every key when the limit is raised", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ algorithm: "fixed-window", limit: 1, window: "10 seconds" })
        const fibers: Array<Fiber.Fiber<void, RateLimiter.RateLimited>> = []
        for (const key of ["ann", "bob"]) {
          yield* run(limiter, key)
          fibers.push(yield* Effect.void.pipe(limiter.execute({ key }), Effect.forkChild(start)))
        }
        yield* limiter.change({ algorithm: "fixed-window", limit: 2, window: "10 seconds" })
        yield* Fiber.joinAll(fibers)
        assert.strictEqual((yield* limiter.statistics).waiting, 0)
      })
    )
  })

  describe("make", () => {
    it.effect("remembers 10,000 keys by default", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make(gcra)
        for (let i = 0; i < 10_100; i++) yield* run(limiter, `${i}`)
        assert.deepStrictEqual(yield* limiter.statistics, { keys: 10_000, waiting: 0, evictions: 100 })
      })
    )

    it.effect.each([
      [{ ...gcra, maxKeys: 0 }, "maxKeys must be an integer >= 1, got 0"],
      [{ ...gcra, maxQueued: -1 }, "maxQueued must be an integer >= 0, got -1"],
      [{ ...gcra, burst: 0 }, "burst must be a finite number >= 1, got 0"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(KeyedRateLimiter.make(options))
        assert.strictEqual(defectOf(exit), `RangeError: KeyedRateLimiter: ${message}`)
      })
    )

    it("adds nothing but RateLimited to the type of a call", () => {
      const limited = (limiter: KeyedRateLimiter.KeyedRateLimiter, self: Effect.Effect<number, "E", "R">) =>
        [
          self.pipe(limiter.execute({ key: "a" })),
          self.pipe(limiter.executeIfAvailable({ key: "a", cost: 2 }))
        ] as const
      type Limited = Effect.Effect<number, "E" | RateLimiter.RateLimited, "R">
      expectTypeOf(limited).returns.toEqualTypeOf<readonly [Limited, Limited]>()
      expectTypeOf<KeyedRateLimiter.KeyedRateLimiter["reserve"]>().returns.toEqualTypeOf<
        Effect.Effect<RateLimiter.Reservation, RateLimiter.RateLimited>
      >()
    })
  })

  describe("layer", () => {
    it.effect("provides the limiter of a context", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.KeyedRateLimiter
        assert.strictEqual((yield* limiter.state("ann")).tokens, 2)
      }).pipe(Effect.provide(KeyedRateLimiter.layer(gcra)))
    )

    it.effect("reads its options from configuration", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.KeyedRateLimiter
        const { refillPerSecond, tokens } = yield* limiter.state("ann")
        assert.deepStrictEqual([tokens, refillPerSecond], [7, 3.5])
      }).pipe(
        Effect.provide(
          Layer.provide(
            KeyedRateLimiter.layerConfig({
              algorithm: Config.succeed("sliding-window" as const),
              limit: Config.Number("LIMIT"),
              window: Config.Duration("WINDOW"),
              maxKeys: Config.Int("MAX_KEYS")
            }),
            ConfigProvider.layer(ConfigProvider.fromUnknown({ LIMIT: 7, WINDOW: "2 seconds", MAX_KEYS: 5 }))
          )
        )
      )
    )
  })
})
