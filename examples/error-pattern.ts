/**
 * One list of errors as data, for what is retried and for what opens the circuit.
 */
import { Effect, Schema } from "effect"
import { CircuitBreaker, ErrorPattern, Retry } from "effect-resilience"

// As it stands in a configuration file.
const retryable = ErrorPattern.fromSpec(
  Schema.decodeSync(ErrorPattern.Spec)({
    codes: ["ECONNRESET", "ETIMEDOUT", "UND_ERR_*"],
    statuses: [429, 503],
    texts: ["socket hang up", { regExp: "^too many" }]
  })
)

const reset = new TypeError("fetch failed", {
  cause: Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" })
})
const answers = [{ status: 503 }, reset, "Too many requests", { status: 404 }]

const program = Effect.gen(function* () {
  const breaker = yield* CircuitBreaker.make({ classify: ErrorPattern.outcome({ failure: retryable }) })

  let calls = 0
  const call = Effect.suspend(() => Effect.fail(answers[calls++])).pipe(
    breaker.execute({ key: "prices" }),
    Retry.retry({
      schedule: Retry.fibonacci({ base: 50, times: 5 }),
      while: retryable,
      onRetry: ({ attempt, error }) => Effect.log(`attempt ${attempt} failed:`, error)
    })
  )
  const last = yield* Effect.flip(call)
  yield* Effect.log(`gave up after ${calls} calls:`, last)
  yield* Effect.log("a 404 is an answer:", yield* breaker.state("prices"))
})

Effect.runFork(program)
