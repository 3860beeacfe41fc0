// What the records said so far, as labkit/widgets/schedule.py sends it; schedule_view.js follows in the same module.

function addSpan(spans, [state, from, to]) {
  const last = spans[spans.length - 1];
  if (last && last[0] === state && last[2] === from) last[2] = to;
  else spans.push([state, from, to]);
}

class Line {
  closed = [];
  open = [];

  extend({ closed, open }) {
    this.closed.push(...closed);
    this.open = open;
  }

  trim(before) {
    let gone = 0;
    while (gone + 1 < this.closed.length && this.closed[gone + 1][0] <= before) gone += 1;
    if (gone) this.closed.splice(0, gone);
  }

  points() {
    return this.open.length ? [...this.closed, ...this.open] : this.closed;
  }
}

class Run {
  constructor(look) {
    this.look = look;
    this.rows = new Map();
    this.kv = new Line();
  }

  apply(change) {
    if (change.reset) {
      this.rows = new Map();
      this.kv = new Line();
    }
    const { now, figures, folded, words } = change;
    Object.assign(this, { now, figures, folded, words });
    for (const number of change.gone) this.rows.delete(number);
    for (const [number, row] of change.rows) this.applyRow(number, row);
    this.kv.extend(change.kv);
    this.trim(now - this.look.window_s);
  }

  applyRow(number, { spans, buffer, ...head }) {
    const row = this.rows.get(number) ?? { spans: [], buffer: new Line() };
    Object.assign(row, head);
    for (const span of spans) addSpan(row.spans, span);
    row.buffer.extend(buffer);
    this.rows.set(number, row);
  }

  trim(before) {
    this.kv.trim(before);
    for (const row of this.rows.values()) {
      row.buffer.trim(before);
      let gone = Math.max(0, row.spans.length - this.look.keep_spans);
      while (gone < row.spans.length && row.spans[gone][2] <= before) gone += 1;
      if (gone) row.spans.splice(0, gone);
    }
  }

  spans(row) {
    return row.ended ? row.spans : [...row.spans, [row.state, row.since, this.now]];
  }

  // The reader reads on between two tokens, which needs no message.
  unread(row) {
    const points = row.buffer.points();
    if (!points.length) return points;
    const [at, level] = points[points.length - 1];
    const dry = at + level / row.reader_tps;
    const over = row.state === "dropped" ? row.since : row.ended ? Math.max(row.since, dry) : Infinity;
    const until = Math.min(this.now, over);
    if (dry < until) return [...points, [dry, 0], [until, 0]];
    return [...points, [until, level - (until - at) * row.reader_tps]];
  }
}
