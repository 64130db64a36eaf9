/**
 * What can go wrong when a chess site is asked, in the service's own terms.
 *
 * The refusals of the toolkit (open circuit, full queue, rate limit, deadline) are mapped to these at the edge of each
 * upstream, so nothing above it depends on which policies are in place.
 */
import { Duration, Effect, Schema } from "effect"
import { displayName, Platform } from "./domain/Platform.ts"

/** Why a site could not answer. */
export const UnavailableReason = Schema.Literals([
  /** The connection failed, or was cut in the middle of a body. */
  "connection",
  /** A 5xx status. */
  "status",
  /** A body that is not what it should be: HTML, broken JSON, a missing field, over its size limit. */
  "body",
  /** The site refuses this client (403). */
  "blocked",
  /** The circuit is open: the site was not asked. */
  "circuit-open",
  /** Too many requests of our own are waiting: the site was not asked. */
  "overloaded",
  /** The site, or our own limiter, asks for fewer requests. */
  "rate-limited"
])
export type UnavailableReason = typeof UnavailableReason.Type

/** A site did not give a usable answer. `retryAfter` says when asking again makes sense, if that is known. */
export class UpstreamUnavailable extends Schema.TaggedError<UpstreamUnavailable>()("UpstreamUnavailable", {
  platform: Platform,
  reason: UnavailableReason,
  detail: Schema.String,
  status: Schema.optional(Schema.Int),
  retryAfter: Schema.optional(Schema.Duration)
}) {
  override get message() {
    return `${displayName(this.platform)} is unavailable (${this.reason}): ${this.detail}`
  }
}

/** A site did not answer in time. */
export class UpstreamTimeout extends Schema.TaggedError<UpstreamTimeout>()("UpstreamTimeout", {
  platform: Platform,
  after: Schema.Duration,
  retryAfter: Schema.optional(Schema.Duration)
}) {
  override get message() {
    return `${displayName(this.platform)} did not answer within ${Duration.format(this.after)}`
  }
}

/**
 * There are no games of the user to be had: the account is `closed`, or the name is `unknown` (the default), which is also
 * said where a site does not tell the two apart.
 */
export class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", {
  platform: Platform,
  user: Schema.String,
  status: Schema.Literals(["closed", "unknown"]).pipe(Schema.withConstructorDefault(Effect.succeed("unknown" as const)))
}) {
  override get message() {
    if (this.status === "closed") return `User '${this.user}' on ${displayName(this.platform)} has closed the account`
    return `User '${this.user}' not found on ${displayName(this.platform)}`
  }
}

/** Everything that can go wrong when a site is asked. */
export type UpstreamError = UpstreamUnavailable | UpstreamTimeout
