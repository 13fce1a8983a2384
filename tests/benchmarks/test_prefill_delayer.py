"""The benchmarks of the prefill delayer: they serve everything, and measure what they say."""

import pytest

from aio_sched.parallel.delayer import DelayerLimits
from benchmarks import prefill_delayer, prefill_delayer_engines
from benchmarks.prefill_delayer import VARIANTS, Load

FEW = Load(ranks=2, rate=20.0, requests=6, text=16)


def test_same_seed_gives_the_same_figures() -> None:
    """Virtual time: nothing depends on how fast this machine is."""
    assert prefill_delayer.serve(FEW, VARIANTS["on"], 3) == prefill_delayer.serve(
        FEW, VARIANTS["on"], 3
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_serves_all(name: str) -> None:
    """No request is lost, whatever is refused; without a delayer nothing is."""
    figures = prefill_delayer.serve(FEW, VARIANTS[name], 0)
    assert figures.tokens_per_s > 0
    assert name != "off" or figures.refused == 0


def test_refusals_cost_time_to_the_first_token() -> None:
    """Prompts that come one by one wait in vain, up to the limit."""
    trickle = Load(ranks=2, rate=2.0, requests=8)
    off, on = (prefill_delayer.serve(trickle, VARIANTS[name], 0) for name in ("off", "on"))
    assert on.refused > 0
    assert on.ttft_p50_ms > off.ttft_p50_ms


def test_engines_serve_all_with_and_without_a_delayer() -> None:
    """The real engines run in step, and the delayer refuses some of their prefills."""
    on = DelayerLimits(8, enabled=True)
    figures = [
        prefill_delayer_engines.serve(2, 20.0, 4, limits, 2) for limits in (DelayerLimits(8), on)
    ]
    assert figures[0].refused == 0 < figures[1].refused


def test_main_prints_a_row_per_variant(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people."""
    arguments = ["--seeds", "1", "--ranks", "2", "--rates", "20", "--requests", "3"]
    assert prefill_delayer.main(arguments) == 0
    printed = capsys.readouterr().out
    for name in VARIANTS:
        assert f"│ {name} " in printed
