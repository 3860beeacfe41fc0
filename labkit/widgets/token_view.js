// TokenView's script: a column of tinted text and figures for each stream.

const STATS = [["tokens", "tokens"], ["ttft_ms", "TTFT ms"], ["itl_ms", "last wait ms"]];
const TTFT = 1;

function tintStyle({ paper, ink }) {
  return paper ? `background:${paper};color:${ink}` : "";
}

function figure(value) {
  if (value === null || value === undefined) return "–";
  const digits = Number.isInteger(value) || Math.abs(value) >= 100 ? 0 : 1;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

class Column {
  constructor(stream, look, styles, parent) {
    this.look = look;
    this.styles = styles;
    const box = make("section", "lk-column", parent);
    box.style.setProperty("--lk-stream", stream.colour);
    box.setAttribute("aria-label", `stream ${stream.name}`);
    const title = make("div", "lk-title", box);
    make("span", "lk-name", title, stream.name);
    this.note = make("span", "lk-note", title);
    const stats = make("div", "lk-stats", box);
    this.values = STATS.map(([, label]) => {
      const stat = make("div", "", stats);
      make("div", "lk-label", stat, label);
      return make("div", "lk-figure", stat, "–");
    });
    this.bar = make("div", "lk-wait", make("div", "lk-wait-track", box));
    const scroller = make("div", "lk-scroller", box);
    scroller.tabIndex = 0;
    const page = make("div", "lk-page", scroller);
    this.folded = make("div", "lk-folded", page, "… earlier text is folded away");
    this.text = make("div", "lk-text", page);
    this.reset();
  }

  reset() {
    this.text.textContent = "";
    this.chars = 0;
  }

  draw({ reset, folded, runs, head }) {
    if (reset) this.reset();
    for (const [tint, text] of runs) this.write(tint, text);
    this.fold();
    this.folded.hidden = !folded;
    STATS.forEach(([key], i) => (this.values[i].textContent = figure(head[key])));
    this.drawWait(head);
    this.note.textContent = head.note || (this.since === null ? "" : "waiting …");
    this.note.classList.toggle("lk-failed", head.failed);
  }

  // The bar and the figure of the first wait grow while it goes on, and stay when it is over.
  drawWait({ waiting, waited_ms }) {
    this.since = waiting ? performance.now() - waited_ms : null;
    this.bar.classList.toggle("lk-waiting", waiting);
    if (waiting) this.grow(this.since);
    else this.showWait(waited_ms ?? 0);
  }

  grow(since) {
    if (this.since !== since || !this.bar.isConnected) return;
    const waited = performance.now() - since;
    this.showWait(waited);
    this.values[TTFT].textContent = figure(Math.round(waited));
    requestAnimationFrame(() => this.grow(since));
  }

  showWait(ms) {
    this.bar.style.width = `${Math.min(100, (100 * ms) / this.look.wait_scale_ms)}%`;
  }

  write(tint, text) {
    const last = this.text.lastChild;
    if (last && last.tint === tint && last.textContent.length < this.look.run_chars) {
      last.firstChild.appendData(text);
    } else {
      const span = make("span", "lk-run", this.text, text);
      span.style.cssText = this.styles[tint];
      span.tint = tint;
    }
    this.chars += text.length;
  }

  fold() {
    while (this.chars > this.look.keep_chars || this.text.childNodes.length > this.look.keep_runs) {
      this.chars -= this.text.firstChild.textContent.length;
      this.text.firstChild.remove();
    }
  }
}

function drawLegend(tints, styles, parent) {
  const legend = make("div", "lk-legend", parent);
  make("span", "lk-legend-title", legend, "waited, ms");
  tints.forEach((tint, i) => (make("span", "lk-swatch", legend, tint.label).style.cssText = styles[i]));
}

class TokenView {
  constructor(root, look) {
    const styles = look.tints.map(tintStyle);
    const row = make("div", "lk-columns", root);
    row.style.setProperty("--lk-height", `${look.height_px}px`);
    this.columns = look.streams.map((stream) => new Column(stream, look, styles, row));
    if (look.legend) drawLegend(look.tints, styles, root);
  }

  take(changes) {
    for (const [place, change] of changes) this.columns[place].draw(change);
  }
}

export default liveView("lk-tokens", TokenView);
