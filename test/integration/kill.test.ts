/**
 * Kills a real service process again and again while it imports, and looks into its database each time.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import type { Platform } from "../../src/chess/domain/Platform.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as ServiceProcess from "../support/serviceProcess.ts"

const user = "maria"

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "kill-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

interface Job {
  readonly id: string
  readonly status: string
  readonly imported: number
}

/** What the database of a dead process holds. */
const inspect = (file: string, platform: Platform) => {
  const database = new DatabaseSync(file)
  const all = <A>(sql: string, ...params: ReadonlyArray<string>) => database.prepare(sql).all(...params) as Array<A>
  const jobs = all<Job>("SELECT id, status, imported FROM import_job")
  const ids = all<{ id: string }>(
    "SELECT game_id AS id FROM user_game WHERE platform = ? AND user_id = ?",
    platform,
    user
  )
  const games = all<{ games: number }>("SELECT count(*) AS games FROM game")[0]!.games
  const [state] = all<{ games: number; checkpoint: string | null }>(
    "SELECT games, checkpoint FROM imported_user WHERE platform = ? AND user_id = ?",
    platform,
    user
  )
  database.close()
  return {
    jobs,
    games,
    ids: ids.map(({ id }) => id),
    counted: state?.games ?? 0,
    checkpoint: state?.checkpoint ?? null
  }
}

/** Games that the checkpoint calls stored and that are not. */
const holes = (
  checkpoint: string | null,
  stored: ReadonlySet<string>,
  upstream: ReadonlyArray<Simulator.SimulatedGame>
) => {
  const position = JSON.parse(checkpoint ?? '{"checkpoint":{}}').checkpoint as {
    readonly newest?: number | null
    readonly oldest?: number | null
    readonly months?: Readonly<Record<string, unknown>>
  }
  const { months, newest, oldest } = position
  const isCovered = (game: Simulator.SimulatedGame) =>
    months === undefined
      ? game.playedAt > (oldest ?? Infinity) && game.playedAt < (newest ?? -Infinity)
      : new Date(game.endedAt).toISOString().slice(0, 7) in months
  return upstream.filter((game) => isCovered(game) && !stored.has(game.id))
}

const survives = Effect.fnUntraced(function* (options: {
  readonly platform: Platform
  readonly simulator: Simulator.Simulator
  readonly kills: number
  /** Of so many ends in a row, the last is a SIGTERM. */
  readonly stopsEvery?: number
  readonly longestLife: number
}) {
  const { kills, platform, simulator, stopsEvery = Infinity } = options
  const directory = yield* temporaryDirectory
  const file = join(directory, "chess.db")
  const urls = yield* Simulator.listen(simulator)
  const env = {
    DATABASE_URL: `file:${file}`,
    LICHESS_BASE_URL: urls.lichessBaseUrl,
    CHESSCOM_BASE_URL: urls.chessComBaseUrl,
    CIRCUIT_OPEN_FOR: "500 millis",
    CHESSCOM_RATE_PER_SECOND: "50",
    // Restarts are what takes the time here.
    NODE_COMPILE_CACHE: join(directory, "cache")
  }
  const upstream = yield* simulator.games(user, platform)

  const first = yield* ServiceProcess.start(env)
  const response = yield* Effect.flatMap(first.url, (url) =>
    Effect.promise(() =>
      fetch(`${url}/api/v1/import-more-games`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ user_id: user, platform, limit: 100_000 })
      })
    )
  )
  assert.strictEqual(response.status, 202)

  let unfinished = 0
  let process = first
  for (let kill = 0; kill < kills; kill++) {
    // Every fourth dies while it starts, the others while they import.
    if (kill % 4 !== 3) yield* process.logged("import.slot-acquired")
    yield* Effect.sleep(yield* Random.nextIntBetween(0, options.longestLife))
    yield* process.end((kill + 1) % stopsEvery === 0 ? "SIGTERM" : "SIGKILL")

    const { checkpoint, counted, games, ids, jobs } = inspect(file, platform)
    assert.strictEqual(jobs.length, 1)
    assert.strictEqual(jobs[0]?.imported, ids.length)
    assert.strictEqual(counted, ids.length)
    assert.strictEqual(games, ids.length)
    assert.deepStrictEqual(holes(checkpoint, new Set(ids), upstream), [])
    if (jobs[0]?.status !== "complete") unfinished++
    process = yield* ServiceProcess.start(env)
  }

  // Nobody asks for it again: it finishes by itself.
  if (inspect(file, platform).jobs[0]?.status !== "complete") yield* process.logged("import.completed")
  yield* process.end("SIGTERM")

  const { ids, jobs } = inspect(file, platform)
  assert.deepStrictEqual(
    jobs.map((job) => ({ status: job.status, imported: job.imported })),
    [{ status: "complete", imported: upstream.length }]
  )
  assert.deepStrictEqual([...ids].sort(), upstream.map((game) => game.id).sort())
  return unfinished
}, Effect.scoped)

describe("a service that is killed", () => {
  it.live(
    "imports every game from Lichess once, killed 20 times, on streams that are cut",
    () =>
      Effect.gen(function* () {
        const simulator = yield* Simulator.make({
          users: [{ name: user, lichess: { games: 9000 } }],
          lichess: { gamesPerSecond: 1500 }
        })
        yield* simulator.lichess.inject({ kind: "cut-in-game", rate: 0.15 })
        yield* simulator.lichess.inject({ kind: "cut-between-games", rate: 0.15 })
        yield* simulator.lichess.inject({ kind: "duplicate-games", every: 50 })
        const unfinished = yield* survives({ platform: "lichess", simulator, kills: 20, longestLife: 500 })
        assert.isAtLeast(unfinished, 10)
      }).pipe(Random.withSeed("twenty lives")),
    180_000
  )

  it.live(
    "imports every game from Chess.com once, killed and stopped 3 times each",
    () =>
      Effect.gen(function* () {
        const simulator = yield* Simulator.make({
          users: [{ name: user, chessCom: { games: 1500, from: Date.UTC(2023, 0, 1) } }]
        })
        yield* simulator.chessCom.inject({ kind: "delay", delay: "80 millis" })
        yield* simulator.chessCom.inject({ kind: "reset", rate: 0.1 })
        const unfinished = yield* survives({
          platform: "chess.com",
          simulator,
          kills: 6,
          stopsEvery: 2,
          longestLife: 700
        })
        assert.isAtLeast(unfinished, 3)
      }).pipe(Random.withSeed("six lives")),
    120_000
  )
})
