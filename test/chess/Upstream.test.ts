import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Logger, Option, References, Stream } from "effect"
import { Deadline } from "effect-resilience"
import { TestClock } from "effect/testing"
import * as Upstream from "../../src/chess/Upstream.ts"
import { type UnavailableReason, UpstreamTimeout, UpstreamUnavailable } from "../../src/chess/UpstreamError.ts"

const unavailable = (reason: UnavailableReason, more: { status?: number; retryAfter?: Duration.Duration } = {}) =>
  new UpstreamUnavailable({ platform: "lichess", reason, detail: "as the test says", ...more })

const failing = (error: UpstreamUnavailable, count: { calls: number }) =>
  Effect.suspend(() => {
    count.calls++
    return Effect.fail(error)
  })

interface Line {
  readonly level: string
  readonly message: string
  readonly annotations: Readonly<Record<string, unknown>>
}

const logged = <A, E, R>(self: (lines: Array<Line>) => Effect.Effect<A, E, R>) => {
  const lines: Array<Line> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    lines.push({
      level: logLevel,
      message: String(message),
      annotations: fiber.getRef(References.CurrentLogAnnotations)
    })
  })
  return self(lines).pipe(Effect.provide(Logger.layer([logger])))
}

describe("Upstream", () => {
  describe("make", () => {
    it.effect("has the numbers it is documented with", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess")
        assert.deepStrictEqual(yield* upstream.state, {
          circuit: { _tag: "Closed", key: "lichess", failures: 0 },
          limiter: { tokens: 16, refillPerSecond: 8, waiting: 0, pausedFor: Duration.zero },
          lane: { maxConcurrent: 1, running: 0, waiting: 0 }
        })
      })
    )
  })

  describe("call", () => {
    for (const [reason, status, attempts, failures] of [
      ["connection", undefined, 4, 4],
      ["body", undefined, 4, 4],
      ["status", 500, 4, 4],
      ["status", 408, 4, 4],
      ["status", 400, 1, 0],
      ["rate-limited", 429, 1, 0],
      ["blocked", 403, 1, 0]
    ] as const) {
      it.effect(`makes ${attempts} attempts on ${reason} ${status ?? ""} and counts ${failures} failures`, () =>
        Effect.gen(function* () {
          const count = { calls: 0 }
          const upstream = yield* Upstream.make("lichess")
          const error = unavailable(reason, status === undefined ? {} : { status })
          const fiber = yield* Effect.forkChild(Effect.flip(upstream.call(failing(error, count))))
          yield* TestClock.adjust("3500 millis")
          const failure = yield* Fiber.join(fiber)
          assert.isTrue(failure instanceof UpstreamUnavailable && failure.reason === reason)
          assert.strictEqual(count.calls, attempts)
          assert.strictEqual((yield* upstream.state).circuit.failures, failures)
        })
      )
    }

    it.effect("gives every attempt its time, and says so in the end", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess", { attemptTimeout: "10 seconds", retryDelays: ["1 second"] })
        const fiber = yield* Effect.forkChild(Effect.flip(upstream.call(Effect.never)))
        yield* TestClock.adjust("21 seconds")
        assert.deepStrictEqual(
          yield* Fiber.join(fiber),
          new UpstreamTimeout({ platform: "lichess", after: Duration.seconds(10) })
        )
        assert.strictEqual((yield* upstream.state).circuit.failures, 2)
      })
    )

    it.effect("ends with its deadline, the wait for a turn included", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess", { attemptTimeout: "1 hour" })
        const first = yield* Effect.forkChild(Effect.flip(upstream.call(Effect.never)), { startImmediately: true })
        const second = yield* Effect.forkChild(Effect.flip(upstream.call(Effect.never)))
        yield* TestClock.adjust("120 seconds")
        for (const fiber of [first, second]) {
          assert.deepStrictEqual(
            yield* Fiber.join(fiber),
            new UpstreamTimeout({ platform: "lichess", after: Duration.seconds(120) })
          )
        }
      })
    )

    it.effect("is over at once under a deadline that has passed", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess")
        const error = yield* upstream.call(Effect.void).pipe(Deadline.within(0), Effect.flip)
        assert.strictEqual(error._tag, "DeadlineExceeded")
      })
    )

    it.effect("refuses at once while the circuit is open, and says for how long", () =>
      Effect.gen(function* () {
        const count = { calls: 0 }
        const upstream = yield* Upstream.make("lichess", { circuitFailures: 4 })
        const fiber = yield* Effect.forkChild(Effect.flip(upstream.call(failing(unavailable("connection"), count))))
        yield* TestClock.adjust("3500 millis")
        yield* Fiber.join(fiber)
        for (const [wait, left] of [
          [15, 45],
          [43, 2]
        ] as const) {
          yield* TestClock.adjust(Duration.seconds(wait))
          const refused = yield* Effect.flip(upstream.call(failing(unavailable("connection"), count)))
          assert.isTrue(refused instanceof UpstreamUnavailable && refused.reason === "circuit-open")
          assert.deepStrictEqual(refused.retryAfter, Duration.seconds(left))
        }
        assert.strictEqual(count.calls, 4)
      })
    )

    it.effect("lets 16 requests go at once and then 8 a second", () =>
      Effect.gen(function* () {
        let calls = 0
        const upstream = yield* Upstream.make("lichess", { maxConcurrent: 100 })
        const call = upstream.call(Effect.sync(() => calls++))
        yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 40 }, () => call),
            { concurrency: "unbounded" }
          )
        )
        for (const expected of [16, 24, 32, 40]) {
          yield* TestClock.adjust(expected === 16 ? 0 : "1 second")
          assert.strictEqual(calls, expected)
        }
      })
    )

    it.effect("counts the 429 of one kind of request apart from the other", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess")
        const refused = Effect.fail(unavailable("rate-limited", { status: 429 }))
        const waits: Array<number> = []
        for (let n = 0; n < 3; n++) {
          const error = yield* Effect.flip(upstream.open(refused))
          waits.push(
            Option.match(Option.fromUndefinedOr(error.retryAfter), { onNone: () => 0, onSome: Duration.toSeconds })
          )
          yield* TestClock.adjust("301 seconds")
          yield* upstream.call(Effect.void)
        }
        assert.deepStrictEqual(waits, [60, 120, 300])
      })
    )

    it.effect("begins with the shortest pause again after an answer", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess", { pauses: ["30 seconds", "1 minute"] })
        const refused = Effect.fail(unavailable("rate-limited", { status: 429 }))
        for (const seconds of [30, 60, 60]) {
          const error = yield* Effect.flip(upstream.call(refused))
          assert.deepStrictEqual(error.retryAfter, Duration.seconds(seconds))
          yield* TestClock.adjust("61 seconds")
        }
        yield* upstream.call(Effect.void)
        const error = yield* Effect.flip(upstream.call(refused))
        assert.deepStrictEqual(error.retryAfter, Duration.seconds(30))
      })
    )

    it.effect("takes several 429 at the same time for one", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess", { maxConcurrent: 3 })
        const refused = Effect.delay(Effect.fail(unavailable("rate-limited", { status: 429 })), "1 second")
        const fiber = yield* Effect.forkChild(
          Effect.forEach([1, 2, 3], () => Effect.flip(upstream.call(refused)), { concurrency: "unbounded" })
        )
        yield* TestClock.adjust("1 second")
        const errors = yield* Fiber.join(fiber)
        assert.deepStrictEqual(
          errors.map((error) => error.retryAfter),
          [1, 2, 3].map(() => Duration.seconds(60))
        )
      })
    )
  })

  describe("open", () => {
    it.effect("does not wait for its turn among the calls", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess")
        yield* Effect.forkChild(upstream.call(Effect.never), { startImmediately: true })
        assert.strictEqual(yield* upstream.open(Effect.succeed("stream")), "stream")
      })
    )

    it.effect("does not count before what it opened has been reported", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make("lichess", { circuitFailures: 3 })
        const broken = Exit.fail(unavailable("connection"))
        yield* upstream.report(broken)
        yield* upstream.open(Effect.void)
        yield* upstream.report(broken)
        assert.strictEqual((yield* upstream.state).circuit.failures, 2)
        yield* upstream.report(Exit.void)
        assert.strictEqual((yield* upstream.state).circuit.failures, 0)
        for (let n = 0; n < 3; n++) yield* upstream.report(broken)
        assert.strictEqual((yield* upstream.state).circuit._tag, "Open")
      })
    )
  })

  describe("transitions", () => {
    it.effect("tells when the circuit opens, probes and closes, and the log does as well", () =>
      logged((lines) =>
        Effect.gen(function* () {
          const upstream = yield* Upstream.make("chess.com", { circuitFailures: 2, retryDelays: ["1 second"] })
          const seen = yield* upstream.transitions.pipe(
            Stream.map(({ from, to }) => `${from} ${to}`),
            Stream.take(3),
            Stream.runCollect,
            Effect.forkChild({ startImmediately: true })
          )
          const fiber = yield* Effect.forkChild(
            Effect.flip(upstream.call(Effect.fail(unavailable("status", { status: 502 }))))
          )
          yield* TestClock.adjust("1 second")
          yield* Fiber.join(fiber)
          yield* TestClock.adjust("60 seconds")
          yield* upstream.call(Effect.void)
          yield* upstream.call(Effect.void)
          assert.deepStrictEqual(yield* Fiber.join(seen), ["Closed Open", "Open HalfOpen", "HalfOpen Closed"])
          yield* TestClock.adjust("1 millis")
          assert.deepStrictEqual(
            lines.map(({ annotations, level }): Readonly<Record<string, unknown>> => ({ level, ...annotations })),
            [
              {
                level: "Warn",
                event: "upstream.retry",
                platform: "chess.com",
                attempt: 1,
                reason: "status: as the test says",
                delayMillis: 1000
              },
              { level: "Warn", event: "circuit.open", platform: "chess.com", failures: 2, retryAfterMillis: 60_000 },
              { level: "Info", event: "circuit.half-open", platform: "chess.com" },
              { level: "Info", event: "circuit.closed", platform: "chess.com" }
            ]
          )
        })
      )
    )

    it.effect("logs what a site asks of us and that it refuses us", () =>
      logged((lines) =>
        Effect.gen(function* () {
          const upstream = yield* Upstream.make("lichess")
          yield* Effect.flip(upstream.call(Effect.fail(unavailable("rate-limited", { status: 429 }))))
          yield* TestClock.adjust("61 seconds")
          yield* Effect.flip(upstream.call(Effect.fail(unavailable("blocked", { status: 403 }))))
          yield* TestClock.adjust("1 millis")
          assert.deepStrictEqual(
            lines.map(({ annotations, level }) => [level, annotations["event"], annotations["pauseMillis"]]),
            [
              ["Warn", "upstream.throttled", 60_000],
              ["Error", "upstream.blocked", undefined],
              ["Warn", "circuit.open", undefined]
            ]
          )
        })
      )
    )
  })
})
