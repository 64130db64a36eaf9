import { assert, describe, it } from "@effect/vitest"
import { Clock, Data, Effect, Exit, Fiber, Option, Random, Result, type Scope } from "effect"
import {
  AdaptiveLimit,
  AdaptiveThrottle,
  AdaptiveTimeout,
  Bulkhead,
  Cache,
  Chaos,
  CircuitBreaker,
  Deadline,
  Fallback,
  Hedge,
  KeyedRateLimiter,
  LoadShed,
  Policy,
  Profile,
  Providers,
  RateLimiter,
  ResilienceFacade,
  Retry,
  SingleFlight,
  Timeout
} from "effect-resilience"
import { TestClock } from "effect/testing"

class Failed extends Data.TaggedError("Failed")<{}> {}

type Wrap = <E>(self: Effect.Effect<string, E>) => Effect.Effect<string, unknown>

// One of each, with numbers small enough that every one of them matters.
const values = Effect.all({
  bulkhead: Bulkhead.make({ maxConcurrent: 1, maxQueued: 1 }),
  circuitBreaker: CircuitBreaker.make({ failures: 2, openFor: "10 seconds" }),
  rateLimiter: RateLimiter.make({ capacity: 2, refillPerSecond: 0.1, maxWait: 0 }),
  keyedLimiter: KeyedRateLimiter.make({ algorithm: "sliding-window", limit: 2, window: "10 seconds" }),
  hedge: Hedge.make({ delay: 50 }),
  cache: Cache.make<string, string, unknown>({ capacity: 1, timeToLive: "1 minute" }),
  flight: SingleFlight.make<string, string, unknown>()
})
const retry = Retry.make({ schedule: Retry.delays([10, 10]) })
const fallback = Fallback.value("usual", { errors: Fallback.tags("Failed", "TimedOut") })

const nothing = { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 }

const primitives: Record<string, Effect.Effect<Wrap>> = {
  timeout: Effect.succeed(Timeout.timeout(100)),
  adaptive: Effect.map(AdaptiveTimeout.make({ ceiling: 100, minSamples: 1 }), ({ execute }) => execute),
  deadline: Effect.succeed(Deadline.within(150)),
  breaker: Effect.map(
    values,
    ({ circuitBreaker }) =>
      (self) =>
        circuitBreaker.execute({ key: "key" })(self)
  ),
  bulkhead: Effect.map(values, ({ bulkhead }) => bulkhead.execute),
  limit: Effect.map(
    AdaptiveLimit.make({ algorithm: "aimd", initialLimit: 2, maxLimit: 2, minCalls: 1 }),
    ({ execute }) => execute
  ),
  // Refuses whatever comes while a call runs.
  shed: Effect.gen(function* () {
    const places = yield* Bulkhead.make({ maxConcurrent: 10 })
    const shed = yield* LoadShed.make({
      signals: { places: LoadShed.utilisation(places.state) },
      thresholds: { normal: { from: 0, to: 0 } },
      interval: 0
    })
    return (self) => Effect.provideService(shed.execute(places.execute(self)), Random.Random, nothing)
  }),
  // Refuses whatever it can refuse.
  throttle: Effect.map(
    AdaptiveThrottle.make(),
    ({ execute }) =>
      (self) =>
        Effect.provideService(execute(self), Random.Random, nothing)
  ),
  limiter: Effect.map(values, ({ rateLimiter }) => rateLimiter.execute),
  keyed: Effect.map(
    values,
    ({ keyedLimiter }) =>
      (self) =>
        keyedLimiter.execute({ key: "key" })(self)
  ),
  retry: Effect.succeed(retry.execute),
  hedge: Effect.map(values, ({ hedge }) => hedge.execute),
  fallback: Effect.succeed((self) => fallback.execute(self)),
  cache: Effect.map(
    values,
    ({ cache }) =>
      (self) =>
        cache.execute({ key: "key" })(self)
  ),
  flight: Effect.map(
    values,
    ({ flight }) =>
      (self) =>
        flight.execute({ key: "key" })(self)
  ),
  chaos: Effect.map(Chaos.make({ faults: [{ kind: "latency", delay: 30 }] }), ({ execute }) => execute({ key: "key" }))
}

// Runs the calls that a scenario makes, to their end in virtual time. Tells how each ended, after how many milliseconds,
// and how often the operation was started in all.
const observe = Effect.fnUntraced(function* (
  wrap: Wrap,
  operation: Effect.Effect<string, Failed>,
  calls: number,
  concurrency: number | "unbounded"
) {
  let executions = 0
  const call = wrap(
    Effect.andThen(
      Effect.sync(() => executions++),
      operation
    )
  )
  const one = Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    const result = yield* Effect.result(call)
    const end = yield* Clock.currentTimeMillis
    return `${Result.isSuccess(result) ? result.success : wordFor(result.failure)}@${end - start}`
  })
  const fiber = yield* Effect.forkChild(Effect.forEach(Array.from({ length: calls }), () => one, { concurrency }))
  yield* TestClock.adjust("1 hour")
  return `${(yield* Fiber.join(fiber)).join(" ")} · ${executions}`
})

