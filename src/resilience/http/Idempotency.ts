/**
 * Carries out a request once, however often it comes.
 *
 * A request with an `Idempotency-Key` claims the key, runs, and leaves its answer, which every repeat is given with
 * `X-Idempotent-Replayed: true`. A repeat while the first still runs is 409, the key of another request 422. A key belongs to
 * a user and an endpoint, and is told apart from other requests by method, path, query and body.
 *
 * With a store that has transactions (`Idempotency/Sql`), an answer below 400 and what the handler wrote commit together,
 * and anything else rolls back: the work is done exactly once, whenever the process dies. Then keep the handler short, for it
 * holds a transaction. With any other store a process that dies between the work and its answer leaves both undecided.
 *
 * A client that hangs up does not stop the first attempt: it goes on to its end, and the repeat finds the answer. Put it
 * around single routes, inside rate limits; what is around it adds its headers to repeats too.
 *
 * | defaults | `lease` 30 s, renewed every third of it | `timeToLive` 24 h | `maxDuration` 2 min | `maxBodyBytes` 1 MiB |
 * |          | not required | POST and PATCH | kept: below 500, but for 408, 425 and 429 |
 */
import { Cause, Duration, Effect, Exit, Fiber, Layer, Option, Schedule, Schema, Scope } from "effect"
import { Cookies, HttpRouter, HttpServerError, HttpServerRequest, HttpServerResponse } from "effect/http"
import { pathOf } from "../internal/http/paths.ts"
import { sha256Hex } from "../internal/sha256.ts"
import { parseItem } from "../internal/structuredFields.ts"
import * as ApiError from "./ApiError.ts"
import type { Claim, Identified, IdempotencyStoreFull, StoredResponse } from "./IdempotencyStore.ts"
import { IdempotencyStore, IdempotencyStoreError } from "./IdempotencyStore.ts"

/** How long a key is held and kept. */
export interface GuardOptions {
  /** How long a holder that has died blocks the key: over zero. Renewed while it lives. Defaults to 30 seconds. */
  readonly lease?: Duration.Input | undefined
  /** How long an answer is kept: at least the lease. Defaults to 24 hours. */
  readonly timeToLive?: Duration.Input | undefined
}

/** The request is being carried out. */
export class IdempotencyKeyInUse extends Schema.TaggedError<IdempotencyKeyInUse>()("IdempotencyKeyInUse", {
  /** When the key is free again, should its holder have died. */
  retryAfter: Schema.Duration
}) {
  override get message() {
    return "A request with this idempotency key is being carried out"
  }
}

/** The key came with another request. */
export class IdempotencyKeyReused extends Schema.TaggedError<IdempotencyKeyReused>()("IdempotencyKeyReused", {}) {
  override get message() {
    return "This idempotency key was used for another request"
  }
}

/** The claim is no longer valid: its lease had ended, and somebody else may be carrying the request out. */
export class LeaseLost extends Schema.TaggedError<LeaseLost>()("LeaseLost", {}) {
  override get message() {
    return "The lease of the idempotency key had ended"
  }
}

/** A request that may be carried out, or the answer it was given. */
export type Started =
  | { readonly _tag: "Claimed"; readonly claim: Claim }
  | { readonly _tag: "Completed"; readonly response: StoredResponse }

/** The steps of carrying a request out once, for those who do not use the middleware. */
export interface Guard {
  /** Reads the answer that a request was given, if it was. Claims nothing. */
  readonly check: (
    request: Identified
  ) => Effect.Effect<Option.Option<StoredResponse>, IdempotencyKeyInUse | IdempotencyKeyReused | IdempotencyStoreError>
  /** Claims the key, or reads the answer it has. */
  readonly start: (
    request: Identified
  ) => Effect.Effect<Started, IdempotencyKeyInUse | IdempotencyKeyReused | IdempotencyStoreError | IdempotencyStoreFull>
  /** Runs the work, and renews the lease of its key meanwhile. */
  readonly hold: (claim: Claim) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Keeps the answer of the work. */
  readonly complete: (claim: Claim, response: StoredResponse) => Effect.Effect<void, LeaseLost | IdempotencyStoreError>
  /** Gives the key up: the work was not done. */
  readonly fail: (claim: Claim) => Effect.Effect<void, IdempotencyStoreError>
  /**
   * Runs the work and completes its key in one transaction of the store. When either fails, neither has happened. A defect
   * with a store that has no transactions.
   */
  readonly transaction: (
    claim: Claim
  ) => <A extends StoredResponse, E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | LeaseLost | IdempotencyStoreError, R>
}

