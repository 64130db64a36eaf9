/**
 * A server that is slow one time in twenty: the slowest answers with and without a hedge at the 90th percentile.
 */
import { Clock, Effect, Random } from "effect"
import { Hedge } from "effect-resilience"

const lookUp = Effect.flatMap(Random.nextIntBetween(0, 20), (n) => Effect.sleep(n === 0 ? 300 : 5 + n / 2))

const slowest = Effect.fnUntraced(function* (call: Effect.Effect<void>, calls: number) {
  const timed = Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    yield* call
    return (yield* Clock.currentTimeMillis) - start
  })
  const times = yield* Effect.forEach(Array.from({ length: calls }), () => timed, { concurrency: 20 })
  return times.sort((a, b) => b - a)[Math.floor(calls / 50)]
})

const program = Effect.gen(function* () {
  const hedge = yield* Hedge.make({ delay: 50, percentile: 0.9, minSamples: 50 })
  yield* Effect.log(`without a hedge, one call in fifty takes ${yield* slowest(lookUp, 400)} ms or more`)
  yield* slowest(hedge.execute(lookUp), 200)
  yield* Effect.log(`with one:        one call in fifty takes ${yield* slowest(hedge.execute(lookUp), 400)} ms or more`)
  const { calls, delay, hedges, wins } = yield* hedge.state
  yield* Effect.log(`${calls} calls, ${hedges} made again after ${delay}, ${wins} answered by the second`)
})

Effect.runPromise(program.pipe(Random.withSeed("hedge")))
