/**
 * Makes an `HttpClient` that can be relied on, out of the parts of this package or of a profile (`fromProfile`).
 *
 * Outermost first: deadline → retry → circuit breaker → rate limiter → the server's own quota → timeout → the request.
 * So the deadline bounds all waits and retries; every attempt is counted by the breaker and takes a token, and one that
 * the open circuit refuses takes none; the time of an attempt does not run while it waits for its turn; and each attempt
 * tells the server how much time is really left. Put an `HttpCache` outside: what is kept costs nothing.
 *
 * Only what is safe is sent again (`RetryOptions`). A response that is not the answer gives its connection back before the
 * wait: up to 64 KiB of its body are read, for up to a second, or else it is aborted. Deadline and timeout end with the head
 * of the response; its body may take as long as it likes, but must not pause. When the retries end, the last response is the
 * answer: no status is made an error.
 *
 * Put `HttpClient.followRedirects`, `filterStatus` and `withScope` outside. Circuits, limits and quotas are per origin.
 *
 * | `make` | `key` the origin | `bodyIdleTimeout` 1 minute | `deadlineHeader` "x-request-timeout" in ms | others: not done |
 * | `retry` | `isIdempotent` by method or `Idempotency-Key` | `attemptHeader` none | the others as in `Retry` |
 * | `quota` | `maxWait` 30 seconds | `maxQueued` 1,000 | `maxReset` 1 hour | `maxKeys` 10,000 |
 */
