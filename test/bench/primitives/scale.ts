/**
 * What stays the same when there is a hundred or a thousand times as much of it: callers that wait, entries, keys.
 */
import * as Cockatiel from "cockatiel"
import { Cache as EffectCache, Effect, Fiber, Semaphore } from "effect"
import { Bulkhead, Cache, CircuitBreaker, SingleFlight } from "effect-resilience"
import { LRUCache } from "lru-cache"
import pLimit from "p-limit"
import { cockatiel, effect, effectBreaker, limit, lru, ours } from "./cases.ts"
import { call, lookup, value, work } from "./loops.ts"
import { collect, median, processorMillis } from "./measure.ts"

/** One thing at a small and at a large size, or only at a large one. */
export interface Scaled {
  readonly subject: string
  readonly by: string
  readonly unit: "ns a call" | "bytes each"
  readonly small: { readonly size: number; readonly cost: number } | undefined
  readonly large: { readonly size: number; readonly cost: number }
}

/** How much is measured. */
export interface Effort {
  readonly rounds: number
  /** Calls in a round at the small size. */
  readonly calls: number
  /** Whether those take part as well that need seconds. */
  readonly slow: boolean
}

/** The subjects. */
export const waiting = "call that waits on one bulkhead"
export const evicting = "cache miss that evicts"
export const breakerKey = "circuit breaker, per key"
export const cachedKey = "cache, per key beside key and value"
export const waiter = "caller waiting for one key"

const verify = (what: string, right: boolean): void => {
  if (!right) throw new Error(`${what}: wrong result`)
}

const one = (done: { calls: number }) => () => {
  done.calls++
  return Promise.resolve(value)
}

// All callers come at once, ten calls run at a time.
const waitingRuns: Readonly<Record<string, (callers: number, call: () => Promise<number>) => Promise<unknown>>> = {
  [ours]: (callers, call) => {
    const bulkhead = Effect.runSync(Bulkhead.make({ maxConcurrent: 10, maxQueued: callers }))
    return inFibers(callers, bulkhead.execute(Effect.promise(call)))
  },
  [limit]: (callers, call) => {
    const limited = pLimit(10)
    return Promise.all(Array.from({ length: callers }, () => limited(call)))
  },
  [cockatiel]: (callers, call) => {
    const bulkhead = Cockatiel.bulkhead(10, callers)
    return Promise.all(Array.from({ length: callers }, () => bulkhead.execute(call)))
  },
  [effect]: (callers, call) => {
    const semaphore = Semaphore.makeUnsafe(10)
    return inFibers(callers, semaphore.withPermit(Effect.promise(call)))
  }
}

// Every caller is a fiber of its own, started by nobody who would have to keep a list of them.
const inFibers = <E>(callers: number, self: Effect.Effect<number, E>) =>
  new Promise<void>((resolve) => {
    let running = callers
    for (let caller = 0; caller < callers; caller++) {
      Effect.runFork(self).addObserver(() => {
        if (--running === 0) resolve()
      })
    }
  })

const timeWaiting = async (by: string, callers: number, calls: number): Promise<number> => {
  const done = { calls: 0 }
  const batches = Math.max(1, Math.round(calls / callers))
  collect()
  const start = processorMillis()
  for (let batch = 0; batch < batches; batch++) await waitingRuns[by]?.(callers, one(done))
  const millis = processorMillis() - start
  verify(`${waiting}, ${by}`, done.calls === batches * callers)
  return (millis * 1e6) / (batches * callers)
}

const waitingCalls = async (effort: Effort): Promise<ReadonlyArray<Scaled>> => {
  const sizes = [
    { by: ours, small: 1_000, large: 100_000, rounds: effort.rounds },
    { by: limit, small: 1_000, large: 100_000, rounds: effort.rounds },
    ...(effort.slow
      ? [
          { by: cockatiel, small: 1_000, large: 30_000, rounds: 1 },
          { by: effect, small: 1_000, large: 10_000, rounds: 1 }
        ]
      : [])
  ]
  for (const { by, small } of sizes) await timeWaiting(by, small, effort.calls / 4)
  const costs = sizes.map((size) => ({ ...size, atSmall: Array<number>(), atLarge: Array<number>() }))
  for (let round = 0; round < effort.rounds; round++) {
    for (const { atLarge, atSmall, by, large, rounds, small } of costs) {
      if (round >= rounds) continue
      atSmall.push(await timeWaiting(by, small, effort.calls))
      atLarge.push(await timeWaiting(by, large, large))
    }
  }
  return costs.map(({ atLarge, atSmall, by, large, small }) => ({
    subject: waiting,
    by,
    unit: "ns a call",
    small: { size: small, cost: median(atSmall) },
    large: { size: large, cost: median(atLarge) }
  }))
}

