/**
 * Collects concurrent look-ups of single keys into few calls for many.
 *
 * The first look-up of an idle batcher is sent at once. Those that come while a batch is under way are collected, and go
 * when `maxBatchSize` of them wait, or `window` after the first came, and one of `maxConcurrent` places is free.
 *
 * Put it inside a cache, and the retries, limits and timeouts of the upstream inside `run`: one batch is one call.
 *
 * Why not `RequestResolver`: it delays every batch, also the first, does not limit how many are under way, and lets any
 * number wait. Where a fixed delay will do, or requests differ in type, use it.
 */
import { Clock, Duration, Effect, Exit, Fiber, Option, Schema, Scope } from "effect"
import * as Deadline from "./Deadline.ts"
import type * as flights from "./internal/flights.ts"
import { withoutStack } from "./internal/refusal.ts"

/** Look-ups by key that are sent in batches. */
export interface Batcher<K extends Key, A, E = never> {
  /**
   * Asks for one key, in the next batch: `None` when its answer does not mention the key. Fails as the batch fails, with
   * the error or defect of `run`. A key is asked once per batch; a batch already sent is not joined, because its answer
   * may be older than the question.
   */
  readonly get: (key: K) => Effect.Effect<Option.Option<A>, E | BatcherFull>
  /** Counts the keys waiting and the batches running now. */
  readonly state: Effect.Effect<State>
}

/** A key that is equal by value. Build one from an object: `${platform}:${user}`. */
export type Key = flights.Key

/** A batcher at one moment. */
export interface State {
  /** Keys that wait for the next batch. */
  readonly waiting: number
  /** Batches that have been sent and have not ended. */
  readonly running: number
}

/** How look-ups are collected, and what answers them. */
export interface Options<K extends Key, A, E, R> {
  /**
   * Answers up to `maxBatchSize` different keys. Keys it leaves out have no answer, keys nobody asked for are ignored. It
   * runs in the context and scope of the batcher, without the deadline or span of any caller, and is interrupted when
   * every caller of the batch has gone.
   */
  readonly run: (keys: ReadonlyArray<K>) => Effect.Effect<ReadonlyMap<K, A>, E, R>
  /** Keys in one batch at most: an integer of at least 1. */
  readonly maxBatchSize: number
  /** How long the first of an incomplete batch waits for others, when there was no reason to send it at once. Defaults to 20 ms. */
  readonly window?: Duration.Input | undefined
  /** Batches under way at the same time: an integer of at least 1. Defaults to 1. */
  readonly maxConcurrent?: number | undefined
  /** Keys that may wait for a batch under way to end: an integer of at least 0. Defaults to 10,000. */
  readonly maxQueued?: number | undefined
}

/** The look-up was refused: as many keys as may wait are waiting. */
export class BatcherFull extends Schema.TaggedError<BatcherFull>()("BatcherFull", {
  /** Keys that may wait for a batch under way to end. */
  maxQueued: Schema.Int
}) {
  override get message() {
    return `Batcher full: ${this.maxQueued} keys waiting`
  }
}

/**
 * Creates a batcher. When its scope closes, the batches under way and everyone who waits are interrupted. Options that
 * make no sense are a defect, not an error.
 */
