/**
 * Puts one dependency behind one function, with a cache, a circuit, a bulkhead, a timeout, retries and a fallback.
 */
import { Console, Effect, Schema } from "effect"
import { Profile, ResilienceFacade } from "effect-resilience"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {}) {}

const program = Effect.gen(function* () {
  const facade = yield* ResilienceFacade.make(
    Profile.make({ ...Profile.facade, retry: { times: 2, base: "10 millis" }, circuitBreaker: { failures: 2 } })
  )
  let calls = 0
  const call = Effect.suspend(() => Effect.succeed(`answer ${++calls}`))
  const failing = Effect.suspend(() => {
    calls++
    return new Unavailable()
  })

  // Kept under the key until it is invalidated.
  yield* Console.log(yield* facade.execute("question", call), yield* facade.execute("question", call))
  yield* facade.invalidateCache("question")
  yield* Console.log(yield* facade.execute("question", call))

  // Two failed calls of three attempts each open the circuit; then nothing is called any more.
  for (let time = 0; time < 3; time++) {
    const answer = yield* facade.execute("other", failing, (error) => Effect.succeed(`instead of ${error._tag}`))
    const { circuit, concurrentExecutions, queueSize } = yield* facade.getStatus()
    yield* Console.log(
      `${answer}: ${circuit?._tag}, ${concurrentExecutions} running, ${queueSize} waiting, ${calls} calls`
    )
  }
})

Effect.runPromise(Effect.scoped(program))
