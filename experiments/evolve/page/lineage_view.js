// The lineage as a drawing to move, fold and search. A click tells the page which member was picked.
const BEST = "#D55E00", PICKED = "#0072B2";

// Colours of fitness: viridis from the worst to the best that was trained.
class Fitness {
  constructor(members, heat) {
    const known = members.map((m) => m.accuracy).filter((a) => a !== null);
    [this.low, this.high, this.heat] = [Math.min(...known), Math.max(...known), heat];
    this.any = known.length > 0;
  }
  of(accuracy) {
    if (accuracy === null) return "white";
    const share = this.high > this.low ? (accuracy - this.low) / (this.high - this.low) : 1;
    const at = share * (this.heat.length - 1), i = Math.min(this.heat.length - 2, Math.floor(at));
    const channel = (colour, c) => parseInt(colour.slice(1 + 2 * c, 3 + 2 * c), 16);
    const mix = [0, 1, 2].map((c) => Math.round(channel(this.heat[i], c) * (1 - at + i) + channel(this.heat[i + 1], c) * (at - i)));
    return `rgb(${mix.join(",")})`;
  }
}

function keyed(parts) { return el("em", {}, parts); }  // of a legend: a sign and its words, on one line

class LineageView extends Stage {
  constructor(told, onpick) {
    super("Lineage: drag to move, wheel or + and - to zoom");
    this.lineage = new Lineage(told);
    this.best = told.best;
    this.onpick = onpick;
    this.fitness = new Fitness(told.members, told.heat);
    this.picked = null;
    this.element = el("div", { class: "lineage" }, this.controls(told), this.stage, this.legend());
  }
  controls(told) {
    const names = told.members.map((m) => ({ name: m.number, text: String(m.number), kind: `#${m.number} ${m.step}` }));
    const show = (how) => () => { this.lineage.showAll(how); this.render(); this.fit(0.8); };
    const columns = el("select", { id: "columns", onchange: (e) => { this.lineage.columns = e.target.value; this.render(); this.fit(0.8); } },
      ["round", "generation"].map((c) => el("option", { value: c, selected: c === this.lineage.columns }, c)));
    return el("div", { class: "bar" }, finder(names, (f) => this.onpick(f.name), { id: "member", hits: "members-found",
      placeholder: `search ${names.length} networks`, label: "Search networks by number, pass or place", none: "no network is called so" }),
    this.zoomButtons(), button("best", "Go to the best network", () => told.best !== null && this.onpick(told.best)),
    button("all branches", "Open every branch", show("all")), button("living branches", "Hide the branches that have died out", show("living")),
    el("label", {}, "columns ", columns));
  }
  legend() {
    const known = this.fitness.any ? keyed([`accuracy ${this.fitness.low.toFixed(3)} `,
      el("i", { class: "scale", style: `background:linear-gradient(to right,${this.fitness.heat.join(",")})` }), ` ${this.fitness.high.toFixed(3)}`]) : null;
    const mark = (style, words) => keyed([el("i", { class: "dot", style }), words]);
    return el("div", { class: "legend" }, known, keyed([el("i", { class: "stroke" }), "line of the best network"]),
      mark("border:2.5px solid #222", "in the population now"), mark("opacity:.35;background:#888;border-color:#888", "died out"),
      mark("border:2px dashed #888", "not trained so far, or failed (×)"), mark("border:3px dotted #c00", "damaged file (!)"));
  }

