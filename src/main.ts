/**
 * Starts the chess service. `docs/service.md` lists its settings.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Process from "./chess/Process.ts"

NodeRuntime.runMain(Process.run, { disableErrorReporting: true, teardown: Process.teardown })
