/**
 * The import one would write without any library: `fetch`, split, `JSON.parse`, and `node:sqlite` in transactions of 500.
 *
 * It fills the same tables with the same columns as the service, has no checkpoint, no retry and no progress, and is the
 * measure for the service's import. Arguments: base URL, user, database file. Prints one line of JSON.
 */
import { DatabaseSync, type SQLInputValue } from "node:sqlite"

interface LichessPlayer {
  readonly user?: { readonly id: string; readonly name: string; readonly title?: string }
  readonly name?: string
  readonly rating?: number
  readonly ratingDiff?: number
  readonly aiLevel?: number
}

interface LichessGame {
  readonly id: string
  readonly rated: boolean
  readonly variant: string
  readonly speed: string
  readonly createdAt: number
  readonly lastMoveAt?: number
  readonly status: string
  readonly players: { readonly white: LichessPlayer; readonly black: LichessPlayer }
  readonly winner?: "white" | "black"
  readonly opening?: { readonly eco: string; readonly name: string }
  readonly moves?: string
  readonly clock?: { readonly initial: number; readonly increment: number }
  readonly daysPerTurn?: number
  readonly initialFen?: string
  readonly pgn?: string
}

const [baseUrl = "", user = "", file = ""] = process.argv.slice(2)

const db = new DatabaseSync(file)
db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
db.exec(`CREATE TABLE game (
  platform TEXT NOT NULL, id TEXT NOT NULL, url TEXT NOT NULL, rated INTEGER NOT NULL, variant TEXT NOT NULL,
  speed TEXT NOT NULL, base_seconds INTEGER, increment_seconds INTEGER, days_per_turn INTEGER, played_at BIGINT NOT NULL,
  ended_at BIGINT, white_id TEXT, white_name TEXT, white_title TEXT, white_rating INTEGER, white_rating_diff INTEGER,
  white_ai_level INTEGER, black_id TEXT, black_name TEXT, black_title TEXT, black_rating INTEGER,
  black_rating_diff INTEGER, black_ai_level INTEGER, result TEXT NOT NULL, termination TEXT NOT NULL, eco TEXT,
  opening TEXT, plies INTEGER, initial_fen TEXT, pgn TEXT, PRIMARY KEY (platform, id))`)
db.exec(`CREATE TABLE user_game (platform TEXT NOT NULL, user_id TEXT NOT NULL, played_at BIGINT NOT NULL,
  game_id TEXT NOT NULL, PRIMARY KEY (platform, user_id, played_at, game_id)) WITHOUT ROWID`)
const insertGame = db.prepare(`INSERT INTO game VALUES (${Array(30).fill("?").join(", ")}) ON CONFLICT DO NOTHING`)
const insertLink = db.prepare("INSERT INTO user_game VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")

const speeds: Record<string, string> = { ultraBullet: "ultrabullet" }

const playerColumns = (player: LichessPlayer): Array<SQLInputValue> => [
  player.user?.id ?? null,
  player.user?.name ?? player.name ?? null,
  player.user?.title ?? null,
  player.rating ?? null,
  player.ratingDiff ?? null,
  player.aiLevel ?? null
]

const result = (game: LichessGame): string =>
  game.winner === "white"
    ? "1-0"
    : game.winner === "black"
      ? "0-1"
      : ["created", "started", "aborted", "noStart", "unknownFinish"].includes(game.status)
        ? "*"
        : "1/2-1/2"

const store = (lines: ReadonlyArray<string>) => {
  db.exec("BEGIN")
  for (const line of lines) {
    const game: LichessGame = JSON.parse(line)
    insertGame.run(
      "lichess",
      game.id,
      `https://lichess.org/${game.id}`,
      game.rated ? 1 : 0,
      game.variant,
      speeds[game.speed] ?? game.speed,
      game.clock?.initial ?? null,
      game.clock?.increment ?? null,
      game.daysPerTurn ?? null,
      game.createdAt,
      game.lastMoveAt ?? null,
      ...playerColumns(game.players.white),
      ...playerColumns(game.players.black),
      result(game),
      game.status,
      game.opening?.eco ?? null,
      game.opening?.name ?? null,
      game.moves === undefined ? null : game.moves === "" ? 0 : game.moves.split(" ").length,
      game.initialFen ?? null,
      game.pgn ?? null
    )
    insertLink.run("lichess", user, game.createdAt, game.id)
  }
  db.exec("COMMIT")
}

const started = performance.now()
const response = await fetch(
  `${baseUrl}/api/games/user/${user}?max=200000&pgnInJson=true&clocks=true&opening=true&sort=dateDesc`,
  { headers: { accept: "application/x-ndjson", "user-agent": "plain-import/1.0 (contact: bench@localhost)" } }
)
if (!response.ok || response.body === null) throw new Error(`unexpected answer: ${response.status}`)

let games = 0
let rest = ""
let lines: Array<string> = []
const decoder = new TextDecoder()
for await (const chunk of response.body) {
  const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n")
  rest = parts.pop() ?? ""
  for (const line of parts) {
    if (line === "") continue
    lines.push(line)
    if (lines.length === 500) {
      store(lines)
      games += 500
      lines = []
    }
  }
}
if (lines.length > 0) store(lines)
games += lines.length
const millis = performance.now() - started
const stored = db.prepare("SELECT count(*) AS stored FROM game").get()?.["stored"]
db.close()
console.log(JSON.stringify({ games, stored, millis, peakRssKiB: process.resourceUsage().maxRSS }))
