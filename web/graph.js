// Where things are in the page's graph. No extension by itself: the others here import it.

import { app } from '../../scripts/app.js'

const TEXT = '$$node-text-preview'

const root = () => app.rootGraph ?? app.graph

/** The node with the id that a run gives it: `5`, or `5:2` for node 2 in subgraph 5. */
export function nodeOf(id) {
  let graph = root()
  let node = null
  for (const part of String(id).split(':')) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null
    graph = node?.subgraph
  }
  return node
}

/** The nodes of this pack, those in subgraphs too, each with the id that a run gives it. */
export function* ourNodes(graph = root(), path = '') {
  for (const node of graph?.nodes ?? []) {
    if (node.type?.startsWith('CrossInit')) yield [`${path}${node.id}`, node]
    if (node.subgraph) yield* ourNodes(node.subgraph, `${path}${node.id}:`)
  }
}

/** Names the graph: by its own id, and by its nodes, for a file may have no id. */
export function graphNames() {
  const graph = root()
  const nodes = (graph?.nodes ?? []).map((node) => `${node.id}:${node.type}`)
  return [graph?.id, nodes.toSorted().join()].filter(Boolean)
}

/** The line of text on a node; `undefined` where there is none. */
export function textOf(node) {
  return textWidget(node)?.value
}

/** Takes the line of text off a node. */
export function removeText(node) {
  const widget = textWidget(node)
  if (!widget) return
  widget.onRemove?.()
  node.widgets.splice(node.widgets.indexOf(widget), 1)
  node.setDirtyCanvas?.(true, true)
}

function textWidget(node) {
  return node?.widgets?.find((widget) => widget.name === TEXT)
}
