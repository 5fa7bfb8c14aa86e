import express from 'express'

const port = Number(process.env.PORT ?? 3000)
const host = process.env.HOST ?? '127.0.0.1'
const app = express()

const page = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Drape example: Express</title>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <h1 id="title">Drape example: Express</h1>
    <p>The server's time, as JSON: <a href="/api/time">/api/time</a></p>
  </body>
</html>
`

app.get('/', (_request, response) => {
  response.type('html').send(page)
})

app.get('/api/time', (_request, response) => {
  response.json({ now: new Date().toISOString() })
})

// Express 5 hands listen errors to this callback; without the exit a taken port would look like a clean end.
app.listen(port, host, (error) => {
  if (error) {
    console.error(`cannot listen on port ${port}: ${error.message}`)
    process.exit(1)
  }
  console.log(`listening on http://localhost:${port}`)
})
