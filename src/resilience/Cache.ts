/**
 * Keeps the results of calls for a time, so that a repeated call is answered at once.
 *
 * A call whose key is kept is answered in one synchronous step. Otherwise the first caller's work runs and those who
 * come meanwhile wait for it, as in `SingleFlight`: it goes on while anyone waits, without the deadline of whoever
 * started it. After its time a success can still be of use: while it is refreshed, or when that fails (RFC 5861).
 *
 * Put it outside everything but a fallback, so a hit takes no permit, no token and no time.
 *
 * At most `capacity` results and `maxWeight` are kept: the least recently used makes room. Every miss and every `set` also
 * looks at two more of them and frees those whose time has passed; `removeExpired` looks at all.
 */
import { Cause, Duration, Effect, Exit, Fiber, Option, Random, Scope } from "effect"
import * as flights from "./internal/flights.ts"
import { type Demands, type Entry, Kept } from "./internal/kept.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { emit, nameOf } from "./internal/telemetry.ts"

/** Kept results of calls that succeed with `A` or fail with `E`. */
export interface Cache<K extends Key, A, E = never> {
  /** Answers with the result kept for the key, waits for the run of the same key, or runs the effect. */
  readonly execute: (
    options: { readonly key: K } & CallOptions<K, A, E>
  ) => <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /**
   * Answers for many keys, with one look-up for those that are neither kept nor being looked up. Keys that the look-up
   * leaves out are left out of the answer, and of them nothing is kept. Fails when one of the keys fails, after all have
   * ended. Each key counts as a call.
   */
  readonly getMany: <R>(options: ManyOptions<K, A, E, R>) => Effect.Effect<ReadonlyMap<K, A>, E, R>
  /** Reads a kept success in its time. Runs nothing, waits for nothing, and counts neither as a hit nor as a use. */
  readonly getIfPresent: (key: K) => Effect.Effect<Option.Option<A>>
  /**
   * Keeps a value. It replaces what a run under way will bring, which then only goes to those who wait for it; a refresh
   * that nobody waits for is interrupted.
   */
  readonly set: (
    key: K,
    value: A,
    options?: { readonly timeToLive?: TimeToLive<K, A, E> | undefined }
  ) => Effect.Effect<void>
  /** Forgets a key. A run under way still goes to those who wait for it, but is not kept and not joined. */
  readonly invalidate: (key: K) => Effect.Effect<void>
  /**
   * Forgets every result with the tag, 1,000 at a time. A run under way is not kept if its result has the tag, and whoever
   * asks from now on does not get it.
   */
  readonly invalidateTag: (tag: string) => Effect.Effect<void>
  /**
   * Forgets every result of which the predicate is true, 1,000 entries at a time. A run under way is not kept if the
   * predicate is true of its result, and whoever asks from now on does not get it.
   */
  readonly invalidateWhere: (predicate: (key: K, exit: Exit.Exit<A, E>) => boolean) => Effect.Effect<void>
  /** Forgets every key, as `invalidate` does. */
  readonly invalidateAll: Effect.Effect<void>
  /**
   * Frees every result whose time has passed, 1,000 entries at a time, and succeeds with their number. In a cache that
   * may fall silent for long: `cache.removeExpired.pipe(Effect.repeat(Schedule.spaced("1 minute")), Effect.forkScoped)`.
   */
  readonly removeExpired: Effect.Effect<number>
  /** Counts what is kept now and what happened so far. */
  readonly statistics: Effect.Effect<Statistics>
}

/** A cache that knows how to find what it does not have. */
export interface LookupCache<K extends Key, A, E = never, R = never> extends Cache<K, A, E> {
  /** Answers with the result kept for the key, waits for the look-up of the same key, or looks it up. */
  readonly get: (key: K) => Effect.Effect<A, E, R>
  /** Does what `get` does, in the way this call wants it. */
  readonly getWith: (options: { readonly key: K } & CallOptions<K, A, E>) => Effect.Effect<A, E, R>
}

/** A key that is equal by value. Build one from an object: `${platform}:${user}`. */
export type Key = flights.Key

/**
 * How long a result is kept: a success for this long and a failure not at all, or what the function says of each. Zero
 * means not at all. A result may be kept up to a millisecond longer. The function runs once per result and `set`, in the
 * step that keeps the result.
 */