/** Creates a guard. Options that make no sense are a defect, not an error. */
export const guard = (options: GuardOptions = {}): Effect.Effect<Guard, never, IdempotencyStore> =>
  IdempotencyStore.use((store) => Effect.sync(() => guardOf(store, options)))

/** Which requests are carried out once, and how. */
export interface Options<R = never> extends GuardOptions {
  /** The requests that this is for. Defaults to those with the method POST or PATCH. */
  readonly when?: ((request: HttpServerRequest.HttpServerRequest) => boolean) | undefined
  /** Whether a request without a key is refused with 400. Defaults to false: it is carried out each time it comes. */
  readonly required?: boolean | undefined
  /**
   * Whose key it is, so that nobody is given the answer to somebody else. Defaults to who has this `Authorization` or
   * `X-API-Key`: all requests without either are of one user.
   */
  readonly user?:
    | ((request: HttpServerRequest.HttpServerRequest) => Effect.Effect<string | undefined, never, R>)
    | undefined
  /** The statuses of answers that are kept. Where it is false, the key is given up. Defaults to the table above. */
  readonly keeps?: ((status: number) => boolean) | undefined
  /** Whether work and answer are one transaction. Defaults to true if the store can. */
  readonly transactional?: boolean | undefined
  /** How long the first attempt may take: over zero. Then it is interrupted, and answered 504. Defaults to 2 minutes. */
  readonly maxDuration?: Duration.Input | undefined
  /**
   * The largest body of an answer that is kept. Of a larger one, or a stream, only the status is: the work is not done
   * again, and a repeat is told with 409 that the answer is gone. Defaults to 1 MiB.
   */
  readonly maxBodyBytes?: number | undefined
}

/** A middleware of routes. */
export type Middleware<R = never> = <E, R2>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>
) => Answer<R, E, R2>

/** What the middleware makes of a route: its body may turn out to be unreadable. */
export type Answer<R, E, R2> = Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  E | HttpServerError.HttpServerError,
  R | Exclude<R2, Scope.Scope> | HttpServerRequest.HttpServerRequest | Scope.Scope
>

