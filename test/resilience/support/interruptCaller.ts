import { Effect, Fiber, Scheduler } from "effect"

/**
 * Interrupts `call` at each of its own operations in turn, and never the fibers it starts, as a caller is interrupted
 * whose work others wait for too. Before each try runs `during`, and after it what
 * that returned.
 */
export const interruptCaller = Effect.fnUntraced(function* <A, E, R, A2, E2, R2, E3, R3>(
  during: Effect.Effect<() => Effect.Effect<A2, E2, R2>, E3, R3>,
  call: Effect.Effect<A, E, R>
) {
  const interruptAt = Effect.fnUntraced(function* (at: number) {
    const base = new Scheduler.MixedScheduler()
    let caller = -1
    let operations = 0
    const scheduler: Scheduler.Scheduler = {
      executionMode: base.executionMode,
      makeDispatcher: () => base.makeDispatcher(),
      shouldYield: (fiber) => {
        if (fiber.id !== caller || ++operations !== at) return base.shouldYield(fiber)
        queueMicrotask(() => fiber.interruptUnsafe())
        return true
      }
    }
    const after = yield* during
    const fiber = yield* Effect.withFiber((self) => {
      caller = self.id
      return call
    }).pipe(Effect.provideService(Scheduler.Scheduler, scheduler), Effect.forkChild)
    yield* Fiber.await(fiber)
    yield* after()
    return operations
  })

  const operations = yield* interruptAt(0)
  for (let at = 1; at <= operations; at++) yield* interruptAt(at)
  return operations
})
