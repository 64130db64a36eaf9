/**
 * What a private cache knows about a response, and may do with it (RFC 9111).
 *
 * Everything here is a function of what was stored and of the time, which the caller brings. Times are in milliseconds;
 * those of this process by the monotonic clock, those that servers write by the wall clock.
 */
import { Headers } from "effect/http"
import * as cacheControl from "./cacheControl.ts"
import { httpDate } from "./httpDate.ts"

/** When a request was sent, and its response came. */
export interface Times {
  /** By the wall clock. */
  readonly receivedMillis: number
  /** How long that took. */
  readonly delayMillis: number
  /** When it came, by the monotonic clock. */
  readonly at: number
}

/** A response with its body, and what it was asked with. */
export interface Stored {
  readonly url: string
  readonly status: number
  readonly headers: Headers.Headers
  readonly body: Uint8Array
  readonly directives: cacheControl.ResponseDirectives
  /** The fields of the request that another one must have too, with their values (4.1). */
  readonly selecting: ReadonlyArray<readonly [name: string, value: string | undefined]>
  /** How old it was when it came (4.2.3: corrected_initial_age). */
  readonly initialAgeMillis: number
  /** When it came, by the monotonic clock. */
  readonly at: number
  /** When it was made, by the clock of its server. */
  readonly dateMillis: number
  /** How old it may become (4.2.1). */
  readonly lifetimeMillis: number
}

/** A response that is there but for its body. */
export interface Head {
  readonly url: string
  readonly status: number
  readonly headers: Headers.Headers
}

/** What is decided once for all responses. */
export interface Rules {
  /** The fields of a request that always select. */
  readonly selecting: ReadonlyArray<string>
  /** How old a response may become whose server does not say. `undefined` estimates it by when it last changed. */
  readonly lifetimeMillis: number | undefined
}

/** Makes what is stored of a response. */
export const stored = (
  head: Head,
  body: Uint8Array,
  requestHeaders: Headers.Headers,
  times: Times,
  rules: Rules
): Stored => {
  const { status, url } = head
  // Who stores a response without a date writes down when it came (RFC 9110, 6.6.1).
  const dateMillis = httpDate(head.headers["date"]) ?? times.receivedMillis
  const directives = cacheControl.ofResponse(head.headers, isUnderstood(status))
  const names = new Set([...cacheControl.namesOf(head.headers["vary"] ?? ""), ...rules.selecting])
  return {
    url,
    status,
    headers: Headers.removeMany(head.headers, notKept(head.headers)),
    body,
    directives,
    selecting: Array.from(names, (name) => [name, requestHeaders[name]?.trim()] as const),
    initialAgeMillis: initialAge(head.headers, dateMillis, times),
    at: times.at,
    dateMillis,
    lifetimeMillis: lifetime(head, directives, dateMillis, rules)
  }
}

/** How old a stored response is (4.2.3: current_age). */
export const ageOf = ({ at, initialAgeMillis }: Stored, now: number): number => initialAgeMillis + Math.max(0, now - at)

/** Whether a response may be stored, and is worth it (3). It was asked with GET. */
export const isStorable = (head: Head, directives: cacheControl.ResponseDirectives): boolean => {
  const { headers, status } = head
  if (status < 200 || status === 206 || status === 304 || directives.noStore) return false
  // It would never be selected (4.1). A cookie is for whoever asked: to keep it for others is allowed, and never meant.
  if (cacheControl.namesOf(headers["vary"] ?? "").includes("*") || headers["set-cookie"] !== undefined) return false
  const { isPrivate, isPublic, maxAgeMillis } = directives
  const explicit = isPrivate || isPublic || maxAgeMillis !== undefined || headers["expires"] !== undefined
  return explicit || heuristicStatuses.has(status)
}

/** Whether there is something to ask with whether it is still right (4.3.1). */
export const hasValidator = ({ headers }: { readonly headers: Headers.Headers }): boolean =>
  headers["etag"] !== undefined || headers["last-modified"] !== undefined

