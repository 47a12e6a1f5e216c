// The diagram: what is open, how it looks. Where things stand says layout.js; how it moves, stage.js.
const LINE = 16, FONT = "11px Helvetica, Arial, sans-serif", CLIP = 44;
const CROWD = 2000, BAND = 500, MARGIN = 300;  // from so many elements on, only those near the window are in the page
const measure = (() => {
  const context = document.createElement("canvas").getContext("2d");
  const known = new Map();
  return (text, bold) => {
    const key = `${bold ? "b" : ""}${text}`;
    if (!known.has(key)) { context.font = bold ? `bold ${FONT}` : FONT; known.set(key, context.measureText(text).width); }
    return known.get(key);
  };
})();
const WHAT = { flops: "FLOPs", params: "parameters", memory: "memory of activations" };

// What is drawn, by the stripes of the drawing that it lies in.
function banded(things) {
  const bands = new Map();
  for (const thing of things) for (let band = Math.floor(thing.y / BAND); band <= Math.floor((thing.y + thing.h) / BAND); band += 1) {
    if (!bands.has(band)) bands.set(band, []);
    bands.get(band).push(thing);
  }
  return bands;
}

// One view of the model as a tree of parts that know their parent, their boxes and their sums.
class Tree {
  constructor(told) {
    this.name = told.name;
    this.chains = new Map();  // of each box: the modules around it and itself
    this.parts = [];
    this.root = told.root;
    this.take(told.root, null, []);
    this.links = connections(told.root, told.edges, this.chains);
    this.byName = new Map();
    for (const part of this.parts) {
      if (part.children && part.path && !part.group) this.byName.set(part.path, part);
      for (const row of part.rows || []) if (row.name && !this.byName.has(row.name)) this.byName.set(row.name, part);
      if (!part.children && part.path && !this.byName.has(part.path)) this.byName.set(part.path, part);
    }
  }
  take(part, parent, above) {
    part.parent = parent;
    part.id = `${this.parts.length}`;
    part.open = Boolean(part.children) && !part.closed;
    this.parts.push(part);
    const chain = [...above, part];
    if (!part.children) { this.chains.set(part.key, chain); return; }
    for (const child of part.children) this.take(child, part, chain);
    for (const what of ["flops", "params", "memory"]) part[what] = part.children.reduce((sum, c) => sum + c[what], 0);
    part.boxes = part.children.reduce((sum, c) => sum + (c.children ? c.boxes : 1), 0);
    part.shape = part.children.length ? part.children[part.children.length - 1].shape : "";
    const changes = part.children.map((c) => c.change).filter(Boolean);
    if (changes.length) {
      const one = changes.every((c) => c.status === changes[0].status);
      const sum = (key) => changes.reduce((total, c) => total + c[key], 0);
      part.change = { status: one ? changes[0].status : "grown", was: "", new: sum("new"), params: sum("params") };
    }
  }
  families() {
    return new Set(this.parts.flatMap((p) => (p.rows || []).map((r) => r.family)));
  }
}

