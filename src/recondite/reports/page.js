"use strict";
/* Pictures that are enlarged, and tables that are sorted; those of many rows, given as data, draw only the rows in sight. */
function made(tag, facts = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function enlarge(picture) {
  const close = made("button", { type: "button", text: "Close" });
  const dialog = made("dialog", { "aria-label": picture.alt || "picture" },
    made("img", { src: picture.src, alt: picture.alt }), made("p", { text: picture.title || picture.alt }), close);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function zooms(picture) {
  picture.classList.add("zooms");
  picture.tabIndex = 0;
  picture.setAttribute("role", "button");
  picture.setAttribute("aria-label", `Enlarge ${picture.title || picture.alt}`);
  picture.addEventListener("click", () => enlarge(picture));
  picture.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(picture);
  });
}

/* Compare what two cells say: numbers as numbers, before all words. */
function compared(a, b) {
  const [x, y] = [a, b].map((value) => (typeof value === "number" ? value : parseFloat(String(value).replace(/,/g, ""))));
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) && Number.isNaN(y) ? String(a ?? "").localeCompare(String(b ?? "")) : Number.isNaN(x) ? 1 : -1;
  return x - y || String(a).localeCompare(String(b));
}

/* Let the heads of a table sort; `sort` is told the column and 1 or -1. */
function sorting(heads, sort) {
  heads.forEach((head, column) => {
    const button = made("button", { type: "button", text: head.textContent });
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      sort(column, way);
    });
    head.replaceChildren(button);
  });
}

const ROW = 45, MARGIN = 8, PRINTED = 1000;

class DataTable extends HTMLElement {
  connectedCallback() {
    if (this.box) return;
    const given = JSON.parse(this.querySelector("script").textContent);
    Object.assign(this, given);
    this.shown = this.rows;
    const search = made("input", { type: "search", placeholder: "Filter", "aria-label": "Filter rows by a text" });
    search.addEventListener("input", () => this.filter());
    this.search = search;
    this.choice = null;
    if (this.filter_by !== null) {
      const words = [...new Set(this.rows.map((row) => row[this.filter_by]))].sort();
      this.choice = made("select", { "aria-label": `Show by ${this.columns[this.filter_by]}` }, made("option", { value: "", text: `every ${this.columns[this.filter_by]}` }),
        ...words.map((value) => made("option", { value, text: value })));
      this.choice.addEventListener("change", () => this.filter());
    }
    this.count = made("span", { class: "soft", role: "status" });
    const heads = this.columns.map((text, column) => made("th", { scope: "col", text, ...(this.numbers.includes(column) ? { class: "number" } : {}), ...(this.widths?.[column] ? { style: `width:${this.widths[column]}` } : {}) }));
    this.body = made("tbody");
    this.box = made("div", { class: "window", tabindex: "0", role: "group", "aria-label": this.words },
      made("table", { "aria-rowcount": this.rows.length }, made("thead", {}, made("tr", {}, ...heads)), this.body));
    sorting(heads, (column, way) => {
      this.shown = [...this.shown].sort((a, b) => way * compared(a[column], b[column]));
      this.order = [column, way];
      this.draw();
    });
    this.box.addEventListener("scroll", () => this.draw());
    addEventListener("beforeprint", () => this.draw(true));
    addEventListener("afterprint", () => this.draw());
    this.append(made("div", { class: "table-choices" }, search, ...(this.choice ? [this.choice] : []), this.count), this.box);
    this.filter();
  }

  filter() {
    const text = this.search.value.toLowerCase(), word = this.choice?.value || "";
    this.shown = this.rows.filter((row) => (!word || row[this.filter_by] === word) && (!text || row.some((cell, column) => column !== this.pictures && String(cell ?? "").toLowerCase().includes(text))));
    if (this.order) this.shown.sort((a, b) => this.order[1] * compared(a[this.order[0]], b[this.order[0]]));
    this.count.textContent = `${this.shown.length.toLocaleString("en-GB")} of ${this.rows.length.toLocaleString("en-GB")}`;
    this.box.scrollTop = 0;
    this.draw();
  }

  draw(all = false) {
    const from = all ? 0 : Math.max(0, Math.floor(this.box.scrollTop / ROW) - MARGIN);
    const to = all ? Math.min(this.shown.length, PRINTED) : Math.min(this.shown.length, from + Math.ceil(this.box.clientHeight / ROW) + 2 * MARGIN);
    const space = (rows) => (rows > 0 && !all ? [made("tr", { class: "space", "aria-hidden": "true" }, made("td", { colspan: this.columns.length, style: `height:${rows * ROW}px` }))] : []);
    const cell = (value, column, row) => {
      if (column === this.pictures) {
        const picture = value ? made("img", { src: value, alt: "", title: row[column + 1] ?? "" }) : "";
        if (value) zooms(picture);
        return made("td", {}, picture);
      }
      const text = typeof value === "number" ? Number(value.toPrecision(4)).toString() : String(value ?? "");
      const kind = this.numbers.includes(column) ? "number" : column === this.filter_by ? `word-${text}` : "";
      return made("td", { text, title: text, ...(kind ? { class: kind } : {}) });
    };
    this.body.replaceChildren(...space(from),
      ...this.shown.slice(from, to).map((row, place) => made("tr", { "aria-rowindex": from + place + 1 }, ...row.map((value, column) => cell(value, column, row)))),
      ...space(this.shown.length - to));
  }
}

customElements.define("data-table", DataTable);
for (const picture of document.querySelectorAll("figure img")) zooms(picture);
for (const table of document.querySelectorAll("table.sortable")) {
  const [head, ...rows] = table.rows;
  if (rows.length > 1) sorting([...head.cells], (column, way) => {
    head.after(...rows.sort((a, b) => way * compared(a.cells[column].textContent, b.cells[column].textContent)));
  });
}
for (const box of document.querySelectorAll(".wide")) {
  if (box.scrollWidth > box.clientWidth) { box.tabIndex = 0; box.setAttribute("role", "group"); box.setAttribute("aria-label", "table, scrolls sideways"); }
}
