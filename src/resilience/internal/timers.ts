/**
 * Calls back when a time is up by the clock of a fiber.
 *
 * Timeouts are set for every call and hardly ever end. So on Effect's own clock all that are equally long stand in one
 * line, which one timer of the platform serves: to set and to cancel one is a matter of a few pointers. On any other clock,
 * such as that of a test, each is a fiber that sleeps.
 */
import { Clock, Duration, Effect, type Fiber } from "effect"
import { realClock } from "./monotonic.ts"

/** Cancels what has not been called back yet. */
export type Cancel = () => void

/** Calls `onEnd` once so many milliseconds have passed, never before, unless it is cancelled first. Over zero, and finite. */
export const afterMillisUnsafe = (fiber: Fiber.Fiber<unknown, unknown>, millis: number, onEnd: () => void): Cancel => {
  const clock = fiber.getRef(Clock.Clock)
  // Whole milliseconds: timers cut the fraction off, and would fire before the time is up.
  const whole = Math.ceil(millis)
  if (clock === realClock && whole <= maxTimerMillis) return join(whole, onEnd)
  const sleeping = Effect.runForkWith(fiber.context)(clock.sleep(Duration.millis(whole)))
  sleeping.addObserver((slept) => {
    if (slept._tag === "Success") onEnd()
  })
  return () => sleeping.interruptUnsafe()
}

// The platform's timers take no more.
const maxTimerMillis = 2 ** 31 - 1

// What is used of the timers of Node, Deno, Bun and browsers; the last have nothing that an idle timer could keep alive.
interface Timer {
  readonly ref?: () => unknown
  readonly unref?: () => unknown
}

interface Place {
  readonly endsAt: number
  readonly onEnd: () => void
  waiting: boolean
  before: Place | undefined
  behind: Place | undefined
}

interface Line {
  readonly millis: number
  first: Place | undefined
  last: Place | undefined
  timer: Timer
  /** What the timer was set for: the end of one who may have left since. */
  setFor: number
}

// A line is there as long as its timer runs, so there are never more than timers would be.
const lines = new Map<number, Line>()

const join = (millis: number, onEnd: () => void): Cancel => {
  const endsAt = performance.now() + millis
  const line = lines.get(millis) ?? open(millis, endsAt)
  const place: Place = { endsAt, onEnd, waiting: true, before: line.last, behind: undefined }
  if (line.last === undefined) {
    line.first = place
    line.timer.ref?.()
  } else {
    line.last.behind = place
  }
  line.last = place
  return () => {
    if (place.waiting) leave(line, place)
  }
}

const open = (millis: number, setFor: number): Line => {
  const line: Line = { millis, first: undefined, last: undefined, timer: setTimer(millis, millis), setFor }
  lines.set(millis, line)
  return line
}

const setTimer = (millis: number, wait: number): Timer => setTimeout(serve, wait, millis) as unknown as Timer

const leave = (line: Line, place: Place): void => {
  place.waiting = false
  if (place.before === undefined) line.first = place.behind
  else place.before.behind = place.behind
  if (place.behind === undefined) line.last = place.before
  else place.behind.before = place.before
  // The timer stays set for the next who comes, but does not keep a process alive that has nothing else to do.
  if (line.first === undefined) line.timer.unref?.()
}

const serve = (millis: number): void => {
  const line = lines.get(millis)
  if (line === undefined) return
  // Whoever the timer was set for is due, whatever a clock with another grain says.
  const now = Math.max(performance.now(), line.setFor)
  for (let place = line.first; place !== undefined && place.endsAt <= now; place = line.first) {
    leave(line, place)
    place.onEnd()
  }
  if (line.first === undefined) return void lines.delete(millis)
  line.setFor = line.first.endsAt
  line.timer = setTimer(millis, Math.ceil(line.setFor - now))
}
