/**
 * Imports users' games: starts imports, runs them in their slots, tells how far they are, and cancels them.
 *
 * An import is a row in the store and a workflow of Effect's engine, both in the same database. Games and the checkpoint
 * behind them commit together, so the workflow's one activity may run any number of times: it continues where the last
 * one ended. A process that dies or stops leaves the row unfinished, and the next one takes it up, in the old order.
 *
 * Trouble with a site only delays an import: it waits, longer each time and without its slot when that is long, and
 * gives up after many attempts that brought nothing at all. Starting it again continues behind what was stored.
 */
import {
  Cause,
  Clock,
  ConfigProvider,
  Context,
  Deferred,
  Duration,
  Effect,
  Equal,
  Exit,
  Layer,
  Option,
  Result,
  Schedule,
  Schema,
  type Scope,
  Stream
} from "effect"
import { Retry } from "effect-resilience"
import { ClusterWorkflowEngine, SingleRunner } from "effect/cluster"
import { Digest } from "effect/crypto"
import type { SqlClient, SqlError } from "effect/sql"
import { Activity, Workflow, WorkflowEngine } from "effect/workflow"
import { ChessCom } from "./ChessCom.ts"
import * as ChessComImport from "./ChessComImport.ts"
import type { CheckpointByPlatform } from "./domain/Checkpoint.ts"
import { type ImportJob, isFinal } from "./domain/ImportJob.ts"
import type { Platform } from "./domain/Platform.ts"
import { GameStore } from "./GameStore.ts"
import * as ImportSlots from "./ImportSlots.ts"
import { ImportStore, type Speed } from "./ImportStore.ts"
import type { ImportTarget } from "./ImportTarget.ts"
import { Lichess } from "./Lichess.ts"
import * as LichessImport from "./LichessImport.ts"
import type { UpstreamError, UserNotFound } from "./UpstreamError.ts"

/** How far an import is, and where it stands in the queue. */
export interface ImportProgress extends ImportJob {
  /** 1 for the next to run; `null` for an import that does not wait for a slot. */
  readonly queuePosition: number | null
  /**
   * How long it will probably wait still, for a slot or, without one, for its next attempt; `null` for one that does not
   * wait, and while too little was measured.
   */
  readonly estimatedWaitSeconds: number | null
}

/** Which import is wanted, and by whom. */
export interface StartRequest {
  /** The user whose games are imported, lower case. */
  readonly user: string
  readonly platform: Platform
  /** The most new games to store. */
  readonly limit: number
  /** Who asks: the user of the API key, or the client's address. */
  readonly owner: string
  readonly premium: boolean
}

/** The answer to a request for an import. */
export interface Started {
  readonly progress: ImportProgress
  /** Whether it is a new import, one that runs or waits already, or one that has just brought everything there is. */
  readonly outcome: "started" | "already-running" | "recent"
}

/** All imports at one moment. */
export interface ImportList {
  readonly running: ReadonlyArray<ImportProgress>
  /** The next to run first, then those that gave their slot back until their next attempt. */
  readonly queued: ReadonlyArray<ImportProgress>
  /** Those that have ended, the newest first. */
  readonly recent: ReadonlyArray<ImportProgress>
  readonly slots: { readonly total: number; readonly available: number }
}

/** Imports games. User names are lower case here. */
export class GameImport extends Context.Service<
  GameImport,
  {
    /** Starts an import, or finds the one that makes it unnecessary. */
    readonly start: (
      request: StartRequest
    ) => Effect.Effect<Started, ImportSlots.ImportQueueFull | ImportSlots.TooManyImports | SqlError.SqlError>
    /** Reads how far a user's newest import is; none when there was never one. */
    readonly progress: (
      user: string,
      platform: Platform
    ) => Effect.Effect<Option.Option<ImportProgress>, SqlError.SqlError>
    /**
     * Follows a user's newest import: how far it is now, then each change, until it has ended. Empty when there was
     * never one. A slow reader misses changes in between and sees the newest.
     */
    readonly changes: (user: string, platform: Platform) => Stream.Stream<ImportProgress, SqlError.SqlError>
    /** Ends a user's import at once, unless it has ended; the games it brought stay. None when there was never one. */
    readonly cancel: (
      user: string,
      platform: Platform
    ) => Effect.Effect<Option.Option<ImportProgress>, SqlError.SqlError>
    /** Lists the imports that run, wait and have ended lately. */
    readonly list: Effect.Effect<ImportList, SqlError.SqlError>
  }