export type TimeToLive<K, A, E> = Duration.Input | ((exit: Exit.Exit<A, E>, key: K) => Duration.Input)

/** What one call wants otherwise. */
export interface CallOptions<K, A, E> {
  /** Makes the call as if there were no cache: reads, shares and keeps nothing, and is not counted. Defaults to false. */
  readonly skipCache?: boolean | undefined
  /** How long the result is kept if this call starts the run. Defaults to the cache's. */
  readonly timeToLive?: TimeToLive<K, A, E> | undefined
}

/** Many keys, and how to find those that are not kept. */
export interface ManyOptions<K, A, E, R> extends CallOptions<K, A, E> {
  /** The keys asked for. Each is asked once, however often it is there. */
  readonly keys: Iterable<K>
  /**
   * Finds several keys at once; never runs for none. Keys it leaves out have no answer, keys nobody asked for are ignored. An
   * upstream that takes only so many at a time: split them here.
   */
  readonly lookup: (keys: ReadonlyArray<K>) => Effect.Effect<ReadonlyMap<K, A>, E, R>
}

/** Why a caller gets a value whose time has passed. */
export interface Stale<E> {
  /** For how long its time has passed. */
  readonly staleFor: Duration.Duration
  /** Why the last refresh failed: `undefined` if none has since the value was kept. */
  readonly cause: Cause.Cause<E> | undefined
}

/** A cache in numbers. Calls are `hits + misses + joined`. */
export interface Statistics {
  /** Results kept, at most `capacity`. Includes those whose time has passed and that were not freed yet. */
  readonly size: number
  /** What the results kept weigh together, at most `maxWeight`. 0 without `weigh`. */
  readonly weight: number
  /** Runs that have not ended, refreshes included. */
  readonly pending: number
  /** Calls answered with a kept result, stale ones included. */
  readonly hits: number
  /** Calls that started a run. */
  readonly misses: number
  /** Calls that waited for the run of another. */
  readonly joined: number
  /** Calls answered with a value whose time had passed: at once, or when the run they waited for failed. */
  readonly stale: number
  /** Keys whose refresh in the background was started. */
  readonly refreshes: number
  /** Keys whose refresh in the background failed. */
  readonly refreshFailures: number
  /** Results that made room for others before their time had passed. */
  readonly evictions: number
  /** Results freed because they were of no more use. */
  readonly expirations: number
}

/**
 * What is kept, and for how long.
 *
 * | option | default |
 * | --- | --- |
 * | `capacity`, `timeToLive` | none: to be given |
 * | `jitter` | 0 |
 * | `idleTimeToLive` | Infinity: use does not matter |
 * | `maxWeight`, `weigh` | no bound, each result weighs 0 |
 * | `tags` | none |
 * | `staleIfError` | 0: no stale value stands in for a failure |
 * | `staleOn` | every failure and defect |
 * | `refresh` | nothing in the background |
 * | `refresh.staleWhileRevalidate` | 0 |
 * | `refresh.ahead` | 0 |
 * | `refresh.maxConcurrent` | 16 |
 */
