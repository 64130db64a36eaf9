/**
 * Sends requests to a chess site and reads what it answers, in the service's own terms.
 *
 * Every request names who sends it. What the site cannot mean as an answer (429, 403, 5xx, a connection that breaks, a
 * body over its limit) becomes an `UpstreamUnavailable`; every other status is an answer the caller reads. A connection is
 * given back when the body has been read, and closed when it has not.
 *
 * It protects nothing by itself: `Upstream` decides whether, when and how often to ask.
 *
 * A body read as a whole is at most 64 MiB, before and after decompression; of an error page, 64 KiB are read.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { Agent } from "@effect/platform-node/Undici"
import { Clock, Duration, Effect, Layer, Option, Result, Schema, type Scope, Stream } from "effect"
import { Headers, HttpClient, type HttpClientError, HttpClientRequest, type HttpClientResponse } from "effect/http"
import * as Dns from "node:dns"
import type { LookupFunction } from "node:net"
import * as Zlib from "node:zlib"
import type { Platform } from "./domain/Platform.ts"
import { type UnavailableReason, UpstreamUnavailable } from "./UpstreamError.ts"

/** A client of one site. */
export interface UpstreamClient {
  /** Sends a request and reads the whole answer. */
  readonly send: (request: HttpClientRequest.HttpClientRequest) => Effect.Effect<Answer, UpstreamUnavailable>
  /** Sends a request and leaves the body to be read. When the scope closes, the connection is closed if it was not. */
  readonly open: (
    request: HttpClientRequest.HttpClientRequest
  ) => Effect.Effect<OpenAnswer, UpstreamUnavailable, Scope.Scope>
  /** Where a path of the site is. */
  readonly url: (path: string) => string
  /** Makes the error of this site. */
  readonly unavailable: (
    reason: UnavailableReason,
    detail: string,
    more?: { readonly status?: number | undefined; readonly retryAfter?: Duration.Duration | undefined }
  ) => UpstreamUnavailable
}

/** An answer that has been read. */
export interface Answer {
  readonly status: number
  readonly headers: Headers.Headers
  readonly body: string
}

/** An answer whose body is still to come. */
export interface OpenAnswer {
  readonly status: number
  readonly headers: Headers.Headers
  readonly body: Stream.Stream<Uint8Array, UpstreamUnavailable>
}

/** Which site, and how to ask it. */
export interface Options {
  readonly platform: Platform
  /** What every path is put behind, such as `https://lichess.org`. */
  readonly baseUrl: string
  /** Who asks. Use `userAgent`. */
  readonly userAgent: string
  /** The largest body read as a whole, in bytes, before and after decompression. Defaults to 64 MiB. */
  readonly maxBodyBytes?: number | undefined
  /** Redirects followed per request, on the same origin only. Defaults to 3. */
  readonly maxRedirects?: number | undefined
}

/**
 * The User-Agent both sites ask for: what this is, where to read about it, and how to reach who runs it. Lichess hides its
 * exports from the names of HTTP libraries, so a contact that contains one is a `RangeError`.
 */
export const userAgent = (contact: string = homepage): string => {
  const value = `effect-resilience-chess/0.1 (+${homepage}; contact: ${contact})`
  if (!/^[\x21-\x7e]+$/.test(contact)) throw invalid("contact", "printable, without spaces", contact)
  if (crawlers.test(value)) throw invalid("contact", "free of the names that Lichess takes for a crawler", contact)
  return value
}

