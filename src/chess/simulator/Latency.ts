/**
 * How long a stand-in thinks before it answers: log-normal, from its median and its 99th percentile.
 */
import { Duration } from "effect"
import * as Hash from "./Hash.ts"

/** A log-normal distribution of delays. */
export interface Latency {
  readonly p50: Duration.Input
  readonly p99: Duration.Input
}

// Neither site publishes its latency: these are assumptions.
/** Assumed delays of Lichess's endpoints. */
export const lichess = {
  user: { p50: "90 millis", p99: "600 millis" },
  users: { p50: "90 millis", p99: "600 millis" },
  games: { p50: "250 millis", p99: "3 seconds" }
} as const satisfies Record<string, Latency>

/** Assumed delays of Chess.com's endpoints. */
export const chessCom = {
  player: { p50: "40 millis", p99: "600 millis" },
  archives: { p50: "250 millis", p99: "2 seconds" },
  month: { p50: "250 millis", p99: "2 seconds" }
} as const satisfies Record<string, Latency>

// The 99 % quantile of the standard normal distribution.
const quantile99 = 2.3263

/** The delay that some bits draw, in milliseconds. */
export const sample = (latency: Latency, bits: number): number => {
  const median = Duration.toMillis(latency.p50)
  const sigma = Math.log(Duration.toMillis(latency.p99) / median) / quantile99
  // Box-Muller: two even numbers make a normal one.
  const radius = Math.sqrt(-2 * Math.log(1 - Hash.unit(Hash.mix(bits))))
  const normal = radius * Math.cos(2 * Math.PI * Hash.unit(Hash.mix(bits ^ 0x6e6f726d)))
  return Math.round(median * Math.exp(sigma * normal))
}