class DiagramView extends Stage {
  constructor(told, onpick) {
    super("Diagram: drag to move, wheel or + and - to zoom",
      svg("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { width: 5, height: 5, fill: "white" }), svg("rect", { width: 2, height: 5, fill: "#0072B2" })),
      svg("marker", { id: "head", viewBox: "0 0 6 6", refX: 5, refY: 3, markerWidth: 5, markerHeight: 5, orient: "auto" },
        svg("path", { d: "M0,0 L6,3 L0,6 z", fill: "#777" })));
    this.told = told;
    this.onpick = onpick;
    this.trees = told.views.map((v) => new Tree(v));
    this.tree = this.trees[told.start];
    this.colours = told.colours;
    this.details = el("div", { class: "details", id: "details", "aria-live": "polite" }, "Click a layer for all about it; click a module's name to open or close it.");
    this.legend = el("div", { class: "legend" });
    this.element = el("div", {}, this.controls(), this.stage, this.legend, this.details);
  }

  // -- what is around it -------------------------------------------------------------------------------------------------
  controls() {
    const choices = Object.keys(WHAT).map((w) => [w, `share of ${WHAT[w]}`]);
    const options = [["kinds", "kind of operation"], ...choices, ...(this.tree.root.change ? [["changes", "what changed"]] : [])];
    const colours = el("select", { id: "colours", onchange: (e) => { this.colours = e.target.value; this.render(); } },
      options.map(([value, name]) => el("option", { value, selected: value === this.colours }, name)));
    const view = this.trees.length < 2 ? [] : [el("select", { id: "view", title: "Which blocks are drawn",
      onchange: (e) => { this.tree = this.trees[e.target.value]; this.render(); this.fit(0.6); } },
      this.trees.map((t, i) => el("option", { value: i, selected: t === this.tree }, t.name)))];
    this.viewSelect = view[0];
    return el("div", { class: "bar" }, this.search(), this.zoomButtons(),
      button("expand all", "Open every module", () => this.all(true)),
      button("collapse all", "Close every module", () => this.all(false)), ...view,
      el("label", {}, "colours ", colours));
  }
  search() {
    const names = [...this.trees[0].byName].map(([name, part]) => ({ name, text: plain(name), kind: this.kindOf(name, part) }));
    return finder(names, (f) => this.reveal(f.name), { id: "search", hits: "hits", none: "no layer or module is called so",
      placeholder: `search ${names.length} layers and modules`, label: "Search layers and modules by name, kind or shape" });
  }
  kindOf(name, part) {
    const row = (part.rows || []).find((r) => r.name === name);
    return [...(row ? [row.title, row.settings] : [part.kind]), part.shape].filter(Boolean).join(" ");
  }

  // -- looks --------------------------------------------------------------------------------------------------------------
  lines(part) {
    const around = part.parent ? part.parent.path : "";
    const shape = part.shape && (part.rows || [{}])[0].title !== "output" ? [[["name", part.shape]]] : [];
    if (part.children) {
      const name = part.group ? "repeated" : plain(below(part.path, around)) || "model";
      return [{ spans: [["title", `⊞ ${clipped(name, CLIP)}`], ["name", clipped(plain(part.kind), CLIP)], ...this.times(part)], family: "" },
        { spans: [["name", `${part.boxes} boxes`], ...shape.flat()], family: "" }];
    }
    const rows = part.rows.flatMap((row, i) => {
      const own = plain(below(row.name, around));
      const spans = [[i === 0 ? "title" : "", clipped(plain(row.title), CLIP)], ["", clipped(plain(row.settings), CLIP)]];
      if (own && own !== row.title) spans.push(["name", clipped(own, CLIP)]);
      if (i === 0) spans.push(...this.times(part));
      return [{ spans, family: row.family }, ...row.lines.map((line) => ({ spans: [["name", clipped(plain(line), CLIP)]], family: row.family }))];
    });
    return [...rows, ...shape.map((spans) => ({ spans, family: null }))];
  }
  times(part) { return part.times > 1 ? [["title", `× ${part.times}`], ["name", clipped(plain(part.until), CLIP)]] : []; }
  sizeOf(part) {
    const lines = part.lines || (part.lines = this.lines(part));
    const wide = lines.map(({ spans }) => spans.filter(([, t]) => t).reduce((sum, [c, t]) => sum + measure(t, c === "title") + 5, 0));
    return { w: Math.ceil(Math.max(60, ...wide)) + 12, h: lines.length * LINE + (part.change && part.change.new ? 8 : 4) };
  }
  fillOf(part, family) {
    if (this.colours === "kinds") return family === "" && part.children ? "#EFEFEF" : this.told.palette[family] || "#FFFFFF";
    if (this.colours === "changes") return part.change && part.change.status === "same" ? "#EDEDED" : "#FFFFFF";
    return part[this.colours] ? this.told.heat[Math.round(10 * part[this.colours] / this.top)] : "#F4F4F4";
  }
  inkOf(fill) { return this.told.heat.slice(0, 6).includes(fill) ? "white" : null; }
  frameOf(part) {
    const fresh = this.colours === "changes" && part.change && part.change.status === "inserted";
    const less = this.colours === "changes" && part.change && part.change.status === "shrunk";
    return { "stroke-dasharray": less ? "5 3" : null, stroke: fresh ? "#0072B2" : part.children && part.open ? "#BBBBBB" : "#555555", "stroke-width": fresh ? 2.5 : part.children ? 1.6 : 1 };
  }

  // -- drawing -------------------------------------------------------------------------------------------------------------
  render() {
    const shown = [];
    const see = (part) => (part.children && part.open ? part.children.forEach(see) : shown.push(part));
    see(this.tree.root);
    this.top = this.colours in WHAT ? largest(shown, (p) => p[this.colours], 1) : 1;
    this.shapes = new Map();
    const placed = arrange(this.tree.root, this.tree.links, (p) => this.sizeOf(p), (p) => Boolean(p.children) && p.open);
    this.size = { w: placed.w, h: placed.h };
    this.things = [];  // all that is drawn: {x, y, w, h} of where it is, layer (frames, lines or boxes), make
    this.draw(this.tree.root, placed, 0, 0);
    this.layers = [svg("g"), svg("g"), svg("g")];
    this.world.replaceChildren(...this.layers);
    this.made = new Map();
    this.bands = this.things.length > CROWD ? banded(this.things) : null;
    this.showNear();
    this.showLegend();
    if (this.picked) this.mark(this.picked);
  }
  // Makes what is near the window, and takes away what is no longer; all of it where it is little.
  showNear() {
    if (!this.bands) { for (const thing of this.things) this.layers[thing.layer].append(thing.make()); return; }
    const { x, y, k } = this.at, [w, h] = [this.stage.clientWidth, this.stage.clientHeight];
    const [left, right, top, bottom] = [(-x) / k - MARGIN, (w - x) / k + MARGIN, (-y) / k - MARGIN, (h - y) / k + MARGIN];
    const near = new Set();
    for (let band = Math.floor(top / BAND); band <= Math.floor(bottom / BAND); band += 1) {
      for (const t of this.bands.get(band) || []) if (t.x <= right && t.x + t.w >= left && t.y <= bottom && t.y + t.h >= top) near.add(t);
    }
    for (const [thing, node] of this.made) if (!near.has(thing)) { node.remove(); this.made.delete(thing); if (thing.shape) thing.shape.rect = null; }
    for (const thing of near) if (!this.made.has(thing)) {
      const node = thing.make();
      this.made.set(thing, node);
      this.layers[thing.layer].append(node);
      if (this.picked && thing.shape && this.shapes.get(this.picked.id) === thing.shape) thing.shape.rect.classList.add("picked");
    }
  }
  move() {
    super.move();
    if (!this.bands || this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; if (this.bands) this.showNear(); });
  }
  draw(cluster, placed, x, y) {
    if (cluster.parent) this.frame(cluster, x, y, placed);
    for (const line of placed.lines) this.things.push(this.wire(line, placed, x, y));
    for (const spot of placed.spots.values()) {
      if (!spot.part) continue;
      const inner = placed.inner.get(spot.part);
      const [left, top] = [x + spot.x, y + spot.y];
      if (inner) this.draw(spot.part, inner, left, top);
      else {
        const shape = { rect: null, x: left, y: top, w: spot.w, h: spot.h };
        this.shapes.set(spot.part.id, shape);
        this.things.push({ ...shape, shape, layer: 2, make: () => this.box(spot.part, shape) });
      }
    }
  }
  frame(cluster, x, y, placed) {
    const shape = { rect: null, x, y, w: placed.w, h: placed.h };
    this.shapes.set(cluster.id, shape);
    this.things.push({ ...shape, shape, layer: 0, make: () => {
      shape.rect = svg("rect", { x, y, width: placed.w, height: placed.h, rx: 6, fill: "#00000005", ...this.frameOf(cluster) });
      return shape.rect;
    } });
    this.things.push({ ...shape, h: 20, layer: 2, make: () => this.head(cluster, x, y) });
  }
  head(cluster, x, y) {
    const name = cluster.group ? "" : clipped(plain(below(cluster.path, cluster.parent.path)), CLIP);
    const text = svg("text", { x: x + 8, y: y + 14 });
    this.spans(text, [["title", `⊟ ${name}`], ["name", clipped(plain(cluster.kind), CLIP)], ...this.times(cluster)]);
    const width = this.spanWidth([["title", `⊟ ${name}`], ["name", clipped(plain(cluster.kind), CLIP)], ...this.times(cluster)]);
    const hold = svg("rect", { x: x + 3, y: y + 2, width: width + 8, height: 17, fill: "#FFFFFFD9", class: "touch" });
    return this.touchable(svg("g", { "data-path": cluster.path }, hold, text), cluster, () => this.toggle(cluster));
  }
  spanWidth(spans) { return spans.filter(([, t]) => t).reduce((sum, [c, t]) => sum + measure(t, c === "title") + 5, 0); }
  spans(text, spans, ink = null) {
    spans.filter(([, t]) => t).forEach(([kind, words], i) => text.append(svg("tspan", { class: kind, dx: i ? 5 : 0, style: ink ? `fill:${ink}` : null }, words)));
    return text;
  }
  box(part, shape) {
    const { x, y, w, h } = shape;
    const lines = part.lines;
    const group = svg("g", { "data-path": part.path, transform: `translate(${x} ${y})` });
    lines.forEach((line, i) => {
      const fill = line.family === null && this.colours === "kinds" ? "#FFFFFF" : this.fillOf(part, line.family);
      group.append(svg("rect", { x: 0, y: i ? 2 + i * LINE : 0, width: w, height: LINE + (i ? 0 : 2) + (i === lines.length - 1 ? h - lines.length * LINE - 2 : 0), fill }),
        this.spans(svg("text", { x: 6, y: i * LINE + 14 }), line.spans, this.inkOf(fill)));
    });
    if (this.colours === "changes" && part.change && part.change.new && part.change.status !== "inserted") {
      const share = Math.max(0.04, part.change.new / Math.max(1, part.change.params));
      group.append(svg("rect", { x: w * (1 - share), y: h - 5, width: w * share, height: 5, fill: "url(#hatch)", stroke: "#0072B2", "stroke-width": 0.5 }));
    }
    const rect = svg("rect", { width: w, height: h, fill: "none", rx: 2, "pointer-events": "all", class: "touch", ...this.frameOf(part) });
    group.append(rect);
    shape.rect = rect;
    return this.touchable(group, part, () => (part.children ? this.toggle(part) : this.pick(part)));
  }
  wire(line, placed, x, y) {
    const lane = GAP.lane / 2;
    const [tail, head] = [line.via[0], line.via[line.via.length - 1]];
    const port = (spot, kind) => {
      const inner = spot.part && placed.inner.get(spot.part);
      const own = inner && inner.spots.get(`${kind} ${line.value}`);
      return x + spot.x + (own ? own.x + lane : spot.w / 2);
    };
    const points = [[port(tail, "out"), tail.part ? y + tail.y + tail.h : y]];
    for (const spot of line.via.slice(1, -1)) points.push([x + spot.x + lane, y + spot.top], [x + spot.x + lane, y + spot.bottom]);
    points.push([port(head, "in"), head.part ? y + head.y : y + placed.h]);
    let path = `M${points[0][0]},${points[0][1]}`;
    for (let i = 1; i < points.length; i += 1) {
      const [[a, b], [c, d]] = [points[i - 1], points[i]];
      const bend = (d - b) / 2;
      path += Math.abs(a - c) < 0.5 ? ` L${c},${d}` : ` C${a},${b + bend} ${c},${d - bend} ${c},${d}`;
    }
    const arrow = head.part && !placed.inner.has(head.part);
    const [left, top] = [-largest(points, ([a]) => -a, -Infinity), -largest(points, ([, b]) => -b, -Infinity)];
    return { x: left, y: top, w: largest(points, ([a]) => a, left) - left, h: largest(points, ([, b]) => b, top) - top, layer: 1,
      make: () => svg("path", { class: "edge", d: path, "marker-end": arrow ? "url(#head)" : null }, svg("title", {}, line.shape || "")) };
  }
  touchable(group, part, act) {
    group.setAttribute("tabindex", -1);
    group.addEventListener("click", () => { if (!this.moved) act(); });
    group.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { act(); e.preventDefault(); e.stopPropagation(); } });
    group.addEventListener("pointermove", (e) => this.hint(this.about(part), e));
    group.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    return group;
  }
  showLegend() {
    const told = this.told;
    if (this.colours === "kinds") {
      const used = this.tree.families();
      this.legend.replaceChildren(...Object.entries(told.palette).filter(([f]) => used.has(f) && f !== "in and out")
        .map(([family, colour]) => el("span", { style: `background:${colour}` }, family)));
    } else if (this.colours === "changes") {
      this.legend.replaceChildren(el("span", { style: "background:#EDEDED" }, "as it was"), el("span", {}, "grown; hatched: its new numbers ", el("i", { class: "hatched" })),
        el("span", { class: "new" }, "inserted"), el("span", { class: "less" }, "shrunk"));
    } else {
      this.legend.replaceChildren(`share of ${WHAT[this.colours]}: 0 `, ...told.heat.map((c) => el("i", { style: `background:${c}` })),
        ` ${percent(this.top / Math.max(1, this.tree.root[this.colours]))}`);
    }
  }

  // -- what a reader does -----------------------------------------------------------------------------------------------
  about(part) {
    const root = this.tree.root, share = (what, unit) => `${quantity(part[what], unit)} (${percent(part[what] / Math.max(1, root[what]))})`;
    const rows = (part.rows || []).map((r) => [r.name, r.title, r.settings, ...r.lines].filter(Boolean).join(" "));
    const lines = part.children ? [`${part.path || "model"} ${part.kind}`.trim()] : rows;
    if (part.times > 1) lines.push(`× ${part.times}, ${part.until}`);
    if (part.shape) lines.push(`gives ${part.shape}`);
    lines.push(`FLOPs forward and backward ${share("flops", "")}, parameters ${share("params", "")}, kept for the backward pass ${share("memory", "B")}`);
    const change = part.change;
    if (change) lines.push((change.status === "same" ? "as it was" : change.status) +
      (change.was ? `, was ${change.was}` : "") + (change.new ? `, ${change.new.toLocaleString("en")} of ${change.params.toLocaleString("en")} parameters new` : ""));
    return lines.map(plain);
  }
  toggle(part) {
    const before = this.shapes.get(part.id);
    part.open = !part.open;
    this.tip.hidden = true;
    this.render();
    const after = this.shapes.get(part.id);  // what was clicked stays where it is
    if (before && after) { this.at.x += (before.x - after.x) * this.at.k; this.at.y += (before.y - after.y) * this.at.k; }
    this.pick(part);
    this.move();
  }
  all(open) {
    for (const part of this.tree.parts) if (part.children && part.parent) part.open = open;
    this.render();
    this.fit(0.6);
  }
  mark(part) {
    for (const { rect } of this.shapes.values()) if (rect) rect.classList.remove("picked");
    const shape = this.shapes.get(part.id);
    if (shape && shape.rect) shape.rect.classList.add("picked");
  }
  pick(part) {
    this.picked = part;
    this.mark(part);
    this.details.replaceChildren(...this.about(part).map((line) => el("p", {}, line)));
    if (this.onpick) this.onpick(part);
  }
  // Opens what is around a layer or module, and brings it to the middle; false where nothing is called so.
  reveal(name) {
    const own = this.tree.byName.get(name);
    if (!own && !this.trees[0].byName.has(name)) return false;
    if (!own) {  // a repetition that this view does not draw
      this.tree = this.trees[0];
      if (this.viewSelect) this.viewSelect.value = "0";
    }
    const part = this.tree.byName.get(name);
    for (let p = part.parent; p; p = p.parent) p.open = true;
    this.render();
    this.pick(part);
    const shape = this.shapes.get(part.id), box = this.stage.getBoundingClientRect();
    this.at.k = Math.max(this.at.k, 0.7);
    this.at.x = box.width / 2 - (shape.x + shape.w / 2) * this.at.k;
    this.at.y = shape.h * this.at.k > box.height ? 20 - shape.y * this.at.k : box.height / 2 - (shape.y + shape.h / 2) * this.at.k;
    this.move();
    return true;
  }
}
