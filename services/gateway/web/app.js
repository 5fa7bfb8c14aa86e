// The page of the gateway: it wires the pieces together and decides what is looked at.

import { call, onUnauthorized } from "./api.js";
import { Detail, warningText } from "./detail.js";
import { byId, make, put } from "./dom.js";
import { drawPool, drawPreviews, drawProjects } from "./lists.js";
import { Live } from "./live.js";
import { Opening } from "./opening.js";
import { Store } from "./store.js";
import { askForToken } from "./token.js";

const TOAST_MS = 15000;
const TICK_MS = 1000;
const LOG_PAGES_MAX = 20;
const LINK = { connecting: "Connecting", open: "Live", reconnecting: "Connection lost, reconnecting" };

const store = new Store();
let chosenId = location.hash.slice(1) || null;
let detail = null;
let drawing = false;
let explained = "";

const live = new Live({
  hear(message) {
    store.take(message).forEach(warn);
    draw();
  },
  show(state) {
    const element = byId("link");
    element.dataset.state = state;
    put(element, LINK[state]);
  },
  // A handshake that fails tells the page nothing of the reason; a request does, and asks for a token on 401.
  async refused() {
    try {
      await call("GET", "/api/previews");
    } catch {
      return;
    }
  },
  followed: readLog,
});

// Many messages in one frame are drawn once.
function draw() {
  if (drawing) return;
  drawing = true;
  // A timer beside the frame: a hidden tab gets no frames, and its state should still be right when it is looked at.
  const timer = setTimeout(drawNow, 250);
  const frame = requestAnimationFrame(drawNow);
  function drawNow() {
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    drawing = false;
    drawPreviews(store.previews, chosenId, choose);
    drawProjects(store.projects, { open: prepare, start });
    drawPool(store.pool);
    drawDetail();
  }
}

function drawDetail() {
  const view = chosenId ? store.previews.get(chosenId) : null;
  const place = byId("detail");
  if (!view) {
    if (detail) place.replaceChildren(make("p", { class: "empty" }, "Choose a preview, or open a project."));
    detail = null;
    live.followLogs(null);
    return;
  }
  if (detail?.previewId !== view.preview_id) detail = new Detail(place, view, { stop, restart, start });
  live.followLogs(view.preview_id);
  explain(view);
  detail.draw(view, store.logs.get(view.preview_id));
}

// Which lines of the log show the cause is told to who asks for the one preview.
async function explain(view) {
  const key = `${view.preview_id} ${view.seq}`;
  if (!view.error || explained === key) return;
  explained = key;
  try {
    store.takePreview(await call("GET", pathOf(view.preview_id))).forEach(warn);
    draw();
  } catch (error) {
    console.warn("The failure's evidence could not be read:", error.message);
  }
}

function choose(previewId) {
  chosenId = previewId;
  history.replaceState(null, "", `#${encodeURIComponent(previewId)}`);
  draw();
  // On a narrow screen the detail is below the lists.
  if (matchMedia("(max-width: 55rem)").matches) byId("detail").scrollIntoView({ block: "start" });
}

function take(view) {
  if (!view?.preview_id) return;
  store.takePreview(view).forEach(warn);
  choose(view.preview_id);
}

async function act(doing) {
  try {
    await doing();
  } catch (error) {
    toast("bad", make("strong", {}, error.message), error.hint ? make("p", {}, error.hint) : "");
  }
}

// The lines that were printed before this page subscribed; those that come meanwhile are sorted in.
async function readLog(previewId) {
  try {
    for (let after = 0, pages = 0; pages < LOG_PAGES_MAX; pages += 1) {
      const { lines, next, cut } = await call("GET", `${pathOf(previewId)}/logs?since=${after}`);
      if (cut) store.take(cut);
      store.takeLog({ preview_id: previewId, lines });
      draw();
      if (next === after) return;
      after = next;
    }
  } catch (error) {
    console.warn("The log so far could not be read:", error.message);
  }
}

const pathOf = (previewId) => `/api/previews/${encodeURIComponent(previewId)}`;
const start = (projectId) => act(async () => take(await call("POST", "/api/previews", { project_id: projectId })));
const stop = (previewId) => act(() => call("DELETE", pathOf(previewId)));
const restart = (previewId, app = "") => act(async () => take(await call("POST", `${pathOf(previewId)}/restart`, { app })));
const prepare = (projectId) =>
  act(async () => take(await call("POST", `/api/projects/${encodeURIComponent(projectId)}/prepare`, {})));

function warn({ preview, warning }) {
  toast("warning", make("p", { class: "quiet" }, String(preview.project_name ?? "")), ...warningText(warning));
}

function toast(kind, ...content) {
  const close = make("button", { type: "button", class: "close", "aria-label": "Dismiss", onclick: () => element.remove() }, "×");
  const element = make("div", { class: `toast ${kind}` }, make("div", {}, ...content), close);
  byId("toasts").append(element);
  setTimeout(() => element.remove(), TOAST_MS);
}

onUnauthorized(askForToken);
new Opening(take);
addEventListener("hashchange", () => {
  chosenId = decodeURIComponent(location.hash.slice(1)) || null;
  draw();
});
setInterval(() => {
  const view = chosenId ? store.previews.get(chosenId) : null;
  if (view) detail?.tick(view);
}, TICK_MS);
// The token is asked for before the socket is tried, whose refusal would say less.
await live.refused();
live.connect();
