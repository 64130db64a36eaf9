/**
 * Hands out a number of places, and lines up those who wait for one. What a bulkhead and an adaptive limit have in common.
 *
 * An uncontended call takes its place and gives it back in one synchronous step each. A freed place goes straight to the
 * next who waits, so that nobody who comes later can take it.
 */
import { Duration, Effect, type Fiber, Scope } from "effect"
import type { QueueOptions, Statistics } from "../Bulkhead.ts"
import { remainingMillisUnsafe } from "../Deadline.ts"
import * as Priority from "../Priority.ts"
import { Line, Lines, type Overload, type Waiter } from "./lines.ts"
import { nowMillisUnsafe } from "./monotonic.ts"
import { type Step, theCall, through, into } from "./steps.ts"
import { emit, isObserved } from "./telemetry.ts"
import { afterMillisUnsafe, type Cancel } from "./timers.ts"

/** How calls wait, and how they are refused. */
export interface Rules<E> {
  readonly maxQueued: number
  readonly maxWaitMillis: number
  readonly priorities: "ignored" | "strict" | "weighted"
  readonly weights: Readonly<Record<Priority.Priority, number>>
  readonly overload: Overload | undefined
  readonly refusal: (places: Places<E>) => E
  readonly primitive: "Bulkhead" | "AdaptiveLimit"
  readonly error: string
  readonly name: string | undefined
}

/** Reads the options of a queue. What makes no sense is a `RangeError` that names the module and the option. */
export const queueRules = (
  module: "Bulkhead" | "AdaptiveLimit",
  options: QueueOptions
): Omit<Rules<never>, "refusal" | "error"> => {
  const { order = "fifo", overload = {}, priorities = "ignored" } = options
  const number = (name: string, value: number, expected: string, valid: boolean): number => {
    if (valid) return value
    throw new RangeError(`${module}: ${name} must be ${expected}, got ${value}`)
  }
  const maxQueued = options.maxQueued ?? 0
  const maxWait = Duration.toMillis(options.maxWait ?? "Infinity")
  const target = Duration.toMillis(overload.target ?? 5)
  const interval = Duration.toMillis(overload.interval ?? 100)
  const { critical = 8, high = 4, low = 1, normal = 2 } = options.weights ?? {}
  const weights = { critical, high, normal, low }
  for (const [name, weight] of Object.entries(weights)) {
    number(`weights.${name}`, weight, "a finite number > 0", weight > 0 && weight < Infinity)
  }
  number("overload.target", target, "a finite duration over zero", target > 0 && target < Infinity)
  number("overload.interval", interval, "a finite duration over zero", interval > 0 && interval < Infinity)
  return {
    primitive: module,
    name: options.name,
    maxQueued: integer(module, "maxQueued", 0, maxQueued),
    maxWaitMillis: number("maxWait", maxWait, "zero or more", maxWait >= 0),
    priorities,
    weights,
    overload: order === "fifo" ? undefined : { targetMillis: target, intervalMillis: interval }
  }
}

/** Counts that start at nothing. */
export const noStatistics = (): Counts => ({
  admitted: 0,
  refused: 0,
  timedOut: 0,
  dropped: 0,
  left: 0,
  mostRunning: 0,
  mostWaiting: 0
})

/** The `Statistics` while they are being counted. */
export type Counts = { -readonly [K in keyof Statistics]: Statistics[K] }

/** A call on its way through: what it holds, and what it needs to be woken. */
export class Call<E> implements Waiter<Call<E>> {
  place: "outside" | "waiting" | "running" = "outside"
  places: Places<E> | undefined = undefined
  /** The line it belongs to: given with its partition, or known when it waits. */
  line: Line<Call<E>> | undefined
  fiber: Fiber.Fiber<unknown, unknown> | undefined = undefined
  /** Ends the wait after `maxWait`. */
  cancelTimer: Cancel | undefined = undefined
  /** Lets it run, or refuses it. */
  wake: (refused?: Effect.Effect<never, E>) => void = noop
  queuedAt = 0
  previous: Call<E> | undefined = undefined
  next: Call<E> | undefined = undefined

  constructor(line: Line<Call<E>> | undefined) {
    this.line = line
  }

  leave(): undefined {
    // An exit handler runs once, after everything else of the call.
    if (this.place !== "outside") this.places?.leave(this)
  }
}

/** A number of places, and the lines in front of them. */
export class Places<E> {
  limit: number
  running = 0
  readonly key: string | undefined
  private readonly rules: Rules<E>
  private readonly counts: Counts
  private readonly onIdle: ((places: Places<E>) => void) | undefined
  private lines: Lines<Call<E>> | undefined
  // As long as nobody comes or goes, all refusals are the same: in an outage there may be thousands of them.
  private refusal: Effect.Effect<never, E> | undefined = undefined
  private refusedRunning = 0
  private refusedWaiting = 0

