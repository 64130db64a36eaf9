/**
 * The players of the simulated world: who exists on which site, and how many games each has played.
 *
 * A player is either listed, or follows from the name alone: `ghost-…` does not exist, `closed-…` has closed the
 * account, `banned-…` was closed for cheating (Lichess keeps such accounts open), `empty-…` never played, and a name
 * that ends in `-<digits>` has played that many games (`nadia-250`). Every other possible name exists, with a number of
 * games drawn from its letters: most have fewer than 2,000, few up to 80,000. Names are the same in any case.
 */
import { Duration } from "effect"
import { type Platform } from "../domain/Platform.ts"
import * as Calendar from "./Calendar.ts"
import * as GamePool from "./GamePool.ts"
import * as Hash from "./Hash.ts"
import * as Names from "./Names.ts"
import * as Timeline from "./Timeline.ts"

/** The instant at which the generated history ends: 2026-09-15 12:00 UTC. The clock of the sites never shows less. */
export const historyEnds = Calendar.toDays(2026, 9, 15) * Calendar.dayMillis + Calendar.dayMillis / 2

/** The most games a player can have. */
export const maxGames = 2_000_000

/** A player to list. A site without an account does not know the name. */
export interface User {
  /** The name in the case the sites show. */
  readonly name: string
  readonly lichess?: AccountOptions | undefined
  readonly chessCom?: AccountOptions | undefined
}

/** An account on one site. */
export interface AccountOptions {
  /** Games played before `historyEnds`: 0 to 2,000,000. Defaults to what the name suggests. */
  readonly games?: number | undefined
  /** Open, closed by its owner, or marked for cheating. Defaults to what the name suggests. */
  readonly state?: AccountState | undefined
  /** When the first game was played, in epoch milliseconds. Defaults to some time between 2012 and 2022. */
  readonly from?: number | undefined
  /** When the last game was played, in epoch milliseconds. Defaults to `historyEnds`. */
  readonly to?: number | undefined
  /** Once the world has started, one more game begins each time this much has passed. Defaults to never. */
  readonly playsEvery?: Duration.Input | undefined
  /** The share of unusual games (engine or anonymous opponents, variants, missing fields …), 0 to 1. Defaults to 0.05. */
  readonly oddities?: number | undefined
  /** A chess title. Defaults to none. */
  readonly title?: string | undefined
  /**
   * Another player of the same site: this one has played exactly that one's games, from the other side. Both then give
   * out the same games. What is said of games here does not count. Defaults to games of its own.
   */
  readonly mirrorOf?: string | undefined
}

/** Whether an account can be used: `banned` ones have cheated. */
export type AccountState = "open" | "closed" | "banned"

/** One account, with all that is generated from it. */
export interface Account {
  readonly platform: Platform
  readonly name: string
  readonly id: string
  readonly hash: number
  readonly state: AccountState
  readonly title: string | undefined
  readonly rating: number
  readonly from: number
  readonly oddities: number
  readonly timeline: Timeline.Timeline
  /** The account whose games these are; itself unless it mirrors another. */
  readonly games: () => Account
  /** The only opponent, if another account mirrors this one. */
  readonly rival: Names.Opponent | undefined
}

/** The players, their opponents and the pool their moves come from. */
export interface World {
  readonly seed: number
  readonly pool: GamePool.GamePool
  readonly opponents: ReadonlyArray<Names.Opponent>
  /** The account of a name on a site, in any case; `undefined` if there is none. */
  readonly account: (platform: Platform, name: string) => Account | undefined
  /** Lists a player, or changes one. */
  readonly put: (user: User) => void
}

/** Creates a world. `startedAt` is the sites' time now. */
export const make = (options: {
  readonly seed: number
  readonly users: ReadonlyArray<User>
  readonly unlisted: "generated" | "unknown"
  readonly oddities: number
  readonly startedAt: number
}): World => {
  const listed = new Map<string, User>()
  // Accounts follow from their names; the few that are in use are kept because their months take a while to lay out.
  const recent = new Map<string, Account>()

  const optionsOf = (platform: Platform, id: string): AccountOptions | undefined => {
    const user = listed.get(id)
    return platform === "lichess" ? user?.lichess : user?.chessCom
  }

  const resolve = (platform: Platform, name: string): Account | undefined => {
    const id = name.toLowerCase()
    const user = listed.get(id)
    const account = optionsOf(platform, id)
    if (user === undefined ? options.unlisted === "unknown" || id.startsWith("ghost") : account === undefined) {
      return undefined
    }
    const own = generate(platform, user?.name ?? name, account ?? {}, options, rivalOf(platform, id))
    const mirrored = account?.mirrorOf === undefined ? undefined : resolve(platform, account.mirrorOf)
    return mirrored === undefined ? own : { ...own, timeline: mirrored.timeline, games: () => mirrored }
  }

  const rivalOf = (platform: Platform, id: string): Names.Opponent | undefined => {
    for (const user of listed.values()) {
      const account = optionsOf(platform, user.name.toLowerCase())
      if (account?.mirrorOf?.toLowerCase() !== id) continue
      const rival = user.name.toLowerCase()
      const uuid = uuidOf(hashOf(platform, rival, options.seed))
      return { name: user.name, id: rival, title: account.title, flair: undefined, patron: false, uuid }
    }
    return undefined
  }

  const put = (user: User): void => {
    if (!possibleName.test(user.name)) throw new RangeError(`World: name is not a user name: ${user.name}`)
    for (const account of [user.lichess, user.chessCom]) {
      if (account !== undefined) check(user.name, account)
    }
    for (const platform of ["lichess", "chess.com"] as const) {
      const target = (platform === "lichess" ? user.lichess : user.chessCom)?.mirrorOf?.toLowerCase()
      if (target === user.name.toLowerCase() || (target !== undefined && optionsOf(platform, target)?.mirrorOf)) {
        throw new RangeError(`World: mirrorOf of ${user.name} must name a player who mirrors nobody, got ${target}`)
      }
    }
    listed.set(user.name.toLowerCase(), user)
    recent.clear()
  }
  for (const user of options.users) put(user)

  return {
    seed: options.seed,
    ...materialOf(options.seed),
    put,
    account: (platform, name) => {
      if (!possibleName.test(name)) return undefined
      const key = `${platform} ${name.toLowerCase()}`
      const known = recent.get(key)
      if (known !== undefined) return known
      const account = resolve(platform, name)
      if (account !== undefined) {
        if (recent.size >= maxRecent) recent.clear()
        recent.set(key, account)
      }
      return account
    }
  }
}

