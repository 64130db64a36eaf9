import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { NodeHttpClient, NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import {
  ConfigProvider,
  Context,
  Duration,
  Effect,
  Fiber,
  Layer,
  Logger,
  Schedule,
  Schema,
  type Scope,
  Stream
} from "effect"
import { HttpClient } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import * as Api from "../../src/chess/Api.ts"
import type { Platform } from "../../src/chess/domain/Platform.ts"
import * as Server from "../../src/chess/Server.ts"
import * as Service from "../../src/chess/Service.ts"
import * as Settings from "../../src/chess/Settings.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"

const root = new URL("../..", import.meta.url).pathname

class Sites extends Context.Service<Sites, Simulator.Simulator>()("test/Sites") {}

/** The whole service on a socket, except that the sites are in this process. */
const service = (env: Record<string, string>, simulator: Simulator.Options = {}) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const settings = yield* Settings.config.parse(
        ConfigProvider.fromEnv({ env: { DATABASE_URL: "file::memory:", ...env } })
      )
      const sites = yield* Sites
      return Server.layerNoDeps.pipe(
        Layer.provide(Service.parts(settings)),
        Layer.provide(Layer.succeed(HttpClient.HttpClient, sites.httpClient))
      )
    })
  ).pipe(
    Layer.provideMerge(Layer.effect(Sites, Simulator.make(simulator))),
    Layer.provideMerge(NodeHttpServer.layerTest),
    Layer.provide(Logger.layer([]))
  )

// The client of the test server knows where that is.
const client = HttpApiClient.make(Api.Api)

const importAll = Effect.fnUntraced(function* (api: Api.Client, user: string, platform: Platform, limit: number) {
  yield* api.imports.start({ payload: { user_id: user, platform, limit } })
  const events = yield* api.imports.events({ params: { user, platform } })
  const seen = yield* Stream.runCollect(events)
  return seen.at(-1)
})

/** Reads all pages, and checks their order. */
const allGames = Effect.fnUntraced(function* (api: Api.Client, user: string, platform: Platform, limit: number) {
  const games: Array<typeof Api.Game.Type> = []
  let cursor: string | null | undefined
  do {
    const page: typeof Api.GamePage.Type = yield* api.games.page({
      params: { user, platform },
      query: { limit, ...(typeof cursor === "string" ? { cursor } : {}) }
    })
    games.push(...page.games)
    cursor = page.next_cursor
  } while (cursor !== null)
  const times = games.map((game) => game.played_at)
  assert.deepStrictEqual(times, [...times].sort().reverse())
  return games.map((game) => game.id).sort()
})

/** The games that the site has, or its newest ones. */
const gamesOf = (sites: Simulator.Simulator, user: string, platform: Platform, newest = Infinity) =>
  Effect.map(sites.games(user, platform), (games) =>
    games
      .slice(-Math.min(newest, games.length))
      .map((game) => game.id)
      .sort()
  )