export interface Options<K extends Key, A, E> {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /** Results kept at most: an integer of at least 1. */
  readonly capacity: number
  /**
   * How long a result is kept. A function keeps failures too (negative caching), each for its own time: `(exit) =>
   * Exit.isSuccess(exit) ? "1 hour" : "10 seconds"`.
   */
  readonly timeToLive: TimeToLive<K, A, E>
  /**
   * By which share of itself, at most, a time to live is shortened at random, so that what was kept together does not
   * expire together: at least 0, under 1. Reads `Random` of the run. Defaults to 0.
   */
  readonly jitter?: number | undefined
  /**
   * How long a result is kept without being used; that ends it for good, also as a stale value. Every kind of result for
   * this long, or what the function says of each. Defaults to Infinity.
   */
  readonly idleTimeToLive?: TimeToLive<K, A, E> | undefined
  /** What the results kept may weigh together: an integer of at least 1. A heavier one is not kept. Defaults to no bound. */
  readonly maxWeight?: number | undefined
  /** What a result weighs, in bytes for instance: an integer of at least 0. Runs once per result. Defaults to 0 for each. */
  readonly weigh?: ((exit: Exit.Exit<A, E>, key: K) => number) | undefined
  /** What a result can be invalidated by beside its key. Defaults to nothing. */
  readonly tags?: ((exit: Exit.Exit<A, E>, key: K) => Iterable<string>) | undefined
  /**
   * For how long after its time a success stands in for a failure: calls run their work, and are answered with the stale
   * value when that fails. While `timeToLive` would keep the failure, they are answered at once. Defaults to 0.
   */
  readonly staleIfError?: Duration.Input | undefined
  /**
   * Which failures leave a success that is kept as it is, so that it can be answered instead. Any other is an answer of
   * its own and replaces it, as `timeToLive` says. Defaults to every failure and defect.
   */
  readonly staleOn?: ((cause: Cause.Cause<E>, key: K) => boolean) | undefined
  /** Runs in a call that is answered with a kept result in its time; its defect is logged and ignored. Defaults to nothing. */
  readonly onHit?: ((key: K) => Effect.Effect<unknown>) | undefined
  /** Runs in a call that is about to wait for another's run; its defect is logged and ignored. Defaults to nothing. */
  readonly onJoin?: ((key: K) => Effect.Effect<unknown>) | undefined
  /** Runs in a call that is answered with a stale value; its defect is logged and ignored. Defaults to nothing. */
  readonly onStale?: ((key: K, stale: Stale<E>) => Effect.Effect<unknown>) | undefined
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

/** The background work of a cache that refreshes its results. */
export interface RefreshOption<K, E> {
  /** When results are refreshed. `undefined` for never. */
  readonly refresh: RefreshOptions<K, E> | undefined
}

/**
 * When a success is refreshed in the background: the call that finds it is answered at once, and its work runs in a fiber
 * of the cache, at most once at a time for a key. It is stopped by whatever replaces or forgets the result. A failure
 * leaves the result as it is, and while `timeToLive` would keep it there is no other attempt. Bound the time of the work: a
 * refresh that hangs holds its place.
 */
export interface RefreshOptions<K, E> {
  /** For how long after its time a success is still answered while it is refreshed. Defaults to 0. */
  readonly staleWhileRevalidate?: Duration.Input | undefined
  /** The last share of a time to live in which a hit starts a refresh: at least 0, under 1. Defaults to 0. */
  readonly ahead?: number | undefined
  /** Refreshes at the same time: an integer of at least 1. At the limit none is started until one ends. Defaults to 16. */
  readonly maxConcurrent?: number | undefined
  /**
   * Runs in a refresh that failed, which no caller sees; its defect is logged and ignored. Defaults to logging a defect at
   * `References.UnhandledLogLevel`, and nothing of a failure.
   */
  readonly onFailure?: ((keys: ReadonlyArray<K>, cause: Cause.Cause<E>) => Effect.Effect<unknown>) | undefined
}

/**
 * Creates a cache: with `lookup` one that is asked with `get`, without it one whose work is given with each call to
 * `execute`. Options that make no sense are a defect, not an error.
 *
 * With `refresh` it needs a scope. When that closes, the refreshes under way are interrupted, except those that someone
 * waits for; the cache works on without any.
 */
export function make<K extends Key, A, E, R>(
  options: LookupOptions<K, A, E, R> & RefreshOption<K, E>
): Effect.Effect<LookupCache<K, A, E, R>, never, Scope.Scope>
export function make<K extends Key, A, E, R>(options: LookupOptions<K, A, E, R>): Effect.Effect<LookupCache<K, A, E, R>>
export function make<K extends Key, A, E = never>(
  options: Options<K, A, E> & RefreshOption<K, E>
): Effect.Effect<Cache<K, A, E>, never, Scope.Scope>
export function make<K extends Key, A, E = never>(options: Options<K, A, E>): Effect.Effect<Cache<K, A, E>>
export function make<K extends Key, A, E, R>(
  options: AnyOptions<K, A, E> & Partial<Pick<LookupOptions<K, A, E, R>, "lookup">>
): Effect.Effect<Cache<K, A, E>, never, Scope.Scope> {
  const { lookup } = options
  const withLookup = ({ answered, cache }: ReturnType<typeof makeUnsafe<K, A, E>>) => {
    if (lookup === undefined) return cache
    return {
      ...cache,
      get: (key: K) => answered(key, lookup, undefined),
      getWith: ({ key, skipCache, timeToLive }: { readonly key: K } & CallOptions<K, A, E>) =>
        skipCache === true ? Effect.suspend(() => lookup(key)) : answered(key, lookup, timeToLive)
    }
  }
  if (options.refresh === undefined) return Effect.sync(() => withLookup(makeUnsafe(options)))
  return Effect.flatMap(
    Effect.sync(() => makeUnsafe(options)),
    (made) =>
      Effect.as(
        Effect.addFinalizer(() => made.close),
        withLookup(made)
      )
  )
}

type AnyOptions<K extends Key, A, E> = Options<K, A, E> & Partial<RefreshOption<K, E>>

type MillisOf<K, A, E> = (exit: Exit.Exit<A, E>, key: K) => number

const makeUnsafe = <K extends Key, A, E>(options: AnyOptions<K, A, E>) => {
  const { onHit, onJoin, onStale, refresh, staleOn = () => true } = options
  const millisToLive = millisOf(options.timeToLive)
  const jitter = share("jitter", options.jitter ?? 0)
  const maxWeight = atLeastOne("maxWeight", options.maxWeight, Infinity)
  const staleIfErrorMillis = notNegative("staleIfError", options.staleIfError ?? 0)
  const ahead = share("refresh.ahead", refresh?.ahead ?? 0)
  const maxRefreshes = atLeastOne("refresh.maxConcurrent", refresh?.maxConcurrent, 16)
  const revalidateMillis = notNegative("refresh.staleWhileRevalidate", refresh?.staleWhileRevalidate ?? 0)

  const onFailure = refresh?.onFailure ?? reportDefect

  const demandsOf = demandsFor(options, Math.max(staleIfErrorMillis, revalidateMillis), ahead, revalidateMillis > 0)
  const refreshes = new Set<flights.Run<K, A, E>>()
  const kept = new Kept<K, Exit.Exit<A, E>>(atLeastOne("capacity", options.capacity), maxWeight)
  const counts = { hits: 0, stale: 0, refreshes: 0, refreshFailures: 0 }
  let closed = false

  const hit = (key: K, exit: Exit.Exit<A, E>): Effect.Effect<A, E> => {
    counts.hits++
    return onHit === undefined ? exit : flights.observed(onHit, key, exit)
  }

  const stale = (entry: Entry<K, Exit.Exit<A, E>>, staleMillis: number, cause: Cause.Cause<E> | undefined) => {
    counts.stale++
    emit(() => ({
      _tag: "AnsweredStale",
      primitive: "Cache",
      name: options.name,
      staleForMillis: staleMillis,
      error: cause === undefined ? undefined : nameOf(Cause.squash(cause))
    }))
    if (onStale === undefined) return entry.value
    const hook = (key: K) => onStale(key, { staleFor: Duration.millis(staleMillis), cause })
    return flights.observed(hook, entry.key, entry.value)
  }

  // What an entry says to a call that has just used it: `undefined` if the call has to look for something better.
  const answer = (entry: Entry<K, Exit.Exit<A, E>>): Effect.Effect<A, E> | undefined => {
    const { terms } = entry
    if (terms === undefined || terms.usedAt < terms.freshUntil) return hit(entry.key, entry.value)
    const staleMillis = terms.usedAt - terms.freshUntil
    const revalidates = staleMillis < revalidateMillis && !closed
    if (!revalidates && !(staleMillis < staleIfErrorMillis && terms.usedAt < terms.retryFrom)) return undefined
    counts.hits++
    // Only `land` below writes it, with the cause of a failure of this cache.
    return stale(entry, staleMillis, terms.failure as Cause.Cause<E> | undefined)
  }

  const isDue = ({ key, terms }: Entry<K, Exit.Exit<A, E>>): boolean =>
    terms !== undefined &&
    terms.usedAt >= terms.refreshFrom &&
    terms.usedAt >= terms.retryFrom &&
    refreshes.size < maxRefreshes &&
    !closed &&
    flights.underWay(shared, key) === undefined

  const shared = flights.make<K, A, E, MillisOf<K, A, E>>({
    find: (key, fiber, since) => {
      if (since === kept.changes) return undefined
      const entry = kept.use(key, fiber)
      return entry === undefined ? undefined : answer(entry)
    },
    land: (key, exit, fiber, millisToLive) => {
      const millis = shortened(millisToLive(exit, key), fiber)
      // What is still kept is a success: nobody runs anything for a failure that is kept.
      const entry = demandsOf === undefined || Exit.isSuccess(exit) ? undefined : kept.peek(key, fiber)
      if (entry?.terms === undefined || Exit.isSuccess(exit) || !staleOn(exit.cause, key)) {
        kept.put(key, exit, millis, fiber, demandsOf?.(exit, key, millis))
        return undefined
      }
      const now = nowMillisUnsafe(fiber)
      kept.changes++
      entry.terms.failure = exit.cause
      entry.terms.retryFrom = millis > 0 ? now + millis : now
      const staleMillis = now - entry.terms.freshUntil
      return staleMillis < staleIfErrorMillis ? Effect.suspend(() => stale(entry, staleMillis, exit.cause)) : undefined
    }
  })

  const shortened = (millis: number, fiber: Fiber.Fiber<unknown, unknown>): number =>
    jitter === 0 ? millis : millis * (1 - jitter * fiber.getRef(Random.Random).nextDoubleUnsafe())

  const startRefresh = <B, R>(
    keys: ReadonlyArray<K>,
    fiber: Fiber.Fiber<unknown, unknown>,
    work: Effect.Effect<B, E, R>,
    split: flights.Split<K, A, E, B>,
    millisToLive: MillisOf<K, A, E>
  ) => {
    counts.refreshes += keys.length
    const watched = Effect.tapCause(work, (cause) => {
      counts.refreshFailures += keys.length
      emit(() => ({
        _tag: "RefreshFailed",
        primitive: "Cache",
        name: options.name,
        keys: keys.length,
        error: nameOf(Cause.squash(cause))
      }))
      return flights.observed((failed) => onFailure(failed, cause), keys, Effect.void)
    })
    const run = flights.startOwned(shared, fiber, keys, watched, split, millisToLive)
    refreshes.add(run)
    run.fiber?.addObserver(() => refreshes.delete(run))
  }

  const miss = <R>(
    key: K,
    fiber: Fiber.Fiber<unknown, unknown>,
    work: (key: K) => Effect.Effect<A, E, R>,
    millisToLive: MillisOf<K, A, E>
  ) => {
    kept.sweep(2, fiber)
    const answer = flights.join(shared, fiber, key, work, millisToLive, kept.changes)
    return onJoin === undefined || flights.underWay(shared, key) === undefined
      ? answer
      : flights.observed(onJoin, key, answer)
  }

  const getMany = <R>(
    fiber: Fiber.Fiber<unknown, unknown>,
    { keys, lookup, timeToLive }: ManyOptions<K, A, E, R>
  ): Effect.Effect<ReadonlyMap<K, A>, E, R> => {
    const millis = timeToLive === undefined ? millisToLive : millisOf(timeToLive)
    const answers = new Map<K, Effect.Effect<A, E>>()
    const missing: Array<K> = []
    const due: Array<K> = []
    for (const key of keys) {
      if (answers.has(key)) continue
      const entry = kept.use(key, fiber)
      const found = entry === undefined ? undefined : answer(entry)
      answers.set(key, found ?? flights.nothing)
      if (found === undefined) missing.push(key)
      else if (entry !== undefined && isDue(entry)) due.push(key)
    }
    if (due.length > 0)
      startRefresh(
        due,
        fiber,
        Effect.suspend(() => lookup(due)),
        flights.part,
        millis
      )
    if (missing.length === 0) return together(answers)
    kept.sweep(2 * missing.length, fiber)
    const joined = onJoin === undefined ? [] : missing.filter((key) => flights.underWay(shared, key) !== undefined)
    const found = Effect.flatMap(flights.joinMany(shared, fiber, missing, lookup, millis), (more) => {
      for (const [key, answer] of more) answers.set(key, answer)
      return together(answers)
    })
    return onJoin === undefined
      ? found
      : joined.reduceRight((next: typeof found, key) => flights.observed(onJoin, key, next), found)
  }

  // Forgets what is no longer true of what is kept and of what is on its way.
  const invalidateBy = (doubt: flights.Doubt<K, A, E>, tag?: string): Effect.Effect<void> =>
    Effect.suspend(() => {
      flights.doubtAll(shared, doubt)
      const entries = kept.entries(tag)
      const iterator = entries.values()
      return inSlices(entries.size, (count) => {
        for (let i = 0; i < count; i++) {
          const next = iterator.next()
          if (next.done === true) return
          if (tag !== undefined || doubt(next.value.key, next.value.value)) kept.delete(next.value.key)
        }
      })
    })

  // What is kept is answered in one step, and the work made only for a key that is not.
  const answered = <R>(
    key: K,
    work: (key: K) => Effect.Effect<A, E, R>,
    timeToLive: TimeToLive<K, A, E> | undefined
  ): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber) => {
      const entry = kept.use(key, fiber)
      if (entry !== undefined && entry.terms === undefined) return hit(key, entry.value)
      const millis = timeToLive === undefined ? millisToLive : millisOf(timeToLive)
      const found = entry === undefined ? undefined : answer(entry)
      if (entry === undefined || found === undefined) return miss(key, fiber, work, millis)
      if (isDue(entry))
        startRefresh(
          [key],
          fiber,
          Effect.suspend(() => work(key)),
          flights.whole,
          millis
        )
      return found
    })

  const cache: Cache<K, A, E> = {
    execute:
      ({ key, skipCache, timeToLive }) =>
      (self) =>
        skipCache === true ? self : answered(key, () => self, timeToLive),
    getMany: (many) =>
      Effect.withFiber((fiber) => (many.skipCache === true ? withoutCache(many) : getMany(fiber, many))),
    getIfPresent: (key) =>
      Effect.withFiberSucceed((fiber) => {
        const entry = kept.peek(key, fiber)
        if (entry === undefined || Exit.isFailure(entry.value)) return Option.none()
        return entry.terms === undefined || nowMillisUnsafe(fiber) < entry.terms.freshUntil
          ? Option.some(entry.value.value)
          : Option.none()
      }),
    set: (key, value, call) =>
      Effect.withFiberSucceed((fiber) => {
        const exit = Exit.succeed(value)
        const millisOfSet = call?.timeToLive === undefined ? millisToLive : millisOf(call.timeToLive)
        const millis = shortened(millisOfSet(exit, key), fiber)
        const demands = demandsOf?.(exit, key, millis)
        flights.cutOff(shared, key)
        kept.sweep(2, fiber)
        kept.put(key, exit, millis, fiber, demands)
      }),
    invalidate: (key) =>
      Effect.sync(() => {
        flights.cutOff(shared, key)
        kept.delete(key)
      }),
    invalidateTag: (tag) => {
      const { tags } = options
      if (tags === undefined) return Effect.void
      return invalidateBy((key, exit) => new Set(tags(exit, key)).has(tag), tag)
    },
    invalidateWhere: (predicate) => invalidateBy(predicate),
    invalidateAll: Effect.sync(() => {
      flights.cutOffAll(shared)
      kept.clear()
    }),
    removeExpired: Effect.withFiber((fiber) => {
      let freed = 0
      return Effect.map(
        inSlices(kept.size, (count) => (freed += kept.sweep(count, fiber))),
        () => freed
      )
    }),
    statistics: Effect.sync(() => ({
      size: kept.size,
      weight: kept.weight,
      pending: shared.pending,
      hits: counts.hits,
      misses: shared.started,
      joined: shared.joined,
      stale: counts.stale,
      refreshes: counts.refreshes,
      refreshFailures: counts.refreshFailures,
      evictions: kept.evictions,
      expirations: kept.expirations
    }))
  }

  const close = Effect.suspend(() => {
    closed = true
    return Fiber.interruptAll(
      Array.from(refreshes).flatMap((run) => {
        const fiber = flights.disown(shared, run)
        return fiber === undefined ? [] : [fiber]
      })
    )
  })

  return { answered, cache, close }
}

