/**
 * Three retries per call, and a dead dependency: what reaches it with and without a budget.
 */
import { Data, Effect } from "effect"
import { Retry, RetryBudget } from "effect-resilience"

class Unavailable extends Data.TaggedError("Unavailable")<{}> {}

const load = Effect.fnUntraced(function* (budget: RetryBudget.RetryBudget | undefined) {
  let requests = 0
  const retry = Retry.make({ schedule: Retry.exponential({ base: 10, times: 3 }), budget, budgetKey: "prices" })
  const call = Effect.suspend(() => {
    requests++
    return new Unavailable()
  }).pipe(retry.execute, Effect.exit)
  yield* Effect.forEach(Array.from({ length: 1000 }), () => call, { concurrency: "unbounded" })
  return requests
})

const program = Effect.gen(function* () {
  const budget = yield* RetryBudget.make({ share: 0.2, minPerSecond: 1 })
  yield* Effect.log(`1,000 calls without a budget: ${yield* load(undefined)} requests`)
  yield* Effect.log(`1,000 calls with a budget:    ${yield* load(budget)} requests`)
  const { available, refused, retries } = yield* budget.state("prices")
  yield* Effect.log(`${retries} retries made, ${refused} refused, ${available} left`)
})

Effect.runPromise(program)
