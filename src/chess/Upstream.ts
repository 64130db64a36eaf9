/**
 * Protects a chess site from this service, and this service from the site.
 *
 * Calls go one after another through the standard policy: deadline, lane, retry, circuit, token bucket, attempt timeout.
 * Streams are opened under the same circuit and bucket but not in the lane, so a long export holds up nothing. What the
 * toolkit refuses becomes an `UpstreamError` here, and nothing above knows which policies there are.
 *
 * A 429 pauses everything to the site, longer each time, and counts for nothing else. A 403 is meant for this client: it
 * opens the circuit at once. A stream counts for the circuit when its first piece has come, or when it breaks.
 */
import { Clock, Duration, Effect, Exit, type Scope, Stream } from "effect"
import { Bulkhead, CircuitBreaker, type Deadline, Policy, RateLimiter, Retry, type Timeout } from "effect-resilience"
import type { Platform } from "./domain/Platform.ts"
import { type UpstreamError, UpstreamTimeout, UpstreamUnavailable } from "./UpstreamError.ts"

/** The policies around one site. */
export interface Upstream {
  /** Makes a call that ends with its answer. */
  readonly call: <A, R>(attempt: Effect.Effect<A, UpstreamUnavailable, R>) => Effect.Effect<A, UpstreamError, R>
  /** Makes a call that ends with a long answer. */
  readonly download: <A, R>(attempt: Effect.Effect<A, UpstreamUnavailable, R>) => Effect.Effect<A, UpstreamError, R>
  /** Makes a call that opens a stream. What becomes of the stream has to be reported. */
  readonly open: <A, R>(attempt: Effect.Effect<A, UpstreamUnavailable, R>) => Effect.Effect<A, UpstreamError, R>
  /** Fails if the circuit would refuse a call made now: for those who have to wait before they can make it. */
  readonly check: Effect.Effect<void, UpstreamError>
  /** Counts how an opened stream went on. */
  readonly report: (outcome: Exit.Exit<void, UpstreamError>) => Effect.Effect<void>
  readonly state: Effect.Effect<State>
  readonly transitions: Stream.Stream<CircuitBreaker.Transition>
}

/** The policies around one site at one moment. */
export interface State {
  readonly circuit: CircuitBreaker.State
  readonly limiter: RateLimiter.State
  /** The calls that run and wait. */
  readonly lane: Bulkhead.State
}

/** The numbers of the policies. */
export interface Options {
  /** The time for one attempt of a call, its body included. Defaults to 10 seconds. */
  readonly attemptTimeout?: Duration.Input | undefined
  /** The time for one attempt to get a long answer, to its end. Defaults to 30 seconds. */
  readonly downloadTimeout?: Duration.Input | undefined
  /** The time for one attempt to open a stream. Defaults to 30 seconds. */
  readonly openTimeout?: Duration.Input | undefined
  /** The time for a call with its waits and retries. Defaults to 120 seconds. */
  readonly deadline?: Duration.Input | undefined
  /** The waits before the retries. Defaults to 0.5, 1 and 2 seconds. */
  readonly retryDelays?: ReadonlyArray<Duration.Input> | undefined
  /** The longest wait a site can ask for that is waited out inside a call. Defaults to 10 seconds. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** Calls to the site at the same time. Defaults to 1. */
  readonly maxConcurrent?: number | undefined
  /** Calls that may wait for their turn. Defaults to 1,000. */
  readonly maxQueued?: number | undefined
  /** Failures in a row that open the circuit. Defaults to 5. */
  readonly circuitFailures?: number | undefined
  /** How long an open circuit refuses. Defaults to 60 seconds. */
  readonly circuitOpenFor?: Duration.Input | undefined
  /** Probes in a row that close it. Defaults to 2. */
  readonly circuitSuccesses?: number | undefined
  /** Requests that may be sent at once after a quiet time. Defaults to 16. */
  readonly rateCapacity?: number | undefined
  /** Requests per second in the long run. Defaults to 8. */
  readonly ratePerSecond?: number | undefined
  /** The longest wait for a token. Defaults to 30 seconds. */
  readonly rateMaxWait?: Duration.Input | undefined
  /** How long at least everything pauses after a 429, a second one in a row, a third … Defaults to 60, 120 and 300 seconds. */
  readonly pauses?: readonly [Duration.Input, ...ReadonlyArray<Duration.Input>] | undefined
  /** How long the circuit stays open after a 403. Defaults to 15 minutes. */
  readonly blockedFor?: Duration.Input | undefined
}

