"""Encoders: there and back for any symbols, what is unknown, JSON, one-hot, bad input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnfast.encoders import LabelEncoder, SymbolEncoder, from_one_hot, one_hot

any_text = st.text(st.characters(), max_size=30)  # lone surrogates and astral planes included


# --- symbols ----------------------------------------------------------------------------------------------------------


@given(any_text, any_text)
def test_text_there_and_back(text: str, others: str) -> None:
    encoder = SymbolEncoder.fit(text)
    assert "".join(encoder.symbols) == "".join(sorted(set(text))) and len(encoder) == len(set(text))
    ids = encoder.encode(text)
    assert ids.dtype == np.int64 and ids.shape == (len(text),)
    assert [encoder.symbols[i] for i in ids] == list(text)
    assert encoder.decode(ids) == text
    unknown = [(i, symbol) for i, symbol in enumerate(others) if symbol not in text]
    if unknown:
        with pytest.raises(ValueError, match="text: expected one of") as caught:
            encoder.encode(others)
        assert str(caught.value).endswith(f"got {unknown[0][1]!r} at {unknown[0][0]}")
        with pytest.raises(ValueError) as from_list:
            encoder.encode(list(others))
        assert str(from_list.value) == str(caught.value)
    else:
        assert np.array_equal(encoder.encode(others), encoder.encode(list(others)))


@given(any_text, any_text, st.characters())
def test_unknown_symbol(text: str, others: str, unknown: str) -> None:
    encoder = SymbolEncoder.fit(text, unknown=unknown)
    assert encoder.unknown == unknown and unknown in encoder
    assert encoder.decode(encoder.encode(others)) == "".join(s if s in encoder else unknown for s in others)
    assert np.array_equal(encoder.encode(others), encoder.encode(list(others)))


@given(st.lists(st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.integers(0, 3)), st.none()), max_size=20))
def test_any_hashables_there_and_back(symbols: list[Any]) -> None:
    encoder = SymbolEncoder.fit(symbols)
    assert encoder.symbols == tuple(dict.fromkeys(symbols))
    ids = encoder.encode(symbols)
    assert ids.dtype == np.int64
    assert list(encoder.decode(ids)) == symbols


def test_order_is_the_one_given() -> None:
    encoder = SymbolEncoder("ba")
    assert encoder.symbols == ("b", "a") and encoder.encode("ab").tolist() == [1, 0]
    assert SymbolEncoder.fit(["the", "cat", "the"]).symbols == ("the", "cat")
    assert SymbolEncoder.fit(["the", "cat"]).decode([1, 1]) == ["cat", "cat"]


def test_arrays_are_iterables_of_their_elements() -> None:
    encoder = SymbolEncoder.fit(np.array([[5, 3], [3, 9]]))
    assert encoder.symbols == (5, 3, 9) and type(encoder.symbols[0]) is int
    assert encoder.encode(np.array([9, 5])).tolist() == [2, 0]
    assert SymbolEncoder([np.int64(4), np.str_("x")]).to_dict()["symbols"] == [4, "x"]


def test_a_generator_is_read_once() -> None:
    encoder = SymbolEncoder(symbol for symbol in "abc")
    assert encoder.encode(symbol for symbol in "cab").tolist() == [2, 0, 1]


def test_symbols_of_several_characters_make_lists() -> None:
    encoder = SymbolEncoder(["a", "bc"])
    assert encoder.decode([1, 0]) == ["bc", "a"]
    assert encoder.encode("aa").tolist() == [0, 0]
    with pytest.raises(ValueError, match="text: expected one of the 2 symbols, got 'b' at 1"):
        encoder.encode("abc")


@pytest.mark.parametrize(
    "encoder",
    [
        SymbolEncoder(""),
        SymbolEncoder("aé😀\ud800\0"),
        SymbolEncoder("ab", unknown="?"),
        SymbolEncoder(["x", 1, 2.5, None, False]),
        LabelEncoder(["walk", "run"]),
        LabelEncoder([3, 1.5, -2]),
        LabelEncoder([]),
    ],
)
def test_json_round_trip(encoder: Any) -> None:
    again = type(encoder).from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder and hash(again) == hash(encoder) and repr(again) == repr(encoder)
    assert again.to_dict() == encoder.to_dict()


def test_equality() -> None:
    assert SymbolEncoder("ab") == SymbolEncoder("ab") != SymbolEncoder("ba")
    assert SymbolEncoder("ab?") != SymbolEncoder("ab", unknown="?")
    assert LabelEncoder("ab") != SymbolEncoder("ab") and SymbolEncoder("ab") != "ab"
    assert "a" in SymbolEncoder("ab") and "c" not in SymbolEncoder("ab") and [] not in SymbolEncoder("ab")


def test_repr_is_short() -> None:
    assert repr(SymbolEncoder("ab")) == "SymbolEncoder(2 symbols: 'a', 'b')"
    assert repr(LabelEncoder(range(99))) == "LabelEncoder(99 labels: 0, 1, 2, 3, 4, 5, 6, 7, ...)"


# --- labels -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=4), max_size=20))
def test_labels_are_sorted(labels: list[str]) -> None:
    encoder = LabelEncoder.fit(labels)
    assert list(encoder.labels) == sorted(set(labels))
    ids = encoder.encode(labels)
    assert ids.dtype == np.int64 and encoder.decode(ids) == labels


def test_labels_of_sequences() -> None:
    labels = np.array([["b", "a", "b"], ["c", "c", "a"]])
    encoder = LabelEncoder.fit(labels)
    ids = encoder.encode(labels)
    assert ids.tolist() == [[1, 0, 1], [2, 2, 0]]
    assert encoder.decode(ids) == labels.tolist()
    with pytest.raises(ValueError, match="labels: expected one of the 3 labels, got 'd' at 1"):
        encoder.encode(["a", "d"])


def test_labels_may_be_tuples() -> None:
    encoder = LabelEncoder([(1, 2), (0, 3)])
    assert encoder.labels == ((0, 3), (1, 2))
    assert encoder.decode(encoder.encode([(1, 2)])) == [(1, 2)]


# --- one-hot ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), max_size=12), st.sampled_from([np.float32, np.float64, np.int8, bool]))
def test_one_hot_there_and_back(ids: list[int], dtype: Any) -> None:
    hot = one_hot(ids, 7, dtype)
    assert hot.dtype == dtype and hot.shape == (len(ids), 7)
    assert np.array_equal(hot, np.eye(7)[ids])
    back = from_one_hot(hot)
    assert back.dtype == np.int64 and back.tolist() == ids


def test_one_hot_of_any_rank() -> None:
    assert one_hot(2, 3).tolist() == [0, 0, 1] and one_hot(2, 3).dtype == np.float32
    ids = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert one_hot(ids, 12).shape == (3, 2, 2, 12) and np.array_equal(from_one_hot(one_hot(ids, 12)), ids)
    assert from_one_hot([0, 1]) == 1
    assert one_hot(np.zeros((0, 3), int), 0).shape == (0, 3, 0)
    assert from_one_hot(np.zeros((0, 0))).shape == (0,)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_symbols() -> None:
    with pytest.raises(ValueError, match="symbols: expected different symbols, got 'a' twice"):
        SymbolEncoder("aba")
    with pytest.raises(TypeError, match=r"symbols: expected hashables, got \[\] at 1"):
        SymbolEncoder(["a", []])
    with pytest.raises(TypeError, match="symbols: expected an iterable, got int 5"):
        SymbolEncoder(5)
    with pytest.raises(TypeError, match="unknown: expected hashables"):
        SymbolEncoder("ab", unknown=[])
    with pytest.raises(TypeError, match="text: expected an iterable"):
        SymbolEncoder.fit(None)


def test_bad_labels() -> None:
    with pytest.raises(ValueError, match="labels: expected different labels, got 1 twice"):
        LabelEncoder([1, 0, 1])
    with pytest.raises(TypeError, match="labels: expected labels that can be sorted"):
        LabelEncoder([1, "a"])
    with pytest.raises(TypeError, match="labels: expected hashables"):
        LabelEncoder.fit([{}])
    with pytest.raises(TypeError, match=r"labels: expected hashable labels, got \[1\] at 0"):
        LabelEncoder([1]).encode([[1]])


@pytest.mark.parametrize("text", [3, None])
def test_only_iterables_are_encoded(text: Any) -> None:
    with pytest.raises(TypeError, match="expected an iterable"):
        SymbolEncoder("ab").encode(text)
    with pytest.raises(TypeError, match="expected an iterable"):
        LabelEncoder("ab").encode(text)


@pytest.mark.parametrize("encoder", [SymbolEncoder("abc"), SymbolEncoder(["abc", 1, 2]), LabelEncoder("abc")])
def test_bad_ids(encoder: Any) -> None:
    for ids, shown in (([0, 3], "3"), ([0, -1], "-1"), (np.array([0, 2**64 - 1], np.uint64), str(2**64 - 1))):
        with pytest.raises(ValueError, match=rf"ids: expected values in 0\.\.2, got {shown} at \[1\]"):
            encoder.decode(ids)
    for ids in ([0.0], [True], "ab", None, [[0], [1, 2]]):
        with pytest.raises(TypeError, match="ids"):
            encoder.decode(ids)
    with pytest.raises(ValueError, match="ids: expected"):
        encoder.decode(1)
    assert list(encoder.decode([])) == []


def test_text_has_one_axis() -> None:
    with pytest.raises(ValueError, match=r"ids: expected one axis, got shape \(1, 2\)"):
        SymbolEncoder("ab").decode([[0, 1]])


@pytest.mark.parametrize("kind", [SymbolEncoder, LabelEncoder])
def test_bad_forms(kind: Any) -> None:
    with pytest.raises(TypeError, match="form: expected a mapping"):
        kind.from_dict(["a"])
    with pytest.raises(ValueError, match=r"form: expected the keys .*, got other"):
        kind.from_dict({"other": 1})
    with pytest.raises(ValueError, match="got none"):
        kind.from_dict({})
    with pytest.raises(TypeError, match=r"expected strings, numbers, booleans or None for JSON, got \(1,\)"):
        kind([(1,)]).to_dict()


def test_bad_one_hot() -> None:
    with pytest.raises(ValueError, match=r"ids: expected values in 0\.\.2, got 3 at \[0, 1\]"):
        one_hot([[0, 3]], 3)
    with pytest.raises(TypeError, match="ids: expected integers"):
        one_hot([0.5], 3)
    for count in (2.0, True, None):
        with pytest.raises(TypeError, match="num_classes"):
            one_hot([0], count)
    with pytest.raises(ValueError, match="num_classes"):
        one_hot([0], -1)
    for dtype in (complex, str, object, "nonsense", {"a": 1}):
        with pytest.raises(TypeError, match="dtype: expected a real dtype"):
            one_hot([0], 3, dtype)


@pytest.mark.parametrize("bad", [[0, 0, 0], [1, 1, 0], [2, 0, 0], [0.5, 0.5, 0], [1, 0, 0.1], [1, np.nan, 0]])
def test_vectors_that_are_not_one_hot(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"vectors: expected a single 1 among zeros, got .* at \[1\]"):
        from_one_hot([[0, 1, 0], bad])
    for value, kind in ((1, ValueError), (["a"], TypeError), (np.ones((2, 2)) * 1j, TypeError)):
        with pytest.raises(kind, match="vectors"):
            from_one_hot(value)


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.array("a"), [1], ("a", np.zeros(2))], ids=["1-D", "0-D", "list", "tuple"]
)
def test_an_array_is_no_symbol(bad):
    encoder = SymbolEncoder(["a", ("a", 1)])
    for argument, call in [
        ("unknown", lambda: SymbolEncoder("abc", unknown=bad)),
        ("unknown", lambda: SymbolEncoder.fit("abc", unknown=bad)),
        ("unknown", lambda: SymbolEncoder.from_dict({"symbols": "abc", "unknown": bad})),
        ("symbols", lambda: SymbolEncoder(["a", bad])),
        ("text", lambda: encoder.encode([bad])),
        ("labels", lambda: LabelEncoder.fit(["a", bad])),
    ]:
        with pytest.raises(TypeError, match=f"^{argument}: expected hashable"):
            call()
    assert bad not in encoder


def test_numpys_scalars_can_stand_for_the_unknown():
    assert SymbolEncoder([1, 2], unknown=np.float64("nan")).encode([1, 5]).tolist() == [0, 2]
    assert SymbolEncoder([1, 2], unknown=np.int64(2)).symbols == (1, 2)
