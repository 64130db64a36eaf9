import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Cause,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Logger,
  Option,
  Random,
  References,
  Scheduler,
  Scope
} from "effect"
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

// A source of numbers that takes its time, fails when it is told to, and counts what it does.
const makeUpstream = (millis = 0) => {
  const upstream = {
    asked: new Array<string>(),
    ended: new Array<string>(),
    fails: undefined as Effect.Effect<never, string> | undefined,
    /** The most that ran at the same time. */
    most: 0,
    lookup: (key: string): Effect.Effect<number, string> =>
      Effect.suspend(() => {
        const answer = upstream.asked.push(key)
        upstream.most = Math.max(upstream.most, upstream.asked.length - upstream.ended.length)
        return (millis === 0 ? Effect.void : Effect.sleep(millis)).pipe(
          Effect.andThen(Effect.suspend(() => upstream.fails ?? Effect.succeed(answer))),
          Effect.onExit((exit) =>
            Effect.sync(() => upstream.ended.push(Exit.hasInterrupts(exit) ? "stopped" : "finished"))
          )
        )
      })
  }
  return upstream
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
        assert.deepStrictEqual(yield* cache.statistics, none)
        assert.deepStrictEqual(
          yield* Effect.all([cache.get("a"), cache.get("a"), cache.get("b"), cache.get("a")]),
          [1, 1, 2, 1]
        )
        assert.deepStrictEqual(asked, ["a", "b"])
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 2, hits: 2, misses: 2 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 1, misses: 2, expirations: 1 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, misses: 4 })
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
        assert.strictEqual((yield* cache.statistics).hits, 3 - 1 + 2 + 1 + 1)
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, misses: 1 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 3, hits: 1, misses: 4, evictions: 1 })
      })
    )

    it.effect("works with room for one", () =>
      Effect.gen(function* () {
        const { lookup } = makeSource()
        const cache = yield* Cache.make({ lookup, capacity: 1, timeToLive: "1 minute" })
        assert.deepStrictEqual(yield* Effect.forEach(["a", "a", "b", "b", "a"], cache.get), [1, 1, 2, 2, 3])
        yield* cache.set("a", 10)
        assert.strictEqual(yield* cache.get("a"), 10)
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 3, misses: 3, evictions: 2 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 6, hits: 6, misses: 6 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, pending: 1, misses: 1, joined: 999 })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(new Set(yield* Fiber.join(calls)), new Set([1]))
        assert.deepStrictEqual(asked, ["a"])
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, misses: 1, joined: 999 })
      })
    )

    it.effect.each([1, 2, 3, 4])("looks up once although another call comes at its operation %s", (at) =>
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

    // A cache whose look-up does something with the cache itself in its first step, and ends there or a second later.
    const makeReentrant = Effect.fnUntraced(function* (options: {
      readonly meanwhile: (cache: Cache.LookupCache<string, number>) => void
      readonly sleeps: boolean
      readonly timeToLive?: Cache.TimeToLive<string, number, never>
    }) {
      const asked: Array<string> = []
      const cache: Cache.LookupCache<string, number> = yield* Cache.make({
        lookup: (key: string) =>
          Effect.suspend(() => {
            const answer = asked.push(key)
            if (answer === 1) options.meanwhile(cache)
            return options.sleeps ? Effect.delay(Effect.succeed(answer), "1 second") : Effect.succeed(answer)
          }),
        capacity: 10,
        tags: () => ["tag"],
        timeToLive: options.timeToLive ?? "1 minute"
      })
      return { asked, cache }
    })

    for (const sleeps of [false, true]) {
      const when = sleeps ? "goes on after its first step" : "ends in its first step"

      it.effect(`lets those join who come in the first step of a look-up that ${when}`, () =>
        Effect.gen(function* () {
          const runFork = Effect.runForkWith(yield* Effect.context())
          const joined: Array<Fiber.Fiber<number>> = []
          const { asked, cache } = yield* makeReentrant({
            sleeps,
            meanwhile: (cache) => {
              joined.push(runFork(cache.get("a")), runFork(cache.get("b")), runFork(cache.get("a")))
              joined[2]!.interruptUnsafe()
            }
          })
          const first = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(1000)
          assert.strictEqual(yield* Fiber.join(first), 1)
          assert.strictEqual(yield* Fiber.join(joined[0]!), 1)
          assert.strictEqual(yield* Fiber.join(joined[1]!), 2)
          assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(joined[2]!)))
          assert.deepStrictEqual(asked, ["a", "b"])
          assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 2, misses: 2, joined: 2 })
        })
      )

      it.effect(`goes on when only those leave who came in the first step of a look-up that ${when}`, () =>
        Effect.gen(function* () {
          const runFork = Effect.runForkWith(yield* Effect.context())
          const { asked, cache } = yield* makeReentrant({
            sleeps,
            meanwhile: (cache) => runFork(cache.get("a")).interruptUnsafe()
          })
          const first = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(1000)
          assert.strictEqual(yield* Fiber.join(first), 1)
          assert.strictEqual(yield* cache.get("a"), 1)
          assert.deepStrictEqual(asked, ["a"])
        })
      )

      it.effect.each([
        ["invalidate", (cache: Cache.Cache<string, number>) => cache.invalidate("a")],
        ["invalidateAll", (cache: Cache.Cache<string, number>) => cache.invalidateAll],
        ["invalidateTag", (cache: Cache.Cache<string, number>) => cache.invalidateTag("tag")],
        ["invalidateWhere", (cache: Cache.Cache<string, number>) => cache.invalidateWhere((key) => key === "a")],
        ["set", (cache: Cache.Cache<string, number>) => cache.set("a", 100)]
      ] as const)(`keeps nothing of a look-up that ${when} after %s in it`, ([name, change]) =>
        Effect.gen(function* () {
          const runSync = Effect.runSyncWith(yield* Effect.context())
          const { cache } = yield* makeReentrant({ sleeps, meanwhile: (cache) => runSync(change(cache)) })
          const first = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(1000)
          assert.strictEqual(yield* Fiber.join(first), 1)
          assert.deepStrictEqual(yield* cache.getIfPresent("a"), name === "set" ? Option.some(100) : Option.none())
          assert.strictEqual((yield* cache.statistics).pending, 0)
        })
      )

      it.effect(`gives the defect of timeToLive to all who wait for a look-up that ${when}`, () =>
        Effect.gen(function* () {
          const runFork = Effect.runForkWith(yield* Effect.context())
          const joined: Array<Fiber.Fiber<number>> = []
          const { cache } = yield* makeReentrant({
            sleeps,
            meanwhile: (cache) => joined.push(runFork(cache.get("a"))),
            timeToLive: () => {
              throw new Error("broken")
            }
          })
          const first = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(1000)
          for (const fiber of [first, ...joined]) {
            assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.die(new Error("broken")))
          }
          assert.deepStrictEqual(yield* cache.statistics, { ...none, misses: 1, joined: 1 })
        })
      )
    }

    it.effect("stops a look-up that nobody waits for, and keeps nothing of it", () =>
      Effect.gen(function* () {
        const { asked, ended, lookup } = makeSlowSource()
        const cache = yield* Cache.make({ lookup, capacity: 10, timeToLive: () => "1 minute" })
        const callers = yield* Effect.all([Effect.forkChild(cache.get("a")), Effect.forkChild(cache.get("a"))])
        yield* TestClock.adjust(500)
        yield* Fiber.interruptAll(callers)
        assert.deepStrictEqual(ended, ["stopped"])
        assert.deepStrictEqual(yield* cache.statistics, { ...none, misses: 1, joined: 1 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, misses: 1 })
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
            const statistics = yield* cache.statistics
            assert.strictEqual(statistics.pending, 0)
            assert.isAtMost(statistics.size, 2)
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 1, misses: 2 })
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

      const byObject = (key: { id: number }) => Effect.succeed(key)
      // @ts-expect-error an object is not equal by value
      expectTypeOf(Cache.make({ lookup: byObject, capacity: 1, timeToLive: 1 })).toBeObject()
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
        assert.deepInclude(yield* cache.statistics, { size: 1, pending: 0 })
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
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, misses: 2, joined: 1 })
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
        assert.deepInclude(yield* cache.statistics, { size: 0, evictions: 0, expirations: 0 })
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
        assert.strictEqual((yield* cache.statistics).size, 0)
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
        assert.strictEqual((yield* cache.statistics).size, 101)
        for (let n = 0; n < 25; n++) yield* cache.set("other", n)
        assert.isAtMost((yield* cache.statistics).size, 102 - 48)
        for (let n = 0; n < 30; n++) {
          yield* cache.invalidate("other")
          yield* cache.get("other")
        }
        assert.deepInclude(yield* cache.statistics, { size: 2, expirations: 100, evictions: 0 })
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
        assert.deepInclude(yield* cache.statistics, { size: 2000, expirations: 4000 })
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

  describe("staleWhileRevalidate", () => {
    it.effect("answers with the stale value at once while one refresh runs, and then with the new one", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(1000)
        const told: Array<unknown> = []
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: "1 minute",
          refresh: { staleWhileRevalidate: "30 seconds" },
          onHit: (key) => Effect.sync(() => told.push(key)),
          onStale: (key, { cause, staleFor }) => Effect.sync(() => told.push([key, Duration.toMillis(staleFor), cause]))
        })
        const first = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(1000)
        yield* Fiber.join(first)
        yield* TestClock.adjust(59_999)
        assert.strictEqual(yield* cache.get("a"), 1)
        assert.deepStrictEqual(upstream.asked, ["a"])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Effect.all([cache.get("a"), cache.get("a")]), [1, 1])
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* cache.get("a"), 1)
        assert.deepStrictEqual(upstream.asked, ["a", "a"])
        assert.deepInclude(yield* cache.statistics, { pending: 1, hits: 4, misses: 1, stale: 3, refreshes: 1 })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(2))
        // It has the whole of its time from the end of the refresh on.
        yield* TestClock.adjust(59_999)
        assert.strictEqual(yield* cache.get("a"), 2)
        assert.deepStrictEqual(told, ["a", ["a", 0, undefined], ["a", 0, undefined], ["a", 999, undefined], "a"])
        assert.strictEqual(upstream.most, 1)
      })
    )

    it.effect("ends exactly at its limit: then the caller waits for the look-up", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50 }
        })
        yield* cache.get("a")
        yield* cache.get("b")
        yield* TestClock.adjust(149)
        assert.strictEqual(yield* cache.get("a"), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* cache.get("b"), 4)
        assert.deepStrictEqual(yield* cache.statistics, {
          ...none,
          size: 2,
          hits: 1,
          misses: 3,
          stale: 1,
          refreshes: 1,
          expirations: 1
        })
      })
    )

    it.effect(
      "keeps the stale value when a refresh fails or dies, tries again at the next hit, and gives up at the limit",
      () =>
        Effect.gen(function* () {
          const upstream = makeUpstream()
          const failures: Array<unknown> = []
          const causes: Array<unknown> = []
          const cache = yield* Cache.make({
            lookup: upstream.lookup,
            capacity: 10,
            timeToLive: 100,
            refresh: {
              staleWhileRevalidate: 50,
              onFailure: (keys, cause) => {
                failures.push([keys, Cause.squash(cause)])
                return Effect.die("broken hook")
              }
            },
            onStale: (_, { cause }) => Effect.sync(() => causes.push(cause && Cause.squash(cause)))
          })
          yield* cache.get("a")
          yield* TestClock.adjust(100)
          upstream.fails = Effect.fail("no")
          assert.strictEqual(yield* cache.get("a"), 1)
          yield* TestClock.adjust(20)
          upstream.fails = Effect.die("broken")
          assert.strictEqual(yield* cache.get("a"), 1)
          yield* TestClock.adjust(29)
          assert.strictEqual(yield* cache.get("a"), 1)
          assert.deepStrictEqual(failures, [
            [["a"], "no"],
            [["a"], "broken"]
          ])
          assert.deepStrictEqual(causes, [undefined, "no", "broken"])
          yield* TestClock.adjust(1)
          upstream.fails = Effect.fail("still no")
          assert.strictEqual(yield* Effect.flip(cache.get("a")), "still no")
          assert.deepInclude(yield* cache.statistics, {
            size: 0,
            refreshes: 3,
            refreshFailures: 3,
            misses: 2,
            pending: 0
          })
        })
    )

    it.effect("logs the defect of a refresh unless something else is to be done with it", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const logged: Array<unknown> = []
        const logger = Logger.make(({ cause }) => logged.push(...cause.reasons.map((reason) => reason._tag)))
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50 }
        })
        yield* cache.get("a")
        yield* TestClock.adjust(100)
        for (const end of [Effect.fail("no"), Effect.die("broken")]) {
          upstream.fails = end
          yield* cache
            .get("a")
            .pipe(Effect.provide(Logger.layer([logger])), Effect.provideService(References.UnhandledLogLevel, "Error"))
          yield* TestClock.adjust(0)
        }
        assert.deepStrictEqual(logged, ["Die"])
        assert.deepInclude(yield* cache.statistics, { refreshFailures: 2 })
      })
    )

    it.effect("asks for a failed refresh again only when timeToLive no longer keeps the failure", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: (exit) => (Exit.isSuccess(exit) ? 100 : 20),
          refresh: { staleWhileRevalidate: 1000 }
        })
        yield* cache.get("a")
        yield* TestClock.adjust(100)
        upstream.fails = Effect.fail("no")
        for (let at = 0; at < 60; at++) {
          assert.strictEqual(yield* cache.get("a"), 1)
          yield* TestClock.adjust(1)
        }
        assert.strictEqual(upstream.asked.length, 1 + 3)
        upstream.fails = undefined
        yield* cache.get("a")
        yield* TestClock.adjust(0)
        assert.strictEqual(yield* cache.get("a"), 5)
      })
    )

    it.effect("takes a failure that staleOn does not name as the new answer", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: (exit, key) => (Exit.isSuccess(exit) ? 100 : key === "kept" ? 10 : 0),
          staleOn: (cause) => Cause.squash(cause) !== "gone",
          refresh: { staleWhileRevalidate: 1000 }
        })
        yield* Effect.forEach(["kept", "forgotten"], cache.get)
        yield* TestClock.adjust(100)
        upstream.fails = Effect.fail("gone")
        yield* Effect.forEach(["kept", "forgotten"], cache.get)
        yield* TestClock.adjust(0)
        assert.strictEqual((yield* cache.statistics).size, 1)
        assert.strictEqual(yield* Effect.flip(cache.get("kept")), "gone")
        assert.strictEqual(upstream.asked.length, 4)
        assert.strictEqual(yield* Effect.flip(cache.get("forgotten")), "gone")
        assert.strictEqual(upstream.asked.length, 5)
      })
    )

    it.effect.each([
      ["set", Option.some(100)],
      ["invalidate", Option.none()],
      ["invalidateAll", Option.none()]
    ] as const)("%s during a refresh wins, and stops the refresh", ([name, present]) =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50 }
        })
        yield* cache.set("a", 0)
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* cache.get("a"), 0)
        yield* TestClock.adjust(5)
        yield* name === "set"
          ? cache.set("a", 100)
          : name === "invalidate"
            ? cache.invalidate("a")
            : cache.invalidateAll
        yield* TestClock.adjust(5)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), present)
        assert.deepStrictEqual(upstream.ended, ["stopped"])
        assert.deepInclude(yield* cache.statistics, { pending: 0, refreshes: 1, refreshFailures: 0 })
      })
    )

    it.effect.each(["invalidateTag", "invalidateWhere"] as const)(
      "%s during a refresh wins over a result that it means",
      (name) =>
        Effect.gen(function* () {
          const upstream = makeUpstream(10)
          const cache = yield* Cache.make({
            lookup: upstream.lookup,
            capacity: 10,
            timeToLive: 100,
            tags: (exit) => (Exit.isSuccess(exit) && exit.value > 0 ? ["found"] : []),
            refresh: { staleWhileRevalidate: 50 }
          })
          const invalidate = (tag: string) =>
            name === "invalidateTag"
              ? cache.invalidateTag(tag)
              : cache.invalidateWhere((_, exit) => tag === "found" && Exit.isSuccess(exit) && exit.value > 0)
          yield* cache.set("a", 0)
          yield* TestClock.adjust(100)
          yield* cache.get("a")
          yield* TestClock.adjust(5)
          yield* invalidate("found")
          yield* TestClock.adjust(5)
          // What the refresh found is not kept; what was there before was not meant.
          assert.strictEqual(yield* cache.get("a"), 0)
          yield* TestClock.adjust(5)
          yield* invalidate("other")
          yield* TestClock.adjust(5)
          assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(2))
        })
    )

    it.effect("starts no more refreshes than maxConcurrent, and goes on with the stale value meanwhile", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50, maxConcurrent: 2 }
        })
        const keys = ["a", "b", "c", "d"]
        yield* Effect.forEach(keys, (key) => cache.set(key, 0))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(yield* Effect.forEach(keys, cache.get), [0, 0, 0, 0])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(upstream.asked, ["a", "b"])
        assert.deepStrictEqual(yield* Effect.forEach(keys, cache.get), [1, 2, 0, 0])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(yield* Effect.forEach(keys, cache.get), [1, 2, 3, 4])
        assert.strictEqual(upstream.most, 2)
      })
    )

    it.effect("goes on without the caller that found the stale value, and without its deadline", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(1000)
        const deadlines: Array<unknown> = []
        const cache = yield* Cache.make({
          lookup: (key: string) =>
            Effect.flatMap(Deadline.remaining, (remaining) => {
              deadlines.push(remaining)
              return upstream.lookup(key)
            }),
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 5000 }
        })
        yield* cache.set("a", 0)
        yield* TestClock.adjust(100)
        const hurried = (key: string) => Deadline.within(cache.get(key), 10)
        const caller = yield* Effect.forkChild(Effect.andThen(hurried("a"), Effect.never))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(caller)
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(1))
        // Nor is a look-up in the foreground bound by it.
        const failing = yield* Effect.forkChild(Effect.exit(hurried("b")))
        yield* TestClock.adjust(10)
        yield* Fiber.join(failing)
        assert.deepStrictEqual(deadlines, [undefined, undefined])
      })
    )

    it.effect("is joined by whoever finds the stale value gone", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(100)
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50 }
        })
        yield* cache.set("a", 0)
        yield* TestClock.adjust(149)
        yield* cache.get("a")
        yield* TestClock.adjust(1)
        const waiting = yield* Effect.all([Effect.forkChild(cache.get("a")), Effect.forkChild(cache.get("a"))])
        yield* TestClock.adjust(1)
        // The refresh is the cache's: that a caller comes and goes is nothing to it.
        yield* Fiber.interrupt(waiting[0])
        yield* TestClock.adjust(98)
        assert.strictEqual(yield* Fiber.join(waiting[1]), 1)
        assert.deepInclude(yield* cache.statistics, { hits: 1, joined: 2, misses: 0, refreshes: 1 })
      })
    )

    it.effect("stops with its scope, waits for its finalizers, and leaves nothing behind", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(1000)
        const scope = yield* Scope.make()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          staleIfError: 20,
          refresh: { staleWhileRevalidate: 50, ahead: 0.1 }
        }).pipe(Scope.provide(scope))
        yield* Effect.forEach(["a", "b", "c"], (key) => cache.set(key, 0))
        yield* TestClock.adjust(149)
        yield* Effect.forEach(["a", "b"], cache.get)
        yield* TestClock.adjust(1)
        const waiting = yield* Effect.forkChild(cache.get("a"))
        yield* Effect.yieldNow
        yield* Scope.close(scope, Exit.void)
        // Someone waits for a, nobody for b.
        assert.deepStrictEqual(upstream.ended, ["stopped"])
        assert.strictEqual((yield* cache.statistics).pending, 1)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* Fiber.join(waiting), 1)
        // The cache works on, and starts nothing in the background.
        yield* TestClock.adjust(100)
        const next = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* Fiber.join(next), 3)
        yield* TestClock.adjust(99)
        assert.strictEqual(yield* cache.get("a"), 3)
        assert.deepInclude(yield* cache.statistics, { pending: 0, refreshes: 2 })
        // What is stale is looked up, and stands in for a failure up to the limit of that.
        const failsAt = Effect.fnUntraced(function* (millis: number) {
          yield* cache.set("d", 0)
          yield* TestClock.adjust(millis)
          return yield* Effect.exit(cache.execute({ key: "d" })(Effect.fail("no")))
        })
        assert.deepStrictEqual(yield* failsAt(119), Exit.succeed(0))
        assert.deepStrictEqual(yield* failsAt(120), Exit.fail("no"))
        assert.deepInclude(yield* cache.statistics, { pending: 0, refreshes: 2 })
      })
    )

    it.effect("stops with its scope when all who waited for it have gone", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(1000)
        const scope = yield* Scope.make()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50 }
        }).pipe(Scope.provide(scope))
        yield* cache.set("a", 0)
        yield* TestClock.adjust(149)
        yield* cache.get("a")
        yield* TestClock.adjust(1)
        const waiting = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(1)
        yield* Fiber.interrupt(waiting)
        assert.deepStrictEqual(upstream.ended, [])
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(upstream.ended, ["stopped"])
        assert.strictEqual((yield* cache.statistics).pending, 0)
      })
    )

    it.effect("leaves nothing behind when the caller or the scope is interrupted at any operation", () =>
      Effect.gen(function* () {
        let open = 0
        const tried = yield* interruptEverywhere(
          Effect.scoped(
            Effect.gen(function* () {
              const cache = yield* Cache.make({
                lookup: (key: string) =>
                  Effect.acquireUseRelease(
                    Effect.sync(() => open++),
                    () => Effect.as(Effect.yieldNow, key.length),
                    () =>
                      Effect.andThen(
                        Effect.yieldNow,
                        Effect.sync(() => open--)
                      )
                  ),
                capacity: 10,
                timeToLive: "1 minute",
                refresh: { ahead: 0.999_999_999 }
              })
              yield* cache.set("a", 0)
              yield* TestClock.adjust(1)
              yield* Effect.forEach(["a", "b"], cache.get, { concurrency: "unbounded" })
              yield* cache.getMany({ keys: ["a", "b", "c"], lookup: () => Effect.as(Effect.yieldNow, new Map()) })
            })
          ),
          Effect.sync(() => assert.strictEqual(open, 0))
        )
        assert.isAbove(tried, 20)
      })
    )
  })

  describe("staleIfError", () => {
    const options = { capacity: 10, timeToLive: 100, staleIfError: 50 }

    it.effect("answers everyone who waits for a look-up that fails with the stale value, and says why", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const told: Array<unknown> = []
        const cache = yield* Cache.make({
          ...options,
          lookup: upstream.lookup,
          onStale: (key, { cause, staleFor }) =>
            Effect.sync(() => told.push([key, Duration.toMillis(staleFor), cause && Cause.squash(cause)]))
        })
        yield* cache.set("a", 0)
        yield* TestClock.adjust(120)
        upstream.fails = Effect.fail("no")
        const callers = yield* Effect.forkChild(Effect.forEach(["a", "a"], cache.get, { concurrency: 2 }))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(yield* Fiber.join(callers), [0, 0])
        assert.deepStrictEqual(told, [
          ["a", 30, "no"],
          ["a", 30, "no"]
        ])
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, misses: 1, joined: 1, stale: 2 })
        // The next call tries again.
        upstream.fails = undefined
        const next = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(10)
        assert.strictEqual(yield* Fiber.join(next), 2)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(2))
      })
    )

    it.effect("counts its limit up to the moment of the failure", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        upstream.fails = Effect.fail("no")
        const cache = yield* Cache.make({ ...options, lookup: upstream.lookup })
        const failsAt = Effect.fnUntraced(function* (millis: number) {
          yield* cache.set("a", 0)
          yield* TestClock.adjust(millis - 10)
          const caller = yield* Effect.forkChild(Effect.exit(cache.get("a")))
          yield* TestClock.adjust(10)
          return yield* Fiber.join(caller)
        })
        assert.deepStrictEqual(yield* failsAt(149), Exit.succeed(0))
        assert.deepStrictEqual(yield* failsAt(150), Exit.fail("no"))
        assert.deepInclude(yield* cache.statistics, { size: 0, expirations: 1 })
      })
    )

    it.effect("has its own limit beside staleWhileRevalidate, whichever is longer", () =>
      Effect.gen(function* () {
        for (const [error, revalidate] of [
          [50, 20],
          [20, 50]
        ] as const) {
          const upstream = makeUpstream()
          const cache = yield* Cache.make({
            ...options,
            staleIfError: error,
            lookup: upstream.lookup,
            refresh: { staleWhileRevalidate: revalidate }
          })
          upstream.fails = Effect.fail("no")
          const ends: Array<string> = []
          yield* cache.set("a", 0)
          yield* TestClock.adjust(100)
          for (const until of [19, 20, 49, 50]) {
            yield* TestClock.adjust(until === 19 ? 19 : until === 49 ? 29 : 1)
            const { misses } = yield* cache.statistics
            const exit = yield* Effect.exit(cache.get("a"))
            yield* TestClock.adjust(0)
            const waited = (yield* cache.statistics).misses > misses ? "waited" : "at once"
            ends.push(`${until} ${Exit.isSuccess(exit) ? "stale" : "fails"} ${waited}`)
          }
          assert.deepStrictEqual(
            ends,
            error > revalidate
              ? ["19 stale at once", "20 stale waited", "49 stale waited", "50 fails waited"]
              : ["19 stale at once", "20 stale at once", "49 stale at once", "50 fails waited"]
          )
        }
      })
    )

    it.effect("answers at once while timeToLive keeps the failure, and stands in for no other", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          ...options,
          lookup: upstream.lookup,
          timeToLive: (exit) => (Exit.isSuccess(exit) ? 100 : 20),
          staleOn: (cause) => !Cause.hasDies(cause)
        })
        yield* cache.get("a")
        yield* TestClock.adjust(100)
        upstream.fails = Effect.fail("no")
        assert.strictEqual(yield* cache.get("a"), 1)
        yield* TestClock.adjust(19)
        assert.strictEqual(yield* cache.get("a"), 1)
        assert.strictEqual(upstream.asked.length, 2)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* cache.get("a"), 1)
        assert.strictEqual(upstream.asked.length, 3)
        yield* TestClock.adjust(20)
        upstream.fails = Effect.die("broken")
        assert.isTrue(Exit.hasDies(yield* Effect.exit(cache.get("a"))))
        // It is an answer of its own: nothing is left of the value, and the defect is kept for its own time.
        yield* TestClock.adjust(9)
        assert.isTrue(Exit.hasDies(yield* Effect.exit(cache.get("a"))))
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 2, misses: 4, stale: 3 })
      })
    )

    it.effect("does not stand in for an interruption, nor for what was set or invalidated meanwhile", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({ ...options, lookup: upstream.lookup })
        yield* Effect.forEach(["a", "b"], (key) => cache.set(key, 0))
        yield* TestClock.adjust(100)
        upstream.fails = Effect.interrupt
        const interrupted = yield* Effect.forkChild(Effect.exit(cache.get("a")))
        yield* TestClock.adjust(10)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.join(interrupted)))
        upstream.fails = Effect.fail("no")
        const failed = yield* Effect.forkChild(Effect.exit(cache.get("b")))
        yield* TestClock.adjust(5)
        yield* cache.invalidate("b")
        yield* TestClock.adjust(5)
        assert.deepStrictEqual(yield* Fiber.join(failed), Exit.fail("no"))
      })
    )
  })

  describe("refresh ahead", () => {
    it.effect("is started by a hit in the last part of the time, once, and by no other", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { ahead: 0.2 }
        })
        yield* cache.set("a", 0)
        yield* TestClock.adjust(79)
        assert.strictEqual(yield* cache.get("a"), 0)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Effect.all([cache.get("a"), cache.get("a")]), [0, 0])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(upstream.asked, ["a"])
        assert.strictEqual(yield* cache.get("a"), 1)
        yield* TestClock.adjust(79)
        assert.strictEqual(yield* cache.get("a"), 1)
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 5, refreshes: 1 })
      })
    )

    it.effect("leaves the value to its time when it fails, and refreshes no failure", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: (exit) => (Exit.isSuccess(exit) ? 100 : 10),
          refresh: { ahead: 0.5 }
        })
        yield* cache.get("a")
        upstream.fails = Effect.fail("no")
        yield* Effect.exit(cache.get("b"))
        yield* TestClock.adjust(9)
        assert.strictEqual(yield* Effect.flip(cache.get("b")), "no")
        yield* TestClock.adjust(90)
        assert.strictEqual(yield* cache.get("a"), 1)
        yield* TestClock.adjust(0)
        assert.strictEqual(upstream.asked.length, 3)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(1))
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Effect.flip(cache.get("a")), "no")
        assert.deepInclude(yield* cache.statistics, { stale: 0, refreshes: 1, refreshFailures: 1 })
      })
    )
  })

  describe("jitter", () => {
    const livesFor = (seed: string, jitter: number | undefined) =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<number, number>({ capacity: 1000, timeToLive: 1000, jitter })
        const keys = Array.from({ length: 100 }, (_, key) => key)
        yield* Effect.forEach(keys, (key) =>
          key % 2 ? cache.set(key, key) : cache.execute({ key })(Effect.succeed(key))
        )
        const sizes: Array<number> = []
        for (let at = 0; at < 10; at++) {
          yield* cache.removeExpired
          sizes.push((yield* cache.statistics).size)
          yield* TestClock.adjust(100)
        }
        yield* cache.removeExpired
        return [...sizes, (yield* cache.statistics).size]
      }).pipe(Random.withSeed(seed))

    it.effect("shortens each time by up to its share, as the seed says", () =>
      Effect.gen(function* () {
        const sizes = yield* livesFor("one", 0.5)
        assert.deepStrictEqual(sizes.slice(0, 6), [100, 100, 100, 100, 100, 100])
        assert.isTrue(sizes.slice(5, 10).every((size, at) => Math.abs(size - (100 - 20 * at)) <= 12))
        assert.strictEqual(sizes[10], 0)
        assert.deepStrictEqual(yield* livesFor("one", 0.5), sizes)
        assert.notDeepEqual(yield* livesFor("two", 0.5), sizes)
        assert.deepStrictEqual(new Set((yield* livesFor("one", undefined)).slice(0, 10)), new Set([100]))
      })
    )
  })

  describe("idleTimeToLive", () => {
    it.effect("ends what nobody uses, and never outlives the time to live", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: (exit) => (Exit.isSuccess(exit) ? 100 : 1000),
          idleTimeToLive: 30
        })
        yield* cache.get("a")
        for (let use = 1; use <= 3; use++) {
          yield* TestClock.adjust(29)
          assert.strictEqual(yield* cache.get("a"), 1)
        }
        yield* TestClock.adjust(12)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(1))
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* cache.get("a"), 2)
        yield* TestClock.adjust(29)
        // Reading is no use.
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(2))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
        upstream.fails = Effect.fail("no")
        yield* Effect.exit(cache.get("b"))
        yield* TestClock.adjust(30)
        assert.strictEqual(yield* cache.removeExpired, 1)
        assert.deepInclude(yield* cache.statistics, { size: 0, expirations: 3 })
      })
    )

    it.effect("is said per outcome, ends stale values too, and 0 keeps nothing", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: () => "Infinity",
          idleTimeToLive: (exit, key) => (Exit.isFailure(exit) ? 5 : key === "never" ? 0 : 30),
          staleIfError: "1 hour"
        })
        yield* cache.get("never")
        assert.strictEqual((yield* cache.statistics).size, 0)
        yield* cache.get("a")
        upstream.fails = Effect.fail("no")
        yield* Effect.exit(cache.get("b"))
        yield* TestClock.adjust(5)
        assert.strictEqual(yield* cache.removeExpired, 1)
        yield* TestClock.adjust(25)
        assert.strictEqual(yield* Effect.flip(cache.get("a")), "no")
      })
    )
  })

  describe("maxWeight", () => {
    it.effect("makes room until what is kept weighs no more, and keeps nothing that is too heavy", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<string, string>({
          capacity: 4,
          timeToLive: "1 minute",
          maxWeight: 10,
          weigh: (exit) => (Exit.isSuccess(exit) ? exit.value.length : 0)
        })
        yield* cache.set("a", "aaa")
        yield* cache.set("b", "bbb")
        yield* cache.set("c", "ccc")
        assert.deepInclude(yield* cache.statistics, { size: 3, weight: 9, evictions: 0 })
        yield* cache.set("a", "a")
        assert.deepInclude(yield* cache.statistics, { size: 3, weight: 7, evictions: 0 })
        // b is the oldest, then c.
        yield* cache.set("d", "dddddd")
        assert.deepInclude(yield* cache.statistics, { size: 3, weight: 10, evictions: 1 })
        assert.deepStrictEqual(yield* cache.getIfPresent("b"), Option.none())
        yield* cache.set("c", "x".repeat(11))
        assert.deepInclude(yield* cache.statistics, { size: 2, weight: 7, evictions: 1 })
        assert.deepStrictEqual(yield* cache.getIfPresent("c"), Option.none())
        yield* cache.set("e", "x".repeat(10))
        assert.deepInclude(yield* cache.statistics, { size: 1, weight: 10, evictions: 3 })
        for (const key of ["v", "w", "x", "y", "z"]) yield* cache.set(key, "")
        assert.deepInclude(yield* cache.statistics, { size: 4, weight: 0, evictions: 5 })
        yield* cache.set("a", "a")
        yield* cache.invalidate("a")
        assert.deepInclude(yield* cache.statistics, { size: 3, weight: 0 })
        yield* cache.set("a", "a")
        yield* cache.invalidateAll
        assert.deepInclude(yield* cache.statistics, { size: 0, weight: 0 })
      })
    )

    it.effect.each([-1, 0.5, NaN, Infinity])("dies when weigh returns %s", (weight) =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<string, number>({ capacity: 1, timeToLive: 1, weigh: () => weight })
        const defect = new RangeError(`Cache: what weigh returns must be an integer >= 0, got ${weight}`)
        assert.deepStrictEqual(yield* Effect.exit(cache.set("a", 1)), Exit.die(defect))
        assert.deepStrictEqual(yield* Effect.exit(cache.execute({ key: "a" })(Effect.succeed(1))), Exit.die(defect))
        assert.strictEqual((yield* cache.statistics).size, 0)
      })
    )
  })

  describe("invalidateTag and invalidateWhere", () => {
    it.effect("forget what has the tag, or what the predicate is true of, and nothing else", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<number, number>({
          capacity: 10_000,
          timeToLive: "1 minute",
          tags: (exit, key) => [key % 2 === 0 ? "even" : "odd", `${Exit.isSuccess(exit) ? exit.value : "none"}`]
        })
        for (let key = 0; key < 5000; key++) yield* cache.set(key, key % 10)
        yield* cache.invalidateTag("unknown")
        assert.strictEqual((yield* cache.statistics).size, 5000)
        yield* cache.invalidateTag("7")
        assert.strictEqual((yield* cache.statistics).size, 4500)
        yield* cache.invalidateTag("even")
        assert.strictEqual((yield* cache.statistics).size, 2000)
        yield* cache.invalidateWhere((key, exit) => key < 1000 && Exit.isSuccess(exit) && exit.value === 1)
        assert.strictEqual((yield* cache.statistics).size, 1900)
        // A result that is replaced loses its tags.
        yield* cache.set(11, 2)
        yield* cache.invalidateTag("1")
        assert.deepStrictEqual(yield* cache.getIfPresent(11), Option.some(2))
        assert.deepInclude(yield* cache.statistics, { size: 1501, evictions: 0, expirations: 0 })
        yield* cache.invalidateAll
        yield* cache.set(11, 3)
        yield* cache.invalidateTag("2")
        assert.deepStrictEqual(yield* cache.getIfPresent(11), Option.some(3))
      })
    )

    it.effect("let other fibers run in between", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<number, number>({
          capacity: 10_000,
          timeToLive: "1 minute",
          tags: () => ["all"]
        })
        for (let key = 0; key < 5000; key++) yield* cache.set(key, key)
        for (const invalidate of [cache.invalidateWhere(() => false), cache.invalidateTag("all")]) {
          const fiber = yield* Effect.forkChild(invalidate, { startImmediately: true })
          let turns = 0
          while (fiber.pollUnsafe() === undefined) {
            turns++
            yield* Effect.yieldNow
          }
          assert.isAtLeast(turns, 4)
        }
        assert.strictEqual((yield* cache.statistics).size, 0)
      })
    )

    it.effect.each(["invalidateTag", "invalidateWhere"] as const)(
      "%s reaches a look-up under way: who asked before gets its result, who asks later does not, and it is not kept",
      (name) =>
        Effect.gen(function* () {
          const upstream = makeUpstream(10)
          const cache = yield* Cache.make({
            lookup: upstream.lookup,
            capacity: 10,
            timeToLive: 100,
            tags: (exit) => (Exit.isSuccess(exit) ? [`${exit.value}`] : [])
          })
          const invalidate = (value: number) =>
            name === "invalidateTag"
              ? cache.invalidateTag(`${value}`)
              : cache.invalidateWhere((_, exit) => Exit.isSuccess(exit) && exit.value === value)
          const before = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(5)
          yield* invalidate(1)
          const after = yield* Effect.all([Effect.forkChild(cache.get("a")), Effect.forkChild(cache.get("a"))])
          yield* TestClock.adjust(5)
          assert.strictEqual(yield* Fiber.join(before), 1)
          assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.none())
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(yield* Fiber.joinAll(after), [2, 2])
          assert.deepStrictEqual(upstream.asked, ["a", "a"])

          // Who waits for a result that was not meant waits for one run only, and it is kept.
          yield* cache.invalidate("a")
          const first = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(5)
          yield* invalidate(1)
          const second = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(5)
          assert.deepStrictEqual(yield* Fiber.joinAll([first, second]), [3, 3])
          assert.deepStrictEqual(yield* cache.getIfPresent("a"), Option.some(3))
        })
    )

    it.effect("reach who came later also when the look-up is cut off after that", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        const before = yield* Effect.forkChild(cache.get("a"))
        yield* TestClock.adjust(5)
        yield* cache.invalidateWhere(() => true)
        const after = yield* Effect.all([
          Effect.forkChild(cache.get("a")),
          Effect.forkChild(cache.getMany({ keys: ["a"], lookup: () => Effect.succeed(new Map([["a", 20]])) }))
        ])
        yield* Effect.yieldNow
        yield* cache.set("a", 10)
        yield* TestClock.adjust(5)
        assert.strictEqual(yield* Fiber.join(before), 1)
        assert.strictEqual(yield* Fiber.join(after[0]), 10)
        assert.deepStrictEqual(yield* Fiber.join(after[1]), new Map([["a", 10]]))
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 2, misses: 1 })
      })
    )

    it.effect("cut a look-up off during which more is invalidated than is worth remembering", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        for (const times of [100, 101]) {
          const caller = yield* Effect.forkChild(cache.get("a"))
          yield* TestClock.adjust(5)
          for (let time = 0; time < times; time++) yield* cache.invalidateWhere(() => false)
          yield* TestClock.adjust(5)
          yield* Fiber.join(caller)
          assert.strictEqual((yield* cache.statistics).size, times === 100 ? 1 : 0)
          yield* cache.invalidateAll
        }
      })
    )
  })

  describe("getMany", () => {
    it.effect("asks once for what is neither kept nor being looked up, in the order of the keys", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const asked: Array<ReadonlyArray<string>> = []
        const lookup = (keys: ReadonlyArray<string>) => {
          asked.push(keys)
          return Effect.delay(Effect.succeed(new Map([...keys, "other"].map((key) => [key, key.length]))), 10)
        }
        const joined: Array<string> = []
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          onJoin: (key) => Effect.sync(() => joined.push(key))
        })
        yield* cache.set("kept", 42)
        const alone = yield* Effect.forkChild(cache.get("alone"))
        yield* TestClock.adjust(5)
        const many = yield* Effect.forkChild(cache.getMany({ keys: ["bb", "kept", "alone", "ccc", "bb"], lookup }))
        yield* Effect.yieldNow
        const other = yield* Effect.forkChild(cache.get("ccc"))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(
          [...(yield* Fiber.join(many))],
          [
            ["bb", 2],
            ["kept", 42],
            ["alone", 1],
            ["ccc", 3]
          ]
        )
        assert.deepStrictEqual([yield* Fiber.join(alone), yield* Fiber.join(other)], [1, 3])
        assert.deepStrictEqual(asked, [["bb", "ccc"]])
        assert.deepStrictEqual(upstream.asked, ["alone"])
        assert.deepStrictEqual(joined, ["alone", "ccc"])
        assert.deepStrictEqual(yield* cache.getIfPresent("other"), Option.none())
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 4, hits: 1, misses: 3, joined: 2 })

        assert.deepStrictEqual(
          yield* cache.getMany({ keys: ["bb", "ccc"], lookup }),
          new Map([
            ["bb", 2],
            ["ccc", 3]
          ])
        )
        assert.deepStrictEqual(yield* cache.getMany({ keys: [], lookup }), new Map())
        assert.strictEqual(asked.length, 1)
      })
    )

    it.effect("leaves out what the look-up leaves out; who waits for such a key looks it up", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        const lookup = () => Effect.delay(Effect.succeed(new Map([["a", 10]])), 10)
        const many = yield* Effect.all([
          Effect.forkChild(cache.getMany({ keys: ["a", "b"], lookup })),
          Effect.forkChild(cache.getMany({ keys: ["b", "a"], lookup }))
        ])
        yield* Effect.yieldNow
        const single = yield* Effect.forkChild(Effect.forEach(["a", "b"], cache.get, { concurrency: 2 }))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(yield* Fiber.joinAll(many), [new Map([["a", 10]]), new Map([["a", 10]])])
        assert.deepStrictEqual(yield* Fiber.join(single), [10, 1])
        assert.deepStrictEqual(upstream.asked, ["b"])
      })
    )

    it.effect(
      "answers who asked before an invalidation with what it found, and who asked later with what is true",
      () =>
        Effect.gen(function* () {
          const upstream = makeUpstream()
          const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
          let answer = 10
          const many = cache.getMany({
            keys: ["a", "b"],
            lookup: (keys) => Effect.delay(Effect.succeed(new Map(keys.map((key) => [key, answer++]))), 10)
          })
          const before = yield* Effect.all([Effect.forkChild(many), Effect.forkChild(cache.get("a"))])
          yield* TestClock.adjust(5)
          yield* cache.invalidateWhere((key) => key === "a")
          const after = yield* Effect.all([Effect.forkChild(many), Effect.forkChild(cache.get("b"))])
          yield* TestClock.adjust(5)
          assert.deepStrictEqual(Array.from(yield* Fiber.join(before[0])), [
            ["a", 10],
            ["b", 11]
          ])
          assert.strictEqual(yield* Fiber.join(before[1]), 10)
          assert.strictEqual(yield* Fiber.join(after[1]), 11)
          yield* TestClock.adjust(10)
          assert.deepStrictEqual(Array.from(yield* Fiber.join(after[0])), [
            ["a", 12],
            ["b", 11]
          ])
          assert.deepStrictEqual(upstream.asked, [])
          assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 2, misses: 3, joined: 3 })
        })
    )

    it.effect("fails as the look-up fails, keeps as timeToLive says, and lets stale values stand in", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100, staleIfError: 50 })
        const fails = { lookup: () => Effect.fail("no"), timeToLive: 10 }
        yield* Effect.forEach(["a", "b"], (key) => cache.set(key, 0))
        assert.strictEqual(yield* Effect.flip(cache.getMany({ ...fails, keys: ["a", "c"] })), "no")
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(
          yield* cache.getMany({ ...fails, keys: ["a", "b"] }),
          new Map([
            ["a", 0],
            ["b", 0]
          ])
        )
        assert.strictEqual(yield* Effect.flip(cache.getMany({ ...fails, keys: ["a", "b", "c"] })), "no")
        const defect = yield* Effect.exit(
          cache.getMany({
            keys: ["d"],
            lookup: (): Effect.Effect<ReadonlyMap<string, number>> => {
              throw new Error("broken")
            }
          })
        )
        assert.deepStrictEqual(defect, Exit.die(new Error("broken")))
        assert.deepInclude(yield* cache.statistics, { stale: 4, pending: 0 })
      })
    )

    it.effect("refreshes what is due in one run in the background", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const asked: Array<ReadonlyArray<string>> = []
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 10,
          timeToLive: 100,
          refresh: { staleWhileRevalidate: 50, maxConcurrent: 1 }
        })
        const many = cache.getMany({
          keys: ["a", "b", "c"],
          lookup: (keys) => {
            asked.push(keys)
            return Effect.succeed(new Map(keys.map((key) => [key, asked.length])))
          }
        })
        yield* Effect.forEach(["a", "b"], (key) => cache.set(key, 0))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual([...(yield* many).values()], [0, 0, 1])
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(asked, [["c"], ["a", "b"]])
        assert.deepStrictEqual([...(yield* many).values()], [2, 2, 1])
        assert.deepInclude(yield* cache.statistics, { refreshes: 2, stale: 2, pending: 0 })
      })
    )

    it.effect("goes on while anyone wants one of its keys, and stops when nobody does", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const ended: Array<string> = []
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        const many = cache.getMany({
          keys: ["a", "b", "c"],
          lookup: (keys) =>
            Effect.succeed(new Map(keys.map((key) => [key, 7]))).pipe(
              Effect.delay(10),
              Effect.onExit((exit) => Effect.sync(() => ended.push(Exit.isSuccess(exit) ? "finished" : "stopped")))
            )
        })
        const first = yield* Effect.forkChild(many)
        yield* TestClock.adjust(1)
        const second = yield* Effect.forkChild(cache.get("b"))
        yield* TestClock.adjust(1)
        yield* Fiber.interrupt(first)
        assert.deepStrictEqual(ended, [])
        const third = yield* Effect.forkChild(cache.get("c"))
        yield* TestClock.adjust(8)
        assert.deepStrictEqual(yield* Fiber.joinAll([second, third]), [7, 7])
        assert.strictEqual((yield* cache.statistics).size, 3)

        yield* cache.invalidateAll
        const callers = yield* Effect.all([Effect.forkChild(many), Effect.forkChild(cache.get("b"))])
        yield* TestClock.adjust(1)
        yield* Fiber.interruptAll(callers)
        assert.deepStrictEqual(ended, ["finished", "stopped"])
        assert.deepInclude(yield* cache.statistics, { size: 0, pending: 0 })
        assert.strictEqual(yield* cache.get("b"), 1)
      })
    )

    it.effect("set during it wins for its key only", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        const many = yield* Effect.forkChild(
          cache.getMany({
            keys: ["a", "b"],
            lookup: () =>
              Effect.delay(
                Effect.succeed(
                  new Map([
                    ["a", 7],
                    ["b", 7]
                  ])
                ),
                10
              )
          })
        )
        yield* TestClock.adjust(5)
        yield* cache.set("a", 1)
        yield* TestClock.adjust(5)
        assert.deepStrictEqual(
          yield* Fiber.join(many),
          new Map([
            ["a", 7],
            ["b", 7]
          ])
        )
        assert.deepStrictEqual(yield* Effect.forEach(["a", "b"], cache.getIfPresent), [Option.some(1), Option.some(7)])
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        let open = 0
        const cache = yield* Cache.make({ lookup: (key: string) => Effect.succeed(key), capacity: 10, timeToLive: 100 })
        const tried = yield* interruptEverywhere(
          Effect.forEach(
            [
              ["a", "b"],
              ["b", "c"],
              ["c", "d", "a"]
            ],
            (keys) =>
              cache.getMany({
                keys,
                lookup: (asked) =>
                  Effect.acquireUseRelease(
                    Effect.sync(() => open++),
                    () => Effect.as(Effect.yieldNow, new Map(asked.map((key) => [key, key]))),
                    () => Effect.sync(() => open--)
                  )
              }),
            { concurrency: "unbounded" }
          ),
          Effect.gen(function* () {
            assert.strictEqual(open, 0)
            assert.strictEqual((yield* cache.statistics).pending, 0)
            yield* cache.invalidateAll
          })
        )
        assert.isAbove(tried, 10)
      })
    )
  })

  describe("options of a call", () => {
    it.effect("skipCache neither reads, shares, keeps nor counts", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        const skipCache = true
        assert.strictEqual(yield* cache.getWith({ key: "a", skipCache }), 1)
        assert.strictEqual(yield* cache.get("a"), 2)
        assert.strictEqual(yield* cache.getWith({ key: "a", skipCache }), 3)
        assert.strictEqual(yield* cache.execute({ key: "a", skipCache })(Effect.succeed(50)), 50)
        const lookup = (keys: ReadonlyArray<string>) =>
          Effect.succeed(new Map([...keys, "other"].map((key) => [key, keys.length])))
        assert.deepStrictEqual(
          yield* cache.getMany({ keys: ["a", "b", "a"], lookup, skipCache }),
          new Map([
            ["a", 2],
            ["b", 2]
          ])
        )
        assert.deepStrictEqual(
          yield* cache.getMany({ keys: [], lookup: () => Effect.die("asked for none"), skipCache }),
          new Map()
        )
        assert.deepStrictEqual(
          yield* cache.getMany({ keys: ["a", "b"], lookup: () => Effect.succeed(new Map([["b", 0]])), skipCache }),
          new Map([["b", 0]])
        )
        assert.strictEqual(yield* cache.getWith({ key: "a", skipCache: false }), 2)
        assert.deepStrictEqual(yield* cache.statistics, { ...none, size: 1, hits: 1, misses: 1 })
      })
    )

    it.effect("timeToLive says how long the result of this call, or of this set, is kept", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream()
        const cache = yield* Cache.make({ lookup: upstream.lookup, capacity: 10, timeToLive: 100 })
        yield* cache.getWith({ key: "short", timeToLive: 10 })
        yield* cache.getWith({ key: "never", timeToLive: 0 })
        yield* cache.execute({ key: "executed", timeToLive: () => 10 })(Effect.succeed(0))
        yield* cache.getMany({ keys: ["many"], timeToLive: 10, lookup: () => Effect.succeed(new Map([["many", 0]])) })
        yield* cache.set("set", 0, { timeToLive: 10 })
        yield* cache.get("long")
        upstream.fails = Effect.fail("no")
        yield* Effect.exit(cache.getWith({ key: "failed", timeToLive: (exit) => (Exit.isFailure(exit) ? 10 : 0) }))
        assert.strictEqual((yield* cache.statistics).size, 6)
        yield* TestClock.adjust(9)
        assert.strictEqual(yield* cache.removeExpired, 0)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* cache.removeExpired, 5)
        assert.isTrue(Option.isSome(yield* cache.getIfPresent("long")))
      })
    )
  })

  describe("make", () => {
    it.effect.each<
      readonly [Partial<Cache.Options<string, number, never> & Cache.RefreshOption<string, never>>, string]
    >([
      ...[0, -1, 1.5, NaN, Infinity].map(
        (capacity) => [{ capacity }, `capacity must be an integer >= 1, got ${capacity}`] as const
      ),
      [{ maxWeight: 0 }, "maxWeight must be an integer >= 1, got 0"],
      [{ jitter: 1 }, "jitter must be at least 0 and under 1, got 1"],
      [{ jitter: -0.1 }, "jitter must be at least 0 and under 1, got -0.1"],
      [{ jitter: NaN }, "jitter must be at least 0 and under 1, got NaN"],
      [{ staleIfError: -1 }, "staleIfError must not be negative, got -1ms"],
      [{ refresh: { staleWhileRevalidate: -1 } }, "refresh.staleWhileRevalidate must not be negative, got -1ms"],
      [{ refresh: { ahead: 1 } }, "refresh.ahead must be at least 0 and under 1, got 1"],
      [{ refresh: { maxConcurrent: 0 } }, "refresh.maxConcurrent must be an integer >= 1, got 0"]
    ])("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Cache.make({ capacity: 1, timeToLive: 1, refresh: undefined, ...options }))
        assert.deepStrictEqual(exit, Exit.die(new RangeError(`Cache: ${message}`)))
      })
    )

    it.effect("has the defaults of its documentation", () =>
      Effect.gen(function* () {
        const upstream = makeUpstream(10)
        const cache = yield* Cache.make({
          lookup: upstream.lookup,
          capacity: 100,
          timeToLive: 100,
          refresh: { ahead: 0.5 }
        })
        const keys = Array.from({ length: 20 }, (_, n) => `${n}`)
        yield* Effect.forEach(keys, (key) => cache.set(key, 0))
        yield* TestClock.adjust(99)
        yield* Effect.forEach(keys, cache.get)
        assert.deepInclude(yield* cache.statistics, { size: 20, weight: 0, refreshes: 16, stale: 0 })

        // Neither ahead nor stale values by themselves.
        const plain = yield* Cache.make({ lookup: upstream.lookup, capacity: 1, timeToLive: 100, refresh: {} })
        yield* plain.set("a", 0)
        yield* TestClock.adjust(99)
        yield* plain.get("a")
        yield* TestClock.adjust(1)
        upstream.fails = Effect.fail("no")
        const caller = yield* Effect.forkChild(Effect.exit(plain.get("a")))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(yield* Fiber.join(caller), Exit.fail("no"))
        assert.deepInclude(yield* plain.statistics, { refreshes: 0, stale: 0, expirations: 1 })
      })
    )

    it("asks for a scope exactly when something may run in the background", () => {
      const Upstream = Context.Service<"up">("Upstream")
      const lookup = (id: number) => (id === 0 ? Effect.fail("E" as const) : Effect.as(Upstream, "value"))
      const options = { capacity: 1, timeToLive: 1 }
      expectTypeOf(Cache.make<string, number>(options)).toEqualTypeOf<Effect.Effect<Cache.Cache<string, number>>>()
      expectTypeOf(Cache.make<string, number, "E">({ ...options, refresh: { ahead: 0.1 } })).toEqualTypeOf<
        Effect.Effect<Cache.Cache<string, number, "E">, never, Scope.Scope>
      >()
      expectTypeOf(Cache.make({ ...options, lookup })).toEqualTypeOf<
        Effect.Effect<Cache.LookupCache<number, string, "E", "up">>
      >()
      const refreshing = Cache.make({
        ...options,
        lookup,
        staleOn: (cause, key) => {
          expectTypeOf(cause).toEqualTypeOf<Cause.Cause<"E">>()
          expectTypeOf(key).toEqualTypeOf<number>()
          return true
        },
        refresh: {
          ahead: 0.1,
          onFailure: (keys, cause) => {
            expectTypeOf(keys).toEqualTypeOf<ReadonlyArray<number>>()
            expectTypeOf(cause).toEqualTypeOf<Cause.Cause<"E">>()
            return Effect.void
          }
        }
      })
      expectTypeOf(refreshing).toEqualTypeOf<
        Effect.Effect<Cache.LookupCache<number, string, "E", "up">, never, Scope.Scope>
      >()
      const configured: Cache.RefreshOptions<string, never> | undefined = undefined
      expectTypeOf(Cache.make<string, number>({ ...options, refresh: configured })).toEqualTypeOf<
        Effect.Effect<Cache.Cache<string, number>, never, Scope.Scope>
      >()
      const many = Effect.flatMap(Cache.make<string, number, "E">(options), (cache) =>
        cache.getMany({ keys: ["a"], lookup: () => Effect.as(Upstream, new Map([["a", 1]])) })
      )
      expectTypeOf(many).toEqualTypeOf<Effect.Effect<ReadonlyMap<string, number>, "E", "up">>()
    })
  })

  describe("against a model", () => {
    for (const [seed, capacity] of [1, 2, 3, 5, 8, 20].entries()) {
      it.effect(`does what an array of entries with times does (seed ${seed}, room for ${capacity})`, () =>
        Effect.gen(function* () {
          const random = randomOf(seed)
          let answers = 0
          let misses = 0
          const rules: Rules = {
            ...plainRules,
            capacity,
            timeToLive: (exit, key) =>
              Exit.isFailure(exit) ? (key % 2 === 0 ? 0 : 7) : key % 5 === 4 ? Infinity : [0, 5, 20, 60][key % 5]!
          }
          const { timeToLive } = rules
          const model = new Model(rules)
          const source = (key: number) =>
            ++answers % 4 === 0 ? Exit.fail(`no ${key} ${answers}`) : Exit.succeed(answers)
          const cache = yield* Cache.make({
            lookup: (key: number) => Effect.suspend(() => source(key)),
            capacity,
            timeToLive
          })
          for (let step = 0; step < 3000; step++) {
            const key = Math.floor(random() * 15)
            const action = random()
            if (action < 0.6) {
              const asked = answers
              const found = yield* Effect.exit(cache.get(key))
              assert.deepStrictEqual(
                found,
                model.get(key, () => found)
              )
              assert.strictEqual(answers - asked, model.counts.misses - misses)
              misses = model.counts.misses
            } else if (action < 0.7) {
              model.sweep(2)
              model.put(key, Exit.succeed(step))
              yield* cache.set(key, step)
            } else if (action < 0.75) {
              model.remove(key)
              yield* cache.invalidate(key)
            } else if (action < 0.85) {
              const exit = model.find(key)?.exit
              const present = exit !== undefined && Exit.isSuccess(exit) ? Option.some(exit.value) : Option.none()
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
            assert.deepStrictEqual(yield* cache.statistics, { ...none, ...model.statistics }, `step ${step}`)
          }
        })
      )
    }

    for (const [seed, capacity] of [1, 2, 3, 5, 8, 20].entries()) {
      it.effect(`follows every rule at once (seed ${seed}, room for ${capacity})`, () =>
        Effect.gen(function* () {
          const random = randomOf(seed + 100)
          const rules: Rules = {
            capacity,
            timeToLive: (exit, key) =>
              Exit.isFailure(exit) ? (key % 3 === 0 ? 5 : 0) : key % 5 === 4 ? Infinity : [0, 10, 20, 40][key % 4]!,
            idleTimeToLive: (_, key) => (key % 4 === 3 ? 12 : Infinity),
            maxWeight: capacity + 1,
            weigh: (exit, key) => (Exit.isFailure(exit) ? 0 : key % 3),
            tags: (exit, key) => (Exit.isFailure(exit) ? [] : [`${key % 3}`, "success"]),
            staleIfError: 15,
            staleOn: (_, key) => key !== 5,
            staleWhileRevalidate: 8,
            ahead: 0.25
          }
          // The same source for both: every third answer for a key, and every fourth for several, is a failure.
          const source = () => {
            let asked = 0
            return {
              one: (key: number): Exit.Exit<number, string> =>
                ++asked % 3 === 0 ? Exit.fail(`no ${key} ${asked}`) : Exit.succeed(asked),
              many: (keys: ReadonlyArray<number>): Exit.Exit<ReadonlyMap<number, number>, string> =>
                ++asked % 4 === 0
                  ? Exit.fail(`no ${asked}`)
                  : Exit.succeed(
                      new Map(keys.flatMap((key) => ((key + asked) % 5 === 0 ? [] : [[key, asked * 100 + key]])))
                    )
            }
          }
          const real = source()
          const model = new Model(rules)
          const modelSource = source()
          const cache = yield* Cache.make({
            ...rules,
            lookup: (key: number) => Effect.suspend(() => real.one(key)),
            refresh: { staleWhileRevalidate: rules.staleWhileRevalidate, ahead: rules.ahead }
          })
          for (let step = 0; step < 4000; step++) {
            const key = Math.floor(random() * 15)
            const action = random()
            if (action < 0.5) {
              assert.deepStrictEqual(
                yield* Effect.exit(cache.get(key)),
                model.get(key, modelSource.one),
                `step ${step}`
              )
              // Whatever it started in the background comes to its end.
              yield* TestClock.adjust(0)
              model.refresh((keys) => Exit.map(modelSource.one(keys[0]!), (value) => new Map([[keys[0]!, value]])))
            } else if (action < 0.6) {
              const keys = [key, (key + 3) % 15, (key + 7) % 15, key]
              const found = yield* Effect.exit(
                cache.getMany({ keys, lookup: (missing) => Effect.suspend(() => real.many(missing)) })
              )
              assert.deepStrictEqual(
                Exit.map(found, (answers) => Array.from(answers)),
                model.getMany(keys, modelSource.many),
                `step ${step}`
              )
              yield* TestClock.adjust(0)
              model.refresh(modelSource.many)
            } else if (action < 0.68) {
              model.sweep(2)
              model.put(key, Exit.succeed(step))
              yield* cache.set(key, step)
            } else if (action < 0.72) {
              model.remove(key)
              yield* cache.invalidate(key)
            } else if (action < 0.73) {
              model.removeWhere((entry) => rules.tags(entry.exit, entry.key).includes("1"))
              yield* cache.invalidateTag("1")
            } else if (action < 0.74) {
              model.removeWhere((entry) => entry.key > 10 && Exit.isFailure(entry.exit))
              yield* cache.invalidateWhere((key, exit) => key > 10 && Exit.isFailure(exit))
            } else if (action < 0.8) {
              const kept = model.find(key)
              const present =
                kept !== undefined && model.now < kept.freshUntil && Exit.isSuccess(kept.exit)
                  ? Option.some(kept.exit.value)
                  : Option.none()
              assert.deepStrictEqual(yield* cache.getIfPresent(key), present)
            } else if (action < 0.81) {
              assert.strictEqual(yield* cache.removeExpired, model.sweep(model.entries.length))
            } else {
              const millis = Math.floor(random() * 10)
              model.now += millis
              yield* TestClock.adjust(millis)
            }
            assert.deepStrictEqual(yield* cache.statistics, { ...none, ...model.statistics }, `step ${step}`)
          }
          if (capacity !== 8) return
          const { evictions, expirations, refreshFailures, refreshes, stale } = model.counts
          for (const count of [evictions, expirations, refreshFailures, refreshes, stale]) assert.isAbove(count, 20)
        })
      )
    }

    for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
      it.effect(`never answers with what was replaced before the call, and loses no caller (seed ${seed})`, () =>
        Effect.gen(function* () {
          const random = randomOf(seed)
          const keys = 4
          const truth = Array.from({ length: keys }, () => 0)
          const running = Array.from({ length: keys }, () => new Set<number>())
          const ends: Array<Exit.Exit<unknown, string>> = []
          const scope = yield* Scope.make()
          const lookup = (asked: ReadonlyArray<number>) =>
            Effect.suspend(() => {
              const versions = asked.map((key): [number, number] => [key, truth[key]!])
              // A run is shared until something newer is known: there are never two of one version.
              for (const [key, version] of versions) {
                assert.isFalse(running[key]!.has(version))
                running[key]!.add(version)
              }
              const fails = random() < 0.2
              return Effect.sleep(Math.floor(random() * 20)).pipe(
                Effect.andThen(fails ? Effect.fail("no") : Effect.succeed(new Map(versions))),
                Effect.ensuring(
                  Effect.sync(() => {
                    for (const [key, version] of versions) running[key]!.delete(version)
                  })
                )
              )
            })
          // Every other world has all that goes on in the background.
          const isPlain = seed % 2 === 0
          const cache = yield* Cache.make({
            lookup: (key: number) => Effect.map(lookup([key]), (found) => found.get(key)!),
            capacity: 3,
            timeToLive: 15,
            tags: (_, key) => [`${key % 2}`],
            staleIfError: isPlain ? 0 : 20,
            refresh: isPlain ? undefined : { staleWhileRevalidate: 10, ahead: 0.3, maxConcurrent: 2 }
          }).pipe(Scope.provide(scope))
          const fibers: Array<Fiber.Fiber<unknown, string>> = []
          let calls = 0
          const start = Effect.fnUntraced(function* (
            asked: ReadonlyArray<number>,
            call: Effect.Effect<ReadonlyMap<number, number>, string>
          ) {
            const atLeast = [...truth]
            calls += asked.length
            const checked = call.pipe(
              Effect.tap((found) =>
                Effect.sync(() => {
                  assert.deepStrictEqual([...found.keys()], asked)
                  for (const [key, value] of found) assert.isAtLeast(value, atLeast[key]!)
                })
              ),
              Effect.onExit((exit) => Effect.sync(() => ends.push(exit)))
            )
            fibers.push(yield* Effect.forkChild(checked, { startImmediately: true }))
          })
          for (let step = 0; step < 2000; step++) {
            const key = Math.floor(random() * keys)
            const action = random()
            if (action < 0.4) {
              yield* start(
                [key],
                Effect.map(cache.get(key), (value) => new Map([[key, value]]))
              )
            } else if (action < 0.5) {
              const asked = [key, (key + 1) % keys, (key + 2) % keys]
              yield* start(asked, cache.getMany({ keys: asked, lookup }))
            } else if (action < 0.58) {
              yield* cache.set(key, ++truth[key]!)
            } else if (action < 0.61) {
              truth[key]!++
              yield* cache.invalidate(key)
            } else if (action < 0.63) {
              for (let other = key % 2; other < keys; other += 2) truth[other]!++
              yield* cache.invalidateTag(`${key % 2}`)
            } else if (action < 0.65) {
              for (let other = key; other < keys; other++) truth[other]!++
              yield* cache.invalidateWhere((other) => other >= key)
            } else if (action < 0.8 && fibers.length > 0) {
              yield* Fiber.interrupt(fibers[Math.floor(random() * fibers.length)]!)
            } else {
              yield* TestClock.adjust(Math.floor(random() * 5))
            }
            assert.isAtMost((yield* cache.statistics).size, 3)
          }
          yield* Scope.close(scope, Exit.void)
          yield* TestClock.adjust(100)
          assert.strictEqual(ends.length, fibers.length)
          const { hits, joined, misses, pending, refreshes, stale } = yield* cache.statistics
          assert.strictEqual(pending, 0)
          assert.isTrue(running.every((versions) => versions.size === 0))
          assert.strictEqual(hits + joined + misses, calls)
          assert.strictEqual(refreshes > 20 && stale > 20, !isPlain)
          assert.isTrue(ends.some(Exit.isSuccess) && ends.some(Exit.hasInterrupts) && ends.some(Exit.hasFails))
          for (const end of ends)
            assert.isFalse(Exit.hasDies(end), String(Exit.isFailure(end) && Cause.pretty(end.cause)))
        })
      )
    }
  })
})

