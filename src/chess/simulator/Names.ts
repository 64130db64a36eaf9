/**
 * Invents names of players.
 *
 * Opponents come from one list of a few thousand made-up handles; no real player is meant.
 */
import * as Hash from "./Hash.ts"

/** An invented opponent. */
export interface Opponent {
  readonly name: string
  readonly id: string
  readonly title: string | undefined
  readonly flair: string | undefined
  readonly patron: boolean
  /** Chess.com's id of the account. */
  readonly uuid: string
}

/** How many opponents there are. */
export const opponents = 4096

/** Creates the list of opponents; the same seed gives the same list. */
export const make = (seed: number): ReadonlyArray<Opponent> =>
  Array.from({ length: opponents }, (_, index) => {
    const bits = Hash.combine(seed ^ 0x6e616d65, index)
    const word = firsts[bits % firsts.length]! + lasts[(bits >>> 8) % lasts.length]!
    // The number keeps the handles apart; most of them show it, as handles do.
    const name = `${word}${separators[(bits >>> 16) & 3]}${index.toString(36)}`
    return {
      name,
      id: name.toLowerCase(),
      title: (bits >>> 20) % 40 === 0 ? titles[(bits >>> 26) % titles.length] : undefined,
      flair: (bits >>> 20) % 11 === 0 ? flairs[(bits >>> 26) % flairs.length] : undefined,
      patron: (bits >>> 20) % 17 === 0,
      uuid: uuid(Hash.mix(bits), bits, Hash.combine(bits, index))
    }
  })

/** 96 bits in the shape of Chess.com's identifiers. */
export const uuid = (first: number, second: number, third: number): string => {
  const middle = Hash.hex(second)
  const end = Hash.hex(third)
  return `${Hash.hex(first)}-${middle.slice(0, 4)}-11ef-b${middle.slice(4, 7)}-6c${end}${middle.slice(6)}`
}

const firsts =
  "Quavo Zimbre Tolka Brenno Yurel Mistra Fendo Garru Hesko Jolvi Krandu Lorpe Nebbi Ostra Plim Rudvo Selku Trovi Ulmo Vesti Wembi Xarro Drumo Cindo Belta".split(
    " "
  )
const lasts =
  "rook pawn knite fork pin skewer tempo gambit flank file rank castle blitzer endgamer passer tactic mover zug bishop luft".split(
    " "
  )
const separators = ["_", "-", "", "_x"]
const titles = ["GM", "IM", "FM", "WGM", "CM", "NM", "LM"]
const flairs = ["nature.bear", "activity.lifting-weights", "objects.crown", "smileys.ghost"]