// What a result is kept with beside its time: nothing at all unless an option asks for it.
const demandsFor = <K extends Key, A, E>(
  options: AnyOptions<K, A, E>,
  graceMillis: number,
  ahead: number,
  revalidates: boolean
): ((exit: Exit.Exit<A, E>, key: K, millis: number) => Demands) | undefined => {
  const { tags, weigh } = options
  const idle = options.idleTimeToLive
  if (graceMillis === 0 && ahead === 0 && idle === undefined && weigh === undefined && tags === undefined) {
    return undefined
  }
  const idleMillis = idle === undefined ? () => Infinity : millisOf(idle, true)
  return (exit, key, millis) => ({
    graceMillis: Exit.isSuccess(exit) ? graceMillis : 0,
    refreshAfterMillis:
      Exit.isSuccess(exit) && ahead > 0
        ? millis * (1 - ahead)
        : Exit.isSuccess(exit) && revalidates
          ? millis
          : Infinity,
    idleMillis: idleMillis(exit, key),
    weight: weigh === undefined ? 0 : atLeastZero("what weigh returns", weigh(exit, key)),
    tags: tags === undefined ? undefined : new Set(tags(exit, key))
  })
}

const reportDefect = <E>(_: unknown, cause: Cause.Cause<E>): Effect.Effect<void> =>
  Cause.hasDies(cause) ? Effect.die(Cause.squash(cause)) : Effect.void

