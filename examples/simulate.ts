/**
 * An hour with a five-minute outage, lived through in a few seconds: once with naive retries, once with a policy.
 */
import { Console, Effect } from "effect"
import { CircuitBreaker, Policy, Retry, RetryBudget } from "effect-resilience"
import { renderTable, simulate, World } from "effect-resilience/testing"

// The same as JSON: World.decode(JSON.parse(text)).
const world = World.make({
  duration: "1 hour",
  arrivals: { perSecond: 5 },
  upstream: {
    latency: { kind: "lognormal", p50: "50 millis", p99: "400 millis" },
    failures: { rate: 0.01 },
    outages: [{ from: "20 minutes", until: "25 minutes", kind: "refusing" }]
  }
})

const schedule = Retry.exponential({ base: "200 millis" })

const policy = Effect.gen(function* () {
  const circuitBreaker = yield* CircuitBreaker.make({ failures: 10, openFor: "30 seconds" })
  const retry = Retry.make({ schedule, budget: yield* RetryBudget.make({ share: 0.1, minPerSecond: 1 }) })
  return { ...Policy.make({ circuitBreaker, retry, timeout: "1 second" }), circuitBreaker }
})

const program = Effect.gen(function* () {
  const naive = yield* simulate(world, (call) => call.pipe(Retry.retry({ schedule })))
  yield* Console.log(`Naive retries\n${renderTable(naive, { maxRows: 12 })}\n`)
  const guarded = yield* simulate(world, policy)
  yield* Console.log(`A policy\n${renderTable(guarded, { maxRows: 12 })}`)
})

Effect.runFork(program)