>()("effect-resilience/chess/GameImport") {}

/** The numbers of the service, each with its default. */
export interface Options {
  /** Imports that run at the same time. Defaults to 2. */
  readonly maxConcurrent?: number | undefined
  /** Imports that may wait for a slot, or for their next attempt without one. Defaults to 100. */
  readonly maxQueued?: number | undefined
  /** Unfinished imports that one owner may have. Defaults to 5. */
  readonly maxPerOwner?: number | undefined
  /** How long after a complete import the same one is answered with it. Defaults to 5 minutes. */
  readonly recentFor?: Duration.Input | undefined
  /** How many attempts in a row may fail without bringing anything. Defaults to 12. */
  readonly maxAttempts?: number | undefined
  /** The wait after the first such failure, doubled with each, give or take a fifth. Defaults to 2 seconds. */
  readonly retryDelay?: Duration.Input | undefined
  /** The longest such wait, unless the site asks for more. Defaults to 5 minutes. */
  readonly maxRetryDelay?: Duration.Input | undefined
  /** The shortest wait before an attempt for which an import gives its slot back. Defaults to 5 seconds. */
  readonly minRest?: Duration.Input | undefined
  /** The shortest time between two changes that a follower sees. Defaults to 100 milliseconds. */
  readonly changeInterval?: Duration.Input | undefined
  readonly lichess?: LichessImport.Options | undefined
  readonly chessCom?: ChessComImport.Options | undefined
}

/** Builds the service and takes up what an earlier process left unfinished. */
export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<
  GameImport["Service"],
  SqlError.SqlError,
  ImportStore | GameStore | Lichess | ChessCom | WorkflowEngine.WorkflowEngine | Scope.Scope
