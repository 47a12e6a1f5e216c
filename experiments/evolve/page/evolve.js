// The page about a search: its sections in order, and one member that is picked in all of them.
(function start() {
  const told = JSON.parse(document.getElementById("data").textContent);
  const byNumber = new Map(told.members.map((m) => [m.number, m]));
  document.title = `${plain(told.title)} · fxgrow`;
  document.getElementById("title").textContent = plain(told.title);
  document.getElementById("lead").textContent = plain(told.state);
  const main = document.getElementById("main");
  const card = el("div", { class: "details", id: "card", "aria-live": "polite" }, "Click a network for all about it, − and + beside it to fold its branch.");
  let picked = null;
  const charts = [];
  const pick = (number) => {
    picked = number;
    view.pick(number);
    card.replaceChildren(...memberCard(byNumber.get(number), told, byNumber, go));
    for (const chart of charts) chart.redraw();
  };
  const go = (number) => { pick(number); view.stage.scrollIntoView({ block: "nearest" }); };
  const view = new LineageView(told, pick);
  const model = told.diagram ? new DiagramView(told.diagram) : null;
  const link = (name, text) => (model && model.trees[0].byName.has(name)
    ? el("button", { class: "link", title: "Show it in the diagram", onclick: () => { model.reveal(name); model.stage.scrollIntoView({ block: "nearest" }); } }, text) : el("span", {}, text));

  const sections = [facts(Object.entries(told.facts).map(([k, v]) => [k, plain(v)]))];
  if (told.damaged.length) {
    sections.push(section("Damaged networks", "damaged", el("p", {}, "The files of these networks can no longer be read. All else that is known of them is on this page; the search goes on without the files, where it does not need them."),
      sortable(told.damaged, [{ name: "network", number: true, of: (d) => d.number, cell: (d) => el("button", { class: "link", onclick: () => go(d.number) }, `#${d.number}`) },
        { name: "round", number: true, of: (d) => d.round }, { name: "why", of: (d) => plain(d.reason) }], {})));
  }
  if (told.members.length) sections.push(section("Lineage", "lineage", view.element, card));
  if (told.members.some((m) => m.accuracy !== null)) {
    charts.push(frontChart(told.members, "flops", "FLOPs of a forward pass", told, () => picked, go), frontChart(told.members, "parameters", "parameters", told, () => picked, go));
    sections.push(section("Pareto fronts", "fronts", el("p", {}, "A network is on the front (blue) if no other is as good and costs less, or costs as much and is better; framed in orange: the best network. Accuracies are those after the last training of each."),
      el("div", { class: "charts" }, charts.map((c) => c.element))));
    const { unit, points } = told.curves;
    const legend = el("div", { class: "legend" }, Object.entries(CURVES).map(([key, words]) => keyed([el("i", { class: "stroke", style: `background:${INKS[key]}` }), words])));
    sections.push(section("Progress", "progress", legend, el("div", { class: "charts" }, curveChart(points, "at", `${unit}s`, unit, String).element,
      curveChart(points, "spent", "FLOPs spent in training", unit, (v) => quantity(v)).element)));
  }
  if (told.best !== null) {
    sections.push(section("Best network", "best", el("h3", {}, `#${told.best}: how it came to be`), descentList(told, byNumber, go, link),
      el("h3", {}, "Its diagram"), told.changes ? el("p", {}, "Colours: what it has that the base network had not.") : told.diagram_problem ? el("p", { class: "bad" }, plain(told.diagram_problem)) : null,
      model ? model.element : el("p", { class: "bad" }, `There is none: ${plain(told.missing)}`),
      told.changes ? [el("h3", {}, "Its layers against those of the base network"), changeTable(told.changes, link)] : []));
  } else sections.push(section("Best network", "best", el("p", {}, `There is none: ${plain(told.missing)}`)));
  if (told.ensembles) {
    const names = [...new Set(told.ensembles.flatMap((e) => Object.keys(e)))];
    sections.push(section("Ensembles", "ensembles", told.ensembles_problem ? el("p", { class: "bad" }, plain(told.ensembles_problem)) : null,
      el("p", {}, plain(told.ensembles_about)), !told.ensembles.length ? null : sortable(told.ensembles, names.map((name) => {
      const number = told.ensembles.every((e) => e[name] === undefined || typeof e[name] === "number");
      const words = (v) => (v === undefined ? "" : typeof v !== "number" ? plain(v) : Number.isInteger(v) ? v.toLocaleString("en") : v.toFixed(4));
      return { name: plain(name), number, of: (e) => (e[name] === undefined ? "" : e[name]), cell: (e) => words(e[name]) };
    }), { id: "ensemble-table" })));
  }
  sections.push(section("All networks", "all", memberTable(told, go)));
  sections.push(section("Discarded mutations", "discarded", told.discarded.length ? [el("p", {}, "Mutations that were drawn and led to nothing, by pass and reason; places and numbers are left out (…)."),
    discardedTable(told.discarded, go)] : el("p", {}, "None.")));
  sections.push(section("Settings and seeds", "settings", el("p", {}, told.finished ? "The search is finished. This goes on with it where it was cut off, and leaves a finished one as it is: " : "This goes on with the search from its last finished training: ", el("code", {}, plain(told.resume))),
    el("p", {}, `Every random choice follows from seed ${told.seed}. The seed of each step and of each training stands with the network.`),
    sortable(told.settings, [{ name: "setting", of: (s) => plain(s.name) }, { name: "value", of: (s) => plain(s.value) }, { name: "default", of: (s) => (s.usual === s.value ? "" : plain(s.usual)) }], { id: "setting-table" })));
  main.append(...sections);
  document.getElementById("contents").append(...[...main.querySelectorAll("section")].map((s) => el("a", { href: `#${s.id}` }, s.querySelector("h2").textContent)));
  view.render();
  view.fit(0.8);
  if (model) { model.render(); model.fit(0.6); }
  window.fxgrow = { view, model, pick, go, told };
})();
