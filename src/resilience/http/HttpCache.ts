/**
 * Keeps responses as HTTP allows a private cache to, and lets identical requests share one.
 *
 * A GET or HEAD whose answer is kept and fresh costs nothing (RFC 9111). One that is stale is confirmed with its `ETag` or
 * date, stands in for an error of the server, or is the answer while it is refreshed, as its server allows (RFC 5861).
 * Requests of the same method, URL and fields that come meanwhile wait for the one under way; it goes on while anyone
 * waits. Every response says in `Cache-Status` what happened (RFC 9211).
 *
 * Put it outside `HttpResilience`: its deadline then bounds the shared request, and one around the call its wait.
 *
 * The process serves many users, so by default a request with credentials goes past the cache, and a response that sets a
 * cookie is neither kept nor shared. Kept, too, is neither a part (`Range`) nor a body over `maxBodyBytes`: those stream
 * through. What is kept is bounded by number and by bytes; the least recently used makes room.
 *
 * | `make` | `capacity` 10,000 URLs | `maxBytes` 64 MiB | `maxBodyBytes` 1 MiB | `credentials` "bypass" |
 * | `timeToLive` by `Last-Modified` | `maxRefreshes` 16 |
 * | `staleIfError`, `staleWhileRevalidate` 0 where the response does not say |
 */
import { Clock, Duration, Effect, Fiber, Option, Pull, type Scope, Stream } from "effect"
import {
  Cookies,
  Headers,
  type HttpClient,
  type HttpClientError,
  HttpClientRequest,
  type HttpClientResponse
} from "effect/http"
import * as flights from "../internal/flights.ts"
import { discard, type Drain, watched } from "../internal/http/body.ts"
import * as cacheControl from "../internal/http/cacheControl.ts"
import { clientOf, Connection, type Open } from "../internal/http/connection.ts"
import { BodyResponse, bodyOf, concat, hasNoBody } from "../internal/http/responses.ts"
import * as stored from "../internal/http/storedResponse.ts"
import { Kept } from "../internal/kept.ts"
import { nowMillisUnsafe } from "../internal/monotonic.ts"
import { boolean, formatItem, integer, item, string, token } from "../internal/structuredFields.ts"

/** Kept responses, and requests that are shared while they are under way. */
export interface HttpCache {
  /** A client that asks here first. Clients of one cache share what is kept, and each its own requests. */
  readonly transform: <E, R>(
    client: HttpClient.HttpClient.With<E, R>
  ) => HttpClient.HttpClient.With<E | HttpClientError.HttpClientError, R>
  /** Forgets what is kept of a URL. A request under way still answers those who wait, but is not kept and not joined. */
  readonly invalidate: (url: string | URL) => Effect.Effect<void>
  /** Forgets everything, as `invalidate` does. */
  readonly invalidateAll: Effect.Effect<void>
  /** Counts what is kept now and what happened so far. */
  readonly statistics: Effect.Effect<Statistics>
}

/** A cache in numbers. */
export interface Statistics {
  /** URLs of which something is kept. */
  readonly urls: number
  /** What that weighs, in bytes, with its fields. */
  readonly bytes: number
  /** Requests under way that others can join, refreshes included. */
  readonly pending: number
  /** Requests answered with what was kept, stale or not, without asking the server. */
  readonly hits: number
  /** Requests for which the server was asked. */
  readonly misses: number
  /** Requests that waited for the request of another. */
  readonly joined: number
  /** Requests that had nothing to do with the cache. */
  readonly bypassed: number
  /** Answers of a server that confirmed what was kept. */
  readonly confirmed: number
  /** Requests answered with what was stale: at once, or because the server failed. */
  readonly stale: number
  /** Refreshes that were started in the background. */
  readonly refreshes: number
  /** URLs that made room for others. */
  readonly evictions: number
}

/** How requests are shared. */
export interface SharingOptions {
  /** The largest body that is kept or shared, in bytes: an integer of at least 0. Defaults to 1 MiB. */
  readonly maxBodyBytes?: number | undefined
  /**
   * What becomes of requests with credentials in their fields: "bypass" sends each by itself; "separate" keeps and shares a
   * response for those with the very same credentials. A URL with a user in it is always sent by itself. Defaults to
   * "bypass".
   */
  readonly credentials?: "bypass" | "separate" | undefined
  /** Fields of a request that hold credentials, beside `Authorization`, `Proxy-Authorization` and `Cookie`. Defaults to none. */
  readonly credentialHeaders?: ReadonlyArray<string> | undefined
}

