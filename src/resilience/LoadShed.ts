/**
 * Refuses work early when there is too much of it, the least important first.
 *
 * Signals say how great the load is, where 1 is as much as can be borne; the greatest counts. Each `Priority` has a load from
 * which its calls are refused, at first few of them and then all, so that the rest is still answered in time. The levels
 * are those of failsafe-go's prioritizer and of criticality in "Site Reliability Engineering" (Google, 2016), chapter 21.
 *
 * Put it outermost, where requests come in: a refusal should cost nothing. It holds nothing and lets nobody wait, that is
 * what a bulkhead inside it is for. Signals are read by the calls themselves, at most once per `interval`.
 *
 * | defaults     | `interval` 100 ms | `retryAfter` 1 s, give or take a half | `eventLoopLag` `bearable` 100 ms, `every` 50 ms |
 * | `thresholds` | low 0.7 to 0.9 | normal 0.9 to 1.1 | high 1.1 to 1.5 | critical 1.5 to 3 |
 */
import { Context, Duration, Effect, Exit, type Fiber, Layer, Random, Schema, type Scope } from "effect"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { refused, withoutStack } from "./internal/refusal.ts"
import { emit } from "./internal/telemetry.ts"
import * as Priority from "./Priority.ts"

/** What keeps the load bearable. */
export interface LoadShed {
  /** Runs the effect, or fails with `Overloaded` without running it. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Overloaded, R>
  /** Reads the load as it was last measured. */
  readonly state: Effect.Effect<State>
  /** Reads how many calls of each priority were let through and refused. */
  readonly statistics: Effect.Effect<Statistics>
}

/** A measure of the load: 0 for none, 1 for as much as can be borne. Should it die, that is logged and counts as 0. */
export type Signal = Effect.Effect<number>

/** The load at one moment. */
export interface State {
  /** The greatest of the signals. */
  readonly load: number
  /** The signals by name. */
  readonly signals: Readonly<Record<string, number>>
  /** The part of the calls of each priority that is refused. */
  readonly refusing: Readonly<Record<Priority.Priority, number>>
}

/** What has happened so far, by priority. */
export type Statistics = Readonly<Record<Priority.Priority, { readonly admitted: number; readonly refused: number }>>

/** From which load calls are refused, and from which all of them. In between, the part that is refused rises evenly. */
export interface Threshold {
  readonly from: number
  /** At least `from`. */
  readonly to: number
}

/** What is measured, and what follows from it. */
export interface Options {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /** The measures of the load, by a name to know them by. */
  readonly signals: Readonly<Record<string, Signal>>
  /** The loads at which each priority is refused. Defaults to the table above. */
  readonly thresholds?: { readonly [P in Priority.Priority]?: Threshold | undefined } | undefined
  /** The time a measurement is good for: not negative. Defaults to 100 milliseconds. */
  readonly interval?: Duration.Input | undefined
  /**
   * When a refused call may be made again. Each is told another time, between half of this and half as much again, so
   * that they do not come back together. Defaults to 1 second.
   */
  readonly retryAfter?: Duration.Input | undefined
}

/** The call was refused and has not been made: there is too much to do for one of its priority. */
export class Overloaded extends Schema.TaggedError<Overloaded>()("Overloaded", {
  priority: Schema.Literals(Priority.all),
  /** The load: 1 is as much as can be borne. */
  load: Schema.Finite,
  /** When to try again. */
  retryAfter: Schema.Duration
}) {
  get [refused]() {
    return true
  }
  override get message() {
    const percent = Math.round(this.load * 100)
    return `Overloaded: at ${percent} % no more ${this.priority} calls, try again after ${Duration.format(this.retryAfter)}`
  }
}

/** Creates a load shedder. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<LoadShed> {
  const intervalMillis = Duration.toMillis(options.interval ?? 100)
  const retryAfterMillis = Duration.toMillis(options.retryAfter ?? 1_000)
  check("interval", intervalMillis, "finite and not negative", intervalMillis >= 0 && intervalMillis < Infinity)
  check("retryAfter", retryAfterMillis, "finite and not negative", retryAfterMillis >= 0 && retryAfterMillis < Infinity)
  const thresholds = thresholdsOf(options.thresholds ?? {})

  const measures = Object.entries(options.signals)
  const signals: Record<string, number> = Object.fromEntries(measures.map(([name]) => [name, 0]))
  let load = 0
  let measuredAt = -Infinity
  const measure = Effect.gen(function* () {
    for (const [name, signal] of measures) {
      const value = yield* Effect.catchCause(signal, (cause) =>
        Effect.as(Effect.logWarning(`LoadShed: the signal "${name}" failed`, cause), 0)
      )
      signals[name] = value > 0 ? value : 0
    }
    load = Math.max(0, ...Object.values(signals))
  })

  const counts = {
    critical: { admitted: 0, refused: 0 },
    high: { admitted: 0, refused: 0 },
    normal: { admitted: 0, refused: 0 },
    low: { admitted: 0, refused: 0 }
  }
  // A few refusals of each priority, which say the same until the next measurement: under overload there may be thousands.
  const refusals: Record<Priority.Priority, Array<Exit.Exit<never, Overloaded>>> = {
    critical: [],
    high: [],
    normal: [],
    low: []
  }
  let refusedAt = 0
  const refuse = (priority: Priority.Priority, fiber: Fiber.Fiber<unknown, unknown>) => {
    if (refusedAt !== load) {
      refusedAt = load
      for (const each of Priority.all) refusals[each] = []
    }
    const step = Math.floor(random(fiber) * 32)
    const millis = Math.ceil(retryAfterMillis * (0.5 + step / 31))
    return (refusals[priority][step] ??= Exit.fail(
      withoutStack(() => new Overloaded({ priority, load: finite(load), retryAfter: Duration.millis(millis) }))
    ))
  }

  const decide = <A, E, R>(
    self: Effect.Effect<A, E, R>,
    fiber: Fiber.Fiber<unknown, unknown>
  ): Effect.Effect<A, E | Overloaded, R> => {
    const priority = Priority.currentUnsafe(fiber)
    const part = refusedPart(thresholds[priority], load)
    if (part === 0 || (part < 1 && random(fiber) >= part)) {
      counts[priority].admitted++
      return self
    }
    counts[priority].refused++
    emit(() => ({ _tag: "Refused", primitive: "LoadShed", name: options.name, error: "Overloaded", priority }))
    return refuse(priority, fiber)
  }

  return {
    execute: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | Overloaded, R>((fiber) => {
        const now = nowMillisUnsafe(fiber)
        if (now - measuredAt < intervalMillis) return decide(self, fiber)
        // At once, so that those who come meanwhile do not all measure too.
        measuredAt = now
        return Effect.flatMap(measure, () => decide(self, fiber))
      }),
    state: Effect.sync(() => ({
      load,
      signals: { ...signals },
      refusing: {
        critical: refusedPart(thresholds.critical, load),
        high: refusedPart(thresholds.high, load),
        normal: refusedPart(thresholds.normal, load),
        low: refusedPart(thresholds.low, load)
      }
    })),
    statistics: Effect.sync(() => structuredClone(counts))
  }
})

/** The load of a bulkhead or an adaptive limit: the part of its places that is taken. */
export const utilisation = (
  state: Effect.Effect<{ readonly running: number } & ({ readonly maxConcurrent: number } | { readonly limit: number })>
): Signal => Effect.map(state, (now) => now.running / ("limit" in now ? now.limit : now.maxConcurrent))

