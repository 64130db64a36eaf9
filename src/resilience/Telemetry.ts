/**
 * Shows what the primitives do: as metrics, as a stream of events, as log lines and in spans.
 *
 * Nothing is paid for by a call that goes through. Metrics are read where a primitive counts anyway, at the moment of an
 * export; events are made only for what is rare, and only while somebody reads them or the call is inside a sampled span.
 *
 * An event never has the text of an error or a key of a cache or a limit, which may be secret: it has the error's name, and
 * the key of a circuit. What an event is called in a span is `effect_resilience.` and its `_tag`, and each of its fields an
 * attribute, as in `effect_resilience.delay_millis`, but the name of an error is `error.type`. `docs/telemetry.md` lists every
 * metric, event and attribute.
 *
 * | defaults | readers fall behind by 1,024 events | `layerLog` 100 lines of a kind a second | `layerMetrics` 1,000 names |
 */
import { Cause, type Context, Duration, Effect, Exit, Layer, LogLevel, Metric, Queue, type Scope, Stream } from "effect"
import type * as AdaptiveLimit from "./AdaptiveLimit.ts"
import type * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
import type * as AdaptiveTimeout from "./AdaptiveTimeout.ts"
import type * as Batcher from "./Batcher.ts"
import type * as Bulkhead from "./Bulkhead.ts"
import type * as Cache from "./Cache.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import type * as Hedge from "./Hedge.ts"
import { tallies, type Tally } from "./internal/circuits.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { isRefusal } from "./internal/refusal.ts"
import { attributesOf, CurrentHub, type Hub as InternalHub, shown, subscribe } from "./internal/telemetry.ts"
import type * as KeyedRateLimiter from "./KeyedRateLimiter.ts"
import type * as LoadShed from "./LoadShed.ts"
import type * as RateLimiter from "./RateLimiter.ts"
import { CurrentAttempt } from "./Retry.ts"
import type * as RetryBudget from "./RetryBudget.ts"
import type * as SingleFlight from "./SingleFlight.ts"

/** What every event says. */
export interface Happened {
  /** When, by the wall clock, in milliseconds since 1970. */
  readonly time: number
  /** The module whose primitive it was. */
  readonly primitive: string
  /** The `name` that the primitive was made with. */
  readonly name?: string | undefined
  /** The trace of the call, if it had one. */
  readonly traceId?: string | undefined
  readonly spanId?: string | undefined
}

/** A circuit has changed its state. */
export interface CircuitChanged extends Happened {
  readonly _tag: "CircuitChanged"
  readonly key: string
  readonly from: CircuitBreaker.State["_tag"]
  readonly to: CircuitBreaker.State["_tag"]
  /** When it lets the first call through again. */
  readonly retryAfterMillis?: number | undefined
}

/** A call was refused, and not made. */
export interface Refused extends Happened {
  readonly _tag: "Refused"
  /** The name of the refusal. */
  readonly error: string
  /** The key of the circuit. */
  readonly key?: string | undefined
  readonly retryAfterMillis?: number | undefined
  readonly priority?: string | undefined
}

/** A call had not ended when its time was up. */
export interface TimedOut extends Happened {
  readonly _tag: "TimedOut"
  readonly afterMillis: number
}

/** A failed attempt is about to be followed by another. */
export interface Retried extends Happened {
  readonly _tag: "Retried"
  /** The attempt that failed: 1 for the first. */
  readonly attempt: number
  /** The name of the error. */
  readonly error: string
  readonly delayMillis: number
}

/** One more attempt was begun beside those that are running. */
export interface Hedged extends Happened {
  readonly _tag: "Hedged"
  readonly hedge: number
  /** The name of the error because of which it was begun before its time. */
  readonly error?: string | undefined
}

/** A fallback has answered in place of a failed call. */
export interface FellBack extends Happened {
  readonly _tag: "FellBack"
  /** The name of the error. */
  readonly error: string
}

/** A call was answered with a value whose time had passed. */
export interface AnsweredStale extends Happened {
  readonly _tag: "AnsweredStale"
  readonly staleForMillis: number
  /** The name of the error of the last refresh, if it failed. */
  readonly error?: string | undefined
}

