/**
 * Turns games into the steps of a body, with the faults that hit it.
 *
 * Without faults and throttle, games are packed into chunks of about 64 KiB.
 */
import { Buffer } from "node:buffer"
import type { Hit } from "./Faults.ts"
import * as Hash from "./Hash.ts"
import { maxGameBytes, type Writer } from "./LichessGames.ts"
import type { Body, Step } from "./Reply.ts"

/** How to make a body out of games, each one line. */
export interface StreamOptions {
  /** How many games there are. */
  readonly total: number
  /** The number of the next game, if there is one. */
  readonly next: () => number | undefined
  readonly writer: Writer
  readonly faults: ReadonlyArray<Hit>
  /** Games a second, evenly; `undefined` for as fast as they are read. */
  readonly gamesPerSecond: number | undefined
  readonly close: () => void
}

/** A body with one game a line. */
export const stream = (options: StreamOptions): Body => {
  const close = once(options.close)
  if (options.faults.length === 0 && options.gamesPerSecond === undefined) {
    return {
      close,
      next: () => {
        const { next, writer } = options
        const chunk = Buffer.allocUnsafe(chunkLength + maxGameBytes)
        let end = 0
        while (end < chunkLength) {
          const index = next()
          if (index === undefined) break
          end = writer.into(index, chunk, end)
          chunk[end++] = lineEnd
        }
        return end === 0 ? "end" : chunk.subarray(0, end)
      }
    }
  }
  return fromSteps(lineSteps(options), close)
}

const chunkLength = 65_536
const lineEnd = 10

/** The games of a body with the faults in them: some twice, some in other places, some that are none. */
export function* withGameFaults(
  games: Iterable<string>,
  total: number,
  faults: ReadonlyArray<Hit>
): Generator<string, void> {
  let current = games
  for (const fault of faults) current = withGameFault(current, total, fault)
  yield* current
}

/** A body whose bytes are known, with the faults that hit them. `games` is how many it carries. */
export const bytes = (content: Uint8Array, games: number, faults: ReadonlyArray<Hit>): Uint8Array | Body =>
  faults.length === 0 ? content : fromSteps(byteSteps(content, games, faults), () => {})

/** Whether a fault changes the steps of a body whose bytes are known. */
export const changesBytes = (fault: Hit): boolean => byteFaults.has(fault.kind)

const byteFaults: ReadonlySet<string> = new Set([
  "cut-in-game",
  "cut-between-games",
  "end-early",
  "stall",
  "drip",
  "split",
  "truncated-gzip",
  "wrong-length"
])

const once = (effect: () => void): (() => void) => {
  let called = false
  return () => {
    if (called) return
    called = true
    effect()
  }
}

type Steps = Generator<Step, void, number>

const fromSteps = (steps: Steps, close: () => void): Body => {
  let over: Step | undefined
  return {
    close: once(close),
    next: (nowMillis) => {
      if (over !== undefined) return over
      const { done, value } = steps.next(nowMillis)
      const step = done === true || value === undefined ? "end" : value
      if (typeof step === "string") over = step
      return step
    }
  }
}

/** After how many games a fault strikes. */
const position = (fault: Hit, total: number): number => fault.after ?? fault.bits % Math.max(1, Math.min(total, 1000))

function* pulled({ next, writer }: StreamOptions): Generator<string, void> {
  for (let index = next(); index !== undefined; index = next()) yield writer.text(index)
}

function* withGameFault(games: Iterable<string>, total: number, fault: Hit): Generator<string, void> {
  const huge = position(fault, total)
  let held: string | undefined
  let count = 0
  for (const game of games) {
    count++
    const struck = count % fault.every === 0
    if (fault.kind === "duplicate-games") {
      yield game
      if (struck) yield game
    } else if (fault.kind === "unordered-games") {
      if (struck) {
        held = game
      } else {
        yield game
        if (held !== undefined) yield held
        held = undefined
      }
    } else if (fault.kind === "missing-games") {
      if (!struck) yield game
    } else if (fault.kind === "odd-games") {
      if (struck) yield notGames[(count / fault.every) % notGames.length]!
      yield game
    } else if (fault.kind === "huge-game" && count === huge + 1) {
      yield `${game.slice(0, -1)},"note":"${"x".repeat(1_100_000)}"}`
    } else {
      yield game
    }
  }
  if (held !== undefined) yield held
}