  constructor(
    rules: Rules<E>,
    limit: number,
    counts: Counts,
    options: {
      readonly key?: string
      readonly onIdle?: (places: Places<E>) => void
      readonly lines?: Lines<Call<E>>
    } = {}
  ) {
    this.rules = rules
    this.limit = limit
    this.counts = counts
    this.key = options.key
    this.onIdle = options.onIdle
    this.lines = options.lines
  }

  get waiting(): number {
    return this.lines === undefined ? 0 : this.lines.size
  }

  /** How long the one that has waited longest has waited. */
  delayMillis(fiber: Fiber.Fiber<unknown, unknown>): number {
    return this.lines === undefined || this.lines.size === 0
      ? 0
      : Math.max(0, nowMillisUnsafe(fiber) - this.lines.oldest())
  }

  /** Changes the number of places. More of them go to those who wait at once. */
  resize(limit: number): void {
    this.limit = limit
    this.fill()
  }

  /** What `call` does when there is no place: wait or be refused. To be evaluated by `fiber`, and followed by `call.leave`. */
  admit<A, E1, R>(
    call: Call<E>,
    self: Effect.Effect<A, E1, R>,
    fiber: Fiber.Fiber<unknown, unknown>
  ): Effect.Effect<A, E | E1, R> {
    if (!this.mayWait(call, fiber)) return this.refuse()
    return Effect.callback<A, E | E1, R>((resume) => {
      // The fiber may have been suspended since: what was true then need not be true now.
      if (this.take(call.line)) {
        call.place = "running"
        call.places = this
        return resume(self)
      }
      if (!this.mayWait(call, fiber)) return resume(this.refuse())
      this.join(call, fiber)
      call.wake = (refused) => resume(refused ?? self)
    })
  }

  /** The refusal of a call that would neither get a place now nor be let into the queue. */
  refusalAtOnce(line: Line<Call<E>> | undefined): Effect.Effect<never, E> | undefined {
    return this.rules.maxQueued === 0 && !this.hasPlace(line) ? this.refuse() : undefined
  }

  leave(call: Call<E>): undefined {
    const { place } = call
    call.place = "outside"
    if (place === "waiting") {
      this.counts.left++
      this.unqueue(call)
      this.rest()
    } else {
      this.giveBack(call.line)
    }
  }

  /** Takes a place if there is one. */
  take(line: Line<Call<E>> | undefined): boolean {
    if (!this.hasPlace(line)) return false
    this.start(line)
    return true
  }

  /** Gives a place back: to the next who waits, if there is one. */
  giveBack(line: Line<Call<E>> | undefined): undefined {
    this.running--
    if (line !== undefined) line.running--
    if (this.lines !== undefined) this.fill()
    this.rest()
  }

  private hasPlace(line: Line<Call<E>> | undefined): boolean {
    return this.running < this.limit || (line !== undefined && line.running < line.guaranteed)
  }

  private rest(): void {
    if (this.running === 0 && this.onIdle !== undefined && this.waiting === 0) this.onIdle(this)
  }

  private start(line: Line<Call<E>> | undefined): void {
    if (line !== undefined) line.running++
    const running = ++this.running
    const { counts } = this
    counts.admitted++
    if (running > counts.mostRunning) counts.mostRunning = running
  }

  private mayWait(call: Call<E>, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    const { maxQueued, maxWaitMillis } = this.rules
    if (maxQueued === 0 || maxWaitMillis === 0 || remainingMillisUnsafe(fiber) <= 0) return false
    if (this.waiting < maxQueued) return true
    const lines = this.linesNow()
    return lines.displaced(call.line ?? this.lineOf(lines, fiber)) !== undefined
  }

  private join(call: Call<E>, fiber: Fiber.Fiber<unknown, unknown>): void {
    const { maxQueued, maxWaitMillis } = this.rules
    const lines = this.linesNow()
    const line = (call.line ??= this.lineOf(lines, fiber))
    if (lines.size >= maxQueued) {
      const displaced = lines.displaced(line)
      if (displaced !== undefined) this.drop(displaced)
    }
    call.place = "waiting"
    call.places = this
    call.fiber = fiber
    call.queuedAt = nowMillisUnsafe(fiber)
    lines.push(line, call)
    if (lines.size > this.counts.mostWaiting) this.counts.mostWaiting = lines.size
    if (maxWaitMillis === Infinity) return
    call.cancelTimer = afterMillisUnsafe(fiber, maxWaitMillis, () => {
      call.place = "outside"
      this.counts.timedOut++
      this.tell(fiber)
      this.unqueue(call)
      call.wake(this.refused())
    })
  }

  // A freed place goes straight to the next who waits: it counts as running from here on, whether it starts or is
  // interrupted first. It is woken by its own dispatcher, never inside the stack of the call that ends.
  private fill(): void {
    const { lines } = this
    if (lines === undefined) return
    const { overload } = this.rules
    if (overload !== undefined && lines.size === 0 && this.running < this.limit) return lines.relax()
    while (lines.size > 0) {
      const line = lines.next(this.running < this.limit)
      const now = overload === undefined ? 0 : nowFor(line?.head)
      const call = line?.first(overload, now)
      if (line === undefined || call === undefined) return
      lines.serve(line)
      call.place = "running"
      this.start(call.line)
      this.unqueue(call)
      call.fiber?.currentDispatcher.scheduleTask(call.wake, 0)
      if (overload === undefined) continue
      for (let stale = line.stale(overload, now); stale !== undefined; stale = line.stale(overload, now)) {
        this.drop(stale)
      }
    }
  }

