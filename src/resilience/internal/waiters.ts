/**
 * Keeps those who wait in the order in which they came.
 *
 * A linked list whose links are fields of the waiters themselves: joining, being served and leaving from the middle are
 * a few assignments each, whether ten wait or a hundred thousand.
 */

/** What a waiter carries so that it can stand in a queue: both links start as `undefined`. */
export interface Links<W> {
  previous: W | undefined
  next: W | undefined
}

/** A first-in, first-out queue that any waiter can leave. A waiter stands in one queue at a time, once. */
export class Waiters<W extends Links<W>> {
  head: W | undefined = undefined
  tail: W | undefined = undefined
  size = 0

  /** Adds a waiter behind all others. */
  push(waiter: W): void {
    waiter.previous = this.tail
    if (this.tail === undefined) this.head = waiter
    else this.tail.next = waiter
    this.tail = waiter
    this.size++
  }

  /** Takes out a waiter that stands in this queue. */
  remove(waiter: W): void {
    if (waiter.previous === undefined) this.head = waiter.next
    else waiter.previous.next = waiter.next
    if (waiter.next === undefined) this.tail = waiter.previous
    else waiter.next.previous = waiter.previous
    waiter.previous = undefined
    waiter.next = undefined
    this.size--
  }
}
