import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { TestClock } from "effect/testing"
import { ImportStore } from "../../src/chess/ImportStore.ts"
import type * as Faults from "../../src/chess/simulator/Faults.ts"
import { historyEnds } from "../../src/chess/simulator/Simulator.ts"
import type * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as World from "../support/importWorld.ts"

const user = "maria"

const player = (lichess: Simulator.AccountOptions): Simulator.Options => ({ users: [{ name: "Maria", lichess }] })

/** The ids Lichess would give out, newest first. */
const upstreamIds = Effect.gen(function* () {
  const sites = yield* World.Sites
  const games = yield* sites.games(user, "lichess")
  return games.map((game) => game.id).reverse()
})

const sorted = (ids: ReadonlyArray<string>) => [...ids].sort()

const checkSameGames = Effect.gen(function* () {
  assert.deepStrictEqual(sorted(yield* World.storedIds(user, "lichess")), sorted(yield* upstreamIds))
})

const checkpoint = Effect.flatMap(ImportStore, (store) => store.checkpoint(user, "lichess"))

const requests = Effect.map(
  Effect.flatMap(World.Sites, (sites) => sites.requests),
  (_) => _.lichess
)

const inject = (fault: Faults.Fault<"user" | "users" | "games" | "other">) =>
  Effect.flatMap(World.Sites, (sites) => sites.lichess.inject(fault))

const importGames = Effect.fnUntraced(function* (limit = 100_000) {
  const done = yield* World.importGames(user, "lichess", { limit })
  assert.strictEqual(done.status, "complete", done.error ?? "")
  return done
})

