// Opens the circuit of a dependency that fails half of the time, refuses calls, and finds out by itself that it is back.
import { Console, Effect, Fiber, Stream } from "effect"
import { CircuitBreaker } from "effect-resilience"

let healthy = false
let calls = 0
const quote = Effect.suspend(() =>
  ++calls % 2 === 0 || healthy ? Effect.succeed("42.17") : Effect.fail("unavailable")
)

const program = Effect.gen(function* () {
  const breaker = yield* CircuitBreaker.make({
    failureRate: 0.5,
    within: "10 seconds",
    minimumCalls: 6,
    or: [{ failures: 5 }],
    openFor: "300 millis"
  })
  const watcher = yield* breaker.transitions.pipe(
    Stream.runForEach(({ from, to }) => Console.log(`  circuit: ${from} -> ${to}`)),
    Effect.forkChild({ startImmediately: true })
  )
  const ask = quote.pipe(
    breaker.execute({ key: "quotes" }),
    Effect.catchTag("CircuitOpen", (refused) => Effect.succeed(refused.message)),
    Effect.catch((error) => Effect.succeed(error)),
    Effect.tap(Console.log)
  )

  yield* Effect.repeat(ask, { times: 6 })
  healthy = true
  yield* Effect.sleep("300 millis")
  yield* Effect.repeat(ask, { times: 2 })
  const { failures, refused, successes } = yield* breaker.totals
  yield* Console.log({ failures, refused, successes })
  yield* Fiber.interrupt(watcher)
})

Effect.runFork(program)
