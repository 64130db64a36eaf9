import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Redacted } from "effect"
import * as ApiKeys from "../../src/chess/ApiKeys.ts"

const keys = ApiKeys.make([
  { key: Redacted.make("premium-key-of-anna"), user: "anna", premium: true },
  { key: Redacted.make("free-key-of-bert"), user: "bert", premium: false }
])

const present = (key: string) => Option.some(Redacted.make(key))
const address = Option.some("192.0.2.1")

describe("ApiKeys", () => {
  describe("identify", () => {
    it.effect("knows every key, the first and the last", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* keys.identify(present("premium-key-of-anna"), address), {
          owner: "anna",
          premium: true
        })
        assert.deepStrictEqual(yield* keys.identify(present("free-key-of-bert"), address), {
          owner: "bert",
          premium: false
        })
      })
    )

    it.effect.each(["", "premium-key-of-ann", "premium-key-of-anna ", "PREMIUM-KEY-OF-ANNA", "x".repeat(100_000)])(
      "refuses a key nobody has, without repeating it",
      (key) =>
        Effect.gen(function* () {
          const error = yield* Effect.flip(keys.identify(present(key), address))
          assert.deepStrictEqual(
            [error._tag, error.code, error.metadata],
            ["Unauthenticated", "UNKNOWN_API_KEY", undefined]
          )
          assert.strictEqual(error.message, "Nobody has this API key")
        })
    )

    it.effect("takes a client without a key for an anonymous one, by its address", () =>
      Effect.gen(function* () {
        const owner = (from: Option.Option<string>) =>
          Effect.map(keys.identify(Option.none(), from), (caller) => [caller.owner, caller.premium])
        assert.deepStrictEqual(yield* owner(address), ["address:192.0.2.1", false])
        assert.deepStrictEqual(yield* owner(Option.some("::ffff:192.0.2.1")), ["address:192.0.2.1", false])
        assert.deepStrictEqual(yield* owner(Option.some("2001:db8::1")), ["address:2001:db8::1", false])
        assert.deepStrictEqual(yield* owner(Option.none()), ["address:unknown", false])
      })
    )

    it.effect("takes everyone for anonymous when there are no keys", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* ApiKeys.make([]).identify(present("whatever-it-is"), address), {
          owner: "address:192.0.2.1",
          premium: false
        })
      })
    )
  })
})
