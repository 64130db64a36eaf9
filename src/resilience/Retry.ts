/**
 * Runs a failed call again, after a wait, as long as that can help.
 *
 * Only failures that `while` allows are retried, never defects or interruptions. The wait is what the `Schedule` says or
 * what the error asks for, whichever is longer. The last error comes through as it is: at once when it asks for more than
 * `maxRetryAfter`, when the wait would reach `maxElapsed` or the deadline, or when the `budget` is spent.
 *
 * Put it outside breaker, limiter and timeout, so that each attempt is counted, and inside the deadline.
 *
 * | `make` | `while` all errors | `maxRetryAfter` 1 minute | `maxElapsed`, `budget` unlimited | `onRetry` nothing |
 * | delays | `base` 1 second (`step` the same) | `factor` 2 | `maxDelay` 30 seconds | `jitter` "full", `fixed` "none" | `times` 3 |
 */
import { Cause, Clock, Context, Duration, Effect, type Fiber, Function, Pull, Random, Schedule } from "effect"
import { remainingMillisUnsafe } from "./Deadline.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { notified } from "./internal/notified.ts"
import { isRefusal } from "./internal/refusal.ts"
import { emit, nameOf } from "./internal/telemetry.ts"
import { type Around, retries, type Step, theCall, through, into } from "./internal/steps.ts"
import { fromError } from "./RetryAfter.ts"
import type { Account, RetryBudget } from "./RetryBudget.ts"
import type { RetriesEnded } from "./Telemetry.ts"

