/**
 * Asks Chess.com whether users exist and for their games, a month at a time.
 *
 * Requests go one after another: serial access is not limited there, parallel access may be. A month that has not changed
 * since it was last read is told by its ETag and not sent again; its dates are in a form of their own and are not read.
 *
 * Policies are those of `Upstream`. A body is at most 64 MiB, unpacked. What is gone for ever (410) is remembered and not
 * asked for again, up to 10,000 of it.
 */
import { Context, Effect, Layer, Result, Schema, type Scope, type Stream } from "effect"
import type { CircuitBreaker } from "effect-resilience"
import { type HttpClient, HttpClientRequest } from "effect/http"
import * as ChessComGame from "./ChessComGame.ts"
import type { GameBatch } from "./domain/Game.ts"
import type { UserStatus } from "./domain/UserStatus.ts"
import * as Upstream from "./Upstream.ts"
import * as UpstreamClient from "./UpstreamClient.ts"
import { type UpstreamError, UserNotFound } from "./UpstreamError.ts"

/** Chess.com. */
export class ChessCom extends Context.Service<
  ChessCom,
  {
    /** Asks whether a user exists. */
    readonly userStatus: (user: string) => Effect.Effect<UserStatus, UpstreamError>
    /** The months in which a user has played, newest first. */
    readonly archives: (user: string) => Effect.Effect<ReadonlyArray<Month>, UpstreamError | UserNotFound>
    /** The games of a month, newest first, unless the month is still what it was when it had this ETag. */
    readonly month: (query: MonthQuery) => Effect.Effect<MonthAnswer, UpstreamError | UserNotFound>
    /** Fails if a question asked now would be refused: for those who have to wait before they can ask it. */
    readonly check: Effect.Effect<void, UpstreamError>
    readonly state: Effect.Effect<State>
    /** The changes of the circuit from now on. */
    readonly transitions: Stream.Stream<CircuitBreaker.Transition>
  }
>()("effect-resilience/chess/ChessCom") {}

/** A month, as Chess.com counts them. */
export interface Month {
  readonly year: number
  /** 1 to 12. */
  readonly month: number
}

/** Which month of whom. */
export interface MonthQuery {
  readonly user: string
  readonly month: Month
  /** What the month had when it was last read. */
  readonly etag?: string | undefined
}

/** What there is in a month. */
export type MonthAnswer =
  | { readonly _tag: "NotModified" }
  | { readonly _tag: "Games"; readonly etag: string | undefined; readonly batch: GameBatch }

/** Chess.com as seen from here at one moment. */
export type State = Upstream.State

/** Where Chess.com is, who asks, and the numbers. */
export interface Options extends Upstream.Options {
  /** Defaults to https://api.chess.com/pub. */
  readonly baseUrl?: string | undefined
  /** How to reach who runs this service: a mail address or a web page. Defaults to the page of this package. */
  readonly contact?: string | undefined
  /** The largest body, in bytes, before and after decompression. Defaults to 64 MiB. */
  readonly maxBodyBytes?: number | undefined
}

