/**
 * What can go wrong on a stand-in, and when.
 *
 * A fault is injected with its kind, and optionally the requests it hits, the share of them, and a schedule relative to
 * the moment it is injected, on Effect's clock. Which requests of a share are hit follows from the seed and their number.
 */
import { Clock, Duration, Effect } from "effect"
import * as Hash from "./Hash.ts"

/** Faults that take the place of the answer. */
export const answerFaults = [
  /** An HTML page with status 503, or `status`. */
  "unavailable",
  /** The connection breaks before there are headers. */
  "reset",
  /** Never any headers. */
  "hang",
  /** The answer comes `delay` later than it would. */
  "delay",
  /** 429; with `Retry-After` only if `retryAfter` is given. */
  "too-many-requests",
  /** 403 as text: the crawl was too heavy. */
  "crawl-block",
  /** 403 as Cloudflare's "Just a moment…" page. */
  "challenge",
  /** 200 with an HTML page. */
  "html",
  /** 200 with `{"code":0,"message":"Data provider not found…"}`. */
  "code-zero"
] as const

/** Faults in the games a body carries. */
export const gameFaults = [
  /** Every `every`-th game comes twice. */
  "duplicate-games",
  /** Every `every`-th game changes places with the next. */
  "unordered-games",
  /** Every `every`-th game is missing. */
  "missing-games",
  /** Before every `every`-th game comes something that is not a game. */
  "odd-games",
  /** The game after the first `after` ones is over 1 MiB long. */
  "huge-game"
] as const

/** Faults in the bytes of a body. */
export const bodyFaults = [
  /** The connection breaks in the middle of the game after the first `after` ones. */
  "cut-in-game",
  /** The connection breaks after exactly `after` games. */
  "cut-between-games",
  /** The body ends after exactly `after` games as if it were complete. */
  "end-early",
  /** Nothing more comes after `after` games, and the connection stays open. */
  "stall",
  /** After `after` games, each next one comes `delay` after the one before (20 s by default); in months, each 2,000 bytes. */
  "drip",
  /** Chunks end anywhere, also inside a character. */
  "split",
  /** Lines end in CR LF, and there are blank ones (Lichess). */
  "blank-lines",
  /** A compressed body breaks off, or an uncompressed one if the client did not ask for gzip (Chess.com). */
  "truncated-gzip",
  /** `Content-Length` is more than what comes (Chess.com). */
  "wrong-length",
  /** The ETag is another one each time (Chess.com). */
  "unstable-etag"
] as const

/** A kind of fault. */
export type FaultKind = (typeof answerFaults)[number] | (typeof gameFaults)[number] | (typeof bodyFaults)[number]

/** A fault to inject. `Endpoint` names the calls of the site. */
export interface Fault<Endpoint extends string> {
  readonly kind: FaultKind
  /** The calls it can hit. Defaults to all, and for faults in games or bodies to the calls that send such. */
  readonly endpoints?: ReadonlyArray<Endpoint> | undefined
  /** The users it can hit, in any case. Defaults to all; calls about several users are hit if one of them is named. */
  readonly users?: ReadonlyArray<string> | undefined
  /** The share of those requests that it hits, 0 to 1. Defaults to 1. */
  readonly rate?: number | undefined
  /** How many requests it hits at most. Defaults to no limit. */
  readonly times?: number | undefined
  /** How long after it was injected it begins. Defaults to 0. */
  readonly from?: Duration.Input | undefined
  /** How long it lasts. Defaults to until it is removed. */
  readonly for?: Duration.Input | undefined
  /** The status of `unavailable`. Defaults to 503. */
  readonly status?: number | undefined
  /** The header of `too-many-requests` and `unavailable`. Defaults to none. */
  readonly retryAfter?: Duration.Input | undefined
  /** The delay of `delay` (10 s by default) and `drip` (20 s). */
  readonly delay?: Duration.Input | undefined
  /** Games that come before the fault. Defaults to a number from the seed, below the games of the body and 1,000. */
  readonly after?: number | undefined
  /** How often a fault in the games recurs. Defaults to 10. */
  readonly every?: number | undefined
}

/** A fault that was injected. */
export interface Injected {
  /** Removes it. What it has begun goes on: a body that stalls keeps stalling. */
  readonly remove: Effect.Effect<void>
}

/** A fault that hits the request at hand, with its numbers. */
export interface Hit {
  readonly kind: FaultKind
  readonly status: number
  readonly retryAfterSeconds: number | undefined
  readonly delayMillis: number | undefined
  readonly after: number | undefined
  readonly every: number
  /** Bits that belong to this fault and this request. */
  readonly bits: number
}

