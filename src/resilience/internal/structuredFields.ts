/**
 * Reads and writes HTTP fields whose values are structured: items, lists and dictionaries (RFC 9651).
 *
 * A field that is not well-formed is `undefined` as a whole, as the RFC asks (4.2): a part of it may mean the opposite
 * of all of it. What a field makes of a well-formed value of the wrong type is up to that field. Every type of the RFC is
 * there; reading takes time linear in the length of the value.
 */
import { Result } from "effect"
import * as Base64 from "effect/encoding/Base64"

/** A single value. Its type is part of it: `1` and `1.0`, or `a` and `"a"`, are different values. */
export type BareItem =
  /** At most 15 digits. */
  | { readonly _tag: "Integer"; readonly value: number }
  /** At most 12 digits before the point, and 3 after it. */
  | { readonly _tag: "Decimal"; readonly value: number }
  /** Printable ASCII. */
  | { readonly _tag: "String"; readonly value: string }
  | { readonly _tag: "Token"; readonly value: string }
  | { readonly _tag: "ByteSequence"; readonly value: Uint8Array }
  | { readonly _tag: "Boolean"; readonly value: boolean }
  /** Seconds since 1970, whole ones. */
  | { readonly _tag: "Date"; readonly value: number }
  /** Any Unicode text. */
  | { readonly _tag: "DisplayString"; readonly value: string }

/** What is said about an item or a list inside a list, by name and in order. */
export type Parameters = ReadonlyMap<string, BareItem>

/** A value with parameters. */
export interface Item {
  readonly _tag: "Item"
  readonly value: BareItem
  readonly parameters: Parameters
}

/** A list inside a list or a dictionary. */
export interface InnerList {
  readonly _tag: "InnerList"
  readonly items: ReadonlyArray<Item>
  readonly parameters: Parameters
}

/** What a list or a dictionary is made of. */
export type Member = Item | InnerList

/** An integer: at most 15 digits. */
export const integer = (value: number): BareItem => ({ _tag: "Integer", value })

/** A number with a fraction. It is written with at most 3 digits after the point. */
export const decimal = (value: number): BareItem => ({ _tag: "Decimal", value })

/** Quoted text of printable ASCII. */
export const string = (value: string): BareItem => ({ _tag: "String", value })

/** A short word without quotes. */
export const token = (value: string): BareItem => ({ _tag: "Token", value })

/** A truth value. */
export const boolean = (value: boolean): BareItem => ({ _tag: "Boolean", value })

/** Bytes, which are written in base 64. */
export const byteSequence = (value: Uint8Array): BareItem => ({ _tag: "ByteSequence", value })

/** A value with what is said about it. */
export const item = (value: BareItem, parameters: Readonly<Record<string, BareItem>> = {}): Item => ({
  _tag: "Item",
  value,
  parameters: new Map(Object.entries(parameters))
})

/** Reads a field that is one item. */
export const parseItem = (text: string): Item | undefined => whole(text, (reader) => reader.item())

/** Reads a field that is a list. One that is empty or absent is an empty list. */
export const parseList = (text: string): ReadonlyArray<Member> | undefined => whole(text, (reader) => reader.list())

/** Reads a field that is a dictionary. Of a key that is there twice, the last value counts. */
export const parseDictionary = (text: string): ReadonlyMap<string, Member> | undefined =>
  whole(text, (reader) => reader.dictionary())

/** Writes an item. What no field can say is a `RangeError`. */
export const formatItem = (self: Item): string => bareItem(self.value) + parameters(self.parameters)

/** Writes a list. What no field can say is a `RangeError`. */
export const formatList = (members: Iterable<Member>): string => Array.from(members, formatMember).join(", ")

/** Writes a dictionary. What no field can say is a `RangeError`. */
export const formatDictionary = (members: ReadonlyMap<string, Member>): string =>
  Array.from(members, ([name, member]) =>
    member._tag === "Item" && isTrue(member.value)
      ? key(name) + parameters(member.parameters)
      : `${key(name)}=${formatMember(member)}`
  ).join(", ")

const formatMember = (member: Member): string =>
  member._tag === "Item"
    ? formatItem(member)
    : `(${member.items.map(formatItem).join(" ")})${parameters(member.parameters)}`

const parameters = (self: Parameters): string =>
  Array.from(self, ([name, value]) => `;${key(name)}${isTrue(value) ? "" : `=${bareItem(value)}`}`).join("")

