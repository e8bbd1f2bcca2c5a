"use strict";

const DECISIONS = { k: "keep", d: "drop", c: "confirm", u: "undo" };
const SAID = { keep: "Keep", drop: "Drop", confirm: "As proposed", undo: "Undo" };
const FINDINGS_AT_ONCE = 60;

/* <audit-findings data-audits>: findings of audits in groups, one audit a line. What is selected is kept, dropped or
   confirmed; the picture selected last is shown large. */
class AuditFindings extends KeyedElement {
  build() {
    const select = (title) => made("select", { "aria-label": title, onchange: () => this.load() });
    this.audit = select("Audit");
    const names = this.dataset.audits.split("\n"), kept = new URL(location.href).searchParams;
    this.audit.append(...names.map((name) => made("option", { value: name, text: name })));
    if (names.includes(kept.get("audit"))) this.audit.value = kept.get("audit");
    this.wanted = kept.get("finding");
    this.kind = made("select", { "aria-label": "Kind of finding", onchange: () => this.list() });
    this.count = made("p", { class: "count soft", "aria-live": "polite" });
    this.stage = made("div", { class: "box-stage" });
    this.side = made("div", { class: "box-side facts soft" });
    this.groups = made("div", { class: "audit-groups" });
    this.more = made("button", { type: "button", class: "quiet", text: "Show more", onclick: () => this.further() });
    this.buttons = Object.entries(DECISIONS).map(([key, decision]) =>
      made("button", { type: "button", class: `say ${{ keep: "inlier", drop: "outlier" }[decision] || ""}`, onclick: () => this.decide(decision) },
        SAID[decision], made("kbd", { text: key, "aria-hidden": "true" })));
    const list = (which) => made("button", { type: "button", class: "quiet", text: `Export ${which}.txt`, onclick: () => this.take(which) });
    this.append(made("div", { class: "box-choices" }, this.audit, this.kind, list("keep"), list("drop")),
      made("div", { class: "box audit-box" }, made("div", { class: "audit-list" }, this.groups, this.more), made("div", {}, this.stage, this.side)),
      made("div", { class: "box-bar" }, made("div", { class: "box-buttons" }, ...this.buttons, this.count)));
    this.selected = new Map();
  }

  address(path = "", values = {}) {
    const asked = new URLSearchParams(values).toString();
    return `/page/audits/${encodeURIComponent(this.audit.value)}${path}${asked ? `?${asked}` : ""}`;
  }

  async ask(...what) {
    try {
      return await asked(...what);
    } catch (error) {
      this.side.replaceChildren(made("p", { class: "trouble", role: "alert", text: `This did not work: ${error.message}` }));
      return null;
    }
  }

  take(which) {
    made("a", { href: this.address(`/${which}.txt`), download: `${which}.txt` }).click();
  }

  async load() {
    const found = await this.ask(this.address());
    if (!found) return;
    const before = this.kind.value || this.wanted;
    this.tell(found);
    if ([...this.kind.options].some((option) => option.value === before)) this.kind.value = before;
    await this.list();
  }

  tell(found) {
    const chosen = this.kind.value;
    this.kind.replaceChildren(...found.kinds.map((one) =>
      made("option", { value: one.kind, text: `${one.kind.replaceAll("-", " ")}: ${one.count.toLocaleString("en-GB")}, ${one.decided.toLocaleString("en-GB")} decided` })));
    if (chosen) this.kind.value = chosen;
    this.count.textContent = `${counted(found.keep, "image")} kept, ${found.drop.toLocaleString("en-GB")} dropped, ${found.decided.toLocaleString("en-GB")} decided`;
  }

  async list() {
    remembered({ audit: this.audit.value, finding: this.kind.value });
    this.groups.replaceChildren();
    this.rows = [];
    this.selected.clear();
    this.choice();
    this.stage.replaceChildren(made("p", { class: "empty", text: this.kind.value ? "Select a picture." : "This audit found nothing." }));
    this.more.hidden = true;
    if (this.kind.value) await this.further();
  }

  async further() {
    const kind = this.kind.value;
    const found = await this.ask(this.address("/findings", { kind, start: this.rows.length, count: FINDINGS_AT_ONCE }));
    if (!found || kind !== this.kind.value) return;
    for (const row of found) {
      const last = this.groups.lastElementChild;
      const group = last && last.dataset.group === row.group ? last
        : made("div", { class: "gallery small audit-group", "data-group": row.group, role: "group", "aria-label": row.group || "without a group" });
      if (group !== last) this.groups.append(group);
      group.append(this.cell(row));
      this.rows.push(row);
    }
    this.more.hidden = found.length < FINDINGS_AT_ONCE;
  }

  cell(row) {
    const picture = made("img", { src: this.address("/thumbnail", { id: row.id }), alt: "", loading: "lazy" });
    picture.addEventListener("error", () => picture.replaceWith(made("span", { class: "no-picture", text: "no picture" })));
    row.cell = made("button", { type: "button", class: "shot", "aria-pressed": "false", title: row.reason, "data-id": row.id }, picture,
      made("span", { class: "chip" }), made("span", { class: "name", text: row.id }));
    row.cell.addEventListener("click", (event) => this.pick(row, event.shiftKey, event.ctrlKey || event.metaKey));
    this.mark(row);
    return row.cell;
  }

  mark(row) {
    const chip = row.cell.querySelector(".chip");
    chip.className = `chip ${row.keep ? "inlier" : "outlier"}`;
    chip.textContent = `${row.keep ? "keep" : "drop"}${row.decision ? " ✓" : ""}`;
    row.cell.setAttribute("aria-label", `${row.id}, ${row.decision ? "decided" : "proposed"}: ${row.keep ? "keep" : "drop"}`);
  }

  /* Select one, with Ctrl one more, with Shift all up to it. */
  pick(row, upTo, also) {
    const place = this.rows.indexOf(row);
    const from = upTo && this.last ? this.rows.indexOf(this.last) : place;
    if (!upTo && !also) this.selected.clear();
    if (also && this.selected.has(row.id)) this.selected.delete(row.id);
    else for (const one of this.rows.slice(Math.min(from, place), Math.max(from, place) + 1)) this.selected.set(one.id, one);
    this.last = row;
    this.choice();
    this.stage.replaceChildren(made("heat-viewer", { "data-source": this.address("/picture", { id: row.id }), "data-words": row.id }));
    this.side.replaceChildren(made("h3", { text: row.id }), ...[row.reason, row.label && `Label: ${row.label}`, row.group].filter(Boolean).map((text) => made("p", { text })));
  }

  choice() {
    for (const row of this.rows) row.cell.setAttribute("aria-pressed", String(this.selected.has(row.id)));
    for (const button of this.buttons) button.disabled = !this.selected.size;
  }

  async decide(decision) {
    if (!this.selected.size) return;
    const rows = [...this.selected.values()];
    const found = await this.ask(this.address("/decisions"), "POST", { ids: [...this.selected.keys()], decision });
    if (!found) return;
    this.tell(found);
    for (const row of this.rows.filter((one) => one.id in found.said)) this.mark(Object.assign(row, found.said[row.id]));
    const next = this.rows[this.rows.indexOf(rows[rows.length - 1]) + 1];
    if (decision !== "undo" && next) {
      this.pick(next, false, false);
      next.cell.focus();
    }
  }

  key(event) {
    const decision = DECISIONS[event.key];
    if (!decision || event.ctrlKey || event.metaKey || event.altKey || !this.offsetParent || event.target.closest?.("input, select, textarea")) return;
    event.preventDefault();
    this.decide(decision);
  }
}

customElements.define("audit-findings", AuditFindings);
