/**
 * Implements the endpoints of `Api`: asks the services, and puts their answers and errors into the words of the API.
 *
 * A database that is locked or out of reach is answered with 503, because asking again may help. Any other failure of it
 * is nothing a caller can act on, so it becomes a defect: the server logs it and answers 500.
 */
import { Cause, Clock, Context, DateTime, Duration, Effect, Layer, Option, Schedule, Schema, Stream } from "effect"
import type { CircuitBreaker } from "effect-resilience"
import { ApiError } from "effect-resilience/http"
import { HttpServerResponse } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import type { SqlError } from "effect/sql"
import { Api, Caller, defaultImportLimit, defaultPageSize, ImportProgress as ProgressBody } from "./Api.ts"
import { ChessCom } from "./ChessCom.ts"
import type { Game, Player } from "./domain/Game.ts"
import { displayName, type Platform } from "./domain/Platform.ts"
import { toId, type UserName } from "./domain/UserName.ts"
import { Drain } from "./Drain.ts"
import { GameImport, type ImportProgress } from "./GameImport.ts"
import { GameStore } from "./GameStore.ts"
import { Lichess } from "./Lichess.ts"
import type { UpstreamError } from "./UpstreamError.ts"
import { Users } from "./Users.ts"

/** The event streams that may be open at the same time. Defaults to 1,000. */
export const MaxEventStreams = Context.Reference<number>("effect-resilience/chess/Handlers/MaxEventStreams", {
  defaultValue: () => 1_000
})

/** `users`: validation and the state of the clients. */
export const users = HttpApiBuilder.group(
  Api,
  "users",
  Effect.fnUntraced(function* (handlers) {
    const users = yield* Users
    const imports = yield* GameImport
    const lichess = yield* Lichess
    const chessCom = yield* ChessCom
    const uptime = yield* makeUptime
    return handlers.handleAll({
      validate: ({ payload }) =>
        users.validate({ user: payload.user_id, platform: payload.platform }).pipe(Effect.mapError(fromUpstream)),
      stats: Effect.fnUntraced(function* () {
        const cache = yield* users.stats
        const lichessState = yield* lichess.state
        const chessComState = yield* chessCom.state
        const list = yield* orUnavailable(imports.list)
        const looked = cache.hits + cache.joined + cache.misses
        return {
          success: true,
          stats: {
            cache_size: cache.size,
            pending_requests: cache.pending,
            lichess_circuit: circuitText(lichessState.circuit),
            chesscom_circuit: circuitText(chessComState.circuit),
            lichess_tokens: rounded(lichessState.limiter.tokens),
            chesscom_tokens: rounded(chessComState.limiter.tokens),
            lichess_requests_per_second: rounded(lichessState.limiter.refillPerSecond),
            chesscom_requests_per_second: rounded(chessComState.limiter.refillPerSecond),
            lichess_waiting: lichessState.limiter.waiting + lichessState.lane.waiting,
            chesscom_waiting: chessComState.limiter.waiting + chessComState.lane.waiting,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_hit_rate: looked === 0 ? null : rounded((cache.hits + cache.joined) / looked),
            joined_requests: cache.joined,
            imports_running: list.running.length,
            imports_queued: list.queued.length,
            import_slots_available: list.slots.available,
            uptime_seconds: yield* uptime
          },
          timestamp: yield* now
        } as const
      })
    })
  })
)

