/**
 * Puts primitives around calls once, so that a call only has to go through them.
 *
 * A policy knows its parts before the first call. Each is a function of what is inside it; what comes out takes a call
 * and the fiber that makes it, and builds only what the call needs from there on.
 */
import { Effect, type Fiber } from "effect"

/**
 * What a fiber evaluates next to make a call. To be evaluated at once by that fiber, and once. Nothing is taken before it is
 * evaluated. The errors that it adds are not in its type: those who put steps together know them.
 */
export type Step = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  fiber: Fiber.Fiber<unknown, unknown>
) => Effect.Effect<A, E, R>

/** Puts something around a step. */
export type Around = (inner: Step) => Step

/** The innermost step: the call itself. */
export const theCall: Step = (self) => self

/** Goes through a step. A call with nothing inside is the usual one, and need not find that out by a call of its own. */
export const into = <A, E, R>(
  inner: Step,
  self: Effect.Effect<A, E, R>,
  fiber: Fiber.Fiber<unknown, unknown>
): Effect.Effect<A, E, R> => (inner === theCall ? self : inner(self, fiber))

/** The call through a step, as an effect that can be evaluated anywhere and again. */
export const through = <A, E, R>(inner: Step, self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  inner === theCall ? self : Effect.withFiber((fiber) => inner(self, fiber))

/** What puts a primitive around a step, given how it runs effects. */
export const aroundOf =
  (execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>): Around =>
  (inner) =>
  (self) =>
    execute(through(inner, self))

/** What puts a bulkhead of this package around a step. One that somebody else has made is not there, as with the others. */
export const bulkheads = new WeakMap<object, Around>()

/** What puts a retry around a step: one that ends at the errors for which `ends` holds. */
export const retries = new WeakMap<
  object,
  (ends: ((error: unknown, fiber: Fiber.Fiber<unknown, unknown>) => boolean) | undefined) => Around
>()

/** What puts the circuit of a key around a step. */
export const breakers = new WeakMap<object, (key: string) => Around>()
