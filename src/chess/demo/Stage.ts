/**
 * Sets the demo's stage: both stand-ins in this process, the service in one of its own, all on loopback ports.
 *
 * The service is the real one, started as `npm start` starts it: only its settings differ, so that what takes a minute
 * on the real sites takes seconds here. Its database is a file in a temporary directory, removed at the end.
 */
import { fileURLToPath } from "node:url"
import { Context, Deferred, Duration, Effect, FileSystem, Layer, Option, Path, Schema, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import * as Simulator from "../simulator/Simulator.ts"
import * as World from "../simulator/World.ts"

/** The stand-ins and the service, ready to be asked. */
export class Stage extends Context.Service<
  Stage,
  {
    readonly simulator: Simulator.Simulator
    readonly lichessBaseUrl: string
    readonly chessComBaseUrl: string
    /** Where the service's API is. */
    readonly serviceUrl: string
    /** The file that holds the imported games. */
    readonly database: string
  }
>()("effect-resilience/chess/demo/Stage") {}

/** The service did not start. */
export class ServiceNotStarted extends Schema.TaggedError<ServiceNotStarted>()("ServiceNotStarted", {
  /** The last lines it wrote. */
  output: Schema.String
}) {
  override get message() {
    return `The service did not start:\n${this.output}`
  }
}

/** How long an open circuit refuses here. */
export const circuitOpenFor = Duration.seconds(2)

/** The players of the demo. */
export const players: ReadonlyArray<World.User> = [
  { name: "Petra-Quint", lichess: { games: 900, oddities: 0 }, chessCom: { games: 120 } },
  { name: "Anton-Belk", lichess: { games: 700, oddities: 0 } },
  { name: "Mirja-Sool", chessCom: { games: 800, oddities: 0, from: World.historyEnds - 300 * 86_400_000 } },
  { name: "Old-Hobart", lichess: { state: "closed" }, chessCom: { state: "closed" } }
]

/** The API key of the demo's premium user. */
export const premiumKey = "demo-premium-key"

const main = fileURLToPath(new URL("../../main.ts", import.meta.url))

const make = Effect.gen(function* () {
  const simulator = yield* Simulator.make({
    users: players,
    lichess: {
      gamesPerSecond: 180,
      latency: { users: { p50: "40 millis", p99: "150 millis" }, games: { p50: "100 millis", p99: "400 millis" } }
    },
    chessCom: {
      latency: { player: { p50: "40 millis", p99: "150 millis" }, month: { p50: "250 millis", p99: "1 second" } }
    }
  })
  const sites = yield* Simulator.listen(simulator)
  const files = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const directory = yield* files.makeTempDirectoryScoped({ prefix: "effect-resilience-demo-" })
  const database = path.join(directory, "chess.db")

  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const service = yield* spawner.spawn(
    ChildProcess.make(process.execPath, ["--max-semi-space-size=4", "--conditions=effect-resilience-source", main], {
      env: {
        HOST: "127.0.0.1",
        PORT: "0",
        DATABASE_URL: `file:${database}`,
        LICHESS_BASE_URL: sites.lichessBaseUrl,
        CHESSCOM_BASE_URL: sites.chessComBaseUrl,
        UPSTREAM_CONTACT: "https://localhost/demo",
        API_KEYS: `${premiumKey}:demo:premium`,
        CIRCUIT_OPEN_FOR: `${Duration.toMillis(circuitOpenFor)} millis`,
        RETRY_DELAYS: "100 millis, 200 millis, 400 millis",
        ATTEMPT_TIMEOUT: "1 second",
        LOG_FORMAT: "json",
        LOG_LEVEL: "Info"
      },
      extendEnv: true,
      stdin: "ignore",
      killSignal: "SIGTERM",
      forceKillAfter: "5 seconds"
    })
  )

  const address = yield* Deferred.make<string>()
  const lastLines: Array<string> = []
  yield* service.all.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((line) => {
      lastLines.push(line)
      if (lastLines.length > 20) lastLines.shift()
      const url = listeningOn(line)
      return Option.isSome(url) ? Deferred.succeed(address, url.value) : Effect.void
    }),
    Effect.forkScoped
  )
  const failed = Effect.suspend(() => Effect.fail(new ServiceNotStarted({ output: lastLines.join("\n") })))
  const serviceUrl = yield* Deferred.await(address).pipe(
    Effect.raceFirst(Effect.andThen(Effect.ignore(service.exitCode), failed)),
    Effect.timeoutOrElse({ duration: "20 seconds", orElse: () => failed })
  )

  return Stage.of({ simulator, ...sites, serviceUrl, database })
})

/** Provides `Stage`; everything it started ends with it. */
export const layer = Layer.effect(Stage, make)

// The service says where it listens in an annotation of a structured log line.
const listeningOn = (line: string): Option.Option<string> =>
  Option.flatMap(decodeListening(line), ({ annotations }) => Option.fromUndefinedOr(annotations.url))

const decodeListening = Schema.decodeUnknownOption(
  Schema.fromJsonString(
    Schema.Struct({ annotations: Schema.Struct({ url: Schema.optional(Schema.String), docs: Schema.String }) })
  )
)
