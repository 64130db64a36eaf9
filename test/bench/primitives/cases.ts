/**
 * Every primitive on each of its paths: the toolkit, the libraries it is compared with, and the same built from Effect's
 * own operators. Thresholds are out of reach where a case is about calls that go through.
 */
import * as Cockatiel from "cockatiel"
import { Effect, Exit, Layer, ManagedRuntime, Cache as EffectCache, Option, Schedule, Scope, Semaphore } from "effect"
import {
  Bulkhead,
  Cache,
  CircuitBreaker,
  Deadline,
  Fallback,
  Hedge,
  Policy,
  RateLimiter,
  Retry,
  RetryBudget,
  SingleFlight,
  Timeout
} from "effect-resilience"
import * as EffectBreaker from "effect/persistence/CircuitBreaker"
import * as EffectLimiter from "effect/persistence/RateLimiter"
import { LRUCache } from "lru-cache"
import Opossum from "opossum"
import pLimit from "p-limit"
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible"
import {
  call,
  type Case,
  failingCall,
  failingLookup,
  failingWork,
  failure,
  fiber,
  fiberFails,
  lookup,
  promise,
  promisedCall,
  promisedWork,
  promiseFails,
  value,
  work
} from "./loops.ts"

/** The names of those compared. */
export const ours = "effect-resilience"
export const cockatiel = "cockatiel"
export const effect = "Effect 4.1"
export const opossum = "opossum"
export const limit = "p-limit"
export const lru = "lru-cache"
export const flexible = "rate-limiter-flexible"

const never = 1_000_000_000
const { handleAll } = Cockatiel

const tagged = (tag: string) => (error: unknown) =>
  typeof error === "object" && error !== null && "_tag" in error && error._tag === tag

const runtime = ManagedRuntime.make(
  Layer.mergeAll(
    EffectBreaker.layerStoreMemory(),
    EffectLimiter.layer.pipe(Layer.provide(EffectLimiter.layerStoreMemory))
  )
)

/** A breaker of Effect's own, with its circuits in memory. */
export const effectBreaker = (failures: number) =>
  runtime.runSync(
    EffectBreaker.make({ tripPolicy: EffectBreaker.consecutive(failures), openDuration: "1 hour" }).pipe(
      Effect.provideService(Scope.Scope, Scope.makeUnsafe())
    )
  )

const isOpenByEffect = (error: unknown) => tagged("CircuitOpen")((error as { reason?: unknown }).reason)

const key = { key: "upstream" }

const breakers = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "circuit breaker"
  const breaker = Effect.runSync(CircuitBreaker.make({ failures: never }))
  const open = Effect.runSync(CircuitBreaker.make({ failures: 1, openFor: "1 hour" }))
  await Effect.runPromiseExit(open.execute(key)(failingWork))

  const theirs = (failures: number) =>
    Cockatiel.circuitBreaker(handleAll, {
      halfOpenAfter: 3_600_000,
      breaker: new Cockatiel.ConsecutiveBreaker(failures)
    })
  const theirBreaker = theirs(never)
  const theirOpen = theirs(1)
  await theirOpen.execute(failingCall).catch(() => {})

  const effects = effectBreaker(never)
  const effectsOpen = effectBreaker(1)
  const named = { key: "broken" }
  await runtime.runPromiseExit(effectsOpen.execute(named)(failingWork))

  const options = { timeout: false, errorThresholdPercentage: 100, volumeThreshold: never } as const
  const opossumBreaker = new Opossum(async () => call(), options)
  const opossumFailing = new Opossum(async () => failingCall(), options)
  const opossumOpen = new Opossum(async () => call(), { ...options, resetTimeout: 3_600_000 })
  opossumOpen.open()

  const success = { subject, path: "success" }
  const fails = { subject, path: "failure" }
  const refusal = { subject, path: "refusal", makes: 0 }
  return [
    fiber({ ...success, by: ours }, () => breaker.execute(key)(work)),
    promise({ ...success, by: cockatiel }, () => theirBreaker.execute(call)),
    promise({ ...success, by: opossum }, () => opossumBreaker.fire()),
    fiber({ ...success, by: effect }, () => effects.execute(key)(work)),
    fiberFails({ ...fails, by: ours }, () => breaker.execute(key)(failingWork)),
    promiseFails({ ...fails, by: cockatiel }, () => theirBreaker.execute(failingCall)),
    promiseFails({ ...fails, by: opossum }, () => opossumFailing.fire()),
    fiberFails({ ...fails, by: effect }, () => effects.execute(key)(failingWork)),
    fiberFails({ ...refusal, by: ours, right: tagged("CircuitOpen") }, () => open.execute(key)(work)),
    promiseFails({ ...refusal, by: cockatiel, right: Cockatiel.isBrokenCircuitError }, () => theirOpen.execute(call)),
    promiseFails(
      { ...refusal, by: opossum, right: (error) => (error as { code?: unknown }).code === "EOPENBREAKER" },
      () => opossumOpen.fire()
    ),
    fiberFails({ ...refusal, by: effect, right: isOpenByEffect }, () => effectsOpen.execute(named)(work))
  ]
}

