"""``kimiya cost``, as typed."""

import asyncio
import json
from pathlib import Path

import pytest

from kimiya.cli.main import main
from kimiya.ledger.framing import encode_frame
from kimiya.ledger.record import encode_record
from kimiya.ledger.sqlite import SqliteStore
from tests.ledger.records import record

EXPORT = '"team","a($)","No tag key: team($)","Total costs($)"\n"2026-11-01","0.001","0","0.001"\n'


@pytest.fixture(autouse=True)
def _own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these files configure holds, and not the environment of the test run."""
    monkeypatch.delenv("KIMIYA_LEDGER__PATH", raising=False)
    monkeypatch.delenv("KIMIYA_LEDGER__SPOOL", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A gateway's ledger with three calls, and one more left in its spool when it died."""
    place = tmp_path / "home"

    async def fill() -> None:
        store = SqliteStore(place / "ledger.db")
        calls = [record(n, day=n, key_id="k1", tags={"team": "a"}) for n in (1, 2, 3)]
        await store.write([encode_record(call) for call in calls])
        await store.aclose()

    asyncio.run(fill())
    (place / "spool").mkdir()
    (place / "spool" / "0-1-a.spool").write_bytes(encode_frame(encode_record(record(9, day=4))))
    (place / "kimiya.toml").write_text(
        f'[ledger]\npath = "{place / "ledger.db"}"\nspool = "{place / "spool"}"\n'
    )
    return place


def cost(home: Path, *words: str) -> int:
    """``kimiya cost`` with that gateway's configuration."""
    return main(["cost", "--config", str(home / "kimiya.toml"), *words])


def test_it_counts_what_a_dead_gateway_left(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert cost(home) == 0
    shown = capsys.readouterr().out
    assert "kimi-k2.5" in shown
    assert shown.count(" 4 ") == 2
    assert cost(home, "--by", "total", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"]["usd"] == "0.00280"


def test_groups_days_and_keys(home: Path, capsys: pytest.CaptureFixture) -> None:
    narrow = ("--by", "tag:team", "--key", "k1", "--until", "2026-11-02")
    assert cost(home, "--csv", *narrow) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.startswith("team,calls,")
    assert line.startswith("a,2,2,2000,")
    assert cost(home, "--csv", "--by", "day", "--until", "2026-11-03", "--days", "2") == 0
    assert [line[:10] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "2026-11-02",
        "2026-11-03",
    ]


def test_a_picture_and_a_bill_beside_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture, bill = tmp_path / "costs.svg", tmp_path / "bill.csv"
    assert cost(home, "--plot", str(picture)) == 0
    assert picture.read_text().startswith("<svg")
    bill.write_text(EXPORT)
    capsys.readouterr()
    assert cost(home, "--import-cost-explorer", str(bill), "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    # The bill is of a month: all three calls of the tag are in it, and the one without.
    assert {row["group"]: row["difference_usd"] for row in rows} == {
        "a": "-0.00110",
        "": "-0.00070",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "modle"], "Did you mean model?"),
        (["--by", "tag"], "tag's name"),
        (["--by", "model:x"], "no report is by"),
        (["--by", "tag:"], "tag's name"),
        (["--since", "soon"], "no day such as"),
        (["--days", "0"], "no number of days"),
        (["--days", "1", "--since", "2026-01-01"], "say the same"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "is after"),
        (["--csv", "--json"], "not allowed with"),
        (["--plot", "x.gif"], ".svg or .png"),
        (["--plot", "/nowhere/x.svg"], "/nowhere/x.svg"),
        (["--import-cost-explorer", "/nowhere.csv"], "/nowhere.csv"),
        (["--import-cost-explorer", "x.csv", "--days", "3"], "does not go with"),
        (["--ledger", "/nowhere"], "there is no ledger at /nowhere. `kimiya serve` keeps one"),
        (["--ledger", "postgresql://kimiya@127.0.0.1:1/x"], "127.0.0.1:1/x cannot be used"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_a_remedy(
    home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert cost(home, *words) in (1, 2)
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_a_corrupt_ledger_is_named_with_its_remedy(
    home: Path, capsys: pytest.CaptureFixture
) -> None:
    (home / "ledger.db").write_bytes(b"not a database" * 1000)
    assert cost(home) == 1
    assert "Move the file away" in capsys.readouterr().err
    # What was spooled is still there, for when the ledger can be used again.
    assert list((home / "spool").iterdir())


def test_a_binary_file_is_no_bill(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bill").write_bytes(b"\xff\xfe\x00")
    assert cost(home, "--import-cost-explorer", str(tmp_path / "bill"))
    assert "is no text" in capsys.readouterr().err


def test_another_file_is_read_as_it_is(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["cost", "--ledger", str(home / "ledger.db"), "--by", "total", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["calls"] == 3
    assert list((home / "spool").iterdir())


def test_no_ledger_is_made_by_asking(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "kimiya.toml").write_text(
        f'[ledger]\npath = "{tmp_path / "l.db"}"\nspool = "{tmp_path / "spool"}"\n'
    )
    assert cost(tmp_path) == 2
    assert "there is no ledger" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kimiya.toml"]
