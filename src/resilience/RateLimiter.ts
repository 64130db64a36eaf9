/**
 * Limits how many calls are made per second, with a token bucket.
 *
 * A call takes a token, or its cost; `capacity` may be taken at once, `refillPerSecond` come back. Without a token it waits
 * its turn, first come first served, or fails with `RateLimited` at once when its turn would come after `maxWait` or its
 * deadline. `throttled` reports an answer like HTTP 429: it pauses the bucket and cuts the rate, which then recovers.
 *
 * Put it inside the retry, so that every attempt takes a token. Local to the process; its time is monotonic.
 *
 * | defaults   | `maxWait` 30 seconds | `maxQueued` 1,000 |
 * | `adaptive` | `factor` 0.5 | `floor` 0.1 | `recovery` 1 minute | `cooldown` 1 second | `maxPause` 1 hour |
 */
import { Config, Context, Duration, Effect, type Fiber, Layer, Schema } from "effect"
import { remainingMillisUnsafe } from "./Deadline.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { refused, withoutStack } from "./internal/refusal.ts"
import { TokenBucket } from "./internal/tokenBucket.ts"
import { type Links, Waiters } from "./internal/waiters.ts"

/** The two ways to make a call under the limit. */
export interface Calls {
  /** Runs the effect when it is its turn, or fails with `RateLimited` at once when its turn would come too late. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimited, R>
  /** Runs the effect now, or fails with `RateLimited`. It does not overtake those who wait. */
  readonly executeIfAvailable: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimited, R>
}

/** A limit on calls per second. A call costs one token. */
export interface RateLimiter extends Calls {
  /** The same limit for calls that cost another number of tokens: over zero, and at most the capacity. */
  readonly costing: (cost: number) => Calls
  /**
   * Reports that the other side found the rate too high, and for how long it asks to be left alone. The bucket pauses
   * that long and keeps at most one token, so that one call goes first when the pause ends. The rate is cut, but not
   * again within the pause or the cooldown: the answers to calls already under way belong to the same event. Waiters that
   * can no longer be served in time are refused.
   *
   * With the rate `cut` at the end of the pause, `t` seconds later it is `min(refillPerSecond, cut + refillPerSecond * t /
   * recovery)`: multiplicative decrease, additive increase (AIMD; Chiu and Jain, 1989).
   */
  readonly throttled: (retryAfter?: Duration.Input) => Effect.Effect<void>
  /** Reads the bucket and its queue. */
  readonly state: Effect.Effect<State>
}

/** A limiter at one moment. */
export interface State {
  /** The tokens in the bucket, with their fraction. */
  readonly tokens: number
  /** The rate at which tokens come back now, or when the pause ends. */
  readonly refillPerSecond: number
  readonly waiting: number
  /** How long the bucket still pauses: zero when it does not. */
  readonly pausedFor: Duration.Duration
}

/** How many calls a limiter lets through. */
export interface Options {
  /** Tokens the bucket holds, and starts with: calls that may be made at once. At least 1. */
  readonly capacity: number
  /** Tokens that come back per second: over zero, fractions allowed. */
  readonly refillPerSecond: number
  /** The longest wait for a turn. Defaults to 30 seconds. */
  readonly maxWait?: Duration.Input | undefined
  /** Calls allowed to wait. Defaults to 1,000. */
  readonly maxQueued?: number | undefined
  /** How the rate answers `throttled`. */
  readonly adaptive?: AdaptiveOptions | undefined
}

/** How the rate falls and recovers. */
export interface AdaptiveOptions {
  /** What a cut multiplies the rate by: over 0, at most 1 for no cut. Defaults to 0.5. */
  readonly factor?: number | undefined
  /** The part of `refillPerSecond` that is never cut: over 0, at most 1. Defaults to 0.1. */
  readonly floor?: number | undefined
  /** The time in which the rate grows by `refillPerSecond`: over zero. Defaults to 1 minute. */
  readonly recovery?: Duration.Input | undefined
  /** The time after a cut in which there is no other. Defaults to 1 second. */
  readonly cooldown?: Duration.Input | undefined
  /** The longest pause a `retryAfter` can cause. Defaults to 1 hour. */
  readonly maxPause?: Duration.Input | undefined
}

