"""``seerdb inspect``: what the objects and files of a database hold, decoded.

Damage is told where it stands, and what can be read around it is shown all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer
from crc32c import crc32c

from seerdb.cli.arguments import Config, Json, Store, Target
from seerdb.cli.operation import operation_fields, operation_text, short
from seerdb.cli.output import named, print_json, print_table, write_bytes
from seerdb.cli.target import find
from seerdb.clock import when
from seerdb.errors import (
    MALFORMED,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    TruncatedError,
)
from seerdb.ids import BlobId, TableId
from seerdb.storage.blob.format import Directory, open_value
from seerdb.storage.entry import (
    MERGE,
    PUT_WITH_EXPIRY,
)
from seerdb.storage.local.files import read_whole
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load, read_record
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import (
    blob_name,
    parse_blob_name,
    parse_table_name,
    table_name,
)
from seerdb.storage.sstable.format import FOOTER_SIZE, TableProperties, decode_footer, unseal
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.value import (
    BELOW,
    SECOND_US,
    Expiring,
    Merge,
    Operand,
    Value,
    unpack_expiring,
)
from seerdb.storage.wal.format import decode_operations
from seerdb.storage.wal.reader import Condition, SegmentScan, classify, read_segment
from seerdb.storage.wal.segments import parse_segment_name

app = typer.Typer(no_args_is_help=True, help="Show what an object or file holds, decoded.")


@app.command()
def manifest(
    target: Target,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[NUMBER]", min=1, help="One record, instead of their sum."),
    ] = None,
    *,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what the database consists of, or one record of the manifest.

    In JSON, keys are in base64, as they are in the manifest itself."""
    with find(target, store, config).open() as bucket:
        if number is not None:
            encoded = msgspec.json.encode(read_record(bucket, number))
            write_bytes((encoded if as_json else msgspec.json.format(encoded)) + b"\n")
            return
        state = load(bucket)
    if state is None:
        raise NotFoundError(f"{target} has no manifest")
    if as_json:
        print_json(state)
    else:
        _print_state(state)


