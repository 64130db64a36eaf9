/**
 * Caps how many calls run at the same time, and finds out by itself how many that should be.
 *
 * It watches how long calls take and which are dropped: more may run as long as that makes nothing slower, and fewer when
 * it does. The limit is not raised while less than half of it is used. The rest is as in a bulkhead: a bounded queue, and
 * `LimitReached` for those who may not wait in it.
 *
 * Put it where a bulkhead would be. A timeout inside it counts as a drop, and so does a deadline that ends the call.
 * Use `gradient2` where calls vary, `vegas` where they are alike, `aimd` where the other side says no. Local to the process.
 *
 * | defaults    | `algorithm` "gradient2" | `initialLimit` 20 | `minLimit` 1 | `maxLimit` 200 | `minCalls` 10 |
 * | `aimd`      | `backoff` 0.9 | `timeout` 5 s | `window` 100 ms |
 * | `vegas`     | `alpha` 3 | `beta` 6 | `probeEvery` 30 | `window` 100 ms |
 * | `gradient2` | `smoothing` 0.2 | `queue` 4 | `longWindow` 600 | `tolerance` 1.5 | `window` 1 s |
 */
import {
  type Cause,
  Config,
  Context,
  Duration,
  Effect,
  Exit,
  type Fiber,
  Layer,
  Random,
  Schema,
  type Scope
} from "effect"
import type { QueueOptions, Statistics } from "./Bulkhead.ts"
import { DeadlineExceeded } from "./Deadline.ts"
import { Aimd, type Bounds, Gradient2, type Limit, Vegas, Window } from "./internal/concurrency.ts"
import { Line, Lines } from "./internal/lines.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { isOverdue } from "./internal/overdue.ts"
import { type Call, enter, enterScoped, integer, noStatistics, Places, queueRules } from "./internal/places.ts"
import { isRefusal, refused, withoutStack } from "./internal/refusal.ts"
import { fromError } from "./RetryAfter.ts"
import { TimedOut } from "./Timeout.ts"

/** A way to make calls under a limit. */
export interface Calls {
  /** Runs the effect, waits for a place, or fails with `LimitReached`. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LimitReached, R>
  /**
   * Does the same, and after a success keeps the place until the scope closes. What is measured is the effect alone: how
   * long its answer is used afterwards says nothing about the other side. A failure gives the place back at once.
   */
  readonly executeScoped: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LimitReached, R | Scope.Scope>
}

/** A limit on concurrent calls that adjusts itself. */
export interface AdaptiveLimit<in Partition extends string = never> extends Calls {
  /** The same limit for the calls of one partition. A name that was not configured is a defect. */
  readonly partition: (name: Partition) => Calls
  /** Reads the limit and the calls under it. */
  readonly state: Effect.Effect<State>
  /** Reads how long the one that has waited longest has waited: zero when nobody waits. */
  readonly queueDelay: Effect.Effect<Duration.Duration>
  /** Reads what has happened since the limit was made. */
  readonly statistics: Effect.Effect<Statistics>
}

/** A limit at one moment. */
export interface State {
  /** Calls that may run at the same time. */
  readonly limit: number
  readonly running: number
  readonly waiting: number
  /** How long a call took on average in the last window: `undefined` before the first one has ended. */
  readonly rtt: Duration.Duration | undefined
  /** How long the algorithm thinks a call takes without queueing: `undefined` for `aimd`, which does not ask. */
  readonly baseline: Duration.Duration | undefined
  /** The partitions, by name. */
  readonly partitions: Readonly<Record<string, PartitionState>>
}

/** A partition at one moment. */
export interface PartitionState {
  /** Calls it may run whatever the others do. */
  readonly guaranteed: number
  readonly running: number
  readonly waiting: number
}

/** What the end of a call says about the load: nothing, if it is ignored. */
export type Outcome = "success" | "dropped" | "ignored"

