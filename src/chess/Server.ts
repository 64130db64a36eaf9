/**
 * Serves the API over HTTP: its routes, the page at `/docs`, the limits, the body of every error, and the access log.
 *
 * A request is interrupted when its client goes away. When the scope closes, no new connection is accepted, event
 * streams end, and the requests in flight have a time to finish.
 */
import { createServer, ServerResponse, STATUS_CODES } from "node:http"
import type { Duplex } from "node:stream"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { ByteSize, Duration, Effect, Layer } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { ApiError, RequestContext, RequestLog } from "effect-resilience/http"
import { HttpApi, HttpApiBuilder, HttpApiSwagger, OpenApi } from "effect/http-api"
import { Api, maxBodyBytes } from "./Api.ts"
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
    const refusal = unreadable(error.code)
    const status = refusal.statusCode
    const body = JSON.stringify(ApiError.toBody(refusal))
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

class HeadersTooLarge extends ApiError.Class<HeadersTooLarge>()("HeadersTooLarge", {
  statusCode: 431,
  code: "HEADERS_TOO_LARGE",
  error: "The address and the headers are too long"
}) {}

const unreadable = (code: string | undefined): ApiError.ApiError => {
  switch (code) {
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new ApiError.RequestTimeout({ error: "The request did not arrive in time" })
    case "HPE_HEADER_OVERFLOW":
      return new HeadersTooLarge({})
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return ApiError.bodyTooLarge(maxBodyBytes)
    default:
      return new ApiError.InvalidRequest({ error: "request: is not HTTP", metadata: { field: "request" } })
  }
}

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
      const refusal = ApiError.toResponse(
        new ApiError.MethodNotAllowed({
          error: `This address only answers ${allow}`,
          metadata: { allow: [...known] }
        })
      ).pipe(HttpServerResponse.setHeader("allow", allow))
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

const envelope = HttpRouter.middleware(
  Effect.map(Drain, (drain) => {
    const context = RequestContext.make()
    const log = RequestLog.make()
    const finished = <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
      Effect.zipWith(app, drain.isBegun, (response, draining) => {
        const headed = HttpServerResponse.setHeaders(response, {
          "x-content-type-options": "nosniff",
          // A connection that is kept alive would be served for as long as the server drains.
          ...(draining ? { connection: "close" } : {})
        })
        return headed.headers["content-type"]?.startsWith("text/html") === true
          ? HttpServerResponse.setHeader(headed, "content-security-policy", pagePolicy)
          : headed
      })
    return (app) => context(log(finished(app)))
  }),
  { global: true }
)

// The page brings its script and styles with it: nothing is loaded from elsewhere.
const pagePolicy =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const routes = ApiError.around(
  Layer.mergeAll(
    HttpApiBuilder.layer(Api).pipe(Layer.provide(Handlers.layer), Layer.provide(ApiError.layerSchemaErrors)),
    // Swagger rather than Scalar: it needs neither fonts nor scripts from elsewhere.
    Layer.merge(
      HttpApiSwagger.layer(Api, { path: "/docs" }),
      HttpRouter.add("GET", "/openapi.json", HttpServerResponse.jsonUnsafe(OpenApi.fromApi(Api)))
    ).pipe(Layer.provide(Documents.layer)),
    startPage,
    wrongMethods
  ),
  { notFound: "There is nothing at this address; /docs lists what there is" }
  // Built first, and so outermost.
).pipe(Layer.provideMerge(envelope))
