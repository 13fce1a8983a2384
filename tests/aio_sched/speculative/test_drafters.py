"""What drafts: models that go with the target, and texts that repeat themselves."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from aio_sched.engine.kv_cache import KVCache
from aio_sched.engine.model import ByteTransformer
from aio_sched.engine.table import StepTable
from aio_sched.engine.weights import DRAFT, load_draft, load_model
from aio_sched.speculative.drafter import ChainDrafter, DraftStart
from aio_sched.speculative.engine import SpeculativeEngine
from aio_sched.speculative.errors import DraftModelError
from aio_sched.speculative.lookup import LookupDrafter
from aio_sched.speculative.verify_inputs import Cells
from streams.device import open_device
from tests.aio_sched.engine.tiny import TINY, rigged
from tests.aio_sched.speculative.tiny import engine_on

CPU = torch.device("cpu")


def sized(**sizes: int) -> ByteTransformer:
    """Make a model of other sizes."""
    with torch.random.fork_rng(devices=[]):
        return ByteTransformer(replace(TINY, **sizes)).requires_grad_(False)


@pytest.mark.parametrize("vocab", [128, 512])
def test_draft_model_with_another_vocabulary_is_refused(vocab: int) -> None:
    """With both numbers; smaller or larger, since the same number must mean the same token."""
    message = f"the draft model has vocab={vocab} and the target model vocab=256; draft with"
    with pytest.raises(DraftModelError, match=message), open_device("cpu") as device:
        SpeculativeEngine(rigged(), sized(vocab=vocab), device)


def test_draft_model_with_a_smaller_context_is_refused() -> None:
    """A larger one will do."""
    with open_device("cpu") as device:
        message = "the draft model has max_len=63 and the target model max_len=64; draft with"
        with pytest.raises(DraftModelError, match=message):
            engine_on(device, draft=sized(max_len=63))
        engine_on(device, draft=sized(max_len=65)).pipeline.close()


def test_draft_model_on_another_device_is_refused() -> None:
    """With what to do about it."""
    drafter = ChainDrafter(sized().to("meta"))
    with pytest.raises(DraftModelError, match=r"on meta and the target model on cpu; .*draft\.to"):
        drafter.allocate(TINY, 2, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draft": 0}, "num_draft=0 is below 1; use Engine"),
        ({"plan": "early"}, "plan='early' is unknown; use one of 'targeted', 'whole_draft', 'off'"),
        ({"host_lengths": "auto"}, "host_lengths='auto' is unknown; use one of 'exact', 'none'"),
        ({"max_running": 0}, "max_running=0 is below 1"),
        ({"model": sized(vocab=128)}, "the model has vocab=128"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    """Before any stream is opened."""
    with open_device("cpu") as device:
        with pytest.raises(ValueError, match=message):
            engine_on(device, **options)
        assert device.streams == ()


# The model that we ship ------------------------------------------------------------------


def test_shipped_draft_is_small_goes_with_the_model_and_says_where_it_comes_from() -> None:
    """Below a megabyte, and with how often it agrees with the model on text that neither saw."""
    assert DRAFT.stat().st_size < 1_000_000
    ChainDrafter(load_draft()).allocate(load_model().config, 1, CPU)
    with safe_open(DRAFT, framework="pt") as file:
        [facts] = json.loads(file.metadata()["runs"])
    assert facts["agreement"] > 0.7
    assert facts["text_sha256"]


# Texts that repeat themselves --------------------------------------------------------------


def drafted(text: list[int], ngram: int, num_tokens: int) -> list[int]:
    """Let a lookup draft behind a text, the last token of which is not kept yet."""
    drafter = LookupDrafter(ngram)
    drafter.allocate(TINY, 2, CPU)
    drafter.prefill(table_of(2, 0, text[:-1]))
    lengths = torch.tensor([len(text) - 1])
    cells = Cells(torch.zeros(2, 1, num_tokens, dtype=torch.int64))
    start = DraftStart(table_of(2, 0, []), lengths, torch.tensor(text[-1:]), cells, False)
    return drafter.draft(start, num_tokens)[0].tolist()


def table_of(slot: int, start: int, tokens: list[int]) -> StepTable:
    """Make the table of one row."""
    row = [slot, start, len(tokens), slot, 0, 0, *tokens]
    return StepTable(torch.tensor([row]))


def test_lookup_continues_the_latest_place_where_the_last_tokens_stood() -> None:
    """Of two places the later one, and of a longer repetition all that follows."""
    assert drafted([1, 2, 3, 7, 8, 1, 2, 3, 5, 6, 1, 2, 3], 3, 4) == [5, 6, 1, 2]


def test_lookup_drafts_nothing_behind_the_text() -> None:
    """What follows the place may run into the end, of which the last token is repeated."""
    assert drafted([4, 1, 2, 1, 2], 2, 4) == [1, 2, 2, 2]


def test_lookup_of_no_tokens_is_refused() -> None:
    """It would match everywhere."""
    with pytest.raises(ValueError, match="ngram=0 is below 1"):
        LookupDrafter(0)


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("num_tokens", [2, 5])
def test_logits_depend_on_no_guess_and_on_no_place_in_the_batch(
    num_rows: int, num_tokens: int
) -> None:
    """The same bits one by one, and several at once behind guesses: why drafts change no text."""
    model, text = rigged(), [1 + place % 10 for place in range(20)]
    alone = scores(model, text, num_rows, num_tokens, row=0, taken=1, guess=3)
    for taken in range(1, num_tokens + 1):
        row = taken % num_rows
        assert torch.equal(scores(model, text, num_rows, num_tokens, row, taken, taken), alone)


def scores(
    model: ByteTransformer,
    text: list[int],
    num_rows: int,
    num_tokens: int,
    row: int,
    taken: int,
    guess: int,
) -> Tensor:
    """Read a text, so many tokens at a time, in batches of one shape that guesses fill up."""
    cache, logits = KVCache(model.config, num_rows), []
    slots = torch.arange(1, num_rows + 1)
    for start in range(0, len(text), taken):
        tokens = torch.full((num_rows, num_tokens), guess)
        part = torch.tensor(text[start : start + taken])
        tokens[row, : len(part)] = part
        positions = (start + torch.arange(num_tokens)).expand(num_rows, -1)
        owners = slots[:, None].expand(-1, num_tokens)
        scored = model.score(tokens, owners, positions.contiguous(), slots, cache)
        logits.append(scored[row, : len(part)])
    return torch.cat(logits)