interface Rules {
  readonly capacity: number
  readonly timeToLive: (exit: Exit.Exit<number, string>, key: number) => number
  readonly idleTimeToLive: (exit: Exit.Exit<number, string>, key: number) => number
  readonly maxWeight: number
  readonly weigh: (exit: Exit.Exit<number, string>, key: number) => number
  readonly tags: (exit: Exit.Exit<number, string>, key: number) => ReadonlyArray<string>
  readonly staleIfError: number
  readonly staleOn: (cause: Cause.Cause<string>, key: number) => boolean
  readonly staleWhileRevalidate: number
  readonly ahead: number
}

const plainRules: Omit<Rules, "capacity" | "timeToLive"> = {
  idleTimeToLive: () => Infinity,
  maxWeight: Infinity,
  weigh: () => 0,
  tags: () => [],
  staleIfError: 0,
  staleOn: () => true,
  staleWhileRevalidate: 0,
  ahead: 0
}

interface ModelEntry {
  readonly key: number
  readonly exit: Exit.Exit<number, string>
  readonly freshUntil: number
  readonly uselessFrom: number
  readonly refreshFrom: number
  readonly idle: number
  readonly weight: number
  usedAt: number
  retryFrom: number
}

// What the documentation says, with an array in order of use and time as a number.
class Model {
  entries: Array<ModelEntry> = []
  now = 0
  readonly counts = { hits: 0, misses: 0, stale: 0, refreshes: 0, refreshFailures: 0, evictions: 0, expirations: 0 }
  // The keys that the last call found due for a refresh.
  due: Array<number> = []
  // The key the sweep looks at next; from the oldest on when there is none.
  next: number | undefined
  readonly rules: Rules

