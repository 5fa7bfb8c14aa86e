"""`make chaos [SECONDS=600] [SEED=n] [KEEP=DIR]`: one run, its outcome as JSON; exit 1 where a rule was broken."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.chaos.running import chaos, random_seed, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=None, help="a folder that stays, with logs and configurations")
    options = parser.parse_args()
    seed = random_seed() if options.seed is None else options.seed
    folder = options.keep or Path(tempfile.mkdtemp(prefix="drape-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    told(f"seed {seed}, {options.seconds:g} s, in {folder}")
    try:
        outcome = asyncio.run(chaos(options.seconds, seed, folder, told))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    return 1 if outcome.broken or outcome.doctor else 0


if __name__ == "__main__":
    sys.exit(main())
