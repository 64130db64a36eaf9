/**
 * Keeps the games that were imported, and whose they are.
 *
 * A game is stored once, however many imports bring it, and linked to each user it was imported for. A stored game
 * stays as it is; only one that came without its PGN takes that from a later import.
 *
 * All reads cost the same however many games a user has: the number of games is a counter, a page is a range of one
 * index. User names are lower case here.
 */
import { Array as Arr, Context, Effect, Layer, Option, Result, Schema } from "effect"
import * as Base64Url from "effect/encoding/Base64Url"
import { type Migrator, SqlClient, type SqlError } from "effect/sql"
import type { Game, Player, Result as GameResult, Speed } from "./domain/Game.ts"
import type { Platform } from "./domain/Platform.ts"
import * as Migrations from "./migrations/index.ts"
import { isSqliteClient } from "./SqliteClient.ts"

/** A user on a site, lower case. */
export interface Owner {
  readonly user: string
  readonly platform: Platform
}

/** A game without its PGN, as lists show it. */
export type GameSummary = Omit<Game, "pgn">

/** Some of a user's games, newest first. */
export interface Page {
  /** How many games the user has in all. */
  readonly total: number
  readonly games: ReadonlyArray<GameSummary>
  /** What to ask the next page with; `null` on the last. */
  readonly nextCursor: string | null
}

/** What is stored of a user. Times are the games' `playedAt`; `null` when there are none. */
export interface Span {
  readonly total: number
  readonly newest: number | null
  readonly oldest: number | null
}

/** The cursor is not one that this store gave out. */
export class InvalidCursor extends Schema.TaggedError<InvalidCursor>()("InvalidCursor", {}) {
  override get message() {
    return "cursor: must be the next_cursor of an earlier page"
  }
}

/** Reads the games that were imported. `ImportStore.commit` writes them. */
export class GameStore extends Context.Service<
  GameStore,
  {
    /** Reads up to `limit` (1 to 1,000) games, newest first, from the cursor on. */
    readonly page: (
      query: Owner & { readonly limit: number; readonly cursor?: string | undefined }
    ) => Effect.Effect<Page, InvalidCursor | SqlError.SqlError>
    /** Reads one game's PGN as it came; none when the game is not stored or has none. */
    readonly pgn: (platform: Platform, id: string) => Effect.Effect<Option.Option<string>, SqlError.SqlError>
    /** Of these ids, those of games that the user has already. */
    readonly known: (
      query: Owner & { readonly ids: ReadonlyArray<string> }
    ) => Effect.Effect<ReadonlySet<string>, SqlError.SqlError>
    /** Reads how many games the user has and the times of the newest and the oldest. */
    readonly span: (owner: Owner) => Effect.Effect<Span, SqlError.SqlError>
  }
>()("effect-resilience/chess/GameStore") {}

