import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Logger, Random } from "effect"
import { RequestContext } from "effect-resilience/http"
import { HttpClient, HttpClientRequest, HttpClientResponse, HttpRouter, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory } from "../../support/httpApp.ts"

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736"
const parentId = "00f067aa0ba902b7"
const traceparent = `00-${traceId}-${parentId}-01`

/** A client that answers every request with the headers it came with. */
const echo = HttpClient.make((request) =>
  Effect.succeed(HttpClientResponse.fromWeb(request, new Response(JSON.stringify(request.headers))))
)

const sentOn = RequestContext.propagate(echo)
  .get("http://service.test/")
  .pipe(Effect.flatMap((response) => response.json))

const background = Deferred.makeUnsafe<RequestContext.RequestContext | undefined>()

const routes = Layer.mergeAll(
  HttpRouter.add(
    "GET",
    "/context",
    Effect.map(RequestContext.current, (context) => HttpServerResponse.jsonUnsafe(context))
  ),
  HttpRouter.add("GET", "/calls", Effect.map(Effect.orDie(sentOn), HttpServerResponse.jsonUnsafe)),
  HttpRouter.add("GET", "/bug", Effect.die("bug")),
  HttpRouter.add(
    "GET",
    "/logs",
    Effect.logInfo("for somebody").pipe(
      RequestContext.as({ user: "anna", tenant: "acme" }),
      Effect.andThen(Effect.logInfo("for nobody")),
      Effect.as(HttpServerResponse.text("logged"))
    )
  ),
  HttpRouter.add(
    "GET",
    "/forks",
    RequestContext.current.pipe(
      Effect.delay(1_000),
      Effect.flatMap((context) => Deferred.succeed(background, context)),
      Effect.forkDetach,
      Effect.as(HttpServerResponse.text("forked"))
    )
  )
)

const serve = (options?: RequestContext.Options) => serveInMemory(Layer.merge(routes, RequestContext.layer(options)))

const read = (body: string) => JSON.parse(body) as RequestContext.RequestContext & Record<string, string>

const madeId = /^[\da-f]{32}$/
const madeRequestId = /^req_[\da-f]{32}$/

