"""Every Python block of the README and of docs/ is a whole program, and runs."""

import sys
from pathlib import Path

import pytest

from tests.docs.pages import Snippet, run, snippets


def test_pages_have_snippets() -> None:
    """The pattern still finds what it is meant to find."""
    assert len(snippets()) >= 6
    assert any(snippet.output for snippet in snippets())
    assert any(snippet.is_test for snippet in snippets())


@pytest.mark.parametrize("snippet", snippets(), ids=[snippet.where for snippet in snippets()])
def test_snippet_runs(snippet: Snippet, tmp_path: Path) -> None:
    """A reader who pastes the block into a file and runs it sees it succeed, with the output shown.

    Tests are run with pytest.
    """
    script = tmp_path / snippet.file
    script.write_text(snippet.code)
    runner = ["-m", "pytest", "-q", "-p", "no:asyncio"] if snippet.is_test else []
    done = run([sys.executable, "-W", "error", *runner, script.name], tmp_path)
    assert done.returncode == 0, f"{snippet.where}:\n{done.stdout}\n{done.stderr}"
    if snippet.output:
        assert done.stdout == snippet.output
    if snippet.is_test:
        assert f"{snippet.code.count('def test_')} passed" in done.stdout
