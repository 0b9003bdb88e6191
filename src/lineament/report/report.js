"use strict";
(() => {
  const NARROW = 640, PRINT_WIDTH = 660;
  const hidden = new Map();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme() {
    return printing
      ? { ink: "#000000", soft: "#444444", grid: "#dddddd", line: "#999999", panel: "#ffffff", blue: "#0072b2" }
      : { ink: css("--ink"), soft: css("--soft"), grid: css("--grid"), line: css("--soft"), panel: css("--panel"), blue: css("--blue") };
  }

  // Side by side where there is room, one below the other (small panels: two side by side) where there is not.
  function arrange(layout, width) {
    const { panels: count, perRow, narrow } = layout.meta, name = (axis, i) => axis + "axis" + (i ? i + 1 : "");
    const roomy = width >= NARROW * (perRow > 2 ? 1.4 : 1), per = roomy ? perRow : narrow;
    if (narrow > 1) for (let i = 0; i < count; i++) if (i % per) layout[name("y", i)].title.text = "";
    if (roomy || count === 1) return;
    const each = narrow > 1 ? 170 : 330, space = narrow > 1 ? 95 : 105, gap = 0.14, rows = Math.ceil(count / per);
    const total = rows * each + (rows - 1) * space, part = (1 - gap * (per - 1)) / per;
    for (let i = 0; i < count; i++) {
      const row = Math.floor(i / per), left = (i % per) * (part + gap);
      layout[name("x", i)].domain = [left, left + part];
      const top = 1 - (row * (each + space)) / total;
      layout[name("y", i)].domain = [Math.max(0, top - each / total), top];
    }
    layout.height = total + layout.margin.t + layout.margin.b;
  }

  // Numbers in the cells of a matrix fit; on a narrow screen rows have numbers alone, which the notes explain.
  function fit(trace, layout, width) {
    if (trace.type !== "heatmap") return;
    const narrow = width < NARROW, key = "yaxis" + trace.yaxis.slice(1);
    if (narrow) layout[key].ticktext = layout[key].ticktext.map((text) => text.split(" ")[0]);
    const [left, right] = layout["xaxis" + trace.xaxis.slice(1)].domain;
    const side = Math.min(((right - left) * (width - 76)) / trace.z.length, 300 / trace.z.length);
    trace.textfont = { size: Math.max(8, Math.min(13, side / 2.6)) };
  }

  // Row names take too much of a narrow screen on one line.
  function shorten(layout, key) {
    layout[key].ticktext = layout[key].ticktext.map((text) => text.replace(/(.{8,14}?) /g, "$1<br>"));
    layout["x" + key.slice(1)].dtick = 0.5;
  }

  // Axis titles longer than the plot is wide go on two lines.
  const wrapped = (text) => (text.length > 34 ? text.replace(/(.{16,32}) /g, "$1<br>") : text);

  function paint(layout, colors, width) {
    const narrow = width < NARROW;
    layout.width = width;
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: narrow ? 12 : 13, color: colors.ink };
    layout.hoverlabel = { bgcolor: colors.panel, bordercolor: colors.line, font: { color: colors.ink }, align: "left" };
    layout.dragmode = false;
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis/.test(key)) continue;
      Object.assign(layout[key], { gridcolor: colors.grid, linecolor: colors.line, tickcolor: colors.line, showline: true, fixedrange: true });
      layout[key].title = { ...layout[key].title, font: { size: layout.font.size }, standoff: 10 };
      if (narrow) layout[key].title.text = wrapped(layout[key].title.text ?? "");
      if (narrow && layout[key].ticktext?.some((text) => text.length > 14)) shorten(layout, key);
    }
    if (narrow) layout.margin = { ...layout.margin, l: 50, r: 8 };
  }

  function render(div) {
    const colors = theme(), source = document.querySelector(`script[data-for="${div.id}"]`);
    const spec = JSON.parse(source.textContent.replaceAll('"#000000"', JSON.stringify(colors.ink)).replaceAll('"#0072B2"', JSON.stringify(colors.blue)));
    const width = printing ? PRINT_WIDTH : Math.floor(div.clientWidth);
    const off = hidden.get(div.id);
    for (const trace of spec.data) trace.visible = !off.has(trace.legendgroup);
    arrange(spec.layout, width);
    for (const trace of spec.data) fit(trace, spec.layout, width);
    paint(spec.layout, colors, width);
    return Plotly.react(div, spec.data, spec.layout, { displayModeBar: false, responsive: false });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const all = () => Promise.all(plots.map(render));

  for (const div of plots) {
    const buttons = [...document.querySelectorAll(`button[data-plot="${div.id}"]`)];
    hidden.set(div.id, new Set(buttons.filter((b) => b.getAttribute("aria-pressed") === "false").map((b) => b.dataset.key)));
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const off = hidden.get(div.id), key = button.dataset.key;
        if (!off.delete(key)) off.add(key);
        button.setAttribute("aria-pressed", String(!off.has(key)));
        render(div);
      });
    }
  }

  let timer = 0;
  window.addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(all, 120); });
  dark.addEventListener("change", all);
  window.addEventListener("beforeprint", () => { printing = true; all(); });
  window.addEventListener("afterprint", () => { printing = false; all(); });
  all().then(() => document.documentElement.setAttribute("data-drawn", "true"));
})();
