/**
 * Turns the options of rate limiters into meters and lines: checks them, and fills in the defaults.
 */
import { Duration } from "effect"
import type { Limit, RateLimiter, WaitOptions } from "../RateLimiter.ts"
import { FixedWindow } from "./fixedWindow.ts"
import { Gcra } from "./gcra.ts"
import { type Line, type Refusal, Rules, type SteadyClock } from "./limitLine.ts"
import type { Meter, Numbers } from "./meter.ts"
import { SlidingCounter } from "./slidingCounter.ts"
import { SlidingWindow } from "./slidingWindow.ts"
import { TokenBucket } from "./tokenBucket.ts"

/** The line behind each limiter, for those that stand inside it. */
export const lines = new WeakMap<RateLimiter, Line>()

/** The line of the limiter around another one. */
export const lineAround = (module: string, outer: RateLimiter): Line => {
  const line = lines.get(outer)
  if (line === undefined) throw new RangeError(`${module}: outer must be a limiter that RateLimiter made`)
  return line
}

/** Checks the numbers of an algorithm. */
export const toNumbers = (module: string, limit: Limit): Numbers => {
  const check = checks(module)
  switch (limit.algorithm) {
    case undefined:
    case "token-bucket": {
      const { capacity, refillPerSecond } = limit
      check("capacity", capacity, "a finite number >= 1", capacity >= 1 && capacity < Infinity)
      check(
        "refillPerSecond",
        refillPerSecond,
        "a finite number > 0",
        refillPerSecond > 0 && refillPerSecond < Infinity
      )
      return { algorithm: "token-bucket", capacity, refillPerSecond }
    }
    case "smooth": {
      const intervalMillis = Duration.toMillis(limit.interval)
      check("interval", intervalMillis, ...overZero(intervalMillis))
      return { algorithm: "smooth", intervalMillis, burst: 1 }
    }
    case "gcra": {
      const windowMillis = Duration.toMillis(limit.window)
      const burst = limit.burst ?? Math.max(1, limit.limit)
      check("limit", limit.limit, "a finite number > 0", limit.limit > 0 && limit.limit < Infinity)
      check("window", windowMillis, ...overZero(windowMillis))
      check("burst", burst, "a finite number >= 1", burst >= 1 && burst < Infinity)
      return { algorithm: "gcra", intervalMillis: windowMillis / limit.limit, burst }
    }
    case "fixed-window":
    case "sliding-window":
    case "sliding-window-counter": {
      const windowMillis = Duration.toMillis(limit.window)
      check("limit", limit.limit, "a finite number >= 1", limit.limit >= 1 && limit.limit < Infinity)
      check("window", windowMillis, ...overZero(windowMillis))
      return { algorithm: limit.algorithm, limit: limit.limit, windowMillis }
    }
  }
}

/** What a limiter does with those who wait, and when the other side complains. */
export interface Settings {
  readonly rules: Rules
  readonly maxPauseMillis: number
  /** A meter with nothing taken. */
  readonly meter: (numbers: Numbers, now: number) => Meter
}

/** Checks everything else. */
export const toSettings = (module: string, options: WaitOptions, clock: SteadyClock, refusal: Refusal): Settings => {
  const check = checks(module)
  const { adaptive = {} } = options
  const maxWait = Duration.toMillis(options.maxWait ?? "30 seconds")
  const maxQueued = options.maxQueued ?? 1_000
  const factor = adaptive.factor ?? 0.5
  const floor = adaptive.floor ?? 0.1
  const recoverMillis = Duration.toMillis(adaptive.recovery ?? "1 minute")
  const cooldownMillis = Duration.toMillis(adaptive.cooldown ?? "1 second")
  const maxPauseMillis = Duration.toMillis(adaptive.maxPause ?? "1 hour")
  check("maxWait", maxWait, "zero or more", maxWait >= 0)
  check("maxQueued", maxQueued, "an integer >= 0", Number.isInteger(maxQueued) && maxQueued >= 0)
  check("adaptive.factor", factor, "over 0 and at most 1", factor > 0 && factor <= 1)
  check("adaptive.floor", floor, "over 0 and at most 1", floor > 0 && floor <= 1)
  check("adaptive.recovery", recoverMillis, ...overZero(recoverMillis))
  check("adaptive.cooldown", cooldownMillis, ...notNegative(cooldownMillis))
  check("adaptive.maxPause", maxPauseMillis, ...notNegative(maxPauseMillis))
  return {
    rules: new Rules(clock, maxWait, maxQueued, refusal, options.name),
    maxPauseMillis,
    meter: (numbers, now) => makeMeter(numbers, now, { factor, floor, recoverMillis, cooldownMillis })
  }
}

/** A meter with nothing taken. Only a token bucket has a rate that adapts. */
export const makeMeter = (
  numbers: Numbers,
  now: number,
  adaptive: {
    readonly factor: number
    readonly floor: number
    readonly recoverMillis: number
    readonly cooldownMillis: number
  }
): Meter => {
  switch (numbers.algorithm) {
    case "token-bucket": {
      const { capacity, refillPerSecond } = numbers
      const { cooldownMillis, factor, floor, recoverMillis } = adaptive
      const floorPerSecond = floor * refillPerSecond
      return new TokenBucket({ capacity, refillPerSecond, factor, floorPerSecond, recoverMillis, cooldownMillis }, now)
    }
    case "gcra":
    case "smooth":
      return new Gcra(numbers, now)
    case "fixed-window":
      return new FixedWindow(numbers, now)
    case "sliding-window":
      return new SlidingWindow(numbers)
    case "sliding-window-counter":
      return new SlidingCounter(numbers, now)
  }
}

/** The error of a number that makes no sense. */
export const outOfRange = (module: string, name: string, value: number | string, expected: string): RangeError =>
  new RangeError(`${module}: ${name} must be ${expected}, got ${value}`)

/** The numbers, if they are of the algorithm that is in use: limits change, the way to count does not. */
export const sameAlgorithm = (module: string, inUse: Numbers, to: Limit): Numbers => {
  const numbers = toNumbers(module, to)
  if (numbers.algorithm === inUse.algorithm) return numbers
  throw outOfRange(module, "algorithm", numbers.algorithm, inUse.algorithm)
}

/** The error of a cost that no call can have, if it is one. */
export const wrongCost = (module: string, numbers: Numbers, cost: number): RangeError | undefined => {
  const [most, name] = largestCost(numbers)
  if (cost > 0 && cost <= most && cost < Infinity) return undefined
  return outOfRange(
    module,
    "cost",
    cost,
    most === Infinity ? "over 0 and finite" : `over 0 and at most ${name} ${most}`
  )
}

const largestCost = (numbers: Numbers): readonly [most: number, name: string] => {
  switch (numbers.algorithm) {
    case "token-bucket":
      return [numbers.capacity, "the capacity"]
    case "gcra":
      return [numbers.burst, "the burst"]
    case "smooth":
      return [Infinity, ""]
    case "fixed-window":
    case "sliding-window":
    case "sliding-window-counter":
      return [numbers.limit, "the limit"]
  }
}

const checks =
  (module: string) =>
  (name: string, value: number, expected: string, valid: boolean): void => {
    if (!valid) throw outOfRange(module, name, value, expected)
  }

const overZero = (millis: number): [expected: string, valid: boolean] => [
  "a finite duration over zero",
  millis > 0 && millis < Infinity
]

const notNegative = (millis: number): [expected: string, valid: boolean] => [
  "finite and not negative",
  millis >= 0 && millis < Infinity
]
