/**
 * Everything that can be set, by one environment variable each.
 *
 * An absent or empty variable means its default. A value that makes no sense stops the start with one line that names
 * the variable; it is never replaced by a guess. A duration is written `30 seconds` or `500 millis`; a bare number is
 * milliseconds. What API_KEYS and DATABASE_URL hold never appears in a message.
 */
import { Config, Duration, Effect, Option, Record, Redacted, Result, Schema, SchemaIssue } from "effect"
import type { LogLevel } from "effect"
import * as SqliteClient from "./SqliteClient.ts"
import * as UpstreamClient from "./UpstreamClient.ts"

/** One environment variable: what it means, what it defaults to, and how it is read. */
export interface Variable<out A> {
  readonly name: string
  /** The default as it would be written in the environment; empty where there is none. */
  readonly fallback: string
  readonly meaning: string
  readonly config: Config.Config<A>
}

/** What one API key stands for. */
export interface ApiKey {
  readonly key: Redacted.Redacted
  readonly user: string
  readonly premium: boolean
}

/** Every variable of the service. The documentation lists the same names, defaults and meanings. */
export const variables = {
  host: text("HOST", "127.0.0.1", "The address the server listens on; `0.0.0.0` for all of them.", {
    pattern: /^[A-Za-z0-9.:_-]{1,255}$/,
    expected: "must be an IP address or a host name"
  }),
  port: integer("PORT", 8080, 0, 65_535, "The port the server listens on; 0 takes a free one."),
  apiKeys: apiKeys(
    "API_KEYS",
    "Who may ask with which rights: `key:user:tier` entries, separated by commas, tier `free` or `premium`. Without it, everyone is an anonymous free user."
  ),
  maxEventStreams: integer(
    "MAX_EVENT_STREAMS",
    1_000,
    1,
    100_000,
    "Event streams that may be open at the same time; the next one is refused with 503."
  ),
  logLevel: oneOf<LogLevel.LogLevel>(
    "LOG_LEVEL",
    "Info",
    ["All", "Trace", "Debug", "Info", "Warn", "Error", "Fatal", "None"],
    "The least severe log level that is written."
  ),
  logFormat: oneOf(
    "LOG_FORMAT",
    "json",
    ["json", "logfmt", "pretty"],
    "How a log line is written: one JSON object, `key=value` pairs, or for reading in a terminal."
  ),
  shutdownTimeout: duration(
    "SHUTDOWN_TIMEOUT",
    "30 seconds",
    "1 second",
    "1 hour",
    "How long stopping may take. Requests in flight have four fifths of it to finish; imports stop behind what they have committed."
  ),

  databaseFile: databaseFile(
    "DATABASE_URL",
    "file:./data/chess.db",
    "The database: `file:` and the path of an SQLite file, which is created when it does not exist."
  ),

  lichessBaseUrl: baseUrl("LICHESS_BASE_URL", "https://lichess.org", "Where Lichess is."),
  chessComBaseUrl: baseUrl(
    "CHESSCOM_BASE_URL",
    "https://api.chess.com/pub",
    "Where the published-data API of Chess.com is."
  ),
  upstreamContact: contact(
    "UPSTREAM_CONTACT",
    "https://www.npmjs.com/package/effect-resilience",
    "How the sites can reach who runs this service: a mail address or a web page. It is part of the User-Agent, as both sites ask."
  ),

  validateDeadline: duration(
    "VALIDATE_DEADLINE",
    "25 seconds",
    "10 millis",
    "10 minutes",
    "The longest a validation takes, waits and retries included; then it is answered with 504. Longer than `ATTEMPT_TIMEOUT`."
  ),
  attemptTimeout: duration(
    "ATTEMPT_TIMEOUT",
    "5 seconds",
    "10 millis",
    "10 minutes",
    "How long one request to a site may take before it is given up."
  ),
  downloadTimeout: duration(
    "DOWNLOAD_TIMEOUT",
    "30 seconds",
    "10 millis",
    "1 hour",
    "How long one request for a month of games may take, to the end of its body."
  ),
  retryDelays: durations(
    "RETRY_DELAYS",
    "500 millis, 1 second, 2 seconds",
    "The waits before the first, second, third … retry of a request to a site; `none` for no retry."
  ),
  userCacheTtl: duration(
    "USER_CACHE_TTL",
    "300 seconds",
    "0 millis",
    "30 days",
    "How long it is remembered that a user exists, or does not."
  ),
  userCacheSize: integer(
    "USER_CACHE_SIZE",
    10_000,
    1,
    10_000_000,
    "How many users are remembered; the least recently used are forgotten first."
  ),

  lichessRateCapacity: integer(
    "LICHESS_RATE_CAPACITY",
    16,
    1,
    100_000,
    "Requests to Lichess that may be sent at once after a quiet time."
  ),
  lichessRatePerSecond: positive(
    "LICHESS_RATE_PER_SECOND",
    8,
    100_000,
    "Requests per second to Lichess in the long run."
  ),
  chessComRateCapacity: integer(
    "CHESSCOM_RATE_CAPACITY",
    16,
    1,
    100_000,
    "Requests to Chess.com that may be sent at once after a quiet time."
  ),
  chessComRatePerSecond: positive(
    "CHESSCOM_RATE_PER_SECOND",
    8,
    100_000,
    "Requests per second to Chess.com in the long run."
  ),
  circuitFailures: integer(
    "CIRCUIT_FAILURES",
    5,
    1,
    1_000_000,
    "Consecutive failures of a site that open its circuit."
  ),
  circuitOpenFor: duration(
    "CIRCUIT_OPEN_FOR",
    "60 seconds",
    "10 millis",
    "1 day",
    "How long an open circuit refuses before it lets a probe through."
  ),
  circuitSuccesses: integer("CIRCUIT_SUCCESSES", 2, 1, 1_000_000, "Successful probes that close the circuit again."),

  lichessBatchWindow: duration(
    "LICHESS_BATCH_WINDOW",
    "20 millis",
    "0 millis",
    "10 seconds",
    "How long existence look-ups on Lichess are collected before they are sent as one request."
  ),
  lichessParallelCalls: integer(
    "LICHESS_PARALLEL_CALLS",
    1,
    1,
    1_000,
    "Requests to Lichess that run side by side, exports aside. Lichess asks for one at a time."
  ),
  lichessExportStreams: integer(
    "LICHESS_EXPORT_STREAMS",
    2,
    1,
    1_000,
    "Game exports of Lichess that run side by side. Lichess refuses a third from one address."
  ),
  chessComParallelCalls: integer(
    "CHESSCOM_PARALLEL_CALLS",
    1,
    1,
    1_000,
    "Requests to Chess.com that run side by side. Chess.com may refuse more than one at a time."
  ),

  poolConnections: integer("POOL_CONNECTIONS", 20, 1, 10_000, "Connections to both sites in all."),
  poolConnectionsPerHost: integer(
    "POOL_CONNECTIONS_PER_HOST",
    5,
    1,
    10_000,
    "Connections to one host, at most `POOL_CONNECTIONS`."
  ),
  poolDnsTtl: duration("POOL_DNS_TTL", "300 seconds", "0 millis", "1 day", "How long an address found by DNS is kept."),
  poolConnectTimeout: duration(
    "POOL_CONNECT_TIMEOUT",
    "30 seconds",
    "10 millis",
    "10 minutes",
    "How long opening a connection may take."
  ),
  callTimeout: duration(
    "CALL_TIMEOUT",
    "120 seconds",
    "10 millis",
    "1 hour",
    "How long one call to a site may take in all, waits and retries included."
  ),
  exportIdleTimeout: duration(
    "EXPORT_IDLE_TIMEOUT",
    "120 seconds",
    "10 millis",
    "1 hour",
    "How long a game export may stay silent before it is given up and continued later."
  ),

  maxConcurrentImports: integer("MAX_CONCURRENT_IMPORTS", 2, 1, 1_000, "Imports that run at the same time."),
  maxQueuedImports: integer(
    "MAX_QUEUED_IMPORTS",
    100,
    0,
    100_000,
    "Imports that may wait for a slot; the next one is refused with 503."
  ),
  maxImportsPerUser: integer(
    "MAX_IMPORTS_PER_USER",
    5,
    1,
    100_000,
    "Imports that one API key, or one address without a key, may have running and waiting together; the next one is refused with 429."
  ),
  importRecentFor: duration(
    "IMPORT_RECENT_FOR",
    "5 minutes",
    "0 millis",
    "30 days",
    "How long after an import that brought everything the same one is answered with it."
  ),
  importHistoryFor: duration(
    "IMPORT_HISTORY_FOR",
    "30 days",
    "1 hour",
    "3650 days",
    "How long imports that have ended are remembered; the latest of each user always is."
  )
}