/**
 * The load that shows in the number of calls that wait for a place in a bulkhead or an adaptive limit, where `bearable`
 * counts as 1. It reacts at once, and so keeps a queue steady.
 */
export const queue = (state: Effect.Effect<{ readonly waiting: number }>, bearable: number): Signal => {
  check("bearable", bearable, "a finite number > 0", bearable > 0 && bearable < Infinity)
  return Effect.map(state, ({ waiting }) => waiting / bearable)
}

/**
 * The load that shows in a delay, such as `bulkhead.queueDelay`, where `bearable` counts as 1. A delay tells what came in
 * a while ago: where the length of the queue says as much, `queue` is steadier.
 */
export const delay = (current: Effect.Effect<Duration.Duration>, bearable: Duration.Input): Signal => {
  const most = Duration.toMillis(bearable)
  check("bearable", most, "a finite duration over zero", most > 0 && most < Infinity)
  return Effect.map(current, (now) => Duration.toMillis(now) / most)
}

/** How the lag of the event loop is measured. */
export interface EventLoopLagOptions {
  /** The lag that counts as 1: over zero. Defaults to 100 milliseconds. */
  readonly bearable?: Duration.Input | undefined
  /** How often it is measured: over zero. Defaults to 50 milliseconds. */
  readonly every?: Duration.Input | undefined
}

/**
 * The load that shows in timers that come late, as they do when the process has too much to compute. It is measured in
 * the background until the scope closes; a peak counts half after each measurement without one.
 */
export const eventLoopLag = Effect.fnUntraced(function* (
  options: EventLoopLagOptions = {}
): Effect.fn.Return<Signal, never, Scope.Scope> {
  const bearable = Duration.toMillis(options.bearable ?? 100)
  const every = Duration.toMillis(options.every ?? 50)
  check("bearable", bearable, "a finite duration over zero", bearable > 0 && bearable < Infinity)
  check("every", every, "a finite duration over zero", every > 0 && every < Infinity)
  let lag = 0
  let dueAt = Infinity
  const now = Effect.withFiberSucceed((fiber) => nowMillisUnsafe(fiber))
  const measure = Effect.gen(function* () {
    dueAt = (yield* now) + every
    yield* Effect.sleep(Duration.millis(every))
    lag = Math.max((yield* now) - dueAt, lag / 2)
  })
  yield* Effect.forkScoped(Effect.forever(measure))
  // One that is late already and has not come yet counts as well.
  return Effect.map(now, (now) => Math.max(lag, now - dueAt) / bearable)
})

/** The load shedder of a context that needs only one. */
export const LoadShed = Context.Service<LoadShed>("effect-resilience/LoadShed")

/** Provides `LoadShed`. */
export const layer = (options: Options): Layer.Layer<LoadShed> => Layer.effect(LoadShed, make(options))

const thresholdsOf = (options: NonNullable<Options["thresholds"]>): Record<Priority.Priority, Threshold> => {
  const {
    critical = { from: 1.5, to: 3 },
    high = { from: 1.1, to: 1.5 },
    low = { from: 0.7, to: 0.9 },
    normal = { from: 0.9, to: 1.1 }
  } = options
  const thresholds = { critical, high, normal, low }
  for (const priority of Priority.all) {
    const { from, to } = thresholds[priority]
    check(`thresholds.${priority}.from`, from, "zero or more", from >= 0)
    check(`thresholds.${priority}.to`, to, `at least ${from}`, to >= from)
  }
  return thresholds
}

const refusedPart = ({ from, to }: Threshold, load: number): number =>
  load <= from ? 0 : load >= to ? 1 : (load - from) / (to - from)

const random = (fiber: Fiber.Fiber<unknown, unknown>): number => fiber.getRef(Random.Random).nextDoubleUnsafe()

const finite = (load: number): number => Math.min(load, Number.MAX_VALUE)

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`LoadShed: ${name} must be ${expected}, got ${value}`)
}
