/**
 * A limit that follows a dependency which gets slower; and one that does not wait for work it cannot stop.
 */
import { Duration, Effect } from "effect"
import { AdaptiveTimeout, Timeout } from "effect-resilience"

const program = Effect.gen(function* () {
  const timeout = yield* AdaptiveTimeout.make({ ceiling: "2 seconds", floor: "5 millis", minSamples: 20 })
  const call = (length: Duration.Input) => Effect.exit(timeout.execute(Effect.sleep(length)))

  for (const length of [10, 10, 60, 60, 60]) {
    yield* Effect.replicateEffect(call(length), 20, { concurrency: 5, discard: true })
    const { limit, samples, timeouts } = yield* timeout.state
    yield* Effect.log(
      `calls of ${length} ms: ${samples} samples, ${timeouts} timeouts, limit ${Duration.format(limit)}`
    )
  }

  const leaving = yield* Timeout.makeLeaving({ after: "20 millis", maxLeft: 4 })
  const stubborn = Effect.uninterruptible(Effect.sleep("100 millis"))
  yield* Effect.log(yield* Effect.flip(leaving.execute(stubborn)))
  yield* Effect.log("left behind:", yield* leaving.state)
  yield* Effect.sleep("100 millis")
  yield* Effect.log("later:", yield* leaving.state)
})

Effect.runFork(program)
