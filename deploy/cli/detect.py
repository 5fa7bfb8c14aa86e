"""`detect`: what a folder is."""

from pathlib import Path

import click

from deploy.cli.folder import read_folder
from deploy.cli.main import command
from deploy.cli.output import Output
from services.orchestrator.rules import detection


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--app", default="", help="Which app, where the project holds several: its folder or its name.")
@command
async def detect(output: Output, path: Path, app: str) -> int:
    """What the project in PATH is, and how its dev server would be started."""
    files = read_folder(path)
    limit = detection.TEXT_BYTES_MAX
    texts = {
        name: files[name].path.read_bytes()[:limit].decode("utf-8", "replace")
        for name in detection.wanted_files(files)
        if name in files
    }
    try:
        found = detection.detect(files, texts, app=app)
    except detection.AppChoiceNeeded as several:
        choices = [{"path": c.path, "framework": c.framework, "name": c.name} for c in several.choices]
        output.emit({"type": "app_choice_needed", "message": several.message, "choices": choices})
        output.say(f"{several.message}\n{several.hint}")
        for choice in choices:
            output.say(f"  --app {choice['path']}  ({choice['framework']})")
        return 1
    output.result(_result(found), _text(found))
    return 0


def _result(found: detection.Detection) -> dict[str, object]:
    return {
        "type": "detected",
        "framework": found.framework,
        "version": found.version,
        "package_manager": found.package_manager,
        "package_manager_version": found.package_manager_version,
        "app_root": found.app_root,
        "dev_command": " ".join(found.dev_command),
        "install_command": " ".join(found.install_command),
        "install_root": found.install_root,
        "node_version": found.node_version,
        "warnings": [{"code": each.code, "message": each.message} for each in found.warnings],
        "evidence": list(found.evidence),
    }


def _text(found: detection.Detection) -> str:
    rows = [
        f"{found.framework} {found.version}".rstrip(),
        f"  manager  {found.package_manager} {found.package_manager_version}".rstrip(),
        f"  app      {found.app_root}",
        f"  install  {' '.join(found.install_command) or 'nothing'}",
        f"  command  {' '.join(found.dev_command)}",
        f"  because  {', '.join(found.evidence)}",
    ]
    return "\n".join([*rows, *(f"  warning  {each.message}" for each in found.warnings)])


COMMANDS = (detect,)
