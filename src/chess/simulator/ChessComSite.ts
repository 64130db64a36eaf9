/**
 * The stand-in of Chess.com's Published-Data API: a player's profile, archives, and months as JSON or PGN.
 *
 * It keeps the site's rules: 403 without a `User-Agent`, 301 from names that are not lower case, 429 only for requests
 * at the same time, weak ETags with 304, gzip for those who ask, months without games left out of the archives, and
 * closed accounts that answer 200.
 */
import { Buffer } from "node:buffer"
import { createHash } from "node:crypto"
import { gzipSync } from "node:zlib"
import * as Bodies from "./Bodies.ts"
import * as Calendar from "./Calendar.ts"
import type { ChessComGames } from "./ChessComGames.ts"
import * as Faults from "./Faults.ts"
import * as Hash from "./Hash.ts"
import type { Latency } from "./Latency.ts"
import * as Reply from "./Reply.ts"
import * as Site from "./Site.ts"
import type { Account, World } from "./World.ts"

/** The calls of Chess.com; `other` is any path this stand-in does not have. */
export type Endpoint = "player" | "archives" | "month" | "other"

/** The rules of the site; each can be set. */
export interface Options {
  /** Requests at the same time before 429. Defaults to 1: serial access is what the site promises. */
  readonly maxInFlight?: number | undefined
  /** Delays before the headers. Defaults to none. */
  readonly latency?: Partial<Readonly<Record<Endpoint, Latency>>> | undefined
}

/** Creates the stand-in. */
export const make = (
  world: World,
  games: ChessComGames,
  faults: Faults.Faults<Endpoint>,
  offsetMillis: number,
  options: Options
): Site.Site<Endpoint> => {
  const maxInFlight = options.maxInFlight ?? 1

  const answer: Answer = (request, _route, context) => {
    if ((Reply.header(request, "user-agent") ?? "") === "") {
      return Reply.html(403, "403 Forbidden", "Please set a User-Agent with a way to contact you.")
    }
    if (context.inFlight > maxInFlight) return tooMany({})
    const match = paths.exec(request.path)
    if (match === null || request.method !== "GET") {
      return error(404, "An internal error has occurred. Please contact Chess.com Developers for further help.")
    }
    const [, before = "", name = "", rest = ""] = match
    const id = name.toLowerCase()
    if (name !== id) {
      return Reply.text(301, "text/html; charset=utf-8", "", {
        location: `${request.origin}${before}/pub/player/${id}${rest}`
      })
    }
    const account = world.account("chess.com", id)
    if (account === undefined) return error(404, `User "${id}" not found.`)
    if (rest === "") return cached(request, context.hits, JSON.stringify(profile(account, context.nowMillis)))
    if (rest === "/games/archives") {
      const months = account.timeline.months(account.timeline.count(context.nowMillis))
      const archives = months.map(
        ({ month, year }) => `https://api.chess.com/pub/player/${id}/games/${year}/${Calendar.pad(month)}`
      )
      return cached(request, context.hits, JSON.stringify({ archives }))
    }
    const [, , year, month, form] = rest.split("/")
    return monthly(request, account, Number(year), Number(month), form === "pgn", context)
  }

  const monthly = (
    request: Reply.Request,
    account: Account,
    year: number,
    month: number,
    asPgn: boolean,
    context: Parameters<Answer>[2]
  ): Reply.Answer => {
    const { timeline } = account
    if (month < 1 || month > 12 || Calendar.monthStart(year, month) > context.nowMillis) {
      return error(404, "Date cannot be set in the future")
    }
    const count = timeline.count(context.nowMillis)
    const first = timeline.firstFrom(Calendar.monthStart(year, month), count)
    const end = timeline.firstFrom(Calendar.monthStart(year, month + 1), count)
    // What a month holds follows from this, so its tag can be known without writing it.
    const changes = context.hits
      .filter((hit) => Faults.isGameFault(hit.kind))
      .map(({ every, kind }) => `${kind}${every}`)
    const version = `${world.seed}/${account.id}/${account.oddities}/${year}/${month}/${first}/${end}/${asPgn}/${changes.join()}`
    const tag = tagOf(request, context.hits, version)
    if (tag.matches) return notModified(tag.value)

    const played = account.games()
    const write = function* () {
      for (let index = first; index < end; index++) yield asPgn ? games.pgn(played, index) : games.json(played, index)
    }
    const written = [...Bodies.withGameFaults(write(), end - first, context.hits)]
    const content = asPgn ? written.filter((pgn) => pgn !== "").join("\n\n") : `{"games":[${written.join(",")}]}`
    return encoded(request, context.hits, content, end - first, {
      etag: tag.value,
      ...(asPgn
        ? {
            "content-type": "application/vnd.chess-pgn; charset=utf-8",
            "content-disposition": `attachment; filename="ChessCom_${account.id}_${year}${Calendar.pad(month)}.pgn"`
          }
        : {})
    })
  }

  return Site.make<Endpoint>({
    seed: Hash.combine(world.seed, 2),
    endpoints: ["player", "archives", "month", "other"],
    exports: undefined,
    route,
    faults,
    latency: options.latency ?? {},
    offsetMillis,
    fail: (fault) =>
      fault.kind === "too-many-requests"
        ? tooMany(fault.retryAfterSeconds === undefined ? {} : { "retry-after": String(fault.retryAfterSeconds) })
        : Site.failurePage(fault, "cloudflare"),
    answer: (request, routed, context) => {
      const reply = answer(request, routed, context)
      return { ...reply, headers: { ...commonHeaders(context.nowMillis), ...reply.headers } }
    }
  })
}

