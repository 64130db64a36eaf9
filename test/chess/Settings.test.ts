import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Redacted } from "effect"
import * as Settings from "../../src/chess/Settings.ts"

const read = (env: Record<string, string>) => Settings.config.parse(ConfigProvider.fromEnv({ env }))

describe("Settings", () => {
  describe("config", () => {
    it.effect("has the documented defaults", () =>
      Effect.gen(function* () {
        const settings = yield* read({})
        assert.deepStrictEqual(settings, {
          host: "127.0.0.1",
          port: 8080,
          apiKeys: [],
          maxEventStreams: 1_000,
          logLevel: "Info",
          logFormat: "json",
          shutdownTimeout: Duration.seconds(30),
          databaseFile: "./data/chess.db",
          lichessBaseUrl: "https://lichess.org",
          chessComBaseUrl: "https://api.chess.com/pub",
          upstreamContact: "https://www.npmjs.com/package/effect-resilience",
          validateDeadline: Duration.seconds(25),
          attemptTimeout: Duration.seconds(5),
          downloadTimeout: Duration.seconds(30),
          retryDelays: [Duration.millis(500), Duration.seconds(1), Duration.seconds(2)],
          userCacheTtl: Duration.seconds(300),
          userCacheSize: 10_000,
          lichessRateCapacity: 16,
          lichessRatePerSecond: 8,
          chessComRateCapacity: 16,
          chessComRatePerSecond: 8,
          circuitFailures: 5,
          circuitOpenFor: Duration.seconds(60),
          circuitSuccesses: 2,
          lichessBatchWindow: Duration.millis(20),
          lichessParallelCalls: 1,
          lichessExportStreams: 2,
          chessComParallelCalls: 1,
          poolConnections: 20,
          poolConnectionsPerHost: 5,
          poolDnsTtl: Duration.seconds(300),
          poolConnectTimeout: Duration.seconds(30),
          callTimeout: Duration.seconds(120),
          exportIdleTimeout: Duration.seconds(120),
          maxConcurrentImports: 2,
          maxQueuedImports: 100,
          maxImportsPerUser: 5,
          importRecentFor: Duration.minutes(5),
          importHistoryFor: Duration.days(30)
        })
      })
    )

    it.effect("reads every variable", () =>
      Effect.gen(function* () {
        const settings = yield* read({
          PORT: "0",
          HOST: "::1",
          LOG_LEVEL: "debug",
          DATABASE_URL: "file:///var/lib/chess.db",
          LICHESS_BASE_URL: "http://127.0.0.1:9000/lichess/",
          ATTEMPT_TIMEOUT: "1500",
          USER_CACHE_TTL: "5 minutes",
          RETRY_DELAYS: "100, 1 second",
          LICHESS_RATE_PER_SECOND: "0.5",
          MAX_CONCURRENT_IMPORTS: " 7 "
        })
        assert.containsSubset(settings, {
          port: 0,
          host: "::1",
          logLevel: "Debug",
          databaseFile: "/var/lib/chess.db",
          lichessBaseUrl: "http://127.0.0.1:9000/lichess",
          attemptTimeout: Duration.millis(1_500),
          userCacheTtl: Duration.minutes(5),
          retryDelays: [Duration.millis(100), Duration.seconds(1)],
          lichessRatePerSecond: 0.5,
          maxConcurrentImports: 7
        })
      })
    )

    it.effect("takes an empty variable for an absent one", () =>
      Effect.gen(function* () {
        const empty = Object.fromEntries(Object.values(Settings.variables).map(({ name }) => [name, " "]))
        assert.deepStrictEqual(yield* read(empty), yield* read({}))
      })
    )

    it.effect("can be told not to retry", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual((yield* read({ RETRY_DELAYS: "none" })).retryDelays, [])
      })
    )

    it.effect("reads API keys and hides them", () =>
      Effect.gen(function* () {
        const { apiKeys } = yield* read({ API_KEYS: "premium-key:anna:premium, free-key-1:bert:free," })
        assert.deepStrictEqual(
          apiKeys.map(({ key, premium, user }) => [Redacted.value(key), user, premium]),
          [
            ["premium-key", "anna", true],
            ["free-key-1", "bert", false]
          ]
        )
        assert.notInclude(JSON.stringify(apiKeys), "premium-key")
      })
    )
  })

  describe("describe", () => {
    const bad: ReadonlyArray<readonly [name: string, value: string]> = [
      ["PORT", "abc"],
      ["PORT", "-1"],
      ["PORT", "65536"],
      ["PORT", "80.5"],
      ["PORT", "0x50"],
      ["HOST", "not a host"],
      ["HOST", "http://127.0.0.1"],
      ["LOG_LEVEL", "verbose"],
      ["LOG_FORMAT", "xml"],
      ["SHUTDOWN_TIMEOUT", "soon"],
      ["SHUTDOWN_TIMEOUT", "-5 seconds"],
      ["SHUTDOWN_TIMEOUT", "2 days"],
      ["SHUTDOWN_TIMEOUT", "Infinity"],
      ["ATTEMPT_TIMEOUT", "0"],
      ["RETRY_DELAYS", "1 second, later"],
      ["RETRY_DELAYS", "1,2,3,4,5,6,7,8,9,10,11"],
      ["RETRY_DELAYS", "1,,2"],
      ["LICHESS_RATE_PER_SECOND", "0"],
      ["LICHESS_RATE_PER_SECOND", "fast"],
      ["CHESSCOM_RATE_PER_SECOND", "1e9"],
      ["LICHESS_BASE_URL", "lichess.org"],
      ["LICHESS_BASE_URL", "ftp://lichess.org"],
      ["CHESSCOM_BASE_URL", "https://api.chess.com/pub?key=1"],
      ["UPSTREAM_CONTACT", "me (or you)"],
      ["UPSTREAM_CONTACT", "https://example.com/curl"],
      ["UPSTREAM_CONTACT", "a\r\nX-Injected: 1"],
      ["DATABASE_URL", "./chess.db"],
      ["DATABASE_URL", "file:"],
      ["DATABASE_URL", "file:chess.db?mode=ro"],
      ["USER_CACHE_SIZE", "0"],
      ["POOL_CONNECTIONS_PER_HOST", "21"],
      ["VALIDATE_DEADLINE", "5 seconds"],
      ["MAX_CONCURRENT_IMPORTS", "0"],
      ["MAX_CONCURRENT_IMPORTS", "two"],
      ["MAX_QUEUED_IMPORTS", "1e3"],
      ["API_KEYS", "no-tier:anna"],
      ["API_KEYS", "12345678:anna:gold"],
      ["API_KEYS", "short:anna:free"],
      ["API_KEYS", "same-key-1:anna:free,same-key-1:bert:free"]
    ]

    it.effect.each(bad)("refuses %s=%j in one line that names the variable", ([name, value]) =>
      Effect.gen(function* () {
        const line = Settings.describe(yield* Effect.flip(read({ [name]: value })))
        assert.match(line, new RegExp(`^${name} must `))
        assert.notMatch(line, /[\r\n]/)
        assert.isBelow(line.length, 300)
      })
    )

    it.effect("shows the value, unless it may be secret", () =>
      Effect.gen(function* () {
        const line = (env: Record<string, string>) => Effect.map(Effect.flip(read(env)), Settings.describe)
        assert.include(yield* line({ PORT: "eighty" }), '"eighty"')
        for (const name of ["API_KEYS", "DATABASE_URL", "LICHESS_BASE_URL", "CHESSCOM_BASE_URL"]) {
          assert.notInclude(yield* line({ [name]: "hunter2-hunter2" }), "hunter2")
        }
        assert.notInclude(yield* line({ API_KEYS: "hunter2-hunter2:anna:free,oops" }), "hunter2")
      })
    )
  })

  describe("variables", () => {
    it("are all documented, with their defaults and meanings", () => {
      const rows = readFileSync(new URL("../../docs/service.md", import.meta.url), "utf8")
        .split("\n")
        .filter((line) => line.startsWith("| `"))
      for (const { fallback, meaning, name } of Object.values(Settings.variables)) {
        const row = `| \`${name}\` | ${fallback === "" ? "" : `\`${fallback}\``} | ${meaning} |`.replaceAll(/ +/g, " ")
        assert.include(
          rows.map((each) => each.replaceAll(/ +/g, " ")),
          row
        )
      }
    })
  })
})
