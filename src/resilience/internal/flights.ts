/**
 * Shares one run of an effect between everyone who asks for one of its keys while it is under way.
 *
 * A run belongs to those who wait for it, or to the owner of a background run: it is a fiber of its own, in the context
 * of whoever started it but without that caller's deadline. It goes on while anyone wants one of its keys; the last to
 * leave interrupts it and waits for its finalizers, so no run is ever left behind.
 */
import { Effect, Exit, Fiber } from "effect"
import * as Deadline from "../Deadline.ts"

/** A key that is equal by value, and so can be a key of a `Map`. */
export type Key = string | number | bigint | boolean

/** Receives what a run says about a key: `nothing` where it says nothing. */
type Waiter<A, E> = (answer: Effect.Effect<A, E>) => void

/** The answer for a key that a run was asked for and did not mention. */
export const nothing: Effect.Effect<never> = Effect.never

/** A test of a result that comes too late: whether it is no longer true. */
export type Doubt<K, A, E> = (key: K, exit: Exit.Exit<A, E>) => boolean

/** One key of a run, and those who wait for it. */
export interface Flight<K, A, E> {
  readonly key: K
  readonly run: Run<K, A, E>
  /** Those who wait: most flights have one. */
  waiter: Waiter<A, E> | undefined
  others: Set<Waiter<A, E>> | undefined
  /** Whether it can be joined, and its result lands. */
  open: boolean
  /** During its first step, the flight in whose first step it was started. */
  outer: Flight<K, A, E> | undefined
  /** Whether it is wanted although nobody waits for it. */
  owned: boolean
  /** What was invalidated since the run began. */
  doubts: Array<Doubt<K, A, E>> | undefined
  /** Whether a doubt was right. */
  refuted: boolean
  answer: Effect.Effect<A, E> | undefined
}

/** One fiber that finds the answer for one key or for several. */
export interface Run<K, A, E> {
  flights: ReadonlyArray<Flight<K, A, E>>
  /** Whether it may end without an answer for some of its keys. */
  readonly partial: boolean
  fiber: Fiber.Fiber<unknown, E> | undefined
  /** Its flights that have an owner or someone who waits. */
  wanted: number
}

/** The runs of one cache or single flight. `T` is what the starter of a run says of how its results are kept. */
export interface Flights<K, A, E, T = undefined> {
  /** The flights that are not over after their first step, by key. */
  readonly byKey: Map<K, Flight<K, A, E>>
  /** The flight whose first step is being taken: most are over after it, and never stand in the map. */
  starting: Flight<K, A, E> | undefined
  /** Runs whose fiber has not ended, also those that were cut off. */
  pending: number
  /** Calls that started a run. */
  started: number
  /** Calls that waited for the run of another. */
  joined: number
  /** Looks for an answer that makes a run unnecessary. */
  readonly find: (key: K, fiber: Fiber.Fiber<unknown, unknown>, since: number) => Effect.Effect<A, E> | undefined
  /**
   * Receives the result of a run that nothing interrupted, cut off or refuted, and returns the answer to those who wait if
   * it is another. What it throws becomes the run's defect.
   */
  readonly land: (
    key: K,
    exit: Exit.Exit<A, E>,
    fiber: Fiber.Fiber<unknown, unknown>,
    terms: T
  ) => Effect.Effect<A, E> | undefined
}

/** Creates a place for runs. */
export const make = <K, A, E, T = undefined>(
  options: Pick<Flights<K, A, E, T>, "find" | "land">
): Flights<K, A, E, T> => ({
  byKey: new Map(),
  starting: undefined,
  pending: 0,
  started: 0,
  joined: 0,
  find: options.find,
  land: options.land
})

/**
 * Waits for the run of `key`, or starts `work` as that run. `fiber` must be the one that evaluates the result. `since` says
 * when the caller has looked for an answer itself, in whatever `find` counts by.
 */
export const join = <K, A, E, R, T>(
  flights: Flights<K, A, E, T>,
  fiber: Fiber.Fiber<unknown, unknown>,
  key: K,
  work: (key: K) => Effect.Effect<A, E, R>,
  terms: T,
  since = 0
): Effect.Effect<A, E, R> =>
  // Everything happens in the one step that registers a callback: before it there is nothing to undo, after it the
  // handler of an interruption is in place.
  Effect.callback<A, E, R>((resume) => {
    // The fiber may have been suspended since the caller looked.
    const found = flights.find(key, fiber, since)
    if (found !== undefined) return resume(found)
    const current = underWay(flights, key)
    if (current !== undefined) {
      flights.joined++
      // Doubts that come later are no matter to those who ask now.
      const waiter =
        current.doubts === undefined && !current.run.partial
          ? resume
          : orAgain(current, current.doubts !== undefined, resume, () => {
              // One call counts once.
              flights.joined--
              return join(flights, fiber, key, work, terms)
            })
      wait(current, waiter)
      return leaving(flights, current, waiter)
    }
    const flight = startSingle(key, flights.starting)
    const { run } = flight
    flights.started++
    wait(flight, resume)
    flights.starting = flight
    // The fiber's context holds R: the type of the returned effect asks for it.
    const isOver = launch(flights, fiber, run, made(work, key) as Effect.Effect<A, E>, whole, terms)
    flights.starting = flight.outer
    flight.outer = undefined
    if (isOver) return undefined
    if (flight.open) flights.byKey.set(key, flight)
    return leaving(flights, flight, resume)
  })

