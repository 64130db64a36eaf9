import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, type Config, ConfigProvider, Context, Effect, Exit, Layer } from "effect"
import { RateLimit, RateLimitStore } from "effect-resilience/http"
import { HttpClient, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory } from "../../support/httpApp.ts"

const limit = (requests: number, window: RateLimitStore.Policy["window"] = "1 minute"): RateLimitStore.Policy => ({
  limit: requests,
  window
})

const ok = (path: HttpRouter.PathInput) => HttpRouter.add("*", path, HttpServerResponse.text("ok"))

const routes = Layer.mergeAll(
  ok("/a"),
  ok("/b"),
  ok("/health"),
  ok("/health/ready"),
  ok("/metrics"),
  ok("/admin/limits/reload"),
  ok("/users/:id"),
  HttpRouter.add("GET", "/dies", Effect.die(new Error("broken")))
)

const serve = <E>(
  limits: Layer.Layer<never, E, HttpRouter.HttpRouter | RateLimitStore.RateLimitStore>,
  store: Layer.Layer<RateLimitStore.RateLimitStore> = RateLimitStore.layerMemory()
) => serveInMemory(Layer.merge(routes, limits).pipe(Layer.provide(store)))

const statuses = <E>(ask: Effect.Effect<{ readonly status: number }, E>, times: number) =>
  Effect.map(Effect.all(Array.from({ length: times }, () => ask)), (all) => all.map(({ status }) => status))

const away: Layer.Layer<RateLimitStore.RateLimitStore> = Layer.succeed(RateLimitStore.RateLimitStore, {
  take: () => Effect.fail(new RateLimitStore.RateLimitStoreError({ cause: "gone" }))
})

