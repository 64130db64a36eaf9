/**
 * The HTTP API of the chess service: every endpoint, with the schemas of what it takes, gives and refuses.
 *
 * The server, the OpenAPI document, the page at `/docs` and the typed client are all derived from `Api`. Names on the
 * wire are snake_case, times are ISO 8601 in UTC, absent values are `null`. Unknown fields of a request are ignored.
 */
import { Context, type Effect, Schema } from "effect"
import { ApiError } from "effect-resilience/http"
import {
  HttpApi,
  HttpApiClient,
  HttpApiEndpoint,
  HttpApiGroup,
  HttpApiMiddleware,
  HttpApiSchema,
  HttpApiSecurity,
  OpenApi
} from "effect/http-api"
import type { HttpClient } from "effect/http"
import { Platform } from "./domain/Platform.ts"
import { UserName } from "./domain/UserName.ts"

/** The most new games one import may ask for. */
export const maxImportLimit = 200_000

/** The new games an import asks for when the request does not say. */
export const defaultImportLimit = 1_000

/** The most games on one page. */
export const maxPageSize = 500

/** The games on one page when the request does not say. */
export const defaultPageSize = 50

/** The largest request body that is read. */
export const maxBodyBytes = 64 * 1024

const required = { messageMissingKey: "is required" }

const optionalWholeNumber = (minimum: number, maximum: number) => {
  const message = `must be a whole number from ${minimum} to ${maximum}`
  return Schema.optional(
    Schema.Finite.annotate({ message }).check(
      Schema.isInt({ message }),
      Schema.isBetween({ minimum, maximum }, { message })
    )
  ).annotate({ message })
}

/** The body of `POST /api/v1/validate-user`. */
export const ValidateUserRequest = Schema.Struct({
  user_id: UserName.annotateKey(required),
  platform: Platform.annotateKey(required)
}).annotate({ identifier: "ValidateUserRequest" })

/** Whether a user exists. */
export const ValidateUserResponse = Schema.Struct({
  exists: Schema.Boolean,
  message: Schema.String
}).annotate({ identifier: "ValidateUserResponse" })

/** What the clients of the two sites are doing. */
export const ClientStats = Schema.Struct({
  cache_size: Schema.Int.annotate({ description: "Users whose existence is remembered." }),
  pending_requests: Schema.Int.annotate({ description: "Look-ups under way; identical ones count once." }),
  lichess_circuit: Schema.String.annotate({
    description: "`closed (failures: 0)`, `open (retry in 42 s)` or `half-open (successes: 1)`."
  }),
  chesscom_circuit: Schema.String,
  lichess_tokens: Schema.Finite.annotate({ description: "Requests that may be sent at once." }),
  chesscom_tokens: Schema.Finite,
  lichess_requests_per_second: Schema.Finite.annotate({ description: "The rate now; a 429 lowers it for a while." }),
  chesscom_requests_per_second: Schema.Finite,
  lichess_waiting: Schema.Int.annotate({ description: "Requests that wait for their turn." }),
  chesscom_waiting: Schema.Int,
  cache_hits: Schema.Int,
  cache_misses: Schema.Int,
  cache_hit_rate: Schema.NullOr(Schema.Finite).annotate({
    description: "From 0 to 1; `null` before the first look-up."
  }),
  joined_requests: Schema.Int.annotate({ description: "Look-ups answered by an identical one already under way." }),
  imports_running: Schema.Int,
  imports_queued: Schema.Int,
  import_slots_available: Schema.Int,
  uptime_seconds: Schema.Int
}).annotate({ identifier: "ClientStats" })

/** The body of `GET /api/v1/api-client-stats`. */
export const ClientStatsResponse = Schema.Struct({
  success: Schema.Literal(true),
  stats: ClientStats,
  timestamp: Schema.String
}).annotate({ identifier: "ClientStatsResponse" })

/** The body of `POST /api/v1/import-more-games`. */
export const ImportRequest = Schema.Struct({
  user_id: UserName.annotateKey(required),
  platform: Platform.annotateKey(required),
  limit: optionalWholeNumber(1, maxImportLimit).annotate({
    description: `The most new games to store. Defaults to ${defaultImportLimit}.`
  })
}).annotate({ identifier: "ImportRequest" })

const progressFields = {
  import_id: Schema.String,
  user_id: Schema.String,
  platform: Platform,
  status: Schema.Literals(["queued", "starting", "importing", "complete", "failed", "cancelled"]),
  message: Schema.String,
  imported: Schema.Int.annotate({ description: "New games stored." }),
  checked: Schema.Int.annotate({ description: "Games looked at." }),
  skipped: Schema.Int.annotate({ description: "Games that could not be kept." }),
  limit: Schema.Int,
  queue_position: Schema.NullOr(Schema.Int).annotate({ description: "1 is the next to start." }),
  estimated_wait_seconds: Schema.NullOr(Schema.Finite),
  created_at: Schema.String,
  started_at: Schema.NullOr(Schema.String),
  finished_at: Schema.NullOr(Schema.String),
  error: Schema.NullOr(Schema.String)
}

