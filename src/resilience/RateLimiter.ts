/**
 * Limits how many calls are made per second.
 *
 * A token bucket, unless another `algorithm` is named: a call takes a token, or its cost; `capacity` may be taken at once,
 * `refillPerSecond` come back. Without a token it waits its turn, first come first served, or fails with `RateLimited` at
 * once when its turn would come after `maxWait` or its deadline. `throttled` reports an answer like HTTP 429.
 *
 * Put it inside the retry, so that every attempt takes a token. Local to the process; its time is monotonic.
 *
 * | defaults   | `maxWait` 30 seconds | `maxQueued` 1,000 | `burst` of "gcra": the `limit`, at least 1 |
 * | `adaptive` | `factor` 0.5 | `floor` 0.1 | `recovery` 1 minute | `cooldown` 1 second | `maxPause` 1 hour |
 */
import { Config, Context, Duration, Effect, Layer, Schema } from "effect"
import { enter, Line, SteadyClock } from "./internal/limitLine.ts"
import { lineAround, lines, sameAlgorithm, toNumbers, toSettings, wrongCost } from "./internal/limits.ts"
import { refused, withoutStack } from "./internal/refusal.ts"

/** The ways to make a call under the limit. */
export interface Calls {
  /** Runs the effect when it is its turn, or fails with `RateLimited` at once when its turn would come too late. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimited, R>
  /** Runs the effect now, or fails with `RateLimited`. It does not overtake those who wait. */
  readonly executeIfAvailable: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimited, R>
  /**
   * Takes a place in line for a call that is made elsewhere or later, without waiting for it: in one synchronous step. Fails
   * with `RateLimited` when the wait would be too long. Inside another limiter there are only reservations without delay.
   */
  readonly reserve: Effect.Effect<Reservation, RateLimited>
  /** Reads how long a call that came now would wait: zero when it would go at once. Takes nothing. */
  readonly peek: Effect.Effect<Duration.Duration>
}

/** A place in line, taken for a call to come. */
export interface Reservation {
  /** How long to wait from when it was taken until the call may be made. */
  readonly delay: Duration.Duration
  /** Gives back what was taken, for a call that is not made; those in line behind it move up. Once: later it does nothing. */
  readonly cancel: Effect.Effect<void>
}

/** A limit on calls per second. A call costs one token, whatever the algorithm counts. */
export interface RateLimiter extends Calls {
  /**
   * The same limit for calls that cost another number of tokens: over zero, and at most the capacity, the limit or the
   * burst, whichever the algorithm has.
   */
  readonly costing: (cost: number) => Calls
  /**
   * Changes the numbers while the limiter is in use. What was taken stays taken and nothing is given away: a full bucket has
   * to fill up to a larger capacity. Waiters move up, or are refused if they can no longer be served in time; what was
   * promised to a reservation holds. Another algorithm is a defect.
   */
  readonly change: (to: Limit) => Effect.Effect<void>
  /**
   * Reports that the other side found the rate too high, and for how long it asks to be left alone. The bucket pauses
   * that long and keeps at most one token, so that one call goes first when the pause ends. The rate is cut, but not
   * again within the pause or the cooldown: the answers to calls already under way belong to the same event. Waiters that
   * can no longer be served in time are refused.
   *
   * With the rate `cut` at the end of the pause, `t` seconds later it is `min(refillPerSecond, cut + refillPerSecond * t /
   * recovery)`: multiplicative decrease, additive increase (AIMD; Chiu and Jain, 1989). Other algorithms than the token
   * bucket pause, and keep their rate.
   */
  readonly throttled: (retryAfter?: Duration.Input) => Effect.Effect<void>
  /** Reads the bucket and its queue. */
  readonly state: Effect.Effect<State>
}

/** A limiter at one moment. */
export interface State {
  /** The tokens in the bucket, with their fraction; or what else can be taken at once. */
  readonly tokens: number
  /** The rate at which tokens come back now, or when the pause ends; for a window, its limit per second. */
  readonly refillPerSecond: number
  /** Calls and reservations whose turn is still to come. */
  readonly waiting: number
  /** How long the bucket still pauses: zero when it does not. */
  readonly pausedFor: Duration.Duration
}