/** Provides the store, with its tables. */
export const layer: Layer.Layer<GameStore, Migrator.MigrationError | SqlError.SqlError, SqlClient.SqlClient> =
  Layer.effect(
    GameStore,
    Effect.map(SqlClient.SqlClient, (sql) => {
      const total = ({ platform, user }: Owner) =>
        Effect.map(
          sql<{ games: number }>`SELECT games FROM imported_user WHERE platform = ${platform} AND user_id = ${user}`,
          (rows) => Number(rows[0]?.games ?? 0)
        )
      const newest = ({ platform, user }: Owner, end: End | undefined, limit: number) => {
        const before =
          end === undefined ? sql.literal("") : sql`AND (l.played_at, l.game_id) < (${end.playedAt}, ${end.id})`
        return Effect.map(
          // SQLite goes through a CROSS JOIN in the order it is written, whatever it guesses about the tables.
          sql<GameRow>`SELECT ${summaryColumns(sql)} FROM user_game l CROSS JOIN game g
          WHERE l.platform = ${platform} AND l.user_id = ${user} ${before}
            AND g.platform = l.platform AND g.id = l.game_id
          ORDER BY l.played_at DESC, l.game_id DESC LIMIT ${limit}`,
          (rows) => rows.map(toSummary)
        )
      }

      return {
        page: Effect.fn("GameStore.page")(function* (query) {
          if (!Number.isInteger(query.limit) || query.limit < 1 || query.limit > maxPage) {
            throw new RangeError(`GameStore: limit must be an integer from 1 to ${maxPage}, got ${query.limit}`)
          }
          const end = query.cursor === undefined ? undefined : yield* readCursor(query.cursor)
          // One more than asked for tells whether there is another page.
          const games = yield* newest(query, end, query.limit + 1)
          const last = games.length > query.limit ? games[query.limit - 1] : undefined
          return {
            total: yield* total(query),
            games: games.slice(0, query.limit),
            nextCursor: last === undefined ? null : writeCursor(last)
          }
        }),
        pgn: Effect.fn("GameStore.pgn")(function* (platform, id) {
          const rows = yield* sql<{
            pgn: string | null
          }>`SELECT pgn FROM game WHERE platform = ${platform} AND id = ${id}`
          return Option.fromNullishOr(rows[0]?.pgn)
        }),
        known: Effect.fn("GameStore.known")((query) => known(sql, query, query.ids)),
        span: Effect.fn("GameStore.span")(function* (owner) {
          const { platform, user } = owner
          const ends = yield* sql<{ newest: Numeric | null; oldest: Numeric | null }>`SELECT
          (SELECT max(played_at) FROM user_game WHERE platform = ${platform} AND user_id = ${user}) AS newest,
          (SELECT min(played_at) FROM user_game WHERE platform = ${platform} AND user_id = ${user}) AS oldest`
          return {
            total: yield* total(owner),
            newest: toNumber(ends[0]?.newest),
            oldest: toNumber(ends[0]?.oldest)
          }
        })
      }
    })
  ).pipe(Layer.provide(Migrations.layer))

/** What was stored of a batch. */
export interface Stored {
  /** Games that are now linked to the user and were not before. */
  readonly inserted: number
  /** Games dealt with, from the first on: all of them, unless `maxNew` cut the batch. */
  readonly consumed: number
}

/**
 * Stores games and links them to a user, in the given order, up to the one that would be a new game too many for the
 * user. Games that the user has already count for nothing. The part of `ImportStore.commit` that knows games: run it
 * in a transaction.
 */
export const insertGames = (sql: SqlClient.SqlClient) => {
  const insertMissing = inserter(sql)

  return Effect.fnUntraced(function* (
    owner: Owner,
    games: ReadonlyArray<Game>,
    maxNew: number
  ): Effect.fn.Return<Stored, SqlError.SqlError> {
    const fitting = games.length <= maxNew ? games : yield* fit(sql, owner, games, maxNew)
    if (fitting.length === 0) return { inserted: 0, consumed: 0 }

    const { platform, user } = owner
    const fresh = yield* insertMissing(
      "game",
      gameColumns,
      "id",
      fitting.map((game) => toRow(platform, game))
    )
    const playedAt = yield* storedTimes(
      sql,
      platform,
      fitting.filter((_, index) => !fresh[index])
    )
    const links = fitting.map((game) => [platform, user, playedAt.get(game.id) ?? game.playedAt, game.id])
    const linked = yield* insertMissing("user_game", linkColumns, "game_id", links)

    const inserted = linked.filter(Boolean).length
    if (inserted > 0) {
      yield* sql`INSERT INTO imported_user ${sql.insert({ platform, user_id: user, games: inserted })}
        ON CONFLICT (platform, user_id) DO UPDATE SET games = imported_user.games + excluded.games`
    }
    return { inserted, consumed: fitting.length }
  })
}

/** Cuts games where the next one would be new to the user and one too many. */
const fit = Effect.fnUntraced(function* (
  sql: SqlClient.SqlClient,
  owner: Owner,
  games: ReadonlyArray<Game>,
  maxNew: number
) {
  const seen = new Set(
    yield* known(
      sql,
      owner,
      games.map((game) => game.id)
    )
  )
  const most = seen.size + Math.max(0, maxNew)
  const end = games.findIndex((game) => seen.add(game.id).size > most)
  return end === -1 ? games : games.slice(0, end)
})

