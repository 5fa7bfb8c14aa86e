// One preview, whole: steps, bar, warnings, error, log, and the preview itself in a frame.
// Built once for a preview, then brought up to date in place, so that the frame isn't loaded again and focus stays.

import { make, put, sync, webAddress } from "./dom.js";
import { drawStatus } from "./lists.js";
import { LogPane } from "./log.js";
import { list } from "./store.js";
import { ENDED, isRunning, percent, plainLine, seconds, stepName } from "./text.js";

const SANDBOX = "allow-scripts allow-same-origin allow-forms allow-modals allow-popups allow-downloads";

export class Detail {
  // act: {stop(id), restart(id)}
  constructor(place, view, act) {
    const id = view.preview_id;
    this.previewId = id;
    this.framed = "";
    this.title = make("h2", { class: "detail-title" });
    this.status = make("span", { class: "status" });
    this.about = make("p", { class: "quiet about" });
    this.open = make("a", { class: "button", target: "_blank", rel: "noopener noreferrer", hidden: true }, "Open in new tab");
    this.retry = make("button", { type: "button", hidden: true, onclick: () => act.restart(id) }, "Restart");
    this.stop = make("button", { type: "button", hidden: true, onclick: () => act.stop(id) }, "Stop");
    this.bar = make("progress", { max: 100, value: 0, "aria-label": "Progress of the preview" });
    this.percent = make("span", { class: "percent" });
    this.message = make("span", { class: "message", role: "status" });
    this.elapsed = make("span", { class: "elapsed quiet" });
    this.progress = make(
      "div",
      { class: "progress" },
      this.bar,
      make("p", { class: "row baseline" }, this.percent, this.message, this.elapsed),
    );
    this.error = make("section", { class: "error", role: "alert", hidden: true });
    this.warnings = make("ul", { class: "warnings" });
    this.steps = make("ol", { class: "steps", "aria-label": "Steps" });
    this.frame = make("div", { class: "frame", hidden: true });
    this.log = new LogPane();
    place.replaceChildren(
      make("div", { class: "row spread" }, make("div", { class: "row" }, this.title, this.status), make("div", { class: "row" }, this.open, this.retry, this.stop)),
      this.about,
      this.error,
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
    const address = view.status === "ready" ? webAddress(view.url) : null;
    this.open.hidden = !address;
    if (address) this.open.href = address.href;
    this.retry.hidden = isRunning(view);
    put(this.retry, view.status === "failed" ? "Try again" : view.status === "stopped" ? "Start again" : "Restart");
    this.retry.className = view.status === "failed" ? "primary" : "";
    this.stop.hidden = ENDED.has(view.status);
  }

  drawProgress(view) {
    this.progress.hidden = !isRunning(view);
    const value = percent(view.percent);
    this.bar.value = value;
    put(this.percent, `${value} %`);
    put(this.message, plainLine(view.message || stepName(view.step || view.status)));
    this.tick(view);
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
      make("p", { class: "quiet" }, "Code: ", make("code", {}, String(error.code ?? "unknown"))),
    );
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
    if (view.status === "ready" && Number.isFinite(view.total_s)) done.push({ name: "total", spent: view.total_s, running: false });
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
    const address = view.status === "ready" ? webAddress(view.url) : null;
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
