/**
 * Puts the primitives around a call in an order in which they work together.
 *
 * `make`, outermost first: fallback → cache → deadline → bulkhead → retry → hedge → circuit breaker → adaptive throttle →
 * rate limiter → timeout → the call. So a cached answer costs nothing; the deadline bounds waits and retries; a call holds
 * its place in the bulkhead from its first attempt to its last; every attempt and hedge takes a token, has its own timeout
 * and counts. A refusal by the open circuit ends the retries, unless the call has a deadline and the circuit lets calls
 * through again before it. With a bulkhead, nobody queues for a refusal by the circuit, or behind a probe.
 *
 * `makeFacade` counts calls: fallback → cache → deadline → circuit breaker → bulkhead → timeout → retry → hedge → adaptive
 * throttle → rate limiter → the call. Breaker and timeout see one outcome and one time for all attempts together.
 *
 * For another order, `pipe` the primitives. Holds no state but that of its parts, which can be shared with other policies.
 */
import { Duration, Effect } from "effect"
import type { LimitReached } from "./AdaptiveLimit.ts"
import type { AdaptiveThrottle, Throttled } from "./AdaptiveThrottle.ts"
import type { BulkheadFull } from "./Bulkhead.ts"
import type { Cache, CallOptions, Key } from "./Cache.ts"
import { type CircuitBreaker, CircuitOpen } from "./CircuitBreaker.ts"
import * as Deadline from "./Deadline.ts"
import type { Fallback } from "./Fallback.ts"
import type { Hedge } from "./Hedge.ts"
import { type Around, aroundOf, breakers, bulkheads, retries, theCall, through } from "./internal/steps.ts"
import { timingOut } from "./internal/timedOut.ts"
import type { Overloaded } from "./LoadShed.ts"
import type { RateLimited } from "./RateLimiter.ts"
import type { Ends, Retry } from "./Retry.ts"
import type * as Timeout from "./Timeout.ts"