import { Clock, Duration, Effect, Exit, type Schedule, Scope } from "effect"
import { type HttpClient, HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import * as AdaptiveLimit from "../AdaptiveLimit.ts"
import * as AdaptiveThrottle from "../AdaptiveThrottle.ts"
import type { AdaptiveTimeout } from "../AdaptiveTimeout.ts"
import type { Bulkhead } from "../Bulkhead.ts"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import * as Deadline from "../Deadline.ts"
import * as ErrorPattern from "../ErrorPattern.ts"
import * as Hedge from "../Hedge.ts"
import { discard, type Drain, watched } from "../internal/http/body.ts"
import { clientOf, Connection, type Open, type Send } from "../internal/http/connection.ts"
import { Quotas, type Settings } from "../internal/http/quotas.ts"
import * as rateLimitHeaders from "../internal/http/rateLimitHeaders.ts"
import { hasNoBody } from "../internal/http/responses.ts"
import { nowMillisUnsafe } from "../internal/monotonic.ts"
import { adaptiveLimitOf, builders, circuitOf, limitOf, scheduleOf, specsOf } from "../internal/profileParts.ts"
import { isRefusal } from "../internal/refusal.ts"
import * as KeyedRateLimiter from "../KeyedRateLimiter.ts"
import * as Policy from "../Policy.ts"
import type { Added, Timer } from "../Policy.ts"
import * as Profile from "../Profile.ts"
import type { RateLimited } from "../RateLimiter.ts"
import * as Retry from "../Retry.ts"
import * as RetryAfter from "../RetryAfter.ts"
import type { RetryBudget } from "../RetryBudget.ts"
import * as Telemetry from "../Telemetry.ts"
import * as Timeout from "../Timeout.ts"
import * as HttpCache from "./HttpCache.ts"

/** A way to send requests, which adds the errors `E`. */
export interface HttpResilience<out E = never, out R = never> {
  /**
   * A client that sends its requests this way. Several clients of one `HttpResilience` share its circuits, limits and
   * quotas.
   */
  readonly transform: <E1, R1>(
    client: HttpClient.HttpClient.With<E1, R1>
  ) => HttpClient.HttpClient.With<E | E1 | HttpClientError.HttpClientError, R | R1>
  /** Reads what the server of a key has said it will still take. Empty without `quota`. */
  readonly quotas: (key: string) => Effect.Effect<ReadonlyArray<Quota>>
}

/** What a server has said it will still take. */
export interface Quota {
  /** What the server calls it. */
  readonly name: string
  /** What is left, less the requests under way. */
  readonly remaining: number
  /** How long until there is more. */
  readonly resetAfter: Duration.Duration
}

/** The parts around a request. What is left out is not done. */
export interface Options<
  D extends Duration.Input | undefined,
  C extends CircuitBreaker.CircuitBreaker | undefined,
  L extends KeyedRateLimiter.KeyedRateLimiter | undefined,
  Q extends QuotaOptions | undefined,
  T extends Duration.Input | Timer | undefined,
  R
> {
  /** The time for everything until the response begins: over zero. Adds `DeadlineExceeded`. */
  readonly deadline?: D
  /** How failed attempts are repeated. Adds none itself. */
  readonly retry?: RetryOptions<R> | undefined
  /**
   * Where every attempt counts, under the key of its request. Statuses from 500, 408, timeouts and broken connections are
   * failures; a 429 says nothing, because it is about the caller; every other answer is a success. Adds `CircuitOpen`.
   */
  readonly circuitBreaker?: C
  /** Where every attempt takes a token of its key. A 429 slows it down. Adds `RateLimited`. */
  readonly rateLimiter?: L
  /**
   * Heeds what responses say about the limits of their server: `RateLimit`, `X-RateLimit-*` and their relatives, and the
   * `Retry-After` of a 429. Requests wait for the reset instead of being refused by the server. Adds `RateLimited`.
   */
  readonly quota?: Q
  /** The time for each attempt, until its response begins: over zero, or an adaptive timeout. Adds `TimedOut`. */
  readonly timeout?: T
  /** How long a body may pause while it is read: over zero. Defaults to 1 minute. */
  readonly bodyIdleTimeout?: Duration.Input | undefined
  /** Under which circuit, limit and quota a request goes. Defaults to the origin of its URL. */
  readonly key?: ((request: HttpClientRequest.HttpClientRequest, url: URL) => string) | undefined
  /**
   * How the server is told how much time is left: by the deadline, also one of the surroundings, or the timeout, whichever
   * is sooner. Defaults to `x-request-timeout` in milliseconds; nothing is sent where there is no end.
   */
  readonly deadlineHeader?: DeadlineHeader | "none" | undefined
}

/** How the time that is left is written. */
export interface DeadlineHeader {
  /** The name of the header. */
  readonly name: string
  /** A whole number of "millis" or "seconds", or the "grpc" format of the gRPC protocol: "250m", "30S". Defaults to "millis". */
  readonly format?: "millis" | "seconds" | "grpc" | undefined
}

/**
 * Which requests are sent again, when, and how often.
 *
 * A request is sent again if it failed in a way that may be over by then: the connection could not be made or broke
 * (`ErrorPattern.network`), the attempt timed out, or the status was 408, 425, 429, 500, 502, 503 or 504. And if that is
 * safe: its method is idempotent (RFC 9110, 9.2.2) or it has an `Idempotency-Key`, or it has surely not reached the server
 * because no connection was made. And if its body can be sent twice: one that is a stream may be gone.
 *
 * A refusal by breaker, limiter or quota ends the retries, unless there is a deadline and it allows to wait for them.
 */
export interface RetryOptions<R = never> {
  /** The delays between the attempts; the retries end where it ends. It is stepped with each error. */
  readonly schedule: Schedule.Schedule<unknown, unknown, never, R>
  /** Ends the retries after errors of which it is not true. A response is a `ResponseRejected`. Defaults to true of all. */
  readonly while?: ((error: unknown) => boolean) | undefined
  /** The longest `Retry-After` that is waited for; one that asks for more ends the retries. Defaults to 1 minute. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** How long the attempts and the waits may take together. Defaults to unlimited. */
  readonly maxElapsed?: Duration.Input | undefined
  /** What every retry is paid from, by the key of its request. Defaults to unlimited. */
  readonly budget?: RetryBudget | undefined
  /** Runs before each wait, to log or count. Should it die, that is logged and the call goes on. Defaults to nothing. */
  readonly onRetry?: ((failed: Retry.Failed<unknown>) => Effect.Effect<unknown, never, R>) | undefined
  /** Which requests can be repeated without harm. Defaults to `isIdempotent`. */
  readonly isIdempotent?: ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
  /** A header that tells the server the number of the attempt: 1 for the first. Defaults to none. */
  readonly attemptHeader?: string | undefined
}

/** How requests wait for the quota of their server. */
export interface QuotaOptions {
  /** The longest wait for a reset. Defaults to 30 seconds. */
  readonly maxWait?: Duration.Input | undefined
  /** Requests allowed to wait, for all keys together. Defaults to 1,000. */
  readonly maxQueued?: number | undefined
  /** The farthest reset that is believed; a `Retry-After` is cut to it. Defaults to 1 hour. */
  readonly maxReset?: Duration.Input | undefined
  /** Keys remembered: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
}

/** What is done with requests beside what their profile says. */
export interface ProfileOptions {
  /** What an error calls the profile, and its parts are called as metrics and in events. Defaults to "http", and to neither. */
  readonly name?: string | undefined
  /** As in `Options`. Defaults to the origin of the URL. */
  readonly key?: ((request: HttpClientRequest.HttpClientRequest, url: URL) => string) | undefined
  /** As in `Options`. Defaults to 1 minute. */
  readonly bodyIdleTimeout?: Duration.Input | undefined
  /** As in `Options`. Defaults to `x-request-timeout` in milliseconds. */
  readonly deadlineHeader?: DeadlineHeader | "none" | undefined
  /** As in `Options`. Defaults to none. */
  readonly quota?: QuotaOptions | undefined
  /** As in `RetryOptions`. Defaults to `isIdempotent`. */
  readonly isIdempotent?: ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
  /** As in `RetryOptions`. Defaults to none. */
  readonly attemptHeader?: string | undefined
  /** As in `RetryOptions`. Defaults to nothing. */
  readonly onRetry?: ((failed: Retry.Failed<unknown>) => Effect.Effect<unknown>) | undefined
  /** What a profile does not say about its cache. Defaults to what `HttpCache` does. */
  readonly cache?: (Pick<HttpCache.Options, "maxBytes"> & HttpCache.SharingOptions) | undefined
}

/** A way to send requests as a profile says. */
export interface ProfileResilience extends HttpResilience<Profile.Errors> {
  /** The parts that it is made of, to read their states. */
  readonly parts: ProfileParts
}

/** The parts that a profile has, and `undefined` for those it has not. */
export interface ProfileParts {
  readonly adaptiveLimit: AdaptiveLimit.AdaptiveLimit | undefined
  readonly adaptiveThrottle: AdaptiveThrottle.AdaptiveThrottle | undefined
  readonly bulkhead: Bulkhead | undefined
  readonly cache: HttpCache.HttpCache | undefined
  readonly circuitBreaker: CircuitBreaker.CircuitBreaker | undefined
  readonly hedge: Hedge.Hedge | undefined
  readonly rateLimiter: KeyedRateLimiter.KeyedRateLimiter | undefined
  readonly retryBudget: RetryBudget | undefined
  readonly timeout: Duration.Duration | AdaptiveTimeout | undefined
}

/**
 * A response that says the request could not be served, as retry and breaker see it. Callers never get it as an error: to
 * them it is the response it was.
 */
export class ResponseRejected {
  readonly _tag = "ResponseRejected"
  readonly response: HttpClientResponse.HttpClientResponse
  /** How long the response asks to wait, if it does. */
  readonly retryAfter: Duration.Duration | undefined

  constructor(response: HttpClientResponse.HttpClientResponse, retryAfter: Duration.Duration | undefined) {
    this.response = response
    this.retryAfter = retryAfter
  }

  /** Its status. */
  get status(): number {
    return this.response.status
  }
}

/** The errors that the parts add. */
export type Errors<D, C, L, Q, T> =
  | Added<D, Deadline.DeadlineExceeded>
  | Added<C, CircuitBreaker.CircuitOpen>
  | Added<L | Q, RateLimited>
  | Added<T, Timeout.TimedOut>

/** Puts the parts together. Options that make no sense are a defect, not an error. */
export const make = <
  D extends Duration.Input | undefined = undefined,
  C extends CircuitBreaker.CircuitBreaker | undefined = undefined,
  L extends KeyedRateLimiter.KeyedRateLimiter | undefined = undefined,
  Q extends QuotaOptions | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  R = never
>(
  options: Options<D, C, L, Q, T, R>
): Effect.Effect<HttpResilience<Errors<D, C, L, Q, T>, R>> =>
  Effect.sync(() => {
    const { circuitBreaker, rateLimiter, retry, timeout } = options
    const resilience = resilienceOf({
      ...commonOf(options),
      order: "standard",
      deadline: positive("deadline", options.deadline),
      timeout: isTimer(timeout) ? timeout : positive("timeout", timeout),
      admission: undefined,
      // The services of its hooks are those of R.
      retry: retry === undefined ? undefined : { options: retry as RetryOptions<unknown>, pattern: undefined },
      hedge: undefined,
      circuitBreaker: circuitBreaker === undefined ? undefined : judging(circuitBreaker),
      adaptiveThrottle: undefined,
      rateLimiter,
      isRejection
    })
    // What the options say in types: each part is there or not, and adds its error or not.
    return resilience as HttpResilience<Errors<D, C, L, Q, T>, R>
  })

/**
 * Makes what a profile says, around requests: of data that `Profile.decode` accepts, or of a profile. Outermost first:
 * cache → deadline → bulkhead or limit → retry → hedge → circuit breaker → adaptive throttle → rate limiter → the server's own
 * quota → timeout → the request; or the order of `Policy.makeFacade`.
 *
 * What the profile retries is retried only where that is safe, as with `make`, and hedges are for GET, HEAD, OPTIONS, TRACE
 * and QUERY only. Its patterns see a response as a `ResponseRejected` with a `status`. The place in the bulkhead or limit is
 * held until the body has ended: read it, or put `HttpClient.withScope` around. Circuits, limits and retry budgets are per
 * origin, everything else is shared by all requests.
 *
 * The cache is an `HttpCache`, for which `timeToLive`, `staleIfError` and `staleWhileRevalidate` hold where the server does
 * not say. What HTTP has no meaning for is an `InvalidProfile` that names the field: `cache.failureTimeToLive`,
 * `cache.idleTimeToLive`, `cache.jitter` and `cache.refresh.ahead`.
 */
export const fromProfile = Effect.fnUntraced(function* (
  input: unknown,
  options: ProfileOptions = {}
): Effect.fn.Return<ProfileResilience, Profile.InvalidProfile, Scope.Scope> {
  const { attemptHeader, isIdempotent, name, onRetry } = options
  const profile = yield* Profile.decode(name ?? "http", input)
  const issues = unsuitable(profile)
  if (issues.length > 0) return yield* new Profile.InvalidProfile({ profile: name ?? "http", issues })

  const { order = "standard", retry } = profile
  const specs = specsOf(profile)
  const patterns = [retry?.while, profile.hedge?.while, profile.circuitBreaker?.failure].flatMap((spec) =>
    spec === undefined ? [] : [ErrorPattern.fromSpec(spec)]
  )
  const timeout = yield* ifGiven(profile.timeout, (spec) => builders.timeout(spec, {}))
  const retryBudget = yield* ifGiven(specs.retryBudget, (spec) => builders.retryBudget(spec, {}))
  const hedgeBudget = yield* ifGiven(specs.hedgeBudget, (spec) => builders.hedgeBudget(spec, {}))
  const bulkhead = yield* ifGiven(profile.bulkhead, (spec) => builders.bulkhead(spec, {}, name))
  const adaptiveLimit = yield* ifGiven(profile.adaptiveLimit, (spec) =>
    AdaptiveLimit.make({ ...adaptiveLimitOf(spec), name, classify: classifyLoad })
  )
  const hedge = yield* ifGiven(profile.hedge, ({ while: pattern, ...others }) => {
    const mayHedge = pattern === undefined ? isHedged : ErrorPattern.fromSpec(pattern)
    return Hedge.make<unknown>({ ...others, name, while: mayHedge, budget: hedgeBudget })
  })
  const circuitBreaker = yield* ifGiven(profile.circuitBreaker, ({ failure, ignored, ...spec }) =>
    CircuitBreaker.make({ ...circuitOf(spec), name, classify: classifyBy(failure, ignored) })
  )
  const adaptiveThrottle = yield* ifGiven(profile.adaptiveThrottle, (spec) =>
    AdaptiveThrottle.make({ ...spec, name, classify: classifyAccepted })
  )
  const rateLimiter = yield* ifGiven(profile.rateLimiter, (spec) => {
    const { adaptive, maxQueued, maxWait } = spec
    return KeyedRateLimiter.make({ ...limitOf(spec), name, adaptive, maxQueued, maxWait })
  })
  const cache = yield* ifGiven(profile.cache, ({ capacity = 1000, refresh, staleIfError, timeToLive }) =>
    HttpCache.make({
      ...options.cache,
      capacity,
      timeToLive,
      staleIfError,
      staleWhileRevalidate: refresh?.staleWhileRevalidate,
      maxRefreshes: refresh?.maxConcurrent
    })
  )
  if (name !== undefined) {
    const adaptiveTimeout = Duration.isDuration(timeout) ? undefined : timeout
    const keyedRateLimiter = rateLimiter
    yield* Telemetry.observe(name, {
      adaptiveLimit,
      adaptiveThrottle,
      adaptiveTimeout,
      bulkhead,
      circuitBreaker,
      hedge,
      keyedRateLimiter,
      retryBudget
    })
  }

  const { quotas, transform } = resilienceOf({
    ...commonOf(options),
    order,
    deadline: profile.deadline,
    timeout,
    admission: bulkhead ?? adaptiveLimit,
    retry: retry && {
      options: {
        schedule: scheduleOf(retry),
        maxRetryAfter: retry.maxRetryAfter,
        maxElapsed: retry.maxElapsed,
        budget: retryBudget,
        attemptHeader,
        isIdempotent,
        onRetry
      },
      pattern: retry.while && ErrorPattern.fromSpec(retry.while)
    },
    hedge,
    circuitBreaker,
    adaptiveThrottle,
    rateLimiter,
    // Of a pattern only its statuses can match what has nothing but a status.
    isRejection: (status) => isRejection(status) || patterns.some((pattern) => pattern({ status }))
  })
  const made = {
    transform: (client: HttpClient.HttpClient.With<unknown, unknown>) => {
      const sending = transform(client)
      return cache === undefined ? sending : cache.transform(sending)
    },
    quotas,
    parts: {
      adaptiveLimit,
      adaptiveThrottle,
      bulkhead,
      cache,
      circuitBreaker,
      hedge,
      rateLimiter,
      retryBudget,
      timeout
    }
  }
  // Which errors the parts of a profile can add is known, where the pipeline knows of none.
  return made as unknown as ProfileResilience
})

/** Whether a request may be repeated: its method is idempotent (RFC 9110, 9.2.2), or it has an `Idempotency-Key`. */
export const isIdempotent = (request: HttpClientRequest.HttpClientRequest): boolean =>
  idempotentMethods.has(request.method) || request.headers["idempotency-key"] !== undefined

/** Whether an error says that the request has not reached the server: no connection was made, or none was tried. */
export const isUnsent: ErrorPattern.ErrorPattern = (error) => isRefusal(error) || noConnection(error)

/** Reads the end of an attempt as a circuit breaker should: see `Options.circuitBreaker`. */
export const classify = (exit: Exit.Exit<unknown, unknown>): CircuitBreaker.Outcome => classifyError(exit)

const classifier =
  (outcomeOf: (error: unknown) => CircuitBreaker.Outcome) =>
  (exit: Exit.Exit<unknown, unknown>): CircuitBreaker.Outcome => {
    if (exit._tag === "Success") return "success"
    let worst: CircuitBreaker.Outcome = "ignored"
    for (const reason of exit.cause.reasons) {
      const outcome =
        reason._tag === "Die" ? "failure" : reason._tag === "Interrupt" ? "ignored" : outcomeOf(reason.error)
      if (outcome === "failure") return outcome
      if (outcome === "success") worst = outcome
    }
    return worst
  }

const ifGiven = <S, A>(
  spec: S | undefined,
  make: (spec: S) => Effect.Effect<A, never, Scope.Scope>
): Effect.Effect<A | undefined, never, Scope.Scope> => (spec === undefined ? Effect.undefined : make(spec))

// What a cache of HTTP cannot do, and how much of it is nothing.
const unsuitable = ({ cache }: Profile.Profile): Array<Profile.Issue> => {
  if (cache === undefined) return []
  const issues: Array<Profile.Issue> = []
  const refuse = (field: string, problem: string, wrong: boolean) => {
    if (wrong) issues.push({ field: `cache.${field}`, problem })
  }
  const { failureTimeToLive = 0, idleTimeToLive = "Infinity", jitter = 0, refresh, timeToLive } = cache
  refuse("timeToLive", "must be at most 2^31 seconds for HTTP", Duration.toSeconds(timeToLive) > 2 ** 31)
  refuse(
    "failureTimeToLive",
    "must be left out for HTTP: an error is no response",
    Duration.toMillis(failureTimeToLive) > 0
  )
  refuse(
    "idleTimeToLive",
    "must be left out for HTTP: use does not make a response stale",
    Duration.toMillis(idleTimeToLive) < Infinity
  )
  refuse("jitter", "must be left out for HTTP: a response is fresh for as long as it says", jitter > 0)
  refuse("refresh.ahead", "must be left out for HTTP: a fresh response is not refreshed", (refresh?.ahead ?? 0) > 0)
  return issues
}

type Response = HttpClientResponse.HttpClientResponse
type Attempt = Effect.Effect<Response, unknown, unknown>
type Part = (self: Attempt) => Attempt

// What is done with every request.
interface Plan {
  readonly order: "standard" | "facade"
  readonly deadline: Duration.Duration | undefined
  readonly timeout: Duration.Duration | Timer | undefined
  readonly admission: Bulkhead | AdaptiveLimit.AdaptiveLimit | undefined
  readonly retry: Repeats | undefined
  readonly hedge: Hedge.Hedge | undefined
  readonly circuitBreaker: CircuitBreaker.CircuitBreaker | undefined
  readonly adaptiveThrottle: AdaptiveThrottle.AdaptiveThrottle | undefined
  readonly rateLimiter: KeyedRateLimiter.KeyedRateLimiter | undefined
  readonly quotas: Quotas | undefined
  readonly idle: Duration.Duration
  readonly keyOf: (request: HttpClientRequest.HttpClientRequest, url: URL) => string
  readonly deadlineHeader: DeadlineHeader | "none"
  /** Whether retry, hedge and breaker hear of a response with this status. The other ones are answers. */
  readonly isRejection: (status: number) => boolean
}

interface Repeats {
  readonly options: RetryOptions<unknown>
  /** The errors that may be over by the next attempt, and the refusals to wait for. Defaults to those of `RetryOptions`. */
  readonly pattern: ErrorPattern.ErrorPattern | undefined
}

interface CommonOptions {
  readonly quota?: QuotaOptions | undefined
  readonly bodyIdleTimeout?: Duration.Input | undefined
  readonly key?: ((request: HttpClientRequest.HttpClientRequest, url: URL) => string) | undefined
  readonly deadlineHeader?: DeadlineHeader | "none" | undefined
}

const commonOf = (options: CommonOptions) => ({
  quotas: options.quota === undefined ? undefined : new Quotas(toSettings(options.quota)),
  idle: positive("bodyIdleTimeout", options.bodyIdleTimeout) ?? Duration.minutes(1),
  keyOf: options.key ?? originOf,
  deadlineHeader: options.deadlineHeader ?? { name: "x-request-timeout" }
})

const resilienceOf = (plan: Plan): HttpResilience<unknown, unknown> => {
  const send = pipeline(plan)
  return {
    transform: (client) => clientOf(client, send),
    quotas: (key) =>
      Effect.withFiberSucceed((fiber) =>
        (plan.quotas?.state(key, fiber) ?? []).map(({ name, remaining, resetMillis }) => ({
          name,
          remaining,
          resetAfter: Duration.millis(resetMillis)
        }))
      )
  }
}

const pipeline = (plan: Plan) => {
  const { adaptiveThrottle, admission, circuitBreaker, deadline, deadlineHeader, hedge, quotas, rateLimiter, retry } =
    plan
  const { inTime, timeoutMillis } = timing(plan.timeout)
  const isFacade = plan.order === "facade"

  return (open: Open<unknown, unknown>): Send<unknown, unknown> =>
    (request, url, signal) =>
      Effect.withFiber((caller) => {
        const key = plan.keyOf(request, url)
        // Those of attempts that are under way, and of a response that may be the answer.
        const opened = new Set<Connection>()
        const place = admission === undefined ? undefined : Scope.makeUnsafe()
        // Of all attempts together.
        let endsAt = Infinity

        const close = (connection: Connection): Effect.Effect<void> =>
          Effect.suspend(() => {
            opened.delete(connection)
            return connection.close
          })

        const send = (connection: Connection): Attempt =>
          Effect.withFiber((fiber) => {
            let toSend = request
            const timeLeft = isFacade ? Math.max(0, endsAt - nowMillisUnsafe(fiber)) : timeoutMillis
            const millis = Math.min(timeLeft, Deadline.remainingMillisUnsafe(fiber))
            if (deadlineHeader !== "none" && millis < Infinity) {
              toSend = HttpClientRequest.setHeader(toSend, deadlineHeader.name, written(millis, deadlineHeader))
            }
            if (retry?.options.attemptHeader !== undefined) {
              const number = String(fiber.getRef(Retry.CurrentAttempt))
              toSend = HttpClientRequest.setHeader(toSend, retry.options.attemptHeader, number)
            }
            return open(toSend, connection)
          })

        // What a response says reaches the parts around the attempt before they hear that it has ended.
        const judged = (response: Response, connection: Connection): Attempt =>
          Effect.withFiber((fiber): Attempt => {
            const nowMillis = fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
            quotas?.learn(key, rateLimitHeaders.parse(response.headers, nowMillis), fiber)
            const answer = watched(response, connection, plan.idle)
            connections.set(answer, connection)
            if (!plan.isRejection(response.status)) return Effect.succeed(answer)
            const retryAfter = retryAfterOf(response, nowMillis)
            const rejected = Effect.fail(new ResponseRejected(answer, retryAfter))
            if (response.status !== 429) return rejected
            if (retryAfter !== undefined) quotas?.pause(key, Duration.toMillis(retryAfter), fiber)
            return rateLimiter === undefined
              ? rejected
              : Effect.andThen(rateLimiter.throttled({ key, retryAfter }), rejected)
          })

        const attempt: Attempt = Effect.suspend(() => {
          const connection = new Connection()
          opened.add(connection)
          const sent = isFacade ? send(connection) : inTime(send(connection))
          return Effect.flatMap(
            Effect.onExitPrimitive(sent, (exit) => (exit._tag === "Failure" ? close(connection) : undefined)),
            (response) => judged(response, connection)
          )
        })

        const limited: Part = (self) => {
          const within = quotas === undefined ? self : quotas.execute(key, self)
          return rateLimiter === undefined ? within : rateLimiter.execute({ key })(within)
        }

        const overall: Part = (self) =>
          Effect.withFiber((fiber) => {
            endsAt = nowMillisUnsafe(fiber) + timeoutMillis
            return inTime(self)
          })

        // The responses that lose are given up.
        const raced =
          (hedge: Hedge.Hedge): Part =>
          (self) =>
            Effect.onExitPrimitive(hedge.execute(self), (exit) => {
              const answer = responseOf(exit)
              const kept = answer === undefined ? undefined : connections.get(answer)
              const others = Array.from(opened).filter((connection) => connection !== kept)
              return others.length === 0 ? undefined : Effect.forEach(others, close, { discard: true })
            })

        const hasDeadline = deadline !== undefined || Deadline.remainingMillisUnsafe(caller) < Infinity
        const parts = {
          deadline,
          bulkhead: admission === undefined || place === undefined ? undefined : holding(admission, place),
          circuitBreaker,
          circuit: key,
          retry: retry === undefined ? undefined : retryOf(retry, request, key, hasDeadline, close),
          hedge: hedge === undefined || !isSafe(request) ? undefined : { ...hedge, execute: partOf(raced(hedge)) },
          adaptiveThrottle,
          rateLimiter: quotas === undefined && rateLimiter === undefined ? undefined : { execute: partOf(limited) },
          timeout: isFacade && plan.timeout !== undefined ? { execute: partOf(overall) } : undefined
        }
        const policy: Policy.Policy<unknown, unknown, unknown> = isFacade
          ? Policy.makeFacade(parts)
          : Policy.make(parts)
        const call: Attempt = Effect.catchIf(policy.execute(attempt), isRejected, ({ response }) =>
          Effect.succeed(response)
        )

        // From here on the response belongs to whoever asked for it, who gives it up by the signal.
        signal.addEventListener("abort", () => opened.forEach((connection) => connection.closeUnsafe()), { once: true })
        return Effect.onExitPrimitive(call, (exit) => {
          const leave = place === undefined ? Effect.void : Scope.close(place, Exit.void)
          if (exit._tag === "Failure")
            return Effect.andThen(Effect.forEach([...opened], close, { discard: true }), leave)
          if (place === undefined) return undefined
          // Nobody has to read a body that is not there.
          return isEmpty(exit.value) ? leave : connections.get(exit.value)?.onClose(leave)
        })
      })
}

// Nothing that lives as long as a connection may hold its response: one that nobody reads is to become garbage.
const connections = new WeakMap<Response, Connection>()

const isRejected = (error: unknown): error is ResponseRejected => error instanceof ResponseRejected

const responseOf = (exit: Exit.Exit<Response, unknown>): Response | undefined => {
  if (exit._tag === "Success") return exit.value
  for (const reason of exit.cause.reasons) {
    if (reason._tag === "Fail" && isRejected(reason.error)) return reason.error.response
  }
  return undefined
}

const isEmpty = (response: Response): boolean =>
  hasNoBody(response) || response.headers["content-length"]?.trim() === "0"

// The parts of a policy take calls of all types, and these get those of one request.
const partOf = (part: Part) => part as <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

// A response that is rejected may be the answer as well, and its body needs the place too.
const holding = (admission: Bulkhead | AdaptiveLimit.AdaptiveLimit, place: Scope.Scope): Policy.Admission => {
  const hold: Part = (self) => {
    const ended: Effect.Effect<Response | ResponseRejected, unknown, unknown> = Effect.catchIf(
      self,
      isRejected,
      Effect.succeed
    )
    return Effect.flatMap(
      Effect.provideService(admission.executeScoped(ended), Scope.Scope, place),
      (answer): Attempt => (isRejected(answer) ? Effect.fail(answer) : Effect.succeed(answer))
    )
  }
  return { execute: partOf(hold) }
}

// Counts by `classify`, whatever the breaker would do.
const judging = (breaker: CircuitBreaker.CircuitBreaker): CircuitBreaker.CircuitBreaker => ({
  ...breaker,
  execute: ({ key }: { readonly key: string }) => partOf(breaker.execute<Response, unknown>({ key, classify }))
})

const timing = (
  timeout: Duration.Duration | Timer | undefined
): { readonly inTime: Part; readonly timeoutMillis: number } => {
  if (timeout === undefined) return { inTime: (self) => self, timeoutMillis: Infinity }
  if (isTimer(timeout)) return { inTime: timeout.execute, timeoutMillis: Infinity }
  return { inTime: Timeout.timeout(timeout), timeoutMillis: Duration.toMillis(timeout) }
}

const isTimer = (timeout: Duration.Input | Timer | undefined): timeout is Timer =>
  typeof timeout === "object" && "execute" in timeout

const retryOf = (
  { options, pattern }: Repeats,
  request: HttpClientRequest.HttpClientRequest,
  key: string,
  hasDeadline: boolean,
  close: (connection: Connection) => Effect.Effect<void>
): Retry.Retry<unknown, unknown> => {
  const replayable = isReplayable(request)
  const idempotent = (options.isIdempotent ?? isIdempotent)(request)
  const mayRepeat = (error: unknown): boolean => {
    if (!replayable || options.while?.(error) === false) return false
    // Whoever refused it has said how long to wait, and nobody but a deadline says whether that is too long.
    if (isRefusal(error)) return pattern === undefined ? hasDeadline : pattern(error)
    return (pattern ?? isTransient)(error) && (idempotent || noConnection(error))
  }
  const { budget, maxElapsed, maxRetryAfter, onRetry, schedule } = options
  return Retry.make<unknown, unknown>({
    schedule,
    while: mayRepeat,
    maxRetryAfter,
    maxElapsed,
    budget,
    budgetKey: key,
    onRetry: (failed) => {
      const response = isRejected(failed.error) ? failed.error.response : undefined
      const connection = response === undefined ? undefined : connections.get(response)
      const freed =
        response === undefined || connection === undefined
          ? Effect.void
          : Effect.andThen(discard(response, connection, drain), close(connection))
      return onRetry === undefined ? freed : Effect.andThen(freed, onRetry(failed))
    }
  })
}

// A body of an error is short, or not worth the time: a new connection costs less.
const drain: Drain = { maxBytes: 64 * 1024, maxTime: Duration.seconds(1) }

// Requests that change nothing (RFC 9110, 9.2.1): they can be under way twice.
const isSafe = (request: HttpClientRequest.HttpClientRequest): boolean =>
  safeMethods.has(request.method) && isReplayable(request)

const safeMethods: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"])

// QUERY is safe, and so idempotent (draft-ietf-httpbis-safe-method-w-body).
const idempotentMethods: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PUT", "DELETE"])

// A stream can often be read once only, and nothing tells which can not.
const isReplayable = ({ body }: HttpClientRequest.HttpClientRequest): boolean => {
  switch (body._tag) {
    case "Empty":
    case "Uint8Array":
    case "FormData":
      return true
    case "Raw":
      return typeof body.body === "string" || ArrayBuffer.isView(body.body) || body.body instanceof URLSearchParams
    case "Stream":
      return false
  }
}

// Statuses that retry or breaker look at. The other ones are answers.
const isRejection = (status: number): boolean => status >= 500 || status === 408 || status === 425 || status === 429

const transientStatuses: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504])

