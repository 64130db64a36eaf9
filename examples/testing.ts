/**
 * Tests a policy of one's own: in virtual time, against an upstream whose answers are written down.
 */
import { Console, Effect, Fiber } from "effect"
import { Policy, Retry } from "effect-resilience"
import { interruptEverywhere, ScriptedUpstream } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const policy = Policy.make({
  retry: Retry.make({ schedule: Retry.fixed({ base: "200 millis" }) }),
  timeout: "1 second"
})

const { fail, hang, succeed } = ScriptedUpstream

const retriesWhatHangs = Effect.gen(function* () {
  const upstream = yield* ScriptedUpstream.make({
    calls: [fail("busy", "20 millis"), hang, succeed("well", { kind: "uniform", min: 10, max: 50 })]
  })
  const fiber = yield* Effect.forkChild(policy.execute(upstream.call))
  yield* TestClock.adjust("5 seconds")
  yield* Console.log(`The answer: ${yield* Fiber.join(fiber)}`)
  yield* upstream.expect({
    startedAt: [0, 220, 1_420],
    outcomes: ["failed", "interrupted", "succeeded"],
    maxRunning: 1
  })
})

const leaksNothing = Effect.gen(function* () {
  const upstream = yield* ScriptedUpstream.make({ otherwise: succeed("well") })
  const operations = yield* interruptEverywhere(policy.execute(upstream.call), upstream.expect({ running: 0 }))
  yield* Console.log(`Interrupted at each of ${operations} operations, it left nothing behind`)
})

Effect.runFork(Effect.andThen(retriesWhatHangs, leaksNothing).pipe(Effect.provide(TestClock.layer())))
