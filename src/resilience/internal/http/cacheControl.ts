/**
 * Reads `Cache-Control`, as a request and as a response means it (RFC 9111, 5.2; RFC 5861).
 *
 * Of a directive that is there twice the first counts. An unknown one is ignored; a number that is none makes a response
 * stale, and a request ask for nothing.
 */
import type { Headers } from "effect/http"

/** What a request asks of a cache. Times in milliseconds. */
export interface RequestDirectives {
  readonly noCache: boolean
  readonly noStore: boolean
  readonly onlyIfCached: boolean
  readonly maxAgeMillis: number | undefined
  readonly minFreshMillis: number | undefined
  /** How stale an answer may be: any, if infinite. */
  readonly maxStaleMillis: number | undefined
  readonly staleIfErrorMillis: number | undefined
}

/** What a response allows a private cache. Times in milliseconds. */
export interface ResponseDirectives {
  readonly noStore: boolean
  /** Not to be used again without asking: as a whole, or these fields of it. */
  readonly noCache: boolean | ReadonlyArray<string>
  readonly mustRevalidate: boolean
  readonly isPublic: boolean
  readonly isPrivate: boolean
  readonly maxAgeMillis: number | undefined
  readonly staleWhileRevalidateMillis: number | undefined
  readonly staleIfErrorMillis: number | undefined
}

/** Reads what a request asks. `Pragma: no-cache` counts where there is no `Cache-Control` (5.4). */
export const ofRequest = (headers: Headers.Headers): RequestDirectives => {
  const field = headers["cache-control"]
  const directives = parse(field)
  return {
    noCache: directives.has("no-cache") || (field === undefined && parse(headers["pragma"]).has("no-cache")),
    noStore: directives.has("no-store"),
    onlyIfCached: directives.has("only-if-cached"),
    maxAgeMillis: millisOf(directives, "max-age"),
    minFreshMillis: millisOf(directives, "min-fresh"),
    maxStaleMillis: directives.get("max-stale") === "" ? Infinity : millisOf(directives, "max-stale"),
    staleIfErrorMillis: millisOf(directives, "stale-if-error")
  }
}

/** Reads what a response allows. */
export const ofResponse = (headers: Headers.Headers, understood: boolean): ResponseDirectives => {
  const directives = parse(headers["cache-control"])
  const fields = directives.get("no-cache")
  return {
    // Who understands the status goes by the other directives (5.2.2.3).
    noStore: directives.has("no-store") && !(directives.has("must-understand") && understood),
    noCache: fields === undefined ? false : fields === "" ? true : namesOf(fields),
    mustRevalidate: directives.has("must-revalidate"),
    isPublic: directives.has("public"),
    isPrivate: directives.has("private"),
    maxAgeMillis: directives.has("max-age") ? (millisOf(directives, "max-age") ?? 0) : undefined,
    staleWhileRevalidateMillis: millisOf(directives, "stale-while-revalidate"),
    staleIfErrorMillis: millisOf(directives, "stale-if-error")
  }
}

/** Names of fields that are separated by commas, in lower case. */
export const namesOf = (field: string): ReadonlyArray<string> =>
  field
    .split(",")
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== "")

// A directive without a value has the value "".
const parse = (field: string | undefined): ReadonlyMap<string, string> => {
  const directives = new Map<string, string>()
  for (const [, name = "", quoted, token = ""] of (field ?? "").matchAll(directive)) {
    const key = name.toLowerCase()
    if (!directives.has(key)) directives.set(key, quoted === undefined ? token : quoted.replace(/\\(.)/g, "$1"))
  }
  return directives
}

const directive = /([^\s,=";]+)(?:\s*=\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^\s,"]*)))?/g

// 2 ** 31 seconds stand for all larger numbers (1.2.2).
const millisOf = (directives: ReadonlyMap<string, string>, name: string): number | undefined => {
  const value = directives.get(name)
  return value !== undefined && /^\d+$/.test(value) ? Math.min(Number(value), 2 ** 31) * 1000 : undefined
}
