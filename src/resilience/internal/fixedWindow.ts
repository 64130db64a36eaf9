/**
 * Counts what is taken in a window of time, and starts again with the next.
 *
 * A window begins with the first call after the one before it has ended: so a time without calls needs no memory, and calls
 * at the end of one window and the beginning of the next can come to twice the limit within one window's length.
 */
import { DueMeter, isWindow, type Meter, type Numbers, type WindowNumbers } from "./meter.ts"

/** The beginning of the window, and the sum of what was taken in it. */
export class FixedWindow extends DueMeter implements Meter {
  readonly additive = false
  private rule: WindowNumbers
  private startedAt: number
  private used = 0

  constructor(rule: WindowNumbers, now: number) {
    super()
    this.rule = rule
    this.startedAt = now
  }

  get maxCost(): number {
    return this.rule.limit
  }

  tokens(now: number): number {
    return Math.max(0, this.rule.limit - this.usedAt(now))
  }

  ratePerSecond(): number {
    return (this.rule.limit * 1000) / this.rule.windowMillis
  }

  isFull(now: number): boolean {
    return this.usedAt(now) === 0 && this.pausedMillis(now) === 0
  }

  dueAt(from: number, cost: number): number {
    // Fractions do not add up exactly: a billionth more than the limit is the limit.
    const limit = this.rule.limit * (1 + 1e-9)
    if (cost > limit) return Infinity
    return this.usedAt(from) + cost <= limit ? from : this.startedAt + this.rule.windowMillis
  }

  take(now: number, cost: number): void {
    const used = this.usedAt(now)
    if (used === 0) this.startedAt = now
    this.used = used + cost
  }

  giveBack(now: number, takenAt: number, cost: number): void {
    if (takenAt >= this.startedAt) this.used = Math.max(0, this.usedAt(now) - cost)
  }

  change(now: number, numbers: Numbers): void {
    if (!isWindow(numbers)) return
    this.used = this.usedAt(now)
    this.rule = numbers
  }

  clone(): FixedWindow {
    const copy = new FixedWindow(this.rule, this.startedAt)
    copy.used = this.used
    copy.pausedUntil = this.pausedUntil
    return copy
  }

  private usedAt(now: number): number {
    return now >= this.startedAt + this.rule.windowMillis ? 0 : this.used
  }
}
