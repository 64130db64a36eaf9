/**
 * Says how a circuit is, to people and probes.
 */
import { Duration } from "effect"
import type { State } from "../../CircuitBreaker.ts"

/** A circuit without its key. */
export const circuitBody = (state: State): Readonly<Record<string, unknown>> => {
  switch (state._tag) {
    case "Closed":
      return { state: "closed", failures: state.failures }
    case "Open":
      return {
        state: "open",
        failures: state.failures,
        retry_after_seconds: Duration.isFinite(state.retryAfter)
          ? Math.ceil(Duration.toSeconds(state.retryAfter))
          : null,
        openings: state.openings
      }
    case "HalfOpen":
      return { state: "half-open", failures: state.failures, successes: state.successes, openings: state.openings }
    case "Isolated":
      return { state: "isolated", failures: state.failures }
  }
}