  constructor(rules: Rules) {
    this.rules = rules
  }

  get weight() {
    return this.entries.reduce((sum, entry) => sum + entry.weight, 0)
  }

  get statistics() {
    return { ...this.counts, size: this.entries.length, weight: this.weight }
  }

  get(key: number, source: (key: number) => Exit.Exit<number, string>) {
    const kept = this.use(key)
    if (kept !== undefined) return kept
    this.sweep(2)
    this.counts.misses++
    const exit = source(key)
    const answer = this.land(key, exit)
    if (answer !== exit) this.counts.stale++
    return answer
  }

  getMany(
    keys: ReadonlyArray<number>,
    source: (keys: ReadonlyArray<number>) => Exit.Exit<ReadonlyMap<number, number>, string>
  ): Exit.Exit<ReadonlyArray<[number, number]>, string> {
    const answers = new Map([...new Set(keys)].map((key) => [key, this.use(key)]))
    const missing = [...answers].flatMap(([key, answer]) => (answer === undefined ? [key] : []))
    this.sweep(2 * missing.length)
    this.counts.misses += missing.length
    // They are used again when the look-up starts.
    for (const key of missing) this.touch(key)
    const stale = new Set<number>()
    if (missing.length > 0) this.landAll(missing, source(missing), answers, stale)
    const found: Array<[number, number]> = []
    for (const [key, answer] of answers) {
      if (answer !== undefined && Exit.isFailure(answer)) return Exit.failCause(answer.cause)
      if (stale.has(key)) this.counts.stale++
      if (answer !== undefined) found.push([key, answer.value])
    }
    return Exit.succeed(found)
  }