const retries = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "retry"
  const schedule = Retry.exponential({ base: "100 millis" })
  const retry = Retry.make({ schedule })
  const unless = Retry.make({ schedule, while: () => false })
  const budget = Effect.runSync(RetryBudget.make({ share: 0, minPerSecond: 0 }))
  const broke = Retry.make({ schedule, budget })

  const backoff = new Cockatiel.ExponentialBackoff()
  const theirs = Cockatiel.retry(handleAll, { maxAttempts: 3, backoff })
  const theirsUnless = Cockatiel.retry(
    Cockatiel.handleWhen(() => false),
    { maxAttempts: 3, backoff }
  )
  const effects = Schedule.exponential("100 millis")

  const success = { subject, path: "success" }
  const fails = { subject, path: "failure" }
  return [
    fiber({ ...success, by: ours }, () => retry.execute(work)),
    promise({ ...success, by: cockatiel }, () => theirs.execute(call)),
    fiber({ ...success, by: effect }, () => Effect.retry(work, { schedule: effects, times: 3 })),
    fiberFails({ ...fails, by: ours }, () => unless.execute(failingWork)),
    promiseFails({ ...fails, by: cockatiel }, () => theirsUnless.execute(failingCall)),
    fiberFails({ ...fails, by: effect }, () =>
      Effect.retry(failingWork, { schedule: effects, times: 3, while: () => false })
    ),
    fiberFails({ subject, path: "refusal", by: ours }, () => broke.execute(failingWork))
  ]
}

const timeouts = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "timeout"
  const theirs = Cockatiel.timeout(5_000, Cockatiel.TimeoutStrategy.Aggressive)
  const opossumBreaker = new Opossum(promisedCall, { timeout: 5_000, volumeThreshold: never })
  const success = { subject, path: "success" }
  const later = { subject, path: "success, promise" }
  const fails = { subject, path: "failure" }
  return [
    fiber({ ...success, by: ours }, () => Timeout.timeout(work, "5 seconds")),
    promise({ ...success, by: cockatiel }, () => theirs.execute(call)),
    fiber({ ...success, by: effect }, () => Effect.timeout(work, "5 seconds")),
    fiber({ ...later, by: ours }, () => Timeout.timeout(promisedWork, "5 seconds"), "in a fiber, promise"),
    promise({ ...later, by: cockatiel }, () => theirs.execute(promisedCall), "awaited, promise"),
    promise({ ...later, by: `${opossum}, with breaker` }, () => opossumBreaker.fire(), "awaited, promise"),
    fiber({ ...later, by: effect }, () => Effect.timeout(promisedWork, "5 seconds"), "in a fiber, promise"),
    fiberFails({ ...fails, by: ours }, () => Timeout.timeout(failingWork, "5 seconds")),
    promiseFails({ ...fails, by: cockatiel }, () => theirs.execute(failingCall)),
    fiberFails({ ...fails, by: effect }, () => Effect.timeout(failingWork, "5 seconds")),
    fiberFails({ subject, path: "refusal", by: ours, makes: 0, right: tagged("TimedOut") }, () =>
      Timeout.timeout(work, 0)
    )
  ]
}

const deadlines = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "deadline"
  return [
    fiber({ subject, path: "success", by: ours }, () => Deadline.within(work, "5 seconds")),
    fiber(
      { subject, path: "success, promise", by: ours },
      () => Deadline.within(promisedWork, "5 seconds"),
      "in a fiber, promise"
    ),
    fiberFails({ subject, path: "failure", by: ours }, () => Deadline.within(failingWork, "5 seconds")),
    fiberFails({ subject, path: "refusal", by: ours, makes: 0, right: tagged("DeadlineExceeded") }, () =>
      Deadline.within(work, 0)
    )
  ]
}

