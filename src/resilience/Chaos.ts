/**
 * Disturbs calls on purpose, to see what the policies around them are good for.
 *
 * A `Fault` delays a call, lets it fail, die or hang, answers in its place, or runs something before it. It says for which
 * keys, for what share of the calls, and when: windows count from when the faults were set, on Effect's `Clock`, and a
 * `seed` makes the draws repeat. Of several faults that hit one call each takes its turn, until one ends the call.
 *
 * Put it innermost, where the dependency is. What no fault can hit runs as it is: `execute` gives back the same effect.
 * `makeSwitchable` can be turned on and off while it runs, for one check per call.
 *
 * | `make`    | `enabled` true | `faults`, `outcomes`, `behaviours` none | `seed` none | `when` always | `onInject` nothing |
 * | `Scope`   | `keys` all | `rate` 1 | `from` zero | `for` unlimited | `every` once |
 */
import { Config, Context, Duration, Effect, type Fiber, Layer, Random, Schema } from "effect"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { notified } from "./internal/notified.ts"
import { withoutStack } from "./internal/refusal.ts"

/** A source of faults, which can answer with `A` or fail with `E` itself. */
export interface Chaos<out A = never, out E = never, out R = never> {
  /** Runs the effect, disturbed by the faults of its key that hit this call. */
  readonly execute: (options: {
    readonly key: string
  }) => <A1, E1, R1>(self: Effect.Effect<A1, E1, R1>) => Effect.Effect<A | A1, E | E1 | FailureInjected, R | R1>
  /** Reads what it does, and counts what it did. */
  readonly state: Effect.Effect<State>
}

/** A source of faults that changes while it is in use. A call under way keeps the faults it has got. */
export interface SwitchableChaos<out A = never, out E = never, out R = never> extends Chaos<A, E, R> {
  /** Lets the faults hit calls, or no longer. Their windows go on. */
  readonly setEnabled: (enabled: boolean) => Effect.Effect<void>
  /** Replaces the faults, and counts them and their windows from now on. Faults that make no sense are a defect. */
  readonly setFaults: (faults: ReadonlyArray<Fault>) => Effect.Effect<void>
}

/** What a source of faults did. */
export interface State {
  readonly enabled: boolean
  /** The faults in their order, and how many calls each has hit. */
  readonly faults: ReadonlyArray<{ readonly fault: Fault; readonly injected: number }>
}

/** Which calls a fault hits. */
export interface Scope {
  /** The keys of the calls; one that ends in `*` stands for all that begin like it. Defaults to all. */
  readonly keys?: ReadonlyArray<string> | undefined
  /** The share of the calls, from 0 to 1. Defaults to 1: all of them. */
  readonly rate?: number | undefined
  /** When it begins, after the faults were set. Defaults to zero. */
  readonly from?: Duration.Input | undefined
  /** How long it goes on: over zero. Defaults to unlimited. */
  readonly for?: Duration.Input | undefined
  /** The time from one beginning to the next: over zero. Defaults to never: it begins once. */
  readonly every?: Duration.Input | undefined
}

/** Delays the call by `delay`, or by anything from that up to `upTo`. */
export interface Latency extends Scope {
  readonly kind: "latency"
  readonly delay: Duration.Input
  /** The longest delay: at least `delay`. Defaults to `delay`. */
  readonly upTo?: Duration.Input | undefined
}

/** Fails with `FailureInjected` instead of the call. What is given here its error carries, for those who look for it. */
export interface Failure extends Scope {
  readonly kind: "failure"
  readonly status?: number | undefined
  readonly code?: string | undefined
  readonly retryAfter?: Duration.Input | undefined
  /** The message of the error. */
  readonly text?: string | undefined
}

/** Dies with `DefectInjected` instead of the call. */
export interface Defect extends Scope {
  readonly kind: "defect"
  /** The message of the defect. */
  readonly text?: string | undefined
}

/** Never answers, until it is interrupted. */
export interface Hang extends Scope {
  readonly kind: "hang"
}

/** Runs one of the `outcomes` instead of the call: another result, or an error of the caller's own. */
export interface Outcome extends Scope {
  readonly kind: "outcome"
  /** The name of the outcome. */
  readonly use: string
}

/** Runs one of the `behaviours` before the call; when that fails, so does the call. */
export interface Behaviour extends Scope {
  readonly kind: "behaviour"
  /** The name of the behaviour. */
  readonly use: string
}

/** What can be done to a call. */
export type Fault = Latency | Failure | Defect | Hang | Outcome | Behaviour

