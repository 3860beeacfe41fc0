// InView's script: brings the widget around it into view and keeps it there while it grows, until somebody scrolls.

const EVERY_MS = 100;
const GROWS_MS = 8000;
const BY_HAND = ["wheel", "touchmove", "pointerdown", "keydown"];

function isRunning(el) {
  return el.closest(".jp-CodeCell")?.querySelector(".jp-InputPrompt")?.textContent.includes("*");
}

function render({ el }) {
  const end = new AbortController();
  const { signal } = end;

  // A timer and no observer of sizes: the browser observes nothing in a cell that is out of view.
  function show() {
    if (isRunning(el)) el.parentNode.scrollIntoView({ block: "nearest" });
  }

  requestAnimationFrame(show);
  const timer = setInterval(show, EVERY_MS);
  setTimeout(() => end.abort(), GROWS_MS);
  for (const kind of BY_HAND) {
    window.addEventListener(kind, () => end.abort(), { signal, capture: true, passive: true });
  }
  signal.addEventListener("abort", () => clearInterval(timer));
  return () => end.abort();
}

export default { render };
