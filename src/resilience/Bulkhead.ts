/**
 * Caps how many calls to one dependency run at the same time.
 *
 * At most `maxConcurrent` calls run and at most `maxQueued` wait; the rest fail at once with `BulkheadFull`, so one slow
 * dependency can never hold every fiber of the process. Who is served first is a matter of `priorities` and `order`.
 *
 * Put a retry outside it, so that a sleeping retry holds no place. A timeout inside it bounds the call. `maxWait`, or a
 * deadline outside it, bounds the wait: who waits that long leaves the queue and never runs. With no time left, a call
 * does not join it. Local to the process.
 *
 * | defaults | `maxQueued` 0 | `maxWait` unlimited | `priorities` "ignored" | `order` "fifo" | `maxKeys` 10,000 |
 * | `weights` critical 8, high 4, normal 2, low 1 | `overload` `target` 5 ms, `interval` 100 ms |
 */
import { Config, Context, Duration, Effect, Layer, Schema, type Scope } from "effect"
import {
  enter,
  enterNow,
  enterScoped,
  integer,
  noStatistics,
  Places,
  queueRules,
  type Rules
} from "./internal/places.ts"
import { refused, withoutStack } from "./internal/refusal.ts"
import { type Around, bulkheads } from "./internal/steps.ts"
import type { Priority } from "./Priority.ts"

/** A compartment with a number of places. */
export interface Bulkhead {
  /** Runs the effect in the compartment, waits for a place, or fails with `BulkheadFull`. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R>
  /**
   * Does the same, and after a success keeps the place until the scope closes: for an answer that goes on to use what the
   * places stand for, as the body of a response does. A failure gives the place back at once.
   */
  readonly executeScoped: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R | Scope.Scope>
  /**
   * Changes how many calls may run at the same time. More places go to those who wait at once; with fewer, running calls
   * finish and are not replaced until they are few enough.
   */
  readonly resize: (maxConcurrent: number) => Effect.Effect<void>
  /** Reads the number of places and the calls running and waiting now. */
  readonly state: Effect.Effect<State>
  /** Reads how long the one that has waited longest has waited: zero when nobody waits. */
  readonly queueDelay: Effect.Effect<Duration.Duration>
  /** Reads what has happened since the bulkhead was made. */
  readonly statistics: Effect.Effect<Statistics>
}

/** Compartments by key, all of the same size. One that nobody is in or waits for takes no memory. */
export interface KeyedBulkhead {
  /** Runs the effect in the compartment of a key, waits for a place there, or fails with `BulkheadFull`. */
  readonly execute: (options: {
    readonly key: string
  }) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R>
  /** Changes how many calls may run at the same time in each compartment. */
  readonly resize: (maxConcurrent: number) => Effect.Effect<void>
  /** Reads the compartment of a key. */
  readonly state: (key: string) => Effect.Effect<State>
  /** Reads the compartments in which calls run. */
  readonly states: Effect.Effect<ReadonlyArray<State & { readonly key: string }>>
  /** Reads what has happened in all compartments together; the most that ran and waited are those of one of them. */
  readonly statistics: Effect.Effect<Statistics>
}

/** A bulkhead at one moment. */
export interface State {
  readonly maxConcurrent: number
  readonly running: number
  readonly waiting: number
}

/** What has happened so far. Every call that came was admitted, refused, timed out, dropped, has left, or still waits. */
export interface Statistics {
  /** Calls that got a place, at once or after a wait. */
  readonly admitted: number
  /** Calls that were refused when they came. */
  readonly refused: number
  /** Calls that waited for `maxWait` in vain. */
  readonly timedOut: number
  /** Calls that lost their place in the queue to a higher priority or to overload. */
  readonly dropped: number
  /** Calls that were interrupted while they waited. */
  readonly left: number
  /** The most calls that ever ran at the same time. */
  readonly mostRunning: number
  /** The most calls that ever waited at the same time. */
  readonly mostWaiting: number
}

/** How calls wait for a place. */
export interface QueueOptions {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /** Calls allowed to wait for a place. Defaults to 0: never wait. */
  readonly maxQueued?: number | undefined
  /** The longest wait for a place. Defaults to unlimited: a deadline or an interruption ends it. */
  readonly maxWait?: Duration.Input | undefined
  /**
   * What the `Priority` of a call counts. "strict": a higher one goes first, however long the lower ones have waited, and
   * takes the place of a lower one when the queue is full. "weighted": each gets its share of the served calls, and of a
   * full queue, so that the low ones run eventually. Defaults to "ignored": first come, first served.
   */
  readonly priorities?: "ignored" | "strict" | "weighted" | undefined
  /** The shares of the priorities for "weighted", over zero. Defaults to critical 8, high 4, normal 2, low 1. */
  readonly weights?: { readonly [P in Priority]?: number | undefined } | undefined
  /**
   * Who goes first of the same priority. "adaptive": the first, and under overload the last, while those who have waited
   * for over twice the target are refused as places come free. Adaptive LIFO and controlled delay, as in Maurer, "Fail at
   * Scale" (2015), with the signal of CoDel (Nichols and Jacobson, 2012). Defaults to "fifo": the first.
   */
  readonly order?: "fifo" | "adaptive" | undefined
  /** When the order "adaptive" takes it for overload: all who were served waited for over `target` during `interval`. */
  readonly overload?: OverloadOptions | undefined
}

