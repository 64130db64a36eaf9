/**
 * Makes a slow call a second time, and takes the answer that comes first.
 *
 * When an attempt has not answered after `delay`, or fails with an error that `while` admits, the next one starts beside
 * it. The first success is the answer, and so is the first defect or error that `while` does not admit. The others are
 * interrupted and their finalizers run before it returns. When all fail, the last error comes through that is not a
 * refusal to call at all.
 *
 * Only for calls that may be made twice: reads, and writes the other side knows to be the same. Put it inside a retry, and
 * outside breaker, limiter and timeout, so that each attempt counts. A call that answers without waiting costs a fiber.
 *
 * | `percentile` none | `minDelay` 1 ms | `maxDelay` unlimited | `minSamples` 100 | `maxHedges` 1 | `while` all errors |
 * | `budget` 10 % of the calls and 1 per second | `budgetKey` "default" | `onHedge` nothing |
 */
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber } from "effect"
import { remainingMillisUnsafe } from "./Deadline.ts"
import { Latencies } from "./internal/latencies.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { notified } from "./internal/notified.ts"
import { isRefusal } from "./internal/refusal.ts"
import { emit, nameOf } from "./internal/telemetry.ts"
import { fromError } from "./RetryAfter.ts"
import * as RetryBudget from "./RetryBudget.ts"