> {
  const store = yield* ImportStore
  const games = yield* GameStore
  const lichess = yield* Lichess
  const chessCom = yield* ChessCom
  const engine = yield* WorkflowEngine.WorkflowEngine
  const clock = yield* Clock.Clock
  const scope = yield* Effect.scope
  const total = options.maxConcurrent ?? 2
  const recentFor = Duration.toMillis(options.recentFor ?? "5 minutes")
  const maxAttempts = options.maxAttempts ?? 12
  if (!Number.isInteger(maxAttempts) || maxAttempts < 1) {
    throw new RangeError(`GameImport: maxAttempts must be an integer >= 1, got ${maxAttempts}`)
  }
  const changeInterval = Duration.toMillis(options.changeInterval ?? "100 millis")
  const minRest = Duration.fromInputUnsafe(options.minRest ?? "5 seconds")
  const backoff = Retry.exponential({
    base: options.retryDelay ?? "2 seconds",
    maxDelay: options.maxRetryDelay ?? "5 minutes",
    jitter: "none",
    times: Infinity
  }).pipe(Schedule.jittered)

  // Every unfinished import, from the moment its row exists until its row is final.
  const lives = new Map<string, Live>()
  const livesByUser = new Map<string, Live>()
  const stopping = yield* Deferred.make<void>()

  let speed: Speed = yield* store.speed
  const slots = yield* ImportSlots.make({
    total,
    maxQueued: options.maxQueued,
    maxPerOwner: options.maxPerOwner,
    estimates: {
      average: () => speed.averageDurationMillis,
      remaining: (importId) => {
        const live = lives.get(importId)
        if (live === undefined) return null
        const { begun, job } = live
        return ImportSlots.estimateRemaining({
          checked: begun === undefined ? 0 : job.checked - begun.checked,
          left: job.limit - job.imported,
          elapsed: begun === undefined ? 0 : clock.currentTimeMillisUnsafe() - begun.at,
          gamesPerSecond: speed.gamesPerSecond,
          average: speed.averageDurationMillis
        })
      }
    }
  })

  const enter = (job: ImportJob): Live => {
    const live = new Live(job)
    lives.set(job.importId, live)
    livesByUser.set(userKey(job.user, job.platform), live)
    return live
  }

  const wakeWaiting = Effect.map(slots.state, ({ waiting }) => {
    for (const { importId } of waiting) lives.get(importId)?.wake()
  })

  const toProgress = (job: ImportJob): Effect.Effect<ImportProgress> =>
    Effect.map(slots.waiting(job.importId), (waiting) => {
      const until = lives.get(job.importId)?.restsUntil
      const wait =
        until === undefined ? waiting?.wait : Duration.millis(Math.max(0, until - clock.currentTimeMillisUnsafe()))
      return {
        ...job,
        queuePosition: waiting?.position ?? null,
        estimatedWaitSeconds: wait ? Math.ceil(Duration.toSeconds(wait)) : null
      }
    })

  const current = (user: string, platform: Platform): Effect.Effect<Option.Option<ImportJob>, SqlError.SqlError> =>
    Effect.suspend(() => {
      const live = livesByUser.get(userKey(user, platform))
      return live === undefined ? store.latest(user, platform) : Effect.succeedSome(live.job)
    })

  // As long as the database refuses, the import stays unfinished, and a restart would take it up.
  const setStatus = Effect.fnUntraced(function* (live: Live, change: Parameters<typeof store.setStatus>[1]) {
    live.job = yield* store.setStatus(live.job.importId, change).pipe(
      Effect.tapError((error) => Effect.logError("Import status not stored, trying again", error)),
      Effect.retry(endlessly),
      Effect.orDie
    )
    live.wake()
  })

  const hasSlot = Effect.fn("GameImport.hasSlot")(function* (live: Live) {
    if (live.begun !== undefined) return
    const at = clock.currentTimeMillisUnsafe()
    live.begun = { at, checked: live.job.checked }
    const { available } = yield* slots.state
    yield* log(live, "Info", "import.slot-acquired", "Import slot acquired", { slots: `${available}/${total}` })
    yield* setStatus(live, {
      status: "starting",
      message: "Import slot acquired - starting...",
      ...(live.job.startedAt === null ? { startedAt: at } : undefined)
    })
  })

  const waits = Effect.fn("GameImport.waits")(function* (live: Live) {
    yield* log(live, "Info", "import.waiting", "Imports at capacity, waiting for a slot", { slots: `0/${total}` })
    yield* setStatus(live, {
      status: "queued",
      message: `Import queued - 0 of ${total} import slots available`
    })
  })

  // Others run in its slot until `delay` is over. Whoever cancels or stops it meanwhile interrupts this.
  const rest = Effect.fn("GameImport.rest")(function* (live: Live, delay: Duration.Duration, reason: string) {
    const { importId } = live.job
    live.begun = undefined
    live.restsUntil = clock.currentTimeMillisUnsafe() + Duration.toMillis(delay)
    yield* log(live, "Info", "import.slot-released", "Import slot given back until the next attempt", {
      delayMillis: Duration.toMillis(delay)
    })
    yield* slots.rest(importId)
    yield* wakeWaiting
    const stored = setStatus(live, { status: "queued", message: `Import waiting for its next attempt - ${reason}` })
    yield* Effect.all([stored, Effect.sleep(delay)], { concurrency: 2, discard: true }).pipe(
      Effect.ensuring(
        Effect.sync(() => {
          live.restsUntil = undefined
        })
      )
    )
    yield* slots.resume(importId)
    if ((yield* slots.waiting(importId)) !== undefined) {
      yield* waits(live)
      yield* wakeWaiting
    }
    yield* slots.turn(importId)
    yield* hasSlot(live)
  })

  const end = Effect.fn("GameImport.end")(function* (live: Live, outcome: Outcome) {
    const { importId, imported } = live.job
    const finishedAt = clock.currentTimeMillisUnsafe()
    if (outcome._tag === "Complete") {
      const message = `Import complete! ${imported} new games imported`
      yield* setStatus(live, { status: "complete", message, finishedAt })
      const { checked, skipped } = live.job
      yield* log(live, "Info", "import.completed", "Import completed", { new: imported, checked, skipped })
    } else if (outcome._tag === "Cancelled") {
      const message = `Import cancelled - ${imported} new games imported`
      yield* setStatus(live, { status: "cancelled", message, finishedAt })
      yield* log(live, "Info", "import.cancelled", "Import cancelled", { new: imported })
    } else {
      const { error } = outcome
      yield* setStatus(live, { status: "failed", message: `Import failed: ${error}`, error, finishedAt })
      yield* log(live, "Error", "import.failed", "Import failed", { new: imported, error })
    }
    lives.delete(importId)
    livesByUser.delete(userKey(live.job.user, live.job.platform))
    yield* slots.leave(importId)
    live.wake()
    yield* Deferred.succeed(live.ended, undefined)
    yield* wakeWaiting
    if (outcome._tag === "Complete") {
      speed = yield* Effect.orElseSucceed(store.speed, () => speed)
    }
  })

  const targetOf = <P extends Platform>(live: Live, platform: P): ImportTarget<CheckpointByPlatform[P]> => {
    const { importId, user } = live.job
    const left = () => live.job.limit - live.job.imported
    return {
      user,
      left,
      position: Effect.tap(store.checkpoint(user, platform), (checkpoint) =>
        Effect.sync(() => {
          live.checkpoint = checkpoint
        })
      ),
      known: (ids) => games.known({ user, platform, ids }),
      commit: Effect.fnUntraced(function* (batch, checkpoint) {
        const { inserted, job } = yield* store.commit(importId, { user, platform, batch, checkpoint, maxNew: left() })
        if (inserted > 0 || !Equal.equals(checkpoint, live.checkpoint)) live.advances++
        live.checkpoint = checkpoint
        live.job = job
        if (job.status === "starting") yield* setStatus(live, { status: "importing", message: job.message })
        else live.wake()
        return inserted
      })
    }
  }

  const algorithmOf = (live: Live) =>
    live.job.platform === "lichess"
      ? LichessImport.make(targetOf(live, "lichess"), options.lichess).pipe(Effect.provideService(Lichess, lichess))
      : ChessComImport.make(targetOf(live, "chess.com"), options.chessCom).pipe(
          Effect.provideService(ChessCom, chessCom)
        )

  const fetchGames = Effect.fn("GameImport.fetch")(function* (live: Live) {
    const attempt = algorithmOf(live)
    let step = yield* Schedule.toStep(backoff)
    let fruitless = 0
    for (;;) {
      const before = live.advances
      const result = yield* Effect.result(attempt)
      if (Result.isSuccess(result)) return
      const error = result.failure
      if (error._tag === "UserNotFound") return yield* error
      if (live.advances > before) {
        step = yield* Schedule.toStep(backoff)
        fruitless = 0
      } else if (++fruitless >= maxAttempts) return yield* error
      const [, next] = yield* Effect.orDie(step(clock.currentTimeMillisUnsafe(), undefined))
      const asked = error._tag === "SqlError" ? undefined : error.retryAfter
      const delay = Duration.millis(Math.ceil(Duration.toMillis(Duration.max(next, asked ?? Duration.zero))))
      yield* log(live, "Warn", "import.retry", "Import disturbed, going on after a wait", {
        reason: explain(error),
        delayMillis: Duration.toMillis(delay)
      })
      if (Duration.isLessThan(delay, minRest)) yield* Effect.sleep(delay)
      else yield* rest(live, delay, explain(error))
    }
  })

  // Succeeds when the import has ended. A process that stops takes its fiber away from here instead.
  const perform = Effect.fnUntraced(function* (live: Live) {
    yield* hasSlot(live)
    live.working = true
    const exit = yield* fetchGames(live).pipe(
      Effect.as<Outcome | "Stopped">({ _tag: "Complete" }),
      Effect.raceFirst(Effect.as(Deferred.await(live.cancelled), { _tag: "Cancelled" } as const)),
      Effect.raceFirst(Effect.as(Deferred.await(stopping), "Stopped" as const)),
      Effect.exit,
      Effect.ensuring(Deferred.succeed(live.idle, undefined))
    )
    if (Exit.isSuccess(exit)) {
      if (exit.value === "Stopped") return yield* Effect.never
      return yield* end(live, exit.value)
    }
    const error = Cause.findErrorOption(exit.cause)
    if (Option.isSome(error)) return yield* end(live, { _tag: "Failed", error: explain(error.value) })
    yield* log(live, "Error", "import.defect", "Import ended by a defect", { cause: Cause.pretty(exit.cause) })
    yield* end(live, { _tag: "Failed", error: "internal error" })
  })

  yield* engine.register(
    GameImportWorkflow,
    Effect.fnUntraced(function* ({ importId }) {
      const live = lives.get(importId)
      // It had ended, and the process died before the engine knew.
      if (live === undefined) return
      const cancelled = yield* slots
        .turn(importId)
        .pipe(Effect.as(false), Effect.raceFirst(Effect.as(Deferred.await(live.cancelled), true)))
      if (cancelled) return yield* end(live, { _tag: "Cancelled" })
      yield* Activity.make({ name: "import", execute: perform(live) })
    })
  )

  // Before anything else is taken down, the running imports store what they have and close their streams.
  yield* Effect.addFinalizer(() =>
    Effect.andThen(
      Deferred.succeed(stopping, undefined),
      Effect.forEach(lives.values(), (live) => (live.working ? Deferred.await(live.idle) : Effect.void), {
        discard: true
      })
    )
  )

  // The engine knows an import that was submitted before, and one that it does not know starts now. It can wait: the
  // row is there, and would be submitted by the next process.
  const submit = (live: Live) =>
    GameImportWorkflow.execute({ importId: live.job.importId }, { discard: true }).pipe(
      Effect.provideService(WorkflowEngine.WorkflowEngine, engine),
      Effect.sandbox,
      Effect.tapError((cause) => Effect.logError("Import not submitted, trying again", cause)),
      Effect.retry(endlessly),
      Effect.forkIn(scope)
    )

  const unfinished = yield* store.unfinished
  yield* slots.restore(unfinished.map((job) => ({ ...job, hadSlot: job.status !== "queued" })))
  for (const job of unfinished) {
    const live = enter(job)
    if ((yield* slots.waiting(job.importId)) !== undefined) yield* waits(live)
  }
  yield* Effect.forEach(unfinished, (job) => submit(lives.get(job.importId)!), { discard: true })

  const begin = (request: StartRequest) =>
    slots
      .admit(
        request.owner,
        Effect.map(store.create(request), ({ created, job }) => {
          if (created) enter(job)
          return { job, entry: created ? job : undefined }
        })
      )
      .pipe(
        Effect.flatMap(
          Effect.fnUntraced(function* ({ entry, job }) {
            const live = lives.get(job.importId)
            if (entry === undefined || live === undefined) return { job, outcome: "already-running" as const }
            if ((yield* slots.waiting(job.importId)) === undefined) yield* hasSlot(live)
            else {
              yield* waits(live)
              yield* wakeWaiting
            }
            yield* submit(live)
            return { job: live.job, outcome: "started" as const }
          })
        ),
        // A row must not exist without anyone here knowing it.
        Effect.uninterruptible
      )

  const isRecent = (job: ImportJob): boolean =>
    job.status === "complete" &&
    // It ended for lack of games, not by its limit.
    job.imported < job.limit &&
    job.finishedAt !== null &&
    clock.currentTimeMillisUnsafe() - job.finishedAt < recentFor

  return {
    start: Effect.fn("GameImport.start")(function* (request) {
      const latest = yield* current(request.user, request.platform)
      const { job, outcome } =
        Option.isSome(latest) && !isFinal(latest.value.status)
          ? { job: latest.value, outcome: "already-running" as const }
          : Option.isSome(latest) && isRecent(latest.value)
            ? { job: latest.value, outcome: "recent" as const }
            : yield* begin(request)
      return { progress: yield* toProgress(job), outcome }
    }),
    progress: Effect.fn("GameImport.progress")(function* (user, platform) {
      const job = yield* current(user, platform)
      return Option.isSome(job) ? Option.some(yield* toProgress(job.value)) : Option.none()
    }),
    changes: (user, platform) =>
      Stream.paginate(
        undefined as Followed | undefined,
        Effect.fnUntraced(function* (followed) {
          if (followed === undefined) {
            const live = livesByUser.get(userKey(user, platform))
            const job = live === undefined ? yield* store.latest(user, platform) : Option.some(live.job)
            if (Option.isNone(job)) return [[], Option.none()]
            const progress = yield* toProgress(job.value)
            return [[progress], next({ live, progress })]
          }
          const { live, progress: last } = followed
          yield* Effect.sleep(changeInterval)
          for (;;) {
            const changed = live?.changed ?? Effect.never
            const job = live === undefined ? yield* store.get(last.importId) : Option.some(live.job)
            if (Option.isNone(job)) return [[], Option.none()]
            const progress = yield* toProgress(job.value)
            if (!Equal.equals(progress, last)) return [[progress], next({ live, progress })]
            // Estimates change by themselves, and an import that is not of this process has nobody to tell.
            yield* Effect.timeoutOption(changed, "2 seconds")
          }
        })
      ),
    cancel: Effect.fn("GameImport.cancel")(function* (user, platform) {
      const live = livesByUser.get(userKey(user, platform))
      if (live === undefined) {
        const job = yield* store.latest(user, platform)
        return Option.isSome(job) ? Option.some(yield* toProgress(job.value)) : Option.none()
      }
      yield* Deferred.succeed(live.cancelled, undefined)
      yield* Deferred.await(live.ended)
      return Option.some(yield* toProgress(live.job))
    }),
    list: Effect.gen(function* () {
      const { available, resting, running, waiting } = yield* slots.state
      const toProgresses = (ids: ReadonlyArray<string>) =>
        Effect.forEach(
          ids.flatMap((id) => lives.get(id) ?? []),
          (live) => toProgress(live.job)
        )
      const recent = yield* store.recent(recentImports)
      return {
        running: yield* toProgresses(running),
        queued: yield* toProgresses([...waiting.map(({ importId }) => importId), ...resting]),
        recent: yield* Effect.forEach(
          recent.filter((job) => isFinal(job.status)),
          toProgress
        ),
        slots: { total, available }
      }
    }).pipe(Effect.withSpan("GameImport.list"))
  }
})

