import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber } from "effect"
import { Deadline, SingleFlight } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { interruptCaller } from "./support/interruptCaller.ts"

// Work that takes a second and keeps a record of how often it began and how it ended.
const makeWork = () => {
  const log: Array<string> = []
  const work = Effect.sync(() => log.push("began")).pipe(
    Effect.andThen(Effect.sleep("1 second")),
    Effect.as("done"),
    Effect.onExit((exit) => Effect.sync(() => log.push(Exit.isSuccess(exit) ? "finished" : "stopped")))
  )
  return { log, work }
}

const idle = { pending: 0 }

describe("SingleFlight", () => {
  describe("execute", () => {
    it.effect("runs once for concurrent calls of one key, and again for the next", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        const { log, work } = makeWork()
        const calls = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 1000 }, () => work.pipe(flights.execute({ key: "a" }))),
            { concurrency: "unbounded" }
          )
        )
        yield* TestClock.adjust(999)
        assert.deepStrictEqual(yield* flights.state, { pending: 1, started: 1, joined: 999 })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(new Set(yield* Fiber.join(calls)), new Set(["done"]))
        assert.deepStrictEqual(log, ["began", "finished"])

        const again = yield* Effect.forkChild(work.pipe(flights.execute({ key: "a" })))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(again), "done")
        assert.deepStrictEqual(yield* flights.state, { pending: 0, started: 2, joined: 999 })
      })
    )

    it.effect("runs different keys side by side", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        const keys = ["", "__proto__", "constructor", "x".repeat(100_000), "a"]
        const calls = yield* Effect.forkChild(
          Effect.forEach(keys, (key) => Effect.sleep(1).pipe(Effect.as(key), flights.execute({ key })), {
            concurrency: "unbounded"
          })
        )
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Fiber.join(calls), keys)
      })
    )

    it("answers work that ends at once without a wait", () => {
      const program = Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, number>()
        const answer = yield* Effect.succeed(1).pipe(flights.execute({ key: "a" }))
        return [answer, yield* flights.state]
      })
      assert.deepStrictEqual(Effect.runSync(program), [1, { pending: 0, started: 1, joined: 0 }])
    })

    it.effect.each([
      ["a failure", Effect.fail("no"), Exit.fail("no")],
      ["a defect", Effect.die("broken"), Exit.die("broken")]
    ] as const)("gives %s to everyone who waits, and keeps nothing of it", ([, end, expected]) =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, never, string>()
        const call = Effect.sleep(1).pipe(Effect.andThen(end), flights.execute({ key: "a" }), Effect.exit)
        const calls = yield* Effect.forkChild(Effect.all([call, call], { concurrency: 2 }))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Fiber.join(calls), [expected, expected])
        assert.deepStrictEqual(yield* flights.state, { pending: 0, started: 1, joined: 1 })
      })
    )

    it.effect("turns what throws while it is built into a defect", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, never>()
        const call = Effect.suspend((): Effect.Effect<never> => {
          throw new Error("broken")
        }).pipe(flights.execute({ key: "a" }))
        assert.isTrue(Exit.hasDies(yield* Effect.exit(call)))
        assert.deepInclude(yield* flights.state, idle)
      })
    )

    it.effect("goes on for the others when the caller that started it is interrupted", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        const { log, work } = makeWork()
        const first = yield* Effect.forkChild(work.pipe(flights.execute({ key: "a" })))
        yield* Effect.yieldNow
        const second = yield* Effect.forkChild(work.pipe(flights.execute({ key: "a" })))
        yield* TestClock.adjust(500)
        yield* Fiber.interrupt(first)
        yield* TestClock.adjust(500)
        assert.strictEqual(yield* Fiber.join(second), "done")
        assert.deepStrictEqual(log, ["began", "finished"])
      })
    )

    it.effect("interrupts the run when its last caller has gone, and waits for its finalizers", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        const { log, work } = makeWork()
        const call = work.pipe(
          Effect.onInterrupt(() =>
            Effect.andThen(
              Effect.sleep(100),
              Effect.sync(() => log.push("cleaned up"))
            )
          ),
          flights.execute({ key: "a" })
        )
        const callers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(call))
        yield* TestClock.adjust(500)
        const leaving = yield* Effect.forkChild(Fiber.interruptAll(callers))
        yield* TestClock.adjust(99)
        assert.deepStrictEqual(log, ["began", "stopped"])
        assert.strictEqual(leaving.pollUnsafe(), undefined)
        assert.deepInclude(yield* flights.state, { pending: 1 })
        yield* TestClock.adjust(1)
        yield* Fiber.join(leaving)
        assert.deepStrictEqual(log, ["began", "stopped", "cleaned up"])
        assert.deepInclude(yield* flights.state, idle)
      })
    )

    it.effect("starts anew for a caller that comes while an abandoned run cleans up", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        const { log, work } = makeWork()
        const call = work.pipe(
          Effect.onInterrupt(() => Effect.sleep(100)),
          flights.execute({ key: "a" })
        )
        const first = yield* Effect.forkChild(call)
        yield* TestClock.adjust(500)
        const leaving = yield* Effect.forkChild(Fiber.interrupt(first))
        yield* TestClock.adjust(50)
        const second = yield* Effect.forkChild(call)
        yield* TestClock.adjust(1000)
        yield* Fiber.join(leaving)
        assert.strictEqual(yield* Fiber.join(second), "done")
        assert.deepStrictEqual(log, ["began", "stopped", "began", "finished"])
      })
    )

    it.effect("runs without the deadline of the caller that started it", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        const { log, work } = makeWork()
        const seen = yield* Deferred.make<unknown>()
        const call = Deadline.remaining.pipe(
          Effect.tap((left) => Deferred.succeed(seen, left)),
          Effect.andThen(work),
          flights.execute({ key: "a" })
        )
        const hurried = yield* Effect.forkChild(Effect.exit(Deadline.within(call, "100 millis")))
        yield* Effect.yieldNow
        const patient = yield* Effect.forkChild(call)
        yield* TestClock.adjust("1 second")
        assert.isTrue(Exit.isFailure(yield* Fiber.join(hurried)))
        assert.strictEqual(yield* Fiber.join(patient), "done")
        assert.strictEqual(yield* Deferred.await(seen), undefined)
        assert.deepStrictEqual(log, ["began", "finished"])
      })
    )

    it.effect("leaves a deadline inside the work alone", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string, Deadline.DeadlineExceeded>()
        const { work } = makeWork()
        const call = work.pipe(Deadline.within("100 millis"), flights.execute({ key: "a" }), Effect.flip)
        const fiber = yield* Effect.forkChild(call)
        yield* TestClock.adjust(100)
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "DeadlineExceeded")
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        let open = 0
        const work = Effect.acquireUseRelease(
          Effect.sync(() => open++),
          () => Effect.as(Effect.yieldNow, "done"),
          () => Effect.sync(() => open--)
        )
        const call = work.pipe(flights.execute({ key: "a" }))
        const tried = yield* interruptEverywhere(
          Effect.all([call, call], { concurrency: 2 }),
          Effect.gen(function* () {
            assert.strictEqual(open, 0)
            assert.deepInclude(yield* flights.state, idle)
            assert.strictEqual(yield* call, "done")
          })
        )
        assert.isAbove(tried, 10)
      })
    )

    it.effect.each([
      ["started", 0],
      ["joined", 2]
    ] as const)("does not hurt the others when the caller that %s is interrupted at any operation", ([, after]) =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>()
        let gate = yield* Deferred.make<void>()
        const call = Effect.suspend(() => Deferred.await(gate)).pipe(Effect.as("done"), flights.execute({ key: "a" }))
        // Another caller comes so many turns after this moment, and the run ends some turns later.
        const during = Effect.gen(function* () {
          gate = yield* Deferred.make<void>()
          const turns = (n: number) => Effect.forEach(Array.from({ length: n }), () => Effect.yieldNow)
          const other = yield* Effect.forkChild(Effect.andThen(turns(2 - after), call))
          yield* Effect.forkChild(Effect.andThen(turns(10), Deferred.succeed(gate, undefined)))
          yield* turns(after)
          return Effect.fnUntraced(function* () {
            assert.strictEqual(yield* Fiber.join(other), "done")
            assert.deepInclude(yield* flights.state, idle)
          })
        })
        assert.isAbove(yield* interruptCaller(during, call), 2)
        assert.isAbove((yield* flights.state).joined, 0)
      })
    )

    it.effect("tells a call that it waits for another, and not the one that runs", () =>
      Effect.gen(function* () {
        const heard: Array<string> = []
        const flights = yield* SingleFlight.make<string, string>({
          onJoin: (key) => Effect.sync(() => heard.push(key))
        })
        const { work } = makeWork()
        const call = work.pipe(flights.execute({ key: "a" }))
        const fiber = yield* Effect.forkChild(Effect.all([call, call, call], { concurrency: 3 }))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(heard, ["a", "a"])
      })
    )

    it.effect("goes on when onJoin dies", () =>
      Effect.gen(function* () {
        const flights = yield* SingleFlight.make<string, string>({ onJoin: () => Effect.die("broken") })
        const { work } = makeWork()
        const call = work.pipe(flights.execute({ key: "a" }))
        const fiber = yield* Effect.forkChild(Effect.all([call, call], { concurrency: 2 }))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.join(fiber), ["done", "done"])
      })
    )

    it("has the types of its work, and asks for its requirements", () => {
      const Upstream = Context.Service<"up">("Upstream")
      const program = Effect.gen(function* () {
        const flights = yield* SingleFlight.make<`user:${string}`, number, "E">()
        const guarded = Effect.as(Upstream, 1).pipe(flights.execute({ key: "user:a" }))
        expectTypeOf(guarded).toEqualTypeOf<Effect.Effect<number, "E", "up">>()
        type Work = Parameters<ReturnType<typeof flights.execute>>[0]
        expectTypeOf<Effect.Effect<number, "E">>().toExtend<Work>()
        expectTypeOf<Effect.Effect<number, "other">>().not.toExtend<Work>()
        expectTypeOf<Effect.Effect<string>>().not.toExtend<Work>()
        // @ts-expect-error another kind of key
        flights.execute({ key: "a" })
      })
      expectTypeOf(program).toEqualTypeOf<Effect.Effect<void>>()
    })
  })
})
