import { readFileSync } from "node:fs"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  type LogLevel,
  Metric,
  Random,
  References,
  Schema,
  Scope,
  Stream,
  Tracer
} from "effect"
import {
  AdaptiveLimit,
  AdaptiveThrottle,
  AdaptiveTimeout,
  Batcher,
  Bulkhead,
  Cache,
  CircuitBreaker,
  Deadline,
  Fallback,
  Hedge,
  KeyedRateLimiter,
  LoadShed,
  Policy,
  Providers,
  RateLimiter,
  Retry,
  RetryBudget,
  SingleFlight,
  Telemetry,
  Timeout
} from "effect-resilience"
import { interruptEverywhere } from "effect-resilience/testing"
import { PrometheusMetrics } from "effect/observability"
import { TestClock } from "effect/testing"
import { emit } from "../../src/resilience/internal/telemetry.ts"

class Broken extends Schema.TaggedError<Broken>()("Broken", { detail: Schema.String }) {}

const secret = "hunter2"
const broken = Effect.suspend(() => Effect.fail(new Broken({ detail: secret })))

/** Runs something with metrics and events of its own. */
const apart = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const hub = yield* Telemetry.makeHub
    return yield* self.pipe(
      Effect.provideService(Telemetry.Hub, hub),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )
  })

/** The events of an effect, which may take up to an hour. */
const eventsOf = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  apart(
    Effect.gen(function* () {
      const events: Array<Telemetry.Event> = []
      const reading = yield* Effect.forkChild(
        Stream.runForEach(Telemetry.events, (event) => Effect.sync(() => events.push(event))),
        { startImmediately: true }
      )
      const running = yield* Effect.forkChild(Effect.exit(self), { startImmediately: true })
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(running)
      yield* Fiber.interrupt(reading)
      return events
    })
  )

/** One call through each primitive that makes it tell something. */
const tellings: ReadonlyArray<
  readonly [what: string, telling: Effect.Effect<unknown, unknown, Scope.Scope>, told: object]
> = [
  [
    "a circuit that opens",
    Effect.flatMap(CircuitBreaker.make({ failures: 1, name: "site" }), (breaker) =>
      broken.pipe(breaker.execute({ key: "site" }))
    ),
    {
      _tag: "CircuitChanged",
      primitive: "CircuitBreaker",
      name: "site",
      key: "site",
      from: "Closed",
      to: "Open",
      retryAfterMillis: 60_000
    }
  ],
  [
    "a call that an open circuit refuses",
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "site" })
      yield* breaker.isolate("site")
      return yield* broken.pipe(breaker.execute({ key: "site" }))
    }),
    {
      _tag: "Refused",
      primitive: "CircuitBreaker",
      name: "site",
      key: "site",
      error: "CircuitOpen",
      retryAfterMillis: Infinity
    }
  ],
  [
    "a retry",
    broken.pipe(Retry.retry({ name: "site", schedule: Retry.fixed({ base: 250, times: 1 }) })),
    { _tag: "Retried", primitive: "Retry", name: "site", attempt: 1, error: "Broken", delayMillis: 250 }
  ],
  [
    "a timeout",
    Effect.never.pipe(Timeout.timeout("3 seconds")),
    { _tag: "TimedOut", primitive: "Timeout", afterMillis: 3_000 }
  ],
  [
    "an adaptive timeout",
    Effect.flatMap(AdaptiveTimeout.make({ ceiling: 2_000 }), (timeout) => timeout.execute(Effect.never)),
    { _tag: "TimedOut", primitive: "Timeout", afterMillis: 2_000 }
  ],
  [
    "a deadline",
    Effect.never.pipe(Deadline.within("4 seconds")),
    { _tag: "TimedOut", primitive: "Deadline", afterMillis: 4_000 }
  ],
  [
    "a call that has no time left",
    Effect.never.pipe(Deadline.within(0)),
    { _tag: "Refused", primitive: "Deadline", error: "DeadlineExceeded" }
  ],
  [
    "a full bulkhead",
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, name: "site" })
      yield* Effect.forkScoped(bulkhead.execute(Effect.never), { startImmediately: true })
      yield* bulkhead.execute(Effect.void)
    }),
    { _tag: "Refused", primitive: "Bulkhead", name: "site", error: "BulkheadFull" }
  ],
  [
    "a bulkhead in which a call has waited long enough",
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueued: 1, maxWait: 100, name: "site" })
      yield* Effect.forkScoped(bulkhead.execute(Effect.never), { startImmediately: true })
      yield* bulkhead.execute(Effect.void)
    }),
    { _tag: "Refused", primitive: "Bulkhead", name: "site", error: "BulkheadFull" }
  ],
  [
    "a keyed bulkhead, without the key",
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, name: "site" })
      yield* Effect.forkScoped(bulkhead.execute({ key: secret })(Effect.never), { startImmediately: true })
      yield* bulkhead.execute({ key: secret })(Effect.void)
    }),
    { _tag: "Refused", primitive: "Bulkhead", name: "site", error: "BulkheadFull" }
  ],
  [
    "an adaptive limit",
    Effect.gen(function* () {
      const limit = yield* AdaptiveLimit.make({ initialLimit: 1, name: "site" })
      yield* Effect.forkScoped(limit.execute(Effect.never), { startImmediately: true })
      yield* limit.execute(Effect.void)
    }),
    { _tag: "Refused", primitive: "AdaptiveLimit", name: "site", error: "LimitReached" }
  ],
  [
    "a rate limiter",
    Effect.gen(function* () {
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, name: "site" })
      yield* limiter.execute(Effect.void)
      yield* limiter.executeIfAvailable(Effect.void)
    }),
    { _tag: "Refused", primitive: "RateLimiter", name: "site", error: "RateLimited", retryAfterMillis: 1_000 }
  ],
  [
    "a keyed rate limiter, without the key",
    Effect.gen(function* () {
      const limiter = yield* KeyedRateLimiter.make({ capacity: 1, refillPerSecond: 1, maxWait: 0, name: "site" })
      yield* limiter.execute({ key: secret })(Effect.void)
      yield* limiter.execute({ key: secret })(Effect.void)
    }),
    { _tag: "Refused", primitive: "KeyedRateLimiter", name: "site", error: "RateLimited", retryAfterMillis: 1_000 }
  ],
  [
    "a load shedder",
    Effect.flatMap(LoadShed.make({ signals: { queue: Effect.succeed(9) }, name: "site" }), (shed) =>
      shed.execute(Effect.void)
    ),
    { _tag: "Refused", primitive: "LoadShed", name: "site", error: "Overloaded", priority: "normal" }
  ],
  [
    "a throttle",
    Effect.gen(function* () {
      const throttle = yield* AdaptiveThrottle.make({ name: "site" })
      const call = Effect.fail({ retryAfter: Duration.seconds(1) }).pipe(throttle.execute, Effect.exit)
      yield* Effect.repeat(call, { times: 100 })
    }).pipe(Random.withSeed("throttle")),
    { _tag: "Refused", primitive: "AdaptiveThrottle", name: "site", error: "Throttled" }
  ],
  [
    "a hedge of a slow call",
    Effect.flatMap(Hedge.make({ delay: "1 second", name: "site" }), (hedge) =>
      hedge.execute(Effect.sleep("2 seconds"))
    ),
    { _tag: "Hedged", primitive: "Hedge", name: "site", hedge: 1, error: undefined }
  ],
  [
    "a hedge of a failed call",
    Effect.flatMap(Hedge.make({ delay: "1 second", name: "site" }), (hedge) =>
      hedge.execute(Effect.delay(broken, "10 millis"))
    ),
    { _tag: "Hedged", primitive: "Hedge", name: "site", hedge: 1, error: "Broken" }
  ],
  [
    "a fallback",
    broken.pipe(Fallback.value("instead").execute),
    { _tag: "FellBack", primitive: "Fallback", error: "Broken" }
  ],
  [
    "a stale answer, without the key",
    Effect.gen(function* () {
      const cache = yield* Cache.make<string, number, Broken>({
        capacity: 9,
        timeToLive: "1 second",
        staleIfError: "1 minute",
        name: "site"
      })
      yield* cache.set(secret, 1)
      yield* Effect.sleep("3 seconds")
      yield* cache.execute({ key: secret })(broken)
    }),
    { _tag: "AnsweredStale", primitive: "Cache", name: "site", staleForMillis: 2_000, error: "Broken" }
  ],
  [
    "a refresh that failed, without the key",
    Effect.gen(function* () {
      const cache = yield* Cache.make<string, number, Broken>({
        capacity: 9,
        timeToLive: "1 second",
        refresh: { staleWhileRevalidate: "1 minute" },
        name: "site"
      })
      yield* cache.set(secret, 1)
      yield* Effect.sleep("3 seconds")
      yield* cache.execute({ key: secret })(broken)
      yield* Effect.yieldNow
      yield* Effect.yieldNow
    }),
    { _tag: "RefreshFailed", primitive: "Cache", name: "site", keys: 1, error: "Broken" }
  ]
]

