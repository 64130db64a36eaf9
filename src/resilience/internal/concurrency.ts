/**
 * The arithmetic of limits on concurrency that find themselves. Time is a parameter, and so is chance.
 *
 * The formulas and defaults are those of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits: AIMDLimit,
 * VegasLimit, Gradient2Limit, WindowedLimit). A limit looks at windows instead of single calls: between an
 * adjustment and what it brings about lies a round trip, and to adjust again within it would be to answer the same
 * congestion many times.
 */

/** What a limit learns at the end of a window. */
export interface Observation {
  /** The mean duration of the calls that were not dropped, in milliseconds; `undefined` if all were. */
  readonly rtt: number | undefined
  /** Calls that ended. */
  readonly calls: number
  /** The most calls that were running when one started. */
  readonly mostRunning: number
  /** Whether a call was dropped. */
  readonly dropped: boolean
}

/** A limit that adjusts itself. */
export interface Limit {
  /** The calls that may run now: whole numbers are made of it elsewhere. */
  readonly limit: number
  /** The duration it takes for one without queueing, in milliseconds. */
  readonly baseline: number | undefined
  /** Adjusts it after a window. `random` gives numbers from 0 to 1. */
  update(observed: Observation, random: () => number): void
}

/** Between what a limit stays. */
export interface Bounds {
  readonly initial: number
  readonly min: number
  readonly max: number
}

/** Additive increase, multiplicative decrease: one more per window, a part of it after a drop. Chiu and Jain, 1989. */
export class Aimd implements Limit {
  readonly baseline = undefined
  limit: number
  private readonly bounds: Bounds
  private readonly backoff: number

  constructor(bounds: Bounds, backoff: number) {
    this.bounds = bounds
    this.backoff = backoff
    this.limit = bounds.initial
  }

  update(observed: Observation): void {
    const { limit } = this
    if (observed.dropped) {
      this.limit = clamp(this.bounds, Math.min(limit - 1, Math.floor(limit * this.backoff)))
    } else if (observed.mostRunning * 2 >= limit) {
      this.limit = clamp(this.bounds, limit + 1)
    }
  }
}

/** The numbers of `Vegas`. */
export interface VegasNumbers {
  readonly alpha: number
  readonly beta: number
  readonly probeEvery: number
}

/**
 * Estimates how many calls queue on the other side, `limit * (1 - baseline / rtt)`, and keeps that between two bounds that
 * grow with the logarithm of the limit. Brakmo and Peterson, "TCP Vegas", 1995.
 *
 * The baseline is the lowest mean of a window. About every `probeEvery * limit` calls it is measured anew, in a window in
 * which the limit is halved: as long as a queue stands, a baseline could only be found too high, and the limit would creep
 * up with it.
 */
export class Vegas implements Limit {
  baseline: number | undefined = undefined
  private estimate: number
  private probing = false
  private calls = 0
  private probeAfter = 1
  private readonly bounds: Bounds
  private readonly numbers: VegasNumbers

  constructor(bounds: Bounds, numbers: VegasNumbers) {
    this.bounds = bounds
    this.numbers = numbers
    this.estimate = bounds.initial
  }

  get limit(): number {
    return this.probing ? clamp(this.bounds, this.estimate / 2) : this.estimate
  }

  update(observed: Observation, random: () => number): void {
    const { calls, dropped, mostRunning, rtt } = observed
    if (dropped) this.move(-step(this.estimate))
    if (rtt === undefined) return
    if (this.probing) {
      this.probing = false
      this.calls = 0
      this.baseline = rtt
      return
    }
    this.calls += calls
    if (this.baseline === undefined || rtt < this.baseline) {
      this.baseline = rtt
      return
    }
    if (this.calls >= this.probeAfter * this.numbers.probeEvery * this.estimate) {
      // So that those who share a server do not all probe at once.
      this.probeAfter = 0.5 + random() / 2
      this.probing = true
    }
    if (dropped || mostRunning * 2 < this.estimate) return
    const unit = step(this.estimate)
    const queue = Math.ceil(this.estimate * (1 - this.baseline / rtt))
    if (queue <= unit) this.move(this.numbers.beta * unit)
    else if (queue < this.numbers.alpha * unit) this.move(unit)
    else if (queue > this.numbers.beta * unit) this.move(-unit)
  }

