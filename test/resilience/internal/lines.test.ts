import { assert, describe, it } from "@effect/vitest"
import { Line, Lines } from "../../../src/resilience/internal/lines.ts"

class One {
  readonly name: string
  queuedAt: number
  previous: One | undefined = undefined
  next: One | undefined = undefined
  constructor(name: string, queuedAt = 0) {
    this.name = name
    this.queuedAt = queuedAt
  }
}

const lineOf = (...waiters: ReadonlyArray<One>) => {
  const line = new Line<One>(1)
  for (const waiter of waiters) line.push(waiter)
  return line
}

describe("Line", () => {
  const overload = { targetMillis: 5, intervalMillis: 100 }

  it("serves the first without an overload, however long it has waited", () => {
    const line = lineOf(new One("a"), new One("b"))
    assert.strictEqual(line.first(undefined, 10_000)?.name, "a")
    assert.isUndefined(lineOf().first(overload, 0))
  })

  it("is overloaded when all have waited for over the target, from the interval after the first of them on", () => {
    const line = lineOf(new One("a"), new One("b"))
    assert.strictEqual(line.first(overload, 6)?.name, "a")
    assert.strictEqual(line.first(overload, 105)?.name, "a")
    assert.strictEqual(line.first(overload, 106)?.name, "b")
    assert.isTrue(line.overloaded)
  })

  it("is not when one of them has waited for the target at most, and starts again then", () => {
    const late = new One("late", 95)
    const line = lineOf(new One("a"), late)
    line.first(overload, 6)
    line.remove(line.head!)
    assert.strictEqual(line.first(overload, 100), late)
    assert.strictEqual(line.first(overload, 107), late)
    line.push(new One("last"))
    assert.strictEqual(line.first(overload, 206), late)
    assert.isFalse(line.overloaded)
    assert.strictEqual(line.first(overload, 207)?.name, "last")
  })

  it("ends the overload when the one that has waited longest has waited for the target at most", () => {
    const line = lineOf(new One("a"), new One("b"))
    line.first(overload, 6)
    line.first(overload, 106)
    line.remove(line.head!)
    line.remove(line.head!)
    line.push(new One("c", 110))
    line.push(new One("d", 112))
    assert.strictEqual(line.first(overload, 116)?.name, "d")
    assert.strictEqual(line.first(overload, 115)?.name, "c")
    assert.isFalse(line.overloaded)
  })

  it("gives up those who have waited for over twice the target, only under overload", () => {
    const old = new One("old")
    const line = lineOf(old, new One("new", 100))
    assert.isUndefined(line.stale(overload, 1_000))
    line.overloaded = true
    assert.isUndefined(line.stale(overload, 10))
    assert.strictEqual(line.stale(overload, 11), old)
    line.relax()
    assert.isUndefined(line.stale(overload, 11))
  })
})

describe("Lines", () => {
  const partitions = () => {
    const [a, b, rest] = [new Line<One>(0.5), new Line<One>(0.25), new Line<One>(0.25)]
    return { a, b, rest, lines: new Lines([a, b, rest], true) }
  }

  it("serves only a line whose guarantee is not used up when no place is free", () => {
    const { b, lines, rest } = partitions()
    lines.push(b, new One("b"))
    lines.push(rest, new One("rest"))
    assert.isUndefined(lines.next(false))
    b.guaranteed = 1
    assert.strictEqual(lines.next(false), b)
    b.running = 1
    assert.isUndefined(lines.next(false))
  })

  it("serves it before all others when a place is free", () => {
    const { a, b, lines, rest } = partitions()
    lines.push(a, new One("a"))
    lines.push(b, new One("b"))
    lines.push(rest, new One("rest"))
    assert.strictEqual(lines.next(true), a)
    rest.guaranteed = 1
    assert.strictEqual(lines.next(true), rest)
    b.guaranteed = 1
    lines.serve(b)
    // Both are owed: the one that has had less for its weight goes first.
    assert.strictEqual(lines.next(true), rest)
  })

  it("displaces whoever would be served last of the line: the first, under overload", () => {
    const high = new Line<One>(1)
    const low = new Line<One>(1)
    const lines = new Lines([high, low], false)
    lines.push(low, new One("a"))
    lines.push(low, new One("b"))
    assert.strictEqual(lines.displaced(high)?.name, "b")
    low.overloaded = true
    assert.strictEqual(lines.displaced(high)?.name, "a")
    assert.isUndefined(lines.displaced(low))
    assert.isUndefined(new Lines([low], false).displaced(low))
  })

  it("knows when the one came that has waited longest, whatever its line", () => {
    const { a, lines, rest } = partitions()
    assert.strictEqual(lines.oldest(), Infinity)
    lines.push(rest, new One("rest", 7))
    lines.push(a, new One("a", 9))
    assert.strictEqual(lines.oldest(), 7)
  })
})
