// What the panel of faces shows, and what a click in it does.

import { previewOf, removeFace, renameFace } from './faces_files.js'
import { drag, insert } from './faces_prompts.js'
import { STYLE } from './faces_style.js'
import { language, readTexts, say, shown, write } from './faces_texts.js'

const REMOVED = 'output/crossinit/removed'
const NEAR = '400px'

export class FacesPanel {
  #element
  #readFaces
  #changed
  #cards = new Map()
  #turn = 0
  #near

  /** `readFaces` as in `faces_files.js`; `changed` is called when a face has another name, or is gone. */
  constructor(element, readFaces, changed) {
    this.#element = element
    this.#readFaces = readFaces
    this.#changed = changed
    this.open()
  }

  /** Whether the page still shows it. */
  isShown() {
    return this.#element.isConnected
  }

  /** Builds it, in the language of now. */
  async open() {
    await readTexts()
    this.#cards.clear()
    this.#near?.disconnect()
    this.#near = new IntersectionObserver(loadPictures, { rootMargin: NEAR })
    const style = make('style', '', STYLE)
    this.search = make('input', 'crossinit-search')
    Object.assign(this.search, { type: 'search', placeholder: say('search') })
    this.search.setAttribute('aria-label', say('search'))
    this.search.addEventListener('input', () => this.#filter())
    const head = make('div', 'crossinit-head')
    head.append(make('h2', '', say('title')), iconButton('refresh', () => this.refresh()), this.search)
    this.list = make('ul', 'crossinit-list')
    this.empty = make('div', 'crossinit-empty')
    this.status = make('p', 'crossinit-status')
    this.status.setAttribute('role', 'status')
    this.status.hidden = true
    const root = make('div', 'crossinit-faces')
    // The page would delete the selected node at the key Delete.
    root.addEventListener('keydown', (event) => event.ctrlKey || event.metaKey || event.stopPropagation())
    root.append(style, head, this.list, this.empty, this.status)
    this.#element.replaceChildren(root)
    await this.refresh()
  }

  /** Looks at the folders again; what is shown stays until then. */
  async refresh() {
    const turn = ++this.#turn
    const isWanted = () => turn === this.#turn && this.isShown()
    if (!this.#cards.size) this.#tellEmpty('loading')
    const seen = new Set()
    try {
      await this.#readFaces((face) => this.#place(face, seen), isWanted)
    } catch (error) {
      if (!isWanted()) return
      this.#tellEmpty('')
      this.#tell(say('failed', { REASON: error.message }), true)
      return
    }
    if (!isWanted()) return
    for (const [key, card] of this.#cards) {
      if (seen.has(key)) continue
      card.element.remove()
      this.#cards.delete(key)
    }
    this.#filter()
  }

  #place(face, seen) {
    const { key } = face
    const card = this.#cards.get(key) ?? new Card(face, this.#actions)
    card.face = face
    if (!this.#cards.has(key)) this.#near.observe(card.element)
    this.#cards.set(key, card)
    const there = this.list.children[seen.size]
    if (there !== card.element) this.list.insertBefore(card.element, there ?? null)
    seen.add(key)
    card.element.hidden = !this.#matches(face)
    this.#tellEmpty('')
  }

  #actions = {
    use: (face) => {
      const node = insert(textFor(face))
      if (node === null) return this.#tell(say('noBox'), true)
      this.#tell(node ? say('inserted', { NAME: face.name, NODE: node }) : '')
    },
    rename: async (face, name) => {
      const renamed = await renameFace(face, name)
      this.#tell(renamed === face.name ? '' : say('renamed', { OLD: face.name, NAME: renamed }))
      this.#changed()
    },
    remove: async (face) => {
      const kept = await removeFace(face)
      this.#tell(say('deleted', { NAME: face.name, PLACE: kept }))
      this.#changed()
    },
    tell: (text, isWrong) => this.#tell(text, isWrong)
  }

  #filter() {
    for (const { face, element } of this.#cards.values()) element.hidden = !this.#matches(face)
    const some = [...this.#cards.values()].some(({ element }) => !element.hidden)
    if (some) this.#tellEmpty('')
    else this.#tellEmpty(this.#cards.size ? 'noMatch' : 'none', this.#cards.size ? '' : 'noneHow')
  }

  #matches(face) {
    const text = plain(`${face.name} ${face.place} ${face.checkpoint} ${face.tags}`)
    return plain(this.search.value)
      .split(/\s+/)
      .every((word) => text.includes(word))
  }

  #tellEmpty(what, how = '') {
    this.empty.replaceChildren(...[what, how].filter(Boolean).map((name) => make('p', '', say(name))))
    this.empty.hidden = !what
  }

  #tell(text, isWrong = false) {
    write(this.status, text)
    this.status.classList.toggle('crossinit-wrong', isWrong)
    this.status.hidden = !text
  }
}

class Card {
  #actions

  constructor(face, actions) {
    this.face = face
    this.#actions = actions
    this.element = make('li', 'crossinit-card')
    this.#showFace()
  }

