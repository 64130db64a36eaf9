/**
 * Keeps values for a time, and at most so many of them: the least recently used makes room.
 *
 * A map finds an entry, a list through the entries orders them by use, and a hand that walks along the list frees those
 * whose time has passed. Every step costs the same however many entries there are.
 */
import type { Fiber } from "effect"
import { nowMillisUnsafe } from "./monotonic.ts"

interface Entry<K, V> {
  readonly key: K
  value: V
  /** The first moment at which it is no longer true, in milliseconds of the monotonic clock. */
  expiresAt: number
  older: Entry<K, V> | undefined
  newer: Entry<K, V> | undefined
}

/** Values by key, in order of their use. */
export class Kept<K, V> {
  evictions = 0
  expirations = 0
  private readonly byKey = new Map<K, Entry<K, V>>()
  private oldest: Entry<K, V> | undefined
  private newest: Entry<K, V> | undefined
  private hand: Entry<K, V> | undefined
  private readonly capacity: number

  constructor(capacity: number) {
    this.capacity = capacity
  }

  /** Entries kept, including those whose time has passed and that nothing has come across yet. */
  get size(): number {
    return this.byKey.size
  }

  /** Finds a value and makes it the most recently used. */
  use(key: K, fiber: Fiber.Fiber<unknown, unknown>): V | undefined {
    const entry = this.find(key, fiber)
    if (entry === undefined) return undefined
    if (entry !== this.newest) {
      this.unlink(entry)
      this.append(entry)
    }
    return entry.value
  }

  /** Finds a value and leaves the order as it is. */
  peek(key: K, fiber: Fiber.Fiber<unknown, unknown>): V | undefined {
    return this.find(key, fiber)?.value
  }

  /** Keeps a value as the most recently used one for `millis`; for none at all if that is 0. */
  put(key: K, value: V, millis: number, fiber: Fiber.Fiber<unknown, unknown>): void {
    this.delete(key)
    if (!(millis > 0)) return
    if (this.byKey.size >= this.capacity && this.oldest !== undefined) {
      if (this.expired(this.oldest, fiber)) this.expirations++
      else this.evictions++
      this.remove(this.oldest)
    }
    const expiresAt = millis === Infinity ? Infinity : nowMillisUnsafe(fiber) + millis
    const entry: Entry<K, V> = { key, value, expiresAt, older: undefined, newer: undefined }
    this.byKey.set(key, entry)
    this.append(entry)
  }

  /** Forgets a value. */
  delete(key: K): void {
    const entry = this.byKey.get(key)
    if (entry !== undefined) this.remove(entry)
  }

  /** Forgets all values. */
  clear(): void {
    this.byKey.clear()
    this.oldest = this.newest = this.hand = undefined
  }

  /** Looks at the next `count` entries along the hand's way and frees those whose time has passed. Returns how many. */
  sweep(count: number, fiber: Fiber.Fiber<unknown, unknown>): number {
    let freed = 0
    for (let i = 0; i < count; i++) {
      const entry = this.hand ?? this.oldest
      if (entry === undefined) break
      this.hand = entry.newer
      if (this.freeIfExpired(entry, fiber)) freed++
    }
    return freed
  }

  private find(key: K, fiber: Fiber.Fiber<unknown, unknown>): Entry<K, V> | undefined {
    const entry = this.byKey.get(key)
    return entry === undefined || this.freeIfExpired(entry, fiber) ? undefined : entry
  }

  private freeIfExpired(entry: Entry<K, V>, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    if (!this.expired(entry, fiber)) return false
    this.expirations++
    this.remove(entry)
    return true
  }

  // An entry that never expires costs no look at the clock.
  private expired(entry: Entry<K, V>, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return entry.expiresAt !== Infinity && nowMillisUnsafe(fiber) >= entry.expiresAt
  }

  private remove(entry: Entry<K, V>): void {
    this.byKey.delete(entry.key)
    this.unlink(entry)
  }

  private unlink(entry: Entry<K, V>): void {
    if (this.hand === entry) this.hand = entry.newer
    if (entry.older === undefined) this.oldest = entry.newer
    else entry.older.newer = entry.newer
    if (entry.newer === undefined) this.newest = entry.older
    else entry.newer.older = entry.older
  }

  private append(entry: Entry<K, V>): void {
    entry.older = this.newest
    entry.newer = undefined
    if (this.newest === undefined) this.oldest = entry
    else this.newest.newer = entry
    this.newest = entry
  }
}