/** One import as it is now. */
export const ImportProgress = Schema.Struct(progressFields).annotate({ identifier: "ImportProgress" })
export type ImportProgress = typeof ImportProgress.Type

const followFields = {
  progress_url: Schema.String.annotate({ description: "Where to ask for the progress." }),
  events_url: Schema.String.annotate({ description: "Where the progress is streamed." })
}

/** The import was started or queued by this request. */
export const StartedImport = Schema.Struct({
  ...progressFields,
  ...followFields,
  outcome: Schema.Literal("started")
}).annotate({ identifier: "StartedImport" })

/** The same import was already under way, or had ended so recently that nothing can be new. */
export const ExistingImport = Schema.Struct({
  ...progressFields,
  ...followFields,
  outcome: Schema.Literals(["already-running", "recent"])
}).annotate({ identifier: "ExistingImport" })

/** The body of `GET /api/v1/imports`. */
export const ImportList = Schema.Struct({
  slots: Schema.Struct({ total: Schema.Int, available: Schema.Int }),
  running: Schema.Array(ImportProgress),
  queued: Schema.Array(ImportProgress),
  recent: Schema.Array(ImportProgress).annotate({ description: "Imports that have ended, the latest first." })
}).annotate({ identifier: "ImportList" })

/** One side of a game. */
export const Player = Schema.Struct({
  id: Schema.NullOr(Schema.String),
  name: Schema.NullOr(Schema.String),
  title: Schema.NullOr(Schema.String),
  rating: Schema.NullOr(Schema.Int),
  rating_diff: Schema.NullOr(Schema.Int),
  ai_level: Schema.NullOr(Schema.Int)
}).annotate({ identifier: "Player" })

/** One game, without its moves. */
export const Game = Schema.Struct({
  id: Schema.String,
  platform: Platform,
  url: Schema.String,
  played_at: Schema.String,
  ended_at: Schema.NullOr(Schema.String),
  white: Player,
  black: Player,
  result: Schema.Literals(["1-0", "0-1", "1/2-1/2", "*"]),
  termination: Schema.String,
  rated: Schema.Boolean,
  variant: Schema.String,
  speed: Schema.Literals(["ultrabullet", "bullet", "blitz", "rapid", "classical", "correspondence"]),
  base_seconds: Schema.NullOr(Schema.Finite),
  increment_seconds: Schema.NullOr(Schema.Finite),
  days_per_turn: Schema.NullOr(Schema.Finite),
  eco: Schema.NullOr(Schema.String),
  opening: Schema.NullOr(Schema.String),
  plies: Schema.NullOr(Schema.Int),
  initial_fen: Schema.NullOr(Schema.String)
}).annotate({ identifier: "Game" })

/** One page of games, newest first. */
export const GamePage = Schema.Struct({
  total: Schema.Int.annotate({ description: "All stored games of the user on this platform." }),
  games: Schema.Array(Game),
  next_cursor: Schema.NullOr(Schema.String).annotate({
    description: "The `cursor` of the next page; `null` on the last."
  })
}).annotate({ identifier: "GamePage" })

/** The body of `GET /health`. */
export const Health = Schema.Struct({
  status: Schema.Literal("ok"),
  uptime_seconds: Schema.Int,
  timestamp: Schema.String
}).annotate({ identifier: "Health" })

/** Who sent a request, as far as quotas and priority go. */
export class Caller extends Context.Service<
  Caller,
  {
    /** The user of the API key, or the address of the client. */
    readonly owner: string
    readonly premium: boolean
  }
>()("effect-resilience/chess/Api/Caller") {}

const unauthenticated = ApiError.response(ApiError.Unauthenticated)
const notFound = ApiError.response(ApiError.NotFound)
const tooManyRequests = ApiError.response(ApiError.TooManyRequests)
const internalError = ApiError.response(ApiError.InternalError)
const unavailable = ApiError.response(ApiError.Unavailable)
const timedOut = ApiError.response(ApiError.GatewayTimeout)

/**
 * Tells who is asking from `X-API-Key` or `Authorization: Bearer`; without either, the caller is anonymous.
 *
 * @effect-expect-leaking HttpServerRequest | ParsedSearchParams | RouteContext
 */
