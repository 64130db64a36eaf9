import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import { Bulkhead, Hedge, Retry, Timeout } from "effect-resilience"
import { interruptEverywhere, ScriptedUpstream } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const { die, fail, hang, make, succeed } = ScriptedUpstream

const retried = <A, E, R>(call: Effect.Effect<A, E, R>) =>
  Retry.retry(call, { schedule: Retry.fixed({ base: "100 millis" }) })

const message = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) ? String((Cause.squash(exit.cause) as Error).message) : "success"

describe("ScriptedUpstream", () => {
  describe("call", () => {
    it.effect("follows the script, call by call, and then does the rest", () =>
      Effect.gen(function* () {
        const upstream = yield* make({
          calls: [fail("busy"), succeed("first"), die("defect")],
          otherwise: succeed("other")
        })
        expectTypeOf(upstream.call).toEqualTypeOf<Effect.Effect<string, string>>()
        const ends = yield* Effect.replicateEffect(Effect.exit(upstream.call), 5)
        assert.deepStrictEqual(ends, [
          Exit.fail("busy"),
          Exit.succeed("first"),
          Exit.die("defect"),
          Exit.succeed("other"),
          Exit.succeed("other")
        ])
        yield* upstream.expect({
          calls: 5,
          outcomes: ["failed", "succeeded", "died", "succeeded", "succeeded"],
          succeeded: 3,
          failed: 1,
          died: 1,
          interrupted: 0,
          running: 0,
          maxRunning: 1
        })
      })
    )

    it.effect("takes its time", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ calls: [fail("busy", "20 millis"), succeed("ok", "30 millis")] })
        yield* TestClock.adjust("1 second")
        const fiber = yield* Effect.forkChild(retried(upstream.call))
        yield* TestClock.adjust("149 millis")
        assert.strictEqual((yield* upstream.state).running, 1)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* Fiber.join(fiber), "ok")
        yield* upstream.expect({ startedAt: ["1 second", 1_120] })
        assert.deepStrictEqual(
          (yield* upstream.calls).map(({ endedAtMillis }) => endedAtMillis),
          [1_020, 1_150]
        )
      })
    )

    it.effect("hangs until it is interrupted", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ calls: [hang], otherwise: succeed("late") })
        const fiber = yield* Effect.forkChild(retried(Timeout.timeout(upstream.call, "1 second")))
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* Fiber.join(fiber), "late")
        yield* upstream.expect({ outcomes: ["interrupted", "succeeded"], startedAt: [0, 1_100], interrupted: 1 })
        assert.strictEqual((yield* upstream.calls)[0]?.endedAtMillis, 1_000)
      })
    )

    it.effect("has outages, from one moment to just before another", () =>
      Effect.gen(function* () {
        const upstream = yield* make({
          calls: [succeed(1), succeed(2), succeed(3)],
          outages: [
            { from: 100, until: 200, does: fail("down") },
            { from: 150, until: 300, does: fail("slow") },
            { from: "1 second", does: fail("gone") }
          ],
          otherwise: succeed(0)
        })
        const ends: Array<unknown> = []
        for (const at of [99, 100, 199, 200, 299, 300, 999, 1_000, 1e9]) {
          yield* TestClock.setTime(at)
          ends.push(yield* Effect.match(upstream.call, { onFailure: String, onSuccess: (value) => value }))
        }
        assert.deepStrictEqual(ends, [1, "down", "down", "slow", "slow", 0, 0, "gone", "gone"])
      })
    )

    it.effect("draws times, the same for the same seed", () =>
      Effect.gen(function* () {
        const times = (seed?: string) =>
          Effect.gen(function* () {
            const upstream = yield* make({ otherwise: succeed("ok", { kind: "uniform", min: 10, max: 20 }), seed })
            const fiber = yield* Effect.forkChild(Effect.replicateEffect(upstream.call, 20))
            yield* TestClock.adjust("1 second")
            yield* Fiber.join(fiber)
            return (yield* upstream.calls).map((call) => (call.endedAtMillis ?? 0) - call.startedAtMillis)
          })
        const first = yield* times()
        assert.isTrue(first.every((time) => time >= 10 && time <= 20))
        assert.isAbove(new Set(first.map(Math.round)).size, 3)
        const again = yield* times()
        for (const [index, time] of first.entries()) assert.closeTo(again[index] ?? 0, time, 0.001)
        assert.notDeepEqual((yield* times("b")).map(Math.round), first.map(Math.round))
      })
    )

    it.effect("dies of a call that nobody expects", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ calls: [succeed(1)] })
        yield* upstream.call
        assert.strictEqual(message(yield* Effect.exit(upstream.call)), "ScriptedUpstream: call 2 was not expected")
      })
    )
  })

  describe("what it remembers", () => {
    it.effect("is how many calls were running at the same time, and about what", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ otherwise: succeed("ok", 100) })
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 3, maxQueued: 10 })
        const keys = ["a", "b", "c", "d", "e"]
        const fiber = yield* Effect.forkChild(
          Effect.forEach(keys, (key) => bulkhead.execute(upstream.callAbout(key)), { concurrency: "unbounded" })
        )
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        yield* upstream.expect({ maxRunning: 3, keys, startedAt: [0, 0, 0, 100, 100], running: 0 })
        yield* Effect.forkChild(upstream.call)
        yield* TestClock.adjust("1 second")
        yield* upstream.expect({ calls: 6, maxRunning: 3 })
      })
    )

    it.effect("is which hedge lost", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ calls: [succeed("slow", 500), succeed("quick", 50)] })
        const hedge = yield* Hedge.make({ delay: "100 millis" })
        const fiber = yield* Effect.forkChild(hedge.execute(upstream.call))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), "quick")
        yield* upstream.expect({ outcomes: ["interrupted", "succeeded"], startedAt: [0, 100], maxRunning: 2 })
      })
    )

    it.effect("are the first calls; all are counted", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ otherwise: succeed("ok"), maxRecorded: 2 })
        yield* Effect.replicateEffect(upstream.call, 5)
        assert.strictEqual((yield* upstream.calls).length, 2)
        yield* upstream.expect({ calls: 5, succeeded: 5 })
      })
    )

    it.effect("is right when a call is interrupted at any operation", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ otherwise: succeed("ok") })
        const operations = yield* interruptEverywhere(
          upstream.call,
          Effect.gen(function* () {
            const { calls, interrupted, running, succeeded } = yield* upstream.state
            assert.strictEqual(running, 0)
            assert.strictEqual(interrupted + succeeded, calls)
            assert.isTrue((yield* upstream.calls).every(({ outcome }) => outcome !== "running"))
          })
        )
        assert.isAbove(operations, 3)
      })
    )
  })

  describe("expect", () => {
    it.effect("says all that is not as expected, with the calls", () =>
      Effect.gen(function* () {
        const upstream = yield* make({ calls: [fail("busy", 20), succeed("ok"), hang] })
        const fiber = yield* Effect.forkChild(Effect.andThen(retried(upstream.call), upstream.callAbout("k")))
        yield* TestClock.adjust("1 second")
        const exit = yield* Effect.exit(
          upstream.expect({
            calls: 2,
            failed: 1,
            startedAt: [0, "100 millis", 120],
            outcomes: ["failed", "succeeded"],
            keys: ["k"]
          })
        )
        assert.strictEqual(
          message(exit),
          [
            "The upstream was not called as expected",
            "  calls: expected 2, found 3",
            "  startedAt: expected [0,100,120], found [0,120,120]",
            '  outcomes: expected ["failed","succeeded"], found ["failed","succeeded","running"]',
            '  keys: expected ["k"], found [null,null,"k"]',
            "",
            "  call  started    ended  outcome",
            "     1        0       20  failed",
            "     2      120      120  succeeded",
            "     3      120           running (k)"
          ].join("\n")
        )
        yield* Fiber.interrupt(fiber)
      })
    )
  })

  describe("make", () => {
    it.effect.each<readonly [ScriptedUpstream.Script<unknown, unknown>, string]>([
      [{ maxRecorded: 0 }, "maxRecorded must be an integer >= 1, got 0"],
      [{ outages: [{ from: -1, does: hang }] }, "outages[0].from must be not negative, got -1"],
      [{ outages: [{ from: 5, until: 5, does: hang }] }, "outages[0].until must be after from, got 5"],
      [{ calls: [hang, succeed(1, -1)] }, "calls[1].after must be finite and not negative, got -1"],
      [{ otherwise: succeed(1, "soon") }, 'otherwise.after must be a duration or a distribution, got "soon"'],
      [
        { otherwise: succeed(1, { kind: "lognormal", p50: 2, p99: 1 }) },
        'otherwise.after.p99 must be finite and at least p50, got {"kind":"lognormal","p50":2,"p99":1}'
      ]
    ])("dies on %j", ([script, expected]) =>
      Effect.gen(function* () {
        assert.strictEqual(message(yield* Effect.exit(make(script))), `ScriptedUpstream: ${expected}`)
      })
    )
  })
})
