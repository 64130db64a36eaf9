/**
 * Makes an `HttpClient` that can be relied on, out of the parts of this package.
 *
 * Outermost first: deadline → retry → circuit breaker → rate limiter → the server's own quota → timeout → the request.
 * So the deadline bounds all waits and retries; every attempt is counted by the breaker and takes a token, and one that
 * the open circuit refuses takes none; the time of an attempt does not run while it waits for its turn; and each attempt
 * tells the server how much time is really left. Put an `HttpCache` outside: what is kept costs nothing.
 *
 * Only what is safe is sent again (`RetryOptions`). A response that is not the answer gives its connection back before the
 * wait: up to 64 KiB of its body are read, for up to a second, or else it is aborted. Deadline and timeout end with the head of the response; its body may take as long as
 * it likes, but must not pause. When the retries end, the last response is the answer: no status is made an error.
 *
 * Put `HttpClient.followRedirects`, `filterStatus` and `withScope` outside. Circuits, limits and quotas are per origin.
 *
 * | `make` | `key` the origin | `bodyIdleTimeout` 1 minute | `deadlineHeader` "x-request-timeout" in ms | others: not done |
 * | `retry` | `isIdempotent` by method or `Idempotency-Key` | `attemptHeader` none | the others as in `Retry` |
 * | `quota` | `maxWait` 30 seconds | `maxQueued` 1,000 | `maxReset` 1 hour | `maxKeys` 10,000 |
 */
