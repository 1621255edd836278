// Shows what a node of this pack says went wrong. The page's own box, in the corner above, names only the node.

import { app } from '../../scripts/app.js'

const SECONDS = 15
const BELOW_THE_PAGES_OWN_BOX = '185px'

function show({ detail }) {
  app.extensionManager?.toast?.add({
    severity: 'error',
    summary: detail.node,
    detail: detail.message,
    life: SECONDS * 1000,
    styleClass: 'crossinit-error'
  })
}

app.registerExtension({
  name: 'crossinit.errors',
  setup() {
    // Pages from 1.57 on find a place below by themselves, and know nothing of this class.
    const style = document.createElement('style')
    style.textContent = `.crossinit-error:first-child { margin-top: ${BELOW_THE_PAGES_OWN_BOX} }`
    document.head.append(style)
    app.api.addEventListener('crossinit.error', show)
  }
})
