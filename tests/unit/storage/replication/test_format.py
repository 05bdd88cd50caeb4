"""The messages of the live log: bytes, damage, and streams that arrive in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb import ChecksumError, CorruptionError, UnsupportedFormatError
from seerdb.storage.replication import format as live_format
from seerdb.storage.replication.format import (
    MESSAGE_HEADER_SIZE,
    Heartbeat,
    Hello,
    MessageReader,
    MessageType,
    decode_heartbeat,
    decode_hello,
    decode_mark,
    encode_heartbeat,
    encode_hello,
    encode_mark,
    encode_message,
)
from seerdb.storage.replication.running import Mark

HELLO = Hello("00112233445566778899aabbccddeeff", 3, 7, 1_700_000_000_000_000)

MARK = Mark(3, 12, 7, 100, "00112233445566778899aabbccddeeff")


def messages(data: bytes) -> list[tuple[MessageType, bytes]]:
    return list(MessageReader().feed(data))


def test_the_worked_example() -> None:
    assert live_format.__doc__ is not None
    stated = live_format.__doc__.partition("::\n")[2].split("\n\n")[0]
    encoded = encode_heartbeat(Heartbeat(7, 1_700_000_000_000_000))
    assert encoded.hex(" ") == " ".join(stated.split())


def test_golden_bytes_of_a_greeting() -> None:
    assert encode_hello(HELLO).hex() == (
        "012a000000" + encode_hello(HELLO)[5:9].hex() + "0200"
        "00112233445566778899aabbccddeeff" + "0300000000000000" + "0700000000000000"
        "00401e18240a0600"
    )


def test_golden_bytes_of_a_mark() -> None:
    encoded = encode_mark(MARK)
    assert encoded.hex() == (
        "0530000000" + encoded[5:9].hex() + "0300000000000000" + "0c00000000000000"
        "0700000000000000" + "6400000000000000" + MARK.digest
    )
    [(kind, body)] = messages(encoded)
    assert (kind, decode_mark(body)) == (MessageType.MARK, MARK)


def test_what_was_encoded_is_decoded() -> None:
    sent = encode_hello(HELLO) + encode_heartbeat(Heartbeat(8, 9))
    (_, hello), (kind, heartbeat) = messages(sent)
    assert decode_hello(hello) == HELLO
    assert decode_heartbeat(heartbeat) == Heartbeat(8, 9)
    assert kind is MessageType.HEARTBEAT


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_come_out_whole_however_they_arrive(bodies: list[bytes], size: int) -> None:
    sent = b"".join(encode_message(MessageType.FRAMES, body) for body in bodies)
    reader = MessageReader()
    parts = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert [body for part in parts for _, body in reader.feed(part)] == bodies


@pytest.mark.parametrize("at", [6, MESSAGE_HEADER_SIZE, MESSAGE_HEADER_SIZE + 15])
def test_a_damaged_message_is_refused(at: int) -> None:
    sent = bytearray(encode_heartbeat(Heartbeat(1, 2)))
    sent[at] ^= 1
    with pytest.raises(ChecksumError):
        messages(bytes(sent))


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError):
        messages(b"\x09" + encode_heartbeat(Heartbeat(1, 2))[1:])


def test_another_version_is_refused_and_says_what_to_do() -> None:
    [(_, body)] = messages(encode_hello(HELLO))
    with pytest.raises(UnsupportedFormatError, match="same release"):
        decode_hello(b"\x03\x00" + body[2:])


def test_a_primary_that_sends_no_marks_yet_is_understood() -> None:
    [(_, body)] = messages(encode_hello(HELLO))
    assert decode_hello(b"\x01\x00" + body[2:]) == HELLO


def test_a_message_that_is_too_short_is_refused() -> None:
    for decode in (decode_hello, decode_heartbeat, decode_mark):
        with pytest.raises(CorruptionError):
            decode(b"\x01\x00")
