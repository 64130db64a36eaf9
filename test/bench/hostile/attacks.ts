/**
 * What hostile and broken clients do to a server, one attack a process: `attacks.ts NAME URL SECONDS`.
 *
 * Every attack is bounded in connections and time, and prints one line of JSON: how its connections ended, and with
 * which statuses they were answered.
 */
import { connect, type Socket } from "node:net"

/** How the connections of an attack ended. */
export interface Outcome {
  /** Connections opened. */
  readonly opened: number
  /** Connections that the server has ended. */
  readonly endedByServer: number
  /** Connections that could not be opened, or that broke. */
  readonly broken: number
  /** Statuses answered, and how often. */
  readonly statuses: Readonly<Record<string, number>>
}

type Act = (socket: Socket, host: string) => void

interface Attack {
  readonly what: string
  /** Connections open at the same time. */
  readonly connections: number
  /** Connections opened in all; those that end are replaced until then. */
  readonly inAll: number
  readonly act: Act
}

const validate = JSON.stringify({ user_id: "hostile", platform: "lichess" })

const every = (socket: Socket, millis: number, act: () => void): void => {
  const timer = setInterval(act, millis)
  socket.on("close", () => clearInterval(timer))
}

// One byte a second, to the end of the text.
const drip =
  (first: (host: string) => string, rest: (host: string) => string): Act =>
  (socket, host) => {
    socket.write(first(host))
    const text = rest(host)
    let at = 0
    every(socket, 1_000, () => {
      if (at < text.length) socket.write(text.charAt(at++))
    })
  }

const post = (host: string, length: string) =>
  `POST /api/v1/validate-user HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n${length}\r\n\r\n`

// Writes chunks as fast as they are taken, to `total` bytes.
const pour = (socket: Socket, chunk: Buffer, total: number): void => {
  let written = 0
  const more = () => {
    while (written < total && socket.writable) {
      written += chunk.length
      if (!socket.write(chunk)) return void socket.once("drain", more)
    }
  }
  more()
}

/** All attacks by name. */
export const attacks: Readonly<Record<string, Attack>> = {
  idle: {
    what: "10,000 connections that say nothing",
    connections: 10_000,
    inAll: 10_000,
    act: () => {}
  },
  "slow-headers": {
    what: "1,000 requests whose headers come at one byte a second",
    connections: 1_000,
    inAll: 1_000,
    act: drip(
      () => "POST /api",
      (host) => `/v1/validate-user HTTP/1.1\r\nhost: ${host}\r\ncontent-length: ${validate.length}\r\n\r\n${validate}`
    )
  },
  "slow-bodies": {
    what: "1,000 requests whose bodies come at one byte a second",
    connections: 1_000,
    inAll: 1_000,
    act: drip(
      (host) => post(host, `content-length: ${validate.length}`),
      () => validate
    )
  },
  "huge-headers": {
    what: "requests with 4 MiB of headers, 32 at a time",
    connections: 32,
    inAll: 2_000,
    act: (socket, host) => {
      socket.write(`GET /health HTTP/1.1\r\nhost: ${host}\r\nx-filler: `)
      pour(socket, Buffer.alloc(64 * 1024, "a"), 4 * 1024 * 1024)
    }
  },
  "huge-bodies": {
    what: "requests with a body of 16 MiB that they announce, 32 at a time",
    connections: 32,
    inAll: 1_000,
    act: (socket, host) => {
      socket.write(post(host, `content-length: ${16 * 1024 * 1024}`))
      pour(socket, Buffer.alloc(64 * 1024, "a"), 16 * 1024 * 1024)
    }
  },
  "endless-bodies": {
    what: "requests with a chunked body without an end, 32 at a time",
    connections: 32,
    inAll: 1_000,
    act: (socket, host) => {
      socket.write(post(host, "transfer-encoding: chunked"))
      pour(socket, Buffer.from(`8000\r\n${"a".repeat(0x8000)}\r\n`), 64 * 1024 * 1024)
    }
  },
  "half-closed": {
    what: "1,000 requests that close their side at once and wait",
    connections: 1_000,
    inAll: 10_000,
    act: (socket, host) => {
      socket.end(`${post(host, `content-length: ${validate.length}`)}${validate}`)
    }
  },
  deaf: {
    what: "1,000 clients that ask for large pages and read nothing",
    connections: 1_000,
    inAll: 1_000,
    act: (socket, host) => {
      socket.pause()
      socket.write(`GET /docs HTTP/1.1\r\nhost: ${host}\r\n\r\n`.repeat(20))
    }
  },
  "hang-ups": {
    what: "requests whose clients are gone before the answer, 64 at a time",
    connections: 64,
    inAll: 50_000,
    act: (socket, host) => {
      socket.write(`${post(host, `content-length: ${validate.length}`)}${validate}`, () => socket.resetAndDestroy())
    }
  },
  garbage: {
    what: "bytes that are no HTTP, 64 at a time",
    connections: 64,
    inAll: 20_000,
    act: (socket) => void socket.write(Buffer.from(Array.from({ length: 512 }, (_, at) => (at * 197 + 13) % 256)))
  }
}

const run = (attack: Attack, url: URL, seconds: number): Promise<Outcome> =>
  new Promise((resolve) => {
    const outcome = { opened: 0, endedByServer: 0, broken: 0, statuses: {} as Record<string, number> }
    const open = new Set<Socket>()
    let over = false
    const finish = () => {
      if (over) return
      over = true
      clearInterval(opening)
      for (const socket of open) socket.destroy()
      resolve(outcome)
    }
    const start = () => {
      outcome.opened++
      const socket = connect({ host: url.hostname, port: Number(url.port), allowHalfOpen: true })
      open.add(socket)
      socket.on("connect", () => attack.act(socket, url.host))
      socket.on("data", (data: Buffer) => {
        const status = /^HTTP\/1\.1 (\d{3})/.exec(data.subarray(0, 16).toString("latin1"))?.[1]
        if (status !== undefined) outcome.statuses[status] = (outcome.statuses[status] ?? 0) + 1
      })
      socket.on("end", () => {
        if (!over) outcome.endedByServer++
        socket.destroy()
      })
      socket.on("error", () => {
        if (!over) outcome.broken++
      })
      socket.on("close", () => {
        open.delete(socket)
        if (!over && outcome.opened >= attack.inAll && open.size === 0) finish()
      })
    }
    // A few hundred at a time, so that the backlog of the listening socket is not what is measured.
    const opening = setInterval(() => {
      for (let i = 0; i < 250 && open.size < attack.connections && outcome.opened < attack.inAll; i++) start()
    }, 20)
    setTimeout(finish, seconds * 1_000)
  })

const [, , name, url, seconds] = process.argv
const attack = attacks[name ?? ""]
if (attack !== undefined && url !== undefined) {
  console.log(JSON.stringify(await run(attack, new URL(url), Number(seconds))))
  process.exit(0)
}
