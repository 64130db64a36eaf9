/**
 * Percentiles of durations in constant memory, at most 1 % above or below the true ones from 0.1 ms to 24 hours.
 *
 * Buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee: VLDB 2019). The greatest duration is exact.
 */

const error = 0.01
const gamma = (1 + error) / (1 - error)
const logGamma = Math.log(gamma)
const least = 0.1
const last = Math.ceil(Math.log(86_400_000 / least) / logGamma)

/** Durations in milliseconds. */
export class Histogram {
  count = 0
  max = 0
  private readonly counts = new Float64Array(last + 1)
  private from = last
  private to = 0

  /** Adds a duration. */
  record(millis: number): void {
    const bucket = millis <= least ? 0 : Math.min(last, Math.ceil(Math.log(millis / least) / logGamma))
    this.counts[bucket] = (this.counts[bucket] ?? 0) + 1
    this.count++
    if (millis > this.max) this.max = millis
    if (bucket < this.from) this.from = bucket
    if (bucket > this.to) this.to = bucket
  }

  /** The duration that a part of all is not above, from 0 to 1; 0 if there are none. */
  quantile(part: number): number {
    const wanted = Math.max(1, Math.ceil(part * this.count))
    let below = 0
    for (let bucket = this.from; bucket <= this.to; bucket++) {
      below += this.counts[bucket] ?? 0
      if (below >= wanted) {
        // The number whose relative distance to both ends of the bucket is the same.
        const middle = bucket === 0 ? least : (least * 2 * gamma ** bucket) / (gamma + 1)
        return Math.min(middle, this.max)
      }
    }
    return 0
  }

  /** Forgets everything. */
  clear(): void {
    this.counts.fill(0, this.from, this.to + 1)
    this.count = this.max = this.to = 0
    this.from = last
  }
}
