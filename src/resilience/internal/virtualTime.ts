/**
 * A clock and a scheduler that need no real time: when nothing is left to do at one moment, the next moment at which
 * somebody wakes up is now.
 *
 * Everything runs in one thread, in an order that is always the same. What waits for something real, such as a promise or a
 * socket, is not waited for.
 */
import { Clock, Duration, Effect, Scheduler } from "effect"

interface Timer {
  readonly at: number
  /** Of timers for the same moment, the one set first is due first. */
  readonly order: number
  /** `undefined` once it is cancelled or has run. */
  run: (() => void) | undefined
}

/** A virtual time that begins at 0. */
export class VirtualTime {
  /** The time in milliseconds. */
  now = 0
  /** Fibers that have started and not ended. */
  fibers = 0
  private readonly maxTasks: number
  private tasks: Array<readonly [priority: number, run: () => void]> = []
  private timers: Array<Timer> = []
  private cancelled = 0
  private order = 0
  private atOnce = 0

  /** At most `maxTasks` things may happen at one moment. */
  constructor(maxTasks: number) {
    this.maxTasks = maxTasks
  }

  /** Timers that are set. */
  get waiting(): number {
    return this.timers.length - this.cancelled
  }

  /** Whether more happened at one moment than may: something goes round in circles. */
  get stuck(): boolean {
    return this.atOnce > this.maxTasks
  }

  /** Runs `run` after so many milliseconds, unless it is cancelled first. */
  after(millis: number, run: () => void): () => void {
    const timer: Timer = { at: this.now + millis, order: this.order++, run }
    this.push(timer)
    return () => {
      if (timer.run === undefined) return
      timer.run = undefined
      this.cancelled++
      if (this.cancelled > 64 && this.cancelled > this.timers.length / 2) this.compact()
    }
  }

  /** Does all there is to do now. */
  settle(): void {
    while (this.tasks.length > 0 && !this.stuck) {
      const tasks = this.tasks
      this.tasks = []
      for (const [, run] of tasks) {
        this.atOnce++
        run()
      }
    }
  }

  /** Goes to the next moment at which there is something to do, if it is not after `until`, and does it. */
  step(until: number): boolean {
    const next = this.first()
    if (next === undefined || next.at > until || this.stuck) return false
    this.pop()
    if (next.at > this.now) {
      this.now = next.at
      this.atOnce = 0
    }
    this.atOnce++
    const { run } = next
    next.run = undefined
    run?.()
    this.settle()
    return true
  }

  readonly clock: Clock.Clock = {
    currentTimeMillisUnsafe: () => this.now,
    currentTimeMillis: Effect.sync(() => this.now),
    currentTimeNanosUnsafe: () => toNanos(this.now),
    currentTimeNanos: Effect.sync(() => toNanos(this.now)),
    monotonicTimeNanosUnsafe: () => toNanos(this.now),
    monotonicTimeNanos: Effect.sync(() => toNanos(this.now)),
    sleep: (duration) => {
      const millis = Duration.toMillis(duration)
      if (!(millis > 0)) return Effect.yieldNow
      if (millis === Infinity) return Effect.never
      return Effect.callback<void>((resume) => {
        const cancel = this.after(millis, () => resume(Effect.void))
        return Effect.sync(cancel)
      })
    }
  }

  readonly scheduler: Scheduler.Scheduler = {
    executionMode: "async",
    shouldYield: (fiber) => fiber.currentOpCount >= opsBeforeYield,
    makeDispatcher: () => ({
      scheduleTask: (run, priority) => this.schedule(priority, run),
      flush: () => this.settle()
    })
  }

  readonly metrics = {
    recordFiberStart: () => {
      this.fibers++
    },
    recordFiberEnd: () => {
      this.fibers--
    }
  }

  private schedule(priority: number, run: () => void): void {
    const { tasks } = this
    let at = tasks.length
    for (; at > 0; at--) {
      const before = tasks[at - 1]
      if (before === undefined || before[0] <= priority) break
    }
    if (at === tasks.length) tasks.push([priority, run])
    else tasks.splice(at, 0, [priority, run])
  }

  // A binary heap.
  private push(timer: Timer): void {
    const { timers } = this
    let at = timers.length
    timers.push(timer)
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = timers[above]
      if (parent === undefined || isBefore(parent, timer)) break
      timers[at] = parent
      at = above
    }
    timers[at] = timer
  }

  private pop(): void {
    const { timers } = this
    const last = timers.pop()
    if (last !== undefined && timers.length > 0) this.sink(0, last)
  }

  private sink(from: number, timer: Timer): void {
    const { timers } = this
    let at = from
    for (;;) {
      let below = 2 * at + 1
      let child = timers[below]
      if (child === undefined) break
      const other = timers[below + 1]
      if (other !== undefined && isBefore(other, child)) {
        child = other
        below++
      }
      if (isBefore(timer, child)) break
      timers[at] = child
      at = below
    }
    timers[at] = timer
  }

  private first(): Timer | undefined {
    for (;;) {
      const first = this.timers[0]
      if (first === undefined || first.run !== undefined) return first
      this.cancelled--
      this.pop()
    }
  }

  private compact(): void {
    this.timers = this.timers.filter(({ run }) => run !== undefined)
    this.cancelled = 0
    for (let at = (this.timers.length >> 1) - 1; at >= 0; at--) {
      const timer = this.timers[at]
      if (timer !== undefined) this.sink(at, timer)
    }
  }
}

const opsBeforeYield = 2048

const isBefore = (a: Timer, b: Timer): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

const toNanos = (millis: number): bigint => BigInt(Math.round(millis * 1_000_000))