/** The faults of one site. */
export interface Faults<Endpoint extends string> {
  /** Adds a fault. */
  readonly inject: (fault: Fault<Endpoint>) => Effect.Effect<Injected>
  /** Removes all faults. */
  readonly clear: Effect.Effect<void>
  /** The faults that hit a request. */
  readonly hits: (request: {
    readonly number: number
    readonly endpoint: Endpoint
    readonly users: ReadonlyArray<string>
    readonly nowMillis: number
  }) => ReadonlyArray<Hit>
}

/** Creates an empty set of faults. `carriers` are the calls whose bodies and games can be faulty. */
export const make = <Endpoint extends string>(
  seed: number,
  carriers: { readonly bodies: ReadonlyArray<Endpoint>; readonly games: ReadonlyArray<Endpoint> }
): Faults<Endpoint> => {
  interface Active {
    readonly number: number
    readonly fault: Fault<Endpoint>
    readonly begins: number
    readonly ends: number
    readonly rate: number
    readonly endpoints: ReadonlyArray<Endpoint> | undefined
    readonly users: ReadonlySet<string> | undefined
    left: number
  }
  const active = new Set<Active>()
  let injected = 0

  return {
    inject: (fault) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        check(fault)
        const begins = now + Duration.toMillis(fault.from ?? 0)
        const entry: Active = {
          number: injected++,
          fault,
          begins,
          ends: fault.for === undefined ? Number.POSITIVE_INFINITY : begins + Duration.toMillis(fault.for),
          rate: fault.rate ?? 1,
          endpoints:
            fault.endpoints ??
            (isGameFault(fault.kind) ? carriers.games : isBodyFault(fault.kind) ? carriers.bodies : undefined),
          users: fault.users === undefined ? undefined : new Set(fault.users.map((user) => user.toLowerCase())),
          left: fault.times ?? Number.POSITIVE_INFINITY
        }
        active.add(entry)
        return { remove: Effect.sync(() => void active.delete(entry)) }
      }),
    clear: Effect.sync(() => active.clear()),
    hits: ({ endpoint, nowMillis, number, users }) => {
      if (active.size === 0) return []
      const hits: Array<Hit> = []
      for (const entry of active) {
        const { fault } = entry
        if (nowMillis >= entry.ends) {
          active.delete(entry)
          continue
        }
        if (nowMillis < entry.begins || entry.left <= 0) continue
        if (entry.endpoints !== undefined && !entry.endpoints.includes(endpoint)) continue
        if (entry.users !== undefined && !users.some((user) => entry.users?.has(user))) continue
        const bits = Hash.combine(Hash.combine(seed, entry.number), number)
        if (Hash.unit(bits) >= entry.rate) continue
        entry.left--
        hits.push({
          kind: fault.kind,
          status: fault.status ?? 503,
          retryAfterSeconds:
            fault.retryAfter === undefined ? undefined : Math.ceil(Duration.toMillis(fault.retryAfter) / 1000),
          delayMillis: fault.delay === undefined ? undefined : Duration.toMillis(fault.delay),
          after: fault.after,
          every: fault.every ?? 10,
          bits: Hash.mix(bits)
        })
      }
      return hits
    }
  }
}

const oneOf = (kinds: ReadonlyArray<FaultKind>): ((kind: FaultKind) => boolean) => {
  const set = new Set(kinds)
  return (kind) => set.has(kind)
}

/** Whether a fault is in the games of a body. */
export const isGameFault = oneOf(gameFaults)

const isBodyFault = oneOf(bodyFaults)

const check = (fault: Fault<string>): void => {
  const { after = 0, every = 1, rate = 1, status = 503, times = 1 } = fault
  if (!(rate >= 0 && rate <= 1)) throw new RangeError(`Faults: rate must be from 0 to 1, got ${rate}`)
  if (!Number.isInteger(after) || after < 0) throw new RangeError(`Faults: after must be an integer >= 0, got ${after}`)
  if (!Number.isInteger(every) || every < 1) throw new RangeError(`Faults: every must be an integer >= 1, got ${every}`)
  if (!Number.isInteger(times) || times < 1) throw new RangeError(`Faults: times must be an integer >= 1, got ${times}`)
  if (!Number.isInteger(status) || status < 400 || status > 599) {
    throw new RangeError(`Faults: status must be from 400 to 599, got ${status}`)
  }
}
