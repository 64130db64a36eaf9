import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { interruptEverywhere } from "effect-resilience/testing"
import { Cause, Effect, Exit, Fiber, Layer, Option, Random, Scheduler } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { type ChessComCheckpoint, type LichessCheckpoint, nothingFetched } from "../../src/chess/domain/Checkpoint.ts"
import type { Game, OddGame } from "../../src/chess/domain/Game.ts"
import type { ImportStatus } from "../../src/chess/domain/ImportJob.ts"
import * as GameStore from "../../src/chess/GameStore.ts"
import { type Commit, ImportStore, layer, type NewImport } from "../../src/chess/ImportStore.ts"
import * as SqliteClient from "../../src/chess/SqliteClient.ts"
import { makeGame, makeGames } from "../support/games.ts"
import { queryPlans } from "../support/queryPlans.ts"

const stores = Layer.mergeAll(layer, GameStore.layer)
const Live = Layer.provideMerge(stores, SqliteClient.layerMemory)

const rook = { user: "rook-lifter", platform: "lichess" } as const
const request = (changes: Partial<NewImport> = {}): NewImport => ({
  ...rook,
  limit: 1000,
  owner: "192.0.2.1",
  premium: false,
  ...changes
})

const checkpoint = (oldest: number): LichessCheckpoint => ({
  _tag: "Lichess",
  newest: 100,
  oldest,
  reachedStart: false
})

const commitOf = (
  games: ReadonlyArray<Game>,
  changes: Partial<Commit> & { odd?: ReadonlyArray<OddGame> } = {}
): Commit => ({
  ...rook,
  batch: { games, odd: changes.odd ?? [] },
  checkpoint: checkpoint(1),
  maxNew: 1000,
  ...changes
})

const create = Effect.fnUntraced(function* (changes: Partial<NewImport> = {}) {
  const store = yield* ImportStore
  return (yield* store.create(request(changes))).job
})

const setStatus = Effect.fnUntraced(function* (importId: string, status: ImportStatus) {
  const store = yield* ImportStore
  return yield* store.setStatus(importId, { status, message: status })
})

/** Everything that a commit writes. */
const written = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const count = (table: string) => Effect.map(sql`SELECT count(*) FROM ${sql(table)}`.values, (rows) => rows[0]?.[0])
  return {
    games: yield* count("game"),
    links: yield* count("user_game"),
    skipped: yield* count("skipped_game"),
    users: yield* sql`SELECT user_id, games, checkpoint FROM imported_user`.values,
    jobs: yield* sql`SELECT imported, checked, skipped, message FROM import_job`.values
  }
})

