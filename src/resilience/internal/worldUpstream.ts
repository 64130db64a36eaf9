/**
 * The upstream of a world: works on calls, in virtual time, as the world says.
 */
import { Duration, Effect, Exit, type Random } from "effect"
import type { Answer } from "../testing/simulate.ts"
import { UpstreamFailed } from "../testing/UpstreamFailed.ts"
import type { World } from "../testing/World.ts"
import { withoutStack } from "./refusal.ts"
import { sampler } from "./sampler.ts"
import type { VirtualTime } from "./virtualTime.ts"
import { type Links, Waiters } from "./waiters.ts"

/** Is told what the upstream does. */
export interface Watch {
  /** A call has come: the first of its caller, or `again`. */
  readonly came: (again: boolean) => void
  /** A call has been turned away because there is too much to do. */
  readonly turnedAway: () => void
  /** The numbers of calls that run and wait have changed. */
  readonly changed: (running: number, queued: number) => void
}

type End = Exit.Exit<Answer, UpstreamFailed>

interface Request extends Links<Request> {
  readonly latency: number
  readonly end: End
  readonly hangs: boolean
  resume: ((end: End) => void) | undefined
  phase: "coming" | "queued" | "running" | "ended"
  cancel: (() => void) | undefined
}

// The time of a refusal. Over zero, so that who tries again at once does not do so forever at one moment.
const refusalMillis = 1

/** The upstream of one simulation. */
export class WorldUpstream {
  private readonly spec: World["upstream"]
  private readonly time: VirtualTime
  private readonly startedAt: number
  private readonly random: Random.Random
  private readonly watch: Watch
  private readonly concurrent: number
  private readonly maxQueued: number
  private readonly perSecond: number
  private readonly latency: () => number
  private readonly failureLatency: () => number
  private readonly failed: End
  private running = 0
  private readonly queue = new Waiters<Request>()
  private tokens: number
  private refilledAt = 0
  private pumping = false
  private calls = 0

  constructor(world: World, time: VirtualTime, random: Random.Random, watch: Watch) {
    const { upstream } = world
    const { capacity, failures, latency } = upstream
    this.spec = upstream
    this.time = time
    this.startedAt = this.refilledAt = time.now
    this.random = random
    this.watch = watch
    this.concurrent = capacity?.concurrent ?? Infinity
    this.maxQueued = capacity?.queued ?? 0
    this.perSecond = capacity?.perSecond ?? Infinity
    this.tokens = Math.max(1, this.perSecond)
    this.latency = sampler(latency, random)
    this.failureLatency = failures?.latency === undefined ? this.latency : sampler(failures.latency, random)
    this.failed = failure("failed", failures?.status ?? 500)
  }

  /** Makes a call. */
  call(key: string, again: boolean): Effect.Effect<Answer, UpstreamFailed> {
    return Effect.callback((resume) => {
      this.watch.came(again)
      const request = this.come(key, resume)
      return Effect.sync(() => this.leave(request))
    })
  }

  private come(key: string, resume: (end: End) => void): Request {
    const { failures, outages = [] } = this.spec
    const now = this.time.now - this.startedAt
    const outage = outages.find(
      ({ from, share = 1, until }) =>
        now >= Duration.toMillis(from) &&
        now < Duration.toMillis(until) &&
        (share >= 1 || this.random.nextDoubleUnsafe() < share)
    )
    const factor = outage?.kind === "slow" ? (outage.factor ?? 10) : 1
    const fails =
      outage?.kind === "failing" || (failures !== undefined && this.random.nextDoubleUnsafe() < failures.rate)
    const latency = (fails ? this.failureLatency() : this.latency()) * factor
    const number = ++this.calls
    const end = fails ? this.failed : Exit.succeed({ number, key })
    const request: Request = {
      latency,
      end,
      hangs: outage?.kind === "hanging",
      resume,
      phase: "coming",
      cancel: undefined,
      previous: undefined,
      next: undefined
    }
    if (outage?.kind === "refusing") this.refuse(request, refused)
    else if (this.queue.size === 0 && this.running < this.concurrent && this.token()) this.start(request)
    else if (this.queue.size < this.maxQueued) {
      request.phase = "queued"
      this.queue.push(request)
      this.changed()
      this.pump()
    } else {
      this.watch.turnedAway()
      this.refuse(request, full)
    }
    return request
  }

  private refuse(request: Request, end: End): void {
    request.cancel = this.time.after(refusalMillis, () => this.answer(request, end))
  }

  private start(request: Request): void {
    request.phase = "running"
    this.running++
    this.changed()
    // Nobody waits for it any more.
    if (request.hangs && request.resume === undefined) return this.stop(request)
    if (request.hangs) return
    request.cancel = this.time.after(request.latency, () => {
      this.running--
      this.answer(request, request.end)
      this.changed()
      this.pump()
    })
  }

  private stop(request: Request): void {
    request.phase = "ended"
    this.running--
    this.changed()
    this.pump()
  }

  private answer(request: Request, end: End): void {
    request.phase = "ended"
    request.resume?.(end)
    request.resume = undefined
  }

  private leave(request: Request): void {
    request.resume = undefined
    const stops = this.spec.abandoned === "stop"
    switch (request.phase) {
      case "coming":
        request.cancel?.()
        return
      case "queued":
        if (!stops) return
        request.phase = "ended"
        this.queue.remove(request)
        return this.changed()
      case "running":
        if (!stops && !request.hangs) return
        request.cancel?.()
        return this.stop(request)
      case "ended":
        return
    }
  }

  private pump(): void {
    for (let next = this.queue.head; next !== undefined && this.running < this.concurrent; next = this.queue.head) {
      if (!this.token()) return this.pumpLater()
      this.queue.remove(next)
      this.start(next)
    }
  }

  private pumpLater(): void {
    if (this.pumping) return
    this.pumping = true
    this.time.after(Math.max(0.001, ((1 - this.tokens) / this.perSecond) * 1_000), () => {
      this.pumping = false
      this.pump()
    })
  }

  private token(): boolean {
    if (this.perSecond === Infinity) return true
    const { now } = this.time
    const refilled = this.tokens + ((now - this.refilledAt) / 1_000) * this.perSecond
    this.tokens = Math.min(Math.max(1, this.perSecond), refilled)
    this.refilledAt = now
    if (this.tokens < 1 - 1e-9) return false
    this.tokens--
    return true
  }

  private changed(): void {
    this.watch.changed(this.running, this.queue.size)
  }
}

const failure = (reason: UpstreamFailed["reason"], status: number, code?: string): End =>
  Exit.fail(withoutStack(() => new UpstreamFailed({ reason, status, ...(code === undefined ? {} : { code }) })))

const refused = failure("refused", 503, "ECONNREFUSED")
const full = failure("full", 503)
