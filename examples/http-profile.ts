/**
 * HttpResilience.fromProfile: an HttpClient that does what a profile says, and a profile that HTTP has no meaning for.
 */
import { Console, Effect } from "effect"
import { HttpResilience } from "effect-resilience/http"
import { HttpClient, HttpClientResponse } from "effect/http"

// A server that is busy at first.
let requests = 0
const server = HttpClient.make((request) =>
  Effect.sync(() => {
    const status = ++requests === 1 || request.method === "POST" ? 503 : 200
    return HttpClientResponse.fromWeb(request, new Response(`answer ${requests}`, { status }))
  })
)

// As it would come from a file.
const acme: unknown = {
  order: "facade",
  timeout: "30 seconds",
  retry: { base: "20 millis", times: 3, jitter: "none", while: { codes: ["ECONNRESET"], statuses: [500, 503] } },
  circuitBreaker: { failures: 5, openFor: "60 seconds" },
  bulkhead: { maxConcurrent: 15, maxQueued: 50 },
  cache: { timeToLive: "5 minutes" }
}

const program = Effect.gen(function* () {
  const { transform } = yield* HttpResilience.fromProfile(acme, { name: "acme" })
  const client = transform(server)
  const read = Effect.flatMap(client.get("https://api.test/a"), (response) => response.text)
  yield* Console.log(`${yield* read}, and once more ${yield* read}`)
  const posted = yield* client.post("https://api.test/a")
  yield* Console.log(`a POST is not repeated: ${posted.status}, ${yield* posted.text}`)

  const mistaken = { cache: { timeToLive: "5 minutes", jitter: 0.1 } }
  const error = yield* Effect.flip(HttpResilience.fromProfile(mistaken, { name: "mistaken" }))
  yield* Console.log(error.message)
})

Effect.runPromise(Effect.scoped(program))
