/**
 * The stand-in of lichess.org: `GET /api/user/{name}`, `POST /api/users` and `GET /api/games/user/{name}`.
 *
 * It keeps the site's rules, the inconvenient ones included: the export answers crawlers and requests without
 * `User-Agent` with a 404 page, gives JSON only for the exact `Accept`, allows two streams per address with a text that
 * says one, frees a stream only when it is over or after an hour, and sends no `Retry-After` with 429.
 */
import type * as Faults from "./Faults.ts"
import * as Bodies from "./Bodies.ts"
import * as Calendar from "./Calendar.ts"
import * as Hash from "./Hash.ts"
import type { Fields, LichessGames } from "./LichessGames.ts"
import * as Reply from "./Reply.ts"
import * as Site from "./Site.ts"
import type { Latency } from "./Latency.ts"
import type { Account, World } from "./World.ts"

/** The calls of Lichess; `other` is any path it does not have. */
export type Endpoint = "user" | "users" | "games" | "other"

/** The rules of the site; each can be set. */
export interface Options {
  /** Exports at the same time per address. Defaults to 2. */
  readonly maxExports?: number | undefined
  /** Games a second of one export, evenly. Defaults to as many as are read; the site sends 20 to 30. */
  readonly gamesPerSecond?: number | undefined
  /** Whether look-ups cost credits, as on the site: 10,000 a day for users, 2,000 per 10 min and 30,000 a day for batches. Defaults to true. */
  readonly credits?: boolean | undefined
  /** What a look-up of one user costs times this: 1 at home, 3 from a data centre. Defaults to 1. */
  readonly addressFactor?: number | undefined
  /** Delays before the headers. Defaults to none. */
  readonly latency?: Partial<Readonly<Record<Endpoint, Latency>>> | undefined
}

/** Creates the stand-in. */
export const make = (
  world: World,
  games: LichessGames,
  faults: Faults.Faults<Endpoint>,
  offsetMillis: number,
  options: Options
): Site.Site<Endpoint> => {
  const slots = exportSlots(options.maxExports ?? 2)
  const factor = options.addressFactor ?? 1
  const userDay = credits("user.show.ip", 10_000, Calendar.dayMillis)
  const batchMinutes = credits("user.list.ip", 2000, 600_000)
  const batchDay = credits("user.list.ip.day", 30_000, Calendar.dayMillis)
  const charge = (limits: ReadonlyArray<Credits>, address: string, cost: number, nowMillis: number) =>
    options.credits === false ? undefined : firstRefusal(limits, address, cost, nowMillis)

  const user: Answer = (request, { users }, { nowMillis }) => {
    const refusal = charge([userDay], request.address, 2 * factor, nowMillis)
    if (refusal !== undefined) return tooMany(request, refusal)
    const account = world.account("lichess", users[0] ?? "")
    return account === undefined
      ? Reply.json(404, { error: "Not found" })
      : Reply.json(200, profile(account, account.timeline.count(nowMillis), true))
  }

  const users: Answer = (request, { users: names }, { nowMillis }) => {
    const refusal = charge([batchMinutes, batchDay], request.address, Math.floor(names.length / 4), nowMillis)
    if (refusal !== undefined) return tooMany(request, refusal)
    const found = new Map<string, unknown>()
    for (const name of names) {
      const account = world.account("lichess", name)
      if (account !== undefined) found.set(account.id, profile(account, account.timeline.count(nowMillis), false))
    }
    return Reply.json(200, [...found.values()])
  }

  const exported: Answer = (request, { users: [name = ""] }, { hits, nowMillis }) => {
    const account = world.account("lichess", name)
    const agent = Reply.header(request, "user-agent") ?? ""
    if (agent === "" || crawlers.test(agent) || account === undefined || account.state === "closed") {
      return notFound(request)
    }
    const release = slots.take(request.address, nowMillis)
    if (release === undefined) return Reply.json(429, { error: "Please only run 1 request(s) at a time" })

    const accept = Reply.header(request, "accept") ?? ""
    const asJson = accept === ndjson || accept.startsWith("application/json")
    const fields = fieldsOf(request.query)
    const played = account.games()
    const selection = select(played, games, request.query, nowMillis)
    return {
      status: 200,
      headers: {
        "content-type": asJson ? ndjson : "application/x-chess-pgn",
        "content-disposition": `attachment; filename=lichess_${account.name}_${Calendar.dateTag(nowMillis).replaceAll(".", "-")}.${asJson ? "json" : "pgn"}`,
        "x-accel-buffering": "no"
      },
      body: Bodies.stream({
        total: selection.total,
        next: selection.next,
        writer: asJson ? games.json(played, fields) : games.pgn(played, fields),
        faults: hits,
        gamesPerSecond: options.gamesPerSecond,
        close: release
      })
    }
  }

  const answers: Readonly<Record<Endpoint, Answer>> = { user, users, games: exported, other: notFound }

  return Site.make<Endpoint>({
    seed: Hash.combine(world.seed, 1),
    endpoints: ["user", "users", "games", "other"],
    exports: "games",
    route,
    faults,
    latency: options.latency ?? {},
    offsetMillis,
    fail: (fault) =>
      fault.kind === "too-many-requests"
        ? Reply.json(
            429,
            { error: "Too many requests. Try again later." },
            fault.retryAfterSeconds === undefined ? {} : { "retry-after": String(fault.retryAfterSeconds) }
          )
        : Site.failurePage(fault, "nginx"),
    answer: (request, routed, context) => {
      const answer = answers[routed.endpoint](request, routed, context)
      return { ...answer, headers: { ...commonHeaders, date: Calendar.httpDate(context.nowMillis), ...answer.headers } }
    }
  })
}

