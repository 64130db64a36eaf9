/**
 * Retry: tries again what can succeed, after the wait the server asks for.
 */
import { Console, Duration, Effect, Schema } from "effect"
import { Retry } from "effect-resilience"

class Busy extends Schema.TaggedError<Busy>()("Busy", { retryAfter: Schema.Duration }) {}
class NoSuchUser extends Schema.TaggedError<NoSuchUser>()("NoSuchUser", {}) {}

const busyTwice = Effect.gen(function* () {
  const attempt = yield* Retry.CurrentAttempt
  if (attempt < 3) return yield* new Busy({ retryAfter: Duration.millis(100 * attempt) })
  return `answered at attempt ${attempt}`
})

const policy = {
  schedule: Retry.exponential({ base: "10 millis", jitter: "none" }),
  while: (error: Busy | NoSuchUser) => error._tag === "Busy",
  onRetry: ({ attempt, delay, error }: Retry.Failed<Busy | NoSuchUser>) =>
    Console.log(`attempt ${attempt} failed with ${error._tag}, next one in ${Duration.format(delay)}`)
}

const program = Effect.gen(function* () {
  yield* Console.log(yield* busyTwice.pipe(Retry.retry(policy)))
  const error = yield* new NoSuchUser().pipe(Retry.retry(policy), Effect.flip)
  yield* Console.log(`${error._tag} comes through at once`)
})

Effect.runPromise(program)
