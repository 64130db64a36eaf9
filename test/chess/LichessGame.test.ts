import { assert, describe, it } from "@effect/vitest"
import * as LichessGame from "../../src/chess/LichessGame.ts"
import { lichessGame, ndjson } from "../support/wireGames.ts"

const decode = (more: Readonly<Record<string, unknown>> = {}) => {
  const { games, odd } = LichessGame.decodeLines([JSON.stringify(lichessGame(more))])
  assert.deepStrictEqual(odd, [])
  return games[0]!
}

const oddReason = (line: string) => {
  const { games, odd } = LichessGame.decodeLines([line])
  assert.deepStrictEqual(games, [])
  return odd[0]!.reason
}

describe("LichessGame", () => {
  describe("decodeLines", () => {
    it("puts a game in the terms of this service", () => {
      assert.deepStrictEqual(decode(), {
        platform: "lichess",
        id: "q7ZyXw01",
        url: "https://lichess.org/q7ZyXw01",
        rated: true,
        variant: "standard",
        speed: "blitz",
        baseSeconds: 180,
        incrementSeconds: 2,
        daysPerTurn: null,
        playedAt: 1_700_000_000_000,
        endedAt: 1_700_000_200_000,
        white: { id: "ada_rook", name: "Ada_Rook", title: "WFM", rating: 1810, ratingDiff: 6, aiLevel: null },
        black: { id: "bishopben", name: "BishopBen", title: null, rating: 1799, ratingDiff: -6, aiLevel: null },
        result: "1-0",
        termination: "resign",
        eco: "B02",
        opening: "Alekhine Defense: Sämisch Attack",
        plies: 5,
        initialFen: null,
        pgn: lichessGame().pgn
      })
    })

    const nobody = { id: null, name: null, title: null, rating: null, ratingDiff: null, aiLevel: null }
    for (const [what, player, expected] of [
      ["an engine", { aiLevel: 3 }, { ...nobody, aiLevel: 3 }],
      ["an anonymous player", {}, nobody],
      ["a player by name only", { name: "Knight, Kate (2410)" }, { ...nobody, name: "Knight, Kate (2410)" }],
      ["a user without a rating", { user: { id: "cora", name: "Cora" } }, { ...nobody, id: "cora", name: "Cora" }],
      [
        "a user without an id",
        { user: { name: "Cora" }, rating: 1500.5 },
        { ...nobody, id: "cora", name: "Cora", rating: 1500.5 }
      ],
      ["a user who is null", { user: null, rating: 1500 }, { ...nobody, rating: 1500 }]
    ] as const) {
      it(`keeps a game with ${what}`, () => {
        assert.deepStrictEqual(decode({ players: { white: player, black: {} } }).white, expected)
      })
    }

    for (const [status, winner, expected] of [
      ["mate", "white", "1-0"],
      ["resign", "black", "0-1"],
      ["timeout", "black", "0-1"],
      ["outoftime", "white", "1-0"],
      ["noStart", "black", "0-1"],
      ["cheat", "white", "1-0"],
      ["draw", undefined, "1/2-1/2"],
      ["stalemate", undefined, "1/2-1/2"],
      ["insufficientMaterialClaim", undefined, "1/2-1/2"],
      ["outoftime", undefined, "1/2-1/2"],
      ["timeout", undefined, "1/2-1/2"],
      ["variantEnd", undefined, "1/2-1/2"],
      ["aborted", undefined, "*"],
      ["created", undefined, "*"],
      ["started", undefined, "*"],
      ["noStart", undefined, "*"],
      ["unknownFinish", undefined, "*"],
      ["somethingNew", undefined, "*"]
    ] as const) {
      it(`scores ${status} ${winner === undefined ? "without a winner" : `won by ${winner}`} as ${expected}`, () => {
        const game = decode({ status, winner })
        assert.deepStrictEqual([game.result, game.termination], [expected, status])
      })
    }

    for (const [more, expected] of [
      [{ speed: "ultraBullet" }, "ultrabullet"],
      [{ speed: "correspondence", clock: undefined, daysPerTurn: 3 }, "correspondence"],
      [{ speed: undefined, clock: undefined }, "correspondence"],
      [{ speed: "glacial", clock: { initial: 15, increment: 0 } }, "ultrabullet"],
      [{ speed: "glacial", clock: { initial: 29, increment: 0 } }, "ultrabullet"],
      [{ speed: "glacial", clock: { initial: 30, increment: 0 } }, "bullet"],
      [{ speed: "glacial", clock: { initial: 60, increment: 3 } }, "blitz"],
      [{ speed: "glacial", clock: { initial: 480, increment: 0 } }, "rapid"],
      [{ speed: "glacial", clock: { initial: 900, increment: 15 } }, "classical"]
    ] as const) {
      it(`reads ${JSON.stringify(more)} as ${expected}`, () => assert.strictEqual(decode(more).speed, expected))
    }

    it("keeps what a correspondence game from a position has, and has not", () => {
      const fen = "4k3/8/8/8/8/8/4P3/4K3 w - - 0 1"
      const game = decode({
        variant: "fromPosition",
        initialFen: fen,
        speed: "correspondence",
        daysPerTurn: 14,
        clock: undefined,
        clocks: undefined,
        opening: undefined,
        moves: "",
        pgn: undefined
      })
      assert.deepInclude(game, {
        variant: "fromPosition",
        initialFen: fen,
        daysPerTurn: 14,
        baseSeconds: null,
        incrementSeconds: null,
        eco: null,
        opening: null,
        plies: 0,
        pgn: null
      })
    })

    it("keeps a variant it has never heard of, and does not know the length of a game without moves", () => {
      const game = decode({ variant: "wildebeest", moves: undefined, pgn: "" })
      assert.deepInclude(game, { variant: "wildebeest", plies: null, pgn: null })
    })

    for (const [moves, plies] of [
      ["e4", 1],
      ["e4 e5 Nf3 ", 3],
      [" e4  e5", 2]
    ] as const) {
      it(`counts ${plies} plies in "${moves}"`, () => assert.strictEqual(decode({ moves }).plies, plies))
    }

    for (const [what, line, reason] of [
      ["a line that is not JSON", '{"id":"q7Zy', "not JSON"],
      ["a page", "<!DOCTYPE html>", "not JSON"],
      ["a number", "7", "object"],
      ["an error", '{"error":"Too many requests"}', "id"],
      ["a game without players", JSON.stringify({ ...lichessGame(), players: undefined }), "players"],
      ["a game without a time", JSON.stringify({ ...lichessGame(), createdAt: undefined }), "createdAt"],
      ["a game of no time there is", JSON.stringify(lichessGame({ createdAt: 1e300 })), "createdAt"],
      ["a game with an id that is none", JSON.stringify(lichessGame({ id: "../../etc" })), "id"],
      ["a game won by nobody we know", JSON.stringify(lichessGame({ winner: "green" })), "winner"],
      [
        "a rating in words",
        JSON.stringify(lichessGame({ players: { white: { rating: "high" }, black: {} } })),
        "rating"
      ]
    ] as const) {
      it(`counts ${what} with its reason`, () => assert.include(oddReason(line), reason))
    }

    it("keeps only the beginning of what it cannot keep, and goes on behind it", () => {
      const long = `{"id":"${"x".repeat(10_000)}"}`
      const { games, odd } = LichessGame.decodeLines(["", " \r", long, ...ndjson([lichessGame()]).split("\n")])
      assert.strictEqual(games.length, 1)
      assert.deepStrictEqual(
        odd.map(({ raw }) => raw),
        [long.slice(0, 4096)]
      )
    })
  })
})
