"""Columns of a trace as numbers; whatever is none is reported with its row."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from moesim.serving.requests.columns import Columns
from moesim.serving.requests.table import FloatArray, IntArray

#: More tokens than this are a mistake in the file, not a long request.
_MOST_TOKENS = 2**31

#: A time stamp, in UTC if it names a zone; 64 bits of nanoseconds reach from 1677 to 2262.
_STAMP = re.compile(r"\s*((?:19|20|21)\d\d-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?)(?:Z|[+-]00:?00)?\s*")


def _shown(value: Any) -> str:
    return "empty" if value is None or value == "" else str(value) if isinstance(value, float) else repr(value)


def _numbers(columns: Columns, name: str) -> FloatArray:
    """The column as floats, NaN and infinities refused.

    Raises:
        MoesimError: a value is no finite number.
    """
    values = columns.values[name]
    try:
        numbers = np.array(values, dtype=np.float64)
        plain = isinstance(values, np.ndarray) or not any(isinstance(value, bool) for value in values)
        sound = numbers.ndim == 1 and plain
    except (ValueError, TypeError):
        sound = False
    if not sound:
        numbers = np.array([_number(value) for value in values])
    finite = np.isfinite(numbers)
    if not finite.all():
        index = int(np.argmin(finite))
        raise columns.error(index, f"{name} is {_shown(values[index])}, expected a number")
    return numbers


def _number(value: Any) -> float:
    try:
        return np.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        return np.nan


def tokens(columns: Columns, name: str, least: int = 1) -> IntArray:
    """The column as token counts, each `least` or more.

    Raises:
        MoesimError: a value is no whole number, too small, or beyond belief.
    """
    numbers = _numbers(columns, name)
    good = (numbers >= least) & (numbers < _MOST_TOKENS) & (numbers == np.rint(numbers))
    if not good.all():
        index = int(np.argmin(good))
        value = _shown(columns.values[name][index])
        raise columns.error(index, f"{name} is {value}, expected a whole number of tokens, {least} or more")
    return numbers.astype(np.int64)


def seconds(columns: Columns, name: str) -> FloatArray:
    """The column as times, none negative.

    Raises:
        MoesimError: a value is no number, or negative.
    """
    numbers = _numbers(columns, name)
    if (numbers < 0).any():
        index = int(np.argmax(numbers < 0))
        raise columns.error(index, f"{name} is {_shown(columns.values[name][index])}, expected 0 or more")
    return numbers


def since_first(columns: Columns, name: str) -> FloatArray:
    """Time stamps such as `2023-11-16 18:15:46.6805900` as seconds since the earliest of them.

    Raises:
        MoesimError: a value is no time stamp.
    """
    forms = [_STAMP.fullmatch(value) if isinstance(value, str) else None for value in columns.values[name]]
    texts = [form[1] if form else "" for form in forms]
    try:
        stamps = np.array(texts, dtype="datetime64[ns]")
    except ValueError:
        stamps = np.array([_stamp(text) for text in texts])
    if np.isnat(stamps).any():
        index = int(np.argmax(np.isnat(stamps)))
        value = _shown(columns.values[name][index])
        raise columns.error(index, f"{name} is {value}, expected a time stamp like 2023-11-16 18:15:46.6805900")
    return np.asarray((stamps - stamps.min()) / np.timedelta64(1, "s"), dtype=np.float64)


def _stamp(text: str) -> np.datetime64:
    try:
        return np.datetime64(text, "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")


def hash_lists(columns: Columns, name: str) -> list[list[int]]:
    """The column as lists of block hashes: JSON lists, or in CSV also whole numbers with blanks between them. An empty
    value is an empty list.

    Raises:
        MoesimError: a value is no list of whole numbers.
    """
    lists = []
    for index, value in enumerate(columns.values[name]):
        hashes = _hash_list(value)
        if hashes is None:
            raise columns.error(index, f"{name} is {_shown(value)}, expected a list of whole numbers")
        lists.append(hashes)
    return lists


def _hash_list(value: Any) -> list[int] | None:
    if value is None:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [int(part) for part in value.split()]
        except ValueError:
            return None
    if isinstance(value, list) and all(type(item) is int for item in value):
        return value
    return None