/** What counts as overload. */
export interface OverloadOptions {
  /** The wait that is fine: over zero. Defaults to 5 milliseconds. */
  readonly target?: Duration.Input | undefined
  /** How long nobody has come through faster than that: over zero. Defaults to 100 milliseconds. */
  readonly interval?: Duration.Input | undefined
}

/** How many places a bulkhead has. */
export interface Options extends QueueOptions {
  /** Calls allowed to run at the same time: an integer of at least 1. */
  readonly maxConcurrent: number
}

/** How many places each compartment of a keyed bulkhead has. `maxQueued` is for each of them as well. */
export interface KeyedOptions extends Options {
  /** Keys in use at the same time: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
}

/** The call was refused: every place is taken, and it may not wait for one, or no longer. */
export class BulkheadFull extends Schema.TaggedError<BulkheadFull>()("BulkheadFull", {
  /** The calls that were running: 0 when all keys of a keyed bulkhead are in use, and this was not one of them. */
  running: Schema.Int,
  /** The calls that were waiting. */
  waiting: Schema.Int,
  /** The compartment, of a keyed bulkhead. */
  key: Schema.optional(Schema.String)
}) {
  get [refused]() {
    return true
  }
  override get message() {
    const name = this.key === undefined ? "Bulkhead" : `Bulkhead "${this.key}"`
    return this.running === 0
      ? `${name} full: too many keys are in use`
      : `${name} full: ${this.running} running, ${this.waiting} waiting`
  }
}

/** Creates a bulkhead. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<Bulkhead> {
  const maxConcurrent = integer("Bulkhead", "maxConcurrent", 1, options.maxConcurrent)
  const statistics = noStatistics()
  const places = new Places(rulesOf(options), maxConcurrent, statistics)
  const find = () => places
  const bulkhead: Bulkhead = {
    execute: (self) => enter(self, find, find),
    executeScoped: (self) => enterScoped(self, find),
    resize: (to) => Effect.sync(() => places.resize(integer("Bulkhead", "maxConcurrent", 1, to))),
    state: Effect.sync(() => stateOf(places)),
    queueDelay: Effect.withFiberSucceed((fiber) => Duration.millis(places.delayMillis(fiber))),
    statistics: Effect.sync(() => ({ ...statistics }))
  }
  const around: Around = (inner) => (self, fiber) =>
    // The type of a step leaves out what it adds.
    (places.refusalAtOnce(undefined) ?? enterNow(self, fiber, find, undefined, inner)) as typeof self
  bulkheads.set(bulkhead, around)
  return bulkhead
})

/** Creates a bulkhead with a compartment per key. Options that make no sense are a defect, not an error. */
export const makeKeyed = Effect.fnUntraced(function* (options: KeyedOptions): Effect.fn.Return<KeyedBulkhead> {
  let maxConcurrent = integer("Bulkhead", "maxConcurrent", 1, options.maxConcurrent)
  const maxKeys = integer("Bulkhead", "maxKeys", 1, options.maxKeys ?? 10_000)
  const rules = rulesOf(options)
  const noRoom = { ...rules, maxQueued: 0 }
  const statistics = noStatistics()
  const byKey = new Map<string, Places<BulkheadFull>>()
  const onIdle = (places: Places<BulkheadFull>) => {
    if (places.key !== undefined) byKey.delete(places.key)
  }
  return {
    execute:
      ({ key }) =>
      <A, E, R>(self: Effect.Effect<A, E, R>) =>
        enter<A, BulkheadFull, E, R>(
          self,
          () => {
            const known = byKey.get(key)
            if (known !== undefined) return known
            if (byKey.size >= maxKeys) return new Places(noRoom, 0, statistics, { key })
            const places = new Places(rules, maxConcurrent, statistics, { key, onIdle })
            byKey.set(key, places)
            return places
          },
          () => byKey.get(key)
        ),
    resize: (to) =>
      Effect.sync(() => {
        maxConcurrent = integer("Bulkhead", "maxConcurrent", 1, to)
        for (const places of byKey.values()) places.resize(maxConcurrent)
      }),
    state: (key) =>
      Effect.sync(() => {
        const places = byKey.get(key)
        return places === undefined ? { maxConcurrent, running: 0, waiting: 0 } : stateOf(places)
      }),
    states: Effect.sync(() => Array.from(byKey, ([key, places]) => ({ key, ...stateOf(places) }))),
    statistics: Effect.sync(() => ({ ...statistics }))
  }
})

/** The bulkhead of a context that needs only one. For one per dependency, call `make` in each. */
export const Bulkhead = Context.Service<Bulkhead>("effect-resilience/Bulkhead")

/** Provides `Bulkhead`. */
export const layer = (options: Options): Layer.Layer<Bulkhead> => Layer.effect(Bulkhead, make(options))

/** Provides `Bulkhead` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<Bulkhead, Config.ConfigError> =>
  Layer.effect(Bulkhead, Effect.flatMap(Config.unwrap(options), make))

const rulesOf = (options: QueueOptions): Rules<BulkheadFull> => ({
  ...queueRules("Bulkhead", options),
  error: "BulkheadFull",
  refusal: ({ key, running, waiting }) =>
    withoutStack(() => new BulkheadFull(key === undefined ? { running, waiting } : { running, waiting, key }))
})

const stateOf = ({ limit, running, waiting }: Places<BulkheadFull>): State => ({
  maxConcurrent: limit,
  running,
  waiting
})
