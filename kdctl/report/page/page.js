// Fills the page from the data that lie in it.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);

// A column of runs is one value for all, or distinct values and which of them each run has.
function valueOf(column, run) {
  return column.at ? column.values[column.at[run]] : column.values[0];
}

function shownValue(value) {
  if (value === null || value === undefined) return "—";
  if (Array.isArray(value)) return value.map(shownValue).join(", ");
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

function openRun(run) {
  const sections = [];
  for (const [title, prefix] of Object.entries(DATA.runs.parts)) {
    const rows = Object.entries(DATA.runs.columns)
      .filter(([name, column]) => name.startsWith(prefix) && valueOf(column, run) !== null)
      .map(([name, column]) => element("tr", {}, element("td", {}, name.slice(prefix.length)), element("td", {}, shownValue(valueOf(column, run)))));
    if (rows.length) sections.push(element("h3", {}, title), element("table", {}, element("tbody", {}, ...rows)));
  }
  document.getElementById("run-title").textContent = `run ${DATA.keys[run]}`;
  document.getElementById("run-content").replaceChildren(...sections);
  document.getElementById("run").showModal();
}

for (const [id, table] of Object.entries(DATA.tables)) {
  makeTable(document.getElementById(id), table, { caption: table.caption, copies: table.copies });
}
makeTable(document.getElementById("runs"), DATA.run_table, { name: "Runs", open: openRun });
if (DATA.curves) makeCurves(document.getElementById("curves"), { ...DATA.curves, keys: DATA.keys });
document.body.dataset.ready = "yes";
