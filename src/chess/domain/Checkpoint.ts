/**
 * How far a user's games have been fetched from a site, so that the next import asks only for the rest.
 *
 * It is stored in the same transaction as the games it speaks of. An older one is always safe: it makes an import look
 * again at games that are stored already.
 */
import { Schema } from "effect"
import type { Platform } from "./Platform.ts"

/** The span of stored Lichess games, which has no holes. Times are the games' `playedAt`, in epoch milliseconds. */
export const LichessCheckpoint = Schema.TaggedStruct("Lichess", {
  /** The newest stored game; `null` before the first. */
  newest: Schema.NullOr(Schema.Int),
  /** The oldest stored game; `null` before the first. */
  oldest: Schema.NullOr(Schema.Int),
  /** Whether there is no game before `oldest`. */
  reachedStart: Schema.Boolean,
  /** Whether a correspondence game is among them; absent means not. Such games appear long after they were created. */
  correspondence: Schema.optional(Schema.Boolean)
})
export type LichessCheckpoint = typeof LichessCheckpoint.Type

/** A month whose archive was read, and every game of it stored. */
export const MonthCheckpoint = Schema.Struct({
  /** The entity tag of the archive that was read last; `null` when it had none. */
  etag: Schema.NullOr(Schema.String),
  /** Whether it was read long enough after the month had ended that no more games can appear in it. */
  done: Schema.Boolean
})
export type MonthCheckpoint = typeof MonthCheckpoint.Type

/** The Chess.com archives read so far, by month: `2024-10`. */
export const ChessComCheckpoint = Schema.TaggedStruct("ChessCom", {
  months: Schema.Record(Schema.String, MonthCheckpoint)
})
export type ChessComCheckpoint = typeof ChessComCheckpoint.Type

/** How far a user's games have been fetched from one of the sites. */
export const Checkpoint = Schema.Union([LichessCheckpoint, ChessComCheckpoint])
export type Checkpoint = typeof Checkpoint.Type

/** The checkpoint of a site, by the name of the site. */
export interface CheckpointByPlatform {
  readonly lichess: LichessCheckpoint
  readonly "chess.com": ChessComCheckpoint
}

/** The checkpoints before anything was fetched. */
export const nothingFetched: { readonly [P in Platform]: CheckpointByPlatform[P] } = {
  lichess: { _tag: "Lichess", newest: null, oldest: null, reachedStart: false },
  "chess.com": { _tag: "ChessCom", months: {} }
}