  // Runs what the last call has started in the background.
  refresh(source: (keys: ReadonlyArray<number>) => Exit.Exit<ReadonlyMap<number, number>, string>) {
    const { due } = this
    this.due = []
    if (due.length === 0) return
    const exit = source(due)
    this.counts.refreshes += due.length
    if (Exit.isFailure(exit)) this.counts.refreshFailures += due.length
    this.landAll(due, exit)
  }

  // What is kept answers the call, unless it is too old for that.
  use(key: number) {
    const entry = this.find(key)
    if (entry === undefined) return undefined
    this.touch(key)
    const staleFor = this.now - entry.freshUntil
    const { staleIfError, staleWhileRevalidate } = this.rules
    const paused = this.now < entry.retryFrom
    if (staleFor >= 0 && staleFor >= staleWhileRevalidate && !(paused && staleFor < staleIfError)) return undefined
    this.counts.hits++
    if (staleFor >= 0) this.counts.stale++
    if (!paused && this.now >= entry.refreshFrom) this.due.push(key)
    return entry.exit
  }

  touch(key: number) {
    const entry = this.find(key)
    if (entry === undefined) return
    entry.usedAt = this.now
    if (entry === this.entries.at(-1)) return
    this.remove(key)
    this.entries.push(entry)
  }

