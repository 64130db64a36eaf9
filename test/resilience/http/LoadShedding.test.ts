import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Random } from "effect"
import { Priority } from "effect-resilience"
import { LoadShedding } from "effect-resilience/http"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { serveInMemory } from "../../support/httpApp.ts"

const ok = (path: HttpRouter.PathInput) =>
  HttpRouter.add(
    "*",
    path,
    Effect.map(Priority.current, (priority) => HttpServerResponse.text(priority))
  )

const routes = Layer.mergeAll(
  ok("/a"),
  ok("/health"),
  ok("/health/ready"),
  ok("/metrics"),
  ok("/admin/circuits/x/reset")
)

const serve = (options: LoadShedding.Options) => serveInMemory(Layer.merge(routes, LoadShedding.layer(options)))

const priorityOf: LoadShedding.Options["priority"] = (request) =>
  Effect.succeed((request.headers["x-priority"] ?? "normal") as Priority.Priority)

describe("LoadShedding", () => {
  describe("layer", () => {
    it.effect("refuses with 503, a body and a Retry-After of its own", () =>
      Effect.gen(function* () {
        const ask = yield* serve({ signals: { queue: Effect.succeed(2) }, retryAfter: "10 seconds" })
        const answers = yield* Effect.all(Array.from({ length: 20 }, () => ask("/a")))
        assert.isTrue(answers.every(({ status }) => status === 503))
        const waits = answers.map(({ headers }) => Number(headers["retry-after"]))
        assert.isAtLeast(Math.min(...waits), 5)
        assert.isAtMost(Math.max(...waits), 15)
        assert.isAbove(new Set(waits).size, 3)
        const [first] = answers
        assert.deepStrictEqual(JSON.parse(first!.body), {
          error: "The server has too much to do",
          code: "OVERLOADED",
          statusCode: 503,
          metadata: { priority: "normal" }
        })
      }).pipe(Random.withSeed("waits"))
    )

    it.effect("refuses as RFC 9457 has it, if that is what is accepted", () =>
      Effect.gen(function* () {
        const ask = yield* serve({ signals: { queue: Effect.succeed(9) } })
        const answer = yield* ask("/a", { headers: { accept: "application/problem+json" } })
        assert.strictEqual(answer.status, 503)
        assert.strictEqual(answer.headers["content-type"], "application/problem+json")
        assert.strictEqual(answer.headers["vary"], "accept")
        assert.isAtLeast(Number(answer.headers["retry-after"]), 1)
        assert.deepStrictEqual(JSON.parse(answer.body), {
          type: "about:blank",
          title: "Service Unavailable",
          status: 503,
          detail: "The server has too much to do",
          code: "OVERLOADED",
          metadata: { priority: "normal" }
        })
      })
    )

    it.effect.each([
      [0.5, ["critical", "high", "normal", "low"]],
      [1, ["critical", "high", "normal"]],
      [1.1, ["critical", "high"]],
      [1.5, ["critical"]],
      [3, []]
    ] as const)("at a load of %d lets through %j", ([load, through]) =>
      Effect.gen(function* () {
        // All or none of each: what lies between is that of LoadShed.
        const thresholds = {
          critical: { from: 2, to: 2 },
          high: { from: 1.2, to: 1.2 },
          normal: { from: 1.05, to: 1.05 },
          low: { from: 0.9, to: 0.9 }
        }
        const ask = yield* serve({ signals: { queue: Effect.succeed(load) }, thresholds, priority: priorityOf })
        for (const priority of Priority.all) {
          const { body, status } = yield* ask("/a", { headers: { "x-priority": priority } })
          assert.strictEqual(status, through.some((one) => one === priority) ? 200 : 503, priority)
          if (status === 200) assert.strictEqual(body, priority)
        }
      })
    )

    it.effect.each([
      ["/health", 200],
      ["/health/ready", 200],
      ["/metrics", 200],
      ["/admin/circuits/x/reset", 200],
      ["/a", 503],
      ["/nowhere", 503],
      ["/HEALTH", 503]
    ] as const)("under any load %s answers %d", ([path, status]) =>
      Effect.gen(function* () {
        const ask = yield* serve({ signals: { queue: Effect.succeed(Infinity) } })
        assert.strictEqual((yield* ask(path)).status, status)
      })
    )

    it.effect("counts the requests in work, and those that end however they end", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        let begun = 0
        const slow = Effect.suspend(() => {
          begun++
          return Effect.as(Deferred.await(gate), HttpServerResponse.empty())
        })
        const ask = yield* serveInMemory(
          Layer.mergeAll(
            routes,
            HttpRouter.add("GET", "/slow", slow),
            HttpRouter.add("GET", "/dies", Effect.die("broken")),
            LoadShedding.layer({ maxInFlight: 4, interval: 0 })
          )
        )
        const fibers = yield* Effect.forEach(Array.from({ length: 6 }), () =>
          Effect.forkChild(ask("/slow"), { startImmediately: true })
        )
        yield* Effect.repeat(Effect.yieldNow, { until: () => begun >= 5 })
        // Five in work are a load of 1.25: above that of normal requests.
        assert.strictEqual(begun, 5)
        assert.strictEqual((yield* ask("/a")).status, 503)
        yield* Deferred.succeed(gate, undefined)
        const statuses = (yield* Fiber.joinAll(fibers)).map(({ status }) => status)
        assert.deepStrictEqual(statuses.toSorted(), [204, 204, 204, 204, 204, 503])
        for (let i = 0; i < 20; i++) yield* ask("/dies")
        assert.strictEqual((yield* ask("/a")).status, 200)
        // Which of the fifth and sixth is refused is drawn.
      }).pipe(Random.withSeed("six requests"))
    )

    it.live("refuses while the event loop is late, and takes requests again when it is not", () =>
      Effect.gen(function* () {
        const ask = yield* serve({ lag: { bearable: "20 millis", every: "5 millis" }, interval: 0 })
        yield* Effect.sleep("20 millis")
        const until = performance.now() + 300
        while (performance.now() < until);
        assert.strictEqual((yield* ask("/a")).status, 503)
        const { status } = yield* Effect.repeat(Effect.tap(ask("/a"), Effect.sleep("5 millis")), {
          until: ({ status }) => status === 200
        })
        assert.strictEqual(status, 200)
      })
    )

    it.effect("dies on { maxInFlight: 0 }", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.scoped(LoadShedding.make({ maxInFlight: 0 })))
        assert.strictEqual(
          Exit.isFailure(exit) && (Cause.squash(exit.cause) as RangeError).message,
          "LoadShedding: maxInFlight must be an integer >= 1, got 0"
        )
      })
    )

    it.effect("tells its load to those who ask", () =>
      Effect.gen(function* () {
        const { shed } = yield* LoadShedding.make({ signals: { queue: Effect.succeed(0.25) } })
        yield* TestClock.adjust("1 second")
        yield* shed.execute(Effect.void)
        assert.deepInclude((yield* shed.state).signals, { queue: 0.25, inFlight: 0 })
        assert.hasAllKeys((yield* shed.state).signals, ["queue", "inFlight", "lag"])
      })
    )
  })
})
