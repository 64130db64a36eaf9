import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Clock, Context, Data, Deferred, Duration, Effect, Exit, Fiber, Logger, Random } from "effect"
import { Bulkhead, Deadline, Hedge, Retry, RetryBudget } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Unavailable extends Data.TaggedError("Unavailable")<{
  readonly from: string
  readonly retryAfter?: Duration.Duration
}> {}
class NotFound extends Data.TaggedError("NotFound")<{}> {}

// What one attempt does: how long it takes, and how it ends.
type Plan<A, E> = readonly [millis: number, exit: Exit.Exit<A, E>]

// An operation whose n-th attempt follows the n-th plan, and a log of what happened when.
const scripted = Effect.fnUntraced(function* <A, E>(...plans: ReadonlyArray<Plan<A, E>>) {
  const start = yield* Clock.currentTimeMillis
  const log: Array<string> = []
  const note = (what: string) => Effect.map(Clock.currentTimeMillis, (now) => void log.push(`${what}@${now - start}`))
  let attempts = 0
  const run = Effect.suspend(() => {
    const attempt = ++attempts
    const [millis, exit] = plans[Math.min(attempt, plans.length) - 1] ?? [0, Exit.die("no plan")]
    return Effect.onInterrupt(
      Effect.andThen(note(`start ${attempt}`), Effect.andThen(millis === 0 ? Effect.void : Effect.sleep(millis), exit)),
      () => note(`stop ${attempt}`)
    )
  })
  return { log, note, run, attempts: () => attempts }
})

const succeedsIn = (millis: number, value: string): Plan<string, never> => [millis, Exit.succeed(value)]
const failsIn = (millis: number, from: string, retryAfter?: Duration.Input): Plan<never, Unavailable> => [
  millis,
  Exit.fail(
    new Unavailable(retryAfter === undefined ? { from } : { from, retryAfter: Duration.fromInputUnsafe(retryAfter) })
  )
]

const full = Exit.fail(new Bulkhead.BulkheadFull({ running: 1, waiting: 0 }))

// A budget that is never in the way.
const unlimited = RetryBudget.make({ share: 1000, minPerSecond: 1000 })

const make = <E = unknown>(options: Omit<Hedge.Options<E>, "delay"> & Partial<Pick<Hedge.Options<E>, "delay">> = {}) =>
  Effect.flatMap(unlimited, (budget) => Hedge.make<E>({ delay: 100, budget, ...options }))

// Runs an effect to its end, however long it sleeps.
const finished = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    const fiber = yield* Effect.forkChild(
      Effect.flatMap(Effect.exit(self), (exit) =>
        Effect.map(Clock.currentTimeMillis, (now) => [exit, now - start] as const)
      )
    )
    yield* TestClock.adjust("1 hour")
    return yield* Fiber.join(fiber)
  })