/** Every setting, by the name of its variable in code. */
export type Settings = {
  readonly [K in keyof typeof variables]: (typeof variables)[K] extends Variable<infer A> ? A : never
}

/** Reads every variable; fails with the first one whose value makes no sense. */
export const config: Config.Config<Settings> = Config.mapEffect(
  // `Record.map` forgets which key has which type; the keys and parsers are those of the table above.
  Config.all(Record.map(variables, (variable): Config.Config<unknown> => variable.config)) as Config.Config<Settings>,
  (settings) => {
    if (settings.poolConnectionsPerHost > settings.poolConnections) {
      return Effect.fail(invalid("POOL_CONNECTIONS_PER_HOST", "must not be more than POOL_CONNECTIONS"))
    }
    // An attempt that the deadline cuts short says nothing about the site: its circuit would never open.
    if (Duration.isGreaterThanOrEqualTo(settings.attemptTimeout, settings.validateDeadline)) {
      return Effect.fail(invalid("VALIDATE_DEADLINE", "must be longer than ATTEMPT_TIMEOUT"))
    }
    return Effect.succeed(settings)
  }
)

/** What is wrong, in one line: the variable, what it must be and, unless it is secret, what it was. */
export const describe = (error: Config.ConfigError): string => {
  const cause = error.cause
  if (cause._tag !== "SchemaError") return `The settings cannot be read: ${firstLine(cause.message)}`
  const issue = formatIssue(cause.issue).issues[0]
  const name = issue?.path?.map(String).join(".") ?? ""
  return firstLine(`${name} ${issue?.message ?? "is invalid"}`.trim())
}

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

