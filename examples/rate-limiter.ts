// An upstream that allows three requests in any half second, and answers 429 now and then.
import { Data, Effect } from "effect"
import { RateLimiter } from "effect-resilience"

class TooManyRequests extends Data.TaggedError("TooManyRequests") {}

let answered = 0
const request = Effect.suspend(() => (++answered === 4 ? Effect.fail(new TooManyRequests()) : Effect.log("answered")))

const program = Effect.gen(function* () {
  const limiter = yield* RateLimiter.make({ algorithm: "sliding-window", limit: 3, window: "500 millis" })

  const polite = request.pipe(
    Effect.tapError(() => limiter.throttled("300 millis")),
    limiter.execute,
    Effect.catch((error) => Effect.logWarning(error.message || error._tag))
  )
  for (let i = 0; i < 7; i++) yield* polite

  // Without waiting, and for a call that counts for two.
  yield* Effect.log("two at once").pipe(
    limiter.costing(2).executeIfAvailable,
    Effect.catchTag("RateLimited", (refused) => Effect.logWarning(refused.message))
  )
  yield* Effect.log("now", yield* limiter.state)
})

Effect.runFork(program)
