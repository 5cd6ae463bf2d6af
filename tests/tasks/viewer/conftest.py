"""A workspace to look at, with hostile and pretty texts, its pages on a loopback port, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from storage.workspace import Workspace
from tasks.viewer.app import viewer
from tasks.viewer.catalogue import Catalogue
from tests.tasks.viewer.made import fill_workspace

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def served(workspace: Workspace, spill: Path, token: str | None = None) -> Iterator[str]:
    """The pages of a workspace on a free loopback port: its URL."""
    catalogue = Catalogue(workspace, spill)
    settings = uvicorn.Config(viewer(catalogue, token), host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(settings)
    up = threading.Event()
    started = server.startup

    async def startup(sockets: list[object] | None = None) -> None:
        await started(sockets)
        up.set()

    server.startup = startup
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert up.wait(30)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        catalogue.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """130 questions in four shards, two teachers, verdicts, grades, drops: see made.py."""
    workspace = Workspace.create(tmp_path_factory.mktemp("viewed") / "sums", bits=2)
    fill_workspace(workspace)
    return workspace


@pytest.fixture(scope="session")
def catalogue(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    found = Catalogue(made, tmp_path_factory.mktemp("spill"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def url(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(made, tmp_path_factory.mktemp("spill")) as found:
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium here; deploy/setup.sh installs one where it may")
        pytest.skip("no chromium here; install it, or name one in the variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Tab:
    """A browser's page with all that it complained of or fetched."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda fault: self.complaints.append(str(fault)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def _said(self, message: ConsoleMessage) -> None:
        self.complaints.append(f"{message.type}: {message.text}")


@pytest.fixture
def open_tab(chromium: Browser) -> Iterator[Callable[..., Tab]]:
    """`open_tab(url, color_scheme="dark")`; after the test no tab may have complained of anything."""
    tabs: list[Tab] = []

    def opened(address: str, **context: object) -> Tab:
        tab = Tab(chromium.new_context(viewport={"width": 1280, "height": 900}, **context).new_page())
        tabs.append(tab)
        tab.page.goto(address)
        return tab

    yield opened
    for tab in tabs:
        tab.page.context.close()
        assert tab.complaints == []
