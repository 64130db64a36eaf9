/**
 * An `HttpClient` without a network: what it answers is written down, and it knows which of its connections are open.
 */
import { Duration, Effect } from "effect"
import { HttpClient, HttpClientError, type HttpClientRequest, HttpClientResponse } from "effect/http"

/** A request as the server sees it. */
export interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: HttpClientRequest.HttpClientRequest["body"]
}

/** What the server does with a request. */
export interface Answer {
  /** Defaults to 200. */
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Chunks of the body. Defaults to none. */
  readonly body?: string | ReadonlyArray<string | Uint8Array>
  /** The body never ends after its chunks. */
  readonly stalls?: true
  /** The body breaks after its chunks. */
  readonly breaks?: true
  /** The time until the head of the response is there. */
  readonly after?: Duration.Input
  /** The connection fails with this code. */
  readonly code?: string
}

/** A client with what it was asked. */
export interface Scripted {
  readonly client: HttpClient.HttpClient
  readonly seen: ReadonlyArray<Seen>
  /** Connections that are in use: neither read to the end nor aborted. */
  readonly open: () => number
  /** Connections that were aborted. */
  readonly aborted: () => number
}

/** Answers each request with what the function says of it and of how many there were before. */
export const scripted = (answer: (seen: Seen, index: number) => Answer | undefined): Scripted => {
  const seen: Array<Seen> = []
  const open = new Set<object>()
  let aborted = 0
  const client = HttpClient.make((request, url, signal) =>
    Effect.suspend(() => {
      const connection = {}
      const { body, headers, method } = request
      const asked: Seen = { method, url: url.href, headers: { ...headers }, body }
      const said = answer(asked, seen.length) ?? {}
      seen.push(asked)
      open.add(connection)
      signal.addEventListener("abort", () => {
        if (open.delete(connection)) aborted++
      })
      const failed = (cause: unknown) => {
        open.delete(connection)
        return new HttpClientError.HttpClientError({
          reason: new HttpClientError.TransportError({ request, cause })
        })
      }
      const head = Effect.suspend(() => {
        if (said.code !== undefined) {
          return Effect.fail(failed(Object.assign(new Error(said.code), { code: said.code })))
        }
        const chunks = typeof said.body === "string" ? [said.body] : [...(said.body ?? [])]
        const hasBody = method !== "HEAD" && ![101, 204, 205, 304].includes(said.status ?? 200)
        const stream = new ReadableStream<Uint8Array>(
          {
            pull: (controller) => {
              const next = chunks.shift()
              if (next !== undefined) {
                controller.enqueue(typeof next === "string" ? new TextEncoder().encode(next) : next)
              } else if (said.breaks === true) {
                open.delete(connection)
                controller.error(Object.assign(new Error("broken"), { code: "ECONNRESET" }))
              } else if (said.stalls !== true) {
                open.delete(connection)
                controller.close()
              } else {
                return new Promise(() => {})
              }
              return undefined
            }
          },
          { highWaterMark: 0 }
        )
        if (!hasBody) open.delete(connection)
        const init = { status: said.status ?? 200, headers: { ...said.headers } }
        return Effect.succeed(HttpClientResponse.fromWeb(request, new Response(hasBody ? stream : null, init)))
      })
      return said.after === undefined ? head : Effect.delay(head, said.after)
    })
  )
  return { client, seen, open: () => open.size, aborted: () => aborted }
}

/** Answers the requests with these, one after the other, and then with the last one. */
export const script = (...answers: ReadonlyArray<Answer>): Scripted =>
  scripted((_, index) => answers[Math.min(index, answers.length - 1)])
