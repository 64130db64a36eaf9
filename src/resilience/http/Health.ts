/**
 * Answers whether a server lives, can work, and on what it depends: for people, load balancers and Kubernetes probes.
 *
 * Checks are named, run side by side, each with its own time, and their result is kept for a moment and shared, so that probes
 * never become load. A check that does not end is not started a second time. When a critical one fails, readiness is 503; it
 * is that too while the server starts and stops. Liveness asks nobody: a restart does not mend a dependency.
 *
 * What a check says itself is shown; why it failed is in the log only, once for each change.
 *
 * | `GET /health` | 200: status, timestamp, uptime in seconds, version | `/health/live` 200, without anything else |
 * | `/health/ready`, `/health/detailed` | 200 or 503: status, version, environment, components; the latter also circuits and caches |
 * | `/health/circuit-breakers`, `/health/cache` | 200: what of them there is |
 * | defaults | `timeout` 5 seconds | critical | `cacheFor` 1 second | 100 checks at most |
 */
import { Cause, Clock, Context, DateTime, Duration, Effect, Exit, Fiber, Layer, Option, type Scope } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import type * as Cache from "../Cache.ts"
import type * as CircuitBreaker from "../CircuitBreaker.ts"
import { circuitBody } from "../internal/http/circuitBody.ts"
import { nowMillisUnsafe } from "../internal/monotonic.ts"

/** The checks of a server. */
export interface Health {
  /** Adds a check until the scope closes. A name that is taken, and one check too many, are defects. */
  readonly register: (name: string, check: Check) => Effect.Effect<void, never, Scope.Scope>
  /** How the components are, as it was found at most `cacheFor` ago. */
  readonly report: Effect.Effect<Report>
}

/** One dependency, and how to see whether it works. */
export interface Check {
  /** Succeeds if it works, with a finding where there is more to say; its failure and its defect mean that it does not. */
  readonly check: Effect.Effect<Finding | void, unknown>
  /** How long it may take: over zero. Defaults to 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** Whether the server can do nothing without it. Defaults to true. */
  readonly critical?: boolean | undefined
}

/** How a component is. */
export type Status = "healthy" | "degraded" | "unhealthy"

/** What a check says. It is shown to everybody. */
export interface Finding {
  readonly status?: Status | undefined
  readonly message?: string | undefined
}

/** One component as it was found. */
export interface Component {
  readonly status: Status
  readonly latency_ms: number
  readonly message: string
  readonly critical: boolean
}

/** All components: unhealthy if a critical one is, degraded if anything else is not healthy. */
export interface Report {
  readonly status: Status
  readonly components: Readonly<Record<string, Component>>
}

/** Where in its life the server is. */
export type Phase = "starting" | "serving" | "draining" | "stopping"

/** What there is to say. */
export interface Options {
  /** The checks that are there from the start. Defaults to none. */
  readonly checks?: Readonly<Record<string, Check>> | undefined
  /** How long a result is kept. Defaults to 1 second. */
  readonly cacheFor?: Duration.Input | undefined
  /** The checks there can be. Defaults to 100. */
  readonly maxChecks?: number | undefined
}

