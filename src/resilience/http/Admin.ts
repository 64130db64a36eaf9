/**
 * Lets an operator mend a running server: circuits, caches and limits, by name and with a key.
 *
 * What can be administered is registered by name. Without `ADMIN_KEY` the addresses do not exist; with it each request has to
 * bring it, as `Authorization: Bearer` or `X-Admin-Key`. Digests are compared, in a time that does not depend on where they
 * differ, and the key is in no log, error or metric. Each action is logged with its request id, without keys of caches.
 *
 * Limits and load shedding let these addresses pass by default, for they are needed when all else is refused: so choose a key
 * that nobody can guess.
 *
 * | `GET /admin/circuits` | how the circuits are | `POST /admin/circuits/{name}/reset`, `/isolate`, `/close` |
 * | `POST /admin/caches/{name}/invalidate` | all of it, or what `{"key"}` or `{"tag"}` names | `POST /admin/limits/reload` |
 * | 400 a body that makes no sense | 401 no key | 403 a wrong one | 404 an unknown name | 405 another method | 413 a large body |
 * | 408 a body that does not come | 409 a reload runs already | 500 a reload failed | defaults: 1,000 names of a kind, 30 seconds |
 */
import {
  ByteSize,
  Config,
  Context,
  Duration,
  Effect,
  Exit,
  Layer,
  Option,
  Redacted,
  Schema,
  type Scope,
  Semaphore
} from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import type { CircuitBreaker } from "../CircuitBreaker.ts"
import { circuitBody } from "../internal/http/circuitBody.ts"
import { sha256Hex } from "../internal/sha256.ts"
import * as ApiError from "./ApiError.ts"
import * as RequestContext from "./RequestContext.ts"

/** What can be administered. A name that is taken, one too many, and one that no address can have are defects. */
export interface Admin {
  /** Lets a circuit be administered until the scope closes. */
  readonly circuit: (name: string, circuit: Circuit) => Effect.Effect<void, never, Scope.Scope>
  /** Lets a cache be administered until the scope closes. */
  readonly cache: (name: string, cache: Cache) => Effect.Effect<void, never, Scope.Scope>
  /** Adds to what a reload of the limits does, until the scope closes. */
  readonly reload: (name: string, reload: Reload) => Effect.Effect<void, never, Scope.Scope>
  /** Reads what is registered now. */
  readonly targets: Effect.Effect<Targets>
}

/** One circuit of a breaker. */
export interface Circuit {
  readonly breaker: Pick<CircuitBreaker, "state" | "reset" | "isolate" | "close">
  readonly key: string
}

/** What is asked of a cache: any `Cache` whose keys are strings. */
export interface Cache {
  readonly invalidate: (key: string) => Effect.Effect<void>
  readonly invalidateTag: (tag: string) => Effect.Effect<void>
  readonly invalidateAll: Effect.Effect<void>
}

/** Reads limits anew and puts them in force, such as `providers.reload(profiles)`. Its failure is logged, and not shown. */
export type Reload = Effect.Effect<unknown, unknown>

/** What can be administered, by name. */
export interface Targets {
  readonly circuits: Readonly<Record<string, Circuit>>
  readonly caches: Readonly<Record<string, Cache>>
  readonly reloads: Readonly<Record<string, Reload>>
}

/** What there is from the start. */
export interface Options extends Partial<Targets> {
  /** Names of each kind at most: an integer of at least 1. Defaults to 1,000. */
  readonly maxNames?: number | undefined
}

/** Creates the registry. Options that make no sense are a defect, not an error. */
export const make = (options: Options = {}): Effect.Effect<Admin> =>
  Effect.sync(() => {
    const maxNames = options.maxNames ?? 1_000
    if (!(Number.isInteger(maxNames) && maxNames >= 1)) {
      throw new RangeError(`Admin: maxNames must be an integer >= 1, got ${maxNames}`)
    }
    const circuits = registry("circuit", maxNames, options.circuits)
    const caches = registry("cache", maxNames, options.caches)
    const reloads = registry("reload", maxNames, options.reloads)
    return {
      circuit: circuits.register,
      cache: caches.register,
      reload: reloads.register,
      targets: Effect.sync(() => ({ circuits: circuits.read(), caches: caches.read(), reloads: reloads.read() }))
    }
  })

/** What can be administered of a server. */
export const Admin = Context.Service<Admin>("effect-resilience/http/Admin")

/** Provides `Admin`. */
export const layer = (options: Options = {}): Layer.Layer<Admin> => Layer.effect(Admin, make(options))

/** Who may administer. */
export interface RouteOptions {
  /** What a request has to bring: printable ASCII. */
  readonly key: Redacted.Redacted<string>
  /** How long all reloads may take, and a body to come: over zero. Defaults to 30 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** Adds the endpoints. Options that make no sense are a defect, not an error; it does not show the key. */
export const layerRoutes = (options: RouteOptions): Layer.Layer<never, never, Admin | HttpRouter.HttpRouter> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const timeout = Duration.fromInputUnsafe(options.timeout ?? "30 seconds")
      if (!Duration.isGreaterThan(timeout, Duration.zero)) {
        throw new RangeError(`Admin: timeout must be over zero, got ${Duration.format(timeout)}`)
      }
      if (!/^[\x21-\x7e]+$/.test(Redacted.value(options.key))) {
        throw new RangeError("Admin: key must be printable ASCII without spaces, and not empty")
      }
      const { targets } = yield* Admin
      const expected = yield* sha256Hex(Redacted.value(options.key))

