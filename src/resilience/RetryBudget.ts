/**
 * Bounds the load that retries add to the traffic, so that they cannot keep a dependency down.
 *
 * Every call through a `Retry` with this `budget` pays in, every retry is paid out of it; when it is spent, the error of
 * the attempt comes through at once. `make` lets a share of the traffic be retries, `makeTokens` stops retries while too
 * many calls fail, `makeCosts` gives each retry its price. Share one between all policies that call one dependency.
 *
 * Local to the process. At most `maxKeys` accounts of constant size; one not used lately makes room and comes back full.
 *
 * | `make`       | `share` 0.2 | `minPerSecond` 10 | `window` 10 seconds | `maxKeys` 10,000 |
 * | `makeTokens` | `maxTokens` 10 | `tokenRatio` 0.1 | `maxKeys` 10,000 |
 * | `makeCosts`  | `maxTokens` 500 | `cost` 5, after `TimedOut` 10 | `maxKeys` 10,000 |
 */
import { Config, Context, Duration, Effect, type Fiber, Layer } from "effect"
import { nowMillisUnsafe } from "./internal/monotonic.ts"
import { SecondChance } from "./internal/secondChance.ts"
import { TimedOut } from "./Timeout.ts"

/** Accounts by key, all under the same rules. */
export interface RetryBudget {
  /**
   * The account of a key, made when it is first asked for: for whoever repeats calls without `Retry`. Ask for it anew
   * with each call, so that it counts as used.
   */
  readonly accountUnsafe: (key: string) => Account
  /** Reads the account of a key. Reading changes nothing: a key never seen reads as full and stays unknown. */
  readonly state: (key: string) => Effect.Effect<State>
  /** Reads all accounts that are kept. */
  readonly states: Effect.Effect<ReadonlyArray<State>>
}

/** What one key has to spend on retries. Every function is one synchronous step. */
export interface Account {
  /** A call begins: its first attempt. `fiber` gives the time. */
  readonly begin: (fiber: Fiber.Fiber<unknown, unknown>) => void
  /** An attempt was made, and failed in a way that a retry could help, whether or not one follows. */
  readonly failed: () => void
  /** Pays for a retry after this error, and returns its price: `undefined`, and nothing paid, if that is not there. */
  readonly pay: (error: unknown, fiber: Fiber.Fiber<unknown, unknown>) => number | undefined
  /** A call succeeded, after a last retry at this price, or without one. Absent where a success pays nothing in. */
  readonly succeeded?: (price: number | undefined) => void
}

/** The account of one key at one moment. The counts begin when the account is made. */
export interface State {
  readonly key: string
  /** What there is to pay with: retries, with a fraction, for `make`; tokens for the others. */
  readonly available: number
  /** Calls that began. */
  readonly calls: number
  /** Retries that were paid for. */
  readonly retries: number
  /** Retries that were not made because the budget was spent. */
  readonly refused: number
}

