/**
 * Kills a real payment service at every step of a request, and at random, and counts the charges in its database.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Random, Ref } from "effect"
import * as ServiceProcess from "../support/serviceProcess.ts"
import { faults } from "./payments/faulty.ts"

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const healthy = file("../../examples/payments/main.ts")
const faulty = file("payments/faulty.ts")

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "payments-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

interface Answer {
  readonly status: number
  readonly replayed: boolean
  readonly body: string
  /** When to ask again, in milliseconds. */
  readonly wait: number
}

const noAnswer: Answer = { status: 0, replayed: false, body: "", wait: 250 }

/** Asks until a server that is not too busy answers. A connection that breaks is an answer too. */
const charge = (url: string, key: string, amount: number) =>
  Effect.repeat(
    Effect.tap(send(url, key, amount), ({ status, wait }) => (status === 503 ? Effect.sleep(wait) : Effect.void)),
    { while: ({ status }) => status === 503 }
  )

const send = (url: string, key: string, amount: number) =>
  Effect.promise(async (): Promise<Answer> => {
    try {
      const response = await fetch(`${url}/charges`, {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": key },
        body: JSON.stringify({ account: key, amount }),
        signal: AbortSignal.timeout(15_000)
      })
      const replayed = response.headers.get("x-idempotent-replayed") === "true"
      const wait = 1_000 * Number(response.headers.get("retry-after") ?? 0.25)
      return { status: response.status, replayed, body: await response.text(), wait }
    } catch {
      return noAnswer
    }
  })

/** Asks again, as a client does, until the charge is made. */
const insist = (url: Effect.Effect<string>, key: string, amount: number) =>
  Effect.repeat(
    Effect.tap(
      Effect.flatMap(url, (url) => charge(url, key, amount)),
      ({ status, wait }) => (status === 201 ? Effect.void : Effect.sleep(wait))
    ),
    { until: ({ status }) => status === 201 }
  )

/** The charges of each account in the database of a service that is dead or alive. */
const charges = (database: string): ReadonlyMap<string, number> => {
  const client = new DatabaseSync(database, { readOnly: true })
  const rows = client.prepare("SELECT account, count(*) AS n FROM charge GROUP BY account").all()
  client.close()
  return new Map(rows.map((row) => [String(row["account"]), Number(row["n"])]))
}

const environment = (directory: string) => ({
  DATABASE_FILE: join(directory, "payments.db"),
  RATE_LIMIT_REQUESTS: "1000000",
  NODE_COMPILE_CACHE: join(directory, "cache")
})

describe("payments", () => {
  it.live(
    "killed at any step, the charge is made once",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const env = environment(directory)
        const alive = yield* ServiceProcess.start(env, healthy)
        const url = yield* alive.url
        yield* Effect.forEach(
          faults,
          (fault) =>
            Effect.gen(function* () {
              const dying = yield* ServiceProcess.start({ ...env, FAULT: fault }, faulty)
              const first = yield* charge(yield* dying.url, fault, 7)
              yield* dying.end("SIGKILL")
              const committed = ["after-commit", "before-answer", "after-answer"].includes(fault)
              assert.strictEqual(first.status, fault === "after-answer" ? 201 : 0, fault)
              assert.strictEqual(charges(env.DATABASE_FILE).get(fault) ?? 0, committed ? 1 : 0, fault)
              // Another process on the same database, as after a restart or behind the same load balancer.
              const second = yield* insist(Effect.succeed(url), fault, 7)
              assert.strictEqual(second.replayed, committed, fault)
              assert.strictEqual(charges(env.DATABASE_FILE).get(fault), 1, fault)
              assert.strictEqual((yield* charge(url, fault, 8)).status, 422, fault)
            }),
          { concurrency: 4, discard: true }
        )
      }),
    240_000
  )

  it.live(
    "1,000 requests with 100 keys, killed at random, charge 100 times",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const env = environment(directory)
        const first = yield* ServiceProcess.start(env, healthy)
        const running = yield* Ref.make(first)
        const url = Effect.flatMap(Ref.get(running), ({ url }) => url)
        yield* url
        const clients = yield* Effect.forEach(
          Array.from({ length: 1_000 }, (_, i) => i % 100),
          (key) => Effect.delay(insist(url, `k${key}`, key + 1), `${key * 20} millis`),
          { concurrency: "unbounded" }
        ).pipe(Effect.forkChild)
        for (let kill = 0; kill < 3; kill++) {
          yield* url
          yield* Effect.sleep(yield* Random.nextIntBetween(20, 400))
          yield* (yield* Ref.get(running)).end("SIGKILL")
          for (const [account, count] of charges(env.DATABASE_FILE)) assert.strictEqual(count, 1, account)
          yield* Ref.set(running, yield* ServiceProcess.start(env, healthy))
        }
        const answers = yield* Fiber.join(clients)
        const counts = charges(env.DATABASE_FILE)
        assert.strictEqual(counts.size, 100)
        assert.isTrue([...counts.values()].every((count) => count === 1))
        // Whoever asked with the same key was told of the same charge.
        assert.strictEqual(new Set(answers.map(({ body }) => body)).size, 100)
      }).pipe(Random.withSeed("payments")),
    240_000
  )
})
