import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { CircuitBreaker, Policy } from "effect-resilience"
import { renderChart, simulate, type World } from "effect-resilience/testing"

const world: World.Input = {
  duration: "2 minutes",
  arrivals: { perSecond: 10, spacing: "even" },
  upstream: {
    latency: 50,
    outages: [
      { from: "30 seconds", until: "1 minute", kind: "refusing" },
      { from: "2 minutes", until: "1 hour", kind: "slow" }
    ]
  }
}

const policy = Effect.gen(function* () {
  const circuitBreaker = yield* CircuitBreaker.make({ failures: 5, openFor: "10 seconds" })
  return { ...Policy.make({ circuitBreaker }), circuitBreaker }
})

const occurrences = (text: string, part: string) => text.split(part).length - 1

// Every element is closed, in order.
const assertWellFormed = (svg: string) => {
  const open: Array<string> = []
  for (const [, closing, name = "", , single] of svg.matchAll(/<(\/?)([a-z]+)((?:"[^"]*"|[^">])*?)(\/?)>/g)) {
    if (closing === "/") assert.strictEqual(open.pop(), name)
    else if (single !== "/") open.push(name)
  }
  assert.deepStrictEqual(open, [])
  assert.notMatch(svg, /NaN|undefined|Infinity/)
}

describe("renderChart", () => {
  it.effect("draws calls, load and latency over time, with outages and open circuits", () =>
    Effect.gen(function* () {
      const svg = renderChart(yield* simulate(world, policy), { title: `A "policy" <of> mine & yours` })
      assertWellFormed(svg)
      for (const title of ["Calls per second", "Load on the upstream", "Latency of successes, milliseconds"]) {
        assert.include(svg, `>${title}<`)
      }
      for (const curve of ["offered", "good", "refused", "bad", "load", "running", "p50", "p99"]) {
        assert.isAtLeast(occurrences(svg, `er-line er-${curve}"`), 2, curve)
      }
      assert.include(svg, "A &#34;policy&#34; &#60;of&#62; mine &#38; yours")
      assert.include(svg, "1200 calls, 74.4 % succeeded")
      // The outage that begins with the end is not there.
      assert.strictEqual(occurrences(svg, 'class="er-outage"'), 3)
      assert.strictEqual(occurrences(svg, ">refusing<"), 1)
      // In the legend, and once in each chart: the circuit stays open until the outage is over.
      assert.strictEqual(occurrences(svg, 'class="er-open"'), 4)
      for (const time of ["00:00", "00:15", "01:45", "02:00"]) assert.include(svg, `>${time}<`)
      assert.include(svg, ">time, minutes:seconds<")
    })
  )

  it.effect("leaves a gap where there is no latency", () =>
    Effect.gen(function* () {
      const svg = renderChart(yield* simulate(world, policy))
      const [curve = ""] = svg.split("\n").filter((line) => line.includes('er-line er-p99" d="M') && line.length > 200)
      assert.strictEqual(occurrences(curve, "M"), 2)
    })
  )

  it.effect("puts the greatest value under the top of its axis, and zero at the bottom", () =>
    Effect.gen(function* () {
      const svg = renderChart(yield* simulate(world, (call) => call))
      const [offered = ""] = svg.split("\n").filter((line) => line.includes("er-line er-offered") && line.length > 200)
      const heights = [...offered.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => Number(y))
      // 10 calls a second on an axis that ends at 10, 26 below the top of the chart.
      assert.deepStrictEqual([...new Set(heights)], [16 + 26])
      const [good = ""] = svg.split("\n").filter((line) => line.includes("er-line er-good") && line.length > 200)
      assert.include(good, ` ${16 + 26 + 150}`)
    })
  )

  it.effect("draws a world in which nothing happens, and an hour", () =>
    Effect.gen(function* () {
      const quiet = yield* simulate({ ...world, arrivals: { perSecond: 0 } }, (call) => call)
      assertWellFormed(renderChart(quiet))
      const hour = yield* simulate({ ...world, duration: "1 hour", arrivals: { perSecond: 0.1 } }, (call) => call)
      const svg = renderChart(hour, { width: 640 })
      assertWellFormed(svg)
      assert.include(svg, ">1:00:00<")
      assert.include(svg, ">time, hours:minutes:seconds<")
      assert.isBelow(svg.length, 40_000)
    })
  )

  it.effect.each([639, 4_001, 500.5, Number.NaN])("has no width of %d", (width) =>
    Effect.gen(function* () {
      const simulation = yield* simulate({ ...world, duration: "1 second" }, (call) => call)
      assert.throws(
        () => renderChart(simulation, { width }),
        `renderChart: width must be an integer from 640 to 4000, got ${width}`
      )
    })
  )
})
