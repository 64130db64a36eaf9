import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { ConfigProvider, Data, Duration, Effect, Fiber, Result, Schema, type Scope } from "effect"
import { type AdaptiveTimeout, Policy, Profile, Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { leavesOf } from "../../src/resilience/internal/variables.ts"
import { anyInput, parts, written } from "../support/profiles.ts"

class Broken extends Data.TaggedError("Broken")<{ readonly code?: string; readonly status?: number }> {}

const decode = (input: unknown) => Effect.result(Profile.decode("p", input))

// Runs a call to its end in virtual time, and says how it ended and after how many milliseconds.
const timed = <A, E extends { readonly _tag: string }, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    const fiber = yield* Effect.forkChild(
      Effect.all([Effect.result(self), Effect.clockWith((clock) => clock.currentTimeMillis)])
    )
    yield* TestClock.adjust("1 hour")
    const [result, end] = yield* Fiber.join(fiber)
    return [Result.isSuccess(result) ? result.success : result.failure._tag, end - start] as const
  })

const counting = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const calls = { count: 0 }
  return { calls, call: Effect.suspend(() => (calls.count++, self)) }
}

describe("Profile", () => {
  describe("decode", () => {
    it.effect("decodes what it encodes, to the same profile, through JSON, for every part however it is written", () =>
      Effect.gen(function* () {
        const same = Schema.toEquivalence(Profile.Profile)
        const inputs = [
          ...parts.flatMap((part) => written[part].map((way): Profile.Input => ({ [part]: way }))),
          ...Array.from({ length: 300 }, (_, seed) => anyInput(seed))
        ]
        for (const input of inputs) {
          const profile = yield* Profile.decode("p", input)
          const encoded = Profile.encode(profile)
          const json: unknown = JSON.parse(JSON.stringify(encoded))
          assert.deepStrictEqual(json, encoded)
          const again = yield* Profile.decode("p", json)
          assert.isTrue(same(again, profile), JSON.stringify(encoded))
          assert.deepStrictEqual(Profile.encode(again), encoded)
          // What was made is an input as well.
          assert.isTrue(same(Profile.make(profile), profile))
        }
      })
    )

    it.effect("takes a time as milliseconds, as text and in code as a Duration", () =>
      Effect.gen(function* () {
        for (const deadline of [30_000, "30 seconds", "30000 millis", Duration.seconds(30)]) {
          const profile = yield* Profile.decode("p", { deadline })
          assert.strictEqual(profile.deadline && Duration.toMillis(profile.deadline), 30_000)
          assert.deepStrictEqual(Profile.encode(profile), { deadline: 30_000 })
        }
      })
    )

    const refused: ReadonlyArray<readonly [unknown, ...ReadonlyArray<string>]> = [
      [5, "must be object, got 5"],
      [null, "must be object, got null"],
      [{ timeuot: 5 }, "timeuot: is no field of a profile"],
      [
        { retry: { bse: 1, times: "three" } },
        "retry.bse: is no field of a profile",
        'retry.times: must be number, got "three"'
      ],
      [{ order: "inside out" }, 'order: must be "standard" | "facade", got "inside out"'],
      [{ deadline: "soon" }, 'deadline: must be a duration: milliseconds, or text like "30 seconds", got "soon"'],
      [{ deadline: true }, 'deadline: must be a duration: milliseconds, or text like "30 seconds", got true'],
      [{ deadline: 0 }, "deadline: must be over zero, got 0 ms"],
      [{ timeout: -5 }, "timeout: must be over zero, got -5 ms"],
      [
        { timeout: { ceiling: "x" } },
        'timeout.ceiling: must be a duration: milliseconds, or text like "30 seconds", got "x"'
      ],
      [{ timeout: { ceiling: 100, floor: 200 } }, "timeout.floor: must be over zero and at most ceiling, got 200"],
      [{ timeout: { factor: 2 } }, "timeout.ceiling: must be given"],
      [{ retry: { base: 5000, maxDelay: "1 second" } }, "retry.maxDelay: must be finite and at least base, got 1000"],
      [{ retry: { times: 1.5 } }, "retry.times: must be an integer >= 0 or Infinity, got 1.5"],
      [{ retry: { schedule: "fixed", factor: 2 } }, 'retry.factor: must be left out with schedule "fixed"'],
      [
        { retry: { schedule: "fixed", jitter: "decorrelated" } },
        'retry.jitter: must not be "decorrelated" without the schedule "exponential"'
      ],
      [{ retry: { schedule: "delays" } }, 'retry.delays: must be given with schedule "delays"'],
      [{ retry: { delays: [1] } }, 'retry.delays: must be left out with schedule "exponential"'],
      [{ retry: { schedule: "delays", delays: [1, -5] } }, "retry.delays[1]: must be zero or more, got -5"],
      [{ retry: { maxElapsed: 0 } }, "retry.maxElapsed: must be over zero, got 0"],
      [
        { retry: { budget: { kind: "tokens", maxTokens: 0 } } },
        "retry.budget.maxTokens: must be over 0 and at most 1000, got 0"
      ],
      [{ retry: { budget: { kind: "costs", share: 1 } } }, 'retry.budget.share: must be left out with kind "costs"'],
      [
        { retry: { while: { statuses: [9000] } } },
        "retry.while.statuses[0]: must be a value between 100 and 599, got 9000"
      ],
      [
        { retry: { while: { texts: [{ regExp: "(" }] } } },
        'retry.while.texts[0]: must be a valid regular expression, got {"regExp":"("}'
      ],
      [{ hedge: {} }, "hedge.delay: must be given"],
      [
        { hedge: { delay: 5, minDelay: 9, maxDelay: 8, percentile: 0.5 } },
        "hedge.maxDelay: must be at least minDelay, got 8"
      ],
      [{ hedge: { delay: 5, budget: { share: -1 } } }, "hedge.budget.share: must be a finite number >= 0, got -1"],
      [{ circuitBreaker: { failures: 5, size: 3 } }, "circuitBreaker.failures: must be at most size, 3, got 5"],
      [
        { circuitBreaker: { slowCallRate: 0.5 } },
        "circuitBreaker.slowAfter: must be given with slowCallRate, got nothing"
      ],
      [
        { circuitBreaker: { or: [{}, { failureRate: 2 }] } },
        "circuitBreaker.or[1].failureRate: must be over 0 and at most 1, got 2"
      ],
      [{ circuitBreaker: { openFor: [1, 0] } }, "circuitBreaker.openFor[1]: must be over zero, got 0 ms"],
      [{ circuitBreaker: { openFor: [] } }, "circuitBreaker.openFor[0]: must be given"],
      [{ bulkhead: {} }, "bulkhead.maxConcurrent: must be given"],
      [{ bulkhead: { maxConcurrent: 0 } }, "bulkhead.maxConcurrent: must be an integer >= 1, got 0"],
      [{ bulkhead: { maxConcurrent: 1 }, adaptiveLimit: {} }, "adaptiveLimit: must be left out beside bulkhead"],
      [
        { adaptiveLimit: { algorithm: "aimd", alpha: 2 } },
        'adaptiveLimit.alpha: must be left out with algorithm "aimd"'
      ],
      [
        { adaptiveLimit: { algorithm: "aimd", backoff: 2 } },
        "adaptiveLimit.backoff: must be at least 0.5 and under 1, got 2"
      ],
      [{ adaptiveLimit: { minLimit: 9, maxLimit: 5 } }, "adaptiveLimit.maxLimit: must be an integer >= 9, got 5"],
      [{ adaptiveThrottle: { ratio: 0 } }, "adaptiveThrottle.ratio: must be a finite number >= 1, got 0"],
      [
        { rateLimiter: {} },
        'rateLimiter.capacity: must be given with algorithm "token-bucket"',
        'rateLimiter.refillPerSecond: must be given with algorithm "token-bucket"'
      ],
      [
        { rateLimiter: { algorithm: "gcra", limit: 0, window: 1 } },
        "rateLimiter.limit: must be a finite number > 0, got 0"
      ],
      [
        { rateLimiter: { capacity: 1, refillPerSecond: 1, adaptive: { factor: 3 } } },
        "rateLimiter.adaptive.factor: must be over 0 and at most 1, got 3"
      ],
      [{ cache: {} }, "cache.timeToLive: must be given"],
      [{ cache: { timeToLive: 0 } }, "cache.timeToLive: must be over zero, got 0 ms"],
      [{ cache: { timeToLive: 1, failureTimeToLive: -1 } }, "cache.failureTimeToLive: must be zero or more, got -1"],
      [
        { cache: { timeToLive: 1, refresh: { ahead: 3 } } },
        "cache.refresh.ahead: must be at least 0 and under 1, got 3"
      ]
    ]
    for (const [input, ...problems] of refused) {
      it.effect(`refuses ${JSON.stringify(input)}`, () =>
        Effect.gen(function* () {
          const result = yield* decode(input)
          if (Result.isSuccess(result)) return assert.fail("it was taken")
          assert.strictEqual(result.failure._tag, "InvalidProfile")
          assert.strictEqual(result.failure.message, problems.map((problem) => `profile "p": ${problem}`).join("\n"))
        })
      )
    }

    it.effect("refuses nonsense in one part whatever the other parts are, and names it", () =>
      Effect.gen(function* () {
        for (let seed = 0; seed < 50; seed++) {
          const result = yield* decode({ ...anyInput(seed), circuitBreaker: { probes: 0 } })
          if (Result.isSuccess(result)) return assert.fail("it was taken")
          assert.deepStrictEqual(
            result.failure.issues.map(({ field }) => field),
            ["circuitBreaker.probes"]
          )
        }
      })
    )
  })

  describe("decodeAll", () => {
    it.effect("decodes profiles by name, and names the one that cannot be used", () =>
      Effect.gen(function* () {
        const profiles = yield* Profile.decodeAll({ a: { timeout: 5 }, b: {} })
        assert.deepStrictEqual(Object.keys(profiles), ["a", "b"])
        const failure = yield* Effect.flip(Profile.decodeAll({ a: {}, b: { timeout: 0 } }))
        assert.strictEqual(failure.message, 'profile "b": timeout: must be over zero, got 0 ms')
        for (const nothing of [[], null, "text"]) {
          assert.strictEqual((yield* Effect.flip(Profile.decodeAll(nothing)))._tag, "InvalidProfile")
        }
      })
    )
  })

  describe("make", () => {
    it("throws at nonsense, and names the field", () => {
      assert.throws(
        () => Profile.make({ retry: { factor: 0 } }),
        RangeError,
        "Profile: retry.factor must be a number of at least 1, got 0"
      )
      // @ts-expect-error -- a field that does not exist
      assert.throws(() => Profile.make({ timeuot: 5 }), RangeError, "Profile: timeuot is no field of a profile")
    })
  })

  describe("config", () => {
    const read = (env: Record<string, string>, options?: Profile.ConfigOptions) =>
      Effect.result(Profile.config("zephyr", options).parse(ConfigProvider.fromEnvRecord(env)))

    it.effect("reads a variable for each field, and leaves others alone", () =>
      Effect.gen(function* () {
        const profile = yield* Effect.fromResult(
          yield* read({
            ZEPHYR_ORDER: "facade",
            ZEPHYR_DEADLINE: "1 minute",
            ZEPHYR_TIMEOUT_CEILING: "5000",
            ZEPHYR_TIMEOUT_PERCENTILE: "0.99",
            ZEPHYR_RETRY_TIMES: "2",
            ZEPHYR_RETRY_MAX_DELAY: "20 seconds",
            ZEPHYR_RETRY_WHILE_STATUSES: "500, 5xx",
            ZEPHYR_RETRY_WHILE_TEXTS: '["500", {"regExp": "^a"}]',
            ZEPHYR_RETRY_WHILE_CODES: "ECONNRESET",
            ZEPHYR_RETRY_WHILE_EXCEPT_TAGS: "404,NotFound",
            ZEPHYR_CIRCUIT_BREAKER_OPEN_FOR: "1 minute, 300000",
            ZEPHYR_CIRCUIT_BREAKER_OR: '[{"failureRate": 0.5}]',
            ZEPHYR_CACHE_TIME_TO_LIVE: "60000",
            ZEPHYR_CACHE_REFRESH_STALE_WHILE_REVALIDATE: "1 hour",
            ZEPHYR_RATE_LIMITER_ALGORITHM: "smooth",
            ZEPHYR_RATE_LIMITER_INTERVAL: "250",
            ZEPHYR_API_KEY: "secret",
            ZEPHYR_BASE_URL: "https://zephyr.example"
          })
        )
        assert.deepStrictEqual(Profile.encode(profile), {
          order: "facade",
          deadline: 60_000,
          timeout: { ceiling: 5000, percentile: 0.99 },
          cache: { timeToLive: 60_000, refresh: { staleWhileRevalidate: 3_600_000 } },
          retry: {
            times: 2,
            maxDelay: 20_000,
            while: {
              statuses: [500, "5xx"],
              texts: ["500", { regExp: "^a" }],
              codes: ["ECONNRESET"],
              except: { tags: ["404", "NotFound"] }
            }
          },
          circuitBreaker: { openFor: [60_000, 300_000], or: [{ failureRate: 0.5 }] },
          rateLimiter: { algorithm: "smooth", interval: 250 }
        })
        const nothing = yield* Effect.fromResult(yield* read({}))
        assert.deepStrictEqual(Profile.encode(nothing), {})
      })
    )

    it.effect("changes a base, and takes parts of it away", () =>
      Effect.gen(function* () {
        const before = Profile.encode(Profile.zephyr)
        const profile = yield* Effect.fromResult(
          yield* read(
            { Z_RETRY_TIMES: "5", Z_CACHE_ENABLED: "false", Z_BULKHEAD_ENABLED: "true", Z_TIMEOUT: "10 seconds" },
            { base: Profile.zephyr, prefix: "Z" }
          )
        )
        const { cache: _, ...others } = before
        assert.deepStrictEqual(Profile.encode(profile), {
          ...others,
          timeout: 10_000,
          retry: { ...before.retry, times: 5 }
        })
        assert.deepStrictEqual(Profile.encode(Profile.zephyr), before)
        const added = yield* read({ ZEPHYR_RETRY_ENABLED: "true", ZEPHYR_DEADLINE_ENABLED: "true" })
        assert.deepStrictEqual(Profile.encode(yield* Effect.fromResult(added)), { retry: {} })
        const kept = yield* read({ ZEPHYR_RETRY_ENABLED: "true" }, { base: Profile.zephyr })
        assert.deepStrictEqual(Profile.encode(yield* Effect.fromResult(kept)), before)
      })
    )

    it.effect("reads what it would encode, for every part", () =>
      Effect.gen(function* () {
        // Writes each field as its variable would be written.
        const variables = (value: unknown, name: string): ReadonlyArray<readonly [string, string]> =>
          typeof value === "object" && value !== null && !Array.isArray(value)
            ? Object.entries(value).flatMap(([key, inner]) =>
                variables(inner, `${name}_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`)
              )
            : [[name, Array.isArray(value) ? JSON.stringify(value) : String(value)]]
        for (let seed = 0; seed < 100; seed++) {
          const encoded = JSON.parse(
            JSON.stringify(Profile.encode(Profile.make(anyInput(seed)))),
            (_, value: unknown) =>
              // An empty part has no field that a variable could hold.
              typeof value === "object" && value !== null && Object.keys(value).length === 0 ? undefined : value
          ) as Profile.Input
          const result = yield* read(Object.fromEntries(variables(encoded, "ZEPHYR")))
          assert.deepStrictEqual(
            Profile.encode(yield* Effect.fromResult(result)),
            Profile.encode(Profile.make(encoded))
          )
        }
      })
    )

    it.effect("names the field and the variable that cannot be used", () =>
      Effect.gen(function* () {
        const failure = (result: Result.Result<unknown, { readonly message: string }>) =>
          Result.isFailure(result) ? result.failure.message : "taken"
        assert.include(
          failure(yield* read({ ZEPHYR_RETRY_FACTOR: "0.1" })),
          'profile "zephyr": retry.factor: must be a number of at least 1, got 0.1 (ZEPHYR_RETRY_FACTOR)'
        )
        assert.include(
          failure(yield* read({ ZEPHYR_TIMEOUT: "soon" })),
          'profile "zephyr": timeout: must be a duration: milliseconds, or text like "30 seconds", got "soon" (ZEPHYR_TIMEOUT)'
        )
        assert.include(failure(yield* read({ ZEPHYR_RETRY_WHILE_STATUSES: "[500" })), "ZEPHYR_RETRY_WHILE_STATUSES")
        assert.include(failure(yield* read({ ZEPHYR_CACHE_ENABLED: "maybe" })), "ZEPHYR_CACHE_ENABLED")
      })
    )
  })

  describe("toPolicy", () => {
    it.effect("makes the parts that the profile names, and no others", () =>
      Effect.gen(function* () {
        for (let seed = 0; seed < 50; seed++) {
          const { order: _, ...profile } = Profile.make(anyInput(seed))
          const made = yield* Profile.toPolicy(profile)
          const names = [
            ...Object.keys(profile),
            ...(profile.retry?.budget === undefined ? [] : ["retryBudget"]),
            ...(profile.hedge?.budget === undefined ? [] : ["hedgeBudget"])
          ]
          assert.sameMembers(Object.keys(made.parts), names)
        }
      })
    )

    it.effect("puts them in the order that the profile names", () =>
      Effect.gen(function* () {
        const profile = {
          retry: { schedule: "fixed", base: 10, times: 2 },
          circuitBreaker: { failures: 3 },
          timeout: 100
        } as const
        const standard = yield* Profile.toPolicy(Profile.make(profile))
        const facade = yield* Profile.toPolicy(Profile.make({ ...profile, order: "facade" }))
        const call = Effect.never
        assert.deepStrictEqual(yield* timed(call.pipe(standard.execute())), ["TimedOut", 320])
        assert.deepStrictEqual(yield* timed(call.pipe(facade.execute())), ["TimedOut", 100])
        assert.strictEqual((yield* standard.parts.circuitBreaker!.state("default"))._tag, "Open")
        assert.strictEqual((yield* facade.parts.circuitBreaker!.state("default")).failures, 1)
      })
    )

    it.effect("puts the cache around either order", () =>
      Effect.gen(function* () {
        const profile: Profile.Input = {
          cache: { timeToLive: 1000 },
          circuitBreaker: {},
          retry: { schedule: "delays", delays: [10] }
        }
        for (const [order, failures] of [
          ["standard", 2],
          ["facade", 1]
        ] as const) {
          const policy = yield* Profile.toPolicy(Profile.make({ ...profile, order }))
          assert.deepStrictEqual(yield* timed(new Broken({}).pipe(policy.execute({ key: "a" }))), ["Broken", 10])
          assert.strictEqual((yield* policy.parts.circuitBreaker!.state("default")).failures, failures)
        }
      })
    )

    it.effect("pays retries and hedges from the budgets that are given", () =>
      Effect.gen(function* () {
        const none = { share: 0, minPerSecond: 0 }
        const policy = yield* Profile.toPolicy(
          Profile.make({
            timeout: 100,
            retry: { schedule: "delays", delays: [1, 1], budget: { ...none, minPerSecond: 0.1 } },
            hedge: { delay: 10, budget: none }
          })
        )
        const { call, calls } = counting(Effect.never)
        assert.deepStrictEqual(yield* timed(call.pipe(policy.execute())), ["TimedOut", 201])
        assert.strictEqual(calls.count, 2)
        assert.deepInclude(yield* policy.parts.hedge!.state, { hedges: 0, refused: 4 })
        assert.deepInclude(yield* policy.parts.retryBudget!.state("default"), { retries: 1, refused: 1 })
      })
    )

    it.effect("goes through the cache with a key, and past it without", () =>
      Effect.gen(function* () {
        const policy = yield* Profile.toPolicy(
          Profile.make({
            cache: { timeToLive: "1 minute", failureTimeToLive: "1 second" },
            bulkhead: { maxConcurrent: 1 }
          })
        )
        const { call, calls } = counting(Effect.succeed("ok"))
        for (let time = 0; time < 3; time++) yield* call.pipe(policy.execute({ key: "a" }))
        assert.strictEqual(calls.count, 1)
        for (let time = 0; time < 3; time++) yield* call.pipe(policy.execute())
        yield* call.pipe(policy.execute({ key: "a", skipCache: true }))
        assert.strictEqual(calls.count, 5)
        const failing = counting(new Broken({}))
        for (let time = 0; time < 3; time++) yield* Effect.exit(failing.call.pipe(policy.execute({ key: "b" })))
        assert.strictEqual(failing.calls.count, 1)
        yield* TestClock.adjust("1 second")
        yield* Effect.exit(failing.call.pipe(policy.execute({ key: "b" })))
        assert.strictEqual(failing.calls.count, 2)
      })
    )

    it.effect("retries and counts the errors that the patterns name", () =>
      Effect.gen(function* () {
        const policy = yield* Profile.toPolicy(
          Profile.make({
            retry: { schedule: "delays", delays: [10, 20], while: { statuses: ["5xx"] } },
            circuitBreaker: { failures: 100, failure: { statuses: ["5xx", 429] }, ignored: { statuses: [429] } }
          })
        )
        assert.deepStrictEqual(yield* timed(new Broken({ status: 503 }).pipe(policy.execute())), ["Broken", 30])
        assert.deepStrictEqual(yield* timed(new Broken({ status: 429 }).pipe(policy.execute())), ["Broken", 0])
        const circuit = yield* policy.parts.circuitBreaker!.state("default")
        assert.strictEqual(circuit.failures, 3)
        assert.deepStrictEqual(yield* timed(new Broken({ status: 404 }).pipe(policy.execute())), ["Broken", 0])
        assert.strictEqual((yield* policy.parts.circuitBreaker!.state("default")).failures, 0)
      })
    )

    it.effect("stays open for longer each time when it is told so", () =>
      Effect.gen(function* () {
        const policy = yield* Profile.toPolicy(
          Profile.make({ circuitBreaker: { failures: 1, openFor: ["1 second", "5 seconds"] } })
        )
        const openFor = Effect.gen(function* () {
          yield* Effect.exit(new Broken({}).pipe(policy.execute()))
          const state = yield* policy.parts.circuitBreaker!.state("default")
          const millis = state._tag === "Open" ? Duration.toMillis(state.retryAfter) : 0
          yield* TestClock.adjust(millis)
          return millis
        })
        assert.deepStrictEqual([yield* openFor, yield* openFor, yield* openFor], [1000, 5000, 5000])
      })
    )

    it("has exact types", () => {
      expectTypeOf(Profile.toPolicy).returns.toEqualTypeOf<Effect.Effect<Profile.ProfilePolicy, never, Scope.Scope>>()
      const guarded = (self: Effect.Effect<number, Broken, "R">) =>
        Effect.scoped(Profile.toPolicy(Profile.zephyr)).pipe(
          Effect.flatMap((policy) => self.pipe(policy.execute({ key: "a" })))
        )
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, Broken | Profile.Errors, "R">>()
      expectTypeOf<Exclude<Policy.AnyError, Profile.Errors>["_tag"]>().toEqualTypeOf<"Overloaded">()
      expectTypeOf<Profile.Errors>().toExtend<Policy.AnyError>()
      expectTypeOf<Profile.Parts["timeout"]>().toEqualTypeOf<
        Duration.Duration | AdaptiveTimeout.AdaptiveTimeout | undefined
      >()
      expectTypeOf(Timeout.TimedOut).toBeConstructibleWith({ after: Duration.zero })
    })

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const policy = yield* Profile.toPolicy(
          Profile.make({ ...Profile.zephyr, rateLimiter: { capacity: 1e6, refillPerSecond: 1 } })
        )
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        )
        const operations = yield* interruptEverywhere(
          call.pipe(policy.execute({ key: "a", timeToLive: 0 })),
          Effect.gen(function* () {
            yield* Effect.yieldNow
            assert.strictEqual(running, 0)
            assert.strictEqual((yield* policy.parts.bulkhead!.state).running, 0)
            assert.strictEqual((yield* policy.parts.cache!.statistics).pending, 0)
          })
        )
        assert.isAbove(operations, 10)
      })
    )
  })

  describe("the shipped profiles", () => {
    const shipped = {
      zephyr: {
        profile: Profile.zephyr,
        waits: [1000, 2000, 4000],
        retried: [
          ...["ECONNRESET", "ETIMEDOUT", "ECONNREFUSED", "ENOTFOUND", "ENETUNREACH"].map((code) => ({ code })),
          { message: "socket hang up" },
          { status: 500 },
          { status: 503 }
        ],
        final: [{ status: 429 }, { status: 404 }, { code: "EPIPE" }],
        timeout: 30_000,
        breaker: { failures: 5, openFor: 60_000, successes: 2 },
        bulkhead: { running: 15, waiting: 50 },
        timeToLive: 300_000
      },
      qtest: {
        profile: Profile.qtest,
        waits: [800, 1200, 1800, 2700],
        retried: [
          ...["ECONNRESET", "ETIMEDOUT", "ECONNREFUSED"].map((code) => ({ code })),
          { status: 429 },
          { status: 503 }
        ],
        final: [{ status: 500 }, { code: "ENOTFOUND" }, { message: "socket hang up" }],
        timeout: 45_000,
        breaker: { failures: 8, openFor: 45_000, successes: 3 },
        bulkhead: { running: 20, waiting: 100 },
        timeToLive: 180_000
      },
      facade: {
        profile: Profile.facade,
        waits: undefined,
        retried: [{ status: 500 }],
        final: [],
        timeout: 30_000,
        breaker: { failures: 5, openFor: 30_000, successes: 3 },
        bulkhead: { running: 10, waiting: 100 },
        timeToLive: 60_000
      }
    }

    class Foreign extends Error {
      readonly _tag = "Foreign"
    }
    const failing = (fields: object) =>
      counting(Effect.suspend(() => Effect.fail(Object.assign(new Foreign(), fields))))

    for (const [name, expected] of Object.entries(shipped)) {
      it.effect(`${name} retries what it names, after the waits it names, and nothing else`, () =>
        Effect.gen(function* () {
          for (const error of expected.retried) {
            const policy = yield* Profile.toPolicy(expected.profile)
            const { call, calls } = failing(error)
            const [, millis] = yield* timed(call.pipe(policy.execute()))
            assert.strictEqual(calls.count, (expected.waits?.length ?? 3) + 1, JSON.stringify(error))
            if (expected.waits !== undefined)
              assert.strictEqual(
                millis,
                expected.waits.reduce((sum, wait) => sum + wait)
              )
          }
          for (const error of expected.final) {
            const policy = yield* Profile.toPolicy(expected.profile)
            const { call, calls } = failing(error)
            yield* timed(call.pipe(policy.execute()))
            assert.strictEqual(calls.count, 1, JSON.stringify(error))
          }
        })
      )

      it.effect(`${name} ends a call and all its attempts with its timeout, and really stops them`, () =>
        Effect.gen(function* () {
          const policy = yield* Profile.toPolicy(expected.profile)
          let stopped = false
          const call = Effect.onInterrupt(Effect.never, () => Effect.sync(() => (stopped = true)))
          assert.deepStrictEqual(yield* timed(call.pipe(policy.execute())), ["TimedOut", expected.timeout])
          assert.isTrue(stopped)
        })
      )

      it.effect(`${name} opens the circuit after so many failed calls, for so long, until so many successes`, () =>
        Effect.gen(function* () {
          const { failures, openFor, successes } = expected.breaker
          const policy = yield* Profile.toPolicy(
            Profile.make({ ...Profile.encode(expected.profile), retry: { times: 0 } })
          )
          const { call, calls } = failing({ status: 500 })
          const ends: Array<string> = []
          for (let time = 0; time < failures + 1; time++)
            ends.push((yield* Effect.flip(call.pipe(policy.execute())))._tag)
          assert.deepStrictEqual(ends, [...Array<string>(failures).fill("Foreign"), "CircuitOpen"])
          assert.strictEqual(calls.count, failures)
          yield* TestClock.adjust(openFor - 1)
          assert.strictEqual((yield* Effect.flip(Effect.void.pipe(policy.execute())))._tag, "CircuitOpen")
          yield* TestClock.adjust(1)
          const breaker = policy.parts.circuitBreaker!
          for (let time = 0; time < successes; time++) {
            assert.notStrictEqual((yield* breaker.state("default"))._tag, "Closed")
            yield* Effect.void.pipe(policy.execute())
          }
          assert.strictEqual((yield* breaker.state("default"))._tag, "Closed")
        })
      )

      it.effect(`${name} runs so many calls at a time, lets so many wait, and refuses the next`, () =>
        Effect.gen(function* () {
          const { running, waiting } = expected.bulkhead
          const policy = yield* Profile.toPolicy(expected.profile)
          const fibers = yield* Effect.forEach(Array.from({ length: running + waiting }), () =>
            Effect.forkChild(Effect.never.pipe(policy.execute()), { startImmediately: true })
          )
          assert.deepInclude(yield* policy.parts.bulkhead!.state, { running, waiting })
          assert.strictEqual((yield* Effect.flip(Effect.void.pipe(policy.execute())))._tag, "BulkheadFull")
          yield* Fiber.interruptAll(fibers)
        })
      )

      it.effect(`${name} keeps results for its time, then answers stale ones, also when a refresh fails`, () =>
        Effect.gen(function* () {
          const policy = yield* Profile.toPolicy(
            Profile.make({ ...Profile.encode(expected.profile), retry: { times: 0 } })
          )
          const first = counting(Effect.succeed("old"))
          yield* first.call.pipe(policy.execute({ key: "a" }))
          yield* TestClock.adjust(expected.timeToLive - 1)
          assert.strictEqual(yield* first.call.pipe(policy.execute({ key: "a" })), "old")
          assert.strictEqual(first.calls.count, 1)
          yield* TestClock.adjust(1)
          const broken = counting(new Broken({}))
          assert.strictEqual(yield* broken.call.pipe(Effect.as("new"), policy.execute({ key: "a" })), "old")
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(broken.calls.count, 1)
          assert.strictEqual(yield* Effect.succeed("new").pipe(policy.execute({ key: "a" })), "old")
          yield* TestClock.adjust(0)
          assert.strictEqual(yield* Effect.succeed("newer").pipe(policy.execute({ key: "a" })), "new")
        })
      )

      it(`${name} contradicts itself nowhere`, () => {
        assert.deepStrictEqual(Profile.explain(expected.profile).warnings, [])
      })
    }
  })

  describe("docs/profiles.md", () => {
    it("names every field", () => {
      const text = readFileSync(fileURLToPath(new URL("../../docs/profiles.md", import.meta.url)), "utf8")
      const fields = leavesOf(Profile.Profile).map(({ path }) => path)
      assert.isAbove(fields.length, 100)
      for (const name of new Set(fields.flat())) assert.include(text, `\`${name}\``)
    })

    it.effect("shows profiles that can be used", () =>
      Effect.gen(function* () {
        const text = readFileSync(fileURLToPath(new URL("../../docs/profiles.md", import.meta.url)), "utf8")
        const [, json = ""] = /```json\n([\s\S]*?)```/.exec(text) ?? []
        assert.deepStrictEqual(Object.keys(yield* Profile.decodeAll(JSON.parse(json))), ["zephyr"])
      })
    )
  })

  describe("the profiles as JSON", () => {
    it.effect("are the shipped ones", () =>
      Effect.gen(function* () {
        const file = fileURLToPath(new URL("../../examples/profiles.json", import.meta.url))
        const { qtest, zephyr } = yield* Profile.decodeAll(JSON.parse(readFileSync(file, "utf8")))
        assert.deepStrictEqual(zephyr, Profile.zephyr)
        assert.deepStrictEqual(qtest, Profile.qtest)
      })
    )
  })

  describe("explain", () => {
    const explain = (input: Profile.Input) => Profile.explain(Profile.make(input))

    it("lists the parts in their order, with the numbers that hold", () => {
      const all: Profile.Input = {
        cache: { timeToLive: "1 minute" },
        deadline: "1 minute",
        bulkhead: { maxConcurrent: 5 },
        retry: {},
        hedge: { delay: "100 millis" },
        circuitBreaker: {},
        adaptiveThrottle: {},
        rateLimiter: { capacity: 16, refillPerSecond: 8 },
        timeout: "1 second"
      }
      const standard = explain(all)
      assert.deepStrictEqual(
        standard.stages.map(({ part }) => part),
        [
          "cache",
          "deadline",
          "bulkhead",
          "retry",
          "hedge",
          "circuit breaker",
          "adaptive throttle",
          "rate limiter",
          "timeout"
        ]
      )
      const facade = explain({ ...all, order: "facade" })
      assert.deepStrictEqual(
        facade.stages.map(({ part }) => part),
        [
          "cache",
          "deadline",
          "circuit breaker",
          "bulkhead",
          "timeout",
          "retry",
          "hedge",
          "adaptive throttle",
          "rate limiter"
        ]
      )
      const does = Object.fromEntries(standard.stages.map(({ does, part }) => [part, does]))
      assert.strictEqual(does["cache"], "keeps 1000 results for 1m")
      assert.strictEqual(does["bulkhead"], "5 at a time, 0 waiting")
      assert.strictEqual(does["retry"], "3 times after 1s, 2s, 4s, full jitter, waits for up to 1m if asked to")
      assert.strictEqual(does["hedge"], "1 more after 100ms, 10 % of the calls and 1 a second")
      assert.strictEqual(
        does["circuit breaker"],
        "opens after 5 failed attempts in a row, for 1m, 1 probe at a time, closes after 2 successes"
      )
      assert.strictEqual(does["adaptive throttle"], "lets through 2 times what is accepted, refuses at most 90 %")
      assert.strictEqual(
        does["rate limiter"],
        "8 a second, 16 at once, by token-bucket, waits for up to 30s, 1000 waiting"
      )
    })

    it("takes for default what the documentation of the part says", () => {
      const documented = {
        Retry: [
          "`base` 1 second",
          "`factor` 2",
          "`maxDelay` 30 seconds",
          '`jitter` "full", `fixed` "none"',
          "`times` 3",
          "`maxRetryAfter` 1 minute"
        ],
        RetryBudget: [
          "`share` 0.2",
          "`minPerSecond` 10",
          "`makeTokens` | `maxTokens` 10 ",
          "`makeCosts`  | `maxTokens` 500 "
        ],
        Hedge: ["`maxHedges` 1", "`budget` 10 % of the calls and 1 per second"],
        CircuitBreaker: [
          "`failures` 5",
          "`size` 100 for rates",
          "`minimumCalls` 20",
          "`openFor` 60 seconds",
          "`probes` 1",
          "`successesToClose` 2"
        ],
        Bulkhead: ["`maxQueued` 0", "`maxWait` unlimited"],
        AdaptiveLimit: ["`initialLimit` 20", "`minLimit` 1", "`maxLimit` 200"],
        RateLimiter: ["`maxWait` 30 seconds", "`maxQueued` 1,000"],
        AdaptiveThrottle: ["`ratio` 2", "`maxRefused` 0.9"],
        AdaptiveTimeout: ["`percentile` 0.95", "`factor` 2"]
      }
      for (const [module, defaults] of Object.entries(documented)) {
        const file = fileURLToPath(new URL(`../../src/resilience/${module}.ts`, import.meta.url))
        const text = readFileSync(file, "utf8")
        for (const known of defaults) assert.include(text, known, module)
      }
    })

    const worst: ReadonlyArray<
      readonly [
        string,
        Profile.Input,
        Partial<Profile.WorstCase> & { readonly millis?: number; readonly withHints?: number }
      ]
    > = [
      [
        "nothing",
        {},
        { millis: Infinity, requests: 1, concurrency: Infinity, perSecond: Infinity, untilOpen: undefined }
      ],
      ["one timeout", { timeout: 100 }, { millis: 100, withHints: 100 }],
      ["an adaptive timeout", { timeout: { ceiling: 100 } }, { millis: 100 }],
      [
        "retries",
        { timeout: 100, retry: { jitter: "none", maxRetryAfter: 5000 } },
        { millis: 7400, withHints: 15_400, requests: 4 }
      ],
      ["jitter at its longest", { timeout: 100, retry: { base: 10 } }, { millis: 470 }],
      ["a cap", { timeout: 100, retry: { base: 10, maxDelay: 15 } }, { millis: 440 }],
      ["linear", { timeout: 100, retry: { schedule: "linear", base: 10, step: 5 } }, { millis: 445 }],
      [
        "fibonacci",
        { timeout: 100, retry: { schedule: "fibonacci", base: 10, times: 5 } },
        { millis: 600 + 10 * (1 + 1 + 2 + 3 + 5) }
      ],
      ["fixed", { timeout: 100, retry: { schedule: "fixed", base: 10 } }, { millis: 430 }],
      ["given delays", { timeout: 100, retry: { schedule: "delays", delays: [1, 2] } }, { millis: 303, requests: 3 }],
      [
        "decorrelated",
        { timeout: 100, retry: { base: 10, jitter: "decorrelated", maxDelay: 100 } },
        { millis: 400 + 30 + 90 + 100 }
      ],
      ["very many retries", { timeout: 1, retry: { base: 1, maxDelay: 1, times: 1_000_000 } }, { millis: 2_000_001 }],
      [
        "an end to the retries",
        { timeout: 100, retry: { schedule: "fixed", base: 10, times: 9, maxElapsed: 300 } },
        { millis: 400 }
      ],
      ["a deadline", { deadline: 250, timeout: 100, retry: { base: 10 } }, { millis: 250, withHints: 250 }],
      [
        "a deadline that a circuit is waited for",
        { deadline: 9000, timeout: 100, retry: { base: 10, maxRetryAfter: 100 }, circuitBreaker: { failures: 9 } },
        { millis: 470, withHints: 9000 }
      ],
      ["a facade", { order: "facade", timeout: 100, retry: { base: 10 } }, { millis: 100, requests: 4 }],
      [
        "a limiter",
        { timeout: 100, rateLimiter: { capacity: 1, refillPerSecond: 1, maxWait: 500 } },
        { millis: 600, perSecond: 1 }
      ],
      [
        "a limiter without a queue",
        { timeout: 100, rateLimiter: { algorithm: "gcra", limit: 10, window: 2000, maxQueued: 0 } },
        { millis: 100, perSecond: 5 }
      ],
      ["a smooth limiter", { rateLimiter: { algorithm: "smooth", interval: 250 } }, { perSecond: 4 }],
      ["a hedge", { timeout: 100, hedge: { delay: 60 } }, { millis: 160, requests: 2 }],
      ["a late hedge", { timeout: 100, hedge: { delay: 600, maxHedges: 2 } }, { millis: 300, requests: 3 }],
      ["a hedge that follows", { timeout: 100, hedge: { delay: 10, percentile: 0.5, maxDelay: 20 } }, { millis: 120 }],
      [
        "a queue in order",
        { timeout: 100, bulkhead: { maxConcurrent: 2, maxQueued: 5 } },
        { millis: 400, concurrency: 2 }
      ],
      [
        "a queue with a wait",
        { timeout: 100, bulkhead: { maxConcurrent: 2, maxQueued: 5, maxWait: 50 } },
        { millis: 150 }
      ],
      [
        "a queue with priorities",
        { timeout: 100, bulkhead: { maxConcurrent: 2, maxQueued: 5, priorities: "strict" } },
        { millis: Infinity }
      ],
      [
        "an adaptive limit",
        { timeout: 100, adaptiveLimit: { minLimit: 2, maxQueued: 5 } },
        { millis: 400, concurrency: 200 }
      ],
      ["hedges in a bulkhead", { hedge: { delay: 5 }, bulkhead: { maxConcurrent: 10 } }, { concurrency: 20 }],
      ["a breaker", { circuitBreaker: { openFor: "10 seconds", probes: 2 } }, { untilOpen: 5, whileOpen: 0.2 }],
      [
        "a breaker of a facade",
        { order: "facade", retry: {}, circuitBreaker: {} },
        { untilOpen: 20, whileOpen: 4 / 60 }
      ],
      [
        "a breaker by rate",
        { circuitBreaker: { failureRate: 0.5, or: [{ failures: 50, size: 60 }] } },
        { untilOpen: 20 }
      ],
      ["a breaker of slow calls", { circuitBreaker: { slowCallRate: 0.5, slowAfter: 5 } }, { untilOpen: undefined }],
      [
        "a breaker that only counts",
        { circuitBreaker: { mode: "metrics-only" } },
        { untilOpen: undefined, whileOpen: Infinity }
      ],
      ["no budget", { retry: {} }, { inOutage: { perCall: 4, perSecond: 0 } }],
      ["a share", { retry: { budget: {} } }, { inOutage: { perCall: 1.2, perSecond: 10 } }],
      ["tokens", { retry: { budget: { kind: "tokens" } } }, { inOutage: { perCall: 1, perSecond: 0 } }],
      ["hedges", { hedge: { delay: 5 } }, { inOutage: { perCall: 1.1, perSecond: 1 } }]
    ]
    for (const [what, input, { millis, withHints, ...expected }] of worst) {
      it(`knows the worst case of ${what}`, () => {
        const { worstCase } = explain(input)
        assert.deepInclude(worstCase, expected)
        if (millis !== undefined) assert.strictEqual(Duration.toMillis(worstCase.time), millis)
        if (withHints !== undefined) assert.strictEqual(Duration.toMillis(worstCase.timeWithHints), withHints)
      })
    }

    // Calls that take as long as they may, as many at once as there is room for: the last of them has the worst case.
    for (const input of [
      { timeout: 100, retry: { schedule: "delays", delays: [10, 20] } },
      { order: "facade", timeout: 100, retry: { schedule: "delays", delays: [10, 20] } },
      { timeout: 100, hedge: { delay: 60, budget: { minPerSecond: 1000 } } },
      {
        timeout: 100,
        retry: { schedule: "delays", delays: [10] },
        hedge: { delay: 30, maxHedges: 2, budget: { minPerSecond: 1000 } }
      },
      { timeout: 100, bulkhead: { maxConcurrent: 2, maxQueued: 5 } },
      { deadline: 250, timeout: 100, retry: { schedule: "delays", delays: [10, 20, 30] } },
      {
        timeout: 100,
        retry: { schedule: "fixed", base: 10, times: 9, maxElapsed: 300 },
        bulkhead: { maxConcurrent: 1, maxQueued: 1 }
      }
    ] satisfies ReadonlyArray<Profile.Input>) {
      it.effect(`is what happens in the worst case: ${JSON.stringify(input)}`, () =>
        Effect.gen(function* () {
          const profile = Profile.make(input)
          const { worstCase } = Profile.explain(profile)
          const policy = yield* Profile.toPolicy(profile)
          let running = 0
          let most = 0
          const { call, calls } = counting(
            Effect.ensuring(
              Effect.suspend(() => ((most = Math.max(most, ++running)), Effect.never)),
              Effect.sync(() => running--)
            )
          )
          const count = (profile.bulkhead?.maxConcurrent ?? 1) + (profile.bulkhead?.maxQueued ?? 0)
          const ends = yield* Effect.all(
            Array.from({ length: count }, () => timed(call.pipe(policy.execute()))),
            { concurrency: "unbounded" }
          )
          const millis = Math.max(...ends.map(([, millis]) => millis))
          assert.isAtMost(millis, Duration.toMillis(worstCase.time))
          assert.isAtLeast(millis, Duration.toMillis(worstCase.time) * 0.7)
          assert.isAtMost(calls.count, count * worstCase.requests)
          assert.isAtMost(most, worstCase.concurrency)
        })
      )
    }

    for (const input of [
      { circuitBreaker: {} },
      { circuitBreaker: { failures: 3 }, retry: { schedule: "delays", delays: [1] } },
      { order: "facade", circuitBreaker: { failures: 3 }, retry: { schedule: "delays", delays: [1, 1] } },
      { circuitBreaker: { failureRate: 0.5, size: 10 } },
      { circuitBreaker: { failureRate: 0.5, or: [{ failures: 7, within: "1 hour" }] } }
    ] satisfies ReadonlyArray<Profile.Input>) {
      it.effect(`knows how many failed requests open the circuit: ${JSON.stringify(input)}`, () =>
        Effect.gen(function* () {
          const profile = Profile.make(input)
          const policy = yield* Profile.toPolicy(profile)
          const { call, calls } = counting(new Broken({}))
          while ((yield* policy.parts.circuitBreaker!.state("default"))._tag === "Closed") {
            const fiber = yield* Effect.forkChild(Effect.exit(call.pipe(policy.execute())), { startImmediately: true })
            yield* TestClock.adjust(5)
            yield* Fiber.join(fiber)
          }
          assert.strictEqual(calls.count, Profile.explain(profile).worstCase.untilOpen)
        })
      )
    }

    it.effect("knows what a dead upstream gets in the long run: no more, and not much less", () =>
      Effect.gen(function* () {
        const profile = Profile.make({
          retry: { schedule: "delays", delays: [1, 1, 1], budget: { share: 0.1, minPerSecond: 1, window: "1 second" } }
        })
        const { inOutage } = Profile.explain(profile).worstCase
        const policy = yield* Profile.toPolicy(profile)
        const { call, calls } = counting(new Broken({}))
        for (let time = 0; time < 2000; time++) {
          yield* Effect.forkChild(Effect.exit(call.pipe(policy.execute())), { startImmediately: true })
          yield* TestClock.adjust(10)
        }
        const most = inOutage.perCall * 2000 + inOutage.perSecond * 21
        assert.isAtMost(calls.count, most)
        assert.isAtLeast(calls.count, most * 0.97)
      })
    )

    const warned: ReadonlyArray<readonly [Profile.Input, string, string]> = [
      [{ retry: {} }, "timeout", "nothing bounds the time of a call"],
      [
        { deadline: "10 seconds", timeout: "20 seconds" },
        "deadline",
        "of 10s comes before the timeout of 20s, which never ends a call"
      ],
      [{ timeout: 1, retry: { times: 0 } }, "retry.times", "0 retries nothing"],
      [{ timeout: 1, retry: { while: {} } }, "retry.while", "matches no error: nothing is retried"],
      [{ deadline: 500, retry: { jitter: "none" } }, "deadline", "of 500ms is over before the first retry after 1s"],
      [
        { timeout: 1, retry: { jitter: "equal", maxElapsed: 400 } },
        "retry.maxElapsed",
        "of 400ms is over before the first retry after 500ms"
      ],
      [
        { order: "facade", timeout: 1000, retry: { schedule: "fixed" } },
        "timeout",
        "of 1s is over before the first retry after 1s"
      ],
      [
        { order: "facade", timeout: "5 seconds", retry: {} },
        "timeout",
        "of 5s is too short for 3 retries: they wait for up to 7s"
      ],
      [
        { deadline: 250, timeout: 100, retry: { schedule: "delays", delays: [10, 20] } },
        "deadline",
        "of 250ms is too short for 3 attempts: 2 that take their full time fit"
      ],
      [{ timeout: 1, retry: { budget: { share: 0, minPerSecond: 0 } } }, "retry.budget", "allows no retry at all"],
      [{ timeout: 1, retry: { budget: { share: 5 } } }, "retry.budget", "of 5 retries a call is never spent by 3"],
      [{ timeout: 1, retry: { times: 0, budget: {} } }, "retry.budget", "is never used without retries"],
      [
        { timeout: 1, circuitBreaker: { mode: "disabled" } },
        "circuitBreaker.mode",
        '"disabled" never opens the circuit'
      ],
      [
        { timeout: 1, circuitBreaker: { failure: {} } },
        "circuitBreaker.failure",
        "matches no error: only defects open the circuit"
      ],
      [
        {
          timeout: 1,
          circuitBreaker: { failureRate: 0.5, within: "1 second", minimumCalls: 50 },
          rateLimiter: { capacity: 2, refillPerSecond: 1 }
        },
        "circuitBreaker.minimumCalls",
        "of 50 are never made within 1s: the rate limiter lets 3 through"
      ],
      [
        {
          timeout: 1,
          circuitBreaker: { or: [{ failures: 20, within: "10 seconds" }] },
          rateLimiter: { algorithm: "fixed-window", limit: 1, window: "1 second" }
        },
        "circuitBreaker.or[0].failures",
        "of 20 never happen within 10s: the rate limiter lets 11 through"
      ],
      [
        { timeout: 1, retry: {}, circuitBreaker: { failures: 3 } },
        "circuitBreaker.failures",
        "of 3 are fewer than the 4 attempts of a call: one call can open the circuit"
      ],
      [
        { timeout: 100, circuitBreaker: { slowCallRate: 0.5, slowAfter: 100 } },
        "circuitBreaker.slowAfter",
        "of 100ms is never exceeded: the timeout ends calls after 100ms"
      ],
      [
        { timeout: 100, circuitBreaker: { maxHalfOpen: 50 } },
        "circuitBreaker.maxHalfOpen",
        "of 50ms is over before a probe that takes its 100ms"
      ],
      [
        { timeout: 1, cache: { timeToLive: 1, staleIfError: 60_000, refresh: { staleWhileRevalidate: "5 minutes" } } },
        "cache.staleIfError",
        "of 1m changes nothing: values are answered stale for 5m anyway"
      ],
      [
        { timeout: 1, cache: { timeToLive: 1, refresh: {} } },
        "cache.refresh",
        "refreshes nothing without staleWhileRevalidate or ahead"
      ],
      [
        { timeout: 1, cache: { timeToLive: 1000, idleTimeToLive: 1000, refresh: { staleWhileRevalidate: 1 } } },
        "cache.idleTimeToLive",
        "of 1s ends results before they can be stale, unless they are used in between"
      ],
      [
        { timeout: 1, cache: { timeToLive: 1, failureTimeToLive: 2 } },
        "cache.failureTimeToLive",
        "keeps failures for longer than successes"
      ],
      [
        { deadline: 500, bulkhead: { maxConcurrent: 1, maxQueued: 1, maxWait: 500 } },
        "bulkhead.maxWait",
        "of 500ms is not over before the deadline of 500ms"
      ],
      [
        { timeout: 1, adaptiveLimit: { maxQueued: 1, order: "adaptive" } },
        "adaptiveLimit.maxWait",
        "nothing bounds the wait for a place"
      ],
      [
        { timeout: 1, bulkhead: { maxConcurrent: 1, maxWait: 5 } },
        "bulkhead.maxWait",
        "means nothing without maxQueued: nobody waits"
      ],
      [
        { timeout: 100, hedge: { delay: 100 } },
        "hedge.delay",
        "of 100ms is not over before the timeout of 100ms: only failures start another attempt"
      ],
      [
        { deadline: 50, hedge: { delay: 100 } },
        "hedge.delay",
        "of 100ms is not over before the deadline of 50ms: only failures start another attempt"
      ],
      [
        { timeout: 100, hedge: { delay: 1, while: {} } },
        "hedge.while",
        "matches no error: only slow attempts get another beside them"
      ],
      [
        { deadline: 500, rateLimiter: { capacity: 1, refillPerSecond: 1, maxWait: "1 minute" } },
        "rateLimiter.maxWait",
        "of 1m is not over before the deadline of 500ms"
      ],
      [
        { order: "facade", timeout: 500, rateLimiter: { capacity: 1, refillPerSecond: 1 } },
        "rateLimiter.maxWait",
        "of 30s is not over before the timeout of 500ms, which ends the wait"
      ]
    ]
    for (const [input, field, problem] of warned) {
      it(`warns of ${JSON.stringify(input)}`, () => {
        assert.deepInclude(explain(input).warnings, { field, problem })
      })
    }

    it("does not warn of what is as it should be", () => {
      for (const input of [
        { timeout: 1 },
        { deadline: 1000, timeout: 100, retry: { schedule: "delays", delays: [10, 20] } },
        { timeout: 1, retry: { budget: {} } },
        { timeout: 1, retry: {}, circuitBreaker: { failures: 4 } },
        { order: "facade", timeout: "30 seconds", retry: {}, circuitBreaker: { failures: 1 } },
        { timeout: 100, circuitBreaker: { slowCallRate: 0.5, slowAfter: 99, maxHalfOpen: 100 } },
        {
          timeout: 1,
          circuitBreaker: { failureRate: 0.5, within: "10 seconds" },
          rateLimiter: { capacity: 10, refillPerSecond: 1 }
        },
        { timeout: 1, cache: { timeToLive: 1, staleIfError: 60_001, refresh: { staleWhileRevalidate: "1 minute" } } },
        { timeout: 1, cache: { timeToLive: 1, refresh: { ahead: 0.1 } } },
        { timeout: 1, bulkhead: { maxConcurrent: 1, maxQueued: 1 } },
        { deadline: 500, bulkhead: { maxConcurrent: 1, maxQueued: 1, maxWait: 499 } },
        { timeout: 100, hedge: { delay: 99 } },
        { timeout: 100, hedge: { delay: "Infinity" } },
        { deadline: 500, rateLimiter: { capacity: 1, refillPerSecond: 1 } }
      ] satisfies ReadonlyArray<Profile.Input>) {
        assert.deepStrictEqual(explain(input).warnings, [], JSON.stringify(input))
      }
    })

    it("is never at a loss, and never says NaN", () => {
      for (let seed = 0; seed < 200; seed++) {
        const text = Profile.render(explain(anyInput(seed)))
        assert.notMatch(text, /NaN|undefined|\[object/)
      }
    })
  })

  describe("render", () => {
    it("writes the pipeline, the worst case and the warnings", () => {
      const text = Profile.render(
        Profile.explain(
          Profile.make({
            deadline: "10 seconds",
            retry: {
              jitter: "none",
              times: 2,
              while: { statuses: ["5xx"], texts: [{ regExp: "gone" }], except: { statuses: [501] } }
            },
            circuitBreaker: { failureRate: 0.5, within: "1 minute", or: [{ failures: 2 }] },
            timeout: "1 second"
          })
        )
      )
      assert.strictEqual(
        text,
        [
          "standard order, outermost first",
          "  deadline         10s for everything",
          "  retry            2 times after 1s, 2s, for 5xx /gone/i except 501, waits for up to 1m if asked to",
          "  circuit breaker  opens after 50 % failed attempts of at least 20 within 1m, or 2 failed attempts in a row, for 1m, 1 probe at a time, closes after 2 successes",
          "  timeout          1s for each attempt",
          "worst case",
          "  time             6s, 10s when errors ask to wait",
          "  requests         3 for a call, any number at the same time, any number a second",
          "  outage           3 for a call in the long run",
          "  circuit          opens after 2 failed requests, then 0.0167 a second",
          "warnings",
          "  circuitBreaker.or[0].failures: of 2 are fewer than the 3 attempts of a call: one call can open the circuit"
        ].join("\n")
      )
    })
  })
})
