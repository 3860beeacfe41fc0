// ScheduleView's script: draws the schedule that schedule.js keeps on a canvas.

const LEFT = 116, RIGHT = 16, TITLE = 22, AXIS = 22;
const KV = 44, UNREAD = 100, TALLEST = 12, LEAST = 72, MOST = 240;
const LEAST_S = 2;
const DASH = 9;
const STEPS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return power * [1, 1.5, 2, 3, 4, 6, 8, 10].find((factor) => factor * power >= value);
}

function seconds(value) {
  return `${value.toFixed(2)} s`;
}

class Drawing {
  constructor(canvas, schedule, probes) {
    this.canvas = canvas;
    this.schedule = schedule;
    this.probes = probes;
    this.tallest = LEAST;
  }

  // Colours depend on the theme, and only an element knows what light-dark() resolves to.
  readTheme() {
    const { root, soft, line, bars } = this.probes;
    this.ink = getComputedStyle(root).color;
    this.soft = getComputedStyle(soft).color;
    this.line = getComputedStyle(line).borderBottomColor;
    this.family = getComputedStyle(root).fontFamily;
    this.fills = bars.map((bar) => getComputedStyle(bar).backgroundColor);
    this.places = new Map(this.schedule.look.states.map(({ name }, place) => [name, place]));
  }

  measure() {
    const { schedule } = this;
    this.width = this.canvas.parentNode.clientWidth;
    this.tallest = Math.max(this.tallest, Math.min(MOST, schedule.rows.size * TALLEST));
    this.rowPx = Math.min(TALLEST, this.tallest / Math.max(1, schedule.rows.size));
    this.unreadTop = TITLE;
    this.ganttTop = this.unreadTop + UNREAD + TITLE;
    this.kvTop = this.ganttTop + this.tallest + TITLE;
    this.bottom = this.kvTop + KV;
    this.height = this.bottom + AXIS;
    this.to = Math.max(schedule.now, LEAST_S);
    this.from = Math.max(0, this.to - schedule.look.window_s);
    this.scale = (this.width - LEFT - RIGHT) / (this.to - this.from);
  }

  x(at) {
    return LEFT + (at - this.from) * this.scale;
  }

  snap(x) {
    return Math.round(x * this.ratio) / this.ratio;
  }

