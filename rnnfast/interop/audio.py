"""Models of guitar amplifiers and effects: RTNeural's JSON, AIDA-X's, GuitarML's, and Neural Amp Modeler's `.nam`.

All four are JSON, and what a file is shows in its names. Layouts, each as its own reader has it:

- "rtneural": RTNeural's `model_loader.h` (commit 96119da), written by its `python/model_utils.py` out of Keras:
  ``in_shape``, and ``layers`` of ``type``, ``activation``, ``shape`` and ``weights``, the latter as Keras has them:
  kernels [in, out], gates i, f, c, o of an LSTM and z, r, h of a GRU, whose biases [2, 3*H] are those of `reset_after`.
- "aida-x": the same with ``in_skip``, ``in_gain`` and ``out_gain`` (decibels) and ``samplerate``, as the plug-in
  aidadsp-lv2 reads them: the input times its gain goes through the layers, is added to what comes out if there is a
  skip, and the sum is multiplied by the output's gain.
- "guitarml": ``model_data`` and the ``state_dict`` of the class SimpleRNN of CoreAudioML (Automated-GuitarAmpModelling,
  GuitarML's Proteus and others): PyTorch's names under ``rec.`` and ``lin.``, and ``skip``, how many channels of the
  input are added to the output.
- "nam": architecture "LSTM" of Neural Amp Modeler, files of version 0.5 (NeuralAmpModelerCore, `lstm.cpp`): one flat
  list, of each layer the matrix [4*H, in + H] of both sides, the bias, h and c to begin with; then the head's matrix
  and bias. Several outputs (``out_channels``) are of newer versions.

A model is an `AudioModel`: a `Model` of layers and heads with what these formats have around it.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _checks, heads, layers
from .._checks import Array
from .._part import Part
from ..checkpoint import write_atomically
from ..description.cells.elman import Elman
from ..description.cells.gru import GRU
from ..description.cells.lstm import LSTM
from ..model import Model
from ..parts import Dropout
from ._build import filled, finite, unique
from ._keras_layout import GATES, from_layout, to_layout

__all__ = ["FORMATS", "AudioModel", "load", "save"]


@dataclass
class AudioModel:
    """A model over samples, with what audio formats have around it; it can run as a stream.

    ::

        u = input_gain * x
        y = output_gain * (model(u) + u[..., :skip])

    Parameters
    ----------
    model : Model
        Layers and heads in a row.
    skip : int, optional
        How many channels of the input are added to the output: 0, or all of the output's.
    input_gain, output_gain : float, optional
        Factors, not decibels.
    sample_rate : float, optional
        What it was trained at.
    state : mapping, optional
        The state to begin with, by the names of the layers, each for one row; zeros by default.
    metadata : dict, optional
        What else a file says.

    Attributes
    ----------
    origin : str or None
        Where it came from.

    Raises
    ------
    TypeError, ValueError
        An argument is of a wrong kind or range.

    Examples
    --------
    >>> model = rnnfast.Model(lstm=rnnfast.LSTM(1, 20, rng=0), dense=rnnfast.Dense(20, 1, rng=0))
    >>> amplifier = AudioModel(model, skip=1)
    >>> amplifier.process(np.zeros(64, np.float32)).shape
    (64,)
    """

    model: Model
    skip: int = 0
    input_gain: float = 1.0
    output_gain: float = 1.0
    sample_rate: float | None = None
    state: Mapping[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.model, Model):
            raise TypeError(f"model: expected a Model, got {_checks.describe(self.model)}")
        if not self.model.is_chain:
            raise ValueError(
                "model: expected one in which each part reads the one before alone, got other inputs or ties"
            )
        self.skip = _checks.integer("skip", self.skip, 0)
        if self.skip not in (0, self.output_size) or self.skip > self.input_size:
            sizes = f"{self.input_size} channels in and {self.output_size} out"
            raise ValueError(f"skip: expected 0, or all channels of the output, with {sizes}, got {self.skip}")
        self.input_gain = _checks.number("input_gain", self.input_gain)
        self.output_gain = _checks.number("output_gain", self.output_gain)
        self.state = None if self.state is None else self._checked_state()
        self.origin: str | None = getattr(self.model, "origin", None)
        self._stream: Any = None

    def _checked_state(self) -> dict[str, Any]:
        """The first states, for one row, each of which fits its layer."""
        given = dict(_checks.mapping("state", self.state))
        self.model(np.zeros((0, self.input_size), self.model.dtype), given)  # which refuses what does not fit
        return given

    @property
    def input_size(self) -> int:
        """The channels that go in."""
        return int(self.model.input_size)

    @property
    def output_size(self) -> int:
        """The channels that come out."""
        return int(self.model._graph.sizes[self.model.outputs[0]])

    def __call__(self, x: ArrayLike) -> Array:
        """The output of a whole signal, from the state to begin with; a stream is left as it is.

        Parameters
        ----------
        x : array_like, shape [T, channels], or [T] of one channel

        Returns
        -------
        ndarray, shape [T, channels], or [T] if `x` has no axis for channels and the output has one
        """
        return self._around(x, lambda u: self.model(u, self.state)[0])

    def process(self, block: ArrayLike) -> Array:
        """The output of the next samples; the state goes on from block to block, whatever their lengths.

        With the weights at the first call after `reset`.

        Parameters
        ----------
        block : array_like, shape [T, channels], or [T] of one channel

        Returns
        -------
        ndarray, shape [T, channels], or [T] if `block` has no axis for channels and the output has one
        """
        return self._around(block, self._through)

    def reset(self) -> None:
        """Begin anew, from the state to begin with and the weights of this moment."""
        self._stream = None

    def _around(self, x: ArrayLike, run: Callable[[Array], Array]) -> Array:
        samples = _checks.numbers("x", x)
        bare = samples.ndim == 1
        if bare and self.input_size == 1:
            samples = samples[:, None]
        if samples.ndim != 2 or samples.shape[1] != self.input_size:
            raise ValueError(f"x: expected [T, {self.input_size}], got {_checks.describe(samples)}")
        u = _checks.real("x", samples, self.model.dtype, contiguous=True)
        if self.input_gain != 1:
            u = u * u.dtype.type(self.input_gain)
        y = run(u)
        if self.skip:
            y = y + u[:, : self.skip]
        if self.output_gain != 1:
            y = y * y.dtype.type(self.output_gain)
        return y[:, 0] if bare and self.output_size == 1 else y

    def _through(self, u: Array) -> Array:
        if not any(isinstance(part, layers.Recurrent) for part in self.model.parts.values()):
            return np.asarray(self.model(u)[0])  # there is nothing to carry
        if self._stream is None:
            stream = self.model.stream(num_threads=1)
            if self.state is not None:
                stream.state = {**stream.state, **self.state}
            self._stream = stream
        return np.asarray(self._stream.process(u))


def as_audio(model: Any) -> AudioModel:
    """A model, layer or head as an `AudioModel`; of the latter two a copy, since models take their parts in."""
    if isinstance(model, layers.Recurrent | heads.Dense):
        part: Any = layers.from_config(model.config())
        part.load({name: model.params.device.to_host(value) for name, value in model.params.copy().items()})
        model = Model(part=part)
    return model if isinstance(model, AudioModel) else AudioModel(model)


def acting(model: Model) -> dict[str, Any]:
    """The parts that do something outside of training."""
    parts = copy.deepcopy(model).parts  # all of one version, whatever other threads write
    return {name: part for name, part in parts.items() if not isinstance(part, Dropout)}


# What is in a file ----------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """What a reader has found and checked, before anything is built."""

    parts: Sequence[
        tuple[str, Callable[..., Any], Mapping[str, Any], dict[str, Array]]
    ]  # name, class, options, weights
    around: dict[str, Any]  # of AudioModel
    version: str


def load(path: str | os.PathLike[str], *, dtype: DTypeLike = np.float32) -> AudioModel:
    """Read a model of RTNeural, AIDA-X, GuitarML or Neural Amp Modeler.

    Parameters
    ----------
    path : path-like
        A JSON file of one of the formats in the module's docstring; which one shows in what is in it.
    dtype : dtype-like, optional
        Of the model: float32 or float64.

    Returns
    -------
    AudioModel
        With an `origin`; so has its model.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        The file is truncated or none of these, has a layer of another kind, or weights that do not fit or are not
        finite: which layer. Nothing has been built then.
    """
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"path: expected a file of an audio model, but {path} {what}")
    kind = _checks.float_dtype("dtype", dtype)
    try:
        document = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: truncated, damaged, or not JSON: {error}") from error
    try:
        found = _READERS[_format_of(document)](document)
        origin = f"{path.name}, {found.version}"
        return _built(found, kind, origin)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"expected finite numbers, got {text}")


def _format_of(document: Any) -> str:
    document = _object("the file", document)
    for key, name in (("architecture", "nam"), ("model_data", "guitarml"), ("layers", "rtneural")):
        if key in document:
            return name
    if any(str(name).endswith(("weight_ih_l0", "weight_ih")) for name in document):
        raise ValueError(
            "expected a model, got PyTorch's names alone; rnnfast.interop.from_state_dict(json.load(file), prefix) "
            "makes a layer of those"
        )
    raise ValueError(
        "expected 'layers' (RTNeural, AIDA-X), 'model_data' (GuitarML) or 'architecture' (Neural Amp Modeler), "
        f"got {list(document)[:8]}"
    )


def _built(found: _Found, dtype: np.dtype[Any], origin: str) -> AudioModel:
    parts: dict[str, Any] = {}
    for name, make, options, weights in found.parts:
        parts[unique(name, parts)] = filled(make(**options, dtype=dtype, rng=0), weights, origin)
    model: Any = Model(**parts)
    model.origin = origin
    return AudioModel(model, **found.around)


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {_checks.describe(value)}")
    return value


def _get(where: str, container: Mapping[str, Any], key: str) -> Any:
    if key not in container:
        raise ValueError(f"{where}: expected {key!r}, got {list(container)[:8]}")
    return container[key]


def _size(where: str, container: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = container.get(key, default) if default is not None else _get(where, container, key)
    return _checks.size(f"{where}: {key}", value)


def _numbers(where: str, value: Any, *expected: int) -> Array:
    """Nested lists as an array of float64 of one shape, finite."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected numbers {list(expected)}, got {_checks.describe(value)}") from error
    _checks.shape(where, array, expected)
    return finite(where, array)


