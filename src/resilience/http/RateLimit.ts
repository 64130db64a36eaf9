/**
 * Limits how many requests a server takes: per user, API key or address, per endpoint, per tier.
 *
 * A request passes all rules that apply to it or none: then it is answered 429 and takes nothing of any. What is left is on
 * every response, also those of errors: `X-RateLimit-*` of the rule with the least left, and the `RateLimit` fields of the
 * IETF draft (draft-ietf-httpapi-ratelimit-headers-10) for all of them. Requests are counted by a `RateLimitStore`.
 *
 * Put it as a global middleware around the router, inside what tells who the user is, and outside everything that costs.
 * Given to single routes, a rule cannot be avoided by another spelling of the path.
 *
 * | defaults    | exempt: `/health`, all under it and under `/admin`, and `/metrics` | key: the address of the client | cost 1 |
 * | environment | `RATE_LIMIT_ENABLED` true | `RATE_LIMIT_REQUESTS` 100 | `RATE_LIMIT_WINDOW` 60 (seconds) |
 */
import { Clock, Config, Duration, Effect, Layer, Option, Redacted, Result, Schema } from "effect"
import { HttpEffect, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { exempts, pathOf } from "../internal/http/paths.ts"
import { outOfRange } from "../internal/limits.ts"
import { sha256Hex } from "../internal/sha256.ts"
import { formatItem, item, string } from "../internal/structuredFields.ts"
import * as ApiError from "./ApiError.ts"
import * as ClientAddress from "./ClientAddress.ts"
import * as RateLimitStore from "./RateLimitStore.ts"

/** Whose request it is: `undefined` for somebody whom this does not tell. */
export type Key<R = never> = (
  request: HttpServerRequest.HttpServerRequest
) => Effect.Effect<string | undefined, never, R>

/** A limit, and the requests that are under it. */
export interface Rule<R = never> {
  /** The name that clients see, and by which the store tells the rules apart: printable ASCII. */
  readonly name: string
  /** The limit, or that of the tier which the request belongs to. Without one, the request is not under this rule. */
  readonly policy:
    | RateLimitStore.Policy
    | ((request: HttpServerRequest.HttpServerRequest) => Effect.Effect<RateLimitStore.Policy | undefined, never, R>)
  /** Whose requests are counted together. Whom it does not tell is counted by address. Defaults to the address. */
  readonly key?: Key<R> | undefined
  /** What a request takes of the limit: over zero. Defaults to 1. */
  readonly cost?: ((request: HttpServerRequest.HttpServerRequest) => number) | undefined
  /** Whether the request is under this rule; see `endpoint`. Defaults to all. */
  readonly when?: ((request: HttpServerRequest.HttpServerRequest) => boolean) | undefined
}

/** What is limited, and how a client is known. */
export interface Options<R = never> {
  /** At least one, each with a name of its own. */
  readonly rules: ReadonlyArray<Rule<R>>
  /** Paths that no rule is for, exactly as they are written; one that ends in `/*` also means all below it. */
  readonly exempt?: ReadonlyArray<string> | undefined
  /** How the address of a client is found behind proxies. Defaults to the address of the connection. */
  readonly clientAddress?: ClientAddress.Options | undefined
  /** What `X-RateLimit-Reset` says: the Unix time in seconds, or the seconds until then. Defaults to "timestamp". */
  readonly reset?: "timestamp" | "delay" | undefined
  /**
   * What to do without an answer of the store: count in this process alone, as long as that lasts, or answer 503. Defaults
   * to "local".
   */
  readonly onStoreError?: "local" | "refuse" | undefined
}

/** A middleware of the router, or of the server. */
export type Middleware<R = never> = <E, R2>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>
) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | R2 | HttpServerRequest.HttpServerRequest>

