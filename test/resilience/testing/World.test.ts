import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Random } from "effect"
import { World } from "effect-resilience/testing"
import { arrivalTimes } from "../../../src/resilience/internal/arrivals.ts"
import { Histogram } from "../../../src/resilience/internal/histogram.ts"
import { chooser, sampler } from "../../../src/resilience/internal/sampler.ts"

const upstream: World.Input["upstream"] = { latency: "50 millis" }
const world = (input: Partial<World.Input>): World.Input => ({
  duration: "1 minute",
  arrivals: { perSecond: 10 },
  upstream,
  ...input
})

const random = Effect.runSync(
  Random.withSeed(
    Effect.withFiberSucceed((fiber) => fiber.getRef(Random.Random)),
    "test"
  )
)

describe("World", () => {
  describe("decode", () => {
    it.effect("reads JSON, with times in milliseconds or as text", () =>
      Effect.gen(function* () {
        const text = JSON.stringify({
          duration: "1 hour",
          seed: "a",
          arrivals: { perSecond: [{ from: 0, perSecond: 5, ramp: "1 minute" }], bursts: [{ at: 1_000, calls: 3 }] },
          clients: { count: 2, think: { kind: "exponential", mean: "1 second" } },
          patience: 500,
          keys: { count: 3, skew: 1 },
          priorities: { high: 1, low: 2 },
          upstream: {
            latency: { kind: "lognormal", p50: 50, p99: "400 millis" },
            failures: { rate: 0.1, status: 502, latency: 5 },
            capacity: { concurrent: 3, perSecond: 7, queued: 5 },
            abandoned: "stop",
            outages: [{ from: 5, until: "1 second", kind: "slow", factor: 3, share: 0.5 }]
          }
        })
        const decoded = yield* World.decode(JSON.parse(text))
        assert.deepStrictEqual(decoded.duration, Duration.hours(1))
        assert.deepStrictEqual(decoded.upstream.outages?.[0]?.until, Duration.seconds(1))
        assert.deepStrictEqual(World.make(decoded), decoded)
      })
    )

    it.effect.each<readonly [unknown, string]>([
      [3, "world: must be object, got 3"],
      [{ duration: 1, arrivals: { perSecond: 1 } }, "world: upstream must be given"],
      [world({ duration: 0 }), "world: duration must be finite and over zero, got 0"],
      [
        { ...world({}), duration: "an hour" },
        'world: duration must be a duration: milliseconds, or text like "30 seconds", got "an hour"'
      ],
      [{ duration: 1, upstream }, "world: arrivals must be given, or clients"],
      [{ ...world({}), arrival: 1 }, "world: arrival is no field of a world"],
      [world({ arrivals: { perSecond: -1 } }), "world: arrivals.perSecond must be finite and not negative, got -1"],
      [
        world({
          arrivals: {
            perSecond: [
              { from: 0, perSecond: 1, ramp: 2_000 },
              { from: 1_000, perSecond: 1 }
            ]
          }
        }),
        "world: arrivals.perSecond[1].from must be finite, and no sooner than the rate before it is reached, got 1s"
      ],
      [
        world({ duration: "1 day", arrivals: { perSecond: 1e6 } }),
        "world: arrivals.perSecond must be at most 100000000 calls in all"
      ],
      [
        world({ arrivals: { perSecond: 1, bursts: [{ at: 0, calls: 1.5 }] } }),
        "world: arrivals.bursts[0].calls must be an integer from 1 to 1000000, got 1.5"
      ],
      [world({ clients: { count: 0, think: 1 } }), "world: clients.count must be an integer from 1 to 1000000, got 0"],
      [world({ patience: 0 }), "world: patience must be over zero, got 0"],
      [world({ keys: { count: 0 } }), "world: keys.count must be an integer from 1 to 100000, got 0"],
      [world({ keys: { count: 1, skew: -1 } }), "world: keys.skew must be not negative, got -1"],
      [world({ priorities: { low: 0 } }), "world: priorities must be over zero for one of them"],
      [world({ upstream: { latency: -1 } }), "world: upstream.latency must be finite and not negative, got -1ms"],
      [
        world({ upstream: { latency: { kind: "lognormal", p50: 50, p99: 10 } } }),
        "world: upstream.latency.p99 must be finite and at least p50, got 10ms"
      ],
      [
        world({ upstream: { latency: { kind: "uniform", min: 50, max: 10 } } }),
        "world: upstream.latency.max must be finite and at least min, got 10ms"
      ],
      [
        world({ upstream: { latency: 1, failures: { rate: 2 } } }),
        "world: upstream.failures.rate must be from 0 to 1, got 2"
      ],
      [
        world({ upstream: { latency: 1, capacity: { queued: 2 } } }),
        "world: upstream.capacity.concurrent must be given, or perSecond"
      ],
      [
        world({ upstream: { latency: 1, outages: [{ from: 2, until: 2, kind: "slow" }] } }),
        "world: upstream.outages[0].until must be after from, got 2ms"
      ],
      [
        world({ upstream: { latency: 1, outages: [{ from: 0, until: 2, kind: "hanging", factor: 2 }] } }),
        'world: upstream.outages[0].factor must be left out with kind "hanging"'
      ]
    ])("refuses %j", ([input, message]) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(World.decode(input))
        assert.strictEqual(error.message, message)
      })
    )

    it("names the field of a world that cannot be in code", () => {
      assert.throws(
        () => World.make(world({ duration: 0 })),
        RangeError,
        "World: duration must be finite and over zero"
      )
    })
  })

  describe("arrivals", () => {
    const all = (arrivals: NonNullable<World.Input["arrivals"]>, until: number) => {
      const { arrivals: decoded } = World.make(world({ arrivals, duration: until }))
      if (decoded === undefined) throw new Error("no arrivals")
      const next = arrivalTimes(decoded, random)
      const times: Array<number> = []
      for (let at = next(); at < until; at = next()) times.push(at)
      return times
    }
    const between = (times: ReadonlyArray<number>, from: number, to: number) =>
      times.filter((time) => time >= from && time < to).length

    it("come at equal distances, the first at once", () => {
      const times = all({ perSecond: 20, spacing: "even" }, 1_000)
      assert.deepStrictEqual(
        times.map((time) => Math.round(time * 1e6) / 1e6),
        Array.from({ length: 20 }, (_, index) => index * 50)
      )
    })

    it("come independently of one another by default: as many as they vary", () => {
      const times = all({ perSecond: 10 }, 1_000_000)
      const counts = Array.from({ length: 1_000 }, (_, second) => between(times, second * 1_000, (second + 1) * 1_000))
      const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length
      const variance = counts.reduce((sum, count) => sum + (count - mean) ** 2, 0) / counts.length
      assert.closeTo(mean, 10, 0.4)
      assert.closeTo(variance, 10, 1.5)
    })

    it("follow steps and ramps", () => {
      const times = all(
        {
          spacing: "even",
          perSecond: [
            { from: "10 seconds", perSecond: 10 },
            { from: "20 seconds", perSecond: 30, ramp: "10 seconds" },
            { from: "40 seconds", perSecond: 0 },
            { from: "50 seconds", perSecond: 2 }
          ]
        },
        60_000
      )
      assert.strictEqual(between(times, 0, 10_000), 0)
      assert.closeTo(between(times, 10_000, 20_000), 100, 1)
      assert.closeTo(between(times, 20_000, 25_000), 75, 1)
      assert.closeTo(between(times, 25_000, 30_000), 125, 1)
      assert.closeTo(between(times, 30_000, 40_000), 300, 1)
      assert.strictEqual(between(times, 40_001, 50_000), 0)
      assert.closeTo(between(times, 50_000, 60_000), 20, 1)
    })

    it("end after a ramp to nothing, and never come at a rate of nothing", () => {
      assert.deepStrictEqual(all({ perSecond: 0 }, 1_000), [])
      const down = all(
        {
          spacing: "even",
          perSecond: [
            { from: 0, perSecond: 10 },
            { from: 0, perSecond: 0, ramp: "10 seconds" }
          ]
        },
        60_000
      )
      assert.closeTo(down.length, 50, 1)
    })
  })

  describe("distributions", () => {
    const drawn = (distribution: World.DistributionInput, part: number) => {
      const { upstream } = World.make(world({ upstream: { latency: distribution } }))
      const draw = sampler(upstream.latency, random)
      const values = Array.from({ length: 20_000 }, draw).sort((a, b) => a - b)
      return values[Math.floor(values.length * part)] ?? Number.NaN
    }

    it("have the percentiles that they say", () => {
      assert.strictEqual(drawn(50, 0.9), 50)
      assert.closeTo(drawn({ kind: "uniform", min: 100, max: 200 }, 0.25), 125, 3)
      assert.closeTo(drawn({ kind: "lognormal", p50: 50, p99: 400 }, 0.5), 50, 2)
      assert.closeTo(drawn({ kind: "lognormal", p50: 50, p99: 400 }, 0.99), 400, 40)
      assert.closeTo(drawn({ kind: "exponential", mean: 100 }, 0.5), 100 * Math.log(2), 3)
      assert.strictEqual(drawn({ kind: "lognormal", p50: 50, p99: 50 }, 0.3), 50)
    })

    it("draw indexes in proportion to weights, and never one of weight 0", () => {
      const choose = chooser([0, 1, 0, 3, 0], random)
      const counts = [0, 0, 0, 0, 0]
      for (let draws = 0; draws < 10_000; draws++) {
        const index = choose()
        counts[index] = (counts[index] ?? 0) + 1
      }
      assert.deepStrictEqual([counts[0], counts[2], counts[4]], [0, 0, 0])
      assert.closeTo((counts[3] ?? 0) / 10_000, 0.75, 0.02)
    })

    it("are measured to a hundredth, the greatest exactly", () => {
      const histogram = new Histogram()
      for (let round = 0; round < 2; round++) {
        for (let millis = 1; millis <= 1_000; millis++) histogram.record(millis)
        for (const part of [0.01, 0.5, 0.95, 0.99]) {
          assert.closeTo(histogram.quantile(part), part * 1_000, part * 10.1)
        }
        assert.closeTo(histogram.quantile(1), 1_000, 10)
        assert.strictEqual(histogram.max, 1_000)
        histogram.clear()
        assert.deepStrictEqual([histogram.count, histogram.max, histogram.quantile(0.5)], [0, 0, 0])
      }
      histogram.record(0)
      assert.strictEqual(histogram.quantile(0.5), 0)
    })
  })
})