/** A full cache, and how to make calls for keys it does not have. */
type Misses = (calls: number) => Promise<number>

const loopOf =
  (get: (key: number) => Effect.Effect<number>, first: number): Misses =>
  (calls) => {
    const end = first + calls
    let good = 0
    const calling = Effect.whileLoop({
      while: () => first < end,
      body: () => get(first++),
      step: (result) => {
        if (result === value) good++
      }
    })
    return Effect.runPromise(Effect.map(calling, () => good))
  }

const full: Readonly<Record<string, (capacity: number) => Promise<Misses>>> = {
  [ours]: async (capacity) => {
    const cache = Effect.runSync(Cache.make({ capacity, timeToLive: "1 hour", lookup }))
    const misses = loopOf(cache.get, 0)
    await misses(capacity)
    return misses
  },
  [lru]: async (capacity) => {
    const cache = new LRUCache<number, number>({ max: capacity, ttl: 3_600_000, fetchMethod: () => call() })
    let next = 0
    const misses = async (calls: number) => {
      let good = 0
      for (const end = next + calls; next < end; next++) if ((await cache.fetch(next)) === value) good++
      return good
    }
    await misses(capacity)
    return misses
  },
  [effect]: async (capacity) => {
    const cache = Effect.runSync(EffectCache.make({ capacity, timeToLive: "1 hour", lookup }))
    const misses = loopOf((key) => EffectCache.get(cache, key), 0)
    await misses(capacity)
    return misses
  }
}

const timeMisses = async (by: string, misses: Misses, calls: number): Promise<number> => {
  const start = processorMillis()
  const good = await misses(calls)
  const millis = processorMillis() - start
  verify(`${evicting}, ${by}`, good === calls)
  return (millis * 1e6) / calls
}

const warmUps = 5

const timeRounds = async (by: string, capacity: number, rounds: number, calls: number) => {
  const misses = await full[by]?.(capacity)
  if (misses === undefined) throw new Error(`There is no cache by ${by}`)
  collect()
  const costs: Array<number> = []
  for (let round = -warmUps; round < rounds; round++) {
    const cost = await timeMisses(by, misses, calls)
    if (round >= 0) costs.push(cost)
  }
  return costs
}

const evictingMisses = async (effort: Effort): Promise<ReadonlyArray<Scaled>> => {
  const rows: Array<Scaled> = []
  const { calls } = effort
  // They are short.
  const rounds = 3 * effort.rounds
  const [small, large] = [1_000, 1_000_000]
  for (const by of effort.slow ? [ours, lru, effect] : [ours]) {
    // The small one before and after the large one and never beside it: its calls would pay for the garbage collector's
    // way through a million entries.
    const before = await timeRounds(by, small, rounds, calls)
    const atLarge = await timeRounds(by, large, rounds, calls)
    const after = await timeRounds(by, small, rounds, calls)
    rows.push({
      subject: evicting,
      by,
      unit: "ns a call",
      small: { size: small, cost: median([...before, ...after]) },
      large: { size: large, cost: median(atLarge) }
    })
  }
  return rows
}

const memory = (): number => {
  collect()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

// What `fill` returns is kept until it is measured.
const bytesEach = async (size: number, fill: () => Promise<unknown>): Promise<number> => {
  const before = memory()
  const kept = await fill()
  const bytes = (memory() - before) / size
  verify("what is measured is kept", kept !== undefined)
  return bytes
}

// Short enough to be stored as they are, so that nothing is added to them when they are first looked up.
const namesOf = (size: number): ReadonlyArray<string> => Array.from({ length: size }, (_, index) => `key-${index}`)

const eachOf = <A>(items: ReadonlyArray<A>, run: (item: A, index: number) => Effect.Effect<unknown, unknown>) =>
  Effect.suspend(() => {
    let at = 0
    return Effect.whileLoop({
      while: () => at < items.length,
      body: () => run(items[at] as A, at),
      step: () => {
        at++
      }
    })
  })

const breakerKeys = async (effort: Effort): Promise<ReadonlyArray<Scaled>> => {
  const size = 100_000
  const names = namesOf(size)
  const row = (by: string, cost: number): Scaled => ({
    subject: breakerKey,
    by,
    unit: "bytes each",
    small: undefined,
    large: { size, cost }
  })
  const rows = [
    row(
      ours,
      await bytesEach(size, async () => {
        const breaker = Effect.runSync(CircuitBreaker.make({ maxKeys: size }))
        await Effect.runPromise(eachOf(names, (key) => breaker.execute({ key })(work)))
        const kept = await Effect.runPromise(breaker.statistics(names[0] ?? ""))
        verify(breakerKey, kept.successes === 1)
        return breaker
      })
    )
  ]
  if (!effort.slow) return rows
  rows.push(
    row(
      cockatiel,
      await bytesEach(size, async () => {
        const breakers = new Map<string, Cockatiel.CircuitBreakerPolicy>()
        for (const name of names) {
          const breaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
            halfOpenAfter: 60_000,
            breaker: new Cockatiel.ConsecutiveBreaker(5)
          })
          breakers.set(name, breaker)
          verify(breakerKey, (await breaker.execute(call)) === value)
        }
        return breakers
      })
    ),
    row(
      effect,
      await bytesEach(size, async () => {
        const breaker = effectBreaker(5)
        await Effect.runPromise(eachOf(names, (key) => breaker.execute({ key })(work)))
        return breaker
      })
    )
  )
  return rows
}