/** Creates the middleware. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* <R = never>(
  options: Options<R>
): Effect.fn.Return<Middleware<R>, never, RateLimitStore.RateLimitStore> {
  const {
    exempt = ["/health", "/health/*", "/metrics", "/admin/*"],
    onStoreError = "local",
    reset = "timestamp"
  } = options
  checkRules(options.rules)
  const rules = options.rules.map((rule) => ({ ...rule, quoted: formatItem(item(string(rule.name))) }))
  const isExempt = exempts(exempt)
  const address = byAddress(options.clientAddress)
  const store = yield* RateLimitStore.RateLimitStore
  const local = yield* RateLimitStore.makeMemory()
  let away = false

  const take = (takes: ReadonlyArray<RateLimitStore.Take>) =>
    Effect.matchEffect(store.take(takes), {
      onSuccess: (decisions) => {
        if (!away) return Effect.succeed(decisions)
        away = false
        return Effect.as(Effect.logInfo("The store of rate limits answers again"), decisions)
      },
      onFailure: (error) => {
        const first = !away
        away = true
        const log = first ? Effect.logWarning("The store of rate limits does not answer", error) : Effect.void
        return Effect.andThen(log, onStoreError === "local" ? Effect.orDie(local.take(takes)) : Effect.fail(error))
      }
    })

  const applying = Effect.fnUntraced(function* (request: HttpServerRequest.HttpServerRequest) {
    const found: Array<Applied> = []
    for (const { cost, key = address, name, policy, quoted, when } of rules) {
      if (when !== undefined && !when(request)) continue
      const limit = typeof policy === "function" ? yield* policy(request) : policy
      if (limit === undefined) continue
      const whose = (yield* key(request)) ?? (yield* address(request))
      found.push({ quoted, policy: limit, key: `${name} ${whose}`, cost: cost === undefined ? 1 : cost(request) })
    }
    return found
  })

  return <E, R2>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R2>) =>
    Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
      if (isExempt(request)) return app
      return Effect.gen(function* () {
        const applied = yield* applying(request)
        if (applied.length === 0) return yield* app
        const taken = yield* Effect.result(take(applied))
        if (Result.isFailure(taken)) return ApiError.answer(ApiError.fromRefusal(taken.failure), request)
        const decisions = taken.success
        const headers = headersOf(applied, decisions, reset, yield* Clock.currentTimeMillis)
        if (!decisions.every(({ allowed }) => allowed)) {
          return refusal(decisions).pipe(HttpServerResponse.setHeaders(headers))
        }
        // Not around the app: a failure becomes a response further out.
        yield* HttpEffect.appendPreResponseHandler((_, response) => Effect.succeed(withHeaders(response, headers)))
        return yield* app
      })
    })
})

/** Puts the middleware around all routes of the router. */
export const layer = <R = never>(
  options: Options<R>
): Layer.Layer<
  never,
  never,
  | HttpRouter.HttpRouter
  | RateLimitStore.RateLimitStore
  | HttpRouter.Request.From<"GlobalRequires", Exclude<R, HttpRouter.GlobalProvided>>
> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const router = yield* HttpRouter.HttpRouter
      const middleware = yield* make(options)
      yield* router.addGlobalMiddleware((app) => middleware(app))
    })
  )

/** Counts by the address of the client: IPv6 by the first 64 bits. Those whose address is unknown count as one. */
export const byAddress = (options: ClientAddress.Options = {}): Key => {
  const addressOf = ClientAddress.make(options)
  return (request) => {
    const address = addressOf(request)
    return Effect.succeed(`ip:${address === undefined ? "unknown" : ClientAddress.prefix(address)}`)
  }
}

