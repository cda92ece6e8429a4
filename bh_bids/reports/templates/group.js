"use strict";
(() => {
  const table = document.querySelector("#scans-table");
  if (!table) return;
  const body = table.tBodies[0];
  const part = (name) => document.querySelector(`#scans-${name}`);
  // Rows beyond the first page wait in a template: they cost no layout until they are shown.
  const waiting = part("more");
  const rows = [...body.rows, ...(waiting ? waiting.content.children : [])].map((row, place) => ({
    row,
    place,
    text: row.dataset.text.toLowerCase(),
    site: row.dataset.site,
    state: row.dataset.state,
  }));
  const heads = Array.from(table.tHead.rows[0].cells);
  const [words, site, state] = ["words", "site", "state"].map(part);
  const size = Number(table.dataset.page);
  let order = rows;
  let fitting = rows;
  let first = 0;
  part("controls").hidden = false;

  const draw = () => {
    body.replaceChildren(...fitting.slice(first, first + size).map((item) => item.row));
    const last = Math.min(first + size, fitting.length);
    part("pages").hidden = fitting.length <= size;
    part("place").textContent = `${first + 1} to ${last} of ${fitting.length}`;
    part("back").disabled = first === 0;
    part("on").disabled = last === fitting.length;
  };
  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    fitting = order.filter((item) => wanted.every((word) => item.text.includes(word))
      && (!site.value || item.site === site.value)
      && (!state.value || item.state === state.value));
    first = 0;
    part("said").textContent = `${fitting.length} of ${rows.length} scans`;
    draw();
  };
  const turn = (step) => {
    first += step;
    draw();
    table.parentElement.scrollTop = 0;
  };
  part("back").addEventListener("click", () => turn(-size));
  part("on").addEventListener("click", () => turn(size));

  const written = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  };
  const value = (row, column) => {
    const raw = written(row, column);
    if (raw === "") return null;
    const number = Number(raw);
    return Number.isNaN(number) ? raw : number;
  };
  const collator = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return collator.compare(String(a), String(b));
  };
  const sort = (column) => {
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((item) => ({ item, key: value(item.row, column) }));
    keyed.sort((a, b) => {
      const place = a.item.place - b.item.place;
      if (a.key === null || b.key === null) {
        return (a.key === null) - (b.key === null) || place;
      }
      return (down ? -1 : 1) * compare(a.key, b.key) || place;
    });
    order = keyed.map((entry) => entry.item);
    show();
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
  part("save").addEventListener("click", () => {
    const columns = heads.map((head, k) => k).filter((k) => heads[k].dataset.name);
    const lines = [columns.map((k) => heads[k].dataset.name).join("\t")];
    for (const { row } of fitting) {
      // As it is written: a site "01" is no number.
      lines.push(columns.map((k) => clean(written(row, k)) || "n/a").join("\t"));
    }
    const link = document.createElement("a");
    const blob = new Blob([lines.join("\n") + "\n"], { type: "text/tab-separated-values" });
    link.href = URL.createObjectURL(blob);
    link.download = "scans.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  let typing = 0;
  words.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(show, 80);
  });
  for (const control of [site, state]) control.addEventListener("change", show);
  show();
})();
