/**
 * Writes what happened in a simulation as a table of text.
 */
import { Duration } from "effect"
import { clockTime, rowsOf } from "../internal/seriesOf.ts"
import type { Simulation } from "./simulate.ts"

/** How long the table may be. */
export interface TableOptions {
  /** Rows at most for the duration of the world: an integer of at least 1. What ends later has more. Defaults to 30. */
  readonly maxRows?: number | undefined
}

/**
 * Writes a simulation as a table: a row for each stretch of time, its rates per second, then the totals. Of several
 * buckets in a row, `p50` is the median of theirs, `p99` and `running` are the greatest.
 */
export const renderTable = (simulation: Simulation, options: TableOptions = {}): string => {
  const maxRows = options.maxRows ?? 30
  if (!(Number.isInteger(maxRows) && maxRows >= 1)) {
    throw new RangeError(`renderTable: maxRows must be an integer >= 1, got ${maxRows}`)
  }
  const rows = rowsOf(simulation, maxRows)
  const { totals } = simulation
  const longest = simulation.buckets.length * Duration.toMillis(simulation.bucket)
  const withCircuits = simulation.transitions.length > 0
  const columns = [
    "time",
    "calls/s",
    "upstream/s",
    "ok/s",
    "refused/s",
    "failed/s",
    "p50 ms",
    "p99 ms",
    "running",
    ...(withCircuits ? ["open circuits"] : [])
  ]
  const cells = rows.map((row) => [
    clockTime(row.atMillis, longest),
    rate(row.offered),
    rate(row.upstreamCalls),
    rate(row.successes),
    rate(row.refused),
    rate(row.failed),
    millis(row.p50),
    millis(row.p99),
    String(row.maxRunning),
    ...(withCircuits ? [row.openCircuits === 0 ? "" : String(row.openCircuits)] : [])
  ])
  const widths = columns.map((name, index) => Math.max(name.length, ...cells.map((row) => (row[index] ?? "").length)))
  const line = (row: ReadonlyArray<string>) =>
    row
      .map((cell, index) => cell.padStart(widths[index] ?? 0))
      .join("  ")
      .trimEnd()
  const ends = [
    ["succeeded", totals.successes] as const,
    ...Object.entries(totals.refused),
    ...Object.entries(totals.failed),
    ["lost patience", totals.abandoned] as const
  ].filter(([name, count]) => count > 0 || name === "succeeded")
  const summary = [
    `${totals.offered} calls: ${ends.map(([name, count]) => `${count} ${name}`).join(", ")}`,
    `${totals.upstreamCalls} calls to the upstream${totals.load === undefined ? "" : `, ${totals.load.toFixed(2)} for each`}; ` +
      `${totals.extraCalls} were repeated, ${totals.turnedAway} turned away; at most ${totals.maxRunning} at a time`
  ]
  const { calls, fibers } = simulation.leftover
  if (calls > 0) summary.push(`${calls} calls had not ended`)
  if (fibers > 0) summary.push(`${fibers} fibers were left over`)
  return [line(columns), ...cells.map(line), "", ...summary].join("\n")
}

const rate = (perSecond: number): string =>
  perSecond === 0 ? "–" : perSecond >= 100 ? perSecond.toFixed(0) : perSecond.toFixed(1)

const millis = (value: number | undefined): string =>
  value === undefined ? "–" : value >= 10 ? value.toFixed(0) : value.toFixed(1)
