/**
 * `npm run bench:hostile`: what polite callers notice while others attack the service.
 *
 * The service runs in a process of its own, started as `npm start` starts it, and each attack in another. Meanwhile eight
 * polite callers validate users over connections that they keep, and measure how long that takes. After the attacks the
 * service has to let go of every connection. `--seconds=20` says how long each attack lasts, `--only=idle,deaf` which.
 * Exits with 1 when a polite caller is refused or waits for longer than a second, when the memory grows past the limit, or
 * when connections are left.
 */
import { mkdtemp, readdir, rm } from "node:fs/promises"
import { Agent, request } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { listening, node, onLine, parsed, peakMiB, programs, residentMiB, startFlags, stop } from "../processes.ts"
import { attacks, type Outcome } from "./attacks.ts"

const { values } = parseArgs({
  options: { seconds: { type: "string", default: "20" }, only: { type: "string" } }
})
const seconds = Number(values.seconds)
const chosen = values.only?.split(",") ?? Object.keys(attacks)
const unknown = chosen.filter((name) => attacks[name] === undefined)
if (unknown.length > 0) throw new Error(`There is no attack ${unknown.join(", ")}`)

const callers = 8
const pauseMillis = 10
const maxMillis = 1_000
const maxMiB = 512

const sleep = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

interface Polite {
  readonly answered: number
  readonly failed: number
  readonly p50: number
  readonly p99: number
  readonly longest: number
}

const validate = (url: string, agent: Agent): Promise<number> =>
  new Promise((resolve, reject) => {
    const body = JSON.stringify({ user_id: "polite-100", platform: "lichess" })
    const sent = request(
      `${url}/api/v1/validate-user`,
      { method: "POST", agent, headers: { "content-type": "application/json", "content-length": body.length } },
      (response) => {
        response.resume()
        response.on("end", () => resolve(response.statusCode ?? 0))
        response.on("error", reject)
      }
    )
    sent.on("error", reject)
    sent.end(body)
  })

/** Calls politely until `over`. */
const callPolitely = async (url: string, over: Promise<unknown>): Promise<Polite> => {
  const agent = new Agent({ keepAlive: true, maxSockets: callers })
  const millis: Array<number> = []
  let failed = 0
  const going = new AbortController()
  void over.then(() => going.abort())
  const caller = async () => {
    while (!going.signal.aborted) {
      const startedAt = performance.now()
      const status = await validate(url, agent).catch(() => 0)
      millis.push(performance.now() - startedAt)
      if (status !== 200) failed++
      await sleep(pauseMillis)
    }
  }
  await Promise.all(Array.from({ length: callers }, caller))
  agent.destroy()
  millis.sort((a, b) => a - b)
  const at = (share: number) => millis[Math.min(millis.length - 1, Math.floor(share * millis.length))] ?? Number.NaN
  return { answered: millis.length - failed, failed, p50: at(0.5), p99: at(0.99), longest: at(1) }
}

const openFiles = async (pid: number | undefined) => (await readdir(`/proc/${pid}/fd`)).length

const attackFile = fileURLToPath(new URL("attacks.ts", import.meta.url))

const directory = await mkdtemp(join(tmpdir(), "bench-hostile-"))
const simulator = node([programs.simulator])
const sites = await onLine(simulator, (text) => parsed(text) as { lichessBaseUrl: string; chessComBaseUrl: string })
const service = node([...startFlags, programs.service], {
  PORT: "0",
  DATABASE_URL: `file:${join(directory, "chess.db")}`,
  LICHESS_BASE_URL: sites.lichessBaseUrl,
  CHESSCOM_BASE_URL: sites.chessComBaseUrl,
  USER_CACHE_TTL: "1 hour",
  RATE_LIMIT_ENABLED: "false",
  LOG_LEVEL: "Info",
  LOG_FORMAT: "json"
})

const failures: Array<string> = []
const show = (what: string, polite: Polite, memory: number, outcome?: Outcome) => {
  const statuses = Object.entries(outcome?.statuses ?? {}).map(([status, times]) => `${status}: ${times}`)
  const ended =
    outcome === undefined
      ? ""
      : `${outcome.opened} opened, ${outcome.endedByServer} ended by the service, ${outcome.broken} broken` +
        (statuses.length > 0 ? ` (${statuses.join(", ")})` : "")
  console.log(
    `${what}\n  polite callers ${polite.answered} answered, ${polite.failed} failed, p50 ${polite.p50.toFixed(1)} ms, ` +
      `p99 ${polite.p99.toFixed(1)} ms, longest ${polite.longest.toFixed(0)} ms; ${memory.toFixed(0)} MiB` +
      (ended === "" ? "" : `\n  attackers      ${ended}`)
  )
  if (polite.failed > 0) failures.push(`${what}: ${polite.failed} polite calls failed`)
  if (polite.longest > maxMillis) failures.push(`${what}: a polite call took ${polite.longest.toFixed(0)} ms`)
}

try {
  const url = await listening(service)
  await callPolitely(url, sleep(2_000))
  show("nobody else", await callPolitely(url, sleep(5_000)), await residentMiB(service.pid))
  const filesBefore = await openFiles(service.pid)

  for (const name of chosen) {
    const attacker = node([attackFile, name, url, String(seconds)])
    const ended = onLine(attacker, (text) => parsed(text) as Outcome)
    const polite = await callPolitely(url, ended)
    show(attacks[name]?.what ?? name, polite, await residentMiB(service.pid), await ended)
  }

  let left = Infinity
  for (let waited = 0; waited < 60 && left > 0; waited++) {
    left = (await openFiles(service.pid)) - filesBefore
    if (left > 0) await sleep(1_000)
  }
  const peak = await peakMiB(service.pid)
  console.log(
    `afterwards\n  ${Math.max(0, left)} connections left, memory ${(await residentMiB(service.pid)).toFixed(0)} MiB, at most ${peak.toFixed(0)} MiB`
  )
  if (left > 0) failures.push(`${left} connections are left a minute later`)
  if (peak > maxMiB) failures.push(`the service took ${peak.toFixed(0)} MiB, more than ${maxMiB}`)
  if (service.exitCode !== null) failures.push("the service has ended")
} finally {
  await stop(service)
  await stop(simulator)
  await rm(directory, { recursive: true, force: true })
}
for (const failure of failures) console.log(`FAILED  ${failure}`)
process.exitCode = failures.length === 0 ? 0 : 1