/** Creates the client of Chess.com. Options that make no sense are a defect, not an error. */
export const make = Effect.fnUntraced(function* (
  options: Options = {}
): Effect.fn.Return<ChessCom["Service"], never, HttpClient.HttpClient | Scope.Scope> {
  const client = yield* UpstreamClient.make({
    platform: "chess.com",
    baseUrl: options.baseUrl ?? "https://api.chess.com/pub",
    userAgent: UpstreamClient.userAgent(options.contact),
    maxBodyBytes: options.maxBodyBytes
  })
  const upstream = yield* Upstream.make("chess.com", {
    ...options,
    pauses: options.pauses ?? ["30 seconds", "60 seconds", "120 seconds", "300 seconds"]
  })
  const gone = new Set<string>()

  const fault = (detail: string, answer: UpstreamClient.Answer) => client.unavailable("body", detail, answer)

  // Sends the request once. Answers with what the body holds, or with what instead of a body the status means.
  const attempt = Effect.fnUntraced(function* <A>(path: string, decode: Decode<A>, etag: string | undefined) {
    const answer = yield* client.send(
      HttpClientRequest.get(client.url(path)).pipe(
        HttpClientRequest.setHeaders({
          accept: "application/json",
          "accept-encoding": "gzip",
          ...(etag === undefined ? {} : { "if-none-match": etag })
        })
      )
    )
    switch (answer.status) {
      case 200: {
        const body = decode(answer.body)
        if (Result.isFailure(body)) return yield* fault(describeFault(answer.body), answer)
        return { _tag: "Found" as const, body: body.success, etag: answer.headers["etag"] }
      }
      case 304:
        return etag === undefined ? yield* fault("not modified, but since nothing", answer) : notModified
      case 404:
        return isNotFound(answer.body) ? missing : yield* fault(describeFault(answer.body), answer)
      case 410:
        if (gone.size >= maxGone) gone.clear()
        gone.add(path)
        return missing
      default:
        return yield* client.unavailable("status", `HTTP ${answer.status}`, answer)
    }
  })

  const ask = <A>(user: string, rest: string, decode: Decode<A>, etag?: string) =>
    Effect.suspend(() => {
      // Another case of letters would be answered with a redirect.
      const path = `/player/${encodeURIComponent(user.toLowerCase())}${rest}`
      if (gone.has(path)) return Effect.succeed(missing)
      // A profile is a few hundred bytes, a month up to some megabytes.
      return (rest === "" ? upstream.call : upstream.download)(attempt(path, decode, etag))
    })

  const userNotFound = (user: string) => new UserNotFound({ platform: "chess.com", user })

  const userStatus = Effect.fn("ChessCom.userStatus")(function* (user: string) {
    const found = yield* ask(user, "", decodeProfile)
    if (found._tag !== "Found") return "unknown"
    return found.body.status?.startsWith("closed") === true ? "closed" : "active"
  })

  const archives = Effect.fn("ChessCom.archives")(function* (user: string) {
    const found = yield* ask(user, "/games/archives", decodeArchives)
    return found._tag === "Found" ? monthsOf(found.body.archives) : yield* userNotFound(user)
  })

  const month = Effect.fn("ChessCom.month")(function* (
    query: MonthQuery
  ): Effect.fn.Return<MonthAnswer, UpstreamError | UserNotFound> {
    const { month, year } = query.month
    const path = `/games/${year}/${String(month).padStart(2, "0")}`
    const found = yield* ask(query.user, path, decodeMonth, query.etag)
    if (found._tag === "Missing") return yield* userNotFound(query.user)
    if (found._tag === "NotModified") return found
    return { _tag: "Games", etag: found.etag, batch: ChessComGame.decodeGames(found.body.games) }
  })

  return {
    userStatus,
    archives,
    month,
    check: upstream.check,
    state: upstream.state,
    transitions: upstream.transitions
  }
})

/** Provides `ChessCom`. */
export const layer = (options: Options = {}): Layer.Layer<ChessCom, never, HttpClient.HttpClient> =>
  Layer.effect(ChessCom, make(options))

type Decode<A> = (body: string) => Result.Result<A, unknown>

const missing = { _tag: "Missing" } as const
const notModified = { _tag: "NotModified" } as const
const maxGone = 10_000

const decodeProfile = Schema.decodeUnknownResult(
  Schema.fromJsonString(Schema.Struct({ username: Schema.String, status: Schema.optionalKey(Schema.String) }))
)

const decodeArchives = Schema.decodeUnknownResult(
  Schema.fromJsonString(Schema.Struct({ archives: Schema.Array(Schema.String) }))
)

const decodeMonth = Schema.decodeUnknownResult(
  Schema.fromJsonString(Schema.Struct({ games: Schema.Array(Schema.Unknown) }))
)

const decodeMessage = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Struct({ message: Schema.String })))

// A provider of theirs that is down is also "not found", and heals.
const isNotFound = (body: string): boolean => {
  const decoded = decodeMessage(body)
  return Result.isSuccess(decoded) && !decoded.success.message.startsWith("Data provider")
}

const describeFault = (body: string): string => {
  const decoded = decodeMessage(body)
  if (Result.isSuccess(decoded)) return decoded.success.message.slice(0, 200)
  return body.trimStart().startsWith("<") ? "a page instead of data" : "not the data that was asked for"
}

const monthsOf = (urls: ReadonlyArray<string>): ReadonlyArray<Month> =>
  urls
    .flatMap((url): ReadonlyArray<Month> => {
      const match = /\/games\/(\d{4})\/(0[1-9]|1[0-2])$/.exec(url)
      return match === null ? [] : [{ year: Number(match[1]), month: Number(match[2]) }]
    })
    .sort((a, b) => b.year - a.year || b.month - a.month)
