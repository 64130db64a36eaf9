import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import * as ImportSlots from "../../src/chess/ImportSlots.ts"

const entry = (importId: string, options: Partial<ImportSlots.Entry> = {}): ImportSlots.Entry => ({
  importId,
  owner: importId,
  premium: false,
  createdAt: 0,
  ...options
})

const admit = (slots: ImportSlots.ImportSlots, importId: string, options: Partial<ImportSlots.Entry> = {}) => {
  const made = entry(importId, options)
  return slots.admit(made.owner, Effect.succeed({ entry: made }))
}

const order = Effect.fnUntraced(function* (slots: ImportSlots.ImportSlots) {
  const { running, waiting } = yield* slots.state
  return [...running, "|", ...waiting.map((_) => _.importId)].join(" ")
})

describe("ImportSlots", () => {
  describe("admit", () => {
    it.effect("gives the free slots to the first and queues the rest", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 2 })
        yield* Effect.forEach(["a", "b", "c", "d"], (id) => admit(slots, id))
        assert.strictEqual(yield* order(slots), "a b | c d")
        assert.strictEqual((yield* slots.state).available, 0)
        yield* slots.leave("a")
        assert.strictEqual(yield* order(slots), "b c | d")
        yield* slots.leave("d")
        yield* slots.leave("b")
        yield* slots.leave("b")
        assert.strictEqual(yield* order(slots), "c |")
        assert.strictEqual((yield* slots.state).available, 1)
      })
    )

    it.effect("puts premium imports first, then the oldest, and takes no slot away", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1 })
        yield* admit(slots, "first", { createdAt: 1 })
        yield* admit(slots, "late", { createdAt: 5 })
        yield* admit(slots, "early", { createdAt: 2 })
        yield* admit(slots, "rich-late", { createdAt: 9, premium: true })
        yield* admit(slots, "rich-early", { createdAt: 8, premium: true })
        yield* admit(slots, "also-early", { createdAt: 2 })
        assert.strictEqual(yield* order(slots), "first | rich-early rich-late early also-early late")
      })
    )

    it.effect("refuses an import when the queue is full, before it is created", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1, maxQueued: 1 })
        yield* admit(slots, "a")
        yield* admit(slots, "b")
        let created = false
        const error = yield* slots
          .admit(
            "c",
            Effect.sync(() => {
              created = true
              return { entry: entry("c") }
            })
          )
          .pipe(Effect.flip)
        assert.deepInclude(error, { _tag: "ImportQueueFull", running: 1, waiting: 1 })
        assert.strictEqual(Duration.toSeconds(error.retryAfter), 60)
        assert.isFalse(created)
        yield* slots.leave("b")
        yield* admit(slots, "c")
        assert.strictEqual(yield* order(slots), "a | c")
      })
    )

    it.effect("refuses an owner's import over the limit, running and waiting ones counted", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1, maxPerOwner: 2 })
        yield* admit(slots, "a", { owner: "one" })
        yield* admit(slots, "b", { owner: "one" })
        const error = yield* Effect.flip(admit(slots, "c", { owner: "one" }))
        assert.deepInclude(error, { _tag: "TooManyImports", maxPerOwner: 2 })
        yield* admit(slots, "d", { owner: "two" })
        yield* slots.leave("a")
        yield* admit(slots, "c", { owner: "one" })
        assert.strictEqual(yield* order(slots), "b | d c")
      })
    )

    it.effect("counts the places of imports that are still being created", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1, maxQueued: 0, maxPerOwner: 1 })
        const creating = yield* Effect.forkChild(slots.admit("a", Effect.never), { startImmediately: true })
        assert.strictEqual((yield* Effect.flip(admit(slots, "b")))._tag, "ImportQueueFull")
        assert.strictEqual((yield* Effect.flip(admit(slots, "x", { owner: "a" })))._tag, "TooManyImports")
        yield* Fiber.interrupt(creating)
        yield* admit(slots, "b")
        assert.strictEqual(yield* order(slots), "b |")
      })
    )

    it.effect("gives the place back when nothing was created", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1, maxQueued: 0, maxPerOwner: 1 })
        yield* slots.admit("a", Effect.succeed({ entry: undefined }))
        assert.strictEqual(yield* Effect.flip(slots.admit("a", Effect.fail("no disk"))), "no disk")
        yield* admit(slots, "a")
        assert.strictEqual(yield* order(slots), "a |")
      })
    )
  })

  describe("turn", () => {
    it.effect("waits until a slot is free, in the order of the queue", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1 })
        const turns: Array<string> = []
        yield* Effect.forEach(["a", "b", "c"], (id, index) => admit(slots, id, { createdAt: index }))
        yield* Effect.forEach(["c", "b", "a"], (id) =>
          slots
            .turn(id)
            .pipe(Effect.andThen(Effect.sync(() => turns.push(id))), Effect.forkChild({ startImmediately: true }))
        )
        assert.deepStrictEqual(turns, ["a"])
        yield* slots.leave("a")
        yield* Effect.yieldNow
        assert.deepStrictEqual(turns, ["a", "b"])
        yield* slots.turn("b")
      })
    )

    it.effect("never comes for an import that left", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1 })
        yield* admit(slots, "a")
        yield* admit(slots, "b")
        yield* slots.leave("b")
        const fiber = yield* Effect.forkChild(slots.turn("b"), { startImmediately: true })
        yield* slots.leave("a")
        yield* Effect.yieldNow
        assert.isUndefined(fiber.pollUnsafe())
        yield* Fiber.interrupt(fiber)
      })
    )
  })

  describe("rest", () => {
    const resting = (slots: ImportSlots.ImportSlots) => Effect.map(slots.state, (_) => _.resting.join(" "))

    it.effect("gives the slot to the first that waits, and back only when one is free", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1 })
        yield* Effect.forEach(["a", "b", "c"], (id, index) => admit(slots, id, { createdAt: index }))
        yield* slots.turn("a")
        yield* slots.rest("a")
        assert.strictEqual(yield* order(slots), "b | c")
        assert.strictEqual(yield* resting(slots), "a")
        assert.isUndefined(yield* slots.waiting("a"))
        const again = yield* Effect.forkChild(slots.turn("a"), { startImmediately: true })
        yield* slots.resume("a")
        yield* Effect.yieldNow
        assert.strictEqual(yield* order(slots), "b | a c")
        assert.strictEqual(yield* resting(slots), "")
        assert.isUndefined(again.pollUnsafe())
        yield* slots.leave("b")
        yield* Fiber.join(again)
        assert.strictEqual(yield* order(slots), "a | c")
      })
    )

    it.effect("leaves the slot free when nobody waits, and takes it again at once", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1 })
        yield* admit(slots, "a")
        yield* slots.rest("a")
        assert.deepInclude(yield* slots.state, { available: 1, running: [], waiting: [], resting: ["a"] })
        yield* slots.resume("a")
        yield* slots.turn("a")
        assert.strictEqual(yield* order(slots), "a |")
      })
    )

    it.effect("lets it queue before those created later, and behind premium ones", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 2 })
        yield* slots.restore([
          { ...entry("first", { createdAt: 2 }), hadSlot: true },
          { ...entry("rich", { createdAt: 1, premium: true }), hadSlot: true }
        ])
        yield* Effect.forEach(["c", "d", "e"], (id, index) => admit(slots, id, { createdAt: 3 + index }))
        yield* admit(slots, "rich-late", { createdAt: 7, premium: true })
        yield* slots.rest("first")
        yield* slots.rest("rich")
        assert.strictEqual(yield* order(slots), "rich-late c | d e")
        yield* admit(slots, "rich-later", { createdAt: 8, premium: true })
        yield* slots.resume("first")
        yield* slots.resume("rich")
        assert.strictEqual(yield* order(slots), "rich-late c | rich rich-later first d e")
      })
    )

    it.effect("counts for its owner and for the places, until it leaves", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1, maxQueued: 1, maxPerOwner: 2 })
        yield* admit(slots, "a", { owner: "one" })
        yield* slots.rest("a")
        yield* admit(slots, "b", { owner: "one" })
        yield* slots.rest("b")
        assert.strictEqual((yield* Effect.flip(admit(slots, "c", { owner: "one" })))._tag, "TooManyImports")
        const refused = yield* Effect.flip(admit(slots, "c"))
        assert.deepInclude(refused, { _tag: "ImportQueueFull", running: 0, waiting: 2 })
        assert.strictEqual(Duration.toSeconds(refused.retryAfter), 60)
        yield* slots.leave("a")
        assert.strictEqual(yield* resting(slots), "b")
        yield* admit(slots, "c", { owner: "one" })
        assert.strictEqual(yield* order(slots), "c |")
      })
    )

    it.effect("changes nothing for an import without a slot, and resume nothing for one that does not rest", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1 })
        yield* admit(slots, "a")
        yield* admit(slots, "b")
        for (const id of ["b", "unknown"]) yield* slots.rest(id)
        for (const id of ["a", "b", "unknown"]) yield* slots.resume(id)
        assert.strictEqual(yield* order(slots), "a | b")
        assert.strictEqual(yield* resting(slots), "")
      })
    )
  })

  describe("restore", () => {
    it.effect("gives the slots to those that had one, whatever the others are, and keeps priorities for the rest", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 2, maxQueued: 0, maxPerOwner: 1 })
        yield* slots.restore([
          { ...entry("ran-2", { createdAt: 2, owner: "same" }), hadSlot: true },
          { ...entry("ran-1", { createdAt: 1, owner: "same" }), hadSlot: true },
          { ...entry("ran-3", { createdAt: 0, owner: "same" }), hadSlot: true },
          { ...entry("rich", { createdAt: 9, premium: true }), hadSlot: false },
          { ...entry("old", { createdAt: 3 }), hadSlot: false }
        ])
        assert.strictEqual(yield* order(slots), "ran-2 ran-1 | ran-3 rich old")
        yield* slots.restore([{ ...entry("rich", { premium: true }), hadSlot: true }])
        assert.strictEqual(yield* order(slots), "ran-2 ran-1 | ran-3 rich old")
        assert.strictEqual((yield* Effect.flip(admit(slots, "new")))._tag, "ImportQueueFull")
      })
    )
  })

  describe("waiting", () => {
    const estimates = (remaining: Record<string, number | null>, average: number | null) => ({
      remaining: (id: string) => remaining[id] ?? null,
      average: () => average
    })

    const waits = Effect.fnUntraced(function* (slots: ImportSlots.ImportSlots) {
      return (yield* slots.state).waiting.map((_) => (_.wait === null ? null : Duration.toSeconds(_.wait)))
    })

    it.effect("tells position and wait, each slot being used again as soon as it is free", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 2, estimates: estimates({ a: 30_000, b: 100_000 }, 50_000) })
        yield* Effect.forEach(["a", "b", "c", "d", "e", "f"], (id, i) => admit(slots, id, { createdAt: i }))
        assert.deepStrictEqual(yield* waits(slots), [30, 80, 100, 130])
        assert.deepStrictEqual(yield* slots.waiting("e"), {
          importId: "e",
          position: 3,
          wait: Duration.seconds(100)
        })
        assert.isUndefined(yield* slots.waiting("a"))
        assert.isUndefined(yield* slots.waiting("unknown"))
      })
    )

    it.effect("says null where too little was measured", () =>
      Effect.gen(function* () {
        const nothing = yield* ImportSlots.make({ total: 1 })
        yield* Effect.forEach(["a", "b"], (id) => admit(nothing, id))
        assert.deepStrictEqual(yield* waits(nothing), [null])
        const noAverage = yield* ImportSlots.make({ total: 2, estimates: estimates({ a: 30_000, b: 40_000 }, null) })
        yield* Effect.forEach(["a", "b", "c", "d", "e"], (id, i) => admit(noAverage, id, { createdAt: i }))
        assert.deepStrictEqual(yield* waits(noAverage), [30, 40, null])
      })
    )

    it.effect("is what a refusal asks its caller to wait", () =>
      Effect.gen(function* () {
        const slots = yield* ImportSlots.make({ total: 1, maxQueued: 0, estimates: estimates({ a: 42_000 }, null) })
        yield* admit(slots, "a")
        const error = yield* Effect.flip(admit(slots, "b"))
        assert.strictEqual(Duration.toSeconds(error.retryAfter), 42)
      })
    )
  })

  describe("estimateRemaining", () => {
    const base = { checked: 0, left: 1000, elapsed: 0, gamesPerSecond: null, average: null }

    it.each<[string, Partial<ImportSlots.Pace>, number | null]>([
      ["nothing is known", {}, null],
      ["only the speed of others is", { gamesPerSecond: 20 }, 50_000],
      ["its own speed is better", { checked: 400, elapsed: 10_000, gamesPerSecond: 20 }, 25_000],
      ["its first second says nothing", { checked: 400, elapsed: 900, gamesPerSecond: 20 }, 50_000],
      ["a stopped one goes by the others", { elapsed: 60_000, gamesPerSecond: 20 }, 50_000],
      ["the average bounds a generous limit", { gamesPerSecond: 20, average: 8000 }, 8000],
      ["the limit bounds the average", { left: 20, gamesPerSecond: 20, average: 8000 }, 1000],
      ["part of the average is over", { elapsed: 3000, average: 8000 }, 5000],
      ["it has outlived the average", { elapsed: 30_000, average: 8000 }, 30_000]
    ])("%s", (_, pace, expected) => {
      assert.strictEqual(ImportSlots.estimateRemaining({ ...base, ...pace }), expected)
    })
  })

  describe("make", () => {
    it.effect.each([{ total: 0 }, { maxQueued: -1 }, { maxPerOwner: 1.5 }])("dies on %j", (options) =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(ImportSlots.make(options))
        assert.strictEqual(exit._tag, "Failure")
        assert.match(String(exit), new RegExp(`RangeError.*${Object.keys(options)[0]}`))
      })
    )
  })
})
