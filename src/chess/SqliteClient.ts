/**
 * Runs `effect/sql` on the SQLite that is part of Node (`node:sqlite`).
 *
 * One connection, shared through a semaphore: a statement waits for the transaction or stream that holds it. Calls are
 * synchronous and block the event loop while SQLite works, so keep statements short and transactions free of waits.
 *
 * The file is in WAL mode with `synchronous = NORMAL`: a killed process loses no committed transaction; a power cut
 * may lose the last ones, whole and in order, and never corrupts the file. Transactions start with `BEGIN IMMEDIATE`:
 * with several processes on one file they wait for each other instead of failing half-way.
 */
import { mkdirSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite"
import { Context, Duration, Effect, Layer, Option, type Scope, Schema, Semaphore, Stream } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient, type SqlConnection, SqlError, Statement } from "effect/sql"

/** A `SqlClient` on one SQLite file, with what only SQLite offers. */
export interface SqliteClient extends SqlClient.SqlClient {
  readonly [TypeId]: typeof TypeId
  /**
   * Runs one statement once per row, prepared once, in a single synchronous step, and succeeds with how many rows of
   * the database each run changed. It is not atomic by itself: put it in a transaction. Size the batch for the event
   * loop: it is blocked until the last row.
   */
  readonly executeBatch: (
    sql: string,
    rows: ReadonlyArray<ReadonlyArray<unknown>>
  ) => Effect.Effect<ReadonlyArray<number>, SqlError.SqlError>
}

/** How to open a database. */
export interface Options {
  /** The path of the file, which is created with its directory, or `:memory:`. */
  readonly file: string
  /** How long SQLite waits, blocking, for another process's lock. Defaults to 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
  /** How many prepared statements are kept; the least recently used goes first. Defaults to 200. */
  readonly maxPrepared?: number | undefined
  /**
   * Refuses a file that another client has opened with this option, in whichever process, and keeps out the next. What
   * holds the file is a lock of the operating system on `<file>.lock`, so it ends with the process, however that ends.
   * Programs without this option can still read and write. Defaults to false.
   */
  readonly exclusive?: boolean | undefined
}

/** Opens a database and closes it with the scope. */
export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<SqliteClient, SqlError.SqlError, Scope.Scope | Reactivity.Reactivity> {
  const busyTimeout = Duration.toMillis(options.busyTimeout ?? "5 seconds")
  const maxPrepared = options.maxPrepared ?? 200
  if (!Number.isInteger(maxPrepared) || maxPrepared < 1) {
    throw new RangeError(`SqliteClient: maxPrepared must be an integer >= 1, got ${maxPrepared}`)
  }

  if (options.exclusive === true && options.file !== ":memory:") yield* lock(options.file)
  const database = yield* Effect.acquireRelease(open(options.file, busyTimeout), close)
  yield* configure(database)
  const connection = makeConnection(database, maxPrepared)
  const semaphore = yield* Semaphore.make(1)
  const acquirers = SqlClient.makeSqliteAcquirers({
    connection: Effect.succeed(connection),
    semaphore,
    isTransaction: () => database.isTransaction
  })
  const client = yield* SqlClient.make({
    ...acquirers,
    compiler: Statement.makeCompilerSqlite(),
    driver: "node-sqlite",
    beginTransaction: "BEGIN IMMEDIATE",
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
    prepareTransactionControls: true,
    spanAttributes: [["db.system.name", "sqlite"]]
  })

  return Object.assign(client, {
    [TypeId]: TypeId,
    executeBatch: (sql: string, rows: ReadonlyArray<ReadonlyArray<unknown>>) =>
      // In a transaction its connection is held already: waiting for it would never end.
      Effect.flatMap(Effect.serviceOption(client.transactionService), (transaction) =>
        Option.isSome(transaction)
          ? connection.executeBatch(sql, rows)
          : acquirers.borrower(() => connection.executeBatch(sql, rows))
      )
  } as const)
})

/** Whether a client is one of this module, and so offers `executeBatch`. */
export const isSqliteClient = (client: SqlClient.SqlClient): client is SqliteClient => TypeId in client

/**
 * The file that a `DATABASE_URL` names: `file:./data/chess.db`, `file:/var/lib/chess.db`, `file:///var/lib/chess.db` or
 * `file::memory:`. Percent escapes are decoded. None for anything else: another scheme, a host, a query, no path.
 */
