/**
 * Reads the clock of a fiber for measuring how long something takes.
 *
 * The monotonic clock, because the wall clock is set back and forth by administrators and time servers: an open time or
 * a deadline must end when its length has passed, whatever the calendar says.
 */
import type { Fiber } from "effect"
import { Clock } from "effect"

/** Reads the monotonic time of the fiber's clock in milliseconds, with a fraction. Its origin means nothing. */
export const nowMillisUnsafe = (fiber: Fiber.Fiber<unknown, unknown>): number =>
  Number(fiber.getRef(Clock.Clock).monotonicTimeNanosUnsafe()) / 1_000_000