describe("Hedge", () => {
  describe("execute", () => {
    it.effect("makes a call that answers before the delay once", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { log, run } = yield* scripted(succeedsIn(99, "first"))
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("first"), 99])
        assert.deepStrictEqual(log, ["start 1@0"])
      })
    )

    it.effect("makes a slow call again beside the first, and stops the one that is slower", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { log, run } = yield* scripted(succeedsIn(500, "first"), succeedsIn(50, "second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("second"), 150])
        assert.deepStrictEqual(log, ["start 1@0", "start 2@100", "stop 1@150"])
      })
    )

    it.effect("takes the answer of the first if that comes before the second's", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { log, run } = yield* scripted(succeedsIn(120, "first"), succeedsIn(50, "second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("first"), 120])
        assert.deepStrictEqual(log, ["start 1@0", "start 2@100", "stop 2@120"])
      })
    )

    it.effect("starts one more after each delay, up to maxHedges", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 3 })
        const { log, run } = yield* scripted(succeedsIn(1000, "slow"))
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("slow"), 1000])
        assert.deepStrictEqual(log.slice(0, 4), ["start 1@0", "start 2@100", "start 3@200", "start 4@300"])
        assert.strictEqual(log.length, 7)
      })
    )

    it.effect("starts all at once with a delay of zero, and none with an infinite one", () =>
      Effect.gen(function* () {
        const parallel = yield* make({ delay: 0, maxHedges: 2 })
        const all = yield* scripted(succeedsIn(300, "a"), succeedsIn(200, "b"), succeedsIn(100, "c"))
        assert.deepStrictEqual(yield* finished(parallel.execute(all.run)), [Exit.succeed("c"), 100])
        const onFailure = yield* make({ delay: "Infinity" })
        const one = yield* scripted(succeedsIn(100_000, "late"))
        assert.deepStrictEqual(yield* finished(onFailure.execute(one.run)), [Exit.succeed("late"), 100_000])
        assert.strictEqual(one.attempts(), 1)
        const two = yield* scripted<string, Unavailable>(failsIn(10, "a"), succeedsIn(10, "b"))
        assert.deepStrictEqual(yield* finished(onFailure.execute(two.run)), [Exit.succeed("b"), 20])
      })
    )

    it.effect("runs the finalizers of the losers before the answer returns", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const { log, note, run } = yield* scripted(
          succeedsIn(500, "first"),
          succeedsIn(500, "second"),
          succeedsIn(10, "third")
        )
        const slowToStop = Effect.onInterrupt(run, () => Effect.andThen(Effect.sleep(30), note("closed")))
        assert.deepStrictEqual(yield* finished(hedge.execute(slowToStop)), [Exit.succeed("third"), 240])
        assert.deepStrictEqual(log.slice(3), ["stop 1@210", "stop 2@210", "closed@240", "closed@240"])
      })
    )

    it.effect("keeps the answer when a loser succeeds or dies while it is being stopped", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        let attempts = 0
        const run = Effect.suspend(() =>
          ++attempts === 1
            ? Effect.onInterrupt(Effect.never, () => Effect.die("while stopping"))
            : Effect.as(Effect.sleep(10), "second")
        )
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("second"), 110])
        const stubborn = Effect.suspend(() =>
          ++attempts === 3
            ? Effect.uninterruptible(Effect.as(Effect.sleep(300), "stubborn"))
            : Effect.as(Effect.sleep(10), "fourth")
        )
        assert.deepStrictEqual(yield* finished(hedge.execute(stubborn)), [Exit.succeed("fourth"), 300])
        const loser = Effect.flatMap(Hedge.CurrentHedge, (attempt) =>
          attempt === 0
            ? Effect.as(Effect.sleep(120), "first")
            : Effect.uninterruptible(Effect.as(Effect.sleep(100), "second"))
        )
        const { wins } = yield* hedge.state
        assert.deepStrictEqual(yield* finished(hedge.execute(loser)), [Exit.succeed("first"), 200])
        assert.strictEqual((yield* hedge.state).wins, wins)
      })
    )

    it.effect("takes an attempt that ends another one at once", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const gate = yield* Deferred.make<string>()
        let running = 0
        let attempts = 0
        const run = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () =>
            Effect.suspend(() =>
              ++attempts === 1
                ? Deferred.await(gate)
                : Effect.andThen(Deferred.succeed(gate, "opened by the second"), Effect.never)
            ),
          () => Effect.sync(() => running--)
        )
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("opened by the second"), 100])
        assert.strictEqual(running, 0)
      })
    )

    it.effect("leaves nothing running when an attempt interrupts its caller at once", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        let running = 0
        let attempts = 0
        let caller: Fiber.Fiber<unknown, unknown> | undefined
        const run = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () =>
            Effect.suspend(() => {
              if (++attempts === 2) caller?.interruptUnsafe()
              return Effect.never
            }),
          () => Effect.sync(() => running--)
        )
        const fiber = yield* Effect.forkChild(hedge.execute(run))
        caller = fiber
        yield* TestClock.adjust(200)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.hasInterrupts(exit))
        assert.strictEqual(attempts, 2)
        assert.strictEqual(running, 0)
      })
    )

    it.effect("counts an attempt that is starting while another one fails", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const gate = yield* Deferred.make<string, string>()
        const attempts: Array<number> = []
        const run = Effect.flatMap(Hedge.CurrentHedge, (attempt) => {
          attempts.push(attempt)
          if (attempt === 0) return Deferred.await(gate)
          return attempt === 1
            ? Effect.andThen(Deferred.fail(gate, "failed by the second"), Effect.fail("second"))
            : Effect.succeed("third")
        })
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("third"), 100])
        assert.deepStrictEqual(attempts, [0, 1, 2])
      })
    )

    it.effect("can be run again and concurrently", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { run } = yield* scripted(succeedsIn(500, "slow"), succeedsIn(500, "slow"), succeedsIn(10, "fast"))
        const guarded = hedge.execute(run)
        const both = Effect.all([guarded, guarded] as const, { concurrency: 2 })
        const [exit, at] = yield* finished(both)
        assert.deepStrictEqual([Exit.isSuccess(exit) && exit.value, at], [["fast", "fast"], 110])
        assert.deepStrictEqual(yield* finished(guarded), [Exit.succeed("fast"), 10])
      })
    )

    it.effect("tells the operation which attempt it is, the inner one of two hedges", () =>
      Effect.gen(function* () {
        const outer = yield* make()
        const inner = yield* make({ delay: 10 })
        const seen: Array<string> = []
        const run = (outside: number) =>
          Effect.flatMap(Hedge.CurrentHedge, (inside) => {
            seen.push(`${outside}/${inside}`)
            return Effect.never
          })
        const fiber = yield* Effect.flatMap(Hedge.CurrentHedge, (outside) => run(outside).pipe(inner.execute)).pipe(
          outer.execute,
          Effect.forkChild
        )
        yield* TestClock.adjust(1000)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(seen, ["0/0", "0/1", "1/0", "1/1"])
        assert.strictEqual(yield* Hedge.CurrentHedge, 0)
      })
    )

    it.effect("runs every attempt in the caller's context", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        let attempts = 0
        const run = Effect.suspend(() => (++attempts === 1 ? Effect.never : Effect.service(Name)))
        const [exit] = yield* finished(hedge.execute(run).pipe(Effect.provideService(Name, "ada")))
        assert.deepStrictEqual(exit, Exit.succeed("ada"))
      })
    )

    it.effect("starts no timer and counts nothing for a call that answers without waiting", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make()
        const hedge = yield* make({ budget, percentile: 0.95 })
        assert.strictEqual(yield* Effect.succeed("now").pipe(hedge.execute), "now")
        assert.strictEqual((yield* hedge.state).calls, 0)
        assert.deepStrictEqual(yield* budget.states, [])
      })
    )
  })

  describe("the timer", () => {
    // Follows a call whose n-th attempt ends as the n-th gate says, and reads the timers that are set.
    const following = Effect.fnUntraced(function* (options: Parameters<typeof make>[0], deadline: Duration.Input) {
      const hedge = yield* make(options)
      const sleeps: Array<number> = []
      const gates = [yield* Deferred.make<string, string>(), yield* Deferred.make<string, string>()]
      const run = Effect.flatMap(Hedge.CurrentHedge, (attempt) => {
        const gate = gates[attempt]
        return gate === undefined ? Effect.never : Deferred.await(gate)
      })
      const fiber = yield* hedge
        .execute(run)
        .pipe(Deadline.within(deadline), recordingSleeps(sleeps), Effect.forkChild({ startImmediately: true }))
      const end = (attempt: number, exit: Exit.Exit<string, string>) =>
        Effect.forEach(gates.slice(attempt, attempt + 1), (gate) => Deferred.done(gate, exit))
      return { end, fiber, sleeps }
    })

    it.effect("stops with the answer", () =>
      Effect.gen(function* () {
        for (const exit of [Exit.succeed("ok"), Exit.die("bug")]) {
          const { end, fiber, sleeps } = yield* following({}, "Infinity")
          assert.deepStrictEqual(sleeps, [100])
          yield* end(0, exit)
          yield* Fiber.await(fiber)
          assert.deepStrictEqual(sleeps, [])
        }
      })
    )

    it.effect("stops with an interruption", () =>
      Effect.gen(function* () {
        const { fiber, sleeps } = yield* following({}, "Infinity")
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(sleeps, [])
      })
    )

    it.effect("is not set by an attempt that ends the call at once", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const sleeps: Array<number> = []
        const gate = yield* Deferred.make<string>()
        const run = Effect.flatMap(Hedge.CurrentHedge, (attempt) =>
          attempt === 0 ? Deferred.await(gate) : Effect.andThen(Deferred.succeed(gate, "ok"), Effect.never)
        )
        const fiber = yield* Effect.forkChild(hedge.execute(run).pipe(recordingSleeps(sleeps)))
        yield* TestClock.adjust(150)
        assert.strictEqual(yield* Fiber.join(fiber), "ok")
        assert.deepStrictEqual(sleeps, [])
      })
    )

    it.effect("is set in whole milliseconds, which a timer does not cut off", () =>
      Effect.gen(function* () {
        const { fiber, sleeps } = yield* following({ delay: Duration.micros(99_500n) }, "Infinity")
        assert.deepStrictEqual(sleeps, [100])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect("is set once when the first attempt fails without waiting", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const sleeps: Array<number> = []
        const run = Effect.flatMap(Hedge.CurrentHedge, (attempt) => (attempt === 0 ? Effect.fail("no") : Effect.never))
        const fiber = yield* Effect.forkChild(hedge.execute(run).pipe(recordingSleeps(sleeps)), {
          startImmediately: true
        })
        assert.deepStrictEqual(sleeps, [100])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect("is one at a time, and none when no further attempt may follow", () =>
      Effect.gen(function* () {
        const { end, fiber, sleeps } = yield* following({ maxHedges: 2 }, "Infinity")
        yield* end(0, Exit.fail("no"))
        yield* Effect.yieldNow
        assert.deepStrictEqual(sleeps, [100])
        yield* end(1, Exit.fail("no"))
        yield* Effect.yieldNow
        assert.deepStrictEqual(sleeps, [])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect("is not set for an infinite delay, nor when the deadline comes no later", () =>
      Effect.gen(function* () {
        const infinite = yield* following({ delay: "Infinity" }, "Infinity")
        assert.deepStrictEqual(infinite.sleeps, [])
        yield* Fiber.interrupt(infinite.fiber)
        const late = yield* following({ delay: 100 }, 100)
        assert.deepStrictEqual(late.sleeps, [100])
        yield* Fiber.interrupt(late.fiber)
        const early = yield* following({ delay: 99 }, 100)
        assert.sameMembers(early.sleeps, [99, 100])
        yield* Fiber.interrupt(early.fiber)
      })
    )
  })

  describe("failures", () => {
    it.effect("start the next attempt at once, and the delay anew", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const { log, run } = yield* scripted<string, Unavailable>(
          failsIn(40, "first"),
          succeedsIn(500, "second"),
          succeedsIn(10, "third")
        )
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("third"), 150])
        assert.deepStrictEqual(log, ["start 1@0", "start 2@40", "start 3@140", "stop 2@150"])
      })
    )

    it.effect("start the next attempt also when they come without waiting", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const { log, run } = yield* scripted<string, Unavailable>(
          failsIn(0, "first"),
          failsIn(0, "second"),
          succeedsIn(0, "third")
        )
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [Exit.succeed("third"), 0])
        assert.strictEqual(log.length, 3)
      })
    )

    it.effect("of one attempt leave the others to answer", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const late = yield* scripted<string, Unavailable>(succeedsIn(300, "first"), failsIn(50, "second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(late.run)), [Exit.succeed("first"), 300])
        const early = yield* scripted<string, Unavailable>(failsIn(120, "first"), succeedsIn(200, "second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(early.run)), [Exit.succeed("second"), 300])
      })
    )

    it.effect("of all attempts give the last error that came", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { run } = yield* scripted(failsIn(300, "first"), failsIn(50, "second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(run)), [
          Exit.fail(new Unavailable({ from: "first" })),
          300
        ])
        const other = yield* scripted(failsIn(110, "first"), failsIn(50, "second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(other.run)), [
          Exit.fail(new Unavailable({ from: "second" })),
          150
        ])
      })
    )

    it.effect("of all attempts give a real error rather than a refusal that came later", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { attempts, run } = yield* scripted<never, Unavailable | Bulkhead.BulkheadFull>(failsIn(150, "first"), [
          80,
          full
        ])
        const [exit] = yield* finished(hedge.execute(run))
        assert.deepStrictEqual(exit, Exit.fail(new Unavailable({ from: "first" })))
        assert.strictEqual(attempts(), 2)
      })
    )

    it.effect("that are refusals start nothing, but what is under way can still succeed", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 3 })
        const alone = yield* scripted<never, Bulkhead.BulkheadFull>([0, full])
        assert.deepStrictEqual(yield* finished(hedge.execute(alone.run)), [full, 0])
        assert.strictEqual(alone.attempts(), 1)
        const both = yield* scripted<string, Bulkhead.BulkheadFull>(succeedsIn(500, "first"), [10, full])
        assert.deepStrictEqual(yield* finished(hedge.execute(both.run)), [Exit.succeed("first"), 500])
        assert.strictEqual(both.attempts(), 2)
      })
    )

    it.effect("that ask to wait start nothing, but what is under way can still succeed", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 3 })
        const alone = yield* scripted(failsIn(10, "first", "1 second"))
        assert.strictEqual((yield* finished(hedge.execute(alone.run)))[1], 10)
        assert.strictEqual(alone.attempts(), 1)
        const both = yield* scripted<string, Unavailable>(succeedsIn(400, "first"), failsIn(10, "second", "1 second"))
        assert.deepStrictEqual(yield* finished(hedge.execute(both.run)), [Exit.succeed("first"), 400])
        assert.strictEqual(both.attempts(), 2)
      })
    )

    it.effect("that `while` does not admit are the answer at once, and stop the others", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ while: (error: Unavailable | NotFound) => error._tag === "Unavailable" })
        const early = yield* scripted<string, NotFound>([10, Exit.fail(new NotFound())])
        assert.deepStrictEqual(yield* finished(hedge.execute(early.run)), [Exit.fail(new NotFound()), 10])
        assert.strictEqual(early.attempts(), 1)
        const late = yield* scripted<string, NotFound>(succeedsIn(500, "first"), [10, Exit.fail(new NotFound())])
        assert.deepStrictEqual(yield* finished(hedge.execute(late.run)), [Exit.fail(new NotFound()), 110])
        assert.deepStrictEqual(late.log, ["start 1@0", "start 2@100", "stop 1@110"])
      })
    )

    it.effect("beside a defect, defects and interruptions are the answer at once", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        for (const cause of [Cause.die("bug"), Cause.interrupt(1), Cause.combine(Cause.fail("no"), Cause.die("bug"))]) {
          for (const millis of [0, 10]) {
            const { attempts, run } = yield* scripted<never, string>([millis, Exit.failCause(cause)])
            const [exit] = yield* finished(hedge.execute(run))
            assert.isTrue(Exit.isFailure(exit) && exit.cause.reasons.length === cause.reasons.length)
            assert.isTrue(Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === cause.reasons[0]?._tag)
            assert.strictEqual(attempts(), 1)
          }
        }
      })
    )

    it.effect("on which a function of the user throws are its defect, and stop what is under way", () =>
      Effect.gen(function* () {
        const thrown = new Error("predicate")
        const fails = () => {
          throw thrown
        }
        const predicate = yield* make({ while: fails })
        const { log, run } = yield* scripted<string, Unavailable>(succeedsIn(500, "first"), failsIn(10, "second"))
        assert.deepStrictEqual(yield* finished(predicate.execute(run)), [Exit.die(thrown), 110])
        assert.deepStrictEqual(log.slice(2), ["stop 1@110"])
        const costs = yield* make({ budget: yield* RetryBudget.makeCosts({ cost: fails }) })
        const slow = yield* scripted(succeedsIn(500, "first"))
        assert.deepStrictEqual(yield* finished(costs.execute(slow.run)), [Exit.die(thrown), 100])
        assert.deepStrictEqual(slow.log, ["start 1@0", "stop 1@100"])
      })
    )
  })

  describe("budget", () => {
    it.effect("pays for every further attempt, and when it is spent none starts", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.make({ share: 0.5, minPerSecond: 0 })
        const hedge = yield* make({ budget, budgetKey: "site" })
        const slow = yield* scripted(succeedsIn(1000, "slow"))
        yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7], () => Effect.forkChild(hedge.execute(slow.run)))
        yield* TestClock.adjust(2000)
        const { calls, refused, retries } = yield* budget.state("site")
        assert.deepStrictEqual({ calls, refused, retries }, { calls: 7, refused: 4, retries: 3 })
        assert.strictEqual(slow.attempts(), 10)
        const failing = yield* scripted(failsIn(10, "no"))
        for (const attempts of [2, 3]) {
          yield* Effect.forkChild(Effect.exit(hedge.execute(failing.run)))
          yield* TestClock.adjust(50)
          assert.strictEqual(failing.attempts(), attempts)
        }
        assert.strictEqual((yield* hedge.state).refused, 5)
      })
    )

    it.effect("is by default ten percent of the calls and one a second", () =>
      Effect.gen(function* () {
        const hedge = yield* Hedge.make({ delay: 100 })
        const slow = yield* scripted(succeedsIn(150, "slow"))
        yield* finished(
          Effect.forEach(Array.from({ length: 1000 }), () => hedge.execute(slow.run), { concurrency: 1000 })
        )
        assert.strictEqual((yield* hedge.state).hedges, 110)
      })
    )

    it.effect("takes tokens and gives them back like a retry", () =>
      Effect.gen(function* () {
        const budget = yield* RetryBudget.makeTokens()
        const hedge = yield* make({ budget })
        const { run } = yield* scripted<string, Unavailable>(failsIn(10, "first"), succeedsIn(10, "second"))
        yield* finished(hedge.execute(run))
        assert.strictEqual((yield* budget.state("default")).available, 9.1)
        const refused = yield* scripted<never, Bulkhead.BulkheadFull>([0, full])
        yield* finished(hedge.execute(refused.run))
        assert.strictEqual((yield* budget.state("default")).available, 9.1)
        const costs = yield* RetryBudget.makeCosts()
        const paying = yield* make({ budget: costs })
        const failing = yield* scripted<string, Unavailable>(failsIn(10, "a"), failsIn(10, "b"), succeedsIn(10, "c"))
        yield* finished(paying.execute(failing.run))
        assert.strictEqual((yield* costs.state("default")).available, 495)
        yield* finished(paying.execute(failing.run))
        assert.strictEqual((yield* costs.state("default")).available, 496)
      })
    )
  })

  describe("deadline", () => {
    it.effect("that ends before the delay starts no timer, and one that has passed no attempt", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const { attempts, run } = yield* scripted(succeedsIn(500, "slow"))
        const [exit, at] = yield* finished(hedge.execute(run).pipe(Deadline.within(100)))
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(at, 100)
        assert.strictEqual(attempts(), 1)
        assert.strictEqual((yield* finished(hedge.execute(run).pipe(Deadline.within(101))))[1], 101)
        assert.strictEqual(attempts(), 3)
      })
    )

    it.effect("that leaves less than the median measured starts no attempt", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ percentile: 0.5, minSamples: 1, maxDelay: 20 })
        const usual = yield* scripted(succeedsIn(80, "usual"))
        yield* finished(hedge.execute(usual.run))
        const slow = yield* scripted(succeedsIn(500, "slow"))
        yield* finished(hedge.execute(slow.run).pipe(Deadline.within(95)))
        assert.strictEqual(slow.attempts(), 1)
        yield* finished(hedge.execute(slow.run).pipe(Deadline.within(110)))
        assert.strictEqual(slow.attempts(), 3)
      })
    )
  })

  describe("percentile", () => {
    const delayOf = (hedge: Hedge.Hedge) => Effect.map(hedge.state, ({ delay }) => Duration.toMillis(delay))

    it.effect("holds the given delay until enough was measured, and then follows the calls", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ delay: 1000, percentile: 0.85, minSamples: 10 })
        for (let millis = 10; millis <= 100; millis += 10) {
          assert.strictEqual(yield* delayOf(hedge), 1000)
          const { run } = yield* scripted(succeedsIn(millis, "ok"))
          yield* finished(hedge.execute(run))
        }
        assert.closeTo(yield* delayOf(hedge), 90, 0.025 * 90 + 1)
        assert.isTrue(Number.isInteger(yield* delayOf(hedge)))
      })
    )

    it.effect("keeps within minDelay and maxDelay", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ percentile: 0.5, minSamples: 1, minDelay: 50, maxDelay: 60 })
        const fast = yield* scripted(succeedsIn(10, "fast"))
        yield* finished(hedge.execute(fast.run))
        assert.strictEqual(yield* delayOf(hedge), 50)
        const slow = yield* scripted(succeedsIn(2000, "slow"))
        yield* finished(hedge.execute(slow.run))
        yield* finished(hedge.execute(slow.run))
        assert.strictEqual(yield* delayOf(hedge), 60)
      })
    )

    it.effect("measures first attempts that succeed or lose, and none that fail or are interrupted", () =>
      Effect.gen(function* () {
        const measured = (...plans: ReadonlyArray<Plan<string, Unavailable>>) =>
          Effect.gen(function* () {
            const hedge = yield* make({ percentile: 0.5, minSamples: 1, delay: 100 })
            const { run } = yield* scripted(...plans)
            const fiber = yield* Effect.forkChild(hedge.execute(run))
            yield* TestClock.adjust(450)
            yield* Fiber.interrupt(fiber)
            return Math.round(yield* delayOf(hedge))
          })
        assert.closeTo(yield* measured(succeedsIn(40, "ok")), 40, 1)
        assert.closeTo(yield* measured(succeedsIn(400, "lost"), succeedsIn(60, "won")), 160, 4)
        assert.closeTo(yield* measured(succeedsIn(140, "won"), succeedsIn(60, "lost")), 140, 4)
        assert.strictEqual(yield* measured(failsIn(40, "a"), failsIn(50, "b")), 100)
        assert.strictEqual(yield* measured(failsIn(40, "a"), succeedsIn(50, "b")), 100)
        assert.strictEqual(yield* measured(succeedsIn(500, "interrupted")), 100)
      })
    )

    it.effect("settles where its part of the calls is faster, although the slow ones are cut off", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ delay: 1000, percentile: 0.95, minSamples: 20 })
        const run = Effect.flatMap(Random.nextIntBetween(0, 100), (n) => Effect.sleep(n < 98 ? 20 + n / 5 : 3000))
        const before = 2000
        yield* finished(Effect.forEach(Array.from({ length: before }), () => hedge.execute(run)))
        assert.closeTo(yield* delayOf(hedge), 39, 2)
        const { hedges } = yield* hedge.state
        yield* finished(Effect.forEach(Array.from({ length: 2000 }), () => hedge.execute(run)))
        assert.closeTo(((yield* hedge.state).hedges - hedges) / 2000, 0.05, 0.03)
      }).pipe(Random.withSeed("tail"))
    )
  })

  describe("interruption", () => {
    it.effect("from outside stops every attempt and runs its finalizers", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ maxHedges: 2 })
        const { log, run } = yield* scripted(succeedsIn(1000, "slow"))
        const fiber = yield* Effect.forkChild(hedge.execute(run))
        yield* TestClock.adjust(150)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.deepStrictEqual(log.slice(2), ["stop 1@150", "stop 2@150"])
        yield* TestClock.adjust(1000)
        assert.strictEqual(log.length, 4)
      })
    )

    it.effect("is the end, although an attempt that ignores it still succeeds or fails", () =>
      Effect.gen(function* () {
        const hedge = yield* make({ percentile: 0.5, minSamples: 1 })
        for (const end of [Effect.succeed("late"), Effect.fail("no")]) {
          const stubborn = Effect.uninterruptible(Effect.andThen(Effect.sleep(50), end))
          const fiber = yield* Effect.forkChild(hedge.execute(stubborn))
          yield* TestClock.adjust(10)
          const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber))
          yield* TestClock.adjust(1000)
          yield* Fiber.join(interruption)
        }
        const { delay, hedges } = yield* hedge.state
        assert.deepStrictEqual([Duration.toMillis(delay), hedges], [100, 0])
      })
    )

    it.effect("at any operation leaves no attempt running", () =>
      Effect.gen(function* () {
        let running = 0
        const attempt = (end: Effect.Effect<string, Unavailable>) =>
          Effect.acquireUseRelease(
            Effect.sync(() => running++),
            () => Effect.andThen(Effect.yieldNow, end),
            () =>
              Effect.andThen(
                Effect.yieldNow,
                Effect.sync(() => running--)
              )
          )
        for (const delay of [0, "Infinity"] as const) {
          const hedge = yield* make({ delay, maxHedges: 2, percentile: 0.99, onHedge: () => Effect.yieldNow })
          let attempts = 0
          const call = Effect.suspend(() => {
            attempts = 0
            return hedge.execute(
              Effect.suspend(() =>
                attempt(++attempts === 3 ? Effect.succeed("third") : new Unavailable({ from: `${attempts}` }))
              )
            )
          })
          const operations = yield* interruptEverywhere(
            call,
            Effect.sync(() => assert.strictEqual(running, 0))
          )
          assert.isAbove(operations, 20)
        }
      })
    )
  })

  describe("onHedge", () => {
    it.effect("is told which further attempt starts and why, before it does", () =>
      Effect.gen(function* () {
        const { log, note, run } = yield* scripted<string, Unavailable>(
          succeedsIn(500, "first"),
          failsIn(30, "second"),
          succeedsIn(10, "third")
        )
        const hedge = yield* make({
          maxHedges: 2,
          while: (error: Unavailable) => error.from !== "",
          onHedge: (started) =>
            note(
              started._tag === "Slow"
                ? `${started.hedge} after ${Duration.toMillis(started.delay)} ms`
                : `${started.hedge} after ${started.error.from}`
            )
        })
        yield* finished(hedge.execute(run))
        assert.deepStrictEqual(log, [
          "start 1@0",
          "1 after 100 ms@100",
          "start 2@100",
          "2 after second@130",
          "start 3@130",
          "stop 1@140"
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
    ] as const)("does not break the call when it %s, and that is logged", ([, onHedge]) =>
      Effect.gen(function* () {
        const logged: Array<unknown> = []
        const hedge = yield* make({ onHedge })
        const { run } = yield* scripted(succeedsIn(500, "first"), succeedsIn(10, "second"))
        const [exit] = yield* finished(hedge.execute(run)).pipe(
          Effect.provide(Logger.layer([Logger.make(({ message }) => logged.push(message))]))
        )
        assert.deepStrictEqual(exit, Exit.succeed("second"))
        assert.strictEqual(logged.length, 1)
      })
    )
  })

  describe("state", () => {
    it.effect("counts calls that had to wait, further attempts, and those that won", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        yield* hedge.execute(Effect.void)
        const won = yield* scripted(succeedsIn(500, "first"), succeedsIn(10, "second"))
        yield* finished(hedge.execute(won.run))
        const lost = yield* scripted(succeedsIn(105, "first"), succeedsIn(10, "second"))
        yield* finished(hedge.execute(lost.run))
        const fast = yield* scripted(succeedsIn(5, "first"))
        yield* finished(hedge.execute(fast.run))
        assert.deepStrictEqual(yield* hedge.state, {
          delay: Duration.millis(100),
          calls: 3,
          hedges: 2,
          wins: 1,
          refused: 0
        })
      })
    )
  })

  describe("inside a retry", () => {
    it.effect("is one attempt of it, whose attempts all have its number", () =>
      Effect.gen(function* () {
        const hedge = yield* make()
        const seen: Array<string> = []
        const run = Effect.flatMap(Effect.all([Retry.CurrentAttempt, Hedge.CurrentHedge]), ([attempt, hedge]) => {
          seen.push(`${attempt}/${hedge}`)
          return Effect.fail("no")
        })
        const retry = Retry.make({ schedule: Retry.delays([10]) })
        assert.deepStrictEqual(yield* finished(run.pipe(hedge.execute, retry.execute)), [Exit.fail("no"), 10])
        assert.deepStrictEqual(seen, ["1/0", "1/1", "2/0", "2/1"])
      })
    )
  })

  describe("make", () => {
    it.effect("has the defaults its documentation names", () =>
      Effect.gen(function* () {
        const hedge = yield* Hedge.make({ delay: 5000, percentile: 0.5 })
        const { run } = yield* scripted(succeedsIn(0.01, "fast"))
        for (let i = 0; i < 99; i++) yield* finished(hedge.execute(run))
        assert.strictEqual(Duration.toMillis((yield* hedge.state).delay), 5000)
        yield* finished(hedge.execute(run))
        assert.strictEqual(Duration.toMillis((yield* hedge.state).delay), 1)
        const slow = yield* scripted(succeedsIn(100_000, "slow"))
        yield* finished(hedge.execute(slow.run))
        assert.strictEqual(slow.attempts(), 2)
      })
    )

    it.effect.each([
      [{ delay: -1 }, "Hedge: delay must be zero or more, got -1"],
      [{ percentile: 1 }, "Hedge: percentile must be over 0 and under 1, got 1"],
      [{ percentile: 0 }, "Hedge: percentile must be over 0 and under 1, got 0"],
      [{ minDelay: -1 }, "Hedge: minDelay must be zero or more, got -1"],
      [{ minDelay: 10, maxDelay: 9 }, "Hedge: maxDelay must be at least minDelay, got 9"],
      [{ minSamples: 0 }, "Hedge: minSamples must be an integer >= 1, got 0"],
      [{ maxHedges: 0 }, "Hedge: maxHedges must be an integer >= 1, got 0"],
      [{ maxHedges: 1.5 }, "Hedge: maxHedges must be an integer >= 1, got 1.5"]
    ] as const)("dies on %o", ([options, message]) =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* Effect.exit(make(options)), Exit.die(new RangeError(message)))
      })
    )

    it.effect("keeps the types of the call, and `while` and `onHedge` see its errors", () =>
      Effect.gen(function* () {
        class Log extends Context.Service<Log, { readonly write: (line: string) => Effect.Effect<void> }>()(
          "test/Log"
        ) {}
        const guard =
          <E, R>(hedge: Hedge.Hedge<E, R>) =>
          (self: Effect.Effect<number, Unavailable & E, "R">) =>
            self.pipe(hedge.execute)
        const plain = yield* Hedge.make({ delay: 1 })
        expectTypeOf(plain).toEqualTypeOf<Hedge.Hedge>()
        const guarded = (self: Effect.Effect<number, Unavailable, "R">) => self.pipe(plain.execute)
        expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number, Unavailable, "R">>()

        const annotated = yield* Hedge.make({
          delay: 1,
          while: (error: Unavailable | NotFound) => error._tag === "NotFound",
          onHedge: (started) =>
            Effect.flatMap(Log, (log) => log.write(started._tag === "Failed" ? started.error._tag : "slow"))
        })
        expectTypeOf(annotated).toEqualTypeOf<Hedge.Hedge<Unavailable | NotFound, Log>>()
        expectTypeOf(guard(annotated)).returns.toEqualTypeOf<Effect.Effect<number, Unavailable, "R" | Log>>()
        expectTypeOf(annotated).toExtend<Hedge.Hedge<NotFound, Log>>()
        expectTypeOf(annotated).not.toExtend<Hedge.Hedge<NotFound | string, Log>>()
      })
    )
  })
})

type Name = "Name"
const Name = Context.Service<Name, string>("test/Name")

// A clock whose sleeps are listed while they last.
const recordingSleeps = (sleeps: Array<number>) =>
  Effect.updateService(Clock.Clock, (clock): Clock.Clock => ({
    ...clock,
    currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
    currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    sleep: (duration) =>
      Effect.suspend(() => {
        const millis = Duration.toMillis(duration)
        sleeps.push(millis)
        return Effect.onExit(clock.sleep(duration), () => Effect.sync(() => sleeps.splice(sleeps.indexOf(millis), 1)))
      })
  }))