/** A way to retry calls that fail with `E`. It holds no state: each call through it steps the schedule from the start. */
export interface Retry<in E = unknown, out R = never> {
  /** Runs the effect, and again as long as it fails, the options allow it and the time suffices. */
  readonly execute: <A, E1 extends E, R1>(self: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E1, R | R1>
  /** As `execute`, but an error that `ends` holds for ends the retries, whatever the options say of it. */
  readonly executeUnless: <A, E1 extends E, R1>(
    self: Effect.Effect<A, E1, R1>,
    ends: Ends
  ) => Effect.Effect<A, E1, R | R1>
}

/** Whether an error of an attempt that this fiber has made is the last of the call. */
export type Ends = (error: unknown, fiber: Fiber.Fiber<unknown, unknown>) => boolean

/** A failed attempt that is about to be followed by another. */
export interface Failed<out E> {
  /** The attempt that failed: 1 for the first. */
  readonly attempt: number
  readonly error: E
  /** The wait before the next attempt. */
  readonly delay: Duration.Duration
}

/** What is retried, when, and how often. */
export interface Options<E, R = never> {
  /** The delays between the attempts; the retries end where it ends. It is stepped with each error. */
  readonly schedule: Schedule.Schedule<unknown, NoInfer<E>, never, R>
  /** Whether another attempt can succeed after this error. Defaults to all errors. */
  readonly while?: ((error: E) => boolean) | undefined
  /** The longest `retryAfter` of an error that is waited for; one that asks for more ends the retries. Defaults to 1 minute. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** How long the error asks to wait, if at all. Defaults to its `retryAfter`. */
  readonly retryAfter?: ((error: E) => Duration.Input | undefined) | undefined
  /**
   * How long the attempts and the waits may take together: a wait that would reach it is not begun. It interrupts no
   * attempt, as a deadline does. Over zero. Defaults to unlimited.
   */
  readonly maxElapsed?: Duration.Input | undefined
  /**
   * What every retry is paid from, before its wait; a wait that is interrupted has been paid. When it is spent, the error
   * comes through at once. Defaults to unlimited.
   */
  readonly budget?: RetryBudget | undefined
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /** The key of the budget's account. Defaults to "default". */
  readonly budgetKey?: string | undefined
  /** Runs before each wait, to log or count. Should it die, that is logged and the call goes on. Defaults to nothing. */
  readonly onRetry?: ((failed: Failed<E>) => Effect.Effect<unknown, never, R>) | undefined
}

/**
 * The attempt that is running: 1 outside of any retry and in the first attempt, 2 in the first retry. An operation reads
 * it to tell the server or the log. Of two nested retries, the inner one counts.
 */
export const CurrentAttempt = Context.Reference<number>("effect-resilience/Retry/CurrentAttempt", {
  defaultValue: () => 1
})

/**
 * Creates a retry of all errors, or of those `while` admits: annotate its parameter with the errors it knows, or use
 * `retry`, which infers them.
 */
export const make: {
  <R = never>(options: Options<unknown, R> & { readonly while?: undefined }): Retry<unknown, R>
  <E, R = never>(options: Options<E, R>): Retry<E, R>
} = <E, R>(options: Options<E, R>): Retry<E, R> => {
  const maxRetryAfter = Duration.toMillis(options.maxRetryAfter ?? "1 minute")
  const maxElapsed = Duration.toMillis(options.maxElapsed ?? "Infinity")
  if (!(maxRetryAfter >= 0)) throw invalid("maxRetryAfter", "zero or more", maxRetryAfter)
  if (!(maxElapsed > 0)) throw invalid("maxElapsed", "over zero", maxElapsed)
  const { budget, budgetKey = "default" } = options
  if (budget !== undefined || maxElapsed < Infinity) {
    return {
      execute: (self) => metered(self, options, maxRetryAfter, maxElapsed, budget, budgetKey, undefined),
      executeUnless: (self, ends) => metered(self, options, maxRetryAfter, maxElapsed, budget, budgetKey, ends)
    }
  }
  const runNow = <A, E1 extends E, R1>(
    self: Effect.Effect<A, E1, R1>,
    fiber: Fiber.Fiber<unknown, unknown>,
    ends: Ends | undefined,
    inner: Step
  ) =>
    Effect.catchCause(
      fiber.getRef(CurrentAttempt) === 1 ? into(inner, self, fiber) : asFirst(through(inner, self)),
      (cause: Cause.Cause<E1>) => again(through(inner, self), options, maxRetryAfter, ends, cause)
    )
  const run = <A, E1 extends E, R1>(self: Effect.Effect<A, E1, R1>, ends: Ends | undefined) =>
    Effect.withFiber((fiber) => runNow(self, fiber, ends, theCall))
  const retry: Retry<E, R> = { execute: (self) => run(self, undefined), executeUnless: run }
  const around =
    (ends: Ends | undefined): Around =>
    (inner) =>
    <A, E1, R1>(self: Effect.Effect<A, E1, R1>, fiber: Fiber.Fiber<unknown, unknown>) =>
      // The type of a step leaves out what it accepts and what it needs besides.
      runNow(self as Effect.Effect<A, E1 & E, R1>, fiber, ends, inner) as Effect.Effect<A, E1 & E, R1>
  retries.set(retry, around)
  return retry
}

/** Retries an effect as the options say. The same as `make(options).execute(self)`, with the error type inferred. */
export const retry: {
  // In a pipe the errors are those of the effect, however many more the predicate knows.
  <E, R2 = never>(options: Options<NoInfer<E>, R2>): <A, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R2>
  <E, R2 = never>(options: Options<E, R2>): <A, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R2>
  <A, E, R, R2 = never>(self: Effect.Effect<A, E, R>, options: Options<E, R2>): Effect.Effect<A, E, R | R2>
} = Function.dual(
  2,
  <A, E, R, R2 = never>(self: Effect.Effect<A, E, R>, options: Options<E, R2>): Effect.Effect<A, E, R | R2> =>
    make(options).execute(self)
)

/** A result that is treated like an error, as the schedule and `onRetry` see it. */
export class Unwanted<out A> {
  readonly _tag = "Unwanted"
  readonly result: A

  constructor(result: A) {
    this.result = result
  }

