"""What a bench run starts by hand is what a person would start."""

from pathlib import Path

import pytest

from deploy.bench.bare_preview import by_hand
from deploy.cli.folder import read_folder, read_texts
from services.orchestrator.rules.detection import detect

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("vite-react", "npm run dev -- --host 127.0.0.1 --port 5000 --strictPort"),
        ("nextjs", "npm run dev -- -H 127.0.0.1 -p 5000"),
        ("express", "npm run dev"),
        ("static", "python3 -m http.server 5000 --bind 127.0.0.1"),
    ],
)
def test_an_example_is_started_by_its_script(name: str, command: str) -> None:
    files = read_folder(EXAMPLES / name)
    assert by_hand(detect(files, read_texts(files)), 5000) == command.split()
