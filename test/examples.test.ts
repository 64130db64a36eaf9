/**
 * Runs every example as a user does, and keeps the code in the documents the code of the examples.
 */
import { execFile } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"

const root = fileURLToPath(new URL("..", import.meta.url))
const examples = readdirSync(`${root}examples`).filter((file) => file.endsWith(".ts"))
const documents = ["README.md", ...readdirSync(`${root}docs`).map((file) => `docs/${file}`)]

interface Ended {
  readonly code: number
  readonly output: string
  readonly errors: string
}

const run = (file: string) =>
  Effect.callback<Ended>((resume) => {
    const child = execFile(
      process.execPath,
      ["--conditions=effect-resilience-source", `examples/${file}`],
      // Each takes a second of processor time, which a machine that does something else may give late.
      { cwd: root, timeout: 60_000 },
      (error, output, errors) => {
        const code = typeof error?.code === "number" ? error.code : error === null ? 0 : 1
        resume(Effect.succeed({ code, output, errors }))
      }
    )
    return Effect.sync(() => child.kill())
  })

describe.concurrent("examples", () => {
  it.live.each(examples)(
    "%s runs and says something",
    (file) =>
      Effect.gen(function* () {
        const { code, errors, output } = yield* run(file)
        assert.strictEqual(errors, "")
        assert.strictEqual(code, 0)
        assert.notStrictEqual(output.trim(), "")
      }),
    70_000
  )
})

describe("documents", () => {
  it("the table of the README has every primitive once", () => {
    const exported = ["", "http/"].flatMap((folder) => [
      ...readFileSync(`${root}src/resilience/${folder}index.ts`, "utf8").matchAll(/^export \* as (\w+) from/gm)
    ])
    const listed = readFileSync(`${root}README.md`, "utf8").matchAll(/^\| `(\w+)` \|/gm)
    const primitives = exported.map(([, name]) => name)
    assert.isNotEmpty(primitives)
    assert.sameMembers(
      [...listed].map(([, name]) => name),
      primitives
    )
  })

  it.each(documents)("%s shows only code that the examples run", (document) => {
    const text = readFileSync(root + document, "utf8")
    const shown = [...text.matchAll(/(?:<!-- (examples\/[a-z-]+\.ts) -->\n)?```ts\n([\s\S]*?)```/g)]
    for (const [, file, code = ""] of shown) {
      if (file === undefined) assert.fail(`${document}: a block of code does not say which example it is from`)
      assert.include(readFileSync(root + file, "utf8"), code)
    }
  })
})