const isTransient = (error: unknown): boolean => {
  if (error instanceof ResponseRejected) return transientStatuses.has(error.status)
  if (error instanceof Timeout.TimedOut || ErrorPattern.network(error)) return true
  return (
    HttpClientError.isHttpClientError(error) &&
    error.reason._tag === "StatusCodeError" &&
    transientStatuses.has(error.reason.response.status)
  )
}

const noConnection = ErrorPattern.code(
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT"
)

const isUnsendable = (error: unknown): boolean =>
  HttpClientError.isHttpClientError(error) &&
  (error.reason._tag === "EncodeError" || error.reason._tag === "InvalidUrlError")

const outcomeOf = (error: unknown): CircuitBreaker.Outcome => {
  if (error instanceof ResponseRejected) return outcomeOfStatus(error.status)
  if (isRefusal(error)) return "ignored"
  if (!HttpClientError.isHttpClientError(error)) return "failure"
  const { reason } = error
  switch (reason._tag) {
    case "TransportError":
      return "failure"
    // The request itself was wrong, and was not sent.
    case "EncodeError":
    case "InvalidUrlError":
      return "ignored"
    case "StatusCodeError":
    case "DecodeError":
    case "EmptyBodyError":
      return outcomeOfStatus(reason.response.status)
  }
}