/** Every metric there is. */
const metricIds = [
  "resilience_adaptive_limit_limit",
  "resilience_adaptive_limit_running",
  "resilience_adaptive_limit_waiting",
  "resilience_adaptive_throttle_accepts",
  "resilience_adaptive_throttle_refusing_ratio",
  "resilience_adaptive_throttle_requests",
  "resilience_adaptive_timeout_limit_seconds",
  "resilience_adaptive_timeout_percentile_seconds",
  "resilience_adaptive_timeout_timeouts_total",
  "resilience_batcher_running",
  "resilience_batcher_waiting",
  "resilience_bulkhead_calls_total{outcome=admitted}",
  "resilience_bulkhead_calls_total{outcome=dropped}",
  "resilience_bulkhead_calls_total{outcome=left}",
  "resilience_bulkhead_calls_total{outcome=refused}",
  "resilience_bulkhead_calls_total{outcome=timed_out}",
  "resilience_bulkhead_limit",
  "resilience_bulkhead_running",
  "resilience_bulkhead_waiting",
  "resilience_cache_calls_total{outcome=hit}",
  "resilience_cache_calls_total{outcome=joined}",
  "resilience_cache_calls_total{outcome=miss}",
  "resilience_cache_entries",
  "resilience_cache_evictions_total",
  "resilience_cache_expirations_total",
  "resilience_cache_pending",
  "resilience_cache_refresh_failures_total",
  "resilience_cache_refreshes_total",
  "resilience_cache_stale_total",
  "resilience_cache_weight",
  "resilience_circuit_breaker_calls_total{outcome=failure}",
  "resilience_circuit_breaker_calls_total{outcome=ignored}",
  "resilience_circuit_breaker_calls_total{outcome=refused}",
  "resilience_circuit_breaker_calls_total{outcome=success}",
  "resilience_circuit_breaker_circuits{state=closed}",
  "resilience_circuit_breaker_circuits{state=half_open}",
  "resilience_circuit_breaker_circuits{state=isolated}",
  "resilience_circuit_breaker_circuits{state=open}",
  "resilience_circuit_breaker_slow_calls_total",
  ...["closed", "half_open", "isolated", "open"].map((to) => `resilience_circuit_breaker_transitions_total{to=${to}}`),
  ...["adaptive_limit", "keyed_bulkhead"].flatMap((primitive) =>
    ["admitted", "dropped", "left", "refused", "timed_out"].map(
      (outcome) => `resilience_${primitive}_calls_total{outcome=${outcome}}`
    )
  ),
  "resilience_keyed_bulkhead_keys",
  "resilience_keyed_bulkhead_running",
  "resilience_keyed_bulkhead_waiting",
  "resilience_hedge_calls_total",
  "resilience_hedge_delay_seconds",
  "resilience_hedge_hedges_total",
  "resilience_hedge_refused_total",
  "resilience_hedge_wins_total",
  "resilience_keyed_rate_limiter_evictions_total",
  "resilience_keyed_rate_limiter_keys",
  "resilience_keyed_rate_limiter_waiting",
  ...["admitted", "refused"].flatMap((outcome) =>
    ["critical", "high", "low", "normal"].map(
      (priority) => `resilience_load_shed_calls_total{outcome=${outcome},priority=${priority}}`
    )
  ),
  "resilience_load_shed_load",
  "resilience_rate_limiter_paused_seconds",
  "resilience_rate_limiter_refill_per_second",
  "resilience_rate_limiter_tokens",
  "resilience_rate_limiter_waiting",
  "resilience_retry_budget_available",
  "resilience_retry_budget_calls_total",
  "resilience_retry_budget_refused_total",
  "resilience_retry_budget_retries_total",
  "resilience_single_flight_calls_total{outcome=joined}",
  "resilience_single_flight_calls_total{outcome=started}",
  "resilience_single_flight_pending"
]

