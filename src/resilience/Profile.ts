/**
 * Describes a policy as data: from JSON, from environment variables or from code.
 *
 * A profile has a field for every part of a `Policy`, under the name and with the options that the part has, and the part's
 * defaults. A part that is left out is not there. Durations are milliseconds or text: `"30 seconds"`. Unknown fields and
 * numbers that cannot work are refused with an `InvalidProfile` that names the field.
 *
 * `toPolicy` makes the policy; `Providers` keeps one for each name, and `explain` says what a profile amounts to. What is no
 * data has no field: put a fallback around the calls; hooks, load shedders and functions of your own need a `Policy`.
 *
 * | defaults | `order` "standard" | `cache.capacity` 1,000 | all others those of the part |
 */
import { Config, type Duration, Effect, Option, Result, Schema, SchemaIssue, type Scope } from "effect"
import type { CallOptions, Key } from "./Cache.ts"
import * as ErrorPattern from "./ErrorPattern.ts"
import { explain as explainProfile, render as renderExplanation } from "./internal/explain.ts"
import { fieldIssues, Time } from "./internal/fields.ts"
import {
  build,
  compose,
  type Errors as ErrorsOfParts,
  type Parts as PartsOf,
  partNames,
  problems,
  specsOf
} from "./internal/profileParts.ts"
import { leavesOf, toVariable, valueOf } from "./internal/variables.ts"

const time = Schema.optionalKey(Time)
const number = Schema.optionalKey(Schema.Finite)
const pattern = Schema.optionalKey(ErrorPattern.Spec)

/** A share of the traffic ("share"), tokens as of gRPC ("tokens"), or prices as of the AWS SDKs ("costs"). */
const Budget = Schema.Struct({
  /** Defaults to "share". */
  kind: Schema.optionalKey(Schema.Literals(["share", "tokens", "costs"])),
  share: number,
  minPerSecond: number,
  window: time,
  maxTokens: number,
  tokenRatio: number
})

/** As the options of `AdaptiveTimeout`. */
const AdaptiveTimeout = Schema.Struct({
  ceiling: Time,
  percentile: number,
  factor: number,
  floor: time,
  minSamples: number
})

/** As the options of `Retry`, of its schedules and of its budget. */
const Retry = Schema.Struct({
  /** How the delays grow: "exponential" unless it says otherwise; "delays" are those given. */
  schedule: Schema.optionalKey(Schema.Literals(["exponential", "fixed", "linear", "fibonacci", "delays"])),
  base: time,
  factor: number,
  step: time,
  maxDelay: time,
  jitter: Schema.optionalKey(Schema.Literals(["none", "full", "equal", "decorrelated"])),
  times: number,
  delays: Schema.optionalKey(Schema.Array(Time)),
  /** Which errors are retried. Defaults to all. */
  while: pattern,
  maxRetryAfter: time,
  maxElapsed: time,
  budget: Schema.optionalKey(Budget)
})

/** As the options of `Hedge`. */
const Hedge = Schema.Struct({
  delay: Time,
  percentile: number,
  minDelay: time,
  maxDelay: time,
  minSamples: number,
  maxHedges: number,
  /** After which errors another attempt starts. Defaults to all. */
  while: pattern,
  budget: Schema.optionalKey(Budget)
})

const tripRule = {
  failures: number,
  failureRate: number,
  slowCallRate: number,
  minimumCalls: number,
  size: number,
  within: time
}

/** As the options of `CircuitBreaker`. */
const CircuitBreaker = Schema.Struct({
  ...tripRule,
  or: Schema.optionalKey(Schema.Array(Schema.Struct(tripRule))),
  slowAfter: time,
  /** How long a circuit stays open: one time, or one for each opening in a row, the last from then on. */
  openFor: Schema.optionalKey(Schema.Union([Time, Schema.NonEmptyArray(Time)])),
  probes: number,
  successesToClose: number,
  maxHalfOpen: time,
  maxRetryAfter: time,
  /** Which errors are failures. Defaults to all. */
  failure: pattern,
  /** Which errors say nothing. Defaults to none. */
  ignored: pattern,
  mode: Schema.optionalKey(Schema.Literals(["enabled", "metrics-only", "disabled"]))
})

