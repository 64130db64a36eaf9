/**
 * Says how important a request is, to everything it passes through.
 *
 * `as` gives the calls inside an effect a priority, as a `Context.Reference` that child fibers inherit. A bulkhead serves
 * the higher ones first, a load shedder refuses the lower ones first. Without it, everything is "normal".
 *
 * Put it where the request comes in, once: what a request needs is as important as the request.
 */
import { Context, Effect, type Fiber, Function } from "effect"

/** How important a call is. */
export type Priority = "critical" | "high" | "normal" | "low"

/** All priorities, the highest first. */
export const all: readonly ["critical", "high", "normal", "low"] = ["critical", "high", "normal", "low"]

/** Runs the effect with this priority, instead of that of its surroundings. */
export const as: {
  (priority: Priority): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, priority: Priority): Effect.Effect<A, E, R>
} = Function.dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, priority: Priority): Effect.Effect<A, E, R> =>
  Effect.provideService(self, Current, priority)
)

/** Reads the priority of the surroundings. */
export const current: Effect.Effect<Priority> = Effect.withFiberSucceed((fiber) => currentUnsafe(fiber))

/** Reads the priority that a fiber has. */
export const currentUnsafe = (fiber: Fiber.Fiber<unknown, unknown>): Priority => fiber.getRef(Current)

const Current = Context.Reference<Priority>("effect-resilience/Priority/Current", { defaultValue: () => "normal" })