/** What is kept, and how requests are shared. */
export interface Options extends SharingOptions {
  /** URLs of which something is kept: an integer of at least 1. Defaults to 10,000. */
  readonly capacity?: number | undefined
  /** What all that is kept may weigh, in bytes: an integer of at least 1. Defaults to 64 MiB. */
  readonly maxBytes?: number | undefined
  /**
   * How long a response is fresh whose server does not say, if HTTP allows to keep it then (RFC 9111, 4.2.2). Defaults to a
   * tenth of the time since its `Last-Modified`, a day at most, and 0 without one.
   */
  readonly timeToLive?: Duration.Input | undefined
  /** For how long a stale response stands in for an error of the server that does not say. Defaults to 0. */
  readonly staleIfError?: Duration.Input | undefined
  /** For how long a stale response is the answer while it is refreshed, if its server does not say. Defaults to 0. */
  readonly staleWhileRevalidate?: Duration.Input | undefined
  /** Refreshes in the background at the same time: an integer of at least 1. Defaults to 16. */
  readonly maxRefreshes?: number | undefined
}

/**
 * Creates a cache in which nothing is kept. When the scope closes, refreshes in the background that nobody waits for are
 * interrupted. Options that make no sense are a defect, not an error.
 */
export const make = (options: Options = {}): Effect.Effect<HttpCache, never, Scope.Scope> =>
  Effect.flatMap(
    Effect.sync(() => makeUnsafe(options, true)),
    ({ cache, close }) =>
      Effect.as(
        Effect.addFinalizer(() => close),
        cache
      )
  )

/**
 * Creates a cache that keeps nothing: GET and HEAD requests of the same URL and fields share one while it is under way, as
 * in `SingleFlight`. A response that must not be stored, sets a cookie, streams events or is too long is for one of them
 * only, and the others ask for themselves.
 */
export const makeSharing = (options: SharingOptions = {}): Effect.Effect<HttpCache> =>
  Effect.sync(() => makeUnsafe(options, false).cache)

// What a request under way has brought.
type Landed =
  /** A whole response: for everyone who asked for it. */
  | { readonly _tag: "Whole"; readonly response: Snapshot }
  /** One whose body can be read once: for whoever takes it first. */
  | { readonly _tag: "Live"; readonly live: Live }
  /** Nothing: it had landed before. */
  | { readonly _tag: "Late" }

interface Snapshot {
  readonly url: string
  readonly status: number
  readonly headers: Headers.Headers
  readonly body: Uint8Array
  readonly selecting: stored.Stored["selecting"]
  readonly happened: Happened
}

interface Live {
  readonly response: HttpClientResponse.HttpClientResponse
  readonly connection: Connection
  readonly happened: Happened
  taken: boolean
}

// What `Cache-Status` says (RFC 9211, 2).
interface Happened {
  readonly fwd: Reason
  readonly fwdStatus?: number | undefined
  readonly stored?: boolean | undefined
  readonly detail?: string | undefined
}

type Reason = "bypass" | "method" | "uri-miss" | "vary-miss" | "request" | "stale"

// A request under way, and those who want its response.
interface Pending {
  readonly id: number
  readonly open: Open<unknown, unknown>
  readonly method: string
  readonly headers: Headers.Headers
  callers: number
  begun: boolean
  /** Whether what it brings may be out of date: it is not kept. */
  cut: boolean
  live: Live | undefined
}

type Response = HttpClientResponse.HttpClientResponse
type AnyFiber = Fiber.Fiber<unknown, unknown>