/** A fault that hits a call. */
export interface Injection {
  readonly key: string
  readonly fault: Fault
}

/** Effects by name. */
export type Effects = Readonly<Record<string, Effect.Effect<unknown, unknown, unknown>>>

/** The part of the options that is data: what `Settings` decodes. */
export interface SettingsOptions {
  /** Whether the faults hit anything. Defaults to true. */
  readonly enabled?: boolean | undefined
  /** What is done to calls, in this order. Defaults to none. */
  readonly faults?: ReadonlyArray<Fault> | undefined
  /** Draws the same numbers every time. Defaults to those of the fiber's `Random`. */
  readonly seed?: string | number | undefined
}

/** What is done to which calls. */
export interface Options<O extends Effects = {}, B extends Effects = {}, R = never> extends SettingsOptions {
  /** What faults of the kind "outcome" use. Defaults to none. */
  readonly outcomes?: O | undefined
  /** What faults of the kind "behaviour" use. Defaults to none. */
  readonly behaviours?: B | undefined
  /** Whether a fault may hit a call. Defaults to always. */
  readonly when?: ((injection: Injection) => boolean) | undefined
  /** Runs before each fault takes effect. Should it die, that is logged and the call goes on. Defaults to nothing. */
  readonly onInject?: ((injection: Injection) => Effect.Effect<unknown, never, R>) | undefined
}

/** The call was not made: it was meant to fail. */
export class FailureInjected extends Schema.TaggedError<FailureInjected>()("FailureInjected", {
  key: Schema.String,
  status: Schema.optionalKey(Schema.Int),
  code: Schema.optionalKey(Schema.String),
  retryAfter: Schema.optionalKey(Schema.Duration),
  text: Schema.optionalKey(Schema.String)
}) {
  override get message() {
    return this.text ?? `Failure injected into a call of "${this.key}"`
  }
}

/** The call was not made: it was meant to die. */
export class DefectInjected extends Schema.TaggedError<DefectInjected>()("DefectInjected", {
  key: Schema.String,
  text: Schema.optionalKey(Schema.String)
}) {
  override get message() {
    return this.text ?? `Defect injected into a call of "${this.key}"`
  }
}

/**
 * Creates a source of faults that stays as it is. Options that make no sense are a defect, not an error.
 */
export const make = <O extends Effects = {}, B extends Effects = {}, R = never>(
  options: Options<O, B, R> = {}
): Effect.Effect<
  Chaos<Effect.Success<O[keyof O]>, Effect.Error<O[keyof O] | B[keyof B]>, Effect.Services<O[keyof O] | B[keyof B]> | R>
> =>
  Effect.map(prepare(options), ({ enabled, faults, inject, state }) => ({
    execute: ({ key }) => {
      const mine = enabled ? faults.filter(({ hits }) => hits(key)) : []
      return mine.length === 0 ? same : asAdded<O, B, R>(inject(key, () => mine))
    },
    state
  }))

/** Creates a source of faults that changes while it is in use. Options that make no sense are a defect, not an error. */
export const makeSwitchable = <O extends Effects = {}, B extends Effects = {}, R = never>(
  options: Options<O, B, R> = {}
): Effect.Effect<
  SwitchableChaos<
    Effect.Success<O[keyof O]>,
    Effect.Error<O[keyof O] | B[keyof B]>,
    Effect.Services<O[keyof O] | B[keyof B]> | R
  >
> =>
  Effect.map(prepare(options), (live) => {
    const current = () => (live.enabled ? live.faults : none)
    return {
      execute: ({ key }) => asAdded<O, B, R>(live.inject(key, current)),
      state: live.state,
      setEnabled: (enabled) =>
        Effect.sync(() => {
          live.enabled = enabled
        }),
      setFaults: live.setFaults
    }
  })

const DurationText = Schema.Union([Schema.DurationFromMillis, Schema.DurationFromString])
const Positive = DurationText.check(
  Schema.makeFilter((duration) => (Duration.toMillis(duration) > 0 ? undefined : "Expected a duration over zero"))
)

const scope = {
  keys: Schema.optionalKey(Schema.Array(Schema.String)),
  rate: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))),
  from: Schema.optionalKey(DurationText),
  for: Schema.optionalKey(Positive),
  every: Schema.optionalKey(Positive)
}

/**
 * A source of faults as data: `{ "faults": [{ "kind": "failure", "status": 503, "rate": 0.1, "for": "1 minute" }] }`.
 * Durations are texts, or numbers of milliseconds.
 */
