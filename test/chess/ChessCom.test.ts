import { assert, describe, it } from "@effect/vitest"
import { interruptEverywhere } from "effect-resilience/testing"
import { Duration, Effect, Fiber, Stream } from "effect"
import { HttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import { gzipSync } from "node:zlib"
import * as ChessCom from "../../src/chess/ChessCom.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"
import { UpstreamTimeout, UpstreamUnavailable, UserNotFound } from "../../src/chess/UpstreamError.ts"
import * as FakeSite from "../support/FakeSite.ts"
import { chessComGame } from "../support/wireGames.ts"

const chessCom = (site: FakeSite.FakeSite, options: ChessCom.Options = {}) =>
  ChessCom.make({ baseUrl: "http://chesscom.test/pub/", retryDelays: [], ...options }).pipe(
    Effect.provideService(HttpClient.HttpClient, site.client)
  )

const json = (body: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): FakeSite.Reply => ({
  status,
  headers: { "content-type": "application/json; charset=utf-8", ...headers },
  body: JSON.stringify(body)
})

const html = (status: number): FakeSite.Reply => ({
  status,
  headers: { "content-type": "text/html" },
  body: "<!DOCTYPE html><html><title>Just a moment...</title></html>"
})

const profile = (status: string) => json({ player_id: 7, username: "ada_rook", status, joined: 1_400_000_000 })
const unknown = json({ code: 0, message: 'User "nobody" not found.' }, 404)
const noProvider = { code: 0, message: "Data provider not found for key 12" }
const march = { year: 2025, month: 3 }
const query = { user: "ada_rook", month: march }

describe("ChessCom", () => {
  describe("userStatus", () => {
    for (const [what, reply, expected] of [
      ["an open account", profile("premium"), "active"],
      ["an account closed by its owner", profile("closed"), "closed"],
      ["an account closed for cheating", profile("closed:fair_play_violations"), "closed"],
      ["an account without a status", json({ username: "ada_rook" }), "active"],
      ["a 404 that says so", unknown, "unknown"],
      ["a 410", { status: 410 }, "unknown"]
    ] as const) {
      it.effect(`reads ${what} as ${expected}`, () =>
        Effect.gen(function* () {
          const site = FakeSite.make(() => reply)
          const { state, userStatus } = yield* chessCom(site)
          assert.strictEqual(yield* userStatus("Ada_Rook"), expected)
          assert.strictEqual(site.asked[0]!.url.pathname, "/pub/player/ada_rook")
          assert.strictEqual((yield* state).circuit.failures, 0)
          assert.strictEqual(site.open(), 0)
        })
      )
    }

    for (const [what, reply, reason, failures] of [
      ["a 404 page", html(404), "body", 1],
      ["a 404 of a data provider", json(noProvider, 404), "body", 1],
      ["a 200 page", html(200), "body", 1],
      ["a 200 without a profile", json(noProvider), "body", 1],
      ["half a body", { body: '{"username":"ada' }, "body", 1],
      ["a 304 nobody asked for", { status: 304 }, "body", 1],
      ["a 500", html(500), "status", 1],
      ["a 503", html(503), "status", 1],
      ["a 400", html(400), "status", 0],
      ["a redirect to elsewhere", { status: 301, headers: { location: "https://elsewhere.test/" } }, "status", 0],
      ["a redirect to nowhere", { status: 302 }, "status", 0],
      ["a 429", html(429), "rate-limited", 0],
      ["a 403", { status: 403, body: "Blocked: Archive crawl was too heavy for this API." }, "blocked", 0]
    ] as const) {
      it.effect(`fails on ${what} with reason ${reason}, and counts ${failures} failures`, () =>
        Effect.gen(function* () {
          const site = FakeSite.make(() => reply)
          const { state, userStatus } = yield* chessCom(site)
          const error = yield* Effect.flip(userStatus("ada_rook"))
          assert.isTrue(error instanceof UpstreamUnavailable && error.reason === reason)
          assert.strictEqual((yield* state).circuit.failures, failures)
          assert.deepStrictEqual([site.asked.length, site.open()], [1, 0])
        })
      )
    }

    for (const code of ["reset", "refused"] as const) {
      it.effect(`fails on a connection that is ${code}, and counts it`, () =>
        Effect.gen(function* () {
          const site = FakeSite.make(() => Effect.fail(code))
          const { state, userStatus } = yield* chessCom(site)
          const error = yield* Effect.flip(userStatus("ada_rook"))
          assert.isTrue(error instanceof UpstreamUnavailable && error.reason === "connection")
          assert.include(error.message, code === "reset" ? "UND_ERR_SOCKET" : "ECONNREFUSED")
          assert.strictEqual((yield* state).circuit.failures, 1)
        })
      )
    }

    it.effect("asks for what is gone for ever only once", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => ({ status: 410 }))
        const { userStatus } = yield* chessCom(site)
        yield* userStatus("ada_rook")
        yield* userStatus("Ada_Rook")
        assert.strictEqual(site.asked.length, 1)
      })
    )

    it.effect("follows three redirects within the site, and no more", () =>
      Effect.gen(function* () {
        const site = FakeSite.make((_, index) =>
          index < 3 ? { status: 301, headers: { location: `/pub/player/hop${index}` } } : profile("basic")
        )
        const { userStatus } = yield* chessCom(site)
        assert.strictEqual(yield* userStatus("ada_rook"), "active")
        assert.deepStrictEqual(
          site.asked.map((asked) => asked.url.pathname),
          ["/pub/player/ada_rook", "/pub/player/hop0", "/pub/player/hop1", "/pub/player/hop2"]
        )
        assert.isTrue(site.asked.every((asked) => asked.headers["user-agent"]?.startsWith("effect-resilience-chess/")))
        const round = FakeSite.make(() => ({ status: 301, headers: { location: "/pub/player/ada_rook" } }))
        const error = yield* Effect.flip((yield* chessCom(round)).userStatus("ada_rook"))
        assert.isTrue(error instanceof UpstreamUnavailable && error.reason === "status")
        assert.strictEqual(round.asked.length, 4)
      })
    )

    it.effect("tries again what can heal, after 0.5, 1 and 2 seconds, one connection at a time", () =>
      Effect.gen(function* () {
        const replies = [html(503), json(noProvider), html(200), profile("basic")]
        const site = FakeSite.make((_, index) => replies[index]!)
        const { userStatus } = yield* ChessCom.make({ baseUrl: "http://chesscom.test/pub" }).pipe(
          Effect.provideService(HttpClient.HttpClient, site.client)
        )
        const fiber = yield* Effect.forkChild(userStatus("ada_rook"))
        for (const [seconds, asked] of [
          [0.499, 1],
          [0.001, 2],
          [0.999, 2],
          [0.001, 3],
          [1.999, 3],
          [0.001, 4]
        ] as const) {
          yield* TestClock.adjust(Duration.seconds(seconds))
          assert.strictEqual(site.asked.length, asked)
        }
        assert.strictEqual(yield* Fiber.join(fiber), "active")
        assert.strictEqual(site.maxOpen(), 1)
      })
    )

    it.effect("does not try again what cannot succeed", () =>
      Effect.gen(function* () {
        for (const reply of [html(400), html(403), html(429), unknown, profile("closed")]) {
          const site = FakeSite.make(() => reply)
          const { userStatus } = yield* chessCom(site, { retryDelays: ["1 second", "1 second"] })
          yield* Effect.exit(userStatus("ada_rook"))
          assert.strictEqual(site.asked.length, 1)
        }
      })
    )

    it.effect("asks one thing at a time", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => Effect.delay(Effect.succeed(profile("basic")), "10 millis"))
        const { userStatus } = yield* chessCom(site)
        const users = Array.from({ length: 10 }, (_, n) => `user${n}`)
        const fiber = yield* Effect.forkChild(Effect.forEach(users, userStatus, { concurrency: "unbounded" }))
        yield* Effect.repeat(TestClock.adjust("10 millis"), { times: 20 })
        yield* Fiber.join(fiber)
        assert.deepStrictEqual([site.asked.length, site.maxOpen()], [10, 1])
      })
    )

    it.effect("refuses what would wait behind too many", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => Effect.never)
        const { state, userStatus } = yield* chessCom(site, { maxQueued: 1 })
        yield* Effect.forkChild(userStatus("ada_rook"), { startImmediately: true })
        yield* Effect.forkChild(userStatus("bishopben"), { startImmediately: true })
        const error = yield* Effect.flip(userStatus("castle_cora"))
        assert.isTrue(error instanceof UpstreamUnavailable && error.reason === "overloaded")
        assert.deepStrictEqual((yield* state).lane, { maxConcurrent: 1, running: 1, waiting: 1 })
      })
    )

    it.effect("waits for a Retry-After of a few seconds, and gives a longer one to the caller", () =>
      Effect.gen(function* () {
        const tooMany = (seconds: string): FakeSite.Reply => ({ status: 429, headers: { "retry-after": seconds } })
        const soon = FakeSite.make((_, index) => (index === 0 ? tooMany("2") : profile("basic")))
        const { userStatus } = yield* chessCom(soon, { retryDelays: ["1 second"], pauses: ["1 second"] })
        const fiber = yield* Effect.forkChild(userStatus("ada_rook"))
        yield* TestClock.adjust("1999 millis")
        assert.strictEqual(soon.asked.length, 1)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* Fiber.join(fiber), "active")

        const late = FakeSite.make(() => tooMany("Thu, 01 Jan 1970 01:00:02 GMT"))
        const error = yield* Effect.flip((yield* chessCom(late, { retryDelays: ["1 second"] })).userStatus("ada_rook"))
        assert.deepStrictEqual(error.retryAfter, Duration.hours(1))
        assert.strictEqual(late.asked.length, 1)
      })
    )
  })

  describe("archives", () => {
    it.effect("lists the months newest first, and leaves out what is not one", () =>
      Effect.gen(function* () {
        const at = (rest: string) => `https://api.chess.com/pub/player/ada_rook/games/${rest}`
        const site = FakeSite.make(() =>
          json({ archives: ["2009/11", "2025/01", "2024/12", "2024/13", "all"].map(at) })
        )
        const { archives } = yield* chessCom(site)
        assert.deepStrictEqual(yield* archives("ada_rook"), [
          { year: 2025, month: 1 },
          { year: 2024, month: 12 },
          { year: 2009, month: 11 }
        ])
        assert.strictEqual(site.asked[0]!.url.pathname, "/pub/player/ada_rook/games/archives")
      })
    )

    it.effect("fails for a user who does not exist", () =>
      Effect.gen(function* () {
        const { archives } = yield* chessCom(FakeSite.make(() => unknown))
        assert.deepStrictEqual(
          yield* Effect.flip(archives("nobody")),
          new UserNotFound({ platform: "chess.com", user: "nobody" })
        )
      })
    )
  })

  describe("month", () => {
    it.effect("gives the games newest first, with the ETag and what could not be kept", () =>
      Effect.gen(function* () {
        const games = [
          chessComGame({ uuid: "first", end_time: 1_740_000_000 }),
          { nonsense: true },
          chessComGame({ uuid: "last", end_time: 1_740_000_900 })
        ]
        const site = FakeSite.make(() => json({ games }, 200, { etag: 'W/"abc"' }))
        const { month } = yield* chessCom(site)
        const answer = yield* month(query)
        assert.isTrue(answer._tag === "Games")
        if (answer._tag !== "Games") return
        assert.strictEqual(answer.etag, 'W/"abc"')
        assert.deepStrictEqual(
          answer.batch.games.map((game) => game.id),
          ["last", "first"]
        )
        assert.deepStrictEqual(
          answer.batch.odd.map((odd) => odd.raw),
          ['{"nonsense":true}']
        )
        assert.strictEqual(site.asked[0]!.url.pathname, "/pub/player/ada_rook/games/2025/03")
        assert.isUndefined(site.asked[0]!.headers["if-none-match"])
      })
    )

    it.effect("says when nothing has changed since the ETag", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => ({ status: 304 }))
        const { month } = yield* chessCom(site)
        assert.deepStrictEqual(yield* month({ ...query, etag: 'W/"abc"' }), { _tag: "NotModified" })
        assert.strictEqual(site.asked[0]!.headers["if-none-match"], 'W/"abc"')
        assert.strictEqual(site.open(), 0)
      })
    )

    it.effect("fails for a user who does not exist, and has no games in an empty month", () =>
      Effect.gen(function* () {
        const none = yield* (yield* chessCom(FakeSite.make(() => json({ games: [] })))).month(query)
        assert.deepStrictEqual(none, { _tag: "Games", etag: undefined, batch: { games: [], odd: [] } })
        const error = yield* Effect.flip((yield* chessCom(FakeSite.make(() => unknown))).month(query))
        assert.strictEqual(error._tag, "UserNotFound")
      })
    )

    it.effect("reads a compressed body, small or large, and asks for one", () =>
      Effect.gen(function* () {
        for (const count of [3, 20_000]) {
          const games = Array.from({ length: count }, (_, n) => chessComGame({ uuid: `${n}-${(n * 7919) % 10_007}` }))
          const site = FakeSite.make(() => ({
            headers: { "content-type": "application/json", "content-encoding": "gzip" },
            body: new Uint8Array(gzipSync(JSON.stringify({ games })))
          }))
          const answer = yield* (yield* chessCom(site)).month(query)
          assert.isTrue(answer._tag === "Games" && answer.batch.games.length === count)
          assert.strictEqual(site.asked[0]!.headers["accept-encoding"], "gzip")
        }
      })
    )

    for (const [what, body, gzip] of [
      ["a body over the limit", JSON.stringify({ games: [], pad: "x".repeat(2000) }), false],
      [
        "a small body that is large when unpacked",
        gzipSync(JSON.stringify({ games: [], pad: "x".repeat(2000) })),
        true
      ],
      ["a body that breaks off while compressed", gzipSync(JSON.stringify({ games: [] })).subarray(0, -9), true]
    ] as const) {
      it.effect(`fails on ${what}`, () =>
        Effect.gen(function* () {
          const site = FakeSite.make(() => ({
            headers: gzip ? { "content-encoding": "gzip" } : {},
            body: typeof body === "string" ? body : new Uint8Array(body)
          }))
          const { month, state } = yield* chessCom(site, { maxBodyBytes: 1000 })
          const error = yield* Effect.flip(month(query))
          assert.isTrue(error instanceof UpstreamUnavailable && error.reason === "body")
          assert.strictEqual((yield* state).circuit.failures, 1)
          assert.strictEqual(site.open(), 0)
        })
      )
    }

    it.effect("stops an endless body at the limit, and a body that stalls at the timeout", () =>
      Effect.gen(function* () {
        const endless = FakeSite.make(() => ({ body: Stream.forever(Stream.succeed(new Uint8Array(100))) }))
        const tooLarge = yield* Effect.flip((yield* chessCom(endless, { maxBodyBytes: 1000 })).month(query))
        assert.isTrue(tooLarge instanceof UpstreamUnavailable && tooLarge.reason === "body")
        assert.strictEqual(endless.open(), 0)

        const stalled = FakeSite.make(() => ({ body: Stream.never }))
        const { archives, month, userStatus } = yield* chessCom(stalled, { attemptTimeout: "5 seconds" })
        for (const [call, seconds] of [
          [Effect.flip(month(query)), 30],
          [Effect.flip(archives("ada_rook")), 30],
          [Effect.flip(userStatus("ada_rook")), 5]
        ] as const) {
          const fiber = yield* Effect.forkChild(call)
          yield* TestClock.adjust(Duration.seconds(seconds))
          assert.deepStrictEqual(
            yield* Fiber.join(fiber),
            new UpstreamTimeout({ platform: "chess.com", after: Duration.seconds(seconds) })
          )
          assert.strictEqual(stalled.open(), 0)
        }
      })
    )

    it.effect("leaves no connection and no place behind, wherever it is interrupted", () =>
      Effect.gen(function* () {
        const site = FakeSite.make(() => json({ games: [chessComGame()] }))
        const { month, state } = yield* chessCom(site, { rateCapacity: 1000 })
        const operations = yield* interruptEverywhere(
          Effect.ignore(month(query)),
          Effect.gen(function* () {
            yield* TestClock.adjust("1 minute")
            assert.strictEqual(site.open(), 0)
            assert.deepStrictEqual((yield* state).lane, { maxConcurrent: 1, running: 0, waiting: 0 })
          })
        )
        assert.isAbove(operations, 20)
      })
    )
  })

  describe("with the simulated site", () => {
    it.effect("reads every game of a user, as the site has them", () =>
      Effect.gen(function* () {
        const simulator = yield* Simulator.make({ oddities: 0.3 })
        const { archives, month, userStatus } = yield* ChessCom.make().pipe(
          Effect.provideService(HttpClient.HttpClient, simulator.httpClient)
        )
        assert.strictEqual(yield* userStatus("Nadia-120"), "active")
        assert.strictEqual(yield* userStatus("closed-nadia"), "closed")
        assert.strictEqual(yield* userStatus("ghost-nadia"), "unknown")
        const months = yield* archives("Nadia-120")
        const answers = yield* Effect.forEach(months, (each) => month({ user: "Nadia-120", month: each })).pipe(
          Effect.forkChild,
          Effect.tap(() => TestClock.adjust("2 minutes")),
          Effect.flatMap(Fiber.join)
        )
        const games = answers.flatMap((answer) => (answer._tag === "Games" ? answer.batch.games : []))
        const expected = new Map((yield* simulator.games("Nadia-120", "chess.com")).map((game) => [game.id, game]))
        assert.deepStrictEqual(new Set(games.map((game) => game.id)), new Set(expected.keys()))
        for (const { endedAt, id, pgn, playedAt } of games) {
          assert.strictEqual(endedAt, expected.get(id)?.endedAt)
          // Without a PGN, a live game does not say when it began.
          if (pgn !== null) assert.strictEqual(playedAt, expected.get(id)?.playedAt)
        }
        const first = answers[0]
        assert.isTrue(first?._tag === "Games" && first.etag !== undefined)
        if (first?._tag !== "Games") return
        const again = yield* month({ user: "Nadia-120", month: months[0]!, etag: first.etag })
        assert.deepStrictEqual(again, { _tag: "NotModified" })
        assert.strictEqual((yield* simulator.requests).chessCom.others.max, 1)
      })
    )

    it.effect("stops asking a site that hangs, and is back one probe after the site", () =>
      Effect.gen(function* () {
        const simulator = yield* Simulator.make()
        const { state, userStatus } = yield* ChessCom.make({ attemptTimeout: "5 seconds" }).pipe(
          Effect.provideService(HttpClient.HttpClient, simulator.httpClient)
        )
        yield* simulator.chessCom.inject({ kind: "hang", for: "10 minutes" })
        const first = yield* Effect.forkChild(Effect.exit(userStatus("nadia-1")))
        const second = yield* Effect.forkChild(Effect.exit(userStatus("nadia-2")))
        yield* TestClock.adjust("50 seconds")
        yield* Fiber.join(first)
        yield* Fiber.join(second)
        assert.strictEqual((yield* state).circuit._tag, "Open")
        const asked = (yield* simulator.requests).chessCom.total
        const refused = yield* Effect.flip(userStatus("nadia-3"))
        assert.isTrue(refused instanceof UpstreamUnavailable && refused.reason === "circuit-open")
        assert.strictEqual((yield* simulator.requests).chessCom.total, asked)
        yield* TestClock.adjust("11 minutes")
        assert.strictEqual(yield* userStatus("nadia-4"), "active")
        assert.strictEqual(yield* userStatus("nadia-5"), "active")
        assert.strictEqual((yield* state).circuit._tag, "Closed")
        assert.strictEqual((yield* simulator.requests).chessCom.others.now, 0)
      })
    )
  })
})
