import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scope, Stream } from "effect"
import { HttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "effect-resilience/testing"
import * as Simulator from "../../../src/chess/simulator/Simulator.ts"
import { exportGames, games, get, jsonAs, lichess, lines, ndjson, postUsers } from "./ask.ts"

const users: ReadonlyArray<Simulator.User> = [
  { name: "Vera_Quill", lichess: { games: 300, title: "WFM" } },
  { name: "Never-Played", lichess: { games: 0 } },
  { name: "Left-Us", lichess: { games: 40, state: "closed" } },
  { name: "Too-Good", lichess: { games: 5, state: "banned" } }
]

const make = (options: Simulator.Options = {}) => Simulator.make({ users, unlisted: "unknown", ...options })

describe("LichessSite", () => {
  describe("GET /api/user", () => {
    it.effect("knows names in any case, closed accounts by three fields, and unknown ones not", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const known = yield* get(httpClient, `${lichess}/api/user/VERA_quill`)
        assert.strictEqual(known.status, 200)
        assert.deepInclude(yield* known.json, { id: "vera_quill", username: "Vera_Quill", title: "WFM" })
        const closed = yield* get(httpClient, `${lichess}/api/user/left-us`)
        assert.deepStrictEqual(yield* closed.json, { id: "left-us", username: "Left-Us", disabled: true })
        const banned = yield* get(httpClient, `${lichess}/api/user/too-good`)
        assert.deepInclude(yield* banned.json, { tosViolation: true })
        for (const name of ["nobody", "no!name", "x"]) {
          const unknown = yield* get(httpClient, `${lichess}/api/user/${name}`)
          assert.strictEqual(unknown.status, 404)
          assert.strictEqual(yield* unknown.text, '{"error":"Not found"}')
        }
      })
    )

    it.effect("takes credits: 5,000 look-ups of offline users a day, 1,666 from a data centre", () =>
      Effect.gen(function* () {
        for (const [addressFactor, allowed] of [
          [1, 5000],
          [3, 1666]
        ] as const) {
          const { httpClient } = yield* make({ lichess: { addressFactor } })
          const ask = get(httpClient, `${lichess}/api/user/vera_quill`, { accept: "application/json" })
          for (let count = 0; count < allowed; count++) assert.strictEqual((yield* ask).status, 200)
          yield* TestClock.adjust("1 hour")
          const refused = yield* ask
          assert.strictEqual(refused.status, 429)
          assert.isUndefined(refused.headers["retry-after"])
          assert.deepStrictEqual(yield* refused.json, {
            error: "Too many requests. Try again later.",
            ratelimit: { key: "user.show.ip", seconds: 82_800 }
          })
          const page = yield* get(httpClient, `${lichess}/api/user/vera_quill`, { accept: "*/*" })
          assert.include(page.headers["content-type"], "text/html")
          yield* TestClock.adjust("23 hours")
          assert.strictEqual((yield* ask).status, 200)
        }
      })
    )
  })

  describe("POST /api/users", () => {
    it.effect("gives each known name once, in the order asked, and leaves the others out", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const response = yield* postUsers(httpClient, "left-us,NOBODY,vera_QUILL,\nleft-us,b@d")
        const found = yield* jsonAs<ReadonlyArray<{ id: string; disabled?: boolean }>>(response)
        assert.deepStrictEqual(
          found.map(({ disabled, id }) => [id, disabled]),
          [
            ["left-us", true],
            ["vera_quill", undefined]
          ]
        )
      })
    )

    it.effect("looks at the first 300 names only", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make({ unlisted: "generated" })
        const names = Array.from({ length: 301 }, (_, index) => `player${index}`)
        const found = yield* jsonAs<ReadonlyArray<{ id: string }>>(yield* postUsers(httpClient, names.join(",")))
        assert.deepStrictEqual(
          found.map(({ id }) => id),
          names.slice(0, 300)
        )
      })
    )

    it.effect("costs a quarter of a credit a name: 26 full batches in 10 minutes", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const names = Array.from({ length: 300 }, (_, index) => `nobody${index}`).join(",")
        for (let batch = 0; batch < 26; batch++) {
          assert.strictEqual((yield* postUsers(httpClient, names)).status, 200)
        }
        assert.strictEqual((yield* postUsers(httpClient, names)).status, 429)
        // Three names cost nothing, so a hundred times three do not either.
        for (let batch = 0; batch < 100; batch++) {
          assert.strictEqual((yield* postUsers(httpClient, "one,two,three")).status, 200)
        }
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual((yield* postUsers(httpClient, names)).status, 200)
      })
    )
  })

  describe("GET /api/games/user", () => {
    it.effect("answers crawlers, nameless clients, unknown and closed users with a 404 page", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const url = `${lichess}/api/games/user/vera_quill`
        for (const agent of ["", "undici", "axios/1.7", "curl/8.5.0", "python-requests/2.31.0"]) {
          const response = yield* get(httpClient, url, { ...ndjson, "user-agent": agent })
          assert.strictEqual(response.status, 404, agent)
          assert.include(response.headers["content-type"], "text/html")
        }
        for (const user of ["nobody", "left-us"]) {
          const response = yield* exportGames(httpClient, user)
          assert.strictEqual(response.status, 404)
          assert.include(yield* response.text, "<!DOCTYPE html>")
        }
        assert.strictEqual((yield* exportGames(httpClient, "too-good")).status, 200)
      })
    )

    it.effect("gives JSON for the exact Accept only, PGN for all else", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const url = `${lichess}/api/games/user/vera_quill?max=2`
        for (const [accept, type] of [
          ["application/x-ndjson", "application/x-ndjson"],
          ["application/json, text/plain", "application/x-ndjson"],
          ["application/x-ndjson, */*", "application/x-chess-pgn"],
          ["*/*", "application/x-chess-pgn"]
        ] as const) {
          const response = yield* get(httpClient, url, { accept })
          assert.strictEqual(response.headers["content-type"], type)
          assert.strictEqual((yield* response.text).startsWith("{"), type === "application/x-ndjson")
        }
      })
    )

    it.effect("gives a player without games an empty body", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const response = yield* exportGames(httpClient, "never-played")
        assert.strictEqual(response.status, 200)
        assert.strictEqual(yield* response.text, "")
      })
    )

    it.effect("sorts by creation, newest first unless asked otherwise, and takes since <= createdAt < until", () =>
      Effect.gen(function* () {
        const { games: all, httpClient } = yield* make()
        const known = yield* all("vera_quill", "lichess")
        assert.strictEqual(known.length, 300)
        const ids = (query: string) =>
          exportGames(httpClient, "vera_quill", query).pipe(
            Effect.flatMap(games),
            Effect.map((found) => found.map(({ id }) => id))
          )
        const ascending = known.map(({ id }) => id)
        assert.deepStrictEqual(yield* ids("?sort=dateAsc"), ascending)
        assert.deepStrictEqual(yield* ids(""), ascending.toReversed())
        assert.deepStrictEqual(yield* ids("?max=3"), ascending.toReversed().slice(0, 3))
        assert.deepStrictEqual(yield* ids("?max=0&sort=dateAsc"), ascending.slice(0, 1))
        const since = known[100]!.playedAt
        const until = known[200]!.playedAt
        const expected = known.filter(({ playedAt }) => playedAt >= since && playedAt < until).map(({ id }) => id)
        assert.isAbove(expected.length, 95)
        assert.deepStrictEqual(yield* ids(`?sort=dateAsc&since=${since}&until=${until}`), expected)
      })
    )

    it.effect("filters by opponent, colour and rating, which is why imports should not", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const white = yield* Effect.flatMap(exportGames(httpClient, "vera_quill", "?color=white&rated=true"), games)
        assert.isAbove(white.length, 50)
        assert.isTrue(white.every((game) => game.rated && game.players.white.user?.id === "vera_quill"))
        const opponent = white[0]!.players.black.user!.id
        const against = yield* Effect.flatMap(exportGames(httpClient, "vera_quill", `?vs=${opponent}`), games)
        assert.isTrue(
          against.every(({ players }) => [players.white, players.black].some(({ user }) => user?.id === opponent))
        )
      })
    )

    it.effect("carries what is asked for and nothing else", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make({ oddities: 0 })
        const only = yield* Effect.flatMap(exportGames(httpClient, "vera_quill", "?moves=false&max=1"), games)
        assert.isUndefined(only[0]!.moves ?? only[0]!.clocks ?? only[0]!.pgn)
        const full = yield* Effect.flatMap(
          exportGames(httpClient, "vera_quill", "?clocks=true&pgnInJson=true&opening=true"),
          games
        )
        for (const { clocks, moves, pgn, status } of full) {
          const plies = moves!.split(" ").length
          assert.strictEqual(clocks!.length, status === "mate" ? plies : plies + 1)
          assert.match(pgn!, /\[%clk \d:\d\d:\d\d\]/)
        }
      })
    )

    it.effect("lets two exports per address run, says one to the third, and sends no Retry-After", () =>
      Effect.gen(function* () {
        const { httpClient, requests } = yield* make()
        const scope = yield* Scope.make()
        const scoped = HttpClient.withScope(httpClient)
        const start = exportGames(scoped, "vera_quill").pipe(Scope.provide(scope))
        assert.strictEqual((yield* start).status, 200)
        assert.strictEqual((yield* start).status, 200)
        const refused = yield* start
        assert.strictEqual(refused.status, 429)
        assert.isUndefined(refused.headers["retry-after"])
        assert.strictEqual(yield* refused.text, '{"error":"Please only run 1 request(s) at a time"}')
        assert.deepStrictEqual((yield* requests).lichess.exports, { now: 2, max: 3 })
      })
    )

    it.effect("frees a place when the body is read, left or its request's scope closes, else after an hour", () =>
      Effect.gen(function* () {
        const { httpClient, requests } = yield* make({ lichess: { maxExports: 1 } })
        const start = exportGames(httpClient, "vera_quill")
        const open = Effect.map(requests, ({ lichess: { exports } }) => exports.now)
        yield* Stream.runDrain((yield* start).stream)
        assert.strictEqual(yield* open, 0)
        yield* Stream.runDrain(Stream.take((yield* start).stream, 1))
        assert.strictEqual(yield* open, 0)
        yield* Effect.scoped(exportGames(HttpClient.withScope(httpClient), "vera_quill"))
        assert.strictEqual(yield* open, 0)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const left = yield* exportGames(HttpClient.withScope(httpClient), "vera_quill")
            yield* Stream.runDrain(Stream.take(left.stream, 1))
            assert.strictEqual(yield* open, 0)
          })
        )
        const unread = yield* start
        assert.strictEqual(yield* open, 1)
        assert.strictEqual((yield* start).status, 429)
        yield* TestClock.adjust("59 minutes")
        assert.strictEqual((yield* start).status, 429)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* start).status, 200)
        yield* Stream.runDrain(unread.stream)
      })
    )

    it.effect("frees its own place once, however often its body is closed", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make()
        const start = exportGames(httpClient, "vera_quill")
        yield* start
        yield* Effect.scoped(
          exportGames(HttpClient.withScope(httpClient), "vera_quill").pipe(
            Effect.flatMap(({ stream }) => Stream.runDrain(stream))
          )
        )
        assert.strictEqual((yield* start).status, 200)
        assert.strictEqual((yield* start).status, 429)
      })
    )

    it.effect("leaks no place when its reader is interrupted at any operation", () =>
      Effect.gen(function* () {
        const { httpClient, requests } = yield* make({ lichess: { maxExports: 1, gamesPerSecond: 25 } })
        const read = Effect.scoped(
          exportGames(HttpClient.withScope(httpClient), "vera_quill", "?max=1").pipe(
            Effect.flatMap(({ stream }) => Stream.runDrain(stream))
          )
        )
        const operations = yield* interruptEverywhere(
          read,
          Effect.map(requests, ({ lichess: { exports } }) => assert.strictEqual(exports.now, 0))
        )
        assert.isAbove(operations, 10)
        assert.strictEqual((yield* exportGames(httpClient, "vera_quill")).status, 200)
      })
    )

    it.effect("sends evenly at its throttle", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make({ lichess: { gamesPerSecond: 25 } })
        const response = yield* exportGames(httpClient, "vera_quill")
        let received = 0
        const reader = yield* Effect.forkChild(
          Stream.runForEach(response.stream, () => Effect.sync(() => received++)),
          { startImmediately: true }
        )
        yield* TestClock.adjust("0 millis")
        assert.strictEqual(received, 1)
        yield* TestClock.adjust("400 millis")
        assert.strictEqual(received, 11)
        yield* TestClock.adjust("11560 millis")
        assert.strictEqual(received, 300)
        yield* Fiber.join(reader)
      })
    )

    it.effect("lets a slow reader catch up by a second at most", () =>
      Effect.gen(function* () {
        const { httpClient } = yield* make({ lichess: { gamesPerSecond: 25 } })
        const response = yield* exportGames(httpClient, "vera_quill")
        let received = 0
        const reader = yield* Effect.forkChild(
          Stream.runForEach(response.stream, () => (received++ === 0 ? Effect.sleep("1 minute") : Effect.void)),
          { startImmediately: true }
        )
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(received, 1 + 26)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(received, 1 + 51)
        yield* Fiber.interrupt(reader)
      })
    )

    it.effect("shows games once they are over, in the order they began", () =>
      Effect.gen(function* () {
        const simulator = yield* make({
          users: [{ name: "Busy", lichess: { games: 10, playsEvery: "10 minutes", oddities: 0 } }]
        })
        const ids = exportGames(simulator.httpClient, "busy", "?sort=dateAsc").pipe(
          Effect.flatMap(games),
          Effect.map((found) => found.map(({ id }) => id))
        )
        assert.lengthOf(yield* ids, 10)
        const start = yield* simulator.now
        yield* TestClock.adjust("10 minutes")
        // It has begun, and is not over.
        assert.lengthOf(yield* ids, 10)
        yield* TestClock.adjust("2 hours")
        const later = yield* simulator.games("busy", "lichess")
        assert.deepStrictEqual(
          yield* ids,
          later.map(({ id }) => id)
        )
        assert.isAbove(later.length, 18)
        assert.strictEqual(later[10]!.playedAt, start + 600_000)
      })
    )
  })

  it.effect("has a 404 page for all else", () =>
    Effect.gen(function* () {
      const { httpClient } = yield* make()
      const response = yield* get(httpClient, `${lichess}/api/tournament`)
      assert.strictEqual(response.status, 404)
      assert.lengthOf(yield* lines(response), 1)
    })
  )
})
