import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Random } from "effect"
import {
  AdaptiveLimit,
  Bulkhead,
  CircuitBreaker,
  Hedge,
  Policy,
  Priority,
  Retry,
  RetryBudget,
  Timeout
} from "effect-resilience"
import {
  type About,
  renderTable,
  type Simulation,
  simulate,
  type SimulationFailed,
  World
} from "effect-resilience/testing"

class Store extends Context.Service<Store, { readonly name: string }>()("test/Store") {}

const even = (perSecond: number) => ({ perSecond, spacing: "even" }) as const
const world = (input: Partial<World.Input> = {}): World.Input => ({
  duration: "10 seconds",
  arrivals: even(10),
  upstream: { latency: "50 millis" },
  ...input
})
const during = (kind: "refusing" | "failing" | "slow" | "hanging", latency = 50): World.Input["upstream"] => ({
  latency,
  outages: [{ from: "2 seconds", until: "4 seconds", kind }]
})
const direct = <A>(call: A): A => call
const of = <A>(simulation: Simulation, value: (bucket: Simulation["buckets"][number]) => A) =>
  simulation.buckets.map(value)

describe("simulate", () => {
  describe("what happens", () => {
    it.effect("is told second by second", () =>
      Effect.gen(function* () {
        const simulation = yield* simulate(world({ duration: "3 seconds" }), direct)
        assert.deepStrictEqual(
          of(simulation, ({ atMillis, offered, successes, upstreamCalls }) => [
            atMillis,
            offered,
            upstreamCalls,
            successes
          ]),
          [
            [0, 10, 10, 10],
            [1_000, 10, 10, 10],
            [2_000, 10, 10, 10]
          ]
        )
        const { latency, ...counts } = simulation.totals
        assert.closeTo(latency?.p50 ?? 0, 50, 0.5)
        assert.closeTo(latency?.max ?? 0, 50, 1e-6)
        assert.closeTo(counts.meanRunning, 0.5, 0.001)
        assert.deepStrictEqual(
          { ...counts, meanRunning: 0 },
          {
            offered: 30,
            upstreamCalls: 30,
            extraCalls: 0,
            turnedAway: 0,
            successes: 30,
            refused: {},
            failed: {},
            abandoned: 0,
            maxRunning: 1,
            meanRunning: 0,
            maxQueued: 0,
            successRate: 1,
            load: 1
          }
        )
        assert.deepStrictEqual(simulation.leftover, { calls: 0, fibers: 0 })
        assert.strictEqual(simulation.worst.successRate?.value, 1)
      })
    )

    it.effect("has buckets of any length, also where nothing happens", () =>
      Effect.gen(function* () {
        const quiet = world({ arrivals: { perSecond: 0, bursts: [{ at: "1 second", calls: 7 }] } })
        const simulation = yield* simulate(quiet, direct, { bucket: "2 seconds" })
        assert.deepStrictEqual(
          of(simulation, ({ offered }) => offered),
          [7, 0, 0, 0, 0]
        )
        assert.strictEqual(simulation.totals.maxRunning, 7)
        const [first] = simulation.buckets
        assert.closeTo(first?.meanRunning ?? 0, (7 * 50) / 2_000, 1e-9)
      })
    )

    it.effect("knows in each second what runs, also when nothing begins or ends in it", () =>
      Effect.gen(function* () {
        const simulation = yield* simulate(
          world({
            duration: "4 seconds",
            arrivals: { perSecond: 0, bursts: [{ at: 0, calls: 2 }] },
            upstream: { latency: "3 seconds", capacity: { concurrent: 1, queued: 1 } }
          }),
          direct
        )
        assert.deepStrictEqual(
          of(simulation, ({ inFlight, maxQueued, maxRunning, meanRunning }) => [
            inFlight,
            maxQueued,
            maxRunning,
            Math.round(meanRunning * 1_000) / 1_000
          ]),
          [
            [2, 1, 1, 1],
            [2, 1, 1, 1],
            [2, 1, 1, 1],
            [1, 1, 1, 1],
            [1, 0, 1, 1],
            [1, 0, 1, 1]
          ]
        )
      })
    )

    it.effect("counts each end where it belongs", () =>
      Effect.gen(function* () {
        const foreign: unknown = new TypeError("an error")
        const ends = [
          Effect.succeed(1),
          Effect.fail(new Timeout.TimedOut({ after: Duration.seconds(1) })),
          Effect.fail(new Bulkhead.BulkheadFull({ running: 1, waiting: 0 })),
          Effect.fail("no object"),
          Effect.fail<unknown>(foreign),
          Effect.die("a defect"),
          Effect.interrupt
        ]
        const { totals } = yield* simulate(
          world({ duration: "700 millis" }),
          (_, { number }) => ends[number - 1] ?? Effect.never
        )
        assert.deepStrictEqual(
          [totals.successes, totals.refused, totals.failed],
          [1, { BulkheadFull: 1 }, { TimedOut: 1, "no object": 1, TypeError: 1, Die: 1, Interrupt: 1 }]
        )
        assert.strictEqual(totals.successRate, 1 / 7)
        assert.strictEqual(totals.latency?.max, 0)
      })
    )

    it.effect("catches what a policy throws", () =>
      Effect.gen(function* () {
        const { totals } = yield* simulate(world({ duration: 100 }), () => {
          throw new Error("thrown")
        })
        assert.deepStrictEqual(totals.failed, { Die: 1 })
      })
    )

    it.effect("tells at most 32 tags of errors apart", () =>
      Effect.gen(function* () {
        const { totals } = yield* simulate(
          world({ arrivals: { perSecond: 0, bursts: [{ at: 0, calls: 100 }] } }),
          (_, { number }) => Effect.fail(`error ${number}`)
        )
        assert.strictEqual(Object.keys(totals.failed).length, 33)
        assert.strictEqual(totals.failed["other"], 68)
      })
    )

    it.effect("is the same for the same seed, and another for another", () =>
      Effect.gen(function* () {
        const policy = Effect.gen(function* () {
          const circuitBreaker = yield* CircuitBreaker.make({ failures: 3, openFor: "1 second" })
          const retry = Retry.make({ schedule: Retry.exponential({ base: "100 millis" }) })
          return { ...Policy.make({ circuitBreaker, retry, timeout: "300 millis" }), circuitBreaker }
        })
        const with_ = (seed: string) =>
          simulate(
            world({
              seed,
              arrivals: { perSecond: 30 },
              keys: { count: 5 },
              upstream: {
                latency: { kind: "lognormal", p50: 50, p99: 400 },
                failures: { rate: 0.3 },
                capacity: { concurrent: 4, queued: 3 }
              }
            }),
            policy
          )
        const first = yield* with_("a")
        // What surrounds a simulation changes nothing.
        const again = yield* Random.withSeed(Effect.andThen(Random.next, with_("a")), "other")
        assert.deepStrictEqual(again, first)
        assert.isAbove(first.transitions.length, 0)
        assert.notDeepEqual((yield* with_("b")).buckets, first.buckets)
      })
    )

    it.effect("comes at the same times, whatever the policy does", () =>
      Effect.gen(function* () {
        const poisson = world({ arrivals: { perSecond: 20 }, upstream: { latency: 50, failures: { rate: 0.5 } } })
        const once = yield* simulate(poisson, direct)
        const often = yield* simulate(poisson, Retry.retry({ schedule: Retry.exponential({ base: 100 }) }))
        const offered = (simulation: Simulation) => of(simulation, (bucket) => bucket.offered).slice(0, 10)
        assert.deepStrictEqual(offered(often), offered(once))
        assert.isAbove(often.totals.extraCalls, 50)
        assert.strictEqual(often.totals.upstreamCalls - often.totals.offered, often.totals.extraCalls)
      })
    )
  })

  describe("the upstream", () => {
    it.effect("refuses at once, fails after its work, is slow, or hangs during an outage", () =>
      Effect.gen(function* () {
        const seconds = (simulation: Simulation) => of(simulation, ({ successes }) => successes).slice(0, 6)
        const refusing = yield* simulate(world({ upstream: during("refusing") }), direct)
        assert.deepStrictEqual(seconds(refusing), [10, 10, 0, 0, 10, 10])
        assert.deepStrictEqual(refusing.totals.failed, { "UpstreamFailed refused": 20 })
        assert.strictEqual(refusing.buckets[2]?.meanRunning, 0)

        const failing = yield* simulate(world({ upstream: during("failing") }), direct)
        assert.deepStrictEqual(failing.totals.failed, { "UpstreamFailed failed": 20 })
        assert.closeTo(failing.buckets[3]?.meanRunning ?? 0, 0.5, 0.01)

        const slow = yield* simulate(world({ upstream: during("slow") }), direct)
        assert.deepStrictEqual(seconds(slow), [10, 10, 5, 10, 15, 10])
        assert.closeTo(slow.totals.latency?.max ?? 0, 500, 1e-6)

        const hanging = yield* simulate(world({ upstream: during("hanging") }), Timeout.timeout("1 second"))
        assert.deepStrictEqual(seconds(hanging), [10, 10, 0, 0, 10, 10])
        assert.deepStrictEqual(hanging.totals.failed, { TimedOut: 20 })
        assert.strictEqual(hanging.totals.maxRunning, 10)
      })
    )

    it.effect("hits a part of the calls, and fails at a rate", () =>
      Effect.gen(function* () {
        const { totals } = yield* simulate(
          world({
            duration: "1000 seconds",
            upstream: {
              latency: 50,
              failures: { rate: 0.1, status: 502, latency: 10 },
              outages: [{ from: 0, until: "1000 seconds", kind: "refusing", share: 0.4 }]
            }
          }),
          (call) =>
            Effect.tapError(call, (error) =>
              error.reason === "failed" ? Effect.sync(() => assert.strictEqual(error.status, 502)) : Effect.void
            )
        )
        assert.closeTo((totals.failed["UpstreamFailed refused"] ?? 0) / 10_000, 0.4, 0.02)
        assert.closeTo((totals.failed["UpstreamFailed failed"] ?? 0) / 10_000, 0.06, 0.01)
      })
    )

    it.effect("works on as many as it can, lets some wait and turns the rest away", () =>
      Effect.gen(function* () {
        const burst = { perSecond: 0, bursts: [{ at: 0, calls: 10 }] }
        const { totals } = yield* simulate(
          world({ arrivals: burst, upstream: { latency: 100, capacity: { concurrent: 2, queued: 4 } } }),
          direct
        )
        assert.deepStrictEqual(
          [totals.maxRunning, totals.maxQueued, totals.turnedAway, totals.successes, totals.failed],
          [2, 4, 4, 6, { "UpstreamFailed full": 4 }]
        )
        assert.strictEqual(totals.latency?.max, 300)
      })
    )

    it.effect("does so many calls a second", () =>
      Effect.gen(function* () {
        const simulation = yield* simulate(
          world({ arrivals: even(50), upstream: { latency: 50, capacity: { perSecond: 20, queued: 30 } } }),
          direct
        )
        const rates = of(simulation, ({ successes }) => successes).slice(2, 10)
        assert.isTrue(
          rates.every((rate) => rate >= 19 && rate <= 21),
          String(rates)
        )
        assert.strictEqual(simulation.totals.maxQueued, 30)
      })
    )

    it.effect("finishes the work that nobody waits for, unless it stops", () =>
      Effect.gen(function* () {
        const abandoning = (abandoned?: "finish" | "stop") =>
          simulate(
            world({
              arrivals: { perSecond: 0, bursts: [{ at: 0, calls: 4 }] },
              patience: 100,
              upstream: {
                latency: 500,
                capacity: { concurrent: 2, queued: 2 },
                ...(abandoned === undefined ? {} : { abandoned })
              }
            }),
            direct,
            { bucket: 1_000 }
          )
        const work = (simulation: Simulation) => Math.round((simulation.buckets[0]?.meanRunning ?? 0) * 1_000)
        const finished = yield* abandoning()
        assert.strictEqual(finished.totals.abandoned, 4)
        assert.strictEqual(work(finished), 4 * 500)
        assert.deepStrictEqual(yield* abandoning("finish"), { ...finished, world: (yield* abandoning("finish")).world })
        const stopped = yield* abandoning("stop")
        assert.strictEqual(stopped.totals.abandoned, 4)
        assert.strictEqual(work(stopped), 2 * 100)
      })
    )

    it.effect("that stops does not begin what waits for nobody", () =>
      Effect.gen(function* () {
        const impatient = (abandoned: "finish" | "stop") =>
          simulate(
            world({
              arrivals: { perSecond: 0, bursts: [{ at: 0, calls: 4 }] },
              upstream: { latency: 500, abandoned, capacity: { concurrent: 2, queued: 2 } }
            }),
            (call, { number }) => (number > 2 ? Timeout.timeout(call, 50) : call),
            { bucket: 2_000 }
          )
        const work = (simulation: Simulation) => Math.round((simulation.buckets[0]?.meanRunning ?? 0) * 2_000)
        assert.strictEqual(work(yield* impatient("stop")), 2 * 500)
        assert.strictEqual(work(yield* impatient("finish")), 4 * 500)
      })
    )

    it.effect("does not hang for a caller who has gone before its turn", () =>
      Effect.gen(function* () {
        const { totals } = yield* simulate(
          world({
            arrivals: {
              perSecond: 0,
              bursts: [
                { at: 0, calls: 2 },
                { at: "3 seconds", calls: 1 }
              ]
            },
            upstream: {
              latency: 50,
              capacity: { concurrent: 1, queued: 5 },
              outages: [{ from: 0, until: "1 second", kind: "hanging" }]
            }
          }),
          (call, { number }) => Timeout.timeout(call, number === 1 ? "2 seconds" : "1 second")
        )
        assert.deepStrictEqual([totals.successes, totals.failed], [1, { TimedOut: 2 }])
      })
    )

    it.effect("gives up a call that hangs with its caller", () =>
      Effect.gen(function* () {
        const simulation = yield* simulate(
          world({
            duration: "6 seconds",
            patience: "1 second",
            upstream: { ...during("hanging"), capacity: { concurrent: 15, queued: 100 } }
          }),
          direct
        )
        assert.deepStrictEqual(
          of(simulation, ({ maxRunning }) => maxRunning),
          [1, 1, 10, 10, 10, 1]
        )
        assert.strictEqual(simulation.totals.abandoned, 20)
      })
    )
  })

  describe("callers", () => {
    it.effect("in a closed loop wait for the answer, and think", () =>
      Effect.gen(function* () {
        const { arrivals: _, ...closed } = world({ duration: "100 seconds", clients: { count: 10, think: 450 } })
        const { totals } = yield* simulate(closed, direct)
        // 10 clients, a call each 500 ms.
        assert.closeTo(totals.offered, 2_000, 20)
        assert.strictEqual(totals.maxRunning, 10)
        const slow = yield* simulate({ ...closed, upstream: { latency: 4_550 } }, direct)
        assert.closeTo(slow.totals.offered, 200, 10)
      })
    )

    it.effect("have keys and priorities in the proportions of the world", () =>
      Effect.gen(function* () {
        const keys = new Map<string, number>()
        const priorities = new Map<string, number>()
        const add = (counts: Map<string, number>, name: string) => counts.set(name, (counts.get(name) ?? 0) + 1)
        yield* simulate(
          world({
            duration: "1000 seconds",
            keys: { count: 3, skew: 1 },
            priorities: { critical: 1, low: 3 }
          }),
          (call, about) =>
            Effect.gen(function* () {
              assert.strictEqual(yield* Priority.current, about.priority)
              assert.strictEqual((yield* call).key, about.key)
              add(keys, about.key)
              add(priorities, about.priority)
            })
        )
        // 1 : 1/2 : 1/3
        for (const [key, part] of [
          ["key-1", 6 / 11],
          ["key-2", 3 / 11],
          ["key-3", 2 / 11]
        ] as const) {
          assert.closeTo((keys.get(key) ?? 0) / 10_000, part, 0.02)
        }
        assert.strictEqual(keys.size, 3)
        assert.closeTo((priorities.get("low") ?? 0) / 10_000, 0.75, 0.02)
        assert.deepStrictEqual([...priorities.keys()].sort(), ["critical", "low"])
      })
    )

    it.effect("are normal, and about one key, if the world does not say", () =>
      Effect.gen(function* () {
        const seen: Array<About> = []
        yield* Priority.as(
          simulate(world({ duration: 200 }), (call, about) =>
            Effect.tap(call, () => Effect.sync(() => seen.push(about)))
          ),
          "low"
        )
        assert.deepStrictEqual(seen, [
          { number: 1, key: "key-1", priority: "normal" },
          { number: 2, key: "key-1", priority: "normal" }
        ])
      })
    )
  })

  describe("the policy", () => {
    it.effect("is made in the time and the scope of the world", () =>
      Effect.gen(function* () {
        let closed = false
        const policy = Effect.gen(function* () {
          yield* Effect.addFinalizer(() =>
            Effect.andThen(
              Effect.sleep("3 seconds"),
              Effect.sync(() => (closed = true))
            )
          )
          yield* Effect.sleep("5 minutes")
          return direct
        })
        const { buckets, leftover } = yield* simulate(world(), policy)
        assert.strictEqual(buckets.length, 10)
        assert.isTrue(closed)
        assert.deepStrictEqual(leftover, { calls: 0, fibers: 0 })
      })
    )

    it.effect("tells when its circuits change", () =>
      Effect.gen(function* () {
        const policy = Effect.gen(function* () {
          const circuitBreaker = yield* CircuitBreaker.make({ failures: 5, openFor: "1 second", successesToClose: 1 })
          return { ...Policy.make({ circuitBreaker }), circuitBreaker }
        })
        const { buckets, totals, transitions } = yield* simulate(world({ upstream: during("refusing") }), policy)
        assert.deepStrictEqual(
          transitions.map(({ from, to }) => `${from} ${to}`),
          ["Closed Open", "Open HalfOpen", "HalfOpen Open", "Open HalfOpen", "HalfOpen Closed"]
        )
        assert.closeTo(transitions[0]?.atMillis ?? 0, 2_401, 1)
        assert.deepStrictEqual(
          buckets.map(({ openCircuits }) => openCircuits),
          [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
        )
        assert.strictEqual(totals.failed["UpstreamFailed refused"], 6)
      })
    )

    it.effect("that leaves work behind is found out", () =>
      Effect.gen(function* () {
        const { leftover } = yield* simulate(
          world({ duration: "1 second" }),
          (call) => Effect.andThen(Effect.forkDetach(Effect.never), call),
          { drain: "1 second" }
        )
        assert.deepStrictEqual(leftover, { calls: 0, fibers: 10 })
      })
    )

    it.effect("that never answers has its calls interrupted when the time to drain is over", () =>
      Effect.gen(function* () {
        let interrupted = 0
        const { buckets, leftover, totals } = yield* simulate(
          world({ duration: "1 second" }),
          () => Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++)),
          { drain: "5 seconds" }
        )
        assert.deepStrictEqual(leftover, { calls: 10, fibers: 0 })
        assert.strictEqual(interrupted, 10)
        assert.strictEqual(totals.successRate, undefined)
        assert.strictEqual(buckets.at(-1)?.inFlight, 10)
      })
    )

    it.effect("fails as it fails when it is made", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* Effect.flip(simulate(world(), Effect.fail("no policy"))), "no policy")
      })
    )

    it.effect("that cannot go on is a failure: stuck, waiting for nothing, or with too many calls under way", () =>
      Effect.gen(function* () {
        const reason = <E>(failing: Effect.Effect<Simulation, E | SimulationFailed>) =>
          Effect.map(Effect.flip(failing), (error) => (error instanceof Error ? error.message : error))
        assert.strictEqual(
          yield* reason(simulate(world(), () => Effect.forever(Effect.yieldNow))),
          "The simulation failed at 0 ms: over a million things happened at one moment, so something goes round without waiting"
        )
        assert.strictEqual(
          yield* reason(simulate(world(), Effect.never)),
          "The simulation failed at 0 ms: the policy waits for something that never comes in virtual time"
        )
        assert.strictEqual(
          yield* reason(simulate(world(), () => Effect.never, { maxInFlight: 15 })),
          "The simulation failed at 1500 ms: more calls than maxInFlight were under way"
        )
      })
    )

    it.effect("ends with its simulation when that is interrupted", () =>
      Effect.gen(function* () {
        const seen = { running: 0, closed: 0 }
        const policy = Effect.as(
          Effect.addFinalizer(() => Effect.sync(() => seen.closed++)),
          () =>
            Effect.andThen(
              Effect.sync(() => seen.running++),
              Effect.onInterrupt(Effect.never, () => Effect.sync(() => seen.running--))
            )
        )
        const fiber = yield* Effect.forkChild(
          simulate(world({ duration: "1 day" }), policy, { maxInFlight: 1_000_000 })
        )
        while (seen.running < 1_000) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(seen, { running: 0, closed: 1 })
      })
    )

    it.effect("needs what it requires, and nothing else", () =>
      Effect.gen(function* () {
        const policy = Policy.make({ timeout: "1 second" })
        type Done = Effect.Effect<Simulation, SimulationFailed>
        expectTypeOf(simulate(world(), policy)).toEqualTypeOf<Done>()
        expectTypeOf(simulate(world(), policy.execute)).toEqualTypeOf<Done>()
        expectTypeOf(simulate(world(), Effect.succeed(policy))).toEqualTypeOf<Done>()
        expectTypeOf(simulate(world(), Effect.as(Effect.scope, policy))).toEqualTypeOf<Done>()
        expectTypeOf(simulate(world(), (call) => Effect.andThen(Store, call))).toEqualTypeOf<
          Effect.Effect<Simulation, SimulationFailed, Store>
        >()
        expectTypeOf(simulate(world(), Effect.andThen(Store, Effect.fail("no" as const)))).toEqualTypeOf<
          Effect.Effect<Simulation, "no" | SimulationFailed, Store>
        >()
        const named = simulate(world({ duration: 100 }), (call) => Effect.andThen(Store, call))
        const { totals } = yield* Effect.provideService(named, Store, { name: "a" })
        assert.strictEqual(totals.successes, 1)
      })
    )

    it.effect.each([
      [{ bucket: 0 }, "simulate: bucket must be a finite duration over zero, got 0"],
      [{ bucket: 0.01 }, "simulate: bucket must be at least a 100000th of the duration, got 0.01"],
      [{ drain: -1 }, "simulate: drain must be finite and not negative, got -1"],
      [{ maxInFlight: 0 }, "simulate: maxInFlight must be an integer >= 1, got 0"]
    ] as const)("dies on %j", ([options, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(simulate(world(), direct, options))
        assert.isTrue(Exit.isFailure(exit) && String(exit.cause).includes(message), String(exit))
      })
    )
  })

  describe("what it proves", () => {
    const dead: World.Input = {
      duration: "2 minutes",
      arrivals: { perSecond: 50 },
      upstream: { latency: 20, outages: [{ from: 0, until: "1 hour", kind: "refusing" }] }
    }
    const schedule = Retry.exponential({ base: "100 millis", maxDelay: "1 second" })

    it.effect(
      "with a dead upstream a budget keeps the load at 1.2 times the traffic, where it is 4 times without",
      () =>
        Effect.gen(function* () {
          const naive = yield* simulate(dead, Retry.retry({ schedule }))
          assert.strictEqual(naive.totals.load, 4)
          for (const [share, most] of [
            [0.2, 1.2],
            [0.1, 1.1]
          ] as const) {
            const policy = Effect.map(RetryBudget.make({ share, minPerSecond: 0 }), (budget) =>
              Retry.make({ schedule, budget })
            )
            const { totals } = yield* simulate(dead, policy)
            assert.isAtMost(totals.load ?? 0, most)
            assert.isAtLeast(totals.load ?? 0, most - 0.02)
          }
        })
    )

    it.effect("with a dead upstream tokens as of gRPC end the retries soon", () =>
      Effect.gen(function* () {
        const policy = Effect.map(RetryBudget.makeTokens(), (budget) => Retry.make({ schedule, budget }))
        const { totals } = yield* simulate(dead, policy)
        assert.isAtMost(totals.extraCalls, 10)
      })
    )

    it.effect("an adaptive limit finds a capacity, and lets through what there is room for", () =>
      Effect.gen(function* () {
        const overloaded: World.Input = {
          duration: "3 minutes",
          arrivals: { perSecond: 300 },
          patience: "2 seconds",
          upstream: { latency: 100, capacity: { concurrent: 20, queued: 2_000 } }
        }
        // What comes is half as much again as what can be done: 200 a second.
        const naive = yield* simulate(overloaded, direct)
        const limited = yield* simulate(
          overloaded,
          Effect.map(AdaptiveLimit.make({ algorithm: { name: "vegas" }, initialLimit: 100 }), ({ execute }) => execute)
        )
        const last = (simulation: Simulation) => simulation.buckets.slice(120, 180)
        const perSecond = (simulation: Simulation) =>
          last(simulation).reduce((sum, { successes }) => sum + successes, 0) / 60
        // Nobody waits so long as the queue is by then.
        assert.isBelow(perSecond(naive), 10)
        assert.isAbove(perSecond(limited), 180)
        const p99 = Math.max(...last(limited).map(({ latency }) => latency?.p99 ?? 0))
        assert.isBelow(p99, 500)
      })
    )

    it.effect("a breaker bounds the load in an outage, and lets calls through again after it", () =>
      Effect.gen(function* () {
        const outage: World.Input = {
          duration: "10 minutes",
          arrivals: { perSecond: 20 },
          upstream: { latency: 50, outages: [{ from: "2 minutes", until: "7 minutes", kind: "hanging" }] }
        }
        const naive = yield* simulate(outage, Timeout.timeout("10 seconds"))
        const policy = Effect.gen(function* () {
          const circuitBreaker = yield* CircuitBreaker.make({ failures: 5, openFor: "10 seconds" })
          return { ...Policy.make({ circuitBreaker, timeout: "1 second" }), circuitBreaker }
        })
        const guarded = yield* simulate(outage, policy)
        const inOutage = ({ buckets }: Simulation) =>
          buckets.slice(125, 420).reduce((sum, { upstreamCalls }) => sum + upstreamCalls, 0)
        assert.isAbove(inOutage(naive), 5_000)
        // A probe every 11 seconds.
        assert.isAtMost(inOutage(guarded), 30)
        assert.isAtMost(guarded.totals.maxRunning, 40)
        assert.isAbove(naive.totals.maxRunning, 150)
        const recovered = guarded.transitions.at(-1)
        assert.strictEqual(recovered?.to, "Closed")
        assert.isBelow(recovered?.atMillis ?? Infinity, 7 * 60_000 + 12_000)
        assert.isTrue(
          guarded.buckets
            .slice(433, 600)
            .every(({ failed, refused }) => Object.keys({ ...failed, ...refused }).length === 0)
        )
      })
    )

    it.effect("a hedge cuts the tail, for little more load", () =>
      Effect.gen(function* () {
        const tail: World.Input = {
          duration: "5 minutes",
          arrivals: { perSecond: 20 },
          upstream: { latency: { kind: "lognormal", p50: 20, p99: 500 } }
        }
        const naive = yield* simulate(tail, direct)
        const hedged = yield* simulate(
          tail,
          Effect.map(Hedge.make({ delay: "150 millis" }), ({ execute }) => execute)
        )
        assert.isBelow(hedged.totals.latency?.p99 ?? Infinity, (naive.totals.latency?.p99 ?? 0) * 0.6)
        assert.isBelow(hedged.totals.load ?? Infinity, 1.1)
      })
    )
  })
})

