/**
 * Watches two providers, one of which breaks and comes back, and prints every change of status.
 */
import { Console, Effect, Schema, Stream } from "effect"
import { HealthMonitor } from "effect-resilience"
import { TestClock } from "effect/testing"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {}) {}

const zephyr = { works: true }

const program = Effect.gen(function* () {
  const monitor = yield* HealthMonitor.make({
    every: "60 seconds",
    providers: [
      { name: "zephyr", check: Effect.suspend(() => (zephyr.works ? Effect.sleep("80 millis") : new Unavailable())) },
      { name: "qtest", check: Effect.sleep("6 seconds"), timeout: "15 seconds" }
    ]
  })
  yield* monitor.changes.pipe(
    Stream.runForEach(({ from, to }) =>
      Console.log(`${to.name}: ${from} -> ${to.status}, failure rate ${to.failureRate.toFixed(2)}`)
    ),
    Effect.forkScoped({ startImmediately: true })
  )
  yield* monitor.start
  yield* TestClock.adjust("1 minute")
  zephyr.works = false
  yield* TestClock.adjust("4 minutes")
  zephyr.works = true
  yield* TestClock.adjust("10 minutes")
})

// On the clock of a test, so that a quarter of an hour passes at once.
Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(TestClock.layer())))
