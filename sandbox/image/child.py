"""What a child does once it is the solution's user: run a script, serve calls, or run assert code.

script    the solution as `__main__`, input on stdin; ends as an interpreter ends.
serve     the solution as a module; answers calls that come as messages. Used for `call` and `assert` tests.
referee   assert code (trusted) in a container of its own, where the names of the solution are proxies that
          send each call out. It sees plain values only.

Covered: early exit, patched builtins, always-equal objects, forged messages in `serve`: the process can only
say which value a call gave, and the host or the referee compares it. Not covered: nothing in this process is
hidden from the solution, so nothing secret may be here; a solution can lie about its own values, which is the
same as returning them.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import json
import linecache
import os
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from sandbox.image.frames import TooLarge, pack_message
from sandbox.image.remote import Channel, Peer, RemoteFault, RemoteModule

_STREAMS = (sys.stdout, sys.stderr)
_MEMORY_ERROR = pack_message({"op": "memory_error"})  # made beforehand: there may be no memory later


def run(mode: str, content: bytes, message_fd: int) -> NoReturn:
    """Run one program and end the process as an interpreter would, flushing what it printed."""
    channel = Channel(message_fd)
    head, _, code = content.partition(b"\n")
    job = json.loads(head)
    if mode == "script":
        status = finish(lambda: run_script(code, channel), message_fd)
    elif mode == "serve":
        status = finish(lambda: serve(code, channel), message_fd)
    else:
        status = finish(lambda: referee(code, job["names"], job["modules"], channel), message_fd)
    os._exit(status)


def finish(body: Any, message_fd: int) -> int:
    """Run `body`; the exit status by the interpreter's own rules, after threads, atexit and flush."""
    status = 0
    try:
        try:
            body()
        except SystemExit as exit_:
            status = exit_status(exit_)
        except MemoryError:
            os.write(message_fd, _MEMORY_ERROR)
            status = 1
            sys.excepthook(*sys.exc_info())
        except BaseException as error:  # noqa: BLE001  whatever a program raises is its own
            status = 1
            trace = error.__traceback__
            while trace and trace.tb_frame.f_code.co_filename == __file__:
                trace = trace.tb_next
            sys.excepthook(type(error), error, trace)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001
        status = status or 1
        traceback.print_exc()
    status = flush(status, sys.stdout, sys.stderr)
    take_down()
    flush(0, *_STREAMS)
    return status


def flush(status: int, *streams: Any) -> int:
    """Flush as the interpreter does at its end; the status that it would end with."""
    for stream in streams:
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:  # noqa: BLE001
            status = status or 120
    return status


def take_down() -> None:
    """Let the program's objects go, so that files of its own are flushed and finalizers run."""
    sys.stdout, sys.stderr = _STREAMS
    main = sys.modules.get("__main__")
    names = vars(main) if main else {}
    try:
        for name in sorted(names, key=lambda name: not (name[:1] == "_" and name[1:2] != "_")):
            if name != "__builtins__":
                names[name] = None
        gc.collect()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()


def exit_status(exit_: SystemExit) -> int:
    """What the shell would see of sys.exit(code)."""
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code & 0xFF if -(1 << 63) <= exit_.code < 1 << 63 else 255
    print(exit_.code, file=sys.stderr)
    return 1


def load(code: bytes, name: str, file: str, channel: Channel) -> types.ModuleType:
    """Compile `code` and make its empty module; reports a compile error and ends the process."""
    try:
        compiled = compile(code, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        text = "".join(traceback.format_exception_only(error))
        channel.send({"op": "compile_error", "text": text[-2000:]})
        sys.stderr.write(text)
        raise SystemExit(1) from None
    module = types.ModuleType(name)
    module.__dict__.update({"__file__": file, "__builtins__": builtins})
    sys.modules[name] = module
    lines = code.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[file] = (len(code), None, lines, file)
    module.__dict__["__code__"] = compiled
    return module


def execute(module: types.ModuleType) -> None:
    """Run a loaded module's code in its own namespace."""
    exec(module.__dict__.pop("__code__"), module.__dict__)


def run_script(code: bytes, channel: Channel) -> None:
    sys.argv = ["solution.py"]
    execute(load(code, "__main__", "/work/solution.py", channel))


def serve(code: bytes, channel: Channel) -> None:
    """Load the solution, then answer one message after the other until the channel closes."""
    sys.argv = ["solution.py"]
    module = load(code, "solution", "/work/solution.py", channel)
    execute(module)
    peer = Peer(channel, vars(module))
    while True:
        message = channel.receive()
        reply = peer.answer(message)
        try:
            channel.send(reply)
        except TooLarge:
            channel.send({"op": "too_large"})


def referee(code: bytes, names: list[str], modules: list[str], channel: Channel) -> None:
    """Run assert code whose free `names` are the solution's; say how it ended."""
    peer = Peer(channel, {}, guarded=True)
    module = load(code, "__main__", "/work/test.py", channel)
    for name in modules:
        vars(module)[name] = __import__(name)
    for name in names:
        vars(module)[name] = peer.proxy(name)
    sys.modules["solution"] = RemoteModule("solution", peer)
    try:
        execute(module)
    except AssertionError as error:
        end = {"op": "failed", "kind": "assertion", "text": describe(error)}
    except TooLarge as fault:
        end = {"op": "failed", "kind": "too_large", "text": str(fault)}
    except RemoteFault as fault:
        end = {"op": "failed", "kind": "solution", "text": str(fault)}
    except Exception as error:  # noqa: BLE001
        kind = "solution" if getattr(error, "raised_by_solution", False) else "test"
        end = {"op": "failed", "kind": kind, "text": describe(error)}
    else:
        end = {"op": "done"}
    channel.send(end)


def describe(error: BaseException) -> str:
    """The last line of the traceback and the line of test code where it happened."""
    line = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == "/work/test.py":
            line = f"line {frame.lineno}: {frame.line}"
    return ("".join(traceback.format_exception_only(error)).strip() + " | " + line)[:1000]
