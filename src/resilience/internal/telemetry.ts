/**
 * Tells whoever observes what a primitive has done, and costs next to nothing when nobody does.
 *
 * Only what is rare is told: refusals, timeouts, retries, changes of a circuit. A call that goes through tells nothing.
 */
import { Clock, Context, Fiber } from "effect"
import type { Event } from "../Telemetry.ts"

/** What an event says beside when, and in which trace. */
export type Told = WithoutWhen<Event>

type WithoutWhen<E> = E extends unknown ? Omit<E, "time" | "traceId" | "spanId"> : never

/** Where events go. */
export interface Hub {
  readonly readers: Set<(event: Event) => void>
}

/** The hub of a context: one for the whole process unless another is given. */
export const CurrentHub = Context.Reference<Hub>("effect-resilience/Telemetry/Hub", {
  defaultValue: () => ({ readers: new Set() })
})

let reading = 0

/** Calls `read` for every event of the hub until the returned function is called. */
export const subscribe = (hub: Hub, read: (event: Event) => void): (() => void) => {
  hub.readers.add(read)
  reading++
  return () => {
    if (hub.readers.delete(read)) reading--
  }
}

/** Whether anybody would see an event: to be asked where even the making of a function is too much. */
export const isObserved = (of?: Fiber.Fiber<unknown, unknown>): boolean =>
  reading > 0 || (of ?? Fiber.getCurrent())?.cache.span !== undefined

/** Tells of an event of the fiber that is running, or of the one given. `make` runs only if somebody observes. */
export const emit = (make: () => Told, of?: Fiber.Fiber<unknown, unknown>): void => {
  const fiber = of ?? Fiber.getCurrent()
  const span = fiber?.cache.span
  const spanned = span !== undefined && span._tag === "Span" && span.sampled
  if (reading === 0 && !spanned) return
  if (fiber === undefined) return
  const made = make()
  const told = made.name === undefined ? made : { ...made, name: shown(made.name) }
  const clock = fiber.getRef(Clock.Clock)
  if (spanned) span.event(`effect_resilience.${told._tag}`, clock.currentTimeNanosUnsafe(), attributesOf(told))
  if (reading === 0) return
  const trace = span === undefined ? undefined : { traceId: span.traceId, spanId: span.spanId }
  const event = { ...told, ...trace, time: clock.currentTimeMillisUnsafe() } as Event
  for (const read of fiber.getRef(CurrentHub).readers) read(event)
}

/**
 * What an event says, as attributes of a span, or with another prefix of a log line. An error has the name that OpenTelemetry
 * has for its kind.
 */
export const attributesOf = (told: Told, prefix = "effect_resilience."): Record<string, string | number> => {
  const attributes: Record<string, string | number> = {}
  for (const [name, value] of Object.entries(told)) {
    if (name === "_tag" || value === undefined) continue
    attributes[name === "error" ? "error.type" : `${prefix}${snake(name)}`] = value
  }
  return attributes
}

/** The name of an error and nothing of what it says: that may be secret. */
export const nameOf = (error: unknown): string => {
  if (typeof error !== "object" || error === null) return typeof error
  const tag = "_tag" in error ? error._tag : undefined
  const name = typeof tag === "string" ? tag : error.constructor?.name
  return name !== undefined && /^[\w./@-]{1,64}$/.test(name) ? name : "object"
}

/** A key or a name as it may be shown: short, and in one line, so that it cannot pass for another line of a log. */
export const shown = (text: string): string => {
  const short = text.length <= 128 ? text : `${text.slice(0, 127)}…`
  return short.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, "\uFFFD")
}

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
