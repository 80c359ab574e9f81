"""Run the program where there is no network, and where asking for one is deadly.

    python -m tests.no_network [--namespace] WORD …        runs `qwenctl WORD …`; the exit code is its own

Two walls, for the command and for every process that it starts:

    seccomp      socket() of IPv4, IPv6 or raw packets kills the process that calls it (SIGSYS), so a run that ends as
                 it should has never called it, whatever library was in between
    namespace    a network namespace of its own, without any interface but a loopback that is down; the last line on
                 standard error has the packets that it counted. Exit code 77: the system does not permit it

Sources: seccomp(2), bpf(2)'s classic filters in linux/filter.h, network_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

NOT_PERMITTED = 77
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_KILL_PROCESS, _ALLOW = 0x80000000, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER, _FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data, little endian
SOCKET_CALL = {"x86_64": 41, "aarch64": 198}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def forbid_sockets() -> None:
    """Let socket() of another machine's families end this process and all that it starts."""
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET)
    steps = [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, len(families) + 1, SOCKET_CALL[platform.machine()])]
    steps.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
    steps += [(_EQUAL, len(families) - index, 0, int(family)) for index, family in enumerate(families)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL_PROCESS)]
    program = _Program(len(steps), (_Instruction * len(steps))(*(_Instruction(*step) for step in steps)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def enter_namespace() -> bool:
    """Go where there is no network; False: not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    return not libc.unshare(_CLONE_NEWNET) or not libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def packets() -> dict[str, int]:
    """Packets received and sent by each interface of this namespace."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    found = {}
    for line in lines:
        name, _, counts = line.partition(":")
        fields = counts.split()
        found[name.strip()] = int(fields[1]) + int(fields[9])
    return found


def main(words: list[str]) -> int:
    inside = "--namespace" in words
    words = [word for word in words if word != "--namespace"]
    if inside and not enter_namespace():
        return NOT_PERMITTED
    forbid_sockets()
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if inside:
        os.write(2, f"\npackets: {packets()}\n".encode())
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
