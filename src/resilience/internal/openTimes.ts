/**
 * Gives the times that a circuit stays open, one after the other.
 *
 * A schedule is driven by the time spent open, so that `upTo` and `during` measure that, and by the fiber that asks, so
 * that jitter uses its `Random`.
 */
import { Duration, Effect, Exit, type Fiber, Schedule } from "effect"

/** Gives the next open time of one circuit in milliseconds. */
export type NextOpenTime = (fiber: Fiber.Fiber<unknown, unknown>) => number

/** Makes a `NextOpenTime` that starts from the beginning. */
export const fromSchedule = (openFor: Schedule.Schedule<unknown, number>): NextOpenTime => {
  const step = Effect.runSync(Schedule.toStep(openFor))
  let openings = 0
  let spent = 0
  let last = 0
  return (fiber) => {
    const next = Effect.runSyncExitWith(fiber.context)(step(spent, ++openings))
    // A schedule that has ended, or grown beyond all numbers, stays at its last delay.
    if (Exit.isSuccess(next)) {
      const millis = Duration.toMillis(next.value[1])
      if (Number.isFinite(millis)) last = Math.max(0, millis)
    }
    spent += last
    return last
  }
}
