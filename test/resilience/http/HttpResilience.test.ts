import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Clock, Context, Duration, Effect, Exit, Fiber, Result, Schedule, Stream } from "effect"
import {
  CircuitBreaker,
  Deadline,
  KeyedRateLimiter,
  type RateLimiter,
  Retry,
  RetryBudget,
  Timeout
} from "effect-resilience"
import { HttpResilience } from "effect-resilience/http"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpBody, HttpClient, HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"

import { script, scripted } from "../support/scriptedClient.ts"

const url = "https://api.example.com/things"
const schedule = Retry.delays(["1 second", "1 second", "1 second"])
const get = HttpClientRequest.get(url)
const post = HttpClientRequest.post(url)

// Runs a call to its end, whatever time that takes, and says when it ended.
const settled = <A, E, R>(call: Effect.Effect<A, E, R>, within: Duration.Input = "10 minutes") =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(
      Effect.timed(Effect.result(call)).pipe(
        Effect.map(([time, result]) => ({ millis: Duration.toMillis(time), result }))
      )
    )
    yield* TestClock.adjust(within)
    return yield* Fiber.join(fiber)
  })

const refusedAt = <A, E extends { readonly _tag: string }, R>(call: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Effect.flip(call), ({ _tag }) => Effect.map(Clock.currentTimeMillis, (millis) => [_tag, millis]))