const makeUnsafe = (options: Options, keeps: boolean) => {
  const maxBodyBytes = integerOf("maxBodyBytes", options.maxBodyBytes ?? 1024 * 1024, 0)
  const maxBytes = integerOf("maxBytes", options.maxBytes ?? 64 * 1024 * 1024, 1)
  const capacity = integerOf("capacity", options.capacity ?? 10_000, 1)
  const maxRefreshes = integerOf("maxRefreshes", options.maxRefreshes ?? 16, 1)
  const staleIfErrorMillis = notNegative("staleIfError", options.staleIfError ?? 0)
  const revalidateMillis = notNegative("staleWhileRevalidate", options.staleWhileRevalidate ?? 0)
  const credentialNames = [...credentialFields, ...(options.credentialHeaders ?? []).map((name) => name.toLowerCase())]
  const separate = options.credentials === "separate"
  const rules: stored.Rules = {
    selecting: separate ? credentialNames : [],
    lifetimeMillis: options.timeToLive === undefined ? undefined : lifetimeOf(options.timeToLive)
  }

  const kept = new Kept<string, ReadonlyArray<stored.Stored>>(capacity, maxBytes)
  const counts = { hits: 0, misses: 0, joined: 0, bypassed: 0, confirmed: 0, stale: 0, refreshes: 0 }
  const underWay = new Map<string, Array<Pending>>()
  const refreshes = new Set<flights.Run<number, Landed, unknown>>()
  let closed = false
  let lastId = 0

  const shared = flights.make<number, Landed, unknown>({ find: () => undefined, land: () => undefined })

  const cut = (key: string) => {
    for (const pending of underWay.get(key) ?? []) {
      pending.cut = true
      flights.cutOff(shared, pending.id)
    }
    underWay.delete(key)
  }

  const forget = (key: string) => {
    cut(key)
    kept.delete(key)
  }

  const graceMillis = Math.max(staleIfErrorMillis, revalidateMillis)

  const keep = (key: string, variants: ReadonlyArray<stored.Stored>, fiber: AnyFiber) => {
    const useful = variants.filter((variant) => stored.usefulMillis(variant, graceMillis) > 0)
    const millis = useful.reduce((most, variant) => Math.max(most, stored.usefulMillis(variant, graceMillis)), 0)
    const weight = useful.reduce((sum, variant) => sum + weigh(variant), key.length)
    kept.sweep(2, fiber)
    kept.put(key, useful, millis, fiber, {
      graceMillis: 0,
      refreshAfterMillis: Infinity,
      idleMillis: Infinity,
      weight,
      tags: undefined
    })
  }

  // In place of what answered the same request before.
  const keepVariant = (
    key: string,
    variant: stored.Stored,
    request: HttpClientRequest.HttpClientRequest,
    fiber: AnyFiber
  ) => {
    const others = (kept.peek(key, fiber)?.value ?? []).filter((other) => !stored.matches(other, request.headers))
    keep(key, [...others.slice(-(maxVariants - 1)), variant], fiber)
    return kept.peek(key, fiber)?.value.includes(variant) === true
  }

  const forgetVariant = (key: string, request: HttpClientRequest.HttpClientRequest, fiber: AnyFiber) => {
    const variants = kept.peek(key, fiber)?.value
    if (variants === undefined) return
    keep(
      key,
      variants.filter((variant) => !stored.matches(variant, request.headers)),
      fiber
    )
  }

  const invalidated = (response: Response, url: URL) => {
    if (response.status < 200 || response.status >= 400) return
    forget(keyOf(url))
    for (const name of ["location", "content-location"]) {
      const reference = response.headers[name]
      if (reference === undefined || !URL.canParse(reference, url.href)) continue
      const other = new URL(reference, url)
      // Others have no say in what is kept of a server (RFC 9111, 4.4).
      if (other.origin === url.origin) forget(keyOf(other))
    }
  }

  const isBypassed = (request: HttpClientRequest.HttpClientRequest, url: URL, asks: cacheControl.RequestDirectives) =>
    asks.noStore ||
    request.body._tag !== "Empty" ||
    ownConditions.some((name) => request.headers[name] !== undefined) ||
    url.username !== "" ||
    url.password !== "" ||
    (!separate && credentialNames.some((name) => request.headers[name] !== undefined))

  const client = (open: Open<unknown, unknown>) => {
    const forward = (
      request: HttpClientRequest.HttpClientRequest,
      signal: AbortSignal,
      happened: Happened
    ): Effect.Effect<Response, unknown, unknown> =>
      Effect.suspend(() => {
        const connection = new Connection()
        return Effect.onExitPrimitive(
          Effect.map(open(request, connection), (response) => handedOver(response, connection, signal, happened)),
          (exit) => (exit._tag === "Failure" ? connection.close : undefined)
        )
      })

    // Sends the request, and finds out what its response is good for.
    const land = (
      pending: Pending,
      request: HttpClientRequest.HttpClientRequest,
      url: URL,
      known: stored.Stored | undefined,
      asks: cacheControl.RequestDirectives,
      fwd: Reason
    ): Effect.Effect<Landed, unknown, unknown> => {
      const key = keyOf(url)
      let connection = new Connection()
      let begun = false

      const sent = Effect.suspend((): Effect.Effect<Landed, unknown, unknown> => {
        // Someone joined in the moment in which it landed.
        if (pending.begun) return Effect.succeed({ _tag: "Late" })
        begun = pending.begun = true

        const whole = (
          { body, headers, selecting, status, url }: Omit<Snapshot, "happened">,
          happened: Happened
        ): Landed => ({ _tag: "Whole", response: { url, status, headers, body, selecting, happened } })

        const standIn = (known: stored.Stored, now: number, happened: Happened): Landed =>
          whole(aged(known, now), { ...happened, detail: standsInDetail })

        // Asks whether what is kept is still right, or for everything.
        const send = (asked: stored.Stored | undefined): Effect.Effect<Landed, unknown, unknown> =>
          Effect.withFiber((fiber) => {
            const sentAt = nowMillisUnsafe(fiber)
            connection = new Connection()
            const conditional =
              asked === undefined ? request : HttpClientRequest.setHeaders(request, stored.conditions(asked))
            return Effect.flatMap(open(conditional, connection), (response) => {
              const at = nowMillisUnsafe(fiber)
              const receivedMillis = fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
              const times: stored.Times = { receivedMillis, delayMillis: at - sentAt, at }
              return request.method === "HEAD"
                ? confirm(response, asked, times, fiber)
                : receive(response, asked, times, fiber)
            })
          })

        // What is kept is still right: it is as new as the answer that says so.
        const freshen = (asked: stored.Stored, headers: Headers.Headers, times: stored.Times, fiber: AnyFiber) => {
          const variant = stored.freshened(asked, headers, request.headers, times, rules)
          const isKept = !pending.cut && !variant.directives.noStore && keepVariant(key, variant, request, fiber)
          if (!isKept) forgetVariant(key, request, fiber)
          return { variant, isKept }
        }

        const receive = (
          response: Response,
          asked: stored.Stored | undefined,
          times: stored.Times,
          fiber: AnyFiber
        ): Effect.Effect<Landed, unknown, unknown> => {
          const { headers, status } = response
          const happened: Happened = { fwd, fwdStatus: status }
          if (asked !== undefined && status === 304) {
            const freed = discard(response, connection, drain)
            // It is not about what is kept: ask for the whole.
            if (stored.isAboutAnother(asked, headers)) return Effect.andThen(freed, send(undefined))
            counts.confirmed++
            const fresh = freshen(asked, headers, times, fiber)
            return Effect.as(freed, whole(aged(fresh.variant, times.at), { ...happened, stored: fresh.isKept }))
          }
          if (
            known !== undefined &&
            isServerError(status) &&
            stored.standsIn(known, asks, times.at, staleIfErrorMillis)
          ) {
            return Effect.as(discard(response, connection, drain), standIn(known, times.at, happened))
          }
          const head = { url: response.url, status, headers }
          const candidate = stored.stored(head, empty, request.headers, times, rules)
          const isStorable =
            keeps &&
            !isStream(headers) &&
            stored.isStorable(head, candidate.directives) &&
            stored.usefulMillis(candidate, graceMillis) > 0
          // What is kept was true before this answer, and is not any more.
          const replaces = () => {
            if (known !== undefined && status < 500) forgetVariant(key, request, fiber)
          }
          const isShort = hasNoBody(response) || Number(headers["content-length"] ?? 0) <= maxBodyBytes
          if (!isShort || !(isStorable || (!keeps && isShareable(response, candidate.directives)))) {
            replaces()
            return Effect.succeed(live(response, happened))
          }
          return Effect.map(beginning(response, connection, maxBodyBytes), (read): Landed => {
            if (read._tag === "Long") {
              replaces()
              return live(read.response, happened)
            }
            const variant = { ...candidate, body: read.body }
            const isWhole = isComplete(headers, read.body)
            const isKept = isStorable && isWhole && !pending.cut && keepVariant(key, variant, request, fiber)
            if (!isKept) replaces()
            // Not as it is kept: it has just come, and has its own age.
            return whole({ ...head, body: read.body, selecting: variant.selecting }, { ...happened, stored: isKept })
          })
        }

        // A HEAD tells whether what is kept is still right, and is itself not kept (RFC 9111, 4.3.5).
        const confirm = (
          response: Response,
          asked: stored.Stored | undefined,
          times: stored.Times,
          fiber: AnyFiber
        ): Effect.Effect<Landed, unknown, unknown> => {
          const { headers, status, url } = response
          const happened: Happened = { fwd, fwdStatus: status }
          const freed = discard(response, connection, drain)
          if (
            known !== undefined &&
            isServerError(status) &&
            stored.standsIn(known, asks, times.at, staleIfErrorMillis)
          ) {
            return Effect.as(freed, standIn(known, times.at, happened))
          }
          if (asked !== undefined && status === 304) {
            if (stored.isAboutAnother(asked, headers)) return Effect.andThen(freed, send(undefined))
            counts.confirmed++
            const fresh = freshen(asked, headers, times, fiber)
            return Effect.as(freed, whole(aged(fresh.variant, times.at), { ...happened, stored: fresh.isKept }))
          }
          if (known !== undefined && status === 200) {
            if (stored.isConfirmedBy(known, headers)) freshen(known, headers, times, fiber)
            else forgetVariant(key, request, fiber)
          }
          const { selecting } = stored.stored({ url, status, headers }, empty, request.headers, times, {
            ...rules,
            selecting: []
          })
          return Effect.as(freed, whole({ url, status, headers, body: empty, selecting }, happened))
        }

        const live = (response: Response, happened: Happened): Landed => {
          // A refresh that nobody waits for.
          if (pending.callers === 0) return { _tag: "Late" }
          pending.live = { response, connection, happened, taken: false }
          return { _tag: "Live", live: pending.live }
        }

        const asked = send(known !== undefined && stored.hasValidator(known) ? known : undefined)
        if (known === undefined) return asked
        return Effect.catch(asked, (error) =>
          Effect.withFiber((fiber) => {
            const now = nowMillisUnsafe(fiber)
            return stored.standsIn(known, asks, now, staleIfErrorMillis)
              ? Effect.succeed(standIn(known, now, { fwd }))
              : Effect.fail(error)
          })
        )
      })

      return Effect.onExitPrimitive(sent, (exit) => {
        if (!begun) return undefined
        remove(underWay, key, pending)
        return exit._tag === "Failure" || pending.live === undefined ? connection.close : undefined
      })
    }

    // Waits for a request under way that is the same, or sends this one.
    const ask = (
      request: HttpClientRequest.HttpClientRequest,
      url: URL,
      signal: AbortSignal,
      known: stored.Stored | undefined,
      asks: cacheControl.RequestDirectives,
      fwd: Reason
    ): Effect.Effect<Response, unknown, unknown> =>
      Effect.suspend(() => {
        let pending: Pending | undefined
        return Effect.onExitPrimitive(
          Effect.withFiber((fiber) => {
            const found = find(underWay, keyOf(url), open, request)
            const current = (pending = found ?? begin(url, request))
            current.callers++
            if (found === undefined) counts.misses++
            else counts.joined++
            const work = land(current, request, url, known, asks, fwd)
            return Effect.flatMap(
              flights.join(shared, fiber, current.id, () => work, undefined),
              (landed) => {
                if (landed._tag === "Whole" && stored.matches(landed.response, request.headers)) {
                  if (landed.response.happened.detail === standsInDetail) counts.stale++
                  return Effect.succeed(toResponse(landed.response, request, found !== undefined))
                }
                if (landed._tag === "Live" && !landed.live.taken) {
                  landed.live.taken = true
                  const { connection, happened, response } = landed.live
                  return Effect.succeed(handedOver(response, connection, signal, happened))
                }
                return forward(request, signal, { fwd })
              }
            )
          }),
          () => {
            if (pending === undefined || --pending.callers > 0) return undefined
            // Whoever began it went away before it was sent.
            if (!pending.begun) remove(underWay, keyOf(url), pending)
            return pending.live === undefined || pending.live.taken ? undefined : pending.live.connection.close
          }
        )
      })

    const begin = (url: URL, { headers, method }: HttpClientRequest.HttpClientRequest): Pending => {
      const pending: Pending = {
        id: ++lastId,
        open,
        method,
        headers: comparable(headers),
        callers: 0,
        begun: false,
        cut: false,
        live: undefined
      }
      const key = keyOf(url)
      const others = underWay.get(key)
      if (others === undefined) underWay.set(key, [pending])
      else others.push(pending)
      return pending
    }

    const refresh = (
      request: HttpClientRequest.HttpClientRequest,
      url: URL,
      known: stored.Stored,
      asks: cacheControl.RequestDirectives,
      fiber: AnyFiber
    ) => {
      // A HEAD would not bring the body of what is kept.
      const asGet = HttpClientRequest.setMethod(request, "GET")
      if (closed || refreshes.size >= maxRefreshes || find(underWay, keyOf(url), open, asGet) !== undefined) return
      counts.refreshes++
      const pending = begin(url, asGet)
      const work = land(pending, asGet, url, known, asks, "stale")
      const run = flights.startOwned(shared, fiber, [pending.id], work, flights.whole, undefined)
      refreshes.add(run)
      run.fiber?.addObserver(() => {
        refreshes.delete(run)
        if (!pending.begun) remove(underWay, keyOf(url), pending)
      })
    }

    return (
      request: HttpClientRequest.HttpClientRequest,
      url: URL,
      signal: AbortSignal
    ): Effect.Effect<Response, unknown, unknown> => {
      if (request.method !== "GET" && request.method !== "HEAD") {
        counts.bypassed++
        const response = forward(request, signal, { fwd: "method" })
        return safeMethods.has(request.method)
          ? response
          : Effect.tap(response, (response) => Effect.sync(() => invalidated(response, url)))
      }
      const asks = cacheControl.ofRequest(request.headers)
      if (isBypassed(request, url, asks)) {
        counts.bypassed++
        return forward(request, signal, { fwd: asks.noStore ? "request" : "bypass" })
      }
      return Effect.withFiber((fiber) => {
        const variants = kept.use(keyOf(url), fiber)?.value ?? []
        const known = stored.select(variants, request.headers)
        if (known === undefined) {
          if (asks.onlyIfCached) return Effect.succeed(nothingKept(request, url))
          return ask(request, url, signal, undefined, asks, variants.length === 0 ? "uri-miss" : "vary-miss")
        }
        const now = nowMillisUnsafe(fiber)
        const use = stored.useOf(known, asks, now, revalidateMillis)
        if (use._tag === "Ask") {
          if (asks.onlyIfCached) return Effect.succeed(nothingKept(request, url))
          return ask(request, url, signal, known, asks, use.because)
        }
        counts.hits++
        if (use._tag !== "Fresh") counts.stale++
        if (use._tag === "Revalidate") refresh(request, url, known, asks, fiber)
        return Effect.succeed(hit(known, request, now, use._tag))
      })
    }
  }

  const cache: HttpCache = {
    // What is shared has the errors and services of the client it was sent with: `find` sees to that.
    transform: <E, R>(self: HttpClient.HttpClient.With<E, R>) =>
      clientOf(self, client) as HttpClient.HttpClient.With<E | HttpClientError.HttpClientError, R>,
    invalidate: (url) =>
      Effect.sync(() => {
        if (URL.canParse(url.toString())) forget(keyOf(new URL(url)))
      }),
    invalidateAll: Effect.sync(() => {
      for (const key of underWay.keys()) cut(key)
      kept.clear()
    }),
    statistics: Effect.sync(() => ({
      urls: kept.size,
      bytes: kept.weight,
      pending: Array.from(underWay.values(), (requests) => requests.length).reduce((sum, more) => sum + more, 0),
      ...counts,
      evictions: kept.evictions
    }))
  }

  const close = Effect.suspend(() => {
    closed = true
    return Fiber.interruptAll(
      Array.from(refreshes).flatMap((run) => {
        const fiber = flights.disown(shared, run)
        return fiber === undefined ? [] : [fiber]
      })
    )
  })

  return { cache, close }
}