const firstLine = (message: string): string => message.split(/[\r\n]/, 1)[0] ?? ""

// Function declarations, because the table above calls them while the module loads.

function variable<A>(options: {
  readonly name: string
  readonly fallback: string
  readonly meaning: string
  readonly secret?: boolean | undefined
  /** The value, or what it must be. */
  readonly parse: (text: string) => Result.Result<A, string>
}): Variable<A> {
  const { fallback, meaning, name, parse, secret } = options
  const read = (given: string) => {
    const value = given.trim() === "" ? fallback : given.trim()
    return Effect.fromResult(
      Result.mapError(parse(value), (expected) =>
        invalid(name, secret === true ? expected : `${expected}, not ${shown(value)}`)
      )
    )
  }
  return { name, fallback, meaning, config: Config.String(name).pipe(Config.withDefault(""), Config.mapEffect(read)) }
}

function invalid(name: string, message: string): Config.ConfigError {
  return new Config.ConfigError(
    new Schema.SchemaError(new SchemaIssue.Pointer([name], new SchemaIssue.InvalidValue({ message })))
  )
}

function shown(value: string): string {
  return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
}

function text(
  name: string,
  fallback: string,
  meaning: string,
  options: { readonly pattern: RegExp; readonly expected: string }
): Variable<string> {
  return variable({
    name,
    fallback,
    meaning,
    parse: (value) => (options.pattern.test(value) ? Result.succeed(value) : Result.fail(options.expected))
  })
}

function oneOf<const A extends string>(
  name: string,
  fallback: A,
  values: ReadonlyArray<A>,
  meaning: string
): Variable<A> {
  return variable({
    name,
    fallback,
    meaning,
    parse: (value) =>
      Result.fromOption(
        Option.fromUndefinedOr(values.find((each) => each.toLowerCase() === value.toLowerCase())),
        () => `must be one of ${values.join(", ")}`
      )
  })
}

function integer(name: string, fallback: number, min: number, max: number, meaning: string): Variable<number> {
  return variable({
    name,
    fallback: String(fallback),
    meaning,
    parse: (value) => {
      const parsed = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN
      return parsed >= min && parsed <= max
        ? Result.succeed(parsed)
        : Result.fail(`must be a whole number from ${min} to ${max}`)
    }
  })
}

function positive(name: string, fallback: number, max: number, meaning: string): Variable<number> {
  return variable({
    name,
    fallback: String(fallback),
    meaning,
    parse: (value) => {
      const parsed = /^\d{1,9}(\.\d{1,9})?$/.test(value) ? Number(value) : Number.NaN
      return parsed > 0 && parsed <= max
        ? Result.succeed(parsed)
        : Result.fail(`must be a number above 0, at most ${max}`)
    }
  })
}

