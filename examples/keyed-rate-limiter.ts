// Ten requests per second for everyone together, and at most three in any second for each user.
import { Duration, Effect } from "effect"
import { KeyedRateLimiter, RateLimiter } from "effect-resilience"

const request = (user: string) => Effect.log(`request of ${user}`)

const program = Effect.gen(function* () {
  const everyone = yield* RateLimiter.make({ algorithm: "gcra", limit: 10, window: "1 second", burst: 5 })
  const users = yield* KeyedRateLimiter.makeWithin(everyone, {
    algorithm: "sliding-window",
    limit: 3,
    window: "1 second",
    maxWait: "500 millis"
  })

  // The fourth of Ann is refused: she would have to wait for a second. One of Bob's waits for the limit of all.
  yield* Effect.forEach(
    ["ann", "ann", "ann", "ann", "bob", "bob", "bob"],
    (user) =>
      request(user).pipe(
        users.execute({ key: user }),
        Effect.catchTag("RateLimited", (refused) => Effect.logWarning(refused.message))
      ),
    { concurrency: "unbounded" }
  )

  // A place in line for work that starts elsewhere, given back because nothing comes of it.
  const { cancel, delay } = yield* everyone.costing(3).reserve
  yield* Effect.log(`an export could start in ${Duration.format(delay)}`)
  yield* cancel
  yield* Effect.log("for everyone", yield* everyone.state)
})

Effect.runFork(program)
