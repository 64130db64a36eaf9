/**
 * Runs an effect in a child fiber and interrupts it when its time is up.
 *
 * The timer is started only when the child is still running after its first synchronous slice, so a call that answers
 * at once costs one fiber and no timer. The answer waits for the finalizers of the interrupted work: when the caller
 * goes on, nothing of it is left behind, unless `watch` wants that.
 */
import type { Context, Exit } from "effect"
import { Clock, Duration, Effect, Fiber } from "effect"
import { nowMillisUnsafe } from "./monotonic.ts"

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
 * Runs `self` in `context` for at most `millis` and then as `onTimeout` says. `context` must hold what `self` requires.
 *
 * An end that comes after the interruption was sent counts as too late, success or not; an interruption from outside
 * stays an interruption.
 */
export const interruptAfter = <A, E, E2>(
  self: Effect.Effect<A, E>,
  context: Context.Context<never>,
  millis: number,
  onTimeout: () => Effect.Effect<never, E2>,
  watch?: Watch
): Effect.Effect<A, E | E2> => {
  let child: Fiber.Fiber<A, E> | undefined
  let timer: Fiber.Fiber<void> | undefined
  // The child starts inside the region of the exit handler, so no interruption can part the two.
  return Effect.onExitPrimitive(
    Effect.withFiber<A, E | E2>((parent) => {
      const run = Effect.runForkWith(context)
      const running = run(self)
      const exit = running.pollUnsafe()
      if (exit !== undefined) return exit
      child = running
      return Effect.callback<A, E | E2>((resume) => {
        const startedAt = watch?.ended === undefined ? 0 : nowMillisUnsafe(parent)
        let late = false
        // Whole milliseconds: timers cut the fraction off, and would fire before the time is up.
        timer = run(parent.getRef(Clock.Clock).sleep(Duration.millis(Math.ceil(millis))))
        timer.addObserver((slept) => {
          if (slept._tag === "Failure") return
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
      if (timer !== undefined) timer.interruptUnsafe()
      return child !== undefined && child.pollUnsafe() === undefined ? Fiber.interrupt(child) : undefined
    }
  )
}
