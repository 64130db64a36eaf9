/**
 * Sums up what happens in a simulation by buckets of time. Only the bucket of now is open: the memory it takes grows with
 * the length of a simulation, not with its calls.
 */
import type { Bucket, Latency, Totals } from "../testing/simulate.ts"
import { Histogram } from "./histogram.ts"

/** What became of a call. */
export type Ended =
  | { readonly kind: "success"; readonly millis: number }
  | { readonly kind: "refused" | "failed"; readonly tag: string }
  | { readonly kind: "abandoned" }

// Errors of so many tags are told apart; others are "other".
const maxTags = 32

class Counts {
  offered = 0
  upstreamCalls = 0
  extraCalls = 0
  turnedAway = 0
  successes = 0
  abandoned = 0
  refused: Record<string, number> = {}
  failed: Record<string, number> = {}
  maxRunning = 0
  maxQueued = 0
  /** Calls running in the upstream, times milliseconds. */
  work = 0
}

/** What happens, and when. */
export class Recorder {
  readonly buckets: Array<Bucket> = []
  inFlight = 0
  openCircuits = 0
  private readonly bucketMillis: number
  private readonly total = new Counts()
  private readonly latencies = new Histogram()
  private readonly totalLatencies = new Histogram()
  private counts = new Counts()
  private running = 0
  private queued = 0
  private until: number
  private at = 0

  constructor(bucketMillis: number) {
    this.bucketMillis = bucketMillis
    this.until = bucketMillis
  }

  /** A call begins. */
  offered(now: number): void {
    this.move(now)
    this.counts.offered++
    this.inFlight++
  }

  /** A call has ended. */
  ended(now: number, end: Ended): void {
    this.move(now)
    this.inFlight--
    switch (end.kind) {
      case "success":
        this.counts.successes++
        this.latencies.record(end.millis)
        this.totalLatencies.record(end.millis)
        return
      case "abandoned":
        this.counts.abandoned++
        return
      default: {
        const of = this.counts[end.kind]
        const tag = of[end.tag] !== undefined || Object.keys(of).length < maxTags ? end.tag : "other"
        of[tag] = (of[tag] ?? 0) + 1
      }
    }
  }

  /** The upstream gets a call: the first that a call makes, or one more. */
  upstreamCall(now: number, extra: boolean): void {
    this.move(now)
    this.counts.upstreamCalls++
    if (extra) this.counts.extraCalls++
  }

  /** The upstream turns a call away. */
  turnedAway(now: number): void {
    this.move(now)
    this.counts.turnedAway++
  }

  /** So many calls run in the upstream, and wait there. */
  upstream(now: number, running: number, queued: number): void {
    this.move(now)
    this.running = running
    this.queued = queued
    this.peak()
  }

  /** Goes on to `now`, and closes the buckets before it. */
  move(now: number): void {
    while (now >= this.until) {
      this.counts.work += this.running * (this.until - this.at)
      this.at = this.until
      this.close()
    }
    this.counts.work += this.running * (now - this.at)
    this.at = now
  }

  /** Closes the last bucket. */
  finish(now: number): void {
    this.move(now)
    if (this.at > this.until - this.bucketMillis) this.close()
  }

  /** The sums over all buckets. */
  totals(): Totals {
    const { total } = this
    const { abandoned, extraCalls, failed, offered, refused, successes, turnedAway, upstreamCalls } = total
    const ended = successes + abandoned + sum(failed) + sum(refused)
    return {
      offered,
      upstreamCalls,
      extraCalls,
      turnedAway,
      successes,
      refused,
      failed,
      abandoned,
      latency: latencyOf(this.totalLatencies),
      maxRunning: total.maxRunning,
      meanRunning: this.at === 0 ? 0 : total.work / this.at,
      maxQueued: total.maxQueued,
      successRate: ended === 0 ? undefined : successes / ended,
      load: offered === 0 ? undefined : upstreamCalls / offered
    }
  }

  private peak(): void {
    const { counts } = this
    if (this.running > counts.maxRunning) counts.maxRunning = this.running
    if (this.queued > counts.maxQueued) counts.maxQueued = this.queued
  }

  private close(): void {
    const { counts, total } = this
    const { abandoned, extraCalls, failed, maxQueued, maxRunning, offered, refused } = counts
    const { successes, turnedAway, upstreamCalls, work } = counts
    const atMillis = this.until - this.bucketMillis
    this.buckets.push({
      atMillis,
      offered,
      upstreamCalls,
      extraCalls,
      turnedAway,
      successes,
      refused,
      failed,
      abandoned,
      latency: latencyOf(this.latencies),
      maxRunning,
      meanRunning: this.at > atMillis ? work / (this.at - atMillis) : 0,
      maxQueued,
      inFlight: this.inFlight,
      openCircuits: this.openCircuits
    })
    total.offered += offered
    total.upstreamCalls += upstreamCalls
    total.extraCalls += extraCalls
    total.turnedAway += turnedAway
    total.successes += successes
    total.abandoned += abandoned
    total.work += work
    for (const kind of ["refused", "failed"] as const) {
      for (const [tag, count] of Object.entries(counts[kind])) total[kind][tag] = (total[kind][tag] ?? 0) + count
    }
    total.maxRunning = Math.max(total.maxRunning, maxRunning)
    total.maxQueued = Math.max(total.maxQueued, maxQueued)
    this.latencies.clear()
    this.counts = new Counts()
    this.until += this.bucketMillis
    this.peak()
  }
}

/** Adds up counts by tag. */
export const sum = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((total, count) => total + count, 0)

const latencyOf = (latencies: Histogram): Latency | undefined =>
  latencies.count === 0
    ? undefined
    : {
        p50: latencies.quantile(0.5),
        p95: latencies.quantile(0.95),
        p99: latencies.quantile(0.99),
        max: latencies.max
      }