const bulkheads = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "bulkhead"
  const bulkhead = Effect.runSync(Bulkhead.make({ maxConcurrent: 10 }))
  const full = Effect.runSync(Bulkhead.make({ maxConcurrent: 1 }))
  Effect.runFork(full.execute(Effect.never))

  const theirs = Cockatiel.bulkhead(10, 0)
  const theirFull = Cockatiel.bulkhead(1, 0)
  void theirFull.execute(() => new Promise<void>(() => {}))

  const limited = pLimit(10)
  const semaphore = Semaphore.makeUnsafe(10)
  const taken = Semaphore.makeUnsafe(1)
  Effect.runFork(taken.withPermit(Effect.never))

  const success = { subject, path: "success" }
  const fails = { subject, path: "failure" }
  const refusal = { subject, path: "refusal", makes: 0 }
  return [
    fiber({ ...success, by: ours }, () => bulkhead.execute(work)),
    promise({ ...success, by: cockatiel }, () => theirs.execute(call)),
    promise({ ...success, by: limit }, () => limited(call)),
    fiber({ ...success, by: effect }, () => semaphore.withPermit(work)),
    fiberFails({ ...fails, by: ours }, () => bulkhead.execute(failingWork)),
    promiseFails({ ...fails, by: cockatiel }, () => theirs.execute(failingCall)),
    promiseFails({ ...fails, by: limit }, () => limited(failingCall)),
    fiberFails({ ...fails, by: effect }, () => semaphore.withPermit(failingWork)),
    fiberFails({ ...refusal, by: ours, right: tagged("BulkheadFull") }, () => full.execute(work)),
    promiseFails({ ...refusal, by: cockatiel, right: Cockatiel.isBulkheadRejectedError }, () =>
      theirFull.execute(call)
    ),
    fiber({ ...refusal, by: effect, right: (result) => Option.isOption(result) && Option.isNone(result) }, () =>
      taken.withPermitsIfAvailable(1)(work)
    )
  ]
}

const limiters = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "token bucket"
  const limiter = Effect.runSync(RateLimiter.make({ capacity: never, refillPerSecond: never }))
  const empty = Effect.runSync(RateLimiter.make({ capacity: 1, refillPerSecond: 0.0001 }))
  await Effect.runPromise(empty.execute(work))

  const theirs = new RateLimiterMemory({ points: never, duration: 3_600 })
  const theirEmpty = new RateLimiterMemory({ points: 1, duration: 3_600 })
  await theirEmpty.consume("upstream")

  const effects = await runtime.runPromise(EffectLimiter.RateLimiter)
  const options = { algorithm: "token-bucket", onExceeded: "fail", window: "1 hour", key: "upstream" } as const
  const plenty = { ...options, limit: never }
  const few = { ...options, limit: 1, key: "empty" }
  await runtime.runPromise(effects.consume(few))

  const success = { subject, path: "success" }
  const refusal = { subject, path: "refusal", makes: 0 }
  const isResult = (result: unknown) => result instanceof RateLimiterRes
  return [
    fiber({ ...success, by: ours }, () => limiter.execute(work)),
    promise({ ...success, by: flexible, right: isResult, makes: 0 }, () => theirs.consume("upstream")),
    fiber({ ...success, by: effect }, () => Effect.andThen(effects.consume(plenty), work)),
    fiberFails({ subject, path: "failure", by: ours }, () => limiter.execute(failingWork)),
    fiberFails({ subject, path: "failure", by: effect }, () => Effect.andThen(effects.consume(plenty), failingWork)),
    fiberFails({ ...refusal, by: ours, right: tagged("RateLimited") }, () => empty.executeIfAvailable(work)),
    promiseFails({ ...refusal, by: flexible, right: isResult }, () => theirEmpty.consume("upstream")),
    fiberFails({ ...refusal, by: effect, right: tagged("RateLimiterError") }, () =>
      Effect.andThen(effects.consume(few), work)
    )
  ]
}

