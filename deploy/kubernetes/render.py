"""`python -m deploy.kubernetes.render`: writes what the chart renders to, a file for each of `ci/*.yaml`.

The files are for reading, for `kubectl apply` without Helm, and for the tests, which so need no Helm: each begins with a
fingerprint of what it was made from. `--check` writes nothing and exits 1 where a file is not what it would be.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
CHART = FOLDER / "chart"
RENDERED = FOLDER / "rendered"
RELEASE = "drape"
NAMESPACE = "drape"
KUBERNETES = "1.34.0"
TIMEOUT_S = 60


def cases() -> list[Path]:
    """The files of values that are rendered."""
    return sorted((FOLDER / "ci").glob("*.yaml"))


def fingerprint(values: Path) -> str:
    """A hash of everything that a rendering depends on, but for Helm itself."""
    sources = [path for path in sorted(CHART.rglob("*")) if path.is_file() and "charts" not in path.parts]
    total = hashlib.sha256()
    for path in [*sources, values]:
        content = path.read_bytes()
        total.update(f"{path.relative_to(FOLDER).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()


def head(values: Path) -> str:
    """The first lines of a rendering."""
    return (
        f"# Made by `python -m deploy.kubernetes.render` from the chart and ci/{values.name}; changes made here are lost.\n"
        f"# Without NATS, whose own chart adds it. Fingerprint: {fingerprint(values)}\n"
    )


def helm_command() -> str | None:
    """Helm: the one on PATH, or the one that `go install` put into `.tools`; None where there is none."""
    return shutil.which("helm") or shutil.which("helm", path=str(FOLDER.parents[1] / ".tools"))


def helm(*arguments: str, command: str) -> "subprocess.CompletedProcess[str]":
    """One call; whoever calls looks at the exit code."""
    return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def template(values: Path, command: str, *more: str, nats_chart: Path | None = None) -> str:
    """What `helm template` says, in an order that does not change. `nats_chart`: the folder of NATS's own chart, which is
    left out where None. Raises `RuntimeError` with Helm's own words."""
    with tempfile.TemporaryDirectory(prefix="drape-chart-") as folder:
        chart = chart_copy(Path(folder), nats_chart)
        arguments = ("template", RELEASE, str(chart), "-n", NAMESPACE, "-f", str(values), "--kube-version", KUBERNETES)
        done = helm(*arguments, *more, command=command)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def chart_copy(folder: Path, nats_chart: Path | None = None) -> Path:
    """The chart as Helm takes it without the network: with NATS's chart beside it, or without the dependency."""
    chart = folder / "drape"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("charts"))
    if nats_chart is not None:
        shutil.copytree(nats_chart, chart / "charts" / "nats")
        return chart
    about = yaml.safe_load((chart / "Chart.yaml").read_text("utf-8"))
    del about["dependencies"]
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about), "utf-8")
    return chart


def main() -> int:
    """Write the files, or with `--check` compare them. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.kubernetes.render", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is stale")
    check = parser.parse_args().check
    command = helm_command()
    if command is None:
        print(
            "render: there is no helm. `GOBIN=$PWD/.tools go install helm.sh/helm/v3/cmd/helm@v3.19.0`.",
            file=sys.stderr,
        )
        return 2
    RENDERED.mkdir(exist_ok=True)
    stale = []
    for values in cases():
        target = RENDERED / values.name
        fresh = head(values) + template(values, command)
        if not target.is_file() or target.read_text("utf-8") != fresh:
            stale.append(target.name)
            if not check:
                target.write_text(fresh, "utf-8")
    if check and stale:
        print(f"render: stale: {', '.join(stale)}. Run `python -m deploy.kubernetes.render`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
