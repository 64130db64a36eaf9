// Two reports at a time, the important ones first; and one export at a time for each customer.
import { Effect } from "effect"
import { Bulkhead, Priority } from "effect-resilience"

const report = (name: string) =>
  Effect.sleep("50 millis").pipe(
    Effect.tap(() => Effect.log(`${name} is ready`)),
    Effect.as(name)
  )

const program = Effect.gen(function* () {
  const reports = yield* Bulkhead.make({ maxConcurrent: 2, maxQueued: 4, priorities: "strict" })
  const perCustomer = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 1 })

  const requests = (["low", "low", "low", "high", "critical", "low", "low"] as const).map((priority, index) =>
    report(`report ${index} (${priority})`).pipe(
      reports.execute,
      Priority.as(priority),
      Effect.catchTag("BulkheadFull", (full) => Effect.logWarning(`report ${index} (${priority}): ${full.message}`))
    )
  )
  yield* Effect.all(requests, { concurrency: "unbounded" })
  yield* Effect.log("reports", yield* reports.statistics)

  yield* Effect.forEach(
    ["ann", "ann", "bob", "ann"],
    (key) =>
      report(`export of ${key}`).pipe(
        perCustomer.execute({ key }),
        Effect.catchTag("BulkheadFull", (full) => Effect.logWarning(full.message))
      ),
    { concurrency: "unbounded" }
  )
})

Effect.runFork(program)
