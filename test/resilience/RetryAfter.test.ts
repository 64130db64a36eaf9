import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { RetryAfter } from "effect-resilience"

// Sun, 06 Nov 1994 08:49:37 GMT
const then = 784_111_777_000

const millis = (value: string, nowMillis: number) => {
  const parsed = RetryAfter.parse(value, nowMillis)
  return parsed === undefined ? undefined : Duration.toMillis(parsed)
}

describe("RetryAfter", () => {
  describe("parse", () => {
    it.each([
      ["0", 0],
      ["120", 120_000],
      [" 7\t", 7_000],
      ["0060", 60_000],
      ["-5", 0],
      ["-0", 0],
      ["0.65", 650],
      ["20000000000000000000", 2e22],
      ["9".repeat(400), Infinity]
    ])("reads %j as seconds", (value, expected) => {
      assert.strictEqual(millis(value, then), expected)
    })

    it.each([
      "Sun, 06 Nov 1994 08:49:37 GMT",
      "Sunday, 06-Nov-94 08:49:37 GMT",
      "Sun Nov  6 08:49:37 1994",
      " sun, 06 nov 1994 08:49:37 gmt "
    ])("reads the date %j relative to now", (value) => {
      assert.strictEqual(millis(value, then - 90_000), 90_000)
      assert.strictEqual(millis(value, then), 0)
      assert.strictEqual(millis(value, then + 1), 0)
      assert.strictEqual(millis(value, then - 10 * 365 * 86_400_000), 10 * 365 * 86_400_000)
    })

    it.each([
      "",
      " ",
      "soon",
      "12 seconds",
      "1e3",
      "0x10",
      "1,5",
      "5.",
      ".5",
      "--5",
      "NaN",
      "Infinity",
      "Sun, 31 Feb 1994 08:49:37 GMT",
      "Sun, 06 Nov 1994 25:49:37 GMT",
      "1994-11-06T08:49:37Z",
      "Sun, 06 Nov 1994 08:49:37 CET"
    ])("reads %j as nothing", (value) => {
      assert.strictEqual(RetryAfter.parse(value, then), undefined)
    })
  })

  describe("fromError", () => {
    it.each([
      [{ retryAfter: Duration.seconds(5) }, 5000],
      [Object.assign(new Error("busy"), { retryAfter: Duration.zero }), 0],
      [{ retryAfter: 5 }, undefined],
      [{ retryAfter: "5 seconds" }, undefined],
      [{}, undefined],
      [null, undefined],
      ["retryAfter", undefined]
    ])("reads the hint of %o", (error, expected) => {
      const hint = RetryAfter.fromError(error)
      assert.strictEqual(hint === undefined ? undefined : Duration.toMillis(hint), expected)
    })
  })
})
