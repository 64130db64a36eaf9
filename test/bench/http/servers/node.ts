/**
 * The least that could answer: parses the body and says that the user exists, on `node:http` alone.
 */
import { createServer } from "node:http"

const server = createServer((request, response) => {
  let text = ""
  request.on("data", (chunk: Buffer) => (text += chunk.toString()))
  request.on("end", () => {
    const { user_id } = JSON.parse(text) as { user_id: string }
    const body = JSON.stringify({ exists: true, message: `User '${user_id}' exists on Lichess` })
    response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) })
    response.end(body)
  })
})

server.keepAliveTimeout = 60_000
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }))
})
