/**
 * The error of an upstream that is made up.
 */
import { Schema } from "effect"

/** A call to the upstream of a world has failed. */
export class UpstreamFailed extends Schema.TaggedError<UpstreamFailed>()("UpstreamFailed", {
  /** It "failed" after its work, was "refused" during an outage, or the upstream was "full". */
  reason: Schema.Literals(["failed", "refused", "full"]),
  status: Schema.Int,
  /** `ECONNREFUSED` of a refused call. */
  code: Schema.optionalKey(Schema.String)
}) {
  override get message() {
    return `The upstream answered ${this.status}: ${this.reason}`
  }
}
