/**
 * Runs a hook that a user gave to a primitive.
 */
import { Effect } from "effect"

/**
 * Tells `hook` about an event. Whatever becomes of the hook, the call goes on: its abnormal end is logged under `name`.
 * An interruption of the call itself does not come by here.
 */
export const notified = <Event, R>(
  name: string,
  hook: (event: Event) => Effect.Effect<unknown, never, R>,
  event: Event
): Effect.Effect<unknown, never, R> =>
  Effect.catchCause(
    Effect.suspend(() => hook(event)),
    (cause) => Effect.logWarning(`${name} ended abnormally; the call goes on`, cause)
  )
