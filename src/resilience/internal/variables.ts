/**
 * Finds the fields of a schema that a variable can hold, and reads them from text.
 */
import { Result, Schema, type SchemaAST } from "effect"

/** A field that one variable holds. */
export interface Leaf {
  readonly path: ReadonlyArray<string>
  /** Whether it holds a list, and whether it can hold one value instead. */
  readonly isList: boolean
  readonly isValue: boolean
  /** Whether text that looks like a number is one. */
  readonly isNumeric: boolean
}

/** Finds the fields of what a schema encodes to. */
export const leavesOf = (schema: Schema.Top): ReadonlyArray<Leaf> => leaves(Schema.toEncoded(schema).ast, [])

const leaves = (ast: SchemaAST.AST, path: ReadonlyArray<string>): ReadonlyArray<Leaf> => {
  const members = membersOf(ast)
  const structs = members.filter((member) => member._tag === "Objects")
  const inside = structs.flatMap((struct) =>
    struct.propertySignatures.flatMap(({ name, type }) => leaves(type, [...path, String(name)]))
  )
  const lists = members.filter((member) => member._tag === "Arrays")
  if (structs.length === members.length) return inside
  const items = lists.flatMap(({ elements, rest }) => [...elements, ...rest].flatMap(membersOf))
  const isNumeric = [...members, ...items].some((member) => member._tag === "Number")
  const isValue = structs.length + lists.length < members.length
  return [{ path, isList: lists.length > 0, isValue, isNumeric }, ...inside]
}

const membersOf = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> =>
  ast._tag === "Union" ? ast.types.flatMap(membersOf) : [ast]

/** Names the variable of a field: `RETRY_MAX_DELAY`. */
export const toVariable = (path: ReadonlyArray<string>): string =>
  path
    .map((name) => name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").replace(/[^A-Za-z0-9]+/g, "_"))
    .join("_")
    .toUpperCase()

/** Reads the text of a variable. What it cannot read stays text, for the schema to refuse. */
export const valueOf = (leaf: Leaf, text: string): unknown => {
  const trimmed = text.trim()
  if (/^[[{]/.test(trimmed)) {
    const parsed = Result.try((): unknown => JSON.parse(trimmed))
    return Result.isSuccess(parsed) ? parsed.success : text
  }
  if (!leaf.isList) return scalarOf(leaf, trimmed)
  const items = trimmed.split(",").map((item) => scalarOf(leaf, item.trim()))
  return leaf.isValue && items.length === 1 ? items[0] : items
}

const scalarOf = ({ isNumeric }: Leaf, text: string): string | number =>
  isNumeric && /^[+-]?(\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : text