  find(key: number) {
    const entry = this.entries.find((entry) => entry.key === key)
    if (entry === undefined || !this.isUseless(entry)) return entry
    this.counts.expirations++
    this.remove(key)
    return undefined
  }

  landAll(
    keys: ReadonlyArray<number>,
    exit: Exit.Exit<ReadonlyMap<number, number>, string>,
    answers = new Map<number, Exit.Exit<number, string> | undefined>(),
    stale = new Set<number>()
  ) {
    for (const key of keys) {
      const value = Exit.isSuccess(exit) ? exit.value.get(key) : undefined
      if (Exit.isSuccess(exit) && value === undefined) continue
      const found = Exit.map(exit, () => value!)
      const answer = this.land(key, found)
      answers.set(key, answer)
      if (answer !== found) stale.add(key)
    }
  }

  // Keeps what was found, unless a stale value stands in for it.
  land(key: number, exit: Exit.Exit<number, string>): Exit.Exit<number, string> {
    const entry = Exit.isFailure(exit) ? this.find(key) : undefined
    if (Exit.isSuccess(exit) || !entry || Exit.isFailure(entry.exit) || !this.rules.staleOn(exit.cause, key)) {
      this.put(key, exit)
      return exit
    }
    entry.retryFrom = this.now + this.rules.timeToLive(exit, key)
    return this.now - entry.freshUntil < this.rules.staleIfError ? entry.exit : exit
  }

