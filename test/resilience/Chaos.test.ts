import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Config,
  ConfigProvider,
  Context,
  Data,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Random,
  Schema
} from "effect"
import { Chaos, CircuitBreaker, ErrorPattern, Retry } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

class Busy extends Data.TaggedError("Busy")<{}> {}
class Store extends Context.Service<Store, { readonly name: string }>()("test/Store") {}

const call = Effect.succeed("ok")
const word = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isSuccess(exit) ? exit.value : Cause.hasDies(exit.cause) ? "died" : "failed"

// How each of so many calls ends.
const ends = (chaos: Chaos.Chaos<unknown, unknown>, times: number, key = "key") =>
  Effect.replicateEffect(Effect.map(Effect.exit(call.pipe(chaos.execute({ key }))), word), times)

const failedAt = (chaos: Chaos.Chaos, times: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const failed: Array<number> = []
    for (const time of times) {
      yield* TestClock.setTime(time)
      if (word(yield* Effect.exit(call.pipe(chaos.execute({ key: "key" })))) === "failed") failed.push(time)
    }
    return failed
  })

const injected = (chaos: Chaos.Chaos<unknown, unknown>) =>
  Effect.map(chaos.state, ({ faults }) => faults.map(({ injected }) => injected))

describe("Chaos", () => {
  describe("execute", () => {
    it.effect("gives the very same effect back when nothing can hit it", () =>
      Effect.gen(function* () {
        const fault: Chaos.Fault = { kind: "hang" }
        for (const options of [
          {},
          { faults: [] },
          { faults: [fault], enabled: false },
          { faults: [{ ...fault, keys: ["other", "ke"] }] }
        ]) {
          const chaos = yield* Chaos.make(options)
          assert.strictEqual(chaos.execute({ key: "key" })(call), call)
        }
      })
    )

    it.effect("delays a call, by a fixed time or by one from a range", () =>
      Effect.gen(function* () {
        const measured = (fault: Chaos.Fault) =>
          Effect.gen(function* () {
            const chaos = yield* Chaos.make({ faults: [fault], seed: "range" })
            const timed = Effect.timed(call.pipe(chaos.execute({ key: "key" })))
            const fiber = yield* Effect.forkChild(Effect.replicateEffect(timed, 1000))
            yield* TestClock.adjust("10 minutes")
            return (yield* Fiber.join(fiber)).map(([duration, result]) => {
              assert.strictEqual(result, "ok")
              return Duration.toMillis(duration)
            })
          })
        assert.deepStrictEqual([...new Set(yield* measured({ kind: "latency", delay: 200 }))], [200])
        const range = yield* measured({ kind: "latency", delay: 100, upTo: 300 })
        assert.isTrue(Math.min(...range) >= 100 && Math.min(...range) < 103)
        assert.isTrue(Math.max(...range) <= 300 && Math.max(...range) > 297)
      })
    )

    it.effect("fails instead of the call, with what those around it look for", () =>
      Effect.gen(function* () {
        let calls = 0
        const chaos = yield* Chaos.make({
          faults: [
            { kind: "failure", status: 503, code: "ECONNRESET", retryAfter: "2 seconds", text: "socket hang up" }
          ]
        })
        const counted = Effect.sync(() => ++calls)
        const error = yield* Effect.flip(counted.pipe(chaos.execute({ key: "lichess" })))
        assert.instanceOf(error, Chaos.FailureInjected)
        assert.strictEqual(error.key, "lichess")
        assert.strictEqual(error.message, "socket hang up")
        assert.isTrue(ErrorPattern.status(503)(error))
        assert.isTrue(ErrorPattern.code("ECONNRESET")(error))
        assert.isTrue(ErrorPattern.text("socket hang up")(error))
        assert.strictEqual(calls, 0)

        const start = yield* Clock.currentTimeMillis
        const retried = yield* Retry.retry(counted.pipe(chaos.execute({ key: "lichess" })), {
          schedule: Retry.delays([1]),
          while: ErrorPattern.tag("FailureInjected")
        }).pipe(Effect.exit, Effect.forkChild)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(word(yield* Fiber.join(retried)), "failed")
        assert.deepStrictEqual(yield* injected(chaos), [3])
        assert.isAbove(yield* Clock.currentTimeMillis, start)
      })
    )

    it.effect("fails plainly when nothing is said", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ faults: [{ kind: "failure" }] })
        const error = yield* Effect.flip(call.pipe(chaos.execute({ key: "key" })))
        assert.strictEqual(error.message, 'Failure injected into a call of "key"')
        assert.deepStrictEqual(
          [error.status, error.code, error.retryAfter, error.text],
          [undefined, undefined, undefined, undefined]
        )
      })
    )

    it.effect("dies instead of the call", () =>
      Effect.gen(function* () {
        const dies = (text: string | undefined) =>
          Effect.gen(function* () {
            const chaos = yield* Chaos.make({ faults: [{ kind: "defect", text }] })
            const exit = yield* Effect.exit(call.pipe(chaos.execute({ key: "key" })))
            assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
            return Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
          })
        const plain = yield* dies(undefined)
        assert.isTrue(plain instanceof Chaos.DefectInjected)
        assert.include(String(plain), 'Defect injected into a call of "key"')
        assert.include(String(yield* dies("a bug")), "a bug")
      })
    )

    it.effect("hangs until it is interrupted", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ faults: [{ kind: "hang" }] })
        const fiber = yield* Effect.forkChild(call.pipe(chaos.execute({ key: "key" })))
        yield* TestClock.adjust("1000 days")
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      })
    )

    it.effect("answers in place of the call, with a result or an error of the caller's own", () =>
      Effect.gen(function* () {
        const outcomes = { empty: Effect.succeed(""), busy: new Busy(), stored: Effect.map(Store, ({ name }) => name) }
        const answer = (use: keyof typeof outcomes) =>
          Effect.gen(function* () {
            const chaos = yield* Chaos.make({ outcomes, faults: [{ kind: "outcome", use }] })
            return yield* Effect.exit(call.pipe(chaos.execute({ key: "key" })))
          }).pipe(Effect.provideService(Store, { name: "store" }))
        assert.deepStrictEqual(yield* answer("empty"), Exit.succeed(""))
        assert.deepStrictEqual(yield* answer("busy"), Exit.fail(new Busy()))
        assert.deepStrictEqual(yield* answer("stored"), Exit.succeed("store"))
      })
    )

    it.effect("runs a behaviour before the call, and fails with it", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const behaviours = { flush: Effect.sync(() => log.push("flushed")), break: new Busy() }
        const chaos = yield* Chaos.make({
          behaviours,
          faults: [
            { kind: "behaviour", use: "flush" },
            { kind: "behaviour", use: "break", keys: ["broken"] }
          ]
        })
        const logged = Effect.sync(() => log.push("called"))
        yield* logged.pipe(chaos.execute({ key: "key" }))
        assert.deepStrictEqual(log, ["flushed", "called"])
        const exit = yield* Effect.exit(logged.pipe(chaos.execute({ key: "broken" })))
        assert.deepStrictEqual(exit, Exit.fail(new Busy()))
        assert.deepStrictEqual(log, ["flushed", "called", "flushed"])
      })
    )

    it.effect("lets each fault take its turn, until one ends the call", () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        const chaos = yield* Chaos.make({
          faults: [
            { kind: "latency", delay: 100 },
            { kind: "latency", delay: 50 },
            { kind: "failure" },
            { kind: "hang" }
          ],
          onInject: ({ fault, key }) =>
            Effect.map(Clock.currentTimeMillis, (now) => seen.push(`${key} ${fault.kind} ${now}`))
        })
        const fiber = yield* Effect.forkChild(Effect.exit(call.pipe(chaos.execute({ key: "key" }))))
        yield* TestClock.adjust(150)
        assert.strictEqual(word(yield* Fiber.join(fiber)), "failed")
        assert.deepStrictEqual(seen, ["key latency 0", "key latency 100", "key failure 150"])
        assert.deepStrictEqual(yield* injected(chaos), [1, 1, 1, 0])
      })
    )

    it.effect("goes on when the hook dies", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ faults: [{ kind: "failure" }], onInject: () => Effect.die("hook") })
        assert.strictEqual((yield* Effect.flip(call.pipe(chaos.execute({ key: "key" }))))._tag, "FailureInjected")
      })
    )

    it.effect("hits a share of the calls", () =>
      Effect.gen(function* () {
        for (const [rate, low, high] of [
          [0, 0, 0],
          [0.1, 80, 120],
          [0.5, 460, 540],
          [1, 1000, 1000]
        ] as const) {
          const chaos = yield* Chaos.make({ faults: [{ kind: "failure", rate }], seed: "share" })
          const failed = (yield* ends(chaos, 1000)).filter((end) => end === "failed").length
          assert.isTrue(failed >= low && failed <= high, `${failed} of 1000 for ${rate}`)
          assert.deepStrictEqual(yield* injected(chaos), [failed])
        }
      })
    )

    it.effect("hits no call at a rate of 0, whatever is drawn", () =>
      Effect.gen(function* () {
        const lowest = Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 })
        for (const [rate, end] of [
          [0, "ok"],
          [Number.MIN_VALUE, "failed"]
        ] as const) {
          const chaos = yield* Chaos.make({ faults: [{ kind: "failure", rate }] })
          assert.deepStrictEqual(yield* lowest(ends(chaos, 1)), [end])
        }
      })
    )

    it.effect("hits the same calls with the same seed, whatever the Random of the fiber", () =>
      Effect.gen(function* () {
        const run = (seed: string | number | undefined, outer: string) =>
          Effect.flatMap(Chaos.make({ faults: [{ kind: "failure", rate: 0.5 }], seed }), (chaos) =>
            ends(chaos, 50)
          ).pipe(Random.withSeed(outer))
        assert.deepStrictEqual(yield* run("a", "x"), yield* run("a", "y"))
        assert.notDeepEqual(yield* run("a", "x"), yield* run("b", "x"))
        assert.notDeepEqual(yield* run(1, "x"), yield* run(2, "x"))
        assert.deepStrictEqual(yield* run(undefined, "x"), yield* run(undefined, "x"))
        assert.notDeepEqual(yield* run(undefined, "x"), yield* run(undefined, "y"))
      })
    )

    it.effect("hits the calls of its keys", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ faults: [{ kind: "failure", keys: ["lichess", "chess.com/*"] }] })
        const hit = (key: string) => Effect.map(ends(chaos, 1, key), ([end]) => end === "failed")
        for (const key of ["lichess", "chess.com/", "chess.com/games"]) assert.isTrue(yield* hit(key), key)
        for (const key of ["lichess/", "chess.com", "", "lichess*"]) assert.isFalse(yield* hit(key), key)
        const all = yield* Chaos.make({ faults: [{ kind: "failure", keys: ["*"] }] })
        assert.deepStrictEqual(yield* ends(all, 1, ""), ["failed"])
      })
    )

    it.effect("asks the predicate, before it draws", () =>
      Effect.gen(function* () {
        let spared = true
        const chaos = yield* Chaos.make({
          faults: [{ kind: "failure", rate: 0.5 }],
          seed: 1,
          when: ({ fault, key }) => fault.kind === "failure" && key === "key" && !spared
        })
        assert.deepStrictEqual(
          yield* ends(chaos, 20),
          Array.from({ length: 20 }, () => "ok")
        )
        spared = false
        const same = yield* Chaos.make({ faults: [{ kind: "failure", rate: 0.5 }], seed: 1 })
        assert.deepStrictEqual(yield* ends(chaos, 20), yield* ends(same, 20))
      })
    )

    it.effect.each([
      [{ from: 100, for: 50 }, [100, 101, 149]],
      [{ from: 100 }, [100, 101, 149, 150, 249, 250, 299, 300, 349, 350]],
      [{ for: 100 }, [0, 99]],
      [{ for: 50, every: 100 }, [0, 100, 101, 149, 249, 300, 349]],
      [{ from: 100, for: 50, every: 150 }, [100, 101, 149, 250, 299]],
      [{ from: "100 millis", for: "50 millis", every: "50 millis" }, [100, 101, 149, 150, 249, 250, 299, 300, 349, 350]]
    ] as const)("is there in its windows, counted from its creation: %j", ([scope, expected]) =>
      Effect.gen(function* () {
        const times = [0, 99, 100, 101, 149, 150, 249, 250, 299, 300, 349, 350]
        const createdAt = 7000
        yield* TestClock.setTime(createdAt)
        const chaos = yield* Chaos.make({ faults: [{ kind: "failure", ...scope }] })
        const failed = yield* failedAt(
          chaos,
          times.map((time) => createdAt + time)
        )
        assert.deepStrictEqual(
          failed.map((time) => time - createdAt),
          [...expected]
        )
      })
    )

    it.effect("passes what it does not hit on as it is", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ faults: [{ kind: "hang", rate: 0 }] })
        const through = chaos.execute({ key: "key" })
        assert.deepStrictEqual(yield* Effect.exit(through(Effect.fail("no"))), Exit.fail("no"))
        assert.deepStrictEqual(yield* Effect.exit(through(Effect.die("bug"))), Exit.die("bug"))
        const store = through(Effect.map(Store, ({ name }) => name))
        assert.strictEqual(yield* Effect.provideService(store, Store, { name: "store" }), "store")
      })
    )

    it.effect("leaves nothing behind when interrupted at any operation", () =>
      Effect.gen(function* () {
        let running = 0
        const held = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.yieldNow,
          () => Effect.sync(() => running--)
        )
        const chaos = yield* Chaos.makeSwitchable({
          behaviours: { held },
          faults: [
            { kind: "latency", delay: 0 },
            { kind: "behaviour", use: "held" }
          ],
          onInject: () => held
        })
        const operations = yield* interruptEverywhere(
          held.pipe(chaos.execute({ key: "key" })),
          Effect.sync(() => assert.strictEqual(running, 0))
        )
        assert.isAbove(operations, 10)
      })
    )

    it.effect("opens a circuit and lets it recover when the outage is over", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.make({ faults: [{ kind: "failure", from: "10 seconds", for: "30 seconds" }] })
        const breaker = yield* CircuitBreaker.make({ failures: 3, openFor: "10 seconds" })
        const states: Array<string> = []
        for (let second = 0; second < 60; second++) {
          yield* call.pipe(chaos.execute({ key: "key" }), breaker.execute({ key: "key" }), Effect.exit)
          const { _tag } = yield* breaker.state("key")
          if (states.at(-1) !== _tag) states.push(_tag)
          yield* TestClock.adjust("1 second")
        }
        assert.deepStrictEqual(states, ["Closed", "Open", "HalfOpen", "Closed"])
        // Three that open it, and a probe every ten seconds.
        assert.deepStrictEqual(yield* injected(chaos), [5])
      })
    )
  })

  describe("makeSwitchable", () => {
    it.effect("is turned on and off, and given other faults, while effects made before are in use", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.makeSwitchable({ faults: [{ kind: "failure" }], enabled: false })
        const through = call.pipe(chaos.execute({ key: "key" }), Effect.exit, Effect.map(word))
        assert.strictEqual(yield* through, "ok")
        yield* chaos.setEnabled(true)
        assert.strictEqual(yield* through, "failed")
        yield* chaos.setFaults([{ kind: "defect", keys: ["key"] }])
        assert.strictEqual(yield* through, "died")
        yield* chaos.setFaults([])
        assert.strictEqual(yield* through, "ok")
        yield* chaos.setFaults([{ kind: "failure" }])
        yield* chaos.setEnabled(false)
        assert.strictEqual(yield* through, "ok")
        assert.deepStrictEqual(yield* chaos.state, {
          enabled: false,
          faults: [{ fault: { kind: "failure" }, injected: 0 }]
        })
      })
    )

    it.effect("hits the calls of the keys that a fault has now", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.makeSwitchable({
          faults: [
            { kind: "failure", keys: ["a"] },
            { kind: "hang", keys: [] }
          ]
        })
        assert.deepStrictEqual([yield* ends(chaos, 1, "a"), yield* ends(chaos, 1, "b")], [["failed"], ["ok"]])
        yield* chaos.setFaults([{ kind: "failure", keys: ["b"] }])
        assert.deepStrictEqual([yield* ends(chaos, 1, "a"), yield* ends(chaos, 1, "b")], [["ok"], ["failed"]])
      })
    )

    it.effect("counts windows from when the faults were set, also while it is off", () =>
      Effect.gen(function* () {
        const faults: ReadonlyArray<Chaos.Fault> = [{ kind: "failure", from: 100, for: 100 }]
        const chaos = yield* Chaos.makeSwitchable({ faults, enabled: false })
        yield* TestClock.setTime(120)
        yield* chaos.setEnabled(true)
        assert.deepStrictEqual(yield* failedAt(chaos, [150, 199, 200]), [150, 199])
        yield* chaos.setFaults(faults)
        assert.deepStrictEqual(yield* failedAt(chaos, [201, 299, 300, 399, 400]), [300, 399])
      })
    )

    it.effect("keeps its faults when the new ones make no sense", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.makeSwitchable({ faults: [{ kind: "failure" }] })
        const exit = yield* Effect.exit(chaos.setFaults([{ kind: "hang", rate: 2 }]))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
        assert.deepStrictEqual(yield* ends(chaos, 1), ["failed"])
      })
    )
  })

  describe("make", () => {
    it.effect.each([
      [{ kind: "hang", rate: 1.1 }, "faults[0].rate must be from 0 to 1, got 1.1"],
      [{ kind: "hang", rate: NaN }, "faults[0].rate must be from 0 to 1, got NaN"],
      [{ kind: "hang", from: -1 }, "faults[0].from must be a finite duration of zero or more, got -1"],
      [{ kind: "hang", for: 0 }, "faults[0].for must be over zero, got 0"],
      [{ kind: "hang", every: 0 }, "faults[0].every must be over zero, got 0"],
      [
        { kind: "latency", delay: "Infinity" },
        "faults[0].delay must be a finite duration of zero or more, got Infinity"
      ],
      [{ kind: "latency", delay: 2, upTo: 1 }, "faults[0].upTo must be at least delay, got 1"],
      [{ kind: "failure", status: 1.5 }, "faults[0].status must be an integer, got 1.5"],
      [{ kind: "outcome", use: "toString" }, "faults[0].use must be the name of one of the outcomes, got toString"],
      [{ kind: "behaviour", use: "none" }, "faults[0].use must be the name of one of the behaviours, got none"]
    ] as const)("dies on %j", ([fault, message]) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Chaos.make({ faults: [fault] }))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
        assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", `Chaos: ${message}`)
      })
    )

    it("adds the errors and requirements of what it uses, and FailureInjected", () => {
      const outcomes = { empty: Effect.succeed(0), busy: new Busy() }
      const behaviours = { read: Effect.andThen(Store, Effect.fail("read" as const)) }
      const self: Effect.Effect<string, "E", "R"> = Effect.fail("E")
      const made = Effect.map(Chaos.make({ outcomes, behaviours }), (chaos) => self.pipe(chaos.execute({ key: "key" })))
      expectTypeOf<Effect.Success<typeof made>>().toEqualTypeOf<
        Effect.Effect<string | number, "E" | Busy | "read" | Chaos.FailureInjected, "R" | Store>
      >()
      const plain = Effect.map(Chaos.makeSwitchable(), (chaos) => self.pipe(chaos.execute({ key: "key" })))
      expectTypeOf<Effect.Success<typeof plain>>().toEqualTypeOf<
        Effect.Effect<string, "E" | Chaos.FailureInjected, "R">
      >()
      expectTypeOf(Chaos.make()).toExtend<Effect.Effect<Chaos.Chaos>>()
      expectTypeOf<Chaos.SwitchableChaos>().toExtend<Chaos.Chaos>()
      expectTypeOf<Chaos.Settings>().toExtend<Chaos.SettingsOptions>()
    })
  })

  describe("Settings", () => {
    const decode = Schema.decodeUnknownSync(Chaos.Settings)

    it.effect("decodes every kind of fault", () =>
      Effect.gen(function* () {
        const settings = decode({
          enabled: true,
          seed: "seed",
          faults: [
            { kind: "latency", delay: "100 millis", upTo: 200, keys: ["a", "b*"], rate: 0.5 },
            { kind: "failure", status: 503, code: "ECONNRESET", retryAfter: "1 minute", text: "no", from: "1 hour" },
            { kind: "defect", text: "bug", for: "1 minute", every: "1 hour", from: "1 hour" },
            { kind: "hang", rate: 0 },
            { kind: "outcome", use: "empty", rate: 0 },
            { kind: "behaviour", use: "flush", rate: 0 }
          ]
        })
        const chaos = yield* Chaos.make({
          ...settings,
          outcomes: { empty: Effect.succeed("") },
          behaviours: { flush: Effect.void }
        })
        assert.deepStrictEqual(
          (yield* chaos.state).faults.map(({ fault }) => fault.kind),
          ["latency", "failure", "defect", "hang", "outcome", "behaviour"]
        )
        assert.deepStrictEqual(yield* ends(chaos, 1), ["ok"])
      })
    )

    it.each([
      [{ kind: "unknown" }, /kind/],
      [{ kind: "hang", rate: 2 }, /rate/],
      [{ kind: "hang", for: 0 }, /for/],
      [{ kind: "hang", every: "0 millis" }, /every/],
      [{ kind: "latency", delay: "soon" }, /delay/],
      [{ kind: "latency" }, /delay/],
      [{ kind: "outcome" }, /use/]
    ])("refuses %j, and names the field", (fault, named) => {
      assert.throws(() => decode({ faults: [fault] }), named)
    })
  })

  describe("layerConfig", () => {
    const fromEnvironment = (env: Record<string, string>) =>
      Chaos.layerConfig(Config.schema(Chaos.Settings, "chaos").pipe(Config.withDefault({}))).pipe(
        Layer.provide(ConfigProvider.layer(ConfigProvider.constantCase(ConfigProvider.fromEnv({ env }))))
      )
    const state = Effect.flatMap(Chaos.Chaos, (chaos) => chaos.state)

    it.effect("reads its faults from the environment", () =>
      Effect.gen(function* () {
        const { enabled, faults } = yield* state
        assert.isTrue(enabled)
        assert.deepStrictEqual(
          faults.map(({ fault }) => fault),
          [
            { kind: "latency", delay: Duration.millis(250), rate: 0.1 },
            {
              kind: "failure",
              status: 503,
              retryAfter: Duration.seconds(2),
              keys: ["lichess"],
              for: Duration.minutes(1)
            }
          ]
        )
      }).pipe(
        Effect.provide(
          fromEnvironment({
            CHAOS_ENABLED: "true",
            CHAOS_FAULTS_0_KIND: "latency",
            CHAOS_FAULTS_0_DELAY: "250",
            CHAOS_FAULTS_0_RATE: "0.1",
            CHAOS_FAULTS_1_KIND: "failure",
            CHAOS_FAULTS_1_RETRY_AFTER: "2 seconds",
            CHAOS_FAULTS_1_STATUS: "503",
            CHAOS_FAULTS_1_KEYS_0: "lichess",
            CHAOS_FAULTS_1_FOR: "1 minute"
          })
        )
      )
    )

    it.effect("reads them from one variable too", () =>
      Effect.gen(function* () {
        const { faults } = yield* state
        assert.deepStrictEqual(faults, [{ fault: { kind: "latency", delay: Duration.seconds(1) }, injected: 0 }])
      }).pipe(
        Effect.provide(
          Chaos.layerConfig(Config.schema(Schema.fromJsonString(Chaos.Settings), "CHAOS")).pipe(
            Layer.provide(
              ConfigProvider.layer(
                ConfigProvider.fromEnv({ env: { CHAOS: '{"faults":[{"kind":"latency","delay":"1 second"}]}' } })
              )
            )
          )
        )
      )
    )

    it.effect("fails when a value makes no sense", () =>
      Effect.gen(function* () {
        const env = { CHAOS_FAULTS_0_KIND: "hang", CHAOS_FAULTS_0_RATE: "often" }
        const exit = yield* Effect.exit(Layer.build(fromEnvironment(env)))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasFails(exit.cause))
      })
    )

    it.effect("does nothing when nothing is said", () =>
      Effect.gen(function* () {
        const chaos = yield* Chaos.Chaos
        assert.strictEqual(chaos.execute({ key: "key" })(call), call)
      }).pipe(Effect.provide(fromEnvironment({})))
    )
  })
})
