/**
 * Remembers which requests have been carried out, and what was answered.
 *
 * A key is claimed by one holder at a time, for the length of a lease that the holder renews; whoever claims it after a
 * crash gets another token, and with the old one nothing can be done any more. A completed key keeps its answer until its
 * time to live has passed. All methods are atomic, and the store reads the time itself.
 *
 * The memory store is local to the process and forgets everything with it. When it is full, it refuses new keys: to forget an
 * old one would be to carry it out twice. `Idempotency/Sql` keeps keys in the database of the work itself.
 *
 * | defaults of the memory store | `maxKeys` 10,000 | `maxBytes` of all answers 64 MiB |
 */
import { Clock, Context, Duration, Effect, Layer, Schema } from "effect"

/** An answer as it is sent again. */
export interface StoredResponse {
  readonly status: number
  /** Names in lower case, one entry for each value. */
  readonly headers: ReadonlyArray<readonly [name: string, value: string]>
  /** Absent when the answer was too large to keep, or a stream: then it is known that it was given, and not what it said. */
  readonly body?: Uint8Array | undefined
}

/** A request by its key. */
export interface Identified {
  /** The key in its scope, at most 255 characters. */
  readonly key: string
  /** What must be the same when the key comes again. */
  readonly fingerprint: string
}

/** Who may complete a key. */
export interface Claim {
  readonly key: string
  /** Different for each claim ever made. */
  readonly token: string
}

/** What is known of a key. */
export type Known =
  | { readonly _tag: "Unknown" }
  /** Somebody carries it out; their lease ends in so much time unless it is renewed. */
  | { readonly _tag: "Running"; readonly leaseEndsIn: Duration.Duration }
  | { readonly _tag: "Completed"; readonly response: StoredResponse }
  /** The key was used for another request. */
  | { readonly _tag: "OtherRequest" }

/** The key is the caller's now, or what is known of it. */
export type Begun = { readonly _tag: "Claimed"; readonly claim: Claim } | Exclude<Known, { readonly _tag: "Unknown" }>

/** The store cannot be reached or does not answer in time. */
export class IdempotencyStoreError extends Schema.TaggedError<IdempotencyStoreError>()("IdempotencyStoreError", {
  cause: Schema.Defect()
}) {
  override get message() {
    return "The store of idempotency keys did not answer"
  }
}

/** The store has no room for another key. Nothing was claimed. */
export class IdempotencyStoreFull extends Schema.TaggedError<IdempotencyStoreFull>()("IdempotencyStoreFull", {
  maxKeys: Schema.Int
}) {
  override get message() {
    return `The store of idempotency keys is full: ${this.maxKeys} keys`
  }
}

/** Keeps keys. An implementation fails rather than hangs. */
export class IdempotencyStore extends Context.Service<
  IdempotencyStore,
  {
    /**
     * Claims a key that is new, has expired, or whose holder let the lease end. After a crash only the same request can
     * claim it again: the work may have been done.
     */
    readonly begin: (
      options: Identified & { readonly lease: Duration.Duration; readonly timeToLive: Duration.Duration }
    ) => Effect.Effect<Begun, IdempotencyStoreError | IdempotencyStoreFull>
    /** Reads what is known of a key. */
    readonly find: (request: Identified) => Effect.Effect<Known, IdempotencyStoreError>
    /** Lets the lease begin anew. False if the claim is no longer valid. */
    readonly renew: (claim: Claim, lease: Duration.Duration) => Effect.Effect<boolean, IdempotencyStoreError>
    /** Keeps the answer. False if the claim is no longer valid: then somebody else has the key, and nothing is changed. */
    readonly complete: (
      claim: Claim,
      response: StoredResponse,
      timeToLive: Duration.Duration
    ) => Effect.Effect<boolean, IdempotencyStoreError>
    /** Gives the key up, as if it had never come. False if the claim is no longer valid. */
    readonly release: (claim: Claim) => Effect.Effect<boolean, IdempotencyStoreError>
    /** Forgets what has expired, and says how many keys those were. */
    readonly cleanup: Effect.Effect<number, IdempotencyStoreError>
    /**
     * Runs an effect in a transaction of the store's own database, in which `complete` commits or rolls back together with
     * whatever else the effect writes there. Absent in a store that has no transactions.
     */
    readonly transaction?:
      | (<A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | IdempotencyStoreError, R>)
      | undefined
  }
>()("effect-resilience/http/IdempotencyStore") {}

/** The bounds of a memory store. */
export interface MemoryOptions {
  /** Keys that are kept, running ones included: an integer of at least 1. Defaults to 10,000. */
  readonly maxKeys?: number | undefined
  /** Bytes of all answers together. An answer beyond that is kept without its body. Defaults to 64 MiB. */
  readonly maxBytes?: number | undefined
}

