/**
 * Keeps circuits by key, at most so many of them, and reads how they stand.
 */
import { Duration, type Exit, type Fiber } from "effect"
import type { CircuitBreaker, CircuitOpen, State, Statistics } from "../CircuitBreaker.ts"
import type { Rules } from "./circuitRules.ts"
import { nowMillisUnsafe } from "./monotonic.ts"
import type { NextOpenTime } from "./openTimes.ts"
import * as TripWindows from "./tripWindows.ts"

export type AnyFiber = Fiber.Fiber<unknown, unknown>

/** What every circuit has. There may be many closed ones that never had trouble: the rest is in `more`. */
export interface Circuit {
  readonly key: string
  readonly rules: Rules
  phase: State["_tag"]
  // One more whenever calls that are running no longer count: with every change of state but the one to half-open.
  generation: number
  failures: number
  succeeded: number
  failed: number
  // How many times the search for a circuit to drop passes this one by.
  credit: number
  evicted: boolean
  readonly windows: ReadonlyArray<TripWindows.TripWindow> | undefined
  more: More
}

/** What a circuit needs once it has opened, or once it has something rare to count. */
export interface More {
  slow: number
  ignored: number
  refused: number
  successes: number
  probing: number
  openings: number
  openUntil: number
  openedFor: number
  halfOpenUntil: number
  closedAt: number
  nextOpenTime: NextOpenTime | undefined
  // The next open time, if it was already asked for.
  drawn: number | undefined
  // The last refusal, and the whole milliseconds upwards it told to wait: who waits that long is let through.
  refusal: Exit.Exit<never, CircuitOpen> | undefined
  refusedFor: number
}

const makeMore = (): More => ({
  slow: 0,
  ignored: 0,
  refused: 0,
  successes: 0,
  probing: 0,
  openings: 0,
  openUntil: 0,
  openedFor: 0,
  halfOpenUntil: 0,
  closedAt: 0,
  nextOpenTime: undefined,
  drawn: undefined,
  refusal: undefined,
  refusedFor: 0
})

/** Stands for what a circuit does not have yet; it is only read. */
export const none: More = Object.freeze(makeMore())

/** What a circuit has of its own beside the rest, to write to. */
export const own = (circuit: Circuit): More => (circuit.more === none ? (circuit.more = makeMore()) : circuit.more)

/** What a breaker counts, as it stands now. */
export interface Tally {
  readonly calls: { readonly [K in keyof typeof nothing]: number }
  /** Changes of state by the one they led to. */
  readonly moves: Readonly<Record<State["_tag"], number>>
  /** How many circuits are in a state. */
  readonly count: (phase: State["_tag"], now: number) => number
}

/** What each breaker counts, for whoever reads it so often that a list of all circuits would cost too much. */
export const tallies = new WeakMap<CircuitBreaker, Tally>()