/** Provides `GameImport`. */
export const layer = (
  options?: Options
): Layer.Layer<
  GameImport,
  SqlError.SqlError,
  ImportStore | GameStore | Lichess | ChessCom | WorkflowEngine.WorkflowEngine
> => Layer.effect(GameImport, make(options))

/**
 * Provides Effect's durable engine, embedded: its messages are in the service's own database, its runner is this process.
 * When it closes, running workflows are interrupted at once and stay unfinished.
 */
export const layerEngine: Layer.Layer<WorkflowEngine.WorkflowEngine, never, SqlClient.SqlClient> =
  ClusterWorkflowEngine.layer.pipe(
    Layer.provide(
      SingleRunner.layer({
        runnerStorage: "memory",
        // How many there are is limited by slots and queue; an entity that were not resident could not take its slot.
        shardingConfig: { entityTerminationTimeout: 0, maxResidentEntities: "unbounded" }
      })
    ),
    Layer.provide(Digest.layerWebCrypto),
    // The environment configures the service, not the engine inside it.
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))),
    Layer.orDie
  )

const GameImportWorkflow = Workflow.make("GameImport", {
  payload: { importId: Schema.String },
  idempotencyKey: ({ importId }) => importId
})

/** An unfinished import in this process. */
class Live {
  job: ImportJob
  /** Since when it has its slot in this process, and what it had looked at before. */
  begun: { readonly at: number; readonly checked: number } | undefined = undefined
  /** When it wants a slot again, while it has given its own back. */
  restsUntil: number | undefined = undefined
  /** Whether it has begun to fetch games. */
  working = false
  /** Counts the commits that brought it forward. */
  advances = 0
  checkpoint: CheckpointByPlatform[Platform] | undefined = undefined
  readonly cancelled = Deferred.makeUnsafe<void>()
  /** Its streams are closed and what they brought is stored. */
  readonly idle = Deferred.makeUnsafe<void>()
  readonly ended = Deferred.makeUnsafe<void>()
  private changing = Deferred.makeUnsafe<void>()

