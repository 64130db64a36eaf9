/**
 * Caps how many calls to one dependency run at the same time.
 *
 * At most `maxConcurrent` calls run and at most `maxQueued` wait, first come first served; the rest fail at once with
 * `BulkheadFull`, so one slow dependency can never hold every fiber of the process.
 *
 * Put a retry outside it, so that a sleeping retry holds no place. A timeout inside it bounds the call. `maxWait`, or a
 * deadline outside it, bounds the wait: who waits that long leaves the queue and never runs. With no time left, a call
 * does not join it. Local to the process; fair by arrival, without priorities.
 *
 * | defaults | `maxQueued` 0 | `maxWait` unlimited |
 */
import { Clock, Config, Context, Duration, Effect, type Fiber, Layer, Schema } from "effect"
import { remainingMillisUnsafe } from "./Deadline.ts"
import { refused, withoutStack } from "./internal/refusal.ts"
import { type Links, Waiters } from "./internal/waiters.ts"

/** A compartment with a number of places. */
export interface Bulkhead {
  /** Runs the effect in the compartment, waits for a place, or fails with `BulkheadFull`. */
  readonly execute: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R>
  /**
   * Changes how many calls may run at the same time. More places go to those who wait at once; with fewer, running calls
   * finish and are not replaced until they are few enough.
   */
  readonly resize: (maxConcurrent: number) => Effect.Effect<void>
  /** Reads the number of places and the calls running and waiting now. */
  readonly state: Effect.Effect<State>
}

/** A bulkhead at one moment. */
export interface State {
  readonly maxConcurrent: number
  readonly running: number
  readonly waiting: number
}

/** How many places a bulkhead has. */
export interface Options {
  /** Calls allowed to run at the same time: an integer of at least 1. */
  readonly maxConcurrent: number
  /** Calls allowed to wait for a place. Defaults to 0: never wait. */
  readonly maxQueued?: number | undefined
  /** The longest wait for a place. Defaults to unlimited: a deadline or an interruption ends it. */
  readonly maxWait?: Duration.Input | undefined
}

/** The call was refused: every place is taken, and it may not wait for one. */
export class BulkheadFull extends Schema.TaggedError<BulkheadFull>()("BulkheadFull", {
  /** The calls that were running. */
  running: Schema.Int,
  /** The calls that were waiting. */
  waiting: Schema.Int
}) {
  get [refused]() {
    return true
  }
  override get message() {
    return `Bulkhead full: ${this.running} running, ${this.waiting} waiting`
  }
}

/** Creates a bulkhead. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (options: Options): Effect.fn.Return<Bulkhead> {
  const maxQueued = atLeast(0, "maxQueued", options.maxQueued ?? 0)
  const maxWait = Duration.toMillis(options.maxWait ?? "Infinity")
  if (!(maxWait >= 0)) throw new RangeError(`Bulkhead: maxWait must be zero or more, got ${maxWait}`)
  let maxConcurrent = atLeast(1, "maxConcurrent", options.maxConcurrent)
  let running = 0
  const queue = new Waiters<Call>()

  // A freed place goes straight to the first who waits: it counts as running from here on, whether it starts or is
  // interrupted first. It is woken by its own dispatcher, never inside the stack of the call that ends.
  const fill = () => {
    while (queue.head !== undefined && running < maxConcurrent) {
      const call = queue.head
      queue.remove(call)
      running++
      call.place = "running"
      call.timer?.interruptUnsafe()
      call.fiber?.currentDispatcher.scheduleTask(call.wake, 0)
    }
  }

  const leave = (call: Call): undefined => {
    const { place } = call
    // First of all: the timer tells its observer at once, which must not find a waiter any more.
    call.place = "outside"
    if (place === "waiting") {
      queue.remove(call)
      call.timer?.interruptUnsafe()
    } else if (place === "running") {
      running--
      fill()
    }
  }

  // As long as nobody comes or goes, all refusals are the same: in an outage there may be thousands of them.
  let refusal: BulkheadFull | undefined
  const refuse = (): Effect.Effect<never, BulkheadFull> => {
    if (refusal === undefined || refusal.running !== running || refusal.waiting !== queue.size) {
      refusal = withoutStack(() => new BulkheadFull({ running, waiting: queue.size }))
    }
    return Effect.fail(refusal)
  }

  return {
    execute: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.suspend(() => {
        const call: Call = {
          place: "outside",
          fiber: undefined,
          timer: undefined,
          wake: noop,
          previous: undefined,
          next: undefined
        }
        // The place is taken inside the region whose exit handler returns it, so no interruption can part the two.
        return Effect.onExitPrimitive(
          Effect.withFiber<A, E | BulkheadFull, R>((fiber) => {
            if (running < maxConcurrent) {
              running++
              call.place = "running"
              return self
            }
            if (queue.size >= maxQueued || maxWait === 0 || remainingMillisUnsafe(fiber) <= 0) return refuse()
            return Effect.callback<A, E | BulkheadFull, R>((resume) => {
              call.place = "waiting"
              call.fiber = fiber
              call.wake = () => resume(self)
              queue.push(call)
              if (maxWait === Infinity) return
              const sleep = fiber.getRef(Clock.Clock).sleep(Duration.millis(Math.ceil(maxWait)))
              call.timer = Effect.runForkWith(fiber.context)(sleep)
              call.timer.addObserver(() => {
                if (call.place !== "waiting") return
                leave(call)
                resume(refuse())
              })
            })
          }),
          () => leave(call)
        )
      }),
    resize: (to) =>
      Effect.sync(() => {
        maxConcurrent = atLeast(1, "maxConcurrent", to)
        fill()
      }),
    state: Effect.sync(() => ({ maxConcurrent, running, waiting: queue.size }))
  }
})

/** The bulkhead of a context that needs only one. For one per dependency, call `make` in each. */
export const Bulkhead = Context.Service<Bulkhead>("effect-resilience/Bulkhead")

/** Provides `Bulkhead`. */
export const layer = (options: Options): Layer.Layer<Bulkhead> => Layer.effect(Bulkhead, make(options))

/** Provides `Bulkhead` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<Bulkhead, Config.ConfigError> =>
  Layer.effect(Bulkhead, Effect.flatMap(Config.unwrap(options), make))

interface Call extends Links<Call> {
  place: "outside" | "waiting" | "running"
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  /** Ends the wait after `maxWait`. */
  timer: Fiber.Fiber<void> | undefined
  wake: () => void
}

const noop = () => {}

const atLeast = (min: number, name: string, value: number): number => {
  if (Number.isInteger(value) && value >= min) return value
  throw new RangeError(`Bulkhead: ${name} must be an integer >= ${min}, got ${value}`)
}
