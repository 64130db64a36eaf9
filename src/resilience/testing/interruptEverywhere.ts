/**
 * Interrupts an effect at every one of its operations, one after the other.
 *
 * A leak that shows only when an interruption lands between two given operations is found here and nowhere else: the
 * number of operations is finite, so all of them are tried.
 *
 * Give `run` a call through the policy under test that answers at once, and let `check` fail when anything is still held:
 * a permit, a place in a queue, a fiber. Use what is checked again and again, so that a leak of one try adds up. Insist on
 * the number of operations as well: a call that ends at once without doing anything has none to be interrupted at.
 */
import { Effect, Fiber, Scheduler } from "effect"

/**
 * Runs `run` again and again, each time interrupting it at the next of its operations, and runs `check` after each.
 * Succeeds with the number of operations tried.
 *
 * The fiber is made to yield at that operation and is interrupted while it is suspended, as a real interruption would
 * find it. A `run` that waits for something never finishes by itself: give it what it waits for, or only
 * already-answered waits are tried.
 */
export const interruptEverywhere = Effect.fnUntraced(function* <A, E, R, A2, E2, R2>(
  run: Effect.Effect<A, E, R>,
  check: Effect.Effect<A2, E2, R2>
) {
  const interruptAt = Effect.fnUntraced(function* (at: number) {
    const base = new Scheduler.MixedScheduler()
    let operations = 0
    const scheduler: Scheduler.Scheduler = {
      executionMode: base.executionMode,
      makeDispatcher: () => base.makeDispatcher(),
      shouldYield: (fiber) => {
        operations++
        if (operations !== at) return base.shouldYield(fiber)
        queueMicrotask(() => fiber.interruptUnsafe())
        return true
      }
    }
    const fiber = yield* run.pipe(Effect.provideService(Scheduler.Scheduler, scheduler), Effect.forkChild)
    yield* Fiber.await(fiber)
    return operations
  })

  const operations = yield* interruptAt(0)
  for (let at = 1; at <= operations; at++) {
    yield* interruptAt(at)
    yield* check
  }
  return operations
})
