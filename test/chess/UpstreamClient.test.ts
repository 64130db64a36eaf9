import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo, Socket } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import * as UpstreamClient from "../../src/chess/UpstreamClient.ts"

type Handler = (request: IncomingMessage, response: ServerResponse) => void

// A real server on a real socket, with a count of the connections it has.
const listen = Effect.fnUntraced(function* (handler: Handler) {
  const sockets = new Set<Socket>()
  let opened = 0
  const server = createServer(handler)
  server.on("connection", (socket) => {
    opened++
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.closeAllConnections()
        server.close(() => resume(Effect.void))
      })
  )
  // The address of a server that listens on a port is not a string.
  const { port } = server.address() as AddressInfo
  return { baseUrl: `http://localhost:${port}`, opened: () => opened, open: () => sockets.size }
})

const client = (baseUrl: string) =>
  UpstreamClient.make({ platform: "lichess", baseUrl, userAgent: UpstreamClient.userAgent() })

const until = (condition: () => boolean) =>
  Effect.gen(function* () {
    while (!condition()) yield* Effect.sleep("5 millis")
  }).pipe(Effect.timeout("5 seconds"))

describe("UpstreamClient", () => {
  describe("userAgent", () => {
    it("names what this is and how to reach who runs it", () => {
      assert.strictEqual(
        UpstreamClient.userAgent("ops@chess.example"),
        "effect-resilience-chess/0.1 (+https://www.npmjs.com/package/effect-resilience; contact: ops@chess.example)"
      )
    })

    for (const contact of [
      "https://example.test/python-requests",
      "AXIOS@example.test",
      "two words",
      "line\nbreak",
      ""
    ]) {
      it(`refuses ${JSON.stringify(contact)}`, () => {
        assert.throws(() => UpstreamClient.userAgent(contact), RangeError)
      })
    }
  })

  describe("make", () => {
    for (const [what, options] of [
      ["baseUrl", { baseUrl: "lichess" }],
      ["maxBodyBytes", { maxBodyBytes: 0 }],
      ["maxRedirects", { maxRedirects: -1 }]
    ] as const) {
      it.effect(`dies on ${JSON.stringify(options)}`, () =>
        Effect.gen(function* () {
          const exit = yield* Effect.exit(
            UpstreamClient.make({ platform: "lichess", baseUrl: "http://a.test", userAgent: "x", ...options })
          )
          assert.isTrue(Exit.isFailure(exit) && String(exit.cause).includes(what))
        }).pipe(
          Effect.provideService(
            HttpClient.HttpClient,
            HttpClient.make(() => Effect.never)
          )
        )
      )
    }
  })

  describe("layerPool", () => {
    it.live("uses its connections again, after answers and after error pages", () =>
      Effect.gen(function* () {
        let count = 0
        const server = yield* listen((_, response) => {
          response.statusCode = count++ % 2 === 0 ? 200 : 503
          response.end("x".repeat(10_000))
        })
        const { send, url } = yield* client(server.baseUrl)
        for (let n = 0; n < 10; n++) yield* Effect.ignore(send(HttpClientRequest.get(url("/"))))
        assert.strictEqual(count, 10)
        // The next request can come before the pool has noticed that the last one is over, hence the second.
        assert.isAtMost(server.opened(), 2)
      }).pipe(Effect.provide(UpstreamClient.layerPool()))
    )

    it.live("is not stuck behind an error page without an end", () =>
      Effect.gen(function* () {
        let count = 0
        const server = yield* listen((_, response) => {
          if (count++ > 0) return void response.end("fine")
          response.statusCode = 503
          const write = () => {
            while (!response.destroyed && response.write("x".repeat(65_536)));
            response.once("drain", write)
          }
          write()
        })
        const { send, url } = yield* client(server.baseUrl)
        const error = yield* Effect.flip(send(HttpClientRequest.get(url("/"))))
        assert.strictEqual(error.status, 503)
        assert.strictEqual((yield* send(HttpClientRequest.get(url("/")))).body, "fine")
        yield* until(() => server.open() <= 1)
      }).pipe(Effect.provide(UpstreamClient.layerPool({ maxConnectionsPerHost: 1 })))
    )

    it.live("opens five connections to a host and no more", () =>
      Effect.gen(function* () {
        const waiting: Array<ServerResponse> = []
        const server = yield* listen((_, response) => void waiting.push(response))
        const { send, url } = yield* client(server.baseUrl)
        const fiber = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 12 }, () => send(HttpClientRequest.get(url("/")))),
            { concurrency: "unbounded" }
          )
        )
        for (const expected of [5, 5, 2]) {
          yield* until(() => waiting.length === expected)
          yield* Effect.sleep("20 millis")
          assert.strictEqual(waiting.length, expected)
          for (const response of waiting.splice(0)) response.end("fine")
        }
        yield* Fiber.join(fiber)
        assert.strictEqual(server.opened(), 5)
      }).pipe(Effect.provide(UpstreamClient.layerPool()))
    )

    it.live("closes the connection of a stream that is left, and of a request that is interrupted", () =>
      Effect.gen(function* () {
        let asked = 0
        const server = yield* listen((request, response) => {
          asked++
          if (request.url === "/hang") return
          response.writeHead(200)
          const write = () => {
            while (!response.destroyed && response.write("x".repeat(65_536)));
            response.once("drain", write)
          }
          write()
        })
        const { open, send, url } = yield* client(server.baseUrl)

        const first = yield* Deferred.make<void>()
        const reader = yield* Effect.scoped(
          Effect.gen(function* () {
            const answer = yield* open(HttpClientRequest.get(url("/")))
            yield* Stream.runForEach(answer.body, () => Deferred.succeed(first, undefined))
          })
        ).pipe(Effect.forkChild)
        yield* Deferred.await(first)
        assert.strictEqual(server.open(), 1)
        yield* Fiber.interrupt(reader)
        yield* until(() => server.open() === 0)

        const unread = yield* Scope.make()
        yield* Scope.provide(open(HttpClientRequest.get(url("/"))), unread)
        assert.strictEqual(server.open(), 1)
        yield* Scope.close(unread, Exit.void)
        yield* until(() => server.open() === 0)

        const hanging = yield* Effect.forkChild(send(HttpClientRequest.get(url("/hang"))))
        yield* until(() => asked === 3)
        yield* Fiber.interrupt(hanging)
        yield* until(() => server.open() === 0)
      }).pipe(Effect.provide(UpstreamClient.layerPool()))
    )

    it.live("tells a connection that is refused, and one that breaks in the middle of a body", () =>
      Effect.gen(function* () {
        const server = yield* listen((_, response) => {
          response.writeHead(200, { "content-length": "1000" })
          response.write("half")
          setImmediate(() => response.destroy())
        })
        const broken = yield* client(server.baseUrl)
        const cut = yield* Effect.flip(broken.send(HttpClientRequest.get(broken.url("/"))))
        assert.strictEqual(cut.reason, "connection")

        const scope = yield* Scope.make()
        const gone = yield* Scope.provide(
          listen(() => {}),
          scope
        )
        yield* Scope.close(scope, Exit.void)
        const nobody = yield* client(gone.baseUrl)
        const refused = yield* Effect.flip(nobody.send(HttpClientRequest.get(nobody.url("/"))))
        assert.deepStrictEqual([refused.reason, refused.detail], ["connection", "ECONNREFUSED"])
      }).pipe(Effect.provide(UpstreamClient.layerPool()))
    )

    it.live("closes all its connections with its scope", () =>
      Effect.gen(function* () {
        const server = yield* listen((_, response) => void response.end("fine"))
        yield* Effect.gen(function* () {
          const { send, url } = yield* client(server.baseUrl)
          yield* send(HttpClientRequest.get(url("/")))
          assert.strictEqual(server.open(), 1)
        }).pipe(Effect.provide(Layer.fresh(UpstreamClient.layerPool())))
        yield* until(() => server.open() === 0)
      })
    )

    it.live("sends its name and nothing about its traces", () =>
      Effect.gen(function* () {
        let headers: IncomingMessage["headers"] = {}
        const server = yield* listen((request, response) => {
          headers = request.headers
          response.end("fine")
        })
        const { send, url } = yield* client(`${server.baseUrl}/`)
        yield* send(HttpClientRequest.get(url("/path"))).pipe(Effect.withSpan("a span"))
        assert.deepStrictEqual(Object.keys(headers).sort(), ["connection", "host", "user-agent"])
        assert.strictEqual(headers["user-agent"], UpstreamClient.userAgent())
      }).pipe(Effect.provide(UpstreamClient.layerPool()))
    )
  })
})