const isTrue = (value: BareItem): boolean => value._tag === "Boolean" && value.value

const key = (name: string): string => {
  if (keyPattern.test(name)) return name
  throw inexpressible("key", name)
}

const bareItem = (self: BareItem): string => {
  switch (self._tag) {
    case "Integer":
      return wholeNumber("integer", self.value)
    case "Date":
      return `@${wholeNumber("date", self.value)}`
    case "Decimal": {
      const rounded = halfEven(self.value)
      if (!(Math.abs(rounded) < 1e12)) throw inexpressible("decimal", self.value)
      const text = (Object.is(rounded, -0) ? 0 : rounded).toFixed(3).replace(/0+$/, "")
      return text.endsWith(".") ? `${text}0` : text
    }
    case "String":
      if (!printable.test(self.value)) throw inexpressible("string", self.value)
      return `"${self.value.replace(/["\\]/g, "\\$&")}"`
    case "Token":
      if (!tokenPattern.test(self.value)) throw inexpressible("token", self.value)
      return self.value
    case "ByteSequence":
      return `:${Base64.encode(self.value)}:`
    case "Boolean":
      return self.value ? "?1" : "?0"
    case "DisplayString": {
      const encoded = Result.try(() => encodeURIComponent(self.value))
      if (Result.isFailure(encoded)) throw inexpressible("display string", self.value)
      // What a URI component escapes and a display string does not, and the other way round.
      const text = encoded.success.replace(/%[0-9A-F]{2}/g, (escaped) => {
        const character = String.fromCharCode(Number.parseInt(escaped.slice(1), 16))
        return plain.test(character) ? character : escaped.toLowerCase()
      })
      return `%"${text}"`
    }
  }
}

const wholeNumber = (type: string, value: number): string => {
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value === 0 ? 0 : value)
  throw inexpressible(type, value)
}

// The nearest thousandth, and of two the even one (RFC 9651, 4.1.5).
const halfEven = (value: number): number => {
  const thousandths = value * 1000
  const below = Math.floor(thousandths)
  const above = thousandths - below
  const up = above > 0.5 || (above === 0.5 && below % 2 !== 0)
  return (up ? below + 1 : below) / 1000
}

const inexpressible = (type: string, value: string | number): RangeError =>
  new RangeError(`StructuredFields: not a ${type} of RFC 9651: ${JSON.stringify(value)}`)

const keyPattern = /^[a-z*][a-z0-9_.*-]*$/
const tokenPattern = /^[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*$/
const printable = /^[\x20-\x7e]*$/
// What stands for itself in a display string.
const plain = /^[\x20-\x21\x23\x24\x26-\x7e]$/

const whole = <A>(text: string, read: (reader: Reader) => A | undefined): A | undefined => {
  const reader = new Reader(text)
  reader.skip(" ")
  const value = read(reader)
  reader.skip(" ")
  return reader.atEnd ? value : undefined
}

// What the regular expressions below match begins at the position of the reader.
const startOfKey = /[a-z*][a-z0-9_.*-]*/y
const startOfToken = /[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*/y
const startOfNumber = /-?(\d+)(?:\.(\d+))?/y
const startOfString = /"([\x20-\x21\x23-\x5b\x5d-\x7e]*(?:\\["\\][\x20-\x21\x23-\x5b\x5d-\x7e]*)*)"/y
const startOfBytes = /:([A-Za-z0-9+/]*)(={0,2}):/y
const startOfBoolean = /\?([01])/y
const startOfDisplayString = /%"([\x20-\x21\x23\x24\x26-\x7e]*(?:%[0-9a-f]{2}[\x20-\x21\x23\x24\x26-\x7e]*)*)"/y

class Reader {
  private at = 0
  private readonly text: string

  constructor(text: string) {
    this.text = text
  }

  get atEnd(): boolean {
    return this.at === this.text.length
  }

  skip(characters: string): void {
    while (!this.atEnd && characters.includes(this.text.charAt(this.at))) this.at++
  }

  list(): ReadonlyArray<Member> | undefined {
    const members: Array<Member> = []
    return this.members(() => {
      const member = this.member()
      if (member !== undefined) members.push(member)
      return member !== undefined
    })
      ? members
      : undefined
  }

