"""The command `view`: the pages of a workspace on a local port, until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.errors import UsageError
from flows.inspect import WorkspaceArgument
from storage.workspace import Workspace

TOKEN_VARIABLE = "STILLHOUSE_VIEW_TOKEN"


def add_to(app: typer.Typer) -> None:
    app.command()(view)


def view(
    workspace: WorkspaceArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's own asks for a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8484,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            help="Token that a browser must have; made up and printed where one is needed and none is given.",
        ),
    ] = None,
) -> None:
    """Page through questions, responses, verdicts and drops in a browser. Changes nothing."""
    import uvicorn  # it and the pages' libraries are slow to import

    from tasks.viewer.app import viewer
    from tasks.viewer.catalogue import Catalogue
    from tasks.viewer.guard import SHORTEST_TOKEN, is_loopback

    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"--token has {len(token)} characters, expected {SHORTEST_TOKEN} at least; leave it out and one is made up"
        )
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    place = Workspace.open(workspace)
    console = Console(highlight=False, soft_wrap=True)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        spill = stack.enter_context(tempfile.TemporaryDirectory(prefix="stillhouse-view-"))
        catalogue = stack.enter_context(contextlib.closing(Catalogue(place, Path(spill))))
        with console.status("reading the manifest"):
            catalogue.heads()
        console.print(f"{place.root.name}: {_address(listening, host, token)}  (Ctrl-C ends it)", markup=False)
        settings = uvicorn.Config(viewer(catalogue, token), log_level="warning", access_log=False, server_header=False,
                                  ws="none", lifespan="off", timeout_graceful_shutdown=2)  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended well by then: for this command it is the end
            uvicorn.Server(settings).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port that is taken is told before anything is started."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()  # who opens the printed address at once waits for the pages, and isn't refused
    except OSError as fault:
        raise UsageError(f"can't listen at {host} port {port} ({fault}); name another --port or --host") from fault
    return made


def _address(listening: socket.socket, host: str, token: str | None) -> str:
    """The URL to open, with the token in it."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    named = f"[{host}]" if ":" in host else host
    return f"http://{named}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
