/**
 * The table of contents of what is about HTTP.
 */

// Client: how requests are sent.
export * as HttpResilience from "./HttpResilience.ts"
