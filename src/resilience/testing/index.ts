/**
 * What users test their own policies with.
 */
export { interruptEverywhere } from "./interruptEverywhere.ts"
