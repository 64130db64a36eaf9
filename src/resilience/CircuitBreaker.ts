/**
 * Stops calling a dependency that keeps failing, and finds out by itself when it is back.
 *
 * When its calls break a `TripRule`, by default with 5 failures in a row, the circuit of a key opens and further calls
 * fail at once with `CircuitOpen`. When the open time is over, `probes` calls at a time are let through: `successesToClose`
 * good ones close the circuit, a bad one opens it again. Answers to calls made before a change of state change nothing.
 *
 * Put a timeout inside it, so that a call which hangs counts, and a retry outside it, so that each attempt counts.
 *
 * | trip  | `failures` 5 | `size` 100 for rates | `minimumCalls` 20 | `slowAfter` never | `or` none | `maxKeys` 10,000 |
 * | open  | `openFor` 60 seconds | `maxRetryAfter` 1 hour | `probes` 1 | `successesToClose` 2 | `maxHalfOpen` unlimited |
 */
import {
  Cause,
  Config,
  Context,
  Duration,
  Effect,
  Exit,
  type Fiber,
  Layer,
  Queue,
  type Schedule,
  Schema,
  Stream
} from "effect"
import type { CircuitBreaker as EffectBreaker } from "effect/persistence/CircuitBreaker"
import { atLeastOne, positive, rulesByKey, toRules } from "./internal/circuitRules.ts"
import {
  type AnyFiber,
  type Circuit,
  empty,
  forgetOpenings,
  make as makeCircuits,
  none,
  nothing,
  notTimed,
  own,
  plus,
  seenBy,
  startAgainIfHealthy,
  startOf,
  stateOf,
  takeOpenTime,
  tallies,
  toStatistics,
  unseen,
  waitMillis,
  watch
} from "./internal/circuits.ts"
import * as EffectCircuitBreaker from "./internal/effectCircuitBreaker.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { isRefusal, refused, withoutStack } from "./internal/refusal.ts"
import { emit, isObserved, shown } from "./internal/telemetry.ts"
import { type Around, breakers, type Step, theCall, through, into } from "./internal/steps.ts"
import * as RetryAfter from "./RetryAfter.ts"

/** Circuits by key. */
export interface CircuitBreaker {
  /**
   * Runs the effect through the circuit of a key, or fails with `CircuitOpen` without running it. `classify` says for
   * this call what its exit means, instead of the breaker's own rule.
   */
  readonly execute: {
    <A, E>(options: {
      readonly key: string
      readonly classify: (exit: Exit.Exit<A, E>) => Outcome
    }): <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
    (options: {
      readonly key: string
      readonly classify?: undefined
    }): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  }
  /**
   * Fails with `CircuitOpen` if a call made now would be refused: for those who would have to wait before they can make
   * it. A refusal is counted as one; nothing else changes, and no place for a probe is taken.
   */
  readonly check: (key: string) => Effect.Effect<void, CircuitOpen>
  /** Does the same at once, for the fast path of what is built on it: the refusal, or `undefined`. */
  readonly checkUnsafe: (
    key: string,
    fiber: Fiber.Fiber<unknown, unknown>
  ) => Effect.Effect<never, CircuitOpen> | undefined
  /** Reads the circuit of a key. Reading changes nothing: a key never seen reads as closed and stays unknown. */
  readonly state: (key: string) => Effect.Effect<State>
  /** Reads all circuits that are kept, the closed ones first. */
  readonly states: Effect.Effect<ReadonlyArray<State>>
  /** Counts the calls of a key since its circuit is kept. */
  readonly statistics: (key: string) => Effect.Effect<Statistics>
  /** Counts the calls of all keys, also of those no longer kept. Its `rules` are the sums over the circuits that follow the breaker's own. */
  readonly totals: Effect.Effect<Statistics>
  /** Every change of state from the moment it is read; a reader over 128 changes behind loses the oldest. */
  readonly transitions: Stream.Stream<Transition>
  /**
   * Opens the circuit of a key at once, for at least `duration`, by default for its open time: for an answer that is
   * meant for this client, such as a 403. One that is open stays so for that long from now on; one
   * that is isolated stays so.
   */
  readonly open: (key: string, duration?: Duration.Input) => Effect.Effect<void>
  /** Refuses all calls of a key until `close` or `reset`. */
  readonly isolate: (key: string) => Effect.Effect<void>
  /** Closes the circuit of a key at once, with empty windows. Openings soon after still count as in a row. */
  readonly close: (key: string) => Effect.Effect<void>
  /** Puts the circuit of a key back to its beginnings: closed, with empty windows and the first open time. Statistics stay. */
  readonly reset: (key: string) => Effect.Effect<void>
  /** Reads what the breaker does with calls. */
  readonly mode: Effect.Effect<Mode>
  /** Changes what the breaker does with calls. The circuits stay as they are. */
  readonly setMode: (mode: Mode) => Effect.Effect<void>
}

