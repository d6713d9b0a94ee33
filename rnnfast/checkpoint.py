"""Checkpoints: one safetensors file with a model, its optimiser's state and whatever else a run needs to go on.

The file is a plain safetensors file. Its tensors are the parameters under their own names (`rnn.weight_ih_l0`, ...),
so any safetensors reader gets the weights; the optimiser's arrays are `optimizer/...` and the caller's `extra/...`.
What is not an array (configuration, step counts, generator states) is one JSON document in the file's metadata, in
which a reference stands for each array. It also holds the SHA-256 of each tensor, and of itself: a damaged file is not
loaded. (They are no signature: who can write the file can write other weights, and their hashes with them.)

A file appears whole or not at all: it is written beside its place, flushed to the disk, and renamed onto its name. A
run killed at any moment leaves the checkpoint before.

What a file asks for is bounded by what it holds: before a model of its configuration takes memory, each parameter's
shape is compared with that of the tensor in the file. SECURITY.md says what a hostile file can do.

Rejected: pickle, which runs code on loading; several metadata entries in place of one document, because safetensors
orders them at random, and equal runs would then write unequal files.
"""

from __future__ import annotations

import glob
import hashlib
import inspect
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checks, init
from ._part import Part, from_config
from ._words import DeviceName
from .parameters import Parameters

__all__ = ["Checkpoint", "load", "remove_leftovers", "save", "write_atomically"]

_METADATA_KEY = "rnnfast"
_FORMAT = "rnnfast checkpoint 2"
_ARRAY, _TUPLE = "$array", "$tuple"
_SECTIONS = ("optimizer", "extra")
_MOST_LEVELS = 100  # of dicts and lists in each other
_MOST_BITS = 4096  # of an integer
_DTYPES = {
    "BOOL": "bool",
    **{
        f"{kind}{8 * size}": f"{code}{size}"
        for kind, code, sizes in (("U", "u", (1, 2, 4, 8)), ("I", "i", (1, 2, 4, 8)), ("F", "f", (2, 4, 8)))
        for size in sizes
    },
}
"""Of what may be in a file: safetensors' name and NumPy's."""
# What the reading of a damaged or hostile file may end in.
_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes
    ----------
    path : Path
        The file it came from.
    model : Model or layer
        A new model with the saved weights.
    optimizer : dict or None
        The optimiser's state, for its `load_state_dict`; None when none was saved.
    extra : dict
        What `save` was given as `extra`.
    """

    path: Path
    model: Any
    optimizer: dict[str, Any] | None
    extra: dict[str, Any]


def save(
    path: str | os.PathLike[str], model: Any, *, optimizer: Any = None, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; one that exists is replaced.
    model : Model or layer
        Its configuration and parameters are saved.
    optimizer : optional
        An optimiser; its `state_dict()` is saved.
    extra : mapping, optional
        Anything made of dicts with string keys, lists, tuples, arrays, numbers, strings, booleans and None.

    Raises
    ------
    TypeError, ValueError
        An argument is something else, or `extra` holds something else, or more than 100 levels of it.
    OSError
        The file can't be written; one that was there is as it was.
    """
    path = _checks.path("path", path)
    if not isinstance(getattr(model, "params", None), Parameters):
        raise TypeError(f"model: expected a Model or layer, got {_checks.describe(model)}")
    if optimizer is not None and not callable(getattr(optimizer, "state_dict", None)):
        raise TypeError(f"optimizer: expected an optimiser or None, got {_checks.describe(optimizer)}")
    if not isinstance(extra, Mapping | None):
        raise TypeError(f"extra: expected a mapping or None, got {_checks.describe(extra)}")
    to_host = model.params.device.to_host
    with model.params.reading():  # the optimiser is of the same moment
        tensors: dict[str, NDArray[Any]] = {name: to_host(value) for name, value in model.params.copy().items()}
        state = None if optimizer is None else dict(optimizer.state_dict())
    document = {
        "format": _FORMAT,
        "config": model.config(),
        "optimizer": None if state is None else _pack(state, "optimizer", tensors),
        "extra": _pack(dict(extra or {}), "extra", tensors),
        "tensors": {name: _digest_of(array) for name, array in tensors.items()},
    }
    text = json.dumps(document | {"sha256": _digest(json.dumps(document).encode())})
    write_atomically(path, _safetensors().numpy.save(tensors, metadata={_METADATA_KEY: text}))