/** Creates the registry. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options = {}): Effect.fn.Return<Health> {
  const cacheFor = Duration.fromInputUnsafe(options.cacheFor ?? "1 second")
  const maxChecks = options.maxChecks ?? 100
  if (!(Number.isInteger(maxChecks) && maxChecks >= 1)) {
    throw new RangeError(`Health: maxChecks must be an integer >= 1, got ${maxChecks}`)
  }
  const entries = new Map<string, Entry>()
  const add = (name: string, check: Check) => {
    if (entries.has(name)) throw new RangeError(`Health: there is a check ${JSON.stringify(name)} already`)
    if (entries.size >= maxChecks) throw new RangeError(`Health: there can be ${maxChecks} checks, not one more`)
    const timeout = Duration.fromInputUnsafe(check.timeout ?? "5 seconds")
    if (!Duration.isGreaterThan(timeout, Duration.zero)) {
      throw new RangeError(
        `Health: timeout of ${JSON.stringify(name)} must be over zero, got ${Duration.format(timeout)}`
      )
    }
    const entry: Entry = { name, check: check.check, timeout, critical: check.critical ?? true }
    entries.set(name, entry)
    return entry
  }
  for (const [name, check] of Object.entries(options.checks ?? {})) add(name, check)

  const [report, invalidate] = yield* Effect.cachedInvalidateWithTTL(
    Effect.suspend(() =>
      Effect.map(
        Effect.forEach(
          [...entries.values()],
          (entry) => Effect.map(find(entry), (found) => [entry.name, found] as const),
          {
            concurrency: "unbounded"
          }
        ),
        (found): Report => {
          const components = Object.fromEntries(found)
          return { status: worst(Object.values(components)), components }
        }
      )
    ),
    cacheFor
  )

  return {
    register: (name, check) =>
      Effect.acquireRelease(
        Effect.andThen(
          Effect.sync(() => add(name, check)),
          (entry) => Effect.as(invalidate, entry)
        ),
        (entry) =>
          Effect.andThen(
            Effect.sync(() => entries.delete(entry.name)),
            invalidate
          )
      ).pipe(Effect.asVoid),
    report
  }
})

/** The registry of a server. */
export const Health = Context.Service<Health>("effect-resilience/http/Health")

/** Provides `Health`. */
export const layer = (options: Options = {}): Layer.Layer<Health> => Layer.effect(Health, make(options))

/** What the endpoints say beside the checks. */
export interface RouteOptions {
  /** The version of the service. Defaults to "unknown". */
  readonly version?: string | undefined
  /** Where it runs, such as "production". Defaults to "unknown". */
  readonly environment?: string | undefined
  /** Where in its life the server is, as `Shutdown` says. Defaults to "serving". */
  readonly phase?: Effect.Effect<Phase> | undefined
  /** The circuits, such as `breaker.states`. Defaults to none. */
  readonly circuits?: Effect.Effect<ReadonlyArray<CircuitBreaker.State>> | undefined
  /** The caches by name, such as `cache.statistics` of each. Defaults to none. */
  readonly caches?: Effect.Effect<Readonly<Record<string, CacheStatistics>>> | undefined
}

/** What is said of a cache. */
export type CacheStatistics = Pick<Cache.Statistics, "size" | "hits" | "misses">

/** Adds the endpoints. */
export const layerRoutes = (options: RouteOptions = {}): Layer.Layer<never, never, Health | HttpRouter.HttpRouter> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const health = yield* Health
      const { environment = "unknown", phase = Effect.succeed("serving" as const), version = "unknown" } = options
      const startedAt = yield* Effect.withFiberSucceed(nowMillisUnsafe)
      const time = Effect.withFiberSucceed((fiber) => {
        const millis = fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
        return {
          timestamp: DateTime.formatIso(DateTime.makeUnsafe(millis)),
          uptime: Math.floor((nowMillisUnsafe(fiber) - startedAt) / 1_000)
        }
      })
      const circuits = Effect.map(options.circuits ?? Effect.succeed([]), (states) => ({
        circuits: Object.fromEntries(states.map((state) => [state.key, circuitBody(state)]))
      }))
      const caches = Effect.map(
        options.caches ?? Effect.succeed({}),
        (all: Readonly<Record<string, CacheStatistics>>) => ({
          caches: Object.fromEntries(Object.entries(all).map(([name, statistics]) => [name, cacheBody(statistics)]))
        })
      )
      const readiness = Effect.gen(function* () {
        const current = yield* phase
        if (current !== "serving")
          return { status: "unhealthy" as const, phase: current, version, environment, components: {} }
        const { components, status } = yield* health.report
        return { status, phase: current, version, environment, components }
      })
      const route = (path: HttpRouter.PathInput, body: Effect.Effect<Readonly<Record<string, unknown>>>) =>
        HttpRouter.add(
          "GET",
          path,
          Effect.map(body, (json) =>
            HttpServerResponse.jsonUnsafe(json, {
              status: json["status"] === "unhealthy" ? 503 : 200,
              headers: { "cache-control": "no-store" }
            })
          )
        )
      return Layer.mergeAll(
        route(
          "/health",
          Effect.map(time, (time) => ({ status: "ok", ...time, version }))
        ),
        route("/health/live", Effect.succeed({ status: "alive" })),
        route("/health/ready", readiness),
        // All of it, whatever the phase: it is for people.
        route(
          "/health/detailed",
          Effect.gen(function* () {
            const { components, status } = yield* health.report
            return {
              status,
              phase: yield* phase,
              version,
              environment,
              ...(yield* time),
              components,
              ...(yield* circuits),
              ...(yield* caches)
            }
          })
        ),
        route("/health/circuit-breakers", circuits),
        route("/health/cache", caches)
      )
    })
  )

