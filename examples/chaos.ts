/**
 * A policy under a disturbed dependency: slow calls all the time, and an outage that is switched on and off.
 */
import { Effect } from "effect"
import { Chaos, CircuitBreaker, ErrorPattern, Retry } from "effect-resilience"

const price = Effect.succeed(42)

const program = Effect.gen(function* () {
  const slow: Chaos.Fault = { kind: "latency", delay: "1 millis", upTo: "20 millis", rate: 0.5 }
  const chaos = yield* Chaos.makeSwitchable({ faults: [slow], seed: "demo" })
  const breaker = yield* CircuitBreaker.make({ failures: 5, openFor: "100 millis" })

  const call = price.pipe(
    chaos.execute({ key: "prices" }),
    breaker.execute({ key: "prices" }),
    Retry.retry({ schedule: Retry.fixed({ base: "5 millis" }), while: ErrorPattern.status(503) }),
    Effect.match({ onFailure: ({ _tag }) => _tag, onSuccess: () => "ok" })
  )
  const round = Effect.fnUntraced(function* (name: string) {
    const ends = yield* Effect.replicateEffect(call, 20)
    const counted = [...new Set(ends)].map((end) => `${ends.filter((other) => other === end).length} ${end}`)
    const { faults } = yield* chaos.state
    const hits = faults.map(({ fault, injected }) => `${fault.kind} ${injected}`)
    yield* Effect.log(`${name}: ${counted.join(", ")}; injected: ${hits.join(", ")}`)
  })

  yield* round("slow")
  yield* chaos.setFaults([slow, { kind: "failure", status: 503, rate: 0.9 }])
  yield* round("outage")
  yield* chaos.setEnabled(false)
  yield* Effect.sleep("150 millis")
  yield* round("recovered")
})

Effect.runFork(program)
