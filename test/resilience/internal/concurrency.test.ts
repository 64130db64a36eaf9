import { assert, describe, it } from "@effect/vitest"
import { Aimd, Gradient2, type Observation, Vegas, Window } from "../../../src/resilience/internal/concurrency.ts"

const bounds = { initial: 20, min: 1, max: 200 }
const half = () => 0.5

const seen = (rtt: number | undefined, more: Partial<Observation> = {}): Observation => ({
  rtt,
  calls: 10,
  mostRunning: 1_000,
  dropped: false,
  ...more
})

describe("Aimd", () => {
  it.each([
    ["one more when half of it is used", 20, { mostRunning: 10 }, 21],
    ["the same when less is used", 20, { mostRunning: 9 }, 20],
    ["nine tenths after a drop", 20, { dropped: true }, 18],
    ["at least one less after a drop", 5, { dropped: true }, 4],
    ["a drop counts whatever is used", 20, { dropped: true, mostRunning: 0 }, 18],
    ["never under the lowest", 3, { dropped: true }, 3],
    ["never over the highest", 200, {}, 200]
  ] as const)("%s", (_, initial, observed, expected) => {
    const limit = new Aimd({ initial, min: 3, max: 200 }, 0.9)
    limit.update(seen(100, observed))
    assert.strictEqual(limit.limit, expected)
  })
})

describe("Vegas", () => {
  const numbers = { alpha: 3, beta: 6, probeEvery: 30 }

  // With a limit of 20 the unit is 1, and a queue of q calls shows as a duration of 100 / (1 - q / 20).
  it.each([
    ["six more without a queue", 100, {}, 26],
    ["six more with a queue of one", 105, {}, 26],
    ["one more with a queue of two", 111, {}, 21],
    ["the same with a queue of three", 117, {}, 20],
    ["the same with a queue of six", 142, {}, 20],
    ["one less with a queue of seven", 150, {}, 19],
    ["one less after a drop", 100, { dropped: true }, 19],
    ["one less when all were dropped", undefined, { dropped: true }, 19],
    ["the same when less than half is used", 100, { mostRunning: 9 }, 20],
    ["six more when half is used", 100, { mostRunning: 10 }, 26]
  ] as const)("%s", (_, rtt, observed, expected) => {
    const limit = new Vegas(bounds, numbers)
    limit.update(seen(100), half)
    limit.update(seen(rtt, observed), half)
    assert.strictEqual(limit.limit, expected)
  })

  it("takes two for its unit from a limit of 100", () => {
    const limit = new Vegas({ ...bounds, initial: 100 }, numbers)
    limit.update(seen(100), half)
    limit.update(seen(100), half)
    assert.strictEqual(limit.limit, 112)
  })

  it("lowers its baseline whenever something is faster, and changes nothing then", () => {
    const limit = new Vegas(bounds, numbers)
    limit.update(seen(100), half)
    limit.update(seen(80), half)
    assert.deepStrictEqual([limit.limit, limit.baseline], [20, 80])
  })

  it("halves the limit for a window to measure the baseline anew, after 30 times the limit calls", () => {
    const limit = new Vegas(bounds, numbers)
    limit.update(seen(100), half)
    // Neither grows nor shrinks, and counts.
    for (let calls = 10; calls < 590; calls += 10) limit.update(seen(120), half)
    assert.strictEqual(limit.limit, 20)
    limit.update(seen(120), half)
    assert.strictEqual(limit.limit, 10)
    limit.update(seen(110), half)
    assert.deepStrictEqual([limit.limit, limit.baseline], [20, 110])
    // The next time after 0.75 of that, as 0.5 was drawn.
    for (let calls = 10; calls < 450; calls += 10) limit.update(seen(130), half)
    assert.strictEqual(limit.limit, 20)
    limit.update(seen(130), half)
    assert.strictEqual(limit.limit, 10)
  })

  it("stays within its bounds", () => {
    const low = new Vegas({ initial: 2, min: 2, max: 200 }, numbers)
    low.update(seen(100), half)
    for (let i = 0; i < 9; i++) low.update(seen(100, { dropped: true }), half)
    assert.strictEqual(low.limit, 2)
    const high = new Vegas({ initial: 199, min: 2, max: 200 }, numbers)
    high.update(seen(100), half)
    high.update(seen(100), half)
    assert.strictEqual(high.limit, 200)
  })
})

