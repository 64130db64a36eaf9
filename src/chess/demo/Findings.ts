/**
 * What the demo claims, and whether it was so.
 *
 * Every claim is checked where it happens; at the end all of them are listed, and a false one makes the demo fail.
 */
import { Context, Effect, Layer, Ref } from "effect"

/** A claim, whether it held, and what was seen. */
export interface Finding {
  readonly claim: string
  readonly held: boolean
  readonly seen: string
}

/** Collects the findings of one run. */
export class Findings extends Context.Service<
  Findings,
  {
    readonly add: (finding: Finding) => Effect.Effect<void>
    readonly all: Effect.Effect<ReadonlyArray<Finding>>
  }
>()("effect-resilience/chess/demo/Findings") {}

/** Provides an empty collection. */
export const layer: Layer.Layer<Findings> = Layer.effect(
  Findings,
  Effect.map(Ref.make<ReadonlyArray<Finding>>([]), (findings) =>
    Findings.of({
      add: (finding) => Ref.update(findings, (all) => [...all, finding]),
      all: Ref.get(findings)
    })
  )
)

/** Adds one finding. */
export const check = (claim: string, held: boolean, seen: string): Effect.Effect<void, never, Findings> =>
  Effect.flatMap(Findings, (findings) => findings.add({ claim, held, seen }))