layer(service({ API_KEYS: "premium-key:anna:premium" }), { excludeTestServices: true })("Service", (it) => {
  it.effect("validates users of both sites", () =>
    Effect.gen(function* () {
      const api = yield* client
      for (const platform of ["lichess", "chess.com"] as const) {
        const validate = (user_id: string) => api.users.validate({ payload: { user_id, platform } })
        assert.isTrue((yield* validate("nadia-250")).exists)
        assert.isTrue((yield* validate("Nadia-250")).exists)
        assert.isFalse((yield* validate("ghost-anna")).exists)
        assert.match((yield* validate("closed-anna")).message, /exists on .*, but the account is closed$/)
      }
      const { stats } = yield* api.users.stats()
      assert.containsSubset(stats, { cache_size: 6, cache_hits: 2, cache_misses: 6, pending_requests: 0 })
      assert.strictEqual(stats.lichess_circuit, "closed (failures: 0)")
      assert.strictEqual(stats.chesscom_circuit, "closed (failures: 0)")
    })
  )

  it.effect.each(["lichess", "chess.com"] as const)("imports the newest games of %s, and then more", (platform) =>
    Effect.gen(function* () {
      const api = yield* client
      const sites = yield* Sites

      const first = yield* importAll(api, "nadia-250", platform, 120)
      assert.containsSubset(first, {
        status: "complete",
        message: "Import complete! 120 new games imported",
        imported: 120
      })
      assert.deepStrictEqual(
        yield* allGames(api, "nadia-250", platform, 50),
        yield* gamesOf(sites, "nadia-250", platform, 120)
      )

      const second = yield* importAll(api, "nadia-250", platform, 200_000)
      assert.strictEqual(second?.status, "complete")
      assert.deepStrictEqual(
        yield* allGames(api, "nadia-250", platform, 500),
        yield* gamesOf(sites, "nadia-250", platform)
      )

      const { games } = yield* api.games.page({ params: { user: "nadia-250", platform }, query: { limit: 20 } })
      const pgns = yield* Effect.forEach(games, ({ id }) => Effect.option(api.games.pgn({ params: { platform, id } })))
      const found = pgns.flatMap((pgn) => (pgn._tag === "Some" ? [pgn.value] : []))
      assert.isAbove(found.length, 10)
      assert.isTrue(found.every((pgn) => pgn.startsWith('[Event "')))

      const again = yield* api.imports.start({ payload: { user_id: "nadia-250", platform } })
      assert.strictEqual(again.outcome, "recent")
    })
  )

  it.effect("tells in the progress that a user does not exist", () =>
    Effect.gen(function* () {
      const last = yield* importAll(yield* client, "ghost-anna", "lichess", 10)
      assert.containsSubset(last, { status: "failed", error: "User 'ghost-anna' not found on Lichess" })
    })
  )
})

layer(
  service({ API_KEYS: "premium-key:anna:premium", MAX_IMPORTS_PER_USER: "3" }, { lichess: { gamesPerSecond: 100 } }),
  {
    excludeTestServices: true
  }
)("Service with slow sites", (it) => {
  it.effect("queues the third import, premium first, refuses the fourth of a caller, and cancels", () =>
    Effect.gen(function* () {
      const api = yield* client
      const start = (user_id: string) =>
        api.imports.start({ payload: { user_id, platform: "lichess", limit: 200_000 } })
      yield* start("lena-5000")
      yield* start("mara-5000")
      const third = yield* start("nora-5000")
      assert.containsSubset(third, {
        outcome: "started",
        status: "queued",
        message: "Import queued - 0 of 2 import slots available",
        queue_position: 1
      })
      assert.strictEqual((yield* start("Lena-5000")).outcome, "already-running")

      const refused = yield* Effect.flip(start("olga-5000"))
      assert.strictEqual(refused._tag, "TooManyRequests")
      assert.isAtLeast(Duration.toSeconds(refused._tag === "TooManyRequests" ? (refused.retryAfter ?? 0) : 0), 1)

      const http = yield* HttpClient.HttpClient
      const premium = yield* Effect.provideService(
        client,
        HttpClient.HttpClient,
        HttpClient.mapRequest(http, (request) => ({
          ...request,
          headers: { ...request.headers, "x-api-key": "premium-key" }
        }))
      )
      const first = yield* premium.imports.start({ payload: { user_id: "paula-5000", platform: "lichess" } })
      assert.strictEqual(first.queue_position, 1)
      const list = yield* api.imports.list()
      assert.deepStrictEqual(
        [list.running, list.queued].map((each) => each.map((progress) => progress.user_id)),
        [
          ["lena-5000", "mara-5000"],
          ["paula-5000", "nora-5000"]
        ]
      )
      assert.deepStrictEqual(list.slots, { total: 2, available: 0 })

      for (const user of ["nora-5000", "paula-5000", "mara-5000", "lena-5000"]) {
        const cancelled = yield* api.imports.cancel({ params: { user, platform: "lichess" } })
        assert.strictEqual(cancelled.status, "cancelled")
      }
      assert.deepStrictEqual((yield* api.imports.list()).slots, { total: 2, available: 2 })
    })
  )
})

interface Running {
  readonly process: ChildProcess
  /** The lines of the standard output so far. */
  readonly lines: ReadonlyArray<string>
  /** Waits for a line of the standard output. */
  readonly line: (pattern: RegExp) => Effect.Effect<string>
  readonly exited: Effect.Effect<{ readonly code: number | null; readonly stderr: string }>
}

