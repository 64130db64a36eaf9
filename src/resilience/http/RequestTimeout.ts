/**
 * Answers a request that takes too long, and interrupts its handler.
 *
 * The time is the server's own, or what the caller says it will wait if that is shorter: `X-Request-Timeout` in milliseconds or
 * `grpc-timeout`. A caller never gets more. Everything inside sees the end as its `Deadline`, and so do the services that it
 * calls. The time ends with the head of the response: a stream may take as long as it likes.
 *
 * Put it inside the log and the errors, outside what costs. It interrupts also a route that is marked as uninterruptible, and so
 * does a client that hangs up; what is uninterruptible within a handler is waited for.
 *
 * | defaults | `timeout` 2 minutes | `statusCode` 408, and 504 for the caller's own time | exempt: `/health`, `/metrics`, below them |
 * | environment | `REQUEST_TIMEOUT` 120000 (milliseconds) |
 */
import { Config, Context, Duration, Effect, Layer, Schema } from "effect"
import { HttpRouter, HttpServerRequest, type HttpServerResponse } from "effect/http"
import * as Deadline from "../Deadline.ts"
import { exempts } from "../internal/http/paths.ts"
import * as ApiError from "./ApiError.ts"

/** How long a request may take. */
export interface Options {
  /** The longest time for a request: over zero. Defaults to 2 minutes. */
  readonly timeout?: Duration.Input | undefined
  /** What is answered after it: 408, 503 or 504, each with the code `REQUEST_TIMEOUT`. Defaults to 408. */
  readonly statusCode?: 408 | 503 | 504 | undefined
  /** Paths that may take as long as they like, exactly as written; one that ends in `/*` also means all below it. */
  readonly exempt?: ReadonlyArray<string> | undefined
}

/** A middleware of the router. */
export type Middleware = <E, R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest>

/** Creates the middleware. Options that make no sense are a defect, not an error. */
export const make = (options: Options = {}): Middleware => {
  const { exempt = ["/health", "/health/*", "/metrics", "/metrics/*"], statusCode = 408 } = options
  const timeout = Duration.fromInputUnsafe(options.timeout ?? "2 minutes")
  if (!Duration.isGreaterThan(timeout, Duration.zero)) {
    throw new RangeError(`RequestTimeout: timeout must be over zero, got ${Duration.format(timeout)}`)
  }
  const own = Duration.toMillis(timeout)
  const isExempt = exempts(exempt)
  return <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    Effect.withFiber<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest>((fiber) => {
      const request = Context.getUnsafe(fiber.context, HttpServerRequest.HttpServerRequest)
      if (isExempt(request)) return app
      const asked = askedMillis(request.headers)
      let route: HttpRouter.RouteContext["Service"] | undefined
      // The handler runs on a fiber of its own, and only there it is known which route it was.
      const routed = Effect.onExit(app, () =>
        Effect.withFiberSucceed(
          (child) => void (route = Context.getOrUndefined(child.context, HttpRouter.RouteContext))
        )
      )
      // Only the end of this time is a failure here: a handler may fail with a deadline of its own.
      return Effect.flatMap(
        // A server interrupts no request before its route has begun, and that happens on the other fiber.
        Effect.interruptible(Effect.result(Deadline.within(Effect.exit(routed), Math.min(own, asked)))),
        (ended): Effect.Effect<HttpServerResponse.HttpServerResponse, E> => {
          // A log further out looks for it where the router would have left it.
          if (route !== undefined) fiber.setContext(Context.add(fiber.context, HttpRouter.RouteContext, route))
          if (ended._tag === "Success") return ended.success
          return Effect.succeed(ApiError.toResponse(asked < own ? callerGaveUp() : tookTooLong(statusCode)))
        }
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

/** Reads `REQUEST_TIMEOUT`, in milliseconds. */
export const config: Config.Config<Duration.Duration> = Config.schema(
  Schema.NumberFromString.check(Schema.isFinite(), Schema.isGreaterThan(0)),
  "REQUEST_TIMEOUT"
).pipe(Config.withDefault(120_000), Config.map(Duration.millis))

/** Puts the middleware around all routes, with the time from the environment. */
export const layerConfig = (
  options: Omit<Options, "timeout"> = {}
): Layer.Layer<never, Config.ConfigError, HttpRouter.HttpRouter> =>
  Layer.unwrap(Effect.map(config, (timeout) => layer({ ...options, timeout })))

// The shorter of the two where both are there. What cannot be read says nothing.
const askedMillis = (headers: Readonly<Record<string, string | undefined>>): number => {
  const millis = /^\d{1,15}$/.exec(headers["x-request-timeout"] ?? "")?.[0]
  const [, amount, unit] = /^(\d{1,8})([HMSmun])$/.exec(headers["grpc-timeout"] ?? "") ?? []
  return Math.min(
    millis === undefined ? Infinity : Number(millis),
    amount === undefined || unit === undefined ? Infinity : Number(amount) * (millisOf[unit] ?? Infinity)
  )
}

// gRPC over HTTP2, "Timeout".
const millisOf: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 1e-3, n: 1e-6 }

const callerGaveUp = () =>
  new ApiError.GatewayTimeout({ code: "DEADLINE_EXCEEDED", error: "The request took longer than its caller waits" })

const tookTooLong = (statusCode: 408 | 503 | 504): ApiError.ApiError => {
  const said = { code: "REQUEST_TIMEOUT", error: "The request took too long" }
  switch (statusCode) {
    case 408:
      return new ApiError.RequestTimeout(said)
    case 503:
      return new ApiError.Unavailable(said)
    case 504:
      return new ApiError.GatewayTimeout(said)
  }
}