export const Settings = Schema.Struct({
  enabled: Schema.optionalKey(Schema.Boolean),
  seed: Schema.optionalKey(Schema.String),
  faults: Schema.optionalKey(
    Schema.Array(
      Schema.Union([
        Schema.Struct({
          kind: Schema.Literal("latency"),
          delay: DurationText,
          upTo: Schema.optionalKey(DurationText),
          ...scope
        }),
        Schema.Struct({
          kind: Schema.Literal("failure"),
          status: Schema.optionalKey(Schema.Int),
          code: Schema.optionalKey(Schema.String),
          retryAfter: Schema.optionalKey(DurationText),
          text: Schema.optionalKey(Schema.String),
          ...scope
        }),
        Schema.Struct({ kind: Schema.Literal("defect"), text: Schema.optionalKey(Schema.String), ...scope }),
        Schema.Struct({ kind: Schema.Literal("hang"), ...scope }),
        Schema.Struct({ kind: Schema.Literals(["outcome", "behaviour"]), use: Schema.String, ...scope })
      ])
    )
  )
})
export type Settings = typeof Settings.Type

/** The source of faults of a context that needs only one. */
export const Chaos = Context.Service<Chaos>("effect-resilience/Chaos")

/** Provides `Chaos`. */
export const layer = (options: SettingsOptions = {}): Layer.Layer<Chaos> => Layer.effect(Chaos, make(options))

/**
 * Provides `Chaos` from configuration. From one variable as JSON:
 *
 * `Config.schema(Schema.fromJsonString(Chaos.Settings), "CHAOS").pipe(Config.withDefault({}))`
 */
export const layerConfig = (options: Config.Config<SettingsOptions>): Layer.Layer<Chaos, Config.ConfigError> =>
  Layer.effect(Chaos, Effect.flatMap(options, make))

type AnyEffect = Effect.Effect<unknown, unknown, unknown>

/** A fault with its numbers worked out. */
interface Live {
  readonly fault: Fault
  readonly hits: (key: string) => boolean
  readonly isDue: (elapsedMillis: number) => boolean
  readonly rate: number
  /** What to do in place of the call, or before it. */
  readonly effect: (key: string, random: Random.Random) => AnyEffect
  readonly endsCall: boolean
  injected: number
}

interface Source {
  enabled: boolean
  faults: ReadonlyArray<Live>
  readonly inject: (key: string, faults: () => ReadonlyArray<Live>) => (self: AnyEffect) => AnyEffect
  readonly setFaults: (faults: ReadonlyArray<Fault>) => Effect.Effect<void>
  readonly state: Effect.Effect<State>
}

/** What a call becomes among the effects of the options. */
type Inject<O extends Effects, B extends Effects, R> = <A1, E1, R1>(
  self: Effect.Effect<A1, E1, R1>
) => Effect.Effect<
  A1 | Effect.Success<O[keyof O]>,
  E1 | Effect.Error<O[keyof O] | B[keyof B]> | FailureInjected,
  R1 | Effect.Services<O[keyof O] | B[keyof B]> | R
>

// The only effects beside the call's own are those of the options, and the failure.
const asAdded = <O extends Effects, B extends Effects, R>(inject: (self: AnyEffect) => AnyEffect) =>
  inject as Inject<O, B, R>

const none: ReadonlyArray<Live> = []

const same = <A>(value: A): A => value

const prepare = (options: Options<Effects, Effects, unknown>): Effect.Effect<Source> => {
  const { behaviours = {}, enabled = true, onInject, outcomes = {}, seed, when } = options
  const make = Effect.withFiber<Source>((creator) => {
    const seeded = seed === undefined ? undefined : creator.getRef(Random.Random)
    const toFaults = (faults: ReadonlyArray<Fault>) =>
      faults.map((fault, index) => toLive(fault, `faults[${index}]`, outcomes, behaviours))
    let setAt = nowMillisUnsafe(creator)

    const source: Source = {
      enabled,
      faults: toFaults(options.faults ?? []),
      inject: (key, current) => (self) =>
        Effect.withFiber((fiber) => {
          const faults = current()
          return faults.length === 0 ? self : disturbed(self, key, faults, fiber)
        }),
      setFaults: (faults) =>
        Effect.withFiber((fiber) => {
          source.faults = toFaults(faults)
          setAt = nowMillisUnsafe(fiber)
          return Effect.void
        }),
      state: Effect.sync(() => ({
        enabled: source.enabled,
        faults: source.faults.map(({ fault, injected }) => ({ fault, injected }))
      }))
    }

    const disturbed = (
      self: AnyEffect,
      key: string,
      faults: ReadonlyArray<Live>,
      fiber: Fiber.Fiber<unknown, unknown>
    ): AnyEffect => {
      const random = seeded ?? fiber.getRef(Random.Random)
      const elapsed = nowMillisUnsafe(fiber) - setAt
      const steps: Array<AnyEffect> = []
      for (const live of faults) {
        const { fault } = live
        if (!live.hits(key) || !live.isDue(elapsed)) continue
        if (when !== undefined && !when({ key, fault })) continue
        // A draw is below 1, so a rate of 1 hits always and one of 0 never.
        if (random.nextDoubleUnsafe() >= live.rate) continue
        live.injected++
        if (onInject !== undefined) steps.push(notified("onInject", onInject, { key, fault }))
        steps.push(live.effect(key, random))
        if (live.endsCall) return inTurn(steps)
      }
      return steps.length === 0 ? self : inTurn([...steps, self])
    }

    return Effect.succeed(source)
  })
  return seed === undefined ? make : Random.withSeed(make, seed)
}

