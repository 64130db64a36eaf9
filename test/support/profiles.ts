/**
 * Profiles of every kind, to try what must hold for all of them.
 */
import { Duration } from "effect"
import type { Profile } from "effect-resilience"

/** Numbers that look random and are the same in every run. */
export const numbersFrom = (seed: number) => {
  let state = seed * 2_654_435_761 + 1
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/** For each part, ways to write it that all can work. */
export const written: { readonly [Part in keyof Profile.Input]-?: ReadonlyArray<NonNullable<Profile.Input[Part]>> } = {
  order: ["standard", "facade"],
  deadline: [1, 1.5, "30 seconds", Duration.minutes(2), "Infinity"],
  timeout: [
    250,
    "1 second",
    { ceiling: "5 seconds" },
    { ceiling: 100, floor: 10, factor: 3, percentile: 0.9, minSamples: 5 }
  ],
  cache: [
    { timeToLive: "1 minute" },
    { timeToLive: "Infinity", capacity: 5, jitter: 0.1, idleTimeToLive: "1 hour", failureTimeToLive: 0 },
    { timeToLive: 5, staleIfError: "1 hour", refresh: { staleWhileRevalidate: 10, ahead: 0.2, maxConcurrent: 3 } }
  ],
  bulkhead: [
    { maxConcurrent: 1 },
    { maxConcurrent: 10, maxQueued: 100, maxWait: "1 second", priorities: "weighted", weights: { low: 1, high: 9 } },
    { maxConcurrent: 3, maxQueued: 3, order: "adaptive", overload: { target: 5, interval: "200 millis" } }
  ],
  adaptiveLimit: [
    {},
    { algorithm: "aimd", backoff: 0.7, timeout: "1 second", maxQueued: 4, initialLimit: 5, minLimit: 2, maxLimit: 50 },
    { algorithm: "vegas", alpha: 2, beta: 5, probeEvery: 10, window: "1 second", minCalls: 3 },
    { algorithm: "gradient2", smoothing: 0.5, queue: 3, longWindow: 100, tolerance: 2 }
  ],
  retry: [
    {},
    { times: 5, base: 10, factor: 3, maxDelay: "2 seconds", jitter: "decorrelated", maxElapsed: "1 minute" },
    { schedule: "fixed", base: 100, jitter: "equal", budget: {} },
    { schedule: "linear", base: 100, step: 0, maxDelay: 100, jitter: "none", budget: { kind: "tokens", maxTokens: 5 } },
    { schedule: "fibonacci", maxRetryAfter: "Infinity", budget: { kind: "costs", maxTokens: 100 } },
    {
      schedule: "delays",
      delays: [1, "2 seconds", Duration.zero],
      while: { tags: ["TimedOut"], statuses: [500, "5xx"] }
    },
    { while: { codes: ["UND_*"], reasons: ["x"], texts: ["a", { regExp: "b" }, { regExp: "c", flags: "g" }] } },
    {
      while: { statuses: ["5xx"], except: { statuses: [501] } },
      budget: { share: 0.1, minPerSecond: 1, window: "1 second" }
    }
  ],
  hedge: [
    { delay: "1 second" },
    { delay: 10, percentile: 0.95, minDelay: 1, maxDelay: 500, minSamples: 10, maxHedges: 2, while: {}, budget: {} }
  ],
  circuitBreaker: [
    {},
    { failures: 5, within: "120 seconds", openFor: "1 minute", successesToClose: 2, probes: 3, mode: "metrics-only" },
    { failureRate: 0.5, size: 50, minimumCalls: 10, openFor: [100, "1 second"], maxHalfOpen: "1 minute" },
    { slowCallRate: 0.5, slowAfter: 100, within: 1000, or: [{ failures: 3 }, { failureRate: 1 }], maxRetryAfter: 0 },
    { failure: { statuses: ["5xx"] }, ignored: { tags: ["NotFound"] } }
  ],
  adaptiveThrottle: [{}, { ratio: 1.5, maxRefused: 0.5, window: "10 seconds", retryAfter: 0 }],
  rateLimiter: [
    { capacity: 16, refillPerSecond: 8, maxWait: 0, maxQueued: 0 },
    {
      algorithm: "token-bucket",
      capacity: 1,
      refillPerSecond: 0.5,
      adaptive: { factor: 1, floor: 1, recovery: 1, cooldown: 0, maxPause: 0 }
    },
    { algorithm: "gcra", limit: 10, window: "1 second", burst: 2 },
    { algorithm: "fixed-window", limit: 10, window: 1 },
    { algorithm: "sliding-window", limit: 10, window: "1 minute" },
    { algorithm: "smooth", interval: "100 millis" }
  ]
}

/** The names of the parts. */
export const parts = Object.keys(written) as ReadonlyArray<keyof Profile.Input>

/** A profile with some of the parts. */
export const anyInput = (seed: number): Profile.Input => {
  const below = numbersFrom(seed)
  const chosen = parts.flatMap((part) => {
    const ways = written[part]
    return below(2) === 0 ? [] : [[part, ways[below(ways.length)]] as const]
  })
  const { adaptiveLimit, ...input } = Object.fromEntries(chosen) as {
    -readonly [Part in keyof Profile.Input]: Profile.Input[Part]
  }
  return input.bulkhead === undefined && adaptiveLimit !== undefined ? { ...input, adaptiveLimit } : input
}
