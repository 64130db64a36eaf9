import { assert, describe, it } from "@effect/vitest"
import { interruptEverywhere } from "effect-resilience/testing"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Stream } from "effect"
import { HttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import type { GameBatch } from "../../src/chess/domain/Game.ts"
import * as Lichess from "../../src/chess/Lichess.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"
import { UpstreamTimeout, UpstreamUnavailable, UserNotFound } from "../../src/chess/UpstreamError.ts"
import * as FakeSite from "../support/FakeSite.ts"
import { lichessGame, lichessGameNumber, ndjson } from "../support/wireGames.ts"

const lichess = (site: FakeSite.FakeSite, options: Lichess.Options = {}) =>
  Lichess.make({ baseUrl: "http://lichess.test", retryDelays: [], ...options }).pipe(
    Effect.provideService(HttpClient.HttpClient, site.client)
  )

const ndjsonType = { "content-type": "application/x-ndjson" }
const json = { "content-type": "application/json" }
const html = { status: 404, headers: { "content-type": "text/html" }, body: "<!DOCTYPE html><html><h1>404</h1></html>" }

const exportOf = (body: FakeSite.Reply["body"]): FakeSite.Reply => ({ headers: ndjsonType, ...(body && { body }) })

const isExport = (asked: FakeSite.Asked) => asked.url.pathname.startsWith("/api/games/user/")

const usersReply = (asked: FakeSite.Asked, closed: ReadonlyArray<string> = []): FakeSite.Reply => ({
  headers: json,
  body: JSON.stringify(
    asked.body
      .split(",")
      .filter((id) => !id.startsWith("no"))
      .map((id) => ({ id, username: id, ...(closed.includes(id) ? { disabled: true } : {}) }))
  )
})

const bytes = (text: string) => new TextEncoder().encode(text)

const all = (stream: Stream.Stream<GameBatch, unknown>) =>
  Effect.map(Stream.runCollect(stream), (batches) => ({
    games: batches.flatMap((batch) => batch.games),
    odd: batches.flatMap((batch) => batch.odd)
  }))

const query = { user: "ada_rook", order: "newest-first" } as const

describe("Lichess", () => {
  describe("userStatus", () => {
    it.effect("tells active, closed and unknown users apart, whatever the case of the name", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked) => usersReply(asked, ["gone_girl"]))
        const { userStatus } = yield* lichess(site)
        assert.strictEqual(yield* userStatus("Ada_Rook"), "active")
        assert.strictEqual(yield* userStatus("Gone_Girl"), "closed")
        assert.strictEqual(yield* userStatus("nobody"), "unknown")
        assert.deepStrictEqual(
          site.asked.map((asked) => [asked.method, asked.url.pathname, asked.headers["content-type"], asked.body]),
          ["ada_rook", "gone_girl", "nobody"].map((id) => ["POST", "/api/users", "text/plain", id])
        )
        assert.strictEqual(site.open(), 0)
      })
    )

    it.effect("asks for 1,000 users in 5 requests, one after another", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked) => Effect.delay(Effect.succeed(usersReply(asked)), "100 millis"))
        const { userStatus } = yield* lichess(site)
        const users = Array.from({ length: 1000 }, (_, n) => `user${n}`)
        const fiber = yield* Effect.forkChild(Effect.forEach(users, userStatus, { concurrency: "unbounded" }))
        // Bodies are read by promises, which a jump of the clock does not wait for.
        yield* Effect.repeat(TestClock.adjust("100 millis"), { times: 20 })
        const statuses = yield* Fiber.join(fiber)
        assert.isTrue(statuses.every((status) => status === "active"))
        assert.deepStrictEqual(
          site.asked.map((asked) => asked.body.split(",").length),
          [1, 300, 300, 300, 99]
        )
        assert.strictEqual(site.maxOpen(), 1)
      })
    )

    it.effect("says who asks, and that by no name of a crawler", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked) => usersReply(asked))
        const { userStatus } = yield* lichess(site, { contact: "ops@chess.example" })
        yield* userStatus("ada_rook")
        const agent = site.asked[0]!.headers["user-agent"]!
        assert.match(agent, /contact: ops@chess\.example\)$/)
        assert.notMatch(agent, /undici|axios|curl|wget|okhttp|aiohttp|python/i)
        const exit = yield* Effect.exit(lichess(site, { contact: "https://example.test/undici" }))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
      })
    )
  })

  describe("games", () => {
    it.effect("asks for everything the import needs and filters nothing", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => exportOf(ndjson([lichessGame()])))
        const { games } = yield* lichess(site)
        yield* all(games({ user: "Ada_Rook", since: 5, until: 7, max: 9, order: "oldest-first" }))
        yield* all(games(query))
        assert.deepStrictEqual(
          site.asked.map((asked) => [
            asked.headers.accept,
            asked.url.pathname,
            Object.fromEntries(asked.url.searchParams)
          ]),
          [
            [
              "application/x-ndjson",
              "/api/games/user/Ada_Rook",
              { pgnInJson: "true", clocks: "true", opening: "true", sort: "dateAsc", max: "9", since: "5", until: "7" }
            ],
            [
              "application/x-ndjson",
              "/api/games/user/ada_rook",
              { pgnInJson: "true", clocks: "true", opening: "true", sort: "dateDesc" }
            ]
          ]
        )
      })
    )

    it.effect("brings what arrived together in one batch, wherever the network cut it", () =>
      Effect.gen(function* () {
        const body = bytes(ndjson([0, 1, 2].map(lichessGameNumber)))
        const expected = [0, 1, 2].map((n) => lichessGameNumber(n).id)
        for (const size of [1, 7, 333, body.length]) {
          const pieces = Array.from({ length: Math.ceil(body.length / size) }, (_, n) =>
            body.subarray(n * size, (n + 1) * size)
          )
          const site = FakeSite.make(() => exportOf(Stream.fromIterable(pieces).pipe(Stream.rechunk(1))))
          const { games } = yield* lichess(site)
          const batches = yield* Stream.runCollect(games(query))
          assert.deepStrictEqual(
            batches.flatMap((batch) => batch.games.map((game) => game.id)),
            expected
          )
          assert.isTrue(batches.every((batch) => batch.games.every((game) => game.opening?.includes("Sämisch"))))
          if (size === body.length) assert.strictEqual(batches.length, 1)
        }
      })
    )

    it.effect("ends for a user without games", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => exportOf(""))
        const { games } = yield* lichess(site)
        assert.deepStrictEqual(yield* all(games(query)), { games: [], odd: [] })
        assert.strictEqual(site.open(), 0)
      })
    )

    it.effect("skips blank lines, and counts what is not a game with its reason", () =>
      Effect.gen(function* () {
        const lines = [
          JSON.stringify(lichessGameNumber(1)),
          "",
          "\r",
          "{not json",
          JSON.stringify({ id: "short" }),
          `${JSON.stringify(lichessGameNumber(2))}\r`,
          "x".repeat(5000),
          JSON.stringify(lichessGameNumber(3))
        ]
        const site = FakeSite.make(() => exportOf(lines.join("\n")))
        const { games } = yield* lichess(site, { maxLineBytes: 4000 })
        const found = yield* all(games(query))
        assert.strictEqual(found.games.length, 3)
        assert.deepStrictEqual(
          found.odd.map((odd) => odd.reason.split("\n")[0]),
          [
            "not JSON",
            'Expected a game id of 8 letters or digits\n  at ["id"]'.split("\n")[0],
            "a line of over 4000 bytes"
          ]
        )
        assert.strictEqual(found.odd[2]!.raw.length, 4096)
      })
    )

    it.effect("drops the last line and fails when the connection breaks", () =>
      Effect.gen(function* () {
        const text = ndjson([lichessGameNumber(1), lichessGameNumber(2)])
        const site = FakeSite.make(() =>
          exportOf(Stream.concat(Stream.succeed(bytes(text.slice(0, -20))), Stream.fail(new Error("cut"))))
        )
        const { games, state } = yield* lichess(site)
        const seen: Array<string> = []
        const error = yield* Effect.flip(
          Stream.runForEach(games(query), (batch) =>
            Effect.sync(() => seen.push(...batch.games.map((game) => game.id)))
          )
        )
        assert.deepStrictEqual(seen, [lichessGameNumber(1).id])
        assert.isTrue(error instanceof UpstreamUnavailable && error.reason === "connection")
        const { circuit } = yield* state
        assert.strictEqual(circuit.failures, 1)
      })
    )

    it.effect("fails when the last line of a stream that ended cleanly is cut off", () =>
      Effect.gen(function* () {
        const text = ndjson([lichessGameNumber(1), lichessGameNumber(2)])
        const site = FakeSite.make(() => exportOf(text.slice(0, -20)))
        const { games } = yield* lichess(site)
        const error = yield* Effect.flip(all(games(query)))
        assert.isTrue(error instanceof UpstreamUnavailable && error.reason === "body")
      })
    )

    it.effect("keeps a complete last line without its end", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => exportOf(ndjson([lichessGameNumber(1)]).trimEnd()))
        const { games } = yield* lichess(site)
        assert.strictEqual((yield* all(games(query))).games.length, 1)
      })
    )

    it.effect("gives a stream up when no line comes for the idle timeout, even if bytes do", () =>
      Effect.gen(function* () {
        const drip = Stream.fromIterable(bytes(ndjson([lichessGame()]))).pipe(
          Stream.map((byte) => Uint8Array.of(byte)),
          Stream.rechunk(1),
          Stream.mapEffect((byte) => Effect.delay(Effect.succeed(byte), "1 second"))
        )
        const site = FakeSite.make(() => exportOf(drip))
        const { games } = yield* lichess(site)
        const fiber = yield* Effect.forkChild(Effect.flip(all(games(query))))
        yield* TestClock.adjust("31 seconds")
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error instanceof UpstreamTimeout)
        assert.strictEqual(site.open(), 0)
      })
    )

    it.effect("has no limit on the whole: a line every 20 seconds for an hour is fine", () =>
      Effect.gen(function* () {
        const slow = Stream.range(1, 180).pipe(
          Stream.rechunk(1),
          Stream.mapEffect((n) => Effect.delay(Effect.succeed(bytes(ndjson([lichessGameNumber(n)]))), "20 seconds"))
        )
        const site = FakeSite.make(() => exportOf(slow))
        const { games } = yield* lichess(site)
        const fiber = yield* Effect.forkChild(all(games(query)))
        yield* TestClock.adjust("2 hours")
        assert.strictEqual((yield* Fiber.join(fiber)).games.length, 180)
      })
    )

    it.effect("closes the body at once when the reader stops or is interrupted, and lets the next export in", () =>
      Effect.gen(function* () {
        const endless = Stream.range(1, 1_000_000).pipe(
          Stream.rechunk(1),
          Stream.mapEffect((n) => Effect.delay(Effect.succeed(bytes(ndjson([lichessGameNumber(n)]))), "1 second"))
        )
        const site = FakeSite.make(() => exportOf(endless))
        const { games, state } = yield* lichess(site, { maxExports: 1 })
        const first = yield* Effect.forkChild(games(query).pipe(Stream.take(2), Stream.runDrain))
        const second = yield* Effect.forkChild(Stream.runDrain(games(query)))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([site.open(), (yield* state).exports.waiting], [1, 1])
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(first)
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual([site.asked.length, site.open(), (yield* state).exports.waiting], [2, 1, 0])
        yield* Fiber.interrupt(second)
        assert.deepStrictEqual([site.open(), (yield* state).exports.running], [0, 0])
      })
    )

    it.effect("runs two exports at a time, whatever else is asked meanwhile", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const site = FakeSite.make((asked) =>
          isExport(asked)
            ? exportOf(Stream.fromEffect(Effect.as(Deferred.await(gate), bytes("\n"))))
            : usersReply(asked)
        )
        const { games, userStatus } = yield* lichess(site)
        const fiber = yield* Effect.forkChild(
          Effect.forEach([1, 2, 3], () => all(games(query)), { concurrency: "unbounded" })
        )
        yield* TestClock.adjust("1 second")
        assert.strictEqual(site.open(), 2)
        assert.strictEqual(yield* userStatus("ada_rook"), "active")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(fiber)
        assert.strictEqual(site.maxOpen(), 3)
        assert.strictEqual(site.asked.filter(isExport).length, 3)
      })
    )

    it.effect("leaves no connection and no place behind, wherever it is interrupted", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked) => {
          if (!isExport(asked)) return usersReply(asked)
          return asked.url.pathname.endsWith("/nobody") ? html : exportOf(ndjson([lichessGame()]))
        })
        const { games, state } = yield* lichess(site, { rateCapacity: 1000 })
        const operations = yield* interruptEverywhere(
          Effect.all([all(games(query)), Effect.flip(all(games({ ...query, user: "nobody" })))]),
          Effect.gen(function* () {
            // Gives back tokens, and turns to the fibers that were interrupted.
            yield* TestClock.adjust("1 minute")
            const { exports, lane } = yield* state
            assert.deepStrictEqual([site.open(), exports.running, exports.waiting, lane.running], [0, 0, 0, 0])
          })
        )
        assert.isAbove(operations, 20)
      })
    )

    it.effect("asks elsewhere what a 404 means", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked) => (isExport(asked) ? html : usersReply(asked, ["gone_girl"])))
        const { games } = yield* lichess(site)
        const error = (user: string) => Effect.flip(all(games({ ...query, user })))
        assert.deepStrictEqual(yield* error("nobody"), new UserNotFound({ platform: "lichess", user: "nobody" }))
        const closed = yield* error("gone_girl")
        assert.deepStrictEqual(closed, new UserNotFound({ platform: "lichess", user: "gone_girl", status: "closed" }))
        const hidden = yield* error("ada_rook")
        assert.isTrue(hidden instanceof UpstreamUnavailable && hidden.reason === "blocked")
        assert.strictEqual(site.open(), 0)
      })
    )

    it.effect("asks again for a body that is not an export, and holds one connection at most", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((_, index) =>
          index < 2
            ? { headers: { "content-type": "text/html" }, body: Stream.never }
            : exportOf(ndjson([lichessGame()]))
        )
        const { games } = yield* lichess(site, { retryDelays: ["1 second", "1 second"] })
        const fiber = yield* Effect.forkChild(all(games(query)))
        for (const asked of [1, 2]) {
          yield* TestClock.adjust("999 millis")
          assert.deepStrictEqual([site.asked.length, site.open()], [asked, 0])
          yield* TestClock.adjust("1 millis")
        }
        assert.strictEqual((yield* Fiber.join(fiber)).games.length, 1)
        assert.strictEqual(site.maxOpen(), 1)
        assert.strictEqual(site.open(), 0)
      })
    )
  })

  describe("with the simulated site", () => {
    const simulated = (simulator: Simulator.Simulator, options: Lichess.Options = {}) =>
      Lichess.make(options).pipe(Effect.provideService(HttpClient.HttpClient, simulator.httpClient))

    it.effect("reads every game of a user, in either order", () =>
      Effect.gen(function* () {
        const simulator = yield* Simulator.make({ oddities: 0.3 })
        const { games, userStatus } = yield* simulated(simulator)
        assert.strictEqual(yield* userStatus("Nadia-300"), "active")
        const expected = (yield* simulator.games("nadia-300", "lichess")).map(({ endedAt, id, playedAt }) => ({
          endedAt,
          id,
          playedAt
        }))
        for (const order of ["oldest-first", "newest-first"] as const) {
          const found = yield* all(games({ user: "nadia-300", order }))
          assert.deepStrictEqual(found.odd, [])
          assert.deepStrictEqual(
            found.games.map(({ endedAt, id, playedAt }) => ({ endedAt, id, playedAt })),
            order === "oldest-first" ? expected : [...expected].reverse()
          )
        }
        assert.deepStrictEqual((yield* simulator.requests).lichess.exports, { now: 0, max: 1 })
      })
    )

    it.effect(
      "reads the same through chunks cut anywhere, blank lines and CR LF, and skips what is too long or no game",
      () =>
        Effect.gen(function* () {
          const simulator = yield* Simulator.make()
          const { games } = yield* simulated(simulator)
          const expected = yield* all(games({ user: "nadia-100", order: "oldest-first" }))
          assert.strictEqual(expected.games.length, 100)
          yield* simulator.lichess.inject({ kind: "split" })
          yield* simulator.lichess.inject({ kind: "blank-lines" })
          assert.deepStrictEqual(yield* all(games({ user: "nadia-100", order: "oldest-first" })), expected)
          yield* simulator.lichess.inject({ kind: "odd-games", every: 20 })
          yield* simulator.lichess.inject({ kind: "huge-game", after: 50 })
          const odd = yield* all(games({ user: "nadia-100", order: "oldest-first" }))
          assert.strictEqual(odd.games.length, 99)
          assert.isTrue(odd.odd.some(({ reason }) => reason === "a line of over 1048576 bytes"))
          assert.isAtLeast(odd.odd.length, 5)
        })
    )

    for (const [kind, tag, reason] of [
      ["cut-in-game", "UpstreamUnavailable", "connection"],
      ["cut-between-games", "UpstreamUnavailable", "connection"],
      ["stall", "UpstreamTimeout", undefined]
    ] as const) {
      it.effect(`keeps the games before a ${kind}, fails, and holds no slot of the site`, () =>
        Effect.gen(function* () {
          const simulator = yield* Simulator.make()
          const { games } = yield* simulated(simulator)
          yield* simulator.lichess.inject({ kind, after: 40 })
          let count = 0
          const fiber = yield* games({ user: "nadia-100", order: "newest-first" }).pipe(
            Stream.runForEach((batch) => Effect.sync(() => (count += batch.games.length))),
            Effect.flip,
            Effect.forkChild
          )
          yield* TestClock.adjust("30 seconds")
          const error = yield* Fiber.join(fiber)
          assert.strictEqual(error._tag, tag)
          if (error._tag === "UpstreamUnavailable") assert.strictEqual(error.reason, reason)
          assert.strictEqual(count, 40)
          assert.strictEqual((yield* simulator.requests).lichess.exports.now, 0)
        })
      )
    }

    it.effect("frees the slot of the site at once when a reader stops, so the next two can read", () =>
      Effect.gen(function* () {
        const simulator = yield* Simulator.make({ lichess: { gamesPerSecond: 20 } })
        const { games } = yield* simulated(simulator)
        const read = (user: string) => games({ user, order: "newest-first" })
        const endless = yield* Effect.forkChild(Stream.runDrain(read("nadia-100000")))
        const fiber = yield* Effect.forkChild(read("tadeo-100000").pipe(Stream.take(3), Stream.runDrain))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        yield* Fiber.interrupt(endless)
        assert.strictEqual((yield* simulator.requests).lichess.exports.now, 0)
        const next = yield* Effect.forkChild(
          Effect.all([all(read("nadia-10")), all(read("tadeo-10"))], { concurrency: 2 })
        )
        yield* TestClock.adjust("2 seconds")
        const found = yield* Fiber.join(next)
        assert.deepStrictEqual(
          found.map(({ games }) => games.length),
          [10, 10]
        )
        assert.isUndefined((yield* simulator.requests).lichess.byStatus[429])
      })
    )
  })

  describe("when Lichess is in trouble", () => {
    it.effect("pauses longer with every 429 in a row, and asks nothing meanwhile", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked, index) =>
          index < 4
            ? { status: 429, headers: json, body: '{"error":"Too many requests. Try again later."}' }
            : usersReply(asked)
        )
        const { state, userStatus } = yield* lichess(site)
        for (const seconds of [60, 120, 300, 300]) {
          const error = yield* Effect.flip(userStatus("ada_rook"))
          assert.isTrue(error._tag === "UpstreamUnavailable" && error.reason === "rate-limited")
          assert.deepStrictEqual(error.retryAfter, Duration.seconds(seconds))
          const asked = site.asked.length
          yield* TestClock.adjust(Duration.seconds(seconds - 31))
          const refused = yield* Effect.flip(userStatus("ada_rook"))
          assert.isTrue(refused._tag === "UpstreamUnavailable" && refused.reason === "rate-limited")
          assert.strictEqual(site.asked.length, asked)
          yield* TestClock.adjust("32 seconds")
        }
        assert.strictEqual(yield* userStatus("ada_rook"), "active")
        assert.strictEqual((yield* state).circuit.failures, 0)
      })
    )

    for (const [header, seconds, expected] of [
      [undefined, 3600, 3600],
      ["7200", 3600, 7200],
      ["100", 3600, 3600],
      ["100", undefined, 100],
      ["10", 20, 60],
      ["soon", undefined, 60]
    ] as const) {
      it.effect(`pauses for ${expected} s on a 429 with Retry-After ${header} and a limit of ${seconds} s`, () =>
        Effect.gen(function* () {
          const ratelimit = seconds === undefined ? {} : { ratelimit: { key: "user.show.ip", seconds } }
          const site = FakeSite.make(() => ({
            status: 429,
            headers: header === undefined ? json : { ...json, "retry-after": header },
            body: JSON.stringify({ error: "Too many requests. Try again later.", ...ratelimit })
          }))
          const { state, userStatus } = yield* lichess(site)
          const error = yield* Effect.flip(userStatus("ada_rook"))
          assert.deepStrictEqual(error.retryAfter, Duration.seconds(expected))
          assert.deepStrictEqual((yield* state).limiter.pausedFor, Duration.seconds(expected))
        })
      )
    }

    it.effect("opens the circuit for 15 minutes on a 403", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((asked, index) =>
          index === 0 ? { status: 403, body: "Blocked" } : usersReply(asked)
        )
        const { state, userStatus } = yield* lichess(site)
        const error = yield* Effect.flip(userStatus("ada_rook"))
        assert.isTrue(error._tag === "UpstreamUnavailable" && error.reason === "blocked")
        assert.deepStrictEqual(error.retryAfter, Duration.minutes(15))
        assert.strictEqual((yield* state).circuit._tag, "Open")
        yield* TestClock.adjust("14 minutes")
        const refused = yield* Effect.flip(userStatus("ada_rook"))
        assert.isTrue(refused._tag === "UpstreamUnavailable" && refused.reason === "circuit-open")
        assert.deepStrictEqual(refused.retryAfter, Duration.minutes(1))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* userStatus("ada_rook"), "active")
      })
    )

    it.effect("counts streams that open and bring nothing against the site, and those that bring games for it", () =>
      Effect.gen(function* () {
        let reply: FakeSite.Reply = exportOf(Stream.never)
        const site = FakeSite.make(() => reply)
        const { games, state } = yield* lichess(site, { circuitFailures: 3 })
        const attempt = Effect.gen(function* () {
          const fiber = yield* Effect.forkChild(Effect.exit(all(games(query))))
          yield* Effect.repeat(TestClock.adjust("1 second"), { times: 30 })
          return yield* Fiber.join(fiber)
        })
        yield* attempt
        yield* attempt
        assert.strictEqual((yield* state).circuit.failures, 2)
        reply = exportOf(ndjson([lichessGame()]))
        yield* attempt
        assert.strictEqual((yield* state).circuit.failures, 0)
        reply = exportOf(Stream.concat(Stream.succeed(bytes(ndjson([lichessGame()]))), Stream.never))
        yield* attempt
        assert.strictEqual((yield* state).circuit.failures, 1)
        yield* attempt
        assert.strictEqual((yield* state).circuit.failures, 1)
        reply = exportOf(ndjson([lichessGame()]))
        yield* attempt
        reply = exportOf(Stream.never)
        yield* attempt
        yield* attempt
        yield* attempt
        assert.strictEqual((yield* state).circuit._tag, "Open")
        assert.strictEqual(site.open(), 0)
      })
    )
  })
})
