/**
 * The errors that an HTTP API answers with: one tagged class per kind, one body for all of them.
 *
 * The body is `{"error", "code", "statusCode", "metadata"}`: a sentence for people, a name for programs, the status again, and
 * what else is known; `metadata.field` names the part of a request that was refused. Who asks for `application/problem+json`
 * gets the same as RFC 9457 has it. `retryAfter` is sent as `Retry-After`. No error carries a stack or the text of a foreign
 * failure: what has no class here becomes a 500, and is logged once.
 *
 * Handlers fail with these. `around` goes around the router and inside what only adds to a response; it answers failures and
 * unknown paths, and gives the refusals of the framework a body. With `HttpApi`, name `response(NotFound)` as the error of the
 * endpoint. Elsewhere `respond` takes a handler, and only one whose errors all have a status.
 *
 * | 400 `InvalidRequest` | 401 `Unauthenticated` | 403 `Forbidden` | 404 `NotFound` | 405 `MethodNotAllowed` |
 * | 408 `RequestTimeout` | 409 `Conflict` | 413 `PayloadTooLarge` | 415 `UnsupportedMediaType` | 422 `Unprocessable` |
 * | 429 `TooManyRequests` | 500 `InternalError`, `DatabaseFailed` | 504 `GatewayTimeout` |
 * | 503 `Unavailable`, `CircuitIsOpen`, `DependencyFailed`, `VectorDatabaseFailed`, `LlmFailed` |
 */
import { ByteSize, Cause, Duration, Effect, Layer, Schema, SchemaIssue } from "effect"
import {
  HttpIncomingMessage,
  HttpRouter,
  HttpServerError,
  HttpServerRequest,
  HttpServerRespondable,
  HttpServerResponse
} from "effect/http"
import { HttpApiError, HttpApiMiddleware, HttpApiSchema } from "effect/http-api"
import type { LimitReached } from "../AdaptiveLimit.ts"
import type { Throttled } from "../AdaptiveThrottle.ts"
import type { BatcherFull } from "../Batcher.ts"
import type { BulkheadFull } from "../Bulkhead.ts"
import type { CircuitOpen } from "../CircuitBreaker.ts"
import type { DeadlineExceeded } from "../Deadline.ts"
import { withoutStack } from "../internal/refusal.ts"
import type { Overloaded } from "../LoadShed.ts"
import type { RateLimited } from "../RateLimiter.ts"
import type { TimedOut } from "../Timeout.ts"
import type { IdempotencyKeyInUse, IdempotencyKeyReused } from "./Idempotency.ts"
import type { IdempotencyStoreError, IdempotencyStoreFull } from "./IdempotencyStore.ts"
import type { RateLimitStoreError } from "./RateLimitStore.ts"

/** The body of every error response. */
export const Body = Schema.Struct({
  error: Schema.String.annotate({ description: "What is wrong, as a sentence." }),
  code: Schema.String.annotate({ description: "What is wrong, for programs, in UPPER_SNAKE_CASE." }),
  statusCode: Schema.Int.annotate({ description: "The HTTP status, again." }),
  metadata: Schema.Record(Schema.String, Schema.Json).annotate({
    description: "What else is known. `field` names the part of the request that was refused."
  })
}).annotate({ identifier: "Error" })
export type Body = typeof Body.Type

/** An error with a status: any instance of a class made by `Class`. */
export interface ApiError extends Cause.YieldableError, Fields, Rendered {
  readonly _tag: string
}

/** What every error says. */
export interface Fields {
  /** For programs, in UPPER_SNAKE_CASE. Defaults to that of the class. */
  readonly code: string
  /** For people, as a sentence. Defaults to that of the class. */
  readonly error: string
  /** What else is known. Defaults to nothing. */
  readonly metadata?: Readonly<Record<string, Schema.Json>> | undefined
  /** When asking again makes sense; sent as `Retry-After` in whole seconds, rounded up. Defaults to unknown. */
  readonly retryAfter?: Duration.Duration | undefined
}

/** What every error has beside its fields. */
export interface Rendered extends HttpServerRespondable.Respondable {
  readonly [TypeId]: typeof TypeId
  /** The HTTP status. */
  readonly statusCode: number
}

