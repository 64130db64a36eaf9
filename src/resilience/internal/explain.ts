/**
 * Works out what a profile amounts to: its pipeline with its numbers, its worst case, and what contradicts itself.
 */
import { Duration } from "effect"
import type { Explanation, Profile, RetrySpec, Stage, Warning, WorstCase } from "../Profile.ts"
import { limitOf } from "./profileParts.ts"

/** What the parts do where a profile does not say. */
export const defaults = {
  base: 1000,
  factor: 2,
  maxDelay: 30_000,
  times: 3,
  maxRetryAfter: 60_000,
  retryShare: 0.2,
  retryPerSecond: 10,
  hedgeShare: 0.1,
  hedgePerSecond: 1,
  maxHedges: 1,
  failures: 5,
  size: 100,
  minimumCalls: 20,
  openFor: 60_000,
  probes: 1,
  successesToClose: 2,
  maxQueued: 0,
  minLimit: 1,
  initialLimit: 20,
  maxLimit: 200,
  maxWait: 30_000,
  maxWaiting: 1000,
  capacity: 1000,
  ratio: 2,
  maxRefused: 0.9
}

/** Explains a profile. */
export const explain = (profile: Profile): Explanation => {
  const numbers = toNumbers(profile)
  return {
    order: profile.order ?? "standard",
    stages: stagesOf(profile, numbers),
    worstCase: numbers.worstCase,
    warnings: warningsOf(profile, numbers)
  }
}

