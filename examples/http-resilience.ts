/**
 * HttpResilience: an HttpClient that repeats what is safe, heeds the server's limits, and stops calling what is broken.
 */
import { Console, Duration, Effect } from "effect"
import { CircuitBreaker, Retry } from "effect-resilience"
import { HttpResilience } from "effect-resilience/http"
import { HttpClient, HttpClientResponse } from "effect/http"

// A server that is busy at first, and says when it will not take more.
let requests = 0
const server = HttpClient.make((request) =>
  Effect.sync(() => {
    const n = ++requests
    const headers = { "x-ratelimit-remaining": n === 2 ? "0" : "5", "x-ratelimit-reset": "200ms" }
    return HttpClientResponse.fromWeb(request, new Response(`answer ${n}`, { status: n === 1 ? 503 : 200, headers }))
  })
)

const program = Effect.gen(function* () {
  const resilience = yield* HttpResilience.make({
    deadline: "5 seconds",
    retry: {
      schedule: Retry.exponential({ base: "20 millis" }),
      onRetry: ({ attempt, delay }) => Console.log(`attempt ${attempt} failed, next one in ${Duration.format(delay)}`)
    },
    circuitBreaker: yield* CircuitBreaker.make({ failures: 5, openFor: "30 seconds" }),
    quota: {},
    timeout: "1 second"
  })
  // HttpClient.With<HttpClientError | DeadlineExceeded | CircuitOpen | RateLimited | TimedOut>
  const client = resilience.transform(server)
  for (const path of ["a", "b"]) {
    const [time, text] = yield* Effect.timed(Effect.flatMap(client.get(`https://api.test/${path}`), (r) => r.text))
    yield* Console.log(`${text}, ${Duration.toMillis(time) > 150 ? "after the reset" : "at once"}`)
  }
})

Effect.runPromise(program)
