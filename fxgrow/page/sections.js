// The sections of the page, each from what is told of it.
function section(title, id, ...children) { return el("section", { id }, el("h2", {}, title), ...children); }

// The tree of modules with what each costs; rows open and close.
function costTree(costs, link) {
  const modules = costs.modules;
  const whole = modules[0] || {};
  const open = new Set(modules.filter((m) => m.level < 1).map((m) => m.name));
  const body = el("tbody");
  const parent = (name) => name.slice(0, Math.max(0, name.lastIndexOf(".")));
  const full = new Set(modules.filter((m) => m.name).map((m) => parent(m.name)));
  const seen = (m) => m.name === "" || open.has(parent(m.name)) && seen({ name: parent(m.name) });
  const show = () => body.replaceChildren(...modules.filter(seen).map((m) => {
    const share = whole.flops ? m.flops / whole.flops : 0;
    const toggle = full.has(m.name) ? el("button", { "aria-expanded": String(open.has(m.name)), "aria-label": `open or close ${plain(m.name) || "model"}`,
      onclick: () => { open.has(m.name) ? open.delete(m.name) : open.add(m.name); show(); } }, open.has(m.name) ? "−" : "+") : null;
    const own = plain(m.name.slice(m.name.lastIndexOf(".") + 1)) || "model";
    return el("tr", {}, el("td", { style: `padding-left:${0.4 + m.level}rem` }, toggle, link(m.name, own), " ", el("small", {}, plain(m.kind))),
      ...[quantity(m.forward), quantity(m.backward)].map((v) => el("td", { class: "number" }, v)),
      el("td", {}, percent(share), el("span", { class: "share", style: `width:${(6 * share).toFixed(2)}rem` })),
      ...[quantity(m.params), quantity(m.memory, "B"), m.intensity.toPrecision(3)].map((v) => el("td", { class: "number" }, v)));
  }));
  show();
  const heads = ["module", "forward", "backward", "share", "parameters", "kept", "FLOP/byte"];
  const every = (all) => () => { open.clear(); modules.forEach((m) => { if (all || m.level < 1) open.add(m.name); }); show(); };
  return el("div", {}, el("div", { class: "bar" }, el("button", { onclick: every(true) }, "open all"), el("button", { onclick: every(false) }, "close all")),
    el("div", { class: "wide tables" }, el("table", { class: "tree", id: "tree" }, el("thead", {}, el("tr", {}, heads.map((h) => el("th", {}, h)))), body)));
}

// An icicle: a module's width is its share, what is in it stands below it (Kruskal and Landwehr 1983). A click goes into it.
function icicle(costs, heat, link) {
  const modules = costs.modules.map((m) => ({ ...m, children: [] }));
  const byName = new Map(modules.map((m) => [m.name, m]));
  for (const m of modules) if (m.name) byName.get(m.name.slice(0, Math.max(0, m.name.lastIndexOf(".")))).children.push(m);
  const space = el("div", { class: "icicle", id: "icicle" }), where = el("p", { "aria-live": "polite" });
  let what = "flops", top = modules[0];
  const show = () => {
    const cells = [], whole = modules[0][what] || 1;
    let deepest = 0;
    const put = (m, x, w, level) => {
      if (w < 0.002 || level > 9) return;
      deepest = Math.max(deepest, level);
      const colour = heat[Math.min(10, Math.round(10 * Math.sqrt(m[what] / whole)))];
      const name = plain(m.name.slice(m.name.lastIndexOf(".") + 1)) || "model";
      const unit = what === "memory" ? "B" : "";
      cells.push(el("button", { style: `left:${100 * x}%;width:${100 * w}%;top:${26 * level}px;background:${colour};color:${heat.slice(0, 6).includes(colour) ? "white" : "black"}`,
        title: `${plain(m.name) || "model"} ${plain(m.kind)}\n${quantity(m[what], unit)} of ${WHAT[what]}, ${percent(m[what] / whole)}`,
        onclick: () => { top = m === top && m.name ? byName.get(m.name.slice(0, Math.max(0, m.name.lastIndexOf(".")))) : m; show(); } }, w > 0.02 ? name : ""));
      let at = x;
      for (const child of m.children) {
        const part = m[what] ? w * Math.min(1, child[what] / m[what]) : 0;
        put(child, at, part, level + 1);
        at += part;
      }
    };
    put(top, 0, 1, 0);
    space.replaceChildren(...cells);
    space.style.height = `${26 * (deepest + 1) + 2}px`;
    where.replaceChildren(top.name ? "within " : "all of the model; click a part to go into it", top.name ? link(top.name, plain(top.name)) : "",
      top.name ? "; click its bar to go up" : "");
  };
  const choose = el("div", { class: "bar" }, Object.entries(WHAT).map(([key, name]) => el("button", { "aria-pressed": String(key === what), onclick: (e) => {
    what = key;
    for (const b of choose.children) b.setAttribute("aria-pressed", String(b === e.target));
    show();
  } }, name)));
  show();
  return el("div", {}, choose, where, space);
}

