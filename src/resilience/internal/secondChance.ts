/**
 * Keeps at most so many values by key, and lets one go that was not used lately when there is no room.
 *
 * The second chance of the CLOCK algorithm: a look-up only sets a flag, and the hand that looks for room passes a flagged
 * value by once. So a look-up costs one map access, and room for a new key is found in constant time on average.
 */

/** A value that says whether it was used since the hand last came by. */
export interface Marked {
  used: boolean
}

/** Values by key, made when they are first asked for. */
export class SecondChance<V extends Marked> {
  private readonly byKey = new Map<string, V>()
  private readonly maxKeys: number
  private readonly create: (key: string) => V
  private hand: MapIterator<[string, V]> | undefined

  constructor(maxKeys: number, create: (key: string) => V) {
    this.maxKeys = maxKeys
    this.create = create
  }

  /** Finds the value of a key, or makes it, in place of one that was not used lately if there are too many. */
  get(key: string): V {
    const known = this.byKey.get(key)
    if (known !== undefined) {
      known.used = true
      return known
    }
    if (this.byKey.size >= this.maxKeys) this.evict()
    const value = this.create(key)
    this.byKey.set(key, value)
    return value
  }

  /** Finds the value of a key. Does not count as a use. */
  peek(key: string): V | undefined {
    return this.byKey.get(key)
  }

  /** The values that are kept. */
  values(): Iterable<V> {
    return this.byKey.values()
  }

  private evict(): void {
    for (;;) {
      const next = (this.hand ??= this.byKey.entries()).next()
      if (next.done === true) {
        this.hand = undefined
        continue
      }
      const [key, value] = next.value
      if (!value.used) {
        this.byKey.delete(key)
        return
      }
      value.used = false
    }
  }
}
