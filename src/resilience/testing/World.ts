/**
 * Describes a world as data: who calls how often, and how the upstream that they call behaves.
 *
 * `simulate` runs a policy in it. Times are counted from the beginning of the world, and are milliseconds or text such as
 * `"5 minutes"`. Unknown fields and numbers that cannot work are refused with an `InvalidWorld` that names the field.
 *
 * | defaults | `seed` 0 | `arrivals.spacing` "poisson" | `keys.skew` 0 | `upstream.abandoned` "finish" |
 * | | `failures.status` 500 | `capacity.queued` 0 | `outages.factor` 10 | `outages.share` 1 |
 */
import { Duration, Effect, Result, Schema } from "effect"
import { fieldIssues, Time } from "../internal/fields.ts"

const time = Schema.optionalKey(Time)
const number = Schema.optionalKey(Schema.Finite)

/**
 * How times differ from one another: not at all, evenly between two ends, as the latencies of most servers (lognormal, by
 * its median and its 99th percentile), or as the gaps between independent events (exponential).
 */
export const Distribution = Schema.Union([
  Schema.Struct({ kind: Schema.Literal("uniform"), min: Time, max: Time }),
  Schema.Struct({ kind: Schema.Literal("lognormal"), p50: Time, p99: Time }),
  Schema.Struct({ kind: Schema.Literal("exponential"), mean: Time }),
  Time
])

/** A distribution of times. */
export type Distribution = Schema.Schema.Type<typeof Distribution>

/** A distribution as it is written. */
export type DistributionInput = Schema.Codec.Encoded<typeof Distribution>

const Rate = Schema.Struct({
  /** From when on it holds. Before the first of them nobody calls. */
  from: Time,
  perSecond: Schema.Finite,
  /** The time in which the rate gets there from the one before it, evenly. Defaults to at once. */
  ramp: time
})

const Arrivals = Schema.Struct({
  /** Calls per second: always the same, or by time. */
  perSecond: Schema.Union([Schema.Finite, Schema.NonEmptyArray(Rate)]),
  /** Whether calls come independently of one another or at equal distances. Defaults to "poisson". */
  spacing: Schema.optionalKey(Schema.Literals(["poisson", "even"])),
  /** Calls that come at once, beside the others. */
  bursts: Schema.optionalKey(Schema.Array(Schema.Struct({ at: Time, calls: Schema.Finite })))
})

const Outage = Schema.Struct({
  from: Time,
  /** The first moment after it. */
  until: Time,
  /** Refuses calls without looking at them; does their work and then fails; takes longer; never answers. */
  kind: Schema.Literals(["refusing", "failing", "slow", "hanging"]),
  /** How many times longer calls take that are slow. Defaults to 10. */
  factor: number,
  /** The part of the calls that it hits: over 0, at most 1. Defaults to 1. */
  share: number
})

const Upstream = Schema.Struct({
  /** How long a call takes that the upstream works on. */
  latency: Distribution,
  failures: Schema.optionalKey(
    Schema.Struct({
      /** The part of the calls that fail: from 0 to 1. */
      rate: Schema.Finite,
      /** What they fail with. Defaults to 500. */
      status: number,
      /** How long it takes to fail. Defaults to `latency`. */
      latency: Schema.optionalKey(Distribution)
    })
  ),
  /** How much it can do: calls at the same time, calls per second, or both. Defaults to everything. */
  capacity: Schema.optionalKey(
    Schema.Struct({
      concurrent: number,
      perSecond: number,
      /** Calls that wait when it has too much to do; those beyond are refused with 503. Defaults to 0. */
      queued: number
    })
  ),
  /**
   * What becomes of a call whose caller has gone: most servers do not notice and "finish" it, some "stop". A call that
   * hangs is given up with its caller. Defaults to "finish".
   */
  abandoned: Schema.optionalKey(Schema.Literals(["finish", "stop"])),
  /** When it is not itself. Of several at the same time the first one counts. */
  outages: Schema.optionalKey(Schema.Array(Outage))
})

