/**
 * Keeps values for a time, and at most so many of them or so much: the least recently used makes room.
 *
 * A map finds an entry, a list through the entries orders them by use, and a hand that walks along the list frees those
 * whose time has passed. Every step costs the same however many entries there are. What only some caches ask of an entry
 * stands in an object of its own, so the others pay one empty field for it.
 */
import type { Fiber } from "effect"
import { momentMillisUnsafe, nowMillisUnsafe } from "./monotonic.ts"

/**
 * A kept value. Times are in milliseconds of the monotonic clock.
 *
 * A class, because V8 takes an object literal whose values live for a while to the old generation at once, which costs more
 * than all the rest of a miss.
 */
export class Entry<K, V> {
  readonly key: K
  readonly value: V
  /**
   * The first moment at which it is of no more use, `undefined` for never. In whole milliseconds since the cache was first
   * used, because V8 keeps any other number in an object of its own.
   */
  readonly expiresAt: number | undefined
  readonly terms: Terms | undefined
  older: Entry<K, V> | undefined = undefined
  newer: Entry<K, V> | undefined = undefined

  constructor(key: K, value: V, expiresAt: number | undefined, terms: Terms | undefined) {
    this.key = key
    this.value = value
    this.expiresAt = expiresAt
    this.terms = terms
  }
}

/** What is asked of an entry beside a time to live. */
export interface Demands {
  /** How long it may be of use after its time. */
  readonly graceMillis: number
  /** How long after it was kept a use should start a refresh. */
  readonly refreshAfterMillis: number
  /** How long it is kept without being used. */
  readonly idleMillis: number
  /** What it counts for in the total. */
  readonly weight: number
  /** What it is found by beside its key. */
  readonly tags: ReadonlySet<string> | undefined
}

/** The demands on an entry as moments, and what has become of it. */
export interface Terms {
  readonly freshUntil: number
  readonly refreshFrom: number
  readonly idleMillis: number
  readonly weight: number
  readonly tags: ReadonlySet<string> | undefined
  /** The moment of its last use. */
  usedAt: number
  /** No refresh before this moment. */
  retryFrom: number
  /** Why the last refresh failed. */
  failure: unknown
}

/** Values by key, in order of their use. */
export class Kept<K, V> {
  evictions = 0
  /** How often something came that was not there before: as long as it is the same, nobody finds more than he found. */
  changes = 0
  expirations = 0
  weight = 0
  private readonly byKey = new Map<K, Entry<K, V>>()
  private readonly byTag = new Map<string, Set<Entry<K, V>>>()
  private oldest: Entry<K, V> | undefined
  private newest: Entry<K, V> | undefined
  private hand: Entry<K, V> | undefined
  /** The moment that `expiresAt` counts from: -1 before there is any. */
  private origin = -1
  private readonly capacity: number
  private readonly maxWeight: number

  constructor(capacity: number, maxWeight = Infinity) {
    this.capacity = capacity
    this.maxWeight = maxWeight
  }

  /** Entries kept, including those whose time has passed and that nothing has come across yet. */
  get size(): number {
    return this.byKey.size
  }

  /** Finds an entry and makes it the most recently used. Its terms then say when that was. */
  use(key: K, fiber: Fiber.Fiber<unknown, unknown>): Entry<K, V> | undefined {
    const entry = this.byKey.get(key)
    if (entry === undefined) return undefined
    if (entry.terms === undefined) {
      // An entry that never expires costs no look at the clock.
      if (entry.expiresAt !== undefined && this.freeIfExpired(entry, momentMillisUnsafe(fiber))) return undefined
    } else {
      const now = nowMillisUnsafe(fiber)
      if (this.freeIfExpired(entry, now)) return undefined
      entry.terms.usedAt = now
    }
    if (entry !== this.newest) {
      this.unlink(entry)
      this.append(entry)
    }
    return entry
  }

  /** Finds an entry and leaves everything as it is. */
  peek(key: K, fiber: Fiber.Fiber<unknown, unknown>): Entry<K, V> | undefined {
    const entry = this.byKey.get(key)
    return entry === undefined || this.freeIfExpired(entry, nowMillisUnsafe(fiber)) ? undefined : entry
  }

