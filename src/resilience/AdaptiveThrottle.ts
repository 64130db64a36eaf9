/**
 * Stops making the calls that the other side would refuse anyway, and as many of them as it refuses.
 *
 * A call is refused here with the probability `max(0, (requests - ratio * accepts) / (requests + 1))`, over the requests
 * of the last `window`: "Handling Overload" in "Site Reliability Engineering" (Google, 2016), chapter 21. With the ratio of
 * 2, up to half of the calls may be refused over there before any are refused here. Never more than `maxRefused`, so that
 * enough go through to find out soon that the other side is well again.
 *
 * Put it around each attempt, where a circuit breaker would be: it needs no opening and closing, and lets through what
 * the other side takes. One for each upstream. Local to the process.
 *
 * | defaults | `ratio` 2 | `maxRefused` 0.9 | `window` 2 minutes | `retryAfter` 1 second |
 */
import { type Cause, Config, Context, Duration, Effect, Exit, type Fiber, Layer, Random, Schema } from "effect"
import { classify as classifyLoad } from "./AdaptiveLimit.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { isOverdue } from "./internal/overdue.ts"
import { isRefusal, refused, withoutStack } from "./internal/refusal.ts"
import { emit } from "./internal/telemetry.ts"

/** What remembers how many calls were accepted. */
export interface AdaptiveThrottle {
  /** Runs the effect, or fails with `Throttled` without running it. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Throttled, R>
  /** Reads the requests of the window. */
  readonly state: Effect.Effect<State>
}

/** The last window. */
export interface State {
  /** Calls that have ended, or were refused here. */
  readonly requests: number
  /** Calls that the other side accepted. */
  readonly accepts: number
  /** The probability that the next call is refused. */
  readonly refusing: number
}

/** What the end of a call says about the other side: nothing, if it is ignored. */
export type Outcome = "accepted" | "rejected" | "ignored"

/** When calls are refused. */
export interface Options {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /** How many times the accepted calls may be made: at least 1. Lower refuses earlier. Defaults to 2. */
  readonly ratio?: number | undefined
  /** The highest probability to refuse a call: at least 0 and under 1. Defaults to 0.9. */
  readonly maxRefused?: number | undefined
  /** The time that is looked back: over zero. Defaults to 2 minutes. */
  readonly window?: Duration.Input | undefined
  /** The `retryAfter` of a refusal. Defaults to 1 second. */
  readonly retryAfter?: Duration.Input | undefined
  /** What the exit of a call means. One that the deadline has ended is always rejected. Defaults to `classify`. */
  readonly classify?: ((exit: Exit.Exit<unknown, unknown>) => Outcome) | undefined
}

/** The call was refused and has not been made: the other side has refused too many of late. */
export class Throttled extends Schema.TaggedError<Throttled>()("Throttled", {
  /** The part of the calls that was being refused. */
  refusing: Schema.Finite,
  /** When to try again. */
  retryAfter: Schema.Duration
}) {
  get [refused]() {
    return true
  }
  override get message() {
    return `Throttled: ${Math.round(this.refusing * 100)} % of the calls are refused, try again after ${Duration.format(this.retryAfter)}`
  }
}