// Games that were stored before: when they were played, by what is stored, and the PGN of those that came without.
const storedTimes = Effect.fnUntraced(function* (
  sql: SqlClient.SqlClient,
  platform: Platform,
  games: ReadonlyArray<Game>
) {
  const times = new Map<string, number>()
  if (games.length === 0) return times
  const bare = new Set<string>()
  for (const ids of chunksOf(games.map((game) => game.id))) {
    const rows = yield* sql<{ id: string; played_at: number; bare: number | boolean }>`
      SELECT id, played_at, pgn IS NULL AS bare FROM game WHERE platform = ${platform} AND ${sql.in("id", ids)}`
      .unprepared
    for (const row of rows) {
      times.set(row.id, Number(row.played_at))
      if (row.bare) bare.add(row.id)
    }
  }
  for (const game of games) {
    if (game.pgn !== null && bare.has(game.id)) {
      yield* sql`UPDATE game SET pgn = ${game.pgn} WHERE platform = ${platform} AND id = ${game.id} AND pgn IS NULL`
    }
  }
  return times
})

const known = Effect.fnUntraced(function* (sql: SqlClient.SqlClient, owner: Owner, ids: ReadonlyArray<string>) {
  const found = new Set<string>()
  for (const some of chunksOf(ids)) {
    const rows = yield* sql<{ id: string }>`SELECT g.id FROM game g CROSS JOIN user_game l
      WHERE g.platform = ${owner.platform} AND ${sql.in("g.id", some)}
        AND l.platform = g.platform AND l.user_id = ${owner.user}
        AND l.played_at = g.played_at AND l.game_id = g.id`.unprepared
    for (const row of rows) found.add(row.id)
  }
  return found as ReadonlySet<string>
})

/**
 * Inserts the rows whose key is not taken, and says of each row whether it was. The one place where the databases
 * differ: SQLite is fastest with one prepared statement and no trip between rows, others with one trip for many rows.
 */
const inserter = (sql: SqlClient.SqlClient) =>
  isSqliteClient(sql)
    ? (table: string, columns: ReadonlyArray<string>, _key: string, rows: ReadonlyArray<ReadonlyArray<unknown>>) => {
        const names = columns.join(", ")
        const places = columns.map(() => "?").join(", ")
        return Effect.map(
          sql.executeBatch(`INSERT INTO ${table} (${names}) VALUES (${places}) ON CONFLICT DO NOTHING`, rows),
          (changes) => changes.map((changed) => changed === 1)
        )
      }
    : Effect.fnUntraced(function* (
        table: string,
        columns: ReadonlyArray<string>,
        key: string,
        rows: ReadonlyArray<ReadonlyArray<unknown>>
      ) {
        const keyIndex = columns.indexOf(key)
        const inserted = new Set<unknown>()
        for (const some of chunksOf(rows)) {
          const records = Arr.map(some, (row) =>
            Object.fromEntries(columns.map((column, index) => [column, row[index]]))
          )
          const returned = yield* sql<Record<string, unknown>>`INSERT INTO ${sql(table)} ${sql.insert(records)}
            ON CONFLICT DO NOTHING RETURNING ${sql(key)}`.unprepared
          for (const row of returned) inserted.add(row[key])
        }
        // A key that comes twice was inserted the first time.
        return rows.map((row) => inserted.delete(row[keyIndex]))
      })

/** The end of a page: the order of games is by time and then by id, newest first. */
interface End {
  readonly playedAt: number
  readonly id: string
}

const writeCursor = ({ id, playedAt }: End): string => Base64Url.encode(`${playedAt}:${id}`)

const readCursor = (cursor: string): Effect.Effect<End, InvalidCursor> => {
  const text = cursor.length <= maxCursor ? Base64Url.decodeString(cursor) : Result.succeed("")
  const [, time, id] = (Result.isSuccess(text) && /^(-?\d{1,16}):(.+)$/.exec(text.success)) || []
  const playedAt = Number(time)
  return id !== undefined && Number.isSafeInteger(playedAt)
    ? Effect.succeed({ playedAt, id })
    : Effect.fail(new InvalidCursor())
}

