"""Refuse to work with a ``streams`` or ``buffers`` that is not ours.

Both names are plain words: a script or folder of the user can carry one and
hide ours, and another distribution can overwrite it. What follows would be an
``AttributeError`` far from its cause, so the first import says it instead.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

__all__ = ["check_siblings"]

_SIBLINGS = ("streams", "buffers")
_MARKER = re.compile(r"^__aio_sched__\b", re.MULTILINE)
_REINSTALL = "pip install --force-reinstall --no-deps aio-sched"


class _Found(NamedTuple):
    origin: str  # its file; of a namespace package, a folder
    is_package: bool  # with an __init__.py of its own
    is_imported: bool
    is_marked: Callable[[], bool]  # says __aio_sched__, as ours does


def check_siblings() -> None:
    """Check that ``streams`` and ``buffers`` are the packages installed beside this one.

    Imports neither: an intruder may do anything when it runs.

    Raises:
        ImportError: one is hidden, overwritten or missing; names the file and the cure.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in _SIBLINGS:
        expected = os.path.join(root, name)
        module = sys.modules.get(name)
        found = _look_up(name) if module is None else _look_at(module)
        if found is None or (not found.is_package and _is_same_folder(found.origin, expected)):
            raise _missing(name, expected)
        if not _is_same_folder(os.path.dirname(found.origin), expected):
            raise _hidden(name, expected, found)
        if not found.is_marked():
            raise _overwritten(name, found)


def _look_up(name: str) -> _Found | None:
    """Find what an import would take, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.origin is None:
        locations = list(spec.submodule_search_locations or ["an unknown place"])
        return _Found(locations[0], False, is_imported=False, is_marked=lambda: False)

    def is_marked() -> bool:
        # Without source (an installation of .pyc files only) the location has to do.
        source = getattr(spec.loader, "get_source", lambda _: None)(name)
        return source is None or _MARKER.search(source) is not None

    return _Found(spec.origin, _is_init(spec.origin), is_imported=False, is_marked=is_marked)


def _look_at(module: ModuleType) -> _Found:
    def is_marked() -> bool:
        return hasattr(module, "__aio_sched__")

    origin = getattr(module, "__file__", None)
    if origin is None:
        locations = list(getattr(module, "__path__", [])) or [repr(module)]
        return _Found(locations[0], False, is_imported=True, is_marked=is_marked)
    return _Found(origin, _is_init(origin), is_imported=True, is_marked=is_marked)


def _is_init(origin: str) -> bool:
    return os.path.splitext(os.path.basename(origin))[0] == "__init__"


def _is_same_folder(path: str, expected: str) -> bool:
    """Compare names first: in a zip file neither folder exists for the system."""
    if os.path.abspath(path) == expected:
        return True
    try:
        return os.path.samefile(path, expected)
    except OSError:
        return False


def _missing(name: str, expected: str) -> ImportError:
    return ImportError(
        f"aio_sched needs its own package {name!r}, which is missing in {expected}; "
        f"install it again: {_REINSTALL}",
        name=name,
    )


def _hidden(name: str, expected: str, found: _Found) -> ImportError:
    how = "was imported before from" if found.is_imported else "is"
    to_rename = os.path.dirname(found.origin) if found.is_package else found.origin
    return ImportError(
        f"aio_sched needs its own package {name!r} in {expected}, but here {name!r} {how} "
        f"{found.origin}, which hides it; rename {to_rename}, or take the folder "
        f"{os.path.dirname(to_rename)} off sys.path (script folder, working directory, PYTHONPATH)",
        name=name,
        path=found.origin,
    )


def _overwritten(name: str, found: _Found) -> ImportError:
    return ImportError(
        f"aio_sched needs its own package {name!r}, but {found.origin} belongs to something else, "
        "probably to a distribution that was installed over it; uninstall that one, "
        f"then: {_REINSTALL}",
        name=name,
        path=found.origin,
    )
