import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as World from "../support/importWorld.ts"

describe("GameImport", () => {
  it.effect("imports all games of a user", () =>
    Effect.gen(function* () {
      yield* World.importGames("maria", "lichess")
      assert.strictEqual((yield* World.storedIds("maria", "lichess")).length, 1234)
    }).pipe(
      Effect.provide(
        World.layerWorld({ users: [{ name: "Maria", lichess: { games: 1234 }, chessCom: { games: 700 } }] })
      )
    )
  )
})