// A slice at a time, so that other fibers run in between: at 1,000 entries a slice is a matter of microseconds.
const inSlices = (count: number, look: (count: number) => void): Effect.Effect<void> =>
  Effect.suspend(() => {
    look(Math.min(count, 1000))
    return count <= 1000 ? Effect.void : Effect.flatMap(Effect.yieldNow, () => inSlices(count - 1000, look))
  })

const together = <K, A, E>(answers: ReadonlyMap<K, Effect.Effect<A, E>>): Effect.Effect<ReadonlyMap<K, A>, E> => {
  const found = new Map<K, A>()
  return Effect.as(
    Effect.forEach(
      answers,
      ([key, answer]) =>
        answer === flights.nothing ? Effect.void : Effect.map(answer, (value) => void found.set(key, value)),
      { discard: true }
    ),
    found
  )
}

const withoutCache = <K extends Key, A, E, R>({
  keys,
  lookup
}: ManyOptions<K, A, E, R>): Effect.Effect<ReadonlyMap<K, A>, E, R> => {
  const asked = Array.from(new Set(keys))
  if (asked.length === 0) return Effect.succeed(new Map())
  return Effect.map(lookup(asked), (answers) => {
    const found = new Map<K, A>()
    // The key is there, so what is read is an A, even if that is undefined.
    for (const key of asked) if (answers.has(key)) found.set(key, answers.get(key) as A)
    return found
  })
}