  /** Keeps a value as the most recently used one for `millis`; for none at all if that is 0, or if it is too heavy. */
  put(key: K, value: V, millis: number, fiber: Fiber.Fiber<unknown, unknown>, demands?: Demands): void {
    this.delete(key)
    if (!(millis > 0)) return
    if (demands !== undefined && !(demands.idleMillis > 0 && demands.weight <= this.maxWeight)) return
    const now = momentMillisUnsafe(fiber)
    this.makeRoom(demands === undefined ? 0 : demands.weight, now)
    const entry = new Entry(
      key,
      value,
      this.expiryOf(now, demands === undefined ? millis : millis + demands.graceMillis),
      demands === undefined ? undefined : termsOf(now, millis, demands)
    )
    this.changes++
    this.byKey.set(key, entry)
    this.append(entry)
    if (entry.terms !== undefined) this.register(entry, entry.terms)
  }

  /** Forgets a value. */
  delete(key: K): void {
    const entry = this.byKey.get(key)
    if (entry !== undefined) this.remove(entry)
  }

  /** Forgets all values. */
  clear(): void {
    this.byKey.clear()
    this.byTag.clear()
    this.weight = 0
    this.oldest = this.newest = this.hand = undefined
  }

  /** Looks at the next `count` entries along the hand's way and frees those whose time has passed. Returns how many. */
  sweep(count: number, fiber: Fiber.Fiber<unknown, unknown>): number {
    if (this.oldest === undefined) return 0
    const now = momentMillisUnsafe(fiber)
    let freed = 0
    for (let i = 0; i < count; i++) {
      const entry = this.hand ?? this.oldest
      if (entry === undefined) break
      this.hand = entry.newer
      if (this.freeIfExpired(entry, now)) freed++
    }
    return freed
  }

  /** The entries, or those with a tag. What is kept while one goes through them stands behind what was there before. */
  entries(tag?: string): Pick<ReadonlySet<Entry<K, V>>, "size" | "values"> {
    return tag === undefined ? this.byKey : (this.byTag.get(tag) ?? none)
  }

  private makeRoom(weight: number, now: number): void {
    while (this.oldest !== undefined && (this.byKey.size >= this.capacity || this.weight + weight > this.maxWeight)) {
      if (!this.freeIfExpired(this.oldest, now)) {
        this.evictions++
        this.remove(this.oldest)
      }
    }
  }

  private expiryOf(now: number, millis: number): number | undefined {
    if (millis === Infinity) return undefined
    if (this.origin === -1) this.origin = Math.floor(now)
    return Math.ceil(now - this.origin + millis)
  }

  private freeIfExpired(entry: Entry<K, V>, now: number): boolean {
    const { terms } = entry
    if (
      (entry.expiresAt === undefined || now - this.origin < entry.expiresAt) &&
      (terms === undefined || now < terms.usedAt + terms.idleMillis)
    ) {
      return false
    }
    this.expirations++
    this.remove(entry)
    return true
  }

  private register(entry: Entry<K, V>, terms: Terms): void {
    this.weight += terms.weight
    if (terms.tags === undefined) return
    for (const tag of terms.tags) {
      const entries = this.byTag.get(tag)
      if (entries === undefined) this.byTag.set(tag, new Set([entry]))
      else entries.add(entry)
    }
  }

  private unregister(entry: Entry<K, V>, terms: Terms): void {
    this.weight -= terms.weight
    if (terms.tags === undefined) return
    for (const tag of terms.tags) {
      const entries = this.byTag.get(tag)
      if (entries !== undefined && entries.delete(entry) && entries.size === 0) this.byTag.delete(tag)
    }
  }

  private remove(entry: Entry<K, V>): void {
    this.byKey.delete(entry.key)
    this.unlink(entry)
    if (entry.terms !== undefined) this.unregister(entry, entry.terms)
  }

  private unlink(entry: Entry<K, V>): void {
    if (this.hand === entry) this.hand = entry.newer
    if (entry.older === undefined) this.oldest = entry.newer
    else entry.older.newer = entry.newer
    if (entry.newer === undefined) this.newest = entry.older
    else entry.newer.older = entry.older
    // An entry that has been let go and still points to the next would keep it, and so all that follow, from being
    // collected while they are young.
    entry.older = entry.newer = undefined
  }

  private append(entry: Entry<K, V>): void {
    entry.older = this.newest
    entry.newer = undefined
    if (this.newest === undefined) this.oldest = entry
    else this.newest.newer = entry
    this.newest = entry
  }
}

const none: ReadonlySet<never> = new Set<never>()

const termsOf = (now: number, millis: number, demands: Demands): Terms => ({
  freshUntil: now + millis,
  refreshFrom: now + demands.refreshAfterMillis,
  idleMillis: demands.idleMillis,
  weight: demands.weight,
  tags: demands.tags,
  usedAt: now,
  retryFrom: now,
  failure: undefined
})
