/**
 * Carries requests to a stand-in over real sockets, on loopback unless told otherwise.
 *
 * A body is written as fast as the connection takes it. When the client goes away, the answer is interrupted and its
 * body closed.
 */
import { Buffer } from "node:buffer"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import { Effect, FiberSet, Schema, type Scope } from "effect"
import type * as Reply from "./Reply.ts"
import type { Site } from "./Site.ts"

/** A stand-in could not listen there. */
export class ListenFailed extends Schema.TaggedError<ListenFailed>()("ListenFailed", {
  host: Schema.String,
  port: Schema.Int,
  cause: Schema.Defect()
}) {
  override get message() {
    return `Cannot listen on ${this.host}:${this.port}`
  }
}

/** Listens and gives the address, `http://host:port`. A port of 0 takes a free one. Closes with the scope. */
export const listen = <Endpoint extends string>(
  site: Site<Endpoint>,
  options: { readonly port: number; readonly host: string }
): Effect.Effect<string, ListenFailed, Scope.Scope> =>
  Effect.gen(function* () {
    const run = yield* FiberSet.makeRuntime()
    const server = Http.createServer({ keepAliveTimeout: 30_000 }, (incoming, outgoing) => {
      const fiber = run(serve(site, incoming, outgoing))
      outgoing.on("close", () => fiber.interruptUnsafe())
    })
    server.on("connection", (socket) => {
      socket.on("close", site.connectedUnsafe())
    })
    yield* Effect.acquireRelease(
      Effect.callback<void, ListenFailed>((resume) => {
        server.once("error", (cause) => resume(new ListenFailed({ ...options, cause })))
        server.listen(options.port, options.host, () => resume(Effect.void))
      }),
      () =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    )
    // A server that listens on a port has an address of this form.
    const { port } = server.address() as AddressInfo
    return `http://${options.host}:${port}`
  })

const serve = <Endpoint extends string>(
  site: Site<Endpoint>,
  incoming: Http.IncomingMessage,
  outgoing: Http.ServerResponse
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const body = yield* receive(incoming)
    const origin = `http://${incoming.headers.host ?? "localhost"}`
    const target = incoming.url ?? "/"
    if (body === undefined || !URL.canParse(target, origin)) {
      outgoing.writeHead(body === undefined ? 413 : 400).end()
      return
    }
    const url = new URL(target, origin)
    const reply = yield* site.handle(
      {
        method: incoming.method ?? "GET",
        origin,
        path: url.pathname,
        query: url.searchParams,
        headers: incoming.headers,
        body,
        address: incoming.socket.remoteAddress ?? "unknown"
      },
      (reply) => {
        if (reply !== "reset" && !(reply.body instanceof Uint8Array)) {
          if (outgoing.closed) reply.body.close()
          else outgoing.once("close", reply.body.close)
        }
        return reply
      }
    )
    yield* send(reply, outgoing)
  })

const maxBodyBytes = 65_536

const receive = (incoming: Http.IncomingMessage): Effect.Effect<string | undefined> =>
  incoming.method === "GET"
    ? Effect.succeed("")
    : Effect.callback<string | undefined>((resume) => {
        const chunks: Array<Buffer> = []
        let length = 0
        incoming.on("data", (chunk: Buffer) => {
          length += chunk.length
          if (length <= maxBodyBytes) chunks.push(chunk)
        })
        incoming.on("end", () =>
          resume(Effect.succeed(length > maxBodyBytes ? undefined : Buffer.concat(chunks).toString("utf8")))
        )
      })

const send = (reply: Reply.Reply, outgoing: Http.ServerResponse): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (reply === "reset") {
      outgoing.socket?.resetAndDestroy()
      return Effect.void
    }
    outgoing.sendDate = false
    outgoing.writeHead(reply.status, reply.headers)
    if (reply.body instanceof Uint8Array) {
      outgoing.end(reply.body)
      return Effect.void
    }
    outgoing.flushHeaders()
    return carry(reply.body, outgoing)
  })

const carry = (body: Reply.Body, outgoing: Http.ServerResponse): Effect.Effect<void> =>
  Effect.clockWith((clock) => {
    const step: Effect.Effect<boolean> = Effect.suspend(() => {
      const next = body.next(clock.currentTimeMillisUnsafe())
      if (next === "stall") return Effect.never
      if (next === "reset") {
        body.close()
        // What was written so far is sent first: the client shall see the cut where it was made.
        outgoing.socket?.end(() => outgoing.socket?.destroy())
        return Effect.succeed(false)
      }
      if (next === "end") {
        // Closed before the client can know that the body is over.
        body.close()
        outgoing.end()
        return Effect.succeed(false)
      }
      if (!(next instanceof Uint8Array)) return next.millis > 0 ? Effect.as(Effect.sleep(next.millis), true) : more
      return outgoing.write(next) ? more : drained(outgoing)
    })
    let going = true
    return Effect.whileLoop({ while: () => going, body: () => step, step: (value) => (going = value) })
  })

const more = Effect.succeed(true)

const drained = (outgoing: Http.ServerResponse): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const done = () => resume(more)
    outgoing.once("drain", done)
    return Effect.sync(() => outgoing.off("drain", done))
  })