const cachedKeys = async (effort: Effort): Promise<ReadonlyArray<Scaled>> => {
  const size = 1_000_000
  const names = namesOf(size)
  const results = names.map((name) => ({ name }))
  const row = (by: string, cost: number): Scaled => ({
    subject: cachedKey,
    by,
    unit: "bytes each",
    small: undefined,
    large: { size, cost }
  })
  const rows = [
    row(
      ours,
      await bytesEach(size, async () => {
        const cache = Effect.runSync(Cache.make<string, { name: string }>({ capacity: size, timeToLive: "1 hour" }))
        await Effect.runPromise(
          eachOf(results, (result) => cache.execute({ key: result.name })(Effect.succeed(result)))
        )
        verify(cachedKey, (await Effect.runPromise(cache.statistics)).size === size)
        return cache
      })
    )
  ]
  if (!effort.slow) return rows
  rows.push(
    row(
      lru,
      await bytesEach(size, async () => {
        const cache = new LRUCache<string, { name: string }>({ max: size, ttl: 3_600_000 })
        for (const result of results) cache.set(result.name, result)
        verify(cachedKey, cache.size === size)
        return cache
      })
    ),
    row(
      effect,
      await bytesEach(size, async () => {
        const cache = Effect.runSync(
          EffectCache.make<string, { name: string }>({
            capacity: size,
            timeToLive: "1 hour",
            lookup: () => Effect.die("Every key is set")
          })
        )
        await Effect.runPromise(eachOf(results, (result) => EffectCache.set(cache, result.name, result)))
        verify(cachedKey, (await Effect.runPromise(EffectCache.size(cache))) === size)
        return cache
      })
    )
  )
  return rows
}

const waitingCallers = async (effort: Effort): Promise<ReadonlyArray<Scaled>> => {
  const size = 100_000
  const measureWaiters = async (by: string, prepare: (answer: Effect.Effect<number>) => Effect.Effect<number>) => {
    const { promise: answered, resolve: release } = Promise.withResolvers<number>()
    const get = prepare(Effect.promise(() => answered))
    const fibers: Array<Fiber.Fiber<number>> = []
    const cost = await bytesEach(size, async () => {
      for (let index = 0; index < size; index++) fibers.push(Effect.runFork(get))
      return fibers
    })
    release(value)
    const results = await Effect.runPromise(Fiber.joinAll(fibers))
    verify(waiter, results.length === size && results.every((result) => result === value))
    return { subject: waiter, by, unit: "bytes each" as const, small: undefined, large: { size, cost } }
  }
  const rows: Array<Scaled> = [
    await measureWaiters(`${ours}, cache`, (answer) => {
      const cache = Effect.runSync(
        Cache.make<string, number, never, never>({ capacity: 10, timeToLive: "1 hour", lookup: () => answer })
      )
      return cache.get("key")
    }),
    await measureWaiters(`${ours}, single flight`, (answer) => {
      const flight = Effect.runSync(SingleFlight.make<string, number>())
      return flight.execute({ key: "key" })(answer)
    })
  ]
  if (!effort.slow) return rows
  rows.push(
    await measureWaiters(effect, (answer) => {
      const cache = Effect.runSync(EffectCache.make<string, number>({ capacity: 10, lookup: () => answer }))
      return EffectCache.get(cache, "key")
    })
  )
  return rows
}

/** Measures everything that must not grow. */
export const scale = async (effort: Effort): Promise<ReadonlyArray<Scaled>> => [
  ...(await breakerKeys(effort)),
  ...(await cachedKeys(effort)),
  ...(await waitingCallers(effort)),
  ...(await waitingCalls(effort)),
  ...(await evictingMisses(effort))
]