const classifyError = classifier(outcomeOf)

const outcomeOfStatus = (status: number): CircuitBreaker.Outcome =>
  status >= 500 || status === 408 ? "failure" : status === 429 ? "ignored" : "success"

// A refusal that is admitted ends the hedging, but not the attempt that is under way.
const isHedged = (error: unknown): boolean => isRefusal(error) || isTransient(error)

// What a profile says comes first; refusals and requests that were wrong by themselves say nothing in any case.
const classifyBy = (failure: ErrorPattern.Spec | undefined, ignored: ErrorPattern.Spec | undefined) => {
  const isFailure = failure && ErrorPattern.fromSpec(failure)
  const isIgnored = ignored && ErrorPattern.fromSpec(ignored)
  return classifier((error) => {
    if (isRefusal(error) || isIgnored?.(error) === true) return "ignored"
    if (isFailure === undefined) return outcomeOf(error)
    return isFailure(error) ? "failure" : isUnsendable(error) ? "ignored" : "success"
  })
}

const isBusy = ({ retryAfter, status }: ResponseRejected): boolean =>
  retryAfter !== undefined || status === 429 || status === 503

// The limit gets a rejected response as an answer, because that keeps its place.
const classifyLoad = (exit: Exit.Exit<unknown, unknown>): AdaptiveLimit.Outcome => {
  if (exit._tag === "Failure" || !isRejected(exit.value)) return AdaptiveLimit.classify(exit)
  return isBusy(exit.value) ? "dropped" : exit.value.status >= 500 ? "ignored" : "success"
}

