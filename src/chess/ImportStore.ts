/**
 * Keeps the imports, how far each has come, and what they bring.
 *
 * `commit` writes games, their links, skipped ones, counters, message and checkpoint in one transaction, so whatever
 * dies between two commits continues behind the last, with nothing lost and nothing doubled. A user has at most one
 * unfinished import on a site. An import that has ended does not change any more, and brings no more games.
 */
import { Array as Arr, Clock, Context, Effect, Layer, Option, Schema } from "effect"
import { SecureRandom } from "effect/crypto"
import { type Migrator, SqlClient, type SqlError } from "effect/sql"
import { Checkpoint, type CheckpointByPlatform, nothingFetched } from "./domain/Checkpoint.ts"
import type { GameBatch, OddGame } from "./domain/Game.ts"
import { type ImportJob, type ImportStatus, isFinal } from "./domain/ImportJob.ts"
import type { Platform } from "./domain/Platform.ts"
import { insertGames, type Owner } from "./GameStore.ts"
import * as Migrations from "./migrations/index.ts"

/** An import to be made. */
export interface NewImport extends Owner {
  /** The most new games it stores. */
  readonly limit: number
  /** Who asks for it. */
  readonly owner: string
  readonly premium: boolean
}

/** What changes about an import. What is left out stays as it is. */
export interface StatusChange {
  readonly status: ImportStatus
  readonly message: string
  readonly startedAt?: number | undefined
  readonly finishedAt?: number | undefined
  readonly error?: string | undefined
}

/** Games of an import to be stored together. */
export interface Commit extends Owner {
  readonly batch: GameBatch
  /** How far the user's games are fetched with this batch. Not stored when `maxNew` cuts the batch. */
  readonly checkpoint: Checkpoint
  /** The most new games to store. */
  readonly maxNew: number
}

/** What a commit has done. */
export interface Committed {
  /** Games of the batch that the user did not have before. */
  readonly inserted: number
  /** Games of the batch dealt with, from the first on: all, unless `maxNew` cut it or the import has ended. */
  readonly consumed: number
  /** The import as it is now. Check its status: nothing was stored if it had ended. */
  readonly job: ImportJob
}

/** How fast imports have been lately; `null` as long as none was measured. */
export interface Speed {
  readonly gamesPerSecond: number | null
  readonly averageDurationMillis: number | null
}

/** Keeps imports. An id that it did not give out is a defect, except in `get`. */
export class ImportStore extends Context.Service<
  ImportStore,
  {
    /** Makes a queued import, or finds the user's unfinished one: then `created` is false and it is as it was. */
    readonly create: (
      request: NewImport
    ) => Effect.Effect<{ readonly job: ImportJob; readonly created: boolean }, SqlError.SqlError>
    /** Reads an import. */
    readonly get: (importId: string) => Effect.Effect<Option.Option<ImportJob>, SqlError.SqlError>
    /** Reads a user's newest import. */
    readonly latest: (user: string, platform: Platform) => Effect.Effect<Option.Option<ImportJob>, SqlError.SqlError>
    /** Reads the imports that have not ended: running ones first, then premium ones, then the oldest. */
    readonly unfinished: Effect.Effect<ReadonlyArray<ImportJob>, SqlError.SqlError>
    /** Reads the newest imports, the newest first. */
    readonly recent: (limit: number) => Effect.Effect<ReadonlyArray<ImportJob>, SqlError.SqlError>
    /** Changes an import, unless it has ended, and succeeds with it as it is then. */
    readonly setStatus: (importId: string, change: StatusChange) => Effect.Effect<ImportJob, SqlError.SqlError>
    /** Stores games and how far the import is, all or nothing. */
    readonly commit: (importId: string, commit: Commit) => Effect.Effect<Committed, SqlError.SqlError>
    /** Reads how far a user's games are fetched; one that this version cannot read counts as not at all. */
    readonly checkpoint: <P extends Platform>(
      user: string,
      platform: P
    ) => Effect.Effect<CheckpointByPlatform[P], SqlError.SqlError>
    /** Reads what an import skipped, in order: the first 100, each with up to 4,096 characters of what came. */
    readonly skipped: (importId: string) => Effect.Effect<ReadonlyArray<OddGame>, SqlError.SqlError>
    /**
     * Removes imports that ended before then, in epoch milliseconds, but for the newest of each user, and what imports
     * of that age skipped. Succeeds with how many imports it removed, in steps that leave time for others.
     */
    readonly prune: (before: number) => Effect.Effect<number, SqlError.SqlError>
    /** Reads how fast the last 20 complete imports were. */
    readonly speed: Effect.Effect<Speed, SqlError.SqlError>
  }
