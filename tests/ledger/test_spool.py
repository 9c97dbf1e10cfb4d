"""The spool: torn, rotten, full, killed and shared."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kimiya.errors import LedgerError
from kimiya.ledger import spool as spool_module
from kimiya.ledger.framing import MARK, decode_frames, encode_frame
from kimiya.ledger.spool import Spool


def drain(spool: Spool, limit: int = 7) -> list[bytes]:
    """Everything in it, taken off."""
    taken: list[bytes] = []
    while (batch := spool.read(limit)).payloads:
        taken += batch.payloads
        spool.drop(batch)
    return taken


def files(directory: Path) -> list[str]:
    return sorted(path.suffix for path in directory.iterdir())


def words(count: int, *, start: int = 0) -> list[bytes]:
    return [f"record {number} ".encode() * (number % 5 + 1) for number in range(start, count)]


def test_what_goes_in_comes_out_once_in_order_and_leaves_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    for payload in words(40):
        spool.append(payload)
    assert len(files(tmp_path)) > 3
    assert spool.pending_bytes > 0
    assert drain(spool) == words(40)
    assert drain(spool) == []
    assert spool.pending_bytes == 0
    spool.close()
    assert files(tmp_path) == []


def test_reading_does_not_take_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"one")
    assert spool.read(9).payloads == spool.read(9).payloads == (b"one",)
    spool.close()
    again = Spool(tmp_path)
    assert drain(again) == [b"one"]
    again.close()


def test_a_record_larger_than_a_window_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    big = [os.urandom(1_000_000), b"small", os.urandom(300_000)]
    for payload in big:
        spool.append(payload)
    assert drain(spool) == big
    spool.close()


@pytest.mark.parametrize("cut", [1, 3, 11, 12, 15, 20])
def test_a_torn_last_frame_is_passed_over_and_reported(tmp_path: Path, cut: int) -> None:
    whole = b"".join(map(encode_frame, words(3)))
    torn = encode_frame(b"the one that was being written")[:cut]
    (tmp_path / "0001-1-aa.spool").write_bytes(whole + torn)
    spool = Spool(tmp_path)
    assert drain(spool) == words(3)
    assert spool.damaged_bytes == cut
    spool.close()
    # What could not be read is kept for whoever wants to look.
    assert files(tmp_path) == [".damaged"]


def test_rot_in_the_middle_costs_only_what_it_touched(tmp_path: Path) -> None:
    frames = [encode_frame(payload) for payload in words(9)]
    frames[4] = frames[4][:-1] + bytes([frames[4][-1] ^ 1])
    (tmp_path / "0001-1-aa.spool").write_bytes(b"noise" + b"".join(frames))
    spool = Spool(tmp_path)
    assert drain(spool, 2) == [*words(4), *words(9, start=5)]
    assert spool.damaged_bytes == len(frames[4]) + 5
    spool.close()


def test_a_caller_cannot_forge_a_frame_within_text() -> None:
    # The first byte of the mark stands in no UTF-8, so it cannot come from anybody's words.
    assert MARK[0] not in {
        byte for point in (0x7F, 0x7FF, 0xFFFF, 0x10FFFF, 0xAB) for byte in chr(point).encode()
    }
    assert MARK[0] > 0xF4


def test_a_length_beyond_reason_is_damage_not_a_wait() -> None:
    lying = MARK + b"\xff\xff\xff\x7f" + b"\0\0\0\0"
    frames = decode_frames(lying + encode_frame(b"next"))
    assert frames.payloads == (b"next",)
    assert frames.skipped_bytes == len(lying)


def test_a_living_process_keeps_its_own_and_a_dead_ones_is_adopted(tmp_path: Path) -> None:
    living = Spool(tmp_path)
    living.append(b"mine")
    other = Spool(tmp_path)
    assert drain(other) == []
    living.close()
    heir = Spool(tmp_path)
    assert drain(heir) == [b"mine"]
    heir.close()
    other.close()


def test_a_segment_taken_the_moment_it_was_made_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heirs: list[Spool] = []
    honest = os.open

    def open_and_be_robbed(path, flags, *mode) -> int:
        fd = honest(path, flags, *mode)
        if flags & os.O_EXCL and not heirs:
            heirs.append(Spool(tmp_path))
        return fd

    monkeypatch.setattr(os, "open", open_and_be_robbed)
    spool = Spool(tmp_path)
    for payload in words(3):
        spool.append(payload)
    assert (drain(heirs[0]), drain(spool)) == ([], words(3))
    spool.close()
    heirs[0].close()
    assert files(tmp_path) == []


class Disk:
    """``os`` as the spool sees it, on a disk with so many bytes left."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __getattr__(self, name: str):
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data[: self.room]
        self.room -= len(part)
        return os.write(fd, part)


def test_a_full_disk_loses_nothing_and_leaves_no_torn_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(room=100)
    monkeypatch.setattr(spool_module, "os", disk)
    spool = Spool(tmp_path)
    for payload in words(10):
        spool.append(payload)
    assert spool.waiting_records > 0
    assert spool.last_refusal is not None
    assert decode_frames(next(tmp_path.iterdir()).read_bytes()).skipped_bytes == 0
    disk.room = 10**9
    spool.append(b"after")
    assert (spool.waiting_records, spool.last_refusal) == (0, None)
    assert drain(spool) == [*words(10), b"after"]
    spool.close()


def test_what_waits_in_memory_reaches_a_store_on_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(room=0)
    monkeypatch.setattr(spool_module, "os", disk)
    spool = Spool(tmp_path)
    for payload in words(5):
        spool.append(payload)
    batch = spool.read(3)
    # The disk takes bytes again while a reader holds the first three: they must not be there twice.
    disk.room = 10**9
    spool.append(b"after")
    spool.drop(batch)
    assert [*batch.payloads, *drain(spool)] == [*words(5), b"after"]
    assert spool.pending_bytes == 0
    spool.close()


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"file/spool cannot be made.*ledger\.directory"):
        Spool(tmp_path / "file" / "spool")


_VICTIM = """
import sys
from pathlib import Path
from kimiya.ledger.spool import Spool
spool = Spool(Path(sys.argv[1]), segment_bytes=2000)
number = 0
while True:
    spool.append(f"record {number}".encode() * 3)
    # Said only after the append has returned: the reply has ended.
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


@pytest.mark.parametrize("after", [1, 50, 400])
def test_kill_9_loses_nothing_that_was_appended(tmp_path: Path, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        for _ in range(after):
            victim.stdout.readline()
        victim.send_signal(signal.SIGKILL)
        said = after + len(victim.stdout.read().splitlines())
    spool = Spool(tmp_path)
    found = drain(spool)
    spool.close()
    assert found[:said] == [f"record {number}".encode() * 3 for number in range(said)]
    assert len(found) - said in (0, 1)
