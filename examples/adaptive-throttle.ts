// An upstream that accepts a quarter of the requests that come: the throttle keeps back most of those it would refuse.
import { Data, Duration, Effect } from "effect"
import { AdaptiveThrottle } from "effect-resilience"

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter: Duration.Duration }> {}

const program = Effect.gen(function* () {
  const throttle = yield* AdaptiveThrottle.make({ window: "10 seconds" })
  let sent = 0
  let accepts = 0
  const request = Effect.suspend(() => {
    sent++
    return accepts-- > 0 ? Effect.succeed("ok") : new Busy({ retryAfter: Duration.seconds(1) })
  })

  const outcomes = { ok: 0, Busy: 0, Throttled: 0 }
  for (let i = 0; i < 10_000; i++) {
    if (i % 100 === 0) accepts = 25
    yield* request.pipe(
      throttle.execute,
      Effect.matchEffect({
        onSuccess: () => Effect.sync(() => outcomes.ok++),
        onFailure: ({ _tag }) => Effect.sync(() => outcomes[_tag]++)
      })
    )
  }
  yield* Effect.log(`of 10000 requests ${sent} were sent`, outcomes, yield* throttle.state)
})

Effect.runFork(program)
