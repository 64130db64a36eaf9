/**
 * The state of one import of one user's games, as the API shows it and the store keeps it.
 */
import type { Platform } from "./Platform.ts"

/** Where an import is. The last three are final. */
export type ImportStatus = "queued" | "starting" | "importing" | "complete" | "failed" | "cancelled"

/** Whether an import in this status will not change any more. */
export const isFinal = (status: ImportStatus): boolean =>
  status === "complete" || status === "failed" || status === "cancelled"

/** One import. Times are epoch milliseconds. */
export interface ImportJob {
  readonly importId: string
  /** The user whose games are imported, lower case. */
  readonly user: string
  readonly platform: Platform
  /** Who asked: the user of the API key, or the client's address. Never shown. */
  readonly owner: string
  readonly premium: boolean
  readonly status: ImportStatus
  readonly message: string
  /** New games stored by this import. */
  readonly imported: number
  /** Games looked at: imported, already stored, and skipped ones. */
  readonly checked: number
  /** Games that could not be kept. */
  readonly skipped: number
  /** The most new games this import stores. */
  readonly limit: number
  readonly createdAt: number
  readonly startedAt: number | null
  readonly finishedAt: number | null
  readonly error: string | null
}
