// The WebSocket to the gateway: the state, then every change in order. Lost, it comes back by itself and goes on from the
// last change that was seen.

import { token } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;
const OPEN_TIMEOUT_MS = 10000;

export class Live {
  // hear(message) for every message; show(state) with "connecting", "open" or "reconnecting"; refused() after a connection
  // that never opened, to find out whether the token is the reason; followed(previewId) once a log is subscribed to, whose
  // lines up to now the socket does not bring.
  constructor({ hear, show, refused, followed }) {
    this.hear = hear;
    this.show = show;
    this.refused = refused;
    this.followed = followed;
    this.seq = null;
    this.failures = 0;
    this.socket = null;
    this.waiting = null;
    this.logsOf = null;
    addEventListener("online", () => this.now());
  }

  connect() {
    const url = new URL("/ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (this.seq !== null) url.searchParams.set("since", String(this.seq));
    const socket = new WebSocket(url, token() ? ["drape.v1", `bearer.${token()}`] : ["drape.v1"]);
    this.socket = socket;
    let opened = false;
    const late = setTimeout(() => socket.close(), OPEN_TIMEOUT_MS);
    socket.addEventListener("open", () => {
      clearTimeout(late);
      opened = true;
      this.failures = 0;
      this.show("open");
      if (this.logsOf) this.subscribe(this.logsOf);
    });
    socket.addEventListener("message", (event) => this.take(event.data));
    socket.addEventListener("close", () => {
      clearTimeout(late);
      if (this.socket === socket) this.again(opened);
    });
  }

  // A message that is no JSON object is not for this page.
  take(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (message === null || typeof message !== "object") return;
    if (message.type === "state" || (Number.isFinite(message.seq) && message.seq > (this.seq ?? -1))) this.seq = message.seq ?? this.seq;
    this.hear(message);
  }

  async again(opened) {
    this.socket = null;
    this.show("reconnecting");
    if (!opened) await this.refused();
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(this.failures, 10));
    this.failures += 1;
    this.waiting = setTimeout(() => this.now(), longest * (0.5 + Math.random() / 2));
  }

  now() {
    if (this.socket) return;
    clearTimeout(this.waiting);
    this.connect();
  }

  // One preview's log at a time: the one that is looked at.
  followLogs(previewId) {
    if (this.logsOf === previewId) return;
    if (this.logsOf) this.tell("unsubscribe_logs", this.logsOf);
    this.logsOf = previewId;
    if (previewId) this.subscribe(previewId);
  }

  subscribe(previewId) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.tell("subscribe_logs", previewId);
    this.followed(previewId);
  }

  tell(type, previewId) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, preview_id: previewId }));
  }
}
