
/* Screens made in the browser, and their versions. All that is made is on the server, so that a reload shows it again. */

/* While work goes on that cannot say how far it is, say in a place that it does, and for how long; return its outcome. */
async function waitedFor(place, words, work) {
  const seconds = made("span", { "aria-hidden": "true" }), began = Date.now();
  const row = made("div", { class: "row" }, made("progress", { "aria-label": words }),
    made("span", { role: "status", text: words }), seconds);
  const timer = setInterval(() => { seconds.textContent = `${Math.round((Date.now() - began) / 1000)} s`; }, 1000);
  place.prepend(row);
  try {
    return await work;
  } finally {
    clearInterval(timer);
    row.remove();
  }
}

function inBytes(count) {
  return count < 1e6 ? `${Math.ceil(count / 1e3).toLocaleString("en-GB")} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

function percent(rate) {
  return Number((100 * rate).toPrecision(2)).toString();
}

/* Say of files that were not taken how many they are, and why the first was not; nothing where all were. */
function ofFailures(failures) {
  return failures.length > 1 ? `${failures.length} files were not taken. The first: ${failures[0]}` : failures[0] || "";
}

/* The same files are learnt from in the same order, however they come. */
function inOrder(a, b) {
  return a.localeCompare(b, "en", { numeric: true });
}

/* Return the files of a drop, those in its folders too, in the order of their names. */
async function filesOf(items) {
  const found = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (!entry.name.startsWith(".")) found.push({ file, path: entry.fullPath });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const one of some) await walk(one);
    }
  };
  for (const entry of [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean)) await walk(entry);
  return found.sort((a, b) => inOrder(a.path, b.path)).map((one) => one.file);
}

/* A place to drop files on, with buttons to choose them; `take` gets the files. */
function dropPlace(words, buttons, take) {
  const place = made("div", { class: "drop-place" }, made("p", { text: words }));
  const row = made("div", { class: "row" });
  for (const [text, facts] of buttons) {
    const input = made("input", { type: "file", multiple: "", hidden: "", "aria-hidden": "true", tabindex: "-1", ...facts });
    input.addEventListener("change", async () => {
      const path = (file) => file.webkitRelativePath || file.name;
      const files = [...input.files].filter((file) => !file.name.startsWith(".")).sort((a, b) => inOrder(path(a), path(b)));
      input.value = "";
      await take(files);
    });
    row.append(made("button", { type: "button", class: "quiet", text, onclick: () => input.click() }), input);
  }
  place.append(row);
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", async (event) => {
    event.preventDefault();
    place.classList.remove("over");
    await take(await filesOf(event.dataTransfer.items));
  });
  return place;
}

const ZIP = /\.(zip|tar)$/i;
const AT_ONCE = 4, AGAIN = 2000;
const MOST_TRIED = 50;
const PUBLISHING = "Publishing: the version is written, tried out and taken into service.";
const STEPS = {
  starting: "Starting", "reading images": "Reading the images", training: "Learning what is normal",
  features: "Looking at features", "principal components": "Learning what is normal",
  calibrating: "Calibrating", screening: "Judging the images it was given",
};

/* <new-screen>: good images, where they count, the fit, what came of it, a trial, and the name to publish under. */
class NewScreen extends HTMLElement {
  connectedCallback() {
    if (this.childElementCount) return;
    this.sending = null;
    this.build();
    this.find();
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
  }

  build() {
    this.trouble = made("p", { class: "trouble", role: "alert" });
    this.count = made("p", { "aria-live": "polite" });
    this.refusals = { images: made("details", { class: "soft" }), defects: made("details", { class: "soft" }) };
    this.samples = made("div", { class: "gallery small" });
    this.sendRow = this.sender();
    const choices = [["Choose a folder", { webkitdirectory: "" }], ["Choose pictures or a zip", { accept: "image/*,.zip,.tar,.npy,.tif,.tiff" }]];
    this.drop = dropPlace("Drop a folder of good images here, or a ZIP file of them. Thirty or more; the more, the lower the rate of false alarms can be.",
      choices, (files) => this.take(files, "images"));
    const images = this.card("1", "Good images", this.drop, this.sendRow, this.count, this.refusals.images, this.samples);
    if (this.dataset.places) {
      const place = made("input", { type: "text", "aria-label": "folder or address on the server", placeholder: "/data/good or s3://bucket/good" });
      const button = made("button", { type: "button", class: "quiet", text: "Take images from the server",
        onclick: () => this.takePlace(place.value.trim()) });
      this.drop.append(made("div", { class: "row" }, place, button));
    }

    this.region = made("region-drawing");
    this.region.addEventListener("region", (event) => this.act(() => asked(this.at("region"), "PUT", { polygons: event.detail })));
    this.partly = made("summary");
    this.where = made("details", {}, this.partly, this.region);
    const counts = this.card("2", "What counts", made("p", { class: "soft", text: "By default the whole image." }), this.where);

    this.defects = made("div", { class: "gallery small" });
    this.countDefects = made("p", { "aria-live": "polite" });
    this.defectRow = this.sender();
    const some = [["Choose pictures or a zip", { accept: "image/*,.zip,.tar,.npy,.tif,.tiff" }]];
    this.dropDefects = dropPlace("Drop 3 to 50 pictures of defects that you know.", some, (files) => this.take(files, "defects"));
    const known = this.card("3", "Known defects, if you like", made("p", { class: "soft",
      text: "Not needed: whatever is unlike the good images is found. With a few pictures of a defect, the like of it is told better; if they do not help, they are left out, and it is said why." }),
      this.dropDefects, this.defectRow, this.countDefects, this.refusals.defects, this.defects);

    this.alpha = made("input", { type: "number", min: "0.0001", max: "0.5", step: "any", placeholder: "automatic", "aria-label": "share of good images that may be flagged" });
    this.suspects = made("input", { type: "checkbox" });
    this.fitting = made("button", { type: "button", class: "main", text: "Learn", onclick: () => this.fit() });
    this.cancel = made("button", { type: "button", class: "quiet", text: "Cancel", onclick: () => this.act(() => asked(this.at("cancel"), "POST", {})) });
    this.step = made("p", { role: "status" });
    this.fitBar = made("progress", { "aria-label": "progress of the fit" });
    this.fitRow = made("div", { hidden: "" }, this.step, made("div", { class: "row" }, this.fitBar, this.cancel));
    this.asking = made("div", { class: "row" },
      made("label", { class: "field" }, "Share of good images that may be flagged", this.alpha),
      made("label", { class: "check" }, this.suspects, "bad images may hide among these: leave out those that lie far out"), this.fitting);
    const learn = this.card("4", "Learn", made("p", { class: "soft", text: "The images decide on the detector. The service goes on judging meanwhile." }), this.asking, this.fitRow);

    this.result = made("div", { class: "result" });
    this.found = this.card("5", "What came of it", this.result);

    this.trialList = made("div", { class: "trials", "aria-live": "polite" });
    this.trial = this.card("6", "Try it", made("p", { class: "soft", text: "With a few bad images, and good ones it has not seen. Nothing is written down." }),
      dropPlace("Drop pictures here.", [["Choose pictures", { accept: "image/*,.npy,.tif,.tiff" }]], (files) => this.tryOut(files)), this.trialList);

    this.name = made("input", { type: "text", maxlength: "64", list: "screen-names", autocomplete: "off", placeholder: "bottle-caps", "aria-label": "name of the screen" });
    const names = made("datalist", { id: "screen-names" }, ...this.dataset.screens.split(" ").filter(Boolean).map((value) => made("option", { value })));
    this.publishing = made("button", { type: "button", class: "main", text: "Publish", onclick: () => this.publish() });
    this.publication = this.card("7", "Publish", made("p", { class: "soft", text: "Under a new name, or as the next version of a screen that is there. Earlier versions stay, to go back to." }),
      made("div", { class: "row" }, made("label", { class: "field" }, "Name", this.name), names, this.publishing), this.publicly = made("div"));

    this.discarding = made("button", { type: "button", class: "quiet", text: "Discard and begin anew", onclick: () => this.discard() });
    this.head = made("div", { class: "row apart" }, made("h2", { text: "New screen" }), this.discarding);
    this.append(this.head, this.trouble, images, counts, known, learn, this.found, this.trial, this.publication);
    this.cards = { counts, known, learn };
    this.show(null);
  }

  card(number, title, ...children) {
    return made("section", { class: "card step", "aria-label": title },
      made("h3", {}, made("span", { class: "step-number", "aria-hidden": "true", text: number }), title), ...children);
  }

  at(what = "") {
    return `/page/drafts/${this.draft.id}${what ? `/${what}` : ""}`;
  }

  image(name, what = "", kind = "images") {
    return this.at(`${kind}/${encodeURIComponent(name)}${what ? `/${what}` : ""}`);
  }

  /* A small picture; of one that cannot be read, that it cannot. */
  small(name, kind = "images", alt = "") {
    const picture = made("img", { src: this.image(name, "thumbnail", kind), alt, loading: "lazy" });
    picture.addEventListener("error", () => picture.replaceWith(made("span", { class: "no-picture", text: "cannot be read", title: name })));
    return picture;
  }

  /* How far files are on their way, and a button to stop it. */
  sender() {
    const bar = made("progress", { "aria-label": "files sent" });
    return made("div", { class: "row", hidden: "" }, bar,
      made("button", { type: "button", class: "quiet", text: "Stop sending", onclick: () => { this.sending = null; } }));
  }

  async find() {
    try {
      const drafts = await asked("/page/drafts");
      const wanted = new URL(location.href).searchParams.get("draft");
      this.show(drafts.find((one) => one.id === wanted) || drafts[0] || null);
      const lost = this.sending ? 0 : UnderWay.lost("files");
      if (lost) this.say(`The page was loaded anew while files were being sent: ${counted(lost, "file")} ${lost === 1 ? "is" : "are"} missing, to be sent again.`);
    } catch (error) { this.say(error.message); }
  }

  say(text) {
    this.trouble.textContent = text;
    if (text) this.trouble.scrollIntoView({ block: "nearest" });
  }

  /* Do something that answers with the draft as it then is, and show it. */
  async act(work) {
    this.say("");
    try {
      this.show(await work());
      return true;
    } catch (error) {
      if (error.status === 404) await this.find();  // it was published or discarded elsewhere: show what is there
      this.say(error.message);
      return false;
    }
  }

  show(draft) {
    const before = this.draft?.state;
    this.draft = draft;
    const state = draft?.state || "collecting", busy = state === "fitting", some = Boolean(draft?.count);
    if (draft) remembered({ draft: draft.id });
    this.discarding.hidden = !draft;
    this.drop.toggleAttribute("inert", busy);
    for (const card of Object.values(this.cards)) card.hidden = !some;
    for (const card of [this.cards.counts, this.cards.known]) card.toggleAttribute("inert", busy);
    this.found.hidden = this.trial.hidden = this.publication.hidden = state !== "fitted";
    this.count.textContent = draft ? `${counted(draft.count, "image")}, ${inBytes(draft.bytes)}.` : "";
    this.showDefects(draft?.defects || []);
    for (const [kind, place] of Object.entries(this.refusals)) {
      const count = draft?.refused[kind] || 0, latest = draft?.refusals[kind] || [];
      const more = count > latest.length ? ` The latest ${latest.length}:` : "";
      place.hidden = !count;
      place.replaceChildren(made("summary", { text: `${counted(count, "file")} left out.${more}` }),
        made("ul", {}, ...latest.map((text) => made("li", { text }))));
    }
    this.sampled(some && !this.sending ? draft.images : []);
    if (some) this.region.show(this.image(draft.images[0]), draft.polygons, draft.id);
    const shapes = (draft?.polygons?.polygons || []).length + (draft?.polygons?.ignore || []).length;
    this.partly.textContent = shapes ? `Only part of each image counts: ${counted(shapes, "shape")}` : "Only part of each image counts";
    this.asking.hidden = busy;
    this.fitting.textContent = state === "fitted" ? "Learn again" : "Learn";
    this.fitRow.hidden = !busy;
    if (busy) {
      const of = draft.total ? `: ${draft.done.toLocaleString("en-GB")} of ${draft.total.toLocaleString("en-GB")}` : "";
      this.step.textContent = `${STEPS[draft.step] || draft.step}${of}, ${Math.round(draft.seconds)} s`;
      if (draft.total) { this.fitBar.max = draft.total; this.fitBar.value = draft.done; } else this.fitBar.removeAttribute("value");
    }
    if (state === "fitted") {
      if (this.told !== draft.fit) {
        this.tell(draft.result);
        this.trialList.replaceChildren();  // judged by another fit
      }
      if (before === "fitting") this.found.scrollIntoView({ block: "start" });
    } else {
      this.result.replaceChildren();
      this.trialList.replaceChildren();
    }
    this.told = draft?.fit;
    if (draft?.error) this.say(draft.error);
    clearTimeout(this.timer);
    if (busy) this.timer = setTimeout(() => this.follow(), 700);
  }

  async follow() {
    try {
      this.show(await asked(this.at()));
    } catch (error) {
      this.say(error.status ? `How far it is cannot be told: ${error.message}` : "The service does not answer; this goes on when it does.");
      this.timer = setTimeout(() => this.follow(), 3000);
    }
  }

  sampled(names) {
    const key = names.join("|");
    if (key === this.sampledKey) return;
    this.sampledKey = key;
    const shown = names.slice(0, 12).map((name) => this.small(name, "images", name));
    const more = this.draft && this.draft.count > shown.length && shown.length
      ? [made("p", { class: "soft more", text: `and ${(this.draft.count - shown.length).toLocaleString("en-GB")} more` })] : [];
    this.samples.replaceChildren(...shown, ...more);
  }

  showDefects(names) {
    const few = names.length && names.length < 3 ? " Three or more are needed." : "";
    this.countDefects.textContent = names.length ? `${counted(names.length, "known defect")}.${few}` : "";
    const key = names.join("|");
    if (key === this.defectsKey) return;
    this.defectsKey = key;
    this.defects.replaceChildren(...names.map((file) => {
      const name = file.replace(/^\d+-/, "");
      return made("div", { class: "shot" }, this.small(file, "defects"),
        made("span", { class: "name", text: name, title: name }),
        made("button", { type: "button", class: "quiet", text: "Leave out", "aria-label": `Leave out ${name}`,
          onclick: () => this.act(() => asked(this.image(file, "", "defects"), "DELETE")) }));
    }));
  }

  /* Begin a screen where none is being made, and return whether one is. */
  async begun() {
    return Boolean(this.draft) || this.act(() => asked("/page/drafts", "POST", {}));
  }

  /* Take the good images of a place that the server can read. */
  async takePlace(place) {
    if (!place) return this.say("Name a folder of the server, or an address, to take images from.");
    return (await this.begun()) && this.act(() => asked(this.at("place"), "POST", { place }));
  }

  /* Send files of a kind: "images", which are good, or "defects". */
  async take(files, kind) {
    if (!files.length) return;
    if (this.sending) return this.say("Other files are being sent: wait for them, or stop sending them first.");
    this.say("");
    UnderWay.add("files", files.length);
    if (!(await this.begun())) return UnderWay.add("files", -files.length);
    const ticket = (this.sending = {});
    const [row, count] = kind === "images" ? [this.sendRow, this.count] : [this.defectRow, this.countDefects];
    const bar = row.querySelector("progress");
    row.hidden = false;
    bar.max = files.length;
    bar.value = 0;
    const queue = [...files], failures = [], first = this.draft.next[kind];
    let sent = 0;
    const one = async () => {
      for (let file = queue.shift(); file && ticket === this.sending; file = queue.shift()) {
        const number = first + files.indexOf(file);
        try {
          if (!ZIP.test(file.name)) this.checkSize(file);
          const address = ZIP.test(file.name) ? `/page/drafts/archive?draft=${this.draft.id}&kind=${kind}`
            : `${this.at(kind)}?${new URLSearchParams({ name: file.name.slice(-1000), number })}`;
          await this.sent(address, file, ticket, count);
        } catch (error) { failures.push(`${file.name}: ${error.message}`); }
        sent += 1;
        UnderWay.add("files", -1);
        bar.value = sent;
        count.textContent = `Sending: ${sent.toLocaleString("en-GB")} of ${counted(files.length, "file")}.`;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
    UnderWay.add("files", sent - files.length);
    window.socket?.connect();  // it may have been let go: see `sent`
    if (ticket === this.sending) this.sending = null;
    row.hidden = true;
    if (!this.draft) return;  // it was discarded meanwhile
    await this.act(() => asked(this.at()));
    if (failures.length) this.say(ofFailures(failures));
  }

  checkSize(file) {
    const most = Number(this.dataset.mostBytes);
    if (file.size > most) throw new Error(`it has ${inBytes(file.size)}; the limit is ${inBytes(most)}`);
  }

  /* Send a file. While the service does not answer, wait for it, without the connection with which the page would be
     loaded anew when it does, and what is not sent yet be lost. */
  async sent(address, file, ticket, count) {
    for (;;) {
      try {
        return await asked(address, "POST", file);
      } catch (error) {
        if (error.message !== SILENT || ticket !== this.sending) throw error;
        window.socket?.disconnect();
        count.textContent = "The service does not answer; sending goes on when it does.";
        await new Promise((resolve) => { setTimeout(resolve, AGAIN); });
      }
    }
  }

  fit() {
    const alpha = this.alpha.value === "" ? null : Number(this.alpha.value);
    if (this.alpha.validity.badInput || (alpha !== null && !(alpha > 0 && alpha < 1))) {
      return this.say("Expected a share between 0 and 1 that may be flagged, such as 0.05, or nothing.");
    }
    return this.act(() => asked(this.at("fit"), "POST", { alpha, suspects: this.suspects.checked }));
  }

  tell(found) {
    const promise = made("div", { class: "tiles" });
    const tiles = [
      [`${percent(found.interval[0])} to ${percent(found.interval[1])} %`, "of good images will be flagged (95 % interval)"],
      [inDigits(found.alpha), "alpha, the share it aims at"],
      [found.calibrated_on.toLocaleString("en-GB"), "images it was calibrated on"],
      [`${found.flagged.toLocaleString("en-GB")} of ${found.scored.toLocaleString("en-GB")}`, "of the images given would be flagged"],
    ];
    for (const [value, words] of tiles) {
      promise.append(made("div", { class: "tile" }, made("div", { class: "number", text: value }), made("div", { class: "soft", text: words })));
    }
    const list = (texts) => (texts.length ? [made("ul", { class: "soft" }, ...texts.map((text) => made("li", { text })))] : []);
    const left = [
      ...(found.suspects.length ? [`${counted(found.suspects.length, "suspect image")} left out: ${found.suspects.slice(0, 5).join(", ")}`] : []),
      ...(found.unreadable.count ? [`${counted(found.unreadable.count, "image")} cannot be read: ${found.unreadable.first.slice(0, 3).map((one) => one.join(": ")).join("; ")}`] : []),
    ];
    this.result.replaceChildren(
      made("p", {}, "Detector ", made("b", { text: found.detector }), found.chosen ? `, chosen for ${found.chosen}.` : "."),
      promise, made("p", { class: "soft", text: found.promise }), ...list([...found.remarks, ...left]),
      ...(found.gain ? [made("p", { class: "news", text: `It has learnt the known defects: ${found.gain}.` })] : []),
      ...(found.unused ? [made("p", { class: "news odd", text: `${found.unused[0].toUpperCase()}${found.unused.slice(1)}.` })] : []),
      made("h3", { class: "above", text: "The most anomalous of the good images" }),
      made("p", { class: "soft", text: "Is one of them bad? Leave it out and learn again. Images it learnt from score lower than new ones." }),
      made("div", { class: "gallery" }, ...found.most.map((one) => this.example(one, true))),
      made("h3", { class: "above", text: "The least anomalous" }),
      made("div", { class: "gallery" }, ...found.least.map((one) => this.example(one, false))),
      made("details", {}, made("summary", { text: "How it was made" }),
        made("table", { class: "facts-table" }, ...found.facts.map(([name, value]) => made("tr", {}, made("th", { scope: "row", text: name }), made("td", { text: value }))))),
    );
  }

  example(one, removable) {
    const name = one.image.replace(/^\d+-/, "");
    const inside = [
      this.small(one.image),
      made("span", { class: `chip ${one.verdict}`, text: one.verdict }),
      made("span", { class: "name", text: name, title: name }), made("span", { class: "soft", text: `p ${inDigits(one.p_value)}` }),
    ];
    const enlarge = made("button", { type: "button", class: "quiet", text: "Enlarge", "aria-label": `Enlarge ${name}`,
      onclick: () => enlarged(name, this.image(one.image), this.image(one.image, "heat-map")) });
    const remove = made("button", { type: "button", class: "quiet", text: "Leave out", "aria-label": `Leave out ${name}`,
      onclick: () => this.act(() => asked(this.image(one.image), "DELETE")) });
    return made("div", { class: "shot" }, ...inside, made("div", { class: "row" }, enlarge, ...(removable ? [remove] : [])));
  }

  async tryOut(files) {
    this.say("");
    const failures = [];
    for (const [place, file] of files.entries()) {
      try {
        if (place >= MOST_TRIED) throw new Error(`${MOST_TRIED} pictures are tried at a time`);
        this.checkSize(file);
        const found = await asked(`${this.at("try")}?${new URLSearchParams({ name: file.name.slice(-1000) })}`, "POST", file);
        this.trialList.prepend(this.tried(found));
      } catch (error) { failures.push(`${file.name}: ${error.message}`); }
    }
    if (failures.length) this.say(ofFailures(failures));
  }

  tried(found) {
    const words = made("div", {}, made("h4", {}, made("span", { class: `chip ${found.verdict}`, text: found.verdict }), " ", found.id),
      made("p", { class: "words soft", text: found.words }));
    const viewer = found.picture
      ? [made("heat-viewer", { "data-source": found.picture, ...(found.heat_map ? { "data-heat": found.heat_map } : {}), "data-words": found.id })] : [];
    return made("article", { class: "trial" }, ...viewer, words);
  }

  async publish() {
    this.say("");
    this.publishing.disabled = true;
    try {
      const found = await waitedFor(this.publicly, PUBLISHING, asked(this.at("publish"), "POST", { screen: this.name.value.trim(), fit: this.draft.fit }));
      location.assign(`/?${new URLSearchParams({ screen: found.screen, panel: "screens", published: found.version })}`);
      return;
    } catch (error) {
      await this.act(() => asked(this.at()));  // it may be another one by now, or gone
      this.say(error.status ? error.message : `No answer came. Whether it was published is seen under Versions, when the service answers again.`);
    }
    this.publishing.disabled = false;
  }

  async discard() {
    this.say("");
    this.sending = null;
    try {
      await asked(this.at(), "DELETE");
    } catch (error) { this.say(error.message); }
    remembered({ draft: null });
    this.show(null);
    this.find();
  }
}

/* Show a picture with its heat map over the page. */
function enlarged(name, source, heat) {
  const close = made("button", { type: "button", class: "quiet", text: "Close" });
  const dialog = made("dialog", { class: "enlarged", "aria-label": name },
    made("div", { class: "row apart" }, made("h3", { text: name }), close),
    made("heat-viewer", { "data-source": source, "data-heat": heat, "data-words": name }));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

customElements.define("new-screen", NewScreen);
