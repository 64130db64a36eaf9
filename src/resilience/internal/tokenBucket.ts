/**
 * The arithmetic of a token bucket whose rate can be cut and grows back. The time is a parameter of every function.
 *
 * What the bucket holds is one formula of the time since an anchor: the tokens at the anchor, plus what the rate has
 * brought since, minus the sum of what was taken. Nothing is added up call by call, so no fraction is lost to rounding
 * however many calls there are; the anchor moves only where the sum starts again.
 */

import type { Meter, Numbers } from "./meter.ts"

/** The numbers of a bucket. Rates are tokens per second, times milliseconds. */
export interface BucketOptions {
  readonly capacity: number
  readonly refillPerSecond: number
  /** What a cut multiplies the rate by. */
  readonly factor: number
  /** The lowest rate. */
  readonly floorPerSecond: number
  /** The time in which the rate grows by `refillPerSecond`. */
  readonly recoverMillis: number
  /** The time after a cut in which there is no other. */
  readonly cooldownMillis: number
}

/** A bucket that starts full. */
export class TokenBucket implements Meter {
  readonly additive = true
  private options: BucketOptions
  // What counts as enough despite rounding: the tokens of a nanosecond. It is owed afterwards, never given away.
  private tolerance: number
  // The rate at the anchor, from where it grows by `slope` per second until it is full again.
  private rate: number
  private slope: number
  private anchorAt: number
  private anchorTokens: number
  private taken = 0
  private pausedUntil = -Infinity
  private cutAt = -Infinity

  constructor(options: BucketOptions, now: number) {
    this.options = options
    this.tolerance = toleranceOf(options.refillPerSecond)
    this.rate = options.refillPerSecond
    this.slope = options.refillPerSecond / (options.recoverMillis / 1000)
    this.anchorAt = now
    this.anchorTokens = options.capacity
  }

  get maxCost(): number {
    return this.options.capacity
  }

  /** The tokens there now: between 0 and the capacity. */
  tokens(now: number): number {
    return Math.max(0, Math.min(this.options.capacity, this.observe(now)))
  }

  /** The tokens per second that come now, or when the pause ends. */
  ratePerSecond(now: number): number {
    this.observe(now)
    return this.rateAt(now)
  }

  /** How long nothing is given out: 0 without a pause. */
  pausedMillis(now: number): number {
    this.observe(now)
    return Math.max(0, this.pausedUntil - now)
  }

  /** Takes `cost` tokens if they are there. */
  takeIfAvailable(now: number, cost: number): boolean {
    const level = this.observe(now)
    if (now < this.pausedUntil || level < cost - this.tolerance) return false
    this.add(now, cost)
    return true
  }

  take(now: number, cost: number): void {
    this.observe(now)
    this.add(now, cost)
  }

  giveBack(now: number, _takenAt: number, cost: number): void {
    this.observe(now)
    this.taken -= cost
  }

  /** Whether it is as if nothing had ever been taken or cut. */
  isFull(now: number): boolean {
    const { capacity, refillPerSecond } = this.options
    return this.observe(now) >= capacity && this.rateAt(now) === refillPerSecond && now >= this.pausedUntil
  }

  waitMillis(now: number, cost: number, ahead = 0): number {
    this.observe(now)
    if (cost > this.options.capacity + this.tolerance) return Infinity
    // More than the capacity for several calls in turn: their tokens are taken while they come.
    const needed = ahead + cost - this.tolerance
    const enoughAt = this.anchorAt + this.millisFor(needed - this.anchorTokens + this.taken)
    const wait = Math.max(0, Math.ceil(Math.max(enoughAt, this.pausedUntil) - now))
    if (!Number.isSafeInteger(wait)) return Infinity
    // The formula and its inverse can round to different sides of a millisecond. The formula decides.
    return now + wait >= this.pausedUntil && this.level(now + wait) >= needed ? wait : wait + 1
  }

