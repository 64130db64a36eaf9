import { gunzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import type { HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import type { FaultKind } from "../../../src/chess/simulator/Faults.ts"
import * as Simulator from "../../../src/chess/simulator/Simulator.ts"
import { chessCom, chunksUntilFailure, type ChessComMonth, exportGames, get, jsonAs, lichess } from "./ask.ts"

const users: ReadonlyArray<Simulator.User> = [
  { name: "vera", lichess: { games: 40 }, chessCom: { games: 40, from: Simulator.historyEnds - 10 * 86_400_000 } },
  { name: "otto", lichess: { games: 40 } }
]

const make = (options: Simulator.Options = {}) => Simulator.make({ users, unlisted: "unknown", ...options })

const month = `${chessCom}/player/vera/games/2026/09`

const statusOf = <E, R>(response: Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>) =>
  Effect.match(response, { onSuccess: ({ status }) => status, onFailure: () => 0 })

const parses = (line: string): boolean => {
  const { _tag } = Effect.runSyncExit(Effect.sync(() => JSON.parse(line) as unknown))
  return _tag === "Success"
}

describe("Faults", () => {
  describe("inject", () => {
    it.effect("follows its schedule on the clock, from the moment it is injected", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make()
        const ask = statusOf(get(httpClient, `${lichess}/api/user/vera`))
        yield* TestClock.adjust("5 minutes")
        yield* site.inject({ kind: "unavailable", from: "1 minute", for: "10 seconds" })
        assert.strictEqual(yield* ask, 200)
        yield* TestClock.adjust("59999 millis")
        assert.strictEqual(yield* ask, 200)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* ask, 503)
        yield* TestClock.adjust("9999 millis")
        assert.strictEqual(yield* ask, 503)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* ask, 200)
      })
    )

    it.effect("hits the calls, users and number of requests it names, and nothing after it is removed", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make()
        const vera = statusOf(get(httpClient, `${lichess}/api/user/vera`))
        const otto = statusOf(get(httpClient, `${lichess}/api/user/otto`))
        const exported = statusOf(exportGames(httpClient, "vera", "?max=1"))
        const { remove } = yield* site.inject({ kind: "unavailable", endpoints: ["user"], users: ["VERA"] })
        assert.deepStrictEqual([yield* vera, yield* otto, yield* exported], [503, 200, 200])
        yield* remove
        assert.strictEqual(yield* vera, 200)
        yield* site.inject({ kind: "reset", times: 2 })
        assert.deepStrictEqual([yield* vera, yield* vera, yield* vera], [0, 0, 200])
        yield* site.inject({ kind: "html" })
        yield* site.clear
        assert.strictEqual(yield* vera, 200)
      })
    )

    it.effect("keeps faults in games and bodies for the calls that send such", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make()
        yield* site.inject({ kind: "end-early", after: 3, times: 1 })
        yield* site.inject({ kind: "missing-games", times: 1, every: 2 })
        yield* Effect.flatMap(get(httpClient, `${lichess}/api/user/vera`), ({ text }) => text)
        const length = Effect.map(
          Effect.flatMap(exportGames(httpClient, "vera"), ({ text }) => text),
          (text) => text.trimEnd().split("\n").length
        )
        assert.strictEqual(yield* length, 3)
        assert.strictEqual(yield* length, 40)
      })
    )

    it.effect("hits about its rate, the same requests each time", () =>
      Effect.gen(function* () {
        const hits = Effect.gen(function* () {
          const { httpClient, lichess: site } = yield* make({ lichess: { credits: false } })
          yield* site.inject({ kind: "unavailable", rate: 0.3 })
          return yield* Effect.replicateEffect(statusOf(get(httpClient, `${lichess}/api/user/vera`)), 1000)
        })
        const first = yield* hits
        assert.deepStrictEqual(yield* hits, first)
        assert.closeTo(first.filter((status) => status === 503).length, 300, 45)
      })
    )

    for (const fault of [
      { kind: "stall", rate: 1.1 },
      { kind: "stall", after: -1 },
      { kind: "stall", every: 0 },
      { kind: "stall", times: 0 },
      { kind: "stall", status: 200 }
    ] as const) {
      it.effect(`dies on ${JSON.stringify(fault)}`, () =>
        Effect.gen(function* () {
          const { lichess: site } = yield* make()
          const exit = yield* Effect.exit(site.inject(fault))
          assert.isTrue(Exit.hasDies(exit))
        })
      )
    }
  })

  describe("instead of an answer", () => {
    for (const [kind, status, type, text] of [
      ["unavailable", 503, "text/html", "<!DOCTYPE html>"],
      ["crawl-block", 403, "text/plain", "Blocked: Archive crawl was too heavy for this API."],
      ["challenge", 403, "text/html", "Just a moment..."],
      ["html", 200, "text/html", "<!DOCTYPE html>"],
      ["code-zero", 200, "application/json", '{"code":0,"message":'],
      ["too-many-requests", 429, "application/json", "oo many requests"]
    ] as const) {
      it.effect(`${kind} is a ${status} of ${type}`, () =>
        Effect.gen(function* () {
          const simulator = yield* make()
          yield* simulator.lichess.inject({ kind })
          yield* simulator.chessCom.inject({ kind })
          for (const url of [`${lichess}/api/user/vera`, month]) {
            const response = yield* get(simulator.httpClient, url)
            assert.strictEqual(response.status, status)
            assert.include(response.headers["content-type"], type)
            assert.isUndefined(response.headers["retry-after"])
            assert.include(yield* response.text, text)
          }
        })
      )
    }

    it.effect("reset breaks the connection before there are headers", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make()
        yield* site.inject({ kind: "reset" })
        const error = yield* Effect.flip(get(httpClient, `${lichess}/api/user/vera`))
        assert.strictEqual(error.reason._tag, "TransportError")
      })
    )

    it.effect("hang gives nothing, however long one waits, and ends with its client", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site, requests } = yield* make()
        yield* site.inject({ kind: "hang" })
        const asking = yield* Effect.forkChild(exportGames(httpClient, "vera"), { startImmediately: true })
        yield* TestClock.adjust("1 day")
        assert.isUndefined(asking.pollUnsafe())
        assert.strictEqual((yield* requests).lichess.exports.now, 1)
        yield* Fiber.interrupt(asking)
        assert.strictEqual((yield* requests).lichess.exports.now, 0)
      })
    )

    it.effect("delay comes on top of the latency", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make({
          lichess: { latency: { user: { p50: "1 second", p99: "1 second" } } }
        })
        yield* site.inject({ kind: "delay", delay: "4 seconds" })
        const asking = yield* Effect.forkChild(get(httpClient, `${lichess}/api/user/vera`), { startImmediately: true })
        yield* TestClock.adjust("4999 millis")
        assert.isUndefined(asking.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* Fiber.join(asking)).status, 200)
      })
    )

    it.effect("Retry-After and another status come only if they are asked for", () =>
      Effect.gen(function* () {
        const { chessCom: site, httpClient } = yield* make()
        yield* site.inject({ kind: "too-many-requests", retryAfter: "1500 millis", times: 1 })
        yield* site.inject({ kind: "unavailable", status: 502, retryAfter: "1 minute" })
        const limited = yield* get(httpClient, month)
        assert.deepStrictEqual([limited.status, limited.headers["retry-after"]], [429, "2"])
        const down = yield* get(httpClient, month)
        assert.deepStrictEqual([down.status, down.headers["retry-after"]], [502, "60"])
      })
    )
  })

  describe("in an export", () => {
    const exported = (fault: Parameters<Simulator.Simulator["lichess"]["inject"]>[0]) =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make()
        const intact = yield* Effect.flatMap(exportGames(httpClient, "vera"), ({ text }) => text)
        yield* site.inject(fault)
        const faulty = yield* Effect.flatMap(exportGames(httpClient, "vera"), chunksUntilFailure)
        return { intact: intact.trimEnd().split("\n"), ...faulty }
      })

    it.effect("cut-in-game breaks off inside a line, and says so", () =>
      Effect.gen(function* () {
        const { exit, intact, text } = yield* exported({ kind: "cut-in-game", after: 7 })
        assert.isTrue(Exit.isFailure(exit))
        const lines = text.split("\n")
        assert.deepStrictEqual(lines.slice(0, 7), intact.slice(0, 7))
        assert.lengthOf(lines, 8)
        assert.isTrue(intact[7]!.startsWith(lines[7]!) && lines[7]!.length > 0 && lines[7] !== intact[7])
      })
    )

    it.effect("cut-between-games breaks off after a line, end-early looks complete", () =>
      Effect.gen(function* () {
        const cut = yield* exported({ kind: "cut-between-games", after: 7 })
        const early = yield* exported({ kind: "end-early", after: 7 })
        assert.isTrue(Exit.isFailure(cut.exit))
        assert.isTrue(Exit.isSuccess(early.exit))
        for (const { intact, text } of [cut, early]) assert.strictEqual(text, `${intact.slice(0, 7).join("\n")}\n`)
      })
    )

    it.effect("a place past the end is the end", () =>
      Effect.gen(function* () {
        for (const kind of ["cut-in-game", "cut-between-games"] as const) {
          const { exit, intact, text } = yield* exported({ kind, after: 1000 })
          assert.isTrue(Exit.isFailure(exit))
          assert.strictEqual(text, `${intact.join("\n")}\n`)
        }
      })
    )

    it.effect("stall keeps the connection and sends nothing more", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site, requests } = yield* make()
        yield* site.inject({ kind: "stall", after: 3 })
        const response = yield* exportGames(httpClient, "vera")
        const reading = yield* Effect.forkChild(chunksUntilFailure(response), { startImmediately: true })
        yield* TestClock.adjust("2 hours")
        assert.isUndefined(reading.pollUnsafe())
        yield* Fiber.interrupt(reading)
        assert.strictEqual((yield* requests).lichess.exports.now, 0)
      })
    )

    it.effect("drip sends one line each 20 seconds, or as told", () =>
      Effect.gen(function* () {
        for (const [delay, millis] of [
          [undefined, 20_000],
          ["3 seconds", 3000]
        ] as const) {
          const { httpClient, lichess: site } = yield* make()
          yield* site.inject({ kind: "drip", after: 36, delay })
          const response = yield* exportGames(httpClient, "vera")
          const reading = yield* Effect.forkChild(chunksUntilFailure(response), { startImmediately: true })
          yield* TestClock.adjust(4 * millis - 1)
          assert.isUndefined(reading.pollUnsafe())
          yield* TestClock.adjust(1)
          assert.lengthOf((yield* Fiber.join(reading)).text.trimEnd().split("\n"), 40)
        }
      })
    )

    it.effect("split ends chunks inside lines and inside characters, and loses nothing", () =>
      Effect.gen(function* () {
        const { httpClient, lichess: site } = yield* make()
        const query = "?opening=true"
        const intact = yield* Effect.flatMap(exportGames(httpClient, "vera", query), ({ text }) => text)
        yield* site.inject({ kind: "split" })
        const { chunks, text } = yield* Effect.flatMap(exportGames(httpClient, "vera", query), chunksUntilFailure)
        assert.strictEqual(text, intact)
        // A byte 10xxxxxx at the beginning of a chunk continues a character of the chunk before.
        assert.isTrue(chunks.some((chunk) => chunk[0]! >> 6 === 2))
        assert.isAbove(chunks.filter((chunk) => chunk.at(-1) !== 10).length, 40)
      })
    )

    it.effect("blank-lines ends lines in CR LF with empty ones between them", () =>
      Effect.gen(function* () {
        const { intact, text } = yield* exported({ kind: "blank-lines" })
        assert.include(text, "\r\n\r\n")
        assert.include(text, "\r\n\n")
        assert.deepStrictEqual(
          text.split(/\r?\n/).filter((line) => line !== ""),
          intact
        )
      })
    )

    it.effect("huge-game is one line of over 1 MiB", () =>
      Effect.gen(function* () {
        const { intact, text } = yield* exported({ kind: "huge-game", after: 5 })
        const lines = text.trimEnd().split("\n")
        assert.lengthOf(lines, intact.length)
        assert.isAbove(lines[5]!.length, 1_048_576)
        assert.isTrue(parses(lines[5]!))
      })
    )

    it.effect("duplicate, unordered and odd games come at their intervals", () =>
      Effect.gen(function* () {
        const lines = (kind: FaultKind) =>
          Effect.map(exported({ kind, every: 4 }), ({ intact, text }) => ({
            intact,
            lines: text.trimEnd().split("\n")
          }))
        const twice = yield* lines("duplicate-games")
        assert.lengthOf(twice.lines, 50)
        assert.deepStrictEqual([...new Set(twice.lines)], twice.intact)
        const moved = yield* lines("unordered-games")
        assert.notDeepEqual(moved.lines, moved.intact)
        assert.deepStrictEqual(moved.lines.toSorted(), moved.intact.toSorted())
        const odd = yield* lines("odd-games")
        assert.lengthOf(odd.lines, 50)
        assert.deepStrictEqual(
          odd.lines.filter((line) => odd.intact.includes(line)),
          odd.intact
        )
        assert.isTrue(odd.lines.every(parses))
      })
    )
  })

  describe("in a month", () => {
    const gzip = { "accept-encoding": "gzip" }
    const monthly = (fault: Parameters<Simulator.Simulator["chessCom"]["inject"]>[0], headers = {}) =>
      Effect.gen(function* () {
        const { chessCom: site, httpClient } = yield* make()
        const intact = yield* Effect.flatMap(get(httpClient, month, headers), chunksUntilFailure)
        yield* site.inject(fault)
        const response = yield* get(httpClient, month, headers)
        return { intact: intact.text, response, ...(yield* chunksUntilFailure(response)) }
      })

    it.effect("cut, early and too short bodies come apart as they would on a wire", () =>
      Effect.gen(function* () {
        const cut = yield* monthly({ kind: "cut-in-game", after: 5 })
        assert.isTrue(Exit.isFailure(cut.exit))
        assert.isTrue(cut.intact.startsWith(cut.text) && cut.text.length < cut.intact.length && cut.text.length > 0)
        const early = yield* monthly({ kind: "end-early", after: 5 })
        assert.isTrue(Exit.isSuccess(early.exit))
        assert.isUndefined(early.response.headers["content-length"])
        assert.isFalse(parses(early.text))
        const short = yield* monthly({ kind: "wrong-length" })
        assert.isAbove(Number(short.response.headers["content-length"]), Buffer.byteLength(short.text))
        assert.isTrue(Exit.isFailure(short.exit))
      })
    )

    it.effect("truncated-gzip ends cleanly and cannot be unpacked", () =>
      Effect.gen(function* () {
        const { chunks, exit } = yield* monthly({ kind: "truncated-gzip" }, gzip)
        assert.isTrue(Exit.isSuccess(exit))
        assert.throws(() => gunzipSync(Buffer.concat(chunks)))
      })
    )

    it.effect("unstable-etag never matches", () =>
      Effect.gen(function* () {
        const { chessCom: site, httpClient } = yield* make()
        yield* site.inject({ kind: "unstable-etag" })
        const tags = new Set<string>()
        let tag = ""
        for (let request = 0; request < 5; request++) {
          const response = yield* get(httpClient, month, { "if-none-match": tag })
          assert.strictEqual(response.status, 200)
          tag = response.headers["etag"]!
          tags.add(tag)
        }
        assert.strictEqual(tags.size, 5)
      })
    )

    it.effect("missing-games makes a month smaller, under another tag", () =>
      Effect.gen(function* () {
        const { chessCom: site, httpClient } = yield* make()
        const read = Effect.flatMap(get(httpClient, month), (response) =>
          Effect.map(jsonAs<ChessComMonth>(response), ({ games }) => [games.length, response.headers["etag"]] as const)
        )
        const [intact, tag] = yield* read
        yield* site.inject({ kind: "missing-games", every: 3 })
        const [left, changed] = yield* read
        assert.strictEqual(left, intact - Math.floor(intact / 3))
        assert.notStrictEqual(changed, tag)
      })
    )

    it.effect("odd and duplicate games stand among the others in valid JSON", () =>
      Effect.gen(function* () {
        const { chessCom: site, httpClient } = yield* make()
        const count = Effect.flatMap(get(httpClient, month), (response) =>
          Effect.map(jsonAs<ChessComMonth>(response), ({ games }) => games.length)
        )
        const intact = yield* count
        yield* site.inject({ kind: "odd-games", every: 5 })
        yield* site.inject({ kind: "duplicate-games", every: intact })
        assert.strictEqual(yield* count, intact + Math.floor(intact / 5) + 1)
      })
    )
  })
})
