/**
 * The service that one would write instead, with the same features for `validate-user`: Fastify with validation and a log
 * line per request, undici's pool, cockatiel's retry, breaker, bulkhead and timeout, lru-cache with shared look-ups, and a
 * token bucket per site.
 */
import * as Cockatiel from "cockatiel"
import Fastify from "fastify"
import { LRUCache } from "lru-cache"
import { RateLimiterMemory } from "rate-limiter-flexible"
import { Pool } from "undici"

const base = process.env["UPSTREAM_URL"] ?? ""
const names = { lichess: "Lichess", "chess.com": "Chess.com" } as const
type Platform = keyof typeof names

const plenty = 100_000

const make = (ask: (user: string, signal: AbortSignal) => Promise<boolean>) => {
  const timeout = Cockatiel.timeout(5_000, Cockatiel.TimeoutStrategy.Aggressive)
  const breaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 60_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const retry = Cockatiel.retry(
    Cockatiel.handleWhen((error) => !(error instanceof Cockatiel.BrokenCircuitError)),
    { maxAttempts: 3, backoff: new Cockatiel.IterableBackoff([500, 1_000, 2_000]) }
  )
  const bulkhead = Cockatiel.bulkhead(64, 1_000)
  const policy = Cockatiel.wrap(retry, breaker, bulkhead, timeout)
  const tokens = new RateLimiterMemory({ points: plenty, duration: 1 })
  return new LRUCache<string, { readonly exists: boolean }>({
    max: 10_000,
    ttl: 300_000,
    fetchMethod: (user) =>
      policy.execute(async ({ signal }) => {
        await tokens.consume("site")
        return { exists: await ask(user, signal) }
      })
  })
}

const pool = new Pool(base, { connections: 64 })

const ok = async (response: { readonly statusCode: number; readonly body: { json: () => Promise<unknown> } }) => {
  const body = await response.body.json()
  if (response.statusCode >= 400 && response.statusCode !== 404) throw new Error(`HTTP ${response.statusCode}`)
  return body
}

const users = {
  lichess: make(async (user, signal) => {
    const found = await ok(
      await pool.request({
        path: "/api/users",
        method: "POST",
        headers: { "content-type": "text/plain", accept: "application/json" },
        body: user,
        signal
      })
    )
    return (found as ReadonlyArray<{ id: string }>).some(({ id }) => id === user)
  }),
  "chess.com": make(async (user, signal) => {
    const response = await pool.request({ path: `/pub/player/${user}`, method: "GET", signal })
    await ok(response)
    return response.statusCode === 200
  })
}

const app = Fastify({ logger: true, keepAliveTimeout: 60_000 })

app.post<{ Body: { user_id: string; platform: Platform } }>(
  "/api/v1/validate-user",
  {
    schema: {
      body: {
        type: "object",
        required: ["user_id", "platform"],
        properties: {
          user_id: { type: "string", pattern: "^[A-Za-z0-9_-]{2,30}$" },
          platform: { type: "string", enum: ["lichess", "chess.com"] }
        }
      },
      response: {
        200: { type: "object", properties: { exists: { type: "boolean" }, message: { type: "string" } } }
      }
    }
  },
  async (request, reply) => {
    const { platform, user_id } = request.body
    try {
      const found = await users[platform].fetch(user_id.toLowerCase())
      if (found === undefined) throw new Error("no answer")
      return {
        exists: found.exists,
        message: `User '${user_id}' ${found.exists ? "exists" : "not found"} on ${names[platform]}`
      }
    } catch (error) {
      const status = error instanceof Cockatiel.TaskCancelledError ? 504 : 503
      return reply.code(status).send({ error: "The site does not answer", code: "UPSTREAM_ERROR", statusCode: status })
    }
  }
)

console.log(JSON.stringify({ url: await app.listen({ port: 0, host: "127.0.0.1" }) }))
