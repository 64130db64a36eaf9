/**
 * Real connections: a server of node:http, and pools that have one connection, so that one which is not given back shows.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, type Scope, Stream } from "effect"
import { Retry } from "effect-resilience"
import { HttpCache, HttpResilience } from "effect-resilience/http"
import { HttpClient } from "effect/http"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

interface Site {
  readonly url: string
  /** Connections that were opened, so far. */
  readonly connections: () => number
  /** Requests that have come, so far. */
  readonly requests: () => number
  /** Requests whose connection the other side has closed before they were answered. */
  readonly abandoned: () => number
}

type Handler = (request: IncomingMessage, response: ServerResponse, index: number) => void

const serve = (handler: Handler): Effect.Effect<Site, never, Scope.Scope> =>
  Effect.gen(function* () {
    let requests = 0
    let connections = 0
    let abandoned = 0
    const server = yield* Effect.acquireRelease(
      Effect.callback<ReturnType<typeof createServer>>((resume) => {
        const server = createServer((request, response) => {
          response.on("close", () => {
            if (!response.writableFinished) abandoned++
          })
          handler(request, response, requests++)
        })
        server.on("connection", () => connections++)
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    )
    const { port } = server.address() as AddressInfo
    return {
      url: `http://127.0.0.1:${port}/`,
      connections: () => connections,
      requests: () => requests,
      abandoned: () => abandoned
    }
  })

const eventually = (condition: () => boolean) =>
  Effect.suspend(() => (condition() ? Effect.void : Effect.fail("not yet"))).pipe(
    Effect.retry({ schedule: Retry.delays(Array.from({ length: 500 }, () => "10 millis")) })
  )

const pools = {
  undici: NodeHttpClient.layerUndiciOptions({ connections: 1, pipelining: 1 }),
  "node:http": NodeHttpClient.layerNodeHttpOptions({ maxSockets: 1, keepAlive: true })
}

const retry = { schedule: Retry.delays(Array.from({ length: 5 }, () => "1 millis")) }
const megabyte = "x".repeat(1024 * 1024)

describe.each(Object.entries(pools))("HttpResilience over a pool of one connection of %s", (_, pool) => {
  const test = (name: string, effect: Effect.Effect<void, unknown, HttpClient.HttpClient | Scope.Scope>) =>
    it.live(name, () => effect.pipe(Effect.timeout("20 seconds"), Effect.provide(Layer.fresh(pool))))

  test(
    "does as a profile says: repeats a GET and no POST, and holds a place until a body has ended",
    Effect.gen(function* () {
      const site = yield* serve((request, response, index) => {
        if (request.method === "POST" || index < 2) response.writeHead(503).end("busy")
        else response.write("first ", () => setTimeout(() => response.end("last"), 20))
      })
      const { parts, transform } = yield* HttpResilience.fromProfile({
        order: "facade",
        timeout: "10 seconds",
        bulkhead: { maxConcurrent: 1, maxQueued: 2 },
        retry: { schedule: "fixed", base: 1, times: 3, jitter: "none", while: { statuses: [503] } }
      })
      const client = transform(yield* HttpClient.HttpClient)
      const call = Effect.flatMap(client.get(site.url), (response) => response.text)
      const calls = yield* Effect.all([call, call, call], { concurrency: "unbounded" })
      assert.deepStrictEqual([calls, site.requests()], [["first last", "first last", "first last"], 5])
      const posted = yield* client.post(site.url)
      assert.strictEqual((yield* parts.bulkhead!.state).running, 1)
      assert.deepStrictEqual([posted.status, yield* posted.text, site.requests()], [503, "busy", 6])
      const { mostRunning } = yield* parts.bulkhead!.statistics
      assert.deepStrictEqual([(yield* parts.bulkhead!.state).running, mostRunning], [0, 1])
      assert.strictEqual(site.connections(), 1)
    })
  )

  test(
    "gives the connection back when a response with a short body is retried",
    Effect.gen(function* () {
      const site = yield* serve((_request, response, index) => {
        response.writeHead(index < 4 ? 503 : 200).end(index < 4 ? "busy ".repeat(1000) : "done")
      })
      const { transform } = yield* HttpResilience.make({ retry })
      const client = transform(yield* HttpClient.HttpClient)
      assert.strictEqual(yield* Effect.flatMap(client.get(site.url), (response) => response.text), "done")
      assert.strictEqual(site.connections(), 1)
    })
  )

  test(
    "closes it when the body is long, so that the retry is not stuck behind it",
    Effect.gen(function* () {
      const site = yield* serve((_request, response, index) => {
        response.writeHead(index < 3 ? 503 : 200).end(index < 3 ? megabyte : "done")
      })
      const { transform } = yield* HttpResilience.make({ retry })
      const client = transform(yield* HttpClient.HttpClient)
      assert.strictEqual(yield* Effect.flatMap(client.get(site.url), (response) => response.text), "done")
    })
  )

  test(
    "closes it when the caller goes away, the attempt times out, or the reader has had enough",
    Effect.gen(function* () {
      let hanging = 0
      const site = yield* serve((request, response) => {
        if (request.url === "/hangs") return void hanging++
        response.writeHead(200)
        if (request.url === "/endless") response.write(megabyte)
        else response.end("done")
      })
      const { transform } = yield* HttpResilience.make({})
      const client = transform(yield* HttpClient.HttpClient)
      const text = (path: string) => Effect.flatMap(client.get(site.url + path), (response) => response.text)

      const caller = yield* Effect.forkChild(client.get(`${site.url}hangs`))
      yield* eventually(() => hanging === 1)
      yield* Fiber.interrupt(caller)
      yield* eventually(() => site.abandoned() === 1)
      assert.strictEqual(yield* text("a"), "done")

      const impatient = (yield* HttpResilience.make({ timeout: "300 millis" })).transform(yield* HttpClient.HttpClient)
      assert.strictEqual((yield* Effect.flip(impatient.get(`${site.url}hangs`)))._tag, "TimedOut")
      // On a busy machine the time may be up before the request is there.
      yield* eventually(() => site.abandoned() === hanging)
      assert.strictEqual(yield* text("b"), "done")

      yield* Effect.flatMap(client.get(`${site.url}endless`), ({ stream }) => Stream.runHead(stream))
      yield* eventually(() => site.abandoned() === hanging + 1)
      assert.strictEqual(yield* text("c"), "done")

      yield* Effect.scoped(HttpClient.withScope(client).get(`${site.url}endless`))
      yield* eventually(() => site.abandoned() === hanging + 2)
      assert.strictEqual(yield* text("d"), "done")
    })
  )

  test(
    "shares a request whose callers go away one by one, and gives streams to one each, through a cache",
    Effect.gen(function* () {
      const site = yield* serve((request, response) => {
        if (request.url === "/broken") {
          response.writeHead(503, { "cache-control": "no-store" }).end(megabyte)
          return
        }
        const kept = request.url === "/kept"
        response.writeHead(200, { "cache-control": kept ? "max-age=60" : "no-store" })
        setTimeout(() => response.end(kept ? "done" : megabyte), 100)
      })
      const { transform } = yield* HttpResilience.make({ retry, timeout: "5 seconds" })
      const cache = yield* HttpCache.make()
      const client = cache.transform(transform(yield* HttpClient.HttpClient))
      const text = (path: string) => Effect.flatMap(client.get(site.url + path), (response) => response.text)

      const callers = yield* Effect.forEach(Array.from({ length: 10 }), () => Effect.forkChild(text("kept")))
      yield* eventually(() => site.requests() === 1)
      yield* Fiber.interruptAll(callers.slice(0, 9))
      assert.strictEqual(yield* Fiber.join(callers[9]!), "done")
      assert.strictEqual(site.abandoned(), 0)

      const streams = yield* Effect.forEach(Array.from({ length: 3 }), () => Effect.forkChild(text("long")))
      for (const stream of streams) assert.strictEqual((yield* Fiber.join(stream)).length, megabyte.length)

      const before = site.requests()
      const gone = yield* Effect.forkChild(text("long"))
      yield* eventually(() => site.requests() > before)
      yield* Fiber.interrupt(gone)
      assert.strictEqual((yield* text("broken")).length, megabyte.length)
      assert.strictEqual(yield* text("kept"), "done")
      assert.strictEqual((yield* cache.statistics).pending, 0)
    })
  )

  test(
    "serves many callers, some of whom go away, and loses nothing",
    Effect.gen(function* () {
      const site = yield* serve((_request, response, index) => {
        response.writeHead(index % 3 === 0 ? 503 : 200).end(megabyte.slice(0, index % 7 === 0 ? undefined : 500))
      })
      const { transform } = yield* HttpResilience.make({ retry, deadline: "5 seconds" })
      const client = transform(yield* HttpClient.HttpClient)
      const call = Effect.flatMap(HttpClient.withScope(client).get(site.url), (response) => response.text)
      const ended = yield* Effect.forEach(
        Array.from({ length: 60 }, (_, n) => n),
        (n) => Effect.exit(Effect.timeoutOption(Effect.scoped(call), n % 4 === 0 ? Duration.millis(n) : "5 seconds")),
        { concurrency: 20 }
      )
      assert.strictEqual(ended.filter((exit) => exit._tag === "Success").length, 60)
      assert.isAbove((yield* Effect.scoped(call)).length, 0)
    })
  )
})