      const authenticate = Effect.fnUntraced(function* ({ headers }: HttpServerRequest.HttpServerRequest) {
        const given = headers["x-admin-key"] ?? /^bearer +(\S+)$/i.exec(headers["authorization"] ?? "")?.[1]
        if (given === undefined || given === "") {
          return yield* new ApiError.Unauthenticated({ error: "The key of an administrator is required" })
        }
        if (isSame(yield* sha256Hex(given), expected)) return
        yield* logged("admin.refused", "A wrong key of an administrator was refused", {})
        return yield* new ApiError.Forbidden({ error: "This is not the key of an administrator" })
      })

      // Who has no key does not learn which names there are, nor which methods.
      const route = <R>(
        path: HttpRouter.PathInput,
        methods: ReadonlyArray<string>,
        action: Effect.Effect<unknown, ApiError.ApiError, R>
      ) =>
        HttpRouter.add("*", path, (request) =>
          authenticate(request).pipe(
            Effect.andThen(
              Effect.suspend((): Effect.Effect<unknown, ApiError.ApiError, R> =>
                methods.includes(request.method) ? action : Effect.fail(new ApiError.MethodNotAllowed({}))
              )
            ),
            Effect.match({
              onFailure: (error) =>
                HttpServerResponse.setHeaders(ApiError.answer(error, request), wanted(error, methods)),
              onSuccess: (body) => HttpServerResponse.jsonUnsafe(body)
            }),
            Effect.map(HttpServerResponse.setHeader("cache-control", "no-store"))
          )
        )

      const states = Effect.gen(function* () {
        const { circuits } = yield* targets
        const found = yield* Effect.forEach(Object.entries(circuits), ([name, { breaker, key }]) =>
          Effect.map(breaker.state(key), (state) => [name, circuitBody(state)] as const)
        )
        return { circuits: Object.fromEntries(found) }
      })

      const change = Effect.gen(function* () {
        const { action = "", name = "" } = yield* HttpRouter.params
        if (!isCircuitAction(action)) return yield* new ApiError.NotFound({ metadata: { field: "action" } })
        const { breaker, key } = yield* named("circuit", (yield* targets).circuits, name)
        yield* audited(breaker[action](key), `admin.circuit.${action}`, { circuit: name })
        return { circuit: name, action, ...circuitBody(yield* breaker.state(key)) }
      })

      const invalidate = Effect.gen(function* () {
        const { name = "" } = yield* HttpRouter.params
        const cache = yield* named("cache", (yield* targets).caches, name)
        const what = yield* readInvalidation(timeout)
        const [invalidated, invalidation] =
          what === undefined
            ? (["all", cache.invalidateAll] as const)
            : "key" in what
              ? (["key", cache.invalidate(what.key)] as const)
              : (["tag", cache.invalidateTag(what.tag)] as const)
        yield* audited(invalidation, "admin.cache.invalidate", { cache: name, invalidated })
        return { cache: name, invalidated }
      })

      const reload = Effect.gen(function* () {
        const entries = Object.entries((yield* targets).reloads)
        if (entries.length === 0) return yield* new ApiError.NotFound({ error: "There is nothing to reload" })
        const results = yield* audited(
          Effect.forEach(entries, ([name, reload]) =>
            Effect.map(tried(name, reload), (succeeded) => ({ name, succeeded }))
          ),
          "admin.limits.reload",
          {}
        ).pipe(Effect.timeoutOption(timeout))
        if (results._tag === "None") {
          return yield* new ApiError.InternalError({
            code: "RELOAD_TIMEOUT",
            error: `The reload was given up after ${Duration.format(timeout)}`
          })
        }
        const reloaded = results.value.filter(({ succeeded }) => succeeded).map(({ name }) => name)
        const failed = results.value.filter(({ succeeded }) => !succeeded).map(({ name }) => name)
        if (failed.length === 0) return { reloaded }
        return yield* new ApiError.InternalError({
          code: "RELOAD_FAILED",
          error: "Not everything could be reloaded",
          metadata: { reloaded, failed }
        })
      })
      const oneReload = yield* Effect.map(Semaphore.make(1), (semaphore) =>
        Effect.flatMap(
          semaphore.withPermitsIfAvailable(1)(reload),
          Option.match({
            onNone: () => Effect.fail(new ApiError.Conflict({ code: "RELOADING", error: "A reload runs already" })),
            onSome: (body) => Effect.succeed(body)
          })
        )
      )

      return Layer.mergeAll(
        route("/admin/circuits", ["GET", "HEAD"], states),
        route("/admin/circuits/:name/:action", ["POST"], change),
        route("/admin/caches/:name/invalidate", ["POST"], invalidate),
        route("/admin/limits/reload", ["POST"], oneReload)
      )
    })
  )

