import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Context, Data, Duration, Effect, Exit, Fiber, Logger, Random, Schedule } from "effect"
import { Deadline, Retry } from "effect-resilience"
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
