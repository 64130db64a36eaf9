/**
 * Builds the parts of a policy from the data of a profile, and puts them together.
 */
import { Cause, Duration, Effect, Exit, type Scope } from "effect"
import * as AdaptiveLimit from "../AdaptiveLimit.ts"
import * as AdaptiveThrottle from "../AdaptiveThrottle.ts"
import * as AdaptiveTimeout from "../AdaptiveTimeout.ts"
import * as Bulkhead from "../Bulkhead.ts"
import * as Cache from "../Cache.ts"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import type { DeadlineExceeded } from "../Deadline.ts"
import * as ErrorPattern from "../ErrorPattern.ts"
import * as Hedge from "../Hedge.ts"
import * as Policy from "../Policy.ts"
import type { Budget, Profile, RateLimiterSpec, RetrySpec } from "../Profile.ts"
import * as RateLimiter from "../RateLimiter.ts"
import * as Retry from "../Retry.ts"
import * as RetryBudget from "../RetryBudget.ts"
import * as Telemetry from "../Telemetry.ts"
import type { TimedOut } from "../Timeout.ts"

/** The errors that the parts of a profile can add. */
export type Errors =
  | DeadlineExceeded
  | Bulkhead.BulkheadFull
  | AdaptiveLimit.LimitReached
  | CircuitBreaker.CircuitOpen
  | AdaptiveThrottle.Throttled
  | RateLimiter.RateLimited
  | TimedOut

/** What the parts of a policy are made from: the fields of a profile, and the budgets inside two of them. */
export interface Specs extends Profile {
  readonly retryBudget?: Budget
  readonly hedgeBudget?: Budget
}

/** The parts of a policy. */
export interface Parts {
  readonly deadline?: Duration.Duration
  readonly timeout?: Duration.Duration | AdaptiveTimeout.AdaptiveTimeout
  readonly cache?: Cache.Cache<Cache.Key, unknown, unknown>
  readonly bulkhead?: Bulkhead.Bulkhead
  readonly adaptiveLimit?: AdaptiveLimit.AdaptiveLimit
  readonly retryBudget?: RetryBudget.RetryBudget
  readonly retry?: Retry.Retry
  readonly hedgeBudget?: RetryBudget.RetryBudget
  readonly hedge?: Hedge.Hedge
  readonly circuitBreaker?: CircuitBreaker.CircuitBreaker
  readonly adaptiveThrottle?: AdaptiveThrottle.AdaptiveThrottle
  readonly rateLimiter?: RateLimiter.RateLimiter
}

/** The name of a part. */
export type PartName = keyof Parts

/** How one part is built. `parts` has those that were built before it; the name is that of whose part it is. */
export type Builders = {
  readonly [Name in PartName]-?: (
    spec: NonNullable<Specs[Name]>,
    parts: Parts,
    name?: string
  ) => Effect.Effect<NonNullable<Parts[Name]>, never, Scope.Scope>
}

