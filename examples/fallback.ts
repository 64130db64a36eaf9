/**
 * A price list that is down: the last price known, then the standby, then a default.
 */
import { Data, Effect, Option, Ref } from "effect"
import { Fallback } from "effect-resilience"

class Unavailable extends Data.TaggedError("Unavailable")<{}> {}
class UnknownItem extends Data.TaggedError("UnknownItem")<{}> {}

const program = Effect.gen(function* () {
  const last = yield* Ref.make(Option.none<number>())
  let up = true
  const price = Effect.suspend(() => (up ? Effect.succeed(100) : new Unavailable())).pipe(
    Effect.tap((value) => Ref.set(last, Option.some(value)))
  )
  const errors = Fallback.tags("Unavailable")
  const fallback = Fallback.chain(
    Fallback.stale({ find: Ref.get(last), errors, onFallback: () => Effect.log("the last known price will do") }),
    Fallback.chain(
      Fallback.make({ errors, orElse: () => Effect.andThen(Effect.log("asking the standby"), new Unavailable()) }),
      Fallback.value(95, { errors, onFallback: () => Effect.log("the default it is") })
    )
  )

  up = false
  yield* Effect.log(`nothing known, upstream down: ${yield* price.pipe(fallback.execute)}`)
  up = true
  yield* Effect.log(`upstream up: ${yield* price.pipe(fallback.execute)}`)
  up = false
  yield* Effect.log(`upstream down again: ${yield* price.pipe(fallback.execute)}`)
  const unknown = yield* Effect.flip(new UnknownItem().pipe(fallback.execute))
  yield* Effect.log(`not named, so not answered: ${unknown._tag}`)
})

Effect.runPromise(program)