  #showFace() {
    const { face } = this
    const body = make('div', 'crossinit-face')
    Object.assign(body, { tabIndex: 0, draggable: Boolean(face.word), title: tooltip(face) })
    body.setAttribute('role', 'button')
    body.append(picture(face), nameOf(face))
    if (face.place) body.append(make('bdi', 'crossinit-about', shown(face.place)))
    const about = aboutOf(face)
    if (about) body.append(make('span', 'crossinit-about', about))
    const date = make('time', 'crossinit-about', dateOf(face))
    date.dateTime = face.date.toISOString()
    body.append(date)
    body.addEventListener('click', () => this.#use())
    body.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return
      event.preventDefault()
      this.#use()
    })
    body.addEventListener('dragstart', (event) => {
      event.dataTransfer.setData('text/plain', textFor(this.face))
      event.dataTransfer.effectAllowed = 'copy'
      drag(textFor(this.face))
    })
    body.addEventListener('dragend', () => drag(''))
    const tools = make('div', 'crossinit-tools')
    tools.append(
      iconButton('rename', () => this.#askName()),
      iconButton('delete', () => this.#askDelete())
    )
    this.element.replaceChildren(body, tools)
    if (this.#wasNear) loadPicture(this.element)
  }

  get #wasNear() {
    return this.element.dataset.near === 'yes'
  }

  #use() {
    if (this.face.word) {
      this.#actions.use(this.face)
      return
    }
    this.#actions.tell(say('badName'), true)
    this.#askName()
  }

  #askName() {
    const name = make('input', 'crossinit-search')
    Object.assign(name, { type: 'text', value: this.face.name, dir: 'auto', spellcheck: false })
    name.setAttribute('aria-label', say('newName'))
    this.#ask(name, 'save', () => this.#actions.rename(this.face, name.value))
    name.select()
  }

  #askDelete() {
    const text = say('question', { NAME: this.face.name, PLACE: REMOVED })
    const question = make('p', 'crossinit-question', text.replaceAll('/', '/\u200b')) // A line may end there.
    this.#ask(question, 'delete', () => this.#actions.remove(this.face))
  }

  /** In place of the face's lines: what is asked, and the buttons to do it and to leave it. */
  #ask(question, yes, act) {
    const form = make('form', 'crossinit-face')
    const does = make('button', `crossinit-button crossinit-${yes}`, say(yes))
    const leaves = make('button', 'crossinit-button', say('cancel'))
    leaves.type = 'button'
    const leave = () => {
      this.#showFace()
      this.element.querySelector('.crossinit-face').focus({ preventScroll: true })
    }
    leaves.addEventListener('click', leave)
    form.addEventListener('keydown', (event) => event.key === 'Escape' && leave())
    form.addEventListener('submit', async (event) => {
      event.preventDefault()
      does.disabled = true
      try {
        await act()
        this.#showFace()
      } catch (error) {
        does.disabled = false
        this.#actions.tell(shown(error.message), true)
      }
    })
    const buttons = make('div', 'crossinit-buttons')
    buttons.append(does, leaves)
    form.append(picture(this.face), question, buttons)
    this.element.replaceChildren(form)
    if (this.#wasNear) loadPicture(this.element)
    ;(question.tagName === 'INPUT' ? question : leaves).focus({ preventScroll: true })
    this.element.scrollIntoView({ block: 'nearest' })
  }
}

function make(tag, name = '', text = '') {
  const element = document.createElement(tag)
  if (name) element.className = name
  if (text) write(element, text)
  return element
}

const ICONS = { refresh: 'pi-refresh', rename: 'pi-pencil', delete: 'pi-trash' }

function iconButton(name, act) {
  const button = make('button', 'crossinit-icon')
  Object.assign(button, { type: 'button', title: say(name) })
  button.setAttribute('aria-label', say(name))
  button.append(make('i', `pi ${ICONS[name]}`))
  button.addEventListener('click', act)
  return button
}

function picture(face) {
  const frame = make('span', 'crossinit-picture')
  const image = make('img')
  Object.assign(image, { alt: '', draggable: false, decoding: 'async' })
  image.dataset.address = face.picture || previewOf(face)
  image.addEventListener('error', () => image.remove())
  frame.append(make('i', 'pi pi-user'), image)
  return frame
}

function loadPictures(entries, observer) {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue
    observer.unobserve(target)
    target.dataset.near = 'yes'
    loadPicture(target)
  }
}

function loadPicture(card) {
  const image = card.querySelector('img')
  if (image && !image.src) image.src = image.dataset.address
}

const nameOf = (face) => make('bdi', 'crossinit-name', shown(face.name))

const textFor = (face) => `embedding:${face.word} person`

const tooltip = (face) => (face.word ? say('insert', { TEXT: textFor(face) }) : say('badName'))

function aboutOf({ checkpoint, steps, isBlend }) {
  if (isBlend) return say('blended')
  if (checkpoint && steps) return say('learned', { MODEL: checkpoint, STEPS: steps })
  if (checkpoint) return say('learnedOn', { MODEL: checkpoint })
  return steps ? say('learnedIn', { STEPS: steps }) : ''
}

const dateOf = ({ date }) => new Intl.DateTimeFormat(language(), { dateStyle: 'medium' }).format(date)

/** As people search: without accents, and upper like lower case. */
function plain(text) {
  return text.normalize('NFKD').replaceAll(/\p{M}/gu, '').toLowerCase().trim()
}