const fields = {
  /** How long calls begin. Those that have begun by then are waited for. */
  duration: Time,
  /** Draws the same numbers every time. Defaults to 0. */
  seed: Schema.optionalKey(Schema.Union([Schema.String, Schema.Finite])),
  /** Calls that come whatever becomes of those before them, as those of many independent users (an open loop). */
  arrivals: Schema.optionalKey(Arrivals),
  /** Clients that each make one call after the other, and think in between (a closed loop). They begin within one think time. */
  clients: Schema.optionalKey(Schema.Struct({ count: Schema.Finite, think: Distribution })),
  /** How long a caller waits for an answer before it goes. Defaults to forever. */
  patience: time,
  /** The keys that calls are about: `key-1` to `key-<count>`. Of the n-th there are n^-skew times as many calls as of the first. Defaults to one. */
  keys: Schema.optionalKey(Schema.Struct({ count: Schema.Finite, skew: number })),
  /** How many calls there are of each priority, in proportion. Defaults to all "normal". */
  priorities: Schema.optionalKey(Schema.Struct({ critical: number, high: number, normal: number, low: number })),
  upstream: Upstream
}

/**
 * The schema of a world: of its shape and of its numbers. Decode with `{ onExcessProperty: "error" }`, as `decode` does,
 * for unknown fields to be refused.
 */
export const World = Schema.Struct(fields).check(Schema.makeFilter((world) => problems(world)))

/** A world as data. */
export interface World extends Schema.Schema.Type<typeof World> {}

/** What a world is written as. A world that was made is one as well. */
export interface Input extends Schema.Codec.Encoded<typeof World> {}

/** A world that cannot be, and all that is wrong with it. */
export class InvalidWorld extends Schema.TaggedError<InvalidWorld>()("InvalidWorld", {
  /** The fields, as `upstream.latency.p99`, and what is wrong with each. */
  issues: Schema.Array(Schema.Struct({ field: Schema.String, problem: Schema.String }))
}) {
  override get message() {
    return this.issues.map(({ field, problem }) => `world: ${field === "" ? "" : `${field} `}${problem}`).join("\n")
  }
}

/** Makes a world of data from elsewhere, as of parsed JSON. */
export const decode = (input: unknown): Effect.Effect<World, InvalidWorld> =>
  Effect.suspend(() => Effect.fromResult(decodeResult(input)))

/** Makes a world in code. One that cannot be is a `RangeError` that names the field. */
export const make = (input: Input): World => {
  const world = decodeResult(input)
  if (Result.isSuccess(world)) return world.success
  const [issue] = world.failure.issues
  throw new RangeError(`World: ${issue?.field ?? ""} ${issue?.problem ?? ""}`)
}

const decodeWorld = Schema.decodeUnknownResult(World, { onExcessProperty: "error", errors: "all" })

const decodeResult = (input: unknown): Result.Result<World, InvalidWorld> =>
  Result.mapError(decodeWorld(input), ({ issue }) => new InvalidWorld({ issues: fieldIssues(issue, input, "a world") }))

/** Says what is wrong with the numbers of a distribution. */
export const distributionProblem = (distribution: Distribution): readonly [field: string, must: string] | undefined => {
  if (Duration.isDuration(distribution)) return isTime(distribution) ? undefined : ["", "finite and not negative"]
  switch (distribution.kind) {
    case "uniform":
      if (!isTime(distribution.min)) return ["min", "finite and not negative"]
      return isTime(distribution.max) && millis(distribution.max) >= millis(distribution.min)
        ? undefined
        : ["max", "finite and at least min"]
    case "lognormal":
      if (!isPositive(distribution.p50)) return ["p50", "finite and over zero"]
      return isTime(distribution.p99) && millis(distribution.p99) >= millis(distribution.p50)
        ? undefined
        : ["p99", "finite and at least p50"]
    case "exponential":
      return isTime(distribution.mean) ? undefined : ["mean", "finite and not negative"]
  }
}

/** The most calls that can come at one moment, clients that there can be, and places that the upstream can have. */
const most = 1_000_000
/** The most calls that can come in all. */
const mostCalls = 100_000_000

interface Problem {
  readonly path: ReadonlyArray<string | number>
  readonly issue: string
}

