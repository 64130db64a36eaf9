/**
 * Fetches a user's games from Lichess: first what is newer than the stored ones, then what is older.
 *
 * The stored games are one span of time without holes, from `oldest` to `newest`. New games are read oldest first, old
 * ones newest first, so the span grows with every commit and a stream that ends anywhere loses nothing.
 *
 * A stream has no end mark: one that was cut can look complete. The beginning of the history counts as reached when
 * asking again behind the oldest game brings nothing new, twice. A correspondence game is listed where it was created
 * and appears when it ends, so the newest part of the span is read again each time, with a wider overlap for users who
 * play such games.
 */
import { Duration, Effect } from "effect"
import type { SqlError } from "effect/sql"
import type { LichessCheckpoint } from "./domain/Checkpoint.ts"
import type { GameBatch } from "./domain/Game.ts"
import { type BatchOptions, collect, type ImportTarget } from "./ImportTarget.ts"
import { Lichess } from "./Lichess.ts"
import type { UpstreamError, UserNotFound } from "./UpstreamError.ts"

/** How much is asked for again. */
export interface Options extends BatchOptions {
  /** How far before the newest stored game new games are looked for. Defaults to 1 day. */
  readonly overlap?: Duration.Input | undefined
  /** The same for users who play correspondence games. Defaults to 30 days. */
  readonly correspondenceOverlap?: Duration.Input | undefined
}

/**
 * Prepares the import of one user, an effect that can be run again when it failed: each run continues from what is
 * stored, and ends when the history is complete or the import has all the games it may have.
 */
export const make = (
  target: ImportTarget<LichessCheckpoint>,
  options: Options = {}
): Effect.Effect<void, UpstreamError | UserNotFound | SqlError.SqlError, Lichess> => {
  const overlap = Duration.toMillis(options.overlap ?? "1 day")
  const correspondenceOverlap = Duration.toMillis(options.correspondenceOverlap ?? "30 days")

  // Where reading forwards has come to, inclusive. Not stored: a new process begins with the overlap again.
  let since: number | undefined
  let newGamesRead = false
  // How often in a row nothing came from behind the oldest game.
  let nothingOlder = 0

  const readNewGames = Effect.gen(function* () {
    const lichess = yield* Lichess
    let position = yield* target.position
    // Reading backwards from now on covers what is new.
    newGamesRead = position.newest === null
    if (position.newest === null || position.oldest === null) return
    const overlapped = position.newest - (position.correspondence ? correspondenceOverlap : overlap)
    since ??= Math.max(earliest, position.oldest, overlapped)
    let fruitless = 0
    while (target.left() > 0 && fruitless < confirmations) {
      const from = since
      let edge: ReadonlyArray<number> = []
      const { inserted } = yield* collect(
        target,
        lichess.games({ user: target.user, since: from, order: "oldest-first" }),
        (batch) => {
          edge = edgeOf(edge, batch)
          const safe = edge.length === 0 ? from : Math.min(...edge)
          const next: LichessCheckpoint = {
            ...position,
            newest: Math.max(position.newest ?? safe, safe),
            ...(hasCorrespondence(batch) ? { correspondence: true } : undefined)
          }
          return Effect.map(target.commit(batch, next), (fresh) => {
            position = next
            since = Math.max(from, safe)
            return fresh
          })
        },
        options
      )
      // What is newest is listed again each time: an answer that does not reach it was cut.
      if (inserted === 0 && Math.max(...edge) >= (position.newest ?? 0)) break
      fruitless = inserted === 0 && since === from ? fruitless + 1 : 0
    }
    newGamesRead = true
  })

  const readOldGames = Effect.gen(function* () {
    const lichess = yield* Lichess
    let position = yield* target.position
    // Games at the edge are listed again and must not use up what may be stored.
    let slack = position.oldest === null ? 0 : edgeGames
    while (target.left() > 0 && !position.reachedStart) {
      const { oldest } = position
      const max = target.left() + slack
      let edge: ReadonlyArray<number> = []
      const { inserted, received } = yield* collect(
        target,
        lichess.games({
          user: target.user,
          max,
          order: "newest-first",
          ...(oldest === null ? undefined : { until: oldest + 1 })
        }),
        (batch) => {
          edge = edgeOf(edge, batch)
          const safe = edge.length === 0 ? oldest : Math.max(...edge)
          const next: LichessCheckpoint = {
            ...position,
            newest: position.newest ?? batch.games[0]?.playedAt ?? null,
            oldest: position.oldest === null || safe === null ? safe : Math.min(position.oldest, safe),
            ...(hasCorrespondence(batch) ? { correspondence: true } : undefined)
          }
          return Effect.map(target.commit(batch, next), (fresh) => {
            position = next
            return fresh
          })
        },
        options
      )
      const full = received >= max
      slack = Math.max(edgeGames, full && inserted === 0 ? slack * 2 : slack)
      if (inserted > 0) nothingOlder = 0
      else if (!full && ++nothingOlder >= confirmations) {
        position = { ...position, reachedStart: true }
        yield* target.commit({ games: [], odd: [] }, position)
      }
    }
  })

  return Effect.suspend(() => (newGamesRead ? readOldGames : Effect.andThen(readNewGames, readOldGames)))
}

/** Lichess has no games before this and refuses to be asked for them. */
const earliest = 1_356_998_400_070

/** How often asking again must bring nothing new before there is nothing. */
const confirmations = 2

// A game may come a little out of order. The edge is the last few games, and only what all of them have passed is
// counted as read.
const edgeSize = 3

/** Games that are expected at the edge: those above, and some that were created in the same millisecond. */
const edgeGames = 8

const edgeOf = (edge: ReadonlyArray<number>, batch: GameBatch): ReadonlyArray<number> =>
  [...edge, ...batch.games.slice(-edgeSize).map((game) => game.playedAt)].slice(-edgeSize)

const hasCorrespondence = (batch: GameBatch): boolean => batch.games.some((game) => game.speed === "correspondence")
