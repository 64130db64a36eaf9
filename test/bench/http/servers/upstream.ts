/**
 * Stands in for both sites: answers what the services ask after `delay` milliseconds, without any limit.
 *
 * `POST /control` with `{"broken": true}` makes it answer 503 from then on, at once.
 */
import { createServer } from "node:http"

const delay = Number(process.argv[2] ?? 5)
let broken = false
let requests = 0

const server = createServer((request, response) => {
  let body = ""
  request.on("data", (chunk: Buffer) => (body += chunk.toString()))
  request.on("end", () => {
    const answer = (status: number, value: unknown) => {
      response.writeHead(status, { "content-type": "application/json" })
      response.end(JSON.stringify(value))
    }
    const { url = "" } = request
    if (url === "/control") {
      broken = (JSON.parse(body) as { broken: boolean }).broken
      const counted = requests
      requests = 0
      return answer(200, { requests: counted })
    }
    requests++
    if (broken) return answer(503, {})
    setTimeout(() => {
      if (url === "/api/users") {
        return answer(
          200,
          body.split(",").map((name) => ({ id: name.toLowerCase(), username: name }))
        )
      }
      answer(200, { username: url.slice(url.lastIndexOf("/") + 1), status: "basic" })
    }, delay)
  })
})

server.keepAliveTimeout = 60_000
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }))
})
