/**
 * Recognises errors: by tag, HTTP status, network code or text, whoever made them.
 *
 * A pattern is a predicate, for the `while` of a `Retry` or a `Hedge`, for a `Fallback` and, through `outcome`, for the
 * classification of a `CircuitBreaker`. The same can be said as data (`Spec`), for profiles and configuration.
 *
 * Codes, statuses and texts are looked for in the error and in what caused it (`cause`, `reason`, the `errors` of an
 * `AggregateError`), in at most 16 values: Node and its `fetch` hide the reason of a failure that deep. No pattern of this
 * module throws, whatever it is given: a property that cannot be read is not there.
 */
import { type Exit, Result, Schema } from "effect"
import type { Outcome } from "./CircuitBreaker.ts"
import { isRefusal } from "./internal/refusal.ts"

/** Says whether an error is one of those meant. */
export interface ErrorPattern {
  (error: unknown): boolean
}

/** Matches errors with one of these `_tag`s, and tells the compiler so. */
export const tag =
  <const Tags extends ReadonlyArray<string>>(...tags: Tags) =>
  (error: unknown): error is { readonly _tag: Tags[number] } =>
    isOneOf(tags, read(error, "_tag"))

/** Matches errors whose `reason` has one of these `_tag`s, as those of Effect's HTTP client and workers do. */
export const reason =
  (...tags: ReadonlyArray<string>): ErrorPattern =>
  (error) =>
    isOneOf(tags, read(read(error, "reason"), "_tag"))

/** An HTTP status, or all that begin with one digit. */
export type Status = number | "1xx" | "2xx" | "3xx" | "4xx" | "5xx"

/**
 * Matches errors, and responses, by HTTP status: their `status` or `statusCode`, that of their `response`, or the
 * `httpStatusCode` in their `$metadata`. The outermost status that is found counts.
 */
export const status = (...statuses: ReadonlyArray<Status>): ErrorPattern => {
  for (const wanted of statuses) {
    const valid = typeof wanted === "number" ? isStatus(wanted) : /^[1-5]xx$/.test(wanted)
    if (!valid) throw new RangeError(`ErrorPattern: status must be 100 to 599 or "1xx" to "5xx", got ${wanted}`)
  }
  return (error) => {
    const found = first(error, statusOf)
    return (
      found !== undefined && statuses.some((wanted) => wanted === found || wanted === `${Math.floor(found / 100)}xx`)
    )
  }
}

/**
 * Matches errors by `code`, anywhere among their causes: "ECONNRESET", say. One that ends in `*` stands for all that begin
 * like it: "UND_ERR_*".
 */
export const code = (...codes: ReadonlyArray<string>): ErrorPattern => {
  for (const wanted of codes) {
    if (wanted === "" || wanted === "*") throw new RangeError(`ErrorPattern: code must name something, got "${wanted}"`)
  }
  const isWanted = (found: string) =>
    codes.some((wanted) => (wanted.endsWith("*") ? found.startsWith(wanted.slice(0, -1)) : found === wanted))
  return (error) =>
    first(error, (value) => {
      const found = read(value, "code")
      return typeof found === "string" && isWanted(found) ? true : undefined
    }) === true
}

/**
 * Matches errors by `message`, anywhere among their causes, or by themselves if they are strings: those that contain one
 * of the texts, in upper or lower case, or that a regular expression finds something in. The first 10,000 characters count.
 */
export const text = (...patterns: ReadonlyArray<string | RegExp>): ErrorPattern => {
  const tests = patterns.map((pattern) => {
    if (pattern === "") throw new RangeError("ErrorPattern: text must not be empty")
    if (typeof pattern === "string") {
      const wanted = pattern.toLowerCase()
      return (message: string) => message.toLowerCase().includes(wanted)
    }
    // A global or sticky expression remembers where it last stopped.
    const expression = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ""))
    return (message: string) => expression.test(message)
  })
  return (error) =>
    first(error, (value) => {
      const message = typeof value === "string" ? value : read(value, "message")
      if (typeof message !== "string") return undefined
      const beginning = message.slice(0, maxText)
      return tests.some((test) => test(beginning)) ? true : undefined
    }) === true
}

/** Matches what at least one of the patterns matches. */
export const any =
  (...patterns: ReadonlyArray<ErrorPattern>): ErrorPattern =>
  (error) =>
    patterns.some((pattern) => pattern(error))

/** Matches what every one of the patterns matches. */
export const all =
  (...patterns: ReadonlyArray<ErrorPattern>): ErrorPattern =>
  (error) =>
    patterns.every((pattern) => pattern(error))

/** Matches what the pattern does not match. */
export const not =
  (pattern: ErrorPattern): ErrorPattern =>
  (error) =>
    !pattern(error)

/**
 * Matches connections that could not be made, broke, or fell silent, by the codes of Node and of its `fetch`. Not those
 * codes of `fetch` that say the request itself was wrong, or was given up by the caller.
 */
export const network: ErrorPattern = all(
  any(
    code(
      "ECONNRESET",
      "ETIMEDOUT",
      "ECONNREFUSED",
      "ENOTFOUND",
      "ENETUNREACH",
      "EHOSTUNREACH",
      "EPIPE",
      "EAI_AGAIN",
      "UND_ERR_*"
    ),
    text("socket hang up")
  ),
  not(
    code(
      "UND_ERR_ABORTED",
      "UND_ERR_INVALID_ARG",
      "UND_ERR_INVALID_RETURN_VALUE",
      "UND_ERR_NOT_SUPPORTED",
      "UND_ERR_REQ_CONTENT_LENGTH_MISMATCH"
    )
  )
)

