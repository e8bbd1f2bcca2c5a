
const KEYS = { i: "inlier", o: "outlier", s: "skip" };
const SHOWN = {
  review: "flagged and a random tenth", flagged: "flagged", sample: "a random tenth", "": "all",
  outlier: "outliers", invalid: "invalid", inlier: "inliers",
};
const LABELS = { none: "not labelled", "": "all", inlier: "inlier", outlier: "outlier", skip: "skipped" };
const MOST_KEPT = 100;
const ORDERS = { p_value: "lowest p-value first", newest: "newest first", oldest: "oldest first" };

/* <light-box data-screen>: the review. A label goes to the picture that is drawn, by its id; while none is, no key
   and no button labels anything. */
class LightBox extends KeyedElement {
  build() {
    const kept = new URL(location.href).searchParams;
    const choice = (name, title, options, first) => {
      const select = made("select", { "aria-label": title });
      for (const [value, text] of Object.entries(options)) select.append(made("option", { value, text }));
      const asked = kept.get(name) === "all" ? "" : kept.get(name);
      select.value = asked !== null && asked in options ? asked : first;
      select.addEventListener("change", () => {
        remembered({ [name]: select.value === first ? null : select.value || "all", event: null });
        this.load();
      });
      return select;
    };
    this.verdict = choice("show", "Show", SHOWN, "review");
    this.label = choice("labels", "Label", LABELS, "none");
    this.order = choice("order", "Order", ORDERS, "p_value");
    this.count = made("p", { class: "count", "aria-live": "polite" });
    this.stage = made("div", { class: "box-stage" });
    this.caption = made("h3", { class: "name", "aria-live": "polite" });
    this.facts = made("div", { class: "facts soft" });
    this.strip = made("div", { class: "strip", role: "group", "aria-label": "Queue" });
    this.buttons = Object.entries(KEYS).map(([key, label]) =>
      made("button", { type: "button", class: `say ${label}`, "data-focus": `say ${label}`, onclick: () => this.say(label) },
        label, made("kbd", { text: key, "aria-hidden": "true" })));
    this.several = made("button", { type: "button", class: "quiet", "aria-pressed": "false", text: "Select several", onclick: () => this.turn() });
    this.undoing = made("button", { type: "button", class: "quiet", "data-focus": "undo", onclick: () => this.undo() },
      "Undo", made("kbd", { text: "u", "aria-hidden": "true" }));
    const table = made("button", { type: "button", class: "quiet", text: "Export table", onclick: () => this.take("csv") });
    const images = made("button", { type: "button", class: "quiet", text: "Export images", onclick: () => this.take("zip") });
    const again = made("button", { type: "button", class: "quiet", text: "Refresh", onclick: () => this.load() });
    this.append(
      made("div", { class: "box-choices" }, this.verdict, this.label, this.order, this.several, again, table, images),
      made("div", { class: "box" }, this.stage, made("div", { class: "box-side" }, this.caption, this.facts)),
      made("div", { class: "box-bar" },
        made("div", { class: "box-buttons" }, ...this.buttons, this.undoing, this.count), this.strip),
    );
    this.memory = `said: ${this.dataset.screen}`;
    this.said = JSON.parse(sessionStorage.getItem(this.memory) ?? "[]");
    this.working = Promise.resolve();
    this.selected = null;
    this.rows = [];
    this.place = 0;
    this.left = 0;
  }

  chosen() {
    return { screen: this.dataset.screen, verdict: this.verdict.value, label: this.label.value };
  }

  take(kind) {
    const link = made("a", { href: `/v1/events.${kind}?${new URLSearchParams(this.chosen())}`, download: "" });
    link.click();
  }

  async load() {
    const ticket = (this.loading = {});
    const focused = this.cells?.findIndex((cell) => cell.dataset.focus === Focus.name) ?? -1;
    this.drawing();
    this.tell("Loading the queue of this screen…");
    let found;
    try {
      found = await asked(`/page/queue?${new URLSearchParams({ ...this.chosen(), order: this.order.value })}`);
    } catch (error) {
      if (ticket !== this.loading) return;
      this.rows = [];
      this.tell(`The queue of screen ${this.dataset.screen} cannot be read: ${error.message}`, "alarm");
      return;
    }
    if (ticket !== this.loading) return;
    this.rows = found.events;
    this.left = found.count;
    this.strip.replaceChildren(...this.rows.map((row, place) => this.entry(row, place)));
    if (this.selected) {
      this.spread(focused);
      return;
    }
    const wanted = new URL(location.href).searchParams.get("event");
    this.show(Math.max(0, this.rows.findIndex((row) => row.id === wanted)));
  }