const empty = new Uint8Array()
const maxVariants = 16
const drain: Drain = { maxBytes: 64 * 1024, maxTime: Duration.seconds(1) }

const safeMethods: ReadonlySet<string> = new Set(["OPTIONS", "TRACE", "QUERY"])
const credentialFields = ["authorization", "proxy-authorization", "cookie"]

// Whoever sends these knows what it has, and wants an answer about that.
const ownConditions = ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"]

// Fields that are different in every request and mean nothing to its answer.
const incidental: ReadonlySet<string> = new Set([
  "traceparent",
  "tracestate",
  "baggage",
  "b3",
  "x-b3-traceid",
  "x-b3-spanid",
  "x-b3-parentspanid",
  "x-b3-sampled",
  "x-request-id",
  "x-correlation-id",
  "x-request-timeout",
  "grpc-timeout"
])

const comparable = (headers: Headers.Headers): Headers.Headers => Headers.removeMany(headers, incidental)

// Credentials are no part of it, and a fragment never reaches a server.
const keyOf = (url: URL): string => {
  if (url.hash === "" && url.username === "" && url.password === "") return url.href
  const plain = new URL(url)
  plain.hash = plain.username = plain.password = ""
  return plain.href
}

const find = (
  underWay: ReadonlyMap<string, ReadonlyArray<Pending>>,
  key: string,
  open: Open<unknown, unknown>,
  request: HttpClientRequest.HttpClientRequest
): Pending | undefined => {
  const candidates = underWay.get(key)
  if (candidates === undefined) return undefined
  const headers = comparable(request.headers)
  return candidates.find(
    (pending) =>
      pending.open === open && pending.method === request.method && Headers.Equivalence(pending.headers, headers)
  )
}

