"""get, put, delete and scan: bytes in, bytes out."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from seerdb.cli.arguments import escaped
from tests.cli.conftest import Commands, Process

KEYS = [
    b"plain",
    b"with space + plus & amp ? question # hash % 41",
    b"a/b//c",
    b"..",
    b"a/../b",
    b"/./",
    b"-",
    "Grüße 😀".encode(),
    b"\xff\xfe\x01",
    b"tab\tnewline\n",
    b"k" * 20_000,
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_can_be_typed_holds_any_bytes(seerdb: Commands, key: bytes) -> None:
    value = b"\x00value of \xff" + key[:10]
    seerdb("put", "--", os.fsdecode(key), "-", stdin=value)
    assert seerdb("get", "--", os.fsdecode(key)).out == value
    assert seerdb("get", "--hex", key.hex()).out == value
    assert seerdb("scan", "--keys-only", "--hex").text == key.hex() + "\n"
    seerdb("delete", "--", os.fsdecode(key))
    seerdb("get", "--", os.fsdecode(key), expect=3)


def test_a_key_with_nul_is_written_in_hex(seerdb: Commands) -> None:
    seerdb("put", "--hex", "00ff00", "v")
    assert seerdb("scan").text == "\\x00\\xff\\x00\tv\n"
    seerdb("delete", "--hex", "00ff00")
    assert seerdb("scan").out == b""


@pytest.mark.parametrize("wrong", ["0", "xx", "0x00"])
def test_hex_that_is_none_is_a_usage_error(seerdb: Commands, wrong: str) -> None:
    assert "hexadecimal" in seerdb("get", "--hex", wrong, expect=2).err


def test_a_key_must_fit_and_exist(seerdb: Commands) -> None:
    assert "at least one byte" in seerdb("get", "", expect=2).err
    assert "does not fit a path" in seerdb("get", "\n" * 30_000, expect=2).err


def test_a_value_may_have_a_lifetime(seerdb: Commands) -> None:
    seerdb("put", "k", "v", "--ttl", "2.5")
    assert seerdb("get", "k").out == b"v"
    for wrong in ("0", "-1", "nan", "3153600001", "soon"):
        seerdb("put", "k", "w", f"--ttl={wrong}", expect=2)
    assert seerdb("get", "k").out == b"v"
    assert "not '-1'\n" in seerdb("put", "k", "w", "--ttl", "-1", expect=2).err


def test_a_value_comes_from_the_argument_stdin_or_a_file(seerdb: Commands, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"from \xff a file\n")
    for arguments, stdin, value in (
        (("as typed",), b"", b"as typed"),
        (("",), b"", b""),
        (("-",), b"from stdin\n", b"from stdin\n"),
        (("--file", "-"), b"", b""),
        (("--file", str(file)), b"", b"from \xff a file\n"),
    ):
        seerdb("put", "k", *arguments, stdin=stdin)
        assert seerdb("get", "k").out == value


def test_a_value_is_given_once(seerdb: Commands, tmp_path: Path) -> None:
    seerdb("put", "k", expect=2)
    seerdb("put", "k", "v", "--file", "f", expect=2)
    assert "no-such-file" in seerdb("put", "k", "--file", "no-such-file", expect=3).err
    seerdb("get", "k", expect=3)


def test_get_names_the_key_that_is_not_there(seerdb: Commands) -> None:
    assert seerdb("get", "a\tb", expect=3).err == "seerdb: there is no key a\\tb\n"


def test_a_path_that_is_not_there_is_no_key_that_is_not_there(seerdb: Commands) -> None:
    seerdb("put", "k", "v")
    answer = seerdb("get", "k", "--url", f"{seerdb.url}/elsewhere", expect=3)
    assert answer.err.startswith("seerdb: No such path: ")


def test_json_of_a_value_is_the_item_of_http(seerdb: Commands) -> None:
    written = seerdb("put", "k", "v", "--json").json
    assert written == {"seq": written["seq"], "durability": "local"}
    assert seerdb("get", "k", "--json").json == {"key": "k", "value": "v", "seq": written["seq"]}
    seerdb("put", "--hex", "ff", "-", stdin=b"\xfe")
    shown = seerdb("get", "--hex", "ff", "--json").json
    assert shown == {"key_base64": "/w==", "value_base64": "/g==", "seq": written["seq"] + 1}


def test_a_condition_that_does_not_hold_is_a_conflict(seerdb: Commands) -> None:
    seq = seerdb("put", "k", "1", "--if-absent", "--json").json["seq"]
    seerdb("put", "k", "2", "--if-absent", expect=4)
    seerdb("put", "k", "2", "--if-seq", str(seq + 1), expect=4)
    seerdb("put", "k", "2", "--if-seq", str(seq))
    seerdb("delete", "k", "--if-seq", str(seq), expect=4)
    assert seerdb("get", "k").out == b"2"
    seerdb("put", "k", "3", "--if-seq", "1", "--if-absent", expect=2)


def test_durability_is_asked_for(seerdb: Commands) -> None:
    for level in ("memory", "interval", "local", "object"):
        assert seerdb("put", "k", "v", "--durability", level, "--json").json["durability"] == level
    assert seerdb("delete", "k", "--durability", "object", "--json").json["durability"] == "object"
    assert "durability must be one of" in seerdb("put", "k", "v", "--durability", "x", expect=2).err


def test_delete_takes_a_key_or_a_range(seerdb: Commands) -> None:
    for key in ("a", "b", "ba", "c", "d"):
        seerdb("put", key, "1")
    seerdb("delete", "--prefix", "b")
    seerdb("delete", "--start", "c", "--end", "d")
    seerdb("delete", "not there")
    assert seerdb("scan", "--keys-only").lines == ["a", "d"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("k", "--prefix", "p"),
        ("--start", "a"),
        ("--prefix", ""),
        ("--prefix", "p", "--if-seq", "1"),
    ],
)
def test_delete_refuses_what_is_ambiguous(seerdb: Commands, arguments: tuple[str, ...]) -> None:
    seerdb("put", "a", "1")
    seerdb("delete", *arguments, expect=2)
    assert seerdb("get", "a").out == b"1"


def test_scan_prints_a_line_for_each_key(seerdb: Commands) -> None:
    seerdb("put", "a", "1")
    seerdb("put", "b\tc", "-", stdin=b"2\n\r\\\x00\xff")
    seerdb("put", "d", "")
    assert seerdb("scan").text == "a\t1\nb\\tc\t2\\n\\r\\\\\\x00\\xff\nd\t\n"
    assert seerdb("scan", "--json").json_lines[0].keys() == {"key", "value", "seq"}
    assert seerdb("scan", "--keys-only").text == "a\nb\\tc\nd\n"
    assert seerdb("scan", "--json", "--keys-only").json_lines[0].keys() == {"key", "seq"}


def test_scan_takes_bounds_direction_and_limit(seerdb: Commands) -> None:
    for key in ("a", "b", "ba", "bb", "c"):
        seerdb("put", key, "1")
    assert seerdb("scan", "--prefix", "b", "--keys-only").lines == ["b", "ba", "bb"]
    assert seerdb("scan", "--start", "b", "--end", "bb", "--keys-only").lines == ["b", "ba"]
    assert seerdb("scan", "--reverse", "--limit", "2", "--keys-only").lines == ["c", "bb"]
    assert seerdb("scan", "--hex", "--start", "6262", "--keys-only").lines == ["6262", "63"]
    seerdb("scan", "--limit", "0", expect=2)


def test_a_terminal_gets_a_newline_after_a_value(seerdb: Commands) -> None:
    seerdb("put", "open", "no newline")
    seerdb("put", "closed", "newline\n")
    shown = []
    for key in ("open", "closed"):
        ours, theirs = pty.openpty()
        process = Process("get", key, environment={"SEERDB_URL": seerdb.url}, stdout=theirs)
        assert process.end().code == 0
        os.close(theirs)
        shown.append(os.read(ours, 100))
        os.close(ours)
    assert shown == [b"no newline\r\n", b"newline\r\n"]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain text", "plain text"),
        ("ä€😀".encode(), "ä€😀"),
        (b"\\", "\\\\"),
        (b"a\tb\nc\rd", "a\\tb\\nc\\rd"),
        (b"\x00\x1b\x7f\xff", "\\x00\\x1b\\x7f\\xff"),
        ("\u202e\u2028".encode(), "\\xe2\\x80\\xae\\xe2\\x80\\xa8"),
        (b"", ""),
    ],
)
def test_what_cannot_be_shown_is_escaped(data: bytes, shown: str) -> None:
    assert escaped(data) == shown
    back = shown.encode().decode("unicode_escape").encode("latin-1")
    if shown.isascii():
        assert back == data


def test_keys_are_read_as_of_a_seq_or_a_time_and_their_versions_listed(seerdb: Commands) -> None:
    first = seerdb("put", "past", "1", "--json").json["seq"]
    second = seerdb("put", "past", "2", "--json").json["seq"]
    seerdb("delete", "past")
    assert seerdb("get", "past", "--as-of", str(first)).text == "1"
    assert seerdb("scan", "--prefix", "past", "--as-of", str(second)).text == "past\t2\n"
    listed = seerdb("history", "past", "--json").json[-3:]
    assert [each["seq"] for each in listed] == [first, second, second + 1]
    assert [each.get("value") for each in listed] == ["1", "2", None]
    assert listed[2]["deleted"]
    assert seerdb("get", "past", "--as-of", listed[1]["time"]).text == "2"
    assert "(deleted)" in seerdb("history", "past").lines[-1]
    seerdb("get", "past", "--as-of", "2999-01-01T00:00:00Z", expect=3)
    seerdb("get", "past", "--as-of", "yesterday", expect=2)