/** How the parts are built. The order is that in which they must be: the budgets before what pays from them. */
export const builders: Builders = {
  deadline: (deadline) => Effect.sync(() => (overZero("Policy", "deadline", deadline), deadline)),
  timeout: (timeout) =>
    Duration.isDuration(timeout)
      ? Effect.sync(() => (overZero("Policy", "timeout", timeout), timeout))
      : AdaptiveTimeout.make(timeout),
  cache: ({ capacity = 1000, failureTimeToLive, refresh, timeToLive, ...others }, _, name) =>
    Effect.andThen(
      Effect.sync(() => {
        overZero("Cache", "timeToLive", timeToLive)
        const forFailures = Duration.toMillis(failureTimeToLive ?? 0)
        if (forFailures < 0) throw new RangeError(`Cache: failureTimeToLive must be zero or more, got ${forFailures}`)
      }),
      Cache.make<Cache.Key, unknown, unknown>({
        ...others,
        name,
        capacity,
        timeToLive:
          failureTimeToLive === undefined
            ? timeToLive
            : (exit) => (Exit.isSuccess(exit) ? timeToLive : failureTimeToLive),
        refresh
      })
    ),
  bulkhead: (options, _, name) => Bulkhead.make({ ...options, name }),
  adaptiveLimit: (spec, _, name) => AdaptiveLimit.make({ ...adaptiveLimitOf(spec), name }),
  retryBudget: (spec) => budgetOf(spec),
  retry: (spec, { retryBudget }, name) =>
    Effect.sync(() => {
      const { maxElapsed, maxRetryAfter } = spec
      const options = { name, schedule: scheduleOf(spec), maxElapsed, maxRetryAfter, budget: retryBudget }
      return spec.while === undefined
        ? Retry.make(options)
        : Retry.make({ ...options, while: ErrorPattern.fromSpec(spec.while) })
    }),
  hedgeBudget: (spec) => budgetOf(spec),
  hedge: ({ while: pattern, ...others }, { hedgeBudget }, name) => {
    const options = { ...others, name, budget: hedgeBudget }
    return pattern === undefined
      ? Hedge.make(options)
      : Hedge.make({ ...options, while: ErrorPattern.fromSpec(pattern) })
  },
  circuitBreaker: ({ failure, ignored, ...spec }, _, name) =>
    Effect.suspend(() =>
      CircuitBreaker.make({
        ...circuitOf(spec),
        name,
        classify:
          failure === undefined && ignored === undefined
            ? undefined
            : ErrorPattern.outcome({
                failure: failure && ErrorPattern.fromSpec(failure),
                ignored: ignored && ErrorPattern.fromSpec(ignored)
              })
      })
    ),
  adaptiveThrottle: (options, _, name) => AdaptiveThrottle.make({ ...options, name }),
  rateLimiter: (spec, _, name) => {
    const { adaptive, maxQueued, maxWait } = spec
    return RateLimiter.make({ ...limitOf(spec), name, adaptive, maxQueued, maxWait })
  }
}

/** The names of the parts, in the order in which they are built. */
export const partNames = Object.keys(builders) as ReadonlyArray<PartName>

/** What the parts of a profile are made from. */
export const specsOf = (profile: Profile): Specs => ({
  ...profile,
  ...(profile.retry?.budget !== undefined && { retryBudget: profile.retry.budget }),
  ...(profile.hedge?.budget !== undefined && { hedgeBudget: profile.hedge.budget })
})

/** Builds one part, if there is something to make it from, and shows it as metrics under the name of its owner. */
export const build = (
  part: PartName,
  specs: Specs,
  parts: Parts,
  owner?: string
): Effect.Effect<unknown, never, Scope.Scope> => {
  const spec = specs[part]
  if (spec === undefined) return Effect.undefined
  // The name of a builder is that of its spec, which the type of a lookup by an open name does not say.
  const builder = builders[part] as (
    spec: unknown,
    parts: Parts,
    name: string | undefined
  ) => Effect.Effect<unknown, never, Scope.Scope>
  const built = builder(spec, parts, owner)
  return owner === undefined ? built : Effect.tap(built, (made) => Telemetry.observe(owner, observedOf(part, made)))
}

const observedOf = (part: PartName, made: unknown): Telemetry.Observed => {
  if (part === "timeout")
    return Duration.isDuration(made) ? {} : { adaptiveTimeout: made as AdaptiveTimeout.AdaptiveTimeout }
  // What pays for hedges would stand under the name of what pays for retries.
  return part === "hedgeBudget" ? {} : { [part]: made }
}

