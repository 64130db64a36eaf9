/**
 * Reads what a response says about how many more requests its server will take.
 *
 * Every dialect that is in use: `RateLimit` and `RateLimit-Policy` of the IETF draft (draft-ietf-httpapi-ratelimit-headers-10,
 * structured), the forms of its earlier versions, `X-RateLimit-*` with a reset in seconds, as a Unix time or as a date,
 * and those of OpenAI and Anthropic, which count tokens too. What cannot be read, or cannot be meant, is left out.
 */
import { DateTime, Option } from "effect"
import type { Headers } from "effect/http"
import { httpDate } from "./httpDate.ts"
import type { BareItem, Item, Member } from "../structuredFields.ts"
import { parseDictionary, parseList } from "../structuredFields.ts"

/** What is left of one limit. */
export interface Quota {
  /** What the server calls it. Limits of different names hold side by side. */
  readonly name: string
  /** What is left until the reset. */
  readonly remaining: number
  /** The time until there is more: `undefined` if that is not said. */
  readonly resetMillis: number | undefined
  /** What there is after the reset. */
  readonly limit: number | undefined
  /** For how long that is meant. */
  readonly windowMillis: number | undefined
  /** Whether one request takes one of it. Otherwise it counts tokens or bytes, and all that can be told is that none are left. */
  readonly countsRequests: boolean
}

/** Reads the quotas of a response that came at `nowMillis` of the wall clock. */
export const parse = (headers: Headers.Headers, nowMillis: number): ReadonlyArray<Quota> => {
  const now = serverTime(headers, nowMillis)
  const standard = structured(headers)
  if (standard.length > 0) return standard
  const found: Array<Quota> = []
  for (const { counts, limit, name, remaining, reset } of dialects) {
    const left = count(headers[remaining])
    if (left === undefined || found.some((other) => other.name === name)) continue
    const most = count(firstOf(headers[limit]))
    found.push({
      name,
      remaining: left,
      resetMillis: reset.reduce<number | undefined>(
        (known, header) => known ?? resetOf(headers[header], now),
        undefined
      ),
      limit: most,
      windowMillis: name === "requests" ? windowOf(headers["ratelimit-policy"] ?? headers[limit]) : undefined,
      countsRequests: counts
    })
  }
  return found
}

interface Dialect {
  readonly name: string
  readonly limit: string
  readonly remaining: string
  readonly reset: ReadonlyArray<string>
  readonly counts: boolean
}

const plain = (prefix: string): Dialect => ({
  name: "requests",
  limit: `${prefix}-limit`,
  remaining: `${prefix}-remaining`,
  // The second is Discord's, with a fraction, where the first is a Unix time.
  reset: [`${prefix}-reset-after`, `${prefix}-reset`],
  counts: true
})

const openAi = (unit: string): Dialect => ({
  name: unit,
  limit: `x-ratelimit-limit-${unit}`,
  remaining: `x-ratelimit-remaining-${unit}`,
  reset: [`x-ratelimit-reset-${unit}`],
  counts: unit === "requests"
})

const anthropic = (unit: string): Dialect => ({
  name: unit,
  limit: `anthropic-ratelimit-${unit}-limit`,
  remaining: `anthropic-ratelimit-${unit}-remaining`,
  reset: [`anthropic-ratelimit-${unit}-reset`],
  counts: unit === "requests"
})

const dialects: ReadonlyArray<Dialect> = [
  plain("ratelimit"),
  plain("x-ratelimit"),
  plain("x-rate-limit"),
  openAi("requests"),
  openAi("tokens"),
  anthropic("requests"),
  anthropic("tokens"),
  anthropic("input-tokens"),
  anthropic("output-tokens")
]

// At most so many limits of one server are looked at.
const maxNames = 8

