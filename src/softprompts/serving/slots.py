"""Keys and values of a batch's rows, in one slot per row with room to grow, so that no step copies all of them.

Transformers' `DynamicCache` copies all keys and values at each step. Here a step writes only those of one token, a new
row writes its own, and the last row moves to the place of a row that leaves.

Letters in shapes: B rows, G groups of heads that share keys and values, W columns, D numbers of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softprompts.engine.kv_cache import States

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

COLUMNS = 64  # a tensor grows by this number of columns


class Slots:
    """The slots. Row b has its tokens in the columns 0 to `lengths[b]` - 1; the columns after them are unused.

    Transformers' models read and write `cache`, one token of every row at a time. Then `written` must be called.
    """

    def __init__(self, like: States) -> None:
        """Begin without rows; `like` has keys and values of each layer, (B, G, W, D) with any B and W."""
        self.lengths: list[int] = []
        self._layers = [_Layer(self, keys, values) for keys, values in like]
        self.cache = Cache(layers=list(self._layers))

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return max(self.lengths, default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, including free ones."""
        return sum(tensor.nbytes for layer in self._layers for tensor in layer.tensors)

    def read_next(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for one more token per row; return the tokens' positions (B,) and the attention mask (B, W)."""
        self._make_room(len(self.lengths), self.width + 1)
        self.places = torch.tensor(self.lengths, device=device)
        return self.places, torch.arange(self.width + 1, device=device) <= self.places[:, None]

    def written(self) -> None:
        """Count the token of every row that the model has written into the cache."""
        self.lengths = [length + 1 for length in self.lengths]

    def add(self, states: States, row: int, stretches: Sequence[slice]) -> None:
        """Copy one row of `states` into the next free slot: these stretches of its columns, without gaps."""
        length = sum(stretch.stop - stretch.start for stretch in stretches)
        self._make_room(len(self.lengths) + 1, length)
        for layer, pair in zip(self._layers, states, strict=True):
            for slots, tensor in zip(layer.tensors, pair, strict=True):
                torch.cat(
                    [tensor[row, :, stretch] for stretch in stretches], 1, out=slots[len(self.lengths), :, :length]
                )
        self.lengths.append(length)

    def remove(self, row: int) -> None:
        """Free a slot; the last row moves there. A free slot has zeros, because a NaN would pass through a mask."""
        length, last = self.lengths.pop(), len(self.lengths)
        if row != last:
            self.lengths[row] = length
        for layer in self._layers:
            for slots in layer.tensors:
                slots[row] = slots[last]
                slots[last] = 0

    def _make_room(self, rows: int, columns: int) -> None:
        """Move all rows to new tensors if the present ones are too small, or far too large."""
        columns = -(-max(columns, self.width) // COLUMNS) * COLUMNS
        has_rows, has_columns = self._layers[0].tensors[0].shape[0], self._layers[0].tensors[0].shape[2]
        if rows <= has_rows and columns <= has_columns <= 2 * columns:
            return
        rows = 1 << (rows - 1).bit_length()  # may be fewer than before, so that longer rows fit into the same memory
        for layer in self._layers:
            layer.tensors = [self._moved(slots, rows, columns) for slots in layer.tensors]

    def _moved(self, slots: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        room = slots.new_zeros(rows, slots.shape[1], columns, slots.shape[3])
        held = len(self.lengths)
        room[:held, :, : self.width] = slots[:held, :, : self.width]
        return room


class _Layer(CacheLayerMixin):
    """The slots of one layer, as transformers' models read and write them."""

    def __init__(self, slots: Slots, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.is_initialized = True
        self.slots = slots
        # Views with no row and no column: they keep the type, the device and the sizes of a head.
        self.tensors = [tensor.new_empty(0, tensor.shape[1], 0, tensor.shape[3]) for tensor in (keys, values)]

    def lazy_initialization(self, *_: Any) -> None:
        """Do nothing, because the tensors exist already."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Write keys and values (B, G, 1, D) of the next token of each row; return all, (B, G, W, D)."""
        rows, width = len(key_states), self.slots.width + 1
        numbers = torch.arange(rows, device=key_states.device)
        found = []
        for tensor, new in zip(self.tensors, (key_states, value_states), strict=True):
            tensor[numbers, :, self.slots.places] = new[:, :, 0]
            found.append(tensor[:rows, :, :width])
        return tuple(found)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns after the next token of each row, and the first column."""
        return self.slots.width + query_length, 0

    def get_seq_length(self) -> int:
        """Return the columns of the longest row."""
        return self.slots.width

    def get_max_length(self) -> int:
        """Return -1, which means no limit."""
        return -1
