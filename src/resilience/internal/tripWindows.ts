/**
 * Watches the outcomes of a circuit through a window, and says when there have been too many bad ones.
 *
 * A window of calls keeps one byte per call. A window of time keeps ten sums and the times of the failures it waits for,
 * however many calls pass through it. Recording costs the same whatever the length of the window.
 */
import type { Fiber } from "effect"
import { nowMillisUnsafe } from "./monotonic.ts"

/** What one rule looks for. Thresholds that it does not have are infinite. */
export interface Rule {
  readonly failures: number
  readonly failureRate: number
  readonly slowCallRate: number
  readonly minimumCalls: number
  readonly window: { readonly calls: number } | { readonly millis: number } | undefined
}

/** What a rule sees at one moment. It counts no calls where only failures matter. */
export interface Seen {
  readonly calls: number | undefined
  readonly failures: number
  readonly slow: number | undefined
}

/** The outcomes that one rule with a window looks at. */
export interface TripWindow {
  /** Counts an outcome and says whether the circuit has to open. */
  readonly record: (failed: boolean, slow: boolean, fiber: Fiber.Fiber<unknown, unknown>) => boolean
  readonly seen: (fiber: Fiber.Fiber<unknown, unknown>) => Seen
  readonly clear: () => void
}

/** Creates the empty window of a rule that has one. */
export const make = (rule: Rule): TripWindow | undefined => {
  if (rule.window === undefined) return undefined
  if ("calls" in rule.window) return new CallWindow(rule, rule.window.calls)
  const { millis } = rule.window
  if (rule.failureRate === Infinity && rule.slowCallRate === Infinity) return new FailureTimes(rule.failures, millis)
  const buckets = new TimeWindow(rule, millis)
  return rule.failures === Infinity ? buckets : new Both(buckets, new FailureTimes(rule.failures, millis))
}

const isTooMuch = (rule: Rule, calls: number, failures: number, slow: number): boolean =>
  calls >= rule.minimumCalls && (failures / calls >= rule.failureRate || slow / calls >= rule.slowCallRate)

const failedBit = 1
const slowBit = 2

/** The last so many calls. */
class CallWindow implements TripWindow {
  private readonly rule: Rule
  private readonly ring: Uint8Array
  private at = 0
  private calls = 0
  private failures = 0
  private slow = 0

  constructor(rule: Rule, size: number) {
    this.rule = rule
    this.ring = new Uint8Array(size)
  }

  record(failed: boolean, slow: boolean): boolean {
    const { ring, rule } = this
    // A place not used yet holds a call that was neither.
    const oldest = ring[this.at] ?? 0
    this.failures += (failed ? 1 : 0) - (oldest & failedBit)
    this.slow += (slow ? 1 : 0) - (oldest & slowBit) / slowBit
    ring[this.at] = (failed ? failedBit : 0) + (slow ? slowBit : 0)
    this.at = this.at + 1 === ring.length ? 0 : this.at + 1
    if (this.calls < ring.length) this.calls++
    return this.failures >= rule.failures || isTooMuch(rule, this.calls, this.failures, this.slow)
  }

  seen(): Seen {
    return { calls: this.calls, failures: this.failures, slow: this.slow }
  }

  clear(): void {
    this.ring.fill(0)
    this.at = this.calls = this.failures = this.slow = 0
  }
}

/** The last so many failures, with the time of each: exact, and a success costs nothing. */
class FailureTimes implements TripWindow {
  private readonly failures: number
  private readonly millis: number
  private times: Array<number> = []
  private at = 0

  constructor(failures: number, millis: number) {
    this.failures = failures
    this.millis = millis
  }

  record(failed: boolean, _slow: boolean, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    if (!failed) return false
    const now = nowMillisUnsafe(fiber)
    this.times[this.at] = now
    this.at = this.at + 1 === this.failures ? 0 : this.at + 1
    // Until there have been so many, the next place is empty.
    const oldest = this.times[this.at]
    return oldest !== undefined && now - oldest < this.millis
  }

  seen(fiber: Fiber.Fiber<unknown, unknown>): Seen {
    const now = nowMillisUnsafe(fiber)
    const failures = this.times.reduce((sum, time) => (now - time < this.millis ? sum + 1 : sum), 0)
    return { calls: undefined, failures, slow: undefined }
  }

  clear(): void {
    this.times = []
    this.at = 0
  }
}

const buckets = 10

/**
 * The calls of the last so many milliseconds, summed up by tenths. The tenths begin with the first call after a time
 * without any, so that one is forgotten exactly when its time is over; later ones up to a tenth earlier.
 */
class TimeWindow implements TripWindow {
  private readonly rule: Rule
  private readonly width: number
  // Of each tenth the calls, the failed ones and the slow ones.
  private readonly sums = new Float64Array(3 * buckets)
  private startedAt = 0
  private tenth = 0
  private calls = 0
  private failures = 0
  private slow = 0

  constructor(rule: Rule, millis: number) {
    this.rule = rule
    this.width = millis / buckets
  }

  record(failed: boolean, slow: boolean, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    const now = nowMillisUnsafe(fiber)
    this.moveTo(now)
    if (this.calls === 0) {
      this.startedAt = now
      this.tenth = 0
    }
    this.add((this.tenth % buckets) * 3, 1, failed ? 1 : 0, slow ? 1 : 0)
    return isTooMuch(this.rule, this.calls, this.failures, this.slow)
  }

  seen(fiber: Fiber.Fiber<unknown, unknown>): Seen {
    this.moveTo(nowMillisUnsafe(fiber))
    return { calls: this.calls, failures: this.failures, slow: this.slow }
  }

  clear(): void {
    this.sums.fill(0)
    this.calls = this.failures = this.slow = 0
  }

  // Forgets the tenths that are over.
  private moveTo(now: number): void {
    if (this.calls === 0) return
    const tenth = Math.floor((now - this.startedAt) / this.width)
    if (tenth - this.tenth >= buckets) this.clear()
    else {
      while (this.tenth < tenth) {
        const index = (++this.tenth % buckets) * 3
        this.add(index, -(this.sums[index] ?? 0), -(this.sums[index + 1] ?? 0), -(this.sums[index + 2] ?? 0))
      }
    }
  }

  private add(index: number, calls: number, failures: number, slow: number): void {
    this.calls += calls
    this.failures += failures
    this.slow += slow
    this.sums[index] = (this.sums[index] ?? 0) + calls
    this.sums[index + 1] = (this.sums[index + 1] ?? 0) + failures
    this.sums[index + 2] = (this.sums[index + 2] ?? 0) + slow
  }
}

/** Rates and a number of failures in the same time. */
class Both implements TripWindow {
  private readonly rates: TripWindow
  private readonly times: TripWindow

  constructor(rates: TripWindow, times: TripWindow) {
    this.rates = rates
    this.times = times
  }

  record(failed: boolean, slow: boolean, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    const tooMany = this.times.record(failed, slow, fiber)
    return this.rates.record(failed, slow, fiber) || tooMany
  }

  seen(fiber: Fiber.Fiber<unknown, unknown>): Seen {
    return this.rates.seen(fiber)
  }

  clear(): void {
    this.rates.clear()
    this.times.clear()
  }
}