export class Authentication extends HttpApiMiddleware.Service<Authentication, { provides: Caller }>()(
  "effect-resilience/chess/Api/Authentication",
  {
    error: unauthenticated,
    security: {
      apiKey: HttpApiSecurity.apiKey({ in: "header", key: "X-API-Key" }),
      bearer: HttpApiSecurity.bearer
    }
  }
) {}

const userAndPlatform = { user: UserName, platform: Platform }

/** Whether users exist, and how the sites are doing. */
export class UsersGroup extends HttpApiGroup.make("users")
  .add(
    HttpApiEndpoint.post("validate", "/api/v1/validate-user", {
      payload: ValidateUserRequest,
      success: ValidateUserResponse,
      error: [unavailable, timedOut]
    }).annotate(OpenApi.Summary, "Does this user exist? A user who does not is an answer, not an error."),
    HttpApiEndpoint.get("stats", "/api/v1/api-client-stats", {
      success: ClientStatsResponse,
      error: [internalError, unavailable]
    }).annotate(OpenApi.Summary, "Cache, circuits and rate limits of the two sites.")
  )
  .middleware(Authentication) {}

/** Starting, following and cancelling imports. */
export class ImportsGroup extends HttpApiGroup.make("imports")
  .add(
    HttpApiEndpoint.post("start", "/api/v1/import-more-games", {
      payload: ImportRequest,
      success: [StartedImport.pipe(HttpApiSchema.status(202)), ExistingImport],
      error: [tooManyRequests, unavailable]
    }).annotate(OpenApi.Summary, "Start or queue an import: new games first, then further back from the oldest."),
    HttpApiEndpoint.get("progress", "/api/v1/import-progress/:user/:platform", {
      params: userAndPlatform,
      success: ImportProgress,
      error: [notFound, unavailable]
    }).annotate(OpenApi.Summary, "The latest import of a user."),
    HttpApiEndpoint.get("events", "/api/v1/import-progress/:user/:platform/events", {
      params: userAndPlatform,
      success: HttpApiSchema.StreamSse({ data: ImportProgress }),
      error: [notFound, unavailable]
    }).annotate(OpenApi.Summary, "The same as server-sent events, until the import has ended."),
    HttpApiEndpoint.delete("cancel", "/api/v1/import-progress/:user/:platform", {
      params: userAndPlatform,
      success: ImportProgress,
      error: [notFound, unavailable]
    }).annotate(OpenApi.Summary, "Cancel a queued or running import; what it has stored stays."),
    HttpApiEndpoint.get("list", "/api/v1/imports", { success: ImportList, error: unavailable }).annotate(
      OpenApi.Summary,
      "Running, queued and recent imports."
    )
  )
  .middleware(Authentication) {}

/** What has been imported. */
export class GamesGroup extends HttpApiGroup.make("games")
  .add(
    HttpApiEndpoint.get("page", "/api/v1/games/:user/:platform", {
      params: userAndPlatform,
      query: {
        limit: optionalWholeNumber(1, maxPageSize),
        cursor: Schema.optional(
          Schema.String.annotate({ message: "must be given once" }).check(
            Schema.isMaxLength(500, { message: "is not a cursor of this service" })
          )
        )
      },
      success: GamePage,
      error: unavailable
    }).annotate(OpenApi.Summary, "The stored games of a user, newest first."),
    HttpApiEndpoint.get("pgn", "/api/v1/games/:platform/:id/pgn", {
      params: {
        platform: Platform,
        id: Schema.String.check(Schema.isPattern(/^[A-Za-z0-9:-]{1,64}$/, { message: "is not the id of a game" }))
      },
      success: Schema.String.pipe(HttpApiSchema.asText({ contentType: "application/x-chess-pgn" })),
      error: [notFound, unavailable]
    }).annotate(OpenApi.Summary, "The PGN of one game, as it came from the site.")
  )
  .middleware(Authentication) {}

/** For whatever supervises the process. */
export class HealthGroup extends HttpApiGroup.make("health").add(
  HttpApiEndpoint.get("check", "/health", { success: Health }).annotate(
    OpenApi.Summary,
    "Answers while the server serves."
  )
) {}

/** The whole API. */
export class Api extends HttpApi.make("chess")
  .add(UsersGroup, ImportsGroup, GamesGroup, HealthGroup)
  .middleware(ApiError.SchemaErrors)
  .annotateMerge(
    OpenApi.annotations({
      title: "Chess service",
      version: "1",
      description:
        "Validates users of Lichess and Chess.com and imports their games, and keeps doing so when the sites do not."
    })
  ) {}

/** A client of the service at `baseUrl`, with the types of `Api`. */
export const client = (baseUrl: string): Effect.Effect<Client, never, HttpClient.HttpClient> =>
  HttpApiClient.make(Api, { baseUrl })

/** What `client` gives. */
export type Client = HttpApiClient.ForApi<typeof Api>
