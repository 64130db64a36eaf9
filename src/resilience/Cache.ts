/**
 * Keeps the results of calls for a time, so that a repeated call is answered at once.
 *
 * A call whose key is kept is answered in one synchronous step. Otherwise the first caller's work runs and those who
 * come meanwhile wait for it, as in `SingleFlight`: it goes on while anyone waits, without the deadline of whoever
 * started it. A failure is kept only if `timeToLive` says so, an interruption never.
 *
 * Put it outside everything but a fallback, so a hit takes no permit, no token and no time.
 *
 * At most `capacity` results are kept: the least recently used makes room. Every miss and every `set` also looks at two
 * more of them and frees those whose time has passed; `removeExpired` looks at all, for a cache that may fall silent.
 */
import { Duration, Effect, Exit, type Fiber, Option } from "effect"
import * as flights from "./internal/flights.ts"
import { Kept } from "./internal/kept.ts"

/** Kept results of calls that succeed with `A` or fail with `E`. */
export interface Cache<K extends Key, A, E = never> {
  /** Answers with the result kept for the key, waits for the run of the same key, or runs the effect. */
  readonly execute: (options: { readonly key: K }) => <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Reads a kept success. Runs nothing, waits for nothing, and counts neither as a hit nor as a use. */
  readonly getIfPresent: (key: K) => Effect.Effect<Option.Option<A>>
  /** Keeps a value. It replaces what a run under way will bring, which then only goes to those who wait for it. */
  readonly set: (key: K, value: A) => Effect.Effect<void>
  /** Forgets a key. A run under way still goes to those who wait for it, but is not kept and not joined. */
  readonly invalidate: (key: K) => Effect.Effect<void>
  /** Forgets every key, as `invalidate` does. */
  readonly invalidateAll: Effect.Effect<void>
  /**
   * Frees every result whose time has passed, 1,000 entries at a time, and succeeds with their number. In a cache that
   * may fall silent for long: `cache.removeExpired.pipe(Effect.repeat(Schedule.spaced("1 minute")), Effect.forkScoped)`.
   */
  readonly removeExpired: Effect.Effect<number>
  /** Counts what is kept now and what happened so far. */
  readonly stats: Effect.Effect<Stats>
}

/** A cache that knows how to find what it does not have. */
export interface LookupCache<K extends Key, A, E = never, R = never> extends Cache<K, A, E> {
  /** Answers with the result kept for the key, waits for the look-up of the same key, or looks it up. */
  readonly get: (key: K) => Effect.Effect<A, E, R>
}

/** A key that is equal by value. Build one from an object: `${platform}:${user}`. */
export type Key = flights.Key

/** A cache in numbers. Calls are `hits + misses + joined`. */
export interface Stats {
  /** Results kept, at most `capacity`. Includes those whose time has passed and that were not freed yet. */
  readonly size: number
  /** Runs that have not ended. */
  readonly pending: number
  /** Calls answered with a kept result. */
  readonly hits: number
  /** Calls that started a run. */
  readonly misses: number
  /** Calls that waited for the run of another. */
  readonly joined: number
  /** Results that made room for others before their time had passed. */
  readonly evictions: number
  /** Results freed because their time had passed. */
  readonly expirations: number
}

/** What is kept, and for how long. */
export interface Options<K extends Key, A, E> {
  /** Results kept at most: an integer of at least 1. */
  readonly capacity: number
  /**
   * How long a result is kept: a success for this long and a failure not at all, or what the function says of each. Zero
   * means not at all. The function runs once per result and `set`.
   */
  readonly timeToLive: Duration.Input | ((exit: Exit.Exit<A, E>, key: K) => Duration.Input)
  /** Runs in a call that is answered with a kept result; its defect is logged and ignored. Defaults to nothing. */
  readonly onHit?: ((key: K) => Effect.Effect<unknown>) | undefined
  /** Runs in a call that is about to wait for another's run; its defect is logged and ignored. Defaults to nothing. */
  readonly onJoin?: ((key: K) => Effect.Effect<unknown>) | undefined
}

/** What is kept, for how long, and how to find what is not. */
export interface LookupOptions<K extends Key, A, E, R> extends Options<K, A, E> {
  /**
   * Finds what is not kept. It runs with the services, span and log annotations of the call that started it: close in it
   * what it opens, because that call's `Scope` may end before others use the value. It must not ask the cache for its own
   * key: it would wait for itself.
   */
  readonly lookup: (key: K) => Effect.Effect<A, E, R>
}

