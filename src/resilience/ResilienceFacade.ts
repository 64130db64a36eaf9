/**
 * Puts one dependency behind one function: `execute(key, operation, fallback?)`.
 *
 * Around each call are, outermost first: fallback → cache → circuit breaker → bulkhead → timeout → retry → the operation,
 * with the numbers of a profile. While a key is kept, nothing is called; when it has become stale, the old value is the
 * answer and a new one is fetched in the background; should that fail, the old one stays. A timeout really stops the
 * operation and its retries.
 *
 * It is a policy of the order "facade" with its state in one place. For several dependencies by name, see `Providers`.
 *
 * | defaults | those of `Profile.facade`: breaker 5 / 30 s / 3 | bulkhead 10, 100 queued | cache 60 s | timeout 30 s |
 */
import { Context, Effect, Layer, type Scope } from "effect"
import type { Key } from "./Cache.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Fallback from "./Fallback.ts"
import * as Profile from "./Profile.ts"

/** One dependency behind one function. */
export interface ResilienceFacade {
  /**
   * Answers with what is kept for the key, or runs the operation. When that fails, the fallback is the answer, if there is
   * one. Calls with one key must succeed and fail with the same types.
   */
  readonly execute: {
    <A, E, R>(key: Key, operation: Effect.Effect<A, E, R>): Effect.Effect<A, E | Errors, R>
    <A, E, R, B, E2 = never, R2 = never>(
      key: Key,
      operation: Effect.Effect<A, E, R>,
      fallback: (error: E | Errors) => Effect.Effect<B, E2, R2>
    ): Effect.Effect<A | B, E2, R | R2>
  }
  /** Reads the circuit, the calls that are running and those that wait. */
  readonly getStatus: () => Effect.Effect<Status>
  /** Forgets what is kept for a key. What is under way for it is not kept. */
  readonly invalidateCache: (key: Key) => Effect.Effect<void>
}

/** How a facade stands. */
export interface Status {
  /** `undefined` without a circuit breaker. */
  readonly circuit: CircuitBreaker.State | undefined
  /** Calls in the bulkhead, or in the adaptive limit: 0 without either. */
  readonly concurrentExecutions: number
  /** Calls that wait for a place. */
  readonly queueSize: number
}

/** The errors that a facade can add. */
export type Errors = Profile.Errors

/** Creates a facade with the numbers of a profile, by default `Profile.facade`. When the scope closes, its refreshes end. */
export const make = (profile: Profile.Profile = Profile.facade): Effect.Effect<ResilienceFacade, never, Scope.Scope> =>
  Effect.map(Profile.toPolicy(profile), ({ execute, parts }) => {
    const answer = (
      key: Key,
      operation: Effect.Effect<unknown, unknown, unknown>,
      orElse?: (error: unknown) => Effect.Effect<unknown, unknown, unknown>
    ): Effect.Effect<unknown, unknown, unknown> => {
      const answer = operation.pipe(execute({ key }))
      return orElse === undefined ? answer : Fallback.make({ orElse }).execute(answer)
    }
    return {
      // What the overloads say in types, as seen from inside: effects without their types.
      execute: answer as ResilienceFacade["execute"],
      getStatus: () =>
        Effect.map(
          Effect.all({
            circuit: parts.circuitBreaker?.state("default") ?? Effect.undefined,
            places: (parts.bulkhead ?? parts.adaptiveLimit)?.state ?? Effect.succeed({ running: 0, waiting: 0 })
          }),
          ({ circuit, places }) => ({
            circuit,
            concurrentExecutions: places.running,
            queueSize: places.waiting
          })
        ),
      invalidateCache: (key) => parts.cache?.invalidate(key) ?? Effect.void
    }
  })

/** The facade of a context that needs only one. For one per dependency, call `make` for each. */
export const ResilienceFacade = Context.Service<ResilienceFacade>("effect-resilience/ResilienceFacade")

/** Provides `ResilienceFacade`. */
export const layer = (profile: Profile.Profile = Profile.facade): Layer.Layer<ResilienceFacade> =>
  Layer.effect(ResilienceFacade, make(profile))