  draw() {
    this.readTheme();
    this.measure();
    if (this.width < LEFT + RIGHT + 40) return;
    const ratio = (this.ratio = window.devicePixelRatio || 1);
    const [width, height] = [this.width, this.height].map((each) => Math.round(each * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
      this.canvas.style.height = `${this.height}px`;
    }
    this.pen = this.canvas.getContext("2d");
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.pen.clearRect(0, 0, this.width, this.height);
    this.drawTimes();
    this.drawGantt();
    this.drawKv();
    this.drawUnread();
    this.drawTurns();
  }

  write(text, x, y, colour = this.soft, align = "left", size = 11, weight = "") {
    this.pen.font = `${weight} ${size}px ${this.family}`;
    this.pen.fillStyle = colour;
    this.pen.textAlign = align;
    this.pen.textBaseline = "middle";
    this.pen.fillText(text, x, y);
  }

  rule(x0, y0, x1, y1, colour = this.line, dash = []) {
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = 1;
    this.pen.setLineDash(dash);
    this.pen.beginPath();
    this.pen.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
    this.pen.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
    this.pen.stroke();
    this.pen.setLineDash([]);
  }

  within(top, height, paint) {
    this.pen.save();
    this.pen.beginPath();
    this.pen.rect(LEFT, top - 2, this.width - LEFT - RIGHT, height + 4);
    this.pen.clip();
    paint();
    this.pen.restore();
  }

  drawTimes() {
    const step = STEPS_S.find((each) => each * this.scale >= 70) ?? this.to;
    for (let at = Math.ceil(this.from / step) * step; at <= this.to + 1e-9; at += step) {
      const x = this.x(at);
      this.rule(x, this.unreadTop, x, this.unreadTop + UNREAD);
      this.rule(x, this.ganttTop, x, this.ganttTop + this.tallest);
      this.rule(x, this.kvTop, x, this.bottom);
      this.write(`${Number(at.toFixed(1))} s`, x, this.bottom + 12, this.soft, "center");
    }
  }

  drawGantt() {
    this.write("request", LEFT - 8, this.ganttTop - 10, this.soft, "right");
    const rows = [...this.schedule.rows.values()];
    const every = Math.ceil(11 / this.rowPx);
    rows.forEach((row, i) => {
      const middle = this.ganttTop + (i + 0.5) * this.rowPx;
      this.pen.fillStyle = this.colour(row);
      this.pen.fillRect(LEFT - 5, this.ganttTop + i * this.rowPx, 3, Math.max(1, this.rowPx - 1));
      if (i % every) return;
      const name = row.name.length > 16 ? `${row.name.slice(0, 15)}…` : row.name;
      this.write(name, LEFT - 9, middle, this.ink, "right");
    });
    this.within(this.ganttTop, this.tallest, () => rows.forEach((row, i) => this.drawRow(row, i)));
  }

  drawRow(row, i) {
    const spans = this.schedule.spans(row).filter(([, , to]) => to >= this.from);
    const full = Math.max(1, this.rowPx - (this.rowPx > 6 ? 3 : 1));
    // States that cost are painted last: however short one was, nothing may cover it.
    for (const costs of [false, true]) {
      for (const [state, from, to] of spans) {
        const place = this.places.get(state);
        const look = this.schedule.look.states[place];
        if (look?.costs !== costs) continue;
        const high = look.tall ? full : Math.max(1, full * this.schedule.look.low);
        // On whole pixels each of several short neighbours gets its share, and no edge shines through.
        const left = this.snap(this.x(from));
        const wide = Math.max(costs ? 1.5 : 0, this.snap(this.x(to)) - left);
        this.pen.fillStyle = this.fills[place];
        this.pen.fillRect(left, this.ganttTop + (i + 0.5) * this.rowPx - high / 2, wide, high);
      }
    }
    if (row.state === "dropped") {
      this.write("×", this.x(row.since) + 5, this.ganttTop + (i + 0.5) * this.rowPx, this.ink, "center", 13, "bold");
    }
  }

  colour(row) {
    return this.schedule.look.colours[row.place % this.schedule.look.colours.length];
  }

  panel(title, top, height, most, marked = most) {
    const y = (value) => top + height * (1 - value / most);
    this.write(title, LEFT, top - 10);
    this.rule(LEFT, y(0), this.width - RIGHT, y(0));
    for (const value of [0, marked]) this.write(value.toLocaleString("en"), LEFT - 8, y(value), this.soft, "right");
    return y;
  }

  drawKv() {
    const limit = this.schedule.look.kv_limit;
    const points = this.schedule.kv.points();
    const highest = points.reduce((most, [, value]) => Math.max(most, value), 1);
    const title = limit ? "KV held, tokens; dashed: the limit" : "KV held, tokens";
    const most = limit ? Math.max(1.1 * limit, highest) : nice(highest);
    const y = this.panel(title, this.kvTop, KV, most, limit ?? most);
    if (limit) this.rule(LEFT, y(limit), this.width - RIGHT, y(limit), this.soft, [5, 4]);
    if (!points.length) return;
    this.within(this.kvTop, KV, () => {
      const path = new Path2D();
      points.forEach(([at, value], i) => {
        path.lineTo(this.x(at), y(value));
        path.lineTo(this.x(points[i + 1]?.[0] ?? this.schedule.now), y(value));
      });
      this.stroke(path, this.ink, 1.5);
    });
  }

  drawUnread() {
    const lines = [...this.schedule.rows.values()].map((row) => [row, this.schedule.unread(row)]);
    const highest = lines.flatMap(([, points]) => points).reduce((most, [, level]) => Math.max(most, level), 5);
    const y = this.panel("unread by its reader, tokens", this.unreadTop, UNREAD, nice(highest));
    this.within(this.unreadTop, UNREAD, () => {
      for (const [row, points] of lines) {
        const path = new Path2D();
        for (const [at, level] of points) path.lineTo(this.x(at), y(level));
        this.strokeShared(path, row, lines.length);
      }
    });
  }

  // Where a knob was turned during the run, across all lanes.
  drawTurns() {
    for (const [at, text] of this.schedule.turns ?? []) {
      if (at < this.from) continue;
      this.rule(this.x(at), this.unreadTop - 8, this.x(at), this.bottom, this.ink, [3, 3]);
      const left = this.x(at) + 8 * text.length > this.width - RIGHT; // no room to the right of the line
      this.write(text, this.x(at) + (left ? -5 : 5), this.unreadTop + 2, this.ink, left ? "right" : "left");
    }
  }

  // Lines that coincide share their way: each is faint along all of it, and strong in dashes of its own.
  strokeShared(path, row, count) {
    const { colours } = this.schedule.look;
    this.pen.globalAlpha = count > 1 ? 0.4 : 1;
    this.stroke(path, this.colour(row), count > 16 ? 1 : 1.5);
    this.pen.globalAlpha = 1;
    if (count < 2) return;
    this.pen.setLineDash([DASH, DASH * (colours.length - 1)]);
    this.pen.lineDashOffset = -DASH * (row.place % colours.length);
    this.stroke(path, this.colour(row), count > 16 ? 1.2 : 2);
    this.pen.setLineDash([]);
  }

  stroke(path, colour, wide) {
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = wide;
    this.pen.lineJoin = "round";
    this.pen.stroke(path);
  }

  // Describes the part under the pointer in words.
  describe(x, y) {
    const row = [...this.schedule.rows.values()][Math.floor((y - this.ganttTop) / this.rowPx)];
    if (!row || y < this.ganttTop) return "";
    const when = this.from + (x - LEFT) / this.scale;
    const span = this.schedule.spans(row).find(([, from, to]) => from <= when && when < to);
    if (!span) return row.name;
    const [state, from, to] = span;
    return `${row.name}: ${state} for ${seconds(to - from)}, from ${seconds(from)}`;
  }
}

function drawLegend(states, parent) {
  const legend = make("div", "lk-legend", parent);
  const bars = states.map(({ name, colour, dark, tall }) => {
    const key = make("span", "lk-schedule-key", legend);
    const bar = make("span", `lk-schedule-bar${tall ? "" : " lk-schedule-low"}`, key);
    bar.style.backgroundColor = `light-dark(${colour},${dark})`;
    make("span", "", key, name);
    return bar;
  });
  make("span", "", legend, "tall: holds KV, low: holds none");
  return bars;
}

function summary({ now, figures, folded }, limit) {
  const kv = figures.kv.toLocaleString("en") + (limit ? ` of ${limit.toLocaleString("en")}` : "");
  const away = folded ? ` · ${folded.toLocaleString("en")} earlier folded away` : "";
  return `${figures.running} running · ${figures.waiting} waiting · KV ${kv} tokens · at ${now.toFixed(1)} s${away}`;
}

class ScheduleView {
  constructor(root, look) {
    const head = make("div", "lk-schedule-head", root);
    this.figures = make("span", "", head);
    const pointed = make("span", "lk-schedule-soft", head);
    this.canvas = make("canvas", "", make("div", "", root));
    this.canvas.setAttribute("role", "img");
    const bars = drawLegend(look.states, root);
    this.schedule = new Schedule(look);
    this.drawing = new Drawing(this.canvas, this.schedule, { root, soft: pointed, line: head, bars });
    this.canvas.addEventListener("mousemove", ({ offsetX, offsetY }) => {
      pointed.textContent = this.drawing.describe(offsetX, offsetY);
    });
    this.canvas.addEventListener("mouseleave", () => (pointed.textContent = ""));
  }

  take(change) {
    this.schedule.apply(change);
  }

  paint() {
    this.figures.textContent = summary(this.schedule, this.schedule.look.kv_limit);
    this.canvas.setAttribute("aria-label", `Schedule. ${this.schedule.words}`);
    this.drawing.draw();
  }
}

export default liveView("lk-schedule", ScheduleView);
