/**
 * Digests text and bytes with SHA-256, on the Web Crypto of the platform.
 */
import { Effect } from "effect"
import { WebCrypto } from "effect/crypto"
import * as Hex from "effect/encoding/Hex"

/** The digest in lower-case hexadecimal. Text is digested as UTF-8. */
export const sha256Hex = (data: string | Uint8Array<ArrayBuffer>): Effect.Effect<string> =>
  Effect.map(
    Effect.flatMap(WebCrypto.WebCrypto, (crypto) =>
      Effect.promise<ArrayBuffer>(() =>
        crypto.subtle.digest("SHA-256", typeof data === "string" ? new TextEncoder().encode(data) : data)
      )
    ),
    (digest) => Hex.encode(new Uint8Array(digest))
  )