// `RateLimit: "name";r=5;t=30`, or of version 7 of the draft `limit=100, remaining=5, reset=30`.
const structured = (headers: Headers.Headers): ReadonlyArray<Quota> => {
  const field = headers["ratelimit"]
  if (field === undefined) return []
  const policies = new Map<string, Item>()
  for (const policy of parseList(headers["ratelimit-policy"] ?? "") ?? []) {
    if (policy._tag === "Item") policies.set(nameOf(policy.value), policy)
  }
  const found: Array<Quota> = []
  for (const limit of (parseList(field) ?? []).slice(0, maxNames)) {
    if (limit._tag !== "Item") continue
    const name = nameOf(limit.value)
    const policy = policies.get(name)?.parameters
    const remaining = natural(limit.parameters.get("r"))
    if (remaining === undefined) continue
    const unit = policy?.get("qu")
    found.push({
      name,
      remaining,
      resetMillis: seconds(natural(limit.parameters.get("t"))),
      limit: natural(policy?.get("q")),
      windowMillis: seconds(natural(policy?.get("w"))),
      countsRequests: unit === undefined || unit.value === "requests"
    })
  }
  if (found.length > 0) return found
  const members = parseDictionary(field)
  const remaining = natural(bareItem(members?.get("remaining")))
  if (remaining === undefined) return []
  return [
    {
      name: "requests",
      remaining,
      resetMillis: seconds(natural(bareItem(members?.get("reset")))),
      limit: natural(bareItem(members?.get("limit"))),
      windowMillis: windowOf(headers["ratelimit-policy"]),
      countsRequests: true
    }
  ]
}

const bareItem = (member: Member | undefined): BareItem | undefined =>
  member?._tag === "Item" ? member.value : undefined

const nameOf = ({ value }: BareItem): string => String(value)

const natural = (value: BareItem | undefined): number | undefined =>
  value?._tag === "Integer" && value.value >= 0 ? value.value : undefined

const seconds = (value: number | undefined): number | undefined => (value === undefined ? undefined : value * 1000)

// `100;w=60`, of earlier versions of the draft, in the field of the limit or of the policy.
const windowOf = (field: string | undefined): number | undefined => {
  for (const member of parseList(field ?? "") ?? []) {
    const window = member._tag === "Item" ? natural(member.parameters.get("w")) : undefined
    if (window !== undefined) return window * 1000
  }
  return undefined
}

const firstOf = (field: string | undefined): string | undefined => field?.split(/[,;]/, 1)[0]

const count = (field: string | undefined): number | undefined => {
  const text = field?.trim() ?? ""
  // What does not fit is no count: a field that was sent twice, say.
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

// The clocks of both sides may differ: what is meant is the time that the server says it has.
const serverTime = (headers: Headers.Headers, nowMillis: number): number => httpDate(headers["date"]) ?? nowMillis

const resetOf = (field: string | undefined, now: number): number | undefined => {
  const text = field?.trim() ?? ""
  if (/^\d{1,15}(\.\d+)?$/.test(text)) {
    const value = Number(text)
    // A Unix time in milliseconds, one in seconds, or a number of seconds: no limit lasts 30 years.
    return value >= 1e12 ? Math.max(0, value - now) : value >= 1e9 ? Math.max(0, value * 1000 - now) : value * 1000
  }
  return goDuration(text) ?? date(text, now)
}

const date = (text: string, now: number): number | undefined => {
  if (!/\d{4}/.test(text) || text.length > 40) return undefined
  const at = Option.getOrUndefined(DateTime.make(text))
  return at === undefined ? undefined : Math.max(0, DateTime.toEpochMillis(at) - now)
}

// A duration as Go writes it: "6m0s", "1.5s", "20ms".
const goDuration = (text: string): number | undefined => {
  if (!/^(\d{1,15}(\.\d{1,9})?(h|ms|m|s|us|µs|ns))+$/.test(text)) return undefined
  let millis = 0
  for (const [, number, unit = ""] of text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)/g)) {
    millis += Number(number) * (unitMillis[unit] ?? 0)
  }
  return millis
}

const unitMillis: Readonly<Record<string, number>> = {
  h: 3_600_000,
  m: 60_000,
  s: 1000,
  ms: 1,
  us: 1e-3,
  µs: 1e-3,
  ns: 1e-6
}
