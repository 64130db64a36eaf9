import * as http from "node:http"
import * as net from "node:net"
import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import {
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Option,
  Redacted,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import type { CircuitBreaker } from "effect-resilience"
import { HttpClient, HttpClientRequest, HttpServer } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import { SqlError } from "effect/sql"
import { Api } from "../../src/chess/Api.ts"
import * as ApiKeys from "../../src/chess/ApiKeys.ts"
import { ChessCom } from "../../src/chess/ChessCom.ts"
import type { Game } from "../../src/chess/domain/Game.ts"
import type { Platform } from "../../src/chess/domain/Platform.ts"
import * as Drain from "../../src/chess/Drain.ts"
import { GameImport, type ImportProgress } from "../../src/chess/GameImport.ts"
import { GameStore, InvalidCursor } from "../../src/chess/GameStore.ts"
import { ImportQueueFull, TooManyImports } from "../../src/chess/ImportSlots.ts"
import { MaxEventStreams } from "../../src/chess/Handlers.ts"
import { Lichess } from "../../src/chess/Lichess.ts"
import * as Server from "../../src/chess/Server.ts"
import { UpstreamTimeout, UpstreamUnavailable } from "../../src/chess/UpstreamError.ts"
import * as Users from "../../src/chess/Users.ts"

// Each name makes the doubles of the services answer in its own way. The site is asked for `waits`, and answers when told.
const asked = Deferred.makeUnsafe<void>()
const answered = Deferred.makeUnsafe<void>()

const unavailable = (platform: Platform, reason: UpstreamUnavailable["reason"], retryAfter?: Duration.Duration) =>
  Effect.fail(new UpstreamUnavailable({ platform, reason, detail: "secret detail of the site", retryAfter }))

const userStatus = (platform: Platform) => (user: string) => {
  switch (user) {
    case "anna":
      return Effect.succeed("active" as const)
    case "clara":
      return Effect.succeed("closed" as const)
    case "open":
      return unavailable(platform, "circuit-open", Duration.millis(41_200))
    case "slowdown":
      return unavailable(platform, "rate-limited", Duration.seconds(60))
    case "crowd":
      return unavailable(platform, "overloaded")
    case "broken":
      return unavailable(platform, "status")
    case "late":
      return Effect.fail(new UpstreamTimeout({ platform, after: Duration.seconds(5), retryAfter: Duration.seconds(2) }))
    case "waits":
      return Effect.as(Effect.andThen(Deferred.succeed(asked, undefined), Deferred.await(answered)), "active" as const)
    case "forever":
      return Effect.never
    case "bug":
      return Effect.die(new Error("secret of the server"))
    default:
      return Effect.succeed("unknown" as const)
  }
}

const upstreamState = (circuit: CircuitBreaker.State) => ({
  circuit,
  limiter: { tokens: 8.456, refillPerSecond: 4, waiting: 2, pausedFor: Duration.zero },
  lane: { maxConcurrent: 1, running: 1, waiting: 3 },
  exports: { maxConcurrent: 2, running: 0, waiting: 0 }
})

// The circuit of Lichess, for the test that looks at it.
const circuits: { lichess: CircuitBreaker.State } = { lichess: { _tag: "Closed", key: "lichess", failures: 0 } }

const lichess = Layer.mock(Lichess, {
  userStatus: userStatus("lichess"),
  state: Effect.sync(() => upstreamState(circuits.lichess)),
  transitions: Stream.empty
})

const chessCom = Layer.mock(ChessCom, {
  check: Effect.void,
  userStatus: userStatus("chess.com"),
  state: Effect.succeed(upstreamState({ _tag: "Closed", key: "chess.com", failures: 2 })),
  transitions: Stream.empty
})

const importOf = (user: string, platform: Platform, change: Partial<ImportProgress> = {}): ImportProgress => ({
  importId: `import-of-${user}`,
  user,
  platform,
  owner: "secret-owner",
  premium: false,
  status: "importing",
  message: "Imported 12 games...",
  imported: 12,
  checked: 15,
  skipped: 1,
  limit: 100,
  createdAt: 1_700_000_000_000,
  startedAt: 1_700_000_001_000,
  finishedAt: null,
  error: null,
  queuePosition: null,
  estimatedWaitSeconds: null,
  ...change
})

const databaseError = new SqlError.SqlError({
  reason: new SqlError.UnknownError({ cause: new Error("secret of the database") })
})

// What the database says to everything it is asked, for the tests that look at that.
const database: { failure: SqlError.SqlError | undefined } = { failure: undefined }

const stored = <A>(value: A) =>
  Effect.suspend(() => (database.failure === undefined ? Effect.succeed(value) : Effect.fail(database.failure)))

// A user `follow` waits for the test before its import ends.
const followed = Deferred.makeUnsafe<void>()
const streams = { open: 0 }

const imports = Layer.mock(GameImport, {
  start: ({ limit, owner, platform, premium, user }) => {
    if (database.failure !== undefined) return Effect.fail(database.failure)
    switch (user) {
      case "full":
        return Effect.fail(new ImportQueueFull({ running: 2, waiting: 100, retryAfter: Duration.millis(90_001) }))
      case "greedy":
        return Effect.fail(new TooManyImports({ maxPerOwner: 5, retryAfter: Duration.seconds(12) }))
      case "broken":
        return Effect.fail(databaseError)
      case "running":
        return Effect.succeed({ progress: importOf(user, platform), outcome: "already-running" as const })
      case "recent":
        return Effect.succeed({
          progress: importOf(user, platform, { status: "complete", finishedAt: 1_700_000_009_000 }),
          outcome: "recent" as const
        })
      default:
        return Effect.succeed({
          progress: importOf(user, platform, {
            limit,
            status: "queued",
            message: `${owner} ${premium}`,
            queuePosition: 3,
            estimatedWaitSeconds: 40,
            startedAt: null
          }),
          outcome: "started" as const
        })
    }
  },
  progress: (user, platform) =>
    user === "broken"
      ? Effect.fail(databaseError)
      : stored(user === "nobody" ? Option.none() : Option.some(importOf(user, platform))),
  changes: (user, platform) =>
    Stream.make(importOf(user, platform)).pipe(
      Stream.concat(
        user === "follow"
          ? Stream.fromEffect(Effect.as(Deferred.await(followed), importOf(user, platform, { imported: 13 })))
          : user === "endless"
            ? Stream.never
            : Stream.empty
      ),
      Stream.concat(Stream.make(importOf(user, platform, { status: "complete", imported: 14 }))),
      Stream.onStart(Effect.sync(() => void streams.open++)),
      Stream.ensuring(Effect.sync(() => void streams.open--))
    ),
  cancel: (user, platform) =>
    stored(
      user === "nobody" ? Option.none() : Option.some(importOf(user, platform, { status: "cancelled", finishedAt: 1 }))
    ),
  list: stored({
    running: [importOf("anna", "lichess")],
    queued: [importOf("bert", "chess.com", { status: "queued", queuePosition: 1 })],
    recent: [importOf("clara", "lichess", { status: "complete" })],
    slots: { total: 2, available: 1 }
  })
})

const game: Omit<Game, "pgn"> = {
  platform: "lichess",
  id: "AbCdEfGh",
  url: "https://lichess.example/AbCdEfGh",
  rated: true,
  variant: "standard",
  speed: "blitz",
  baseSeconds: 180,
  incrementSeconds: 2,
  daysPerTurn: null,
  playedAt: 1_700_000_000_000,
  endedAt: null,
  white: { id: "anna", name: "Anna", title: null, rating: 1500, ratingDiff: 6, aiLevel: null },
  black: { id: null, name: null, title: null, rating: null, ratingDiff: null, aiLevel: 3 },
  result: "1-0",
  termination: "mate",
  eco: "C20",
  opening: "King's Pawn Game",
  plies: 61,
  initialFen: null
}

const store = Layer.mock(GameStore, {
  page: ({ cursor, limit, user }) =>
    cursor === "bad"
      ? Effect.fail(new InvalidCursor())
      : user === "broken"
        ? Effect.fail(databaseError)
        : stored({ total: limit, games: [game], nextCursor: cursor === undefined ? "next" : null }),
  pgn: (platform, id) =>
    stored(id === "AbCdEfGh" ? Option.some(`[Site "${platform}"]\n\n1. e4 e5 1-0\n\n\n`) : Option.none())
})

const keys = ApiKeys.layer([
  { key: Redacted.make("premium-key-of-anna"), user: "anna", premium: true },
  { key: Redacted.make("free-key-of-bert"), user: "bert", premium: false }
])

const services = Layer.mergeAll(
  Layer.provideMerge(Users.layer({ deadline: "300 millis" }), Layer.merge(lichess, chessCom)),
  imports,
  store,
  keys,
  Drain.layer
)

const serverWithLog = Server.layerNoDeps.pipe(
  Layer.provideMerge(services),
  Layer.provideMerge(NodeHttpServer.layerTest)
)

const server = serverWithLog.pipe(Layer.provide(Logger.layer([])))

const ErrorBody = Schema.Struct({
  error: Schema.String,
  code: Schema.String,
  statusCode: Schema.Int,
  metadata: Schema.Record(Schema.String, Schema.Unknown)
})

/** Sends a request and reads the error it is answered with, having checked its form. */
const refusal = Effect.fnUntraced(function* (request: HttpClientRequest.HttpClientRequest) {
  const response = yield* HttpClient.execute(request)
  const text = yield* response.text
  assert.match(response.headers["content-type"] ?? "", /^application\/json/, `${response.status} ${text}`)
  const body = yield* Schema.decodeEffect(Schema.fromJsonString(ErrorBody))(text, { onExcessProperty: "error" })
  assert.strictEqual(body.statusCode, response.status)
  assert.match(body.code, /^[A-Z][A-Z0-9_]+$/)
  assert.notMatch(text, /secret|node_modules|\.ts:|    at /)
  return {
    ...body,
    field: body.metadata["field"],
    retryAfter: response.headers["retry-after"],
    headers: response.headers
  }
})

const post = (path: string, body: string, headers: Record<string, string> = {}) =>
  HttpClientRequest.post(path).pipe(
    HttpClientRequest.bodyText(body, "application/json"),
    HttpClientRequest.setHeaders(headers)
  )

const start = (user: string, headers: Record<string, string> = {}) =>
  post("/api/v1/import-more-games", JSON.stringify({ user_id: user, platform: "lichess", limit: 100 }), headers)

const validateUser = (user: unknown, platform: unknown = "lichess") =>
  post("/api/v1/validate-user", JSON.stringify({ user_id: user, platform }))

const json = (request: HttpClientRequest.HttpClientRequest) =>
  Effect.flatMap(HttpClient.execute(request), (response) =>
    Effect.map(response.json, (body) => ({ status: response.status, body }))
  )

/** Sends a request as it is written, without the corrections of a client library. */
const send = (options: http.RequestOptions, chunks: ReadonlyArray<string> = []) =>
  Effect.flatMap(HttpServer.HttpServer, (server) =>
    Effect.callback<{ readonly status: number; readonly body: string }>((resume) => {
      const { address } = server
      const port = address._tag === "UnixPathAddress" ? 0 : address.port
      const request = http.request({ host: "127.0.0.1", port, agent: false, ...options }, (response) => {
        let body = ""
        response.setEncoding("utf8")
        response.on("data", (chunk: string) => (body += chunk))
        response.on("end", () => resume(Effect.succeed({ status: response.statusCode ?? 0, body })))
      })
      request.on("error", (error) => resume(Effect.die(error)))
      for (const chunk of chunks) request.write(chunk)
      request.end()
      return Effect.sync(() => request.destroy())
    })
  )

layer(server, { excludeTestServices: true })("Api", (it) => {
  describe("validate-user", () => {
    it.effect("answers with exactly what the specification shows", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* json(validateUser("Anna")), {
          status: 200,
          body: { exists: true, message: "User 'Anna' exists on Lichess" }
        })
        assert.deepStrictEqual(yield* json(validateUser("gmud")), {
          status: 200,
          body: { exists: false, message: "User 'gmud' not found on Lichess" }
        })
        assert.deepStrictEqual(yield* json(validateUser("clara", "chess.com")), {
          status: 200,
          body: { exists: true, message: "User 'clara' exists on Chess.com, but the account is closed" }
        })
      })
    )

    it.effect("says which request it was, and answers with RFC 9457 whom asks for it", () =>
      Effect.gen(function* () {
        const request = post("/api/v1/validate-user", "{}", {
          "x-correlation-id": "click-17",
          accept: "application/problem+json"
        })
        const response = yield* HttpClient.execute(request)
        assert.strictEqual(response.headers["x-correlation-id"], "click-17")
        assert.match(response.headers["x-request-id"] ?? "", /^req_[\da-f]{32}$/)
        assert.strictEqual(response.headers["content-type"], "application/problem+json")
        assert.containsSubset(yield* response.json, { title: "Bad Request", status: 400, code: "INVALID_REQUEST" })
      })
    )

    it.effect("ignores fields it does not know", () =>
      Effect.gen(function* () {
        const body = '{"user_id":"anna","platform":"lichess","__proto__":{"x":1},"extra":[1]}'
        assert.strictEqual((yield* json(post("/api/v1/validate-user", body))).status, 200)
      })
    )

    it.effect.each([
      ["open", 503, "CIRCUIT_OPEN", "42"],
      ["slowdown", 503, "UPSTREAM_RATE_LIMITED", "60"],
      ["crowd", 503, "OVERLOADED", undefined],
      ["broken", 503, "UPSTREAM_ERROR", undefined],
      ["late", 504, "UPSTREAM_TIMEOUT", "2"],
      ["bug", 500, "INTERNAL_ERROR", undefined]
    ] as const)("answers for the user %s with %d %s and Retry-After %s", ([user, status, code, retryAfter]) =>
      Effect.gen(function* () {
        const error = yield* refusal(validateUser(user))
        assert.deepStrictEqual([error.statusCode, error.code, error.retryAfter], [status, code, retryAfter])
      })
    )
  })

  describe("bad requests", () => {
    const good = { user_id: "anna", platform: "lichess" }
    const bodies: ReadonlyArray<readonly [name: string, body: string, field: string]> = [
      ["no body", "", "body"],
      ["broken JSON", '{"user_id": "anna", ', "body"],
      ["HTML", "<html></html>", "body"],
      ["an array", "[]", "body"],
      ["null", "null", "body"],
      ["a string", '"anna"', "body"],
      ["a number", "1", "body"],
      ["an empty object", "{}", "user_id"],
      ["a missing user", '{"platform":"lichess"}', "user_id"],
      ["a missing platform", '{"user_id":"anna"}', "platform"],
      ["an empty user", JSON.stringify({ ...good, user_id: "" }), "user_id"],
      ["a user of one letter", JSON.stringify({ ...good, user_id: "a" }), "user_id"],
      ["a user of 31 letters", JSON.stringify({ ...good, user_id: "a".repeat(31) }), "user_id"],
      ["a user of 60,000 letters", JSON.stringify({ ...good, user_id: "a".repeat(60_000) }), "user_id"],
      ["a user with a space", JSON.stringify({ ...good, user_id: "an na" }), "user_id"],
      ["a user with a slash", JSON.stringify({ ...good, user_id: "../admin" }), "user_id"],
      ["a user with a comma", JSON.stringify({ ...good, user_id: "anna,bert" }), "user_id"],
      ["a user with a line end", JSON.stringify({ ...good, user_id: "anna\n" }), "user_id"],
      ["a user with a NUL", JSON.stringify({ ...good, user_id: "anna\u0000" }), "user_id"],
      ["a user that is no letter", JSON.stringify({ ...good, user_id: "änna" }), "user_id"],
      ["a user that is a number", JSON.stringify({ ...good, user_id: 12_345 }), "user_id"],
      ["a user that is null", JSON.stringify({ ...good, user_id: null }), "user_id"],
      ["a user that is an object", JSON.stringify({ ...good, user_id: { $ne: "" } }), "user_id"],
      ["a platform nobody knows", JSON.stringify({ ...good, platform: "checkers" }), "platform"],
      ["a platform in capitals", JSON.stringify({ ...good, platform: "Lichess" }), "platform"],
      ["a platform that is an array", JSON.stringify({ ...good, platform: ["lichess"] }), "platform"]
    ]
    const limits = ["0", "-1", "200001", "1.5", '"100"', "true", "[]", "{}", "1e300", "1e999"]

    it.effect.each(bodies)("refuses %s and names the field", ([, body, field]) =>
      Effect.gen(function* () {
        for (const path of ["/api/v1/validate-user", "/api/v1/import-more-games"]) {
          const error = yield* refusal(post(path, body))
          assert.deepStrictEqual(
            [error.statusCode, error.code, error.field],
            [400, "INVALID_REQUEST", field],
            error.error
          )
          assert.isBelow(error.error.length, 200)
          // The words of the service, not those of a schema.
          assert.match(error.error, /^\w+: (must|is required)/)
        }
      })
    )

    it.effect.each(limits)("refuses the limit %s", (limit) =>
      Effect.gen(function* () {
        const error = yield* refusal(
          post("/api/v1/import-more-games", `{"user_id":"anna","platform":"lichess","limit":${limit}}`)
        )
        assert.deepStrictEqual([error.statusCode, error.field], [400, "limit"])
        assert.strictEqual(error.error, "limit: must be a whole number from 1 to 200000")
      })
    )

    it.effect.each([
      ["/api/v1/import-progress/a/lichess", "user"],
      [`/api/v1/import-progress/${"a".repeat(5_000)}/lichess`, "user"],
      ["/api/v1/import-progress/anna%20b/lichess", "user"],
      ["/api/v1/import-progress/anna%00/lichess", "user"],
      ["/api/v1/import-progress/anna/checkers", "platform"],
      ["/api/v1/import-progress/anna/checkers/events", "platform"],
      ["/api/v1/games/a/lichess", "user"],
      ["/api/v1/games/anna/Lichess", "platform"],
      ["/api/v1/games/anna/lichess?limit=0", "limit"],
      ["/api/v1/games/anna/lichess?limit=501", "limit"],
      ["/api/v1/games/anna/lichess?limit=ten", "limit"],
      ["/api/v1/games/anna/lichess?limit=", "limit"],
      ["/api/v1/games/anna/lichess?limit=1&limit=2", "limit"],
      ["/api/v1/games/anna/lichess?cursor=bad", "cursor"],
      [`/api/v1/games/anna/lichess?cursor=${"c".repeat(501)}`, "cursor"],
      ["/api/v1/games/anna/lichess?cursor=a&cursor=b", "cursor"],
      ["/api/v1/games/checkers/AbCdEfGh/pgn", "platform"],
      ["/api/v1/games/lichess/..%2F..%2Fetc/pgn", "id"],
      [`/api/v1/games/lichess/${"a".repeat(65)}/pgn`, "id"]
    ] as const)("refuses GET %s and names %s", ([path, field]) =>
      Effect.gen(function* () {
        const error = yield* refusal(HttpClientRequest.get(path))
        assert.deepStrictEqual(
          [error.statusCode, error.code, error.field],
          [400, "INVALID_REQUEST", field],
          error.error
        )
        assert.match(error.error, /^\w+: (must|is not)/)
      })
    )

    it.effect.each([
      ["GET", "/nothing", 404, "ROUTE_NOT_FOUND"],
      ["GET", "/api/v1/validate-user/more", 404, "ROUTE_NOT_FOUND"],
      ["POST", "/api/v1/nothing", 404, "ROUTE_NOT_FOUND"],
      ["GET", "/api/v1/validate-user", 405, "METHOD_NOT_ALLOWED"],
      ["POST", "/api/v1/imports", 405, "METHOD_NOT_ALLOWED"],
      ["PUT", "/api/v1/import-progress/anna/lichess", 405, "METHOD_NOT_ALLOWED"],
      ["OPTIONS", "/health", 405, "METHOD_NOT_ALLOWED"]
    ] as const)("answers %s %s with %d", ([method, path, status, code]) =>
      Effect.gen(function* () {
        const error = yield* refusal(HttpClientRequest.make(method)(path))
        assert.deepStrictEqual([error.statusCode, error.code], [status, code])
        if (status === 405) assert.match(error.headers["allow"] ?? "", /^[A-Z]+(, [A-Z]+)*$/)
      })
    )

    it.effect("refuses a body that is not JSON by its type", () =>
      Effect.gen(function* () {
        const request = HttpClientRequest.post("/api/v1/validate-user").pipe(
          HttpClientRequest.bodyText("user_id=anna", "application/x-www-form-urlencoded")
        )
        const error = yield* refusal(request)
        assert.deepStrictEqual([error.statusCode, error.field], [415, "content-type"])
      })
    )

    it.effect("reads bodies of 64 KiB and refuses larger ones, announced or not", () =>
      Effect.gen(function* () {
        const ofSize = (bytes: number) => {
          const body = JSON.stringify({ ...good, padding: "" })
          return body.replace('"padding":""', `"padding":"${"x".repeat(bytes - body.length)}"`)
        }
        assert.strictEqual((yield* json(post("/api/v1/validate-user", ofSize(65_536)))).status, 200)
        for (const path of ["/api/v1/validate-user", "/api/v1/import-more-games"]) {
          const error = yield* refusal(post(path, ofSize(65_537)))
          assert.deepStrictEqual([error.statusCode, error.code, error.field], [413, "BODY_TOO_LARGE", "body"])
          const headers = { "content-type": "application/json" }
          const chunks = Array.from({ length: 40 }, () => "x".repeat(4_096))
          const chunked = yield* send({ path, method: "POST", headers }, chunks)
          assert.strictEqual(chunked.status, 413)
          assert.strictEqual(JSON.parse(chunked.body).code, "BODY_TOO_LARGE")
        }
      })
    )

    it.effect.each(["/api/v1/games/%zz/lichess", "/api/v1/games/%/lichess", "/%c3%28", "/api//v1/../x"])(
      "answers the odd path %s with 400 or 404",
      (path) =>
        Effect.gen(function* () {
          const response = yield* send({ path })
          assert.include([400, 404], response.status, response.body)
          assert.strictEqual(JSON.parse(response.body).statusCode, response.status)
        })
    )
  })

  describe("imports", () => {
    it.effect("starts one with 202, its id and where to follow it", () =>
      Effect.gen(function* () {
        const { body, status } = yield* json(start("Bert"))
        assert.strictEqual(status, 202)
        assert.deepStrictEqual(body, {
          import_id: "import-of-bert",
          user_id: "bert",
          platform: "lichess",
          status: "queued",
          message: "address:127.0.0.1 false",
          imported: 12,
          checked: 15,
          skipped: 1,
          limit: 100,
          queue_position: 3,
          estimated_wait_seconds: 40,
          created_at: "2023-11-14T22:13:20.000Z",
          started_at: null,
          finished_at: null,
          error: null,
          progress_url: "/api/v1/import-progress/bert/lichess",
          events_url: "/api/v1/import-progress/bert/lichess/events",
          outcome: "started"
        })
      })
    )

    it.effect.each([
      ["running", 200, "already-running"],
      ["recent", 200, "recent"],
      ["bert", 202, "started"]
    ] as const)("answers for the user %s with %d", ([user, status, outcome]) =>
      Effect.gen(function* () {
        const response = yield* json(start(user))
        assert.strictEqual(response.status, status)
        assert.propertyVal(response.body, "outcome", outcome)
      })
    )

    it.effect("has a limit of 1,000 when none is given", () =>
      Effect.gen(function* () {
        for (const limit of ["", ',"limit":null']) {
          const body = `{"user_id":"bert","platform":"lichess"${limit}}`
          assert.propertyVal((yield* json(post("/api/v1/import-more-games", body))).body, "limit", 1_000)
        }
      })
    )

    it.effect.each([
      ["full", 503, "IMPORT_QUEUE_FULL", "91"],
      ["greedy", 429, "TOO_MANY_IMPORTS", "12"],
      ["broken", 500, "INTERNAL_ERROR", undefined]
    ] as const)("refuses the import of %s with %d %s and Retry-After %s", ([user, status, code, retryAfter]) =>
      Effect.gen(function* () {
        const error = yield* refusal(start(user))
        assert.deepStrictEqual([error.statusCode, error.code, error.retryAfter], [status, code, retryAfter])
      })
    )

    it.effect("shows the progress, without who asked", () =>
      Effect.gen(function* () {
        const { body, status } = yield* json(HttpClientRequest.get("/api/v1/import-progress/ANNA/chess.com"))
        assert.strictEqual(status, 200)
        assert.propertyVal(body, "user_id", "anna")
        assert.notInclude(JSON.stringify(body), "secret")
      })
    )

    it.effect.each([
      "GET /api/v1/import-progress/nobody/lichess",
      "DELETE /api/v1/import-progress/nobody/lichess",
      "GET /api/v1/import-progress/nobody/lichess/events"
    ])("answers %s with 404", (line) =>
      Effect.gen(function* () {
        const [method, path] = line.split(" ")
        const error = yield* refusal(HttpClientRequest.make(method === "GET" ? "GET" : "DELETE")(path ?? ""))
        assert.deepStrictEqual([error.statusCode, error.code], [404, "IMPORT_NOT_FOUND"])
      })
    )

    it.effect("lists the queue and cancels", () =>
      Effect.gen(function* () {
        const client = yield* HttpApiClient.make(Api)
        const list = yield* client.imports.list()
        assert.deepStrictEqual(list.slots, { total: 2, available: 1 })
        assert.deepStrictEqual(
          [list.running, list.queued, list.recent].map((each) => each.map((progress) => progress.user_id)),
          [["anna"], ["bert"], ["clara"]]
        )
        const cancelled = yield* client.imports.cancel({ params: { user: "anna", platform: "lichess" } })
        assert.strictEqual(cancelled.status, "cancelled")
      })
    )

    it.effect("streams each change as an event until the import has ended", () =>
      Effect.gen(function* () {
        const response = yield* HttpClient.get("/api/v1/import-progress/follow/lichess/events")
        assert.match(response.headers["content-type"] ?? "", /^text\/event-stream/)
        const lines = yield* response.stream.pipe(
          Stream.decodeText,
          Stream.splitLines,
          Stream.filter((line) => line !== ""),
          Stream.tap((line) => (line.includes('"imported":12') ? Deferred.succeed(followed, undefined) : Effect.void)),
          Stream.runCollect
        )
        assert.deepStrictEqual(
          lines.map((line) => {
            const { imported, status } = JSON.parse(line.replace(/^data: /, ""))
            return [imported, status]
          }),
          [
            [12, "importing"],
            [13, "importing"],
            [14, "complete"]
          ]
        )
      })
    )

    it.effect("stops following when the client goes away", () =>
      Effect.gen(function* () {
        const client = yield* HttpApiClient.make(Api)
        const events = yield* client.imports.events({ params: { user: "endless", platform: "lichess" } })
        const first = yield* events.pipe(Stream.take(1), Stream.runCollect)
        assert.strictEqual(first[0]?.imported, 12)
        yield* Effect.suspend(() => (streams.open === 0 ? Effect.void : Effect.fail("still open"))).pipe(
          Effect.retry({ times: 500, schedule: Schedule.spaced("10 millis") })
        )
      })
    )
  })

  describe("a failing database", () => {
    const asking = [
      ["starting an import", start("bert")],
      ["the progress", HttpClientRequest.get("/api/v1/import-progress/anna/lichess")],
      ["the events", HttpClientRequest.get("/api/v1/import-progress/anna/lichess/events")],
      ["cancelling", HttpClientRequest.delete("/api/v1/import-progress/anna/lichess")],
      ["the imports", HttpClientRequest.get("/api/v1/imports")],
      ["the stats", HttpClientRequest.get("/api/v1/api-client-stats")],
      ["the games", HttpClientRequest.get("/api/v1/games/anna/lichess")],
      ["the PGN", HttpClientRequest.get("/api/v1/games/lichess/AbCdEfGh/pgn")]
    ] as const

    const cause = new Error("secret of the database")
    const failing = (reason: SqlError.SqlErrorReason, request: HttpClientRequest.HttpClientRequest) =>
      Effect.acquireUseRelease(
        Effect.sync(() => (database.failure = new SqlError.SqlError({ reason }))),
        () => refusal(request),
        () => Effect.sync(() => (database.failure = undefined))
      )

    it.effect.each(asking)("answers %s with 503 when it is locked or out of reach", ([, request]) =>
      Effect.gen(function* () {
        for (const reason of [new SqlError.LockTimeoutError({ cause }), new SqlError.ConnectionError({ cause })]) {
          const error = yield* failing(reason, request)
          assert.deepStrictEqual(
            [error.statusCode, error.code, error.metadata, error.retryAfter],
            [503, "DATABASE_UNAVAILABLE", {}, "5"]
          )
        }
      })
    )

    it.effect.each(asking)("answers %s with 500 when asking again would not help", ([, request]) =>
      Effect.gen(function* () {
        const error = yield* failing(new SqlError.SqlSyntaxError({ cause }), request)
        assert.deepStrictEqual(
          [error.statusCode, error.code, error.metadata, error.retryAfter],
          [500, "INTERNAL_ERROR", {}, undefined]
        )
      })
    )
  })

  describe("games", () => {
    it.effect("pages, 50 games at a time unless asked otherwise", () =>
      Effect.gen(function* () {
        const client = yield* HttpApiClient.make(Api)
        const params = { user: "anna", platform: "lichess" as const }
        const first = yield* client.games.page({ params, query: {} })
        assert.deepStrictEqual([first.total, first.next_cursor], [50, "next"])
        const { body } = yield* json(HttpClientRequest.get("/api/v1/games/anna/lichess?limit=500&cursor=next"))
        assert.deepStrictEqual(body, {
          total: 500,
          games: [
            {
              id: "AbCdEfGh",
              platform: "lichess",
              url: "https://lichess.example/AbCdEfGh",
              played_at: "2023-11-14T22:13:20.000Z",
              ended_at: null,
              white: { id: "anna", name: "Anna", title: null, rating: 1500, rating_diff: 6, ai_level: null },
              black: { id: null, name: null, title: null, rating: null, rating_diff: null, ai_level: 3 },
              result: "1-0",
              termination: "mate",
              rated: true,
              variant: "standard",
              speed: "blitz",
              base_seconds: 180,
              increment_seconds: 2,
              days_per_turn: null,
              eco: "C20",
              opening: "King's Pawn Game",
              plies: 61,
              initial_fen: null
            }
          ],
          next_cursor: null
        })
      })
    )

    it.effect("gives the PGN as it came", () =>
      Effect.gen(function* () {
        const response = yield* HttpClient.get("/api/v1/games/chess.com/AbCdEfGh/pgn")
        assert.match(response.headers["content-type"] ?? "", /^application\/x-chess-pgn/)
        assert.strictEqual(yield* response.text, '[Site "chess.com"]\n\n1. e4 e5 1-0\n\n\n')
        const error = yield* refusal(HttpClientRequest.get("/api/v1/games/lichess/ZZZZZZZZ/pgn"))
        assert.deepStrictEqual([error.statusCode, error.code], [404, "GAME_NOT_FOUND"])
      })
    )

    it.effect("answers with 500 and nothing else when the database fails", () =>
      Effect.gen(function* () {
        const error = yield* refusal(HttpClientRequest.get("/api/v1/games/broken/lichess"))
        assert.deepStrictEqual([error.statusCode, error.code, error.metadata], [500, "INTERNAL_ERROR", {}])
      })
    )
  })

  describe("api-client-stats", () => {
    it.effect.each<readonly [CircuitBreaker.State, string]>([
      [{ _tag: "Closed", key: "lichess", failures: 0 }, "closed (failures: 0)"],
      [
        { _tag: "Open", key: "lichess", failures: 5, retryAfter: Duration.millis(41_200), openings: 1 },
        "open (retry in 42 s)"
      ],
      [
        { _tag: "HalfOpen", key: "lichess", failures: 5, successes: 1, probing: false, openings: 1 },
        "half-open (successes: 1)"
      ]
    ])("has the fields of the specification and more, and tells how a circuit stands", ([circuit, text]) =>
      Effect.gen(function* () {
        circuits.lichess = circuit
        const { body, status } = yield* json(HttpClientRequest.get("/api/v1/api-client-stats"))
        circuits.lichess = { _tag: "Closed", key: "lichess", failures: 0 }
        assert.strictEqual(status, 200)
        const { stats, success, timestamp } = yield* Schema.decodeUnknownEffect(
          Schema.Struct({
            success: Schema.Literal(true),
            timestamp: Schema.String.check(Schema.isPattern(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)),
            stats: Schema.Record(Schema.String, Schema.Unknown)
          })
        )(body, { onExcessProperty: "error" })
        assert.isTrue(success && timestamp !== "")
        assert.containsSubset(stats, {
          pending_requests: 0,
          lichess_circuit: text,
          chesscom_circuit: "closed (failures: 2)",
          lichess_tokens: 8.46,
          chesscom_tokens: 8.46,
          lichess_waiting: 5,
          imports_running: 1,
          imports_queued: 1,
          import_slots_available: 1
        })
        assert.isNumber(stats["cache_size"])
      })
    )
  })

  describe("API keys", () => {
    const ownerOf = (headers: Record<string, string>) =>
      Effect.map(
        json(post("/api/v1/import-more-games", '{"user_id":"bert","platform":"lichess"}', headers)),
        ({ body }) => Schema.decodeUnknownSync(Schema.Struct({ message: Schema.String }))(body).message
      )

    it.effect("tells the owner and the tier from either header", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* ownerOf({ "x-api-key": "premium-key-of-anna" }), "anna true")
        assert.strictEqual(yield* ownerOf({ authorization: "Bearer free-key-of-bert" }), "bert false")
        assert.strictEqual(yield* ownerOf({}), "address:127.0.0.1 false")
      })
    )

    it.effect.each([{ "x-api-key": "nobody-has-this" }, { authorization: "Bearer nobody-has-this" }])(
      "refuses %j",
      (headers) =>
        Effect.gen(function* () {
          const error = yield* refusal(
            HttpClientRequest.get("/api/v1/imports").pipe(HttpClientRequest.setHeaders(headers))
          )
          assert.deepStrictEqual([error.statusCode, error.code], [401, "UNKNOWN_API_KEY"])
          assert.notInclude(JSON.stringify(error), "nobody-has-this")
        })
    )

    it.effect("lets a supervisor ask for the health without one", () =>
      Effect.gen(function* () {
        const { body, status } = yield* json(
          HttpClientRequest.get("/health").pipe(HttpClientRequest.setHeader("x-api-key", "nobody-has-this"))
        )
        assert.strictEqual(status, 200)
        assert.propertyVal(body, "status", "ok")
      })
    )
  })

  describe("the typed client", () => {
    it.effect("gives errors as their classes, with Retry-After as a duration", () =>
      Effect.gen(function* () {
        const client = yield* HttpApiClient.make(Api)
        const payload = { user_id: "open", platform: "lichess" } as const
        const error = yield* Effect.flip(client.users.validate({ payload }))
        assert.strictEqual(error._tag, "Unavailable")
        if (error._tag !== "Unavailable") return
        assert.deepStrictEqual([error.code, error.retryAfter], ["CIRCUIT_OPEN", Duration.seconds(42)])
        assert.deepStrictEqual(error.metadata, { platform: "lichess", reason: "circuit-open" })
      })
    )

    it.effect("decodes both answers of a start", () =>
      Effect.gen(function* () {
        const client = yield* HttpApiClient.make(Api)
        const start = (user_id: string) => client.imports.start({ payload: { user_id, platform: "lichess", limit: 5 } })
        assert.strictEqual((yield* start("bert")).outcome, "started")
        assert.strictEqual((yield* start("recent")).outcome, "recent")
      })
    )
  })

  describe("documentation", () => {
    it.effect("describes every endpoint and every error in the OpenAPI document", () =>
      Effect.gen(function* () {
        const { body } = yield* json(HttpClientRequest.get("/openapi.json"))
        const { paths } = yield* Schema.decodeUnknownEffect(
          Schema.Struct({
            paths: Schema.Record(
              Schema.String,
              Schema.Record(
                Schema.String,
                Schema.Struct({ responses: Schema.Record(Schema.String, Schema.Unknown), summary: Schema.String })
              )
            )
          })
        )(body)
        const described = Object.entries(paths).flatMap(([path, methods]) =>
          Object.entries(methods).map(
            ([method, { responses }]) => `${method} ${path} ${Object.keys(responses).join(" ")}`
          )
        )
        assert.sameMembers(described, [
          "post /api/v1/validate-user 200 400 401 413 500 503 504",
          "get /api/v1/api-client-stats 200 400 401 413 500 503",
          "post /api/v1/import-more-games 200 202 400 401 413 429 500 503",
          "get /api/v1/import-progress/{user}/{platform} 200 400 401 404 413 500 503",
          "delete /api/v1/import-progress/{user}/{platform} 200 400 401 404 413 500 503",
          "get /api/v1/import-progress/{user}/{platform}/events 200 400 401 404 413 500 503",
          "get /api/v1/imports 200 400 401 413 500 503",
          "get /api/v1/games/{user}/{platform} 200 400 401 413 500 503",
          "get /api/v1/games/{platform}/{id}/pgn 200 400 401 404 413 500 503",
          "get /health 200 400 413 500"
        ])
      })
    )

    it.effect("has a page that brings everything with it", () =>
      Effect.gen(function* () {
        const response = yield* HttpClient.get("/docs")
        assert.strictEqual(response.status, 200)
        assert.match(response.headers["content-security-policy"] ?? "", /^default-src 'none'/)
        const html = yield* response.text
        assert.notMatch(html, /<script[^>]+src=|<link[^>]+href=|@import/)
        assert.include(html, "/api/v1/validate-user")
      })
    )

    it.effect.each(["/docs", "/openapi.json"])(
      "%s comes compressed to those who take that, and once to each reader",
      (path) =>
        Effect.gen(function* () {
          const get = (headers: Record<string, string>) =>
            HttpClient.execute(HttpClientRequest.setHeaders(HttpClientRequest.get(path), headers))
          const plain = yield* get({ "accept-encoding": "gzip;q=0, br" })
          assert.isUndefined(plain.headers["content-encoding"])
          const zipped = yield* get({ "accept-encoding": "br, GZIP;q=0.5" })
          assert.deepStrictEqual(
            [zipped.headers["content-encoding"], zipped.headers.vary, zipped.headers["content-type"]],
            ["gzip", "accept-encoding", plain.headers["content-type"]]
          )
          assert.strictEqual(yield* zipped.text, yield* plain.text)
          assert.isBelow(Number(zipped.headers["content-length"]), Number(plain.headers["content-length"]) / 2)

          const { etag = "" } = plain.headers
          assert.match(etag, /^W\/"[\w-]{22}"$/)
          for (const tags of [etag, `"other", ${etag}`, "*"]) {
            const again = yield* get({ "if-none-match": tags })
            assert.deepStrictEqual([again.status, yield* again.text, again.headers.etag], [304, "", etag])
          }
          assert.strictEqual((yield* get({ "if-none-match": '"other"' })).status, 200)
        })
    )
  })
})

