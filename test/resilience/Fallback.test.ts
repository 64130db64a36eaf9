import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Cause, Context, Data, Effect, Exit, Fiber, Logger, Option, Ref, Schema } from "effect"
import { Cache, Fallback } from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"

class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", { status: Schema.Int }) {}
class NotFound extends Data.TaggedError("NotFound")<{}> {}
class Broken extends Data.TaggedError("Broken")<{ readonly because: string }> {}

type Both = Unavailable | NotFound

const unavailable = new Unavailable({ status: 503 })
const failing = (error: Both): Effect.Effect<number, Both> => Effect.fail(error)

describe("Fallback", () => {
  describe("value", () => {
    it.effect("answers in place of every failure", () =>
      Effect.gen(function* () {
        const fallback = Fallback.value("usual")
        assert.strictEqual(yield* failing(unavailable).pipe(fallback.execute), "usual")
        assert.strictEqual(yield* failing(new NotFound()).pipe(fallback.execute), "usual")
        assert.strictEqual(yield* Effect.fail(undefined).pipe(fallback.execute), "usual")
      })
    )

    it.effect("leaves a success as it is", () =>
      Effect.gen(function* () {
        const fallback = Fallback.value(2, { onFallback: () => Effect.die("not to be called") })
        assert.strictEqual(yield* Effect.succeed(1).pipe(fallback.execute), 1)
      })
    )

    it.effect("never answers in place of a defect or an interruption, or of a failure beside one of them", () =>
      Effect.gen(function* () {
        const causes: ReadonlyArray<Cause.Cause<Both>> = [
          Cause.die("bug"),
          Cause.interrupt(1),
          Cause.empty,
          Cause.combine(Cause.fail(unavailable), Cause.die("bug")),
          Cause.combine(Cause.die("bug"), Cause.fail(unavailable)),
          Cause.combine(Cause.fail(unavailable), Cause.interrupt(1))
        ]
        const all = Fallback.value(0)
        const some = Fallback.value(0, { errors: Fallback.tags("Unavailable") })
        const kept = Fallback.stale({ find: Effect.succeedSome(0) })
        for (const cause of causes) {
          const call = Effect.failCause(cause)
          for (const guarded of [all.execute(call), some.execute(call), kept.execute(call)]) {
            const exit = yield* Effect.exit(guarded)
            assert.isTrue(Exit.isFailure(exit) && exit.cause === cause)
          }
        }
      })
    )
  })

  describe("make", () => {
    it.effect("answers with an effect, which sees the error", () =>
      Effect.gen(function* () {
        const fallback = Fallback.make({ orElse: (error) => Effect.succeed(error) })
        assert.strictEqual(yield* failing(unavailable).pipe(fallback.execute), unavailable)
      })
    )

    it.effect("fails with the error of the effect", () =>
      Effect.gen(function* () {
        const fallback = Fallback.make({ orElse: () => new Broken({ because: "standby" }) })
        const error = yield* Effect.flip(failing(unavailable).pipe(fallback.execute))
        assert.deepStrictEqual(error, new Broken({ because: "standby" }))
      })
    )

    it.effect("has what its function throws as a defect", () =>
      Effect.gen(function* () {
        const thrown = new Error("orElse")
        const fails = () => {
          throw thrown
        }
        const computed = Fallback.make({ orElse: fails })
        assert.deepStrictEqual(yield* Effect.exit(computed.execute(failing(unavailable))), Exit.die(thrown))
        const named = Fallback.value(0, { errors: Fallback.matching(fails) })
        assert.deepStrictEqual(yield* Effect.exit(named.execute(Effect.fail("no"))), Exit.die(thrown))
      })
    )

    it.effect("is interrupted with the call at any operation, and answers at most once", () =>
      Effect.gen(function* () {
        let open = 0
        const fallback = Fallback.make({
          errors: Fallback.tags("Unavailable"),
          orElse: () =>
            Effect.acquireUseRelease(
              Effect.sync(() => open++),
              () => Effect.yieldNow,
              () => Effect.sync(() => open--)
            ),
          onFallback: () => Effect.yieldNow
        })
        const operations = yield* interruptEverywhere(
          fallback.execute(failing(unavailable)),
          Effect.sync(() => assert.strictEqual(open, 0))
        )
        assert.isAbove(operations, 5)
      })
    )
  })

  describe("stale", () => {
    it.effect("answers with the value of a Ref, and lets the error through before there is one", () =>
      Effect.gen(function* () {
        const last = yield* Ref.make(Option.none<number>())
        const told: Array<unknown> = []
        const fallback = Fallback.stale({
          find: Ref.get(last),
          onFallback: ({ error }) => Effect.sync(() => told.push(error))
        })
        const through = (call: Effect.Effect<number, Both>) =>
          call.pipe(
            Effect.tap((value) => Ref.set(last, Option.some(value))),
            fallback.execute
          )
        assert.strictEqual(yield* Effect.flip(through(failing(unavailable))), unavailable)
        assert.deepStrictEqual(told, [])
        assert.strictEqual(yield* through(Effect.succeed(7)), 7)
        assert.strictEqual(yield* through(failing(unavailable)), 7)
        assert.deepStrictEqual(told, [unavailable])
      })
    )

    it.effect("answers with a value of a Cache, only for the errors it names", () =>
      Effect.gen(function* () {
        const cache = yield* Cache.make<string, number>({ capacity: 10, timeToLive: "1 day" })
        yield* cache.set("a", 1)
        const fallback = (key: string) =>
          Fallback.stale({ find: cache.getIfPresent(key), errors: Fallback.tags("Unavailable") })
        assert.strictEqual(yield* failing(unavailable).pipe(fallback("a").execute), 1)
        assert.strictEqual(yield* Effect.flip(failing(unavailable).pipe(fallback("b").execute)), unavailable)
        assert.strictEqual((yield* Effect.flip(failing(new NotFound()).pipe(fallback("a").execute)))._tag, "NotFound")
      })
    )
  })

  describe("errors", () => {
    it.effect("with a tag end in the fallback, others come through", () =>
      Effect.gen(function* () {
        const one = Fallback.value(0, { errors: Fallback.tags("Unavailable") })
        assert.strictEqual(yield* one.execute(failing(unavailable)), 0)
        assert.strictEqual((yield* Effect.flip(one.execute(failing(new NotFound()))))._tag, "NotFound")
        for (const error of ["Unavailable", null, undefined, {}, { _tag: 1 }]) {
          assert.strictEqual(yield* Effect.flip(one.execute(Effect.fail(error))), error)
        }
        const two = Fallback.value(0, { errors: Fallback.tags("Unavailable", "NotFound") })
        assert.strictEqual(yield* two.execute(failing(new NotFound())), 0)
      })
    )

    it.effect("that a predicate is true of end in the fallback", () =>
      Effect.gen(function* () {
        const guard = Fallback.value(0, { errors: Fallback.matching(Schema.is(Unavailable)) })
        assert.strictEqual(yield* guard.execute(failing(unavailable)), 0)
        assert.strictEqual((yield* Effect.flip(guard.execute(failing(new NotFound()))))._tag, "NotFound")
        const busy = Fallback.value(0, { errors: Fallback.matching((error: Unavailable) => error.status === 503) })
        assert.strictEqual(yield* busy.execute(Effect.fail(unavailable)), 0)
        assert.strictEqual((yield* Effect.flip(busy.execute(new Unavailable({ status: 500 })))).status, 500)
      })
    )

    it.effect("of one cause must all be named, and those that are not come through", () =>
      Effect.gen(function* () {
        const two = Cause.combine(Cause.fail<Both>(unavailable), Cause.fail<Both>(new NotFound()))
        const some = Fallback.value(0, { errors: Fallback.tags("Unavailable") })
        const left = yield* Effect.exit(some.execute(Effect.failCause(two)))
        assert.deepStrictEqual(left, Exit.fail(new NotFound()))
        const all = Fallback.value(0, { errors: Fallback.tags("Unavailable", "NotFound") })
        assert.strictEqual(yield* all.execute(Effect.failCause(two)), 0)
        const kept = Fallback.stale({ find: Effect.succeedSome(0), errors: Fallback.tags("Unavailable") })
        const exit = yield* Effect.exit(kept.execute(Effect.failCause(two)))
        assert.isTrue(Exit.isFailure(exit) && exit.cause === two)
      })
    )
  })

  describe("chain", () => {
    it.effect("asks the second for what the first does not answer", () =>
      Effect.gen(function* () {
        const chain = Fallback.chain(
          Fallback.value("first", { errors: Fallback.tags("Unavailable") }),
          Fallback.value("second", { errors: Fallback.tags("NotFound") })
        )
        assert.strictEqual(yield* chain.execute(failing(unavailable)), "first")
        assert.strictEqual(yield* chain.execute(failing(new NotFound())), "second")
        assert.strictEqual(
          yield* Effect.flip(chain.execute(new Broken({ because: "x" }))).pipe(Effect.map((e) => e._tag)),
          "Broken"
        )
      })
    )

    it.effect("asks the second when the first fails or has nothing", () =>
      Effect.gen(function* () {
        const standby = Fallback.make({ orElse: () => new Broken({ because: "standby" }) })
        const usual = Fallback.value("usual")
        assert.strictEqual(yield* Fallback.chain(standby, usual).execute(failing(unavailable)), "usual")
        const kept = Fallback.stale({ find: Effect.succeedNone })
        const three = Fallback.chain(kept, Fallback.chain(standby, usual))
        assert.strictEqual(yield* three.execute(failing(unavailable)), "usual")
      })
    )
  })

  describe("onFallback", () => {
    it.effect("is told the error before the answer, and only of errors that are answered", () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const fallback = Fallback.make({
          errors: Fallback.tags("Unavailable"),
          orElse: () => Effect.sync(() => log.push("answer")),
          onFallback: ({ error }) => Effect.sync(() => log.push(error._tag))
        })
        yield* fallback.execute(failing(unavailable))
        yield* Effect.exit(fallback.execute(failing(new NotFound())))
        assert.deepStrictEqual(log, ["Unavailable", "answer"])
      })
    )

    it.effect.each([
      ["dies", () => Effect.die("hook")],
      [
        "throws",
        (): Effect.Effect<void> => {
          throw new Error("hook")
        }
      ]
    ] as const)("does not break the answer when it %s, and that is logged", ([, onFallback]) =>
      Effect.gen(function* () {
        const logged: Array<unknown> = []
        const answer = yield* failing(unavailable).pipe(
          Fallback.value(0, { onFallback }).execute,
          Effect.provide(Logger.layer([Logger.make(({ message }) => logged.push(message))]))
        )
        assert.strictEqual(answer, 0)
        assert.strictEqual(logged.length, 1)
      })
    )

    it.effect("is interrupted with the call", () =>
      Effect.gen(function* () {
        let answered = false
        const fallback = Fallback.make({
          orElse: () => Effect.sync(() => (answered = true)),
          onFallback: () => Effect.never
        })
        const fiber = yield* Effect.forkChild(fallback.execute(failing(unavailable)), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.isFalse(answered)
      })
    )
  })

  describe("types", () => {
    type Name = "Name"
    const Name = Context.Service<Name, string>("test/Name")
    type Call = (self: Effect.Effect<number, Both, "R">) => unknown

    it("lose what a fallback of all errors answers", () => {
      const call = (self: Effect.Effect<number, Both, "R">) => self.pipe(Fallback.value("usual").execute)
      expectTypeOf(call).returns.toEqualTypeOf<Effect.Effect<number | string, never, "R">>()
    })

    it("lose the tags it names", () => {
      const fallback = Fallback.value(null, { errors: Fallback.tags("Unavailable") })
      expectTypeOf(fallback).toEqualTypeOf<Fallback.Fallback<null, { readonly _tag: "Unavailable" }>>()
      const call = (self: Effect.Effect<number, Both, "R">) => self.pipe(fallback.execute)
      expectTypeOf(call).returns.toEqualTypeOf<Effect.Effect<number | null, NotFound, "R">>()
      const both = (self: Effect.Effect<number, Both, "R">) =>
        self.pipe(Fallback.value(null, { errors: Fallback.tags("Unavailable", "NotFound") }).execute)
      expectTypeOf(both).returns.toEqualTypeOf<Effect.Effect<number | null, never, "R">>()
    })

    it("lose what a type guard names, and nothing with another predicate", () => {
      const guarded = (self: Effect.Effect<number, Both>) =>
        self.pipe(Fallback.value(null, { errors: Fallback.matching(Schema.is(Unavailable)) }).execute)
      expectTypeOf(guarded).returns.toEqualTypeOf<Effect.Effect<number | null, NotFound>>()
      const inferred = (self: Effect.Effect<number, Both>) =>
        self.pipe(
          Fallback.value(null, { errors: Fallback.matching((error: Both) => error._tag === "NotFound") }).execute
        )
      expectTypeOf(inferred).returns.toEqualTypeOf<Effect.Effect<number | null, Unavailable>>()
      const some = Fallback.value(null, {
        errors: Fallback.matching((error: Both) => error._tag === "Unavailable" && error.status === 503)
      })
      const tested = (self: Effect.Effect<number, Both>) => self.pipe(some.execute)
      expectTypeOf(tested).returns.toEqualTypeOf<Effect.Effect<number | null, Both>>()
      // @ts-expect-error -- the predicate does not know this error
      // @effect-diagnostics-next-line missingEffectError:off
      expectTypeOf(some.execute(Effect.fail("other"))).not.toBeAny()
    })

    it("gain what the effect adds, and it sees the errors that are named", () => {
      const fallback = Fallback.make({
        errors: Fallback.matching((error: Both): error is Unavailable => error._tag === "Unavailable"),
        orElse: (error) => {
          expectTypeOf(error).toEqualTypeOf<Unavailable>()
          return Effect.flatMap(Name, (name) => Effect.fail(new Broken({ because: `${name} ${error.status}` })))
        },
        onFallback: ({ error }) => {
          expectTypeOf(error).toEqualTypeOf<Unavailable>()
          return Effect.void
        }
      })
      const call = (self: Effect.Effect<number, Both, "R">) => self.pipe(fallback.execute)
      expectTypeOf(call).returns.toEqualTypeOf<Effect.Effect<number, NotFound | Broken, "R" | Name>>()
    })

    it("keep every error with a stale value", () => {
      const fallback = Fallback.stale({ find: Effect.succeedSome("old"), errors: Fallback.tags("Unavailable") })
      const call = (self: Effect.Effect<number, Both, "R">) => self.pipe(fallback.execute)
      expectTypeOf(call).returns.toEqualTypeOf<Effect.Effect<number | string, Both, "R">>()
    })

    it("lose with a chain what either of the two answers", () => {
      const standby = Fallback.make({
        errors: Fallback.tags("Unavailable"),
        orElse: () => (unavailable.status === 0 ? Effect.succeed(true) : new Broken({ because: "" }))
      })
      const chain = Fallback.chain(standby, Fallback.value("usual", { errors: Fallback.tags("Broken") }))
      const call = (self: Effect.Effect<number, Both, "R">) => self.pipe(chain.execute)
      expectTypeOf(call).returns.toEqualTypeOf<Effect.Effect<number | boolean | string, NotFound, "R">>()
      expectTypeOf(call).toExtend<Call>()
    })
  })
})
