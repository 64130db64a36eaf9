/**
 * Prints what was measured for people to read.
 */
import { ours } from "./cases.ts"
import type { Measured } from "./measure.ts"
import type { Scaled } from "./scale.ts"
import { isMet, type Result } from "./targets.ts"

const count = (amount: number) => Math.round(amount).toLocaleString("en-US")
const ratio = (amount: number) => amount.toFixed(amount < 0.1 ? 3 : 2)
const sized = (size: number, cost: number) => `${count(cost)} (${count(size)})`

/** Lines up the columns: the first `texts` of them to the left, the numbers to the right. */
const table = (texts: number, head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): void => {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: ReadonlyArray<string>) =>
    cells
      .map((cell, column) => (column < texts ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join("  ")
      .trimEnd()
  console.log(line(head))
  console.log(line(widths.map((width) => "-".repeat(width))))
  for (const row of rows) console.log(line(row))
}

/** Shows a name only where it changes. */
const grouped = (rows: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<ReadonlyArray<string>> =>
  rows.map((row, index) => {
    const above = rows[index - 1]
    const sameSubject = above?.[0] === row[0]
    const samePath = sameSubject && above?.[1] === row[1]
    return [sameSubject ? "" : (row[0] ?? ""), samePath ? "" : (row[1] ?? ""), ...row.slice(2)]
  })

/** Prints the calls, the sizes and the targets. */
export const print = (
  measured: ReadonlyArray<Measured>,
  scaled: ReadonlyArray<Scaled>,
  results: ReadonlyArray<Result>
): void => {
  console.log("What one call costs more than one with nothing around it, and with its turn of the loop\n")
  const baseOf = ({ path, subject }: Measured["measured"]) =>
    measured.find(({ measured: one }) => one.subject === subject && one.path === path && one.by === ours)
  table(
    3,
    ["primitive", "path", "by", "ns", "bytes", "ns with loop", `${ours} is`],
    grouped(
      measured.map(({ gross, measured: one, net }) => {
        const mine = baseOf(one)
        const empty = one.by === "none"
        return [
          one.subject,
          one.path,
          one.by,
          empty ? "" : count(net.nanos),
          empty ? "" : count(net.bytes),
          count(gross.nanos),
          mine === undefined || one.by === ours ? "" : `${ratio(mine.gross.nanos / gross.nanos)} x`
        ]
      })
    )
  )
  console.log("\nWhat stays the same as there is more of it\n")
  table(
    2,
    ["what", "by", "", "few", "many", "ratio"],
    grouped(
      scaled.map(({ by, large, small, subject, unit }) => [
        subject,
        by,
        unit,
        small === undefined ? "" : sized(small.size, small.cost),
        sized(large.size, large.cost),
        small === undefined ? "" : `${ratio(large.cost / small.cost)} x`
      ])
    )
  )
  console.log("\nTargets, of calls with their turn of the loop\n")
  table(
    1,
    ["target", "measured", "without loop", "at most", ""],
    results.map((result) => [
      result.promise,
      result.unit === "x" ? `${ratio(result.measured)} x` : `${count(result.measured)} bytes`,
      result.net === undefined ? "" : `${ratio(result.net)} x`,
      `${result.atMost} ${result.unit}`,
      isMet(result) ? "met" : "MISSED"
    ])
  )
}
