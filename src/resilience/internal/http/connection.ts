/**
 * Holds what one request has opened, from before it is sent until its body has been read or is not wanted any more.
 *
 * Effect's client gives a connection back when the body has been read, or when a response that nobody read is garbage. The
 * second is too late for a pool with a few connections, and an interruption can lose a response between two steps. So
 * every request here runs in a scope of its own, which exists before the request and whose end aborts it.
 */
import { Context, Effect, Exit, Scope } from "effect"
import { HttpClient, type HttpClientError, type HttpClientRequest, type HttpClientResponse } from "effect/http"

/** One request, and the scope it runs in. */
export class Connection {
  // The request is aborted at once, whatever else takes its time to be closed.
  private readonly scope = Scope.makeUnsafe("parallel")

  /** Aborts the request. Where the response has been read to its end, that changes nothing. */
  readonly close: Effect.Effect<void> = Scope.close(this.scope, Exit.void)

  /** Does the same at once. */
  closeUnsafe(): void {
    Effect.runFork(this.close)
  }

  /** Runs the finalizer when it is closed: now, if it is. */
  onClose(finalizer: Effect.Effect<void>): Effect.Effect<void> {
    return Scope.addFinalizer(this.scope, finalizer)
  }

  /** Runs what sends the request in the scope. */
  run<A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Scope.Scope>> {
    return Effect.provideService(self, Scope.Scope, this.scope)
  }
}

/** Sends a request through the client inside, in a connection. */
export type Open<E, R> = (
  request: HttpClientRequest.HttpClientRequest,
  connection: Connection
) => Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>

/** What is done with a request, whose URL is complete. Whoever gets the response gives it up by the signal. */
export type Send<E, R> = (
  request: HttpClientRequest.HttpClientRequest,
  url: URL,
  signal: AbortSignal
) => Effect.Effect<HttpClientResponse.HttpClientResponse, E, R>

/**
 * A client that does with the requests of another what `make` says.
 *
 * Built with `HttpClient.make`, so that `HttpClient.withScope` around it reaches through, and a response that nobody
 * reads is given up when it is garbage. The span is left to the client inside: there is one per request that is sent.
 */
export const clientOf = <E, R, E2, R2>(
  self: HttpClient.HttpClient.With<E, R>,
  make: (open: Open<E, Exclude<R, Scope.Scope>>) => Send<E2, R2>
): HttpClient.HttpClient.With<E | E2 | HttpClientError.HttpClientError, R | R2> => {
  const scoped = HttpClient.withScope(self)
  const send = make((request, connection) => connection.run(scoped.postprocess(Effect.succeed(request))))
  const outer = HttpClient.make((request, url, signal, fiber) => {
    const sent = Effect.provideService(
      send(request, url, signal),
      HttpClient.TracerDisabledWhen,
      fiber.getRef(Disabled)
    )
    // The services of the call are in the fiber, and its errors pass through untouched: the type below has both.
    return sent as never
  })
  return HttpClient.makeWith<E, R, E | E2 | HttpClientError.HttpClientError, R | R2>(
    Effect.flatMap((request) =>
      Effect.withFiber((fiber) =>
        outer.postprocess(Effect.succeed(request)).pipe(
          Effect.provideService(Disabled, fiber.getRef(HttpClient.TracerDisabledWhen)),
          Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
        )
      )
    ),
    self.preprocess
  )
}

// What was said about spans outside, for the requests that are sent.
const Disabled = Context.Reference("effect-resilience/http/TracerDisabledWhen", {
  defaultValue: (): ((request: HttpClientRequest.HttpClientRequest) => boolean) => () => false
})
