/**
 * A server that takes three requests a minute from each address, and one charge in ten seconds.
 */
import { Console, Effect, Layer } from "effect"
import { RateLimit, RateLimitStore } from "effect-resilience/http"
import { HttpRouter, HttpServerResponse } from "effect/http"

const routes = Layer.mergeAll(
  HttpRouter.add("GET", "/quotes", HttpServerResponse.text("101.5")),
  HttpRouter.add("POST", "/charges", HttpServerResponse.text("charged"))
)

const limits = RateLimit.layer({
  rules: [
    { name: "all", policy: { limit: 3, window: "1 minute" } },
    { name: "charges", policy: { limit: 1, window: "10 seconds" }, when: RateLimit.endpoint("POST /charges") }
  ],
  clientAddress: { trustedProxies: ["10.0.0.0/8"] }
})

const app = Layer.merge(routes, limits).pipe(Layer.provide(RateLimitStore.layerMemory()))

const program = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  for (const [method, path] of [
    ["POST", "/charges"],
    ["POST", "/charges"],
    ["GET", "/quotes"]
  ] as const) {
    const request = new Request(`http://localhost${path}`, { method })
    const response = yield* Effect.promise(() => server.handler(request))
    yield* Console.log(`${method} ${path}: ${response.status}, RateLimit: ${response.headers.get("ratelimit")}`)
  }
})

Effect.runFork(Effect.scoped(program))