describe("Server", () => {
  const portOf = Effect.map(HttpServer.HttpServer, ({ address }) =>
    address._tag === "UnixPathAddress" ? 0 : address.port
  )

  it.live("ends event streams, finishes what is in flight and takes nothing new when it stops", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Layer.fresh(server), scope)
      const client = yield* Effect.provide(HttpApiClient.make(Api), context)
      const port = yield* Effect.provide(portOf, context)
      const events = yield* client.imports.events({ params: { user: "endless", platform: "lichess" } })
      const following = yield* Effect.forkChild(Stream.runCount(events), { startImmediately: true })

      // A connection that the client would keep.
      const agent = new http.Agent({ keepAlive: true })
      const inFlight = yield* Effect.forkChild(
        Effect.callback<http.IncomingMessage>((resume) => {
          const headers = { "content-type": "application/json" }
          http
            .request({ port, agent, path: "/api/v1/validate-user", method: "POST", headers }, (response) =>
              resume(Effect.succeed(response.resume()))
            )
            .end('{"user_id":"waits","platform":"lichess"}')
        }),
        { startImmediately: true }
      )
      yield* Deferred.await(asked)
      const closing = yield* Effect.forkChild(Effect.timed(Scope.close(scope, Exit.void)), { startImmediately: true })
      assert.strictEqual(yield* Fiber.join(following), 1)
      yield* Deferred.succeed(answered, undefined)
      const response = yield* Fiber.join(inFlight)
      assert.deepStrictEqual([response.statusCode, response.headers.connection], [200, "close"])
      assert.isBelow(Duration.toMillis((yield* Fiber.join(closing))[0]), 2_000)
      assert.strictEqual((yield* Effect.flip(client.health.check()))._tag, "HttpClientError")
    })
  )

  // The port of a server on a socket, which it only says in the log.
  const logOfPort = () => {
    const port = Deferred.makeUnsafe<number>()
    const logger = Logger.make(({ message }) => {
      const [, digits] = /:(\d+),/.exec(String(message)) ?? []
      if (digits !== undefined) Deferred.doneUnsafe(port, Effect.succeed(Number(digits)))
    })
    return { port: Deferred.await(port), layer: Logger.layer([logger]) }
  }

  const onSocket = (idleTimeout: Duration.Input) =>
    Server.layer({ host: "127.0.0.1", port: 0, shutdownTimeout: "1 second", idleTimeout }).pipe(
      Layer.provide(services),
      Layer.fresh
    )

  it.live("gives up a client that reads nothing of a long answer", () => {
    const log = logOfPort()
    return Effect.gen(function* () {
      const port = yield* log.port
      // Far more than the buffers of the operating system take, so that the server has to wait for the reader.
      const asked = 20
      const received = yield* Effect.callback<number>((resume) => {
        let answers = 0
        const socket = net.connect(port, "127.0.0.1", () => {
          socket.pause()
          socket.write("GET /docs HTTP/1.1\r\nhost: a\r\n\r\n".repeat(asked))
        })
        // Only who reads hears that the connection has ended.
        const reading = setTimeout(() => socket.resume(), 1_000)
        const end = () => resume(Effect.succeed(answers))
        socket.on("data", (chunk) => {
          answers += chunk.toString("latin1").split("HTTP/1.1 200").length - 1
          if (answers === asked) end()
        })
        socket.on("error", end)
        socket.on("close", end)
        return Effect.sync(() => {
          clearTimeout(reading)
          socket.destroy()
        })
      })
      assert.isBelow(received, asked)
    }).pipe(Effect.provide(Layer.provide(onSocket("100 millis"), log.layer)))
  })

  it.live("answers with an error of its form to what never becomes a request", () => {
    const log = logOfPort()
    const answerTo = Effect.fnUntraced(function* (bytes: string, next?: string) {
      const to = yield* log.port
      return yield* Effect.callback<string>((resume) => {
        let text = ""
        const socket = net.connect(to, "127.0.0.1", () => socket.write(bytes))
        socket.on("data", (chunk) => {
          text += chunk.toString()
          if (next !== undefined && text.includes("data: ")) socket.write(next)
        })
        socket.on("close", () => resume(Effect.succeed(text)))
        socket.on("error", () => resume(Effect.succeed(text)))
        return Effect.sync(() => socket.destroy())
      })
    })
    return Effect.gen(function* () {
      for (const [bytes, status, code] of [
        ["what is this?\r\n\r\n", 400, "INVALID_REQUEST"],
        ["GET /health HTTP/9.9\r\n\r\n", 400, "INVALID_REQUEST"],
        [`GET /health HTTP/1.1\r\nhost: a\r\nx: ${"x".repeat(17_000)}\r\n\r\n`, 431, "HEADERS_TOO_LARGE"],
        [`GET /${"x".repeat(17_000)} HTTP/1.1\r\nhost: a\r\n\r\n`, 431, "HEADERS_TOO_LARGE"]
      ] as const) {
        const text = yield* answerTo(bytes)
        assert.match(text, new RegExp(`^HTTP/1.1 ${status} .*\r\ncontent-type: application/json\r\n`))
        const body = text.slice(text.indexOf("\r\n\r\n") + 4)
        assert.include(text, `content-length: ${body.length}\r\n`)
        const error = yield* Schema.decodeEffect(Schema.fromJsonString(ErrorBody))(body)
        assert.containsSubset(error, { code, statusCode: status })
      }
      // An answer that has begun ends, and nothing is written into it.
      const followed = yield* answerTo(
        "GET /api/v1/import-progress/endless/lichess/events HTTP/1.1\r\nhost: a\r\n\r\n",
        "what is this?\r\n\r\n"
      )
      assert.match(followed, /^HTTP\/1.1 200 OK\r\n[^]*data: \{/)
      assert.notInclude(followed, "INVALID_REQUEST")
    }).pipe(Effect.provide(Layer.provide(onSocket("1 minute"), log.layer)))
  })

  it.live("interrupts a request whose client goes away, and logs it without an error", () => {
    const lines: Array<string> = []
    const logger = Logger.map(Logger.formatLogFmt, (line) => void lines.push(line))
    return Effect.gen(function* () {
      const client = yield* HttpApiClient.make(Api)
      yield* client.users
        .validate({ payload: { user_id: "forever", platform: "lichess" } })
        .pipe(Effect.timeoutOption("50 millis"))
      yield* Effect.suspend(() => (lines.length > 0 ? Effect.void : Effect.fail("nothing logged"))).pipe(
        Effect.retry({ times: 500, schedule: Schedule.spaced("10 millis") })
      )
      assert.lengthOf(lines, 1)
      assert.match(lines[0] ?? "", /level=INFO .*event=http\.request .*status=499/)
    }).pipe(Effect.provide(Layer.provide(Layer.fresh(serverWithLog), Logger.layer([logger]))))
  })

  it.live("opens as many event streams as allowed, and again as many when they have ended", () =>
    Effect.gen(function* () {
      const client = yield* HttpApiClient.make(Api)
      const follow = Effect.flatMap(
        client.imports.events({ params: { user: "endless", platform: "lichess" } }),
        (events) => Stream.runHead(events)
      )
      const events = yield* client.imports.events({ params: { user: "endless", platform: "lichess" } })
      const started = yield* Deferred.make<void>()
      const following = yield* events.pipe(
        Stream.tap(() => Deferred.succeed(started, undefined)),
        Stream.runDrain,
        Effect.forkChild({ startImmediately: true })
      )
      yield* Deferred.await(started)
      const refused = yield* Effect.flip(follow)
      assert.strictEqual(refused._tag, "Unavailable")
      assert.containsSubset(refused, { code: "TOO_MANY_EVENT_STREAMS", retryAfter: Duration.seconds(10) })
      yield* Fiber.interrupt(following)
      yield* Effect.retry(follow, { times: 500, schedule: Schedule.spaced("10 millis") })
    }).pipe(Effect.provide(Layer.provide(Layer.fresh(server), Layer.succeed(MaxEventStreams, 1))))
  )
})
