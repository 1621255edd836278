// The line of text on each node of this pack. Pages from 1.57 on take all lines away when a run ends; they are put back, for
// they say what came of it. A line that says what went wrong goes when the node runs again, which the page does not see to.

import { app } from '../../scripts/app.js'
import { allNodes, nodeOf, replaceText, textOf } from './graph.js'

const ENDS = ['execution_success', 'execution_error', 'execution_interrupted']
const LOOKS = [0, 250, 1000] // Milliseconds after an end: the page may take its time.

// By node: { id, text } of the line that it is to have, and the text that it had when a run last went well.
const lines = new WeakMap()
const wentWell = new WeakMap()
// By a node's id in a run: what it says went wrong.
const wentWrong = new Map()

function remember({ detail }) {
  const node = nodeOf(detail.nodeId)
  if (detail.text && node?.type?.startsWith('CrossInit')) lines.set(node, { id: String(detail.nodeId), text: detail.text })
}

function putBack() {
  for (const node of allNodes()) {
    const line = lines.get(node)
    if (!line || textOf(node) !== undefined || wouldGrow(node)) continue
    app.api.dispatchCustomEvent('progress_text', { nodeId: line.id, text: line.text })
  }
}

// Where nodes are elements, these pages make one with a line and an output picture 232 px higher than it was: over its neighbours.
function wouldGrow(node) {
  return document.querySelector(`.lg-node[data-node-id="${node.id}"]`) && app.nodeOutputs?.[node.id]?.images?.length
}

function noteWhatWentWell() {
  const wrong = new Set(wentWrong.values())
  for (const node of allNodes()) {
    const line = lines.get(node)
    if (line && !wrong.has(line.text)) wentWell.set(node, line)
  }
}

function forget(id) {
  const message = wentWrong.get(String(id))
  if (message === undefined) return
  wentWrong.delete(String(id))
  const node = nodeOf(id)
  if (!node || lines.get(node)?.text !== message) return
  const before = wentWell.get(node)
  if (before) lines.set(node, before)
  else lines.delete(node)
  replaceText(node, before?.text)
}

app.registerExtension({
  name: 'crossinit.texts',
  setup() {
    app.api.addEventListener('progress_text', remember)
    app.api.addEventListener('crossinit.error', ({ detail }) => detail.id && wentWrong.set(String(detail.id), detail.message))
    app.api.addEventListener('execution_cached', ({ detail }) => detail.nodes.forEach(forget))
    app.api.addEventListener('executing', ({ detail }) => detail && forget(detail))
    app.api.addEventListener('execution_success', noteWhatWentWell)
    for (const end of ENDS) app.api.addEventListener(end, () => LOOKS.forEach((wait) => setTimeout(putBack, wait)))
  }
})
