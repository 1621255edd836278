// A node that was just put on the canvas is wide enough for its title and its lines, and high enough to write a prompt in.
// A node of a file gets its own size afterwards.

import { app } from '../../scripts/app.js'

const CHARACTER = 8.5 // Pixels of a character of a title, on the average.
const BESIDE_THE_TITLE = 110 // The dot before it, and what the page shows behind it.

// Width and height at least. Of the height, a box for a text takes what the other widgets leave.
const ROOM = {
  CrossInitEncodePrompt: [400, 240],
  CrossInitPromptList: [440, 340],
  CrossInitLearn: [360, 0],
  CrossInitPrepareFace: [320, 0],
  CrossInitCelebrityNames: [320, 0],
  CrossInitInitializeWords: [340, 0],
  CrossInitSave: [340, 0],
  CrossInitLoad: [340, 0]
}

app.registerExtension({
  name: 'crossinit.sizes',
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith('CrossInit')) return
    const [width, height] = ROOM[node.comfyClass] ?? [0, 0]
    const title = Math.ceil(String(node.title ?? '').length * CHARACTER) + BESIDE_THE_TITLE
    node.setSize([Math.max(node.size[0], width, title), Math.max(node.size[1], height)])
  }
})