const remove = (underWay: Map<string, Array<Pending>>, key: string, pending: Pending): void => {
  const left = (underWay.get(key) ?? []).filter((other) => other !== pending)
  if (left.length === 0) underWay.delete(key)
  else underWay.set(key, left)
}

const isServerError = (status: number): boolean => status === 500 || (status >= 502 && status <= 504)

// What more than one may see although nobody may keep it.
const isShareable = ({ headers }: Response, directives: cacheControl.ResponseDirectives): boolean =>
  !directives.noStore &&
  headers["set-cookie"] === undefined &&
  !cacheControl.namesOf(headers["vary"] ?? "").includes("*") &&
  !isStream(headers)

// What is meant to be read as it comes, and may never end.
const isStream = (headers: Headers.Headers): boolean =>
  /^\s*(text\/event-stream|multipart\/|application\/(x-ndjson|jsonl|json-seq))/i.test(headers["content-type"] ?? "")

// A body that was cut off must not be taken for the whole (RFC 9111, 3.3). Of one that was decoded its length is no proof.
const isComplete = (headers: Headers.Headers, body: Uint8Array): boolean => {
  const length = headers["content-length"]
  return length === undefined || headers["content-encoding"] !== undefined || Number(length) === body.byteLength
}

const weigh = ({ body, headers, url }: stored.Stored): number =>
  Object.entries(headers).reduce((sum, [name, value]) => sum + name.length + value.length, 0) +
  body.byteLength +
  url.length +
  512