/** Creates the middleware. First attempts are interrupted when the scope closes. Nonsense in the options is a defect. */
export const make = Effect.fnUntraced(function* <R = never>(
  options: Options<R> = {}
): Effect.fn.Return<Middleware<R>, never, IdempotencyStore | Scope.Scope> {
  const {
    keeps = keepsByDefault,
    maxBodyBytes = 1024 * 1024,
    required = false,
    user = byCredentials,
    when = ({ method }) => method === "POST" || method === "PATCH"
  } = options
  const maxDuration = Duration.fromInputUnsafe(options.maxDuration ?? "2 minutes")
  check("maxDuration", Duration.toMillis(maxDuration), "over zero", Duration.toMillis(maxDuration) > 0)
  check("maxBodyBytes", maxBodyBytes, "zero or more", maxBodyBytes >= 0)
  const store = yield* IdempotencyStore
  const scope = yield* Effect.scope
  const { complete, fail, hold, start, transaction } = guardOf(store, options)
  const transactional = options.transactional ?? store.transaction !== undefined
  check(
    "transactional",
    String(transactional),
    "false for this store",
    !transactional || store.transaction !== undefined
  )

  // Gives the key up, as far as the store is there: otherwise the lease ends by itself.
  const giveUp = (claim: Claim) =>
    Effect.catch(fail(claim), (error) => Effect.logWarning("An idempotency key was not given up", error))

  const keep = (claim: Claim, outcome: Outcome<unknown>) =>
    complete(claim, storedOf(outcome.response, maxBodyBytes)).pipe(
      Effect.retry({
        while: (error) => error._tag !== "LeaseLost",
        schedule: Schedule.exponential("50 millis"),
        times: 3
      }),
      // The work is done and cannot be undone: its answer is right, though a repeat may be carried out again.
      Effect.catch((error) => Effect.logError("The answer to an idempotency key was not kept", error))
    )

  // What is left to do with a key whose work is not in a transaction, or was rolled back.
  const settle = (claim: Claim, outcome: Outcome<unknown>) =>
    keeps(outcome.response.status) && !outcome.interrupted ? keep(claim, outcome) : giveUp(claim)

  const attempt = <E, R2>(
    claim: Claim,
    received: HttpServerRequest.HttpServerRequest,
    app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>
  ): Effect.Effect<Outcome<E>, never, R2> => {
    // Nothing comes between the end of the work and what becomes of its key.
    if (!transactional) {
      return Effect.uninterruptibleMask((restore) =>
        Effect.tap(outcomeOf(restore(app)), (outcome) => settle(claim, outcome))
      )
    }
    // Only what succeeded commits. The others leave the transaction as its failure.
    const committed = transaction(claim)(
      Effect.flatMap(outcomeOf(app), (outcome) =>
        outcome.cause === undefined && outcome.response.status < 400
          ? Effect.succeed({ ...storedOf(outcome.response, maxBodyBytes), outcome })
          : Effect.fail(new RolledBack(outcome))
      )
    )
    return Effect.matchEffect(committed, {
      onSuccess: ({ outcome }) => Effect.succeed(outcome),
      onFailure: (error) => {
        if (error instanceof RolledBack) return Effect.as(settle(claim, error.outcome), error.outcome)
        return Effect.as(giveUp(claim), answered(ApiError.answer(refusalOf(error), received)))
      }
    })
  }

  const run = <E, R2>(
    request: Identified,
    received: HttpServerRequest.HttpServerRequest,
    app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>
  ) =>
    Effect.gen(function* () {
      const started = yield* start(request)
      if (started._tag === "Completed") return Exit.succeed(replay(started.response, received))
      const { claim } = started
      const { cause, response } = yield* attempt(claim, received, app).pipe(
        Effect.timeoutOrElse({
          duration: maxDuration,
          orElse: () => Effect.as(giveUp(claim), answered(ApiError.answer(tooLong(), received)))
        }),
        Effect.interruptible,
        Effect.onInterrupt(() => giveUp(claim)),
        hold(claim)
      )
      // What is not kept is rendered and reported further out.
      return cause === undefined || keeps(response.status) ? Exit.succeed(response) : Exit.failCause(cause)
    }).pipe(
      Effect.catch((error) => Effect.succeed(Exit.succeed(ApiError.answer(refusalOf(error), received)))),
      Effect.uninterruptible
    )

  return <E, R2>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>) =>
    Effect.flatMap(HttpServerRequest.HttpServerRequest, (received): Answer<R, E, R2> => {
      if (!when(received)) return asIs(app)
      const given = received.headers["idempotency-key"]
      if (given === undefined && required) return Effect.succeed(ApiError.answer(missing(), received))
      if (given === undefined) return asIs(app)
      const key = keyOf(given)
      if (key === undefined) return Effect.succeed(ApiError.answer(malformed(), received))
      return Effect.gen(function* () {
        const body = new Uint8Array(yield* received.arrayBuffer)
        const route = yield* Effect.serviceOption(HttpRouter.RouteContext)
        const endpoint = Option.match(route, { onNone: () => pathOf(received), onSome: ({ route }) => route.path })
        const request = {
          key: yield* digest([(yield* user(received)) ?? "", received.method, endpoint, key]),
          fingerprint: yield* digest([received.method, received.url, body])
        }
        // On a fiber of its own, which no client can interrupt, with a scope that ends when the answer is there or sent.
        const own = yield* Scope.make()
        const sending = yield* Effect.scope
        const fiber = yield* run(request, received, Effect.provideService(app, Scope.Scope, own)).pipe(
          Effect.onExit((exit) => closeWith(own, exit, sending)),
          Effect.forkIn(scope, { startImmediately: true, uninterruptible: true })
        )
        return yield* yield* Effect.interruptible(Fiber.join(fiber))
      })
    })
})

/** The middleware as a layer, to be provided to the routes that it is for. */
export const layer = <R = never>(options: Options<R> = {}) =>
  Layer.unwrap(
    Effect.map(make(options), (middleware) => HttpRouter.middleware((app) => middleware(app)).layer as RouteLayer<R>)
  )

/** A layer for routes that need `R`. */
export type RouteLayer<R> = Layer.Layer<
  never,
  never,
  | HttpRouter.Request.From<"Requires", Exclude<R, HttpRouter.Provided>>
  | HttpRouter.Request.From<"Error", HttpServerError.HttpServerError>
>

/**
 * A key for an operation and its parameters: the same for the same, whatever the order of the properties. For calls that
 * send an `Idempotency-Key`. `undefined` counts as absent; a function, a symbol, a bigint or a number that is not finite is
 * a defect.
 */
export const key = (operation: string, ...parameters: ReadonlyArray<unknown>): Effect.Effect<string> =>
  Effect.suspend(() => sha256Hex(canonical([operation, ...parameters])))

/** A result, and what it came from. */
interface Outcome<E> {
  readonly response: HttpServerResponse.HttpServerResponse
  /** Of a handler that failed. */
  readonly cause: Cause.Cause<E> | undefined
  readonly interrupted: boolean
}

