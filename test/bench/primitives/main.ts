/**
 * `npm run bench`: what a call through each primitive costs, beside the libraries it is compared with.
 *
 * All are measured in one run, in interleaved rounds, as medians of processor time, with every result checked.
 * `--quick` takes a short look, and names of primitives (`npm run bench -- cache timeout`) measure only these, without what
 * grows. Exits with 1 when a result is wrong or a target is missed.
 */
import { cpus } from "node:os"
import { parseArgs } from "node:util"
import { cases } from "./cases.ts"
import { measure } from "./measure.ts"
import { scale } from "./scale.ts"
import { print } from "./table.ts"
import { isMet, judge } from "./targets.ts"

const { positionals, values } = parseArgs({
  options: { quick: { type: "boolean", default: false } },
  allowPositionals: true
})
const effort = values.quick
  ? { rounds: 9, millisPerRun: 3, millisToWarmUp: 20, byteRounds: 3 }
  : { rounds: 31, millisPerRun: 10, millisToWarmUp: 150, byteRounds: 9 }
const scaleEffort = values.quick ? { rounds: 2, calls: 10_000, slow: false } : { rounds: 5, calls: 20_000, slow: true }

const start = performance.now()
const all = await cases()
const chosen = positionals.length === 0 ? all : all.filter(({ subject }) => positionals.includes(subject))
const measured = await measure(chosen, effort)
const scaled = positionals.length === 0 ? await scale(scaleEffort) : []
const results = judge(measured, scaled)
print(measured, scaled, results)
const seconds = ((performance.now() - start) / 1_000).toFixed(0)
console.log(`\nNode ${process.version}, ${cpus()[0]?.model}, ${effort.rounds} rounds, ${seconds} seconds`)
// Those that wait for ever, and the statistics of opossum, would keep the process alive.
process.exit(results.every(isMet) ? 0 : 1)
