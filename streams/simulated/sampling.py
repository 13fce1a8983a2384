"""What a launch reads, as it was at some moment while the launch ran.

A kernel reads its inputs one after the other, at moments that nobody controls, while
other streams write. A simulated launch runs in one piece, at its end; so what it is said
to read is copied at moments of its own in between, and put in place while it runs.
What the function changed stays, everything else becomes again what it is by then. A
program without races cannot tell; one with a race reads what it could have read.

What is in place already is not written: nobody but its functions writes into the memory of
a program without races, which may be a file that is mapped for reading only.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Sample", "run_sampled", "sample_of"]


class Sample:
    """Memory that a launch reads, and the content that it had when ``take`` was called.

    Args:
        memory: strided host memory; views of the same storage may overlap.
        rows: the rows that are read; None for all.
    """

    def __init__(self, memory: Tensor, rows: tuple[int, ...] | None = None) -> None:
        self._memory = _addressable(memory)
        self._rows = None if rows is None else torch.tensor(rows, dtype=torch.int64, device="cpu")
        self._seen: Tensor | None = None
        self._placed: Tensor | None = None
        self._current: Tensor | None = None

    def take(self) -> None:
        """Copy the memory as it is now."""
        with torch.inference_mode():
            self._seen = self._content()

    @property
    def is_overtaken(self) -> bool:
        """Whether the memory has changed since the sample was taken."""
        return self._seen is not None and not self._holds(self._seen)

    def save(self) -> None:
        """Keep what the memory holds now, before any sample is put in place."""
        self._current = self._content()

    def place(self) -> None:
        """Put in place what was seen."""
        if self._seen is not None:
            self._set(self._seen)

    def note_placed(self) -> None:
        """Keep what the function will see: overlapping samples were placed by now."""
        self._placed = self._content()

    def settle(self) -> None:
        """Keep what the function changed; give back elsewhere what was there before.

        Where samples overlap the first one settles it: the next finds it changed, or current.
        """
        assert self._placed is not None
        assert self._current is not None
        after = self._content()
        is_changed = _bits(after) != _bits(self._placed)
        if is_changed.dim() > after.dim():
            is_changed = is_changed.any(-1)
        self._set(torch.where(is_changed, after, self._current))

    def _content(self) -> Tensor:
        if self._rows is None:
            return self._memory.clone()
        return self._memory.index_select(0, self._rows)

    def _holds(self, content: Tensor) -> bool:
        now = self._memory if self._rows is None else self._content()
        return torch.equal(_bits(now), _bits(content))

    def _set(self, content: Tensor) -> None:
        if self._holds(content):
            return
        if self._rows is None:
            self._memory.copy_(content)
        else:
            self._memory.index_copy_(0, self._rows, content)


def sample_of(access: object) -> Sample | None:
    """Return what to sample for a declared read: a tensor, or rows of a buffer's memory.

    None if it is neither, or memory that cannot be sampled; it is then read at the end.
    """
    memory = getattr(access, "memory", access)
    if not isinstance(memory, Tensor) or memory.layout != torch.strided:
        return None
    if memory.device.type != "cpu" or memory.is_quantized or memory.is_neg():
        return None
    if memory.numel() == 0:
        return None
    return Sample(memory, getattr(access, "rows", None) if access is not memory else None)


def run_sampled(samples: list[Sample], call: Callable[[], object]) -> None:
    """Make ``call`` with the samples in place; lets go of them."""
    if not _is_any_overtaken(samples):
        samples.clear()
        call()
        return
    _place(samples)
    try:
        call()
    finally:
        # Not here: an error of the function keeps this frame, and what it refers to, alive.
        _merge(samples)


def _is_any_overtaken(samples: list[Sample]) -> bool:
    with torch.inference_mode():
        return any(sample.is_overtaken for sample in samples)


def _place(samples: list[Sample]) -> None:
    with torch.inference_mode():
        for each in (Sample.save, Sample.place, Sample.note_placed):
            for sample in samples:
                each(sample)


def _merge(samples: list[Sample]) -> None:
    with torch.inference_mode():
        for sample in samples:
            sample.settle()
    samples.clear()


def _addressable(memory: Tensor) -> Tensor:
    """Name each element of an expanded tensor once.

    ``.data`` shares memory but no version counter: a swap that leaves everything as it
    was must not look like a write to what autograd has saved.
    """
    view = memory.data
    for dim, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        if stride == 0 and size > 1:
            view = view.narrow(dim, 0, 1)
    return view


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: NaN is equal to itself, and 0.0 differs from -0.0."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.view(_INTEGERS[tensor.element_size()])


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