def load(path: str | os.PathLike[str], *, device: DeviceName | None = None) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Parameters
    ----------
    path : path-like
        A file written by `save`.
    device : {"cpu", "cuda"}, optional
        Where the model shall lie; by default where it lay.

    Returns
    -------
    Checkpoint
        The rebuilt model, the optimiser's state and the extra.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TypeError, ValueError
        There is no such device; or the file is truncated, damaged, or not a checkpoint of rnnfast.
    ImportError, RuntimeError
        The model lies on a CUDA device, which can't be had here.
    """
    if device is not None:
        _checks.choice("device", device, ("cpu", "cuda"))
    path = _checks.path("path", path)
    document, tensors = _read(path)
    try:
        parameters = {
            name: tensors.pop(name) for name in list(tensors) if not name.startswith(tuple(f"{s}/" for s in _SECTIONS))
        }
        model = _build(document["config"], parameters, device)
        optimizer, extra = (_unpack(document[section], tensors) for section in _SECTIONS)
        if tensors:
            raise ValueError(f"tensors that nothing refers to: {', '.join(sorted(tensors))}")
        if not isinstance(extra, dict) or not isinstance(optimizer, dict | None):
            raise ValueError("'extra' and 'optimizer' must be objects")
    except _ERRORS as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not a valid rnnfast checkpoint: {reason}") from error
    return Checkpoint(path, model, optimizer, extra)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`: at any moment, also after a crash, the file is the old one or the new one, whole."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # the caller knows no temporary file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what writers of `path` that were killed have left beside it. No other process may be writing it now."""
    target = Path(os.path.realpath(path))
    for temporary in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable; Windows can neither do it nor needs it."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install rnnfast[cli]") from error
    return safetensors


def _digest(*data: Any) -> str:
    one = hashlib.sha256()
    for part in data:
        one.update(part)
    return one.hexdigest()


