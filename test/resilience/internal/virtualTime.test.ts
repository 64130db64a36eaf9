import { assert, describe, it } from "@effect/vitest"
import { VirtualTime } from "../../../src/resilience/internal/virtualTime.ts"

describe("VirtualTime", () => {
  it("runs timers in the order of their times, and of setting them", () => {
    const time = new VirtualTime(1_000)
    const ran: Array<string> = []
    for (const [name, millis] of [
      ["c", 3],
      ["a", 1],
      ["b", 2],
      ["d", 3],
      ["e", 3.5]
    ] as const) {
      time.after(millis, () => ran.push(`${name} ${time.now}`))
    }
    while (time.step(3)) continue
    assert.deepStrictEqual(ran, ["a 1", "b 2", "c 3", "d 3"])
    assert.strictEqual(time.now, 3)
    assert.isTrue(time.step(Infinity))
    assert.isFalse(time.step(Infinity))
    assert.strictEqual(time.now, 3.5)
  })

  it("forgets cancelled timers, and keeps the others in order", () => {
    const time = new VirtualTime(10_000)
    const ran: Array<number> = []
    const cancels = Array.from({ length: 1_000 }, (_, index) => {
      const at = ((index * 7_919) % 1_000) + 1
      return time.after(at, () => ran.push(at))
    })
    cancels.forEach((cancel, index) => {
      if (index % 10 === 0) return
      cancel()
      cancel()
    })
    assert.strictEqual(time.waiting, 100)
    const kept = Array.from({ length: 100 }, (_, index) => ((index * 10 * 7_919) % 1_000) + 1).sort((a, b) => a - b)
    while (time.step(Infinity)) continue
    assert.deepStrictEqual(ran, kept)
    cancels[0]?.()
    assert.strictEqual(time.waiting, 0)
  })

  it("is stuck when too much happens at one moment, and not when it happens at many", () => {
    const time = new VirtualTime(10)
    let ran = 0
    const again = () => {
      if (++ran < 100) time.after(1, again)
    }
    again()
    while (time.step(Infinity)) continue
    assert.strictEqual(ran, 100)
    assert.isFalse(time.stuck)
    for (let timers = 0; timers < 20; timers++) time.after(1, () => ran++)
    while (time.step(Infinity)) continue
    assert.isTrue(time.stuck)
    assert.strictEqual(ran, 111)
  })
})