describe("ImportStore", () => {
  describe("create", () => {
    it.effect("makes a queued import", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        yield* TestClock.adjust("5 seconds")
        const { created, job } = yield* store.create(request({ premium: true, limit: 7 }))
        assert.isTrue(created)
        assert.deepStrictEqual(job, {
          importId: job.importId,
          user: "rook-lifter",
          platform: "lichess",
          owner: "192.0.2.1",
          premium: true,
          status: "queued",
          message: "Import queued",
          imported: 0,
          checked: 0,
          skipped: 0,
          limit: 7,
          createdAt: 5000,
          startedAt: null,
          finishedAt: null,
          error: null
        })
        assert.deepStrictEqual(yield* store.get(job.importId), Option.some(job))
      }).pipe(Effect.provide(Live))
    )

    it.effect("finds the user's unfinished import instead, in every status, until it has ended", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const first = yield* create()
        for (const status of ["queued", "starting", "importing"] as const) {
          const current = yield* setStatus(first.importId, status)
          assert.deepStrictEqual(yield* store.create(request({ limit: 5 })), { job: current, created: false })
        }
        for (const status of ["complete", "failed", "cancelled"] as const) {
          const { created, job } = yield* store.create(request())
          assert.strictEqual(created, status !== "complete")
          yield* setStatus(job.importId, status)
        }
        assert.isTrue((yield* store.create(request())).created)
      }).pipe(Effect.provide(Live))
    )

    it.effect("makes one import of a user and a site, however many ask at once", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const asked = [request(), request({ platform: "chess.com" }), request({ user: "pawn-storm" })]
        const made = yield* Effect.forEach([...asked, ...asked, ...asked], store.create, { concurrency: "unbounded" })
        assert.strictEqual(made.filter(({ created }) => created).length, 3)
        assert.strictEqual(new Set(made.map(({ job }) => job.importId)).size, 3)
      }).pipe(Effect.provide(Live))
    )
  })

  describe("reading", () => {
    it.effect("finds the newest import of a user, and none where there is none", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        assert.deepStrictEqual(yield* store.latest("rook-lifter", "lichess"), Option.none())
        assert.deepStrictEqual(yield* store.get("absent"), Option.none())
        const first = yield* create()
        yield* setStatus(first.importId, "failed")
        const second = yield* create()
        yield* create({ platform: "chess.com" })
        assert.deepStrictEqual(yield* store.latest("rook-lifter", "lichess"), Option.some(second))
      }).pipe(Effect.provide(Live))
    )

    it.effect("lists the unfinished: running first, then premium, then the oldest", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const make = (user: string, premium: boolean) => create({ user, premium })
        yield* make("d-old", false)
        yield* make("e-new", false)
        const running = yield* make("a-running", false)
        yield* make("b-premium", true)
        const ended = yield* make("ended", true)
        yield* make("c-premium", true)
        yield* setStatus(running.importId, "importing")
        yield* setStatus(ended.importId, "complete")
        assert.deepStrictEqual(
          (yield* store.unfinished).map((job) => job.user),
          ["a-running", "b-premium", "c-premium", "d-old", "e-new"]
        )
      }).pipe(Effect.provide(Live))
    )

    it.effect("lists the most recent, the newest first", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        for (const user of ["aa", "bb", "cc"]) yield* create({ user })
        assert.deepStrictEqual(
          (yield* store.recent(2)).map((job) => job.user),
          ["cc", "bb"]
        )
      }).pipe(Effect.provide(Live))
    )

    it.effect("is served by indexes", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const plan = (call: Effect.Effect<unknown, unknown>) => Effect.map(queryPlans(call), (steps) => steps.at(-1))
        yield* create()
        assert.strictEqual(
          yield* plan(store.latest("rook-lifter", "lichess")),
          "SEARCH import_job USING INDEX import_job_user (platform=? AND user_id=?)"
        )
        assert.strictEqual(
          yield* plan(store.create(request())),
          "SEARCH import_job USING INDEX import_job_unfinished (platform=? AND user_id=?)"
        )
        assert.strictEqual(yield* plan(store.recent(2)), "SCAN import_job USING INDEX sqlite_autoindex_import_job_1")
        assert.deepStrictEqual(yield* queryPlans(store.unfinished), [
          "SCAN import_job USING INDEX import_job_unfinished",
          "USE TEMP B-TREE FOR ORDER BY"
        ])
      }).pipe(Effect.provide(Live))
    )
  })

  describe("setStatus", () => {
    it.effect("changes what is given and keeps the rest", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const { importId } = yield* create()
        const started = yield* store.setStatus(importId, { status: "starting", message: "go", startedAt: 3 })
        assert.deepInclude(started, { status: "starting", message: "go", startedAt: 3, finishedAt: null, error: null })
        const failed = yield* store.setStatus(importId, {
          status: "failed",
          message: "no",
          finishedAt: 9,
          error: "why"
        })
        assert.deepInclude(failed, { status: "failed", message: "no", startedAt: 3, finishedAt: 9, error: "why" })
        assert.deepStrictEqual(yield* store.get(importId), Option.some(failed))
      }).pipe(Effect.provide(Live))
    )

    it.effect("leaves an import that has ended as it is", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        for (const status of ["complete", "failed", "cancelled"] as const) {
          const { importId } = yield* create()
          const ended = yield* setStatus(importId, status)
          assert.deepStrictEqual(yield* setStatus(importId, "importing"), ended)
          assert.deepStrictEqual(yield* store.get(importId), Option.some(ended))
        }
      }).pipe(Effect.provide(Live))
    )

    it.effect("dies when there is no such import, and so does commit", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const calls: ReadonlyArray<Effect.Effect<unknown, unknown, ImportStore>> = [
          setStatus("absent", "failed"),
          store.commit("absent", commitOf(makeGames(1, 2)))
        ]
        for (const call of calls) {
          const exit = yield* Effect.exit(call)
          assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "no import has the id absent")
        }
        assert.strictEqual((yield* written).games, 0)
      }).pipe(Effect.provide(Live))
    )
  })

  describe("prune", () => {
    const ended = Effect.fnUntraced(function* (user: string, at: number) {
      const store = yield* ImportStore
      yield* TestClock.setTime(at)
      const { importId } = yield* create({ user })
      yield* store.commit(importId, commitOf([], { user, odd: [{ reason: "odd", raw: "{}" }] }))
      yield* store.setStatus(importId, { status: "complete", message: "", finishedAt: at })
      return importId
    })
    const left = Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const ids = (table: string, id: string) =>
        Effect.map(sql`SELECT ${sql(id)} FROM ${sql(table)} ORDER BY 1`.values, (rows) => rows.flat())
      return { imports: yield* ids("import_job", "id"), skipped: yield* ids("skipped_game", "import_id") }
    })

    it.effect("removes what ended before then, except the newest import of each user", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        yield* ended("rook-lifter", 1_000)
        const last = yield* ended("rook-lifter", 2_000)
        yield* ended("pawn-storm", 2_500)
        const inTime = yield* ended("pawn-storm", 3_000)
        yield* TestClock.setTime(3_500)
        const { importId: running } = yield* create({ user: "pawn-storm" })
        const { importId: waiting } = yield* create({ user: "waits-long" })

        assert.strictEqual(yield* store.prune(3_000), 2)
        // What the last import of a user skipped is as old as any other.
        assert.deepStrictEqual(yield* left, { imports: [last, inTime, running, waiting].sort(), skipped: [inTime] })
        assert.strictEqual(yield* store.prune(3_000), 0)
        assert.deepStrictEqual(
          Option.map(yield* store.latest("rook-lifter", "lichess"), (job) => job.importId),
          Option.some(last)
        )
        assert.strictEqual((yield* store.checkpoint("rook-lifter", "lichess"))._tag, "Lichess")
      }).pipe(Effect.provide(Live))
    )

    it.effect("goes through any number of imports, some hundred at a time, by the primary key", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const sql = yield* SqlClient.SqlClient
        const row = (n: number) => ({
          id: `import-${String(n).padStart(5, "0")}`,
          platform: "lichess",
          user_id: `user-${n % 3}`,
          owner: "o",
          premium: 0,
          status: "complete",
          message: "",
          imported: 0,
          checked: 0,
          skipped: 0,
          max_games: 1,
          created_at: n,
          finished_at: n
        })
        for (let n = 0; n < 1_800; n++) yield* sql`INSERT INTO import_job ${sql.insert(row(n))}`
        assert.include(
          yield* queryPlans(store.prune(0)),
          "SEARCH import_job USING INDEX sqlite_autoindex_import_job_1 (id>?)"
        )
        assert.strictEqual(yield* store.prune(1_000), 1_000)
        assert.strictEqual(yield* store.prune(5_000), 797)
        assert.lengthOf((yield* left).imports, 3)
      }).pipe(Effect.provide(Live))
    )
  })

  describe("commit", () => {
    it.effect("stores the games and says how far the import is", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const { importId } = yield* create()
        yield* setStatus(importId, "importing")
        const first = yield* store.commit(importId, commitOf(makeGames(11, 20), { checkpoint: checkpoint(11) }))
        assert.deepInclude(first, { inserted: 10, consumed: 10 })
        const odd = [{ reason: "no players", raw: "{}" }]
        const second = yield* store.commit(importId, commitOf(makeGames(5, 12), { odd, checkpoint: checkpoint(5) }))
        assert.deepInclude(second, { inserted: 6, consumed: 8 })
        assert.deepInclude(second.job, {
          status: "importing",
          imported: 16,
          checked: 19,
          skipped: 1,
          message: "Imported 16 games..."
        })
        assert.deepStrictEqual(yield* store.get(importId), Option.some(second.job))
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), checkpoint(5))
        assert.deepStrictEqual(yield* store.skipped(importId), odd)
        assert.strictEqual((yield* (yield* GameStore.GameStore).span(rook)).total, 16)
      }).pipe(Effect.provide(Live))
    )

    it.effect("counts a game that an opponent's import brought as new, and stores it once", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const mine = yield* create()
        yield* store.commit(mine.importId, commitOf(makeGames(1, 3)))
        const theirs = yield* create({ user: "pawn-storm" })
        const { inserted, job } = yield* store.commit(
          theirs.importId,
          commitOf(makeGames(1, 3), { user: "pawn-storm" })
        )
        assert.strictEqual(inserted, 3)
        assert.strictEqual(job.imported, 3)
        assert.deepInclude(yield* written, { games: 3, links: 6 })
      }).pipe(Effect.provide(Live))
    )

    it.effect("leaves the checkpoint as it was when maxNew cuts the batch", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const { importId } = yield* create()
        yield* store.commit(importId, commitOf(makeGames(8, 9), { checkpoint: checkpoint(8) }))
        const cut = yield* store.commit(importId, commitOf(makeGames(1, 9), { checkpoint: checkpoint(1), maxNew: 3 }))
        assert.deepInclude(cut, { inserted: 3, consumed: 5 })
        assert.deepInclude(cut.job, { imported: 5, checked: 7 })
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), checkpoint(8))
        yield* store.commit(importId, commitOf(makeGames(1, 9), { checkpoint: checkpoint(1), maxNew: 4 }))
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), checkpoint(1))
      }).pipe(Effect.provide(Live))
    )

    it.effect("stores nothing for an import that has ended", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const { importId } = yield* create()
        const ended = yield* setStatus(importId, "cancelled")
        const commit = commitOf(makeGames(1, 3), { odd: [{ reason: "odd", raw: "" }] })
        assert.deepStrictEqual(yield* store.commit(importId, commit), { inserted: 0, consumed: 0, job: ended })
        assert.deepInclude(yield* written, { games: 0, links: 0, skipped: 0, users: [] })
      }).pipe(Effect.provide(Live))
    )

    it.effect("keeps the first 100 skipped games, 4,096 characters of each, and counts them all", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const { importId } = yield* create()
        const odd = (from: number, to: number) =>
          Array.from({ length: to - from }, (_, index) => ({
            reason: `${from + index}`,
            raw: "\u{1F40E}".repeat(4000)
          }))
        yield* store.commit(importId, commitOf([], { odd: odd(0, 60) }))
        yield* store.commit(importId, commitOf([], { odd: odd(60, 130) }))
        const { job } = yield* store.commit(importId, commitOf([], { odd: odd(130, 131) }))
        assert.deepInclude(job, { skipped: 131, checked: 131, imported: 0, message: "Imported 0 games..." })
        const kept = yield* store.skipped(importId)
        assert.deepStrictEqual(
          kept.map(({ reason }) => reason),
          Array.from({ length: 100 }, (_, index) => `${index}`)
        )
        assert.isTrue(kept.every(({ raw }) => raw === "\u{1F40E}".repeat(2048)))
      }).pipe(Effect.provide(Live))
    )

    it.effect("leaves nothing behind when any of its writes fails", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const sql = yield* SqlClient.SqlClient
        const { importId } = yield* create()
        yield* store.commit(importId, commitOf([makeGame(9, { pgn: null })]))
        const before = yield* written
        const commit = commitOf(makeGames(1, 9), { odd: [{ reason: "odd", raw: "" }], checkpoint: checkpoint(0) })
        for (const event of [
          "INSERT ON game WHEN NEW.id = 'game0003'",
          "UPDATE ON game",
          "INSERT ON user_game WHEN NEW.game_id = 'game0001'",
          "UPDATE ON imported_user WHEN NEW.games > OLD.games",
          "INSERT ON skipped_game",
          "UPDATE ON imported_user WHEN NEW.checkpoint <> OLD.checkpoint",
          "UPDATE ON import_job"
        ]) {
          yield* sql.unsafe(`CREATE TRIGGER fault BEFORE ${event} BEGIN SELECT RAISE(ABORT, 'full'); END`)
          const error = yield* Effect.flip(store.commit(importId, commit))
          assert.include(error.message, "full", event)
          yield* sql`DROP TRIGGER fault`
          assert.deepStrictEqual(yield* written, before, event)
        }
        assert.strictEqual((yield* store.commit(importId, commit)).inserted, 8)
      }).pipe(Effect.provide(Live))
    )

    it.effect("leaves all or nothing when interrupted at any operation", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const sql = yield* SqlClient.SqlClient
        const { importId } = yield* create()
        const before = yield* written
        const commit = commitOf([...makeGames(1, 3), makeGame(2)], { odd: [{ reason: "odd", raw: "" }], maxNew: 3 })
        const seen = new Set<unknown>()
        const operations = yield* interruptEverywhere(
          store.commit(importId, commit),
          Effect.gen(function* () {
            const now = yield* written
            seen.add(now.games)
            if (now.games !== 0) {
              assert.deepInclude(now, { games: 3, links: 3, skipped: 1, jobs: [[3, 5, 1, "Imported 3 games..."]] })
              assert.strictEqual(now.users[0]?.[1], 3)
              for (const table of ["game", "user_game", "imported_user", "skipped_game"]) {
                yield* sql`DELETE FROM ${sql(table)}`
              }
              yield* sql`UPDATE import_job SET imported = 0, checked = 0, skipped = 0, message = 'Import queued'`
            }
            assert.deepStrictEqual(yield* written, before)
          })
        )
        assert.isAbove(operations, 50)
        assert.deepStrictEqual(seen, new Set([0, 3]))
      }).pipe(Effect.provide(Live))
    )

    it.effect("neither loses nor doubles a game, whatever is committed again, cut or interrupted", () =>
      Effect.gen(function* () {
        for (let seed = 0; seed < 25; seed++) {
          yield* randomImports.pipe(Random.withSeed(`imports ${seed}`), Effect.provide(Layer.fresh(Live)))
        }
      })
    )

    it.effect("is there after the database was closed and opened again", () =>
      Effect.gen(function* () {
        const path = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "import-store-"))),
          (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
        )
        const open = () => Layer.fresh(Layer.provideMerge(stores, SqliteClient.layer({ file: join(path, "chess.db") })))
        const first = yield* Effect.gen(function* () {
          const store = yield* ImportStore
          const { importId } = yield* create()
          return (yield* store.commit(importId, commitOf(makeGames(1, 3)))).job
        }).pipe(Effect.provide(open()))
        yield* Effect.gen(function* () {
          const store = yield* ImportStore
          assert.deepStrictEqual(yield* store.unfinished, [first])
          assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), checkpoint(1))
          assert.strictEqual((yield* store.commit(first.importId, commitOf(makeGames(1, 4)))).inserted, 1)
        }).pipe(Effect.provide(open()))
      })
    )
  })

  describe("checkpoint", () => {
    it.effect("begins with nothing fetched, and is kept by user and site", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const months: ChessComCheckpoint = {
          _tag: "ChessCom",
          months: { "2024-10": { etag: 'W/"a\'b"', done: true }, "2024-11": { etag: null, done: false } }
        }
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), nothingFetched.lichess)
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "chess.com"), nothingFetched["chess.com"])
        const { importId } = yield* create({ platform: "chess.com" })
        yield* store.commit(importId, commitOf([], { platform: "chess.com", checkpoint: months }))
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "chess.com"), months)
        assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), nothingFetched.lichess)
        assert.deepStrictEqual(yield* store.checkpoint("pawn-storm", "chess.com"), nothingFetched["chess.com"])
      }).pipe(Effect.provide(Live))
    )

    it.effect("counts as nothing fetched when it cannot be read", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const sql = yield* SqlClient.SqlClient
        const { importId } = yield* create()
        yield* store.commit(importId, commitOf(makeGames(1, 2)))
        const { _tag, ...untagged } = checkpoint(1)
        for (const stored of [
          "",
          "{",
          "null",
          JSON.stringify({ version: 2, checkpoint: { _tag, ...untagged } }),
          JSON.stringify({ version: 1, checkpoint: untagged }),
          JSON.stringify({ version: 1, checkpoint: nothingFetched["chess.com"] })
        ]) {
          yield* sql`UPDATE imported_user SET checkpoint = ${stored}`
          assert.deepStrictEqual(yield* store.checkpoint("rook-lifter", "lichess"), nothingFetched.lichess, stored)
        }
      }).pipe(Effect.provide(Live))
    )
  })

  describe("speed", () => {
    it.effect("is measured over the last 20 complete imports", () =>
      Effect.gen(function* () {
        const store = yield* ImportStore
        const sql = yield* SqlClient.SqlClient
        const run = Effect.fnUntraced(function* (status: ImportStatus, games: number, millis: number) {
          const { importId } = yield* create()
          yield* sql`UPDATE import_job SET imported = ${games} WHERE id = ${importId}`
          yield* store.setStatus(importId, { status, message: "", startedAt: 1000, finishedAt: 1000 + millis })
        })
        assert.deepStrictEqual(yield* store.speed, { gamesPerSecond: null, averageDurationMillis: null })
        yield* run("failed", 1_000_000, 1)
        assert.deepStrictEqual(yield* store.speed, { gamesPerSecond: null, averageDurationMillis: null })
        yield* run("complete", 0, 400)
        assert.deepStrictEqual(yield* store.speed, { gamesPerSecond: null, averageDurationMillis: 400 })
        yield* run("complete", 30, 600)
        assert.deepStrictEqual(yield* store.speed, { gamesPerSecond: 30, averageDurationMillis: 500 })
        for (let n = 0; n < 20; n++) yield* run("complete", 40, 2000)
        assert.deepStrictEqual(yield* store.speed, { gamesPerSecond: 20, averageDurationMillis: 2000 })
      }).pipe(Effect.provide(Live))
    )
  })
})