/** Adds the endpoints if `ADMIN_KEY` is set, and not empty. */
export const layerRoutesConfig: Layer.Layer<never, Config.ConfigError, Admin | HttpRouter.HttpRouter> = Layer.unwrap(
  Effect.map(Config.option(Config.Redacted("ADMIN_KEY")), (key) =>
    Option.isSome(key) && Redacted.value(key.value) !== "" ? layerRoutes({ key: key.value }) : Layer.empty
  )
)

const registry = <A>(kind: string, maxNames: number, initial: Readonly<Record<string, A>> = {}) => {
  const entries = new Map<string, A>()
  const add = (name: string, entry: A) => {
    // The longest part of a path that a router reads.
    if (name.length < 1 || name.length > 100) {
      throw new RangeError(`Admin: the name of a ${kind} must have 1 to 100 characters, got ${JSON.stringify(name)}`)
    }
    if (entries.has(name)) throw new RangeError(`Admin: there is a ${kind} ${JSON.stringify(name)} already`)
    if (entries.size >= maxNames) throw new RangeError(`Admin: there can be ${maxNames} of ${kind}, not one more`)
    entries.set(name, entry)
  }
  for (const [name, entry] of Object.entries(initial)) add(name, entry)
  return {
    register: (name: string, entry: A): Effect.Effect<void, never, Scope.Scope> =>
      Effect.acquireRelease(
        Effect.sync(() => add(name, entry)),
        () => Effect.sync(() => entries.delete(name))
      ),
    read: (): Readonly<Record<string, A>> => Object.fromEntries(entries)
  }
}

const named = <A>(
  kind: string,
  all: Readonly<Record<string, A>>,
  name: string
): Effect.Effect<A, ApiError.NotFound> => {
  const found = Object.hasOwn(all, name) ? all[name] : undefined
  return found === undefined
    ? Effect.fail(new ApiError.NotFound({ error: `There is no ${kind} of this name`, metadata: { field: "name" } }))
    : Effect.succeed(found)
}

const circuitActions = ["reset", "isolate", "close"] as const

const isCircuitAction = (action: string): action is (typeof circuitActions)[number] =>
  circuitActions.some((known) => known === action)

const text = Schema.String.check(Schema.isMaxLength(8_192))

// An empty object names nothing: a mistake must not clear a whole cache.
const Invalidation = Schema.Union([Schema.Struct({ key: text }), Schema.Struct({ tag: text })])

const decodeInvalidation = Schema.decodeOption(Schema.fromJsonString(Invalidation))

const readInvalidation = (timeout: Duration.Duration) =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const body = yield* request.text.pipe(ApiError.orInvalid("body"))
    if (body === "") return undefined
    const decoded = decodeInvalidation(body, { onExcessProperty: "error" })
    if (decoded._tag === "Some") return decoded.value
    return yield* new ApiError.InvalidRequest({
      error: 'body: must be {"key": "…"} or {"tag": "…"}, or nothing for all of the cache',
      metadata: { field: "body" }
    })
  }).pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.kibibytes(16)),
    Effect.timeoutOrElse({ duration: timeout, orElse: () => Effect.fail(new ApiError.RequestTimeout({})) })
  )

const tried = (name: string, reload: Reload): Effect.Effect<boolean> =>
  Effect.flatMap(Effect.exit(reload), (exit) =>
    Exit.isSuccess(exit)
      ? Effect.succeed(true)
      : Effect.as(
          Effect.annotateLogs(Effect.logError("Limits could not be reloaded", exit.cause), {
            event: "admin.reload.failed",
            reload: name
          }),
          false
        )
  )

// Also when it dies or is interrupted: it may have been done.
const audited = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  event: string,
  what: Readonly<Record<string, string>>
): Effect.Effect<A, E, R> =>
  Effect.onExit(self, (exit) =>
    logged(event, "An administrator has acted", { ...what, outcome: Exit.isSuccess(exit) ? "done" : "not finished" })
  )

const logged = (event: string, message: string, what: Readonly<Record<string, string>>): Effect.Effect<void> =>
  Effect.flatMap(RequestContext.current, (context) =>
    Effect.annotateLogs(event === "admin.refused" ? Effect.logWarning(message) : Effect.logInfo(message), {
      event,
      ...what,
      ...(context === undefined ? {} : { requestId: context.requestId })
    })
  )

// RFC 9110, 11.6.1 and 15.5.6.
const wanted = (error: ApiError.ApiError, methods: ReadonlyArray<string>): Record<string, string> =>
  error.statusCode === 401
    ? { "www-authenticate": "Bearer" }
    : error.statusCode === 405
      ? { allow: methods.join(", ") }
      : {}

// Looks at every digit. Both are digests, so of one length.
const isSame = (a: string, b: string): boolean => {
  let differs = a.length ^ b.length
  for (let i = 0; i < a.length; i++) differs |= a.charCodeAt(i) ^ b.charCodeAt(i)
  return differs === 0
}
