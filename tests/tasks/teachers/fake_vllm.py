"""Plays a vLLM server for tests: the same arguments, addresses, log lines and process tree, faults on demand.

Started as `python fake_vllm.py --model M --host H --port P --served-model-name A B --play FAULT --state FOLDER`. Its
"engine core" is a second process in a session of its own, and a third one has dropped its environment (`hidden` in
FOLDER has its number). In FOLDER it notes each start (`starts`) and each request's
text (`asked`), so that a fault can come once, and a test can count.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SEED_CRASH = """\
(Worker pid=1) INFO 11-24 13:20:38 [arg_utils.py:1] Initializing with trust_remote_code=False, out of memory
(Worker pid=1) ERROR 11-24 13:20:38 [executor.py:1063] Traceback (most recent call last):
(Worker pid=1) ERROR 11-24 13:20:38 [executor.py:1063] RuntimeError: CPU Generator does not use offset
(APIServer pid=1) ERROR 11-24 13:20:38 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore died."""
AT_START = {
    "memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "model": "OSError: no-such-model is not a local folder and is not a valid model identifier listed on the hub",
    "arguments": "api_server.py: error: unrecognized arguments: --no-such-flag",
    "other": "(EngineCore pid=7) ERROR 11-24 13:20:38 [core.py:1] ZeroDivisionError: division by zero",
}


class Fake(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, options: argparse.Namespace, start: int) -> None:
        super().__init__((options.host, options.port), Handler)
        self.names, self.play, self.state, self.start = options.served_model_name, options.play, options.state, start
        self.answered = 0
        self.dead = False
        self.lock = threading.Lock()

    def die(self, words: str = "") -> None:
        print(words, flush=True)
        os._exit(1)


class Handler(BaseHTTPRequestHandler):
    server: Fake
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self._reply(503 if self.server.dead or self.server.play == "never_healthy" else 200, {})
        else:
            self._reply(200, {"data": [{"id": name} for name in self.server.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        if self.server.dead:
            self._reply(500, {"error": {"message": "EngineCore encountered an issue."}})
            return
        with self.server.lock, (self.server.state / "asked").open("a") as asked:
            asked.write(json.dumps({"text": text, "seed": body.get("seed"), "start": self.server.start}) + "\n")
        play = self.server.play
        if play == "seed" and body.get("seed") is not None:
            print(SEED_CRASH, flush=True)
            self._reply(500, {"error": {"message": "EngineCore encountered an issue."}})
            self.server.die()
        if play == "poison" and "poison" in text:
            self.server.die("(EngineCore pid=7) ERROR 11-24 13:20:38 [core.py:1] IndexError: list index out of range")
        with self.server.lock:
            self.server.answered += 1
            count = self.server.answered
        if count > 5 and (
            play == "dies_always" or (play in ("dies_once", "dead_engine", "slow_dies_once") and self.server.start == 1)
        ):
            if play == "dead_engine":
                self.server.dead = True
                self._reply(500, {"error": {"message": "EngineCore encountered an issue."}})
                return
            os.kill(os.getpid(), signal.SIGKILL)
        if play.startswith("slow"):
            time.sleep(0.1)
        self._reply(200, {"choices": [{"message": {"content": f"so: {text}"}, "finish_reason": "stop"}],
                          "usage": {"prompt_tokens": 3, "completion_tokens": 2}})  # fmt: skip

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--play", default="")
    parser.add_argument("--state", type=Path, required=True)
    options, others = parser.parse_known_args()
    options.state.mkdir(exist_ok=True)
    started = {"port": options.port, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "at": time.time(), "words": others}
    with (options.state / "starts").open("a") as starts:
        starts.write(json.dumps(started) + "\n")
    number = len((options.state / "starts").read_text().splitlines())
    if options.play in AT_START:
        print("loading\n" + AT_START[options.play], flush=True)
        sys.exit(1)
    if options.play == "port" and number == 1:
        print(f"OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', {options.port}): "
              "address already in use", flush=True)  # fmt: skip
        sys.exit(1)
    if options.play.startswith("gpu_") and os.environ["CUDA_VISIBLE_DEVICES"] == options.play[4:]:
        print(AT_START["memory"], flush=True)
        sys.exit(1)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    hidden = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={})
    (options.state / "hidden").write_text(str(hidden.pid))
    server = Fake(options, number)
    print("Application startup complete.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
