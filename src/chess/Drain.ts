/**
 * Says that the server is stopping, to whatever would otherwise keep a connection open.
 *
 * A stopping server waits for its requests to finish; an event stream has no end of its own, so it ends itself when the
 * drain begins.
 */
import { Context, Deferred, Effect, Layer } from "effect"

/** Whether the server is stopping. */
export class Drain extends Context.Service<
  Drain,
  {
    /** Begins the drain. The second time it does nothing. */
    readonly begin: Effect.Effect<void>
    /** Waits until the drain begins. */
    readonly begun: Effect.Effect<void>
    /** Reads whether the drain has begun. */
    readonly isBegun: Effect.Effect<boolean>
  }
>()("effect-resilience/chess/Drain") {}

/** Builds a drain that has not begun. */
export const make: Effect.Effect<Drain["Service"]> = Effect.map(Deferred.make<void>(), (latch) => ({
  begin: Effect.asVoid(Deferred.succeed(latch, undefined)),
  begun: Deferred.await(latch),
  isBegun: Deferred.isDone(latch)
}))

/** Provides `Drain`. */
export const layer: Layer.Layer<Drain> = Layer.effect(Drain, make)
