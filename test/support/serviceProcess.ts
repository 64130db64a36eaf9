/**
 * A real service in a process of its own, which a test can kill: the chess service, `src/main.ts`, or another.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { Deferred, Effect, Schema, type Scope } from "effect"

/** A service process. */
export interface ServiceProcess {
  /** Waits until it serves, and succeeds with its address. */
  readonly url: Effect.Effect<string>
  /** Waits until it has logged an event of this name. */
  readonly logged: (event: string) => Effect.Effect<void>
  /** Sends the signal and waits until the process has ended. */
  readonly end: (signal: "SIGKILL" | "SIGTERM") => Effect.Effect<void>
}

/** Starts a service process, which is killed with the scope at the latest. Another service than the chess service by its file. */
export const start = (
  env: Readonly<Record<string, string>>,
  file = main
): Effect.Effect<ServiceProcess, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => launch(env, file)),
      (launched) => launched.end("SIGKILL")
    ),
    (launched) => launched
  )

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url))

const Line = Schema.fromJsonString(
  Schema.Struct({
    annotations: Schema.Struct({ event: Schema.optionalKey(Schema.String), url: Schema.optionalKey(Schema.String) })
  })
)
const decodeLine = Schema.decodeUnknownOption(Line)

const launch = (env: Readonly<Record<string, string>>, file: string): ServiceProcess => {
  const child = spawn(process.execPath, ["--conditions=effect-resilience-source", file], {
    env: { PATH: process.env["PATH"], PORT: "0", LOG_FORMAT: "json", ...env },
    stdio: ["ignore", "pipe", "inherit"]
  })
  const url = Deferred.makeUnsafe<string>()
  const ended = Deferred.makeUnsafe<void>()
  const events = new Map<string, Deferred.Deferred<void>>()
  const eventOf = (name: string) => {
    const event = events.get(name) ?? Deferred.makeUnsafe<void>()
    events.set(name, event)
    return event
  }

  readLines(child, (text) => {
    const line = decodeLine(text)
    if (line._tag === "None") return
    const { annotations } = line.value
    if (annotations.event === undefined) return
    if (annotations.event === "http.listening" && annotations.url !== undefined) {
      Deferred.doneUnsafe(url, Effect.succeed(annotations.url))
    }
    Deferred.doneUnsafe(eventOf(annotations.event), Effect.void)
  })
  child.once("exit", () => Deferred.doneUnsafe(ended, Effect.void))

  return {
    url: Deferred.await(url),
    logged: (event) => Deferred.await(eventOf(event)),
    end: (signal) =>
      Effect.andThen(
        Effect.sync(() => child.kill(signal)),
        Deferred.await(ended)
      )
  }
}

const readLines = (child: ChildProcess, onLine: (line: string) => void): void => {
  let rest = ""
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n")
    rest = lines.pop() ?? ""
    for (const line of lines) onLine(line)
  })
}
