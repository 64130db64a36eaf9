/**
 * Fetches a user's games from Chess.com, month by month, newest month first.
 *
 * A month comes as one body, so it is stored in several transactions and counts as read with the last of them. It is
 * done when it was read after it had ended, some days after, because games finish and appear late; until then its ETag
 * makes asking again cheap. Months that are done are never asked for again.
 */
import { Clock, DateTime, Duration, Effect } from "effect"
import type { SqlError } from "effect/sql"
import { ChessCom } from "./ChessCom.ts"
import type { ChessComCheckpoint } from "./domain/Checkpoint.ts"
import { type BatchOptions, fit, type ImportTarget } from "./ImportTarget.ts"
import type { UpstreamError, UserNotFound } from "./UpstreamError.ts"

/** When a month is done. */
export interface Options extends BatchOptions {
  /** How long after its end a month is asked for again. Defaults to 3 days. */
  readonly settleFor?: Duration.Input | undefined
}

/**
 * Prepares the import of one user, an effect that can be run again when it failed: each run continues from what is
 * stored, and ends when every month was read or the import has all the games it may have.
 */
export const make = (
  target: ImportTarget<ChessComCheckpoint>,
  options: Options = {}
): Effect.Effect<void, UpstreamError | UserNotFound | SqlError.SqlError, ChessCom> => {
  const settleFor = Duration.toMillis(options.settleFor ?? "3 days")
  const maxGames = options.maxGames ?? 500

  return Effect.gen(function* () {
    const chessCom = yield* ChessCom
    let position = yield* target.position
    for (const month of yield* chessCom.archives(target.user)) {
      if (target.left() <= 0) return
      const key = keyOf(month)
      const stored = position.months[key]
      if (stored?.done === true) continue

      const done = endOf(month) + settleFor <= (yield* Clock.currentTimeMillis)
      const etag = stored?.etag ?? undefined
      const answer = yield* chessCom.month({ user: target.user, month, ...(etag === undefined ? undefined : { etag }) })
      const isNew = answer._tag === "Games"
      const read: ChessComCheckpoint = {
        ...position,
        months: { ...position.months, [key]: { etag: (isNew ? answer.etag : etag) ?? null, done } }
      }
      const { games, odd } = isNew ? answer.batch : nothing
      let at = 0
      do {
        const some = games.slice(at, at + maxGames)
        at += maxGames
        const fitting = yield* fit(target, some)
        const complete = at >= games.length && fitting.length === some.length
        yield* target.commit({ games: fitting, odd: complete ? odd : [] }, complete ? read : position)
        if (complete) position = read
      } while (at < games.length && target.left() > 0)
    }
  })
}

interface Month {
  readonly year: number
  readonly month: number
}

const nothing = { games: [], odd: [] }

const keyOf = ({ year, month }: Month): string => `${year}-${String(month).padStart(2, "0")}`

// Months are taken to end at midnight UTC; `settleFor` is far longer than any error in that.
const endOf = ({ year, month }: Month): number =>
  DateTime.toEpochMillis(DateTime.add(DateTime.makeUnsafe({ year, month, day: 1 }), { months: 1 }))
