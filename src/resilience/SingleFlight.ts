/**
 * Lets concurrent calls with one key share one run, and keeps nothing afterwards.
 *
 * The first call runs its effect, the others wait for its result: success, failure or defect. The run goes on while
 * anyone waits, whoever started it, and is interrupted when nobody does.
 *
 * Put it outside everything that costs something: retries, limits, the call itself. A deadline or timeout outside it
 * bounds one caller's wait and leaves the shared run to the others: the run has no deadline but those inside it. It
 * sees the services, span and log annotations of the caller that started it.
 *
 * Calls with one key must be interchangeable, and so must not write. A run that calls for its own key waits for itself.
 */
import { Effect } from "effect"
import * as flights from "./internal/flights.ts"

/** Calls that are shared while they run. */
export interface SingleFlight<K extends Key, A, E = never> {
  /** Runs the effect, or waits for the run of the same key that is under way. */
  readonly execute: (options: { readonly key: K }) => <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Counts the runs now and the calls so far. */
  readonly state: Effect.Effect<State>
}

/** A key that is equal by value. Build one from an object: `${platform}:${user}`. */
export type Key = flights.Key

/** The calls of a single flight. */
export interface State {
  /** Runs that have not ended. */
  readonly pending: number
  /** Calls that started a run. */
  readonly started: number
  /** Calls that waited for the run of another. */
  readonly joined: number
}

/** How calls are shared. */
export interface Options<K extends Key> {
  /** Runs in a call that is about to wait for another's run; its defect is logged and ignored. Defaults to nothing. */
  readonly onJoin?: ((key: K) => Effect.Effect<unknown>) | undefined
}

/**
 * Creates a single flight for calls that succeed with `A` or fail with `E`: one type for all, because each may get the
 * result of any other.
 */
export const make = <K extends Key, A, E = never>(options: Options<K> = {}): Effect.Effect<SingleFlight<K, A, E>> =>
  Effect.sync(() => {
    const { onJoin } = options
    const shared = flights.make<K, A, E>({ find: () => undefined, land: () => undefined })
    return {
      execute:
        ({ key }) =>
        (self) =>
          Effect.withFiber((fiber) => {
            const answer = flights.join(shared, fiber, key, () => self, undefined)
            return onJoin === undefined || flights.underWay(shared, key) === undefined
              ? answer
              : flights.observed(onJoin, key, answer)
          }),
      state: Effect.sync(() => ({ pending: shared.pending, started: shared.started, joined: shared.joined }))
    }
  })
