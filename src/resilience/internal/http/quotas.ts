/**
 * Holds requests back while the server has said that it will not take any more.
 *
 * Every key has the quotas that the last responses told of. A request takes one of each that counts requests, and waits
 * while one is used up, until its reset. What a response says replaces what was known, less the requests under way: the
 * server may not have counted those yet. After a reset nobody knows what there is until the next response: what the
 * limit was said to be, or one request a second if that was not said.
 */
import { Duration, Effect, type Fiber } from "effect"
import { remainingMillisUnsafe } from "../../Deadline.ts"
import { RateLimited } from "../../RateLimiter.ts"
import { nowMillisUnsafe } from "../monotonic.ts"
import { withoutStack } from "../refusal.ts"
import { type Marked, SecondChance } from "../secondChance.ts"
import type { Quota } from "./rateLimitHeaders.ts"

/** How requests wait. Durations in milliseconds. */
export interface Settings {
  readonly maxWaitMillis: number
  readonly maxQueued: number
  readonly maxResetMillis: number
  readonly maxKeys: number
}

/** A quota at one moment. */
export interface Window {
  readonly name: string
  readonly remaining: number
  /** In milliseconds from now. */
  readonly resetMillis: number
}

/** The quotas of all keys. */
export class Quotas {
  private waiting = 0
  private readonly settings: Settings
  private readonly byKey: SecondChance<Account>

  constructor(settings: Settings) {
    this.settings = settings
    this.byKey = new SecondChance(settings.maxKeys, () => new Account())
  }

  /** Runs the effect, which sends one request, when its key may send one; or fails with `RateLimited`. */
  execute<A, E, R>(key: string, self: Effect.Effect<A, E, R>): Effect.Effect<A, E | RateLimited, R> {
    return Effect.suspend(() => {
      const account = this.byKey.get(key)
      let state: "new" | "waiting" | "sent" = "new"
      let waited = 0
      const enter: Effect.Effect<A, E | RateLimited, R> = Effect.withFiber((fiber) => {
        if (state === "waiting") {
          this.waiting--
          state = "new"
        }
        const wait = account.take(nowMillisUnsafe(fiber))
        if (wait === 0) {
          state = "sent"
          return self
        }
        const tooLong = waited + wait > this.settings.maxWaitMillis || wait >= remainingMillisUnsafe(fiber)
        if (tooLong || this.waiting >= this.settings.maxQueued) return this.refuse(key, wait)
        this.waiting++
        state = "waiting"
        const millis = Math.ceil(wait)
        waited += millis
        return Effect.flatMap(Effect.sleep(Duration.millis(millis)), () => enter)
      })
      // What was taken is given back by the exit: a request that waits no longer, or is no longer under way.
      return Effect.onExitPrimitive(enter, () => {
        if (state === "waiting") this.waiting--
        if (state === "sent") account.underWay--
        return undefined
      })
    })
  }

  /** Receives what a response has said, before its request counts as ended. */
  learn(key: string, quotas: ReadonlyArray<Quota>, fiber: Fiber.Fiber<unknown, unknown>): void {
    if (quotas.length === 0 && this.byKey.peek(key) === undefined) return
    this.byKey.get(key).learn(quotas, nowMillisUnsafe(fiber), this.settings.maxResetMillis)
  }

  /** Lets no request of the key go for so long: the server has refused one. */
  pause(key: string, millis: number, fiber: Fiber.Fiber<unknown, unknown>): void {
    if (!(millis > 0)) return
    const resetMillis = Math.min(millis, this.settings.maxResetMillis)
    this.byKey.get(key).pause(nowMillisUnsafe(fiber) + resetMillis)
  }

  /** Reads the quotas of a key. */
  state(key: string, fiber: Fiber.Fiber<unknown, unknown>): ReadonlyArray<Window> {
    return this.byKey.peek(key)?.state(nowMillisUnsafe(fiber)) ?? []
  }

  private refuse(key: string, wait: number): Effect.Effect<never, RateLimited> {
    const retryAfter = Duration.millis(Math.ceil(wait))
    return Effect.fail(withoutStack(() => new RateLimited({ retryAfter, cost: 1, waiting: this.waiting, key })))
  }
}

// What is left of one limit. Times in milliseconds of the monotonic clock.
interface Left {
  remaining: number
  resetAt: number
  readonly limit: number | undefined
  readonly windowMillis: number
  readonly countsRequests: boolean
  /** Whether it is a guess, because it was reset since a response last told of it. */
  guessed: boolean
}

class Account implements Marked {
  used = false
  underWay = 0
  private readonly byName = new Map<string, Left>()

  // Takes one request of every quota, or says how long to wait for it.
  take(now: number): number {
    let wait = 0
    for (const [name, left] of this.byName) {
      if (now >= left.resetAt) this.reset(name, left, now)
      if (left.remaining < 1) wait = Math.max(wait, left.resetAt - now)
    }
    if (wait > 0) return wait
    for (const left of this.byName.values()) if (left.countsRequests) left.remaining--
    this.underWay++
    return 0
  }

  learn(quotas: ReadonlyArray<Quota>, now: number, maxResetMillis: number): void {
    // A server that no longer speaks of a limit may have none.
    for (const [name, left] of this.byName) if (left.guessed) this.byName.delete(name)
    for (const { countsRequests, limit, name, remaining, resetMillis, windowMillis } of quotas) {
      const millis = resetMillis ?? windowMillis
      // Without a time nobody knows how long to wait, and after none at all there is nothing to wait for. One that is too
      // long to be meant is not believed.
      if (millis === undefined || !(millis > 0 && millis <= maxResetMillis)) {
        this.byName.delete(name)
        continue
      }
      const others = countsRequests ? Math.max(0, this.underWay - 1) : 0
      const known = this.byName.get(name)
      this.byName.set(name, {
        remaining: Math.max(0, remaining - others),
        resetAt: now + millis,
        limit,
        windowMillis: windowMillis ?? Math.max(millis, known?.windowMillis ?? 0),
        countsRequests,
        guessed: false
      })
    }
  }

  pause(until: number): void {
    const known = this.byName.get(paused)
    if (known !== undefined && known.remaining < 1 && known.resetAt >= until) return
    this.byName.set(paused, {
      remaining: 0,
      resetAt: until,
      limit: undefined,
      windowMillis: 0,
      countsRequests: true,
      guessed: false
    })
  }

  state(now: number): ReadonlyArray<Window> {
    return Array.from(this.byName)
      .filter(([, left]) => left.resetAt > now)
      .map(([name, { remaining, resetAt }]) => ({ name, remaining, resetMillis: resetAt - now }))
  }

  // Those who waited for the reset must not all go at once.
  private reset(name: string, left: Left, now: number): void {
    if (!left.countsRequests) {
      this.byName.delete(name)
      left.remaining = Infinity
      return
    }
    const known = left.limit !== undefined && left.limit >= 1 && left.windowMillis > 0
    left.remaining = known ? (left.limit ?? 1) : 1
    left.resetAt = now + (known ? left.windowMillis : 1000)
    left.guessed = true
  }
}

// The quota that a refusal makes. No server's name is like it.
const paused = ""
