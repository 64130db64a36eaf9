import { createServer, get } from "node:http"
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Deferred, Duration, Effect, Fiber, Layer } from "effect"
import { Deadline } from "effect-resilience"
import { ApiError, RequestTimeout } from "effect-resilience/http"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory } from "../../support/httpApp.ts"

const remaining = Effect.map(Deadline.remaining, (left) =>
  HttpServerResponse.text(left === undefined ? "none" : String(Duration.toMillis(left)))
)

const routes = Layer.mergeAll(
  HttpRouter.add("GET", "/remaining", remaining),
  HttpRouter.add("GET", "/health/ready", remaining),
  HttpRouter.add("GET", "/metrics", remaining),
  HttpRouter.add("GET", "/never", Effect.never),
  HttpRouter.add("GET", "/bug", Effect.die("bug")),
  HttpRouter.add("GET", "/own", Deadline.within(Effect.never, 5))
)

const serve = (options?: RequestTimeout.Options) =>
  serveInMemory(ApiError.around(Layer.merge(routes, RequestTimeout.layer(options))))

describe("RequestTimeout", () => {
  describe("layer", () => {
    it.effect.each([
      [{}, "120000"],
      [{ "x-request-timeout": "500" }, "500"],
      [{ "x-request-timeout": "500000" }, "120000"],
      [{ "x-request-timeout": "-1" }, "120000"],
      [{ "x-request-timeout": "1e3" }, "120000"],
      [{ "x-request-timeout": "" }, "120000"],
      [{ "x-request-timeout": "9".repeat(16) }, "120000"],
      [{ "grpc-timeout": "2S" }, "2000"],
      [{ "grpc-timeout": "1M" }, "60000"],
      [{ "grpc-timeout": "1H" }, "120000"],
      [{ "grpc-timeout": "250m" }, "250"],
      [{ "grpc-timeout": "250000u" }, "250"],
      [{ "grpc-timeout": "99000000n" }, "99"],
      [{ "grpc-timeout": "123456789S" }, "120000"],
      [{ "grpc-timeout": "2s" }, "120000"],
      [{ "x-request-timeout": "500", "grpc-timeout": "250m" }, "250"]
    ] as ReadonlyArray<readonly [Record<string, string>, string]>)("with %j a request has %s ms", ([headers, millis]) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        assert.strictEqual((yield* ask("/remaining", { headers })).body, millis)
      })
    )

    it.effect.each(["/health/ready", "/metrics"])("leaves %s alone", (path) =>
      Effect.gen(function* () {
        const ask = yield* serve()
        assert.strictEqual((yield* ask(path, { headers: { "x-request-timeout": "5" } })).body, "none")
      })
    )

    it.effect.each([
      [undefined, 408],
      [408, 408],
      [503, 503],
      [504, 504]
    ] as const)("with the status %s answers %d after the time, and not before", ([statusCode, status]) =>
      Effect.gen(function* () {
        const ask = yield* serve({ timeout: "1 second", statusCode })
        const asked = yield* Effect.forkChild(ask("/never"))
        yield* TestClock.adjust(999)
        assert.isUndefined(asked.pollUnsafe())
        yield* TestClock.adjust(1)
        const answer = yield* Fiber.join(asked)
        assert.strictEqual(answer.status, status)
        assert.deepStrictEqual(JSON.parse(answer.body), {
          error: "The request took too long",
          code: "REQUEST_TIMEOUT",
          statusCode: status,
          metadata: {}
        })
      })
    )

    it.effect("answers 504 when the caller's own time is over", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const asked = yield* Effect.forkChild(ask("/never", { headers: { "x-request-timeout": "20" } }))
        yield* TestClock.adjust(20)
        const { body, status } = yield* Fiber.join(asked)
        assert.strictEqual(status, 504)
        assert.include(body, "DEADLINE_EXCEEDED")
        assert.strictEqual((yield* ask("/never", { headers: { "x-request-timeout": "0" } })).status, 504)
      })
    )

    it.effect("leaves the failures of a handler as they are, also a deadline of its own", () =>
      Effect.gen(function* () {
        const ask = yield* serve()
        const asked = yield* Effect.forkChild(ask("/own"))
        yield* TestClock.adjust(5)
        const own = yield* Fiber.join(asked)
        assert.deepStrictEqual([own.status, own.body.includes("DEADLINE_EXCEEDED")], [504, true])
        assert.strictEqual((yield* ask("/bug")).status, 500)
        assert.strictEqual((yield* ask("/nowhere")).status, 404)
      })
    )

    it.effect("interrupts the handler", () =>
      Effect.gen(function* () {
        const interrupted = yield* Deferred.make<void>()
        const route = HttpRouter.add(
          "GET",
          "/work",
          Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
        )
        const ask = yield* serveInMemory(Layer.merge(route, RequestTimeout.layer({ timeout: 10 })))
        const asked = yield* Effect.forkChild(ask("/work"))
        yield* TestClock.adjust(10)
        assert.strictEqual((yield* Fiber.join(asked)).status, 408)
        yield* Deferred.await(interrupted)
      })
    )

    it.live("interrupts the handler of a client that hangs up", () =>
      Effect.gen(function* () {
        const started = yield* Deferred.make<void>()
        const interrupted = yield* Deferred.make<void>()
        const work = Effect.andThen(Deferred.succeed(started, undefined), Effect.never).pipe(
          Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
        )
        const app = HttpRouter.serve(
          ApiError.around(Layer.merge(HttpRouter.add("GET", "/work", work), RequestTimeout.layer())),
          { disableLogger: true, disableListenLog: true }
        )
        const server = NodeHttpServer.layer(() => createServer(), { port: 0, host: "127.0.0.1" })
        yield* Effect.gen(function* () {
          const { address } = yield* HttpServer.HttpServer
          assert(address._tag === "InetAddressV4")
          const request = get({ host: "127.0.0.1", port: address.port, path: "/work" }).on("error", () => {})
          yield* Deferred.await(started)
          request.destroy()
          yield* Effect.timeout(Deferred.await(interrupted), "10 seconds")
        }).pipe(Effect.provide(Layer.provideMerge(app, server)))
      })
    )
  })

  describe("make", () => {
    it("refuses a time of nothing", () => {
      assert.throws(() => RequestTimeout.make({ timeout: 0 }), /RequestTimeout: timeout must be over zero, got 0/)
    })
  })

  describe("config", () => {
    const read = (env: Record<string, string>) =>
      Effect.provideService(RequestTimeout.config, ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(env))

    it.effect("reads REQUEST_TIMEOUT in milliseconds", () =>
      Effect.gen(function* () {
        assert.strictEqual(Duration.toMillis(yield* read({})), 120_000)
        assert.strictEqual(Duration.toMillis(yield* read({ REQUEST_TIMEOUT: "500" })), 500)
        assert.include(String(yield* Effect.flip(read({ REQUEST_TIMEOUT: "0" }))), "REQUEST_TIMEOUT")
      })
    )
  })
})