const problems = (world: World): ReadonlyArray<Problem> => {
  const found: Array<Problem> = []
  const check = (path: ReadonlyArray<string | number>, value: unknown, must: string, valid: boolean) => {
    if (valid) return
    const got = Duration.isDuration(value) ? Duration.format(value) : JSON.stringify(value)
    found.push({ path, issue: `must be ${must}${value === undefined ? "" : `, got ${got}`}` })
  }
  const count = (path: ReadonlyArray<string | number>, value: number | undefined, from: number, to = most) =>
    value === undefined ||
    check(path, value, `an integer from ${from} to ${to}`, Number.isInteger(value) && value >= from && value <= to)
  const distributed = (path: ReadonlyArray<string | number>, value: Distribution | undefined) => {
    const problem = value === undefined ? undefined : distributionProblem(value)
    if (problem === undefined || value === undefined) return
    const [field, must] = problem
    const at = field === "" ? path : [...path, field]
    check(at, field === "" ? value : Reflect.get(value, field), must, false)
  }

  const { arrivals, clients, duration, keys, patience, priorities, upstream } = world
  check(["duration"], duration, "finite and over zero", isPositive(duration))
  if (arrivals === undefined && clients === undefined) {
    found.push({ path: ["arrivals"], issue: "must be given, or clients" })
  }
  if (arrivals !== undefined) {
    const { bursts = [], perSecond } = arrivals
    const rates = typeof perSecond === "number" ? [] : perSecond
    if (typeof perSecond === "number") {
      check(["arrivals", "perSecond"], perSecond, "finite and not negative", perSecond >= 0)
    }
    rates.forEach((rate, index) => {
      const path = ["arrivals", "perSecond", index]
      const before = rates[index - 1]
      const start = before === undefined ? 0 : millis(before.from) + millis(before.ramp ?? Duration.zero)
      check([...path, "perSecond"], rate.perSecond, "finite and not negative", rate.perSecond >= 0)
      check([...path, "ramp"], rate.ramp, "finite and not negative", rate.ramp === undefined || isTime(rate.ramp))
      const ordered = isTime(rate.from) && millis(rate.from) >= start
      check([...path, "from"], rate.from, "finite, and no sooner than the rate before it is reached", ordered)
    })
    bursts.forEach(({ at, calls }, index) => {
      check(["arrivals", "bursts", index, "at"], at, "finite and not negative", isTime(at))
      count(["arrivals", "bursts", index, "calls"], calls, 1)
    })
    const highest = typeof perSecond === "number" ? perSecond : Math.max(...perSecond.map((rate) => rate.perSecond))
    const calls = (highest * millis(duration)) / 1_000
    check(["arrivals", "perSecond"], undefined, `at most ${mostCalls} calls in all`, !(calls > mostCalls))
  }
  count(["clients", "count"], clients?.count, 1)
  distributed(["clients", "think"], clients?.think)
  check(["patience"], patience, "over zero", patience === undefined || millis(patience) > 0)
  count(["keys", "count"], keys?.count, 1, 100_000)
  check(["keys", "skew"], keys?.skew, "not negative", !((keys?.skew ?? 0) < 0))
  if (priorities !== undefined) {
    const weights = Object.entries(priorities)
    for (const [name, weight] of weights) check(["priorities", name], weight, "not negative", weight >= 0)
    const someone = weights.some(([, weight]) => weight > 0)
    check(["priorities"], undefined, "over zero for one of them", someone)
  }

  const { capacity, failures, latency, outages = [] } = upstream
  distributed(["upstream", "latency"], latency)
  distributed(["upstream", "failures", "latency"], failures?.latency)
  if (failures !== undefined) {
    check(["upstream", "failures", "rate"], failures.rate, "from 0 to 1", failures.rate >= 0 && failures.rate <= 1)
    count(["upstream", "failures", "status"], failures.status, 400, 599)
  }
  if (capacity !== undefined) {
    const { concurrent, perSecond } = capacity
    if (concurrent === undefined && perSecond === undefined) {
      found.push({ path: ["upstream", "capacity", "concurrent"], issue: "must be given, or perSecond" })
    }
    count(["upstream", "capacity", "concurrent"], concurrent, 1)
    count(["upstream", "capacity", "queued"], capacity.queued, 0)
    const valid = perSecond === undefined || perSecond > 0
    check(["upstream", "capacity", "perSecond"], perSecond, "over zero", valid)
  }
  outages.forEach(({ factor = 1, from, kind, share = 1, until }, index) => {
    const path = ["upstream", "outages", index]
    check([...path, "from"], from, "finite and not negative", isTime(from))
    check([...path, "until"], until, "after from", millis(until) > millis(from))
    check([...path, "share"], share, "over 0 and at most 1", share > 0 && share <= 1)
    check([...path, "factor"], factor, "at least 1", factor >= 1)
    if (kind !== "slow" && outages[index]?.factor !== undefined) {
      found.push({ path: [...path, "factor"], issue: `must be left out with kind "${kind}"` })
    }
  })
  return found
}

const millis = (time: Duration.Duration): number => Duration.toMillis(time)
const isTime = (time: Duration.Duration): boolean => millis(time) >= 0 && millis(time) < Infinity
const isPositive = (time: Duration.Duration): boolean => isTime(time) && millis(time) > 0