  dictionary(): ReadonlyMap<string, Member> | undefined {
    const members = new Map<string, Member>()
    return this.members(() => {
      const name = this.match(startOfKey)?.[0]
      if (name === undefined) return false
      const member = this.eat("=") ? this.member() : this.withParameters(boolean(true))
      if (member !== undefined) members.set(name, member)
      return member !== undefined
    })
      ? members
      : undefined
  }

  item(): Item | undefined {
    const value = this.bareItem()
    return value === undefined ? undefined : this.withParameters(value)
  }

  // Reads what commas separate. A comma at the end is an error.
  private members(next: () => boolean): boolean {
    while (!this.atEnd) {
      if (!next()) return false
      this.skip(" \t")
      if (this.atEnd) return true
      if (!this.eat(",")) return false
      this.skip(" \t")
      if (this.atEnd) return false
    }
    return true
  }

  private member(): Member | undefined {
    return this.text[this.at] === "(" ? this.innerList() : this.item()
  }

  private innerList(): InnerList | undefined {
    this.at++
    const items: Array<Item> = []
    for (;;) {
      this.skip(" ")
      if (this.eat(")")) {
        const parameters = this.parameters()
        return parameters === undefined ? undefined : { _tag: "InnerList", items, parameters }
      }
      const item = this.item()
      if (item === undefined) return undefined
      items.push(item)
      const next = this.text[this.at]
      if (next !== " " && next !== ")") return undefined
    }
  }

  private withParameters(value: BareItem): Item | undefined {
    const parameters = this.parameters()
    return parameters === undefined ? undefined : { _tag: "Item", value, parameters }
  }

  private parameters(): Parameters | undefined {
    const parameters = new Map<string, BareItem>()
    while (this.eat(";")) {
      this.skip(" ")
      const name = this.match(startOfKey)?.[0]
      if (name === undefined) return undefined
      const value = this.eat("=") ? this.bareItem() : boolean(true)
      if (value === undefined) return undefined
      parameters.set(name, value)
    }
    return parameters
  }

  private bareItem(): BareItem | undefined {
    const first = this.text.charAt(this.at)
    if (first === '"') {
      const found = this.match(startOfString)?.[1]
      return found === undefined ? undefined : string(found.replace(/\\(.)/g, "$1"))
    }
    if (first === ":") return this.bytes()
    if (first === "?") {
      const found = this.match(startOfBoolean)?.[1]
      return found === undefined ? undefined : boolean(found === "1")
    }
    if (first === "@") {
      this.at++
      const number = this.number()
      return number?._tag === "Integer" ? { _tag: "Date", value: number.value } : undefined
    }
    if (first === "%") {
      const found = this.match(startOfDisplayString)?.[1]
      // Escapes that are no UTF-8 are an error.
      const value = found === undefined ? undefined : Result.getOrUndefined(Result.try(() => decodeURIComponent(found)))
      return value === undefined ? undefined : { _tag: "DisplayString", value }
    }
    if (/[0-9-]/.test(first)) return this.number()
    const found = this.match(startOfToken)?.[0]
    return found === undefined ? undefined : token(found)
  }

  private number(): { readonly _tag: "Integer" | "Decimal"; readonly value: number } | undefined {
    const found = this.match(startOfNumber)
    if (found === undefined || this.text[this.at] === ".") return undefined
    const [text, digits = "", fraction] = found
    // There is no negative zero.
    const value = Number(text) + 0
    if (fraction === undefined) return digits.length > 15 ? undefined : { _tag: "Integer", value }
    return digits.length > 12 || fraction.length > 3 ? undefined : { _tag: "Decimal", value }
  }

  private bytes(): BareItem | undefined {
    const found = this.match(startOfBytes)
    if (found === undefined) return undefined
    const [, digits = "", padding = ""] = found
    const short = (4 - (digits.length % 4)) % 4
    // Padding may be left out (4.2.7), but what is there must be right.
    if (short === 3 || (padding !== "" && padding.length !== short)) return undefined
    const decoded = Base64.decode(digits + "=".repeat(short))
    return Result.isSuccess(decoded) ? byteSequence(decoded.success) : undefined
  }

  private eat(character: string): boolean {
    if (this.text[this.at] !== character) return false
    this.at++
    return true
  }

  private match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.at
    const found = pattern.exec(this.text)
    if (found === null) return undefined
    this.at = pattern.lastIndex
    return found
  }
}