const caches = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "cache"
  const capacity = 1_000
  const timeToLive = "1 hour"
  const cache = Effect.runSync(Cache.make({ capacity, timeToLive, lookup }))
  const failing = Effect.runSync(Cache.make({ capacity, timeToLive, lookup: failingLookup }))
  const theirs = new LRUCache<number, number>({ max: capacity, ttl: 3_600_000, fetchMethod: () => call() })
  const theirFailing = new LRUCache<number, number>({ max: capacity, ttl: 3_600_000, fetchMethod: () => failingCall() })
  const effects = Effect.runSync(EffectCache.make({ capacity, timeToLive, lookup }))
  const effectsFailing = Effect.runSync(
    EffectCache.makeWith(failingLookup, {
      capacity,
      timeToLive: (exit) => (Exit.isSuccess(exit) ? timeToLive : 0)
    })
  )
  await Effect.runPromise(cache.get(0))
  await theirs.fetch(0)
  await Effect.runPromise(EffectCache.get(effects, 0))

  // Others than those of the hits, so that these stay kept.
  const missing = Effect.runSync(Cache.make({ capacity, timeToLive, lookup }))
  const theirMissing = new LRUCache<number, number>({ max: capacity, ttl: 3_600_000, fetchMethod: () => call() })
  const effectsMissing = Effect.runSync(EffectCache.make({ capacity, timeToLive, lookup }))
  let next = 0

  const hit = { subject, path: "hit", makes: 0 }
  const miss = { subject, path: "miss" }
  const fails = { subject, path: "miss, failure" }
  return [
    fiber({ ...hit, by: ours }, () => cache.get(0)),
    promise({ ...hit, by: lru }, () => theirs.fetch(0)),
    fiber({ ...hit, by: effect }, () => EffectCache.get(effects, 0)),
    fiber({ ...miss, by: ours }, () => missing.get(next++)),
    promise({ ...miss, by: lru }, () => theirMissing.fetch(next++)),
    fiber({ ...miss, by: effect }, () => EffectCache.get(effectsMissing, next++)),
    fiberFails({ ...fails, by: ours }, () => failing.get(next++)),
    promiseFails({ ...fails, by: lru }, () => theirFailing.fetch(next++)),
    fiberFails({ ...fails, by: effect }, () => EffectCache.get(effectsFailing, next++))
  ]
}

const flights = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "single flight"
  const flight = Effect.runSync(SingleFlight.make<string, number, Error>())
  return [
    fiber({ subject, path: "success", by: ours }, () => flight.execute(key)(work)),
    fiber(
      { subject, path: "success, promise", by: ours },
      () => flight.execute(key)(promisedWork),
      "in a fiber, promise"
    ),
    fiberFails({ subject, path: "failure", by: ours }, () => flight.execute(key)(failingWork))
  ]
}

const hedges = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "hedge"
  const hedge = Effect.runSync(Hedge.make({ delay: "1 second" }))
  const picky = Effect.runSync(Hedge.make({ delay: "1 second", while: () => false }))
  // Not a timeout: the delayed arm is the same call again.
  // @effect-diagnostics-next-line raceFirstWithSleepToTimeout:off
  const race = <A, E>(self: Effect.Effect<A, E>) => Effect.raceFirst(self, Effect.delay(self, "1 second"))
  const success = { subject, path: "success" }
  const later = { subject, path: "success, promise" }
  const fails = { subject, path: "failure" }
  return [
    fiber({ ...success, by: ours }, () => hedge.execute(work)),
    fiber({ ...success, by: effect }, () => race(work)),
    fiber({ ...later, by: ours }, () => hedge.execute(promisedWork), "in a fiber, promise"),
    fiber({ ...later, by: effect }, () => race(promisedWork), "in a fiber, promise"),
    fiberFails({ ...fails, by: ours }, () => picky.execute(failingWork)),
    fiberFails({ ...fails, by: effect }, () => race(failingWork))
  ]
}

const fallbacks = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "fallback"
  const fallback = Fallback.value(value)
  const theirs = Cockatiel.fallback(handleAll, value)
  const instead = () => value
  const success = { subject, path: "success" }
  const fails = { subject, path: "failure, answered" }
  return [
    fiber({ ...success, by: ours }, () => fallback.execute(work)),
    promise({ ...success, by: cockatiel }, () => theirs.execute(call)),
    fiber({ ...success, by: effect }, () => Effect.orElseSucceed(work, instead)),
    fiber({ ...fails, by: ours }, () => fallback.execute(failingWork)),
    promise({ ...fails, by: cockatiel }, () => theirs.execute(failingCall)),
    fiber({ ...fails, by: effect }, () => Effect.orElseSucceed(failingWork, instead))
  ]
}

