/**
 * Reads the clock of a fiber for measuring how long something takes.
 *
 * The monotonic clock, because the wall clock is set back and forth by administrators and time servers: an open time or
 * a deadline must end when its length has passed, whatever the calendar says.
 */
import type { Fiber } from "effect"
import { Clock, Context } from "effect"

/** Reads the monotonic time of the fiber's clock in milliseconds, with a fraction. Its origin means nothing. */
export const nowMillisUnsafe = (fiber: Fiber.Fiber<unknown, unknown>): number =>
  Number(fiber.getRef(Clock.Clock).monotonicTimeNanosUnsafe()) / 1_000_000

/**
 * Reads the same time where a call costs less than the reading. When readings follow each other within microseconds, up to
 * 32 of them in one turn of the event loop are one moment, as the timers of a platform have it.
 */
export const momentMillisUnsafe = (fiber: Fiber.Fiber<unknown, unknown>): number => {
  // The clock of a test is read each time: it stands still by itself.
  if (fiber.getRef(Clock.Clock) !== realClock) return nowMillisUnsafe(fiber)
  if (readingsLeft > 0) {
    readingsLeft--
    return moment
  }
  const now = nowMillisUnsafe(fiber)
  inARow = now - moment < 0.02 ? inARow + 1 : 0
  moment = now
  if (inARow >= 8) {
    readingsLeft = 32
    if (!turnAwaited) {
      turnAwaited = true
      queueMicrotask(endTurn)
    }
  }
  return now
}

/** Effect's own clock: the one of every fiber that was given no other. */
export const realClock = Context.get(Context.empty(), Clock.Clock)

let moment = 0
let readingsLeft = 0
let inARow = 0
let turnAwaited = false

const endTurn = () => {
  readingsLeft = 0
  inARow = 0
  turnAwaited = false
}
