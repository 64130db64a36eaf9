import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Option } from "effect"
import * as Base64Url from "effect/encoding/Base64Url"
import { SqlClient } from "effect/sql"
import type { Game } from "../../src/chess/domain/Game.ts"
import { GameStore, insertGames, layer, type Owner } from "../../src/chess/GameStore.ts"
import { migrate } from "../../src/chess/migrations/index.ts"
import { isSqliteClient, layerMemory } from "../../src/chess/SqliteClient.ts"
import { makeGame, makeGames } from "../support/games.ts"
import { queryPlans } from "../support/queryPlans.ts"

const Live = Layer.provideMerge(layer, layerMemory)

// The same database without the calls that only SQLite offers, as the store sees any other one.
const LivePortable = Layer.provideMerge(
  layer,
  Layer.effect(
    SqlClient.SqlClient,
    Effect.map(
      SqlClient.SqlClient,
      (sql) =>
        new Proxy(sql, { has: (target, key) => key !== "~effect-resilience/chess/SqliteClient" && key in target })
    )
  ).pipe(Layer.provide(layerMemory))
)

const rook: Owner = { user: "rook-lifter", platform: "lichess" }
const pawn: Owner = { user: "pawn-storm", platform: "lichess" }

const insert = Effect.fnUntraced(function* (owner: Owner, games: ReadonlyArray<Game>, maxNew = Infinity) {
  const sql = yield* SqlClient.SqlClient
  return yield* sql.withTransaction(insertGames(sql)(owner, games, maxNew))
})

const ids = (games: ReadonlyArray<{ readonly id: string }>) => games.map((game) => game.id)

/** Reads every page from the first to the last. */
const readAll = Effect.fnUntraced(function* (owner: Owner, limit: number) {
  const store = yield* GameStore
  const all: Array<string> = []
  let cursor: string | undefined
  do {
    const page = yield* store.page({ ...owner, limit, cursor })
    assert.isAtMost(page.games.length, limit)
    all.push(...ids(page.games))
    cursor = page.nextCursor ?? undefined
  } while (cursor !== undefined)
  return all
})

const links = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  return yield* sql`SELECT user_id, game_id FROM user_game ORDER BY user_id, game_id`.values
})

