/**
 * `npm run bench:import`: a large import through the service against the plain script, in one run.
 *
 * Both run in their own process with a heap of at most 96 MB, the service otherwise with the flags of `npm start`. They
 * take the games from the same unthrottled stand-in in a third process, and fill a new SQLite file each round. The rounds
 * alternate; the medians are compared. `--games=200000` and `--rounds=3` can be set, and `--same-flags` gives the plain
 * script the flags of `npm start` as well. Exits with 1 when an import is not complete or a target is missed.
 */
import { once } from "node:events"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { listening, node, onLine, parsed, peakMiB, programs, startFlags, stop } from "../processes.ts"

const { values } = parseArgs({
  options: {
    games: { type: "string", default: "200000" },
    rounds: { type: "string", default: "3" },
    "same-flags": { type: "boolean", default: false }
  }
})
const games = Number(values.games)
const rounds = Number(values.rounds)
const user = `marathon-${games}`
const minSpeed = 0.8
const maxMemory = 1.3

interface Round {
  readonly gamesPerSecond: number
  readonly peakMiB: number
}

const heap = "--max-old-space-size=96"

const plain = async (baseUrl: string, database: string): Promise<Round> => {
  const child = node([heap, ...(values["same-flags"] ? startFlags : []), programs.plainImport, baseUrl, user, database])
  const result = await onLine(child, (text) => parsed(text) as { stored: number; millis: number; peakRssKiB: number })
  if (child.exitCode === null) await once(child, "exit")
  if (result.stored !== games) throw new Error(`The plain script stored ${result.stored} of ${games} games`)
  return { gamesPerSecond: games / (result.millis / 1000), peakMiB: result.peakRssKiB / 1024 }
}

const service = async (lichess: string, chessCom: string, database: string): Promise<Round> => {
  const child = node([heap, ...startFlags, programs.service], {
    PORT: "0",
    DATABASE_URL: `file:${database}`,
    LICHESS_BASE_URL: lichess,
    CHESSCOM_BASE_URL: chessCom,
    LOG_LEVEL: "Info",
    LOG_FORMAT: "json"
  })
  try {
    const url = await listening(child)
    const request = await fetch(`${url}/api/v1/import-more-games`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user_id: user, platform: "lichess", limit: games })
    })
    if (request.status !== 202) throw new Error(`The import was not started: ${await request.text()}`)
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 200))
      const progress = (await (await fetch(`${url}/api/v1/import-progress/${user}/lichess`)).json()) as {
        status: string
        imported: number
        error: string | null
        created_at: string
        finished_at: string | null
      }
      if (progress.status === "failed" || child.exitCode !== null)
        throw new Error(`The import failed: ${progress.error}`)
      if (progress.finished_at === null) continue
      if (progress.imported !== games) throw new Error(`The service stored ${progress.imported} of ${games} games`)
      const millis = Date.parse(progress.finished_at) - Date.parse(progress.created_at)
      return { gamesPerSecond: games / (millis / 1000), peakMiB: await peakMiB(child.pid) }
    }
  } finally {
    await stop(child)
  }
}

const median = (numbers: ReadonlyArray<number>): number => {
  const sorted = numbers.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

const simulator = node([programs.simulator])
try {
  const sites = await onLine(simulator, (text) => parsed(text) as { lichessBaseUrl: string; chessComBaseUrl: string })
  const plainRounds: Array<Round> = []
  const serviceRounds: Array<Round> = []
  console.log(`${games} games a round, ${rounds} rounds, heap of both capped at 96 MB`)
  for (let round = 1; round <= rounds; round++) {
    const directory = await mkdtemp(join(tmpdir(), "bench-import-"))
    const show = (name: string, { gamesPerSecond, peakMiB }: Round) =>
      console.log(
        `round ${round}  ${name.padEnd(8)} ${gamesPerSecond.toFixed(0).padStart(7)} games/s  ${peakMiB.toFixed(0).padStart(4)} MiB peak`
      )
    const measured = await plain(sites.lichessBaseUrl, join(directory, "plain.db"))
    show("plain", measured)
    plainRounds.push(measured)
    const ours = await service(sites.lichessBaseUrl, sites.chessComBaseUrl, join(directory, "service.db"))
    show("service", ours)
    serviceRounds.push(ours)
    await rm(directory, { recursive: true, force: true })
  }
  const of = (field: keyof Round) =>
    median(serviceRounds.map((round) => round[field])) / median(plainRounds.map((round) => round[field]))
  const speed = of("gamesPerSecond")
  const memory = of("peakMiB")
  console.log(`speed   ${speed.toFixed(2)} x the plain script (target: at least ${minSpeed})`)
  console.log(`memory  ${memory.toFixed(2)} x the plain script (target: at most ${maxMemory})`)
  process.exitCode = speed >= minSpeed && memory <= maxMemory ? 0 : 1
} finally {
  await stop(simulator)
}
