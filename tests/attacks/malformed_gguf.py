"""Malformed GGUF files, each the smallest that breaks one rule, of the container or of what llama.cpp can load.

`CASES` are files that `read_gguf` followed by `check_model` must refuse; the command-line tests run over them too.
`ABORTS_LLAMA_CPP` names those that kill the process when llama.cpp 0c1e57098 loads them and decodes one batch (found by
running thousands of variants of a tiny model in child processes; tests/attacks/test_llama_aborts.py shows it for each).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quant.errors import GgufError
from tests.attacks.case import Case
from tests.tiny_gguf import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    TinyGguf,
    TinyTensor,
    Value,
    header,
    padded,
    pair,
    string,
    tensor_info,
    tokens,
)

Build = Callable[[Path], object]
_ALIGNMENT = "general.alignment"


def _raw(content: bytes) -> Build:
    return lambda path: path.write_bytes(content)


def _pairs(*pairs: bytes) -> Build:
    return _raw(padded(header(list(pairs), [])))


def _tensors(*infos: bytes, n_data: int = 0, pairs: tuple[bytes, ...] = ()) -> Build:
    return _raw(padded(header(list(pairs), list(infos))) + bytes(n_data))


def _counts(n_tensors: int, n_pairs: int) -> Build:
    return _raw(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs) + bytes(64))


def _model(architecture: str = "qwen3moe", **changes: Any) -> Build:
    """Return a builder of a tiny model with other values: `a__b=(type, value)` sets the key a.b, None removes it."""

    def build(path: Path) -> object:
        model = TinyGguf.of(architecture)
        for name, value in changes.items():
            key = name.replace("__", ".")
            key = key if key.startswith(("general", "tokenizer")) else f"{architecture}.{key}"
            if value is None:
                del model.pairs[key]
            else:
                model.pairs[key] = value
        return model.write(path)

    return build


def _tensor(name: str, **changes: Any) -> Build:
    """Return a builder of a tiny model with another tensor `name`; no changes at all remove it."""

    def build(path: Path) -> object:
        model = TinyGguf.of()
        tensor = model.tensors.pop(name)
        if changes:
            model.tensors[name] = TinyTensor(changes.get("shape", tensor.shape), changes.get("type_id", 0))
        return model.write(path)

    return build


def _aligned_to(alignment: int) -> Build:
    def build(path: Path) -> object:
        model = TinyGguf.of()
        model.alignment = alignment
        model.pairs[_ALIGNMENT] = (U32, alignment)
        return model.write(path)

    return build


def _split(first: dict[str, Value] | None = None, second: dict[str, Value] | None = None, name: str = "b") -> Build:
    """Return a builder of a set of two files with other values; the second is left out where it is None."""

    def part(number: int, changes: dict[str, Value], tensor: str) -> TinyGguf:
        pairs: dict[str, Value] = {
            "general.architecture": (STRING, "a"),
            "split.no": (U16, number),
            "split.count": (U16, 2),
            "split.tensors.count": (I32, 2),
        }
        return TinyGguf(pairs | changes, {tensor: TinyTensor((8,))})

    def build(path: Path) -> object:
        if second is not None:
            part(1, second, name).write(path.with_name("m-00002-of-00002.gguf"))
        return part(0, first or {}, "a").write(path)

    return build


_ONE = tensor_info("a", (8,), 0, 0)
_TOKENS = tokens()

_CONTAINER: tuple[tuple[str, Build, str], ...] = (
    ("empty file", _raw(b""), "not a GGUF file"),
    ("three bytes", _raw(b"GGU"), "not a GGUF file"),
    ("magic alone", _raw(b"GGUF"), "version takes 4 bytes"),
    ("other magic", _raw(b"GGML" + bytes(60)), "it begins with b'GGML'"),
    ("HTML instead of a file", _raw(b"<!DOCTYPE html><html></html>"), "it begins with b'<!DO'"),
    ("version 1", _raw(b"GGUF" + struct.pack("<IQQ", 1, 0, 0)), "GGUF version 1"),
    ("version 4", _raw(b"GGUF" + struct.pack("<IQQ", 4, 0, 0)), "GGUF version 4"),
    ("big-endian", _raw(b"GGUF" + struct.pack(">IQQ", 3, 0, 0)), "big-endian"),
    ("cut off in the counts", _raw(b"GGUF" + struct.pack("<IQ", 3, 0)), "pair count takes 8 bytes"),
    ("2^63 tensors", _counts(1 << 63, 0), "9,223,372,036,854,775,808 tensors"),
    ("2^64-1 pairs", _counts(0, (1 << 64) - 1), "18,446,744,073,709,551,615 key-value pairs"),
    ("more tensors than bytes", _counts(3, 0), "3 tensors cannot be in the 64 bytes"),
    ("more pairs than bytes", _counts(0, 5), "5 key-value pairs cannot be in the 64 bytes"),
    ("empty key", _pairs(pair("", U32, 1)), "key 0 has 0 bytes"),
    ("key of 2^62 bytes", _pairs(struct.pack("<Q", 1 << 62) + bytes(8)), "key 0 takes 4,611,686,018,427,387,904 bytes"),
    ("key of 65,536 bytes", _pairs(pair("k" * 65536, U32, 1)), "key 0 has 65,536 bytes"),
    ("key not UTF-8", _pairs(pair(b"\xff", U32, 1)), "key 0 is not UTF-8"),
    ("NUL in a key", _pairs(pair("a\0b", U32, 1)), "characters that cannot be printed"),
    ("key twice", _pairs(pair("a", U32, 1), pair("a", U32, 1)), "the key 'a' appears twice"),
    ("unknown value type", _pairs(string("a") + struct.pack("<II", 13, 0)), "the unknown type 13"),
    (
        "string of 2^64-1 bytes",
        _pairs(string("a") + struct.pack("<IQ", STRING, (1 << 64) - 1)),
        "the value of 'a' takes",
    ),
    ("boolean of 2", _pairs(pair("a", BOOL, 2)), "a BOOL is neither 0 nor 1"),
    ("boolean of 2 in an array", _pairs(pair("a", ARRAY, (BOOL, [0, 2, 1]))), "a BOOL is neither 0 nor 1"),
    ("array of arrays", _pairs(pair("a", ARRAY, (ARRAY, [(U8, [1])]))), "an array of arrays"),
    ("array of unknown type", _pairs(string("a") + struct.pack("<IIQ", ARRAY, 99, 0)), "the unknown type 99"),
    (
        "array of 2^61 numbers",  # a 94-byte file of this kind keeps gguf-py's reader busy for ever
        _pairs(string("a") + struct.pack("<IIQ", ARRAY, U64, 1 << 61)),
        "takes 18,446,744,073,709,551,616 bytes",
    ),
    ("array of 2^60 strings", _pairs(string("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 60)), "strings cannot be"),
    (
        "array of strings, the second too long",
        _pairs(string("a") + struct.pack("<IIQ", ARRAY, STRING, 2) + string("x") + struct.pack("<Q", 1 << 40)),
        "takes 1,099,511,627,776 bytes",
    ),
    ("alignment 0", _pairs(pair(_ALIGNMENT, U32, 0)), "general.alignment is 0"),
    ("alignment 33", _pairs(pair(_ALIGNMENT, U32, 33)), "general.alignment is 33"),
    ("alignment 2^31", _pairs(pair(_ALIGNMENT, U32, 1 << 31)), "general.alignment is 2147483648"),
    ("alignment of another type", _pairs(pair(_ALIGNMENT, U64, 32)), "must be one UINT32"),
    ("alignment is an array", _pairs(pair(_ALIGNMENT, ARRAY, (U32, [32]))), "must be one UINT32"),
    ("tensor without a name", _tensors(tensor_info("", (8,), 0, 0) + b"\0"), "name of tensor 0 has 0 bytes"),
    ("tensor name of 64 bytes", _tensors(tensor_info("t" * 64, (8,), 0, 0)), "name of tensor 0 has 64 bytes"),
    ("tensor name not UTF-8", _tensors(tensor_info(b"\x80", (8,), 0, 0)), "is not UTF-8"),
    ("NUL in a tensor name", _tensors(tensor_info("a\0", (8,), 0, 0)), "characters that cannot be printed"),
    ("tensor twice", _tensors(_ONE, tensor_info("a", (8,), 0, 32), n_data=64), "two tensors have the name 'a'"),
    ("no dimensions", _tensors(tensor_info("a", (), 0, 0) + bytes(8)), "has 0 dimensions"),
    ("five dimensions", _tensors(tensor_info("a", (1,) * 5, 0, 0)), "has 5 dimensions"),
    ("2^32-1 dimensions", _tensors(string("a") + struct.pack("<I", 0xFFFFFFFF) + bytes(32)), "4294967295 dimensions"),
    ("dimension of 0", _tensors(tensor_info("a", (8, 0), 0, 0)), "is empty"),
    ("product of dimensions wraps 64 bits", _tensors(tensor_info("a", (1 << 32, 1 << 32, 2), 0, 0)), "63 bits"),
    ("negative dimension", _tensors(tensor_info("a", (1 << 63,), 0, 0)), "63 bits"),
    ("unknown tensor type", _tensors(tensor_info("a", (8,), 99, 0)), "the unknown type 99"),
    ("removed tensor type Q4_2", _tensors(tensor_info("a", (32,), 4, 0)), "the unknown type 4"),
    ("rows that are not whole blocks", _tensors(tensor_info("a", (100,), 12, 0)), "not whole Q4_K blocks of 256"),
    ("offset not the sum before it", _tensors(_ONE, tensor_info("b", (8,), 0, 64), n_data=96), "instead of 32"),
    ("first offset not 0", _tensors(tensor_info("a", (8,), 0, 32), n_data=64), "data offset 32 instead of 0"),
    (
        "two tensors in one place",
        _tensors(_ONE, tensor_info("b", (8,), 0, 0), n_data=64),
        "data offset 0 instead of 32",
    ),
    ("offset of 2^64-32", _tensors(tensor_info("a", (8,), 0, (1 << 64) - 32), n_data=32), "instead of 0"),
    ("cut off in the tensor infos", _raw(header([], [tensor_info("blk.0.a", (8,), 0, 0)])[:-4]), "takes 8 bytes"),
    ("cut off in the data", _tensors(_ONE, n_data=31), "the file at"),
    ("no data at all", _tensors(_ONE), "the file at"),
    ("bytes behind the last tensor", _tensors(_ONE, n_data=65), "33 bytes follow the last tensor"),
    ("a folder", lambda path: path.mkdir(), "not a regular file"),
    ("a broken link", lambda path: path.symlink_to("nowhere"), "No such file"),
)

_SPLIT: tuple[tuple[str, Build, str], ...] = (
    ("split file that is not the first", _split({"split.no": (U16, 1)}, {}), "not the first file of its split set"),
    ("split file of another count in its name", _split({"split.count": (U16, 3)}), "not named"),
    ("second split file missing", _split(), "1 of 2 split files are missing"),
    ("split.count of another type", _split({"split.count": (STRING, "2")}), "split.count must be one UINT16, not '2'"),
    ("second split file of another count", _split({}, {"split.count": (U16, 3)}), "split.count is 3 instead of 2"),
    ("second split file of another number", _split({}, {"split.no": (U16, 0)}), "split.no is 0 instead of 1"),
    ("second split.no not a UINT16", _split({}, {"split.no": (U32, 1)}), "split.no must be one UINT16"),
    (
        "second split file of another model",
        _split({}, {"general.architecture": (STRING, "b")}),
        "general.architecture is 'b'",
    ),
    (
        "second split file of another type",
        _split({"general.file_type": (U32, 15)}, {"general.file_type": (U32, 7)}),
        "general.file_type is 7",
    ),
    ("tensor in two split files", _split({}, {}, name="a"), "tensor 'a' is in m-00001-of-00002.gguf as well"),
    (
        "tensor missing from a split set",
        _split({"split.tensors.count": (I32, 3)}, {"split.tensors.count": (I32, 3)}),
        "split.tensors.count is 3, the 2 files hold 2 tensors",
    ),
)

_U32_MAX = 0xFFFFFFFF
_SHORT = _TOKENS[:-1]
_REPEATED = [*_TOKENS[:5], _TOKENS[0], *_TOKENS[6:]]

_MODEL: tuple[tuple[str, Build, str], ...] = (
    ("no architecture", _model(general__architecture=None), "general.architecture is missing"),
    ("architecture is a number", _model(general__architecture=(U32, 7)), "general.architecture must be STRING"),
    ("architecture that is no name", _model(general__architecture=(STRING, "a\nb")), "'a\\nb', which is not a name"),
    ("a LoRA adapter", _model(general__type=(STRING, "adapter")), "a LoRA adapter, not a model"),
    ("a vocabulary alone", lambda path: TinyGguf(TinyGguf.of().pairs, {}).write(path), "it holds no tensors"),
    ("no layer count", _model(block_count=None), "block_count is missing"),
    ("0 layers", _model(block_count=(U32, 0)), "block_count is 0"),
    ("513 layers", _model(block_count=(U32, 513)), "block_count is 513"),
    ("layers as an array", _model(block_count=(ARRAY, (U32, [2, 2]))), "block_count must be one UINT32"),
    ("context of 0", _model(context_length=(U32, 0)), "context_length is 0"),
    ("embedding of 0", _model(embedding_length=(U32, 0)), "embedding_length is 0"),
    ("embedding of another width", _model(embedding_length=(U32, 128)), "token_embd.weight has shape (259, 64)"),
    ("5,000 experts", _model(expert_count=(U32, 5000)), "expert_count is 5000; llama.cpp takes at most 1024"),
    ("no experts in an expert model", _model(expert_count=(U32, 0), expert_used_count=(U32, 0)), "expert_count is 0"),
    ("more experts used than there are", _model(expert_used_count=(U32, 5)), "expert_used_count is 5 of 4"),
    ("no experts used", _model(expert_used_count=(U32, 0)), "expert_used_count is 0 of 4"),
    ("no expert count", _model(expert_count=None), "expert_used_count is 2 of 0"),
    ("a layer that uses no experts", _model(expert_used_count=(ARRAY, (U32, [2, 0]))), "expert_used_count is 0 of 4"),
    ("expert counts of another length", _model(expert_used_count=(ARRAY, (U32, [2]))), "1 elements for 2 layers"),
    ("as many expert groups as experts", _model(expert_group_count=(U32, 4)), "expert_group_count is 4 for 4"),
    ("expert groups of unequal size", _model(expert_group_count=(U32, 3)), "4 experts in 3 groups"),
    ("expert groups of which none is used", _model(expert_group_count=(U32, 2)), "groups of which 0 are used"),
    ("more prediction layers than layers", _model(nextn_predict_layers=(U32, 3)), "nextn_predict_layers is 3 of 2"),
    ("no heads", _model(attention__head_count=(U32, 0)), "a layer has 0 heads"),
    ("no key-value heads", _model(attention__head_count_kv=(U32, 0)), "0 key-value heads"),
    ("a layer without key-value heads", _model(attention__head_count_kv=(ARRAY, (U32, [1, 0]))), "0 key-value heads"),
    ("heads that do not divide", _model(attention__head_count=(U32, 3), attention__head_count_kv=(U32, 2)), "evenly"),
    ("heads of odd width", _model(attention__key_length=(U32, 31), attention__value_length=(U32, 31)), "one even"),
    ("keys wider than values", _model(attention__key_length=(U32, 64)), "keys of 64, values of 32"),
    ("half of a head rotated", _model(rope__dimension_count=(U32, 16)), "16 of them rotated"),
    ("rope scaling unheard of", _model(rope__scaling__type=(STRING, "dynamic")), "rope.scaling.type is 'dynamic'"),
    ("rope base of 0", _model(rope__freq_base=(F32, 0.0)), "rope.freq_base is not above 0"),
    ("rope base not a number", _model(rope__freq_base=(F32, float("nan"))), "rope.freq_base is nan"),
    ("rope factor below 0", _model(rope__scaling__factor=(F32, -4.0)), "rope.scaling.factor is below 0"),
    ("epsilon below 0", _model(attention__layer_norm_rms_epsilon=(F32, -1.0)), "layer_norm_rms_epsilon is below 0"),
    ("epsilon not a number", _model(attention__layer_norm_rms_epsilon=(F32, float("nan"))), "epsilon is nan"),
    ("an encoder", _model(attention__causal=(BOOL, 0)), "cannot generate text"),
    ("no tokenizer", _model(tokenizer__ggml__model=None), "tokenizer.ggml.model is missing"),
    ("no vocabulary", _model(tokenizer__ggml__model=(STRING, "no_vocab")), "it has no vocabulary"),
    ("no tokens", _model(tokenizer__ggml__tokens=(ARRAY, (STRING, []))), "tokenizer.ggml.tokens is empty"),
    ("tokens are numbers", _model(tokenizer__ggml__tokens=(ARRAY, (U32, [1]))), "not an array of UINT32"),
    ("tokens are one string", _model(tokenizer__ggml__tokens=(STRING, "abc")), "must be an array of STRING"),
    ("token twice", _model(tokenizer__ggml__tokens=(ARRAY, (STRING, _REPEATED))), "holds '!' 2 times"),
    (
        "token that looks like an empty one",
        _model(tokenizer__ggml__tokens=(ARRAY, (STRING, ["", "[EMPTY_0]", *_TOKENS[2:]]))),
        "holds '[EMPTY_0]' 2 times",
    ),
    ("a token fewer than rows", _model(tokenizer__ggml__tokens=(ARRAY, (STRING, _SHORT))), "there are 258 tokens"),
    ("token types too few", _model(tokenizer__ggml__token_type=(ARRAY, (I32, [1]))), "token_type has 1 elements"),
    (
        "token types of a byte",
        _model(tokenizer__ggml__token_type=(ARRAY, (U8, [1] * 259))),
        "must be an array of INT32",
    ),
    ("scores too few", _model(tokenizer__ggml__scores=(ARRAY, (F32, [0.0]))), "scores has 1 elements for 259"),
    ("scores of a byte", _model(tokenizer__ggml__scores=(ARRAY, (U8, [1] * 259))), "must be an array of FLOAT32 or"),
    ("scores are one number", _model(tokenizer__ggml__scores=(F32, 1.0)), "not the FLOAT32 1.0"),
    ("merges are numbers", _model(tokenizer__ggml__merges=(ARRAY, (U32, [1]))), "not an array of UINT32"),
    ("end of text behind the tokens", _model(tokenizer__ggml__eos_token_id=(U32, 259)), "eos_token_id is 259"),
    ("begin of text is -1", _model(tokenizer__ggml__bos_token_id=(U32, _U32_MAX)), "bos_token_id is 4294967295"),
    (
        "begin of text wanted, but none",
        _model(
            tokenizer__ggml__pre=(STRING, "glm4"),
            tokenizer__ggml__add_bos_token=(BOOL, 1),
            tokenizer__ggml__bos_token_id=None,
        ),
        "there is no bos_token_id",
    ),
    ("SentencePiece without byte tokens", _model(tokenizer__ggml__model=(STRING, "llama")), "lacks the byte token"),
    (
        "WordPiece with byte tokens",
        _model(tokenizer__ggml__model=(STRING, "bert"), tokenizer__ggml__token_type=(ARRAY, (I32, [6] * 259))),
        "which a WordPiece vocabulary cannot have",
    ),
    (
        "heads that do not make up the attention",
        _model("qwen2", attention__head_count=(U32, 3)),
        "tensor blk.0.attn_q.weight has shape (64, 64), the metadata make it (96, 64)",
    ),
    ("no token embedding", _tensor("token_embd.weight"), "tensor token_embd.weight is missing"),
    ("no output norm", _tensor("output_norm.weight"), "tensor output_norm.weight is missing"),
    ("no norm in the second layer", _tensor("blk.1.attn_norm.weight"), "tensor blk.1.attn_norm.weight is missing"),
    ("no router", _tensor("blk.0.ffn_gate_inp.weight"), "tensor blk.0.ffn_gate_inp.weight is missing"),
    ("no experts' weights", _tensor("blk.1.ffn_up_exps.weight"), "tensor blk.1.ffn_up_exps.weight is missing"),
    ("norm of another width", _tensor("output_norm.weight", shape=(32,)), "output_norm.weight has shape (32,)"),
    ("router in F64", _tensor("blk.0.ffn_gate_inp.weight", type_id=28), "stored as F64, for which llama.cpp has no"),
    ("attention in I8", _tensor("blk.0.attn_q.weight", type_id=24), "stored as I8, for which"),
    ("experts in I32", _tensor("blk.0.ffn_up_exps.weight", type_id=26), "stored as I32, for which"),
    ("norm in F16", _tensor("blk.0.attn_norm.weight", type_id=1), "stored as F16; llama.cpp computes it in F32 only"),
    ("norm in Q8_0", _tensor("blk.0.ffn_norm.weight", type_id=8), "stored as Q8_0; llama.cpp computes it in F32 only"),
    ("head norm in BF16", _tensor("blk.0.attn_k_norm.weight", type_id=30), "stored as BF16; llama.cpp computes it"),
    ("tensors where they cannot be mapped", _aligned_to(8), "not at a multiple of 32"),
)


def _cases(table: tuple[tuple[str, Build, str], ...], file_name: str = "model.gguf") -> tuple[Case, ...]:
    return tuple(Case(name, build, GgufError, fragment, file_name) for name, build, fragment in table)


CONTAINER_CASES = _cases(_CONTAINER) + _cases(_SPLIT, "m-00001-of-00002.gguf")
"""Refused by `read_gguf`."""

MODEL_CASES = _cases(_MODEL)
"""Read by `read_gguf`, refused by `check_model`."""

CASES = CONTAINER_CASES + MODEL_CASES

ABORTS_LLAMA_CPP = (
    "0 layers",
    "513 layers",
    "5,000 experts",
    "more experts used than there are",
    "no experts used",
    "no expert count",
    "a layer that uses no experts",
    "as many expert groups as experts",
    "expert groups of unequal size",
    "expert groups of which none is used",
    "more prediction layers than layers",
    "a layer without key-value heads",
    "half of a head rotated",
    "rope scaling unheard of",
    "epsilon below 0",
    "epsilon not a number",
    "token twice",
    "token that looks like an empty one",
    "begin of text wanted, but none",
    "WordPiece with byte tokens",
    "heads that do not make up the attention",
    "router in F64",
    "attention in I8",
    "experts in I32",
    "norm in F16",
    "norm in Q8_0",
    "head norm in BF16",
    "tensors where they cannot be mapped",
    "second split.no not a UINT16",
)
"""Names of cases."""
