/**
 * Lines up the calls under a limit: first come, first served, within the numbers of whatever algorithm measures them.
 *
 * Only the first call in line looks at the meter and sleeps; the others are woken one by one as the one before them goes.
 * A reservation stands in the same line with a time of its own, and takes its tokens when that has come, without a fiber.
 * A line can stand inside another: a call goes through both in the same moment, and until then it holds nothing of either.
 */
import { Clock, Duration, Effect, type Fiber } from "effect"
import { remainingMillisUnsafe } from "../Deadline.ts"
import type { RateLimited, Reservation, State } from "../RateLimiter.ts"
import type { Meter, Numbers } from "./meter.ts"
import { nowMillisUnsafe } from "./monotonic.ts"
import { emit, isObserved } from "./telemetry.ts"
import { type Links, Waiters } from "./waiters.ts"

/**
 * A clock that stands still for a while instead of going back: time that is measured twice grants nothing, and what was to
 * come is still as far away as before.
 */
export class SteadyClock {
  private seen = -Infinity
  private skew = 0

  read(fiber: Fiber.Fiber<unknown, unknown>): number {
    const now = nowMillisUnsafe(fiber)
    if (now < this.seen) this.skew += this.seen - now
    this.seen = now
    return now + this.skew
  }
}

/** Builds the refusal of a call. */
export type Refusal = (options: {
  readonly retryAfter: Duration.Duration
  readonly cost: number
  readonly waiting: number
  readonly key: string | undefined
}) => RateLimited

/** What the lines of one limiter have in common. */
export class Rules {
  /** Calls and reservations in all of them. */
  waiting = 0
  readonly clock: SteadyClock
  readonly maxWaitMillis: number
  readonly maxQueued: number
  private readonly refusal: Refusal
  private readonly name: string | undefined
  // Within a millisecond all refusals of the same cost are the same: in an overload there may be hundreds of them.
  private refused: Effect.Effect<never, RateLimited> | undefined = undefined
  private refusedFor = 0
  private refusedCost = 0
  private refusedWaiting = 0
  private refusedKey: string | undefined = undefined

  constructor(
    clock: SteadyClock,
    maxWaitMillis: number,
    maxQueued: number,
    refusal: Refusal,
    name: string | undefined
  ) {
    this.name = name
    this.clock = clock
    this.maxWaitMillis = maxWaitMillis
    this.maxQueued = maxQueued
    this.refusal = refusal
  }

  refuse({ key, waiting }: Line, waitMillis: number, cost: number): Effect.Effect<never, RateLimited> {
    // The tokens may be there already for those before it: even then it has to wait for them.
    const millis = Math.max(1, waitMillis)
    if (isObserved()) {
      emit(() => ({
        _tag: "Refused",
        primitive: key === undefined ? "RateLimiter" : "KeyedRateLimiter",
        name: this.name,
        error: "RateLimited",
        retryAfterMillis: millis
      }))
    }
    if (
      this.refused !== undefined &&
      this.refusedFor === millis &&
      this.refusedCost === cost &&
      this.refusedWaiting === waiting &&
      this.refusedKey === key
    ) {
      return this.refused
    }
    this.refusedFor = millis
    this.refusedCost = cost
    this.refusedWaiting = waiting
    this.refusedKey = key
    return (this.refused = Effect.fail(this.refusal({ retryAfter: Duration.millis(millis), cost, waiting, key })))
  }
}

/** A meter, and those who wait in front of it. */
export class Line {
  /** Calls and reservations in line. */
  waiting = 0
  readonly meter: Meter
  readonly rules: Rules
  readonly outer: Line | undefined
  readonly key: string | undefined
  /** Whether it was looked up lately. */
  used = false
  private queue: Queue | undefined = undefined

  constructor(meter: Meter, rules: Rules, outer: Line | undefined, key: string | undefined) {
    this.meter = meter
    this.rules = rules
    this.outer = outer
    this.key = key
  }

  /** Takes `cost` tokens of this line and of those around it, if they are there and nobody waits: of all, or of none. */
  takeIfAvailable(now: number, cost: number): boolean {
    if (this.outer === undefined) return this.waiting === 0 && this.meter.takeIfAvailable(now, cost)
    if (!this.isReady(now, cost)) return false
    this.take(now, cost)
    return true
  }

  /** How long a call that came now would wait. */
  waitMillis(now: number, cost: number): number {
    this.settle(now)
    const wait = this.queue === undefined ? this.meter.waitMillis(now, cost) : this.queue.waitMillis(now, cost)
    return this.outer === undefined ? wait : Math.max(wait, this.outer.waitMillis(now, cost))
  }

  /** The refusal of a call that would have to wait for `waitMillis`. */
  refuse(waitMillis: number, cost: number): Effect.Effect<never, RateLimited> {
    return this.rules.refuse(this, waitMillis, cost)
  }