type Beginning =
  | { readonly _tag: "Whole"; readonly body: Uint8Array }
  | { readonly _tag: "Long"; readonly response: Response }

// Reads a body if it is short, and otherwise puts what was read back in front of the rest.
const beginning = (
  response: Response,
  connection: Connection,
  maxBytes: number
): Effect.Effect<Beginning, HttpClientError.HttpClientError> => {
  const chunks: Array<Uint8Array> = []
  let size = 0
  return connection.run(
    Effect.flatMap(Stream.toPull(bodyOf(response)), (pull) => {
      const more: Effect.Effect<Beginning, HttpClientError.HttpClientError> = Pull.matchEffect(pull, {
        onSuccess: (next) => {
          for (const chunk of next) {
            chunks.push(chunk)
            size += chunk.byteLength
          }
          if (size <= maxBytes) return more
          const { cookies, headers, remoteAddress, request, status, url } = response
          const rest = Stream.concat(Stream.fromArray(chunks), Stream.fromPull(Effect.succeed(pull)))
          const parts = { request, url, status, headers, cookies, remoteAddress, body: () => rest }
          return Effect.succeed<Beginning>({ _tag: "Long", response: new BodyResponse(parts) })
        },
        onFailure: Effect.failCause,
        onDone: () => Effect.succeed<Beginning>({ _tag: "Whole", body: concat(chunks, size) })
      })
      return more
    })
  )
}