/** How much of the traffic may be retries. */
export interface Options {
  /** Retries allowed per call: a finite number of at least 0. Defaults to 0.2. */
  readonly share?: number | undefined
  /** Retries allowed per second whatever the traffic: a finite number of at least 0. Defaults to 10. */
  readonly minPerSecond?: number | undefined
  /** How long a call counts, and a retry too: over zero. Defaults to 10 seconds. */
  readonly window?: Duration.Input | undefined
  /** Accounts kept at most: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
}

/**
 * Creates a budget that is a share of the traffic. A retry is made only if afterwards, for calls and retries of the last
 * `window`,
 *
 * `retries <= share * calls + minPerSecond * window`.
 *
 * So a dead dependency gets `1 + share` times the traffic and `minPerSecond`, however many retries a schedule has. The
 * window moves on in tenths of its length, and what has left it counts no more, neither for nor against. Formula and
 * defaults: `RetryBudget` of Twitter's Finagle. Options that make no sense are a defect, not an error.
 */
export const make = (options: Options = {}): Effect.Effect<RetryBudget> =>
  Effect.sync(() => {
    const share = options.share ?? 0.2
    const minPerSecond = options.minPerSecond ?? 10
    const window = Duration.toMillis(options.window ?? "10 seconds")
    check("share", share, "a finite number >= 0", share >= 0 && share < Infinity)
    check("minPerSecond", minPerSecond, "a finite number >= 0", minPerSecond >= 0 && minPerSecond < Infinity)
    check("window", window, "a finite duration over zero", window > 0 && window < Infinity)
    const reserve = (minPerSecond * window) / 1000
    return accounts(options.maxKeys, (key) => new ShareAccount(key, share, reserve, window / slices))
  })

/** How many failures stop the retries. */
export interface TokenOptions {
  /** Tokens an account holds, and starts with: over 0, at most 1,000. Defaults to 10. */
  readonly maxTokens?: number | undefined
  /** Tokens that a success pays in: at least 0.001, in thousandths. Defaults to 0.1. */
  readonly tokenRatio?: number | undefined
  /** Accounts kept at most: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
}

/**
 * Creates a budget that stops all retries while too many calls fail. Every attempt that fails with an error worth a retry
 * takes one token, every call that succeeds pays `tokenRatio` in, and retries are made only while more than half of
 * `maxTokens` is left. So with a ratio of 0.1 retries end when more than about one attempt in eleven fails for long.
 * Formula and defaults: gRPC proposal A6, "Throttling Retry Attempts". Options that make no sense are a defect, not an
 * error.
 */
export const makeTokens = (options: TokenOptions = {}): Effect.Effect<RetryBudget> =>
  Effect.sync(() => {
    const maxTokens = options.maxTokens ?? 10
    const tokenRatio = options.tokenRatio ?? 0.1
    check("maxTokens", maxTokens, "over 0 and at most 1000", maxTokens > 0 && maxTokens <= 1000)
    check("tokenRatio", tokenRatio, "a finite number >= 0.001", tokenRatio >= 0.001 && tokenRatio < Infinity)
    const max = Math.round(maxTokens * 1000)
    const ratio = Math.floor(tokenRatio * 1000 + 1e-9)
    return accounts(options.maxKeys, (key) => new TokenAccount(key, max, ratio))
  })

/** What retries cost. */
export interface CostOptions {
  /** Tokens an account holds, and starts with: over 0 and finite. Defaults to 500. */
  readonly maxTokens?: number | undefined
  /** What a retry after this error costs: at least 0. Defaults to 5, and 10 after a `TimedOut`. */
  readonly cost?: ((error: unknown) => number) | undefined
  /** Accounts kept at most: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
}

/**
 * Creates a budget in which a retry has its price. A retry takes its `cost`, if that is there; a call that succeeds pays
 * back what its last retry took, or 1 if it had none. So only retries that did not help use the budget up. Formula and
 * defaults: the retry quota of the standard retry mode of the AWS SDKs. Options that make no sense are a defect, not an
 * error; so is a `cost` that gives a negative number or none.
 */
export const makeCosts = (options: CostOptions = {}): Effect.Effect<RetryBudget> =>
  Effect.sync(() => {
    const maxTokens = options.maxTokens ?? 500
    const cost = options.cost ?? defaultCost
    check("maxTokens", maxTokens, "a finite number > 0", maxTokens > 0 && maxTokens < Infinity)
    return accounts(options.maxKeys, (key) => new CostAccount(key, maxTokens, cost))
  })

/** The budget of a context that needs only one set of rules. For several, call `make` for each. */
export const RetryBudget = Context.Service<RetryBudget>("effect-resilience/RetryBudget")

/** Provides a `RetryBudget` that is a share of the traffic. */
export const layer = (options: Options = {}): Layer.Layer<RetryBudget> => Layer.effect(RetryBudget, make(options))

/** Provides a `RetryBudget` that is a share of the traffic from configuration. */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<RetryBudget, Config.ConfigError> =>
  Layer.effect(RetryBudget, Effect.flatMap(Config.unwrap(options), make))

abstract class Counted implements Account {
  used = false
  protected calls = 0
  protected retries = 0
  protected refused = 0
  protected readonly key: string

  constructor(key: string) {
    this.key = key
  }

  begin(_fiber: Fiber.Fiber<unknown, unknown>): void {
    this.calls++
  }

  failed(): void {}

  pay(error: unknown, fiber: Fiber.Fiber<unknown, unknown>): number | undefined {
    const price = this.take(error, fiber)
    if (price === undefined) this.refused++
    else this.retries++
    return price
  }

  state(fiber: Fiber.Fiber<unknown, unknown>): State {
    const { calls, key, refused, retries } = this
    return { key, available: this.available(fiber), calls, retries, refused }
  }

