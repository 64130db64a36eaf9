/**
 * A simulation in so many rows: what its buckets say together, per second.
 */
import { Duration } from "effect"
import type { Bucket, Simulation } from "../testing/simulate.ts"
import { sum } from "./recorder.ts"

/** Some buckets together. Rates are per second. */
export interface Row {
  readonly atMillis: number
  readonly millis: number
  readonly offered: number
  readonly upstreamCalls: number
  readonly successes: number
  readonly refused: number
  /** With those whose caller lost patience. */
  readonly failed: number
  /** The median of the medians, and the greatest 99th percentile. */
  readonly p50: number | undefined
  readonly p99: number | undefined
  readonly maxRunning: number
  readonly openCircuits: number
}

/** Puts buckets together to rows of a round length: at most so many for the duration of the world, and more for what ends later. */
export const rowsOf = (simulation: Simulation, maxRows: number): ReadonlyArray<Row> => {
  const { buckets } = simulation
  const bucketMillis = Duration.toMillis(simulation.bucket)
  const needed = Duration.toMillis(simulation.world.duration) / maxRows
  const round = roundMillis.find((millis) => millis >= needed && millis % bucketMillis === 0)
  const size = round === undefined ? Math.max(1, Math.ceil(needed / bucketMillis)) : round / bucketMillis
  const rows: Array<Row> = []
  for (let at = 0; at < buckets.length; at += size) rows.push(rowOf(buckets.slice(at, at + size), bucketMillis))
  return rows
}

const second = 1_000
const minute = 60_000
const hour = 3_600_000
const roundMillis = [
  1,
  2,
  5,
  10,
  20,
  50,
  100,
  200,
  500,
  ...[1, 2, 5, 10, 15, 20, 30].map((seconds) => seconds * second),
  ...[1, 2, 5, 10, 15, 20, 30].map((minutes) => minutes * minute),
  ...[1, 2, 3, 6, 12, 24].map((hours) => hours * hour)
]

const rowOf = (buckets: ReadonlyArray<Bucket>, bucketMillis: number): Row => {
  const millis = buckets.length * bucketMillis
  const perSecond = (count: (bucket: Bucket) => number) =>
    (buckets.reduce((total, bucket) => total + count(bucket), 0) * 1_000) / millis
  const latencies = buckets.flatMap(({ latency }) => (latency === undefined ? [] : [latency]))
  const medians = latencies.map(({ p50 }) => p50).sort((a, b) => a - b)
  return {
    atMillis: buckets[0]?.atMillis ?? 0,
    millis,
    offered: perSecond(({ offered }) => offered),
    upstreamCalls: perSecond(({ upstreamCalls }) => upstreamCalls),
    successes: perSecond(({ successes }) => successes),
    refused: perSecond(({ refused }) => sum(refused)),
    failed: perSecond(({ abandoned, failed }) => sum(failed) + abandoned),
    p50: medians[medians.length >> 1],
    p99: latencies.length === 0 ? undefined : Math.max(...latencies.map(({ p99 }) => p99)),
    maxRunning: Math.max(...buckets.map(({ maxRunning }) => maxRunning)),
    openCircuits: Math.max(...buckets.map(({ openCircuits }) => openCircuits))
  }
}

/** A time as `1:02:03`, or `2:03` within the first hour of what is `longest`. */
export const clockTime = (millis: number, longest: number): string => {
  const seconds = Math.floor(millis / 1_000)
  const two = (value: number) => String(value).padStart(2, "0")
  const rest = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`
  const fraction = longest < 10_000 ? `.${Math.floor((millis % 1_000) / 100)}` : ""
  return longest >= 3_600_000 ? `${Math.floor(seconds / 3_600)}:${rest}${fraction}` : `${rest}${fraction}`
}
