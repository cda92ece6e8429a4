"use strict";
(() => {
  const table = document.querySelector("#scans-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({
    row,
    text: row.dataset.text.toLowerCase(),
    site: row.dataset.site,
    state: row.dataset.state,
    role: row.dataset.role,
  }));
  const heads = Array.from(table.tHead.rows[0].cells);
  const controls = document.querySelector("#scans-controls");
  const said = document.querySelector("#scans-said");
  const [words, site, state] = ["words", "site", "state"].map((name) =>
    document.querySelector(`#scans-${name}`));
  controls.hidden = false;

  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of rows) {
      const fits = wanted.every((word) => item.text.includes(word))
        && (!site.value || item.site === site.value)
        && (!state.value || item.state === state.value);
      item.row.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    said.textContent = `${shown} of ${rows.length} scans`;
  };

  const value = (row, column) => {
    const cell = row.cells[column];
    const raw = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
    if (raw === "") return null;
    const number = Number(raw);
    return Number.isNaN(number) ? raw : number;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const sort = (column) => {
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((item, place) => ({ item, place, key: value(item.row, column) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) {
        return (a.key === null) - (b.key === null) || a.place - b.place;
      }
      return (down ? -1 : 1) * compare(a.key, b.key) || a.place - b.place;
    });
    const fragment = document.createDocumentFragment();
    for (const entry of keyed) fragment.append(entry.item.row);
    body.append(fragment);
  };

  heads.forEach((head, column) => {
    if (head.dataset.plain !== undefined) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });

  const clean = (text) => text.replace(/[\t\r\n]+/g, " ").trim();
  document.querySelector("#scans-save").addEventListener("click", () => {
    const columns = heads.map((head, k) => k).filter((k) => heads[k].dataset.name);
    const lines = [columns.map((k) => heads[k].dataset.name).join("\t")];
    for (const row of body.rows) {
      if (row.hidden) continue;
      lines.push(columns.map((k) => {
        const found = value(row, k);
        return found === null ? "n/a" : clean(String(found));
      }).join("\t"));
    }
    const link = document.createElement("a");
    const blob = new Blob([lines.join("\n") + "\n"], { type: "text/tab-separated-values" });
    link.href = URL.createObjectURL(blob);
    link.download = "scans.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  let waiting = 0;
  words.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 80);
  });
  for (const control of [site, state]) control.addEventListener("change", show);
  show();
})();
