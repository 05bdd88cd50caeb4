"""Every wrong argument is a clear error, and nothing is changed by it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seerdb import (
    DB,
    Batch,
    ClosedError,
    ConflictError,
    DBOptions,
    DiskError,
    InvalidRequestError,
    LockedError,
    Options,
    Replica,
    SeerDBError,
    Standby,
    promote,
)
from seerdb.storage.read.sampling import SAMPLE
from tests.db.conftest import SMALL, OpenDB

BAD_KEYS: list[tuple[Any, str]] = [
    (b"", "1 to 65,535 bytes, not 0"),
    (b"x" * 65_536, "1 to 65,535 bytes, not 65,536"),
    ("text", "must be bytes, not str"),
    (None, "must be bytes, not NoneType"),
    (7, "must be bytes, not int"),
    (bytearray(b"a"), "must be bytes, not bytearray"),
    (memoryview(b"a"), "must be bytes, not memoryview"),
]


def submit_all(db: DB, batch: Any) -> None:
    """Submit ``batch`` among others, and raise why it is refused."""
    others = [(put_9(), "memory", (b"a", 7), None) for _ in range(2)]
    for ticket, error in db.submit_all([others[0], (batch, None, None, 1), others[1]], print):
        assert ticket == 1
        raise error


WITH_KEY: dict[str, Callable[[DB, Any], object]] = {
    "put": lambda db, key: db.put(key, b"1"),
    "put with expect": lambda db, key: db.put(key, b"1", expect=0),
    "put to memory": lambda db, key: db.put(key, b"1", durability="memory"),
    "delete": lambda db, key: db.delete(key),
    "delete_range from": lambda db, key: db.delete_range(key, b"z"),
    "delete_range to": lambda db, key: db.delete_range(b"a", key),
    "get": lambda db, key: db.get(key),
    "get_entry": lambda db, key: db.get_entry(key),
    "try_get_entry": lambda db, key: db.try_get_entry(key),
    "multi_get": lambda db, key: db.multi_get([b"a", key]),
    "multi_get_entries": lambda db, key: db.multi_get_entries([key]),
    "Batch.put": lambda db, key: Batch().put(key, b"1"),
    "Batch.delete": lambda db, key: Batch().delete(key),
}


@pytest.fixture
def filled(db: DB) -> DB:
    db.put(b"a", b"1")
    db.put(b"b", b"2")
    return db


def check_unchanged(db: DB) -> None:
    assert list(db.scan()) == [(b"a", b"1"), (b"b", b"2")]
    assert db.visible_seq == 2
    assert db.put(b"b", b"2", expect=2) == 3, "and writing goes on"


@pytest.mark.parametrize("call", WITH_KEY)
def test_a_bad_key(filled: DB, call: str) -> None:
    for key, complaint in BAD_KEYS:
        with pytest.raises(InvalidRequestError, match=complaint):
            WITH_KEY[call](filled, key)
    check_unchanged(filled)


BAD: dict[str, tuple[Callable[[Any], object], str]] = {
    "a value that is text": (lambda db: db.put(b"a", "x"), "a value must be bytes, not str"),
    "a value that is nothing": (lambda db: db.put(b"a", None), "not NoneType"),
    "a value in a bytearray": (lambda db: db.put(b"a", bytearray(1)), "not bytearray"),
    "a range from its end": (lambda db: db.delete_range(b"b", b"b"), "before its end"),
    "a range backwards": (lambda db: db.delete_range(b"c", b"a"), "b'c', b'a'"),
    "a scan from its end": (lambda db: db.scan(b"a", b"a"), "before its end"),
    "a scan backwards": (lambda db: db.scan(b"b", b"a", reverse=True), "before its end"),
    "a scan from text": (lambda db: db.scan("a"), "start must be bytes, not str"),
    "a scan to a number": (lambda db: db.scan(b"a", 7), "end must be bytes, not int"),
    "a scan of a text prefix": (lambda db: db.scan(prefix="a"), "prefix must be bytes"),
    "a negative limit": (lambda db: db.scan(limit=-1), "whole number from 0, not -1"),
    "a limit that is true": (lambda db: db.scan(limit=True), "not True"),
    "a limit that is a float": (lambda db: db.scan_entries(limit=1.0), "not 1.0"),
    "a limit beyond all": (lambda db: db.scan(limit=1 << 70), "limit must be at most 9,223,372"),
    "a limit of entries beyond all": (lambda db: db.scan_entries(limit=1 << 63), "at most"),
    "a limit of a snapshot beyond all": (lambda db: db.snapshot().scan(limit=1 << 63), "at most"),
    "keys that are nothing": (lambda db: db.multi_get(None), "list of keys, not NoneType"),
    "keys that are a number": (lambda db: db.multi_get(7), "keys must be a list of keys, not int"),
    "keys that end": (lambda db: db.multi_get(iter([b"a"])), "not list_iterator"),
    "keys of entries": (lambda db: db.multi_get_entries(None), "list of keys, not NoneType"),
    "keys of a snapshot": (lambda db: db.snapshot().multi_get(None), "not NoneType"),
    "keys that are one": (lambda db: db.multi_get(b"a"), "a key must be bytes, not int"),
    "a second that is text": (lambda db: db.digest(second="x"), "seconds since 1970, not 'x'"),
    "a second before 1970": (lambda db: db.digest(second=-1), "seconds since 1970, not -1"),
    "a second that is true": (lambda db: db.digest(second=True), "not True"),
    "an ingest of nothing": (lambda db: db.ingest(None), "pairs of a key and a value, not None"),
    "an ingest of a number": (lambda db: db.ingest([1]), "pair 1 cannot .* a value, not int 1"),
    "an ingest of three": (lambda db: db.ingest([(b"k", b"v", b"x")]), "not tuple "),
    "an ingest of one": (lambda db: db.ingest([(b"k", b"v"), (b"l",)]), "pair 2 cannot be"),
    "a batch that is nothing": (lambda db: db.write(None), "a batch must be a Batch, not NoneType"),
    "a batch that is empty, and a list": (lambda db: db.write([]), "not list"),
    "a batch that is a list": (lambda db: db.write([b"a"]), "not list"),
    "a submission of nothing": (lambda db: db.submit(None, sink=print), "not NoneType"),
    "submissions of nothing": (lambda db: submit_all(db, None), "a batch must be a Batch"),
    "submissions of a list": (lambda db: submit_all(db, [b"a"]), "not list"),
    "a commit that is text": (lambda db: db.check_commit(1, "x"), "a seq must be .* not 'x'"),
    "a commit below 0": (lambda db: db.check_commit(-1, 1), "an epoch must be .* not -1"),
    "a commit that is true": (lambda db: db.check_commit(1, True), "a seq must be .* not True"),
    "a default for a get": (lambda db: db.get(b"x", b"1"), "fill_cache must be True or False"),
    "a get to fill nothing": (lambda db: db.get(b"a", fill_cache=None), "not None"),
    "an entry to fill 1": (lambda db: db.get_entry(b"a", fill_cache=1), "fill_cache .* not 1"),
    "keys to fill 0": (lambda db: db.multi_get([b"a"], fill_cache=0), "not 0"),
    "a snapshot's key to fill 1": (lambda db: db.snapshot().get(b"a", fill_cache=1), "not 1"),
    "a snapshot's keys to fill 0": (lambda db: db.snapshot().multi_get([], fill_cache=0), "not 0"),
    "a scan that fills text": (lambda db: db.scan(fill_cache="no"), "fill_cache must be"),
    "a scan reversed by text": (lambda db: db.scan(reverse="false"), "reverse .* not 'false'"),
    "a scan of keys only of a number": (lambda db: db.scan(keys_only=1), "keys_only .* not 1"),
    "a snapshot reversed by text": (lambda db: db.snapshot().scan(reverse=""), "reverse must"),
    "entries reversed by 1": (lambda db: db.scan_entries(reverse=1), "reverse must be True or"),
    "entries backwards": (lambda db: db.scan_entries(b"b", b"a"), "before its end"),
}

WRITES: dict[str, Callable[..., object]] = {
    "put": lambda db, **more: db.put(b"a", b"9", **more),
    "delete": lambda db, **more: db.delete(b"a", **more),
    "submit": lambda db, **more: db.submit(put_9(), sink=print, **more),
    "delete_range": lambda db, **more: db.delete_range(b"a", b"z", **more),
    "merge": lambda db, **more: db.merge(b"a", b"9", **more),
    "batch": lambda db, **more: db.batch(**more),
    "write": lambda db, **more: db.write(put_9(), **more),
}


@pytest.mark.parametrize("durability", [[], {}, "", 7, b"local", True], ids=repr)
@pytest.mark.parametrize("write", WRITES)
def test_a_bad_durability(filled: DB, write: str, durability: Any) -> None:
    with pytest.raises(InvalidRequestError, match="must be one of memory, interval, local, object"):
        WRITES[write](filled, durability=durability)
    check_unchanged(filled)


@pytest.mark.parametrize("seq", ["2", 1.0, -1, True, False, [], b"1"], ids=repr)
@pytest.mark.parametrize("write", ["put", "delete", "submit"])
def test_a_bad_expectation(filled: DB, write: str, seq: Any) -> None:
    expect = (b"a", seq) if write == "submit" else seq
    with pytest.raises(InvalidRequestError, match="expect must be a seq, a whole number from 1"):
        WRITES[write](filled, expect=expect)
    check_unchanged(filled)


@pytest.mark.parametrize("expect", [1, (), (b"a",), (b"a", 1, 1), [b"a", 1], b"a1"], ids=repr)
def test_an_expectation_of_a_submission_that_is_no_pair(filled: DB, expect: Any) -> None:
    with pytest.raises(InvalidRequestError, match="expect must be a key and a seq"):
        filled.submit(put_9(), sink=print, expect=expect)
    check_unchanged(filled)


def test_an_expectation_of_a_submission_whose_key_is_none(filled: DB) -> None:
    wrong: Any = "a", 1
    with pytest.raises(InvalidRequestError, match="a key must be bytes"):
        filled.submit(put_9(), sink=print, expect=wrong)
    check_unchanged(filled)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument(filled: DB, case: str) -> None:
    call, complaint = BAD[case]
    with pytest.raises(InvalidRequestError, match=complaint):
        call(filled)
    check_unchanged(filled)


def test_a_value_that_is_too_large(filled: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerdb.storage.batch.MAX_VALUE_SIZE", 100)
    batch = Batch()
    with pytest.raises(InvalidRequestError, match="at most 100 bytes, not 101"):
        batch.put(b"a", bytes(101))
    batch.put(b"a", bytes(100))
    assert len(batch) == 1


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"memtable": 1}, "unknown setting memtable; known are store, "),
    ({"one": 1, "two": 2}, "unknown setting one, two"),
    ({"memtable_capacity": 1023}, "memtable_capacity must be between 1,024 and 17,179,869,184"),
    ({"memtable_capacity": True}, "memtable_capacity must be a whole number, not bool"),
    ({"memtable_capacity": "64MiB"}, "must be a whole number, not str"),
    ({"wal_segment_size": 16383}, "wal_segment_size must be between 16,384 and"),
    ({"block_size": 255}, "block_size must be between 256 and 4,194,304, not 255"),
    ({"block_size": 4 << 20 | 1}, "not 4,194,305"),
    ({"filter_bits_per_key": 65}, "filter_bits_per_key must be between 0 and 64"),
    ({"sync_interval": 0}, "sync_interval must be between 0.0005 and 60"),
    ({"sync_interval": float("nan")}, "sync_interval must be between"),
    ({"durability": "disk"}, "durability must be one of memory, interval, local, object"),
    ({"background": "fork"}, "background must be one of inline, thread, process"),
    ({"recovery": ["strict"]}, "recovery must be one of strict"),
    ({"wal_retention": "count:x"}, "wal_retention must be 'flushed', 'count:N' or"),
    ({"wal_direct_io": 1}, "wal_direct_io must be true or false"),
    ({"store": ""}, "store must be a URL or a directory"),
    ({"store": 7}, "store must be a URL or a directory"),
    ({"store_options": "key=1"}, "store_options must be a table"),
    ({"store_options": {"a": 1}}, "a directory takes no store_options"),
    ({"store": "s3://"}, "store must be a URL or a directory, not 's3://'"),
    ({"store": "file://"}, "store must be a URL or a directory, not 'file://'"),
    ({"store": "a\0b"}, "store must not have NUL"),
    ({"store": "file:///tmp/a%00b"}, "store must not have NUL"),
    ({"store": "s3://a\ud800b"}, "store must not have NUL or lone surrogates"),
    ({"store": "~nobody-has-this-name/x"}, "no such home directory"),
    ({"store": "nope://x"}, "nope"),
    ({"background": "dask://x:99999"}, "background must have a port between 1 and 65,535"),
    ({"background": "dask://x:0"}, "not 0"),
    ({"min_free_disk": -1}, "min_free_disk must be between 0"),
]


@pytest.mark.parametrize(("settings", "complaint"), BAD_SETTINGS, ids=str)
def test_a_bad_setting(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        DB.open(str(tmp_path / "db"), **(SMALL | settings))
    DB.open(str(tmp_path / "db"), **SMALL).close()


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    for path in (file, file / "below"):
        with pytest.raises(DiskError, match="file"):
            DB.open(str(path), **SMALL)
    assert file.read_bytes() == b"precious"
    with pytest.raises(InvalidRequestError, match="path must be a directory's name"):
        DB.open("")


class OfBytes:
    def __fspath__(self) -> bytes:
        return b"db"

    def __repr__(self) -> str:
        return "OfBytes()"


OPENED_BY: dict[str, Callable[..., object]] = {
    "DB.open": DB.open,
    "DBOptions.open": lambda path, *_: DBOptions(**SMALL).open(path),
    "Replica.open": Replica.open,
    "Standby.open": Standby.open,
    "promote": promote,
}


@pytest.mark.parametrize("name", OPENED_BY)
@pytest.mark.parametrize("path", [b"db", 1, None, OfBytes(), "", "a\0b", "\ud800"], ids=repr)
def test_a_path_that_is_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError, match="path must be a directory's name"):
        OPENED_BY[name](path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [each for each in OPENED_BY if each != "DBOptions.open"])
@pytest.mark.parametrize("options", [{"durability": "memory"}, {}, 7, "", False], ids=repr)
def test_options_that_are_none(tmp_path: Path, name: str, options: Any) -> None:
    with pytest.raises(InvalidRequestError, match="options must be DBOptions, Options or None"):
        OPENED_BY[name](str(tmp_path / "db"), options)
    assert not list(tmp_path.iterdir())


def test_a_path_object_names_a_directory(tmp_path: Path) -> None:
    for options in (DBOptions(**SMALL), Options(**SMALL)):
        with DB.open(tmp_path / "db", options) as db:
            db.put(b"a", b"1")
            assert db.options.block_size == SMALL["block_size"]
    with DBOptions(**SMALL).open(tmp_path / "db") as db:
        assert db.get(b"a") == b"1"


@pytest.mark.parametrize("below", ["", "/below", "/far/below"])
def test_a_store_that_is_a_file(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    for store in (f"{file}{below}", f"file://{file}{below}"):
        with pytest.raises(InvalidRequestError, match="store must be a URL or a directory"):
            DB.open(tmp_path / "db", store=store, **SMALL)
    assert file.read_bytes() == b"precious"


def put_9() -> Batch:
    batch = Batch()
    batch.put(b"a", b"9")
    return batch


def in_a_batch(db: DB) -> None:
    with db.batch() as batch:
        batch.put(b"a", b"9")


CALLS: dict[str, Callable[[DB], object]] = {
    "put": lambda db: db.put(b"a", b"9"),
    "put with expect": lambda db: db.put(b"a", b"9", expect=1),
    "put to memory": lambda db: db.put(b"a", b"9", durability="memory"),
    "delete": lambda db: db.delete(b"a"),
    "delete_range": lambda db: db.delete_range(b"a", b"b"),
    "get": lambda db: db.get(b"a"),
    "get_entry": lambda db: db.get_entry(b"a"),
    "try_get_entry": lambda db: db.try_get_entry(b"a"),
    "multi_get": lambda db: db.multi_get([b"a"]),
    "multi_get_entries": lambda db: db.multi_get_entries([b"a"]),
    "write": lambda db: db.write(put_9()),
    "write nothing": lambda db: db.write(Batch()),
    "batch": in_a_batch,
    "submit": lambda db: db.submit(put_9(), sink=print),
    "scan": lambda db: db.scan(),
    "scan_entries": lambda db: db.scan_entries(),
    "snapshot": lambda db: db.snapshot(),
    "flush": lambda db: db.flush(),
    "compact": lambda db: db.compact(),
    "verify": lambda db: db.verify(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_database_refuses(filled: DB, open_db: OpenDB, name: str) -> None:
    filled.close()
    for _ in range(2):
        with pytest.raises(ClosedError, match="the database is closed; open it again"):
            CALLS[name](filled)
    check_unchanged(open_db())


COPIES: dict[str, Callable[[object], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
}


@pytest.mark.parametrize("name", COPIES)
def test_what_is_open_is_not_copied(filled: DB, name: str) -> None:
    """A copy once answered after the close, and pickling told of a source of entropy."""
    with filled.snapshot() as snapshot:
        for handle in (filled, snapshot):
            with pytest.raises(InvalidRequestError, match="another process opens its own"):
                COPIES[name](handle)
    check_unchanged(filled)


def test_a_closed_database_refuses_gets_whatever_beside_it_looks_at_the_statistics(
    filled: DB,
) -> None:
    begun = filled._try_get  # as a get that began before the close has it
    filled.close()
    for name in ("get", "try_get_entry"):
        filled.stats()
        with pytest.raises(ClosedError):
            CALLS[name](filled)
    for _ in range(SAMPLE):
        begun(b"a")
    with pytest.raises(ClosedError):
        filled.get(b"a")


def test_a_closed_database_still_says_how_it_is(filled: DB) -> None:
    filled.close()
    assert filled.stats()["visible_seq"] == filled.visible_seq == 2
    writes = next(check for check in filled.health() if check.name == "writes")
    assert (writes.ok, "closed" in writes.detail) == (False, True)
    assert filled.options.block_size == SMALL["block_size"]


HOLDER = """
import sys
from seerdb import DB
with DB.open(sys.argv[1], min_free_disk=0, wal_segment_size=65536) as db:
    db.put(b"a", b"theirs")
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_directory_that_another_process_has(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LockedError, match=str(holder.pid)):
            DB.open(path, **SMALL)
        holder.stdin.close()
    assert holder.returncode == 0
    with DB.open(path, **SMALL) as db:
        assert db.get(b"a") == b"theirs"
        with pytest.raises(LockedError):
            DB.open(path, **SMALL)
    assert issubclass(LockedError, ConflictError)


def test_a_directory_that_this_process_has(tmp_path: Path) -> None:
    """It once named this very process as one to stop."""
    path = str(tmp_path / "twice")
    with DB.open(path, **SMALL), pytest.raises(LockedError, match="that is this one: close"):
        DB.open(path, **SMALL)


def test_an_opening_that_fails_leaves_the_directory_free(tmp_path: Path) -> None:
    path = tmp_path / "db"
    DB.open(str(path), **SMALL).close()
    home = path / "wal" / "HOME"
    sound = home.read_bytes()
    home.write_bytes(b"nonsense")
    for _ in range(2):
        with pytest.raises(SeerDBError, match="identity"):
            DB.open(str(path), **SMALL)
    home.write_bytes(sound)
    DB.open(str(path), **SMALL).close()


def test_chained_settings_are_checked_at_once() -> None:
    with pytest.raises(InvalidRequestError, match="block_size must be between"):
        DBOptions().block_size(1)
    with pytest.raises(InvalidRequestError, match="unknown setting blocks"):
        DBOptions(blocks=1)
    with pytest.raises(AttributeError):
        DBOptions().blocks(1)  # type: ignore[attr-defined]
