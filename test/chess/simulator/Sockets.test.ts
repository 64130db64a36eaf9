import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Schedule, Stream } from "effect"
import { HttpBody, HttpClient } from "effect/http"
import * as Simulator from "../../../src/chess/simulator/Simulator.ts"
import { chunksUntilFailure, exportGames, get, lines } from "./ask.ts"

const users: ReadonlyArray<Simulator.User> = [
  {
    name: "Vera",
    lichess: { games: 20_000 },
    chessCom: { games: 100, from: Simulator.historyEnds - 10 * 86_400_000 }
  }
]

const start = Effect.fnUntraced(function* (options: Simulator.Options = {}) {
  const simulator = yield* Simulator.make({ users, unlisted: "unknown", ...options })
  const client = yield* HttpClient.HttpClient
  return { simulator, client, ...(yield* Simulator.listen(simulator)) }
})

/** Waits until the stand-in has noticed. */
const eventually = <A>(effect: Effect.Effect<A>, expected: A) =>
  effect.pipe(
    Effect.flatMap((value) => (value === expected ? Effect.void : Effect.fail(value))),
    Effect.retry({ schedule: Schedule.spaced("5 millis"), times: 1000 })
  )

const exportsOf = (simulator: Simulator.Simulator) =>
  Effect.map(simulator.requests, ({ lichess }) => lichess.exports.now)

