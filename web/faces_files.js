// The faces of this pack in the embeddings folders, by ComfyUI's own routes; renaming and removing by the pack's.

import { app } from '../../scripts/app.js'

const TOGETHER = 8
const STRANGERS = 'crossinit.strangers'
const MOST_STRANGERS = 5000
const SUFFIX = '.safetensors'
const OURS = 'crossinit.'
const PICTURE = /^data:image\/(?:webp|png|jpeg);base64,[A-Za-z0-9+/=]+$/

// By file, time and size: a face, or null for a file of somebody else.
const known = new Map(strangers().map((key) => [key, null]))

function strangers() {
  try {
    return JSON.parse(localStorage.getItem(STRANGERS) ?? '[]')
  } catch {
    return []
  }
}

function keepStrangers(keys) {
  try {
    const found = keys.filter((key) => known.get(key) === null)
    localStorage.setItem(STRANGERS, JSON.stringify(found.slice(0, MOST_STRANGERS)))
  } catch (error) {
    console.warn('CrossInit: which files are no faces could not be stored.', error)
  }
}

/**
 * Calls `show` with each face as soon as it is known, the newest first, until `isWanted()` is false. Throws an Error with one
 * line if the server does not answer.
 */
export async function readFaces(show, isWanted = () => true) {
  const [files, names] = await Promise.all([ask('/experiment/models/embeddings'), app.api.getEmbeddings()])
  const first = new Map()
  // Of two folders with a file of one name a prompt finds the first one's.
  for (const file of files) if (file.name.endsWith(SUFFIX) && !first.has(file.name)) first.set(file.name, file)
  const newest = [...first.values()].toSorted((a, b) => b.modified - a.modified)
  const stems = countStems(names)
  for (let start = 0; start < newest.length && isWanted(); start += TOGETHER) {
    // The order of the files is that of the faces, so a part waits for the one before.
    // oxlint-disable-next-line no-await-in-loop
    const found = await Promise.all(newest.slice(start, start + TOGETHER).map(read))
    for (const face of found) if (face && isWanted()) show({ ...face, word: wordOf(face, stems) })
  }
  if (isWanted()) keepStrangers(newest.map(keyOf))
}

/** Gives a face another name; returns it. Throws an Error with one line. */
export async function renameFace(face, name) {
  return (await ask('/crossinit/faces/rename', { file: face.file, name })).name
}

/** Takes a face away; returns where its file is now. Throws an Error with one line. */
export async function removeFace(face) {
  return (await ask('/crossinit/faces/remove', { file: face.file })).kept
}

/** Where a picture of a face is asked for that has none in its file. */
export function previewOf(face) {
  const path = face.file.split(/[\\/]/).map(encodeURIComponent).join('/')
  return app.api.apiURL(`/experiment/models/preview/embeddings/${face.folder}/${path}`)
}

const keyOf = (file) => `${file.name}|${file.modified}|${file.size}`

async function read(file) {
  const key = keyOf(file)
  if (known.has(key)) return known.get(key)
  const answer = await app.api.fetchApi(`/view_metadata/embeddings?filename=${encodeURIComponent(file.name)}`)
  if (!answer.ok && answer.status !== 404) return null
  const facts = answer.ok ? await answer.json() : {}
  const face = Object.keys(facts).some((one) => one.startsWith(OURS)) ? faceOf(file, facts) : null
  known.set(key, face)
  return face
}

function faceOf(file, facts) {
  const path = file.name.replaceAll('\\', '/')
  const stem = path.split('/').at(-1).slice(0, -SUFFIX.length)
  const thumbnail = facts['modelspec.thumbnail'] ?? ''
  return {
    key: keyOf(file),
    file: file.name,
    folder: file.pathIndex,
    place: path.split('/').slice(0, -1).join('/'),
    name: stem,
    picture: PICTURE.test(thumbnail) ? thumbnail : '',
    checkpoint: facts['crossinit.checkpoint'] ?? '',
    steps: facts['crossinit.steps'] ?? '',
    isBlend: 'crossinit.blend' in facts,
    date: dateOf(facts['modelspec.date'], file.modified),
    tags: `${facts['modelspec.title'] ?? ''} ${facts['modelspec.tags'] ?? ''} ${facts['modelspec.author'] ?? ''}`
  }
}

function dateOf(text, seconds) {
  const date = new Date(text ?? '')
  return Number.isNaN(date.getTime()) ? new Date(seconds * 1000) : date
}

const stemOf = (name) => name.replaceAll('\\', '/').split('/').at(-1).toLowerCase()

function countStems(names) {
  const count = new Map()
  for (const name of names) count.set(stemOf(name), (count.get(stemOf(name)) ?? 0) + 1)
  return count
}

// What stands after `embedding:`. ComfyUI finds a face in a folder by its bare name too, unless there are two of that name.
function wordOf(face, stems) {
  const word = (stems.get(face.name.toLowerCase()) ?? 0) > 1 && face.place ? `${face.place}/${face.name}` : face.name
  return /[\s,:;()<>[\]{}\\|?*"'\p{Cc}\p{Cs}]/u.test(word) ? '' : word
}

async function ask(path, body) {
  const options = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }
  const answer = await app.api.fetchApi(path, body ? options : { cache: 'no-store' })
  const content = await answer.json().catch(() => null)
  if (!answer.ok || content === null) throw new Error(content?.error ?? `${answer.status} ${answer.statusText}`)
  return content
}