/** A refresh in the background failed. */
export interface RefreshFailed extends Happened {
  readonly _tag: "RefreshFailed"
  /** How many keys it was for. */
  readonly keys: number
  /** The name of the error. */
  readonly error: string
}

/** The retries of a call have ended, and the error of its last attempt comes through. */
export interface RetriesEnded extends Happened {
  readonly _tag: "RetriesEnded"
  /** The attempts that were made. */
  readonly attempts: number
  /** The name of the error. */
  readonly error: string
  /**
   * Why there is no further attempt: the schedule has ended, the error asks for a longer wait than allowed, the next attempt
   * would come after `maxElapsed` or the deadline, the budget is spent, or the circuit refuses.
   */
  readonly reason: "schedule" | "retry-after" | "max-elapsed" | "deadline" | "budget" | "circuit"
}

/** Events before this one were lost to this reader, which did not keep up. */
export interface EventsLost extends Happened {
  readonly _tag: "EventsLost"
  readonly lost: number
}

/** What is told. */
export type Event =
  | CircuitChanged
  | Refused
  | TimedOut
  | Retried
  | RetriesEnded
  | Hedged
  | FellBack
  | AnsweredStale
  | RefreshFailed
  | EventsLost

/** Where events go. */
export interface Hub extends InternalHub {}

/** The hub of a context. Defaults to one for the whole process. */
export const Hub: Context.Reference<Hub> = CurrentHub

/** Makes a hub of one's own, for the events of what runs with it: `Effect.provideService(effect, Telemetry.Hub, hub)`. */
export const makeHub: Effect.Effect<Hub> = Effect.sync(() => ({ readers: new Set() }))

/** The events from now on. A reader that falls behind by 1,024 events misses the oldest, and learns how many from `EventsLost`. */
export const events: Stream.Stream<Event> = Stream.unwrap(
  Effect.gen(function* () {
    const hub = yield* Hub
    let count = 0
    const queue = yield* Queue.sliding<readonly [number: number, event: Event]>(1_024)
    yield* Effect.acquireRelease(
      Effect.sync(() => subscribe(hub, (event) => Queue.offerUnsafe(queue, [count++, event]))),
      (unsubscribe) => Effect.sync(unsubscribe)
    )
    // A gap between the numbers is what was lost.
    return Stream.mapAccum(
      Stream.fromQueue(queue),
      () => 0,
      (expected: number, [number, event]): readonly [number, ReadonlyArray<Event>] => {
        if (number === expected) return [number + 1, [event]]
        const lost = number - expected
        return [number + 1, [{ _tag: "EventsLost", time: event.time, primitive: "Telemetry", lost }, event]]
      }
    )
  })
)

/** How events are logged. */
export interface LogOptions {
  /** The level of an event; `undefined` to leave it out. Defaults to `levelOf`. */
  readonly level?: ((event: Event) => LogLevel.Severity | undefined) | undefined
  /**
   * Lines in one second at most for each kind of event, so that many of one kind cannot hide another; how many more there
   * were is said in one line. Events below the minimum level of the log do not count. At least 1. Defaults to 100.
   */
  readonly maxPerSecond?: number | undefined
}

/**
 * The level of an event by default: a circuit that opens is a warning, a change back to normal information, a timeout and a
 * failed refresh are warnings, as are events that were lost, and what may happen to each of many calls (refusals, retries and
 * their end, hedges, fallbacks, stale answers) is for debugging.
 */
export const levelOf = (event: Event): LogLevel.Severity => {
  switch (event._tag) {
    case "CircuitChanged":
      return event.to === "Open" || event.to === "Isolated" ? "Warn" : "Info"
    case "TimedOut":
    case "RefreshFailed":
    case "EventsLost":
      return "Warn"
    default:
      return "Debug"
  }
}