const classifyAccepted = (exit: Exit.Exit<unknown, unknown>): AdaptiveThrottle.Outcome => {
  const isBusyReason =
    exit._tag === "Failure" &&
    exit.cause.reasons.some((reason) => reason._tag === "Fail" && isRejected(reason.error) && isBusy(reason.error))
  return isBusyReason ? "rejected" : AdaptiveThrottle.classify(exit)
}

const retryAfterOf = (
  { headers }: HttpClientResponse.HttpClientResponse,
  nowMillis: number
): Duration.Duration | undefined => {
  // A finer form of the same, of Azure and OpenAI.
  const millis = headers["retry-after-ms"]?.trim() ?? ""
  if (/^\d{1,15}(\.\d+)?$/.test(millis)) return Duration.millis(Number(millis))
  const value = headers["retry-after"]
  return value === undefined ? undefined : RetryAfter.parse(value, nowMillis)
}

const originOf = (_: HttpClientRequest.HttpClientRequest, url: URL): string => url.origin

const written = (millis: number, { format = "millis" }: DeadlineHeader): string => {
  // Rounded down: the server must not believe that it has more time than it has.
  if (format === "millis") return String(Math.floor(millis))
  if (format === "seconds") return String(Math.floor(millis / 1000))
  // At most eight digits (gRPC over HTTP/2, "Timeout").
  if (millis < 1e8) return `${Math.floor(millis)}m`
  const seconds = Math.floor(millis / 1000)
  return seconds < 1e8 ? `${seconds}S` : `${Math.min(99_999_999, Math.floor(seconds / 3600))}H`
}

