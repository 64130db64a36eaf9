/**
 * Runs an effect in a child fiber and interrupts it when its time is up.
 *
 * The timer is started only when the child is still running after its first synchronous slice, so a call that answers
 * at once costs one fiber and no timer. The answer waits for the finalizers of the interrupted work: when the caller
 * goes on, nothing of it is left behind, unless `watch` wants that.
 */
import type { Context, Exit } from "effect"
import { Effect, Fiber } from "effect"
import { nowMillisUnsafe } from "./monotonic.ts"
import { afterMillisUnsafe } from "./timers.ts"

/** Is told about work that did not end at once. */
export interface Watch {
  /** The work ended in time, after so many milliseconds. */
  readonly ended?: (exit: Exit.Exit<unknown, unknown>, millis: number) => void
  /** The work had not ended after `millis`. */
  readonly late?: (millis: number) => void
  /** The interrupted work has not ended at once: true to go on without it. */
  readonly leave?: (work: Fiber.Fiber<unknown, unknown>) => boolean
}

/**
 * Runs `self` for at most `millis` and then as `onTimeout` says: in `context`, which must hold what `self` requires, or by
 * default in that of `parent`, which must be the fiber that evaluates this.
 *
 * An end that comes after the interruption was sent counts as too late, success or not; an interruption from outside
 * stays an interruption.
 */
export const interruptAfter = <A, E, R, E2>(
  self: Effect.Effect<A, E, R>,
  parent: Fiber.Fiber<unknown, unknown>,
  millis: number,
  onTimeout: (millis: number) => Effect.Effect<never, E2>,
  watch?: Watch,
  context?: Context.Context<never>
): Effect.Effect<A, E | E2, R> =>
  // The child starts in the very step that also tells the parent how to interrupt it, so nothing can part the two.
  Effect.callback<A, E | E2, R>((resume) => {
    // The context of the parent holds R: the type of the returned effect asks for it.
    const child = Effect.runForkWith(context ?? parent.context)(self as Effect.Effect<A, E>)
    const exit = child.pollUnsafe()
    return exit === undefined ? attend(child, parent, millis, onTimeout, watch, resume) : resume(exit)
  })

// Waits for the child and for the end of its time. What it returns stops both.
const attend = <A, E, E2>(
  child: Fiber.Fiber<A, E>,
  parent: Fiber.Fiber<unknown, unknown>,
  millis: number,
  onTimeout: (millis: number) => Effect.Effect<never, E2>,
  watch: Watch | undefined,
  resume: (effect: Effect.Effect<A, E | E2>) => void
): Effect.Effect<void> => {
  const startedAt = watch?.ended === undefined ? 0 : nowMillisUnsafe(parent)
  let late = false
  const cancel = afterMillisUnsafe(parent, millis, () => {
    late = true
    watch?.late?.(millis)
    child.interruptUnsafe(parent.id)
    if (watch?.leave !== undefined && child.pollUnsafe() === undefined && watch.leave(child)) resume(onTimeout(millis))
  })
  child.addObserver((done) => {
    if (late) return resume(onTimeout(millis))
    cancel()
    watch?.ended?.(done, nowMillisUnsafe(parent) - startedAt)
    resume(done)
  })
  return Effect.suspend(() => {
    cancel()
    return child.pollUnsafe() === undefined ? Fiber.interrupt(child) : Effect.void
  })
}
