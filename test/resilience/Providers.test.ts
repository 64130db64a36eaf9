import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { ConfigProvider, Context, Data, Duration, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import { Fallback, Profile, Providers } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { anyInput, numbersFrom } from "../support/profiles.ts"

class Unavailable extends Data.TaggedError("Unavailable")<{}> {}

type Name = "Name"
const Name = Context.Service<Name, string>("test/Name")

// Every part that a profile can have beside an adaptive limit.
const full = {
  deadline: "1 minute",
  timeout: { ceiling: "5 seconds" },
  cache: { timeToLive: "1 minute", refresh: { staleWhileRevalidate: "1 hour" } },
  bulkhead: { maxConcurrent: 10, maxQueued: 100 },
  retry: { schedule: "delays", delays: [10, 10], budget: {} },
  hedge: { delay: "1 second", budget: { share: 0.5 } },
  circuitBreaker: { failures: 100 },
  adaptiveThrottle: { maxRefused: 0.1 },
  rateLimiter: { capacity: 1000, refillPerSecond: 1 }
} satisfies Profile.Input

const counting = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const calls = { count: 0 }
  return { calls, call: Effect.suspend(() => (calls.count++, self)) }
}

const make = (profiles: Providers.Profiles) => Providers.make({ profiles })

describe("Providers", () => {
  describe("get", () => {
    it.effect("finds a provider by name, or fails with the name", () =>
      Effect.gen(function* () {
        const providers = yield* make({ zephyr: Profile.zephyr, __proto__2: {} })
        const zephyr = yield* providers.get("zephyr")
        assert.strictEqual(zephyr.name, "zephyr")
        assert.deepStrictEqual(yield* zephyr.profile, Profile.zephyr)
        for (const name of ["qtest", "", "toString", "__proto__"]) {
          const failure = yield* Effect.flip(providers.get(name))
          assert.deepStrictEqual([failure._tag, failure.name], ["UnknownProvider", name])
        }
        assert.strictEqual((yield* Effect.flip(providers.get("x"))).message, 'There is no provider "x"')
      })
    )

    it.effect("gives what follows every reload, also out of sight and back", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: { timeout: 100 } })
        const a = yield* providers.get("a")
        const slow = Effect.as(Effect.sleep(200), "ok").pipe(a.execute())
        const end = Effect.gen(function* () {
          const fiber = yield* Effect.forkChild(Effect.result(slow))
          yield* TestClock.adjust("1 second")
          const result = yield* Fiber.join(fiber)
          return result._tag === "Success" ? result.success : result.failure._tag
        })
        assert.strictEqual(yield* end, "TimedOut")
        yield* providers.reload({ a: { timeout: 300 } })
        assert.strictEqual(yield* end, "ok")
        yield* providers.reload({})
        assert.strictEqual(yield* end, "UnknownProvider")
        assert.strictEqual((yield* Effect.flip(a.status))._tag, "UnknownProvider")
        yield* providers.reload({ a: {} })
        assert.strictEqual(yield* end, "ok")
      })
    )
  })

  describe("execute", () => {
    it.effect("makes the call under the profile, through the cache with a key, and answers with the fallback", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: { ...full, hedge: { delay: "Infinity" }, retry: { times: 0 } } })
        const a = yield* providers.get("a")
        const { call, calls } = counting(Effect.succeed("ok"))
        for (let time = 0; time < 3; time++) yield* call.pipe(a.execute({ key: "k" }))
        assert.strictEqual(calls.count, 1)
        yield* a.invalidate("k")
        yield* call.pipe(a.execute({ key: "k" }))
        yield* call.pipe(a.execute({ key: "k", skipCache: true }))
        yield* call.pipe(a.execute())
        assert.strictEqual(calls.count, 4)
        const fallback = Fallback.value("usual", { errors: Fallback.tags("Unavailable", "UnknownProvider") })
        assert.strictEqual(yield* new Unavailable().pipe(a.execute({ fallback })), "usual")
        yield* providers.reload({})
        assert.strictEqual(yield* call.pipe(a.execute({ key: "k", fallback })), "usual")
        assert.strictEqual(calls.count, 4)
      })
    )

    it("has exact types", () => {
      const use = (a: Providers.Provider, self: Effect.Effect<number, Unavailable, "R">) => {
        const some = Fallback.value(null, { errors: Fallback.tags("Unavailable", "CircuitOpen", "UnknownProvider") })
        const standby = Fallback.make({ orElse: () => Effect.andThen(Name, new Unavailable()) })
        const narrow = Fallback.value(0, {
          errors: Fallback.matching((error: Unavailable | Providers.Errors) => error._tag !== "Unavailable")
        })
        // @ts-expect-error -- the predicate does not know this error
        // @effect-diagnostics-next-line missingEffectError:off
        expectTypeOf(Effect.fail("other").pipe(a.execute({ fallback: narrow }))).not.toBeAny()
        // @ts-expect-error -- not a key of a cache
        a.execute({ key: {} })
        return {
          plain: self.pipe(a.execute({ key: "k" })),
          none: self.pipe(a.execute()),
          some: self.pipe(a.execute({ fallback: some })),
          standby: self.pipe(a.execute({ key: 1, fallback: standby })),
          narrow: self.pipe(a.execute({ fallback: narrow }))
        }
      }
      type Used = ReturnType<typeof use>
      expectTypeOf<Used["plain"]>().toEqualTypeOf<Effect.Effect<number, Unavailable | Providers.Errors, "R">>()
      expectTypeOf<Used["none"]>().toEqualTypeOf<Effect.Effect<number, Unavailable | Providers.Errors, "R">>()
      expectTypeOf<Used["some"]>().toEqualTypeOf<
        Effect.Effect<
          number | null,
          Exclude<Providers.Errors, { readonly _tag: "CircuitOpen" | "UnknownProvider" }>,
          "R"
        >
      >()
      expectTypeOf<Used["standby"]>().toEqualTypeOf<Effect.Effect<number, Unavailable, "R" | Name>>()
      expectTypeOf<Used["narrow"]>().toEqualTypeOf<Effect.Effect<number, Unavailable, "R">>()
      expectTypeOf(make).returns.toEqualTypeOf<
        Effect.Effect<Providers.Providers, Profile.InvalidProfile | Providers.TooManyProviders, Scope.Scope>
      >()
      expectTypeOf<Providers.Errors>().toEqualTypeOf<Profile.Errors | Providers.UnknownProvider>()
    })

    it.effect("leaves nothing behind when interrupted at any operation, and ends its old parts", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: full })
        const a = yield* providers.get("a")
        let running = 0
        let size = 100
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        )
        const operations = yield* interruptEverywhere(
          call.pipe(a.execute({ key: "k", timeToLive: 0 })),
          Effect.gen(function* () {
            yield* Effect.yieldNow
            assert.strictEqual(running, 0)
            const status = yield* a.status
            assert.deepInclude(status, { calls: 0, finishing: 0 })
            assert.deepInclude(status.places, { running: 0, waiting: 0 })
            // A part that was held by a call that never ended would be one too many now.
            yield* providers.reload({ a: { ...full, cache: { ...full.cache, capacity: size++ } } })
            assert.deepInclude(yield* a.status, { calls: 0, finishing: 0 })
          })
        )
        assert.isAbove(operations, 20)
      })
    )
  })

  describe("reload", () => {
    it.effect("adds and removes providers", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: {}, b: {} })
        assert.deepStrictEqual(yield* providers.reload({ b: {}, c: {} }), { added: ["c"], removed: ["a"], changed: [] })
        assert.deepStrictEqual(
          (yield* providers.statuses).map(({ name }) => name),
          ["b", "c"]
        )
        assert.deepStrictEqual(yield* providers.reload({ b: {}, c: {} }), { added: [], removed: [], changed: [] })
      })
    )

    const changes: ReadonlyArray<
      readonly [string, Profile.Input, replaced: ReadonlyArray<string>, adjusted: ReadonlyArray<string>]
    > = [
      ["nothing", full, [], []],
      ["the way times are written", { ...full, deadline: 60_000, timeout: { ceiling: Duration.seconds(5) } }, [], []],
      ["the order of fields", Object.fromEntries(Object.entries(full).reverse()), [], []],
      ["the order", { ...full, order: "facade" }, [], []],
      ["the deadline", { ...full, deadline: "2 minutes" }, ["deadline"], []],
      ["the timeout", { ...full, timeout: { ceiling: "6 seconds" } }, ["timeout"], []],
      ["the kind of timeout", { ...full, timeout: "6 seconds" }, ["timeout"], []],
      ["the cache", { ...full, cache: { ...full.cache, capacity: 5 } }, ["cache"], []],
      ["the places", { ...full, bulkhead: { maxConcurrent: 5, maxQueued: 100 } }, [], ["bulkhead"]],
      ["the queue", { ...full, bulkhead: { maxConcurrent: 10, maxQueued: 5 } }, ["bulkhead"], []],
      ["the delays", { ...full, retry: { ...full.retry, delays: [20] } }, ["retry"], []],
      ["the budget", { ...full, retry: { ...full.retry, budget: { share: 1 } } }, ["retryBudget", "retry"], []],
      ["the hedge", { ...full, hedge: { ...full.hedge, delay: 5 } }, ["hedge"], []],
      ["the budget of the hedge", { ...full, hedge: { delay: "1 second", budget: {} } }, ["hedgeBudget", "hedge"], []],
      ["the breaker", { ...full, circuitBreaker: { failures: 5 } }, ["circuitBreaker"], []],
      ["the throttle", { ...full, adaptiveThrottle: {} }, ["adaptiveThrottle"], []],
      ["the rate", { ...full, rateLimiter: { capacity: 1000, refillPerSecond: 5 } }, [], ["rateLimiter"]],
      ["the wait", { ...full, rateLimiter: { ...full.rateLimiter, maxWait: 5 } }, ["rateLimiter"], []],
      [
        "the algorithm",
        { ...full, rateLimiter: { algorithm: "gcra", limit: 5, window: "1 second" } },
        ["rateLimiter"],
        []
      ],
      ["a part less", { ...full, circuitBreaker: undefined! }, ["circuitBreaker"], []]
    ]
    for (const [what, to, replaced, adjusted] of changes) {
      it.effect(`makes anew only what changed: ${what}`, () =>
        Effect.gen(function* () {
          const providers = yield* make({ a: full, other: full })
          const a = yield* providers.get("a")
          const before: Record<string, unknown> = { ...(yield* a.parts) }
          const next = Object.fromEntries(Object.entries(to).filter(([, value]) => value !== undefined))
          const reloaded = yield* providers.reload({ a: next, other: full })
          const same = replaced.length === 0 && adjusted.length === 0 && what !== "the order"
          assert.deepStrictEqual(reloaded, {
            added: [],
            removed: [],
            changed: same ? [] : [{ name: "a", replaced, adjusted }]
          } as Providers.Reloaded)
          const after: Record<string, unknown> = { ...(yield* a.parts) }
          for (const part of Object.keys(before)) {
            assert.strictEqual(after[part] === before[part], !replaced.includes(part), part)
          }
          assert.deepStrictEqual(Profile.encode(yield* a.profile), Profile.encode(Profile.make(next)))
        })
      )
    }

    it.effect("has after any reloads the parts of before where they are written the same, and new ones elsewhere", () =>
      Effect.gen(function* () {
        // What a part is made from, without what can be changed in it.
        const writtenOf = (profile: Profile.Input) => {
          const { bulkhead, hedge, rateLimiter, retry, ...others } = Profile.encode(Profile.make(profile))
          const {
            burst: _1,
            capacity: _2,
            interval: _3,
            limit: _4,
            refillPerSecond: _5,
            window: _6,
            ...limiter
          } = rateLimiter ?? {}
          const { maxConcurrent: _7, ...places } = bulkhead ?? {}
          const data: Record<string, unknown> = {
            ...others,
            bulkhead: bulkhead && places,
            rateLimiter: rateLimiter && limiter,
            retry,
            hedge,
            retryBudget: retry?.budget,
            hedgeBudget: hedge?.budget
          }
          return (part: string) => JSON.stringify(data[part])
        }
        for (let seed = 0; seed < 20; seed++) {
          const below = numbersFrom(seed)
          const providers = yield* make({})
          let profiles: Record<string, Profile.Input> = {}
          for (let step = 0; step < 15; step++) {
            const before = profiles
            const partsBefore = new Map<string, Record<string, unknown>>()
            for (const name of Object.keys(before)) {
              partsBefore.set(name, { ...(yield* (yield* providers.get(name)).parts) })
            }
            const next = ["a", "b", "c"].flatMap((name): ReadonlyArray<readonly [string, Profile.Input]> => {
              const old = before[name]
              const way = below(4)
              const fresh = anyInput(below(1000))
              if (way === 0) return []
              if (way === 1 || old === undefined) return [[name, fresh]]
              // Some parts of another profile, the others as before; an adaptive limit may stand in the way of a bulkhead.
              const { adaptiveLimit: _, ...mixed } = { ...old, ...(way === 2 ? fresh : {}) }
              return [[name, mixed]]
            })
            profiles = Object.fromEntries(next)
            yield* providers.reload(profiles)
            assert.deepStrictEqual(
              (yield* providers.statuses).map(({ name }) => name),
              Object.keys(profiles)
            )
            for (const [name, profile] of Object.entries(profiles)) {
              const provider = yield* providers.get(name)
              assert.deepStrictEqual(Profile.encode(yield* provider.profile), Profile.encode(Profile.make(profile)))
              const old = partsBefore.get(name) ?? {}
              const [now, then] = [writtenOf(profile), writtenOf(before[name] ?? {})]
              const live: Record<string, unknown> = { ...(yield* provider.parts) }
              for (const part of Object.keys(live)) {
                const kept = old[part] !== undefined && now(part) === then(part)
                // A fixed time is the same value whoever makes it.
                if (part !== "deadline" && part !== "timeout") assert.strictEqual(live[part] === old[part], kept, part)
              }
            }
          }
        }
      })
    )

    it.effect("keeps circuits, results and tokens of what did not change", () =>
      Effect.gen(function* () {
        const profile: Profile.Input = {
          cache: { timeToLive: "1 hour" },
          circuitBreaker: { failures: 2 },
          rateLimiter: { capacity: 10, refillPerSecond: 0.001 },
          timeout: 100
        }
        const providers = yield* make({ a: profile })
        const a = yield* providers.get("a")
        yield* Effect.succeed("kept").pipe(a.execute({ key: "k" }))
        for (let time = 0; time < 2; time++) yield* Effect.exit(new Unavailable().pipe(a.execute()))
        yield* providers.reload({
          a: { ...profile, timeout: 200, rateLimiter: { capacity: 20, refillPerSecond: 0.001 } }
        })
        assert.strictEqual(yield* Effect.succeed("new").pipe(a.execute({ key: "k" })), "kept")
        assert.strictEqual((yield* Effect.flip(Effect.void.pipe(a.execute())))._tag, "CircuitOpen")
        const status = yield* a.status
        assert.strictEqual(status.circuit?._tag, "Open")
        assert.strictEqual(status.cache?.size, 1)
        // Three of ten are taken, and what a larger bucket holds more has to come first.
        assert.strictEqual(Math.floor(status.rateLimiter?.tokens ?? 0), 7)
      })
    )

    it.effect("changes the size of a bulkhead under the calls in it and before it", () =>
      Effect.gen(function* () {
        const sized = (maxConcurrent: number) => ({ a: { bulkhead: { maxConcurrent, maxQueued: 10 } } })
        const providers = yield* make(sized(1))
        const a = yield* providers.get("a")
        const fibers = yield* Effect.forEach([1, 2, 3, 4], () =>
          Effect.forkChild(Effect.never.pipe(a.execute()), { startImmediately: true })
        )
        assert.deepStrictEqual((yield* a.status).places, { limit: 1, running: 1, waiting: 3 })
        yield* providers.reload(sized(3))
        assert.deepStrictEqual((yield* a.status).places, { limit: 3, running: 3, waiting: 1 })
        assert.deepInclude(yield* a.status, { calls: 0, finishing: 4 })
        yield* providers.reload(sized(2))
        yield* Fiber.interruptAll(fibers.slice(0, 3))
        assert.deepStrictEqual((yield* a.status).places, { limit: 2, running: 1, waiting: 0 })
        yield* providers.reload(sized(1))
        assert.deepStrictEqual((yield* a.status).places, { limit: 1, running: 1, waiting: 0 })
        yield* Fiber.interruptAll(fibers)
        assert.deepInclude(yield* a.status, { calls: 0, finishing: 0 })
      })
    )

    it.effect("lets running calls end under the policy they began with", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: { timeout: 100, retry: { schedule: "delays", delays: [50, 50] } } })
        const a = yield* providers.get("a")
        const old = counting(Effect.never)
        const fiber = yield* Effect.forkChild(Effect.flip(old.call.pipe(a.execute())), { startImmediately: true })
        yield* TestClock.adjust(50)
        yield* providers.reload({ a: { timeout: 10 } })
        const young = counting(Effect.never)
        const later = yield* Effect.forkChild(Effect.flip(young.call.pipe(a.execute())), { startImmediately: true })
        yield* TestClock.adjust(10)
        assert.strictEqual((yield* Fiber.join(later))._tag, "TimedOut")
        assert.strictEqual(young.calls.count, 1)
        yield* providers.reload({})
        yield* TestClock.adjust(339)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "TimedOut")
        assert.strictEqual(old.calls.count, 3)
      })
    )

    // A cache whose refresh hangs until somebody stops it.
    const refreshing = Effect.gen(function* () {
      const profile = {
        cache: { timeToLive: 100, refresh: { staleWhileRevalidate: "1 hour" } }
      } satisfies Profile.Input
      const scope = yield* Scope.make()
      const providers = yield* Scope.provide(make({ a: profile }), scope)
      const a = yield* providers.get("a")
      yield* Effect.succeed("old").pipe(a.execute({ key: "k" }))
      yield* TestClock.adjust(100)
      let stopped = 0
      const hanging = Effect.onInterrupt(Effect.never, () => Effect.sync(() => stopped++))
      assert.strictEqual(yield* hanging.pipe(a.execute({ key: "k" })), "old")
      yield* TestClock.adjust(0)
      return { profile, providers, a, scope, stopped: () => stopped }
    })

    it.effect("closes what is replaced when the last call through it has ended, and not before", () =>
      Effect.gen(function* () {
        const { a, profile, providers, stopped } = yield* refreshing
        const begin = Effect.forkChild(Effect.never.pipe(a.execute()), { startImmediately: true })
        const first = yield* begin
        yield* providers.reload({ a: { ...profile, timeout: "1 hour" } })
        const second = yield* begin
        const third = yield* begin
        yield* providers.reload({ a: { cache: { ...profile.cache, capacity: 5 } } })
        for (const [call, finishing] of [
          [second, 3],
          [first, 2],
          [third, 1]
        ] as const) {
          yield* TestClock.adjust(0)
          assert.deepInclude(yield* a.status, { calls: 0, finishing })
          assert.strictEqual(stopped(), 0)
          yield* Fiber.interrupt(call)
        }
        yield* TestClock.adjust(0)
        assert.strictEqual(stopped(), 1)
        assert.deepInclude(yield* a.status, { calls: 0, finishing: 0 })
      })
    )

    it.effect("leaves alone what it does not replace", () =>
      Effect.gen(function* () {
        const { a, profile, providers, stopped } = yield* refreshing
        yield* providers.reload({ a: { ...profile, timeout: 100, circuitBreaker: {} }, b: {} })
        yield* TestClock.adjust(0)
        assert.strictEqual(stopped(), 0)
        assert.strictEqual((yield* a.status).cache?.pending, 1)
      })
    )

    it.effect("closes what is removed at once when no call runs", () =>
      Effect.gen(function* () {
        const { profile, providers, stopped } = yield* refreshing
        for (let time = 0; time < 3; time++) yield* providers.reload({ a: profile, [`b${time}`]: {} })
        yield* TestClock.adjust(0)
        assert.strictEqual(stopped(), 0)
        yield* providers.reload({})
        yield* TestClock.adjust(0)
        assert.strictEqual(stopped(), 1)
      })
    )

    it.effect("does not wait for refreshes that do not end", () =>
      Effect.gen(function* () {
        const profile = {
          cache: { timeToLive: 100, refresh: { staleWhileRevalidate: "1 hour" } }
        } satisfies Profile.Input
        const providers = yield* make({ a: profile })
        const a = yield* providers.get("a")
        yield* Effect.succeed("old").pipe(a.execute({ key: "k" }))
        yield* TestClock.adjust(100)
        yield* Effect.sleep(50).pipe(Effect.uninterruptible, Effect.as("new"), a.execute({ key: "k" }))
        yield* TestClock.adjust(0)
        const reload = yield* Effect.forkChild(providers.reload({}), { startImmediately: true })
        yield* TestClock.adjust(0)
        assert.isDefined(reload.pollUnsafe())
        yield* TestClock.adjust(50)
      })
    )

    it.effect("closes everything with the scope, and then knows no provider", () =>
      Effect.gen(function* () {
        const { a, providers, scope, stopped } = yield* refreshing
        const call = yield* Effect.forkChild(Effect.exit(Effect.as(Effect.sleep(50), "ok").pipe(a.execute())), {
          startImmediately: true
        })
        yield* Effect.forkChild(Scope.close(scope, Exit.void))
        yield* TestClock.adjust(0)
        assert.strictEqual((yield* Effect.flip(Effect.void.pipe(a.execute())))._tag, "UnknownProvider")
        yield* TestClock.adjust(50)
        assert.deepStrictEqual(yield* Fiber.join(call), Exit.succeed("ok"))
        yield* TestClock.adjust(0)
        assert.strictEqual(stopped(), 1)
        assert.deepStrictEqual(yield* providers.reload({ a: {} }), { added: [], removed: [], changed: [] })
        assert.deepStrictEqual(yield* providers.statuses, [])
      })
    )

    it.effect("changes nothing when one of the profiles cannot be used, or there are too many", () =>
      Effect.gen(function* () {
        const providers = yield* Providers.make({ profiles: { a: full }, maxProviders: 2 })
        const a = yield* providers.get("a")
        const before = yield* a.parts
        const invalid = yield* Effect.flip(providers.reload({ b: {}, a: { timeout: 0 } }))
        assert.strictEqual(invalid.message, 'profile "a": timeout: must be over zero, got 0 ms')
        const many = yield* Effect.flip(providers.reload({ a: {}, b: {}, c: {} }))
        assert.deepInclude(many, { _tag: "TooManyProviders", count: 3, maxProviders: 2 })
        assert.strictEqual(many.message, "3 providers are more than the 2 allowed")
        assert.strictEqual(yield* a.parts, before)
        assert.strictEqual((yield* providers.statuses).length, 1)
        const atFirst = yield* Effect.flip(Providers.make({ profiles: { a: {}, b: {} }, maxProviders: 1 }))
        assert.strictEqual(atFirst._tag, "TooManyProviders")
      })
    )

    it.effect("dies on options that make no sense", () =>
      Effect.gen(function* () {
        for (const maxProviders of [0, 1.5, NaN]) {
          const exit = yield* Effect.exit(Providers.make({ profiles: {}, maxProviders }))
          const message = `Providers: maxProviders must be an integer >= 1, got ${maxProviders}`
          assert.deepStrictEqual(exit, Exit.die(new RangeError(message)))
        }
      })
    )

    it.effect("allows 1,000 providers unless told otherwise", () =>
      Effect.gen(function* () {
        const many = (count: number) =>
          Object.fromEntries(Array.from({ length: count }, (_, index) => [`p${index}`, {}]))
        const providers = yield* make({})
        yield* providers.reload(many(1000))
        assert.strictEqual((yield* Effect.flip(providers.reload(many(1001))))._tag, "TooManyProviders")
      })
    )

    it.effect("loses no call and no state under load, whatever is reloaded meanwhile", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: full })
        const a = yield* providers.get("a")
        let begun = 0
        let ended = 0
        let running = 0
        let most = 0
        // Fails at first, so that every call is retried under the budget, and takes some time.
        const request = (id: number) => {
          let attempts = 0
          return Effect.suspend(() => {
            most = Math.max(most, ++running)
            const attempt = ++attempts
            return Effect.sleep(1 + (id % 7)).pipe(
              Effect.andThen(attempt === 1 && id % 10 === 0 ? new Unavailable() : Effect.succeed(id)),
              Effect.ensuring(Effect.sync(() => running--))
            )
          })
        }
        const caller = Effect.fnUntraced(function* (caller: number) {
          for (let time = 0; time < 40; time++) {
            const id = caller * 1000 + time
            begun++
            const key = time % 3 === 0 ? id : undefined
            assert.strictEqual(yield* request(id).pipe(a.execute({ key })), id)
            ended++
          }
        })
        const variants: ReadonlyArray<Profile.Input> = [
          full,
          { ...full, deadline: "2 minutes" },
          { ...full, bulkhead: { maxConcurrent: 4, maxQueued: 100 } },
          { ...full, rateLimiter: { capacity: 1000, refillPerSecond: 100 } },
          { ...full, retry: { ...full.retry, delays: [5, 5, 5] } },
          { ...full, cache: { ...full.cache, capacity: 7 } },
          { ...full, hedge: { delay: "2 seconds" } },
          { ...full, order: "facade" },
          { ...full, adaptiveThrottle: {} }
        ]
        const breaker = (yield* a.parts).circuitBreaker
        yield* breaker?.setMode("metrics-only") ?? Effect.void
        const callers = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, index) => index),
          (index) => Effect.forkChild(caller(index), { startImmediately: true })
        )
        let finishing = 0
        for (let time = 0; time < 200; time++) {
          yield* TestClock.adjust(3)
          yield* providers.reload({ a: variants[time % variants.length] ?? full, other: time % 2 === 0 ? full : {} })
          finishing = Math.max(finishing, (yield* a.status).finishing)
        }
        yield* TestClock.adjust("1 minute")
        yield* Effect.forEach(callers, Fiber.join)
        assert.strictEqual(begun, 800)
        assert.strictEqual(ended, 800)
        assert.isAbove(finishing, 5)
        assert.isAtMost(most, 10)
        const status = yield* a.status
        assert.deepInclude(status, { calls: 0, finishing: 0 })
        assert.deepInclude(status.places, { running: 0, waiting: 0 })
        // The breaker was the same all the time, and has counted every attempt: a call, and one more of each tenth.
        const parts = yield* a.parts
        assert.strictEqual(parts.circuitBreaker, breaker)
        const counted = yield* breaker!.statistics("default")
        assert.isAtLeast(counted.calls, 800)
        assert.strictEqual(counted.ignored, 0)
        assert.strictEqual(yield* breaker!.mode, "metrics-only")
      })
    )

    it.effect("is whole or has not happened when interrupted at any operation", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: full })
        const a = yield* providers.get("a")
        let to = 0
        const target = Effect.suspend(() => {
          to++
          const bulkhead = { maxConcurrent: 1000 + to, maxQueued: 100 }
          return providers.reload({
            a: { ...full, bulkhead, circuitBreaker: { failures: 1000 + to } },
            [`b${1000 + to}`]: full
          })
        })
        const operations = yield* interruptEverywhere(
          target,
          Effect.gen(function* () {
            const names = (yield* providers.statuses).map(({ name }) => name)
            const failures = (yield* a.profile).circuitBreaker?.failures
            assert.deepStrictEqual(names, failures === 100 ? ["a"] : ["a", `b${failures}`])
            assert.strictEqual((yield* a.status).places?.limit, failures === 100 ? 10 : failures)
            // The next one is not held up.
            yield* providers.reload({ a: full })
          })
        )
        assert.isAbove(operations, 10)
      })
    )

    it.effect("runs one at a time: of several at once, the last that began is what counts", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: {} })
        yield* Effect.forEach(
          Array.from({ length: 20 }, (_, index) => index + 1),
          (timeout) => providers.reload({ a: { timeout }, [`b${timeout}`]: {} }),
          { concurrency: "unbounded" }
        )
        const a = yield* providers.get("a")
        assert.deepStrictEqual(Profile.encode(yield* a.profile), { timeout: 20 })
        assert.deepStrictEqual(
          (yield* providers.statuses).map(({ name }) => name),
          ["a", "b20"]
        )
      })
    )
  })

  describe("reload, several at once", () => {
    it.effect("takes turns as they began, however many profiles each has", () =>
      Effect.gen(function* () {
        const providers = yield* make({})
        const many = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`p${index}`, {}]))
        yield* Effect.all([providers.reload(many), providers.reload({ last: {} })], { concurrency: "unbounded" })
        assert.deepStrictEqual(
          (yield* providers.statuses).map(({ name }) => name),
          ["last"]
        )
      })
    )

    it.effect("never goes on with a part that another has closed", () =>
      Effect.gen(function* () {
        const cache = { timeToLive: 100, refresh: { staleWhileRevalidate: "1 hour" } } as const
        const providers = yield* make({ a: { cache } })
        yield* Effect.all(
          [
            providers.reload({ a: { cache: { ...cache, capacity: 5 } }, b: {} }),
            providers.reload({ a: { cache }, b: {} }),
            providers.reload({ a: { cache, timeout: 50 }, b: {} })
          ],
          { concurrency: "unbounded" }
        )
        const a = yield* providers.get("a")
        yield* Effect.succeed("old").pipe(a.execute({ key: "k" }))
        yield* TestClock.adjust(100)
        // A cache that is closed would wait for this instead of refreshing it.
        assert.strictEqual(yield* Effect.succeed("new").pipe(a.execute({ key: "k" })), "old")
      })
    )
  })

  describe("status", () => {
    it.effect("tells how every part stands, and leaves out what is not there", () =>
      Effect.gen(function* () {
        const providers = yield* make({ a: full, b: { adaptiveLimit: { initialLimit: 3 }, timeout: 5 }, c: {} })
        const a = yield* providers.get("a")
        yield* Effect.void.pipe(a.execute({ key: "k" }))
        yield* Effect.forkChild(Effect.never.pipe(a.execute()), { startImmediately: true })
        const [first, second, third] = yield* providers.statuses
        assert.deepInclude(first, { name: "a", calls: 1, finishing: 0, places: { limit: 10, running: 1, waiting: 0 } })
        assert.strictEqual(first?.circuit?._tag, "Closed")
        assert.strictEqual(first?.cache?.size, 1)
        assert.strictEqual(first?.rateLimiter?.tokens, 998)
        assert.strictEqual(first?.adaptiveThrottle?.requests, 1)
        assert.deepStrictEqual(first?.adaptiveTimeout?.limit, Duration.seconds(5))
        assert.strictEqual(first?.hedge?.calls, 1)
        assert.strictEqual(first?.retryBudget?.calls, 2)
        assert.deepStrictEqual(second?.places, { limit: 3, running: 0, waiting: 0 })
        assert.isUndefined(second?.adaptiveTimeout)
        assert.deepStrictEqual(third, {
          name: "c",
          calls: 0,
          finishing: 0,
          circuit: undefined,
          places: undefined,
          cache: undefined,
          rateLimiter: undefined,
          adaptiveThrottle: undefined,
          adaptiveTimeout: undefined,
          hedge: undefined,
          retryBudget: undefined
        })
      })
    )
  })

  describe("follow", () => {
    it.effect("reloads with everything a stream brings, and goes on after what cannot be used", () =>
      Effect.gen(function* () {
        const providers = yield* make({})
        const invalid: Array<string> = []
        const queue = yield* Queue.unbounded<Providers.Profiles>()
        const following = yield* Effect.forkChild(
          Providers.follow(providers, Stream.fromQueue(queue), {
            onInvalid: (error) => {
              invalid.push(error.message)
              return Effect.die("bug of the hook")
            }
          })
        )
        const names = Effect.gen(function* () {
          // A reload lets others run in between.
          for (let time = 0; time < 20; time++) yield* TestClock.adjust(0)
          return (yield* providers.statuses).map(({ name }) => name)
        })
        yield* Queue.offer(queue, { a: {} })
        assert.deepStrictEqual(yield* names, ["a"])
        yield* Queue.offer(queue, { b: { timeout: 0 } })
        assert.deepStrictEqual(yield* names, ["a"])
        assert.deepStrictEqual(invalid, ['profile "b": timeout: must be over zero, got 0 ms'])
        yield* Queue.offer(queue, { b: {} })
        assert.deepStrictEqual(yield* names, ["b"])
        yield* Fiber.interrupt(following)
      })
    )
  })

  describe("layer", () => {
    it.effect("fails with what cannot be used of configuration, or of what it changes", () =>
      Effect.gen(function* () {
        const fail = (profiles: Providers.Profiles, env: Record<string, string>) =>
          Providers.layerConfig({ profiles }).pipe(
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(env))),
            Layer.build,
            Effect.scoped,
            Effect.flip
          )
        const variable = yield* fail({ a: {} }, { A_TIMEOUT: "0" })
        assert.include(variable.message, 'profile "a": timeout: must be over zero, got 0 ms (A_TIMEOUT)')
        const base = yield* fail({ a: { timeout: 0 } }, {})
        assert.include(base.message, 'profile "a": timeout: must be over zero, got 0 ms')
      })
    )

    it.effect("provides the providers", () =>
      Effect.gen(function* () {
        const providers = yield* Providers.Providers
        assert.strictEqual((yield* providers.get("zephyr")).name, "zephyr")
      }).pipe(Effect.provide(Providers.layer({ profiles: { zephyr: Profile.zephyr } })))
    )

    it.effect("fails with profiles that cannot be used", () =>
      Effect.gen(function* () {
        const failure = yield* Effect.flip(
          Effect.scoped(Layer.build(Providers.layer({ profiles: { a: { deadline: 0 } } })))
        )
        assert.strictEqual(failure.message, 'profile "a": deadline: must be over zero, got 0 ms')
      })
    )

    it.effect("reads from configuration what is different", () =>
      Effect.gen(function* () {
        const providers = yield* Providers.Providers
        const profile = yield* (yield* providers.get("zephyr")).profile
        assert.deepStrictEqual(Profile.encode(profile), { ...Profile.encode(Profile.zephyr), timeout: 5000 })
        assert.deepStrictEqual(yield* (yield* providers.get("qtest")).profile, Profile.qtest)
      }).pipe(
        Effect.provide(
          Providers.layerConfig({ profiles: { zephyr: Profile.zephyr, qtest: Profile.qtest } }).pipe(
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ ZEPHYR_TIMEOUT: "5 seconds" })))
          )
        )
      )
    )
  })
})
