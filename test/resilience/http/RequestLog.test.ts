import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger, References } from "effect"
import { ApiError, RequestContext, RequestLog, RequestTimeout } from "effect-resilience/http"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory } from "../../support/httpApp.ts"

interface Line {
  readonly level: string
  readonly message: string
  readonly annotations: Readonly<Record<string, unknown>>
}

const answers = (path: HttpRouter.PathInput, after: number, response = HttpServerResponse.text("ok")) =>
  HttpRouter.add("GET", path, Effect.delay(Effect.succeed(response), after))

const routes = Layer.mergeAll(
  answers("/users/:id", 7),
  answers("/slow", 5_000),
  answers("/almost", 4_999),
  answers("/events", 6_000, HttpServerResponse.text("", { contentType: "text/event-stream" })),
  answers("/health/ready", 1),
  HttpRouter.add("GET", "/gone/:id", Effect.fail(new ApiError.NotFound({}))),
  HttpRouter.add("GET", "/bug/:id", Effect.die("bug")),
  HttpRouter.add("GET", "/never/:id", Effect.never)
)

const asked = Effect.fnUntraced(function* (
  path: string,
  headers: Record<string, string> = {},
  options?: RequestLog.Options
) {
  const lines: Array<Line> = []
  const log = Logger.layer([Logger.map(Logger.formatJson, (line) => void lines.push(JSON.parse(line) as Line))])
  const app = Layer.unwrap(
    Effect.gen(function* () {
      const router = yield* HttpRouter.HttpRouter
      const [context, log] = [RequestContext.make(), RequestLog.make(options)]
      yield* router.addGlobalMiddleware((app) => context(log(app)))
      return ApiError.around(
        Layer.merge(
          routes,
          Layer.suspend(() => RequestTimeout.layer({ timeout: "10 seconds" }))
        )
      )
    })
  )
  const ask = yield* serveInMemory(app)
  const answer = yield* ask(path, { headers }).pipe(
    Effect.provide(log),
    Effect.provideService(References.MinimumLogLevel, "Debug"),
    Effect.forkChild
  )
  yield* TestClock.adjust("10 seconds")
  const { headers: sent } = yield* Fiber.join(answer)
  const requests = lines.filter(({ annotations }) => annotations["event"] === "http.request")
  assert.lengthOf(requests, 1)
  return { line: requests[0]!, sent }
})

describe("RequestLog", () => {
  describe("layer", () => {
    it.effect.each([
      ["/users/7", "INFO", { route: "/users/:id", status: 200, durationMillis: 7 }],
      ["/slow", "WARN", { route: "/slow", status: 200, durationMillis: 5_000, slow: true }],
      ["/almost", "INFO", { route: "/almost", status: 200, durationMillis: 4_999 }],
      ["/events", "INFO", { route: "/events", status: 200, durationMillis: 6_000 }],
      ["/health/ready", "DEBUG", { route: "/health/ready", status: 200, durationMillis: 1 }],
      ["/gone/7", "INFO", { route: "/gone/:id", status: 404, durationMillis: 0 }],
      ["/bug/7", "WARN", { route: "/bug/:id", status: 500, durationMillis: 0 }],
      ["/never/7", "WARN", { route: "/never/:id", status: 408, durationMillis: 10_000, slow: true }],
      ["/nowhere/7", "INFO", { path: "/nowhere/7", status: 404, durationMillis: 0 }]
    ] as const)("%s is one line at level %s", ([path, level, fields]) =>
      Effect.gen(function* () {
        const { line, sent } = yield* asked(path)
        assert.strictEqual(line.level.toUpperCase(), level)
        assert.deepStrictEqual(line.annotations, {
          correlationId: sent["x-correlation-id"],
          requestId: sent["x-request-id"],
          event: "http.request",
          method: "GET",
          ...fields
        })
      })
    )

    it.effect("has nothing of the query, the headers and over-long paths", () =>
      Effect.gen(function* () {
        const headers = { authorization: "Bearer secret", "x-api-key": "secret", cookie: "secret=1" }
        const { line } = yield* asked("/nowhere?token=secret#secret", headers)
        assert.notInclude(JSON.stringify(line), "secret")
        const long = yield* asked(`/${"a".repeat(5_000)}`)
        assert.lengthOf(String(long.line.annotations["path"]), 512)
      })
    )

    it.effect("takes its limits from the options", () =>
      Effect.gen(function* () {
        const { line } = yield* asked("/users/7", {}, { slowAfter: 7 })
        assert.strictEqual(line.level.toUpperCase(), "WARN")
        const quiet = yield* asked("/users/7", {}, { quiet: ["/users/*"] })
        assert.strictEqual(quiet.line.level.toUpperCase(), "DEBUG")
      })
    )
  })

  describe("make", () => {
    it("refuses a limit of nothing", () => {
      assert.throws(() => RequestLog.make({ slowAfter: 0 }), /RequestLog: slowAfter must be over zero, got 0 ms/)
    })
  })
})
