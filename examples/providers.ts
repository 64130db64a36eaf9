/**
 * Calls two providers, each under its own profile, and changes one of them while calls are running.
 */
import { Console, Effect, Fiber, Schema } from "effect"
import { Fallback, Profile, Providers } from "effect-resilience"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {}) {}

const profiles = { zephyr: Profile.zephyr, qtest: Profile.qtest }

const program = Effect.gen(function* () {
  const providers = yield* Providers.Providers
  const zephyr = yield* providers.get("zephyr")
  const qtest = yield* providers.get("qtest")

  const quote = Effect.as(Effect.sleep("20 millis"), 42)
  yield* Console.log(`quote: ${yield* quote.pipe(zephyr.execute({ key: "quote" }))}`)
  const fallback = Fallback.value("no test", { errors: Fallback.tags("Unavailable", "CircuitOpen", "UnknownProvider") })
  // Effect<string, BulkheadFull | TimedOut | ...>: what the fallback handles is gone
  yield* Console.log(`test: ${yield* new Unavailable().pipe(qtest.execute({ fallback }))}`)

  // The running call ends under the profile it began with. The result that is kept stays.
  const running = yield* Effect.forkChild(quote.pipe(zephyr.execute()), { startImmediately: true })
  const reloaded = yield* providers.reload({
    zephyr: { ...Profile.encode(Profile.zephyr), timeout: "5 seconds", bulkhead: { maxConcurrent: 5, maxQueued: 50 } }
  })
  yield* Console.log(JSON.stringify(reloaded))
  for (const { calls, circuit, finishing, name, places } of yield* providers.statuses) {
    yield* Console.log(`${name}: ${circuit?._tag}, ${calls} calls and ${finishing} of before, ${places?.limit} places`)
  }
  yield* Console.log(
    `then: ${yield* Fiber.join(running)}, and ${yield* Effect.succeed(0).pipe(zephyr.execute({ key: "quote" }))} kept`
  )
  yield* Console.log((yield* Effect.flip(quote.pipe(qtest.execute()))).message)
})

Effect.runPromise(program.pipe(Effect.provide(Providers.layerConfig({ profiles }))))
