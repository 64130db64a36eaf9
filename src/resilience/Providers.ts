/**
 * Keeps one live policy for each provider, by name, and changes them while calls are running.
 *
 * `reload` takes the profiles of all providers. Only parts whose numbers changed are made anew: circuits, caches, queues and
 * tokens of the others keep their state, and another size of a bulkhead or rate of a limiter is set in the one that is in
 * use. A running call ends under the policy it began with, and what only such calls still use is closed when the last of
 * them has ended. Profiles that cannot be used change nothing.
 *
 * Local to the process.
 *
 * | defaults | `maxProviders` 1,000 |
 */
import { Config, Context, Effect, Exit, Layer, Schema, Scope, Semaphore, Stream } from "effect"
import type * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
import type * as AdaptiveTimeout from "./AdaptiveTimeout.ts"
import type * as Cache from "./Cache.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import type { Fallback } from "./Fallback.ts"
import type * as Hedge from "./Hedge.ts"
import { build, compose, type Execute, limitOf, type PartName, partNames, specsOf } from "./internal/profileParts.ts"
import { notified } from "./internal/notified.ts"
import { refused, withoutStack } from "./internal/refusal.ts"
import * as Profile from "./Profile.ts"
import type * as RateLimiter from "./RateLimiter.ts"
import type * as RetryBudget from "./RetryBudget.ts"

/** The providers by name. */
export interface Providers {
  /** Finds a provider. What it gives follows every reload. */
  readonly get: (name: string) => Effect.Effect<Provider, UnknownProvider>
  /**
   * Makes these profiles the profiles of all providers: those that are new are added, those that are missing removed. One
   * reload runs at a time. When it fails, nothing has changed.
   */
  readonly reload: (profiles: Profiles) => Effect.Effect<Reloaded, Profile.InvalidProfile | TooManyProviders>
  /** Reads all providers, in the order of their profiles. */
  readonly statuses: Effect.Effect<ReadonlyArray<Status>>
}

/** Profiles by name, as they are written or made. */
export interface Profiles {
  readonly [name: string]: Profile.Input
}