class RolledBack<E> {
  readonly outcome: Outcome<E>
  constructor(outcome: Outcome<E>) {
    this.outcome = outcome
  }
}

const outcomeOf = <E, R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
): Effect.Effect<Outcome<E>, never, R> =>
  Effect.matchCauseEffect(app, {
    onSuccess: (response) => Effect.succeed({ response, cause: undefined, interrupted: false }),
    onFailure: (cause) =>
      Effect.map(HttpServerError.causeResponse(cause), ([response]) => ({
        response,
        cause,
        interrupted: Cause.hasInterrupts(cause)
      }))
  })

const answered = (response: HttpServerResponse.HttpServerResponse): Outcome<never> => ({
  response,
  cause: undefined,
  interrupted: false
})

const asIs = <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
  Effect.flatMap(Effect.scope, (scope) => Effect.provideService(app, Scope.Scope, scope))

// The body of a stream needs the scope until it has been sent.
const closeWith = <E, E2>(
  own: Scope.Closeable,
  exit: Exit.Exit<Exit.Exit<HttpServerResponse.HttpServerResponse, E>, E2>,
  sending: Scope.Scope
): Effect.Effect<void> =>
  Exit.isSuccess(exit) && Exit.isSuccess(exit.value) && exit.value.value.body._tag === "Stream"
    ? Scope.addFinalizerExit(sending, (sent) => Scope.close(own, sent))
    : Scope.close(own, exit)

const guardOf = (store: IdempotencyStore["Service"], options: GuardOptions): Guard => {
  const lease = Duration.fromInputUnsafe(options.lease ?? "30 seconds")
  const timeToLive = Duration.fromInputUnsafe(options.timeToLive ?? "24 hours")
  const leaseMillis = Duration.toMillis(lease)
  check("lease", leaseMillis, "a finite duration over zero", leaseMillis > 0 && leaseMillis < Infinity)
  check("timeToLive", Duration.toMillis(timeToLive), "at least the lease", Duration.toMillis(timeToLive) >= leaseMillis)

  const complete = (claim: Claim, response: StoredResponse) =>
    Effect.flatMap(store.complete(claim, response, timeToLive), (done): Effect.Effect<void, LeaseLost> =>
      done ? Effect.void : new LeaseLost()
    )

  // Until the claim is no longer valid. A store that is away for a moment is asked again in time.
  const renewing = (claim: Claim) =>
    store.renew(claim, lease).pipe(
      Effect.orElseSucceed(() => true),
      Effect.delay(leaseMillis / 3),
      Effect.repeat({ while: (valid) => valid })
    )

  return {
    check: (request) =>
      Effect.flatMap(
        store.find(request),
        (known): Effect.Effect<Option.Option<StoredResponse>, IdempotencyKeyInUse | IdempotencyKeyReused> => {
          switch (known._tag) {
            case "Unknown":
              return Effect.succeedNone
            case "Completed":
              return Effect.succeedSome(known.response)
            case "Running":
              return new IdempotencyKeyInUse({ retryAfter: known.leaseEndsIn })
            case "OtherRequest":
              return new IdempotencyKeyReused()
          }
        }
      ),
    start: (request) =>
      Effect.flatMap(
        store.begin({ ...request, lease, timeToLive }),
        (begun): Effect.Effect<Started, IdempotencyKeyInUse | IdempotencyKeyReused> => {
          switch (begun._tag) {
            case "Claimed":
            case "Completed":
              return Effect.succeed(begun)
            case "Running":
              return new IdempotencyKeyInUse({ retryAfter: begun.leaseEndsIn })
            case "OtherRequest":
              return new IdempotencyKeyReused()
          }
        }
      ),
    hold: (claim) => (self) =>
      Effect.acquireUseRelease(
        Effect.forkDetach(Effect.interruptible(renewing(claim))),
        () => self,
        (fiber) => Effect.forkDetach(Fiber.interrupt(fiber))
      ),
    complete,
    fail: (claim) => Effect.asVoid(store.release(claim)),
    transaction: (claim) => (self) =>
      store.transaction === undefined
        ? Effect.die(new RangeError("Idempotency: the store has no transactions"))
        : store.transaction(Effect.tap(self, (response) => complete(claim, response)))
  }
}

const keepsByDefault = (status: number): boolean => status < 500 && status !== 408 && status !== 425 && status !== 429

const byCredentials = (request: HttpServerRequest.HttpServerRequest): Effect.Effect<string> =>
  Effect.succeed(`${request.headers["authorization"] ?? ""}\n${request.headers["x-api-key"] ?? ""}`)

