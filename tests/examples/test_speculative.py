"""The example of drafting runs as a process of its own, and says what each policy gave."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def test_speculative_prints_the_same_texts_from_fewer_forwards(tmp_path: Path) -> None:
    """Drafts are accepted alike under each policy, and the timeline has the plan stream."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "speculative.py"), "cpu", "out.svg"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [line.split("│")[1:-1] for line in done.stdout.splitlines()]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines if cells}
    assert list(rows) == ["no draft", "targeted", "whole_draft", "off", "targeted, heads"]
    assert rows["no draft"][:2] == ["-", "1.00"]
    for plan in ("targeted", "whole_draft", "off"):
        assert rows[plan][:2] == rows["targeted"][:2]
    for way in ("targeted", "targeted, heads"):
        assert float(rows[way][1]) > 1.5
    assert "same texts: True; on cpu; timeline in out.svg" in done.stdout
    picture = "".join(ElementTree.parse(tmp_path / "out.svg").getroot().itertext())
    for label in ("plan_verify", "relay.d2h"):
        assert label in picture
