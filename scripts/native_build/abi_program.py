"""Ask the compiler what ggml's structs and enums look like.

The names of fields and enumerators are read from the headers; types, offsets, sizes and values are told by a C++
program that includes them, so that the compiler decides what they are and this file does not.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .headers import Headers

# In an order in which a struct comes after those that it holds.
STRUCTS = (
    "ggml_init_params",
    "ggml_tensor",
    "ggml_hash_set",
    "ggml_cgraph",
    "ggml_backend_buffer_type_i",
    "ggml_backend_buffer_type",
    "ggml_backend_buffer_i",
    "ggml_backend_buffer",
    "ggml_backend_i",
    "ggml_backend",
    "ggml_backend_dev_caps",
    "ggml_backend_dev_props",
    "ggml_backend_device_i",
    "ggml_backend_device",
    "ggml_backend_reg_i",
    "ggml_backend_reg",
    "llama_model_tensor_buft_override",
)
MACROS = (
    "GGML_BACKEND_API_VERSION",
    "GGML_DEFAULT_GRAPH_SIZE",
    "GGML_MAX_DIMS",
    "GGML_MAX_NAME",
    "GGML_MAX_OP_PARAMS",
    "GGML_MAX_SRC",
    "GGML_MEM_ALIGN",
)
# Enums written as a dict {name without the prefix: number}, and those written as one constant an enumerator.
TABLES = {"ggml_op": "GGML_OP_", "ggml_glu_op": "GGML_GLU_OP_", "ggml_type": "GGML_TYPE_"}
CONSTANTS = ("ggml_status", "ggml_backend_buffer_usage", "ggml_backend_dev_type", "ggml_tensor_flag")
INCLUDES = ("ggml-backend-impl.h", "ggml-impl.h", "llama.h")

# Spells a C type as ctypes do. All data pointers are c_void_p: they arrive in callbacks as an int or None, and a
# callback can return one (it could not return a c_char_p that outlives it).
PROGRAM_HEAD = """
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>

// Inline functions of the headers name it.
extern "C" void ggml_abort(const char *, int, const char *, ...) { abort(); }

template <class T> const char * struct_name();
template <class T> struct spell {
    static std::string name() {
        if constexpr (std::is_void_v<T>)                  return "None";
        else if constexpr (std::is_same_v<T, bool>)       return "c_bool";
        else if constexpr (std::is_same_v<T, char>)       return "c_char";
        else if constexpr (std::is_same_v<T, float>)      return "c_float";
        else if constexpr (std::is_enum_v<T>)             { static_assert(sizeof(T) == sizeof(int)); return "c_int"; }
        else if constexpr (std::is_same_v<T, int>)        return "c_int";
        else if constexpr (std::is_integral_v<T>)
            return std::string(std::is_signed_v<T> ? "c_int" : "c_uint") + std::to_string(8 * sizeof(T));
        else                                              return struct_name<T>();
    }
};
template <class T> struct spell<T *> { static std::string name() { return "c_void_p"; } };
template <class T, size_t N> struct spell<T[N]> {
    static std::string name() { return spell<T>::name() + " * " + std::to_string(N); }
};
template <class R, class... A> struct spell<R (*)(A...)> {
    static std::string name() { return "CFUNCTYPE(" + (spell<R>::name() + ... + (", " + spell<A>::name())) + ")"; }
};
"""


@dataclass(slots=True)
class Struct:
    """One struct: its size, and (field, offset in bytes, ctypes spelling) in the header's order."""

    n_bytes: int
    fields: list[tuple[str, int, str]] = field(default_factory=list)


@dataclass(slots=True)
class Abi:
    """What the compiler said."""

    structs: dict[str, Struct] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    macros: dict[str, int] = field(default_factory=dict)


def field_names(text: str, struct: str) -> list[str]:
    """Return the names of a struct's fields as a header without comments declares them.

    Raises:
        ValueError: the header does not define it.
    """
    names = []
    for statement in _body(text, "struct", struct).split(";"):
        if found := re.search(r"\(\*\s*(\w+)\s*\)\s*\(", statement) or re.search(r"(\w+)\s*(\[.*\])?\s*$", statement):
            names.append(found[1])
    return names


def enumerators(text: str, enum: str) -> list[str]:
    """Return the names of an enum's values, without the one that counts them.

    Raises:
        ValueError: the header does not define it.
    """
    names = re.findall(r"(?:^|,)\s*(\w+)", _body(text, "enum", enum))
    return [name for name in names if not name.endswith("_COUNT")]


def _body(text: str, kind: str, name: str) -> str:
    found = re.findall(rf"\b{kind}\s+{name}\s*\{{([^{{}}]*)\}}", text)
    if len(found) != 1:
        raise ValueError(f"the headers define {kind} {name} {len(found)} times")
    return str(found[0])


def program(text: str) -> str:
    """Return the C++ program that prints the ABI of the headers whose text, without comments, is `text`."""
    lines = [f'#include "{name}"' for name in INCLUDES] + [PROGRAM_HEAD]
    lines += [f'template <> const char * struct_name<struct {name}>() {{ return "{name}"; }}' for name in STRUCTS]
    lines.append("int main() {")
    for struct in STRUCTS:
        lines.append(f'  printf("struct\\t{struct}\\t%zu\\n", sizeof(struct {struct}));')
        for name in field_names(text, struct):
            member = f"struct {struct}, {name}"
            spelling = f"spell<decltype({struct}::{name})>::name().c_str()"
            lines.append(f'  printf("field\\t{struct}\\t{name}\\t%zu\\t%s\\n", offsetof({member}), {spelling});')
    for enum in (*TABLES, *CONSTANTS):
        lines += [f'  printf("enum\\t{enum}\\t{name}\\t%d\\n", (int) {name});' for name in enumerators(text, enum)]
    lines += [f'  printf("macro\\t{name}\\t%d\\n", (int) {name});' for name in MACROS]
    return "\n".join([*lines, "}", ""])


def ask_compiler(headers: Headers, cxx: str) -> Abi:
    """Compile and run the program.

    Raises:
        subprocess.CalledProcessError: the compiler refused it, which it has said on stderr.
    """
    text = "\n".join(path.read_text(encoding="utf-8") for path in headers.files())
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    with tempfile.TemporaryDirectory(prefix="qwenctl-abi-") as folder:
        source, binary = Path(folder) / "abi.cpp", Path(folder) / "abi"
        source.write_text(program(text), encoding="utf-8")
        include = f"-I{headers.folder}"
        command = [*shlex.split(cxx), "-std=c++17", "-Wno-invalid-offsetof", include, str(source), "-o", str(binary)]
        subprocess.run(command, check=True)
        told = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    return parse(told)


def parse(told: str) -> Abi:
    """Return what the program printed, as values."""
    abi = Abi()
    for line in told.splitlines():
        kind, name, *rest = line.split("\t")
        if kind == "struct":
            abi.structs[name] = Struct(int(rest[0]))
        elif kind == "field":
            abi.structs[name].fields.append((rest[0], int(rest[1]), rest[2]))
        elif kind == "enum":
            abi.enums.setdefault(name, {})[rest[0]] = int(rest[1])
        else:
            abi.macros[name] = int(rest[0])
    return abi
