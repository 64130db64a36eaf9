import { Chess } from "chess.js"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as ChessComGames from "../../../src/chess/simulator/ChessComGames.ts"
import * as LichessGames from "../../../src/chess/simulator/LichessGames.ts"
import * as Simulator from "../../../src/chess/simulator/Simulator.ts"
import * as World from "../../../src/chess/simulator/World.ts"
import type { Platform } from "../../../src/chess/domain/Platform.ts"

const all: LichessGames.Fields = {
  moves: true,
  tags: true,
  clocks: true,
  opening: true,
  pgnInJson: true,
  lastFen: true,
  division: true
}

const world = (oddities: number, seed = 1) =>
  World.make({ seed, users: [], unlisted: "generated", oddities, startedAt: World.historyEnds })

const indices = (count: number) => Array.from({ length: count }, (_, index) => index)

const accountOf = (of: World.World, platform: Platform, name: string) => {
  const account = of.account(platform, name)
  assert.isDefined(account)
  return account!
}

describe("LichessGames", () => {
  it("writes the same bytes as text", () => {
    const of = world(0.3)
    const games = LichessGames.make(of)
    const account = accountOf(of, "lichess", "Nadia-1000")
    const target = Buffer.alloc(LichessGames.maxGameBytes)
    for (const writer of [games.json(account, all), games.pgn(account, all)]) {
      for (const index of indices(1000)) {
        const end = writer.into(index, target, 0)
        assert.strictEqual(target.toString("utf8", 0, end), writer.text(index))
      }
    }
  })

  it("puts the keys in the order of the site", () => {
    const order =
      "id rated variant speed perf createdAt lastMoveAt status source players initialFen winner opening moves clocks pgn daysPerTurn tournament clock lastFen division import".split(
        " "
      )
    const of = world(0.5)
    const games = LichessGames.make(of)
    const { text } = games.json(accountOf(of, "lichess", "Nadia-1000"), all)
    const seen = new Set<string>()
    for (const index of indices(1000)) {
      const keys = Object.keys(JSON.parse(text(index)) as object)
      for (const key of keys) seen.add(key)
      assert.deepStrictEqual(
        keys,
        order.filter((key) => keys.includes(key))
      )
    }
    assert.sameMembers([...seen], order)
  })

  it("is of the sizes that were recorded", () => {
    const of = world(0)
    const { text } = LichessGames.make(of).json(accountOf(of, "lichess", "Nadia-2000"), {
      ...all,
      clocks: false,
      opening: false,
      lastFen: false,
      division: false
    })
    const sizes = indices(2000)
      .map((index) => text(index).length)
      .toSorted((left, right) => left - right)
    assert.closeTo(sizes[1000]!, 1481, 200)
    assert.closeTo(sizes[1800]!, 1968, 250)
  })

  it("plays legal games that end as they say", () => {
    const of = world(0)
    const { text } = LichessGames.make(of).json(accountOf(of, "lichess", "Nadia-200"), all)
    for (const index of indices(60)) {
      const game = JSON.parse(text(index)) as { pgn: string; moves: string; status: string; lastFen: string }
      const chess = new Chess()
      chess.loadPgn(game.pgn)
      assert.deepStrictEqual(chess.history(), game.moves.split(" "))
      assert.strictEqual(chess.fen(), game.lastFen)
      assert.strictEqual(chess.isCheckmate(), game.status === "mate")
    }
  })

  it("gives every game of every player an id of its own", () => {
    const of = world(0.05)
    const games = LichessGames.make(of)
    const ids = new Set<string>()
    for (const player of indices(500)) {
      const account = accountOf(of, "lichess", `player${player}`)
      for (const index of indices(player === 0 ? 50_000 : 300)) ids.add(games.facts(account, index).id)
    }
    assert.strictEqual(ids.size, 50_000 + 499 * 300)
    assert.isTrue([...ids].slice(0, 1000).every((id) => /^[0-9A-Za-z]{8}$/.test(id)))
  })

  it("has every oddity", () => {
    const of = world(1)
    const { text } = LichessGames.make(of).json(accountOf(of, "lichess", "Nadia-2000"), all)
    const found = indices(2000).map((index) => text(index))
    for (const part of [
      '"aiLevel":',
      '"black":{}',
      '"white":{"name":"Varnell, Ostin (2785)"}',
      '"status":"noStart"',
      '"status":"aborted"',
      '"variant":"fromPosition"',
      '"daysPerTurn":',
      '"variant":"chess960"',
      '"variant":"threeCheck"',
      '"status":"variantEnd"',
      '"tournament":"',
      '"moves":""',
      '"provisional":true',
      "Sämisch"
    ]) {
      assert.isTrue(
        found.some((line) => line.includes(part)),
        part
      )
    }
    assert.isTrue(found.some((line) => line.includes('"status":"outoftime"') && !line.includes('"winner"')))
    assert.isTrue(found.some((line) => line.includes('"perf":"correspondence"') && !line.includes('"daysPerTurn"')))
  })
})

