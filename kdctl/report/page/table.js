// A table that sorts by a click on a column, filters by words, and copies what it shows.
// Texts only ever go through textContent: whatever a store holds stays text.
"use strict";

const PAGE_ROWS = 200;

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  for (const child of children) made.append(child);
  return made;
}

async function copy(text, button) {
  button.dataset.label ??= button.textContent;  // a second click finds "copied" there
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // browsers that keep the clipboard from pages on a disk
    const area = element("textarea", {});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = button.dataset.label; }, 1200);
}

// Numbers by size, then texts by their letters; what is missing comes last whichever way it is sorted.
function compare(left, right, sign) {
  const missing = (left === null) - (right === null);
  if (missing) return missing;
  if (left === null) return 0;
  const numbers = typeof left === "number" && typeof right === "number";
  if (numbers) return sign * (left - right);
  return sign * String(left).localeCompare(String(right), undefined, { numeric: true });
}

// A quote before what a spreadsheet would compute, as in files of CSV.
function csvCell(text) {
  const shown = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(shown) ? `"${shown.replaceAll('"', '""')}"` : shown;
}

// A cell comes as its text, or as [text, value it is sorted by, class].
function readCell(cell) {
  if (!Array.isArray(cell)) return { text: String(cell), value: cell };
  return { text: cell[0], value: cell[1] === undefined ? cell[0] : cell[1], mark: cell[2] };
}

// content: {columns: [{title, number}], rows: [[cell, ...], ...]}
function makeTable(place, content, { caption = "", name = "Table", copies = {}, open = null } = {}) {
  const rows = content.rows.map((raw, index) => {
    const cells = raw.map(readCell);
    const known = cells.map((cell) => (typeof cell.value === "string" ? `${cell.text} ${cell.value}` : cell.text));
    return { cells, index, words: known.join(" ").toLowerCase() };  // a whole key, of which a cell shows the first digits
  });
  let shown = rows, limit = PAGE_ROWS, sorted = -1, sign = 1;
  const filter = element("input", { type: "search", placeholder: "filter rows", "aria-label": "Filter rows" });
  const count = element("span", { class: "count", role: "status" });
  const bar = element("div", { class: "bar" }, filter, count);
  const body = element("tbody", {});
  const heads = content.columns.map((column, index) => {
    const button = element("button", { type: "button", onclick: () => sortBy(index) }, column.title);
    return element("th", { scope: "col", class: column.number ? "number" : null }, button);
  });
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body);
  const more = element("button", { type: "button", onclick: () => { limit += 5 * PAGE_ROWS; draw(); } }, "show more rows");

  function draw() {
    const drawn = shown.slice(0, limit).map((row) => {
      const cells = row.cells.map((cell, index) => element("td", {
        class: [content.columns[index].number ? "number" : "", cell.mark || ""].join(" ").trim() || null,
      }, cell.text));
      const line = element("tr", { class: open ? "open" : null, tabindex: open ? 0 : null }, ...cells);
      if (open) {
        line.addEventListener("click", () => open(row.index));
        line.addEventListener("keydown", (event) => { if (event.key === "Enter") open(row.index); });
      }
      return line;
    });
    body.replaceChildren(...drawn);
    count.textContent = shown.length === rows.length
      ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`;
    more.hidden = shown.length <= limit;
  }

  function choose() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = rows.filter((row) => words.every((word) => row.words.includes(word)));
    if (sorted >= 0) {
      shown.sort((a, b) => compare(a.cells[sorted].value, b.cells[sorted].value, sign) || a.index - b.index);
    }
    draw();
  }

  function sortBy(index) {
    sign = sorted === index ? -sign : 1;
    sorted = index;
    heads.forEach((head, at) => {
      if (at === index) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    choose();
  }

  function csv() {
    const lines = [content.columns.map((column) => column.title), ...shown.map((row) => row.cells.map((cell) => cell.text))];
    return lines.map((line) => line.map(csvCell).join(",")).join("\n") + "\n";
  }

  filter.addEventListener("input", choose);
  bar.append(element("button", { type: "button", onclick: (event) => copy(csv(), event.target) }, "copy rows as CSV"));
  for (const [name, text] of Object.entries(copies)) {
    bar.append(element("button", { type: "button", onclick: (event) => copy(text, event.target) }, `copy as ${name}`));
  }
  if (caption) table.prepend(element("caption", {}, element("span", {}, caption)));
  const scroll = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption || name }, table);
  place.append(bar, scroll, more);
  draw();
}