/** Creates a client of one site. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<UpstreamClient, never, HttpClient.HttpClient> {
  const { platform } = options
  const maxBodyBytes = atLeast(1, "maxBodyBytes", options.maxBodyBytes ?? 64 * 1024 * 1024)
  const maxRedirects = atLeast(0, "maxRedirects", options.maxRedirects ?? 3)
  const baseUrl = options.baseUrl.replace(/\/+$/, "")
  if (!URL.canParse(baseUrl)) throw invalid("baseUrl", "a URL", options.baseUrl)

  // Closing the scope of a request ends it, whatever of its body has been read by then.
  const client = HttpClient.withScope(yield* HttpClient.HttpClient).pipe(
    HttpClient.mapRequest(HttpClientRequest.setHeader("user-agent", options.userAgent))
  )

  const unavailable: UpstreamClient["unavailable"] = (reason, detail, more) =>
    new UpstreamUnavailable({ platform, reason, detail, status: more?.status, retryAfter: more?.retryAfter })

  const broken = (error: HttpClientError.HttpClientError) => unavailable("connection", transportDetail(error))

  const read = Effect.fnUntraced(function* (response: HttpClientResponse.HttpClientResponse) {
    const tooLarge = Effect.suspend(() =>
      Effect.fail(unavailable("body", `a body of over ${maxBodyBytes} bytes`, { status: response.status }))
    )
    if (Number(response.headers["content-length"]) > maxBodyBytes) return yield* tooLarge
    const chunks: Array<Uint8Array> = []
    let size = 0
    yield* bodyOf(response).pipe(
      Stream.mapError(broken),
      Stream.runForEach((chunk) => {
        size += chunk.byteLength
        if (size > maxBodyBytes) return tooLarge
        chunks.push(chunk)
        return Effect.void
      })
    )
    const bytes = Buffer.concat(chunks, size)
    if (!isGzipped(response.headers, bytes)) return bytes.toString("utf8")
    const plain = yield* gunzip(bytes, maxBodyBytes)
    if (Result.isSuccess(plain)) return plain.success.toString("utf8")
    return yield* plain.failure === "ERR_BUFFER_TOO_LARGE"
      ? tooLarge
      : Effect.fail(unavailable("body", "a body that cannot be decompressed", { status: response.status }))
  })

  // The page of an error says something only at its beginning, and what went wrong is in the status.
  const readError = (response: HttpClientResponse.HttpClientResponse) =>
    bodyOf(response).pipe(
      Stream.scan(
        () => ({ text: "", size: 0 }),
        (page, chunk) => ({
          text: page.size >= maxErrorBytes ? page.text : page.text + Buffer.from(chunk).toString("utf8"),
          size: page.size + chunk.byteLength
        })
      ),
      Stream.takeUntil((page) => page.size >= maxErrorBytes),
      Stream.runLast,
      Effect.map(Option.match({ onNone: () => "", onSome: (page) => page.text })),
      Effect.orElseSucceed(() => "")
    )

  const refusal = Effect.fnUntraced(function* (response: HttpClientResponse.HttpClientResponse) {
    const { headers, status } = response
    const page = yield* readError(response)
    const retryAfter = longer(askedFor(headers, yield* Clock.currentTimeMillis), rateLimitOf(page))
    if (status === 429) return unavailable("rate-limited", "HTTP 429", { status, retryAfter })
    if (status === 403) return unavailable("blocked", "HTTP 403", { status, retryAfter })
    return unavailable("status", `HTTP ${status}`, { status, retryAfter })
  })

  const request = Effect.fnUntraced(function* (
    first: HttpClientRequest.HttpClientRequest
  ): Effect.fn.Return<HttpClientResponse.HttpClientResponse, UpstreamUnavailable, Scope.Scope> {
    let request = first
    for (let redirects = 0; ; redirects++) {
      const response = yield* client.execute(request).pipe(
        Effect.mapError(broken),
        // The traces of this service are none of the site's business.
        Effect.provideService(HttpClient.TracerPropagationEnabled, false)
      )
      if (!isRedirect(response.status)) {
        if (isRefusal(response.status)) return yield* yield* refusal(response)
        return response
      }
      const { status } = response
      yield* readError(response)
      const target = redirectTarget(request, response)
      if (target === undefined) return yield* unavailable("status", "a redirect to elsewhere", { status })
      if (redirects === maxRedirects) return yield* unavailable("status", "too many redirects", { status })
      request = HttpClientRequest.setUrl(request, target)
    }
  })

  return {
    send: (toSend) =>
      Effect.scoped(
        Effect.gen(function* () {
          const response = yield* request(toSend)
          const { headers, status } = response
          const body = status === 304 ? "" : yield* read(response)
          return { status, headers, body }
        })
      ),
    open: (toSend) =>
      Effect.map(request(toSend), (response) => ({
        status: response.status,
        headers: response.headers,
        body: Stream.mapError(bodyOf(response), broken)
      })),
    url: (path) => `${baseUrl}${path}`,
    unavailable
  }
})

/** How many connections there are, and how long what is known about a host is kept. */
export interface PoolOptions {
  /** Connections to all hosts together. Defaults to 20. */
  readonly maxConnections?: number | undefined
  /** Connections to one host. Defaults to 5. */
  readonly maxConnectionsPerHost?: number | undefined
  /** How long the addresses of a host are kept. Defaults to 300 seconds. */
  readonly dnsTimeToLive?: Duration.Input | undefined
  /** How long opening a connection may take. Defaults to 30 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long a connection without a request is kept open, unless the site says otherwise. Defaults to 60 seconds. */
  readonly keepAlive?: Duration.Input | undefined
}

