/**
 * What a site says about a user name.
 */

/** `active` and `closed` accounts exist; `unknown` names do not. */
export type UserStatus = "active" | "closed" | "unknown"
