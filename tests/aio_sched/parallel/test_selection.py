"""Which group ranks exchange through."""

import pytest

from aio_sched.parallel import InProcessRanks, RankGroupMissingError, RankSync, choose_group

HOST, DEVICE = InProcessRanks(2).groups


@pytest.mark.parametrize(
    ("rank_sync", "overlap", "chosen"),
    [
        ("host", True, HOST),
        ("host", False, DEVICE),
        ("device", True, DEVICE),
        ("device", False, DEVICE),
        ("skip", True, None),
        ("skip", False, None),
    ],
)
def test_group_follows_configuration_and_overlap(
    rank_sync: RankSync, overlap: bool, chosen: object
) -> None:
    """The device's group serves where it is asked for, and wherever nothing overlaps."""
    assert choose_group(rank_sync, overlap=overlap, host=HOST, device=DEVICE) is chosen


def test_missing_groups_are_named() -> None:
    """A group that must be used and is not there is an error, not another group."""
    with pytest.raises(RankGroupMissingError, match="takes the device's group"):
        choose_group("device", host=HOST)
    with pytest.raises(RankGroupMissingError, match="overlap=False takes the device's group"):
        choose_group("host", overlap=False, host=HOST)
    with pytest.raises(RankGroupMissingError, match="takes the host's group"):
        choose_group("host", device=DEVICE)
    with pytest.raises(ValueError, match="rank_sync='nccl' is unknown"):
        choose_group("nccl")  # type: ignore[arg-type]  # that is the point
