// One preview, whole: steps, bar, warnings, error, log, and the preview itself in a frame.
// Built once for a preview, then brought up to date in place, so that the frame isn't loaded again and focus stays.

import { call } from "./api.js";
import { make, put, sync, webAddress } from "./dom.js";
import { drawStatus } from "./lists.js";
import { LogPane } from "./log.js";
import { list } from "./store.js";
import { ENDED, isQuiet, isRunning, isShown, percent, plainLine, seconds, stepName, timeLeft, whole } from "./text.js";

// Long enough to load the frame, too short to be worth passing on.
const FRAME_LINK_S = 60;
const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-modals allow-popups allow-downloads";

export class Detail {
  // act: {stop(id), restart(id, app), start(projectId)}
  constructor(place, view, act) {
    const id = view.preview_id;
    this.previewId = id;
    this.act = act;
    this.framed = "";
    this.title = make("h2", { class: "detail-title" });
    this.status = make("span", { class: "status" });
    this.about = make("p", { class: "quiet about" });
    this.want = make("button", { type: "button", class: "primary", hidden: true, onclick: () => act.start(view.project_id) }, "Show preview");
    this.open = make("a", { class: "button", target: "_blank", rel: "noopener noreferrer", hidden: true }, "Open in new tab");
    this.retry = make("button", { type: "button", hidden: true, onclick: () => act.restart(id) }, "Restart");
    this.stop = make("button", { type: "button", hidden: true, onclick: () => act.stop(id) }, "Stop");
    this.bar = make("progress", { max: 100, value: 0, "aria-label": "Progress of the preview" });
    this.percent = make("span", { class: "percent" });
    this.message = make("span", { class: "message", role: "status" });
    this.left = make("span", { class: "left quiet" });
    this.elapsed = make("span", { class: "elapsed quiet" });
    this.newest = make("p", { class: "newest", hidden: true });
    this.progress = make(
      "div",
      { class: "progress" },
      this.bar,
      make("p", { class: "row baseline" }, this.percent, this.message, this.left, this.elapsed),
      this.newest,
    );
    this.error = make("section", { class: "error", role: "alert", hidden: true });
    this.broken = make("section", { class: "warning", role: "status", hidden: true });
    this.warnings = make("ul", { class: "warnings" });
    this.steps = make("ol", { class: "steps", "aria-label": "Steps" });
    this.frame = make("div", { class: "frame", hidden: true });
    this.log = new LogPane();
    place.replaceChildren(
      make("div", { class: "row spread" }, make("div", { class: "row" }, this.title, this.status), make("div", { class: "row" }, this.want, this.open, this.retry, this.stop)),
      this.about,
      this.error,
      this.broken,
      this.progress,
      this.warnings,
      this.steps,
      this.frame,
      this.log.element,
    );
  }

  draw(view, log) {
    put(this.title, String(view.project_name || view.project_id || view.preview_id));
    drawStatus(this.status, view);
    put(this.about, aboutOf(view));
    this.drawButtons(view);
    this.drawProgress(view);
    this.drawError(view);
    this.drawBroken(view);
    this.drawWarnings(view);
    this.drawSteps(view);
    this.drawFrame(view);
    this.log.draw(log, list(view.log_tail));
  }

  // Called every second: time goes on without messages.
  tick(view) {
    const base = Number(view.elapsed_s);
    if (!isRunning(view) || !Number.isFinite(base)) return;
    const now = base + (performance.now() - view.receivedAt) / 1000;
    put(this.elapsed, seconds(now < 10 ? Math.floor(now * 10) / 10 : now));
  }

  drawButtons(view) {
    const address = isShown(view) ? webAddress(view.url) : null;
    this.want.hidden = view.wanted !== false || ENDED.has(view.status);
    this.open.hidden = !address;
    if (address) this.open.href = address.href;
    this.open.onclick = view.private ? (event) => (event.preventDefault(), openTab(view)) : null;
    this.retry.hidden = isRunning(view) || view.status === "prepared";
    put(this.retry, view.status === "failed" ? "Try again" : view.status === "stopped" ? "Start again" : "Restart");
    this.retry.className = view.status === "failed" ? "primary" : "";
    this.stop.hidden = ENDED.has(view.status);
  }

  drawProgress(view) {
    this.progress.hidden = !isRunning(view) && view.status !== "prepared";
    this.progress.dataset.state = isQuiet(view) ? "quiet" : view.status === "prepared" ? "prepared" : "running";
    const value = percent(view.percent);
    this.bar.value = value;
    put(this.percent, `${value} %`);
    put(this.message, plainLine(messageOf(view)));
    put(this.left, timeLeft(view));
    this.newest.hidden = view.phase !== "compiling" || !view.last_line;
    put(this.newest, plainLine(view.last_line));
    this.tick(view);
  }

  // The dev server runs, and says that something in the project is wrong.
  drawBroken(view) {
    this.broken.hidden = view.status !== "ready_with_errors";
    const shown = String(view.message ?? "");
    if (this.broken.hidden || this.broken.dataset.shown === shown) return;
    this.broken.dataset.shown = shown;
    this.broken.replaceChildren(
      make("strong", {}, "The project shows an error"),
      make("p", {}, plainLine(shown)),
      make("p", {}, "Its dev server runs. Mend the project and save: the preview follows."),
    );
  }

