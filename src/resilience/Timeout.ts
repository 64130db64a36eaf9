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
 * It cannot stop what ignores interruption: the answer comes when that has ended, and is still `TimedOut`.
 */
import { Duration, Effect, Function, Schema } from "effect"
import { interruptAfter } from "./internal/interruptAfter.ts"
import { withoutStack } from "./internal/refusal.ts"

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
    const after = Duration.fromInputUnsafe(duration)
    const millis = Duration.toMillis(after)
    const timedOut = Effect.suspend(() => Effect.fail(withoutStack(() => new TimedOut({ after }))))
    if (millis <= 0) return timedOut
    if (millis === Infinity) return self
    return Effect.withFiber((fiber) =>
      // The fiber's context holds R: the type of the returned effect asks for it.
      interruptAfter(self as Effect.Effect<A, E>, fiber.context, millis, () => timedOut)
    )
  }
)