describe("RequestContext", () => {
  describe("layer", () => {
    it.effect.each(["/context", "/bug", "/nowhere"])("says on the response of %s which request it was", (path) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { headers } = yield* ask(path)
        assert.match(headers["x-correlation-id"] ?? "", madeId)
        assert.match(headers["x-request-id"] ?? "", madeRequestId)
        const next = yield* ask(path)
        assert.notStrictEqual(next.headers["x-request-id"], headers["x-request-id"])
        assert.notStrictEqual(next.headers["x-correlation-id"], headers["x-correlation-id"])
      })
    )

    it.effect.each([
      ["order-17", true],
      ["a".repeat(128), true],
      ["user@host:1/2+3=4~5.6_7", true],
      ["a".repeat(129), false],
      ["", false],
      ["two words", false],
      ["line\tbreak", false],
      ['quote"', false],
      ["<script>", false],
      ["a;b", false],
      ["a,b", false],
      ["é", false]
    ] as const)("takes the correlation id %j: %s", ([given, taken]) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { body, headers } = yield* ask("/context", { headers: { "x-correlation-id": given } })
        if (taken) assert.strictEqual(headers["x-correlation-id"], given)
        else assert.match(headers["x-correlation-id"] ?? "", madeId)
        assert.strictEqual(read(body).correlationId, headers["x-correlation-id"])
      })
    )

    it.effect("never takes a request id", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { headers } = yield* ask("/context", { headers: { "x-request-id": `req_${"0".repeat(32)}` } })
        assert.match(headers["x-request-id"] ?? "", madeRequestId)
        assert.notStrictEqual(headers["x-request-id"], `req_${"0".repeat(32)}`)
      })
    )

    it.effect("makes the same ids of the same seed", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const first = yield* Random.withSeed(ask("/context"), "ids")
        const second = yield* Random.withSeed(ask("/context"), "ids")
        assert.strictEqual(first.headers["x-request-id"], second.headers["x-request-id"])
      })
    )

    it.effect("uses other names for its headers", () =>
      Effect.gen(function* () {
        const ask = yield* serve({ correlationHeader: "X-Trace", requestHeader: "X-Call" })
        const { headers } = yield* ask("/context", { headers: { "x-trace": "mine", "x-correlation-id": "not-mine" } })
        assert.strictEqual(headers["x-trace"], "mine")
        assert.match(headers["x-call"] ?? "", madeRequestId)
        assert.isUndefined(headers["x-correlation-id"])
      })
    )

    it("refuses a name that is none", () => {
      assert.throws(() => RequestContext.make({ requestHeader: "x y" }), /RequestContext: requestHeader .* "x y"/)
    })

    it.effect("puts the ids on log lines, and the user once known", () =>
      Effect.gen(function* () {
        const lines: Array<Record<string, unknown>> = []
        const logger = Logger.layer([
          Logger.map(Logger.formatJson, (line) => {
            lines.push((JSON.parse(line) as { annotations: Record<string, unknown> }).annotations)
          })
        ])
        const ask = yield* serve()
        const { headers } = yield* Effect.provide(
          ask("/logs", { headers: { "x-correlation-id": "c1", traceparent } }),
          logger
        )
        const ids = { correlationId: "c1", requestId: headers["x-request-id"], traceId }
        assert.deepStrictEqual(lines, [{ ...ids, user: "anna", tenant: "acme" }, ids])
      })
    )

    it.effect("is inherited by work that outlives the request", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { headers } = yield* ask("/forks")
        const waiting = yield* Effect.forkChild(Deferred.await(background))
        yield* TestClock.adjust(1_000)
        assert.strictEqual((yield* Fiber.join(waiting))?.requestId, headers["x-request-id"])
      })
    )
  })

  describe("parseTrace", () => {
    // W3C Trace Context, 3.2.2 and 4.3.
    it.each([
      [traceparent, true],
      [`00-${traceId}-${parentId}-00`, true],
      [`00-${traceId}-${parentId}-ff`, true],
      [`cc-${traceId}-${parentId}-01`, true],
      [`cc-${traceId}-${parentId}-01-what-comes-later`, true],
      [`cc-${traceId}-${parentId}-01.what`, false],
      [`00-${traceId}-${parentId}-01-more`, false],
      [`00-${traceId}-${parentId}-01-`, false],
      [`ff-${traceId}-${parentId}-01`, false],
      [`00-${"0".repeat(32)}-${parentId}-01`, false],
      [`00-${traceId}-${"0".repeat(16)}-01`, false],
      [`00-${traceId.toUpperCase()}-${parentId}-01`, false],
      [`00-${traceId}-${parentId}-1`, false],
      [`00-${traceId.slice(1)}-${parentId}-01`, false],
      [`00-${traceId}-${parentId}`, false],
      [` ${traceparent}`, false],
      ["", false],
      [undefined, false]
    ])("%s is well-formed: %s", (header, expected) => {
      const parsed = RequestContext.parseTrace(header)
      assert.strictEqual(parsed !== undefined, expected)
      if (parsed !== undefined) assert.deepInclude(parsed, { traceId, parentId })
    })

    it.each([
      ["vendor=1", "vendor=1"],
      ["a".repeat(512), "a".repeat(512)],
      ["a".repeat(513), undefined],
      ["line\nbreak", undefined]
    ])("the state %j is kept as %j", (state, kept) => {
      assert.strictEqual(RequestContext.parseTrace(traceparent, state)?.state, kept)
    })
  })

  describe("propagate", () => {
    it.effect.each([true, false])("sends the ids and the trace on, with spans: %s", (traced) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { body, headers } = yield* ask("/calls", {
          headers: { "x-correlation-id": "c1", traceparent, tracestate: "vendor=1" }
        })
        const sent = read(body)
        assert.strictEqual(sent["x-correlation-id"], "c1")
        assert.strictEqual(sent["x-request-id"], headers["x-request-id"])
        assert.strictEqual(sent["tracestate"], "vendor=1")
        assert.match(sent["traceparent"] ?? "", new RegExp(`^00-${traceId}-[\\da-f]{16}-01$`))
        assert.notInclude(sent["traceparent"] ?? "", parentId)
      }).pipe(Effect.withTracerEnabled(traced))
    )

    it.effect("sends no trace that nobody began", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const { body } = yield* ask("/calls", { headers: { traceparent: "00-oops", tracestate: "vendor=1" } })
        assert.notProperty(read(body), "tracestate")
        assert.notProperty(read(body), "traceparent")
      }).pipe(Effect.withTracerEnabled(false))
    )

    it.effect("keeps what a request says itself, and adds nothing outside of a request", () =>
      Effect.gen(function* () {
        const client = RequestContext.propagate(echo)
        const send = (request: HttpClientRequest.HttpClientRequest) =>
          Effect.flatMap(client.execute(request), (response) => response.json)
        const plain = HttpClientRequest.get("http://service.test/")
        assert.notProperty(yield* send(plain), "x-correlation-id")
        const context = { correlationId: "c1", requestId: "r1", trace: undefined }
        const own = HttpClientRequest.setHeader(plain, "x-correlation-id", "mine")
        assert.deepInclude(yield* RequestContext.provide(send(own), context), {
          "x-correlation-id": "mine",
          "x-request-id": "r1"
        })
      })
    )

    it.effect("is there for every user of the client as a layer", () =>
      Effect.gen(function* () {
        const context = { correlationId: "c1", requestId: "r1", trace: undefined }
        const response = yield* RequestContext.provide(HttpClient.get("http://service.test/"), context)
        assert.deepInclude(yield* response.json, { "x-correlation-id": "c1" })
      }).pipe(
        Effect.provide(RequestContext.layerClient().pipe(Layer.provide(Layer.succeed(HttpClient.HttpClient, echo))))
      )
    )
  })

  describe("as", () => {
    it.effect("does nothing outside of a request", () =>
      Effect.gen(function* () {
        assert.isUndefined(yield* RequestContext.as(RequestContext.current, { user: "anna" }))
      })
    )
  })
})
