import { request as httpRequest } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Ref, Scope, Stream } from "effect"
import { Idempotency, IdempotencyStore } from "effect-resilience/http"
import * as Sql from "effect-resilience/http/Idempotency/Sql"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import * as SqliteClient from "../../../src/chess/SqliteClient.ts"
import { type Answer, type Ask, serveInMemory } from "../../support/httpApp.ts"
import { interruptCaller } from "../support/interruptCaller.ts"

const start = { startImmediately: true } as const

type Handler = Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  unknown,
  HttpServerRequest.HttpServerRequest | Scope.Scope
>

const routes = (handler: Handler) =>
  Layer.mergeAll(
    HttpRouter.add("*", "/charges", handler),
    HttpRouter.add("*", "/accounts/:id", handler)
  ) as Layer.Layer<never, never, HttpRouter.HttpRouter>

/** Routes of which each runs the handler once for each key. */
const serve = (handler: Handler, options: Idempotency.Options = {}, store = IdempotencyStore.layerMemory()) =>
  serveInMemory(routes(handler).pipe(Layer.provide(Idempotency.layer(options)), Layer.provide(store)) as App)

type App = Layer.Layer<never, never, HttpRouter.HttpRouter>

/** A handler that counts, and answers with its count. */
const counting = (respond: (count: number) => Handler = answer) => {
  let count = 0
  return { handler: Effect.suspend(() => respond(++count)), runs: () => count }
}

const answer = (count: number) => HttpServerResponse.json({ charge: count }, { status: 201 })

const post = (
  ask: Ask,
  key: string | undefined,
  body = "{}",
  path = "/charges",
  headers: Record<string, string> = {}
) =>
  ask(path, { method: "POST", body, headers: { ...headers, ...(key === undefined ? {} : { "idempotency-key": key }) } })

const codeOf = ({ body }: { readonly body: string }) => (JSON.parse(body) as { code?: string }).code

