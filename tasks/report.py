"""Report: one self-contained HTML page for a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from storage.database import open_views
from storage.files import replace_file
from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.workspace import Workspace
from tasks.step import Context, Step, Work

VERSION = "1"

PAGE = """<!doctype html><meta charset="utf-8"><title>{{ name }}</title><h1>{{ name }}</h1>
<table>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
"""


def report_step(name: str, reads: Sequence[str], student: str | None) -> Step:
    """The step that writes `report.html` from all that was made; `student` is the student's name, if there is one."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            transaction = context.begin(step, one)
            path = write_report(context.workspace, name, student)
            book = Book("page", 1, 1)
            transaction.commit_result([book], content=hash_text(path.read_text(encoding="utf-8")))

    return Step("report", "report", "one", VERSION, {"name": name, "student": student}, tuple(reads), run)


def write_report(workspace: Workspace, name: str, student: str | None) -> Path:
    """Write the page and return its path."""
    rows = open_views(workspace).execute("select step, unit, sum(units_in), sum(units_out) from books group by 1, 2").fetchall()
    page = Environment(autoescape=True).from_string(PAGE).render(name=name, rows=rows)
    replace_file(workspace.root / "report.html", page.encode())
    return workspace.root / "report.html"
