/**
 * What a stand-in answers, before it is known whether the answer goes over a socket or stays in the process.
 *
 * A body is pulled step by step by whoever carries it, so a slow reader slows it down, and it is told when it is over:
 * read to the end, failed, or left by its reader.
 */

/** A request as both carriers see it. */
export interface Request {
  readonly method: string
  /** `http://host:port` of the request. */
  readonly origin: string
  readonly path: string
  readonly query: URLSearchParams
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  readonly body: string
  /** Who asks; limits count by it. */
  readonly address: string
}

/** An answer, or a connection that is reset before there is one. */
export type Reply = Answer | "reset"

/** Status, headers and body. */
export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | Body
}

/** A body that is made while it is read. */
export interface Body {
  /** The next step; asked for when the one before has been carried out. */
  readonly next: (nowMillis: number) => Step
  /** Says that nobody will ask again. Called at least once; only the first call counts. */
  readonly close: () => void
}

/** One step of a body: bytes to send, a pause, silence for ever, a broken connection, or the end. */
export type Step = Uint8Array | Pause | "stall" | "reset" | "end"

/** A pause in the middle of a body. */
export interface Pause {
  readonly millis: number
}

/** The value of a header, if it was sent. */
export const header = (request: Request, name: string): string | undefined => {
  const value = request.headers[name]
  return value === undefined || typeof value === "string" ? value : value[0]
}

const encoder = new TextEncoder()

/** An answer with a text as its body. */
export const text = (
  status: number,
  contentType: string,
  content: string,
  headers: Readonly<Record<string, string>> = {}
): Answer => {
  const body = encoder.encode(content)
  return { status, headers: { "content-type": contentType, "content-length": String(body.length), ...headers }, body }
}

/** A JSON answer. */
export const json = (status: number, content: unknown, headers: Readonly<Record<string, string>> = {}): Answer =>
  text(status, "application/json", JSON.stringify(content), headers)

/** An HTML page with a title and a line. */
export const html = (
  status: number,
  title: string,
  line: string,
  headers: Readonly<Record<string, string>> = {}
): Answer =>
  text(
    status,
    "text/html; charset=utf-8",
    `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>${title}</title></head><body><main><h1>${title}</h1><p>${line}</p></main></body></html>`,
    headers
  )
