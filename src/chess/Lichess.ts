/**
 * Asks Lichess whether users exist and for their games.
 *
 * Whether a user exists is asked with `POST /api/users`, for many at a time, one request after another; the export answers
 * 404 for other reasons as well. An export is one stream that may last for hours: at most two run, because Lichess refuses
 * a third, and each is closed at once when its reader stops, because Lichess counts an unread one for up to an hour.
 *
 * Policies are those of `Upstream`. A line is at most 1 MiB; a stream without a line for 30 seconds is given up.
 */
import { Context, Duration, Effect, Exit, Layer, Option, Result, Schema, Scope, Stream } from "effect"
import { Batcher, Bulkhead, type CircuitBreaker, Timeout } from "effect-resilience"
import { type HttpClient, HttpClientRequest } from "effect/http"
import type { GameBatch } from "./domain/Game.ts"
import { UserName } from "./domain/UserName.ts"
import type { UserStatus } from "./domain/UserStatus.ts"
import * as LichessGame from "./LichessGame.ts"
import * as Ndjson from "./Ndjson.ts"
import * as Upstream from "./Upstream.ts"
import * as UpstreamClient from "./UpstreamClient.ts"
import { type UpstreamError, UpstreamTimeout, type UpstreamUnavailable, UserNotFound } from "./UpstreamError.ts"

/** Lichess. */
export class Lichess extends Context.Service<
  Lichess,
  {
    /** Asks whether a user exists. Concurrent questions are put in one request. */
    readonly userStatus: (user: string) => Effect.Effect<UserStatus, UpstreamError>
    /**
     * The games of a user as they come, what has arrived together in one batch. Everything read before a failure is
     * complete and correct; continue behind it.
     */
    readonly games: (query: GamesQuery) => Stream.Stream<GameBatch, UpstreamError | UserNotFound>
    readonly state: Effect.Effect<State>
    /** The changes of the circuit from now on. */
    readonly transitions: Stream.Stream<CircuitBreaker.Transition>
  }
>()("effect-resilience/chess/Lichess") {}

/** Which games of whom, by when they were created. */
export interface GamesQuery {
  readonly user: string
  /** Created at this time or later, in epoch milliseconds. */
  readonly since?: number | undefined
  /** Created before this time, in epoch milliseconds. */
  readonly until?: number | undefined
  /** As many games at most. */
  readonly max?: number | undefined
  readonly order: "newest-first" | "oldest-first"
}

/** Lichess as seen from here at one moment. */
export interface State extends Upstream.State {
  /** The exports that run and wait. */
  readonly exports: Bulkhead.State
}

/** Where Lichess is, who asks, and the numbers. */
export interface Options extends Upstream.Options {
  /** Defaults to https://lichess.org. */
  readonly baseUrl?: string | undefined
  /** How to reach who runs this service: a mail address or a web page. Defaults to the page of this package. */
  readonly contact?: string | undefined
  /** Users asked for in one request, at most 300. Defaults to 300. */
  readonly maxBatchSize?: number | undefined
  /** How long questions are collected while a request is under way. Defaults to 20 milliseconds. */
  readonly batchWindow?: Duration.Input | undefined
  /** Exports at the same time. Defaults to 2. */
  readonly maxExports?: number | undefined
  /** Exports that may wait for their turn. Defaults to 100. */
  readonly maxQueuedExports?: number | undefined
  /** How long an export may bring no game. Defaults to 30 seconds. */
  readonly idleTimeout?: Duration.Input | undefined
  /** The longest line of an export in bytes. Defaults to 1 MiB. */
  readonly maxLineBytes?: number | undefined
}