const everything = Effect.gen(function* () {
  return {
    adaptiveLimit: yield* AdaptiveLimit.make(),
    adaptiveThrottle: yield* AdaptiveThrottle.make(),
    adaptiveTimeout: yield* AdaptiveTimeout.make({ ceiling: "1 second" }),
    batcher: yield* Batcher.make({ run: () => Effect.succeed(new Map<string, number>()), maxBatchSize: 9 }),
    bulkhead: yield* Bulkhead.make({ maxConcurrent: 3 }),
    cache: yield* Cache.make({ capacity: 9, timeToLive: "1 minute" }),
    circuitBreaker: yield* CircuitBreaker.make({ failures: 2 }),
    hedge: yield* Hedge.make({ delay: "1 second" }),
    keyedBulkhead: yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 1 }),
    keyedRateLimiter: yield* KeyedRateLimiter.make({ capacity: 1, refillPerSecond: 1 }),
    loadShed: yield* LoadShed.make({ signals: { queue: Effect.succeed(0.5) } }),
    rateLimiter: yield* RateLimiter.make({ capacity: 16, refillPerSecond: 8 }),
    retryBudget: yield* RetryBudget.make(),
    singleFlight: yield* SingleFlight.make<string, number>()
  }
})

const snapshot = Effect.map(Metric.snapshot, (all) =>
  all.map(({ attributes, id, state }) => {
    const { name, ...labels } = attributes ?? {}
    const text = Object.entries(labels)
      .sort()
      .map(([label, value]) => `${label}=${value}`)
      .join(",")
    const value = "count" in state ? state.count : "value" in state ? state.value : undefined
    return { id: text === "" ? id : `${id}{${text}}`, name, value: Number(value) }
  })
)

