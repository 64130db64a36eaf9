/**
 * Counts requests by key, for the rate limits of a server.
 *
 * A request takes its cost of every limit that it is under in one atomic step, or of none of them; each says what is left of
 * it, and when a refused request would go through. The store reads the time itself, so that servers that share one agree.
 *
 * The memory store is local to the process, its time is monotonic, and its size is bounded in bytes. A key of which nothing
 * is taken any more is forgotten, which changes nothing for it. At the bound, the keys go that have taken the smallest part
 * of their limit, of those with as little the oldest: whoever comes with a million new keys makes each other's keys go, and
 * not those that are near their limit. What a key gains by that is the little it had taken.
 *
 * | defaults | `maxBytes` of the memory store 64 MiB: about 140,000 keys with a short log each |
 */
import { Context, Duration, Effect, Layer, Schema } from "effect"
import { SteadyClock } from "../internal/limitLine.ts"
import { outOfRange, toNumbers } from "../internal/limits.ts"
import { KeyedMeters } from "../internal/keyedMeters.ts"
import type { Numbers } from "../internal/meter.ts"

/**
 * How many requests are let through, and how they are counted.
 *
 * - `sliding-window`: a log. No window of that length ever sees more than the limit, and nothing is refused below it; with
 *   more than 100 requests in the window, one can come back a hundredth of it late. Memory grows with the limit, up to that.
 * - `sliding-window-counter`: two numbers, weighted. Up to twice the limit at the edge of windows; for high limits.
 * - `gcra`: two numbers. `burst` at once, then one every `window / limit`. At most `burst + limit` in any window.
 * - `token-bucket`: the same as `gcra`, told as tokens that come back.
 */
export interface Policy {
  /** How requests are counted. Defaults to "sliding-window". */
  readonly algorithm?: "sliding-window" | "sliding-window-counter" | "gcra" | "token-bucket" | undefined
  /** Requests per window: at least 1. */
  readonly limit: number
  /** The length of the window: over zero. */
  readonly window: Duration.Input
  /** Requests at once, for "gcra" and "token-bucket" only: at least 1. Defaults to the limit. */
  readonly burst?: number | undefined
}

/** A request under one limit. */
export interface Take {
  /** What the requests are counted by, once among those taken together: the name of the limit and whose request it is. */
  readonly key: string
  readonly policy: Policy
  /** What the request takes of the limit: over zero. */
  readonly cost: number
}

/** What one limit says about a request. */
export interface Decision {
  /** Whether this limit lets it through. */
  readonly allowed: boolean
  /** What is left of the limit, with a fraction where the algorithm has one. */
  readonly remaining: number
  /** How long until nothing is taken any more, if no more requests come. */
  readonly resetAfter: Duration.Duration
  /** The shortest wait, in whole milliseconds, after which it would go through: zero if it does, infinite if it never can. */
  readonly retryAfter: Duration.Duration
}

/** The store cannot be reached or does not answer in time. */
export class RateLimitStoreError extends Schema.TaggedError<RateLimitStoreError>()("RateLimitStoreError", {
  cause: Schema.Defect()
}) {
  override get message() {
    return "The store of rate limits did not answer"
  }
}

/** Counts requests. An implementation fails rather than hangs, and decides in one atomic step. */
export class RateLimitStore extends Context.Service<
  RateLimitStore,
  {
    /**
     * Takes the cost of each, if all of them are there; otherwise takes nothing. Says, in the same order, what each limit
     * says. Another limit or window for a known key applies at once, and what was taken stays taken.
     */
    readonly take: (takes: ReadonlyArray<Take>) => Effect.Effect<ReadonlyArray<Decision>, RateLimitStoreError>
  }
>()("effect-resilience/http/RateLimitStore") {}

/** The bound of a memory store. */
export interface MemoryOptions {
  /** About how many bytes it takes at most: at least 64 KiB. Defaults to 64 MiB. */
  readonly maxBytes?: number | undefined
}

/** What a memory store holds. */
export interface MemoryStatistics {
  readonly keys: number
  /** What the keys take, by estimate. */
  readonly bytes: number
  /** Keys that had to go while something of their limit was taken. If this grows without an attack, `maxBytes` is small. */
  readonly evictions: number
}

/** A store in memory, which tells what it holds. */
export type MemoryStore = RateLimitStore["Service"] & { readonly statistics: Effect.Effect<MemoryStatistics> }

/** Creates a store in memory that knows no key. Options that make no sense are a defect, not an error. */
export const makeMemory = (options: MemoryOptions = {}): Effect.Effect<MemoryStore> =>
  Effect.sync(() => {
    const maxBytes = options.maxBytes ?? 64 * 1024 * 1024
    if (!(maxBytes >= 65_536 && maxBytes < Infinity)) {
      throw outOfRange("RateLimitStore", "maxBytes", maxBytes, "a finite number >= 65536")
    }
    const clock = new SteadyClock()
    const meters = new KeyedMeters(maxBytes)
    return {
      take: (takes) =>
        Effect.withFiber((fiber) => {
          const now = clock.read(fiber)
          const found = takes.map(({ cost, key, policy }) => {
            if (!(cost > 0 && cost < Infinity)) throw outOfRange("RateLimitStore", "cost", cost, "over 0 and finite")
            const keyed = meters.find(key, numbersOf(policy), now)
            return { keyed, cost, waitMillis: keyed.meter.waitMillis(now, cost) }
          })
          if (found.every(({ waitMillis }) => waitMillis === 0)) {
            for (const { cost, keyed } of found) meters.take(keyed, cost, now)
          }
          return Effect.succeed(
            found.map(({ keyed: { meter }, waitMillis }) => ({
              allowed: waitMillis === 0,
              remaining: meter.tokens(now),
              resetAfter: Duration.millis(meter.waitMillis(now, meter.maxCost)),
              retryAfter: Duration.millis(waitMillis)
            }))
          )
        }),
      statistics: Effect.sync(() => ({ keys: meters.size, bytes: meters.bytes, evictions: meters.evictions }))
    }
  })

/** Provides `RateLimitStore` in memory. */
export const layerMemory = (options?: MemoryOptions): Layer.Layer<RateLimitStore> =>
  Layer.effect(RateLimitStore, makeMemory(options))

const known = new WeakMap<Policy, Numbers>()

/** The numbers of a policy, checked once. */
const numbersOf = (policy: Policy): Numbers => {
  const before = known.get(policy)
  if (before !== undefined) return before
  const numbers = checkPolicy("RateLimitStore", policy)
  known.set(policy, numbers)
  return numbers
}

/** Checks a policy, in the name of the module that was given it. */
export const checkPolicy = (module: string, policy: Policy): Numbers => {
  const { algorithm = "sliding-window", burst, limit, window } = policy
  if (!(limit >= 1 && limit < Infinity)) throw outOfRange(module, "limit", limit, "a finite number >= 1")
  switch (algorithm) {
    case "gcra":
      return toNumbers(module, { algorithm, limit, window, burst })
    case "token-bucket": {
      const seconds = Duration.toSeconds(window)
      if (!(seconds > 0 && seconds < Infinity)) {
        throw outOfRange(module, "window", seconds * 1000, "a finite duration over zero")
      }
      const capacity = burst ?? limit
      if (!(capacity >= 1 && capacity < Infinity)) throw outOfRange(module, "burst", capacity, "a finite number >= 1")
      return toNumbers(module, { algorithm, capacity, refillPerSecond: limit / seconds })
    }
    default:
      return toNumbers(module, { algorithm, limit, window })
  }
}
