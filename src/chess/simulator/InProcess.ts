/**
 * Carries requests to the stand-ins without a network: an `HttpClient` for tests on virtual time.
 *
 * The path decides who answers: one with `/pub/` in it goes to Chess.com, one with `/api/` to Lichess, whatever the host;
 * any other goes by a host that contains `lichess` or `chess.com`. A body is pulled as it is read; leaving it, or aborting
 * the request, closes it, and so does nothing else: a body that is never read keeps its export open, as on the site.
 */
import { Effect, Inspectable, Option, Schema, Stream } from "effect"
import {
  Cookies,
  Headers,
  HttpClient,
  HttpClientError,
  HttpClientResponse,
  HttpIncomingMessage,
  UrlParams
} from "effect/http"
import type { HttpBody, HttpClientRequest } from "effect/http"
import { pipeArguments } from "effect/Pipeable"
import type { Socket } from "effect/socket"
import type * as Reply from "./Reply.ts"

type Handle = <A>(request: Reply.Request, take: (reply: Reply.Reply) => A) => Effect.Effect<A>

/** Creates the client. */
export const make = (sites: { readonly lichess: Handle; readonly chessCom: Handle }): HttpClient.HttpClient =>
  HttpClient.make((request, url, signal) =>
    Effect.gen(function* () {
      const site = url.pathname.includes("/pub/")
        ? sites.chessCom
        : url.pathname.includes("/api/") || url.hostname.includes("lichess")
          ? sites.lichess
          : url.hostname.includes("chess.com")
            ? sites.chessCom
            : undefined
      if (site === undefined) {
        return yield* transportError(request, failure("ENOTFOUND", `getaddrinfo ENOTFOUND ${url.hostname}`))
      }
      const body = yield* textOf(request.body)
      const response = yield* site(
        {
          method: request.method,
          origin: url.origin,
          path: url.pathname,
          query: url.searchParams,
          headers: request.headers,
          body,
          address: "in-process"
        },
        (reply) => {
          if (reply === "reset") return undefined
          if (!(reply.body instanceof Uint8Array)) {
            if (signal.aborted) reply.body.close()
            else signal.addEventListener("abort", reply.body.close, { once: true })
          }
          return new SimulatedResponse(request, reply, url.href, signal)
        }
      )
      return response ?? (yield* transportError(request, failure("UND_ERR_SOCKET", "other side closed")))
    })
  )

const decoder = new TextDecoder()

const textOf = (body: HttpBody.HttpBody): Effect.Effect<string> => {
  switch (body._tag) {
    case "Uint8Array":
      return Effect.succeed(decoder.decode(body.body))
    case "Raw":
      return Effect.succeed(typeof body.body === "string" ? body.body : "")
    case "Stream":
      return Effect.map(Effect.orDie(Stream.mkUint8Array(body.stream)), (bytes) => decoder.decode(bytes))
    default:
      return Effect.succeed("")
  }
}

// What undici gives as the cause of a broken connection.
const failure = (code: string, message: string): Error => Object.assign(new Error(message), { code })

const transportError = (
  request: HttpClientRequest.HttpClientRequest,
  cause: Error
): Effect.Effect<never, HttpClientError.HttpClientError> =>
  Effect.fail(new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) }))

class SimulatedResponse extends Inspectable.Class implements HttpClientResponse.HttpClientResponse {
  readonly [HttpIncomingMessage.TypeId]: typeof HttpIncomingMessage.TypeId
  readonly [HttpClientResponse.TypeId]: typeof HttpClientResponse.TypeId
  readonly request: HttpClientRequest.HttpClientRequest
  readonly url: string
  readonly status: number
  readonly headers: Headers.Headers
  readonly cookies = Cookies.empty
  readonly remoteAddress = Option.none<string>()
  readonly stream: Stream.Stream<Uint8Array, HttpClientError.HttpClientError>
  readonly arrayBuffer: Effect.Effect<ArrayBuffer, HttpClientError.HttpClientError>

  constructor(request: HttpClientRequest.HttpClientRequest, answer: Reply.Answer, url: string, signal: AbortSignal) {
    super()
    this[HttpIncomingMessage.TypeId] = HttpIncomingMessage.TypeId
    this[HttpClientResponse.TypeId] = HttpClientResponse.TypeId
    this.request = request
    this.url = url.split("#")[0] ?? url
    this.status = answer.status
    this.headers = Headers.fromInput(answer.headers)
    this.stream = read(answer.body, signal, (cause) => this.decodeError(cause))
    this.arrayBuffer = Effect.runSync(
      Effect.cached(Effect.map(Stream.mkUint8Array(this.stream), (bytes) => bytes.buffer))
    )
  }

  get text(): Effect.Effect<string, HttpClientError.HttpClientError> {
    return Effect.map(this.arrayBuffer, (bytes) => decoder.decode(bytes))
  }

  get json(): Effect.Effect<Schema.Json, HttpClientError.HttpClientError> {
    return Effect.flatMap(this.text, (text) =>
      text === "" ? Effect.succeed(null) : Effect.mapError(parseJson(text), (cause) => this.decodeError(cause))
    )
  }

  get urlParamsBody(): Effect.Effect<UrlParams.UrlParams, HttpClientError.HttpClientError> {
    return Effect.map(this.text, (text) => UrlParams.fromInput(new URLSearchParams(text)))
  }

  get formData(): Effect.Effect<FormData, HttpClientError.HttpClientError> {
    return Effect.fail(this.decodeError(new Error("The body is not a form")))
  }

  get upgrade(): Effect.Effect<Socket.Socket, HttpClientError.HttpClientError> {
    return Effect.fail(
      new HttpClientError.HttpClientError({
        reason: new HttpClientError.StatusCodeError({
          request: this.request,
          response: this,
          description: "The stand-ins have no upgrades"
        })
      })
    )
  }

  toJSON(): unknown {
    return HttpIncomingMessage.inspect(this, {
      _id: "effect-resilience/chess/simulator/Response",
      request: this.request.toJSON(),
      status: this.status
    })
  }

  pipe() {
    return pipeArguments(this, arguments)
  }

  private decodeError(cause: unknown): HttpClientError.HttpClientError {
    return new HttpClientError.HttpClientError({
      reason: new HttpClientError.DecodeError({ request: this.request, response: this, cause })
    })
  }
}

const parseJson = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Json))

const read = (
  body: Uint8Array | Reply.Body,
  signal: AbortSignal,
  onError: (cause: unknown) => HttpClientError.HttpClientError
): Stream.Stream<Uint8Array, HttpClientError.HttpClientError> => {
  if (body instanceof Uint8Array) return body.length === 0 ? Stream.empty : Stream.succeed(body)
  const pull: Effect.Effect<Uint8Array | undefined, HttpClientError.HttpClientError> = Effect.clockWith((clock) => {
    const step = signal.aborted ? "reset" : body.next(clock.currentTimeMillisUnsafe())
    if (step === "end") return Effect.undefined
    if (step === "stall") return Effect.never
    if (step === "reset") {
      body.close()
      return Effect.fail(onError(failure("UND_ERR_SOCKET", "other side closed")))
    }
    if (step instanceof Uint8Array) return Effect.succeed(step)
    return step.millis > 0 ? Effect.andThen(Effect.sleep(step.millis), pull) : pull
  })
  return Stream.unfold(true, () =>
    Effect.map(pull, (chunk) => {
      if (chunk !== undefined) return [chunk, true] as const
      body.close()
      return undefined
    })
  ).pipe(Stream.ensuring(Effect.sync(body.close)))
}
