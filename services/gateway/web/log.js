// A log pane: the last lines, following the end unless the reader has scrolled up.

import { make, put } from "./dom.js";
import { LOG_LINES_MAX } from "./store.js";
import { plainLine } from "./text.js";

const NEAR_END_PX = 24;

export class LogPane {
  constructor() {
    this.drawn = [];
    this.note = make("span", { class: "quiet" });
    this.lines = make("div", { class: "log", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Log of the preview" });
    this.element = make("section", { class: "logs" }, make("h3", { class: "row baseline" }, "Log", this.note), this.lines);
  }

  // log: {lines, dropped} as the gateway streams them; tail: the lines that came with the preview, until there are others.
  draw(log, tail) {
    const lines = log?.lines.length ? log.lines : tail.slice(-LOG_LINES_MAX).map((text) => ({ key: text, text: textOf(text) }));
    const atEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < NEAR_END_PX;
    if (!this.append(lines)) this.replace(lines);
    this.drawn = lines.map((line) => line.key);
    put(this.note, lines.length === 0 ? "Nothing yet." : log?.dropped ? `the last ${lines.length} lines` : (log?.cut ?? ""));
    if (atEnd) this.lines.scrollTop = this.lines.scrollHeight;
  }

  // The usual case: the same lines with some more at the end and some fewer at the start. False when it is not that.
  append(lines) {
    const start = this.drawn.length === 0 ? 0 : lines.length === 0 ? -1 : this.drawn.indexOf(lines[0].key);
    const kept = this.drawn.slice(Math.max(0, start));
    if (start < 0 || kept.length > lines.length || kept.some((key, index) => key !== lines[index].key)) return false;
    for (let n = 0; n < start; n += 1) this.lines.firstChild.remove();
    this.lines.append(...lines.slice(kept.length).map(row));
    return true;
  }

  replace(lines) {
    this.lines.replaceChildren(...lines.map(row));
  }
}

function textOf(line) {
  return typeof line === "string" ? line : String(line?.text ?? "");
}

function row(line) {
  const origin = Number.isFinite(line.at) ? `${clock(line.at)} ${line.step ?? ""}` : "";
  return make(
    "div",
    { "data-stream": line.stream ?? "" },
    origin ? make("span", { class: "origin" }, `${origin} `) : null,
    `${plainLine(line.text)}\n`,
  );
}

function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}
