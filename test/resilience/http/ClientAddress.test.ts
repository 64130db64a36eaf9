import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Option } from "effect"
import { ClientAddress } from "effect-resilience/http"
import { HttpServerRequest } from "effect/http"
import { NetAddress } from "effect/net"

const requestOf = (peer: string | undefined, headers: Record<string, string> = {}) =>
  HttpServerRequest.fromWeb(new Request("http://localhost/", { headers })).modify({
    remoteAddress: Option.fromUndefinedOr(peer)
  })

const find = (options: ClientAddress.Options, peer: string | undefined, headers?: Record<string, string>) => {
  const address = ClientAddress.make(options)(requestOf(peer, headers))
  return address && NetAddress.formatIp(address)
}

const proxies = { trustedProxies: ["10.0.0.0/8", "2001:db8:ffff::/48"] }

describe("ClientAddress", () => {
  describe("make", () => {
    it.each([
      ["without proxies, the peer", {}, "203.0.113.9", { "x-forwarded-for": "6.6.6.6" }, "203.0.113.9"],
      [
        "a peer that is no proxy is not believed",
        proxies,
        "203.0.113.9",
        { "x-forwarded-for": "6.6.6.6" },
        "203.0.113.9"
      ],
      ["a proxy is believed", proxies, "10.0.0.1", { "x-forwarded-for": "198.51.100.7" }, "198.51.100.7"],
      [
        "the rightmost that is no proxy",
        proxies,
        "10.0.0.1",
        { "x-forwarded-for": "6.6.6.6, 198.51.100.7, 10.2.3.4" },
        "198.51.100.7"
      ],
      [
        "all of them proxies: the leftmost",
        proxies,
        "10.0.0.1",
        { "x-forwarded-for": "10.0.0.3, 10.0.0.2" },
        "10.0.0.3"
      ],
      [
        "what is no address ends it",
        proxies,
        "10.0.0.1",
        { "x-forwarded-for": "6.6.6.6, nonsense, 10.0.0.2" },
        "10.0.0.2"
      ],
      ["an empty element ends it", proxies, "10.0.0.1", { "x-forwarded-for": "6.6.6.6,, 10.0.0.2" }, "10.0.0.2"],
      ["no header", proxies, "10.0.0.1", {}, "10.0.0.1"],
      ["IPv4 mapped to IPv6", proxies, "::ffff:10.0.0.1", { "x-forwarded-for": "::ffff:198.51.100.7" }, "198.51.100.7"],
      [
        "ports and brackets",
        proxies,
        "10.0.0.1",
        { "x-forwarded-for": "[2001:db8::7]:443, 10.0.0.2:80" },
        "2001:db8::7"
      ],
      ["IPv6 proxies", proxies, "2001:db8:ffff::1", { "x-forwarded-for": "2001:db8::7" }, "2001:db8::7"],
      ["the header that is not named is not read", proxies, "10.0.0.1", { forwarded: "for=6.6.6.6" }, "10.0.0.1"],
      ["no peer at all", proxies, undefined, { "x-forwarded-for": "6.6.6.6" }, undefined]
    ])("%s", (_, options, peer, headers, expected) => {
      assert.strictEqual(find(options, peer, headers as unknown as Record<string, string>), expected)
    })

    it.each([
      ["for=198.51.100.7", "198.51.100.7"],
      ['For="[2001:db8::7]:4711"', "2001:db8::7"],
      ["for=6.6.6.6, for=198.51.100.7;proto=http;by=10.0.0.2, for=10.0.0.2", "198.51.100.7"],
      ["proto=https;for=198.51.100.7", "198.51.100.7"],
      ['for="6.6.6.6,\\"", for=198.51.100.7', "198.51.100.7"],
      ["for=6.6.6.6, for=unknown, for=10.0.0.2", "10.0.0.2"],
      ["for=6.6.6.6, for=_hidden", "10.0.0.1"],
      ["for=6.6.6.6, by=10.0.0.2", "10.0.0.1"],
      // The client leaves a quote open, and the proxy adds what it knows.
      ['for=6.6.6.6;x=", for="[2001:db8::7]"', "10.0.0.1"],
      ['for=6.6.6.6;x=", for=198.51.100.7', "10.0.0.1"],
      ["nonsense", "10.0.0.1"],
      ["", "10.0.0.1"]
    ])("reads Forwarded: %s", (forwarded, expected) => {
      assert.strictEqual(find({ ...proxies, header: "forwarded" }, "10.0.0.1", { forwarded }), expected)
    })

    it("reads a hostile Forwarded in linear time", () => {
      for (const text of [`${" ".repeat(16_000)}@`, `for="${"\\a".repeat(8_000)}`, `${"a".repeat(16_000)}`]) {
        const before = performance.now()
        for (let i = 0; i < 50; i++) find({ ...proxies, header: "forwarded" }, "10.0.0.1", { forwarded: `x=1,${text}` })
        assert.isBelow(performance.now() - before, 1_000)
      }
    })

    it("dies on networks that cannot be read", () => {
      assert.throws(() => ClientAddress.make({ trustedProxies: ["10.0.0.0/99"] }), RangeError, "10.0.0.0/99")
    })
  })

  describe("prefix", () => {
    it.each([
      ["198.51.100.7", "198.51.100.7"],
      ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
      ["2001:db8:1:2:ffff::", "2001:db8:1:2::/64"]
    ])("%s is %s", (address, expected) => {
      assert.strictEqual(ClientAddress.prefix(NetAddress.ipFromStringUnsafe(address)), expected)
    })
  })

  describe("config", () => {
    const read = (env: Record<string, string>) => ClientAddress.config.parse(ConfigProvider.fromEnvRecord(env))

    it.effect("reads networks and the header, and has defaults", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* read({}), { trustedProxies: [], header: "x-forwarded-for" })
        assert.deepStrictEqual(
          yield* read({ TRUSTED_PROXIES: "10.0.0.0/8, 192.0.2.1", FORWARDED_HEADER: "forwarded" }),
          {
            trustedProxies: ["10.0.0.0/8", "192.0.2.1"],
            header: "forwarded"
          }
        )
      })
    )

    it.effect("names the variable that is wrong", () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(read({ TRUSTED_PROXIES: "10.0.0.0/8, example.com" }))
        assert.instanceOf(error, Config.ConfigError)
        assert.include(String(error), "TRUSTED_PROXIES")
      })
    )
  })
})