/** Writes every event as a structured log line: `event` is its `_tag`, and its fields are annotations. */
export const layerLog = (options: LogOptions = {}): Layer.Layer<never> => {
  const { level = levelOf, maxPerSecond = 100 } = options
  check("maxPerSecond", maxPerSecond, "a number of at least 1", maxPerSecond >= 1)
  const windows = new Map<Event["_tag"], { startedAt: number; lines: number; left: number }>()
  const line = Effect.fnUntraced(function* (event: Event) {
    const severity = level(event)
    if (severity === undefined || !(yield* LogLevel.isEnabled(severity))) return
    const window = windows.get(event._tag) ?? { startedAt: -Infinity, lines: 0, left: 0 }
    windows.set(event._tag, window)
    if (event.time - window.startedAt >= 1_000) {
      if (window.left > 0) {
        yield* Effect.annotateLogs(Effect.logWarning(`${window.left} more events were not logged`), {
          event: event._tag
        })
      }
      window.startedAt = event.time
      window.lines = window.left = 0
    }
    if (window.lines >= maxPerSecond) {
      window.left++
      return
    }
    window.lines++
    const { time: _time, ...told } = event
    yield* Effect.annotateLogs(Effect.logWithLevel(severity)(sentenceOf(event)), {
      event: event._tag,
      ...attributesOf(told, "")
    })
  })
  return forEachEvent(line)
}

/** How events are counted. */
export interface MetricsOptions {
  /** Names told apart at most; the events of further ones are counted under "other". At least 1. Defaults to 1,000. */
  readonly maxNames?: number | undefined
}

/** Counts every event in `resilience_events_total`, with the labels `event`, `primitive`, `error` and `name`. */
export const layerMetrics = (options: MetricsOptions = {}): Layer.Layer<never> => {
  const { maxNames = 1_000 } = options
  check("maxNames", maxNames, "a number of at least 1", maxNames >= 1)
  const names = new Set<string>()
  const counter = Metric.counter("resilience_events_total", {
    description: "What is rare: refusals, timeouts, retries, changes of circuits …",
    incremental: true
  })
  const bounded = (name: string): string => {
    if (names.has(name)) return name
    if (names.size >= maxNames) return "other"
    names.add(name)
    return name
  }
  return forEachEvent((event) =>
    Metric.update(
      Metric.withAttributes(counter, {
        event: event._tag,
        primitive: event.primitive,
        name: bounded(event.name ?? ""),
        // Names of errors are written by people, but nothing says how many there are.
        error: "error" in event && event.error !== undefined ? bounded(event.error) : ""
      }),
      1
    )
  )
}

const forEachEvent = (act: (event: Event) => Effect.Effect<void>): Layer.Layer<never> =>
  Layer.effectDiscard(
    Effect.forkScoped(
      Stream.runForEach(events, (event) => Effect.ignoreCause(act(event), { log: "Debug" })),
      { startImmediately: true }
    )
  )

/** Primitives that are shown under one name. */
export interface Observed {
  readonly adaptiveLimit?: AdaptiveLimit.AdaptiveLimit<never> | undefined
  readonly adaptiveThrottle?: AdaptiveThrottle.AdaptiveThrottle | undefined
  readonly adaptiveTimeout?: AdaptiveTimeout.AdaptiveTimeout | undefined
  readonly batcher?: { readonly state: Effect.Effect<Batcher.State> } | undefined
  readonly bulkhead?: Bulkhead.Bulkhead | undefined
  readonly cache?: { readonly statistics: Effect.Effect<Cache.Statistics> } | undefined
  readonly circuitBreaker?: CircuitBreaker.CircuitBreaker | undefined
  readonly hedge?: { readonly state: Effect.Effect<Hedge.State> } | undefined
  readonly keyedBulkhead?: Bulkhead.KeyedBulkhead | undefined
  readonly keyedRateLimiter?: { readonly statistics: Effect.Effect<KeyedRateLimiter.Statistics> } | undefined
  readonly loadShed?: LoadShed.LoadShed | undefined
  readonly rateLimiter?: RateLimiter.RateLimiter | undefined
  readonly retryBudget?: { readonly state: (key: string) => Effect.Effect<RetryBudget.State> } | undefined
  readonly singleFlight?: { readonly state: Effect.Effect<SingleFlight.State> } | undefined
}

