import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Result, Scope, Stream } from "effect"
import { Deadline, Retry, type Timeout } from "effect-resilience"
import { HttpCache, HttpResilience } from "effect-resilience/http"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpClient, type HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { script, scripted } from "../support/scriptedClient.ts"

const url = "https://api.example.com/things"
const minute = { "cache-control": "max-age=60" }

const text = <E, R>(call: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.flatMap(call, (response) => response.text)

const status = <E, R>(call: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.map(call, (response) => response.headers["cache-status"]?.replace("effect-resilience;", ""))

// Several calls at the same time, when the time has passed that all of them take.
const together = <A, E, R>(calls: ReadonlyArray<Effect.Effect<A, E, R>>, within: Duration.Input = "1 hour") =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.all(calls, { concurrency: "unbounded" }))
    yield* TestClock.adjust(within)
    return yield* Fiber.join(fiber)
  })

describe("HttpCache", () => {
  describe.each(["make", "makeSharing"] as const)("sharing with %s", (name) => {
    const make = HttpCache[name]

    it.effect("lets requests of the same URL and fields wait for the one under way", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", headers: minute, body: ["a", "b"] })
        const cache = yield* make()
        const client = cache.transform(server.client)
        const calls = Array.from({ length: 5 }, () => text(client.get(url)))
        assert.deepStrictEqual(yield* together(calls), ["ab", "ab", "ab", "ab", "ab"])
        assert.strictEqual(server.seen.length, 1)
        const { joined, misses } = yield* cache.statistics
        assert.deepStrictEqual({ joined, misses }, { joined: 4, misses: 1 })
      })
    )

    it.effect("says who waited for another", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", headers: minute, body: "a" })
        const client = (yield* make()).transform(server.client)
        const stored = name === "make" ? ";stored" : ""
        assert.deepStrictEqual(yield* together([status(client.get(url)), status(client.get(url))]), [
          `fwd=uri-miss;fwd-status=200${stored}`,
          `fwd=uri-miss;fwd-status=200${stored};collapsed`
        ])
      })
    )

    it.effect.each([
      ["another method", HttpClientRequest.head(url), 2],
      ["another URL", HttpClientRequest.get(`${url}?a=1`), 2],
      ["another field", HttpClientRequest.get(url, { headers: { accept: "text/plain" } }), 2],
      ["credentials", HttpClientRequest.get(url, { headers: { authorization: "Bearer a" } }), 2],
      ["a cookie", HttpClientRequest.get(url, { headers: { cookie: "a=1" } }), 2],
      ["a user in the URL", HttpClientRequest.get(url.replace("//", "//me:secret@")), 2],
      ["no-store", HttpClientRequest.get(url, { headers: { "cache-control": "no-store" } }), 2],
      ["its own trace", HttpClientRequest.get(url, { headers: { traceparent: "00-a-b-01", "x-request-id": "1" } }), 1],
      ["a fragment", HttpClientRequest.get(`${url}#part`), 1]
    ] as const)("with one that has %s: %o", ([, other, requests]) =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", headers: minute, body: "a" })
        const client = (yield* make()).transform(server.client)
        yield* together([text(client.get(url)), text(client.execute(other))])
        assert.strictEqual(server.seen.length, requests)
      })
    )

    it.effect("never shares what a URL with a user in it brings", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", headers: minute, body: "a" })
        const client = (yield* make({ credentials: "separate" })).transform(server.client)
        yield* together(["me:one", "me:two", "me:one"].map((user) => text(client.get(url.replace("//", `//${user}@`)))))
        assert.strictEqual(server.seen.length, 3)
      })
    )

    it.effect("lets those with the very same credentials share, if told to", () =>
      Effect.gen(function* () {
        const server = scripted(({ headers }) => ({
          after: "1 second",
          headers: minute,
          body: headers["authorization"] ?? ""
        }))
        const client = (yield* make({ credentials: "separate" })).transform(server.client)
        const as = (who: string) => text(client.get(url, { headers: { authorization: who } }))
        assert.deepStrictEqual(yield* together([as("a"), as("b"), as("a"), as("b")]), ["a", "b", "a", "b"])
        assert.strictEqual(server.seen.length, 2)
      })
    )

    it.effect.each([
      ["must not be stored", { headers: { "cache-control": "no-store" } }],
      ["sets a cookie", { headers: { ...minute, "set-cookie": "session=1" } }],
      ["varies by everything", { headers: { ...minute, vary: "*" } }],
      ["is a stream of events", { headers: { ...minute, "content-type": "text/event-stream" } }],
      ["says that it is long", { headers: { ...minute, "content-length": "2000000" } }],
      ["is long", { headers: minute, body: Array.from({ length: 20 }, () => "x".repeat(100_000)) }]
    ] as const)("gives a response that %s to one, and the others ask themselves", ([, answer]) =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", body: "ab", ...answer })
        const client = (yield* make()).transform(server.client)
        const texts = yield* together([text(client.get(url)), text(client.get(url)), text(client.get(url))])
        assert.strictEqual(new Set(texts).size, 1)
        assert.strictEqual(texts[0]?.length, "body" in answer ? 2_000_000 : 2)
        assert.strictEqual(server.seen.length, 3)
        assert.strictEqual(server.open(), 0)
      })
    )

    it.effect("gives the error of the one under way to all", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", code: "ECONNRESET" })
        const client = (yield* make()).transform(server.client)
        const results = yield* together([Effect.result(client.get(url)), Effect.result(client.get(url))])
        assert.isTrue(results.every(Result.isFailure))
        assert.strictEqual(server.seen.length, 1)
      })
    )

    it.effect("goes on while anyone waits, and is aborted when nobody does", () =>
      Effect.gen(function* () {
        const server = script({ after: "10 seconds", headers: minute, body: "a" })
        const client = (yield* make()).transform(server.client)
        const [first, second] = [
          yield* Effect.forkChild(text(client.get(url))),
          yield* Effect.forkChild(text(client.get(url)))
        ]
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(first)
        assert.strictEqual(server.open(), 1)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* Fiber.join(second), "a")
        const [third, fourth] = [
          yield* Effect.forkChild(client.get(`${url}/2`)),
          yield* Effect.forkChild(client.get(`${url}/2`))
        ]
        yield* TestClock.adjust("1 second")
        yield* Fiber.interruptAll([third, fourth])
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
      })
    )

    it.effect("bounds one caller's wait by its deadline, and not the request of the others", () =>
      Effect.gen(function* () {
        const server = script({ after: "10 seconds", headers: minute, body: "a" })
        const client = (yield* make()).transform(server.client)
        const ends = yield* together([
          text(client.get(url)).pipe(
            Deadline.within("5 seconds"),
            Effect.catchTag("DeadlineExceeded", ({ _tag }) => Effect.succeed(_tag))
          ),
          text(client.get(url))
        ])
        assert.deepStrictEqual(ends, ["DeadlineExceeded", "a"])
        assert.strictEqual(server.seen.length, 1)
      })
    )

    it.effect("does not share between clients", () =>
      Effect.gen(function* () {
        const cache = yield* make()
        const server = script({ after: "1 second", headers: minute, body: "a" })
        yield* together([text(cache.transform(server.client).get(url)), text(cache.transform(server.client).get(url))])
        assert.strictEqual(server.seen.length, 2)
      })
    )

    it.effect("leaks no connection and no request under way, at any operation", () =>
      Effect.gen(function* () {
        for (const answer of [
          { headers: minute, body: ["a", "b"] },
          { headers: { "cache-control": "no-store" }, body: ["a", "b"] },
          { headers: minute, body: ["abc", "def", "ghi"] }
        ]) {
          const server = script(answer)
          const cache = yield* make({ maxBodyBytes: 5 })
          const client = HttpClient.withScope(cache.transform(server.client))
          const call = Effect.scoped(text(client.get(url)))
          const check = Effect.gen(function* () {
            assert.strictEqual(server.open(), 0)
            assert.strictEqual((yield* cache.statistics).pending, 0)
            yield* cache.invalidateAll
          })
          assert.isAbove(yield* interruptEverywhere(call, check), 20)
        }
      })
    )
  })

  describe("makeSharing", () => {
    it.effect("keeps nothing", () =>
      Effect.gen(function* () {
        const server = script({ headers: minute, body: "a" })
        const client = (yield* HttpCache.makeSharing()).transform(server.client)
        yield* text(client.get(url))
        yield* text(client.get(url))
        assert.strictEqual(server.seen.length, 2)
      })
    )

    it.effect("shares what nobody may keep", () =>
      Effect.gen(function* () {
        const server = script({ after: "1 second", body: "a" })
        const client = (yield* HttpCache.makeSharing()).transform(server.client)
        assert.deepStrictEqual(yield* together([text(client.get(url)), text(client.get(url))]), ["a", "a"])
        assert.strictEqual(server.seen.length, 1)
      })
    )
  })

  describe("make", () => {
    it.effect("keeps a body as it was, whoever writes to what was given out", () =>
      Effect.gen(function* () {
        const server = script({ headers: minute, body: [new Uint8Array([1, 2]), new Uint8Array([3])] })
        const client = (yield* HttpCache.make()).transform(server.client)
        for (let n = 0; n < 3; n++) {
          const response = yield* client.get(url)
          const chunks = yield* Stream.runCollect(response.stream)
          assert.deepStrictEqual(
            [...chunks].flatMap((chunk) => [...chunk]),
            [1, 2, 3]
          )
          for (const chunk of chunks) chunk.fill(0)
          new Uint8Array(yield* response.arrayBuffer).fill(0)
        }
        assert.strictEqual(server.seen.length, 1)
      })
    )

    it.effect.each([
      ["does not say", 200, {}, 60_000],
      ["says when it last changed only", 200, { "last-modified": "Sun, 01 Jan 1950 00:00:00 GMT" }, 60_000],
      ["says it itself", 200, { "cache-control": "max-age=10" }, 10_000],
      ["has expired", 200, { expires: "0" }, 0],
      ["must be asked about", 200, { "cache-control": "no-cache" }, 0],
      ["must not be kept", 200, { "cache-control": "no-store" }, 0],
      ["has a status that HTTP does not keep by itself", 403, {}, 0]
    ] as const)("with a timeToLive, one that %s", ([, code, headers, fresh]) =>
      Effect.gen(function* () {
        const server = script({ status: code, headers, body: "a" })
        const client = (yield* HttpCache.make({ timeToLive: "1 minute" })).transform(server.client)
        yield* text(client.get(url))
        if (fresh > 0) {
          yield* TestClock.adjust(fresh - 1)
          yield* text(client.get(url))
          assert.strictEqual(server.seen.length, 1)
          yield* TestClock.adjust(1)
        }
        yield* text(client.get(url))
        assert.strictEqual(server.seen.length, 2)
      })
    )

    it.effect("streams a body over maxBodyBytes through, without waiting for its end", () =>
      Effect.gen(function* () {
        const server = script({ headers: minute, body: ["ab", "cd", "ef"], stalls: true })
        const cache = yield* HttpCache.make({ maxBodyBytes: 3 })
        const response = yield* cache.transform(server.client).get(url)
        const read = yield* response.stream.pipe(Stream.decodeText(), Stream.take(3), Stream.runCollect)
        assert.deepStrictEqual(read, ["ab", "cd", "ef"])
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
        assert.strictEqual((yield* cache.statistics).urls, 0)
      })
    )

    it.effect("does not wait for the body of what cannot be kept", () =>
      Effect.gen(function* () {
        const server = script({ body: "tick", stalls: true })
        const cache = yield* HttpCache.make({ staleIfError: "1 hour" })
        for (const headers of [{ "cache-control": "no-store" }, { ...minute, "content-type": "text/event-stream" }]) {
          const stream = script({ headers, body: "tick", stalls: true })
          const response = yield* cache.transform(stream.client).get(`${url}/${headers["cache-control"]}`)
          assert.strictEqual((yield* Stream.runHead(response.stream))._tag, "Some")
        }
        const response = yield* (yield* HttpCache.make()).transform(server.client).get(url)
        assert.strictEqual((yield* Stream.runHead(response.stream))._tag, "Some")
      })
    )

    it.effect("keeps at most `capacity` URLs, and lets go of the least recently used", () =>
      Effect.gen(function* () {
        const server = script({ headers: minute, body: "a" })
        const cache = yield* HttpCache.make({ capacity: 2 })
        const client = cache.transform(server.client)
        for (const path of ["1", "2", "1", "3", "1", "2"]) yield* text(client.get(`${url}/${path}`))
        assert.deepStrictEqual(
          server.seen.map(({ url }) => url.slice(-1)),
          ["1", "2", "3", "2"]
        )
        assert.strictEqual((yield* cache.statistics).evictions, 2)
      })
    )

    it.effect("keeps at most `maxBytes`, fields included", () =>
      Effect.gen(function* () {
        const server = script({ headers: { ...minute, "x-long": "x".repeat(2000) }, body: "b".repeat(2000) })
        const cache = yield* HttpCache.make({ maxBytes: 10_000 })
        const client = cache.transform(server.client)
        for (let n = 0; n < 10; n++) yield* text(client.get(`${url}/${n}`))
        const { bytes, urls } = yield* cache.statistics
        assert.strictEqual(urls, 2)
        assert.isTrue(bytes > 8000 && bytes <= 10_000)
      })
    )

    it.effect("keeps at most 16 variants of a URL", () =>
      Effect.gen(function* () {
        const server = script({ headers: { ...minute, vary: "accept" }, body: "a" })
        const cache = yield* HttpCache.make()
        const client = cache.transform(server.client)
        const get = (n: number) => text(client.get(url, { headers: { accept: String(n) } }))
        for (let n = 0; n < 17; n++) yield* get(n)
        yield* get(16)
        yield* get(1)
        assert.strictEqual(server.seen.length, 17)
        yield* get(0)
        assert.strictEqual(server.seen.length, 18)
      })
    )

    it.effect("forgets a URL, or all, when told to", () =>
      Effect.gen(function* () {
        const server = script({ headers: minute, body: "a" })
        const cache = yield* HttpCache.make()
        const client = cache.transform(server.client)
        yield* text(client.get(url))
        yield* cache.invalidate(new URL(`${url}#part`))
        yield* cache.invalidate("no url")
        yield* text(client.get(url))
        assert.strictEqual(server.seen.length, 2)
        yield* cache.invalidateAll
        yield* text(client.get(url))
        assert.strictEqual(server.seen.length, 3)
      })
    )

    it.effect("does not keep, or let others join, a request that began before its URL was written to", () =>
      Effect.gen(function* () {
        const server = scripted(({ method }, index) => ({
          after: method === "GET" ? "10 seconds" : "1 second",
          headers: minute,
          body: String(index)
        }))
        const client = (yield* HttpCache.make()).transform(server.client)
        const before = yield* Effect.forkChild(text(client.get(url)))
        yield* TestClock.adjust("1 second")
        yield* together([client.post(url)], "1 second")
        const after = yield* Effect.forkChild(text(client.get(url)))
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual([yield* Fiber.join(before), yield* Fiber.join(after)], ["0", "2"])
        assert.strictEqual(yield* text(client.get(url)), "2")
      })
    )

    it.effect("does not keep what was asked for before its URL was written to", () =>
      Effect.gen(function* () {
        const server = scripted(({ method }) => ({
          after: method === "GET" ? "10 seconds" : "1 second",
          headers: minute
        }))
        const client = (yield* HttpCache.make()).transform(server.client)
        const before = yield* Effect.forkChild(text(client.get(url)))
        yield* together([client.post(url)], "1 second")
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(before)
        yield* together([text(client.get(url))], "10 seconds")
        assert.deepStrictEqual(
          server.seen.map(({ method }) => method),
          ["GET", "POST", "GET"]
        )
      })
    )

    it.effect("stops a refresh that nobody waits for when its URL is written to", () =>
      Effect.gen(function* () {
        const headers = { "cache-control": "max-age=60, stale-while-revalidate=600" }
        const server = scripted(({ method }, index) =>
          index === 0 || method === "POST" ? { headers } : { headers, after: "1 hour" }
        )
        const client = (yield* HttpCache.make()).transform(server.client)
        yield* text(client.get(url))
        yield* TestClock.adjust("61 seconds")
        yield* text(client.get(url))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(server.open(), 1)
        yield* text(client.post(url))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
      })
    )

    it.effect("lets nobody have a response that varies by a field in which they differ", () =>
      Effect.gen(function* () {
        const server = scripted(({ headers }) => ({
          after: "1 second",
          headers: { ...minute, vary: "X-Request-Id" },
          body: headers["x-request-id"] ?? ""
        }))
        const client = (yield* HttpCache.make()).transform(server.client)
        const as = (id: string) => text(client.get(url, { headers: { "x-request-id": id } }))
        assert.deepStrictEqual(yield* together([as("a"), as("b")]), ["a", "b"])
      })
    )

    it.effect("asks for the whole when a 304 is about something else", () =>
      Effect.gen(function* () {
        const server = script(
          { headers: { ...minute, etag: '"a"' }, body: "old" },
          { status: 304, headers: { etag: '"b"' } },
          { headers: { ...minute, etag: '"b"' }, body: "new" }
        )
        const client = (yield* HttpCache.make()).transform(server.client)
        yield* text(client.get(url))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* text(client.get(url)), "new")
        assert.strictEqual(server.seen[2]?.headers["if-none-match"], undefined)
      })
    )

    it.effect("refreshes in the background once at a time, as many as `maxRefreshes`, until its scope closes", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const headers = { "cache-control": "max-age=60, stale-while-revalidate=600" }
        const server = scripted((_, index) => ({
          headers,
          body: String(index),
          ...(index < 2 ? {} : { after: "1 hour" })
        }))
        const cache = yield* HttpCache.make({ maxRefreshes: 1 }).pipe(Scope.provide(scope))
        const client = cache.transform(server.client)
        yield* text(client.get(`${url}/a`))
        yield* text(client.get(`${url}/b`))
        yield* TestClock.adjust("61 seconds")
        for (const path of ["a", "a", "b"]) yield* text(client.get(`${url}/${path}`))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(server.seen.length, 3)
        assert.strictEqual(server.open(), 1)
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
        assert.strictEqual(yield* text(client.get(`${url}/a`)), "0")
        assert.strictEqual(server.seen.length, 3)
        assert.strictEqual((yield* cache.statistics).refreshes, 1)
      })
    )

    it.effect("gives up what a refresh brings that cannot be kept, and keeps what it had when one fails", () =>
      Effect.gen(function* () {
        const headers = { "cache-control": "max-age=60, stale-while-revalidate=600" }
        const server = script(
          { headers, body: "old" },
          { code: "ECONNRESET" },
          { headers: { "cache-control": "no-store" }, body: "x", stalls: true },
          { headers, body: "new" }
        )
        const client = (yield* HttpCache.make()).transform(server.client)
        yield* text(client.get(url))
        yield* TestClock.adjust("61 seconds")
        assert.strictEqual(yield* text(client.get(url)), "old")
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* text(client.get(url)), "old")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([server.open(), server.aborted()], [0, 1])
        assert.strictEqual(yield* text(client.get(url)), "new")
      })
    )

    it.effect("answers what the reader makes of it: text, JSON, bytes, a stream", () =>
      Effect.gen(function* () {
        const server = script({ headers: { ...minute, "content-type": "application/json" }, body: '{"a":1}' })
        const client = (yield* HttpCache.make()).transform(server.client)
        for (let n = 0; n < 2; n++) {
          const response = yield* client.get(url)
          assert.deepStrictEqual(yield* response.json, { a: 1 })
          assert.strictEqual(yield* response.text, '{"a":1}')
          assert.strictEqual((yield* response.arrayBuffer).byteLength, 7)
          assert.deepStrictEqual([response.url, response.status, response.request.url], [url, 200, url])
        }
      })
    )

    it.effect("counts what happened", () =>
      Effect.gen(function* () {
        const server = script({ headers: { ...minute, etag: '"a"' }, body: "a" }, { status: 304 })
        const cache = yield* HttpCache.make()
        const client = cache.transform(server.client)
        yield* text(client.get(url))
        yield* text(client.get(url))
        yield* TestClock.adjust("1 minute")
        yield* text(client.get(url))
        yield* client.get(url, { headers: { range: "bytes=0-" } })
        const { bytes, ...counts } = yield* cache.statistics
        assert.deepStrictEqual(counts, {
          urls: 1,
          pending: 0,
          hits: 1,
          misses: 2,
          joined: 0,
          bypassed: 1,
          confirmed: 1,
          stale: 0,
          refreshes: 0,
          evictions: 0
        })
        assert.isAbove(bytes, 500)
      })
    )

    it.effect("stands in for a server that HttpResilience has given up on", () =>
      Effect.gen(function* () {
        const server = script({ headers: minute, body: "kept" }, { status: 503, body: "no" })
        const resilience = yield* HttpResilience.make({
          timeout: "1 second",
          retry: { schedule: Retry.delays(["1 second"]) }
        })
        const cache = yield* HttpCache.make({ staleIfError: "1 hour" })
        const client = server.client.pipe(resilience.transform, cache.transform)
        yield* text(client.get(url))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* together([text(client.get(url)), text(client.get(url))]), ["kept", "kept"])
        assert.strictEqual(server.seen.length, 3)
        assert.strictEqual(server.open(), 0)
        assert.strictEqual((yield* cache.statistics).stale, 2)
      })
    )

    it.effect("has the errors and needs of the client, and no others", () =>
      Effect.gen(function* () {
        const { client } = script({})
        const cache = yield* HttpCache.make()
        expectTypeOf(cache.transform(client)).toEqualTypeOf<
          HttpClient.HttpClient.With<HttpClientError.HttpClientError>
        >()
        const timed = (yield* HttpResilience.make({ timeout: "1 second" })).transform(client)
        expectTypeOf(cache.transform(timed)).toEqualTypeOf<
          HttpClient.HttpClient.With<HttpClientError.HttpClientError | Timeout.TimedOut>
        >()
      })
    )

    it.effect.each([
      ["capacity", { capacity: 0 }],
      ["maxBytes", { maxBytes: 0 }],
      ["maxBodyBytes", { maxBodyBytes: -1 }],
      ["maxRefreshes", { maxRefreshes: 1.5 }],
      ["timeToLive", { timeToLive: -1 }],
      ["timeToLive", { timeToLive: "Infinity" }],
      ["staleIfError", { staleIfError: -1 }],
      ["staleWhileRevalidate", { staleWhileRevalidate: "-1 seconds" }]
    ] as const)("dies of %s %o", ([name, options]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(HttpCache.make(options as HttpCache.Options))
        assert.isTrue(Exit.isFailure(exit) && String(exit.cause).includes(`HttpCache: ${name} must`))
      })
    )
  })
})
