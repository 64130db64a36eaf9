/**
 * A server with a long queue: it refuses those who do not pay, and goes on answering the others and its health checks.
 */
import { Console, Effect, Layer } from "effect"
import { LoadShedding } from "effect-resilience/http"
import { HttpRouter, HttpServerResponse } from "effect/http"

let queued = 0

const app = Layer.mergeAll(
  HttpRouter.add("GET", "/quotes", HttpServerResponse.text("101.5")),
  HttpRouter.add("GET", "/health", HttpServerResponse.text("ok")),
  LoadShedding.layer({
    signals: { queue: Effect.sync(() => queued / 100) },
    interval: 0,
    priority: ({ headers }) => Effect.succeed(headers["x-plan"] === "premium" ? "high" : "normal")
  })
)

const program = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  const ask = Effect.fnUntraced(function* (path: string, plan: string) {
    const request = new Request(`http://localhost${path}`, { headers: { "x-plan": plan } })
    const { headers, status } = yield* Effect.promise(() => server.handler(request))
    yield* Console.log(`${queued} queued, ${plan}: ${path} ${status}, Retry-After: ${headers.get("retry-after")}`)
  })
  yield* ask("/quotes", "free")
  queued = 110
  yield* ask("/quotes", "free")
  yield* ask("/quotes", "premium")
  yield* ask("/health", "free")
})

Effect.runFork(Effect.scoped(program))
