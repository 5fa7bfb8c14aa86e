// From a chosen or dropped folder to a list of files worth sending, or a clear reason why not.

import { bytes, count } from "./text.js";

export const BYTES_MAX = 512 * 1024 * 1024;
const LEFT_OUT = new Set(["node_modules", ".git"]);
const WALK_ENTRIES_MAX = 200000;

export class FolderProblem extends Error {}

// From <input webkitdirectory>: every File knows its path below the chosen folder's parent.
export function fromInput(files) {
  const entries = [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
  const name = entries[0]?.path.split("/")[0] ?? "";
  const below = entries.map(({ path, file }) => ({ path: path.slice(path.indexOf("/") + 1), file }));
  return checked(name, below.filter(({ path }) => !isLeftOut(path)), entries.length);
}

// From a drop. `items` live only during the event, so their entries are taken before the first wait.
export async function fromDrop(items) {
  const roots = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (roots.length !== 1 || !roots[0].isDirectory) throw new FolderProblem("Drop one folder: the one that holds the project.");
  const found = [];
  await walk(roots[0], "", found);
  return checked(roots[0].name, found, found.length);
}

function isLeftOut(path) {
  return path.split("/").some((part) => LEFT_OUT.has(part));
}

async function walk(folder, prefix, found) {
  const reader = folder.createReader();
  for (;;) {
    // readEntries gives a batch at a time; an empty one is the end.
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return;
    for (const entry of batch) {
      if (LEFT_OUT.has(entry.name)) continue;
      const path = `${prefix}${entry.name}`;
      if (entry.isDirectory) await walk(entry, `${path}/`, found);
      else found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
      if (found.length > WALK_ENTRIES_MAX) throw new FolderProblem(`The folder holds more than ${count(WALK_ENTRIES_MAX, "file", "files")}.`);
    }
  }
}

function checked(name, entries, seen) {
  if (entries.length === 0) {
    throw new FolderProblem(
      seen === 0 ? "The folder is empty." : "The folder holds only node_modules or .git, which are left out: there is nothing to send.",
    );
  }
  const total = entries.reduce((sum, { file }) => sum + file.size, 0);
  if (total > BYTES_MAX) {
    const largest = entries.reduce((most, entry) => (entry.file.size > most.file.size ? entry : most));
    throw new FolderProblem(
      `The folder is ${bytes(total)} in ${count(entries.length, "file", "files")}; the limit is ${bytes(BYTES_MAX)}. ` +
        `The largest file is ${largest.path} (${bytes(largest.file.size)}). Take build output and large data out, then try again.`,
    );
  }
  return { name: name || "project", entries, bytes: total };
}
