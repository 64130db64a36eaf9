/**
 * A service whose database is well and whose mail server is not: it works, though not in full, and says so to its probes.
 */
import { Console, Effect, Layer } from "effect"
import { CircuitBreaker } from "effect-resilience"
import { Health } from "effect-resilience/http"
import { HttpRouter } from "effect/http"

const checks = {
  database: { check: Effect.sleep("12 millis"), timeout: "1 second" },
  mail: { check: Effect.fail("secret of the mail server"), critical: false }
} as const

const app = Layer.unwrap(
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make()
    yield* breaker.isolate("mail")
    return Health.layerRoutes({ version: "1.4.0", environment: "demo", circuits: breaker.states })
  })
).pipe(Layer.provide(Health.layer({ checks })))

const program = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  for (const path of ["/health/live", "/health/ready", "/health/circuit-breakers"]) {
    const response = yield* Effect.promise(() => server.handler(new Request(`http://localhost${path}`)))
    yield* Console.log(path, response.status, yield* Effect.promise(() => response.text()))
  }
})

Effect.runFork(Effect.scoped(program))
