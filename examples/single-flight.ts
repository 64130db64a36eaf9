/**
 * SingleFlight and Batcher: callers who want the same share one call, callers who want similar things share a request.
 */
import { Console, Effect, Option } from "effect"
import { Batcher, SingleFlight } from "effect-resilience"

const program = Effect.gen(function* () {
  let calls = 0
  const expensive = Effect.delay(
    Effect.sync(() => `answer ${++calls}`),
    "50 millis"
  )
  const flights = yield* SingleFlight.make<string, string, never>()
  const answers = yield* Effect.all(
    Array.from({ length: 100 }, () => expensive.pipe(flights.execute({ key: "same" }))),
    { concurrency: "unbounded" }
  )
  yield* Console.log(`100 callers, ${calls} call, all got "${new Set(answers).values().next().value}"`)

  let requests = 0
  const squares = yield* Batcher.make({
    run: (keys: ReadonlyArray<number>) =>
      Effect.delay(
        Effect.sync(() => (requests++, new Map(keys.map((key) => [key, key * key])))),
        "20 millis"
      ),
    maxBatchSize: 300
  })
  const found = yield* Effect.forEach(
    Array.from({ length: 1_000 }, (_, index) => index),
    squares.get,
    {
      concurrency: "unbounded"
    }
  )
  yield* Console.log(`${found.filter(Option.isSome).length} look-ups, ${requests} requests`)
})

Effect.runPromise(Effect.scoped(program))
