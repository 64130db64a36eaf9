import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Option, Scheduler } from "effect"
import { Cache, Deadline } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { interruptCaller } from "./support/interruptCaller.ts"

// A source whose every answer is a new number: 1, 2, 3 and so on.
const makeSource = () => {
  const asked: Array<string> = []
  return { asked, lookup: (key: string) => Effect.sync(() => asked.push(key)) }
}

// A source that takes a second, and keeps a record of how its answers ended.
const makeSlowSource = () => {
  const { asked, lookup } = makeSource()
  const ended: Array<string> = []
  return {
    asked,
    ended,
    lookup: (key: string) =>
      lookup(key).pipe(
        Effect.tap(() => Effect.sleep("1 second")),
        Effect.onExit((exit) => Effect.sync(() => ended.push(Exit.isSuccess(exit) ? "finished" : "stopped")))
      )
  }
}

const none = {
  size: 0,
  weight: 0,
  pending: 0,
  hits: 0,
  misses: 0,
  joined: 0,
  stale: 0,
  refreshes: 0,
  refreshFailures: 0,
  evictions: 0,
  expirations: 0
}

describe("Cache", () => {
  describe("get", () => {
    it.effect("looks a key up once and then answers with what it kept", () =>
      Effect.gen(function* () {
        const { asked, lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        assert.deepStrictEqual(yield* cache.stats, none)
        assert.deepStrictEqual(
          yield* Effect.all([cache.get("a"), cache.get("a"), cache.get("b"), cache.get("a")]),
          [1, 1, 2, 1]
        )
        assert.deepStrictEqual(asked, ["a", "b"])
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 2, hits: 2, misses: 2 })
      })
    )

    it.effect("forgets a result exactly when its time has passed", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        yield* TestClock.adjust(12_345)
        assert.strictEqual(yield* cache.get("a"), 1)
        yield* TestClock.adjust(59_999)
        assert.strictEqual(yield* cache.get("a"), 1)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(1))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
        assert.strictEqual(yield* cache.get("a"), 2)
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 1, hits: 1, misses: 2, expirations: 1 })
      })
    )

    it.effect("counts the time from the end of the look-up, also when who started it has gone", () =>
      Effect.gen(function* () {
        const { asked, lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        const first = yield* Effect.forkChild(cache.get("a"))
        yield* Effect.yieldNow
        const second = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(1)
        yield* Fiber.interrupt(first)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* Fiber.join(second), 1)
        yield* TestClock.adjust(59_999)
        assert.strictEqual(yield* cache.get("a"), 1)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
        assert.deepStrictEqual(asked, ["a"])
      })
    )

    it.effect("keeps no failure and no defect unless timeToLive says so", () =>
      Effect.gen(function* () {
        let calls = 0
        const cache = yield* Cache.make({
          lookup: (key: string) =>
            Effect.suspend(() => {
              calls++
              return key === "no" ? Effect.fail("no") : Effect.die("broken")
            }),
          capacity: 10,
          timeToLive: "1 minute"
        })
        for (const key of ["no", "no", "die", "die"]) yield* Effect.exit(cache.get(key))
        assert.strictEqual(calls, 4)
        assert.deepStrictEqual(yield* cache.stats, { ...none, misses: 4 })
      })
    )

    it.effect("keeps each outcome as long as timeToLive says of it, and asks once", () =>
      Effect.gen(function* () {
        const told: Array<unknown> = []
        let calls = 0
        const cache = yield* Cache.make({
          lookup: (key: string) =>
            Effect.suspend(() => {
              calls++
              return key === "no" ? Effect.fail("no") : Effect.succeed(key)
            }),
          capacity: 10,
          timeToLive: (exit, key) => {
            told.push([Exit.isSuccess(exit), key])
            if (Exit.isFailure(exit)) return "10 seconds"
            return key === "never" ? 0 : key === "ever" ? "Infinity" : "1 minute"
          }
        })
        const ask = Effect.forEach(["no", "yes", "never", "ever"], (key) => Effect.exit(cache.get(key)))
        const answers = [Exit.fail("no"), Exit.succeed("yes"), Exit.succeed("never"), Exit.succeed("ever")]
        assert.deepStrictEqual(yield* ask, answers)
        assert.deepStrictEqual(told, [
          [false, "no"],
          [true, "yes"],
          [true, "never"],
          [true, "ever"]
        ])
        assert.deepStrictEqual(yield* ask, answers)
        assert.strictEqual(calls, 5)
        assert.deepStrictEqual(yield* cache.getIfPresent("no"), Option.none())
        yield* TestClock.adjust("10 seconds")
        yield* ask
        assert.strictEqual(calls, 7)
        yield* TestClock.adjust("365 days")
        yield* ask
        assert.strictEqual(calls, 10)
        assert.strictEqual((yield* cache.stats).hits, 3 - 1 + 2 + 1 + 1)
      })
    )

    it.effect("dies with what timeToLive throws, and keeps nothing", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({
          lookup,
          capacity: 10,
          timeToLive: () => {
            throw new Error("broken")
          }
        })
        const defect = (cause: Cause.Cause<never>) => Effect.succeed(Cause.squash(cause))
        const call = cache.get("a").pipe(Effect.catchCause(defect))
        const set = cache.set("a", 1).pipe(Effect.catchCause(defect))

        assert.deepStrictEqual(yield* Effect.all([call, set]), [new Error("broken"), new Error("broken")])
        assert.deepStrictEqual(yield* cache.stats, { ...none, misses: 1 })
      })
    )

    it.effect("forgets the least recently used: get and set use, getIfPresent does not", () =>
      Effect.gen(function* () {
        const { asked, lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 3, timeToLive: "Infinity" })
        for (const key of ["a", "b", "c", "a"]) yield* cache.get(key)
        yield* cache.set("b", 20)
        yield* cache.getIfPresent("c")
        yield* cache.get("d")
        const present = yield* Effect.forEach(["a", "b", "c", "d"], cache.getIfPresent)
        assert.deepStrictEqual(present, [Option.some(1), Option.some(20), Option.none(), Option.some(4)])
        assert.deepStrictEqual(asked, ["a", "b", "c", "d"])
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 3, hits: 1, misses: 4, evictions: 1 })
      })
    )

    it.effect("works with room for one", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 1, timeToLive: "1 minute" })
        assert.deepStrictEqual(yield* Effect.forEach(["a", "a", "b", "b", "a"], cache.get), [1, 1, 2, 2, 3])
        yield* cache.set("a", 10)
        assert.strictEqual(yield* cache.get("a"), 10)
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 1, hits: 3, misses: 3, evictions: 2 })
      })
    )

    it.effect("tells odd keys apart", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make({
          lookup: (key: string | number) => Effect.succeed([key]),
          capacity: 10,
          timeToLive: "1 minute"
        })
        const keys = ["", "__proto__", "constructor", "1", 1, "x".repeat(1_000_000)]
        yield* Effect.forEach(keys, cache.get)
        assert.deepStrictEqual(
          yield* Effect.forEach(keys, cache.get),
          keys.map((key) => [key])
        )
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 6, hits: 6, misses: 6 })
      })
    )

    it.effect("shares one look-up between concurrent callers", () =>
      Effect.gen(function* () {
        const { asked, lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        const calls = yield* Effect.forkChild(
          Effect.forEach(
            Array.from({ length: 1000 }, () => "a"),
            cache.get,
            { concurrency: "unbounded" }
          )
        )
        yield* TestClock.adjust(999)
        assert.deepStrictEqual(yield* cache.stats, { ...none, pending: 1, misses: 1, joined: 999 })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(new Set(yield* Fiber.join(calls)), new Set([1]))
        assert.deepStrictEqual(asked, ["a"])
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 1, misses: 1, joined: 999 })
      })
    )

    it.effect.each([1, 2, 3, 4, 5])("looks up once although another call comes at its operation %s", (at) =>
      Effect.gen(function* () {
        const { asked, lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        const runFork = Effect.runForkWith(yield* Effect.context())
        const base = new Scheduler.MixedScheduler()
        let operations = 0
        const scheduler: Scheduler.Scheduler = {
          executionMode: base.executionMode,
          makeDispatcher: () => base.makeDispatcher(),
          shouldYield: (fiber) => {
            if (++operations !== at) return base.shouldYield(fiber)
            runFork(cache.get("a"))
            return true
          }
        }
        assert.strictEqual(yield* Effect.provideService(cache.get("a"), Scheduler.Scheduler, scheduler), 1)
        assert.isAtLeast(operations, at)
        assert.deepStrictEqual(asked, ["a"])
      })
    )

    it.effect("stops a look-up that nobody waits for, and keeps nothing of it", () =>
      Effect.gen(function* () {
        const { asked, ended, lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: () => "1 minute" })
        const callers = yield* Effect.all([Effect.forkChild(cache.get("a")), Effect.forkChild(cache.get("a"))])
        yield* TestClock.adjust(500)
        yield* Fiber.interruptAll(callers)
        assert.deepStrictEqual(ended, ["stopped"])
        assert.deepStrictEqual(yield* cache.stats, { ...none, misses: 1, joined: 1 })
        const next = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(next), 2)
        assert.deepStrictEqual(asked, ["a", "a"])
      })
    )

    it.effect("keeps nothing of a look-up that interrupts itself", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make({
          lookup: (key: string) => Effect.as(Effect.interrupt, key),
          capacity: 10,
          timeToLive: () => "1 minute"
        })
        assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(cache.get("a"))))
        assert.deepStrictEqual(yield* cache.stats, { ...none, misses: 1 })
      })
    )

    it.effect("looks up without the deadline of the caller that came first", () =>
      Effect.gen(function* () {
        const { asked, lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        const hurried = yield* Effect.forkChild(Effect.flip(Deadline.within(cache.get("a"), 500)))
        yield* Effect.yieldNow
        const patient = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(1000)
        assert.strictEqual((yield* Fiber.join(hurried))._tag, "DeadlineExceeded")
        assert.strictEqual(yield* Fiber.join(patient), 1)
        assert.deepStrictEqual(asked, ["a"])
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        let open = 0
        let version = 0
        const cache = yield* Cache.make({
          lookup: (key: string) =>
            Effect.acquireUseRelease(
              Effect.sync(() => open++),
              () => Effect.as(Effect.yieldNow, `${key}${version}`),
              () => Effect.sync(() => open--)
            ),
          capacity: 2,
          timeToLive: () => "1 minute"
        })
        const tried = yield* interruptEverywhere(
          Effect.forEach(["a", "a", "b", "c"], cache.get, { concurrency: "unbounded" }),
          Effect.gen(function* () {
            assert.strictEqual(open, 0)
            const stats = yield* cache.stats
            assert.strictEqual(stats.pending, 0)
            assert.isAtMost(stats.size, 2)
            yield* cache.invalidateAll
            version++
            assert.strictEqual(yield* cache.get("a"), `a${version}`)
            yield* cache.invalidateAll
          })
        )
        assert.isAbove(tried, 10)
      })
    )

    it.effect("gives the others their value when the caller that came first is interrupted at any operation", () =>
      Effect.gen(function* () {
        let gate = yield* Deferred.make<void>()
        let lookups = 0
        const cache = yield* Cache.make({
          lookup: (key: string) =>
            Effect.suspend(() => {
              lookups++
              return Effect.as(Deferred.await(gate), `value of ${key}`)
            }),
          capacity: 2,
          timeToLive: "1 minute"
        })
        const during = Effect.gen(function* () {
          gate = yield* Deferred.make<void>()
          lookups = 0
          yield* cache.invalidateAll
          const later = Effect.andThen(
            Effect.forEach([1, 2], () => Effect.yieldNow),
            cache.get("a")
          )
          const others = yield* Effect.all([Effect.forkChild(later), Effect.forkChild(later)])
          yield* Effect.forkChild(
            Effect.andThen(
              Effect.forEach(Array.from({ length: 10 }), () => Effect.yieldNow),
              Deferred.succeed(gate, undefined)
            )
          )
          return Effect.fnUntraced(function* () {
            assert.deepStrictEqual(yield* Fiber.joinAll(others), ["value of a", "value of a"])
            assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some("value of a"))
            assert.isAtMost(lookups, 2)
          })
        })
        assert.isAbove(yield* interruptCaller(during, cache.get("a")), 2)
      })
    )
  })

  describe("execute", () => {
    it.effect("keeps the result of the work of a call for its key", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<string, number, string>({ capacity: 10, timeToLive: "1 minute" })
        const call = (value: number) => Effect.succeed(value).pipe(cache.execute({ key: "a" }))
        assert.deepStrictEqual(yield* Effect.all([call(1), call(2)]), [1, 1])
        const failing = Effect.fail("no").pipe(cache.execute({ key: "b" }))
        assert.strictEqual(yield* Effect.flip(failing), "no")
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 1, hits: 1, misses: 2 })
      })
    )

    it.effect("shares what get keeps", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        assert.strictEqual(yield* Effect.succeed(42).pipe(cache.execute({ key: "a" })), 42)
        assert.strictEqual(yield* cache.get("a"), 42)
      })
    )

    it("finds in one synchronous step", () => {
      const program = Effect.gen(function* () {
        const cache = yield* Cache.make<string, number>({ capacity: 10, timeToLive: "1 minute" })
        yield* cache.set("a", 1)
        return yield* Effect.never.pipe(cache.execute({ key: "a" }))
      })
      assert.strictEqual(Effect.runSync(program), 1)
    })

    it("has the types of its work, and asks for its requirements", () => {
      const Upstream = Context.Service<"up">("Upstream")
      const program = Effect.gen(function* () {
        const cache = yield* Cache.make<string, number, "E">({ capacity: 1, timeToLive: 1 })
        expectTypeOf(cache).toEqualTypeOf<Cache.Cache<string, number, "E">>()
        const guarded = Effect.as(Upstream, 1).pipe(cache.execute({ key: "a" }))
        expectTypeOf(guarded).toEqualTypeOf<Effect.Effect<number, "E", "up">>()
        type Work = Parameters<ReturnType<typeof cache.execute>>[0]
        expectTypeOf<Effect.Effect<number, "E">>().toExtend<Work>()
        expectTypeOf<Effect.Effect<number, "other">>().not.toExtend<Work>()
        expectTypeOf<Effect.Effect<string>>().not.toExtend<Work>()

        const found = yield* Cache.make({
          lookup: (id: number) => (id === 0 ? Effect.fail("E" as const) : Effect.as(Upstream, "value")),
          capacity: 1,
          timeToLive: (exit, id) => {
            expectTypeOf(exit).toEqualTypeOf<Exit.Exit<string, "E">>()
            return id
          }
        })
        expectTypeOf(found.get).toEqualTypeOf<(key: number) => Effect.Effect<string, "E", "up">>()
      })
      expectTypeOf(program).toExtend<Effect.Effect<void>>()

      // @ts-expect-error an object is not equal by value
      Cache.make({ lookup: (key: { id: number }) => Effect.succeed(key), capacity: 1, timeToLive: 1 })
    })
  })

  describe("set, invalidate and invalidateAll", () => {
    it.effect.each([
      ["set", Option.some(100), 100],
      ["invalidate", Option.none(), 2],
      ["invalidateAll", Option.none(), 2]
    ] as const)("%s during a look-up wins over what the look-up brings", ([name, present, next]) =>
      Effect.gen(function* () {
        const { ended, lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        const before = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(500)
        yield* name === "set"
          ? cache.set("a", 100)
          : name === "invalidate"
            ? cache.invalidate("a")
            : cache.invalidateAll
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), present)
        const after = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(500)
        // Who asked before gets what was found, and it is not kept.
        assert.strictEqual(yield* Fiber.join(before), 1)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), present)
        yield* TestClock.adjust(500)
        assert.strictEqual(yield* Fiber.join(after), next)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(next))
        assert.isFalse(ended.includes("stopped"))
        assert.deepInclude(yield* cache.stats, { size: 1, pending: 0 })
      })
    )

    it.effect("an abandoned look-up does not take its successor's place", () =>
      Effect.gen(function* () {
        const { lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        const first = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(100)
        yield* cache.invalidate("a")
        const second = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(100)
        yield* Fiber.interrupt(first)
        const third = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* Fiber.joinAll([second, third]), [2, 2])
        assert.deepStrictEqual(yield* cache.stats, { ...none, size: 1, misses: 2, joined: 1 })
      })
    )

    it.effect("forget what was kept, without counting it as expired or evicted", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: "1 minute" })
        yield* Effect.forEach(["a", "b", "c"], cache.get)
        yield* cache.invalidate("a")
        yield* cache.invalidate("unknown")
        assert.deepStrictEqual(yield* Effect.forEach(["a", "b"], cache.get), [4, 2])
        yield* cache.invalidateAll
        assert.deepInclude(yield* cache.stats, { size: 0, evictions: 0, expirations: 0 })
        assert.strictEqual(yield* cache.get("b"), 5)
      })
    )

    it.effect("set keeps for as long as timeToLive says, and a set of 0 forgets", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<string, number>({
          capacity: 10,
          timeToLive: (exit) => (Exit.isSuccess(exit) ? exit.value : 0)
        })
        yield* cache.set("a", 10)
        yield* TestClock.adjust(9)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(10))
        yield* cache.set("a", 5)
        yield* TestClock.adjust(5)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
        yield* cache.set("a", 10)
        yield* cache.set("a", 0)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
        yield* cache.set("a", -1)
        assert.strictEqual((yield* cache.stats).size, 0)
      })
    )
  })

  describe("expired results", () => {
    it.effect("are freed by misses of other keys, two entries at a time", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({
          lookup,
          capacity: 1000,
          timeToLive: (_, key) => (key.startsWith("short") ? 10 : "1 hour")
        })
        yield* cache.get("long")
        yield* Effect.forEach(
          Array.from({ length: 100 }, (_, n) => `short${n}`),
          cache.get
        )
        yield* TestClock.adjust(10)
        assert.strictEqual((yield* cache.stats).size, 101)
        for (let n = 0; n < 25; n++) yield* cache.set("other", n)
        assert.isAtMost((yield* cache.stats).size, 102 - 48)
        for (let n = 0; n < 30; n++) {
          yield* cache.invalidate("other")
          yield* cache.get("other")
        }
        assert.deepInclude(yield* cache.stats, { size: 2, expirations: 100, evictions: 0 })
        assert.strictEqual(yield* cache.get("long"), 1)
      })
    )

    it.effect("are all freed by removeExpired, and nothing else is", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<number, number>({
          capacity: 10_000,
          timeToLive: (exit) => (Exit.isSuccess(exit) && exit.value % 3 === 0 ? "1 hour" : 10)
        })
        yield* Effect.forEach(
          Array.from({ length: 6000 }, (_, n) => n),
          (n) => cache.set(n, n)
        )
        assert.strictEqual(yield* cache.removeExpired, 0)
        yield* TestClock.adjust(10)
        assert.strictEqual(yield* cache.removeExpired, 4000)
        assert.deepInclude(yield* cache.stats, { size: 2000, expirations: 4000 })
        assert.strictEqual(yield* cache.removeExpired, 0)
      })
    )
  })

  describe("hooks", () => {
    it.effect("tell a call that it hits or waits, in the context of that call", () =>
      Effect.gen(function* () {
        const Caller = Context.Reference("Caller", { defaultValue: () => "nobody" })
        const heard: Array<string> = []
        const hear = (what: string) => (key: string) =>
          Effect.map(Caller, (caller) => void heard.push(`${caller} ${what} ${key}`))
        const { lookup } = makeSlowSource()
        const cache = yield* Cache.make({
          lookup,
          capacity: 10,
          timeToLive: "1 minute",
          onHit: hear("hit"),
          onJoin: hear("joined")
        })
        const get = (caller: string) => Effect.provideService(cache.get("a"), Caller, caller)
        const fiber = yield* Effect.forkChild(Effect.forEach(["first", "second"], get, { concurrency: 2 }))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(heard, ["second joined a"])
        assert.strictEqual(yield* get("third"), 1)
        yield* cache.getIfPresent("a")
        assert.deepStrictEqual(heard, ["second joined a", "third hit a"])
      })
    )

    it.effect("do no harm when they die", () =>
      Effect.gen(function* () {
        const { lookup } = makeSlowSource()
        const cache = yield* Cache.make({
          lookup,
          capacity: 10,
          timeToLive: "1 minute",
          onHit: () => {
            throw new Error("broken")
          },
          onJoin: () => Effect.die("broken")
        })
        const fiber = yield* Effect.forkChild(Effect.forEach(["a", "a"], cache.get, { concurrency: 2 }))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.join(fiber), [1, 1])
        assert.strictEqual(yield* cache.get("a"), 1)
      })
    )
  })

  describe("make", () => {
    it.effect.each([0, -1, 1.5, NaN, Infinity])("dies on a capacity of %s", (capacity) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Cache.make({ capacity, timeToLive: 1 }))
        const message = `Cache: capacity must be an integer >= 1, got ${capacity}`
        assert.deepStrictEqual(exit, Exit.die(new RangeError(message)))
      })
    )
  })

  describe("against a model", () => {
    for (const [seed, capacity] of [1, 2, 3, 5, 8, 20].entries()) {
      it.effect(`does what an array of entries with times does (seed ${seed}, room for ${capacity})`, () =>
        Effect.gen(function* () {
          const random = randomOf(seed)
          let answers = 0
          const timeToLive = (exit: Exit.Exit<number, string>, key: number) =>
            Exit.isFailure(exit) ? (key % 2 === 0 ? 0 : 7) : key % 5 === 4 ? Infinity : [0, 5, 20, 60][key % 5]!
          const model = new Model(capacity)
          const cache = yield* Cache.make({
            lookup: (key: number) =>
              Effect.suspend(() =>
                ++answers % 4 === 0 ? Effect.fail(`no ${key} ${answers}`) : Effect.succeed(answers)
              ),
            capacity,
            timeToLive
          })
          for (let step = 0; step < 3000; step++) {
            const key = Math.floor(random() * 15)
            const action = random()
            if (action < 0.6) {
              const kept = model.use(key)
              if (kept === undefined) model.sweep(2)
              const found = yield* Effect.exit(cache.get(key))
              if (kept === undefined) {
                model.misses++
                model.put(key, found, timeToLive(found, key))
                assert.deepStrictEqual(
                  found,
                  answers % 4 === 0 ? Exit.fail(`no ${key} ${answers}`) : Exit.succeed(answers)
                )
              } else {
                model.hits++
                assert.deepStrictEqual(found, kept)
              }
            } else if (action < 0.7) {
              model.sweep(2)
              model.put(key, Exit.succeed(step), timeToLive(Exit.succeed(step), key))
              yield* cache.set(key, step)
            } else if (action < 0.75) {
              model.remove(key)
              yield* cache.invalidate(key)
            } else if (action < 0.85) {
              const kept = model.find(key)
              const present = kept !== undefined && Exit.isSuccess(kept) ? Option.some(kept.value) : Option.none()
              assert.deepStrictEqual(yield* cache.getIfPresent(key), present)
            } else if (action < 0.86) {
              assert.strictEqual(yield* cache.removeExpired, model.sweep(model.entries.length))
            } else if (action < 0.865) {
              model.clear()
              yield* cache.invalidateAll
            } else {
              const millis = Math.floor(random() * 10)
              model.now += millis
              yield* TestClock.adjust(millis)
            }
            const { entries, evictions, expirations, hits, misses } = model
            const expected = { ...none, size: entries.length, hits, misses, evictions, expirations }
            assert.deepStrictEqual(yield* cache.stats, expected, `step ${step}`)
          }
        })
      )
    }

    for (const seed of [1, 2, 3, 4, 5]) {
      it.effect(`never answers with what was replaced before the call, and loses no caller (seed ${seed})`, () =>
        Effect.gen(function* () {
          const random = randomOf(seed)
          const keys = 4
          const truth = Array.from({ length: keys }, () => 0)
          const running = Array.from({ length: keys }, () => new Set<number>())
          const ends: Array<Exit.Exit<number, string>> = []
          const cache = yield* Cache.make({
            lookup: (key: number) =>
              Effect.suspend(() => {
                const version = truth[key]!
                // A run is shared until something newer is known: there are never two of one version.
                assert.isFalse(running[key]!.has(version))
                running[key]!.add(version)
                const fails = random() < 0.2
                return Effect.sleep(Math.floor(random() * 20)).pipe(
                  Effect.andThen(fails ? Effect.fail("no") : Effect.succeed(version)),
                  Effect.ensuring(Effect.sync(() => running[key]!.delete(version)))
                )
              }),
            capacity: 3,
            timeToLive: 15
          })
          const fibers: Array<Fiber.Fiber<unknown, string>> = []
          for (let step = 0; step < 2000; step++) {
            const key = Math.floor(random() * keys)
            const action = random()
            if (action < 0.5) {
              const atLeast = truth[key]!
              const call = cache.get(key).pipe(
                Effect.tap((value) => Effect.sync(() => assert.isAtLeast(value, atLeast))),
                Effect.onExit((exit) => Effect.sync(() => ends.push(exit)))
              )
              fibers.push(yield* Effect.forkChild(call, { startImmediately: true }))
            } else if (action < 0.6) {
              yield* cache.set(key, ++truth[key]!)
            } else if (action < 0.65) {
              truth[key]!++
              yield* cache.invalidate(key)
            } else if (action < 0.8 && fibers.length > 0) {
              yield* Fiber.interrupt(fibers[Math.floor(random() * fibers.length)]!)
            } else {
              yield* TestClock.adjust(Math.floor(random() * 5))
            }
            assert.isAtMost((yield* cache.stats).size, 3)
          }
          yield* TestClock.adjust(100)
          assert.strictEqual(ends.length, fibers.length)
          const { hits, joined, misses, pending } = yield* cache.stats
          assert.strictEqual(pending, 0)
          assert.strictEqual(hits + joined + misses, fibers.length)
          assert.isTrue(ends.some(Exit.isSuccess) && ends.some(Exit.hasInterrupts) && ends.some(Exit.hasFails))
          for (const end of ends) assert.isFalse(Exit.hasDies(end))
        })
      )
    }
  })
})

