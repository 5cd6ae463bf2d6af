"""An OpenAI-compatible teacher on loopback whose answer is a function of the request.

    python sure_teacher.py PORT LOG

It may be killed and started again at any time and answers as before, so that tables can be compared row by row. LOG
gets a line for each response that was handed to the kernel whole: the id of the response.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

PAUSE_S = 0.05


def answer(text: str, draw: int) -> str:
    """Two of three are right, by `draw`."""
    one, other = map(int, re.findall(r"\d+", text)[:2])
    result = one + other if draw % 3 else one
    thought = " ".join(f"{one + n} or {other * n % 11}?" for n in range(4000))  # as long as real ones
    if "function" in text:
        return f"<think>{thought}</think>```python\ndef add_{one}_{other}(n):\n    return n + {result}\n```"
    return f"<think>{thought}</think>\\boxed{{{result}}}"


async def complete(request: web.Request) -> web.StreamResponse:
    body: dict[str, Any] = await request.json()
    key = request.headers["x-request-id"].rsplit("-", 1)[0]
    draw = int(key[:8], 16)
    await asyncio.sleep(PAUSE_S)
    message = {"role": "assistant", "content": answer(body["messages"][-1]["content"], draw)}
    usage = {"prompt_tokens": 9, "completion_tokens": draw % 997 + 1}
    whole = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(whole))})
    await response.prepare(request)
    await response.write(whole)
    await response.write_eof()
    with request.app["log"].open("a") as log:
        log.write(key + "\n")
    return response


def main() -> None:
    app = web.Application()
    app["log"] = Path(sys.argv[2])
    app.router.add_post("/v1/chat/completions", complete)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
