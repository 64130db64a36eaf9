/**
 * Stops calling a dependency that keeps failing, and finds out by itself when it is back.
 *
 * After `failures` failures in a row the circuit of a key opens and its calls fail at once with `CircuitOpen`. When the
 * open time is over, calls are let through as probes, one at a time: `successesToClose` good ones close the circuit, a
 * bad one opens it again. A call counts by how the circuit stood when it was admitted: an answer that comes after a
 * later change of state changes nothing.
 *
 * Put a timeout inside it, so that a call which hangs counts, and a retry outside it, so that each attempt counts.
 *
 * Counts in the order of completion. Keeps at most `maxKeys` circuits; a probe holds its place until it ends.
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
  Schedule,
  Schema,
  Stream
} from "effect"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { isRefusal, refused, withoutStack } from "./internal/refusal.ts"
import * as RetryAfter from "./RetryAfter.ts"

/** Circuits by key, all under the same rules. */
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
  /** Reads the circuit of a key. Reading changes nothing: a key never seen reads as closed and stays unknown. */
  readonly state: (key: string) => Effect.Effect<State>
  /** Reads all circuits that are kept, the closed ones first. */
  readonly states: Effect.Effect<ReadonlyArray<State>>
  /** Every change of state from the moment it is read; a reader over 128 changes behind loses the oldest. */
  readonly transitions: Stream.Stream<Transition>
}

/** What the end of a call says about the dependency: nothing, if it is ignored. */
export type Outcome = "success" | "failure" | "ignored"

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
  | { readonly key: string; readonly from: "HalfOpen"; readonly to: "Closed" }

/** When circuits open and close. */
export interface Options {
  /** Failures in a row that open a circuit: an integer of at least 1. Defaults to 5. */
  readonly failures?: number | undefined
  /**
   * How long a circuit stays open. A `Schedule` gives its n-th delay to the n-th opening in a row, and its last one from
   * then on; it starts again once the circuit has stayed closed for as long as it was last open. It must not wait for
   * anything. Defaults to 60 seconds.
   */
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown, number> | undefined
  /** Probes in a row that must succeed to close a circuit: an integer of at least 1. Defaults to 2. */
  readonly successesToClose?: number | undefined
  /** The most an error's `retryAfter` can make a circuit stay open. Defaults to 1 hour. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** Circuits kept at most: an integer of at least 1. Idle closed ones make room first. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
  /** What the exit of a call means. Interruption is always ignored. Defaults to `classify`. */
  readonly classify?: ((exit: Exit.Exit<unknown, unknown>) => Outcome) | undefined
}

/** The call was refused and has not been made: the circuit of its key is open. */
export class CircuitOpen extends Schema.TaggedError<CircuitOpen>()("CircuitOpen", {
  key: Schema.String,
  /** Time until the circuit lets a probe through; zero while one is running. */
  retryAfter: Schema.Duration
}) {
  get [refused]() {
    return true
  }
  override get message() {
    return Duration.isZero(this.retryAfter)
      ? `Circuit "${this.key}" is being probed`
      : `Circuit "${this.key}" is open, next probe in ${Duration.format(this.retryAfter)}`
  }
}

