// The texts of the panel of faces: `crossinitFaces` in locales/*/main.json, English too.

import { app } from '../../scripts/app.js'

let languages = {}

/** Asks the server for the texts; without them the panel shows their names. */
export async function readTexts() {
  if (languages.en) return
  try {
    const answer = await app.api.fetchApi('/i18n')
    const all = await answer.json()
    languages = Object.fromEntries(Object.entries(all).map(([name, texts]) => [name, texts.crossinitFaces]))
  } catch (error) {
    console.warn('CrossInit: the texts of the panel of faces are not there.', error)
  }
}

/** The language that the page speaks, as `Intl` knows it. */
export function language() {
  return app.extensionManager?.setting?.get('Comfy.Locale') || 'en'
}

/** A text with its `$WORDS` filled in, each between U+2068 and U+2069: one of another direction does not turn the sentence around. */
export function say(name, words = {}) {
  const text = languages[language()]?.[name] ?? languages.en?.[name] ?? name
  return text.replaceAll(/\$([A-Z]+)/g, (found, word) => (word in words ? `\u2068${shown(words[word])}\u2069` : found))
}

/** A foreign text as it may be shown: on one line, without signs that show nothing or turn the text around. */
export function shown(text) {
  return String(text)
    .replaceAll(/[\p{Cf}\p{Cs}]/gu, '')
    .replaceAll(/[\p{Cc}\p{Zl}\p{Zp}]/gu, ' ')
}

/** Puts a text of `say` into an element, with elements in place of the signs, which people would copy with a path. */
export function write(element, text) {
  const parts = text.split(/\u2068([^\u2069]*)\u2069/)
  element.replaceChildren(
    ...parts.map((part, index) => {
      if (index % 2 === 0) return part
      const foreign = document.createElement('bdi')
      foreign.textContent = part
      return foreign
    })
  )
}
