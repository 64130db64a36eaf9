/**
 * Runs a policy in a described world, in virtual time, and tells what happened second by second.
 *
 * Calls come as the `World` says, each goes through the policy, and the upstream of the world answers, slows down, refuses
 * or is silent. An hour of it takes seconds. The same world, policy and seed always give the same result: two policies can
 * be compared, and a test can insist on what it saw.
 *
 * Time is virtual for everything the policy does with Effect's `Clock`. It must not wait for anything real: a promise, a
 * socket, another process. `Random` is seeded as well, apart from the draws of the world.
 *
 * | defaults | `bucket` 1 second | `drain` 1 minute | `maxInFlight` 100,000 |
 */
import {
  Cause,
  Clock,
  Context,
  Duration,
  Effect,
  Exit,
  type Fiber,
  Metric,
  Random,
  Scheduler,
  Schema,
  Scope,
  Stream
} from "effect"
import type { CircuitBreaker, State } from "../CircuitBreaker.ts"
import { arrivalTimes } from "../internal/arrivals.ts"
import { type Ended, Recorder, sum } from "../internal/recorder.ts"
import { isRefusal, withoutStack } from "../internal/refusal.ts"
import { chooser, sampler } from "../internal/sampler.ts"
import { VirtualTime } from "../internal/virtualTime.ts"
import { WorldUpstream } from "../internal/worldUpstream.ts"
import * as Priority from "../Priority.ts"
import { UpstreamFailed } from "./UpstreamFailed.ts"
import * as World from "./World.ts"

/** What the upstream answers. */
export interface Answer {
  /** How many calls it has had. */
  readonly number: number
  readonly key: string
}

/** What a call is about. Its priority is also that of its surroundings. */
export interface About {
  /** How many calls there have been, with this one. */
  readonly number: number
  readonly key: string
  readonly priority: Priority.Priority
}

/** Makes one call: runs what calls the upstream, once, several times or not at all. */
export interface Run<R> {
  (call: Effect.Effect<Answer, UpstreamFailed>, about: About): Effect.Effect<unknown, unknown, R>
}

/** What makes calls: a `Policy` is one. */
export interface Runner<R> {
  readonly execute: Run<R>
  /** Whose changes of state are told with the result. */
  readonly circuitBreaker?: CircuitBreaker | undefined
}

/**
 * A policy: as a function, with `execute`, or as the effect that makes either. The effect fails with `E` and requires `R`, its
 * calls require `RC`; it runs in the world's time, and in a scope that closes at the end.
 */
export type Subject<E = never, R = never, RC = never> = Run<RC> | Runner<RC> | Effect.Effect<Run<RC> | Runner<RC>, E, R>

/** How closely one looks, and where it ends. */
export interface SimulateOptions {
  /** The time that is summed up. At most 100,000 of them in the `duration` of the world. Defaults to 1 second. */
  readonly bucket?: Duration.Input | undefined
  /** How long after the last call all of them may take to end; then they are interrupted. Defaults to 1 minute. */
  readonly drain?: Duration.Input | undefined
  /** Calls that may be under way at the same time: an integer of at least 1. Defaults to 100,000. */
  readonly maxInFlight?: number | undefined
}

/** What happened. */
export interface Simulation {
  readonly world: World.World
  readonly bucket: Duration.Duration
  /** What happened by time, without gaps, from the beginning until all calls had ended. */
  readonly buckets: ReadonlyArray<Bucket>
  readonly totals: Totals
  readonly worst: Worst
  /** The changes of state of the circuits: the first 1,000. */
  readonly transitions: ReadonlyArray<Transition>
  readonly leftover: Leftover
}

/** Calls that began, ended and reached the upstream in one bucket of time, each counted when that happened. */
export interface Bucket extends Counts {
  /** When it begins, in milliseconds. */
  readonly atMillis: number
  /** Calls under way at its end. */
  readonly inFlight: number
  /** Circuits that are not closed at its end. */
  readonly openCircuits: number
}