/** Makes calls: with a key through the cache as well, if there is one. */
export interface Execute {
  (
    options?: { readonly key?: Cache.Key | undefined } & Cache.CallOptions<Cache.Key, unknown, unknown>
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Errors, R>
}

/** Puts parts together. It costs nothing but the closures. */
export const compose = (order: Profile["order"], parts: Parts): Execute => {
  const {
    adaptiveLimit,
    adaptiveThrottle,
    bulkhead,
    cache,
    circuitBreaker,
    deadline,
    hedge,
    rateLimiter,
    retry,
    timeout
  } = parts
  const admission: Bulkhead.Bulkhead | AdaptiveLimit.AdaptiveLimit | undefined = bulkhead ?? adaptiveLimit
  const all = { deadline, bulkhead: admission, retry, hedge, circuitBreaker, adaptiveThrottle, rateLimiter, timeout }
  const plain: Policy.Policy<Errors> = order === "facade" ? Policy.makeFacade(all) : Policy.make(all)
  if (cache === undefined) return () => plain.execute
  const withCache = { ...all, cache }
  const cached: Policy.CachedPolicy<Cache.Key, unknown, unknown> =
    order === "facade" ? Policy.makeFacade(withCache) : Policy.make(withCache)
  return ({ key, ...call } = {}) =>
    key === undefined
      ? plain.execute
      : <A, E, R>(self: Effect.Effect<A, E, R>) =>
          // That all calls of a key have these types is what `execute` asks of its callers.
          cached.execute({ key, ...call })(self) as Effect.Effect<A, E | Errors, R>
}

/** What is wrong with a field. */
export interface Problem {
  readonly path: ReadonlyArray<string | number>
  readonly issue: string
}

/** Finds what is wrong with a profile: it asks every part to be made, for the parts know best what they can do. */
export const problems = (profile: Profile): ReadonlyArray<Problem> => {
  const found: Array<Problem> = []
  if (profile.bulkhead !== undefined && profile.adaptiveLimit !== undefined) {
    found.push({ path: ["adaptiveLimit"], issue: "must be left out beside bulkhead" })
  }
  for (const { at, by, fields, key, required, usual } of alternatives) {
    const value = at.reduce<unknown>((value, name) => (isRecord(value) ? value[name] : undefined), profile)
    if (!isRecord(value)) continue
    const chosen = String(value[key] ?? usual)
    for (const field of fields) {
      const given = value[field] !== undefined
      if (given && by[chosen]?.includes(field) !== true) {
        found.push({ path: [...at, field], issue: `must be left out with ${key} "${chosen}"` })
      } else if (!given && required[chosen]?.includes(field) === true) {
        found.push({ path: [...at, field], issue: `must be given with ${key} "${chosen}"` })
      }
    }
  }
  if (profile.retry?.jitter === "decorrelated" && (profile.retry.schedule ?? "exponential") !== "exponential") {
    found.push({ path: ["retry", "jitter"], issue: 'must not be "decorrelated" without the schedule "exponential"' })
  }
  if (found.length > 0) return found

  const { circuitBreaker } = profile
  circuitBreaker?.or?.forEach((rule, index) => {
    const { slowAfter } = circuitBreaker
    const alone = slowAfter === undefined ? rule : { ...rule, slowAfter }
    found.push(...problemsOf(builders.circuitBreaker(alone, {}), ["circuitBreaker", "or", index]))
  })
  const specs = specsOf(profile)
  for (const name of partNames) {
    if (name === "circuitBreaker" && found.length > 0) continue
    found.push(...problemsOf(build(name, specs, {}), pathOf[name] ?? [name]))
  }
  return found
}

const pathOf: { readonly [Name in PartName]?: ReadonlyArray<string> } = {
  deadline: [],
  retryBudget: ["retry", "budget"],
  hedgeBudget: ["hedge", "budget"]
}

// "CircuitBreaker: probes must be an integer >= 1, got 0", as every module of this package says it.
const rangeError = /^\w+: (\S+) (must .*)$/s

const problemsOf = (
  making: Effect.Effect<unknown, never, Scope.Scope>,
  path: ReadonlyArray<string | number>
): ReadonlyArray<Problem> => {
  const exit = Effect.runSyncExit(Effect.scoped(making))
  if (Exit.isSuccess(exit)) return []
  const defect = Cause.squash(exit.cause)
  const [, field, issue] = (defect instanceof RangeError && rangeError.exec(defect.message)) || []
  if (field === undefined || issue === undefined) throw defect
  const names = field
    .replace(/^algorithm\./, "")
    .split(/[.[\]]/)
    .filter((name) => name !== "")
  // A fixed timeout is the field itself.
  const inside = names.length === 1 && names[0] === path[0] ? [] : names
  return [{ path: [...path, ...inside.map((name) => (/^\d+$/.test(name) ? Number(name) : name))], issue }]
}

interface Alternative {
  readonly at: ReadonlyArray<string>
  /** The field that chooses, and what it is when it is left out. */
  readonly key: string
  readonly usual: string
  /** Fields that go with some choices only. */
  readonly fields: ReadonlyArray<string>
  readonly by: Readonly<Record<string, ReadonlyArray<string>>>
  readonly required: Readonly<Record<string, ReadonlyArray<string>>>
}

const alternative = (
  at: ReadonlyArray<string>,
  key: string,
  usual: string,
  by: Alternative["by"],
  required: Alternative["required"] = {}
): Alternative => ({ at, key, usual, by, required, fields: [...new Set(Object.values(by).flat())] })

const budgets = {
  share: ["share", "minPerSecond", "window"],
  tokens: ["maxTokens", "tokenRatio"],
  costs: ["maxTokens"]
}

const alternatives: ReadonlyArray<Alternative> = [
  alternative(
    ["retry"],
    "schedule",
    "exponential",
    {
      exponential: ["base", "factor", "maxDelay", "jitter", "times"],
      fixed: ["base", "jitter", "times"],
      linear: ["base", "step", "maxDelay", "jitter", "times"],
      fibonacci: ["base", "maxDelay", "jitter", "times"],
      delays: ["delays"]
    },
    { delays: ["delays"] }
  ),
  alternative(["retry", "budget"], "kind", "share", budgets),
  alternative(["hedge", "budget"], "kind", "share", budgets),
  alternative(["adaptiveLimit"], "algorithm", "gradient2", {
    aimd: ["backoff", "timeout"],
    vegas: ["alpha", "beta", "probeEvery"],
    gradient2: ["smoothing", "queue", "longWindow", "tolerance"]
  }),
  alternative(
    ["rateLimiter"],
    "algorithm",
    "token-bucket",
    {
      "token-bucket": ["capacity", "refillPerSecond", "adaptive"],
      gcra: ["limit", "window", "burst"],
      "fixed-window": ["limit", "window"],
      "sliding-window": ["limit", "window"],
      smooth: ["interval"]
    },
    {
      "token-bucket": ["capacity", "refillPerSecond"],
      gcra: ["limit", "window"],
      "fixed-window": ["limit", "window"],
      "sliding-window": ["limit", "window"],
      smooth: ["interval"]
    }
  )
]

/** The numbers of a circuit breaker, without what its errors mean. */
export const circuitOf = ({
  openFor,
  ...others
}: Omit<NonNullable<Profile["circuitBreaker"]>, "failure" | "ignored">) => {
  if (Array.isArray(openFor)) openFor.forEach((time, index) => overZero("CircuitBreaker", `openFor[${index}]`, time))
  return {
    ...others,
    openFor: openFor === undefined || Duration.isDuration(openFor) ? openFor : Retry.delays(openFor)
  }
}

/** The numbers of an adaptive limit. */
export const adaptiveLimitOf = ({
  algorithm = "gradient2",
  ...others
}: NonNullable<Profile["adaptiveLimit"]>): AdaptiveLimit.Options => ({
  ...others,
  algorithm: { ...others, name: algorithm }
})

const budgetOf = ({ kind = "share", ...options }: Budget): Effect.Effect<RetryBudget.RetryBudget> =>
  kind === "share"
    ? RetryBudget.make(options)
    : kind === "tokens"
      ? RetryBudget.makeTokens(options)
      : RetryBudget.makeCosts({ maxTokens: options.maxTokens })

/** When retries are made. */
export const scheduleOf = ({ delays = [], jitter, schedule = "exponential", ...options }: RetrySpec) => {
  switch (schedule) {
    case "exponential":
      return Retry.exponential({ ...options, jitter })
    case "delays":
      return Retry.delays(delays)
    default: {
      // `problems` has refused "decorrelated" here.
      const spread = { ...options, jitter: jitter === "decorrelated" ? undefined : jitter }
      return schedule === "fixed"
        ? Retry.fixed(spread)
        : schedule === "linear"
          ? Retry.linear(spread)
          : Retry.fibonacci(spread)
    }
  }
}

/** The numbers of a limit. What an algorithm must have and has not is NaN, which it refuses. */
export const limitOf = (spec: RateLimiterSpec): RateLimiter.Limit => {
  const { algorithm = "token-bucket", burst, capacity = NaN, interval = 0, limit = NaN, refillPerSecond = NaN } = spec
  const window = spec.window ?? 0
  switch (algorithm) {
    case "token-bucket":
      return { capacity, refillPerSecond }
    case "gcra":
      return { algorithm, limit, window, burst }
    case "smooth":
      return { algorithm, interval }
    default:
      return { algorithm, limit, window }
  }
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

const overZero = (module: string, name: string, value: Duration.Duration): void => {
  const millis = Duration.toMillis(value)
  if (!(millis > 0)) throw new RangeError(`${module}: ${name} must be over zero, got ${millis} ms`)
}
