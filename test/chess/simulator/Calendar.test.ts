import { assert, describe, it } from "@effect/vitest"
import { DateTime } from "effect"
import * as Calendar from "../../../src/chess/simulator/Calendar.ts"
import * as Timeline from "../../../src/chess/simulator/Timeline.ts"

describe("Calendar", () => {
  it("agrees with DateTime on every day of 150 years, both ways", () => {
    for (let days = Calendar.toDays(1950, 1, 1); days < Calendar.toDays(2100, 1, 1); days++) {
      const { day, month, year } = DateTime.toPartsUtc(DateTime.makeUnsafe(days * Calendar.dayMillis))
      assert.deepStrictEqual(Calendar.fromDays(days), { year, month, day })
      assert.strictEqual(Calendar.toDays(year, month, day), days)
    }
  })

  it("writes dates as PGN and HTTP do", () => {
    const millis = Date.UTC(2026, 8, 5, 7, 8, 9, 999)
    assert.strictEqual(Calendar.dateTag(millis), "2026.09.05")
    assert.strictEqual(Calendar.timeTag(millis), "07:08:09")
    assert.strictEqual(Calendar.httpDate(millis), new Date(millis).toUTCString())
    assert.strictEqual(Calendar.monthStart(2026, 13), Date.UTC(2027, 0, 1))
  })
})

describe("Timeline", () => {
  const from = Date.UTC(2020, 2, 7)
  const to = Date.UTC(2026, 8, 15, 12)

  for (const games of [0, 1, 2, 50, 3000]) {
    it(`spreads ${games} games in order, each in one month, and finds them again`, () => {
      const timeline = Timeline.make({
        hash: 77,
        games,
        from,
        to,
        growsFrom: to,
        everyMillis: 5 * Calendar.dayMillis,
        ties: true
      })
      const count = timeline.count(to + 100 * Calendar.dayMillis)
      assert.strictEqual(count, games + 20)
      let ties = 0
      for (let index = 0; index < count; index++) {
        const at = timeline.at(index)
        if (index > 0) {
          const before = timeline.at(index - 1)
          assert.isAtLeast(at, before)
          if (at === before) ties++
        }
        const first = timeline.firstFrom(at, count)
        assert.isAtMost(first, index)
        assert.strictEqual(timeline.at(first), at)
        assert.isAbove(timeline.firstFrom(at + 1, count), index)
      }
      assert.isTrue(games < 3000 || ties > 5)
      const months = timeline.months(count)
      assert.strictEqual(months[0]!.first, 0)
      months.forEach(({ end, first, month, year }, position) => {
        assert.isAbove(end, first)
        assert.strictEqual(end, months[position + 1]?.first ?? count)
        assert.strictEqual(timeline.firstFrom(Calendar.monthStart(year, month), count), first)
        assert.strictEqual(timeline.firstFrom(Calendar.monthStart(year, month + 1), count), end)
      })
      if (games > 0) assert.isAbove(timeline.at(games - 1), Date.UTC(2026, 8, 1))
    })
  }
})