/** The sums over all buckets. */
export interface Totals extends Counts {
  /** The part of the calls that succeeded, of those that have ended. `undefined` without any. */
  readonly successRate: number | undefined
  /** Calls to the upstream for each call. `undefined` without any. */
  readonly load: number | undefined
}

/** What calls did. */
export interface Counts {
  /** Calls that began. */
  readonly offered: number
  /** Calls that reached the upstream. */
  readonly upstreamCalls: number
  /** Those of them that are not the first of their call: retries and hedges. */
  readonly extraCalls: number
  /** Those of them that the upstream turned away because it had too much to do. */
  readonly turnedAway: number
  readonly successes: number
  /** Calls that a primitive refused to make, by the tag of its error. */
  readonly refused: Readonly<Record<string, number>>
  /** Calls that failed otherwise, by tag. Those of the upstream say why: `UpstreamFailed refused`. */
  readonly failed: Readonly<Record<string, number>>
  /** Calls whose caller lost patience. */
  readonly abandoned: number
  /** How long successes took, from the caller's point of view. `undefined` without any. */
  readonly latency: Latency | undefined
  /** The most calls that the upstream worked on at the same time. */
  readonly maxRunning: number
  /** How many it worked on in the mean over time. */
  readonly meanRunning: number
  /** The most calls that waited in the upstream. */
  readonly maxQueued: number
}

