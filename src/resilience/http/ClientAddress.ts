/**
 * Tells which address a request really comes from, when proxies stand before the server.
 *
 * Only a trusted proxy is believed: from the peer of the connection on, the header is read from right to left, and the first
 * address that is no trusted proxy is the client. Whatever stands further left was sent by the client, and may be invented.
 * What cannot be read as an address ends the search: then the last proxy that could be is the client.
 *
 * Name the one header that your proxy sets. The other one, which it passes on as it came, would let every client choose.
 */
import { Config, Option, Result, Schema } from "effect"
import type { HttpServerRequest } from "effect/http"
import { IpNetwork, NetAddress } from "effect/net"

/** Which proxies are believed, and where they say it. */
export interface Options {
  /** The networks of your own proxies, such as `10.0.0.0/8` or `2001:db8::1/128`. Defaults to none. */
  readonly trustedProxies?: ReadonlyArray<string> | undefined
  /** The header that they set: `X-Forwarded-For`, or `Forwarded` of RFC 7239. Defaults to "x-forwarded-for". */
  readonly header?: "x-forwarded-for" | "forwarded" | undefined
}

/** Finds the address of a client: `undefined` when the connection has none, as in a test without a socket. */
export type ClientAddress = (request: HttpServerRequest.HttpServerRequest) => NetAddress.IpAddress | undefined

/** Prepares the search. A network that cannot be read is a defect. IPv4 addresses mapped to IPv6 are read as IPv4. */
export const make = (options: Options = {}): ClientAddress => {
  const { header = "x-forwarded-for", trustedProxies = [] } = options
  const networks = trustedProxies.map((network) => {
    const parsed = parseNetwork(network)
    if (parsed !== undefined) return parsed
    throw new RangeError(`ClientAddress: trustedProxies must be networks or addresses, got ${JSON.stringify(network)}`)
  })
  const isTrusted = (address: NetAddress.IpAddress) => networks.some((network) => IpNetwork.contains(network, address))
  return (request) => {
    // Another middleware may have put an address of its own there: without proxies here, it is taken.
    if (networks.length === 0) return Option.getOrUndefined(Option.flatMap(request.remoteAddress, parseOption))
    let client = Option.getOrUndefined(Option.flatMap(request.peerAddress, parseOption))
    if (client === undefined || !isTrusted(client)) return client
    const hops = header === "forwarded" ? forwardedFor(request) : request.headers["x-forwarded-for"]?.split(",")
    for (const hop of (hops ?? []).reverse()) {
      const address = hop === undefined ? undefined : parse(hop)
      if (address === undefined) return client
      client = address
      if (!isTrusted(address)) return client
    }
    return client
  }
}

/**
 * The part of an address that one client has: all of an IPv4 address; of an IPv6 address the first 64 bits, since a
 * customer is given at least that many addresses.
 */
export const prefix = (address: NetAddress.IpAddress): string =>
  NetAddress.isIpv4Address(address)
    ? NetAddress.formatIp(address)
    : IpNetwork.format(IpNetwork.fromAddressUnsafe(address, 64))

/** Reads `TRUSTED_PROXIES`, networks or addresses with commas between them, and `FORWARDED_HEADER`. */
export const config: Config.Config<Options> = Config.all({
  trustedProxies: Config.schema(
    Schema.String.check(
      Schema.makeFilter((text) => splitList(text).every((network) => parseNetwork(network) !== undefined), {
        message: "must be networks or addresses with commas between them, such as 10.0.0.0/8, 192.0.2.1"
      })
    ),
    "TRUSTED_PROXIES"
  ).pipe(Config.withDefault(""), Config.map(splitList)),
  header: Config.schema(Schema.Literals(["x-forwarded-for", "forwarded"]), "FORWARDED_HEADER").pipe(
    Config.withDefault("x-forwarded-for" as const)
  )
})

function splitList(text: string): ReadonlyArray<string> {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
}

const parseNetwork = (text: string): IpNetwork.IpNetwork | undefined => {
  const network = IpNetwork.fromString(text)
  if (Result.isSuccess(network)) return network.success
  const address = NetAddress.ipFromString(text)
  return Result.isSuccess(address)
    ? IpNetwork.makeUnsafe(address.success, NetAddress.width(address.success))
    : undefined
}

// The `for` of each proxy: undefined where there is none. A value that is not well-formed says nothing at all: a quote that
// the client leaves open would otherwise swallow what the proxy adds, and leave what the client says.
const forwardedFor = (request: HttpServerRequest.HttpServerRequest): Array<string | undefined> | undefined => {
  const text = request.headers["forwarded"] ?? ""
  const hops: Array<string | undefined> = [undefined]
  forwardedPair.lastIndex = 0
  while (forwardedPair.lastIndex < text.length) {
    const found = forwardedPair.exec(text)
    if (found === null) return undefined
    const [, name, quoted, token, separator] = found
    if (name?.toLowerCase() === "for") hops[hops.length - 1] = quoted?.replace(/\\(.)/g, "$1") ?? token
    if (separator === ",") hops.push(undefined)
  }
  return hops
}

const forwardedPair = /[ \t]*(?:([\w!#$%&'*+.^`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([\w!#$%&'*+.^`|~:[\]-]+))[ \t]*)?(;|,|$)/y

// With or without a port, IPv6 with or without brackets.
const parse = (text: string): NetAddress.IpAddress | undefined => {
  const trimmed = text.trim()
  const bare = /^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1] ?? /^([\d.]+):\d+$/.exec(trimmed)?.[1] ?? trimmed
  const address = NetAddress.ipFromString(bare)
  return Result.isSuccess(address) ? NetAddress.toCanonical(address.success) : undefined
}

const parseOption = (text: string): Option.Option<NetAddress.IpAddress> => Option.fromUndefinedOr(parse(text))
