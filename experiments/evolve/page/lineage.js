// Who descends from whom: which branches are shown, and where each member stands. How it looks says lineage_view.js.
const COLUMN = 158, ROW = 28, TOP = 34, MANY = 80;

class Lineage {
  constructor(told) {
    this.nodes = new Map(told.members.map((m) => [m.number, { ...m, kids: [], show: "all" }]));
    this.root = null;
    for (const node of this.nodes.values()) {
      node.up = node.parent === null ? null : this.nodes.get(node.parent);
      if (node.up) node.up.kids.push(node); else this.root = node;
    }
    this.line = new Set(told.line);
    const order = [...this.nodes.values()].sort((a, b) => b.number - a.number);  // children have higher numbers
    for (const node of order) {
      node.lives = node.alive || this.line.has(node.number) || node.kids.some((k) => k.lives);
      node.under = node.kids.reduce((sum, k) => sum + 1 + k.under, 0);
    }
    for (const node of order.reverse()) node.generation = node.up ? node.up.generation + 1 : 0;
    this.columns = told.columns;
    if (this.nodes.size > MANY) this.showAll("living");
  }
  seen(node) { return node.show === "all" ? node.kids : node.show === "living" ? node.kids.filter((k) => k.lives) : []; }
  hidden(node) { return node.under - this.seen(node).reduce((sum, k) => sum + 1 + k.under, 0); }
  showAll(show) { for (const node of this.nodes.values()) node.show = show; }
  toggle(node) { node.show = this.hidden(node) ? "all" : "none"; }
  // Opens what hides a member.
  reveal(node) {
    for (let n = node; n.up; n = n.up) if (!this.seen(n.up).includes(n)) n.up.show = "all";
  }
  descent(node) { return node.up ? [...this.descent(node.up), node] : [node]; }
  // Columns are the rounds or generations of which something is shown. A leaf takes the next row; a parent stands beside its child that leads to the best, else
  // in the middle of its children.
  place() {
    const placed = [];
    let row = 0;
    const put = (node) => {
      const kids = this.seen(node);
      kids.forEach(put);
      const straight = kids.find((k) => this.line.has(k.number));
      node.row = !kids.length ? row++ : straight ? straight.row : (kids[0].row + kids[kids.length - 1].row) / 2;
      node.y = TOP + ROW * (node.row + 0.5);
      placed.push(node);
    };
    if (this.root) put(this.root);
    const columns = [...new Set(placed.map((n) => n[this.columns]))].sort((a, b) => a - b);
    const at = new Map(columns.map((c, i) => [c, 24 + COLUMN * i]));
    for (const node of placed) node.x = at.get(node[this.columns]);
    return { placed, columns, w: COLUMN * columns.length + 40, h: TOP + ROW * row + 8 };
  }
}