/** A class of errors: a schema too. */
export type Class<Self, Tag extends string> = Schema.Class<
  Self,
  Schema.TaggedStruct<Tag, ReturnType<typeof fieldsOf>>,
  Cause.YieldableError & Rendered
> & {
  /** The HTTP status of all of its errors. */
  readonly statusCode: number
}

const TypeId = "~effect-resilience/http/ApiError"

/** What the errors of a class have in common. */
export interface Options {
  /** An HTTP status from 400 to 599. */
  readonly statusCode: number
  /** The `code` of an error that has none of its own. */
  readonly code: string
  /** The sentence of an error that has none of its own. */
  readonly error: string
}

/**
 * Makes a class of errors: `class OutOfStock extends ApiError.Class<OutOfStock>()("OutOfStock", { … }) {}`. A status that is no
 * error is a defect.
 */
export const Class =
  <Self = never>() =>
  <const Tag extends string>(tag: Tag, options: Options): Class<Self, Tag> => {
    const { statusCode } = options
    if (!(Number.isInteger(statusCode) && statusCode >= 400 && statusCode <= 599)) {
      throw new RangeError(`ApiError: statusCode of ${tag} must be an integer from 400 to 599, got ${statusCode}`)
    }
    class Base extends Schema.TaggedError<Base>()(tag, fieldsOf(options)) {
      static readonly statusCode = statusCode
      readonly [TypeId] = TypeId
      get statusCode() {
        return statusCode
      }
      override get message() {
        return this.error
      }
      [HttpServerRespondable.symbol]() {
        return Effect.succeed(toResponse(this))
      }
    }
    // The schema learns of its own class only through `Self`, which TypeScript cannot see through here.
    return Base as unknown as Class<Self, Tag>
  }

/** 400: a part of the request makes no sense; `metadata.field` names it. */
export class InvalidRequest extends Class<InvalidRequest>()("InvalidRequest", {
  statusCode: 400,
  code: "INVALID_REQUEST",
  error: "The request makes no sense"
}) {}

/** 401: who is asking is not known. */
export class Unauthenticated extends Class<Unauthenticated>()("Unauthenticated", {
  statusCode: 401,
  code: "UNAUTHENTICATED",
  error: "It is not known who is asking"
}) {}

/** 403: who is asking may not do this. */
export class Forbidden extends Class<Forbidden>()("Forbidden", {
  statusCode: 403,
  code: "FORBIDDEN",
  error: "This is not allowed"
}) {}

/** 404: what is asked for does not exist. */
export class NotFound extends Class<NotFound>()("NotFound", {
  statusCode: 404,
  code: "NOT_FOUND",
  error: "There is no such thing"
}) {}

/** 405: the address exists, but not for this method. */
export class MethodNotAllowed extends Class<MethodNotAllowed>()("MethodNotAllowed", {
  statusCode: 405,
  code: "METHOD_NOT_ALLOWED",
  error: "This address does not answer this method"
}) {}

/** 408: the request took longer than it may. */
export class RequestTimeout extends Class<RequestTimeout>()("RequestTimeout", {
  statusCode: 408,
  code: "REQUEST_TIMEOUT",
  error: "The request took too long"
}) {}

/** 409: it contradicts what is there, or what is being done. */
export class Conflict extends Class<Conflict>()("Conflict", {
  statusCode: 409,
  code: "CONFLICT",
  error: "The request contradicts what is there"
}) {}

/** 413: the body is larger than the server reads. */
export class PayloadTooLarge extends Class<PayloadTooLarge>()("PayloadTooLarge", {
  statusCode: 413,
  code: "BODY_TOO_LARGE",
  error: "The body is too large"
}) {}

/** 415: the body is of a kind that the server does not read. */
export class UnsupportedMediaType extends Class<UnsupportedMediaType>()("UnsupportedMediaType", {
  statusCode: 415,
  code: "UNSUPPORTED_MEDIA_TYPE",
  error: "content-type: must be application/json"
}) {}