/** What the end of a call says about the dependency: nothing, if it is ignored. */
export type Outcome = "success" | "failure" | "ignored"

/**
 * What a breaker does with calls: "enabled" counts and refuses; "metrics-only" counts, and neither refuses nor changes a
 * state by itself; "disabled" does nothing at all.
 */
export type Mode = "enabled" | "metrics-only" | "disabled"

/** How the circuit of a key stands. `failures` counts the failures since its last success. */
export type State =
  | { readonly _tag: "Closed"; readonly key: string; readonly failures: number }
  | {
      readonly _tag: "Open"
      readonly key: string
      readonly failures: number
      /** Time until the next call is let through as a probe; zero when that time has come. */
      readonly retryAfter: Duration.Duration
      /** How many times in a row it has opened without staying healthy in between. */
      readonly openings: number
    }
  | {
      readonly _tag: "HalfOpen"
      readonly key: string
      readonly failures: number
      /** Probes that succeeded so far. */
      readonly successes: number
      /** Whether a probe is running now. */
      readonly probing: boolean
      readonly openings: number
    }
  /** Refuses until it is closed by hand. */
  | { readonly _tag: "Isolated"; readonly key: string; readonly failures: number }

/** A change of state of one circuit. */
export type Transition =
  | {
      readonly key: string
      readonly from: "Closed" | "HalfOpen"
      readonly to: "Open"
      readonly failures: number
      readonly retryAfter: Duration.Duration
      readonly openings: number
    }
  | { readonly key: string; readonly from: "Open"; readonly to: "HalfOpen" }
  | { readonly key: string; readonly from: "Open" | "HalfOpen" | "Isolated"; readonly to: "Closed" }
  | { readonly key: string; readonly from: "Closed" | "Open" | "HalfOpen"; readonly to: "Isolated" }

/** What became of calls. */
export interface Statistics {
  /** Calls that were made and have ended: the sum of the next three. */
  readonly calls: number
  readonly successes: number
  readonly failures: number
  readonly ignored: number
  /** Successes and failures that took longer than `slowAfter`. */
  readonly slow: number
  /** Calls that were not made. */
  readonly refused: number
  /** What each rule sees now, in the order of the options. */
  readonly rules: ReadonlyArray<RuleStats>
}

/** What one rule sees now. Where it counts failures only, the number of calls and all that needs it is `undefined`. */
export interface RuleStats {
  readonly calls: number | undefined
  readonly failures: number
  readonly slow: number | undefined
  /** Failures per call, from 0 to 1; `undefined` without calls. */
  readonly failureRate: number | undefined
  /** Slow calls per call, from 0 to 1; `undefined` without calls. */
  readonly slowCallRate: number | undefined
}

/**
 * What opens a circuit: any of its thresholds, over the last `size` calls or over the time `within`. Without either, a
 * number of failures is one in a row.
 */
