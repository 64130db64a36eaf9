import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Result, Scope, Stream } from "effect"
import { Profile } from "effect-resilience"
import { HttpResilience } from "effect-resilience/http"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpClient, type HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { type Answer, script, scripted } from "../support/scriptedClient.ts"

const url = "https://api.example.com/things"
const get = HttpClientRequest.get(url)
const post = HttpClientRequest.post(url)
const once = HttpClientRequest.setHeader(post, "idempotency-key", "k")

// A client of a profile for a server with these answers, which knows when it was asked.
const clientOf = Effect.fnUntraced(function* (
  profile: unknown,
  answers: ReadonlyArray<Answer>,
  options?: HttpResilience.ProfileOptions
) {
  const clock = yield* Clock.Clock
  const startedAt = clock.currentTimeMillisUnsafe()
  const times: Array<number> = []
  const server = scripted((_, index) => {
    times.push(clock.currentTimeMillisUnsafe() - startedAt)
    return answers[Math.min(index, answers.length - 1)]
  })
  const { parts, quotas, transform } = yield* HttpResilience.fromProfile(profile, options)
  return { client: transform(server.client), parts, quotas, server, times, transform }
})

// Runs a call to its end, whatever time that takes.
const settled = <A, E, R>(call: Effect.Effect<A, E, R>, within: Duration.Input = "5 minutes") =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.result(call))
    yield* TestClock.adjust(within)
    return yield* Fiber.join(fiber)
  })

