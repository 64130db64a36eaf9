/**
 * Writes the log to the standard output: the lines of one turn of the event loop in one write.
 *
 * A write to a file or a pipe stops the process until it is done, and under load there are several lines per request. What
 * is pending is written when the process ends, too; a killed process loses the lines of its last turn. Whoever has closed
 * the other end of the pipe stops the log, not the service.
 */
import { Effect, Layer, Logger, References } from "effect"
import type { LogLevel } from "effect"

/** How lines are written, and which. */
export interface Options {
  readonly format: "json" | "logfmt" | "pretty"
  readonly level: LogLevel.LogLevel
}

/** Replaces Effect's default log. Nobody collects spans, so none are made. */
export const layer = (options: Options): Layer.Layer<never> =>
  Layer.mergeAll(
    Logger.layer([options.format === "pretty" ? Logger.consolePretty() : inTurns(formats[options.format])]),
    Layer.succeed(References.MinimumLogLevel, options.level),
    Layer.succeed(References.TracerEnabled, false)
  )

const formats = { json: Logger.formatJson, logfmt: Logger.formatLogFmt }

// Beyond this nothing waits for the end of the turn.
const maxPending = 64 * 1024

const inTurns = (format: Logger.Logger<unknown, string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      let pending = ""
      const flush = () => {
        const text = pending
        pending = ""
        if (text !== "") process.stdout.write(text)
      }
      const ignore = () => {}
      process.stdout.on("error", ignore)
      process.on("exit", flush)
      const logger = Logger.map(format, (line) => {
        if (pending === "") setImmediate(flush)
        pending += `${line}\n`
        if (pending.length > maxPending) flush()
      })
      const close = () => {
        flush()
        process.off("exit", flush)
        process.stdout.off("error", ignore)
      }
      return { logger, close }
    }),
    ({ close }) => Effect.sync(close)
  ).pipe(Effect.map(({ logger }) => logger))
