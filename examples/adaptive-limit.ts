// A server serves ten calls at once. Nobody has told the limit, which starts at 40 and finds it out.
import { Duration, Effect, Semaphore } from "effect"
import { AdaptiveLimit } from "effect-resilience"

const millis = (duration = Duration.zero) => `${Math.round(Duration.toMillis(duration))} ms`

const program = Effect.gen(function* () {
  const server = yield* Semaphore.make(10)
  const limit = yield* AdaptiveLimit.make({
    algorithm: "vegas",
    initialLimit: 40,
    maxQueued: 100,
    window: "20 millis",
    partitions: { live: 0.5 }
  })

  // Batch asks for three times as much as live, and yet live gets its half.
  const served = { live: 0, batch: 0 }
  const load = (["live", "batch", "batch", "batch"] as const).map((kind) => {
    const calls = kind === "live" ? limit.partition("live") : limit
    const call = server.withPermit(Effect.sleep("10 millis")).pipe(
      calls.execute,
      Effect.tap(() => Effect.sync(() => served[kind]++))
    )
    return Effect.replicateEffect(Effect.forever(call), 20, { concurrency: "unbounded" })
  })
  const report = Effect.flatMap(limit.state, ({ baseline, limit, rtt }) =>
    Effect.log(`limit ${limit}, ${millis(rtt)} per call, ${millis(baseline)} without a queue`, served)
  )
  yield* Effect.forever(Effect.andThen(Effect.sleep("300 millis"), report)).pipe(
    Effect.race(Effect.all(load, { concurrency: "unbounded" })),
    Effect.timeoutOption("1900 millis")
  )
})

Effect.runFork(program)
