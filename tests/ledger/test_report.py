"""Reports: what fits eighty columns, what keeps every digit, what AWS says beside it."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from rich.cells import cell_len

from kimiya.errors import ConfigError
from kimiya.ledger.chart import as_svg, write_chart
from kimiya.ledger.cost_explorer import (
    as_difference_csv,
    as_difference_json,
    as_difference_table,
    differences,
    read_cost_explorer,
)
from kimiya.ledger.query import CostQuery, CostRow
from kimiya.ledger.report import CostReport, as_csv, as_json, as_table

DUST = Decimal("0.000000000123456789")
ROWS = (
    CostRow(group="", calls=1, attempts=1),
    CostRow(
        group="=HYPERLINK(1)",
        calls=1_234_567,
        attempts=1_234_999,
        input_tokens=98_765_432_100,
        output_tokens=1_999_999_999,
        cache_read_tokens=90_000_000_000,
        usd=Decimal("1234567.89") + DUST,
        saved_by_caching_usd=Decimal("-12.5"),
        predicted_usd=Decimal(9),
    ),
    CostRow(group="営業部の人たち" * 12, calls=3, attempts=3, usd=DUST, unpriced_attempts=2),
    CostRow(group="evil\x1b[2J\n name" * 9, calls=2, attempts=2, unpriced_attempts=2),
)
REPORT = CostReport(CostQuery(by="tag", tag="department", since=date(2026, 11, 1)), ROWS)


def test_the_table_fits_eighty_columns_and_nothing_moves_the_cursor() -> None:
    table = as_table(REPORT)
    for line in table.splitlines():
        assert cell_len(line) <= 80, line
    assert "\x1b" not in table
    # One line each, with head, total, two rules and four remarks.
    assert len(table.splitlines()) == len(ROWS) + 4 + 4


def test_the_table_never_shows_something_as_nothing() -> None:
    table = as_table(REPORT)
    assert "<0.0001+" in table
    assert "unpriced" in table
    assert "+ 4 attempts have no known price" in table
    assert "1,234,567.89" in table
    assert "91%" in table


def test_no_calls_is_said() -> None:
    assert as_table(CostReport(CostQuery(), ())) == "no calls in this period\n"
    assert json.loads(as_json(CostReport(CostQuery(), ())))["rows"] == []


def test_csv_and_json_keep_every_digit_and_agree() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(REPORT))))
    rows = json.loads(as_json(REPORT))["rows"]
    for source, line, shown in zip(ROWS, lines, rows, strict=True):
        assert Decimal(line["usd"]) == Decimal(shown["usd"]) == source.usd
        assert int(line["cache_read_tokens"]) == shown["cache_read_tokens"]
        assert "E" not in line["usd"]
        assert shown["group"] == source.group
    assert json.loads(as_json(REPORT))["total"]["usd"] == f"{sum(r.usd for r in ROWS):f}"


def test_a_spreadsheet_takes_no_formula_from_a_caller() -> None:
    assert "'=HYPERLINK(1)" in as_csv(REPORT)


def test_the_picture_is_well_formed_whatever_groups_are_called(tmp_path: Path) -> None:
    odd = CostReport(CostQuery(), (*ROWS, CostRow(group="<&\"'>\ud800\0", usd=Decimal(-1))))
    write_chart(odd, tmp_path / "c.SVG")
    text = (tmp_path / "c.SVG").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("x")]
    assert len(bars) == 2 + 2 * len(odd.rows)
    for bar in bars:
        assert 0 <= float(bar.get("width", "")) <= 860
    ElementTree.fromstring(as_svg(CostReport(CostQuery(), ())))


def test_bars_are_as_long_as_their_dollars() -> None:
    rows = tuple(CostRow(group=str(n), usd=Decimal(n)) for n in (1, 2, 4))
    root = ElementTree.fromstring(as_svg(CostReport(CostQuery(), rows)))
    widths = [
        float(rect.get("width", ""))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
        if rect.get("fill") == "#2f6f73" and rect.get("height") == "18"
    ]
    assert widths[0] == 2 * widths[1] == 4 * widths[2]


def test_png_is_drawn_by_matplotlib(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="kimiya[plot] is not installed")
    write_chart(REPORT, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.svg or \.png, not \.pdf"):
        write_chart(REPORT, tmp_path / "c.pdf")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"by": "tag"}, "tag's name"),
        ({"by": "model", "tag": "x"}, "tag's name"),
        ({"since": date(2026, 2, 1), "until": date(2026, 1, 1)}, "is after"),
    ],
)
def test_a_question_without_an_answer_is_refused(wrong, words) -> None:
    with pytest.raises(ConfigError, match=words):
        CostQuery(**wrong)


CONSOLE = (
    '\ufeff"department","research($)","No tag key: department($)","a,b($)","Total costs($)"\n'
    '"department total","3.5","1","0.25","4.75"\n'
    '"2026-11-01","1.5","1","","2.5"\n'
    '"2026-11-03","2","0","0.25","2.25"\n'
)
API = json.dumps(
    {
        "GroupDefinitions": [{"Type": "TAG", "Key": "department"}],
        "ResultsByTime": [
            {
                "TimePeriod": {"Start": start, "End": end},
                "Total": {},
                "Groups": [
                    {
                        "Keys": [f"department${value}"],
                        "Metrics": {
                            "UsageQuantity": {"Amount": "7", "Unit": "N/A"},
                            "UnblendedCost": {"Amount": amount, "Unit": "USD"},
                        },
                    }
                    for value, amount in groups
                ],
                "Estimated": True,
            }
            for start, end, groups in (
                ("2026-11-01", "2026-11-02", [("research", "1.5"), ("", "1"), ("a,b", "0.25")]),
                ("2026-11-03", "2026-11-04", [("research", "2")]),
            )
        ],
    }
)


@pytest.mark.parametrize("export", [CONSOLE, API], ids=["console", "api"])
def test_both_forms_of_an_export_say_the_same(export: str) -> None:
    bill = read_cost_explorer(export, "export")
    assert (bill.tag, bill.since, bill.until) == (
        "department", date(2026, 11, 1), date(2026, 11, 3),
    )  # fmt: skip
    assert bill.usd == {"research": Decimal("3.5"), "": Decimal(1), "a,b": Decimal("0.25")}


def test_rows_that_begin_months_are_months() -> None:
    text = CONSOLE.replace("2026-11-03", "2026-12-01")
    assert read_cost_explorer(text, "export").until == date(2026, 12, 31)


def test_the_difference_names_every_side_once() -> None:
    bill = read_cost_explorer(CONSOLE, "export")
    rows = (
        CostRow(group="research", usd=Decimal("3.4999"), unpriced_attempts=1),
        CostRow(group="ours only", usd=Decimal(1)),
    )
    found = differences(rows, bill)
    assert {each.group: each.difference_usd for each in found} == {
        "": 1,
        "a,b": Decimal("0.25"),
        "ours only": -1,
        "research": Decimal("0.0001"),
    }
    table = as_difference_table(found, bill)
    assert all(cell_len(line) <= 80 for line in table.splitlines())
    assert "(no tag)" in table
    assert "no price for 1 attempts" in table
    assert "2026-11-01 to 2026-11-03" in table
    lines = list(csv.DictReader(io.StringIO(as_difference_csv(found, bill))))
    shown = json.loads(as_difference_json(found, bill))["rows"]
    for each, line, row in zip(found, lines, shown, strict=True):
        assert Decimal(line["difference_usd"]) == Decimal(row["difference_usd"])
        assert Decimal(row["difference_usd"]) == each.difference_usd


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{}",
        "{",
        "[]",
        "a,b\n1,2\n",
        '"department","x($)"\n',
        '"department","x($)"\n"2026-11-01"\n',
        '"department","x($)"\n"2026-11-01","lots"\n',
        '"department","x($)"\n"2026-11-01","NaN"\n',
        '"department","x($)"\n"yesterday","1"\n',
        API.replace("USD", "EUR"),
        API.replace('"TAG"', '"DIMENSION"'),
        API.replace("department$", "project$"),
        '{"GroupDefinitions": [{"Type": "TAG", "Key": "d"}], "ResultsByTime": []}',
        '{"GroupDefinitions": 5}',
        "\0" * 50,
        "{" * 5000,
        '{"a":' * 50_000,
        API.replace("UnblendedCost", "Money"),
    ],
)
def test_what_is_no_export_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=r"bill\.csv is no Cost Explorer export.*get-cost"):
        read_cost_explorer(text, "bill.csv")