/**
 * Creates a cache: with `lookup` one that is asked with `get`, without it one whose work is given with each call to
 * `execute`. Options that make no sense are a defect, not an error.
 */
export function make<K extends Key, A, E, R>(options: LookupOptions<K, A, E, R>): Effect.Effect<LookupCache<K, A, E, R>>
export function make<K extends Key, A, E = never>(options: Options<K, A, E>): Effect.Effect<Cache<K, A, E>>
export function make<K extends Key, A, E, R>(
  options: Options<K, A, E> & Partial<Pick<LookupOptions<K, A, E, R>, "lookup">>
): Effect.Effect<Cache<K, A, E>> {
  return Effect.sync(() => {
    const cache = makeUnsafe(options)
    const { lookup } = options
    if (lookup === undefined) return cache
    return { ...cache, get: (key: K) => cache.execute({ key })(Effect.suspend(() => lookup(key))) }
  })
}

const makeUnsafe = <K extends Key, A, E>(options: Options<K, A, E>): Cache<K, A, E> => {
  const { onHit, onJoin } = options
  const millisToLive = millisOf(options.timeToLive)
  const kept = new Kept<K, Exit.Exit<A, E>>(atLeastOne("capacity", options.capacity))
  let hits = 0

  const hit = (key: K, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E> | undefined => {
    const exit = kept.use(key, fiber)
    if (exit === undefined) return undefined
    hits++
    return onHit === undefined ? exit : flights.observed(onHit, key, exit)
  }

  const shared = flights.make<K, A, E>({
    find: hit,
    land: (key, exit, fiber) => kept.put(key, exit, millisToLive(exit, key), fiber)
  })

  const miss = <R>(key: K, fiber: Fiber.Fiber<unknown, unknown>, work: Effect.Effect<A, E, R>) => {
    kept.sweep(2, fiber)
    const answer = flights.join(shared, fiber, key, work)
    return onJoin === undefined || !shared.byKey.has(key) ? answer : flights.observed(onJoin, key, answer)
  }

  return {
    execute:
      ({ key }) =>
      (self) =>
        Effect.withFiber((fiber) => hit(key, fiber) ?? miss(key, fiber, self)),
    getIfPresent: (key) =>
      Effect.withFiberSucceed((fiber) => {
        const exit = kept.peek(key, fiber)
        return exit !== undefined && Exit.isSuccess(exit) ? Option.some(exit.value) : Option.none()
      }),
    set: (key, value) =>
      Effect.withFiberSucceed((fiber) => {
        const exit = Exit.succeed(value)
        const millis = millisToLive(exit, key)
        shared.byKey.delete(key)
        kept.sweep(2, fiber)
        kept.put(key, exit, millis, fiber)
      }),
    invalidate: (key) =>
      Effect.sync(() => {
        shared.byKey.delete(key)
        kept.delete(key)
      }),
    invalidateAll: Effect.sync(() => {
      shared.byKey.clear()
      kept.clear()
    }),
    removeExpired: removeExpired(kept),
    stats: Effect.sync(() => ({
      size: kept.size,
      pending: shared.pending,
      hits,
      misses: shared.started,
      joined: shared.joined,
      evictions: kept.evictions,
      expirations: kept.expirations
    }))
  }
}

// A slice at a time, so that other fibers run in between: at 1,000 entries a slice is a matter of microseconds.
const removeExpired = <K, V>(kept: Kept<K, V>): Effect.Effect<number> => {
  const slice = (left: number, freed: number): Effect.Effect<number> =>
    Effect.withFiber((fiber) => {
      const total = freed + kept.sweep(Math.min(left, 1000), fiber)
      return left <= 1000 ? Effect.succeed(total) : Effect.flatMap(Effect.yieldNow, () => slice(left - 1000, total))
    })
  return Effect.suspend(() => slice(kept.size, 0))
}

// The milliseconds a result is kept. A fixed length is checked and converted once, when the cache is made.
const millisOf = <K extends Key, A, E>(
  timeToLive: Options<K, A, E>["timeToLive"]
): ((exit: Exit.Exit<A, E>, key: K) => number) => {
  if (typeof timeToLive === "function") return (exit, key) => Duration.toMillis(timeToLive(exit, key))
  const millis = Duration.toMillis(timeToLive)
  return (exit) => (Exit.isSuccess(exit) ? millis : 0)
}

const atLeastOne = (name: string, value: number): number => {
  if (Number.isInteger(value) && value >= 1) return value
  throw new RangeError(`Cache: ${name} must be an integer >= 1, got ${value}`)
}