describe("GameStore", () => {
  describe.each([
    ["on SQLite", Live, true],
    ["on any database", LivePortable, false]
  ] as const)("insertGames %s", (_name, live, fast) => {
    it.effect("takes the way meant for the database", () =>
      Effect.gen(function* () {
        assert.strictEqual(isSqliteClient(yield* SqlClient.SqlClient), fast)
      }).pipe(Effect.provide(live))
    )

    it.effect("gives back every field as it came", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const full = makeGame(2, {
          white: { id: "a", name: "A", title: "GM", rating: 2700, ratingDiff: -3, aiLevel: null },
          black: { id: null, name: "Engine", title: null, rating: null, ratingDiff: null, aiLevel: 8 },
          variant: "chess960",
          initialFen: "nrbbqnkr/pppppppp/8/8/8/8/PPPPPPPP/NRBBQNKR w KQkq - 0 1",
          opening: "Sämisch 'variation' \u{1F40E}"
        })
        const nobody = { id: null, name: null, title: null, rating: null, ratingDiff: null, aiLevel: null }
        const bare = makeGame(1, {
          rated: false,
          speed: "correspondence",
          baseSeconds: null,
          incrementSeconds: null,
          daysPerTurn: 3,
          endedAt: null,
          white: nobody,
          black: nobody,
          result: "*",
          eco: null,
          opening: null,
          plies: null,
          pgn: null
        })
        assert.deepStrictEqual(yield* insert(rook, [full, bare]), { inserted: 2, consumed: 2 })
        const page = yield* store.page({ ...rook, limit: 10 })
        const { pgn: pgn2, ...full2 } = full
        const { pgn: pgn1, ...bare1 } = bare
        assert.deepStrictEqual(page, { total: 2, games: [full2, bare1], nextCursor: null })
        assert.deepStrictEqual(yield* store.pgn("lichess", full.id), Option.fromNullishOr(pgn2))
        assert.deepStrictEqual(yield* store.pgn("lichess", bare.id), Option.fromNullishOr(pgn1))
        assert.deepStrictEqual(yield* store.pgn("chess.com", full.id), Option.none())
      }).pipe(Effect.provide(live))
    )

    it.effect("stores a game once and links it to everyone it was imported for", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const sql = yield* SqlClient.SqlClient
        assert.deepStrictEqual(yield* insert(rook, makeGames(1, 3)), { inserted: 3, consumed: 3 })
        assert.deepStrictEqual(yield* insert(pawn, makeGames(2, 4)), { inserted: 3, consumed: 3 })
        assert.deepStrictEqual(yield* insert(pawn, makeGames(1, 4)), { inserted: 1, consumed: 4 })
        assert.deepStrictEqual(yield* sql`SELECT count(*) FROM game`.values, [[4]])
        assert.strictEqual((yield* links).length, 7)
        assert.strictEqual((yield* store.span(rook)).total, 3)
        assert.strictEqual((yield* store.span(pawn)).total, 4)
      }).pipe(Effect.provide(live))
    )

    it.effect("counts a game that comes twice, in one batch or in two, once", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const games = [makeGame(1), makeGame(2), makeGame(1)]
        assert.deepStrictEqual(yield* insert(rook, games), { inserted: 2, consumed: 3 })
        assert.deepStrictEqual(yield* insert(rook, games), { inserted: 0, consumed: 3 })
        assert.deepStrictEqual(yield* links, [
          ["rook-lifter", "game0001"],
          ["rook-lifter", "game0002"]
        ])
        assert.strictEqual((yield* store.span(rook)).total, 2)
      }).pipe(Effect.provide(live))
    )

    it.effect("keeps a stored game as it is, and links it once even if its time comes differently", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const before = makeGame(1)
        yield* insert(rook, [before])
        const later = makeGame(1, { playedAt: 5, result: "0-1", pgn: "another" })
        assert.deepStrictEqual(yield* insert(rook, [later]), { inserted: 0, consumed: 1 })
        assert.deepStrictEqual(yield* insert(pawn, [later]), { inserted: 1, consumed: 1 })
        const [stored] = (yield* store.page({ ...pawn, limit: 1 })).games
        assert.strictEqual(stored?.playedAt, before.playedAt)
        assert.strictEqual(stored?.result, "1-0")
        assert.deepStrictEqual(yield* store.pgn("lichess", before.id), Option.some(before.pgn!))
        assert.deepStrictEqual(yield* store.known({ ...rook, ids: [before.id] }), new Set([before.id]))
      }).pipe(Effect.provide(live))
    )

    it.effect("takes a missing PGN from a later import", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        yield* insert(rook, [makeGame(1, { pgn: null })])
        yield* insert(rook, [makeGame(1, { pgn: null })])
        assert.deepStrictEqual(yield* store.pgn("lichess", "game0001"), Option.none())
        yield* insert(pawn, [makeGame(1, { pgn: "late" }), makeGame(1, { pgn: "later" })])
        yield* insert(pawn, [makeGame(1, { pgn: "later" })])
        assert.deepStrictEqual(yield* store.pgn("lichess", "game0001"), Option.some("late"))
      }).pipe(Effect.provide(live))
    )

    it.effect("stores at most maxNew new games, in the given order, and says how far it came", () =>
      Effect.gen(function* () {
        const games = makeGames(1, 10)
        yield* insert(rook, [makeGame(9), makeGame(8), makeGame(4)])
        // 10 is new; 9 and 8 are stored; 7 is new; 6 is one too many.
        assert.deepStrictEqual(yield* insert(rook, games, 2), { inserted: 2, consumed: 4 })
        assert.deepStrictEqual(yield* insert(rook, games, 0), { inserted: 0, consumed: 4 })
        assert.deepStrictEqual(yield* insert(rook, games, -1), { inserted: 0, consumed: 4 })
        assert.deepStrictEqual(yield* insert(rook, [makeGame(6), makeGame(6), makeGame(5)], 1), {
          inserted: 1,
          consumed: 2
        })
        assert.deepStrictEqual(yield* insert(rook, games, 4), { inserted: 4, consumed: 10 })
        assert.deepStrictEqual(yield* insert(rook, games, 0), { inserted: 0, consumed: 10 })
        assert.deepStrictEqual(yield* readAll(rook, 100), ids(games))
      }).pipe(Effect.provide(live))
    )

    it.effect("does nothing with nothing", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* insert(rook, [], 0), { inserted: 0, consumed: 0 })
        assert.deepStrictEqual(yield* insert(rook, [], 5), { inserted: 0, consumed: 0 })
      }).pipe(Effect.provide(live))
    )

    it.effect("takes more games at once than one statement has parameters for", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const games = makeGames(1, 1201)
        assert.deepStrictEqual(yield* insert(rook, games), { inserted: 1201, consumed: 1201 })
        assert.deepStrictEqual(yield* insert(pawn, games, 1200), { inserted: 1200, consumed: 1200 })
        assert.strictEqual((yield* store.known({ ...rook, ids: ids(games) })).size, 1201)
        assert.strictEqual((yield* store.known({ ...pawn, ids: ids(games) })).size, 1200)
      }).pipe(Effect.provide(live))
    )
  })

  describe("page", () => {
    it.effect("lists every game once, newest first, whatever the size of a page", () =>
      Effect.gen(function* () {
        // Three games at each time, so that pages end between games of the same time.
        const games = makeGames(1, 20).map((game, index) => ({
          ...game,
          playedAt: Math.floor(index / 3) * 1000 - 3000
        }))
        yield* insert(rook, games)
        yield* insert({ ...rook, user: "someone-else" }, makeGames(30, 35))
        yield* insert({ ...rook, platform: "chess.com" }, makeGames(40, 45))
        const sorted = games.toSorted((a, b) => b.playedAt - a.playedAt || (a.id < b.id ? 1 : -1))
        for (const limit of [1, 2, 3, 7, 19, 20, 21, 1000]) {
          assert.deepStrictEqual(yield* readAll(rook, limit), ids(sorted))
        }
      }).pipe(Effect.provide(Live))
    )

    it.effect("goes on behind the last game of a page when new games have come meanwhile", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        yield* insert(rook, makeGames(1, 4))
        const first = yield* store.page({ ...rook, limit: 2 })
        yield* insert(rook, makeGames(5, 6))
        const second = yield* store.page({ ...rook, limit: 2, cursor: first.nextCursor! })
        assert.deepStrictEqual(ids(second.games), ["game0002", "game0001"])
        assert.strictEqual(second.nextCursor, null)
        assert.strictEqual(second.total, 6)
      }).pipe(Effect.provide(Live))
    )

    it.effect("is empty for a user of whom nothing is stored", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        assert.deepStrictEqual(yield* store.page({ ...rook, limit: 5 }), { total: 0, games: [], nextCursor: null })
      }).pipe(Effect.provide(Live))
    )

    it.effect("refuses a cursor that it did not give out", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        yield* insert(rook, makeGames(1, 3))
        const forged = ["1:", ":a", "a:b", "1", "1.5:a", "99999999999999999:a", "9999999999999999:a"].map((text) =>
          Base64Url.encode(text)
        )
        for (const cursor of ["", "!", "=", "\u0000", "MTIz\n", "x".repeat(100_000), ...forged]) {
          const error = yield* Effect.flip(store.page({ ...rook, limit: 5, cursor }))
          assert.strictEqual(error._tag, "InvalidCursor", cursor)
        }
      }).pipe(Effect.provide(Live))
    )

    it.effect("dies on a limit that makes no sense", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        for (const limit of [0, -1, 1.5, 1001, Number.NaN]) {
          const exit = yield* Effect.exit(store.page({ ...rook, limit }))
          assert.include(
            Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "",
            "limit must be an integer from 1 to 1000"
          )
        }
      }).pipe(Effect.provide(Live))
    )
  })

  describe("query plans", () => {
    it.effect("reads a page as a range of one index, without scan or sort", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        yield* insert(rook, makeGames(1, 3))
        const first = yield* store.page({ ...rook, limit: 1 })
        assert.deepStrictEqual(yield* queryPlans(store.page({ ...rook, limit: 1, cursor: first.nextCursor! })), [
          "SEARCH l USING PRIMARY KEY (platform=? AND user_id=? AND (played_at,game_id)<(?,?))",
          "SEARCH g USING INDEX sqlite_autoindex_game_1 (platform=? AND id=?)",
          "SEARCH imported_user USING PRIMARY KEY (platform=? AND user_id=?)"
        ])
        const [firstStep] = yield* queryPlans(store.page({ ...rook, limit: 1 }))
        assert.strictEqual(firstStep, "SEARCH l USING PRIMARY KEY (platform=? AND user_id=?)")
      }).pipe(Effect.provide(Live))
    )

    it.effect("looks up known games one by one, not all games of the user", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        assert.deepStrictEqual(yield* queryPlans(store.known({ ...rook, ids: ["a", "b"] })), [
          "SEARCH g USING INDEX sqlite_autoindex_game_1 (platform=? AND id=?)",
          "SEARCH l USING PRIMARY KEY (platform=? AND user_id=? AND played_at=? AND game_id=?)"
        ])
      }).pipe(Effect.provide(Live))
    )

    it.effect("keeps these plans when SQLite has counted the tables", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const sql = yield* SqlClient.SqlClient
        const plans = queryPlans(
          Effect.andThen(store.page({ ...rook, limit: 1 }), store.known({ ...rook, ids: ["a", "b"] }))
        )
        const before = yield* plans
        yield* insert(rook, makeGames(1, 600))
        yield* insert(pawn, makeGames(601, 602))
        yield* sql`ANALYZE`
        assert.deepStrictEqual(yield* plans, before)
      }).pipe(Effect.provide(Live))
    )

    it.effect("scans and sorts nowhere else either", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        const steps = yield* queryPlans(
          Effect.andThen(
            Effect.andThen(store.span(rook), store.known({ ...rook, ids: ["a", "b"] })),
            Effect.andThen(store.pgn("lichess", "a"), insert(rook, [...makeGames(1, 2), makeGame(2)], 3))
          )
        )
        for (const step of steps) assert.notMatch(step, /^SCAN (?!CONSTANT)|TEMP B-TREE/)
      }).pipe(Effect.provide(Live))
    )
  })

  describe("known", () => {
    it.effect("finds those of the ids that the user has", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        yield* insert(rook, makeGames(1, 2))
        yield* insert(pawn, makeGames(2, 3))
        const asked = { ids: ["game0001", "game0002", "game0003", "GAME0001", "absent"] }
        assert.deepStrictEqual(yield* store.known({ ...rook, ...asked }), new Set(["game0001", "game0002"]))
        assert.deepStrictEqual(yield* store.known({ ...rook, ids: [] }), new Set())
        assert.deepStrictEqual(yield* store.known({ ...rook, platform: "chess.com", ...asked }), new Set())
      }).pipe(Effect.provide(Live))
    )
  })

  describe("span", () => {
    it.effect("says how many games there are, and from when to when", () =>
      Effect.gen(function* () {
        const store = yield* GameStore
        assert.deepStrictEqual(yield* store.span(rook), { total: 0, newest: null, oldest: null })
        yield* insert(rook, [makeGame(5), makeGame(2), makeGame(7)])
        assert.deepStrictEqual(yield* store.span(rook), {
          total: 3,
          newest: makeGame(7).playedAt,
          oldest: makeGame(2).playedAt
        })
      }).pipe(Effect.provide(Live))
    )
  })

  describe("migrations", () => {
    it.effect("run once", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* migrate, [[1, "games_and_imports"]])
        assert.deepStrictEqual(yield* migrate, [])
      }).pipe(Effect.provide(layerMemory))
    )
  })
})