// Each of them is JSON, so that one is odd in a month without breaking the others.
const notGames = ['{"id":"?"}', "null", "[]", '{"id":17,"uuid":17,"url":null}', '"game"', "{}"]

function* lineSteps(options: StreamOptions): Steps {
  const { faults, gamesPerSecond, total } = options
  const interval = gamesPerSecond === undefined ? 0 : 1000 / gamesPerSecond
  const lines = withGameFaults(pulled(options), total, faults)
  const find = (kind: Hit["kind"]): Hit | undefined => faults.find((fault) => fault.kind === kind)
  const at = (kind: Hit["kind"]): number => {
    const fault = find(kind)
    return fault === undefined ? Number.POSITIVE_INFINITY : position(fault, total)
  }
  const cutInGame = at("cut-in-game")
  const cutBetween = at("cut-between-games")
  const endEarly = at("end-early")
  const stall = at("stall")
  const drip = at("drip")
  const dripMillis = find("drip")?.delayMillis ?? 20_000
  const split = find("split")
  const blank = find("blank-lines")

  let now = yield { millis: 0 }
  let due = now
  let sent = 0
  for (const line of lines) {
    if (sent === endEarly) return
    if (sent === cutBetween || sent === stall) {
      yield sent === stall ? "stall" : "reset"
      return
    }
    if (sent >= drip) due = now + dripMillis
    if (due > now) now = yield { millis: due - now }
    // A reader that was slow gets at most a second's games at once.
    due = Math.max(due, now - 1000) + interval
    if (sent === cutInGame) {
      yield Buffer.from(line.slice(0, Math.ceil(line.length / 2)))
      yield "reset"
      return
    }
    const ended =
      blank === undefined ? `${line}\n` : `${line}\r\n${sent % 3 === 0 ? "\r\n" : sent % 3 === 1 ? "\n" : ""}`
    const content = Buffer.from(ended)
    if (split === undefined) now = yield content
    else now = yield* pieces(content, Hash.combine(split.bits, sent), now)
    sent++
  }
  // A position past the end strikes at the end.
  if (cutInGame !== Number.POSITIVE_INFINITY || cutBetween !== Number.POSITIVE_INFINITY) yield "reset"
  else if (stall !== Number.POSITIVE_INFINITY) yield "stall"
}

function* byteSteps(content: Uint8Array, games: number, faults: ReadonlyArray<Hit>): Steps {
  const now = yield { millis: 0 }
  for (const fault of faults) {
    const share = games === 0 ? 0.5 : Math.min(1, (position(fault, games) + 0.5) / games)
    const place = Math.min(content.length - 1, Math.max(1, Math.floor(content.length * share)))
    switch (fault.kind) {
      case "cut-in-game":
      case "cut-between-games":
        yield content.subarray(0, place)
        yield "reset"
        return
      case "end-early":
      case "truncated-gzip":
        yield content.subarray(0, place)
        return
      case "stall":
        yield content.subarray(0, place)
        yield "stall"
        return
      case "wrong-length":
        yield content
        yield "reset"
        return
      case "drip":
        yield content.subarray(0, place)
        for (let from = place; from < content.length; from += dripBytes) {
          yield { millis: fault.delayMillis ?? 20_000 }
          yield content.subarray(from, from + dripBytes)
        }
        return
      case "split":
        yield* pieces(content, fault.bits, now)
        return
      default:
    }
  }
  yield content
}

const dripBytes = 2000

// Ends a chunk inside the first character that takes more than one byte, and at places from the seed.
function* pieces(content: Uint8Array, bits: number, nowMillis: number): Generator<Step, number, number> {
  const random = Hash.sequence(bits)
  const wide = content.findIndex((byte) => byte >= 0x80)
  let now = nowMillis
  let from = 0
  while (from < content.length) {
    const length = 1 + Math.floor(random() * (content.length / 3))
    const to = wide >= from && wide < from + length ? wide + 1 : from + length
    now = yield content.subarray(from, to)
    from = Math.min(to, content.length)
  }
  return now
}
