/**
 * Decides which imports run, which wait and which are refused.
 *
 * At most `total` imports hold a slot, at most `maxQueued` more wait, and no owner has more than `maxPerOwner` of both.
 * Premium imports go first, then the oldest. An import that can do nothing for a while rests: it has no slot, and is
 * limited like one that waits. It leaves only when it has ended, so the entries are exactly the unfinished imports, and
 * a restart fills them again from the store in the order they had.
 *
 * Local to the process: what it knows is rebuilt from the store, never saved.
 */
import { Deferred, Duration, Effect, Schema } from "effect"

/** The running and the waiting imports of this process. */
export interface ImportSlots {
  /**
   * Runs `create` with a place kept, and enters what it made there; an `undefined` entry gives the place back. Fails
   * with a refusal, before `create` runs, when there is no place.
   */
  readonly admit: <A extends { readonly entry: Entry | undefined }, E, R>(
    owner: string,
    create: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | ImportQueueFull | TooManyImports, R>
  /**
   * Enters the unfinished imports of an earlier process, whatever the limits are. Those that had a slot come first, in
   * the given order; the others queue like new ones.
   */
  readonly restore: (entries: ReadonlyArray<Entry & { readonly hadSlot: boolean }>) => Effect.Effect<void>
  /** Waits until the import has a slot. Returns at once when it has one, and never when it is not entered. */
  readonly turn: (importId: string) => Effect.Effect<void>
  /**
   * Takes an import's slot for the first that waits, until it wants one again. Does nothing for one without a slot.
   */
  readonly rest: (importId: string) => Effect.Effect<void>
  /**
   * Queues an import that rests, before those created after it, or gives it a free slot; `turn` waits for that. Does
   * nothing for one that does not rest.
   */
  readonly resume: (importId: string) => Effect.Effect<void>
  /** Ends an import's stay, and gives its slot to the first that waits. Does nothing for one that is not entered. */
  readonly leave: (importId: string) => Effect.Effect<void>
  /** Reads who runs and who waits. */
  readonly state: Effect.Effect<State>
  /** Reads where an import waits, or `undefined` for one that does not wait. */
  readonly waiting: (importId: string) => Effect.Effect<Waiting | undefined>
}

/** An unfinished import, as far as the order of the queue depends on it. */
export interface Entry {
  readonly importId: string
  readonly owner: string
  readonly premium: boolean
  readonly createdAt: number
}

/** Where an import waits. */
export interface Waiting {
  readonly importId: string
  /** 1 for the next to run. */
  readonly position: number
  /** How long it will probably wait still, or `null` while too little was measured to say. */
  readonly wait: Duration.Duration | null
}

/** The slots at one moment. */
export interface State {
  readonly total: number
  readonly available: number
  /** The ids of the imports that hold a slot, the longest first. */
  readonly running: ReadonlyArray<string>
  /** The imports that wait, the next to run first. */
  readonly waiting: ReadonlyArray<Waiting>
  /** The ids of the imports that rest, the longest first. */
  readonly resting: ReadonlyArray<string>
}

/** How many imports are let in. */
export interface Options {
  /** Imports that run at the same time. Defaults to 2. */
  readonly total?: number | undefined
  /** Imports that may wait or rest while every slot is taken. Defaults to 100. */
  readonly maxQueued?: number | undefined
  /** Unfinished imports that one owner may have. Defaults to 5. */
  readonly maxPerOwner?: number | undefined
  /** What the wait estimates are made of. Defaults to nothing: every estimate is `null`. */
  readonly estimates?: Estimates | undefined
}

/** What was measured so far. Read synchronously, each time an estimate is made. */
export interface Estimates {
  /** Milliseconds a running import will probably take still, or `null` when that cannot be said. */
  readonly remaining: (importId: string) => number | null
  /** Milliseconds an import takes on average, or `null` when none was measured. */
  readonly average: () => number | null
}

/** The import was refused: every place is taken, by imports that run, wait and rest. */
export class ImportQueueFull extends Schema.TaggedError<ImportQueueFull>()("ImportQueueFull", {
  running: Schema.Int,
  /** Those that rest included. */
  waiting: Schema.Int,
  /** When a place will probably be free; a minute when nothing was measured. */
  retryAfter: Schema.Duration
}) {
  override get message() {
    return `Import queue full: ${this.running} running, ${this.waiting} waiting`
  }
}

/** The import was refused: its owner has as many unfinished ones as allowed. */
export class TooManyImports extends Schema.TaggedError<TooManyImports>()("TooManyImports", {
  maxPerOwner: Schema.Int,
  /** When one of the running imports will probably end; a minute when nothing was measured. */
  retryAfter: Schema.Duration
}) {
  override get message() {
    return `Too many imports: at most ${this.maxPerOwner} unfinished ones are allowed at the same time`
  }
}

/** Creates the slots, all of them free. Options that make no sense are a defect. */
export const make = (options: Options = {}): Effect.Effect<ImportSlots> =>
  Effect.sync(() => {
    const total = atLeast(1, "total", options.total ?? 2)
    const maxQueued = atLeast(0, "maxQueued", options.maxQueued ?? 100)
    const maxPerOwner = atLeast(1, "maxPerOwner", options.maxPerOwner ?? 5)
    const estimates = options.estimates ?? { remaining: () => null, average: () => null }

    const places = new Map<string, Place>()
    const running: Array<Place> = []
    const waiting: Array<Place> = []
    const resting: Array<Place> = []
    // Places kept while their import is being created; they count as entered.
    let kept = 0
    let sequence = 0
    const perOwner = new Map<string, number>()

    const count = (owner: string, change: 1 | -1) => {
      const next = (perOwner.get(owner) ?? 0) + change
      if (next === 0) perOwner.delete(owner)
      else perOwner.set(owner, next)
    }

    const fill = () => {
      while (running.length < total) {
        const next = waiting.shift()
        if (next === undefined) return
        running.push(next)
        Deferred.doneUnsafe(next.turn, Effect.void)
      }
    }

    const queue = (place: Place) => {
      let at = waiting.length
      while (at > 0 && isBefore(place, waiting[at - 1]!)) at--
      waiting.splice(at, 0, place)
      fill()
    }

    const enter = (entry: Entry, rank: Rank) => {
      if (places.has(entry.importId)) return
      const place: Place = { entry, rank, sequence: sequence++, turn: Deferred.makeUnsafe() }
      places.set(entry.importId, place)
      count(entry.owner, 1)
      queue(place)
    }

    const take = (importId: string, from: Array<Place>): Place | undefined => {
      const at = from.findIndex((place) => place.entry.importId === importId)
      return at < 0 ? undefined : from.splice(at, 1)[0]
    }

    const waits = (upTo: number): ReadonlyArray<number | null> => {
      const average = estimates.average()
      const free = running.map((place) => estimates.remaining(place.entry.importId) ?? Infinity)
      while (free.length < total) free.push(0)
      const result: Array<number | null> = []
      for (let i = 0; i < upTo; i++) {
        const soonest = free.indexOf(Math.min(...free))
        const wait = free[soonest]!
        result.push(Number.isFinite(wait) ? wait : null)
        free[soonest] = wait + (average ?? Infinity)
      }
      return result
    }

    const toWaiting = (place: Place, index: number, wait: number | null): Waiting => ({
      importId: place.entry.importId,
      position: index + 1,
      wait: wait === null ? null : Duration.millis(wait)
    })

    const retryAfter = () => {
      // How long an import rests, and so when it ends, was not measured.
      const soonest = (places.size > 0 && running.length === 0 ? null : waits(1)[0]) ?? 60_000
      return Duration.millis(Math.max(1000, soonest))
    }

    const keep = (owner: string) =>
      Effect.suspend((): Effect.Effect<void, ImportQueueFull | TooManyImports> => {
        if ((perOwner.get(owner) ?? 0) >= maxPerOwner) {
          return Effect.fail(new TooManyImports({ maxPerOwner, retryAfter: retryAfter() }))
        }
        if (places.size + kept >= total + maxQueued) {
          return Effect.fail(
            new ImportQueueFull({
              running: running.length,
              waiting: waiting.length + resting.length,
              retryAfter: retryAfter()
            })
          )
        }
        kept++
        count(owner, 1)
        return Effect.void
      })

    return {
      admit: (owner, create) =>
        Effect.acquireUseRelease(
          keep(owner),
          () => create,
          (_, exit) =>
            Effect.sync(() => {
              kept--
              count(owner, -1)
              const entry = exit._tag === "Success" ? exit.value.entry : undefined
              if (entry !== undefined) enter(entry, rankOf(entry))
            })
        ),
      restore: (entries) =>
        Effect.sync(() => entries.forEach((entry) => enter(entry, entry.hadSlot ? "running" : rankOf(entry)))),
      turn: (importId) =>
        Effect.suspend(() => {
          const place = places.get(importId)
          return place === undefined ? Effect.never : Deferred.await(place.turn)
        }),
      rest: (importId) =>
        Effect.sync(() => {
          const place = take(importId, running)
          if (place === undefined) return
          const rested = { ...place, rank: rankOf(place.entry), turn: Deferred.makeUnsafe<void>() }
          places.set(importId, rested)
          resting.push(rested)
          fill()
        }),
      resume: (importId) =>
        Effect.sync(() => {
          const place = take(importId, resting)
          if (place !== undefined) queue(place)
        }),
      leave: (importId) =>
        Effect.sync(() => {
          const place = take(importId, running) ?? take(importId, waiting) ?? take(importId, resting)
          if (place === undefined) return
          places.delete(importId)
          count(place.entry.owner, -1)
          fill()
        }),
      state: Effect.sync(() => {
        const estimated = waits(waiting.length)
        return {
          total,
          available: total - running.length,
          running: running.map((place) => place.entry.importId),
          waiting: waiting.map((place, index) => toWaiting(place, index, estimated[index] ?? null)),
          resting: resting.map((place) => place.entry.importId)
        }
      }),
      waiting: (importId) =>
        Effect.sync(() => {
          const index = waiting.findIndex((place) => place.entry.importId === importId)
          const place = waiting[index]
          return place === undefined ? undefined : toWaiting(place, index, waits(index + 1)[index] ?? null)
        })
    }
  })

/** What is known about a running import when its remaining time is estimated. */
export interface Pace {
  /** Games it has looked at, and how many new ones it may still store. */
  readonly checked: number
  readonly left: number
  /** Milliseconds since it began. */
  readonly elapsed: number
  /** Games per second and milliseconds per import that recent imports took, or `null` when none was measured. */
  readonly gamesPerSecond: number | null
  readonly average: number | null
}

/**
 * Estimates how many milliseconds a running import will take still: the time its limit still allows at its speed, but no
 * more than what an average import has left. One that has outlived half an average is expected to take as long again as
 * it has taken (Lindy's rule). `null` when neither can be said.
 */
export const estimateRemaining = (pace: Pace): number | null => {
  // The first second is the connection's, not the stream's.
  const own = pace.elapsed > 1000 && pace.checked > 0 ? (pace.checked / pace.elapsed) * 1000 : null
  const speed = own ?? pace.gamesPerSecond
  const byLimit = speed === null || speed <= 0 ? null : (pace.left / speed) * 1000
  const byAverage = pace.average === null ? null : Math.max(pace.average - pace.elapsed, pace.elapsed)
  if (byLimit === null || byAverage === null) return byLimit ?? byAverage
  return Math.min(byLimit, byAverage)
}

type Rank = "running" | "premium" | "normal"

interface Place {
  readonly entry: Entry
  readonly rank: Rank
  readonly sequence: number
  readonly turn: Deferred.Deferred<void>
}

const ranks = { running: 0, premium: 1, normal: 2 }

const rankOf = (entry: Entry): Rank => (entry.premium ? "premium" : "normal")

const isBefore = (a: Place, b: Place): boolean => {
  if (a.rank !== b.rank) return ranks[a.rank] < ranks[b.rank]
  // What was running keeps the order it was given in.
  if (a.rank !== "running" && a.entry.createdAt !== b.entry.createdAt) return a.entry.createdAt < b.entry.createdAt
  return a.sequence < b.sequence
}

const atLeast = (min: number, name: string, value: number): number => {
  if (Number.isInteger(value) && value >= min) return value
  throw new RangeError(`ImportSlots: ${name} must be an integer >= ${min}, got ${value}`)
}