/** Lets calls through as tokens come: a burst of the capacity, then the refill. Its rate adapts to `throttled`. */
export interface TokenBucket {
  readonly algorithm?: "token-bucket" | undefined
  /** Tokens the bucket holds, and starts with: calls that may be made at once. At least 1. */
  readonly capacity: number
  /** Tokens that come back per second: over zero, fractions allowed. */
  readonly refillPerSecond: number
}

/**
 * Lets through what a token bucket would, and remembers two numbers only: for many keys. The generic cell rate algorithm of
 * ITU-T I.371: with `T = window / limit` a call of cost `c` may be made while `max(now, TAT) + c * T <= now + burst * T`, and
 * then the left side becomes the theoretical arrival time TAT of the next.
 */
export interface Gcra {
  readonly algorithm: "gcra"
  /** Calls per window in the long run: over zero. */
  readonly limit: number
  /** The time for that many calls: over zero. */
  readonly window: Duration.Input
  /** Calls that may be made at once: at least 1. Defaults to the limit, or 1 if that is less. */
  readonly burst?: number | undefined
}

/**
 * Lets through the limit in each window, whenever in it. A window begins with the first call after the last one has ended.
 * Around its edge twice the limit can come within the length of one window.
 */
export interface FixedWindow {
  readonly algorithm: "fixed-window"
  /** Calls per window: at least 1. */
  readonly limit: number
  /** The length of a window: over zero. */
  readonly window: Duration.Input
}

/**
 * Lets through at most the limit in every window of that length, wherever it begins. Exact for up to 100 calls in a window;
 * with more, calls within a hundredth of the window count as made with the last of them, so that a token can come back
 * that much late. A change to a longer window does not bring back the calls that had left the shorter one.
 */
export interface SlidingWindow {
  readonly algorithm: "sliding-window"
  /** Calls per window: at least 1. */
  readonly limit: number
  /** The length of a window: over zero. */
  readonly window: Duration.Input
}

/**
 * Lets through about the limit in a window, and remembers two numbers only: `previous * (1 - elapsed / window) + current`
 * calls are taken to lie in the window that ends now. If all calls of the window before came at its end, almost twice the
 * limit comes within the length of one window; if they came at its beginning, some are refused that would have fitted.
 */
export interface SlidingWindowCounter {
  readonly algorithm: "sliding-window-counter"
  /** Calls per window: at least 1. */
  readonly limit: number
  /** The length of a window: over zero. */
  readonly window: Duration.Input
}

/** Lets through one call per interval, and never two at once (a leaky bucket). One of cost 3 is followed by three intervals. */
export interface Smooth {
  readonly algorithm: "smooth"
  /** The time from a call to the next: over zero. */
  readonly interval: Duration.Input
}

/** How many calls are let through, by the name of an algorithm. */
export type Limit = TokenBucket | Gcra | FixedWindow | SlidingWindow | SlidingWindowCounter | Smooth

/** How calls wait for their turn, and what becomes of a complaint. */
export interface WaitOptions {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /** The longest wait for a turn. Defaults to 30 seconds. */
  readonly maxWait?: Duration.Input | undefined
  /** Calls and reservations allowed to wait. Defaults to 1,000. */
  readonly maxQueued?: number | undefined
  /** How a token bucket answers `throttled`. Of this only `maxPause` counts for the other algorithms. */
  readonly adaptive?: AdaptiveOptions | undefined
}

/** How many calls a limiter lets through, and how the others wait. */
export type Options = Limit & WaitOptions

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
  /**
   * The shortest wait, in whole milliseconds, after which the call goes through if no others come before it. Infinite when it
   * costs more than a limit that has been lowered.
   */
  retryAfter: Schema.Duration,
  /** The tokens the call would have taken. */
  cost: Schema.Finite,
  /** The calls that were waiting. */
  waiting: Schema.Int,
  /** Whose limit it was, of a keyed limiter. */
  key: Schema.optional(Schema.String)
}) {
  get [refused]() {
    return true
  }
  override get message() {
    const name = this.key === undefined ? "Rate limited" : `Rate limited "${this.key}"`
    return `${name}: try again after ${Duration.format(this.retryAfter)} (${this.waiting} waiting)`
  }
}

