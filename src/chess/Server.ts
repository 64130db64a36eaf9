/**
 * Serves the API over HTTP: its routes, the page at `/docs`, the limits, the body of every error, and the access log.
 *
 * A request is interrupted when its client goes away. When the scope closes, no new connection is accepted, event
 * streams end, and the requests in flight have a time to finish.
 */
import { createServer, ServerResponse, STATUS_CODES } from "node:http"
import type { Duplex } from "node:stream"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { ByteSize, Cause, Clock, Duration, Effect, Exit, Layer } from "effect"
import {
  HttpIncomingMessage,
  HttpMiddleware,
  HttpRouter,
  HttpServer,
  HttpServerError,
  HttpServerRequest,
  HttpServerResponse
} from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiMiddleware, HttpApiSwagger, OpenApi } from "effect/http-api"
import { Api, ErrorResponses, maxBodyBytes } from "./Api.ts"
import * as ApiError from "./ApiError.ts"
import * as Documents from "./Documents.ts"
import { Drain } from "./Drain.ts"
import * as Handlers from "./Handlers.ts"

/** Where the server listens, and how long it takes to stop. */
export interface Options {
  readonly host: string
  /** 0 takes a free port. */
  readonly port: number
  /** How long requests in flight may take when the server stops. */
  readonly shutdownTimeout: Duration.Input
  /** How long a connection may move no byte in either direction: longer than any answer takes to begin. */
  readonly idleTimeout: Duration.Input
}

/** Serves on the `HttpServer` of the context. */
export const layerNoDeps = Layer.suspend(() =>
  // Released before the server: event streams end, and then it waits for its requests.
  Layer.effectDiscard(Effect.flatMap(Drain, (drain) => Effect.addFinalizer(() => drain.begin))).pipe(
    Layer.provideMerge(
      HttpRouter.serve(routes, {
        middleware: accessLog,
        disableLogger: true,
        disableListenLog: true,
        // Over-long path segments reach the schemas, which name them; Node bounds the URL as a whole.
        routerConfig: { maxParamLength: 16_384 }
      })
    ),
    Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(maxBodyBytes)))
  )
)

/** Serves on a socket, and says where. */
export const layer = (options: Options) =>
  Layer.effectDiscard(
    HttpServer.addressFormattedWith((url) =>
      Effect.annotateLogs(Effect.logInfo(`Listening on ${url}, API page: ${url}/docs`), {
        event: "http.listening",
        url,
        docs: `${url}/docs`
      })
    )
  ).pipe(
    Layer.provideMerge(layerNoDeps),
    Layer.provide(
      NodeHttpServer.layer(
        // Node answers 408 to a request that does not arrive in time. Connections are kept for longer than the usual
        // proxies keep theirs, so none is closed under a request that is already on its way. Who does not read the
        // answer is given up: what is written to him is held in memory until then.
        () =>
          createServer({
            headersTimeout: 15_000,
            requestTimeout: 30_000,
            connectionsCheckingInterval: 5_000,
            keepAliveTimeout: 65_000
          })
            .setTimeout(Duration.toMillis(options.idleTimeout))
            .on("clientError", refuseUnreadable),
        { host: options.host, port: options.port, gracefulShutdownTimeout: options.shutdownTimeout }
      )
    )
  )

