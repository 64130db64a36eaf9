/**
 * Limits how many calls are made per second for each of many keys: per user, per tenant, per address.
 *
 * Every key has a limit of its own, all with the same numbers, by any algorithm of `RateLimiter`; the calls wait as they do
 * there. With `makeWithin` all keys share an outer limit as well: a call goes through both in the same moment or not at all.
 *
 * Put it inside the retry, so that every attempt counts. Local to the process. A key under which nothing was called lately
 * is forgotten, which changes nothing for it. Beyond `maxKeys` one that was not used lately makes room and starts afresh:
 * `statistics` counts these. Where calls wait is never forgotten, so there can be up to `maxQueued` keys more.
 *
 * | defaults | `maxKeys` 10,000 | the others as in `RateLimiter`; `maxQueued` is for all keys together |
 */
import { Config, Context, Duration, Effect, type Fiber, Layer } from "effect"
import { enter, Line, SteadyClock } from "./internal/limitLine.ts"
import { lineAround, outOfRange, sameAlgorithm, toNumbers, toSettings, wrongCost } from "./internal/limits.ts"
import { withoutStack } from "./internal/refusal.ts"
import * as RateLimiter from "./RateLimiter.ts"

/** A limit on calls per second for each key. */
export interface KeyedRateLimiter {
  /** Runs the effect when it is its turn, or fails with `RateLimited` at once when its turn would come too late. */
  readonly execute: (
    options: Call
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimiter.RateLimited, R>
  /** Runs the effect now, or fails with `RateLimited`. It does not overtake those who wait under the same key. */
  readonly executeIfAvailable: (
    options: Call
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimiter.RateLimited, R>
  /** Takes a place in line for a call that is made elsewhere or later. As in `RateLimiter`. */
  readonly reserve: (options: Call) => Effect.Effect<RateLimiter.Reservation, RateLimiter.RateLimited>
  /** Reads how long a call that came now would wait: zero when it would go at once. Takes nothing. */
  readonly peek: (options: Call) => Effect.Effect<Duration.Duration>
  /** Reports that the other side found the rate of one key too high. As in `RateLimiter`. */
  readonly throttled: (options: {
    readonly key: string
    readonly retryAfter?: Duration.Input | undefined
  }) => Effect.Effect<void>
  /** Changes the numbers of all keys while the limiter is in use. As in `RateLimiter`; it looks at every key once. */
  readonly change: (to: RateLimiter.Limit) => Effect.Effect<void>
  /** Reads the limit of a key. A key never seen reads as one that nothing was taken from, and stays unknown. */
  readonly state: (key: string) => Effect.Effect<RateLimiter.State>
  /** Reads what there is and what has happened. */
  readonly statistics: Effect.Effect<Statistics>
}

/** Whose call it is. */
export interface Call {
  readonly key: string
  /** The tokens it takes. Over zero, and at most what the algorithm allows: anything else is a defect. Defaults to 1. */
  readonly cost?: number | undefined
}

/** What a keyed limiter remembers. */
export interface Statistics {
  /** Keys it remembers now. */
  readonly keys: number
  /** Calls and reservations that wait now, under all keys. */
  readonly waiting: number
  /** Keys forgotten while they still had something to remember. If this grows, `maxKeys` is too small. */
  readonly evictions: number
}

/** How many calls are let through for each key, how the others wait, and how many keys there may be. */
export type Options = RateLimiter.Options & {
  /** Keys remembered: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
}

/** Creates a limiter that knows no key. Options that make no sense are a defect, not an error. */
export const make = (options: Options): Effect.Effect<KeyedRateLimiter> =>
  Effect.sync(() => keyed(options, new SteadyClock(), undefined))

/**
 * Creates a limiter inside another one: a call of any key goes through both in the same moment or not at all. Who waits for
 * the outer one waits there in the order in which they got so far, so that one key with many calls cannot hold up the others.
 */
export const makeWithin = (outer: RateLimiter.RateLimiter, options: Options): Effect.Effect<KeyedRateLimiter> =>
  Effect.sync(() => {
    const line = lineAround(name, outer)
    return keyed(options, line.rules.clock, line)
  })

/** The keyed limiter of a context that needs only one. */
export const KeyedRateLimiter = Context.Service<KeyedRateLimiter>("effect-resilience/KeyedRateLimiter")

/** Provides `KeyedRateLimiter`. */
export const layer = (options: Options): Layer.Layer<KeyedRateLimiter> => Layer.effect(KeyedRateLimiter, make(options))

/** Provides `KeyedRateLimiter` from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<KeyedRateLimiter, Config.ConfigError> =>
  Layer.effect(KeyedRateLimiter, Effect.flatMap(Config.unwrap(options), make))

const name = "KeyedRateLimiter"

const keyed = (options: Options, clock: SteadyClock, outer: Line | undefined): KeyedRateLimiter => {
  let numbers = toNumbers(name, options)
  const maxKeys = options.maxKeys ?? 10_000
  if (!(Number.isInteger(maxKeys) && maxKeys >= 1)) throw outOfRange(name, "maxKeys", maxKeys, "an integer >= 1")
  const settings = toSettings(name, options, clock, ({ cost, key, retryAfter, waiting }) =>
    withoutStack(() => new RateLimiter.RateLimited({ retryAfter, cost, waiting, key }))
  )
  const { rules } = settings
  const lines = new Lines(maxKeys)
  const fresh = (key: string, now: number) => new Line(settings.meter(numbers, now), rules, outer, key)
  const lineOf = (key: string, now: number): Line => {
    const known = lines.get(key, now)
    if (known !== undefined) return known
    const line = fresh(key, now)
    lines.add(key, line, now)
    return line
  }
  // For what changes nothing: a key never seen stays unknown.
  const look = (key: string, now: number): Line => lines.peek(key) ?? fresh(key, now)

  // What is the matter with the cost of a call, if anything is.
  const defectOf = (cost: number) => {
    // One token is always possible.
    const wrong = cost === 1 ? undefined : wrongCost(name, numbers, cost)
    return wrong === undefined ? undefined : Effect.die(wrong)
  }
  const withLine = <A, E>(
    { cost = 1, key }: Call,
    find: (key: string, now: number) => Line,
    use: (line: Line, now: number, cost: number, fiber: Fiber.Fiber<unknown, unknown>) => Effect.Effect<A, E>
  ): Effect.Effect<A, E> =>
    Effect.withFiber((fiber) => {
      const now = clock.read(fiber)
      return defectOf(cost) ?? use(find(key, now), now, cost, fiber)
    })

  return {
    execute:
      ({ cost = 1, key }) =>
      <A, E, R>(self: Effect.Effect<A, E, R>) =>
        Effect.withFiber<A, E | RateLimiter.RateLimited, R>((fiber) => {
          const defect = defectOf(cost)
          if (defect !== undefined) return defect
          const now = clock.read(fiber)
          if (lineOf(key, now).takeIfAvailable(now, cost)) return self
          return enter(self, (now) => lineOf(key, now), clock, cost)
        }),
    executeIfAvailable:
      (call) =>
      <A, E, R>(self: Effect.Effect<A, E, R>) =>
        Effect.flatten(
          withLine(call, lineOf, (line, now, cost): Effect.Effect<Effect.Effect<A, E, R>, RateLimiter.RateLimited> => {
            line.settle(now)
            if (line.takeIfAvailable(now, cost)) return Effect.succeed(self)
            return line.refuse(line.waitMillis(now, cost), cost)
          })
        ),
    reserve: (call) => withLine(call, lineOf, (line, now, cost, fiber) => line.reserve(now, cost, fiber)),
    peek: (call) =>
      withLine(call, look, (line, now, cost) => Effect.succeed(Duration.millis(line.waitMillis(now, cost)))),
    throttled: ({ key, retryAfter = 0 }) =>
      Effect.withFiber((fiber) => {
        const now = clock.read(fiber)
        const asked = Math.max(0, Duration.toMillis(retryAfter))
        lineOf(key, now).throttle(now, Math.min(settings.maxPauseMillis, asked))
        return Effect.void
      }),
    change: (to) =>
      Effect.withFiber((fiber) => {
        const now = clock.read(fiber)
        numbers = sameAlgorithm(name, numbers, to)
        for (const line of lines.all()) line.change(now, numbers)
        return Effect.void
      }),
    state: (key) =>
      Effect.withFiber((fiber) => {
        const now = clock.read(fiber)
        return Effect.succeed(look(key, now).state(now))
      }),
    statistics: Effect.sync(() => ({ keys: lines.size, waiting: rules.waiting, evictions: lines.evictions }))
  }
}

// As calls go by, those under which nothing is called any more are found by and by.
const callsPerLook = 8

// The lines by key, the hand of a clock that goes round them, and those it has taken away too early.
class Lines {
  evictions = 0
  private readonly byKey = new Map<string, Line>()
  private readonly maxKeys: number
  private calls = 0
  private hand: MapIterator<[string, Line]> | undefined = undefined

  constructor(maxKeys: number) {
    this.maxKeys = maxKeys
  }

  get size(): number {
    return this.byKey.size
  }

  get(key: string, now: number): Line | undefined {
    // Before it is found: the hand may take away this very one.
    if (this.calls++ % callsPerLook === 0) this.look(now, false)
    const line = this.byKey.get(key)
    if (line !== undefined) line.used = true
    return line
  }

  peek(key: string): Line | undefined {
    return this.byKey.get(key)
  }

  all(): Iterable<Line> {
    return this.byKey.values()
  }

  // Every new key takes a look at two others, so that as many are forgotten as come, and at least one goes when there is
  // no room: the first of which nothing needs to be remembered, or else the first that was not used lately (CLOCK).
  add(key: string, line: Line, now: number): void {
    for (let looks = 0; looks < 2 && this.byKey.size > 0; looks++) this.look(now, false)
    // Twice around: the first time may only take back the marks of use.
    for (let looks = 2 * this.byKey.size; looks > 0 && this.byKey.size >= this.maxKeys; looks--) this.look(now, true)
    this.byKey.set(key, line)
  }

  private look(now: number, evict: boolean): void {
    let next = (this.hand ??= this.byKey.entries()).next()
    if (next.done === true) next = (this.hand = this.byKey.entries()).next()
    if (next.done === true) return
    const [key, line] = next.value
    if (line.isIdle(now)) this.byKey.delete(key)
    else if (!evict || line.waiting > 0) return
    else if (line.used) line.used = false
    else {
      this.evictions++
      this.byKey.delete(key)
    }
  }
}
