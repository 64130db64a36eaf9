/**
 * Sends requests over connections that are kept, as fast as they are answered, and measures how long each takes.
 *
 * Written on bare sockets, so that the sender takes as little of the machine as possible from what is measured.
 */
import { connect } from "node:net"

/** What was sent and how it was answered. */
export interface Load {
  readonly requestsPerSecond: number
  readonly p50: number
  readonly p99: number
  /** Answers by status. */
  readonly statuses: ReadonlyMap<number, number>
}

/** What to send where. */
export interface Options {
  readonly url: string
  readonly connections: number
  readonly millis: number
  /** The next request, whole. */
  readonly next: () => Buffer
  /** Whether an answer is what it has to be. One that is not ends the measurement. */
  readonly right: (status: number, body: string) => boolean
}

/** A `POST` with a JSON body. */
export const postJson = (url: string, path: string, body: string): Buffer =>
  Buffer.from(
    `POST ${path} HTTP/1.1\r\nhost: ${new URL(url).host}\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  )

/** Loads a server for a while. */
export const load = async (options: Options): Promise<Load> => {
  const { hostname, port } = new URL(options.url)
  const millis: Array<number> = []
  const statuses = new Map<number, number>()
  const startedAt = performance.now()
  const endsAt = startedAt + options.millis

  const one = () =>
    new Promise<void>((resolve, reject) => {
      const socket = connect({ host: hostname, port: Number(port), noDelay: true })
      let sentAt = 0
      let received = ""
      const send = () => {
        if (performance.now() >= endsAt) {
          socket.destroy()
          return resolve()
        }
        sentAt = performance.now()
        socket.write(options.next())
      }
      socket.on("connect", send)
      socket.on("data", (data: Buffer) => {
        received += data.toString("latin1")
        const head = received.indexOf("\r\n\r\n")
        if (head === -1) return
        const length = Number(/\r\ncontent-length: ?(\d+)/i.exec(received)?.[1])
        if (received.length < head + 4 + length) return
        const status = Number(received.slice(9, 12))
        const body = received.slice(head + 4, head + 4 + length)
        if (!(length >= 0) || !options.right(status, body)) {
          socket.destroy()
          return reject(new Error(`${options.url} answered ${received}`))
        }
        millis.push(performance.now() - sentAt)
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
        received = ""
        send()
      })
      socket.on("error", reject)
      socket.on("end", () => reject(new Error(`${options.url} closed a connection`)))
    })

  await Promise.all(Array.from({ length: options.connections }, one))
  const took = performance.now() - startedAt
  millis.sort((a, b) => a - b)
  const at = (share: number) => millis[Math.min(millis.length - 1, Math.floor(share * millis.length))] ?? Number.NaN
  return { requestsPerSecond: (millis.length / took) * 1_000, p50: at(0.5), p99: at(0.99), statuses }
}
