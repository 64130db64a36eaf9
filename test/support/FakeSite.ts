/**
 * A web site in memory that answers as a test says, under virtual time, and counts what is asked and left open.
 */
import { Effect, Stream } from "effect"
import { HttpClient, HttpClientError, type HttpClientRequest, HttpClientResponse } from "effect/http"

/** What was asked. */
export interface Asked {
  readonly method: string
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** What is answered. */
export interface Reply {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array | Stream.Stream<Uint8Array, Error>
}

export interface FakeSite {
  readonly client: HttpClient.HttpClient
  readonly asked: Array<Asked>
  /** Connections that are in use: from the request until the body has been read, or the request was given up. */
  readonly open: () => number
  /** The most connections that were in use at the same time. */
  readonly maxOpen: () => number
}

/** Creates a site. `answer` is given what is asked and how many requests came before it. */
export const make = (
  answer: (asked: Asked, index: number) => Reply | Effect.Effect<Reply, "reset" | "refused">
): FakeSite => {
  const asked: Array<Asked> = []
  const open = new Set<AbortSignal>()
  let maxOpen = 0

  const client = HttpClient.make((request, url, signal) =>
    Effect.gen(function* () {
      open.add(signal)
      maxOpen = Math.max(maxOpen, open.size)
      signal.addEventListener("abort", () => open.delete(signal))
      const seen: Asked = { method: request.method, url, headers: request.headers, body: bodyOf(request) }
      const reply = answer(seen, asked.push(seen) - 1)
      const { body, headers, status } = yield* Effect.isEffect(reply) ? reply : Effect.succeed(reply)
      const bytes =
        body === undefined
          ? Stream.empty
          : typeof body === "string"
            ? Stream.succeed(new TextEncoder().encode(body))
            : body instanceof Uint8Array
              ? Stream.succeed(body)
              : body
      const context = yield* Effect.context<never>()
      const readable = bytes.pipe(
        Stream.ensuring(Effect.sync(() => open.delete(signal))),
        Stream.toReadableStreamWith(context, { strategy: { highWaterMark: 0 }, signal })
      )
      const code = status ?? 200
      const hasBody = code !== 304 && code !== 204
      if (!hasBody) open.delete(signal)
      return HttpClientResponse.fromWeb(
        request,
        new Response(hasBody ? readable : null, { status: code, headers: headers ?? {} })
      )
    }).pipe(
      Effect.onError(() => Effect.sync(() => open.delete(signal))),
      Effect.mapError(
        (code) =>
          new HttpClientError.HttpClientError({
            reason: new HttpClientError.TransportError({
              request,
              cause: { code: code === "reset" ? "UND_ERR_SOCKET" : "ECONNREFUSED" }
            })
          })
      )
    )
  )

  return { client, asked, open: () => open.size, maxOpen: () => maxOpen }
}

const bodyOf = ({ body }: HttpClientRequest.HttpClientRequest): string =>
  body._tag === "Uint8Array" ? new TextDecoder().decode(body.body) : ""