/** The call was refused: its turn would come too late, or the queue is full. */
export class RateLimited extends Schema.TaggedError<RateLimited>()("RateLimited", {
  /** The shortest wait, in whole milliseconds, after which the call goes through if no others come before it. */
  retryAfter: Schema.Duration,
  /** The tokens the call would have taken. */
  cost: Schema.Finite,
  /** The calls that were waiting. */
  waiting: Schema.Int
}) {
  get [refused]() {
    return true
  }
  override get message() {
    return `Rate limited: try again after ${Duration.format(this.retryAfter)} (${this.waiting} waiting)`
  }
}

/** Creates a limiter with a full bucket. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<RateLimiter> {
  const { adaptive = {}, capacity, refillPerSecond } = options
  const maxWait = Duration.toMillis(options.maxWait ?? "30 seconds")
  const maxQueued = options.maxQueued ?? 1_000
  const factor = adaptive.factor ?? 0.5
  const floor = adaptive.floor ?? 0.1
  const recoverMillis = Duration.toMillis(adaptive.recovery ?? "1 minute")
  const cooldownMillis = Duration.toMillis(adaptive.cooldown ?? "1 second")
  const maxPause = Duration.toMillis(adaptive.maxPause ?? "1 hour")
  check("capacity", capacity, "a finite number >= 1", capacity >= 1 && capacity < Infinity)
  check("refillPerSecond", refillPerSecond, "a finite number > 0", refillPerSecond > 0 && refillPerSecond < Infinity)
  check("maxWait", maxWait, "zero or more", maxWait >= 0)
  check("maxQueued", maxQueued, "an integer >= 0", Number.isInteger(maxQueued) && maxQueued >= 0)
  check("adaptive.factor", factor, "over 0 and at most 1", factor > 0 && factor <= 1)
  check("adaptive.floor", floor, "over 0 and at most 1", floor > 0 && floor <= 1)
  check(
    "adaptive.recovery",
    recoverMillis,
    "a finite duration over zero",
    recoverMillis > 0 && recoverMillis < Infinity
  )
  check(
    "adaptive.cooldown",
    cooldownMillis,
    "finite and not negative",
    cooldownMillis >= 0 && cooldownMillis < Infinity
  )
  check("adaptive.maxPause", maxPause, "finite and not negative", maxPause >= 0 && maxPause < Infinity)

  const bucket = new TokenBucket(
    { capacity, refillPerSecond, factor, floorPerSecond: floor * refillPerSecond, recoverMillis, cooldownMillis },
    yield* Effect.withFiber((fiber) => Effect.succeed(nowMillisUnsafe(fiber)))
  )
  const queue = new Waiters<Waiter>()
  let queuedCost = 0

  // Within a millisecond all refusals of the same cost are the same: in an overload there may be hundreds of them.
  let refusal: RateLimited | undefined
  let refusedFor = 0
  const refuse = (wait: number, cost: number): Effect.Effect<never, RateLimited> => {
    // The tokens may be there already for those before it: even then it has to wait for them.
    const millis = Math.max(1, wait)
    if (refusal === undefined || refusedFor !== millis || refusal.cost !== cost || refusal.waiting !== queue.size) {
      refusedFor = millis
      refusal = withoutStack(() => new RateLimited({ retryAfter: Duration.millis(millis), cost, waiting: queue.size }))
    }
    return Effect.fail(refusal)
  }

  // Only the first in line looks at the bucket and sleeps; the others are woken one by one as the one before them goes.
  const leave = (waiter: Waiter): undefined => {
    if (!waiter.queued) return
    const wasFirst = queue.head === waiter
    waiter.queued = false
    queue.remove(waiter)
    queuedCost = queue.size === 0 ? 0 : queuedCost - waiter.cost
    if (wasFirst && queue.head !== undefined) wake(queue.head)
  }

  const queueUp = <A, E, R>(self: Effect.Effect<A, E, R>, cost: number) =>
    Effect.suspend(() => {
      const waiter: Waiter = {
        cost,
        queued: false,
        latestStart: Infinity,
        fiber: undefined,
        resume: undefined,
        previous: undefined,
        next: undefined
      }
      const turn: Effect.Effect<A, E | RateLimited, R> = Effect.withFiber((fiber) => {
        const now = nowMillisUnsafe(fiber)
        if (bucket.takeIfAvailable(now, cost)) {
          leave(waiter)
          return self
        }
        const wait = bucket.waitMillis(now, cost)
        if (tooLate(now, wait, waiter.latestStart)) {
          leave(waiter)
          return refuse(wait, cost)
        }
        return Effect.flatMap(Effect.sleep(Duration.millis(wait)), () => turn)
      })
      // The waiter joins inside the region whose exit handler takes it out, so no interruption can part the two.
      return Effect.onExitPrimitive(
        Effect.withFiber<A, E | RateLimited, R>((fiber) => {
          const now = nowMillisUnsafe(fiber)
          if (queue.size === 0 && bucket.takeIfAvailable(now, cost)) return self
          const wait = bucket.waitMillis(now, queuedCost + cost)
          // A turn that comes only with the deadline comes too late.
          const longest = Math.min(maxWait, remainingMillisUnsafe(fiber) - 1)
          if (queue.size >= maxQueued || wait > longest) return refuse(wait, cost)
          waiter.queued = true
          waiter.latestStart = now + longest
          queue.push(waiter)
          queuedCost += cost
          if (queue.head === waiter) return turn
          return Effect.callback<A, E | RateLimited, R>((resume) => {
            waiter.fiber = fiber
            waiter.resume = (refused) => resume(refused ?? turn)
          })
        }),
        () => leave(waiter)
      )
    })

  const calls = (cost: number): Calls => ({
    execute: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | RateLimited, R>((fiber) =>
        queue.size === 0 && bucket.takeIfAvailable(nowMillisUnsafe(fiber), cost) ? self : queueUp(self, cost)
      ),
    executeIfAvailable: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | RateLimited, R>((fiber) => {
        const now = nowMillisUnsafe(fiber)
        return queue.size === 0 && bucket.takeIfAvailable(now, cost)
          ? self
          : refuse(bucket.waitMillis(now, queuedCost + cost), cost)
      })
  })

  return {
    ...calls(1),
    costing: (cost) => {
      if (cost > 0 && cost <= capacity) return calls(cost)
      const refused = Effect.die(outOfRange("cost", cost, `over 0 and at most the capacity ${capacity}`))
      return { execute: () => refused, executeIfAvailable: () => refused }
    },
    throttled: (retryAfter = 0) =>
      Effect.withFiber((fiber) => {
        const now = nowMillisUnsafe(fiber)
        bucket.throttle(now, Math.min(maxPause, Math.max(0, Duration.toMillis(retryAfter))))
        let demand = 0
        for (let waiter = queue.head; waiter !== undefined;) {
          const { cost, latestStart, next } = waiter
          const wait = bucket.waitMillis(now, demand + cost)
          if (!tooLate(now, wait, latestStart)) demand += cost
          // The first in line sleeps, and sees for itself when it wakes.
          else if (waiter !== queue.head) {
            leave(waiter)
            wake(waiter, refuse(wait, cost))
          }
          waiter = next
        }
        return Effect.void
      }),
    state: Effect.withFiber((fiber) => {
      const now = nowMillisUnsafe(fiber)
      return Effect.succeed({
        tokens: bucket.tokens(now),
        refillPerSecond: bucket.ratePerSecond(now),
        waiting: queue.size,
        pausedFor: Duration.millis(bucket.pausedMillis(now))
      })
    })
  }
})

/** The limiter of a context that needs only one. For one per upstream, call `make` in each. */
export const RateLimiter = Context.Service<RateLimiter>("effect-resilience/RateLimiter")

