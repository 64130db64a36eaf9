/**
 * Reads how long a failed call asks its caller to wait.
 *
 * An error that carries `retryAfter: Duration` is a hint every primitive here understands: a retry waits at least that
 * long, a circuit breaker stays open that long, a rate limiter pauses. The refusals of this package carry it too.
 */
import { Duration } from "effect"

/** An error that says how long to wait before the next call. */
export interface RetryAfter {
  readonly retryAfter: Duration.Duration
}

/** Reads the `retryAfter` of an error, or `undefined` when it carries none. */
export const fromError = (error: unknown): Duration.Duration | undefined => {
  if (typeof error !== "object" || error === null || !("retryAfter" in error)) return undefined
  return Duration.isDuration(error.retryAfter) ? error.retryAfter : undefined
}