/** One more per window as long as all is well, a part of the limit after a drop. It knows nothing but drops. */
export interface AimdOptions {
  readonly name: "aimd"
  /** What a drop multiplies the limit by: at least 0.5 and under 1. Defaults to 0.9. */
  readonly backoff?: number | undefined
  /** A call that takes longer counts as dropped: over zero. Defaults to 5 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/**
 * Keeps the number of calls that queue on the other side, `limit * (1 - baseline / rtt)`, between `alpha` and `beta` times
 * the logarithm to base 10 of the limit. The baseline is the lowest mean duration seen; it is measured anew with the
 * limit halved for a window.
 */
export interface VegasOptions {
  readonly name: "vegas"
  /** With a shorter queue the limit grows: over 0. Defaults to 3. */
  readonly alpha?: number | undefined
  /** With a longer queue the limit shrinks: over `alpha`. Defaults to 6. */
  readonly beta?: number | undefined
  /** After how many times the limit calls the baseline is measured anew, give or take: over 0. Defaults to 30. */
  readonly probeEvery?: number | undefined
}

/**
 * Lets the limit follow `limit * gradient + queue`, where `gradient` is `tolerance * long / rtt`, between 0.5 and 1, and
 * `long` the duration in the long run. Load that lasts for longer than that comes to be taken for normal.
 */
export interface Gradient2Options {
  readonly name: "gradient2"
  /** How far the limit goes towards its new value in a window: over 0, at most 1. Defaults to 0.2. */
  readonly smoothing?: number | undefined
  /** Calls that may queue on the other side: over 0. Defaults to 4. */
  readonly queue?: number | undefined
  /** Windows the long run consists of: an integer of at least 10. Defaults to 600. */
  readonly longWindow?: number | undefined
  /** How many times as long a call may take as in the long run: at least 1. Defaults to 1.5. */
  readonly tolerance?: number | undefined
}

/** How the limit is found: by name, or with numbers other than the defaults. */
export type Algorithm = "aimd" | "vegas" | "gradient2" | AimdOptions | VegasOptions | Gradient2Options

/** Where the limit starts, how it moves, and how calls wait. */
export interface Options<Partition extends string = never> extends QueueOptions {
  /** How the limit is found. Defaults to "gradient2". */
  readonly algorithm?: Algorithm | undefined
  /** The limit at first: an integer between the other two. Defaults to 20, or the nearest that is allowed. */
  readonly initialLimit?: number | undefined
  /** The lowest limit: an integer of at least 1. Defaults to 1. */
  readonly minLimit?: number | undefined
  /** The highest limit: an integer of at least `minLimit`. Defaults to 200, or to `minLimit` when that is higher. */
  readonly maxLimit?: number | undefined
  /** The time after which the limit is adjusted: over zero. Defaults to 100 milliseconds, 1 second for "gradient2". */
  readonly window?: Duration.Input | undefined
  /** The calls that must have ended for that: an integer of at least 1. Defaults to 10. */
  readonly minCalls?: number | undefined
  /**
   * The parts of the limit that are kept for partitions: over 0, together at most 1. Each may run that part, rounded up,
   * even while others use the whole limit, so that for a time more may run than the limit says. What a partition does not
   * use, others may; waiting calls are served in proportion to the parts. Not together with `priorities`. Defaults to none.
   */
  readonly partitions?: { readonly [P in Partition]: number } | undefined
  /** What the exit of a call means. One that the deadline has ended is always dropped. Defaults to `classify`. */
  readonly classify?: ((exit: Exit.Exit<unknown, unknown>) => Outcome) | undefined
}

/** The call was refused: as many run as the limit allows at present, and it may not wait, or no longer. */
export class LimitReached extends Schema.TaggedError<LimitReached>()("LimitReached", {
  /** The calls that might run. */
  limit: Schema.Int,
  /** The calls that were running. */
  running: Schema.Int,
  /** The calls that were waiting. */
  waiting: Schema.Int
}) {
  get [refused]() {
    return true
  }
  override get message() {
    return `Limit of ${this.limit} reached: ${this.running} running, ${this.waiting} waiting`
  }
}

/** Creates a limit. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* <const Partition extends string = never>(
  options: Options<Partition> = {}
): Effect.fn.Return<AdaptiveLimit<Partition>> {
  const rules = queueRules("AdaptiveLimit", options)
  const min = integer("AdaptiveLimit", "minLimit", 1, options.minLimit ?? 1)
  const max = integer("AdaptiveLimit", "maxLimit", min, options.maxLimit ?? Math.max(200, min))
  const initial = integer(
    "AdaptiveLimit",
    "initialLimit",
    min,
    options.initialLimit ?? Math.max(min, Math.min(20, max))
  )
  check("initialLimit", initial, `at most the maxLimit ${max}`, initial <= max)
  const minCalls = integer("AdaptiveLimit", "minCalls", 1, options.minCalls ?? 10)
  const named = options.algorithm ?? "gradient2"
  const algorithm: Exclude<Algorithm, string> = typeof named === "string" ? { name: named } : named
  const window = Duration.toMillis(options.window ?? (algorithm.name === "gradient2" ? "1 second" : "100 millis"))
  check("window", window, "a finite duration over zero", window > 0 && window < Infinity)
  const classifyExit = options.classify ?? classify
  const tooLong = algorithm.name === "aimd" ? Duration.toMillis(algorithm.timeout ?? "5 seconds") : Infinity
  check("algorithm.timeout", tooLong, "over zero", tooLong > 0)

  const limit = limitOf(algorithm, { initial, min, max })
  const partitions = partitionsOf(options.partitions ?? {}, rules.priorities)
  const statistics = noStatistics()
  const places = new Places<LimitReached>(
    {
      ...rules,
      error: "LimitReached",
      refusal: ({ limit, running, waiting }) => withoutStack(() => new LimitReached({ limit, running, waiting }))
    },
    initial,
    statistics,
    partitions.lines
  )
  partitions.guarantee(initial)
  const find = () => places
  let rtt: number | undefined
  const observed = yield* Effect.withFiberSucceed((fiber) => new Window(window, minCalls, nowMillisUnsafe(fiber)))

  const record = (
    startedAt: number,
    running: number,
    exit: Exit.Exit<unknown, unknown>,
    fiber: Fiber.Fiber<unknown, unknown>
  ): undefined => {
    const outcome = isOverdue(exit, fiber) ? "dropped" : classifyExit(exit)
    if (outcome === "ignored") return
    const now = nowMillisUnsafe(fiber)
    const seen = observed.add(startedAt, now, running, outcome === "dropped" || now - startedAt > tooLong)
    if (seen === undefined) return
    rtt = seen.rtt ?? rtt
    limit.update(seen, () => fiber.getRef(Random.Random).nextDoubleUnsafe())
    const whole = Math.floor(limit.limit)
    if (whole === places.limit) return
    partitions.guarantee(whole)
    places.resize(whole)
  }

  const measured = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber) => {
      const startedAt = nowMillisUnsafe(fiber)
      const { running } = places
      return Effect.onExitPrimitive(self, (exit) => record(startedAt, running, exit, fiber))
    })

  const calls = (line: Line<Call<LimitReached>> | undefined): Calls => ({
    execute: (self) => enter(measured(self), find, find, line),
    executeScoped: (self) => enterScoped(measured(self), find, line)
  })

  return {
    ...calls(partitions.rest),
    partition: (name) => {
      const line = partitions.byName.get(name)
      if (line !== undefined) return calls(line)
      const unknown = Effect.die(new RangeError(`AdaptiveLimit: there is no partition "${name}"`))
      return { execute: () => unknown, executeScoped: () => unknown }
    },
    state: Effect.sync(() => ({
      limit: places.limit,
      running: places.running,
      waiting: places.waiting,
      rtt: rtt === undefined ? undefined : Duration.millis(rtt),
      baseline: limit.baseline === undefined ? undefined : Duration.millis(limit.baseline),
      partitions: partitions.state()
    })),
    queueDelay: Effect.withFiberSucceed((fiber) => Duration.millis(places.delayMillis(fiber))),
    statistics: Effect.sync(() => ({ ...statistics }))
  }
})

/**
 * Reads an exit as the limit does by default. A success is a success. A timeout is a drop, and so is an error with a
 * `retryAfter`, which says that the other side has too much to do. Everything else is ignored: a refusal of this package,
 * an interruption, and a failure of another kind, which may well have been a fast one.
 */
export const classify = (exit: Exit.Exit<unknown, unknown>): Outcome =>
  Exit.isSuccess(exit) ? "success" : exit.cause.reasons.some(isDrop) ? "dropped" : "ignored"

/** The adaptive limit of a context that needs only one. For one per dependency, call `make` in each. */
export const AdaptiveLimit = Context.Service<AdaptiveLimit<string>>("effect-resilience/AdaptiveLimit")

/** Provides `AdaptiveLimit`. */
export const layer = (options: Options<string> = {}): Layer.Layer<AdaptiveLimit<string>> =>
  Layer.effect(AdaptiveLimit, make(options))

/** Provides `AdaptiveLimit` from configuration. */
export const layerConfig = (
  options: Config.Wrap<Options<string>>
): Layer.Layer<AdaptiveLimit<string>, Config.ConfigError> =>
  Layer.effect(AdaptiveLimit, Effect.flatMap(Config.unwrap(options), make))

const isDrop = (reason: Cause.Reason<unknown>): boolean =>
  reason._tag === "Fail" &&
  (reason.error instanceof TimedOut ||
    (!isRefusal(reason.error) && (reason.error instanceof DeadlineExceeded || fromError(reason.error) !== undefined)))

const limitOf = (algorithm: Exclude<Algorithm, string>, bounds: Bounds): Limit => {
  switch (algorithm.name) {
    case "aimd": {
      const { backoff = 0.9 } = algorithm
      check("algorithm.backoff", backoff, "at least 0.5 and under 1", backoff >= 0.5 && backoff < 1)
      return new Aimd(bounds, backoff)
    }
    case "vegas": {
      const { alpha = 3, beta = 6, probeEvery = 30 } = algorithm
      check("algorithm.alpha", alpha, "a finite number > 0", alpha > 0 && alpha < Infinity)
      check("algorithm.beta", beta, `a finite number > ${alpha}`, beta > alpha && beta < Infinity)
      check("algorithm.probeEvery", probeEvery, "a finite number > 0", probeEvery > 0 && probeEvery < Infinity)
      return new Vegas(bounds, { alpha, beta, probeEvery })
    }
    case "gradient2": {
      const { longWindow = 600, queue = 4, smoothing = 0.2, tolerance = 1.5 } = algorithm
      check("algorithm.smoothing", smoothing, "over 0 and at most 1", smoothing > 0 && smoothing <= 1)
      check("algorithm.queue", queue, "a finite number > 0", queue > 0 && queue < Infinity)
      integer("AdaptiveLimit", "algorithm.longWindow", 10, longWindow)
      check("algorithm.tolerance", tolerance, "a finite number >= 1", tolerance >= 1 && tolerance < Infinity)
      return new Gradient2(bounds, { smoothing, queue, longWindow, tolerance })
    }
  }
}

// A line per partition, and one for the calls of none, which get what is left over.
const partitionsOf = (parts: Readonly<Record<string, number>>, priorities: "ignored" | "strict" | "weighted") => {
  const byName = new Map<string, Line<Call<LimitReached>>>()
  let sum = 0
  for (const [name, part] of Object.entries(parts)) {
    check(`partitions.${name}`, part, "over 0 and at most 1", part > 0 && part <= 1)
    byName.set(name, new Line(part))
    sum += part
  }
  check("partitions", sum, "at most 1 in all", sum <= 1 + 1e-9)
  if (byName.size > 0 && priorities !== "ignored") {
    throw new RangeError(`AdaptiveLimit: priorities must be "ignored" with partitions, got "${priorities}"`)
  }
  // Never nothing, so that they run eventually.
  const rest = byName.size === 0 ? undefined : new Line<Call<LimitReached>>(Math.max(0.01, 1 - sum))
  return {
    byName,
    rest,
    lines: rest === undefined ? {} : { lines: new Lines([...byName.values(), rest], true) },
    guarantee: (limit: number) => {
      for (const line of byName.values()) line.guaranteed = Math.ceil(limit * line.weight)
    },
    state: () =>
      Object.fromEntries(
        Array.from(byName, ([name, { guaranteed, running, size }]) => [name, { guaranteed, running, waiting: size }])
      )
  }
}

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`AdaptiveLimit: ${name} must be ${expected}, got ${value}`)
}
