/**
 * Starts the programs that are measured, each in a process of its own.
 */
import { spawn, type ChildProcess } from "node:child_process"
import { once } from "node:events"
import { readFile } from "node:fs/promises"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url))

/** The programs there are. */
export const programs = {
  plainImport: file("import/plain.ts"),
  service: file("../../src/main.ts"),
  simulator: file("../../src/chess/simulator/main.ts")
}

const { scripts } = JSON.parse(await readFile(file("../../package.json"), "utf8")) as { scripts: { start: string } }

/** The flags that `npm start` gives to Node. */
export const startFlags = scripts.start.split(" ").filter((word) => word.startsWith("--"))

/** Starts a program whose output is read. */
export const node = (args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}): ChildProcess =>
  spawn(process.execPath, ["--conditions=effect-resilience-source", ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"]
  })

/** Waits for the first line of output for which `read` gives something, and reads on so that the program does not stop. */
export const onLine = async <A>(child: ChildProcess, read: (line: string) => A | undefined): Promise<A> => {
  if (child.stdout === null) throw new Error("no output")
  for await (const text of createInterface({ input: child.stdout })) {
    const found = read(text)
    if (found !== undefined) {
      child.stdout.resume()
      return found
    }
  }
  throw new Error("The process ended before it was ready")
}

/** What a line of JSON says, or nothing if it is none. */
export const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Waits until the service serves, and returns its address. */
export const listening = (child: ChildProcess): Promise<string> =>
  onLine(child, (text) => (parsed(text) as { annotations?: { url?: string } } | undefined)?.annotations?.url)

/** Stops a program in order. */
export const stop = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, "exit")
  child.kill("SIGTERM")
  await exited
}

const memory = async (pid: number | undefined, field: "VmHWM" | "VmRSS"): Promise<number> => {
  const status = await readFile(`/proc/${pid}/status`, "utf8")
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024
}

/** The most memory a process ever had resident. */
export const peakMiB = (pid: number | undefined): Promise<number> => memory(pid, "VmHWM")

/** The memory a process has resident now. */
export const residentMiB = (pid: number | undefined): Promise<number> => memory(pid, "VmRSS")
