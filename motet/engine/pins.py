"""Pins on adapters and routed sets, and those who wait until theirs has taken effect.

Owns: which pins there are, by what was named; a set's pin is one on each of its members.
Does not know: whether something may be pinned (`scheduler/`), nor who brings it in.
"""

from collections import Counter
from collections.abc import Callable

from motet.core.messages import AdapterPinned, AdapterRefused, FromEngine, PinAdapter
from motet.memory.residency import AdapterResidency


class AdapterPins:
    """Pins by the digest that was named.

    Args:
        residency: counts the pins of each adapter.
        send: takes the messages to the API process.
    """

    def __init__(self, residency: AdapterResidency, send: Callable[[FromEngine], None]) -> None:
        self._residency = residency
        self._send = send
        self._held: Counter[str] = Counter()
        self._awaited: list[PinAdapter] = []

    def pin(self, message: PinAdapter) -> None:
        """Have an adapter or a whole set stay once it is there; answered when it is."""
        self._held[message.digest] += 1
        for digest in self._residency.adapters(message.digest):
            self._residency.pin(digest)
        self._awaited.append(message)
        self.answer()

    def unpin(self, digest: str) -> None:
        """Take one pin back, if there is any."""
        if digest not in self._held:
            return
        self._held[digest] -= 1
        if self._held[digest] == 0:
            del self._held[digest]
        for each in self._residency.adapters(digest):
            self._residency.unpin(each)

    def answer(self) -> None:
        """Tell those who wait for something that has come to the device as a whole."""
        awaited, self._awaited = self._awaited, []
        for pin in awaited:
            if all(map(self._residency.is_resident, self._residency.adapters(pin.digest))):
                self._send(AdapterPinned(pin.operation_id))
            else:
                self._awaited.append(pin)

    def give_up(self, digest: str, code: str, message: str) -> bool:
        """Take back all pins that need an adapter which does not come, or goes.

        Args:
            digest: the adapter, or a set; known until this is done.
            code, message: the refusal for those who wait.

        Returns:
            Whether there were any.
        """
        lost = [named for named in self._held if digest in self._residency.adapters(named)]
        for named in lost:
            while named in self._held:
                self.unpin(named)
        awaited, self._awaited = self._awaited, []
        for pin in awaited:
            if digest in self._residency.adapters(pin.digest):
                self._send(AdapterRefused(pin.operation_id, code, message))
            else:
                self._awaited.append(pin)
        return bool(lost)