  constructor(job: ImportJob) {
    this.job = job
  }

  /** Waits for the next change. */
  get changed(): Effect.Effect<void> {
    return Deferred.await(this.changing)
  }

  /** Tells all who wait for a change. */
  wake(): void {
    const changing = this.changing
    this.changing = Deferred.makeUnsafe()
    Deferred.doneUnsafe(changing, Effect.void)
  }
}

type Outcome =
  | { readonly _tag: "Complete" }
  | { readonly _tag: "Cancelled" }
  | { readonly _tag: "Failed"; readonly error: string }

interface Followed {
  readonly live: Live | undefined
  readonly progress: ImportProgress
}

const next = (followed: Followed): Option.Option<Followed> =>
  isFinal(followed.progress.status) ? Option.none() : Option.some(followed)

const userKey = (user: string, platform: Platform): string => `${platform} ${user}`

const log = (
  { job }: Live,
  level: "Info" | "Warn" | "Error",
  event: string,
  message: string,
  annotations: Readonly<Record<string, unknown>>
): Effect.Effect<void> =>
  Effect.annotateLogs(Effect.logWithLevel(level)(message), {
    event,
    importId: job.importId,
    user: job.user,
    platform: job.platform,
    ...annotations
  })

const explain = (error: UpstreamError | UserNotFound | SqlError.SqlError): string =>
  // What a database says is for the log of its own error.
  error._tag === "SqlError" ? "the database is unavailable" : error.message

/** For what can only be given up together with the process. */
const endlessly = Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("10 seconds")])

/** Imports that have ended and are listed. */
const recentImports = 20
