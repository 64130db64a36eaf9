/**
 * Asks every provider now and then whether it answers, and remembers how well it does.
 *
 * A check that succeeds multiplies the failure rate by 0.8, one that fails makes it `min(rate * 1.2 + 0.1, 1)`. A provider
 * whose last check failed is `DOWN`; one that answers is `DEGRADED` when that took over `slowAfter` or its rate is over
 * `degradedFrom`, and `UP` otherwise. So a provider that fails again and again is not `UP` with its first good answer.
 *
 * Give it the cheapest call that shows the provider works. A check through the provider's circuit breaker fails while that
 * is open; one around it says whether the provider is back before the breaker knows.
 *
 * At most `maxProviders` are watched. No provider is checked twice at a time.
 *
 * | defaults | `every` 60 s | `timeout` 10 s | `slowAfter` 5 s | `degradedFrom` 0.3 | `maxConcurrent` 16 | `maxProviders` 1,000 |
 */
import {
  type Cause,
  Context,
  DateTime,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  PubSub,
  Schedule,
  Scope,
  Stream
} from "effect"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import { withoutStack } from "./internal/refusal.ts"
import { TooManyProviders, UnknownProvider } from "./Providers.ts"
import * as SingleFlight from "./SingleFlight.ts"
import * as Timeout from "./Timeout.ts"

/** Watches providers. */
export interface HealthMonitor {
  /** Watches a provider from now on, in place of one of the same name, whose rate and last check it takes over. */
  readonly add: <R>(provider: Provider<R>) => Effect.Effect<void, TooManyProviders, R>
  /** Watches a provider no longer. A check under way is not recorded. */
  readonly remove: (name: string) => Effect.Effect<void>
  /** Checks a provider now, or waits for the check that is under way. */
  readonly check: (name: string) => Effect.Effect<Health, UnknownProvider>
  /** Checks all providers now, side by side. */
  readonly checkAll: Effect.Effect<ReadonlyArray<Health>>
  /** Reads how a provider is. */
  readonly health: (name: string) => Effect.Effect<Health, UnknownProvider>
  /** Reads how all providers are, in the order in which they were added. */
  readonly all: Effect.Effect<ReadonlyArray<Health>>
  /** The changes of status from now on. A reader who falls behind by 128 misses the oldest. Ends with the monitor's scope. */
  readonly changes: Stream.Stream<Change>
  /** Checks all providers now and then every so often, until it is stopped. Does nothing when it is started already. */
  readonly start: Effect.Effect<void>
  /** Ends the checks that `start` began, those under way included. */
  readonly stop: Effect.Effect<void>
}

/** How a provider does: `UNKNOWN` before its first check has ended. */
export type Status = "UNKNOWN" | "UP" | "DEGRADED" | "DOWN"

/** What is known of a provider. */
export interface Health {
  readonly name: string
  readonly status: Status
  /** When its last check ended, by the wall clock. `undefined` before the first. */
  readonly lastChecked: DateTime.Utc | undefined
  /** How long its last check took. */
  readonly responseTime: Duration.Duration | undefined
  /** The state of its circuit now. `undefined` if it has none. */
  readonly circuit: CircuitBreaker.State | undefined
  /** From 0 to 1. */
  readonly failureRate: number
  /** Why its last check failed, if it did. */
  readonly cause: Cause.Cause<unknown> | undefined
}

/** A change of status. */
export interface Change {
  readonly from: Status
  readonly to: Health
}

/** A provider and how to check it. */
export interface Provider<R = never> {
  readonly name: string
  /** Succeeds when the provider works. Anything else, a defect included, is a failure. */
  readonly check: Effect.Effect<unknown, unknown, R>
  /** How long the check may take: over zero. Defaults to that of the monitor. */
  readonly timeout?: Duration.Input | undefined
  /** Where its circuit is, to be shown beside its status. Defaults to none. */
  readonly circuit?: { readonly breaker: CircuitBreaker.CircuitBreaker; readonly key: string } | undefined
}