/** One provider. */
export interface Provider {
  readonly name: string
  /**
   * Makes a call under the profile of the provider; with a key through its cache, if it has one. Calls with one key must
   * succeed and fail with the same types: make the kind of the call a part of the key. The fallback answers last.
   */
  readonly execute: {
    <F, Handled, EF, RF, Accepts = unknown>(
      options: CallOptions & { readonly fallback: Fallback<F, Handled, EF, RF, Accepts | Errors> }
    ): <A, E extends Accepts, R>(
      self: Effect.Effect<A, E, R>
    ) => Effect.Effect<A | F, EF | Exclude<E | Errors, Handled>, R | RF>
    (
      options?: CallOptions & { readonly fallback?: undefined }
    ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Errors, R>
  }
  /** Forgets what is kept for a key. */
  readonly invalidate: (key: Cache.Key) => Effect.Effect<void, UnknownProvider>
  /** Reads the profile that new calls are made under. */
  readonly profile: Effect.Effect<Profile.Profile, UnknownProvider>
  /** Reads the parts that new calls go through. Ask again after a reload: it may have replaced some of them. */
  readonly parts: Effect.Effect<Profile.Parts, UnknownProvider>
  /** Reads how the provider stands. */
  readonly status: Effect.Effect<Status, UnknownProvider>
}

/** What one call wants. */
export interface CallOptions extends Cache.CallOptions<Cache.Key, unknown, unknown> {
  /** The key of the result in the cache. Defaults to none: the call is not kept. */
  readonly key?: Cache.Key | undefined
}

/** The errors that a call to a provider can add. */
export type Errors = Profile.Errors | UnknownProvider

/** How a provider stands. What its profile does not have is `undefined`. */
export interface Status {
  readonly name: string
  /** Calls that are running under its profile, or waiting. */
  readonly calls: number
  /** Calls that are still running under a profile from before a reload. */
  readonly finishing: number
  readonly circuit: CircuitBreaker.State | undefined
  /** The calls in the bulkhead or the adaptive limit. */
  readonly places: Places | undefined
  readonly cache: Cache.Statistics | undefined
  readonly rateLimiter: RateLimiter.State | undefined
  readonly adaptiveThrottle: AdaptiveThrottle.State | undefined
  readonly adaptiveTimeout: AdaptiveTimeout.State | undefined
  readonly hedge: Hedge.State | undefined
  readonly retryBudget: RetryBudget.State | undefined
}

/** The places of a bulkhead or an adaptive limit at one moment. */
export interface Places {
  /** Calls that may run at the same time. */
  readonly limit: number
  readonly running: number
  readonly waiting: number
}

/** What a reload has changed, by name. */
export interface Reloaded {
  readonly added: ReadonlyArray<string>
  readonly removed: ReadonlyArray<string>
  readonly changed: ReadonlyArray<Changed>
}

/** How the parts of one provider have changed. */
export interface Changed {
  readonly name: string
  /** Parts that were made anew, added or taken away. */
  readonly replaced: ReadonlyArray<keyof Profile.Parts>
  /** Parts that are the same with other numbers, state and all. */
  readonly adjusted: ReadonlyArray<keyof Profile.Parts>
}

/** The providers at first, and how many there may be. */
export interface Options {
  /** The profiles by name. */
  readonly profiles: Profiles
  /** Providers at most: an integer of at least 1. Defaults to 1,000. */
  readonly maxProviders?: number | undefined
}

/** There is no provider of this name, or no more. The call has not been made. */
export class UnknownProvider extends Schema.TaggedError<UnknownProvider>()("UnknownProvider", {
  name: Schema.String
}) {
  get [refused]() {
    return true
  }
  override get message() {
    return `There is no provider "${this.name}"`
  }
}

/** There are more profiles than there may be providers. */
export class TooManyProviders extends Schema.TaggedError<TooManyProviders>()("TooManyProviders", {
  count: Schema.Int,
  maxProviders: Schema.Int
}) {
  override get message() {
    return `${this.count} providers are more than the ${this.maxProviders} allowed`
  }
}

/**
 * Creates the providers. When the scope closes, they are all removed: running calls end as they would, new ones fail with
 * `UnknownProvider`. Options that make no sense are a defect, not an error.
 */
export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<Providers, Profile.InvalidProfile | TooManyProviders, Scope.Scope> {
  const maxProviders = options.maxProviders ?? 1000
  if (!(Number.isInteger(maxProviders) && maxProviders >= 1)) {
    throw new RangeError(`Providers: maxProviders must be an integer >= 1, got ${maxProviders}`)
  }
  const lock = yield* Semaphore.make(1)
  const byName = new Map<string, Generation>()
  // Calls by name that run under a profile from before.
  const finishing = new Map<string, number>()
  let closed = false

  const find = (name: string): Effect.Effect<Generation, UnknownProvider> =>
    Effect.suspend(() => {
      const generation = byName.get(name)
      return generation === undefined
        ? Effect.fail(withoutStack(() => new UnknownProvider({ name })))
        : Effect.succeed(generation)
    })

  const retire = (generation: Generation): Effect.Effect<void> => {
    const { calls, name } = generation
    generation.retired = true
    if (calls === 0) return release(generation)
    finishing.set(name, (finishing.get(name) ?? 0) + calls)
    return Effect.void
  }

  // Gives back the parts, and closes those that nobody else uses.
  const release = (generation: Generation): Effect.Effect<void> => {
    const unused = Array.from(generation.slots.values()).filter((slot) => --slot.users === 0)
    return unused.length === 0
      ? Effect.void
      : Effect.forEach(unused, ({ scope }) => Scope.close(scope, Exit.void), { discard: true })
  }

  const leave = (generation: Generation): Effect.Effect<void> | undefined => {
    generation.calls--
    if (!generation.retired) return undefined
    const left = (finishing.get(generation.name) ?? 0) - 1
    if (left > 0) finishing.set(generation.name, left)
    else finishing.delete(generation.name)
    return generation.calls === 0 ? Effect.asVoid(Effect.forkDetach(release(generation))) : undefined
  }

  const through = <A, E, R>(name: string, call: CallOptions, self: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      let entered: Generation | undefined
      // Inside the region of the exit handler, so no interruption can part the two.
      return Effect.onExitPrimitive(
        Effect.suspend((): Effect.Effect<A, E | Errors, R> => {
          const generation = byName.get(name)
          if (generation === undefined) return Effect.fail(withoutStack(() => new UnknownProvider({ name })))
          entered = generation
          generation.calls++
          return generation.execute(call)(self)
        }),
        () => (entered === undefined ? undefined : leave(entered))
      )
    })

