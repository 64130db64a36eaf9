/**
 * Keeps those who wait for a place in lines, and says who is next.
 *
 * There is a line per priority or partition, or just one. Strictly, the first line that is not empty is served; by
 * weight, the line that has had the least for its weight (stride scheduling; Waldspurger and Weihl, 1995), so that every
 * line is served eventually. A line whose guarantee is not used up goes first.
 *
 * Within a line the first comes first. With `Overload`, a line in which everyone has waited for over `targetMillis` during
 * `intervalMillis` is overloaded until one has not: the signal of CoDel (Nichols and Jacobson, "Controlling Queue Delay",
 * 2012). Then the last comes first, whose caller is most likely to be still there (Maurer, "Fail at Scale", 2015), and
 * who waits for over twice the target has come to nothing (folly's Codel).
 */
import { type Links, Waiters } from "./waiters.ts"

/** What a waiter carries. */
export interface Waiter<W> extends Links<W> {
  /** When it came, in milliseconds of the monotonic clock. */
  queuedAt: number
}

/** When a line counts as overloaded. */
export interface Overload {
  readonly targetMillis: number
  readonly intervalMillis: number
}

/** Those who wait under one priority or in one partition. */
export class Line<W extends Waiter<W>> extends Waiters<W> {
  readonly weight: number
  /** Calls of this line that run, as far as anyone counts them. */
  running = 0
  /** Calls of this line that may run even when there is no free place. */
  guaranteed = 0
  /** What it has been served, divided by its weight. */
  served = 0
  overloaded = false
  private delayedSince = Infinity

  constructor(weight: number) {
    super()
    this.weight = weight
  }

  /** The waiter to be served. The line must not be empty. */
  first(overload: Overload | undefined, now: number): W | undefined {
    if (overload === undefined || this.head === undefined) return this.head
    if (now - this.head.queuedAt <= overload.targetMillis) this.relax()
    else if (this.delayedSince === Infinity) this.delayedSince = now
    else if (now - this.delayedSince >= overload.intervalMillis) this.overloaded = true
    return this.overloaded ? this.tail : this.head
  }

  /** Whoever has waited for too long to be served, if anyone has. */
  stale(overload: Overload, now: number): W | undefined {
    const oldest = this.overloaded ? this.head : undefined
    return oldest !== undefined && now - oldest.queuedAt > 2 * overload.targetMillis ? oldest : undefined
  }

  /** Notes that somebody came through without a delay. */
  relax(): void {
    this.overloaded = false
    this.delayedSince = Infinity
  }
}

/** All the lines in front of the same places, the highest priority first. */
export class Lines<W extends Waiter<W>> {
  size = 0
  readonly all: ReadonlyArray<Line<W>>
  private readonly byWeight: boolean
  private time = 0

  constructor(all: ReadonlyArray<Line<W>>, byWeight: boolean) {
    this.all = all
    this.byWeight = byWeight
  }

  push(line: Line<W>, waiter: W): void {
    // Who was not there is owed nothing for that time.
    if (line.size === 0) line.served = Math.max(line.served, this.time)
    line.push(waiter)
    this.size++
  }

  remove(line: Line<W>, waiter: W): void {
    line.remove(waiter)
    this.size--
  }

  /** The line to be served next, if one can be: without a free place, only one whose guarantee is not used up. */
  next(free: boolean): Line<W> | undefined {
    let next: Line<W> | undefined
    let nextIsOwed = false
    for (const line of this.all) {
      if (line.size === 0) continue
      const isOwed = line.running < line.guaranteed
      if (!isOwed && !free) continue
      const before = next === undefined || (isOwed === nextIsOwed ? this.byWeight && line.served < next.served : isOwed)
      if (!before) continue
      next = line
      nextIsOwed = isOwed
    }
    return next
  }

  /** Notes that one of the line is served. */
  serve(line: Line<W>): void {
    if (!this.byWeight) return
    this.time = Math.max(this.time, line.served)
    line.served += 1 / line.weight
  }

  /**
   * Who makes room for one more in `line` when all room is taken: strictly, somebody of the lowest line below it; by
   * weight, somebody of the line with the most waiters for its weight, if it would still have more than this one.
   * The one that would be served last of its line.
   */
  displaced(line: Line<W>): W | undefined {
    if (this.all.length === 1) return undefined
    let from: Line<W> | undefined
    if (this.byWeight) {
      let most = (line.size + 1) / line.weight
      for (const other of this.all) {
        if (other === line || other.size / other.weight <= most) continue
        most = other.size / other.weight
        from = other
      }
    } else {
      for (const other of this.all.slice(this.all.indexOf(line) + 1)) {
        if (other.size > 0) from = other
      }
    }
    return from?.overloaded === true ? from.head : from?.tail
  }

  /** When the one that has waited longest came. */
  oldest(): number {
    let oldest = Infinity
    for (const { head } of this.all) if (head !== undefined && head.queuedAt < oldest) oldest = head.queuedAt
    return oldest
  }

  /** Notes that a place is free and nobody waits. */
  relax(): void {
    for (const line of this.all) line.relax()
  }
}
