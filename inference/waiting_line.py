"""Who waits for the model: first come, first served, and everybody can see how many come before."""

import asyncio


class WaitingLine:
    """The places in their order; whoever stands first has the turn.

    A place is an event, which is set whenever somebody ahead of it has left.
    """

    def __init__(self) -> None:
        self._places: list[asyncio.Event] = []

    def join(self, place: asyncio.Event) -> None:
        """Add the place at the end."""
        self._places.append(place)

    def ahead(self, place: asyncio.Event) -> int:
        """Return how many come before `place`."""
        return self._places.index(place)

    def leave(self, place: asyncio.Event) -> None:
        """Give the place up, wherever it is; those behind it move up."""
        index = self._places.index(place)
        del self._places[index]
        for behind in self._places[index:]:
            behind.set()
