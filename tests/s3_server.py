"""A real S3 server (moto's) in a process of its own, on loopback, that also misbehaves when it is told to.

    python tests/s3_server.py [PORT [DELAY_MS]]          prints its URL when it listens; 0 is a free port

`POST /_faults` with JSON `{"method": "PUT", "bucket": "b", "match": "tables/", "times": 2, "do": "503"}`: the next so
many requests of the bucket whose path contains `match` are answered that way. `do`: a status; `cut`, the connection is
cut before the answer, and nothing is stored; `lose`, the request is carried out, and the connection cut before the
answer. `DELETE /_faults`: no more of them. `GET /_requests`: how many requests of each method came, and how many of
each kind of fault were made.

moto looks whether an object exists and then stores it, in two steps; puts are let in one by one, so that a conditional
put is atomic, as S3's is.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>Please reduce your request rate.'
    b"</Message></Error>"
)
CODES = {"500": b"InternalError", "503": b"SlowDown", "403": b"AccessDenied", "409": b"ConditionalRequestConflict"}


class Server:
    """A WSGI application in front of moto's."""

    def __init__(self, inner, delay_s: float) -> None:
        self._inner, self._delay_s = inner, delay_s
        self._lock, self._puts = threading.Lock(), threading.Lock()
        self._faults: list[dict] = []
        self._seen: Counter = Counter()

    def __call__(self, environ, start):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path in ("/_faults", "/_requests"):
            return self._control(environ, start, method)
        time.sleep(self._delay_s)
        do = self._fault(method, path)
        if do in CODES:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{do} fault", [("Content-Type", "application/xml")])
            return [SLOW_DOWN % CODES[do]]
        if do == "cut":
            return _cut(environ)
        if method != "PUT":
            return self._inner(environ, start)
        with self._puts:
            answer = b"".join(self._inner(environ, start))
        return _cut(environ) if do == "lose" else [answer]

    def _control(self, environ, start, method):
        with self._lock:
            if method == "DELETE":
                self._faults = []
            if method == "POST":
                data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                self._faults = [one for one in self._faults if one["times"]] + [json.loads(data)]
            body = json.dumps(self._seen).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _fault(self, method, path) -> str:
        with self._lock:
            self._seen[method] += 1
            for one in self._faults:
                mine = path.startswith(f"/{one['bucket']}/") and one["match"] in path
                if one["times"] and one["method"] == method and mine:
                    one["times"] -= 1
                    self._seen[one["do"]] += 1
                    return one["do"]
        return ""


def _cut(environ):
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


def main() -> None:
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    inner = DomainDispatcherApplication(create_backend_app)
    port, delay_ms, *_ = (*map(float, sys.argv[1:]), 0.0, 0.0)
    server = make_server("127.0.0.1", int(port), Server(inner, delay_ms / 1000), threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
