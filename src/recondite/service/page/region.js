
/* <region-drawing>: rectangles and polygons drawn on a picture; the event "region" has them as JSON of --region.
   With the keyboard, a rectangle is given by its four numbers. */
class RegionDrawing extends HTMLElement {
  show(source, polygons, key) {
    if (key === this.key) return;
    this.key = key;
    this.shapes = [];
    for (const kind of ["polygons", "ignore"]) for (const points of polygons?.[kind] || []) this.shapes.push({ kind, points });
    this.size = polygons?.size || null;
    this.draw(source);
  }

  async draw(source) {
    this.tool = "rectangle";
    this.kind = "polygons";
    this.points = [];
    this.picture = made("img", { alt: "the first of the good images", src: source, draggable: "false" });
    this.layer = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.layer.setAttribute("aria-hidden", "true");
    this.sheet = made("div", { class: "sheet" }, this.picture, this.layer);
    const radio = (group, options, pick) => made("fieldset", { class: "row" }, made("legend", { text: group }),
      ...options.map(([value, text], place) => {
        const input = made("input", { type: "radio", name: group, value, ...(place ? {} : { checked: "" }) });
        input.addEventListener("change", () => pick(value));
        return made("label", { class: "check" }, input, text);
      }));
    this.undoing = made("button", { type: "button", class: "quiet", text: "Take back the last", onclick: () => this.back() });
    this.clearing = made("button", { type: "button", class: "quiet", text: "Whole image", onclick: () => { this.shapes = []; this.points = []; this.done(); } });
    this.corners = ["left", "top", "right", "bottom"].map((name) => made("input", { type: "number", min: "0", "aria-label": `${name}, pixels`, placeholder: name }));
    const adding = made("button", { type: "button", class: "quiet", text: "Add rectangle", onclick: () => this.typed() });
    this.said = made("p", { class: "soft", "aria-live": "polite" });
    this.replaceChildren(
      made("p", { class: "soft", text: "Rectangle: drag. Polygon: click its corners, and the first of them again to close it." }),
      made("div", { class: "row" }, radio("Shape", [["rectangle", "rectangle"], ["polygon", "polygon"]], (value) => { this.tool = value; this.points = []; this.paint(); }),
        radio("It", [["polygons", "counts"], ["ignore", "does not count"]], (value) => { this.kind = value; })),
      this.sheet, made("div", { class: "row" }, this.undoing, this.clearing), this.said,
      made("details", {}, made("summary", { text: "By numbers" }), made("div", { class: "row" }, ...this.corners, adding)),
    );
    try { await this.picture.decode(); } catch { this.said.textContent = "The picture cannot be shown."; return; }
    this.size ||= [this.picture.naturalHeight, this.picture.naturalWidth];
    this.layer.setAttribute("viewBox", `0 0 ${this.size[1]} ${this.size[0]}`);
    this.layer.setAttribute("preserveAspectRatio", "none");
    this.sheet.style.setProperty("--ratio", this.size[1] / this.size[0]);
    this.layer.addEventListener("pointerdown", (event) => this.down(event));
    this.layer.addEventListener("pointermove", (event) => this.move(event));
    this.layer.addEventListener("pointerup", (event) => this.up(event));
    this.paint();
  }

  where(event) {
    const box = this.layer.getBoundingClientRect(), [height, width] = this.size;
    const inside = (value, most) => Math.min(most, Math.max(0, Math.round(value * 10) / 10));
    return [inside(((event.clientX - box.left) / box.width) * width, width), inside(((event.clientY - box.top) / box.height) * height, height)];
  }

  near(a, b) {
    const box = this.layer.getBoundingClientRect();
    return Math.hypot(((a[0] - b[0]) * box.width) / this.size[1], ((a[1] - b[1]) * box.height) / this.size[0]) < 14;
  }

  down(event) {
    event.preventDefault();
    const point = this.where(event);
    if (this.tool === "rectangle") {
      this.layer.setPointerCapture(event.pointerId);
      this.start = this.end = point;
    } else if (this.points.length > 2 && this.near(point, this.points[0])) {
      this.add(this.points);
    } else this.points.push(point);
    this.paint();
  }

  move(event) {
    if (!this.start) return;
    this.end = this.where(event);
    this.paint();
  }

  up() {
    if (!this.start) return;
    const [a, b] = [this.start, this.end];
    this.start = null;
    if (this.near(a, b)) this.paint();
    else this.rectangle(a, b);
  }

  rectangle([x, y], [u, v]) {
    const [left, right] = [Math.min(x, u), Math.max(x, u)], [top, bottom] = [Math.min(y, v), Math.max(y, v)];
    this.add([[left, top], [right, top], [right, bottom], [left, bottom]]);
  }

  typed() {
    const values = this.corners.map((one) => Number(one.value)), [height, width] = this.size;
    if (values[2] > values[0] && values[3] > values[1] && values[2] <= width && values[3] <= height) {
      this.rectangle(values.slice(0, 2), values.slice(2));
    } else this.said.textContent = `Give left < right <= ${width} and top < bottom <= ${height}.`;
  }

  add(points) {
    this.shapes.push({ kind: this.kind, points });
    this.points = [];
    this.done();
  }

  back() {
    if (this.points.length) this.points.pop();
    else this.shapes.pop();
    this.done();
  }

  done() {
    this.paint();
    const of = (kind) => this.shapes.filter((one) => one.kind === kind).map((one) => one.points);
    const polygons = of("polygons"), ignore = of("ignore");
    const region = { size: this.size, ...(polygons.length ? { polygons } : {}), ...(ignore.length ? { ignore } : {}) };
    this.dispatchEvent(new CustomEvent("region", { detail: this.shapes.length ? region : null }));
  }

  paint() {
    const shape = (points, kind, closed = true) => {
      const one = document.createElementNS("http://www.w3.org/2000/svg", closed ? "polygon" : "polyline");
      one.setAttribute("points", points.map((point) => point.join(",")).join(" "));
      one.setAttribute("class", kind);
      return one;
    };
    const drawn = this.shapes.map((one) => shape(one.points, one.kind));
    if (this.start) drawn.push(shape([this.start, [this.end[0], this.start[1]], this.end, [this.start[0], this.end[1]]], this.kind));
    if (this.points.length) drawn.push(shape([...this.points, this.points[this.points.length - 1].map((value) => value + 0.01)], this.kind, false));
    this.layer.replaceChildren(...drawn);
    const count = this.shapes.length;
    this.said.textContent = count ? `${counted(count, "shape")} drawn, on images of ${this.size[1]} x ${this.size[0]} pixels.` : "Nothing drawn: the whole image counts.";
    this.undoing.disabled = !count && !this.points.length;
    this.clearing.disabled = !count;
  }
}

customElements.define("region-drawing", RegionDrawing);
