/**
 * An upstream whose answers are written down, and that remembers who called it.
 *
 * Put it where a policy calls something real. Its script says what becomes of the first call, of the second, of those that
 * come within a time, and of all others: to succeed, fail or die after some time, or never to answer. Afterwards `expect`
 * says whether it was called as it should have been: how often, when, how many at a time, and which calls were interrupted.
 *
 * Times are those of the fiber's clock, counted from when the upstream was made: with `TestClock` they are virtual.
 *
 * | defaults | `after` 0 | `otherwise` dies | `seed` 0 | `maxRecorded` 10,000 |
 */
import { Duration, Effect, type Exit, Random, Schema } from "effect"
import { nowMillisUnsafe } from "../internal/monotonic.ts"
import { type Sampler, sampler } from "../internal/sampler.ts"
import { Distribution, type DistributionInput, distributionProblem } from "./World.ts"

/** What becomes of a call. */
export type Step<A, E> =
  | { readonly kind: "succeed"; readonly value: A; readonly after?: DistributionInput | undefined }
  | { readonly kind: "fail"; readonly error: E; readonly after?: DistributionInput | undefined }
  | { readonly kind: "die"; readonly defect: unknown; readonly after?: DistributionInput | undefined }
  | { readonly kind: "hang" }

/** A call that succeeds, at once or after a time. */
export const succeed = <A>(value: A, after?: DistributionInput): Step<A, never> => ({ kind: "succeed", value, after })

/** A call that fails, at once or after a time. */
export const fail = <E>(error: E, after?: DistributionInput): Step<never, E> => ({ kind: "fail", error, after })

/** A call that dies, at once or after a time. */
export const die = (defect: unknown, after?: DistributionInput): Step<never, never> => ({ kind: "die", defect, after })

/** A call that is never answered. */
export const hang: Step<never, never> = { kind: "hang" }

/** What an upstream does. */
export interface Script<A, E> {
  /** The first call, the second, and so on. Calls within an outage count as well. Defaults to none. */
  readonly calls?: ReadonlyArray<Step<A, E>> | undefined
  /** What becomes of calls that begin within a time, whatever else is said of them. The first that matches counts. Defaults to none. */
  readonly outages?: ReadonlyArray<Outage<A, E>> | undefined
  /** All other calls. Defaults to a defect: the call was not expected. */
  readonly otherwise?: Step<A, E> | undefined
  /** Draws the same times every time, where they are distributed. Defaults to 0. */
  readonly seed?: string | number | undefined
  /** How many calls are kept, the first ones; all are counted. An integer of at least 1. Defaults to 10,000. */
  readonly maxRecorded?: number | undefined
}

/** A time in which calls have another fate. */
export interface Outage<out A, out E> {
  readonly from: Duration.Input
  /** The first moment after it. Defaults to never. */
  readonly until?: Duration.Input | undefined
  readonly does: Step<A, E>
}

/** An upstream with a script. */
export interface ScriptedUpstream<out A, out E> {
  /** Calls it. */
  readonly call: Effect.Effect<A, E>
  /** Calls it about a key. The script is the same for all keys. */
  readonly callAbout: (key: string) => Effect.Effect<A, E>
  /** Reads the calls in the order in which they began. */
  readonly calls: Effect.Effect<ReadonlyArray<Call>>
  /** Counts the calls. */
  readonly state: Effect.Effect<State>
  /** Dies with all that is not as expected, and a table of the calls. */
  readonly expect: (expected: Expected) => Effect.Effect<void>
}

/** How a call ended. */
export type Outcome = "running" | "succeeded" | "failed" | "died" | "interrupted"

/** A call that was made. Times are milliseconds since the upstream was made. */
export interface Call {
  /** 1 for the first. */
  readonly number: number
  /** `undefined` for a call about no key. */
  readonly key: string | undefined
  readonly startedAtMillis: number
  /** `undefined` while it is running. */
  readonly endedAtMillis: number | undefined
  readonly outcome: Outcome
}

