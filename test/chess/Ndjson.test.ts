import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Stream } from "effect"
import * as Ndjson from "../../src/chess/Ndjson.ts"

const encode = (text: string) => new TextEncoder().encode(text)

const pieces = (bytes: Uint8Array, size: number) =>
  Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) => bytes.subarray(n * size, (n + 1) * size))

const split = (chunks: ReadonlyArray<Uint8Array>, maxLineBytes = 100) =>
  Stream.fromIterable(chunks).pipe(Stream.rechunk(1), Ndjson.lines({ maxLineBytes }), Stream.runCollect)

describe("Ndjson", () => {
  describe("lines", () => {
    it.effect("finds the same lines wherever the bytes are cut", () =>
      Effect.gen(function* () {
        const lines = ["", "Sämisch ♞", "x".repeat(100), "🐴", "\u{1F600}".repeat(25), " ", "last"]
        for (const end of ["\n", "\r\n"]) {
          const bytes = encode(lines.map((line) => line + end).join(""))
          for (let size = 1; size <= bytes.length; size++) {
            const found = yield* split(pieces(bytes, size))
            assert.deepStrictEqual(
              found.flatMap((each) => each.lines),
              lines
            )
            assert.isTrue(found.every((each) => each.tooLong.length === 0 && !each.unterminated))
          }
        }
      })
    )

    it.effect("cuts off what is too long, keeps its beginning, and goes on behind it", () =>
      Effect.gen(function* () {
        const long = "y".repeat(10_000)
        const bytes = encode(`first\n${long}\nlast\n`)
        for (const size of [1, 7, 1000, bytes.length]) {
          const found = yield* split(pieces(bytes, size))
          assert.deepStrictEqual(
            found.flatMap((each) => each.lines),
            ["first", "last"]
          )
          const [beginning, ...more] = found.flatMap((each) => each.tooLong)
          assert.isTrue(beginning !== undefined && long.startsWith(beginning) && beginning.length >= 100)
          assert.isAtMost(beginning!.length, 4096)
          assert.deepStrictEqual(more, [])
        }
      })
    )

    it.effect("takes a line of exactly the limit, with either end, and not one more", () =>
      Effect.gen(function* () {
        for (const [text, fits] of [
          [`${"z".repeat(100)}\n`, true],
          [`${"z".repeat(100)}\r\n`, true],
          [`${"z".repeat(102)}\n`, false]
        ] as const) {
          const found = yield* split([encode(text)])
          assert.deepStrictEqual([found[0]!.lines.length, found[0]!.tooLong.length], fits ? [1, 0] : [0, 1])
        }
      })
    )

    it.effect("gives what comes after the last line end, and says so", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* split([encode("a\nb")]), [
          { lines: ["a"], tooLong: [], unterminated: false },
          { lines: ["b"], tooLong: [], unterminated: true }
        ])
        assert.deepStrictEqual(yield* split([encode("w".repeat(200))]), [
          { lines: [], tooLong: ["w".repeat(200)], unterminated: true }
        ])
        assert.deepStrictEqual(yield* split([encode("a\n")]), [{ lines: ["a"], tooLong: [], unterminated: false }])
        assert.deepStrictEqual(yield* split([]), [])
      })
    )

    it.effect("drops what comes after the last line end when the body fails", () =>
      Effect.gen(function* () {
        const seen: Array<Ndjson.Lines> = []
        const exit = yield* Stream.make(encode("a\nhalf")).pipe(
          Stream.concat(Stream.fail("cut")),
          Ndjson.lines({ maxLineBytes: 100 }),
          Stream.runForEach((each) => Effect.sync(() => seen.push(each))),
          Effect.exit
        )
        assert.deepStrictEqual(exit, Exit.fail("cut"))
        assert.deepStrictEqual(seen, [{ lines: ["a"], tooLong: [], unterminated: false }])
      })
    )

    it.effect("asks for no more than it is asked for", () =>
      Effect.gen(function* () {
        let pulled = 0
        const body = Stream.range(1, 1000).pipe(
          Stream.rechunk(1),
          Stream.map((n) => {
            pulled = n
            return encode(`line ${n}\n`)
          })
        )
        yield* body.pipe(Ndjson.lines({ maxLineBytes: 100 }), Stream.take(3), Stream.runDrain)
        assert.strictEqual(pulled, 3)
      })
    )
  })
})
