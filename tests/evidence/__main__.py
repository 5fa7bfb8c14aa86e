"""`make evidence [PREVIEWS=50] [OUT=DIR]`: one run, its report on standard output; exit 1 where something is not as it must be."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.evidence.report import page
from tests.evidence.running import ALERTS_FROM, gather


def main() -> int:
    parser = argparse.ArgumentParser(prog="make evidence", description=__doc__)
    parser.add_argument("--previews", type=int, default=50)
    parser.add_argument("--out", type=Path, default=None, help="where evidence.md and runbook.txt go")
    parser.add_argument("--no-alerts", action="store_true", help="leave the alerts' causes out")
    parser.add_argument("--no-runbook", action="store_true", help="leave the runbook's commands out")
    options = parser.parse_args()
    if options.previews < ALERTS_FROM and not options.no_alerts:
        parser.error(f"alerts need {ALERTS_FROM} previews; or give --no-alerts")
    folder: Path = (options.out or Path(tempfile.mkdtemp(prefix="drape-evidence-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("DRAPE_HOME", None)
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    tell(f"in {folder}")
    outcome = asyncio.run(
        gather(options.previews, folder, tell, alerts=not options.no_alerts, commands=not options.no_runbook)
    )
    text = page(outcome)
    (folder / "evidence.md").write_text(text, "utf-8")
    print(text)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