  /** Whether one more may wait. */
  hasRoom(): boolean {
    return this.rules.waiting < this.rules.maxQueued
  }

  /** The longest wait for a call of this fiber. A turn that comes only with the deadline comes too late. */
  longestWait(fiber: Fiber.Fiber<unknown, unknown>): number {
    return Math.min(this.maxWaitMillis(), remainingMillisUnsafe(fiber) - 1)
  }

  /** Lets the reservations take what they were promised for a time that has come. */
  settle(now: number): void {
    this.queue?.settle(now)
  }

  /** Takes `cost` tokens now, or at a time to come. */
  reserve(now: number, cost: number, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<Reservation, RateLimited> {
    this.settle(now)
    if (this.takeIfAvailable(now, cost))
      return Effect.succeed(reservationOf(new Place(this, cost, now, undefined), now))
    const wait = this.waitMillis(now, cost)
    if (this.outer !== undefined || !this.hasRoom() || wait > this.longestWait(fiber)) return this.refuse(wait, cost)
    const place = new Place(this, cost, now + wait, undefined)
    this.join(place)
    return Effect.succeed(reservationOf(place, now))
  }

  /** Pauses the meter, and refuses those who can no longer be served in time. */
  throttle(now: number, pauseMillis: number): void {
    this.settle(now)
    this.meter.throttle(now, pauseMillis)
    this.queue?.reconsider(now)
  }

  /** Changes the numbers of the meter, and refuses those who can no longer be served in time. */
  change(now: number, numbers: Numbers): void {
    this.settle(now)
    this.meter.change(now, numbers)
    this.queue?.reconsider(now)
  }

  /** Whether it could be forgotten without anyone noticing. */
  isIdle(now: number): boolean {
    this.settle(now)
    return this.waiting === 0 && this.meter.isFull(now)
  }

  join(place: Place): void {
    this.queue ??= new Queue(this)
    this.queue.join(place)
  }

  leave(place: Place): void {
    this.queue?.leave(place)
    // Most keys have no queue most of the time.
    if (this.waiting === 0 && this.key !== undefined) this.queue = undefined
  }

  isFirst(place: Place): boolean {
    return this.queue !== undefined && this.queue.first === place
  }

  /** How long the first call in line still waits: what reservations before it take counts as taken. */
  turnMillis(now: number, place: Place): number {
    this.settle(now)
    return this.queue === undefined ? this.meter.waitMillis(now, place.cost) : this.queue.turnMillis(now, place)
  }

  /** Undoes a reservation, whether or not it has taken anything yet. */
  cancel(now: number, place: Place, startAt: number): void {
    this.settle(now)
    if (!place.queued) return this.giveBack(now, startAt, place.cost)
    this.leave(place)
    this.queue?.reconsider(now)
  }

  /** Reads the meter and the line. */
  state(now: number): State {
    this.settle(now)
    return {
      tokens: this.meter.tokens(now),
      refillPerSecond: this.meter.ratePerSecond(now),
      waiting: this.waiting,
      pausedFor: Duration.millis(this.meter.pausedMillis(now))
    }
  }

  private isReady(now: number, cost: number): boolean {
    this.settle(now)
    if (this.waiting > 0 || this.meter.waitMillis(now, cost) > 0) return false
    return this.outer === undefined || this.outer.isReady(now, cost)
  }

  private take(now: number, cost: number): void {
    this.meter.take(now, cost)
    this.outer?.take(now, cost)
  }

  private giveBack(now: number, takenAt: number, cost: number): void {
    this.settle(now)
    this.meter.giveBack(now, takenAt, cost)
    this.queue?.reconsider(now)
    this.outer?.giveBack(now, takenAt, cost)
  }

  private maxWaitMillis(): number {
    const { maxWaitMillis } = this.rules
    return this.outer === undefined ? maxWaitMillis : Math.min(maxWaitMillis, this.outer.maxWaitMillis())
  }
}

const reservationOf = (place: Place, now: number): Reservation => {
  const { line, startAt = now } = place
  let held = true
  return {
    delay: Duration.millis(startAt - now),
    cancel: Effect.withFiber((fiber) => {
      if (held) line.cancel(line.rules.clock.read(fiber), place, startAt)
      held = false
      return Effect.void
    })
  }
}

/** A call in a line, as the line sees it. */
interface Caller {
  /**
   * Whether that would be too late for it. A wait in whole milliseconds ends within the millisecond before it says so: a
   * timer that fires a little early must not make a call late that was in time when it came.
   */
  readonly isTooLate: (now: number, waitMillis: number) => boolean
  /** Lets it see whether its turn has come. */
  readonly wake: () => void
  /** Ends its wait, which would be `waitMillis` more. */
  readonly refuse: (waitMillis: number) => void
}

/** Somebody in a line: a call, or a reservation for a time to come. */
export class Place implements Links<Place> {
  readonly line: Line
  readonly cost: number
  readonly startAt: number | undefined
  readonly call: Caller | undefined
  queued = false
  previous: Place | undefined = undefined
  next: Place | undefined = undefined