// Commits random batches, some again, some cut, some interrupted on the way, for two users who share games, and
// compares what is stored with what was committed.
const randomImports = Effect.gen(function* () {
  const store = yield* ImportStore
  const games = yield* GameStore.GameStore
  const sql = yield* SqlClient.SqlClient
  const model = new Map<string, Set<string>>()
  for (const user of ["rook-lifter", "pawn-storm"]) {
    model.set(user, new Set())
    yield* create({ user })
  }

  for (let step = 0; step < 30; step++) {
    const user = (yield* Random.nextBoolean) ? "rook-lifter" : "pawn-storm"
    const has = model.get(user)!
    const [job] = (yield* store.unfinished).filter((unfinished) => unfinished.user === user)
    const from = yield* Random.nextIntBetween(0, 30)
    const batch = makeGames(from, from + (yield* Random.nextIntBetween(0, 12)))
    const maxNew = yield* Random.nextIntBetween(0, 15)
    const commit = store.commit(job!.importId, commitOf(batch, { user, maxNew, checkpoint: checkpoint(step) }))

    if (yield* Random.nextBoolean) {
      const stop = yield* Random.nextIntBetween(0, 400)
      yield* interruptAt(stop, commit)
    } else {
      yield* commit
    }

    const after = Option.getOrThrow(yield* store.get(job!.importId))
    const fresh = batch.filter((game) => !has.has(game.id)).slice(0, Math.max(0, maxNew))
    if (after.checked !== job!.checked) for (const game of fresh) has.add(game.id)
    assert.strictEqual(after.imported, has.size)
    const listed = yield* games.page({ user, platform: "lichess", limit: 1000 })
    assert.deepStrictEqual(
      listed.games.map((game) => game.id),
      [...has].toSorted().toReversed()
    )
    assert.strictEqual(listed.total, has.size)
  }

  const all = new Set([...model.values()].flatMap((some) => [...some]))
  assert.deepStrictEqual(yield* sql`SELECT count(*) FROM game`.values, [[all.size]])
})

// Interrupts an effect while it is suspended before its n-th operation, unless it ends before.
const interruptAt = Effect.fnUntraced(function* <A, E, R>(n: number, effect: Effect.Effect<A, E, R>) {
  const base = new Scheduler.MixedScheduler()
  let operations = 0
  const scheduler: Scheduler.Scheduler = {
    executionMode: base.executionMode,
    makeDispatcher: () => base.makeDispatcher(),
    shouldYield: (fiber) => {
      if (++operations !== n) return base.shouldYield(fiber)
      queueMicrotask(() => fiber.interruptUnsafe())
      return true
    }
  }
  const fiber = yield* effect.pipe(Effect.provideService(Scheduler.Scheduler, scheduler), Effect.forkChild)
  yield* Fiber.await(fiber)
})