  const executeOf = (name: string): Provider["execute"] => {
    const execute =
      ({ fallback, ...call }: CallOptions & { readonly fallback?: AnyFallback | undefined } = {}) =>
      (self: Effect.Effect<unknown, unknown, unknown>): Effect.Effect<unknown, unknown, unknown> => {
        const answer = through(name, call, self)
        return fallback === undefined ? answer : fallback.execute(answer)
      }
    // What the overloads say in types, as seen from inside: effects without their types.
    return execute as Provider["execute"]
  }

  const provider = (name: string): Provider => ({
    name,
    execute: executeOf(name),
    invalidate: (key) => Effect.flatMap(find(name), ({ parts }) => parts.cache?.invalidate(key) ?? Effect.void),
    profile: Effect.map(find(name), ({ profile }) => profile),
    parts: Effect.map(find(name), ({ parts }) => parts),
    status: Effect.flatMap(find(name), statusOf)
  })

  const statusOf = (generation: Generation): Effect.Effect<Status> =>
    Effect.map(stateOf(generation.parts), (state) => ({
      name: generation.name,
      calls: generation.calls,
      finishing: finishing.get(generation.name) ?? 0,
      ...state
    }))

  const change = Effect.fnUntraced(function* (profiles: ReadonlyMap<string, Profile.Profile>) {
    // First everything is made, which changes nothing, and then all is changed at once.
    const next = new Map<string, Made>()
    for (const [name, profile] of profiles) {
      yield* Effect.yieldNow
      next.set(name, yield* regenerate(name, profile, byName.get(name)))
    }

    const before = new Map(byName)
    const after = Array.from(next.values())
    byName.clear()
    for (const { generation } of after) byName.set(generation.name, generation)
    for (const { generation } of after) {
      if (before.get(generation.name) === generation) continue
      for (const slot of generation.slots.values()) slot.users++
    }
    for (const { adjust } of after) yield* adjust
    const unused = Array.from(before.values()).filter((generation) => byName.get(generation.name) !== generation)
    return {
      closing: Effect.forEach(unused.map(retire), (closing) => closing, { discard: true }),
      reloaded: {
        added: after.flatMap(({ generation }) => (before.has(generation.name) ? [] : [generation.name])),
        removed: Array.from(before.keys()).filter((name) => !byName.has(name)),
        changed: after.flatMap(({ adjusted, generation, replaced }) =>
          before.has(generation.name) && before.get(generation.name) !== generation
            ? [{ name: generation.name, replaced, adjusted }]
            : []
        )
      }
    }
  })

  const apply = Effect.fnUntraced(function* (profiles: Profiles) {
    const decoded = new Map(Object.entries(yield* Profile.decodeAll(profiles)))
    if (decoded.size > maxProviders) return yield* new TooManyProviders({ count: decoded.size, maxProviders })
    return yield* Effect.suspend(() => (closed ? Effect.succeed(nothing) : change(decoded))).pipe(
      // Nobody waits for the end of refreshes that nobody wants any more.
      Effect.tap(({ closing }) => Effect.forkDetach(closing)),
      Effect.map(({ reloaded }) => reloaded),
      Effect.uninterruptible
    )
  })
  // Decoding has its turn as well: else a reload of few profiles could overtake one of many that began before.
  const reload = (profiles: Profiles) => lock.withPermits(1)(apply(profiles))