/** A check, and what is under way of it. */
interface Entry {
  readonly name: string
  readonly check: Effect.Effect<Finding | void, unknown>
  readonly timeout: Duration.Duration
  readonly critical: boolean
  running?: Fiber.Fiber<Finding | void, unknown>
  failing?: boolean
}

const find = (entry: Entry): Effect.Effect<Component> =>
  Effect.withFiber((fiber) => {
    const { critical, timeout } = entry
    const startedAt = nowMillisUnsafe(fiber)
    const component = (status: Status, message: string): Component => ({
      status,
      latency_ms: Math.round(nowMillisUnsafe(fiber) - startedAt),
      message,
      critical
    })
    // It could not be ended when its time was over.
    if (entry.running !== undefined && entry.running.pollUnsafe() === undefined) {
      return Effect.succeed(component("unhealthy", "The check before has not ended yet"))
    }
    // On a fiber of its own: one that cannot be interrupted must not hold up the report.
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        Effect.forkDetach(
          Effect.suspend(() => entry.check),
          { startImmediately: true }
        ),
        (running) => {
          entry.running = running
          return restore(Effect.timeoutOption(Fiber.await(running), timeout)).pipe(
            Effect.ensuring(Effect.sync(() => running.interruptUnsafe()))
          )
        }
      )
    ).pipe(
      Effect.flatMap(
        Option.match({
          onNone: () =>
            Effect.as(
              changed(entry, Cause.fail(`No answer within ${Duration.format(timeout)}`)),
              component("unhealthy", `No answer within ${Duration.format(timeout)}`)
            ),
          onSome: (exit) =>
            Effect.as(
              changed(entry, Exit.isFailure(exit) ? exit.cause : undefined),
              Exit.isFailure(exit)
                ? component("unhealthy", "The check failed")
                : component(exit.value?.status ?? "healthy", exit.value?.message ?? "OK")
            )
        })
      )
    )
  })

const changed = (entry: Entry, cause: Cause.Cause<unknown> | undefined): Effect.Effect<void> =>
  Effect.suspend(() => {
    const was = entry.failing === true
    entry.failing = cause !== undefined
    if (was === entry.failing) return Effect.void
    const said = { event: cause === undefined ? "health.recovered" : "health.failed", check: entry.name }
    return Effect.annotateLogs(
      cause === undefined
        ? Effect.logInfo("A health check passes again")
        : Effect.logWarning("A health check fails", cause),
      said
    )
  })

const worst = (components: ReadonlyArray<Component>): Status =>
  components.some(({ critical, status }) => critical && status === "unhealthy")
    ? "unhealthy"
    : components.some(({ status }) => status !== "healthy")
      ? "degraded"
      : "healthy"

const cacheBody = ({ hits, misses, size }: CacheStatistics) => ({
  size,
  hits,
  misses,
  hit_rate: hits + misses === 0 ? null : Math.round((hits / (hits + misses)) * 10_000) / 10_000
})