type Answer = Site.Options<Endpoint>["answer"]

const paths = /^(.*)\/pub\/player\/([^/]+?)(|\/games\/archives|\/games\/\d{4}\/\d{2}(?:\/pgn)?)\/?$/

const route = (request: Reply.Request): Site.Route<Endpoint> => {
  const match = paths.exec(request.path)
  if (match === null) return { endpoint: "other", users: [] }
  const [, , name = "", rest = ""] = match
  return {
    endpoint: rest === "" ? "player" : rest === "/games/archives" ? "archives" : "month",
    users: [name.toLowerCase()]
  }
}

const commonHeaders = (nowMillis: number) => ({
  server: "cloudflare",
  date: Calendar.httpDate(nowMillis),
  "cf-cache-status": "MISS",
  "cache-control": "public, max-age=60",
  vary: "Accept-Encoding",
  "access-control-allow-origin": "*",
  "strict-transport-security": "max-age=63072000; includeSubDomains; preload"
})

const error = (status: number, message: string): Reply.Answer =>
  Reply.text(status, "application/json; charset=utf-8", JSON.stringify({ code: 0, message }))

const tooMany = (headers: Readonly<Record<string, string>>): Reply.Answer =>
  Reply.text(
    429,
    "application/json; charset=utf-8",
    JSON.stringify({ code: 0, message: "Too many requests. Please make one request at a time." }),
    headers
  )

const tagOf = (
  request: Reply.Request,
  hits: ReadonlyArray<Faults.Hit>,
  version: string
): { readonly value: string; readonly matches: boolean } => {
  const unstable = hits.find((hit) => hit.kind === "unstable-etag")
  const hash = createHash("md5")
    .update(unstable === undefined ? version : `${version}${unstable.bits}`)
    .digest("hex")
  const asked = Reply.header(request, "if-none-match")
  const matches = asked !== undefined && asked.split(",").some((tag) => tag.trim().replace(/^W\//, "") === `"${hash}"`)
  return { value: `W/"${hash}"`, matches }
}

const notModified = (etag: string): Reply.Answer => ({ status: 304, headers: { etag }, body: new Uint8Array() })

const cached = (request: Reply.Request, hits: ReadonlyArray<Faults.Hit>, content: string): Reply.Answer => {
  const tag = tagOf(request, hits, content)
  return tag.matches ? notModified(tag.value) : encoded(request, hits, content, 0, { etag: tag.value })
}

const encoded = (
  request: Reply.Request,
  hits: ReadonlyArray<Faults.Hit>,
  content: string,
  games: number,
  headers: Readonly<Record<string, string>>
): Reply.Answer => {
  const zipped = /\bgzip\b/.test(Reply.header(request, "accept-encoding") ?? "")
  const plain = Buffer.from(content)
  const bytes = zipped ? gzipSync(plain, { level: 3 }) : plain
  const changes = hits.filter(Bodies.changesBytes)
  const tooLong = changes.some((hit) => hit.kind === "wrong-length")
  const shortened = changes.some((hit) => hit.kind === "end-early" || hit.kind === "truncated-gzip")
  // As on the site, a length is stated for plain bodies only.
  const length = tooLong ? bytes.length + 512 : zipped || shortened ? undefined : bytes.length
  return {
    status: 200,
    headers: {
      "content-type": "application/json; charset=utf-8",
      ...(length === undefined ? {} : { "content-length": String(length) }),
      ...(zipped ? { "content-encoding": "gzip" } : {}),
      ...headers
    },
    body: Bodies.bytes(bytes, games, changes)
  }
}

const profile = (account: Account, nowMillis: number): unknown => {
  const count = account.timeline.count(nowMillis)
  const online = count === 0 ? account.from : account.timeline.at(count - 1)
  return {
    player_id: 1_000_000 + (account.hash % 300_000_000),
    "@id": `https://api.chess.com/pub/player/${account.id}`,
    url: `https://www.chess.com/member/${account.name}`,
    username: account.id,
    ...(account.title === undefined ? {} : { title: account.title }),
    followers: account.hash % 900,
    country: "https://api.chess.com/pub/country/XX",
    last_online: Math.floor(online / 1000),
    joined: Math.floor(account.from / 1000) - 86_400,
    status: account.state === "open" ? "basic" : account.state === "closed" ? "closed" : "closed:fair_play_violations",
    is_streamer: false,
    verified: false,
    league: "Crystal",
    streaming_platforms: []
  }
}
