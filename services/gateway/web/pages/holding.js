// Waits on a preview's host until there is something to see, then loads it. Bounded: it asks at most ASKS_MAX times,
// less and less often, and then leaves the reload to the reader.

const ASKS_MAX = 600;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const ASK_TIMEOUT_MS = 15000;

const kind = document.body.dataset.kind;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function put(id, text) {
  const element = document.getElementById(id);
  if (element && element.textContent !== text) element.textContent = text;
}

function show(state) {
  const percent = Math.round(Math.min(100, Math.max(0, Number(state.percent) || 0)));
  const bar = document.getElementById("bar");
  if (bar) bar.value = percent;
  put("percent", String(percent));
  put("step", String(state.step ?? "").replaceAll("_", " "));
  put("message", String(state.message ?? ""));
}

async function ask(url, method) {
  return fetch(url, { method, cache: "no-store", signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
}

// "Ready" is what the platform believes; after an error of the dev server itself, only an answer of its own counts.
async function answers() {
  const response = await ask(location.href, "HEAD");
  return response.status !== 502 && response.status !== 504;
}

async function changed() {
  const response = await ask("/__drape/status", "GET");
  if (!response.ok) return false;
  const state = await response.json();
  if (state.status === "ready") return kind === "starting" || answers();
  // Only a request for the page itself wakes it.
  if (state.status === "suspended") {
    await pause(LONGEST_WAIT_MS);
    return true;
  }
  if (state.status === "starting") {
    if (kind !== "starting") return true;
    show(state);
    return false;
  }
  return kind === "starting" || state.code !== document.body.dataset.code;
}

async function wait() {
  let wait_ms = FIRST_WAIT_MS;
  for (let asked = 0; asked < ASKS_MAX; asked += 1) {
    await pause(wait_ms);
    try {
      if (await changed()) {
        location.reload();
        return;
      }
    } catch {
      put("note", "The gateway does not answer; asking again.");
    }
    if (kind !== "starting") wait_ms = Math.min(LONGEST_WAIT_MS, wait_ms * 1.5);
  }
  put("note", "This page has stopped asking. Reload it to look again.");
}

// The last lines say most.
const log = [...document.querySelectorAll("pre")].at(-1);
if (log) log.scrollTop = log.scrollHeight;

await wait();
