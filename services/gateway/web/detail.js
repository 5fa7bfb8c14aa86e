// One preview, whole: steps, bar, warnings, error, log, and the preview itself in a frame.
// Built once for a preview, then brought up to date in place, so that the frame isn't loaded again and focus stays.

import { make, put, sync, webAddress } from "./dom.js";
import { drawStatus } from "./lists.js";
import { LogPane } from "./log.js";
import { list } from "./store.js";
import { ENDED, etaText, isRunning, isShown, percent, plainLine, seconds, stepName } from "./text.js";

const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-modals allow-popups allow-downloads";

const HMR = { open: "edits show by themselves", refused: "edits need a reload", silent: "edits need a reload" };

export class Detail {
  // act: {stop(id), restart(id, app), open(projectId)}
  constructor(place, view, act) {
    const id = view.preview_id;
    this.previewId = id;
    this.framed = "";
    this.title = make("h2", { class: "detail-title" });
    this.status = make("span", { class: "status" });
    this.about = make("p", { class: "quiet about" });
    this.open = make("a", { class: "button", target: "_blank", rel: "noopener noreferrer", hidden: true }, "Open in new tab");
    this.start = make("button", { type: "button", class: "primary", hidden: true, onclick: () => act.open(view.project_id) }, "Open the preview");
    this.restart = act.restart;
    this.retry = make("button", { type: "button", hidden: true, onclick: () => act.restart(id) }, "Restart");
    this.stop = make("button", { type: "button", hidden: true, onclick: () => act.stop(id) }, "Stop");
    this.bar = make("progress", { max: 100, value: 0, "aria-label": "Progress of the preview" });
    this.percent = make("span", { class: "percent" });
    this.message = make("span", { class: "message", role: "status" });
    this.elapsed = make("span", { class: "elapsed quiet" });
    this.eta = make("span", { class: "quiet" });
    this.newest = make("p", { class: "newest quiet", hidden: true });
    this.broken = make("section", { class: "warning", role: "status", hidden: true });
    this.progress = make(
      "div",
      { class: "progress" },
      this.bar,
      make("p", { class: "row baseline" }, this.percent, this.message, this.elapsed, this.eta),
      this.newest,
    );
    this.error = make("section", { class: "error", role: "alert", hidden: true });
    this.warnings = make("ul", { class: "warnings" });
    this.steps = make("ol", { class: "steps", "aria-label": "Steps" });
    this.frame = make("div", { class: "frame", hidden: true });
    this.log = new LogPane();
    place.replaceChildren(
      make("div", { class: "row spread" }, make("div", { class: "row" }, this.title, this.status), make("div", { class: "row" }, this.start, this.open, this.retry, this.stop)),
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
    this.drawProgress(view, log);
    this.drawBroken(view);
    this.drawError(view);
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
    this.start.hidden = view.status !== "prepared";
    this.open.hidden = !address;
    if (address) this.open.href = address.href;
    this.retry.hidden = isRunning(view);
    put(this.retry, view.status === "failed" ? "Try again" : view.status === "stopped" ? "Start again" : "Restart");
    this.retry.className = view.status === "failed" ? "primary" : "";
    this.stop.hidden = ENDED.has(view.status);
  }

  drawProgress(view, log) {
    this.progress.hidden = !isRunning(view);
    const value = percent(view.percent);
    this.bar.value = value;
    put(this.percent, `${value} %`);
    put(this.message, plainLine(view.message || stepName(view.step || view.status)));
    put(this.eta, etaText(view));
    // A first page that compiles says what it is at; silence is told apart from it by the message.
    const line = view.phase === "compiling" ? plainLine(log?.lines.at(-1)?.text ?? "") : "";
    this.newest.hidden = !line;
    put(this.newest, line);
    this.tick(view);
  }

  // The dev server runs and shows an error of the project: its own page is in the frame.
  drawBroken(view) {
    this.broken.hidden = view.status !== "ready_with_errors";
    if (this.broken.hidden) return;
    const text = `The dev server shows an error of the project: ${view.detail || "no details"}. Mend it, and the page comes by itself.`;
    if (this.broken.textContent !== text) this.broken.replaceChildren(make("p", {}, plainLine(text)));
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
      list(error.evidence).length > 0 ? make("pre", { class: "evidence" }, list(error.evidence).map(plainLine).join("\n")) : "",
      ...this.choicesOf(error),
      make("p", { class: "quiet" }, "Code: ", make("code", {}, String(error.code ?? "unknown"))),
    );
  }

  // Which of several apps: one click restarts the preview with it.
  choicesOf(error) {
    const button = (choice) =>
      make("button", { type: "button", onclick: () => this.restart(this.previewId, choice.path) }, `${choice.path} (${choice.framework})`);
    const choices = list(error.choices);
    return choices.length > 0 ? [make("div", { class: "row choices" }, ...choices.map(button))] : [];
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
    this.frame.append(
      make("p", { class: "frame-address quiet" }, address.href),
      make("iframe", { src: address.href, sandbox: SANDBOX, referrerpolicy: "no-referrer", title: `Preview of ${view.project_name ?? "the project"}` }),
    );
  }
}

function aboutOf(view) {
  const install = { skipped: "dependencies kept", completed: "dependencies installed" }[view.install];
  const parts = [
    [view.framework, view.version].filter(Boolean).join(" "),
    view.package_manager,
    view.from_pool === true ? "warm VM" : view.from_pool === false ? "cold VM" : "",
    install,
    Number(view.attempt) > 1 ? `attempt ${view.attempt}` : "",
    HMR[view.hmr?.state] ?? "",
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
