import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Deferred,
  Effect,
  Fiber,
  Layer,
  Logger,
  Metric,
  Redacted,
  Ref,
  Scope,
  Exit
} from "effect"
import { Cache, CircuitBreaker } from "effect-resilience"
import { Admin, ApiError, LoadShedding, RateLimit, RateLimitStore, RequestContext } from "effect-resilience/http"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpRouter, HttpServerRequest } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory, type Sent } from "../../support/httpApp.ts"

const key = "kEy-of-an-administrator_0123456789"
const wrong = "guessed-kEy_42"
const asAdmin = { "x-admin-key": key }
const post: Sent = { method: "POST", headers: asAdmin }

const world = Effect.gen(function* () {
  const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: "10 seconds" } as CircuitBreaker.Options)
  const cache = yield* Cache.make<string, number>({
    capacity: 10,
    timeToLive: "1 hour",
    tags: (_exit, key) => [key.slice(0, 1)]
  } as Cache.Options<string, number, never>)
  yield* Effect.forEach(["a1", "a2", "b1"], (key) => cache.set(key, 1))
  const reloads = yield* Ref.make(0)
  const targets: Admin.Options = {
    circuits: { lichess: { breaker, key: "secret-key-of-lichess" }, "mail/eu 1": { breaker, key: "mail" } },
    caches: { answers: cache },
    reloads: { providers: Ref.update(reloads, (n) => n + 1) }
  }
  const kept = Effect.filter(["a1", "a2", "b1"], (key) =>
    Effect.map(cache.getIfPresent(key), ({ _tag }) => _tag === "Some")
  )
  return { breaker, cache, kept, reloads: Ref.get(reloads), targets }
})

const routes = (targets: Admin.Options = {}, options: Partial<Admin.RouteOptions> = {}) =>
  Admin.layerRoutes({ key: Redacted.make(key), ...options }).pipe(Layer.provide(Admin.layer(targets)))

const serve = (targets?: Admin.Options, options?: Partial<Admin.RouteOptions>) =>
  serveInMemory(ApiError.around(routes(targets, options)))

const serveFrom = (environment: Record<string, string>) =>
  serveInMemory(
    ApiError.around(Admin.layerRoutesConfig.pipe(Layer.provide(Admin.layer()))).pipe(
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(environment)))
    )
  )

const logged = () => {
  const lines: Array<string> = []
  return { lines, layer: Logger.layer([Logger.map(Logger.formatJson, (line) => void lines.push(line))]) }
}

const read = (body: string) => JSON.parse(body) as Record<string, unknown>

