/**
 * Remembers what was taken in the last window of time, so that no window of that length ever sees more than the limit.
 *
 * A log of every call is exact, and as long as the limit is high. So this one is exact up to `exactCalls` of them; with
 * more, a call joins the last entry if that is younger than a part in `exactCalls` of the window, and the entry then counts
 * until its last call has left. Then the limit still holds in every window, the log has at most `2 * exactCalls + 1`
 * entries, and a token comes back up to a hundredth of the window late. The usual counter, `previous * (1 - elapsed /
 * window) + current`, takes less memory and lets almost twice the limit through.
 */
import { DueMeter, isWindow, type Meter, type Numbers, type WindowNumbers } from "./meter.ts"

/** The calls of a window of which each has an entry of its own. */
export const exactCalls = 100

/** A log in a ring that grows with what it has to hold. */
export class SlidingWindow extends DueMeter implements Meter {
  readonly additive = false
  private rule: WindowNumbers
  // Of each entry the time of its last call, and the sum of what its calls cost: two places in a row.
  private ring: Array<number> = []
  private first = 0
  private entries = 0
  private used = 0
  // When the last entry began. Unknown, and of no use, while there are few of them.
  private lastSince: number | undefined = undefined

  constructor(rule: WindowNumbers) {
    super()
    this.rule = rule
  }

  /** The entries of the log. */
  get size(): number {
    return this.entries
  }

  /** What the log takes in memory. */
  get bytes(): number {
    return 8 * this.ring.length
  }

  get maxCost(): number {
    return this.rule.limit
  }

  tokens(now: number): number {
    this.forget(now)
    return Math.max(0, this.rule.limit - this.used)
  }

  ratePerSecond(): number {
    return (this.rule.limit * 1000) / this.rule.windowMillis
  }

  isFull(now: number): boolean {
    this.forget(now)
    return this.entries === 0 && this.pausedMillis(now) === 0
  }

  dueAt(from: number, cost: number): number {
    const { limit, windowMillis } = this.rule
    // Fractions do not add up exactly: a billionth more than the limit is the limit.
    let free = limit * (1 + 1e-9) - this.used
    let dueAt = from
    for (let i = 0; cost > free; i++) {
      if (i === this.entries) return Infinity
      free += this.cost(i)
      dueAt = Math.max(from, this.time(i) + windowMillis)
    }
    return dueAt
  }

  take(now: number, cost: number): void {
    this.forget(now)
    this.used += cost
    const last = this.entries - 1
    if (this.lastSince !== undefined && now - this.lastSince < this.rule.windowMillis / exactCalls) {
      this.ring[this.place(last)] = now
      this.add(last, cost)
      return
    }
    if (2 * this.entries === this.ring.length) this.grow()
    const place = this.place(this.entries++)
    this.ring[place] = now
    this.ring[place + 1] = cost
    this.lastSince = this.entries >= exactCalls ? now : undefined
  }

  giveBack(now: number, takenAt: number, cost: number): void {
    this.forget(now)
    let left = takenAt + this.rule.windowMillis <= now ? 0 : cost
    // There can be several entries of the same time: it is the same which of them pays.
    for (let i = 0; i < this.entries && left > 0; i++) {
      if (this.time(i) < takenAt) continue
      const given = Math.min(left, this.cost(i))
      this.add(i, -given)
      this.used -= given
      left -= given
    }
  }

  change(now: number, numbers: Numbers): void {
    if (!isWindow(numbers)) return
    this.forget(now)
    this.rule = numbers
  }

  clone(): SlidingWindow {
    const copy = new SlidingWindow(this.rule)
    copy.ring = this.ring.slice()
    copy.first = this.first
    copy.entries = this.entries
    copy.used = this.used
    copy.lastSince = this.lastSince
    copy.pausedUntil = this.pausedUntil
    return copy
  }

  private forget(now: number): void {
    const { windowMillis } = this.rule
    while (this.entries > 0 && this.time(0) + windowMillis <= now) {
      this.used -= this.cost(0)
      this.first = this.place(1)
      this.entries--
    }
    if (this.entries < exactCalls) this.lastSince = undefined
    if (this.entries === 0) this.used = 0
  }

  private time(index: number): number {
    return this.ring[this.place(index)] ?? 0
  }

  private cost(index: number): number {
    return this.ring[this.place(index) + 1] ?? 0
  }

  private add(index: number, cost: number): void {
    this.ring[this.place(index) + 1] = this.cost(index) + cost
  }

  private place(index: number): number {
    // The length of the ring is a power of two.
    return (this.first + 2 * index) & (this.ring.length - 1)
  }

  private grow(): void {
    const ring = this.ring.slice(this.first).concat(this.ring.slice(0, this.first))
    this.ring = ring.concat(ring.length === 0 ? [0, 0] : ring)
    this.first = 0
  }
}
