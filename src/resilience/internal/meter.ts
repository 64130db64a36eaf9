/**
 * What every algorithm of a rate limiter can say about its calls, with the time as a parameter of every function.
 *
 * Times are milliseconds of a clock that never goes back. A call costs a number of tokens, whatever the algorithm counts.
 */

/** The numbers of an algorithm, checked and in milliseconds. */
export type Numbers =
  | { readonly algorithm: "token-bucket"; readonly capacity: number; readonly refillPerSecond: number }
  | {
      readonly algorithm: "gcra"
      /** The time of one token. */
      readonly intervalMillis: number
      readonly burst: number
    }
  | { readonly algorithm: "smooth"; readonly intervalMillis: number; readonly burst: 1 }
  | {
      readonly algorithm: "fixed-window" | "sliding-window" | "sliding-window-counter"
      readonly limit: number
      readonly windowMillis: number
    }

/** The numbers of one algorithm. */
export type NumbersOf<Algorithm extends Numbers["algorithm"]> = Extract<Numbers, { readonly algorithm: Algorithm }>

/** The numbers of a limit per window. */
export type WindowNumbers = Extract<Numbers, { readonly windowMillis: number }>

/** Whether the numbers are a limit per window. */
export const isWindow = (numbers: Numbers): numbers is WindowNumbers => "windowMillis" in numbers

/** Measures what has been taken, and says when there is room again. */
export interface Meter {
  /** Whether the wait for several calls in turn depends only on the sum of what they cost. */
  readonly additive: boolean
  /** The most that one call may cost. */
  readonly maxCost: number
  /** What can be taken at once, if nothing is paused. */
  tokens(now: number): number
  /** The tokens per second in the long run. */
  ratePerSecond(now: number): number
  /** How long nothing is given out: 0 without a pause. */
  pausedMillis(now: number): number
  /** Whether it is as if nothing had ever been taken. */
  isFull(now: number): boolean
  /** Takes `cost` tokens if they are there. */
  takeIfAvailable(now: number, cost: number): boolean
  /** Takes `cost` tokens, there or not: they were promised. */
  take(now: number, cost: number): void
  /** Takes back that `cost` tokens were taken at `takenAt`. */
  giveBack(now: number, takenAt: number, cost: number): void
  /**
   * The smallest number of whole milliseconds after which `cost` tokens can be taken, if only calls that cost `ahead` in all
   * are made before: 0 for now, infinite for never. With `ahead`, only where the meter is additive.
   */
  waitMillis(now: number, cost: number, ahead?: number): number
  /** Gives nothing out for `pauseMillis`, and lowers the rate where it can be lowered. */
  throttle(now: number, pauseMillis: number): void
  /** Goes on with other numbers of the same algorithm: what was taken stays taken, and nothing comes as a gift. */
  change(now: number, numbers: Numbers): void
  /** A copy that goes its own way. */
  clone(): Meter
}

/** The smallest whole number of milliseconds, added to `now`, that is not before `dueAt`. */
export const wholeMillis = (now: number, dueAt: number): number => {
  const wait = Math.max(0, Math.ceil(dueAt - now))
  if (!Number.isSafeInteger(wait)) return Infinity
  // The difference can be rounded to either side of a millisecond. The sum decides.
  if (now + wait < dueAt) return wait + 1
  return wait > 0 && now + wait - 1 >= dueAt ? wait - 1 : wait
}

/** A meter that says when a call is due; this adds the pauses. */
export abstract class DueMeter {
  // Absent in most of them: a number would take memory in each.
  protected pausedUntil: number | undefined = undefined

  /** The first moment, from `from` on, at which `cost` tokens can be taken after `ahead` others. */
  abstract dueAt(from: number, cost: number, ahead: number): number
  abstract take(now: number, cost: number): void

  pausedMillis(now: number): number {
    return this.pausedUntil === undefined ? 0 : Math.max(0, this.pausedUntil - now)
  }

  takeIfAvailable(now: number, cost: number): boolean {
    if ((this.pausedUntil !== undefined && now < this.pausedUntil) || this.dueAt(now, cost, 0) > now) return false
    this.take(now, cost)
    return true
  }

  waitMillis(now: number, cost: number, ahead = 0): number {
    const from = this.pausedUntil === undefined ? now : Math.max(now, this.pausedUntil)
    return wholeMillis(now, this.dueAt(from, cost, ahead))
  }

  throttle(now: number, pauseMillis: number): void {
    this.pausedUntil = Math.max(this.pausedUntil ?? now, now + pauseMillis)
  }
}
