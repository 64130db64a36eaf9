/**
 * The table of contents: one namespace per primitive, by what it is about.
 */

// Time: how long a call may take.
export * as AdaptiveTimeout from "./AdaptiveTimeout.ts"
export * as Deadline from "./Deadline.ts"
export * as Timeout from "./Timeout.ts"

// Failure: when to stop calling, and what to answer instead.
export * as CircuitBreaker from "./CircuitBreaker.ts"
export * as ErrorPattern from "./ErrorPattern.ts"
export * as Fallback from "./Fallback.ts"
export * as HealthMonitor from "./HealthMonitor.ts"

// Load: how much may be asked of a dependency, and how to ask once for many.
export * as AdaptiveLimit from "./AdaptiveLimit.ts"
export * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
export * as Batcher from "./Batcher.ts"
export * as Bulkhead from "./Bulkhead.ts"
export * as Cache from "./Cache.ts"
export * as KeyedRateLimiter from "./KeyedRateLimiter.ts"
export * as LoadShed from "./LoadShed.ts"
export * as Priority from "./Priority.ts"
export * as RateLimiter from "./RateLimiter.ts"
export * as SingleFlight from "./SingleFlight.ts"

// Repetition: when to try again.
export * as Hedge from "./Hedge.ts"
export * as Retry from "./Retry.ts"
export * as RetryAfter from "./RetryAfter.ts"
export * as RetryBudget from "./RetryBudget.ts"

// Composition: all of them around one call.
export * as Policy from "./Policy.ts"
export * as Profile from "./Profile.ts"
export * as Providers from "./Providers.ts"
export * as ResilienceFacade from "./ResilienceFacade.ts"

// Observation: what they do, as metrics, events, log lines and spans.
export * as Telemetry from "./Telemetry.ts"

// Experiment: what happens when something goes wrong.
export * as Chaos from "./Chaos.ts"