/**
 * Shows primitives as metrics with the label `name`, until the scope closes. They are read when the metrics are, in the
 * registry of this context; nothing is counted twice. Another `observe` of the same name takes the place of the first.
 */
export const observe = (name: string, observed: Observed): Effect.Effect<void, never, Scope.Scope> =>
  Effect.contextWith((context: Context.Context<Scope.Scope>) =>
    Effect.acquireRelease(
      Effect.sync(() => seriesOf(observed).map((series) => register(name, series, context))),
      (registrations) => Effect.sync(() => registrations.forEach((registration) => registration.remove()))
    ).pipe(Effect.asVoid)
  )

/** What `instrument` measures. */
export interface InstrumentOptions {
  /** The label `name` of the metric, and the name of the span. */
  readonly name: string
  /** Whether a span is opened for each run. Defaults to false. */
  readonly span?: boolean | undefined
}

/**
 * Measures how long each run of an effect takes, in the histogram `resilience_duration_seconds` with the labels `name` and
 * `outcome`: "success", "failure", "refused" or "interrupted". Put it around a policy to measure calls, or inside it to
 * measure attempts. With a span, that carries the number of the attempt and the outcome; events become events of the span.
 */
export const instrument = (options: InstrumentOptions) => {
  const { name, span = false } = options
  const histogram = Metric.histogram("resilience_duration_seconds", {
    description: "How long calls and attempts take",
    boundaries: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
  })
  const label = shown(name)
  const byOutcome = Object.fromEntries(
    outcomes.map((outcome) => [outcome, Metric.withAttributes(histogram, { name: label, outcome })])
  ) as Record<Outcome, typeof histogram>
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
    const measured = Effect.withFiber<A, E, R>((fiber) => {
      const startedAt = nowMillisUnsafe(fiber)
      const { span: current } = fiber.cache
      if (span && current?._tag === "Span") current.attribute("effect_resilience.attempt", fiber.getRef(CurrentAttempt))
      return Effect.onExitPrimitive(self, (exit) => {
        const outcome = outcomeOf(exit)
        const seconds = (nowMillisUnsafe(fiber) - startedAt) / 1_000
        return Effect.andThen(
          Metric.update(byOutcome[outcome], seconds),
          span ? Effect.annotateCurrentSpan("effect_resilience.outcome", outcome) : Effect.void
        )
      })
    })
    return span ? Effect.withSpan(measured, name) : measured
  }
}

const outcomes = ["success", "failure", "refused", "interrupted"] as const
type Outcome = (typeof outcomes)[number]

const outcomeOf = (exit: Exit.Exit<unknown, unknown>): Outcome => {
  if (Exit.isSuccess(exit)) return "success"
  if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
  return exit.cause.reasons.every((reason) => reason._tag === "Fail" && isRefusal(reason.error)) ? "refused" : "failure"
}

// One number of one primitive, and where it is read.
interface Series {
  readonly id: string
  readonly description: string
  readonly counts: boolean
  readonly labels: Readonly<Record<string, string>>
  readonly read: Effect.Effect<number>
}

const register = (name: string, series: Series, context: Context.Context<never>): Metric.Registration => {
  const attributes = { name: shown(name), ...series.labels }
  const { description, id } = series
  // Every one of these effects is one synchronous step.
  const value = () => Effect.runSyncWith(context)(series.read)
  const hooks = { update: () => {}, modify: () => {} }
  return series.counts
    ? Metric.registerUnsafe(Metric.counter(id, { description, attributes, incremental: true }), context, {
        ...hooks,
        get: () => ({ count: value(), incremental: true })
      })
    : Metric.registerUnsafe(Metric.gauge(id, { description, attributes }), context, {
        ...hooks,
        get: () => ({ value: value() })
      })
}

const series = <S>(
  prefix: string,
  state: Effect.Effect<S>,
  counts: boolean,
  fields: Readonly<
    Record<string, readonly [description: string, read: (state: S) => number, labels?: Record<string, string>]>
  >
): ReadonlyArray<Series> =>
  Object.entries(fields).map(([id, [description, read, labels = {}]]) => ({
    id: `resilience_${prefix}_${id.split(" ")[0]}`,
    description,
    counts,
    labels,
    read: Effect.map(state, read)
  }))

