import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { ByteSize, Cause, Duration, Effect, Layer, Logger, Schema } from "effect"
import {
  AdaptiveLimit,
  AdaptiveThrottle,
  Batcher,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  LoadShed,
  RateLimiter,
  Timeout
} from "effect-resilience"
import { ApiError, Idempotency, IdempotencyStore, RateLimitStore } from "effect-resilience/http"
import {
  HttpIncomingMessage,
  HttpRouter,
  HttpServer,
  HttpServerRequest,
  HttpServerRespondable,
  HttpServerResponse
} from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { serveInMemory } from "../../support/httpApp.ts"

/** The table of the specification. */
const table = [
  [ApiError.InvalidRequest, 400, "INVALID_REQUEST"],
  [ApiError.Unauthenticated, 401, "UNAUTHENTICATED"],
  [ApiError.Forbidden, 403, "FORBIDDEN"],
  [ApiError.NotFound, 404, "NOT_FOUND"],
  [ApiError.MethodNotAllowed, 405, "METHOD_NOT_ALLOWED"],
  [ApiError.RequestTimeout, 408, "REQUEST_TIMEOUT"],
  [ApiError.Conflict, 409, "CONFLICT"],
  [ApiError.PayloadTooLarge, 413, "BODY_TOO_LARGE"],
  [ApiError.UnsupportedMediaType, 415, "UNSUPPORTED_MEDIA_TYPE"],
  [ApiError.Unprocessable, 422, "UNPROCESSABLE"],
  [ApiError.TooManyRequests, 429, "TOO_MANY_REQUESTS"],
  [ApiError.InternalError, 500, "INTERNAL_ERROR"],
  [ApiError.DatabaseFailed, 500, "DATABASE_ERROR"],
  [ApiError.Unavailable, 503, "UNAVAILABLE"],
  [ApiError.CircuitIsOpen, 503, "CIRCUIT_OPEN"],
  [ApiError.DependencyFailed, 503, "DEPENDENCY_ERROR"],
  [ApiError.VectorDatabaseFailed, 503, "VECTOR_DATABASE_ERROR"],
  [ApiError.LlmFailed, 503, "LLM_ERROR"],
  [ApiError.GatewayTimeout, 504, "TIMEOUT"]
] as const

const wait = Duration.millis(1_200)

/** Every refusal of the package, and what a client is told. */
const refusals: ReadonlyArray<readonly [ApiError.Refusal, number, string, number | undefined]> = [
  [new Batcher.BatcherFull({ maxQueued: 1 }), 503, "OVERLOADED", undefined],
  [new Bulkhead.BulkheadFull({ running: 1, waiting: 0, key: "secret" }), 503, "OVERLOADED", undefined],
  [new CircuitBreaker.CircuitOpen({ key: "secret", retryAfter: wait }), 503, "CIRCUIT_OPEN", 2],
  [new CircuitBreaker.CircuitOpen({ key: "secret", retryAfter: Duration.infinity }), 503, "CIRCUIT_OPEN", undefined],
  [new CircuitBreaker.CircuitOpen({ key: "secret", retryAfter: Duration.zero }), 503, "CIRCUIT_OPEN", 1],
  [new Deadline.DeadlineExceeded({ after: wait, started: true }), 504, "DEADLINE_EXCEEDED", undefined],
  [new Idempotency.IdempotencyKeyInUse({ retryAfter: wait }), 409, "IDEMPOTENCY_KEY_IN_USE", 2],
  [new Idempotency.IdempotencyKeyReused({}), 422, "IDEMPOTENCY_KEY_REUSED", undefined],
  [new IdempotencyStore.IdempotencyStoreError({ cause: new Error("secret") }), 503, "STORE_UNAVAILABLE", 1],
  [new IdempotencyStore.IdempotencyStoreFull({ maxKeys: 1 }), 503, "STORE_UNAVAILABLE", 1],
  [new AdaptiveLimit.LimitReached({ limit: 1, running: 1, waiting: 0 }), 503, "OVERLOADED", undefined],
  [new LoadShed.Overloaded({ priority: "low", load: 2, retryAfter: wait }), 503, "OVERLOADED", 2],
  [new RateLimiter.RateLimited({ retryAfter: wait, cost: 1, waiting: 0, key: "secret" }), 429, "TOO_MANY_REQUESTS", 2],
  [new RateLimitStore.RateLimitStoreError({ cause: new Error("secret") }), 503, "STORE_UNAVAILABLE", 1],
  [new AdaptiveThrottle.Throttled({ refusing: 0.5, retryAfter: wait }), 503, "OVERLOADED", 2],
  [new Timeout.TimedOut({ after: wait }), 504, "TIMEOUT", undefined]
]

