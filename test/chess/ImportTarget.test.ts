import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Stream } from "effect"
import { SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import type { GameBatch } from "../../src/chess/domain/Game.ts"
import { collect, fit, type ImportTarget } from "../../src/chess/ImportTarget.ts"
import { makeGame, makeGames } from "../support/games.ts"

/** An import into memory: what matters here is which commits come, and in which order. */
const makeTarget = (options: {
  readonly limit: number
  readonly known?: ReadonlyArray<string>
  readonly takes?: number
}) => {
  const stored = new Set(options.known)
  const commits: Array<GameBatch> = []
  const { takes = 0 } = options
  let left = options.limit
  const commit = (batch: GameBatch) =>
    Effect.sync(() => {
      const fresh = batch.games.filter((game) => !stored.has(game.id)).length
      for (const game of batch.games) stored.add(game.id)
      left -= fresh
      commits.push(batch)
      return fresh
    }).pipe(Effect.delay(takes))
  const target: ImportTarget<undefined> = {
    user: "rook-lifter",
    left: () => left,
    position: Effect.undefined,
    known: (ids) => Effect.sync(() => new Set(ids.filter((id) => stored.has(id)))),
    commit
  }
  return { target, commit, commits, sizes: () => commits.map((batch) => batch.games.length) }
}

const batch = (from: number, to: number): GameBatch => ({ games: makeGames(from, to), odd: [] })
const id = (n: number) => makeGame(n).id

const unavailable = new SqlError.SqlError({
  reason: new SqlError.UnknownError({ message: "disk full", cause: undefined, operation: "execute" })
})

describe("ImportTarget", () => {
  describe("fit", () => {
    const cases: ReadonlyArray<[string, number, ReadonlyArray<number>, ReadonlyArray<number>, number]> = [
      ["keeps everything within the limit", 3, [], [3, 2, 1], 3],
      ["cuts in front of the first game too many", 2, [], [5, 4, 3, 2, 1], 2],
      ["does not count games that are stored", 2, [5, 3], [5, 4, 3, 2, 1], 4],
      ["does not count a game twice", 2, [], [5, 5, 4, 5, 4, 3], 5],
      ["keeps stored games when nothing new may come", 0, [5, 4], [5, 4, 3, 2], 2]
    ]
    it.effect.each(cases)("%s", ([, limit, known, numbers, kept]) =>
      Effect.gen(function* () {
        const { target } = makeTarget({ limit, known: known.map(id) })
        assert.strictEqual(
          (yield* fit(
            target,
            numbers.map((n) => makeGame(n))
          )).length,
          kept
        )
      })
    )
  })

  describe("collect", () => {
    it.effect("groups what comes into transactions", () =>
      Effect.gen(function* () {
        const { commit, sizes, target } = makeTarget({ limit: 10_000 })
        const stream = Stream.make(batch(900, 1199), batch(600, 899), batch(300, 599), batch(1, 299))
        assert.deepStrictEqual(yield* collect(target, stream, commit), { received: 1199, inserted: 1199 })
        assert.deepStrictEqual(sizes(), [600, 599])
      })
    )

    it.effect("stores a slow stream once a second", () =>
      Effect.gen(function* () {
        const { commit, sizes, target } = makeTarget({ limit: 10_000 })
        const stream = Stream.make(4, 3, 2, 1).pipe(
          Stream.mapEffect((n) => Effect.delay(Effect.succeed(batch(n, n)), "600 millis")),
          Stream.concat(Stream.never)
        )
        const fiber = yield* Effect.forkChild(collect(target, stream, commit), { startImmediately: true })
        yield* TestClock.adjust("3500 millis")
        assert.deepStrictEqual(sizes(), [1, 2, 1])
        yield* Fiber.interrupt(fiber)
      })
    )

    it.effect("closes the stream when the limit is reached, and stores no game behind it", () =>
      Effect.gen(function* () {
        let closed = false
        const { commit, commits, target } = makeTarget({ limit: 120, known: [id(1)] })
        const stream = Stream.make(batch(901, 1000), batch(801, 900), batch(1, 1)).pipe(
          Stream.concat(Stream.never),
          Stream.ensuring(Effect.sync(() => void (closed = true)))
        )
        assert.strictEqual((yield* collect(target, stream, commit)).inserted, 120)
        assert.isTrue(closed)
        const ids = commits.flatMap((_) => _.games.map((game) => game.id))
        assert.deepStrictEqual(
          ids,
          makeGames(881, 1000).map((game) => game.id)
        )
      })
    )

    it.effect("stores nothing behind a game that was left out, even what is known already", () =>
      Effect.gen(function* () {
        // The regular commit cuts the batch while more is on its way.
        const { commit, commits, target } = makeTarget({
          limit: 20,
          known: makeGames(1, 10).map((game) => game.id),
          takes: 500
        })
        const stream = Stream.make(batch(71, 100)).pipe(
          Stream.concat(Stream.fromEffect(Effect.delay(Effect.succeed(batch(1, 10)), "1200 millis"))),
          Stream.concat(Stream.never)
        )
        const fiber = yield* Effect.forkChild(collect(target, stream, commit), { startImmediately: true })
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual((yield* Fiber.join(fiber)).inserted, 20)
        assert.deepStrictEqual(
          commits.flatMap((_) => _.games.map((game) => game.id)),
          makeGames(81, 100).map((game) => game.id)
        )
      })
    )

    it.effect("stores what came before a failure, and fails with it", () =>
      Effect.gen(function* () {
        const { commit, sizes, target } = makeTarget({ limit: 10_000 })
        const stream = Stream.concat(Stream.make(batch(1, 70)), Stream.fail("cut"))
        assert.strictEqual(yield* Effect.flip(collect(target, stream, commit)), "cut")
        assert.deepStrictEqual(sizes(), [70])
      })
    )

    it.effect("stores what came before an interruption", () =>
      Effect.gen(function* () {
        const { commit, sizes, target } = makeTarget({ limit: 10_000 })
        const stream = Stream.concat(Stream.make(batch(1, 70)), Stream.never)
        const fiber = yield* Effect.forkChild(collect(target, stream, commit), { startImmediately: true })
        yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(sizes(), [70])
      })
    )

    it.effect("finishes a commit that an interruption meets, and stores what came meanwhile behind it", () =>
      Effect.gen(function* () {
        const { commit, commits, target } = makeTarget({ limit: 10_000, takes: 400 })
        const stream = Stream.make(batch(900, 1000)).pipe(
          Stream.concat(Stream.fromEffect(Effect.delay(Effect.succeed(batch(800, 899)), "1200 millis"))),
          Stream.concat(Stream.never)
        )
        const fiber = yield* Effect.forkChild(collect(target, stream, commit), { startImmediately: true })
        // The regular commit runs from 1.0 to 1.4 s.
        yield* TestClock.adjust("1300 millis")
        const stopping = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(stopping)
        assert.deepStrictEqual(
          commits.flatMap((_) => _.games.map((game) => game.id)),
          makeGames(800, 1000).map((game) => game.id)
        )
      })
    )

    it.effect("stores nothing more when a commit has failed, not even when it is interrupted then", () =>
      Effect.gen(function* () {
        const { commits, target } = makeTarget({ limit: 10_000 })
        const stream = Stream.make(batch(900, 1000)).pipe(
          Stream.concat(Stream.fromEffect(Effect.delay(Effect.succeed(batch(800, 899)), "1200 millis"))),
          Stream.concat(Stream.never)
        )
        let attempts = 0
        const failing = () => Effect.suspend(() => (attempts++, Effect.delay(Effect.fail(unavailable), "400 millis")))
        const fiber = yield* Effect.forkChild(collect(target, stream, failing), { startImmediately: true })
        yield* TestClock.adjust("1300 millis")
        const stopping = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(stopping)
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        assert.strictEqual(attempts, 1)
        assert.deepStrictEqual(commits, [])
      })
    )
  })
})