  /** Gives nothing out for `pauseMillis`, and cuts the rate if the last cut is long enough ago. */
  throttle(now: number, pauseMillis: number): void {
    const level = this.observe(now)
    const { capacity, cooldownMillis, factor, floorPerSecond } = this.options
    const cut = now >= this.pausedUntil && now >= this.cutAt + cooldownMillis
    const rate = this.rateAt(now)
    this.anchor(now, Math.min(1, capacity, level))
    if (cut) {
      this.cutAt = now
      this.rate = Math.min(rate, Math.max(floorPerSecond, rate * factor))
    }
    this.pausedUntil = Math.max(this.pausedUntil, now + pauseMillis)
    // In the pause no token comes and the rate does not grow.
    this.anchorAt = Math.max(now, this.pausedUntil)
  }

  change(now: number, numbers: Numbers): void {
    if (numbers.algorithm !== "token-bucket") return
    const { capacity, refillPerSecond } = numbers
    this.anchor(now, this.observe(now))
    const { options } = this
    const factor = refillPerSecond / options.refillPerSecond
    this.rate = this.rate === options.refillPerSecond ? refillPerSecond : this.rate * factor
    this.slope *= factor
    this.tolerance = toleranceOf(refillPerSecond)
    this.options = { ...options, capacity, refillPerSecond, floorPerSecond: options.floorPerSecond * factor }
  }

  clone(): TokenBucket {
    const copy = new TokenBucket(this.options, this.anchorAt)
    copy.rate = this.rate
    copy.anchorTokens = this.anchorTokens
    copy.taken = this.taken
    copy.pausedUntil = this.pausedUntil
    copy.cutAt = this.cutAt
    return copy
  }

  private add(now: number, cost: number): void {
    this.taken += cost
    // Before the sum is so large that a small cost would be rounded in it.
    if (this.taken > 1e6) this.anchor(now, this.level(now))
  }

  // Lets a full bucket start afresh, so that idle time is never saved up. Returns the level.
  private observe(now: number): number {
    const level = this.level(now)
    if (level <= this.options.capacity) return level
    this.anchor(now, this.options.capacity)
    return this.options.capacity
  }

  private anchor(now: number, tokens: number): void {
    this.rate = this.rateAt(now)
    this.anchorAt = Math.max(now, this.anchorAt)
    this.anchorTokens = tokens
    this.taken = 0
  }

  private rateAt(now: number): number {
    const seconds = Math.max(0, now - this.anchorAt) / 1000
    return Math.min(this.options.refillPerSecond, this.rate + this.slope * seconds)
  }

  // The integral of the rate: a ramp from the rate at the anchor up to the full rate, and a straight line from there.
  private level(now: number): number {
    const millis = Math.max(0, now - this.anchorAt)
    const full = this.options.refillPerSecond
    const held = this.anchorTokens - this.taken
    if (this.rate === full) return held + (full * millis) / 1000
    const ramp = ((full - this.rate) / this.slope) * 1000
    if (millis >= ramp) return held + ((this.rate + full) / 2) * (ramp / 1000) + (full * (millis - ramp)) / 1000
    const seconds = millis / 1000
    return held + (this.rate + (this.slope * seconds) / 2) * seconds
  }

  // The inverse of the integral: how long after the anchor `gain` tokens have come.
  private millisFor(gain: number): number {
    if (gain <= 0) return 0
    const full = this.options.refillPerSecond
    if (this.rate === full) return (gain * 1000) / full
    const ramp = (full - this.rate) / this.slope
    const ramped = ((this.rate + full) / 2) * ramp
    if (gain >= ramped) return (ramp + (gain - ramped) / full) * 1000
    // The positive root of slope/2 * t^2 + rate * t = gain, in the form that does not subtract near equals.
    return ((2 * gain) / (this.rate + Math.sqrt(this.rate * this.rate + 2 * this.slope * gain))) * 1000
  }
}

const toleranceOf = (refillPerSecond: number): number => (1 + refillPerSecond) * 1e-9
