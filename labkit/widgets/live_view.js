// The page's half of live_view.py: keeps a view in step with its model. The view's own script follows in the same module.

const ASK_AGAIN_MS = 300;

function make(tag, className, parent, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  parent.append(node);
  return node;
}

// Calls `view.take` with each snapshot or delta that is next in order; returns a function that ends this.
function follow(model, view, repaint) {
  let sequence = -1;
  let askedAt = -Infinity;

  function take(number, change) {
    sequence = number;
    view.take(change);
    repaint();
  }

  function onState() {
    const state = model.get("state");
    if (state.sequence > sequence) take(state.sequence, state.snapshot);
  }

  function onMessage(message) {
    if (message.sequence === sequence + 1) take(message.sequence, message.delta);
    else if (message.sequence > sequence) askForSnapshot();
  }

  function askForSnapshot() {
    if (performance.now() - askedAt < ASK_AGAIN_MS) return;
    askedAt = performance.now();
    model.send({ resync: true });
  }

  onState();
  model.on("change:state", onState);
  model.on("msg:custom", onMessage);
  return () => {
    model.off("change:state", onState);
    model.off("msg:custom", onMessage);
  };
}

// An anywidget module. `new View(root, look)` fills the element `root`. It has `take(change)`, and it may have
// `paint()`, which is called at most once a frame: after changes, and when the page's size or theme changes.
function liveView(className, View) {
  function render({ model, el }) {
    const root = make("div", `lk-live ${className}`, el);
    const view = new View(root, model.get("look"));
    let frame = 0;

    function repaint() {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        view.paint?.();
      });
    }

    const unfollow = follow(model, view, repaint);
    const resized = new ResizeObserver(repaint);
    resized.observe(root);
    const themed = new MutationObserver(repaint);
    themed.observe(document.body, { attributes: true });
    return () => {
      unfollow();
      resized.disconnect();
      themed.disconnect();
      cancelAnimationFrame(frame);
    };
  }

  return { render };
}