const queue = {
  maxQueued: number,
  maxWait: time,
  priorities: Schema.optionalKey(Schema.Literals(["ignored", "strict", "weighted"])),
  weights: Schema.optionalKey(Schema.Struct({ critical: number, high: number, normal: number, low: number })),
  order: Schema.optionalKey(Schema.Literals(["fifo", "adaptive"])),
  overload: Schema.optionalKey(Schema.Struct({ target: time, interval: time }))
}

/** As the options of `Bulkhead`. */
const Bulkhead = Schema.Struct({ maxConcurrent: Schema.Finite, ...queue })

/** As the options of `AdaptiveLimit`, without partitions. The numbers of an algorithm stand beside its name. */
const AdaptiveLimit = Schema.Struct({
  /** Defaults to "gradient2". */
  algorithm: Schema.optionalKey(Schema.Literals(["aimd", "vegas", "gradient2"])),
  backoff: number,
  timeout: time,
  alpha: number,
  beta: number,
  probeEvery: number,
  smoothing: number,
  queue: number,
  longWindow: number,
  tolerance: number,
  initialLimit: number,
  minLimit: number,
  maxLimit: number,
  window: time,
  minCalls: number,
  ...queue
})

/** As the options of `AdaptiveThrottle`. */
const AdaptiveThrottle = Schema.Struct({ ratio: number, maxRefused: number, window: time, retryAfter: time })

/** As the options of `RateLimiter`. */
const RateLimiter = Schema.Struct({
  /** Defaults to "token-bucket". */
  algorithm: Schema.optionalKey(
    Schema.Literals(["token-bucket", "gcra", "fixed-window", "sliding-window", "sliding-window-counter", "smooth"])
  ),
  capacity: number,
  refillPerSecond: number,
  limit: number,
  window: time,
  burst: number,
  interval: time,
  maxWait: time,
  maxQueued: number,
  adaptive: Schema.optionalKey(
    Schema.Struct({ factor: number, floor: number, recovery: time, cooldown: time, maxPause: time })
  )
})

/** As the options of `Cache`. */
const Cache = Schema.Struct({
  /** Defaults to 1,000. */
  capacity: number,
  /** How long a success is kept. */
  timeToLive: Time,
  /** How long a failure is kept. Defaults to 0: not at all. */
  failureTimeToLive: time,
  idleTimeToLive: time,
  jitter: number,
  staleIfError: time,
  refresh: Schema.optionalKey(Schema.Struct({ staleWhileRevalidate: time, ahead: number, maxConcurrent: number }))
})

const fields = {
  /** Which order the parts have: that of `Policy.make`, or of `Policy.makeFacade`. Defaults to "standard". */
  order: Schema.optionalKey(Schema.Literals(["standard", "facade"])),
  /** The time for everything together. */
  deadline: time,
  /** The time of an attempt, in a facade of all together: fixed, or adaptive. */
  timeout: Schema.optionalKey(Schema.Union([Time, AdaptiveTimeout])),
  cache: Schema.optionalKey(Cache),
  /** Not beside `adaptiveLimit`. */
  bulkhead: Schema.optionalKey(Bulkhead),
  /** Not beside `bulkhead`. */
  adaptiveLimit: Schema.optionalKey(AdaptiveLimit),
  retry: Schema.optionalKey(Retry),
  hedge: Schema.optionalKey(Hedge),
  circuitBreaker: Schema.optionalKey(CircuitBreaker),
  adaptiveThrottle: Schema.optionalKey(AdaptiveThrottle),
  rateLimiter: Schema.optionalKey(RateLimiter)
}

/**
 * The schema of a profile: of its shape and of its numbers. Decode with `{ onExcessProperty: "error" }`, as `decode` does,
 * for unknown fields to be refused. What it encodes is JSON, and decodes to the same profile.
 */