/** The run that a caller of this key joins. */
export const underWay = <K, A, E, T>(flights: Flights<K, A, E, T>, key: K): Flight<K, A, E> | undefined => {
  for (let flight = flights.starting; flight !== undefined; flight = flight.outer) {
    if (flight.key === key && flight.open) return flight
  }
  return flights.byKey.size === 0 ? undefined : flights.byKey.get(key)
}

// The work of a run. What the function throws is a defect of the run, as if it had happened in it: a `try`, because a
// suspended effect for every look-up costs more than all else that one has to be asked for.
const made = <K, A, E, R>(work: (key: K) => Effect.Effect<A, E, R>, key: K): Effect.Effect<A, E, R> => {
  try {
    return work(key)
  } catch (defect) {
    return Effect.die(defect)
  }
}

/**
 * Waits for the runs of `keys`, and starts `work` as one run for those that have none. Succeeds with the answer for each
 * key in the order given, which may be `nothing`. `fiber` must be the one that evaluates the result.
 */
export const joinMany = <K, A, E, R, T>(
  flights: Flights<K, A, E, T>,
  fiber: Fiber.Fiber<unknown, unknown>,
  keys: Iterable<K>,
  work: (keys: ReadonlyArray<K>) => Effect.Effect<ReadonlyMap<K, A>, E, R>,
  terms: T
): Effect.Effect<ReadonlyMap<K, Effect.Effect<A, E>>, never, R> =>
  Effect.callback<ReadonlyMap<K, Effect.Effect<A, E>>, never, R>((resume) => {
    const answers = new Map<K, Effect.Effect<A, E>>()
    const joined: Array<Flight<K, A, E>> = []
    const asked: Array<K> = []
    for (const key of keys) {
      const found = flights.find(key, fiber, -1)
      answers.set(key, found ?? nothing)
      if (found !== undefined) continue
      const current = underWay(flights, key)
      if (current === undefined) asked.push(key)
      else joined.push(current)
    }
    flights.joined += joined.length
    flights.started += asked.length
    const run = prepare(flights, asked, true)
    const held = joined.concat(run.flights)
    const refuted: Array<K> = []
    let open = held.length
    const end = () => {
      if (refuted.length === 0) return Effect.succeed(answers)
      // One call counts once.
      flights.joined -= refuted.length
      return Effect.map(joinMany(flights, fiber, refuted, work, terms), (more) => {
        for (const [key, answer] of more) answers.set(key, answer)
        return answers
      })
    }
    const waiters = held.map((flight) => {
      const late = flight.doubts !== undefined
      const waiter: Waiter<A, E> = (answer) => {
        if (late && flight.refuted) refuted.push(flight.key)
        else answers.set(flight.key, answer)
        if (--open === 0) resume(end())
      }
      wait(flight, waiter)
      return waiter
    })
    if (open === 0) return resume(end())
    // The fiber's context holds R: the type of the returned effect asks for it.
    const effect = Effect.suspend(() => work(asked)) as Effect.Effect<ReadonlyMap<K, A>, E>
    if (asked.length > 0) launch(flights, fiber, run, effect, part, terms)
    return Effect.suspend(() =>
      Fiber.interruptAll(
        held.flatMap((flight, at) => {
          const left = leave(flights, flight, waiters[at]!)
          return left === undefined ? [] : [left]
        })
      )
    )
  })

/** Starts a run that is wanted although nobody waits for it, for keys that have none. It begins after this step. */
export const startOwned = <K, A, E, B, R, T>(
  flights: Flights<K, A, E, T>,
  fiber: Fiber.Fiber<unknown, unknown>,
  keys: ReadonlyArray<K>,
  work: Effect.Effect<B, E, R>,
  split: Split<K, A, E, B>,
  terms: T
): Run<K, A, E> => {
  const run = prepare(flights, keys, true)
  for (const flight of run.flights) flight.owned = true
  run.wanted = keys.length
  const later = Effect.flatMap(Effect.yieldNow, () => work)
  // Whoever calls this is an effect that asks for R, so the fiber's context holds it.
  launch(flights, fiber, run, later as Effect.Effect<B, E>, split, terms)
  return run
}