/** A way to make slow calls twice that fail with `E`. */
export interface Hedge<in E = unknown, out R = never> {
  /** Runs the effect, and beside it again when it is slow or fails and the budget and the time suffice. */
  readonly execute: <A, E1 extends E, R1>(self: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E1, R | R1>
  /** Reads the delay and counts what happened so far. */
  readonly state: Effect.Effect<State>
}

/** A hedge in numbers. */
export interface State {
  /** How long an attempt has now before the next one starts beside it. */
  readonly delay: Duration.Duration
  /** Calls that did not answer without waiting. */
  readonly calls: number
  /** Further attempts that were started. */
  readonly hedges: number
  /** Calls whose answer came from a further attempt. */
  readonly wins: number
  /** Further attempts that were not started because the budget was spent. */
  readonly refused: number
}

/** A further attempt that is about to start: 1 is the first of a call. */
export type Started<E> =
  | { readonly _tag: "Slow"; readonly hedge: number; readonly delay: Duration.Duration }
  | { readonly _tag: "Failed"; readonly hedge: number; readonly error: E }

/** When further attempts start, and how many. */
export interface Options<E, R = never> {
  /** What `Telemetry` calls it by. Defaults to none. */
  readonly name?: string | undefined
  /**
   * How long the newest attempt has before the next one starts: zero starts all at once, "Infinity" only after failures.
   * With a `percentile` it holds until `minSamples` were measured.
   */
  readonly delay: Duration.Input
  /**
   * The part of calls that answer within the delay, over 0 and under 1: the delay then follows the durations measured.
   * 0.95 costs about 5 % more load (Dean and Barroso: "The Tail at Scale", 2013). Measured are the first attempts that
   * had to be waited for and succeeded, or lost: those took at least as long as until they lost, which is over the delay.
   * About the last 1,000 count, within 2.5 %. Defaults to none: the delay is fixed.
   */
  readonly percentile?: number | undefined
  /** The shortest delay a percentile can give. Defaults to 1 ms. */
  readonly minDelay?: Duration.Input | undefined
  /** The longest delay a percentile can give: at least `minDelay`. Defaults to unlimited. */
  readonly maxDelay?: Duration.Input | undefined
  /** How many durations a percentile needs: an integer of at least 1. Defaults to 100. */
  readonly minSamples?: number | undefined
  /** Attempts beside the first: an integer of at least 1. Defaults to 1. */
  readonly maxHedges?: number | undefined
  /**
   * Whether another attempt can succeed after this error. One that is not admitted is the answer, whatever else is under
   * way. After a refusal of this package, or an error that asks to wait with `retryAfter`, no further attempt starts, but
   * those under way can still succeed. Defaults to all errors.
   */
  readonly while?: ((error: E) => boolean) | undefined
  /**
   * What every further attempt is paid from; calls that answer without waiting pay nothing in. Share it with the retries of
   * the same dependency to bound both together, but each of them counts the call: give half the share. Defaults to one of
   * its own: a `share` of 0.1 and `minPerSecond` 1.
   */
  readonly budget?: RetryBudget.RetryBudget | undefined
  /** The key of the budget's account. Defaults to "default". */
  readonly budgetKey?: string | undefined
  /** Runs in each further attempt before the call. Should it die, that is logged and the call goes on. Defaults to nothing. */
  readonly onHedge?: ((started: Started<E>) => Effect.Effect<unknown, never, R>) | undefined
}

/**
 * The attempt that is running: 0 for the first and outside of any hedge, 1 for the first that was started beside it. An
 * operation reads it to ask another server. Of two nested hedges, the inner one counts.
 */
export const CurrentHedge = Context.Reference<number>("effect-resilience/Hedge/CurrentHedge", {
  defaultValue: () => 0
})

/**
 * Creates a hedge that goes on after all errors, or after those `while` admits: annotate its parameter with the errors it
 * knows. Options that make no sense are a defect, not an error.
 */
export const make: {
  <R = never>(options: Options<unknown, R> & { readonly while?: undefined }): Effect.Effect<Hedge<unknown, R>>
  <E, R = never>(options: Options<E, R>): Effect.Effect<Hedge<E, R>>
} = Effect.fnUntraced(function* <E, R>(options: Options<E, R>): Effect.fn.Return<Hedge<E, R>> {
  const { budgetKey = "default", maxHedges = 1, minSamples = 100, percentile } = options
  const delay = wholeMillis("delay", options.delay)
  const minDelay = wholeMillis("minDelay", options.minDelay ?? 1)
  const maxDelay = wholeMillis("maxDelay", options.maxDelay ?? "Infinity")
  check("percentile", percentile ?? 0.5, "over 0 and under 1", (percentile ?? 0.5) > 0 && (percentile ?? 0.5) < 1)
  check("maxDelay", maxDelay, "at least minDelay", maxDelay >= minDelay)
  check("minSamples", minSamples, "an integer >= 1", Number.isInteger(minSamples) && minSamples >= 1)
  check("maxHedges", maxHedges, "an integer >= 1", Number.isInteger(maxHedges) && maxHedges >= 1)
  const budget = options.budget ?? (yield* RetryBudget.make({ share: 0.1, minPerSecond: 1 }))
  const latencies = percentile === undefined ? undefined : new Latencies(percentile)
  const shared: Shared<E, R> = {
    options,
    maxHedges,
    account: () => budget.accountUnsafe(budgetKey),
    delayMillis: () =>
      latencies === undefined || latencies.samples < minSamples
        ? delay
        : Math.min(maxDelay, Math.max(minDelay, Math.ceil(latencies.value))),
    latencies,
    counts: { calls: 0, hedges: 0, wins: 0, refused: 0 }
  }
  return {
    execute: <A, E1 extends E, R1>(self: Effect.Effect<A, E1, R1>) =>
      Effect.withFiber<A, E1, R | R1>((parent) => {
        let race: Race<A, E1, R> | undefined
        // The first attempt starts inside the region of the exit handler, so no interruption can part the two.
        return Effect.onExitPrimitive(
          Effect.suspend((): Effect.Effect<A, E1> => {
            // The fiber's context holds R1: the type of the returned effect asks for it.
            const work = self as Effect.Effect<A, E1>
            const first = Effect.runForkWith(contextOf(parent, 0))(work)
            const exit = first.pollUnsafe()
            if (exit !== undefined && exit._tag === "Success") return exit
            const started = (race = new Race(shared, parent, work, first))
            return Effect.callback<A, E1>((resume) => started.run(resume))
          }),
          () => race?.end()
        )
      }),
    state: Effect.sync(() => ({ delay: Duration.millis(shared.delayMillis()), ...shared.counts }))
  }
})

/** What all calls of one hedge have in common. */
interface Shared<E, R> {
  readonly options: Options<E, R>
  readonly maxHedges: number
  readonly account: () => RetryBudget.Account
  readonly delayMillis: () => number
  readonly latencies: Latencies | undefined
  readonly counts: { -readonly [K in Exclude<keyof State, "delay">]: number }
}

/** The attempts of one call. Every change is one synchronous step, at the end of an attempt or of a delay. */
class Race<A, E, R> {
  private readonly shared: Shared<E, R>
  private readonly parent: Fiber.Fiber<unknown, unknown>
  private readonly work: Effect.Effect<A, E>
  private readonly account: RetryBudget.Account
  private readonly startedAt: number
  private readonly attempts: Array<Fiber.Fiber<A, E>>
  private resume: (exit: Exit.Exit<A, E>) => void = noop
  private timer: Fiber.Fiber<void> | undefined
  private price: number | undefined
  // The failure that is the answer if all fail, and whether it is a refusal.
  private failure: Exit.Exit<A, E> | undefined
  private refused = true
  private stopped = false
  private done = false
  // While an attempt is in its first synchronous slice: it runs, but is not among the attempts yet.
  private starting = false

  constructor(
    shared: Shared<E, R>,
    parent: Fiber.Fiber<unknown, unknown>,
    work: Effect.Effect<A, E>,
    first: Fiber.Fiber<A, E>
  ) {
    this.shared = shared
    this.parent = parent
    this.work = work
    this.attempts = [first]
    this.account = shared.account()
    this.startedAt = shared.latencies === undefined ? 0 : nowMillisUnsafe(parent)
    this.account.begin(parent)
    shared.counts.calls++
  }

  /** Goes on with the attempt that was started. */
  run(resume: (exit: Exit.Exit<A, E>) => void): void {
    this.resume = resume
    const first = this.attempts[0]
    if (first !== undefined) this.watch(first, 0)
  }

