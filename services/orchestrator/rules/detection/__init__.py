"""What a project is and how its dev server is started, from the names of its files and the texts of some. Pure.

`wanted_files` says which texts are needed, `detect` gives a `Detection`. What is known about frameworks is data, in
`frameworks.toml`; the rooms of this package: `tree` (the files), `settings` (drape.toml), `scripts` (what a script runs),
`recognise`, `python` and `nx` (what a folder is), `workspaces` and `apps` (which folder is meant), `managers` and
`versions` (what installs it, on which Node), `starting` (the commands).
"""

from collections.abc import Collection, Mapping

from services.orchestrator.rules.detection.apps import App, choose_app
from services.orchestrator.rules.detection.managers import LOCKFILES, NPM_QUIET
from services.orchestrator.rules.detection.model import BASE_ENV, PORT, AppChoiceNeeded, Detection
from services.orchestrator.rules.detection.settings import Settings, merged, read_settings
from services.orchestrator.rules.detection.starting import describe
from services.orchestrator.rules.detection.tree import TEXT_BYTES_MAX, Tree, parse_package_json
from services.orchestrator.rules.detection.wanted import WANTED_FILES_MAX, wanted_files
from services.orchestrator.rules.frameworks import FRAMEWORKS
from shared.errors import Invalid

STATIC_COMMAND = FRAMEWORKS["static"].command

__all__ = [
    "BASE_ENV",
    "LOCKFILES",
    "NPM_QUIET",
    "PORT",
    "STATIC_COMMAND",
    "TEXT_BYTES_MAX",
    "WANTED_FILES_MAX",
    "AppChoiceNeeded",
    "Detection",
    "detect",
    "parse_package_json",
    "wanted_files",
]


def detect(paths: Collection[str], texts: Mapping[str, str], *, app: str = "", default_node: int = 24) -> Detection:
    """What the project is. `paths`: its files; `texts`: those of `wanted_files`, by path, cut to `TEXT_BYTES_MAX`.

    `app`: the folder or the package's name of the app to show; empty: `drape.toml` says, or it is the only one.
    `default_node`: the major that VMs run on.
    Raises `AppChoiceNeeded`, or `Invalid`: `empty_project`, `bad_package_json`, `no_dev_script`, `not_a_web_project`,
    `bad_drape_toml`, `app_not_found`, `script_loop`.
    """
    tree = Tree(paths, texts)
    if not tree.paths:
        raise Invalid(
            "empty_project", "The project has no files.", "Upload a folder with an index.html or a package.json."
        )
    settings = read_settings(tree, ".")
    chosen = _choose(tree, settings, app)
    if chosen.path != ".":
        settings = merged(settings, read_settings(tree, chosen.path))
        if settings.framework and settings.framework != chosen.framework:
            chosen = choose_app(tree, chosen.path, settings.framework)
    return describe(tree, chosen, settings, default_node)


def _choose(tree: Tree, settings: Settings, app: str) -> App:
    """The app that is meant. With a command in drape.toml the folder need not be anything that we know."""
    try:
        return choose_app(tree, app or settings.app, settings.framework)
    except Invalid as error:
        if settings.dev is None or error.code not in ("no_dev_script", "not_a_web_project"):
            raise
        return App(path=settings.app.strip("/") or ".", framework=settings.framework or "node", name="")
