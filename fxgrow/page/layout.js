// Where the boxes of a diagram stand. Each open module is laid out for itself: its parts in layers, each below what it reads
// (Sugiyama, Tagawa and Toda 1981); a value that goes further keeps a lane free in the layers between; each value that
// enters or leaves a module has a port of its own in the module's first or last layer.

// Which parts of each module are connected: for each cluster a list of {value, from, to}; `from` is a part or null (the value
// enters from outside), `to` a part or null (it leaves). `chains` gives for a box all modules around it, the outermost first.
function connections(root, edges, chains) {
  const found = new Map();
  const add = (cluster, value, from, to, shape) => {
    if (!found.has(cluster)) found.set(cluster, new Map());
    const key = `${value} ${from ? from.id : "in"} ${to ? to.id : "out"}`;
    if (!found.get(cluster).has(key)) found.get(cluster).set(key, { value, from, to, shape });
  };
  for (const [tail, head, shape] of edges) {
    const [a, b] = [chains.get(tail), chains.get(head)];
    let common = 0;
    while (a[common + 1] === b[common + 1]) common += 1;
    for (let i = a.length - 2; i > common; i -= 1) add(a[i], tail, a[i + 1], null, shape);
    add(a[common], tail, a[common + 1], b[common + 1], shape);
    for (let i = common + 1; i < b.length - 1; i += 1) add(b[i], tail, null, b[i + 1], shape);
  }
  return new Map([...found].map(([cluster, list]) => [cluster, [...list.values()]]));
}

const GAP = { x: 18, y: 24, pad: 14, head: 22, lane: 8 };
const LANES = 20000;  // way-points of long lines in one module; were there more, the longest lines would go straight
function largest(list, of, least = 0) { return list.reduce((most, item) => Math.max(most, of(item)), least); }

// Sizes and places of everything in a module, relative to it: {w, h, parts: Map(part => {x, y, w, h, inner}), lines, ports}.
function arrange(cluster, links, sizeOf, isOpen) {
  const edges = links.get(cluster) || [];
  const parts = cluster.children;
  const inner = new Map(parts.filter(isOpen).map((p) => [p, arrange(p, links, sizeOf, isOpen)]));
  const order = new Map(parts.map((p, i) => [p, i]));
  const layer = new Map();
  const into = new Map(parts.map((p) => [p, []])), from = new Map(parts.map((p) => [p, []]));
  const fed = new Set(edges.map((e) => e.to));
  for (const e of edges) if (e.from && e.to && order.get(e.from) < order.get(e.to)) { into.get(e.to).push(e.from); from.get(e.from).push(e.to); }
  const enters = edges.some((e) => !e.from) ? 1 : 0;
  for (const p of parts) layer.set(p, largest(into.get(p), (q) => layer.get(q) + 1, enters));
  // what reads nothing here stands just above its first reader
  for (const p of [...parts].reverse()) {
    const readers = from.get(p).map((q) => layer.get(q));
    if (!fed.has(p) && readers.length) layer.set(p, Math.max(layer.get(p), -largest(readers, (row) => -row, -Infinity) - 1));
  }
  const leaves = edges.some((e) => !e.to);
  const last = largest(parts, (p) => layer.get(p)) + (leaves ? 1 : 0);
  const rows = Array.from({ length: last + 1 }, () => []);
  const spots = new Map();
  const put = (key, row, w, h, part) => {
    if (!spots.has(key)) {
      const spot = { key, row, w, h, part, up: [], down: [], x: 0, y: 0 };
      spots.set(key, spot);
      rows[row].push(spot);
    }
    return spots.get(key);
  };
  for (const e of edges) if (!e.from) put(`in ${e.value}`, 0, GAP.lane, 0, null);
  for (const p of parts) {
    const size = inner.get(p) || sizeOf(p);
    put(p.id, layer.get(p), size.w, size.h, p);
  }
  for (const e of edges) if (!e.to) put(`out ${e.value}`, last, GAP.lane, 0, null);
  const lines = [], seen = new Set();
  const ends = (e) => [spots.get(e.from ? e.from.id : `in ${e.value}`), spots.get(e.to ? e.to.id : `out ${e.value}`)];
  const longest = longestLine(edges.map((e) => { const [tail, head] = ends(e); return head.row - tail.row - 1; }));
  for (const e of edges) {
    const [tail, head] = ends(e);
    const via = [tail];
    if (head.row - tail.row - 1 <= longest) for (let row = tail.row + 1; row < head.row; row += 1) {  // one lane for all readers of a value
      via.push(put(`lane ${e.value} ${tail.key} ${row}`, row, GAP.lane, 0, null));
    }
    via.push(head);
    if (tail.row < head.row) for (let i = 1; i < via.length; i += 1) {
      const key = `${via[i - 1].key} > ${via[i].key}`;
      if (!seen.has(key)) { seen.add(key); via[i].up.push(via[i - 1]); via[i - 1].down.push(via[i]); }
    }
    lines.push({ ...e, via });
  }
  sweep(rows);
  const places = across(rows);
  let y = GAP.head;
  const heights = rows.map((row) => largest(row, (s) => s.h));
  rows.forEach((row, i) => {
    row.forEach((s) => { s.top = y; s.bottom = y + heights[i]; s.y = s.part ? y + (heights[i] - s.h) / 2 : y; });
    y += heights[i] + (i === last ? 0 : heights[i] || i === 0 && enters ? GAP.y : GAP.y / 2);
  });
  const w = Math.max(places, GAP.head * 4) + 2 * GAP.pad;
  const shift = (w - places) / 2;
  for (const s of spots.values()) s.x += shift;
  return { w, h: y + GAP.pad, inner, spots, lines };
}

