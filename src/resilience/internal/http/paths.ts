/**
 * The paths of requests, and those that a middleware leaves alone.
 */
import type { HttpServerRequest } from "effect/http"

/** The path of a request as it came, without query and fragment. */
export const pathOf = (request: HttpServerRequest.HttpServerRequest): string => request.url.split(/[?#]/, 1)[0] ?? ""

/**
 * Whether a request is for one of these paths: exactly as it is written, since another spelling must not get around a limit.
 * One that ends in `/*` means all below it.
 */
export const exempts = (
  patterns: ReadonlyArray<string>
): ((request: HttpServerRequest.HttpServerRequest) => boolean) => {
  const exact = new Set(patterns)
  const below = patterns.filter((pattern) => pattern.endsWith("/*")).map((pattern) => pattern.slice(0, -1))
  return (request) => {
    const path = pathOf(request)
    return exact.has(path) || below.some((start) => path.startsWith(start))
  }
}
