// How values are said: seconds, bytes, steps, statuses; and log lines without terminal codes.

const STEPS = {
  requested: "Requested",
  acquiring_vm: "Getting a VM",
  syncing_files: "Bringing in files",
  confirming: "Checking the preview",
  acquiring: "Getting a VM",
  syncing: "Bringing in files",
  installing: "Installing dependencies",
  prepared: "Prepared",
  starting: "Starting the dev server",
  waiting: "Waiting for an answer",
  waiting_server: "Waiting for an answer",
  server_ready: "The server answers",
  ready: "Ready",
  ready_with_errors: "Ready, with errors",
  suspended: "Asleep",
  failed: "Failed",
  stopped: "Stopped",
};
const LINE_CHARS_MAX = 4000;
// CSI and OSC sequences, other escapes, and control characters but tab.
const TERMINAL = /\x1b(?:\[[0-?]*[ -\/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0a-\x1f\x7f]/g;

export const ENDED = new Set(["failed", "stopped"]);

// There is something to see at its address; a request wakes what is asleep.
export function isShown(view) {
  return view.status === "ready" || view.status === "ready_with_errors" || view.status === "suspended";
}

export function isRunning(view) {
  return !ENDED.has(view.status) && !isShown(view) && view.status !== "prepared";
}

// From here on nothing was printed for so long that it is said: slow and dead should not look the same.
const QUIET_S = 5;

export function isQuiet(view) {
  return isRunning(view) && Number(view.quiet_s) >= QUIET_S;
}

// Seconds without a fraction, or minutes: as the command line says them.
export function whole(value) {
  return value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

// "about 12 s left"; nothing where that can't be told.
export function timeLeft(view) {
  const left = Number(view.eta_s);
  return isRunning(view) && view.eta_s !== null && left >= 1 ? `about ${whole(left)} left` : "";
}

// A step that this page does not know is shown under its own name.
export function stepName(step) {
  const name = String(step ?? "");
  if (Object.hasOwn(STEPS, name)) return STEPS[name];
  const words = name.replaceAll("_", " ").trim();
  return words ? words[0].toUpperCase() + words.slice(1) : "";
}

export function seconds(value) {
  const number = Number(value);
  if (!Number.isFinite(number) || number < 0) return "";
  if (number < 10) return `${number.toFixed(1)} s`;
  if (number < 90) return `${Math.round(number)} s`;
  const whole = Math.round(number);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function bytes(value) {
  const number = Number(value) || 0;
  if (number < 1024) return `${number} B`;
  if (number < 1024 ** 2) return `${(number / 1024).toFixed(0)} KiB`;
  return `${(number / 1024 ** 2).toFixed(1)} MiB`;
}

export function count(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function percent(value) {
  return Math.round(Math.min(100, Math.max(0, Number(value) || 0)));
}

export function plainLine(text) {
  return String(text ?? "").slice(0, LINE_CHARS_MAX).replace(TERMINAL, "");
}
