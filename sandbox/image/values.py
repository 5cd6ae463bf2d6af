"""Python values as JSON and back, without pickle.

What JSON can say stands as itself; the rest is {"$": tag, "v": ...}. Decoding builds plain values only
(lists, tuples, sets, dicts, numbers, strings, bytes), never an object of a solution's own class: that is what
keeps an always-equal object out of every comparison. A subclass of a plain type is sent as its plain content.
Anything else becomes a reference, which only its own process can look into.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sandbox.image.frames import MAX_MESSAGE, TooLarge

MAX_DEPTH = 300  # of a value that is read: the reader's own stack must never decide
_SMALL = 1 << 200  # larger whole numbers go as hex: decimal digits cost quadratic time and have a limit
_TYPES = {name: value for name, value in vars(builtins).items() if isinstance(value, type) and not name.startswith("_")}


class NotPlain(Exception):
    """A value that cannot be sent, or a message that does not hold a value."""


def encode(value: Any, refer: Callable[[Any], Any] | None = None) -> Any:
    """The JSON form of `value`; `refer(obj)` gives the JSON form of what is not plain (default: NotPlain)."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value) if type(value) is not str else value
    if isinstance(value, int):
        number = int.__int__(value) if type(value) is not bool else value
        return number if -_SMALL < number < _SMALL else {"$": "int", "v": hex(number)}
    if isinstance(value, float):
        real = float.__float__(value)
        return real if math.isfinite(real) else {"$": "float", "v": repr(real)}
    if isinstance(value, list | tuple | dict | set | frozenset | bytes) and len(value) > MAX_MESSAGE // 2:
        raise TooLarge(f"{len(value)} items")  # it could not be sent: don't spend seconds to find out
    if isinstance(value, list):
        return [encode(item, refer) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"$": "tuple", "v": [encode(item, refer) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        pairs = list(dict.items(value))
        if all(type(key) is str for key, _ in pairs) and "$" not in value:
            return {key: encode(item, refer) for key, item in pairs}
        return {"$": "dict", "v": [[encode(key, refer), encode(item, refer)] for key, item in pairs]}
    if isinstance(value, set | frozenset):
        items = sorted((encode(item, refer) for item in set(value)), key=repr)
        return {"$": "set" if isinstance(value, set) else "frozenset", "v": items}
    if isinstance(value, bytes | bytearray):
        return {"$": type(value).__name__ if type(value) is bytearray else "bytes", "v": bytes(value).hex()}
    if isinstance(value, complex):
        return {"$": "complex", "v": [encode(value.real), encode(value.imag)]}
    if isinstance(value, range):
        return {"$": "range", "v": [value.start, value.stop, value.step]}
    if type(value) is Decimal or type(value) is Fraction:
        return {"$": type(value).__name__.lower(), "v": str(value)}
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return {"$": "type", "v": value.__name__}
    if refer is None:
        raise NotPlain(f"a {type(value).__name__} cannot be sent as data")
    return refer(value)


def decode(form: Any, resolve: Callable[[str, Any], Any] | None = None, depth: int = MAX_DEPTH) -> Any:
    """The plain value of a JSON form. Raises NotPlain on anything malformed, or nested deeper than `depth`.

    `resolve(tag, v)` gives meaning to the tags that only one side knows (references, callbacks).
    """
    if not isinstance(form, list | dict):
        return form
    if depth == 0:
        raise NotPlain(f"the value is nested deeper than {MAX_DEPTH}")
    depth -= 1
    if isinstance(form, list):
        return [decode(item, resolve, depth) for item in form]
    if "$" not in form:
        return {key: decode(item, resolve, depth) for key, item in form.items()}
    tag = form["$"]
    v: Any = form.get("v")
    try:
        if tag == "tuple":
            return tuple([decode(item, resolve, depth) for item in v])
        if tag in ("set", "frozenset"):
            items = [decode(item, resolve, depth) for item in v]
            refuse_colliding(items)
            return set(items) if tag == "set" else frozenset(items)
        if tag == "dict":
            pairs = [(decode(key, resolve, depth), decode(item, resolve, depth)) for key, item in v]
            refuse_colliding([key for key, _ in pairs])
            return dict(pairs)
        if tag == "int":
            return int(v, 16)
        if tag == "float":
            return float(v)
        if tag in ("bytes", "bytearray"):
            return bytes.fromhex(v) if tag == "bytes" else bytearray.fromhex(v)
        if tag == "complex":
            return complex(decode(v[0], None, 1), decode(v[1], None, 1))
        if tag == "range":
            return range(*v)
        if tag in ("decimal", "fraction"):
            if len(v) > 10_000 or (tag == "fraction" and "e" in v.lower()):
                raise NotPlain(f"{tag} of {len(v)} characters")
            return Decimal(v) if tag == "decimal" else Fraction(v)
        if tag == "type":
            return _TYPES[v]
    except NotPlain:
        raise
    except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError) as error:
        raise NotPlain(f"malformed {tag}: {error}") from None
    if resolve is None:
        raise NotPlain(f"{tag} is not plain data")
    return resolve(tag, v)


def refuse_colliding(keys: list[Any]) -> None:
    """Refuse keys made to share one hash: a set of 10^5 of them would keep the reader busy for minutes."""
    if len(keys) < 1000:
        return
    hashes = sorted(map(hash, keys))
    if all(first != later for first, later in zip(hashes, hashes[50:], strict=False)):
        return
    hashes = sorted({repr(key): hash(key) for key in keys}.values())  # the same key again and again is cheap
    if any(first == later for first, later in zip(hashes, hashes[50:], strict=False)):
        raise NotPlain("keys share one hash")