// As it comes, or as the string of a structured field (draft-ietf-httpapi-idempotency-key-header).
const keyOf = (given: string): string | undefined => {
  const item = given.startsWith('"') ? parseItem(given) : undefined
  const key = item?.value._tag === "String" ? item.value.value : given
  return /^[\x21-\x7e]{1,255}$/.test(key) ? key : undefined
}

// No part can be moved into the next: each is digested by itself.
const digest = (parts: ReadonlyArray<string | Uint8Array<ArrayBuffer>>): Effect.Effect<string> =>
  Effect.flatMap(Effect.forEach(parts, sha256Hex), (digests) => sha256Hex(digests.join(" ")))

const storedOf = (response: HttpServerResponse.HttpServerResponse, maxBodyBytes: number): StoredResponse => {
  const { body, cookies, headers, status } = response
  const bytes = body._tag === "Empty" ? new Uint8Array() : body._tag === "Uint8Array" ? body.body : undefined
  if (bytes === undefined || bytes.length > maxBodyBytes) return { status, headers: [] }
  return {
    status,
    headers: [
      ...Object.entries(headers),
      ...Cookies.toSetCookieHeaders(cookies).map((cookie) => ["set-cookie", cookie] as const)
    ],
    body: bytes
  }
}

const replay = (
  { body, headers, status }: StoredResponse,
  request: HttpServerRequest.HttpServerRequest
): HttpServerResponse.HttpServerResponse => {
  if (body === undefined) return ApiError.answer(gone(status), request)
  const cookies = headers.filter(([name]) => name === "set-cookie").map(([, value]) => value)
  const others = Object.fromEntries(headers.filter(([name]) => name !== "set-cookie"))
  const options = {
    status,
    headers: { ...others, "x-idempotent-replayed": "true" },
    cookies: Cookies.fromSetCookie(cookies)
  }
  return body.length === 0
    ? HttpServerResponse.empty(options)
    : HttpServerResponse.uint8Array(body, { ...options, contentType: others["content-type"] })
}

const about = { header: "Idempotency-Key" }

const missing = () =>
  new ApiError.InvalidRequest({
    code: "IDEMPOTENCY_KEY_MISSING",
    error: "Idempotency-Key: is required for this request",
    metadata: about
  })

const malformed = () =>
  new ApiError.InvalidRequest({
    code: "IDEMPOTENCY_KEY_INVALID",
    error: "Idempotency-Key: must be 1 to 255 printable ASCII characters without spaces",
    metadata: about
  })

const tooLong = () =>
  new ApiError.GatewayTimeout({
    code: "IDEMPOTENT_REQUEST_TIMEOUT",
    error: "The request took too long and was given up",
    metadata: about,
    retryAfter: Duration.seconds(1)
  })

const gone = (status: number) =>
  new ApiError.Conflict({
    code: "IDEMPOTENT_RESPONSE_NOT_KEPT",
    error: `The request was carried out and answered ${status}; the answer was not kept`,
    metadata: about
  })

const refusalOf = (
  error: IdempotencyKeyInUse | IdempotencyKeyReused | LeaseLost | IdempotencyStoreError | IdempotencyStoreFull
): ApiError.ApiError => {
  switch (error._tag) {
    case "LeaseLost":
      return ApiError.fromRefusal(new IdempotencyKeyInUse({ retryAfter: Duration.seconds(1) }))
    case "IdempotencyKeyInUse":
      // The holder is expected to be done long before its lease ends.
      return ApiError.fromRefusal(
        new IdempotencyKeyInUse({ retryAfter: Duration.min(error.retryAfter, Duration.seconds(5)) })
      )
    default:
      return ApiError.fromRefusal(error)
  }
}

// JSON with the properties of every object in the order of their names (as RFC 8785 has it).
const canonical = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map((item) => (item === undefined ? "null" : canonical(item))).join(",")}]`
  if (typeof value === "object" && value !== null) {
    if ("toJSON" in value && typeof value.toJSON === "function") return canonical(value.toJSON())
    const entries = Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    return `{${entries.map(([name, item]) => `${JSON.stringify(name)}:${canonical(item)}`).join(",")}}`
  }
  if (value === undefined) return "null"
  if (value === null || typeof value === "string" || typeof value === "boolean" || Number.isFinite(value)) {
    return JSON.stringify(value)
  }
  throw new RangeError(`Idempotency: a parameter of a key must be JSON, got ${String(value)}`)
}

const check = (name: string, value: number | string, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`Idempotency: ${name} must be ${expected}, got ${value}`)
}