  /** An image that was scored can be drawn, whatever the verdict. */
  static drawable(row) {
    return row.kept && row.instance_score !== null;
  }

  tell(text, kind = "") {
    this.caption.textContent = "";
    this.facts.textContent = "";
    this.stage.replaceChildren(made("p", { class: `empty ${kind}`, role: "status", text }));
  }

  entry(row, place) {
    const inside = LightBox.drawable(row)
      ? made("img", { src: `/page/events/${row.id}/thumbnail`, alt: "", loading: "lazy" })
      : made("span", { class: "no-picture", text: row.verdict === "invalid" ? "invalid" : "not kept" });
    const button = made("button", {
      type: "button", class: `frame ${row.verdict}`, "data-event": row.id, "data-focus": `frame ${row.id}`, title: row.name,
      "aria-label": `${row.name}, ${row.verdict}, p-value ${inDigits(row.p_value)}`,
      onclick: () => this.show(place),
    }, inside, made("span", { class: "said", text: LightBox.marks(row) }));
    return button;
  }

  static nearest(sources) {
    return [made("h3", { text: "The good images most like it" }),
      made("div", { class: "nearest" }, ...sources.map((src) => made("img", { src, alt: "a good image", title: "a good image" }))),
      made("p", { text: "As the screen keeps them: grey, at most 16 x 16 pixels." })];
  }

  /* How often an image came, where it did more than once, and what was said of it. */
  static marks(row) {
    const times = Object.keys(row.copies).length;
    return [times > 1 ? `${times.toLocaleString("en-GB")} x` : "", row.label || ""].filter(Boolean).join(" ");
  }

  /* Turn to many pictures at once, or back to one. */
  turn() {
    this.selected = this.selected ? null : new Set();
    this.several.setAttribute("aria-pressed", String(Boolean(this.selected)));
    this.strip.hidden = Boolean(this.selected);
    if (this.selected) this.spread();
    else this.show(this.place);
  }

  /* Show all of the queue as pictures to select; only what is drawn can be. Where the picture that had the keyboard's
     focus is gone, that which has its place gets it. */
  spread(focused = -1) {
    this.drawing();
    this.selected.clear();
    if (!this.rows.length) {
      this.tell("No image fits these choices.");
      return;
    }
    const cell = (row) => {
      const button = made("button", { type: "button", class: "shot", "aria-pressed": "false", "data-event": row.id, "data-focus": row.id, title: row.name });
      const picture = LightBox.drawable(row)
        ? made("img", { src: `/page/events/${row.id}/thumbnail`, alt: "" })
        : made("span", { class: "no-picture", text: row.kept ? "invalid" : "not kept" });
      const marks = LightBox.marks(row);
      button.append(picture, made("span", { class: `chip ${row.verdict}`, text: row.verdict }), made("span", { class: "name", text: row.name }),
        made("span", { class: "soft", text: `p ${inDigits(row.p_value)}${marks ? `, ${marks}` : ""}` }));
      button.disabled = picture.tagName === "IMG";
      picture.addEventListener("load", () => { button.disabled = false; });
      button.addEventListener("click", (event) => this.pick(row, event.shiftKey));
      return button;
    };
    this.cells = this.rows.map(cell);
    if (focused >= 0 && !this.rows.some((row) => row.id === Focus.name)) Focus.name = this.rows[Math.min(focused, this.rows.length - 1)].id;
    this.stage.replaceChildren(made("div", { class: "gallery table", role: "group", "aria-label": "Pictures to select" }, ...this.cells));
    const all = made("button", { type: "button", class: "quiet", text: "Select all shown", onclick: () => this.pickAll() });
    this.caption.textContent = "Select several";
    this.facts.replaceChildren(made("p", { text: "Click pictures, with Shift those between, then say what they are. One undo takes it back." }), all,
      made("p", { class: "selected", role: "status" }));
    this.selection();
  }

  pick(row, upTo) {
    const place = this.rows.indexOf(row);
    const [from, to] = upTo && this.lastPicked >= 0 ? [this.lastPicked, place].sort((a, b) => a - b) : [place, place];
    const on = !this.selected.has(row);
    for (let one = from; one <= to; one += 1) {
      if (this.cells[one].disabled) continue;
      if (on) this.selected.add(this.rows[one]);
      else this.selected.delete(this.rows[one]);
    }
    this.lastPicked = place;
    this.selection();
  }

