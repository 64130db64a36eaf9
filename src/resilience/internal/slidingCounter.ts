/**
 * Estimates what was taken in the last window of time from two numbers: `previous * (1 - elapsed / window) + current`.
 *
 * Windows follow each other without a gap; `previous` is what the last one took, `current` what this one has taken in
 * `elapsed`. The estimate is right if the calls of the last window were spread evenly over it. If they all came at its end,
 * almost twice the limit comes within the length of one window, and never more; if they all came at its beginning, calls
 * are refused that a log would let through. It costs the same memory however high the limit is.
 */
import { DueMeter, isWindow, type Meter, type Numbers, type WindowNumbers } from "./meter.ts"

/** What was taken in two windows, and when the later one began. */
export class SlidingCounter extends DueMeter implements Meter {
  readonly additive = false
  private rule: WindowNumbers
  private startedAt: number
  private previous = 0
  private current = 0

  constructor(rule: WindowNumbers, now: number) {
    super()
    this.rule = rule
    this.startedAt = now
  }

  get maxCost(): number {
    return this.rule.limit
  }

  tokens(now: number): number {
    this.advance(now)
    const elapsed = Math.max(0, now - this.startedAt) / this.rule.windowMillis
    return Math.max(0, this.rule.limit - this.current - this.previous * (1 - elapsed))
  }

  ratePerSecond(): number {
    return (this.rule.limit * 1000) / this.rule.windowMillis
  }

  isFull(now: number): boolean {
    this.advance(now)
    return this.previous === 0 && this.current === 0 && this.pausedMillis(now) === 0
  }

  dueAt(from: number, cost: number): number {
    const { windowMillis } = this.rule
    // Fractions do not add up exactly: a billionth more than the limit is the limit.
    const limit = this.rule.limit * (1 + 1e-9)
    if (cost > limit) return Infinity
    const inThis = this.fitsAt(limit - cost - this.current, this.previous)
    const dueAt =
      inThis <= 1
        ? this.startedAt + inThis * windowMillis
        : this.startedAt + (1 + this.fitsAt(limit - cost, this.current)) * windowMillis
    return Math.max(from, dueAt)
  }

  take(now: number, cost: number): void {
    this.advance(now)
    // Time without calls is in no window.
    if (this.previous === 0 && this.current === 0) this.startedAt = now
    this.current += cost
  }

  giveBack(now: number, takenAt: number, cost: number): void {
    this.advance(now)
    if (takenAt >= this.startedAt) this.current = Math.max(0, this.current - cost)
    else if (takenAt >= this.startedAt - this.rule.windowMillis) this.previous = Math.max(0, this.previous - cost)
  }

  change(now: number, numbers: Numbers): void {
    if (!isWindow(numbers)) return
    this.advance(now)
    this.rule = numbers
  }

  clone(): SlidingCounter {
    const copy = new SlidingCounter(this.rule, this.startedAt)
    copy.previous = this.previous
    copy.current = this.current
    copy.pausedUntil = this.pausedUntil
    return copy
  }

  private advance(now: number): void {
    const windows = Math.floor((now - this.startedAt) / this.rule.windowMillis)
    if (windows < 1) return
    this.previous = windows === 1 ? this.current : 0
    this.current = 0
    this.startedAt += windows * this.rule.windowMillis
  }

  // The part of a window after which no more than `room` of what the one before it took still counts.
  private fitsAt(room: number, before: number): number {
    return room < 0 ? Infinity : before <= room ? 0 : 1 - room / before
  }
}