interface Material {
  readonly pool: GamePool.GamePool
  readonly opponents: ReadonlyArray<Names.Opponent>
}

// Worlds of one seed share what follows from the seed alone: playing the pool takes half a second.
const materials = new Map<number, Material>()
const maxMaterials = 4

const materialOf = (seed: number): Material => {
  const known = materials.get(seed)
  if (known !== undefined) return known
  const material = { pool: GamePool.make(seed), opponents: Names.make(seed) }
  if (materials.size >= maxMaterials) materials.clear()
  materials.set(seed, material)
  return material
}

const possibleName = /^[A-Za-z0-9_-]{2,30}$/
const maxRecent = 4096

const check = (name: string, account: AccountOptions): void => {
  const { from = 0, games = 0, oddities = 0, to = historyEnds } = account
  if (!Number.isInteger(games) || games < 0 || games > maxGames) {
    throw new RangeError(`World: games of ${name} must be an integer from 0 to ${maxGames}, got ${games}`)
  }
  if (!(oddities >= 0 && oddities <= 1)) {
    throw new RangeError(`World: oddities of ${name} must be from 0 to 1, got ${oddities}`)
  }
  if (!(from < to && to <= historyEnds)) {
    throw new RangeError(`World: from and to of ${name} must be in order and not after historyEnds`)
  }
}

const generate = (
  platform: Platform,
  name: string,
  account: AccountOptions,
  world: { readonly seed: number; readonly oddities: number; readonly startedAt: number },
  rival: Names.Opponent | undefined
): Account => {
  const id = name.toLowerCase()
  const hash = hashOf(platform, id, world.seed)
  const to = account.to ?? historyEnds
  const games = account.games ?? gamesOf(id, hash)
  const chosen = earliest + Hash.unit(Hash.mix(hash ^ 0x66726f6d)) * tenYears
  const from = account.from ?? Math.min(Math.floor(chosen), to - Calendar.dayMillis)
  const generated: Account = {
    platform,
    name,
    id,
    hash,
    rival,
    games: () => generated,
    state: account.state ?? stateOf(id),
    title: account.title,
    rating: 900 + (Hash.mix(hash ^ 0x72617465) % 1500),
    from,
    oddities: account.oddities ?? world.oddities,
    timeline: Timeline.make({
      hash,
      games,
      from,
      to,
      growsFrom: world.startedAt,
      everyMillis: account.playsEvery === undefined ? undefined : Duration.toMillis(account.playsEvery),
      ties: platform === "lichess" && (account.oddities ?? world.oddities) > 0
    })
  }
  return generated
}

const hashOf = (platform: Platform, id: string, seed: number): number => Hash.ofText(`${platform}/${id}`, seed)

/** Chess.com's identifier of the account with this hash. */
export const uuidOf = (hash: number): string => Names.uuid(hash, Hash.mix(hash), Hash.mix(hash ^ 0x6f776e))

const earliest = Calendar.toDays(2013, 1, 1) * Calendar.dayMillis
const tenYears = 3652 * Calendar.dayMillis

const stateOf = (id: string): AccountState =>
  id.startsWith("closed-") ? "closed" : id.startsWith("banned-") ? "banned" : "open"

const gamesOf = (id: string, hash: number): number => {
  if (id.startsWith("empty-")) return 0
  const stated = /-(\d{1,7})$/.exec(id)?.[1]
  if (stated !== undefined) return Math.min(Number(stated), maxGames)
  const share = Hash.unit(Hash.mix(hash ^ 0x67616d65))
  const within = Hash.unit(Hash.mix(hash ^ 0x7769746e))
  if (share < 0.05) return 0
  if (share < 0.7) return Math.floor(1 + within * 1999)
  if (share < 0.95) return Math.floor(2000 + within * 18_000)
  return Math.floor(20_000 + within * 60_000)
}
