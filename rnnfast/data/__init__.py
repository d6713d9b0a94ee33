"""From data as it comes to arrays that layers take: ragged lists, long series, episodes, missing values, scales.

Sequences of different lengths become a batch in one of two ways.

- `pad` gives each a row of its own and says where the rows end. `Batches` puts sequences of similar lengths together
  (`bucketed`), so little is padded.
- `pack` lays several sequences end to end in one row; `resets` says where each begins. Only the ends of rows are
  padded, however the lengths of a batch differ, so batches may be any mixture.

They are about as fast, and faster than padded rows in random order.

Both give each sequence the same bits as a call of its own.

Arrays are time-major, `[T, B, ...]`, unless `batch_first` says otherwise. They are NumPy's, on the host.

Rejected: a data set class of our own (a list of arrays is one); padding values that mean "nothing" (`lengths` says it);
threads that prepare batches (taking rows of an array costs a thousandth of a step).
"""

from __future__ import annotations

from .batches import Batch, Batches
from .missing import Filled, fill_missing, time_since
from .ragged import Packed, Padded, bucketed, pack, pad
from .scale import Standardizer
from .series import from_dones, windows

__all__ = [
    "Batch",
    "Batches",
    "Filled",
    "Packed",
    "Padded",
    "Standardizer",
    "bucketed",
    "fill_missing",
    "from_dones",
    "pack",
    "pad",
    "time_since",
    "windows",
]
