// What the gateway has said so far. It takes messages and says what they changed; it draws nothing.

export const LOG_LINES_MAX = 1000;

export class Store {
  constructor() {
    this.projects = new Map();
    this.previews = new Map();
    this.pool = null;
    this.logs = new Map();
    this.warned = new Set();
  }

  // Takes one message. Returns the new warnings in it, as [{preview, warning}]; a type it doesn't know changes nothing.
  take(message) {
    switch (message.type) {
      case "state":
        this.projects = new Map(list(message.projects).map((project) => [project.project_id, project]));
        this.previews = new Map(list(message.previews).map((view) => [view.preview_id, received(view)]));
        this.pool = message.pool ?? this.pool;
        for (const id of this.logs.keys()) if (!this.previews.has(id)) this.logs.delete(id);
        return [...this.previews.values()].flatMap((view) => this.newWarnings(view));
      case "preview":
        return this.takePreview(message.preview);
      case "project":
        if (message.project?.project_id) this.projects.set(message.project.project_id, message.project);
        return [];
      case "pool":
        this.pool = message.pool ?? this.pool;
        return [];
      case "preview_progress":
        this.takeProgress(message);
        return [];
      case "log":
        this.takeLog(message);
        return [];
      case "cut":
        this.takeCut(message);
        return [];
      default:
        return "recommendation" in message ? this.takeWarning(message) : [];
    }
  }

  takePreview(view) {
    if (!view?.preview_id) return [];
    const known = this.previews.get(view.preview_id);
    // The answer of a request may come after the event that followed it.
    if (known && Number.isFinite(view.seq) && Number.isFinite(known.seq) && view.seq < known.seq) return [];
    this.previews.set(view.preview_id, received(view));
    return this.newWarnings(view);
  }

  takeProgress(message) {
    const view = this.previews.get(message.preview_id);
    if (!view) return;
    const news = { step: message.step, percent: message.percent, message: message.message, elapsed_s: message.elapsed };
    for (const [name, value] of Object.entries(news)) if (value !== undefined && value !== null) view[name] = value;
    // What is not known any more is not shown any more.
    const { phase, quiet_s, last_line } = message.details ?? {};
    Object.assign(view, { eta_s: message.eta_s ?? null, phase, quiet_s, last_line });
    received(view);
  }

  takeWarning(message) {
    const view = this.previews.get(message.preview_id);
    if (!view) return [];
    const same = (warning) => warning.type === message.type && warning.version === message.version;
    if (!list(view.warnings).some(same)) view.warnings = [...list(view.warnings), message];
    return this.newWarnings(view);
  }

  // A line that is kept already is not kept twice: after a reconnect the log so far is read again. What was printed
  // earlier may come later than what the socket brings.
  takeLog(message) {
    const log = this.logOf(message.preview_id);
    for (const line of list(message.lines)) {
      const key = `${line.attempt}\n${line.step}\n${line.offset}\n${line.at}\n${line.text}`;
      if (line.at !== undefined && log.kept.has(key)) continue;
      log.kept.add(key);
      const late = log.lines.length > 0 && line.at < log.lines.at(-1).at;
      log.lines.push({ ...line, key });
      if (late) log.lines.sort((a, b) => a.at - b.at);
    }
    const surplus = log.lines.length - LOG_LINES_MAX;
    if (surplus > 0) {
      for (const line of log.lines.splice(0, surplus)) log.kept.delete(line.key);
      log.dropped += surplus;
    }
  }

  // What the gateway itself no longer keeps.
  takeCut(message) {
    this.logOf(message.preview_id).cut = String(message.reason ?? "Earlier output was dropped.");
  }

  logOf(previewId) {
    const log = this.logs.get(previewId) ?? { lines: [], kept: new Set(), dropped: 0, cut: "" };
    this.logs.set(previewId, log);
    return log;
  }

  newWarnings(view) {
    const fresh = [];
    for (const warning of list(view.warnings)) {
      const key = `${view.preview_id}\n${warning.type}\n${warning.version}`;
      if (this.warned.has(key)) continue;
      this.warned.add(key);
      fresh.push({ preview: view, warning });
    }
    return fresh;
  }
}

export function list(value) {
  return Array.isArray(value) ? value : [];
}

// Elapsed time runs on between messages: remember when this one came.
function received(view) {
  view.receivedAt = performance.now();
  return view;
}