/** Writes an explanation as text, a line for each fact. */
export const render = ({ order, stages, warnings, worstCase }: Explanation): string => {
  const { concurrency, inOutage, perSecond, requests, time, timeWithHints, untilOpen, whileOpen } = worstCase
  const facts: ReadonlyArray<readonly [string, string]> = [
    [
      "time",
      `${until(time)}${Duration.equals(time, timeWithHints) ? "" : `, ${until(timeWithHints)} when errors ask to wait`}`
    ],
    ["requests", `${requests} for a call, ${most(concurrency)} at the same time, ${most(perSecond)} a second`],
    [
      "outage",
      `${round(inOutage.perCall)} for a call in the long run${inOutage.perSecond > 0 ? ` and ${round(inOutage.perSecond)} a second` : ""}`
    ],
    ...(untilOpen === undefined
      ? []
      : [["circuit", `opens after ${untilOpen} failed requests, then ${round(whileOpen)} a second`] as const])
  ]
  const width = Math.max(
    ...[...stages.map(({ part }) => part), ...facts.map(([name]) => name)].map((text) => text.length)
  )
  const table = (rows: ReadonlyArray<readonly [string, string]>) =>
    rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`)
  return [
    `${order} order, outermost first`,
    ...table(stages.map(({ does, part }) => [part, does])),
    "worst case",
    ...table(facts),
    ...(warnings.length === 0 ? [] : ["warnings", ...warnings.map(({ field, problem }) => `  ${field}: ${problem}`)])
  ].join("\n")
}

interface Numbers {
  /** The bounds of one attempt, and of all of them in a facade; infinite without. */
  readonly attemptLimit: number
  readonly totalLimit: number
  readonly deadline: number
  readonly limiterWait: number
  readonly attempts: number
  readonly hedges: number
  readonly hedgeDelay: number
  readonly waits: Waits
  /** An attempt and the hedges beside it. */
  readonly hedged: number
  /** From getting a place to the end. */
  readonly held: number
  readonly placeWait: number
  readonly rate: Rate
  readonly worstCase: WorstCase
}

/** The delays of a schedule at their longest. */
interface Waits {
  readonly first: ReadonlyArray<number>
  readonly total: number
  /** The shortest that the first can be. */
  readonly atLeast: number
}

/** At most `burst` at once, and in the long run `perSecond`. */
interface Rate {
  readonly burst: number
  readonly perSecond: number
}

const toNumbers = (profile: Profile): Numbers => {
  const { bulkhead, hedge, rateLimiter, retry } = profile
  const isFacade = profile.order === "facade"
  const limit = profile.timeout === undefined ? Infinity : millisOf(ceilingOf(profile.timeout))
  const attemptLimit = isFacade ? Infinity : limit
  const totalLimit = isFacade ? limit : Infinity
  const deadline = millisOf(profile.deadline, Infinity)
  const limiterWait =
    rateLimiter === undefined || rateLimiter.maxQueued === 0 ? 0 : millisOf(rateLimiter.maxWait, defaults.maxWait)

  const waits = waitsOf(retry)
  const attempts = 1 + timesOf(retry)
  const hedges = hedge === undefined ? 0 : (hedge.maxHedges ?? defaults.maxHedges)
  const hedgeDelay =
    hedge === undefined
      ? Infinity
      : hedge.percentile === undefined
        ? millisOf(hedge.delay)
        : Math.max(millisOf(hedge.delay), millisOf(hedge.maxDelay, Infinity))
  const attempt = limiterWait + attemptLimit
  const hedged = attempt + times(hedges, Math.min(hedgeDelay, attempt))

  const maxElapsed = millisOf(retry?.maxElapsed, Infinity)
  const retried = (waiting: number) => Math.min(times(attempts, hedged) + waiting, maxElapsed + hedged)
  const held = Math.min(totalLimit, retried(waits.total), deadline)
  const maxRetryAfter = millisOf(retry?.maxRetryAfter, defaults.maxRetryAfter)
  const hinted = waits.first.reduce((sum, wait) => sum + Math.max(wait, maxRetryAfter), 0)
  const heldWithHints = Math.min(totalLimit, retried(Math.max(waits.total, hinted)), deadline)

  const rounds = (held: number) => {
    const admission = bulkhead ?? profile.adaptiveLimit
    const maxQueued = admission?.maxQueued ?? defaults.maxQueued
    if (admission === undefined || maxQueued === 0) return 0
    const places = bulkhead?.maxConcurrent ?? profile.adaptiveLimit?.minLimit ?? defaults.minLimit
    // In another order than that in which they came, one who waits can be overtaken without end.
    const inOrder = (admission.priorities ?? "ignored") === "ignored" && (admission.order ?? "fifo") === "fifo"
    return Math.min(
      millisOf(admission.maxWait, Infinity),
      inOrder ? times(Math.ceil(maxQueued / places), held) : Infinity
    )
  }
  const placeWait = rounds(held)
  const rate = rateOf(profile)
  const requests = attempts * (1 + hedges)
  const places =
    bulkhead?.maxConcurrent ?? (profile.adaptiveLimit === undefined ? Infinity : mostOf(profile.adaptiveLimit))
  const waitsForCircuit =
    retry !== undefined && profile.circuitBreaker !== undefined && !isFacade && deadline < Infinity
  return {
    attemptLimit,
    totalLimit,
    deadline,
    limiterWait,
    attempts,
    hedges,
    hedgeDelay,
    waits,
    hedged,
    held,
    placeWait,
    rate,
    worstCase: {
      time: Duration.millis(Math.min(deadline, placeWait + held)),
      timeWithHints: Duration.millis(
        waitsForCircuit ? deadline : Math.min(deadline, rounds(heldWithHints) + heldWithHints)
      ),
      requests,
      concurrency: places * (1 + hedges),
      perSecond: rate.perSecond,
      inOutage: inOutage(profile, attempts - 1, hedges),
      untilOpen: untilOpen(profile, isFacade ? requests : 1),
      whileOpen: whileOpen(profile, isFacade ? requests : 1)
    }
  }
}

const timesOf = (retry: RetrySpec | undefined): number =>
  retry === undefined ? 0 : retry.schedule === "delays" ? (retry.delays ?? []).length : (retry.times ?? defaults.times)

const waitsOf = (retry: RetrySpec | undefined): Waits => {
  if (retry === undefined) return { first: [], total: 0, atLeast: 0 }
  const count = timesOf(retry)
  const { jitter = retry.schedule === "fixed" ? "none" : "full", schedule = "exponential" } = retry
  if (schedule === "delays") {
    const first = (retry.delays ?? []).map((wait) => millisOf(wait))
    return { first, total: first.reduce((sum, wait) => sum + wait, 0), atLeast: first[0] ?? 0 }
  }
  const base = millisOf(retry.base, defaults.base)
  const step = millisOf(retry.step, base)
  const cap = schedule === "fixed" ? base : millisOf(retry.maxDelay, Math.max(base, defaults.maxDelay))
  const factor = jitter === "decorrelated" ? 3 : (retry.factor ?? defaults.factor)
  const grown = (index: number) =>
    schedule === "exponential"
      ? base * factor ** (jitter === "decorrelated" ? index + 1 : index)
      : schedule === "linear"
        ? base + step * index
        : schedule === "fibonacci"
          ? base * fibonacci(index)
          : base
  // A million retries have a total as well, and the first thousand say how they go on.
  const first = Array.from({ length: Math.min(count, 1000) }, (_, index) => Math.min(cap, grown(index)))
  const last = first.at(-1) ?? 0
  const total = first.reduce((sum, wait) => sum + wait, 0) + last * (count - first.length)
  const shortest = { none: 1, equal: 0.5, full: 0, decorrelated: 0 }[jitter]
  return { first, total, atLeast: jitter === "decorrelated" ? base : (first[0] ?? 0) * shortest }
}

const fibonacci = (index: number): number => Math.round(((1 + Math.sqrt(5)) / 2) ** (index + 1) / Math.sqrt(5))

const rateOf = ({ rateLimiter }: Profile): Rate => {
  if (rateLimiter === undefined) return { burst: Infinity, perSecond: Infinity }
  const limit = limitOf(rateLimiter)
  switch (limit.algorithm) {
    case "smooth":
      return { burst: 1, perSecond: 1000 / Duration.toMillis(limit.interval) }
    case "gcra":
    case "fixed-window":
    case "sliding-window":
    case "sliding-window-counter": {
      const burst = limit.algorithm === "gcra" ? (limit.burst ?? Math.max(1, limit.limit)) : limit.limit
      return { burst, perSecond: (limit.limit * 1000) / Duration.toMillis(limit.window) }
    }
    default:
      return { burst: limit.capacity, perSecond: limit.refillPerSecond }
  }
}

const mostOf = ({ maxLimit, minLimit = defaults.minLimit }: NonNullable<Profile["adaptiveLimit"]>): number =>
  maxLimit ?? Math.max(defaults.maxLimit, minLimit)

// What a dead upstream gets in the long run for each call, before a circuit opens.
const inOutage = ({ hedge, retry }: Profile, retries: number, hedges: number): WorstCase["inOutage"] => {
  const budget = retry?.budget
  const shared = (kind: string | undefined) => (kind ?? "share") === "share"
  const repeated =
    budget === undefined
      ? { perCall: retries, perSecond: 0 }
      : shared(budget.kind)
        ? {
            perCall: Math.min(retries, budget.share ?? defaults.retryShare),
            perSecond: retries === 0 ? 0 : (budget.minPerSecond ?? defaults.retryPerSecond)
          }
        : { perCall: 0, perSecond: 0 }
  const beside =
    hedge === undefined || !shared(hedge.budget?.kind)
      ? { perCall: 0, perSecond: 0 }
      : {
          perCall: Math.min(
            hedges,
            hedge.budget === undefined ? defaults.hedgeShare : (hedge.budget.share ?? defaults.retryShare)
          ),
          perSecond:
            hedge.budget === undefined
              ? defaults.hedgePerSecond
              : (hedge.budget.minPerSecond ?? defaults.retryPerSecond)
        }
  return {
    perCall: (1 + repeated.perCall) * (1 + beside.perCall),
    perSecond: repeated.perSecond * (1 + beside.perCall) + beside.perSecond
  }
}

const rulesOf = (breaker: NonNullable<Profile["circuitBreaker"]>) => [breaker, ...(breaker.or ?? [])]

type Rule = ReturnType<typeof rulesOf>[number]

const hasRate = ({ failureRate, slowCallRate }: Rule) => failureRate !== undefined || slowCallRate !== undefined
const countsFailures = (rule: Rule) => rule.failures !== undefined || !hasRate(rule)
const minimumOf = ({ minimumCalls, size, within }: Rule) =>
  minimumCalls ?? Math.min(defaults.minimumCalls, within === undefined ? (size ?? defaults.size) : Infinity)

// How many outcomes open the circuit when all are failures: `undefined` if it does not open by itself.
const outcomesToOpen = ({ circuitBreaker }: Profile): number | undefined => {
  if (circuitBreaker === undefined || !opensByItself(circuitBreaker)) return undefined
  const counts = rulesOf(circuitBreaker).flatMap((rule) => [
    ...(countsFailures(rule) ? [rule.failures ?? defaults.failures] : []),
    ...(rule.failureRate === undefined ? [] : [minimumOf(rule)])
  ])
  return counts.length === 0 ? undefined : Math.min(...counts)
}

const opensByItself = ({ failure, mode = "enabled" }: NonNullable<Profile["circuitBreaker"]>): boolean =>
  mode === "enabled" && !(failure !== undefined && matchesNothing(failure))

const untilOpen = (profile: Profile, requests: number): number | undefined => {
  const outcomes = outcomesToOpen(profile)
  return outcomes === undefined ? undefined : outcomes * requests
}

const whileOpen = ({ circuitBreaker }: Profile, requests: number): number => {
  if (circuitBreaker === undefined || !opensByItself(circuitBreaker)) return Infinity
  return (requests * (circuitBreaker.probes ?? defaults.probes) * 1000) / Math.min(...openTimes(circuitBreaker))
}

const openTimes = ({ openFor }: NonNullable<Profile["circuitBreaker"]>): ReadonlyArray<number> =>
  openFor === undefined
    ? [defaults.openFor]
    : Duration.isDuration(openFor)
      ? [millisOf(openFor)]
      : openFor.map((time) => millisOf(time))

const matchesNothing = ({ codes, reasons, statuses, tags, texts }: NonNullable<RetrySpec["while"]>): boolean =>
  [codes, reasons, statuses, tags, texts].every((list) => list === undefined || list.length === 0)

const stagesOf = (profile: Profile, numbers: Numbers): ReadonlyArray<Stage> => {
  const { adaptiveLimit, adaptiveThrottle, bulkhead, cache, circuitBreaker, hedge, rateLimiter, retry, timeout } =
    profile
  const isFacade = profile.order === "facade"
  const stage = (part: string, does: string): Stage => ({ part, does })

  const cached = () => {
    if (cache === undefined) return []
    const { failureTimeToLive, idleTimeToLive, jitter, refresh, staleIfError } = cache
    return [
      stage(
        "cache",
        list([
          `keeps ${cache.capacity ?? defaults.capacity} results for ${format(cache.timeToLive)}`,
          jitter !== undefined && jitter > 0 && `up to ${percent(jitter)} less`,
          failureTimeToLive !== undefined && `failures for ${format(failureTimeToLive)}`,
          idleTimeToLive !== undefined && `${format(idleTimeToLive)} without use`,
          refresh?.staleWhileRevalidate !== undefined &&
            `then stale for ${format(refresh.staleWhileRevalidate)} while refreshed`,
          refresh?.ahead !== undefined && `refreshes in the last ${percent(refresh.ahead)}`,
          staleIfError !== undefined && `stale for ${format(staleIfError)} in place of a failure`
        ])
      )
    ]
  }
  const ended = () =>
    profile.deadline === undefined ? [] : [stage("deadline", `${format(profile.deadline)} for everything`)]
  const queued = (queue: {
    readonly maxQueued?: number
    readonly maxWait?: Duration.Duration
    readonly priorities?: string
  }) => [
    `${queue.maxQueued ?? defaults.maxQueued} waiting`,
    queue.maxWait !== undefined && `for up to ${format(queue.maxWait)}`,
    queue.priorities !== undefined && queue.priorities !== "ignored" && `${queue.priorities} priorities`
  ]
  const admitted = () => [
    ...(bulkhead === undefined
      ? []
      : [stage("bulkhead", list([`${bulkhead.maxConcurrent} at a time`, ...queued(bulkhead)]))]),
    ...(adaptiveLimit === undefined
      ? []
      : [
          stage(
            "adaptive limit",
            list([
              `${adaptiveLimit.minLimit ?? defaults.minLimit} to ${mostOf(adaptiveLimit)} at a time`,
              `by ${adaptiveLimit.algorithm ?? "gradient2"}`,
              ...queued(adaptiveLimit)
            ])
          )
        ])
  ]
  const retried = () => {
    if (retry === undefined) return []
    const { first } = numbers.waits
    const shown = first.slice(0, 5).map((wait) => format(Duration.millis(wait)))
    const { jitter = retry.schedule === "fixed" ? "none" : "full", schedule } = retry
    return [
      stage(
        "retry",
        list([
          `${timesOf(retry)} times${shown.length === 0 ? "" : ` after ${shown.join(", ")}${first.length > 5 ? ", …" : ""}`}`,
          schedule !== "delays" && jitter !== "none" && `${jitter} jitter`,
          retry.while !== undefined && `for ${patternText(retry.while)}`,
          `waits for up to ${format(Duration.millis(millisOf(retry.maxRetryAfter, defaults.maxRetryAfter)))} if asked to`,
          retry.maxElapsed !== undefined && `begins within ${format(retry.maxElapsed)}`,
          retry.budget !== undefined && budgetText(retry.budget)
        ])
      )
    ]
  }
  const hedged = () => {
    if (hedge === undefined) return []
    return [
      stage(
        "hedge",
        list([
          `${numbers.hedges} more after ${format(hedge.delay)}`,
          hedge.percentile !== undefined && `then after the ${percent(hedge.percentile)} percentile`,
          hedge.while !== undefined && `for ${patternText(hedge.while)}`,
          hedge.budget === undefined ? "10 % of the calls and 1 a second" : budgetText(hedge.budget)
        ])
      )
    ]
  }
  const broken = () => {
    if (circuitBreaker === undefined) return []
    const {
      ignored,
      mode,
      failure,
      probes = defaults.probes,
      successesToClose = defaults.successesToClose
    } = circuitBreaker
    const times = openTimes(circuitBreaker).map((time) => format(Duration.millis(time)))
    return [
      stage(
        "circuit breaker",
        list([
          mode !== undefined && mode !== "enabled" && mode,
          `opens after ${rulesOf(circuitBreaker)
            .map((rule) => ruleText(rule, isFacade ? "calls" : "attempts"))
            .join(", or ")}`,
          circuitBreaker.slowAfter !== undefined && `slow is over ${format(circuitBreaker.slowAfter)}`,
          `for ${times.join(", ")}`,
          `${probes} ${probes === 1 ? "probe" : "probes"} at a time`,
          `closes after ${successesToClose} successes`,
          failure !== undefined && `failures are ${patternText(failure)}`,
          ignored !== undefined && `ignores ${patternText(ignored)}`
        ])
      )
    ]
  }
  const throttled = () =>
    adaptiveThrottle === undefined
      ? []
      : [
          stage(
            "adaptive throttle",
            list([
              `lets through ${adaptiveThrottle.ratio ?? defaults.ratio} times what is accepted`,
              `refuses at most ${percent(adaptiveThrottle.maxRefused ?? defaults.maxRefused)}`
            ])
          )
        ]
  const limited = () =>
    rateLimiter === undefined
      ? []
      : [
          stage(
            "rate limiter",
            list([
              `${round(numbers.rate.perSecond)} a second`,
              `${round(numbers.rate.burst)} at once`,
              `by ${rateLimiter.algorithm ?? "token-bucket"}`,
              `waits for up to ${format(Duration.millis(numbers.limiterWait))}`,
              `${rateLimiter.maxQueued ?? defaults.maxWaiting} waiting`
            ])
          )
        ]
  const timed = () => {
    if (timeout === undefined) return []
    const what = isFacade ? "for all attempts together" : "for each attempt"
    return [
      stage(
        "timeout",
        Duration.isDuration(timeout)
          ? `${format(timeout)} ${what}`
          : `${timeout.factor ?? 2} times the ${percent(timeout.percentile ?? 0.95)} percentile ${what}, at most ${format(timeout.ceiling)}`
      )
    ]
  }

  const inner = [...hedged(), ...(isFacade ? [] : broken()), ...throttled(), ...limited()]
  return isFacade
    ? [...cached(), ...ended(), ...broken(), ...admitted(), ...timed(), ...retried(), ...inner]
    : [...cached(), ...ended(), ...admitted(), ...retried(), ...inner, ...timed()]
}

const warningsOf = (profile: Profile, numbers: Numbers): ReadonlyArray<Warning> => {
  const { bulkhead, cache, circuitBreaker, hedge, rateLimiter, retry, timeout } = profile
  const { attemptLimit, attempts, deadline, hedgeDelay, hedged, limiterWait, rate, totalLimit, waits } = numbers
  const isFacade = profile.order === "facade"
  const found: Array<Warning> = []
  const warn = (field: string, problem: string) => found.push({ field, problem })
  const ms = (millis: number) => format(Duration.millis(millis))
  const limit = Math.min(attemptLimit, totalLimit)
  // The nearer of the two ends of a call.
  const end = Math.min(deadline, totalLimit)
  const endName = deadline <= totalLimit ? "deadline" : "timeout"

  if (timeout === undefined && deadline === Infinity) warn("timeout", "nothing bounds the time of a call")
  if (timeout !== undefined && deadline < limit) {
    warn("deadline", `of ${ms(deadline)} comes before the timeout of ${ms(limit)}, which never ends a call`)
  }

  if (retry !== undefined) {
    if (attempts === 1) warn("retry.times", "0 retries nothing")
    if (retry.while !== undefined && matchesNothing(retry.while))
      warn("retry.while", "matches no error: nothing is retried")
    const maxElapsed = millisOf(retry.maxElapsed, Infinity)
    if (attempts > 1 && waits.atLeast >= Math.min(end, maxElapsed)) {
      const field = maxElapsed <= end ? "retry.maxElapsed" : endName
      warn(field, `of ${ms(Math.min(end, maxElapsed))} is over before the first retry after ${ms(waits.atLeast)}`)
    } else if (attempts > 1 && waits.total >= Math.min(end, maxElapsed)) {
      const field = maxElapsed <= end ? "retry.maxElapsed" : endName
      warn(
        field,
        `of ${ms(Math.min(end, maxElapsed))} is too short for ${attempts - 1} retries: they wait for up to ${ms(waits.total)}`
      )
    } else if (attempts > 1 && hedged < Infinity && times(attempts, hedged) + waits.total > deadline) {
      const fitting = fittingAttempts(numbers)
      warn(
        "deadline",
        `of ${ms(deadline)} is too short for ${attempts} attempts: ${fitting} that take their full time fit`
      )
    }
    const { budget } = retry
    if (budget !== undefined && (budget.kind ?? "share") === "share") {
      const { minPerSecond = defaults.retryPerSecond, share = defaults.retryShare } = budget
      if (share === 0 && minPerSecond === 0) warn("retry.budget", "allows no retry at all")
      if (share >= attempts - 1) warn("retry.budget", `of ${share} retries a call is never spent by ${attempts - 1}`)
    }
    if (budget !== undefined && attempts === 1) warn("retry.budget", "is never used without retries")
  }

  if (circuitBreaker !== undefined) {
    const { failure, maxHalfOpen, mode = "enabled", slowAfter } = circuitBreaker
    if (mode !== "enabled") warn("circuitBreaker.mode", `"${mode}" never opens the circuit`)
    if (failure !== undefined && matchesNothing(failure)) {
      warn("circuitBreaker.failure", "matches no error: only defects open the circuit")
    }
    rulesOf(circuitBreaker).forEach((rule, index) => {
      const field = index === 0 ? "circuitBreaker" : `circuitBreaker.or[${index - 1}]`
      if (rule.within !== undefined) {
        const seconds = millisOf(rule.within) / 1000
        const inWindow = rate.perSecond === Infinity ? Infinity : rate.burst + rate.perSecond * seconds
        const minimum = hasRate(rule) ? minimumOf(rule) : 0
        if (minimum > inWindow) {
          warn(
            `${field}.minimumCalls`,
            `of ${minimum} are never made within ${format(rule.within)}: the rate limiter lets ${round(inWindow)} through`
          )
        }
        const failures = countsFailures(rule) ? (rule.failures ?? defaults.failures) : 0
        if (failures > inWindow) {
          warn(
            `${field}.failures`,
            `of ${failures} never happen within ${format(rule.within)}: the rate limiter lets ${round(inWindow)} through`
          )
        }
      }
      const inARow = rule.within === undefined && !hasRate(rule) ? (rule.failures ?? defaults.failures) : Infinity
      if (!isFacade && attempts > inARow) {
        warn(
          `${field}.failures`,
          `of ${inARow} are fewer than the ${attempts} attempts of a call: one call can open the circuit`
        )
      }
    })
    const longest = limit + (isFacade ? 0 : limiterWait)
    const slow = rulesOf(circuitBreaker).some(({ slowCallRate }) => slowCallRate !== undefined)
    if (slow && slowAfter !== undefined && millisOf(slowAfter) >= longest) {
      warn(
        "circuitBreaker.slowAfter",
        `of ${format(slowAfter)} is never exceeded: the timeout ends calls after ${ms(limit)}`
      )
    }
    if (maxHalfOpen !== undefined && limit < Infinity && millisOf(maxHalfOpen) < limit) {
      warn("circuitBreaker.maxHalfOpen", `of ${format(maxHalfOpen)} is over before a probe that takes its ${ms(limit)}`)
    }
  }

  if (cache !== undefined) {
    const stale = millisOf(cache.refresh?.staleWhileRevalidate, 0)
    if (cache.staleIfError !== undefined && millisOf(cache.staleIfError) <= stale) {
      warn(
        "cache.staleIfError",
        `of ${format(cache.staleIfError)} changes nothing: values are answered stale for ${ms(stale)} anyway`
      )
    }
    if (cache.refresh !== undefined && stale === 0 && (cache.refresh.ahead ?? 0) === 0) {
      warn("cache.refresh", "refreshes nothing without staleWhileRevalidate or ahead")
    }
    const idle = millisOf(cache.idleTimeToLive, Infinity)
    if (stale > 0 && idle <= millisOf(cache.timeToLive)) {
      warn(
        "cache.idleTimeToLive",
        `of ${ms(idle)} ends results before they can be stale, unless they are used in between`
      )
    }
    if (millisOf(cache.failureTimeToLive, 0) > millisOf(cache.timeToLive)) {
      warn("cache.failureTimeToLive", "keeps failures for longer than successes")
    }
  }

  const admission = bulkhead ?? profile.adaptiveLimit
  if (admission !== undefined && (admission.maxQueued ?? 0) > 0) {
    const field = bulkhead === undefined ? "adaptiveLimit" : "bulkhead"
    const maxWait = millisOf(admission.maxWait, Infinity)
    if (admission.maxWait !== undefined && maxWait >= deadline) {
      warn(`${field}.maxWait`, `of ${ms(maxWait)} is not over before the deadline of ${ms(deadline)}`)
    }
    if (Math.min(numbers.placeWait, deadline) === Infinity) {
      warn(`${field}.maxWait`, "nothing bounds the wait for a place")
    }
  } else if (admission?.maxWait !== undefined) {
    warn(
      `${bulkhead === undefined ? "adaptiveLimit" : "bulkhead"}.maxWait`,
      "means nothing without maxQueued: nobody waits"
    )
  }

  if (hedge !== undefined) {
    const latest = Math.min(limit + limiterWait, deadline)
    if (hedgeDelay < Infinity && hedgeDelay >= latest && hedge.percentile === undefined) {
      const what = deadline < limit + limiterWait ? "deadline" : "timeout"
      warn(
        "hedge.delay",
        `of ${ms(hedgeDelay)} is not over before the ${what} of ${ms(Math.min(limit, deadline))}: only failures start another attempt`
      )
    }
    if (hedge.while !== undefined && matchesNothing(hedge.while)) {
      warn("hedge.while", "matches no error: only slow attempts get another beside them")
    }
  }

  if (rateLimiter !== undefined) {
    if (rateLimiter.maxWait !== undefined && limiterWait >= deadline) {
      warn("rateLimiter.maxWait", `of ${ms(limiterWait)} is not over before the deadline of ${ms(deadline)}`)
    }
    if (limiterWait >= totalLimit) {
      warn(
        "rateLimiter.maxWait",
        `of ${ms(limiterWait)} is not over before the timeout of ${ms(totalLimit)}, which ends the wait`
      )
    }
  }
  return found
}

const fittingAttempts = ({ deadline, hedged, waits }: Numbers): number => {
  let left = deadline
  let fitting = 0
  while (left >= hedged) {
    fitting++
    left -= hedged + (waits.first[fitting - 1] ?? Infinity)
  }
  return fitting
}

const ruleText = (rule: Rule, what: string): string => {
  const { failureRate, failures = defaults.failures, size, slowCallRate, within } = rule
  const window =
    within !== undefined
      ? ` within ${format(within)}`
      : size !== undefined || hasRate(rule)
        ? ` of the last ${size ?? defaults.size}`
        : " in a row"
  const text = [
    countsFailures(rule) && `${failures} failed ${what}`,
    failureRate !== undefined && `${percent(failureRate)} failed ${what} of at least ${minimumOf(rule)}`,
    slowCallRate !== undefined && `${percent(slowCallRate)} slow ${what} of at least ${minimumOf(rule)}`
  ]
  return `${text.filter((part) => part !== false).join(" or ")}${window}`
}

const patternText = ({
  codes = [],
  except,
  reasons = [],
  statuses = [],
  tags = [],
  texts = []
}: NonNullable<RetrySpec["while"]>): string => {
  const all = [
    ...tags,
    ...reasons,
    ...statuses,
    ...codes,
    ...texts.map((text) => (typeof text === "string" ? `"${text}"` : `/${text.regExp}/${text.flags ?? "i"}`))
  ]
  const wanted = all.length === 0 ? "nothing" : all.join(" ")
  return except === undefined ? wanted : `${wanted} except ${patternText(except)}`
}

const budgetText = ({ kind = "share", maxTokens, minPerSecond, share }: NonNullable<RetrySpec["budget"]>): string =>
  kind === "share"
    ? `at most ${percent(share ?? defaults.retryShare)} of the calls and ${minPerSecond ?? defaults.retryPerSecond} a second`
    : `paid from ${maxTokens ?? (kind === "tokens" ? 10 : 500)} tokens`

const ceilingOf = (timeout: NonNullable<Profile["timeout"]>): Duration.Duration =>
  Duration.isDuration(timeout) ? timeout : timeout.ceiling

function millisOf(duration: Duration.Duration | undefined, otherwise = 0): number {
  return duration === undefined ? otherwise : Duration.toMillis(duration)
}

// Nothing is nothing, however long each of them would take.
const times = (count: number, each: number): number => (count === 0 ? 0 : count * each)

const list = (parts: ReadonlyArray<string | false>): string => parts.filter((part) => part !== false).join(", ")

const format = (duration: Duration.Duration): string => Duration.format(duration)

const until = (duration: Duration.Duration): string =>
  Duration.isFinite(duration) ? format(duration) : "as long as the call takes"

const most = (count: number): string => (count === Infinity ? "any number" : String(round(count)))

const percent = (share: number): string => `${round(share * 100)} %`

const round = (value: number): number => Number(value.toPrecision(3))