>()("effect-resilience/chess/ImportStore") {}

const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const random = yield* SecureRandom.SecureRandom
  const insert = insertGames(sql)
  // SQLite locks the whole file when a transaction begins.
  const forUpdate = sql.literal(sql.onDialectOrElse({ pg: () => "FOR UPDATE", orElse: () => "" }))

  const find = (importId: string, lock = sql.literal("")) =>
    Effect.map(sql<JobRow>`SELECT * FROM import_job WHERE id = ${importId} ${lock}`, firstJob)

  const existing = (importId: string) =>
    Effect.flatMap(
      find(importId, forUpdate),
      Option.match({
        onNone: () => Effect.die(new RangeError(`ImportStore: no import has the id ${importId}`)),
        onSome: Effect.succeed
      })
    )

  const create = Effect.fn("ImportStore.create")(function* (request: NewImport) {
    const { limit, owner, platform, premium, user } = request
    const row = {
      // Ids of this kind sort in the order they were made.
      id: yield* random.uuidV7(),
      platform,
      user_id: user,
      owner,
      premium: premium ? 1 : 0,
      status: "queued",
      message: "Import queued",
      imported: 0,
      checked: 0,
      skipped: 0,
      max_games: limit,
      created_at: yield* Clock.currentTimeMillis
    }
    // The import that was in the way may end before it is read; then there is room for the new one.
    for (;;) {
      const made = yield* sql<JobRow>`INSERT INTO import_job ${sql.insert(row)} ON CONFLICT DO NOTHING RETURNING *`
      if (made[0] !== undefined) return { job: toJob(made[0]), created: true }
      const rows = yield* sql<JobRow>`SELECT * FROM import_job
        WHERE platform = ${platform} AND user_id = ${user} AND ${unfinished(sql)}`
      if (rows[0] !== undefined) return { job: toJob(rows[0]), created: false }
    }
  })

  const skip = Effect.fnUntraced(function* (job: ImportJob, odd: ReadonlyArray<OddGame>) {
    const kept = odd.slice(0, Math.max(0, maxSkipped - job.skipped))
    const rows = kept.map(({ raw, reason }, index) => ({
      import_id: job.importId,
      position: job.skipped + index + 1,
      reason,
      raw: raw.slice(0, maxRaw).toWellFormed()
    }))
    if (Arr.isArrayNonEmpty(rows)) yield* sql`INSERT INTO skipped_game ${sql.insert(rows)}`.unprepared
  })

  // Looks at the imports behind `after`, oldest first, and succeeds with where the next step begins.
  const pruneStep = Effect.fnUntraced(function* (before: number, after: string) {
    const rows = yield* sql<{ id: string; created_at: Numeric; finished_at: Numeric | null; replaced: Numeric }>`
      SELECT id, created_at, finished_at, CASE WHEN EXISTS (SELECT 1 FROM import_job AS newer
        WHERE newer.platform = import_job.platform AND newer.user_id = import_job.user_id AND newer.id > import_job.id
      ) THEN 1 ELSE 0 END AS replaced
      FROM import_job WHERE id > ${after} ORDER BY id LIMIT ${pruneRows}`
    const old = rows.filter((row) => row.finished_at !== null && Number(row.finished_at) < before)
    const replaced = old.filter((row) => Number(row.replaced) === 1)
    if (old.length > 0) yield* sql`DELETE FROM skipped_game WHERE import_id IN ${sql.in(idsOf(old))}`.unprepared
    if (replaced.length > 0) yield* sql`DELETE FROM import_job WHERE id IN ${sql.in(idsOf(replaced))}`.unprepared
    const last = rows.at(-1)
    const more = rows.length === pruneRows && last !== undefined && Number(last.created_at) < before
    return { removed: replaced.length, next: more ? last.id : undefined }
  }, sql.withTransaction)

  const save = ({ checkpoint, platform, user }: Commit) =>
    sql`INSERT INTO imported_user
      ${sql.insert({ platform, user_id: user, games: 0, checkpoint: writeCheckpoint(checkpoint) })}
      ON CONFLICT (platform, user_id) DO UPDATE SET checkpoint = excluded.checkpoint`

  return ImportStore.of({
    create,
    get: Effect.fn("ImportStore.get")((importId) => find(importId)),
    latest: Effect.fn("ImportStore.latest")(function* (user, platform) {
      const rows = yield* sql<JobRow>`SELECT * FROM import_job
        WHERE platform = ${platform} AND user_id = ${user} ORDER BY id DESC LIMIT 1`
      return firstJob(rows)
    }),
    unfinished: sql<JobRow>`SELECT * FROM import_job WHERE ${unfinished(sql)}
      ORDER BY CASE status WHEN 'queued' THEN 1 ELSE 0 END, premium DESC, id`.pipe(
      Effect.map((rows) => rows.map(toJob)),
      Effect.withSpan("ImportStore.unfinished")
    ),
    recent: Effect.fn("ImportStore.recent")(function* (limit) {
      const rows = yield* sql<JobRow>`SELECT * FROM import_job ORDER BY id DESC LIMIT ${limit}`
      return rows.map(toJob)
    }),
    setStatus: Effect.fn("ImportStore.setStatus")(function* (importId, change) {
      const rows = yield* sql<JobRow>`UPDATE import_job SET
          status = ${change.status},
          message = ${change.message},
          started_at = coalesce(${change.startedAt ?? null}, started_at),
          finished_at = coalesce(${change.finishedAt ?? null}, finished_at),
          error = coalesce(${change.error ?? null}, error)
        WHERE id = ${importId} AND ${unfinished(sql)} RETURNING *`
      return rows[0] === undefined ? yield* existing(importId) : toJob(rows[0])
    }),
    commit: Effect.fn("ImportStore.commit")(function* (importId, commit) {
      const { batch, maxNew } = commit
      const before = yield* existing(importId)
      if (isFinal(before.status)) return { inserted: 0, consumed: 0, job: before }

      const { consumed, inserted } = yield* insert(commit, batch.games, maxNew)
      yield* skip(before, batch.odd)
      // The checkpoint speaks of the whole batch: of a cut one it would claim games that are not stored.
      if (consumed === batch.games.length) yield* save(commit)

      const imported = before.imported + inserted
      const rows = yield* sql<JobRow>`UPDATE import_job SET
          imported = ${imported},
          checked = ${before.checked + consumed + batch.odd.length},
          skipped = ${before.skipped + batch.odd.length},
          message = ${`Imported ${imported} games...`}
        WHERE id = ${importId} RETURNING *`
      return { inserted, consumed, job: toJob(rows[0]!) }
    }, sql.withTransaction),
    checkpoint: Effect.fn("ImportStore.checkpoint")(function* (user, platform) {
      const rows = yield* sql<{ checkpoint: string | null }>`SELECT checkpoint FROM imported_user
        WHERE platform = ${platform} AND user_id = ${user}`
      return yield* readCheckpoint(platform, rows[0]?.checkpoint ?? null)
    }),
    skipped: Effect.fn("ImportStore.skipped")(
      (importId) =>
        sql<{ reason: string; raw: string }>`SELECT reason, raw FROM skipped_game
          WHERE import_id = ${importId} ORDER BY position`
    ),
    prune: Effect.fn("ImportStore.prune")(function* (before) {
      let removed = 0
      for (let after: string | undefined = ""; after !== undefined;) {
        const step: Effect.Success<ReturnType<typeof pruneStep>> = yield* pruneStep(before, after)
        removed += step.removed
        after = step.next
        yield* Effect.yieldNow
      }
      return removed
    }),
    speed: sql<{ games: Numeric | null; millis: Numeric | null; imports: Numeric }>`
      SELECT sum(imported) AS games, sum(finished_at - started_at) AS millis, count(*) AS imports FROM (
        SELECT imported, started_at, finished_at FROM import_job
        WHERE status = 'complete' AND started_at IS NOT NULL AND finished_at IS NOT NULL
        ORDER BY id DESC LIMIT 20
      ) AS lately`.pipe(
      Effect.map((rows): Speed => {
        const games = Number(rows[0]?.games ?? 0)
        const millis = Number(rows[0]?.millis ?? 0)
        const imports = Number(rows[0]?.imports ?? 0)
        return {
          gamesPerSecond: games > 0 && millis > 0 ? (games * 1000) / millis : null,
          averageDurationMillis: imports > 0 ? millis / imports : null
        }
      }),
      Effect.withSpan("ImportStore.speed")
    )
  })
})