const status = <E, R>(call: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.map(call, (response) => response.status)

describe("HttpResilience", () => {
  describe("retry", () => {
    it.effect.each([
      ["GET", {}, "Empty", true],
      ["HEAD", {}, "Empty", true],
      ["OPTIONS", {}, "Empty", true],
      ["TRACE", {}, "Empty", true],
      ["PUT", {}, "Text", true],
      ["DELETE", {}, "Empty", true],
      ["POST", {}, "Text", false],
      ["PATCH", {}, "Text", false],
      ["POST", { "Idempotency-Key": "k" }, "Text", true],
      ["PATCH", { "idempotency-key": "k" }, "FormData", true],
      ["PUT", {}, "Stream", false],
      ["POST", { "idempotency-key": "k" }, "Stream", false],
      ["PUT", {}, "Raw", false]
    ] as const)("sends a %s with %o and a body that is %s again: %s", ([method, headers, kind, again]) =>
      Effect.gen(function* () {
        const bodies = {
          Empty: HttpBody.empty,
          Text: HttpBody.text("text"),
          FormData: HttpBody.formData(new FormData()),
          Stream: HttpBody.stream(Stream.succeed(new Uint8Array([1]))),
          Raw: HttpBody.raw(new ReadableStream())
        }
        const server = script({ status: 503 }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const request = HttpClientRequest.make(method as "GET")(url, { headers, body: bodies[kind] })
        const { result } = yield* settled(status(transform(server.client).execute(request)))
        assert.deepStrictEqual(result, Result.succeed(again ? 200 : 503))
        assert.strictEqual(server.seen.length, again ? 2 : 1)
      })
    )

    it.effect.each([
      [200, false],
      [304, false],
      [400, false],
      [401, false],
      [404, false],
      [408, true],
      [409, false],
      [425, true],
      [429, true],
      [500, true],
      [501, false],
      [502, true],
      [503, true],
      [504, true],
      [505, false]
    ] as const)("retries the status %i: %s", ([code, again]) =>
      Effect.gen(function* () {
        const server = script({ status: code }, { status: 202 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const { result } = yield* settled(status(transform(server.client).execute(get)))
        assert.deepStrictEqual(result, Result.succeed(again ? 202 : code))
      })
    )

    it.effect.each([
      ["ECONNRESET", true, false],
      ["ETIMEDOUT", true, false],
      ["EPIPE", true, false],
      ["UND_ERR_SOCKET", true, false],
      ["UND_ERR_HEADERS_TIMEOUT", true, false],
      ["ECONNREFUSED", true, true],
      ["ENOTFOUND", true, true],
      ["EAI_AGAIN", true, true],
      ["ENETUNREACH", true, true],
      ["EHOSTUNREACH", true, true],
      ["UND_ERR_CONNECT_TIMEOUT", true, true],
      ["UND_ERR_INVALID_ARG", false, false],
      ["CERT_HAS_EXPIRED", false, false]
    ] as const)("after %s sends a GET again: %s, a POST: %s", ([code, getAgain, postAgain]) =>
      Effect.gen(function* () {
        for (const [request, again] of [
          [get, getAgain],
          [post, postAgain]
        ] as const) {
          const server = script({ code }, { status: 200 })
          const { transform } = yield* HttpResilience.make({ retry: { schedule } })
          const { result } = yield* settled(
            Effect.flatMap(transform(server.client).execute(request), (response) => response.text)
          )
          assert.strictEqual(Result.isSuccess(result), again)
          assert.strictEqual(server.open(), 0)
        }
      })
    )

    it.effect("never sends a stream twice, even if no connection was made", () =>
      Effect.gen(function* () {
        const server = script({ code: "ECONNREFUSED" }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const request = HttpClientRequest.bodyStream(post, Stream.succeed(new Uint8Array([1])))
        const { result } = yield* settled(transform(server.client).execute(request))
        assert.isTrue(Result.isFailure(result))
        assert.strictEqual(server.seen.length, 1)
      })
    )

    it.effect("answers with the last response, whose body is still there", () =>
      Effect.gen(function* () {
        const server = script({ status: 503, body: "first" }, { status: 500, body: "second" })
        const { transform } = yield* HttpResilience.make({ retry: { schedule: Retry.delays(["1 second"]) } })
        const { millis, result } = yield* settled(
          Effect.flatMap(transform(server.client).execute(get), (response) => response.text)
        )
        assert.deepStrictEqual(result, Result.succeed("second"))
        assert.strictEqual(millis, 1000)
        assert.strictEqual(server.open(), 0)
        assert.strictEqual(server.aborted(), 0)
      })
    )

    it.effect.each([
      ["3", 3000],
      ["0", 1000],
      ["Thu, 01 Jan 1970 00:00:05 GMT", 5000],
      ["61", 0],
      ["soon", 1000]
    ] as const)("after Retry-After: %s waits %i ms", ([value, waited]) =>
      Effect.gen(function* () {
        const server = script({ status: 503, headers: { "retry-after": value } }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const { millis, result } = yield* settled(status(transform(server.client).execute(get)))
        assert.strictEqual(millis, waited)
        assert.deepStrictEqual(result, Result.succeed(waited === 0 ? 503 : 200))
      })
    )

    it.effect("takes Retry-After-Ms for the finer value", () =>
      Effect.gen(function* () {
        const headers = { "retry-after": "9", "retry-after-ms": "1500" }
        const server = script({ status: 429, headers }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const { millis } = yield* settled(transform(server.client).execute(get))
        assert.strictEqual(millis, 1500)
      })
    )

    it.effect("reads a body that is thrown away to its end, before it waits", () =>
      Effect.gen(function* () {
        const server = script({ status: 503, body: ["a", "b", "c"] }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const fiber = yield* Effect.forkChild(transform(server.client).execute(get))
        yield* TestClock.adjust("500 millis")
        assert.deepStrictEqual([server.seen.length, server.open(), server.aborted()], [1, 0, 0])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect.each([
      ["says that it is long", { headers: { "content-length": "65537" }, body: "x" }, 0],
      ["is long", { body: Array.from({ length: 66 }, () => "x".repeat(1024)) }, 0],
      ["does not end", { body: "x", stalls: true }, 1000]
    ] as const)("aborts one that %s", ([, answer, spent]) =>
      Effect.gen(function* () {
        const server = script({ status: 503, ...answer }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const { millis, result } = yield* settled(status(transform(server.client).execute(get)))
        assert.deepStrictEqual(result, Result.succeed(200))
        assert.strictEqual(millis, 1000 + spent)
        assert.strictEqual(server.aborted(), 1)
      })
    )

    it.effect("pays for retries from the budget, by origin", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0, minPerSecond: 0.1, window: "10 seconds" })
        const server = script({ status: 500 })
        const { transform } = yield* HttpResilience.make({ retry: { schedule, budget } })
        yield* settled(transform(server.client).execute(get), "1 minute")
        assert.strictEqual(server.seen.length, 2)
        assert.strictEqual((yield* budget.state("https://api.example.com")).refused, 1)
      })
    )

    it.effect("numbers the attempts, and tells onRetry of them", () =>
      Effect.gen(function* () {
        const told: Array<unknown> = []
        const server = script({ status: 500 }, { code: "ECONNRESET" }, { status: 200 })
        const { transform } = yield* HttpResilience.make({
          retry: {
            schedule,
            attemptHeader: "X-Retry-Attempt",
            onRetry: ({ attempt, error }) => Effect.sync(() => told.push([attempt, (error as { _tag: string })._tag]))
          }
        })
        yield* settled(transform(server.client).execute(get))
        assert.deepStrictEqual(
          server.seen.map(({ headers }) => headers["x-retry-attempt"]),
          ["1", "2", "3"]
        )
        assert.deepStrictEqual(told, [
          [1, "ResponseRejected"],
          [2, "HttpClientError"]
        ])
      })
    )

    it.effect("leaves out what `while` says, and repeats what `isIdempotent` allows", () =>
      Effect.gen(function* () {
        const server = script({ status: 503 }, { status: 500 }, { status: 200 })
        const { transform } = yield* HttpResilience.make({
          retry: {
            schedule,
            isIdempotent: () => true,
            while: (error) => !(error instanceof HttpResilience.ResponseRejected && error.status === 500)
          }
        })
        const { result } = yield* settled(status(transform(server.client).execute(post)))
        assert.deepStrictEqual(result, Result.succeed(500))
        assert.strictEqual(server.seen.length, 2)
      })
    )
  })

  it.effect("closes the connection of a response that a predicate fails over", () =>
    Effect.gen(function* () {
      const server = script({ status: 503, body: "x", stalls: true })
      const { transform } = yield* HttpResilience.make({
        retry: {
          schedule,
          while: () => {
            throw new Error("a defect")
          }
        }
      })
      const exit = yield* Effect.exit(transform(server.client).execute(get))
      assert.isTrue(Exit.isFailure(exit) && String(exit.cause).includes("a defect"))
      assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
    })
  )

  describe("time", () => {
    it.effect("ends an attempt by its timeout and aborts it, and all of them by the deadline", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 hour" })
        const { transform } = yield* HttpResilience.make({
          deadline: "10 seconds",
          timeout: "3 seconds",
          retry: { schedule: Schedule.spaced("1 second") }
        })
        const { millis, result } = yield* settled(transform(server.client).execute(get))
        assert.strictEqual(millis, 10_000)
        assert.isTrue(Result.isFailure(result) && result.failure._tag === "DeadlineExceeded")
        assert.strictEqual(server.seen.length, 3)
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 3])
      })
    )

    it.effect("repeats a request whose attempt timed out only if it is idempotent", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 hour" }, {})
        const { transform } = yield* HttpResilience.make({ timeout: "3 seconds", retry: { schedule } })
        const { result } = yield* settled(transform(server.client).execute(post))
        assert.isTrue(Result.isFailure(result) && result.failure._tag === "TimedOut")
        assert.strictEqual(server.seen.length, 1)
      })
    )

    it.effect("tells the server the time that is left of each attempt", () =>
      Effect.gen(function* () {
        const server = script({ status: 503 })
        const { transform } = yield* HttpResilience.make({
          deadline: "10 seconds",
          timeout: "8 seconds",
          retry: { schedule }
        })
        yield* settled(transform(server.client).execute(get))
        assert.deepStrictEqual(
          server.seen.map(({ headers }) => headers["x-request-timeout"]),
          ["8000", "8000", "8000", "7000"]
        )
      })
    )

    it.effect.each([
      ["millis", "1500 millis", "1500"],
      ["seconds", "2999 millis", "2"],
      ["grpc", "1500 millis", "1500m"],
      ["grpc", "2 days", "172800S"],
      ["grpc", Duration.millis(1e12), "277777H"]
    ] as const)("writes it in the format %s: %s is %s", ([format, time, written]) =>
      Effect.gen(function* () {
        const server = script({})
        const { transform } = yield* HttpResilience.make({ deadlineHeader: { name: "Grpc-Timeout", format } })
        yield* transform(server.client).execute(get).pipe(Deadline.within(time))
        assert.strictEqual(server.seen[0]?.headers["grpc-timeout"], written)
      })
    )

    it.effect("tells nothing where there is no end, or where that is not wanted", () =>
      Effect.gen(function* () {
        const server = script({})
        const endless = yield* HttpResilience.make({})
        yield* endless.transform(server.client).execute(get)
        const silent = yield* HttpResilience.make({ deadlineHeader: "none", timeout: "1 second" })
        yield* silent.transform(server.client).execute(get)
        for (const { headers } of server.seen) assert.notProperty(headers, "x-request-timeout")
      })
    )

    it.effect("lets a body take longer than timeout and deadline, but not pause", () =>
      Effect.gen(function* () {
        const server = script({ body: ["a", "b"], stalls: true })
        const { transform } = yield* HttpResilience.make({ timeout: "1 second", deadline: "2 seconds" })
        const response = yield* transform(server.client).execute(get)
        const read: Array<string> = []
        const { millis, result } = yield* settled(
          response.stream.pipe(
            Stream.decodeText(),
            Stream.runForEach((text) =>
              Effect.delay(
                Effect.sync(() => read.push(text)),
                "50 seconds"
              )
            )
          )
        )
        assert.deepStrictEqual(read, ["a", "b"])
        assert.strictEqual(millis, 160_000)
        assert.isTrue(Result.isFailure(result))
        if (Result.isFailure(result)) {
          assert.strictEqual(result.failure.reason._tag, "TransportError")
          assert.instanceOf(result.failure.cause, Timeout.TimedOut)
        }
        assert.strictEqual(server.aborted(), 1)
      })
    )
  })

  describe("circuit breaker", () => {
    it.effect.each([
      [{ status: 500 }, "failure"],
      [{ status: 501 }, "failure"],
      [{ status: 503 }, "failure"],
      [{ status: 408 }, "failure"],
      [{ code: "ECONNRESET" }, "failure"],
      [{ after: "1 hour" }, "failure"],
      [{ status: 429 }, "ignored"],
      [{ status: 404 }, "success"],
      [{ status: 425 }, "success"],
      [{ status: 200 }, "success"]
    ] as const)("counts %o as %s", ([answer, outcome]) =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make()
        const { transform } = yield* HttpResilience.make({ circuitBreaker: breaker, timeout: "1 second" })
        yield* settled(transform(script(answer).client).execute(get))
        const { failures, ignored, successes } = yield* breaker.statistics("https://api.example.com")
        assert.deepStrictEqual(
          { failures, ignored, successes },
          {
            failures: 0,
            ignored: 0,
            successes: 0,
            [outcome === "ignored" ? outcome : `${outcome}s`.replace("sss", "sses")]: 1
          }
        )
      })
    )

    it.effect("has a circuit per origin, open for as long as Retry-After says", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: "1 second" })
        const server = scripted(({ url }) =>
          url.startsWith("https://a.test/") ? { status: 503, headers: { "retry-after": "20" } } : {}
        )
        const { transform } = yield* HttpResilience.make({ circuitBreaker: breaker })
        const client = transform(server.client)
        yield* client.get("https://a.test/1")
        const refused = yield* Effect.flip(client.get("https://a.test/2"))
        assert.isTrue(refused._tag === "CircuitOpen")
        if (refused._tag === "CircuitOpen") {
          assert.strictEqual(refused.key, "https://a.test")
          assert.deepStrictEqual(refused.retryAfter, Duration.seconds(20))
        }
        assert.strictEqual((yield* client.get("https://b.test/")).status, 200)
        assert.strictEqual((yield* client.get("https://a.test:8443/")).status, 200)
      })
    )

    it.effect("ends the retries when it opens, unless a deadline allows to wait for it", () =>
      Effect.gen(function* () {
        const withBreaker = (deadline?: Duration.Input) =>
          Effect.gen(function* () {
            const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: "5 seconds", successesToClose: 1 })
            const server = script({ status: 500 }, { status: 200 })
            const { transform } = yield* HttpResilience.make({ circuitBreaker: breaker, retry: { schedule }, deadline })
            return yield* settled(status(transform(server.client).execute(get)))
          })
        const without = yield* withBreaker()
        assert.strictEqual(without.millis, 1000)
        assert.isTrue(Result.isFailure(without.result) && without.result.failure._tag === "CircuitOpen")
        const within = yield* withBreaker("20 seconds")
        assert.deepStrictEqual(within.result, Result.succeed(200))
        assert.strictEqual(within.millis, 5000)
        const short = yield* withBreaker("3 seconds")
        assert.strictEqual(short.millis, 1000)
        assert.isTrue(Result.isFailure(short.result) && short.result.failure._tag === "CircuitOpen")
      })
    )
  })

  describe("rate limiter", () => {
    it.effect("takes a token of the origin for every attempt, and slows down after a 429", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ capacity: 10, refillPerSecond: 10 })
        const server = script({ status: 503 }, { status: 429, headers: { "retry-after": "7" } }, { status: 200 })
        const { transform } = yield* HttpResilience.make({ rateLimiter: limiter, retry: { schedule } })
        const { millis, result } = yield* settled(status(transform(server.client).execute(get)), "8 seconds")
        assert.deepStrictEqual(result, Result.succeed(200))
        assert.strictEqual(millis, 8000)
        const state = yield* limiter.state("https://api.example.com")
        assert.strictEqual(state.refillPerSecond, 5)
      })
    )

    it.effect("gives the place in line back when the caller goes away", () =>
      Effect.gen(function* () {
        const limiter = yield* KeyedRateLimiter.make({ capacity: 1, refillPerSecond: 0.1 })
        const { transform } = yield* HttpResilience.make({ rateLimiter: limiter })
        const client = transform(script({}).client)
        yield* client.get(url)
        const fiber = yield* Effect.forkChild(client.get(url))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* limiter.state("https://api.example.com")).waiting, 0)
      })
    )
  })

  describe("quota", () => {
    it.effect("waits for the reset instead of being refused", () =>
      Effect.gen(function* () {
        // A server that takes 3 requests in 10 seconds and says so.
        let taken = 0
        let refused = 0
        let windowStart = 0
        const clock = yield* Clock.Clock
        const server = scripted(() => {
          const now = clock.currentTimeMillisUnsafe()
          if (now - windowStart >= 10_000) {
            windowStart = now
            taken = 0
          }
          if (taken === 3) refused++
          else taken++
          return {
            status: refused > 0 ? 429 : 200,
            headers: {
              ratelimit: `"default";r=${3 - taken};t=${Math.ceil((windowStart + 10_000 - now) / 1000)}`,
              "ratelimit-policy": '"default";q=3;w=10'
            }
          }
        })
        const resilience = yield* HttpResilience.make({ quota: {} })
        const client = resilience.transform(server.client)
        yield* client.get(url)
        assert.deepStrictEqual(
          (yield* resilience.quotas("https://api.example.com")).map(({ remaining, resetAfter }) => [
            remaining,
            resetAfter
          ]),
          [[2, Duration.seconds(10)]]
        )
        const times = yield* Effect.all(
          Array.from({ length: 8 }, () =>
            Effect.as(client.get(url), undefined).pipe(Effect.flatMap(() => Clock.currentTimeMillis))
          ),
          { concurrency: "unbounded" }
        ).pipe(Effect.forkChild)
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual(yield* Fiber.join(times), [0, 0, 10_000, 10_000, 10_000, 20_000, 20_000, 20_000])
        assert.strictEqual(refused, 0)
      })
    )

    it.effect("refuses at once what would wait too long, or past its deadline", () =>
      Effect.gen(function* () {
        const headers = { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "45" }
        const { transform } = yield* HttpResilience.make({ quota: { maxWait: "50 seconds" } })
        const client = transform(script({ headers }).client)
        yield* client.get(url)
        const refusal = yield* client.get(url).pipe(Deadline.within("40 seconds"), Effect.flip)
        assert.isTrue(refusal._tag === "RateLimited")
        if (refusal._tag === "RateLimited") {
          assert.deepStrictEqual([refusal.key, refusal.retryAfter], ["https://api.example.com", Duration.seconds(45)])
        }
        const { millis } = yield* settled(client.get(url))
        assert.strictEqual(millis, 45_000)
        const strict = yield* HttpResilience.make({ quota: { maxWait: "44 seconds" } })
        const impatient = strict.transform(script({ headers }).client)
        yield* impatient.get(url)
        assert.strictEqual((yield* Effect.flip(impatient.get(url)))._tag, "RateLimited")
      })
    )

    it.effect("lets nobody go while a 429 asks for peace, and then one first", () =>
      Effect.gen(function* () {
        const server = script({ status: 429, headers: { "retry-after": "5" } }, { after: "10 seconds" })
        const { transform } = yield* HttpResilience.make({ quota: {} })
        const client = transform(server.client)
        yield* client.get(url)
        yield* Effect.all([client.get(url), client.get(url)], { concurrency: 2 }).pipe(Effect.forkChild)
        yield* TestClock.adjust("4999 millis")
        assert.strictEqual(server.seen.length, 1)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(server.seen.length, 2)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(server.seen.length, 3)
      })
    )

    it.effect("counts requests under way as taken, because the server may not have counted them yet", () =>
      Effect.gen(function* () {
        const headers = { "x-ratelimit-remaining": "2", "x-ratelimit-reset": "20" }
        const server = scripted((_, index) => (index === 1 ? { after: "5 seconds" } : { headers }))
        const resilience = yield* HttpResilience.make({ quota: {} })
        const client = resilience.transform(server.client)
        yield* client.get(url)
        const slow = yield* Effect.forkChild(client.get(url))
        yield* TestClock.adjust("1 second")
        yield* client.get(url)
        assert.deepStrictEqual(
          (yield* resilience.quotas("https://api.example.com")).map(({ remaining }) => remaining),
          [1]
        )
        yield* Fiber.interrupt(slow)
      })
    )

    it.effect("counts all the time that a request has waited", () =>
      Effect.gen(function* () {
        const headers = { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5" }
        const { transform } = yield* HttpResilience.make({ quota: { maxWait: "5500 millis" } })
        const client = transform(script({ headers }).client)
        yield* client.get(url)
        const both = yield* Effect.forkChild(
          Effect.all([Effect.result(client.get(url)), refusedAt(client.get(url))], { concurrency: 2 })
        )
        yield* TestClock.adjust("1 minute")
        const [first, second] = yield* Fiber.join(both)
        assert.isTrue(Result.isSuccess(first))
        assert.deepStrictEqual(second, ["RateLimited", 5000])
      })
    )

    it.effect("goes on as before when the answer after a pause names no limit", () =>
      Effect.gen(function* () {
        const server = script({ status: 429, headers: { "retry-after": "5" } }, {})
        const { transform } = yield* HttpResilience.make({ quota: {} })
        const client = transform(server.client)
        yield* client.get(url)
        const { millis } = yield* settled(
          Effect.andThen(client.get(url), Effect.andThen(client.get(url), client.get(url)))
        )
        assert.strictEqual(millis, 5000)
      })
    )

    it.effect("keeps at most maxQueued waiting", () =>
      Effect.gen(function* () {
        const headers = { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5" }
        const { transform } = yield* HttpResilience.make({ quota: { maxQueued: 1 } })
        const client = transform(script({ headers }).client)
        yield* client.get(url)
        const first = yield* Effect.forkChild(client.get(url))
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Effect.flip(client.get(url)))._tag, "RateLimited")
        yield* Fiber.interrupt(first)
        const second = yield* Effect.forkChild(client.get(url))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* Fiber.join(second)).status, 200)
      })
    )

    it.effect.each([
      ["is in the past", { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "0" }],
      ["is years away", { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999" }],
      ["is missing", { "x-ratelimit-remaining": "0" }],
      ["is no number", { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon" }],
      ["belongs to a count that is none", { "x-ratelimit-remaining": "-1", "x-ratelimit-reset": "60" }],
      ["belongs to two counts", { "x-ratelimit-remaining": "0, 5", "x-ratelimit-reset": "60" }],
      ["is in a field that is not well-formed", { ratelimit: '"a";r=0;t=60,' }]
    ] as const)("takes no notice of a reset that %s", ([, headers]) =>
      Effect.gen(function* () {
        const { transform } = yield* HttpResilience.make({ quota: {} })
        const client = transform(script({ headers }).client)
        yield* client.get(url)
        const { millis } = yield* settled(client.get(url))
        assert.strictEqual(millis, 0)
      })
    )
  })

  describe("interruption", () => {
    it.effect("of the caller aborts the request", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 hour" })
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const fiber = yield* Effect.forkChild(transform(server.client).execute(get))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(server.open(), 1)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
      })
    )

    it.effect("of the reader aborts it too, and so does the end of a scope", () =>
      Effect.gen(function* () {
        const server = script({ body: "x", stalls: true })
        const { transform } = yield* HttpResilience.make({})
        const client = transform(server.client)
        const reader = yield* Effect.forkChild(Effect.flatMap(client.get(url), (response) => response.text))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(reader)
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
        yield* Effect.scoped(HttpClient.withScope(client).get(url))
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 2])
        const first = yield* Effect.flatMap(client.get(url), ({ stream }) => Stream.runHead(stream))
        assert.strictEqual(first._tag, "Some")
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 3])
      })
    )

    it.effect("leaks no connection, no probe and no place in line, at any operation", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1000 })
        const limiter = yield* KeyedRateLimiter.make({ capacity: 1e9, refillPerSecond: 1e9 })
        const server = scripted(({ headers }) =>
          headers["x-attempt"] === "1" ? { status: 503, body: "no" } : { body: ["a", "b"] }
        )
        const resilience = yield* HttpResilience.make({
          deadline: "1 hour",
          timeout: "1 minute",
          circuitBreaker: breaker,
          rateLimiter: limiter,
          quota: {},
          retry: { schedule: Retry.delays(["0 millis"]), attemptHeader: "x-attempt" }
        })
        const client = HttpClient.withScope(resilience.transform(server.client))
        const call = Effect.scoped(Effect.flatMap(client.get(url), (response) => response.text))
        const check = Effect.gen(function* () {
          assert.strictEqual(server.open(), 0)
          assert.strictEqual((yield* limiter.statistics).waiting, 0)
        })
        const operations = yield* interruptEverywhere(call, check)
        assert.isAbove(operations, 50)
        assert.strictEqual(yield* client.get(url).pipe(Effect.scoped, status), 200)
      })
    )
  })

  describe("client", () => {
    it.effect("sends what was prepared before, and once", () =>
      Effect.gen(function* () {
        let prepared = 0
        const server = script({ status: 503 }, {})
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const client = server.client.pipe(
          HttpClient.mapRequestEffect((request) =>
            Effect.sync(() => HttpClientRequest.setHeader(request, "x-number", String(++prepared)))
          ),
          transform,
          HttpClient.mapRequest(HttpClientRequest.setHeader("x-outside", "yes"))
        )
        yield* settled(client.execute(get))
        assert.deepStrictEqual(
          server.seen.map(({ headers }) => [headers["x-number"], headers["x-outside"]]),
          [
            ["1", "yes"],
            ["1", "yes"]
          ]
        )
      })
    )

    it.effect("reads bodies in every form", () =>
      Effect.gen(function* () {
        const body = (text: string) =>
          Effect.map(HttpResilience.make({}), ({ transform }) => transform(script({ body: text }).client).get(url))
        assert.deepStrictEqual(yield* Effect.flatMap(yield* body('{"a":[1]}'), (response) => response.json), { a: [1] })
        assert.strictEqual(yield* Effect.flatMap(yield* body(""), (response) => response.json), null)
        assert.strictEqual(
          (yield* Effect.flatMap(yield* body("{"), (r) => Effect.flip(r.json))).reason._tag,
          "DecodeError"
        )
        const bytes = yield* Effect.flatMap(yield* body("ab"), (response) => response.arrayBuffer)
        assert.deepStrictEqual([...new Uint8Array(bytes)], [97, 98])
        const params = yield* Effect.flatMap(yield* body("?a=1&b=2"), (response) => response.urlParamsBody)
        assert.deepStrictEqual(params.params, [
          ["?a", "1"],
          ["b", "2"]
        ])
      })
    )

    it.effect("fails as the client inside does where the URL is none", () =>
      Effect.gen(function* () {
        const { transform } = yield* HttpResilience.make({ retry: { schedule } })
        const error = yield* Effect.flip(transform(script({}).client).get("no url"))
        assert.strictEqual(error.reason._tag, "InvalidUrlError")
      })
    )

    it.effect("adds to the type the errors of its parts alone", () =>
      Effect.gen(function* () {
        type ClientError = HttpClientError.HttpClientError
        const { client } = script({})
        const nothing = (yield* HttpResilience.make({ retry: { schedule }, bodyIdleTimeout: "1 second" })).transform(
          client
        )
        expectTypeOf(nothing).toEqualTypeOf<HttpClient.HttpClient.With<ClientError>>()
        const timeout = (yield* HttpResilience.make({ timeout: "1 second" })).transform(client)
        expectTypeOf(timeout).toEqualTypeOf<HttpClient.HttpClient.With<ClientError | Timeout.TimedOut>>()
        const quota = (yield* HttpResilience.make({ quota: {} })).transform(client)
        expectTypeOf(quota).toEqualTypeOf<HttpClient.HttpClient.With<ClientError | RateLimiter.RateLimited>>()
        const circuitBreaker = yield* CircuitBreaker.make()
        const rateLimiter = yield* KeyedRateLimiter.make({ capacity: 1, refillPerSecond: 1 })
        const all = (yield* HttpResilience.make({
          deadline: "1 second",
          timeout: "1 second",
          circuitBreaker,
          rateLimiter
        })).transform(client)
        expectTypeOf(all).toEqualTypeOf<
          HttpClient.HttpClient.With<
            | ClientError
            | RateLimiter.RateLimited
            | Timeout.TimedOut
            | CircuitBreaker.CircuitOpen
            | Deadline.DeadlineExceeded
          >
        >()
        class Delays extends Context.Service<Delays, number>()("Delays") {}
        const needing = (yield* HttpResilience.make({
          retry: { schedule, onRetry: () => Effect.asVoid(Delays) }
        })).transform(client)
        expectTypeOf(needing).toEqualTypeOf<HttpClient.HttpClient.With<ClientError, Delays>>()
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      ["deadline", { deadline: 0 }],
      ["timeout", { timeout: 0 }],
      ["bodyIdleTimeout", { bodyIdleTimeout: 0 }],
      ["quota.maxWait", { quota: { maxWait: -1 } }],
      ["quota.maxQueued", { quota: { maxQueued: 0.5 } }],
      ["quota.maxReset", { quota: { maxReset: "Infinity" } }],
      ["quota.maxKeys", { quota: { maxKeys: 0 } }]
    ] as const)("dies of %s %o", ([name, options]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(HttpResilience.make(options as object))
        assert.isTrue(Exit.isFailure(exit) && String(exit.cause).includes(`HttpResilience: ${name} must be`))
      })
    )
  })
})
