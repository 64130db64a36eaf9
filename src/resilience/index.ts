/**
 * The table of contents: one namespace per primitive, by what it protects from.
 */

// Time: how long a call may take.
export * as Deadline from "./Deadline.ts"
export * as Timeout from "./Timeout.ts"
