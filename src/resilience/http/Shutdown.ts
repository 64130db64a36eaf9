/**
 * Stops a server so that nobody notices: first it is no longer ready, then it takes nothing new, then it finishes what it has.
 *
 * `run` builds a layer and serves until it is interrupted, or until something ends it as a whole. Then: readiness is false
 * ("draining") and the server goes on, for as long as load balancers need to see that; then ("stopping") whatever has no end of
 * its own ends, and the layer is released, the server in it first: it accepts nothing and waits for its requests. All of it has
 * one time. After that it is left behind and `run` dies with `NotStopped`, so that the process can end.
 *
 * The middleware counts requests in flight, and closes kept connections as soon as the drain begins. Signals are the process's
 * own affair: one interrupts `run`, a second one should end the process.
 *
 * | defaults | `timeout` 30 seconds | `drainFor` 0 | environment: `SHUTDOWN_TIMEOUT` 30000, `SHUTDOWN_DRAIN` 0 (milliseconds) |
 */
import { Cause, Config, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { HttpEffect, HttpRouter, type HttpServerRequest, HttpServerResponse } from "effect/http"
import type { Phase } from "./Health.ts"

/** The life of a server. */
export interface Shutdown {
  /** Where in its life the server is. Before `run` has built its layer, it is "starting". */
  readonly phase: Effect.Effect<Phase>
  /** Waits until it stops: for what has no end of its own, such as a stream of events. */
  readonly stopping: Effect.Effect<void>
  /** Counts the requests whose response has not been sent. */
  readonly inFlight: Effect.Effect<number>
  /** Counts requests, and closes their connections while the server drains and stops. Put it outermost. */
  readonly middleware: Middleware
  /**
   * Builds the layer, and serves until it is interrupted or `until` ends. Then it stops as described above. A layer that cannot
   * be built is released at once.
   */
  readonly run: <A, E, R, E2 = never, R2 = never>(
    layer: Layer.Layer<A, E, R>,
    until?: Effect.Effect<unknown, E2, R2>
  ) => Effect.Effect<void, E | E2, R | R2>
}

/** A middleware of the router. */
export type Middleware = <E, R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest | Scope.Scope>

/** How long stopping takes. */
export interface Options {
  /** The time for all of it: over zero. Defaults to 30 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How much of it the server goes on while it is not ready: less than `timeout`. Defaults to 0. */
  readonly drainFor?: Duration.Input | undefined
}

/** Something did not end in time, and was left behind. It is a defect: nobody is left to handle it. */
export class NotStopped extends Schema.TaggedError<NotStopped>()("NotStopped", {
  /** The time there was. */
  timeout: Schema.Duration,
  /** The requests whose response had not been sent. */
  inFlight: Schema.Int
}) {
  override get message() {
    return `Not stopped within ${Duration.format(this.timeout)}: ${this.inFlight} requests in flight`
  }
}

/** Creates a life that has not begun. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options = {}): Effect.fn.Return<Shutdown> {
  const timeout = Duration.fromInputUnsafe(options.timeout ?? "30 seconds")
  const drainFor = Duration.fromInputUnsafe(options.drainFor ?? 0)
  if (!Duration.isGreaterThan(timeout, Duration.zero)) {
    throw new RangeError(`Shutdown: timeout must be over zero, got ${Duration.format(timeout)}`)
  }
  if (!Duration.isLessThan(drainFor, timeout)) {
    throw new RangeError(`Shutdown: drainFor must be less than the timeout, got ${Duration.format(drainFor)}`)
  }
  const latch = yield* Deferred.make<void>()
  let phase: Phase = "starting"
  let inFlight = 0

  const drain = Effect.gen(function* () {
    phase = "draining"
    yield* said("Stopping", "shutdown.draining")
    if (!Duration.isZero(drainFor)) yield* Effect.sleep(drainFor)
    phase = "stopping"
    yield* Deferred.succeed(latch, undefined)
  })

  // On fibers of their own: this one is being interrupted, and could not limit their time.
  const stop = Effect.fnUntraced(function* (scope: Scope.Closeable, exit: Exit.Exit<unknown, unknown>) {
    const inTime = yield* Deferred.make<boolean>()
    const closing = Effect.andThen(drain, Scope.close(scope, exit))
    yield* Effect.forkDetach(Effect.ensuring(closing, Deferred.succeed(inTime, true)), { uninterruptible: true })
    const timer = yield* Effect.forkDetach(Effect.andThen(Effect.sleep(timeout), Deferred.succeed(inTime, false)))
    if (!(yield* Deferred.await(inTime))) return yield* Effect.die(new NotStopped({ timeout, inFlight }))
    yield* Fiber.interrupt(timer)
    yield* said("Stopped", "shutdown.stopped")
  })

  return {
    phase: Effect.sync(() => phase),
    stopping: Deferred.await(latch),
    inFlight: Effect.sync(() => inFlight),
    middleware: (app) =>
      Effect.withFiber((fiber) => {
        HttpEffect.appendPreResponseHandlerUnsafe(fiber.context, (_, response) =>
          // A connection that is kept alive would be served for as long as the server drains.
          Effect.succeed(
            phase === "draining" || phase === "stopping"
              ? HttpServerResponse.setHeader(response, "connection", "close")
              : response
          )
        )
        // Until the response is sent, with all of its body.
        const count = Effect.suspend(() => {
          inFlight++
          return Scope.addFinalizer(
            Context.getUnsafe(fiber.context, Scope.Scope),
            Effect.sync(() => void inFlight--)
          )
        })
        return Effect.andThen(Effect.uninterruptible(count), app)
      }),
    run: (layer, until = Effect.never) =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        yield* Layer.buildWithScope(layer, scope).pipe(
          Effect.tap(() => Effect.sync(() => void (phase = "serving"))),
          Effect.andThen(until),
          Effect.onExit((exit) =>
            phase === "starting" && Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)
              ? Scope.close(scope, exit)
              : stop(scope, exit)
          )
        )
      })
  }
})

/** The life of the server of a context. */
export const Shutdown = Context.Service<Shutdown>("effect-resilience/http/Shutdown")

/** Provides `Shutdown`. */
export const layer = (options: Options = {}): Layer.Layer<Shutdown> => Layer.effect(Shutdown, make(options))

/** Provides `Shutdown` with the times from the environment. */
export const layerConfig: Layer.Layer<Shutdown, Config.ConfigError> = Layer.effect(
  Shutdown,
  Effect.flatMap(
    Config.all({
      timeout: millis("SHUTDOWN_TIMEOUT", 30_000, 1),
      drainFor: millis("SHUTDOWN_DRAIN", 0, 0)
    }),
    make
  )
)

/** Puts the middleware of the `Shutdown` of the context around all routes of the router. */
export const layerMiddleware: Layer.Layer<never, never, Shutdown | HttpRouter.HttpRouter> = Layer.effectDiscard(
  Effect.gen(function* () {
    const router = yield* HttpRouter.HttpRouter
    const { middleware } = yield* Shutdown
    yield* router.addGlobalMiddleware((app) => middleware(app))
  })
)

const said = (message: string, event: string) => Effect.annotateLogs(Effect.logInfo(message), { event })

function millis(name: string, fallback: number, minimum: number): Config.Config<Duration.Duration> {
  return Config.schema(
    Schema.NumberFromString.check(Schema.isFinite(), Schema.isGreaterThanOrEqualTo(minimum)),
    name
  ).pipe(Config.withDefault(fallback), Config.map(Duration.millis))
}
