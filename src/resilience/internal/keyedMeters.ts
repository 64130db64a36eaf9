/**
 * Keeps a meter for each key in a bounded number of bytes.
 *
 * The keys stand in lists by the part of their limit that is taken, the oldest first. At the bound, the oldest key of the
 * lowest list goes; the one just used stays. A hand goes round all keys, a few for each call: it forgets those of which
 * nothing is taken any more, and moves the others down as time gives back what they took.
 */
import { makeMeter } from "./limits.ts"
import type { Meter, Numbers } from "./meter.ts"
import { SlidingWindow } from "./slidingWindow.ts"

/** A meter that can go. */
export interface KeyedMeter {
  readonly key: string
  meter: Meter
  numbers: Numbers
  /** The list it stands in: none while nothing is taken. */
  level: number | undefined
  bytes: number
  before: KeyedMeter | undefined
  after: KeyedMeter | undefined
}

/** Meters by key. Only those of which something is taken are kept. */
export class KeyedMeters {
  /** What the keys take, by estimate. */
  bytes = 0
  /** Keys that had to go while something was taken of them. */
  evictions = 0
  private readonly byKey = new Map<string, KeyedMeter>()
  private readonly levels: ReadonlyArray<Ends> = Array.from({ length: levelCount }, () => ({
    first: undefined,
    last: undefined
  }))
  private readonly maxBytes: number
  private hand: MapIterator<KeyedMeter> | undefined = undefined
  private calls = 0

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes
  }

  get size(): number {
    return this.byKey.size
  }

  /** The meter of a key, brought to these numbers. A new one is not kept before something is taken of it. */
  find(key: string, numbers: Numbers, now: number): KeyedMeter {
    const found = this.byKey.get(key)
    if (found === undefined) {
      const meter = makeMeter(numbers, now, steady)
      return { key, meter, numbers, level: undefined, bytes: 0, before: undefined, after: undefined }
    }
    if (found.numbers !== numbers && !isSame(found.numbers, numbers)) {
      if (found.numbers.algorithm === numbers.algorithm) found.meter.change(now, numbers)
      else found.meter = converted(found.meter, numbers, now)
      found.numbers = numbers
    }
    return found
  }

  /** Takes `cost` of a meter that was found. */
  take(found: KeyedMeter, cost: number, now: number): void {
    found.meter.take(now, cost)
    if (this.calls++ % callsPerLook === 0) this.look(now)
    if (this.byKey.get(found.key) !== found) {
      for (let looks = 0; looks < looksPerKey; looks++) this.look(now)
      found.bytes = 0
      this.byKey.set(found.key, found)
    }
    this.place(found, now)
    while (this.bytes > this.maxBytes && this.evict(found));
  }

  // Puts a key in the list it belongs to, at the end if it was not there.
  private place(kept: KeyedMeter, now: number): void {
    const bytes = bytesOf(kept)
    this.bytes += bytes - kept.bytes
    kept.bytes = bytes
    const level = levelOf(kept.meter, now)
    if (level === kept.level) return
    this.unlink(kept)
    const ends = this.levels[level]!
    kept.level = level
    kept.before = ends.last
    if (ends.last === undefined) ends.first = kept
    else ends.last.after = kept
    ends.last = kept
  }

  private unlink(kept: KeyedMeter): void {
    if (kept.level === undefined) return
    const ends = this.levels[kept.level]!
    if (kept.before === undefined) ends.first = kept.after
    else kept.before.after = kept.after
    if (kept.after === undefined) ends.last = kept.before
    else kept.after.before = kept.before
    kept.before = undefined
    kept.after = undefined
    kept.level = undefined
  }

  private forget(kept: KeyedMeter): void {
    this.unlink(kept)
    this.byKey.delete(kept.key)
    this.bytes -= kept.bytes
  }

  private evict(except: KeyedMeter): boolean {
    for (const { first } of this.levels) {
      const victim = first === except ? first.after : first
      if (victim === undefined) continue
      this.forget(victim)
      this.evictions++
      return true
    }
    return false
  }

  private look(now: number): void {
    let next = (this.hand ??= this.byKey.values()).next()
    if (next.done === true) next = (this.hand = this.byKey.values()).next()
    if (next.done === true) return
    if (next.value.meter.isFull(now)) this.forget(next.value)
    else this.place(next.value, now)
  }
}

interface Ends {
  first: KeyedMeter | undefined
  last: KeyedMeter | undefined
}

const levelCount = 8

// As many keys are looked at as come, and some more; without new ones, all of them by and by.
const looksPerKey = 2
const callsPerLook = 8

// The rate of a limit on requests that come in does not adapt.
const steady = { factor: 1, floor: 1, recoverMillis: 1, cooldownMillis: 0 }

const levelOf = (meter: Meter, now: number): number =>
  Math.max(0, Math.min(levelCount - 1, Math.floor((1 - meter.tokens(now) / meter.maxCost) * levelCount)))

// What V8 takes for the entry in the map, the two objects and the numbers in them, with pointers of 8 bytes. A character of a
// key takes two where one is not Latin-1.
const bytesOf = ({ key, meter }: KeyedMeter): number =>
  440 + 2 * key.length + (meter instanceof SlidingWindow ? meter.bytes : 0)

const isSame = (a: Numbers, b: Numbers): boolean => {
  if (a.algorithm === "token-bucket") {
    return b.algorithm === "token-bucket" && a.capacity === b.capacity && a.refillPerSecond === b.refillPerSecond
  }
  if ("windowMillis" in a) {
    return (
      a.algorithm === b.algorithm && "windowMillis" in b && a.limit === b.limit && a.windowMillis === b.windowMillis
    )
  }
  return a.algorithm === b.algorithm && "burst" in b && a.burst === b.burst && a.intervalMillis === b.intervalMillis
}

// Another way to count begins with what was taken so far, as if it had been taken now.
const converted = (meter: Meter, numbers: Numbers, now: number): Meter => {
  const fresh = makeMeter(numbers, now, steady)
  const taken = Math.min(fresh.maxCost, meter.maxCost - meter.tokens(now))
  if (taken > 0) fresh.take(now, taken)
  return fresh
}
