"""A list of layers of one class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

LayerT = TypeVar("LayerT", bound=nn.Module)


class LayerList(nn.ModuleList, Generic[LayerT]):
    """An `nn.ModuleList` whose layers are all of one class, so that type checkers know their methods.

    It behaves as `nn.ModuleList`, with the same names in the state dict.
    """

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[LayerT]) -> None: ...

        def __iter__(self) -> Iterator[LayerT]: ...

        @overload
        def __getitem__(self, idx: slice) -> LayerList[LayerT]: ...

        @overload
        def __getitem__(self, idx: int) -> LayerT: ...

        def __getitem__(self, idx: int | slice) -> LayerT | LayerList[LayerT]: ...