describe("Idempotency", () => {
  describe("layer", () => {
    it.effect("gives a repeat the stored status, headers, cookies and bytes, and runs once", () =>
      Effect.gen(function* () {
        const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
        const { handler, runs } = counting(() =>
          Effect.succeed(
            HttpServerResponse.uint8Array(bytes, {
              status: 202,
              contentType: "application/x-odd",
              headers: { location: "/charges/1", "x-own": 'ü",' }
            }).pipe(
              HttpServerResponse.setCookieUnsafe("a", "1", { path: "/", httpOnly: true }),
              HttpServerResponse.setCookieUnsafe("b", "2")
            )
          )
        )
        const ask = yield* serve(handler)
        const first = yield* post(ask, "k1")
        const second = yield* post(ask, "k1")
        assert.strictEqual(first.status, 202)
        assert.notProperty(first.headers, "x-idempotent-replayed")
        assert.deepStrictEqual(second, {
          ...first,
          headers: { ...first.headers, "x-idempotent-replayed": "true" }
        })
        assert.lengthOf(first.cookies, 2)
        assert.strictEqual(runs(), 1)
        yield* post(ask, "k2")
        assert.strictEqual(runs(), 2)
      })
    )

    it.effect("gives a repeat an empty answer as empty", () =>
      Effect.gen(function* () {
        const { handler } = counting(() => Effect.succeed(HttpServerResponse.empty({ status: 204 })))
        const ask = yield* serve(handler)
        yield* post(ask, "k")
        const second = yield* post(ask, "k")
        assert.strictEqual(second.status, 204)
        assert.strictEqual(second.body, "")
      })
    )

    it.effect.each([
      ["missing, and not required", undefined, false, 201, undefined],
      ["missing, and required", undefined, true, 400, "IDEMPOTENCY_KEY_MISSING"],
      ["empty", "", false, 400, "IDEMPOTENCY_KEY_INVALID"],
      ["empty in quotes", '""', false, 400, "IDEMPOTENCY_KEY_INVALID"],
      ["of one character", "!", true, 201, undefined],
      ["of 255 characters", "x".repeat(255), true, 201, undefined],
      ["of 256 characters", "x".repeat(256), true, 400, "IDEMPOTENCY_KEY_INVALID"],
      ["with a space", "a b", true, 400, "IDEMPOTENCY_KEY_INVALID"],
      ["not ASCII", "clé", true, 400, "IDEMPOTENCY_KEY_INVALID"]
    ] as const)("a key %s", ([, key, required, status, code]) =>
      Effect.gen(function* () {
        const { handler, runs } = counting()
        const ask = yield* serve(handler, { required })
        const response = yield* post(ask, key)
        assert.strictEqual(response.status, status)
        assert.strictEqual(codeOf(response), code)
        assert.strictEqual(runs(), status === 201 ? 1 : 0)
        if (code !== undefined) {
          const { error, ...said } = JSON.parse(response.body) as { readonly error: string }
          assert.deepStrictEqual(said, { code, statusCode: 400, metadata: { header: "Idempotency-Key" } } as object)
          const problem = yield* post(ask, key, "{}", "/charges", { accept: "application/problem+json" })
          assert.strictEqual(problem.headers["content-type"], "application/problem+json")
          assert.deepStrictEqual(JSON.parse(problem.body), {
            type: "about:blank",
            title: "Bad Request",
            status: 400,
            detail: error,
            code,
            metadata: { header: "Idempotency-Key" }
          })
        }
      })
    )

    it.effect("reads a key in quotes as the same", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting()
        const ask = yield* serve(handler)
        yield* post(ask, '"8e03978e"')
        assert.strictEqual((yield* post(ask, "8e03978e")).headers["x-idempotent-replayed"], "true")
        assert.strictEqual(runs(), 1)
      })
    )

    it.effect.each([
      ["another body", "{} ", "/charges", {}, 422],
      ["another query", "{}", "/charges?a=1", {}, 422],
      ["another user", "{}", "/charges", { authorization: "Bearer b" }, 201],
      ["another API key", "{}", "/charges", { "x-api-key": "b" }, 201],
      ["another endpoint", "{}", "/accounts/1", {}, 201],
      ["the same", "{}", "/charges", {}, 201]
    ] as const)("with %s", ([_, body, path, headers, status]) =>
      Effect.gen(function* () {
        const { handler, runs } = counting()
        const ask = yield* serve(handler)
        yield* post(ask, "k")
        const response = yield* post(ask, "k", body, path, headers)
        assert.strictEqual(response.status, status)
        assert.strictEqual(codeOf(response), status === 422 ? "IDEMPOTENCY_KEY_REUSED" : undefined)
        assert.strictEqual(runs(), status === 201 && _ !== "the same" ? 2 : 1)
      })
    )

    it.effect("of one endpoint with another path is another request", () =>
      Effect.gen(function* () {
        const ask = yield* serve(counting().handler)
        yield* post(ask, "k", "{}", "/accounts/1")
        assert.strictEqual((yield* post(ask, "k", "{}", "/accounts/2")).status, 422)
      })
    )

    it.effect("is for POST and PATCH, or for what it is told", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting()
        const ask = yield* serve(handler)
        const headers = { "idempotency-key": "k" }
        for (let i = 0; i < 2; i++) yield* ask("/charges", { method: "GET", headers })
        for (let i = 0; i < 2; i++) yield* ask("/charges", { method: "PUT", headers })
        assert.strictEqual(runs(), 4)
        for (let i = 0; i < 2; i++) yield* ask("/charges", { method: "PATCH", headers })
        assert.strictEqual(runs(), 5)
        const other = yield* serve(handler, { when: ({ method }) => method === "PUT" })
        for (let i = 0; i < 2; i++) yield* other("/charges", { method: "PUT", headers })
        assert.strictEqual(runs(), 6)
      })
    )

    it.effect("refuses a repeat while the first runs, and replays it then", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const { handler, runs } = counting((count) => Effect.andThen(Deferred.await(gate), answer(count)))
        const ask = yield* serve(handler)
        const first = yield* Effect.forkChild(post(ask, "k"), start)
        yield* until(() => runs() === 1)
        const second = yield* post(ask, "k")
        assert.strictEqual(second.status, 409)
        assert.strictEqual(codeOf(second), "IDEMPOTENCY_KEY_IN_USE")
        assert.strictEqual(second.headers["retry-after"], "5")
        assert.strictEqual((yield* post(ask, "k", "other")).status, 422)
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* Fiber.join(first)).status, 201)
        assert.strictEqual((yield* post(ask, "k")).headers["x-idempotent-replayed"], "true")
        assert.strictEqual(runs(), 1)
      })
    )

    it.effect.each([
      [200, true],
      [303, true],
      [400, true],
      [402, true],
      [404, true],
      [409, true],
      [408, false],
      [425, false],
      [429, false],
      [500, false],
      [503, false]
    ] as const)("keeps %d: %s", ([status, kept]) =>
      Effect.gen(function* () {
        const { handler, runs } = counting(() => Effect.succeed(HttpServerResponse.empty({ status })))
        const ask = yield* serve(handler)
        for (let i = 0; i < 2; i++) assert.strictEqual((yield* post(ask, "k")).status, status)
        assert.strictEqual(runs(), kept ? 1 : 2)
      })
    )

    it.effect("keeps what it is told to keep", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting(() => Effect.succeed(HttpServerResponse.empty({ status: 404 })))
        const ask = yield* serve(handler, { keeps: (status) => status < 400 })
        for (let i = 0; i < 2; i++) yield* post(ask, "k")
        assert.strictEqual(runs(), 2)
      })
    )

    it.effect.each([
      ["fails", Effect.fail("boom")],
      ["dies", Effect.die(new Error("boom"))],
      ["is interrupted by itself", Effect.interrupt]
    ] as const)("a handler that %s is run again", ([, effect]) =>
      Effect.gen(function* () {
        const { handler, runs } = counting((count) => (count === 1 ? effect : answer(count)))
        const ask = yield* serve(handler)
        assert.isAtLeast((yield* post(ask, "k")).status, 500)
        assert.strictEqual((yield* post(ask, "k")).status, 201)
        assert.strictEqual(runs(), 2)
      })
    )

    it.effect("a client that hangs up does not stop the first attempt, and its repeat finds the answer", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const closed = yield* Ref.make(false)
        const { handler, runs } = counting((count) =>
          Effect.gen(function* () {
            yield* Effect.addFinalizer(() => Ref.set(closed, true))
            yield* Deferred.await(gate)
            return yield* answer(count)
          })
        )
        const ask = yield* serve(handler)
        const first = yield* Effect.forkChild(post(ask, "k"), start)
        yield* until(() => runs() === 1)
        yield* Fiber.interrupt(first)
        assert.strictEqual((yield* post(ask, "k")).status, 409)
        assert.isFalse(yield* Ref.get(closed))
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* ended(post(ask, "k"))).headers["x-idempotent-replayed"], "true")
        assert.isTrue(yield* Ref.get(closed))
        assert.strictEqual(runs(), 1)
      })
    )

    it.effect("renews the lease while the handler runs, and lets it end when the holder has died", () =>
      Effect.gen(function* () {
        const store = yield* IdempotencyStore.makeMemory()
        const gate = yield* Deferred.make<void>()
        const { handler, runs } = counting((count) => Effect.andThen(Deferred.await(gate), answer(count)))
        const layer = Layer.succeed(IdempotencyStore.IdempotencyStore, store)
        const ask = yield* serve(handler, {}, layer)
        const first = yield* Effect.forkChild(post(ask, "k"), start)
        yield* until(() => runs() === 1)
        for (let i = 0; i < 10; i++) {
          yield* TestClock.adjust("11 seconds")
          assert.strictEqual((yield* post(ask, "k")).status, 409)
        }
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* Fiber.join(first)).status, 201)
        assert.strictEqual(runs(), 1)

        // A process that dies renews nothing.
        const mute = { ...store, renew: () => Effect.succeed(true) }
        const silent = counting(() => Effect.never)
        const dying = yield* serve(silent.handler, {}, Layer.succeed(IdempotencyStore.IdempotencyStore, mute))
        yield* Effect.forkChild(post(dying, "d"), start)
        yield* until(() => silent.runs() === 1)
        yield* TestClock.adjust("29999 millis")
        assert.strictEqual((yield* post(ask, "d")).status, 409)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual((yield* post(ask, "d")).status, 201)
      })
    )

    it.effect("keeps answers for 24 hours", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting()
        const ask = yield* serve(handler)
        yield* post(ask, "k")
        yield* TestClock.adjust(Duration.subtract(Duration.hours(24), Duration.millis(1)))
        yield* post(ask, "k")
        assert.strictEqual(runs(), 1)
        yield* TestClock.adjust("1 millis")
        yield* post(ask, "k")
        assert.strictEqual(runs(), 2)
      })
    )

    it.effect("gives up an attempt that takes longer than maxDuration", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting((count) => (count === 1 ? Effect.never : answer(count)))
        const ask = yield* serve(handler)
        const first = yield* Effect.forkChild(post(ask, "k"), start)
        yield* until(() => runs() === 1)
        yield* TestClock.adjust("2 minutes")
        const response = yield* Fiber.join(first)
        assert.strictEqual(response.status, 504)
        assert.strictEqual(codeOf(response), "IDEMPOTENT_REQUEST_TIMEOUT")
        assert.strictEqual((yield* post(ask, "k")).status, 201)
      })
    )

    it.effect("gives keys up when the server stops", () =>
      Effect.gen(function* () {
        const store = yield* IdempotencyStore.makeMemory()
        const layer = Layer.succeed(IdempotencyStore.IdempotencyStore, store)
        const scope = yield* Scope.make()
        const { handler, runs } = counting((count) => (count === 1 ? Effect.never : answer(count)))
        const first = yield* Scope.provide(serve(handler, {}, layer), scope)
        yield* Effect.forkChild(post(first, "k"), start)
        yield* until(() => runs() === 1)
        yield* Scope.close(scope, Exit.void)
        const second = yield* serve(handler, {}, layer)
        assert.strictEqual((yield* post(second, "k")).status, 201)
        assert.strictEqual(runs(), 2)
      })
    )

    it.effect.each([
      ["a large body", Effect.succeed(HttpServerResponse.text("x".repeat(1001)))],
      [
        "a stream",
        Effect.map(Effect.scope, (scope) =>
          HttpServerResponse.stream(
            Stream.fromEffect(
              Effect.sync(() => new TextEncoder().encode(scope.state._tag === "Closed" ? "closed" : "x".repeat(1001)))
            )
          )
        )
      ]
    ] as const)("%s is answered in full, and a repeat is told that it is gone", ([, respond]) =>
      Effect.gen(function* () {
        const { handler, runs } = counting(() => respond)
        const ask = yield* serve(handler, { maxBodyBytes: 1_000 })
        assert.lengthOf((yield* post(ask, "k")).body, 1001)
        const second = yield* post(ask, "k")
        assert.strictEqual(second.status, 409)
        assert.strictEqual(codeOf(second), "IDEMPOTENT_RESPONSE_NOT_KEPT")
        assert.notProperty(second.headers, "retry-after")
        assert.strictEqual(runs(), 1)
      })
    )

    it.effect("the handler reads the body that was read for the fingerprint", () =>
      Effect.gen(function* () {
        const ask = yield* serve(
          HttpServerRequest.HttpServerRequest.use((request) => Effect.map(request.text, HttpServerResponse.text))
        )
        assert.strictEqual((yield* post(ask, "k", "as it came")).body, "as it came")
      })
    )

    it.effect("without the store nothing is carried out; an answer that cannot be kept is given", () =>
      Effect.gen(function* () {
        const gone = Effect.fail(new IdempotencyStore.IdempotencyStoreError({ cause: "gone" }))
        const memory = yield* IdempotencyStore.makeMemory()
        const { handler, runs } = counting()
        const away = yield* serve(
          handler,
          {},
          Layer.succeed(IdempotencyStore.IdempotencyStore, { ...memory, begin: () => gone })
        )
        const refused = yield* post(away, "k")
        assert.strictEqual(refused.status, 503)
        assert.strictEqual(refused.headers["retry-after"], "1")
        assert.strictEqual(codeOf(refused), "STORE_UNAVAILABLE")
        const problem = yield* post(away, "k", "{}", "/charges", { accept: "application/problem+json" })
        assert.strictEqual(problem.headers["content-type"], "application/problem+json")
        assert.strictEqual(runs(), 0)
        let tries = 0
        const flaky = yield* serve(
          handler,
          {},
          Layer.succeed(IdempotencyStore.IdempotencyStore, {
            ...memory,
            complete: (...all) => Effect.suspend(() => (++tries < 3 ? gone : memory.complete(...all)))
          })
        )
        const first = yield* Effect.forkChild(post(flaky, "k"), start)
        for (const [failed, wait] of [
          [1, "50 millis"],
          [2, "100 millis"]
        ] as const) {
          yield* until(() => tries === failed)
          yield* TestClock.adjust(wait)
        }
        assert.strictEqual((yield* Fiber.join(first)).status, 201)
        assert.strictEqual((yield* post(flaky, "k")).headers["x-idempotent-replayed"], "true")
      })
    )

    it.effect("a client that hangs up at any operation blocks no key, and nothing runs twice", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting()
        const ask = yield* serve(handler)
        let keys = 0
        const operations = yield* interruptCaller(
          Effect.sync(() => {
            const key = `k${++keys}`
            return () =>
              Effect.gen(function* () {
                assert.strictEqual((yield* ended(post(ask, key))).status, 201)
                assert.strictEqual(runs(), keys)
              })
          }),
          Effect.suspend(() => post(ask, `k${keys}`))
        )
        assert.isAbove(operations, 10)
      })
    )

    it.effect("1,000 requests with 100 keys run 100 times", () =>
      Effect.gen(function* () {
        const { handler, runs } = counting((count) => Effect.andThen(Effect.yieldNow, answer(count)))
        const ask = yield* serve(handler)
        const all = yield* Effect.all(
          Array.from({ length: 1_000 }, (_, i) => post(ask, `k${i % 100}`)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(runs(), 100)
        assert.sameMembers([...new Set(all.map(({ status }) => status))], [201, 409])
      })
    )

    it.effect.each([
      [{ lease: 0 }, "Idempotency: lease must be a finite duration over zero, got 0"],
      [{ timeToLive: 1 }, "Idempotency: timeToLive must be at least the lease, got 1"],
      [{ maxDuration: 0 }, "Idempotency: maxDuration must be over zero, got 0"],
      [{ maxBodyBytes: -1 }, "Idempotency: maxBodyBytes must be zero or more, got -1"],
      [{ transactional: true }, "Idempotency: transactional must be false for this store, got true"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.scoped(Idempotency.make(options)))
        assert.strictEqual(Exit.isFailure(exit) && (Cause.squash(exit.cause) as RangeError).message, message)
      }).pipe(Effect.provide(IdempotencyStore.layerMemory()))
    )
  })

  describe("with transactions", () => {
    const Database = Sql.layer().pipe(Layer.provideMerge(SqliteClient.layerMemory))

    const charge = (sql: SqlClient.SqlClient, status: number): Handler =>
      Effect.gen(function* () {
        yield* sql`INSERT INTO charge (amount) VALUES (100)`
        const rows = yield* sql<{ n: number }>`SELECT count(*) AS n FROM charge`
        return yield* HttpServerResponse.json(rows[0], { status })
      })

    const prepare = Effect.fnUntraced(function* (handler: (sql: SqlClient.SqlClient, count: number) => Handler) {
      const sql = yield* SqlClient.SqlClient
      const store = yield* IdempotencyStore.IdempotencyStore
      yield* sql`CREATE TABLE charge (amount INTEGER)`
      const counted = counting((count) => handler(sql, count))
      const ask = yield* serve(counted.handler, {}, Layer.succeed(IdempotencyStore.IdempotencyStore, store))
      const charges = Effect.map(sql<{ n: number }>`SELECT count(*) AS n FROM charge`, ([row]) => row!.n)
      return { ask, charges, runs: counted.runs }
    })

    it.effect.each([
      [201, 1, 1],
      [402, 0, 1],
      [429, 0, 2],
      [500, 0, 2]
    ] as const)("an answer of %d leaves %d charges, and two requests run %d times", ([status, left, times]) =>
      Effect.gen(function* () {
        const { ask, charges, runs } = yield* prepare((sql) => charge(sql, status))
        for (let i = 0; i < 2; i++) assert.strictEqual((yield* post(ask, "k")).status, status)
        assert.strictEqual(yield* charges, left)
        assert.strictEqual(runs(), times)
      }).pipe(Effect.provide(Database))
    )

    it.effect.each([
      ["fails", Effect.fail("boom")],
      ["dies", Effect.die(new Error("boom"))],
      ["is interrupted", Effect.interrupt]
    ] as const)("a handler that %s after its work leaves nothing", ([, effect]) =>
      Effect.gen(function* () {
        const { ask, charges, runs } = yield* prepare((sql, count) =>
          count === 1 ? Effect.andThen(charge(sql, 201), effect as Handler) : charge(sql, 201)
        )
        assert.isAtLeast((yield* post(ask, "k")).status, 500)
        assert.strictEqual(yield* charges, 0)
        assert.strictEqual((yield* post(ask, "k")).status, 201)
        assert.strictEqual(yield* charges, 1)
        assert.strictEqual(runs(), 2)
      }).pipe(Effect.provide(Database))
    )

    it.effect("an attempt that takes too long leaves nothing", () =>
      Effect.gen(function* () {
        const { ask, charges, runs } = yield* prepare((sql, count) =>
          count === 1 ? Effect.andThen(charge(sql, 201), Effect.never) : charge(sql, 201)
        )
        const first = yield* Effect.forkChild(post(ask, "k"), start)
        yield* until(() => runs() === 1)
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual((yield* Fiber.join(first)).status, 504)
        assert.strictEqual(yield* charges, 0)
        assert.strictEqual((yield* post(ask, "k")).status, 201)
      }).pipe(Effect.provide(Database))
    )

    it.effect("who has lost the lease changes nothing", () =>
      Effect.gen(function* () {
        const { ask, charges } = yield* prepare((sql) =>
          // As if it had been suspended for so long that somebody else took the key.
          Effect.tap(charge(sql, 201), () => sql`UPDATE idempotency_key SET token = 'another'`)
        )
        assert.strictEqual((yield* post(ask, "k")).status, 409)
        assert.strictEqual(yield* charges, 0)
      }).pipe(Effect.provide(Database))
    )

    it.effect("1,000 requests with 100 keys charge 100 times", () =>
      Effect.gen(function* () {
        const { ask, charges } = yield* prepare((sql) => charge(sql, 201))
        const all = yield* Effect.all(
          Array.from({ length: 1_000 }, (_, i) => post(ask, `k${i % 100}`)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(yield* charges, 100)
        assert.isTrue(all.every(({ status }) => status === 201 || status === 409))
        const bodies = yield* Effect.forEach(Array.from({ length: 100 }), (_, i) => post(ask, `k${i}`))
        assert.strictEqual(new Set(bodies.map(({ body }) => body)).size, 100)
        assert.isTrue(bodies.every(({ headers }) => headers["x-idempotent-replayed"] === "true"))
      }).pipe(Effect.provide(Database))
    )

    it.effect("interrupted at any operation, of the client or the attempt, charges once", () =>
      Effect.gen(function* () {
        const { ask, charges } = yield* prepare((sql) => charge(sql, 201))
        const keys = yield* Ref.make(0)
        yield* interruptEverywhere(
          Effect.flatMap(
            Ref.updateAndGet(keys, (n) => n + 1),
            (n) => post(ask, `k${n}`)
          ),
          Effect.gen(function* () {
            assert.strictEqual((yield* ended(post(ask, `k${yield* Ref.get(keys)}`))).status, 201)
            assert.strictEqual(yield* charges, yield* Ref.get(keys))
          })
        )
      }).pipe(Effect.provide(Database))
    )
  })

  describe("on a socket", () => {
    it.live("goes on when the client hangs up", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const began = yield* Deferred.make<void>()
        const { handler, runs } = counting((count) =>
          Deferred.succeed(began, undefined).pipe(Effect.andThen(Deferred.await(gate)), Effect.andThen(answer(count)))
        )
        yield* Layer.build(
          HttpRouter.serve(
            routes(handler).pipe(
              Layer.provide(Idempotency.layer()),
              Layer.provide(IdempotencyStore.layerMemory())
            ) as App,
            { disableLogger: true, disableListenLog: true }
          ).pipe(Layer.provideMerge(NodeHttpServer.layerTest))
        ).pipe(
          Effect.flatMap((context) =>
            Effect.gen(function* () {
              const address = yield* HttpServer.HttpServer.use(({ address }) => Effect.succeed(address))
              const port = "port" in address ? Number(address.port) : assert.fail("no port")
              const options = {
                port,
                method: "POST",
                path: "/charges",
                headers: { "idempotency-key": "k", "content-type": "application/json" }
              }
              const ask = Effect.callback<number>((resume) => {
                const request = httpRequest(options, (response) => {
                  response.resume().on("end", () => resume(Effect.succeed(response.statusCode ?? 0)))
                })
                request.end("{}")
              })
              const hanging = httpRequest(options).on("error", () => {})
              hanging.end("{}")
              yield* Deferred.await(began)
              hanging.destroy()
              yield* Effect.sleep("50 millis")
              assert.strictEqual(yield* ask, 409)
              yield* Deferred.succeed(gate, undefined)
              assert.strictEqual(yield* ask.pipe(Effect.repeat({ until: (status) => status !== 409 })), 201)
              assert.strictEqual(runs(), 1)
            }).pipe(Effect.provideContext(context))
          )
        )
      })
    )
  })

  describe("guard", () => {
    const response = { status: 200, headers: [], body: new Uint8Array([1]) }
    const request = { key: "k", fingerprint: "f" }

    it.effect("checks, starts, completes and fails", () =>
      Effect.gen(function* () {
        const guard = yield* Idempotency.guard()
        assert.deepStrictEqual(yield* guard.check(request), Option.none())
        const started = yield* guard.start(request)
        if (started._tag !== "Claimed") return assert.fail("not claimed")
        assert.deepInclude(yield* Effect.flip(guard.start(request)), { _tag: "IdempotencyKeyInUse" })
        assert.deepInclude(yield* Effect.flip(guard.check(request)), { _tag: "IdempotencyKeyInUse" })
        assert.deepInclude(yield* Effect.flip(guard.check({ ...request, fingerprint: "g" })), {
          _tag: "IdempotencyKeyReused"
        })
        yield* guard.fail(started.claim)
        const again = yield* guard.start(request)
        if (again._tag !== "Claimed") return assert.fail("not claimed")
        assert.deepInclude(yield* Effect.flip(guard.complete(started.claim, response)), { _tag: "LeaseLost" })
        yield* guard.complete(again.claim, response)
        assert.deepStrictEqual(yield* guard.start(request), { _tag: "Completed", response })
        assert.deepStrictEqual(yield* guard.check(request), Option.some(response))
      }).pipe(Effect.provide(IdempotencyStore.layerMemory()))
    )

    it.effect("a transaction without a store that has them is a defect", () =>
      Effect.gen(function* () {
        const guard = yield* Idempotency.guard()
        const exit = yield* Effect.exit(guard.transaction({ key: "k", token: "t" })(Effect.succeed(response)))
        assert.isTrue(Exit.hasDies(exit))
      }).pipe(Effect.provide(IdempotencyStore.layerMemory()))
    )
  })

  describe("key", () => {
    it.effect("is the same for the same, whatever the order, and another for anything else", () =>
      Effect.gen(function* () {
        const key = yield* Idempotency.key("charge", { amount: 100, to: { b: [1, null], a: "x" } })
        assert.match(key, /^[0-9a-f]{64}$/)
        assert.strictEqual(
          yield* Idempotency.key("charge", { to: { a: "x", b: [1, null] }, gone: undefined, amount: 100 }),
          key
        )
        const others = yield* Effect.all([
          Idempotency.key("refund", { amount: 100, to: { b: [1, null], a: "x" } }),
          Idempotency.key("charge", { amount: 101, to: { b: [1, null], a: "x" } }),
          Idempotency.key("charge", { amount: "100", to: { b: [1, null], a: "x" } }),
          Idempotency.key("charge", { amount: 100, to: { b: [null, 1], a: "x" } }),
          Idempotency.key("charge", 1, 2),
          Idempotency.key("charge", [1, 2]),
          Idempotency.key("charge", 12),
          Idempotency.key("charge", new Date(0)),
          Idempotency.key("charge")
        ])
        assert.strictEqual(new Set([key, ...others]).size, others.length + 1)
        assert.strictEqual(
          yield* Idempotency.key("charge", new Date(0)),
          yield* Idempotency.key("charge", "1970-01-01T00:00:00.000Z")
        )
      })
    )

    it.effect.each([[NaN], [1n], [() => 1], [Symbol("s")]])("dies on %s", ([parameter]) =>
      Effect.gen(function* () {
        assert.isTrue(Exit.hasDies(yield* Effect.exit(Idempotency.key("charge", parameter))))
      })
    )
  })
})

// Digests are made outside the event loop: what was started is given the time it takes, whatever that is.
const until = (condition: () => boolean) =>
  TestClock.withLive(Effect.sleep("1 millis")).pipe(Effect.repeat({ until: condition }))

// Asks until the first attempt, whose client may have gone, has ended.
const ended = <E, R>(asked: Effect.Effect<Answer, E, R>) =>
  Effect.repeat(Effect.tap(asked, TestClock.withLive(Effect.sleep("1 millis"))), {
    until: ({ status }) => status !== 409
  })
