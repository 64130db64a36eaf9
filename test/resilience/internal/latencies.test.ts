import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { Latencies } from "../../../src/resilience/internal/latencies.ts"

// What the histogram stands for, with every sample kept: the first at which the weight reaches its part.
const exact = (samples: ReadonlyArray<number>, percentile: number) => {
  const weighed = samples.map((millis, i) => [millis, 1.001 ** (i - samples.length)] as const).sort(([a], [b]) => a - b)
  const total = weighed.reduce((sum, [, weight]) => sum + weight, 0)
  let below = 0
  for (const [millis, weight] of weighed) {
    below += weight
    if (below >= percentile * total * (1 - 1e-9)) return millis
  }
  return Number.NaN
}

describe("Latencies", () => {
  it("reads 0 without samples", () => {
    const latencies = new Latencies(0.95)
    assert.deepStrictEqual([latencies.value, latencies.median, latencies.samples], [0, 0, 0])
  })

  it("is within 2.5 % of a single sample, from 1 ms to 1 hour, and clamps what is outside", () => {
    for (let millis = 1; millis <= 3_600_000; millis *= 1.013) {
      const latencies = new Latencies(0.95)
      latencies.record(millis)
      assert.isAtMost(Math.abs(latencies.value - millis), 0.025 * millis + 1e-6, `${millis} ms`)
      assert.strictEqual(latencies.median, latencies.value)
    }
    for (const [millis, read] of [
      [0, 1],
      [-5, 1],
      [0.3, 1],
      [1e9, 3_600_000],
      [Infinity, 3_600_000]
    ] as const) {
      const latencies = new Latencies(0.5)
      latencies.record(millis)
      assert.isAtMost(Math.abs(latencies.value - read), 0.025 * read)
    }
  })

  it.effect("is within 2.5 % of the percentile of all samples, weighed by their age", () =>
    Effect.gen(function* () {
      for (const percentile of [0.01, 0.5, 0.9, 0.95, 0.99]) {
        const latencies = new Latencies(percentile)
        const samples: Array<number> = []
        for (let i = 0; i < 3000; i++) {
          // Slow and fast times by turns, so that the percentile moves far in both directions.
          const scale = i % 1500 < 700 ? 20 : 5000
          const millis = 1 + scale * (yield* Random.next) ** 3
          latencies.record(millis)
          samples.push(millis)
          if (i % 50 !== 0) continue
          const value = exact(samples, percentile)
          assert.isAtMost(Math.abs(latencies.value - value), 0.025 * value + 1e-9, `p${percentile} at ${i}`)
          const median = exact(samples, 0.5)
          assert.isAtMost(Math.abs(latencies.median - median), 0.025 * median + 1e-9, `median at ${i}`)
        }
      }
    }).pipe(Random.withSeed("latencies"))
  )

  it("forgets what is long past, also when its weights are scaled down", () => {
    const latencies = new Latencies(0.95)
    const record = (times: number, millis: number) => {
      for (let i = 0; i < times; i++) latencies.record(millis)
    }
    const near = (millis: number) => assert.isAtMost(Math.abs(latencies.value - millis), 0.025 * millis, `${millis} ms`)
    for (let i = 0; i < 50_000; i++) record(1, i % 3 === 0 ? 1000 : 5)
    near(1000)
    assert.isAtMost(latencies.median, 5.2)
    record(100_000, 1000)
    near(1000)
    record(2990, 10)
    near(1000)
    record(20, 10)
    near(10)
    record(6000, 10)
    record(51, 2000)
    near(10)
    record(2, 2000)
    near(2000)
    assert.strictEqual(latencies.samples, 159_063)
  })
})