/** Provides `RateLimiter`. */
export const layer = (options: Options): Layer.Layer<RateLimiter> => Layer.effect(RateLimiter, make(options))

/** Provides `RateLimiter` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<RateLimiter, Config.ConfigError> =>
  Layer.effect(RateLimiter, Effect.flatMap(Config.unwrap(options), make))

interface Waiter extends Links<Waiter> {
  readonly cost: number
  queued: boolean
  /** The last moment at which the call may still start. */
  latestStart: number
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  /** Lets it have its turn, or refuses it. Absent while it has its turn already. */
  resume: ((refused?: Effect.Effect<never, RateLimited>) => void) | undefined
}

// By its own dispatcher: never inside the stack of whoever made room, however long the queue.
const wake = (waiter: Waiter, refused?: Effect.Effect<never, RateLimited>): void => {
  const { fiber, resume } = waiter
  if (fiber === undefined || resume === undefined) return
  fiber.currentDispatcher.scheduleTask(() => resume(refused), 0)
}

// A wait in whole milliseconds ends within the millisecond before it says so. A timer that fires a little early must not
// make a waiter late that was in time when it came.
const tooLate = (now: number, wait: number, latestStart: number): boolean => now + wait - 1 >= latestStart

const outOfRange = (name: string, value: number, expected: string): RangeError =>
  new RangeError(`RateLimiter: ${name} must be ${expected}, got ${value}`)

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw outOfRange(name, value, expected)
}