// A response whose connection is given up with it, and that says what happened.
const handedOver = (response: Response, connection: Connection, signal: AbortSignal, happened: Happened): Response => {
  signal.addEventListener("abort", () => connection.closeUnsafe(), { once: true })
  return watched(response, connection, "Infinity", withStatus(response.headers, statusOf(happened, false)))
}

const toResponse = (
  { body, happened, headers, status, url }: Snapshot,
  request: HttpClientRequest.HttpClientRequest,
  collapsed: boolean
): Response => fromKept(request, url, status, withStatus(headers, statusOf(happened, collapsed)), body)

const hit = (
  known: stored.Stored,
  request: HttpClientRequest.HttpClientRequest,
  now: number,
  use: "Fresh" | "Stale" | "Revalidate"
): Response => {
  const { body, headers, status, url } = aged(known, now)
  const { noCache } = known.directives
  // Fields that must not be used again without asking (RFC 9111, 5.2.2.4).
  const usable = typeof noCache === "boolean" ? headers : Headers.removeMany(headers, noCache)
  const said = formatItem(
    item(token(cacheName), {
      hit: boolean(true),
      ttl: integer(Math.floor((known.lifetimeMillis - stored.ageOf(known, now)) / 1000)),
      ...(use === "Fresh" ? undefined : { detail: string(use === "Stale" ? "max-stale" : "stale-while-revalidate") })
    })
  )
  return fromKept(request, url, status, withStatus(usable, said), body)
}

