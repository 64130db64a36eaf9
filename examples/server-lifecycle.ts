/**
 * A server with a time and a log line for each request, which drains before it stops.
 */
import { Console, Effect, Fiber, Layer } from "effect"
import { ApiError, Health, RequestLog, RequestTimeout, Shutdown } from "effect-resilience/http"
import { HttpRouter, HttpServerResponse } from "effect/http"

const routes = Layer.mergeAll(
  HttpRouter.add("GET", "/users/:id", HttpServerResponse.text("anna")),
  HttpRouter.add("GET", "/reports", Effect.never)
)

const program = Effect.gen(function* () {
  const shutdown = yield* Shutdown.Shutdown
  const app = ApiError.around(
    Layer.mergeAll(
      routes,
      Shutdown.layerMiddleware,
      RequestLog.layer(),
      RequestTimeout.layer({ timeout: "50 millis", statusCode: 504 }),
      Health.layerRoutes({ phase: shutdown.phase })
    )
  ).pipe(Layer.provide(Health.layer()), Layer.provide(Layer.succeed(Shutdown.Shutdown, shutdown)))
  const server = HttpRouter.toWebHandler(app, { disableLogger: true })
  const ask = Effect.fnUntraced(function* (path: string) {
    const response = yield* Effect.promise(() => server.handler(new Request(`http://localhost${path}`)))
    yield* Console.log(path, response.status, `connection: ${response.headers.get("connection") ?? "kept"}`)
  })
  // A real one listens on a socket, and a signal interrupts it.
  const running = yield* Effect.forkChild(shutdown.run(Layer.empty), { startImmediately: true })
  for (const path of ["/users/7?token=secret", "/reports", "/health/ready"]) yield* ask(path)
  running.interruptUnsafe()
  yield* Effect.yieldNow
  for (const path of ["/users/7", "/health/ready"]) yield* ask(path)
  yield* Fiber.await(running)
})

Effect.runFork(Effect.provide(program, Shutdown.layer({ drainFor: "100 millis" })))