# RTNeural and AIDA-X --------------------------------------------------------------------------------------------------


def _layer_weights(where: str, layer: Mapping[str, Any], *counts: int) -> list[Any]:
    weights = _get(where, layer, "weights")
    if not isinstance(weights, list) or len(weights) not in counts:
        got = f"{len(weights)} arrays" if isinstance(weights, list) else _checks.describe(weights)
        raise ValueError(f"{where}: weights: expected a list of {' or '.join(map(str, counts))} arrays, got {got}")
    return weights


def _read_rtneural_layer(kind: str) -> Callable[..., dict[str, Array]]:
    def read(where: str, layer: Mapping[str, Any], inputs: int, units: int) -> dict[str, Array]:
        kernel, recurrent, bias = _layer_weights(where, layer, 3)
        rows = GATES[kind] * units
        arrays = (
            _numbers(f"{where}: weights[0]", kernel, inputs, rows),
            _numbers(f"{where}: weights[1]", recurrent, units, rows),
            _numbers(f"{where}: weights[2]", bias, *((2, rows) if kind == "gru" else (rows,))),
        )
        return {f"{name}_l0": one for name, one in from_layout(kind, *arrays).items()}

    return read


def _read_rtneural_dense(where: str, layer: Mapping[str, Any], inputs: int, units: int) -> dict[str, Array]:
    kernel, *bias = _layer_weights(where, layer, 1, 2)
    weights = {"weight": _numbers(f"{where}: weights[0]", kernel, inputs, units).T}
    return weights | ({"bias": _numbers(f"{where}: weights[1]", bias[0], units)} if bias else {})


