import { gunzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Simulator from "../../../src/chess/simulator/Simulator.ts"
import { chessCom, type ChessComMonth, get, jsonAs } from "./ask.ts"

const users: ReadonlyArray<Simulator.User> = [
  { name: "Vera_Quill", chessCom: { games: 900 } },
  { name: "Never-Played", chessCom: { games: 0 } },
  { name: "Left-Us", chessCom: { games: 40, state: "closed" } },
  { name: "Too-Good", chessCom: { games: 5, state: "banned" } }
]

const make = (options: Simulator.Options = {}) => Simulator.make({ users, unlisted: "unknown", ...options })

const archivesOf = (simulator: Simulator.Simulator, user: string) =>
  get(simulator.httpClient, `${chessCom}/player/${user}/games/archives`).pipe(
    Effect.flatMap((response) => jsonAs<{ archives: ReadonlyArray<string> }>(response)),
    Effect.map(({ archives }) => archives)
  )

/** The month of an archive, asked at the stand-in. */
const monthUrl = (archive: string) => archive.replace("https://api.chess.com/pub", chessCom)

describe("ChessComSite", () => {
  it.effect("refuses clients without a name", () =>
    Effect.gen(function* () {
      const { httpClient } = yield* make()
      const response = yield* get(httpClient, `${chessCom}/player/vera_quill`, { "user-agent": "" })
      assert.strictEqual(response.status, 403)
    })
  )

  it.effect("redirects names that are not lower case to the same path", () =>
    Effect.gen(function* () {
      const { httpClient } = yield* make()
      const response = yield* get(httpClient, `${chessCom}/player/Vera_Quill/games/archives`)
      assert.strictEqual(response.status, 301)
      assert.strictEqual(response.headers["location"], `${chessCom}/player/vera_quill/games/archives`)
    })
  )

  it.effect("answers for open, closed, banned and unknown players as the site does", () =>
    Effect.gen(function* () {
      const { httpClient } = yield* make()
      for (const [user, status] of [
        ["vera_quill", "basic"],
        ["left-us", "closed"],
        ["too-good", "closed:fair_play_violations"]
      ] as const) {
        const response = yield* get(httpClient, `${chessCom}/player/${user}`)
        assert.strictEqual(response.status, 200)
        assert.deepInclude(yield* response.json, { username: user, status })
      }
      const unknown = yield* get(httpClient, `${chessCom}/player/nobody/games/archives`)
      assert.strictEqual(unknown.status, 404)
      assert.strictEqual(unknown.headers["content-type"], "application/json; charset=utf-8")
      assert.strictEqual(yield* unknown.text, '{"code":0,"message":"User \\"nobody\\" not found."}')
    })
  )

  it.effect("lists the months with games, oldest first and with gaps, and they hold every game once, by end", () =>
    Effect.gen(function* () {
      const simulator = yield* make()
      const known = yield* simulator.games("vera_quill", "chess.com")
      const archives = yield* archivesOf(simulator, "vera_quill")
      assert.deepStrictEqual(archives, archives.toSorted())
      const first = archives[0]!.split("/").slice(-2).map(Number)
      const last = archives.at(-1)!.split("/").slice(-2).map(Number)
      assert.isBelow(archives.length, (last[0]! - first[0]!) * 12 + last[1]! - first[1]! + 1)
      const uuids: Array<string> = []
      for (const archive of archives) {
        const response = yield* get(simulator.httpClient, monthUrl(archive))
        const { games } = yield* jsonAs<ChessComMonth>(response)
        assert.isAbove(games.length, 0)
        assert.deepStrictEqual(
          games.map((game) => game.end_time),
          games.map((game) => game.end_time).toSorted((left, right) => left - right)
        )
        uuids.push(...games.flatMap(({ uuid }) => uuid ?? []))
      }
      assert.strictEqual(known.length, 900)
      assert.deepStrictEqual(
        uuids,
        known.flatMap(({ id }) => (/^(live|daily):/.test(id) ? [] : [id]))
      )
    })
  )

  it.effect("gives a month without games an empty list and one in the future an error", () =>
    Effect.gen(function* () {
      const simulator = yield* make()
      assert.deepStrictEqual(yield* archivesOf(simulator, "never-played"), [])
      const empty = yield* get(simulator.httpClient, `${chessCom}/player/vera_quill/games/2011/02`)
      assert.strictEqual(yield* empty.text, '{"games":[]}')
      for (const month of ["2031/02", "2020/13", "2020/1"]) {
        const response = yield* get(simulator.httpClient, `${chessCom}/player/vera_quill/games/${month}`)
        assert.strictEqual(response.status, 404)
      }
    })
  )

  it.effect("answers 304 to the tag it gave, weak or not, until the month grows", () =>
    Effect.gen(function* () {
      const simulator = yield* make({
        users: [{ name: "Busy", chessCom: { games: 50, playsEvery: "1 hour" } }]
      })
      const month = monthUrl((yield* archivesOf(simulator, "busy")).at(-1)!)
      const response = yield* get(simulator.httpClient, month)
      const tag = response.headers["etag"]!
      assert.match(tag, /^W\/"[0-9a-f]{32}"$/)
      const before = (yield* jsonAs<ChessComMonth>(response)).games
      for (const asked of [tag, tag.slice(2), `"other", ${tag}`]) {
        const unchanged = yield* get(simulator.httpClient, month, { "if-none-match": asked })
        assert.strictEqual(unchanged.status, 304)
        assert.strictEqual(yield* unchanged.text, "")
      }
      yield* TestClock.adjust("3 hours")
      const grown = yield* get(simulator.httpClient, month, { "if-none-match": tag })
      assert.strictEqual(grown.status, 200)
      const after = (yield* jsonAs<ChessComMonth>(grown)).games
      assert.lengthOf(after, before.length + 3)
      assert.deepStrictEqual(after.slice(0, before.length), before)
      // Half a month later the new month has an archive of its own.
      yield* TestClock.adjust("16 days")
      assert.isTrue((yield* archivesOf(simulator, "busy")).at(-1)!.endsWith("2026/10"))
    })
  )

  it.effect("compresses for those who ask", () =>
    Effect.gen(function* () {
      const simulator = yield* make()
      const month = monthUrl((yield* archivesOf(simulator, "vera_quill")).at(-1)!)
      const plain = yield* get(simulator.httpClient, month)
      const zipped = yield* get(simulator.httpClient, month, { "accept-encoding": "br, gzip" })
      assert.strictEqual(zipped.headers["content-encoding"], "gzip")
      assert.isUndefined(zipped.headers["content-length"])
      const text = yield* plain.text
      assert.strictEqual(plain.headers["content-length"], String(Buffer.byteLength(text)))
      assert.strictEqual(gunzipSync(Buffer.from(yield* zipped.arrayBuffer)).toString(), text)
    })
  )

  it.effect("gives months as PGN, too", () =>
    Effect.gen(function* () {
      const simulator = yield* make({ oddities: 0 })
      const month = monthUrl((yield* archivesOf(simulator, "vera_quill")).at(-1)!)
      const { games } = yield* jsonAs<ChessComMonth>(yield* get(simulator.httpClient, month))
      const pgn = yield* get(simulator.httpClient, `${month}/pgn`)
      assert.strictEqual(yield* pgn.text, games.map((game) => game.pgn).join("\n\n"))
    })
  )

  it.effect("answers 429 to requests at the same time only", () =>
    Effect.gen(function* () {
      const slow = { p50: "1 second", p99: "1 second" } as const
      const statuses = (options: Simulator.Options["chessCom"]) =>
        Effect.gen(function* () {
          const { httpClient } = yield* make({ chessCom: { ...options, latency: { player: slow } } })
          const ask = Effect.map(get(httpClient, `${chessCom}/player/vera_quill`), ({ status }) => status)
          const asking = yield* Effect.forkChild(Effect.all([ask, ask], { concurrency: 2 }), { startImmediately: true })
          yield* TestClock.adjust("1 second")
          return yield* Fiber.join(asking)
        })
      assert.sameMembers([...(yield* statuses({}))], [429, 200])
      assert.deepStrictEqual(yield* statuses({ maxInFlight: 2 }), [200, 200])
      const { httpClient } = yield* make()
      for (let request = 0; request < 50; request++) {
        assert.strictEqual((yield* get(httpClient, `${chessCom}/player/vera_quill`)).status, 200)
      }
    })
  )
})
