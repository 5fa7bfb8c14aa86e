"""`detect`: what a folder is, and how its dev server would be started."""

import shlex
from pathlib import Path

import click
import msgspec

from deploy.cli.folder import LocalFile, read_folder
from deploy.cli.main import command
from deploy.cli.output import Output
from services.orchestrator.rules import detection


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--app", default="", help="The app to show, by its folder or name, where the project holds several.")
@command
async def detect(output: Output, path: Path, app: str) -> int:
    """What the project in PATH is, and how its dev server would be started."""
    files = read_folder(path)
    try:
        found = detection.detect(files, read_texts(files), app=app)
    except detection.AppChoiceNeeded as needed:
        output.emit({"type": needed.code, "message": needed.message, "choices": list(needed.choices)})
        if not output.as_json:
            output.errors.print(choices_text(needed), markup=False)
        return 1
    output.result({"type": "detected", **_result(found)}, _text(found))
    return 0


def read_texts(files: dict[str, LocalFile]) -> dict[str, str]:
    """The texts that detection reads. Files that can't be read count as empty; it is not here that they matter."""
    texts = {}
    for name in detection.wanted_files(files):
        try:
            with files[name].path.open("rb") as file:
                texts[name] = file.read(detection.TEXT_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            texts[name] = ""
    return texts


def choices_text(needed: detection.AppChoiceNeeded) -> str:
    """The apps to choose from, for a person."""
    width = max(len(choice.path) for choice in needed.choices)
    lines = [f"  {choice.path:<{width}}  {choice.framework}  {choice.name}" for choice in needed.choices]
    return "\n".join([f"drape: {needed.message}", *lines, f"       {needed.hint}"])


def _result(found: detection.Detection) -> dict[str, object]:
    """All of it, the command as one line; the argv is `dev_argv`."""
    return {
        **msgspec.to_builtins(found),
        "dev_command": shlex.join(found.dev_command),
        "install_command": shlex.join(found.install_command),
        "install_retry_command": shlex.join(found.install_retry_command),
        "dev_argv": list(found.dev_command),
    }


def _text(found: detection.Detection) -> str:
    manager = f"{found.package_manager} {found.package_manager_version}".strip()
    rows = [
        ("app", found.app_root),
        ("manager", manager),
        ("install", shlex.join(found.install_command) or "nothing to install"),
        ("command", shlex.join(found.dev_command)),
        ("node", found.node_version),
        ("because", ", ".join(found.evidence)),
        *(("warning", f"{warning.message} {warning.recommendation}") for warning in found.warnings),
    ]
    lines = [f"  {name:<9}{value}" for name, value in rows if value]
    return "\n".join([f"{found.framework} {found.version}".strip(), *lines])


COMMANDS = (detect,)