export const fileOf = (url: string): Option.Option<string> => {
  const path = /^file:(?:\/\/(?=\/))?((?!\/\/)[^?#]+)$/.exec(url)?.[1]
  return path === undefined ? Option.none() : Option.filter(decodePath(path), (file) => !file.includes("\0"))
}

/** The client of a context, when the code needs more of it than `SqlClient`. */
export const SqliteClient = Context.Service<SqliteClient>("effect-resilience/chess/SqliteClient")

/** Provides the client, as itself and as `SqlClient`. */
export const layer = (options: Options): Layer.Layer<SqliteClient | SqlClient.SqlClient, SqlError.SqlError> =>
  Layer.effectContext(
    Effect.map(make(options), (client) =>
      Context.make(SqliteClient, client).pipe(Context.add(SqlClient.SqlClient, client))
    )
  ).pipe(Layer.provide(Reactivity.layer))

/** Provides a client on a new, empty database in memory: for tests. */
export const layerMemory: Layer.Layer<SqliteClient | SqlClient.SqlClient, SqlError.SqlError> = layer({
  file: ":memory:"
})

const TypeId = "~effect-resilience/chess/SqliteClient"

interface Connection extends SqlConnection.Connection {
  readonly executeBatch: SqliteClient["executeBatch"]
}

/** A prepared statement and the modes it was last set to. */
interface Prepared {
  readonly statement: StatementSync
  readonly returnsRows: boolean
  bigInts: boolean
  arrays: boolean
}

const open = (file: string, busyTimeout: number) =>
  attempt("open", () => {
    if (file !== ":memory:") mkdirSync(dirname(file), { recursive: true })
    return new DatabaseSync(file, { timeout: busyTimeout })
  })

// The lock file is a database too, for ever empty: SQLite knows how to lock a file on every system.
const lock = Effect.fnUntraced(function* (file: string) {
  const holder = yield* Effect.acquireRelease(open(`${file}.lock`, 0), (database) =>
    Effect.sync(() => database.close())
  )
  yield* Effect.try({
    try: () => holder.exec("BEGIN EXCLUSIVE"),
    catch: (cause) =>
      toSqlError(
        isBusy(cause) ? Object.assign(new Error("another process uses this database"), { errno: busy }) : cause,
        "lock"
      )
  })
})

const isBusy = (cause: unknown): boolean => cause instanceof Error && "errcode" in cause && cause.errcode === busy

/** SQLITE_BUSY */
const busy = 5

// A row with a PGN of some kilobytes fills a page of the usual 4 KiB badly: with 8 KiB a third less is written. Only a
// new file takes it. The cache of 8 MiB keeps the inner pages of the indexes of some hundred thousand games, whose ids
// come in no order. The log is moved into the file every 16 MiB, which blocks for some tens of milliseconds, and is cut
// to 64 MiB if a transaction made it larger.
const configure = (database: DatabaseSync) =>
  attempt("open", () =>
    database.exec(`
      PRAGMA page_size = 8192;
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = NORMAL;
      PRAGMA cache_size = -8192;
      PRAGMA wal_autocheckpoint = 2048;
      PRAGMA journal_size_limit = 67108864`)
  )

// Closing the last connection moves the log into the file and removes it.
const close = (database: DatabaseSync) =>
  attempt("optimize", () => database.exec("PRAGMA optimize")).pipe(
    Effect.ignore,
    Effect.andThen(Effect.sync(() => database.close()))
  )

const makeConnection = (database: DatabaseSync, maxPrepared: number): Connection => {
  const cache = new Map<string, Prepared>()

  const prepare = (sql: string): Prepared => {
    const statement = database.prepare(sql)
    return { statement, returnsRows: statement.columns().length > 0, bigInts: false, arrays: false }
  }

  const prepareCached = (sql: string): Prepared => {
    let prepared = cache.get(sql)
    if (prepared !== undefined) {
      cache.delete(sql)
    } else {
      prepared = prepare(sql)
      for (const oldest of cache.size < maxPrepared ? [] : cache.keys()) {
        cache.delete(oldest)
        break
      }
    }
    cache.set(sql, prepared)
    return prepared
  }

  const run =
    (prepareSql: (sql: string) => Prepared, arrays: boolean) => (sql: string, params: ReadonlyArray<unknown>) =>
      withSafeIntegers((bigInts) =>
        attempt("execute", () => {
          const prepared = prepareSql(sql)
          setModes(prepared, bigInts, arrays)
          if (prepared.returnsRows) return prepared.statement.all(...toInputs(params))
          prepared.statement.run(...toInputs(params))
          return []
        })
      )

  const rows = run(prepareCached, false)
  const rowsUnprepared = run(prepare, false)
  // In arrays mode each row is an array, which the types of node:sqlite do not say.
  const values = run(prepareCached, true) as unknown as Connection["executeValues"]
  const valuesUnprepared = run(prepare, true) as unknown as Connection["executeValues"]

  return {
    execute: (sql, params, transform) => (transform ? Effect.map(rows(sql, params), transform) : rows(sql, params)),
    executeUnprepared: (sql, params, transform) =>
      transform ? Effect.map(rowsUnprepared(sql, params), transform) : rowsUnprepared(sql, params),
    executeValues: values,
    executeValuesUnprepared: valuesUnprepared,
    executeRaw: (sql, params) =>
      withSafeIntegers((bigInts) =>
        attempt("execute", () => {
          const prepared = prepareCached(sql)
          setModes(prepared, bigInts, false)
          const inputs = toInputs(params)
          return prepared.returnsRows ? prepared.statement.all(...inputs) : prepared.statement.run(...inputs)
        })
      ),
    executeStream: (sql, params, transform) =>
      Stream.unwrap(
        Effect.map(
          Effect.acquireRelease(
            withSafeIntegers((bigInts) =>
              attempt("stream", () => {
                // Not from the cache: running the same statement again would reset this one's cursor.
                const prepared = prepare(sql)
                setModes(prepared, bigInts, false)
                return prepared.statement.iterate(...toInputs(params))
              })
            ),
            (iterator) => Effect.sync(() => iterator.return?.())
          ),
          (iterator) =>
            Stream.paginate(iterator, () =>
              attempt("stream", () => {
                const chunk = []
                for (let next = iterator.next(); !next.done; next = iterator.next()) {
                  chunk.push(next.value)
                  if (chunk.length === streamChunk) {
                    return [transform ? transform(chunk) : chunk, Option.some(iterator)] as const
                  }
                }
                return [transform ? transform(chunk) : chunk, Option.none()] as const
              })
            )
        )
      ),
    executeBatch: (sql, batch) =>
      attempt("executeBatch", () => {
        const { statement } = prepareCached(sql)
        const changes = Array.from<number>({ length: batch.length })
        for (let i = 0; i < batch.length; i++) changes[i] = Number(statement.run(...toInputs(batch[i]!)).changes)
        return changes
      })
  }
}

/** How many rows a stream reads in one synchronous step. */
const streamChunk = 128

const withSafeIntegers = <A, E>(f: (bigInts: boolean) => Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.flatMap(SqlClient.SafeIntegers, f)

const setModes = (prepared: Prepared, bigInts: boolean, arrays: boolean): void => {
  if (prepared.bigInts !== bigInts) {
    prepared.statement.setReadBigInts(bigInts)
    prepared.bigInts = bigInts
  }
  if (prepared.arrays !== arrays) {
    prepared.statement.setReturnArrays(arrays)
    prepared.arrays = arrays
  }
}

// node:sqlite binds null, numbers, bigints, booleans, strings and bytes, and throws for anything else; `undefined`,
// which other drivers take for NULL, is turned into it here. A number is bound as a REAL, which a column of integers
// stores as an integer; where a statement looks at the parameter itself (`typeof`, `||`), pass a bigint.
const toInputs = (params: ReadonlyArray<unknown>): Array<SQLInputValue> =>
  (params.includes(undefined) ? params.map((param) => param ?? null) : params) as Array<SQLInputValue>

const attempt = <A>(operation: string, evaluate: () => A): Effect.Effect<A, SqlError.SqlError> =>
  Effect.try({ try: evaluate, catch: (cause) => toSqlError(cause, operation) })

// The messages of SQLite name tables and columns and never show a value.
const toSqlError = (cause: unknown, operation: string): SqlError.SqlError => {
  const isError = cause instanceof Error
  // node:sqlite says in `errcode` what the classifier reads from `errno`.
  if (isError && "errcode" in cause && typeof cause.errcode === "number") {
    Object.assign(cause, { errno: uniqueCodes.has(cause.errcode) ? uniqueViolation : cause.errcode })
  }
  return new SqlError.SqlError({
    reason: SqlError.classifySqliteError(cause, { message: isError ? cause.message : undefined, operation })
  })
}

/** SQLITE_CONSTRAINT_UNIQUE, and the codes of a taken primary key or rowid, which are the same to the caller. */
const uniqueViolation = 2067
const uniqueCodes: ReadonlySet<number> = new Set([1555, 2579])

const decodePath = Schema.decodeOption(Schema.StringFromUriComponent)
