r"""Pairs of reference and answer with the right verdict, by family of mistake that a math judge can make.

The answers stand in a box; the family `boxes` holds whole responses. Right means what a careful person with the
reference in hand would say. Where that needs the question (`50` for `50%`), the pair carries what such a question asks.
`tests/tasks/verifiers/test_math_families.py` holds the verifier to it, `python tests/bench/math --table` prints it
beside bare Math-Verify.
"""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    family: str
    reference: str
    answer: str
    right: bool


# One line a family: reference, its right answers, its wrong ones.
_FAMILIES: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "integers": [
        ("18", ["18", "18.0", "+18", "018", "$18$", "18.", "\u200b18"], ["17", "-18", "180", "1.8", "18!"]),
        ("-5", ["−5", "- 5", r"\text{-}5"], ["5", "-6"]),
    ],
    "fractions and decimals": [
        (r"\frac12",
         [r"\frac{1}{2}", "1/2", "0.5", ".5", r"\frac{2}{4}", r"\dfrac{1}{2}", "½"],
         ["2", "12", r"-\frac12"]),
        (r"\frac{1}{3}", ["0.333333", r"\frac{-1}{-3}", "1 / 3"], ["0.3", "0.33", "3", r"\frac{1}{3}x"]),
        ("1.4", [r"\frac{7}{5}", "1.40", "7/5"], ["14", "1.41"]),
    ],
    "mixed numbers": [
        ("2.5", ["2 1/2", r"2\frac{1}{2}", r"2 \frac12", r"\frac52"], [r"2\frac{1}{3}", "21/2"]),
        (r"11 \frac{2}{3}", [r"\frac{35}{3}", "11 2/3", r"11\tfrac23"], [r"\frac{22}{3}", "11"]),
        (r"-2\frac{1}{2}", ["-2.5", r"-\frac{5}{2}", "-2 1/2"], ["-1.5", "2.5", "-1"]),
        ("1", ["1"], [r"2\frac{1}{2}"]),
    ],
    "tiny numbers": [
        ("1/2004!", ["1/2004!", r"\frac{1}{2004!}"], ["1/2006!", "0"]),
        ("1/10^{20}", ["10^{-20}", r"\frac{1}{10^{20}}"], ["1/10^{21}", "0", "10^{-21}"]),
        (r"2 \times 10^{-7}", ["0.0000002", "2e-7"], [r"2.1 \times 10^{-7}", "0", r"-2 \times 10^{-7}"]),
        (r"\frac{1}{3^{40}}", ["3^{-40}"], [r"\frac{1}{3^{41}}", r"\frac{2}{3^{40}}", "0"]),
    ],
    "scientific notation": [
        ("1000", ["1e3", r"1 \times 10^3", "10^3", r"1.0\cdot 10^{3}", "1E3"], ["1e4", "e^3", "1e-3"]),
        (r"1.5 \times 10^{-4}", ["0.00015", "1.5e-4"], ["1.5e-5", "1.5e4"]),
    ],
    "grouped digits": [
        ("1000",
         ["1,000", "1{,}000", r"1,\!000", "1_000", "1 000", r"1\,000"],
         ["1", "1,001", "1_001", "0", "1, 000, 000"]),
        ("12345678", ["12,345,678"], ["12,345,679", "12,345", "12345"]),
        ("1_000", ["1000", "1,000"], ["1_001"]),
        ("70,110", ["70, 110", "110, 70", r"\{70, 110\}"], ["70", "110", "70, 111"]),
    ],
    "numbers in other bases": [
        ("123_4", ["123_4", "123_{4}", "123"], ["123_5", "132_4"]),
        ("2516_8", ["2516", "2516_{8}", r"2516_\text{8}"], ["2561", "2516_7"]),
        ("1A_{16}", ["1a_{16}", r"\text{1A}_{16}"], ["1B_{16}", "1A_{15}"]),
    ],
    "repeating decimals": [
        (r"0.\overline{3}", [r"\frac13", "0.333...", r"0.33\overline{3}", r"0.333\ldots"], ["0.3", "0.33", "3"]),
        (r"\frac{4}{33}", [r"0.\overline{12}", "0.121212..."], ["0.12", r"0.1\overline{2}"]),
        (r"\frac16", [r"0.1\overline{6}", r"0.1\bar{6}"], [r"0.\overline{16}", "0.16"]),
    ],
    "percent": [
        (r"50\%", ["0.5", "50", "50%", "50 percent", r"\frac12", r"50\text{ percent}"], ["5", r"5\%", "500", "0.05"]),
        ("12.5", [r"12.5\%", "12.5 percent"], [r"1.25\%", r"125\%"]),
        ("0.5", [r"50\%"], [r"0.5\%", "50", r"5\%"]),
        (r"198\%", ["198", "1.98"], ["19.8", r"189\%"]),
    ],
    "money": [
        ("18",
         [r"\$18", "$18.00", "18 dollars", r"18\text{ dollars}", "18 USD", r"\text{\$}18"],
         [r"\$1.8", r"\$180"]),
        (r"\$15.48", ["15.48", "$15.48", "15.48 dollars"], ["15.84", "15", r"\$15.5"]),
        (r"\$0.50", ["0.5", "50 cents", r"50\text{ cents}", "50¢"], ["50", "5 cents"]),
        (r"\$32,\!500", ["32500", "$32,500", r"\$32{,}500.00"], ["32", "32.5"]),
    ],
    "units": [
        ("5",
         ["5 cm", r"5\text{ cm}", r"5\ \mathrm{cm}", "5 apples", r"5\text{ cm}^2", "5 cm^2",
          r"5 \text{ square units}"],
         ["6 cm", "5x", r"25\text{ cm}", "5^2"]),
        (r"5\text{ cm}", ["5", "5 cm", r"5\,\mathrm{cm}", "5 centimeters"], [r"5\text{ m}", "5 km", r"6\text{ cm}"]),
        (r"18\text{ hours}", ["18", "18 hours", "18 hrs"], ["18 minutes", "17 hours"]),
        (r"575\text{ students}", ["575", "575 students"], ["557 students", "57"]),
        (r"25\text{ cm}^2",
         ["25", r"25\ \text{cm}^2", r"25\text{ square centimeters}"],
         ["5", r"625\text{ cm}^2", r"25\text{ cm}^3"]),
        (r"99\pi \text{ square inches}", [r"99\pi"], ["99", r"\pi"]),
        ("1/2 hour", ["30 minutes", "0.5 hours"], ["30 hours"]),
        ("3 m", ["300 cm", "3"], ["3 cm"]),
    ],
    "degrees": [
        (r"30^\circ",
         ["30", r"30^{\circ}", "30°", "30 degrees", r"30\degree", r"30\text{ degrees}"],
         [r"60^\circ", "31", "3"]),
        (r"\cos 58^\circ",
         [r"\sin 32^\circ", r"\cos(58^{\circ})", "\\cos 58°"],
         [r"\sin 58^\circ", "58", r"\cos 32^\circ"]),
        (r"\frac12", [r"\sin 30^\circ", r"\cos 60^{\circ}"], [r"\cos 30^\circ"]),
        (r"\tan 20^\circ", [r"\cot 70^\circ"], [r"\cot 20^\circ", "20"]),
    ],
    "times": [
        ("3:30", ["3:30", "03:30", "3:30 p.m.", r"3\!:\!30", r"3:30\text{ PM}"], ["3.5", "3:31", "30:3", "4:30"]),
        (r"3:30\text{ p.m.}", ["3:30 PM", "15:30", "3:30"], ["3:30 a.m.", "03:30 AM", "3:03 p.m."]),
        ("12:05", ["12:05"], ["12:50", "12"]),
        (r"9\text{ a.m.}", ["9:00 AM", "9 am"], ["9 pm", "9:30 a.m."]),
    ],
    "ratios": [
        ("3:4", ["3:4", "3 : 4", "6:8", r"\frac34", r"3\text{ to }4", "3 to 4"], ["4:3", "3", "4", "3:5", "34"]),
        ("1:2:3", ["1:2:3", "2:4:6"], ["1:2", "3:2:1", "1:2:4"]),
        (r"\frac{2}{5}", ["2:5", "0.4"], ["5:2", "2"]),
    ],
    "words": [
        (r"\text{Tuesday}",
         ["Tuesday", "tuesday", r"\text{Tuesday.}", r"\mathrm{Tuesday}"],
         ["Monday", r"\text{Thursday}", "2"]),
        (r"\text{even}", ["even", "Even", r"\textbf{even}"], ["odd", "neither", r"\text{not even}", "seven"]),
        ("Yes", ["yes", r"\text{Yes}", "YES"], ["no", "No", "yesterday"]),
        ("True", ["true", r"\text{True}"], ["False", "not true"]),
        (r"\text{Navin}", ["Navin"], ["Vanin", "Luke"]),
        ("5", ["five", r"\text{five}", "Five"], ["four", "fifty", "fifteen"]),
        (r"\text{parabola}", ["a parabola", "Parabola"], ["ellipse", r"\text{hyperbola}"]),
    ],
    "letters": [
        ("ABC", ["ABC", r"\text{ABC}"], ["CBA", "ACB", "AB"]),
        ("east", ["East"], ["seat", "teas", "west"]),
        ("xy", ["yx", "x y", r"x \cdot y"], ["x+y", "x", "xz", "x^y"]),
        ("2ab", ["2ba", "ab+ab"], ["ab", "2a+b"]),
        ("x", ["x"], ["y", "X^2", "2x"]),
        ("4", ["4"], ["4t", "4x", r"4\pi"]),
    ],
    "negated answers": [
        ("5",
         ["5", r"5\text{, not }6"],
         ["The answer is not 5", r"x \neq 5", "not 5", r"\text{not }5", "≠5", "isn't 5", r"\neg 5"]),
        (r"\text{even}", ["even"], ["not even", r"\text{is not even}"]),
        ("x>3", ["3<x"], [r"x \not> 3", r"\text{not } x>3"]),
    ],
    "multiple choice": [
        ("A",
         ["A", "(A)", "A.", r"\text{(A)}", "(a)", r"\textbf{(A)}\ 12", "A) 12", "Option A", r"\text{A}"],
         ["B", "(B)", "12", "AB", r"\text{(B) }12", "Option B"]),
        (r"\text{(B)}", ["B", "(B)", "b", r"\textbf{B}", r"\mathrm{B}"], ["A", "(D)", "8", r"\text{(A)}"]),
        ("A, C", ["A,C", "C, A", "A and C", "(A), (C)"], ["A", "C", "A, B", "A, B, C"]),
        ("E", ["(E)", r"\text{E}"], ["D", "(F)", "2.718"]),
        (r"\text{ACF}", ["A,C,F", "A, C and F"], ["A,C", "A,C,E"]),
    ],
    "several answers": [
        ("2, -1",
         ["-1, 2", "2 and -1", r"2 \text{ and } -1", r"\{2,-1\}", "x=2, x=-1", r"x = 2 \text{ or } x = -1",
          "2; -1", "2 or -1"],
         ["2", "-1", "2, 1", "-2, 1", "2, -1, 0", "(2,-1)"]),
        (r"7, -2, \text{ and } -5", ["-5, -2, 7", "7,-2,-5"], ["7, -2", "7, -2, 5"]),
        ("3", ["3"], ["3, 4", "2 or 3", r"3 \text{ and } 3.5", r"\{3, 4\}"]),
        ("4, -2 + 3i, -2 - 3i", ["-2-3i, -2+3i, 4", r"4, -2 \pm 3i"], ["4, -2 + 3i", "4, 2+3i, 2-3i"]),
        ("19, 22", ["22, 19", "22 and 19", r"\boxed{19}, \boxed{22}"], ["1922", "19", "22"]),
    ],
    "plus or minus": [
        (r"\pm 2", ["2, -2", "-2, 2", r"x = \pm 2", "±2", r"\{-2, 2\}"], ["2", "-2", r"\pm 3", "0"]),
        (r"3 \pm \sqrt{2}",
         [r"3+\sqrt2, 3-\sqrt2", r"3\pm\sqrt 2"],
         [r"3+\sqrt{2}", r"3 \pm \sqrt{3}", r"-3 \pm \sqrt{2}"]),
        ("-1, 5", [r"2 \pm 3"], [r"\pm 3", r"3 \pm 2"]),
    ],
    "sets and tuples": [
        (r"\{1,2\}",
         ["1,2", r"\{2,1\}", "{1,2}", r"\left\{1, 2\right\}"],
         [r"\{1,2,3\}", r"\{1\}", "(1,2)", r"\{1,3\}", "1"]),
        ("(1,2)", ["(1, 2)", r"\left(1,2\right)", "(1.0,2)"], ["(2,1)", "[1,2]", r"\{2,1\}", "(1,2,0)", "1"]),
        (r"\emptyset", [r"\varnothing", r"\{\}", r"\{ \}"], ["0", r"\{0\}"]),
        ("(1,2),(3,4)", ["(3,4),(1,2)", "(1,2) and (3,4)"], ["(1,2)", "(1,2),(4,3)", "(1,3),(2,4)"]),
    ],
    "coordinates": [
        ("(3,4)",
         ["x=3, y=4", r"\left( 3, \frac{8}{2} \right)", "(3,4)"],
         ["(4,3)", "x=4, y=3", "3,5", "(3,4,0)", "7"]),
        (r"(4,\pi)", ["(4,π)", r"\left(4, \pi\right)"], [r"(\pi,4)", "(4,3.14)", "4"]),
        (r"\left( -\frac{1}{4}, -2 \right)", ["(-0.25,-2)", "(-1/4, -2)"], ["(0.25,-2)", "(-1/4,2)"]),
    ],
    "intervals": [
        ("[1,2]",
         [r"1 \le x \le 2", r"x \in [1,2]", r"\left[1,2\right]", "[1, 2]"],
         ["(1,2)", "[1,2)", "1 < x < 2", "[2,1]", "1,2"]),
        (r"(-\infty,2]",
         [r"x \le 2", r"x\leq 2", "x <= 2", r"\{x : x \le 2\}", "(-∞,2]"],
         ["x<2", r"x \ge 2", r"(-\infty,2)", "2"]),
        (r"(1,2) \cup (3,4)", [r"(3,4)\cup(1,2)"], ["(1,2)", "(1,4)", r"(1,2)\cap(3,4)", r"[1,2] \cup [3,4]"]),
        ("(2,5)", ["2<x<5", r"x \in (2,5)"], [r"2 \le x \le 5", "(5,2)", "[2,5]"]),
        (r"(-\infty,\infty)", [r"\mathbb{R}", r"(-\infty, +\infty)"], [r"(0,\infty)", r"\emptyset"]),
        (r"(-1,2)\cup(3,5]", [r"(3,5]\cup(-1,2)"], [r"(3,5)\cup(-1,2)"]),
    ],
    "inequalities": [
        ("x<3", ["3>x", "2x<6", "-x>-3", r"x \lt 3"], ["x>3", r"x \le 3", "x<4", "y<3", "3", "x=3", "x<-3"]),
        (r"x \ge 5", ["x>=5", r"5 \le x", r"x\geq 5", r"[5,\infty)"], ["x>5", r"x \le 5", "5", r"(5,\infty)"]),
        (r"x \neq 2", [r"x \ne 2", "x≠2"], ["x=2", "2", r"x \neq 3"]),
    ],
    "equations": [
        ("3*x-1*y+13=0", ["y=3x+13", "3x-y+13=0", "6x-2y+26=0"], ["3x+4y+14=0", "3x-y=13", "0"]),
        ("y=2x+3", ["2x-y+3=0", "2x+3", "y-2x=3", "y = 3+2x"], ["y=2x-3", "y=3x+2", "x=2y+3", "3"]),
        ("x=5", ["5", "5=x"], ["x=6", "y=5", "x+y=5", "x=-5"]),
        ("x^2+y^2=4", ["2x^2+2y^2=8", "4-x^2-y^2=0"], ["x^2+y^2=2", "x^2-y^2=4", "4"]),
        ("5", ["x=5", "2+3=5", "x = 2+3 = 5"], ["5=x+1", "x=6", "5x=5", "5=6"]),
        ("10x - 4y - 5z - 20 = 0", ["20x-8y-10z-40=0", "10x-4y-5z=20"], ["10x - 4y - 5z + 20 = 0"]),
        (r"\frac{x^2}{16} - \frac{y^2}{9} = 1", ["9x^2-16y^2=144"], [r"\frac{x^2}{16} + \frac{y^2}{9} = 1"]),
    ],
    "functions": [
        ("f(x)=x^2+1", ["x^2+1", "f(x)=1+x^2", "y=x^2+1"], ["x^2", "f(x)=x^2-1", "f(x)=x^3+1", "1"]),
        (r"3x^2\cos x", [r"f'(x) = 3x^2 \cos x", r"3\cos(x) x^2"], [r"3x^2 \sin x", r"3x \cos x"]),
    ],
    "expressions": [
        ("x^2+2x+1", ["(x+1)^2", "1+2x+x^2", "x^2+2*x+1"], ["x^2+1", "(x-1)^2", "x^2+2x", "y^2+2y+1"]),
        ("(x-1)(x+1)", ["x^2-1", "(x+1)(x-1)"], ["x^2+1", "x-1"]),
        (r"\frac{8t}{3}", [r"\frac{8}{3}t", "8t/3"], [r"\frac{8}{3}", r"\frac{8}{3t}", "8t"]),
        (r"\frac{1}{x+1}", ["(x+1)^{-1}", "1/(x+1)"], [r"\frac1x+1", "x+1"]),
    ],
    "partial parses": [
        ("4", ["4", r"\sqrt{16}"], [r"4\sqrt(2)", r"4\sqrt{2}", "4+", "4 + x", r"4\foo", "4^{x}", r"4\cdot", "4#5"]),
        ("2", ["2"], ["2x", "2 or", "2..5", "2/", r"\frac{2}{", "2)(3", "2=3"]),
        (r"\sqrt{2}", [r"\sqrt2", "√2", "sqrt(2)", "2^{1/2}"], ["2", r"\sqrt{3}", r"2\sqrt{2}", r"\sqrt{}2"]),
    ],
    "radicals and constants": [
        (r"2\sqrt{3}",
         [r"\sqrt{12}", r"\sqrt{3}\cdot 2", "2√3", r"\frac{6}{\sqrt{3}}"],
         [r"3\sqrt{2}", r"\sqrt{6}", "3.4", "2"]),
        (r"4\pi", ["4π", r"\pi \cdot 4", "4pi", "12.566371"], ["4", r"\pi", r"4\pi^2", "12.57"]),
        (r"3\ln 2", [r"\ln 8", "3 ln 2", r"\log_e 8"], [r"\ln 6", r"\ln 2", r"2\ln 3"]),
        ("3", [r"\log_2 8", r"\sqrt[3]{27}", r"\lfloor 3.7 \rfloor"], [r"\log_2 9", r"\log_3 8"]),
        ("e", ["e", r"\mathrm{e}"], ["2.7", "1", r"\pi"]),
        (r"\infty", ["∞", r"+\infty", "infinity"], [r"-\infty", "0", "8"]),
    ],
    "factorials and large powers": [
        ("3628800", ["10!"], ["9!", "11!", "10"]),
        ("17", ["17"], ["17!", "17^{17}"]),
        ("100!", [r"\frac{101!}{101}", r"100 \cdot 99!"], ["101!", "100", "99!"]),
        ("2^{100}",
         ["4^{50}", "1267650600228229401496703205376"],
         ["2^{101}", "2^{99}", "1267650600228229401496703205377", "100"]),
        (r"\binom{10}{3}", ["120", r"\frac{10!}{3!7!}"], ["30", "720", r"\binom{10}{4}"]),
        ("5", ["5"], ["2^{100000000000}", "9!!!!!!!", "1000000000!", "10^{10^{10}}"]),
    ],
    "complex numbers": [
        ("3+4i", ["4i+3", "3 + 4 i", r"3+4\mathrm{i}"], ["3-4i", "4+3i", "5", "7", "3+4j+k", "3+4"]),
        ("-1", [r"e^{i\pi}", "i^2", r"e^{\pi i}"], ["i", r"e^{2i\pi}", "-i"]),
        ("2i", [r"\sqrt{-4}", "0+2i"], ["2", "-2i", "i", r"\sqrt{4}"]),
        (r"1+i\sqrt{3}",
         [r"2(\cos 60^\circ + i \sin 60^\circ)", r"1+\sqrt{3}i", r"2e^{i\pi/3}"],
         [r"1-i\sqrt{3}", r"1+\sqrt{3}"]),
    ],
    "matrices": [
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         [r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1.0&2\\3&\frac{8}{2}\end{pmatrix}",
          r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"],
         [r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}",
          r"\begin{pmatrix}1&2&3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2", "1, 2, 3, 4"]),
        (r"\begin{pmatrix} 6/5 \\ -17/5 \end{pmatrix}",
         [r"\begin{pmatrix}1.2\\-3.4\end{pmatrix}", r"\begin{bmatrix}\frac65\\[2pt]-\frac{17}{5}\end{bmatrix}"],
         [r"\begin{pmatrix}6/5&-17/5\end{pmatrix}", r"\begin{pmatrix}6/5\\17/5\end{pmatrix}",
          r"\begin{pmatrix}6/5\end{pmatrix}"]),
    ],
    "unicode and typography": [
        ("-3", ["−3", "–3", "－3"], ["3"]),
        ("x^2", ["x²", "x·x"], ["x2", "x³", "2x"]),
        (r"6\pi", ["6π", "2×3π"], ["6"]),
        ("5", ["５", "\u202a5\u202c", "5\u00a0"], ["٦"]),
    ],
    "boxes": [
        ("4",
         [r"First \boxed{3}, no: \boxed{4}.", r"\boxed{\boxed{4}}", r"\fbox{4}", r"$x=\boxed{4}$"],
         [r"\boxed{4} was wrong, it is \boxed{3}", r"\boxed{3} and \boxed{4}", r"\boxed{4}, \boxed{5}"]),
        ("2, 3",
         [r"So \boxed{2} and \boxed{3}.", r"$\boxed{3}$, $\boxed{2}$", r"\boxed{2,3}",
          r"$x = \boxed{2}$ or $x = \boxed{3}$"],
         [r"\boxed{2}", r"\boxed{3}", r"\boxed{2} and \boxed{4}", r"\boxed{2} gives \boxed{3}"]),
        ("7",
         [r"\boxed{7} and again \boxed{7}", r"\boxed{7}, \boxed{7}"],
         [r"\boxed{}", r"\boxed{8} and \boxed{7.5}"]),
    ],
}  # fmt: skip


def pairs() -> list[Pair]:
    """Every pair of every family, right ones before wrong ones."""
    return [
        Pair(family, reference, answer, right)
        for family, lines in _FAMILIES.items()
        for reference, accepted, rejected in lines
        for right, answers in ((True, accepted), (False, rejected))
        for answer in answers
    ]


def response(pair: Pair) -> str:
    """The whole response in which the answer stands."""
    return pair.answer if pair.family == "boxes" else f"So it is \\boxed{{{pair.answer}}}."