  // -- drawing ------------------------------------------------------------------------------------------------------------
  render() {
    const { placed, columns, w, h } = this.lineage.place();
    this.size = { w, h };
    const line = new Set(this.picked === null ? [] : this.lineage.descent(this.lineage.nodes.get(this.picked)).map((n) => n.number));
    const head = svg("g"), wires = svg("g"), above = svg("g"), dots = svg("g");
    columns.forEach((c, at) => head.append(this.column(c, at, h)));
    for (const node of placed) {
      if (node.up) (this.lineage.line.has(node.number) ? above : wires).append(this.wire(node, line.has(node.number)));
      dots.append(this.dot(node));
    }
    this.world.replaceChildren(head, wires, above, dots);
    this.shown = new Set(placed.map((n) => n.number));
  }
  column(c, at, h) {
    const x = 24 + COLUMN * (at - 0.5);
    const name = c === 0 ? "base" : `${this.lineage.columns} ${c}`;
    return svg("g", {}, at % 2 ? svg("rect", { x, y: 0, width: COLUMN, height: h, fill: "#f7f7f9" }) : null,
      svg("text", { x: x + COLUMN / 2, y: 16, "text-anchor": "middle", class: "name" }, name));
  }
  wire(node, picked) {
    const { x, y } = node.up, best = this.lineage.line.has(node.number);
    const path = `M${x},${y} C${x + 46},${y} ${x + 22},${node.y} ${x + 72},${node.y} L${node.x},${node.y}`;
    return svg("g", { opacity: node.lives || picked ? 1 : 0.4 },
      svg("path", { d: path, fill: "none", stroke: best ? BEST : picked ? PICKED : "#999", "stroke-width": best ? 3.5 : picked ? 3 : 1.2 }),
      svg("text", { x: node.x - 13, y: node.y - 4, "text-anchor": "end", class: "pass" }, clipped(plain(node.pass), 12)));
  }
  dot(node) {
    const best = node.number === this.best, r = best ? 10 : 7;
    const ring = node.damaged ? ["#cc0000", 3, "2 2"] : best ? [BEST, 3, null] : node.state !== "trained" ? ["#888", 2, "3 2"]
      : node.alive ? ["#222", 2.5, null] : ["#666", 1, null];
    const sign = node.damaged ? "!" : node.state === "failed" ? "×" : "";
    const kids = node.kids.length > 0;
    const group = svg("g", { "data-number": node.number, class: "touch", tabindex: -1, transform: `translate(${node.x} ${node.y})`,
      opacity: node.lives || node.number === this.picked ? 1 : 0.4 },
    svg("circle", { r: 13, fill: "transparent" }),
    node.number === this.picked ? svg("circle", { r: r + 5, fill: "none", stroke: PICKED, "stroke-width": 3 }) : null,
    svg("circle", { r, fill: this.fitness.of(node.accuracy), stroke: ring[0], "stroke-width": ring[1], "stroke-dasharray": ring[2] }),
    sign ? svg("text", { x: 0, y: 4, "text-anchor": "middle", class: "sign" }, sign) : null,
    svg("text", { x: kids ? 4 : r + 5, y: kids ? r + 10 : 4, class: "halo" },
      svg("tspan", { class: "title" }, `#${node.number}`), svg("tspan", { class: "name", dx: 4 }, node.accuracy === null ? "" : node.accuracy.toFixed(3))));
    this.listenTo(group, node, () => this.onpick(node.number));
    return kids ? svg("g", {}, group, this.chip(node, r)) : group;
  }
  chip(node, r) {
    const hidden = this.lineage.hidden(node), words = hidden ? `+${hidden}` : "−", w = hidden ? 10 + 6 * words.length : 13;
    const group = svg("g", { class: "touch chip", "data-chip": node.number, tabindex: -1, transform: `translate(${node.x + r + 4} ${node.y - 7})` },
      svg("rect", { width: w, height: 13, rx: 6, fill: hidden ? "#e6f1f8" : "white", stroke: "#7a9bb0", "stroke-width": 0.8 }),
      svg("text", { x: w / 2, y: 10.5, "text-anchor": "middle", class: "name" }, words),
      svg("title", {}, hidden ? `show the ${hidden} hidden networks after this one` : `hide the ${node.under} networks after this one`));
    this.act(group, () => this.fold(node));
    return group;
  }
  act(group, does) {
    group.addEventListener("click", () => { if (!this.moved) does(); });
    group.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { does(); e.preventDefault(); e.stopPropagation(); } });
  }
  listenTo(group, node, does) {
    this.act(group, does);
    group.addEventListener("pointermove", (e) => this.hint(brief(node, node.up), e));
    group.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  // -- what a reader does ---------------------------------------------------------------------------------------------------
  fold(node) {
    const [x, y] = [node.x, node.y];
    this.lineage.toggle(node);
    this.render();  // what was clicked stays where it is
    this.at.x += (x - node.x) * this.at.k;
    this.at.y += (y - node.y) * this.at.k;
    this.move();
  }
  // Marks a member; with `bring`, opens what hides it and brings it to the middle unless it is to be seen.
  pick(number, bring = true) {
    const node = this.lineage.nodes.get(number);
    this.picked = number;
    this.lineage.reveal(node);
    this.render();
    const [x, y] = [this.at.x + node.x * this.at.k, this.at.y + node.y * this.at.k];
    const { clientWidth: w, clientHeight: h } = this.stage;
    if (bring && (x < 60 || y < 40 || x > w - 90 || y > h - 30 || this.at.k < 0.5)) {
      this.at.k = Math.max(this.at.k, 0.8);
      this.at.x = w / 2 - node.x * this.at.k;
      this.at.y = h / 2 - node.y * this.at.k;
    }
    this.move();
  }
  // All of it, or (least: a scale) as much as can be read, with the best network in sight.
  fit(least = 0) {
    const { clientWidth: w, clientHeight: h } = this.stage, best = this.lineage.nodes.get(this.best) || this.lineage.root;
    this.at.k = Math.min(1, Math.max(Math.min((w - 16) / this.size.w, (h - 16) / this.size.h), least));
    const along = (room, size, spot) => (size <= room - 8 ? (room - size) / 2 : Math.max(room - size - 8, Math.min(8, room / 2 - spot)));
    this.at.x = along(w, this.size.w * this.at.k, best.x * this.at.k);
    this.at.y = this.size.h * this.at.k <= h ? 8 : along(h, this.size.h * this.at.k, best.y * this.at.k);
    this.move();
  }
}
