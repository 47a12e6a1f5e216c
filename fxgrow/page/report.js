// The page about one model: its sections in order.
(function start() {
  const told = JSON.parse(document.getElementById("data").textContent);
  document.title = `${plain(told.title)} · fxgrow`;
  document.getElementById("title").textContent = plain(told.title);
  const main = document.getElementById("main");
  const view = told.diagram ? new DiagramView(told.diagram) : null;
  const link = (name, text) => (view && view.trees[0].byName.has(name)
    ? el("button", { class: "link", title: "Show it in the diagram", onclick: () => { view.reveal(name); view.stage.scrollIntoView({ block: "nearest" }); } }, text)
    : el("span", {}, text));
  const sections = [];
  if (told.model) sections.push(el("div", { class: "facts" }, Object.entries(told.model).map(([name, value]) => el("div", {}, el("b", {}, name), plain(value)))));
  if (view) sections.push(section("Diagram", "diagram", view.element));
  else if (told.missing) sections.push(section("Diagram", "diagram", el("p", {}, `There is none: ${plain(told.missing)}`)));
  if (told.growth) sections.push(...growthSections(told.growth, link));
  if (told.weights && told.weights.drawn.length) sections.push(weightSection(told.weights, link));
  if (told.filters) sections.push(filterSection(told.filters));
  if (told.costs) {
    const heat = told.heat;
    sections.push(section("What it costs", "costs", el("p", {}, "FLOPs of matrix products, convolutions and attention (a multiply-add is two), forward and backward; memory is what the forward pass keeps for the backward pass."),
      icicle(told.costs, heat, link), costTree(told.costs, link),
      Object.keys(told.costs.uncounted).length ? el("p", {}, `Not counted: ${Object.entries(told.costs.uncounted).map(([op, n]) => `${op} ${n}×`).join(", ")}`) : null));
  }
  main.append(...sections);
  document.getElementById("contents").append(...[...main.querySelectorAll("section")].map((s) => el("a", { href: `#${s.id}` }, s.querySelector("h2").textContent)));
  if (view) { view.render(); view.fit(0.6); window.fxgrow = view; }
})();
