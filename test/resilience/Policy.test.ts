import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Context, Data, Duration, Effect, Exit, Fiber, Option, Random, Result } from "effect"
import {
  AdaptiveLimit,
  AdaptiveThrottle,
  AdaptiveTimeout,
  Bulkhead,
  Cache,
  CircuitBreaker,
  Deadline,
  Fallback,
  Hedge,
  KeyedRateLimiter,
  LoadShed,
  Policy,
  RateLimiter,
  Retry,
  RetryBudget,
  Timeout
} from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Unavailable extends Data.TaggedError("Unavailable")<{}> {}

type Name = "Name"
const Name = Context.Service<Name, string>("test/Name")

// Every part, wide enough to be out of the way; a test narrows the one it is about.
const parts = Effect.all({
  bulkhead: Bulkhead.make({ maxConcurrent: 100 }),
  circuitBreaker: CircuitBreaker.make({ failures: 100, openFor: "1 second" }),
  rateLimiter: RateLimiter.make({ capacity: 100, refillPerSecond: 1 })
})
const retry = Retry.make({ schedule: Retry.delays([10, 10]) })

// An operation that fails until its n-th attempt, and counts.
const succeedsAt = (attempt: number) => {
  const calls = { count: 0 }
  const call = Effect.suspend(() => (++calls.count >= attempt ? Effect.succeed("ok") : new Unavailable()))
  return { calls, call }
}

// Draws that refuse whatever can be refused.
const zeros = { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 }

// Runs a call to its end in virtual time, and says how it ended and when.
const timed = <A, E extends { readonly _tag: string }, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    const fiber = yield* Effect.forkChild(
      Effect.all([Effect.result(self), Effect.clockWith((clock) => clock.currentTimeMillis)])
    )
    yield* TestClock.adjust("1 hour")
    const [result, end] = yield* Fiber.join(fiber)
    return [Result.isSuccess(result) ? result.success : result.failure._tag, end - start] as const
  })

