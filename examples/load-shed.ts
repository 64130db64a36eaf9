// Twice as many requests as can be served: the unimportant ones are told to come back later, at once.
import { Effect } from "effect"
import { Bulkhead, LoadShed, Priority } from "effect-resilience"

const program = Effect.gen(function* () {
  const bulkhead = yield* Bulkhead.make({ maxConcurrent: 5, maxQueued: 1_000 })
  const shed = yield* LoadShed.make({
    signals: {
      queue: LoadShed.queue(bulkhead.state, 10),
      loop: yield* LoadShed.eventLoopLag({ bearable: "200 millis" })
    },
    interval: "10 millis"
  })

  const request = (priority: Priority.Priority) =>
    Effect.sleep("10 millis").pipe(bulkhead.execute, shed.execute, Priority.as(priority))

  // Ten requests every ten milliseconds, three of them important; five can be served.
  yield* Effect.forEach(
    Array.from({ length: 1_000 }, (_, index) => index),
    (index) =>
      Effect.sleep(`${index} millis`).pipe(
        Effect.andThen(request(index % 10 < 3 ? "high" : "low")),
        Effect.catchTag("Overloaded", (refusal) => (index === 500 ? Effect.log(refusal.message) : Effect.void))
      ),
    { concurrency: "unbounded", discard: true }
  )
  yield* Effect.log("shed", yield* shed.statistics)
  yield* Effect.log("state", yield* shed.state)
})

Effect.runPromise(Effect.scoped(program))