const maxPage = 1_000
const maxCursor = 200

// Few enough for one statement on any database: PostgreSQL takes 65,535 parameters, SQLite 32,766.
const maxRows = 500
const chunksOf = <A>(rows: ReadonlyArray<A>) => Arr.chunksOf(rows, maxRows)

const linkColumns = ["platform", "user_id", "played_at", "game_id"]
const playerColumns = ["id", "name", "title", "rating", "rating_diff", "ai_level"]
const gameColumns = [
  "platform",
  "id",
  "url",
  "rated",
  "variant",
  "speed",
  "base_seconds",
  "increment_seconds",
  "days_per_turn",
  "played_at",
  "ended_at",
  ...playerColumns.map((column) => `white_${column}`),
  ...playerColumns.map((column) => `black_${column}`),
  "result",
  "termination",
  "eco",
  "opening",
  "plies",
  "initial_fen",
  "pgn"
]

const summaryColumns = (sql: SqlClient.SqlClient) =>
  sql.literal(
    gameColumns
      .filter((column) => column !== "pgn")
      .map((column) => `g.${column}`)
      .join(", ")
  )

// In the order of `gameColumns`.
const toRow = (platform: Platform, game: Game): ReadonlyArray<unknown> => [
  platform,
  game.id,
  game.url,
  game.rated ? 1 : 0,
  game.variant,
  game.speed,
  game.baseSeconds,
  game.incrementSeconds,
  game.daysPerTurn,
  game.playedAt,
  game.endedAt,
  game.white.id,
  game.white.name,
  game.white.title,
  game.white.rating,
  game.white.ratingDiff,
  game.white.aiLevel,
  game.black.id,
  game.black.name,
  game.black.title,
  game.black.rating,
  game.black.ratingDiff,
  game.black.aiLevel,
  game.result,
  game.termination,
  game.eco,
  game.opening,
  game.plies,
  game.initialFen,
  game.pgn
]

/** A number as drivers read it: some give 64-bit integers as text. */
type Numeric = number | string | bigint

interface GameRow {
  readonly platform: Platform
  readonly id: string
  readonly url: string
  readonly rated: number
  readonly variant: string
  readonly speed: Speed
  readonly base_seconds: number | null
  readonly increment_seconds: number | null
  readonly days_per_turn: number | null
  readonly played_at: Numeric
  readonly ended_at: Numeric | null
  readonly white_id: string | null
  readonly white_name: string | null
  readonly white_title: string | null
  readonly white_rating: number | null
  readonly white_rating_diff: number | null
  readonly white_ai_level: number | null
  readonly black_id: string | null
  readonly black_name: string | null
  readonly black_title: string | null
  readonly black_rating: number | null
  readonly black_rating_diff: number | null
  readonly black_ai_level: number | null
  readonly result: GameResult
  readonly termination: string
  readonly eco: string | null
  readonly opening: string | null
  readonly plies: number | null
  readonly initial_fen: string | null
}

const toSummary = (row: GameRow): GameSummary => {
  const white: Player = {
    id: row.white_id,
    name: row.white_name,
    title: row.white_title,
    rating: row.white_rating,
    ratingDiff: row.white_rating_diff,
    aiLevel: row.white_ai_level
  }
  const black: Player = {
    id: row.black_id,
    name: row.black_name,
    title: row.black_title,
    rating: row.black_rating,
    ratingDiff: row.black_rating_diff,
    aiLevel: row.black_ai_level
  }
  return {
    platform: row.platform,
    id: row.id,
    url: row.url,
    rated: row.rated === 1,
    variant: row.variant,
    speed: row.speed,
    baseSeconds: row.base_seconds,
    incrementSeconds: row.increment_seconds,
    daysPerTurn: row.days_per_turn,
    playedAt: Number(row.played_at),
    endedAt: toNumber(row.ended_at),
    white,
    black,
    result: row.result,
    termination: row.termination,
    eco: row.eco,
    opening: row.opening,
    plies: row.plies,
    initialFen: row.initial_fen
  }
}

const toNumber = (value: Numeric | null | undefined): number | null =>
  value === null || value === undefined ? null : Number(value)
