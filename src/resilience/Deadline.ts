/**
 * Gives everything a request does one common end.
 *
 * `within` limits an effect and hands the end down to whatever runs inside it, as a `Context.Reference` that child
 * fibers inherit. Inside, it can only come closer: the tighter of two nested deadlines holds. Retries, limiters and
 * bulkheads read it and refuse a wait that cannot end in time, instead of sleeping towards a certain failure.
 *
 * Put it outermost, around retries and waits. For one attempt use `Timeout`; the two errors tell which of them it was.
 *
 * Time is measured by the monotonic clock, so a wall clock that is set forward or back moves no deadline.
 */
import { Context, Duration, Effect, type Fiber, Function, Schema } from "effect"
import { interruptAfter } from "./internal/interruptAfter.ts"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { refused, withoutStack } from "./internal/refusal.ts"
import { emit } from "./internal/telemetry.ts"

/** The work could not end before its deadline. */
export class DeadlineExceeded extends Schema.TaggedError<DeadlineExceeded>()("DeadlineExceeded", {
  /** The time this call was allowed when it came: what it asked for, or what an outer deadline had left of it. */
  after: Schema.Duration,
  /** Whether the work had begun. If not, nothing has happened and the call can safely be made again. */
  started: Schema.Boolean
}) {
  get [refused]() {
    return !this.started
  }
  override get message() {
    return this.started
      ? `Deadline exceeded after ${Duration.format(this.after)}`
      : "Deadline exceeded before the work could start"
  }
}

/**
 * Fails with `DeadlineExceeded` when the effect has not ended `duration` from now, or when an outer deadline has passed
 * before that. The work is interrupted and its finalizers run; it is not started when no time is left.
 */
export const within: {
  (duration: Duration.Input): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | DeadlineExceeded, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, duration: Duration.Input): Effect.Effect<A, E | DeadlineExceeded, R>
} = Function.dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, duration: Duration.Input): Effect.Effect<A, E | DeadlineExceeded, R> => {
    const requested = Duration.toMillis(duration)
    return Effect.withFiber<A, E | DeadlineExceeded, R>((fiber) => {
      const millis = Math.min(requested, remainingMillisUnsafe(fiber))
      if (millis <= 0) return exceeded(0, false)
      if (millis === Infinity) return self
      const context = Context.add(fiber.context, EndsAt, nowMillisUnsafe(fiber) + millis)
      return interruptAfter(self, fiber, millis, exceededLate, undefined, context)
    })
  }
)

/**
 * Runs the effect without the deadline of its surroundings: for work that others wait for too, or that outlives the
 * request that started it.
 */
export const without = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(self, EndsAt, Infinity)

/** Reads how much time is left: `undefined` without a deadline, zero after it. */
export const remaining: Effect.Effect<Duration.Duration | undefined> = Effect.withFiber((fiber) => {
  const millis = remainingMillisUnsafe(fiber)
  return Effect.succeed(millis === Infinity ? undefined : Duration.millis(millis))
})

/** Reads how many milliseconds a fiber has left: `Infinity` without a deadline, 0 after it. */
export const remainingMillisUnsafe = (fiber: Fiber.Fiber<unknown, unknown>): number => {
  const endsAt = fiber.getRef(EndsAt)
  return endsAt === Infinity ? Infinity : Math.max(0, endsAt - nowMillisUnsafe(fiber))
}

// The end in milliseconds of the monotonic clock: it means nothing outside this process, `remaining` does.
const EndsAt = Context.Reference<number>("effect-resilience/Deadline/EndsAt", { defaultValue: () => Infinity })

const exceededLate = (millis: number) => exceeded(millis, true)

const exceeded = (millis: number, started: boolean): Effect.Effect<never, DeadlineExceeded> =>
  Effect.suspend(() => {
    emit(() =>
      started
        ? { _tag: "TimedOut", primitive: "Deadline", afterMillis: millis }
        : { _tag: "Refused", primitive: "Deadline", error: "DeadlineExceeded" }
    )
    return Effect.fail(withoutStack(() => new DeadlineExceeded({ after: Duration.millis(millis), started })))
  })
