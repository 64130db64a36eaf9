import { NodeHttpClient, NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import { HttpClient } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { exportGames, get, lines } from "./ask.ts"

const run = Effect.fnUntraced(function* (...flags: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const main = new URL("../../../src/chess/simulator/main.ts", import.meta.url).pathname
  return yield* spawner.spawn(
    ChildProcess.make(process.execPath, ["--conditions=effect-resilience-source", main, ...flags], { extendEnv: true })
  )
})

const firstLine = (child: ChildProcessSpawner.ChildProcessHandle) =>
  child.stdout.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runHead,
    Effect.flatMap(Effect.fromOption),
    Effect.map((line) => JSON.parse(line) as { lichessBaseUrl: string; chessComBaseUrl: string })
  )

describe("main", () => {
  it.layer(Layer.mergeAll(NodeServices.layer, NodeHttpClient.layerUndici), { excludeTestServices: true })((it) => {
    it.effect("prints where both sites are, with the faults of its flags", () =>
      Effect.gen(function* () {
        const fault = '{"site":"lichess","kind":"end-early","after":5,"times":1}'
        const sites = yield* Effect.flatMap(run("--unlimited", "--fault", fault, "--oddities", "0"), firstLine)
        const client = yield* HttpClient.HttpClient
        for (const expected of [5, 20]) {
          const response = yield* exportGames(client, "nadia-20", "", sites.lichessBaseUrl)
          assert.lengthOf(yield* lines(response), expected)
        }
        assert.strictEqual((yield* get(client, `${sites.chessComBaseUrl}/player/nadia-20`)).status, 200)
      })
    )

    it.effect("refuses a flag that makes no sense, and names it", () =>
      Effect.gen(function* () {
        const child = yield* run("--oddities", "2")
        const [errors, code] = yield* Effect.all([Stream.mkString(Stream.decodeText(child.all)), child.exitCode], {
          concurrency: 2
        })
        assert.notStrictEqual(code, 0)
        assert.include(errors, "--oddities")
      })
    )
  })
})
