// Charts: axes with round numbers, points and lines, which fit the width that there is.
const CHART = { left: 56, right: 18, top: 14, bottom: 44, height: 330 };
const INKS = { best: "#0072B2", mean: "#009E73", highest: "#999" };

function roundTicks(low, high, most = 6) {
  const raw = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((s) => s * power >= raw);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) ticks.push(Number(t.toPrecision(12)));
  return ticks;
}
function logTicks(low, high) {
  for (const marks of [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) ticks.push(...marks.map((m) => m * 10 ** p));
    const inside = ticks.filter((t) => t >= low && t <= high);
    if (inside.length > 2) return inside.length > 7 ? inside.filter((_, i) => i % Math.ceil(inside.length / 7) === 0) : inside;
  }
  return roundTicks(low, high, 4);
}

// told: {title, xs, ys, log, xname, yname, xform, draw: (chart) => nodes}. The chart has x(v) and y(v), in pixels.
class Chart {
  constructor(told) {
    this.told = told;
    this.tip = el("div", { class: "tip", hidden: true });
    this.svg = svg("svg", { role: "img", "aria-label": told.title });
    this.stage = el("div", { class: "chart" }, this.svg, this.tip);
    this.element = el("figure", {}, el("figcaption", {}, told.title), this.stage);
    new ResizeObserver(() => this.render()).observe(this.stage);
  }
  render() {
    const w = this.stage.clientWidth, { left, right, top, bottom, height } = CHART, told = this.told;
    if (!w || w === this.drawn) return;
    this.drawn = w;
    const f = told.log ? Math.log10 : (v) => v;
    const spread = (values, share, by) => { const [a, b] = [Math.min(...values.map(by)), Math.max(...values.map(by))], more = (b - a || Math.abs(b) || 1) * share; return [a - more, b + more]; };
    const [x0, x1] = spread(told.xs, 0.04, f), [y0, y1] = spread(told.ys, 0.07, (v) => v);
    this.x = (v) => left + (f(v) - x0) / (x1 - x0) * (w - left - right);
    this.y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom);
    const xs = told.log ? logTicks(10 ** x0, 10 ** x1) : roundTicks(x0, x1, Math.max(3, Math.floor(w / 90)));
    const ys = roundTicks(y0, y1).filter((t) => t <= 1);
    this.svg.setAttribute("viewBox", `0 0 ${w} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.replaceChildren(
      ...ys.map((t) => svg("g", {}, svg("line", { x1: left, x2: w - right, y1: this.y(t), y2: this.y(t), stroke: "#e8e8e8" }),
        svg("text", { x: left - 6, y: this.y(t) + 4, "text-anchor": "end" }, String(t)))),
      ...xs.filter((t) => !told.whole || Number.isInteger(t)).map((t) => svg("g", {}, svg("line", { x1: this.x(t), x2: this.x(t), y1: height - bottom, y2: height - bottom + 4, stroke: "#888" }),
        svg("text", { x: this.x(t), y: height - bottom + 17, "text-anchor": "middle" }, told.xform(t)))),
      svg("line", { x1: left, x2: w - right, y1: height - bottom, y2: height - bottom, stroke: "#888" }),
      svg("text", { x: (left + w - right) / 2, y: height - 6, "text-anchor": "middle", class: "axis" }, told.xname),
      svg("text", { x: 14, y: (top + height - bottom) / 2, "text-anchor": "middle", class: "axis",
        transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, told.yname), ...told.draw(this));
  }
  redraw() { this.drawn = 0; this.render(); }
  hover(node, lines) {
    node.addEventListener("pointermove", (e) => hint(this.stage, this.tip, lines, e));
    node.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    return node;
  }
}

// Members that no other has a smaller cost and as good an accuracy, or the same cost and a better one, from the cheapest on.
function paretoFront(members, cost) {
  const front = [];
  for (const m of [...members].sort((a, b) => a[cost] - b[cost] || b.accuracy - a.accuracy || a.number - b.number)) {
    if (!front.length || m.accuracy > front[front.length - 1].accuracy) front.push(m);
  }
  return front;
}

function frontChart(members, cost, name, told, picked, onpick) {
  const trained = members.filter((m) => m.accuracy !== null), front = paretoFront(trained, cost), marked = new Set(front);
  const parents = new Map(members.map((m) => [m.number, m]));
  return new Chart({ title: `Accuracy against ${name}`, xs: trained.map((m) => m[cost]), ys: trained.map((m) => m.accuracy), log: true,
    xname: `${name} (logarithmic)`, yname: "validation accuracy", xform: (v) => quantity(v), draw: (chart) => {
      let path = "";
      const rank = (m) => (m.number === picked() ? 3 : m.number === told.best ? 2 : marked.has(m) ? 1 : 0);  // the last one is on top
      front.forEach((m, i) => { path += i ? ` H${chart.x(m[cost])} V${chart.y(m.accuracy)}` : `M${chart.x(m[cost])},${chart.y(m.accuracy)}`; });
      const point = (m) => {
        const best = m.number === told.best, on = marked.has(m);
        const circle = svg("circle", { cx: chart.x(m[cost]), cy: chart.y(m.accuracy), r: best ? 8 : on ? 6 : 4.5, class: on ? "touch front" : "touch",
          "data-point": m.number, fill: on ? INKS.best : "#bbb", "fill-opacity": on ? 1 : 0.65, stroke: m.number === picked() ? "#222" : best ? BEST : "white",
          "stroke-width": best || m.number === picked() ? 3 : 1 });
        circle.addEventListener("click", () => onpick(m.number));
        return chart.hover(circle, [...brief(m, parents.get(m.parent)), ...(on ? ["on the front"] : [])]);
      };
      let free = -Infinity;  // labels only where there is room
      const names = front.map((m) => {
        const x = chart.x(m[cost]);
        if (x - free < 30) return null;
        free = x;
        return svg("text", { x: x - 6, y: chart.y(m.accuracy) - 9, "text-anchor": "middle", class: "halo title" }, `#${m.number}`);
      });
      return [svg("path", { d: path, fill: "none", stroke: INKS.best, "stroke-width": 2, "stroke-opacity": 0.6 }),
        ...[...trained].sort((a, b) => rank(a) - rank(b)).map(point), ...names.filter(Boolean)];
    } });
}