// How many rows a line may cross so that all way-points together are at most LANES.
function longestLine(lengths) {
  let sum = 0;
  for (const length of lengths.filter((n) => n > 0).sort((a, b) => a - b)) {
    sum += length;
    if (sum > LANES) return length - 1;
  }
  return Infinity;
}

// Orders each row by the middle of what it is connected to, there and back, and keeps the order with the fewest crossings.
function sweep(rows) {
  const number = () => rows.forEach((row) => row.forEach((s, i) => { s.at = i; }));
  const middle = (list, own) => (list.length ? list.reduce((sum, s) => sum + s.at, 0) / list.length : own);
  number();
  let best = rows.map((row) => [...row]), fewest = crossings(rows);
  for (let round = 0; round < 8 && fewest > 0; round += 1) {
    const downward = round % 2 === 0;
    for (const row of downward ? rows : [...rows].reverse()) {
      row.forEach((s) => { s.wish = middle(downward ? s.up : s.down, s.at); });
      row.sort((a, b) => a.wish - b.wish || a.at - b.at);
      row.forEach((s, i) => { s.at = i; });
    }
    const now = crossings(rows);
    if (now < fewest) { fewest = now; best = rows.map((row) => [...row]); }
  }
  rows.forEach((row, i) => row.splice(0, row.length, ...best[i]));
  number();
}

function crossings(rows) {
  let found = 0;
  for (const row of rows) {
    const pairs = row.flatMap((s) => s.down.map((d) => [s.at, d.at]));
    if (pairs.length > 300) continue;  // so many lines cannot be told apart anyway
    for (let i = 0; i < pairs.length; i += 1) for (let j = 0; j < i; j += 1) {
      if ((pairs[i][0] - pairs[j][0]) * (pairs[i][1] - pairs[j][1]) < 0) found += 1;
    }
  }
  return found;
}

// Gives every spot of every row its x, near the middle of its neighbours and none upon another; gives the width.
function across(rows) {
  const centre = (s) => s.x + s.w / 2;
  for (const row of rows) { let x = 0; for (const s of row) { s.x = x; x += s.w + GAP.x; } }
  const widest = largest(rows, (row) => row.reduce((sum, s) => sum + s.w + GAP.x, -GAP.x));
  for (const row of rows) {
    const shift = (widest - row.reduce((sum, s) => sum + s.w + GAP.x, -GAP.x)) / 2;
    row.forEach((s) => { s.x += shift; });
  }
  for (let round = 0; round < 8; round += 1) {
    for (const row of round % 2 === 0 ? rows : [...rows].reverse()) {
      const wish = row.map((s) => {
        const near = round % 2 === 0 ? s.up : s.down;
        const all = near.length ? near : [...s.up, ...s.down];
        return all.length ? all.reduce((sum, n) => sum + centre(n), 0) / all.length - s.w / 2 : s.x;
      });
      apart(row, wish);
    }
  }
  const all = rows.flat();
  const left = -largest(all, (s) => -s.x);
  for (const s of all) s.x -= left;
  return largest(all, (s) => s.x + s.w);
}

// The places nearest to those wished for (least squares) at which the spots of a row do not touch: isotonic regression.
function apart(row, wish) {
  const before = [];
  let sum = 0;
  for (const s of row) { before.push(sum); sum += s.w + GAP.x; }
  const blocks = [];
  row.forEach((s, i) => {
    blocks.push({ total: wish[i] - before[i], count: 1 });
    while (blocks.length > 1) {
      const b = blocks[blocks.length - 1], a = blocks[blocks.length - 2];
      if (a.total / a.count <= b.total / b.count) break;
      blocks.pop();
      a.total += b.total;
      a.count += b.count;
    }
  });
  let i = 0;
  for (const b of blocks) for (let n = 0; n < b.count; n += 1, i += 1) row[i].x = b.total / b.count + before[i];
}
