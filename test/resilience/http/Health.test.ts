import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer, Logger, Ref, Scope, Exit } from "effect"
import { Cache, CircuitBreaker } from "effect-resilience"
import { Health } from "effect-resilience/http"
import { HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "effect-resilience/testing"
import { serveInMemory } from "../../support/httpApp.ts"

const serve = (options: Health.Options = {}, routes: Health.RouteOptions = {}) =>
  serveInMemory(
    Health.layerRoutes(routes).pipe(Layer.provide(Health.layer(options))) as Layer.Layer<
      never,
      never,
      HttpRouter.HttpRouter
    >
  )

const ok: Health.Check = { check: Effect.void }
const failing = (critical?: boolean): Health.Check => ({
  check: Effect.fail("postgres://user:secret@db is away"),
  critical
})

const logged = () => {
  const lines: Array<string> = []
  return { lines, layer: Logger.layer([Logger.map(Logger.formatJson, (line) => void lines.push(line))]) }
}

const plain = (text: string): object => JSON.parse(text) as object
const body = (text: string) => plain(text) as Record<string, Record<string, Record<string, unknown>>>

describe("Health", () => {
  describe("layerRoutes", () => {
    it.effect.each([
      [{}, "healthy", 200],
      [{ db: ok }, "healthy", 200],
      [{ db: failing() }, "unhealthy", 503],
      [{ db: ok, search: failing(false) }, "degraded", 200],
      [{ db: failing(true), search: ok }, "unhealthy", 503],
      [{ db: { check: Effect.succeed({ status: "degraded" as const, message: "slow" }) } }, "degraded", 200],
      [{ db: { check: Effect.succeed({ status: "unhealthy" as const }) } }, "unhealthy", 503],
      [{ db: { check: Effect.die("secret") } }, "unhealthy", 503],
      [{ db: { check: Effect.interrupt } }, "unhealthy", 503]
    ] as ReadonlyArray<readonly [Record<string, Health.Check>, Health.Status, number]>)(
      "case %#: %s",
      ([checks, status, statusCode]) =>
        Effect.gen(function* () {
          const ask = yield* serve({ checks }, { version: "1.2.3", environment: "test" })
          for (const path of ["/health/ready", "/health/detailed"]) {
            const answer = yield* ask(path)
            assert.strictEqual(answer.status, statusCode)
            assert.strictEqual(answer.headers["cache-control"], "no-store")
            assert.deepInclude(plain(answer.body), {
              status,
              version: "1.2.3",
              environment: "test",
              phase: "serving"
            })
            assert.sameMembers(Object.keys(body(answer.body)["components"] ?? {}), Object.keys(checks))
            assert.notInclude(answer.body, "secret")
          }
          for (const path of ["/health", "/health/live"]) assert.strictEqual((yield* ask(path)).status, 200)
        })
    )

    it.effect("says what each component is", () =>
      Effect.gen(function* () {
        const slow = { check: Effect.delay(Effect.succeed({ status: "degraded" as const, message: "slow" }), 30) }
        const ask = yield* serve({ checks: { db: ok, search: slow, mail: failing(false) } })
        const asked = yield* Effect.forkChild(ask("/health/ready"))
        yield* TestClock.adjust(30)
        assert.deepStrictEqual(body((yield* Fiber.join(asked)).body)["components"], {
          db: { status: "healthy", latency_ms: 0, message: "OK", critical: true },
          search: { status: "degraded", latency_ms: 30, message: "slow", critical: true },
          mail: { status: "unhealthy", latency_ms: 0, message: "The check failed", critical: false }
        })
      })
    )

    it.effect("says how long it has been there", () =>
      Effect.gen(function* () {
        yield* TestClock.setTime(1_000)
        const ask = yield* serve({}, { version: "1.2.3" })
        yield* TestClock.adjust("90 seconds")
        assert.deepStrictEqual(plain((yield* ask("/health")).body), {
          status: "ok",
          timestamp: "1970-01-01T00:01:31.000Z",
          uptime: 90,
          version: "1.2.3"
        })
        assert.deepStrictEqual(plain((yield* ask("/health/live")).body), { status: "alive" })
      })
    )

    it.effect.each([
      ["starting", 503],
      ["serving", 200],
      ["draining", 503],
      ["stopping", 503]
    ] as const)("is ready while %s: %d, and asks nobody unless it serves", ([phase, status]) =>
      Effect.gen(function* () {
        const asked = yield* Ref.make(0)
        const checks = { db: { check: Ref.update(asked, (n) => n + 1) } }
        const ask = yield* serve({ checks }, { phase: Effect.succeed(phase) })
        const ready = yield* ask("/health/ready")
        assert.strictEqual(ready.status, status)
        assert.deepInclude(plain(ready.body), { phase })
        assert.strictEqual(yield* Ref.get(asked), phase === "serving" ? 1 : 0)
        assert.strictEqual((yield* ask("/health/live")).status, 200)
      })
    )

    it.effect("shows circuits and caches", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: "10 seconds" } as CircuitBreaker.Options)
        yield* breaker.open("db", "10 seconds")
        yield* breaker.isolate("mail")
        const cache = yield* Cache.make<string, number>({ capacity: 10, timeToLive: "1 minute" })
        const value = Effect.succeed(1)
        for (let i = 0; i < 3; i++) yield* cache.execute({ key: "a" })(value)
        const ask = yield* serve(
          {},
          { circuits: breaker.states, caches: Effect.map(cache.statistics, (answers) => ({ answers })) }
        )
        const circuits = body((yield* ask("/health/circuit-breakers")).body)["circuits"]
        assert.deepInclude(circuits?.["db"], { state: "open", retry_after_seconds: 10 })
        assert.deepInclude(circuits?.["mail"], { state: "isolated" })
        const caches = body((yield* ask("/health/cache")).body)["caches"]
        assert.deepStrictEqual(caches, { answers: { size: 1, hits: 2, misses: 1, hit_rate: 0.6667 } })
        const detailed = body((yield* ask("/health/detailed")).body)
        assert.deepStrictEqual(detailed["caches"], caches)
        assert.deepStrictEqual(detailed["circuits"], circuits)
      })
    )

    it.effect("says that it does not know how often an unused cache hits", () =>
      Effect.gen(function* () {
        const ask = yield* serve({}, { caches: Effect.succeed({ answers: { size: 0, hits: 0, misses: 0 } }) })
        assert.isNull(body((yield* ask("/health/cache")).body)["caches"]?.["answers"]?.["hit_rate"])
      })
    )
  })

  describe("report", () => {
    it.effect("runs the checks side by side", () =>
      Effect.gen(function* () {
        const slow = { check: Effect.sleep("1 second") }
        const health = yield* Health.make({ checks: { a: slow, b: slow, c: slow } })
        const reading = yield* Effect.forkChild(health.report)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(reading)).status, "healthy")
      })
    )

    it.effect("keeps a result for a second, and shares it with all who ask meanwhile", () =>
      Effect.gen(function* () {
        const asked = yield* Ref.make(0)
        const health = yield* Health.make({
          checks: {
            db: {
              check: Effect.delay(
                Ref.update(asked, (n) => n + 1),
                100
              )
            }
          }
        })
        const readings = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 50 }, () => health.report),
            { concurrency: "unbounded" }
          )
        )
        yield* TestClock.adjust(100)
        yield* Fiber.join(readings)
        yield* TestClock.adjust(999)
        yield* health.report
        assert.strictEqual(yield* Ref.get(asked), 1)
        yield* TestClock.adjust(1)
        yield* Effect.forkChild(health.report, { startImmediately: true })
        yield* TestClock.adjust(100)
        assert.strictEqual(yield* Ref.get(asked), 2)
      })
    )

    it.effect("gives a check its time, and interrupts it then", () =>
      Effect.gen(function* () {
        const ended = yield* Deferred.make<void>()
        const check = Effect.onInterrupt(Effect.never, () => Deferred.succeed(ended, undefined))
        const health = yield* Health.make({ checks: { db: { check }, own: { check, timeout: 10, critical: false } } })
        const reading = yield* Effect.forkChild(health.report)
        yield* TestClock.adjust("5 seconds")
        const { components } = yield* Fiber.join(reading)
        assert.deepInclude(components["db"], { status: "unhealthy", latency_ms: 5_000, message: "No answer within 5s" })
        assert.deepInclude(components["own"], { latency_ms: 10, message: "No answer within 10ms" })
        yield* Deferred.await(ended)
      })
    )

    it.effect("does not wait for a check that cannot be interrupted, nor start it twice", () =>
      Effect.gen(function* () {
        const started = yield* Ref.make(0)
        const release = yield* Deferred.make<void>()
        const check = Ref.update(started, (n) => n + 1).pipe(
          Effect.andThen(Deferred.await(release)),
          Effect.uninterruptible
        )
        const health = yield* Health.make({ checks: { db: { check, timeout: 10 } }, cacheFor: 0 })
        const first = yield* Effect.forkChild(health.report)
        yield* TestClock.adjust(10)
        assert.strictEqual((yield* Fiber.join(first)).status, "unhealthy")
        const second = yield* health.report
        assert.strictEqual(second.components["db"]?.message, "The check before has not ended yet")
        assert.strictEqual(yield* Ref.get(started), 1)
        yield* Deferred.succeed(release, undefined)
        yield* Effect.yieldNow
        assert.strictEqual((yield* health.report).status, "healthy")
        assert.strictEqual(yield* Ref.get(started), 2)
      })
    )

    it.effect("logs why a check fails, once for each change", () =>
      Effect.gen(function* () {
        const log = logged()
        const works = yield* Ref.make(false)
        const check = Effect.flatMap(Ref.get(works), (works) => (works ? Effect.void : Effect.fail("no route to it")))
        const health = yield* Health.make({ checks: { db: { check } }, cacheFor: 0 })
        const report = Effect.provide(health.report, log.layer)
        yield* Effect.repeat(report, { times: 3 })
        yield* Ref.set(works, true)
        yield* Effect.repeat(report, { times: 3 })
        assert.lengthOf(log.lines, 2)
        assert.include(log.lines[0], "no route to it")
        assert.include(log.lines[0], "health.failed")
        assert.include(log.lines[1], "health.recovered")
      })
    )

    it.effect("leaves no check running when whoever asks goes away, at any operation", () =>
      Effect.gen(function* () {
        let running = 0
        const check = Effect.acquireUseRelease(
          Effect.sync(() => void running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => void running--)
        )
        const health = yield* Health.make({ checks: { db: { check } }, cacheFor: 0 })
        const operations = yield* interruptEverywhere(
          health.report,
          Effect.gen(function* () {
            for (let i = 0; i < 20; i++) yield* Effect.yieldNow
            assert.strictEqual(running, 0)
            assert.strictEqual((yield* health.report).status, "healthy")
          })
        )
        assert.isAbove(operations, 5)
      })
    )
  })

  describe("register", () => {
    it.effect("adds a check until its scope closes, at once", () =>
      Effect.gen(function* () {
        const health = yield* Health.make({ checks: { db: ok } })
        assert.sameMembers(Object.keys((yield* health.report).components), ["db"])
        const scope = yield* Scope.make()
        yield* Scope.provide(health.register("mail", ok), scope)
        assert.sameMembers(Object.keys((yield* health.report).components), ["db", "mail"])
        yield* Scope.close(scope, Exit.void)
        assert.sameMembers(Object.keys((yield* health.report).components), ["db"])
      })
    )

    it.effect("refuses a name that is taken, and one check too many", () =>
      Effect.gen(function* () {
        const health = yield* Health.make({ checks: { db: ok }, maxChecks: 2 })
        const dies = (name: string, check = ok) => Effect.map(Effect.exit(health.register(name, check)), String)
        assert.include(yield* dies("db"), 'there is a check "db" already')
        assert.include(yield* dies("slow", { ...ok, timeout: Duration.zero }), 'timeout of "slow" must be over zero')
        yield* health.register("mail", ok)
        assert.include(yield* dies("more"), "there can be 2 checks")
        // The check that is there was not removed with the refused one.
        assert.sameMembers(Object.keys((yield* health.report).components), ["db", "mail"])
      })
    )
  })

  describe("make", () => {
    it.effect.each([0, 1.5, Number.NaN])("refuses maxChecks %d", (maxChecks) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Health.make({ maxChecks }))
        assert.include(String(exit), `Health: maxChecks must be an integer >= 1, got ${maxChecks}`)
      })
    )
  })
})
