/**
 * Deterministic bits: the same numbers always give the same answer, in any order and on any machine.
 *
 * Everything the stand-ins make up (names, games, times, latencies, which request fails) is a function of a seed and of
 * what is asked for, so nothing has to be remembered and two runs are alike. Not for cryptography.
 */

/** Scrambles 32 bits (the finalizer of MurmurHash3). */
export const mix = (value: number): number => {
  let bits = value | 0
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}

/** Combines two numbers into 32 scrambled bits; the order matters. */
export const combine = (left: number, right: number): number =>
  mix(Math.imul(left ^ 0x9e3779b9, 0x85ebca6b) + mix(right ^ 0x5bd1e995))

/** Turns a text into 32 scrambled bits (FNV-1a, then `mix`). */
export const ofText = (text: string, seed: number): number => {
  let bits = 0x811c9dc5 ^ seed
  for (let index = 0; index < text.length; index++) {
    bits = Math.imul(bits ^ text.charCodeAt(index), 0x01000193)
  }
  return mix(bits)
}

/** Maps 32 bits to a number in [0, 1). */
export const unit = (bits: number): number => (bits >>> 0) / 0x1_0000_0000

/** Draws numbers in [0, 1), one after another. */
export const sequence = (seed: number): (() => number) => {
  let state = mix(seed)
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    return unit(mix(state))
  }
}

/** 32 bits as eight lower-case hexadecimal digits. */
export const hex = (bits: number): string => (bits >>> 0).toString(16).padStart(8, "0")