/** A way to make calls, which adds the errors `E`. It can be used for calls that fail with `Accepts` and needs `R`. */
export interface Policy<out E = never, in Accepts = unknown, out R = never> {
  /** Makes the call under the policy. */
  readonly execute: <A, E1 extends Accepts, R1>(self: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E | E1, R | R1>
}

/** A way to make calls whose results are kept by key. They succeed with `A` and fail with `E`, refusals included. */
export interface CachedPolicy<K extends Key, A, E = never, R = never> {
  /** Answers with the kept result of the key, waits for the call of the same key, or makes the call under the policy. */
  readonly execute: (
    options: { readonly key: K } & CallOptions<K, A, E>
  ) => <R1>(self: Effect.Effect<A, E, R1>) => Effect.Effect<A, E, R | R1>
}

/** A way to make calls that answers with an `F` in place of errors that are `Handled`, and adds the errors `E`. */
export interface FallbackPolicy<out F, Handled, out E = never, in Accepts = unknown, out R = never> {
  /** Makes the call under the policy, and answers in its place when it fails as the fallback names. */
  readonly execute: <A, E1 extends Accepts, R1>(
    self: Effect.Effect<A, E1, R1>
  ) => Effect.Effect<A | F, E | Exclude<E1, Handled>, R | R1>
}

/** As `CachedPolicy`, but what fails with `E` is answered with an `F`, or fails with an `E2`. */
export interface CachedFallbackPolicy<K extends Key, A, E, F, E2 = never, R = never> {
  /** As that of `CachedPolicy`. The answer of the fallback is not kept. */
  readonly execute: (
    options: { readonly key: K } & CallOptions<K, A, E>
  ) => <R1>(self: Effect.Effect<A, E, R1>) => Effect.Effect<A | F, E2, R | R1>
}

/** What decides whether a call may begin, and adds the error `E` when not: it need not be called a bulkhead. */
export interface Admission<out E = BulkheadFull | LimitReached | Overloaded> {
  /** Runs the effect when it may, or fails with `E`. */
  readonly execute: <A, E1, R>(self: Effect.Effect<A, E1, R>) => Effect.Effect<A, E | E1, R>
}

/** What makes attempts wait for their turn. A `KeyedRateLimiter` is one for a key: `{ execute: limiter.execute({ key }) }`. */
export interface Limiter {
  /** Runs the effect when it is its turn, or fails with `RateLimited`. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimited, R>
}

/** What gives attempts their time, where that is no fixed duration: an adaptive timeout, or one that leaves work behind. */
export interface Timer {
  /** Runs the effect, and fails with `TimedOut` when it takes too long. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Timeout.TimedOut, R>
}

/** The parts that refuse or end calls. What is left out is not done. */
export interface Parts<
  D extends Duration.Input | undefined,
  B extends Admission | undefined,
  C extends CircuitBreaker | undefined,
  H extends AdaptiveThrottle | undefined,
  L extends Limiter | undefined,
  T extends Duration.Input | Timer | undefined
> {
  /** The time for everything together, from the first attempt to the last answer: over zero. Adds `DeadlineExceeded`. */
  readonly deadline?: D | undefined
  /** Where the call takes its place: a bulkhead, an adaptive limit or a load shedder. Adds `BulkheadFull`, or theirs. */
  readonly bulkhead?: B | undefined
  /** Where the outcome counts, of every attempt or, in a facade, of the call. Adds `CircuitOpen`. */
  readonly circuitBreaker?: C | undefined
  /** The key of the breaker's circuit. Defaults to "default". */
  readonly circuit?: string | undefined
  /** What keeps back attempts that the other side would refuse, before they take a token. Adds `Throttled`. */
  readonly adaptiveThrottle?: H | undefined
  /** Where every attempt takes a token: a limiter, its `costing`, or one key of a keyed one. Adds `RateLimited`. */
  readonly rateLimiter?: L | undefined
  /** The time for each attempt, in a facade for all together: over zero, or an adaptive timeout. Adds `TimedOut`. */
  readonly timeout?: T | undefined
}

/** The parts that make attempts. They must accept the errors `E`. */
export interface Repetition<E, R, RH> {
  /** How failed attempts are repeated. It must accept the errors of the parts inside it. Adds none itself. */
  readonly retry?: Retry<E, R> | undefined
  /** When an attempt is made twice at a time. It must accept the same errors as the retry. Adds none itself. */
  readonly hedge?: Hedge<E, RH> | undefined
}

/** The parts of a policy. */
export interface Options<
  D extends Duration.Input | undefined,
  B extends Admission | undefined,
  C extends CircuitBreaker | undefined,
  H extends AdaptiveThrottle | undefined,
  L extends Limiter | undefined,
  T extends Duration.Input | Timer | undefined,
  Accepts,
  R,
  RH
>
  extends Parts<D, B, C, H, L, T>, Repetition<Accepts | AttemptErrors<C, H, L, T>, R, RH> {}

/** The parts of a facade. Its retry never sees the refusal of the circuit or the timeout, which are outside it. */
export interface FacadeOptions<
  D extends Duration.Input | undefined,
  B extends Admission | undefined,
  C extends CircuitBreaker | undefined,
  H extends AdaptiveThrottle | undefined,
  L extends Limiter | undefined,
  T extends Duration.Input | Timer | undefined,
  Accepts,
  R,
  RH
>
  extends Parts<D, B, C, H, L, T>, Repetition<Accepts | AttemptErrors<undefined, H, L, undefined>, R, RH> {}

/** The cache of a policy that keeps results. */
export interface CacheOption<K extends Key, A, E> {
  /** Where results are kept, and calls with the same key are shared. Its errors must include those of the other parts. */
  readonly cache: Cache<K, A, E>
}

/** The fallback of a policy that answers in place of failed calls. */
export interface FallbackOption<F, Handled, E, R, Accepts> {
  /** What to answer instead. It must accept the errors of the other parts. Takes away what it handles, adds its own. */
  readonly fallback: Fallback<F, Handled, E, R, Accepts>
}

/** The errors that the parts around one attempt add. */
export type AttemptErrors<C, H, L, T> = Spelled<
  Added<C, CircuitOpen> | Added<H, Throttled> | Added<L, RateLimited> | Added<T, Timeout.TimedOut>
>

/** The error that an admission adds. */
export type AdmissionErrors<B> = Spelled<
  B extends Admission<BulkheadFull>
    ? BulkheadFull
    : B extends Admission<LimitReached>
      ? LimitReached
      : B extends Admission<Overloaded>
        ? Overloaded
        : B extends Admission
          ? BulkheadFull | LimitReached | Overloaded
          : never
>

/** The errors that all parts add. */
export type Errors<D, B, C, H, L, T> = Spelled<
  Added<D, Deadline.DeadlineExceeded> | AdmissionErrors<B> | AttemptErrors<C, H, L, T>
>

/** Every error a policy can add: for a cache, or the predicate of a retry, that serves any of them. */
export type AnyError = Errors<Duration.Input, Admission, CircuitBreaker, AdaptiveThrottle, Limiter, Duration.Input>

/** The error of a part: none when it is left out, its own when it is there or may be there. */
export type Added<Part, E> = [Part] extends [undefined] ? never : E

// An editor shows the result of a condition, where it would show the name of a union.
type Spelled<E> = [E] extends [infer Error] ? Error : never

/**
 * Composes a policy. The parts can be shared with other policies; two that share a breaker and the name of the `circuit`
 * share the circuit. Durations that make no sense are a `RangeError`, thrown here.
 */
export function make<
  K extends Key,
  A,
  F,
  Handled,
  EF,
  RF,
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  E = unknown,
  R = never,
  RH = never
>(
  options: Options<D, B, C, H, L, T, E, R, RH> &
    CacheOption<K, A, E | Errors<D, B, C, H, L, T>> &
    FallbackOption<F, Handled, EF, RF, E | Errors<D, B, C, H, L, T>>
): CachedFallbackPolicy<
  K,
  A,
  E | Errors<D, B, C, H, L, T>,
  F,
  EF | Exclude<E | Errors<D, B, C, H, L, T>, Handled>,
  R | RH | RF
>
export function make<
  K extends Key,
  A,
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  E = unknown,
  R = never,
  RH = never
>(
  options: Options<D, B, C, H, L, T, E, R, RH> &
    CacheOption<K, A, E | Errors<D, B, C, H, L, T>> & { readonly fallback?: undefined }
): CachedPolicy<K, A, E | Errors<D, B, C, H, L, T>, R | RH>
export function make<
  F,
  Handled,
  EF,
  RF,
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  Accepts = unknown,
  R = never,
  RH = never
>(
  options: Options<D, B, C, H, L, T, Accepts, R, RH> &
    FallbackOption<F, Handled, EF, RF, Accepts | Errors<D, B, C, H, L, T>>
): FallbackPolicy<F, Handled, EF | Exclude<Errors<D, B, C, H, L, T>, Handled>, Accepts, R | RH | RF>
export function make<
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  Accepts = unknown,
  R = never,
  RH = never
>(options: Options<D, B, C, H, L, T, Accepts, R, RH>): Policy<Errors<D, B, C, H, L, T>, Accepts, R | RH>
export function make(options: AnyOptions): AnyPolicy {
  const { adaptiveThrottle, bulkhead, circuit = "default", circuitBreaker, hedge, rateLimiter, retry } = options
  const deadline = positive("deadline", options.deadline)
  const parts: Array<Around> = []
  if (deadline !== undefined) parts.push(around(Deadline.within(deadline)))
  const ends = circuitBreaker === undefined || deadline !== undefined ? undefined : endsRetries
  if (bulkhead !== undefined) {
    if (circuitBreaker !== undefined) parts.push(unlessRefused(circuitBreaker, circuit, retry, ends))
    parts.push(admitting(bulkhead))
  }
  if (retry !== undefined) parts.push(retrying(retry, ends))
  if (hedge !== undefined) parts.push(around(hedge.execute))
  if (circuitBreaker !== undefined) parts.push(breaking(circuitBreaker, circuit))
  if (adaptiveThrottle !== undefined) parts.push(around(adaptiveThrottle.execute))
  if (rateLimiter !== undefined) parts.push(around(rateLimiter.execute))
  if (options.timeout !== undefined) parts.push(timed(options.timeout))
  return compose(options, parts)
}

/**
 * Composes a policy that counts calls instead of attempts: the breaker learns of the last error only, when the retries have
 * ended, and the timeout is for all attempts and the waits between them. While the circuit is open nothing is retried.
 */
export function makeFacade<
  K extends Key,
  A,
  F,
  Handled,
  EF,
  RF,
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  E = unknown,
  R = never,
  RH = never
>(
  options: FacadeOptions<D, B, C, H, L, T, E, R, RH> &
    CacheOption<K, A, E | Errors<D, B, C, H, L, T>> &
    FallbackOption<F, Handled, EF, RF, E | Errors<D, B, C, H, L, T>>
): CachedFallbackPolicy<
  K,
  A,
  E | Errors<D, B, C, H, L, T>,
  F,
  EF | Exclude<E | Errors<D, B, C, H, L, T>, Handled>,
  R | RH | RF
>
export function makeFacade<
  K extends Key,
  A,
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  E = unknown,
  R = never,
  RH = never
>(
  options: FacadeOptions<D, B, C, H, L, T, E, R, RH> &
    CacheOption<K, A, E | Errors<D, B, C, H, L, T>> & { readonly fallback?: undefined }
): CachedPolicy<K, A, E | Errors<D, B, C, H, L, T>, R | RH>
export function makeFacade<
  F,
  Handled,
  EF,
  RF,
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  Accepts = unknown,
  R = never,
  RH = never
>(
  options: FacadeOptions<D, B, C, H, L, T, Accepts, R, RH> &
    FallbackOption<F, Handled, EF, RF, Accepts | Errors<D, B, C, H, L, T>>
): FallbackPolicy<F, Handled, EF | Exclude<Errors<D, B, C, H, L, T>, Handled>, Accepts, R | RH | RF>
export function makeFacade<
  D extends Duration.Input | undefined = undefined,
  B extends Admission | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  H extends AdaptiveThrottle | undefined = undefined,
  L extends Limiter | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  Accepts = unknown,
  R = never,
  RH = never
>(options: FacadeOptions<D, B, C, H, L, T, Accepts, R, RH>): Policy<Errors<D, B, C, H, L, T>, Accepts, R | RH>
export function makeFacade(options: AnyOptions): AnyPolicy {
  const { adaptiveThrottle, bulkhead, circuit = "default", circuitBreaker, hedge, rateLimiter, retry } = options
  const deadline = positive("deadline", options.deadline)
  const parts: Array<Around> = []
  if (deadline !== undefined) parts.push(around(Deadline.within(deadline)))
  if (circuitBreaker !== undefined) parts.push(breaking(circuitBreaker, circuit))
  if (bulkhead !== undefined) parts.push(admitting(bulkhead))
  if (options.timeout !== undefined) parts.push(timed(options.timeout))
  if (retry !== undefined) parts.push(retrying(retry, undefined))
  if (hedge !== undefined) parts.push(around(hedge.execute))
  if (adaptiveThrottle !== undefined) parts.push(around(adaptiveThrottle.execute))
  if (rateLimiter !== undefined) parts.push(around(rateLimiter.execute))
  return compose(options, parts)
}

// What the overloads say in types, as seen from inside: parts without their types.
type Part = <A>(self: Effect.Effect<A, unknown, unknown>) => Effect.Effect<A, unknown, unknown>

interface AnyOptions
  extends
    Parts<
      Duration.Input | undefined,
      Admission | undefined,
      CircuitBreaker | undefined,
      AdaptiveThrottle | undefined,
      Limiter | undefined,
      Duration.Input | Timer | undefined
    >,
    Repetition<unknown, unknown, unknown> {
  readonly cache?: Cache<Key, unknown, unknown>
  readonly fallback?: Fallback<unknown, unknown, unknown, unknown> | undefined
}

type AnyPolicy =
  | FallbackPolicy<unknown, unknown, unknown, unknown, unknown>
  | CachedPolicy<Key, unknown, unknown, unknown>

// Puts parts around calls, from the outside in: each is applied to what the ones after it have made of the call.
const compose = ({ cache, fallback }: AnyOptions, parts: ReadonlyArray<Around>): AnyPolicy => {
  const step = parts.reduceRight((inner, part) => part(inner), theCall)
  const run: Part = (self) => through(step, self)
  const answered = (self: Effect.Effect<unknown, unknown, unknown>) => fallback?.execute(self) ?? self

  if (cache === undefined) {
    return { execute: (self: Effect.Effect<unknown, unknown, unknown>) => answered(run(self)) }
  }
  return {
    // Put together only when it is needed: a hit makes nothing.
    execute: (call: { readonly key: Key } & CallOptions<Key, unknown, unknown>) => {
      const answer = cache.execute(call)
      return (self: Effect.Effect<unknown, unknown, unknown>) => answered(answer(Effect.suspend(() => run(self))))
    }
  }
}

// What puts a part around a step: a part of this package costs less than its `execute` does.
const around = (execute: Part): Around => aroundOf(execute as Parameters<typeof aroundOf>[0])

const admitting = (bulkhead: Admission): Around => bulkheads.get(bulkhead) ?? around(bulkhead.execute)

const retrying = (retry: Retry<unknown, unknown>, ends: Ends | undefined): Around =>
  retries.get(retry)?.(ends) ?? around(ends === undefined ? retry.execute : (self) => retry.executeUnless(self, ends))

const breaking = (breaker: CircuitBreaker, circuit: string): Around =>
  breakers.get(breaker)?.(circuit) ?? around(breaker.execute({ key: circuit }))

// Whoever would retry the refusal does so here, where no place is taken meanwhile.
const unlessRefused =
  (
    breaker: CircuitBreaker,
    circuit: string,
    retry: Retry<unknown, unknown> | undefined,
    ends: Ends | undefined
  ): Around =>
  (inner) => {
    const retried = retry === undefined ? undefined : retrying(retry, ends)(theCall)
    return (self, fiber) => {
      const refusal = breaker.checkUnsafe(circuit, fiber)
      if (refusal === undefined) return inner(self, fiber)
      // The type of a step leaves out what it adds.
      const refused = refusal as Effect.Effect<never, never>
      if (retried === undefined) return refused
      let again = false
      const first = Effect.suspend((): Effect.Effect<void> => {
        if (again) return breaker.check(circuit) as Effect.Effect<void>
        again = true
        return refused
      })
      return Effect.flatMap(retried(first, fiber), () => through(inner, self))
    }
  }

// Without a deadline nobody has said how long to wait for a circuit, so its refusal ends the retries.
const endsRetries: Ends = (error, fiber) =>
  error instanceof CircuitOpen && Deadline.remainingMillisUnsafe(fiber) === Infinity

const timed = (timeout: Duration.Input | Timer): Around => {
  if (typeof timeout === "object" && "execute" in timeout) return around(timeout.execute)
  const after = positive("timeout", timeout)
  const millis = after === undefined ? Infinity : Duration.toMillis(after)
  return millis === Infinity ? (inner) => inner : timingOut(millis)
}

const positive = (name: string, value: Duration.Input | undefined): Duration.Duration | undefined => {
  if (value === undefined) return undefined
  const duration = Duration.fromInputUnsafe(value)
  if (Duration.toMillis(duration) > 0) return duration
  throw new RangeError(`Policy: ${name} must be over zero, got ${Duration.toMillis(duration)} ms`)
}
