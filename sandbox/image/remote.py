"""Calls between assert code and a solution, over messages of plain data.

One `Peer` on either side. A value that is not plain stays where it is and travels as a reference; the other
side can call it, read and set its attributes, and iterate it. A reference equals only itself: assert code
that compares objects of the solution's own class is judged as unequal, because whoever owns `__eq__` would
otherwise judge itself. Arguments changed in place are sent back with the result.
"""

from __future__ import annotations

import builtins
import itertools
import json
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

from sandbox.image import values
from sandbox.image.frames import MAX_MESSAGE, MESSAGE_LENGTH, TooLarge, pack_message

MAX_ITERATION = 100_000
# Raised by a solution, these would end a loop of the test code early, pass for its own verdict, or need more arguments.
_NEVER = (StopIteration, StopAsyncIteration, AssertionError, UnicodeError, BaseExceptionGroup)


class RemoteFault(Exception):
    """The solution raised something that has no builtin name, or could not be asked."""


class Channel:
    """Length-prefixed JSON messages over one descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self.fd, min(size, 1 << 20))
            if not part:
                raise SystemExit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self) -> dict[str, Any]:
        (size,) = MESSAGE_LENGTH.unpack(self._read(MESSAGE_LENGTH.size))
        if size > MAX_MESSAGE:
            raise RemoteFault(f"message of {size} bytes is over the bound")
        message: dict[str, Any] = json.loads(self._read(size))
        return message

    def send(self, message: dict[str, Any]) -> None:
        data = memoryview(pack_message(message))
        while data:
            data = data[os.write(self.fd, data) :]


class Peer:
    """Answers the other side's messages about our objects, and asks about theirs."""

    def __init__(self, channel: Channel, names: dict[str, Any], guarded: bool = False) -> None:
        """`guarded` is the referee's side: the other side may call what it was given, and little else."""
        self.channel = channel
        self.names = names
        self.guarded = guarded
        self.ours: dict[int, Any] = {}
        self.theirs: dict[int, RemoteRef] = {}

    # -- our objects, their questions

    def refer(self, value: Any) -> Any:
        """A reference to one of ours; one of theirs goes home."""
        if type(value) is RemoteRef:
            return {"$": "yours", "v": object.__getattribute__(value, "_id")}
        self.ours[id(value)] = value
        return {"$": "ref", "v": [id(value), type(value).__name__]}

    def resolve(self, tag: str, v: Any) -> Any:
        if tag == "yours":
            return self.ours[v]
        if tag == "ref":
            number, kind = v
            if number not in self.theirs:
                self.theirs[number] = RemoteRef(self, number, kind)
            return self.theirs[number]
        raise values.NotPlain(f"unknown tag {tag!r}")

    def encode(self, value: Any) -> Any:
        return values.encode(value, self.refer)

    def decode(self, form: Any) -> Any:
        return values.decode(form, self.resolve)

    def target(self, message: dict[str, Any]) -> Any:
        """What a message is about: one of our objects, or a name, dotted through a class."""
        if message.get("ref") is not None:
            return self.ours[message["ref"]]
        first, *rest = str(message["name"]).split(".")
        if first not in self.names:
            raise NameError(f"name '{first}' is not defined")
        found = self.names[first]
        for part in rest:
            found = getattr(found() if isinstance(found, type) else found, part)
        return found

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what one message asks; exceptions become part of the answer."""
        try:
            target = self.target(message)
            if self.guarded and not may_ask(target, message):
                raise PermissionError(f"{message['op']} of a {type(target).__name__} of the test code")
            if message["op"] == "call":
                args = [self.decode(arg) for arg in message["args"]]
                kwargs = {key: self.decode(arg) for key, arg in message["kwargs"].items()}
                result = target(*args, **kwargs)
                value = self.encode(result)
                after = [changed(form, self.encode(arg)) for form, arg in zip(message["args"], args, strict=True)]
                return {"op": "value", "v": value, "after": after if any(after) else []}
            if message["op"] == "get":
                attribute = message["attribute"]
                return {"op": "value", "v": self.encode(getattr(target, attribute) if attribute else target)}
            if message["op"] == "set":
                setattr(target, message["attribute"], self.decode(message["v"]))
                return {"op": "value", "v": None}
            items = list(itertools.islice(target, MAX_ITERATION + 1))
            if len(items) > MAX_ITERATION:
                raise OverflowError(f"more than {MAX_ITERATION} items")
            return {"op": "value", "v": self.encode(items)}
        except TooLarge:
            return {"op": "too_large"}
        except BaseException as error:
            if isinstance(error, MemoryError):
                raise
            return {"op": "raise", "type": type(error).__name__, "text": safe_text(error)}

    # -- their objects, our questions

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a question and return the answer; meanwhile answer what the other side asks back."""
        self.channel.send(message)
        while True:
            reply = self.channel.receive()
            if reply.get("op") in ("value", "raise", "too_large"):
                return reply
            self.channel.send(self.answer(reply))

    def value(self, message: dict[str, Any], args: tuple[Any, ...] = ()) -> Any:
        """Ask and decode; raise what the other side raised; put changes of arguments back."""
        reply = self.ask(message)
        try:
            if reply["op"] == "too_large":
                raise RemoteFault("the value is too large to be sent")
            if reply["op"] == "raise":
                raise as_exception(str(reply.get("type")), str(reply.get("text"))[:500])
            result = self.decode(reply.get("v"))
            for arg, after in zip(args, reply.get("after") or [], strict=False):
                if after:
                    put_back(arg, self.decode(after[0]))
            return result
        except (values.NotPlain, RecursionError, KeyError) as error:
            raise RemoteFault(f"the solution's answer cannot be read: {error}") from None

    def call(self, who: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forms = {key: self.encode(arg) for key, arg in kwargs.items()}
        message = {"op": "call", **who, "args": [self.encode(arg) for arg in args], "kwargs": forms}
        return self.value(message, args)

    def proxy(self, name: str) -> Any:
        """A function that calls `name` on the other side."""

        def proxy(*args: Any, **kwargs: Any) -> Any:
            return self.call({"name": name}, args, kwargs)

        proxy.__name__ = name
        return proxy


class RemoteRef:
    """An object of the other side."""

    __slots__ = ("_id", "_kind", "_peer")

    def __init__(self, peer: Peer, number: int, kind: str) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_id", number)
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._peer.value({"op": "get", "ref": self._id, "attribute": name})

    def __setattr__(self, name: str, value: Any) -> None:
        peer = self._peer
        peer.value({"op": "set", "ref": self._id, "attribute": name, "v": peer.encode(value)})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.call({"ref": self._id}, args, kwargs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._peer.value({"op": "iterate", "ref": self._id}))

    def __repr__(self) -> str:
        return f"<{self._kind} of the solution>"


class RemoteModule(types.ModuleType):
    """`from solution import f` in assert code."""

    def __init__(self, name: str, peer: Peer) -> None:
        super().__init__(name)
        self.__dict__["_peer"] = peer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__["_peer"].proxy(name)


def may_ask(target: Any, message: dict[str, Any]) -> bool:
    """What a solution may do with an object of the test code.

    It may call a function and walk an iterator that it was given. Attributes are open on objects of the test
    code's own classes alone, and no private ones: a function's __globals__ or a generator's frame would lead
    to the expected values, and to the verdict.
    """
    if message["op"] in ("call", "iterate"):
        return True
    name = str(message.get("attribute") or "_")
    return type(target).__module__ == "__main__" and not name.startswith("_")


def changed(before: Any, after: Any) -> list[Any]:
    """[after] when a mutable argument differs from what was sent, else []."""
    mutable = isinstance(before, list) or (isinstance(before, dict) and before.get("$") in (None, "dict", "set"))
    return [after] if mutable and before != after else []


def put_back(arg: Any, new: Any) -> None:
    """Make our argument look as the callee left its copy."""
    if type(arg) is list and type(new) is list:
        arg[:] = new
    elif type(arg) in (dict, set) and type(arg) is type(new):
        arg.clear()
        arg.update(new)


def as_exception(name: str, text: str) -> BaseException:
    """The builtin exception of that name, so that test code can expect it; else RemoteFault."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _NEVER):
        error: Exception = kind(text)
        error.raised_by_solution = True  # type: ignore[attr-defined]
        return error
    return RemoteFault(f"{name}: {text}")


def safe_text(error: BaseException) -> str:
    """str(error), whatever its class does."""
    try:
        return str.__str__(str(error))[:500]
    except BaseException:  # noqa: BLE001
        return f"(unprintable, {sys.getsizeof(error)} bytes)"
