import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Clock, Context, Effect, Exit, Fiber, Option, Scope } from "effect"
import { Batcher, Deadline } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

// An upstream that takes `millis` per batch, knows every key but "nobody", and keeps a record of what it was asked.
const makeUpstream = (millis: number) => {
  const asked: Array<{ readonly at: number; readonly keys: ReadonlyArray<string> }> = []
  const log: Array<string> = []
  const run = (keys: ReadonlyArray<string>) =>
    Clock.currentTimeMillis.pipe(
      Effect.tap((at) => Effect.sync(() => asked.push({ at, keys }))),
      Effect.andThen(millis === 0 ? Effect.void : Effect.sleep(millis)),
      Effect.andThen(
        Effect.sync(() => new Map(keys.filter((key) => key !== "nobody").map((key) => [key, key.length])))
      ),
      Effect.onExit((exit) => Effect.sync(() => log.push(Exit.isSuccess(exit) ? "finished" : "stopped")))
    )
  return { asked, log, run }
}

const keysOf = (asked: ReadonlyArray<{ readonly keys: ReadonlyArray<string> }>) =>
  asked.map(({ keys }) => keys.join(" "))

const nothing = { waiting: 0, running: 0 }

describe("Batcher", () => {
  describe("get", () => {
    it.effect("asks at once when idle, then collects for the window, and answers each with its own", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 300 })
        const first = yield* Effect.forkChild(batcher.get("a"))
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(asked, [{ at: 0, keys: ["a"] }])
        const rest = yield* Effect.forkChild(
          Effect.forEach(["bb", "nobody"], batcher.get, { concurrency: "unbounded" })
        )
        yield* TestClock.adjust(5)
        const last = yield* Effect.forkChild(batcher.get("dddd"))
        yield* TestClock.adjust(14)
        assert.strictEqual(asked.length, 1)
        assert.deepStrictEqual(yield* batcher.state, { waiting: 3, running: 0 })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(asked[1], { at: 20, keys: ["bb", "nobody", "dddd"] })
        assert.deepStrictEqual(yield* batcher.state, { waiting: 0, running: 1 })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Fiber.join(first), Option.some(1))
        assert.deepStrictEqual(yield* Fiber.join(rest), [Option.some(2), Option.none()])
        assert.deepStrictEqual(yield* Fiber.join(last), Option.some(4))
        assert.deepStrictEqual(yield* batcher.state, nothing)
      })
    )

    it.effect.each([
      ["a batch takes no time", 0, 1],
      ["a batch takes less than the window", 5, 1],
      ["a batch takes longer than the window", 1000, 1],
      ["four may run at a time", 1000, 4]
    ] as const)("sends 1,000 different keys in five batches when %s", ([, millis, maxConcurrent]) =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(millis)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 300, maxConcurrent })
        const keys = Array.from({ length: 1000 }, (_, index) => `user${index}`)
        const calls = yield* Effect.forkChild(Effect.forEach(keys, batcher.get, { concurrency: "unbounded" }))
        yield* TestClock.adjust("1 minute")
        const answers = yield* Fiber.join(calls)
        assert.deepStrictEqual(
          answers,
          keys.map((key) => Option.some(key.length))
        )
        assert.deepStrictEqual(
          asked.map((batch) => batch.keys.length),
          [1, 300, 300, 300, 99]
        )
        assert.deepStrictEqual(
          asked.flatMap((batch) => batch.keys),
          keys
        )
      })
    )

    it.effect("sends as soon as maxBatchSize keys wait and a place is free", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1000)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 2, maxConcurrent: 2, window: "100 millis" })
        const get = (key: string) => Effect.andThen(Effect.forkChild(batcher.get(key)), TestClock.adjust(10))
        for (const key of ["a", "b", "c", "d", "e", "f"]) yield* get(key)
        // "c" makes the second batch full at 20 ms; then both places are taken until 1,000 ms.
        assert.deepStrictEqual(asked, [
          { at: 0, keys: ["a"] },
          { at: 20, keys: ["b", "c"] }
        ])
        assert.deepStrictEqual(yield* batcher.state, { waiting: 3, running: 2 })
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(asked.slice(2), [
          { at: 1000, keys: ["d", "e"] },
          { at: 1020, keys: ["f"] }
        ])
      })
    )

    it.effect("sends an incomplete batch into a free place after the window", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1000)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10, maxConcurrent: 2, window: "50 millis" })
        yield* Effect.forkChild(batcher.get("a"))
        yield* TestClock.adjust(10)
        yield* Effect.forkChild(batcher.get("b"))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(asked, [
          { at: 0, keys: ["a"] },
          { at: 60, keys: ["b"] }
        ])
      })
    )

    it.effect("counts the window of what stays behind from its own arrival", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 2, maxConcurrent: 1, window: "50 millis" })
        yield* Effect.forkChild(batcher.get("a"))
        yield* TestClock.adjust(0)
        yield* Effect.forkChild(batcher.get("b"))
        yield* TestClock.adjust(30)
        yield* Effect.forkChild(Effect.forEach(["c", "d"], batcher.get, { concurrency: "unbounded" }))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(asked, [
          { at: 0, keys: ["a"] },
          { at: 30, keys: ["b", "c"] },
          { at: 80, keys: ["d"] }
        ])
      })
    )

    it.effect("asks for a key once per batch, and again for a call that comes after the batch was sent", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10 })
        const calls = yield* Effect.forkChild(
          Effect.forEach(["a", "a", "b", "a", "b"], batcher.get, { concurrency: "unbounded" })
        )
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(keysOf(asked), ["a", "a b"])
        assert.deepStrictEqual(
          yield* Fiber.join(calls),
          Array.from({ length: 5 }, () => Option.some(1))
        )
      })
    )

    it.effect("finds odd keys, and values that are undefined", () =>
      Effect.gen(function* () {
        const batcher = yield* Batcher.make({
          run: (keys: ReadonlyArray<string | number>) =>
            Effect.succeed(new Map(keys.filter((key) => key !== "1").map((key) => [key, undefined]))),
          maxBatchSize: 10
        })
        const keys = ["__proto__", "", 1, "1"]
        const calls = yield* Effect.forkChild(Effect.forEach(keys, batcher.get, { concurrency: "unbounded" }))
        yield* TestClock.adjust(100)
        const some = Option.some(undefined)
        assert.deepStrictEqual(yield* Fiber.join(calls), [some, some, some, Option.none()])
      })
    )

    it.effect.each([
      ["failed", Effect.fail("no"), Exit.fail("no")],
      ["died", Effect.die("broken"), Exit.die("broken")]
    ] as const)("gives exactly the callers of a batch that %s its failure", ([, end, expected]) =>
      Effect.gen(function* () {
        const batcher = yield* Batcher.make({
          run: (keys: ReadonlyArray<string>) =>
            Effect.andThen(
              Effect.sleep(1),
              keys.includes("bad") ? end : Effect.succeed(new Map(keys.map((key) => [key, key])))
            ),
          maxBatchSize: 2
        })
        const calls = yield* Effect.forkChild(
          Effect.forEach(["a", "b", "bad", "c", "d"], (key) => Effect.exit(batcher.get(key)), {
            concurrency: "unbounded"
          })
        )
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(yield* Fiber.join(calls), [
          Exit.succeed(Option.some("a")),
          expected,
          expected,
          Exit.succeed(Option.some("c")),
          Exit.succeed(Option.some("d"))
        ])
        assert.deepStrictEqual(yield* batcher.state, nothing)
      })
    )

    it.effect("turns a run that throws into a defect of its callers and goes on", () =>
      Effect.gen(function* () {
        let broken = true
        const batcher = yield* Batcher.make({
          run: (keys: ReadonlyArray<string>) => {
            if (broken) throw new Error("broken")
            return Effect.succeed(new Map(keys.map((key) => [key, key])))
          },
          maxBatchSize: 2
        })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(batcher.get("a"))))
        broken = false
        assert.deepStrictEqual(yield* batcher.get("a"), Option.some("a"))
      })
    )

    it.effect("refuses a key when maxQueued wait, and takes more callers of those that wait", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1000)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10, maxQueued: 2 })
        const calls = yield* Effect.forkChild(
          Effect.forEach(["a", "b", "c", "b"], batcher.get, { concurrency: "unbounded" })
        )
        yield* TestClock.adjust(1)
        const error = yield* Effect.flip(batcher.get("d"))
        assert.deepInclude(error, { _tag: "BatcherFull", maxQueued: 2 })
        assert.strictEqual(error.message, "Batcher full: 2 keys waiting")
        yield* TestClock.adjust(2000)
        assert.strictEqual((yield* Fiber.join(calls)).length, 4)
        assert.deepStrictEqual(keysOf(asked), ["a", "b c"])
      })
    )

    it.effect("never refuses a key while a place is free", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1000)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10, maxQueued: 0, maxConcurrent: 2 })
        yield* Effect.forkChild(Effect.forEach(["a", "b"], batcher.get, { concurrency: "unbounded" }))
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(keysOf(asked), ["a", "b"])
        assert.strictEqual((yield* Effect.flip(batcher.get("c")))._tag, "BatcherFull")
      })
    )

    it.effect("does not ask for a key whose callers have all gone", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(10)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10 })
        yield* Effect.forkChild(batcher.get("a"))
        yield* TestClock.adjust(0)
        const [first, again, other] = yield* Effect.forEach(["b", "b", "c"], (key) =>
          Effect.forkChild(batcher.get(key))
        )
        yield* TestClock.adjust(5)
        assert.deepStrictEqual(yield* batcher.state, { waiting: 2, running: 1 })
        yield* Fiber.interrupt(other!)
        yield* Fiber.interrupt(first!)
        assert.deepStrictEqual(yield* batcher.state, { waiting: 1, running: 1 })
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(keysOf(asked), ["a", "b"])
        assert.deepStrictEqual(yield* Fiber.join(again!), Option.some(1))
      })
    )

    it.effect("waits the window of the next key when the first one's callers have gone", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10, window: "50 millis" })
        yield* Effect.forkChild(batcher.get("a"))
        yield* TestClock.adjust(0)
        const gone = yield* Effect.forkChild(batcher.get("b"))
        yield* TestClock.adjust(30)
        yield* Effect.forkChild(batcher.get("c"))
        yield* TestClock.adjust(1)
        yield* Fiber.interrupt(gone)
        yield* TestClock.adjust(48)
        assert.strictEqual(asked.length, 1)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(asked[1], { at: 80, keys: ["c"] })
      })
    )

    it.effect("interrupts a batch when its last caller has gone, and not before", () =>
      Effect.gen(function* () {
        const { asked, log, run } = makeUpstream(1000)
        const batcher = yield* Batcher.make({ run, maxBatchSize: 2 })
        yield* Effect.forkChild(batcher.get("a"))
        yield* TestClock.adjust(0)
        const [first, second] = yield* Effect.forEach(["b", "c"], (key) => Effect.forkChild(batcher.get(key)))
        yield* TestClock.adjust(1500)
        assert.deepStrictEqual(keysOf(asked), ["a", "b c"])
        yield* Fiber.interrupt(first!)
        assert.deepStrictEqual(log, ["finished"])
        yield* Fiber.interrupt(second!)
        assert.deepStrictEqual(log, ["finished", "stopped"])
        assert.deepStrictEqual(yield* batcher.state, nothing)
        const next = yield* Effect.forkChild(batcher.get("d"))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* Fiber.join(next), Option.some(1))
      })
    )

    it.effect("runs without the deadline and services of its callers", () =>
      Effect.gen(function* () {
        const Where = Context.Reference("Where", { defaultValue: () => "nowhere" })
        const seen: Array<unknown> = []
        const batcher = yield* Batcher.make({
          run: (keys: ReadonlyArray<string>) =>
            Effect.gen(function* () {
              seen.push(yield* Where, yield* Deadline.remaining)
              return new Map(keys.map((key) => [key, key]))
            }),
          maxBatchSize: 2
        }).pipe(Effect.provideService(Where, "batcher"), Deadline.within("1 hour"))
        yield* batcher.get("a").pipe(Effect.provideService(Where, "caller"), Deadline.within("1 second"))
        assert.deepStrictEqual(seen, ["batcher", undefined])
      })
    )

    it.effect("interrupts batches and callers when its scope closes, and refuses by interruption afterwards", () =>
      Effect.gen(function* () {
        const { asked, log, run } = makeUpstream(1000)
        const scope = yield* Scope.make()
        const batcher = yield* Batcher.make({ run, maxBatchSize: 2 }).pipe(Scope.provide(scope))
        const calls = yield* Effect.forEach(["a", "b", "c", "d"], (key) =>
          Effect.forkChild(Effect.exit(batcher.get(key)))
        )
        yield* TestClock.adjust(1)
        yield* Scope.close(scope, Exit.void)
        for (const call of calls) assert.isTrue(Exit.hasInterrupts(yield* Fiber.join(call)))
        assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(batcher.get("e"))))
        assert.deepStrictEqual(keysOf(asked), ["a"])
        assert.deepStrictEqual(log, ["stopped"])
        assert.deepStrictEqual(yield* batcher.state, nothing)
      })
    )

    it.effect("interrupts any number of waiting callers when its scope closes", () =>
      Effect.gen(function* () {
        const { asked, run } = makeUpstream(1000)
        const scope = yield* Scope.make()
        const batcher = yield* Batcher.make({ run, maxBatchSize: 1 }).pipe(Scope.provide(scope))
        const keys = Array.from({ length: 10_000 }, (_, index) => `user${index}`)
        const calls = yield* Effect.forkChild(
          Effect.forEach(keys, (key) => Effect.exit(batcher.get(key)), { concurrency: "unbounded" })
        )
        yield* TestClock.adjust(1)
        yield* Scope.close(scope, Exit.void)
        assert.isTrue((yield* Fiber.join(calls)).every(Exit.hasInterrupts))
        assert.deepStrictEqual(keysOf(asked), ["user0"])
      })
    )

    it.effect.each(["its callers go", "its scope closes"] as const)("leaves no timer behind when %s", (what) =>
      Effect.gen(function* () {
        let timers = 0
        const clock = yield* Clock.Clock
        const counting: Clock.Clock = {
          ...clock,
          sleep: (duration) =>
            Effect.acquireUseRelease(
              Effect.sync(() => timers++),
              () => clock.sleep(duration),
              () => Effect.sync(() => timers--)
            )
        }
        const { run } = makeUpstream(0)
        const scope = yield* Scope.make()
        const batcher = yield* Batcher.make({ run, maxBatchSize: 10 }).pipe(
          Scope.provide(scope),
          Effect.provideService(Clock.Clock, counting)
        )
        const calls = yield* Effect.forkChild(
          Effect.forEach(["a", "b", "c"], batcher.get, { concurrency: "unbounded" })
        )
        yield* TestClock.adjust(1)
        assert.deepStrictEqual([timers, yield* batcher.state], [1, { waiting: 2, running: 0 }])
        yield* what === "its callers go" ? Fiber.interrupt(calls) : Scope.close(scope, Exit.void)
        assert.deepStrictEqual([timers, yield* batcher.state], [0, nothing])
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        let open = 0
        const batcher = yield* Batcher.make({
          run: (keys: ReadonlyArray<string>) =>
            Effect.acquireUseRelease(
              Effect.sync(() => open++),
              () => Effect.as(Effect.yieldNow, new Map(keys.map((key) => [key, key]))),
              () => Effect.sync(() => open--)
            ),
          maxBatchSize: 2,
          window: 0
        })
        const calls = Effect.forEach(["a", "b", "c", "b"], batcher.get, { concurrency: "unbounded" })
        const tried = yield* interruptEverywhere(
          calls,
          Effect.gen(function* () {
            assert.strictEqual(open, 0)
            assert.deepStrictEqual(yield* batcher.state, nothing)
            assert.deepStrictEqual(yield* batcher.get("a"), Option.some("a"))
          })
        )
        assert.isAbove(tried, 10)
      })
    )

    it("adds BatcherFull to the error of its run, and asks for what the run requires when it is made", () => {
      const Upstream = Context.Service<"up">("Upstream")
      const program = Batcher.make({
        run: (keys: ReadonlyArray<number>) =>
          Effect.flatMap(Upstream, () =>
            keys.length === 0 ? Effect.fail("E" as const) : Effect.succeed(new Map([[1, true]]))
          ),
        maxBatchSize: 2
      })
      expectTypeOf(program).toEqualTypeOf<
        Effect.Effect<Batcher.Batcher<number, boolean, "E">, never, "up" | Scope.Scope>
      >()
      expectTypeOf<Batcher.Batcher<number, boolean, "E">["get"]>().toEqualTypeOf<
        (key: number) => Effect.Effect<Option.Option<boolean>, "E" | Batcher.BatcherFull>
      >()
    })
  })

  describe("make", () => {
    it.effect.each([
      [{ maxBatchSize: 0 }, "maxBatchSize must be an integer >= 1, got 0"],
      [{ maxBatchSize: 1.5 }, "maxBatchSize must be an integer >= 1, got 1.5"],
      [{ maxConcurrent: 0 }, "maxConcurrent must be an integer >= 1, got 0"],
      [{ maxQueued: -1 }, "maxQueued must be an integer >= 0, got -1"],
      [{ window: "Infinity" as const }, "window must be finite and not negative, got Infinity"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const run = () => Effect.succeed(new Map<string, number>())
        const exit = yield* Effect.exit(Batcher.make({ run, maxBatchSize: 1, ...options }))
        assert.deepStrictEqual(exit, Exit.die(new RangeError(`Batcher: ${message}`)))
      })
    )
  })
})