import { Clock, Duration, Effect, type Exit, type Schedule } from "effect"
import { type HttpClient, HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { type CircuitBreaker, CircuitOpen, type Outcome } from "../CircuitBreaker.ts"
import * as Deadline from "../Deadline.ts"
import * as ErrorPattern from "../ErrorPattern.ts"
import { discard, type Drain, watched } from "../internal/http/body.ts"
import { clientOf, Connection, type Open, type Send } from "../internal/http/connection.ts"
import { Quotas, type Settings } from "../internal/http/quotas.ts"
import * as rateLimitHeaders from "../internal/http/rateLimitHeaders.ts"
import { isRefusal } from "../internal/refusal.ts"
import type { KeyedRateLimiter } from "../KeyedRateLimiter.ts"
import type { Added, Timer } from "../Policy.ts"
import type { RateLimited } from "../RateLimiter.ts"
import * as Retry from "../Retry.ts"
import * as RetryAfter from "../RetryAfter.ts"
import type { RetryBudget } from "../RetryBudget.ts"
import * as Timeout from "../Timeout.ts"

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
  C extends CircuitBreaker | undefined,
  L extends KeyedRateLimiter | undefined,
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
  | Added<C, CircuitOpen>
  | Added<L | Q, RateLimited>
  | Added<T, Timeout.TimedOut>

/** Puts the parts together. Options that make no sense are a defect, not an error. */
export const make = <
  D extends Duration.Input | undefined = undefined,
  C extends CircuitBreaker | undefined = undefined,
  L extends KeyedRateLimiter | undefined = undefined,
  Q extends QuotaOptions | undefined = undefined,
  T extends Duration.Input | Timer | undefined = undefined,
  R = never
>(
  options: Options<D, C, L, Q, T, R>
): Effect.Effect<HttpResilience<Errors<D, C, L, Q, T>, R>> =>
  Effect.sync(() => {
    const quotas = options.quota === undefined ? undefined : new Quotas(toSettings(options.quota))
    const send = pipeline(options, quotas)
    const resilience: HttpResilience<unknown, unknown> = {
      transform: (client) => clientOf(client, send),
      quotas: (key) =>
        Effect.withFiberSucceed((fiber) =>
          (quotas?.state(key, fiber) ?? []).map(({ name, remaining, resetMillis }) => ({
            name,
            remaining,
            resetAfter: Duration.millis(resetMillis)
          }))
        )
    }
    // What the options say in types: each part is there or not, and adds its error or not.
    return resilience as HttpResilience<Errors<D, C, L, Q, T>, R>
  })

/** Whether a request may be repeated: its method is idempotent (RFC 9110, 9.2.2), or it has an `Idempotency-Key`. */
export const isIdempotent = (request: HttpClientRequest.HttpClientRequest): boolean =>
  idempotentMethods.has(request.method) || request.headers["idempotency-key"] !== undefined

/** Whether an error says that the request has not reached the server: no connection was made, or none was tried. */
export const isUnsent: ErrorPattern.ErrorPattern = (error) => isRefusal(error) || noConnection(error)

/** Reads the end of an attempt as a circuit breaker should: see `Options.circuitBreaker`. */
export const classify = (exit: Exit.Exit<unknown, unknown>): Outcome => {
  if (exit._tag === "Success") return "success"
  let worst: Outcome = "ignored"
  for (const reason of exit.cause.reasons) {
    const outcome =
      reason._tag === "Die" ? "failure" : reason._tag === "Interrupt" ? "ignored" : outcomeOf(reason.error)
    if (outcome === "failure") return outcome
    if (outcome === "success") worst = outcome
  }
  return worst
}

type AnyOptions = Options<
  Duration.Input | undefined,
  CircuitBreaker | undefined,
  KeyedRateLimiter | undefined,
  QuotaOptions | undefined,
  Duration.Input | Timer | undefined,
  unknown
>

type Attempt = Effect.Effect<HttpClientResponse.HttpClientResponse, unknown, unknown>
type Part = (self: Attempt) => Attempt

const pipeline = (options: AnyOptions, quotas: Quotas | undefined) => {
  const { circuitBreaker, key: keyOf = originOf, rateLimiter, retry } = options
  const deadline = positive("deadline", options.deadline)
  const idle = positive("bodyIdleTimeout", options.bodyIdleTimeout) ?? Duration.minutes(1)
  const { inTime, timeoutMillis } = timing(options.timeout)
  const deadlineHeader = options.deadlineHeader ?? { name: "x-request-timeout" }

  return (open: Open<unknown, unknown>): Send<unknown, unknown> =>
    (request, url, signal) => {
      const key = keyOf(request, url)
      // The attempt that is under way, or whose response is the answer.
      let connection = new Connection()

      const attempt: Attempt = Effect.suspend(() => {
        const current = (connection = new Connection())
        const sent = Effect.withFiber((fiber) => {
          let toSend = request
          const millis = Math.min(timeoutMillis, Deadline.remainingMillisUnsafe(fiber))
          if (deadlineHeader !== "none" && millis < Infinity) {
            toSend = HttpClientRequest.setHeader(toSend, deadlineHeader.name, written(millis, deadlineHeader))
          }
          if (retry?.attemptHeader !== undefined) {
            const number = String(fiber.getRef(Retry.CurrentAttempt))
            toSend = HttpClientRequest.setHeader(toSend, retry.attemptHeader, number)
          }
          return open(toSend, current)
        })
        return Effect.onExitPrimitive(inTime(sent), (exit) => (exit._tag === "Failure" ? current.close : undefined))
      })

      // What a response says reaches the parts around the attempt before they hear that it has ended.
      const judged = Effect.flatMap(attempt, (response) =>
        Effect.withFiber((fiber): Attempt => {
          const nowMillis = fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
          quotas?.learn(key, rateLimitHeaders.parse(response.headers, nowMillis), fiber)
          const answer = watched(response, connection, idle)
          if (!isRejection(response.status)) return Effect.succeed(answer)
          const retryAfter = retryAfterOf(response, nowMillis)
          const rejected = Effect.fail(new ResponseRejected(answer, retryAfter))
          if (response.status !== 429) return rejected
          if (retryAfter !== undefined) quotas?.pause(key, Duration.toMillis(retryAfter), fiber)
          return rateLimiter === undefined
            ? rejected
            : Effect.andThen(rateLimiter.throttled({ key, retryAfter }), rejected)
        })
      )

      let call: Attempt = judged
      if (quotas !== undefined) call = quotas.execute(key, call)
      if (rateLimiter !== undefined) call = rateLimiter.execute({ key })(call)
      if (circuitBreaker !== undefined)
        call = circuitBreaker.execute<HttpClientResponse.HttpClientResponse, unknown>({ key, classify })(call)
      if (retry !== undefined) call = repeated(call, retry, request, key, () => connection)
      call = Effect.catchIf(
        call,
        (error): error is ResponseRejected => error instanceof ResponseRejected,
        (rejected) => Effect.succeed(rejected.response)
      )
      if (deadline !== undefined) call = Deadline.within(call, deadline)

      // From here on the response belongs to whoever asked for it, who gives it up by the signal.
      signal.addEventListener("abort", () => connection.closeUnsafe(), { once: true })
      return Effect.onExitPrimitive(call, (exit) => (exit._tag === "Failure" ? connection.close : undefined))
    }
}

const timing = (
  timeout: Duration.Input | Timer | undefined
): { readonly inTime: Part; readonly timeoutMillis: number } => {
  if (isTimer(timeout)) return { inTime: timeout.execute, timeoutMillis: Infinity }
  const duration = positive("timeout", timeout)
  if (duration === undefined) return { inTime: (self) => self, timeoutMillis: Infinity }
  return { inTime: Timeout.timeout(duration), timeoutMillis: Duration.toMillis(duration) }
}

const isTimer = (timeout: Duration.Input | Timer | undefined): timeout is Timer =>
  typeof timeout === "object" && "execute" in timeout

const repeated = (
  self: Attempt,
  options: RetryOptions<unknown>,
  request: HttpClientRequest.HttpClientRequest,
  key: string,
  connection: () => Connection
): Attempt =>
  Effect.withFiber((fiber) => {
    const hasDeadline = Deadline.remainingMillisUnsafe(fiber) < Infinity
    const replayable = isReplayable(request)
    const idempotent = (options.isIdempotent ?? isIdempotent)(request)
    const mayRepeat = (error: unknown): boolean => {
      if (!replayable || options.while?.(error) === false) return false
      // Whoever refused it has said how long to wait, and nobody but a deadline says whether that is too long.
      if (isRefusal(error)) return hasDeadline
      return isTransient(error) && (idempotent || noConnection(error))
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
        const { error } = failed
        const freed = error instanceof ResponseRejected ? discard(error.response, connection(), drain) : Effect.void
        return onRetry === undefined ? freed : Effect.andThen(freed, onRetry(failed))
      }
    }).execute(self)
  })

// A body of an error is short, or not worth the time: a new connection costs less.
const drain: Drain = { maxBytes: 64 * 1024, maxTime: Duration.seconds(1) }

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

const outcomeOf = (error: unknown): Outcome => {
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

const outcomeOfStatus = (status: number): Outcome =>
  status >= 500 || status === 408 ? "failure" : status === 429 ? "ignored" : "success"

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