/** Creates a limiter under which no call was made yet. Options that make no sense are a defect, not an error. */
export const make = (options: Options): Effect.Effect<RateLimiter> =>
  Effect.withFiber((fiber) => {
    const clock = new SteadyClock()
    return Effect.succeed(limiterOf(options, clock, clock.read(fiber), undefined))
  })

/**
 * Creates a limiter inside another one: a call goes through both in the same moment or not at all, and is refused by what
 * either of them says. Who waits for the outer one waits there with the calls of all the others inside it, in the order in
 * which they got so far. `throttled`, `change` and `state` are about the inner one alone.
 * `outer` must be a value that this module made, not a copy of one.
 */
export const makeWithin = (outer: RateLimiter, options: Options): Effect.Effect<RateLimiter> =>
  Effect.withFiber((fiber) => {
    const line = lineAround("RateLimiter", outer)
    const { clock } = line.rules
    return Effect.succeed(limiterOf(options, clock, clock.read(fiber), line))
  })

/** The limiter of a context that needs only one. For one per upstream, call `make` in each. */
export const RateLimiter = Context.Service<RateLimiter>("effect-resilience/RateLimiter")

/** Provides `RateLimiter`. */
export const layer = (options: Options): Layer.Layer<RateLimiter> => Layer.effect(RateLimiter, make(options))

/** Provides `RateLimiter` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<RateLimiter, Config.ConfigError> =>
  Layer.effect(RateLimiter, Effect.flatMap(Config.unwrap(options), make))

const limiterOf = (options: Options, clock: SteadyClock, now: number, outer: Line | undefined): RateLimiter => {
  let numbers = toNumbers("RateLimiter", options)
  const settings = toSettings("RateLimiter", options, clock, ({ cost, retryAfter, waiting }) =>
    withoutStack(() => new RateLimited({ retryAfter, cost, waiting }))
  )
  const line = new Line(settings.meter(numbers, now), settings.rules, outer, undefined)
  const find = () => line

  const calls = (cost: number): Calls => ({
    execute: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | RateLimited, R>((fiber) =>
        line.takeIfAvailable(clock.read(fiber), cost) ? self : enter(self, find, clock, cost)
      ),
    executeIfAvailable: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | RateLimited, R>((fiber) => {
        const now = clock.read(fiber)
        line.settle(now)
        return line.takeIfAvailable(now, cost) ? self : line.refuse(line.waitMillis(now, cost), cost)
      }),
    reserve: Effect.withFiber((fiber) => line.reserve(clock.read(fiber), cost, fiber)),
    peek: Effect.withFiber((fiber) => Effect.succeed(Duration.millis(line.waitMillis(clock.read(fiber), cost))))
  })

  const limiter: RateLimiter = {
    ...calls(1),
    costing: (cost) => {
      const wrong = wrongCost("RateLimiter", numbers, cost)
      if (wrong === undefined) return calls(cost)
      const refused = Effect.die(wrong)
      return { execute: () => refused, executeIfAvailable: () => refused, reserve: refused, peek: refused }
    },
    change: (to) =>
      Effect.withFiber((fiber) => {
        numbers = sameAlgorithm("RateLimiter", numbers, to)
        line.change(clock.read(fiber), numbers)
        return Effect.void
      }),
    throttled: (retryAfter = 0) =>
      Effect.withFiber((fiber) => {
        const asked = Math.max(0, Duration.toMillis(retryAfter))
        line.throttle(clock.read(fiber), Math.min(settings.maxPauseMillis, asked))
        return Effect.void
      }),
    state: Effect.withFiber((fiber) => Effect.succeed(line.state(clock.read(fiber))))
  }
  lines.set(limiter, line)
  return limiter
}
