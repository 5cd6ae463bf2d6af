"""Proves what the quantity rule reads, which pairs it accepts, rejects and leaves to the judge, its table of units
against sympy's, and that in a run the judge is asked for science answers only where the rule can't tell."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from sympy.physics import units as sympy_units
from sympy.physics.units.systems.si import SI, dimsys_SI

from tasks.verifiers.quantity import QuantityVerifier, parse_quantity, stated_quantity
from tasks.verifiers.quantity_units import parse_unit
from tasks.verifiers.settings import VerifySettings
from tasks.verifiers.verdict import Item
from tests.tasks.verifiers import loopback


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("9.8 m/s^2", "9.8 m s^-2"),
        ("9.8 m/s²", "9.8 m s^-2"),
        ("9.8 m s⁻²", "9.8 m s^-2"),
        ("9.8 m s-2", "9.8 m s^-2"),
        ("9.8 meters per second squared", "9.8 m s^-2"),
        (r"$9.8\ \mathrm{m/s^{2}}$", "9.8 m s^-2"),
        (r"9.8\,\frac{\text{m}}{\text{s}^2}", "9.8 m s^-2"),
        ("**g ≈ 9.8 N/kg**", "9.8 m s^-2"),
        ("9.8 ± 0.1 m/s^2", "9.8 m s^-2"),
        ("(9.8 ± 0.1) m/s^2", "9.8 m s^-2"),
        ("5 x 10^3 kg", "5e+03 kg"),
        (r"5 \times 10^{3}\,\text{kg}", "5e+03 kg"),
        ("5·10³ kg", "5e+03 kg"),
        ("5,000 kg", "5e+03 kg"),
        ("5 000 kg", "5e+03 kg"),
        ("about 5e3 kg.", "5e+03 kg"),
        ("3.2e-19 J", "3.2e-19 m^2 kg s^-2"),
        ("2 eV", "3.2e-19 m^2 kg s^-2"),
        ("−1.6 × 10⁻¹⁹ C", "-1.6e-19 s A"),
        ("10^5 Pa", "1e+05 m^-1 kg s^-2"),
        ("25 °C", "298 K"),
        (r"25^\circ\text{C}", "298 K"),
        ("77 degrees Fahrenheit", "298 K"),
        (r"4.5\ \mu\text{m}", "4.5e-06 m"),
        (r"8.314\ \mathrm{J\,mol^{-1}\,K^{-1}}", "8.31 m^2 kg s^-2 K^-1 mol^-1"),
        ("v = d/t = 36 km/h", "10 m s^-1"),
        ("5 J/(s m^2)", "5 kg s^-3"),
        ("42", "42"),
        ("0.25", "0.25"),
        ("-7", "-7"),
    ],
)
def test_what_is_a_quantity(text: str, canonical: str) -> None:
    found = parse_quantity(text)
    assert found is not None and found.canonical() == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", "B", "m/s", "x = 3 m, y = 4 m", "5-6 m", "5 to 6 m", "9,8 m", "3 m/s north", "3 m and 4 s", "1 in 5",
        "1/2 m", "4π m", "12 5", "5 m/", "5 (m", "5 m^", "5 m^0", "5 m^99", "1e400 m", "1e-400 m", "7 dB", "5 apples",
        "10 m 2", "٣ m/s^" + "9" * 500, "{" * 5000, "9" * 100_000, "10^" * 1000, "5 " + "m/" * 500, "\\frac" * 500,
        "5 m\u202e",
    ],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    assert parse_quantity(text) is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("9.8 m/s^2", "9.8 m s^-2"),
        ("First 3 s, then 4 s, so \\boxed{9.8\\ \\text{m/s}^2} downwards.", "9.8 m s^-2"),
        ("So $\\boxed{9.8}\\ \\text{m/s}^2$. Done", "9.8 m s^-2"),
        ("It falls. The final answer is $9.8\\ \\text{m/s}^2$. Hope it helps", "9.8 m s^-2"),
        ("It falls.\n\n**Answer:** 9.8 m/s²\n", "9.8 m s^-2"),
        ("## Answer:\n\n9.8 m/s²", "9.8 m s^-2"),
        ("The answer is 3 m. No, the answer is 4 m.", "4 m"),
        ("The value of g is 9.8 m/s^2, as everyone knows.", None),
        ("The answer is B.", None),
        ("\\boxed{B} since the answer is 3 m.", None),
    ],
)
def test_where_the_answer_is_read(text: str, canonical: str | None) -> None:
    found = stated_quantity(text)
    assert (found and found.canonical()) == canonical


@pytest.mark.parametrize(
    ("reference", "answer", "status"),
    [
        ("9.8 m/s^2", "9.81 m/s^2", "accepted"),
        ("9.8 m/s^2", "9.81 N/kg", "accepted"),
        ("9.8 m/s^2", "981 cm/s^2", "accepted"),
        ("5 kg", "5000 g", "accepted"),
        ("3.6e6 J", "1 kWh", "accepted"),
        ("25 °C", "298.15 K", "accepted"),
        ("298 K", "25 °C", "accepted"),
        ("0.25", "25%", "accepted"),
        ("25 %", "0.25 %", "wrong_answer"),
        ("0.52", "0.521", "accepted"),
        ("100", "100", "accepted"),
        ("100", "100.0", "accepted"),
        ("0 m", "0 m", "accepted"),
        # outside the tolerance, another power of ten, another sign, another dimension
        ("9.8 m/s^2", "9.5 m/s^2", "wrong_answer"),
        ("9.8 m/s^2", "98 m/s^2", "wrong_answer"),
        ("9.8 m/s^2", "-9.8 m/s^2", "wrong_answer"),
        ("9.8 m/s^2", "9.8 m/s", "wrong_answer"),
        ("9.8 m/s^2", "9.8 km/s^2", "wrong_answer"),
        ("25 °C", "27 °C", "wrong_answer"),
        ("25 °C", "25 K", "wrong_answer"),
        ("5 V", "5 W", "wrong_answer"),
        ("100", "101", "wrong_answer"),
        ("1905", "1915", "wrong_answer"),
        ("0 m", "2 m", "wrong_answer"),
        ("5 kg", "", "no_answer"),
        # left to the judge
        ("9.8 m/s^2", "9.8", "unverifiable"),
        ("9.8", "9.8 m/s^2", "unverifiable"),
        ("9.81 m/s^2", "10 m/s^2", "unverifiable"),
        ("0.5 A", "0.46 A", "unverifiable"),
        ("300", "299.7", "unverifiable"),
        ("-286 kJ/mol", "-286 kJ", "unverifiable"),
        ("50 Hz", "314 rad/s", "unverifiable"),
        ("25 °C", "25 C", "unverifiable"),
        ("0 m", "0.2 m", "unverifiable"),
        ("Gravity.", "9.8 m/s^2", "unverifiable"),
        ("9.8 m/s^2", "It depends.", "unverifiable"),
    ],
)
def test_pairs(reference: str, answer: str, status: str) -> None:
    [judgement] = QuantityVerifier().judge([Item("q", "science", "How much?", reference, answer)])
    assert judgement.status == status, judgement.evidence
    assert judgement.passed == {"accepted": True, "unverifiable": None}.get(status, False)


def test_the_tolerance_is_a_setting_and_part_of_the_version() -> None:
    item = Item("q", "science", "How much?", "9.8 m/s^2", "9.5 m/s^2")
    assert QuantityVerifier(tolerance=0.05).judge([item])[0].status == "accepted"
    assert QuantityVerifier(tolerance=0.0).judge([item])[0].status == "wrong_answer"
    assert QuantityVerifier(tolerance=0.05).version != QuantityVerifier().version
    with pytest.raises(ValueError, match="such as"):
        QuantityVerifier(tolerance=1.0)


def test_equal_quantities_have_one_canonical_answer() -> None:
    answers = ["9.8 m/s^2", "980 cm/s²", "The answer is 9.80 N/kg."]
    items = [Item("q", "science", "How much?", "9.8 m/s^2", answer) for answer in answers]
    assert {judgement.answer for judgement in QuantityVerifier().judge(items)} == {"9.8 m s^-2"}


SYMPY_TEXT = """
m meter  g gram  s second  A ampere  K kelvin  mol mole  cd candela  Hz hertz  N newton  Pa pascal  J joule  W watt
C coulomb  V volt  F farad  Ω ohm  S siemens  Wb weber  T tesla  H henry  lx lux  Bq becquerel  Gy gray  L liter
eV electronvolt  bar bar  Da dalton  min minute  h hour  d day  % percent  ft foot  in inch  mi mile  lb pound
atm atmosphere  psi psi  mmHg mmHg  AU astronomical_unit  ly lightyear  km kilometer  mg milligram  ns nanosecond
ha hectare
"""
SYMPY = SYMPY_TEXT.split()


@pytest.mark.parametrize(("symbol", "name"), list(zip(SYMPY[::2], SYMPY[1::2], strict=True)))
def test_units_agree_with_sympy(symbol: str, name: str) -> None:
    ours, theirs = parse_unit(symbol), getattr(sympy_units, name)
    assert ours is not None
    scale = float(SI.get_quantity_scale_factor(theirs)) / 1000 ** dimsys_SI.get_dimensional_dependencies(
        SI.get_quantity_dimension(theirs)
    ).get(sympy_units.mass, 0)  # sympy's scale factors count in grams
    assert ours.factor == pytest.approx(scale, rel=1e-4)
    powers = dimsys_SI.get_dimensional_dependencies(SI.get_quantity_dimension(theirs))
    base = [sympy_units.length, sympy_units.mass, sympy_units.time, sympy_units.current, sympy_units.temperature,
            sympy_units.amount_of_substance, sympy_units.luminous_intensity]  # fmt: skip
    assert list(ours.dimensions[:7]) == [powers.get(one, 0) for one in base]


def test_science_goes_to_the_rule_first_then_to_the_models_that_are_set() -> None:
    models = {"judge": {"base_url": "http://a", "model": "m"}, "reward": {"model": "m"}}
    assert VerifySettings().verifiers("science") == ("quantity",)
    assert VerifySettings.model_validate(models).verifiers("science") == ("quantity", "judge", "reward")
    assert VerifySettings.model_validate(models).verifiers("other") == ("judge", "reward")


@pytest.mark.parametrize("with_judge", [True, False])
def test_the_judge_is_asked_only_where_the_rule_cannot_tell(
    make_house: Any, make_source: Any, with_judge: bool
) -> None:
    answers = {
        "How fast?": ("9.8 m/s^2", "\\boxed{9.81\\ \\text{m/s}^2}", "accepted"),
        "How heavy?": ("5 kg", "The answer is 5 g.", "wrong_answer"),
        "How long?": ("3 m", "The answer is 3.", "unverifiable"),
        "Why?": ("Gravity.", "Because of gravity.", "unverifiable"),
    }
    asked: list[str] = []

    async def judge(request: web.Request) -> web.Response:
        text = (await request.json())["messages"][1]["content"]
        asked.append(next(question for question in answers if question in text))
        return web.json_response({"choices": [{"message": {"content": '{"reason": "same", "score": 5}'}}]})

    house = make_house(
        make_source(category="science"), teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl"}]
    )
    house.write("sums.jsonl", [{"question": key, "ground_truth": row[0]} for key, row in answers.items()])
    house.write("answers.jsonl", [{"question": key, "response": [row[1]]} for key, row in answers.items()])
    with loopback.serving({"/v1/chat/completions": judge}) as url:
        if with_judge:
            house.recipe["verify"] = {"judge": {"base_url": url, "model": "m"}}
        house.run("verify")
    rows = [row for row in house.rows("verify.t", "verdicts") if row["verifier"] == "outcome"]
    open_ = ["How long?", "Why?"] if with_judge else []
    assert sorted(asked) == open_
    wanted = ["accepted" if key in open_ else row[2] for key, row in answers.items()]
    assert sorted(row["status"] for row in rows) == sorted(wanted)
