/**
 * Reads a profile from JSON and from environment variables, explains it, and makes a call under it.
 */
import { readFileSync } from "node:fs"
import { ConfigProvider, Console, Effect, Schema } from "effect"
import { Profile } from "effect-resilience"

class ConnectionReset extends Schema.TaggedError<ConnectionReset>()("ConnectionReset", {}) {
  readonly code = "ECONNRESET"
}

const program = Effect.gen(function* () {
  const json: unknown = JSON.parse(readFileSync(new URL("profiles.json", import.meta.url), "utf8"))
  const { zephyr } = yield* Profile.decodeAll(json)

  // The environment changes single fields, as ZEPHYR_RETRY_BASE=20 does.
  const env = ConfigProvider.fromEnvRecord({ ZEPHYR_RETRY_BASE: "20", ZEPHYR_CIRCUIT_BREAKER_FAILURES: "3" })
  const profile = yield* Profile.config("zephyr", { base: zephyr }).parse(env)
  yield* Console.log(Profile.render(Profile.explain(profile)))

  const policy = yield* Profile.toPolicy(profile)
  let attempts = 0
  const call = Effect.suspend(() => (++attempts < 3 ? Effect.fail(new ConnectionReset()) : Effect.succeed("well")))
  yield* Console.log(`Zephyr is ${yield* call.pipe(policy.execute({ key: "status" }))} at attempt ${attempts}`)

  const mistaken = yield* Effect.flip(Profile.decode("zephyr", { retry: { base: "1 minute", maxDelay: "10 seconds" } }))
  yield* Console.log(mistaken.message)
})

Effect.runPromise(Effect.scoped(program))
