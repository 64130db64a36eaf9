import { assert, describe, it } from "@effect/vitest"
import { Headers } from "effect/http"
import { parse } from "../../../src/resilience/internal/http/rateLimitHeaders.ts"

// Sun, 06 Nov 1994 08:49:37 GMT
const now = 784_111_777_000

type Row = readonly [remaining: number, resetMillis: number | undefined, limit?: number, windowMillis?: number]

// What requests are left, and then what else is counted.
const read = (headers: Record<string, string>): { readonly requests: Array<Row>; readonly others: Array<Row> } => {
  const rows = { requests: new Array<Row>(), others: new Array<Row>() }
  for (const { countsRequests, limit, remaining, resetMillis, windowMillis } of parse(
    Headers.fromInput(headers),
    now
  )) {
    const row: Array<number | undefined> = [remaining, resetMillis, limit, windowMillis]
    while (row.length > 2 && row.at(-1) === undefined) row.pop()
    rows[countsRequests ? "requests" : "others"].push(row as unknown as Row)
  }
  return rows
}

describe("rateLimitHeaders", () => {
  describe("parse", () => {
    it.each<[string, Record<string, string>, Array<Row>, Array<Row>?]>([
      ["draft 10", { RateLimit: '"default";r=50;t=30' }, [[50, 30_000]]],
      [
        "draft 10 with its policy",
        { RateLimit: '"a";r=1;t=3', "RateLimit-Policy": '"a";q=100;w=60, "b";q=5;w=1' },
        [[1, 3000, 100, 60_000]]
      ],
      [
        "draft 10 with two limits",
        { RateLimit: '"a";r=1;t=3, "b";r=0;t=9;pk=:YQ==:' },
        [
          [1, 3000],
          [0, 9000]
        ]
      ],
      [
        "draft 10 without a time",
        { RateLimit: '"a";r=0', "RateLimit-Policy": '"a";q=9;w=60' },
        [[0, undefined, 9, 60_000]]
      ],
      [
        "draft 10 that counts bytes",
        { RateLimit: '"a";r=0;t=3', "RateLimit-Policy": '"a";q=100;qu="content-bytes"' },
        [],
        [[0, 3000, 100]]
      ],
      ["draft 8 with a token for a name", { RateLimit: "default;r=5;t=1" }, [[5, 1000]]],
      [
        "draft 7",
        { RateLimit: "limit=100, remaining=5, reset=7", "RateLimit-Policy": "100;w=60" },
        [[5, 7000, 100, 60_000]]
      ],
      [
        "draft 6",
        { "RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "5", "RateLimit-Reset": "7" },
        [[5, 7000, 100, 60_000]]
      ],
      [
        "seconds",
        { "X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "45" },
        [[0, 45_000, 60]]
      ],
      [
        "GitHub, which gives the Unix time",
        { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000060", date: "Tue, 14 Nov 2023 22:13:20 GMT" },
        [[0, 60_000]]
      ],
      [
        "a Unix time in milliseconds",
        { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000060500", date: "Tue, 14 Nov 2023 22:13:20 GMT" },
        [[0, 60_500]]
      ],
      [
        "an HTTP date",
        { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "Sun, 06 Nov 1994 08:50:37 GMT" },
        [[0, 60_000]]
      ],
      ["X", { "x-rate-limit-limit": "15", "x-rate-limit-remaining": "3", "x-rate-limit-reset": "9" }, [[3, 9000, 15]]],
      [
        "Discord",
        { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1470173023", "x-ratelimit-reset-after": "1.25" },
        [[0, 1250]]
      ],
      [
        "OpenAI",
        {
          "x-ratelimit-limit-requests": "60",
          "x-ratelimit-remaining-requests": "59",
          "x-ratelimit-reset-requests": "1s",
          "x-ratelimit-limit-tokens": "150000",
          "x-ratelimit-remaining-tokens": "0",
          "x-ratelimit-reset-tokens": "6m0s"
        },
        [[59, 1000, 60]],
        [[0, 360_000, 150_000]]
      ],
      [
        "Anthropic",
        {
          "anthropic-ratelimit-requests-remaining": "4",
          "anthropic-ratelimit-requests-reset": "1994-11-06T08:50:37Z",
          "anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": "1994-11-06T08:49:47Z"
        },
        [[4, 60_000]],
        [[0, 10_000]]
      ],
      [
        "a time in the past",
        { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "Sun, 06 Nov 1994 08:40:37 GMT" },
        [[0, 0]]
      ],
      ["nothing", {}, []],
      ["only a limit", { "x-ratelimit-limit": "5" }, []],
      ["negative numbers", { "x-ratelimit-remaining": "-1", RateLimit: '"a";r=-1;t=5' }, []],
      ["fractions", { RateLimit: '"a";r=1.5;t=5' }, []],
      ["words", { "x-ratelimit-remaining": "many", "x-ratelimit-reset": "soon" }, []],
      ["a reset in words", { "x-ratelimit-remaining": "1", "x-ratelimit-reset": "tomorrow" }, [[1, undefined]]],
      ["numbers of any length", { "x-ratelimit-remaining": "9".repeat(400) }, []],
      ["a list that is not well-formed", { RateLimit: '"a";r=0;t=5,' }, []],
      ["other parameters", { RateLimit: '"a";x=0;t=5' }, []],
      ["an empty field", { RateLimit: "", "x-ratelimit-remaining": "" }, []]
    ])("reads %s", (_, headers, requests, others = []) => {
      assert.deepStrictEqual(read(headers), { requests, others })
    })

    it.each([
      ["1h2m3s", 3_723_000],
      ["20ms", 20],
      ["1.5s", 1500],
      ["1m0.5s", 60_500],
      ["500us", 0.5],
      ["1d", undefined],
      ["s", undefined],
      ["1s 2s", undefined]
    ])("reads the duration %s as %s ms", (reset, millis) => {
      const headers = { "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset }
      assert.deepStrictEqual(read(headers).requests, [[0, millis]])
    })

    it("looks at the first limits only", () => {
      const RateLimit = Array.from({ length: 100 }, (_, n) => `"${n}";r=1;t=1`).join(", ")
      assert.lengthOf(read({ RateLimit }).requests, 8)
    })
  })
})
