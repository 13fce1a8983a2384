"""Data-parallel ranks that share one gathered batch capture their own rows, in each layout."""

import dataclasses

import pytest
import torch
from torch import Tensor

from aio_sched.engine.kv_cache import KVCache
from aio_sched.parallel.slices import Layout, local_slice
from buffers.capture import CaptureCache
from buffers.slots import Slot
from buffers.transfer import copy_to_host
from streams.device import Device, open_device
from streams.stream import Stream
from tests.aio_sched.engine.tiny import LETTERS, TINY
from tests.aio_sched.engine.tiny_experts import rigged_mixture, scores_of, wins

MODEL = rigged_mixture()
LENGTH = 4
NUM_SLOTS = 20


class AllRanks:
    """What a gathered batch writes: each rank has a cache, and all see all rows."""

    def __init__(self, caches: list[CaptureCache]) -> None:
        self.caches = caches

    def place(self, slots: Tensor, positions: Tensor) -> None:
        """Tell each rank."""
        for cache in self.caches:
            cache.place(slots, positions)

    def write(self, layer: int, experts: Tensor) -> None:
        """Tell each rank."""
        for cache in self.caches:
            cache.write(layer, experts)


@dataclasses.dataclass
class Gathered:
    """One batch of the texts of all ranks; each text has a slot of its own.

    Attributes:
        ranks: the texts of each rank.
        stride: texts that a rank has room for in the decode graph.
        padding: texts behind the last rank in the prefill graph.
    """

    ranks: list[list[bytes]]
    layout: Layout
    stride: int = 4
    padding: int = 3

    def rows(self, rank: int, per_text: int = 1) -> slice:
        """Return the rows of a rank."""
        counts = [per_text * len(texts) for texts in self.ranks]
        return local_slice(rank, counts, self.layout, stride=per_text * self.stride)

    @property
    def num_texts(self) -> int:
        """Texts of the batch, padding included."""
        num_real = sum(map(len, self.ranks))
        return {
            Layout.EAGER: num_real,
            Layout.DECODE_GRAPH: len(self.ranks) * self.stride,
            Layout.PREFILL_GRAPH: num_real + self.padding,
        }[self.layout]

    def table(self) -> tuple[Tensor, Tensor]:
        """Return tokens ``[texts, LENGTH]`` and slots ``[texts]``; padding has slot 0."""
        tokens = torch.zeros(self.num_texts, LENGTH, dtype=torch.int64)
        slots = torch.zeros(self.num_texts, dtype=torch.int64)
        for rank, texts in enumerate(self.ranks):
            for at, text in enumerate(texts, start=self.rows(rank).start):
                tokens[at], slots[at] = torch.tensor(list(text)), 1 + at
        return tokens, slots


def prefill(batch: Gathered, capture: AllRanks) -> None:
    """Read all texts in one step; a row for each of their tokens."""
    tokens, slots = batch.table()
    model = MODEL.capturing(capture)  # type: ignore[arg-type]  # what a model uses of a cache
    starts = torch.zeros_like(slots)
    model.prefill(tokens, slots, starts, (slots > 0) * LENGTH, KVCache(TINY, NUM_SLOTS))


def decode(batch: Gathered, capture: AllRanks) -> None:
    """Read the last token of all texts, one at a time: the step of that is captured."""
    tokens, slots = batch.table()
    cache = KVCache(TINY, NUM_SLOTS)
    for position in range(LENGTH):
        model = MODEL.capturing(capture)  # type: ignore[arg-type]  # what a model uses of a cache
        model.decode(tokens[:, position], slots, (slots > 0) * position, cache)


async def captured(
    device: Device, batch: Gathered, stream: Stream, per_text: int
) -> list[list[Tensor]]:
    """Run the step; return what each rank has captured of each of its texts."""
    found = []
    caches = [
        CaptureCache(
            device,
            MODEL.capture_shape,
            max_rows=batch.num_texts * per_text,
            num_slots=NUM_SLOTS,
            max_len=LENGTH,
        )
        for _ in batch.ranks
    ]
    stream.launch(prefill if per_text > 1 else decode, batch, AllRanks(caches))
    for rank, cache in enumerate(caches):
        rows = await copy_to_host(stream, cache.take(batch.rows(rank, per_text), stream=stream))
        if per_text == 1:  # the rows of earlier steps were not kept
            rows.places[:, 1] = 0
        first = batch.rows(rank).start
        owners = [Slot(1 + first + at, 1) for at in range(len(batch.ranks[rank]))]
        assert rows.places[:, 0].tolist() == [
            owner.index for owner in owners for _ in range(per_text)
        ]
        cache.host.scatter(rows, dict.fromkeys(owners))
        found.append([cache.host.collect(owner, per_text) for owner in owners])
    return found


@pytest.mark.parametrize("is_prefill", [True, False], ids=["prefill", "decode"])
@pytest.mark.parametrize("layout", [Layout.EAGER, Layout.DECODE_GRAPH, Layout.PREFILL_GRAPH])
@pytest.mark.parametrize(
    "ranks",
    [
        [[LETTERS[:4], LETTERS[2:6]], [LETTERS[5:9]]],
        [[LETTERS[1:5]], [], [LETTERS[6:10], LETTERS[:4], LETTERS[3:7]]],
    ],
    ids=["two ranks", "three ranks, one idle"],
)
async def test_each_rank_captures_the_experts_of_its_own_texts(
    ranks: list[list[bytes]], layout: Layout, is_prefill: bool
) -> None:
    """Those of a plain forward; no row of another rank, and none of padding."""
    batch = Gathered(ranks, layout)
    per_text = LENGTH if is_prefill else 1
    with open_device("cpu") as device:
        found = await captured(device, batch, device.stream("forward"), per_text)
    for texts, experts in zip(ranks, found, strict=True):
        for text, rows in zip(texts, experts, strict=True):
            assert wins(scores_of(MODEL, text)[-per_text:], rows)
    others = [row for experts in found for row in experts]
    assert len({str(rows.tolist()) for rows in others}) > 1, "all the same would prove nothing"


async def test_accepted_tokens_of_a_verify_step_have_their_rows() -> None:
    """Of four tokens to verify two are accepted; the next ones are written where they stood."""
    text, drafted = LETTERS[:8], LETTERS[:6] + LETTERS[3:5]
    slot, slots = Slot(2, 1), torch.tensor([2, 0])  # and a row of padding
    kv = KVCache(TINY, NUM_SLOTS)
    with open_device("cpu") as device:
        capture = CaptureCache(
            device, MODEL.capture_shape, max_rows=8, num_slots=NUM_SLOTS, max_len=16
        )
        model, stream = MODEL.capturing(capture), device.stream("forward")
        for start, tokens, num_kept in ((0, text, 4), (4, drafted, 2), (6, text, 2)):
            stop = min(start + 4, len(tokens))
            rows = torch.tensor([list(tokens[start:stop]), [0] * (stop - start)])
            positions = torch.tensor([list(range(start, stop)), [0] * (stop - start)])
            owners = slots[:, None].expand_as(rows)
            stream.launch(model.score, rows, owners, positions, slots, kv)
            taken = capture.take(slice(0, rows.numel()), stream=stream)
            capture.host.scatter(await copy_to_host(stream, taken), {slot: num_kept})
    assert wins(scores_of(MODEL, text), capture.host.collect(slot, len(text)))
