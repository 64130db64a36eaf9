/**
 * A user name that could exist on one of the two sites.
 *
 * Both sites take letters, digits, `_` and `-`, 2 to 30 of them, and ignore case. Whatever else is asked for cannot
 * exist and is refused before any request is sent.
 */
import { Schema } from "effect"

const message = "must be 2 to 30 letters, digits, underscores or hyphens"

/** A possible user name, in the case it was given. */
export const UserName = Schema.String.annotate({ message }).check(
  Schema.isPattern(/^[A-Za-z0-9_-]{2,30}$/, { message })
)
export type UserName = typeof UserName.Type

/** The form under which both sites and the store know a user: lower case. */
export const toId = (user: UserName): string => user.toLowerCase()
