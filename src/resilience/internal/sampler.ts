/**
 * Draws times from the distributions of a world.
 */
import { Duration, type Random } from "effect"
import type { Distribution } from "../testing/World.ts"

/** Draws the next time in milliseconds. */
export type Sampler = () => number

/** Makes what draws times from a distribution. */
export const sampler = (distribution: Distribution, random: Random.Random): Sampler => {
  if (Duration.isDuration(distribution)) {
    const always = Duration.toMillis(distribution)
    return () => always
  }
  switch (distribution.kind) {
    case "uniform": {
      const min = Duration.toMillis(distribution.min)
      const range = Duration.toMillis(distribution.max) - min
      return () => min + range * random.nextDoubleUnsafe()
    }
    case "lognormal": {
      const p50 = Duration.toMillis(distribution.p50)
      const sigma = Math.log(Duration.toMillis(distribution.p99) / p50) / normalP99
      return () => p50 * Math.exp(sigma * normal(random))
    }
    case "exponential": {
      const mean = Duration.toMillis(distribution.mean)
      return () => mean * exponential(random)
    }
  }
}

/** Draws from the exponential distribution whose mean is 1. */
export const exponential = (random: Random.Random): number => -Math.log(1 - random.nextDoubleUnsafe())

/** Makes what draws an index in proportion to weights, of which one is over zero. */
export const chooser = (weights: ReadonlyArray<number>, random: Random.Random): (() => number) => {
  if (weights.length === 1) return () => 0
  const sums: Array<number> = []
  let sum = 0
  for (const weight of weights) sums.push((sum += weight))
  return () => {
    const drawn = random.nextDoubleUnsafe() * sum
    let low = 0
    let high = sums.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sums[middle] ?? 0) > drawn) high = middle
      else low = middle + 1
    }
    return low
  }
}

// What 99 % of the standard normal distribution are below.
const normalP99 = 2.3263478740408408

// The polar form would draw a varying number of times; this one draws two numbers for each (Box and Muller, 1958).
const normal = (random: Random.Random): number =>
  Math.sqrt(2 * exponential(random)) * Math.cos(2 * Math.PI * random.nextDoubleUnsafe())
