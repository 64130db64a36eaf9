/**
 * `npm run bench:http`: `validate-user` of the chess service beside the service that one would write instead.
 *
 * Each server runs in a process of its own. The rounds are interleaved, every answer is checked, and the medians of the
 * rounds' ratios are judged. Four kinds of traffic: cached answers, answers that have to be asked for on either site
 * (5 ms away), and an outage, in which the circuit is open.
 *
 * `--rounds=7 --seconds=2` say how much is measured, `--only=cached,outage` what. Exits with 1 when a target is missed.
 */
import type { ChildProcess } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { nodeToFile, parsed, peakMiB, processorMillis, programs, startFlags, stop } from "../processes.ts"
import { load, postJson } from "./load.ts"

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "7" },
    seconds: { type: "string", default: "2" },
    connections: { type: "string", default: "64" },
    only: { type: "string" }
  }
})
const rounds = Number(values.rounds)
const millis = Number(values.seconds) * 1_000
const connections = Number(values.connections)

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url))

interface Server {
  readonly name: string
  readonly child: ChildProcess
  readonly url: string
}

const urlOf = (text: string): string | undefined => {
  const line = parsed(text) as { url?: string; annotations?: { url?: string } } | undefined
  return line?.annotations?.url ?? line?.url
}

const directory = await mkdtemp(join(tmpdir(), "bench-http-"))
const running: Array<ChildProcess> = []

const start = async (name: string, args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}) => {
  const { child, found } = await nodeToFile(join(directory, `${running.length}.log`), args, env, urlOf)
  running.push(child)
  return { name, child, url: found }
}

interface Sample {
  readonly requestsPerSecond: number
  readonly p50: number
  readonly p99: number
  readonly processorMicros: number
}

const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN

let users = 0
let failures = 0

