/**
 * Spaces calls out in time: the generic cell rate algorithm, in its form of virtual scheduling (ITU-T I.371, annex A).
 *
 * All it knows is when the next call would come if every call came exactly on time: the theoretical arrival time, TAT.
 * With `T` the time of a token, a call of cost `c` may come as long as `max(now, TAT) + c * T <= now + burst * T`, and then
 * the left side is the new TAT. For one token that is `TAT - tau <= now` with the tolerance `tau = (burst - 1) * T`.
 * Smooth is `tau = 0` for every cost: a call may come when the TAT has come, and pays for the time after it.
 *
 * The TAT is an anchor and what was taken since then, so that no fraction is lost to rounding however many calls there are.
 */
import { DueMeter, type Meter, type Numbers, type NumbersOf } from "./meter.ts"

type Rule = NumbersOf<"gcra" | "smooth">

/** The theoretical arrival time, and how early a call may come. */
export class Gcra extends DueMeter implements Meter {
  readonly additive = true
  private rule: Rule
  private anchorAt: number
  private taken = 0

  constructor(rule: Rule, now: number) {
    super()
    this.rule = rule
    this.anchorAt = now
  }

  get maxCost(): number {
    return this.rule.algorithm === "smooth" ? Infinity : this.rule.burst
  }

  tokens(now: number): number {
    return Math.max(0, Math.min(this.rule.burst, this.level(now)))
  }

  ratePerSecond(): number {
    return 1000 / this.rule.intervalMillis
  }

  isFull(now: number): boolean {
    return this.arrivalAt() <= now
  }

  dueAt(from: number, cost: number, ahead: number): number {
    const { algorithm, burst, intervalMillis } = this.rule
    const early = algorithm === "smooth" ? cost : burst
    // What counts as on time despite rounding: a nanosecond, and as much of a token.
    const tolerance = 1e-6 + intervalMillis * 1e-9
    if ((cost - early) * intervalMillis > tolerance) return Infinity
    return Math.max(from, Math.max(from, this.arrivalAt()) + (ahead + cost - early) * intervalMillis - tolerance)
  }

  take(now: number, cost: number): void {
    // Time without calls is not saved up.
    if (this.arrivalAt() <= now) this.arriveAt(now)
    this.taken += cost
  }

  giveBack(_now: number, _takenAt: number, cost: number): void {
    this.taken -= cost
  }

  override throttle(now: number, pauseMillis: number): void {
    super.throttle(now, pauseMillis)
    // One token when the pause ends, and the others in their time.
    const until = this.restsUntil(now)
    const { burst, intervalMillis } = this.rule
    this.arriveAt(Math.max(this.arrivalAt(), until + (burst - 1) * intervalMillis))
  }

  change(now: number, numbers: Numbers): void {
    if (numbers.algorithm !== "gcra" && numbers.algorithm !== "smooth") return
    const from = this.restsUntil(now)
    // More than the new burst lies in the past, and counts for nothing.
    const missing = numbers.burst - this.level(from)
    this.rule = numbers
    this.arriveAt(from + missing * numbers.intervalMillis)
  }

  clone(): Gcra {
    const copy = new Gcra(this.rule, this.anchorAt)
    copy.taken = this.taken
    copy.pausedUntil = this.pausedUntil
    return copy
  }

  private restsUntil(now: number): number {
    return Math.max(now, this.pausedUntil ?? now)
  }

  // Under zero for what was promised.
  private level(now: number): number {
    return this.rule.burst - Math.max(0, this.arrivalAt() - now) / this.rule.intervalMillis
  }

  private arrivalAt(): number {
    return this.anchorAt + this.taken * this.rule.intervalMillis
  }

  private arriveAt(at: number): void {
    this.anchorAt = at
    this.taken = 0
  }
}
