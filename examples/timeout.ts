/**
 * Timeout and Deadline: an attempt has its own limit, everything together has one end.
 */
import { Console, Duration, Effect } from "effect"
import { Deadline, Retry, Timeout } from "effect-resilience"

const slow = Effect.sleep("1 minute").pipe(Effect.onInterrupt(() => Console.log("the slow call was really stopped")))

const program = Effect.gen(function* () {
  const timedOut = yield* slow.pipe(Timeout.timeout("50 millis"), Effect.flip)
  yield* Console.log(timedOut.message)

  // Three attempts of 50 ms and the waits between them do not fit: the third is not waited for.
  const late = yield* slow.pipe(
    Timeout.timeout("50 millis"),
    Retry.retry({ schedule: Retry.delays(["60 millis", "60 millis"]) }),
    Deadline.within("200 millis"),
    Effect.flip
  )
  yield* Console.log(late.message)

  const left = yield* Deadline.remaining.pipe(Deadline.within("10 seconds"), Deadline.within("1 minute"))
  yield* Console.log(`of two deadlines the tighter holds: ${Math.round(Duration.toSeconds(left ?? 0))} s left`)
})

Effect.runPromise(program)
