/**
 * When calls come, by the rates of a world.
 *
 * Calls come when the integral of the rate has grown by 1, or for independent ones by a number drawn from the
 * exponential distribution: that is a Poisson process whose rate changes (Lewis and Shedler, 1979).
 */
import { Duration, type Random } from "effect"
import type { World } from "../testing/World.ts"
import { exponential } from "./sampler.ts"

interface Piece {
  readonly from: number
  readonly to: number
  /** Calls per millisecond at both ends. */
  readonly rate: number
  readonly lastRate: number
}

/** Makes what gives the time of the next call in milliseconds, `Infinity` when no more come. */
export const arrivalTimes = (arrivals: NonNullable<World["arrivals"]>, random: Random.Random): (() => number) => {
  const pieces = piecesOf(arrivals.perSecond)
  const even = arrivals.spacing === "even"
  let piece = 0
  let at = 0
  let first = true
  return () => {
    // At equal distances the first comes at once, so that as many come as the rate says.
    let missing = even ? (first ? 0 : 1) : exponential(random)
    first = false
    for (; piece < pieces.length; piece++) {
      const current = pieces[piece]
      if (current === undefined) break
      at = Math.max(at, current.from)
      const rate = rateAt(current, at)
      const calls = ((rate + rateAt(current, current.to)) / 2) * (current.to - at)
      if (calls > 0 && calls >= missing) {
        if (missing > 0) at += timeFor(missing, rate, slope(current))
        return at
      }
      if (calls > 0) missing -= calls
      at = current.to
    }
    return Infinity
  }
}

type Rates = NonNullable<World["arrivals"]>["perSecond"]

const piecesOf = (rates: Rates): ReadonlyArray<Piece> => {
  if (typeof rates === "number") {
    return [{ from: 0, to: Infinity, rate: rates / 1_000, lastRate: rates / 1_000 }]
  }
  const pieces: Array<Piece> = []
  let before = 0
  rates.forEach(({ from, perSecond, ramp }, index) => {
    const start = Duration.toMillis(from)
    const reached = start + (ramp === undefined ? 0 : Duration.toMillis(ramp))
    const next = rates[index + 1]
    const rate = perSecond / 1_000
    if (reached > start) pieces.push({ from: start, to: reached, rate: before, lastRate: rate })
    const to = next === undefined ? Infinity : Duration.toMillis(next.from)
    if (to > reached) pieces.push({ from: reached, to, rate, lastRate: rate })
    before = rate
  })
  return pieces
}

const slope = ({ from, lastRate, rate, to }: Piece): number => (rate === lastRate ? 0 : (lastRate - rate) / (to - from))

const rateAt = (piece: Piece, at: number): number =>
  piece.rate === piece.lastRate ? piece.rate : piece.rate + slope(piece) * (at - piece.from)

// Solves rate * t + slope * t² / 2 = calls in the form that loses no digits.
const timeFor = (calls: number, rate: number, slope: number): number =>
  (2 * calls) / (rate + Math.sqrt(Math.max(0, rate * rate + 2 * slope * calls)))
