import { assert, describe, it } from "@effect/vitest"
import * as Fields from "../../../src/resilience/internal/structuredFields.ts"

const { boolean, byteSequence, decimal, integer, item, string, token } = Fields

const date = (value: number): Fields.BareItem => ({ _tag: "Date", value })
const display = (value: string): Fields.BareItem => ({ _tag: "DisplayString", value })
const inner = (items: ReadonlyArray<Fields.Item>, parameters: Record<string, Fields.BareItem> = {}): Fields.Member => ({
  _tag: "InnerList",
  items,
  parameters: new Map(Object.entries(parameters))
})

describe("structuredFields", () => {
  describe("parseItem", () => {
    it.each([
      ["42", integer(42)],
      ["-42", integer(-42)],
      ["042", integer(42)],
      ["-0", integer(0)],
      ["999999999999999", integer(999_999_999_999_999)],
      ["4.5", decimal(4.5)],
      ["1.0", decimal(1)],
      ["-0.125", decimal(-0.125)],
      ["999999999999.999", decimal(999_999_999_999.999)],
      ['"hello \\"you\\" \\\\"', string('hello "you" \\')],
      ['""', string("")],
      ["*foo/bar:1", token("*foo/bar:1")],
      ["A!#$%&'*+-.^_`|~", token("A!#$%&'*+-.^_`|~")],
      ["?1", boolean(true)],
      ["?0", boolean(false)],
      [":aGVsbG8=:", byteSequence(new Uint8Array([104, 101, 108, 108, 111]))],
      [":aGVsbG8:", byteSequence(new Uint8Array([104, 101, 108, 108, 111]))],
      ["::", byteSequence(new Uint8Array())],
      ["@1659578233", date(1_659_578_233)],
      ["@-1", date(-1)],
      ['%"f%c3%bc%c3%bc 100%25 %22"', display('füü 100% "')],
      ["  1  ", integer(1)]
    ])("reads %s", (text, expected) => {
      assert.deepStrictEqual(Fields.parseItem(text), item(expected))
    })

    it.each([
      ["nothing", ""],
      ["only spaces", "  "],
      ["a tab around it", "\t1"],
      ["two values", "1 2"],
      ["a sign without digits", "-"],
      ["two signs", "--1"],
      ["a plus", "+1"],
      ["16 digits", "1000000000000000"],
      ["13 digits before the point", "1000000000000.0"],
      ["4 digits after it", "1.0001"],
      ["a point without digits", "1."],
      ["two points", "1.2.3"],
      ["a point without digits before it", ".5"],
      ["an open string", '"a'],
      ["single quotes", "'a'"],
      ["an unknown escape", '"\\n"'],
      ["a control character", '"\u0001"'],
      ["a letter outside of ASCII", '"ü"'],
      ["a boolean that is neither", "?2"],
      ["a word for a boolean", "?true"],
      ["base 64 with a character of another alphabet", ":a_b-:"],
      ["base 64 that cannot end there", ":a:"],
      ["base 64 with too much padding", ":aGVsbG8==:"],
      ["open bytes", ":aGVs"],
      ["a date with a fraction", "@1.5"],
      ["a date without a number", "@"],
      ["a display string that is no UTF-8", '%"%ff"'],
      ["a display string with upper case escapes", '%"%C3%BC"'],
      ["an open display string", '%"a'],
      ["a list", "1, 2"],
      ["an open parameter", "1;"],
      ["a parameter in upper case", "1;A=1"],
      ["a parameter without its value", "1;a="],
      ["a space before a parameter", "1 ;a"]
    ])("reads nothing with %s", (_, text) => {
      assert.isUndefined(Fields.parseItem(text))
    })

    it("reads parameters, of which the last with a name counts", () => {
      assert.deepStrictEqual(
        Fields.parseItem("text/html;q=0.5; b;c=?0;q=1"),
        item(token("text/html"), { q: integer(1), b: boolean(true), c: boolean(false) })
      )
    })
  })

  describe("parseList", () => {
    it("reads members that are separated by commas and optional spaces or tabs", () => {
      assert.deepStrictEqual(Fields.parseList('"a";r=1 ,\tb,(c d;x);y, ()'), [
        item(string("a"), { r: integer(1) }),
        item(token("b")),
        inner([item(token("c")), item(token("d"), { x: boolean(true) })], { y: boolean(true) }),
        inner([])
      ])
    })

    it("reads a field that is empty as a list that is empty", () => {
      assert.deepStrictEqual(Fields.parseList(""), [])
      assert.deepStrictEqual(Fields.parseList(" "), [])
    })

    it.each(["1,", ",1", "1,,2", "1 2", "(1", "(1,2)", "(1", "((1))", '("a""b")', "1, 2,\t"])(
      "reads nothing of %j",
      (text) => {
        assert.isUndefined(Fields.parseList(text))
      }
    )
  })

  describe("parseDictionary", () => {
    it("reads keys with values, and keys without as true", () => {
      assert.deepStrictEqual(
        Fields.parseDictionary('limit=100, reset=5;x=1,a, b;y, *c.d-e_f=(1 "2")'),
        new Map<string, Fields.Member>([
          ["limit", item(integer(100))],
          ["reset", item(integer(5), { x: integer(1) })],
          ["a", item(boolean(true))],
          ["b", item(boolean(true), { y: boolean(true) })],
          ["*c.d-e_f", inner([item(integer(1)), item(string("2"))])]
        ])
      )
    })

    it("keeps the last value of a key, in the place of the first", () => {
      const found = Fields.parseDictionary("a=1, b=2, a=3")
      assert.deepStrictEqual(
        [...(found ?? [])],
        [
          ["a", item(integer(3))],
          ["b", item(integer(2))]
        ]
      )
    })

    it.each(["a=", "A=1", "1=a", "a=1,", "a =1", "a= 1", "=1", "a=1 b=2"])("reads nothing of %j", (text) => {
      assert.isUndefined(Fields.parseDictionary(text))
    })
  })

  describe("format", () => {
    it.each([
      [integer(-5), "-5"],
      [integer(-0), "0"],
      [decimal(1), "1.0"],
      [decimal(-1.5), "-1.5"],
      [decimal(0.0025), "0.002"],
      [decimal(0.0035), "0.004"],
      [decimal(1.23456), "1.235"],
      [decimal(-0.0001), "0.0"],
      [string('a "b" \\'), '"a \\"b\\" \\\\"'],
      [token("a/b"), "a/b"],
      [boolean(false), "?0"],
      [byteSequence(new Uint8Array([104, 105])), ":aGk=:"],
      [date(-3), "@-3"],
      [display("ü % \" é\n!'()*~ /"), '%"%c3%bc %25 %22 %c3%a9%0a!\'()*~ /"']
    ])("writes %o as %s, which reads as the same", (value, text) => {
      assert.strictEqual(Fields.formatItem(item(value)), text)
      assert.strictEqual(Fields.formatItem(Fields.parseItem(text)!), text)
    })

    it("writes lists and dictionaries in the one form there is", () => {
      const list = Fields.parseList('"a";r=1;t  ,\t(b  c);x=?0 , ?1;z')!
      assert.strictEqual(Fields.formatList(list), '"a";r=1;t, (b c);x=?0, ?1;z')
      const dictionary = Fields.parseDictionary("a=?1;x, b=?0,c=(1  2) ,d")!
      assert.strictEqual(Fields.formatDictionary(dictionary), "a;x, b=?0, c=(1 2), d")
    })

    it.each([
      ["integer", integer(1e15)],
      ["integer", integer(0.5)],
      ["integer", integer(Number.NaN)],
      ["date", date(Infinity)],
      ["decimal", decimal(1e12)],
      ["decimal", decimal(999_999_999_999.9999)],
      ["decimal", decimal(Number.NaN)],
      ["string", string("ü")],
      ["string", string("a\r\nb")],
      ["token", token("")],
      ["token", token("1a")],
      ["token", token("a b")],
      ["display string", display("\ud800")]
    ])("does not write what is not a %s: %o", (type, value) => {
      assert.throws(() => Fields.formatItem(item(value)), RangeError, `not a ${type} of RFC 9651`)
    })

    it("does not write a key that is none", () => {
      assert.throws(() => Fields.formatItem(item(integer(1), { Q: integer(1) })), RangeError, "not a key")
      assert.throws(() => Fields.formatDictionary(new Map([["a b", item(integer(1))]])), RangeError, "not a key")
    })
  })

  it("takes time that grows with the length alone", () => {
    const long = `"${"\\\\".repeat(500_000)}`
    assert.isUndefined(Fields.parseItem(long))
    assert.strictEqual(Fields.parseList(Array.from({ length: 50_000 }, (_, n) => n).join(","))?.length, 50_000)
  })
})
