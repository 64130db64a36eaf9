/**
 * What users test their own policies and stores with.
 */
export { type ContractTest } from "./contract.ts"
export { idempotencyStoreContract, type IdempotencyStoreContractOptions } from "./idempotencyStoreContract.ts"
export { interruptEverywhere } from "./interruptEverywhere.ts"
export { rateLimitStoreContract, type RateLimitStoreContractOptions } from "./rateLimitStoreContract.ts"
export { type ChartOptions, renderChart } from "./renderChart.ts"
export { renderTable, type TableOptions } from "./renderTable.ts"
export * as ScriptedUpstream from "./ScriptedUpstream.ts"
export * from "./simulate.ts"
export { UpstreamFailed } from "./UpstreamFailed.ts"
export * as World from "./World.ts"
