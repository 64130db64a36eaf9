import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Data, Duration, Effect, Exit, Schema } from "effect"
import { Bulkhead, CircuitBreaker, ErrorPattern, Retry, Timeout } from "effect-resilience"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"

class Unavailable extends Data.TaggedError("Unavailable")<{ readonly status: number }> {}
class NotFound extends Data.TaggedError("NotFound")<{}> {}

const coded = (code: string, message = "", options?: ErrorOptions) =>
  Object.assign(new Error(message, options), { code })
const causedBy = (cause: unknown, depth: number): unknown =>
  depth === 0 ? cause : new Error("outer", { cause: causedBy(cause, depth - 1) })

const request = HttpClientRequest.get("http://localhost/")
const responded = (status: number) =>
  new HttpClientError.HttpClientError({
    reason: new HttpClientError.StatusCodeError({
      request,
      response: HttpClientResponse.fromWeb(request, new Response(null, { status }))
    })
  })
const transport = (cause: unknown) =>
  new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })

// What nobody expects to be thrown, and somebody throws.
const throwing = () => {
  throw new Error("do not look")
}
const looped: { cause?: unknown } = {}
looped.cause = looped
const ring = new Error("ring", { cause: new Error("link") })
Object.assign(ring.cause as Error, { cause: ring })
const revoked = Proxy.revocable({}, {})
revoked.revoke()
const endless = (): object =>
  new Proxy({}, { get: (_, key) => (key === "cause" || key === "errors" || key === "reason" ? endless() : undefined) })
const odd: ReadonlyArray<readonly [string, unknown]> = [
  ["undefined", undefined],
  ["null", null],
  ["a number", 503],
  ["a bigint", 1n],
  ["a symbol", Symbol("odd")],
  ["a function", () => 1],
  ["an empty string", ""],
  ["an array", [1, 2]],
  ["an object without a prototype", Object.create(null)],
  [
    "getters that throw",
    Object.defineProperties({}, Object.fromEntries(keys().map((key) => [key, { get: throwing }])))
  ],
  ["a proxy that throws", new Proxy({}, { get: throwing, has: throwing, getPrototypeOf: throwing, ownKeys: throwing })],
  ["a revoked proxy", revoked.proxy],
  ["its own cause", looped],
  ["a ring of causes", ring],
  ["causes without end", endless()],
  ["properties of other types", Object.fromEntries(keys().map((key) => [key, { toString: throwing }]))],
  ["symbols as properties", Object.fromEntries(keys().map((key) => [key, Symbol(key)]))],
  ["a status that is no status", { status: 1e9, statusCode: NaN, response: { status: "503" } }]
]

function keys() {
  return ["_tag", "status", "statusCode", "response", "$metadata", "code", "message", "cause", "reason", "errors"]
}

