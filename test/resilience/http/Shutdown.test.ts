import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, Stream } from "effect"
import { Health, Shutdown } from "effect-resilience/http"
import { interruptEverywhere } from "effect-resilience/testing"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory } from "../../support/httpApp.ts"

/** A part of a server that says when it is released, and takes its time. */
const part = (log: Array<string>, shutdown: Shutdown.Shutdown, after = 0) =>
  Layer.effectDiscard(
    Effect.acquireRelease(
      Effect.sync(() => void log.push("built")),
      () =>
        Effect.andThen(
          Effect.sleep(after),
          Effect.map(shutdown.phase, (phase) => void log.push(`released: ${phase}`))
        )
    )
  )

describe("Shutdown", () => {
  describe("run", () => {
    it.effect("starts, serves, drains for its time, and then stops", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const shutdown = yield* Shutdown.make({ drainFor: "5 seconds" })
        assert.strictEqual(yield* shutdown.phase, "starting")
        const stopped = yield* Effect.forkChild(Effect.map(shutdown.stopping, () => log.push("streams end")))
        const running = yield* Effect.forkChild(
          shutdown.run(Layer.unwrap(Effect.delay(Effect.succeed(part(log, shutdown)), 100)))
        )
        yield* TestClock.adjust(99)
        assert.strictEqual(yield* shutdown.phase, "starting")
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* shutdown.phase, "serving")
        running.interruptUnsafe()
        yield* TestClock.adjust(4_999)
        assert.strictEqual(yield* shutdown.phase, "draining")
        assert.deepStrictEqual(log, ["built"])
        yield* TestClock.adjust(1)
        const exit = yield* Fiber.await(running)
        yield* Fiber.join(stopped)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.sameMembers(log, ["built", "streams end", "released: stopping"])
      })
    )

    it.effect("dies when it does not stop in time, the drain included", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const shutdown = yield* Shutdown.make({ timeout: "10 seconds", drainFor: "4 seconds" })
        const running = yield* Effect.forkChild(shutdown.run(part(log, shutdown, 6_001)))
        yield* TestClock.adjust(0)
        running.interruptUnsafe()
        yield* TestClock.adjust(9_999)
        assert.isUndefined(running.pollUnsafe())
        yield* TestClock.adjust(1)
        const exit = yield* Fiber.await(running)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.include(String(exit), "Not stopped within 10s: 0 requests in flight")
      })
    )

    it.effect("waits for 30 seconds by default", () =>
      Effect.gen(function* () {
        const shutdown = yield* Shutdown.make()
        const running = yield* Effect.forkChild(shutdown.run(part([], shutdown, 31_000)))
        yield* TestClock.adjust(0)
        running.interruptUnsafe()
        yield* TestClock.adjust(29_999)
        assert.isUndefined(running.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.include(String(yield* Fiber.await(running)), "Not stopped within 30s")
      })
    )

    it.effect("stops in the same way when something ends it as a whole", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const shutdown = yield* Shutdown.make()
        const uncaught = yield* Deferred.make<never, "uncaught">()
        const running = yield* Effect.forkChild(shutdown.run(part(log, shutdown), Deferred.await(uncaught)))
        yield* TestClock.adjust(0)
        yield* Deferred.fail(uncaught, "uncaught")
        assert.strictEqual(yield* Effect.flip(Fiber.join(running)), "uncaught")
        assert.deepStrictEqual(log, ["built", "released: stopping"])
      })
    )

    it.effect("releases what was built when the rest cannot be, and is never ready", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const shutdown = yield* Shutdown.make({ drainFor: "5 seconds" })
        const layer = Layer.effectDiscard(Effect.fail("no")).pipe(Layer.provideMerge(part(log, shutdown)))
        assert.strictEqual(yield* Effect.flip(shutdown.run(layer)), "no")
        assert.deepStrictEqual(log, ["built", "released: starting"])
      })
    )

    it.effect("releases what it has built when interrupted at any operation", () =>
      Effect.gen(function* () {
        let open = 0
        const resource = Layer.effectDiscard(
          Effect.acquireRelease(
            Effect.sync(() => void open++),
            () => Effect.sync(() => void open--)
          )
        )
        const once = Effect.flatMap(Shutdown.make(), (shutdown) => shutdown.run(resource, Effect.yieldNow))
        const operations = yield* interruptEverywhere(
          once,
          Effect.sync(() => assert.strictEqual(open, 0))
        )
        assert.isAbove(operations, 10)
      })
    )
  })

  describe("middleware", () => {
    const serve = Effect.fnUntraced(function* (options?: Shutdown.Options) {
      const shutdown = yield* Shutdown.make(options)
      const release = yield* Deferred.make<void>()
      const body = Stream.make("a").pipe(Stream.concat(Stream.fromEffect(Effect.as(Deferred.await(release), "b"))))
      const routes = Layer.mergeAll(
        HttpRouter.add("GET", "/fast", HttpServerResponse.text("ok")),
        HttpRouter.add("GET", "/bug", Effect.die("bug")),
        HttpRouter.add("GET", "/stream", HttpServerResponse.stream(Stream.encodeText(body))),
        Health.layerRoutes({ phase: shutdown.phase }).pipe(Layer.provide(Health.layer())),
        Shutdown.layerMiddleware.pipe(Layer.provide(Layer.succeed(Shutdown.Shutdown, shutdown)))
      )
      return { shutdown, release, ask: yield* serveInMemory(routes) }
    })

    it.effect("closes connections and is not ready from the drain on, and not before", () =>
      Effect.gen(function* () {
        const { ask, shutdown } = yield* serve({ drainFor: "5 seconds" })
        assert.strictEqual((yield* ask("/health/ready")).status, 503)
        const running = yield* Effect.forkChild(shutdown.run(Layer.empty))
        yield* TestClock.adjust(0)
        assert.strictEqual((yield* ask("/health/ready")).status, 200)
        assert.isUndefined((yield* ask("/fast")).headers["connection"])
        running.interruptUnsafe()
        yield* TestClock.adjust(0)
        const ready = yield* ask("/health/ready")
        assert.strictEqual(ready.status, 503)
        assert.include(ready.body, '"phase":"draining"')
        for (const [path, status] of [
          ["/fast", 200],
          ["/bug", 500],
          ["/nowhere", 404],
          ["/health/live", 200]
        ] as const) {
          const answer = yield* ask(path)
          assert.deepStrictEqual([answer.status, answer.headers["connection"]], [status, "close"], path)
        }
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.await(running)
      })
    )

    it.effect("counts a request until all of its body is sent", () =>
      Effect.gen(function* () {
        const { ask, release, shutdown } = yield* serve()
        yield* ask("/fast")
        yield* ask("/bug")
        yield* ask("/nowhere")
        assert.strictEqual(yield* shutdown.inFlight, 0)
        const asked = yield* Effect.forkChild(ask("/stream"))
        yield* Effect.yieldNow
        assert.strictEqual(yield* shutdown.inFlight, 1)
        yield* Deferred.succeed(release, undefined)
        assert.strictEqual((yield* Fiber.join(asked)).body, "ab")
        assert.strictEqual(yield* shutdown.inFlight, 0)
      })
    )

    it.effect("counts nothing twice and leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        const { ask, shutdown } = yield* serve()
        const operations = yield* interruptEverywhere(
          ask("/fast"),
          Effect.map(shutdown.inFlight, (inFlight) => assert.strictEqual(inFlight, 0))
        )
        assert.isAbove(operations, 10)
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ timeout: 0 }, "timeout must be over zero"],
      [{ timeout: "1 second", drainFor: "1 second" }, "drainFor must be less than the timeout, got 1s"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        assert.include(String(yield* Effect.exit(Shutdown.make(options))), message)
      })
    )
  })

  describe("layerConfig", () => {
    it.effect("reads SHUTDOWN_TIMEOUT and SHUTDOWN_DRAIN in milliseconds", () =>
      Effect.gen(function* () {
        const build = (env: Record<string, string>) =>
          Effect.exit(Layer.build(Shutdown.layerConfig)).pipe(
            Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(env))
          )
        assert.isTrue(Exit.isSuccess(yield* build({})))
        assert.isTrue(Exit.isSuccess(yield* build({ SHUTDOWN_TIMEOUT: "500", SHUTDOWN_DRAIN: "499" })))
        assert.include(
          String(yield* build({ SHUTDOWN_TIMEOUT: "500", SHUTDOWN_DRAIN: "500" })),
          "drainFor must be less"
        )
        assert.include(String(yield* build({ SHUTDOWN_TIMEOUT: "soon" })), "SHUTDOWN_TIMEOUT")
      })
    )
  })
})
