/**
 * Tells which request work is done for: on its log lines, its response, its calls to other services and its forked fibers.
 *
 * The correlation id is what one user action has in all services: it is taken from the caller or made. The request id is made
 * for each request. `traceparent` follows W3C Trace Context, with a parent id of this request in what is sent on. What comes
 * from outside is believed only when it is well-formed and short; otherwise another is made, and nobody is refused for it.
 *
 * Put it outermost, so that also what refuses a request says which one it was. `as` adds who is asking, once that is known.
 *
 * | `X-Correlation-ID` taken or made, 128 characters at most | `X-Request-ID` made, `req_` and 32 hexadecimal digits |
 * | log annotations `correlationId`, `requestId`, `traceId`, `user`, `tenant` |
 */
import { Context, Effect, type Fiber, Function, Layer, Random, References, Tracer } from "effect"
import {
  HttpClient,
  HttpClientRequest,
  HttpEffect,
  HttpRouter,
  HttpServerRequest,
  HttpServerResponse
} from "effect/http"

/** The request that work is done for. */
export interface RequestContext extends Who {
  /** What one user action has in all services. */
  readonly correlationId: string
  /** What only this request has. */
  readonly requestId: string
  /** Where the request stands in a trace, if the caller has one. */
  readonly trace: TraceParent | undefined
}

/** Who is asking, as far as that is known. */
export interface Who {
  readonly user?: string | undefined
  readonly tenant?: string | undefined
}

/** The `traceparent` of W3C Trace Context, version 00. */
export interface TraceParent {
  /** 32 lower-case hexadecimal digits, not all zero. */
  readonly traceId: string
  /** 16 lower-case hexadecimal digits, not all zero. */
  readonly parentId: string
  /** Two hexadecimal digits; "01" says that the caller records the trace. */
  readonly flags: string
  /** What vendors have added, as it came. */
  readonly state: string | undefined
}

/** The names of the headers. */
export interface Options {
  /** The header of the correlation id. Defaults to "x-correlation-id". */
  readonly correlationHeader?: string | undefined
  /** The header of the request id. Defaults to "x-request-id". */
  readonly requestHeader?: string | undefined
}

/** A middleware of the router. */
export type Middleware = <E, R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest>

/** Creates the middleware. Options that make no sense are a defect, not an error. */
export const make = (options: Options = {}): Middleware => {
  const correlationHeader = headerName("correlationHeader", options.correlationHeader ?? "x-correlation-id")
  const requestHeader = headerName("requestHeader", options.requestHeader ?? "x-request-id")
  return (app) =>
    Effect.withFiber((fiber) => {
      const { headers } = Context.getUnsafe(fiber.context, HttpServerRequest.HttpServerRequest)
      const given = headers[correlationHeader]
      const random = fiber.getRef(Random.Random)
      const context: RequestContext = {
        correlationId: given !== undefined && isId(given) ? given : hex(random, 4),
        requestId: `req_${hex(random, 4)}`,
        trace: continued(random, parseTrace(headers["traceparent"], headers["tracestate"]))
      }
      const ids = { [correlationHeader]: context.correlationId, [requestHeader]: context.requestId }
      // On every response, also on those that are made of a failure further out.
      HttpEffect.appendPreResponseHandlerUnsafe(fiber.context, (_, response) =>
        Effect.succeed(HttpServerResponse.setHeaders(response, ids))
      )
      return inside(app, fiber, context)
    })
}

/** Puts the middleware around all routes of the router. */
export const layer = (options: Options = {}): Layer.Layer<never, never, HttpRouter.HttpRouter> =>
  Layer.effectDiscard(
    Effect.flatMap(HttpRouter.HttpRouter, (router) => {
      const middleware = make(options)
      return router.addGlobalMiddleware((app) => middleware(app))
    })
  )

/** Reads the request that work is done for: `undefined` outside of one. */
export const current: Effect.Effect<RequestContext | undefined> = Effect.withFiberSucceed((fiber) =>
  currentUnsafe(fiber)
)

/** Reads the request that a fiber works for. */
export const currentUnsafe = (fiber: Fiber.Fiber<unknown, unknown>): RequestContext | undefined => fiber.getRef(Current)

/** Runs the effect for this request, with its ids on the log lines: for work that is taken from a queue, say. */
export const provide: {
  (context: RequestContext): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, context: RequestContext): Effect.Effect<A, E, R>
} = Function.dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, context: RequestContext): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => inside(self, fiber, context))
)

/** Says who is asking, for the rest of the request. Outside of a request it does nothing. */
export const as: {
  (who: Who): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, who: Who): Effect.Effect<A, E, R>
} = Function.dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, who: Who): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    const context = currentUnsafe(fiber)
    return context === undefined ? self : inside(self, fiber, { ...context, ...who })
  })
)

/**
 * A client whose requests say what they are sent for: the correlation id, the request id, and where the trace stands. What a
 * request already says is kept. User and tenant stay here.
 */
