// The line of text on each node of this pack. The server sends it as JSON; the page draws it as it draws its own lines.
//
// Pages from 1.57 on take all lines away when a run ends, and every page when Ctrl+Z or a file makes the graph anew. They are
// put back, for they say what came of the last run. A line that tells of an error goes when its node runs again, or did not
// need to.

import { app } from '../../scripts/app.js'
import { graphNames, nodeOf, ourNodes, removeText, textOf } from './graph.js'

const ENDS = ['execution_success', 'execution_error', 'execution_interrupted']
const LOOKS = [0, 250, 1000] // Milliseconds after an end, or after the graph was made: the page may take its time.

const MOST = 400

// By graph, id in the run and type: { text, wrong }. The oldest come first.
const lines = new Map(stored())
// By id in the run: what the server says that a node last said with the inputs that were queued.
let known = {}

function stored() {
  try {
    return JSON.parse(localStorage.getItem('crossinit.lines') ?? '[]')
  } catch {
    return []
  }
}

function store() {
  const kept = [...lines].filter(([, line]) => !line.wrong).slice(-MOST)
  try {
    localStorage.setItem('crossinit.lines', JSON.stringify(kept))
  } catch (error) {
    console.warn('CrossInit: the lines of the nodes could not be stored.', error)
  }
}

const keysOf = (id, node) => graphNames().map((graph) => `${graph}/${id}/${node.type}`)

function lineOf(id, node) {
  for (const key of keysOf(id, node)) if (lines.has(key)) return lines.get(key)
}

function keep(id, node, line) {
  for (const key of keysOf(id, node)) {
    lines.delete(key)
    if (line) lines.set(key, line)
  }
}

// The server sends no `<`. This is for what lay in the browser's storage: older pages draw a line as HTML.
function draw(id, text) {
  app.api.dispatchCustomEvent('progress_text', { nodeId: String(id), text: String(text).replaceAll('<', '\u2039') })
}

function say({ detail }) {
  const node = nodeOf(detail.node)
  // The user may look at another graph by now.
  if (node?.type !== detail.type || !detail.text) return
  keep(detail.node, node, { text: detail.text, wrong: detail.wrong })
  draw(detail.node, detail.text)
}

function putBack() {
  for (const [id, node] of ourNodes()) {
    const line = lineOf(id, node)
    if (line && textOf(node) === undefined && !wouldGrow(node)) draw(id, line.text)
  }
}

// Where nodes are elements, these pages make one with a line and an output picture 232 px higher than it was: over its neighbours.
function wouldGrow(node) {
  return document.querySelector(`.lg-node[data-node-id="${node.id}"]`) && app.nodeOutputs?.[node.id]?.images?.length
}

function runs(id) {
  const node = nodeOf(id)
  if (!node || !lineOf(id, node)?.wrong) return
  keep(id, node)
  removeText(node)
}

// ComfyUI still has the result of this node, so it does not run: its line is that of the run that the result is of.
function isCached(id) {
  runs(id)
  const node = nodeOf(id)
  if (!known[id] || !node?.type?.startsWith('CrossInit')) return
  keep(id, node, { text: known[id], wrong: false })
  if (textOf(node) !== known[id] && !(textOf(node) === undefined && wouldGrow(node))) draw(id, known[id])
}

const look = () => LOOKS.forEach((wait) => setTimeout(putBack, wait))

app.registerExtension({
  name: 'crossinit.texts',
  setup() {
    app.api.addEventListener('crossinit.text', say)
    app.api.addEventListener('crossinit.queued', ({ detail }) => (known = detail.lines))
    app.api.addEventListener('execution_cached', ({ detail }) => detail.nodes.forEach(isCached))
    app.api.addEventListener('executing', ({ detail }) => detail && runs(detail))
    for (const end of ENDS) {
      app.api.addEventListener(end, () => {
        store()
        look()
      })
    }
  },
  afterConfigureGraph: look
})