/** Creates the circuits. Three maps, so that a closed one is always found for eviction without a search through others. */
export const make = (maxKeys: number, rulesOf: (key: string) => Rules) => {
  const closed = new Map<string, Circuit>()
  const tripped = new Map<string, Circuit>()
  const isolated = new Map<string, Circuit>()
  let hand: MapIterator<Circuit> | undefined

  const find = (key: string) => closed.get(key) ?? tripped.get(key) ?? isolated.get(key)

  const mapOf = (phase: State["_tag"]) => (phase === "Closed" ? closed : phase === "Isolated" ? isolated : tripped)

  const nextClosed = (): Circuit => {
    for (;;) {
      const next = (hand ??= closed.values()).next()
      if (next.done !== true) return next.value
      hand = undefined
    }
  }

  // Among the closed ones the second chance of the CLOCK algorithm: one not used since the hand last passed goes, and
  // one that has failed is passed by once more. Without closed ones, the circuit that opened first goes.
  const evict = () => {
    if (closed.size > 0) {
      let circuit = nextClosed()
      while (circuit.credit > 0) {
        circuit.credit--
        circuit = nextClosed()
      }
      circuit.evicted = true
      closed.delete(circuit.key)
      return
    }
    const others = tripped.size > 0 ? tripped : isolated
    for (const circuit of others.values()) {
      circuit.evicted = true
      circuit.generation++
      others.delete(circuit.key)
      return
    }
  }

  const get = (key: string): Circuit => {
    const known = find(key)
    if (known !== undefined) {
      if (known.credit === 0) known.credit = 1
      return known
    }
    const rules = rulesOf(key)
    if (closed.size + tripped.size + isolated.size >= maxKeys) evict()
    const circuit: Circuit = {
      key,
      rules,
      phase: "Closed",
      generation: 0,
      failures: 0,
      succeeded: 0,
      failed: 0,
      credit: 0,
      evicted: false,
      windows: rules.windowed ? rules.rules.flatMap((rule) => TripWindows.make(rule) ?? []) : undefined,
      more: none
    }
    closed.set(key, circuit)
    return circuit
  }

  return {
    find,
    get,
    rulesOf,
    // The circuit that now counts for a call admitted by one that was closed and has been dropped since: the key's
    // present one, unless its state has changed since. A success needs none.
    successor: (key: string, failed: boolean): Circuit | undefined => {
      const circuit = failed ? get(key) : find(key)
      return circuit?.generation === 0 ? circuit : undefined
    },
    // Puts a circuit where its phase belongs.
    settle: (circuit: Circuit, from: State["_tag"]) => {
      const [left, entered] = [mapOf(from), mapOf(circuit.phase)]
      if (left === entered) return
      left.delete(circuit.key)
      entered.set(circuit.key, circuit)
    },
    /** How many read as being in a phase. */
    count: (phase: State["_tag"], now: number): number => {
      if (phase === "Closed") return closed.size
      if (phase === "Isolated") return isolated.size
      let open = 0
      for (const circuit of tripped.values()) if (circuit.phase === "Open" || isLapsed(circuit, now)) open++
      return phase === "Open" ? open : tripped.size - open
    },
    all: () => [...closed.values(), ...tripped.values(), ...isolated.values()]
  }
}

/** Counts an outcome where the rules look, and says whether one of them is broken. */
export const watch = (circuit: Circuit, failed: boolean, slow: boolean, fiber: AnyFiber): boolean => {
  let trips = false
  if (failed) {
    circuit.credit = 2
    trips = ++circuit.failures >= circuit.rules.inARow
  } else {
    circuit.failures = 0
  }
  if (circuit.windows === undefined) return trips
  for (const window of circuit.windows) {
    if (window.record(failed, slow, fiber)) trips = true
  }
  return trips
}

/** Forgets what the rules have seen. */
export const empty = (circuit: Circuit) => {
  circuit.failures = 0
  circuit.windows?.forEach((window) => window.clear())
}

/** Starts the open times from the beginning. */
export const forgetOpenings = (more: More) => {
  more.openings = 0
  more.openedFor = 0
  more.nextOpenTime = undefined
  more.drawn = undefined
}

/** Does so if the circuit has stayed closed for as long as it was last open. */
export const startAgainIfHealthy = ({ more, phase }: Circuit, now: number) => {
  if (phase === "Closed" && now - more.closedAt >= more.openedFor) forgetOpenings(more)
}

const openTime = (circuit: Circuit, fiber: AnyFiber): number => {
  const { more, rules } = circuit
  return (more.drawn ??= (more.nextOpenTime ??= rules.openTimes())(fiber))
}

/** Uses up the next open time. */
export const takeOpenTime = (circuit: Circuit, now: number, fiber: AnyFiber): number => {
  const more = own(circuit)
  startAgainIfHealthy(circuit, now)
  const millis = openTime(circuit, fiber)
  more.drawn = undefined
  return millis
}