_RTNEURAL_LAYERS: dict[str, tuple[Any, Callable[..., dict[str, Array]]]] = {
    "lstm": (layers.LSTM, _read_rtneural_layer("lstm")),
    "gru": (layers.GRU, _read_rtneural_layer("gru")),
    "dense": (heads.Dense, _read_rtneural_dense),
    "time-distributed-dense": (heads.Dense, _read_rtneural_dense),
}


def _read_rtneural(document: dict[str, Any]) -> _Found:
    sizes = _last_of("in_shape", _get("the file", document, "in_shape"))
    entries = document["layers"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"layers: expected a list of layers, got {_checks.describe(entries)}")
    found: list[Any] = []
    for n, entry in enumerate(entries):
        layer = _object(f"layers[{n}]", entry)
        kind = _get(f"layers[{n}]", layer, "type")
        where = f"layers[{n}] ({kind})"
        activation = layer.get("activation") or ""
        if kind == "activation":
            _join_activation(where, found, activation)
            continue
        if kind not in _RTNEURAL_LAYERS:
            raise ValueError(f"{where}: expected a type among {', '.join(_RTNEURAL_LAYERS)} and activation")
        units = _last_of(f"{where}: shape", _get(where, layer, "shape"))
        make, read = _RTNEURAL_LAYERS[kind]
        options: dict[str, Any] = {"input_size": sizes}
        weights = read(where, layer, sizes, units)
        if make is heads.Dense:
            options |= {
                "output_size": units,
                "bias": "bias" in weights,
                "activation": _head_activation(where, activation),
            }
        else:
            if activation not in ("", "tanh"):
                raise ValueError(f"{where}: activation: expected 'tanh', as RTNeural computes, got {activation!r}")
            options["hidden_size"] = units
        found.append((kind.rpartition("-")[2], make, options, weights))
        sizes = units
    return _Found(found, *_read_around(document))