function toDuration(value: string): Option.Option<Duration.Duration> {
  return /^\d{1,12}$/.test(value)
    ? Option.some(Duration.millis(Number(value)))
    : Schema.decodeOption(Schema.DurationFromString)(value)
}

function duration(
  name: string,
  fallback: string,
  minimum: Duration.Input,
  maximum: Duration.Input,
  meaning: string
): Variable<Duration.Duration> {
  const range = { minimum: Duration.fromInputUnsafe(minimum), maximum: Duration.fromInputUnsafe(maximum) }
  return variable({
    name,
    fallback,
    meaning,
    parse: (value) =>
      toDuration(value).pipe(
        Option.filter(Duration.between(range)),
        Result.fromOption(
          () =>
            `must be a duration from ${Duration.format(range.minimum)} to ${Duration.format(range.maximum)}, such as "${fallback}" or milliseconds`
        )
      )
  })
}

function durations(name: string, fallback: string, meaning: string): Variable<ReadonlyArray<Duration.Duration>> {
  const range = { minimum: Duration.zero, maximum: Duration.hours(1) }
  return variable({
    name,
    fallback,
    meaning,
    parse: (value) => {
      const parts = value.toLowerCase() === "none" ? [] : value.split(",").map((part) => part.trim())
      const parsed = parts.map((part) => Option.filter(toDuration(part), Duration.between(range)))
      return parsed.length <= 10 && parsed.every(Option.isSome)
        ? Result.succeed(parsed.map((each) => each.value))
        : Result.fail(`must be "none" or at most 10 durations up to 1h, such as "${fallback}"`)
    }
  })
}

function baseUrl(name: string, fallback: string, meaning: string): Variable<string> {
  return variable({
    name,
    fallback,
    meaning,
    // A URL may hold a password.
    secret: true,
    parse: (value) => {
      const url = URL.canParse(value) ? new URL(value) : undefined
      return url !== undefined &&
        (url.protocol === "https:" || url.protocol === "http:") &&
        url.search === "" &&
        url.hash === ""
        ? Result.succeed(value.replace(/\/+$/, ""))
        : Result.fail("must be an http or https URL without query and fragment")
    }
  })
}

function databaseFile(name: string, fallback: string, meaning: string): Variable<string> {
  return variable({
    name,
    fallback,
    meaning,
    secret: true,
    parse: (value) =>
      Result.fromOption(
        SqliteClient.fileOf(value),
        () => `must be "file:" and the path of an SQLite file, such as "${fallback}"`
      )
  })
}

function contact(name: string, fallback: string, meaning: string): Variable<string> {
  return variable({
    name,
    fallback,
    meaning,
    parse: (value) =>
      /^[^()]{3,200}$/.test(value) && Result.isSuccess(Result.try(() => UpstreamClient.userAgent(value)))
        ? Result.succeed(value)
        : Result.fail(
            "must be a mail address or a web page, without spaces, parentheses and names of HTTP libraries (Lichess shows them no games)"
          )
  })
}

function apiKeys(name: string, meaning: string): Variable<ReadonlyArray<ApiKey>> {
  const parse = (value: string): Result.Result<ReadonlyArray<ApiKey>, string> => {
    const entries = value.split(",").flatMap((entry) => (entry.trim() === "" ? [] : [entry.trim()]))
    const keys = new Map<string, ApiKey>()
    for (const [index, entry] of entries.entries()) {
      const [, key, user, tier] = /^([^\s:]{8,200}):([A-Za-z0-9_.@-]{1,64}):(free|premium)$/.exec(entry) ?? []
      if (key === undefined || user === undefined) {
        return Result.fail(
          `must be key:user:tier entries; entry ${index + 1} is not (a key has 8 to 200 characters, the tier is free or premium)`
        )
      }
      if (keys.has(key)) return Result.fail(`must not name a key twice; entry ${index + 1} does`)
      keys.set(key, { key: Redacted.make(key, { label: "api-key" }), user, premium: tier === "premium" })
    }
    return Result.succeed([...keys.values()])
  }
  return variable({ name, fallback: "", meaning, secret: true, parse })
}
