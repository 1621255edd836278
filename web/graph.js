// Where things are in the page's graph. No extension by itself: the others here import it.

import { app } from '../../scripts/app.js'

const TEXT = '$$node-text-preview'

/** The node with the id that a run gives it: `5`, or `5:2` for node 2 in subgraph 5. */
export function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph
  let node = null
  for (const part of String(id).split(':')) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null
    graph = node?.subgraph
  }
  return node
}

/** All nodes, those in subgraphs too. */
export function* allNodes(graph = app.rootGraph ?? app.graph) {
  for (const node of graph?.nodes ?? []) {
    yield node
    if (node.subgraph) yield* allNodes(node.subgraph)
  }
}

/** The line of text on a node; `undefined` where there is none. */
export function textOf(node) {
  return textWidget(node)?.value
}

/** Put another line of text in the place of the one that is there, or none. */
export function replaceText(node, text) {
  const widget = textWidget(node)
  if (!widget) return
  if (text) widget.value = text
  else {
    widget.onRemove?.()
    node.widgets.splice(node.widgets.indexOf(widget), 1)
  }
  node.setDirtyCanvas?.(true, true)
}

function textWidget(node) {
  return node?.widgets?.find((widget) => widget.name === TEXT)
}