describe("renderTable", () => {
  it.effect("has a row for each stretch of time and the totals", () =>
    Effect.gen(function* () {
      const policy = Effect.gen(function* () {
        const circuitBreaker = yield* CircuitBreaker.make({ failures: 5, openFor: "1 second", successesToClose: 1 })
        return { ...Policy.make({ circuitBreaker }), circuitBreaker }
      })
      const simulation = yield* simulate(world({ upstream: during("refusing") }), policy)
      assert.strictEqual(
        renderTable(simulation, { maxRows: 5 }),
        [
          " time  calls/s  upstream/s  ok/s  refused/s  failed/s  p50 ms  p99 ms  running  open circuits",
          "00:00     10.0        10.0  10.0          –         –      50      50        1",
          "00:02     10.0         3.0     –        7.0       3.0       –       –        0              1",
          "00:04     10.0         7.0   7.0        3.0         –      50      50        1",
          "00:06     10.0        10.0  10.0          –         –      50      50        1",
          "00:08     10.0        10.0  10.0          –         –      50      50        1",
          "",
          "100 calls: 74 succeeded, 20 CircuitOpen, 6 UpstreamFailed refused",
          "80 calls to the upstream, 0.80 for each; 0 were repeated, 0 turned away; at most 1 at a time"
        ].join("\n")
      )
      assert.strictEqual(renderTable(simulation).split("\n").length, 10 + 4)
      assert.throws(
        () => renderTable(simulation, { maxRows: 0 }),
        "renderTable: maxRows must be an integer >= 1, got 0"
      )
    })
  )
})
