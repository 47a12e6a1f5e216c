// Elements. Whatever a model is called goes in as text or as an attribute's value: nothing here reads markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return node;
}
function el(tag, attributes, ...children) { return fill(document.createElement(tag), attributes, children); }
function svg(tag, attributes, ...children) { return fill(document.createElementNS(SVG, tag), attributes, children); }

// 1.82 G: three digits and a decimal prefix
function quantity(value, unit = "") {
  let at = 0;
  while (Math.abs(value) >= 999.5 && at < 5) { value /= 1000; at += 1; }
  const digits = at === 0 && Number.isInteger(value) ? String(value) : Number(value.toPrecision(3)).toString();
  return `${digits} ${["", "k", "M", "G", "T", "P"][at]}${unit}`.trimEnd();
}
function percent(share) { return `${(100 * share).toFixed(1)}%`; }
function plain(text) { return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, "?"); }
function clipped(text, most) { return text.length > most ? `${text.slice(0, most - 1)}…` : text; }
function below(name, path) { return path && name !== path && name.startsWith(`${path}.`) ? name.slice(path.length + 1) : name; }

// A table whose head sorts it. columns: {name, of: row => text or number, number, cell: row => node}
function sortable(rows, columns, attributes = {}) {
  const body = el("tbody");
  let sorted = null, down = false;
  const show = () => {
    const shown = sorted === null ? rows : [...rows].sort((a, b) => {
      const [x, y] = [sorted.of(a), sorted.of(b)];
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return down ? -order : order;
    });
    body.replaceChildren(...shown.map((row) => el("tr", {}, columns.map((c) => el("td",
      { class: c.number ? "number" : "words" }, c.cell ? c.cell(row) : String(c.of(row)))))));
  };
  const head = el("tr", {}, columns.map((c) => el("th", { class: c.number ? "number" : "", "aria-sort": "none" }, c.name === "" ? "" :
    el("button", { class: "link", title: "Sort by this column", onclick: (event) => {
      down = sorted === c ? !down : Boolean(c.number);
      sorted = c;
      for (const th of head.children) th.setAttribute("aria-sort", "none");
      event.target.parentNode.setAttribute("aria-sort", down ? "descending" : "ascending");
      show();
    } }, c.name))));
  show();
  return el("div", { class: "wide tables", ...attributes }, el("table", {}, el("thead", {}, head), body));
}