/** Provides the store, with its tables. */
export const layer: Layer.Layer<ImportStore, Migrator.MigrationError | SqlError.SqlError, SqlClient.SqlClient> =
  Layer.effect(ImportStore, make).pipe(Layer.provide([Migrations.layer, SecureRandom.layerWebCrypto]))

/** Skipped games that are kept per import, and characters of each. */
const maxSkipped = 100
const maxRaw = 4_096

/** Imports that one step of `prune` looks at: some milliseconds of work. */
const pruneRows = 500

const idsOf = (rows: ReadonlyArray<{ readonly id: string }>) => rows.map(({ id }) => id)

// In the words of the partial index, so that it serves the query.
const unfinished = (sql: SqlClient.SqlClient) => sql.literal("status IN ('queued', 'starting', 'importing')")

const StoredCheckpoint = Schema.fromJsonString(Schema.Struct({ version: Schema.Literal(1), checkpoint: Checkpoint }))
const encodeCheckpoint = Schema.encodeSync(StoredCheckpoint)
const decodeCheckpoint = Schema.decodeEffect(StoredCheckpoint)

const writeCheckpoint = (checkpoint: Checkpoint): string => encodeCheckpoint({ version: 1, checkpoint })

// A checkpoint that is behind is always safe, so one that cannot be read is no reason to fail.
const readCheckpoint = <P extends Platform>(
  platform: P,
  stored: string | null
): Effect.Effect<CheckpointByPlatform[P]> => {
  const nothing: CheckpointByPlatform[P] = nothingFetched[platform]
  if (stored === null) return Effect.succeed(nothing)
  return decodeCheckpoint(stored).pipe(
    // The tag belongs to the platform: a checkpoint with the right tag is of the right type.
    Effect.flatMap(({ checkpoint }) =>
      checkpoint._tag === nothing._tag
        ? Effect.succeed(checkpoint as CheckpointByPlatform[P])
        : Effect.fail(`is a checkpoint of ${checkpoint._tag}`)
    ),
    Effect.catch((error) =>
      Effect.as(Effect.logWarning(`Unreadable checkpoint, fetching from the start: ${String(error)}`), nothing)
    )
  )
}

/** A number as drivers read it: some give 64-bit integers as text. */
type Numeric = number | string | bigint

interface JobRow {
  readonly id: string
  readonly platform: Platform
  readonly user_id: string
  readonly owner: string
  readonly premium: number
  readonly status: ImportStatus
  readonly message: string
  readonly imported: number
  readonly checked: number
  readonly skipped: number
  readonly max_games: number
  readonly created_at: Numeric
  readonly started_at: Numeric | null
  readonly finished_at: Numeric | null
  readonly error: string | null
}

const firstJob = (rows: ReadonlyArray<JobRow>): Option.Option<ImportJob> =>
  rows[0] === undefined ? Option.none() : Option.some(toJob(rows[0]))

const toJob = (row: JobRow): ImportJob => ({
  importId: row.id,
  user: row.user_id,
  platform: row.platform,
  owner: row.owner,
  premium: row.premium === 1,
  status: row.status,
  message: row.message,
  imported: row.imported,
  checked: row.checked,
  skipped: row.skipped,
  limit: row.max_games,
  createdAt: Number(row.created_at),
  startedAt: row.started_at === null ? null : Number(row.started_at),
  finishedAt: row.finished_at === null ? null : Number(row.finished_at),
  error: row.error
})
