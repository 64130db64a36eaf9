/**
 * What the toolkit promises of its speed, as ratios within one run.
 *
 * The ratios are those of whole calls, with the turn of the loop that makes each of them: the median of the ratios of
 * the rounds, whose runs are next to each other in time.
 */
import { cockatiel, effect, flexible, limit, lru, ours } from "./cases.ts"
import { type Measured, median } from "./measure.ts"
import { breakerKey, cachedKey, evicting, type Scaled, waiter, waiting } from "./scale.ts"

/** One promise and how it is kept. */
export interface Result {
  readonly promise: string
  readonly measured: number
  /** The same ratio of calls without the loop, where there is one. */
  readonly net: number | undefined
  readonly atMost: number
  readonly unit: "x" | "bytes"
}

const composed = "breaker, bulkhead, timeout, retry"

const ratios: ReadonlyArray<
  readonly [promise: string, subject: string, path: string, against: string, atMost: number]
> = [
  ["a call through a breaker", "circuit breaker", "success", cockatiel, 2],
  ["a call through a breaker", "circuit breaker", "success", effect, 0.07],
  ["a refusal by an open breaker", "circuit breaker", "refusal", cockatiel, 0.15],
  ["a call through a retry", "retry", "success", cockatiel, 1.1],
  ["a call through a bulkhead", "bulkhead", "success", cockatiel, 2.5],
  ["a refusal by a full bulkhead", "bulkhead", "refusal", cockatiel, 0.1],
  ["a promise under a timeout", "timeout", "success, promise", cockatiel, 0.25],
  ["a call through a token bucket", "token bucket", "success", flexible, 1.4],
  ["a cache hit", "cache", "hit", lru, 2],
  ["a cache miss", "cache", "miss", lru, 0.9],
  ["a call through all four", composed, "success", cockatiel, 0.18],
  ["a promise through all four", composed, "success, promise", cockatiel, 0.35]
]

const count = (size: number) => size.toLocaleString("en-US")

/** Compares what was measured with what is promised of it. */
export const judge = (measured: ReadonlyArray<Measured>, scaled: ReadonlyArray<Scaled>): ReadonlyArray<Result> => {
  const subjects = new Set(measured.map(({ measured: one }) => one.subject))
  const find = (subject: string, path: string, by: string): Measured => {
    const found = measured.find(({ measured: one }) => one.subject === subject && one.path === path && one.by === by)
    if (found === undefined) throw new Error(`${subject}, ${path}, ${by} was not measured`)
    return found
  }
  const findScaled = (subject: string, by: string): Scaled => {
    const found = scaled.find((row) => row.subject === subject && row.by.startsWith(by))
    if (found === undefined) throw new Error(`${subject}, ${by} was not measured`)
    return found
  }
  const chosen = ratios.filter(([, subject]) => subjects.has(subject))
  const calls = chosen.map(([promise, subject, path, against, atMost]): Result => {
    const mine = find(subject, path, ours)
    const theirs = find(subject, path, against)
    return {
      promise: `${promise}, of ${against}'s`,
      measured: median(mine.rounds.map((nanos, round) => nanos / (theirs.rounds[round] ?? Number.NaN))),
      net: mine.net.nanos / theirs.net.nanos,
      atMost,
      unit: "x"
    }
  })
  const grown = (subject: string, promise: string, atMost: number): Result => {
    const { large, small } = findScaled(subject, ours)
    if (small === undefined) throw new Error(`${subject} was measured at one size only`)
    return {
      promise: `${promise} ${count(large.size)}, of that of ${count(small.size)}`,
      measured: large.cost / small.cost,
      net: undefined,
      atMost,
      unit: "x"
    }
  }
  const bytes = (subject: string, by: string, promise: string, atMost: number): Result => ({
    promise,
    measured: findScaled(subject, by).large.cost,
    net: undefined,
    atMost,
    unit: "bytes"
  })
  if (scaled.length === 0) return calls
  return [
    ...calls,
    grown(waiting, "a waiting call of", 2),
    {
      promise: `a waiting call of ${count(findScaled(waiting, ours).large.size)}, of ${limit}'s`,
      measured: findScaled(waiting, ours).large.cost / findScaled(waiting, limit).large.cost,
      net: undefined,
      atMost: 3,
      unit: "x"
    },
    grown(evicting, "a miss that evicts one of", 2),
    bytes(breakerKey, ours, "a key of a breaker with 100,000", 200),
    bytes(cachedKey, ours, "a key of a cache with 1,000,000, beside key and value", 150),
    bytes(waiter, `${ours}, cache`, "each of 100,000 callers waiting for one key of a cache", 850),
    bytes(waiter, `${ours}, single flight`, "each of 100,000 callers waiting for one single flight", 850)
  ]
}

/** Whether a promise is kept. */
export const isMet = ({ atMost, measured }: Result): boolean => measured <= atMost
