"""What the stream of a model is made of: its parts as a list of works on values, one after the other.

A value is the input, number 0, or what a work gives: work k gives value k + 1. Layers bring their own streams, which
hold their states and weights; of heads and embeddings it is the packed, or copied, weights of one moment.

Rejected: a chain of streams called from Python (0.2 us and an array for each part); pooling and layer normalisation
in streams (the one needs a sequence's end, the other has no kernel).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from . import _checks
from ._checks import Array
from ._device import HOST
from ._graph import Graph, Node
from ._part import panels_of
from ._words import StreamWeights
from .embedding import Embedding
from .heads import Dense
from .layers import Recurrent
from .parameters import Parameters
from .parts import Add, Concat, Dropout

__all__ = ["ModelStreamSpec", "StreamWork", "make_spec"]


class StreamWork(NamedTuple):
    """One part of a model's stream.

    Attributes
    ----------
    name : str
    kind : {"layer", "head", "lookup", "sum", "join"}
    sources : tuple of int
        The values that it reads.
    width : int
        The features that it gives.
    stream : Stream or None
        Of a layer.
    kernel : _core.Dense or None
        Of a head.
    weights : ndarray or None
        A head's panels; the rows that are looked up.
    """

    name: str
    kind: str
    sources: tuple[int, ...]
    width: int
    stream: Any = None
    kernel: Any = None
    weights: Array | None = None


class ModelStreamSpec(NamedTuple):
    """What a stream of a model is made of.

    Attributes
    ----------
    works : list of StreamWork
    outputs : dict from str to int
        Names and values.
    single : bool
        Whether the caller gets an array.
    input_size, batch_size : int
    reads : {"ids", "either", "real"}
        What the input may be.
    dtype : numpy.dtype
    weights : str
        How the layers' weights are stored.
    batch_first : bool
    params : Parameters
    version : int
        The version of `params` that the weights were taken from.
    """

    works: list[StreamWork]
    outputs: dict[str, int]
    single: bool
    input_size: int
    batch_size: int
    reads: str
    dtype: np.dtype[Any]
    weights: str
    batch_first: bool
    params: Parameters
    version: int


def make_spec(
    graph: Graph,
    params: Parameters,
    batch: int,
    weights: StreamWeights | None,
    num_threads: int | None,
    batch_first: bool,
    streams: Mapping[str, Any] | None = None,
    logits: bool = False,
) -> ModelStreamSpec:
    """The works of a model, with its weights of this moment; of layers new streams, or these.

    With `logits`, heads whose outputs are the model's skip their activations.

    Raises
    ------
    TypeError, ValueError
        A part can't be in a stream, or the model has several inputs, or layers that begin with others' states.
    """
    if graph.inputs != ("x",):
        raise ValueError(f"stream: expected a model of one input, got {', '.join(graph.inputs)}")
    if params.device is not HOST:
        raise ValueError(f"stream: expected a model on the host, got one on {params.device}; its layers have streams")
    numbers, works = {"x": 0}, []
    with params.store.reading():
        for node in graph.nodes:
            sources = tuple(numbers[value] for value in node.sources)
            if isinstance(node.part, Dropout):  # which does nothing outside of training
                numbers[node.name] = sources[0]
                continue
            stream = None if streams is None else streams.get(node.name)
            plain = logits and node.name in graph.outputs
            works.append(_work(node, sources, graph.sizes[node.name], batch, weights, num_threads, stream, plain))
            numbers[node.name] = len(works)
        version = params.version
    first = next((work.stream for work in works if work.stream is not None), None)
    if first is None:
        raise ValueError("stream: expected a model with a recurrent layer, got none")
    outputs = {name: numbers[name] for name in graph.outputs}
    if 0 in outputs.values():
        raise ValueError("stream: expected outputs that depend on a part, got one that is the input")
    return ModelStreamSpec(
        works,
        outputs,
        graph.single,
        graph.sizes["x"],
        batch,
        graph.reads_ids["x"],
        params.dtype,
        first.weights,
        batch_first,
        params,
        version,
    )


def _work(
    node: Node,
    sources: tuple[int, ...],
    width: int,
    batch: int,
    weights: StreamWeights | None,
    num_threads: int | None,
    stream: Any,
    plain: bool,
) -> StreamWork:
    part, name = node.part, node.name
    if isinstance(part, Recurrent):
        if node.begins is not None:
            raise ValueError(f"stream: expected layers with states of their own, got {name}, begun by {node.begins}")
        if part._recurrence.layout.program.given:
            raise ValueError(f"stream: expected layers without extra inputs, got {name}; it has a stream of its own")
        if stream is None:
            stream = part.stream(batch, weights=weights, num_threads=num_threads)
        return StreamWork(name, "layer", sources, width, stream)
    if isinstance(part, Dense):
        _checks.elements(batch * width, batch_size=batch, output_size=width)
        panels = panels_of([part._packed])[1][0]
        kernel = part._packed.kernel
        if plain and part.activation != "identity":  # whose panels are the same
            kernel = HOST.dense(part.input_size, width, part.dtype, part.precision, "identity")
        return StreamWork(name, "head", sources, width, kernel=kernel, weights=panels)
    if isinstance(part, Embedding):
        return StreamWork(name, "lookup", sources, width, weights=np.array(part.params["weight"]))
    if isinstance(part, Add | Concat):
        return StreamWork(name, "sum" if isinstance(part, Add) else "join", sources, width)
    raise ValueError(
        f"stream: expected layers, Dense, Embedding, Dropout, Add and Concat, got {name}, a {type(part).__name__}"
    )