_RTNEURAL_ACTIVATIONS = ("identity", "sigmoid", "tanh", "softmax", "relu", "elu")


def _last_of(where: str, shape: Any) -> int:
    """The features, the last of a shape such as [null, null, 8]."""
    if not isinstance(shape, list) or not shape:
        raise ValueError(f"{where}: expected a list that ends with a size, got {_checks.describe(shape)}")
    return _checks.size(where, shape[-1])


def _head_activation(where: str, name: Any) -> str:
    return _checks.choice(f"{where}: activation", "identity" if name in ("", "linear") else name, _RTNEURAL_ACTIVATIONS)


def _join_activation(where: str, found: list[Any], name: Any) -> None:
    """Put an activation that stands alone into the dense layer before it."""
    if not found or found[-1][1] is not heads.Dense or found[-1][2]["activation"] != "identity":
        raise ValueError(f"{where}: expected a dense layer without an activation before it")
    found[-1][2]["activation"] = _head_activation(where, name)


def _read_around(document: dict[str, Any]) -> tuple[dict[str, Any], str]:
    keys = ("in_skip", "in_gain", "out_gain")
    aida = any(document.get(key) is not None for key in keys)
    rate = document.get("samplerate", _metadata(document).get("samplerate"))
    skip, *gains = (document.get(key) or 0 for key in keys)
    around = {
        "skip": _checks.integer("in_skip", skip, 0),
        "input_gain": _factor("in_gain", gains[0]),
        "output_gain": _factor("out_gain", gains[1]),
        "sample_rate": _sample_rate("samplerate", rate),
        "metadata": _metadata(document),
    }
    return around, "AIDA-X" if aida else "RTNeural"


def _metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    return _object("metadata", document.get("metadata") or {})


def _factor(where: str, decibels: Any) -> float:
    """The factor of a gain; below -90 dB it is 0, as in the plug-ins."""
    level = _checks.number(where, decibels)
    if level > 300:
        raise ValueError(f"{where}: expected at most 300 dB, got {level}")
    return 10.0 ** (0.05 * level) if level > -90 else 0.0


def _sample_rate(where: str, value: Any) -> float | None:
    """A rate in Hz; files have it as a number or as a string."""
    if value is None or value == "":
        return None
    return _checks.number(where, float(value) if isinstance(value, str) and value.isdecimal() else value)


# GuitarML -------------------------------------------------------------------------------------------------------------

_UNITS: dict[str, Any] = {"LSTM": (layers.LSTM, 4), "GRU": (layers.GRU, 3), "RNN": (layers.RNN, 1)}


