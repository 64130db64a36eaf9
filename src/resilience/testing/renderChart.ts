/**
 * Draws what happened in a simulation as an SVG picture.
 *
 * Three charts over one time axis: what became of the calls, what the upstream got, and how long answers took. Outages of
 * the world are shaded, times with an open circuit have a line along the top. It follows the reader's light or dark theme,
 * and tells its curves apart by dashes as well as by colour.
 */
import { Duration } from "effect"
import { clockTime, type Row, rowsOf } from "../internal/seriesOf.ts"
import type { Simulation } from "./simulate.ts"

/** What the picture says, and how wide it is. */
export interface ChartOptions {
  /** What stands above it. Defaults to nothing. */
  readonly title?: string | undefined
  /** In pixels: an integer from 640 to 4,000. Defaults to 960. */
  readonly width?: number | undefined
}

/** Draws a simulation. The text is a complete SVG document, which HTML can also contain as it is. */
export const renderChart = (simulation: Simulation, options: ChartOptions = {}): string => {
  const width = options.width ?? 960
  if (!(Number.isInteger(width) && width >= 640 && width <= 4_000)) {
    throw new RangeError(`renderChart: width must be an integer from 640 to 4000, got ${width}`)
  }
  const top = options.title === undefined ? 16 : 52
  const [left, right] = [64, width - 20]
  const rows = withoutRest(rowsOf(simulation, Math.floor((right - left) / 3)), simulation)
  const last = rows.at(-1)
  const frame = { left, right, longest: last === undefined ? 1_000 : last.atMillis + last.millis }
  const bottom = top + panels.length * (panelHeight + panelGap)
  const height = bottom + 42
  const unit = frame.longest >= 3_600_000 ? "hours:minutes:seconds" : "minutes:seconds"
  const { totals } = simulation
  const summary =
    `${totals.offered} calls, ${percent(totals.successRate)} succeeded, ` +
    `${(totals.load ?? 0).toFixed(2)} calls to the upstream for each`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${escape(options.title ?? "Simulation")}: ${escape(summary)}</title>`,
    `<style>${style}</style>`,
    `<rect class="er-page" width="${width}" height="${height}"/>`,
    ...(options.title === undefined
      ? []
      : [
          `<text class="er-head" x="${frame.left}" y="24">${escape(options.title)}</text>`,
          `<text class="er-note" x="${frame.left}" y="42">${escape(summary)}</text>`
        ]),
    ...panels.flatMap((panel, index) =>
      drawPanel(panel, simulation, rows, frame, top + index * (panelHeight + panelGap), index === 0)
    ),
    ...timeAxis(frame, top, bottom),
    `<text class="er-note er-middle" x="${(frame.left + frame.right) / 2}" y="${height - 10}">time, ${unit}</text>`,
    "</svg>"
  ].join("\n")
}

interface Frame {
  readonly left: number
  readonly right: number
  /** The time that the picture shows, in milliseconds. */
  readonly longest: number
}

interface Curve {
  readonly name: string
  readonly kind: "offered" | "good" | "refused" | "bad" | "load" | "running" | "p50" | "p99"
  readonly of: (row: Row) => number | undefined
}

interface Panel {
  readonly title: string
  readonly curves: ReadonlyArray<Curve>
}

const panels: ReadonlyArray<Panel> = [
  {
    title: "Calls per second",
    curves: [
      { name: "offered", kind: "offered", of: ({ offered }) => offered },
      { name: "succeeded", kind: "good", of: ({ successes }) => successes },
      { name: "refused", kind: "refused", of: ({ refused }) => refused },
      { name: "failed", kind: "bad", of: ({ failed }) => failed }
    ]
  },
  {
    title: "Load on the upstream",
    curves: [
      { name: "offered", kind: "offered", of: ({ offered }) => offered },
      { name: "calls per second", kind: "load", of: ({ upstreamCalls }) => upstreamCalls },
      { name: "running at most", kind: "running", of: ({ maxRunning }) => maxRunning }
    ]
  },
  {
    title: "Latency of successes, milliseconds",
    curves: [
      { name: "p50", kind: "p50", of: ({ p50 }) => p50 },
      { name: "p99", kind: "p99", of: ({ p99 }) => p99 }
    ]
  }
]

const panelHeight = 150
const panelGap = 44

const drawPanel = (
  { curves, title }: Panel,
  simulation: Simulation,
  rows: ReadonlyArray<Row>,
  frame: Frame,
  top: number,
  isFirst: boolean
): ReadonlyArray<string> => {
  const { left, right } = frame
  const from = top + 26
  const to = from + panelHeight
  const values = rows.flatMap((row) => curves.flatMap(({ of }) => of(row) ?? []))
  const step = roundStep(Math.max(...values, 0) / 4)
  const most = Math.max(step, Math.ceil(Math.max(...values, 0) / step - 1e-9) * step)
  const x = (millis: number) => pixel(left + ((right - left) * millis) / frame.longest)
  const y = (value: number) => pixel(to - ((to - from) * value) / most)

  const lines: Array<string> = [`<text class="er-title" x="${left}" y="${top + 14}">${escape(title)}</text>`]
  let legendAt = right
  const open = openTimes(rows)
  const legend: ReadonlyArray<Pick<Curve, "name" | "kind"> | { readonly name: string; readonly kind: "open" }> =
    isFirst && open.length > 0 ? [...curves, { name: "a circuit is open", kind: "open" }] : curves
  for (const { kind, name } of legend.toReversed()) {
    // As wide as the text is likely to be: nothing can measure it here.
    legendAt -= name.length * 7
    lines.push(`<text class="er-note" x="${pixel(legendAt)}" y="${top + 14}">${escape(name)}</text>`)
    lines.push(
      `<path class="${kind === "open" ? "" : "er-line "}er-${kind}" d="M${pixel(legendAt - 28)} ${top + 10}h22"/>`
    )
    legendAt -= 44
  }
  for (const { from: begin, kind, until } of simulation.world.upstream.outages ?? []) {
    const start = Duration.toMillis(begin)
    const end = Math.min(frame.longest, Duration.toMillis(until))
    if (start >= end) continue
    lines.push(
      `<rect class="er-outage" x="${x(start)}" y="${from}" width="${pixel(x(end) - x(start))}" height="${to - from}"/>`
    )
    if (isFirst && x(end) - x(start) > 56) {
      lines.push(`<text class="er-small" x="${pixel(x(start) + 5)}" y="${from + 14}">${kind}</text>`)
    }
  }
  for (let value = 0; value <= most * 1.0001; value += step) {
    lines.push(`<path class="er-grid" d="M${left} ${y(value)}H${right}"/>`)
    lines.push(`<text class="er-small er-end" x="${left - 8}" y="${pixel(y(value) + 4)}">${numeral(value)}</text>`)
  }
  for (const [start, end] of open) {
    lines.push(`<path class="er-open" d="M${x(start)} ${from - 4}H${x(Math.min(end, frame.longest))}"/>`)
  }
  for (const { kind, of } of curves) {
    const path = pathOf(rows, of, x, y)
    if (path !== "") lines.push(`<path class="er-line er-${kind}" d="${path}"/>`)
  }
  return lines
}

const timeAxis = (frame: Frame, top: number, bottom: number): ReadonlyArray<string> => {
  const { left, longest, right } = frame
  const step = timeSteps.find((step) => longest / step <= (right - left) / 90) ?? longest
  const lines: Array<string> = []
  for (let at = 0; at <= longest; at += step) {
    const x = pixel(left + ((right - left) * at) / longest)
    for (let panel = 0; panel < panels.length; panel++) {
      const to = top + 26 + panelHeight + panel * (panelHeight + panelGap)
      lines.push(`<path class="er-tick" d="M${x} ${to}v5"/>`)
    }
    lines.push(`<text class="er-small er-middle" x="${x}" y="${bottom + 2}">${clockTime(at, longest)}</text>`)
  }
  return lines
}

// Points where something is known, joined; a gap where nothing is.
const pathOf = (
  rows: ReadonlyArray<Row>,
  of: (row: Row) => number | undefined,
  x: (millis: number) => number,
  y: (value: number) => number
): string => {
  let path = ""
  let joined = false
  for (const row of rows) {
    const value = of(row)
    if (value !== undefined) {
      const at = `${x(row.atMillis + row.millis / 2)} ${y(value)}`
      // A point without neighbours is a short stroke.
      path += joined ? `L${at}` : `M${at}h0.1`
    }
    joined = value !== undefined
  }
  return path
}

const openTimes = (rows: ReadonlyArray<Row>): ReadonlyArray<readonly [start: number, end: number]> => {
  const times: Array<readonly [number, number]> = []
  for (const { atMillis, millis, openCircuits } of rows) {
    if (openCircuits === 0) continue
    const last = times.at(-1)
    if (last !== undefined && last[1] === atMillis) times[times.length - 1] = [last[0], atMillis + millis]
    else times.push([atMillis, atMillis + millis])
  }
  return times
}

// A few buckets after the last call, in which some calls still end, would look like a break-down.
const withoutRest = (rows: ReadonlyArray<Row>, { world }: Simulation): ReadonlyArray<Row> => {
  const [first] = rows
  const last = rows.at(-1)
  const isRest =
    first !== undefined &&
    last !== undefined &&
    last.millis < first.millis &&
    last.atMillis >= Duration.toMillis(world.duration)
  return isRest ? rows.slice(0, -1) : rows
}

const roundStep = (least: number): number => {
  if (!(least > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(least))
  return ([1, 2, 5].find((factor) => factor * power >= least * 0.9999) ?? 10) * power
}

const second = 1_000
const minute = 60_000
const hour = 3_600_000
const day = 86_400_000
const timeSteps = [
  ...[0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30].map((seconds) => seconds * second),
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * minute),
  ...[1, 2, 3, 6, 12].map((hours) => hours * hour),
  ...[1, 2, 5, 10, 20, 50, 100].map((days) => days * day)
]

const pixel = (value: number): number => Math.round(value * 10) / 10

const numeral = (value: number): string => String(Number(value.toPrecision(6)))

const percent = (part: number | undefined): string => (part === undefined ? "0 %" : `${(part * 100).toFixed(1)} %`)

const escape = (text: string): string => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

// Colours that those who cannot tell red from green can tell apart (Okabe and Ito, 2008), darker on white.
const style = `
.er-page{fill:#ffffff}
.er-head{font:600 17px system-ui,sans-serif;fill:#1b1f24}
.er-title{font:600 13px system-ui,sans-serif;fill:#1b1f24}
.er-note{font:12px system-ui,sans-serif;fill:#4b535d}
.er-small{font:11px system-ui,sans-serif;fill:#5c6570}
.er-end{text-anchor:end}.er-middle{text-anchor:middle}
.er-grid{stroke:#e3e6ea;stroke-width:1;fill:none}
.er-tick{stroke:#9aa2ac;stroke-width:1}
.er-outage{fill:#f3c6bd;fill-opacity:.4}
.er-open{stroke:#b3261e;stroke-width:4}
.er-line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.er-offered{stroke:#87909b;stroke-dasharray:2 4}
.er-good{stroke:#00795a}
.er-refused{stroke:#c67a00;stroke-dasharray:7 3}
.er-bad{stroke:#c0392b;stroke-dasharray:3 3}
.er-load{stroke:#0060a8}
.er-running{stroke:#a04f86;stroke-dasharray:7 3}
.er-p50{stroke:#00795a}
.er-p99{stroke:#c67a00;stroke-dasharray:7 3}
@media (prefers-color-scheme:dark){
.er-page{fill:#14171c}
.er-head,.er-title{fill:#eef1f5}
.er-note{fill:#b4bcc6}.er-small{fill:#a3abb6}
.er-grid{stroke:#2b313a}.er-tick{stroke:#69727e}
.er-outage{fill:#8a3b2e;fill-opacity:.3}.er-open{stroke:#ff6b5e}
.er-offered{stroke:#8d97a3}.er-good,.er-p50{stroke:#2fc79b}.er-refused,.er-p99{stroke:#f0ab3d}
.er-bad{stroke:#ff7a6b}.er-load{stroke:#5bb4f5}.er-running{stroke:#dd8fc0}
}
`
