// Opening a project: from a folder to a project with files to a requested preview, with progress, cancel and another try.

import { call, Problem, upload } from "./api.js";
import { byId, put } from "./dom.js";
import { FolderProblem, fromDrop, fromInput } from "./folder.js";
import { tarOf } from "./tar.js";
import { bytes, count } from "./text.js";

export class Opening {
  // requested(view): the preview that was asked for.
  constructor(requested) {
    this.requested = requested;
    this.folder = null;
    this.projectId = null;
    this.transfer = null;
    this.busy = false;
    const input = byId("folder");
    input.addEventListener("change", () => {
      // Resetting the input empties its live list of files.
      const files = [...input.files];
      input.value = "";
      if (files.length > 0) this.take(async () => fromInput(files));
    });
    byId("upload-cancel").addEventListener("click", () => this.transfer?.cancel());
    byId("upload-retry").addEventListener("click", () => this.run());
    this.listenForDrops(byId("drop"));
  }

  // Dropped beside the panel a folder would replace the page: the whole page takes drops.
  listenForDrops(panel) {
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      panel.classList.add("over");
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) panel.classList.remove("over");
    });
    addEventListener("drop", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      panel.classList.remove("over");
      const folder = fromDrop(event.dataTransfer.items);
      this.take(() => folder);
    });
  }

  async take(read) {
    if (this.busy) {
      this.say("One upload at a time: wait for this one, or cancel it.", this.shown ?? 0);
      return;
    }
    this.busy = true;
    this.say("Reading the folder", null);
    try {
      this.folder = await read();
      this.projectId = null;
    } catch (error) {
      this.folder = null;
      this.fail(error instanceof FolderProblem ? error.message : `The folder can't be read: ${error.message}`);
      return;
    } finally {
      this.busy = false;
    }
    await this.run();
  }

  async run() {
    if (this.busy || !this.folder) return;
    this.busy = true;
    const { name, entries } = this.folder;
    try {
      this.say(`Creating ${name}`, null);
      this.projectId ??= (await call("POST", "/api/projects", { name })).project_id;
      await this.send(tarOf(entries), count(entries.length, "file", "files"));
      this.say("Requesting the preview", 100);
      const view = await call("POST", "/api/previews", { project_id: this.projectId });
      this.folder = null;
      byId("upload").hidden = true;
      this.requested(view);
    } catch (error) {
      this.fail(error instanceof Problem ? [error.message, error.hint].filter(Boolean).join(" ") : String(error.message));
    } finally {
      this.busy = false;
      this.transfer = null;
      byId("upload-cancel").hidden = true;
    }
  }

  async send(blob, files) {
    const path = `/api/projects/${encodeURIComponent(this.projectId)}/files`;
    const shown = (loaded) => {
      const share = blob.size > 0 ? (100 * loaded) / blob.size : 100;
      const text = share < 100 ? `Sending ${files}, ${bytes(loaded)} of ${bytes(blob.size)}` : "Sent; the gateway is storing the files";
      this.say(text, share);
    };
    this.transfer = upload(path, blob, shown);
    byId("upload-cancel").hidden = false;
    shown(0);
    await this.transfer.done;
    byId("upload-cancel").hidden = true;
  }

  // share: percent, or null for "working, no telling how far".
  say(text, share) {
    this.shown = share;
    byId("upload").hidden = false;
    byId("upload").classList.remove("failed");
    byId("upload-retry").hidden = true;
    byId("upload-cancel").hidden = !this.transfer;
    put(byId("upload-text"), text);
    const bar = byId("upload-bar");
    bar.hidden = false;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
  }

  fail(text) {
    this.say(text, 0);
    byId("upload").classList.add("failed");
    byId("upload-bar").hidden = true;
    byId("upload-cancel").hidden = true;
    byId("upload-retry").hidden = !this.folder;
  }
}
