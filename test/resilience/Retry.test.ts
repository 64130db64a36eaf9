import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Context, Data, Duration, Effect, Exit, Fiber, Logger, Random, Schedule } from "effect"
import { Deadline, Retry, RetryBudget } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Unavailable extends Data.TaggedError("Unavailable")<{
  readonly status: number
  readonly retryAfter?: Duration.Duration | undefined
}> {}
class NotFound extends Data.TaggedError("NotFound")<{}> {}

const unavailable = (retryAfter?: Duration.Input) =>
  new Unavailable({
    status: 503,
    retryAfter: retryAfter === undefined ? undefined : Duration.fromInputUnsafe(retryAfter)
  })

// An operation that answers with the next exit of a list, then with the last one, and notes when it was called.
const scripted = <A, E>(...exits: readonly [Exit.Exit<A, E>, ...Array<Exit.Exit<A, E>>]) => {
  const calledAt: Array<number> = []
  const run = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    calledAt.push(now)
    return exits[Math.min(calledAt.length, exits.length) - 1] ?? exits[0]
  })
  return { calledAt, run }
}

const spec = Retry.delays(["500 millis", "1 second", "2 seconds"])

// Runs an effect to its end, however long it sleeps.
const finished = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(self)
    yield* TestClock.adjust("1000 days")
    return yield* Fiber.await(fiber)
  })

// The delays a schedule gives, in milliseconds, until it ends or `most` were read.
const delaysOf = (schedule: Schedule.Schedule<unknown>, most: number) =>
  Effect.gen(function* () {
    const step = yield* Schedule.toStep(schedule)
    const read: Array<number> = []
    for (let i = 0; i < most; i++) {
      const exit = yield* Effect.exit(step(0, undefined))
      if (Exit.isFailure(exit)) break
      read.push(Duration.toMillis(exit.value[1]))
    }
    return read
  })

