/**
 * `npm run demo`: the stand-ins, the service and the story; exits with 1 when something did not happen as it says.
 */
import { NodeHttpClient, NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { story } from "./Demo.ts"
import * as Findings from "./Findings.ts"
import * as Screen from "./Screen.ts"
import * as Stage from "./Stage.ts"

const Live = Layer.mergeAll(Stage.layer, Screen.layer, Findings.layer, NodeHttpClient.layerUndici).pipe(
  Layer.provide(NodeServices.layer)
)

story.pipe(
  Effect.flatMap((held) => (held ? Effect.void : Effect.die("The demo did not go as it says."))),
  Effect.provide(Live),
  NodeRuntime.runMain
)