/** `imports`: starting, following and cancelling. */
export const imports = HttpApiBuilder.group(
  Api,
  "imports",
  Effect.fnUntraced(function* (handlers) {
    const imports = yield* GameImport
    const drain = yield* Drain
    const maxEventStreams = yield* MaxEventStreams
    const streams = { open: 0 }

    const known = (
      progress: Effect.Effect<Option.Option<ImportProgress>, SqlError.SqlError>,
      { platform, user }: { readonly user: UserName; readonly platform: Platform }
    ) =>
      Effect.flatMap(
        orUnavailable(progress),
        Option.match({ onNone: () => Effect.fail(neverImported(user, platform)), onSome: Effect.succeed })
      )

    return handlers.handleAll({
      start: Effect.fnUntraced(function* ({ payload }) {
        const { owner, premium } = yield* Caller
        const { outcome, progress } = yield* imports
          .start({
            user: toId(payload.user_id),
            platform: payload.platform,
            limit: payload.limit ?? defaultImportLimit,
            owner,
            premium
          })
          .pipe(
            Effect.catchTags({
              ImportQueueFull: (error) =>
                Effect.fail(
                  new ApiError.Unavailable({
                    code: "IMPORT_QUEUE_FULL",
                    error: "Too many imports are waiting already",
                    metadata: { running: error.running, waiting: error.waiting },
                    retryAfter: error.retryAfter
                  })
                ),
              TooManyImports: (error) =>
                Effect.fail(
                  new ApiError.TooManyRequests({
                    code: "TOO_MANY_IMPORTS",
                    error: `At most ${error.maxPerOwner} of your imports may be running and waiting`,
                    metadata: { maxImports: error.maxPerOwner },
                    retryAfter: error.retryAfter
                  })
                ),
              SqlError: fromDatabase
            })
          )
        const url = `/api/v1/import-progress/${progress.user}/${progress.platform}`
        const body = { ...progressBody(progress), progress_url: url, events_url: `${url}/events` }
        return outcome === "started" ? { ...body, outcome } : { ...body, outcome }
      }),
      progress: ({ params }) =>
        Effect.map(known(imports.progress(toId(params.user), params.platform), params), progressBody),
      cancel: ({ params }) =>
        Effect.map(known(imports.cancel(toId(params.user), params.platform), params), progressBody),
      events: Effect.fnUntraced(function* ({ params }) {
        const user = toId(params.user)
        yield* known(imports.progress(user, params.platform), params)
        if (streams.open >= maxEventStreams) {
          return yield* new ApiError.Unavailable({
            code: "TOO_MANY_EVENT_STREAMS",
            error: "Too many event streams are open; ask for the progress instead",
            metadata: { maxEventStreams },
            retryAfter: Duration.seconds(10)
          })
        }
        const changes = counted(streams, imports.changes(user, params.platform))
        return eventStream(changes, drain.begun)
      }),
      list: () =>
        Effect.map(orUnavailable(imports.list), ({ queued, recent, running, slots }) => ({
          slots,
          running: running.map(progressBody),
          queued: queued.map(progressBody),
          recent: recent.map(progressBody)
        }))
    })
  })
)

/** `games`: what has been imported. */
export const games = HttpApiBuilder.group(
  Api,
  "games",
  Effect.fnUntraced(function* (handlers) {
    const store = yield* GameStore
    return handlers.handleAll({
      page: ({ params, query }) =>
        store
          .page({
            user: toId(params.user),
            platform: params.platform,
            limit: query.limit ?? defaultPageSize,
            ...(query.cursor === undefined ? {} : { cursor: query.cursor })
          })
          .pipe(
            Effect.map(({ games, nextCursor, total }) => ({
              total,
              games: games.map(gameBody),
              next_cursor: nextCursor
            })),
            Effect.catchTags({
              InvalidCursor: () =>
                Effect.fail(
                  new ApiError.InvalidRequest({
                    code: "INVALID_REQUEST",
                    error: "cursor: is not a cursor of this service",
                    metadata: { field: "cursor" }
                  })
                ),
              SqlError: fromDatabase
            })
          ),
      pgn: ({ params }) =>
        store.pgn(params.platform, params.id).pipe(
          orUnavailable,
          Effect.flatMap(
            Option.match({
              onNone: () =>
                Effect.fail(
                  new ApiError.NotFound({
                    code: "GAME_NOT_FOUND",
                    error: `There is no PGN of a game '${params.id}' on ${displayName(params.platform)} here`
                  })
                ),
              onSome: Effect.succeed
            })
          )
        )
    })
  })
)

/** `health`: for whatever supervises the process. */
export const health = HttpApiBuilder.group(
  Api,
  "health",
  Effect.fnUntraced(function* (handlers) {
    const uptime = yield* makeUptime
    return handlers.handle("check", () =>
      Effect.all({ status: Effect.succeed("ok" as const), uptime_seconds: uptime, timestamp: now })
    )
  })
)

/** All groups. */
export const layer = Layer.mergeAll(users, imports, games, health)

const fromUpstream = (error: UpstreamError) => {
  const site = displayName(error.platform)
  const retryAfter = error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }
  if (error._tag === "UpstreamTimeout") {
    return new ApiError.GatewayTimeout({
      code: "UPSTREAM_TIMEOUT",
      error: `${site} did not answer in time`,
      metadata: { platform: error.platform, timeoutMillis: Duration.toMillis(error.after) },
      ...retryAfter
    })
  }
  const metadata = { platform: error.platform, reason: error.reason }
  switch (error.reason) {
    case "circuit-open":
      return new ApiError.Unavailable({
        code: "CIRCUIT_OPEN",
        error: `${site} keeps failing and is not asked for the moment`,
        metadata,
        ...retryAfter
      })
    case "overloaded":
      return new ApiError.Unavailable({
        code: "OVERLOADED",
        error: `Too many requests to ${site} are waiting`,
        metadata,
        ...retryAfter
      })
    case "rate-limited":
      return new ApiError.Unavailable({
        code: "UPSTREAM_RATE_LIMITED",
        error: `${site} asks for fewer requests`,
        metadata,
        ...retryAfter
      })
    case "blocked":
    case "body":
    case "connection":
    case "status":
      return new ApiError.Unavailable({
        code: "UPSTREAM_ERROR",
        error: `${site} did not give a usable answer`,
        metadata,
        ...retryAfter
      })
  }
}

