/**
 * What everything that is described as data has in common: how a time is written, and how an error names a field.
 */
import { Duration, Effect, Option, Schema, SchemaGetter, SchemaIssue } from "effect"

const aDuration = 'a duration: milliseconds, or text like "30 seconds"'

/** A time as data: milliseconds, or text like `"30 seconds"`, `"500 millis"`, `"Infinity"`. In code also a `Duration`. */
export const Time = Schema.Union([Schema.Finite, Schema.String, Schema.Duration]).pipe(
  Schema.decodeTo(Schema.Duration, {
    decode: SchemaGetter.transformEffect((input: number | string | Duration.Duration) => {
      // Text that is none is found out by `fromInput`, which the type of its parameter does not say.
      const duration = Option.getOrUndefined(Duration.fromInput(input as Duration.Input))
      return duration === undefined
        ? Effect.fail(new SchemaIssue.InvalidValue({ message: `Expected ${aDuration}` }))
        : Effect.succeed(duration)
    }),
    encode: SchemaGetter.transform((duration: Duration.Duration): number | string | Duration.Duration =>
      Duration.isFinite(duration) ? Duration.toMillis(duration) : "Infinity"
    )
  })
)

/** One thing that is wrong: the field, as `retry.maxDelay`, empty if it is the whole, and what is wrong with it. */
export interface FieldIssue {
  readonly field: string
  readonly problem: string
}

/** Says of each field what is wrong with it. `whole` is what the input was to be: "a profile". */
export const fieldIssues = (issue: SchemaIssue.Issue, input: unknown, whole: string): ReadonlyArray<FieldIssue> => {
  const found = format(issue).issues.map(({ message, path = [] }) => {
    const keys = path.map((segment) => (typeof segment === "object" ? segment.key : segment))
    const field = keys.reduce<string>(
      (field, key) =>
        typeof key === "number" ? `${field}[${key}]` : field === "" ? String(key) : `${field}.${String(key)}`,
      ""
    )
    return { field, problem: problemOf(message, keys, input, whole) }
  })
  // Of a field with several shapes, what is wrong inside one says more than that it is none of the others.
  return found.filter(
    ({ field }) =>
      !found.some(
        (other) => field !== "" && (other.field.startsWith(`${field}.`) || other.field.startsWith(`${field}[`))
      )
  )
}

const format = SchemaIssue.makeFormatterStandardSchemaV1()

// Says it as the modules do: "must be ..., got ...".
const problemOf = (message: string, keys: ReadonlyArray<PropertyKey>, input: unknown, whole: string): string => {
  if (message === "Expected no excess property") return `is no field of ${whole}`
  if (message === "Missing key") return "must be given"
  const [, expected] = /^Expected (.*)$/s.exec(message) ?? []
  if (expected === undefined) return message
  const value = keys.reduce<unknown>(
    (value, key) => (typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined),
    input
  )
  const got = JSON.stringify(value) ?? String(value)
  return `must be ${expected === "Duration" ? aDuration : expected}, got ${got.length > 40 ? `${got.slice(0, 40)}…` : got}`
}
