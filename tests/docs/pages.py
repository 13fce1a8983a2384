"""What is in the README and in docs/, cut to pieces."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "Snippet", "blocks", "run", "snippets"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Snippet(NamedTuple):
    """One Python block.

    Attributes:
        where: page and line.
        code: its text.
        output: the text block behind a line that ends with "prints"; empty if there is none.
    """

    where: str
    code: str
    output: str

    @property
    def file(self) -> str:
        """Its file's name, where its first line is a comment with one."""
        named = re.match(r"# (\w+\.py)\n", self.code)
        return named[1] if named else "snippet.py"

    @property
    def is_test(self) -> bool:
        """Whether it is to be run by pytest."""
        return "\ndef test_" in self.code


def snippets() -> list[Snippet]:
    """Return all of them."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
            printed = re.match(
                r"\n\n[^\n]* prints\n\n```text\n(.*?)^```$", text[block.end() :], re.M | re.S
            )
            line = text.count("\n", 0, block.start()) + 1
            found.append(Snippet(f"{page.name}:{line}", block[1], printed[1] if printed else ""))
    return found


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of one language of a page in docs/."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command as a reader would."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, cwd=folder, check=False
    )