/** Percentiles in milliseconds, to 1 %, and the greatest. */
export interface Latency {
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

/** The worst buckets, the first if there are several. `undefined` if nothing happened that could be bad. */
export interface Worst {
  /** That with the smallest part of successes, of the calls that ended in it. */
  readonly successRate: { readonly value: number; readonly atMillis: number } | undefined
  /** That with the greatest p99. */
  readonly latency: { readonly value: number; readonly atMillis: number } | undefined
  /** That with the most calls to the upstream. */
  readonly upstreamCalls: { readonly value: number; readonly atMillis: number } | undefined
}

/** A change of state of one circuit. */
export interface Transition {
  readonly atMillis: number
  readonly key: string
  readonly from: State["_tag"]
  readonly to: State["_tag"]
}

/** What was still there when nothing should have been. */
export interface Leftover {
  /** Calls that had not ended within `drain`, and were interrupted. */
  readonly calls: number
  /** Fibers that had not ended within another `drain` after the scope of the policy was closed. */
  readonly fibers: number
}

/** The simulation could not go on. */
export class SimulationFailed extends Schema.TaggedError<SimulationFailed>()("SimulationFailed", {
  /** "stuck": time stands still, because something goes round in circles; "overflow": too many calls under way; "waiting": the policy is never ready. */
  reason: Schema.Literals(["stuck", "overflow", "waiting"]),
  atMillis: Schema.Finite
}) {
  override get message() {
    return `The simulation failed at ${this.atMillis} ms: ${explanations[this.reason]}`
  }
}

const explanations = {
  stuck: "over a million things happened at one moment, so something goes round without waiting",
  overflow: "more calls than maxInFlight were under way",
  waiting: "the policy waits for something that never comes in virtual time"
}

const maxBuckets = 100_000
const maxTransitions = 1_000
const maxTasks = 1_000_000
const maxSetupMillis = 3_600_000
const stepsBetweenYields = 5_000

/**
 * Runs a policy in a world. A world or options that make no sense are a defect, not an error.
 *
 * What calls require must be given as any other requirement. TypeScript cannot tell what that is for a function that is
 * generic in it: wrap a policy that requires services, `(call) => policy.execute(call)`.
 */
export const simulate: {
  <E = never, R = never>(
    world: World.World | World.Input,
    policy: Subject<E, R, Scope.Scope>,
    options?: SimulateOptions
  ): Effect.Effect<Simulation, E | SimulationFailed, Exclude<R, Scope.Scope>>
  <RC, E = never, R = never>(
    world: World.World | World.Input,
    policy: Subject<E, R, RC>,
    options?: SimulateOptions
  ): Effect.Effect<Simulation, E | SimulationFailed, Exclude<R | RC, Scope.Scope>>
} = <E, R>(worldInput: World.World | World.Input, policy: Subject<E, R, R>, options: SimulateOptions = {}) =>
  Effect.suspend(() => {
    const world = World.make(worldInput)
    const bucketMillis = Duration.toMillis(options.bucket ?? "1 second")
    const drainMillis = Duration.toMillis(options.drain ?? "1 minute")
    const maxInFlight = options.maxInFlight ?? 100_000
    check("bucket", bucketMillis, "a finite duration over zero", bucketMillis > 0 && bucketMillis < Infinity)
    const buckets = Duration.toMillis(world.duration) / bucketMillis
    check("bucket", bucketMillis, `at least a ${maxBuckets}th of the duration`, buckets <= maxBuckets)
    check("drain", drainMillis, "finite and not negative", drainMillis >= 0 && drainMillis < Infinity)
    check("maxInFlight", maxInFlight, "an integer >= 1", Number.isInteger(maxInFlight) && maxInFlight >= 1)
    return Effect.acquireUseRelease(
      Effect.contextWith((context: Context.Context<Exclude<R, Scope.Scope>>) =>
        Effect.map(seeded(world, "policy"), (random) => engine(context, random, drainMillis))
      ),
      (engine) => run(engine, world, policy, { bucketMillis, drainMillis, maxInFlight }),
      (engine) => engine.close
    )
  })

interface Settings {
  readonly bucketMillis: number
  readonly drainMillis: number
  readonly maxInFlight: number
}

/** What runs fibers in virtual time. */
interface Engine {
  readonly time: VirtualTime
  readonly fork: <A, E>(effect: Effect.Effect<A, E, never>) => Fiber.Fiber<A, E>
  /** Calls under way. */
  readonly calls: Set<Fiber.Fiber<unknown, unknown>>
  /** Goes on until `done`, until there is nothing to do, or until a time. */
  readonly drive: (until: number, done: () => boolean) => Effect.Effect<void, SimulationFailed>
  /** Ends everything, and gives it `drainMillis` for that. */
  readonly close: Effect.Effect<void>
}

const engine = <R>(outer: Context.Context<R>, random: Random.Random, drainMillis: number): Engine => {
  const time = new VirtualTime(maxTasks)
  const scope = Scope.makeUnsafe()
  const calls = new Set<Fiber.Fiber<unknown, unknown>>()
  const context = outer.pipe(
    Context.add(Clock.Clock, time.clock),
    Context.add(Scheduler.Scheduler, time.scheduler),
    Context.add(Random.Random, random),
    Context.add(Metric.FiberRuntimeMetrics, time.metrics),
    Context.add(Scope.Scope, scope)
  )
  const fork = Effect.runForkWith(context)
  const drive = (until: number, done: () => boolean): Effect.Effect<void, SimulationFailed> =>
    Effect.suspend(() => {
      for (let steps = 0; steps < stepsBetweenYields; steps++) {
        if (time.stuck) return Effect.fail(failed("stuck", time))
        if (done() || !time.step(until)) return Effect.void
      }
      // Whoever waits for the simulation may want to interrupt it.
      return Effect.andThen(Effect.yieldNow, drive(until, done))
    })
  let closed = false
  const close = Effect.suspend(() => {
    if (closed) return Effect.void
    closed = true
    for (const call of calls) call.interruptUnsafe()
    fork(Scope.close(scope, Exit.void))
    time.settle()
    return Effect.ignore(drive(time.now + drainMillis, () => time.fibers === 0))
  })
  return { time, fork, calls, drive, close }
}

const run = Effect.fnUntraced(function* <E, R>(
  engine: Engine,
  world: World.World,
  policy: Subject<E, R, R>,
  { bucketMillis, drainMillis, maxInFlight }: Settings
): Effect.fn.Return<Simulation, E | SimulationFailed> {
  const { calls, drive, fork, time } = engine

  const making = fork((Effect.isEffect(policy) ? policy : Effect.succeed(policy)) as Effect.Effect<AnySubject, E>)
  calls.add(making)
  time.settle()
  yield* drive(maxSetupMillis, () => making.pollUnsafe() !== undefined)
  const made = making.pollUnsafe()
  if (made === undefined) return yield* failed("waiting", time)
  calls.delete(making)
  const { circuitBreaker, execute } = yield* Effect.map(made, (subject) =>
    typeof subject === "function" ? { execute: subject, circuitBreaker: undefined } : subject
  )

  // The world begins when the policy is ready.
  const startedAt = time.now
  const recorder = new Recorder(bucketMillis)
  const now = () => time.now - startedAt
  const transitions: Array<Transition> = []
  if (circuitBreaker !== undefined) {
    const open = new Set<string>()
    fork(
      Effect.forkScoped(
        Stream.runForEach(circuitBreaker.transitions, ({ from, key, to }) =>
          Effect.sync(() => {
            recorder.move(now())
            if (to === "Closed") open.delete(key)
            else open.add(key)
            recorder.openCircuits = open.size
            if (transitions.length < maxTransitions) transitions.push({ atMillis: now(), key, from, to })
          })
        )
      ) as Effect.Effect<unknown>
    )
    time.settle()
  }

  const upstream = new WorldUpstream(world, time, yield* seeded(world, "upstream"), {
    came: (again) => recorder.upstreamCall(now(), again),
    turnedAway: () => recorder.turnedAway(now()),
    changed: (running, queued) => recorder.upstream(now(), running, queued)
  })
  const seen = { number: 0, overflow: false }
  const patience = world.patience === undefined ? Infinity : Duration.toMillis(world.patience)
  const aboutRandom = yield* seeded(world, "calls")
  const nextKey = chooser(keyWeights(world), aboutRandom)
  const nextPriority = chooser(
    Priority.all.map((name) =>
      world.priorities === undefined ? Number(name === "normal") : (world.priorities[name] ?? 0)
    ),
    aboutRandom
  )

  const begin = (onEnd?: () => void) => {
    if (calls.size >= maxInFlight) {
      seen.overflow = true
      return
    }
    const about: About = {
      number: ++seen.number,
      key: `key-${nextKey() + 1}`,
      priority: Priority.all[nextPriority()] ?? "normal"
    }
    const beganAt = time.now
    let upstreamCalls = 0
    const call = Effect.suspend(() => upstream.call(about.key, upstreamCalls++ > 0))
    recorder.offered(now())
    let abandoned = false
    const fiber = fork(
      Priority.as(
        Effect.suspend(() => execute(call, about)),
        about.priority
      )
    )
    const ended = (exit: Exit.Exit<unknown, unknown>) => {
      calls.delete(fiber)
      recorder.ended(now(), abandoned ? { kind: "abandoned" } : endOf(exit, time.now - beganAt))
      onEnd?.()
    }
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return ended(exit)
    calls.add(fiber)
    const cancel =
      patience === Infinity
        ? undefined
        : time.after(patience, () => {
            abandoned = true
            fiber.interruptUnsafe()
          })
    fiber.addObserver((exit) => {
      cancel?.()
      ended(exit)
    })
  }

  const endsAt = startedAt + Duration.toMillis(world.duration)
  const at = (millis: number, run: () => void) => {
    if (startedAt + millis < endsAt) time.after(startedAt + millis - time.now, run)
  }
  if (world.arrivals !== undefined) {
    const next = arrivalTimes(world.arrivals, yield* seeded(world, "arrivals"))
    const arrive = () => {
      begin()
      at(next(), arrive)
    }
    at(next(), arrive)
    for (const burst of world.arrivals.bursts ?? []) {
      at(Duration.toMillis(burst.at), () => {
        for (let calls = 0; calls < burst.calls && !seen.overflow; calls++) begin()
      })
    }
  }
  if (world.clients !== undefined) {
    const think = sampler(world.clients.think, yield* seeded(world, "clients"))
    const client = () => {
      // At least a millisecond, so that clients of a policy that answers at once do not stop the time.
      at(now() + Math.max(1, think()), () => begin(client))
    }
    for (let clients = 0; clients < world.clients.count; clients++) client()
  }

  yield* drive(endsAt, () => seen.overflow)
  yield* drive(endsAt + drainMillis, () => seen.overflow || calls.size === 0)
  if (seen.overflow) return yield* failed("overflow", time)
  recorder.finish(Math.max(now(), endsAt - startedAt))
  // What ends from here on has not been seen.
  const buckets = [...recorder.buckets]
  const totals = recorder.totals()
  const unfinished = calls.size
  yield* engine.close
  return {
    world,
    bucket: Duration.millis(bucketMillis),
    buckets,
    totals,
    worst: worstOf(buckets),
    transitions,
    leftover: { calls: unfinished, fibers: time.fibers }
  }
})

type AnySubject = Run<never> | Runner<never>

// A generator of its own for everything that draws, so that one thing draws the same whatever the others do.
const seeded = (world: World.World, name: string): Effect.Effect<Random.Random> =>
  Random.withSeed(
    Effect.withFiberSucceed((fiber) => fiber.getRef(Random.Random)),
    `${world.seed ?? 0}/${name}`
  )

const keyWeights = ({ keys }: World.World): ReadonlyArray<number> =>
  Array.from({ length: keys?.count ?? 1 }, (_, index) => (index + 1) ** -(keys?.skew ?? 0))

const endOf = (exit: Exit.Exit<unknown, unknown>, millis: number): Ended => {
  if (Exit.isSuccess(exit)) return { kind: "success", millis }
  const [reason] = exit.cause.reasons
  if (reason === undefined || !Cause.isFailReason(reason)) {
    return { kind: "failed", tag: Cause.hasDies(exit.cause) ? "Die" : "Interrupt" }
  }
  const { error } = reason
  if (error instanceof UpstreamFailed) return { kind: "failed", tag: `UpstreamFailed ${error.reason}` }
  return { kind: isRefusal(error) ? "refused" : "failed", tag: tagOf(error) }
}

const tagOf = (error: unknown): string => {
  if (typeof error !== "object" || error === null) return typeof error === "string" ? error.slice(0, 40) : typeof error
  if ("_tag" in error && typeof error._tag === "string") return error._tag
  return error instanceof Error ? error.name : "object"
}

const worstOf = (buckets: ReadonlyArray<Bucket>): Worst => {
  const most = (value: (bucket: Bucket) => number | undefined) => {
    let found: { readonly value: number; readonly atMillis: number } | undefined
    for (const bucket of buckets) {
      const of = value(bucket)
      if (of !== undefined && (found === undefined || of > found.value))
        found = { value: of, atMillis: bucket.atMillis }
    }
    return found
  }
  const failing = most((bucket) => {
    const bad = sum(bucket.failed) + sum(bucket.refused) + bucket.abandoned
    return bad + bucket.successes === 0 ? undefined : bad / (bad + bucket.successes)
  })
  return {
    successRate: failing === undefined ? undefined : { ...failing, value: 1 - failing.value },
    latency: most(({ latency }) => latency?.p99),
    upstreamCalls: most(({ upstreamCalls }) => (upstreamCalls === 0 ? undefined : upstreamCalls))
  }
}

const failed = (reason: SimulationFailed["reason"], time: VirtualTime) =>
  withoutStack(() => new SimulationFailed({ reason, atMillis: time.now }))

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`simulate: ${name} must be ${expected}, got ${value}`)
}