export interface TripRule {
  /**
   * Failures that open: an integer of at least 1. Beside a rate it needs `size` or `within`; one in a row goes into `or`.
   * Defaults to 5 when there is no rate.
   */
  readonly failures?: number | undefined
  /** The share of failures that opens: over 0, at most 1. Defaults to none. */
  readonly failureRate?: number | undefined
  /** The share of calls slower than `slowAfter` that opens: over 0, at most 1. Defaults to none. */
  readonly slowCallRate?: number | undefined
  /** Calls in the window before a rate means anything: an integer of at least 1. Defaults to 20, or `size` if less. */
  readonly minimumCalls?: number | undefined
  /** Looks at the last so many calls: an integer of at least 1. Defaults to 100 for rates without `within`. */
  readonly size?: number | undefined
  /**
   * Looks at the calls of the last so much time. Failures are counted exactly; for rates calls are summed up by tenths of
   * it, so that one is forgotten up to a tenth earlier. Defaults to none.
   */
  readonly within?: Duration.Input | undefined
}

/** When one circuit opens and closes. */
export interface Settings extends TripRule {
  /** More rules, any of which opens the circuit as well. Defaults to none. */
  readonly or?: ReadonlyArray<TripRule> | undefined
  /**
   * A call that takes longer is slow, whether it succeeds or fails; as a probe, it is a failure if there is a rule about
   * slow calls. Defaults to never.
   */
  readonly slowAfter?: Duration.Input | undefined
  /**
   * How long a circuit stays open. A `Schedule` gives its n-th delay to the n-th opening in a row, and its last one from
   * then on; it starts again once the circuit has stayed closed for as long as it was last open. It must not wait for
   * anything. Defaults to 60 seconds.
   */
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown, number> | undefined
  /** Probes that may run at the same time: an integer of at least 1. Defaults to 1. */
  readonly probes?: number | undefined
  /** Probes in a row that must succeed to close a circuit: an integer of at least 1. Defaults to 2. */
  readonly successesToClose?: number | undefined
  /**
   * The longest a circuit stays half-open. Then it opens again, for probes that never end; the next call finds that out.
   * Defaults to unlimited.
   */
  readonly maxHalfOpen?: Duration.Input | undefined
  /** The most an error's `retryAfter` can make a circuit stay open. Defaults to 1 hour. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** What the exit of a call means. Interruption is always ignored. Defaults to `classify`. */
  readonly classify?: ((exit: Exit.Exit<unknown, unknown>) => Outcome) | undefined
}

/** The settings of the circuits, and how many there are. */
export interface Options extends Settings {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /**
   * Settings of a key that are different, read when its circuit is created. Trip rules replace the breaker's as a whole.
   * Return the same object for keys with the same settings. Defaults to none.
   */
  readonly settings?: ((key: string) => Settings | undefined) | undefined
  /** Circuits kept at most: an integer of at least 1. Idle closed ones make room first, isolated ones last. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
  /** What the breaker does with calls at first. Defaults to "enabled". */
  readonly mode?: Mode | undefined
}

/** The call was refused and has not been made: the circuit of its key is open. */
export class CircuitOpen extends Schema.TaggedError<CircuitOpen>()("CircuitOpen", {
  key: Schema.String,
  /** Time until the circuit lets a probe through; zero while as many as may are running, infinite if it is isolated. */
  retryAfter: Schema.Duration
}) {
  get [refused]() {
    return true
  }
  override get message() {
    if (Duration.isZero(this.retryAfter)) return `Circuit "${this.key}" is being probed`
    return Duration.isFinite(this.retryAfter)
      ? `Circuit "${this.key}" is open, next probe in ${Duration.format(this.retryAfter)}`
      : `Circuit "${this.key}" is isolated`
  }
}

