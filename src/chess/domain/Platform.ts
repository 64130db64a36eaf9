/**
 * Names the two chess sites.
 */
import { Schema } from "effect"

/** A chess site, by the name the API uses for it. */
export const Platform = Schema.Literals(["lichess", "chess.com"]).annotate({
  message: 'must be "lichess" or "chess.com"'
})
export type Platform = typeof Platform.Type

/** The name of a site as people write it. */
export const displayName = (platform: Platform): string => (platform === "lichess" ? "Lichess" : "Chess.com")