describe("Gradient2", () => {
  const numbers = { smoothing: 0.2, queue: 4, longWindow: 600, tolerance: 1.5 }
  const after = (rtt: number | undefined, observed: Partial<Observation> = {}) => {
    const limit = new Gradient2(bounds, numbers)
    for (let i = 0; i < 100; i++) limit.update(seen(100, { mostRunning: 0 }))
    limit.update(seen(rtt, observed))
    return limit
  }
  const long = (rtt: number) => 100 + ((rtt - 100) * 2) / 601

  it.each([
    ["grows by its queue, smoothed, when all is as ever", 100, {}, 20.8],
    ["grows when a call takes half as long again", 150, {}, 20.8],
    ["shrinks when it takes more", 200, {}, 16 + 0.2 * ((20 * 1.5 * long(200)) / 200 + 4)],
    ["never follows more than half of the limit", 10_000, {}, 16 + 0.2 * (10 + 4)],
    ["after a drop, goes towards half without a queue", 100, { dropped: true }, 18],
    ["so it does when all were dropped", undefined, { dropped: true }, 18],
    ["stays when less than half is used", 10_000, { mostRunning: 9 }, 20]
  ] as const)("%s", (_, rtt, observed, expected) => {
    assert.closeTo(after(rtt, observed).limit, expected, 1e-9)
  })

  it("averages the first ten windows plainly, then over 600", () => {
    const limit = new Gradient2(bounds, numbers)
    for (let i = 1; i <= 10; i++) limit.update(seen(i * 10))
    assert.closeTo(limit.baseline ?? 0, 55, 1e-9)
    limit.update(seen(85))
    assert.closeTo(limit.baseline ?? 0, 55 + 60 / 601, 1e-9)
  })

  it("forgets a long time of load faster than it learnt it", () => {
    const limit = after(49)
    assert.closeTo(limit.baseline ?? 0, 0.95 * long(49), 1e-9)
    assert.closeTo(after(51).baseline ?? 0, long(51), 1e-9)
  })

  it("stays within its bounds", () => {
    const limit = new Gradient2({ initial: 20, min: 15, max: 21 }, numbers)
    limit.update(seen(100))
    limit.update(seen(100))
    assert.strictEqual(limit.limit, 21)
    for (let i = 0; i < 9; i++) limit.update(seen(undefined, { dropped: true }))
    assert.strictEqual(limit.limit, 15)
  })
})

describe("Window", () => {
  it("ends with the first call after its time, if there were enough", () => {
    const window = new Window(100, 3, 0)
    assert.isUndefined(window.add(0, 40, 1, false))
    assert.isUndefined(window.add(10, 99, 7, false))
    assert.deepStrictEqual(window.add(20, 100, 2, false), {
      rtt: (40 + 89 + 80) / 3,
      calls: 3,
      mostRunning: 7,
      dropped: false
    })
  })

  it("goes on after its time until there were enough", () => {
    const window = new Window(100, 2, 0)
    assert.isUndefined(window.add(0, 500, 1, false))
    assert.strictEqual(window.add(100, 600, 1, false)?.rtt, 500)
  })

  it("leaves out calls that started before it", () => {
    const window = new Window(100, 1, 0)
    assert.strictEqual(window.add(0, 100, 1, false)?.calls, 1)
    assert.isUndefined(window.add(99, 400, 9, true))
    assert.deepStrictEqual(window.add(100, 400, 1, false), { rtt: 300, calls: 1, mostRunning: 1, dropped: false })
  })

  it("lasts at least twice as long as a call took in the last one", () => {
    const window = new Window(100, 1, 0)
    window.add(0, 300, 1, false)
    assert.isUndefined(window.add(300, 899, 1, false))
    assert.isDefined(window.add(300, 900, 1, false))
  })

  it("counts dropped calls, but not their time", () => {
    const window = new Window(100, 2, 0)
    window.add(0, 50, 1, false)
    assert.deepStrictEqual(window.add(0, 5_000, 1, true), { rtt: 50, calls: 2, mostRunning: 1, dropped: true })
    window.add(5_000, 5_100, 1, true)
    assert.deepStrictEqual(window.add(5_000, 5_100, 1, true), {
      rtt: undefined,
      calls: 2,
      mostRunning: 1,
      dropped: true
    })
  })
})