/** Creates the policies of a site. Their log ends with the scope. */
export const make = Effect.fnUntraced(function* (
  platform: Platform,
  options: Options = {}
): Effect.fn.Return<Upstream, never, Scope.Scope> {
  const pauses = (options.pauses ?? ["60 seconds", "120 seconds", "300 seconds"]).map(Duration.fromInputUnsafe)
  const blockedFor = Duration.fromInputUnsafe(options.blockedFor ?? "15 minutes")
  const deadline = options.deadline ?? "120 seconds"
  const circuit = platform

  const circuitBreaker = yield* CircuitBreaker.make({
    failures: options.circuitFailures ?? 5,
    openFor: options.circuitOpenFor ?? "60 seconds",
    successesToClose: options.circuitSuccesses ?? 2,
    maxRetryAfter: "1 day",
    maxKeys: 1,
    classify
  })
  const rateLimiter = yield* RateLimiter.make({
    capacity: options.rateCapacity ?? 16,
    refillPerSecond: options.ratePerSecond ?? 8,
    maxWait: options.rateMaxWait ?? "30 seconds",
    adaptive: { maxPause: "1 day" }
  })
  const lane = yield* Bulkhead.make({
    maxConcurrent: options.maxConcurrent ?? 1,
    maxQueued: options.maxQueued ?? 1_000
  })
  const retry = Retry.make({
    schedule: Retry.delays(options.retryDelays ?? ["0.5 seconds", "1 second", "2 seconds"]),
    while: canSucceedLater,
    maxRetryAfter: options.maxRetryAfter ?? "10 seconds",
    onRetry: ({ attempt, delay, error }) =>
      Effect.logWarning("Retrying a request").pipe(
        Effect.annotateLogs({
          event: "upstream.retry",
          platform,
          attempt,
          reason: reasonOf(error),
          delayMillis: Duration.toMillis(delay)
        })
      )
  })

  const throttled = Effect.fnUntraced(function* (error: UpstreamUnavailable, pause: Pause) {
    const retryAfter = Duration.max(
      error.retryAfter ?? Duration.zero,
      yield* Effect.map(Clock.currentTimeMillis, pause.next)
    )
    yield* rateLimiter.throttled(retryAfter)
    yield* Effect.logWarning("The site asks for fewer requests").pipe(
      Effect.annotateLogs({ event: "upstream.throttled", platform, pauseMillis: Duration.toMillis(retryAfter) })
    )
    return yield* withRetryAfter(error, retryAfter)
  })

  // The site refuses this client, not this request.
  const blocked = Effect.fnUntraced(function* (error: UpstreamUnavailable) {
    const told = withRetryAfter(error, Duration.max(error.retryAfter ?? Duration.zero, blockedFor))
    yield* circuitBreaker.open(circuit, Duration.min(told.retryAfter ?? blockedFor, Duration.days(1)))
    yield* Effect.logError("The site refuses this client").pipe(
      Effect.annotateLogs({ event: "upstream.blocked", platform, status: error.status })
    )
    return yield* told
  })

  const observed = <A, R>(attempt: Effect.Effect<A, UpstreamUnavailable, R>, pause: Pause) =>
    attempt.pipe(
      Effect.tap(() => Effect.sync(pause.over)),
      Effect.catchTag("UpstreamUnavailable", (error) => {
        if (error.reason === "rate-limited") return throttled(error, pause)
        return error.reason === "blocked" ? blocked(error) : Effect.fail(error)
      })
    )

  const parts = { deadline, retry, circuitBreaker, circuit, rateLimiter }
  const calls = Policy.make({ ...parts, bulkhead: lane, timeout: options.attemptTimeout ?? "10 seconds" })
  const downloads = Policy.make({ ...parts, bulkhead: lane, timeout: options.downloadTimeout ?? "30 seconds" })
  const openings = Policy.make({ ...parts, timeout: options.openTimeout ?? "30 seconds" })
  const toUpstreamError = mapError(platform)

  // Each kind of request has limits of its own, and an answer to one does not say that another is welcome again.
  const callPause = makePause(pauses)
  const downloadPause = makePause(pauses)
  const openPause = makePause(pauses)

  yield* circuitBreaker.transitions.pipe(Stream.runForEach(log), Effect.forkScoped({ startImmediately: true }))

  return {
    call: (attempt) => Effect.mapError(calls.execute(observed(attempt, callPause)), toUpstreamError),
    download: (attempt) => Effect.mapError(downloads.execute(observed(attempt, downloadPause)), toUpstreamError),
    open: (attempt) =>
      observed(attempt, openPause).pipe(
        Effect.map((value) => new Opened(value)),
        openings.execute,
        Effect.mapBoth({ onFailure: toUpstreamError, onSuccess: (opened) => opened.value })
      ),
    check: Effect.mapError(circuitBreaker.check(circuit), toUpstreamError),
    report: (outcome) => Effect.ignore(circuitBreaker.execute({ key: circuit })(outcome)),
    state: Effect.all({
      circuit: circuitBreaker.state(circuit),
      limiter: rateLimiter.state,
      lane: lane.state
    }),
    transitions: circuitBreaker.transitions
  }
})

