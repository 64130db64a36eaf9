/**
 * Starts the programs that are measured, each in a process of its own.
 */
import { spawn, type ChildProcess } from "node:child_process"
import { once } from "node:events"
import { open, readFile } from "node:fs/promises"
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

/** Starts a program that writes to a file: nobody who measures has to read what it says. */
export const nodeToFile = async <A>(
  output: string,
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>>,
  read: (line: string) => A | undefined
): Promise<{ readonly child: ChildProcess; readonly found: A }> => {
  const log = await open(output, "w")
  const child = spawn(process.execPath, ["--conditions=effect-resilience-source", ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", log.fd, "inherit"]
  })
  await log.close()
  while (child.exitCode === null) {
    for (const text of (await readFile(output, "utf8")).split("\n")) {
      const found = read(text)
      if (found !== undefined) return { child, found }
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error("The process ended before it was ready")
}

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

/** The processor time a process has taken so far, in milliseconds. */
export const processorMillis = async (pid: number | undefined): Promise<number> => {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8")
  // Behind the name, which may hold spaces: the 14th and 15th field, in hundredths of a second.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  return (Number(fields[11]) + Number(fields[12])) * 10
}

const memory = async (pid: number | undefined, field: "VmHWM" | "VmRSS"): Promise<number> => {
  const status = await readFile(`/proc/${pid}/status`, "utf8")
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024
}

/** The most memory a process ever had resident. */
export const peakMiB = (pid: number | undefined): Promise<number> => memory(pid, "VmHWM")

/** The memory a process has resident now. */
export const residentMiB = (pid: number | undefined): Promise<number> => memory(pid, "VmRSS")