/** The fields that ask whether a stored response is still right. */
export const conditions = ({ headers }: Stored): Readonly<Record<string, string>> => ({
  ...(headers["etag"] === undefined ? undefined : { "if-none-match": headers["etag"] }),
  ...(headers["last-modified"] === undefined ? undefined : { "if-modified-since": headers["last-modified"] })
})

/** Whether a response to those is about another one than what is stored (4.3.4). */
export const isAboutAnother = (known: Stored, headers: Headers.Headers): boolean => {
  const [ours, theirs] = [known.headers["etag"], headers["etag"]]
  return ours !== undefined && theirs !== undefined && withoutWeakness(ours) !== withoutWeakness(theirs)
}

/** What is stored, with the fields of a response that confirmed it (3.2, 4.3.4). */
export const freshened = (
  known: Stored,
  headers: Headers.Headers,
  requestHeaders: Headers.Headers,
  times: Times,
  rules: Rules
): Stored => {
  const fields = Headers.removeMany(headers, unchangeable)
  // The age and the date of what was stored say nothing about the answer that confirms it.
  const merged = Headers.merge(Headers.removeMany(known.headers, ["age", "date", "warning"]), fields)
  return stored({ url: known.url, status: known.status, headers: merged }, known.body, requestHeaders, times, rules)
}

/** Whether the fields that a HEAD was answered with are those of what is stored (4.3.5). */
export const isConfirmedBy = (known: Stored, headers: Headers.Headers): boolean =>
  ["etag", "last-modified", "content-length"].every(
    (name) => headers[name] === undefined || headers[name] === known.headers[name]
  )

/** Whether a stored response answers a request with these fields (4.1). */
export const matches = ({ selecting }: Pick<Stored, "selecting">, requestHeaders: Headers.Headers): boolean =>
  selecting.every(([name, value]) => requestHeaders[name]?.trim() === value)

/** Finds the newest of those that answer a request (4.1). */
export const select = (variants: ReadonlyArray<Stored>, requestHeaders: Headers.Headers): Stored | undefined => {
  let newest: Stored | undefined
  for (const variant of variants) {
    if (matches(variant, requestHeaders) && (newest === undefined || variant.dateMillis >= newest.dateMillis)) {
      newest = variant
    }
  }
  return newest
}

/** What can be done with a stored response at once. */
export type Use =
  /** It is the answer. */
  | { readonly _tag: "Fresh"; readonly ageMillis: number }
  /** It is stale, and the request takes it like that. */
  | { readonly _tag: "Stale"; readonly ageMillis: number }
  /** It is stale, and the answer until a new one is there. */
  | { readonly _tag: "Revalidate"; readonly ageMillis: number }
  /** The server has to be asked: because it is stale, or because the request wants that. */
  | { readonly _tag: "Ask"; readonly because: "stale" | "request" }

/** Decides that (4.2; 5.2.1; RFC 5861, 3). */
export const useOf = (
  known: Stored,
  asks: cacheControl.RequestDirectives,
  now: number,
  staleWhileRevalidateMillis: number
): Use => {
  const { directives, lifetimeMillis } = known
  const ageMillis = ageOf(known, now)
  const staleMillis = ageMillis - lifetimeMillis
  if (asks.noCache) return { _tag: "Ask", because: "request" }
  if (asks.maxAgeMillis !== undefined && ageMillis > asks.maxAgeMillis) return { _tag: "Ask", because: "request" }
  if (directives.noCache === true) return { _tag: "Ask", because: "stale" }
  if (staleMillis < 0) {
    const short = asks.minFreshMillis !== undefined && -staleMillis < asks.minFreshMillis
    return short ? { _tag: "Ask", because: "request" } : { _tag: "Fresh", ageMillis }
  }
  if (directives.mustRevalidate || asks.minFreshMillis !== undefined) return { _tag: "Ask", because: "stale" }
  if (asks.maxStaleMillis !== undefined && staleMillis <= asks.maxStaleMillis) return { _tag: "Stale", ageMillis }
  const allowed = directives.staleWhileRevalidateMillis ?? staleWhileRevalidateMillis
  // A request that gave an age did not ask for a stale one, and one that wants no network wants no refresh.
  const willing = asks.maxAgeMillis === undefined && !asks.onlyIfCached
  if (willing && allowed > 0 && staleMillis <= allowed) return { _tag: "Revalidate", ageMillis }
  return { _tag: "Ask", because: "stale" }
}

