/**
 * Writes one structured line for each request: which route, what was answered, and how long it took.
 *
 * The line has the method, the template of the route (`/users/:id`, the path only where no route is known), the status and the
 * duration to the head of the response. The ids are on it when this is inside `RequestContext`. It has no query, no header and
 * no body, so no secret comes into it.
 *
 * Put it inside `RequestContext` and outside everything that answers, `ApiError.around` included. What a client did not wait for
 * is logged as 499.
 *
 * | defaults | `slowAfter` 5 seconds: a warning, as is a status from 500 | quiet (level debug): `/health`, `/metrics`, below them |
 */
import { Context, Duration, Effect, Exit, type Fiber, Layer } from "effect"
import { HttpRouter, HttpServerError, HttpServerRequest, type HttpServerResponse } from "effect/http"
import { exempts, pathOf } from "../internal/http/paths.ts"
import { nowMillisUnsafe } from "../internal/monotonic.ts"

/** What is worth a warning, and what is worth nothing. */
export interface Options {
  /** From which duration on a request is a warning; a stream of events is not. Defaults to 5 seconds. */
  readonly slowAfter?: Duration.Input | undefined
  /** Paths that are logged at level debug, exactly as written; one that ends in `/*` also means all below it. */
  readonly quiet?: ReadonlyArray<string> | undefined
}

/** A middleware of the router. */
export type Middleware = <E, R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest>

/** Creates the middleware. Options that make no sense are a defect, not an error. */
export const make = (options: Options = {}): Middleware => {
  const slowMillis = Duration.toMillis(Duration.fromInputUnsafe(options.slowAfter ?? "5 seconds"))
  if (!(slowMillis > 0)) throw new RangeError(`RequestLog: slowAfter must be over zero, got ${slowMillis} ms`)
  const isQuiet = exempts(options.quiet ?? ["/health", "/health/*", "/metrics", "/metrics/*"])

  const write = (
    fiber: Fiber.Fiber<unknown, unknown>,
    request: HttpServerRequest.HttpServerRequest,
    startedAt: number,
    { headers, status }: HttpServerResponse.HttpServerResponse
  ) => {
    const duration = nowMillisUnsafe(fiber) - startedAt
    const route = Context.getOrUndefined(fiber.context, HttpRouter.RouteContext)?.route.path
    const isStream = headers["content-type"]?.startsWith("text/event-stream") === true
    const slow = duration >= slowMillis && !isStream
    const log = status >= 500 || slow ? Effect.logWarning : isQuiet(request) ? Effect.logDebug : Effect.logInfo
    return Effect.annotateLogs(log("Answered a request"), {
      event: "http.request",
      method: request.method,
      ...(route === undefined ? { path: pathOf(request).slice(0, maxPathLength) } : { route }),
      status,
      durationMillis: Math.round(duration),
      ...(slow ? { slow } : {})
    })
  }

  return (app) =>
    Effect.withFiber((fiber) => {
      const request = Context.getUnsafe(fiber.context, HttpServerRequest.HttpServerRequest)
      const startedAt = nowMillisUnsafe(fiber)
      return Effect.onExit(app, (exit) =>
        Exit.isSuccess(exit)
          ? write(fiber, request, startedAt, exit.value)
          : Effect.flatMap(HttpServerError.causeResponse(exit.cause), ([response]) =>
              write(fiber, request, startedAt, response)
            )
      )
    })
}

/** Puts the middleware around all routes of the router. */
export const layer = (options: Options = {}): Layer.Layer<never, never, HttpRouter.HttpRouter> =>
  Layer.effectDiscard(
    Effect.flatMap(HttpRouter.HttpRouter, (router) => {
      const middleware = make(options)
      return router.addGlobalMiddleware((app) => middleware(app))
    })
  )

// Whoever asks for nothing that is there must not fill the log.
const maxPathLength = 512