/** Creates a breaker whose circuits are all closed. Options that make no sense are a defect, not an error. */
export const make = (options: Options = {}): Effect.Effect<CircuitBreaker> =>
  Effect.sync(() => {
    const defaults = toRules(options, classify)
    const circuits = makeCircuits(atLeastOne("maxKeys", options.maxKeys ?? 10_000), rulesByKey(options, defaults))
    const totals = { successes: 0, failures: 0, slow: 0, ignored: 0, refused: 0 }
    const moves = { Closed: 0, Open: 0, HalfOpen: 0, Isolated: 0 }
    let mode: Mode = options.mode ?? "enabled"

    const readers = new Set<Queue.Queue<Transition>>()
    const publish = (transition: Transition) => {
      moves[transition.to]++
      for (const reader of readers) Queue.offerUnsafe(reader, transition)
      emit(() => ({
        _tag: "CircuitChanged",
        primitive: "CircuitBreaker",
        name: options.name,
        key: shown(transition.key),
        from: transition.from,
        to: transition.to,
        retryAfterMillis: "retryAfter" in transition ? Duration.toMillis(transition.retryAfter) : undefined
      }))
    }

    const move = (circuit: Circuit, to: State["_tag"]) => {
      const from = circuit.phase
      circuit.phase = to
      circuit.generation++
      circuit.more.successes = 0
      circuit.more.probing = 0
      circuits.settle(circuit, from)
    }

    const open = (circuit: Circuit, from: "Closed" | "HalfOpen", now: number, at: number, millis: number) => {
      const { more } = circuit
      more.openings++
      more.openedFor = millis
      more.openUntil = at + millis
      move(circuit, "Open")
      const { failures, key } = circuit
      const retryAfter = Duration.millis(Math.max(0, more.openUntil - now))
      publish({ key, from, to: "Open", failures, retryAfter, openings: more.openings })
    }

    const trip = (circuit: Circuit, hint: number, fiber: AnyFiber) => {
      if (circuit.phase !== "Closed" && circuit.phase !== "HalfOpen") return
      const now = nowMillisUnsafe(fiber)
      const millis = Math.max(takeOpenTime(circuit, now, fiber), Math.min(hint, circuit.rules.maxRetryAfterMillis))
      open(circuit, circuit.phase, now, now, millis)
    }

    // As if it had happened when the time was over. Nobody has called since, so nobody can tell the difference.
    const reopen = (circuit: Circuit, now: number, fiber: AnyFiber) => {
      const at = circuit.more.halfOpenUntil
      open(circuit, "HalfOpen", now, at, takeOpenTime(circuit, at, fiber))
    }

    const halfOpen = (circuit: Circuit, now: number) => {
      circuit.phase = "HalfOpen"
      circuit.more.halfOpenUntil = now + circuit.rules.maxHalfOpenMillis
      publish({ key: circuit.key, from: "Open", to: "HalfOpen" })
    }

    const close = (circuit: Circuit, fiber: AnyFiber) => {
      const from = circuit.phase
      if (from === "Closed") return
      circuit.more.closedAt = nowMillisUnsafe(fiber)
      empty(circuit)
      move(circuit, "Closed")
      publish({ key: circuit.key, from, to: "Closed" })
    }

    const refuse = (circuit: Circuit, millis: number): Effect.Effect<never, CircuitOpen> => {
      totals.refused++
      circuit.more.refused++
      if (isObserved()) {
        emit(() => ({
          _tag: "Refused",
          primitive: "CircuitBreaker",
          name: options.name,
          key: shown(circuit.key),
          error: "CircuitOpen",
          retryAfterMillis: Math.ceil(millis)
        }))
      }
      return refusal(circuit, millis)
    }

    const record = <A, E>(
      admitted: Circuit,
      generation: number,
      startedAt: number,
      exit: Exit.Exit<A, E>,
      fiber: AnyFiber,
      classifyCall: ((exit: Exit.Exit<A, E>) => Outcome) | undefined
    ): undefined => {
      if (mode === "disabled") return
      const outcome = outcomeOf(admitted, exit, classifyCall)
      if (outcome === "ignored") return ignore(admitted)
      const failed = outcome === "failure"
      const slow = startedAt !== notTimed && isSlow(admitted, startedAt, fiber)
      const current = admitted.generation === generation
      const circuit = admitted.evicted && current ? circuits.successor(admitted.key, failed) : admitted
      count(circuit, failed, slow)
      if (!current || circuit === undefined || !watch(circuit, failed, slow, fiber)) return
      if (circuit.phase === "Closed" && mode === "enabled") trip(circuit, hintMillis(exit), fiber)
    }

    const recordProbe = <A, E>(
      circuit: Circuit,
      generation: number,
      startedAt: number,
      exit: Exit.Exit<A, E>,
      fiber: AnyFiber,
      classifyCall: ((exit: Exit.Exit<A, E>) => Outcome) | undefined
    ): undefined => {
      const current = circuit.generation === generation
      // Before anything that could throw: a probe that has ended holds its place no longer.
      if (current) circuit.more.probing--
      if (mode === "disabled") return
      const outcome = outcomeOf(circuit, exit, classifyCall)
      if (outcome === "ignored") return ignore(circuit)
      const failed = outcome === "failure"
      const slow = startedAt !== notTimed && isSlow(circuit, startedAt, fiber)
      count(circuit, failed, slow)
      if (!current || mode !== "enabled") return
      if (failed) circuit.failures++
      if (failed || (slow && circuit.rules.slowOpens)) trip(circuit, hintMillis(exit), fiber)
      else if (++circuit.more.successes >= circuit.rules.successesToClose) close(circuit, fiber)
    }

    const ignore = (circuit: Circuit): undefined => {
      totals.ignored++
      own(circuit).ignored++
    }

    const count = (circuit: Circuit | undefined, failed: boolean, slow: boolean) => {
      if (failed) totals.failures++
      else totals.successes++
      if (slow) totals.slow++
      if (circuit === undefined) return
      if (failed) circuit.failed++
      else circuit.succeeded++
      if (slow) own(circuit).slow++
    }

    // A probe takes a place, so it is admitted inside the region of the handler that gives the place back.
    const probe = <A, E, R>(
      self: Effect.Effect<A, E, R>,
      circuit: Circuit,
      fiber: AnyFiber,
      classifyCall: ((exit: Exit.Exit<A, E>) => Outcome) | undefined
    ): Effect.Effect<A, E | CircuitOpen, R> => {
      let generation = -1
      let probing = false
      let startedAt = notTimed
      return Effect.onExitPrimitive(
        Effect.suspend((): Effect.Effect<A, E | CircuitOpen, R> => {
          if (circuit.phase !== "Closed") {
            const now = nowMillisUnsafe(fiber)
            if (circuit.phase === "HalfOpen" && now >= circuit.more.halfOpenUntil) reopen(circuit, now, fiber)
            const wait = waitMillis(circuit, now, fiber)
            if (wait >= 0) return refuse(circuit, wait)
            if (circuit.phase === "Open") halfOpen(circuit, now)
            circuit.more.probing++
            probing = true
          }
          generation = circuit.generation
          startedAt = startOf(circuit, fiber)
          return self
        }),
        // What is recorded is an exit of `self`: until `generation` is set, nothing is.
        (exit) =>
          generation === -1
            ? undefined
            : (probing ? recordProbe : record)(
                circuit,
                generation,
                startedAt,
                exit as Exit.Exit<A, E>,
                fiber,
                classifyCall
              )
      )
    }

    const executeNow = <A, E, R>(
      self: Effect.Effect<A, E, R>,
      fiber: AnyFiber,
      key: string,
      classifyCall: ((exit: Exit.Exit<A, E>) => Outcome) | undefined,
      inner: Step
    ): Effect.Effect<A, E | CircuitOpen, R> => {
      if (mode === "disabled") return into(inner, self, fiber)
      const circuit = circuits.get(key)
      // Being admitted by a closed circuit takes nothing, so nothing can be lost before the handler is in place.
      if (circuit.phase === "Closed" || mode === "metrics-only") {
        const generation = circuit.generation
        const startedAt = startOf(circuit, fiber)
        return Effect.onExitPrimitive(into(inner, self, fiber), (exit) =>
          record(circuit, generation, startedAt, exit, fiber, classifyCall)
        )
      }
      if (circuit.phase === "Open") {
        const millis = circuit.more.openUntil - nowMillisUnsafe(fiber)
        if (millis > 0) return refuse(circuit, millis)
      }
      return probe(through(inner, self), circuit, fiber, classifyCall)
    }

    const execute =
      <A, E>(call: { readonly key: string; readonly classify?: ((exit: Exit.Exit<A, E>) => Outcome) | undefined }) =>
      <R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> => {
        const { classify: classifyCall, key } = call
        return Effect.withFiber((fiber) => executeNow(self, fiber, key, classifyCall, theCall))
      }

    const checkUnsafe = (key: string, fiber: AnyFiber): Effect.Effect<never, CircuitOpen> | undefined => {
      const circuit = mode === "enabled" ? circuits.find(key) : undefined
      if (circuit === undefined || circuit.phase === "Closed") return undefined
      const wait = waitMillis(circuit, nowMillisUnsafe(fiber), fiber)
      return wait >= 0 ? refuse(circuit, wait) : undefined
    }

    const breaker: CircuitBreaker = {
      execute,
      check: (key) => Effect.withFiber((fiber) => checkUnsafe(key, fiber) ?? Effect.void),
      checkUnsafe,
      state: (key) =>
        Effect.withFiberSucceed((fiber) => {
          const circuit = circuits.find(key)
          return circuit === undefined ? { _tag: "Closed", key, failures: 0 } : stateOf(circuit, fiber)
        }),
      states: Effect.withFiberSucceed((fiber) => circuits.all().map((circuit) => stateOf(circuit, fiber))),
      statistics: (key) =>
        Effect.withFiberSucceed((fiber) => {
          const circuit = circuits.find(key)
          if (circuit === undefined) return toStatistics(nothing, circuits.rulesOf(key).rules.map(unseen))
          const { failed: failures, more, succeeded: successes } = circuit
          const { ignored, refused, slow } = more
          return toStatistics({ successes, failures, slow, ignored, refused }, seenBy(circuit, fiber))
        }),
      totals: Effect.withFiberSucceed((fiber) => {
        const alike = circuits.all().filter((circuit) => circuit.rules === defaults)
        return toStatistics(
          totals,
          alike.reduce((sums, circuit) => sums.map(plus(seenBy(circuit, fiber))), defaults.rules.map(unseen))
        )
      }),
      transitions: Stream.unwrap(
        Effect.map(
          Effect.acquireRelease(
            Effect.tap(Queue.sliding<Transition>(128), (reader) => Effect.sync(() => readers.add(reader))),
            (reader) => Effect.sync(() => readers.delete(reader))
          ),
          Stream.fromQueue
        )
      ),
      open: (key, duration) =>
        Effect.withFiberSucceed((fiber) => {
          const asked = duration === undefined ? undefined : positive("open duration", duration)
          const circuit = circuits.get(key)
          const { phase } = circuit
          if (phase === "Isolated") return
          const now = nowMillisUnsafe(fiber)
          const more = own(circuit)
          if (phase === "Open") {
            more.openedFor = Math.max(more.openedFor, asked ?? 0)
            more.openUntil = Math.max(more.openUntil, now + (asked ?? more.openedFor))
          } else {
            startAgainIfHealthy(circuit, now)
            open(circuit, phase, now, now, asked ?? takeOpenTime(circuit, now, fiber))
          }
        }),
      isolate: (key) =>
        Effect.sync(() => {
          const circuit = circuits.get(key)
          const from = circuit.phase
          if (from === "Isolated") return
          own(circuit)
          move(circuit, "Isolated")
          publish({ key, from, to: "Isolated" })
        }),
      close: (key) =>
        Effect.withFiberSucceed((fiber) => {
          const circuit = circuits.find(key)
          if (circuit !== undefined) close(circuit, fiber)
        }),
      reset: (key) =>
        Effect.withFiberSucceed((fiber) => {
          const circuit = circuits.find(key)
          if (circuit === undefined) return
          close(circuit, fiber)
          // Also one that was closed already: its running calls belong to the time before.
          circuit.generation++
          empty(circuit)
          if (circuit.more !== none) forgetOpenings(circuit.more)
        }),
      mode: Effect.sync(() => mode),
      setMode: (to) =>
        Effect.sync(() => {
          mode = to
        })
    }
    const around =
      (key: string): Around =>
      (inner) =>
      (self, fiber) =>
        // The type of a step leaves out what it adds.
        executeNow(self, fiber, key, undefined, inner) as typeof self
    breakers.set(breaker, around)
    tallies.set(breaker, { calls: totals, moves, count: circuits.count })
    return breaker
  })