/** Who is watched, and how. */
export interface Options<R = never> {
  /** The providers at first. Defaults to none. */
  readonly providers?: ReadonlyArray<Provider<R>> | undefined
  /** The time from the beginning of one round of checks to that of the next: over zero. Defaults to 60 seconds. */
  readonly every?: Duration.Input | undefined
  /** How long a check may take: over zero. Defaults to 10 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** A check that takes longer shows a degraded provider: over zero. Defaults to 5 seconds. */
  readonly slowAfter?: Duration.Input | undefined
  /** A failure rate over this shows a degraded provider: 0 to 1. Defaults to 0.3. */
  readonly degradedFrom?: number | undefined
  /** Checks at the same time: an integer of at least 1. Defaults to 16. */
  readonly maxConcurrent?: number | undefined
  /** Providers at most: an integer of at least 1. Defaults to 1,000. */
  readonly maxProviders?: number | undefined
}

/**
 * Creates a monitor that is not started. The checks run with the services that are there when their provider is added, and
 * end with the scope. Options that make no sense are a defect, not an error; so is a list of more than `maxProviders`.
 */
export const make = Effect.fnUntraced(function* <R = never>(
  options: Options<R> = {}
): Effect.fn.Return<HealthMonitor, never, R | Scope.Scope> {
  const every = overZero("every", options.every ?? "60 seconds")
  const timeout = overZero("timeout", options.timeout ?? "10 seconds")
  const slowMillis = Duration.toMillis(overZero("slowAfter", options.slowAfter ?? "5 seconds"))
  const degradedFrom = number(
    "degradedFrom",
    options.degradedFrom ?? 0.3,
    "from 0 to 1",
    (value) => value >= 0 && value <= 1
  )
  const maxConcurrent = number("maxConcurrent", options.maxConcurrent ?? 16, "an integer >= 1", isCount)
  const maxProviders = number("maxProviders", options.maxProviders ?? 1_000, "an integer >= 1", isCount)

  const scope = yield* Effect.scope
  const flights = yield* SingleFlight.make<number, Exit.Exit<unknown, unknown>>()
  const changes = yield* Effect.acquireRelease(PubSub.sliding<Change>(128), PubSub.shutdown)
  const watched = new Map<string, Watched>()
  let nextId = 0
  let rounds: Fiber.Fiber<unknown> | undefined

  const healthOf = (one: Watched) =>
    Effect.map(
      one.circuit === undefined ? Effect.undefined : one.circuit.breaker.state(one.circuit.key),
      (circuit): Health => {
        const { cause, failureRate, lastChecked, name, responseTime, status } = one
        return { name, status, lastChecked, responseTime, circuit, failureRate, cause }
      }
    )

  const find = (name: string) =>
    Effect.suspend(() => {
      const found = watched.get(name)
      return found === undefined
        ? Effect.fail(withoutStack(() => new UnknownProvider({ name })))
        : Effect.succeed(found)
    })

  const record = Effect.fnUntraced(function* (
    one: Watched,
    exit: Exit.Exit<unknown, unknown>,
    took: Duration.Duration
  ) {
    const from = one.status
    one.lastChecked = yield* DateTime.now
    one.responseTime = took
    one.cause = Exit.isFailure(exit) ? exit.cause : undefined
    one.failureRate = Exit.isSuccess(exit) ? one.failureRate * 0.8 : Math.min(one.failureRate * 1.2 + 0.1, 1)
    one.status = Exit.isFailure(exit)
      ? "DOWN"
      : Duration.toMillis(took) > slowMillis || one.failureRate > degradedFrom
        ? "DEGRADED"
        : "UP"
    if (one.status !== from) yield* PubSub.publish(changes, { from, to: yield* healthOf(one) })
  })

  const checkOne = (one: Watched) =>
    Effect.exit(one.check).pipe(
      Effect.timed,
      // Recorded inside what is shared, so once for all who wait for it.
      Effect.tap(([took, exit]) => (watched.get(one.name) === one ? record(one, exit, took) : Effect.void)),
      Effect.map(([, exit]) => exit),
      flights.execute({ key: one.id }),
      Effect.andThen(healthOf(one))
    )

  const all = Effect.suspend(() => Effect.forEach(Array.from(watched.values()), healthOf))
  const checkAll = Effect.suspend(() =>
    Effect.forEach(Array.from(watched.values()), checkOne, { concurrency: maxConcurrent })
  )

  const add = <R2>(provider: Provider<R2>): Effect.Effect<void, TooManyProviders, R2> =>
    Effect.contextWith((services: Context.Context<R2>) =>
      Effect.suspend(() => {
        const { circuit, name } = provider
        const before = watched.get(name)
        if (before === undefined && watched.size >= maxProviders) {
          return Effect.fail(withoutStack(() => new TooManyProviders({ count: watched.size + 1, maxProviders })))
        }
        const limit = provider.timeout === undefined ? timeout : overZero(`timeout of ${name}`, provider.timeout)
        const { cause, failureRate, lastChecked, responseTime, status } = before ?? unchecked
        watched.set(name, {
          id: nextId++,
          name,
          check: provider.check.pipe(Timeout.timeout(limit), Effect.provideContext(services)),
          circuit,
          status,
          lastChecked,
          responseTime,
          failureRate,
          cause
        })
        return Effect.void
      })
    )

  for (const provider of options.providers ?? []) yield* Effect.orDie(add(provider))

  return {
    add,
    remove: (name) => Effect.sync(() => void watched.delete(name)),
    check: (name) => Effect.flatMap(find(name), checkOne),
    checkAll,
    health: (name) => Effect.flatMap(find(name), healthOf),
    all,
    changes: Stream.fromPubSub(changes),
    start: Effect.suspend(() => {
      if (rounds !== undefined && rounds.pollUnsafe() === undefined) return Effect.void
      return Effect.map(
        Effect.forkIn(Effect.repeat(checkAll, Schedule.fixed(every)), scope, { startImmediately: true }),
        (fiber) => {
          rounds = fiber
        }
      )
    }),
    stop: Effect.suspend(() => (rounds === undefined ? Effect.void : Fiber.interrupt(rounds)))
  }
})