/** Creates the client of Lichess. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<Lichess["Service"], never, HttpClient.HttpClient | Scope.Scope> {
  const maxBatchSize = options.maxBatchSize ?? 300
  if (maxBatchSize > 300) throw new RangeError(`Lichess: maxBatchSize must be at most 300, got ${maxBatchSize}`)
  const idleTimeout = options.idleTimeout ?? "30 seconds"
  const maxLineBytes = options.maxLineBytes ?? 1024 * 1024

  const client = yield* UpstreamClient.make({
    platform: "lichess",
    baseUrl: options.baseUrl ?? "https://lichess.org",
    userAgent: UpstreamClient.userAgent(options.contact)
  })
  const upstream = yield* Upstream.make("lichess", options)
  const exports = yield* Bulkhead.make({
    maxConcurrent: options.maxExports ?? 2,
    maxQueued: options.maxQueuedExports ?? 100
  })

  const lookUp = (ids: ReadonlyArray<string>) =>
    upstream.call(
      Effect.gen(function* () {
        const answer = yield* client.send(
          HttpClientRequest.post(client.url("/api/users")).pipe(
            HttpClientRequest.accept("application/json"),
            HttpClientRequest.bodyText(ids.join(","), "text/plain")
          )
        )
        if (answer.status !== 200) return yield* client.unavailable("status", `HTTP ${answer.status}`, answer)
        const users = decodeUsers(answer.body)
        if (Result.isFailure(users)) return yield* client.unavailable("body", "not a list of users", answer)
        return new Map(
          users.success.map((user): [string, UserStatus] => [
            user.id.toLowerCase(),
            user.disabled === true ? "closed" : "active"
          ])
        )
      })
    )

  const batcher = yield* Batcher.make({
    run: lookUp,
    maxBatchSize,
    window: options.batchWindow ?? "20 millis",
    maxConcurrent: options.maxConcurrent ?? 1
  })

  // While the circuit is not closed nobody collects questions: one is asked as a probe, the others are refused at once.
  const ask = (id: string) =>
    Effect.flatMap(upstream.state, ({ circuit }) =>
      circuit._tag === "Closed"
        ? batcher.get(id)
        : Effect.map(lookUp([id]), (users) => Option.fromUndefinedOr(users.get(id)))
    )

  const userStatus = Effect.fn("Lichess.userStatus")((user: string) =>
    (isPossible(user) ? ask(user.toLowerCase()) : Effect.succeedNone).pipe(
      Effect.map(Option.getOrElse((): UserStatus => "unknown")),
      Effect.catchTag("BatcherFull", () => client.unavailable("overloaded", "too many users are asked for"))
    )
  )

  // Sends the request once. A body that is not an export is told by its type before anything of it is read.
  const request = Effect.fnUntraced(function* (query: GamesQuery) {
    const answer = yield* client.open(
      HttpClientRequest.get(client.url(`/api/games/user/${encodeURIComponent(query.user)}`)).pipe(
        HttpClientRequest.setUrlParams({
          pgnInJson: "true",
          clocks: "true",
          opening: "true",
          sort: query.order === "newest-first" ? "dateDesc" : "dateAsc",
          max: query.max,
          since: query.since,
          until: query.until
        }),
        // Anything but exactly this is answered with PGN.
        HttpClientRequest.accept("application/x-ndjson")
      )
    )
    const type = answer.headers["content-type"] ?? ""
    if (answer.status === 200 && !type.startsWith("application/x-ndjson")) {
      return yield* client.unavailable("body", `a body of type '${type.slice(0, 100)}' instead of games`, answer)
    }
    return answer
  })

  // The export is also not found for clients Lichess takes for crawlers, so the answer is looked for elsewhere.
  const notFound = Effect.fnUntraced(function* (user: string) {
    const status = yield* userStatus(user)
    return yield* status === "active"
      ? client.unavailable("blocked", "the games of an existing user are hidden from this client", { status: 404 })
      : new UserNotFound({ platform: "lichess", user, status })
  })

  const body = (answer: UpstreamClient.OpenAnswer) => {
    let reported = false
    const report = (outcome: Exit.Exit<void, UpstreamError>) => {
      if (Exit.isSuccess(outcome) && reported) return Effect.void
      reported = true
      return upstream.report(outcome)
    }
    return answer.body.pipe(
      Ndjson.lines({ maxLineBytes }),
      withIdleTimeout(idleTimeout),
      Stream.mapEffect((found) => {
        const last = found.unterminated ? found.lines[0] : undefined
        return last !== undefined && !LichessGame.isBlank(last) && !LichessGame.isJson(last)
          ? Effect.fail(client.unavailable("body", "the last game is cut off"))
          : Effect.succeed(toBatch(found, maxLineBytes))
      }),
      Stream.filter((batch) => batch.games.length > 0 || batch.odd.length > 0),
      Stream.tap(() => report(Exit.void)),
      Stream.onEnd(Effect.suspend(() => report(Exit.void))),
      Stream.tapError((error) => report(Exit.fail(error)))
    )
  }

  const games = (query: GamesQuery) =>
    Stream.unwrap(
      Effect.gen(function* () {
        yield* exports
          .executeScoped(Effect.void)
          .pipe(Effect.catchTag("BulkheadFull", () => client.unavailable("overloaded", "too many exports are waiting")))
        const answer = yield* upstream.open(yield* keepingOpen(request(query)))
        if (answer.status === 200) return body(answer)
        return yield* answer.status === 404
          ? notFound(query.user)
          : client.unavailable("status", `HTTP ${answer.status}`, answer)
      }).pipe(Effect.withSpan("Lichess.games"))
    )

  return {
    userStatus,
    games,
    state: Effect.map(Effect.all([upstream.state, exports.state]), ([state, exports]) => ({ ...state, exports })),
    transitions: upstream.transitions
  }
})

/** Provides `Lichess`. */
export const layer = (options: Options = {}): Layer.Layer<Lichess, never, HttpClient.HttpClient> =>
  Layer.effect(Lichess, make(options))

// A comma in a name would ask for two.
const isPossible = Schema.is(UserName)

const decodeUsers = Schema.decodeUnknownResult(
  Schema.fromJsonString(
    Schema.Array(Schema.Struct({ id: Schema.String, disabled: Schema.optionalKey(Schema.Boolean) }))
  )
)

const toBatch = (found: Ndjson.Lines, maxLineBytes: number): GameBatch => {
  const { games, odd } = LichessGame.decodeLines(found.lines)
  const tooLong = found.tooLong.map((raw) => ({ reason: `a line of over ${maxLineBytes} bytes`, raw }))
  return { games, odd: [...odd, ...tooLong] }
}

// A byte now and then is not progress: what is waited for is a line.
const withIdleTimeout =
  (after: Duration.Input) =>
  <A>(self: Stream.Stream<A, UpstreamUnavailable>): Stream.Stream<A, UpstreamError> =>
    Stream.transformPull(self, (pull) =>
      Effect.succeed(
        Effect.catchTag(Timeout.timeout(pull, after), "TimedOut", (error) =>
          Effect.fail(new UpstreamTimeout({ platform: "lichess", after: error.after }))
        )
      )
    )

// What an attempt opens stays open as long as the surrounding scope, unless the attempt fails: while another is tried, it
// holds no connection.
const keepingOpen = <A, E, R>(attempt: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.scope, (outer) =>
    Effect.flatMap(Scope.fork(outer), (scope) =>
      Effect.onError(Scope.provide(attempt, scope), (cause) => Scope.close(scope, Exit.failCause(cause)))
    )
  )
