/**
 * What an import algorithm reads from and writes to: one import of one user.
 *
 * Games are committed together with the position that says what need not be asked for again, so a process that dies
 * between two commits continues behind the last. `collect` turns a stream of decoded chunks into such commits: as many
 * games as are worth one transaction, or as many as came within a second.
 */
import { type Duration, Effect, Semaphore, Stream } from "effect"
import type { SqlError } from "effect/sql"
import type { Game, GameBatch, OddGame } from "./domain/Game.ts"

/** One import, seen by the algorithm that fetches its games. `P` is the position it keeps in the store. */
export interface ImportTarget<P> {
  /** The user whose games are imported, lower case. */
  readonly user: string
  /** How many new games the import may still store. */
  readonly left: () => number
  /** Reads the position up to which the user's games are stored. */
  readonly position: Effect.Effect<P, SqlError.SqlError>
  /** Of these ids, the games already stored for the user. */
  readonly known: (ids: ReadonlyArray<string>) => Effect.Effect<ReadonlySet<string>, SqlError.SqlError>
  /** Stores games and position in one transaction, and succeeds with how many of the games were new. */
  readonly commit: (batch: GameBatch, position: P) => Effect.Effect<number, SqlError.SqlError>
}

/** How games are grouped into transactions. */
export interface BatchOptions {
  /** Games in one transaction. Defaults to 500. */
  readonly maxGames?: number | undefined
  /** How long a game waits for others before it is stored. Defaults to 1 second. */
  readonly maxWait?: Duration.Input | undefined
}

/** What a stream brought. */
export interface Collected {
  /** Everything that came, games and odd lines, stored before or not. */
  readonly received: number
  /** Games that were new. */
  readonly inserted: number
}

/** Cuts games, in the order they came, where the next one would be a new game too many. */
export const fit = <P>(
  target: ImportTarget<P>,
  games: ReadonlyArray<Game>
): Effect.Effect<ReadonlyArray<Game>, SqlError.SqlError> => {
  const left = target.left()
  if (games.length <= left) return Effect.succeed(games)
  return Effect.map(target.known(games.map((game) => game.id)), (known) => {
    const fresh = new Set<string>()
    const end = games.findIndex((game) => {
      if (known.has(game.id)) return false
      return fresh.add(game.id).size > left
    })
    return end === -1 ? games : games.slice(0, end)
  })
}

/**
 * Stores what a stream brings, until it ends or the import has all the games it may have; then the stream is closed.
 *
 * `commit` stores one transaction, games in the order they came, and succeeds with how many were new. What came before
 * a failure or an interruption is stored too.
 */
export const collect = Effect.fnUntraced(function* <P, E, R>(
  target: ImportTarget<P>,
  stream: Stream.Stream<GameBatch, E, R>,
  commit: (batch: GameBatch) => Effect.Effect<number, SqlError.SqlError>,
  options: BatchOptions = {}
): Effect.fn.Return<Collected, E | SqlError.SqlError, R> {
  const maxGames = options.maxGames ?? 500
  const maxWait = options.maxWait ?? "1 second"
  const storing = yield* Semaphore.make(1)
  let games: Array<Game> = []
  let odd: Array<OddGame> = []
  let received = 0
  let inserted = 0
  // Set when a game was left out, by the limit or by a failed commit: storing a later one would leave a hole.
  let closed = false

  const store = Effect.suspend(() => {
    if (closed || (games.length === 0 && odd.length === 0)) return Effect.void
    const batch: GameBatch = { games, odd }
    games = []
    odd = []
    return fit(target, batch.games).pipe(
      Effect.flatMap((fitting) =>
        Effect.map(commit({ games: fitting, odd: batch.odd }), (fresh) => {
          inserted += fresh
          if (fitting.length < batch.games.length) closed = true
        })
      ),
      Effect.onError(() =>
        Effect.sync(() => {
          closed = true
        })
      )
    )
  }).pipe(storing.withPermit, Effect.uninterruptible)

  const worthStoring = () => games.length + odd.length >= Math.min(maxGames, Math.max(target.left(), smallest))
  const mayGoOn = () => !closed && target.left() > 0

  const receive = Stream.runForEachWhile(stream, (batch) => {
    received += batch.games.length + batch.odd.length
    // Not spread into push: a chunk may be thousands of arguments.
    for (const game of batch.games) games.push(game)
    for (const line of batch.odd) odd.push(line)
    return worthStoring() ? Effect.map(store, mayGoOn) : Effect.sync(mayGoOn)
  })
  // Ends when the limit is reached, even if the stream brings nothing any more.
  const storeRegularly = Effect.repeat(Effect.delay(store, maxWait), { while: mayGoOn })

  yield* Effect.raceFirst(receive, storeRegularly).pipe(
    // The games that came are good, whatever ended the stream.
    Effect.tapError(() => store),
    Effect.onInterrupt(() => Effect.ignore(store))
  )
  yield* store
  return { received, inserted }
})

/** Fewer games are not worth a transaction, even when the import may store only one more. */
const smallest = 50