describe("Telemetry", () => {
  describe("events", () => {
    it.effect.each(tellings)("tell of %s", ([, telling, told]) =>
      Effect.gen(function* () {
        const events = yield* eventsOf(telling)
        const { _tag } = told as Telemetry.Event
        const found = events.filter(
          (event) => event._tag === _tag && event.primitive === (told as Telemetry.Event).primitive
        )
        assert.isNotEmpty(found, JSON.stringify(events))
        const { time, ...first } = found[0]!
        assert.deepStrictEqual(first, told as never)
        assert.isAtLeast(time, 0)
      })
    )

    it.effect("have nothing of what errors say, and no keys but those of circuits", () =>
      Effect.gen(function* () {
        for (const [, telling] of tellings) {
          assert.notInclude(JSON.stringify(yield* eventsOf(telling)), secret)
        }
      })
    )

    it.effect("tell every change of a circuit", () =>
      Effect.gen(function* () {
        const events = yield* eventsOf(
          Effect.gen(function* () {
            const breaker = yield* CircuitBreaker.make({ failures: 1, successesToClose: 1, openFor: "1 second" })
            const through = breaker.execute({ key: "site" })
            yield* Effect.exit(through(broken))
            yield* Effect.sleep("1 second")
            yield* through(Effect.void)
            yield* breaker.isolate("site")
            yield* breaker.close("site")
            yield* breaker.open("site")
          })
        )
        assert.deepStrictEqual(
          events.map((event) => (event._tag === "CircuitChanged" ? `${event.from} ${event.to}` : event._tag)),
          ["Closed Open", "Open HalfOpen", "HalfOpen Closed", "Closed Isolated", "Isolated Closed", "Closed Open"]
        )
      })
    )

    it.effect("are not even made when nobody reads, and again not when nobody reads any more", () =>
      Effect.gen(function* () {
        let made = 0
        const happen = Effect.sync(() =>
          emit(() => {
            made++
            return { _tag: "TimedOut", primitive: "Timeout", afterMillis: 1 }
          })
        )
        yield* apart(
          Effect.gen(function* () {
            yield* happen
            assert.strictEqual(made, 0)
            const reading = yield* Effect.forkChild(Stream.runDrain(Telemetry.events), { startImmediately: true })
            yield* happen
            assert.strictEqual(made, 1)
            yield* Fiber.interrupt(reading)
            yield* happen
            assert.strictEqual(made, 1)
          })
        )
      })
    )

    it.effect("go to those who read in the same context, and no further", () =>
      Effect.gen(function* () {
        const [mine, theirs] = yield* Effect.all([Telemetry.makeHub, Telemetry.makeHub])
        const read = (hub: Telemetry.Hub) =>
          Telemetry.events.pipe(Stream.take(1), Stream.runCollect, Effect.provideService(Telemetry.Hub, hub))
        const reading = yield* Effect.forkChild(read(mine), { startImmediately: true })
        const other = yield* Effect.forkChild(read(theirs), { startImmediately: true })
        yield* Effect.exit(Deadline.within(Effect.void, 0).pipe(Effect.provideService(Telemetry.Hub, mine)))
        assert.lengthOf(yield* Fiber.join(reading), 1)
        assert.isUndefined(other.pollUnsafe())
        yield* Fiber.interrupt(other)
      })
    )

    it.effect("are forgotten from the oldest on for a reader that falls behind", () =>
      apart(
        Effect.gen(function* () {
          const seen: Array<number> = []
          let lost = 0
          const reading = yield* Effect.forkChild(
            Stream.runForEach(Telemetry.events, (event) =>
              Effect.andThen(
                Effect.sleep(1),
                Effect.sync(() => {
                  if (event._tag === "TimedOut") seen.push(event.afterMillis)
                  if (event._tag === "EventsLost") lost += event.lost
                })
              )
            ),
            { startImmediately: true }
          )
          yield* Effect.yieldNow
          for (let at = 0; at < 3_000; at++) emit(() => ({ _tag: "TimedOut", primitive: "Timeout", afterMillis: at }))
          yield* TestClock.adjust("1 minute")
          yield* Fiber.interrupt(reading)
          assert.isAtMost(seen.length, 2_100)
          // Whoever reads knows what is missing.
          assert.isAbove(lost, 0)
          assert.strictEqual(seen.length + lost, 3_000)
          assert.strictEqual(seen.at(-1), 2_999)
        })
      )
    )

    const endings: ReadonlyArray<
      readonly [
        reason: Telemetry.RetriesEnded["reason"],
        attempts: number,
        retried: (call: Effect.Effect<never, Broken>) => Effect.Effect<unknown, unknown>
      ]
    > = [
      ["schedule", 2, Retry.retry({ schedule: Retry.delays([0]) })],
      ["retry-after", 1, Retry.retry({ schedule: Retry.delays([0]), retryAfter: () => "1 hour" })],
      ["max-elapsed", 1, Retry.retry({ schedule: Retry.delays(["1 minute"]), maxElapsed: "1 second" })],
      ["deadline", 1, (call) => call.pipe(Retry.retry({ schedule: Retry.delays(["1 minute"]) }), Deadline.within(100))],
      [
        "budget",
        1,
        (call) =>
          Effect.flatMap(RetryBudget.make({ share: 0, minPerSecond: 0 }), (budget) =>
            call.pipe(Retry.retry({ schedule: Retry.delays([0]), budget }))
          )
      ],
      ["circuit", 1, (call) => Retry.make({ schedule: Retry.delays([0]) }).executeUnless(call, () => true)]
    ]
    it.effect.each(endings)("tell that retries have ended, and why: %s", ([reason, attempts, retried]) =>
      Effect.gen(function* () {
        const events = yield* eventsOf(retried(broken))
        const ended = events.filter(({ _tag }) => _tag === "RetriesEnded")
        assert.deepStrictEqual(ended, [
          { _tag: "RetriesEnded", primitive: "Retry", name: undefined, attempts, error: "Broken", reason, time: 0 }
        ])
      })
    )

    it.effect("tell no end of retries that an error did not allow, and none of a call that succeeds", () =>
      Effect.gen(function* () {
        const schedule = Retry.delays([0])
        assert.deepStrictEqual(yield* eventsOf(Retry.retry(broken, { schedule, while: () => false })), [])
        let calls = 0
        const second = Effect.suspend(() => (++calls === 2 ? Effect.void : broken))
        const events = yield* eventsOf(Retry.retry(second, { schedule }))
        assert.deepStrictEqual(
          events.map(({ _tag }) => _tag),
          ["Retried"]
        )
      })
    )

    it.effect("have names and keys in one short line", () =>
      Effect.gen(function* () {
        const text = `a\nb\u2028${"c".repeat(500)}`
        const [event] = yield* eventsOf(
          Effect.flatMap(CircuitBreaker.make({ failures: 1, name: text }), (breaker) =>
            broken.pipe(breaker.execute({ key: text }))
          )
        )
        const expected = `a\uFFFDb\uFFFD${"c".repeat(123)}…`
        assert.strictEqual(event?.name, expected)
        assert.strictEqual(event?._tag === "CircuitChanged" && event.key, expected)
      })
    )

    it.effect("harm no call that is interrupted at any operation while somebody reads", () =>
      apart(
        Effect.gen(function* () {
          const reading = yield* Effect.forkChild(Stream.runDrain(Telemetry.events), { startImmediately: true })
          const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
          const breaker = yield* CircuitBreaker.make({ failures: 3 })
          const policy = Policy.make({
            bulkhead,
            circuitBreaker: breaker,
            retry: Retry.make({ schedule: Retry.delays([0, 0]) }),
            timeout: "1 second"
          })
          const operations = yield* interruptEverywhere(
            Effect.exit(broken.pipe(policy.execute)),
            Effect.gen(function* () {
              assert.strictEqual((yield* bulkhead.state).running, 0)
              yield* breaker.reset("default")
            })
          )
          assert.isAbove(operations, 20)
          yield* Fiber.interrupt(reading)
        })
      )
    )

    it("are a union that can be told apart", () => {
      expectTypeOf<Telemetry.Event["_tag"]>().toEqualTypeOf<
        | "CircuitChanged"
        | "Refused"
        | "TimedOut"
        | "Retried"
        | "RetriesEnded"
        | "EventsLost"
        | "Hedged"
        | "FellBack"
        | "AnsweredStale"
        | "RefreshFailed"
      >()
    })
  })

  describe("spans", () => {
    const traced = <A, E, R>(self: Effect.Effect<A, E, R>) => {
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      return Effect.as(Effect.exit(Effect.provideService(self, Tracer.Tracer, tracer)), spans)
    }

    it.effect("get the events of what happens in them, with the fields as attributes", () =>
      Effect.gen(function* () {
        const breaker = yield* CircuitBreaker.make({ failures: 2, name: "site" })
        const call = broken.pipe(
          breaker.execute({ key: "site" }),
          Retry.retry({ schedule: Retry.delays([0]) }),
          Effect.withSpan("call")
        )
        const [span] = yield* traced(call)
        assert.deepStrictEqual(
          span?.events.map(([name, , attributes]) => [name, attributes]),
          [
            [
              "effect_resilience.Retried",
              {
                "effect_resilience.primitive": "Retry",
                "effect_resilience.attempt": 1,
                "error.type": "Broken",
                "effect_resilience.delay_millis": 0
              }
            ],
            [
              "effect_resilience.CircuitChanged",
              {
                "effect_resilience.primitive": "CircuitBreaker",
                "effect_resilience.name": "site",
                "effect_resilience.key": "site",
                "effect_resilience.from": "Closed",
                "effect_resilience.to": "Open",
                "effect_resilience.retry_after_millis": 60_000
              }
            ],
            [
              "effect_resilience.RetriesEnded",
              {
                "effect_resilience.primitive": "Retry",
                "effect_resilience.attempts": 2,
                "error.type": "Broken",
                "effect_resilience.reason": "schedule"
              }
            ]
          ]
        )
        assert.notInclude(JSON.stringify(span?.events.map(([, , attributes]) => attributes)), secret)
      })
    )

    it.effect("that are not sampled get none", () =>
      Effect.gen(function* () {
        const call = Effect.exit(Deadline.within(Effect.void, 0)).pipe(Effect.withSpan("call", { sampled: false }))
        assert.deepStrictEqual(
          (yield* traced(call)).map(({ events }) => events.length),
          [0]
        )
      })
    )

    it.effect("of an instrumented call carry its attempt and its outcome", () =>
      Effect.gen(function* () {
        const attempt = Telemetry.instrument({ name: "attempt", span: true })
        let calls = 0
        const work = Effect.suspend(() => (++calls < 2 ? broken : Effect.void))
        const spans = yield* apart(traced(work.pipe(attempt, Retry.retry({ schedule: Retry.delays([0]) }))))
        assert.deepStrictEqual(
          spans.map(({ attributes, name }) => [name, Object.fromEntries(attributes)]),
          [
            ["attempt", { "effect_resilience.attempt": 1, "effect_resilience.outcome": "failure" }],
            ["attempt", { "effect_resilience.attempt": 2, "effect_resilience.outcome": "success" }]
          ]
        )
      })
    )
  })

  describe("observe", () => {
    it.effect("shows every number of every primitive under one name", () =>
      apart(
        Effect.gen(function* () {
          yield* Telemetry.observe("site", yield* everything)
          const shown = yield* snapshot
          assert.sameMembers(
            shown.map(({ id }) => id),
            metricIds
          )
          assert.deepStrictEqual(new Set(shown.map(({ name }) => name)), new Set(["site"]))
        })
      )
    )

    it("and the document has just these metrics, labels and values, and just the events that there are", () => {
      const lines = readFileSync(new URL("../../docs/telemetry.md", import.meta.url), "utf8").split("\n")
      const rows = lines
        .filter((line) => line.startsWith("| `"))
        .map((line) => line.split("|").map((cell) => cell.trim()))
      const quoted = (cell = "") => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name)
      // Every combination of the labels, as in `{outcome=refused,priority=low}`.
      const combinations = (cell = "") =>
        [...cell.matchAll(/`(\w+)`: ([\w, ]+)/g)]
          .map(([, label, values = ""]) => values.split(", ").map((value) => `${label}=${value}`))
          .reduce<ReadonlyArray<string>>(
            (sofar, next) => sofar.flatMap((one) => next.map((other) => (one === "" ? other : `${one},${other}`))),
            [""]
          )
      const documented = rows.flatMap(([, names, , labels]) =>
        quoted(names)
          .filter((name) => name.startsWith("resilience_"))
          .flatMap((name) => combinations(labels).map((label) => (label === "" ? name : `${name}{${label}}`)))
      )
      const outcomes = ["success", "failure", "refused", "interrupted"]
      assert.sameMembers(documented, [
        ...metricIds,
        ...outcomes.map((outcome) => `resilience_duration_seconds{outcome=${outcome}}`),
        "resilience_events_total"
      ])

      const tags = rows.flatMap(([, names]) => quoted(names)).filter((name) => !name.startsWith("resilience_"))
      const known = new Set([
        ...tellings.map(([, , told]) => (told as Telemetry.Event)._tag),
        "RetriesEnded",
        "EventsLost"
      ])
      assert.sameMembers(tags, [...known])
    })

    it.effect("sums up the compartments of a keyed bulkhead, and names none of its keys", () =>
      apart(
        Effect.gen(function* () {
          const keyedBulkhead = yield* Bulkhead.makeKeyed({ maxConcurrent: 1, maxQueued: 1 })
          yield* Telemetry.observe("site", { keyedBulkhead })
          for (const key of [secret, secret, "other"]) {
            yield* Effect.forkScoped(keyedBulkhead.execute({ key })(Effect.never), { startImmediately: true })
          }
          yield* Effect.exit(keyedBulkhead.execute({ key: secret })(Effect.void))
          const shown = yield* snapshot
          const valueOf = (id: string) => shown.find((one) => one.id === `resilience_keyed_bulkhead_${id}`)?.value
          assert.deepStrictEqual(
            ["keys", "running", "waiting", "calls_total{outcome=admitted}", "calls_total{outcome=refused}"].map(
              valueOf
            ),
            [2, 2, 1, 2, 1]
          )
          assert.notInclude(yield* PrometheusMetrics.format(), secret)
        })
      )
    )

    it.effect("reads the numbers when they are asked for", () =>
      apart(
        Effect.gen(function* () {
          const parts = yield* everything
          yield* Telemetry.observe("site", parts)
          const through = parts.circuitBreaker.execute({ key: "site" })
          yield* through(Effect.void)
          yield* Effect.exit(through(broken))
          yield* Effect.exit(through(broken))
          yield* Effect.exit(through(broken))
          yield* parts.cache.set("a", 1)
          yield* parts.cache.execute({ key: "a" })(Effect.succeed(2))
          yield* Effect.forkScoped(parts.bulkhead.execute(Effect.never), { startImmediately: true })
          yield* parts.rateLimiter.execute(Effect.void)
          const values = new Map((yield* snapshot).map(({ id, value }) => [id, value]))
          const read = (id: string) => values.get(`resilience_${id}`)
          assert.deepStrictEqual(
            [
              read("circuit_breaker_calls_total{outcome=success}"),
              read("circuit_breaker_calls_total{outcome=failure}"),
              read("circuit_breaker_calls_total{outcome=refused}"),
              read("circuit_breaker_circuits{state=open}"),
              read("circuit_breaker_circuits{state=closed}"),
              read("cache_calls_total{outcome=hit}"),
              read("cache_entries"),
              read("bulkhead_running"),
              read("bulkhead_limit"),
              read("bulkhead_calls_total{outcome=admitted}"),
              read("rate_limiter_tokens")
            ],
            [1, 2, 1, 1, 0, 1, 1, 1, 3, 1, 15]
          )
        })
      )
    )

    it.effect("counts every call once, whatever becomes of it", () =>
      apart(
        Effect.gen(function* () {
          const circuitBreaker = yield* CircuitBreaker.make({ failures: 3, openFor: "20 millis" })
          yield* Telemetry.observe("site", { circuitBreaker })
          const calls = 500
          for (let at = 0; at < calls; at++) {
            const outcome = yield* Random.nextIntBetween(0, 3)
            const work = outcome === 0 ? Effect.void : outcome === 1 ? broken : Effect.interrupt
            yield* Effect.exit(Effect.asVoid(work).pipe(circuitBreaker.execute({ key: `${at % 3}` })))
            yield* TestClock.adjust(yield* Random.nextIntBetween(0, 10))
          }
          const counted = (yield* snapshot).filter(({ id }) => id.startsWith("resilience_circuit_breaker_calls_total"))
          assert.isTrue(
            counted.every(({ value }) => value > 10),
            JSON.stringify(counted)
          )
          assert.strictEqual(
            counted.reduce((sum, { value }) => sum + value, 0),
            calls
          )
        }).pipe(Random.withSeed("counts"))
      )
    )

    it.effect(
      "counts circuits and their changes as the breaker itself tells them, and those of another make as well",
      () =>
        apart(
          Effect.gen(function* () {
            const breaker = yield* CircuitBreaker.make({ failures: 1, openFor: "1 second", maxHalfOpen: "1 second" })
            // A copy is not what `make` has made.
            yield* Telemetry.observe("own", { circuitBreaker: breaker })
            yield* Telemetry.observe("other", { circuitBreaker: { ...breaker } })
            const moves: Record<string, number> = { Closed: 0, Open: 0, HalfOpen: 0, Isolated: 0 }
            yield* Effect.forkScoped(
              Stream.runForEach(breaker.transitions, ({ to }) => Effect.sync(() => (moves[to] = (moves[to] ?? 0) + 1))),
              { startImmediately: true }
            )
            const random = yield* Random.Random
            const spelled: Record<string, string> = { HalfOpen: "half_open" }
            for (let at = 0; at < 300; at++) {
              const dice = random.nextDoubleUnsafe()
              const key = String(at % 5)
              if (dice < 0.05) yield* breaker.isolate(key)
              else if (dice < 0.2) yield* breaker.close(key)
              else if (dice < 0.5) yield* Effect.exit(broken.pipe(breaker.execute({ key })))
              else if (dice < 0.8) yield* Effect.exit(breaker.execute({ key })(Effect.void))
              else yield* TestClock.adjust("600 millis")
              yield* TestClock.adjust(0)
              const states = yield* breaker.states
              const shown = yield* snapshot
              for (const tag of ["Closed", "Open", "HalfOpen", "Isolated"]) {
                const state = spelled[tag] ?? tag.toLowerCase()
                const valuesOf = (id: string) => shown.filter((one) => one.id === id).map(({ value }) => value)
                const expected = states.filter(({ _tag }) => _tag === tag).length
                assert.deepStrictEqual(valuesOf(`resilience_circuit_breaker_circuits{state=${state}}`), [
                  expected,
                  expected
                ])
                assert.deepStrictEqual(valuesOf(`resilience_circuit_breaker_transitions_total{to=${state}}`), [
                  moves[tag]
                ])
              }
            }
            for (const times of Object.values(moves)) assert.isAbove(times, 0)
          }).pipe(Random.withSeed("circuits"))
        )
    )

    it.effect("shows nothing any more when the scope has closed, and the newer of two with one name", () =>
      apart(
        Effect.gen(function* () {
          const scopes = [yield* Scope.make(), yield* Scope.make()] as const
          const bulkheads = [
            yield* Bulkhead.make({ maxConcurrent: 1 }),
            yield* Bulkhead.make({ maxConcurrent: 2 })
          ] as const
          const limits = Effect.map(snapshot, (all) =>
            all.flatMap(({ id, value }) => (id.endsWith("_limit") ? [value] : []))
          )
          yield* Scope.provide(Telemetry.observe("site", { bulkhead: bulkheads[0] }), scopes[0])
          yield* Scope.provide(Telemetry.observe("site", { bulkhead: bulkheads[1] }), scopes[1])
          assert.deepStrictEqual(yield* limits, [2])
          yield* Scope.close(scopes[0], Exit.void)
          assert.deepStrictEqual(yield* limits, [2])
          yield* Scope.close(scopes[1], Exit.void)
          assert.deepStrictEqual(yield* snapshot, [])
        })
      )
    )

    it.effect("is what providers do with their parts, for as long as they are there", () =>
      apart(
        Effect.gen(function* () {
          const providers = yield* Providers.make({
            profiles: { zephyr: { bulkhead: { maxConcurrent: 2 }, circuitBreaker: { failures: 2 } } }
          })
          const zephyr = yield* providers.get("zephyr")
          yield* Effect.exit(broken.pipe(zephyr.execute()))
          const limits = Effect.map(snapshot, (all) =>
            all.flatMap(({ id, name, value }) => (id === "resilience_bulkhead_limit" ? [`${name} ${value}`] : []))
          )
          assert.deepStrictEqual(yield* limits, ["zephyr 2"])
          yield* providers.reload({
            zephyr: { bulkhead: { maxConcurrent: 5 } },
            qtest: { bulkhead: { maxConcurrent: 3 } }
          })
          yield* TestClock.adjust(0)
          assert.sameMembers([...(yield* limits)], ["zephyr 5", "qtest 3"])
          yield* providers.reload({})
          yield* TestClock.adjust(0)
          assert.deepStrictEqual(yield* snapshot, [])
        })
      )
    )

    it.effect("is read by the exporter of Prometheus", () =>
      apart(
        Effect.gen(function* () {
          const circuitBreaker = yield* CircuitBreaker.make({ failures: 1 })
          yield* Telemetry.observe('si"te\n', { circuitBreaker })
          yield* Effect.exit(broken.pipe(circuitBreaker.execute({ key: "site" })))
          const text = yield* PrometheusMetrics.format()
          assert.include(text, "# TYPE resilience_circuit_breaker_calls_total counter")
          assert.include(text, 'resilience_circuit_breaker_calls_total{name="si\\"te\uFFFD",outcome="failure"} 1')
          assert.include(text, 'resilience_circuit_breaker_circuits{name="si\\"te\uFFFD",state="open"} 1')
        })
      )
    )
  })

  describe("layerMetrics", () => {
    it.effect("counts events by what they are, and names no more than it may", () =>
      apart(
        Effect.gen(function* () {
          yield* Layer.build(Telemetry.layerMetrics({ maxNames: 4 }))
          const call = (name: string) => broken.pipe(Retry.retry({ name, schedule: Retry.delays([0]) }), Effect.exit)
          for (const name of ["a", "b", "c", "d", "e"]) yield* call(name)
          yield* TestClock.adjust(0)
          const shown = (yield* snapshot).map(({ id, name, value }) => `${name} ${id} ${value}`)
          const id = "resilience_events_total{error=Broken,event=Retried,primitive=Retry}"
          const ended = "resilience_events_total{error=Broken,event=RetriesEnded,primitive=Retry}"
          assert.sameMembers(
            shown,
            [id, ended].flatMap((each) => [`a ${each} 1`, `b ${each} 1`, `c ${each} 1`, `other ${each} 2`])
          )
        })
      )
    )
  })

  describe("layerLog", () => {
    const logged = (
      options: Telemetry.LogOptions,
      self: Effect.Effect<unknown, unknown, Scope.Scope>,
      minimum: LogLevel.LogLevel = "All"
    ) =>
      apart(
        Effect.gen(function* () {
          const lines: Array<string> = []
          const logger = Logger.make(({ fiber, logLevel, message }) => {
            lines.push(
              `${logLevel} ${String(message)} ${JSON.stringify(fiber.getRef(References.CurrentLogAnnotations))}`
            )
          })
          yield* Layer.build(Layer.provide(Telemetry.layerLog(options), Logger.layer([logger])))
          yield* Effect.exit(self)
          yield* TestClock.adjust(0)
          return lines
        })
      ).pipe(Effect.provideService(References.MinimumLogLevel, minimum))

    it.effect("writes each event with its fields, at its level", () =>
      Effect.gen(function* () {
        const lines = yield* logged(
          {},
          Effect.gen(function* () {
            const breaker = yield* CircuitBreaker.make({ failures: 1, name: "zephyr" })
            yield* Effect.exit(broken.pipe(breaker.execute({ key: "site" })))
            yield* Effect.exit(broken.pipe(breaker.execute({ key: "site" })))
            yield* breaker.close("site")
          })
        )
        assert.deepStrictEqual(lines, [
          'Warn The circuit "site" of zephyr went from Closed to Open {"event":"CircuitChanged","primitive":"CircuitBreaker","name":"zephyr","key":"site","from":"Closed","to":"Open","retry_after_millis":60000}',
          'Debug A call of zephyr was refused: CircuitOpen {"event":"Refused","primitive":"CircuitBreaker","name":"zephyr","key":"site","error.type":"CircuitOpen","retry_after_millis":60000}',
          'Info The circuit "site" of zephyr went from Open to Closed {"event":"CircuitChanged","primitive":"CircuitBreaker","name":"zephyr","key":"site","from":"Open","to":"Closed"}'
        ])
      })
    )

    it.effect("writes no more lines than it may, and says how many it left out", () =>
      Effect.gen(function* () {
        const refused = Effect.exit(Deadline.within(Effect.void, 0))
        const lines = yield* logged(
          { maxPerSecond: 3 },
          Effect.gen(function* () {
            yield* Effect.repeat(refused, { times: 9 })
            yield* TestClock.adjust("1 second")
            yield* refused
          })
        )
        assert.deepStrictEqual(
          lines.map((line) => line.split(" {")[0]),
          [
            ...Array.from({ length: 3 }, () => "Debug A call was refused: DeadlineExceeded"),
            "Warn 7 more events were not logged",
            "Debug A call was refused: DeadlineExceeded"
          ]
        )
      })
    )

    it.effect("lets no flood of one kind, least of all one that is not logged, hide another", () =>
      Effect.gen(function* () {
        const flood = Effect.gen(function* () {
          const breaker = yield* CircuitBreaker.make({ failures: 1 })
          yield* Effect.repeat(Effect.exit(Deadline.within(Effect.void, 0)), { times: 99 })
          yield* Effect.exit(broken.pipe(breaker.execute({ key: "site" })))
          yield* TestClock.adjust("1 second")
          yield* Effect.exit(Deadline.within(Effect.void, 0))
        })
        const count = (lines: ReadonlyArray<string>, part: string) => lines.filter((line) => line.includes(part)).length
        const all = yield* logged({ maxPerSecond: 3 }, flood)
        assert.strictEqual(count(all, "Closed to Open"), 1)
        assert.strictEqual(count(all, "97 more events were not logged"), 1)
        const few = yield* logged({ maxPerSecond: 3 }, flood, "Info")
        assert.deepStrictEqual(
          few.map((line) => line.split(" {")[0]),
          ['Warn The circuit "site" went from Closed to Open']
        )
      })
    )

    it.effect("leaves out what has no level, and has a sentence for everything", () =>
      Effect.gen(function* () {
        for (const [what, telling] of tellings) {
          const silent = yield* logged({ level: () => undefined }, Effect.timeoutOption(telling, 0))
          assert.deepStrictEqual(silent, [], what)
        }
        for (const telling of tellings.map(([, effect]) => effect)) {
          for (const event of yield* eventsOf(telling)) {
            const lines = yield* logged(
              {},
              Effect.sync(() => emit(() => event))
            )
            assert.notInclude(lines[0] ?? "", "undefined")
            assert.notInclude(lines[0] ?? "", secret)
          }
        }
      })
    )
  })

  describe("instrument", () => {
    it.effect("measures how long each run takes, by its outcome", () =>
      apart(
        Effect.gen(function* () {
          const measured = Telemetry.instrument({ name: "site" })
          const runs: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
            measured(Effect.sleep("200 millis")),
            measured(Effect.andThen(Effect.sleep("20 millis"), broken)),
            measured(Deadline.within(Effect.void, 0)),
            measured(Effect.andThen(Effect.sleep("2 seconds"), Effect.interrupt))
          ]
          for (const run of runs) {
            const running = yield* Effect.forkChild(Effect.exit(run), { startImmediately: true })
            yield* TestClock.adjust("1 minute")
            yield* Fiber.await(running)
          }
          const histograms = (yield* Metric.snapshot).flatMap(({ attributes, state }) =>
            "buckets" in state ? [`${attributes?.["name"]} ${attributes?.["outcome"]} ${state.count} ${state.sum}`] : []
          )
          assert.sameMembers(histograms, [
            "site success 1 0.2",
            "site failure 1 0.02",
            "site refused 1 0",
            "site interrupted 1 2"
          ])
        })
      )
    )

    it.effect("changes nothing of the result or the types", () =>
      Effect.gen(function* () {
        const measured = broken.pipe(Telemetry.instrument({ name: "site", span: true }))
        expectTypeOf(measured).toEqualTypeOf<Effect.Effect<never, Broken>>()
        assert.strictEqual((yield* apart(Effect.flip(measured)))._tag, "Broken")
      })
    )
  })

  describe("options", () => {
    it("that make no sense are a RangeError that names them", () => {
      assert.throws(() => Telemetry.layerLog({ maxPerSecond: 0 }), RangeError, "Telemetry: maxPerSecond must be")
      assert.throws(() => Telemetry.layerMetrics({ maxNames: 0 }), RangeError, "Telemetry: maxNames must be")
    })
  })
})