const wordFor = (error: unknown) =>
  typeof error === "object" && error !== null && "_tag" in error ? words[String(error._tag)] : String(error)

const scenarios = {
  // Three calls, one after the other, of an operation that fails at once.
  failing: (wrap: Wrap) => observe(wrap, new Failed(), 3, 1),
  // The same of an operation that takes long.
  slow: (wrap: Wrap) => observe(wrap, Effect.as(Effect.sleep(400), "ok"), 3, 1),
  // Three calls at once, of an operation that takes 60 ms.
  crowd: (wrap: Wrap) => observe(wrap, Effect.as(Effect.sleep(60), "ok"), 3, "unbounded")
}

const profile = Profile.make({
  order: "facade",
  cache: { capacity: 1, timeToLive: "1 minute" },
  circuitBreaker: { failures: 2, openFor: "10 seconds" },
  bulkhead: { maxConcurrent: 1, maxQueued: 1 },
  timeout: 100,
  retry: { schedule: "delays", delays: [10, 10] }
})

const policies: Record<string, Effect.Effect<Wrap, unknown, Scope.Scope>> = {
  policy: Effect.gen(function* () {
    const { bulkhead, circuitBreaker, rateLimiter } = yield* values
    return Policy.make({ deadline: 150, bulkhead, retry, circuitBreaker, rateLimiter, timeout: 100 }).execute
  }),
  "cached policy": Effect.gen(function* () {
    const { bulkhead, cache, circuitBreaker, rateLimiter } = yield* values
    const parts = { cache, deadline: 150, bulkhead, retry, circuitBreaker, rateLimiter, timeout: 100 }
    return (self) => Policy.make(parts).execute({ key: "key" })(self)
  }),
  "policy with fallback and hedge": Effect.gen(function* () {
    const { bulkhead, circuitBreaker, hedge, rateLimiter } = yield* values
    return Policy.make({ fallback, bulkhead, retry, hedge, circuitBreaker, rateLimiter, timeout: 100 }).execute
  }),
  "policy without deadline": Effect.gen(function* () {
    const { bulkhead, circuitBreaker, rateLimiter } = yield* values
    return Policy.make({ bulkhead, retry, circuitBreaker, rateLimiter, timeout: 100 }).execute
  }),
  "policy with throttle and adaptive timeout": Effect.gen(function* () {
    const adaptiveThrottle = yield* AdaptiveThrottle.make()
    const timeout = yield* AdaptiveTimeout.make({ ceiling: 100, minSamples: 1 })
    const policy = Policy.make({ deadline: 250, retry, adaptiveThrottle, timeout })
    return (self) => Effect.provideService(policy.execute(self), Random.Random, nothing)
  }),
  facade: Effect.gen(function* () {
    const { bulkhead, circuitBreaker } = yield* values
    return Policy.makeFacade({ circuitBreaker, bulkhead, timeout: 100, retry }).execute
  }),
  "facade with fallback": Effect.gen(function* () {
    const { bulkhead, circuitBreaker } = yield* values
    return Policy.makeFacade({ fallback, circuitBreaker, bulkhead, timeout: 100, retry }).execute
  }),
  "cached facade": Effect.gen(function* () {
    const { bulkhead, cache, circuitBreaker } = yield* values
    return (self) =>
      Policy.makeFacade({ cache, circuitBreaker, bulkhead, timeout: 100, retry }).execute({ key: "key" })(self)
  }),
  // The same numbers as data.
  "facade of a profile": Effect.gen(function* () {
    const { execute } = yield* ResilienceFacade.make(profile)
    return (self) => execute("key", self)
  }),
  provider: Effect.gen(function* () {
    const providers = yield* Providers.make({ profiles: { name: profile } })
    return (yield* providers.get("name")).execute({ key: "key" })
  }),
  "facade with deadline, hedge and limiter": Effect.gen(function* () {
    const { bulkhead, circuitBreaker, hedge, rateLimiter } = yield* values
    return Policy.makeFacade({ deadline: 150, circuitBreaker, bulkhead, retry, hedge, rateLimiter }).execute
  })
}

