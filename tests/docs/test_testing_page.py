"""The worked example of docs/testing.md, followed to its end."""

import shlex
import sys
from pathlib import Path

from tests.docs.pages import blocks, run

AIO_SCHED = [
    sys.executable,
    "-c",
    "import sys; from aio_sched.cli import main; sys.exit(main())",
]


def test_replay_that_is_printed_gives_the_report_that_is_printed(tmp_path: Path) -> None:
    """As a reader types it, in the folder of the script."""
    (tmp_path / "race.py").write_text(blocks("testing.md", "python")[0])
    report, replay = _printed()
    done = run([*AIO_SCHED, *shlex.split(replay)], tmp_path)
    assert done.returncode == 1, done.stderr
    assert report in done.stdout


def test_fix_that_is_shown_is_one(tmp_path: Path) -> None:
    """With the lines changed as shown the same script finds nothing, and says what is promised."""
    (diff,) = blocks("testing.md", "diff")
    before, after = (
        "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in f" {sign}")
        for sign in "-+"
    )
    code = blocks("testing.md", "python")[0]
    assert code.count(before) == 1
    (tmp_path / "race.py").write_text(code.replace(before, after))
    done = run([sys.executable, "race.py"], tmp_path)
    assert done.stdout == "100 schedules, nothing found\n", done.stderr


def _printed() -> tuple[str, str]:
    lines = blocks("testing.md", "text")[0].splitlines()
    (report,) = (line for line in lines if line.startswith("WAR on "))
    (replay,) = (line for line in lines if line.startswith("replay: aio-sched "))
    return report, replay.removeprefix("replay: aio-sched ")
