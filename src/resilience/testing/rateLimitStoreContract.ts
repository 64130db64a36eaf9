/**
 * What every `RateLimitStore` has to do.
 */
import { Duration, Effect } from "effect"
import type { Decision, Policy, Take } from "../http/RateLimitStore.ts"
import { RateLimitStore } from "../http/RateLimitStore.ts"
import { type ContractTest, expect, uniqueKey } from "./contract.ts"

/** How time passes for the store. */
export interface RateLimitStoreContractOptions {
  /** Lets so much time pass: `TestClock.adjust`, or a real sleep. */
  readonly advance: (by: Duration.Duration) => Effect.Effect<void>
  /** The length of the windows. Long against what a call takes where time is real. Defaults to 1 second. */
  readonly window?: Duration.Input | undefined
}

/** The tests, to be run each with a store in its context. */
export const rateLimitStoreContract = (
  options: RateLimitStoreContractOptions
): ReadonlyArray<ContractTest<RateLimitStore>> => {
  const window = Duration.fromInputUnsafe(options.window ?? "1 second")
  const windowMillis = Duration.toMillis(window)
  const advance = (part: number) => options.advance(Duration.millis(Math.ceil(part * windowMillis)))
  const policy = (algorithm: Algorithm, limit = 4): Policy => ({ algorithm, limit, window })

  const each = algorithms.flatMap((algorithm): ReadonlyArray<ContractTest<RateLimitStore>> => [
    {
      name: `${algorithm}: lets the limit through at once, counts down, and refuses the next`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const seen: Array<Decision> = []
        for (let i = 0; i < 5; i++) seen.push(yield* takeOne({ key, policy: policy(algorithm), cost: 1 }))
        yield* expect("allowed", seen.map(allowed), [true, true, true, true, false])
        yield* expect("remaining", seen.map(remaining), [3, 2, 1, 0, 0])
        yield* expect("retryAfter of those allowed", seen.slice(0, 4).map(waitMillis), [0, 0, 0, 0])
        yield* expect("a refusal says when", waitMillis(seen[4]!) > 0 && waitMillis(seen[4]!) <= 2 * windowMillis, true)
      })
    },
    {
      name: `${algorithm}: a refusal takes nothing, and its retryAfter is true`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const take = takeOne({ key, policy: policy(algorithm), cost: 1 })
        for (let i = 0; i < 4; i++) yield* take
        for (let i = 0; i < 20; i++) yield* expect("allowed", allowed(yield* take), false)
        yield* options.advance((yield* take).retryAfter)
        yield* expect("allowed after the wait", allowed(yield* take), true)
      })
    },
    {
      name: `${algorithm}: nothing is taken any more after resetAfter`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const take = takeOne({ key, policy: policy(algorithm), cost: 1 })
        yield* take
        yield* options.advance((yield* take).resetAfter)
        yield* expect("remaining", remaining(yield* take), 3)
      })
    },
    {
      name: `${algorithm}: a request can cost more, or more than there ever is`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const take = (cost: number) => takeOne({ key, policy: policy(algorithm), cost })
        yield* expect("remaining", remaining(yield* take(3)), 1)
        yield* expect("allowed", allowed(yield* take(2)), false)
        yield* expect("allowed", allowed(yield* take(1)), true)
        const never = yield* take(5)
        yield* expect("allowed", allowed(never), false)
        yield* expect("wait", waitMillis(never) === Infinity, true)
      })
    },
    {
      name: `${algorithm}: lets no more through when requests come at the same time`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const decisions = yield* Effect.replicateEffect(
          takeOne({ key, policy: policy(algorithm, 10), cost: 1 }),
          50
        ).pipe((takes) => Effect.map(takes, (all) => all.filter(allowed).length))
        yield* expect("allowed one after another", decisions, 10)
        const other = yield* uniqueKey
        const together = yield* Effect.all(
          Array.from({ length: 50 }, () => takeOne({ key: other, policy: policy(algorithm, 10), cost: 1 })),
          { concurrency: "unbounded" }
        )
        yield* expect("allowed at the same time", together.filter(allowed).length, 10)
      })
    },
    {
      name: `${algorithm}: a lower limit applies at once, and what was taken stays taken`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        for (let i = 0; i < 7; i++) yield* takeOne({ key, policy: policy(algorithm, 8), cost: 1 })
        const lower = takeOne({ key, policy: policy(algorithm, 2), cost: 1 })
        // Of a window, more is taken than there is now; of a bucket, one is left.
        const left = algorithm === "gcra" || algorithm === "token-bucket" ? 1 : 0
        yield* expect("allowed", [allowed(yield* lower), allowed(yield* lower)].filter(Boolean).length, left)
      })
    }
  ])

  return [
    ...each,
    {
      name: "sliding-window: what was taken comes back when its own window has passed",
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const take = takeOne({ key, policy: policy("sliding-window", 2), cost: 1 })
        yield* take
        yield* advance(0.6)
        yield* take
        yield* expect("third", allowed(yield* take), false)
        yield* advance(0.41)
        yield* expect("when the first has left", allowed(yield* take), true)
        yield* expect("the second has not", allowed(yield* take), false)
      })
    },
    ...(["gcra", "token-bucket"] as const).map((algorithm) => ({
      name: `${algorithm}: a burst of its own, and then one at a time`,
      run: Effect.gen(function* () {
        const key = yield* uniqueKey
        const take = takeOne({ key, policy: { algorithm, limit: 4, window, burst: 2 }, cost: 1 })
        const seen = [yield* take, yield* take, yield* take]
        yield* expect("allowed", seen.map(allowed), [true, true, false])
        yield* advance(0.26)
        yield* expect("one has come back", [allowed(yield* take), allowed(yield* take)], [true, false])
      })
    })),
    {
      name: "takes of all limits or of none, and says what each of them says",
      run: Effect.gen(function* () {
        const [wide, narrow] = [yield* uniqueKey, yield* uniqueKey]
        const both: ReadonlyArray<Take> = [
          { key: wide, policy: policy("gcra", 10), cost: 1 },
          { key: narrow, policy: policy("sliding-window", 1), cost: 1 }
        ]
        yield* expect("first", (yield* takeAll(both)).map(allowed), [true, true])
        yield* expect("second", (yield* takeAll(both)).map(allowed), [true, false])
        const alone = yield* takeOne({ key: wide, policy: policy("gcra", 10), cost: 1 })
        yield* expect("left of the wide one", remaining(alone), 8)
      })
    },
    {
      name: "keys have nothing to do with each other",
      run: Effect.gen(function* () {
        const [a, b] = [yield* uniqueKey, yield* uniqueKey]
        const one = policy("sliding-window", 1)
        yield* expect("a", allowed(yield* takeOne({ key: a, policy: one, cost: 1 })), true)
        yield* expect("b", allowed(yield* takeOne({ key: b, policy: one, cost: 1 })), true)
        yield* expect("a again", allowed(yield* takeOne({ key: a, policy: one, cost: 1 })), false)
      })
    }
  ]
}

type Algorithm = NonNullable<Policy["algorithm"]>

const algorithms: ReadonlyArray<Algorithm> = ["sliding-window", "sliding-window-counter", "gcra", "token-bucket"]

const takeAll = (takes: ReadonlyArray<Take>) => RateLimitStore.use((store) => store.take(takes))

const takeOne = (take: Take) => Effect.map(takeAll([take]), (decisions) => decisions[0]!)

const allowed = (decision: Decision) => decision.allowed

// Real time goes by between two calls: a little may have come back.
const remaining = (decision: Decision) => Math.floor(decision.remaining + 1e-9)

const waitMillis = (decision: Decision) => Duration.toMillis(decision.retryAfter)
