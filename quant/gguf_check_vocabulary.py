"""The vocabulary of a GGUF model, held against what llama-vocab.cpp asserts while it loads and tokenizes.

Source: llama_vocab::impl::load, ::tokenize and byte_to_token of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections import Counter

from quant.gguf_format import GgufValueType
from quant.gguf_values import GgufValues
from quant.shown import shown

_DEFAULT_IDS: dict[str, tuple[int | None, int | None]] = {
    "llama": (1, 2),
    "bert": (101, None),
    "gpt2": (11, 11),
    "hybriddna": (11, 11),
    "whitespace": (11, 11),
    "t5": (None, 1),
    "plamo2": (1, 2),
}
"""Begin and end of text that llama.cpp assumes for a tokenizer model where the file names none."""

_PRE_WITHOUT_BOS = {"chatglm-bpe", "glm4", "glm5"}
_PRE_WITH_BOS = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    "tekken", "chameleon", "gemma4", "granite-embed-multi-311m",
}  # fmt: skip
"""Pre-tokenizers that put a begin-of-text token in front unless the file says otherwise."""

_BYTE_TOKEN = 6  # LLAMA_TOKEN_TYPE_BYTE
_STEERING_IDS = ("bos", "eos", "eot", "eom")  # llama.cpp ignores a bad id of the others, and published files have some


def check_vocabulary(values: GgufValues) -> int:
    """Return the number of tokens.

    Raises:
        GgufError: names the key, with the numbers.
    """
    model = values.text("tokenizer.ggml.model")
    if model in {"none", "no_vocab"}:
        values.refuse("it has no vocabulary, so it can take and give no text")
    tokens = values.strings("tokenizer.ggml.tokens")
    _check_tokens(values, tokens)
    types = values.array("tokenizer.ggml.token_type", {GgufValueType.INT32})
    scores = values.array("tokenizer.ggml.scores", {GgufValueType.INT32, GgufValueType.FLOAT32})
    if model == "bert" and types is not None and (types == _BYTE_TOKEN).any():
        values.refuse("tokenizer.ggml.token_type has byte tokens, which a WordPiece vocabulary cannot have")
    for name, array in (("token_type", types), ("scores", scores)):
        if array is not None and array.size < len(tokens):
            values.refuse(f"tokenizer.ggml.{name} has {array.size} elements for {len(tokens)} tokens")
    if values.has("tokenizer.ggml.merges"):
        values.strings("tokenizer.ggml.merges")
    if model == "llama":
        _check_byte_tokens(values, set(tokens))
    _check_special_ids(values, model, len(tokens))
    return len(tokens)


def _check_tokens(values: GgufValues, tokens: list[str]) -> None:
    if not tokens:
        values.refuse("tokenizer.ggml.tokens is empty")
    if len(set(tokens)) == len(tokens) and "" not in tokens:
        return
    named = [token or f"[EMPTY_{position}]" for position, token in enumerate(tokens)]  # as llama.cpp names them
    ((token, times),) = Counter(named).most_common(1)
    if times > 1:
        values.refuse(f"tokenizer.ggml.tokens holds {shown(token)} {times} times")


def _check_byte_tokens(values: GgufValues, tokens: set[str]) -> None:
    """SentencePiece models spell unknown characters in bytes; a missing one ends the process while tokenizing."""
    for byte in range(256):
        alone = bytes([byte]).decode("utf-8", "surrogateescape")
        if f"<0x{byte:02X}>" not in tokens and alone not in tokens:
            values.refuse(f"the vocabulary lacks the byte token <0x{byte:02X}>")


def _check_special_ids(values: GgufValues, model: str, n_tokens: int) -> None:
    for name in _STEERING_IDS:
        token_id = values.count(f"tokenizer.ggml.{name}_token_id", 0)
        if token_id >= n_tokens:
            values.refuse(f"tokenizer.ggml.{name}_token_id is {token_id}, there are {n_tokens} tokens")
    pre = values.text("tokenizer.ggml.pre", "")
    default_bos, default_eos = _DEFAULT_IDS.get(model, (None, None))
    if pre in _PRE_WITHOUT_BOS:
        default_bos = None
    adds_bos = values.flag("tokenizer.ggml.add_bos_token", model in {"llama", "bert"} or pre in _PRE_WITH_BOS)
    adds_eos = values.flag("tokenizer.ggml.add_eos_token", model == "t5")
    for name, is_added, default in (("bos", adds_bos, default_bos), ("eos", adds_eos, default_eos)):
        has_default = default is not None and default < n_tokens
        if is_added and not has_default and not values.has(f"tokenizer.ggml.{name}_token_id"):
            values.refuse(f"tokenizer.ggml.add_{name}_token is set, but there is no {name}_token_id")
