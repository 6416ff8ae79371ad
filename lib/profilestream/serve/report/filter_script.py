"""Style sheet and script of the filter. The script chooses an entry of the embedded numbers; it computes nothing."""

CSS = """
.filter { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.filter .fields { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: end; }
.filter label { font-size: .85rem; color: var(--muted); min-width: 0; max-width: 100%; }
.filter select, .filter button {
  display: block; max-width: 100%; padding: 5px 8px; font: inherit; color: var(--text); background: var(--back);
  border: 1px solid var(--muted); border-radius: 6px; text-overflow: ellipsis;
}
.filter p { margin: 8px 0 0; font-size: .92rem; }
.filter .note, .unfiltered { color: var(--muted); font-size: .85rem; }
.unfiltered { display: none; }
html[data-filtered] .unfiltered { display: block; }
@media print {
  .filter .fields, .filter details, html:not([data-filtered]) .filter { display: none; }
}
@media (max-width: 600px) {
  .filter label, .filter select { width: 100%; }
}
"""

# `figures` and `draw` are those of the script of the page (assets.py).
JS = """
"use strict";
const filters = JSON.parse(document.getElementById("filters").textContent);
const form = document.getElementById("filter");
const fields = [...form.querySelectorAll("select")];
const charts = ["revenue-0", "items-0", "items-1"].filter((id) => id in figures);
// Layout of the charts without a filter, and the classes of the columns of their tables.
const originals = Object.fromEntries(charts.map((id) => {
  const cells = partOf(id).querySelectorAll("tbody tr:first-child td");
  return [id, { layout: structuredClone(figures[id].layout), classes: [...cells].map((cell) => cell.className) }];
}));

function partOf(id) {
  return document.getElementById(id).closest("figure");
}

// The text with values in place of their names in braces.
function fill(text, values) {
  return text.replace(/\\{(\\w+)\\}/g, (_, name) => values[name]);
}

// As chart_elements.label: plotly interprets texts as HTML, and a name from right to left is isolated.
function label(number) {
  const [name, cut] = [filters.names[number], filters.cuts[number]];
  const short = cut ? `${name.slice(0, cut)}…` : name;
  return escapeText(/[\\u0590-\\u08ff]/.test(short) ? `\\u2068${short}\\u2069` : short);
}

function escapeText(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function fillTexts(id, caption, rows) {
  const part = partOf(id);
  part.querySelector("figcaption").textContent = caption;
  const title = part.querySelector("h4").textContent;
  document.getElementById(id).setAttribute("aria-label", fill(filters.words.label, { title, caption }));
  part.querySelector("tbody").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    row.forEach((text, n) => {
      const cell = line.insertCell();
      cell.textContent = text;
      cell.className = originals[id].classes[n];
    });
    return line;
  }));
}

function setRange(axis, range) {
  if (range) axis.range = range;
  else delete axis.range;
}

function fillRevenue(slice, first) {
  const { data: [bars], layout } = figures["revenue-0"];
  const last = slice.y.length - 1;
  bars.y = slice.y;
  bars.marker.opacity = slice.y.map((_, n) => (first !== null && (n < first || n === last) ? 0.3 : 1));
  setRange(layout.yaxis, slice.range);
  const starts = bars.x.slice().reverse();
  fillTexts("revenue-0", slice.caption, slice.rows.map((row, n) => [starts[n], ...row]));
}

function fillItems(id, list) {
  const { caption, range, rows } = list ?? { caption: filters.words.none, range: null, rows: [] };
  const { data: [bars], layout } = figures[id];
  const { annotations, height, yaxis } = originals[id].layout;
  const added = Math.max(rows.length, 1) - annotations.length;
  const names = rows.map(([name]) => filters.names[name]);
  bars.x = rows.map(([, value]) => value);
  bars.y = rows.map((_, n) => n);
  bars.customdata = rows.map(([, , text], n) => [escapeText(names[n]), text]);
  layout.annotations = rows.map(([, , , behind], n) => (
    { ...structuredClone(annotations[0]), y: annotations[0].y + n, text: label(rows[n][0]) + behind }
  ));
  layout.height = height + added * filters.bar_height;
  layout.yaxis.range = [yaxis.range[0] + added, yaxis.range[1]];
  setRange(layout.xaxis, range);
  fillTexts(id, caption, rows.map(([, , , , ...cells], n) => [names[n], ...cells]));
}

function fillFigures(values) {
  for (const item of document.querySelectorAll("#shop-figures li")) {
    const [value, text, note] = values[item.dataset.name] ?? ["", filters.words.missing, ""];
    const [number, , second] = item.children;
    item.dataset.value = value;
    number.textContent = text;
    if (second) second.textContent = note;
    else if (note) item.append(Object.assign(document.createElement("span"), { textContent: note }));
  }
}

function valueOf(name) {
  return form.elements[name]?.value ?? "";
}

function apply() {
  const slice = filters.slices[`${valueOf("source")}|${valueOf("segment")}`];
  const period = slice.periods[valueOf("period")];
  fillFigures(period.figures);
  if ("revenue-0" in figures) fillRevenue(slice, period.first);
  ["items-0", "items-1"].forEach((id, n) => charts.includes(id) && fillItems(id, period.lists[n]));
  const chosen = fields.map((field) => field.selectedOptions[0].textContent);
  const values = chosen.join(filters.words.separator);
  document.getElementById("filter-state").textContent = fill(filters.words.shown, { values });
  document.documentElement.toggleAttribute("data-filtered", fields.some((field) => field.value));
  draw(charts);
}

// Hashes of sections do not change the filter.
function readHash() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  if (location.hash && !fields.some((field) => chosen.has(field.name))) return;
  for (const field of fields) {
    field.value = chosen.get(field.name) ?? "";
    if (field.selectedIndex < 0) field.value = "";
  }
  apply();
}

function choose() {
  apply();
  const chosen = fields.filter((field) => field.value).map((field) => [field.name, field.value]);
  history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
}

for (const heading of document.querySelectorAll("main > section:not(#revenue, #items) > h3, #data")) {
  const note = { className: "unfiltered", textContent: filters.words.unfiltered };
  heading.after(Object.assign(document.createElement("p"), note));
}
form.addEventListener("change", choose);
form.addEventListener("reset", () => setTimeout(choose));
window.addEventListener("hashchange", readHash);
form.hidden = false;
readHash();
"""