// The milliseconds a result is kept. A fixed length is checked and converted once, and says nothing of a failure unless
// `every` kind of result is meant.
const millisOf = <K, A, E>(timeToLive: TimeToLive<K, A, E>, every = false): MillisOf<K, A, E> => {
  if (typeof timeToLive === "function") return (exit, key) => Duration.toMillis(timeToLive(exit, key))
  const millis = Duration.toMillis(timeToLive)
  return (exit) => (every || Exit.isSuccess(exit) ? millis : 0)
}

const atLeastOne = (name: string, value: number | undefined, defaultValue?: number): number => {
  if (value === undefined && defaultValue !== undefined) return defaultValue
  if (value !== undefined && Number.isInteger(value) && value >= 1) return value
  throw new RangeError(`Cache: ${name} must be an integer >= 1, got ${value}`)
}

const atLeastZero = (name: string, value: number): number => {
  if (Number.isInteger(value) && value >= 0) return value
  throw new RangeError(`Cache: ${name} must be an integer >= 0, got ${value}`)
}

const share = (name: string, value: number): number => {
  if (value >= 0 && value < 1) return value
  throw new RangeError(`Cache: ${name} must be at least 0 and under 1, got ${value}`)
}

const notNegative = (name: string, input: Duration.Input): number => {
  const millis = Duration.toMillis(input)
  if (millis >= 0) return millis
  throw new RangeError(`Cache: ${name} must not be negative, got ${Duration.format(Duration.fromInputUnsafe(input))}`)
}
