import { useState } from 'react'
import './App.css'

function App() {
  const [count, setCount] = useState(0)

  return (
    <main>
      <h1 id="title">Drape example: Vite and React</h1>
      <p>
        Edit <code>src/App.tsx</code> and save: the page changes, the count stays.
      </p>
      <button id="counter" type="button" onClick={() => setCount((count) => count + 1)}>
        Count is {count}
      </button>
    </main>
  )
}

export default App
