// Shows what a node of this pack says went wrong. The page's own box names only the node.

import { app } from '../../scripts/app.js'

const SECONDS = 12

app.registerExtension({
  name: 'crossinit.errors',
  setup() {
    app.api.addEventListener('crossinit.error', ({ detail }) => {
      app.extensionManager?.toast?.add({
        severity: 'error',
        summary: detail.node,
        detail: detail.message,
        life: SECONDS * 1000
      })
    })
  }
})
