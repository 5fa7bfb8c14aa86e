// node check.mjs MODULES: reads {"dashboards": {name: tree}, "traceql": [query]} from standard input and writes, in the same
// places, what is wrong with each. MODULES: the folder that has node_modules.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const modules = process.argv[2]
const require = createRequire(join(modules, 'package.json'))
const ts = require('typescript')
const { parser } = require('@grafana/lezer-traceql')
const types = readFileSync(fileURLToPath(new URL('grafana.ts', import.meta.url)), 'utf8')
const asked = JSON.parse(readFileSync(0, 'utf8'))

function dashboards(trees) {
  const texts = new Map([[join(modules, 'grafana.ts'), types]])
  const names = new Map()
  for (const [name, tree] of Object.entries(trees)) {
    const path = join(modules, `${name}.ts`)
    texts.set(path, `import type { Dashboard } from './grafana'\nexport const shown: Dashboard = ${JSON.stringify(tree, null, 1)}\n`)
    names.set(path, name)
  }
  const options = {
    strict: true, noEmit: true, skipLibCheck: true, types: [],
    target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler,
  }
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (path) => texts.has(path) || fileExists(path)
  host.readFile = (path) => texts.get(path) ?? readFile(path)
  host.getSourceFile = (path, ...more) =>
    texts.has(path) ? ts.createSourceFile(path, texts.get(path), options.target) : getSourceFile(path, ...more)
  const program = ts.createProgram([...texts.keys()], options, host)
  const wrong = Object.fromEntries(Object.keys(trees).map((name) => [name, []]))
  for (const each of ts.getPreEmitDiagnostics(program)) {
    const text = ts.flattenDiagnosticMessageText(each.messageText, '\n')
    const name = names.get(each.file?.fileName)
    if (name === undefined) throw new Error(`${each.file?.fileName}: ${text}`)
    wrong[name].push(`line ${each.file.getLineAndCharacterOfPosition(each.start).line}: ${text}`)
  }
  return wrong
}

function traceql(query) {
  const wrong = []
  parser.parse(query).iterate({ enter: (node) => { if (node.type.isError) wrong.push(`at ${node.from}`) } })
  return wrong
}

process.stdout.write(JSON.stringify({ dashboards: dashboards(asked.dashboards), traceql: asked.traceql.map(traceql) }))
