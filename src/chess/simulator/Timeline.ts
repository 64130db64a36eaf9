/**
 * Says when a player's games took place: game number in, instant out, and back.
 *
 * The first `games` games are spread over the months from `from` to `to`, unevenly and with months without any. If
 * `everyMillis` is given, one more game follows each time that much has passed after `growsFrom`. Instants never
 * decrease with the number; now and then two neighbours share one. Only the months are kept, never the games.
 */
import * as Calendar from "./Calendar.ts"
import * as Hash from "./Hash.ts"

/** The times of one player's games. */
export interface Timeline {
  /** When a game took place, in epoch milliseconds. */
  readonly at: (index: number) => number
  /** How many games have taken place up to and including an instant. */
  readonly count: (nowMillis: number) => number
  /** The number of the first of `count` games that took place at or after an instant; `count` if none did. */
  readonly firstFrom: (millis: number, count: number) => number
  /** The months that hold any of the first `count` games, oldest first. */
  readonly months: (count: number) => ReadonlyArray<Month>
}

/** A month with games: those from `first` up to, not including, `end`. */
export interface Month {
  readonly year: number
  readonly month: number
  readonly first: number
  readonly end: number
}

/** What decides a timeline. All instants are epoch milliseconds. */
export interface Options {
  readonly hash: number
  readonly games: number
  readonly from: number
  readonly to: number
  readonly growsFrom: number
  readonly everyMillis: number | undefined
  /** Whether neighbours may share an instant. */
  readonly ties: boolean
}

interface Span extends Month {
  readonly start: number
  readonly step: number
}

/** Creates the timeline. */
export const make = (options: Options): Timeline => {
  const { everyMillis, games, growsFrom, hash } = options
  const spans = spread(options)

  const spanOf = (index: number): Span | undefined => {
    let low = 0
    let high = spans.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (spans[middle]!.first <= index) low = middle
      else high = middle - 1
    }
    return spans[low]
  }

  const at = (index: number): number => {
    if (index >= games) return growsFrom + (index - games + 1) * (everyMillis ?? 0)
    const span = spanOf(index)
    if (span === undefined) return options.from
    const jitter = Hash.combine(hash, index)
    const tied = options.ties && index > span.first && (jitter & 127) === 0
    const number = tied ? index - 1 : index
    const bits = tied ? Hash.combine(hash, number) : jitter
    return Math.floor(span.start + (number - span.first + 0.05 + 0.9 * Hash.unit(bits)) * span.step)
  }

  const firstFrom = (millis: number, count: number): number => {
    let low = 0
    let high = count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (at(middle) >= millis) high = middle
      else low = middle + 1
    }
    return low
  }

  return {
    at,
    firstFrom,
    count: (nowMillis) =>
      everyMillis === undefined || nowMillis < growsFrom
        ? games
        : games + Math.floor((nowMillis - growsFrom) / everyMillis),
    months: (count) => {
      const months: Array<Month> = spans.map(({ end, first, month, year }) => ({ year, month, first, end }))
      let next = games
      while (next < count) {
        const { month, year } = Calendar.fromMillis(at(next))
        const end = firstFrom(Calendar.monthStart(year, month + 1), count)
        const last = months.at(-1)
        if (last !== undefined && last.year === year && last.month === month) {
          months[months.length - 1] = { ...last, end }
        } else {
          months.push({ year, month, first: next, end })
        }
        next = end
      }
      return months
    }
  }
}

const spread = ({ from, games, hash, to }: Options): ReadonlyArray<Span> => {
  const begin = Calendar.fromMillis(from)
  const end = Calendar.fromMillis(to - 1)
  const length = (end.year - begin.year) * 12 + end.month - begin.month + 1
  const weights = Array.from({ length }, (_, index) => {
    const bits = Hash.combine(hash ^ 0x2545f491, index)
    const played = index === 0 || index === length - 1 || (bits & 7) > 1
    return played ? 0.15 + Hash.unit(Hash.mix(bits)) : 0
  })
  const total = weights.reduce((sum, weight) => sum + weight, 0)

  const spans: Array<Span> = []
  let weight = 0
  let first = 0
  for (let index = 0; index < length; index++) {
    weight += weights[index]!
    // The last game is left for the last month.
    const last = index === length - 1 ? games : Math.min(Math.round((games * weight) / total), Math.max(0, games - 1))
    if (last === first) continue
    const start = Math.max(from, Calendar.monthStart(begin.year, begin.month + index))
    const stop = Math.min(to, Calendar.monthStart(begin.year, begin.month + index + 1))
    const { month, year } = Calendar.fromMillis(start)
    spans.push({ year, month, first, end: last, start, step: (stop - start) / (last - first) })
    first = last
  }
  return spans
}
