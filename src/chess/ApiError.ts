/**
 * The errors of the HTTP API: one class per status, one body for all of them.
 *
 * The body is `{"error", "code", "statusCode", "metadata"}`: a sentence for people, a name for programs, the status
 * again, and what else is known; `metadata.field` names the part of the request that was refused. `Retry-After` is sent
 * when it is known when asking again makes sense. No error carries a stack or the text of a foreign failure.
 */
import { Duration, Schema, SchemaIssue } from "effect"
import { HttpApiSchema, type HttpApiError } from "effect/http-api"

/** The body of every error response. */
export const ErrorBody = Schema.Struct({
  error: Schema.String.annotate({ description: "What is wrong, as a sentence." }),
  code: Schema.String.annotate({ description: "What is wrong, for programs, in UPPER_SNAKE_CASE." }),
  statusCode: Schema.Int.annotate({ description: "The HTTP status, again." }),
  metadata: Schema.Record(Schema.String, Schema.Json).annotate({
    description: "What else is known. `field` names the part of the request that was refused."
  })
}).annotate({ identifier: "Error" })
export type ErrorBody = typeof ErrorBody.Type

const fields = {
  code: Schema.String,
  error: Schema.String,
  metadata: Schema.optional(Schema.Record(Schema.String, Schema.Json)),
  /** When asking again makes sense; sent as `Retry-After` in whole seconds, rounded up. */
  retryAfter: Schema.optional(Schema.Duration)
}
type Fields = Schema.Struct.Type<typeof fields>

/** 400: a part of the request makes no sense; `metadata.field` names it. */
export class InvalidRequest extends Schema.TaggedError<InvalidRequest>()("InvalidRequest", fields) {
  override get message() {
    return this.error
  }
}

/** 401: an API key was given, but nobody has it. */
export class Unauthorized extends Schema.TaggedError<Unauthorized>()("Unauthorized", fields) {
  override get message() {
    return this.error
  }
}

/** 404: the import, game or page does not exist. */
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", fields) {
  override get message() {
    return this.error
  }
}

/** 413: the body is larger than the server reads. */
export class PayloadTooLarge extends Schema.TaggedError<PayloadTooLarge>()("PayloadTooLarge", fields) {
  override get message() {
    return this.error
  }
}

/** 429: this caller has too much under way. */
export class TooManyRequests extends Schema.TaggedError<TooManyRequests>()("TooManyRequests", fields) {
  override get message() {
    return this.error
  }
}

/** 500: a mistake of the server. What it was is in its log only. */
export class InternalError extends Schema.TaggedError<InternalError>()("InternalError", fields) {
  override get message() {
    return this.error
  }
}

/** 503: a chess site, or this server, cannot do it now. */
export class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", fields) {
  override get message() {
    return this.error
  }
}

/** 504: a chess site did not answer in time, retries included. */
export class TimedOut extends Schema.TaggedError<TimedOut>()("TimedOut", fields) {
  override get message() {
    return this.error
  }
}

/** A duration as `Retry-After` has it: whole seconds, rounded up, at least one. */
export const retryAfterSeconds = (retryAfter: Duration.Duration): number =>
  Math.max(1, Math.ceil(Duration.toSeconds(retryAfter)))

/** The body of an error that is not one of the classes above. */
export const errorBody = (status: number, error: Omit<Fields, "retryAfter">): ErrorBody => ({
  error: error.error,
  code: error.code,
  statusCode: status,
  metadata: error.metadata ?? {}
})

/** What an `InternalError` says, whatever happened. */
export const internalError = { code: "INTERNAL_ERROR", error: "Something went wrong on the server" }

/** What a refusal of a body over the limit says. */
export const payloadTooLarge = (maxBytes: number) => ({
  code: "BODY_TOO_LARGE",
  error: `The body is larger than ${maxBytes} bytes`,
  metadata: { field: "body", maxBytes }
})

/** The refusal of a request that does not fit its schema. It says nothing about the value that came. */
export const fromSchemaError = (schemaError: HttpApiError.HttpApiSchemaError): InvalidRequest => {
  const issue = formatIssue(schemaError.cause.issue).issues[0]
  const path = issue?.path?.map((segment) => String(typeof segment === "object" ? segment.key : segment)) ?? []
  const field = path.length > 0 ? path.join(".") : (slots[schemaError.kind] ?? "request")
  return new InvalidRequest({
    code: "INVALID_REQUEST",
    error: `${field}: ${field === slots["Payload"] ? "must be a JSON object" : inOwnWords(issue?.message)}`,
    metadata: { field }
  })
}

// A schema says what it expects in the words of its encoding, unless it has a message of its own.
const inOwnWords = (message = "is invalid"): string =>
  message.startsWith("Expected a string representing a finite number") ? "must be a number" : message

/** An error class as a response: its status, its body and its `Retry-After`. */
export const response =
  (status: number) =>
  <S extends Schema.Top & { readonly Type: Fields } & (new (props: Fields) => S["Type"])>(error: S) =>
    error.pipe(
      HttpApiSchema.encodeToWithHeaders(
        {
          body: ErrorBody.pipe(HttpApiSchema.status(status)),
          headers: { "retry-after": Schema.optional(Schema.Int) }
        },
        {
          decode: ({ body, headers }) => {
            const seconds = headers["retry-after"]
            return new error({
              code: body.code,
              error: body.error,
              metadata: body.metadata,
              ...(seconds === undefined ? {} : { retryAfter: Duration.seconds(seconds) })
            })
          },
          encode: (failure) => ({
            body: errorBody(status, failure),
            headers: failure.retryAfter === undefined ? {} : { "retry-after": retryAfterSeconds(failure.retryAfter) }
          })
        }
      )
    )

/** The name by which a part of a request is called when all of it is wrong. */
const slots: Record<string, string> = { Payload: "body", Query: "query", Params: "path", Headers: "headers" }

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()
