/**
 * HttpCache: answers from what is kept, confirms what is stale, and asks once for all who ask at the same time.
 */
import { Console, Effect, Schema } from "effect"
import { HttpCache } from "effect-resilience/http"
import { HttpClient, HttpClientResponse } from "effect/http"

// A server whose answer is good for a second, and then often still the same. In the end it is broken.
let requests = 0
const server = HttpClient.make((request) =>
  Effect.sync(() => {
    requests++
    const headers = { etag: '"v1"', "cache-control": "max-age=1, stale-if-error=60" }
    const status = requests > 2 ? 503 : request.headers["if-none-match"] === '"v1"' ? 304 : 200
    return HttpClientResponse.fromWeb(
      request,
      new Response(status === 304 ? null : '{"price":42}', { status, headers })
    )
  }).pipe(Effect.delay("20 millis"))
)

const Quote = Schema.Struct({ price: Schema.Finite })

const program = Effect.gen(function* () {
  const cache = yield* HttpCache.make()
  const client = cache.transform(server)
  const ask = Effect.gen(function* () {
    const response = yield* client.get("https://api.test/quote")
    const { price } = yield* HttpClientResponse.schemaBodyJson(Quote)(response)
    yield* Console.log(`${price} ${response.headers["cache-status"]}`)
  })
  yield* Effect.all([ask, ask], { concurrency: 2 })
  yield* ask
  yield* Effect.delay(ask, "1100 millis")
  yield* Effect.delay(ask, "1100 millis")
  yield* Console.log(`${requests} requests reached the server`)
})

Effect.runPromise(Effect.scoped(program))