/**
 * Reads an exit as the breaker does by default: a success is a success; interruption is ignored, and so is the refusal
 * of another primitive of this package, which says nothing about a dependency that was not called; every other failure
 * and every defect is a failure.
 */
export const classify = (exit: Exit.Exit<unknown, unknown>): Outcome =>
  Exit.isSuccess(exit) ? "success" : exit.cause.reasons.every(saysNothing) ? "ignored" : "failure"

/**
 * Gives the breaker where the service of `effect/persistence` is asked for, as by `HttpClient.withCircuitBreaker`. It
 * fails with the errors of that service: `CircuitHalfOpen` while probes are running, `CircuitOpen` otherwise. Where a call
 * brings no `classify`, the breaker's own is used. An isolated circuit reads as open without end, and a transition that
 * the service has no word for as the two that lead there.
 */
export const toEffect = (breaker: CircuitBreaker): EffectBreaker => EffectCircuitBreaker.make(breaker)

/** The breaker of a context that needs only one. For several, call `make` for each. */
export const CircuitBreaker = Context.Service<CircuitBreaker>("effect-resilience/CircuitBreaker")

/** Provides `CircuitBreaker`. */
export const layer = (options: Options = {}): Layer.Layer<CircuitBreaker> => Layer.effect(CircuitBreaker, make(options))