// A field of its own for each value of a label: what stands behind the space only keeps the fields apart.
const byLabel = <S, K extends string>(
  id: string,
  description: string,
  label: string,
  values: Readonly<Record<K, (state: S) => number>>
): Record<string, readonly [string, (state: S) => number, Record<string, string>]> =>
  Object.fromEntries(
    Object.entries<(state: S) => number>(values).map(([value, read]) => [
      `${id} ${value}`,
      [description, read, { [label]: value }] as const
    ])
  )

const seconds = (duration: Duration.Duration): number => Duration.toMillis(duration) / 1_000

const seriesOf = (observed: Observed): ReadonlyArray<Series> => {
  const all: Array<Series> = []
  const { adaptiveLimit, adaptiveThrottle, adaptiveTimeout, batcher, bulkhead, cache, circuitBreaker } = observed
  const { hedge, keyedBulkhead, keyedRateLimiter, loadShed, rateLimiter, retryBudget, singleFlight } = observed

  if (circuitBreaker !== undefined) {
    // A breaker of this package tells its numbers without a list of all its circuits, which would be made for each of them.
    const tally = tallies.get(circuitBreaker)
    const calls: Effect.Effect<CallCounts> =
      tally === undefined ? circuitBreaker.totals : Effect.sync(() => tally.calls)
    const circuits: Effect.Effect<CountOf> =
      tally === undefined
        ? Effect.map(circuitBreaker.states, countIn)
        : Effect.withFiberSucceed((fiber) => {
            const now = nowMillisUnsafe(fiber)
            return (tag) => tally.count(tag, now)
          })
    all.push(
      ...series("circuit_breaker", calls, true, {
        ...byLabel("calls_total", "Calls by how they ended", "outcome", {
          success: (counts: CallCounts) => counts.successes,
          failure: (counts: CallCounts) => counts.failures,
          ignored: (counts: CallCounts) => counts.ignored,
          refused: (counts: CallCounts) => counts.refused
        }),
        slow_calls_total: ["Calls that took longer than the breaker allows", ({ slow }) => slow]
      }),
      ...series("circuit_breaker", circuits, false, {
        ...byLabel("circuits", "Circuits by their state", "state", {
          closed: (count: CountOf) => count("Closed"),
          open: (count: CountOf) => count("Open"),
          half_open: (count: CountOf) => count("HalfOpen"),
          isolated: (count: CountOf) => count("Isolated")
        })
      })
    )
    if (tally !== undefined) {
      all.push(
        ...series(
          "circuit_breaker",
          Effect.sync(() => tally.moves),
          true,
          byLabel("transitions_total", "Changes of state by where they led", "to", {
            closed: (moves: Tally["moves"]) => moves.Closed,
            open: (moves: Tally["moves"]) => moves.Open,
            half_open: (moves: Tally["moves"]) => moves.HalfOpen,
            isolated: (moves: Tally["moves"]) => moves.Isolated
          })
        )
      )
    }
  }
  if (bulkhead !== undefined) {
    all.push(
      ...series("bulkhead", bulkhead.statistics, true, admissions),
      ...series("bulkhead", bulkhead.state, false, {
        limit: ["Calls that may run at the same time", ({ maxConcurrent }) => maxConcurrent],
        running: ["Calls that are running", ({ running }) => running],
        waiting: ["Calls that wait for a place", ({ waiting }) => waiting]
      })
    )
  }
  if (keyedBulkhead !== undefined) {
    all.push(
      ...series("keyed_bulkhead", keyedBulkhead.statistics, true, admissions),
      ...series("keyed_bulkhead", Effect.map(keyedBulkhead.states, together), false, {
        keys: ["Compartments in which calls run", ({ keys }) => keys],
        running: ["Calls that are running, of all keys", ({ running }) => running],
        waiting: ["Calls that wait for a place, of all keys", ({ waiting }) => waiting]
      })
    )
  }
  if (adaptiveLimit !== undefined) {
    all.push(
      ...series("adaptive_limit", adaptiveLimit.statistics, true, admissions),
      ...series("adaptive_limit", adaptiveLimit.state, false, {
        limit: ["Calls that may run at the same time", ({ limit }) => limit],
        running: ["Calls that are running", ({ running }) => running],
        waiting: ["Calls that wait for a place", ({ waiting }) => waiting]
      })
    )
  }
  if (rateLimiter !== undefined) {
    all.push(
      ...series("rate_limiter", rateLimiter.state, false, {
        tokens: ["Calls that may be made at once", ({ tokens }) => tokens],
        refill_per_second: ["Calls per second in the long run", ({ refillPerSecond }) => refillPerSecond],
        waiting: ["Calls that wait for their turn", ({ waiting }) => waiting],
        paused_seconds: ["How long nothing is let through", ({ pausedFor }) => seconds(pausedFor)]
      })
    )
  }
  if (keyedRateLimiter !== undefined) {
    all.push(
      ...series("keyed_rate_limiter", keyedRateLimiter.statistics, false, {
        keys: ["Keys that are remembered", ({ keys }) => keys],
        waiting: ["Calls that wait for their turn", ({ waiting }) => waiting]
      }),
      ...series("keyed_rate_limiter", keyedRateLimiter.statistics, true, {
        evictions_total: ["Keys that made room for others", ({ evictions }) => evictions]
      })
    )
  }
  if (cache !== undefined) {
    all.push(
      ...series("cache", cache.statistics, true, {
        ...byLabel("calls_total", "Calls by how they were answered", "outcome", {
          hit: ({ hits }: Cache.Statistics) => hits,
          miss: ({ misses }: Cache.Statistics) => misses,
          joined: ({ joined }: Cache.Statistics) => joined
        }),
        stale_total: ["Calls answered with a value whose time had passed", ({ stale }) => stale],
        refreshes_total: ["Keys whose refresh was started", ({ refreshes }) => refreshes],
        refresh_failures_total: ["Keys whose refresh failed", ({ refreshFailures }) => refreshFailures],
        evictions_total: ["Results that made room for others", ({ evictions }) => evictions],
        expirations_total: ["Results freed because they were of no more use", ({ expirations }) => expirations]
      }),
      ...series("cache", cache.statistics, false, {
        entries: ["Results that are kept", ({ size }) => size],
        weight: ["What the results weigh together", ({ weight }) => weight],
        pending: ["Runs that have not ended", ({ pending }) => pending]
      })
    )
  }
  if (singleFlight !== undefined) {
    all.push(
      ...series("single_flight", singleFlight.state, true, {
        ...byLabel("calls_total", "Calls by whether they shared a run", "outcome", {
          started: ({ started }: SingleFlight.State) => started,
          joined: ({ joined }: SingleFlight.State) => joined
        })
      }),
      ...series("single_flight", singleFlight.state, false, {
        pending: ["Runs that have not ended", ({ pending }) => pending]
      })
    )
  }
  if (batcher !== undefined) {
    all.push(
      ...series("batcher", batcher.state, false, {
        waiting: ["Look-ups that wait to be collected", ({ waiting }) => waiting],
        running: ["Batches under way", ({ running }) => running]
      })
    )
  }
  if (hedge !== undefined) {
    all.push(
      ...series("hedge", hedge.state, true, {
        calls_total: ["Calls that had to be waited for", ({ calls }) => calls],
        hedges_total: ["Attempts beside the first", ({ hedges }) => hedges],
        wins_total: ["Calls that a hedge has answered", ({ wins }) => wins],
        refused_total: ["Hedges that the budget did not pay for", ({ refused }) => refused]
      }),
      ...series("hedge", hedge.state, false, {
        delay_seconds: ["How long a call is waited for before a hedge", ({ delay }) => seconds(delay)]
      })
    )
  }
  if (adaptiveThrottle !== undefined) {
    all.push(
      ...series("adaptive_throttle", adaptiveThrottle.state, false, {
        requests: ["Calls within the window", ({ requests }) => requests],
        accepts: ["Calls within the window that were accepted", ({ accepts }) => accepts],
        refusing_ratio: ["The part of calls that is refused", ({ refusing }) => refusing]
      })
    )
  }
  if (adaptiveTimeout !== undefined) {
    all.push(
      ...series("adaptive_timeout", adaptiveTimeout.state, false, {
        limit_seconds: ["What a call is given", ({ limit }) => seconds(limit)],
        percentile_seconds: ["The percentile of the durations measured", ({ percentile }) => seconds(percentile)]
      }),
      ...series("adaptive_timeout", adaptiveTimeout.state, true, {
        timeouts_total: ["Calls that timed out", ({ timeouts }) => timeouts]
      })
    )
  }
  if (loadShed !== undefined) {
    const priorities = ["critical", "high", "normal", "low"] as const
    const counts = (what: "admitted" | "refused") =>
      priorities.map((priority) => [
        `calls_total ${what} ${priority}`,
        [
          "Calls by priority and what became of them",
          (statistics: LoadShed.Statistics) => statistics[priority][what],
          { outcome: what, priority }
        ] as const
      ])
    all.push(
      ...series("load_shed", loadShed.state, false, {
        load: ["The load: 1 is what can be borne", ({ load }) => load]
      }),
      ...series(
        "load_shed",
        loadShed.statistics,
        true,
        Object.fromEntries([...counts("admitted"), ...counts("refused")])
      )
    )
  }
  if (retryBudget !== undefined) {
    const account = retryBudget.state("default")
    all.push(
      ...series("retry_budget", account, false, {
        available: ["Retries that can be paid for now", ({ available }) => available]
      }),
      ...series("retry_budget", account, true, {
        calls_total: ["First attempts", ({ calls }) => calls],
        retries_total: ["Retries that were paid for", ({ retries }) => retries],
        refused_total: ["Retries that were not paid for", ({ refused }) => refused]
      })
    )
  }
  return all
}