// Both orders, one part at a time beside the retry.
const presets: Record<string, typeof Policy.make> = { make: Policy.make, facade: Policy.makeFacade }
for (const [order, make] of Object.entries(presets)) {
  const partOf: Record<string, Effect.Effect<Wrap>> = {
    deadline: Effect.succeed(make({ deadline: 150 }).execute),
    breaker: Effect.map(values, ({ circuitBreaker }) => make({ circuitBreaker, retry }).execute),
    bulkhead: Effect.map(values, ({ bulkhead }) => make({ bulkhead, retry }).execute),
    timeout: Effect.succeed(make({ timeout: 100, retry }).execute),
    adaptive: Effect.map(
      AdaptiveTimeout.make({ ceiling: 100, minSamples: 1 }),
      (timeout) => make({ timeout, retry }).execute
    ),
    limiter: Effect.map(values, ({ rateLimiter }) => make({ rateLimiter, retry }).execute),
    throttle: Effect.map(AdaptiveThrottle.make(), (adaptiveThrottle) => {
      const policy = make({ adaptiveThrottle, timeout: 100, retry })
      return (self) => Effect.provideService(policy.execute(self), Random.Random, nothing)
    }),
    hedge: Effect.map(values, ({ hedge }) => make({ hedge, retry, timeout: 100 }).execute),
    fallback: Effect.succeed(make({ fallback, retry, timeout: 100 }).execute),
    cache: Effect.map(
      values,
      ({ cache }) =>
        (self) =>
          make({ cache, retry, timeout: 100 }).execute({ key: "key" })(self)
    )
  }
  for (const [part, wrap] of Object.entries(partOf)) policies[`${order}: ${part}`] = wrap
}

