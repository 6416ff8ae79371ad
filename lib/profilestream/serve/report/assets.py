"""Style and script of the page.

Colors of the plots are those of Okabe and Ito, which people who do not tell red from green can tell apart; in the dark
scheme the dark ones are lighter. Text has a contrast of at least 4.5 to what is behind it (WCAG AA).
"""

CSS = """
:root {
  color-scheme: light dark;
  --back: #f4f5f7; --card: #ffffff; --text: #1b1f24; --muted: #57606a; --line: #d8dee4; --accent: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root { --back: #0f1216; --card: #191e24; --text: #e6e9ed; --muted: #a3adb8; --line: #333b45; --accent: #79b8ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, "Segoe UI", sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 24px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.25rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 4px 0 12px; overflow-wrap: anywhere; }
.lead, .said, footer { color: var(--muted); }
.said { font-size: .92rem; max-width: 78ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: 10px; }
.tiles { margin: 16px 0; padding: 0; list-style: none; }
.tiles li, section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: .85rem; display: block; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: .92rem; margin-bottom: 16px; }
a { color: var(--accent); }
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
tr:last-child td { border-bottom: 0; }
.mark { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
details { margin-top: 8px; }
summary { color: var(--accent); cursor: pointer; font-size: .92rem; }
.off { border-style: dashed; }
.off p { margin: 0; color: var(--muted); }
footer { padding: 4px 16px 32px; font-size: .85rem; }
@media (max-width: 600px) {
  section { padding: 12px; }
  h1 { font-size: 1.4rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""

JS = """
"use strict";
const schemes = {
  light: {
    text: "#1b1f24", muted: "#57606a", grid: "#e1e5ea", card: "#ffffff", clear: "rgba(0,0,0,0)", grey: "#8a939d",
    c: ["#0072b2", "#d55e00", "#009e73", "#b4538a", "#c98a00", "#3f9fd8", "#8c6d31", "#5a6570"],
    heat: [[0, "#f3f7fb"], [0.25, "#c3dcef"], [0.5, "#7db3dc"], [0.75, "#2f7fbd"], [1, "#08457e"]],
  },
  dark: {
    text: "#e6e9ed", muted: "#a3adb8", grid: "#333b45", card: "#191e24", clear: "rgba(0,0,0,0)", grey: "#7d8894",
    c: ["#56b4e9", "#f0813a", "#2fc79a", "#e39ac4", "#e9b21f", "#8fa8ff", "#c9ab72", "#aab4bf"],
    heat: [[0, "#1f2730"], [0.25, "#1f4a6e"], [0.5, "#2a78ad"], [0.75, "#5eb0e0"], [1, "#d3ecfb"]],
  },
};
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 600px)");
const figures = JSON.parse(document.getElementById("figures").textContent);

// Names of colors, which begin with @, become colors; only where a color stands, so no text of the data can be one.
function colored(value, scheme, isColor) {
  if (Array.isArray(value)) return value.map((one) => colored(one, scheme, isColor));
  if (value !== null && typeof value === "object") {
    const pairs = Object.entries(value).map(([key, one]) => [key, colored(one, scheme, /color(scale)?$/.test(key))]);
    return Object.fromEntries(pairs);
  }
  if (!isColor || typeof value !== "string" || value[0] !== "@") return value;
  const name = value.slice(1);
  return name[0] === "c" && name.length === 2 ? scheme.c[Number(name[1])] : scheme[name];
}

function draw() {
  const scheme = dark.matches ? schemes.dark : schemes.light;
  for (const [id, figure] of Object.entries(figures)) {
    const shown = colored(figure, scheme, false);
    if (narrow.matches) shown.data.forEach((trace) => delete trace.texttemplate); // cells are too small for it
    Plotly.react(id, shown.data, shown.layout, { responsive: true, displayModeBar: false });
  }
  for (const mark of document.querySelectorAll(".mark")) {
    mark.style.background = colored(mark.dataset.color, scheme, true);
  }
  document.documentElement.dataset.scheme = dark.matches ? "dark" : "light";
}

dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
draw();
"""