const CURVES = { highest: "best so far", mean: "mean of the population", best: "best of the population" };
function curveChart(points, x, name, unit, xform) {
  const ys = points.flatMap((p) => [p.best, p.mean, p.highest]).filter((v) => v !== null);
  const few = points.length <= 40;
  return new Chart({ title: `Accuracy against ${name}`, xs: points.map((p) => p[x]), ys, whole: x === "at", xname: name, yname: "validation accuracy", xform,
    draw: (chart) => [...Object.keys(CURVES).map((key) => {
      const own = points.filter((p) => p[key] !== null);
      const path = own.map((p, i) => `${i ? (key === "highest" ? `H${chart.x(p[x])} V` : "L") : "M"}${i && key === "highest" ? "" : `${chart.x(p[x])},`}${chart.y(p[key])}`).join(" ");
      return svg("g", {}, svg("path", { d: path, fill: "none", stroke: INKS[key], "stroke-width": key === "highest" ? 1.5 : 2.2, "stroke-dasharray": key === "highest" ? "4 3" : null }),
        few && key !== "highest" ? own.map((p) => svg("circle", { cx: chart.x(p[x]), cy: chart.y(p[key]), r: 3.5, fill: INKS[key] })) : null);
    }), ...points.map((p) => chart.hover(svg("circle", { cx: chart.x(p[x]), cy: chart.y(p.best), r: 9, fill: "transparent" }),
      [`${p.label === "final" ? "the best network, trained on" : p.label === "0" ? "the base network" : `${unit} ${p.label}`}`, `best ${p.best.toFixed(4)}`,
        ...(p.mean === null ? [] : [`mean ${p.mean.toFixed(4)}`]), `best so far ${p.highest.toFixed(4)}`, `${quantity(p.spent)} FLOPs spent`]))] });
}