function growthSections(growth, link) {
  const found = [], checked = growth.verification;
  const summary = [];
  if (growth.changes) {
    const [total] = growth.changes, number = (pair) => `${pair[0].toLocaleString("en")} ⇒ ${pair[1].toLocaleString("en")}`;
    summary.push(["parameters", `${number(total.parameters)}, ${total.new.toLocaleString("en")} new`], ["FLOPs, forward and backward", number(total.flops)]);
  }
  if (checked) {
    const verdict = checked.ok === undefined ? null : el("span", { class: checked.ok ? "ok" : "bad" }, checked.ok ? "equal in eval mode" : "NOT equal");
    summary.push(["compared with the network it grew from", verdict || plain(checked.text)]);
    if (verdict) {
      summary.push(["largest error, absolute", Number(checked.max_abs_error).toExponential(2)]);
      for (const [mode, error] of Object.entries(checked.errors)) summary.push([`largest relative error, ${mode} mode (at most ${checked.tolerance} counts as equal)`, Number(error).toExponential(2)]);
      for (const note of checked.notes || []) summary.push(["note", plain(note)]);
    }
  }
  found.push(section("What grew", "growth", el("div", { class: "facts" }, summary.map(([name, value]) => el("div", {}, el("b", {}, name), value))),
    growth.lineage ? el("ol", {}, growth.lineage.map((step) => el("li", {}, plain(step)))) : null,
    growth.changes ? changeTable(growth.changes.slice(1), link) : null));
  if (growth.certificate) {
    const rows = growth.certificate;
    const size = (c) => (c.method ? `${c.before} → ${c.after}` : String(c.before));
    found.push(section("Why it is exact", "certificate", el("p", {}, "Each axis class that the passes looked at: what was done to it and why that changes nothing, or why it was left alone."),
      sortable(rows, [{ name: "class", of: (c) => plain(c.name) }, { name: "size", of: size }, { name: "method", of: (c) => c.method || "left alone" },
        { name: "why", of: (c) => plain(c.certificate || c.reason) }], { id: "certificates" })));
  }
  if (growth.record) {
    const shape = (s) => (s.length ? `[${s.join(", ")}]` : "");
    const number = (name, of) => ({ name, number: true, of, cell: (r) => of(r).toLocaleString("en") });
    found.push(section("The growth record", "record", el("p", {}, `${growth.record.length} parameters and buffers hold new numbers or have another name; all others are as they were.`),
      sortable(growth.record, [{ name: "tensor", of: (r) => plain(r.name) }, { name: "from", of: (r) => plain(r.source) || "new" }, { name: "was", of: (r) => shape(r.was) },
        { name: "is", of: (r) => shape(r.shape) }, number("old numbers", (r) => r.old), number("new numbers", (r) => r.new),
        { name: "scale", number: true, of: (r) => (r.scale === 1 ? "" : Number(r.scale.toPrecision(6))) }], { id: "entries" }),
      growth.removed.length ? el("p", {}, `No longer there: ${plain(growth.removed.join(", "))}`) : null));
  }
  return found;
}

