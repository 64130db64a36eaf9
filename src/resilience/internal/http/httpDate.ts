/**
 * Reads and writes the dates of HTTP fields (RFC 9110, 5.6.7).
 */
import { DateTime, Result } from "effect"
import { Headers } from "effect/http"

/** Reads a date, in milliseconds of Unix time: `undefined` if there is none, or it is in no format of HTTP. */
export const httpDate = (field: string | undefined): number | undefined => {
  if (field === undefined) return undefined
  const date = Headers.parseHttpDate(field)
  return Result.isSuccess(date) ? DateTime.toEpochMillis(date.success) : undefined
}
