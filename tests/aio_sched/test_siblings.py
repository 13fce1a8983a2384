"""The sibling guard: what a user reads when another ``streams`` or ``buffers`` is in the way."""

import importlib
import os
import py_compile
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import aio_sched._siblings
from aio_sched._siblings import check_siblings

ROOT = Path(aio_sched._siblings.__file__).parent.parent
RAISES = "raise RuntimeError('the intruder ran')\n"

Importer = Callable[[str], str]


def package(folder: Path, source: str = RAISES) -> Path:
    """Write a package; return its file."""
    folder.mkdir()
    init = folder / "__init__.py"
    init.write_text(source)
    return init


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The folder of a user's application."""
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


@pytest.fixture
def failing_import(app: Path) -> Importer:
    """Run code in a new interpreter, in the application's folder; return its ImportError."""

    def run(code: str) -> str:
        # Coverage would follow the child and take the intruder for our package.
        env = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
        env["PYTHONPATH"] = os.pathsep.join([str(app), str(ROOT)])
        command = [sys.executable, "-c", code]
        result = subprocess.run(
            command, cwd=app, env=env, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1, result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith("ImportError: "), result.stderr
        return last

    return run


@pytest.fixture
def installation(tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation to damage: after the application on sys.path, not yet imported."""
    root = tmp_path / "site-packages"
    root.mkdir()
    for name in ("streams", "buffers"):
        package(root / name, '"""Ours."""\n\n__aio_sched__ = True\n')
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(aio_sched._siblings, "__file__", str(root / "aio_sched" / "_siblings.py"))
    monkeypatch.setattr(sys, "path", [str(app), str(root)])
    importlib.invalidate_caches()
    return root


def refusal() -> str:
    """Return what the check raises now."""
    importlib.invalidate_caches()
    with pytest.raises(ImportError) as caught:
        check_siblings()
    assert caught.value.name in {"streams", "buffers"}
    return str(caught.value)


def test_our_own_siblings_pass() -> None:
    """The packages of this checkout are accepted."""
    check_siblings()


@pytest.mark.parametrize("name", ["streams", "buffers"])
def test_script_of_that_name_is_refused(app: Path, failing_import: Importer, name: str) -> None:
    """A module in the script's folder is named with the cure, and does not run."""
    intruder = app / f"{name}.py"
    intruder.write_text(RAISES)
    message = failing_import("import aio_sched")
    assert f"own package {name!r} in {ROOT / name}, but here" in message
    assert f"{name!r} is {intruder}, which hides it" in message
    assert f"rename {intruder}, or take the folder {app} off sys.path" in message


@pytest.mark.parametrize("name", ["streams", "buffers"])
def test_package_of_that_name_is_refused(app: Path, failing_import: Importer, name: str) -> None:
    """A package earlier on sys.path is named by its file; the cure renames its folder."""
    init = package(app / name)
    message = failing_import("import aio_sched")
    assert f"{name!r} is {init}, which hides it" in message
    assert f"rename {app / name}, or take the folder {app} off sys.path" in message


def test_guard_runs_before_other_imports(app: Path, failing_import: Importer) -> None:
    """The user reads of the intruder even where another import would fail first."""
    (app / "streams.py").write_text(RAISES)
    (app / "torch.py").write_text(RAISES)
    assert str(app / "streams.py") in failing_import("import aio_sched")


def test_module_imported_before_is_refused(app: Path, failing_import: Importer) -> None:
    """An application that has imported its own module hears of it by file."""
    (app / "buffers.py").write_text("x = 1\n")
    message = failing_import("import buffers, sys; del sys.path[:2]; import aio_sched")
    assert f"'buffers' was imported before from {app / 'buffers.py'}" in message


def test_intruder_that_imports_us_is_refused(app: Path, failing_import: Importer) -> None:
    """A module that is still being imported counts as imported."""
    (app / "streams.py").write_text("import aio_sched\n")
    message = failing_import("import streams")
    assert f"'streams' was imported before from {app / 'streams.py'}" in message


def test_intact_installation_is_accepted(installation: Path) -> None:
    """The damage of the tests below starts from something that passes."""
    check_siblings()


def test_second_copy_of_ours_is_refused(app: Path, installation: Path) -> None:
    """Two installations of the distribution are not mixed: the mark alone does not suffice."""
    init = package(app / "streams", "__aio_sched__ = True\n")
    assert f"'streams' is {init}, which hides it" in refusal()


def test_unreadable_intruder_is_refused(app: Path, installation: Path) -> None:
    """What is elsewhere is not even read: its encoding may be broken."""
    (app / "streams.py").write_bytes(b"# \xff\n")
    assert f"'streams' is {app / 'streams.py'}, which hides it" in refusal()


def test_overwritten_package_is_refused(installation: Path) -> None:
    """At the right place but without the mark, it is somebody else's, and does not run."""
    init = installation / "buffers" / "__init__.py"
    init.write_text(RAISES)
    message = refusal()
    assert f"{init} belongs to something else" in message
    assert "uninstall that one, then: pip install --force-reinstall" in message


def test_overwritten_package_imported_before_is_refused(installation: Path) -> None:
    """The mark is asked of the module once it has been imported."""
    init = installation / "buffers" / "__init__.py"
    init.write_text("x = 1\n")
    importlib.invalidate_caches()
    importlib.import_module("buffers")
    assert f"{init} belongs to something else" in refusal()


def test_package_without_source_is_accepted(installation: Path) -> None:
    """An installation of .pyc files only has no mark to read; its place suffices."""
    init = installation / "streams" / "__init__.py"
    py_compile.compile(str(init), cfile=str(init.with_suffix(".pyc")))
    init.unlink()
    importlib.invalidate_caches()
    check_siblings()


def test_namespace_package_is_refused(app: Path, installation: Path) -> None:
    """A folder without __init__.py takes the name once ours is gone."""
    shutil.rmtree(installation / "streams")
    (app / "streams").mkdir()
    assert f"'streams' is {app / 'streams'}, which hides it" in refusal()


def test_namespace_package_imported_before_is_refused(
    app: Path, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was imported while ours was not on sys.path is named."""
    (app / "streams").mkdir()
    monkeypatch.setattr(sys, "path", [str(app)])
    importlib.import_module("streams")
    monkeypatch.setattr(sys, "path", [str(app), str(installation)])
    message = refusal()
    assert f"'streams' was imported before from {app / 'streams'}" in message
    assert f"rename {app / 'streams'}, or take the folder {app} off sys.path" in message


def test_module_without_file_is_refused(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module made in memory is shown by its repr."""
    monkeypatch.setitem(sys.modules, "streams", types.ModuleType("streams"))
    assert "'streams' was imported before from <module 'streams'>" in refusal()


@pytest.mark.parametrize("remains", [False, True])
def test_missing_sibling_is_reported(installation: Path, remains: bool) -> None:
    """Half an uninstallation is told from an intruder."""
    shutil.rmtree(installation / "streams")
    if remains:
        (installation / "streams" / "__pycache__").mkdir(parents=True)
    message = refusal()
    assert f"'streams', which is missing in {installation / 'streams'}" in message
    assert "install it again: pip install" in message


def test_symbolic_link_to_the_installation_is_accepted(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder under another name is the same package."""
    link = tmp_path / "link"
    link.symlink_to(installation)
    monkeypatch.setattr(sys, "path", [str(link)])
    check_siblings()


def test_zip_file_is_accepted(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Place and mark are found in a zip file as well."""
    archive = shutil.make_archive(str(tmp_path / "app"), "zip", installation)
    monkeypatch.setattr(aio_sched._siblings, "__file__", f"{archive}/aio_sched/_siblings.py")
    monkeypatch.setattr(sys, "path", [archive])
    check_siblings()