/** 422: it can be read, but not be done. */
export class Unprocessable extends Class<Unprocessable>()("Unprocessable", {
  statusCode: 422,
  code: "UNPROCESSABLE",
  error: "The request cannot be carried out"
}) {}

/** 429: this client has asked for too much. */
export class TooManyRequests extends Class<TooManyRequests>()("TooManyRequests", {
  statusCode: 429,
  code: "TOO_MANY_REQUESTS",
  error: "Too many requests"
}) {}

/** 500: a mistake of the server. What it was is in its log only. */
export class InternalError extends Class<InternalError>()("InternalError", {
  statusCode: 500,
  code: "INTERNAL_ERROR",
  error: "Something went wrong on the server"
}) {}

/** 500: the database failed in a way that asking again does not change. */
export class DatabaseFailed extends Class<DatabaseFailed>()("DatabaseFailed", {
  statusCode: 500,
  code: "DATABASE_ERROR",
  error: "The database failed"
}) {}

/** 503: the server cannot do it now. */
export class Unavailable extends Class<Unavailable>()("Unavailable", {
  statusCode: 503,
  code: "UNAVAILABLE",
  error: "This cannot be done now"
}) {}

/** 503: a dependency keeps failing and is not asked for the moment. */
export class CircuitIsOpen extends Class<CircuitIsOpen>()("CircuitIsOpen", {
  statusCode: 503,
  code: "CIRCUIT_OPEN",
  error: "A service that this needs keeps failing and is not asked for the moment"
}) {}

/** 503: a dependency gave no usable answer. */
export class DependencyFailed extends Class<DependencyFailed>()("DependencyFailed", {
  statusCode: 503,
  code: "DEPENDENCY_ERROR",
  error: "A service that this needs gave no usable answer"
}) {}

/** 503: the vector database gave no usable answer. */
export class VectorDatabaseFailed extends Class<VectorDatabaseFailed>()("VectorDatabaseFailed", {
  statusCode: 503,
  code: "VECTOR_DATABASE_ERROR",
  error: "The vector database gave no usable answer"
}) {}

/** 503: the language model gave no usable answer. */
export class LlmFailed extends Class<LlmFailed>()("LlmFailed", {
  statusCode: 503,
  code: "LLM_ERROR",
  error: "The language model gave no usable answer"
}) {}

/** 504: a dependency did not answer in time, retries included. */
export class GatewayTimeout extends Class<GatewayTimeout>()("GatewayTimeout", {
  statusCode: 504,
  code: "TIMEOUT",
  error: "A service that this needs did not answer in time"
}) {}

/** Whether a value is an error of such a class. */
export const isApiError = (value: unknown): value is ApiError =>
  typeof value === "object" && value !== null && TypeId in value

/** What the rest of this package refuses with. */
export type Refusal =
  | BatcherFull
  | BulkheadFull
  | CircuitOpen
  | DeadlineExceeded
  | IdempotencyKeyInUse
  | IdempotencyKeyReused
  | IdempotencyStoreError
  | IdempotencyStoreFull
  | LimitReached
  | Overloaded
  | RateLimited
  | RateLimitStoreError
  | Throttled
  | TimedOut

/** What `fromRefusal` makes of a refusal, and what it leaves as it is. */
export type FromRefusal<E> = E extends Refusal ? ReturnType<(typeof refusals)[E["_tag"]]> : E

/**
 * The error that a refusal of this package is to a client. Keys are left out: they may name a user. What limits the calls of
 * this server is a 503; `RateLimited` is a 429, as if the client's own limit had been reached.
 */
export const fromRefusal = <E extends Refusal>(refusal: E): FromRefusal<E> =>
  withoutStack(() => refusals[refusal._tag](refusal as never)) as FromRefusal<E>

/** Makes errors of the refusals of this package, and leaves other failures as they are. */
export const mapRefusals = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, FromRefusal<E>, R> =>
  Effect.mapError(self, (error) => (isRefusal(error) ? fromRefusal(error) : error) as FromRefusal<E>)

