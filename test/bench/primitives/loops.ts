/**
 * The calls that are measured and the two loops that make them: one inside a fiber, one that awaits promises.
 *
 * A loop checks every result and counts the right ones. What it costs without any library around the call is measured
 * as a case of its own and taken off the others, on whichever path they are.
 */
import { Effect } from "effect"

/** What every call succeeds with. */
export const value = 42

/** What every failing call fails with. Made once, so that nobody pays for its stack. */
export const failure = new Error("The call failed")

/** How often the call itself was made. */
export const made = { calls: 0 }

/** A call that answers at once. */
export const call = (): number => {
  made.calls++
  return value
}

/** A call that fails at once. */
export const failingCall = (): never => {
  made.calls++
  throw failure
}

/** A call that answers later. */
export const promisedCall = (): Promise<number> => {
  made.calls++
  return Promise.resolve(value)
}

/** `call` as an effect. */
export const work = Effect.sync(call)

/** `failingCall` as an effect. */
export const failingWork = Effect.suspend(() => {
  made.calls++
  return failed
})

/** `work` as what a cache runs for any key. */
export const lookup: (key: number) => Effect.Effect<number> = () => work

/** `failingWork` as what a cache runs for any key. */
export const failingLookup: (key: number) => Effect.Effect<never, Error> = () => failingWork

/** `promisedCall` as an effect. */
export const promisedWork = Effect.promise(promisedCall)

const failed = Effect.fail(failure)

/** What makes the calls, and whether they answer at once or later. */
export type Loop = "in a fiber" | "in a fiber, promise" | "awaited" | "awaited, promise"

/** One library on one path: `run` makes so many calls and says how many ended as they must. */
export interface Case {
  readonly subject: string
  readonly path: string
  readonly by: string
  readonly loop: Loop
  /** How often one call through the library makes the call itself. */
  readonly makes: number
  readonly run: (calls: number) => Promise<number>
}

/** What a case says of itself. */
export interface Spec {
  readonly subject: string
  readonly path: string
  readonly by: string
  /** Whether a result is right. Defaults to `value`, or to `failure` where calls fail. */
  readonly right?: (result: unknown) => boolean
  /** Defaults to 1. */
  readonly makes?: number
}

const isValue = (result: unknown) => result === value
const isFailure = (result: unknown) => result === failure

/** A case whose calls succeed, made by one fiber. */
export const fiber = <E>(spec: Spec, make: () => Effect.Effect<unknown, E>, loop: Loop = "in a fiber"): Case => ({
  ...spec,
  loop,
  makes: spec.makes ?? 1,
  run: inFiber(make, spec.right ?? isValue)
})

/** A case whose calls fail, made by one fiber. */
export const fiberFails = <A, E>(spec: Spec, make: () => Effect.Effect<A, E>): Case => ({
  ...spec,
  loop: "in a fiber",
  makes: spec.makes ?? 1,
  run: inFiber(() => Effect.flip(make()), spec.right ?? isFailure)
})

/** A case whose calls succeed, awaited one by one. */
export const promise = (spec: Spec, make: () => unknown, loop: Loop = "awaited"): Case => ({
  ...spec,
  loop,
  makes: spec.makes ?? 1,
  run: awaiting(make, spec.right ?? isValue)
})

/** A case whose calls fail, awaited one by one. */
export const promiseFails = (spec: Spec, make: () => Promise<unknown>): Case => ({
  ...spec,
  loop: "awaited",
  makes: spec.makes ?? 1,
  run: awaitingFailure(make, spec.right ?? isFailure)
})

const inFiber =
  <E>(make: () => Effect.Effect<unknown, E>, right: (result: unknown) => boolean) =>
  (calls: number): Promise<number> => {
    let made = 0
    let good = 0
    const calling = Effect.whileLoop({
      while: () => made < calls,
      body: make,
      step: (result) => {
        made++
        if (right(result)) good++
      }
    })
    return Effect.runPromise(Effect.map(calling, () => good))
  }

const awaiting =
  (make: () => unknown, right: (result: unknown) => boolean) =>
  async (calls: number): Promise<number> => {
    let good = 0
    for (let made = 0; made < calls; made++) {
      if (right(await make())) good++
    }
    return good
  }

const awaitingFailure =
  (make: () => Promise<unknown>, right: (result: unknown) => boolean) =>
  async (calls: number): Promise<number> => {
    let good = 0
    for (let made = 0; made < calls; made++) {
      try {
        await make()
      } catch (error) {
        if (right(error)) good++
      }
    }
    return good
  }

const loop = { subject: "empty loop", by: "none" }

/** The loops alone, with nothing around the call. */
export const empty: ReadonlyArray<Case> = [
  fiber({ ...loop, path: "in a fiber" }, () => work),
  promise({ ...loop, path: "awaited" }, call),
  fiber({ ...loop, path: "in a fiber, promise" }, () => promisedWork, "in a fiber, promise"),
  promise({ ...loop, path: "awaited, promise" }, promisedCall, "awaited, promise")
]
