/**
 * Writes the demo's account to the terminal.
 *
 * Where the output is a terminal, a live block is redrawn in place; where it is a file or a pipe, a line is written only
 * when a whole second has brought something new.
 */
import { Clock, Context, Effect, Layer, Ref, Terminal } from "effect"

/** What the demo writes with. */
export class Screen extends Context.Service<
  Screen,
  {
    readonly heading: (text: string) => Effect.Effect<void>
    readonly line: (text?: string) => Effect.Effect<void>
    /** Rows in aligned columns, the first one a header. */
    readonly table: (rows: ReadonlyArray<ReadonlyArray<string>>) => Effect.Effect<void>
    /** Draws the block over its previous state. `settled` leaves it as it is and starts a new one. */
    readonly live: (block: ReadonlyArray<string>, options?: { readonly settled: boolean }) => Effect.Effect<void>
  }
>()("effect-resilience/chess/demo/Screen") {}

/** Provides `Screen` on the process's terminal. */
export const layer: Layer.Layer<Screen, never, Terminal.Terminal> = Layer.effect(
  Screen,
  Effect.gen(function* () {
    const terminal = yield* Terminal.Terminal
    const isTerminal = (yield* terminal.columns) > 0
    const write = (text: string) => Effect.orDie(terminal.display(text))
    const style = (code: number) => (text: string) => (isTerminal ? `\u001b[${code}m${text}\u001b[0m` : text)
    const bold = style(1)
    const dim = style(2)
    const drawn = yield* Ref.make<{ readonly lines: number; readonly text: string; readonly at: number }>(nothingDrawn)

    return Screen.of({
      heading: (text) => write(`\n${bold(text)}\n`),
      line: (text = "") => write(`${text}\n`),
      table: (rows) =>
        write(
          align(rows)
            .map((row, index) => `  ${index === 0 ? dim(row) : row}\n`)
            .join("")
        ),
      live: Effect.fnUntraced(function* (block, options) {
        const settled = options?.settled === true
        const before = yield* Ref.get(drawn)
        const now = yield* Clock.currentTimeMillis
        const text = block.map((each) => `  ${each}\n`).join("")
        if (isTerminal) {
          const up = before.lines === 0 ? "" : `\u001b[${before.lines}A`
          yield* write(`${up}${text.replaceAll("\n", "\u001b[K\n")}`)
          yield* Ref.set(drawn, settled ? nothingDrawn : { lines: block.length, text, at: now })
        } else if (text !== before.text && (settled || now - before.at >= 1_000)) {
          yield* write(before.text === "" ? text : `\n${text}`)
          yield* Ref.set(drawn, settled ? nothingDrawn : { lines: 0, text, at: now })
        }
      })
    })
  })
)

/** A bar of `width` characters, `done` of `total` of them filled. */
export const bar = (done: number, total: number, width = 28): string => {
  const filled = total === 0 ? width : Math.round((Math.min(done, total) / total) * width)
  return "█".repeat(filled) + "░".repeat(width - filled)
}

const nothingDrawn = { lines: 0, text: "", at: 0 }

const align = (rows: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd()
  )
}
