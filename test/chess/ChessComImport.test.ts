import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { ImportStore } from "../../src/chess/ImportStore.ts"
import type * as Faults from "../../src/chess/simulator/Faults.ts"
import type * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as World from "../support/importWorld.ts"

const user = "nadia"

const player = (chessCom: Simulator.AccountOptions): Simulator.Options => ({ users: [{ name: "Nadia", chessCom }] })

/** The ids Chess.com would give out, newest first. */
const upstreamIds = Effect.gen(function* () {
  const sites = yield* World.Sites
  const games = yield* sites.games(user, "chess.com")
  return games.map((game) => game.id).reverse()
})

const sorted = (ids: ReadonlyArray<string>) => [...ids].sort()

const checkSameGames = Effect.gen(function* () {
  assert.deepStrictEqual(sorted(yield* World.storedIds(user, "chess.com")), sorted(yield* upstreamIds))
})

const months = Effect.map(
  Effect.flatMap(ImportStore, (store) => store.checkpoint(user, "chess.com")),
  (_) => _.months
)

const requests = Effect.map(
  Effect.flatMap(World.Sites, (sites) => sites.requests),
  (_) => _.chessCom
)

const inject = (fault: Faults.Fault<"player" | "archives" | "month" | "other">) =>
  Effect.flatMap(World.Sites, (sites) => sites.chessCom.inject(fault))

const importGames = Effect.fnUntraced(function* (limit = 100_000) {
  const done = yield* World.importGames(user, "chess.com", { limit })
  assert.strictEqual(done.status, "complete", done.error ?? "")
  return done
})

// The history of the stand-ins ends on 15 September 2026, at noon.
const threeYears = { from: Date.UTC(2023, 8, 20) }

describe("ChessComImport", () => {
  describe("the first import", () => {
    it.effect("stores every game once, and calls all months done but the last", () =>
      Effect.gen(function* () {
        const done = yield* importGames()
        assert.deepInclude(done, { imported: 2000, message: "Import complete! 2000 new games imported" })
        yield* checkSameGames
        const positions = Object.entries(yield* months)
        assert.deepStrictEqual(
          positions.filter(([, position]) => !position.done).map(([month]) => month),
          ["2026-09"]
        )
        assert.strictEqual((yield* requests).byEndpoint.month, positions.length)
        assert.strictEqual((yield* requests).others.max, 1)
      }).pipe(Effect.provide(World.layerWorld(player({ ...threeYears, games: 2000 }))))
    )

    it.effect("stores nothing of a user who never played", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* importGames()).imported, 0)
        assert.deepStrictEqual(yield* months, {})
      }).pipe(Effect.provide(World.layerWorld(player({ games: 0 }))))
    )

    it.effect("stores a month larger than a transaction", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* importGames()).imported, 1700)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ from: Date.UTC(2026, 8, 1), games: 1700 }))))
    )

    it.effect("fails at once for a user who does not exist", () =>
      Effect.gen(function* () {
        const done = yield* World.importGames("nobody", "chess.com")
        assert.deepInclude(done, { status: "failed", error: "User 'nobody' not found on Chess.com" })
        assert.strictEqual((yield* requests).total, 1)
      }).pipe(Effect.provide(World.layerWorld()))
    )
  })

  describe("more", () => {
    it.effect("stores exactly the newest games each time, never over the limit, until nothing is left", () =>
      Effect.gen(function* () {
        const upstream = yield* upstreamIds
        const imported: Array<number> = []
        for (let i = 1; i <= 5; i++) {
          imported.push((yield* importGames(333)).imported)
          assert.deepStrictEqual(
            sorted(yield* World.storedIds(user, "chess.com")),
            sorted(upstream.slice(0, Math.min(i * 333, 1200)))
          )
          yield* TestClock.adjust("10 minutes")
        }
        assert.deepStrictEqual(imported, [333, 333, 333, 201, 0])
      }).pipe(Effect.provide(World.layerWorld(player({ from: Date.UTC(2026, 5, 1), games: 1200, oddities: 0 }))))
    )

    it.effect("asks for months that are done never again, and for the current one by its tag", () =>
      Effect.gen(function* () {
        yield* importGames()
        yield* TestClock.adjust("10 minutes")
        const before = yield* requests
        const again = yield* importGames()
        assert.deepInclude(again, { imported: 0, checked: 0 })
        const after = yield* requests
        assert.strictEqual(after.byEndpoint.month - before.byEndpoint.month, 1)
        assert.strictEqual(after.byStatus["304"], 1)
      }).pipe(Effect.provide(World.layerWorld(player({ ...threeYears, games: 500 }))))
    )

    it.effect("finds the games of the days between, across the end of a month, and of games that ended late", () =>
      Effect.gen(function* () {
        yield* importGames()
        for (const wait of ["14 days", "2 days", "3 days", "32 days"] as const) {
          yield* TestClock.adjust(wait)
          assert.isAbove((yield* importGames()).imported, 0)
          yield* checkSameGames
        }
        const open = Object.entries(yield* months).filter(([, position]) => !position.done)
        assert.deepStrictEqual(
          open.map(([month]) => month),
          ["2026-11"]
        )
      }).pipe(Effect.provide(World.layerWorld(player({ ...threeYears, games: 300, playsEvery: "5 hours" }))))
    )

    it.effect("asks for the month before again in the first days of a month", () =>
      Effect.gen(function* () {
        yield* TestClock.setTime(Date.UTC(2026, 9, 2))
        yield* importGames()
        assert.isFalse((yield* months)["2026-09"]?.done)
        yield* TestClock.setTime(Date.UTC(2026, 9, 4))
        yield* importGames()
        assert.isTrue((yield* months)["2026-09"]?.done)
        assert.strictEqual((yield* requests).byStatus["304"], 1)
      }).pipe(Effect.provide(World.layerWorld(player({ ...threeYears, games: 300 }))))
    )
  })

  describe("trouble", () => {
    it.effect("loses nothing when months do not come, come in pieces or come as something else", () =>
      Effect.gen(function* () {
        yield* inject({ kind: "unavailable", rate: 0.1 })
        yield* inject({ kind: "reset", rate: 0.1 })
        yield* inject({ kind: "truncated-gzip", rate: 0.1 })
        yield* inject({ kind: "cut-in-game", rate: 0.1 })
        yield* inject({ kind: "code-zero", rate: 0.1 })
        yield* inject({ kind: "html", rate: 0.1 })
        assert.strictEqual((yield* importGames()).imported, 2000)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ ...threeYears, games: 2000 }))))
    )

    it.effect("counts what is no game once per import, and stores the rest", () =>
      Effect.gen(function* () {
        yield* inject({ kind: "odd-games", every: 50, endpoints: ["month"] })
        yield* inject({ kind: "duplicate-games", every: 20, endpoints: ["month"] })
        const done = yield* importGames()
        assert.strictEqual(done.imported, 1700)
        assert.isAtLeast(done.skipped, 30)
        assert.isAtMost(done.skipped, 36)
        yield* checkSameGames
      }).pipe(Effect.provide(World.layerWorld(player({ from: Date.UTC(2026, 7, 1), games: 1700 }))))
    )
  })
})
