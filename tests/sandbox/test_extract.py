"""Proves each rule of code extraction, one answer a rule."""

from __future__ import annotations

import pytest

from sandbox import extract_code

CODE = "print(1)\n"


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nprint(1)\n```",
        "text\n```py\nprint(0)\n```\nbetter:\n```Python3\nprint(1)\n```\ndone",
        "```python\nprint(1)\n```\nrun it:\n```bash\npython x.py\n```",
        "```python\nprint(1)\n```\noutput:\n```\n1\n```",
        "```\nprint(1)\n```",
        "```python\nprint(1)\n",
        "~~~python\nprint(1)\n~~~",
        "````python\nprint(1)\n````",
        "```python title=x\nprint(1)\n```",
        "```{.python}\nprint(1)\n```",
        "1. so\n   ```python\n   print(1)\n   ```",
        "```python\r\nprint(1)\r\n```\r\n",
        "<think>\n```python\nprint(0)\n```\n</think>\n```python\nprint(1)\n```",
        "> ```python\n> print(1)\n> ```",
    ],
)
def test_the_block_is_found(answer: str) -> None:
    assert extract_code(answer) == CODE


@pytest.mark.parametrize(
    "answer",
    [
        "no code here",
        "",
        "```cpp\nint main() {}\n```",
        "```python\n```",
        "<think>\n```python\nprint(0)\n```\n</think>\nThe answer is 5.",
        "Yes",
        "42",
    ],
)
def test_no_code(answer: str) -> None:
    assert extract_code(answer) is None


def test_an_answer_without_fences_is_code_when_it_does_something() -> None:
    assert extract_code("import sys\nprint(sys.argv)") == "import sys\nprint(sys.argv)"
    assert extract_code("def f():\n    return 1") is not None


def test_fences_inside_a_longer_fence_are_its_content() -> None:
    answer = '````python\ns = """\n```\n"""\n````'
    assert extract_code(answer) == 's = """\n```\n"""\n'


def test_other_languages_and_unknown_ones() -> None:
    answer = "```c++\nint main() {}\n```\n```python\nprint(1)\n```"
    assert extract_code(answer, "cpp") == "int main() {}\n"
    with pytest.raises(ValueError, match="language must be one of python"):
        extract_code(answer, "cobol")
