/**
 * Runs both stand-ins as a process of their own.
 *
 * Prints one line of JSON with the base URLs to configure, then serves until it is stopped. `--help` lists the flags;
 * each can be given as a variable too. Names say which players exist: `nadia-200000` has 200,000 games (see `World`).
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Config, Console, Effect, Option, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import * as Faults from "./Faults.ts"
import * as Latency from "./Latency.ts"
import * as Simulator from "./Simulator.ts"

const port = (name: string, variable: string, site: string) =>
  Flag.Int(name).pipe(
    Flag.withDescription(`Port of ${site}; 0 takes a free one`),
    Flag.withFallbackConfig(Config.Int(variable)),
    Flag.withDefault(0),
    Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65_535 })))
  )

const FaultAtStart = Schema.fromJsonString(
  Schema.Struct({
    site: Schema.Literals(["lichess", "chess.com"]),
    kind: Schema.Literals([...Faults.answerFaults, ...Faults.gameFaults, ...Faults.bodyFaults]),
    users: Schema.optionalKey(Schema.Array(Schema.String)),
    rate: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))),
    times: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))),
    from: Schema.optionalKey(Schema.DurationFromString),
    for: Schema.optionalKey(Schema.DurationFromString),
    status: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 400, maximum: 599 }))),
    retryAfter: Schema.optionalKey(Schema.DurationFromString),
    delay: Schema.optionalKey(Schema.DurationFromString),
    after: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
    every: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)))
  })
)

const command = Command.make(
  "simulator",
  {
    host: Flag.String("host").pipe(
      Flag.withDescription("Address to listen on"),
      Flag.withFallbackConfig(Config.String("SIMULATOR_HOST")),
      Flag.withDefault("127.0.0.1")
    ),
    lichessPort: port("lichess-port", "SIMULATOR_LICHESS_PORT", "Lichess"),
    chessComPort: port("chesscom-port", "SIMULATOR_CHESSCOM_PORT", "Chess.com"),
    seed: Flag.Int("seed").pipe(
      Flag.withDescription("What players, games, latencies and the choice of failing requests are generated from"),
      Flag.withFallbackConfig(Config.Int("SIMULATOR_SEED")),
      Flag.withDefault(1)
    ),
    oddities: Flag.Finite("oddities").pipe(
      Flag.withDescription("Share of unusual games, 0 to 1"),
      Flag.withFallbackConfig(Config.Finite("SIMULATOR_ODDITIES")),
      Flag.withDefault(0.05),
      Flag.withSchema(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })))
    ),
    gamesPerSecond: Flag.Finite("games-per-second").pipe(
      Flag.withDescription("Throttle of one Lichess export; the site sends 20 to 30. No throttle if not given"),
      Flag.withFallbackConfig(Config.Finite("SIMULATOR_GAMES_PER_SECOND")),
      Flag.withSchema(Schema.Finite.check(Schema.isGreaterThan(0))),
      Flag.optional
    ),
    latency: Flag.Literals("latency", ["none", "typical"]).pipe(
      Flag.withDescription("Delay before each answer"),
      Flag.withDefault("none")
    ),
    unlimited: Flag.Boolean("unlimited").pipe(
      Flag.withDescription("No credits on Lichess look-ups and no 429 for parallel requests to Chess.com"),
      Flag.withDefault(false)
    ),
    faults: Flag.String("fault").pipe(
      Flag.withDescription(
        'A fault as JSON, e.g. {"site":"lichess","kind":"hang","from":"10 seconds","for":"1 minute"}'
      ),
      Flag.withSchema(FaultAtStart),
      Flag.atMost(20)
    )
  },
  Effect.fn("simulator")(function* (options) {
    const typical = options.latency === "typical"
    const simulator = yield* Simulator.make({
      seed: options.seed,
      oddities: options.oddities,
      lichess: {
        gamesPerSecond: Option.getOrUndefined(options.gamesPerSecond),
        credits: !options.unlimited,
        latency: typical ? Latency.lichess : undefined
      },
      chessCom: {
        maxInFlight: options.unlimited ? Number.POSITIVE_INFINITY : undefined,
        latency: typical ? Latency.chessCom : undefined
      }
    })
    for (const { site, ...fault } of options.faults) {
      const { inject } = site === "lichess" ? simulator.lichess : simulator.chessCom
      yield* inject(fault)
    }
    const sites = yield* Simulator.listen(simulator, options)
    yield* Console.log(JSON.stringify(sites))
    return yield* Effect.never
  }, Effect.scoped)
).pipe(Command.withDescription("Stands in for lichess.org and Chess.com"))

command.pipe(Command.run({ version: "0.1.0" }), Effect.provide(NodeServices.layer), NodeRuntime.runMain)
