// A node that was just put on the canvas shows its whole title and the names of files, and has room to write a prompt in.
// A node of a workflow's file gets its own size afterwards.

import { app } from '../../scripts/app.js'

const WIDTH = {
  CrossInitEncodePrompt: 400,
  CrossInitLearn: 340,
  CrossInitLoad: 360,
  CrossInitPrepareFace: 320,
  CrossInitPromptList: 440,
  CrossInitSave: 340
}
const HEIGHT = { CrossInitEncodePrompt: 240, CrossInitPromptList: 340 } // Of nodes with a box for prompts.

// What the page leaves for a title is the node without a title's height at either side.
function titleWidth(node) {
  const context = document.createElement('canvas').getContext('2d')
  context.font = node.titleFontStyle
  return Math.ceil(context.measureText(node.title).width) + 2 * LiteGraph.NODE_TITLE_HEIGHT + 10
}

app.registerExtension({
  name: 'crossinit.sizes',
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith('CrossInit')) return
    // In the page's Nodes 2.0 a node is at least as high as what it shows, which does not hold the advanced inputs that its
    // size was computed from. A classic node grows by itself.
    const own = LiteGraph.vueNodesMode ? 0 : node.size[1]
    node.setSize([
      Math.max(node.size[0], WIDTH[node.comfyClass] ?? 0, titleWidth(node)),
      Math.max(own, HEIGHT[node.comfyClass] ?? 0)
    ])
  }
})
