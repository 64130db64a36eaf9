/**
 * Tells a call that its deadline has ended from one whose caller has gone away: to the call, both are interruptions.
 */
import { Cause, Exit, type Fiber } from "effect"
import { remainingMillisUnsafe } from "../Deadline.ts"

/** Whether the exit is an interruption after the end of the fiber's deadline. */
export const isOverdue = (exit: Exit.Exit<unknown, unknown>, fiber: Fiber.Fiber<unknown, unknown>): boolean =>
  Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) && remainingMillisUnsafe(fiber) <= 0