const nothingKept = (request: HttpClientRequest.HttpClientRequest, url: URL): Response => {
  const said = formatItem(item(token(cacheName), { detail: string("only-if-cached") }))
  return fromKept(request, url.href, 504, withStatus(Headers.empty, said), empty)
}

const fromKept = (
  request: HttpClientRequest.HttpClientRequest,
  url: string,
  status: number,
  headers: Headers.Headers,
  body: Uint8Array
): Response =>
  new BodyResponse({
    request,
    url,
    status,
    headers,
    cookies: Cookies.empty,
    remoteAddress: Option.none(),
    // Whoever reads it may write to it, and must not write to what is kept.
    body: () => (body.byteLength === 0 || request.method === "HEAD" ? Stream.empty : Stream.sync(() => body.slice()))
  })

// What is kept, with how old it is (RFC 9111, 4).
const aged = (known: stored.Stored, now: number): Omit<Snapshot, "happened"> => {
  const { body, selecting, status, url } = known
  const headers = Headers.set(known.headers, "age", String(Math.floor(stored.ageOf(known, now) / 1000)))
  return { url, status, headers, body, selecting }
}

const cacheName = "effect-resilience"
const standsInDetail = "stale-if-error"

const statusOf = ({ detail, fwd, fwdStatus, stored }: Happened, collapsed: boolean): string =>
  formatItem(
    item(token(cacheName), {
      fwd: token(fwd),
      ...(fwdStatus === undefined ? undefined : { "fwd-status": integer(fwdStatus) }),
      ...(stored === true ? { stored: boolean(true) } : undefined),
      ...(collapsed ? { collapsed: boolean(true) } : undefined),
      ...(detail === undefined ? undefined : { detail: string(detail) })
    })
  )

// Behind what the caches nearer to the server have said.
const withStatus = (headers: Headers.Headers, said: string): Headers.Headers => {
  const before = headers["cache-status"]
  return Headers.set(headers, "cache-status", before === undefined ? said : `${before}, ${said}`)
}

const integerOf = (name: string, value: number, least: number): number => {
  if (Number.isInteger(value) && value >= least) return value
  throw new RangeError(`HttpCache: ${name} must be an integer >= ${least}, got ${value}`)
}

// An age has no more than 31 bits of seconds (RFC 9111, 1.2.2).
const lifetimeOf = (input: Duration.Input): number => {
  const millis = Duration.toMillis(input)
  if (millis >= 0 && millis <= 2 ** 31 * 1000) return millis
  throw new RangeError(`HttpCache: timeToLive must be at least 0 and at most 2^31 seconds, got ${millis} ms`)
}

const notNegative = (name: string, input: Duration.Input): number => {
  const millis = Duration.toMillis(input)
  if (millis >= 0) return millis
  throw new RangeError(`HttpCache: ${name} must not be negative, got ${millis} ms`)
}
