// What is told of members: in short, all of one, and all of them as a table; and of mutations that led to nothing.
function grew(was, is) {
  const [a, b] = [quantity(was), quantity(is)], all = (v) => v.toLocaleString("en");
  return was === is ? a : a === b ? `${all(was)} ⇒ ${all(is)}` : `${a} ⇒ ${b} (× ${(is / was).toFixed(2)})`;
}
function accuracyOf(m) { return m.accuracy === null ? { waiting: "not trained so far", failed: "its training failed" }[m.state] : m.accuracy.toFixed(4); }
function fateOf(m, told) {
  return [m.number === told.best ? "the best network" : told.line.includes(m.number) ? "an ancestor of the best network" : "",
    m.alive ? "in the population now" : "", m.damaged ? "its file is damaged" : ""].filter(Boolean).join(", ");
}

// The lines of a hint.
function brief(m, parent) {
  const cost = (key) => (parent ? grew(parent[key], m[key]) : quantity(m[key]));
  return [`#${m.number} ${m.parent === null ? "" : `of #${m.parent}, `}round ${m.round}`, m.step, `accuracy ${accuracyOf(m)}`,
    `parameters ${cost("parameters")}`, `FLOPs forward ${cost("flops")}`, ...(m.damaged ? [m.damaged] : [])].map(plain);
}

function facts(pairs) { return el("div", { class: "facts" }, pairs.filter(([, v]) => v !== "" && v !== null).map(([name, value]) => el("div", {}, el("b", {}, name), value))); }
function layerTable(m, id, link = (name, text) => text) {
  if (Array.isArray(m.layers)) return m.layers.length ? changeTable(m.layers, link, id) : el("p", {}, "No layer that holds parameters or costs FLOPs changed.");
  if (m.parent === null) return null;
  return el("p", {}, m.layers ? `Its layers were not compared with its parent's: ${plain(m.layers)}` : "Its layers were not compared with its parent's.");
}

// All about one member. go: to another one.
function memberCard(m, told, byNumber, go) {
  const to = (n) => el("button", { class: "link", onclick: () => go(n) }, `#${n}`);
  const parent = byNumber.get(m.parent), children = told.members.filter((c) => c.parent === m.number);
  const cost = (key) => (parent ? grew(parent[key], m[key]) : quantity(m[key]));
  const gain = parent && parent.accuracy !== null && m.accuracy !== null ? ` (${m.accuracy >= parent.accuracy ? "+" : "−"}${Math.abs(m.accuracy - parent.accuracy).toFixed(4)} to its parent's)` : "";
  const line = [];
  for (let p = m; p; p = byNumber.get(p.parent)) line.unshift(p.number);
  const steps = m.trainings.map(([round, accuracy, loss, taken, spent, seconds, seed]) => el("tr", {},
    [round, accuracy === null ? "failed" : accuracy.toFixed(4), Number(loss).toFixed(4), taken, quantity(spent), seconds.toFixed(1), seed].map((v) => el("td", { class: "number" }, String(v)))));
  return [el("h3", {}, `#${m.number} ${plain(m.pass)} ${plain(m.where)}`), el("p", {}, fateOf(m, told)),
    el("p", {}, "line of descent: ", line.flatMap((n, i) => (i ? [" → ", to(n)] : [to(n)]))),
    children.length ? el("p", {}, "children: ", children.flatMap((c, i) => (i ? [" ", to(c.number)] : [to(c.number)]))) : null,
    facts([["accuracy", accuracyOf(m) + gain], ["parameters", cost("parameters")], ["FLOPs forward", cost("flops")],
      ["latency", m.latency === null ? "" : `${m.latency.toFixed(2)} ms`], ["made in round", String(m.round)],
      ...Object.entries(m.options).map(([k, v]) => [plain(k), plain(v)])]),
    m.damaged ? el("p", { class: "bad" }, plain(m.damaged)) : null, layerTable(m, "layers"),
    steps.length ? el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ["round", "accuracy", "loss", "steps", "FLOPs spent", "seconds", "seed"].map((h) => el("th", { class: "number" }, h)))),
      el("tbody", {}, steps))) : null].filter(Boolean);
}

function memberTable(told, go) {
  const or = (v, else_) => (v === null ? else_ : v);
  return sortable(told.members, [
    { name: "network", number: true, of: (m) => m.number, cell: (m) => el("button", { class: "link", onclick: () => go(m.number) }, `#${m.number}`) },
    { name: "round", number: true, of: (m) => m.round }, { name: "parent", number: true, of: (m) => or(m.parent, -1), cell: (m) => (m.parent === null ? "" : `#${m.parent}`) },
    { name: "pass", of: (m) => plain(m.pass) }, { name: "where", of: (m) => plain(m.where) },
    { name: "accuracy", number: true, of: (m) => or(m.accuracy, -1), cell: (m) => (m.accuracy === null ? m.state : m.accuracy.toFixed(4)) },
    { name: "parameters", number: true, of: (m) => m.parameters, cell: (m) => m.parameters.toLocaleString("en") },
    { name: "FLOPs forward", number: true, of: (m) => m.flops, cell: (m) => quantity(m.flops) }, { name: "", of: (m) => fateOf(m, told) }], { id: "members" });
}

// The steps that led to the best network, each with what it changed.
function descentList(told, byNumber, go, link) {
  return el("ol", { class: "descent", start: 0 }, told.line.map((n) => {
    const m = byNumber.get(n), parent = byNumber.get(m.parent);
    const cost = (key) => (parent ? grew(parent[key], m[key]) : quantity(m[key]));
    return el("li", {}, el("button", { class: "link", onclick: () => go(n) }, `#${n}`), ` ${plain(m.step)}`,
      el("p", { class: "pale" }, `accuracy ${accuracyOf(m)}, parameters ${cost("parameters")}, FLOPs ${cost("flops")}`),
      m.layers && m.layers.length ? el("details", {}, el("summary", {}, "what changed"), layerTable(m, `layers-${n}`, link)) : null);
  }));
}

function discardedTable(groups, go) {
  return el("div", { class: "wide tables", id: "reasons" }, el("table", {}, el("thead", {}, el("tr", {}, ["times", "pass", "rounds", "why"].map((h) => el("th", {}, h)))),
    el("tbody", {}, groups.map((g) => el("tr", {}, el("td", { class: "number" }, g.count.toLocaleString("en")), el("td", {}, plain(g.pass)),
      el("td", {}, g.rounds[0] === g.rounds[1] ? String(g.rounds[0]) : `${g.rounds[0]} to ${g.rounds[1]}`),
      el("td", { class: "words reason" }, plain(g.reason), el("details", {}, el("summary", {}, g.count > g.examples.length ? `the first ${g.examples.length}` : "each"),
        g.examples.map((e) => el("p", {}, el("button", { class: "link", onclick: () => go(e.parent) }, `#${e.parent}`), ` ${plain(e.step)}: ${plain(e.reason)}`)))))))));
}