// What Node's parser refuses never becomes a request, so it is answered here, on the bare socket. Node's own answer would be
// a status without a body.
const refuseUnreadable = (error: NodeJS.ErrnoException, socket: Duplex): void => {
  if (error.code !== "ECONNRESET" && socket.writable && !isAnswering(socket)) {
    const { status, ...refusal } = unreadable(error.code)
    const body = JSON.stringify(ApiError.errorBody(status, refusal))
    socket.write(
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n${body}`
    )
  }
  socket.destroy()
}

// Then anything written would become a part of that answer.
const isAnswering = (socket: Duplex): boolean =>
  "_httpMessage" in socket && socket._httpMessage instanceof ServerResponse && socket._httpMessage.headersSent

const unreadable = (code: string | undefined) => {
  switch (code) {
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return { status: 408, code: "REQUEST_TIMEOUT", error: "The request did not arrive in time" }
    case "HPE_HEADER_OVERFLOW":
      return { status: 431, code: "HEADERS_TOO_LARGE", error: "The address and the headers are too long" }
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return { status: 413, ...ApiError.payloadTooLarge(maxBodyBytes) }
    default:
      return { status: 400, code: "INVALID_REQUEST", error: "request: is not HTTP", metadata: { field: "request" } }
  }
}

const errorResponses = HttpApiMiddleware.layerSchemaErrorTransform(ErrorResponses, (error) =>
  // What the server itself encodes wrongly is its mistake: it goes on as a failure and ends as a 500.
  Effect.fail(error.kind === "Body" || error.kind === "ResponseHeaders" ? error : ApiError.fromSchemaError(error))
)

const jsonError = (status: number, error: Parameters<typeof ApiError.errorBody>[1]) =>
  HttpServerResponse.jsonUnsafe(ApiError.errorBody(status, error), { status })

// Every path of the API answers the methods it does not have, so that a wrong method is not mistaken for a wrong path.
const methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] as const

const wrongMethods = Layer.suspend(() => {
  const allowed = new Map<string, Set<string>>()
  HttpApi.reflect(Api, {
    onGroup: () => {},
    onEndpoint: ({ endpoint }) => {
      const known = allowed.get(endpoint.path) ?? new Set()
      allowed.set(endpoint.path, known.add(endpoint.method))
    }
  })
  return HttpRouter.addAll(
    [...allowed].flatMap(([path, known]) => {
      const allow = [...known].join(", ")
      const refusal = jsonError(405, {
        code: "METHOD_NOT_ALLOWED",
        error: `This address only answers ${allow}`,
        metadata: { allow: [...known] }
      }).pipe(HttpServerResponse.setHeader("allow", allow))
      return (
        methods
          .filter((method) => !known.has(method))
          // The paths of the API have no wildcards: they mean the same to the router.
          .map((method) => HttpRouter.route(method, path as HttpRouter.PathInput, Effect.succeed(refusal)))
      )
    })
  )
})

const startPage = HttpRouter.add("GET", "/", HttpServerResponse.redirect("/docs"))

// What a handler does not answer itself: an unknown path, an unreadable body, a defect.
const refuse = Effect.fnUntraced(function* <E>(cause: Cause.Cause<E>) {
  if (Cause.hasInterruptsOnly(cause)) return yield* Effect.failCause(cause)
  for (const reason of cause.reasons) {
    const error = reason._tag === "Fail" ? reason.error : reason._tag === "Die" ? reason.defect : undefined
    if (!HttpServerError.isHttpServerError(error)) continue
    if (error.reason._tag === "RouteNotFound") {
      return jsonError(404, {
        code: "ROUTE_NOT_FOUND",
        error: "There is nothing at this address; /docs lists what there is"
      })
    }
    if (error.reason._tag === "RequestParseError") {
      return error.reason.reason === "BodyTooLarge"
        ? jsonError(413, ApiError.payloadTooLarge(maxBodyBytes))
        : jsonError(400, { code: "INVALID_REQUEST", error: "body: cannot be read", metadata: { field: "body" } })
    }
  }
  yield* Effect.annotateLogs(Effect.logError("A request failed on a defect", cause), { event: "http.defect" })
  return jsonError(500, ApiError.internalError)
})

const envelope = HttpRouter.middleware(
  Effect.map(
    Drain,
    (drain) => (app) =>
      Effect.zipWith(Effect.catchCause(app, refuse), drain.isBegun, (response, draining) => {
        const finished = HttpServerResponse.setHeaders(withErrorBody(response), {
          "x-content-type-options": "nosniff",
          // A connection that is kept alive would be served for as long as the server drains.
          ...(draining ? { connection: "close" } : {})
        })
        return finished.headers["content-type"]?.startsWith("text/html") === true
          ? HttpServerResponse.setHeader(finished, "content-security-policy", pagePolicy)
          : finished
      })
  ),
  { global: true }
)

// The page brings its script and styles with it: nothing is loaded from elsewhere.
const pagePolicy =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Some refusals of the framework come as plain text or without a body.
const withErrorBody = (response: HttpServerResponse.HttpServerResponse): HttpServerResponse.HttpServerResponse => {
  if (response.status < 400 || response.headers["content-type"]?.startsWith("application/json") === true)
    return response
  return response.status === 415
    ? jsonError(415, {
        code: "UNSUPPORTED_MEDIA_TYPE",
        error: "content-type: must be application/json",
        metadata: { field: "content-type" }
      })
    : jsonError(response.status, { code: `HTTP_${response.status}`, error: "The request cannot be answered" })
}

const routes = Layer.mergeAll(
  HttpApiBuilder.layer(Api).pipe(Layer.provide(Handlers.layer), Layer.provide(errorResponses)),
  // Swagger rather than Scalar: it needs neither fonts nor scripts from elsewhere.
  Layer.merge(
    HttpApiSwagger.layer(Api, { path: "/docs" }),
    HttpRouter.add("GET", "/openapi.json", HttpServerResponse.jsonUnsafe(OpenApi.fromApi(Api)))
  ).pipe(Layer.provide(Documents.layer)),
  startPage,
  wrongMethods,
  envelope
)

const slowMillis = 5_000

const accessLog = HttpMiddleware.make((app) =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const startedAt = yield* Clock.currentTimeMillis
    return yield* Effect.onExit(app, (exit) => logRequest(request, startedAt, exit))
  })
)

const logRequest = Effect.fnUntraced(function* (
  request: HttpServerRequest.HttpServerRequest,
  startedAt: number,
  exit: Exit.Exit<HttpServerResponse.HttpServerResponse, unknown>
) {
  const response = Exit.isSuccess(exit) ? exit.value : (yield* HttpServerError.causeResponse(exit.cause))[0]
  const duration = (yield* Clock.currentTimeMillis) - startedAt
  const path = request.url.split(/[?#]/, 1)[0] ?? ""
  const streamed = response.headers["content-type"]?.startsWith("text/event-stream") === true
  const log =
    response.status >= 500 || (duration > slowMillis && !streamed)
      ? Effect.logWarning
      : path === "/health"
        ? Effect.logDebug
        : Effect.logInfo
  yield* Effect.annotateLogs(log("Answered a request"), {
    event: "http.request",
    method: request.method,
    path,
    status: response.status,
    durationMillis: duration
  })
})
