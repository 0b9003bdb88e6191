"use strict";
// Pictures are in the page already. This shows and hides series, shows values under the pointer, and saves pictures.
(() => {
  const SVG = "http://www.w3.org/2000/svg", REACH = 28, ZOOM = 2;
  const panelsOf = (id) => [...document.getElementById(id).querySelectorAll(".panel")];

  // Series are hidden and shown by the buttons of the legend.
  function toggle(button) {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const panel of panelsOf(button.dataset.plot))
      for (const series of panel.querySelectorAll("[data-key]"))
        if (series.dataset.key === button.dataset.key) series.classList.toggle("off", !shown);
  }

  // The value nearest to the pointer stands beside it; the browser's own hint would come late, and only on the mark.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  let near = null, places = [];

  function look(panel) {
    places = [];
    for (const point of panel.querySelectorAll(".pt, .felt")) {
      const box = point.getBoundingClientRect();
      if (box.width && point.dataset.tip) places.push({ point, x: box.x + box.width / 2, y: box.y + box.height / 2, w: box.width / 2, h: box.height / 2 });
    }
  }

  function tell(event) {
    const away = ({ x, y, w, h }) => Math.hypot(Math.max(0, Math.abs(event.clientX - x) - w), Math.max(0, Math.abs(event.clientY - y) - h));
    const middle = ({ x, y }) => Math.hypot(event.clientX - x, event.clientY - y);
    const found = places.filter((place) => away(place) <= REACH).sort((a, b) => away(a) - away(b) || middle(a) - middle(b))[0];
    if (!found) return quiet();
    near?.classList.remove("near");
    near = found.point;
    near.classList.add("near");
    tip.textContent = near.dataset.tip;
    tip.hidden = false;
    const left = Math.min(found.x + 14, innerWidth - tip.offsetWidth - 6), above = found.y - tip.offsetHeight - 10;
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${above > 6 ? above : found.y + 14}px`;
  }

  function quiet() {
    near?.classList.remove("near");
    near = null;
    tip.hidden = true;
  }

  // A saved picture is the frame of its template (title, legend, caption) around the panels as they are shown now.
  function alone(id) {
    const whole = document.querySelector(`template[data-frame-of="${id}"]`).content.firstElementChild.cloneNode(true);
    const pressed = new Map([...document.querySelectorAll(`button[data-key][data-plot="${id}"]`)].map((b) => [b.dataset.key, b.getAttribute("aria-pressed") === "true"]));
    for (const entry of whole.querySelectorAll("[data-key]")) entry.classList.toggle("off", pressed.get(entry.dataset.key) === false);
    const waiting = [...whole.querySelectorAll("[data-waits]")], asked = waiting.some((entry) => !entry.classList.contains("off"));
    panelsOf(id).forEach((panel, i) => whole.querySelector(`[data-panel="${i}"]`).append(...panel.cloneNode(true).childNodes));
    for (const point of whole.querySelectorAll("[data-tip]")) {
      point.prepend(Object.assign(document.createElementNS(SVG, "title"), { textContent: point.dataset.tip }));
      delete point.dataset.tip;
    }
    for (const gone of whole.querySelectorAll(".off")) gone.remove();
    if (asked) {
      const height = +whole.getAttribute("height") + +whole.dataset.more;
      whole.setAttribute("height", height);
      whole.setAttribute("viewBox", `0 0 ${whole.getAttribute("width")} ${height}`);
    }
    const text = new XMLSerializer().serializeToString(whole).replace(/var\(--(\w+)\)/g, (_, name) => LIGHT[name]);
    return { text, width: +whole.getAttribute("width"), height: +whole.getAttribute("height") };
  }

  function download(blob, name) {
    const link = document.createElement("a"), url = URL.createObjectURL(blob);
    link.href = url;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function save({ plot, file, save: kind }) {
    const { text, width, height } = alone(plot), svg = new Blob([text], { type: "image/svg+xml" });
    if (kind === "svg") return download(svg, `${file}.svg`);
    const image = new Image(), canvas = Object.assign(document.createElement("canvas"), { width: ZOOM * width, height: ZOOM * height });
    image.onload = () => {
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => download(blob, `${file}.png`), "image/png");
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  }

  for (const title of document.querySelectorAll(".pt > title, .felt > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  for (const panel of document.querySelectorAll(".panel")) {
    panel.addEventListener("pointerenter", () => look(panel));
    for (const kind of ["pointermove", "pointerdown"]) panel.addEventListener(kind, (event) => { if (event.pointerType !== "mouse" || !places.length) look(panel); tell(event); });
    panel.addEventListener("pointerleave", quiet);
  }
  addEventListener("scroll", () => { places = []; quiet(); }, { passive: true });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("button");
    if (button?.dataset.key) toggle(button);
    if (button?.dataset.save) save(button.dataset);
  });
  for (const line of document.querySelectorAll(".save")) line.hidden = false;
  document.body.append(tip);
  document.documentElement.setAttribute("data-drawn", "true");
})();
