/**
 * A charge that is made once, however often the request for it comes.
 */
import { Console, Effect, Layer } from "effect"
import { Idempotency, IdempotencyStore } from "effect-resilience/http"
import { HttpRouter, HttpServerResponse } from "effect/http"

let charges = 0

const app = HttpRouter.add(
  "POST",
  "/charges",
  Effect.suspend(() => HttpServerResponse.json({ charge: ++charges }, { status: 201 }))
).pipe(Layer.provide(Idempotency.layer({ required: true })), Layer.provide(IdempotencyStore.layerMemory()))

const program = Effect.gen(function* () {
  const server = yield* Effect.acquireRelease(
    Effect.sync(() => HttpRouter.toWebHandler(app, { disableLogger: true })),
    (server) => Effect.promise(() => server.dispose())
  )
  const charge = Effect.fnUntraced(function* (headers: Record<string, string>, amount: number) {
    const body = JSON.stringify({ amount })
    const request = new Request("http://localhost/charges", { method: "POST", headers, body })
    const response = yield* Effect.promise(() => server.handler(request))
    const replayed = response.headers.has("x-idempotent-replayed") ? " (replayed)" : ""
    yield* Console.log(`${response.status}${replayed} ${yield* Effect.promise(() => response.text())}`)
  })
  const key = { "idempotency-key": yield* Idempotency.key("charge", { order: 4711 }) }
  yield* charge(key, 100)
  yield* charge(key, 100)
  yield* charge(key, 200)
  yield* charge({}, 100)
})

Effect.runFork(Effect.scoped(program))