/**
 * Provides the `HttpClient` for both sites, with one pool of connections. A new connection tries the addresses of its
 * host one after the other until one answers, and takes them from memory while they are fresh.
 */
export const layerPool = (options: PoolOptions = {}): Layer.Layer<HttpClient.HttpClient> =>
  Layer.provide(
    NodeHttpClient.layerUndiciNoDispatcher,
    Layer.effect(
      NodeHttpClient.Dispatcher,
      Effect.gen(function* () {
        const perHost = atLeast(1, "maxConnectionsPerHost", options.maxConnectionsPerHost ?? 5)
        const total = atLeast(perHost, "maxConnections", options.maxConnections ?? 20)
        const dnsMillis = Duration.toMillis(options.dnsTimeToLive ?? "300 seconds")
        const clock = yield* Clock.Clock
        return yield* Effect.acquireRelease(
          Effect.sync(
            () =>
              new Agent({
                connections: perHost,
                maxOrigins: Math.floor(total / perHost),
                // A stream that is not read to its end is stopped by closing its connection: that frees the site's slot.
                allowH2: false,
                pipelining: 1,
                keepAliveTimeout: Duration.toMillis(options.keepAlive ?? "60 seconds"),
                connect: {
                  timeout: Duration.toMillis(options.connectTimeout ?? "30 seconds"),
                  lookup: rememberingLookup(dnsMillis, () => clock.currentTimeMillisUnsafe())
                }
              })
          ),
          (agent) => Effect.promise(() => agent.destroy())
        )
      })
    )
  )

const homepage = "https://www.npmjs.com/package/effect-resilience"

// The names of libraries among those for which Lichess has no exports (lila, `HTTPRequest.crawlerMatcher`).
const crawlers = /undici|axios|curl|wget|okhttp|aiohttp|python-requests|python-httpx/i

const maxErrorBytes = 64 * 1024

const isRedirect = (status: number) => status === 301 || status === 302 || status === 307 || status === 308

// 400 and the like say that this service asks wrongly: no answer, and asking again cannot help.
const isRefusal = (status: number) => status >= 400 && status !== 404 && status !== 410

// To another origin would be to ask someone else; a request with a body is only sent where it was meant to go.
const redirectTarget = (
  request: HttpClientRequest.HttpClientRequest,
  response: HttpClientResponse.HttpClientResponse
): URL | undefined => {
  const location = response.headers["location"]
  if (request.method !== "GET" || location === undefined || !URL.canParse(location, request.url)) return undefined
  const target = new URL(location, request.url)
  return target.origin === new URL(request.url).origin ? target : undefined
}

