/**
 * The story the demo tells, act by act, through the public API of the service.
 *
 * It prints what a user of the API sees, and checks every claim it makes on the way.
 */
import { Clock, Duration, Effect, Match, Ref, Stream } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import * as Api from "../Api.ts"
import { ApiError } from "effect-resilience/http"
import type { Platform } from "../domain/Platform.ts"
import * as Findings from "./Findings.ts"
import * as Screen from "./Screen.ts"
import { circuitOpenFor, Stage } from "./Stage.ts"

/** The whole story. Succeeds with whether every claim held. */
export const story = Effect.gen(function* () {
  const screen = yield* Screen.Screen
  const stage = yield* Stage
  yield* screen.heading("The stage")
  yield* screen.line(`  Lichess stand-in    ${stage.lichessBaseUrl}`)
  yield* screen.line(`  Chess.com stand-in  ${stage.chessComBaseUrl}`)
  yield* screen.line(`  The chess service   ${stage.serviceUrl}   (API page: ${stage.serviceUrl}/docs)`)
  yield* screen.line(`  Its database        ${stage.database}`)

  yield* validateUsers
  yield* validateCrowd
  yield* importGames
  yield* outage
  return yield* account
})

const client = Effect.flatMap(Stage, (stage) => Api.client(stage.serviceUrl))

const validateUsers = Effect.gen(function* () {
  const screen = yield* Screen.Screen
  const { simulator } = yield* Stage
  yield* screen.heading("1  Does this user exist?")
  const questions: ReadonlyArray<readonly [user: string, platform: Platform, note: string]> = [
    ["Petra-Quint", "lichess", "asked upstream"],
    ["petra-quint", "lichess", "cached, whatever the case"],
    ["Petra-Quint", "chess.com", "asked upstream"],
    ["Petra-Quint", "chess.com", "cached"],
    ["ghost-writer", "lichess", "unknown"],
    ["ghost-writer", "chess.com", "unknown"],
    ["ghost-writer", "lichess", "an unknown user is cached too"],
    ["Old-Hobart", "lichess", "closed account"],
    ["Old-Hobart", "chess.com", "closed account"]
  ]
  const before = yield* simulator.requests
  const answers = yield* Effect.forEach(questions, ([user, platform]) => validate(user, platform))
  const after = yield* simulator.requests
  const impossible = yield* refuseImpossible
  yield* screen.table([
    ["status", "answer", "time", ""],
    ...answers.map(({ millis, status, text }, index) => [
      String(status),
      text,
      `${millis.toFixed(0)} ms`,
      questions[index]?.[2] ?? ""
    ]),
    [String(impossible.status), impossible.text, "", "an impossible name"]
  ])
  const asked = after.lichess.total - before.lichess.total + (after.chessCom.total - before.chessCom.total)
  const exists = answers.map((answer) => answer.exists)
  yield* Findings.check(
    "Existing, unknown, closed and impossible users are told apart on both sites",
    String(exists) === String([true, true, true, true, false, false, false, true, true]) && impossible.status === 400,
    `${answers.length} answers, the impossible name refused with ${impossible.status}`
  )
  yield* Findings.check("Repeated questions are answered from the cache", asked === 6, `${asked} upstream requests`)
})

const validateCrowd = Effect.gen(function* () {
  const screen = yield* Screen.Screen
  const { simulator } = yield* Stage
  yield* screen.heading("2  Five hundred questions at once, twice")
  const requests = Effect.map(simulator.requests, ({ lichess }) => lichess.byEndpoint.users)
  const ask = Effect.fnUntraced(function* (what: string, name: (index: number) => string, most: number) {
    const before = yield* requests
    const started = yield* Clock.currentTimeMillis
    const answers = yield* Effect.forEach(
      Array.from({ length: 500 }, (_, index) => name(index)),
      (user) => validate(user, "lichess"),
      { concurrency: "unbounded" }
    )
    const millis = (yield* Clock.currentTimeMillis) - started
    const sent = (yield* requests) - before
    const good = answers.filter((answer) => answer.exists === true).length
    yield* screen.line(
      `  500 ${what.padEnd(15)} ${good} answered in ${millis} ms with ${sent} upstream request${sent === 1 ? "" : "s"}`
    )
    yield* Findings.check(
      `500 ${what} look-ups at once need at most ${most} upstream request${most === 1 ? "" : "s"}`,
      good === 500 && sent <= most,
      `${sent} sent, ${good} answers`
    )
  })
  yield* ask("identical", () => "Gustav-Imre", 1)
  yield* ask("different", (index) => `crowd${index}x`, 5)
})

