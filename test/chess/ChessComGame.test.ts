import { assert, describe, it } from "@effect/vitest"
import * as ChessComGame from "../../src/chess/ChessComGame.ts"
import { chessComGame, chessComPgn } from "../support/wireGames.ts"

const decode = (more: Readonly<Record<string, unknown>> = {}) => {
  // As it comes from JSON: what is undefined here is missing there.
  const { games, odd } = ChessComGame.decodeGames([JSON.parse(JSON.stringify(chessComGame(more)))])
  assert.deepStrictEqual(odd, [])
  return games[0]!
}

const oddReason = (element: unknown) => {
  const { games, odd } = ChessComGame.decodeGames([JSON.parse(JSON.stringify(element))])
  assert.deepStrictEqual(games, [])
  return odd[0]!.reason
}

describe("ChessComGame", () => {
  describe("decodeGames", () => {
    it("puts a game in the terms of this service", () => {
      assert.deepStrictEqual(decode(), {
        platform: "chess.com",
        id: "aaaaaaaa-0000-11ef-beba-000000000001",
        url: "https://www.chess.com/game/live/9000000001",
        rated: true,
        variant: "standard",
        speed: "blitz",
        baseSeconds: 180,
        incrementSeconds: 1,
        daysPerTurn: null,
        playedAt: Date.UTC(2025, 2, 1, 15, 59, 1),
        endedAt: 1_740_845_983_000,
        white: { id: "ada_rook", name: "Ada_Rook", title: null, rating: 2004, ratingDiff: null, aiLevel: null },
        black: { id: "bishopben", name: "BishopBen", title: null, rating: 1985, ratingDiff: null, aiLevel: null },
        result: "0-1",
        termination: "timeout",
        eco: "C39",
        opening: "Kings Gambit Accepted Kieseritzky Long Whip Defense",
        plies: 2,
        initialFen: null,
        pgn: chessComPgn
      })
    })

    it("keeps a daily game, which has a start and days instead of a clock", () => {
      const game = decode({
        url: "https://www.chess.com/game/daily/285275822",
        uuid: undefined,
        time_class: "daily",
        time_control: "1/259200",
        start_time: 1_740_000_000
      })
      assert.deepInclude(game, {
        id: "daily:285275822",
        speed: "correspondence",
        baseSeconds: null,
        incrementSeconds: null,
        daysPerTurn: 3,
        playedAt: 1_740_000_000_000
      })
    })

    it("keeps a game without PGN, moves or a start", () => {
      const game = decode({ pgn: undefined, tcn: "", initial_setup: "", rules: "bughouse" })
      assert.deepInclude(game, {
        variant: "bughouse",
        pgn: null,
        plies: 0,
        eco: null,
        opening: "Kings Gambit Accepted Kieseritzky Long Whip Defense",
        initialFen: null,
        playedAt: 1_740_845_983_000
      })
    })

    for (const [more, id] of [
      [{ uuid: undefined, url: "https://www.chess.com/game/live/285275822" }, "live:285275822"],
      [{ uuid: "", url: "https://www.chess.com/game/daily/285275822" }, "daily:285275822"],
      [
        { uuid: undefined, url: "https://www.chess.com/game/d95d1bda-0660-11ef-bab6-6c0236d34e6c" },
        "d95d1bda-0660-11ef-bab6-6c0236d34e6c"
      ]
    ] as const) {
      it(`names a game without uuid ${id}`, () => assert.strictEqual(decode(more).id, id))
    }

    for (const [more, expected] of [
      [{ rules: "chess960" }, "chess960"],
      [{ rules: "kingofthehill" }, "kingOfTheHill"],
      [{ rules: "threecheck" }, "threeCheck"],
      [{ rules: "crazyhouse" }, "crazyhouse"],
      [{ rules: "oddschess" }, "oddschess"],
      [{ rules: undefined }, "standard"],
      [{ initial_setup: "4k3/8/8/8/8/8/4P3/4K3 w - - 0 1" }, "fromPosition"]
    ] as const) {
      it(`reads ${JSON.stringify(more)} as ${expected}`, () => assert.strictEqual(decode(more).variant, expected))
    }

    it("finds the starting position in the PGN when the JSON has none", () => {
      const fen = "bqnb1rkr/pp3ppp/3ppn2/2p5/5P2/P2P4/NPP1P1PP/BQ1BNRKR w HFhf - 2 9"
      const pgn = chessComPgn.replace('[Result "0-1"]', `[Result "0-1"]\n[SetUp "1"]\n[FEN "${fen}"]`)
      assert.strictEqual(decode({ pgn, initial_setup: undefined, rules: "chess960" }).initialFen, fen)
    })

    for (const [white, black, result, termination] of [
      ["win", "checkmated", "1-0", "checkmated"],
      ["resigned", "win", "0-1", "resigned"],
      ["abandoned", "win", "0-1", "abandoned"],
      ["bughousepartnerlose", "win", "0-1", "bughousepartnerlose"],
      ["win", "kingofthehill", "1-0", "kingofthehill"],
      ["agreed", "agreed", "1/2-1/2", "agreed"],
      ["repetition", "repetition", "1/2-1/2", "repetition"],
      ["stalemate", "stalemate", "1/2-1/2", "stalemate"],
      ["insufficient", "insufficient", "1/2-1/2", "insufficient"],
      ["50move", "50move", "1/2-1/2", "50move"],
      ["timevsinsufficient", "timevsinsufficient", "1/2-1/2", "timevsinsufficient"],
      ["somethingnew", "somethingnew", "0-1", "somethingnew"]
    ] as const) {
      it(`scores ${white} against ${black} as ${result} by ${termination}`, () => {
        const game = decode({ white: { username: "a", result: white }, black: { username: "b", result: black } })
        assert.deepStrictEqual([game.result, game.termination], [result, termination])
      })
    }

    it("has no result when neither the players nor the PGN say one", () => {
      const game = decode({ pgn: undefined, white: { username: "a" }, black: {} })
      assert.deepStrictEqual([game.result, game.termination], ["*", "unknown"])
      assert.deepStrictEqual(game.black, {
        id: null,
        name: null,
        title: null,
        rating: null,
        ratingDiff: null,
        aiLevel: null
      })
    })

    for (const [control, base, increment, days] of [
      ["600", 600, 0, null],
      ["180+1", 180, 1, null],
      ["1/86400", null, null, 1],
      ["-", null, null, null],
      [undefined, null, null, null]
    ] as const) {
      it(`reads the time control ${control}`, () => {
        const game = decode({ time_control: control })
        assert.deepStrictEqual([game.baseSeconds, game.incrementSeconds, game.daysPerTurn], [base, increment, days])
      })
    }

    for (const [control, speed] of [
      ["60", "bullet"],
      ["180", "blitz"],
      ["599", "blitz"],
      ["600", "rapid"],
      ["1/86400", "correspondence"]
    ] as const) {
      it(`takes ${control} without a known class for ${speed}`, () =>
        assert.strictEqual(decode({ time_class: "hyper", time_control: control }).speed, speed))
    }

    for (const [slug, name] of [
      ["Sicilian-Defense-Kramnik-Variation", "Sicilian Defense Kramnik Variation"],
      ["Closed-Sicilian-Defense-2...d6", "Closed Sicilian Defense"],
      [
        "English-Opening-Anglo-Indian-Queens-Knight-Variation...5.Nh4-Bd7-6.e4",
        "English Opening Anglo Indian Queens Knight Variation"
      ],
      ["Undefined", null],
      ["1.e4", null]
    ] as const) {
      it(`takes ${slug} for ${name}`, () =>
        assert.strictEqual(decode({ pgn: undefined, eco: `https://www.chess.com/openings/${slug}` }).opening, name))
    }

    for (const [tags, playedAt] of [
      ['[UTCDate "2024.02.29"]\n[UTCTime "23:59:59"]', Date.UTC(2024, 1, 29, 23, 59, 59)],
      ['[UTCDate "????.??.??"]\n[UTCTime "23:59:59"]', 1_740_845_983_000],
      ['[UTCDate "2024.13.29"]\n[UTCTime "23:59:59"]', 1_740_845_983_000],
      ['[UTCDate "2024.02.29"', 1_740_845_983_000]
    ] as const) {
      it(`reads the start from ${JSON.stringify(tags)}`, () =>
        assert.strictEqual(decode({ pgn: `${tags}\n\n1. e4 *\n` }).playedAt, playedAt))
    }

    it("does not take a comment among the moves for a tag", () => {
      assert.strictEqual(decode({ pgn: '[Result "0-1"]\n\n1. e4 {[ECO "C20"]} 0-1\n' }).eco, null)
    })

    for (const [what, element, reason] of [
      ["what is no object", "game", "object"],
      ["an error", { code: 0, message: "not found" }, "url"],
      ["a game without players", { ...chessComGame(), white: undefined }, "white"],
      ["a game without a name", chessComGame({ uuid: undefined, url: "https://www.chess.com/live" }), "no uuid"],
      ["a game without any time", { ...chessComGame({ pgn: "" }), end_time: undefined }, "no time"],
      ["an end in words", chessComGame({ end_time: "late" }), "end_time"]
    ] as const) {
      it(`counts ${what} with its reason`, () => assert.include(oddReason(element), reason))
    }

    it("puts the newest first, and keeps only the beginning of what it cannot keep", () => {
      const { games, odd } = ChessComGame.decodeGames([
        chessComGame({ uuid: "a", end_time: 100 }),
        { junk: "x".repeat(10_000) },
        chessComGame({ uuid: "c", end_time: 300 }),
        chessComGame({ uuid: "b", end_time: 200 })
      ])
      assert.deepStrictEqual(
        games.map((game) => game.id),
        ["c", "b", "a"]
      )
      assert.strictEqual(odd[0]!.raw.length, 4096)
    })
  })
})
