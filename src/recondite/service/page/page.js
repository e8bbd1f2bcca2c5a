"use strict";
/* The page's own elements. What they show of names and errors is set as text, never as HTML. */

function made(tag, facts = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function remembered(changes) {
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") address.searchParams.delete(name);
    else address.searchParams.set(name, value);
  }
  history.replaceState(history.state, "", address);
}

function inDigits(value) {
  return value === null ? "none" : Number(value).toPrecision(3).replace(/\.?0+$/, "").replace(/\.?0+e/, "e");
}

function counted(count, noun) {
  return `${count.toLocaleString("en-GB")} ${noun}${count === 1 ? "" : "s"}`;
}

const SILENT = "the service does not answer";

/* Ask the service, and return the JSON that it answers; where it refuses, or does not answer, the error says so. */
async function asked(address, method = "GET", body = null) {
  const options = { method };
  if (body instanceof Blob) options.body = body;
  else if (body !== null) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const answer = await fetch(address, options).catch(() => { throw new Error(SILENT); });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.error?.message || answer.statusText), { status: answer.status });
  return found;
}

/* How many files of a kind are on their way. They are lost where the page is loaded anew, as when the service starts
   again, and are told then. */
const UnderWay = {
  add(kind, count) {
    const left = this.of(kind) + count;
    if (left > 0) sessionStorage.setItem(`under way: ${kind}`, left);
    else sessionStorage.removeItem(`under way: ${kind}`);
  },
  of(kind) { return Number(sessionStorage.getItem(`under way: ${kind}`)); },
  lost(kind) {
    const count = this.of(kind);
    this.add(kind, -count);
    return count;
  },
};

/* <not-judged>: how many pictures were on their way to be judged when the page was loaded anew. */
class NotJudged extends HTMLElement {
  connectedCallback() {
    if (this.started) return;
    this.started = true;
    const count = UnderWay.lost("pictures");
    if (!count) return;
    const [were, them] = count === 1 ? ["was", "it"] : ["were", "them"];
    this.append(made("p", { class: "trouble", role: "alert", text:
      `${counted(count, "picture")} ${were} not judged, as the page was loaded anew while ${count === 1 ? "it was" : "they were"} on the way: drop ${them} again. What was judged before, and counted, is under Review.` }));
  }
}

/* What is drawn anew, or cannot be pressed for a while, loses the keyboard's focus: it comes back to what has the same
   data-focus, if nothing else was turned to meanwhile. */
const Focus = {
  name: null,
  back() {
    if (this.name === null || document.activeElement !== document.body) return;
    document.querySelector(`[data-focus="${CSS.escape(this.name)}"]`)?.focus({ preventScroll: true });
  },
};
document.addEventListener("focusin", (event) => { Focus.name = event.target.dataset.focus ?? null; });
document.addEventListener("pointerdown", () => { Focus.name = null; });
new MutationObserver(() => Focus.back()).observe(document, { childList: true, subtree: true, attributeFilter: ["disabled"] });

/* What is built once, loads when it is shown, and hears keys while it is there. */
class KeyedElement extends HTMLElement {
  connectedCallback() {
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    if (!this.childElementCount) this.build();
    this.load();
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.onKey);
  }
}

/* <heat-viewer data-source data-heat data-words>: a picture in full size with its heat map over it.
   `drawn` resolves when the picture is on the screen, or is known not to come. */
class HeatViewer extends HTMLElement {
  connectedCallback() {
    if (this.childElementCount) return;
    this.drawn = this.draw();
  }

  async draw() {
    const words = this.dataset.words || "";
    const picture = made("img", { class: "original", alt: words, src: this.dataset.source });
    const layers = made("div", { class: "layers" }, picture);
    const stage = made("div", { class: "stage", tabindex: "0", role: "group", "aria-label": words }, layers);
    this.append(stage);
    try {
      await picture.decode();
    } catch {
      stage.replaceChildren(made("p", { class: "empty", text: "The picture cannot be shown." }));
      return;
    }
    // The heat map covers the picture exactly, whatever their sizes in pixels.
    layers.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
    layers.style.setProperty("--full", `${picture.naturalWidth}px`);
    // Small pictures are enlarged to be seen, each of their pixels a square; large ones are fitted in.
    const small = Math.max(picture.naturalWidth, picture.naturalHeight) <= 128;
    this.classList.toggle("small", small);
    const controls = made("div", { class: "viewer-controls" });
    if (!small) {
      const size = made("button", { type: "button", class: "quiet", "aria-pressed": "false", text: "Full size" });
      size.addEventListener("click", () => {
        const full = this.classList.toggle("full");
        size.setAttribute("aria-pressed", String(full));
      });
      controls.append(size, made("span", { class: "soft", text: `${picture.naturalWidth} x ${picture.naturalHeight}` }));
    }
    if (this.dataset.heat) {
      const heat = made("img", { class: "heat", alt: "heat map: nothing where it is like good images, bright where it is odd", src: this.dataset.heat });
      const slider = made("input", { type: "range", min: "0", max: "1", step: "0.05", "aria-label": "heat map opacity" });
      slider.value = HeatViewer.opacity;
      const opaque = () => {
        HeatViewer.opacity = slider.value;
        heat.style.opacity = slider.value;
      };
      slider.addEventListener("input", opaque);
      opaque();
      const label = made("label", { class: "opacity", title: "Nothing is drawn where the picture is as good images are." }, "heat map", slider);
      heat.addEventListener("error", () => { heat.remove(); label.remove(); });
      layers.append(heat);
      controls.append(label);
    }
    if (this.dataset.outline) {
      const line = made("img", { class: "contour", alt: "outline of what is odd", src: this.dataset.outline });
      const shown = made("input", { type: "checkbox", checked: "" });
      shown.addEventListener("change", () => { line.hidden = !shown.checked; });
      const label = made("label", { class: "check", title: "At most a share alpha of good images has a value this high anywhere." }, shown, "outline");
      line.addEventListener("error", () => { line.remove(); label.remove(); });
      layers.append(line);
      controls.append(label);
    }
    if (controls.childElementCount) this.append(controls);
  }
}
HeatViewer.opacity = "0.5";

/* On the map the arrow keys lead from a thumbnail to the nearest one that way; one alone is reached by Tab. */
document.addEventListener("keydown", (event) => {
  const here = event.target.closest?.(".map a[data-place]");
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!here || !way) return;
  event.preventDefault();
  const middle = (link) => { const box = link.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; };
  const [x, y] = middle(here);
  let best = null, least = Infinity;
  for (const link of here.closest("svg").querySelectorAll("a[data-place]")) {
    const [u, v] = middle(link), along = (u - x) * way[0] + (v - y) * way[1];
    const far = along + 3 * Math.abs((u - x) * way[1] + (v - y) * way[0]);
    if (along > 1 && far < least) [best, least] = [link, far];
  }
  if (!best) return;
  here.setAttribute("tabindex", "-1");
  best.setAttribute("tabindex", "0");
  best.focus();
});

/* <copy-line data-text>: a line to copy, with a button. */
class CopyLine extends HTMLElement {
  connectedCallback() {
    if (this.childElementCount) return;
    const text = this.dataset.text.replace("{origin}", location.origin);
    const button = made("button", { type: "button", class: "quiet", text: "Copy" });
    const code = made("code", { text, tabindex: "0" });
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
    });
    this.append(code, button);
  }
}

customElements.define("heat-viewer", HeatViewer);
customElements.define("not-judged", NotJudged);
customElements.define("copy-line", CopyLine);
