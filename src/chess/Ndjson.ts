/**
 * Splits a body of lines as it comes, with memory bounded by the longest line allowed.
 *
 * Bytes are only turned into text at line ends, so a character that is cut in two by the network is never seen as such.
 * A line may end with "\n" or "\r\n".
 */
import { Cause, Effect, Pull, Stream } from "effect"

/** What a piece of a body contained. */
export interface Lines {
  /** Complete lines, without their ends. */
  readonly lines: ReadonlyArray<string>
  /** The beginnings of lines that were over the limit; the rest of each was thrown away. */
  readonly tooLong: ReadonlyArray<string>
  /** Whether `lines` holds what came after the last line end of a body that has ended. */
  readonly unterminated: boolean
}

/** How much of a line that is too long is kept. */
const keptOfTooLong = 4096

/**
 * The lines of a body, all that are complete at a time together. It asks the body for more only when it is asked itself.
 * If the body fails, what came after the last line end is dropped.
 */
export const lines =
  (options: {
    /** The longest line, in bytes, without its end. */
    readonly maxLineBytes: number
  }) =>
  <E, R>(body: Stream.Stream<Uint8Array, E, R>): Stream.Stream<Lines, E, R> =>
    Stream.transformPull(body, (pull) =>
      Effect.sync(() => {
        const splitter = makeSplitter(options.maxLineBytes)
        let ended = false
        const next: Pull.Pull<readonly [Lines], E> = Effect.suspend(() => {
          if (ended) return Cause.done()
          return Pull.catchDone(
            Effect.flatMap(pull, (chunks) => {
              const found = splitter.push(chunks)
              return found === undefined ? next : Effect.succeed([found] as const)
            }),
            () => {
              ended = true
              const rest = splitter.end()
              return rest === undefined ? next : Effect.succeed([rest] as const)
            }
          )
        })
        return next
      })
    )

interface Splitter {
  /** Takes the next bytes, and returns what they completed, if anything. */
  readonly push: (chunks: ReadonlyArray<Uint8Array>) => Lines | undefined
  /** Takes the end, and returns what came after the last line end, if anything. */
  readonly end: () => Lines | undefined
}

// A line is measured before it is known whether its last byte is a "\r", so one byte more is let through.
const makeSplitter = (maxLineBytes: number): Splitter => {
  // The bytes of the line that is not complete yet, and how many they are.
  let held: Array<Buffer> = []
  let heldBytes = 0
  // The beginning of a line that is too long, while its rest goes by.
  let skipping: string | undefined

  const take = (tail: Buffer): string => {
    const bytes = heldBytes === 0 ? tail : Buffer.concat([...held, tail])
    held = []
    heldBytes = 0
    const end = bytes.at(-1) === carriageReturn ? bytes.length - 1 : bytes.length
    return bytes.toString("utf8", 0, end)
  }

  // Keeps the beginning of a line, or only the beginning of the beginning once the line is too long.
  const hold = (bytes: Buffer) => {
    if (skipping !== undefined || bytes.length === 0) return
    held.push(bytes)
    heldBytes += bytes.length
    if (heldBytes > maxLineBytes + 1) skipping = take(Buffer.alloc(0)).slice(0, keptOfTooLong)
  }

  return {
    push: (chunks) => {
      const lines: Array<string> = []
      const tooLong: Array<string> = []
      for (const chunk of chunks) {
        const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
        let start = 0
        for (let end = bytes.indexOf(lineFeed); end >= 0; end = bytes.indexOf(lineFeed, start)) {
          if (skipping === undefined && heldBytes + end - start > maxLineBytes + 1) hold(bytes.subarray(start, end))
          if (skipping === undefined) {
            lines.push(take(bytes.subarray(start, end)))
          } else {
            tooLong.push(skipping)
            skipping = undefined
          }
          start = end + 1
        }
        hold(bytes.subarray(start))
      }
      return lines.length === 0 && tooLong.length === 0 ? undefined : { lines, tooLong, unterminated: false }
    },
    end: () => {
      if (skipping !== undefined) return { lines: [], tooLong: [skipping], unterminated: true }
      return heldBytes === 0 ? undefined : { lines: [take(Buffer.alloc(0))], tooLong: [], unterminated: true }
    }
  }
}

const lineFeed = 0x0a
const carriageReturn = 0x0d
