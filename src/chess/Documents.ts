/**
 * Serves pages that are the same for everyone from bytes that are made once.
 *
 * The API page has more than a megabyte. Encoded anew for each reader it would cost the server that much memory per
 * connection, for as long as a reader takes to read; shared and compressed it costs nothing.
 */
import { createHash } from "node:crypto"
import { promisify } from "node:util"
import { gzip } from "node:zlib"
import { Effect } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse, type HttpBody } from "effect/http"

/** Applied to routes whose response is the same object each time. A reader who has the page already gets 304. */
export const layer = HttpRouter.middleware((app) =>
  Effect.gen(function* () {
    const response = yield* app
    if (response.body._tag !== "Uint8Array") return response
    const { compressed, plain, tag } = yield* documentOf(response.body)
    const { headers } = yield* HttpServerRequest.HttpServerRequest
    const kept = { etag: tag, vary: "accept-encoding", "cache-control": "no-cache" }
    if (has(headers["if-none-match"], tag)) return HttpServerResponse.empty({ status: 304, headers: kept })
    const zipped = accepts(headers["accept-encoding"], "gzip")
    return HttpServerResponse.uint8Array(zipped ? compressed : plain, {
      status: response.status,
      contentType: response.body.contentType,
      headers: zipped ? { ...kept, "content-encoding": "gzip" } : kept
    })
  })
).layer

interface Document {
  readonly plain: Uint8Array
  readonly compressed: Uint8Array
  readonly tag: string
}

const documents = new WeakMap<HttpBody.Uint8Array, Promise<Document>>()

const documentOf = (body: HttpBody.Uint8Array): Effect.Effect<Document> =>
  Effect.promise(() => {
    const known = documents.get(body) ?? make(body.body)
    documents.set(body, known)
    return known
  })

// One tag for both forms, so a weak one: they are the same page, byte by byte they are not.
const make = async (plain: Uint8Array): Promise<Document> => ({
  plain,
  compressed: await promisify(gzip)(plain),
  tag: `W/"${createHash("sha256").update(plain).digest("base64url").slice(0, 22)}"`
})

const items = (field: string | undefined): ReadonlyArray<string> =>
  field === undefined ? [] : field.split(",").map((item) => item.trim())

const has = (field: string | undefined, tag: string): boolean =>
  items(field).some((item) => item === "*" || item === tag)

const accepts = (field: string | undefined, coding: string): boolean =>
  items(field).some((item) => {
    const [name, quality] = item.split(";").map((part) => part.trim())
    return name?.toLowerCase() === coding && !/^q=0(\.0*)?$/i.test(quality ?? "")
  })
