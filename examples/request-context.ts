/**
 * One request through two services: both log lines, the response and work in the background have the same correlation id.
 */
import { Console, Effect, Layer } from "effect"
import { RequestContext } from "effect-resilience/http"
import { HttpClient, HttpClientResponse, HttpRouter, HttpServerResponse } from "effect/http"

// Stands for the second service: it says what it was told.
const stock = HttpClient.make((request) =>
  Effect.as(
    Console.log("stock was asked for", request.headers["x-correlation-id"]),
    HttpClientResponse.fromWeb(request, new Response("3 left"))
  )
)

const stockOfThisRequest = RequestContext.propagate(stock)

const order = Effect.gen(function* () {
  yield* stockOfThisRequest.get("http://stock.internal/tea")
  const mail = Effect.map(RequestContext.current, (context) => `mail to ${context?.user} for ${context?.correlationId}`)
  yield* mail.pipe(Effect.flatMap(Console.log), RequestContext.as({ user: "anna" }), Effect.forkDetach)
  return HttpServerResponse.text("ordered")
})

const app = Layer.merge(HttpRouter.add("POST", "/orders", Effect.orDie(order)), RequestContext.layer())

const program = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  const request = new Request("http://localhost/orders", {
    method: "POST",
    headers: { "x-correlation-id": "click-17" }
  })
  const { headers, status } = yield* Effect.promise(() => server.handler(request))
  yield* Console.log(status, headers.get("x-correlation-id"), headers.get("x-request-id")?.slice(0, 4))
})

Effect.runFork(Effect.scoped(program))