function changeTable(changes, link, id = "changes") {
  const pair = (p) => (p[0] === p[1] ? p[0].toLocaleString("en") : `${p[0].toLocaleString("en")} ⇒ ${p[1].toLocaleString("en")}`);
  const words = (c) => plain(c.before && c.after && c.before !== c.after ? `${c.before} ⇒ ${c.after}` : c.after || c.before);
  const columns = [{ name: "layer", of: (c) => c.name || c.was, cell: (c) => el("span", {}, c.name ? link(c.name, plain(c.name)) : plain(c.was),
    c.name && c.was && c.name !== c.was ? ` (was ${plain(c.was)})` : "") }, { name: "kind", of: (c) => plain(c.kind) }, { name: "status", of: (c) => c.status },
  { name: "settings", of: words }, { name: "parameters", number: true, of: (c) => c.parameters[1], cell: (c) => pair(c.parameters) },
  { name: "new", number: true, of: (c) => c.new, cell: (c) => (c.new ? c.new.toLocaleString("en") : "") },
  { name: "FLOPs, forward and backward", number: true, of: (c) => c.flops[1], cell: (c) => pair(c.flops) }];
  const changed = changes.filter((c) => c.status !== "same");
  const hold = el("div", {}, sortable(changed, columns, { id }));
  if (changed.length === changes.length) return hold;
  const box = el("input", { type: "checkbox", onchange: (e) => hold.replaceChildren(sortable(e.target.checked ? changes : changed, columns, { id })) });
  return el("div", {}, el("label", {}, box, ` the ${changes.length - changed.length} layers that are as they were, too`), hold);
}

function filterSection(filters) {
  const figures = filters.grids.map((g) => el("figure", {}, el("figcaption", {}, g.caption), el("img", { src: g.image, alt: `filters ${g.caption}` })));
  return section("Filters of the first convolution", "filters", el("p", {}, plain(filters.name), filters.grids.length > 1 ? "; framed in blue: filters with new numbers" : ""),
    filters.problem ? el("p", {}, filters.problem) : null, el("div", { class: "filters" }, figures));
}

// Matrices before and after: light and dark are the two signs, blue are new numbers.
function weightSection(weights, link) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const picture = (m, words) => {
    const canvas = el("canvas", { width: m.width, height: m.height }), context = canvas.getContext("2d");
    const image = context.createImageData(m.width, m.height), fresh = bytes(m.new);
    bytes(m.grey).forEach((grey, i) => image.data.set(fresh[i] ? [grey * 0.55, 114 + (grey - 128) * 0.5, 178 + (grey - 128) * 0.5, 255] : [grey, grey, grey, 255], 4 * i));
    context.putImageData(image, 0, 0);
    const scale = Math.max(1, Math.min(8, Math.floor(256 / Math.max(m.width, m.height))));
    canvas.style.width = `${m.width * scale}px`;
    canvas.style.height = `${m.height * scale}px`;
    return el("figure", {}, el("figcaption", {}, `${words}, [${m.shape.join(", ")}]`), canvas);
  };
  const layer = (name) => name.slice(0, Math.max(0, name.lastIndexOf(".")));
  const one = (w) => el("div", {}, el("h3", {}, link(layer(w.name), plain(w.name))),
    el("div", { class: "filters" }, w.before ? picture(w.before, "before") : null, picture(w.after, w.before ? "after" : "new")));
  return section("Weights before and after", "weights", el("p", {}, "A row is an output; grey is zero, new numbers are blue; both have one scale. Large matrices are shown in parts, spread evenly."),
    weights.drawn.map(one), weights.left ? el("p", {}, `${weights.left} more weights changed.`) : null);
}
