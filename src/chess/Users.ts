/**
 * Says whether a user exists on a chess site.
 *
 * Both answers, yes and no, are kept for a while; failures are not. Whoever asks for a user that is already being
 * looked up waits for that look-up, and nobody waits longer than the deadline, retries and queues included. What keeps a
 * site from being hammered (rate limit, circuit, batches) is in its client, so it holds for imports too.
 *
 * While the circuit of a site is not closed, one look-up at a time finds out whether the site is back. The others are
 * refused at once: they do not wait behind it for a site that does not answer.
 */
import { Context, Duration, Effect, Layer } from "effect"
import { Bulkhead, Cache, Deadline } from "effect-resilience"
import { ChessCom } from "./ChessCom.ts"
import { displayName, type Platform } from "./domain/Platform.ts"
import { toId, type UserName } from "./domain/UserName.ts"
import type { UserStatus } from "./domain/UserStatus.ts"
import { Lichess } from "./Lichess.ts"
import { type UpstreamError, UpstreamTimeout, UpstreamUnavailable } from "./UpstreamError.ts"

/** What is said about a user. */
export interface Validation {
  readonly exists: boolean
  readonly message: string
}

/** The numbers of the service, each with its default. */
export interface Options {
  /** How long an answer is kept. Defaults to 300 seconds. */
  readonly timeToLive?: Duration.Input | undefined
  /** How many answers are kept. Defaults to 10,000. */
  readonly capacity?: number | undefined
  /** The longest a validation takes. Defaults to 25 seconds. */
  readonly deadline?: Duration.Input | undefined
  /** Look-ups on Chess.com at the same time: as many as its client sends. Defaults to 1. */
  readonly chessComParallelCalls?: number | undefined
  /**
   * The longest wait for a turn on Chess.com. What it leaves of the deadline must be enough for an attempt: one that the
   * deadline cuts short says nothing about the site, and its circuit would never open. Defaults to 10 seconds.
   */
  readonly maxWait?: Duration.Input | undefined
}

/** Validates users of both sites. */
export class Users extends Context.Service<
  Users,
  {
    /** Says whether the user exists, in a sentence that names the user as the caller did. */
    readonly validate: (options: {
      readonly user: UserName
      readonly platform: Platform
    }) => Effect.Effect<Validation, UpstreamError>
    /** Counts what is kept, and what was answered how. */
    readonly stats: Effect.Effect<Cache.Statistics>
  }
>()("effect-resilience/chess/Users") {}

/** Builds the service. */
export const make = Effect.fnUntraced(function* (options: Options = {}) {
  const deadline = Duration.fromInputUnsafe(options.deadline ?? "25 seconds")
  const lichess = yield* Lichess
  const chessCom = yield* ChessCom
  const turns = yield* Bulkhead.make({
    maxConcurrent: options.chessComParallelCalls ?? 1,
    maxQueued: 1_000,
    maxWait: options.maxWait ?? "10 seconds"
  })

  // Lichess is asked for all who wait in one request; on Chess.com each has to wait for a turn, unless that is in vain.
  const inTurn = (user: string) =>
    chessCom.check.pipe(
      Effect.andThen(turns.execute(chessCom.userStatus(user))),
      Effect.catchTag("BulkheadFull", ({ waiting }) =>
        Effect.fail(
          new UpstreamUnavailable({
            platform: "chess.com",
            reason: "overloaded",
            detail: `${waiting} look-ups are waiting`
          })
        )
      )
    )

  const ask = { lichess: lichess.userStatus, "chess.com": inTurn }

  const lookup = (key: Key): Effect.Effect<UserStatus, UpstreamError> => {
    const { platform, user } = fromKey(key)
    // Whoever joins it waits no longer either. It has no other deadline: a shared look-up is nobody's own.
    return within(deadline, platform, ask[platform](user))
  }

  const cache = yield* Cache.make({
    lookup,
    capacity: options.capacity ?? 10_000,
    timeToLive: options.timeToLive ?? "300 seconds",
    onHit: (key: Key) => Effect.annotateLogs(Effect.logInfo("Cache hit"), { event: "users.hit", ...fromKey(key) }),
    onJoin: (key: Key) =>
      Effect.annotateLogs(Effect.logInfo("Waiting for an identical request"), { event: "users.join", ...fromKey(key) })
  })

  const validate = Effect.fn("Users.validate")(function* (query: {
    readonly user: UserName
    readonly platform: Platform
  }): Effect.fn.Return<Validation, UpstreamError> {
    const status = yield* cache.get(toKey(query.platform, toId(query.user)))
    return { exists: status !== "unknown", message: sentence(query.user, query.platform, status) }
  })

  return Users.of({ validate, stats: cache.statistics })
})

/** Provides `Users`. */
export const layer = (options?: Options): Layer.Layer<Users, never, Lichess | ChessCom> =>
  Layer.effect(Users, make(options))

const sentence = (user: UserName, platform: Platform, status: UserStatus): string => {
  switch (status) {
    case "active":
      return `User '${user}' exists on ${displayName(platform)}`
    case "closed":
      return `User '${user}' exists on ${displayName(platform)}, but the account is closed`
    case "unknown":
      return `User '${user}' not found on ${displayName(platform)}`
  }
}

// Neither site allows a slash in a name.
type Key = `${Platform}/${string}`

const toKey = (platform: Platform, user: string): Key => `${platform}/${user}`

const fromKey = (key: Key): { readonly platform: Platform; readonly user: string } =>
  key.startsWith("lichess/")
    ? { platform: "lichess", user: key.slice("lichess/".length) }
    : { platform: "chess.com", user: key.slice("chess.com/".length) }

const within = <A>(
  deadline: Duration.Duration,
  platform: Platform,
  self: Effect.Effect<A, UpstreamError>
): Effect.Effect<A, UpstreamError> =>
  Deadline.within(self, deadline).pipe(
    Effect.catchTag("DeadlineExceeded", () => Effect.fail(new UpstreamTimeout({ platform, after: deadline })))
  )
