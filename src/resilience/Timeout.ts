/**
 * Gives one call a limited time and really stops it when the time is up.
 *
 * The work runs in a child fiber. When the limit passes first, the work is interrupted, its finalizers run to their end,
 * and the call fails with `TimedOut`. Work that ends before the limit keeps its own result, and an interruption from
 * outside stays an interruption.
 *
 * Put it inside a retry and a circuit breaker: each attempt has its own limit, and a call that is too slow counts as a
 * failure. The time a caller gives to everything together, waits included, is a `Deadline`.
 *
 * It cannot stop what ignores interruption: the answer comes when that has ended, and is still `TimedOut`. A timeout of
 * `makeLeaving` answers before, and leaves up to `maxLeft` such calls behind (16 by default).
 */
import { Duration, Effect, Function, Schema } from "effect"
import { interruptAfter, type Watch } from "./internal/interruptAfter.ts"
import { withoutStack } from "./internal/refusal.ts"
import { emit } from "./internal/telemetry.ts"

/** A timeout that leaves work behind which does not end when it is interrupted. */
export interface Leaving {
  /** Fails with `TimedOut` when the effect takes longer than allowed, whether or not it has ended by then. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TimedOut, R>
  /** Counts the calls left behind. */
  readonly state: Effect.Effect<Left>
}

/** The calls that a timeout has left behind. */
export interface Left {
  /** Those whose work or finalizers are still running. */
  readonly running: number
  /** All of them so far. */
  readonly total: number
}

/** How long calls may take, and how many are left behind. */
export interface LeavingOptions {
  /** The limit of each call: over zero. */
  readonly after: Duration.Input
  /** Calls left behind that may still be running: an integer of at least 1. Defaults to 16. */
  readonly maxLeft?: number | undefined
}

/** The work was still running when its time was up, and has been interrupted. */
export class TimedOut extends Schema.TaggedError<TimedOut>()("TimedOut", {
  /** The limit that was exceeded. */
  after: Schema.Duration
}) {
  override get message() {
    return `Timed out after ${Duration.format(this.after)}`
  }
}

/**
 * Fails with `TimedOut` when the effect takes longer than `duration`.
 *
 * A limit of zero or less fails at once, without starting the effect; an infinite one is none.
 */
export const timeout: {
  (duration: Duration.Input): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TimedOut, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, duration: Duration.Input): Effect.Effect<A, E | TimedOut, R>
} = Function.dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, duration: Duration.Input): Effect.Effect<A, E | TimedOut, R> => {
    const millis = millisOf(duration)
    if (millis <= 0) return timedOut(millis)
    return millis === Infinity ? self : Effect.withFiber((fiber) => interruptAfter(self, fiber, millis, timedOut))
  }
)

/**
 * Creates a timeout that answers when the time is up even if the work does not end: because it ignores interruption, or
 * its finalizers take long. Such work is left behind, interrupted, and ends on its own.
 *
 * It still holds what it has taken: connections, memory, permits of what is inside this timeout. So while `maxLeft` calls
 * are left behind, the next one is waited for, as `timeout` does. An interruption from outside waits for the work.
 * Options that make no sense are a defect, not an error.
 */
export const makeLeaving = (options: LeavingOptions): Effect.Effect<Leaving> =>
  Effect.sync(() => {
    const millis = Duration.toMillis(options.after)
    const maxLeft = options.maxLeft ?? 16
    if (!(millis > 0)) throw new RangeError(`Timeout: after must be over zero, got ${millis}`)
    if (!(Number.isInteger(maxLeft) && maxLeft >= 1)) {
      throw new RangeError(`Timeout: maxLeft must be an integer >= 1, got ${maxLeft}`)
    }

    const left = { running: 0, total: 0 }
    const watch: Watch = {
      leave: (work) => {
        if (left.running >= maxLeft) return false
        left.running++
        left.total++
        work.addObserver(() => left.running--)
        return true
      }
    }
    return {
      execute: <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | TimedOut, R> =>
        millis === Infinity ? self : Effect.withFiber((fiber) => interruptAfter(self, fiber, millis, timedOut, watch)),
      state: Effect.sync(() => ({ ...left }))
    }
  })

const timedOut = (millis: number): Effect.Effect<never, TimedOut> =>
  Effect.suspend(() => {
    emit(() => ({ _tag: "TimedOut", primitive: "Timeout", afterMillis: millis }))
    return Effect.fail(withoutStack(() => new TimedOut({ after: Duration.millis(millis) })))
  })

// Most calls bring the same text as the one before, and to read it would cost more than all the rest.
let lastText = ""
let lastMillis = 0

const millisOf = (duration: Duration.Input): number => {
  if (typeof duration !== "string") return Duration.toMillis(duration)
  if (duration !== lastText) {
    lastMillis = Duration.toMillis(duration)
    lastText = duration
  }
  return lastMillis
}