const importGames = Effect.gen(function* () {
  const screen = yield* Screen.Screen
  const { simulator } = yield* Stage
  const api = yield* client
  yield* screen.heading("3  Three imports at once, two slots")
  const wanted: ReadonlyArray<readonly [user: string, platform: Platform]> = [
    ["petra-quint", "lichess"],
    ["mirja-sool", "chess.com"],
    ["anton-belk", "lichess"]
  ]
  const limit = 1_000
  const progress = yield* Ref.make<ReadonlyArray<Api.ImportProgress>>([])
  const draw = Effect.flatMap(Ref.get(progress), (all) => screen.live(all.map(progressLine)))
  const begun = yield* Effect.forEach(wanted, ([user_id, platform]) =>
    api.imports.start({ payload: { user_id, platform, limit } })
  )
  yield* Ref.set(progress, begun)
  yield* draw
  const follow = (index: number, user: string, platform: Platform) =>
    Effect.flatMap(api.imports.events({ params: { user, platform } }), (events) =>
      Stream.runForEach(events, (event) =>
        Effect.andThen(
          Ref.update(progress, (all) => all.map((each, at) => (at === index ? event : each))),
          draw
        )
      )
    )
  yield* Effect.forEach(wanted, ([user, platform], index) => follow(index, user, platform), {
    concurrency: "unbounded"
  })
  const ended = yield* Ref.get(progress)
  yield* screen.live(ended.map(progressLine), { settled: true })

  const statuses = begun.map((each) => each.queue_position === null)
  yield* Findings.check(
    "Two imports run, the third waits in the queue",
    String(statuses) === String([true, true, false]),
    begun.map((each) => each.message).join(" · ")
  )
  const stored = yield* Effect.forEach(wanted, ([user, platform]) =>
    api.games.page({ params: { user, platform }, query: { limit: 3 } })
  )
  const upstream = yield* Effect.forEach(wanted, ([user, platform]) =>
    Effect.map(simulator.games(user, platform), (games) => games.length)
  )
  yield* Findings.check(
    "Every game of the sites is stored once",
    ended.every((each) => each.status === "complete") &&
      stored.every(({ total }, index) => total + (ended[index]?.skipped ?? 0) === upstream[index]),
    stored.map(({ total }, index) => `${total} of ${upstream[index]}`).join(", ")
  )
  yield* screen.line()
  yield* screen.line("  The newest games of petra-quint:")
  yield* screen.table([
    ["played", "white", "black", "result", "opening"],
    ...(stored[0]?.games ?? []).map((game) => [
      game.played_at.slice(0, 16).replace("T", " "),
      game.white.name ?? "?",
      game.black.name ?? "?",
      game.result,
      game.opening ?? ""
    ])
  ])
  const { lichess } = yield* simulator.requests
  yield* Findings.check(
    "Lichess never sees more than two exports at once",
    lichess.exports.max <= 2,
    `${lichess.exports.max} at most`
  )
})

interface Moment {
  readonly atMillis: number
  readonly millis: number
  readonly status: number
  readonly circuit: string
}

const outage = Effect.gen(function* () {
  const screen = yield* Screen.Screen
  const { simulator } = yield* Stage
  const api = yield* client
  const outageMillis = 6_000
  const openMillis = Duration.toMillis(circuitOpenFor)
  yield* screen.heading(`4  Lichess answers 503 for ${outageMillis / 1_000} seconds`)
  const started = yield* Clock.currentTimeMillis
  const elapsed = Effect.map(Clock.currentTimeMillis, (now) => now - started)
  const circuit = Effect.map(api.users.stats(), ({ stats }) => stats.lichess_circuit)
  yield* simulator.lichess.inject({ kind: "unavailable", for: `${outageMillis} millis` })
  const failedBefore = yield* failures

  const moments: Array<Moment> = []
  const askOne = Effect.fnUntraced(function* (user: string) {
    const atMillis = yield* elapsed
    const answer = yield* validate(user, "lichess")
    const moment = { atMillis, millis: answer.millis, status: answer.status, circuit: yield* circuit }
    moments.push(moment)
    return moment
  })
  const show = (moment: Moment) =>
    screen.line(
      `  ${(moment.atMillis / 1_000).toFixed(1).padStart(5)} s  ${moment.status}  ` +
        `${`${moment.millis.toFixed(0)} ms`.padStart(8)}   circuit ${moment.circuit}`
    )

  const cached = yield* validate("Petra-Quint", "lichess")
  const other = yield* validate("Mirja-Sool", "chess.com")
  yield* screen.line(`         ${cached.status}  ${`${cached.millis.toFixed(0)} ms`.padStart(8)}   a cached user`)
  yield* screen.line(
    `         ${other.status}  ${`${other.millis.toFixed(0)} ms`.padStart(8)}   a user of the other site`
  )
  // One caller after the other, 50 ms apart, until the circuit has closed.
  let shown = ""
  let asked = 0
  const until = outageMillis + 3 * openMillis
  while ((yield* elapsed) < until) {
    const moment = yield* askOne(`outage${asked++}x`)
    const state = moment.circuit.replace(/\d+ s/, "")
    if (state !== shown || moment.status === 200) yield* show(moment)
    shown = state
    if (moment.status === 200 && state.startsWith("closed")) break
    yield* Effect.sleep("50 millis")
  }

  const open = moments.filter((moment) => moment.status === 503 && moment.circuit.startsWith("open"))
  const refused = open.slice(1).map((moment) => moment.millis)
  const median = refused.toSorted((a, b) => a - b)[Math.floor(refused.length / 2)] ?? Number.NaN
  const last = moments.at(-1)
  const failed = (yield* failures) - failedBefore
  yield* screen.line()
  yield* screen.line(
    `  ${moments.length} questions were asked; ${refused.length} were refused by the open circuit, ` +
      `half of them within ${median.toFixed(0)} ms; ${failed} reached the broken site`
  )
  yield* Findings.check(
    "The circuit opens, and answers stay fast while it is open",
    refused.length > 5 && median < 100,
    `${refused.length} refusals, median ${median.toFixed(0)} ms`
  )
  yield* Findings.check(
    "Cached users and the other site are answered during the outage",
    cached.exists === true && other.exists === true,
    `${cached.status} and ${other.status}`
  )
  yield* Findings.check(
    "The circuit closes again by itself, within one probe interval of the site's return",
    last?.status === 200 && last.circuit.startsWith("closed") && last.atMillis < outageMillis + openMillis + 1_000,
    `closed ${(((last?.atMillis ?? Number.NaN) - outageMillis) / 1_000).toFixed(1)} s after the outage`
  )
})