// Per scenario, in the order failing | slow | crowd: how each call ended @ after how many milliseconds · how often the
// operation was started in all.
const table = `
  timeout > adaptive             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  timeout > deadline             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  timeout > breaker              | fail@0 fail@0 Open@0 · 2                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  timeout > bulkhead             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 Timeout@100 Full@0 · 2
  timeout > limit                | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 Reached@0 · 2
  timeout > shed                 | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 Overload@0 Overload@0 · 1
  timeout > throttle             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  timeout > limiter              | fail@0 fail@0 Limited@0 · 2               | Timeout@100 Timeout@100 Limited@0 · 2      | ok@60 ok@60 Limited@0 · 2
  timeout > keyed                | fail@0 fail@0 Timeout@100 · 2             | Timeout@100 Timeout@100 Timeout@100 · 2    | ok@60 ok@60 Timeout@100 · 2
  timeout > retry                | fail@20 fail@20 fail@20 · 9               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  timeout > hedge                | fail@0 fail@0 fail@0 · 6                  | Timeout@100 Timeout@100 Timeout@100 · 6    | ok@60 ok@60 ok@60 · 6
  timeout > fallback             | usual@0 usual@0 usual@0 · 3               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  timeout > cache                | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  timeout > flight               | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  timeout > chaos                | fail@30 fail@30 fail@30 · 3               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@90 ok@90 ok@90 · 3
  adaptive > timeout             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  adaptive > deadline            | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  adaptive > breaker             | fail@0 fail@0 Open@0 · 2                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  adaptive > bulkhead            | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 Timeout@100 Full@0 · 2
  adaptive > limit               | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 Reached@0 · 2
  adaptive > shed                | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 Overload@0 Overload@0 · 1
  adaptive > throttle            | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  adaptive > limiter             | fail@0 fail@0 Limited@0 · 2               | Timeout@100 Timeout@100 Limited@0 · 2      | ok@60 ok@60 Limited@0 · 2
  adaptive > keyed               | fail@0 fail@0 Timeout@100 · 2             | Timeout@100 Timeout@100 Timeout@100 · 2    | ok@60 ok@60 Timeout@100 · 2
  adaptive > retry               | fail@20 fail@20 fail@20 · 9               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  adaptive > hedge               | fail@0 fail@0 fail@0 · 6                  | Timeout@100 Timeout@100 Timeout@100 · 6    | ok@60 ok@60 ok@60 · 6
  adaptive > fallback            | usual@0 usual@0 usual@0 · 3               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  adaptive > cache               | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  adaptive > flight              | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  adaptive > chaos               | fail@30 fail@30 fail@30 · 3               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@90 ok@90 ok@90 · 3
  deadline > timeout             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  deadline > adaptive            | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  deadline > breaker             | fail@0 fail@0 Open@0 · 2                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 3
  deadline > bulkhead            | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@120 Full@0 · 2
  deadline > limit               | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 Reached@0 · 2
  deadline > shed                | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 Overload@0 Overload@0 · 1
  deadline > throttle            | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Throttled@0 Throttled@0 · 1   | ok@60 ok@60 ok@60 · 3
  deadline > limiter             | fail@0 fail@0 Limited@0 · 2               | Deadline@150 Deadline@150 Limited@0 · 2    | ok@60 ok@60 Limited@0 · 2
  deadline > keyed               | fail@0 fail@0 Limited@0 · 2               | Deadline@150 Deadline@150 Limited@0 · 2    | ok@60 ok@60 Limited@0 · 2
  deadline > retry               | fail@20 fail@20 fail@20 · 9               | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 3
  deadline > hedge               | fail@0 fail@0 fail@0 · 6                  | Deadline@150 Deadline@150 Deadline@150 · 6 | ok@60 ok@60 ok@60 · 6
  deadline > fallback            | usual@0 usual@0 usual@0 · 3               | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 3
  deadline > cache               | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 1
  deadline > flight              | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 1
  deadline > chaos               | fail@30 fail@30 fail@30 · 3               | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@90 ok@90 ok@90 · 3
  breaker > timeout              | fail@0 fail@0 Open@0 · 2                  | Timeout@100 Timeout@100 Open@0 · 2         | ok@60 ok@60 ok@60 · 3
  breaker > adaptive             | fail@0 fail@0 Open@0 · 2                  | Timeout@100 Timeout@100 Open@0 · 2         | ok@60 ok@60 ok@60 · 3
  breaker > deadline             | fail@0 fail@0 Open@0 · 2                  | Deadline@150 Deadline@150 Open@0 · 2       | ok@60 ok@60 ok@60 · 3
  breaker > bulkhead             | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  breaker > limit                | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  breaker > shed                 | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  breaker > throttle             | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  breaker > limiter              | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  breaker > keyed                | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  breaker > retry                | fail@20 fail@20 Open@0 · 6                | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  breaker > hedge                | fail@0 fail@0 Open@0 · 4                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  breaker > fallback             | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  breaker > cache                | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  breaker > flight               | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  breaker > chaos                | fail@30 fail@30 Open@0 · 2                | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  bulkhead > timeout             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@120 Full@0 · 2
  bulkhead > adaptive            | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@120 Full@0 · 2
  bulkhead > deadline            | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@120 Full@0 · 2
  bulkhead > breaker             | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > limit               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > shed                | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > throttle            | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > limiter             | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@120 Full@0 · 2
  bulkhead > keyed               | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@120 Full@0 · 2
  bulkhead > retry               | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > hedge               | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@120 Full@0 · 4
  bulkhead > fallback            | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > cache               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 Full@0 · 1
  bulkhead > flight              | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  bulkhead > chaos               | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@180 Full@0 · 2
  limit > timeout                | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 Reached@0 · 2
  limit > adaptive               | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 Reached@0 · 2
  limit > deadline               | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 Reached@0 · 2
  limit > breaker                | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  limit > bulkhead               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Reached@0 · 2
  limit > shed                   | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  limit > throttle               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  limit > limiter                | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Reached@0 · 2
  limit > keyed                  | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 Reached@0 · 2
  limit > retry                  | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  limit > hedge                  | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 Reached@0 · 4
  limit > fallback               | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  limit > cache                  | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 Reached@0 · 1
  limit > flight                 | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 1
  limit > chaos                  | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 Reached@0 · 2
  shed > timeout                 | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 Overload@0 Overload@0 · 1
  shed > adaptive                | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 Overload@0 Overload@0 · 1
  shed > deadline                | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 Overload@0 Overload@0 · 1
  shed > breaker                 | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > bulkhead                | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > limit                   | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > throttle                | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > limiter                 | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 Overload@0 Overload@0 · 1
  shed > keyed                   | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 Overload@0 Overload@0 · 1
  shed > retry                   | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > hedge                   | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 Overload@0 Overload@0 · 2
  shed > fallback                | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > cache                   | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 Overload@0 Overload@0 · 1
  shed > flight                  | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  shed > chaos                   | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 Overload@0 Overload@0 · 1
  throttle > timeout             | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Throttled@0 Throttled@0 · 1    | ok@60 ok@60 ok@60 · 3
  throttle > adaptive            | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Throttled@0 Throttled@0 · 1    | ok@60 ok@60 ok@60 · 3
  throttle > deadline            | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Throttled@0 Throttled@0 · 1   | ok@60 ok@60 ok@60 · 3
  throttle > breaker             | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  throttle > bulkhead            | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  throttle > limit               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  throttle > shed                | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  throttle > limiter             | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  throttle > keyed               | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  throttle > retry               | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  throttle > hedge               | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  throttle > fallback            | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  throttle > cache               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  throttle > flight              | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  throttle > chaos               | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  limiter > timeout              | fail@0 fail@0 Limited@0 · 2               | Timeout@100 Timeout@100 Limited@0 · 2      | ok@60 ok@60 Limited@0 · 2
  limiter > keyed                | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  limiter > adaptive             | fail@0 fail@0 Limited@0 · 2               | Timeout@100 Timeout@100 Limited@0 · 2      | ok@60 ok@60 Limited@0 · 2
  limiter > deadline             | fail@0 fail@0 Limited@0 · 2               | Deadline@150 Deadline@150 Limited@0 · 2    | ok@60 ok@60 Limited@0 · 2
  limiter > breaker              | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  limiter > bulkhead             | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@120 Limited@0 · 2
  limiter > limit                | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  limiter > shed                 | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 Overload@0 Limited@0 · 1
  limiter > throttle             | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  limiter > retry                | fail@20 fail@20 Limited@0 · 6             | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  limiter > hedge                | fail@0 fail@0 Limited@0 · 4               | ok@400 ok@400 Limited@0 · 4                | ok@60 ok@60 Limited@0 · 4
  limiter > fallback             | usual@0 usual@0 Limited@0 · 2             | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  limiter > cache                | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@0 Limited@0 · 1                  | ok@60 ok@60 Limited@0 · 1
  limiter > flight               | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 1
  limiter > chaos                | fail@30 fail@30 Limited@0 · 2             | ok@430 ok@430 Limited@0 · 2                | ok@90 ok@90 Limited@0 · 2
  keyed > timeout                | fail@0 fail@0 fail@10000 · 3              | Timeout@100 Timeout@100 Timeout@9900 · 3   | ok@60 ok@60 ok@10060 · 3
  keyed > adaptive               | fail@0 fail@0 fail@10000 · 3              | Timeout@100 Timeout@100 Timeout@9900 · 3   | ok@60 ok@60 ok@10060 · 3
  keyed > deadline               | fail@0 fail@0 fail@10000 · 3              | Deadline@150 Deadline@150 Deadline@9850 · 3 | ok@60 ok@60 ok@10060 · 3
  keyed > breaker                | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  keyed > bulkhead               | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@120 ok@10060 · 3
  keyed > limit                  | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  keyed > shed                   | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 Overload@0 ok@10060 · 2
  keyed > throttle               | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  keyed > limiter                | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  keyed > retry                  | fail@20 fail@20 fail@9980 · 9             | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  keyed > hedge                  | fail@0 fail@0 fail@10000 · 6              | ok@400 ok@400 ok@9600 · 6                  | ok@60 ok@60 ok@10060 · 6
  keyed > fallback               | usual@0 usual@0 usual@10000 · 3           | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  keyed > cache                  | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@0 ok@9600 · 1                    | ok@60 ok@60 ok@10000 · 1
  keyed > flight                 | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 2
  keyed > chaos                  | fail@30 fail@30 fail@9970 · 3             | ok@430 ok@430 ok@9570 · 3                  | ok@90 ok@90 ok@10090 · 3
  retry > timeout                | fail@20 fail@20 fail@20 · 9               | Timeout@320 Timeout@320 Timeout@320 · 9    | ok@60 ok@60 ok@60 · 3
  retry > adaptive               | fail@20 fail@20 fail@20 · 9               | Timeout@320 Timeout@320 Timeout@320 · 9    | ok@60 ok@60 ok@60 · 3
  retry > deadline               | fail@20 fail@20 fail@20 · 9               | Deadline@470 Deadline@470 Deadline@470 · 9 | ok@60 ok@60 ok@60 · 3
  retry > breaker                | Open@20 Open@10000 Open@10000 · 4         | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  retry > bulkhead               | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@20 · 2
  retry > limit                  | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@20 · 2
  retry > shed                   | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@560 ok@1060 · 3
  retry > throttle               | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  retry > limiter                | Limited@20 Limited@9990 Limited@10000 · 4 | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  retry > keyed                  | fail@10000 fail@10010 fail@19990 · 9      | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  retry > hedge                  | fail@20 fail@20 fail@20 · 18              | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  retry > fallback               | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  retry > cache                  | fail@20 fail@20 fail@20 · 9               | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  retry > flight                 | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  retry > chaos                  | fail@110 fail@110 fail@110 · 9            | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  hedge > timeout                | fail@0 fail@0 fail@0 · 6                  | Timeout@150 Timeout@150 Timeout@150 · 6    | ok@60 ok@60 ok@60 · 6
  hedge > adaptive               | fail@0 fail@0 fail@0 · 6                  | Timeout@150 Timeout@150 Timeout@150 · 6    | ok@60 ok@60 ok@60 · 6
  hedge > deadline               | fail@0 fail@0 fail@0 · 6                  | Deadline@200 Deadline@200 Deadline@200 · 6 | ok@60 ok@60 ok@60 · 6
  hedge > breaker                | fail@0 Open@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  hedge > bulkhead               | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  hedge > limit                  | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 Reached@0 · 2
  hedge > shed                   | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  hedge > throttle               | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  hedge > limiter                | fail@0 Limited@0 Limited@0 · 2            | ok@400 Limited@0 Limited@0 · 2             | ok@60 ok@60 Limited@0 · 2
  hedge > keyed                  | fail@0 fail@10000 fail@10000 · 6          | ok@400 ok@10000 ok@10000 · 6               | ok@60 ok@60 ok@10060 · 4
  hedge > retry                  | fail@40 fail@40 fail@40 · 18              | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  hedge > fallback               | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  hedge > cache                  | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  hedge > flight                 | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  hedge > chaos                  | fail@60 fail@60 fail@60 · 6               | ok@430 ok@430 ok@430 · 6                   | ok@90 ok@90 ok@90 · 6
  fallback > timeout             | usual@0 usual@0 usual@0 · 3               | usual@100 usual@100 usual@100 · 3          | ok@60 ok@60 ok@60 · 3
  fallback > adaptive            | usual@0 usual@0 usual@0 · 3               | usual@100 usual@100 usual@100 · 3          | ok@60 ok@60 ok@60 · 3
  fallback > deadline            | usual@0 usual@0 usual@0 · 3               | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 3
  fallback > breaker             | usual@0 usual@0 Open@0 · 2                | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  fallback > bulkhead            | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  fallback > limit               | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 Reached@0 · 2
  fallback > shed                | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 Overload@0 Overload@0 · 1
  fallback > throttle            | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  fallback > limiter             | usual@0 usual@0 Limited@0 · 2             | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 Limited@0 · 2
  fallback > keyed               | usual@0 usual@0 usual@10000 · 3           | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  fallback > retry               | usual@20 usual@20 usual@20 · 9            | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  fallback > hedge               | usual@0 usual@0 usual@0 · 6               | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 6
  fallback > cache               | usual@0 usual@0 usual@0 · 3               | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  fallback > flight              | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  fallback > chaos               | usual@30 usual@30 usual@30 · 3            | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  cache > timeout                | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  cache > adaptive               | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  cache > deadline               | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 1
  cache > breaker                | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > bulkhead               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > limit                  | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > shed                   | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > throttle               | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > limiter                | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > keyed                  | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > retry                  | fail@20 fail@20 fail@20 · 9               | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > hedge                  | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@0 ok@0 · 2                       | ok@60 ok@60 ok@60 · 2
  cache > fallback               | usual@0 usual@0 usual@0 · 1               | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > flight                 | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  cache > chaos                  | fail@30 fail@30 fail@30 · 3               | ok@430 ok@0 ok@0 · 1                       | ok@90 ok@90 ok@90 · 1
  flight > timeout               | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  flight > adaptive              | fail@0 fail@0 fail@0 · 3                  | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
  flight > deadline              | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 1
  flight > breaker               | fail@0 fail@0 Open@0 · 2                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > bulkhead              | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > limit                 | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > shed                  | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > throttle              | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > limiter               | fail@0 fail@0 Limited@0 · 2               | ok@400 ok@400 Limited@0 · 2                | ok@60 ok@60 ok@60 · 1
  flight > keyed                 | fail@0 fail@0 fail@10000 · 3              | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@60 · 1
  flight > retry                 | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > hedge                 | fail@0 fail@0 fail@0 · 6                  | ok@400 ok@400 ok@400 · 6                   | ok@60 ok@60 ok@60 · 2
  flight > fallback              | usual@0 usual@0 usual@0 · 3               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 1
  flight > cache                 | fail@0 fail@0 fail@0 · 3                  | ok@400 ok@0 ok@0 · 1                       | ok@60 ok@60 ok@60 · 1
  flight > chaos                 | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 1
  chaos > timeout                | fail@30 fail@30 fail@30 · 3               | Timeout@130 Timeout@130 Timeout@130 · 3    | ok@90 ok@90 ok@90 · 3
  chaos > adaptive               | fail@30 fail@30 fail@30 · 3               | Timeout@130 Timeout@130 Timeout@130 · 3    | ok@90 ok@90 ok@90 · 3
  chaos > deadline               | fail@30 fail@30 fail@30 · 3               | Deadline@180 Deadline@180 Deadline@180 · 3 | ok@90 ok@90 ok@90 · 3
  chaos > breaker                | fail@30 fail@30 Open@30 · 2               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  chaos > bulkhead               | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@150 Full@30 · 2
  chaos > limit                  | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 Reached@30 · 2
  chaos > shed                   | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 Overload@30 Overload@30 · 1
  chaos > throttle               | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  chaos > limiter                | fail@30 fail@30 Limited@30 · 2            | ok@430 ok@430 Limited@30 · 2               | ok@90 ok@90 Limited@30 · 2
  chaos > keyed                  | fail@30 fail@30 fail@9970 · 3             | ok@430 ok@430 ok@9570 · 3                  | ok@90 ok@90 ok@10090 · 3
  chaos > retry                  | fail@50 fail@50 fail@50 · 9               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  chaos > hedge                  | fail@30 fail@30 fail@30 · 6               | ok@430 ok@430 ok@430 · 6                   | ok@90 ok@90 ok@90 · 6
  chaos > fallback               | usual@30 usual@30 usual@30 · 3            | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 3
  chaos > cache                  | fail@30 fail@30 fail@30 · 3               | ok@430 ok@30 ok@30 · 1                     | ok@90 ok@90 ok@90 · 1
  chaos > flight                 | fail@30 fail@30 fail@30 · 3               | ok@430 ok@430 ok@430 · 3                   | ok@90 ok@90 ok@90 · 1
  policy                         | Open@20 Open@0 Open@0 · 2                 | Deadline@150 Limited@0 Limited@0 · 2       | ok@60 ok@120 Full@0 · 2
  cached policy                  | Open@20 Open@0 Open@0 · 2                 | Deadline@150 Limited@0 Limited@0 · 2       | ok@60 ok@60 ok@60 · 1
  policy with fallback and hedge | Open@10 Open@0 Open@0 · 2                 | Open@160 Open@0 Open@0 · 2                 | ok@60 ok@10060 Full@0 · 3
  policy without deadline        | Open@20 Open@0 Open@0 · 2                 | Open@220 Open@0 Open@0 · 2                 | ok@60 ok@120 Full@0 · 2
  policy with throttle and adaptive timeout | fail@20 fail@20 fail@20 · 9               | Throttled@110 Throttled@0 Throttled@0 · 1  | ok@60 ok@60 ok@60 · 3
  facade                         | fail@20 fail@20 Open@0 · 6                | Timeout@100 Timeout@100 Open@0 · 2         | ok@60 ok@120 Full@0 · 2
  facade with fallback           | usual@20 usual@20 Open@0 · 6              | usual@100 usual@100 Open@0 · 2             | ok@60 ok@120 Full@0 · 2
  cached facade                  | fail@20 fail@20 Open@0 · 6                | Timeout@100 Timeout@100 Open@0 · 2         | ok@60 ok@60 ok@60 · 1
  facade of a profile            | fail@20 fail@20 Open@0 · 6                | Timeout@100 Timeout@100 Open@0 · 2         | ok@60 ok@60 ok@60 · 1
  provider                       | fail@20 fail@20 Open@0 · 6                | Timeout@100 Timeout@100 Open@0 · 2         | ok@60 ok@60 ok@60 · 1
  facade with deadline, hedge and limiter | Limited@10 Limited@0 Limited@0 · 2        | Deadline@150 Limited@0 Limited@0 · 2       | ok@60 Limited@60 Full@0 · 2
  make: deadline                 | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 3
  make: breaker                  | Open@20 Open@0 Open@0 · 2                 | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  make: bulkhead                 | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  make: timeout                  | fail@20 fail@20 fail@20 · 9               | Timeout@320 Timeout@320 Timeout@320 · 9    | ok@60 ok@60 ok@60 · 3
  make: adaptive                 | fail@20 fail@20 fail@20 · 9               | Timeout@320 Timeout@320 Timeout@320 · 9    | ok@60 ok@60 ok@60 · 3
  make: limiter                  | Limited@20 Limited@9990 Limited@10000 · 4 | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  make: throttle                 | fail@20 fail@20 fail@20 · 9               | Throttled@1110 Throttled@2000 Throttled@2000 · 1 | ok@60 ok@60 ok@60 · 3
  make: hedge                    | fail@20 fail@20 fail@20 · 18              | Timeout@470 Timeout@470 Timeout@470 · 18   | ok@60 ok@60 ok@60 · 6
  make: fallback                 | usual@20 usual@20 usual@20 · 9            | usual@320 usual@320 usual@320 · 9          | ok@60 ok@60 ok@60 · 3
  make: cache                    | fail@20 fail@20 fail@20 · 9               | Timeout@320 Timeout@320 Timeout@320 · 9    | ok@60 ok@60 ok@60 · 1
  facade: deadline               | fail@0 fail@0 fail@0 · 3                  | Deadline@150 Deadline@150 Deadline@150 · 3 | ok@60 ok@60 ok@60 · 3
  facade: breaker                | fail@20 fail@20 Open@0 · 6                | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@60 ok@60 · 3
  facade: bulkhead               | fail@20 fail@20 fail@20 · 9               | ok@400 ok@400 ok@400 · 3                   | ok@60 ok@120 Full@0 · 2
  facade: timeout                | fail@20 fail@20 fail@20 · 9               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  facade: adaptive               | fail@20 fail@20 fail@20 · 9               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  facade: limiter                | Limited@20 Limited@9990 Limited@10000 · 4 | ok@400 ok@400 ok@9600 · 3                  | ok@60 ok@60 ok@10060 · 3
  facade: throttle               | fail@20 fail@20 fail@20 · 9               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 3
  facade: hedge                  | fail@20 fail@20 fail@20 · 18              | Timeout@100 Timeout@100 Timeout@100 · 6    | ok@60 ok@60 ok@60 · 6
  facade: fallback               | usual@20 usual@20 usual@20 · 9            | usual@100 usual@100 usual@100 · 3          | ok@60 ok@60 ok@60 · 3
  facade: cache                  | fail@20 fail@20 fail@20 · 9               | Timeout@100 Timeout@100 Timeout@100 · 3    | ok@60 ok@60 ok@60 · 1
`

