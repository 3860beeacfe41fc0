// The page's copy of the schedule in schedule.py. schedule_view.js, which draws it, follows in the same module.

function addSpan(spans, [state, from, to]) {
  const last = spans[spans.length - 1];
  if (last && last[0] === state && last[2] === from) last[2] = to;
  else spans.push([state, from, to]);
}

class StepLine {
  closed = [];
  open = [];

  extend({ closed, open }) {
    this.closed.push(...closed);
    this.open = open;
  }

  trim(before) {
    let drop = 0;
    while (drop + 1 < this.closed.length && this.closed[drop + 1][0] <= before) drop += 1;
    if (drop) this.closed.splice(0, drop);
  }

  points() {
    return this.open.length ? [...this.closed, ...this.open] : this.closed;
  }
}

class Schedule {
  constructor(look) {
    this.look = look;
    this.rows = new Map();
    this.kv = new StepLine();
  }

  apply(change) {
    if (change.reset) {
      this.rows = new Map();
      this.kv = new StepLine();
    }
    const { now, figures, folded, turns, words } = change;
    Object.assign(this, { now, figures, folded, turns, words });
    for (const number of change.gone) this.rows.delete(number);
    for (const [number, row] of change.rows) this.applyRow(number, row);
    this.kv.extend(change.kv);
    this.trim(now - this.look.window_s);
  }

  applyRow(number, { spans, buffer, ...head }) {
    const row = this.rows.get(number) ?? { spans: [], buffer: new StepLine() };
    Object.assign(row, head);
    for (const span of spans) addSpan(row.spans, span);
    row.buffer.extend(buffer);
    this.rows.set(number, row);
  }

  trim(before) {
    this.kv.trim(before);
    for (const row of this.rows.values()) {
      row.buffer.trim(before);
      let drop = Math.max(0, row.spans.length - this.look.keep_spans);
      while (drop < row.spans.length && row.spans[drop][2] <= before) drop += 1;
      if (drop) row.spans.splice(0, drop);
    }
  }

  spans(row) {
    return row.ended ? row.spans : [...row.spans, [row.state, row.since, this.now]];
  }

  // The page computes how the reader reads on between two tokens; no message says it.
  unread(row) {
    const points = row.buffer.points();
    if (!points.length) return points;
    const [at, level] = points[points.length - 1];
    const dry = at + level / row.reader_tps;
    const end = row.state === "dropped" ? row.since : row.ended ? Math.max(row.since, dry) : Infinity;
    const until = Math.min(this.now, end);
    if (dry < until) return [...points, [dry, 0], [until, 0]];
    return [...points, [until, level - (until - at) * row.reader_tps]];
  }
}
