/**
 * Sends requests through an app in memory, from the middleware to the response as it is sent, on the clock of the test.
 */
import { Effect, type Layer, Option, type Scope } from "effect"
import { HttpEffect, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"

export interface Sent {
  readonly method?: string | undefined
  /** The address of the peer. */
  readonly from?: string | undefined
  readonly headers?: Record<string, string> | undefined
  readonly body?: string | undefined
}

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly cookies: ReadonlyArray<string>
  readonly body: string
}

/** Sends a request, and succeeds with what is sent back. */
export type Ask = (path: string, request?: Sent) => Effect.Effect<Answer>

/** Builds the app for as long as the scope is open. */
export const serveInMemory = <E>(
  layer: Layer.Layer<never, E, HttpRouter.HttpRouter>
): Effect.Effect<Ask, E, Scope.Scope> =>
  Effect.map(HttpRouter.toHttpEffect(layer) as Effect.Effect<App, E, Scope.Scope>, (app) => (path, request = {}) => {
    const { body, from = "203.0.113.9", headers = {}, method = "GET" } = request
    return Effect.gen(function* () {
      const web = new Request(`http://localhost${path}`, { method, headers, ...(body === undefined ? {} : { body }) })
      const received = HttpServerRequest.fromWeb(web).modify({ remoteAddress: Option.some(from) })
      const sent: Array<Answer> = []
      // Read while the request is still open, as a server does.
      const send = (response: HttpServerResponse.HttpServerResponse) =>
        Effect.gen(function* () {
          const answer = HttpServerResponse.toWeb(response, { context: yield* Effect.context() })
          sent.push({
            status: answer.status,
            headers: Object.fromEntries(answer.headers),
            cookies: answer.headers.getSetCookie(),
            body: yield* Effect.promise(() => answer.text())
          })
        })
      yield* HttpEffect.toHandled(app, (_, response) => send(response)).pipe(
        Effect.provideService(HttpServerRequest.HttpServerRequest, received),
        Effect.ignoreCause
      )
      return sent[0] ?? { status: 0, headers: {}, cookies: [], body: "" }
    })
  })

type App = Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  unknown,
  HttpServerRequest.HttpServerRequest | Scope.Scope
>
