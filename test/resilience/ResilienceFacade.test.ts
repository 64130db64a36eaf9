import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Context, Data, Duration, Effect, Exit, Fiber, type Scope } from "effect"
import { Profile, ResilienceFacade } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Unavailable extends Data.TaggedError("Unavailable")<{}> {}

type Name = "Name"
const Name = Context.Service<Name, string>("test/Name")

// The usual numbers, without retries, which have tests of their own.
const { retry: _, ...numbers } = Profile.facade
const make = ResilienceFacade.make(numbers)

const counting = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const calls = { count: 0 }
  return { calls, call: Effect.suspend(() => (calls.count++, self)) }
}

describe("ResilienceFacade", () => {
  describe("execute", () => {
    it.effect("keeps results for 60 seconds, and then answers with the old while it fetches the new", () =>
      Effect.gen(function* () {
        const facade = yield* make
        const first = counting(Effect.succeed("old"))
        assert.strictEqual(yield* facade.execute("a", first.call), "old")
        yield* TestClock.adjust("59999 millis")
        assert.strictEqual(yield* facade.execute("a", first.call), "old")
        assert.strictEqual(first.calls.count, 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* facade.execute("a", Effect.succeed("new")), "old")
        yield* TestClock.adjust(0)
        assert.strictEqual(yield* facade.execute("a", first.call), "new")
      })
    )

    it.effect("leaves the old value when a refresh in the background fails", () =>
      Effect.gen(function* () {
        const facade = yield* make
        yield* facade.execute("a", Effect.succeed("old"))
        yield* TestClock.adjust("1 hour")
        const broken = counting(Effect.andThen(new Unavailable(), Effect.succeed("")))
        for (let time = 1; time <= 3; time++) {
          assert.strictEqual(yield* facade.execute("a", broken.call), "old")
          yield* TestClock.adjust(0)
          assert.strictEqual(broken.calls.count, time)
        }
      })
    )

    it.effect("opens after 5 failed calls for 30 seconds, and closes after 3 successes", () =>
      Effect.gen(function* () {
        const facade = yield* make
        const circuit = Effect.map(facade.getStatus(), ({ circuit }) => circuit?._tag)
        for (let time = 0; time < 5; time++) {
          assert.strictEqual(yield* circuit, "Closed")
          yield* Effect.exit(facade.execute(time, new Unavailable()))
        }
        assert.strictEqual(yield* circuit, "Open")
        assert.strictEqual((yield* Effect.flip(facade.execute("a", Effect.void)))._tag, "CircuitOpen")
        yield* TestClock.adjust("29999 millis")
        assert.strictEqual((yield* Effect.flip(facade.execute("a", Effect.void)))._tag, "CircuitOpen")
        yield* TestClock.adjust(1)
        for (let time = 0; time < 3; time++) {
          assert.notStrictEqual(yield* circuit, "Closed")
          yield* facade.execute(`probe ${time}`, Effect.void)
        }
        assert.strictEqual(yield* circuit, "Closed")
      })
    )

    it.effect("runs 10 calls at a time, lets 100 wait, and refuses the next at once", () =>
      Effect.gen(function* () {
        const facade = yield* make
        const fibers = yield* Effect.forEach(
          Array.from({ length: 110 }, (_, index) => index),
          (key) => Effect.forkChild(facade.execute(key, Effect.never), { startImmediately: true })
        )
        assert.deepInclude(yield* facade.getStatus(), { concurrentExecutions: 10, queueSize: 100 })
        assert.strictEqual((yield* Effect.flip(facade.execute("a", Effect.void)))._tag, "BulkheadFull")
        yield* Fiber.interruptAll(fibers)
        assert.deepInclude(yield* facade.getStatus(), { concurrentExecutions: 0, queueSize: 0 })
      })
    )

    it.effect("really stops the operation that it times out", () =>
      Effect.gen(function* () {
        const facade = yield* make
        let stopped = false
        const hanging = Effect.onInterrupt(Effect.never, () => Effect.sync(() => (stopped = true)))
        const fiber = yield* Effect.forkChild(Effect.flip(facade.execute("a", hanging)), { startImmediately: true })
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "TimedOut")
        assert.isTrue(stopped)
        assert.strictEqual((yield* facade.getStatus()).circuit?.failures, 1)
      })
    )

    it.effect("retries inside the breaker: three more times, and the circuit counts one", () =>
      Effect.gen(function* () {
        const facade = yield* ResilienceFacade.make()
        const { call, calls } = counting(new Unavailable())
        const fiber = yield* Effect.forkChild(Effect.flip(facade.execute("a", call)), { startImmediately: true })
        yield* TestClock.adjust("7 seconds")
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "Unavailable")
        assert.strictEqual(calls.count, 4)
        assert.strictEqual((yield* facade.getStatus()).circuit?.failures, 1)
      })
    )

    it.effect(
      "answers with the fallback in place of errors and refusals, but not of defects, and keeps none of it",
      () =>
        Effect.gen(function* () {
          const facade = yield* make
          const told: Array<string> = []
          const fallback = (error: Unavailable | ResilienceFacade.Errors) =>
            Effect.sync(() => {
              told.push(error._tag)
              return "usual"
            })
          for (let time = 0; time < 6; time++) {
            assert.strictEqual(yield* facade.execute("a", new Unavailable(), fallback), "usual")
          }
          assert.deepStrictEqual(told, [...Array<string>(5).fill("Unavailable"), "CircuitOpen"])
          yield* TestClock.adjust("30 seconds")
          assert.strictEqual(yield* facade.execute("a", Effect.succeed("ok"), fallback), "ok")
          assert.deepStrictEqual(yield* Effect.exit(facade.execute("b", Effect.die("bug"), fallback)), Exit.die("bug"))
        })
    )

    it("has exact types", () => {
      const use = (facade: ResilienceFacade.ResilienceFacade, call: Effect.Effect<number, Unavailable, "R">) => ({
        plain: facade.execute("a", call),
        value: facade.execute("a", call, () => Effect.succeed(null)),
        other: facade.execute("a", call, (error) => {
          expectTypeOf(error).toEqualTypeOf<Unavailable | ResilienceFacade.Errors>()
          return Effect.andThen(Name, Effect.fail("none" as const))
        })
      })
      type Used = ReturnType<typeof use>
      expectTypeOf<Used["plain"]>().toEqualTypeOf<Effect.Effect<number, Unavailable | ResilienceFacade.Errors, "R">>()
      expectTypeOf<Used["value"]>().toEqualTypeOf<Effect.Effect<number | null, never, "R">>()
      expectTypeOf<Used["other"]>().toEqualTypeOf<Effect.Effect<number, "none", "R" | Name>>()
      expectTypeOf(ResilienceFacade.make).returns.toEqualTypeOf<
        Effect.Effect<ResilienceFacade.ResilienceFacade, never, Scope.Scope>
      >()
    })

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const facade = yield* make
        let key = 0
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        )
        const operations = yield* interruptEverywhere(
          Effect.suspend(() => facade.execute(key++, call, () => Effect.void)),
          Effect.gen(function* () {
            yield* Effect.yieldNow
            assert.strictEqual(running, 0)
            assert.deepInclude(yield* facade.getStatus(), { concurrentExecutions: 0, queueSize: 0 })
          })
        )
        assert.isAbove(operations, 20)
      })
    )
  })

  describe("invalidateCache", () => {
    it.effect("forgets one key, also while it is being fetched", () =>
      Effect.gen(function* () {
        const facade = yield* make
        yield* facade.execute("a", Effect.succeed(1))
        yield* facade.execute("b", Effect.succeed(1))
        yield* facade.invalidateCache("a")
        assert.strictEqual(yield* facade.execute("a", Effect.succeed(2)), 2)
        assert.strictEqual(yield* facade.execute("b", Effect.succeed(2)), 1)
        const fetching = yield* Effect.forkChild(facade.execute("c", Effect.as(Effect.sleep(10), 1)), {
          startImmediately: true
        })
        yield* facade.invalidateCache("c")
        yield* TestClock.adjust(10)
        assert.strictEqual(yield* Fiber.join(fetching), 1)
        assert.strictEqual(yield* facade.execute("c", Effect.succeed(2)), 2)
      })
    )
  })

  describe("getStatus", () => {
    it.effect("reads what there is", () =>
      Effect.gen(function* () {
        const none = yield* ResilienceFacade.make(Profile.make({}))
        assert.deepStrictEqual(yield* none.getStatus(), { circuit: undefined, concurrentExecutions: 0, queueSize: 0 })
        yield* none.invalidateCache("a")
        const limited = yield* ResilienceFacade.make(Profile.make({ adaptiveLimit: {} }))
        yield* Effect.forkChild(limited.execute("a", Effect.never), { startImmediately: true })
        assert.deepInclude(yield* limited.getStatus(), { concurrentExecutions: 1, queueSize: 0 })
      })
    )
  })

  describe("layer", () => {
    it.effect("provides a facade with the usual numbers, which contradict themselves nowhere", () =>
      Effect.gen(function* () {
        const facade = yield* ResilienceFacade.ResilienceFacade
        assert.strictEqual(yield* facade.execute("a", Effect.succeed(1)), 1)
        assert.deepStrictEqual(Profile.encode(Profile.facade), {
          order: "facade",
          cache: { timeToLive: 60_000, refresh: { staleWhileRevalidate: Duration.toMillis("1 day") } },
          circuitBreaker: { failures: 5, openFor: 30_000, successesToClose: 3 },
          bulkhead: { maxConcurrent: 10, maxQueued: 100 },
          timeout: 30_000,
          retry: {}
        })
      }).pipe(Effect.provide(ResilienceFacade.layer()))
    )
  })
})