// What has become of the calls that came for a place.
const admissions = byLabel("calls_total", "Calls by what became of them", "outcome", {
  admitted: ({ admitted }: Bulkhead.Statistics) => admitted,
  refused: ({ refused }: Bulkhead.Statistics) => refused,
  timed_out: ({ timedOut }: Bulkhead.Statistics) => timedOut,
  dropped: ({ dropped }: Bulkhead.Statistics) => dropped,
  left: ({ left }: Bulkhead.Statistics) => left
})

const together = (compartments: ReadonlyArray<Bulkhead.State>) => {
  const sum = { keys: compartments.length, running: 0, waiting: 0 }
  for (const { running, waiting } of compartments) {
    sum.running += running
    sum.waiting += waiting
  }
  return sum
}

type CallCounts = Pick<CircuitBreaker.Statistics, "successes" | "failures" | "ignored" | "refused" | "slow">

type CountOf = (tag: CircuitBreaker.State["_tag"]) => number

const countIn =
  (states: ReadonlyArray<CircuitBreaker.State>): CountOf =>
  (tag) =>
    states.reduce((count, { _tag }) => (_tag === tag ? count + 1 : count), 0)

const sentenceOf = (event: Event): string => {
  const of = event.name === undefined ? "" : ` of ${event.name}`
  switch (event._tag) {
    case "CircuitChanged":
      return `The circuit "${event.key}"${of} went from ${event.from} to ${event.to}`
    case "Refused":
      return `A call${of} was refused: ${event.error}`
    case "TimedOut":
      return `A call${of} timed out after ${event.afterMillis} ms`
    case "Retried":
      return `Attempt ${event.attempt}${of} failed with ${event.error}, the next is in ${event.delayMillis} ms`
    case "RetriesEnded":
      return `The retries${of} ended after ${event.attempts} attempts with ${event.error}: ${event.reason}`
    case "EventsLost":
      return `${event.lost} events were lost, because they came too fast to be read`
    case "Hedged":
      return `Hedge ${event.hedge}${of} was begun`
    case "FellBack":
      return `A fallback answered for ${event.error}`
    case "AnsweredStale":
      return `A call${of} was answered with a value stale for ${event.staleForMillis} ms`
    case "RefreshFailed":
      return `A refresh${of} of ${event.keys} keys failed with ${event.error}`
  }
}

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`Telemetry: ${name} must be ${expected}, got ${value}`)
}
