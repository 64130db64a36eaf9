/**
 * Remembers what was taken in the last window of time, so that no window of that length ever sees more than the limit.
 *
 * A log of every call is exact, and as long as the limit is high. So this one is exact up to `exactCalls` of them; with
 * more, a call joins the last entry if that is younger than a part in `exactCalls` of the window, and the entry then counts
 * until its last call has left. Then the limit still holds in every window, the log has at most `2 * exactCalls + 1`
 * entries, and a token comes back up to a hundredth of the window late. The usual counter, `previous * (1 - elapsed /
 * window) + current`, takes less memory and lets almost twice the limit through.
 */
import { DueMeter, type Meter, type Numbers, type NumbersOf } from "./meter.ts"

type Rule = NumbersOf<"fixed-window" | "sliding-window">

/** The calls of a window of which each has an entry of its own. */
export const exactCalls = 100

/** A log in a ring that grows with what it has to hold. */
export class SlidingWindow extends DueMeter implements Meter {
  readonly additive = false
  private rule: Rule
  // Of each entry the time of its last call, and the sum of what its calls cost.
  private times: Array<number> = []
  private costs: Array<number> = []
  private first = 0
  private entries = 0
  private used = 0
  // When the last entry began.
  private lastSince = 0

  constructor(rule: Rule) {
    super()
    this.rule = rule
  }

  /** The entries of the log. */
  get size(): number {
    return this.entries
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
      free += this.costs[this.place(i)] ?? 0
      dueAt = Math.max(from, (this.times[this.place(i)] ?? 0) + windowMillis)
    }
    return dueAt
  }

  take(now: number, cost: number): void {
    this.forget(now)
    this.used += cost
    const last = this.place(this.entries - 1)
    if (this.entries >= exactCalls && now - this.lastSince < this.rule.windowMillis / exactCalls) {
      this.times[last] = now
      this.costs[last] = (this.costs[last] ?? 0) + cost
      return
    }
    if (this.entries === this.times.length) this.grow()
    const place = this.place(this.entries++)
    this.times[place] = this.lastSince = now
    this.costs[place] = cost
  }

  giveBack(now: number, takenAt: number, cost: number): void {
    this.forget(now)
    let left = takenAt + this.rule.windowMillis <= now ? 0 : cost
    // There can be several entries of the same time: it is the same which of them pays.
    for (let i = 0; i < this.entries && left > 0; i++) {
      const place = this.place(i)
      if ((this.times[place] ?? 0) < takenAt) continue
      const given = Math.min(left, this.costs[place] ?? 0)
      this.costs[place] = (this.costs[place] ?? 0) - given
      this.used -= given
      left -= given
    }
  }

  change(now: number, numbers: Numbers): void {
    if (numbers.algorithm !== "fixed-window" && numbers.algorithm !== "sliding-window") return
    this.forget(now)
    this.rule = numbers
  }

  clone(): SlidingWindow {
    const copy = new SlidingWindow(this.rule)
    copy.times = this.times.slice()
    copy.costs = this.costs.slice()
    copy.first = this.first
    copy.entries = this.entries
    copy.used = this.used
    copy.lastSince = this.lastSince
    copy.pausedUntil = this.pausedUntil
    return copy
  }

  private forget(now: number): void {
    const { windowMillis } = this.rule
    while (this.entries > 0 && (this.times[this.first] ?? 0) + windowMillis <= now) {
      this.used -= this.costs[this.first] ?? 0
      this.first = this.place(1)
      this.entries--
    }
    if (this.entries === 0) this.used = 0
  }

  private place(index: number): number {
    // The length of the ring is a power of two.
    return (this.first + index) & (this.times.length - 1)
  }

  private grow(): void {
    const from = this.times.map((_, i) => this.place(i))
    const room = Array.from({ length: Math.max(4, from.length) }, () => 0)
    this.times = [...from.map((place) => this.times[place] ?? 0), ...room]
    this.costs = [...from.map((place) => this.costs[place] ?? 0), ...room]
    this.first = 0
  }
}