/** Runs the service as a process of its own until the scope closes. */
const start = (env: Record<string, string>): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, ["--conditions=effect-resilience-source", "src/main.ts"], {
        cwd: root,
        env: { PATH: process.env["PATH"] ?? "", PORT: "0", ...env },
        stdio: ["ignore", "pipe", "pipe"]
      })
      const lines: Array<string> = []
      let stdout = ""
      let stderr = ""
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        const parts = (stdout + chunk).split("\n")
        stdout = parts.pop() ?? ""
        lines.push(...parts)
        child.emit("lines")
      })
      child.stderr.setEncoding("utf8").on("data", (chunk: string) => (stderr += chunk))
      const exited = new Promise<number | null>((resolve) => child.once("close", resolve))
      return {
        process: child,
        lines,
        exited: Effect.map(
          Effect.promise(() => exited),
          (code) => ({ code, stderr })
        ),
        line: (pattern: RegExp) =>
          Effect.callback<string>((resume) => {
            const look = () => {
              const found = lines.find((line) => pattern.test(line))
              if (found !== undefined) resume(Effect.succeed(found))
            }
            look()
            child.on("lines", look)
            child.once("close", () =>
              resume(Effect.die(new Error(`ended without ${pattern}: ${lines.join("\n")} ${stderr}`)))
            )
            return Effect.sync(() => child.off("lines", look))
          })
      }
    }),
    ({ process }) => Effect.sync(() => process.kill("SIGKILL"))
  )

const LogLine = Schema.fromJsonString(
  Schema.Struct({ annotations: Schema.Struct({ url: Schema.String, docs: Schema.String }) })
)

const urlOf = (running: Running) =>
  Effect.flatMap(running.line(/Listening on/), (line) =>
    Effect.map(Schema.decodeEffect(LogLine)(line), ({ annotations }) => annotations)
  )

const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "chess-service-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

