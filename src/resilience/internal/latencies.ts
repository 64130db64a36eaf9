/**
 * Follows a percentile of durations in constant memory.
 *
 * A histogram whose buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee: VLDB 2019): what it says is at
 * most 2.5 % above or below the true percentile, for durations from 1 ms to 1 hour. Shorter ones read as 1 ms, longer
 * ones as 1 hour.
 *
 * Each sample weighs 1.001 times as much as the one before, so old ones fade: after 693 more a sample weighs half, and all
 * of them together as much as 1,000 (forward decay: Cormode and others, ICDE 2009). The bucket of the percentile moves
 * with the samples, so that recording one costs the same whatever came before.
 */

const error = 0.025
const gamma = (1 + error) / (1 - error)
const logGamma = Math.log(gamma)
const hourMillis = 3_600_000
const last = Math.ceil(Math.log(hourMillis) / logGamma)
const growth = 1.001
// Before a weight is so large that others would be rounded beside it.
const maxWeight = 1e9

/** The durations seen lately, in milliseconds, and one percentile of them. */
export class Latencies {
  /** The samples recorded so far, faded or not. */
  samples = 0
  private readonly percentile: number
  private readonly weights = new Float64Array(last + 1)
  private total = 0
  private weight = 1
  // The bucket of the percentile, and the weight of all buckets below it.
  private bucket = 0
  private below = 0

  /** `percentile` is over 0 and under 1. */
  constructor(percentile: number) {
    this.percentile = percentile
  }

  /** Adds a sample. */
  record(millis: number): void {
    const { weight, weights } = this
    const bucket = millis <= 1 ? 0 : Math.min(last, Math.ceil(Math.log(millis) / logGamma))
    weights[bucket] = (weights[bucket] ?? 0) + weight
    this.total += weight
    if (bucket < this.bucket) this.below += weight
    this.samples++
    this.weight *= growth
    if (this.weight > maxWeight) this.rescale()
    this.follow()
  }

  /** The percentile that is followed, or 0 without samples. */
  get value(): number {
    return this.samples === 0 ? 0 : middle(this.bucket)
  }

  /** The median, or 0 without samples. Looks through the buckets. */
  get median(): number {
    let below = 0
    for (let bucket = 0; bucket <= last; bucket++) {
      below += this.weights[bucket] ?? 0
      if (below > 0 && below >= this.total / 2) return middle(bucket)
    }
    return 0
  }

  // The bucket of the percentile is the first up to which its part of the weight is reached.
  private follow(): void {
    const wanted = this.percentile * this.total
    while (this.bucket < last && this.below + (this.weights[this.bucket] ?? 0) < wanted) {
      this.below += this.weights[this.bucket++] ?? 0
    }
    while (this.bucket > 0 && this.below >= wanted) this.below -= this.weights[--this.bucket] ?? 0
  }

  private rescale(): void {
    this.total = 0
    for (let bucket = 0; bucket <= last; bucket++) {
      if (bucket === this.bucket) this.below = this.total
      this.total += this.weights[bucket] = (this.weights[bucket] ?? 0) / this.weight
    }
    this.weight = 1
  }
}

// The number whose relative distance to both ends of the bucket is the same.
const middle = (bucket: number): number =>
  bucket === 0 ? 1 : Math.min(hourMillis, (2 * gamma ** bucket) / (gamma + 1))