  /** Stops what is still running, and waits for its finalizers. */
  end(): Effect.Effect<void> | undefined {
    this.done = true
    this.timer?.interruptUnsafe()
    // What an attempt does first may end the whole call: then that attempt is known only after this step.
    if (this.starting)
      return Effect.andThen(
        Effect.yieldNow,
        Effect.suspend(() => Fiber.interruptAll(this.attempts))
      )
    const running = this.attempts.filter(isRunning)
    return running.length === 0 ? undefined : Fiber.interruptAll(running)
  }

  private watch(attempt: Fiber.Fiber<A, E>, hedge: number): void {
    attempt.addObserver((exit) => this.ended(exit, hedge))
    if (!this.done && isRunning(attempt)) this.arm()
  }

  private arm(): void {
    if (this.attempts.length > this.shared.maxHedges) return
    const millis = this.shared.delayMillis()
    if (millis === Infinity || millis >= remainingMillisUnsafe(this.parent)) return
    const delay = Duration.millis(millis)
    const timer = Effect.runForkWith(this.parent.context)(this.parent.getRef(Clock.Clock).sleep(delay))
    this.timer = timer
    timer.addObserver((slept) => {
      if (slept._tag === "Failure" || this.done) return
      this.decide(() => {
        if (this.mayStart(undefined)) this.start({ _tag: "Slow", hedge: this.attempts.length, delay })
      })
    })
  }

  private mayStart(error: unknown): boolean {
    const { counts, latencies, maxHedges } = this.shared
    if (this.stopped || this.starting || this.attempts.length > maxHedges) return false
    // Half of all answers take longer than the median: with less time than that, one more does not help.
    if (remainingMillisUnsafe(this.parent) <= (latencies?.median ?? 0)) return false
    const price = this.account.pay(error, this.parent)
    if (price === undefined) {
      counts.refused++
      return false
    }
    this.price = price
    return true
  }

  private start(started: Started<E>): void {
    const { hedge } = started
    const { onHedge } = this.shared.options
    this.timer?.interruptUnsafe()
    this.timer = undefined
    this.shared.counts.hedges++
    emit(
      () => ({
        _tag: "Hedged",
        primitive: "Hedge",
        name: this.shared.options.name,
        hedge,
        error: started._tag === "Failed" ? nameOf(started.error) : undefined
      }),
      this.parent
    )
    const work =
      onHedge === undefined
        ? this.work
        : // The parent's context holds R: the type of `execute` asks for it.
          Effect.andThen(notified("onHedge", onHedge, started) as Effect.Effect<unknown>, this.work)
    this.starting = true
    const attempt = Effect.runForkWith(contextOf(this.parent, hedge))(work)
    this.starting = false
    this.attempts.push(attempt)
    this.watch(attempt, hedge)
  }

  private ended(exit: Exit.Exit<A, E>, hedge: number): void {
    if (this.done) return
    if (exit._tag === "Success") {
      if (hedge > 0) this.shared.counts.wins++
      this.measure(hedge)
      this.account.succeeded?.(this.price)
      return this.answer(exit)
    }
    const failure = exit.cause.reasons.every(Cause.isFailReason) ? exit.cause.reasons[0] : undefined
    if (failure === undefined) return this.answer(exit)
    this.decide(() => this.failed(exit, failure.error))
  }

  private failed(exit: Exit.Exit<A, E>, error: E): void {
    const { options } = this.shared
    if (options.while !== undefined && !options.while(error)) return this.answer(exit)
    const refusal = isRefusal(error)
    if (this.failure === undefined || this.refused || !refusal) {
      this.failure = exit
      this.refused = refusal
    }
    if (refusal || fromError(error) !== undefined) this.stopped = true
    if (!refusal) this.account.failed()
    if (this.mayStart(error)) return this.start({ _tag: "Failed", hedge: this.attempts.length, error })
    if (!this.starting && !this.attempts.some(isRunning)) this.answer(this.failure)
  }

  // Runs what asks the user's functions: when one of them throws, that is a defect of the call, and not of the fiber
  // whose end brought it here.
  private decide(step: () => void): void {
    const exit = Effect.runSyncExit(Effect.sync(step))
    if (Exit.isFailure(exit) && !this.done) this.answer(Exit.failCause(exit.cause))
  }

  private measure(winner: number): void {
    const { latencies } = this.shared
    const first = this.attempts[0]
    if (latencies === undefined || first === undefined) return
    if (winner === 0 || isRunning(first)) latencies.record(nowMillisUnsafe(this.parent) - this.startedAt)
  }

  private answer(exit: Exit.Exit<A, E>): void {
    this.done = true
    this.resume(exit)
  }
}

const contextOf = (parent: Fiber.Fiber<unknown, unknown>, hedge: number): Context.Context<never> =>
  parent.getRef(CurrentHedge) === hedge ? parent.context : Context.add(parent.context, CurrentHedge, hedge)

const isRunning = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.pollUnsafe() === undefined

const noop = () => {}

// Timers cut the fraction of a millisecond off, and would fire before the time is up.
const wholeMillis = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  check(name, millis, "zero or more", millis >= 0)
  return Math.ceil(millis)
}

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`Hedge: ${name} must be ${expected}, got ${value}`)
}