describe("Sockets", () => {
  it.layer(NodeHttpClient.layerUndici, { excludeTestServices: true })((it) => {
    it.effect("sends the same bytes as in the process", () =>
      Effect.gen(function* () {
        const { chessComBaseUrl, client, lichessBaseUrl, simulator } = yield* start()
        for (const url of [
          `${lichessBaseUrl}/api/user/vera`,
          `${lichessBaseUrl}/api/games/user/vera?pgnInJson=true&max=500`,
          `${chessComBaseUrl}/player/vera`,
          `${chessComBaseUrl}/player/Vera`,
          `${chessComBaseUrl}/player/vera/games/2026/09`,
          `${chessComBaseUrl}/player/nobody`
        ]) {
          const headers = { accept: "application/x-ndjson" }
          const carried = yield* get(client, url, headers)
          const direct = yield* get(simulator.httpClient, url, headers)
          assert.strictEqual(carried.status, direct.status)
          for (const name of ["content-type", "content-length", "etag", "location"]) {
            assert.strictEqual(carried.headers[name], direct.headers[name], `${name} of ${url}`)
          }
          assert.strictEqual(yield* carried.text, yield* direct.text)
        }
      })
    )

    it.effect("frees an export's place when its client goes away", () =>
      Effect.gen(function* () {
        const { client, lichessBaseUrl, simulator } = yield* start()
        const first = yield* exportGames(client, "vera", "?pgnInJson=true", lichessBaseUrl)
        assert.strictEqual(yield* exportsOf(simulator), 1)
        yield* Stream.runDrain(Stream.take(first.stream, 1))
        yield* eventually(exportsOf(simulator), 0)
        yield* simulator.lichess.inject({ kind: "hang", times: 1 })
        const hanging = yield* Effect.forkChild(exportGames(client, "vera", "", lichessBaseUrl))
        yield* eventually(exportsOf(simulator), 1)
        yield* Fiber.interrupt(hanging)
        yield* eventually(exportsOf(simulator), 0)
      })
    )

    it.effect("waits for a reader that is slow, and ends with it", () =>
      Effect.gen(function* () {
        const { client, lichessBaseUrl, simulator } = yield* start()
        const response = yield* exportGames(client, "vera", "?pgnInJson=true&clocks=true", lichessBaseUrl)
        // 60 MB do not fit into the buffers between the two: it is still being sent.
        yield* Effect.sleep("50 millis")
        assert.strictEqual(yield* exportsOf(simulator), 1)
        assert.lengthOf(yield* lines(response), 20_000)
        assert.strictEqual(yield* exportsOf(simulator), 0)
      })
    )

    it.effect("breaks, cuts and shortens answers on the wire", () =>
      Effect.gen(function* () {
        const { chessComBaseUrl, client, lichessBaseUrl, simulator } = yield* start()
        yield* simulator.lichess.inject({ kind: "reset", times: 1 })
        const reset = yield* Effect.flip(get(client, `${lichessBaseUrl}/api/user/vera`))
        assert.strictEqual(reset.reason._tag, "TransportError")
        for (const [kind, fails, count] of [
          ["cut-in-game", true, 31],
          ["cut-between-games", true, 30],
          ["end-early", false, 30]
        ] as const) {
          const { remove } = yield* simulator.lichess.inject({ kind, after: 30 })
          const response = yield* exportGames(client, "vera", "", lichessBaseUrl)
          const { exit, text } = yield* chunksUntilFailure(response)
          assert.strictEqual(Exit.isFailure(exit), fails, kind)
          assert.lengthOf(text.trimEnd().split("\n"), count)
          yield* remove
        }
        for (const kind of ["wrong-length", "cut-in-game"] as const) {
          const { remove } = yield* simulator.chessCom.inject({ kind })
          const response = yield* get(client, `${chessComBaseUrl}/player/vera/games/2026/09`)
          assert.isTrue(Exit.isFailure((yield* chunksUntilFailure(response)).exit), kind)
          yield* remove
        }
        yield* eventually(exportsOf(simulator), 0)
        assert.strictEqual((yield* get(client, `${lichessBaseUrl}/api/user/vera`)).status, 200)
      })
    )

    it.effect("refuses what is not a request target", () =>
      Effect.gen(function* () {
        const { client, lichessBaseUrl } = yield* start()
        assert.strictEqual((yield* get(client, `${lichessBaseUrl}//`)).status, 400)
        assert.strictEqual((yield* get(client, `${lichessBaseUrl}/%ff/%00?%`)).status, 404)
      })
    )

    it.effect("refuses bodies over 64 KiB", () =>
      Effect.gen(function* () {
        const { client, lichessBaseUrl } = yield* start()
        const post = (length: number) =>
          Effect.map(
            client.post(`${lichessBaseUrl}/api/users`, { body: HttpBody.text("x".repeat(length)) }),
            ({ status }) => status
          )
        assert.strictEqual(yield* post(65_536), 200)
        assert.strictEqual(yield* post(65_537), 413)
      })
    )
  })

  it.live("says where it cannot listen", () =>
    Effect.gen(function* () {
      const simulator = yield* Simulator.make()
      const { lichessBaseUrl } = yield* Simulator.listen(simulator)
      const port = Number(lichessBaseUrl.split(":").at(-1))
      const error = yield* Effect.flip(Simulator.listen(simulator, { chessComPort: port }))
      assert.deepInclude(error, { _tag: "ListenFailed", host: "127.0.0.1", port })
    })
  )

  it.live("closes its connections with its scope, also those that hang", () =>
    Effect.gen(function* () {
      const simulator = yield* Simulator.make({ users })
      yield* simulator.lichess.inject({ kind: "hang" })
      const asking = yield* Effect.scoped(
        Effect.gen(function* () {
          const { lichessBaseUrl } = yield* Simulator.listen(simulator)
          const client = yield* HttpClient.HttpClient
          const fiber = yield* Effect.forkDetach(get(client, `${lichessBaseUrl}/api/user/vera`))
          yield* eventually(
            Effect.map(simulator.requests, ({ lichess }) => lichess.others.now),
            1
          )
          return fiber
        })
      )
      assert.isTrue(Exit.isFailure(yield* Fiber.await(asking)))
      yield* eventually(
        Effect.map(simulator.requests, ({ lichess }) => lichess.sockets.now + lichess.others.now),
        0
      )
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )
})