  drawError(view) {
    const error = view.error;
    this.error.hidden = !error;
    if (!error) return;
    const shown = JSON.stringify(error);
    if (this.error.dataset.shown === shown) return;
    this.error.dataset.shown = shown;
    this.error.replaceChildren(
      make("h3", {}, "The preview failed"),
      make("p", {}, plainLine(error.message || "No reason was given.")),
      error.hint ? make("p", {}, plainLine(error.hint)) : "",
      this.choicesOf(error),
      evidenceOf(error),
      make("p", { class: "quiet" }, "Code: ", make("code", {}, String(error.code ?? "unknown"))),
    );
  }

  // One button an app; the choice begins the preview anew with it.
  choicesOf(error) {
    const choices = list(error.choices);
    if (choices.length === 0) return "";
    const buttons = choices.map((choice) =>
      make(
        "button",
        { type: "button", title: choice.name, onclick: () => this.act.restart(this.previewId, String(choice.path)) },
        [choice.path, choice.framework ? ` (${choice.framework})` : ""].join(""),
      ),
    );
    return make("div", { class: "row choices", role: "group", "aria-label": "Apps to choose from" }, ...buttons);
  }

  drawWarnings(view) {
    sync(
      this.warnings,
      list(view.warnings),
      (warning) => `${warning.type} ${warning.version}`,
      (warning) => make("li", { class: "warning" }, ...warningText(warning)),
      () => {},
    );
  }

  drawSteps(view) {
    const done = Object.entries(view.steps ?? {}).map(([name, spent]) => ({ name, spent, running: false }));
    const current = String(view.step || view.status || "");
    if (isRunning(view) && !done.some(({ name }) => name === current)) done.push({ name: current, spent: null, running: true });
    if (isShown(view) && Number.isFinite(view.total_s)) done.push({ name: "total", spent: view.total_s, running: false });
    sync(
      this.steps,
      done,
      ({ name }) => name,
      () => make("li", {}, make("span", {}), make("span", { class: "spent" })),
      (row, { name, spent, running }) => {
        put(row.firstElementChild, stepName(name));
        put(row.lastElementChild, running ? "running" : seconds(spent));
        row.dataset.state = running ? "running" : "done";
      },
    );
  }

  // A preview has an origin of its own. One with the page's origin would be as powerful as the page: it is not framed.
  drawFrame(view) {
    const address = isShown(view) ? webAddress(view.url) : null;
    const wanted = address && address.origin !== location.origin ? `${address.href}\n${view.attempt ?? ""}` : "";
    if (wanted === this.framed) return;
    this.framed = wanted;
    this.frame.hidden = !wanted;
    this.frame.replaceChildren();
    if (!wanted) return;
    const title = `Preview of ${view.project_name ?? "the project"}`;
    const frame = make("iframe", { sandbox: SANDBOX, referrerpolicy: "no-referrer", title });
    const note = make("p", { class: "frame-address quiet" }, view.private ? `${address.href} (private)` : address.href);
    this.frame.append(note, frame);
    if (!view.private) frame.src = address.href;
    else this.openPrivate(view, frame, note);
  }

  // A private preview opens by a link that is made for this frame; the link is exchanged for a cookie of that host.
  async openPrivate(view, frame, note) {
    try {
      const link = await linkTo(view);
      if (link && frame.isConnected) frame.src = link.href;
    } catch (problem) {
      put(note, plainLine(problem.message));
    }
  }
}

// A signed address of a private preview.
async function linkTo(view) {
  return webAddress((await call("POST", `/api/previews/${view.preview_id}/links`, { ttl_s: FRAME_LINK_S })).url);
}

// A tab may only be opened while the click is handled, so it is opened empty.
async function openTab(view) {
  const tab = window.open("about:blank", "_blank");
  if (!tab) return;
  tab.opener = null;
  try {
    tab.location.replace((await linkTo(view)).href);
  } catch {
    tab.close();
  }
}

// Where the socket for edits does not answer, edits are not shown by themselves.
const HMR = { open: "edits are shown live", refused: "no live edits: refused", silent: "no live edits: no answer" };

// Words for how far it is; where nothing was printed for long and the gateway has not said so, that too.
function messageOf(view) {
  const text = String(view.message || stepName(view.step || view.status));
  return isQuiet(view) && !text.includes("no output") ? `${text}; no output for ${whole(view.quiet_s)}` : text;
}

function evidenceOf(error) {
  const lines = list(error.evidence);
  return lines.length > 0 ? make("pre", { class: "evidence", tabindex: 0 }, lines.map(plainLine).join("\n")) : "";
}

function aboutOf(view) {
  const install = { skipped: "dependencies kept", completed: "dependencies installed" }[view.install];
  const parts = [
    [view.framework, view.version].filter(Boolean).join(" "),
    view.package_manager,
    view.from_pool === true ? "warm VM" : view.from_pool === false ? "cold VM" : "",
    install,
    view.app ? `app ${view.app}` : "",
    HMR[view.hmr?.state] ?? "",
    Number(view.attempt) > 1 ? `attempt ${view.attempt}` : "",
  ];
  return parts.filter(Boolean).join(" · ");
}

// The same words in the toast and in the detail.
export function warningText(warning) {
  const address = webAddress(warning.link);
  return [
    make("strong", {}, warning.type === "nextjs_version" ? `Next.js ${warning.version ?? ""}` : stepName(warning.type)),
    make("p", {}, plainLine(warning.message)),
    warning.recommendation ? make("p", {}, plainLine(warning.recommendation)) : "",
    address ? make("p", {}, make("a", { href: address.href, target: "_blank", rel: "noopener noreferrer" }, "Read more")) : "",
  ];
}