const words: Record<string, string> = {
  Failed: "fail",
  TimedOut: "Timeout",
  DeadlineExceeded: "Deadline",
  CircuitOpen: "Open",
  BulkheadFull: "Full",
  RateLimited: "Limited",
  LimitReached: "Reached",
  Overloaded: "Overload",
  Throttled: "Throttled"
}

const composed = (name: string): Effect.Effect<Wrap, unknown, Scope.Scope> => {
  const policy = policies[name]
  if (policy !== undefined) return policy
  const [outer, inner] = name.split(" > ").map((part) => primitives[part])
  if (outer === undefined || inner === undefined) throw new Error(`no such composition: ${name}`)
  return Effect.map(
    Effect.all([outer, inner]),
    ([outer, inner]) =>
      (self) =>
        outer(inner(self))
  )
}

const rows = table
  .trim()
  .split("\n")
  .map((row) => row.split("|").map((cell) => cell.trim()))

describe("Composition", () => {
  for (const [name = "", failing, slow, crowd] of rows) {
    it.effect(name, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* scenarios.failing(yield* composed(name)), failing)
        assert.strictEqual(yield* scenarios.slow(yield* composed(name)), slow)
        assert.strictEqual(yield* scenarios.crowd(yield* composed(name)), crowd)
      })
    )
  }

  // A policy with one place, under a circuit that is open, about to be probed, or being probed by a call that hangs.
  const behindCircuit = Effect.fnUntraced(function* (
    options: { readonly deadline?: number; readonly retry?: Retry.Retry },
    circuit: "open" | "ready" | "probed"
  ) {
    const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 9 })
    const circuitBreaker = yield* CircuitBreaker.make({ openFor: 100 })
    yield* circuitBreaker.open("default")
    if (circuit !== "open") yield* TestClock.adjust(100)
    const policy = Policy.make({ ...options, bulkhead, circuitBreaker })
    if (circuit === "probed") yield* Effect.forkChild(policy.execute(Effect.never), { startImmediately: true })
    const call = yield* Effect.forkChild(Effect.exit(policy.execute(Effect.succeed("ok"))), { startImmediately: true })
    const at = call.pollUnsafe() === undefined ? "waits" : "ends"
    const { running, waiting } = yield* bulkhead.state
    yield* TestClock.adjust(1000)
    const exit = yield* Fiber.join(call)
    const end = Exit.isSuccess(exit) ? exit.value : wordFor(Option.getOrNull(Exit.findErrorOption(exit)))
    return `${end}, ${at} at once; ${running} in a place, ${waiting} before it`
  })

  for (const [options, circuit, expected] of [
    [{}, "open", "Open, ends at once; 0 in a place, 0 before it"],
    [{}, "ready", "ok, ends at once; 0 in a place, 0 before it"],
    [{}, "probed", "Open, ends at once; 1 in a place, 0 before it"],
    [{ retry }, "open", "Open, ends at once; 0 in a place, 0 before it"],
    [{ retry }, "probed", "Open, ends at once; 1 in a place, 0 before it"],
    [{ deadline: 50 }, "probed", "Open, ends at once; 1 in a place, 0 before it"],
    [{ deadline: 50, retry }, "open", "Open, ends at once; 0 in a place, 0 before it"],
    [{ deadline: 500, retry }, "open", "ok, waits at once; 0 in a place, 0 before it"],
    [{ deadline: 500, retry }, "probed", "Open, waits at once; 1 in a place, 0 before it"]
  ] as const) {
    const parts = Object.keys(options).join(" and ") || "nothing"
    const within = "deadline" in options ? ` of ${options.deadline} ms` : ""
    it.effect(`nobody queues for a refusal: bulkhead, breaker and ${parts}${within}, circuit ${circuit}`, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* behindCircuit(options, circuit), expected)
      })
    )
  }

  it("covers every pair of primitives and every policy", () => {
    const names = Object.keys(primitives)
    const pairs = names.flatMap((outer) =>
      names.filter((inner) => inner !== outer).map((inner) => `${outer} > ${inner}`)
    )
    assert.sameMembers(
      rows.map(([name]) => name),
      [...pairs, ...Object.keys(policies)]
    )
  })
})
