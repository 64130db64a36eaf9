/**
 * What the suites of the stores have in common: a test is a name and an effect, for whichever test framework.
 */
import { Effect } from "effect"
import { SecureRandom } from "effect/crypto"

/** A test of a store: it dies with what it found wrong. */
export interface ContractTest<Store> {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, Store>
}

/** Dies unless what was found is what was expected. */
export const expect = (what: string, found: unknown, expected: unknown): Effect.Effect<void> => {
  const a = JSON.stringify(found)
  const b = JSON.stringify(expected)
  return a === b ? Effect.void : Effect.die(new Error(`${what}: expected ${b}, found ${a}`))
}

/** A key that nobody has used in any store, so that a suite can run again on one that keeps what it is given. */
export const uniqueKey: Effect.Effect<string> = Effect.sync(() => SecureRandom.uuidV4Unsafe())
