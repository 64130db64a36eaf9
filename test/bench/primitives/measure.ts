/**
 * Measures cases in interleaved rounds, so that whatever slows the machine down for a while slows all of them, and
 * reports medians.
 */
import { type Case, empty, type Loop, made } from "./loops.ts"

/** What one call of a case takes. */
export interface Cost {
  readonly nanos: number
  readonly bytes: number
}

/** What a case costs. */
export interface Measured {
  readonly measured: Case
  /** What one call takes, and its turn of the loop. */
  readonly gross: Cost
  /** What one call takes more than one with nothing around it. */
  readonly net: Cost
  /** The nanoseconds of each round, the loop included. */
  readonly rounds: ReadonlyArray<number>
}

/** How much is measured. */
export interface Effort {
  readonly rounds: number
  readonly millisPerRun: number
  readonly millisToWarmUp: number
  readonly byteRounds: number
}

/** The middle one of several numbers. */
export const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN

/**
 * Reads the processor time this process has used, in milliseconds, its garbage collector included. What others do on the
 * machine makes it no longer; none of the calls measured waits for a timer.
 */
export const processorMillis = (): number => {
  const { system, user } = process.cpuUsage()
  return (user + system) / 1_000
}

/** Collects all garbage, or only what is young. */
export const collect = (type: "major" | "minor" = "major"): void => {
  if (globalThis.gc === undefined) throw new Error("Run it with --expose-gc")
  void globalThis.gc({ type })
}

/** Makes so many calls and returns how many milliseconds of processor time they took. A wrong result ends the run. */
const checked = async ({ by, makes, path, run, subject }: Case, calls: number): Promise<number> => {
  const before = made.calls
  const start = processorMillis()
  const good = await run(calls)
  const millis = processorMillis() - start
  const callsMade = made.calls - before
  if (good !== calls || callsMade !== calls * makes) {
    throw new Error(
      `${subject}, ${path}, ${by}: of ${calls} calls ${good} ended right, and ${callsMade} were made instead of ${calls * makes}`
    )
  }
  return millis
}

/** Warms a case up and returns how many calls fit into one run of a round. */
const callsPerRun = async (one: Case, effort: Effort): Promise<number> => {
  let calls = 10
  let millis = await checked(one, calls)
  const end = performance.now() + effort.millisToWarmUp
  do {
    calls = Math.round(Math.min(calls * 4, Math.max(10, (calls * effort.millisPerRun) / Math.max(millis, 0.001))))
    millis = await checked(one, calls)
  } while (performance.now() < end)
  return Math.max(10, Math.round((calls * effort.millisPerRun) / Math.max(millis, 0.001)))
}

// Few enough that the young generation is not collected in between.
const callsForBytes = 200

const bytesOf = async (one: Case): Promise<number> => {
  collect("minor")
  const before = process.memoryUsage().heapUsed
  await checked(one, callsForBytes)
  return (process.memoryUsage().heapUsed - before) / callsForBytes
}

/** Measures the cases together with the empty loops. */
export const measure = async (cases: ReadonlyArray<Case>, effort: Effort): Promise<ReadonlyArray<Measured>> => {
  const all = [...empty, ...cases]
  const runs = []
  for (const one of all) {
    runs.push({ one, calls: await callsPerRun(one, effort), nanos: Array<number>(), bytes: Array<number>() })
  }
  for (let round = 0; round < effort.rounds; round++) {
    // Back and forth, so that nobody always comes after the same neighbour.
    for (const { calls, nanos, one } of round % 2 === 0 ? runs : runs.toReversed()) {
      collect("minor")
      nanos.push(((await checked(one, calls)) * 1e6) / calls)
    }
  }
  for (let round = 0; round < effort.byteRounds; round++) {
    for (const { bytes, one } of runs) bytes.push(await bytesOf(one))
  }
  const grossOf = runs.map(({ bytes, nanos, one }) => ({
    measured: one,
    rounds: nanos,
    gross: { nanos: median(nanos), bytes: Math.max(0, median(bytes)) }
  }))
  const loops = new Map<Loop, Cost>(grossOf.slice(0, empty.length).map(({ gross, measured }) => [measured.loop, gross]))
  return grossOf.map(({ gross, measured, rounds }) => {
    const loop = loops.get(measured.loop) ?? { nanos: 0, bytes: 0 }
    const net = {
      nanos: Math.max(1, gross.nanos - loop.nanos),
      bytes: Math.max(0, gross.bytes - loop.bytes)
    }
    return { measured, gross, net, rounds }
  })
}
