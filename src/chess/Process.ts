/**
 * Runs the service as the main program of a process.
 *
 * What is wrong at the start is said in one line, and the process exits with 1. SIGTERM and SIGINT stop it: no new
 * requests, those in flight finish, imports stop behind what they have committed, and the process exits with 0, or with
 * 1 when that takes longer than `SHUTDOWN_TIMEOUT`. A second signal ends it at once.
 */
import {
  Cause,
  Clock,
  type Config,
  Console,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  type Runtime,
  Scope
} from "effect"
import * as Service from "./Service.ts"
import * as Settings from "./Settings.ts"

/** Runs the service until it is interrupted. */
export const run: Effect.Effect<never, unknown> = Effect.scoped(
  Effect.gen(function* () {
    yield* exitOnSecondSignal
    const settings = yield* Settings.config
    return yield* Effect.provide(serve(settings), Service.log(settings))
  })
).pipe(Effect.tapErrorTag("ConfigError", (error: Config.ConfigError) => Console.error(Settings.describe(error))))

/** Makes an interruption a good end, and everything else a bad one. */
export const teardown: Runtime.Teardown = (exit, onExit) =>
  onExit(Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause) ? 0 : 1)

const serve = Effect.fnUntraced(function* (settings: Settings.Settings) {
  const scope = yield* Scope.make()
  return yield* Layer.buildWithScope(Service.layer(settings), scope).pipe(
    Effect.tapCause((cause) => (Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logFatal(cannotStart(cause)))),
    Effect.andThen(Effect.never),
    Effect.onExit((exit) => stop(scope, exit, settings.shutdownTimeout))
  )
})

// The finalizers run in a fiber of their own: this one is being interrupted and could not limit their time.
const stop = Effect.fnUntraced(function* (
  scope: Scope.Closeable,
  exit: Exit.Exit<unknown, unknown>,
  timeout: Duration.Duration
) {
  if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) return yield* Scope.close(scope, exit)
  yield* Effect.logInfo("Stopping")
  const inTime = yield* Deferred.make<boolean>()
  yield* Effect.forkDetach(Effect.andThen(Scope.close(scope, exit), Deferred.succeed(inTime, true)))
  const timer = yield* Effect.forkDetach(Effect.andThen(Effect.sleep(timeout), Deferred.succeed(inTime, false)))
  if (yield* Deferred.await(inTime)) {
    yield* Fiber.interrupt(timer)
    yield* Effect.logInfo("Stopped")
  } else {
    return yield* Effect.die(new Error(`Not stopped within ${Duration.format(timeout)}`))
  }
})

// The message of the innermost error: that of the address in use, or of the file that cannot be opened.
const cannotStart = (cause: Cause.Cause<unknown>): string => {
  let error = Cause.squash(cause)
  while (error instanceof Error && error.cause instanceof Error) error = error.cause
  return `Cannot start: ${error instanceof Error ? error.message : String(error)}`
}

// npm repeats the signal of a terminal, so one that follows at once is the same one.
const sameSignalMillis = 500

const exitOnSecondSignal = Effect.flatMap(Clock.Clock, (clock) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      let firstAt: number | undefined
      const onSignal = () => {
        const now = clock.currentTimeMillisUnsafe()
        firstAt ??= now
        if (now - firstAt > sameSignalMillis) process.exit(130)
      }
      process.on("SIGINT", onSignal)
      process.on("SIGTERM", onSignal)
      return onSignal
    }),
    (onSignal) =>
      Effect.sync(() => {
        process.off("SIGINT", onSignal)
        process.off("SIGTERM", onSignal)
      })
  )
)
