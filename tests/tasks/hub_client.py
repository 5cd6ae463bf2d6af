"""Reads benchmarks and sources from the hub that HF_ENDPOINT names, in a process that can connect to loopback only.

`python hub_client.py FOLDER JSON`: a list of {benchmark: …} and {source: …}; prints a JSON list of what came of each.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path


def refuse_the_world(event: str, arguments: tuple) -> None:
    """No connection and no look-up leaves loopback; the libraries take it for a network that is away."""
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] != "127.0.0.1":
        raise ConnectionRefusedError(f"{arguments[1]} is not on loopback")
    if event == "socket.getaddrinfo" and arguments[0] != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, f"{arguments[0]} is not on loopback")


def main() -> None:
    sys.addaudithook(refuse_the_world)
    from tasks.decontaminate_benchmarks import Benchmark, load_items
    from tasks.errors import StageError
    from tasks.sources import HuggingFaceSource, read_source

    base, found = Path(sys.argv[1]), []
    for wish in json.loads(sys.argv[2]):
        try:
            if "benchmark" in wish:
                items = load_items([Benchmark.model_validate(wish["benchmark"])], base)
                found.append([[item.text, item.answer, item.entry_point] for item in items])
            else:
                source = HuggingFaceSource.model_validate({"name": "s", "kind": "huggingface"} | wish["source"])
                found.append([[record.place, record.value] for record in read_source(source, base)])
        except StageError as fault:
            found.append({type(fault).__name__: str(fault)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
