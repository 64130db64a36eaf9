import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { afterEach, assert, beforeEach, describe, it, vi } from "@effect/vitest"
import { Effect, Fiber, Random } from "effect"
import { Timeout } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { afterMillisUnsafe, type Cancel } from "../../../src/resilience/internal/timers.ts"

const onRealClock = (use: (after: (millis: number, onEnd: () => void) => Cancel) => void) =>
  Effect.runSync(Effect.withFiberSucceed((fiber) => use((millis, onEnd) => afterMillisUnsafe(fiber, millis, onEnd))))

describe("timers", () => {
  describe("on the real clock", () => {
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] })
    })
    afterEach(() => {
      // Lines whose timers are gone would wait for them for ever.
      vi.runAllTimers()
      vi.useRealTimers()
    })

    it("calls back when the time is up, not before, and once", () => {
      const ended: Array<string> = []
      onRealClock((after) => {
        after(100, () => ended.push("a"))
        after(99.2, () => ended.push("b"))
      })
      vi.advanceTimersByTime(99)
      assert.deepStrictEqual(ended, [])
      vi.advanceTimersByTime(1)
      assert.deepStrictEqual(ended, ["a", "b"])
      vi.advanceTimersByTime(1_000)
      assert.deepStrictEqual(ended, ["a", "b"])
      assert.strictEqual(vi.getTimerCount(), 0)
    })

    it("sets one timer for all that are equally long, and sets it again for who is still waiting", () => {
      const ended: Array<number> = []
      onRealClock((after) => after(50, () => ended.push(0)))
      for (let at = 1; at <= 4; at++) {
        vi.advanceTimersByTime(10)
        onRealClock((after) => after(50, () => ended.push(at)))
        assert.strictEqual(vi.getTimerCount(), 1)
      }
      vi.advanceTimersByTime(10)
      assert.deepStrictEqual(ended, [0])
      for (let at = 1; at <= 4; at++) {
        vi.advanceTimersByTime(9)
        assert.lengthOf(ended, at)
        vi.advanceTimersByTime(1)
        assert.lengthOf(ended, at + 1)
      }
      assert.strictEqual(vi.getTimerCount(), 0)
    })

    it("leaves who comes after a cancelled one his whole time, although the timer was set for the other", () => {
      const ended: Array<string> = []
      onRealClock((after) => after(50, () => ended.push("cancelled"))())
      vi.advanceTimersByTime(30)
      onRealClock((after) => after(50, () => ended.push("later")))
      vi.advanceTimersByTime(49)
      assert.deepStrictEqual(ended, [])
      vi.advanceTimersByTime(1)
      assert.deepStrictEqual(ended, ["later"])
    })

    it("lets one be cancelled and another be set while it calls back", () => {
      const ended: Array<string> = []
      onRealClock((after) => {
        let cancel: Cancel = () => {}
        const first = after(10, () => {
          ended.push("first")
          first()
          cancel()
          onRealClock((again) => again(10, () => ended.push("third")))
        })
        cancel = after(10, () => ended.push("second"))
      })
      vi.advanceTimersByTime(10)
      assert.deepStrictEqual(ended, ["first"])
      vi.advanceTimersByTime(10)
      assert.deepStrictEqual(ended, ["first", "third"])
    })

    it.each([1, 2, 3, 4, 5])("ends whom a timer each would end, at the same time, seed %i", (seed) =>
      Effect.gen(function* () {
        const mine: Array<string> = []
        const model: Array<string> = []
        const cancels: Array<Cancel> = []
        let now = 0
        for (let step = 0; step < 500; step++) {
          const what = yield* Random.nextIntBetween(0, 4)
          if (what < 2) {
            const millis = [10, 10, 25, 70][yield* Random.nextIntBetween(0, 4)] ?? 10
            const end = now + millis
            onRealClock((after) => {
              const cancel = after(millis, () => mine.push(`${step} at ${now}`))
              const timer = setTimeout(() => model.push(`${step} at ${end}`), millis)
              cancels.push(() => {
                cancel()
                clearTimeout(timer)
              })
            })
          } else if (what === 2 && cancels.length > 0) {
            cancels[yield* Random.nextIntBetween(0, cancels.length)]?.()
          } else {
            const until = now + (yield* Random.nextIntBetween(0, 20))
            while (now < until) {
              now++
              vi.advanceTimersByTime(1)
            }
          }
        }
        assert.isAbove(mine.length, 20)
        assert.sameMembers(mine, model)
      }).pipe(Random.withSeed(`timers ${seed}`), Effect.runSync)
    )
  })

  it("keep no process alive that has nothing else to do, and one that waits until the time is up", () =>
    Effect.gen(function* () {
      const program = `
        import { Effect } from "effect"
        import { Timeout } from "effect-resilience"
        const work = Effect.promise(() => Promise.resolve("answered"))
        console.log(await Effect.runPromise(Timeout.timeout(work, "1 hour")))
        console.log((await Effect.runPromise(Effect.flip(Timeout.timeout(Effect.never, 30)))).message)
      `
      const output = yield* Effect.callback<string>((resume) => {
        const child = execFile(
          process.execPath,
          ["--conditions=effect-resilience-source", "--input-type=module", "--eval", program],
          { cwd: fileURLToPath(new URL("../../..", import.meta.url)), timeout: 25_000 },
          (error, text) => resume(Effect.succeed(error === null ? text : `${error.message} ${text}`))
        )
        return Effect.sync(() => child.kill())
      })
      assert.strictEqual(output, "answered\nTimed out after 30ms\n")
    }).pipe(Effect.runPromise))

  it.effect("are those of the clock of a test", () =>
    Effect.gen(function* () {
      const ended: Array<string> = []
      const cancel = yield* Effect.withFiberSucceed((fiber) => {
        afterMillisUnsafe(fiber, 99.2, () => ended.push("up"))
        return afterMillisUnsafe(fiber, 50, () => ended.push("cancelled"))
      })
      yield* TestClock.adjust(40)
      cancel()
      yield* TestClock.adjust(59)
      assert.deepStrictEqual(ended, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(ended, ["up"])
    })
  )

  it.live("are left by a call that is interrupted at any operation", () =>
    Effect.gen(function* () {
      const running = { work: 0 }
      const work = Effect.acquireUseRelease(
        Effect.sync(() => running.work++),
        () => Effect.promise(() => Promise.resolve()),
        () => Effect.sync(() => running.work--)
      )
      const operations = yield* interruptEverywhere(
        Timeout.timeout(work, "1 hour"),
        Effect.sync(() => assert.strictEqual(running.work, 0))
      )
      assert.isAbove(operations, 5)
      // Whoever comes next has his whole time.
      const fiber = yield* Effect.forkChild(Timeout.timeout(Effect.never, "1 hour"), { startImmediately: true })
      assert.isUndefined(fiber.pollUnsafe())
      yield* Fiber.interrupt(fiber)
    })
  )
})