def _read_guitarml(document: dict[str, Any]) -> _Found:
    about = _object("model_data", document["model_data"])
    if about.get("model", "SimpleRNN") != "SimpleRNN":
        raise ValueError(f"model_data: model: expected 'SimpleRNN', got {about['model']!r}")
    tensors = _object("state_dict", _get("the file", document, "state_dict"))
    unit = _checks.choice("model_data: unit_type", about.get("unit_type", "LSTM"), _UNITS)
    inputs = _size("model_data", about, "input_size")
    units = _size("model_data", about, "hidden_size")
    outputs = _size("model_data", about, "output_size")
    count = _size("model_data", about, "num_layers", 1)
    if count > len(tensors):
        raise ValueError(f"model_data: num_layers: expected as many layers as in state_dict, got {count}")
    make, gates = _UNITS[unit]
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(count):
        shapes |= {f"rec.weight_ih_l{n}": (gates * units, units if n else inputs)}
        shapes |= {f"rec.weight_hh_l{n}": (gates * units, units)}
        shapes |= {f"rec.bias_{side}h_l{n}": (gates * units,) for side in "ih"}
    shapes["lin.weight"] = outputs, units
    bias = bool(about.get("bias_fl", True))
    if bias:
        shapes["lin.bias"] = (outputs,)
    if surplus := sorted(set(tensors) - set(shapes)):
        raise ValueError(f"state_dict: expected {', '.join(shapes)}, got also {', '.join(surplus)}")
    weights = {
        name: _numbers(f"state_dict: {name}", _get("state_dict", tensors, name), *shape)
        for name, shape in shapes.items()
    }
    own = {prefix: {name[4:]: one for name, one in weights.items() if name.startswith(prefix)} for prefix in _PREFIXES}
    options = {"input_size": inputs, "hidden_size": units, "num_layers": count}
    head = {"input_size": units, "output_size": outputs, "bias": bias}
    parts = [("rec", make, options, own["rec."]), ("lin", heads.Dense, head, own["lin."])]
    around: dict[str, Any] = {"skip": _checks.integer("model_data: skip", about.get("skip", 1), 0)}
    around |= {"metadata": {name: one for name, one in document.items() if name not in ("model_data", "state_dict")}}
    return _Found(parts, around, f"GuitarML SimpleRNN {unit}")


_PREFIXES = ("rec.", "lin.")


# Neural Amp Modeler ---------------------------------------------------------------------------------------------------


def _read_nam(document: dict[str, Any]) -> _Found:
    if document["architecture"] != "LSTM":
        raise ValueError(f"architecture: expected 'LSTM', the one with a recurrence, got {document['architecture']!r}")
    config = _object("config", _get("the file", document, "config"))
    inputs, units, count = (_size("config", config, key) for key in ("input_size", "hidden_size", "num_layers"))
    outputs = _size("config", config, "out_channels", 1)
    flat = _get("the file", document, "weights")
    if not isinstance(flat, list):
        raise ValueError(f"weights: expected a list of numbers, got {_checks.describe(flat)}")
    sizes = [4 * units * ((units if n else inputs) + units + 1) + 2 * units for n in range(min(count, len(flat) + 1))]
    total = sum(sizes) + outputs * (units + 1)
    if total != len(flat) or len(sizes) < count:
        raise ValueError(f"weights: expected {total} numbers for the sizes in config, got {len(flat)}")
    rest = _numbers("weights", flat, total)

    def take(*shape: int) -> Array:
        nonlocal rest
        part, rest = np.split(rest, [math.prod(shape)])
        return part.reshape(shape)

    weights: dict[str, Array] = {}
    starts: list[tuple[Array, Array]] = []
    for n in range(count):
        width = units if n else inputs
        both = take(4 * units, width + units)
        weights |= {f"weight_ih_l{n}": both[:, :width], f"weight_hh_l{n}": both[:, width:]}
        weights |= {f"bias_ih_l{n}": take(4 * units), f"bias_hh_l{n}": np.zeros(4 * units)}
        starts.append((take(units), take(units)))
    head = {"weight": take(outputs, units), "bias": take(outputs)}
    options = {"input_size": inputs, "hidden_size": units, "num_layers": count}
    parts = [
        ("lstm", layers.LSTM, options, weights),
        ("head", heads.Dense, {"input_size": units, "output_size": outputs}, head),
    ]
    state = tuple(np.stack(column) for column in zip(*starts, strict=True))
    around = {
        "state": {"lstm": state} if any(one.any() for one in state) else None,
        "sample_rate": _sample_rate("sample_rate", document.get("sample_rate")),
        "metadata": _metadata(document),
    }
    return _Found(parts, around, f"Neural Amp Modeler {document.get('version', '')} LSTM".replace("  ", " "))