/** Gives an owned run up to those who wait for it. Returns the fiber to interrupt if nobody does. */
export const disown = <K, A, E, T>(
  flights: Flights<K, A, E, T>,
  run: Run<K, A, E>
): Fiber.Fiber<unknown, E> | undefined => {
  for (const flight of run.flights) {
    if (!flight.owned) continue
    flight.owned = false
    if (!isAwaited(flight)) run.wanted--
  }
  return run.wanted === 0 ? abandon(flights, run) : undefined
}

/** Cuts the run of a key off: it still answers those who wait, but is not joined and does not land. */
export const cutOff = <K, A, E, T>(flights: Flights<K, A, E, T>, key: K): void => {
  const flight = underWay(flights, key)
  if (flight === undefined) return
  close(flights, flight)
  if (!flight.owned) return
  flight.owned = false
  if (!isAwaited(flight) && --flight.run.wanted === 0) abandon(flights, flight.run)?.interruptUnsafe()
}

/** Cuts the runs of all keys off. */
export const cutOffAll = <K, A, E, T>(flights: Flights<K, A, E, T>): void => {
  for (const { key } of all(flights)) cutOff(flights, key)
}

/** Has every run under way tested when it ends: a result of which `doubt` is right neither lands nor answers later callers. */
export const doubtAll = <K, A, E, T>(flights: Flights<K, A, E, T>, doubt: Doubt<K, A, E>): void => {
  for (const flight of all(flights)) {
    flight.doubts ??= []
    // A run that has seen so much invalidated is not worth the memory of more.
    if (flight.doubts.length < 100) flight.doubts.push(doubt)
    else cutOff(flights, flight.key)
  }
}

/** What the end of a run says of one of its keys: `undefined` for nothing. */
export type Split<K, A, E, B> = (exit: Exit.Exit<B, E>, key: K) => Exit.Exit<A, E> | undefined

/** The result of a run with one key. */
export const whole = <A, E>(exit: Exit.Exit<A, E>): Exit.Exit<A, E> => exit

/** The part of a key in the result of a run with many. */
export const part = <K, A, E>(exit: Exit.Exit<ReadonlyMap<K, A>, E>, key: K): Exit.Exit<A, E> | undefined => {
  if (Exit.isFailure(exit)) return Exit.failCause(exit.cause)
  // The key is there, so what is read is an A, even if that is undefined.
  return exit.value.has(key) ? Exit.succeed(exit.value.get(key) as A) : undefined
}