/** Matches what may be gone by the next attempt: `network`, the statuses 408, 429, 500, 502, 503 and 504, and `TimedOut`. */
export const transient: ErrorPattern = any(network, status(408, 429, 500, 502, 503, 504), tag("TimedOut"))

// A pattern of a text as data. Its letters may be of either case unless `flags` says otherwise.
const RegExpSpec = Schema.Struct({
  regExp: Schema.String,
  /** Flags of the regular expression. Defaults to "i". */
  flags: Schema.optionalKey(Schema.String)
}).check(
  Schema.makeFilter(({ flags = "i", regExp }) =>
    Result.isSuccess(Result.try(() => new RegExp(regExp, flags))) ? undefined : "Expected a valid regular expression"
  )
)

const statusNames = Schema.Literals(["1xx", "2xx", "3xx", "4xx", "5xx"])

const lists = {
  /** As for `tag`. */
  tags: Schema.optionalKey(Schema.Array(Schema.String)),
  /** As for `reason`. */
  reasons: Schema.optionalKey(Schema.Array(Schema.String)),
  /** As for `status`. */
  statuses: Schema.optionalKey(
    Schema.Array(Schema.Union([Schema.Int.check(Schema.isBetween({ minimum: 100, maximum: 599 })), statusNames]))
  ),
  /** As for `code`. */
  codes: Schema.optionalKey(Schema.Array(Schema.String.check(Schema.isPattern(/^[^*]+\*?$/)))),
  /** As for `text`: strings, or regular expressions as `{ regExp, flags }`. */
  texts: Schema.optionalKey(Schema.Array(Schema.Union([Schema.NonEmptyString, RegExpSpec])))
}

/** A pattern as data: it matches what any of its lists matches, and not what `except` does. Without lists it matches nothing. */
export const Spec = Schema.Struct({ ...lists, except: Schema.optionalKey(Schema.Struct(lists)) })
export type Spec = typeof Spec.Type

/** Makes a pattern of data. */
export const fromSpec = (spec: Spec): ErrorPattern => {
  const wanted = fromLists(spec)
  return spec.except === undefined ? wanted : all(wanted, not(fromLists(spec.except)))
}

/** Which errors say what about a dependency. */
export interface OutcomeOptions {
  /** The errors that are failures. All others are successes: the dependency has answered. Defaults to all errors. */
  readonly failure?: ErrorPattern | undefined
  /** The errors that say nothing, whatever `failure` says. Defaults to none. */
  readonly ignored?: ErrorPattern | undefined
}

/**
 * Classifies the exits of calls for a `CircuitBreaker`. Defects are failures; interruptions and refusals of this package
 * say nothing. Of several errors the worst counts.
 */
export const outcome =
  (options: OutcomeOptions) =>
  (exit: Exit.Exit<unknown, unknown>): Outcome => {
    if (exit._tag === "Success") return "success"
    let worst: Outcome = "ignored"
    for (const why of exit.cause.reasons) {
      if (why._tag === "Die") return "failure"
      if (why._tag === "Interrupt" || refusal(why.error) || options.ignored?.(why.error) === true) continue
      if (options.failure === undefined || options.failure(why.error)) return "failure"
      worst = "success"
    }
    return worst
  }

const maxValues = 16
const maxText = 10_000

const fromLists = ({ codes, reasons, statuses, tags, texts }: Omit<Spec, "except">): ErrorPattern => {
  const patterns: Array<ErrorPattern> = []
  if (tags !== undefined) patterns.push(tag(...tags))
  if (reasons !== undefined) patterns.push(reason(...reasons))
  if (statuses !== undefined) patterns.push(status(...statuses))
  if (codes !== undefined) patterns.push(code(...codes))
  if (texts !== undefined) patterns.push(text(...texts.map(toText)))
  return any(...patterns)
}

const toText = (pattern: string | typeof RegExpSpec.Type): string | RegExp =>
  typeof pattern === "string" ? pattern : new RegExp(pattern.regExp, pattern.flags ?? "i")

const isOneOf = (wanted: ReadonlyArray<string>, found: unknown): boolean =>
  typeof found === "string" && wanted.includes(found)

// Reads a property of anything at all. Getters and proxies can throw.
const read = (value: unknown, key: string): unknown => {
  if (value === null || (typeof value !== "object" && typeof value !== "function")) return undefined
  return Result.getOrUndefined(Result.try((): unknown => Reflect.get(value, key)))
}

const refusal: ErrorPattern = (error) =>
  Result.getOrElse(
    Result.try(() => isRefusal(error)),
    () => false
  )

// A declaration, because patterns above are built while the module loads.
function isStatus(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 100 && value <= 599
}

const statusOf = (value: unknown): number | undefined => {
  const response = read(value, "response")
  const found = [
    read(value, "status"),
    read(value, "statusCode"),
    read(response, "status"),
    read(response, "statusCode"),
    read(read(value, "$metadata"), "httpStatusCode")
  ]
  return found.find(isStatus)
}

// What `find` gives for the error or for the first of its causes, nearest first. A cause that is its own is looked at once
// more for every time it is met, until the bound.
const first = <A>(error: unknown, find: (value: unknown) => A | undefined): A | undefined => {
  const values = [error]
  for (let index = 0; index < values.length; index++) {
    const value = values[index]
    const found = find(value)
    if (found !== undefined) return found
    add(values, read(value, "cause"))
    add(values, read(value, "reason"))
    const errors = read(value, "errors")
    if (errors === undefined) continue
    for (let each = 0; each < maxValues && values.length < maxValues; each++) add(values, read(errors, String(each)))
  }
  return undefined
}

const add = (values: Array<unknown>, value: unknown): void => {
  if (value !== undefined && value !== null && values.length < maxValues && !values.includes(value)) values.push(value)
}
