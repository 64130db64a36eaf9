import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Duration, Effect, Fiber, Layer, Logger, Metric, References } from "effect"
import { HttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import * as ChessCom from "../../src/chess/ChessCom.ts"
import type { Platform } from "../../src/chess/domain/Platform.ts"
import * as Lichess from "../../src/chess/Lichess.ts"
import * as Simulator from "../../src/chess/simulator/Simulator.ts"
import * as Users from "../../src/chess/Users.ts"

class Sites extends Context.Service<Sites, Simulator.Simulator>()("test/Sites") {}

const latency = { p50: Duration.millis(100), p99: Duration.millis(400) }

/** The service with both clients, on stand-ins in the process. */
const world = (options: { readonly users?: Users.Options; readonly simulator?: Simulator.Options } = {}) =>
  Users.layer(options.users).pipe(
    Layer.provideMerge(
      Layer.merge(Lichess.layer({ attemptTimeout: "5 seconds" }), ChessCom.layer({ attemptTimeout: "5 seconds" }))
    ),
    Layer.provideMerge(
      Layer.effect(
        HttpClient.HttpClient,
        Effect.map(Sites, (sites) => sites.httpClient)
      )
    ),
    Layer.provideMerge(Layer.effect(Sites, Simulator.make(options.simulator)))
  )

const validate = (user: string, platform: Platform = "lichess") =>
  Effect.flatMap(Users.Users, (users) => users.validate({ user, platform }))

/** Runs the effect while the clock goes on, a tenth of a second at a time. */
const asTimePasses = Effect.fnUntraced(function* <A, E, R>(self: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(self, { startImmediately: true })
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("100 millis")
  return yield* Fiber.join(fiber)
})

const asked = (platform: Platform) =>
  Effect.flatMap(Sites, (sites) =>
    Effect.map(sites.requests, (requests) => (platform === "lichess" ? requests.lichess : requests.chessCom))
  )

describe("Users", () => {
  describe("validate", () => {
    it.effect.each(["lichess", "chess.com"] as const)("says of users of %s whether they exist", (platform) =>
      Effect.gen(function* () {
        const site = platform === "lichess" ? "Lichess" : "Chess.com"
        assert.deepStrictEqual(yield* validate("Nadia-250", platform), {
          exists: true,
          message: `User 'Nadia-250' exists on ${site}`
        })
        assert.deepStrictEqual(yield* validate("Ghost-Anna", platform), {
          exists: false,
          message: `User 'Ghost-Anna' not found on ${site}`
        })
        assert.deepStrictEqual(yield* validate("closed-anna", platform), {
          exists: true,
          message: `User 'closed-anna' exists on ${site}, but the account is closed`
        })
      }).pipe(Effect.provide(world()))
    )

    it.effect("keeps both answers for 300 seconds, whatever the case, and names the user as each caller did", () =>
      Effect.gen(function* () {
        const users = yield* Users.Users
        for (const user of ["nadia-250", "NADIA-250", "ghost-anna", "Ghost-Anna"]) {
          assert.include((yield* validate(user)).message, `'${user}'`)
        }
        assert.strictEqual((yield* asked("lichess")).total, 2)
        assert.containsSubset(yield* users.stats, { hits: 2, misses: 2, joined: 0, size: 2, pending: 0 })

        yield* TestClock.adjust("299 seconds")
        yield* validate("nadia-250")
        assert.strictEqual((yield* asked("lichess")).total, 2)
        yield* TestClock.adjust("1 second")
        yield* validate("nadia-250")
        yield* validate("ghost-anna")
        assert.strictEqual((yield* asked("lichess")).total, 4)
      }).pipe(Effect.provide(world()))
    )

    it.effect("tells the platforms apart", () =>
      Effect.gen(function* () {
        yield* validate("nadia-250", "lichess")
        yield* validate("nadia-250", "chess.com")
        assert.deepStrictEqual([(yield* asked("lichess")).total, (yield* asked("chess.com")).total], [1, 1])
      }).pipe(Effect.provide(world()))
    )

    it.effect("does not keep a failure", () =>
      Effect.gen(function* () {
        const sites = yield* Sites
        yield* sites.lichess.inject({ kind: "unavailable" })
        const error = yield* asTimePasses(Effect.flip(validate("nadia-250")))
        assert.deepStrictEqual([error._tag, error.platform], ["UpstreamUnavailable", "lichess"])
        assert.strictEqual((yield* asked("lichess")).total, 4)
        yield* sites.lichess.clear
        assert.isTrue((yield* validate("nadia-250")).exists)
      }).pipe(Effect.provide(world()))
    )

    it.effect("survives what passes: an error, a reset, a page instead of an answer", () =>
      Effect.gen(function* () {
        const sites = yield* Sites
        for (const kind of ["unavailable", "reset", "html"] as const) {
          for (const platform of ["lichess", "chess.com"] as const) {
            yield* (platform === "lichess" ? sites.lichess : sites.chessCom).inject({ kind, times: 2 })
            assert.isTrue((yield* asTimePasses(validate(`${kind}-250`, platform))).exists)
          }
        }
      }).pipe(Effect.provide(world()))
    )

    it.effect("ends at the deadline, retries and queues included", () =>
      Effect.gen(function* () {
        const sites = yield* Sites
        yield* sites.lichess.inject({ kind: "hang" })
        yield* sites.chessCom.inject({ kind: "hang" })
        for (const platform of ["lichess", "chess.com"] as const) {
          const startedAt = yield* Clock.currentTimeMillis
          const waiting = ["anna-1", "bert-1", "clara-1"].map((user) => Effect.flip(validate(user, platform)))
          const errors = yield* asTimePasses(Effect.all(waiting, { concurrency: "unbounded" }))
          assert.isAtMost((yield* Clock.currentTimeMillis) - startedAt, 7_000)
          for (const error of errors) {
            assert.deepStrictEqual([error._tag, error.platform], ["UpstreamTimeout", platform])
          }
        }
      }).pipe(Effect.provide(world({ users: { deadline: "7 seconds" } })))
    )

    it.effect("logs hits and joined look-ups with the user and the platform", () => {
      const lines: Array<string> = []
      const logger = Logger.map(Logger.formatLogFmt, (line) => void lines.push(line))
      return Effect.gen(function* () {
        yield* asTimePasses(Effect.all([validate("nadia-250"), validate("nadia-250")], { concurrency: "unbounded" }))
        yield* validate("Nadia-250")
        assert.lengthOf(lines, 2)
        assert.match(lines[0] ?? "", /message="Waiting for an identical request".* event=users\.join .*user=nadia-250/)
        assert.match(lines[1] ?? "", /message="Cache hit".* event=users\.hit platform=lichess user=nadia-250/)
      }).pipe(
        Effect.provide([world({ simulator: { lichess: { latency: { users: latency } } } }), Logger.layer([logger])])
      )
    })
  })

  describe("under load", () => {
    it.effect.each(["lichess", "chess.com"] as const)(
      "asks %s once for 1,000 concurrent identical validations",
      (platform) =>
        Effect.gen(function* () {
          const users = yield* Users.Users
          const names = Array.from({ length: 1_000 }, (_, index) => (index % 2 === 0 ? "nadia-250" : "NADIA-250"))
          const answers = yield* asTimePasses(
            Effect.forEach(names, (name) => validate(name, platform), { concurrency: "unbounded" })
          )
          assert.isTrue(answers.every((answer) => answer.exists))
          assert.strictEqual((yield* asked(platform)).total, 1)
          assert.containsSubset(yield* users.stats, { misses: 1, joined: 999, hits: 0, pending: 0 })
        }).pipe(
          Effect.provide(
            world({
              simulator: { lichess: { latency: { users: latency } }, chessCom: { latency: { player: latency } } }
            })
          ),
          Effect.provideService(References.MinimumLogLevel, "None")
        )
    )

    it.effect("asks Lichess at most 10 times for 1,000 different ones", () =>
      Effect.gen(function* () {
        const names = Array.from({ length: 1_000 }, (_, index) =>
          index % 10 === 0 ? `ghost-${index}x` : `anna${index}x`
        )
        const startedAt = yield* Clock.currentTimeMillis
        const answers = yield* asTimePasses(
          Effect.forEach(names, (name) => validate(name), { concurrency: "unbounded" })
        )
        answers.forEach((answer, index) => assert.strictEqual(answer.exists, index % 10 !== 0, names[index]))
        const requests = yield* asked("lichess")
        assert.isAtMost(requests.total, 10)
        assert.strictEqual(requests.others.max, 1)
        assert.isBelow((yield* Clock.currentTimeMillis) - startedAt, 10_000)
      }).pipe(Effect.provide(world({ simulator: { lichess: { latency: { users: latency } } } })))
    )

    it.effect("goes on looking up when the first of those who wait goes away", () =>
      Effect.gen(function* () {
        const first = yield* Effect.forkChild(validate("nadia-250"), { startImmediately: true })
        const second = yield* Effect.forkChild(validate("nadia-250"), { startImmediately: true })
        yield* Fiber.interrupt(first)
        assert.isTrue((yield* asTimePasses(Fiber.join(second))).exists)
        assert.strictEqual((yield* asked("lichess")).total, 1)
      }).pipe(
        Effect.provide(world({ simulator: { lichess: { latency: { users: latency } } } })),
        Effect.provideService(References.MinimumLogLevel, "None")
      )
    )
  })

  describe("when a site hangs for ten minutes", () => {
    /** Asks for another user each second, and notes when, for how long, and what went wrong. */
    const traffic = Effect.fnUntraced(function* (platform: Platform, seconds: number) {
      const startedAt = yield* Clock.currentTimeMillis
      const ask = Effect.fnUntraced(function* (second: number) {
        yield* Effect.sleep(Duration.seconds(second))
        const at = yield* Clock.currentTimeMillis
        const reason = yield* validate(`anna${second}x-7`, platform).pipe(
          Effect.as("none"),
          Effect.catchTags({
            UpstreamTimeout: () => Effect.succeed("timeout"),
            UpstreamUnavailable: (error) => Effect.succeed(error.reason)
          })
        )
        return { at: at - startedAt, took: (yield* Clock.currentTimeMillis) - at, reason }
      })
      return yield* Effect.forEach(
        Array.from({ length: seconds }, (_, second) => second),
        ask,
        { concurrency: "unbounded" }
      )
    })

    it.effect.each(["lichess", "chess.com"] as const)(
      "%s is left alone, and found again within a probe interval",
      (platform) =>
        Effect.gen(function* () {
          const sites = yield* Sites
          const site = platform === "lichess" ? sites.lichess : sites.chessCom
          yield* site.inject({ kind: "hang", for: "10 minutes" })
          const answers = yield* asTimePasses(traffic(platform, 720))

          const refused = answers.filter(({ reason }) => reason === "circuit-open")
          const openedAt = Math.min(...refused.map(({ at, took }) => at + took))
          assert.isAtMost(openedAt, 30_000)
          const healedAt = answers.find(({ at, reason }) => at > openedAt && reason === "none")?.at ?? Infinity
          assert.isAtMost(healedAt, 600_000 + 60_000)

          // Whoever is not a probe is answered in no time; whoever is one waits for a single attempt.
          const meanwhile = answers.filter(({ at }) => at > openedAt && at < healedAt)
          const probes = meanwhile.filter(({ took }) => took > 0)
          assert.isTrue(meanwhile.every(({ reason }) => reason === "circuit-open"))
          assert.isAtMost(probes.length, 10)
          assert.isTrue(probes.every(({ took }) => took < 6_000))
          assert.isTrue(answers.every(({ at, reason, took }) => at < healedAt || (reason === "none" && took === 0)))

          const { others, total } = yield* site.requests
          const answered = answers.filter(({ reason }) => reason === "none").length
          assert.isAtMost(total - answered, 5 + 10)
          assert.strictEqual(others.now, 0)
        }).pipe(Effect.provide(world()), Effect.provideService(References.MinimumLogLevel, "None"))
    )

    /** Hangs the site until its circuit is open and the time for a probe has come. */
    const openCircuit = Effect.fnUntraced(function* (platform: Platform) {
      const sites = yield* Sites
      yield* (platform === "lichess" ? sites.lichess : sites.chessCom).inject({ kind: "hang" })
      yield* asTimePasses(
        Effect.all([traffic(platform, 2), Effect.delay(traffic(platform, 1), "26 seconds")], {
          concurrency: "unbounded"
        })
      )
      yield* TestClock.adjust("90 seconds")
    })

    const timed = Effect.fnUntraced(function* <A, E, R>(self: Effect.Effect<A, E, R>) {
      const startedAt = yield* Clock.currentTimeMillis
      yield* Effect.exit(self)
      return (yield* Clock.currentTimeMillis) - startedAt
    })

    it.effect.each([
      ["lichess", "first"],
      ["lichess", "second"],
      ["chess.com", "first"],
      ["chess.com", "second"]
    ] as const)("of those who ask %s one alone waits for the %s probe", ([platform, probe]) =>
      Effect.gen(function* () {
        yield* openCircuit(platform)
        if (probe === "second") {
          const site = platform === "lichess" ? (yield* Sites).lichess : (yield* Sites).chessCom
          yield* site.clear
          yield* asTimePasses(validate("clara-7", platform))
          yield* site.inject({ kind: "hang" })
        }
        const users = Array.from({ length: 50 }, (_, index) => `bert${index}x-7`)
        const times = yield* asTimePasses(
          Effect.forEach(users, (user) => timed(validate(user, platform)), { concurrency: "unbounded" })
        )
        assert.lengthOf(
          times.filter((time) => time > 0),
          1
        )
      }).pipe(Effect.provide(world()), Effect.provideService(References.MinimumLogLevel, "None"))
    )

    it.effect("nobody waits for a probe that an import makes", () =>
      Effect.gen(function* () {
        yield* openCircuit("chess.com")
        const chessCom = yield* ChessCom.ChessCom
        const probe = yield* Effect.forkChild(Effect.ignore(chessCom.archives("nadia-250")), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        assert.containsSubset((yield* chessCom.state).circuit, { _tag: "HalfOpen", probing: true })
        assert.strictEqual(yield* asTimePasses(timed(validate("bert-7", "chess.com"))), 0)
        yield* Fiber.interrupt(probe)
      }).pipe(Effect.provide(world()), Effect.provideService(References.MinimumLogLevel, "None"))
    )

    it.effect("a look-up that is cut short does not keep the circuit from opening, however many wait", () =>
      Effect.gen(function* () {
        const sites = yield* Sites
        yield* sites.chessCom.inject({ kind: "hang" })
        const chessCom = yield* ChessCom.ChessCom
        yield* asTimePasses(
          Effect.forEach(
            Array.from({ length: 600 }, (_, index) => index),
            (index) => Effect.delay(Effect.ignore(validate(`anna${index}x-7`, "chess.com")), index * 100),
            { concurrency: "unbounded" }
          )
        )
        assert.notStrictEqual((yield* chessCom.state).circuit._tag, "Closed")
      }).pipe(
        Effect.provide(world({ users: { deadline: "7 seconds", maxWait: "1 second" } })),
        Effect.provideService(References.MinimumLogLevel, "None")
      )
    )

    it.effect("nothing is left behind: no fiber, no timer, no request", () =>
      Effect.gen(function* () {
        const fibers = { started: 0, ended: 0 }
        const counted = {
          recordFiberStart: () => void fibers.started++,
          recordFiberEnd: () => void fibers.ended++
        }
        const requests = yield* Effect.gen(function* () {
          const sites = yield* Sites
          yield* sites.lichess.inject({ kind: "hang" })
          yield* sites.chessCom.inject({ kind: "hang" })
          const both = (["lichess", "chess.com"] as const).map((platform) => traffic(platform, 90))
          const waiting = yield* Effect.forkChild(Effect.all(both, { concurrency: "unbounded" }))
          yield* TestClock.adjust("80 seconds")
          assert.isAbove(fibers.started - fibers.ended, 10)
          yield* Fiber.interrupt(waiting)
          return sites
        }).pipe(
          Effect.provide(world()),
          Effect.forkChild,
          Effect.flatMap(Fiber.join),
          Effect.provideService(Metric.FiberRuntimeMetrics, counted),
          Effect.flatMap((sites) => sites.requests)
        )
        assert.strictEqual(fibers.started, fibers.ended)
        assert.deepStrictEqual([requests.lichess.others.now, requests.chessCom.others.now], [0, 0])
      }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
    )
  })
})
