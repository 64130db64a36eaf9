/**
 * Shares one run of an effect between everyone who asks for its key while it is under way.
 *
 * A run belongs to those who wait for it and to nobody in particular: it is a fiber of its own, in the context of
 * whoever started it but without that caller's deadline. It goes on while anyone waits; the last to leave interrupts it
 * and waits for its finalizers, so no run is ever left behind.
 */
import { Effect, Exit, Fiber } from "effect"
import * as Deadline from "../Deadline.ts"

/** A key that is equal by value, and so can be a key of a `Map`. */
export type Key = string | number | bigint | boolean

/** One run and those who wait for it. */
interface Flight<A, E> {
  readonly waiters: Set<(exit: Exit.Exit<A, E>) => void>
  fiber: Fiber.Fiber<A, E> | undefined
}

/** The runs of one cache or single flight. */
export interface Flights<K, A, E> {
  /** The run that a caller of this key joins. Whoever deletes the key here cuts the run off from later callers. */
  readonly byKey: Map<K, Flight<A, E>>
  /** Runs whose fiber has not ended, also those that were cut off. */
  pending: number
  /** Calls that started a run. */
  started: number
  /** Calls that waited for the run of another. */
  joined: number
  /** Looks for an answer that makes a run unnecessary. */
  readonly find: (key: K, fiber: Fiber.Fiber<unknown, unknown>) => Effect.Effect<A, E> | undefined
  /** Receives the result of a run that nothing interrupted or cut off. What it throws becomes the run's defect. */
  readonly land: (key: K, exit: Exit.Exit<A, E>, fiber: Fiber.Fiber<unknown, unknown>) => void
}

/** Creates a place for runs. */
export const make = <K, A, E>(options: Pick<Flights<K, A, E>, "find" | "land">): Flights<K, A, E> => ({
  byKey: new Map(),
  pending: 0,
  started: 0,
  joined: 0,
  find: options.find,
  land: options.land
})

/** Waits for the run of `key`, or starts `work` as that run. `fiber` must be the one that evaluates the result. */
export const join = <K, A, E, R>(
  flights: Flights<K, A, E>,
  fiber: Fiber.Fiber<unknown, unknown>,
  key: K,
  work: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  // Everything happens in the one step that registers a callback: before it there is nothing to undo, after it the
  // handler of an interruption is in place.
  Effect.callback<A, E, R>((resume) => {
    // The fiber may have been suspended since the caller looked.
    const found = flights.find(key, fiber)
    if (found !== undefined) return resume(found)
    const current = flights.byKey.get(key)
    if (current !== undefined) {
      flights.joined++
      current.waiters.add(resume)
      return leave(flights, key, current, resume)
    }
    const flight: Flight<A, E> = { waiters: new Set([resume]), fiber: undefined }
    flights.started++
    flights.pending++
    flights.byKey.set(key, flight)
    // The fiber's context holds R: the type of the returned effect asks for it.
    const started = Effect.runForkWith(fiber.context)(run(flights, key, flight, work as Effect.Effect<A, E>, fiber))
    flight.fiber = started
    started.addObserver((exit) => {
      flights.pending--
      if (flights.byKey.get(key) === flight) flights.byKey.delete(key)
      for (const waiter of flight.waiters) waiter(exit)
    })
    return leave(flights, key, flight, resume)
  })

const run = <K, A, E>(
  flights: Flights<K, A, E>,
  key: K,
  flight: Flight<A, E>,
  work: Effect.Effect<A, E>,
  starter: Fiber.Fiber<unknown, unknown>
): Effect.Effect<A, E> =>
  // The run's own fiber gives the time: the one that started it may have ended long before, and a fiber that has ended
  // has no context.
  Effect.withFiber((fiber) =>
    Effect.onExitPrimitive(
      Deadline.remainingMillisUnsafe(starter) === Infinity ? work : Deadline.without(work),
      (exit) => {
        if (!Exit.hasInterrupts(exit) && flights.byKey.get(key) === flight) flights.land(key, exit, fiber)
        return undefined
      }
    )
  )

const leave = <K, A, E>(
  flights: Flights<K, A, E>,
  key: K,
  flight: Flight<A, E>,
  waiter: (exit: Exit.Exit<A, E>) => void
): Effect.Effect<void> =>
  Effect.suspend(() => {
    flight.waiters.delete(waiter)
    if (flight.waiters.size > 0 || flight.fiber === undefined) return Effect.void
    // A caller that comes while the finalizers run must not join work that is coming to an end.
    if (flights.byKey.get(key) === flight) flights.byKey.delete(key)
    return Fiber.interrupt(flight.fiber)
  })

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