/** Answers the errors of a handler. One whose errors do not all have a status does not compile. */
export const respond = <R>(
  self: Effect.Effect<HttpServerResponse.HttpServerResponse, ApiError | Refusal, R>
): Effect.Effect<HttpServerResponse.HttpServerResponse, never, R> =>
  Effect.catch(self, (error) => Effect.succeed(toResponse(isRefusal(error) ? fromRefusal(error) : error)))

/** An error as a response, in the form of `Body`. */
export const toResponse = (error: ApiError): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(toBody(error), { status: error.statusCode, headers: headersOf(error) })

/** An error as the response to a request: as RFC 9457 has it, if that is what it accepts. For what is outside of `around`. */
export const answer = (
  error: ApiError,
  request: HttpServerRequest.HttpServerRequest
): HttpServerResponse.HttpServerResponse => rendered(toResponse(error), request)

/** What a response says about an error. */
export const toBody = (error: ApiError): Body => ({
  error: error.error,
  code: error.code,
  statusCode: error.statusCode,
  metadata: error.metadata ?? {}
})

/**
 * A class as a response of an `HttpApi` endpoint. A client reads an error as the first class of its status that the endpoint
 * names.
 */
export const response = <Self extends Fields, Tag extends string>(self: Class<Self, Tag>) =>
  self.pipe(
    HttpApiSchema.encodeToWithHeaders(
      {
        body: Body.pipe(HttpApiSchema.status(self.statusCode)),
        headers: { "retry-after": Schema.optional(Schema.Int) }
      },
      {
        decode: ({ body, headers }) => {
          const seconds = headers["retry-after"]
          const retryAfter = seconds === undefined ? {} : { retryAfter: Duration.seconds(seconds) }
          const { code, error, metadata } = body
          return new (self as unknown as new (fields: Fields) => Self)({ code, error, metadata, ...retryAfter })
        },
        encode: ({ code, error, metadata = {}, retryAfter }: Self) => {
          const seconds = retryAfterSeconds(retryAfter)
          return {
            body: { error, code, statusCode: self.statusCode, metadata },
            headers: seconds === undefined ? {} : { "retry-after": seconds }
          }
        }
      }
    )
  )

/** A duration as `Retry-After` has it: whole seconds, rounded up, at least one. What never ends is not told to wait. */
export const retryAfterSeconds = (retryAfter: Duration.Duration | undefined): number | undefined =>
  retryAfter === undefined || !Duration.isFinite(retryAfter)
    ? undefined
    : Math.max(1, Math.ceil(Duration.toSeconds(retryAfter)))

/** The refusal of a body over the limit. */
export const bodyTooLarge = (maxBytes: number | undefined): PayloadTooLarge =>
  maxBytes === undefined
    ? new PayloadTooLarge({ metadata: { field: "body" } })
    : new PayloadTooLarge({
        error: `The body is larger than ${maxBytes} bytes`,
        metadata: { field: "body", maxBytes }
      })

/**
 * The refusal of what does not fit its schema. It names the field, by `part` when all of it is wrong, and says nothing about the
 * value that came.
 */
export const fromSchemaError = (error: Schema.SchemaError, part = "request"): InvalidRequest => {
  const issue = formatIssue(error.issue).issues[0]
  const path = issue?.path?.map((segment) => String(typeof segment === "object" ? segment.key : segment)) ?? []
  const field = path.length > 0 ? path.join(".") : part
  const problem = field === "body" ? "must be a JSON object" : inOwnWords(issue?.message)
  return new InvalidRequest({ error: `${field}: ${problem}`, metadata: { field } })
}

/**
 * Makes the failure to read a part of the request the client's mistake: `HttpServerRequest.schemaBodyJson(Charge).pipe(
 * ApiError.orInvalid("body"))`. Use it there only: what the server itself decodes wrongly is no mistake of the client.
 */
