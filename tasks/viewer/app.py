"""The pages of the viewer, as an ASGI application.

Every page is made from the committed tables at the moment it is asked for. Only GET is answered (and the form that
takes the token); nothing of a URL becomes a path or a piece of SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import duckdb
from jinja2 import ChoiceLoader, Environment, PackageLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from storage.errors import StorageError
from tasks.page import environment
from tasks.viewer import drops, overview, questions, responses, verdicts
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.filters import BadAddress, Filter, check, shown
from tasks.viewer.guard import Guard
from tasks.viewer.prose import Prose, stylesheet
from tasks.viewer.question import find, kept_question, pretty, read_question
from tasks.viewer.scan import Key, Listing, page_of, read_cursor


def viewer(catalogue: Catalogue, token: str | None = None) -> Guard:
    """The application; with a token, only those who have it see a page."""
    pages = Pages(catalogue)
    return Guard(pages.application(), token, pages.sign_in)


class Pages:
    """One method a page."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._templates = _templates()
        self._static = {
            "page.css": ("text/css", _stylesheet(self._templates)),
            "icon.svg": ("image/svg+xml", _package_file("icon.svg")),
        }

    def application(self) -> Starlette:
        routes: list[tuple[str, Callable[[Request], Response]]] = [
            ("/", self.overview),
            ("/questions", self.questions),
            ("/question/{question_id}", self.question),
            ("/responses", self.responses),
            ("/verdicts", self.verdicts),
            ("/drops", self.drops),
            ("/find", self.find),
            ("/static/{name}", self.static),
        ]
        return Starlette(
            routes=[Route(path, page, methods=["GET"]) for path, page in routes],
            exception_handlers={
                HTTPException: self._no_page,
                BadAddress: self._bad_address,
                duckdb.Error: self._unreadable,
                StorageError: self._unreadable,
            },
        )

    # --- pages

    def overview(self, request: Request) -> Response:
        heads = self._catalogue.heads()
        rows = overview.funnel(heads)
        made = max((head.created for head in heads), default=None)
        return self._page(
            request, "overview.html.j2", rows=rows, made=made, counts=overview.row_counts(heads),
            teachers=self._catalogue.teachers(), shards=len(self._catalogue.workspace.shards),
        )  # fmt: skip

    def questions(self, request: Request) -> Response:
        filters = questions.filters(
            self._catalogue.teachers(), overview.rules(self._catalogue.heads(), "question")
        )  # fmt: skip
        return self._list(request, "questions", filters, questions.listing, questions.read_rows)

    def responses(self, request: Request) -> Response:
        filters = responses.filters(self._catalogue.teachers())
        return self._list(request, "responses", filters, responses.listing, responses.read_rows)

    def verdicts(self, request: Request) -> Response:
        filters = verdicts.filters(self._catalogue.teachers())
        return self._list(request, "verdicts", filters, lambda given: verdicts.listing(), verdicts.read_rows)

    def drops(self, request: Request) -> Response:
        heads = self._catalogue.heads()
        steps = list(dict.fromkeys(head.step for head in heads if head.ledger()))
        filters = drops.filters(steps, overview.rules(heads))
        given, places = check(request.query_params.multi_items(), filters)
        if tidy := _tidied(request, given, places):
            return tidy
        cursor = drops.read_cursor(places.get("after"), places.get("before"))
        rows, page = drops.page_of(self._catalogue, heads, given, cursor)
        return self._page(
            request, "drops.html.j2", rows=rows, page=page, given=given, filters=filters, places=places,
            shown=shown(given, filters), total=None if "text" in given else drops.count(heads, given),
            link=_linker(request.url.path, given),
        )  # fmt: skip

    def question(self, request: Request) -> Response:
        facts = read_question(self._catalogue, _identity(request.path_params["question_id"]))
        if facts is None:
            raise HTTPException(404, "No question of this workspace has this id.")
        prose = Prose(as_written=request.query_params.get("as") == "written")
        return self._page(request, "question.html.j2", facts=facts, prose=prose, as_written=prose.as_written)

    def find(self, request: Request) -> Response:
        wanted = request.query_params.get("id", "").strip().lower()
        if not re.fullmatch("[0-9a-f]{4,32}", wanted):
            raise BadAddress(
                f"id: found {wanted[:80] or 'nothing'}, expected 4 to 32 hex digits, the beginning of an id"
            )
        skip = request.query_params.get("skip", "0")
        if not re.fullmatch(r"\d{1,5}", skip):
            raise BadAddress(f"skip: found {skip[:80]}, expected a number of shards")
        place = find(self._catalogue, wanted, int(skip))
        if place.question_id and not place.several:
            anchor = f"#r-{place.response_id}" if place.response_id else ""
            return RedirectResponse(f"/question/{place.question_id}{anchor}", 303)
        onward = None if place.everywhere else f"/find?{urlencode({'id': wanted, 'skip': int(skip) + place.looked})}"
        return self._page(request, "find.html.j2", status=404, wanted=wanted, place=place, onward=onward)

    def static(self, request: Request) -> Response:
        try:
            kind, content = self._static[request.path_params["name"]]
        except KeyError:
            raise HTTPException(404, "There is no such file.") from None
        return Response(content, media_type=kind)

    def sign_in(self, request: Request, wrong: bool) -> Response:
        """The page that asks for the token."""
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        target = "/" if wrong or target.startswith("/token") else target
        return self._page(request, "token.html.j2", status=401, wrong=wrong, target=target)

    # --- what they share

    def _list(
        self,
        request: Request,
        name: str,
        filters: Sequence[Filter],
        listing: Callable[[dict[str, str]], Listing],
        read_rows: Callable[[Catalogue, Sequence[Key], dict[str, str]], Sequence[Any]],
    ) -> Response:
        """A page of a list that goes through the shards."""
        given, places = check(request.query_params.multi_items(), filters)
        if tidy := _tidied(request, given, places):
            return tidy
        what = listing(given)
        page = page_of(
            self._catalogue, what, given, read_cursor(places.get("after"), places.get("before"), len(what.key))
        )
        rows = read_rows(self._catalogue, page.keys, given) if page.keys else []
        total = None if given else overview.row_counts(self._catalogue.heads()).get(what.table, 0)
        return self._page(
            request, f"{name}.html.j2", rows=rows, page=page, given=given, filters=filters, places=places,
            shown=shown(given, filters), total=total, link=_linker(request.url.path, given),
        )  # fmt: skip

    def _page(self, request: Request, template: str, *, status: int = 200, **facts: Any) -> HTMLResponse:
        facts |= {"workspace": self._catalogue.workspace.root.name, "path": request.url.path}
        return HTMLResponse(self._templates.get_template(template).render(**facts), status)

    def _no_page(self, request: Request, fault: Exception) -> Response:
        status, text = (fault.status_code, fault.detail) if isinstance(fault, HTTPException) else (500, "")
        return self._page(
            request, "error.html.j2", status=status, title={404: "Not found"}.get(status, text), text=text
        )

    def _bad_address(self, request: Request, fault: Exception) -> Response:
        return self._page(request, "error.html.j2", status=400, title="This address can’t be answered", text=str(fault))

    def _unreadable(self, request: Request, fault: Exception) -> Response:
        """A part that a garbage collection has just removed, or too little memory; by the next try it may be well."""
        text = f"{str(fault).splitlines()[0][:500]} – if the workspace is being changed right now, load the page again."
        return self._page(request, "error.html.j2", status=503, title="The tables can’t be read", text=text)