  private drop(call: Call<E>): void {
    call.place = "outside"
    this.counts.dropped++
    this.tell(call.fiber)
    this.unqueue(call)
    const refused = this.refused()
    call.fiber?.currentDispatcher.scheduleTask(() => call.wake(refused), 0)
  }

  private unqueue(call: Call<E>): void {
    if (call.line !== undefined) this.lines?.remove(call.line, call)
    call.cancelTimer?.()
  }

  private refuse(): Effect.Effect<never, E> {
    this.counts.refused++
    this.tell()
    return this.refused()
  }

  private tell(fiber?: Fiber.Fiber<unknown, unknown>): void {
    if (!isObserved(fiber)) return
    const { error, name, primitive } = this.rules
    emit(() => ({ _tag: "Refused", primitive, name, error }), fiber)
  }

  private refused(): Effect.Effect<never, E> {
    const { refusal, running, waiting } = this
    if (refusal !== undefined && this.refusedRunning === running && this.refusedWaiting === waiting) return refusal
    this.refusedRunning = running
    this.refusedWaiting = waiting
    return (this.refusal = Effect.fail(this.rules.refusal(this)))
  }

  private linesNow(): Lines<Call<E>> {
    const { priorities, weights } = this.rules
    return (this.lines ??= new Lines(
      priorities === "ignored" ? [new Line<Call<E>>(1)] : Priority.all.map((priority) => new Line(weights[priority])),
      priorities === "weighted"
    ))
  }

  private lineOf(lines: Lines<Call<E>>, fiber: Fiber.Fiber<unknown, unknown>): Line<Call<E>> {
    const at = this.rules.priorities === "ignored" ? 0 : Priority.all.indexOf(Priority.currentUnsafe(fiber))
    const line = lines.all[at]
    if (line === undefined) throw new RangeError(`no such priority: ${Priority.currentUnsafe(fiber)}`)
    return line
  }
}

/**
 * Runs the effect in one of the places that `find` finds or makes. `known` finds them only, and so can be asked before
 * there is anything to undo.
 */
export const enter = <A, E, E1, R>(
  self: Effect.Effect<A, E1, R>,
  find: () => Places<E>,
  known: () => Places<E> | undefined,
  line?: Line<Call<E>>
): Effect.Effect<A, E | E1, R> =>
  Effect.withFiber((fiber) => known()?.refusalAtOnce(line) ?? enterNow(self, fiber, find, line, theCall))

/** Does so as well, and after a success keeps the place until the scope closes. */
export const enterScoped = <A, E, E1, R>(
  self: Effect.Effect<A, E1, R>,
  find: () => Places<E>,
  line?: Line<Call<E>>
): Effect.Effect<A, E | E1, R | Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.withFiber((fiber) => find().refusalAtOnce(line) ?? enterNow(self, fiber, find, line, theCall, scope))
  )

/** Does so for the fiber that evaluates it, and goes on with the step `inner`. `scope` is where a success keeps the place. */
export const enterNow = <A, E, E1, R>(
  self: Effect.Effect<A, E1, R>,
  fiber: Fiber.Fiber<unknown, unknown>,
  find: () => Places<E>,
  line: Line<Call<E>> | undefined,
  inner: Step,
  scope?: Scope.Scope
): Effect.Effect<A, E | E1, R> => {
  let taken: Places<E> | undefined
  let call: Call<E> | undefined
  const leave = () => (taken === undefined ? call?.leave() : taken.giveBack(line))
  // The place is taken inside the region whose exit handler returns it, so no interruption can part the two.
  return Effect.onExitPrimitive(
    Effect.suspend((): Effect.Effect<A, E | E1, R> => {
      const places = find()
      if (places.take(line)) {
        taken = places
        return into(inner, self, fiber)
      }
      call = new Call<E>(line)
      return places.admit(call, through(inner, self), fiber)
    }),
    scope === undefined
      ? leave
      : (exit) =>
          // A scope that has been closed gives it back at once.
          exit._tag === "Success" ? Scope.addFinalizer(scope, Effect.sync(leave)) : leave()
  )
}

/** An integer of at least `min`, or a `RangeError` that names the module and the option. */
export const integer = (module: string, name: string, min: number, value: number): number => {
  if (Number.isInteger(value) && value >= min) return value
  throw new RangeError(`${module}: ${name} must be an integer >= ${min}, got ${value}`)
}

// One who waits is alive, and has a clock.
const nowFor = <E>(waiting: Call<E> | undefined): number =>
  waiting?.fiber === undefined ? 0 : nowMillisUnsafe(waiting.fiber)

const noop = () => {}
