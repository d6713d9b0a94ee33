"""The oracle: recurrent layers, heads, losses and truncated BPTT in plain NumPy, float64.

Every fast path of rnnfast is tested against this package, and this package is tested against finite differences,
formulas written by hand, and numbers worked out by hand. So it is written to be read: one loop over time, the cell's
own step forward, its program backward, and nothing that is there for speed. It needs NumPy and `rnnfast.description`,
which says what a cell is, and never calls the rest of rnnfast. Anyone may import it: to check a kernel of their own, or
to see what a gate does.

Notation (the same as in ``docs/dev/glossary.md``)
    ``T`` steps, ``B`` rows, ``I`` input size, ``H`` hidden size, ``G`` gates, ``D`` directions, ``L`` layers;
    ``x[T, B, I]``, ``y[T, B, H]``, states ``[B, H]``. At step ``t``, ``x_t`` comes in, ``h_prev`` is the state before
    the step, ``h`` the state after it. ``dz`` is dLoss/dz. ``a = W x_t + b_ih`` is the input's share of the gates,
    ``[B, G*H]``, in PyTorch's gate order: LSTM ``i, f, g, o``; GRU ``r, z, n``. The *states* of a cell are a tuple,
    ``(h,)``, ``(h, c)`` or longer, wherever one step hands them to the next; the first is what ``y`` shows.

Where to read
    ``rnnfast/description/cells``: the formulas. ``cells.py``: a step on arrays. ``interpreter.py``: what a program is,
    and the step backward. ``layer.py``: the loop over time, and what masks mean. ``stack.py``: layers and directions.
    ``random.py``: the masks' random numbers. ``heads.py``, ``losses.py``: what stands on top. ``tbptt.py``: training by
    windows, by its definition. ``online.py``: training while a sequence runs.

Rejected
    Derivatives by hand: written for six cells they were the better check, so they live on in the tests; for cells that
    users write there are none. A second differentiation, for the oracle alone: finite differences are independent.
    Products over all time steps at once: faster, but then padding has to be masked out of them, and masks are what
    this package is to define. Indexing weights by ids: a one-hot row per step is the definition. Float32: the oracle's
    own error must not matter.
"""

from __future__ import annotations

from .activations import ACTIVATIONS, Activation, relu, sigmoid, softmax
from .arguments import lengths_mask, one_hot
from .cells import CELLS
from .heads import DenseGradients, DenseResult, dense_backward, dense_forward
from .layer import Gradients, Result, Step, backward, forward
from .losses import LOSSES, binary_cross_entropy, huber, mean_absolute_error, mean_squared_error, softmax_cross_entropy
from .online import OnlineResult, online_reference
from .stack import StackGradients, StackResult, stack_backward, stack_forward
from .tbptt import TbpttWindow, tbptt_reference
from .testing import init_params, init_stack_params, numerical_gradient

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "LOSSES",
    "Activation",
    "DenseGradients",
    "DenseResult",
    "Gradients",
    "OnlineResult",
    "Result",
    "StackGradients",
    "StackResult",
    "Step",
    "TbpttWindow",
    "backward",
    "binary_cross_entropy",
    "dense_backward",
    "dense_forward",
    "forward",
    "huber",
    "init_params",
    "init_stack_params",
    "lengths_mask",
    "mean_absolute_error",
    "mean_squared_error",
    "numerical_gradient",
    "one_hot",
    "online_reference",
    "relu",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "stack_backward",
    "stack_forward",
    "tbptt_reference",
]
