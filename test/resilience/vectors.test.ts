/**
 * Runs the vectors of test/vectors, which other languages can run as well.
 */
import { readdirSync, readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber, Schema } from "effect"
import { Profile } from "effect-resilience"
import { ScriptedUpstream } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const Answer = Schema.Struct({
  ok: Schema.Boolean,
  after: Schema.optionalKey(Schema.Finite),
  retryAfter: Schema.optionalKey(Schema.Finite)
})

const Call = Schema.Struct({
  at: Schema.Finite,
  answers: Schema.Array(Answer),
  attempts: Schema.Array(Schema.Finite),
  result: Schema.String,
  retryAfter: Schema.optionalKey(Schema.Finite)
})

const Vector = Schema.Struct({
  name: Schema.String,
  says: Schema.String,
  profile: Schema.Unknown,
  calls: Schema.Array(Call)
})

const decode = Schema.decodeUnknownSync(Schema.fromJsonString(Schema.NonEmptyArray(Vector)), {
  onExcessProperty: "error"
})

class Failed extends Schema.TaggedError<Failed>()("failed", { retryAfter: Schema.optionalKey(Schema.Duration) }) {}

const stepOf = ({ after = 0, ok, retryAfter }: typeof Answer.Type): ScriptedUpstream.Step<string, Failed> =>
  ok
    ? ScriptedUpstream.succeed("ok", after)
    : ScriptedUpstream.fail(
        new Failed(retryAfter === undefined ? {} : { retryAfter: Duration.millis(retryAfter) }),
        after
      )

const resultOf = (exit: Exit.Exit<unknown, unknown>): { readonly result: string; readonly retryAfter?: number } => {
  if (Exit.isSuccess(exit)) return { result: String(exit.value) }
  const error = Cause.squash(exit.cause)
  if (!(typeof error === "object" && error !== null && "_tag" in error)) return { result: String(error) }
  const result = String(error._tag)
  return result !== "failed" && "retryAfter" in error && Duration.isDuration(error.retryAfter)
    ? { result, retryAfter: Duration.toMillis(error.retryAfter) }
    : { result }
}

const folder = new URL("../vectors/", import.meta.url)
const files = readdirSync(folder).filter((file) => file.endsWith(".json"))

describe.each(files)("vectors of %s", (file) => {
  it.effect.each(decode(readFileSync(new URL(file, folder), "utf8")).map((vector) => [vector.name, vector] as const))(
    "%s",
    ([, { calls, profile }]) =>
      Effect.gen(function* () {
        const policy = yield* Profile.toPolicy(yield* Profile.decode("vector", profile))
        const running = yield* Effect.forEach(calls, ({ answers, at }) =>
          Effect.gen(function* () {
            yield* TestClock.setTime(at)
            const upstream = yield* ScriptedUpstream.make({ calls: answers.map(stepOf) })
            const fiber = yield* Effect.forkChild(upstream.call.pipe(policy.execute()), { startImmediately: true })
            return { at, upstream, fiber }
          })
        )
        yield* TestClock.adjust("1 hour")
        for (const [index, { at, fiber, upstream }] of running.entries()) {
          const expected = calls[index]
          const { result, retryAfter } = resultOf(yield* Fiber.await(fiber))
          const found = {
            at,
            attempts: (yield* upstream.calls).map(({ startedAtMillis }) => at + startedAtMillis),
            result,
            ...(expected?.retryAfter === undefined ? {} : { retryAfter })
          }
          const { answers: _, ...rest } = expected ?? { answers: [] }
          assert.deepStrictEqual(found, rest, `call ${index + 1}`)
        }
      })
  )
})
