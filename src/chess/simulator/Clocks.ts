/**
 * Time controls, and the time each move of a game took.
 *
 * The times are a function of the pool game and the control, so that what they render to can be kept and reused.
 */
import type { Colour, PooledGame } from "./GamePool.ts"
import * as Hash from "./Hash.ts"

/** A control with a clock, in seconds. */
export interface Control {
  readonly number: number
  readonly base: number
  readonly increment: number
}

/** What the clocks showed in one game. */
export interface Clocks {
  /** Centiseconds left to the mover after each ply. */
  readonly left: ReadonlyArray<number>
  /** Centiseconds the whole game took. */
  readonly used: number
}

const controls = [
  [60, 0],
  [60, 1],
  [120, 1],
  [180, 0],
  [180, 2],
  [300, 0],
  [300, 3],
  [600, 0],
  [600, 5],
  [900, 10],
  [1800, 0],
  [1800, 20],
  [15, 0]
] as const

// How often each is played: blitz most, the slow and the very fast seldom.
const frequent = [0, 0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 7, 7, 8, 9, 9, 10, 11, 12]

const table: ReadonlyArray<Control> = controls.map(([base, increment], number) => ({ number, base, increment }))

/** The control that some bits choose. */
export const controlOf = (bits: number): Control => table[frequent[bits % frequent.length]!]!

/** How long a game is expected to last, in seconds. */
export const expected = (control: Control): number => control.base + 40 * control.increment

/** The clocks of a game under a control. */
export const play = (game: PooledGame, control: Control): Clocks => {
  const random = Hash.sequence(Hash.combine(game.number, control.number + 1))
  const remaining: Record<Colour, number> = { white: control.base * 100, black: control.base * 100 }
  const usual = Math.min((control.base * 100) / 45, 900) + control.increment * 50
  const left: Array<number> = []
  let used = 0
  for (let ply = 0; ply < game.moves.length; ply++) {
    const colour = ply % 2 === 0 ? "white" : "black"
    const wanted = ply < 2 ? 20 : Math.ceil(usual * -Math.log(1 - random() * 0.999) * (ply < 12 ? 0.4 : 1.2))
    const spent = Math.min(wanted, Math.floor(remaining[colour] * 0.6))
    used += spent
    remaining[colour] += control.increment * 100 - spent
    left.push(remaining[colour])
  }
  return { left, used }
}

/** Hours, minutes and seconds as in `[%clk 0:03:00]`. */
export const toSeconds = (centis: number): string => {
  const seconds = Math.floor((centis + 50) / 100)
  return `${Math.floor(seconds / 3600)}:${pad(Math.floor(seconds / 60) % 60)}:${pad(seconds % 60)}`
}

/** The same with tenths, which are left out when they are zero. */
export const toTenths = (centis: number): string => {
  const tenths = Math.floor(centis / 10)
  const seconds = Math.floor(tenths / 10)
  const rest = tenths % 10 === 0 ? "" : `.${tenths % 10}`
  return `${Math.floor(seconds / 3600)}:${pad(Math.floor(seconds / 60) % 60)}:${pad(seconds % 60)}${rest}`
}

const pad = (value: number): string => (value < 10 ? `0${value}` : String(value))

/** Renders each game of the pool once for each time control, when it is first asked for. */
export const renderOnce = <A extends object>(
  render: (game: PooledGame, control: Control) => A
): ((game: PooledGame, control: Control) => A) => {
  const rendered = new Map<number, A>()
  return (game, control) => {
    const key = game.number * 64 + control.number
    const known = rendered.get(key)
    if (known !== undefined) return known
    const made = render(game, control)
    rendered.set(key, made)
    return made
  }
}
