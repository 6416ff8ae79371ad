"""Style sheet and script of the report.

The chart colors are based on the palette of Okabe and Ito, which readers with color vision deficiency can distinguish;
the dark scheme uses lighter variants. Text has a contrast ratio of at least 4.5 to its background (WCAG AA).
"""

# With Chinese fonts of macOS, Windows and Linux.
FONT_FAMILY = 'system-ui, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", sans-serif'
CSS = """
:root {
  color-scheme: light dark;
  --back: #f4f5f7; --card: #ffffff; --text: #1b1f24; --muted: #57606a; --line: #d8dee4; --accent: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root { --back: #0f1216; --card: #191e24; --text: #e6e9ed; --muted: #a3adb8; --line: #333b45; --accent: #79b8ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 FONT_FAMILY; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 24px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.4rem; margin: 28px 0 8px; }
h3 { font-size: 1.2rem; margin: 0 0 8px; }
h4 { font-size: 1rem; margin: 0; }
p { margin: 4px 0 12px; overflow-wrap: anywhere; }
.lead, figcaption, footer { color: var(--muted); }
figcaption { font-size: .92rem; max-width: 78ch; }
.key-figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: 10px; }
#shop-figures { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }
.key-figures { margin: 16px 0; padding: 0; list-style: none; }
.key-figures li, section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.key-figures li { padding: 10px 12px; }
.key-figures b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.key-figures span { color: var(--muted); font-size: .85rem; display: block; overflow-wrap: anywhere; }
nav { font-size: .92rem; }
nav p { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 0 6px; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -9999px; }
.skip:focus { left: 8px; top: 8px; background: var(--card); padding: 6px 10px; }
section { padding: 16px; margin: 0 0 16px; }
.parts { display: grid; gap: 20px 28px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
.part { min-width: 0; margin: 0; }
.wide { grid-column: 1 / -1; }
.plot { width: 100%; }
.scroll { overflow: auto; max-height: 380px; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.long { min-width: 240px; overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: var(--card); color: var(--muted); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.day { white-space: nowrap; }
td.wide { min-width: 7em; } /* Chinese text could break after each character */
td.day + td.long { min-width: 0; }
tr:last-child td { border-bottom: 0; }
.mark { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
details { margin-top: 8px; }
summary { color: var(--accent); cursor: pointer; font-size: .92rem; }
.empty { border-style: dashed; }
.empty p { margin: 0; color: var(--muted); }
footer { padding: 4px 16px 32px; font-size: .85rem; }
@media print {
  :root { --back: #ffffff; --card: #ffffff; --text: #1b1f24; --muted: #57606a; --line: #d8dee4; --accent: #0b5cad; }
  body { font-size: 11pt; }
  nav, .skip, .empty { display: none; }
  .scroll { max-height: none; overflow: visible; }
  th { position: static; white-space: normal; }
  td.long { min-width: 0; }
  td.number, th.number { white-space: normal; }
  details:not([open]) { display: none; }
  table { font-size: .78rem; }
  .parts { grid-template-columns: minmax(0, 1fr); }
  .key-figures li, .part, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
}
@media (max-width: 600px) {
  section { padding: 12px; }
  h1 { font-size: 1.4rem; }
  .key-figures, #shop-figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
""".replace("FONT_FAMILY", FONT_FAMILY)

JS = """
"use strict";
const schemes = {
  light: {
    text: "#1b1f24", muted: "#57606a", grid: "#e1e5ea", card: "#ffffff", clear: "rgba(0,0,0,0)",
    c: ["#0072b2", "#d55e00", "#009e73", "#b4538a", "#c98a00", "#3f9fd8", "#8c6d31", "#5a6570"],
    heat: [[0, "#f3f7fb"], [0.25, "#c3dcef"], [0.5, "#7db3dc"], [0.75, "#2f7fbd"], [1, "#08457e"]],
  },
  dark: {
    text: "#e6e9ed", muted: "#a3adb8", grid: "#333b45", card: "#191e24", clear: "rgba(0,0,0,0)",
    c: ["#56b4e9", "#f0813a", "#2fc79a", "#e39ac4", "#e9b21f", "#8fa8ff", "#c9ab72", "#aab4bf"],
    heat: [[0, "#1f2730"], [0.25, "#1f4a6e"], [0.5, "#2a78ad"], [0.75, "#5eb0e0"], [1, "#d3ecfb"]],
  },
};
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 600px)");
let printing = false;
const figures = JSON.parse(document.getElementById("figures").textContent);

// Replaces color names (@name) by colors of the scheme, only in color attributes: texts of the data may start with @.
function applyScheme(value, scheme, isColor) {
  if (Array.isArray(value)) return value.map((element) => applyScheme(element, scheme, isColor));
  if (value !== null && typeof value === "object") {
    const isColorKey = (key) => /color(scale)?$/.test(key);
    const entries = Object.entries(value).map(([key, child]) => [key, applyScheme(child, scheme, isColorKey(key))]);
    return Object.fromEntries(entries);
  }
  if (!isColor || typeof value !== "string" || value[0] !== "@") return value;
  const name = value.slice(1);
  return name[0] === "c" && name.length === 2 ? scheme.c[Number(name[1])] : scheme[name];
}

function draw(ids = Object.keys(figures)) {
  const scheme = dark.matches && !printing ? schemes.dark : schemes.light;
  for (const id of ids) {
    const { data, layout } = applyScheme(figures[id], scheme, false);
    if (narrow.matches) {
      data.forEach((trace) => delete trace.texttemplate); // the cells are too small for texts
      for (const label of layout.annotations ?? []) label.font.size = 10;
    }
    Plotly.react(id, data, layout, { responsive: true, displayModeBar: false });
  }
  for (const mark of document.querySelectorAll(".mark")) {
    mark.style.background = applyScheme(mark.dataset.color, scheme, true);
  }
  document.documentElement.dataset.scheme = dark.matches ? "dark" : "light";
}

// On paper, the colors are light.
function setPrinting(starts) {
  printing = starts;
  draw();
}

window.addEventListener("beforeprint", () => setPrinting(true));
window.addEventListener("afterprint", () => setPrinting(false));
dark.addEventListener("change", () => draw());
narrow.addEventListener("change", () => draw());
draw();
"""