export const propagate = <E, R>(
  client: HttpClient.HttpClient.With<E, R>,
  options: Options = {}
): HttpClient.HttpClient.With<E, R> => {
  const correlationHeader = headerName("correlationHeader", options.correlationHeader ?? "x-correlation-id")
  const requestHeader = headerName("requestHeader", options.requestHeader ?? "x-request-id")
  const told = HttpClient.mapRequestEffect(client, (request) =>
    Effect.withFiberSucceed((fiber) => {
      const context = currentUnsafe(fiber)
      if (context === undefined) return request
      const { correlationId, requestId, trace } = context
      return HttpClientRequest.setHeaders(request, {
        [correlationHeader]: correlationId,
        [requestHeader]: requestId,
        ...(trace === undefined ? {} : { traceparent: formatTrace(trace) }),
        ...(trace?.state === undefined ? {} : { tracestate: trace.state }),
        ...request.headers
      })
    })
  )
  return HttpClient.transform(told, (sending) =>
    // Where no spans are made, the client would send the ids of one that does nothing in place of the trace.
    Effect.withFiber((fiber) =>
      fiber.getRef(References.TracerEnabled)
        ? sending
        : Effect.provideService(sending, HttpClient.TracerPropagationEnabled, false)
    )
  )
}

/** Makes the `HttpClient` of the context say what its requests are sent for. */
export const layerClient = (options: Options = {}): Layer.Layer<HttpClient.HttpClient, never, HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.map(HttpClient.HttpClient, (client) => propagate(client, options))
  )

/**
 * Reads `traceparent` and `tracestate` (W3C Trace Context, 3.2 and 3.3): `undefined` when that is not well-formed. Later
 * versions are read as far as they are like version 00.
 */
export const parseTrace = (parent: string | undefined, state?: string): TraceParent | undefined => {
  const [, version, traceId, parentId, flags, rest] =
    /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/.exec(parent ?? "") ?? []
  if (version === undefined || traceId === undefined || parentId === undefined || flags === undefined) return undefined
  if (version === "ff" || (version === "00" && rest !== undefined)) return undefined
  if (/^0+$/.test(traceId) || /^0+$/.test(parentId)) return undefined
  return { traceId, parentId, flags, state: state !== undefined && isState(state) ? state : undefined }
}

/** Writes a `traceparent`. */
export const formatTrace = ({ flags, parentId, traceId }: TraceParent): string => `00-${traceId}-${parentId}-${flags}`

const Current = Context.Reference<RequestContext | undefined>("effect-resilience/http/RequestContext/Current", {
  defaultValue: () => undefined
})

const inside = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  fiber: Fiber.Fiber<unknown, unknown>,
  context: RequestContext
): Effect.Effect<A, E, R> => {
  const { correlationId, requestId, tenant, trace, user } = context
  const annotations = {
    ...fiber.getRef(References.CurrentLogAnnotations),
    correlationId,
    requestId,
    ...(trace === undefined ? {} : { traceId: trace.traceId }),
    ...(user === undefined ? {} : { user }),
    ...(tenant === undefined ? {} : { tenant })
  }
  const here = Context.make(Current, context).pipe(Context.add(References.CurrentLogAnnotations, annotations))
  // Without a server that traces, spans begun here would each begin a trace of their own.
  const isTraced = trace === undefined || Context.getOrUndefined(fiber.context, Tracer.ParentSpan) !== undefined
  return Effect.provideContext(self, isTraced ? here : Context.add(here, Tracer.ParentSpan, spanOf(trace)))
}

const spanOf = ({ flags, parentId, traceId }: TraceParent): Tracer.ExternalSpan =>
  Tracer.externalSpan({ traceId, spanId: parentId, sampled: (Number.parseInt(flags, 16) & 1) === 1 })

// Nothing that could end a log line, a header or a field of either.
const isId = (text: string): boolean => text.length <= 128 && /^[\w.~:/+=@-]+$/.test(text)

const isState = (text: string): boolean => text.length <= 512 && /^[\x20-\x7e]+$/.test(text)

// The caller's span is the parent of this request, and this request that of what it sends on.
const continued = (random: Random.Random, trace: TraceParent | undefined): TraceParent | undefined =>
  trace === undefined ? undefined : { ...trace, parentId: nonZero(hex(random, 2)) }

const nonZero = (id: string): string => (/^0+$/.test(id) ? `${id.slice(1)}1` : id)

// Ids are no secrets: they need to differ, not to be unguessable.
const hex = (random: Random.Random, words: number): string => {
  let digits = ""
  for (let i = 0; i < words; i++) {
    digits += Math.floor(random.nextDoubleUnsafe() * 0x1_0000_0000)
      .toString(16)
      .padStart(8, "0")
  }
  return digits
}

const headerName = (option: string, name: string): string => {
  if (/^[\w!#$%&'*+.^`|~-]+$/.test(name)) return name.toLowerCase()
  throw new RangeError(`RequestContext: ${option} must be the name of a header, got ${JSON.stringify(name)}`)
}