describe("ErrorPattern", () => {
  describe("tag", () => {
    it("matches an error by its tag, and narrows it", () => {
      const pattern = ErrorPattern.tag("Unavailable", "TimedOut")
      const error: unknown = new Unavailable({ status: 503 })
      assert.isTrue(pattern(error))
      assert.isTrue(pattern(new Timeout.TimedOut({ after: Duration.seconds(1) })))
      assert.isFalse(pattern(new NotFound()))
      if (pattern(error)) expectTypeOf(error).toEqualTypeOf<{ readonly _tag: "Unavailable" | "TimedOut" }>()
    })

    it("does not look at causes: a tag says what has happened here", () => {
      assert.isFalse(ErrorPattern.tag("NotFound")(new Error("outer", { cause: new NotFound() })))
    })
  })

  describe("reason", () => {
    it("matches an error by the tag of its reason", () => {
      assert.isTrue(ErrorPattern.reason("TransportError")(transport(new Error("gone"))))
      assert.isFalse(ErrorPattern.reason("TransportError")(responded(500)))
      assert.isFalse(ErrorPattern.reason("NotFound")(new NotFound()))
    })
  })

  describe("status", () => {
    it.each([
      ["status", new Unavailable({ status: 503 })],
      ["statusCode", { statusCode: 503 }],
      ["a response", { response: { status: 503 } }],
      ["a response of Node", { response: { statusCode: 503 } }],
      ["metadata", { $metadata: { httpStatusCode: 503 } }],
      ["Effect's HTTP client", responded(503)],
      ["a cause", causedBy({ status: 503 }, 3)],
      ["a cause that is no error, beside a code that is no status", { code: 404, cause: { statusCode: 503 } }]
    ])("finds it in %s", (_, error) => {
      assert.isTrue(ErrorPattern.status(503)(error))
      assert.isTrue(ErrorPattern.status(404, "5xx")(error))
      assert.isFalse(ErrorPattern.status(500, "4xx")(error))
    })

    it("takes the outermost when there are several", () => {
      const error = Object.assign(new Error("no", { cause: { status: 503 } }), { status: 404 })
      assert.isTrue(ErrorPattern.status(404)(error))
      assert.isFalse(ErrorPattern.status(503)(error))
    })

    it.each([
      ["5xx", 499, false],
      ["5xx", 500, true],
      ["5xx", 599, true],
      ["1xx", 100, true],
      ["1xx", 99, false]
    ] as const)("%s for %i is %s", (wanted, status, expected) => {
      assert.strictEqual(ErrorPattern.status(wanted)({ status }), expected)
    })

    it("matches responses too", () => {
      assert.isTrue(ErrorPattern.status(503)(HttpClientResponse.fromWeb(request, new Response(null, { status: 503 }))))
    })

    it("throws when built of what is no status", () => {
      for (const wanted of [99, 600, 503.5, NaN]) assert.throws(() => ErrorPattern.status(wanted), RangeError, /status/)
      assert.throws(() => ErrorPattern.status("6xx" as "5xx"), RangeError, "got 6xx")
    })
  })

  describe("code", () => {
    it("finds it in the error, its causes, and the errors of an aggregate", () => {
      const reset = coded("ECONNRESET")
      const pattern = ErrorPattern.code("ECONNRESET")
      for (const error of [
        reset,
        causedBy(reset, 1),
        causedBy(reset, 10),
        transport(new TypeError("fetch failed", { cause: reset })),
        new AggregateError([new Error("first"), reset]),
        new TypeError("fetch failed", { cause: new AggregateError([coded("EHOSTUNREACH"), reset]) }),
        { reason: { cause: reset } }
      ])
        assert.isTrue(pattern(error))
      assert.isFalse(pattern(coded("ECONNREFUSED")))
      assert.isFalse(pattern(coded("ECONNRESET2")))
      assert.isFalse(pattern(new Error("ECONNRESET")))
    })

    it("looks at 16 values, and no further", () => {
      assert.isTrue(ErrorPattern.code("DEEP")(causedBy(coded("DEEP"), 15)))
      assert.isFalse(ErrorPattern.code("DEEP")(causedBy(coded("DEEP"), 16)))
      let read = 0
      const counting = (): object =>
        new Proxy(
          {},
          {
            get: (_, key) => {
              if (key === "code") read++
              return key === "code" ? undefined : counting()
            }
          }
        )
      assert.isFalse(ErrorPattern.code("DEEP")(counting()))
      assert.strictEqual(read, 16)
    })

    it("takes a star at the end for all that begin like it", () => {
      const pattern = ErrorPattern.code("UND_ERR_*")
      assert.isTrue(pattern(coded("UND_ERR_SOCKET")))
      assert.isFalse(pattern(coded("UND_SOCKET")))
      assert.isFalse(ErrorPattern.code("UND_ERR")(coded("UND_ERR_SOCKET")))
    })

    it("throws when built of nothing", () => {
      for (const code of ["", "*"]) assert.throws(() => ErrorPattern.code(code), RangeError, `got "${code}"`)
    })
  })

  describe("text", () => {
    it("finds a text in either case, or what an expression describes, in messages and strings", () => {
      const pattern = ErrorPattern.text("Socket hang up", /^rate.limit/)
      assert.isTrue(pattern(new Error("read: socket hang up")))
      assert.isTrue(pattern("SOCKET HANG UP"))
      assert.isTrue(pattern(causedBy(new Error("rate limit"), 2)))
      assert.isFalse(pattern(new Error("Rate limit")))
      assert.isFalse(pattern(new Error("over the rate limit")))
      assert.isFalse(pattern({ message: { text: "socket hang up" } }))
    })

    it("gives the same answer every time with a global or sticky expression", () => {
      for (const expression of [/hang/g, /hang/y, /hang/gi]) {
        const pattern = ErrorPattern.text(expression)
        assert.deepStrictEqual([pattern("hang"), pattern("hang"), pattern("hang")], [true, true, true])
        assert.strictEqual(expression.lastIndex, 0)
      }
    })

    it("looks at the first 10,000 characters", () => {
      assert.isTrue(ErrorPattern.text("end")("x".repeat(9_997) + "end"))
      assert.isFalse(ErrorPattern.text("end")("x".repeat(9_998) + "end"))
    })

    it("throws when built of an empty text, which would match everything", () => {
      assert.throws(() => ErrorPattern.text(""), RangeError, "must not be empty")
    })
  })

  describe("any, all, not", () => {
    const yes: ErrorPattern.ErrorPattern = () => true
    const no: ErrorPattern.ErrorPattern = () => false

    it.each([
      ["any()", ErrorPattern.any(), false],
      ["any(no, yes)", ErrorPattern.any(no, yes), true],
      ["any(no, no)", ErrorPattern.any(no, no), false],
      ["all()", ErrorPattern.all(), true],
      ["all(yes, no)", ErrorPattern.all(yes, no), false],
      ["all(yes, yes)", ErrorPattern.all(yes, yes), true],
      ["not(yes)", ErrorPattern.not(yes), false],
      ["not(no)", ErrorPattern.not(no), true]
    ] as const)("%s", (_, pattern, expected) => {
      assert.strictEqual(pattern("error"), expected)
    })
  })

  describe("network and transient", () => {
    it.each([
      "ECONNRESET",
      "ETIMEDOUT",
      "ECONNREFUSED",
      "ENOTFOUND",
      "ENETUNREACH",
      "UND_ERR_SOCKET",
      "UND_ERR_CONNECT_TIMEOUT",
      "UND_ERR_HEADERS_TIMEOUT"
    ])("match %s", (code) => {
      const error = transport(new TypeError("fetch failed", { cause: coded(code) }))
      assert.isTrue(ErrorPattern.network(error))
      assert.isTrue(ErrorPattern.transient(error))
    })

    it("match a socket that hung up", () => {
      assert.isTrue(ErrorPattern.network(new Error("socket hang up")))
      assert.isTrue(ErrorPattern.transient(new Error("socket hang up")))
    })

    it("do not match what was wrong with the request, or given up", () => {
      for (const code of ["UND_ERR_INVALID_ARG", "UND_ERR_ABORTED", "UND_ERR_NOT_SUPPORTED", "ERR_INVALID_URL"]) {
        assert.isFalse(ErrorPattern.transient(coded(code)), code)
      }
    })

    it("differ in statuses and timeouts", () => {
      const timedOut = new Timeout.TimedOut({ after: Duration.seconds(1) })
      for (const error of [timedOut, ...[408, 429, 500, 502, 503, 504].map(responded)]) {
        assert.isFalse(ErrorPattern.network(error))
        assert.isTrue(ErrorPattern.transient(error))
      }
      for (const error of [400, 401, 403, 404, 409, 501].map(responded)) assert.isFalse(ErrorPattern.transient(error))
    })
  })

  describe("fromSpec", () => {
    // The lists of two providers, as they stand in a profile.
    const zephyr = {
      codes: ["ECONNRESET", "ETIMEDOUT", "ECONNREFUSED", "ENOTFOUND", "ENETUNREACH"],
      statuses: [500, 503],
      texts: ["socket hang up"]
    }
    const qtest = { codes: ["ECONNRESET", "ETIMEDOUT", "ECONNREFUSED"], statuses: [429, 503] }
    const decode = Schema.decodeUnknownSync(ErrorPattern.Spec)

    it.each([
      ["ECONNRESET", coded("ECONNRESET"), true, true],
      ["ENOTFOUND", coded("ENOTFOUND"), true, false],
      ["ENETUNREACH in a cause", transport(coded("ENETUNREACH")), true, false],
      ["socket hang up", new Error("socket hang up"), true, false],
      ["429", responded(429), false, true],
      ["500", responded(500), true, false],
      ["503", { response: { status: 503 } }, true, true],
      ["502", responded(502), false, false],
      ["a message that only has the digits in it", new Error("took 1500 ms"), false, false]
    ] as const)("tells two providers apart by %s", (_, error, isZephyr, isQtest) => {
      assert.strictEqual(ErrorPattern.fromSpec(decode(zephyr))(error), isZephyr)
      assert.strictEqual(ErrorPattern.fromSpec(decode(JSON.parse(JSON.stringify(qtest))))(error), isQtest)
    })

    it("knows every kind of pattern, and exceptions from them", () => {
      const pattern = ErrorPattern.fromSpec(
        decode({
          tags: ["Unavailable"],
          reasons: ["TransportError"],
          statuses: ["5xx"],
          codes: ["UND_ERR_*"],
          texts: [{ regExp: "^too many" }, { regExp: "^Exact$", flags: "" }],
          except: { statuses: [501], texts: ["certificate"] }
        })
      )
      assert.isTrue(pattern(new Unavailable({ status: 400 })))
      assert.isTrue(pattern(transport(new Error("gone"))))
      assert.isTrue(pattern(responded(502)))
      assert.isTrue(pattern(coded("UND_ERR_SOCKET")))
      assert.isTrue(pattern("Too many requests"))
      assert.isTrue(pattern("Exact"))
      assert.isFalse(pattern("exact"))
      assert.isFalse(pattern(responded(501)))
      assert.isFalse(pattern(transport(new Error("bad certificate"))))
    })

    it("matches nothing without lists", () => {
      assert.isFalse(ErrorPattern.fromSpec({})(new Error("any")))
    })

    it.each([
      [{ statuses: [42] }, /statuses/],
      [{ statuses: ["6xx"] }, /statuses/],
      [{ codes: ["*"] }, /codes/],
      [{ codes: ["A*B"] }, /codes/],
      [{ texts: [""] }, /texts/],
      [{ texts: [{ regExp: "(" }] }, /texts/],
      [{ texts: [{ regExp: "a", flags: "q" }] }, /texts/],
      [{ except: { statuses: [0] } }, /except/]
    ])("refuses %j, and names the field", (spec, named) => {
      assert.throws(() => decode(spec), named)
    })
  })

  describe("outcome", () => {
    const classify = ErrorPattern.outcome({
      failure: ErrorPattern.transient,
      ignored: ErrorPattern.status(429)
    })

    it.effect.each([
      ["a success", Exit.succeed(1), "success"],
      ["an error that is a failure", Exit.fail(responded(503)), "failure"],
      ["an error that is an answer", Exit.fail(responded(404)), "success"],
      ["an error that says nothing, although it is a failure", Exit.fail(responded(429)), "ignored"],
      ["a defect", Exit.die(responded(404)), "failure"],
      ["an interruption", Exit.interrupt(1), "ignored"],
      [
        "an answer beside a failure",
        Exit.failCause(Cause.combine(Cause.fail(responded(404)), Cause.fail(responded(500)))),
        "failure"
      ],
      [
        "an answer beside nothing",
        Exit.failCause(Cause.combine(Cause.fail(responded(404)), Cause.interrupt(1))),
        "success"
      ],
      ["a refusal", Exit.fail(new Bulkhead.BulkheadFull({ running: 1, waiting: 0 })), "ignored"]
    ] as const)("reads %s", ([, exit, expected]) => Effect.sync(() => assert.strictEqual(classify(exit), expected)))

    it("reads exits as the breaker does when nothing is said", () => {
      const plain = ErrorPattern.outcome({})
      for (const exit of [
        Exit.succeed(1),
        Exit.fail("no"),
        Exit.die("no"),
        Exit.interrupt(1),
        Exit.fail(new Bulkhead.BulkheadFull({ running: 1, waiting: 0 })),
        Exit.failCause(Cause.combine(Cause.fail("no"), Cause.interrupt(1)))
      ]) {
        assert.strictEqual(plain(exit), CircuitBreaker.classify(exit))
      }
    })

    it.effect("opens a circuit for failures only", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 2, classify })
        const call = (status: number) =>
          Effect.fail(responded(status)).pipe(breaker.execute({ key: "key" }), Effect.exit)
        for (const status of [404, 404, 404, 503, 429]) yield* call(status)
        assert.strictEqual((yield* breaker.state("key"))._tag, "Closed")
        yield* call(503)
        assert.strictEqual((yield* breaker.state("key"))._tag, "Open")
      })
    )
  })

  describe("odd values", () => {
    const patterns: Record<string, ErrorPattern.ErrorPattern> = {
      tag: ErrorPattern.tag("A"),
      reason: ErrorPattern.reason("A"),
      status: ErrorPattern.status(500),
      code: ErrorPattern.code("A"),
      text: ErrorPattern.text("nowhere", /nowhere/),
      network: ErrorPattern.network,
      transient: ErrorPattern.transient
    }

    it.each(odd)("nothing matches, and nothing throws: %s", (_, value) => {
      for (const [name, pattern] of Object.entries(patterns)) {
        assert.isFalse(pattern(value), name)
        assert.isFalse(pattern({ cause: value }), `${name} of a cause`)
        assert.isTrue(ErrorPattern.not(pattern)(value), `not ${name}`)
      }
      const classify = ErrorPattern.outcome({ failure: ErrorPattern.any(...Object.values(patterns)) })
      assert.strictEqual(classify(Exit.fail(value)), "success")
    })

    it("finds what can be read beside what cannot", () => {
      const error = Object.defineProperty({ code: "A", cause: { status: 500 } }, "message", { get: throwing })
      assert.isTrue(ErrorPattern.code("A")(error))
      assert.isTrue(ErrorPattern.status(500)(error))
    })
  })

  it("keeps the error types of a retry", () => {
    const self: Effect.Effect<number, Unavailable | NotFound, "R"> = Effect.fail(new NotFound())
    const schedule = Retry.delays([1])
    const made = self.pipe(Retry.make({ schedule, while: ErrorPattern.transient }).execute)
    expectTypeOf(made).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
    const first = Retry.retry(self, { schedule, while: ErrorPattern.transient })
    expectTypeOf(first).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
    const last = self.pipe(Retry.retry({ schedule, while: ErrorPattern.transient }))
    expectTypeOf(last).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
    const refined = self.pipe(Retry.retry({ schedule, while: ErrorPattern.tag("Unavailable") }))
    expectTypeOf(refined).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
  })
})
