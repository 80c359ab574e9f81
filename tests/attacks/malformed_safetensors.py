"""Malformed safetensors files, each the smallest that breaks one rule. Knows only the format's README.

`CASES` are files that `read_safetensors` must refuse; the command-line tests run over them too.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quant.errors import SafetensorsError
from tests.attacks.case import Case


def file_bytes(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def _raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _json(header: dict[str, Any], n_data: int = 4) -> Callable[[Path], object]:
    return _raw(file_bytes(json.dumps(header).encode(), bytes(n_data)))


def _text(header: str, n_data: int = 4) -> Callable[[Path], object]:
    return _raw(file_bytes(header.encode(), bytes(n_data)))


def _one(n_data: int = 4, **fields: Any) -> Callable[[Path], object]:
    return _json({"a": entry(**fields)}, n_data)


_VALID = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'

_TABLE: tuple[tuple[str, Callable[[Path], object], str], ...] = (
    ("empty file", _raw(b""), "0 bytes long"),
    ("seven bytes", _raw(bytes(7)), "7 bytes long"),
    ("header of no bytes", _raw(file_bytes(b"")), "header begins with b''"),
    ("header longer than the file", _raw(file_bytes(b"{}", length=100)), "header of 100 bytes in a file of 10"),
    ("header length above the cap", _raw(file_bytes(b"{}", length=100_000_001)), "at most 100,000,000"),
    ("header length of 64 bits", _raw(file_bytes(b"{}", length=(1 << 64) - 1)), "at most 100,000,000"),
    ("header begins with a space", _text(" {}", 0), "header begins with b' '"),
    ("header is a list", _text("[]", 0), "header begins with b'['"),
    ("header is not JSON", _text("{", 0), "not JSON"),
    ("header followed by a second value", _text("{}{}", 0), "not JSON"),
    ("header is not UTF-8", _raw(file_bytes(b'{"\xff":1}')), "not UTF-8: byte 0xff at offset 2"),
    ("lone surrogate in a name", _text('{"\\ud800":{' + _VALID + "}}"), "lone surrogate"),
    ("JSON nested 100,000 deep", _text('{"a":' + "[" * 100_000, 0), "nested too deeply"),
    ("tensor named twice", _text('{"a":{' + _VALID + '},"a":{' + _VALID + "}}"), "the key 'a' appears twice"),
    ("field named twice", _text('{"a":{"dtype":"F64",' + _VALID + "}}"), "the key 'dtype' appears twice"),
    ("metadata twice", _text('{"__metadata__":{},"__metadata__":{}}', 0), "appears twice"),
    ("metadata is a list", _json({"__metadata__": []}, 0), "must map strings to strings"),
    ("metadata holds a number", _json({"__metadata__": {"step": 1}}, 0), "must map strings to strings"),
    ("entry is a number", _json({"a": 7}), "exactly dtype, shape and data_offsets"),
    ("entry is null", _json({"a": None}), "exactly dtype, shape and data_offsets"),
    ("dtype missing", _json({"a": {"shape": [1], "data_offsets": [0, 4]}}), "exactly dtype, shape and data_offsets"),
    ("field too many", _one(code="import os"), "exactly dtype, shape and data_offsets"),
    ("unknown dtype", _one(dtype="F33"), "unknown dtype 'F33'"),
    ("dtype in lower case", _one(dtype="f32"), "unknown dtype 'f32'"),
    ("dtype is a list", _one(dtype=["F32"]), "unknown dtype"),
    ("shape is a number", _one(shape=1), "shape must be a list"),
    ("negative dimension", _one(shape=[-1]), "shape must be a list"),
    ("boolean dimension", _one(shape=[True]), "shape must be a list"),
    ("fractional dimension", _one(shape=[1.0]), "shape must be a list"),
    ("dimension of 2^64", _one(shape=[1 << 64]), "shape must be a list"),
    ("dimension of 5,000 digits", _text('{"a":{"shape":[' + "9" * 5000 + "]}}"), "an integer of 5000 digits"),
    ("product of dimensions wraps 64 bits", _one(shape=[1 << 32, 1 << 32, 4]), "takes 295,147,905,179,352,825,856"),
    ("too many dimensions", _one(shape=[1] * 17), "shape must be a list"),
    ("three offsets", _one(offsets=[0, 2, 4]), "two ascending"),
    ("offsets descend", _one(offsets=[4, 0]), "two ascending"),
    ("negative offset", _one(offsets=[-4, 0]), "two ascending"),
    ("boolean offset", _one(shape=[0], offsets=[False, False]), "two ascending"),
    ("offset not finite", _text('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}'), "Infinity"),
    ("offset overflows to infinity", _text('{"a":{"shape":[1e999]}}'), "does not fit a double"),
    ("span shorter than shape", _one(offsets=[0, 3]), "takes 4 bytes, data_offsets span 3"),
    ("span longer than shape", _one(offsets=[0, 5], n_data=5), "takes 4 bytes, data_offsets span 5"),
    ("scalar without bytes", _one(shape=[], offsets=[0, 0]), "takes 4 bytes, data_offsets span 0"),
    ("half a byte", _one(dtype="F4", shape=[1], offsets=[0, 1], n_data=1), "4 bits, which is not a whole number"),
    ("data begin with a hole", _one(offsets=[4, 8], n_data=8), "tensor 'a' begins 4 bytes into the data"),
    ("hole between tensors", _json({"a": entry(), "b": entry(offsets=[8, 12])}, 12), "a hole of 4 bytes"),
    ("two tensors in one place", _json({"a": entry(), "b": entry()}), "an overlap of 4 bytes"),
    ("tensors overlap by a byte", _json({"a": entry(), "b": entry(offsets=[3, 7])}, 7), "an overlap of 1 bytes"),
    ("data end too early", _one(n_data=3), "its tensors end at byte"),
    ("no data at all", _one(n_data=0), "its tensors end at byte"),
    ("bytes behind the last tensor", _one(n_data=5), "1 bytes follow the last tensor"),
    ("bytes in a file without tensors", _text("{}", 1), "1 bytes follow the last tensor"),
    ("HTML instead of a file", _raw(b"<!DOCTYPE html><html><body>404</body></html>"), "at most 100,000,000"),
    ("a Git LFS pointer", _raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "at most 100,000,000"),
    ("a zip archive", _raw(b"PK\3\4" + bytes(60)), "header of"),
    ("a folder", lambda path: path.mkdir(), "not a regular file"),
    ("a pipe", os.mkfifo, "not a regular file"),
    ("a broken link", lambda path: path.symlink_to("nowhere"), "No such file"),
)

CASES: tuple[Case, ...] = tuple(
    Case(name, build, SafetensorsError, fragment, "model.safetensors") for name, build, fragment in _TABLE
)
