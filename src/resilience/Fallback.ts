/**
 * Answers in place of a call that failed.
 *
 * Only failures that `errors` names end in it: with a value, an effect, or a stale value if there is one. Their types are
 * gone from the errors of the call. Defects and interruptions always come through, and so do failures beside them.
 *
 * Put it outside everything else, so that it answers only when the retries have ended, and nothing that counts failures
 * mistakes its answer for a success. It holds no state.
 *
 * | defaults | `errors` all | `onFallback` nothing |
 */
import { Cause, Effect, Option } from "effect"
import { notified } from "./internal/notified.ts"
import { emit, nameOf } from "./internal/telemetry.ts"

/**
 * Another way to answer: with an `A`, in place of the errors that `Handled` includes. It adds the errors `E` and can be
 * used for calls that fail with `Accepts`.
 */
export interface Fallback<out A, Handled = unknown, out E = never, out R = never, in Accepts = unknown> {
  /** Runs the effect, and when it fails as expected the fallback. */
  readonly execute: <A1, E1 extends Accepts, R1>(
    self: Effect.Effect<A1, E1, R1>
  ) => Effect.Effect<A | A1, E | Exclude<E1, Handled>, R | R1>
}

/** Some of the errors `Accepts`: those that are `Seen`. `Handled` says which types of errors none is left of. */
export interface Errors<Handled = unknown, out Seen = unknown, in Accepts = unknown> {
  readonly include: (error: Accepts) => boolean
  /** Exists in the type only. */
  readonly "~types"?: { readonly handled: (error: Handled) => Handled; readonly seen: Seen }
}

/** A failure that a fallback is about to answer. */
export interface Failed<out Seen> {
  readonly error: Seen
}

/** What every kind of fallback can be given. */
export interface Options<Handled, Seen, Accepts, R> {
  /** The errors it answers: `tags` or `matching`. Defaults to all. */
  readonly errors?: Errors<Handled, Seen, Accepts> | undefined
  /** Runs before the answer, to log or count. Should it die, that is logged and the call goes on. Defaults to nothing. */
  readonly onFallback?: ((failed: Failed<Seen>) => Effect.Effect<unknown, never, R>) | undefined
}

/** A fallback that is computed. */
export interface EffectOptions<A, Handled, E, R, Seen, Accepts, R2> extends Options<Handled, Seen, Accepts, R2> {
  /** What to do instead. */
  readonly orElse: (error: Seen) => Effect.Effect<A, E, R>
}

/** A fallback that may not have an answer. */
export interface StaleOptions<A, R, Handled, Seen, Accepts, R2> extends Options<Handled, Seen, Accepts, R2> {
  /** Looks for the value: `cache.getIfPresent(key)`, or `Ref.get(ref)` of a `Ref<Option<A>>`. */
  readonly find: Effect.Effect<Option.Option<A>, never, R>
}

/** Of options: that all errors are meant. */
export interface AllErrors {
  readonly errors?: undefined
}

/** The errors with one of these tags. */
export const tags = <const Tag extends string>(
  ...names: readonly [Tag, ...Array<Tag>]
): Errors<{ readonly _tag: Tag }, { readonly _tag: Tag }> => {
  const known: ReadonlySet<unknown> = new Set(names)
  return {
    include: (error) => typeof error === "object" && error !== null && "_tag" in error && known.has(error._tag)
  }
}

/**
 * The errors a predicate is true of. A type guard, also an inferred one like `error._tag === "TimedOut"`, takes their type
 * from the errors of the call; after any other predicate some of each type may be left.
 */
export const matching: {
  <Accepts, Seen extends Accepts>(predicate: (error: Accepts) => error is Seen): Errors<Seen, Seen, Accepts>
  <Accepts>(predicate: (error: Accepts) => boolean): Errors<never, Accepts, Accepts>
} = <Accepts>(predicate: (error: Accepts) => boolean) => ({ include: predicate })

/** Answers with what an effect brings. When that fails, its error comes through. */
export const make: {
  <A, E = never, R = never, R2 = never>(
    options: EffectOptions<A, unknown, E, R, unknown, unknown, R2> & AllErrors
  ): Fallback<A, unknown, E, R | R2>
  <A, Handled, Seen, Accepts, E = never, R = never, R2 = never>(
    options: EffectOptions<A, Handled, E, R, Seen, Accepts, R2>
  ): Fallback<A, Handled, E, R | R2, Accepts>
} = <A, Handled, Seen, Accepts, E, R, R2>(
  options: EffectOptions<A, Handled, E, R, Seen, Accepts, R2>
): Fallback<A, Handled, E, R | R2, Accepts> =>
  answering(options, (error) =>
    told(
      options.onFallback,
      error,
      Effect.suspend(() => options.orElse(error))
    )
  )