const policies = async (): Promise<ReadonlyArray<Case>> => {
  const subject = "breaker, bulkhead, timeout, retry"
  const isFailure = (error: unknown) => error !== failure
  const retry = Retry.make({ schedule: Retry.exponential({ base: "100 millis" }), while: isFailure })
  const open = Effect.runSync(CircuitBreaker.make({ failures: 1, openFor: "1 hour" }))
  await Effect.runPromiseExit(open.execute(key)(failingWork))
  const policyOf = (circuitBreaker: CircuitBreaker.CircuitBreaker) =>
    Policy.make({
      bulkhead: Effect.runSync(Bulkhead.make({ maxConcurrent: 10 })),
      retry,
      circuitBreaker,
      circuit: key.key,
      timeout: "5 seconds"
    })
  const policy = policyOf(Effect.runSync(CircuitBreaker.make({ failures: never })))
  const refusing = policyOf(open)

  const theirs = (failures: number) =>
    Cockatiel.wrap(
      Cockatiel.bulkhead(10, 0),
      Cockatiel.retry(
        Cockatiel.handleWhen((error) => isFailure(error) && !Cockatiel.isBrokenCircuitError(error)),
        { maxAttempts: 3, backoff: new Cockatiel.ExponentialBackoff() }
      ),
      Cockatiel.circuitBreaker(handleAll, {
        halfOpenAfter: 3_600_000,
        breaker: new Cockatiel.ConsecutiveBreaker(failures)
      }),
      Cockatiel.timeout(5_000, Cockatiel.TimeoutStrategy.Aggressive)
    )
  const wrapped = theirs(never)
  const wrappedOpen = theirs(1)
  await wrappedOpen.execute(failingCall).catch(() => {})

  const schedule = Schedule.exponential("100 millis")
  const semaphore = Semaphore.makeUnsafe(10)
  const effects =
    (breaker: EffectBreaker.CircuitBreaker, circuit: { readonly key: string }) =>
    <E>(self: Effect.Effect<number, E>) =>
      Effect.timeout(self, "5 seconds").pipe(
        breaker.execute(circuit),
        Effect.retry({
          schedule,
          times: 3,
          while: (error) => isFailure(error) && !tagged("CircuitBreakerError")(error)
        }),
        semaphore.withPermit
      )
  const effectsOpen = effectBreaker(1)
  const named = { key: "broken policy" }
  await runtime.runPromiseExit(effectsOpen.execute(named)(failingWork))
  const composed = effects(effectBreaker(never), key)
  const composedOpen = effects(effectsOpen, named)

  // It has no retry.
  const opossums = { timeout: 5_000, capacity: 10, volumeThreshold: never } as const
  const opossumLater = new Opossum(promisedCall, opossums)

  const success = { subject, path: "success" }
  const later = { subject, path: "success, promise" }
  const fails = { subject, path: "failure" }
  const refusal = { subject, path: "refusal", makes: 0 }
  return [
    fiber({ ...success, by: ours }, () => policy.execute(work)),
    promise({ ...success, by: cockatiel }, () => wrapped.execute(call)),
    fiber({ ...success, by: effect }, () => composed(work)),
    fiber({ ...later, by: ours }, () => policy.execute(promisedWork), "in a fiber, promise"),
    promise({ ...later, by: cockatiel }, () => wrapped.execute(promisedCall), "awaited, promise"),
    promise({ ...later, by: `${opossum}, no retry` }, () => opossumLater.fire(), "awaited, promise"),
    fiber({ ...later, by: effect }, () => composed(promisedWork), "in a fiber, promise"),
    fiberFails({ ...fails, by: ours }, () => policy.execute(failingWork)),
    promiseFails({ ...fails, by: cockatiel }, () => wrapped.execute(failingCall)),
    fiberFails({ ...fails, by: effect }, () => composed(failingWork)),
    fiberFails({ ...refusal, by: ours, right: tagged("CircuitOpen") }, () => refusing.execute(work)),
    promiseFails({ ...refusal, by: cockatiel, right: Cockatiel.isBrokenCircuitError }, () => wrappedOpen.execute(call)),
    fiberFails({ ...refusal, by: effect, right: isOpenByEffect }, () => composedOpen(work))
  ]
}

/** All cases, those of one primitive together. */
export const cases = async (): Promise<ReadonlyArray<Case>> =>
  (
    await Promise.all([
      breakers(),
      retries(),
      timeouts(),
      deadlines(),
      bulkheads(),
      limiters(),
      caches(),
      flights(),
      hedges(),
      fallbacks(),
      policies()
    ])
  ).flat()
