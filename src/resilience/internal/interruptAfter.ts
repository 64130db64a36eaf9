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
import { afterMillisUnsafe, type Cancel } from "./timers.ts"

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
 * default in that of the caller.
 *
 * An end that comes after the interruption was sent counts as too late, success or not; an interruption from outside
 * stays an interruption.
 */
export const interruptAfter = <A, E, R, E2>(
  self: Effect.Effect<A, E, R>,
  millis: number,
  onTimeout: () => Effect.Effect<never, E2>,
  watch?: Watch,
  context?: Context.Context<never>
): Effect.Effect<A, E | E2, R> =>
  // Each time it runs it has a child and a timer of its own.
  Effect.suspend(() => {
    let child: Fiber.Fiber<A, E> | undefined
    let cancel: Cancel | undefined
    // The child starts inside the region of the exit handler, so no interruption can part the two.
    return Effect.onExitPrimitive(
      Effect.withFiber<A, E | E2, R>((parent) => {
        // The caller's context holds R: the type of the returned effect asks for it.
        const running = Effect.runForkWith(context ?? parent.context)(self as Effect.Effect<A, E>)
        const exit = running.pollUnsafe()
        if (exit !== undefined) return exit
        child = running
        return Effect.callback<A, E | E2>((resume) => {
          const startedAt = watch?.ended === undefined ? 0 : nowMillisUnsafe(parent)
          let late = false
          cancel = afterMillisUnsafe(parent, millis, () => {
            late = true
            watch?.late?.(millis)
            running.interruptUnsafe(parent.id)
            if (watch?.leave !== undefined && running.pollUnsafe() === undefined && watch.leave(running)) {
              child = undefined
              resume(onTimeout())
            }
          })
          running.addObserver((done) => {
            if (late) return resume(onTimeout())
            watch?.ended?.(done, nowMillisUnsafe(parent) - startedAt)
            resume(done)
          })
        })
      }),
      () => {
        cancel?.()
        return child !== undefined && child.pollUnsafe() === undefined ? Fiber.interrupt(child) : undefined
      }
    )
  })
