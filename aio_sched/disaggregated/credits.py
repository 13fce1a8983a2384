"""How many requests may be on their way to the decode side: pure, no torch, no device, no await."""

__all__ = ["Credits"]


class Credits:
    """Places that the decode side has promised, each held by one request at a time.

    A request takes its place before its prefill begins, so that what was prefilled always has
    somewhere to go, and gives it back when it has ended on whichever side it was.

    Attributes:
        num_granted: places that there are.
    """

    def __init__(self) -> None:
        self.num_granted = 0
        self._holders: set[int] = set()

    def __repr__(self) -> str:
        return f"<Credits {self.num_left} of {self.num_granted} left>"

    @property
    def num_left(self) -> int:
        """Places that nobody holds; 0 also if more are held than granted."""
        return max(0, self.num_granted - len(self._holders))

    @property
    def holders(self) -> frozenset[int]:
        """The requests that hold a place."""
        return frozenset(self._holders)

    def grant(self, number: int) -> None:
        """Set how many places there are; fewer than before take none from a holder.

        Raises:
            ValueError: a negative number.
        """
        if number < 0:
            raise ValueError(f"{number} places cannot be granted; give 0 or more")
        self.num_granted = number

    def take(self, request_id: int) -> None:
        """Give a place to a request.

        Raises:
            ValueError: it holds one already.
            RuntimeError: none is left; ask ``num_left`` before.
        """
        if request_id in self._holders:
            raise ValueError(f"request {request_id} holds a place already")
        if not self.num_left:
            raise RuntimeError(
                f"request {request_id} finds all {self.num_granted} places held; ask num_left"
            )
        self._holders.add(request_id)

    def give_back(self, request_id: int) -> None:
        """Take the place of a request back, if it holds one."""
        self._holders.discard(request_id)
