/**
 * Games of invented players in the form in which the two sites send them.
 */

/** A blitz game as Lichess exports it. */
export const lichessGame = (more: Readonly<Record<string, unknown>> = {}) => ({
  id: "q7ZyXw01",
  rated: true,
  variant: "standard",
  speed: "blitz",
  perf: "blitz",
  createdAt: 1_700_000_000_000,
  lastMoveAt: 1_700_000_200_000,
  status: "resign",
  source: "pool",
  players: {
    white: { user: { name: "Ada_Rook", id: "ada_rook", title: "WFM" }, rating: 1810, ratingDiff: 6 },
    black: { user: { name: "BishopBen", id: "bishopben" }, rating: 1799, ratingDiff: -6 }
  },
  winner: "white",
  opening: { eco: "B02", name: "Alekhine Defense: Sämisch Attack", ply: 5 },
  moves: "e4 Nf6 e5 Nd5 Nc3",
  clocks: [18003, 18003, 17915, 17627, 17771, 16691],
  pgn: '[Event "rated blitz game"]\n[Result "1-0"]\n\n1. e4 Nf6 2. e5 Nd5 3. Nc3 1-0\n\n\n',
  clock: { initial: 180, increment: 2, totalTime: 260 },
  ...more
})

/** The n-th of many different Lichess games, one a minute. */
export const lichessGameNumber = (n: number) =>
  lichessGame({ id: n.toString(36).padStart(8, "0"), createdAt: 1_700_000_000_000 + n * 60_000 })

/** Games as the lines of an export. */
export const ndjson = (games: ReadonlyArray<unknown>): string =>
  games.map((game) => `${JSON.stringify(game)}\n`).join("")

/** The PGN of the game below. */
export const chessComPgn = `[Event "Live Chess"]
[Site "Chess.com"]
[Date "2025.03.01"]
[White "Ada_Rook"]
[Black "BishopBen"]
[Result "0-1"]
[ECO "C39"]
[ECOUrl "https://www.chess.com/openings/Kings-Gambit-Accepted-Kieseritzky-Long-Whip-Defense-6.Bc4"]
[UTCDate "2025.03.01"]
[UTCTime "15:59:01"]
[TimeControl "180+1"]
[Termination "BishopBen won on time"]

1. e4 {[%clk 0:02:59.7]} 1... e5 {[%clk 0:02:59.4]} 0-1
`

/** A live game as Chess.com publishes it. */
export const chessComGame = (more: Readonly<Record<string, unknown>> = {}) => ({
  url: "https://www.chess.com/game/live/9000000001",
  pgn: chessComPgn,
  time_control: "180+1",
  end_time: 1_740_845_983,
  rated: true,
  tcn: "mC0K",
  uuid: "aaaaaaaa-0000-11ef-beba-000000000001",
  initial_setup: "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1",
  fen: "rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq -",
  time_class: "blitz",
  rules: "chess",
  white: { rating: 2004, result: "timeout", "@id": "https://api.chess.com/pub/player/ada_rook", username: "Ada_Rook" },
  black: { rating: 1985, result: "win", "@id": "https://api.chess.com/pub/player/bishopben", username: "BishopBen" },
  eco: "https://www.chess.com/openings/Kings-Gambit-Accepted-Kieseritzky-Long-Whip-Defense-6.Bc4",
  ...more
})