/** Counts by user, as far as that is known. */
export const byUser =
  <R>(user: (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<string | undefined, never, R>): Key<R> =>
  (request) =>
    Effect.map(user(request), (id) => (id === undefined ? undefined : `user:${id}`))

/** How an API key is recognised. */
export interface ApiKeyOptions<R> {
  /**
   * Whether somebody has this key. A key that nobody has must not count as somebody: with a new one for each request, a
   * client would never reach a limit.
   */
  readonly isKnown: (key: Redacted.Redacted) => Effect.Effect<boolean, never, R>
  /** The header it comes in. Defaults to "x-api-key". */
  readonly header?: string | undefined
}

/** Counts by API key. The store sees its digest (SHA-256). */
export const byApiKey =
  <R>(options: ApiKeyOptions<R>): Key<R> =>
  (request) => {
    const key = request.headers[(options.header ?? "x-api-key").toLowerCase()]
    if (key === undefined || key === "") return Effect.succeed(undefined)
    return Effect.flatMap(options.isKnown(Redacted.make(key)), (known) =>
      known ? Effect.map(sha256Hex(key), (digest) => `key:${digest}`) : Effect.succeed(undefined)
    )
  }

/** Counts by the first of the keys that tells who it is. */
export const firstOf =
  <R>(...keys: ReadonlyArray<Key<R>>): Key<R> =>
  (request) =>
    Effect.gen(function* () {
      for (const key of keys) {
        const found = yield* key(request)
        if (found !== undefined) return found
      }
      return undefined
    })

/**
 * Whether a request is for one of these endpoints, such as `POST /charges`, `GET /users/:id` or `/reports/*`. Paths are
 * compared as a lenient router does: in any case, without a slash at the end, doubled slashes as one, escapes decoded.
 */
export const endpoint = (
  ...endpoints: ReadonlyArray<string>
): ((request: HttpServerRequest.HttpServerRequest) => boolean) => {
  const patterns = endpoints.map((text) => {
    const [, method, path = ""] = /^(?:([A-Z]+) )?(\/.*)$/.exec(text) ?? []
    if (path === "") {
      throw new RangeError(
        `RateLimit: endpoint must be like "POST /charges" or "/reports/*", got ${JSON.stringify(text)}`
      )
    }
    return { method, segments: segmentsOf(path) }
  })
  return (request) => {
    const segments = segmentsOf(pathOf(request))
    return patterns.some(
      (pattern) =>
        (pattern.method === undefined || pattern.method === request.method || isHeadOf(pattern.method, request)) &&
        matches(pattern.segments, segments)
    )
  }
}

/** What the environment says about rate limits. */
export interface Settings {
  readonly enabled: boolean
  readonly policy: RateLimitStore.Policy
  readonly clientAddress: ClientAddress.Options
}

/** Reads `RATE_LIMIT_ENABLED`, `RATE_LIMIT_REQUESTS`, `RATE_LIMIT_WINDOW`, and where the client's address stands. */
export const config: Config.Config<Settings> = Config.all({
  enabled: Config.Boolean("RATE_LIMIT_ENABLED").pipe(Config.withDefault(true)),
  policy: Config.all({
    limit: Config.schema(
      Schema.NumberFromString.check(Schema.isInt(), Schema.isGreaterThan(0)),
      "RATE_LIMIT_REQUESTS"
    ).pipe(Config.withDefault(100)),
    window: Config.schema(
      Schema.NumberFromString.check(Schema.isFinite(), Schema.isGreaterThan(0)),
      "RATE_LIMIT_WINDOW"
    ).pipe(Config.withDefault(60), Config.map(Duration.seconds))
  }),
  clientAddress: ClientAddress.config
})

/**
 * Puts the middleware around all routes, with the rule "default" from the environment before those given here. It does
 * nothing at all when `RATE_LIMIT_ENABLED` is false.
 */
export const layerConfig = <R = never>(
  options: Partial<Options<R>> = {}
): Layer.Layer<
  never,
  Config.ConfigError,
  | HttpRouter.HttpRouter
  | RateLimitStore.RateLimitStore
  | HttpRouter.Request.From<"GlobalRequires", Exclude<R, HttpRouter.GlobalProvided>>
> =>
  Layer.unwrap(
    Effect.map(config, ({ clientAddress, enabled, policy }) =>
      enabled
        ? layer({ clientAddress, ...options, rules: [{ name: "default", policy }, ...(options.rules ?? [])] })
        : Layer.empty
    )
  )

/** A rule that applies to a request. */
interface Applied extends RateLimitStore.Take {
  readonly quoted: string
}

const checkRules = (rules: ReadonlyArray<Rule<never>> | ReadonlyArray<Rule<unknown>>): void => {
  if (rules.length === 0) throw outOfRange("RateLimit", "rules", 0, "at least one")
  const names = new Set<string>()
  for (const { name, policy } of rules) {
    if (!/^[\x20-\x7e]+$/.test(name)) throw outOfRange("RateLimit", "name", JSON.stringify(name), "printable ASCII")
    if (names.has(name)) throw outOfRange("RateLimit", "name", JSON.stringify(name), "another for each rule")
    names.add(name)
    if (typeof policy !== "function") RateLimitStore.checkPolicy(`RateLimit: ${name}`, policy)
  }
}

const refusal = (decisions: ReadonlyArray<RateLimitStore.Decision>) => {
  const wait = Math.max(...decisions.map(({ retryAfter }) => Duration.toSeconds(retryAfter)))
  const seconds = ApiError.retryAfterSeconds(Duration.seconds(wait))
  return HttpServerResponse.jsonUnsafe(
    { detail: "Too many requests", retry_after: seconds ?? null },
    { status: 429, headers: seconds === undefined ? {} : { "retry-after": String(seconds) } }
  )
}

const headersOf = (
  applied: ReadonlyArray<Applied>,
  decisions: ReadonlyArray<RateLimitStore.Decision>,
  reset: "timestamp" | "delay",
  nowMillis: number
): Record<string, string> => {
  // The one that refuses for longest, or else the one with the fewest requests left.
  let tightest = 0
  decisions.forEach((decision, at) => {
    const before = decisions[tightest]!
    const longer = Duration.toMillis(decision.retryAfter) - Duration.toMillis(before.retryAfter)
    const fewer = before.remaining / applied[tightest]!.cost - decision.remaining / applied[at]!.cost
    if (longer > 0 || (longer === 0 && fewer > 0)) tightest = at
  })
  const { remaining, resetAfter } = decisions[tightest]!
  const resetMillis = Duration.toMillis(resetAfter)
  return {
    "x-ratelimit-limit": String(Math.floor(applied[tightest]!.policy.limit)),
    "x-ratelimit-remaining": String(whole(remaining)),
    "x-ratelimit-reset": String(Math.ceil((reset === "timestamp" ? nowMillis + resetMillis : resetMillis) / 1000)),
    "ratelimit-policy": applied
      .map(({ policy, quoted }) => `${quoted};q=${Math.floor(policy.limit)};w=${windowSeconds(policy)}`)
      .join(", "),
    ratelimit: applied
      .map(({ quoted }, at) => {
        const { remaining, resetAfter } = decisions[at]!
        return `${quoted};r=${whole(remaining)};t=${Math.ceil(Duration.toSeconds(resetAfter))}`
      })
      .join(", ")
  }
}

// Several middlewares may be around one route: the inner one's rules stand beside those of the outer one.
const withHeaders = (
  response: HttpServerResponse.HttpServerResponse,
  headers: Record<string, string>
): HttpServerResponse.HttpServerResponse => {
  if (response.headers["ratelimit"] === undefined) return HttpServerResponse.setHeaders(response, headers)
  return HttpServerResponse.setHeaders(response, {
    ratelimit: `${response.headers["ratelimit"]}, ${headers["ratelimit"]}`,
    "ratelimit-policy": `${response.headers["ratelimit-policy"]}, ${headers["ratelimit-policy"]}`
  })
}

// A token that is there but for rounding counts as there.
const whole = (tokens: number): number => Math.floor(tokens + 1e-9)

const windowSeconds = (policy: RateLimitStore.Policy): number =>
  Math.max(1, Math.ceil(Duration.toSeconds(policy.window)))

const segmentsOf = (path: string): ReadonlyArray<string> =>
  path
    .split("/")
    .filter((part) => part !== "")
    .map((part) => Option.getOrElse(decodeSegment(part), () => part).toLowerCase())

// What is no UTF-8 stays as it is, and matches nothing that is.
const decodeSegment = Schema.decodeOption(Schema.StringFromUriComponent)

const matches = (pattern: ReadonlyArray<string>, segments: ReadonlyArray<string>): boolean => {
  for (let i = 0; i < pattern.length; i++) {
    if (pattern[i] === "*" && i === pattern.length - 1) return true
    if (i >= segments.length || !(pattern[i]!.startsWith(":") || pattern[i] === segments[i])) return false
  }
  return pattern.length === segments.length
}

// A router answers HEAD by the route of GET.
const isHeadOf = (method: string, request: HttpServerRequest.HttpServerRequest): boolean =>
  method === "GET" && request.method === "HEAD"
