import { Effect, Stream } from "effect"
import { HttpClientRequest } from "effect/http"
import type { HttpClient, HttpClientError, HttpClientResponse } from "effect/http"

/** Asks a stand-in as a well-behaved client does; the headers given replace its own. */
export const get = <R = never>(
  client: HttpClient.HttpClient.With<HttpClientError.HttpClientError, R>,
  url: string,
  headers: Readonly<Record<string, string>> = {}
): Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError, R> =>
  client.execute(
    HttpClientRequest.get(url).pipe(
      HttpClientRequest.setHeaders({ "user-agent": "test/1.0 (contact: test@example.invalid)", ...headers })
    )
  )

export const lichess = "http://lichess.test"
export const chessCom = "http://chess.test/pub"

/** The headers that make an export NDJSON. */
export const ndjson = { accept: "application/x-ndjson" }

/** Starts an export; the query begins with "?". */
export const exportGames = <R = never>(
  client: HttpClient.HttpClient.With<HttpClientError.HttpClientError, R>,
  user: string,
  query = "",
  base = lichess
): Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError, R> =>
  get(client, `${base}/api/games/user/${user}${query}`, ndjson)

/** Posts ids to the batch look-up. */
export const postUsers = (client: HttpClient.HttpClient, ids: string, accept = "application/json") =>
  client.execute(
    HttpClientRequest.post(`${lichess}/api/users`).pipe(
      HttpClientRequest.setHeaders({ "user-agent": "test/1.0", accept }),
      HttpClientRequest.bodyText(ids)
    )
  )

/** The lines of a body that has come to its end. */
export const lines = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.map(response.text, (text) => text.split("\n").filter((line) => line !== ""))

/** The objects of an NDJSON body. */
export const games = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.map(lines(response), (all) => all.map((line) => JSON.parse(line) as LichessGame))

/** What the tests read of a game of Lichess. */
export interface LichessGame {
  readonly id: string
  readonly createdAt: number
  readonly rated: boolean
  readonly variant: string
  readonly status: string
  readonly winner?: string
  readonly moves?: string
  readonly clocks?: ReadonlyArray<number>
  readonly pgn?: string
  readonly players: Readonly<Record<"white" | "black", { readonly user?: { readonly id: string } }>>
}

/** A month of Chess.com. */
export interface ChessComMonth {
  readonly games: ReadonlyArray<{ readonly uuid?: string; readonly pgn?: string; readonly end_time: number }>
}

/** The JSON of a body, as what the test says it is. */
export const jsonAs = <A>(response: HttpClientResponse.HttpClientResponse) =>
  Effect.map(response.text, (text) => JSON.parse(text) as A)

/** The chunks of a body until it ends or fails. */
export const chunksUntilFailure = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.gen(function* () {
    const chunks: Array<Uint8Array> = []
    const exit = yield* Effect.exit(
      Stream.runForEach(response.stream, (chunk) => Effect.sync(() => chunks.push(chunk)))
    )
    return { chunks, text: new TextDecoder().decode(Buffer.concat(chunks)), exit }
  })
