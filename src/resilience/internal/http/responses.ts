/**
 * A response whose body is read from one stream, in whichever form it is asked for: so whoever watches that stream sees
 * all that is read, and a body that was kept reads like one that has just come.
 */
import { Effect, Inspectable, Option, Pipeable, type Schema, Stream } from "effect"
import {
  type Cookies,
  type Headers,
  HttpClientError,
  type HttpClientRequest,
  HttpClientResponse,
  HttpIncomingMessage,
  UrlParams
} from "effect/http"
import type * as Socket from "effect/socket/Socket"

type BodyError = HttpClientError.HttpClientError

/** What a response is made of. */
export interface Parts {
  readonly request: HttpClientRequest.HttpClientRequest
  readonly url: string
  readonly status: number
  readonly headers: Headers.Headers
  readonly cookies: Cookies.Cookies
  readonly remoteAddress: Option.Option<string>
  /** Reads the body, once. The response is the one that is being made, for errors. */
  readonly body: (response: HttpClientResponse.HttpClientResponse) => Stream.Stream<Uint8Array, BodyError>
  /** Hands the connection over. Absent where there is none. */
  readonly upgrade?: Effect.Effect<Socket.Socket, BodyError> | undefined
}

/** A response made of its parts. */
export class BodyResponse extends Inspectable.Class implements HttpClientResponse.HttpClientResponse {
  readonly [HttpIncomingMessage.TypeId]: typeof HttpIncomingMessage.TypeId
  readonly [HttpClientResponse.TypeId]: typeof HttpClientResponse.TypeId
  readonly request: HttpClientRequest.HttpClientRequest
  readonly url: string
  readonly status: number
  readonly headers: Headers.Headers
  readonly cookies: Cookies.Cookies
  readonly remoteAddress: Option.Option<string>
  private readonly parts: Parts
  private buffer: Effect.Effect<ArrayBuffer, BodyError> | undefined

  constructor(parts: Parts) {
    super()
    this[HttpIncomingMessage.TypeId] = HttpIncomingMessage.TypeId
    this[HttpClientResponse.TypeId] = HttpClientResponse.TypeId
    this.parts = parts
    this.request = parts.request
    this.url = parts.url
    this.status = parts.status
    this.headers = parts.headers
    this.cookies = parts.cookies
    this.remoteAddress = parts.remoteAddress
  }

  get stream(): Stream.Stream<Uint8Array, BodyError> {
    return this.parts.body(this)
  }

  get arrayBuffer(): Effect.Effect<ArrayBuffer, BodyError> {
    return (this.buffer ??= Effect.runSync(Effect.cached(this.collect)))
  }

  get text(): Effect.Effect<string, BodyError> {
    return Effect.map(this.arrayBuffer, (bytes) => new TextDecoder().decode(bytes))
  }

  get json(): Effect.Effect<Schema.Json, BodyError> {
    return Effect.flatMap(this.text, (text) => this.decoded(() => (text === "" ? null : JSON.parse(text))))
  }

  get urlParamsBody(): Effect.Effect<UrlParams.UrlParams, BodyError> {
    return Effect.flatMap(this.text, (text) =>
      // A question mark at the beginning is part of the form.
      this.decoded(() => UrlParams.fromInput(new URLSearchParams(text.replace(/^\?/, "%3F"))))
    )
  }

  get formData(): Effect.Effect<FormData, BodyError> {
    return Effect.flatMap(this.arrayBuffer, (bytes) =>
      Effect.tryPromise({
        try: () => new globalThis.Response(bytes, { headers: this.headers }).formData(),
        catch: (cause) => this.undecodable(cause)
      })
    )
  }

  get upgrade(): Effect.Effect<Socket.Socket, BodyError> {
    return (
      this.parts.upgrade ??
      Effect.suspend(() =>
        Effect.fail(
          new HttpClientError.HttpClientError({
            reason: new HttpClientError.StatusCodeError({
              request: this.request,
              response: this,
              description: "expected 101 Switching Protocols"
            })
          })
        )
      )
    )
  }

  toJSON(): unknown {
    return HttpIncomingMessage.inspect(this, {
      _id: "HttpClientResponse",
      request: this.request.toJSON(),
      status: this.status
    })
  }

  pipe() {
    return Pipeable.pipeArguments(this, arguments)
  }

  private get collect(): Effect.Effect<ArrayBuffer, BodyError> {
    return Effect.withFiber((fiber) => {
      const most = fiber.getRef(HttpIncomingMessage.MaxBodySize)
      const chunks: Array<Uint8Array> = []
      let size = 0
      return this.stream.pipe(
        Stream.runForEachArray((more) => {
          for (const chunk of more) {
            chunks.push(chunk)
            size += chunk.byteLength
          }
          return most !== undefined && size > most
            ? Effect.fail(this.undecodable(new RangeError(`a body of over ${most} bytes`)))
            : Effect.void
        }),
        Effect.map(() => concat(chunks, size).buffer)
      )
    })
  }

  private decoded<A>(decode: () => A): Effect.Effect<A, BodyError> {
    return Effect.try({ try: decode, catch: (cause) => this.undecodable(cause) })
  }

  private undecodable(cause: unknown): BodyError {
    return new HttpClientError.HttpClientError({
      reason: new HttpClientError.DecodeError({ request: this.request, response: this, cause })
    })
  }
}

/** The body of a response. Clients disagree about one that is not there: here it is empty. */
export const bodyOf = (response: HttpClientResponse.HttpClientResponse): Stream.Stream<Uint8Array, BodyError> =>
  Stream.catchIf(
    response.stream,
    (error) => error.reason._tag === "EmptyBodyError",
    () => Stream.empty
  )

/** Joins chunks of `size` bytes together. */
export const concat = (chunks: ReadonlyArray<Uint8Array>, size: number): Uint8Array<ArrayBuffer> => {
  const all = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    all.set(chunk, at)
    at += chunk.byteLength
  }
  return all
}

/** The response to a HEAD, and some statuses, have no body whatever their fields say (RFC 9110, 6.4.1). */
export const hasNoBody = ({ request, status }: HttpClientResponse.HttpClientResponse): boolean =>
  request.method === "HEAD" || status === 204 || status === 304 || status < 200
