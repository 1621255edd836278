// New faces in the completion of `embedding:`. ComfyUI's page has none of its own; Custom-Scripts fills its list once, when the page
// loads (`addEmbeddings` in web/js/autocompleter.js), so the words are put there.

import { app } from '../../scripts/app.js'

const MODULE = /\/common\/autocomplete\.js$/
const GROUP = 'pysssss.embeddings'
const WORD = 'embedding:'

let found

/** Makes the list of completions that of the files of now; does nothing where no pack has one. */
export async function offerWords() {
  const completion = await (found ??= find())
  const group = completion?.groups?.[GROUP]
  if (!group) return
  const names = await app.api.getEmbeddings()
  const wanted = new Set(names.map((name) => WORD + name))
  const lists = [group, completion.globalWords, completion.globalWordsExclLoras].filter(Boolean)
  const gone = Object.keys(group).filter((word) => word !== WORD && !wanted.has(word))
  for (const list of lists) {
    for (const word of gone) delete list[word]
    for (const word of wanted) list[word] ??= { text: word, use_replacer: false }
  }
}

async function find() {
  try {
    const paths = await app.api.getExtensions()
    const modules = await Promise.all(
      paths.filter((path) => MODULE.test(path)).map((path) => import(app.api.fileURL(path)))
    )
    return modules.find((module) => module.TextAreaAutoComplete)?.TextAreaAutoComplete
  } catch (error) {
    console.warn('CrossInit: the completion of embeddings is as it was.', error)
  }
}