export const orInvalid =
  (part: "body" | "query" | "path" | "headers") =>
  <A, E, R>(
    self: Effect.Effect<A, E, R>
  ): Effect.Effect<
    A,
    Exclude<E, Schema.SchemaError | HttpServerError.HttpServerError> | InvalidRequest | PayloadTooLarge,
    R
  > =>
    Effect.catch(
      self,
      (
        error
      ): Effect.Effect<
        never,
        Exclude<E, Schema.SchemaError | HttpServerError.HttpServerError> | InvalidRequest | PayloadTooLarge
      > => {
        if (Schema.isSchemaError(error)) return Effect.fail(fromSchemaError(error, part))
        if (HttpServerError.isHttpServerError(error)) {
          return Effect.flatMap(maxBodyBytes, (max) => Effect.fail(unreadable(error, max)))
        }
        return Effect.fail(error as Exclude<E, Schema.SchemaError | HttpServerError.HttpServerError>)
      }
    )

/** Gives the requests that an `HttpApi` cannot read the body of an error; provided by `layerSchemaErrors`. */
export class SchemaErrors extends HttpApiMiddleware.Service<SchemaErrors>()("effect-resilience/http/SchemaErrors", {
  error: [response(InvalidRequest), response(PayloadTooLarge), response(InternalError)]
}) {}

/** Provides `SchemaErrors`. */
export const layerSchemaErrors: Layer.Layer<SchemaErrors> = HttpApiMiddleware.layerSchemaErrorTransform(
  SchemaErrors,
  (error) =>
    // What the server itself encodes wrongly is its mistake: it goes on as a failure and ends as a 500.
    Effect.fail(
      error.kind === "Body" || error.kind === "ResponseHeaders"
        ? error
        : fromSchemaError(error.cause, partOf(error.kind))
    )
)

/** What is said where nothing else is known. */
export interface AroundOptions {
  /** The sentence for an unknown path. Defaults to "There is nothing at this address". */
  readonly notFound?: string | undefined
}

/** The errors of routes that have no status. */
export type Unmapped<R> = Exclude<
  HttpRouter.Request.Only<"Error", R>,
  ApiError | Refusal | HttpServerError.HttpServerError
>

/**
 * Puts the renderer around all routes of the router: it answers the errors of handlers, unknown paths, bodies that cannot be
 * read, refusals of the framework without a body, and every defect with a 500 that is logged once. Routes with an error that has
 * no status do not compile.
 */
export const around = <A, E, R>(
  routes: [Unmapped<R>] extends [never] ? Layer.Layer<A, E, R> : { readonly errorsWithoutStatus: Unmapped<R> },
  options: AroundOptions = {}
): Layer.Layer<A, E, HttpRouter.HttpRouter | Exclude<R, HttpRouter.Request<"Error", unknown>>> =>
  // The condition above decides only whether it compiles. The renderer comes first, so it is outside the middleware of the routes.
  Layer.provideMerge(routes as Layer.Layer<A, E, HttpRouter.HttpRouter>, renderer(options))

const renderer = (options: AroundOptions): Layer.Layer<never, never, HttpRouter.HttpRouter> =>
  Layer.effectDiscard(
    Effect.flatMap(HttpRouter.HttpRouter, (router) =>
      router.addGlobalMiddleware((app) =>
        Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
          Effect.map(
            Effect.catchCause(app, (cause) => fromCause(cause, options)),
            (response) => (response.status < 400 ? response : rendered(response, request))
          )
        )
      )
    )
  )

function fieldsOf({ code, error }: Options) {
  return {
    code: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed(code))),
    error: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed(error))),
    metadata: Schema.optional(Schema.Record(Schema.String, Schema.Json)),
    retryAfter: Schema.optional(Schema.Duration)
  }
}

const overloaded = (retryAfter?: Duration.Duration, metadata?: Fields["metadata"]) =>
  new Unavailable({ code: "OVERLOADED", error: "The server has too much to do", metadata, retryAfter })

const storeAway = (error: string) =>
  new Unavailable({ code: "STORE_UNAVAILABLE", error, retryAfter: Duration.seconds(1) })

const keyStoreAway = () => storeAway("It cannot be known now whether this request was carried out")