const toSettings = (options: QuotaOptions): Settings => {
  const maxQueued = options.maxQueued ?? 1_000
  const maxKeys = options.maxKeys ?? 10_000
  const maxWaitMillis = Duration.toMillis(options.maxWait ?? "30 seconds")
  const maxResetMillis = Duration.toMillis(options.maxReset ?? "1 hour")
  check("quota.maxWait", maxWaitMillis, "zero or more", maxWaitMillis >= 0)
  check("quota.maxQueued", maxQueued, "an integer >= 0", Number.isInteger(maxQueued) && maxQueued >= 0)
  check("quota.maxReset", maxResetMillis, "over zero and finite", maxResetMillis > 0 && maxResetMillis < Infinity)
  check("quota.maxKeys", maxKeys, "an integer >= 1", Number.isInteger(maxKeys) && maxKeys >= 1)
  return { maxQueued, maxKeys, maxWaitMillis, maxResetMillis }
}

const positive = (name: string, value: Duration.Input | undefined): Duration.Duration | undefined => {
  if (value === undefined) return undefined
  const duration = Duration.fromInputUnsafe(value)
  const millis = Duration.toMillis(duration)
  check(name, millis, "over zero", millis > 0)
  return duration
}

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`HttpResilience: ${name} must be ${expected}, got ${value}`)
}