/** The calls at one moment. */
export interface State {
  readonly calls: number
  readonly running: number
  /** The most that were running at the same time. */
  readonly maxRunning: number
  readonly succeeded: number
  readonly failed: number
  readonly died: number
  readonly interrupted: number
}

/** What should be found. What is left out may be anything. */
export interface Expected extends Partial<State> {
  /** When calls began, to a thousandth of a millisecond. */
  readonly startedAt?: ReadonlyArray<Duration.Input> | undefined
  /** How calls ended. */
  readonly outcomes?: ReadonlyArray<Outcome> | undefined
  /** What calls were about. */
  readonly keys?: ReadonlyArray<string | undefined> | undefined
}

/** Makes an upstream. A script that makes no sense is a defect, not an error. */
export const make = <A = never, E = never>(script: Script<A, E>): Effect.Effect<ScriptedUpstream<A, E>> =>
  Random.withSeed(
    Effect.withFiberSucceed((maker) => {
      const random = maker.getRef(Random.Random)
      const maxRecorded = script.maxRecorded ?? 10_000
      check("maxRecorded", maxRecorded, "an integer >= 1", Number.isInteger(maxRecorded) && maxRecorded >= 1)
      const byNumber = (script.calls ?? []).map((step, index) => plan(`calls[${index}]`, step, random))
      const byTime = (script.outages ?? []).map(({ does, from, until = "Infinity" }, index) => {
        const fromMillis = Duration.toMillis(from)
        const untilMillis = Duration.toMillis(until)
        const name = `outages[${index}]`
        check(`${name}.from`, fromMillis, "not negative", fromMillis >= 0)
        check(`${name}.until`, untilMillis, "after from", untilMillis > fromMillis)
        return { fromMillis, untilMillis, planned: plan(`${name}.does`, does, random) }
      })
      const otherwise = script.otherwise === undefined ? undefined : plan("otherwise", script.otherwise, random)

      const madeAt = nowMillisUnsafe(maker)
      const recorded: Array<Mutable<Call>> = []
      const state = { calls: 0, running: 0, maxRunning: 0, succeeded: 0, failed: 0, died: 0, interrupted: 0 }

      const callAbout = (key: string | undefined): Effect.Effect<A, E> =>
        Effect.suspend(() => {
          let end: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined
          // Inside the region of the exit handler, so no interruption can part the two.
          return Effect.onExitPrimitive(
            Effect.withFiber<A, E>((fiber) => {
              const startedAtMillis = nowMillisUnsafe(fiber) - madeAt
              const number = ++state.calls
              state.running++
              state.maxRunning = Math.max(state.maxRunning, state.running)
              const call: Mutable<Call> = { number, key, startedAtMillis, endedAtMillis: undefined, outcome: "running" }
              end = (exit) => {
                const outcome = outcomeOf(exit)
                state.running--
                state[outcome]++
                call.outcome = outcome
                call.endedAtMillis = nowMillisUnsafe(fiber) - madeAt
              }
              if (recorded.length < maxRecorded) recorded.push(call)
              const outage = byTime.find(
                (time) => startedAtMillis >= time.fromMillis && startedAtMillis < time.untilMillis
              )
              const planned = outage?.planned ?? byNumber[number - 1] ?? otherwise
              return planned === undefined
                ? Effect.die(new Error(`ScriptedUpstream: call ${number} was not expected`))
                : perform(planned)
            }),
            (exit) => {
              end?.(exit)
              return undefined
            }
          )
        })

      const calls = Effect.sync(() => recorded.map((call): Call => ({ ...call })))
      return {
        call: callAbout(undefined),
        callAbout,
        calls,
        state: Effect.sync(() => ({ ...state })),
        expect: (expected) =>
          Effect.suspend(() => {
            const wrong = differences(expected, state, recorded)
            return wrong.length === 0
              ? Effect.void
              : Effect.die(
                  new Error(["The upstream was not called as expected", ...wrong, "", ...table(recorded)].join("\n"))
                )
          })
      }
    }),
    script.seed ?? 0
  )

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/** A step that is ready to be taken. */
interface Planned<A, E> {
  readonly step: Step<A, E>
  readonly after: Sampler
}