/** How long the next call would have to wait in milliseconds, or -1 if it may be made. Changes nothing. */
export const waitMillis = (circuit: Circuit, now: number, fiber: AnyFiber): number => {
  const { more, phase, rules } = circuit
  switch (phase) {
    case "Closed":
      return -1
    case "Isolated":
      return Infinity
    case "Open":
      return more.openUntil > now ? more.openUntil - now : -1
    case "HalfOpen": {
      if (now < more.halfOpenUntil) return more.probing < rules.probes ? -1 : 0
      const openUntil = more.halfOpenUntil + openTime(circuit, fiber)
      return openUntil > now ? openUntil - now : -1
    }
  }
}

// Whether it has been half-open for so long that it counts as open again.
const isLapsed = ({ more, phase }: Circuit, now: number): boolean => phase === "HalfOpen" && now >= more.halfOpenUntil

/** Reads how a circuit stands. */
export const stateOf = (circuit: Circuit, fiber: AnyFiber): State => {
  const { failures, key, more, phase } = circuit
  const { openings, probing, successes } = more
  const now = nowMillisUnsafe(fiber)
  if (phase === "Closed" || phase === "Isolated") return { _tag: phase, key, failures }
  const lapsed = isLapsed(circuit, now)
  if (phase === "HalfOpen" && !lapsed) return { _tag: phase, key, failures, successes, probing: probing > 0, openings }
  return {
    _tag: "Open",
    key,
    failures,
    retryAfter: Duration.millis(Math.max(0, Math.ceil(waitMillis(circuit, now, fiber)))),
    openings: lapsed ? openings + 1 : openings
  }
}

/** The start of a call when nobody wants to know how long it takes. */
export const notTimed = -1

/** When a call that begins now begins. */
export const startOf = (circuit: Circuit, fiber: AnyFiber): number =>
  circuit.rules.slowAfterMillis === Infinity ? notTimed : nowMillisUnsafe(fiber)

/** The counts of a circuit never used. */
export const nothing = { successes: 0, failures: 0, slow: 0, ignored: 0, refused: 0 }

/** What a rule sees of a circuit never used. */
export const unseen = (rule: TripWindows.Rule): TripWindows.Seen =>
  countsCalls(rule) ? { calls: 0, failures: 0, slow: 0 } : { calls: undefined, failures: 0, slow: undefined }

const countsCalls = ({ failureRate, slowCallRate, window }: TripWindows.Rule): boolean =>
  window !== undefined && ("calls" in window || failureRate !== Infinity || slowCallRate !== Infinity)

/** What each rule of a circuit sees. */
export const seenBy = (circuit: Circuit, fiber: AnyFiber): ReadonlyArray<TripWindows.Seen> => {
  let next = 0
  return circuit.rules.rules.map(({ window }) => {
    const seen = window === undefined ? undefined : circuit.windows?.[next++]?.seen(fiber)
    return seen ?? { calls: undefined, failures: circuit.failures, slow: undefined }
  })
}

/** Adds what the rules of one circuit see to a sum. */
export const plus = (seen: ReadonlyArray<TripWindows.Seen>) => (sum: TripWindows.Seen, index: number) => ({
  calls: add(sum.calls, seen[index]?.calls),
  failures: sum.failures + (seen[index]?.failures ?? 0),
  slow: add(sum.slow, seen[index]?.slow)
})

const add = (one: number | undefined, other: number | undefined) => (one === undefined ? undefined : one + (other ?? 0))

/** Puts counts and what the rules see together. */
export const toStatistics = (counts: typeof nothing, seen: ReadonlyArray<TripWindows.Seen>): Statistics => {
  const { failures, ignored, refused, slow, successes } = counts
  return {
    calls: successes + failures + ignored,
    successes,
    failures,
    ignored,
    slow,
    refused,
    rules: seen.map(({ calls, failures, slow }) => ({
      calls,
      failures,
      slow,
      failureRate: rate(failures, calls),
      slowCallRate: rate(slow, calls)
    }))
  }
}

const rate = (some: number | undefined, calls: number | undefined) =>
  some === undefined || calls === undefined || calls === 0 ? undefined : some / calls
