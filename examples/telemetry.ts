/**
 * Shows an outage as metrics, in the format of Prometheus, and as log lines.
 */
import { Console, Effect, Layer, Logger, References, Schema } from "effect"
import { Bulkhead, CircuitBreaker, Policy, Retry, Telemetry } from "effect-resilience"
import { PrometheusMetrics } from "effect/observability"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {}) {}

const broken = Effect.suspend(() => Effect.fail(new Unavailable()))

const program = Effect.gen(function* () {
  const circuitBreaker = yield* CircuitBreaker.make({ failures: 2, name: "zephyr" })
  const bulkhead = yield* Bulkhead.make({ maxConcurrent: 10, name: "zephyr" })
  yield* Telemetry.observe("zephyr", { circuitBreaker, bulkhead })
  const retry = Retry.make({ name: "zephyr", schedule: Retry.delays(["10 millis"]) })
  const policy = Policy.make({ bulkhead, retry, circuitBreaker, timeout: "1 second" })

  for (let call = 0; call < 3; call++) yield* Effect.exit(broken.pipe(policy.execute))
  yield* Console.log(yield* PrometheusMetrics.format())
})

const observed = Layer.merge(Telemetry.layerLog(), Telemetry.layerMetrics()).pipe(
  Layer.provideMerge(Logger.layer([Logger.consoleLogFmt])),
  Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "Debug"))
)

Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(observed)))