  constructor(line: Line, cost: number, startAt: number | undefined, call: Caller | undefined) {
    this.line = line
    this.cost = cost
    this.startAt = startAt
    this.call = call
  }
}

// The places of one line. `first` is the first call: only reservations stand before it.
class Queue {
  first: Place | undefined = undefined
  private readonly line: Line
  private readonly places = new Waiters<Place>()
  private reservations = 0
  private queuedCost = 0
  // What the meter will be like when everyone in line has gone, and when that is. Absent when something has changed.
  private plan: Plan | undefined = undefined

  constructor(line: Line) {
    this.line = line
  }

  join(place: Place): void {
    place.queued = true
    this.places.push(place)
    this.line.waiting++
    this.line.rules.waiting++
    this.queuedCost += place.cost
    if (place.startAt !== undefined) this.reservations++
    else this.first ??= place
    this.plan?.add(place)
  }

  leave(place: Place): void {
    if (!place.queued) return
    const { next } = place
    place.queued = false
    this.places.remove(place)
    this.line.waiting--
    this.line.rules.waiting--
    this.queuedCost = this.places.size === 0 ? 0 : this.queuedCost - place.cost
    this.plan = undefined
    if (place.startAt !== undefined) this.reservations--
    if (this.first !== place) return
    this.first = firstCall(next)
    this.first?.call?.wake()
  }

  settle(now: number): void {
    for (let place = this.places.head; place?.startAt !== undefined && place.startAt <= now; place = this.places.head) {
      this.line.meter.take(place.startAt, place.cost)
      this.line.leave(place)
    }
  }

  waitMillis(now: number, cost: number): number {
    const { meter } = this.line
    if (this.places.size === 0) return meter.waitMillis(now, cost)
    if (meter.additive && this.reservations === 0) return meter.waitMillis(now, cost, this.queuedCost)
    if (this.plan === undefined) {
      this.plan = new Plan(meter.clone(), now)
      for (let place = this.places.head; place !== undefined; place = place.next) this.plan.add(place)
    }
    return this.plan.waitMillis(now, cost)
  }

  turnMillis(now: number, turn: Place): number {
    if (this.places.head === turn) return this.line.meter.waitMillis(now, turn.cost)
    const plan = new Plan(this.line.meter.clone(), now)
    for (let place = this.places.head; place !== undefined && place !== turn; place = place.next) plan.add(place)
    return plan.waitMillis(now, turn.cost)
  }

  reconsider(now: number): void {
    this.plan = undefined
    const plan = new Plan(this.line.meter.clone(), now)
    for (let place = this.places.head; place !== undefined;) {
      const { call, next } = place
      const wait = call === undefined ? 0 : plan.waitMillis(now, place.cost)
      if (call !== undefined && call.isTooLate(now, wait)) call.refuse(wait)
      else plan.add(place)
      place = next
    }
    this.first?.call?.wake()
  }
}

// What will become of a meter as those in a line go one after the other.
class Plan {
  private readonly meter: Meter
  private at: number

  constructor(meter: Meter, now: number) {
    this.meter = meter
    this.at = now
  }

  add(place: Place): void {
    const at =
      place.startAt === undefined
        ? this.at + this.meter.waitMillis(this.at, place.cost)
        : Math.max(this.at, place.startAt)
    // Who can never go will leave.
    if (at === Infinity) return
    this.at = at
    this.meter.take(at, place.cost)
  }

  waitMillis(now: number, cost: number): number {
    const from = Math.max(now, this.at)
    const at = from + this.meter.waitMillis(from, cost)
    // Less than a nanosecond more is rounding.
    return at === Infinity ? Infinity : Math.ceil(at - now - 1e-6)
  }
}

/** Runs the effect when its turn comes in the line that `find` finds. */
export const enter = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  find: (now: number) => Line,
  clock: SteadyClock,
  cost: number
): Effect.Effect<A, E | RateLimited, R> =>
  Effect.suspend(() => {
    const call = new Call(self, cost)
    // The call joins inside the region whose exit handler takes it out, so no interruption can part the two.
    return Effect.onExitPrimitive(
      Effect.withFiber<A, E | RateLimited, R>((fiber) => {
        const now = clock.read(fiber)
        return call.arrive(find(now), now, fiber)
      }),
      () => call.leave()
    )
  })

