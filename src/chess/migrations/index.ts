/**
 * Brings the database to the tables that this version needs.
 *
 * Each migration runs once, in order, all in one transaction; what has run is kept in the table `chess_migration`.
 * Migrations are only ever added, and run on SQLite and PostgreSQL alike.
 */
import { Layer } from "effect"
import { Migrator, type SqlClient, type SqlError } from "effect/sql"
import gamesAndImports from "./0001_games_and_imports.ts"

/** Runs the migrations that have not run yet, and succeeds with them. */
export const migrate = Migrator.make({})({
  loader: Migrator.fromRecord({ "0001_games_and_imports": gamesAndImports }),
  table: "chess_migration"
})

/** Runs the migrations when it is built. The stores provide it themselves. */
export const layer: Layer.Layer<never, Migrator.MigrationError | SqlError.SqlError, SqlClient.SqlClient> =
  Layer.effectDiscard(migrate)