/** Tells `hook` about a call before it goes on. A hook that dies is logged and does no harm to the call. */
export const observed = <K, A, E, R>(
  hook: (key: K) => Effect.Effect<unknown>,
  key: K,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.andThen(
    Effect.ignoreCause(
      Effect.suspend(() => hook(key)),
      { log: "Unhandled" }
    ),
    self
  )

// A run for keys that have none, which has not begun.
const prepare = <K, A, E, T>(flights: Flights<K, A, E, T>, keys: ReadonlyArray<K>, partial: boolean): Run<K, A, E> => {
  const prepared: Array<Flight<K, A, E>> = []
  const run: Run<K, A, E> = { flights: prepared, partial, fiber: undefined, wanted: 0 }
  for (const key of keys) {
    const flight = makeFlight(key, run, undefined)
    prepared.push(flight)
    flights.byKey.set(key, flight)
  }
  return run
}

// The same for one key, which stands in no map yet. An array that grows would be the largest part of it.
const startSingle = <K, A, E>(key: K, outer: Flight<K, A, E> | undefined): Flight<K, A, E> => {
  const run: Run<K, A, E> = { flights: none, partial: false, fiber: undefined, wanted: 0 }
  const flight = makeFlight(key, run, outer)
  run.flights = [flight]
  return flight
}

const none: ReadonlyArray<never> = []

const makeFlight = <K, A, E>(key: K, run: Run<K, A, E>, outer: Flight<K, A, E> | undefined): Flight<K, A, E> => ({
  key,
  run,
  waiter: undefined,
  others: undefined,
  open: true,
  outer,
  owned: false,
  doubts: undefined,
  refuted: false,
  answer: undefined
})

const all = <K, A, E, T>(flights: Flights<K, A, E, T>): ReadonlyArray<Flight<K, A, E>> => {
  const found = [...flights.byKey.values()]
  for (let flight = flights.starting; flight !== undefined; flight = flight.outer) {
    if (flight.open) found.push(flight)
  }
  return found
}

const close = <K, A, E, T>(flights: Flights<K, A, E, T>, flight: Flight<K, A, E>): void => {
  if (!flight.open) return
  flight.open = false
  if (flights.byKey.get(flight.key) === flight) flights.byKey.delete(flight.key)
}

// Starts the work of a run, and says whether it has ended in its first step.
const launch = <K, A, E, B, T>(
  flights: Flights<K, A, E, T>,
  starter: Fiber.Fiber<unknown, unknown>,
  run: Run<K, A, E>,
  work: Effect.Effect<B, E>,
  split: Split<K, A, E, B>,
  terms: T
): boolean => {
  flights.pending++
  const limited = Deadline.remainingMillisUnsafe(starter) < Infinity
  const started = Effect.runForkWith(starter.context)(limited ? Deadline.without(work) : work)
  run.fiber = started
  const exit = started.pollUnsafe()
  if (exit !== undefined) {
    // A fiber that has ended has no context; the one that started it is still there.
    settle(flights, run, exit, split, starter, terms)
    return true
  }
  // The run's own fiber gives the time, because the one that started it may have ended long before. It loses its context
  // when its observers have seen the end.
  started.addObserver((exit) => settle(flights, run, exit, split, started, terms))
  return false
}

// Lands every key before anyone goes on.
const settle = <K, A, E, B, T>(
  flights: Flights<K, A, E, T>,
  run: Run<K, A, E>,
  exit: Exit.Exit<B, E>,
  split: Split<K, A, E, B>,
  fiber: Fiber.Fiber<unknown, unknown>,
  terms: T
): void => {
  flights.pending--
  for (const flight of run.flights) {
    flight.answer = land(flights, flight, exit, split, fiber, terms)
    close(flights, flight)
  }
  for (const { answer = nothing, others, waiter } of run.flights) {
    waiter?.(answer)
    if (others !== undefined) for (const other of others) other(answer)
  }
}

const land = <K, A, E, B, T>(
  flights: Flights<K, A, E, T>,
  flight: Flight<K, A, E>,
  whole: Exit.Exit<B, E>,
  split: Split<K, A, E, B>,
  fiber: Fiber.Fiber<unknown, unknown>,
  terms: T
): Effect.Effect<A, E> | undefined => {
  // What those say who land it is no part of an effect: nobody else would give its defect to those who wait.
  try {
    const exit = split(whole, flight.key)
    if (exit === undefined || (Exit.isFailure(exit) && Exit.hasInterrupts(exit))) return exit
    // Also of a flight that was cut off after someone came late.
    flight.refuted = flight.doubts !== undefined && flight.doubts.some((doubt) => doubt(flight.key, exit))
    if (flight.refuted || !flight.open) return exit
    return flights.land(flight.key, exit, fiber, terms) ?? exit
  } catch (defect) {
    return Exit.die(defect)
  }
}

const wait = <K, A, E>(flight: Flight<K, A, E>, waiter: Waiter<A, E>): void => {
  if (!isAwaited(flight) && !flight.owned) flight.run.wanted++
  if (flight.waiter === undefined) flight.waiter = waiter
  else (flight.others ??= new Set()).add(waiter)
}

const isAwaited = <K, A, E>({ others, waiter }: Flight<K, A, E>): boolean =>
  waiter !== undefined || (others !== undefined && others.size > 0)

// A waiter for whom an answer that is none, or that was invalidated before it asked, is a reason to ask again.
const orAgain =
  <K, A, E, R>(
    flight: Flight<K, A, E>,
    late: boolean,
    resume: (answer: Effect.Effect<A, E, R>) => void,
    again: () => Effect.Effect<A, E, R>
  ): Waiter<A, E> =>
  (answer) =>
    resume(answer === nothing || (late && flight.refuted) ? again() : answer)

const leaving = <K, A, E, T>(
  flights: Flights<K, A, E, T>,
  flight: Flight<K, A, E>,
  waiter: Waiter<A, E>
): Effect.Effect<void> =>
  Effect.suspend(() => {
    const left = leave(flights, flight, waiter)
    return left === undefined ? Effect.void : Fiber.interrupt(left)
  })

// Takes a waiter out, and returns the fiber to interrupt if it was the last that anyone wanted something of.
const leave = <K, A, E, T>(
  flights: Flights<K, A, E, T>,
  flight: Flight<K, A, E>,
  waiter: Waiter<A, E>
): Fiber.Fiber<unknown, E> | undefined => {
  if (flight.waiter === waiter) flight.waiter = undefined
  else flight.others?.delete(waiter)
  if (isAwaited(flight) || flight.owned || --flight.run.wanted > 0) return undefined
  return abandon(flights, flight.run)
}

// A caller that comes while the finalizers run must not join work that is coming to an end.
const abandon = <K, A, E, T>(flights: Flights<K, A, E, T>, run: Run<K, A, E>): Fiber.Fiber<unknown, E> | undefined => {
  for (const flight of run.flights) close(flights, flight)
  return run.fiber
}
