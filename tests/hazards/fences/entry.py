"""What stands for a fence of the library in the registry."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from aio_sched.testing import Scenario
from tests.hazards.fences.source import ROOT, Place, fences, without

__all__ = ["Fence", "Rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """What takes a fence away if it is not the statement behind the comment.

    Attributes:
        instead: put in the place of that statement.
        file: where the statement is; by default it is the one behind the comment.
        function: the function that it is in.
        begins: how its first line begins.
    """

    instead: str = "pass"
    file: str = ""
    function: str = ""
    begins: str = ""


@dataclass(frozen=True)
class Fence:
    """One fence.

    Attributes:
        file: where it stands, from the root of the checkout.
        function: the function that it stands in.
        words: how the comment that names its hazard begins.
        scenario: a program that uses it.
        finds: kind and memory of a report of that program without the fence.
        rewrite: what to do if taking away the statement behind the comment is not right.
        redundant: why the program is in order without it on a simulated device; empty where
            it is not.
        covered_by: the rule of the checker that gives the edge instead, if it is redundant.
    """

    file: str
    function: str
    words: str
    scenario: Scenario
    finds: tuple[str, str]
    rewrite: Rewrite = Rewrite()
    redundant: str = ""
    covered_by: str = ""

    @property
    def name(self) -> str:
        """For test reports."""
        return f"{self.function}: {self.words}"

    def stands_for(self, place: Place) -> bool:
        """Whether a comment is this fence's."""
        return (self.file, self.function) == place[:2] and place.words.startswith(self.words)

    def removed(self) -> AbstractContextManager[None]:
        """Run the library without it."""
        change = self.rewrite
        if change.file:
            line = _line_before(change.file, change.begins)
            return without(change.file, change.function, line, change.instead)
        (place,) = filter(self.stands_for, fences())
        return without(self.file, self.function, place.line, change.instead)


def _line_before(file: str, begins: str) -> int:
    lines = (ROOT / file).read_text().splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.strip().startswith(begins))
    return at