_READERS: dict[str, Callable[[dict[str, Any]], _Found]] = {
    "guitarml": _read_guitarml,
    "nam": _read_nam,
    "rtneural": _read_rtneural,
}


# Writing --------------------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], model: AudioModel | Part, format: str | None = None) -> None:
    """Write a model for RTNeural, AIDA-X, GuitarML's plug-ins or Neural Amp Modeler, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; one that exists is replaced.
    model : AudioModel, Model, layer or Dense
        Layers and heads that the format has: LSTMs and GRUs (RTNeural, AIDA-X), one LSTM, GRU or RNN (GuitarML), one
        LSTM (Neural Amp Modeler), in their plain forms and one direction, and Dense.
    format : {"rtneural", "aida-x", "guitarml", "nam"}, optional
        By default "nam" for a path that ends in .nam; else "aida-x" if there is a skip or a gain, else "rtneural".

    Raises
    ------
    TypeError, ValueError
        The format has no such part, gain or state: which part. Nothing has been written.
    OSError
        The file can't be written; one that was there is as it was.
    """
    audio = as_audio(model)
    if format is None:
        plain = audio.skip == 0 and audio.input_gain == audio.output_gain == 1
        format = "nam" if Path(path).suffix == ".nam" else "rtneural" if plain else "aida-x"
    document = _WRITERS[_checks.choice("format", format, _WRITERS)](audio)
    write_atomically(path, json.dumps(document, allow_nan=False).encode())


def _refuse(where: str, expected: str, got: Any) -> None:
    raise ValueError(f"{where}: expected {expected}, got {got!r}")


def _only(audio: AudioModel, format: str, *allowed: str) -> None:
    """ValueError if the model has something around it that the format has not."""
    for name, default in (("skip", 0), ("input_gain", 1.0), ("output_gain", 1.0), ("state", None)):
        value = getattr(audio, name)
        if name not in allowed and value is not default and value != default:
            _refuse(name, f"{default}, as {format} has none", value)


def _plain(where: str, part: Any, cells: Mapping[str, Any]) -> str:
    """Which of these kinds a recurrent layer is: one direction, forwards, nothing added to its cell."""
    directions = getattr(part, "bidirectional", False) or getattr(part, "reverse", False)
    if isinstance(part, layers.Recurrent) and not directions:
        for kind, cell in cells.items():
            if part.cell == cell:
                return kind
    raise ValueError(f"{where}: expected one of {', '.join(cells)} without options and forwards, got {part!r}")