/** Provides `CircuitBreaker` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<CircuitBreaker, Config.ConfigError> =>
  Layer.effect(CircuitBreaker, Effect.flatMap(Config.unwrap(options), make))

// The refusals of one circuit within one millisecond are the same: in an outage there may be hundreds of them.
const refusal = ({ key, more }: Circuit, millis: number): Effect.Effect<never, CircuitOpen> => {
  const whole = Math.ceil(millis)
  if (more.refusal === undefined || more.refusedFor !== whole) {
    const retryAfter = Duration.millis(whole)
    more.refusedFor = whole
    more.refusal = Exit.fail(withoutStack(() => new CircuitOpen({ key, retryAfter })))
  }
  return more.refusal
}

const outcomeOf = <A, E>(
  circuit: Circuit,
  exit: Exit.Exit<A, E>,
  classifyCall: ((exit: Exit.Exit<A, E>) => Outcome) | undefined
): Outcome =>
  Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
    ? "ignored"
    : (classifyCall ?? circuit.rules.classify)(exit)

const isSlow = (circuit: Circuit, startedAt: number, fiber: AnyFiber): boolean =>
  nowMillisUnsafe(fiber) - startedAt > circuit.rules.slowAfterMillis

const saysNothing = (reason: Cause.Reason<unknown>): boolean =>
  reason._tag === "Interrupt" || (reason._tag === "Fail" && isRefusal(reason.error))

// The longest wait that the errors of a failed call ask for.
const hintMillis = (exit: Exit.Exit<unknown, unknown>): number => {
  let longest = 0
  if (Exit.isSuccess(exit)) return longest
  for (const reason of exit.cause.reasons) {
    const hint = reason._tag === "Fail" ? RetryAfter.fromError(reason.error) : undefined
    if (hint !== undefined) longest = Math.max(longest, Duration.toMillis(hint))
  }
  return longest
}