def _digest_of(array: NDArray[Any]) -> str:
    """Of an array's dtype, shape and contents."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return _digest(f"{little.dtype.name} {list(array.shape)} ".encode(), little.reshape(-1).view(np.uint8))


def _pack(value: Any, name: str, tensors: dict[str, NDArray[Any]], level: int = 0) -> Any:
    """The JSON form of `value`; its arrays go into `tensors`, under names that begin with `name`."""
    if level > _MOST_LEVELS:
        place = "/".join(name.split("/")[:4])
        raise ValueError(f"{place}/...: expected at most {_MOST_LEVELS} levels of dicts and lists, got more")
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise TypeError(f"{name}: expected an array of booleans or real numbers, got dtype {value.dtype}")
        name = name.encode("utf-8", "backslashreplace").decode()
        while name in tensors:  # of {"a/b": one, "a": {"b": other}}
            name += "'"
        tensors[name] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        return {_ARRAY: name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise TypeError(f"{name}: expected keys that are strings not beginning with '$', got {key!r}")
        return {key: _pack(item, f"{name}/{key}", tensors, level + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}/{index}", tensors, level + 1) for index, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"{name}: expected integers of at most {_MOST_BITS} bits, got one of {value.bit_length()}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name}: expected dicts, lists, tuples, arrays, numbers, strings or None, got {type(value).__name__}"
    )


def _unpack(value: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    """The inverse of `_pack`; arrays are taken out of `tensors`."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_ARRAY}:
        return tensors.pop(value[_ARRAY])
    if value.keys() == {_TUPLE}:
        return tuple(_unpack(item, tensors) for item in value[_TUPLE])
    return {key: _unpack(item, tensors) for key, item in value.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The metadata's document and all tensors of a file that claims to be a checkpoint."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"path: expected a checkpoint file, but {path} {what}")
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            document = _document((file.metadata() or {}).get(_METADATA_KEY))
            return document, _tensors(file, document.pop("tensors"))
    except (safetensors.SafetensorError, *_ERRORS) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: truncated, damaged, or not a checkpoint of rnnfast: {reason}") from error


def _document(text: str | None) -> dict[str, Any]:
    """The metadata's document, which must be what was written."""
    if text is None:
        raise ValueError(
            "its metadata says nothing of rnnfast; rnnfast.interop.from_safetensors reads layers from the safetensors "
            "files of other programs"
        )
    document = json.loads(text)
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found != _FORMAT:
        raise ValueError(f"expected the format {_FORMAT!r} in its metadata, got {found!r}")
    if document.pop("sha256") != _digest(json.dumps(document).encode()):
        raise ValueError("its metadata has changed since it was written: the checksum differs")
    return document


def _tensors(file: Any, digests: Any) -> dict[str, NDArray[Any]]:
    """All tensors of an open file, which must be what was written."""
    names = set(file.keys())
    if not isinstance(digests, dict) or set(digests) != names:
        raise ValueError("other tensors than it was written with")
    tensors: dict[str, NDArray[Any]] = {}
    for name in sorted(names):
        if (kind := file.get_slice(name).get_dtype()) not in _DTYPES:
            raise ValueError(f"{name}: expected one of the dtypes {', '.join(_DTYPES)}, got {kind}")
        tensors[name] = file.get_tensor(name)
        if digests[name] != _digest_of(tensors[name]):
            raise ValueError(f"{name} has changed since it was written: the checksum differs")
    return tensors


def _build(config: Any, parameters: Mapping[str, NDArray[Any]], device: str | None) -> Any:
    """The model of a configuration, with these parameters in it."""
    if not isinstance(config, dict):
        raise ValueError("'config' must be an object")
    model = from_config(_prepared(config, parameters, device, ""))
    for name, value in parameters.items():
        if name in model.params and value.dtype != model.params.dtype:
            raise ValueError(f"{name}: expected dtype {model.params.dtype}, got {value.dtype}")
    model.params.load(parameters)
    return model


def _prepared(config: Any, parameters: Mapping[str, NDArray[Any]], device: str | None, prefix: str) -> Any:
    """The configuration of the same part on a device, whose initial values are those of the file."""
    if not isinstance(config, dict):
        return config  # for an error that says where
    if isinstance(parts := config.get("parts"), dict):
        parameters = _with_tied(parameters, config.get("tied"))
        inside = {name: _prepared(one, parameters, device, f"{prefix}{name}.") for name, one in parts.items()}
        return {**config, "parts": inside}
    changed = {name: value for name, value in config.items() if device != "cpu" or name != "precision"}
    arguments = _arguments(config.get("type"))
    if device is not None and "device" in arguments:
        changed["device"] = device
    if "init" in arguments:
        changed["init"] = init.Given(lambda name, shape: _at_hand(parameters, prefix + name, shape), config.get("init"))
    return changed


def _with_tied(parameters: Mapping[str, NDArray[Any]], tied: Any) -> dict[str, NDArray[Any]]:
    """The parameters, with those that are tied to others, or whose part is."""
    found = dict(parameters)
    for one, other in tied.items() if isinstance(tied, dict) else ():
        for name, value in parameters.items():
            if name == other or name.startswith(f"{other}."):
                found[f"{one}{name.removeprefix(str(other))}"] = value
    return found


def _at_hand(parameters: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The parameter of the file, which must have the shape that the configuration says."""
    if name not in parameters:
        raise ValueError(f"expected a tensor {name} {list(shape)}, which is missing")
    _checks.shape(name, parameters[name], shape)
    return parameters[name]


def _arguments(kind: Any) -> Any:
    """The constructor's arguments of a class of parts."""
    known = Part._kinds.get(kind)
    return () if known is None else inspect.signature(known).parameters
