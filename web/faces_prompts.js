// The prompt box that has, or last had, the cursor, and how a text comes into it.

import { app } from '../../scripts/app.js'

const PANEL = '.crossinit-faces'

let last = null
let dragged = ''

/** From now on the page's prompt boxes are watched, and take a text that is dragged from the panel. */
export function followPrompts() {
  document.addEventListener('focusin', ({ target }) => {
    if (isBox(target)) last = { box: target, ...placeOf(target) }
  })
  // Before the page's own listeners, which take what is dropped on a node for a file.
  for (const type of ['dragenter', 'dragover', 'drop']) document.addEventListener(type, onDrag, true)
}

/** What is dragged from the panel, until it is dropped; an empty text for nothing. */
export function drag(text) {
  dragged = text
}

/** Puts a text at the cursor of the prompt box; returns the title of its node, or null if there is no box that is meant. */
export function insert(text) {
  const box = boxMeant()
  if (!box) return null
  put(box, text, box.selectionStart, box.selectionEnd)
  return titleOf(box)
}

/** A text with the spaces that it needs between what is before and after it: `embedding:` counts only after a space. */
export function spaced(before, text, after) {
  const left = !before || /\s$/.test(before) || /(?:^|[^\\])\($/.test(before) ? '' : ' '
  const right = !after || /^[\s,.;:!?)\]]/.test(after) ? '' : ' '
  return left + text + right
}

function put(box, text, from, to) {
  const [start, end] = from === to ? Array(2).fill(behindWord(box.value, from)) : [from, to]
  const whole = spaced(box.value.slice(0, start), text, box.value.slice(end))
  box.focus({ preventScroll: true })
  box.setSelectionRange(start, end)
  // Deprecated, but the one way that the browser's Ctrl+Z takes back.
  if (document.execCommand('insertText', false, whole)) return
  box.setRangeText(whole, start, end, 'end')
  box.dispatchEvent(new InputEvent('input', { bubbles: true, inputType: 'insertText', data: whole }))
}

// A word is not torn apart.
function behindWord(text, place) {
  const isTorn = /[\p{L}\p{N}\p{M}_]$/u.test(text.slice(0, place))
  const [rest] = text.slice(place).match(/^[\p{L}\p{N}\p{M}_]*/u)
  return isTorn ? place + rest.length : place
}

function onDrag(event) {
  const box = dragged && event.target?.closest?.('textarea')
  if (!box || !isBox(box)) return
  event.preventDefault()
  event.stopPropagation()
  if (event.dataTransfer) event.dataTransfer.dropEffect = 'copy'
  if (event.type !== 'drop') return
  const at = document.caretPositionFromPoint?.(event.clientX, event.clientY)
  const place = at?.offsetNode === box ? at.offset : box.selectionEnd
  put(box, dragged, place, place)
  dragged = ''
}

function isBox(element) {
  return element?.tagName === 'TEXTAREA' && !element.readOnly && !element.disabled && !element.closest(`${PANEL}, [role=dialog]`)
}

const isShown = (box) => box.isConnected && box.getClientRects().length > 0

// A graph that is made anew, by Ctrl+Z or a click on another tab, has new boxes.
function boxMeant() {
  if (last && isShown(last.box) && isBox(last.box)) return last.box
  const all = [...document.querySelectorAll('textarea')].filter((box) => isBox(box) && isShown(box) && placeOf(box).node)
  const again = last?.node && all.find((box) => placeOf(box).node === last.node && placeOf(box).index === last.index)
  if (again) return again
  const chosen = Object.values(app.canvas?.selected_nodes ?? {})
  const inChosen = chosen.length === 1 ? all.filter((box) => nodeOfBox(box) === chosen[0]) : []
  if (inChosen.length) return inChosen[0]
  return all.length === 1 ? all[0] : null
}

function placeOf(box) {
  const node = nodeOfBox(box)
  if (!node) return { node: '', index: -1 }
  return { node: `${node.graph?.id ?? ''}/${node.id}/${node.type}`, index: boxesOf(node).indexOf(box) }
}

const elementsOf = (node) => (node.widgets ?? []).map((widget) => widget.inputEl ?? widget.element).filter(Boolean)

function boxesOf(node) {
  const whole = document.querySelector(`.lg-node[data-node-id="${CSS.escape(node.id)}"]`)
  return whole ? [...whole.querySelectorAll('textarea')] : elementsOf(node)
}

function nodeOfBox(box) {
  const graph = app.canvas?.graph
  const id = box.closest('.lg-node[data-node-id]')?.dataset.nodeId
  if (id) return graph?.getNodeById(id) ?? graph?.getNodeById(Number(id))
  return graph?.nodes?.find((node) => elementsOf(node).some((element) => element === box || element.contains?.(box)))
}

const titleOf = (box) => nodeOfBox(box)?.title ?? ''