const refusals = {
  BatcherFull: () => overloaded(),
  BulkheadFull: () => overloaded(),
  CircuitOpen: ({ retryAfter }: CircuitOpen) => new CircuitIsOpen({ retryAfter }),
  DeadlineExceeded: () =>
    new GatewayTimeout({ code: "DEADLINE_EXCEEDED", error: "There was not enough time for the request" }),
  IdempotencyKeyInUse: ({ retryAfter }: IdempotencyKeyInUse) =>
    new Conflict({
      code: "IDEMPOTENCY_KEY_IN_USE",
      error: "A request with this Idempotency-Key is being carried out",
      metadata: { header: "Idempotency-Key" },
      retryAfter
    }),
  IdempotencyKeyReused: () =>
    new Unprocessable({
      code: "IDEMPOTENCY_KEY_REUSED",
      error: "Idempotency-Key: was used for another request",
      metadata: { header: "Idempotency-Key" }
    }),
  IdempotencyStoreError: keyStoreAway,
  IdempotencyStoreFull: keyStoreAway,
  LimitReached: () => overloaded(),
  Overloaded: ({ priority, retryAfter }: Overloaded) => overloaded(retryAfter, { priority }),
  RateLimited: ({ retryAfter }: RateLimited) => new TooManyRequests({ retryAfter }),
  RateLimitStoreError: () => storeAway("The limits cannot be checked now"),
  Throttled: ({ retryAfter }: Throttled) => overloaded(retryAfter),
  TimedOut: () => new GatewayTimeout({})
} satisfies { readonly [K in Refusal["_tag"]]: (refusal: Extract<Refusal, { readonly _tag: K }>) => ApiError }

const isRefusal = (error: unknown): error is Refusal =>
  error instanceof Error && "_tag" in error && typeof error._tag === "string" && Object.hasOwn(refusals, error._tag)

const headersOf = ({ retryAfter }: ApiError): Record<string, string> => {
  const seconds = retryAfterSeconds(retryAfter)
  return seconds === undefined ? {} : { "retry-after": String(seconds) }
}

const maxBodyBytes = Effect.map(Effect.service(HttpIncomingMessage.MaxBodySize), (size): number | undefined =>
  size === undefined ? undefined : ByteSize.toNumberUnsafe(size)
)

const unreadable = (
  error: HttpServerError.HttpServerError,
  maxBytes: number | undefined
): InvalidRequest | PayloadTooLarge => {
  const { reason } = error
  return reason._tag === "RequestParseError" && reason.reason === "BodyTooLarge"
    ? bodyTooLarge(maxBytes)
    : new InvalidRequest({ error: "body: cannot be read", metadata: { field: "body" } })
}

// What a handler did not answer itself.
const fromCause = Effect.fnUntraced(function* <E>(cause: Cause.Cause<E>, options: AroundOptions) {
  if (Cause.hasInterruptsOnly(cause)) return yield* Effect.failCause(cause)
  // A defect beside a failure is the worse of the two.
  const died = Cause.hasDies(cause)
  for (const reason of cause.reasons) {
    const error: unknown = reason._tag === "Fail" ? reason.error : reason._tag === "Die" ? reason.defect : undefined
    if (HttpServerResponse.isHttpServerResponse(error)) return error
    if (HttpServerError.isHttpServerError(error)) {
      if (error.reason._tag === "RouteNotFound") {
        const { notFound = "There is nothing at this address" } = options
        return toResponse(withoutStack(() => new NotFound({ code: "ROUTE_NOT_FOUND", error: notFound })))
      }
      if (error.reason._tag === "RequestParseError") {
        return toResponse(unreadable(error, yield* maxBodyBytes))
      }
    }
    if (died || reason._tag !== "Fail") continue
    if (isApiError(error)) return toResponse(error)
    if (isRefusal(error)) return toResponse(fromRefusal(error))
    if (HttpServerRespondable.isRespondable(error) && !isMistake(error))
      return yield* HttpServerRespondable.toResponse(error)
  }
  yield* Effect.annotateLogs(Effect.logError("A request failed on a defect", cause), { event: "http.defect" })
  return toResponse(new InternalError({}))
})

// What the server did wrong itself: it has a response, but must be logged.
const isMistake = (error: unknown): boolean =>
  HttpServerError.isHttpServerError(error) || HttpApiError.HttpApiSchemaError.is(error)

const json = "application/json"
const problemJson = "application/problem+json"

