import { Counter } from './counter'

export default function Home() {
  return (
    <main>
      <h1 id="title">Drape example: Next.js</h1>
      <p>
        Edit <code>app/page.tsx</code> and save. The server&apos;s time, as JSON: <a href="/api/time">/api/time</a>
      </p>
      <Counter />
    </main>
  )
}
