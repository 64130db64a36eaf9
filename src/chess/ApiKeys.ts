/**
 * Tells who sends a request: the user of an API key, or an anonymous client by its address.
 *
 * Keys come from the settings and are optional: without any, everyone is anonymous and free. A key is compared by its
 * digest, with every known one and in constant time, so the time of an answer says nothing about any key.
 */
import { createHash, timingSafeEqual } from "node:crypto"
import { Effect, Layer, Option, Redacted } from "effect"
import { ApiError } from "effect-resilience/http"
import { HttpServerRequest, type HttpServerResponse } from "effect/http"
import { Authentication, Caller } from "./Api.ts"
import type { ApiKey } from "./Settings.ts"

/** The known keys. */
export interface ApiKeys {
  /**
   * The caller who presents this key from this address. Without a key, or when no keys are known at all, that is an
   * anonymous one; an unknown key is refused.
   */
  readonly identify: (
    presented: Option.Option<Redacted.Redacted>,
    address: Option.Option<string>
  ) => Effect.Effect<Caller["Service"], ApiError.Unauthenticated>
}

/** Prepares the comparison with these keys. */
export const make = (keys: ReadonlyArray<ApiKey>): ApiKeys => {
  const known = keys.map((entry) => ({ digest: digest(Redacted.value(entry.key)), entry }))
  return {
    identify: (presented, address) => {
      if (known.length === 0 || Option.isNone(presented)) {
        // A user of a key and an address never count as one: a user name has no colon.
        return Effect.succeed({
          owner: `address:${Option.match(address, { onNone: () => "unknown", onSome: withoutMapping })}`,
          premium: false
        })
      }
      const given = digest(Redacted.value(presented.value))
      let found: ApiKey | undefined
      for (const { digest, entry } of known) {
        if (timingSafeEqual(digest, given)) found = entry
      }
      return found === undefined
        ? Effect.fail(new ApiError.Unauthenticated({ code: "UNKNOWN_API_KEY", error: "Nobody has this API key" }))
        : Effect.succeed({ owner: found.user, premium: found.premium })
    }
  }
}

/** Provides the authentication of the API. */
export const layer = (keys: ReadonlyArray<ApiKey>): Layer.Layer<Authentication> =>
  Layer.sync(Authentication, () => {
    const { identify } = make(keys)
    // Both schemes are optional and `X-API-Key` goes first, so either handler decides from the whole request: asked a
    // second time, it refuses the same request again.
    const authenticate = <E, R>(handler: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | Caller>) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
        Effect.flatMap(identify(presentedKey(request.headers), request.remoteAddress), (caller) =>
          Effect.provideService(handler, Caller, caller)
        )
      )
    return { apiKey: authenticate, bearer: authenticate }
  })

// A server on all addresses sees an IPv4 client as `::ffff:192.0.2.1`.
const withoutMapping = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/i, "")

const digest = (key: string): Buffer => createHash("sha256").update(key).digest()

const presentedKey = (headers: HttpServerRequest.HttpServerRequest["headers"]): Option.Option<Redacted.Redacted> => {
  const given = headers["x-api-key"]?.trim() || /^bearer +(\S+)$/i.exec(headers["authorization"]?.trim() ?? "")?.[1]
  return given === undefined ? Option.none() : Option.some(Redacted.make(given))
}
