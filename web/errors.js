// Shows what a node of this pack says went wrong. The page's own box, in the corner above, names only the node.

import { app } from '../../scripts/app.js'
import { nodeOf } from './graph.js'

const SECONDS = 15
const BELOW_THE_PAGES_OWN_BOX = '185px'

// By a node's id in a run, or its name where it has none: its one note.
const notes = new Map()
let count = 0

function show({ detail }) {
  const key = detail.id ?? detail.node
  hide(key)
  // A title comes with a workflow, which may be anybody's.
  const title = (nodeOf(detail.id)?.title || detail.node).replaceAll('<', '\u2039')
  const toast = app.extensionManager?.toast
  const id = `crossinit-${++count}`
  if (toast?.dismiss) {
    // Pages from 1.57 on, which find a place below their own box by themselves.
    toast.error(title, { id, description: detail.message, duration: SECONDS * 1000 })
    notes.set(key, { running: detail.running, hide: () => toast.dismiss(id) })
    return
  }
  const note = { id, severity: 'error', summary: title, detail: detail.message, life: SECONDS * 1000, styleClass: 'crossinit-error' }
  toast?.add(note)
  notes.set(key, { running: detail.running, hide: () => toast?.remove(note) })
  for (const wait of [0, 50, 200]) setTimeout(makeRoom, wait)
}

function makeRoom() {
  const [first] = document.querySelectorAll('.crossinit-error:first-child')
  if (first) first.style.marginTop = BELOW_THE_PAGES_OWN_BOX
}

function hide(key) {
  notes.get(key)?.hide()
  notes.delete(key)
}

function hideAll(running) {
  for (const [key, note] of notes) if (note.running === running) hide(key)
}

app.registerExtension({
  name: 'crossinit.errors',
  setup() {
    app.api.addEventListener('crossinit.error', show)
    // A graph that is queued is checked anew, before it runs: its objections come after the first of these events.
    app.api.addEventListener('crossinit.queued', () => hideAll(false))
    app.api.addEventListener('execution_start', () => hideAll(true))
  }
})