  yield* reload(options.profiles)
  yield* Effect.addFinalizer(() =>
    lock.withPermits(1)(
      Effect.suspend(() => {
        closed = true
        return Effect.flatMap(change(new Map()), ({ closing }) => closing)
      })
    )
  )
  return {
    get: (name) => Effect.map(find(name), () => provider(name)),
    reload,
    statuses: Effect.suspend(() => Effect.forEach(Array.from(byName.values()), statusOf))
  }
})

/** The providers of a context. */
export const Providers = Context.Service<Providers>("effect-resilience/Providers")

/** Provides `Providers`. */
export const layer = (options: Options): Layer.Layer<Providers, Profile.InvalidProfile | TooManyProviders> =>
  Layer.effect(Providers, make(options))

/** Provides `Providers` whose profiles configuration changes, as `Profile.config` does: `ZEPHYR_TIMEOUT` for "zephyr". */
export const layerConfig = (
  options: Options
): Layer.Layer<Providers, Config.ConfigError | Profile.InvalidProfile | TooManyProviders> =>
  Layer.effect(
    Providers,
    Effect.flatMap(fromConfig(options.profiles), (profiles) => make({ ...options, profiles }))
  )

/** Reads profiles with what configuration changes of each: for `reload`, when the configuration may have changed. */
export const fromConfig = (profiles: Profiles): Config.Config<Readonly<Record<string, Profile.Profile>>> =>
  Config.all(Object.fromEntries(Object.entries(profiles).map(([name, base]) => [name, Profile.config(name, { base })])))

/** What becomes of reloads that a stream brings. */
export interface FollowOptions {
  /**
   * Runs when profiles could not be used; then the stream goes on. Should it die, that is logged. Defaults to a warning in
   * the log.
   */
  readonly onInvalid?: ((error: Profile.InvalidProfile | TooManyProviders) => Effect.Effect<unknown>) | undefined
}

/** Reloads with every profiles that a stream brings, one after the other, until it ends: a watched file, a poll, a message. */
export const follow = <E, R>(
  providers: Providers,
  profiles: Stream.Stream<Profiles, E, R>,
  options: FollowOptions = {}
): Effect.Effect<void, E, R> => {
  const { onInvalid = (error) => Effect.logWarning(error.message) } = options
  return Stream.runForEach(profiles, (next) =>
    Effect.catch(providers.reload(next), (error) => notified("onInvalid", onInvalid, error))
  )
}

/** A policy as it is until the next reload changes it. */
interface Generation {
  readonly name: string
  readonly profile: Profile.Profile
  readonly slots: ReadonlyMap<PartName, Slot>
  readonly parts: Profile.Parts
  readonly execute: Execute
  calls: number
  retired: boolean
}

/** A part in use. */
interface Slot {
  readonly part: unknown
  /** What it was made from, in one form of writing. */
  written: Written
  readonly scope: Scope.Closeable
  /** Generations that have it and have not been released. */
  users: number
}

interface Written {
  readonly all: string
  /** The same without the numbers that can be set while it is in use. */
  readonly fixed: string
}

interface Made {
  readonly generation: Generation
  readonly replaced: ReadonlyArray<PartName>
  readonly adjusted: ReadonlyArray<PartName>
  /** Sets the numbers of the parts that stay. */
  readonly adjust: Effect.Effect<void>
}

type AnyFallback = Fallback<unknown, unknown, unknown, unknown>