try {
  const upstream = await start("upstream", [file("servers/upstream.ts"), "5"])
  const control = async (broken: boolean) => {
    const response = await fetch(`${upstream.url}/control`, { method: "POST", body: JSON.stringify({ broken }) })
    return ((await response.json()) as { requests: number }).requests
  }
  const env = {
    PORT: "0",
    LICHESS_BASE_URL: upstream.url,
    CHESSCOM_BASE_URL: `${upstream.url}/pub`,
    LICHESS_RATE_CAPACITY: "100000",
    LICHESS_RATE_PER_SECOND: "100000",
    CHESSCOM_RATE_CAPACITY: "100000",
    CHESSCOM_RATE_PER_SECOND: "100000",
    CHESSCOM_PARALLEL_CALLS: String(connections),
    POOL_CONNECTIONS: String(2 * connections),
    POOL_CONNECTIONS_PER_HOST: String(connections),
    RATE_LIMIT_ENABLED: "false",
    LOG_LEVEL: "Info",
    LOG_FORMAT: "json"
  }
  const database = (name: string) => ({ ...env, DATABASE_URL: `file:${join(directory, name)}` })
  const ours = await start("effect-resilience", [...startFlags, programs.service], database("ours.db"))
  const bare = await start("its handlers alone", [...startFlags, file("servers/bare.ts")], database("bare.db"))
  const fastify = await start("Fastify", [file("servers/fastify.ts")], { UPSTREAM_URL: upstream.url })
  const plain = await start("node:http, no work", [file("servers/node.ts")])

  interface Traffic {
    readonly title: string
    readonly servers: ReadonlyArray<Server>
    readonly platform: string
    readonly user: () => string
    readonly status: number
    readonly broken: boolean
  }
  const kept = () => "kept-user"
  const fresh = () => `user-${users++}`
  const both = [ours, fastify]
  const traffic: Readonly<Record<string, Traffic>> = {
    cached: {
      title: "answers that are cached",
      servers: [ours, bare, fastify, plain],
      platform: "lichess",
      user: kept,
      status: 200,
      broken: false
    },
    "chess.com": {
      title: "new users on Chess.com",
      servers: both,
      platform: "chess.com",
      user: fresh,
      status: 200,
      broken: false
    },
    lichess: {
      title: "new users on Lichess",
      servers: both,
      platform: "lichess",
      user: fresh,
      status: 200,
      broken: false
    },
    outage: {
      title: "an outage, new users on Chess.com",
      servers: both,
      platform: "chess.com",
      user: fresh,
      status: 503,
      broken: true
    }
  }

  const measure = async (server: Server, { platform, status, user }: Traffic, duration: number): Promise<Sample> => {
    const before = await processorMillis(server.child.pid)
    const measured = await load({
      url: server.url,
      connections,
      millis: duration,
      next: () => postJson(server.url, "/api/v1/validate-user", JSON.stringify({ user_id: user(), platform })),
      right: (got, body) => got === status && (status !== 200 || body.includes('"exists":true'))
    })
    const after = await processorMillis(server.child.pid)
    const requests = measured.statuses.get(status) ?? Number.NaN
    return { ...measured, processorMicros: ((after - before) * 1_000) / requests }
  }

  const measured = new Map<string, ReadonlyMap<Server, ReadonlyArray<Sample>>>()
  for (const name of values.only?.split(",") ?? Object.keys(traffic)) {
    const kind = traffic[name]
    if (kind === undefined) throw new Error(`There is no traffic ${name}`)
    await control(kind.broken)
    for (const server of kind.servers) await measure(server, kind, millis)
    const samples = new Map(kind.servers.map((server) => [server, [] as Array<Sample>]))
    for (let round = 0; round < rounds; round++) {
      for (const server of kind.servers) samples.get(server)?.push(await measure(server, kind, millis))
    }
    measured.set(name, samples)
    console.log(`\n${kind.title}, ${connections} connections\n`)
    console.log("                          requests/s    p50 ms    p99 ms    processor µs a request")
    for (const [server, taken] of samples) {
      const of = (field: keyof Sample) => median(taken.map((sample) => sample[field]))
      console.log(
        `${server.name.padEnd(22)}${of("requestsPerSecond").toFixed(0).padStart(14)}${of("p50").toFixed(2).padStart(10)}` +
          `${of("p99").toFixed(2).padStart(10)}${of("processorMicros").toFixed(0).padStart(26)}`
      )
    }
  }

  const peaks = new Map<Server, number>()
  for (const server of both) peaks.set(server, await peakMiB(server.child.pid))

  const ratio = (name: string, field: keyof Sample, against: Server): number | undefined => {
    const samples = measured.get(name)
    const [mine, theirs] = [samples?.get(ours), samples?.get(against)]
    return mine === undefined || theirs === undefined
      ? undefined
      : median(mine.map((sample, round) => sample[field] / (theirs[round]?.[field] ?? Number.NaN)))
  }

  console.log("\ntargets\n")
  const judge = (what: string, got: number | undefined, least: number, most: number) => {
    if (got === undefined) return
    const met = got >= least && got <= most
    if (!met) failures++
    const bound = least > 0 ? `at least ${least} x` : `at most ${most} x`
    console.log(`${what.padEnd(58)}${got.toFixed(2).padStart(8)} x   ${bound.padEnd(16)} ${met ? "met" : "MISSED"}`)
  }
  judge("cached, requests of its handlers alone", ratio("cached", "requestsPerSecond", bare), 0.75, Infinity)
  judge("cached, requests of Fastify's", ratio("cached", "requestsPerSecond", fastify), 0.85, Infinity)
  judge("new on Chess.com, requests of Fastify's", ratio("chess.com", "requestsPerSecond", fastify), 0.65, Infinity)
  judge("new on Chess.com, p99 of Fastify's", ratio("chess.com", "p99", fastify), 0, 2)
  judge("new on Lichess, requests of Fastify's", ratio("lichess", "requestsPerSecond", fastify), 1.5, Infinity)
  judge("outage, requests of Fastify's", ratio("outage", "requestsPerSecond", fastify), 1.3, Infinity)
  judge("peak memory of Fastify's", (peaks.get(ours) ?? 0) / (peaks.get(fastify) ?? Number.NaN), 0, 1.5)
  for (const [{ name }, peak] of peaks) console.log(`  ${name} took at most ${peak.toFixed(0)} MiB`)
} finally {
  for (const child of running.toReversed()) await stop(child)
  await rm(directory, { recursive: true, force: true })
}
process.exitCode = failures === 0 ? 0 : 1
