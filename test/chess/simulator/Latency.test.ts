import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Latency from "../../../src/chess/simulator/Latency.ts"
import * as Simulator from "../../../src/chess/simulator/Simulator.ts"
import { exportGames, get, lichess } from "./ask.ts"

describe("Latency", () => {
  it("has the median and the 99th percentile it is given", () => {
    for (const latency of [Latency.lichess.user, Latency.lichess.games, Latency.chessCom.month]) {
      const drawn = Array.from({ length: 20_000 }, (_, bits) => Latency.sample(latency, bits)).toSorted(
        (left, right) => left - right
      )
      const millis = { "90 millis": 90, "250 millis": 250, "600 millis": 600, "2 seconds": 2000, "3 seconds": 3000 }
      assert.closeTo(drawn[10_000]!, millis[latency.p50], millis[latency.p50] * 0.04)
      assert.closeTo(drawn[19_800]!, millis[latency.p99], millis[latency.p99] * 0.12)
    }
  })

  it.effect("comes before the headers, the same for the same request, and is off by default", () =>
    Effect.gen(function* () {
      const took = Effect.gen(function* () {
        const { httpClient } = yield* Simulator.make({ lichess: { latency: { user: Latency.lichess.user } } })
        const delays: Array<number> = []
        for (let request = 0; request < 5; request++) {
          const asking = yield* Effect.forkChild(get(httpClient, `${lichess}/api/user/vera`), {
            startImmediately: true
          })
          let millis = 0
          for (; asking.pollUnsafe() === undefined; millis++) yield* TestClock.adjust(1)
          yield* Fiber.join(asking)
          delays.push(millis)
        }
        // Only what was named is slow.
        yield* exportGames(httpClient, "vera", "?max=1")
        return delays
      })
      const first = yield* took
      assert.isTrue(first.every((millis) => millis > 0) && new Set(first).size > 1)
      assert.deepStrictEqual(yield* took, first)
    })
  )
})