type Answer = Site.Options<Endpoint>["answer"]

const ndjson = "application/x-ndjson"

const crawlers =
  /googlebot|bingbot|yandexbot|baiduspider|ahrefsbot|semrushbot|petalbot|bytespider|undici|axios|curl|wget|okhttp|aiohttp|python-requests|python-httpx|java\/|go-http-client|libwww|scrapy/i

const commonHeaders = {
  server: "nginx",
  vary: "Origin",
  "access-control-allow-origin": "*",
  "permissions-policy": "interest-cohort=()",
  "strict-transport-security": "max-age=63072000; includeSubDomains; preload",
  "x-frame-options": "DENY"
}

const route = (request: Reply.Request): Site.Route<Endpoint> => {
  const path = request.path.slice(Math.max(0, request.path.indexOf("/api/")))
  const [, , first = "", second = "", third = "", rest] = path.split("/")
  if (rest === undefined) {
    if (request.method === "GET" && first === "user" && second !== "" && third === "") {
      return { endpoint: "user", users: [second.toLowerCase()] }
    }
    if (request.method === "GET" && first === "games" && second === "user" && third !== "") {
      return { endpoint: "games", users: [third.toLowerCase()] }
    }
    if (request.method === "POST" && first === "users" && second === "") {
      const names = request.body.replaceAll(/[\r\n]/g, "").split(",")
      return { endpoint: "users", users: names.slice(0, maxBatch).map((name) => name.trim().toLowerCase()) }
    }
  }
  return { endpoint: "other", users: [] }
}

const maxBatch = 300

const notFound = (request: Reply.Request): Reply.Answer =>
  (Reply.header(request, "accept") ?? "").startsWith("application/json")
    ? Reply.json(404, { error: "Not found" })
    : Reply.html(404, "Page not found • lichess.org", "Page not found!")

const tooMany = (request: Reply.Request, refusal: Refusal): Reply.Answer =>
  (Reply.header(request, "accept") ?? "").startsWith("application/json")
    ? Reply.json(429, { error: "Too many requests. Try again later.", ratelimit: refusal })
    : Reply.html(429, "Too many requests", "Too many requests. Try again later.")

const profile = (account: Account, games: number, complete: boolean): unknown => {
  const start = { id: account.id, username: account.name }
  if (account.state === "closed") return { ...start, disabled: true }
  const rated = Math.floor(games * 0.9)
  const share = (part: number) => ({
    games: Math.floor(games * part),
    rating: account.rating + Math.round(100 * part),
    rd: 45,
    prog: 0
  })
  const lastSeen = games === 0 ? account.from : account.timeline.at(games - 1)
  return {
    ...start,
    perfs: {
      ultraBullet: share(0.01),
      bullet: share(0.25),
      blitz: share(0.5),
      rapid: share(0.2),
      classical: { ...share(0.01), prov: true },
      correspondence: { ...share(0.01), prov: true },
      chess960: { ...share(0.005), prov: true },
      puzzle: share(0.3),
      storm: { runs: 12, score: 21 }
    },
    ...(account.title === undefined ? {} : { title: account.title }),
    ...(account.state === "banned" ? { tosViolation: true } : {}),
    createdAt: account.from - Calendar.dayMillis,
    seenAt: lastSeen,
    playTime: { total: games * 317, tv: 0 },
    ...(complete
      ? {
          url: `https://lichess.org/@/${account.name}`,
          count: {
            all: games,
            rated,
            draw: Math.floor(games * 0.08),
            loss: Math.floor(games * 0.46),
            win: games - Math.floor(games * 0.08) - Math.floor(games * 0.46),
            bookmark: 0,
            playing: 0,
            import: 0,
            me: 0
          }
        }
      : {})
  }
}

const fieldsOf = (query: URLSearchParams): Fields => {
  const flag = (name: string, otherwise: boolean): boolean => {
    const value = query.get(name)
    return value === null ? otherwise : value === "true" || value === "1"
  }
  return {
    moves: flag("moves", true),
    tags: flag("tags", true),
    clocks: flag("clocks", false),
    opening: flag("opening", false),
    pgnInJson: flag("pgnInJson", false),
    lastFen: flag("lastFen", false),
    division: flag("division", false)
  }
}