describe("ChessComGames", () => {
  it("puts the keys in the order of the site", () => {
    const order =
      "url pgn time_control end_time rated accuracies tcn uuid initial_setup fen start_time time_class rules white black eco tournament".split(
        " "
      )
    const of = world(0.5)
    const games = ChessComGames.make(of)
    const account = accountOf(of, "chess.com", "Nadia-1000")
    for (const index of indices(1000)) {
      const keys = Object.keys(JSON.parse(games.json(account, index)) as object)
      assert.deepStrictEqual(
        keys,
        order.filter((key) => keys.includes(key))
      )
    }
  })

  it("plays legal games, and lets live and daily ones share numbers", () => {
    const of = world(0.2)
    const games = ChessComGames.make(of)
    const account = accountOf(of, "chess.com", "Nadia-2000")
    const numbers = new Map<string, Set<string>>()
    for (const index of indices(2000)) {
      const game = JSON.parse(games.json(account, index)) as { url: string; rules: string; pgn?: string; fen: string }
      const [, kind = "", number = ""] = /game\/(live|daily)\/(\d+)$/.exec(game.url) ?? []
      if (number !== "") numbers.set(number, (numbers.get(number) ?? new Set()).add(kind))
      if (index < 60 && game.rules === "chess" && game.pgn !== undefined && game.pgn.includes("1. ")) {
        const chess = new Chess()
        chess.loadPgn(game.pgn)
        assert.strictEqual(chess.fen().split(" ")[0], game.fen.split(" ")[0])
      }
    }
    assert.isTrue([...numbers.values()].some((kinds) => kinds.size === 2))
  })

  it("writes moves in two characters a ply", () => {
    const of = world(0)
    const games = ChessComGames.make(of)
    const account = accountOf(of, "chess.com", "Nadia-200")
    for (const index of indices(40)) {
      const game = JSON.parse(games.json(account, index)) as { tcn: string; pgn: string }
      const chess = new Chess()
      chess.loadPgn(game.pgn)
      const moves = chess.history({ verbose: true })
      assert.lengthOf(game.tcn, moves.length * 2)
      moves.forEach(({ from, promotion, to }, ply) => {
        const start = tcnSquares.indexOf(game.tcn[2 * ply]!)
        const end = tcnSquares.indexOf(game.tcn[2 * ply + 1]!)
        assert.strictEqual(squareName(start), from)
        if (promotion === undefined) assert.strictEqual(squareName(end), to)
        else assert.isAtLeast(end, 64)
      })
    }
  })

  it("has every oddity, and a key for each game", () => {
    const of = world(1)
    const games = ChessComGames.make(of)
    const account = accountOf(of, "chess.com", "Nadia-2000")
    const found = indices(2000).map((index) => games.json(account, index))
    for (const part of [
      '"rules":"bughouse"',
      '"time_class":"daily"',
      '"rules":"chess960"',
      " w HD",
      '"tcn":""',
      '"initial_setup":""',
      '"accuracies":',
      "openings/Undefined",
      '"tournament":',
      '"result":"threecheck"'
    ]) {
      assert.isTrue(
        found.some((game) => game.includes(part)),
        part
      )
    }
    for (const key of ['"uuid":"', '"pgn":"', '"eco":"']) {
      assert.isTrue(
        found.some((game) => !game.slice(0, game.indexOf('"white":')).includes(key) || !game.includes(key)),
        key
      )
    }
    const ids = new Set(indices(2000).map((index) => games.facts(account, index).id))
    assert.strictEqual(ids.size, 2000)
    for (const form of [/^live:\d+$/, /^daily:\d+$/, /^[0-9a-f]{8}-[0-9a-f]{4}-/]) {
      assert.isTrue([...ids].some((id) => form.test(id)))
    }
  })
})