/** Creates a throttle that has seen nothing. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options = {}): Effect.fn.Return<AdaptiveThrottle> {
  const ratio = options.ratio ?? 2
  const maxRefused = options.maxRefused ?? 0.9
  const windowMillis = Duration.toMillis(options.window ?? "2 minutes")
  const retryAfterMillis = Duration.toMillis(options.retryAfter ?? "1 second")
  const classifyExit = options.classify ?? classify
  check("ratio", ratio, "a finite number >= 1", ratio >= 1 && ratio < Infinity)
  check("maxRefused", maxRefused, "at least 0 and under 1", maxRefused >= 0 && maxRefused < 1)
  check("window", windowMillis, "a finite duration over zero", windowMillis > 0 && windowMillis < Infinity)
  check("retryAfter", retryAfterMillis, "finite and not negative", retryAfterMillis >= 0 && retryAfterMillis < Infinity)
  const retryAfter = Duration.millis(retryAfterMillis)

  const recent = new Recent(windowMillis)
  const refusing = () => {
    const { accepts, requests } = recent
    return Math.max(0, Math.min(maxRefused, (requests - ratio * accepts) / (requests + 1)))
  }

  return {
    execute: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | Throttled, R>((fiber) => {
        recent.forget(nowMillisUnsafe(fiber))
        const part = refusing()
        if (part > 0 && fiber.getRef(Random.Random).nextDoubleUnsafe() < part) {
          recent.add(false)
          emit(() => ({ _tag: "Refused", primitive: "AdaptiveThrottle", name: options.name, error: "Throttled" }))
          return Effect.fail(withoutStack(() => new Throttled({ refusing: part, retryAfter })))
        }
        // Being let through takes nothing: what counts is how the call ends.
        return Effect.onExitPrimitive(self, (exit) => {
          const outcome = isOverdue(exit, fiber) ? "rejected" : classifyExit(exit)
          if (outcome === "ignored") return undefined
          recent.forget(nowMillisUnsafe(fiber))
          recent.add(outcome === "accepted")
          return undefined
        })
      }),
    state: Effect.withFiberSucceed((fiber: Fiber.Fiber<unknown, unknown>) => {
      recent.forget(nowMillisUnsafe(fiber))
      return { requests: recent.requests, accepts: recent.accepts, refusing: refusing() }
    })
  }
})

/**
 * Reads an exit as the throttle does by default. A timeout, or an error with a `retryAfter`, says that the other side has
 * too much to do. An interruption and a refusal of this package say nothing. Everything else is an answer.
 */
export const classify = (exit: Exit.Exit<unknown, unknown>): Outcome => {
  if (classifyLoad(exit) === "dropped") return "rejected"
  return Exit.isFailure(exit) && exit.cause.reasons.every(saysNothing) ? "ignored" : "accepted"
}

/** The throttle of a context that needs only one. For one per upstream, call `make` in each. */
export const AdaptiveThrottle = Context.Service<AdaptiveThrottle>("effect-resilience/AdaptiveThrottle")

/** Provides `AdaptiveThrottle`. */
export const layer = (options: Options = {}): Layer.Layer<AdaptiveThrottle> =>
  Layer.effect(AdaptiveThrottle, make(options))

/** Provides `AdaptiveThrottle` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<AdaptiveThrottle, Config.ConfigError> =>
  Layer.effect(AdaptiveThrottle, Effect.flatMap(Config.unwrap(options), make))

// Counts in twenty slices of the window, of which the oldest is forgotten as a whole.
class Recent {
  requests = 0
  accepts = 0
  private readonly slices = Array.from({ length: 20 }, () => ({ requests: 0, accepts: 0 }))
  private readonly sliceMillis: number
  private at = -Infinity

  constructor(windowMillis: number) {
    this.sliceMillis = windowMillis / this.slices.length
  }

  forget(now: number): void {
    const at = Math.floor(now / this.sliceMillis)
    for (let next = Math.max(this.at + 1, at - this.slices.length + 1); next <= at; next++) {
      const slice = this.slice(next)
      this.requests -= slice.requests
      this.accepts -= slice.accepts
      slice.requests = slice.accepts = 0
    }
    this.at = Math.max(this.at, at)
  }

  add(accepted: boolean): void {
    const slice = this.slice(this.at)
    slice.requests++
    this.requests++
    if (!accepted) return
    slice.accepts++
    this.accepts++
  }

  private slice(at: number): { requests: number; accepts: number } {
    const length = this.slices.length
    const slice = this.slices[((at % length) + length) % length]
    if (slice === undefined) throw new RangeError(`AdaptiveThrottle: there is no slice ${at}`)
    return slice
  }
}

const saysNothing = (reason: Cause.Reason<unknown>): boolean =>
  reason._tag === "Interrupt" || (reason._tag === "Fail" && isRefusal(reason.error))

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`AdaptiveThrottle: ${name} must be ${expected}, got ${value}`)
}