/** Answers with a value. */
export const value: {
  <A, R = never>(value: A, options?: Options<unknown, unknown, unknown, R> & AllErrors): Fallback<A, unknown, never, R>
  <A, Handled, Seen, Accepts, R = never>(
    value: A,
    options: Options<Handled, Seen, Accepts, R>
  ): Fallback<A, Handled, never, R, Accepts>
} = <A, Handled, Seen, Accepts, R>(
  value: A,
  options: Options<Handled, Seen, Accepts, R> = {}
): Fallback<A, Handled, never, R, Accepts> => {
  const answer = Effect.succeed(value)
  return answering(options, (error) => told(options.onFallback, error, answer))
}

/**
 * Answers with a value kept from before. Without one the error comes through, so it takes no type away. Keep the value
 * where the call succeeds: `call.pipe(Effect.tap((value) => Ref.set(ref, Option.some(value))), fallback.execute)`.
 */
export const stale: {
  <A, R = never, R2 = never>(
    options: StaleOptions<A, R, unknown, unknown, unknown, R2> & AllErrors
  ): Fallback<A, never, never, R | R2>
  <A, Handled, Seen, Accepts, R = never, R2 = never>(
    options: StaleOptions<A, R, Handled, Seen, Accepts, R2>
  ): Fallback<A, never, never, R | R2, Accepts>
} = <A, Handled, Seen, Accepts, R, R2>({
  errors,
  find,
  onFallback
}: StaleOptions<A, R, Handled, Seen, Accepts, R2>): Fallback<A, never, never, R | R2, Accepts> => ({
  execute: (self) =>
    Effect.catchCause(self, (cause) => {
      const error = answered(errors, cause)
      if (error === undefined) return Effect.failCause(cause)
      return Effect.flatMap(find, (found) =>
        Option.isSome(found) ? told(onFallback, error.value, Effect.succeed(found.value)) : Effect.failCause(cause)
      )
    })
})

/** Two fallbacks as one: the second answers what the first does not, and what the first fails with. */
export const chain = <A, H, E extends Accepts2, R, Accepts, A2, H2, E2, R2, Accepts2>(
  first: Fallback<A, H, E, R, Accepts>,
  second: Fallback<A2, H2, E2, R2, Accepts2>
): Fallback<A | A2, H | H2, Exclude<E, H2> | E2, R | R2, Accepts & Accepts2> => ({
  execute: <A1, E1 extends Accepts & Accepts2, R1>(self: Effect.Effect<A1, E1, R1>) =>
    // To exclude both at once is to exclude one after the other, which is not known of types that are still open.
    second.execute<A | A1, E | E1, R | R1>(
      first.execute(self) as Effect.Effect<A | A1, E | E1, R | R1>
    ) as Effect.Effect<A | A1 | A2, Exclude<E, H2> | E2 | Exclude<E1, H | H2>, R | R1 | R2>
})

const answering = <A, E, R, Handled, Seen, Accepts, R2>(
  options: Options<Handled, Seen, Accepts, R2>,
  answer: (error: Seen) => Effect.Effect<A, E, R>
): Fallback<A, Handled, E, R, Accepts> => ({
  execute: <A1, E1 extends Accepts, R1>(self: Effect.Effect<A1, E1, R1>) =>
    Effect.catchCause(self, (cause): Effect.Effect<A, E | Exclude<E1, Handled>, R> => {
      const error = answered(options.errors, cause)
      return error === undefined ? Effect.failCause(withoutAnswered(options.errors, cause)) : answer(error.value)
    })
})

// The error to answer: of a cause that is nothing but failures which are all included.
const answered = <Handled, Seen, Accepts>(
  errors: Errors<Handled, Seen, Accepts> | undefined,
  cause: Cause.Cause<Accepts>
): { readonly value: Seen } | undefined => {
  for (const reason of cause.reasons) {
    if (!Cause.isFailReason(reason) || errors?.include(reason.error) === false) return undefined
  }
  const first = cause.reasons[0]
  // What `errors` includes is `Seen`: that is what the type of `errors` says.
  return first !== undefined && Cause.isFailReason(first) ? { value: first.error as unknown as Seen } : undefined
}

// Of several failures those that are not included. Failures beside a defect stay, so that nothing is lost of what went
// wrong.
const withoutAnswered = <Handled, Seen, Accepts, E extends Accepts>(
  errors: Errors<Handled, Seen, Accepts> | undefined,
  cause: Cause.Cause<E>
): Cause.Cause<Exclude<E, Handled>> => {
  const left =
    errors === undefined || cause.reasons.length < 2 || !cause.reasons.every(Cause.isFailReason)
      ? cause
      : Cause.fromReasons(cause.reasons.filter((reason) => !errors.include(reason.error)))
  // The type of `errors` says that none of `Handled` is left.
  return left as Cause.Cause<Exclude<E, Handled>>
}

const told = <Seen, A, E, R, R2>(
  onFallback: ((failed: Failed<Seen>) => Effect.Effect<unknown, never, R2>) | undefined,
  error: Seen,
  answer: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R | R2> => {
  emit(() => ({ _tag: "FellBack", primitive: "Fallback", error: nameOf(error) }))
  return onFallback === undefined ? answer : Effect.andThen(notified("onFallback", onFallback, { error }), answer)
}
