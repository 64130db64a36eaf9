/**
 * The table of contents of what is about HTTP.
 */

// Client: how requests are sent, and which need not be.
export * as HttpCache from "./HttpCache.ts"
export * as HttpResilience from "./HttpResilience.ts"

// Server: how requests are taken.
export * as Admin from "./Admin.ts"
export * as ApiError from "./ApiError.ts"
export * as ClientAddress from "./ClientAddress.ts"
export * as Health from "./Health.ts"
export * as Idempotency from "./Idempotency.ts"
export * as IdempotencyStore from "./IdempotencyStore.ts"
export * as LoadShedding from "./LoadShedding.ts"
export * as RateLimit from "./RateLimit.ts"
export * as RateLimitStore from "./RateLimitStore.ts"
export * as RequestContext from "./RequestContext.ts"
export * as RequestLog from "./RequestLog.ts"
export * as RequestTimeout from "./RequestTimeout.ts"
export * as Shutdown from "./Shutdown.ts"