/** Creates a store in memory. Options that make no sense are a defect, not an error. */
export const makeMemory = (options: MemoryOptions = {}): Effect.Effect<IdempotencyStore["Service"]> =>
  Effect.sync(() => {
    const maxKeys = options.maxKeys ?? 10_000
    const maxBytes = options.maxBytes ?? 64 * 1024 * 1024
    check("maxKeys", maxKeys, "an integer >= 1", Number.isInteger(maxKeys) && maxKeys >= 1)
    check("maxBytes", maxBytes, "a finite number >= 0", maxBytes >= 0 && maxBytes < Infinity)
    const entries = new Map<string, Entry>()
    let claims = 0
    let bytes = 0
    let sweptAt = -Infinity
    let hand: MapIterator<[string, Entry]> | undefined

    const remove = (key: string, entry: Entry) => {
      bytes -= entry.bytes
      entries.delete(key)
    }
    const sweep = (now: number, but?: Entry): number => {
      const before = entries.size
      for (const [key, entry] of entries) if (entry !== but && isExpired(entry, now)) remove(key, entry)
      sweptAt = now
      return before - entries.size
    }
    // Every claim looks at two keys, so that as many are forgotten as come.
    const look = (now: number) => {
      for (let looks = 0; looks < 2; looks++) {
        const next = (hand ??= entries.entries()).next()
        if (next.done === true) hand = undefined
        else if (isExpired(next.value[1], now)) remove(next.value[0], next.value[1])
      }
    }
    const held = ({ key, token }: Claim): Entry | undefined => {
      const entry = entries.get(key)
      return entry !== undefined && entry.response === undefined && entry.token === token ? entry : undefined
    }
    const known = (entry: Entry | undefined, fingerprint: string, now: number): Known => {
      if (entry === undefined || isExpired(entry, now)) return { _tag: "Unknown" }
      if (entry.fingerprint !== fingerprint) return { _tag: "OtherRequest" }
      if (entry.response !== undefined) return { _tag: "Completed", response: entry.response }
      if (entry.leaseEndsAt <= now) return { _tag: "Unknown" }
      return { _tag: "Running", leaseEndsIn: Duration.millis(entry.leaseEndsAt - now) }
    }
    const withNow = <A, E>(f: (now: number) => Effect.Effect<A, E>) => Effect.flatMap(Clock.currentTimeMillis, f)

    return {
      begin: ({ fingerprint, key, lease, timeToLive }) =>
        withNow((now): Effect.Effect<Begun, IdempotencyStoreFull> => {
          look(now)
          const before = entries.get(key)
          const found = known(before, fingerprint, now)
          if (found._tag !== "Unknown") return Effect.succeed(found)
          if (before !== undefined) remove(key, before)
          if (entries.size >= maxKeys && now - sweptAt >= 1_000) sweep(now)
          if (entries.size >= maxKeys) return Effect.fail(new IdempotencyStoreFull({ maxKeys }))
          const token = String(++claims)
          const leaseEndsAt = now + Duration.toMillis(lease)
          const expiresAt = now + Duration.toMillis(timeToLive)
          entries.set(key, { fingerprint, token, leaseEndsAt, expiresAt, response: undefined, bytes: 0 })
          return Effect.succeed({ _tag: "Claimed", claim: { key, token } })
        }),
      find: ({ fingerprint, key }) => withNow((now) => Effect.succeed(known(entries.get(key), fingerprint, now))),
      renew: (claim, lease) =>
        withNow((now) => {
          const entry = held(claim)
          if (entry !== undefined) entry.leaseEndsAt = now + Duration.toMillis(lease)
          return Effect.succeed(entry !== undefined)
        }),
      complete: (claim, response, timeToLive) =>
        withNow((now) => {
          const entry = held(claim)
          if (entry === undefined) return Effect.succeed(false)
          const size = sizeOf(response)
          if (bytes + size > maxBytes && now - sweptAt >= 1_000) sweep(now, entry)
          const keep = bytes + size <= maxBytes
          entry.response = keep ? response : { status: response.status, headers: [] }
          entry.bytes = keep ? size : 0
          entry.expiresAt = now + Duration.toMillis(timeToLive)
          bytes += entry.bytes
          return Effect.succeed(true)
        }),
      release: (claim) =>
        Effect.sync(() => {
          const entry = held(claim)
          if (entry !== undefined) remove(claim.key, entry)
          return entry !== undefined
        }),
      cleanup: withNow((now) => Effect.succeed(sweep(now)))
    }
  })

/** Provides `IdempotencyStore` in memory. */
export const layerMemory = (options?: MemoryOptions): Layer.Layer<IdempotencyStore> =>
  Layer.effect(IdempotencyStore, makeMemory(options))

interface Entry {
  readonly fingerprint: string
  readonly token: string
  leaseEndsAt: number
  expiresAt: number
  response: StoredResponse | undefined
  bytes: number
}

// What runs does not expire before its lease has ended.
const isExpired = (entry: Entry, now: number): boolean =>
  entry.expiresAt <= now && (entry.response !== undefined || entry.leaseEndsAt <= now)

const sizeOf = ({ body, headers }: StoredResponse): number =>
  (body?.length ?? 0) + headers.reduce((sum, [name, value]) => sum + 2 * (name.length + value.length), 0)

const check = (name: string, value: number, expected: string, valid: boolean): void => {
  if (!valid) throw new RangeError(`IdempotencyStore: ${name} must be ${expected}, got ${value}`)
}