const account = Effect.gen(function* () {
  const screen = yield* Screen.Screen
  const { simulator } = yield* Stage
  const api = yield* client
  const findings = yield* Effect.flatMap(Findings.Findings, (all) => all.all)
  const { stats } = yield* api.users.stats()
  const requests = yield* simulator.requests
  yield* screen.heading("What happened")
  yield* screen.line(
    `  The sites were asked ${requests.lichess.total} and ${requests.chessCom.total} times; ` +
      `${Math.round((stats.cache_hit_rate ?? 0) * 100)} % of the look-ups needed no request of their own.`
  )
  for (const { claim, held, seen } of findings) yield* screen.line(`  ${held ? "✓" : "✗"} ${claim} (${seen})`)
  const held = findings.every((finding) => finding.held)
  yield* screen.line()
  yield* screen.line(held ? "  Everything happened as it says." : "  Something did not happen as it says.")
  return held
})

const failures = Effect.flatMap(Stage, ({ simulator }) =>
  Effect.map(simulator.requests, ({ lichess }) => lichess.byStatus[503] ?? 0)
)

interface Answer {
  readonly exists: boolean | undefined
  readonly status: number
  readonly text: string
  readonly millis: number
}

const validate = Effect.fnUntraced(function* (user: string, platform: Platform) {
  const api = yield* client
  const started = yield* Clock.monotonicTimeNanos
  const answer = yield* api.users.validate({ payload: { user_id: user, platform } }).pipe(
    Effect.map(({ exists, message }) => ({ exists, status: 200, text: message })),
    Effect.catchTags({
      Unavailable: ({ error }) => Effect.succeed({ exists: undefined, status: 503, text: error }),
      GatewayTimeout: ({ error }) => Effect.succeed({ exists: undefined, status: 504, text: error })
    })
  )
  const millis = Number((yield* Clock.monotonicTimeNanos) - started) / 1e6
  return { ...answer, millis } satisfies Answer
})

// Without the typed client, which would refuse the name before it is sent.
const refuseImpossible = Effect.gen(function* () {
  const { serviceUrl } = yield* Stage
  const response = yield* HttpClientRequest.post(`${serviceUrl}/api/v1/validate-user`).pipe(
    HttpClientRequest.bodyJsonUnsafe({ user_id: "not a name!", platform: "lichess" }),
    HttpClient.execute
  )
  const body = yield* HttpClientResponse.schemaBodyJson(ApiError.Body)(response)
  return { status: response.status, text: body.error }
})

const progressLine = (progress: Api.ImportProgress): string => {
  const name = `${progress.user_id} on ${progress.platform}`.padEnd(24)
  const state = Match.value(progress).pipe(
    Match.when({ status: "queued" }, ({ estimated_wait_seconds, message, queue_position }) => {
      const wait = estimated_wait_seconds === null ? "" : `, about ${Math.ceil(estimated_wait_seconds)} s`
      return `${message} (place ${queue_position}${wait})`
    }),
    Match.orElse(({ message }) => message)
  )
  return `${name} ${Screen.bar(progress.imported, expected(progress))} ${String(progress.imported).padStart(5)}  ${state}`
}

// Nobody knows beforehand how many games there are: until the end, the limit stands for it.
const expected = (progress: Api.ImportProgress): number =>
  progress.status === "complete" ? progress.imported : progress.limit
