// Shows what a node of this pack says went wrong. The page's own box, in the corner above, names only the node.

import { app } from '../../scripts/app.js'
import { allNodes, nodeOf, replaceText, textOf } from './graph.js'

const SECONDS = 15
const BELOW_THE_PAGES_OWN_BOX = '185px'

// What nodes said when a run last went well, and, by the ids of nodes, what they say went wrong.
const wentWell = new WeakMap()
const wentWrong = new Map()

function show({ detail }) {
  if (detail.id) wentWrong.set(String(detail.id), detail.message)
  app.extensionManager?.toast?.add({
    severity: 'error',
    summary: detail.node,
    detail: detail.message,
    life: SECONDS * 1000,
    styleClass: 'crossinit-error'
  })
}

// The page keeps a node's text until the node writes another one, which it does not where its result was there already.
function forget(id) {
  const message = wentWrong.get(String(id))
  if (message === undefined) return
  wentWrong.delete(String(id))
  const node = nodeOf(id)
  if (node && textOf(node) === message) replaceText(node, wentWell.get(node))
}

app.registerExtension({
  name: 'crossinit.errors',
  setup() {
    const style = document.createElement('style')
    style.textContent = `.crossinit-error:first-child { margin-top: ${BELOW_THE_PAGES_OWN_BOX} }`
    document.head.append(style)
    app.api.addEventListener('crossinit.error', show)
    app.api.addEventListener('execution_cached', ({ detail }) => detail.nodes.forEach(forget))
    app.api.addEventListener('executing', ({ detail }) => detail && forget(detail))
    app.api.addEventListener('execution_success', () => {
      const wrong = new Set(wentWrong.values())
      for (const node of allNodes()) {
        const text = node.type?.startsWith('CrossInit') && textOf(node)
        if (text && !wrong.has(text)) wentWell.set(node, text)
      }
    })
  }
})