const tcnSquares = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?{~}(^)[_]@#$"
const squareName = (square: number) => `${"abcdefgh"[square % 8]}${Math.floor(square / 8) + 1}`

describe("Simulator", () => {
  it.effect("makes the same games of the same seed, others of another", () =>
    Effect.gen(function* () {
      const games = (seed: number) =>
        Effect.map(Simulator.make({ seed }), (simulator) =>
          (["lichess", "chess.com"] as const).flatMap((platform) =>
            // Asked for in any order.
            [70, 3, 69, 3].map((index) => simulator.gameJson("Nadia-200", platform, index))
          )
        )
      const once = yield* games(1)
      assert.deepStrictEqual(yield* games(1), once)
      assert.isTrue((yield* games(2)).every((game, index) => game !== once[index]))
    })
  )

  it.effect("tells what names mean", () =>
    Effect.gen(function* () {
      const simulator = yield* Simulator.make()
      const count = (name: string) => Effect.map(simulator.games(name, "lichess"), ({ length }) => length)
      assert.strictEqual(yield* count("kasimir-250"), 250)
      assert.strictEqual(yield* count("KASIMIR-250"), 250)
      assert.strictEqual(yield* count("empty-hands"), 0)
      assert.strictEqual(yield* count("ghost-writer"), 0)
      assert.isUndefined(simulator.gameJson("ghost-writer", "lichess", 0))
      yield* simulator.put({ name: "Ghost-Writer", lichess: { games: 3 } })
      assert.strictEqual(yield* count("ghost-writer"), 3)
      assert.strictEqual(yield* Effect.map(simulator.games("ghost-writer", "chess.com"), ({ length }) => length), 0)
    })
  )

  it.effect("lets two players share their games", () =>
    Effect.gen(function* () {
      const simulator = yield* Simulator.make({
        oddities: 0.5,
        users: [
          { name: "Bea", lichess: { mirrorOf: "adam", title: "WIM" }, chessCom: { mirrorOf: "adam" } },
          { name: "Adam", lichess: { games: 200 }, chessCom: { games: 200 } }
        ]
      })
      for (const platform of ["lichess", "chess.com"] as const) {
        const games = yield* simulator.games("adam", platform)
        assert.lengthOf(games, 200)
        assert.deepStrictEqual(yield* simulator.games("bea", platform), games)
        for (const { index } of games) {
          const game = simulator.gameJson("adam", platform, index)
          assert.strictEqual(simulator.gameJson("bea", platform, index), game)
          assert.include(game, platform === "lichess" ? '"id":"bea"' : '"username":"Bea"')
          assert.include(game, platform === "lichess" ? '"id":"adam"' : '"username":"Adam"')
        }
      }
    })
  )

  for (const user of [
    { name: "a" },
    { name: "anna", lichess: { mirrorOf: "Anna" } },
    { name: "no name" },
    { name: "anna", lichess: { games: -1 } },
    { name: "anna", chessCom: { games: 2_000_001 } },
    { name: "anna", lichess: { oddities: 2 } },
    { name: "anna", lichess: { from: 10, to: 9 } }
  ]) {
    it.effect(`dies on the user ${JSON.stringify(user)}`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Simulator.make({ users: [user] }))
        assert.strictEqual(exit._tag, "Failure")
      })
    )
  }
})