const inTurn = (steps: ReadonlyArray<AnyEffect>): AnyEffect =>
  steps.reduceRight((rest, step) => Effect.andThen(step, rest))

const toLive = (fault: Fault, name: string, outcomes: Effects, behaviours: Effects): Live => {
  const { keys, rate = 1 } = fault
  const from = toMillis(`${name}.from`, fault.from ?? 0)
  const length = Duration.toMillis(fault.for ?? "Infinity")
  const every = Duration.toMillis(fault.every ?? "Infinity")
  if (!(rate >= 0 && rate <= 1)) throw invalid(`${name}.rate`, "from 0 to 1", rate)
  if (!(length > 0)) throw invalid(`${name}.for`, "over zero", length)
  if (!(every > 0)) throw invalid(`${name}.every`, "over zero", every)
  return {
    fault,
    hits: (key) => keys === undefined || keys.some((wanted) => matches(wanted, key)),
    // The rest of a division by infinity is the number itself.
    isDue: (elapsed) => elapsed >= from && (elapsed - from) % every < length,
    rate,
    effect: toEffect(fault, name, outcomes, behaviours),
    endsCall: fault.kind !== "latency" && fault.kind !== "behaviour",
    injected: 0
  }
}

const toEffect = (fault: Fault, name: string, outcomes: Effects, behaviours: Effects): Live["effect"] => {
  switch (fault.kind) {
    case "latency": {
      const delay = toMillis(`${name}.delay`, fault.delay)
      const upTo = fault.upTo === undefined ? delay : toMillis(`${name}.upTo`, fault.upTo)
      if (!(upTo >= delay)) throw invalid(`${name}.upTo`, "at least delay", upTo)
      const range = upTo - delay
      return (_key, random) =>
        Effect.sleep(Duration.millis(Math.round(range === 0 ? delay : delay + range * random.nextDoubleUnsafe())))
    }
    case "failure": {
      const { code, status, text } = fault
      const retryAfter = fault.retryAfter === undefined ? undefined : Duration.fromInputUnsafe(fault.retryAfter)
      if (status !== undefined && !Number.isInteger(status)) throw invalid(`${name}.status`, "an integer", status)
      const fields = {
        ...(status === undefined ? {} : { status }),
        ...(code === undefined ? {} : { code }),
        ...(retryAfter === undefined ? {} : { retryAfter }),
        ...(text === undefined ? {} : { text })
      }
      return (key) => Effect.fail(withoutStack(() => new FailureInjected({ key, ...fields })))
    }
    case "defect": {
      const fields = fault.text === undefined ? {} : { text: fault.text }
      return (key) => Effect.die(withoutStack(() => new DefectInjected({ key, ...fields })))
    }
    case "hang":
      return () => Effect.never
    case "outcome":
    case "behaviour": {
      const effects = fault.kind === "outcome" ? outcomes : behaviours
      const effect = Object.hasOwn(effects, fault.use) ? effects[fault.use] : undefined
      if (effect === undefined) throw invalid(`${name}.use`, `the name of one of the ${fault.kind}s`, fault.use)
      return () => effect
    }
  }
}

const matches = (wanted: string, key: string): boolean =>
  wanted.endsWith("*") ? key.startsWith(wanted.slice(0, -1)) : key === wanted

const toMillis = (name: string, value: Duration.Input): number => {
  const millis = Duration.toMillis(value)
  if (millis >= 0 && millis < Infinity) return millis
  throw invalid(name, "a finite duration of zero or more", millis)
}

const invalid = (name: string, expected: string, value: number | string): RangeError =>
  new RangeError(`Chaos: ${name} must be ${expected}, got ${value}`)
