
/* <screen-versions data-screen>: what is served of a screen, and the way back. */
class ScreenVersions extends HTMLElement {
  connectedCallback() {
    this.load();
  }

  async load() {
    try {
      this.show(await asked(`/page/versions?${new URLSearchParams({ screen: this.dataset.screen })}`));
    } catch (error) {
      this.replaceChildren(made("p", { class: "trouble", role: "alert", text: `The versions of ${this.dataset.screen} cannot be listed: ${error.message}` }));
    }
  }

  show(found) {
    const published = new URL(location.href).searchParams.get("published");
    const rows = found.versions.map((one, place) => made("tr", {},
      made("th", { scope: "row", text: one.version }), made("td", { text: one.detector }), made("td", { text: inDigits(one.alpha) }),
      made("td", { text: `${percent(one.interval[0])} to ${percent(one.interval[1])} %` }), made("td", { text: one.calibrated_on.toLocaleString("en-GB") }),
      made("td", {}, place === 0 ? made("span", { class: "chip inlier", text: "served by default" })
        : made("button", { type: "button", class: "quiet", text: `Go back to version ${one.version}`, onclick: () => this.back(one.version, found.versions[0].version) }))));
    const heads = ["version", "detector", "alpha", "true rate", "calibrated on", ""].map((text) => made("th", { scope: "col", text }));
    const note = found.has_versions ? [] : [made("p", { class: "soft", text: "This screen is one folder without versions." })];
    const news = published && published === found.versions[0].version
      ? [made("p", { class: "news", role: "status", text: `Version ${published} of ${found.screen} is published and served. Drop images under Judge, or send them to /v1/screens/${found.screen}/predict.` })] : [];
    this.replaceChildren(...news, made("div", { class: "card wide-table", tabindex: "0", role: "group", "aria-label": `Versions of ${found.screen}` },
      made("h3", { text: `Versions of ${found.screen}` }),
      made("table", { class: "facts-table" }, made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...rows)), ...note));
  }

  async back(version, instead_of) {
    const buttons = this.querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    try {
      this.show(await waitedFor(this, `Going back to version ${version}.`, asked("/page/versions/default", "POST", { screen: this.dataset.screen, version, instead_of })));
      this.prepend(made("p", { class: "news", role: "status", text: `Version ${version} is served by default again.` }));
      remembered({ published: null });
    } catch (error) {
      for (const button of buttons) button.disabled = false;
      this.querySelector(".trouble")?.remove();
      this.prepend(made("p", { class: "trouble", role: "alert", text: error.message }));
    }
  }
}

/* <publish-alpha data-screen data-version data-alpha>: the screen at another false-alarm rate, as its next version. */
class PublishAlpha extends HTMLElement {
  connectedCallback() {
    if (this.childElementCount) return;
    const { screen, version, alpha } = this.dataset;
    const said = made("div");
    const button = made("button", { type: "button", class: "main", text: `Publish with alpha ${alpha} as a new version` });
    button.addEventListener("click", async () => {
      button.disabled = true;
      said.replaceChildren();
      try {
        const found = await waitedFor(said, PUBLISHING, asked("/page/versions/alpha", "POST", { screen, version, alpha: Number(alpha) }));
        location.assign(`/?${new URLSearchParams({ screen, panel: "screens", published: found.version })}`);
      } catch (error) {
        said.replaceChildren(made("p", { class: "trouble", role: "alert", text: error.message }));
        button.disabled = false;
      }
    });
    this.append(button, said);
  }
}

customElements.define("publish-alpha", PublishAlpha);
customElements.define("screen-versions", ScreenVersions);