describe("LichessImport", () => {
  describe("the first import", () => {
    it.effect("stores every game once and knows that there are no more", () =>
      Effect.gen(function* () {
        const done = yield* importGames()
        assert.deepInclude(done, { imported: 1234, message: "Import complete! 1234 new games imported", skipped: 0 })
        yield* checkSameGames
        assert.isTrue((yield* checkpoint).reachedStart)
        assert.strictEqual((yield* requests).byEndpoint.games, 3)
      }).pipe(Effect.provide(World.layerWorld(player({ games: 1234 }))))
    )

    it.effect("stores nothing of a user who never played", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* importGames()).imported, 0)
        assert.deepInclude(yield* checkpoint, { newest: null, oldest: null, reachedStart: true })
      }).pipe(Effect.provide(World.layerWorld(player({ games: 0 }))))
    )

    it.effect("stores exactly the newest games when the limit is lower, and asks for no more", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* importGames(700)).imported, 700)
        assert.deepStrictEqual(
          sorted(yield* World.storedIds(user, "lichess")),
          sorted((yield* upstreamIds).slice(0, 700))
        )
        assert.isFalse((yield* checkpoint).reachedStart)
        assert.strictEqual((yield* requests).byEndpoint.games, 1)
      }).pipe(Effect.provide(World.layerWorld(player({ games: 5000, oddities: 0 }))))
    )

    it.effect("fails at once for a user who does not exist", () =>
      Effect.gen(function* () {
        const done = yield* World.importGames("nobody", "lichess")
        assert.deepInclude(done, {
          status: "failed",
          message: "Import failed: User 'nobody' not found on Lichess",
          error: "User 'nobody' not found on Lichess"
        })
        assert.strictEqual((yield* requests).byEndpoint.games, 1)
      }).pipe(Effect.provide(World.layerWorld()))
    )

    it.effect("fails at once for a user who has closed the account, and says so", () =>
      Effect.gen(function* () {
        const done = yield* World.importGames(user, "lichess")
        assert.deepInclude(done, { status: "failed", error: "User 'maria' on Lichess has closed the account" })
        assert.strictEqual((yield* requests).byEndpoint.games, 1)
      }).pipe(Effect.provide(World.layerWorld(player({ games: 40, state: "closed" }))))
    )
  })

  describe("more", () => {
    it.effect("continues backwards, never over its limit, until nothing is left", () =>
      Effect.gen(function* () {
        const imported: Array<number> = []
        for (let i = 0; i < 6; i++) {
          imported.push((yield* importGames(300)).imported)
          yield* TestClock.adjust("10 minutes")
        }
        assert.deepStrictEqual(imported, [300, 300, 300, 300, 34, 0])
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ games: 1234 }))))
    )

    it.effect("reads new games first, oldest first, and the older ones with what is left of the limit", () =>
      Effect.gen(function* () {
        yield* importGames(100)
        const before = yield* upstreamIds
        yield* TestClock.adjust("3 days")
        const after = yield* upstreamIds
        const fresh = after.length - before.length
        assert.isAbove(fresh, 60)

        assert.strictEqual((yield* importGames(50)).imported, 50)
        const oldestNew = after.slice(fresh - 50, fresh)
        assert.deepStrictEqual(
          sorted(yield* World.storedIds(user, "lichess")),
          sorted([...oldestNew, ...before.slice(0, 100)])
        )
        assert.strictEqual((yield* importGames(100)).imported, 100)
        assert.deepStrictEqual(sorted(yield* World.storedIds(user, "lichess")), sorted(after.slice(0, 250)))
      }).pipe(Effect.provide(World.layerWorld(player({ games: 1000, playsEvery: "1 hour", oddities: 0 }))))
    )

    it.effect("continues behind the oldest game, however many were played on that day", () =>
      Effect.gen(function* () {
        const upstream = yield* upstreamIds
        yield* importGames(100)
        yield* importGames(100)
        assert.deepStrictEqual(sorted(yield* World.storedIds(user, "lichess")), sorted(upstream.slice(0, 200)))
      }).pipe(Effect.provide(World.layerWorld(player({ games: 1000, from: historyEnds - 86_400_000, oddities: 0 }))))
    )

    it.effect("asks little again when there is nothing new", () =>
      Effect.gen(function* () {
        yield* importGames()
        yield* TestClock.adjust("1 day")
        const before = (yield* requests).byEndpoint.games
        const again = yield* importGames()
        assert.strictEqual(again.imported, 0)
        assert.isBelow(again.checked, 100)
        assert.strictEqual((yield* requests).byEndpoint.games - before, 1)
      }).pipe(Effect.provide(World.layerWorld(player({ games: 3000 }))))
    )

    it.effect("finds a correspondence game that ended long after newer games were imported", () =>
      Effect.gen(function* () {
        const sites = yield* World.Sites
        // Import again and again while such games are being played.
        for (let day = 0; day < 12; day++) {
          yield* importGames()
          yield* TestClock.adjust("1 day")
        }
        yield* TestClock.adjust("10 days")
        yield* importGames()
        yield* checkSameGames
        const late = (yield* sites.games(user, "lichess")).filter(
          (game) => game.endedAt - game.playedAt > Duration.toMillis("2 days")
        )
        assert.isAbove(late.length, 2)
        assert.isTrue((yield* checkpoint).correspondence)
      }).pipe(Effect.provide(World.layerWorld(player({ games: 300, playsEvery: "3 hours", oddities: 0.3 }))))
    )
  })

  describe("a stream that ends early", () => {
    it.effect.each([
      { name: "in the middle of a game", kind: "cut-in-game" },
      { name: "between two games", kind: "cut-between-games" },
      { name: "as if it were complete", kind: "end-early" }
    ] as const)("loses no game when cut $name, at any place", ({ kind }) =>
      Effect.gen(function* () {
        yield* inject({ kind, rate: 0.5 })
        yield* inject({ kind, after: 150, times: 5 })
        const done = yield* importGames()
        assert.strictEqual(done.imported, 3000)
        yield* checkSameGames
        assert.isAbove((yield* requests).byEndpoint.games, 6)
      }).pipe(Effect.provide(World.layerWorld(player({ games: 3000 }))))
    )

    it.effect("is not taken for the beginning when it ends right behind the stored games", () =>
      Effect.gen(function* () {
        yield* inject({ kind: "end-early", after: 500, times: 1 })
        yield* inject({ kind: "end-early", after: 3, times: 2 })
        assert.strictEqual((yield* importGames()).imported, 1000)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ games: 1000, oddities: 0 }))))
    )

    it.effect("loses no new game either", () =>
      Effect.gen(function* () {
        yield* importGames(100)
        yield* TestClock.adjust("20 days")
        yield* inject({ kind: "end-early", rate: 0.5 })
        yield* inject({ kind: "cut-in-game", rate: 0.5 })
        yield* importGames()
        yield* TestClock.adjust("10 minutes")
        yield* importGames()
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ games: 1000, playsEvery: "1 hour", oddities: 0 }))))
    )
  })

  describe("oddities", () => {
    it.effect("survives games out of order, doubled games and lines that are no games", () =>
      Effect.gen(function* () {
        yield* inject({ kind: "unordered-games", every: 7 })
        yield* inject({ kind: "duplicate-games", every: 5 })
        yield* inject({ kind: "odd-games", every: 100 })
        yield* inject({ kind: "cut-between-games", rate: 0.5 })
        const done = yield* importGames()
        assert.strictEqual(done.imported, 3000)
        assert.isAtLeast(done.skipped, 30)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ games: 3000 }))))
    )

    it.effect("loses no game that comes behind the next one, wherever the stream is cut", () =>
      Effect.gen(function* () {
        yield* inject({ kind: "unordered-games", every: 2 })
        yield* inject({ kind: "cut-between-games", after: 100, times: 10 })
        yield* inject({ kind: "cut-between-games", after: 77, times: 10 })
        assert.strictEqual((yield* importGames()).imported, 2000)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ games: 2000, oddities: 0 }))))
    )

    it.effect("gets past any number of games created in the same millisecond, whatever the limit cuts off", () =>
      Effect.gen(function* () {
        for (let total = 7; total < 100; total += 7) {
          assert.strictEqual((yield* importGames(7)).imported, 7)
          assert.strictEqual((yield* World.storedIds(user, "lichess")).length, total)
        }
        assert.strictEqual((yield* importGames(7)).imported, 2)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ games: 100, from: historyEnds - 3, oddities: 0 }))))
    )
  })
})
