/**
 * What a private HTTP cache may and must do, one row per rule: requests one after the other, under virtual time, to a
 * server whose answers are written down. A step says whether the server is asked, with what, and what comes back.
 */
import { assert, describe, it } from "@effect/vitest"
import { type Duration, Effect, Fiber } from "effect"
import { HttpCache } from "effect-resilience/http"
import { HttpClientRequest } from "effect/http"
import { TestClock } from "effect/testing"
import { type Answer, scripted } from "../support/scriptedClient.ts"

interface Step {
  /** The time before it. */
  readonly after?: Duration.Input
  readonly method?: "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS"
  /** Defaults to "/". */
  readonly path?: string
  /** The fields of the request. */
  readonly with?: Record<string, string>
  /** What the server answers if it is asked. Its body is the number of the step, if none is given. */
  readonly answer?: Answer
  /** Whether the server is asked: "fresh" for no. */
  readonly is: "fresh" | "asked"
  /** The body that comes back. Defaults to that of this step if the server is asked. */
  readonly body?: string
  readonly status?: number
  /** Fields that the server sees, or does not. */
  readonly sent?: Record<string, string | undefined>
  /** Fields that come back, or do not. */
  readonly has?: Record<string, string | undefined>
}

type Row = readonly [rule: string, steps: ReadonlyArray<Step>, options?: HttpCache.Options]

const date = (seconds: number) => new Date(seconds * 1000).toUTCString()

// A first request, whose answer has these fields.
const first = (headers: Record<string, string>, more: Answer = {}): Step => ({
  answer: { headers, ...more },
  is: "asked"
})
const fresh = (more: Omit<Step, "is"> = {}): Step => ({ is: "fresh", body: "0", ...more })
const asked = (more: Omit<Step, "is"> = {}): Step => ({ is: "asked", ...more })
const minute = { "cache-control": "max-age=60" }
const confirmed = (headers: Record<string, string> = {}): Answer => ({ status: 304, headers })

