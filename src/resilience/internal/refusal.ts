/**
 * Builds errors without capturing a stack trace, and marks those that say a call was not made.
 *
 * A refusal is an expected answer that may be given thousands of times a second in an outage. Its stack says nothing
 * its fields do not say, and capturing it costs several times as much as everything else about it.
 */

const isWritable = (): boolean => {
  const descriptor = Object.getOwnPropertyDescriptor(Error, "stackTraceLimit")
  return descriptor === undefined ? Object.isExtensible(Error) : descriptor.writable === true
}

const writable = isWritable()

/** Runs `make`, which must only construct an error, with stack capture switched off. */
export const withoutStack = <E>(make: () => E): E => {
  if (!writable) return make()
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  const error = make()
  Error.stackTraceLimit = limit
  return error
}

/** The property of an error that says whether it refused the call instead of making it. */
export const refused: unique symbol = Symbol.for("effect-resilience/refused")

/** Whether the error is a refusal of this package: the call was not made, so it says nothing about the dependency. */
export const isRefusal = (error: unknown): boolean =>
  typeof error === "object" && error !== null && refused in error && error[refused] === true
