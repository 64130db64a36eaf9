import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Config, ConfigProvider, Data, Deferred, Duration, Effect, Exit, Fiber, Layer, Random } from "effect"
import { Bulkhead, Retry, RetryBudget, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Unavailable extends Data.TaggedError("Unavailable")<{}> {}
class NotFound extends Data.TaggedError("NotFound")<{}> {}

// What one call does to its account: begins, then asks for so many retries. Tells how many it got.
const call = (budget: RetryBudget.RetryBudget, retries = 0, key = "key") =>
  Effect.withFiberSucceed((fiber) => {
    const account = budget.accountUnsafe(key)
    account.begin(fiber)
    let paid = 0
    while (paid < retries && account.pay(new Unavailable(), fiber) !== undefined) paid++
    return paid
  })

const times = <A, E, R>(n: number, effect: Effect.Effect<A, E, R>) => Effect.replicateEffect(effect, n)

const twice = Retry.delays([10, 10])
const immediately = (retries: number) => Retry.delays(Array.from({ length: retries }, () => 0))

describe("RetryBudget", () => {
  describe("make", () => {
    it.effect("allows a share of the calls", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0.2, minPerSecond: 0 })
        const paid = yield* times(10, call(budget, 3))
        assert.deepStrictEqual(paid, [0, 0, 0, 0, 1, 0, 0, 0, 0, 1])
        assert.deepStrictEqual(yield* budget.state("key"), {
          key: "key",
          available: 0,
          calls: 10,
          retries: 2,
          refused: 10
        })
      })
    )

    it.effect("allows so many retries a second whatever the traffic, and saves up no more than a window of them", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0, minPerSecond: 2, window: "5 seconds" })
        assert.strictEqual(yield* call(budget, 100), 10)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* call(budget, 100), 10)
        yield* TestClock.adjust("2500 millis")
        assert.strictEqual(yield* call(budget, 100), 0)
      })
    )

    it.effect("forgets calls and retries between one and 1.1 windows after them", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 1, minPerSecond: 0, window: "10 seconds" })
        yield* TestClock.adjust(1)
        yield* times(8, call(budget))
        assert.strictEqual(yield* call(budget, 3), 3)
        const available = Effect.map(budget.state("key"), (state) => state.available)
        yield* TestClock.adjust(10_998)
        assert.strictEqual(yield* available, 6)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* available, 0)
      })
    )

    it.effect("owes nothing when calls leave the window before the retries they paid for", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0.5, minPerSecond: 0, window: "10 seconds" })
        yield* times(19, call(budget))
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual(yield* call(budget, 10), 10)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* budget.state("key")).available, 0)
        yield* TestClock.adjust("11 seconds")
        yield* times(2, call(budget))
        assert.strictEqual((yield* budget.state("key")).available, 1)
      })
    )

    it.effect("counts exactly, whatever the fraction and however many calls", () =>
      Effect.gen(function* () {
        for (const share of [0.1, 0.2, 0.29, 0.7]) {
          const budget = yield* RetryBudget.make({ share, minPerSecond: 0 })
          yield* times(99, call(budget))
          assert.strictEqual(yield* call(budget, 1000), Math.round(share * 100), `share ${share}`)
        }
        const budget = yield* RetryBudget.make({ share: 0.1, minPerSecond: 0 })
        yield* times(100_000, call(budget, 1))
        assert.strictEqual((yield* budget.state("key")).retries, 10_000)
      })
    )

    it.effect("never has more retries in a window than its formula, checked against a log of everything", () =>
      Effect.gen(function* () {
        const share = 0.3
        const floor = 2
        const budget = yield* RetryBudget.make({ share, minPerSecond: floor, window: "1 second" })
        const log: Array<readonly [at: number, calls: number, retries: number]> = []
        let now = 0
        for (let i = 0; i < 2000; i++) {
          const pause = yield* Random.nextIntBetween(0, 150)
          yield* TestClock.adjust(pause)
          now += pause
          const retries = yield* call(budget, yield* Random.nextIntBetween(0, 4))
          log.push([now, 1, retries])
          const since = (millis: number) => log.filter(([at]) => at > now - millis)
          const recent = since(1000).reduce((sum, [, , retries]) => sum + retries, 0)
          const calls = since(1100).reduce((sum, [, calls]) => sum + calls, 0)
          assert.isAtMost(retries === 0 ? 0 : recent, share * calls + floor + 1e-9)
        }
        const { refused, retries } = yield* budget.state("key")
        assert.isAbove(retries, 500)
        assert.isAbove(refused, 100)
      }).pipe(Random.withSeed("budget"))
    )

    it.effect("has the defaults its documentation names", () =>
      Effect.gen(function* () {
        const defaults = yield* RetryBudget.make()
        const documented = yield* RetryBudget.make({
          share: 0.2,
          minPerSecond: 10,
          window: "10 seconds",
          maxKeys: 10_000
        })
        for (const budget of [defaults, documented]) {
          yield* times(10, call(budget))
          assert.strictEqual((yield* budget.state("key")).available, 102)
          yield* TestClock.adjust("10 seconds")
          assert.strictEqual((yield* budget.state("key")).available, 102)
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* budget.state("key")).available, 100)
          yield* Effect.forEach(Array.from({ length: 10_001 }).keys(), (key) => call(budget, 0, `${key}`))
          assert.strictEqual((yield* budget.states).length, 10_000)
        }
      })
    )

    it.effect.each([
      [{ share: -0.1 }, "RetryBudget: share must be a finite number >= 0, got -0.1"],
      [{ share: Number.NaN }, "RetryBudget: share must be a finite number >= 0, got NaN"],
      [{ minPerSecond: Infinity }, "RetryBudget: minPerSecond must be a finite number >= 0, got Infinity"],
      [{ window: 0 }, "RetryBudget: window must be a finite duration over zero, got 0"],
      [{ window: "Infinity" }, "RetryBudget: window must be a finite duration over zero, got Infinity"],
      [{ maxKeys: 0 }, "RetryBudget: maxKeys must be an integer >= 1, got 0"]
    ] as const)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* Effect.exit(RetryBudget.make(options)), Exit.die(new RangeError(message)))
      })
    )
  })

  describe("makeTokens", () => {
    // The account through a sequence of failed attempts (f), successes (s) and retries asked for (r: paid, x: refused).
    const run = (budget: RetryBudget.RetryBudget, events: string) =>
      Effect.withFiberSucceed((fiber) => {
        const account = budget.accountUnsafe("key")
        return Array.from(events, (event) => {
          if (event === "f") account.failed()
          if (event === "s") account.succeeded?.(undefined)
          return event === "r" ? (account.pay(new Unavailable(), fiber) === undefined ? "x" : "r") : event
        }).join("")
      })

    it.effect("retries while more than half of the tokens is left", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens()
        assert.strictEqual(yield* run(budget, "frfrfrfrfrfr"), "frfrfrfrfxfx")
        assert.strictEqual((yield* budget.state("key")).available, 4)
      })
    )

    it.effect("lets ten successes pay for one failure", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens({ maxTokens: 10, tokenRatio: 0.1 })
        assert.strictEqual(yield* run(budget, "fffffr"), "fffffx")
        assert.strictEqual(yield* run(budget, "sr"), "sr")
        assert.strictEqual(yield* run(budget, `f${"s".repeat(9)}r`), `f${"s".repeat(9)}x`)
        assert.strictEqual(yield* run(budget, "sr"), "sr")
      })
    )

    it.effect("never holds more than its tokens, nor less than none", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens({ maxTokens: 2, tokenRatio: 0.5 })
        yield* run(budget, "sss")
        assert.strictEqual((yield* budget.state("key")).available, 2)
        yield* run(budget, "fffff")
        assert.strictEqual((yield* budget.state("key")).available, 0)
        yield* run(budget, "s")
        assert.strictEqual((yield* budget.state("key")).available, 0.5)
      })
    )

    it.effect("reads its ratio in thousandths, and adds it up without drift", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens({ maxTokens: 1000, tokenRatio: 0.0016 })
        yield* run(budget, `f${"s".repeat(500)}`)
        assert.strictEqual((yield* budget.state("key")).available, 999.5)
        const tenths = yield* RetryBudget.makeTokens({ maxTokens: 10, tokenRatio: 0.1 })
        yield* run(tenths, `${"f".repeat(10)}${"s".repeat(73)}`)
        assert.strictEqual((yield* tenths.state("key")).available, 7.3)
      })
    )

    it.effect("counts every failure that is worth a retry, and no other", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens()
        const retry = Retry.make({
          schedule: immediately(1),
          while: (error: Unavailable | NotFound) => error._tag === "Unavailable",
          budget
        })
        const exit = (self: Effect.Effect<never, Unavailable | NotFound>) =>
          Effect.gen(function* () {
            const fiber = yield* Effect.forkChild(retry.execute(self))
            yield* TestClock.adjust(1)
            return yield* Fiber.await(fiber)
          })
        yield* exit(new NotFound())
        assert.strictEqual((yield* budget.state("default")).available, 10)
        yield* exit(new Unavailable())
        assert.strictEqual((yield* budget.state("default")).available, 8)
        yield* retry.execute(Effect.void)
        assert.strictEqual((yield* budget.state("default")).available, 8.1)
        yield* Effect.exit(retry.execute(Effect.die("bug")))
        assert.strictEqual((yield* budget.state("default")).available, 8.1)
        const once = Retry.make({ schedule: Retry.delays([]), budget })
        yield* Effect.exit(once.execute(new Bulkhead.BulkheadFull({ running: 1, waiting: 0 })))
        assert.strictEqual((yield* budget.state("default")).available, 8.1)
      })
    )

    it.effect.each([
      [{ maxTokens: 0 }, "RetryBudget: maxTokens must be over 0 and at most 1000, got 0"],
      [{ maxTokens: 1001 }, "RetryBudget: maxTokens must be over 0 and at most 1000, got 1001"],
      [{ tokenRatio: 0 }, "RetryBudget: tokenRatio must be a finite number >= 0.001, got 0"]
    ] as const)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* Effect.exit(RetryBudget.makeTokens(options)), Exit.die(new RangeError(message)))
      })
    )
  })

  describe("makeCosts", () => {
    const available = (budget: RetryBudget.RetryBudget) =>
      Effect.map(budget.state("default"), (state) => state.available)

    // Fails so often, then succeeds, under a retry that pays from the budget.
    const failing = (
      budget: RetryBudget.RetryBudget,
      failures: number,
      error: () => unknown = () => new Unavailable()
    ) =>
      Effect.gen(function* () {
        let attempts = 0
        const self = Effect.suspend(() => (++attempts > failures ? Effect.succeed(attempts) : Effect.fail(error())))
        const fiber = yield* Effect.forkChild(Retry.make({ schedule: immediately(100), budget }).execute(self))
        yield* TestClock.adjust(1)
        return yield* Effect.exit(Fiber.join(fiber))
      })

    it.effect("takes 5 for a retry, 10 after a timeout, and gives a success back what its last retry took", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeCosts()
        assert.strictEqual((yield* budget.state("default")).available, 500)
        assert.deepStrictEqual(yield* failing(budget, 3), Exit.succeed(4))
        assert.strictEqual(yield* available(budget), 490)
        const timedOut = () => new Timeout.TimedOut({ after: Duration.seconds(1) })
        assert.deepStrictEqual(yield* failing(budget, 3, timedOut), Exit.succeed(4))
        assert.strictEqual(yield* available(budget), 470)
      })
    )

    it.effect("pays one token in for a success without a retry, and holds no more than its tokens", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeCosts({ maxTokens: 20 })
        yield* failing(budget, 2)
        assert.strictEqual(yield* available(budget), 15)
        yield* failing(budget, 0)
        assert.strictEqual(yield* available(budget), 16)
        yield* times(100, failing(budget, 0))
        assert.strictEqual(yield* available(budget), 20)
      })
    )

    it.effect("refuses a retry whose price is not there, to the last token", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeCosts({ maxTokens: 12 })
        assert.deepStrictEqual(yield* failing(budget, 3), Exit.fail(new Unavailable()))
        assert.deepStrictEqual(yield* budget.state("default"), {
          key: "default",
          available: 2,
          calls: 1,
          retries: 2,
          refused: 1
        })
        const exact = yield* RetryBudget.makeCosts({ maxTokens: 10 })
        assert.deepStrictEqual(yield* failing(exact, 2), Exit.succeed(3))
      })
    )

    it.effect("asks for the cost of each error", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeCosts({ maxTokens: 5, cost: (error) => (error === "busy" ? 0 : 3) })
        assert.deepStrictEqual(yield* failing(budget, 9, () => "busy"), Exit.succeed(10))
        assert.strictEqual(yield* available(budget), 5)
        assert.deepStrictEqual(yield* failing(budget, 9, () => "down"), Exit.fail("down"))
        assert.strictEqual(yield* available(budget), 2)
      })
    )

    it.effect("dies on options and costs that make no sense", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(
          yield* Effect.exit(RetryBudget.makeCosts({ maxTokens: 0 })),
          Exit.die(new RangeError("RetryBudget: maxTokens must be a finite number > 0, got 0"))
        )
        const budget = yield* RetryBudget.makeCosts({ cost: () => -1 })
        assert.deepStrictEqual(
          yield* failing(budget, 1),
          Exit.die(new RangeError("RetryBudget: cost must be a number >= 0, got -1"))
        )
      })
    )
  })

  describe("keys", () => {
    it.effect("have accounts of their own", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0.5, minPerSecond: 0 })
        yield* times(4, call(budget, 0, "a"))
        assert.strictEqual(yield* call(budget, 9, "b"), 0)
        assert.strictEqual(yield* call(budget, 9, "a"), 2)
        const states = (yield* budget.states).map(({ calls, key, retries }) => [key, calls, retries])
        assert.deepStrictEqual(states, [
          ["a", 5, 2],
          ["b", 1, 0]
        ])
      })
    )

    it.effect("are bounded: one not used lately makes room and comes back full", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0, minPerSecond: 0.1, maxKeys: 3 })
        for (const key of ["a", "b", "c"]) assert.strictEqual(yield* call(budget, 5, key), 1)
        yield* call(budget, 0, "a")
        yield* call(budget, 0, "c")
        assert.strictEqual(yield* call(budget, 5, "d"), 1)
        assert.deepStrictEqual(
          (yield* budget.states).map((state) => state.key),
          ["a", "c", "d"]
        )
        assert.strictEqual(yield* call(budget, 5, "b"), 1)
      })
    )

    it.effect("are not made by reading them", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make()
        assert.deepStrictEqual(yield* budget.state("x"), {
          key: "x",
          available: 100,
          calls: 0,
          retries: 0,
          refused: 0
        })
        assert.deepStrictEqual(yield* budget.states, [])
      })
    )
  })

  describe("in a Retry", () => {
    it.effect("lets the original error through at once when it is spent, before onRetry and the wait", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0, minPerSecond: 0 })
        const told: Array<number> = []
        const error = new Unavailable()
        const retry = Retry.make({
          schedule: twice,
          budget,
          onRetry: ({ attempt }) => Effect.sync(() => told.push(attempt))
        })
        const exit = yield* Effect.exit(Effect.fail(error).pipe(retry.execute))
        assert.isTrue(Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail")
        assert.strictEqual(yield* Effect.flip(exit), error)
        assert.deepStrictEqual(told, [])
        assert.strictEqual((yield* budget.state("default")).refused, 1)
      })
    )

    it.effect("pays for retries that are made only", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make()
        const never = Retry.make({ schedule: Retry.delays(["Infinity"]), budget })
        yield* Effect.exit(new Unavailable().pipe(never.execute))
        const none = Retry.make({ schedule: Retry.delays([]), budget })
        yield* Effect.exit(new Unavailable().pipe(none.execute))
        yield* Effect.exit(Effect.die("bug").pipe(Retry.make({ schedule: twice, budget }).execute))
        assert.deepStrictEqual(yield* budget.state("default"), {
          key: "default",
          available: 100.6,
          calls: 3,
          retries: 0,
          refused: 0
        })
      })
    )

    it.effect("is shared by all that have its key", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0, minPerSecond: 0.3 })
        const attempts = { one: 0, two: 0, other: 0 }
        const through = (name: keyof typeof attempts, budgetKey: string) =>
          Effect.suspend(() => {
            attempts[name]++
            return new Unavailable()
          }).pipe(Retry.make({ schedule: immediately(2), budget, budgetKey }).execute)
        const fiber = yield* Effect.forkChild(
          Effect.forEach(
            [through("one", "site"), through("two", "site"), through("other", "elsewhere")] as const,
            Effect.exit
          )
        )
        yield* TestClock.adjust(10)
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(attempts, { one: 3, two: 2, other: 3 })
      })
    )

    it.effect("keeps the attempt number, also inside the retry of another", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make()
        const seen: Array<number> = []
        const attempt = Effect.flatMap(Retry.CurrentAttempt, (attempt) => {
          seen.push(attempt)
          return Effect.fail("no")
        })
        const inner = Retry.make({ schedule: immediately(1), budget })
        const fiber = yield* attempt.pipe(
          inner.execute,
          Retry.make({ schedule: immediately(1) }).execute,
          Effect.exit,
          Effect.forkChild
        )
        yield* TestClock.adjust(10)
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(seen, [1, 2, 1, 2])
      })
    )

    it.effect("counts a success once, and no interruption", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeCosts({ maxTokens: 100 })
        const retry = Retry.make({ schedule: immediately(1), budget })
        const gate = yield* Deferred.make<void>()
        const available = Effect.map(budget.state("default"), (state) => state.available)
        let fails = true
        const self = Effect.suspend(() => (fails ? ((fails = false), new Unavailable()) : Deferred.await(gate)))
        const fiber = yield* Effect.forkChild(retry.execute(self))
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* available, 95)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* available, 95)
        yield* Deferred.succeed(gate, undefined)
        yield* retry.execute(self)
        assert.strictEqual(yield* available, 96)
      })
    )

    it.effect("counts one call and at most one retry when interrupted at any operation", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeCosts({ maxTokens: 1_000_000 })
        const retry = Retry.make({ schedule: Retry.delays([0]), budget })
        let seen = yield* budget.state("default")
        const operations = yield* interruptEverywhere(
          Effect.suspend(() => new Unavailable()).pipe(retry.execute, Effect.exit),
          Effect.gen(function* () {
            const state = yield* budget.state("default")
            assert.isAtMost(state.calls - seen.calls, 1)
            assert.isAtMost(state.retries - seen.retries, 1)
            assert.strictEqual(state.available, 1_000_000 - 5 * state.retries)
            seen = state
          })
        )
        assert.isAbove(operations, 5)
      })
    )

    // A dead dependency under steady traffic, with three retries a call: what reaches it, per call made.
    const storm = (budget: RetryBudget.RetryBudget | undefined, callsPerSecond: number, seconds: number) =>
      Effect.gen(function* () {
        let load = 0
        const retry = Retry.make({ schedule: Retry.exponential({ base: 100, times: 3 }), budget })
        const call = Effect.suspend(() => {
          load++
          return new Unavailable()
        }).pipe(retry.execute, Effect.exit)
        for (let i = 0; i < callsPerSecond * seconds; i++) {
          yield* Effect.forkChild(call)
          yield* TestClock.adjust(1000 / callsPerSecond)
        }
        yield* TestClock.adjust("10 seconds")
        return load / (callsPerSecond * seconds)
      }).pipe(Random.withSeed("storm"))

    it.effect("keeps the load of a dead dependency at 1.1 or 1.2 times the traffic, where it would be 4 times", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* storm(undefined, 100, 20), 4)
        assert.closeTo(yield* storm(yield* RetryBudget.make({ share: 0.1, minPerSecond: 0 }), 100, 20), 1.1, 0.001)
        assert.closeTo(yield* storm(yield* RetryBudget.make({ share: 0.2, minPerSecond: 0 }), 100, 20), 1.2, 0.001)
        // The defaults: the share, the floor of 10 a second, and the reserve that was there to begin with.
        assert.isAtMost(yield* storm(yield* RetryBudget.make(), 1000, 20), 1.2 + 10 / 1000 + 100 / 20_000)
        assert.isAtMost(yield* storm(yield* RetryBudget.makeTokens(), 100, 20), 1.003)
        assert.isAtMost(yield* storm(yield* RetryBudget.makeCosts(), 100, 20), 1.05)
      })
    )

    it("has no type of its own in the errors or requirements", () => {
      const guarded = (self: Effect.Effect<number, Unavailable, "R">, budget: RetryBudget.RetryBudget) =>
        self.pipe(Retry.retry({ schedule: twice, budget, while: (error) => error._tag === "Unavailable" }))
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, Unavailable, "R">>()
    })
  })

  describe("layer", () => {
    it.effect("provides the budget, also from configuration", () =>
      Effect.gen(function* () {
        const available = Effect.flatMap(RetryBudget.RetryBudget, (budget) => budget.state("x")).pipe(
          Effect.map((state) => state.available)
        )
        assert.strictEqual(yield* available.pipe(Effect.provide(RetryBudget.layer({ minPerSecond: 3 }))), 30)
        const configured = RetryBudget.layerConfig({ minPerSecond: Config.Number("FLOOR") }).pipe(
          Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ FLOOR: 5 })))
        )
        assert.strictEqual(yield* available.pipe(Effect.provide(configured)), 50)
      })
    )
  })
})
