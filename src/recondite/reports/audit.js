"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = document.querySelector(".controls");

  function visible(figure, wanted) {
    const text = (figure.dataset.id + " " + figure.dataset.label + " " + figure.textContent).toLowerCase();
    return (!wanted.drop || figure.dataset.drop === wanted.drop) && text.includes(wanted.text);
  }

  function compare(order) {
    const place = (figure) => Number(figure.dataset.place);
    if (order === "score") return (a, b) => (b.dataset.score || -1e9) - (a.dataset.score || -1e9) || place(a) - place(b);
    if (order === "id" || order === "label")
      return (a, b) => a.dataset[order].localeCompare(b.dataset[order], undefined, { numeric: true }) || place(a) - place(b);
    return (a, b) => place(a) - place(b);
  }

  function update() {
    const given = new FormData(form);
    const severities = given.getAll("severity");
    const wanted = { drop: given.get("drop"), text: given.get("text").trim().toLowerCase() };
    const better = compare(given.get("order"));
    let shown = 0;
    for (const band of all("[data-severity]")) {
      let some = 0;
      for (const section of all("section", band)) {
        let here = 0;
        const kind = given.get("kind");
        for (const group of all("[data-group]", section)) {
          const figures = all("figure", group).sort(better);
          for (const figure of figures) figure.hidden = !visible(figure, wanted);
          group.append(...figures);
          const count = figures.filter((figure) => !figure.hidden).length;
          group.hidden = !count;
          here += count;
        }
        const first = (group) => group.querySelector("figure:not([hidden])") || group.querySelector("figure");
        section.querySelector(".gallery").append(...all("[data-group]", section).sort((a, b) => better(first(a), first(b))));
        section.hidden = !here || (kind && section.dataset.kind !== kind);
        some += section.hidden ? 0 : here;
      }
      band.hidden = !some || !severities.includes(band.dataset.severity);
      shown += band.hidden ? 0 : some;
    }
    form.querySelector("[data-count]").textContent = shown.toLocaleString("en") + " shown";
  }

  if (form) {
    all("[data-group] figure").forEach((figure, number) => (figure.dataset.place = number));
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    update();
  }

  const source = document.getElementById("points");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const canvas = document.querySelector(".map canvas");
  const tip = document.querySelector(".tip");
  const boxes = all("[data-colour]");
  const pictures = document.querySelector("[data-pictures]");
  const images = new Map(data.pictured.map((index) => [index, Object.assign(new Image(), { src: pictureOf(index), onload: draw })]));
  const margin = 20;

  function spot(point) {
    const width = canvas.clientWidth, height = canvas.clientHeight;
    return [margin + point[0] * (width - 2 * margin), margin + (1 - point[1]) * (height - 2 * margin)];
  }

  function draw() {
    const scale = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    pen.scale(scale, scale);
    const size = Math.max(28, canvas.clientWidth / 18);
    for (const point of pictures.checked ? data.points : []) {
      const image = images.get(point[3]);
      if (!image || !image.naturalWidth || !boxes[point[2]].checked) continue;
      const zoom = size / Math.max(image.naturalWidth, image.naturalHeight), [x, y] = spot(point);
      pen.drawImage(image, x - image.naturalWidth * zoom / 2, y - image.naturalHeight * zoom / 2, image.naturalWidth * zoom, image.naturalHeight * zoom);
    }
    // Those without a finding first, so that the others lie on top.
    for (const found of [false, true])
      for (const point of data.points) {
        if (!boxes[point[2]].checked || (point[2] !== data.none) !== found) continue;
        const [x, y] = spot(point);
        pen.globalAlpha = found ? 0.95 : 0.45;
        pen.fillStyle = data.colours[point[2]];
        pen.beginPath();
        pen.arc(x, y, found ? 4 : 2.2, 0, 2 * Math.PI);
        pen.fill();
      }
    pen.globalAlpha = 1;
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 15;
    for (const point of data.points) {
      if (!boxes[point[2]].checked) continue;
      const [a, b] = spot(point), distance = Math.hypot(a - x, b - y) - (point[2] === data.none ? 0 : 2);
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  function pictureOf(index) {
    const shown = document.querySelector(`figure[data-index="${index}"] img`);
    return shown ? shown.src : data.pictures[index] || "";
  }

  canvas.addEventListener("pointermove", (event) => {
    const point = nearest(event);
    tip.hidden = !point;
    if (!point) return;
    const [x, y] = spot(point), url = pictureOf(point[3]);
    tip.replaceChildren(...(url ? [Object.assign(new Image(), { src: url })] : []), data.words[point[2]] + ": " + point[4]);
    tip.style.left = Math.max(0, Math.min(x + 12, canvas.clientWidth - 180)) + "px";
    tip.style.top = y + 12 + "px";
  });
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  canvas.addEventListener("click", (event) => {
    const point = nearest(event);
    const figure = point && document.querySelector(`section:not([hidden]) figure[data-index="${point[3]}"]:not([hidden])`);
    if (!figure) return;
    all("figure.found").forEach((other) => other.classList.remove("found"));
    figure.classList.add("found");
    figure.scrollIntoView({ block: "center" });
  });
  [...boxes, pictures].forEach((box) => box.addEventListener("input", draw));
  window.addEventListener("resize", draw);
  draw();
})();
