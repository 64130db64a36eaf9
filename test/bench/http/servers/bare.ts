/**
 * The chess service without anything around its handlers: no error bodies, no headers, no log of requests.
 *
 * What it answers to a good request is the same, so the difference to the service is what all of that costs.
 */
import { createServer } from "node:http"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Effect, Layer, Logger } from "effect"
import { ApiError } from "effect-resilience/http"
import { HttpRouter, HttpServer } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Api } from "../../../../src/chess/Api.ts"
import * as Handlers from "../../../../src/chess/Handlers.ts"
import * as Service from "../../../../src/chess/Service.ts"
import * as Settings from "../../../../src/chess/Settings.ts"

const routes = HttpApiBuilder.layer(Api).pipe(Layer.provide(Handlers.layer), Layer.provide(ApiError.layerSchemaErrors))

const serve = (settings: Settings.Settings) =>
  Layer.effectDiscard(HttpServer.addressFormattedWith((url) => Console.log(JSON.stringify({ url })))).pipe(
    Layer.provideMerge(HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true })),
    Layer.provide(Layer.provideMerge(Service.parts(settings), Service.pool(settings))),
    Layer.provide(
      NodeHttpServer.layer(() => createServer({ keepAliveTimeout: 65_000 }), { host: "127.0.0.1", port: 0 })
    ),
    Layer.provide(Service.log(settings))
  )

NodeRuntime.runMain(
  Effect.flatMap(Settings.config, (settings) => Layer.launch(Layer.provide(serve(settings), Logger.layer([]))))
)