def _identity(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise HTTPException(404, "An id of a question has 32 hex digits.")
    return text


def _tidied(request: Request, given: dict[str, str], places: dict[str, str]) -> Response | None:
    """To the same page without the empty fields of its form, so that its URL is short enough to be sent on."""
    if len(request.query_params.multi_items()) == len(given) + len(places):
        return None
    query = urlencode(given | places)
    return RedirectResponse(request.url.path + (f"?{query}" if query else ""), 303)


def _linker(path: str, given: dict[str, str]) -> Callable[..., str]:
    """URLs of this list: `link(after=key)` with the filters as they are, `link(category=None)` without one."""

    def link(**changes: Any) -> str:
        wanted = {name: "~".join(value) if isinstance(value, tuple) else value
                  for name, value in (given | changes).items() if value is not None}  # fmt: skip
        return path + (f"?{urlencode(wanted)}" if wanted else "")

    return link


def _templates() -> Environment:
    made = environment()
    made.loader = ChoiceLoader([PackageLoader("tasks.viewer"), PackageLoader("tasks")])
    made.filters |= {
        "pretty": pretty,
        "words": lambda name: name.replace("_", " "),
        "drops": lambda dropped: sum(dropped.values()),
        "linked_question": kept_question,
    }
    made.tests["is_id"] = lambda text: bool(re.match("[0-9a-f]{32}(/|$)", text))
    made.globals["url_query"] = urlencode
    return made


def _package_file(name: str) -> str:
    return (files("tasks.viewer") / "static" / name).read_text(encoding="utf-8")


def _stylesheet(templates: Environment) -> str:
    """The pages' style as the report has it, what the viewer adds, and the colours of code."""
    shared = templates.get_template("page.css.j2").render()
    return "\n".join([shared, _package_file("viewer.css"), stylesheet()])