/** The monitor of a context. */
export const HealthMonitor = Context.Service<HealthMonitor>("effect-resilience/HealthMonitor")

/** Provides `HealthMonitor`, started. */
export const layer = <R = never>(
  options: Options<R> = {}
): Layer.Layer<HealthMonitor, never, Exclude<R, Scope.Scope>> =>
  Layer.effect(
    HealthMonitor,
    Effect.tap(make(options), (monitor) => monitor.start)
  )

interface Watched {
  /** Another one of the same name is checked on its own. */
  readonly id: number
  readonly name: string
  readonly check: Effect.Effect<unknown, unknown>
  readonly circuit: Provider["circuit"]
  status: Status
  lastChecked: DateTime.Utc | undefined
  responseTime: Duration.Duration | undefined
  failureRate: number
  cause: Cause.Cause<unknown> | undefined
}

const unchecked = {
  status: "UNKNOWN",
  lastChecked: undefined,
  responseTime: undefined,
  failureRate: 0,
  cause: undefined
} as const

const isCount = (value: number): boolean => Number.isInteger(value) && value >= 1

const number = (name: string, value: number, expected: string, isValid: (value: number) => boolean): number => {
  if (isValid(value)) return value
  throw new RangeError(`HealthMonitor: ${name} must be ${expected}, got ${value}`)
}

const overZero = (name: string, input: Duration.Input): Duration.Duration => {
  const duration = Duration.fromInputUnsafe(input)
  number(name, Duration.toMillis(duration), "over zero, in milliseconds", (millis) => millis > 0)
  return duration
}
