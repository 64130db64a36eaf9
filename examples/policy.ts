/**
 * Makes the same failing call under both orders: one counts attempts, the other calls.
 */
import { Console, Effect, Schema } from "effect"
import { Bulkhead, CircuitBreaker, Policy, Retry } from "effect-resilience"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {}) {}

const program = Effect.gen(function* () {
  let attempts = 0
  const call = Effect.suspend(() => {
    attempts++
    return new Unavailable()
  })
  const retry = Retry.make({ schedule: Retry.fixed({ base: "10 millis", times: 2 }) })

  // Deadline → bulkhead → retry → breaker → timeout: three failed attempts open the circuit within one call.
  const perAttempt = Policy.make({
    deadline: "5 seconds",
    bulkhead: yield* Bulkhead.make({ maxConcurrent: 10, maxQueued: 100 }),
    retry,
    circuitBreaker: yield* CircuitBreaker.make({ failures: 3 }),
    timeout: "1 second"
  })
  // Breaker → bulkhead → timeout → retry: the circuit counts the call once, and one second is for all attempts.
  const perCall = Policy.makeFacade({
    circuitBreaker: yield* CircuitBreaker.make({ failures: 3 }),
    bulkhead: yield* Bulkhead.make({ maxConcurrent: 10, maxQueued: 100 }),
    timeout: "1 second",
    retry
  })
  for (const [name, policy] of Object.entries({ perAttempt, perCall })) {
    attempts = 0
    const ends = yield* Effect.forEach([1, 2, 3, 4], () => Effect.flip(policy.execute(call)))
    yield* Console.log(`${name}: ${ends.map((error) => error._tag).join(", ")} after ${attempts} attempts`)
  }
})

Effect.runPromise(program)