class Order extends Schema.Class<Order>("Order")({ item: Schema.NonEmptyString, count: Schema.Int }) {}

const readOrder = HttpServerRequest.schemaBodyJson(Order).pipe(ApiError.orInvalid("body"))

class Teapot {
  [HttpServerRespondable.symbol]() {
    return Effect.succeed(HttpServerResponse.text("short and stout", { status: 418 }))
  }
}

const failing = <E>(path: HttpRouter.PathInput, error: E) => HttpRouter.add("GET", path, Effect.fail(error))

const routes = Layer.mergeAll(
  failing("/gone", new ApiError.NotFound({ error: "No such charge", metadata: { id: 7 }, retryAfter: wait })),
  failing("/open", new CircuitBreaker.CircuitOpen({ key: "secret", retryAfter: wait })),
  // As a library without types would fail.
  failing("/foreign", new Error("secret of a failure") as never),
  failing("/teapot", new Teapot() as never),
  HttpRouter.add("GET", "/bug", Effect.die(new Error("secret of a defect"))),
  HttpRouter.add(
    "GET",
    "/both",
    Effect.failCause(Cause.combine(Cause.fail(new ApiError.NotFound({})), Cause.die(new Error("secret of a defect"))))
  ),
  HttpRouter.add(
    "GET",
    "/empty",
    HttpServerResponse.empty({ status: 405, headers: { allow: "POST", vary: "origin" } })
  ),
  HttpRouter.add(
    "GET",
    "/page",
    HttpServerResponse.html("<h1>secret of a page</h1>").pipe(HttpServerResponse.setStatus(502))
  ),
  HttpRouter.add("GET", "/limited", HttpServerResponse.jsonUnsafe({ detail: "Too many requests" }, { status: 429 })),
  HttpRouter.add("GET", "/fine", HttpServerResponse.text("fine")),
  HttpRouter.add(
    "POST",
    "/orders",
    Effect.map(readOrder, ({ item }) => HttpServerResponse.text(item))
  )
)

const serve = (options?: ApiError.AroundOptions) => serveInMemory(ApiError.around(routes, options))

const logged = () => {
  const lines: Array<string> = []
  return { lines, layer: Logger.layer([Logger.map(Logger.formatJson, (line) => void lines.push(line))]) }
}

const problem = { headers: { accept: "application/problem+json" } }