  protected abstract take(error: unknown, fiber: Fiber.Fiber<unknown, unknown>): number | undefined
  protected abstract available(fiber: Fiber.Fiber<unknown, unknown>): number
}

const slices = 10

// Whole numbers are counted and multiplied only to decide, so no sum of fractions can drift.
class ShareAccount extends Counted {
  private readonly share: number
  private readonly reserve: number
  private readonly sliceMillis: number
  // Calls and retries by turns, of the slice that is running and of the whole ones before it: with the former alone the
  // window would be shorter than it says.
  private readonly counts: Array<number> = Array.from({ length: 2 * (slices + 1) }, () => 0)
  private recentCalls = 0
  private recentRetries = 0
  private slice = -Infinity
  private at = 0

  constructor(key: string, share: number, reserve: number, sliceMillis: number) {
    super(key)
    this.share = share
    this.reserve = reserve
    this.sliceMillis = sliceMillis
  }

  override begin(fiber: Fiber.Fiber<unknown, unknown>): void {
    this.calls++
    this.advance(fiber)
    this.recentCalls++
    this.counts[this.at] = (this.counts[this.at] ?? 0) + 1
  }

  protected take(_error: unknown, fiber: Fiber.Fiber<unknown, unknown>): number | undefined {
    if (this.available(fiber) < 1) return undefined
    this.recentRetries++
    this.counts[this.at + 1] = (this.counts[this.at + 1] ?? 0) + 1
    return 1
  }

  protected available(fiber: Fiber.Fiber<unknown, unknown>): number {
    this.advance(fiber)
    const left = this.reserve + this.share * this.recentCalls - this.recentRetries
    // When the calls that paid for retries have left the window before them, nothing is there, and nothing is owed.
    // The product of a fraction can be a little short of the whole number it stands for.
    return Math.max(0, left + 1e-9 >= Math.ceil(left) ? Math.ceil(left) : left)
  }

  private advance(fiber: Fiber.Fiber<unknown, unknown>): void {
    const slice = Math.floor(nowMillisUnsafe(fiber) / this.sliceMillis)
    if (slice <= this.slice) return
    for (let passed = Math.min(slice - this.slice, slices + 1); passed > 0; passed--) {
      this.at = (this.at + 2) % this.counts.length
      this.recentCalls -= this.counts[this.at] ?? 0
      this.recentRetries -= this.counts[this.at + 1] ?? 0
      this.counts[this.at] = this.counts[this.at + 1] = 0
    }
    this.slice = slice
  }
}

// In thousandths of a token, as the proposal has it, which are exact.
class TokenAccount extends Counted {
  private readonly max: number
  private readonly ratio: number
  private tokens: number

  constructor(key: string, max: number, ratio: number) {
    super(key)
    this.max = max
    this.ratio = ratio
    this.tokens = max
  }

  override failed(): void {
    this.tokens = Math.max(0, this.tokens - 1000)
  }

  succeeded(): void {
    this.tokens = Math.min(this.max, this.tokens + this.ratio)
  }

  protected take(): number | undefined {
    return this.tokens > this.max / 2 ? 1 : undefined
  }

  protected available(): number {
    return this.tokens / 1000
  }
}

class CostAccount extends Counted {
  private readonly max: number
  private readonly cost: (error: unknown) => number
  private tokens: number

  constructor(key: string, max: number, cost: (error: unknown) => number) {
    super(key)
    this.max = max
    this.cost = cost
    this.tokens = max
  }

  succeeded(price: number | undefined): void {
    this.tokens = Math.min(this.max, this.tokens + (price ?? 1))
  }

  protected take(error: unknown): number | undefined {
    const { cost } = this
    const price = cost(error)
    check("cost", price, "a number >= 0", price >= 0)
    if (price > this.tokens) return undefined
    this.tokens -= price
    return price
  }

  protected available(): number {
    return this.tokens
  }
}

const defaultCost = (error: unknown): number => (error instanceof TimedOut ? 10 : 5)

const accounts = (maxKeys = 10_000, create: (key: string) => Counted): RetryBudget => {
  check("maxKeys", maxKeys, "an integer >= 1", Number.isInteger(maxKeys) && maxKeys >= 1)
  const byKey = new SecondChance(maxKeys, create)
  return {
    accountUnsafe: (key) => byKey.get(key),
    state: (key) => Effect.withFiberSucceed((fiber) => (byKey.peek(key) ?? create(key)).state(fiber)),
    states: Effect.withFiberSucceed((fiber) => Array.from(byKey.values(), (account) => account.state(fiber)))
  }
}

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`RetryBudget: ${name} must be ${expected}, got ${value}`)
}