const status = <E, R>(call: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.map(call, (response) => response.status)

const text = <E, R>(call: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.flatMap(call, (response) => response.text)

const tagOf = <A, E extends { readonly _tag: string }, R>(call: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(call), ({ _tag }) => _tag)

describe("HttpResilience.fromProfile", () => {
  describe("retry", () => {
    it.effect.each([
      ["zephyr", "GET", get, { status: 503 }, [0, 1000, 3000, 7000]],
      ["zephyr", "GET", get, { status: 500 }, [0, 1000, 3000, 7000]],
      ["zephyr", "GET", get, { code: "ECONNRESET" }, [0, 1000, 3000, 7000]],
      ["zephyr", "GET", get, { status: 502 }, [0]],
      ["zephyr", "GET", get, { status: 429 }, [0]],
      ["zephyr", "GET", get, { code: "UND_ERR_SOCKET" }, [0]],
      ["zephyr", "POST", post, { status: 503 }, [0]],
      ["zephyr", "POST", post, { code: "ECONNRESET" }, [0]],
      ["zephyr", "POST that reached nobody", post, { code: "ECONNREFUSED" }, [0, 1000, 3000, 7000]],
      ["zephyr", "POST with a key", once, { status: 503 }, [0, 1000, 3000, 7000]],
      ["qtest", "GET", get, { status: 429 }, [0, 800, 2000, 3800, 6500]],
      ["qtest", "GET", get, { status: 503 }, [0, 800, 2000, 3800, 6500]],
      ["qtest", "GET", get, { status: 500 }, [0]],
      ["qtest", "GET", get, { code: "ENOTFOUND" }, [0]],
      ["qtest", "POST", post, { status: 429 }, [0]],
      ["qtest", "POST with a key", once, { status: 429 }, [0, 800, 2000, 3800, 6500]]
    ] as const)("as %s, sends a %s (%o) after %o at %o", ([name, , request, answer, expected]) =>
      Effect.gen(function* () {
        const { client, server, times } = yield* clientOf(Profile[name], [answer])
        const result = yield* settled(text(client.execute(request)))
        assert.deepStrictEqual(times, [...expected])
        assert.strictEqual(Result.isSuccess(result), "status" in answer)
        assert.strictEqual(server.open(), 0)
      })
    )

    it.effect("answers with the first response that is well", () =>
      Effect.gen(function* () {
        const { client, times } = yield* clientOf(Profile.zephyr, [
          { status: 500 },
          { code: "ETIMEDOUT" },
          { body: "a" }
        ])
        assert.deepStrictEqual(yield* settled(text(client.get(url))), Result.succeed("a"))
        assert.deepStrictEqual(times, [0, 1000, 3000])
      })
    )

    it.effect.each([
      ["one that is an answer elsewhere", { statuses: [404] }, 404, [0, 10]],
      ["a success", { statuses: [202] }, 202, [0, 10]],
      ["all of one digit but one", { statuses: ["4xx"], except: { statuses: [404] } }, 404, [0]],
      ["none where the pattern is about tags", { tags: ["ResponseRejected"] }, 404, [0]],
      ["one by its tag", { tags: ["ResponseRejected"] }, 501, [0, 10]],
      ["the usual ones without a pattern", undefined, 502, [0, 10]],
      ["no others without a pattern", undefined, 501, [0]]
    ] as const)("retries %s", ([, pattern, code, expected]) =>
      Effect.gen(function* () {
        const retry = { schedule: "delays", delays: [10], ...(pattern && { while: pattern }) }
        const { client, times } = yield* clientOf({ retry }, [{ status: code }])
        assert.deepStrictEqual(yield* settled(status(client.get(url))), Result.succeed(code))
        assert.deepStrictEqual(times, [...expected])
      })
    )

    it.effect("waits for as long as a response asks, up to maxRetryAfter", () =>
      Effect.gen(function* () {
        const retry = { schedule: "delays", delays: [10], maxRetryAfter: "5 seconds" }
        for (const [seconds, expected] of [
          ["5", [0, 5000]],
          ["6", [0]]
        ] as const) {
          const { client, times } = yield* clientOf({ retry }, [{ status: 503, headers: { "retry-after": seconds } }])
          yield* settled(client.get(url))
          assert.deepStrictEqual(times, [...expected])
        }
      })
    )

    it.effect("pays from the budget of its origin", () =>
      Effect.gen(function* () {
        const budget = { kind: "share", share: 0.1, minPerSecond: 0.1, window: "10 seconds" }
        const retry = { schedule: "fixed", base: 1, times: 9, jitter: "none", budget }
        const { client, server } = yield* clientOf({ retry }, [{ status: 503 }])
        yield* settled(client.get(url), "1 second")
        assert.strictEqual(server.seen.length, 2)
        yield* settled(client.get("https://other.example.com/"), "1 second")
        assert.strictEqual(server.seen.length, 4)
      })
    )

    it.effect("waits for a refusal that the pattern names, whatever the method", () =>
      Effect.gen(function* () {
        const retry = { schedule: "fixed", base: 1, times: 5, jitter: "none", while: { tags: ["RateLimited"] } }
        const rateLimiter = { capacity: 1, refillPerSecond: 1, maxWait: 0 }
        const { client, times } = yield* clientOf({ retry, rateLimiter }, [{}])
        yield* client.execute(post)
        assert.deepStrictEqual(yield* settled(status(client.execute(post))), Result.succeed(200))
        assert.deepStrictEqual(times, [0, 1000])
      })
    )
  })

  describe("time", () => {
    it.effect("gives each attempt its time, and a facade all of them together", () =>
      Effect.gen(function* () {
        const retry = { schedule: "delays", delays: ["1 second", "1 second"] }
        const answers = [{ after: "1 minute" }] as const
        const each = yield* clientOf({ timeout: "10 seconds", retry }, answers)
        assert.strictEqual(yield* Effect.flatMap(settled(tagOf(each.client.get(url))), Effect.fromResult), "TimedOut")
        assert.deepStrictEqual(each.times, [0, 11_000, 22_000])
        const all = yield* clientOf({ order: "facade", timeout: "10 seconds", retry }, [{ status: 503 }, ...answers])
        assert.strictEqual(yield* Effect.flatMap(settled(tagOf(all.client.get(url))), Effect.fromResult), "TimedOut")
        assert.deepStrictEqual(all.times, [0, 1000])
        const told = ({ server }: typeof all) => server.seen.map(({ headers }) => headers["x-request-timeout"])
        assert.deepStrictEqual(told(each), ["10000", "10000", "10000"])
        assert.deepStrictEqual(told(all), ["10000", "9000"])
        assert.strictEqual(all.server.open() + each.server.open(), 0)
      })
    )

    it.effect.each([
      ["standard", 2],
      ["facade", 1]
    ] as const)("in the order %s, measures %i times in a call with two attempts", ([order, samples]) =>
      Effect.gen(function* () {
        const retry = { schedule: "delays", delays: [10] }
        const { client, parts } = yield* clientOf({ order, timeout: { ceiling: "10 seconds" }, retry }, [
          { status: 503, after: 10 },
          { after: 10 }
        ])
        yield* settled(client.get(url))
        if (parts.timeout === undefined || Duration.isDuration(parts.timeout)) return assert.fail("not adaptive")
        assert.strictEqual((yield* parts.timeout.state).samples, samples)
      })
    )

    it.effect("has an adaptive timeout and a deadline", () =>
      Effect.gen(function* () {
        const { client, parts } = yield* clientOf(
          { deadline: "20 seconds", timeout: { ceiling: "10 seconds", floor: "1 second", minSamples: 1 } },
          [{ after: "1 second" }, { after: "1 minute" }]
        )
        yield* settled(client.get(url))
        if (parts.timeout === undefined || Duration.isDuration(parts.timeout)) return assert.fail("not adaptive")
        const usual = Duration.toMillis((yield* parts.timeout.state).limit)
        assert.isTrue(usual >= 2000 && usual < 2100)
        const started = yield* Clock.currentTimeMillis
        const late = Effect.flatMap(tagOf(client.get(url)), (tag) =>
          Effect.map(Clock.currentTimeMillis, (now) => [tag, now - started])
        )
        assert.deepStrictEqual(yield* settled(late), Result.succeed(["TimedOut", usual]))
        const slow = yield* clientOf({ deadline: "3 seconds" }, [{ after: "1 minute" }])
        assert.deepStrictEqual(yield* settled(tagOf(slow.client.get(url))), Result.succeed("DeadlineExceeded"))
        assert.strictEqual(slow.server.aborted(), 1)
      })
    )
  })

  describe("circuit breaker", () => {
    it.effect("as zephyr, opens after five failed calls, for their origin only", () =>
      Effect.gen(function* () {
        const { client, parts, server } = yield* clientOf(Profile.zephyr, [{ status: 503, body: "busy" }])
        for (let call = 1; call <= 5; call++) {
          assert.deepStrictEqual(
            yield* settled(text(client.get(`${url}/${call}`)), "8 seconds"),
            Result.succeed("busy")
          )
        }
        assert.strictEqual(server.seen.length, 20)
        assert.strictEqual(yield* tagOf(client.get(url)), "CircuitOpen")
        assert.strictEqual(server.seen.length, 20)
        assert.deepStrictEqual(yield* settled(text(client.get("https://other.example.com/"))), Result.succeed("busy"))
        assert.strictEqual((yield* parts.bulkhead!.state).running, 0)
      })
    )

    it.effect.each([
      ["what its pattern names is a failure", { failure: { statuses: [404] } }, 404, true],
      ["all else is an answer", { failure: { statuses: [404] } }, 500, false],
      ["a status that says nothing", { ignored: { statuses: [500] } }, 500, false],
      ["by default a server error is a failure", {}, 500, true],
      ["by default a 404 is an answer", {}, 404, false],
      ["by default a 429 says nothing", {}, 429, false]
    ] as const)("%s", ([, spec, code, opens]) =>
      Effect.gen(function* () {
        const { client } = yield* clientOf({ circuitBreaker: { failures: 1, ...spec } }, [{ status: code }])
        assert.strictEqual(yield* status(client.get(url)), code)
        const next = yield* Effect.result(status(client.get(url)))
        assert.strictEqual(Result.isFailure(next) ? next.failure._tag : next.success, opens ? "CircuitOpen" : code)
      })
    )
  })

  describe("bulkhead and limit", () => {
    const held = [
      ["bulkhead", { bulkhead: { maxConcurrent: 1 } }, "BulkheadFull"],
      ["bulkhead of a facade", { order: "facade", bulkhead: { maxConcurrent: 1 } }, "BulkheadFull"],
      ["adaptive limit", { adaptiveLimit: { initialLimit: 1 } }, "LimitReached"]
    ] as const

    it.effect.each(held)("holds the place of a %s until the body has been read", ([, profile, refusal]) =>
      Effect.gen(function* () {
        const { client } = yield* clientOf(profile, [{ body: ["a", "b"] }, { status: 500, body: "no" }, {}])
        const response = yield* client.get(url)
        assert.strictEqual(yield* tagOf(client.get(url)), refusal)
        assert.strictEqual(yield* response.text, "ab")
        const failed = yield* client.get(url)
        assert.strictEqual(yield* tagOf(client.get(url)), refusal)
        assert.strictEqual(yield* failed.text, "no")
        assert.strictEqual(yield* status(client.get(url)), 200)
      })
    )

    it.effect.each(held)("holds the place of a %s until a body is thrown away", ([, profile, refusal]) =>
      Effect.gen(function* () {
        const { client, server } = yield* clientOf(profile, [{ body: "a", stalls: true }])
        const scope = yield* Scope.make()
        yield* HttpClient.withScope(client).get(url).pipe(Scope.provide(scope))
        assert.strictEqual(yield* tagOf(client.get(url)), refusal)
        yield* Scope.close(scope, yield* Effect.exit(Effect.void))
        const response = yield* client.get(url)
        assert.strictEqual((yield* Stream.runHead(response.stream))._tag, "Some")
        yield* client.get(url)
        assert.strictEqual(server.aborted(), 2)
      })
    )

    it.effect("lets go of the place of a response that has no body", () =>
      Effect.gen(function* () {
        const { client } = yield* clientOf({ bulkhead: { maxConcurrent: 1 } }, [
          { status: 204 },
          { headers: { "content-length": "0" } },
          {}
        ])
        for (const request of [get, get, HttpClientRequest.head(url), get]) yield* client.execute(request)
        assert.strictEqual(yield* tagOf(client.get(url)), "BulkheadFull")
      })
    )

    it.effect("drops the limit when the server is busy", () =>
      Effect.gen(function* () {
        const adaptiveLimit = { algorithm: "aimd", initialLimit: 10, window: 1, minCalls: 1 }
        for (const [code, limit] of [
          [503, 9],
          [429, 9],
          [500, 10]
        ] as const) {
          const { client, parts } = yield* clientOf({ adaptiveLimit }, [{ status: code, after: 10 }])
          yield* settled(text(client.get(url)), 100)
          assert.deepStrictEqual([code, (yield* parts.adaptiveLimit!.state).limit], [code, limit])
        }
      })
    )

    it.effect("queues nobody behind an open circuit", () =>
      Effect.gen(function* () {
        const { client } = yield* clientOf(
          { bulkhead: { maxConcurrent: 1, maxQueued: 5 }, circuitBreaker: { failures: 1 } },
          [{ status: 500 }, { body: "a", stalls: true }]
        )
        yield* client.get(url).pipe(text)
        yield* client.get("https://other.example.com/")
        assert.strictEqual(yield* tagOf(client.get(url)), "CircuitOpen")
      })
    )
  })

  describe("hedge", () => {
    const hedge = { delay: "100 millis", budget: { kind: "share", share: 1, minPerSecond: 10 } }

    it.effect.each([
      ["GET", get, 2],
      ["HEAD", HttpClientRequest.head(url), 2],
      ["PUT", HttpClientRequest.put(url), 1],
      ["POST with a key", once, 1]
    ] as const)("sends a slow %s beside itself: %o", ([, request, requests]) =>
      Effect.gen(function* () {
        const { client, server } = yield* clientOf({ hedge }, [{ after: "1 second", body: "slow" }, { body: "fast" }])
        const result = yield* settled(text(client.execute(request)))
        const body = requests === 2 ? "fast" : "slow"
        assert.deepStrictEqual(result, Result.succeed(request.method === "HEAD" ? "" : body))
        assert.deepStrictEqual([server.seen.length, server.open(), server.aborted()], [requests, 0, requests - 1])
      })
    )

    it.effect("gives up the responses that lose, and answers with the last if all do", () =>
      Effect.gen(function* () {
        const first = yield* clientOf({ hedge }, [{ status: 503, body: "busy", stalls: true }, { body: "well" }])
        assert.deepStrictEqual(yield* settled(text(first.client.get(url))), Result.succeed("well"))
        assert.deepStrictEqual([first.server.open(), first.server.aborted()], [0, 1])
        const both = yield* clientOf({ hedge }, [
          { status: 503, body: "a" },
          { status: 502, body: "b" }
        ])
        assert.deepStrictEqual(yield* settled(text(both.client.get(url))), Result.succeed("b"))
        assert.deepStrictEqual([both.server.seen.length, both.server.open()], [2, 0])
      })
    )

    it.effect("does not take a status for a failure that it is not", () =>
      Effect.gen(function* () {
        const { client, server } = yield* clientOf({ hedge }, [{ status: 501 }])
        assert.deepStrictEqual(yield* settled(status(client.get(url))), Result.succeed(501))
        assert.strictEqual(server.seen.length, 1)
      })
    )
  })

  describe("limiter and throttle", () => {
    it.effect("limits the rate of each origin", () =>
      Effect.gen(function* () {
        const rateLimiter = { algorithm: "fixed-window", limit: 1, window: "1 second", maxWait: 0 }
        const { client, parts } = yield* clientOf({ rateLimiter }, [{}])
        yield* client.get(url)
        assert.strictEqual(yield* tagOf(client.get(url)), "RateLimited")
        yield* client.get("https://other.example.com/")
        assert.strictEqual((yield* parts.rateLimiter!.statistics).keys, 2)
      })
    )

    it.effect.each([
      [503, 0],
      [429, 0],
      [500, 20],
      [404, 20]
    ] as const)("of twenty answers with %i, takes %i for accepted", ([code, accepts]) =>
      Effect.gen(function* () {
        const { client, parts } = yield* clientOf({ adaptiveThrottle: { maxRefused: 0 } }, [{ status: code }])
        for (let call = 0; call < 20; call++) yield* client.get(url)
        const state = yield* parts.adaptiveThrottle!.state
        assert.deepStrictEqual([state.requests, state.accepts], [20, accepts])
      })
    )

    it.effect("refuses what the server would", () =>
      Effect.gen(function* () {
        const { client, server } = yield* clientOf({ adaptiveThrottle: { maxRefused: 0.9 } }, [{ status: 503 }])
        const results = yield* Effect.forEach(Array.from({ length: 200 }), () => Effect.result(client.get(url)))
        const refused = results.filter((result) => Result.isFailure(result) && result.failure._tag === "Throttled")
        assert.isAbove(refused.length, 100)
        assert.strictEqual(server.seen.length, 200 - refused.length)
      })
    )
  })

  describe("cache", () => {
    it.effect("as zephyr, keeps an answer for 300 seconds, and refreshes it for a day", () =>
      Effect.gen(function* () {
        const { client, server } = yield* clientOf(Profile.zephyr, [{ body: "a" }, { body: "b" }])
        assert.strictEqual(yield* text(client.get(url)), "a")
        yield* TestClock.adjust(299_999)
        assert.strictEqual(yield* text(client.get(url)), "a")
        assert.strictEqual(server.seen.length, 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* text(client.get(url)), "a")
        yield* TestClock.adjust(0)
        assert.strictEqual(yield* text(client.get(url)), "b")
        yield* TestClock.adjust("2 days")
        assert.strictEqual(yield* text(client.get(url)), "b")
        assert.strictEqual(server.seen.length, 3)
      })
    )

    it.effect("keeps as many as the profile says, and stands in for errors as long as it says", () =>
      Effect.gen(function* () {
        const cache = { capacity: 1, timeToLive: 1000, staleIfError: 2000 }
        const { client, parts, server } = yield* clientOf({ cache }, [{ body: "a" }, { status: 500, body: "no" }])
        yield* text(client.get(url))
        yield* TestClock.adjust(2500)
        assert.strictEqual(yield* text(client.get(url)), "a")
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* text(client.get(url)), "no")
        const many = yield* clientOf({ cache }, [{ body: "a" }])
        for (const path of ["1", "2", "3"]) yield* text(many.client.get(`${url}/${path}`))
        assert.strictEqual((yield* many.parts.cache!.statistics).urls, 1)
        assert.strictEqual(server.seen.length, 3)
        assert.isDefined(parts.cache)
      })
    )

    it.effect("never keeps what HTTP forbids, or what was asked with credentials", () =>
      Effect.gen(function* () {
        const { client, server } = yield* clientOf(Profile.zephyr, [{ headers: { "cache-control": "no-store" } }, {}])
        yield* text(client.get(url))
        yield* text(client.get(url))
        yield* text(client.get(url, { headers: { authorization: "Bearer a" } }))
        assert.strictEqual(server.seen.length, 3)
      })
    )
  })

  describe("profile", () => {
    it.effect.each([
      ["cache.failureTimeToLive", { cache: { timeToLive: 1, failureTimeToLive: 1 } }],
      ["cache.idleTimeToLive", { cache: { timeToLive: 1, idleTimeToLive: 1 } }],
      ["cache.jitter", { cache: { timeToLive: 1, jitter: 0.1 } }],
      ["cache.refresh.ahead", { cache: { timeToLive: 1, refresh: { ahead: 0.1 } } }],
      ["cache.timeToLive", { cache: { timeToLive: "Infinity" } }],
      ["retry.times", { retry: { times: -1 } }],
      ["retries", { retries: {} }]
    ] as const)("refuses %s, by name", ([field, profile]) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(HttpResilience.fromProfile(profile, { name: "acme" }))
        assert.instanceOf(error, Profile.InvalidProfile)
        assert.deepStrictEqual([error.profile, error.issues.map((issue) => issue.field)], ["acme", [field]])
      })
    )

    it.effect("accepts what means nothing: no jitter, and failures that are not kept", () =>
      HttpResilience.fromProfile({
        cache: { timeToLive: 1, failureTimeToLive: 0, idleTimeToLive: "Infinity", jitter: 0, refresh: { ahead: 0 } }
      })
    )

    it.effect("sends a request as it is when the profile is empty", () =>
      Effect.gen(function* () {
        const { client, parts, server } = yield* clientOf({}, [{ status: 503 }])
        assert.strictEqual(yield* status(client.get(url)), 503)
        assert.deepStrictEqual([server.seen.length, server.seen[0]?.headers["x-request-timeout"]], [1, undefined])
        assert.isTrue(Object.values(parts).every((part) => part === undefined))
      })
    )

    it.effect("tells the number of the attempt, and runs the hook before each wait", () =>
      Effect.gen(function* () {
        const log: Array<number> = []
        const onRetry = ({ attempt }: { readonly attempt: number }) => Effect.sync(() => log.push(attempt))
        const options = { attemptHeader: "x-attempt", onRetry, isIdempotent: () => true, quota: {} }
        const headers = { "x-ratelimit-remaining": "3", "x-ratelimit-reset": "60" }
        const { client, quotas, server } = yield* clientOf(Profile.zephyr, [{ status: 503, headers }], options)
        yield* settled(client.execute(post), "10 seconds")
        assert.deepStrictEqual(
          server.seen.map(({ headers }) => headers["x-attempt"]),
          ["1", "2", "3", "4"]
        )
        assert.deepStrictEqual(log, [1, 2, 3])
        assert.strictEqual((yield* quotas("https://api.example.com")).length, 1)
      })
    )

    it.effect("shares its parts among the clients it makes", () =>
      Effect.gen(function* () {
        const { client, transform } = yield* clientOf({ bulkhead: { maxConcurrent: 1 } }, [{ body: "a" }])
        yield* client.get(url)
        assert.strictEqual(yield* tagOf(transform(script({}).client).get(url)), "BulkheadFull")
      })
    )

    it.effect("adds the errors of profiles, and needs a scope", () =>
      Effect.gen(function* () {
        expectTypeOf(HttpResilience.fromProfile({})).toEqualTypeOf<
          Effect.Effect<HttpResilience.ProfileResilience, Profile.InvalidProfile, Scope.Scope>
        >()
        const { client } = yield* clientOf({}, [{}])
        expectTypeOf(client).toEqualTypeOf<
          HttpClient.HttpClient.With<Profile.Errors | HttpClientError.HttpClientError>
        >()
      })
    )
  })

  describe("interruption", () => {
    it.effect.each([
      ["standard", {}],
      ["facade", { order: "facade" }]
    ] as const)("leaves no place and no connection behind at any operation, in the order %s", ([, order]) =>
      Effect.gen(function* () {
        const flaky = scripted((_, index) => (index % 3 < 2 ? { status: 503, body: "busy" } : { body: ["a", "b"] }))
        const resilient = yield* HttpResilience.fromProfile({
          ...order,
          timeout: "10 seconds",
          circuitBreaker: { failures: 1_000_000 },
          rateLimiter: { capacity: 100_000, refillPerSecond: 100_000 },
          retry: { schedule: "delays", delays: [0, 0, 0] },
          bulkhead: { maxConcurrent: 1, maxQueued: 1 },
          hedge: { delay: "Infinity", budget: { kind: "share", share: 1, minPerSecond: 100 } }
        })
        const call = Effect.scoped(text(HttpClient.withScope(resilient.transform(flaky.client)).get(url)))
        const check = Effect.gen(function* () {
          // What was given up is aborted by the runtime a moment later.
          yield* Effect.yieldNow
          assert.strictEqual(flaky.open(), 0)
          assert.deepStrictEqual(yield* resilient.parts.bulkhead!.state, { maxConcurrent: 1, running: 0, waiting: 0 })
        })
        const fiber = yield* Effect.forkChild(interruptEverywhere(call, check))
        yield* TestClock.adjust(0)
        for (let turn = 0; turn < 2000 && fiber.pollUnsafe() === undefined; turn++) yield* TestClock.adjust(1)
        assert.isAbove(yield* Fiber.join(fiber), 50)
      })
    )
  })
})