interface Selection {
  /** At least as many games as there are. */
  readonly total: number
  readonly next: () => number | undefined
}

const select = (account: Account, games: LichessGames, query: URLSearchParams, nowMillis: number): Selection => {
  const { timeline } = account
  const count = timeline.count(nowMillis)
  const bound = (name: string): number | undefined => {
    const value = query.get(name)
    return value === null || !/^\d{1,16}$/.test(value) ? undefined : Number(value)
  }
  const since = bound("since")
  const until = bound("until")
  const stated = Number.parseInt(query.get("max") ?? "", 10)
  const max = Number.isNaN(stated) ? Number.POSITIVE_INFINITY : Math.max(1, stated)
  const ascending = query.get("sort") === "dateAsc"
  const first = since === undefined ? 0 : timeline.firstFrom(since, count)
  const end = until === undefined ? count : timeline.firstFrom(until, count)
  const vs = query.get("vs")?.toLowerCase()
  const rated = query.get("rated")
  const perfTypes = query.get("perfType")?.split(",")
  const colour = query.get("color")
  const analysed = query.get("analysed")
  const filtered = vs !== undefined || rated !== null || perfTypes !== undefined || colour !== null
  // Only games that were begun in this run of the world can still be going on.
  const wanted = (index: number): boolean => {
    if (!filtered && timeline.at(index) < nowMillis - longestGame) return true
    const facts = games.facts(account, index)
    return (
      facts.lastMoveAt <= nowMillis &&
      (vs === undefined || facts.opponent === vs) &&
      (rated === null || String(facts.rated) === rated) &&
      (perfTypes === undefined || perfTypes.includes(facts.perf)) &&
      (colour === null || facts.colour === colour)
    )
  }
  let left = analysed === "true" ? 0 : max
  let index = ascending ? first : end - 1
  return {
    total: Math.min(max, Math.max(0, end - first)),
    next: () => {
      while (left > 0 && index >= first && index < end) {
        const current = index
        index += ascending ? 1 : -1
        if (wanted(current)) {
          left--
          return current
        }
      }
      return undefined
    }
  }
}

// Correspondence games take up to nine days.
const longestGame = 10 * Calendar.dayMillis

interface Refusal {
  readonly key: string
  readonly seconds: number
}

interface Credits {
  readonly refusal: (address: string, cost: number, nowMillis: number) => Refusal | undefined
  readonly spend: (address: string, cost: number, nowMillis: number) => void
}

/** So many credits per address in a window that begins with its first request. */
const credits = (key: string, limit: number, windowMillis: number): Credits => {
  const windows = new Map<string, { spent: number; readonly ends: number }>()
  const current = (address: string, nowMillis: number) => {
    const known = windows.get(address)
    if (known !== undefined && known.ends > nowMillis) return known
    if (windows.size >= maxAddresses) windows.clear()
    const window = { spent: 0, ends: nowMillis + windowMillis }
    windows.set(address, window)
    return window
  }
  return {
    refusal: (address, cost, nowMillis) => {
      const window = current(address, nowMillis)
      return window.spent + cost <= limit ? undefined : { key, seconds: Math.ceil((window.ends - nowMillis) / 1000) }
    },
    spend: (address, cost, nowMillis) => {
      current(address, nowMillis).spent += cost
    }
  }
}

const maxAddresses = 10_000

const firstRefusal = (
  limits: ReadonlyArray<Credits>,
  address: string,
  cost: number,
  nowMillis: number
): Refusal | undefined => {
  for (const limit of limits) {
    const refusal = limit.refusal(address, cost, nowMillis)
    if (refusal !== undefined) return refusal
  }
  for (const limit of limits) limit.spend(address, cost, nowMillis)
  return undefined
}

const exportSlots = (limit: number) => {
  interface Taken {
    count: number
    writtenAt: number
  }
  const byAddress = new Map<string, Taken>()
  return {
    /** Takes a stream's place and gives what frees it again, or nothing if all are taken. */
    take: (address: string, nowMillis: number): (() => void) | undefined => {
      const known = byAddress.get(address)
      // Forgotten an hour after the last one was taken, however many were never freed.
      const taken =
        known !== undefined && nowMillis - known.writtenAt < slotLifetime ? known : { count: 0, writtenAt: nowMillis }
      if (taken.count >= limit) return undefined
      if (byAddress.size >= maxAddresses) byAddress.clear()
      taken.count++
      taken.writtenAt = nowMillis
      byAddress.set(address, taken)
      return () => {
        taken.count = Math.max(0, taken.count - 1)
        if (taken.count === 0 && byAddress.get(address) === taken) byAddress.delete(address)
      }
    }
  }
}

const slotLifetime = 3_600_000
