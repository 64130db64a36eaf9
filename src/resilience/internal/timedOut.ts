/**
 * Fails calls whose time is up, where it is not `Timeout` that limits them.
 */
import { Duration, Effect } from "effect"
import { TimedOut } from "../Timeout.ts"
import { interruptAfter } from "./interruptAfter.ts"
import { withoutStack } from "./refusal.ts"
import { type Around, through } from "./steps.ts"
import { emit } from "./telemetry.ts"

/** Fails with `TimedOut`. */
export const timedOut = (millis: number): Effect.Effect<never, TimedOut> =>
  Effect.suspend(() => {
    emit(() => ({ _tag: "TimedOut", primitive: "Timeout", afterMillis: millis }))
    return Effect.fail(withoutStack(() => new TimedOut({ after: Duration.millis(millis) })))
  })

/** Puts a timeout around a step. */
export const timingOut =
  (millis: number): Around =>
  (inner) =>
  (self, fiber) =>
    // The type of a step leaves out what it adds.
    interruptAfter(through(inner, self), fiber, millis, timedOut) as typeof self
