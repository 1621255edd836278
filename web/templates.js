// The page lists the templates of a pack as the server's folder happens to have them. Those of this pack stand in the order of
// their numbers, so that 01 comes first.

import { app } from '../../scripts/app.js'

// The folder that the pack is installed in: the page calls its templates so, and its scripts lie below it.
const pack = decodeURIComponent(new URL(import.meta.url).pathname.split('/extensions/').at(-1).split('/')[0])

app.registerExtension({
  name: 'crossinit.templates',
  init() {
    const ask = app.api.getWorkflowTemplates
    if (!ask) return
    app.api.getWorkflowTemplates = async function (...options) {
      const templates = await ask.apply(this, options)
      if (Array.isArray(templates?.[pack])) templates[pack].sort()
      return templates
    }
  }
})
