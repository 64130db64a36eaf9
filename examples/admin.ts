/**
 * A server whose operator closes a circuit by hand, with the key that only the operator has.
 */
import { ConfigProvider, Console, Effect, Layer } from "effect"
import { CircuitBreaker } from "effect-resilience"
import { Admin, ApiError } from "effect-resilience/http"
import { HttpRouter } from "effect/http"

const Targets = Layer.unwrap(
  Effect.gen(function* () {
    const breaker = yield* CircuitBreaker.make()
    yield* breaker.isolate("https://mail.example")
    return Admin.layer({
      circuits: { mail: { breaker, key: "https://mail.example" } },
      reloads: { limits: Console.log("limits are read anew") }
    })
  })
)

// Without ADMIN_KEY there would be no such addresses.
const app = ApiError.around(Admin.layerRoutesConfig).pipe(
  Layer.provide(Targets),
  Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ ADMIN_KEY: "correct-horse-battery" })))
)

const program = Effect.gen(function* () {
  const { dispose, handler } = HttpRouter.toWebHandler(app, { disableLogger: true })
  yield* Effect.addFinalizer(() => Effect.promise(dispose))
  const ask = Effect.fnUntraced(function* (method: string, path: string, key: string) {
    const request = new Request(`http://localhost${path}`, { method, headers: { "x-admin-key": key } })
    const response = yield* Effect.promise(() => handler(request))
    yield* Console.log(method, path, response.status, yield* Effect.promise(() => response.text()))
  })
  yield* ask("GET", "/admin/circuits", "guessed")
  yield* ask("GET", "/admin/circuits", "correct-horse-battery")
  yield* ask("POST", "/admin/circuits/mail/close", "correct-horse-battery")
  yield* ask("POST", "/admin/limits/reload", "correct-horse-battery")
})

Effect.runFork(Effect.scoped(program))
