/**
 * The table of contents: one namespace per primitive, by what it protects from.
 */

// Failure: what stops calling a dependency that fails.
export * as CircuitBreaker from "./CircuitBreaker.ts"

// Time: how long a call may take.
export * as Deadline from "./Deadline.ts"
export * as Timeout from "./Timeout.ts"

// Load: how much may be asked of a dependency.
export * as Bulkhead from "./Bulkhead.ts"
export * as RateLimiter from "./RateLimiter.ts"

// Repetition: when to try again.
export * as Retry from "./Retry.ts"
export * as RetryAfter from "./RetryAfter.ts"

// Saved calls: how to ask once for many.
export * as Batcher from "./Batcher.ts"
export * as Cache from "./Cache.ts"
export * as SingleFlight from "./SingleFlight.ts"
