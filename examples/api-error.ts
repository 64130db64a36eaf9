/**
 * A server whose errors all have one body: its own, those of a circuit breaker, and mistakes.
 */
import { Console, Duration, Effect, Schema } from "effect"
import { CircuitBreaker } from "effect-resilience"
import { ApiError } from "effect-resilience/http"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"

const Charge = Schema.Struct({ amount: Schema.Int, card: Schema.String })

const charge = Effect.gen(function* () {
  const { amount, card } = yield* HttpServerRequest.schemaBodyJson(Charge).pipe(ApiError.orInvalid("body"))
  if (card === "stolen") return yield* new ApiError.Forbidden({ code: "CARD_BLOCKED", error: "This card is blocked" })
  if (amount > 100) return yield* new CircuitBreaker.CircuitOpen({ key: "bank", retryAfter: Duration.seconds(20) })
  return HttpServerResponse.jsonUnsafe({ charged: amount })
})

// A route whose error had no status would not compile here.
const app = ApiError.around(HttpRouter.add("POST", "/charges", charge))

const program = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  const post = Effect.fnUntraced(function* (charge: unknown, accept = "application/json") {
    const headers = { "content-type": "application/json", accept }
    const request = new Request("http://localhost/charges", { method: "POST", headers, body: JSON.stringify(charge) })
    const response = yield* Effect.promise(() => server.handler(request))
    yield* Console.log(response.status, yield* Effect.promise(() => response.text()))
  })
  yield* post({ amount: "ten", card: "4242" })
  yield* post({ amount: 10, card: "stolen" })
  yield* post({ amount: 500, card: "4242" }, "application/problem+json")
})

Effect.runFork(Effect.scoped(program))
