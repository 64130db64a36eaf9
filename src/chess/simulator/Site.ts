/**
 * What both stand-ins share: counting, latency, and faults that take the place of an answer.
 */
import { Effect } from "effect"
import type * as Faults from "./Faults.ts"
import * as Hash from "./Hash.ts"
import * as Latency from "./Latency.ts"
import * as Reply from "./Reply.ts"

/** One stand-in. `Endpoint` names its calls. */
export interface Site<Endpoint extends string> {
  /**
   * Answers a request. `take` is given the answer in the same step that makes it, so that no interruption can come
   * before somebody is there to close its body.
   */
  readonly handle: <A>(request: Reply.Request, take: (reply: Reply.Reply) => A) => Effect.Effect<A>
  /** Adds a fault. */
  readonly inject: (fault: Faults.Fault<Endpoint>) => Effect.Effect<Faults.Injected>
  /** Removes all faults. */
  readonly clear: Effect.Effect<void>
  /** What has been asked so far. */
  readonly requests: Effect.Effect<Requests<Endpoint>>
  /** Counts a connection, at once; the function it gives says that it has closed. */
  readonly connectedUnsafe: () => () => void
}

/** What has been asked of a stand-in. */
export interface Requests<Endpoint extends string> {
  readonly total: number
  readonly byEndpoint: Readonly<Record<Endpoint, number>>
  /** Answers by status; connections reset before an answer count as 0. */
  readonly byStatus: Readonly<Record<number, number>>
  /** Exports being sent (Lichess), and the most there ever were at a time. */
  readonly exports: InFlight
  /** All other calls being answered, and the most there ever were at a time. */
  readonly others: InFlight
  /** Connections open (on sockets only), and the most there ever were. */
  readonly sockets: InFlight
}

/** How many there are, and the most there ever were. */
export interface InFlight {
  readonly now: number
  readonly max: number
}

/** The parts in which the sites differ. */
export interface Options<Endpoint extends string> {
  readonly seed: number
  readonly endpoints: ReadonlyArray<Endpoint>
  /** The endpoint that streams, counted apart. */
  readonly exports: Endpoint | undefined
  readonly route: (request: Reply.Request) => Route<Endpoint>
  readonly faults: Faults.Faults<Endpoint>
  readonly latency: Partial<Readonly<Record<Endpoint, Latency.Latency>>>
  /** Site time minus clock time. */
  readonly offsetMillis: number
  /** Answers at once. `inFlight` counts the calls other than exports, this one included. */
  readonly answer: (
    request: Reply.Request,
    route: Route<Endpoint>,
    context: { readonly nowMillis: number; readonly hits: ReadonlyArray<Faults.Hit>; readonly inFlight: number }
  ) => Reply.Answer
  /** The answer of a fault that takes the place of one. */
  readonly fail: (fault: Faults.Hit) => Reply.Answer
}

/** Which call a request is, and whom it is about. */
export interface Route<Endpoint extends string> {
  readonly endpoint: Endpoint
  readonly users: ReadonlyArray<string>
}

/** Creates a stand-in. */
export const make = <Endpoint extends string>(options: Options<Endpoint>): Site<Endpoint> => {
  let total = 0
  const byEndpoint = new Map<Endpoint, number>(options.endpoints.map((endpoint) => [endpoint, 0]))
  const byStatus = new Map<number, number>()
  const exports = gauge()
  const others = gauge()
  const sockets = gauge()

  const handle = <A>(request: Reply.Request, take: (reply: Reply.Reply) => A): Effect.Effect<A> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.clockWith((clock) => {
        const route = options.route(request)
        const number = total++
        byEndpoint.set(route.endpoint, (byEndpoint.get(route.endpoint) ?? 0) + 1)
        const inFlight = route.endpoint === options.exports ? exports : others
        const hits = options.faults.hits({ ...route, number, nowMillis: clock.currentTimeMillisUnsafe() })
        const latency = options.latency[route.endpoint]
        const delay =
          (latency === undefined ? 0 : Latency.sample(latency, Hash.combine(options.seed, number))) +
          hits.reduce((sum, hit) => sum + (hit.kind === "delay" ? (hit.delayMillis ?? 10_000) : 0), 0)
        const close = inFlight.open()

        const answer = (): Reply.Reply => {
          const failure = hits.find((hit) => replacing.has(hit.kind))
          const nowMillis = clock.currentTimeMillisUnsafe() + options.offsetMillis
          const reply =
            failure === undefined
              ? options.answer(request, route, { nowMillis, hits, inFlight: others.now() })
              : failure.kind === "reset"
                ? "reset"
                : options.fail(failure)
          const status = reply === "reset" ? 0 : reply.status
          byStatus.set(status, (byStatus.get(status) ?? 0) + 1)
          if (reply === "reset" || reply.body instanceof Uint8Array) {
            close()
            return reply
          }
          const { body } = reply
          return {
            ...reply,
            body: {
              next: body.next,
              close: () => {
                close()
                body.close()
              }
            }
          }
        }
        const wait = hits.some((hit) => hit.kind === "hang")
          ? Effect.never
          : delay > 0
            ? Effect.sleep(delay)
            : Effect.void
        return restore(wait).pipe(
          Effect.onInterrupt(() => Effect.sync(close)),
          Effect.andThen(Effect.sync(() => take(answer())))
        )
      })
    )

  return {
    handle,
    inject: options.faults.inject,
    clear: options.faults.clear,
    connectedUnsafe: sockets.open,
    requests: Effect.sync(() => ({
      total,
      // Every endpoint was given its zero when the counts were made.
      byEndpoint: Object.fromEntries(byEndpoint) as Record<Endpoint, number>,
      byStatus: Object.fromEntries(byStatus),
      exports: exports.read(),
      others: others.read(),
      sockets: sockets.read()
    }))
  }
}

const replacing: ReadonlySet<string> = new Set([
  "unavailable",
  "reset",
  "too-many-requests",
  "crawl-block",
  "challenge",
  "html",
  "code-zero"
])

const gauge = () => {
  let now = 0
  let max = 0
  return {
    now: () => now,
    read: (): InFlight => ({ now, max }),
    open: () => {
      now++
      max = Math.max(max, now)
      let open = true
      return () => {
        if (!open) return
        open = false
        now--
      }
    }
  }
}

/** The pages both sites answer a fault with. */
export const failurePage = (fault: Faults.Hit, server: string): Reply.Answer => {
  const headers: Record<string, string> =
    fault.retryAfterSeconds === undefined ? {} : { "retry-after": String(fault.retryAfterSeconds) }
  switch (fault.kind) {
    case "crawl-block":
      return Reply.text(403, "text/plain; charset=utf-8", "Blocked: Archive crawl was too heavy for this API.")
    case "challenge":
      return Reply.html(403, "Just a moment...", "Enable JavaScript and cookies to continue", {
        server: "cloudflare",
        "cf-mitigated": "challenge"
      })
    case "html":
      return Reply.html(200, "Maintenance", "We will be back soon.", { server })
    case "code-zero":
      return Reply.json(200, { code: 0, message: "Data provider not found for key ..." }, { server })
    default:
      return Reply.html(fault.status, `${fault.status} Service Temporarily Unavailable`, server, {
        server,
        ...headers
      })
  }
}