  /** How long the result asks to wait, if it does. */
  get retryAfter(): Duration.Duration | undefined {
    return fromError(this.result)
  }
}

/** What is retried, when, and how often, where results are retried as well. `while` and `retryAfter` are about errors. */
export interface ResultOptions<A, E, R = never> extends Omit<Options<E, R>, "schedule" | "onRetry"> {
  /** Whether another attempt can give a better result than this one. */
  readonly whileResult: (result: A) => boolean
  /** The delays between the attempts; the retries end where it ends. */
  readonly schedule: Schedule.Schedule<unknown, NoInfer<E | Unwanted<A>>, never, R>
  /** Runs before each wait, to log or count. Should it die, that is logged and the call goes on. Defaults to nothing. */
  readonly onRetry?: ((failed: Failed<E | Unwanted<A>>) => Effect.Effect<unknown, never, R>) | undefined
}

/**
 * Retries an effect also while its result is an unwanted one: a job that is not done yet, a response of 503. When the
 * retries end, the last result is returned as it is. Under a budget such a result counts as a failure.
 */
export const retryResults: {
  // In a pipe the result and the errors are those of the effect, however many more the predicates know.
  <A, E, R2 = never>(
    options: ResultOptions<NoInfer<A>, NoInfer<E>, R2>
  ): <R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R2>
  <A, E, R, R2 = never>(self: Effect.Effect<A, E, R>, options: ResultOptions<A, E, R2>): Effect.Effect<A, E, R | R2>
} = Function.dual(
  2,
  <A, E, R, R2 = never>(
    self: Effect.Effect<A, E, R>,
    options: ResultOptions<A, E, R2>
  ): Effect.Effect<A, E, R | R2> => {
    const { retryAfter = fromError, while: whileError, whileResult } = options
    const attempt = Effect.filterOrFail(
      self,
      (result) => !whileResult(result),
      (result) => new Unwanted(result)
    )
    const all: Options<E | Unwanted<A>, R2> = {
      ...options,
      while: (error) => error instanceof Unwanted || whileError === undefined || whileError(error),
      retryAfter: (error) => (error instanceof Unwanted ? error.retryAfter : retryAfter(error))
    }
    return Effect.catchIf(
      make(all).execute(attempt),
      (error): error is Unwanted<A> => error instanceof Unwanted,
      (unwanted) => Effect.succeed(unwanted.result)
    )
  }
)

/** A schedule of exactly these delays: one retry after each. With none, nothing is retried. */
export const delays = (waits: ReadonlyArray<Duration.Input>): Schedule.Schedule<Duration.Duration> => {
  const durations = waits.map((wait, index) => {
    const duration = Duration.fromInputUnsafe(wait)
    if (!(Duration.toMillis(duration) >= 0))
      throw invalid(`delays[${index}]`, "zero or more", Duration.toMillis(duration))
    return duration
  })
  return Schedule.fromStepWithMetadata(
    Effect.succeed(({ attempt }) => {
      const duration = durations[attempt - 1]
      return duration === undefined ? Cause.done(Duration.zero) : Effect.succeed([duration, duration])
    })
  )
}

/** How the delay `d` of a schedule is spread. */
export interface SpreadOptions {
  /**
   * How the delay `d` is spread, so that callers that failed together do not come back together: "none" waits `d`, "full"
   * between 0 and `d`, "equal" between half of `d` and `d`. Defaults to "full", and to "none" for `fixed`.
   */
  readonly jitter?: "none" | "full" | "equal" | undefined
  /** How often to retry: an integer of at least 0, or `Infinity`. Defaults to 3. */
  readonly times?: number | undefined
}

/** How long the delays of `fixed` are. */
export interface FixedOptions extends SpreadOptions {
  /** Each delay, before jitter: over zero. Defaults to 1 second. */
  readonly base?: Duration.Input | undefined
}

/** A schedule of equal delays: `d = base`. In whole milliseconds, with jitter drawn from Effect's `Random`. */
export const fixed = (options: FixedOptions = {}): Schedule.Schedule<Duration.Duration> => {
  const base = Duration.toMillis(options.base ?? "1 second")
  return spread({ ...options, jitter: options.jitter ?? "none", base, maxDelay: base }, () => base)
}

/** How the delays of `fibonacci` grow. */
export interface FibonacciOptions extends FixedOptions {
  /** The longest delay, before jitter: at least `base`. Defaults to 30 seconds, or to `base` when that is longer. */
  readonly maxDelay?: Duration.Input | undefined
}

/** How the delays of `linear` grow. */
export interface LinearOptions extends FibonacciOptions {
  /** What is added to each delay to give the next: zero or more. Defaults to `base`. */
  readonly step?: Duration.Input | undefined
}

/**
 * A schedule of delays that grow by the same step: `d = min(maxDelay, base + step * n)`. In whole milliseconds, with jitter
 * drawn from Effect's `Random`.
 */
export const linear = (options: LinearOptions = {}): Schedule.Schedule<Duration.Duration> => {
  const base = Duration.toMillis(options.base ?? "1 second")
  const step = options.step === undefined ? base : Duration.toMillis(options.step)
  if (!(step >= 0 && step < Infinity)) throw invalid("step", "a finite duration of zero or more", step)
  return spread({ ...options, base }, (attempt) => base + step * (attempt - 1))
}

/**
 * A schedule of delays each of which is the sum of the two before: `d = min(maxDelay, base * F(n))` with 1, 1, 2, 3, 5, …
 * In whole milliseconds, with jitter drawn from Effect's `Random`.
 */
export const fibonacci = (options: FibonacciOptions = {}): Schedule.Schedule<Duration.Duration> => {
  const base = Duration.toMillis(options.base ?? "1 second")
  // Binet's formula, exact once rounded as long as F(n) is below 2 ** 50, and infinite past all caps in the end.
  return spread({ ...options, base }, (attempt) => base * Math.round(goldenRatio ** attempt / Math.sqrt(5)))
}

/** How the delays of `exponential` grow. */
export interface ExponentialOptions extends Omit<FibonacciOptions, "jitter"> {
  /** What each delay is multiplied by to give the next: at least 1. Defaults to 2. */
  readonly factor?: number | undefined
  /**
   * How the delay `d = min(maxDelay, base * factor^n)` is spread, so that callers that failed together do not come back
   * together. "none" waits `d`; "full" between 0 and `d`; "equal" between half of `d` and `d`; "decorrelated" between
   * `base` and three times the previous wait, up to `maxDelay`, whatever the factor. Formulas: "Exponential Backoff And
   * Jitter", AWS Architecture Blog. Defaults to "full".
   */
  readonly jitter?: "none" | "full" | "equal" | "decorrelated" | undefined
}

/** A schedule of growing delays, in whole milliseconds. Its jitter is drawn from Effect's `Random`. */
export const exponential = (options: ExponentialOptions = {}): Schedule.Schedule<Duration.Duration> => {
  const base = Duration.toMillis(options.base ?? "1 second")
  const factor = options.factor ?? 2
  if (!(factor >= 1 && factor < Infinity)) throw invalid("factor", "a number of at least 1", factor)
  // Past a few hundred attempts the power is infinite, and the smaller of the two still the cap.
  return spread({ ...options, base }, (attempt) => base * factor ** (attempt - 1))
}

const goldenRatio = (1 + Math.sqrt(5)) / 2

// A schedule of the delays that `grown` gives to the attempts, counted from 1: capped, spread and ended.
const spread = (
  options: ExponentialOptions & { readonly base: number },
  grown: (attempt: number) => number
): Schedule.Schedule<Duration.Duration> => {
  const { base, jitter = "full", times = 3 } = options
  const maxDelay = options.maxDelay === undefined ? Math.max(30_000, base) : Duration.toMillis(options.maxDelay)
  if (!(base > 0 && base < Infinity)) throw invalid("base", "a finite duration over zero", base)
  if (!(maxDelay >= base && maxDelay < Infinity)) throw invalid("maxDelay", "finite and at least base", maxDelay)
  if (!(times === Infinity || (Number.isInteger(times) && times >= 0))) {
    throw invalid("times", "an integer >= 0 or Infinity", times)
  }

  const next = (attempt: number, previous: number, random: () => number) => {
    if (jitter === "decorrelated") return Math.min(maxDelay, base + (3 * previous - base) * random())
    const delay = Math.min(maxDelay, grown(attempt))
    if (jitter === "none") return delay
    return jitter === "full" ? delay * random() : (delay * (1 + random())) / 2
  }

  return Schedule.fromStepWithMetadata(
    Effect.sync(() => {
      let previous = base
      return ({ attempt }: { readonly attempt: number }) =>
        attempt > times
          ? Cause.done(Duration.zero)
          : Effect.withFiber((fiber) => {
              previous = next(attempt, previous, () => fiber.getRef(Random.Random).nextDoubleUnsafe())
              const duration = Duration.millis(Math.round(previous))
              return Effect.succeed<[Duration.Duration, Duration.Duration]>([duration, duration])
            })
    })
  )
}

// Inside the second attempt of an outer retry, the first attempt of this one is the first again.
const asFirst = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(self, CurrentAttempt, 1)

// A call whose retries are paid for, or must end in time.
const metered = <A, E, E1 extends E, R, R1>(
  self: Effect.Effect<A, E1, R1>,
  options: Options<E, R>,
  maxRetryAfter: number,
  maxElapsed: number,
  budget: RetryBudget | undefined,
  key: string,
  ends: Ends | undefined
): Effect.Effect<A, E1, R | R1> =>
  Effect.withFiber((fiber) => {
    const account = budget?.accountUnsafe(key)
    const payment: Payment | undefined = account === undefined ? undefined : { account, price: undefined }
    const endsAt = maxElapsed === Infinity ? Infinity : nowMillisUnsafe(fiber) + maxElapsed
    account?.begin(fiber)
    const first = fiber.getRef(CurrentAttempt) === 1 ? self : asFirst(self)
    const call = Effect.catchCause(first, (cause) => again(self, options, maxRetryAfter, ends, cause, payment, endsAt))
    if (account?.succeeded === undefined) return call
    return Effect.onExitPrimitive(call, (exit) => {
      if (exit._tag === "Success") account.succeeded?.(payment?.price)
      return undefined
    })
  })

// What the retries of one call are paid from, and what the last of them took.
interface Payment {
  readonly account: Account
  price: number | undefined
}

// The failure of a cause that is nothing but failures: beside a defect or an interruption no failure is retried.
const onlyFailure = <E>(cause: Cause.Cause<E>): Cause.Fail<E> | undefined =>
  cause.reasons.every(Cause.isFailReason) ? cause.reasons[0] : undefined

const invalid = (name: string, expected: string, value: number): RangeError =>
  new RangeError(`Retry: ${name} must be ${expected}, got ${value}`)

type ScheduleStep<E, R> = (now: number, input: E) => Pull.Pull<[unknown, Duration.Duration], never, unknown, R>

// Everything that only a failed call needs: its own steps of the schedule, and the loop over the further attempts.
const again = <A, E, E1 extends E, R, R1>(
  self: Effect.Effect<A, E1, R1>,
  options: Options<E, R>,
  maxRetryAfter: number,
  ends: Ends | undefined,
  firstCause: Cause.Cause<E1>,
  payment?: Payment,
  endsAt = Infinity
): Effect.Effect<A, E1, R | R1> => {
  let attempt = 1
  let step: ScheduleStep<E, R> | undefined

  const end = (reason: RetriesEnded["reason"], cause: Cause.Cause<E1>, error: E1): Effect.Effect<never, E1> => {
    const attempts = attempt
    emit(() => ({
      _tag: "RetriesEnded",
      primitive: "Retry",
      name: options.name,
      attempts,
      error: nameOf(error),
      reason
    }))
    return Effect.failCause(cause)
  }

  const onFailure = (cause: Cause.Cause<E1>): Effect.Effect<A, E1, R | R1> => {
    const failure = onlyFailure(cause)
    if (failure === undefined || (options.while !== undefined && !options.while(failure.error))) {
      return Effect.failCause(cause)
    }
    return ends === undefined
      ? goOn(cause, failure)
      : Effect.withFiber((fiber) =>
          ends(failure.error, fiber) ? end("circuit", cause, failure.error) : goOn(cause, failure)
        )
  }

  const goOn = (cause: Cause.Cause<E1>, failure: Cause.Fail<E1>): Effect.Effect<A, E1, R | R1> => {
    // A refusal says nothing about a dependency that was not called.
    if (payment !== undefined && !isRefusal(failure.error)) payment.account.failed()
    return step === undefined
      ? Effect.flatMap(Schedule.toStep(options.schedule), (made) => {
          step = made
          return proceed(made, cause, failure.error)
        })
      : proceed(step, cause, failure.error)
  }

  const proceed = (step: ScheduleStep<E, R>, cause: Cause.Cause<E1>, error: E1): Effect.Effect<A, E1, R | R1> =>
    Effect.withFiber((fiber) =>
      Pull.matchEffect(step(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(), error), {
        onSuccess: ([, scheduled]) => {
          const hint = options.retryAfter === undefined ? fromError(error) : options.retryAfter(error)
          const asked = hint === undefined ? 0 : Duration.toMillis(hint)
          const millis = Math.max(Duration.toMillis(scheduled), asked)
          // Without a deadline the time left is infinite, and only a wait without end is as long.
          if (asked > maxRetryAfter) return end("retry-after", cause, error)
          if (millis >= remainingMillisUnsafe(fiber)) return end("deadline", cause, error)
          if (endsAt < Infinity && nowMillisUnsafe(fiber) + millis >= endsAt) return end("max-elapsed", cause, error)
          if (payment !== undefined) {
            payment.price = payment.account.pay(error, fiber)
            if (payment.price === undefined) return end("budget", cause, error)
          }
          // Whole milliseconds: timers cut the fraction off, and would end before the time the error asked for.
          const delay = Duration.millis(Math.ceil(millis))
          emit(() => ({
            _tag: "Retried",
            primitive: "Retry",
            name: options.name,
            attempt,
            error: nameOf(error),
            delayMillis: Math.ceil(millis)
          }))
          const wait = Effect.flatMap(Effect.sleep(delay), () => {
            attempt++
            return Effect.catchCause(Effect.provideService(self, CurrentAttempt, attempt), onFailure)
          })
          return options.onRetry === undefined
            ? wait
            : Effect.andThen(notified("onRetry", options.onRetry, { attempt, error, delay }), wait)
        },
        onFailure: Effect.failCause,
        onDone: () => end("schedule", cause, error)
      })
    )

  return onFailure(firstCause)
}