// A response that came without any body at all is an empty one.
const bodyOf = (
  response: HttpClientResponse.HttpClientResponse
): Stream.Stream<Uint8Array, HttpClientError.HttpClientError> =>
  Stream.catchIf(
    response.stream,
    (error) => error.reason._tag === "EmptyBodyError",
    () => Stream.empty
  )

// The code says what happened (`ECONNREFUSED`, `UND_ERR_SOCKET` …); messages can hold addresses.
const transportDetail = (error: HttpClientError.HttpClientError): string => {
  const { cause } = error
  const code = typeof cause === "object" && cause !== null && "code" in cause ? cause.code : undefined
  return typeof code === "string" ? code : "the connection failed"
}

const askedFor = (headers: Headers.Headers, nowMillis: number): Duration.Duration | undefined => {
  const header = headers["retry-after"]
  const parsed = header === undefined ? undefined : Headers.parseRetryAfter(header)
  return parsed === undefined || Result.isFailure(parsed)
    ? undefined
    : Headers.retryAfterDelay(parsed.success, nowMillis)
}

// Lichess says it in the body, if at all.
const decodeRateLimit = Schema.decodeUnknownResult(
  Schema.fromJsonString(Schema.Struct({ ratelimit: Schema.Struct({ seconds: Schema.Finite }) }))
)
const rateLimitOf = (page: string): Duration.Duration | undefined => {
  const decoded = decodeRateLimit(page)
  return Result.isFailure(decoded) ? undefined : Duration.seconds(Math.max(0, decoded.success.ratelimit.seconds))
}

const longer = (a: Duration.Duration | undefined, b: Duration.Duration | undefined): Duration.Duration | undefined =>
  a === undefined ? b : b === undefined ? a : Duration.max(a, b)

// Some clients decompress by themselves and leave the header as it was: the first bytes decide.
const isGzipped = (headers: Headers.Headers, bytes: Buffer): boolean =>
  headers["content-encoding"] === "gzip" && bytes[0] === 0x1f && bytes[1] === 0x8b

// A small body is decompressed faster than a thread can be asked to.
const gunzip = (bytes: Buffer, maxOutputLength: number): Effect.Effect<Result.Result<Buffer, string>> => {
  if (bytes.length <= 64 * 1024) {
    return Effect.sync(() =>
      Result.mapError(
        Result.try(() => Zlib.gunzipSync(bytes, { maxOutputLength })),
        codeOf
      )
    )
  }
  return Effect.callback((resume) => {
    Zlib.gunzip(bytes, { maxOutputLength }, (error, plain) => {
      resume(Effect.succeed(error === null ? Result.succeed(plain) : Result.fail(codeOf(error))))
    })
  })
}

const codeOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "code" in error ? String(error.code) : ""

const rememberingLookup = (timeToLiveMillis: number, nowMillis: () => number): LookupFunction => {
  const known = new Map<string, { readonly until: number; readonly addresses: Array<Dns.LookupAddress> }>()
  return (hostname, options, callback) => {
    const answer = (addresses: Array<Dns.LookupAddress>) => {
      const first = addresses[0]
      if (options.all === true) callback(null, addresses)
      else callback(null, first?.address ?? "", first?.family)
    }
    const key = `${hostname} ${options.family ?? 0}`
    const found = known.get(key)
    if (found !== undefined && found.until > nowMillis()) return queueMicrotask(() => answer(found.addresses))
    Dns.lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return callback(error, "")
      if (known.size >= maxHosts) known.clear()
      known.set(key, { until: nowMillis() + timeToLiveMillis, addresses })
      answer(addresses)
    })
  }
}

const maxHosts = 100

const atLeast = (min: number, name: string, value: number): number => {
  if (Number.isInteger(value) && value >= min) return value
  throw invalid(name, `an integer >= ${min}`, value)
}

const invalid = (name: string, expected: string, value: unknown): RangeError =>
  new RangeError(`UpstreamClient: ${name} must be ${expected}, got ${String(value)}`)
