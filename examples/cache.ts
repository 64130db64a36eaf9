// Exchange rates: fresh for 200 ms, refreshed in the background for 300 ms more, and good for longer when upstream is down.
import { Clock, Console, Effect } from "effect"
import { Cache } from "effect-resilience"

let isDown = false
let rate = 100
const upstream = (currency: string) =>
  Effect.suspend(() => (isDown ? Effect.fail(`no rate of ${currency}`) : Effect.succeed(rate++))).pipe(
    Effect.delay("50 millis")
  )

const program = Effect.gen(function* () {
  const rates = yield* Cache.make({
    lookup: upstream,
    capacity: 1000,
    timeToLive: "200 millis",
    staleIfError: "1 second",
    refresh: { staleWhileRevalidate: "300 millis" },
    onStale: (currency, { cause }) =>
      Console.log(`${currency} is stale${cause === undefined ? "" : ", upstream is down"}`)
  })
  const ask = Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    const answer = yield* Effect.catch(rates.get("EUR"), Effect.succeed)
    yield* Console.log(`${answer} after ${(yield* Clock.currentTimeMillis) - start} ms`)
  })

  yield* ask
  yield* ask
  yield* Effect.delay(ask, "300 millis")
  yield* Effect.delay(ask, "100 millis")
  isDown = true
  yield* Effect.delay(ask, "600 millis")
  yield* Effect.delay(ask, "1 second")
  const { hits, misses, refreshes, stale } = yield* rates.statistics
  yield* Console.log(`${hits} hits, ${misses} misses, ${refreshes} refresh, ${stale} stale answers`)
})

Effect.runFork(Effect.scoped(program))