// The policy of a profile, with as many parts of the one before as are the same. Changes nothing of that.
const regenerate = Effect.fnUntraced(function* (
  name: string,
  profile: Profile.Profile,
  before: Generation | undefined
): Effect.fn.Return<Made> {
  const specs = specsOf(profile)
  const written = writtenOf(profile)
  const slots = new Map<PartName, Slot>()
  const replaced: Array<PartName> = []
  const adjusted: Array<PartName> = []
  let parts: Profile.Parts = {}
  for (const part of partNames) {
    const old = before?.slots.get(part)
    const now = written(part)
    if (now === undefined) {
      if (old !== undefined) replaced.push(part)
      continue
    }
    let slot = old
    if (slot === undefined || slot.written.fixed !== now.fixed) {
      const scope = yield* Scope.make()
      slot = { part: yield* Scope.provide(build(part, specs, parts, name), scope), written: now, scope, users: 0 }
      replaced.push(part)
    } else if (slot.written.all !== now.all) {
      adjusted.push(part)
    }
    slots.set(part, slot)
    parts = { ...parts, [part]: slot.part }
  }
  const sameOrder = (before?.profile.order ?? "standard") === (profile.order ?? "standard")
  const generation =
    before !== undefined && replaced.length === 0 && adjusted.length === 0 && sameOrder
      ? before
      : { name, profile, slots, parts, execute: compose(profile.order, parts), calls: 0, retired: false }
  const adjust = Effect.forEach(
    adjusted,
    (part) => {
      const slot = slots.get(part)
      const now = written(part)
      if (slot !== undefined && now !== undefined) slot.written = now
      return adjustTo(profile, part, parts)
    },
    { discard: true }
  )
  return { generation, replaced, adjusted, adjust }
})

// What can be set while a part is in use, so that what it holds is not lost, and not more is let through meanwhile than
// the old or the new number allows.
const adjustable: { readonly [Name in PartName]?: ReadonlyArray<string> } = {
  bulkhead: ["maxConcurrent"],
  rateLimiter: ["capacity", "refillPerSecond", "limit", "window", "burst", "interval"]
}

const adjustTo = (profile: Profile.Profile, part: PartName, parts: Profile.Parts): Effect.Effect<void> => {
  if (part === "bulkhead" && profile.bulkhead !== undefined) {
    return parts.bulkhead?.resize(profile.bulkhead.maxConcurrent) ?? Effect.void
  }
  if (part === "rateLimiter" && profile.rateLimiter !== undefined) {
    return parts.rateLimiter?.change(limitOf(profile.rateLimiter)) ?? Effect.void
  }
  return Effect.void
}

// The parts of a profile as they would be written: in the order of the fields, times in milliseconds.
const writtenOf = (profile: Profile.Profile) => {
  const encoded = Profile.encode(profile)
  const data: { readonly [Name in PartName]?: unknown } = {
    ...encoded,
    retryBudget: encoded.retry?.budget,
    hedgeBudget: encoded.hedge?.budget
  }
  return (part: PartName): Written | undefined => {
    const value = data[part]
    if (value === undefined) return undefined
    const numbers = adjustable[part] ?? []
    return {
      all: JSON.stringify(value),
      fixed: JSON.stringify(value, (key, inner: unknown) => (numbers.includes(key) ? undefined : inner))
    }
  }
}

const stateOf = (parts: Profile.Parts): Effect.Effect<Omit<Status, "name" | "calls" | "finishing">> => {
  const { adaptiveLimit, adaptiveThrottle, bulkhead, cache, circuitBreaker, hedge, rateLimiter, retryBudget, timeout } =
    parts
  return Effect.all({
    circuit: circuitBreaker?.state("default") ?? none,
    places:
      bulkhead !== undefined
        ? Effect.map(bulkhead.state, ({ maxConcurrent, running, waiting }) => ({
            limit: maxConcurrent,
            running,
            waiting
          }))
        : adaptiveLimit !== undefined
          ? Effect.map(adaptiveLimit.state, ({ limit, running, waiting }) => ({ limit, running, waiting }))
          : none,
    cache: cache?.statistics ?? none,
    rateLimiter: rateLimiter?.state ?? none,
    adaptiveThrottle: adaptiveThrottle?.state ?? none,
    adaptiveTimeout: timeout !== undefined && "execute" in timeout ? timeout.state : none,
    hedge: hedge?.state ?? none,
    retryBudget: retryBudget?.state("default") ?? none
  })
}

const none = Effect.undefined

const nothing = { closing: Effect.void, reloaded: { added: [], removed: [], changed: [] } }
