/**
 * Gives calls as much time as they have lately needed, and a margin.
 *
 * The limit is `factor` times a percentile of the durations measured, at least `floor` and at most `ceiling`; until
 * `minSamples` are there, it is the ceiling. Each timeout in a row doubles it, up to the ceiling, until a call ends that
 * would not have needed that: so a dependency that got slower is measured again instead of being cut off for ever.
 *
 * Put it where a `Timeout` goes: inside a retry and a circuit breaker. Calls that differ in kind need one each. It keeps
 * 2.5 KB, however many calls there are; about the last 1,000 durations count, within 2.5 %, from 1 ms to 1 hour.
 *
 * | `ceiling` required | `percentile` 0.95 | `factor` 2 | `floor` 50 ms, or `ceiling` if less | `minSamples` 100 |
 */
import { Config, Context, Duration, Effect, Exit, Layer } from "effect"
import { interruptAfter } from "./internal/interruptAfter.ts"
import { Latencies } from "./internal/latencies.ts"
import { timedOut } from "./internal/timedOut.ts"
import type { TimedOut } from "./Timeout.ts"

/** A limit that follows the durations of the calls through it. */
export interface AdaptiveTimeout {
  /** Fails with `TimedOut` when the effect takes longer than the limit at its start, and interrupts it. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | TimedOut, R>
  /** Reads the limit and what it is made of. */
  readonly state: Effect.Effect<State>
}

/** An adaptive timeout in numbers. */
export interface State {
  /** What a call that starts now is given. */
  readonly limit: Duration.Duration
  /** The percentile of the durations measured; zero without any. */
  readonly percentile: Duration.Duration
  /** Durations measured so far, timeouts included. */
  readonly samples: number
  /** Calls that timed out so far. */
  readonly timeouts: number
  /** How many timeouts in a row the limit is doubled for. */
  readonly inARow: number
}

/** What the limit follows, and how far. */
export interface Options {
  /** The longest limit, and the one that holds before there are enough samples: over zero and finite. */
  readonly ceiling: Duration.Input
  /**
   * The part of calls whose durations the limit is made of, over 0 and under 1. Measured are calls that had to be waited
   * for: those that succeed, by their duration, and those that time out, as if they had taken twice their limit. How long
   * they would have taken nobody knows, but a percentile stays the same wherever above it a duration lies. Failures can
   * be quicker than any success, so they do not count. Defaults to 0.95.
   */
  readonly percentile?: number | undefined
  /** What the percentile is multiplied by: a finite number of at least 1. Defaults to 2. */
  readonly factor?: number | undefined
  /** The shortest limit: over zero, at most `ceiling`. Defaults to 50 ms, or to `ceiling` when that is shorter. */
  readonly floor?: Duration.Input | undefined
  /** How many durations it takes to leave the ceiling: an integer of at least 1. Defaults to 100. */
  readonly minSamples?: number | undefined
}

/** Creates a timeout that has measured nothing yet. Options that make no sense are a defect, not an error. */
export const make = (options: Options): Effect.Effect<AdaptiveTimeout> =>
  Effect.sync(() => {
    const ceiling = Duration.toMillis(options.ceiling)
    const floor = options.floor === undefined ? Math.min(50, ceiling) : Duration.toMillis(options.floor)
    const { factor = 2, minSamples = 100, percentile = 0.95 } = options
    check("ceiling", ceiling, "over zero and finite", ceiling > 0 && ceiling < Infinity)
    check("floor", floor, "over zero and at most ceiling", floor > 0 && floor <= ceiling)
    check("percentile", percentile, "over 0 and under 1", percentile > 0 && percentile < 1)
    check("factor", factor, "a finite number >= 1", factor >= 1 && factor < Infinity)
    check("minSamples", minSamples, "an integer >= 1", Number.isInteger(minSamples) && minSamples >= 1)

    const latencies = new Latencies(percentile)
    // The limit without and with the timeouts in a row.
    let usual = ceiling
    let limit = ceiling
    let inARow = 0
    let timeouts = 0

    const record = (millis: number) => {
      latencies.record(millis)
      if (latencies.samples >= minSamples) {
        usual = Math.min(ceiling, Math.max(floor, Math.ceil(factor * latencies.value)))
      }
      limit = Math.min(ceiling, usual * 2 ** inARow)
    }
    const watch = {
      ended: (exit: Exit.Exit<unknown, unknown>, millis: number) => {
        if (Exit.isFailure(exit)) return
        if (millis <= usual) inARow = 0
        record(millis)
      },
      late: (millis: number) => {
        inARow++
        timeouts++
        record(2 * millis)
      }
    }

    return {
      execute: <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | TimedOut, R> =>
        Effect.withFiber((fiber) => interruptAfter(self, fiber, limit, timedOut, watch)),
      state: Effect.sync(() => ({
        limit: Duration.millis(limit),
        percentile: Duration.millis(latencies.value),
        samples: latencies.samples,
        timeouts,
        inARow
      }))
    }
  })

/** The adaptive timeout of a context that needs only one. For one per dependency, call `make` for each. */
export const AdaptiveTimeout = Context.Service<AdaptiveTimeout>("effect-resilience/AdaptiveTimeout")

/** Provides `AdaptiveTimeout`. */
export const layer = (options: Options): Layer.Layer<AdaptiveTimeout> => Layer.effect(AdaptiveTimeout, make(options))

/** Provides `AdaptiveTimeout` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<AdaptiveTimeout, Config.ConfigError> =>
  Layer.effect(AdaptiveTimeout, Effect.flatMap(Config.unwrap(options), make))

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`AdaptiveTimeout: ${name} must be ${expected}, got ${value}`)
}
