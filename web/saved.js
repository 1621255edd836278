// A face that was just saved is offered at once by Load Learned Token, and is no missing model in a workflow that names it.

import { app } from '../../scripts/app.js'
import { nodeOf } from './graph.js'

function offered() {
  const spec = LiteGraph.registered_node_types.CrossInitLoad?.nodeData?.input?.required?.file
  return (Array.isArray(spec?.[0]) ? spec[0] : spec?.[1]?.options) ?? []
}

app.registerExtension({
  name: 'crossinit.saved',
  setup() {
    app.api.addEventListener('executed', ({ detail }) => {
      const file = detail.output?.file?.[0]
      if (!file || nodeOf(detail.node)?.type !== 'CrossInitSave' || offered().includes(file)) return
      // What the key R does; older pages know it only with a note that they did.
      const refresh = app.reloadNodeDefs ?? app.refreshComboInNodes
      refresh?.call(app)?.catch((error) => console.warn('CrossInit: the lists of files are as they were.', error))
    })
  }
})
