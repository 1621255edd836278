// The panel of learned faces in the page's sidebar: found by their pictures, put into a prompt by a click or a drag.

import { app } from '../../scripts/app.js'
import { offerWords } from './faces_completion.js'
import { readFaces } from './faces_files.js'
import { FacesPanel } from './faces_panel.js'
import { followPrompts } from './faces_prompts.js'
import { nodeOf } from './graph.js'

const TAB = 'crossinit-faces'

const panels = new Set()

/** Reads the faces anew for all who show them: the panel, the lists of files, and completion where a pack has it. */
async function changed({ lists = true } = {}) {
  for (const panel of panels) panel.refresh()
  await offerWords()
  if (!lists) return
  const refresh = app.reloadNodeDefs ?? app.refreshComboInNodes
  await refresh?.call(app)
}

const warn = (error) => console.warn('CrossInit: the lists of faces are as they were.', error)

app.registerExtension({
  name: 'crossinit.faces',
  setup() {
    followPrompts()
    app.api.addEventListener('executed', ({ detail }) => {
      if (!detail.output?.file?.[0] || nodeOf(detail.node)?.type !== 'CrossInitSave') return
      // `saved.js` sees to the lists of files.
      changed({ lists: false }).catch(warn)
    })
    app.ui?.settings?.addEventListener?.('Comfy.Locale.change', () => {
      for (const panel of panels) panel.open().catch(warn)
    })
    // A second copy of the pack would bring a second one.
    if (app.extensionManager?.getSidebarTabs?.().some((tab) => tab.id === TAB)) return
    app.extensionManager?.registerSidebarTab?.({
      id: TAB,
      icon: 'pi pi-face-smile',
      title: 'crossinitFaces.title',
      tooltip: 'crossinitFaces.tooltip',
      label: 'crossinitFaces.title',
      type: 'custom',
      render(element) {
        for (const panel of panels) if (!panel.isShown()) panels.delete(panel)
        panels.add(new FacesPanel(element, readFaces, () => changed().catch(warn)))
      },
      destroy() {
        panels.clear()
      }
    })
  },
  // What the key R does in the page.
  refreshComboInNodes() {
    for (const panel of panels) panel.refresh()
  }
})
