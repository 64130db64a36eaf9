/**
 * Works out the settings of circuits: checks them, fills in the defaults, and turns durations into milliseconds.
 */
import { Duration, type Exit, Schedule } from "effect"
import type { Options, Outcome, Settings, TripRule } from "../CircuitBreaker.ts"
import { fromSchedule, type NextOpenTime } from "./openTimes.ts"
import type * as TripWindows from "./tripWindows.ts"

/** Settings as they are used, shared by all circuits that have them. */
export interface Rules {
  readonly rules: ReadonlyArray<TripWindows.Rule>
  /** Failures in a row that open: the fewest of all rules. */
  readonly inARow: number
  readonly windowed: boolean
  readonly slowAfterMillis: number
  /** Whether there is a rule about slow calls. */
  readonly slowOpens: boolean
  readonly openTimes: () => NextOpenTime
  readonly probes: number
  readonly successesToClose: number
  readonly maxHalfOpenMillis: number
  readonly maxRetryAfterMillis: number
  readonly classify: (exit: Exit.Exit<unknown, unknown>) => Outcome
}

/** What the exit of a call means where the settings do not say. */
type Classify = Rules["classify"]

/** Works out the rules of settings. */
export const toRules = (settings: Settings, classify: Classify): Rules => {
  const slowAfterMillis = Duration.toMillis(settings.slowAfter ?? "Infinity")
  if (!(slowAfterMillis >= 0)) throw invalid("slowAfter", "zero or more", `${slowAfterMillis} ms`)
  const rules = [settings, ...(settings.or ?? [])].map(toRule)
  const slowOpens = rules.some((rule) => rule.slowCallRate !== Infinity)
  if (slowOpens && slowAfterMillis === Infinity) throw invalid("slowAfter", "given with slowCallRate", "nothing")
  return {
    rules,
    inARow: Math.min(...rules.map((rule) => (rule.window === undefined ? rule.failures : Infinity))),
    windowed: rules.some((rule) => rule.window !== undefined),
    slowAfterMillis,
    slowOpens,
    openTimes: toOpenTimes(settings.openFor ?? "60 seconds"),
    probes: atLeastOne("probes", settings.probes ?? 1),
    successesToClose: atLeastOne("successesToClose", settings.successesToClose ?? 2),
    maxHalfOpenMillis: longerThanZero("maxHalfOpen", settings.maxHalfOpen ?? "Infinity"),
    maxRetryAfterMillis: notNegative("maxRetryAfter", settings.maxRetryAfter ?? "1 hour"),
    classify: settings.classify ?? classify
  }
}

const toRule = (rule: TripRule): TripWindows.Rule => {
  const failureRate = share("failureRate", rule.failureRate)
  const slowCallRate = share("slowCallRate", rule.slowCallRate)
  const hasRate = failureRate !== Infinity || slowCallRate !== Infinity
  const failures = atLeastOne("failures", rule.failures ?? 5)
  if (rule.size !== undefined && rule.within !== undefined) throw invalid("size", "left out beside within", rule.size)
  if (rule.minimumCalls !== undefined && !hasRate)
    throw invalid("minimumCalls", "left out without a rate", rule.minimumCalls)
  const within = rule.within === undefined ? undefined : positive("within", rule.within)
  const calls = atLeastOne("size", rule.size ?? 100)
  const inARow = within === undefined && rule.size === undefined && !hasRate
  // A few failures among the last hundred calls are hardly what was meant.
  if (rule.failures !== undefined && hasRate && within === undefined && rule.size === undefined)
    throw invalid("failures", "left out beside a rate without size or within", rule.failures)
  const countsFailures = rule.failures !== undefined || !hasRate
  const most = within === undefined && !inARow ? calls : Infinity
  if (countsFailures && failures > most) throw invalid("failures", `at most size, ${most}`, failures)
  const minimumCalls = atLeastOne("minimumCalls", rule.minimumCalls ?? Math.min(20, most))
  if (minimumCalls > most) throw invalid("minimumCalls", `at most size, ${most}`, minimumCalls)
  return {
    failures: countsFailures ? failures : Infinity,
    failureRate,
    slowCallRate,
    minimumCalls,
    window: inARow ? undefined : within === undefined ? { calls } : { millis: within }
  }
}

/** Finds the rules of a key. Settings that several keys share are worked out once. */
export const rulesByKey = (options: Options, defaults: Rules): ((key: string) => Rules) => {
  const { settings: settingsOf } = options
  if (settingsOf === undefined) return () => defaults
  const known = new WeakMap<Settings, Rules>()
  return (key) => {
    const settings = settingsOf(key)
    if (settings === undefined) return defaults
    const rules = known.get(settings) ?? toRules(merge(options, settings), defaults.classify)
    known.set(settings, rules)
    return rules
  }
}

const merge = (options: Settings, settings: Settings): Settings => {
  const trip = tripFields.some((field) => settings[field] !== undefined) ? settings : options
  return {
    failures: trip.failures,
    failureRate: trip.failureRate,
    slowCallRate: trip.slowCallRate,
    minimumCalls: trip.minimumCalls,
    size: trip.size,
    within: trip.within,
    or: trip.or,
    slowAfter: settings.slowAfter ?? options.slowAfter,
    openFor: settings.openFor ?? options.openFor,
    probes: settings.probes ?? options.probes,
    successesToClose: settings.successesToClose ?? options.successesToClose,
    maxHalfOpen: settings.maxHalfOpen ?? options.maxHalfOpen,
    maxRetryAfter: settings.maxRetryAfter ?? options.maxRetryAfter,
    classify: settings.classify ?? options.classify
  }
}

const tripFields = ["failures", "failureRate", "slowCallRate", "minimumCalls", "size", "within", "or"] as const

const toOpenTimes = (openFor: Duration.Input | Schedule.Schedule<unknown, number>): (() => NextOpenTime) => {
  if (Schedule.isSchedule(openFor)) return () => fromSchedule(openFor)
  const millis = positive("openFor", openFor)
  const same = () => millis
  return () => same
}

/** Reads a number of things. */
export const atLeastOne = (name: string, value: number): number => {
  if (Number.isInteger(value) && value >= 1) return value
  throw invalid(name, "an integer >= 1", value)
}

const share = (name: string, value: number | undefined): number => {
  if (value === undefined) return Infinity
  if (value > 0 && value <= 1) return value
  throw invalid(name, "over 0 and at most 1", value)
}

const notNegative = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  if (millis >= 0) return millis
  throw new RangeError(`CircuitBreaker: ${name} must not be negative, got ${millis} ms`)
}

const longerThanZero = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  if (millis > 0) return millis
  throw invalid(name, "longer than 0", `${millis} ms`)
}

/** Reads a time that has to begin and to end, in milliseconds. */
export const positive = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  if (millis > 0 && millis < Infinity) return millis
  throw invalid(name, "longer than 0 and end", `${millis} ms`)
}

const invalid = (name: string, expected: string, value: number | string): RangeError =>
  new RangeError(`CircuitBreaker: ${name} must be ${expected}, got ${value}`)
