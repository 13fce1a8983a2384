"""Every Python block of the README and of docs/ is a whole program, and runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets() -> list[tuple[str, str]]:
    """Return (where, code) of every block."""
    return [
        (f"{page.name}:{page.read_text().count(chr(10), 0, block.start()) + 1}", block.group(1))
        for page in PAGES
        for block in re.finditer(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    ]


def test_pages_have_snippets() -> None:
    """The pattern still finds what it is meant to find."""
    assert len(snippets()) >= 6


@pytest.mark.parametrize(("where", "code"), snippets(), ids=[where for where, _ in snippets()])
def test_snippet_runs(where: str, code: str, tmp_path: Path) -> None:
    """A reader who pastes the block into a file and runs it sees it succeed."""
    script = tmp_path / "snippet.py"
    script.write_text(code)
    run = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, f"{where}:\n{run.stdout}\n{run.stderr}"