const plan = <A, E>(name: string, step: Step<A, E>, random: Random.Random): Planned<A, E> => {
  const after = step.kind === "hang" ? undefined : step.after
  return { step, after: after === undefined ? () => 0 : sampler(distribution(`${name}.after`, after), random) }
}

const distribution = (name: string, input: DistributionInput): Distribution => {
  const decoded = decodeDistribution(input)
  if (decoded._tag === "None") throw outOfRange(name, input, "a duration or a distribution")
  const problem = distributionProblem(decoded.value)
  if (problem === undefined) return decoded.value
  const [field, must] = problem
  throw outOfRange(field === "" ? name : `${name}.${field}`, input, must)
}

const decodeDistribution = Schema.decodeUnknownOption(Distribution, { onExcessProperty: "error" })

const perform = <A, E>({ after, step }: Planned<A, E>): Effect.Effect<A, E> => {
  if (step.kind === "hang") return Effect.never
  const millis = after()
  const end: Effect.Effect<A, E> =
    step.kind === "succeed"
      ? Effect.succeed(step.value)
      : step.kind === "fail"
        ? Effect.fail(step.error)
        : Effect.die(step.defect)
  return millis > 0 ? Effect.andThen(Effect.sleep(Duration.millis(millis)), end) : end
}

const outcomeOf = (exit: Exit.Exit<unknown, unknown>): Exclude<Outcome, "running"> => {
  if (exit._tag === "Success") return "succeeded"
  const [reason] = exit.cause.reasons
  return reason?._tag === "Fail" ? "failed" : reason?._tag === "Die" ? "died" : "interrupted"
}

const counts = ["calls", "running", "maxRunning", "succeeded", "failed", "died", "interrupted"] as const

const differences = (expected: Expected, state: State, calls: ReadonlyArray<Call>): ReadonlyArray<string> => {
  const found: Array<string> = []
  const compare = (name: string, wanted: unknown, actual: unknown) => {
    const [a, b] = [JSON.stringify(wanted), JSON.stringify(actual)]
    if (a !== b) found.push(`  ${name}: expected ${a}, found ${b}`)
  }
  for (const name of counts) if (expected[name] !== undefined) compare(name, expected[name], state[name])
  if (expected.startedAt !== undefined) {
    const wanted = expected.startedAt.map((time) => rounded(Duration.toMillis(time)))
    compare(
      "startedAt",
      wanted,
      calls.map(({ startedAtMillis }) => rounded(startedAtMillis))
    )
  }
  if (expected.outcomes !== undefined)
    compare(
      "outcomes",
      expected.outcomes,
      calls.map(({ outcome }) => outcome)
    )
  if (expected.keys !== undefined)
    compare(
      "keys",
      expected.keys,
      calls.map(({ key }) => key)
    )
  return found
}

const rounded = (millis: number): number => Math.round(millis * 1_000) / 1_000

const maxRows = 50

const table = (calls: ReadonlyArray<Call>): ReadonlyArray<string> => [
  "  call  started    ended  outcome",
  ...calls
    .slice(0, maxRows)
    .map(({ endedAtMillis, key, number, outcome, startedAtMillis }) =>
      [
        String(number).padStart(6),
        String(rounded(startedAtMillis)).padStart(7),
        (endedAtMillis === undefined ? "" : String(rounded(endedAtMillis))).padStart(7),
        key === undefined ? outcome : `${outcome} (${key})`
      ].join("  ")
    ),
  ...(calls.length > maxRows ? [`  and ${calls.length - maxRows} more`] : [])
]

const outOfRange = (name: string, value: unknown, expected: string): RangeError =>
  new RangeError(`ScriptedUpstream: ${name} must be ${expected}, got ${JSON.stringify(value)}`)

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw outOfRange(name, value, expected)
}
