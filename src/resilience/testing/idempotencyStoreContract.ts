/**
 * What every `IdempotencyStore` has to do.
 */
import { Duration, Effect } from "effect"
import type { Begun, Claim, StoredResponse } from "../http/IdempotencyStore.ts"
import { IdempotencyStore } from "../http/IdempotencyStore.ts"
import { type ContractTest, expect, uniqueKey } from "./contract.ts"

/** How time passes for the store. */
export interface IdempotencyStoreContractOptions {
  /** Lets so much time pass: `TestClock.adjust`, or a real sleep. */
  readonly advance: (by: Duration.Duration) => Effect.Effect<void>
  /** The length of a lease. Long against what a call takes where time is real. Defaults to 1 second. */
  readonly lease?: Duration.Input | undefined
}

/** The tests, to be run each with a store in its context. */
export const idempotencyStoreContract = (
  options: IdempotencyStoreContractOptions
): ReadonlyArray<ContractTest<IdempotencyStore>> => {
  const lease = Duration.fromInputUnsafe(options.lease ?? "1 second")
  const timeToLive = Duration.times(lease, 3)
  const leases = (count: number) => options.advance(Duration.millis(Math.ceil(Duration.toMillis(lease) * count)))
  const begin = (key: string, fingerprint = "same", ttl = timeToLive) =>
    IdempotencyStore.use((store) => store.begin({ key, fingerprint, lease, timeToLive: ttl }))
  const find = (key: string, fingerprint = "same") => IdempotencyStore.use((store) => store.find({ key, fingerprint }))
  const complete = (claim: Claim, response = answer) =>
    IdempotencyStore.use((store) => store.complete(claim, response, timeToLive))
  const release = (claim: Claim) => IdempotencyStore.use((store) => store.release(claim))
  const renew = (claim: Claim) => IdempotencyStore.use((store) => store.renew(claim, lease))
  const test = (
    name: string,
    run: (key: string) => Effect.Effect<void, unknown, IdempotencyStore>
  ): ContractTest<IdempotencyStore> => ({ name, run: Effect.flatMap(uniqueKey, run) })

  return [
    test("a new key is claimed, and runs for others until its lease ends", (key) =>
      Effect.gen(function* () {
        yield* expect("before", (yield* find(key))._tag, "Unknown")
        yield* expect("first", (yield* begin(key))._tag, "Claimed")
        const second = yield* begin(key)
        yield* expect("second", second._tag, "Running")
        const left = second._tag === "Running" ? Duration.toMillis(second.leaseEndsIn) : 0
        yield* expect("lease", left > 0 && left <= Duration.toMillis(lease), true)
        yield* expect("found", (yield* find(key))._tag, "Running")
      })),
    test("of many that claim at the same time, one does", (key) =>
      Effect.gen(function* () {
        const all = yield* Effect.all(
          Array.from({ length: 20 }, () => begin(key)),
          { concurrency: "unbounded" }
        )
        yield* expect("claimed", all.filter(({ _tag }) => _tag === "Claimed").length, 1)
        yield* expect("running", all.filter(({ _tag }) => _tag === "Running").length, 19)
      })),
    test("an answer is kept byte for byte, with its status and headers", (key) =>
      Effect.gen(function* () {
        yield* expect("completed", yield* complete(yield* claimed(begin(key))), true)
        yield* expectAnswer(yield* begin(key), answer)
        const found = yield* find(key)
        if (found._tag === "Unknown") return yield* expect("found", found._tag, "Completed")
        yield* expectAnswer(found, answer)
      })),
    test("an answer without a body to keep, and one whose body is empty, are told apart", (key) =>
      Effect.gen(function* () {
        yield* complete(yield* claimed(begin(key)), { status: 201, headers: [] })
        yield* expectAnswer(yield* begin(key), { status: 201, headers: [] })
        yield* complete(yield* claimed(begin(`${key}e`)), { status: 204, headers: [], body: new Uint8Array() })
        yield* expectAnswer(yield* begin(`${key}e`), { status: 204, headers: [], body: new Uint8Array() })
      })),
    test("the key of another request is refused, running or completed", (key) =>
      Effect.gen(function* () {
        const claim = yield* claimed(begin(key))
        yield* expect("running", (yield* begin(key, "other"))._tag, "OtherRequest")
        yield* complete(claim)
        yield* expect("completed", (yield* begin(key, "other"))._tag, "OtherRequest")
        yield* expect("found", (yield* find(key, "other"))._tag, "OtherRequest")
      })),
    test("a released key is as if it had never come", (key) =>
      Effect.gen(function* () {
        yield* expect("released", yield* release(yield* claimed(begin(key))), true)
        yield* expect("found", (yield* find(key))._tag, "Unknown")
        yield* expect("again, with another body", (yield* begin(key, "other"))._tag, "Claimed")
      })),
    test("after its lease a key is claimed again, by the same request only", (key) =>
      Effect.gen(function* () {
        yield* begin(key)
        yield* leases(1.01)
        yield* expect("other", (yield* begin(key, "other"))._tag, "OtherRequest")
        yield* expect("same", (yield* begin(key))._tag, "Claimed")
        yield* expect("once more", (yield* begin(key))._tag, "Running")
      })),
    test("who has lost the lease can do nothing to the key of the next holder", (key) =>
      Effect.gen(function* () {
        const late = yield* claimed(begin(key))
        yield* leases(1.01)
        const next = yield* claimed(begin(key))
        yield* expect("tokens differ", late.token === next.token, false)
        yield* expect("complete", yield* complete(late, { status: 500, headers: [] }), false)
        yield* expect("release", yield* release(late), false)
        yield* expect("renew", yield* renew(late), false)
        yield* expect("the next", yield* complete(next), true)
        yield* expectAnswer(yield* begin(key), answer)
        yield* expect("complete after all", yield* complete(late, { status: 500, headers: [] }), false)
        yield* expectAnswer(yield* begin(key), answer)
      })),
    test("who is late can complete while nobody else has claimed the key", (key) =>
      Effect.gen(function* () {
        const late = yield* claimed(begin(key))
        yield* leases(1.01)
        yield* expect("complete", yield* complete(late), true)
        yield* expectAnswer(yield* begin(key), answer)
      })),
    test("the token of a released key is of no use when the key comes again", (key) =>
      Effect.gen(function* () {
        const first = yield* claimed(begin(key))
        yield* release(first)
        const second = yield* claimed(begin(key))
        yield* expect("complete", yield* complete(first), false)
        yield* expect("release", yield* release(first), false)
        yield* expect("the second", yield* complete(second), true)
      })),
    test("a renewed lease begins anew", (key) =>
      Effect.gen(function* () {
        const claim = yield* claimed(begin(key))
        for (let i = 0; i < 5; i++) {
          yield* leases(0.7)
          yield* expect("renewed", yield* renew(claim), true)
        }
        // By now more than the time to live has passed as well.
        yield* expect("still running", (yield* begin(key))._tag, "Running")
        yield* complete(claim)
        yield* expect("completed", yield* renew(claim), false)
      })),
    test("an answer is kept for its time to live from when it was given, and then the key is new", (key) =>
      Effect.gen(function* () {
        const claim = yield* claimed(begin(key))
        yield* leases(0.5)
        yield* complete(claim)
        yield* leases(2.8)
        yield* expectAnswer(yield* begin(key), answer)
        yield* leases(0.3)
        yield* expect("found", (yield* find(key))._tag, "Unknown")
        yield* expect("again, with another body", (yield* begin(key, "other"))._tag, "Claimed")
      })),
    test("a claim that nobody ended expires too", (key) =>
      Effect.gen(function* () {
        yield* begin(key)
        yield* leases(3.1)
        yield* expect("another body", (yield* begin(key, "other"))._tag, "Claimed")
      })),
    test("cleanup forgets what has expired, and nothing else", (key) =>
      Effect.gen(function* () {
        const { cleanup } = yield* IdempotencyStore
        yield* cleanup
        for (const old of ["a", "b"]) yield* complete(yield* claimed(begin(key + old)))
        const holder = yield* claimed(begin(`${key}r`))
        yield* leases(2.5)
        yield* complete(yield* claimed(begin(`${key}c`)))
        yield* renew(holder)
        yield* leases(0.6)
        yield* expect("removed", yield* cleanup, 2)
        yield* expect("again", yield* cleanup, 0)
        yield* expectAnswer(yield* begin(`${key}c`), answer)
        yield* expect("running", (yield* begin(`${key}r`))._tag, "Running")
      }))
  ]
}

// Not a text in any encoding, and every byte there is.
const answer: StoredResponse = {
  status: 201,
  headers: [
    ["content-type", "application/octet-stream"],
    ["set-cookie", "a=1; Path=/"],
    ["set-cookie", "b=2"],
    ["x-quote", "\"'\\ ü"]
  ],
  body: Uint8Array.from({ length: 600 }, (_, i) => i % 256)
}

const claimed = <E, R>(begun: Effect.Effect<Begun, E, R>): Effect.Effect<Claim, E, R> =>
  Effect.flatMap(begun, (found) =>
    found._tag === "Claimed" ? Effect.succeed(found.claim) : Effect.die(new Error(`not claimed: ${found._tag}`))
  )

const expectAnswer = (found: Begun, expected: StoredResponse): Effect.Effect<void> =>
  found._tag === "Completed"
    ? expect("answer", plain(found.response), plain(expected))
    : Effect.die(new Error(`not completed: ${found._tag}`))

const plain = ({ body, headers, status }: StoredResponse) => ({
  status,
  headers,
  body: body === undefined ? null : Array.from(body)
})