@app.command()
def table(
    target: Target,
    table_id: Annotated[
        str, typer.Argument(metavar="TABLE", help="Its id, or its name in the bucket.")
    ],
    *,
    entries: Annotated[
        bool, typer.Option("--entries", help="Show the entries, one to a line, instead.")
    ] = False,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the properties and blocks of a table, whether or not the manifest names it."""
    name = table_id if parse_table_name(table_id) else table_name(TableId(table_id))
    found = parse_table_name(name)
    if found is None:
        raise InvalidRequestError(f"a table's id is as 00000001-000000000001, unlike {table_id!r}")
    with find(target, store, config).open() as bucket:
        data = bucket.get(name)
    reader = _open(found, data)
    if entries:
        _print_entries(reader, data, as_json=as_json)
    else:
        _print_table(reader, data, as_json=as_json)


@app.command()
def blob(
    target: Target,
    blob_id: Annotated[
        str, typer.Argument(metavar="BLOB", help="Its id, or its name in the bucket.")
    ],
    *,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show where the values of a blob lie, whether or not a table points at them."""
    found = parse_blob_name(blob_id) or parse_blob_name(blob_name(BlobId(blob_id)))
    if found is None:
        raise InvalidRequestError(
            f"a blob's id is as 00000001-000000000001-000000, unlike {blob_id!r}"
        )
    with find(target, store, config).open() as bucket:
        data = bucket.get(blob_name(found))
    values, first_error = [], None
    for place in Directory(found, data):
        value = {"offset": place.offset, "length": place.length, "bytes": 0, "state": "sound"}
        try:
            stored = data[place.offset : place.offset + place.length]
            value["bytes"] = len(open_value(stored, place))
        except CorruptionError as error:
            first_error = first_error or error
            value["state"] = error.reason
        values.append(value)
    if as_json:
        print_json({"id": found, "size": len(data), "values": values})
    else:
        print_table(("blob", "value"), [("id", found), ("size", len(data))])
        print()
        columns = ("offset", "length", "bytes", "state")
        print_table(columns, [tuple(value.values()) for value in values])
    if first_error is not None:
        raise first_error


@app.command()
def wal(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Segments of a log.")],
    *,
    as_json: Json = False,
) -> None:
    """Show the header and every commit of segment files."""
    system, first_error = OsFileSystem(), None
    for file in files:
        if not system.exists(file):
            raise NotFoundError(f"{file} is not there")
        try:
            _show_segment(system, file, as_json=as_json)
        except CorruptionError as error:
            first_error = first_error or error
            if len(files) > 1:
                print(f"damaged: {error}", file=sys.stderr)
    if first_error is not None:
        raise first_error


def _show_segment(system: OsFileSystem, file: str, *, as_json: bool) -> None:
    """Print what is sound in a segment. Raises: ``CorruptionError`` if that is not all."""
    segment = parse_segment_name(file.rpartition("/")[2])
    scan = read_segment(read_whole(system, file), file, segment, salvage=True)
    if as_json:
        _print_segment_json(scan)
    else:
        _print_segment(scan)
    condition = classify(scan, is_last=True)
    if condition is Condition.CORRUPT:
        raise scan.error()
    if condition is Condition.TORN:
        print(f"torn tail: {scan.torn_bytes:,} bytes at {scan.end:,}", file=sys.stderr)


def _print_state(state: ManifestState) -> None:
    print_table(
        ("manifest", "value"),
        [
            ("number", state.number),
            ("time", when(state.time_us)),
            ("database", state.database_id),
            ("epoch", state.epoch),
            ("home", state.home),
            ("merge operator", state.merge_operator),
            ("tables reach seq", state.last_seq),
            ("log begins at segment", state.log_start),
            ("checkpoint", state.checkpoint),
            ("checkpoint before", state.checkpoint_before),
            ("claims", ", ".join(map(str, state.claims))),
        ],
    )
    print()
    print_table(
        ("table", "level", "run", "bytes", "entries", "seq", "smallest key", "largest key"),
        [
            (
                meta.id,
                meta.level,
                meta.run,
                meta.size,
                meta.entries,
                f"{meta.min_seq}-{meta.max_seq}",
                short(meta.smallest),
                short(meta.largest),
            )
            for meta in state.version.tables
        ],
    )
    if state.version.blobs:
        print()
        print_table(
            ("blob", "bytes", "of values", "live values", "live bytes"),
            [
                (use.id, use.size, use.total, use.live_values, use.live_bytes)
                for use in state.version.blobs
            ],
        )


def _open(table_id: TableId, data: bytes) -> TableReader:
    """A table as it describes itself. Raises: ``CorruptionError``."""
    name, size = table_name(table_id), len(data)
    if size < FOOTER_SIZE:
        raise TruncatedError("no footer", name=name, expected=FOOTER_SIZE, found=size)
    tail_offset = int.from_bytes(data[size - FOOTER_SIZE : size - FOOTER_SIZE + 8], "little")
    footer = decode_footer(data[tail_offset:], name=name, tail_offset=tail_offset)
    start = footer.properties_offset
    sealed = unseal(data[start : size - FOOTER_SIZE], name=name, offset=start)
    try:
        properties = msgspec.msgpack.decode(sealed, type=TableProperties)
    except MALFORMED as error:
        raise CorruptionError(f"no properties: {error}", name=name, offset=start) from error
    shared = set(TableMeta.__struct_fields__) & set(TableProperties.__struct_fields__)
    meta = TableMeta(
        id=table_id,
        level=0,
        run=0,
        size=size,
        checksum=crc32c(data),
        tail_offset=tail_offset,
        **{field: getattr(properties, field) for field in shared},
    )
    return TableReader(meta, data[tail_offset:])


def _print_table(reader: TableReader, data: bytes, *, as_json: bool) -> None:
    blocks, first_error = [], None
    for number in range(reader.block_count):
        first_key = reader.separator(number)
        offset, length = reader.block_range(number)
        block = {"block": number, "offset": offset, "bytes": length, "entries": 0, "state": "sound"}
        try:
            decoded = reader.decode_block(number, data[offset : offset + length])
            block["entries"] = len(decoded.columns().keys)
            first_key = decoded.first_key
        except CorruptionError as error:
            first_error = first_error or error
            block["state"] = error.reason
        blocks.append((block, first_key))
    properties = msgspec.structs.asdict(reader.properties)
    if as_json:
        _print_table_json(reader, properties, blocks)
    else:
        bounds = {name: short(properties[name]) for name in ("smallest", "largest")}
        about = {"table": reader.meta.id, "size": len(data), **properties, **bounds}
        for name in ("min_timestamp_us", "max_timestamp_us"):
            about[name.removesuffix("_us")] = when(about.pop(name))
        print_table(("property", "value"), list(about.items()))
        print()
        columns = ("block", "offset", "bytes", "entries", "state", "first key")
        print_table(columns, [(*block.values(), short(key)) for block, key in blocks])
        for start, end, seq in reader.tombstones:
            print(f"range tombstone {seq}: {short(start)} to {short(end)}")
    if first_error is not None:
        raise first_error


def _print_table_json(
    reader: TableReader, properties: dict[str, Any], blocks: list[tuple[dict[str, Any], bytes]]
) -> None:
    for name in ("smallest", "largest"):
        properties |= named(name, properties.pop(name))
    print_json(
        {
            "id": reader.meta.id,
            "size": reader.meta.size,
            "properties": properties,
            "blocks": [{**block, **named("first_key", key)} for block, key in blocks],
            "range_tombstones": [
                {"seq": seq, **named("start", start), **named("end", end)}
                for start, end, seq in reader.tombstones
            ],
        }
    )


def _print_entries(reader: TableReader, data: bytes, *, as_json: bool) -> None:
    first_error = None
    for number in range(reader.block_count):
        offset, length = reader.block_range(number)
        try:
            block = reader.decode_block(number, data[offset : offset + length])
            columns = block.columns()
        except CorruptionError as error:
            first_error = first_error or error
            print(f"block {number} is left out: {error.reason}", file=sys.stderr)
            continue
        for key, seq, kind, stored in zip(*columns, strict=True):
            value = block.decode(kind, stored)
            if as_json:
                print_json({"seq": seq, **operation_fields(kind, key, value)})
            else:
                print(f"{seq}\t{operation_text(kind, key, value)}")
    if first_error is not None:
        raise first_error


def _print_segment(scan: SegmentScan) -> None:
    header = scan.header
    print(
        f"{scan.name}: segment {header.segment} of epoch {header.epoch}, database "
        f"{header.database_id.hex()}, from seq {header.first_seq}, "
        f"created {when(header.created_us)}, {'sealed' if scan.sealed else 'open'}"
    )
    for seq, time_us, operations in _commits(scan):
        for operation in operations:
            print(f"{seq}\t{when(time_us)}\t{operation_text(*operation)}")


def _print_segment_json(scan: SegmentScan) -> None:
    header = scan.header._asdict() | {"database_id": scan.header.database_id.hex()}
    print_json({"path": scan.name, **header, "sealed": scan.sealed, "records": len(scan.records)})
    for seq, time_us, operations in _commits(scan):
        print_json(
            {
                "seq": seq,
                "time_us": time_us,
                "ops": [operation_fields(*each) for each in operations],
            }
        )


def _commits(scan: SegmentScan) -> Iterator[tuple[int, int, list[tuple[int, bytes, Value]]]]:
    for seq, time_us, payload in scan.records:
        operations = decode_operations(payload, scan.name)
        yield (
            seq,
            time_us,
            [(kind, key, _logged(kind, stored, time_us)) for kind, key, stored in operations],
        )


def _logged(kind: int, stored: bytes, time_us: int) -> Value:
    """The value of an operation in a log; the end, if it is a range delete."""
    if kind == MERGE:
        return Merge(BELOW, (Operand(time_us // SECOND_US, stored),))
    return Expiring(*unpack_expiring(stored)) if kind == PUT_WITH_EXPIRY else stored