describe("Policy", () => {
  describe("make", () => {
    it.effect("does nothing to a call without parts", () =>
      Effect.gen(function* () {
        const policy = Policy.make({})
        assert.strictEqual(yield* Effect.succeed(1).pipe(policy.execute), 1)
        assert.deepStrictEqual(yield* Effect.exit(policy.execute(Effect.die("bug"))), Exit.die("bug"))
      })
    )

    it("refuses durations that make no sense", () => {
      assert.throws(() => Policy.make({ deadline: 0 }), RangeError, "Policy: deadline must be over zero, got 0 ms")
      assert.throws(() => Policy.make({ timeout: -5 }), RangeError, "Policy: timeout must be over zero, got -5 ms")
    })

    it.effect("calls its circuit default unless told otherwise", () =>
      Effect.gen(function* () {
        const { circuitBreaker } = yield* parts
        yield* Effect.exit(new Unavailable().pipe(Policy.make({ circuitBreaker }).execute))
        yield* Effect.exit(new Unavailable().pipe(Policy.make({ circuitBreaker, circuit: "named" }).execute))
        assert.deepStrictEqual(
          (yield* circuitBreaker.states).map(({ failures, key }) => [key, failures]),
          [
            ["default", 1],
            ["named", 1]
          ]
        )
      })
    )

    it("adds the errors of its parts and no others", () => {
      const { bulkhead, circuitBreaker, rateLimiter } = Effect.runSync(parts)
      const none = Policy.make({})
      expectTypeOf(none).toEqualTypeOf<Policy.Policy>()
      expectTypeOf(Policy.make({ retry })).toEqualTypeOf<Policy.Policy>()
      expectTypeOf(Policy.make({ deadline: "1 second" })).toEqualTypeOf<Policy.Policy<Deadline.DeadlineExceeded>>()
      expectTypeOf(Policy.make({ bulkhead })).toEqualTypeOf<Policy.Policy<Bulkhead.BulkheadFull>>()
      expectTypeOf(Policy.make({ circuitBreaker })).toEqualTypeOf<Policy.Policy<CircuitBreaker.CircuitOpen>>()
      expectTypeOf(Policy.make({ rateLimiter })).toEqualTypeOf<Policy.Policy<RateLimiter.RateLimited>>()
      const { adaptiveThrottle } = Effect.runSync(Effect.all({ adaptiveThrottle: AdaptiveThrottle.make() }))
      expectTypeOf(Policy.make({ adaptiveThrottle })).toEqualTypeOf<Policy.Policy<AdaptiveThrottle.Throttled>>()
      expectTypeOf(Policy.make({ timeout: 5 })).toEqualTypeOf<Policy.Policy<Timeout.TimedOut>>()
      expectTypeOf(Policy.make({ bulkhead: undefined, timeout: 5 })).toEqualTypeOf<Policy.Policy<Timeout.TimedOut>>()

      const maybe: Bulkhead.Bulkhead | undefined = bulkhead as Bulkhead.Bulkhead | undefined
      expectTypeOf(Policy.make({ bulkhead: maybe })).toEqualTypeOf<Policy.Policy<Bulkhead.BulkheadFull>>()

      const all = Policy.make({ deadline: "9 seconds", bulkhead, retry, circuitBreaker, rateLimiter, timeout: 5 })
      type All =
        | Deadline.DeadlineExceeded
        | Bulkhead.BulkheadFull
        | CircuitBreaker.CircuitOpen
        | RateLimiter.RateLimited
        | Timeout.TimedOut
      expectTypeOf(all).toEqualTypeOf<Policy.Policy<All>>()
      expectTypeOf<Policy.AnyError>().toEqualTypeOf<
        All | AdaptiveLimit.LimitReached | LoadShed.Overloaded | AdaptiveThrottle.Throttled
      >()
      const guarded = (self: Effect.Effect<number, Unavailable, "R">) => self.pipe(all.execute)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, Unavailable | All, "R">>()
    })

    it.effect("takes an adaptive limit, one of its partitions or a load shedder where a bulkhead goes", () =>
      Effect.gen(function* () {
        const limit = yield* AdaptiveLimit.make({ initialLimit: 1, maxLimit: 1, partitions: { live: 1 } })
        const shed = yield* LoadShed.make({ signals: { load: Effect.succeed(9) } })
        const limited = Policy.make({ deadline: "1 second", bulkhead: limit })
        const partitioned = Policy.make({ bulkhead: limit.partition("live"), retry })
        const shedding = Policy.make({ bulkhead: shed, timeout: 5 })
        expectTypeOf(limited).toEqualTypeOf<Policy.Policy<Deadline.DeadlineExceeded | AdaptiveLimit.LimitReached>>()
        expectTypeOf(partitioned).toEqualTypeOf<Policy.Policy<AdaptiveLimit.LimitReached>>()
        expectTypeOf(shedding).toEqualTypeOf<Policy.Policy<Timeout.TimedOut | LoadShed.Overloaded>>()
        const either = limit as AdaptiveLimit.AdaptiveLimit | Bulkhead.Bulkhead | undefined
        expectTypeOf(Policy.make({ bulkhead: either })).toEqualTypeOf<
          Policy.Policy<AdaptiveLimit.LimitReached | Bulkhead.BulkheadFull>
        >()

        const other = yield* Effect.void.pipe(
          Effect.delay(50),
          limited.execute,
          Effect.forkChild({ startImmediately: true })
        )
        assert.strictEqual((yield* Effect.flip(limited.execute(Effect.void)))._tag, "LimitReached")
        yield* TestClock.adjust(50)
        yield* Fiber.join(other)
        assert.strictEqual(yield* partitioned.execute(Effect.succeed(1)), 1)
        assert.strictEqual((yield* Effect.flip(shedding.execute(Effect.void)))._tag, "Overloaded")
      })
    )

    it.effect("takes an adaptive timeout, or one that leaves work behind, where a duration goes", () =>
      Effect.gen(function* () {
        const adaptive = yield* AdaptiveTimeout.make({ ceiling: 100, floor: 10, minSamples: 1 })
        const leaving = yield* Timeout.makeLeaving({ after: 30 })
        const following = Policy.make({ timeout: adaptive })
        const left = Policy.make({ timeout: leaving })
        expectTypeOf(following).toEqualTypeOf<Policy.Policy<Timeout.TimedOut>>()
        expectTypeOf(left).toEqualTypeOf<Policy.Policy<Timeout.TimedOut>>()

        assert.deepStrictEqual(yield* timed(Effect.never.pipe(following.execute)), ["TimedOut", 100])
        for (let call = 0; call < 100; call++) yield* timed(Effect.sleep(20).pipe(following.execute))
        assert.deepStrictEqual(yield* timed(Effect.never.pipe(following.execute)), ["TimedOut", 40])
        assert.deepStrictEqual(yield* timed(Effect.never.pipe(Effect.uninterruptible, left.execute)), ["TimedOut", 30])
        assert.strictEqual((yield* leaving.state).running, 1)
      })
    )

    it.effect("takes one key of a keyed limiter, or calls of another cost, where a limiter goes", () =>
      Effect.gen(function* () {
        const keyed = yield* KeyedRateLimiter.make({ capacity: 1, refillPerSecond: 0.001, maxWait: 0 })
        const { rateLimiter } = yield* parts
        const perUser = Policy.make({ rateLimiter: { execute: keyed.execute({ key: "ada" }) } })
        const costly = Policy.make({ rateLimiter: rateLimiter.costing(60) })
        expectTypeOf(perUser).toEqualTypeOf<Policy.Policy<RateLimiter.RateLimited>>()
        expectTypeOf(costly).toEqualTypeOf<Policy.Policy<RateLimiter.RateLimited>>()

        yield* perUser.execute(Effect.void)
        const refusal = yield* Effect.flip(perUser.execute(Effect.void))
        assert.deepStrictEqual([refusal._tag, refusal.key], ["RateLimited", "ada"])
        yield* costly.execute(Effect.void)
        assert.strictEqual((yield* rateLimiter.state).tokens, 40)
      })
    )

    it.effect("keeps attempts back with a throttle inside the breaker, before they take a token", () =>
      Effect.gen(function* () {
        const { circuitBreaker, rateLimiter } = yield* parts
        const adaptiveThrottle = yield* AdaptiveThrottle.make({ window: "1 day" })
        const policy = Policy.make({ circuitBreaker, adaptiveThrottle, rateLimiter, timeout: 100 })
        expectTypeOf(policy).toEqualTypeOf<
          Policy.Policy<
            CircuitBreaker.CircuitOpen | AdaptiveThrottle.Throttled | RateLimiter.RateLimited | Timeout.TimedOut
          >
        >()
        // Timeouts say that the other side has too much to do: they are seen by the throttle, so it is outside them.
        yield* timed(Effect.never.pipe(policy.execute))
        assert.deepStrictEqual(yield* adaptiveThrottle.state, { requests: 1, accepts: 0, refusing: 0.5 })
        const before = Math.floor((yield* rateLimiter.state).tokens)
        const refused = Effect.void.pipe(policy.execute, Effect.provideService(Random.Random, zeros), Effect.flip)
        assert.strictEqual((yield* refused)._tag, "Throttled")
        assert.strictEqual(Math.floor((yield* rateLimiter.state).tokens), before)
        // Neither does a refusal here count against the dependency, nor does one of the open circuit count as a request.
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 1)
        yield* circuitBreaker.open("default")
        assert.strictEqual((yield* refused)._tag, "CircuitOpen")
        assert.strictEqual((yield* adaptiveThrottle.state).requests, 2)
      })
    )

    it("takes a retry only if that accepts the errors of the parts inside it", () => {
      const { circuitBreaker, rateLimiter } = Effect.runSync(parts)
      const schedule = Retry.delays([1])
      const narrow = Retry.make({ schedule, while: (error: Unavailable) => error._tag === "Unavailable" })
      const policy = Policy.make({ retry: narrow, deadline: "1 second" })
      expectTypeOf(policy).toEqualTypeOf<Policy.Policy<Deadline.DeadlineExceeded, Unavailable>>()
      // @ts-expect-error -- the predicate does not know this error
      // @effect-diagnostics-next-line missingEffectError:off
      expectTypeOf(policy.execute(Effect.fail("other"))).not.toBeAny()
      // @ts-expect-error -- the predicate does not know CircuitOpen
      // @effect-diagnostics-next-line missingEffectError:off
      Policy.make({ retry: narrow, circuitBreaker })
      const wide = Retry.make({
        schedule,
        while: (error: Unavailable | CircuitBreaker.CircuitOpen | RateLimiter.RateLimited) =>
          error._tag !== "RateLimited"
      })
      const guarded = (self: Effect.Effect<number, Unavailable>) =>
        self.pipe(Policy.make({ retry: wide, circuitBreaker, rateLimiter }).execute)
      expectTypeOf(guarded).returns.toEqualTypeOf<
        Effect.Effect<number, Unavailable | CircuitBreaker.CircuitOpen | RateLimiter.RateLimited>
      >()
    })

    it("takes a cache only if that can hold the errors of the parts inside it", () => {
      const { circuitBreaker } = Effect.runSync(parts)
      const narrow = Effect.runSync(Cache.make<string, number, Unavailable>({ capacity: 1, timeToLive: 1 }))
      // @ts-expect-error -- the cache does not know TimedOut
      Policy.make({ cache: narrow, timeout: 5 })
      const wide = Effect.runSync(
        Cache.make<"a" | "b", number, Unavailable | Timeout.TimedOut | CircuitBreaker.CircuitOpen>({
          capacity: 1,
          timeToLive: 1
        })
      )
      const policy = Policy.make({ cache: wide, retry, circuitBreaker, timeout: 5 })
      const cached = (self: Effect.Effect<number, Unavailable, "R">) => self.pipe(policy.execute({ key: "a" }))
      expectTypeOf(cached).returns.toEqualTypeOf<
        Effect.Effect<number, Unavailable | Timeout.TimedOut | CircuitBreaker.CircuitOpen, "R">
      >()
      // @ts-expect-error -- not a key of the cache
      policy.execute({ key: "c" })
      // @ts-expect-error -- not a value of the cache
      expectTypeOf(policy.execute({ key: "a" })(Effect.succeed("text"))).not.toBeAny()
    })

    it("takes a hedge only if that accepts the errors of the parts inside it, and adds what it requires", () => {
      const { circuitBreaker } = Effect.runSync(parts)
      const narrow = Effect.runSync(
        Hedge.make({ delay: 1, while: (error: Unavailable) => error._tag === "Unavailable", onHedge: () => Name })
      )
      const policy = Policy.make({ hedge: narrow, deadline: "1 second" })
      expectTypeOf(policy).toEqualTypeOf<Policy.Policy<Deadline.DeadlineExceeded, Unavailable, Name>>()
      // @ts-expect-error -- the predicate does not know CircuitOpen
      // @effect-diagnostics-next-line missingEffectError:off
      Policy.make({ hedge: narrow, circuitBreaker })
      const wide = Effect.runSync(Hedge.make({ delay: 1 }))
      expectTypeOf(Policy.make({ retry, hedge: wide, circuitBreaker })).toEqualTypeOf<
        Policy.Policy<CircuitBreaker.CircuitOpen>
      >()
      const same = Retry.make({
        schedule: Retry.delays([1]),
        while: (error: Unavailable) => error._tag === "Unavailable"
      })
      expectTypeOf(Policy.make({ retry: same, hedge: narrow })).toEqualTypeOf<Policy.Policy<never, Unavailable, Name>>()
    })

    it("loses the errors its fallback handles, and gains those it adds", () => {
      const { bulkhead, circuitBreaker } = Effect.runSync(parts)
      const options = { bulkhead, retry, circuitBreaker, timeout: 5 } as const
      const tags = Fallback.tags("CircuitOpen", "TimedOut")

      const some = Policy.make({ ...options, fallback: Fallback.value(null, { errors: tags }) })
      expectTypeOf(some).toEqualTypeOf<
        Policy.FallbackPolicy<null, { readonly _tag: "CircuitOpen" | "TimedOut" }, Bulkhead.BulkheadFull>
      >()
      const guarded = (self: Effect.Effect<number, Unavailable | Timeout.TimedOut, "R">) => self.pipe(some.execute)
      expectTypeOf(guarded).returns.toEqualTypeOf<
        Effect.Effect<number | null, Unavailable | Bulkhead.BulkheadFull, "R">
      >()

      const all = Policy.make({ ...options, fallback: Fallback.value("usual") })
      const answered = (self: Effect.Effect<number, Unavailable, "R">) => self.pipe(all.execute)
      expectTypeOf(answered).returns.toEqualTypeOf<Effect.Effect<number | string, never, "R">>()

      const standby = Fallback.make({ errors: tags, orElse: () => Effect.andThen(Name, new Unavailable()) })
      expectTypeOf(Policy.make({ ...options, fallback: standby })).toEqualTypeOf<
        Policy.FallbackPolicy<
          never,
          { readonly _tag: "CircuitOpen" | "TimedOut" },
          Bulkhead.BulkheadFull | Unavailable,
          unknown,
          Name
        >
      >()

      const narrow = Fallback.value(0, { errors: Fallback.matching((error: Unavailable) => error.message !== "") })
      const accepts = Policy.make({ fallback: narrow })
      expectTypeOf(accepts).toEqualTypeOf<Policy.FallbackPolicy<number, never, never, Unavailable>>()
      // @ts-expect-error -- the predicate does not know TimedOut
      Policy.make({ fallback: narrow, timeout: 5 })

      type Errors = Unavailable | Bulkhead.BulkheadFull | CircuitBreaker.CircuitOpen | Timeout.TimedOut
      const cache = Effect.runSync(Cache.make<string, number, Errors>({ capacity: 1, timeToLive: 1 }))
      const cached = Policy.make({ ...options, cache, fallback: Fallback.value(null, { errors: tags }) })
      const looked = (self: Effect.Effect<number, Unavailable, "R">) => self.pipe(cached.execute({ key: "a" }))
      expectTypeOf(looked).returns.toEqualTypeOf<
        Effect.Effect<number | null, Unavailable | Bulkhead.BulkheadFull, "R">
      >()
    })

    it("knows the parts by name", () => {
      // @ts-expect-error -- a part that does not exist
      Policy.make({ timeuot: 5 })
    })
  })

  describe("makeFacade", () => {
    it.effect("counts one outcome per call in the circuit, and gives all attempts one time and one place", () =>
      Effect.gen(function* () {
        const { bulkhead, circuitBreaker, rateLimiter } = yield* parts
        const policy = Policy.makeFacade({ bulkhead, retry, circuitBreaker, rateLimiter, timeout: 250 })
        const { call, calls } = succeedsAt(9)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["Unavailable", 20])
        assert.strictEqual(calls.count, 3)
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 1)
        assert.strictEqual(Math.floor((yield* rateLimiter.state).tokens), 100)
        const slow = Effect.andThen(Effect.sleep(100), new Unavailable())
        assert.deepStrictEqual(yield* timed(slow.pipe(policy.execute)), ["TimedOut", 250])
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 2)
        assert.strictEqual((yield* bulkhead.state).running, 0)
      })
    )

    it.effect("refuses by the open circuit before a place is taken or anything is retried", () =>
      Effect.gen(function* () {
        const { circuitBreaker, rateLimiter } = yield* parts
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        const policy = Policy.makeFacade({ deadline: "1 minute", bulkhead, retry, circuitBreaker, rateLimiter })
        yield* circuitBreaker.open("default")
        assert.deepStrictEqual(yield* timed(Effect.void.pipe(policy.execute)), ["CircuitOpen", 0])
        assert.strictEqual((yield* bulkhead.statistics).admitted, 0)
        yield* circuitBreaker.close("default")
        const first = yield* Effect.forkChild(policy.execute(Effect.never), { startImmediately: true })
        // A full bulkhead says nothing about the dependency.
        assert.deepStrictEqual(yield* timed(new Unavailable().pipe(policy.execute)), ["BulkheadFull", 0])
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 0)
        yield* Fiber.interrupt(first)
      })
    )

    it.effect("puts hedge, throttle and limiter around each attempt, inside the retry", () =>
      Effect.gen(function* () {
        const { circuitBreaker, rateLimiter } = yield* parts
        const adaptiveThrottle = yield* AdaptiveThrottle.make({ window: "1 day" })
        const hedge = yield* Hedge.make({ delay: 50 })
        const policy = Policy.makeFacade({ retry, hedge, circuitBreaker, adaptiveThrottle, rateLimiter, timeout: 1000 })
        const slow = Effect.andThen(Effect.sleep(100), new Unavailable())
        // Three times two attempts, the second 50 ms after the first.
        assert.deepStrictEqual(yield* timed(slow.pipe(policy.execute)), ["Unavailable", 3 * 150 + 20])
        assert.strictEqual((yield* adaptiveThrottle.state).requests, 6)
        assert.strictEqual((yield* hedge.state).hedges, 3)
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 1)
      })
    )

    it.effect("answers with the cache and the fallback outside everything", () =>
      Effect.gen(function* () {
        const { circuitBreaker } = yield* parts
        const cache = yield* Cache.make<string, string, Unavailable | Policy.AnyError>({
          capacity: 10,
          timeToLive: "1 minute"
        })
        const fallback = Fallback.value("usual", { errors: Fallback.tags("Unavailable", "CircuitOpen") })
        const policy = Policy.makeFacade({ fallback, cache, circuitBreaker, timeout: 100 })
        assert.strictEqual(yield* Effect.succeed("ok").pipe(policy.execute({ key: "a" })), "ok")
        yield* circuitBreaker.isolate("default")
        assert.strictEqual(yield* Effect.succeed("new").pipe(policy.execute({ key: "a" })), "ok")
        assert.strictEqual(yield* Effect.succeed("new").pipe(policy.execute({ key: "b" })), "usual")
      })
    )

    it("has the types of the other order, but its retry need not know circuit and timeout", () => {
      const { bulkhead, circuitBreaker, rateLimiter } = Effect.runSync(parts)
      const schedule = Retry.delays([1])
      const narrow = Retry.make({ schedule, while: (error: Unavailable) => error._tag === "Unavailable" })
      const policy = Policy.makeFacade({ deadline: "1 second", bulkhead, retry: narrow, circuitBreaker, timeout: 5 })
      type Errors = Deadline.DeadlineExceeded | Bulkhead.BulkheadFull | CircuitBreaker.CircuitOpen | Timeout.TimedOut
      expectTypeOf(policy).toEqualTypeOf<Policy.Policy<Errors, Unavailable>>()
      // @ts-expect-error -- the predicate does not know RateLimited
      // @effect-diagnostics-next-line missingEffectError:off
      Policy.makeFacade({ retry: narrow, rateLimiter })
      expectTypeOf(Policy.makeFacade({})).toEqualTypeOf<Policy.Policy>()

      const fallback = Fallback.value(null, { errors: Fallback.tags("CircuitOpen", "Unavailable") })
      expectTypeOf(Policy.makeFacade({ circuitBreaker, timeout: 5, fallback })).toEqualTypeOf<
        Policy.FallbackPolicy<null, { readonly _tag: "CircuitOpen" | "Unavailable" }, Timeout.TimedOut>
      >()
      const cache = Effect.runSync(
        Cache.make<"a", number, Unavailable | CircuitBreaker.CircuitOpen>({ capacity: 1, timeToLive: 1 })
      )
      const cached = Policy.makeFacade({ cache, circuitBreaker, retry, fallback })
      const looked = (self: Effect.Effect<number, Unavailable, "R">) => self.pipe(cached.execute({ key: "a" }))
      expectTypeOf(looked).returns.toEqualTypeOf<Effect.Effect<number | null, never, "R">>()
      // @ts-expect-error -- the cache does not know TimedOut
      Policy.makeFacade({ cache, circuitBreaker, timeout: 5 })
    })

    it("refuses durations that make no sense", () => {
      assert.throws(() => Policy.makeFacade({ deadline: 0 }), RangeError, "Policy: deadline must be over zero")
      assert.throws(() => Policy.makeFacade({ timeout: -5 }), RangeError, "Policy: timeout must be over zero")
    })

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        const circuitBreaker = yield* CircuitBreaker.make({ failures: 1, openFor: 1, successesToClose: 1_000_000 })
        const { rateLimiter } = yield* parts
        const adaptiveThrottle = yield* AdaptiveThrottle.make()
        yield* Effect.exit(new Unavailable().pipe(circuitBreaker.execute({ key: "default" })))
        yield* TestClock.adjust(1)
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        )
        const policy = Policy.makeFacade({
          deadline: 500,
          bulkhead,
          retry,
          circuitBreaker,
          adaptiveThrottle,
          rateLimiter,
          timeout: 100
        })
        const operations = yield* interruptEverywhere(
          policy.execute(call),
          Effect.gen(function* () {
            assert.strictEqual(running, 0)
            assert.strictEqual((yield* bulkhead.state).running, 0)
            assert.strictEqual((yield* rateLimiter.state).waiting, 0)
            const state = yield* circuitBreaker.state("default")
            assert.isFalse(state._tag === "HalfOpen" && state.probing)
          })
        )
        assert.isAbove(operations, 10)
      })
    )
  })

  describe("execute", () => {
    it.effect("gives every attempt a token and a place in the circuit's count, and the call one place in all", () =>
      Effect.gen(function* () {
        const { bulkhead, circuitBreaker, rateLimiter } = yield* parts
        const policy = Policy.make({ bulkhead, retry, circuitBreaker, rateLimiter })
        const { call, calls } = succeedsAt(4)
        const fiber = yield* call.pipe(policy.execute, Effect.flip, Effect.forkChild)
        yield* TestClock.adjust(15)
        assert.strictEqual((yield* bulkhead.state).running, 1)
        yield* TestClock.adjust(5)
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "Unavailable")
        assert.strictEqual(calls.count, 3)
        assert.strictEqual((yield* bulkhead.state).running, 0)
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 3)
        assert.strictEqual(Math.floor((yield* rateLimiter.state).tokens), 97)
      })
    )

    it.effect("gives every attempt its own timeout, which counts for the circuit and is retried", () =>
      Effect.gen(function* () {
        const { circuitBreaker } = yield* parts
        const policy = Policy.make({ retry, circuitBreaker, timeout: 100 })
        assert.deepStrictEqual(yield* timed(Effect.never.pipe(policy.execute)), ["TimedOut", 320])
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 3)
      })
    )

    it.effect("ends everything, waits included, with the deadline", () =>
      Effect.gen(function* () {
        const policy = Policy.make({ deadline: 250, retry, timeout: 100 })
        assert.deepStrictEqual(yield* timed(Effect.never.pipe(policy.execute)), ["DeadlineExceeded", 250])
      })
    )

    it.effect("does not wait for a retry that would come after the deadline", () =>
      Effect.gen(function* () {
        const slow = Retry.make({ schedule: Retry.delays(["1 second"]) })
        const policy = Policy.make({ deadline: 500, retry: slow })
        assert.deepStrictEqual(yield* timed(new Unavailable().pipe(policy.execute)), ["Unavailable", 0])
      })
    )

    it.effect("does not count a refusal of its own limiter against the dependency", () =>
      Effect.gen(function* () {
        const circuitBreaker = yield* CircuitBreaker.make({ failures: 1 })
        const rateLimiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 0.001, maxWait: 0 })
        const policy = Policy.make({ circuitBreaker, rateLimiter })
        yield* policy.execute(Effect.void)
        assert.strictEqual((yield* Effect.flip(policy.execute(Effect.void)))._tag, "RateLimited")
        assert.strictEqual((yield* circuitBreaker.state("default"))._tag, "Closed")
      })
    )

    it.effect("refuses with a full bulkhead before anything else is spent", () =>
      Effect.gen(function* () {
        const { rateLimiter } = yield* parts
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        const policy = Policy.make({ bulkhead, retry, rateLimiter })
        const first = yield* Effect.forkChild(policy.execute(Effect.never), { startImmediately: true })
        assert.strictEqual((yield* Effect.flip(policy.execute(Effect.void)))._tag, "BulkheadFull")
        assert.strictEqual((yield* rateLimiter.state).tokens, 99)
        yield* Fiber.interrupt(first)
      })
    )

    it.effect.each(["make", "makeFacade"] as const)("treats parts that somebody else made as its own, by %s", (order) =>
      Effect.gen(function* () {
        const run = (others: boolean) =>
          Effect.gen(function* () {
            const made = {
              bulkhead: yield* Bulkhead.make({ maxConcurrent: 1 }),
              circuitBreaker: yield* CircuitBreaker.make({ failures: 2, openFor: "1 second" }),
              retry
            }
            // Copies do all that the originals do, and are not them.
            const { bulkhead, circuitBreaker, retry: again } = made
            const used = others
              ? { bulkhead: { ...bulkhead }, circuitBreaker: { ...circuitBreaker }, retry: { ...again } }
              : made
            const options = { ...used, timeout: 100 }
            const policy = order === "make" ? Policy.make(options) : Policy.makeFacade(options)
            const seen: Array<unknown> = []
            for (const attempt of [1, 2, 3, 4]) {
              const { call, calls } = succeedsAt(attempt)
              const fiber = yield* Effect.forkChild(Effect.exit(policy.execute(Effect.delay(call, attempt * 30))))
              yield* TestClock.adjust("1 minute")
              const exit = yield* Fiber.join(fiber)
              seen.push([calls.count, Exit.isSuccess(exit) ? exit.value : exit.cause.reasons.map(String)])
              seen.push(yield* circuitBreaker.state("default"), yield* bulkhead.statistics)
            }
            return seen
          })
        const [own, theirs] = [yield* run(false), yield* run(true)]
        assert.isAbove(new Set(own.map((one) => JSON.stringify(one))).size, 6)
        assert.deepStrictEqual(theirs, own)
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
        const circuitBreaker = yield* CircuitBreaker.make({ failures: 1, openFor: 1, successesToClose: 1_000_000 })
        const { rateLimiter } = yield* parts
        yield* Effect.exit(new Unavailable().pipe(circuitBreaker.execute({ key: "default" })))
        yield* TestClock.adjust(1)
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        )
        const policy = Policy.make({ deadline: 500, bulkhead, retry, circuitBreaker, rateLimiter, timeout: 100 })
        const operations = yield* interruptEverywhere(
          policy.execute(call),
          Effect.gen(function* () {
            assert.strictEqual(running, 0)
            assert.strictEqual((yield* bulkhead.state).running, 0)
            assert.strictEqual((yield* rateLimiter.state).waiting, 0)
            const state = yield* circuitBreaker.state("default")
            assert.isFalse(state._tag === "HalfOpen" && state.probing)
          })
        )
        assert.isAbove(operations, 10)
      })
    )
  })

  describe("with a hedge", () => {
    it.effect("gives the second attempt a token, a timeout and a place in the circuit's count of its own", () =>
      Effect.gen(function* () {
        const { circuitBreaker, rateLimiter } = yield* parts
        const hedge = yield* Hedge.make({ delay: 60 })
        const policy = Policy.make({ retry, hedge, circuitBreaker, rateLimiter, timeout: 100 })
        // Both attempts of the call time out, the first at 100 and the second at 160, and that three times.
        assert.deepStrictEqual(yield* timed(Effect.never.pipe(policy.execute)), ["TimedOut", 3 * 160 + 20])
        assert.strictEqual((yield* circuitBreaker.state("default")).failures, 6)
        assert.strictEqual((yield* hedge.state).hedges, 3)
      })
    )

    it.effect("makes no second attempt at an open circuit, and ends the retries there", () =>
      Effect.gen(function* () {
        const circuitBreaker = yield* CircuitBreaker.make({ failures: 1, openFor: "1 day" })
        const hedge = yield* Hedge.make({ delay: 60 })
        const policy = Policy.make({ retry, hedge, circuitBreaker })
        const { call, calls } = succeedsAt(3)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["CircuitOpen", 10])
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["CircuitOpen", 0])
        assert.strictEqual(calls.count, 1)
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const { bulkhead, circuitBreaker, rateLimiter } = yield* parts
        const budget = yield* RetryBudget.make({ share: 100, minPerSecond: 1000 })
        const hedge = yield* Hedge.make({ delay: "Infinity", maxHedges: 2, budget })
        let running = 0
        const attempt = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.andThen(Effect.yieldNow, new Unavailable()),
          () => Effect.sync(() => running--)
        )
        const policy = Policy.make({
          fallback: Fallback.value("usual"),
          deadline: 500,
          bulkhead,
          hedge,
          circuitBreaker,
          rateLimiter,
          timeout: 100
        })
        const operations = yield* interruptEverywhere(
          policy.execute(attempt),
          Effect.gen(function* () {
            assert.strictEqual(running, 0)
            assert.strictEqual((yield* bulkhead.state).running, 0)
            assert.strictEqual((yield* rateLimiter.state).waiting, 0)
          })
        )
        assert.isAbove(operations, 30)
      })
    )
  })

  describe("with a fallback", () => {
    it.effect("answers when the retries have ended, also in place of the refusals of its parts", () =>
      Effect.gen(function* () {
        const circuitBreaker = yield* CircuitBreaker.make({ failures: 3, openFor: "1 day" })
        const told: Array<string> = []
        const fallback = Fallback.value("usual", {
          errors: Fallback.tags("Unavailable", "CircuitOpen"),
          onFallback: ({ error }) => Effect.sync(() => told.push(error._tag))
        })
        const policy = Policy.make({ fallback, retry, circuitBreaker })
        const { call, calls } = succeedsAt(9)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["usual", 20])
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["usual", 0])
        assert.deepStrictEqual(told, ["Unavailable", "CircuitOpen"])
        assert.strictEqual(calls.count, 3)
        const died = Effect.die("bug").pipe(Policy.make({ fallback, retry }).execute)
        assert.deepStrictEqual(yield* Effect.exit(died), Exit.die("bug"))
      })
    )

    it.effect("keeps nothing of its answers in the cache", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<string, string, Unavailable>({ capacity: 10, timeToLive: "1 minute" })
        const policy = Policy.make({ fallback: Fallback.value("usual"), cache })
        const { call } = succeedsAt(2)
        const through = call.pipe(policy.execute({ key: "a" }))
        assert.strictEqual(yield* through, "usual")
        assert.strictEqual((yield* cache.statistics).size, 0)
        assert.strictEqual(yield* through, "ok")
        assert.strictEqual((yield* cache.statistics).size, 1)
      })
    )
  })

  describe("an open circuit", () => {
    // Opens at the second failure, for a second.
    const opening = CircuitBreaker.make({ failures: 2, openFor: "1 second", successesToClose: 1 })

    it.effect("ends the retries of a call without a deadline", () =>
      Effect.gen(function* () {
        const policy = Policy.make({ retry, circuitBreaker: yield* opening })
        const { call, calls } = succeedsAt(3)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["CircuitOpen", 20])
        assert.strictEqual(calls.count, 2)
      })
    )

    it.effect("ends the retries when it stays open past the deadline", () =>
      Effect.gen(function* () {
        const policy = Policy.make({ deadline: 1010, retry, circuitBreaker: yield* opening })
        const { call, calls } = succeedsAt(3)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["CircuitOpen", 20])
        assert.strictEqual(calls.count, 2)
      })
    )

    it.effect("is waited for when it ends before the deadline", () =>
      Effect.gen(function* () {
        const three = Retry.make({ schedule: Retry.delays([10, 10, 10]) })
        const policy = Policy.make({ deadline: 1100, retry: three, circuitBreaker: yield* opening })
        const { call, calls } = succeedsAt(3)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["ok", 1010])
        assert.strictEqual(calls.count, 3)
      })
    )

    it.effect("is waited for under a deadline of the surroundings as well", () =>
      Effect.gen(function* () {
        const three = Retry.make({ schedule: Retry.delays([10, 10, 10]) })
        const policy = Policy.make({ retry: three, circuitBreaker: yield* opening })
        const { call } = succeedsAt(3)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute, Deadline.within(1100))), ["ok", 1010])
      })
    )

    it.effect("does not touch retries that are on their way to a success", () =>
      Effect.gen(function* () {
        const { circuitBreaker } = yield* parts
        const policy = Policy.make({ retry, circuitBreaker })
        const { call, calls } = succeedsAt(3)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute)), ["ok", 20])
        assert.strictEqual(calls.count, 3)
        assert.strictEqual(yield* policy.execute(Effect.undefined), undefined)
      })
    )
  })

  describe("with a cache", () => {
    const caching = Effect.gen(function* () {
      const { bulkhead, circuitBreaker, rateLimiter } = yield* parts
      const cache = yield* Cache.make<string, string, Unavailable | Policy.AnyError>({
        capacity: 10,
        timeToLive: "1 minute"
      })
      const options = {
        cache,
        deadline: "1 second",
        bulkhead,
        retry,
        circuitBreaker,
        rateLimiter,
        timeout: 100
      } as const
      return { policy: Policy.make(options), cache, rateLimiter }
    })

    it.effect("answers a kept key without a token, an attempt or a place", () =>
      Effect.gen(function* () {
        const { policy, rateLimiter } = yield* caching
        const { call, calls } = succeedsAt(1)
        for (let time = 0; time < 5; time++) assert.strictEqual(yield* call.pipe(policy.execute({ key: "a" })), "ok")
        assert.strictEqual(calls.count, 1)
        assert.strictEqual((yield* rateLimiter.state).tokens, 99)
        yield* call.pipe(policy.execute({ key: "b" }))
        assert.strictEqual(calls.count, 2)
      })
    )

    it.effect("shares one run, retries and all, between concurrent calls of a key", () =>
      Effect.gen(function* () {
        const { policy } = yield* caching
        const { call, calls } = succeedsAt(3)
        const fiber = yield* Effect.forkChild(
          Effect.forEach(Array.from({ length: 100 }), () => call.pipe(policy.execute({ key: "a" })), {
            concurrency: "unbounded"
          })
        )
        yield* TestClock.adjust(20)
        assert.deepStrictEqual(yield* Fiber.join(fiber), Array(100).fill("ok"))
        assert.strictEqual(calls.count, 3)
      })
    )

    it.effect("takes the options of a call: past the cache, but not past the limits", () =>
      Effect.gen(function* () {
        const { cache, policy, rateLimiter } = yield* caching
        const { call, calls } = succeedsAt(1)
        for (let time = 0; time < 2; time++) yield* call.pipe(policy.execute({ key: "a", skipCache: true }))
        assert.strictEqual(calls.count, 2)
        assert.strictEqual((yield* rateLimiter.state).tokens, 98)
        yield* call.pipe(policy.execute({ key: "a", timeToLive: 10 }))
        assert.isTrue(Option.isSome(yield* cache.getIfPresent("a")))
        yield* TestClock.adjust(10)
        assert.isTrue(Option.isNone(yield* cache.getIfPresent("a")))
      })
    )

    it.effect("refreshes a stale value under the limits, behind the back of the caller", () =>
      Effect.gen(function* () {
        const { bulkhead, rateLimiter } = yield* parts
        const cache = yield* Cache.make<string, string, Unavailable | Policy.AnyError>({
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 1000 }
        })
        const policy = Policy.make({ cache, bulkhead, rateLimiter, timeout: 100 })
        const { call, calls } = succeedsAt(1)
        yield* call.pipe(policy.execute({ key: "a" }))
        yield* TestClock.adjust(100)
        const hanging = Effect.never.pipe(policy.execute({ key: "a" }))
        assert.strictEqual(yield* hanging, "ok")
        yield* TestClock.adjust(0)
        assert.strictEqual((yield* bulkhead.state).running, 1)
        yield* TestClock.adjust(100)
        assert.strictEqual((yield* bulkhead.state).running, 0)
        assert.deepInclude(yield* cache.statistics, { refreshes: 1, refreshFailures: 1, stale: 1 })
        assert.strictEqual(calls.count, 1)
      })
    )

    it.effect("keeps no failure", () =>
      Effect.gen(function* () {
        const { policy } = yield* caching
        const { call } = succeedsAt(4)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute({ key: "a" }))), ["Unavailable", 20])
        assert.strictEqual(yield* call.pipe(policy.execute({ key: "a" })), "ok")
      })
    )

    it.effect("applies the deadline to the shared run, and tells it from a timeout", () =>
      Effect.gen(function* () {
        const { policy } = yield* caching
        const attempts: Array<Duration.Duration | undefined> = []
        const call = Effect.andThen(
          Effect.flatMap(Deadline.remaining, (left) => Effect.sync(() => attempts.push(left))),
          Effect.never
        )
        const ended = yield* timed(call.pipe(policy.execute({ key: "a" })))
        assert.deepStrictEqual(ended, ["TimedOut", 320])
        assert.deepStrictEqual(
          attempts.map((left) => left && Duration.toMillis(left)),
          [1000, 890, 780]
        )
      })
    )
  })
})
