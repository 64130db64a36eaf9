/**
 * Refuses requests with 503 while a server has more to do than it can bear, the least important first.
 *
 * A `LoadShed` in front of the router: its signals are how late the event loop is and how many requests are in work, and any
 * others, such as the queue of a bulkhead. Health checks, metrics and administration always pass, since they are what finds
 * and mends the trouble. What a request passes through sees its priority.
 *
 * Put it outermost: a refusal should cost nothing. `Retry-After` is another for each, so that they do not come back together.
 *
 * | defaults | `maxInFlight` 1,000 | exempt: `/health`, `/metrics`, `/admin` and what is below them | priority as around it |
 * |          | `lag`, `thresholds`, `interval` and `retryAfter` as in `LoadShed` |
 */
import { Effect, Layer, type Scope } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { exempts } from "../internal/http/paths.ts"
import * as LoadShed from "../LoadShed.ts"
import * as Priority from "../Priority.ts"
import * as ApiError from "./ApiError.ts"

/** What is measured, and who is refused when. */
export interface Options<R = never> extends Omit<LoadShed.Options, "signals"> {
  /** Measures beside the two that are there, by other names than "lag" and "inFlight". Defaults to none. */
  readonly signals?: LoadShed.Options["signals"] | undefined
  /** The requests in work that count as a load of 1: an integer of at least 1. Defaults to 1,000. */
  readonly maxInFlight?: number | undefined
  /** How the lag of the event loop is measured. Defaults to that of `LoadShed.eventLoopLag`. */
  readonly lag?: LoadShed.EventLoopLagOptions | undefined
  /** Paths that are never refused, exactly as they are written; one that ends in `/*` also means all below it. */
  readonly exempt?: ReadonlyArray<string> | undefined
  /** How important a request is, such as "high" for those who pay. Defaults to the priority around the middleware. */
  readonly priority?:
    | ((request: HttpServerRequest.HttpServerRequest) => Effect.Effect<Priority.Priority, never, R>)
    | undefined
}

/** A middleware of the router, or of the server. */
export type Middleware<R = never> = <E, R2>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>
) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | R2 | HttpServerRequest.HttpServerRequest>

/** A middleware, and the shedder that it asks. */
export interface LoadShedding<R = never> {
  readonly middleware: Middleware<R>
  readonly shed: LoadShed.LoadShed
}

/** Creates the middleware. It measures until the scope closes. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* <R = never>(
  options: Options<R> = {}
): Effect.fn.Return<LoadShedding<R>, never, Scope.Scope> {
  const { exempt = ["/health", "/health/*", "/metrics", "/metrics/*", "/admin", "/admin/*"], lag, priority } = options
  const maxInFlight = options.maxInFlight ?? 1_000
  if (!(Number.isInteger(maxInFlight) && maxInFlight >= 1)) {
    throw new RangeError(`LoadShedding: maxInFlight must be an integer >= 1, got ${maxInFlight}`)
  }
  const isExempt = exempts(exempt)
  let running = 0
  const shed = yield* LoadShed.make({
    ...options,
    signals: {
      ...options.signals,
      lag: yield* LoadShed.eventLoopLag(lag),
      inFlight: Effect.sync(() => running / maxInFlight)
    }
  })
  const counted = <E, R2>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>) =>
    Effect.acquireUseRelease(
      Effect.sync(() => void running++),
      () => app,
      () => Effect.sync(() => void running--)
    )

  const middleware: Middleware<R> = (app) =>
    Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
      if (isExempt(request)) return app
      const decided = Effect.matchEffect(shed.execute(Effect.void), {
        onSuccess: () => counted(app),
        onFailure: (error) => Effect.succeed(ApiError.answer(ApiError.fromRefusal(error), request))
      })
      return priority === undefined
        ? decided
        : Effect.flatMap(priority(request), (priority) => Priority.as(decided, priority))
    })
  return { middleware, shed }
})

/** Puts the middleware around all routes of the router. */
export const layer = <R = never>(
  options: Options<R> = {}
): Layer.Layer<
  never,
  never,
  HttpRouter.HttpRouter | HttpRouter.Request.From<"GlobalRequires", Exclude<R, HttpRouter.GlobalProvided>>
> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const router = yield* HttpRouter.HttpRouter
      const { middleware } = yield* make(options)
      yield* router.addGlobalMiddleware((app) => middleware(app))
    })
  )
