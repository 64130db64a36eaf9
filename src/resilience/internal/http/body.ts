/**
 * What becomes of the body of a response: it is read under watch, or got rid of.
 */
import { type Duration, Effect, Stream } from "effect"
import { type Headers, HttpClientError, type HttpClientResponse } from "effect/http"
import * as Timeout from "../../Timeout.ts"
import type { Connection } from "./connection.ts"
import { BodyResponse, bodyOf, hasNoBody } from "./responses.ts"

/**
 * The response with a body that may pause for so long at most, and whose connection is closed when it is not read to its
 * end. A pause fails with a `TransportError` caused by `TimedOut`.
 */
export const watched = (
  response: HttpClientResponse.HttpClientResponse,
  connection: Connection,
  idle: Duration.Input,
  headers: Headers.Headers = response.headers
): HttpClientResponse.HttpClientResponse => {
  const { cookies, remoteAddress, request, status, upgrade, url } = response
  const stalled = (cause: unknown) =>
    new HttpClientError.HttpClientError({
      reason: new HttpClientError.TransportError({ request, cause, description: "the body stalled" })
    })
  return new BodyResponse({
    request,
    url,
    status,
    headers,
    cookies,
    remoteAddress,
    upgrade,
    body: () =>
      Stream.ensuring(
        Stream.transformPull(bodyOf(response), (pull) =>
          Effect.succeed(
            Effect.mapError(Timeout.timeout(pull, idle), (error) =>
              error instanceof Timeout.TimedOut ? stalled(error) : error
            )
          )
        ),
        connection.close
      )
  })
}

/** How much of a body, and for how long, is read so that its connection can be used again. */
export interface Drain {
  readonly maxBytes: number
  readonly maxTime: Duration.Duration
}

/** Gives up a response: its connection is free when this ends, read to the end if that is little, or else closed. */
export const discard = (
  response: HttpClientResponse.HttpClientResponse,
  connection: Connection,
  { maxBytes, maxTime }: Drain
): Effect.Effect<void> => {
  if (!hasNoBody(response) && Number(response.headers["content-length"] ?? 0) > maxBytes) return connection.close
  let size = 0
  return response.stream.pipe(
    Stream.runForEachWhile((chunk) => Effect.sync(() => (size += chunk.byteLength) <= maxBytes)),
    Timeout.timeout(maxTime),
    Effect.ignore,
    Effect.ensuring(connection.close)
  )
}
