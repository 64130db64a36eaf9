import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Context, DateTime, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Scope, Stream } from "effect"
import { CircuitBreaker, HealthMonitor, type Providers } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

/** A provider whose next answers are told to it: milliseconds to answer after, or how to fail. */
const scripted = (name: string) => {
  const state = { next: 0 as number | "fails" | "dies" | "hangs", checks: 0, running: 0, most: 0 }
  const check = Effect.suspend(() => {
    state.checks++
    state.running++
    state.most = Math.max(state.most, state.running)
    const { next } = state
    if (next === "fails") return Effect.fail("no answer")
    if (next === "dies") return Effect.die(new Error("a bug"))
    return next === "hangs" ? Effect.never : Effect.sleep(next)
  }).pipe(Effect.ensuring(Effect.sync(() => state.running--)))
  return { state, provider: { name, check } }
}

/** Checks once and says what came of it, however long the check takes. */
const checked = Effect.fnUntraced(function* (monitor: HealthMonitor.HealthMonitor, name = "site") {
  const checking = yield* Effect.forkChild(monitor.check(name), { startImmediately: true })
  yield* TestClock.adjust("11 seconds")
  return yield* Fiber.join(checking)
})

describe("HealthMonitor", () => {
  describe("check", () => {
    it.effect("knows nothing of a provider before its first check", () =>
      Effect.gen(function* () {
        const monitor = yield* HealthMonitor.make({ providers: [scripted("site").provider] })
        assert.deepStrictEqual(yield* monitor.health("site"), {
          name: "site",
          status: "UNKNOWN",
          lastChecked: undefined,
          responseTime: undefined,
          circuit: undefined,
          failureRate: 0,
          cause: undefined
        })
      })
    )

    it.effect("is UP after an answer, and says when that was and how long it took", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [provider] })
        state.next = 120
        yield* TestClock.adjust("1 minute")
        const checking = yield* Effect.forkChild(monitor.check("site"), { startImmediately: true })
        yield* TestClock.adjust(120)
        const health = yield* Fiber.join(checking)
        assert.strictEqual(health.status, "UP")
        assert.strictEqual(health.failureRate, 0)
        assert.deepStrictEqual(health.lastChecked?.pipe(DateTime.toEpochMillis), 60_120)
        assert.deepStrictEqual(health.responseTime?.pipe(Duration.toMillis), 120)
        assert.isUndefined(health.cause)
      })
    )

    it.effect.each([
      ["fails", "no answer"],
      ["dies", "a bug"],
      ["hangs", "Timed out after 10s"]
    ] as const)("is DOWN when the check %s", ([next, reason]) =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [provider] })
        state.next = next
        const health = yield* checked(monitor)
        assert.strictEqual(health.status, "DOWN")
        assert.strictEqual(health.failureRate, 0.1)
        assert.include(String(health.cause && Cause.squash(health.cause)), reason)
        assert.strictEqual(state.running, 0)
      })
    )

    it.effect.each([
      [4_999, "UP"],
      [5_000, "UP"],
      [5_001, "DEGRADED"],
      [9_999, "DEGRADED"],
      [10_001, "DOWN"]
    ] as const)("of %s ms is %s", ([millis, status]) =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [provider] })
        state.next = millis
        const health = yield* checked(monitor)
        assert.strictEqual(health.status, status)
        // Slow or not, an answer is a success.
        assert.strictEqual(health.failureRate, status === "DOWN" ? 0.1 : 0)
      })
    )

    it.effect(
      "raises the rate to min(rate * 1.2 + 0.1, 1) with a failure and lowers it by a fifth with a success",
      () =>
        Effect.gen(function* () {
          const { provider, state } = scripted("site")
          const monitor = yield* HealthMonitor.make({ providers: [provider] })
          let rate = 0
          for (let at = 0; at < 8; at++) {
            state.next = "fails"
            rate = Math.min(rate * 1.2 + 0.1, 1)
            assert.strictEqual((yield* checked(monitor)).failureRate, rate)
          }
          assert.strictEqual(rate, 1)
          state.next = 0
          for (let at = 0; at < 8; at++) {
            rate *= 0.8
            const health = yield* checked(monitor)
            assert.strictEqual(health.failureRate, rate)
            // 0.8, 0.64, 0.512, 0.4096, 0.32768 are over 0.3; 0.262 and what follows are not.
            assert.strictEqual(health.status, at < 5 ? "DEGRADED" : "UP")
          }
        })
    )

    it.effect("is UP at exactly the rate that is allowed", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        // One failure makes 0.1, the success after it 0.08.
        const at = yield* HealthMonitor.make({ providers: [provider], degradedFrom: 0.1 * 0.8 })
        const under = yield* HealthMonitor.make({ providers: [provider], degradedFrom: 0.1 * 0.8 - 1e-9 })
        state.next = "fails"
        yield* checked(at)
        yield* checked(under)
        state.next = 0
        assert.strictEqual((yield* checked(at)).status, "UP")
        assert.strictEqual((yield* checked(under)).status, "DEGRADED")
      })
    )

    it.effect("of all who ask at once is one", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [provider] })
        state.next = 100
        const first = yield* Effect.forkChild(monitor.check("site"), { startImmediately: true })
        const second = yield* Effect.forkChild(monitor.check("site"), { startImmediately: true })
        const third = yield* Effect.forkChild(monitor.checkAll, { startImmediately: true })
        yield* TestClock.adjust(50)
        yield* Fiber.interrupt(first)
        yield* TestClock.adjust(50)
        assert.strictEqual((yield* Fiber.join(second)).status, "UP")
        assert.strictEqual((yield* Fiber.join(third))[0]?.status, "UP")
        assert.strictEqual(state.checks, 1)
      })
    )

    it.effect("stops when nobody waits for it any more, and is not recorded", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [provider] })
        state.next = "hangs"
        const checking = yield* Effect.forkChild(monitor.check("site"), { startImmediately: true })
        yield* Fiber.interrupt(checking)
        assert.strictEqual(state.running, 0)
        assert.strictEqual((yield* monitor.health("site")).status, "UNKNOWN")
      })
    )

    it.effect("has a time limit of its own, if it was given one", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [{ ...provider, timeout: "2 seconds" }] })
        state.next = "hangs"
        const health = yield* checked(monitor)
        assert.deepStrictEqual(health.responseTime?.pipe(Duration.toMillis), 2_000)
      })
    )

    it.effect("fails for a name that nobody watches", () =>
      Effect.gen(function* () {
        const monitor = yield* HealthMonitor.make()
        for (const effect of [monitor.check("nobody"), monitor.health("nobody")]) {
          const error = yield* Effect.flip(effect)
          assert.deepStrictEqual([error._tag, error.message], ["UnknownProvider", 'There is no provider "nobody"'])
        }
      })
    )

    it.effect("leaves nothing running when it is interrupted at any operation", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [provider] })
        const operations = yield* interruptEverywhere(
          monitor.check("site"),
          Effect.gen(function* () {
            assert.strictEqual(state.running, 0)
            // And the next check is not held up.
            assert.strictEqual((yield* monitor.check("site")).status, "UP")
          })
        )
        assert.isAbove(operations, 10)
      })
    )
  })

  describe("circuit", () => {
    it.effect("is shown as it is when one asks", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        const circuit = { breaker, key: "site" }
        const monitor = yield* HealthMonitor.make({ providers: [{ ...scripted("site").provider, circuit }] })
        assert.strictEqual((yield* monitor.health("site")).circuit?._tag, "Closed")
        yield* Effect.exit(breaker.execute({ key: "site" })(Effect.fail("broken")))
        assert.strictEqual((yield* monitor.health("site")).circuit?._tag, "Open")
        assert.strictEqual((yield* checked(monitor)).status, "UP")
      })
    )

    it.effect("that is open fails a check through it", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1 })
        yield* Effect.exit(breaker.execute({ key: "site" })(Effect.fail("broken")))
        const { provider, state } = scripted("site")
        const check = provider.check.pipe(breaker.execute({ key: "site" }))
        const monitor = yield* HealthMonitor.make({ providers: [{ name: "site", check }] })
        assert.strictEqual((yield* checked(monitor)).status, "DOWN")
        assert.strictEqual(state.checks, 0)
      })
    )
  })

  describe("start", () => {
    it.effect("checks all at once and then every 60 seconds, until it is stopped", () =>
      Effect.gen(function* () {
        const one = scripted("one")
        const two = scripted("two")
        const monitor = yield* HealthMonitor.make({ providers: [one.provider, two.provider] })
        const checks = () => [one.state.checks, two.state.checks]
        yield* TestClock.adjust("5 minutes")
        assert.deepStrictEqual(checks(), [0, 0])
        yield* monitor.start
        yield* monitor.start
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(checks(), [1, 1])
        yield* TestClock.adjust("59999 millis")
        assert.deepStrictEqual(checks(), [1, 1])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(checks(), [2, 2])
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(checks(), [12, 12])
        yield* monitor.stop
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(checks(), [12, 12])
        yield* monitor.start
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(checks(), [14, 14])
      })
    )

    it.effect("checks side by side, as many at a time as allowed", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("any")
        state.next = 100
        const providers = Array.from({ length: 7 }, (_, at) => ({ ...provider, name: `provider ${at}` }))
        const monitor = yield* HealthMonitor.make({ providers, maxConcurrent: 3 })
        yield* monitor.start
        yield* TestClock.adjust(100)
        assert.strictEqual(state.running, 3)
        yield* TestClock.adjust(200)
        assert.deepStrictEqual([state.checks, state.most], [7, 3])
      })
    )

    it.effect("interrupts the checks under way when it stops, or when the scope closes", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        state.next = "hangs"
        const scope = yield* Scope.make()
        const monitor = yield* Scope.provide(HealthMonitor.make({ providers: [provider] }), scope)
        yield* monitor.start
        yield* TestClock.adjust(0)
        assert.strictEqual(state.running, 1)
        yield* monitor.stop
        assert.strictEqual(state.running, 0)
        yield* monitor.start
        yield* TestClock.adjust(0)
        assert.strictEqual(state.running, 1)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(state.running, 0)
      })
    )

    it.effect("is what the layer does", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const context = yield* Layer.build(HealthMonitor.layer({ providers: [provider] }))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(state.checks, 2)
        const monitor = Context.get(context, HealthMonitor.HealthMonitor)
        assert.strictEqual((yield* monitor.health("site")).status, "UP")
      })
    )
  })

  describe("changes", () => {
    it.effect("tells every change of status, and nothing else", () =>
      Effect.gen(function* () {
        const { provider, state } = scripted("site")
        const scope = yield* Scope.make()
        const monitor = yield* Scope.provide(HealthMonitor.make({ providers: [provider] }), scope)
        const reading = yield* Effect.forkChild(Stream.runCollect(monitor.changes), { startImmediately: true })
        for (const next of [0, 0, "fails", "fails", "fails", 0, 0, 6_000, 0] as const) {
          state.next = next
          yield* checked(monitor)
        }
        yield* Scope.close(scope, Exit.void)
        const changes = yield* Fiber.join(reading)
        assert.deepStrictEqual(
          changes.map(({ from, to }) => `${from} ${to.status}`),
          ["UNKNOWN UP", "UP DOWN", "DOWN UP", "UP DEGRADED", "DEGRADED UP"]
        )
        assert.strictEqual(changes[1]?.to.failureRate, 0.1)
      })
    )
  })

  describe("add and remove", () => {
    it.effect("watches who was added, with the services that were there, and no longer who was removed", () =>
      Effect.gen(function* () {
        class Answer extends Context.Service<Answer, { readonly with: "yes" }>()("test/Answer") {}
        const monitor = yield* HealthMonitor.make({ providers: [scripted("first").provider] })
        const check = Effect.filterOrFail(Answer, (answer) => answer.with === "yes")
        const adding = monitor.add({ name: "second", check })
        expectTypeOf(adding).toEqualTypeOf<Effect.Effect<void, Providers.TooManyProviders, Answer>>()
        yield* Effect.provideService(adding, Answer, { with: "yes" })
        assert.deepStrictEqual(
          (yield* monitor.checkAll).map(({ name, status }) => `${name} ${status}`),
          ["first UP", "second UP"]
        )
        yield* monitor.remove("first")
        assert.deepStrictEqual(
          (yield* monitor.all).map(({ name }) => name),
          ["second"]
        )
        assert.isTrue(Option.isNone(yield* Effect.option(monitor.health("first"))))
      })
    )

    it.effect("keeps what is known of a provider that is replaced, and takes no answer of the one before", () =>
      Effect.gen(function* () {
        const before = scripted("site")
        const monitor = yield* HealthMonitor.make({ providers: [before.provider] })
        before.state.next = "fails"
        yield* checked(monitor)
        const answer = yield* Deferred.make<void>()
        yield* monitor.add({ name: "site", check: Deferred.await(answer) })
        const old = yield* Effect.forkChild(monitor.check("site"), { startImmediately: true })
        const after = scripted("site")
        yield* monitor.add(after.provider)
        assert.containsSubset(yield* monitor.health("site"), { status: "DOWN", failureRate: 0.1 })
        after.state.next = "fails"
        assert.strictEqual((yield* checked(monitor)).failureRate, 0.1 * 1.2 + 0.1)
        yield* Deferred.succeed(answer, undefined)
        yield* Fiber.join(old)
        assert.strictEqual((yield* monitor.health("site")).status, "DOWN")
      })
    )

    it.effect("refuses one more than there may be", () =>
      Effect.gen(function* () {
        const monitor = yield* HealthMonitor.make({ providers: [scripted("one").provider], maxProviders: 1 })
        yield* monitor.add(scripted("one").provider)
        const error = yield* Effect.flip(monitor.add(scripted("two").provider))
        assert.deepStrictEqual({ ...error }, { _tag: "TooManyProviders", count: 2, maxProviders: 1 })
        yield* monitor.remove("one")
        yield* monitor.add(scripted("two").provider)
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      ["every", { every: 0 }],
      ["timeout", { timeout: -1 }],
      ["timeout of a", { providers: [{ name: "a", check: Effect.void, timeout: 0 }] }],
      ["slowAfter", { slowAfter: 0 }],
      ["degradedFrom", { degradedFrom: 1.1 }],
      ["degradedFrom", { degradedFrom: Number.NaN }],
      ["maxConcurrent", { maxConcurrent: 0 }],
      ["maxProviders", { maxProviders: 1.5 }]
    ] as ReadonlyArray<readonly [string, HealthMonitor.Options]>)("dies on a bad %s", ([name, options]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(HealthMonitor.make(options))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(defect, RangeError)
        assert.match(String(defect), new RegExp(`^RangeError: HealthMonitor: ${name} must be .*got`))
      })
    )
  })
})