describe("Admin", () => {
  describe("layerRoutes", () => {
    it.effect.each([
      ["GET", "/admin/circuits", asAdmin, 200, undefined],
      ["HEAD", "/admin/circuits", asAdmin, 200, undefined],
      ["GET", "/admin/circuits", { authorization: `Bearer ${key}` }, 200, undefined],
      ["GET", "/admin/circuits", { authorization: `bearer  ${key}` }, 200, undefined],
      // The user has a token of their own.
      ["GET", "/admin/circuits", { authorization: "Bearer of-a-user", ...asAdmin }, 200, undefined],
      ["POST", "/admin/circuits/lichess/reset", asAdmin, 200, undefined],
      ["POST", "/admin/circuits/lichess/isolate", asAdmin, 200, undefined],
      ["POST", "/admin/circuits/lichess/close", asAdmin, 200, undefined],
      ["POST", "/admin/circuits/mail%2Feu%201/close", asAdmin, 200, undefined],
      ["POST", "/admin/caches/answers/invalidate", asAdmin, 200, undefined],
      ["POST", "/admin/limits/reload", asAdmin, 200, undefined],
      ["GET", "/admin/circuits", {}, 401, "UNAUTHENTICATED"],
      ["GET", "/admin/circuits", { "x-admin-key": "" }, 401, "UNAUTHENTICATED"],
      ["GET", "/admin/circuits", { authorization: `Basic ${key}` }, 401, "UNAUTHENTICATED"],
      ["GET", "/admin/circuits", { authorization: "Bearer " }, 401, "UNAUTHENTICATED"],
      ["POST", "/admin/circuits/lichess/reset", {}, 401, "UNAUTHENTICATED"],
      ["POST", "/admin/caches/answers/invalidate", {}, 401, "UNAUTHENTICATED"],
      ["POST", "/admin/limits/reload", {}, 401, "UNAUTHENTICATED"],
      // Who has no key learns of nothing.
      ["POST", "/admin/circuits/unknown/reset", {}, 401, "UNAUTHENTICATED"],
      ["DELETE", "/admin/circuits", {}, 401, "UNAUTHENTICATED"],
      ["GET", "/admin/circuits", { "x-admin-key": wrong }, 403, "FORBIDDEN"],
      ["GET", "/admin/circuits", { "x-admin-key": `${key}0` }, 403, "FORBIDDEN"],
      ["GET", "/admin/circuits", { "x-admin-key": key.slice(0, -1) }, 403, "FORBIDDEN"],
      ["GET", "/admin/circuits", { "x-admin-key": key.toLowerCase() }, 403, "FORBIDDEN"],
      ["GET", "/admin/circuits", { authorization: `Bearer ${wrong}` }, 403, "FORBIDDEN"],
      ["POST", "/admin/circuits/lichess/reset", { "x-admin-key": wrong }, 403, "FORBIDDEN"],
      ["POST", "/admin/caches/answers/invalidate", { "x-admin-key": wrong }, 403, "FORBIDDEN"],
      ["POST", "/admin/limits/reload", { "x-admin-key": wrong }, 403, "FORBIDDEN"],
      ["POST", "/admin/circuits/unknown/reset", asAdmin, 404, "NOT_FOUND"],
      ["POST", "/admin/circuits/lichess/toString", asAdmin, 404, "NOT_FOUND"],
      ["POST", "/admin/circuits/constructor/reset", asAdmin, 404, "NOT_FOUND"],
      ["POST", "/admin/caches/lichess/invalidate", asAdmin, 404, "NOT_FOUND"],
      ["POST", "/admin/nothing", asAdmin, 404, "ROUTE_NOT_FOUND"],
      ["POST", "/admin/circuits", asAdmin, 405, "METHOD_NOT_ALLOWED"],
      ["GET", "/admin/circuits/lichess/reset", asAdmin, 405, "METHOD_NOT_ALLOWED"],
      ["PUT", "/admin/caches/answers/invalidate", asAdmin, 405, "METHOD_NOT_ALLOWED"],
      ["DELETE", "/admin/limits/reload", asAdmin, 405, "METHOD_NOT_ALLOWED"]
    ] as ReadonlyArray<readonly [string, string, Record<string, string>, number, string | undefined]>)(
      "%s %s with %j is answered with %d and %s",
      ([method, path, headers, status, code]) =>
        Effect.gen(function* () {
          const { breaker, kept, reloads, targets } = yield* world
          yield* breaker.isolate("secret-key-of-lichess")
          const ask = yield* serve(targets)
          const answer = yield* ask(path, { method, headers })
          assert.strictEqual(answer.status, status, answer.body)
          if (code !== "ROUTE_NOT_FOUND") assert.strictEqual(answer.headers["cache-control"], "no-store")
          assert.strictEqual(answer.headers["www-authenticate"], status === 401 ? "Bearer" : undefined)
          const allowed = path === "/admin/circuits" ? "GET, HEAD" : "POST"
          assert.strictEqual(answer.headers["allow"], status === 405 ? allowed : undefined)
          for (const secret of [key, wrong, "secret-key-of-lichess"]) assert.notInclude(JSON.stringify(answer), secret)
          if (code === undefined) return
          assert.deepInclude(read(answer.body), { code, statusCode: status })
          // Nothing was done.
          assert.strictEqual((yield* breaker.state("secret-key-of-lichess"))._tag, "Isolated")
          assert.strictEqual((yield* kept).length, 3)
          assert.strictEqual(yield* reloads, 0)
          const problem = yield* ask(path, { method, headers: { ...headers, accept: "application/problem+json" } })
          assert.strictEqual(problem.headers["content-type"], "application/problem+json")
          assert.deepInclude(read(problem.body), { code, status })
        })
    )

    it.effect("answers errors in their form also where nothing is around it", () =>
      Effect.gen(function* () {
        const ask = yield* serveInMemory(routes())
        const accept = "application/problem+json"
        assert.deepInclude(read((yield* ask("/admin/circuits")).body), { code: "UNAUTHENTICATED", statusCode: 401 })
        const problem = yield* ask("/admin/circuits", { headers: { accept } })
        assert.strictEqual(problem.headers["content-type"], accept)
        assert.strictEqual(problem.headers["www-authenticate"], "Bearer")
        assert.deepInclude(read(problem.body), { title: "Unauthorized", status: 401 })
      })
    )

    it.effect("changes a circuit, and says how it is then", () =>
      Effect.gen(function* () {
        const { breaker, targets } = yield* world
        const ask = yield* serve(targets)
        const act = (action: string) =>
          Effect.map(ask(`/admin/circuits/lichess/${action}`, post), ({ body }) => read(body))
        const state = Effect.map(breaker.state("secret-key-of-lichess"), ({ _tag }) => _tag)
        yield* breaker.open("secret-key-of-lichess", "10 seconds")
        const all = yield* ask("/admin/circuits", { headers: asAdmin })
        assert.deepInclude((read(all.body)["circuits"] as Record<string, object>)["lichess"], {
          state: "open",
          retry_after_seconds: 10
        })
        assert.deepInclude(yield* act("isolate"), { circuit: "lichess", action: "isolate", state: "isolated" })
        assert.strictEqual(yield* state, "Isolated")
        assert.deepInclude(yield* act("close"), { action: "close", state: "closed" })
        assert.strictEqual(yield* state, "Closed")
        // A closed circuit remembers how often it opened in a row; one put back to its beginnings does not.
        const openings = Effect.map(breaker.state("secret-key-of-lichess"), (state) =>
          state._tag === "Open" ? state.openings : undefined
        )
        yield* breaker.open("secret-key-of-lichess")
        const before = yield* openings
        assert.deepInclude(yield* act("reset"), { action: "reset", state: "closed" })
        yield* breaker.open("secret-key-of-lichess")
        assert.isAbove(before ?? 0, 1)
        assert.strictEqual(yield* openings, 1)
      })
    )

    it.effect.each([
      ["nothing", undefined, 200, "all", []],
      ["no bytes", "", 200, "all", []],
      ["a key", `{"key":"a1"}`, 200, "key", ["a2", "b1"]],
      ["a key that is not kept", `{"key":"unknown"}`, 200, "key", ["a1", "a2", "b1"]],
      ["a tag", `{"tag":"a"}`, 200, "tag", ["b1"]],
      ["neither", "{}", 400, "body", ["a1", "a2", "b1"]],
      ["another name", `{"keys":"a1"}`, 400, "body", ["a1", "a2", "b1"]],
      ["both", `{"key":"a1","tag":"a"}`, 400, "body", ["a1", "a2", "b1"]],
      ["a number", `{"key":1}`, 400, "body", ["a1", "a2", "b1"]],
      ["a list", `["a1"]`, 400, "body", ["a1", "a2", "b1"]],
      ["no JSON", "{", 400, "body", ["a1", "a2", "b1"]],
      ["a long key", `{"key":"${"a".repeat(8_193)}"}`, 400, "body", ["a1", "a2", "b1"]],
      ["over 16 KiB", `{"key":"${"a".repeat(16_384)}"}`, 413, "body", ["a1", "a2", "b1"]]
    ] as const)("a cache is told %s", ([, body, status, says, left]) =>
      Effect.gen(function* () {
        const { kept, targets } = yield* world
        const ask = yield* serve(targets)
        const answer = yield* ask("/admin/caches/answers/invalidate", { ...post, body })
        assert.strictEqual(answer.status, status, answer.body)
        assert.deepStrictEqual(yield* kept, [...left])
        if (status === 200) assert.deepStrictEqual(read(answer.body), { cache: "answers", invalidated: says })
        else assert.strictEqual((JSON.parse(answer.body) as ApiError.Body).metadata["field"], says)
      })
    )

    it.effect("waits 30 seconds for a body, and no longer", () =>
      Effect.gen(function* () {
        const { kept, targets } = yield* world
        const started = yield* Deferred.make<void>()
        const silent = HttpRouter.middleware(
          (app) =>
            Effect.updateService(app, HttpServerRequest.HttpServerRequest, (request) =>
              Object.create(request, {
                text: { value: Effect.andThen(Deferred.succeed(started, undefined), Effect.never) }
              })
            ),
          { global: true }
        )
        const ask = yield* serveInMemory(ApiError.around(Layer.merge(routes(targets), silent)))
        const asked = yield* Effect.forkChild(ask("/admin/caches/answers/invalidate", post))
        yield* Deferred.await(started)
        yield* TestClock.adjust("29999 millis")
        assert.isUndefined(asked.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* Fiber.join(asked)).status, 408)
        assert.strictEqual((yield* kept).length, 3)
      })
    )

    it.effect("runs all reloads, and says which failed", () =>
      Effect.gen(function* () {
        const { reloads, targets } = yield* world
        const { layer, lines } = logged()
        const failing = { ...targets.reloads, limits: Effect.fail("the file is broken"), more: Effect.die("bug") }
        const good = yield* serve(targets)
        assert.deepStrictEqual(read((yield* good("/admin/limits/reload", post)).body), { reloaded: ["providers"] })
        const ask = yield* serve({ reloads: { limits: failing.limits, more: failing.more, ...targets.reloads } })
        const answer = yield* ask("/admin/limits/reload", post).pipe(Effect.provide(layer))
        assert.strictEqual(answer.status, 500)
        assert.deepInclude(read(answer.body), {
          code: "RELOAD_FAILED",
          metadata: { reloaded: ["providers"], failed: ["limits", "more"] }
        })
        assert.notInclude(answer.body, "broken")
        assert.strictEqual(yield* reloads, 2)
        assert.strictEqual(lines.filter((line) => line.includes("admin.reload.failed")).length, 2)
        const none = yield* serve()
        assert.strictEqual((yield* none("/admin/limits/reload", post)).status, 404)
      })
    )

    it.effect("runs one reload at a time, and gives it up after its time", () =>
      Effect.gen(function* () {
        const started = yield* Deferred.make<void>()
        const ended = yield* Deferred.make<void>()
        const reload = Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Effect.never),
          Effect.onInterrupt(() => Deferred.succeed(ended, undefined))
        )
        const ask = yield* serve({ reloads: { reload } })
        const first = yield* Effect.forkChild(ask("/admin/limits/reload", post))
        yield* Deferred.await(started)
        yield* TestClock.adjust("29999 millis")
        const second = yield* ask("/admin/limits/reload", post)
        assert.strictEqual(second.status, 409)
        assert.deepInclude(read(second.body), { code: "RELOADING" })
        assert.isUndefined(first.pollUnsafe())
        yield* TestClock.adjust(1)
        const answer = yield* Fiber.join(first)
        assert.strictEqual(answer.status, 500)
        assert.deepInclude(read(answer.body), { code: "RELOAD_TIMEOUT" })
        yield* Deferred.await(ended)
      })
    )

    it.effect("runs the next reload wherever the one before was interrupted", () =>
      Effect.gen(function* () {
        const ask = yield* serve({ reloads: { reload: Effect.void } })
        const reload = ask("/admin/limits/reload", post)
        yield* interruptEverywhere(
          reload,
          Effect.map(reload, ({ status }) => assert.strictEqual(status, 200))
        )
      })
    )

    it.effect("logs who did what, and never a key", () =>
      Effect.gen(function* () {
        const { targets } = yield* world
        const { layer, lines } = logged()
        const ask = yield* serveInMemory(Layer.merge(ApiError.around(routes(targets)), RequestContext.layer()))
        const ids = yield* Effect.gen(function* () {
          const answers = [
            yield* ask("/admin/circuits/lichess/isolate", post),
            yield* ask("/admin/caches/answers/invalidate", { ...post, body: `{"key":"key-of-anna"}` }),
            yield* ask("/admin/caches/answers/invalidate", post),
            yield* ask("/admin/limits/reload", post),
            yield* ask("/admin/circuits/lichess/reset", { method: "POST", headers: { "x-admin-key": wrong } }),
            yield* ask("/admin/circuits/unknown/reset", post),
            yield* ask("/admin/circuits", { headers: { authorization: `Bearer ${key}` } })
          ]
          return answers.map(({ headers }) => headers["x-request-id"])
        }).pipe(Effect.provide(layer))
        const events = lines.map((line) => (JSON.parse(line) as { annotations: Record<string, string> }).annotations)
        assert.deepStrictEqual(
          events.map(({ cache, circuit, event, invalidated, outcome, requestId }) =>
            JSON.parse(JSON.stringify({ cache, circuit, event, invalidated, outcome, requestId }))
          ),
          [
            { event: "admin.circuit.isolate", circuit: "lichess", outcome: "done", requestId: ids[0] },
            {
              event: "admin.cache.invalidate",
              cache: "answers",
              invalidated: "key",
              outcome: "done",
              requestId: ids[1]
            },
            {
              event: "admin.cache.invalidate",
              cache: "answers",
              invalidated: "all",
              outcome: "done",
              requestId: ids[2]
            },
            { event: "admin.limits.reload", outcome: "done", requestId: ids[3] },
            { event: "admin.refused", requestId: ids[4] }
          ]
        )
        for (const secret of [key, wrong, "key-of-anna", "secret-key-of-lichess"]) {
          assert.notInclude(lines.join("\n"), secret)
          assert.notInclude(JSON.stringify(yield* Metric.snapshot), secret)
        }
      })
    )

    it.effect("logs an action that dies", () =>
      Effect.gen(function* () {
        const { layer, lines } = logged()
        const cache = {
          invalidate: () => Effect.void,
          invalidateTag: () => Effect.void,
          invalidateAll: Effect.die("x")
        }
        const ask = yield* serve({ caches: { broken: cache } })
        const answer = yield* ask("/admin/caches/broken/invalidate", post).pipe(Effect.provide(layer))
        assert.strictEqual(answer.status, 500)
        assert.isTrue(lines.some((line) => line.includes("admin.cache.invalidate") && line.includes("not finished")))
      })
    )

    it.effect("passes rate limits and load shedding", () =>
      Effect.gen(function* () {
        const { targets } = yield* world
        const limited = RateLimit.layer({ rules: [{ name: "all", policy: { limit: 1, window: "1 minute" } }] }).pipe(
          Layer.provide(RateLimitStore.layerMemory())
        )
        const shedding = LoadShedding.layer({ signals: { queue: Effect.succeed(9) } })
        const ask = yield* serveInMemory(Layer.mergeAll(ApiError.around(routes(targets)), limited, shedding))
        for (let i = 0; i < 3; i++) {
          assert.strictEqual((yield* ask("/admin/circuits/lichess/reset", post)).status, 200)
          assert.strictEqual((yield* ask("/admin/circuits", { headers: asAdmin })).status, 200)
        }
        assert.strictEqual((yield* ask("/other")).status, 503)
      })
    )

    it.effect.each([
      [{ key: Redacted.make("") }, "key"],
      [{ key: Redacted.make("clé secrète") }, "key"],
      [{ timeout: 0 }, "timeout"]
    ] as const)("dies on %j", ([options, field]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.scoped(serve({}, options)))
        assert.isTrue(Exit.hasDies(exit))
        assert.include(String(exit), `Admin: ${field}`)
        assert.notInclude(String(exit), "secr")
      })
    )
  })

  describe("layerRoutesConfig", () => {
    it.effect.each([
      [{}, 404],
      [{ ADMIN_KEY: "" }, 404],
      [{ ADMIN_KEY: key }, 200]
    ] as ReadonlyArray<readonly [Record<string, string>, number]>)(
      "with %j is answered with %d",
      ([environment, status]) =>
        Effect.gen(function* () {
          const ask = yield* serveFrom(environment)
          const answer = yield* ask("/admin/circuits", { headers: asAdmin })
          assert.strictEqual(answer.status, status)
          const without = yield* ask("/admin/circuits")
          assert.strictEqual(without.status, status === 200 ? 401 : 404)
          if (status === 404) {
            for (const path of ["/admin/limits/reload", "/admin/circuits/a/reset", "/admin/caches/a/invalidate"]) {
              assert.strictEqual((yield* ask(path, { ...post, headers: { "x-admin-key": "" } })).status, 404)
            }
          }
        })
    )

    it("fails only with an error of configuration", () => {
      expectTypeOf(Admin.layerRoutesConfig).toEqualTypeOf<
        Layer.Layer<never, Config.ConfigError, Admin.Admin | HttpRouter.HttpRouter>
      >()
    })
  })

  describe("make", () => {
    it.effect("registers until the scope closes", () =>
      Effect.gen(function* () {
        const { breaker, cache } = yield* world
        const admin = yield* Admin.make({ maxNames: 2 })
        const scope = yield* Scope.make()
        yield* Effect.gen(function* () {
          yield* admin.circuit("a", { breaker, key: "a" })
          yield* admin.cache("b", cache)
          yield* admin.reload("c", Effect.void)
        }).pipe(Scope.provide(scope))
        const { caches, circuits, reloads } = yield* admin.targets
        assert.deepStrictEqual(
          [circuits, caches, reloads].map((all) => Object.keys(all)),
          [["a"], ["b"], ["c"]]
        )
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(yield* admin.targets, { circuits: {}, caches: {}, reloads: {} })
      })
    )

    it.effect.each([
      ["", "1 to 100 characters"],
      ["a".repeat(101), "1 to 100 characters"],
      ["taken", "already"],
      ["more", "there can be 1"]
    ] as const)("dies on the name %j", ([name, message]) =>
      Effect.gen(function* () {
        const admin = yield* Admin.make({ maxNames: 1, reloads: { taken: Effect.void } })
        const exit = yield* Effect.exit(Effect.scoped(admin.reload(name, Effect.void)))
        assert.isTrue(Exit.hasDies(exit))
        assert.include(String(exit), message)
        assert.deepStrictEqual(Object.keys((yield* admin.targets).reloads), ["taken"])
      })
    )

    it.effect("takes 1,000 names of a kind", () =>
      Effect.gen(function* () {
        const reloads = Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [`r${i}`, Effect.void]))
        const admin = yield* Admin.make({ reloads })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(Effect.scoped(admin.reload("one more", Effect.void)))))
        assert.isTrue(Exit.hasDies(yield* Effect.exit(Admin.make({ maxNames: 0 }))))
      })
    )
  })
})