const rows: Record<string, ReadonlyArray<Row>> = {
  "RFC 9111, 3: storing": [
    ["keeps what has max-age", [first(minute), fresh()]],
    ["keeps what has Expires", [first({ expires: date(60) }), fresh(), asked({ after: "60 seconds" })]],
    ["keeps what is private", [first({ "cache-control": "private, max-age=60" }), fresh()]],
    ["does not keep what has no freshness and no validator", [first({}), asked()]],
    ["does not keep no-store", [first({ "cache-control": "no-store, max-age=60" }), asked()]],
    ["does not keep it whatever its case", [first({ "Cache-Control": "NO-STORE, max-age=60" }), asked()]],
    [
      "does not keep the answer to a request with no-store",
      [{ ...first(minute), with: { "cache-control": "no-store" } }, asked()]
    ],
    [
      "keeps no-store with must-understand if it understands the status (5.2.2.3)",
      [first({ "cache-control": "no-store, must-understand, max-age=60" }), fresh()]
    ],
    [
      "and not if it does not",
      [first({ "cache-control": "no-store, must-understand, max-age=60" }, { status: 299 }), asked()]
    ],
    ["does not keep a part", [first(minute, { status: 206 }), asked()]],
    ["does not keep a 304 it did not ask for", [first(minute, { status: 304 }), asked()]],
    ["does not keep what is cut off (3.3)", [first({ ...minute, "content-length": "9" }, { body: "short" }), asked()]],
    ["keeps any final status with explicit freshness", [first(minute, { status: 599 }), fresh({ status: 599 })]],
    ...[200, 203, 300, 301, 308, 404, 405, 410, 414, 501].map((status): Row => [
      `keeps ${status} by its last change`,
      [
        first({ "last-modified": date(-1000), date: date(0) }, { status }),
        fresh({ after: "99 seconds", status }),
        asked({ after: "1 second" })
      ]
    ]),
    ...[201, 302, 307, 400, 403, 500, 503].map((status): Row => [
      `does not keep ${status} without explicit freshness`,
      [first({ "last-modified": date(-1000) }, { status }), asked()]
    ]),
    ["keeps 302 with it", [first(minute, { status: 302 }), fresh({ status: 302 })]],
    [
      "does not keep fields of the connection (3.1)",
      [
        first({ ...minute, connection: "x-hop", "x-hop": "1", "keep-alive": "timeout=5", "x-kept": "1" }),
        fresh({ has: { connection: undefined, "x-hop": undefined, "keep-alive": undefined, "x-kept": "1" } })
      ]
    ],
    ["does not keep what sets a cookie", [first({ ...minute, "set-cookie": "a=1" }), asked()]]
  ],
  "RFC 9111, 3.5: credentials": [
    [
      "goes past the cache with Authorization",
      [
        { ...first(minute), with: { authorization: "Bearer a" } },
        asked({ with: { authorization: "Bearer a" } }),
        asked()
      ]
    ],
    ["and does not answer from it", [first(minute), asked({ with: { authorization: "Bearer a" } })]],
    ["the same with Cookie", [{ ...first(minute), with: { cookie: "a=1" } }, asked({ with: { cookie: "a=1" } })]],
    [
      "and with a field that is named",
      [{ ...first(minute), with: { "x-api-key": "a" } }, asked({ with: { "x-api-key": "a" } })],
      { credentialHeaders: ["X-Api-Key"] }
    ],
    [
      "keeps by credentials if told to",
      [
        { ...first(minute), with: { authorization: "a" } },
        fresh({ with: { authorization: "a" } }),
        asked({ with: { authorization: "b" } }),
        asked(),
        fresh({ with: { authorization: "a" } })
      ],
      { credentials: "separate" }
    ]
  ],
  "RFC 9111, 4: answering": [
    ["says how old the answer is (5.1)", [first(minute), fresh({ after: "7 seconds", has: { age: "7" } })]],
    [
      "adds to the age it came with (4.2.3)",
      [first({ ...minute, age: "50" }), fresh({ after: "9 seconds", has: { age: "59" } }), asked({ after: "1 second" })]
    ],
    [
      "counts the time that the answer took (4.2.3)",
      [
        first(minute, { after: "20 seconds" }),
        fresh({ after: "39 seconds", has: { age: "59" } }),
        asked({ after: "1 second" })
      ]
    ],
    [
      "counts from its date if that is longer ago (4.2.3)",
      [
        { after: "100 seconds", ...first({ ...minute, date: date(50) }) },
        fresh({ after: "9 seconds", has: { age: "59" } }),
        asked({ after: "1 second" })
      ]
    ],
    [
      "takes a date in the future for now (4.2.3)",
      [first({ ...minute, date: date(5000) }), fresh({ after: "59 seconds" }), asked({ after: "1 second" })]
    ],
    ["takes an age that is none for zero", [first({ ...minute, age: "old" }), fresh({ has: { age: "0" } })]],
    ["takes the first of two ages (5.1)", [first({ ...minute, age: "10, 50" }), fresh({ has: { age: "10" } })]],
    ["keeps what is under another path apart", [first(minute), asked({ path: "/other" }), fresh()]],
    ["and another query", [{ ...first(minute), path: "/?a=1" }, asked({ path: "/?a=2" }), fresh({ path: "/?a=1" })]],
    ["but not another fragment", [{ ...first(minute), path: "/#a" }, fresh({ path: "/#b" })]],
    [
      "answers HEAD with what GET brought",
      [first({ ...minute, "content-length": "1" }), fresh({ method: "HEAD", body: "", has: { "content-length": "1" } })]
    ],
    ["answers GET with nothing that HEAD brought", [{ ...first(minute), method: "HEAD", body: "" }, asked()]]
  ],
  "RFC 9111, 4.1: Vary": [
    [
      "answers if the fields are the same",
      [
        { ...first({ ...minute, vary: "Accept" }), with: { accept: "a" } },
        fresh({ with: { accept: "a" } }),
        fresh({ with: { accept: " a " } })
      ]
    ],
    [
      "asks if they are not",
      [{ ...first({ ...minute, vary: "Accept" }), with: { accept: "a" } }, asked({ with: { accept: "b" } })]
    ],
    ["asks if they are missing", [{ ...first({ ...minute, vary: "Accept" }), with: { accept: "a" } }, asked()]],
    [
      "answers if they were missing, and are",
      [first({ ...minute, vary: "Accept" }), fresh(), asked({ with: { accept: "a" } })]
    ],
    [
      "looks at all that are named",
      [
        { ...first({ ...minute, vary: "Accept, X-Other" }), with: { accept: "a", "x-other": "1" } },
        asked({ with: { accept: "a", "x-other": "2" } })
      ]
    ],
    [
      "keeps several",
      [
        { ...first({ ...minute, vary: "Accept" }), with: { accept: "a" } },
        asked({ with: { accept: "b" }, answer: { headers: { ...minute, vary: "Accept" } } }),
        fresh({ with: { accept: "a" } }),
        fresh({ with: { accept: "b" }, body: "1" })
      ]
    ],
    [
      "takes the newest where several answer",
      [
        { ...first({ ...minute, vary: "Accept", date: date(0) }), with: { accept: "a" } },
        { after: "5 seconds", ...asked({ with: { accept: "b" }, answer: { headers: { ...minute, date: date(5) } } }) },
        fresh({ with: { accept: "a" }, body: "1" })
      ]
    ],
    ["does not keep Vary: *", [first({ ...minute, vary: "*" }), asked()]],
    ["does not keep it among others", [first({ ...minute, vary: "accept, *" }), asked()]]
  ],
  "RFC 9111, 4.2.1: lifetime": [
    [
      "prefers max-age to Expires",
      [first({ ...minute, expires: date(5) }), fresh({ after: "59 seconds" }), asked({ after: "1 second" })]
    ],
    [
      "takes no notice of s-maxage",
      [first({ "cache-control": "s-maxage=5, max-age=60" }), fresh({ after: "59 seconds" })]
    ],
    ["takes no notice of s-maxage alone", [first({ "cache-control": "s-maxage=60" }), asked()]],
    ["counts Expires from Date", [first({ date: date(-1000), expires: date(-940), age: "0" }), asked()]],
    [
      "takes an Expires that is no date for the past (5.3)",
      [first({ expires: "0", "last-modified": date(-1000) }), asked()]
    ],
    [
      "takes the first of two max-age",
      [first({ "cache-control": "max-age=5, max-age=60" }), asked({ after: "6 seconds" })]
    ],
    ["takes a max-age that is none for zero", [first({ "cache-control": "max-age=soon", expires: date(60) }), asked()]],
    ["reads a quoted max-age", [first({ "cache-control": 'max-age="60"' }), fresh()]],
    ["knows no directive that is only like it", [first({ "cache-control": "xmax-age=60, max-agex=60" }), asked()]],
    [
      "does not read directives in a quoted string",
      [first({ "cache-control": 'extension="max-age=60, x", public' }), asked()]
    ],
    [
      "bounds numbers that are too large (1.2.2)",
      [first({ "cache-control": `max-age=${"9".repeat(30)}` }), fresh({ after: "1000 days" })]
    ],
    [
      "takes a tenth of the time since the last change (4.2.2)",
      [first({ "last-modified": date(-600) }), fresh({ after: "59 seconds" }), asked({ after: "1 second" })]
    ],
    [
      "and a day at most",
      [
        first({ "last-modified": "Thu, 01 Jan 1950 00:00:00 GMT" }),
        fresh({ after: "23 hours" }),
        asked({ after: "2 hours" })
      ]
    ],
    ["and nothing for one in the future", [first({ "last-modified": date(600) }), asked()]]
  ],
  "RFC 9111, 4.2.4: stale": [
    ["is asked for", [first(minute), fresh({ after: "59 seconds" }), asked({ after: "1 second" })]],
    [
      "replaces what was kept",
      [first(minute), asked({ after: "1 minute", answer: { headers: minute } }), fresh({ body: "1" })]
    ],
    [
      "is not kept any longer when the answer must not be",
      [
        first({ ...minute, etag: '"a"' }),
        asked({ after: "1 minute", answer: { headers: { "cache-control": "no-store" } } }),
        asked({ sent: { "if-none-match": undefined } })
      ]
    ]
  ],
  "RFC 9111, 4.3: confirming": [
    [
      "sends the ETag",
      [
        first({ ...minute, etag: '"a"' }),
        asked({
          after: "1 minute",
          sent: { "if-none-match": '"a"', "if-modified-since": undefined },
          answer: confirmed(),
          body: "0",
          status: 200
        })
      ]
    ],
    [
      "also a weak one",
      [
        first({ ...minute, etag: 'W/"a"' }),
        asked({
          after: "1 minute",
          sent: { "if-none-match": 'W/"a"' },
          answer: confirmed({ etag: 'W/"a"' }),
          body: "0",
          status: 200
        })
      ]
    ],
    [
      "sends the date of the last change",
      [
        first({ ...minute, "last-modified": date(-9) }),
        asked({
          after: "1 minute",
          sent: { "if-modified-since": date(-9) },
          answer: confirmed(),
          body: "0",
          status: 200
        })
      ]
    ],
    [
      "sends both",
      [
        first({ ...minute, etag: '"a"', "last-modified": date(-9) }),
        asked({
          after: "1 minute",
          sent: { "if-none-match": '"a"', "if-modified-since": date(-9) },
          answer: confirmed(),
          body: "0"
        })
      ]
    ],
    [
      "sends nothing without either",
      [
        first(minute),
        asked({ after: "1 minute", sent: { "if-none-match": undefined, "if-modified-since": undefined } })
      ]
    ],
    [
      "is fresh again with the fields of the 304 (4.3.4)",
      [
        first({ ...minute, etag: '"a"', "x-n": "1" }),
        asked({
          after: "1 minute",
          answer: confirmed({ "cache-control": "max-age=10", "x-n": "2" }),
          body: "0",
          has: { "x-n": "2", age: "0" }
        }),
        fresh({ after: "9 seconds", has: { "x-n": "2", age: "9", etag: '"a"' } }),
        asked({ after: "1 second" })
      ]
    ],
    [
      "is fresh again with its own, where the 304 has none",
      [
        first({ ...minute, etag: '"a"' }),
        asked({ after: "1 minute", answer: confirmed(), body: "0" }),
        fresh({ after: "59 seconds" })
      ]
    ],
    [
      "does not take the length of a 304 for that of the body (3.2)",
      [
        first({ ...minute, etag: '"a"', "content-length": "1", "content-encoding": "identity" }),
        asked({
          after: "1 minute",
          answer: confirmed({ "content-length": "0", "content-encoding": "gzip" }),
          body: "0",
          has: { "content-length": "1", "content-encoding": "identity" }
        })
      ]
    ],
    [
      "does not take the age before for that after",
      [
        first({ ...minute, etag: '"a"', age: "30", date: date(0) }),
        asked({ after: "30 seconds", answer: confirmed(), body: "0" }),
        fresh({ after: "59 seconds" })
      ]
    ],
    [
      "takes a full answer for the new one",
      [
        first({ ...minute, etag: '"a"' }),
        asked({ after: "1 minute", answer: { headers: { ...minute, etag: '"b"' } } }),
        fresh({ body: "1" })
      ]
    ],
    [
      "forgets what a 304 forbids to store",
      [
        first({ ...minute, etag: '"a"' }),
        asked({ after: "1 minute", answer: confirmed({ "cache-control": "no-store" }), body: "0" }),
        asked({ sent: { "if-none-match": undefined } })
      ]
    ],
    [
      "lets an error of the server through, and keeps what it had",
      [
        first({ ...minute, etag: '"a"' }),
        asked({ after: "1 minute", answer: { status: 503 }, status: 503 }),
        asked({ sent: { "if-none-match": '"a"' }, answer: confirmed(), body: "0" })
      ]
    ],
    [
      "leaves requests alone that ask with a condition of their own",
      [
        first({ ...minute, etag: '"a"' }),
        asked({ with: { "if-none-match": '"b"' }, sent: { "if-none-match": '"b"' } }),
        fresh()
      ]
    ],
    [
      "and those for a part",
      [first(minute), asked({ with: { range: "bytes=0-1" }, answer: { status: 206, headers: minute } }), fresh()]
    ],
    [
      "is confirmed by HEAD (4.3.5)",
      [
        first({ ...minute, etag: '"a"', "x-n": "1" }),
        asked({
          method: "HEAD",
          with: { "cache-control": "no-cache" },
          after: "30 seconds",
          answer: { headers: { etag: '"a"', "x-n": "2" } },
          body: "",
          sent: { "if-none-match": '"a"' }
        }),
        fresh({ after: "59 seconds", has: { "x-n": "2" } })
      ]
    ],
    [
      "and forgotten if HEAD is about another (4.3.5)",
      [
        first({ ...minute, etag: '"a"' }),
        asked({
          method: "HEAD",
          with: { "cache-control": "no-cache" },
          answer: { headers: { ...minute, etag: '"b"' } },
          body: ""
        }),
        asked()
      ]
    ],
    [
      "or about another length",
      [
        first({ ...minute, "content-length": "1" }),
        asked({
          method: "HEAD",
          with: { "cache-control": "no-cache" },
          answer: { headers: { "content-length": "2" } },
          body: ""
        }),
        asked()
      ]
    ]
  ],
  "RFC 9111, 4.4: invalidating": [
    ...(["POST", "PUT", "DELETE", "PATCH"] as const).map((method): Row => [
      `forgets the target of ${method}`,
      [first(minute), asked({ method }), asked()]
    ]),
    ["not that of OPTIONS", [first(minute), asked({ method: "OPTIONS" }), fresh()]],
    ["also if the answer is a redirect", [first(minute), asked({ method: "POST", answer: { status: 303 } }), asked()]],
    [
      "not if it is an error",
      [
        first(minute),
        asked({ method: "POST", answer: { status: 400 } }),
        asked({ method: "POST", answer: { status: 500 } }),
        fresh()
      ]
    ],
    [
      "forgets all variants",
      [
        { ...first({ ...minute, vary: "accept" }), with: { accept: "a" } },
        asked({ method: "POST" }),
        asked({ with: { accept: "a" } })
      ]
    ],
    [
      "forgets Location",
      [
        { ...first(minute), path: "/new" },
        asked({ method: "POST", answer: { status: 201, headers: { location: "/new" } } }),
        asked({ path: "/new" })
      ]
    ],
    [
      "forgets Content-Location",
      [
        { ...first(minute), path: "/new" },
        asked({ method: "PUT", answer: { headers: { "content-location": "https://api.test/new" } } }),
        asked({ path: "/new" })
      ]
    ],
    [
      "not those of another origin",
      [
        { ...first(minute), path: "/new" },
        asked({
          method: "POST",
          path: "//other.test/",
          answer: { status: 201, headers: { location: "https://api.test/new", "content-location": "nonsense://[" } }
        }),
        fresh({ path: "/new" })
      ]
    ]
  ],
  "RFC 9111, 5.2.1: what a request asks": [
    [
      "max-age: not older",
      [
        first(minute),
        fresh({ after: "9 seconds", with: { "cache-control": "max-age=9" } }),
        asked({ after: "1 second", with: { "cache-control": "max-age=9" } })
      ]
    ],
    [
      "max-age=0",
      [
        first({ ...minute, etag: '"a"' }),
        asked({
          after: "1 second",
          with: { "cache-control": "max-age=0" },
          sent: { "if-none-match": '"a"' },
          answer: confirmed(),
          body: "0"
        })
      ]
    ],
    [
      "max-stale: how stale",
      [
        first({ ...minute, etag: '"a"' }),
        fresh({ after: "70 seconds", with: { "cache-control": "max-stale=10" } }),
        asked({ after: "1 second", with: { "cache-control": "max-stale=10" } })
      ]
    ],
    [
      "max-stale of any kind",
      [first(minute), fresh({ after: "500 seconds", with: { "cache-control": "max-stale" } })],
      { staleIfError: "1 hour" }
    ],
    [
      "max-stale not with must-revalidate",
      [
        first({ "cache-control": "max-age=60, must-revalidate", etag: '"a"' }),
        asked({ after: "61 seconds", with: { "cache-control": "max-stale" } })
      ]
    ],
    [
      "min-fresh: for how long yet",
      [
        first(minute),
        fresh({ after: "50 seconds", with: { "cache-control": "min-fresh=10" } }),
        asked({ after: "1 second", with: { "cache-control": "min-fresh=10" } })
      ]
    ],
    [
      "no-cache: confirmed",
      [
        first({ ...minute, etag: '"a"' }),
        asked({
          with: { "cache-control": "no-cache" },
          sent: { "if-none-match": '"a"' },
          answer: confirmed(),
          body: "0"
        })
      ]
    ],
    ["Pragma: no-cache (5.4)", [first(minute), asked({ with: { pragma: "no-cache" } })]],
    [
      "but not beside Cache-Control",
      [first(minute), fresh({ with: { pragma: "no-cache", "cache-control": "max-stale=1" } })]
    ],
    [
      "no-store: past the cache, which keeps what it has",
      [first(minute), asked({ with: { "cache-control": "no-store" } }), fresh()]
    ],
    ["only-if-cached: what is kept", [first(minute), fresh({ with: { "cache-control": "only-if-cached" } })]],
    ["only-if-cached: or 504", [{ is: "fresh", with: { "cache-control": "only-if-cached" }, status: 504, body: "" }]],
    [
      "only-if-cached: also when it is stale",
      [
        first({ ...minute, etag: '"a"' }),
        { is: "fresh", after: "1 minute", with: { "cache-control": "only-if-cached" }, status: 504, body: "" }
      ]
    ],
    [
      "only-if-cached: unless stale is wanted",
      [
        first({ ...minute, etag: '"a"' }),
        fresh({ after: "1 minute", with: { "cache-control": "only-if-cached, max-stale" } })
      ]
    ],
    ["nonsense: nothing", [first(minute), fresh({ with: { "cache-control": 'max-age=soon, min-fresh="x", ,=;' } })]]
  ],
  "RFC 9111, 5.2.2: what a response allows": [
    [
      "no-cache: not without asking (5.2.2.4)",
      [
        first({ "cache-control": "no-cache, max-age=60", etag: '"a"' }),
        asked({ sent: { "if-none-match": '"a"' }, answer: confirmed(), body: "0" })
      ]
    ],
    [
      "no-cache with fields: not those fields",
      [
        first({ "cache-control": 'max-age=60, no-cache="x-one, X-Two"', "x-one": "1", "x-two": "2", "x-three": "3" }),
        fresh({ has: { "x-one": undefined, "x-two": undefined, "x-three": "3" } })
      ]
    ],
    [
      "must-revalidate: not when stale (5.2.2.2)",
      [
        first({
          "cache-control": "max-age=60, must-revalidate, stale-while-revalidate=60, stale-if-error=60",
          etag: '"a"'
        }),
        fresh({ after: "59 seconds" }),
        asked({ after: "2 seconds", answer: { status: 503 }, status: 503 })
      ]
    ],
    [
      "proxy-revalidate: says nothing to a private cache",
      [
        first({ "cache-control": "max-age=60, proxy-revalidate, stale-if-error=60" }),
        asked({ after: "70 seconds", answer: { status: 503 }, status: 200, body: "0" })
      ]
    ],
    [
      "private with fields: the same",
      [first({ "cache-control": 'max-age=60, private="x-one"', "x-one": "1" }), fresh({ has: { "x-one": "1" } })]
    ],
    [
      "public: lets any status be judged by its last change",
      [first({ "cache-control": "public", "last-modified": date(-1000) }, { status: 201 }), fresh({ status: 201 })]
    ]
  ],
  "RFC 5861, 3: stale-while-revalidate": [
    [
      "answers and refreshes",
      [
        first({ "cache-control": "max-age=60, stale-while-revalidate=30" }),
        { is: "asked", after: "61 seconds", body: "0", answer: { body: "new", headers: minute }, has: { age: "61" } },
        fresh({ body: "new" })
      ]
    ],
    [
      "asks after that",
      [first({ "cache-control": "max-age=60, stale-while-revalidate=30" }), asked({ after: "91 seconds" })]
    ],
    [
      "asks if the request gave an age",
      [
        first({ "cache-control": "max-age=60, stale-while-revalidate=30" }),
        asked({ after: "61 seconds", with: { "cache-control": "max-age=100" } })
      ]
    ],
    [
      "is the same for HEAD, which refreshes with GET",
      [
        first({ "cache-control": "max-age=60, stale-while-revalidate=30" }),
        { is: "asked", method: "HEAD", after: "61 seconds", body: "", answer: { body: "new", headers: minute } },
        fresh({ body: "new" })
      ]
    ],
    [
      "can be the rule where the response does not say",
      [
        first(minute),
        { is: "asked", after: "61 seconds", body: "0", answer: { body: "new", headers: minute } },
        fresh({ body: "new" })
      ],
      { staleWhileRevalidate: "30 seconds" }
    ],
    [
      "which 0 takes away",
      [first({ "cache-control": "max-age=60, stale-while-revalidate=0" }), asked({ after: "61 seconds" })],
      { staleWhileRevalidate: "30 seconds" }
    ]
  ],
  "RFC 5861, 4: stale-if-error": [
    ...[500, 502, 503, 504].map((status): Row => [
      `stands in for ${status}`,
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ after: "61 seconds", answer: { status }, status: 200, body: "0" })
      ]
    ]),
    [
      "stands in for a broken connection",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ after: "61 seconds", answer: { code: "ECONNRESET" }, status: 200, body: "0" })
      ]
    ],
    [
      "stands in for a body that breaks",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ after: "61 seconds", answer: { headers: minute, body: "1", breaks: true }, status: 200, body: "0" })
      ]
    ],
    [
      "not for other answers",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ after: "61 seconds", answer: { status: 404 }, status: 404 })
      ]
    ],
    [
      "not for 501",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ after: "61 seconds", answer: { status: 501 }, status: 501 })
      ]
    ],
    [
      "not with no-cache",
      [
        first({ "cache-control": "no-cache, stale-if-error=30", etag: '"a"' }),
        asked({ answer: { status: 503 }, status: 503 })
      ]
    ],
    [
      "not for longer",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30", etag: '"a"' }),
        asked({ after: "91 seconds", answer: { status: 503 }, status: 503 })
      ]
    ],
    [
      "stays, and so stands in again",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ after: "61 seconds", answer: { status: 503, headers: minute }, body: "0" }),
        asked({ answer: { status: 503 }, body: "0" })
      ]
    ],
    [
      "can be asked for by a request",
      [
        first({ ...minute, etag: '"a"' }),
        asked({
          after: "61 seconds",
          with: { "cache-control": "stale-if-error=30" },
          answer: { status: 503 },
          status: 200,
          body: "0"
        })
      ]
    ],
    [
      "can be the rule where the response does not say",
      [first(minute), asked({ after: "61 seconds", answer: { status: 503 }, status: 200, body: "0" })],
      { staleIfError: "30 seconds" }
    ],
    [
      "which 0 takes away",
      [
        first({ "cache-control": "max-age=60, stale-if-error=0", etag: '"a"' }),
        asked({ after: "61 seconds", answer: { status: 503 }, status: 503 })
      ],
      { staleIfError: "30 seconds" }
    ],
    [
      "not for a request with no-cache",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({ with: { "cache-control": "no-cache" }, answer: { status: 503 }, status: 503 })
      ]
    ]
  ],
  "RFC 9211: Cache-Status": [
    [
      "says that nothing was kept, and now is",
      [{ ...first(minute), has: { "cache-status": "effect-resilience;fwd=uri-miss;fwd-status=200;stored" } }]
    ],
    [
      "says that it must not be",
      [{ ...first({}), has: { "cache-status": "effect-resilience;fwd=uri-miss;fwd-status=200" } }]
    ],
    [
      "says that it was kept, and for how long it is fresh",
      [first(minute), fresh({ after: "20 seconds", has: { "cache-status": "effect-resilience;hit;ttl=40" } })]
    ],
    [
      "says that only others were",
      [
        first({ ...minute, vary: "a" }),
        asked({ with: { a: "1" }, has: { "cache-status": "effect-resilience;fwd=vary-miss;fwd-status=200" } })
      ]
    ],
    [
      "says that it was stale, and is confirmed",
      [
        first({ ...minute, etag: '"a"' }),
        asked({
          after: "1 minute",
          answer: confirmed(),
          body: "0",
          has: { "cache-status": "effect-resilience;fwd=stale;fwd-status=304;stored" }
        })
      ]
    ],
    [
      "says that the request wanted it",
      [
        first(minute),
        asked({
          with: { "cache-control": "no-cache" },
          has: { "cache-status": "effect-resilience;fwd=request;fwd-status=200" }
        })
      ]
    ],
    [
      "says that the method is none to keep",
      [asked({ method: "POST", has: { "cache-status": "effect-resilience;fwd=method" } })]
    ],
    [
      "says that it was bypassed",
      [asked({ with: { range: "bytes=0-" }, has: { "cache-status": "effect-resilience;fwd=bypass" } })]
    ],
    [
      "says that it is stale",
      [
        first({ "cache-control": "max-age=60, stale-while-revalidate=30" }),
        {
          is: "asked",
          after: "65 seconds",
          body: "0",
          has: { "cache-status": 'effect-resilience;hit;ttl=-5;detail="stale-while-revalidate"' }
        }
      ]
    ],
    [
      "says that it stands in",
      [
        first({ "cache-control": "max-age=60, stale-if-error=30" }),
        asked({
          after: "61 seconds",
          answer: { status: 503 },
          body: "0",
          has: { "cache-status": 'effect-resilience;fwd=stale;fwd-status=503;detail="stale-if-error"' }
        })
      ]
    ],
    [
      "says why there is none",
      [
        {
          is: "fresh",
          with: { "cache-control": "only-if-cached" },
          status: 504,
          body: "",
          has: { "cache-status": 'effect-resilience;detail="only-if-cached"' }
        }
      ]
    ],
    [
      "says it behind what others said",
      [
        {
          ...first({ "cache-status": "edge; hit" }),
          has: { "cache-status": "edge; hit, effect-resilience;fwd=uri-miss;fwd-status=200" }
        }
      ]
    ]
  ]
}

