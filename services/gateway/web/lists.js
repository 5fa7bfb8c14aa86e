// The side of the page: previews, projects and the pool.

import { byId, make, put, sync } from "./dom.js";
import { bytes, count, isRunning, percent, stepName } from "./text.js";

const POOL = [
  ["available", "Warm"],
  ["inUse", "In use"],
  ["suspended", "Asleep"],
  ["kept", "Kept for their owner"],
  ["booting", "Booting"],
  ["waiting", "Waiting for a VM"],
  ["target", "Target"],
];

export function drawPreviews(previews, chosenId, choose) {
  const newestFirst = [...previews.values()].sort((a, b) => String(b.created_at ?? "").localeCompare(String(a.created_at ?? "")));
  byId("previews-none").hidden = newestFirst.length > 0;
  sync(
    byId("previews"),
    newestFirst,
    (view) => view.preview_id,
    (view) =>
      make(
        "li",
        {},
        make(
          "button",
          { type: "button", class: "entry", onclick: () => choose(view.preview_id) },
          make("span", { class: "entry-name" }),
          make("span", { class: "status" }),
          make("span", { class: "entry-more quiet" }),
        ),
      ),
    (row, view) => {
      const button = row.firstElementChild;
      const [name, status, more] = button.children;
      put(name, String(view.project_name || view.project_id || view.preview_id));
      drawStatus(status, view);
      put(more, moreAbout(view));
      if (view.preview_id === chosenId) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    },
  );
}

export function drawStatus(element, view) {
  put(element, view.status === "waiting" ? "Waiting" : isRunning(view) ? stepName(view.status).split(" ")[0] : stepName(view.status));
  element.dataset.status = isRunning(view) ? "running" : view.status === "ready_with_errors" ? "errors" : String(view.status);
}

function moreAbout(view) {
  const kind = [view.framework, view.version].filter(Boolean).join(" ");
  return [kind, isRunning(view) ? `${percent(view.percent)} %` : ""].filter(Boolean).join(", ");
}

// open(id): the project is looked at, and may be wanted soon; start(id): it is wanted.
export function drawProjects(projects, { open, start }) {
  const byName = [...projects.values()].sort((a, b) => String(a.name).localeCompare(String(b.name)));
  byId("projects-none").hidden = byName.length > 0;
  sync(
    byId("projects"),
    byName,
    (project) => project.project_id,
    (project) =>
      make(
        "li",
        { class: "project" },
        make("button", { type: "button", class: "entry-name open", onclick: () => open(project.project_id) }),
        make("button", { type: "button", onclick: () => start(project.project_id) }, "Preview"),
        make("span", { class: "entry-more quiet" }),
      ),
    (row, project) => {
      const [name, button, more] = row.children;
      put(name, String(project.name ?? project.project_id));
      name.disabled = !project.files;
      name.title = "Open: bring its files in and install, ahead of the preview";
      button.setAttribute("aria-label", `Preview ${project.name ?? project.project_id}`);
      button.disabled = !project.files;
      put(more, project.files ? `${count(project.files, "file", "files")}, ${bytes(project.bytes)}` : "no files yet");
    },
  );
}

export function drawPool(pool) {
  byId("pool-none").hidden = Boolean(pool);
  if (!pool) return;
  const shown = POOL.filter(([name]) => Number.isFinite(pool[name]));
  sync(
    byId("pool"),
    shown,
    ([name]) => name,
    ([, label]) => make("div", {}, make("dt", {}, label), make("dd", {})),
    (row, [name]) => {
      const limits = name === "target" && Number.isFinite(pool.min) && Number.isFinite(pool.max);
      put(row.lastElementChild, limits ? `${pool.target} (${pool.min} to ${pool.max})` : String(pool[name]));
    },
  );
}