describe("RateLimit", () => {
  describe("layer", () => {
    it.effect("says on every response what is left, and refuses with a body that says when", () =>
      Effect.gen(function* () {
        const ask = yield* serve(RateLimit.layer({ rules: [{ name: "default", policy: limit(2) }] }))
        yield* TestClock.setTime(1_000_000_000_500)
        const first = yield* ask("/a")
        assert.deepInclude(first.headers, {
          "x-ratelimit-limit": "2",
          "x-ratelimit-remaining": "1",
          "x-ratelimit-reset": "1000000061",
          "ratelimit-policy": '"default";q=2;w=60',
          ratelimit: '"default";r=1;t=60'
        })
        assert.notProperty(first.headers, "retry-after")
        yield* TestClock.adjust("15 seconds")
        yield* ask("/a")
        const refused = yield* ask("/b")
        assert.strictEqual(refused.status, 429)
        assert.strictEqual(refused.body, '{"detail":"Too many requests","retry_after":45}')
        assert.deepInclude(refused.headers, {
          "content-type": "application/json",
          "retry-after": "45",
          "x-ratelimit-limit": "2",
          "x-ratelimit-remaining": "0",
          "x-ratelimit-reset": "1000000076",
          ratelimit: '"default";r=0;t=60'
        })
        yield* TestClock.adjust("44999 millis")
        assert.strictEqual((yield* ask("/a")).status, 429)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* ask("/a")).status, 200)
      })
    )

    it.effect.each([
      ["/a", 200, true],
      ["/nowhere", 404, true],
      ["/dies", 500, true],
      ["/health", 200, false],
      ["/health/ready", 200, false],
      ["/metrics", 200, false],
      ["/admin/limits/reload", 200, false],
      ["/metrics?x=1", 200, false],
      ["/healthy", 404, true],
      ["/HEALTH", 200, true]
    ] as const)("%s answers %d and is limited: %s", ([path, status, limited]) =>
      Effect.gen(function* () {
        const ask = yield* serve(RateLimit.layer({ rules: [{ name: "default", policy: limit(1) }] }))
        const first = yield* ask(path)
        assert.strictEqual(first.status, status)
        assert.strictEqual(first.headers["x-ratelimit-limit"] === "1", limited)
        assert.strictEqual(first.headers["ratelimit"] !== undefined, limited)
        assert.strictEqual((yield* ask(path)).status, limited ? 429 : status)
      })
    )

    it.effect("takes of all rules or of none", () =>
      Effect.gen(function* () {
        const ask = yield* serve(
          RateLimit.layer({
            rules: [
              { name: "all", policy: limit(4) },
              { name: "users", policy: limit(1, "10 seconds"), when: RateLimit.endpoint("/users/*") }
            ]
          })
        )
        const first = yield* ask("/users/1")
        assert.strictEqual(first.headers["ratelimit-policy"], '"all";q=4;w=60, "users";q=1;w=10')
        assert.strictEqual(first.headers["ratelimit"], '"all";r=3;t=60, "users";r=0;t=10')
        // The one with the fewest left.
        assert.strictEqual(first.headers["x-ratelimit-limit"], "1")
        assert.deepStrictEqual(
          yield* statuses(ask("/users/1"), 10),
          Array.from({ length: 10 }, () => 429)
        )
        const other = yield* ask("/a")
        assert.strictEqual(other.headers["x-ratelimit-remaining"], "2")
        assert.deepStrictEqual(yield* statuses(ask("/a"), 3), [200, 200, 429])
      })
    )

    it.effect("counts by address, IPv6 by its first 64 bits, and believes trusted proxies only", () =>
      Effect.gen(function* () {
        const ask = yield* serve(
          RateLimit.layer({
            rules: [{ name: "default", policy: limit(1) }],
            clientAddress: { trustedProxies: ["10.0.0.0/8"] }
          })
        )
        const from = (address: string, forwarded?: string) =>
          Effect.map(
            ask("/a", { from: address, headers: forwarded === undefined ? {} : { "x-forwarded-for": forwarded } }),
            ({ status }) => status
          )
        assert.strictEqual(yield* from("198.51.100.1"), 200)
        assert.strictEqual(yield* from("198.51.100.1", "6.6.6.6"), 429)
        assert.strictEqual(yield* from("::ffff:198.51.100.1"), 429)
        assert.strictEqual(yield* from("10.0.0.1", "6.6.6.6, 198.51.100.1"), 429)
        assert.strictEqual(yield* from("10.0.0.1", "198.51.100.2"), 200)
        assert.strictEqual(yield* from("2001:db8:1:2::1"), 200)
        assert.strictEqual(yield* from("2001:db8:1:2:ffff::9"), 429)
        assert.strictEqual(yield* from("2001:db8:1:3::1"), 200)
      })
    )

    it.effect("counts by user, else by a key that somebody has, else by address", () =>
      Effect.gen(function* () {
        const key = RateLimit.firstOf(
          RateLimit.byUser((request) => Effect.succeed(request.headers["x-user"])),
          RateLimit.byApiKey({ isKnown: () => Effect.succeed(false), header: "X-Other-Key" }),
          RateLimit.byApiKey({ isKnown: (key) => Effect.succeed(String(key).length > 0 && true) })
        )
        const known = RateLimit.byApiKey({ isKnown: () => Effect.succeed(true) })
        const request = HttpServerRequest.fromWeb(new Request("http://localhost/", { headers: { "x-api-key": "abc" } }))
        const name = yield* known(request)
        assert.strictEqual(name, "key:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        const ask = yield* serve(RateLimit.layer({ rules: [{ name: "default", policy: limit(1), key }] }))
        const as = (headers: Record<string, string>) => Effect.map(ask("/a", { headers }), ({ status }) => status)
        assert.strictEqual(yield* as({ "x-user": "ann" }), 200)
        assert.strictEqual(yield* as({ "x-user": "ann", "x-api-key": "1" }), 429)
        assert.strictEqual(yield* as({ "x-user": "bob" }), 200)
        assert.strictEqual(yield* as({ "x-api-key": "1" }), 200)
        assert.strictEqual(yield* as({ "x-api-key": "1" }), 429)
        assert.strictEqual(yield* as({}), 200)
        // Keys that nobody has count by address, however many there are.
        assert.strictEqual(yield* as({ "x-other-key": "2" }), 429)
        assert.strictEqual(yield* as({ "x-other-key": "3" }), 429)
      })
    )

    it.effect("a tier has its own limit, and may have none; a request can cost more", () =>
      Effect.gen(function* () {
        const tiers: Record<string, RateLimitStore.Policy> = { free: limit(2), premium: limit(5) }
        const ask = yield* serve(
          RateLimit.layer({
            rules: [
              {
                name: "tier",
                policy: (request) => Effect.succeed(tiers[request.headers["x-tier"] ?? "free"]),
                key: RateLimit.byUser((request) => Effect.succeed(request.headers["x-tier"])),
                cost: (request) => (request.method === "POST" ? 2 : 1)
              }
            ]
          })
        )
        const as = (tier: string, method = "GET") => ask("/a", { method, headers: { "x-tier": tier } })
        assert.deepStrictEqual(yield* statuses(as("free"), 3), [200, 200, 429])
        assert.strictEqual((yield* as("premium", "POST")).headers["x-ratelimit-remaining"], "3")
        assert.deepStrictEqual(yield* statuses(as("premium", "POST"), 2), [200, 429])
        const internal = yield* as("internal")
        assert.strictEqual(internal.status, 200)
        assert.notProperty(internal.headers, "x-ratelimit-limit")
      })
    )

    it.effect("tells no time to who can never get through", () =>
      Effect.gen(function* () {
        const ask = yield* serve(RateLimit.layer({ rules: [{ name: "default", policy: limit(1), cost: () => 2 }] }))
        const refused = yield* ask("/a")
        assert.strictEqual(refused.body, '{"detail":"Too many requests","retry_after":null}')
        assert.notProperty(refused.headers, "retry-after")
      })
    )

    it.effect("X-RateLimit-Reset can be a delay", () =>
      Effect.gen(function* () {
        const ask = yield* serve(RateLimit.layer({ rules: [{ name: "d", policy: limit(1) }], reset: "delay" }))
        assert.strictEqual((yield* ask("/a")).headers["x-ratelimit-reset"], "60")
      })
    )

    it.effect("without the store counts in the process, or refuses", () =>
      Effect.gen(function* () {
        const rules = [{ name: "default", policy: limit(2) }]
        const ask = yield* serve(RateLimit.layer({ rules }), away)
        assert.deepStrictEqual(yield* statuses(ask("/a"), 3), [200, 200, 429])
        const strict = yield* serve(RateLimit.layer({ rules, onStoreError: "refuse" }), away)
        const refused = yield* strict("/a")
        assert.strictEqual(refused.status, 503)
        assert.strictEqual(refused.headers["retry-after"], "1")
        const said = {
          code: "STORE_UNAVAILABLE",
          metadata: {},
          error: "The limits cannot be checked now",
          statusCode: 503
        }
        assert.deepStrictEqual(JSON.parse(refused.body), said)
        const problem = yield* strict("/a", { headers: { accept: "application/problem+json" } })
        assert.strictEqual(problem.headers["content-type"], "application/problem+json")
        assert.deepInclude(JSON.parse(problem.body), { status: 503, detail: said.error, code: said.code })
        assert.strictEqual((yield* strict("/health")).status, 200)
      })
    )

    it.effect("refuses with the same body, whatever is accepted", () =>
      Effect.gen(function* () {
        const ask = yield* serve(RateLimit.layer({ rules: [{ name: "default", policy: limit(1) }] }))
        yield* ask("/a")
        const answer = yield* ask("/a", { headers: { accept: "application/problem+json" } })
        assert.strictEqual(answer.status, 429)
        assert.strictEqual(answer.headers["content-type"], "application/json")
        assert.deepStrictEqual(JSON.parse(answer.body), { detail: "Too many requests", retry_after: 60 })
      })
    )

    it.effect("a middleware of one route stands beside the one around all", () =>
      Effect.gen(function* () {
        const middleware = yield* RateLimit.make({ rules: [{ name: "inner", policy: limit(1) }] })
        const inner = HttpRouter.add("GET", "/inner", HttpServerResponse.text("ok")).pipe(
          Layer.provide(HttpRouter.middleware((app) => middleware(app)).layer)
        )
        const outer = RateLimit.layer({ rules: [{ name: "outer", policy: limit(5) }] })
        const ask = yield* serve(Layer.merge(inner, outer))
        const first = yield* ask("/inner")
        assert.strictEqual(first.headers["ratelimit"], '"outer";r=4;t=60, "inner";r=0;t=60')
        assert.strictEqual((yield* ask("/inner")).status, 429)
        assert.strictEqual((yield* ask("/a")).headers["x-ratelimit-remaining"], "2")
      }).pipe(Effect.provide(RateLimitStore.layerMemory()))
    )

    it.effect.each([
      [[], "RateLimit: rules must be at least one, got 0"],
      [[{ name: "é", policy: limit(1) }], 'RateLimit: name must be printable ASCII, got "é"'],
      [
        [
          { name: "a", policy: limit(1) },
          { name: "a", policy: limit(2) }
        ],
        'RateLimit: name must be another for each rule, got "a"'
      ],
      [[{ name: "a", policy: limit(0) }], "RateLimit: a: limit must be a finite number >= 1, got 0"]
    ] as const)("dies on %j", ([rules, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(RateLimit.make({ rules }))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.strictEqual((Cause.squash(exit.cause) as RangeError).message, message)
      }).pipe(Effect.provide(RateLimitStore.layerMemory()))
    )
  })

  describe("endpoint", () => {
    it.each([
      ["POST /charges", "POST", "/charges", true],
      ["POST /charges", "GET", "/charges", false],
      ["POST /charges", "POST", "/charges/", true],
      ["POST /charges", "POST", "//charges?x", true],
      ["POST /charges", "POST", "/%63harges", true],
      ["POST /charges", "POST", "/Charges", true],
      ["POST /charges", "POST", "/charges/1", false],
      ["/users/:id", "GET", "/users/7", true],
      ["/users/:id", "GET", "/users", false],
      ["/users/*", "GET", "/users/7/games", true],
      ["/users/*", "GET", "/users", true],
      ["/users/*", "GET", "/user", false],
      ["GET /a", "HEAD", "/a", true],
      ["/", "GET", "/", true]
    ])("%s: %s %s is %s", (pattern, method, path, expected) => {
      const request = HttpServerRequest.fromWeb(new Request(`http://localhost${path}`, { method }))
      assert.strictEqual(RateLimit.endpoint(pattern)(request), expected)
    })

    it("throws for what is no endpoint", () => {
      assert.throws(() => RateLimit.endpoint("charges"), RangeError, '"charges"')
    })
  })

  describe("layerConfig", () => {
    const withEnv = (env: Record<string, string>) =>
      Layer.provide(RateLimit.layerConfig(), ConfigProvider.layer(ConfigProvider.fromEnvRecord(env)))

    it.effect("has the defaults of 100 requests in 60 seconds", () =>
      Effect.gen(function* () {
        const ask = yield* serve(withEnv({}))
        assert.strictEqual((yield* ask("/a")).headers["ratelimit-policy"], '"default";q=100;w=60')
      })
    )

    it.effect("reads the limit, and can be switched off", () =>
      Effect.gen(function* () {
        const ask = yield* serve(withEnv({ RATE_LIMIT_REQUESTS: "3", RATE_LIMIT_WINDOW: "10" }))
        assert.strictEqual((yield* ask("/a")).headers["ratelimit-policy"], '"default";q=3;w=10')
        const off = yield* serve(withEnv({ RATE_LIMIT_ENABLED: "false", RATE_LIMIT_REQUESTS: "1" }))
        assert.deepStrictEqual(yield* statuses(off("/a"), 3), [200, 200, 200])
      })
    )

    it.effect.each([
      ["RATE_LIMIT_REQUESTS", "0"],
      ["RATE_LIMIT_REQUESTS", "1.5"],
      ["RATE_LIMIT_WINDOW", "-1"],
      ["RATE_LIMIT_WINDOW", "soon"],
      ["RATE_LIMIT_ENABLED", "perhaps"]
    ] as const)("names %s when it is %s", ([name, value]) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(Effect.scoped(serve(withEnv({ [name]: value }))))
        assert.include(String(error), name)
      })
    )
  })

  describe("on a socket", () => {
    it.live("limits real connections", () =>
      Effect.gen(function* () {
        const answers = []
        for (let i = 0; i < 3; i++) answers.push(yield* HttpClient.get("/a"))
        assert.deepStrictEqual(
          answers.map(({ headers, status }) => [status, headers["x-ratelimit-remaining"]]),
          [
            [200, "1"],
            [200, "0"],
            [429, "0"]
          ]
        )
        assert.deepStrictEqual(yield* answers[2]!.json, { detail: "Too many requests", retry_after: 60 })
      }).pipe(
        Effect.provide(
          HttpRouter.serve(Layer.merge(routes, RateLimit.layer({ rules: [{ name: "default", policy: limit(2) }] })), {
            disableLogger: true,
            disableListenLog: true
          }).pipe(Layer.provide(RateLimitStore.layerMemory()), Layer.provideMerge(NodeHttpServer.layerTest))
        )
      )
    )
  })

  it("has exact types", () => {
    class Users extends Context.Service<Users, { readonly current: Effect.Effect<string> }>()("Users") {}
    const key = RateLimit.byUser(() => Users.use(({ current }) => current))
    expectTypeOf(RateLimit.layer({ rules: [{ name: "a", policy: limit(1) }] })).toEqualTypeOf<
      Layer.Layer<never, never, HttpRouter.HttpRouter | RateLimitStore.RateLimitStore>
    >()
    expectTypeOf(RateLimit.layer({ rules: [{ name: "a", policy: limit(1), key }] })).toEqualTypeOf<
      Layer.Layer<
        never,
        never,
        HttpRouter.HttpRouter | RateLimitStore.RateLimitStore | HttpRouter.Request<"GlobalRequires", Users>
      >
    >()
    expectTypeOf(RateLimit.config).toExtend<Config.Config<RateLimit.Settings>>()
  })
})