export const make = Effect.fnUntraced(function* <K extends Key, A, E, R>(
  options: Options<K, A, E, R>
): Effect.fn.Return<Batcher<K, A, E>, never, R | Scope.Scope> {
  const { run } = options
  const maxBatchSize = atLeast(1, "maxBatchSize", options.maxBatchSize)
  const maxConcurrent = atLeast(1, "maxConcurrent", options.maxConcurrent ?? 1)
  const maxQueued = atLeast(0, "maxQueued", options.maxQueued ?? 10_000)
  const window = finiteMillis("window", options.window ?? "20 millis")

  const scope = yield* Effect.scope
  const clock = yield* Clock.Clock
  const fork = Effect.runForkWith(yield* Effect.context<R>())
  const nowMillis = () => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000
  const isClosed = () => scope.state._tag === "Closed"

  // No more than may wait for a place need wait for company while one is free.
  const enough = Math.max(1, Math.min(maxBatchSize, maxQueued))

  // In the order they came.
  const waiting = new Map<K, Question<A, E>>()
  let running = 0
  let timer: Fiber.Fiber<void> | undefined

  const take = (): Array<[K, Question<A, E>]> => {
    const taken: Array<[K, Question<A, E>]> = []
    for (const asked of waiting) {
      if (taken.length === maxBatchSize) break
      taken.push(asked)
      waiting.delete(asked[0])
    }
    return taken
  }

  const send = () => {
    const asked = take()
    const keys = asked.map(([key]) => key)
    // It begins after this step, so look-ups of the same moment find a batch under way even if `run` answers at once.
    const fiber = fork(
      Effect.flatMap(Effect.yieldNow, () =>
        Effect.map(Deadline.without(run(keys)), (answers) =>
          keys.map((key) =>
            // The key has an answer, so what is read is an A, even if that is undefined.
            answers.has(key) ? Option.some(answers.get(key) as A) : Option.none()
          )
        )
      )
    )
    const batch: Batch = { fiber, open: asked.length }
    for (const [, question] of asked) question.batch = batch
    running++
    Fiber.runIn(fiber, scope)
    fiber.addObserver((exit) => {
      running--
      advance()
      asked.forEach(([, question], index) => {
        const answer = Exit.map(exit, (answers) => answers[index] ?? Option.none())
        for (const caller of question.callers) caller(answer)
      })
    })
  }

  const disarm = () => {
    timer?.interruptUnsafe()
    timer = undefined
  }

  // A timer that was set for keys that have left since wakes early, and is then set again: none wakes late.
  const arm = (millis: number) => {
    timer ??= fork(
      Effect.andThen(
        Effect.sleep(millis),
        Effect.sync(() => {
          timer = undefined
          advance()
        })
      )
    )
  }

  // Sends what may go now, and sees to it that what may go later does.
  const advance = () => {
    for (;;) {
      const first = waiting.values().next().value
      if (first === undefined || running >= maxConcurrent || isClosed()) return disarm()
      const left = first.since + window - nowMillis()
      if (waiting.size < enough && left > 0) return arm(left)
      send()
    }
  }

  const leave = (key: K, question: Question<A, E>, caller: Caller<A, E>) =>
    Effect.suspend(() => {
      question.callers.delete(caller)
      if (question.callers.size > 0) return Effect.void
      const { batch } = question
      if (batch === undefined) {
        waiting.delete(key)
        advance()
        return Effect.void
      }
      batch.open--
      return batch.open === 0 ? Fiber.interrupt(batch.fiber) : Effect.void
    })

  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const question of waiting.values()) for (const caller of question.callers) caller(Exit.interrupt())
      waiting.clear()
      disarm()
    })
  )

  return {
    get: (key) =>
      Effect.callback<Option.Option<A>, E | BatcherFull>((resume) => {
        if (isClosed()) return resume(Effect.interrupt)
        const current = waiting.get(key)
        if (current !== undefined) {
          current.callers.add(resume)
          return leave(key, current, resume)
        }
        if (running >= maxConcurrent && waiting.size >= maxQueued) {
          return resume(Effect.fail(withoutStack(() => new BatcherFull({ maxQueued }))))
        }
        const idle = running === 0 && waiting.size === 0
        const question: Question<A, E> = { callers: new Set([resume]), since: nowMillis(), batch: undefined }
        waiting.set(key, question)
        if (idle) send()
        else advance()
        return leave(key, question, resume)
      }),
    state: Effect.sync(() => ({ waiting: waiting.size, running }))
  }
})

type Caller<A, E> = (answer: Exit.Exit<Option.Option<A>, E>) => void

// One key in one batch, and everyone who asked for it.
interface Question<A, E> {
  readonly callers: Set<Caller<A, E>>
  readonly since: number
  batch: Batch | undefined
}

interface Batch {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  /** Its keys that still have a caller. */
  open: number
}

const atLeast = (min: number, name: string, value: number): number => {
  if (Number.isInteger(value) && value >= min) return value
  throw new RangeError(`Batcher: ${name} must be an integer >= ${min}, got ${value}`)
}

const finiteMillis = (name: string, input: Duration.Input): number => {
  const millis = Duration.toMillis(input)
  if (Number.isFinite(millis) && millis >= 0) return millis
  throw new RangeError(
    `Batcher: ${name} must be finite and not negative, got ${Duration.format(Duration.fromInputUnsafe(input))}`
  )
}
