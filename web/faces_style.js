// How the panel of faces looks, in the colours of the page's theme.

export const STYLE = `
.crossinit-faces {
  display: flex; flex-direction: column; min-height: 100%; min-width: 0; color: var(--fg-color); font-size: 13px; line-height: 1.35;
}
.crossinit-faces [hidden] { display: none !important; }
.crossinit-faces p { margin: 0; }
.crossinit-head, .crossinit-status { position: sticky; z-index: 2; background: var(--comfy-menu-bg); }
.crossinit-head { top: 0; display: grid; grid-template-columns: 1fr auto; gap: 8px 4px; align-items: center; padding: 8px; }
.crossinit-head h2 { margin: 0; font-size: 14px; font-weight: 600; overflow: hidden; text-overflow: ellipsis; }
.crossinit-head .crossinit-search { grid-column: 1 / -1; }
.crossinit-search {
  min-width: 0; width: 100%; box-sizing: border-box; padding: 6px 8px; border: 1px solid var(--border-color);
  border-radius: 6px; background: var(--comfy-input-bg); color: var(--input-text); font: inherit;
}
.crossinit-list {
  flex: 1; margin: 0; padding: 0 8px 8px; list-style: none; display: grid; gap: 8px;
  grid-template-columns: repeat(auto-fill, minmax(min(128px, 100%), 1fr)); align-content: start;
}
.crossinit-card { position: relative; min-width: 0; scroll-margin: 96px 0 48px; content-visibility: auto; contain-intrinsic-size: auto 240px; }
.crossinit-face {
  display: flex; flex-direction: column; gap: 2px; height: 100%; padding: 6px; box-sizing: border-box; border-radius: 8px;
  background: var(--comfy-input-bg); border: 1px solid transparent; cursor: pointer; overflow: hidden;
}
form.crossinit-face { cursor: default; gap: 6px; }
.crossinit-face:hover, .crossinit-face:focus-visible { border-color: var(--p-primary-color, #4e9ef7); outline: none; }
.crossinit-picture {
  position: relative; display: flex; align-items: center; justify-content: center; aspect-ratio: 1; border-radius: 6px;
  overflow: hidden; background: var(--comfy-menu-bg); color: var(--descrip-text); flex: none;
}
.crossinit-picture i { font-size: 32px; }
.crossinit-picture img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; }
.crossinit-name { color: var(--input-text); font-weight: 600; margin-top: 4px; }
.crossinit-about { color: var(--descrip-text); font-size: 11px; }
.crossinit-name, .crossinit-about {
  text-align: start; overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  flex: none;
}
.crossinit-tools { position: absolute; top: 10px; inset-inline-end: 10px; display: flex; gap: 4px; opacity: 0; }
.crossinit-card:hover .crossinit-tools, .crossinit-card:focus-within .crossinit-tools { opacity: 1; }
@media (hover: none) { .crossinit-tools { opacity: 1; } }
.crossinit-icon, .crossinit-button {
  border: 1px solid var(--border-color); border-radius: 6px; background: var(--comfy-menu-bg); color: var(--fg-color); font: inherit;
  cursor: pointer; padding: 4px 8px;
}
.crossinit-icon { padding: 4px 7px; flex: none; }
.crossinit-icon i { font-size: 13px; }
.crossinit-icon:hover, .crossinit-button:hover { border-color: var(--p-primary-color, #4e9ef7); }
.crossinit-buttons { display: flex; flex-wrap: wrap; gap: 4px; }
.crossinit-button { flex: 1; }
.crossinit-button.crossinit-delete { background: #b02a2a; border-color: #b02a2a; color: #fff; }
.crossinit-question { overflow-wrap: anywhere; font-size: 12px; }
.crossinit-empty { padding: 16px 12px; text-align: center; color: var(--descrip-text); display: grid; gap: 8px; flex: 100 0 auto; align-content: start; }
.crossinit-empty p:first-child { color: var(--fg-color); font-weight: 600; }
.crossinit-status { bottom: 0; padding: 8px 12px; border-top: 1px solid var(--border-color); overflow-wrap: anywhere; font-size: 12px; }
.crossinit-status.crossinit-wrong { color: var(--error-text, #ff4444); }
`