  pickAll() {
    this.rows.forEach((row, place) => { if (!this.cells[place].disabled) this.selected.add(row); });
    this.selection();
  }

  selection() {
    this.cells.forEach((cell, place) => cell.setAttribute("aria-pressed", String(this.selected.has(this.rows[place]))));
    this.facts.querySelector(".selected").textContent = `${this.selected.size.toLocaleString("en-GB")} selected`;
    for (const button of this.buttons) button.disabled = !this.selected.size;
    this.undoing.disabled = !this.said.length;
    this.counts();
  }

  /* From here until the next picture is on the screen nothing can be labelled. */
  drawing() {
    this.drawn = null;
    this.ticket = {};
    delete this.stage.dataset.drawn;
    for (const button of this.buttons) button.disabled = true;
    return this.ticket;
  }

  async show(place) {
    const ticket = this.drawing();
    this.place = place;
    const row = this.rows[place];
    this.undoing.disabled = !this.said.length;
    this.counts();
    if (!row) {
      this.tell(this.verdict.value === "review" && this.label.value === "none"
        ? `Nothing to review on screen ${this.dataset.screen}. Flagged images, and a random tenth of the others, appear here as they come.`
        : "No image fits these choices.");
      return;
    }
    for (const frame of this.strip.children) frame.removeAttribute("aria-current");
    const frame = this.strip.children[place];
    frame.setAttribute("aria-current", "true");
    this.strip.scrollLeft = frame.offsetLeft - (this.strip.clientWidth - frame.clientWidth) / 2;
    const viewer = LightBox.drawable(row)
      ? made("heat-viewer", {
        "data-source": `/page/events/${row.id}/picture`, "data-heat": `/page/events/${row.id}/heat-map`,
        "data-outline": `/page/events/${row.id}/outline`,
        "data-words": row.name,
      })
      : made("p", { class: "empty", text: row.kept ? "The file cannot be read as a picture."
        : "The picture was not kept: start the service with --keep-images flagged." });
    this.caption.replaceChildren(made("span", { class: `chip ${row.verdict}`, text: row.verdict }), " ", row.name);
    this.facts.replaceChildren();
    this.stage.replaceChildren(viewer);
    await (viewer.drawn || Promise.resolve());
    if (ticket !== this.ticket) return;
    // The second frame begins when the first, with the picture in it, has been painted.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (ticket !== this.ticket) return;
      this.drawn = row;
      this.stage.dataset.drawn = row.id;
      for (const button of this.buttons) button.disabled = false;
    }));
    remembered({ event: row.id });
    for (const next of this.rows.slice(place + 1, place + 3)) {
      if (next.kept) new Image().src = `/page/events/${next.id}/picture`;
    }
    try {
      const answer = await fetch(`/page/events/${row.id}/facts`);
      const text = await answer.text();
      if (ticket === this.ticket && answer.ok) this.facts.innerHTML = text;
      const alike = LightBox.drawable(row) ? await asked(`/page/events/${row.id}/nearest`) : [];
      if (ticket === this.ticket && alike.length) this.facts.append(...LightBox.nearest(alike));
    } catch { /* the picture is there without them */ }
  }

  counts() {
    const text = this.rows.length ? `${counted(this.left, "image")} left` : "";
    const mine = this.said.length ? `, ${this.said.length.toLocaleString("en-GB")} labelled` : "";
    this.count.textContent = text + mine;
  }

  say(label) {
    const rows = this.selected ? [...this.selected] : this.drawn ? [this.drawn] : [];
    if (!rows.length) return;
    this.selected?.clear();  // none of them is labelled a second time
    this.drawing();
    const saying = (this.saying = this.inTurn(() => this.write(rows, label)));
    saying.finally(() => { if (saying === this.saying) this.saying = null; });
  }

  /* Labels are written and taken back one after the other, as the keys were pressed. */
  inTurn(work) {
    return (this.working = this.working.then(work, work));
  }

  /* Label pictures and turn to the next; return whether they are labelled. */
  async write(rows, label) {
    const before = rows.map((row) => ({ row, label: row.label, seen: { ...row.copies } }));
    if ((await this.send(rows, label)) !== "written") return false;
    this.keep([...this.said, before]);
    this.left -= before.flatMap((one) => Object.values(one.seen)).filter((one) => one === null).length;
    const next = this.rows.findIndex((one, place) => place > this.place && one.label === null);
    if (next >= 0 && !this.selected) this.show(next);
    else this.load();
    return true;
  }

  /* Keep what can be taken back, and in this tab, for when the page is loaded anew, the latest of it. */
  keep(said) {
    this.said = said;
    try {
      sessionStorage.setItem(this.memory, JSON.stringify(said.slice(-MOST_KEPT)));
    } catch {  // there are too many identical images
      sessionStorage.removeItem(this.memory);
    }
  }

  /* Take back what was said last; where that is still being written, that and, if it is not, nothing. */
  undo() {
    const meant = this.saying;
    this.inTurn(async () => { if (!meant || (await meant)) await this.takeBack(); });
  }

  /* Take back what was said last, of all pictures that it was said of. */
  async takeBack() {
    const last = this.said.at(-1);
    if (!last) return;
    this.keep(this.said.slice(0, -1));
    this.drawing();
    for (const label of new Set(last.flatMap((one) => Object.values(one.seen)))) {
      const rows = last.filter((one) => Object.values(one.seen).includes(label));
      const ids = (one) => Object.keys(one.seen).filter((id) => one.seen[id] === label);
      const how = await this.send(rows.map((one) => one.row), label || "none", new Map(rows.map((one) => [one.row, ids(one)])));
      if (how === "lost") this.keep([...this.said, last]);
      this.undoing.disabled = !this.said.length;
      this.counts();
      if (how !== "written") return;
    }
    for (const one of last) one.row.label = one.label;
    this.left += last.flatMap((one) => Object.values(one.seen)).filter((one) => one === null).length;
    if (this.selected) {
      this.load();
      return;
    }
    const place = this.rows.indexOf(last[0].row);  // not of a queue that was read since: its rows know another label
    if (place >= 0) this.show(place);
    else { remembered({ event: last[0].row.id }); this.load(); }
  }

  /* Return "written"; "refused" where somebody else has labelled an image, or "lost" where there was no answer: then
     say why and draw again.
     Identical images are labelled with the one that is drawn; `only` says which of them, where it is not all. */
  async send(rows, label, only = null) {
    const most = Number(this.dataset.most), labels = {}, refusals = new Set();
    let how = "written", trouble;
    const seen = rows.flatMap((row) => (only ? only.get(row) : Object.keys(row.copies)).map((id) => [id, row.copies[id]]));
    try {
      for (let start = 0; start < seen.length; start += most) {
        const found = await asked("/page/labels", "POST", { label, seen: Object.fromEntries(seen.slice(start, start + most)) });
        Object.assign(labels, found.labels);
        for (const id of found.refused) refusals.add(id);
      }
      const refused = rows.filter((row) => Object.keys(row.copies).some((id) => refusals.has(id)));
      if (refused.length) {
        how = "refused";
        const said = `${refused[0].name} meanwhile: ${labels[refused[0].id] || "not labelled"}`;
        trouble = `Somebody else has labelled ${said}${refused.length > 1 ? `, and ${refused.length - 1} more` : ""}.`;
      }
    } catch (error) {
      how = "lost";
      const some = Object.keys(labels).length ? ` to all ${seen.length.toLocaleString("en-GB")} of these` : "";
      trouble = `The label of ${rows.length === 1 ? rows[0].name : `${rows.length} images`} was not written${some}: ${error.message}`;
    }
    for (const row of rows) {
      for (const id of Object.keys(row.copies)) if (id in labels) row.copies[id] = labels[id];
      row.label = row.copies[row.id];
      const frame = this.strip.querySelector(`[data-event="${row.id}"] .said`);
      if (frame) frame.textContent = LightBox.marks(row);
    }
    if (!trouble) return how;
    if (this.selected) this.spread();
    else await this.show(this.place);
    this.facts.prepend(made("p", { class: "trouble", role: "alert", text: trouble }));
    return how;
  }

  key(event) {
    if (!this.checkVisibility() || event.altKey) return;
    if (event.repeat && event.target.closest(".say")) event.preventDefault();  // Enter held down labels one picture
    if (event.repeat) return;
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    const key = event.key.toLowerCase();
    if (key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (event.ctrlKey || event.metaKey) return;
    else if (key in KEYS) this.say(KEYS[key]);
    else if (key === "u") this.undo();
    else if (key === "escape" && this.selected) this.turn();
    else if (this.selected) return;
    else if (key === "arrowleft" || key === "arrowright") {
      const place = this.place + (key === "arrowright" ? 1 : -1);
      if (this.rows[place]) this.show(place);
    } else return;
    event.preventDefault();
  }
}

customElements.define("light-box", LightBox);
