/**
 * Creates the tables of games, of whose games they are, and of imports.
 */
import { Effect } from "effect"
import { SqlClient } from "effect/sql"

// All times are epoch milliseconds, all user names lower case. SQLite keeps a table without rowid in the order of its
// key: one tree instead of two for the links, which are nothing but their key.
export default Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const inKeyOrder = sql.literal(sql.onDialectOrElse({ sqlite: () => "WITHOUT ROWID", orElse: () => "" }))

  yield* sql`CREATE TABLE game (
    platform TEXT NOT NULL,
    id TEXT NOT NULL,
    url TEXT NOT NULL,
    rated INTEGER NOT NULL,
    variant TEXT NOT NULL,
    speed TEXT NOT NULL,
    base_seconds INTEGER,
    increment_seconds INTEGER,
    days_per_turn INTEGER,
    played_at BIGINT NOT NULL,
    ended_at BIGINT,
    white_id TEXT,
    white_name TEXT,
    white_title TEXT,
    white_rating INTEGER,
    white_rating_diff INTEGER,
    white_ai_level INTEGER,
    black_id TEXT,
    black_name TEXT,
    black_title TEXT,
    black_rating INTEGER,
    black_rating_diff INTEGER,
    black_ai_level INTEGER,
    result TEXT NOT NULL,
    termination TEXT NOT NULL,
    eco TEXT,
    opening TEXT,
    plies INTEGER,
    initial_fen TEXT,
    pgn TEXT,
    PRIMARY KEY (platform, id)
  )`

  // The key is also the order in which a user's games are listed. `played_at` is that of the game's row, which never
  // changes, so a game is linked to a user once.
  yield* sql`CREATE TABLE user_game (
    platform TEXT NOT NULL,
    user_id TEXT NOT NULL,
    played_at BIGINT NOT NULL,
    game_id TEXT NOT NULL,
    PRIMARY KEY (platform, user_id, played_at, game_id)
  ) ${inKeyOrder}`

  // `games` is the number of links, so that nobody has to count them.
  yield* sql`CREATE TABLE imported_user (
    platform TEXT NOT NULL,
    user_id TEXT NOT NULL,
    games INTEGER NOT NULL,
    checkpoint TEXT,
    PRIMARY KEY (platform, user_id)
  ) ${inKeyOrder}`

  yield* sql`CREATE TABLE import_job (
    id TEXT NOT NULL PRIMARY KEY,
    platform TEXT NOT NULL,
    user_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    premium INTEGER NOT NULL,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    imported INTEGER NOT NULL,
    checked INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    max_games INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    error TEXT
  )`
  yield* sql`CREATE INDEX import_job_user ON import_job (platform, user_id, id)`
  yield* sql`CREATE UNIQUE INDEX import_job_unfinished ON import_job (platform, user_id)
    WHERE status IN ('queued', 'starting', 'importing')`

  yield* sql`CREATE TABLE skipped_game (
    import_id TEXT NOT NULL REFERENCES import_job (id),
    position INTEGER NOT NULL,
    reason TEXT NOT NULL,
    raw TEXT NOT NULL,
    PRIMARY KEY (import_id, position)
  )`
})