const run = (steps: ReadonlyArray<Step>, options: HttpCache.Options | undefined) =>
  Effect.gen(function* () {
    let index = 0
    const server = scripted(() => ({ body: String(index), ...steps[index]?.answer }))
    const cache = yield* HttpCache.make(options)
    const client = cache.transform(server.client)
    for (const [at, step] of steps.entries()) {
      index = at
      if (step.after !== undefined) yield* TestClock.adjust(step.after)
      const before = server.seen.length
      const request = HttpClientRequest.make(step.method ?? "GET")(new URL(step.path ?? "/", "https://api.test/"), {
        headers: step.with ?? {}
      })
      const call = yield* Effect.forkChild(
        Effect.flatMap(client.execute(request), (response) => Effect.map(response.text, (text) => ({ response, text })))
      )
      if (step.answer?.after !== undefined) yield* TestClock.adjust(step.answer.after)
      const { response, text } = yield* Fiber.join(call)
      const where = `step ${at}`
      // What is refreshed in the background has begun by then.
      yield* Effect.yieldNow
      assert.strictEqual(server.seen.length > before ? "asked" : "fresh", step.is, where)
      const answer =
        step.method === "HEAD" || [204, 304].includes(step.answer?.status ?? 200)
          ? ""
          : (step.answer?.body ?? String(at))
      assert.strictEqual(text, step.body ?? answer, where)
      assert.strictEqual(
        response.status,
        step.status ?? (step.body === undefined ? step.answer?.status : undefined) ?? 200,
        where
      )
      for (const [name, value] of Object.entries(step.sent ?? {})) {
        assert.strictEqual(server.seen.at(-1)?.headers[name], value, `${where}: sent ${name}`)
      }
      for (const [name, value] of Object.entries(step.has ?? {})) {
        assert.strictEqual(response.headers[name], value, `${where}: ${name}`)
      }
      yield* Effect.yieldNow
      assert.strictEqual(server.open(), 0, `${where}: open connections`)
    }
  })

describe("HttpCache by the rules", () => {
  for (const [section, rules] of Object.entries(rows)) {
    describe(section, () => {
      it.effect.each(rules)("%s", ([, steps, options]) => run(steps, options))
    })
  }
})
