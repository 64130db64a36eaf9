/**
 * What users test their own policies and stores with.
 */
export { type ContractTest } from "./contract.ts"
export { idempotencyStoreContract, type IdempotencyStoreContractOptions } from "./idempotencyStoreContract.ts"
export { interruptEverywhere } from "./interruptEverywhere.ts"
export { rateLimitStoreContract, type RateLimitStoreContractOptions } from "./rateLimitStoreContract.ts"