// A stream that has been opened has not shown yet whether it brings anything.
class Opened<A> {
  readonly value: A
  constructor(value: A) {
    this.value = value
  }
}

type Refusal =
  | CircuitBreaker.CircuitOpen
  | RateLimiter.RateLimited
  | Bulkhead.BulkheadFull
  | Deadline.DeadlineExceeded
  | Timeout.TimedOut

// An answer, whatever it says, is a success of the site. What counts against it: no answer, an error of its own, a body
// that is not what it should be. That this service asked too often or wrongly says nothing about the site.
const classify = (exit: Exit.Exit<unknown, unknown>): CircuitBreaker.Outcome => {
  if (Exit.isSuccess(exit)) return exit.value instanceof Opened ? "ignored" : "success"
  return exit.cause.reasons.some((reason) => reason._tag === "Die" || (reason._tag === "Fail" && isFault(reason.error)))
    ? "failure"
    : "ignored"
}

const isFault = (error: unknown): boolean => {
  if (error instanceof UpstreamUnavailable) {
    if (error.reason === "status") return isServerError(error.status)
    return error.reason === "connection" || error.reason === "body" || error.reason === "blocked"
  }
  return error instanceof UpstreamTimeout || (typeof error === "object" && error !== null && isTimedOut(error))
}

const isTimedOut = (error: object): boolean => "_tag" in error && error._tag === "TimedOut"

const isServerError = (status: number | undefined): boolean => status === undefined || status >= 500 || status === 408

const canSucceedLater = (error: UpstreamUnavailable | Refusal): boolean => {
  if (error._tag === "TimedOut") return true
  if (error._tag !== "UpstreamUnavailable") return false
  if (error.reason === "status") return isServerError(error.status)
  return error.reason === "connection" || error.reason === "body" || error.reason === "rate-limited"
}

const reasonOf = (error: UpstreamUnavailable | Refusal): string =>
  error._tag === "UpstreamUnavailable" ? `${error.reason}: ${error.detail}` : error.message

const withRetryAfter = (error: UpstreamUnavailable, retryAfter: Duration.Duration): UpstreamUnavailable =>
  new UpstreamUnavailable({
    platform: error.platform,
    reason: error.reason,
    detail: error.detail,
    status: error.status,
    retryAfter
  })

const mapError =
  (platform: Platform) =>
  (error: UpstreamUnavailable | Refusal): UpstreamError => {
    switch (error._tag) {
      case "UpstreamUnavailable":
        return error
      case "CircuitOpen":
        return new UpstreamUnavailable({
          platform,
          reason: "circuit-open",
          detail: "too many requests have failed",
          retryAfter: error.retryAfter
        })
      case "RateLimited":
        return new UpstreamUnavailable({
          platform,
          reason: "rate-limited",
          detail: "requests to the site are limited",
          retryAfter: error.retryAfter
        })
      case "BulkheadFull":
        return new UpstreamUnavailable({
          platform,
          reason: "overloaded",
          detail: `${error.waiting} requests are waiting`
        })
      case "TimedOut":
      case "DeadlineExceeded":
        return new UpstreamTimeout({ platform, after: error.after })
    }
  }

// How long to pause after the n-th 429 in a row. Those that come while a pause lasts answer requests sent before it.
interface Pause {
  readonly next: (nowMillis: number) => Duration.Duration
  readonly over: () => void
}

const makePause = (pauses: ReadonlyArray<Duration.Duration>): Pause => {
  let inARow = 0
  let until = 0
  return {
    next: (nowMillis) => {
      if (nowMillis >= until) inARow = Math.min(inARow + 1, pauses.length)
      const wait = pauses[inARow - 1] ?? Duration.zero
      until = Math.max(until, nowMillis + Duration.toMillis(wait))
      return wait
    },
    over: () => {
      inARow = 0
      until = 0
    }
  }
}

const log = (transition: CircuitBreaker.Transition) => {
  const { key: platform, to } = transition
  const annotate = Effect.annotateLogs({ event: `circuit.${eventOf[to]}`, platform })
  if (to === "Isolated") return annotate(Effect.logWarning("The circuit is isolated"))
  if (to === "HalfOpen") return annotate(Effect.logInfo("The circuit is half-open: probing the site"))
  if (to === "Closed") return annotate(Effect.logInfo("The circuit is closed again"))
  return Effect.logWarning("The circuit has opened").pipe(
    annotate,
    Effect.annotateLogs({ failures: transition.failures, retryAfterMillis: Duration.toMillis(transition.retryAfter) })
  )
}

const eventOf = { Open: "open", HalfOpen: "half-open", Closed: "closed", Isolated: "isolated" } as const