def _steps(part: Any) -> Iterator[dict[str, Array]]:
    """The parameters of each layer of a stack, float64; biases that it lacks are zeros."""
    values = {name: np.asarray(part.params.device.to_host(one), np.float64) for name, one in part.params.items()}
    for n in range(part.num_layers):
        own = {name: values.get(f"{name}_l{n}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        rows = len(values[f"weight_hh_l{n}"])
        yield {name: np.zeros(rows) if one is None else one for name, one in own.items()}


def _head_values(part: heads.Dense) -> tuple[Array, Array]:
    values = {name: np.asarray(part.params.device.to_host(one), np.float64) for name, one in part.params.items()}
    return values["weight"], values.get("bias", np.zeros(part.output_size))


def _write_rtneural(audio: AudioModel) -> dict[str, Any]:
    _only(audio, "RTNeural")
    return _rtneural(audio)


def _write_aida(audio: AudioModel) -> dict[str, Any]:
    _only(audio, "AIDA-X", "skip", "input_gain", "output_gain")
    for name in ("input_gain", "output_gain"):
        if getattr(audio, name) < 0:
            _refuse(name, "at least 0, as AIDA-X has decibels", getattr(audio, name))
    document = _rtneural(audio)
    gains = {"in_gain": _decibels(audio.input_gain), "out_gain": _decibels(audio.output_gain)}
    return document | {"in_skip": audio.skip} | gains


def _decibels(factor: float) -> float:
    return 20 * math.log10(factor) if factor > 10**-4.5 else -120.0


def _rtneural(audio: AudioModel) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []

    def add(kind: str, activation: str, units: int, *weights: Array) -> None:
        entry = {"type": kind, "activation": activation, "shape": [None, None, units]}
        entries.append(entry | {"weights": [one.tolist() for one in weights]})

    for name, part in acting(audio.model).items():
        if isinstance(part, heads.Dense):
            weight, bias = _head_values(part)
            activation = _checks.choice(f"{name}: activation", part.activation, _RTNEURAL_ACTIVATIONS)
            add("dense", "" if activation == "identity" else activation, part.output_size, weight.T, bias)
            continue
        kind = _plain(name, part, {"lstm": LSTM(), "gru": GRU()})
        for own in _steps(part):
            add(kind, "tanh", part.hidden_size, *to_layout(kind, own, two_biases=kind == "gru"))
    rate = {} if audio.sample_rate is None else {"samplerate": audio.sample_rate}
    about = {"metadata": audio.metadata} if audio.metadata else {}
    return {"in_shape": [None, None, audio.input_size], "layers": entries, **rate, **about}


def _layer_and_head(audio: AudioModel, format: str, cells: Mapping[str, Any]) -> tuple[str, Any, heads.Dense]:
    parts = acting(audio.model)
    names = list(parts)
    if len(names) != 2 or not isinstance(parts[names[1]], heads.Dense):
        _refuse("model", f"one recurrent layer and one Dense, as {format} has", names)
    layer, head = parts.values()
    if head.activation != "identity":
        _refuse(f"{names[1]}: activation", f"'identity', as {format} has no other", head.activation)
    return _plain(names[0], layer, cells), layer, head


def _write_guitarml(audio: AudioModel) -> dict[str, Any]:
    _only(audio, "GuitarML", "skip")
    kinds = {"LSTM": LSTM(), "GRU": GRU(), "RNN": Elman()}
    unit, layer, head = _layer_and_head(audio, "GuitarML", kinds)
    tensors = {f"rec.{name}_l{n}": one for n, own in enumerate(_steps(layer)) for name, one in own.items()}
    tensors |= dict(zip(("lin.weight", "lin.bias"), _head_values(head), strict=True))
    sizes = {"input_size": layer.input_size, "skip": audio.skip, "output_size": head.output_size}
    more = {"unit_type": unit, "num_layers": layer.num_layers, "hidden_size": layer.hidden_size, "bias_fl": True}
    state = {name: one.tolist() for name, one in tensors.items()}
    return {"model_data": {"model": "SimpleRNN", **sizes, **more}, "state_dict": state}


def _write_nam(audio: AudioModel) -> dict[str, Any]:
    _only(audio, "Neural Amp Modeler", "state")
    _, layer, head = _layer_and_head(audio, "Neural Amp Modeler", {"LSTM": LSTM()})
    shape = layer.num_layers, layer.hidden_size
    start = next(iter((audio.state or {}).values()), (np.zeros(shape), np.zeros(shape)))
    h, c = (np.reshape(np.asarray(one, np.float64), shape) for one in start)
    flat: list[Array] = []
    for n, own in enumerate(_steps(layer)):
        both = np.concatenate([own["weight_ih"], own["weight_hh"]], axis=1)
        flat += [both, own["bias_ih"] + own["bias_hh"], h[n], c[n]]
    flat += _head_values(head)
    config = {"input_size": layer.input_size, "hidden_size": layer.hidden_size, "num_layers": layer.num_layers}
    if (layer.input_size, head.output_size) != (1, 1):
        config |= {"in_channels": layer.input_size, "out_channels": head.output_size}
    rate = {} if audio.sample_rate is None else {"sample_rate": audio.sample_rate}
    weights = np.concatenate([one.ravel() for one in flat]).tolist()
    about = {"version": "0.5.4", "metadata": audio.metadata, "architecture": "LSTM", "config": config}
    return about | {"weights": weights} | rate


_WRITERS: dict[str, Callable[[AudioModel], dict[str, Any]]] = {
    "rtneural": _write_rtneural,
    "aida-x": _write_aida,
    "guitarml": _write_guitarml,
    "nam": _write_nam,
}
FORMATS = tuple(_WRITERS)
"""The names of the formats that `save` writes; `load` knows them by what is in a file."""