/** Creates a breaker whose circuits are all closed. Options that make no sense are a defect, not an error. */
export const make = (options: Options = {}): Effect.Effect<CircuitBreaker> =>
  Effect.sync(() => {
    const failures = atLeastOne("failures", options.failures ?? 5)
    const successesToClose = atLeastOne("successesToClose", options.successesToClose ?? 2)
    const maxKeys = atLeastOne("maxKeys", options.maxKeys ?? 10_000)
    const maxRetryAfterMillis = notNegative("maxRetryAfter", options.maxRetryAfter ?? "1 hour")
    const classifyExit = options.classify ?? classify
    const openFor = openTimes(options.openFor ?? "60 seconds")

    const circuits = makeCircuits(maxKeys)
    const readers = new Set<Queue.Queue<Transition>>()
    const publish = (transition: Transition) => {
      for (const reader of readers) Queue.offerUnsafe(reader, transition)
    }

    const open = (circuit: Circuit, exit: Exit.Exit<unknown, unknown>, fiber: Fiber.Fiber<unknown, unknown>) => {
      const from = circuit.phase
      if (from === "Open") return
      const now = nowMillisUnsafe(fiber)
      if (from === "Closed" && now - circuit.closedAt >= circuit.openedFor) {
        circuit.openings = 0
        circuit.nextOpenTime = undefined
      }
      circuit.nextOpenTime ??= openFor()
      circuit.openings++
      circuit.openedFor = Math.max(circuit.nextOpenTime(fiber), Math.min(hintMillis(exit), maxRetryAfterMillis))
      circuit.openUntil = now + circuit.openedFor
      circuit.phase = "Open"
      circuit.generation++
      circuit.successes = 0
      circuits.settle(circuit)
      if (readers.size > 0) {
        const { failures, key, openings } = circuit
        publish({ key, from, to: "Open", failures, retryAfter: Duration.millis(circuit.openedFor), openings })
      }
    }

    const halfOpen = (circuit: Circuit) => {
      circuit.phase = "HalfOpen"
      publish({ key: circuit.key, from: "Open", to: "HalfOpen" })
    }

    const close = (circuit: Circuit, fiber: Fiber.Fiber<unknown, unknown>) => {
      circuit.phase = "Closed"
      circuit.failures = 0
      circuit.closedAt = nowMillisUnsafe(fiber)
      circuits.settle(circuit)
      publish({ key: circuit.key, from: "HalfOpen", to: "Closed" })
    }

    const record = <A, E>(
      admitted: Circuit,
      generation: number,
      exit: Exit.Exit<A, E>,
      fiber: Fiber.Fiber<unknown, unknown>,
      classifyCall: (exit: Exit.Exit<A, E>) => Outcome
    ): undefined => {
      if (admitted.generation !== generation) return
      // Before anything that could throw: a probe that has ended holds its place no longer.
      admitted.probing = false
      const outcome = Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) ? "ignored" : classifyCall(exit)
      if (outcome === "ignored") return
      const circuit = admitted.evicted ? circuits.successor(admitted.key, outcome) : admitted
      if (circuit === undefined) return
      if (outcome === "failure") {
        circuit.credit = 2
        // A half-open circuit still has the failures that opened it: one more is enough.
        if (++circuit.failures >= failures) open(circuit, exit, fiber)
      } else if (circuit.phase === "Closed") {
        circuit.failures = 0
      } else if (++circuit.successes >= successesToClose) {
        close(circuit, fiber)
      }
    }

    // A probe takes a place, so it is admitted inside the region of the handler that gives the place back.
    const probe = <A, E, R>(
      self: Effect.Effect<A, E, R>,
      circuit: Circuit,
      fiber: Fiber.Fiber<unknown, unknown>,
      classifyCall: (exit: Exit.Exit<A, E>) => Outcome
    ): Effect.Effect<A, E | CircuitOpen, R> => {
      let generation = -1
      return Effect.onExitPrimitive(
        Effect.suspend((): Effect.Effect<A, E | CircuitOpen, R> => {
          if (circuit.phase === "Open") {
            const millis = circuit.openUntil - nowMillisUnsafe(fiber)
            if (millis > 0) return refuse(circuit, millis)
            halfOpen(circuit)
          }
          if (circuit.probing) return refuse(circuit, 0)
          if (circuit.phase === "HalfOpen") circuit.probing = true
          generation = circuit.generation
          return self
        }),
        // What is recorded is an exit of `self`: until `generation` is set, nothing is.
        (exit) =>
          generation === -1 ? undefined : record(circuit, generation, exit as Exit.Exit<A, E>, fiber, classifyCall)
      )
    }

    const execute =
      <A, E>(call: { readonly key: string; readonly classify?: ((exit: Exit.Exit<A, E>) => Outcome) | undefined }) =>
      <R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> => {
        const { key, classify: classifyCall = classifyExit } = call
        return Effect.withFiber((fiber) => {
          const circuit = circuits.get(key)
          // Being admitted by a closed circuit takes nothing, so nothing can be lost before the handler is in place.
          if (circuit.phase === "Closed") {
            const generation = circuit.generation
            return Effect.onExitPrimitive(self, (exit) => record(circuit, generation, exit, fiber, classifyCall))
          }
          if (circuit.phase === "Open") {
            const millis = circuit.openUntil - nowMillisUnsafe(fiber)
            if (millis > 0) return refuse(circuit, millis)
          }
          return probe(self, circuit, fiber, classifyCall)
        })
      }

    return {
      execute,
      state: (key) =>
        Effect.withFiberSucceed((fiber) => {
          const circuit = circuits.find(key)
          return circuit === undefined ? { _tag: "Closed", key, failures: 0 } : stateOf(circuit, nowMillisUnsafe(fiber))
        }),
      states: Effect.withFiberSucceed((fiber) => {
        const now = nowMillisUnsafe(fiber)
        return circuits.all().map((circuit) => stateOf(circuit, now))
      }),
      transitions: Stream.unwrap(
        Effect.map(
          Effect.acquireRelease(
            Effect.tap(Queue.sliding<Transition>(128), (reader) => Effect.sync(() => readers.add(reader))),
            (reader) => Effect.sync(() => readers.delete(reader))
          ),
          Stream.fromQueue
        )
      )
    }
  })