const fromDatabase = (error: SqlError.SqlError): Effect.Effect<never, ApiError.Unavailable> =>
  error.isRetryable
    ? Effect.logWarning("The database is unavailable", Cause.fail(error)).pipe(
        Effect.annotateLogs({ event: "http.database-unavailable" }),
        Effect.andThen(
          new ApiError.Unavailable({
            code: "DATABASE_UNAVAILABLE",
            error: "The database is busy or out of reach",
            retryAfter: Duration.seconds(5)
          })
        )
      )
    : Effect.die(error)

const orUnavailable = <A>(self: Effect.Effect<A, SqlError.SqlError>): Effect.Effect<A, ApiError.Unavailable> =>
  Effect.catchTag(self, "SqlError", fromDatabase)

const neverImported = (user: UserName, platform: Platform) =>
  new ApiError.NotFound({
    code: "IMPORT_NOT_FOUND",
    error: `The games of '${user}' on ${displayName(platform)} were never imported`
  })

const isoTime = (millis: number): string => DateTime.formatIso(DateTime.makeUnsafe(millis))

const isoTimeOrNull = (millis: number | null): string | null => (millis === null ? null : isoTime(millis))

const now = Effect.map(Clock.currentTimeMillis, isoTime)

const makeUptime = Effect.map(Clock.currentTimeMillis, (startedAt) =>
  Effect.map(Clock.currentTimeMillis, (millis) => Math.floor((millis - startedAt) / 1_000))
)

// Two decimals are enough for people, and programs do not count on more.
const rounded = (value: number): number => Math.round(value * 100) / 100

const circuitText = (state: CircuitBreaker.State): string => {
  switch (state._tag) {
    case "Closed":
      return `closed (failures: ${state.failures})`
    case "Open":
      return `open (retry in ${Math.ceil(Duration.toSeconds(state.retryAfter))} s)`
    case "HalfOpen":
      return `half-open (successes: ${state.successes})`
    case "Isolated":
      return "isolated"
  }
}

const progressBody = (progress: ImportProgress): ProgressBody => ({
  import_id: progress.importId,
  user_id: progress.user,
  platform: progress.platform,
  status: progress.status,
  message: progress.message,
  imported: progress.imported,
  checked: progress.checked,
  skipped: progress.skipped,
  limit: progress.limit,
  queue_position: progress.queuePosition,
  estimated_wait_seconds: progress.estimatedWaitSeconds,
  created_at: isoTime(progress.createdAt),
  started_at: isoTimeOrNull(progress.startedAt),
  finished_at: isoTimeOrNull(progress.finishedAt),
  error: progress.error
})

const playerBody = (player: Player) => ({
  id: player.id,
  name: player.name,
  title: player.title,
  rating: player.rating,
  rating_diff: player.ratingDiff,
  ai_level: player.aiLevel
})

const gameBody = (game: Omit<Game, "pgn">) => ({
  id: game.id,
  platform: game.platform,
  url: game.url,
  played_at: isoTime(game.playedAt),
  ended_at: isoTimeOrNull(game.endedAt),
  white: playerBody(game.white),
  black: playerBody(game.black),
  result: game.result,
  termination: game.termination,
  rated: game.rated,
  variant: game.variant,
  speed: game.speed,
  base_seconds: game.baseSeconds,
  increment_seconds: game.incrementSeconds,
  days_per_turn: game.daysPerTurn,
  eco: game.eco,
  opening: game.opening,
  plies: game.plies,
  initial_fen: game.initialFen
})

const encodeProgress = Schema.encodeSync(Schema.fromJsonString(ProgressBody))

const counted = <A, E>(streams: { open: number }, self: Stream.Stream<A, E>): Stream.Stream<A, E> => {
  const open = Effect.acquireRelease(
    Effect.sync(() => streams.open++),
    () => Effect.sync(() => streams.open--)
  )
  return Stream.unwrap(Effect.as(open, self))
}

// A response of its own instead of the endpoint's stream: only here comments can be sent between the events, which keep
// the connection alive through proxies while an import waits.
const eventStream = <E>(changes: Stream.Stream<ImportProgress, E>, until: Effect.Effect<void>) => {
  const events = Stream.map(changes, (progress) => `data: ${encodeProgress(progressBody(progress))}\n\n`)
  const keepAlive = Stream.map(Stream.fromSchedule(Schedule.spaced("15 seconds")), () => ": keep-alive\n\n")
  return HttpServerResponse.stream(
    events.pipe(Stream.merge(keepAlive, { haltStrategy: "left" }), Stream.interruptWhen(until), Stream.encodeText),
    {
      contentType: "text/event-stream",
      headers: { "cache-control": "no-cache, no-transform", "x-accel-buffering": "no" }
    }
  )
}
