"""The shelf: which networks lie on the device, and which wait in the machine's memory, within a budget.

In: networks with their bytes. Out: those that are asked for are on the device. On disk: nothing.

What was asked for longest ago makes room. On a CPU nothing moves. A network moves as it is: its numbers stay the same.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gen.model.folder import ModelError
from shards.disk.amounts import size_text

CPU = "cpu"


class Movable(Protocol):
    """What a shelf needs of a torch module."""

    def to(self, where: str) -> object:
        """Its weights, elsewhere."""


def moved(network: Movable, where: str) -> None:
    """The network, there from now on."""
    network.to(where)


class Shelf:
    """Owns where networks lie; one thread uses it."""

    def __init__(self, device: str, budget_bytes: int | None, move: Callable[[Movable, str], None] = moved) -> None:
        """`budget_bytes` of weights on the device at most; None: all of them stay there."""
        self._to = move
        self.device = device
        self._budget = budget_bytes
        self._groups: dict[str, tuple[Sequence[Movable], int]] = {}
        self._there: OrderedDict[str, None] = OrderedDict()  # names of groups, the longest unused first

    def put(self, name: str, networks: Sequence[Movable], num_bytes: int, is_there: bool = False) -> None:
        """A group of networks that work together; `is_there`: on the device already. Raises ModelError for one that is
        larger than the budget."""
        if self.device == CPU:
            return
        if self._budget is not None and num_bytes > self._budget:
            raise ModelError(
                f"edit.editor.device_gib: found {size_text(self._budget)}, expected at least {size_text(num_bytes)}, "
                f"the weights of {name} that work at the same time; raise it"
            )
        self._groups[name] = (networks, num_bytes)
        if is_there:
            self._there[name] = None

    def bring(self, name: str) -> None:
        """The group onto the device. What was unused longest leaves it for as long as both have no room."""
        if self.device == CPU:
            return
        if name not in self._there:
            num_bytes = self._groups[name][1]
            while self._budget is not None and self._held() + num_bytes > self._budget:
                oldest, _ = self._there.popitem(last=False)
                self._move(oldest, CPU)
            self._move(name, self.device)
            self._there[name] = None
        self._there.move_to_end(name)

    def bring_before(self, name: str, network: Any, calls: Sequence[str] = ()) -> None:
        """From now on each call of the network brings its group first: its forward, or its methods `calls`."""
        if self.device == CPU:
            return
        if not calls:
            network.register_forward_pre_hook(lambda *told: self.bring(name))
        for call in calls:
            setattr(network, call, self._after_bringing(name, getattr(network, call)))

    def _after_bringing(self, name: str, call: Any) -> Any:
        def brought(*args: Any, **settings: Any) -> Any:
            self.bring(name)
            return call(*args, **settings)

        return brought

    def _held(self) -> int:
        return sum(self._groups[name][1] for name in self._there)

    def _move(self, name: str, where: str) -> None:
        for network in self._groups[name][0]:
            self._to(network, where)


def bytes_of(networks: Sequence[Any]) -> int:
    """Of parameters and buffers of torch modules; what several share counts once."""
    held = {id(tensor): tensor.nbytes for one in networks for tensor in (*one.parameters(), *one.buffers())}
    return sum(held.values())
