/**
 * Calls an unreliable dependency under a policy: a deadline, retries, a circuit and a rate limit.
 */
import { Console, Effect, Schema } from "effect"
import { CircuitBreaker, Policy, RateLimiter, Retry } from "effect-resilience"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {}) {}

let calls = 0
const quote = Effect.suspend(() => (++calls % 3 === 0 ? Effect.succeed(calls) : Effect.fail(new Unavailable())))

const program = Effect.gen(function* () {
  const policy = Policy.make({
    deadline: "2 seconds",
    retry: Retry.make({ schedule: Retry.exponential({ base: "50 millis" }) }),
    circuitBreaker: yield* CircuitBreaker.make({ failures: 5, openFor: "30 seconds" }),
    rateLimiter: yield* RateLimiter.make({ capacity: 16, refillPerSecond: 8 }),
    timeout: "500 millis"
  })
  // Effect<number, Unavailable | DeadlineExceeded | CircuitOpen | RateLimited | TimedOut>
  const guarded = quote.pipe(policy.execute)
  yield* Console.log(`Answered at call ${yield* guarded}`)
})

Effect.runPromise(program)