describe("Retry", () => {
  describe("execute", () => {
    it.effect("runs a call that succeeds once", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.succeed("ok"))
        assert.strictEqual(yield* Retry.make({ schedule: spec }).execute(call.run), "ok")
        assert.strictEqual(call.calledAt.length, 1)
      })
    )

    it.effect("runs a failing call again after each delay of the schedule, until it succeeds", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail(unavailable()), Exit.fail(unavailable()), Exit.succeed("ok"))
        const exit = yield* finished(call.run.pipe(Retry.make({ schedule: spec }).execute))
        assert.deepStrictEqual(exit, Exit.succeed("ok"))
        assert.deepStrictEqual(call.calledAt, [0, 500, 1500])
      })
    )

    it.effect("lets the last error through, unwrapped, when the schedule ends", () =>
      Effect.gen(function* () {
        const errors = [1, 2, 3, 4].map((status) => new Unavailable({ status }))
        const call = scripted(Exit.fail(errors[0]), ...errors.slice(1).map((error) => Exit.fail(error)))
        const exit = yield* finished(call.run.pipe(Retry.make({ schedule: spec }).execute))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === errors[3])
        assert.deepStrictEqual(call.calledAt, [0, 500, 1500, 3500])
      })
    )

    it.effect("runs once with no delays", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail("no"))
        const exit = yield* Effect.exit(call.run.pipe(Retry.make({ schedule: Retry.delays([]) }).execute))
        assert.deepStrictEqual(exit, Exit.fail("no"))
        assert.strictEqual(call.calledAt.length, 1)
      })
    )

    it.effect("stops at an error that is not retryable, also after one that was", () =>
      Effect.gen(function* () {
        const call = scripted<never, Unavailable | NotFound>(Exit.fail(unavailable()), Exit.fail(new NotFound()))
        const exit = yield* finished(
          Retry.retry(call.run, { schedule: spec, while: (error) => error._tag === "Unavailable" })
        )
        assert.deepStrictEqual(exit, Exit.fail(new NotFound()))
        assert.deepStrictEqual(call.calledAt, [0, 500])
      })
    )

    it.effect("ends with the defect of a predicate that throws", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail("no"))
        const thrown = new Error("predicate")
        const exit = yield* Effect.exit(
          Retry.retry(call.run, {
            schedule: spec,
            while: () => {
              throw thrown
            }
          })
        )
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === thrown)
        assert.strictEqual(call.calledAt.length, 1)
      })
    )

    it.effect("never retries a defect, an interruption, or a failure beside one of them", () =>
      Effect.gen(function* () {
        const causes: ReadonlyArray<Cause.Cause<string>> = [
          Cause.die("defect"),
          Cause.interrupt(1),
          Cause.combine(Cause.fail("no"), Cause.die("defect")),
          Cause.combine(Cause.fail("no"), Cause.interrupt(1))
        ]
        for (const cause of causes) {
          const call = scripted(Exit.failCause(cause))
          const exit = yield* Effect.exit(Retry.make({ schedule: spec }).execute(call.run))
          assert.isTrue(Exit.isFailure(exit) && exit.cause === cause)
          assert.strictEqual(call.calledAt.length, 1)
        }
      })
    )

    it.effect("retries a cause of several failures", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.failCause(Cause.combine(Cause.fail("a"), Cause.fail("b"))), Exit.succeed("ok"))
        assert.deepStrictEqual(yield* finished(Retry.make({ schedule: spec }).execute(call.run)), Exit.succeed("ok"))
      })
    )

    it.effect("never runs again when interrupted during the wait", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail("no"))
        const fiber = yield* call.run.pipe(Retry.make({ schedule: spec }).execute, Effect.forkChild)
        yield* TestClock.adjust(499)
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(call.calledAt.length, 1)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      })
    )

    it.effect("gives each call its own steps of the schedule, one after the other and at the same time", () =>
      Effect.gen(function* () {
        let opened = 0
        const schedule = Schedule.fromStepWithMetadata(
          Effect.sync(() => {
            opened++
            return ({ attempt }: Schedule.InputMetadata<unknown>) =>
              attempt > 2
                ? Cause.done(0)
                : Effect.succeed<[number, Duration.Duration]>([attempt, Duration.millis(attempt * 10)])
          })
        )
        const retry = Retry.make({ schedule })
        const calls = [1, 2, 3].map(() => scripted(Exit.fail("no")))
        yield* finished(Effect.forEach(calls, (call) => Effect.exit(retry.execute(call.run)), { concurrency: 3 }))
        for (const call of calls) assert.deepStrictEqual(call.calledAt, [0, 10, 30])
        assert.strictEqual(opened, 3)

        const again = scripted(Exit.fail("no"))
        const guarded = retry.execute(again.run)
        yield* finished(Effect.andThen(Effect.exit(guarded), Effect.exit(guarded)))
        assert.strictEqual(again.calledAt.length, 6)

        yield* retry.execute(Effect.void)
        assert.strictEqual(opened, 5)
      })
    )

    it.effect("keeps the runs of one and the same effect apart", () =>
      Effect.gen(function* () {
        const seen: Array<number> = []
        const guarded = Effect.flatMap(Retry.CurrentAttempt, (attempt) => {
          seen.push(attempt)
          return Effect.fail("no")
        }).pipe(Retry.make({ schedule: Retry.delays([10, 20]) }).execute, Effect.exit)
        yield* finished(Effect.all([guarded, guarded, guarded], { concurrency: 3 }))
        assert.deepStrictEqual(seen, [1, 1, 1, 2, 2, 2, 3, 3, 3])
        yield* finished(guarded)
        assert.deepStrictEqual(seen.slice(9), [1, 2, 3])
      })
    )

    it.effect("retries thousands of times in constant stack", () =>
      Effect.gen(function* () {
        let runs = 0
        const exit = yield* Effect.suspend(() => (++runs < 20_000 ? Effect.fail("no") : Effect.succeed(runs))).pipe(
          Retry.make({ schedule: Schedule.forever }).execute,
          Effect.exit
        )
        assert.deepStrictEqual(exit, Exit.succeed(20_000))
      })
    )

    it.effect("gives up when the schedule asks for a wait without end", () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Retry.make({ schedule: Retry.delays(["Infinity"]) }).execute(Effect.fail("no")))
        assert.deepStrictEqual(exit, Exit.fail("no"))
      })
    )

    it.effect("runs each attempt to its finalizers and leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        let open = 0
        const attempt = Effect.acquireUseRelease(
          Effect.sync(() => {
            open++
          }),
          () => Effect.fail("no"),
          () =>
            Effect.sync(() => {
              open--
            })
        )
        const tried = yield* interruptEverywhere(
          Effect.exit(Retry.make({ schedule: Retry.delays([0, 0]), onRetry: () => Effect.yieldNow }).execute(attempt)),
          Effect.sync(() => assert.strictEqual(open, 0))
        )
        assert.isAbove(tried, 30)
      })
    )
  })

  describe("retryAfter", () => {
    it.effect("waits what the error asks for when that is longer than the schedule says, and not less", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail(unavailable("3 seconds")), Exit.fail(unavailable("10 millis")), Exit.succeed(1))
        yield* finished(call.run.pipe(Retry.make({ schedule: spec }).execute))
        assert.deepStrictEqual(call.calledAt, [0, 3000, 4000])
      })
    )

    it.effect.each([
      ["zero", Duration.zero, [0, 500]],
      ["negative", Duration.seconds(-5), [0, 500]],
      ["at the maximum", Duration.minutes(1), [0, 60_000]],
      ["not a Duration", { seconds: 5 }, [0, 500]],
      ["with a fraction of a millisecond", Duration.micros(700_500n), [0, 701]]
    ] as const)("is honoured or ignored when %s", ([, retryAfter, expected]) =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail({ retryAfter }), Exit.succeed(1))
        assert.deepStrictEqual(yield* finished(call.run.pipe(Retry.make({ schedule: spec }).execute)), Exit.succeed(1))
        assert.deepStrictEqual(call.calledAt, [...expected])
      })
    )

    it.effect("ends the retries at once with the original error when it is over the maximum", () =>
      Effect.gen(function* () {
        for (const [maxRetryAfter, asked] of [
          [undefined, "60001 millis"],
          ["2 seconds", "2001 millis"],
          ["2 hours", "Infinity"],
          ["Infinity", "Infinity"]
        ] as const) {
          const error = unavailable(asked)
          const call = scripted(Exit.fail(error))
          const exit = yield* Effect.exit(call.run.pipe(Retry.make({ schedule: spec, maxRetryAfter }).execute))
          assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === error)
          assert.strictEqual(call.calledAt.length, 1)
        }
      })
    )
  })

  describe("with a deadline", () => {
    it.effect("gives up at once with the original error when the wait would reach the deadline", () =>
      Effect.gen(function* () {
        for (const [within, attempts] of [
          [500, 1],
          [501, 2],
          [1500, 2],
          [1501, 3]
        ] as const) {
          const from = yield* Clock.currentTimeMillis
          const call = scripted(Exit.fail("no"))
          const fiber = yield* call.run.pipe(
            Retry.make({ schedule: spec }).execute,
            Deadline.within(within),
            Effect.exit,
            Effect.flatMap((exit) => Effect.map(Clock.currentTimeMillis, (now) => [exit, now - from] as const)),
            Effect.forkChild
          )
          yield* TestClock.adjust("1 minute")
          const [exit, took] = yield* Fiber.join(fiber)
          assert.deepStrictEqual(exit, Exit.fail("no"))
          assert.strictEqual(call.calledAt.length, attempts)
          assert.strictEqual(took, [0, 500, 1500][attempts - 1])
        }
      })
    )
  })

  describe("CurrentAttempt", () => {
    it.effect("tells the operation the number of its attempt, and is 1 outside", () =>
      Effect.gen(function* () {
        const seen: Array<number> = []
        const exit = yield* finished(
          Effect.flatMap(Retry.CurrentAttempt, (attempt) => {
            seen.push(attempt)
            return attempt < 3 ? Effect.fail("no") : Effect.succeed(attempt)
          }).pipe(Retry.make({ schedule: spec }).execute)
        )
        assert.deepStrictEqual(exit, Exit.succeed(3))
        assert.deepStrictEqual(seen, [1, 2, 3])
        assert.strictEqual(yield* Retry.CurrentAttempt, 1)
      })
    )

    it.effect("counts the attempts of the inner of two nested retries", () =>
      Effect.gen(function* () {
        const seen: Array<readonly [number, number]> = []
        const inner = (outer: number) =>
          Effect.flatMap(Retry.CurrentAttempt, (attempt) => {
            seen.push([outer, attempt])
            return Effect.fail("no")
          }).pipe(Retry.make({ schedule: Retry.delays([1]) }).execute)
        yield* finished(
          Effect.flatMap(Retry.CurrentAttempt, inner).pipe(Retry.make({ schedule: Retry.delays([1]) }).execute)
        )
        assert.deepStrictEqual(seen, [
          [1, 1],
          [1, 2],
          [2, 1],
          [2, 2]
        ])
      })
    )
  })

  describe("onRetry", () => {
    it.effect("is told the attempt that failed, its error and the wait, before each wait and not after the last", () =>
      Effect.gen(function* () {
        const seen: Array<readonly [number, string, number, number]> = []
        const call = scripted(Exit.fail("a"), Exit.fail("b"))
        yield* finished(
          Retry.retry(call.run, {
            schedule: Retry.delays([10, 20]),
            onRetry: ({ attempt, delay, error }) =>
              Effect.map(Clock.currentTimeMillis, (now) => seen.push([attempt, error, Duration.toMillis(delay), now]))
          })
        )
        assert.deepStrictEqual(seen, [
          [1, "a", 10, 0],
          [2, "b", 20, 10]
        ])
      })
    )

    it.effect.each([
      ["dies", () => Effect.die("hook")],
      ["interrupts itself", () => Effect.interrupt],
      [
        "throws",
        (): Effect.Effect<void> => {
          throw new Error("hook")
        }
      ]
    ] as const)("does not break the call when it %s, and that is logged", ([, onRetry]) =>
      Effect.gen(function* () {
        const logged: Array<unknown> = []
        const call = scripted(Exit.fail("no"), Exit.succeed("ok"))
        const exit = yield* finished(Retry.make({ schedule: spec, onRetry }).execute(call.run)).pipe(
          Effect.provide(Logger.layer([Logger.make(({ message }) => logged.push(message))]))
        )
        assert.deepStrictEqual(exit, Exit.succeed("ok"))
        assert.strictEqual(logged.length, 1)
      })
    )

    it.effect("is interrupted with the call, which is nothing to log", () =>
      Effect.gen(function* () {
        const logged: Array<unknown> = []
        const call = scripted(Exit.fail("no"))
        const fiber = yield* Retry.make({ schedule: spec, onRetry: () => Effect.never })
          .execute(call.run)
          .pipe(
            Effect.provide(Logger.layer([Logger.make(({ message }) => logged.push(message))])),
            Effect.forkChild({ startImmediately: true })
          )
        yield* TestClock.adjust(0)
        assert.strictEqual(call.calledAt.length, 1)
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(call.calledAt.length, 1)
        assert.deepStrictEqual(logged, [])
      })
    )
  })

  describe("delays", () => {
    it.effect("gives exactly its delays", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* delaysOf(spec, 10), [500, 1000, 2000])
        assert.deepStrictEqual(yield* delaysOf(Retry.delays([]), 10), [])
      })
    )

    it("throws on a negative delay and names it", () => {
      assert.throws(() => Retry.delays([1, -1]), RangeError, "Retry: delays[1] must be zero or more, got -1")
    })
  })

  describe("exponential", () => {
    it.effect("grows by the factor up to the cap", () =>
      Effect.gen(function* () {
        const schedule = Retry.exponential({ base: 100, factor: 3, maxDelay: 2000, jitter: "none", times: 5 })
        assert.deepStrictEqual(yield* delaysOf(schedule, 10), [100, 300, 900, 2000, 2000])
      })
    )

    it.effect("has the defaults its documentation names", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* delaysOf(Retry.exponential({ jitter: "none" }), 10), [1000, 2000, 4000])
        assert.deepStrictEqual(
          yield* delaysOf(Retry.exponential({ jitter: "none", times: 7 }), 10),
          [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        )
        assert.deepStrictEqual(yield* delaysOf(Retry.exponential({ base: "1 minute", jitter: "none" }), 1), [60_000])
        assert.deepStrictEqual(
          yield* delaysOf(Retry.exponential(), 10).pipe(Random.withSeed(1)),
          yield* delaysOf(
            Retry.exponential({ base: "1 second", factor: 2, maxDelay: "30 seconds", jitter: "full", times: 3 }),
            10
          ).pipe(Random.withSeed(1))
        )
      })
    )

    it.effect("is the cap at attempt 1,000 and beyond, with every jitter", () =>
      Effect.gen(function* () {
        const read = (jitter: "none" | "full" | "decorrelated") =>
          delaysOf(Retry.exponential({ base: 100, factor: 10, maxDelay: 5000, jitter, times: Infinity }), 1200)
        assert.deepStrictEqual(
          (yield* read("none")).slice(999),
          Array.from({ length: 201 }, () => 5000)
        )
        for (const jitter of ["full", "decorrelated"] as const) {
          const delays = yield* read(jitter).pipe(Random.withSeed("far"))
          assert.strictEqual(delays.length, 1200)
          for (const delay of delays) assert.isTrue(Number.isInteger(delay) && delay >= 0 && delay <= 5000)
        }
      })
    )

    it.effect("spreads full jitter over the whole range", () =>
      Effect.gen(function* () {
        const delays = yield* delaysOf(
          Retry.exponential({ base: 1000, factor: 1, jitter: "full", times: Infinity }),
          10_000
        ).pipe(Random.withSeed("full"))
        assert.isBelow(Math.min(...delays), 5)
        assert.isAbove(Math.max(...delays), 995)
        const mean = delays.reduce((sum, delay) => sum + delay, 0) / delays.length
        assert.isTrue(mean > 480 && mean < 520, `mean ${mean}`)
      })
    )

    it.effect("draws decorrelated jitter between the base and three times the wait before", () =>
      Effect.gen(function* () {
        const delays = yield* delaysOf(
          Retry.exponential({ base: 100, maxDelay: 20_000, jitter: "decorrelated", times: Infinity }),
          2000
        ).pipe(Random.withSeed("decorrelated"))
        let previous = 100
        for (const delay of delays) {
          // The schedule keeps the fraction of the wait before, which is rounded here.
          assert.isTrue(delay >= 100 && delay <= Math.min(20_000, 3 * previous + 2), `${delay} after ${previous}`)
          previous = delay
        }
        assert.isAbove(Math.max(...delays), 19_000)
      })
    )

    it.effect("gives the same delays for the same seed, others for another", () =>
      Effect.gen(function* () {
        for (const jitter of ["full", "decorrelated"] as const) {
          const read = (seed: string) =>
            delaysOf(Retry.exponential({ jitter, times: 20 }), 20).pipe(Random.withSeed(seed))
          assert.deepStrictEqual(yield* read("a"), yield* read("a"))
          assert.notDeepEqual(yield* read("a"), yield* read("b"))
        }
      })
    )

    it.effect("composes with other schedules", () =>
      Effect.gen(function* () {
        const schedule = Retry.exponential({ jitter: "none", times: Infinity }).pipe(Schedule.upTo({ times: 2 }))
        assert.deepStrictEqual(yield* delaysOf(schedule, 10), [1000, 2000])
      })
    )

    it.effect("spreads equal jitter over the upper half", () =>
      Effect.gen(function* () {
        const delays = yield* delaysOf(
          Retry.exponential({ base: 1000, factor: 1, jitter: "equal", times: Infinity }),
          10_000
        ).pipe(Random.withSeed("equal"))
        assert.isTrue(Math.min(...delays) >= 500 && Math.min(...delays) < 503)
        assert.isTrue(Math.max(...delays) <= 1000 && Math.max(...delays) > 997)
        const mean = delays.reduce((sum, delay) => sum + delay, 0) / delays.length
        assert.isTrue(mean > 740 && mean < 760, `mean ${mean}`)
      })
    )

    it.each([
      [{ base: 0 }, "Retry: base must be a finite duration over zero, got 0"],
      [{ base: "Infinity" }, "Retry: base must be a finite duration over zero, got Infinity"],
      [{ factor: 0.5 }, "Retry: factor must be a number of at least 1, got 0.5"],
      [{ factor: NaN }, "Retry: factor must be a number of at least 1, got NaN"],
      [{ base: 10, maxDelay: 9 }, "Retry: maxDelay must be finite and at least base, got 9"],
      [{ times: -1 }, "Retry: times must be an integer >= 0 or Infinity, got -1"],
      [{ times: 1.5 }, "Retry: times must be an integer >= 0 or Infinity, got 1.5"]
    ] as const)("throws on %o", (options, message) => {
      assert.throws(() => Retry.exponential(options), RangeError, message)
    })
  })

  describe("fixed", () => {
    it.effect("gives the same delay every time, three times by default", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* delaysOf(Retry.fixed(), 10), [1000, 1000, 1000])
        assert.deepStrictEqual(yield* delaysOf(Retry.fixed({ jitter: undefined }), 10), [1000, 1000, 1000])
        assert.deepStrictEqual(yield* delaysOf(Retry.fixed({ base: "1 minute", times: 1 }), 10), [60_000])
      })
    )

    it.effect("is spread when asked to", () =>
      Effect.gen(function* () {
        const delays = yield* delaysOf(Retry.fixed({ jitter: "equal", times: 100 }), 100).pipe(Random.withSeed(1))
        assert.isAbove(new Set(delays).size, 50)
        for (const delay of delays) assert.isTrue(delay >= 500 && delay <= 1000)
      })
    )
  })

  describe("linear", () => {
    it.effect("adds a step to each delay, up to the cap", () =>
      Effect.gen(function* () {
        const read = (options: Retry.LinearOptions) => delaysOf(Retry.linear({ jitter: "none", ...options }), 5)
        assert.deepStrictEqual(yield* read({}), [1000, 2000, 3000])
        assert.deepStrictEqual(yield* read({ base: 100, step: 50, times: 9 }), [100, 150, 200, 250, 300])
        assert.deepStrictEqual(yield* read({ base: 100, step: 0, times: 9 }), [100, 100, 100, 100, 100])
        assert.deepStrictEqual(yield* read({ base: 100, maxDelay: 250, times: 9 }), [100, 200, 250, 250, 250])
      })
    )

    it("throws on a step backwards or without end", () => {
      for (const step of [-1, Infinity]) {
        assert.throws(() => Retry.linear({ step }), RangeError, /step must be a finite duration of zero or more/)
      }
    })
  })

  describe("fibonacci", () => {
    it.effect("adds the two delays before, up to the cap", () =>
      Effect.gen(function* () {
        const schedule = Retry.fibonacci({ base: 100, jitter: "none", times: Infinity })
        assert.deepStrictEqual(
          yield* delaysOf(schedule, 16),
          [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 300, 300, 300].map((factor) => factor * 100)
        )
      })
    )

    it.effect("is exact as far as whole numbers are, and the cap at attempt 2,000", () =>
      Effect.gen(function* () {
        const schedule = Retry.fibonacci({ base: 1, maxDelay: 2 ** 45, jitter: "none", times: Infinity })
        const delays = yield* delaysOf(schedule, 2000)
        let [a, b] = [0, 1]
        for (const delay of delays) {
          assert.strictEqual(delay, Math.min(b, 2 ** 45))
          ;[a, b] = [b, a + b]
        }
        assert.strictEqual(delays.length, 2000)
      })
    )

    it.effect("spreads full jitter by default", () =>
      Effect.gen(function* () {
        const read = (jitter: "full" | undefined) =>
          delaysOf(Retry.fibonacci({ jitter, times: 20 }), 20).pipe(Random.withSeed(1))
        assert.deepStrictEqual(yield* read(undefined), yield* read("full"))
        for (const [index, delay] of (yield* read("full")).entries()) {
          assert.isAtMost(delay, [1000, 1000, 2000, 3000, 5000, 8000, 13_000, 21_000][index] ?? 30_000)
        }
      })
    )
  })

  describe("maxElapsed", () => {
    it.effect("begins no wait that would reach it, counted from the beginning of the call", () =>
      Effect.gen(function* () {
        const limited = (maxElapsed: Duration.Input) =>
          Effect.gen(function* () {
            const call = scripted(Exit.fail("no"))
            const slow = Effect.andThen(Effect.sleep(100), call.run)
            const start = yield* Clock.currentTimeMillis
            const exit = yield* finished(slow.pipe(Retry.make({ schedule: spec, maxElapsed }).execute))
            assert.deepStrictEqual(exit, Exit.fail("no"))
            return call.calledAt.map((at) => at - start)
          })
        assert.deepStrictEqual(yield* limited(600), [100])
        assert.deepStrictEqual(yield* limited(601), [100, 700])
        assert.deepStrictEqual(yield* limited(1700), [100, 700])
        assert.deepStrictEqual(yield* limited(1701), [100, 700, 1800])
      })
    )

    it.effect("ends the retries for a hint that goes beyond, before the budget is asked", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make()
        const call = scripted(Exit.fail(unavailable(5000)))
        const retry = Retry.make({ schedule: spec, maxElapsed: "5 seconds", budget })
        assert.isTrue(Exit.isFailure(yield* finished(retry.execute(call.run))))
        assert.strictEqual(call.calledAt.length, 1)
        const { calls, retries } = yield* budget.state("default")
        assert.deepStrictEqual({ calls, retries }, { calls: 1, retries: 0 })
      })
    )

    it.effect("counts anew for each call", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.fail("no"))
        const limited = call.run.pipe(Retry.make({ schedule: spec, maxElapsed: "1 second" }).execute)
        yield* finished(limited)
        yield* finished(limited)
        assert.strictEqual(call.calledAt.length, 4)
      })
    )

    it("throws unless it is over zero", () => {
      for (const maxElapsed of [0, -1, NaN]) {
        assert.throws(() => Retry.make({ schedule: spec, maxElapsed }), RangeError, /maxElapsed must be over zero/)
      }
    })
  })

  describe("retryAfter", () => {
    it.effect("says what an error asks for, instead of the error", () =>
      Effect.gen(function* () {
        const call = scripted<never, Unavailable>(Exit.fail(unavailable("1 hour")))
        yield* finished(
          call.run.pipe(Retry.retry({ schedule: Retry.delays([10]), retryAfter: (error) => error.status }))
        )
        assert.deepStrictEqual(call.calledAt, [0, 503])
      })
    )

    it.effect("is none when it is undefined, negative or no number", () =>
      Effect.gen(function* () {
        for (const hint of [undefined, -1, NaN]) {
          const call = scripted(Exit.fail("no"))
          const start = yield* Clock.currentTimeMillis
          yield* finished(call.run.pipe(Retry.retry({ schedule: Retry.delays([10]), retryAfter: () => hint })))
          assert.deepStrictEqual(
            call.calledAt.map((at) => at - start),
            [0, 10]
          )
        }
      })
    )
  })

  describe("retryResults", () => {
    const whileResult = (result: string) => result === "pending"

    it.effect("runs again while the result is an unwanted one", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.succeed("pending"), Exit.succeed("pending"), Exit.succeed("done"))
        const exit = yield* finished(call.run.pipe(Retry.retryResults({ schedule: spec, whileResult })))
        assert.deepStrictEqual(exit, Exit.succeed("done"))
        assert.deepStrictEqual(call.calledAt, [0, 500, 1500])
      })
    )

    it.effect("returns the last result as it is when the schedule ends", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.succeed("pending"))
        const exit = yield* finished(call.run.pipe(Retry.retryResults({ schedule: spec, whileResult })))
        assert.deepStrictEqual(exit, Exit.succeed("pending"))
        assert.strictEqual(call.calledAt.length, 4)
      })
    )

    it.effect("retries errors as well, with one schedule for both, and lets the last one through", () =>
      Effect.gen(function* () {
        const call = scripted<string, Unavailable | NotFound>(
          Exit.succeed("pending"),
          Exit.fail(unavailable(700)),
          Exit.succeed("pending"),
          Exit.fail(new NotFound())
        )
        const seen: Array<string> = []
        const exit = yield* finished(
          Retry.retryResults(call.run, {
            schedule: spec,
            whileResult,
            while: (error) => error._tag === "Unavailable",
            onRetry: ({ attempt, delay, error }) =>
              Effect.sync(() => seen.push(`${attempt} ${error._tag} ${Duration.toMillis(delay)}`))
          })
        )
        assert.deepStrictEqual(exit, Exit.fail(new NotFound()))
        assert.deepStrictEqual(seen, ["1 Unwanted 500", "2 Unavailable 1000", "3 Unwanted 2000"])
      })
    )

    it.effect("waits as long as a result asks", () =>
      Effect.gen(function* () {
        const call = scripted(Exit.succeed(unavailable("3 seconds")))
        yield* finished(Retry.retryResults(call.run, { schedule: Retry.delays([1, 1]), whileResult: () => true }))
        assert.deepStrictEqual(call.calledAt, [0, 3000, 6000])
      })
    )

    it.effect("asks errors, and not results, how long to wait", () =>
      Effect.gen(function* () {
        const call = scripted<string, Unavailable>(
          Exit.succeed("pending"),
          Exit.fail(unavailable()),
          Exit.succeed("ok")
        )
        const asked: Array<string> = []
        const guarded = Retry.retryResults(call.run, {
          schedule: Retry.delays([1, 1]),
          whileResult,
          retryAfter: (error) => {
            asked.push(error._tag)
            return error.status
          }
        })
        assert.deepStrictEqual(yield* finished(guarded), Exit.succeed("ok"))
        assert.deepStrictEqual(call.calledAt, [0, 1, 504])
        assert.deepStrictEqual(asked, ["Unavailable"])
      })
    )

    it.effect("pays for them out of the budget, and counts a call that ends with one as failed", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens({ maxTokens: 4, tokenRatio: 1 })
        const call = scripted(Exit.succeed("pending"))
        const guarded = Retry.retryResults(call.run, { schedule: spec, whileResult, budget })
        assert.deepStrictEqual(yield* finished(guarded), Exit.succeed("pending"))
        const { available, retries } = yield* budget.state("default")
        assert.deepStrictEqual(
          { available, retries, calls: call.calledAt.length },
          { available: 2, retries: 1, calls: 2 }
        )
      })
    )

    it.effect("ends with the defect of a predicate that throws", () =>
      Effect.gen(function* () {
        const thrown = new Error("predicate")
        const call = scripted(Exit.succeed("pending"))
        const whileResult = () => {
          throw thrown
        }
        const exit = yield* Effect.exit(call.run.pipe(Retry.retryResults({ schedule: spec, whileResult })))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === thrown)
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        let running = 0
        const call = Effect.acquireUseRelease(
          Effect.sync(() => ++running),
          () => Effect.as(Effect.yieldNow, "pending"),
          () => Effect.sync(() => running--)
        )
        const operations = yield* interruptEverywhere(
          call.pipe(Retry.retryResults({ schedule: Retry.delays([0, 0]), whileResult })),
          Effect.sync(() => assert.strictEqual(running, 0))
        )
        assert.isAbove(operations, 6)
      })
    )

    it("keeps the types of the call", () => {
      const self: Effect.Effect<number, Unavailable | NotFound, "R"> = Effect.fail(new NotFound())
      const last = self.pipe(
        Retry.retryResults({
          schedule: spec,
          whileResult: (result) => {
            expectTypeOf(result).toEqualTypeOf<number>()
            return result === 0
          },
          while: (error) => {
            expectTypeOf(error).toEqualTypeOf<Unavailable | NotFound>()
            return true
          }
        })
      )
      expectTypeOf(last).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
      const anything = (value: unknown) => value !== undefined
      const unknown = self.pipe(Retry.retryResults({ schedule: spec, whileResult: anything, while: anything }))
      expectTypeOf(unknown).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
      const first = Retry.retryResults(self, { schedule: spec, whileResult: (result) => result > 0 })
      expectTypeOf(first).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()
    })
  })

  describe("make", () => {
    it("throws on a negative maxRetryAfter", () => {
      assert.throws(
        () => Retry.make({ schedule: spec, maxRetryAfter: -1 }),
        RangeError,
        "Retry: maxRetryAfter must be zero or more, got -1"
      )
    })

    it("keeps the types of the call, and `while` and `onRetry` see its errors", () => {
      class Log extends Context.Service<Log, { readonly write: (line: string) => Effect.Effect<void> }>()("test/Log") {}
      const self: Effect.Effect<number, Unavailable | NotFound, "R"> = Effect.fail(new NotFound())

      const plain = self.pipe(Retry.make({ schedule: spec }).execute)
      expectTypeOf(plain).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()

      const last = self.pipe(
        Retry.retry({
          schedule: spec,
          while: (error) => {
            expectTypeOf(error).toEqualTypeOf<Unavailable | NotFound>()
            return error._tag === "Unavailable"
          },
          onRetry: ({ error }) => Effect.flatMap(Log, (log) => log.write(error._tag))
        })
      )
      expectTypeOf(last).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R" | Log>>()

      const first = Retry.retry(self, { schedule: spec, while: (error) => error._tag === "Unavailable" })
      expectTypeOf(first).toEqualTypeOf<Effect.Effect<number, Unavailable | NotFound, "R">>()

      const annotated = Retry.make({
        schedule: spec,
        while: (error: Unavailable | NotFound) => error._tag === "NotFound"
      })
      expectTypeOf(annotated).toEqualTypeOf<Retry.Retry<Unavailable | NotFound>>()
      expectTypeOf(annotated.execute(Effect.fail(new NotFound()))).toEqualTypeOf<Effect.Effect<never, NotFound>>()
      expectTypeOf(annotated).toExtend<Retry.Retry<NotFound>>()
      expectTypeOf(annotated).not.toExtend<Retry.Retry<NotFound | string>>()
    })
  })
})
