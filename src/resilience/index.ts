/**
 * The table of contents: one namespace per primitive, by what it protects from.
 */

// Failure: what stops calling a dependency that fails.
export * as CircuitBreaker from "./CircuitBreaker.ts"

// Time: how long a call may take.
export * as Deadline from "./Deadline.ts"
export * as Timeout from "./Timeout.ts"