// What the documentation says, with an array in order of use and time as a number.
class Model {
  entries: Array<{ readonly key: number; readonly exit: Exit.Exit<number, string>; readonly expiresAt: number }> = []
  now = 0
  hits = 0
  misses = 0
  evictions = 0
  expirations = 0
  // The key the sweep looks at next; from the oldest on when there is none.
  next: number | undefined
  readonly capacity: number

  constructor(capacity: number) {
    this.capacity = capacity
  }

  find(key: number) {
    const entry = this.entries.find((entry) => entry.key === key)
    if (entry === undefined || entry.expiresAt > this.now) return entry?.exit
    this.expirations++
    this.remove(key)
    return undefined
  }

  use(key: number) {
    const exit = this.find(key)
    const entry = this.entries.find((entry) => entry.key === key)
    if (entry !== undefined && entry !== this.entries.at(-1)) {
      this.remove(key)
      this.entries.push(entry)
    }
    return exit
  }

  put(key: number, exit: Exit.Exit<number, string>, millis: number) {
    this.remove(key)
    if (millis <= 0) return
    if (this.entries.length === this.capacity) {
      const oldest = this.entries[0]!
      if (oldest.expiresAt <= this.now) this.expirations++
      else this.evictions++
      this.remove(oldest.key)
    }
    this.entries.push({ key, exit, expiresAt: this.now + millis })
  }

  sweep(count: number) {
    let freed = 0
    for (let i = 0; i < count && this.entries.length > 0; i++) {
      const at = Math.max(
        0,
        this.entries.findIndex((entry) => entry.key === this.next)
      )
      const entry = this.entries[at]!
      this.next = this.entries[at + 1]?.key
      if (entry.expiresAt <= this.now) {
        freed++
        this.remove(entry.key)
      }
    }
    this.expirations += freed
    return freed
  }

  remove(key: number) {
    const at = this.entries.findIndex((entry) => entry.key === key)
    if (at === -1) return
    if (this.next === key) this.next = this.entries[at + 1]?.key
    this.entries.splice(at, 1)
  }

  clear() {
    this.entries = []
    this.next = undefined
  }
}

// A small generator of numbers in [0, 1): a linear congruence whose high bits are mixed.
const randomOf = (seed: number) => {
  let state = (seed + 1) * 2_654_435_769
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return ((state ^ (state >>> 15)) >>> 0) / 2 ** 32
  }
}