const rendered = (
  response: HttpServerResponse.HttpServerResponse,
  request: HttpServerRequest.HttpServerRequest
): HttpServerResponse.HttpServerResponse => {
  const type = response.headers["content-type"]?.split(";", 1)[0]?.trim().toLowerCase()
  if (type === problemJson) return response
  const described = type === json ? response : withBody(response, undescribed(response.status))
  const negotiated = HttpServerResponse.setHeader(described, "vary", withAccept(described.headers["vary"]))
  if (!prefersProblem(request.headers["accept"]) || negotiated.body._tag !== "Uint8Array") return negotiated
  const body = decodeBody(negotiated.body.body)
  return body._tag === "None" ? negotiated : withBody(negotiated, problemOf(negotiated.status, body.value), problemJson)
}

// A refusal of the framework comes as plain text or without a body. What else it says, such as `Allow`, stays.
const withBody = (
  response: HttpServerResponse.HttpServerResponse,
  body: unknown,
  contentType = json
): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(body, {
    status: response.status,
    headers: without(response.headers, "content-length", "content-type"),
    cookies: response.cookies,
    contentType
  })

const undescribed = (status: number): Body => ({
  ...(status === 415
    ? { ...toBody(new UnsupportedMediaType({})), metadata: { field: "content-type" } }
    : { error: "The request cannot be answered", code: `HTTP_${status}`, metadata: {} }),
  statusCode: status
})

const without = <A>(all: Readonly<Record<string, A>>, ...names: ReadonlyArray<string>): Record<string, A> =>
  Object.fromEntries(Object.entries(all).filter(([name]) => !names.includes(name)))

const withAccept = (vary: string | undefined): string =>
  vary === undefined || vary.trim() === ""
    ? "accept"
    : /(^|,)\s*(accept|\*)\s*(,|$)/i.test(vary)
      ? vary
      : `${vary}, accept`

// Named, and wanted at least as much as plain JSON where that is named too: `*/*` is answered as ever.
const prefersProblem = (accept: string | undefined): boolean => {
  if (accept === undefined || !/problem\+json/i.test(accept)) return false
  const weights = new Map<string, number>()
  for (const range of accept.split(",")) {
    const [type = "", ...parameters] = range.split(";").map((part) => part.trim().toLowerCase())
    const q = parameters.find((parameter) => parameter.startsWith("q="))?.slice(2)
    weights.set(type, q === undefined ? 1 : Number(q))
  }
  const problem = weights.get(problemJson) ?? 0
  return problem > 0 && problem >= (weights.get(json) ?? 0)
}

const decodeBody = (bytes: Uint8Array) =>
  Schema.decodeOption(Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown)))(
    new TextDecoder().decode(bytes)
  )

// The type says nothing beyond the status (RFC 9457, 4.2.1): `code` tells the kinds apart.
const problemOf = (status: number, { error, ...others }: Record<string, unknown>) => ({
  type: "about:blank",
  title: titles[status] ?? `HTTP ${status}`,
  status,
  ...(typeof error === "string" ? { detail: error } : {}),
  ...without(others, "statusCode")
})

// RFC 9110, 15.5 and 15.6; RFC 6585.
const titles: Readonly<Record<number, string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  402: "Payment Required",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  406: "Not Acceptable",
  408: "Request Timeout",
  409: "Conflict",
  410: "Gone",
  411: "Length Required",
  412: "Precondition Failed",
  413: "Content Too Large",
  414: "URI Too Long",
  415: "Unsupported Media Type",
  422: "Unprocessable Content",
  425: "Too Early",
  428: "Precondition Required",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout"
}

// The name by which a part of a request is called when all of it is wrong.
const partOf = (kind: HttpApiError.HttpApiSchemaError["kind"]): string =>
  kind === "Payload"
    ? "body"
    : kind === "Query"
      ? "query"
      : kind === "Params"
        ? "path"
        : kind === "Headers"
          ? "headers"
          : "request"

// A schema says what it expects in the words of its encoding, unless it has a message of its own.
const inOwnWords = (message = "is invalid"): string =>
  message.startsWith("Expected a string representing a finite number") ? "must be a number" : message

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()