export const Profile = Schema.Struct(fields).check(Schema.makeFilter((profile) => problems(profile)))

/** A policy as data. */
export interface Profile extends Schema.Schema.Type<typeof Profile> {}

/** The budget of retries or hedges as data. */
export interface Budget extends Schema.Schema.Type<typeof Budget> {}

/** A retry as data. */
export interface RetrySpec extends Schema.Schema.Type<typeof Retry> {}

/** A rate limiter as data. */
export interface RateLimiterSpec extends Schema.Schema.Type<typeof RateLimiter> {}

/** What a profile is written as. A profile that was made is one as well. */
export interface Input extends Schema.Codec.Encoded<typeof Profile> {}

/** One thing that is wrong with a profile. */
export interface Issue {
  /** The field, as `retry.maxDelay`; empty if it is the profile as a whole. */
  readonly field: string
  /** What is wrong with it. */
  readonly problem: string
}

/** What makes calls as a profile says. */
export interface ProfilePolicy {
  /**
   * Makes the call under the profile; with a key, through its cache, if it has one. Calls with one key must succeed and
   * fail with the same types: make the kind of the call a part of the key.
   */
  readonly execute: (
    options?: { readonly key?: Key | undefined } & CallOptions<Key, unknown, unknown>
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Errors, R>
  /** The parts that it is made of, to read their states. */
  readonly parts: Parts
}

/** The parts of a policy that was made from a profile. */
export interface Parts extends PartsOf {}

/** What a profile amounts to. */
export interface Explanation {
  readonly order: "standard" | "facade"
  /** The parts, outermost first. */
  readonly stages: ReadonlyArray<Stage>
  readonly worstCase: WorstCase
  /** What contradicts itself, though it works. */
  readonly warnings: ReadonlyArray<Warning>
}

/** A part and its numbers. */
export interface Stage {
  readonly part: string
  readonly does: string
}

/** A field whose value is likely not what was meant. */
export interface Warning {
  readonly field: string
  readonly problem: string
}

/** The most that a call takes, and that an upstream gets. What nothing bounds is infinite. */
export interface WorstCase {
  /** The time from a call to its answer, if no error asks to wait. */
  readonly time: Duration.Duration
  /** The same when every error asks for as long a wait as is granted. */
  readonly timeWithHints: Duration.Duration
  /** Requests to the upstream for one call: attempts, and hedges beside each. */
  readonly requests: number
  /** Requests at the same time. */
  readonly concurrency: number
  /** Requests per second in the long run. */
  readonly perSecond: number
  /** Requests that a dead upstream gets in the long run while no circuit is open: for each call, and per second beside. */
  readonly inOutage: { readonly perCall: number; readonly perSecond: number }
  /** Failed requests, one after the other, that open the circuit. `undefined` if failures do not. */
  readonly untilOpen: number | undefined
  /** Requests per second that an open circuit lets through to find out. */
  readonly whileOpen: number
}

/** A profile that cannot be used, and all that is wrong with it. */
export class InvalidProfile extends Schema.TaggedError<InvalidProfile>()("InvalidProfile", {
  /** The name of the profile. */
  profile: Schema.String,
  issues: Schema.Array(Schema.Struct({ field: Schema.String, problem: Schema.String }))
}) {
  override get message() {
    const lines = this.issues.map(({ field, problem }) => (field === "" ? problem : `${field}: ${problem}`))
    return lines.map((line) => `profile "${this.profile}": ${line}`).join("\n")
  }
}

/** The errors that the policy of a profile can add. */
export type Errors = ErrorsOfParts

/** Makes a profile of data from elsewhere, as of parsed JSON. `name` is what the error calls it. */
export const decode = (name: string, input: unknown): Effect.Effect<Profile, InvalidProfile> =>
  Effect.suspend(() => Effect.fromResult(decodeResult(name, input)))

/** Makes the profiles of an object by name. Fails with the first that cannot be used. */
export const decodeAll = (inputs: unknown): Effect.Effect<Readonly<Record<string, Profile>>, InvalidProfile> =>
  isRecord(inputs)
    ? Effect.map(
        // Others run in between: a thousand profiles take a moment.
        Effect.forEach(Object.entries(inputs), ([name, input]) =>
          Effect.map(Effect.andThen(Effect.yieldNow, decode(name, input)), (profile) => [name, profile] as const)
        ),
        Object.fromEntries
      )
    : Effect.suspend(() => {
        const issues = [{ field: "", problem: "must be an object of profiles" }]
        return Effect.fail(new InvalidProfile({ profile: "*", issues }))
      })

/** Makes a profile in code. One that cannot be used is a `RangeError` that names the field. */
export const make = (input: Input): Profile => {
  const profile = decodeResult("", input)
  if (Result.isSuccess(profile)) return profile.success
  const [issue] = profile.failure.issues
  throw new RangeError(`Profile: ${issue?.field ?? ""} ${issue?.problem ?? ""}`)
}

/** Writes a profile as JSON data: what is left out is left out, durations are milliseconds. */
export const encode = (profile: Profile): Input => Schema.encodeSync(Profile)(profile)

/** What reads a profile from configuration. */
export interface ConfigOptions {
  /** What the variables begin with. Defaults to the name, in capitals: `ZEPHYR`. */
  readonly prefix?: string | undefined
  /** The profile that the variables change. Defaults to none: the variables are all there is. */
  readonly base?: Input | undefined
}

/**
 * Reads a profile from configuration, a variable for each field: `ZEPHYR_TIMEOUT`, `ZEPHYR_RETRY_MAX_DELAY`,
 * `ZEPHYR_CIRCUIT_BREAKER_FAILURES`. Numbers are as in the profile, lists are separated by commas, what begins with `[` or `{`
 * is JSON. `ZEPHYR_CACHE_ENABLED=false` takes a part away that the base has, `ZEPHYR_RETRY_ENABLED=true` adds one with its
 * defaults. Other variables with the prefix are left alone: it may have an address and a key as well.
 */
export const config = (name: string, options: ConfigOptions = {}): Config.Config<Profile> => {
  const prefix = options.prefix ?? toVariable([name])
  const variableOf = (path: ReadonlyArray<string>) => `${prefix}_${toVariable(path)}`
  const read = Config.all({
    texts: Config.all(leaves.map(({ path }) => Config.option(Config.String(variableOf(path))))),
    enabled: Config.all(switches.map((part) => Config.option(Config.Boolean(`${variableOf([part])}_ENABLED`))))
  })
  return Config.mapEffect(read, ({ enabled, texts }) => {
    const base = decodeResult(name, options.base ?? {})
    if (Result.isFailure(base)) return Effect.fail(configError(base.failure))
    const input: Record<string, unknown> = { ...encode(base.success) }
    const given = new Map<string, string>()
    leaves.forEach((leaf, index) => {
      const text = Option.getOrUndefined(texts[index] ?? Option.none())
      if (text === undefined) return
      given.set(leaf.path.join("."), variableOf(leaf.path))
      assign(input, leaf.path, valueOf(leaf, text))
    })
    switches.forEach((part, index) => {
      const isOn = Option.getOrUndefined(enabled[index] ?? Option.none())
      if (isOn === false) delete input[part]
      // A part without a number of its own has no other variable that could say that it is there.
      if (isOn === true && !isTime(part)) input[part] ??= {}
    })
    const profile = decodeResult(name, input)
    if (Result.isSuccess(profile)) return Effect.succeed(profile.success)
    const issues = profile.failure.issues.map(({ field, problem }) => {
      const variable = given.get(field)
      return { field, problem: variable === undefined ? problem : `${problem} (${variable})` }
    })
    return Effect.fail(configError(new InvalidProfile({ profile: name, issues })))
  })
}

/**
 * Makes the policy of a profile, with parts of its own. When the scope closes, refreshes of its cache end. With a name, its
 * parts are shown as metrics, and their events carry it (`Telemetry`).
 */
export const toPolicy = Effect.fnUntraced(function* (
  profile: Profile,
  name?: string
): Effect.fn.Return<ProfilePolicy, never, Scope.Scope> {
  const specs = specsOf(profile)
  let parts: Parts = {}
  for (const partName of partNames) {
    const part = yield* build(partName, specs, parts, name)
    if (part !== undefined) parts = { ...parts, [partName]: part }
  }
  return { execute: compose(profile.order, parts), parts }
})

/** Explains what a profile does: its pipeline, its worst case, and warnings about what contradicts itself. */
export const explain = (profile: Profile): Explanation => explainProfile(profile)

/** Writes an explanation as text. */
export const render = (explanation: Explanation): string => renderExplanation(explanation)

const decodeProfile = Schema.decodeUnknownResult(Profile, { onExcessProperty: "error", errors: "all" })
const decodeResult = (name: string, input: unknown): Result.Result<Profile, InvalidProfile> =>
  Result.mapError(
    decodeProfile(input),
    ({ issue }) => new InvalidProfile({ profile: name, issues: fieldIssues(issue, input, "a profile") })
  )

const configError = ({ message }: InvalidProfile) =>
  new Config.ConfigError(new Schema.SchemaError(new SchemaIssue.InvalidValue({ message })))

const leaves = leavesOf(Profile)
const switches = Object.keys(fields).filter((field) => field !== "order")
const isTime = (part: string) => part === "deadline" || part === "timeout"

const assign = (input: Record<string, unknown>, path: ReadonlyArray<string>, value: unknown): void => {
  const [first, ...rest] = path
  if (first === undefined) return
  if (rest.length === 0) {
    input[first] = value
    return
  }
  const inner = input[first]
  const copy = isRecord(inner) ? { ...inner } : {}
  input[first] = copy
  assign(copy, rest, value)
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/**
 * The usual numbers of a facade: a circuit that opens after 5 failed calls for 30 seconds and closes after 3 successes, 10
 * calls at a time with 100 waiting, results kept for 60 seconds and after that answered for up to a day while they are
 * refreshed, 30 seconds for a call with up to 3 retries.
 */
export const facade: Profile = make({
  order: "facade",
  cache: { timeToLive: "60 seconds", refresh: { staleWhileRevalidate: "1 day" } },
  circuitBreaker: { failures: 5, openFor: "30 seconds", successesToClose: 3 },
  bulkhead: { maxConcurrent: 10, maxQueued: 100 },
  timeout: "30 seconds",
  retry: {}
})

/** The profile of the provider Zephyr. */
export const zephyr: Profile = make({
  order: "facade",
  cache: { timeToLive: "300 seconds", refresh: { staleWhileRevalidate: "1 day" } },
  circuitBreaker: { failures: 5, openFor: "60 seconds", successesToClose: 2 },
  bulkhead: { maxConcurrent: 15, maxQueued: 50 },
  timeout: "30 seconds",
  retry: {
    times: 3,
    base: "1 second",
    maxDelay: "10 seconds",
    factor: 2,
    jitter: "none",
    while: {
      codes: ["ECONNRESET", "ETIMEDOUT", "ECONNREFUSED", "ENOTFOUND", "ENETUNREACH"],
      texts: ["socket hang up"],
      statuses: [500, 503]
    }
  }
})

/** The profile of the provider QTest. */
export const qtest: Profile = make({
  order: "facade",
  cache: { timeToLive: "180 seconds", refresh: { staleWhileRevalidate: "1 day" } },
  circuitBreaker: { failures: 8, openFor: "45 seconds", successesToClose: 3 },
  bulkhead: { maxConcurrent: 20, maxQueued: 100 },
  timeout: "45 seconds",
  retry: {
    times: 4,
    base: "800 millis",
    maxDelay: "15 seconds",
    factor: 1.5,
    jitter: "none",
    while: { codes: ["ECONNRESET", "ETIMEDOUT", "ECONNREFUSED"], statuses: [429, 503] }
  }
})