  private move(by: number): void {
    this.estimate = clamp(this.bounds, this.estimate + by)
  }
}

/** The numbers of `Gradient2`. */
export interface Gradient2Numbers {
  readonly smoothing: number
  readonly queue: number
  readonly longWindow: number
  readonly tolerance: number
}

/**
 * Compares the duration now with that of the long run: `limit * gradient + queue`, smoothed, where the gradient is
 * `tolerance * long / rtt`, between a half and one. A window with a drop counts as the steepest, without room for a queue.
 */
export class Gradient2 implements Limit {
  limit: number
  private long = 0
  private windows = 0
  private readonly bounds: Bounds
  private readonly numbers: Gradient2Numbers

  constructor(bounds: Bounds, numbers: Gradient2Numbers) {
    this.bounds = bounds
    this.numbers = numbers
    this.limit = bounds.initial
  }

  get baseline(): number | undefined {
    return this.windows === 0 ? undefined : this.long
  }

  update(observed: Observation): void {
    const { dropped, mostRunning, rtt } = observed
    const { queue, smoothing, tolerance } = this.numbers
    if (rtt !== undefined) this.average(rtt)
    if (dropped) return this.approach(this.limit / 2, smoothing)
    if (rtt === undefined || mostRunning * 2 < this.limit) return
    const gradient = Math.max(0.5, Math.min(1, (tolerance * this.long) / rtt))
    this.approach(this.limit * gradient + queue, smoothing)
  }

  // The plain mean of the first ten windows, and an exponential one from there.
  private average(rtt: number): void {
    this.windows++
    const share = this.windows <= 10 ? 1 / this.windows : 2 / (this.numbers.longWindow + 1)
    this.long += (rtt - this.long) * share
    // After a long time of load the long run would take as long to forget it.
    if (this.long > 2 * rtt) this.long *= 0.95
  }

  private approach(target: number, share: number): void {
    this.limit = clamp(this.bounds, this.limit * (1 - share) + target * share)
  }
}

/**
 * Collects the calls of a window. Only calls that started in it count: the others say how it was under an earlier limit.
 * So that not only the fast ones among them count, it lasts at least twice as long as a call took in the last window.
 */
export class Window {
  private readonly minMillis: number
  private readonly minCalls: number
  private millis: number
  private startedAt: number
  private calls = 0
  private measured = 0
  private sum = 0
  private mostRunning = 0
  private dropped = false

  constructor(millis: number, minCalls: number, now: number) {
    this.minMillis = this.millis = millis
    this.minCalls = minCalls
    this.startedAt = now
  }

  /** Counts a call that has ended. Returns what the window has seen if it is over, and begins the next. */
  add(startedAt: number, now: number, running: number, dropped: boolean): Observation | undefined {
    if (startedAt < this.startedAt) return undefined
    this.calls++
    if (running > this.mostRunning) this.mostRunning = running
    if (dropped) this.dropped = true
    else {
      this.measured++
      this.sum += now - startedAt
    }
    if (this.calls < this.minCalls || now - this.startedAt < this.millis) return undefined
    const observed: Observation = {
      // Calls that take no time at all would make everything else infinitely slow.
      rtt: this.measured === 0 ? undefined : Math.max(0.001, this.sum / this.measured),
      calls: this.calls,
      mostRunning: this.mostRunning,
      dropped: this.dropped
    }
    this.startedAt = now
    this.millis = Math.max(this.minMillis, 2 * (observed.rtt ?? this.millis / 2))
    this.calls = this.measured = this.sum = this.mostRunning = 0
    this.dropped = false
    return observed
  }
}

const clamp = ({ max, min }: Bounds, limit: number): number => Math.max(min, Math.min(max, limit))

// The unit of Vegas: it grows with the limit, and is never nothing.
const step = (limit: number): number => Math.max(1, Math.floor(Math.log10(limit)))