describe("ApiError", () => {
  describe("Class", () => {
    it.each(table)("%o has its status and code", (Class, statusCode, code) => {
      const error = new Class({})
      assert.strictEqual(error.statusCode, statusCode)
      assert.strictEqual(Class.statusCode, statusCode)
      assert.strictEqual(error.code, code)
      assert.strictEqual(error.message, error.error)
      assert.isAbove(error.error.length, 10)
      assert.isTrue(ApiError.isApiError(error))
      assert.strictEqual(error.constructor, Class)
    })

    it("decodes to an instance of the class", () => {
      const decoded = Schema.decodeSync(ApiError.NotFound)({ _tag: "NotFound", code: "X", error: "y" })
      assert.instanceOf(decoded, ApiError.NotFound)
      assert.strictEqual(decoded.statusCode, 404)
    })

    it("refuses a status that is no error", () => {
      assert.throws(
        () => ApiError.Class<never>()("Fine", { statusCode: 200, code: "FINE", error: "fine" }),
        new RangeError("ApiError: statusCode of Fine must be an integer from 400 to 599, got 200").message
      )
    })

    it("is caught by its tag", () => {
      const found = Effect.fail(new ApiError.NotFound({})).pipe(
        Effect.catchTag("NotFound", (error) => Effect.succeed(error.statusCode))
      )
      expectTypeOf(found).toEqualTypeOf<Effect.Effect<number>>()
    })
  })

  describe("toResponse", () => {
    it("has the four fields and nothing else", () => {
      const response = ApiError.toResponse(new ApiError.Conflict({ error: "Taken", metadata: { field: "name" } }))
      assert.strictEqual(response.status, 409)
      assert.isUndefined(response.headers["retry-after"])
      assert.deepStrictEqual(ApiError.toBody(new ApiError.Conflict({ error: "Taken", metadata: { field: "name" } })), {
        error: "Taken",
        code: "CONFLICT",
        statusCode: 409,
        metadata: { field: "name" }
      })
    })

    it.each([
      [0, 1],
      [1, 1],
      [1_000, 1],
      [1_001, 2],
      [Infinity, undefined]
    ])("a wait of %d ms is a Retry-After of %s", (millis, seconds) => {
      assert.strictEqual(ApiError.retryAfterSeconds(Duration.millis(millis)), seconds)
    })
  })

  describe("fromRefusal", () => {
    it.each(refusals)("%o", (refusal, statusCode, code, retryAfter) => {
      const error = ApiError.fromRefusal(refusal)
      assert.strictEqual(error.statusCode, statusCode)
      assert.strictEqual(error.code, code)
      assert.strictEqual(ApiError.toResponse(error).headers["retry-after"], retryAfter?.toString())
      assert.notInclude(JSON.stringify(ApiError.toBody(error)), "secret")
    })

    it("knows each refusal by type", () => {
      expectTypeOf(ApiError.fromRefusal<CircuitBreaker.CircuitOpen>).returns.toEqualTypeOf<ApiError.CircuitIsOpen>()
      expectTypeOf<ApiError.FromRefusal<Timeout.TimedOut | RateLimiter.RateLimited | "mine">>().toEqualTypeOf<
        ApiError.GatewayTimeout | ApiError.TooManyRequests | "mine"
      >()
    })
  })

  describe("mapRefusals", () => {
    it.effect("leaves other failures as they are", () =>
      Effect.gen(function* () {
        const of = <E>(error: E) => Effect.flip(ApiError.mapRefusals(Effect.fail(error)))
        assert.strictEqual(yield* of("mine"), "mine")
        const own = { _tag: "TimedOut" }
        assert.strictEqual(yield* of(own), own)
        const timedOut = yield* of(new Timeout.TimedOut({ after: wait }))
        assert.instanceOf(timedOut, ApiError.GatewayTimeout)
        expectTypeOf(timedOut).toEqualTypeOf<ApiError.GatewayTimeout>()
      })
    )
  })

  describe("respond", () => {
    it.effect("answers errors and refusals, and compiles only when all have a status", () =>
      Effect.gen(function* () {
        const failure: Effect.Effect<
          HttpServerResponse.HttpServerResponse,
          ApiError.NotFound | CircuitBreaker.CircuitOpen
        > = Effect.fail(new ApiError.NotFound({}))
        const answered = ApiError.respond(failure)
        expectTypeOf(answered).toEqualTypeOf<Effect.Effect<HttpServerResponse.HttpServerResponse>>()
        assert.strictEqual((yield* answered).status, 404)
        const refused = yield* ApiError.respond(Effect.fail(new Timeout.TimedOut({ after: wait })))
        assert.strictEqual(refused.status, 504)
        type Accepted = Parameters<typeof ApiError.respond>[0]
        expectTypeOf<
          Effect.Effect<HttpServerResponse.HttpServerResponse, { _tag: "NotFound" }>
        >().not.toExtend<Accepted>()
        expectTypeOf<Effect.Effect<HttpServerResponse.HttpServerResponse, Error>>().not.toExtend<Accepted>()
      })
    )
  })

  describe("around", () => {
    it.effect.each([
      ["/gone", 404, "NOT_FOUND", "No such charge", "2"],
      ["/open", 503, "CIRCUIT_OPEN", undefined, "2"],
      ["/nowhere", 404, "ROUTE_NOT_FOUND", "There is nothing at this address", undefined],
      ["/foreign", 500, "INTERNAL_ERROR", "Something went wrong on the server", undefined],
      ["/bug", 500, "INTERNAL_ERROR", "Something went wrong on the server", undefined],
      ["/both", 500, "INTERNAL_ERROR", "Something went wrong on the server", undefined],
      ["/empty", 405, "HTTP_405", "The request cannot be answered", undefined],
      ["/page", 502, "HTTP_502", "The request cannot be answered", undefined],
      ["/teapot", 418, "HTTP_418", "The request cannot be answered", undefined]
    ] as const)("answers %s with %d and a body", ([path, status, code, error, retryAfter]) =>
      Effect.gen(function* () {
        const log = logged()
        const ask = yield* Effect.provide(serve(), log.layer)
        const answer = yield* Effect.provide(ask(path), log.layer)
        assert.strictEqual(answer.status, status)
        assert.strictEqual(answer.headers["content-type"], "application/json")
        const body = JSON.parse(answer.body) as ApiError.Body
        assert.sameMembers(Object.keys(body), ["error", "code", "statusCode", "metadata"])
        assert.strictEqual(body.statusCode, status)
        assert.strictEqual(body.code, code)
        if (error !== undefined) assert.strictEqual(body.error, error)
        assert.strictEqual(answer.headers["retry-after"], retryAfter)
        assert.notInclude(answer.body, "secret")
        assert.match(answer.headers["vary"] ?? "", /accept/)
        // Only mistakes of the server are logged, and once.
        assert.lengthOf(log.lines, code === "INTERNAL_ERROR" ? 1 : 0)
      })
    )

    it.effect("keeps the other headers of a response that it gives a body", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { headers } = yield* ask("/empty")
        assert.strictEqual(headers["allow"], "POST")
        assert.strictEqual(headers["vary"], "origin, accept")
      })
    )

    it.effect("leaves what is no error alone", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { body, headers, status } = yield* ask("/fine", problem)
        assert.deepStrictEqual([status, body, headers["vary"]], [200, "fine", undefined])
      })
    )

    it.effect("answers with RFC 9457 whom asks for it", () =>
      Effect.gen(function* () {
        const ask = yield* serve({ notFound: "Nothing; see /docs" })
        const gone = yield* ask("/gone", problem)
        assert.strictEqual(gone.status, 404)
        assert.strictEqual(gone.headers["content-type"], "application/problem+json")
        assert.strictEqual(gone.headers["retry-after"], "2")
        assert.deepStrictEqual(JSON.parse(gone.body), {
          type: "about:blank",
          title: "Not Found",
          status: 404,
          detail: "No such charge",
          code: "NOT_FOUND",
          metadata: { id: 7 }
        })
        const nowhere = yield* ask("/nowhere", problem)
        assert.strictEqual((JSON.parse(nowhere.body) as { detail: string }).detail, "Nothing; see /docs")
        // A body of another shape keeps what it says.
        const limited = yield* ask("/limited", problem)
        assert.deepStrictEqual(JSON.parse(limited.body), {
          type: "about:blank",
          title: "Too Many Requests",
          status: 429,
          detail: "Too many requests"
        })
      })
    )

    it.effect.each([
      [undefined, false],
      ["*/*", false],
      ["application/json", false],
      ["application/problem+json", true],
      ["application/PROBLEM+json; charset=utf-8", true],
      ["application/json, application/problem+json", true],
      ["application/json, application/problem+json;q=0.9", false],
      ["application/json;q=0.8, application/problem+json;q=0.9", true],
      ["application/problem+json;q=0", false],
      ["application/problem+json;q=oops", false],
      ["text/html, application/problem+json;q=0.1", true]
    ] as const)("Accept: %s is answered with a problem: %s", ([accept, expected]) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { headers } = yield* ask("/gone", { headers: accept === undefined ? {} : { accept } })
        assert.strictEqual(headers["content-type"], expected ? "application/problem+json" : "application/json")
      })
    )

    it.effect.each([
      [`{"item":"tea","count":1}`, 200, undefined],
      [`{"item":"secret","count":"secret"}`, 400, "count"],
      [`{"item":"","count":1}`, 400, "item"],
      [`{"count":1}`, 400, "item"],
      [`["secret"]`, 400, "body"],
      [`{"secret`, 400, "body"],
      [`{"item":"${"a".repeat(80)}","count":1}`, 413, "body"]
    ] as const)("the body %s is answered with %d and names %s", ([body, status, field]) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const answer = yield* ask("/orders", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body
        }).pipe(Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(64)))
        assert.strictEqual(answer.status, status, answer.body)
        if (field === undefined) return
        assert.strictEqual((JSON.parse(answer.body) as ApiError.Body).metadata["field"], field)
        assert.notInclude(answer.body, "secret")
      })
    )

    it("does not compile with a route whose error has no status", () => {
      class Unknown extends Schema.TaggedError<Unknown>()("Unknown", {}) {}
      const route = failing("/unknown", new Unknown({}))
      // @ts-expect-error It has no status.
      ApiError.around(route)
      // @ts-expect-error One of them has none.
      ApiError.around(Layer.merge(routes, route))
      const known = ApiError.around(failing("/gone", new ApiError.NotFound({})))
      expectTypeOf(known).toEqualTypeOf<Layer.Layer<never, never, HttpRouter.HttpRouter>>()
    })

    it.effect("lets an interruption through", () =>
      Effect.gen(function* () {
        const log = logged()
        const app = ApiError.around(HttpRouter.add("GET", "/stopped", Effect.interrupt))
        const ask = yield* serveInMemory(app)
        const { status } = yield* Effect.provide(ask("/stopped"), log.layer)
        assert.strictEqual(status, 503)
        assert.isFalse(log.lines.some((line) => line.includes("http.defect")))
      })
    )
  })

  describe("response", () => {
    class Orders extends HttpApiGroup.make("orders").add(
      HttpApiEndpoint.post("place", "/orders", {
        payload: Order,
        success: Schema.String,
        error: [ApiError.response(ApiError.NotFound), ApiError.response(ApiError.Unavailable)]
      })
    ) {}
    class Shop extends HttpApi.make("shop").add(Orders).middleware(ApiError.SchemaErrors) {}

    const orders = HttpApiBuilder.group(Shop, "orders", (handlers) =>
      handlers.handle("place", ({ payload }) => {
        if (payload.item === "bug") return Effect.die(new Error("secret"))
        return payload.item === "tea"
          ? Effect.fail(new ApiError.Unavailable({ code: "NO_TEA", error: "No tea", retryAfter: Duration.seconds(90) }))
          : Effect.fail(new ApiError.NotFound({ error: `There is no ${payload.item}` }))
      })
    )

    const shop = ApiError.around(
      HttpApiBuilder.layer(Shop).pipe(Layer.provide(orders), Layer.provide(ApiError.layerSchemaErrors))
    ).pipe(Layer.provide(HttpServer.layerServices))

    it.effect.each([
      [`{"item":"milk","count":1}`, 404, "NOT_FOUND", undefined],
      [`{"item":"bug","count":1}`, 500, "INTERNAL_ERROR", undefined],
      [`{"item":"tea","count":1.5}`, 400, "INVALID_REQUEST", "count"],
      [`7`, 400, "INVALID_REQUEST", "body"],
      [`{`, 400, "INVALID_REQUEST", "body"]
    ] as const)("an endpoint answers %s with %d", ([body, status, code, field]) =>
      Effect.gen(function* () {
        const log = logged()
        const ask = yield* serveInMemory(shop)
        const answer = yield* Effect.provide(
          ask("/orders", { method: "POST", headers: { "content-type": "application/json" }, body }),
          log.layer
        )
        assert.strictEqual(answer.status, status, answer.body)
        const error = JSON.parse(answer.body) as ApiError.Body
        assert.strictEqual(error.code, code)
        assert.strictEqual(error.metadata["field"], field)
        assert.lengthOf(log.lines, status === 500 ? 1 : 0)
      })
    )

    it("a class that is no such error has no response", () => {
      class Strange extends Schema.TaggedError<Strange>()("Strange", {}) {}
      // @ts-expect-error It has no status.
      void (() => ApiError.response(Strange))
    })
  })
})