/** Whether a stored response stands in for an error of the server (RFC 5861, 4; RFC 9111, 4.2.4). */
export const standsIn = (
  known: Stored,
  asks: cacheControl.RequestDirectives,
  now: number,
  staleIfErrorMillis: number
): boolean => {
  const { directives, lifetimeMillis } = known
  if (directives.mustRevalidate || directives.noCache === true || asks.noCache) return false
  const said = Math.max(directives.staleIfErrorMillis ?? -1, asks.staleIfErrorMillis ?? -1)
  const allowed = said >= 0 ? said : staleIfErrorMillis
  return allowed > 0 && ageOf(known, now) - lifetimeMillis <= allowed
}

/** How long a stored response can be of use at most, from when it came. */
export const usefulMillis = (known: Stored, graceMillis: number): number => {
  if (hasValidator(known)) return Infinity
  const { directives, initialAgeMillis, lifetimeMillis } = known
  const grace = Math.max(graceMillis, directives.staleWhileRevalidateMillis ?? 0, directives.staleIfErrorMillis ?? 0)
  return Math.max(0, lifetimeMillis + grace - initialAgeMillis)
}

// Of a response without explicit freshness, what the rules say, or else a tenth of the time since it was last changed
// (4.2.2), and a day at most.
const lifetime = (
  { headers, status }: Head,
  directives: cacheControl.ResponseDirectives,
  dateMillis: number,
  rules: Rules
): number => {
  if (directives.maxAgeMillis !== undefined) return directives.maxAgeMillis
  if (headers["expires"] !== undefined) {
    // One that is no date means that it has expired (5.3).
    const expires = httpDate(headers["expires"])
    return expires === undefined ? 0 : Math.max(0, expires - dateMillis)
  }
  if (!(heuristicStatuses.has(status) || directives.isPublic)) return 0
  if (rules.lifetimeMillis !== undefined) return rules.lifetimeMillis
  const changed = httpDate(headers["last-modified"])
  if (changed === undefined) return 0
  return Math.min(86_400_000, Math.max(0, dateMillis - changed) / 10)
}

const initialAge = (headers: Headers.Headers, dateMillis: number, { delayMillis, receivedMillis }: Times): number => {
  // Of an age that is there twice the first counts; one that is none is ignored (5.1).
  const age = /^\s*(\d+)\s*(?:,|$)/.exec(headers["age"] ?? "")?.[1]
  const ageMillis = age === undefined ? 0 : Math.min(Number(age), 2 ** 31) * 1000
  const apparentMillis = Math.max(0, receivedMillis - dateMillis)
  // A date has no fraction of a second: what is younger than that is new.
  return Math.max(apparentMillis < 1000 ? 0 : apparentMillis, ageMillis + delayMillis)
}

const isUnderstood = (status: number): boolean => heuristicStatuses.has(status) || alsoUnderstood.has(status)

// Those that RFC 9110 (15.1) defines as cacheable without more being said, but 206.
const heuristicStatuses: ReadonlySet<number> = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
const alsoUnderstood: ReadonlySet<number> = new Set([302, 303, 307, 400, 401, 403, 500, 502, 503, 504])

const withoutWeakness = (etag: string): string => etag.trim().replace(/^W\//, "")

const hopByHop = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authentication-info",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade"
]

// What belongs to the connection, and what `Connection` says does (3.1).
const notKept = (headers: Headers.Headers): Array<string> => [
  ...hopByHop,
  ...cacheControl.namesOf(headers["connection"] ?? "")
]

// What describes the body that is stored, and not the answer that confirms it (3.2).
const unchangeable = [...hopByHop, "content-length", "content-encoding", "content-range", "set-cookie"]
