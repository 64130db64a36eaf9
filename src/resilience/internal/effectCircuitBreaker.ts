/**
 * Speaks the language of the circuit breaker service of `effect/persistence`.
 */
import { Cause, Duration, Effect, Exit, Function, Predicate, Stream } from "effect"
import * as EffectBreaker from "effect/persistence/CircuitBreaker"
import type { CircuitBreaker, CircuitOpen, Outcome, State, Transition } from "../CircuitBreaker.ts"
import { withoutStack } from "./refusal.ts"

// An exit on its way through the breaker, with what the caller's `classify` has made of it: as an error, because the
// breaker looks for hints in errors only.
class Classified<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly outcome: Outcome
  readonly retryAfter: Duration.Duration | undefined
  constructor(exit: Exit.Exit<A, E>, outcome: Outcome, retryAfter?: Duration.Duration) {
    this.exit = exit
    this.outcome = outcome
    this.retryAfter = retryAfter
  }
}

/** Gives a breaker the interface of that service. */
export const make = (breaker: CircuitBreaker): EffectBreaker.CircuitBreaker =>
  EffectBreaker.CircuitBreaker.of({
    [EffectBreaker.TypeId]: EffectBreaker.TypeId,
    execute: Function.dual(2, executeWith(breaker)),
    state: (key) => Effect.map(breaker.state(key), toState),
    transitions: Stream.flatMap(breaker.transitions, (transition) => Stream.fromIterable(toTransitions(transition)))
  })

const executeWith =
  (breaker: CircuitBreaker) =>
  <A, E, R, R2 = never>(
    self: Effect.Effect<A, E, R>,
    options: {
      readonly key: string
      readonly classify?:
        | ((exit: Exit.Exit<A, E>) => EffectBreaker.Outcome | Effect.Effect<EffectBreaker.Outcome, never, R2>)
        | undefined
    }
  ): Effect.Effect<A, E | EffectBreaker.CircuitBreakerError, R | R2> => {
    const { classify: classifyCall, key } = options
    if (classifyCall === undefined) {
      return Effect.suspend(() => {
        // A circuit inside the call may be open as well: only an error of a call not admitted is the breaker's.
        let admitted = false
        const call = Effect.suspend(() => {
          admitted = true
          return self
        })
        const isRefusal = (error: E | CircuitOpen): error is CircuitOpen =>
          !admitted && Predicate.isTagged(error, "CircuitOpen")
        return Effect.catchCause(call.pipe(breaker.execute({ key })), (cause) =>
          Effect.failCause(Cause.map(cause, (error: E | CircuitOpen) => (isRefusal(error) ? toError(error) : error)))
        )
      })
    }
    const classified = (exit: Exit.Exit<A, E>): Effect.Effect<never, Classified<A, E>, R2> =>
      Effect.matchCauseEffect(
        Effect.suspend(() => {
          const outcome = classifyCall(exit)
          return Effect.isEffect(outcome) ? outcome : Effect.succeed(outcome)
        }),
        {
          onSuccess: (outcome) =>
            Effect.fail(
              new Classified(exit, outcomes[outcome._tag], outcome._tag === "Failure" ? outcome.retryAfter : undefined)
            ),
          onFailure: (cause) =>
            Effect.fail(
              new Classified<A, E>(
                Exit.failCause(Exit.isFailure(exit) ? Cause.combine(exit.cause, cause) : cause),
                "ignored"
              )
            )
        }
      )
    return Effect.exit(self).pipe(
      Effect.flatMap((exit) =>
        Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
          ? Effect.fail(new Classified(exit, "ignored"))
          : classified(exit)
      ),
      breaker.execute({
        key,
        classify: (exit) => {
          const error = Exit.findErrorOption(exit)
          return error._tag === "Some" ? error.value.outcome : "ignored"
        }
      }),
      Effect.catch((error): Effect.Effect<A, E | EffectBreaker.CircuitBreakerError> =>
        error instanceof Classified ? error.exit : Effect.fail(toError(error))
      )
    )
  }

const outcomes = { Success: "success", Failure: "failure", Ignored: "ignored" } as const

const toError = ({ key, retryAfter }: CircuitOpen): EffectBreaker.CircuitBreakerError =>
  withoutStack(
    () =>
      new EffectBreaker.CircuitBreakerError({
        reason: Duration.isZero(retryAfter)
          ? new EffectBreaker.CircuitHalfOpen({ key })
          : new EffectBreaker.CircuitOpen({ key, retryAfter })
      })
  )

const toState = (state: State): EffectBreaker.State => {
  const { _tag, key } = state
  switch (_tag) {
    case "Closed":
      return { _tag, key }
    case "Open":
      return { _tag, key, retryAfter: state.retryAfter, consecutiveOpenings: state.openings }
    case "HalfOpen":
      return { _tag, key, probing: state.probing, consecutiveOpenings: state.openings }
    case "Isolated":
      return { _tag: "Open", key, retryAfter: Duration.infinity, consecutiveOpenings: 0 }
  }
}

const toTransitions = (transition: Transition): ReadonlyArray<EffectBreaker.Transition> => {
  const { key } = transition
  switch (transition.to) {
    case "Open": {
      const { from, openings, retryAfter, to } = transition
      return [{ key, from, to, retryAfter, consecutiveOpenings: openings }]
    }
    case "HalfOpen":
      return [transition]
    case "Closed": {
      const closed = { key, from: "HalfOpen", to: "Closed" } as const
      return transition.from === "HalfOpen" ? [closed] : [{ key, from: "Open", to: "HalfOpen" }, closed]
    }
    case "Isolated": {
      const { from } = transition
      const opened = { key, to: "Open", retryAfter: Duration.infinity, consecutiveOpenings: 0 } as const
      return from === "Open" ? [] : [{ ...opened, from }]
    }
  }
}