  put(key: number, exit: Exit.Exit<number, string>) {
    const { ahead, capacity, maxWeight, staleIfError, staleWhileRevalidate } = this.rules
    this.remove(key)
    const millis = this.rules.timeToLive(exit, key)
    const weight = this.rules.weigh(exit, key)
    if (millis <= 0 || weight > maxWeight) return
    while (this.entries.length === capacity || this.weight + weight > maxWeight) {
      const oldest = this.entries[0]!
      if (this.isUseless(oldest)) this.counts.expirations++
      else this.counts.evictions++
      this.remove(oldest.key)
    }
    const freshUntil = this.now + millis
    const isRefreshed = Exit.isSuccess(exit) && (ahead > 0 || staleWhileRevalidate > 0)
    this.entries.push({
      key,
      exit,
      freshUntil,
      uselessFrom: freshUntil + (Exit.isSuccess(exit) ? Math.max(staleIfError, staleWhileRevalidate) : 0),
      refreshFrom: isRefreshed ? this.now + millis * (1 - ahead) : Infinity,
      idle: this.rules.idleTimeToLive(exit, key),
      weight,
      usedAt: this.now,
      retryFrom: 0
    })
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
      if (this.isUseless(entry)) {
        freed++
        this.remove(entry.key)
      }
    }
    this.counts.expirations += freed
    return freed
  }

  remove(key: number) {
    const at = this.entries.findIndex((entry) => entry.key === key)
    if (at === -1) return
    if (this.next === key) this.next = this.entries[at + 1]?.key
    this.entries.splice(at, 1)
  }

  removeWhere(predicate: (entry: ModelEntry) => boolean) {
    for (const entry of this.entries.filter(predicate)) this.remove(entry.key)
  }

  clear() {
    this.entries = []
    this.next = undefined
  }

  private isUseless(entry: ModelEntry) {
    return this.now >= entry.uselessFrom || this.now >= entry.usedAt + entry.idle
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