describe("the process", () => {
  it.live.each([
    ["PORT", "abc", 'PORT must be a whole number from 0 to 65535, not "abc"'],
    ["SHUTDOWN_TIMEOUT", "soon", /^SHUTDOWN_TIMEOUT must be a duration .* not "soon"$/],
    ["API_KEYS", "hunter2-hunter2:anna", /^API_KEYS must be key:user:tier entries; entry 1 is not /],
    ["DATABASE_URL", "mysql://root:hunter2@db/chess", /^DATABASE_URL must be "file:" .*\.db"$/]
  ] as const)("does not start with %s=%s, and says why in one line", ([name, value, expected]) =>
    Effect.gen(function* () {
      const running = yield* start({ [name]: value })
      const { code, stderr } = yield* running.exited
      assert.strictEqual(code, 1)
      assert.deepStrictEqual(running.lines, [])
      if (typeof expected === "string") assert.strictEqual(stderr, `${expected}\n`)
      else assert.match(stderr.replace(/\n$/, ""), expected)
      assert.notInclude(stderr, "hunter2")
    })
  )

  it.live("does not start on a port that is taken, and says so in one line", () =>
    Effect.gen(function* () {
      const taken = yield* Effect.acquireRelease(
        Effect.callback<ReturnType<typeof createServer>>((resume) => {
          const server = createServer().listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      )
      const address = taken.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      const running = yield* start({ PORT: String(port), DATABASE_URL: "file::memory:" })
      const { code, stderr } = yield* running.exited
      assert.deepStrictEqual([code, stderr], [1, ""])
      assert.lengthOf(running.lines, 1)
      assert.match(running.lines[0] ?? "", /Cannot start: listen EADDRINUSE/)
    })
  )

  it.live("does not start on a database that another one uses, and starts at once when that one was killed", () =>
    Effect.gen(function* () {
      const env = { DATABASE_URL: `file:${join(yield* directory, "chess.db")}` }
      const first = yield* start(env)
      yield* urlOf(first)
      const second = yield* start(env)
      assert.deepStrictEqual(yield* second.exited, { code: 1, stderr: "" })
      assert.lengthOf(second.lines, 1)
      assert.match(second.lines[0] ?? "", /"Cannot start: another process uses this database"/)
      first.process.kill("SIGKILL")
      yield* first.exited
      yield* urlOf(yield* start(env))
    })
  )

  it.live("goes on answering while another program holds the database, and imports when it is free again", () =>
    Effect.gen(function* () {
      const sites = yield* Simulator.make({})
      const urls = yield* Simulator.listen(sites)
      const file = join(yield* directory, "chess.db")
      const running = yield* start({
        DATABASE_URL: `file:${file}`,
        LICHESS_BASE_URL: urls.lichessBaseUrl,
        CHESSCOM_BASE_URL: urls.chessComBaseUrl
      })
      const api = yield* Api.client((yield* urlOf(running)).url)
      const other = yield* Effect.acquireRelease(
        Effect.sync(() => new DatabaseSync(file)),
        (database) => Effect.sync(() => database.close())
      )
      const importing = api.imports.start({ payload: { user_id: "nadia-30", platform: "lichess" } })

      other.exec("BEGIN IMMEDIATE")
      const refused = yield* Effect.timeout(Effect.flip(importing), "4 seconds")
      assert.containsSubset(refused, { code: "DATABASE_UNAVAILABLE", retryAfter: Duration.seconds(5) })
      const [took] = yield* Effect.timed(api.health.check())
      assert.isBelow(Duration.toMillis(took), 2_000)
      other.exec("ROLLBACK")

      yield* importing
      const events = yield* api.imports.events({ params: { user: "nadia-30", platform: "lichess" } })
      const seen = yield* Stream.runCollect(events)
      assert.containsSubset(seen.at(-1), { status: "complete", imported: 30 })
    }).pipe(Effect.provide(NodeHttpClient.layerUndici))
  )

  it.live(
    "drains on SIGTERM: ends event streams, exits with 0, and takes the import up again at the next start",
    () =>
      Effect.gen(function* () {
        const sites = yield* Simulator.make({ lichess: { gamesPerSecond: 400 } })
        const urls = yield* Simulator.listen(sites)
        const env = {
          DATABASE_URL: `file:${join(yield* directory, "data", "chess.db")}`,
          LICHESS_BASE_URL: urls.lichessBaseUrl,
          CHESSCOM_BASE_URL: urls.chessComBaseUrl
        }
        const params = { user: "nadia-1200", platform: "lichess" } as const

        const first = yield* start(env)
        const { docs, url } = yield* urlOf(first)
        assert.strictEqual(docs, `${url}/docs`)
        const api = yield* Api.client(url)
        yield* api.imports.start({ payload: { user_id: params.user, platform: params.platform, limit: 200_000 } })
        const follow = Effect.flatMap(api.imports.events({ params }), Stream.runCollect)
        yield* Effect.flatMap(api.imports.events({ params }), (events) =>
          Stream.runDrain(Stream.takeUntil(events, (progress) => progress.imported >= 100))
        )

        // An event stream that would go on, and a request that is in flight when the signal comes.
        const following = yield* Effect.forkChild(follow, { startImmediately: true })
        yield* sites.chessCom.inject({ kind: "delay", delay: "1 second" })
        const validating = yield* Effect.forkChild(
          api.users.validate({ payload: { user_id: "nadia-7", platform: "chess.com" } }),
          { startImmediately: true }
        )
        yield* Effect.repeat(sites.requests, {
          until: ({ chessCom }) => chessCom.total > 0,
          schedule: Schedule.spaced("5 millis")
        })
        first.process.kill("SIGTERM")
        assert.strictEqual((yield* Fiber.join(following)).at(-1)?.status, "importing")
        assert.isTrue((yield* Fiber.join(validating)).exists)
        assert.deepStrictEqual(yield* first.exited, { code: 0, stderr: "" })
        assert.match(first.lines.at(-1) ?? "", /"Stopped"/)
        assert.strictEqual((yield* Effect.flip(api.health.check()))._tag, "HttpClientError")

        const second = yield* start(env)
        const next = yield* Api.client((yield* urlOf(second)).url)
        const resumed = yield* Effect.flatMap(next.imports.events({ params }), Stream.runCollect)
        assert.containsSubset(resumed.at(-1), { status: "complete", imported: 1_200 })
        second.process.kill("SIGINT")
        assert.strictEqual((yield* second.exited).code, 0)
      }).pipe(Effect.provide(NodeHttpClient.layerUndici)),
    30_000
  )
})
