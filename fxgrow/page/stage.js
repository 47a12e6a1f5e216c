// A drawing that is moved and zoomed, with a box that tells of what is under the pointer; and a box to search by name.
const SMALLEST = 0.02;  // scale
function button(name, title, act) { return el("button", { title, onclick: act }, name); }

// Shows lines beside the pointer, within `around`.
function hint(around, tip, lines, event) {
  if (event.pointerType === "touch") return;
  tip.textContent = lines.join("\n");
  tip.hidden = false;
  const box = around.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  tip.style.left = `${Math.max(4, Math.min(x + 14, box.width - tip.offsetWidth - 6))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight > box.height ? Math.max(4, y - tip.offsetHeight - 10) : y + 18}px`;
}

class Stage {
  // label: what a screen reader says. size: of all that is drawn, for whoever draws to set.
  constructor(label, ...defs) {
    this.at = { x: 0, y: 0, k: 1 };
    this.size = { w: 1, h: 1 };
    this.world = svg("g");
    this.svg = svg("svg", { tabindex: 0, role: "application", "aria-label": label }, svg("defs", {}, defs), this.world);
    this.tip = el("div", { class: "tip", hidden: true });
    this.stage = el("div", { class: "stage" }, this.svg, this.tip);
    this.listen();
  }
  zoomButtons() {
    return [button("+", "Zoom in", () => this.zoom(1.25)), button("−", "Zoom out", () => this.zoom(0.8)),
      button("fit", "Show all of it", () => this.fit())];
  }
  hint(lines, event) { hint(this.stage, this.tip, lines, event); }
  move() { this.world.setAttribute("transform", `translate(${this.at.x} ${this.at.y}) scale(${this.at.k})`); }
  // All of it, or (least: a scale) as much from the top as can be read.
  fit(least = 0) {
    const box = this.stage.getBoundingClientRect();
    const wide = (box.width - 16) / this.size.w, high = (box.height - 16) / this.size.h;
    this.at.k = Math.max(SMALLEST, Math.min(1, wide, Math.max(high, least)));
    this.at.x = (box.width - this.size.w * this.at.k) / 2;
    this.at.y = 8;
    this.move();
  }
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const k = Math.min(4, Math.max(SMALLEST, this.at.k * factor));
    this.at.x = x - (x - this.at.x) * k / this.at.k;
    this.at.y = y - (y - this.at.y) * k / this.at.k;
    this.at.k = k;
    this.move();
  }
  listen() {
    const held = new Map();
    const place = (e) => { const box = this.stage.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
    const spread = () => { const [a, b] = [...held.values()]; return [Math.hypot(a[0] - b[0], a[1] - b[1]), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2]; };
    this.svg.addEventListener("pointerdown", (e) => { held.set(e.pointerId, place(e)); this.moved = false; });
    window.addEventListener("pointermove", (e) => {
      if (!held.has(e.pointerId)) return;
      const from = held.get(e.pointerId), to = place(e);
      if (Math.hypot(to[0] - from[0], to[1] - from[1]) < 3 && !this.moved) return;
      this.moved = true;
      if (held.size === 2) {
        const [was] = spread();
        held.set(e.pointerId, to);
        const [now, x, y] = spread();
        if (was > 0) this.zoom(now / was, x, y);
      } else {
        this.at.x += to[0] - from[0];
        this.at.y += to[1] - from[1];
        held.set(e.pointerId, to);
        this.move();
      }
    });
    for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, (e) => held.delete(e.pointerId));
    this.svg.addEventListener("wheel", (e) => {
      e.preventDefault();
      const [x, y] = place(e);
      this.zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), x, y);
    }, { passive: false });
    this.svg.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[e.key];
      if (step) { this.at.x += step[0]; this.at.y += step[1]; this.move(); }
      else if (e.key === "+" || e.key === "=") this.zoom(1.25);
      else if (e.key === "-") this.zoom(0.8);
      else return;
      e.preventDefault();
    });
  }
}

// names: {name, text, kind} of each. told: the ids of the box and of the list, what they say.
function finder(names, onfound, told) {
  const hits = el("ul", { class: "hits", id: told.hits, role: "listbox" });
  let found = [], chosen = 0;
  const input = el("input", { type: "search", id: told.id, placeholder: told.placeholder, "aria-label": told.label, autocomplete: "off", role: "combobox",
    "aria-controls": told.hits, "aria-expanded": "false" });
  const show = () => {
    input.setAttribute("aria-expanded", String(found.length > 0));
    hits.replaceChildren(...found.map((f, i) => el("li", { role: "option", "aria-selected": String(i === chosen),
      onpointerdown: (e) => { e.preventDefault(); go(f); } }, f.text, " ", el("small", {}, plain(f.kind)))));
  };
  const go = (f) => { found = []; show(); input.value = f.text; onfound(f); };
  const look = () => {
    const words = input.value.trim().toLowerCase().replace(/(\d)\s*[x*]\s*(?=\d)/g, "$1×");  // 64x56: as shapes are written
    const rank = (n) => (n.text.toLowerCase() === words ? 0 : n.text.toLowerCase().startsWith(words) ? 1 : 2);
    found = !words ? [] : names.filter((n) => `${n.text} ${n.kind}`.toLowerCase().includes(words))
      .sort((a, b) => rank(a) - rank(b)).slice(0, 50);
    chosen = 0;
    show();
    if (words && !found.length) hits.append(el("li", {}, told.none));
  };
  input.addEventListener("input", look);
  input.addEventListener("blur", () => { found = []; show(); });
  input.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && found.length) go(found[chosen]);
    else if (e.key === "Escape") { found = []; show(); }
    else if ((e.key === "ArrowDown" || e.key === "ArrowUp") && found.length) {
      chosen = (chosen + (e.key === "ArrowDown" ? 1 : found.length - 1)) % found.length;
      show();
      hits.children[chosen].scrollIntoView({ block: "nearest" });
      e.preventDefault();
    }
  });
  return el("div", { class: "search" }, input, hits);
}