/**
 * Reads an exit as the breaker does by default: a success is a success; interruption is ignored, and so is the refusal
 * of another primitive of this package, which says nothing about a dependency that was not called; every other failure
 * and every defect is a failure.
 */
export const classify = (exit: Exit.Exit<unknown, unknown>): Outcome =>
  Exit.isSuccess(exit) ? "success" : exit.cause.reasons.every(saysNothing) ? "ignored" : "failure"

/** The breaker of a context that needs only one set of rules. For several, call `make` for each. */
export const CircuitBreaker = Context.Service<CircuitBreaker>("effect-resilience/CircuitBreaker")

/** Provides `CircuitBreaker`. */
export const layer = (options: Options = {}): Layer.Layer<CircuitBreaker> => Layer.effect(CircuitBreaker, make(options))

/** Provides `CircuitBreaker` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<CircuitBreaker, Config.ConfigError> =>
  Layer.effect(CircuitBreaker, Effect.flatMap(Config.unwrap(options), make))

interface Circuit {
  readonly key: string
  phase: State["_tag"]
  // One more with every opening: a call admitted before the last one no longer counts. A probe needs no more than that,
  // for there is no other before it has ended.
  generation: number
  failures: number
  successes: number
  probing: boolean
  openings: number
  openUntil: number
  openedFor: number
  closedAt: number
  // The last refusal, and the whole milliseconds upwards it told to wait: who waits that long is let through.
  refusal: Exit.Exit<never, CircuitOpen> | undefined
  refusedFor: number
  nextOpenTime: ((fiber: Fiber.Fiber<unknown, unknown>) => number) | undefined
  // How many times the search for a circuit to drop passes this one by.
  credit: number
  evicted: boolean
}

// Two maps, so that a closed circuit is always found for eviction without a search through open ones.
const makeCircuits = (maxKeys: number) => {
  const closed = new Map<string, Circuit>()
  const tripped = new Map<string, Circuit>()
  let hand: MapIterator<Circuit> | undefined

  const find = (key: string) => closed.get(key) ?? tripped.get(key)

  const nextClosed = (): Circuit => {
    for (;;) {
      const next = (hand ??= closed.values()).next()
      if (next.done !== true) return next.value
      hand = undefined
    }
  }

  // Among the closed ones the second chance of the CLOCK algorithm: one not used since the hand last passed goes, and
  // one that has failed is passed by once more. Without closed ones, the circuit that opened first goes.
  const evict = () => {
    if (closed.size > 0) {
      let circuit = nextClosed()
      while (circuit.credit > 0) {
        circuit.credit--
        circuit = nextClosed()
      }
      circuit.evicted = true
      closed.delete(circuit.key)
      return
    }
    for (const circuit of tripped.values()) {
      circuit.evicted = true
      circuit.generation++
      tripped.delete(circuit.key)
      return
    }
  }

  const get = (key: string): Circuit => {
    const known = find(key)
    if (known !== undefined) {
      if (known.credit === 0) known.credit = 1
      return known
    }
    if (closed.size + tripped.size >= maxKeys) evict()
    const circuit: Circuit = {
      key,
      phase: "Closed",
      generation: 0,
      failures: 0,
      successes: 0,
      probing: false,
      openings: 0,
      openUntil: 0,
      openedFor: 0,
      closedAt: 0,
      refusal: undefined,
      refusedFor: 0,
      nextOpenTime: undefined,
      credit: 0,
      evicted: false
    }
    closed.set(key, circuit)
    return circuit
  }

  return {
    find,
    get,
    // The circuit that now counts for a call admitted by one that was closed and has been dropped since: the key's
    // present one, unless that has opened since. A success needs none.
    successor: (key: string, outcome: Outcome): Circuit | undefined => {
      const circuit = outcome === "failure" ? get(key) : find(key)
      return circuit?.generation === 0 ? circuit : undefined
    },
    // Puts a circuit where its phase belongs.
    settle: (circuit: Circuit) => {
      const [from, to] = circuit.phase === "Closed" ? [tripped, closed] : [closed, tripped]
      from.delete(circuit.key)
      to.set(circuit.key, circuit)
    },
    all: () => [...closed.values(), ...tripped.values()]
  }
}

const stateOf = (circuit: Circuit, now: number): State => {
  const { failures, key, openings, phase, probing, successes } = circuit
  switch (phase) {
    case "Closed":
      return { _tag: phase, key, failures }
    case "Open":
      return {
        _tag: phase,
        key,
        failures,
        retryAfter: Duration.millis(Math.max(0, Math.ceil(circuit.openUntil - now))),
        openings
      }
    case "HalfOpen":
      return { _tag: phase, key, failures, successes, probing, openings }
  }
}

// The refusals of one circuit within one millisecond are the same: in an outage there may be hundreds of them.
const refuse = (circuit: Circuit, millis: number): Effect.Effect<never, CircuitOpen> => {
  const whole = Math.ceil(millis)
  if (circuit.refusal === undefined || circuit.refusedFor !== whole) {
    const retryAfter = Duration.millis(whole)
    circuit.refusedFor = whole
    circuit.refusal = Exit.fail(withoutStack(() => new CircuitOpen({ key: circuit.key, retryAfter })))
  }
  return circuit.refusal
}

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

// Gives the open times of one circuit, one after the other. The schedule is driven by the time spent open, so that
// `upTo` and `during` measure that, and by the fiber that opens the circuit, so that jitter uses its `Random`.
const openTimes = (
  openFor: Duration.Input | Schedule.Schedule<unknown, number>
): (() => (fiber: Fiber.Fiber<unknown, unknown>) => number) => {
  if (!Schedule.isSchedule(openFor)) {
    const millis = positive("openFor", openFor)
    return () => () => millis
  }
  return () => {
    const step = Effect.runSync(Schedule.toStep(openFor))
    let openings = 0
    let spent = 0
    let last = 0
    return (fiber) => {
      const next = Effect.runSyncExitWith(fiber.context)(step(spent, ++openings))
      // A schedule that has ended, or grown beyond all numbers, stays at its last delay.
      if (Exit.isSuccess(next)) {
        const millis = Duration.toMillis(next.value[1])
        if (Number.isFinite(millis)) last = Math.max(0, millis)
      }
      spent += last
      return last
    }
  }
}

const atLeastOne = (name: string, value: number): number => {
  if (Number.isInteger(value) && value >= 1) return value
  throw new RangeError(`CircuitBreaker: ${name} must be an integer >= 1, got ${value}`)
}

const notNegative = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  if (millis >= 0) return millis
  throw new RangeError(`CircuitBreaker: ${name} must not be negative, got ${millis} ms`)
}

const positive = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  if (millis > 0 && millis < Infinity) return millis
  throw new RangeError(`CircuitBreaker: ${name} must be longer than 0 and end, got ${millis} ms`)
}