// A call that could not go at once.
class Call<A, E, R> implements Caller {
  // One per line it stands in, the innermost first. It is the first call in all but the last.
  private readonly places: Array<Place> = []
  private readonly cost: number
  private readonly self: Effect.Effect<A, E, R>
  private readonly turn: Effect.Effect<A, E | RateLimited, R>
  private latestStart = Infinity
  private fiber: Fiber.Fiber<unknown, unknown> | undefined = undefined
  private resume: ((effect: Effect.Effect<A, E | RateLimited, R>) => void) | undefined = undefined
  private timer: Fiber.Fiber<void> | undefined = undefined
  private woken = false
  private refused: Effect.Effect<never, RateLimited> | undefined = undefined

  constructor(self: Effect.Effect<A, E, R>, cost: number) {
    this.self = self
    this.cost = cost
    this.turn = Effect.withFiber((fiber) => this.next(fiber))
  }

  arrive(line: Line, now: number, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E | RateLimited, R> {
    const { cost } = this
    line.settle(now)
    if (line.takeIfAvailable(now, cost)) return this.self
    const wait = line.waitMillis(now, cost)
    const longest = line.longestWait(fiber)
    if (!line.hasRoom() || wait > longest) return line.refuse(wait, cost)
    this.latestStart = now + longest
    this.join(line)
    return this.next(fiber)
  }

  isTooLate(now: number, wait: number): boolean {
    return now + wait - 1 >= this.latestStart
  }

  leave(): undefined {
    while (this.places.length > 0) this.leaveLast()
    this.endTimer()
  }

  wake(): void {
    const { fiber, resume, turn } = this
    this.woken = true
    if (fiber === undefined || resume === undefined) return
    this.resume = undefined
    this.endTimer()
    // By its own dispatcher: never inside the stack of whoever made room, however long the line.
    fiber.currentDispatcher.scheduleTask(() => resume(turn), 0)
  }

  refuse(wait: number): void {
    this.giveUp(wait)
    this.wake()
  }

  private giveUp(wait: number): void {
    const line = this.places[0]?.line
    this.leave()
    this.refused = line?.refuse(wait, this.cost)
  }

  private join(line: Line): void {
    const place = new Place(line, this.cost, undefined, this)
    this.places.push(place)
    line.join(place)
  }

  // Goes as far as it can.
  private next(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E | RateLimited, R> {
    this.woken = false
    while (this.refused === undefined) {
      const last = this.places[this.places.length - 1]
      if (last === undefined || !last.line.isFirst(last)) return this.wait(fiber, undefined)
      const now = last.line.rules.clock.read(fiber)
      const unready = this.places.find((place) => place.line.turnMillis(now, place) > 0)
      const { outer } = last.line
      if (unready !== undefined) {
        const wait = unready.line.turnMillis(now, unready)
        if (!this.isTooLate(now, wait)) return this.wait(fiber, wait, unready)
        this.giveUp(wait)
      } else if (outer === undefined) {
        for (const { line } of this.places) line.meter.take(now, this.cost)
        this.leave()
        return this.self
      } else {
        const wait = outer.waitMillis(now, this.cost)
        if (outer.hasRoom() && !this.isTooLate(now, wait)) this.join(outer)
        else this.giveUp(wait)
      }
    }
    return this.refused
  }

  // Until it is woken, or until it may be its turn in the line of `place`.
  private wait(
    fiber: Fiber.Fiber<unknown, unknown>,
    millis: number | undefined,
    place?: Place
  ): Effect.Effect<A, E | RateLimited, R> {
    // Meanwhile others may go first in the lines outside of that one.
    for (const outer of place === undefined ? [] : this.places.splice(this.places.indexOf(place) + 1)) {
      outer.line.leave(outer)
    }
    return Effect.callback((resume) => {
      // The fiber may have been suspended since: what was true then need not be true now.
      if (this.woken) return resume(this.turn)
      this.fiber = fiber
      this.resume = resume
      if (millis === undefined) return
      const sleep = fiber.getRef(Clock.Clock).sleep(Duration.millis(millis))
      const timer = Effect.runForkWith(fiber.context)(sleep)
      this.timer = timer
      timer.addObserver(() => {
        if (this.timer !== timer) return
        this.timer = undefined
        resume(this.turn)
      })
    })
  }

  private leaveLast(): void {
    const place = this.places.pop()
    if (place !== undefined) place.line.leave(place)
  }

  private endTimer(): void {
    const { timer } = this
    // First of all: the timer tells its observer at once.
    this.timer = undefined
    timer?.interruptUnsafe()
  }
}

// The first from there on that is not a reservation.
const firstCall = (place: Place | undefined): Place | undefined => {
  let next = place
  while (next !== undefined && next.call === undefined) next = next.next
  return next
}
