/**
 * Reads how long a failed call asks its caller to wait.
 *
 * An error that carries `retryAfter: Duration` is a hint every primitive here understands: a retry waits at least that
 * long, a circuit breaker stays open that long, a rate limiter pauses. The refusals of this package carry it too.
 *
 * `parse` makes that hint of a `Retry-After` header, for the errors of an HTTP client. What it returns is whatever the
 * other side sent: cap it, as the `maxRetryAfter` options do.
 */
import { DateTime, Duration, Result } from "effect"
import * as Headers from "effect/http/Headers"

/** An error that says how long to wait before the next call. */
export interface RetryAfter {
  readonly retryAfter: Duration.Duration
}

/** Reads the `retryAfter` of an error, or `undefined` when it carries none. */
export const fromError = (error: unknown): Duration.Duration | undefined => {
  if (typeof error !== "object" || error === null || !("retryAfter" in error)) return undefined
  return Duration.isDuration(error.retryAfter) ? error.retryAfter : undefined
}

/**
 * Reads the value of a `Retry-After` header: seconds from now, or one of the three date formats of RFC 9110 (5.6.7).
 * Anything else is `undefined`; a negative number or a date in the past is zero.
 *
 * A fraction of a second is kept, although the RFC knows only whole ones, because some servers send it. `nowMillis` is
 * the Unix time in milliseconds when the response came.
 */
export const parse = (value: string, nowMillis: number): Duration.Duration | undefined => {
  const trimmed = value.trim()
  if (seconds.test(trimmed)) return Duration.millis(Math.max(0, Number(trimmed) * 1000))
  const date = Headers.parseHttpDate(trimmed)
  if (Result.isFailure(date)) return undefined
  return Duration.millis(Math.max(0, DateTime.toEpochMillis(date.success) - nowMillis))
}

const seconds = /^[+-]?\d+(\.\d+)?$/
