"""`qwenctl doctor`: its document and its lines, problems with their fixes, layouts that kill or compute nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.calibration import Calibration, CalibrationKey, DiskRate, ExpertRate, store_calibration
from qwenctl.moe.disk_speed import DiskSpeed
from qwenctl.moe.layout_choice import LayoutChoice
from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.services import doctor
from qwenctl.services.doctor import Cpu
from qwenctl.services.driver_versions import driver_versions
from qwenctl.services.layout_trial import LayoutTrial, try_layouts
from qwenctl.units import GIB, MIB

KEY = CalibrationKey("Xeon", 2, "0.3.36", "Q4_K 2048x768x128", "/")
STORED = Calibration(KEY, (ExpertRate("Q4_K", "amx", "expert", 1, 51e9),), (DiskRate(4, 2e9),))
RIGHT = (LayoutTrial("plain", 0.0), LayoutTrial("amx", 1e-13))
XEON = Cpu("Xeon", "x86_64", ("amx_int8", "avx2"), 2, None, 2)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fault: what depends on the one that runs the tests is replaced."""
    monkeypatch.setattr(doctor, "_cpu", lambda root: XEON)
    monkeypatch.setattr(doctor, "try_layouts", lambda: RIGHT)
    monkeypatch.setattr(doctor, "machine_memory", lambda devices, root: MachineMemory(8 * GIB, 0, 16 * GIB))
    monkeypatch.setattr(doctor.llama_cpp, "llama_print_system_info", lambda: b"CPU : AVX2 = 1 | AMX_INT8 = 1 | ")


def problems(ran) -> list[tuple[str, str]]:
    return [(problem["what"], problem["fix"]) for problem in json.loads(ran.stdout)["problems"]]


def test_this_machine(qwenctl):
    """Nothing replaced. Whether something is wrong here is this machine's affair; the layouts must be right."""
    ran = qwenctl("doctor", "--json")
    document = json.loads(ran.stdout)
    assert ran.code == (1 if document["problems"] else 0)
    assert ran.stderr == ""
    assert document["library"]["unknown"] is None
    assert document["library"]["layouts"][0] == {"name": "plain", "error": 0.0, "problem": None}
    assert all(one["error"] < 1e-4 and one["problem"] is None for one in document["library"]["layouts"])
    assert document["cpu"]["n_threads"] >= 1
    assert 0 < document["memory"]["available_bytes"] <= document["memory"]["limit_bytes"]


@pytest.mark.usefixtures("machine")
def test_the_document(qwenctl, home, monkeypatch):
    monkeypatch.setenv("QWENCTL_THREADS", "2")
    store_calibration(STORED, home / "cache" / "qwenctl")
    monkeypatch.setattr(doctor, "machine_devices", lambda rpc: (DeviceMemory("CUDA0", 20 * GIB, 24 * GIB),))
    ran = qwenctl("doctor", "--json")
    document = json.loads(ran.stdout)
    assert (ran.code, ran.stderr) == (0, "")
    assert document.keys() == {
        *("version", "python", "system", "cpu", "library", "memory", "devices", "calibrations", "measured", "problems"),
        *("folders", "variables", "drivers", "disk"),
    }
    assert document["cpu"] == {
        "name": "Xeon",
        "architecture": "x86_64",
        "features": ["amx_int8", "avx2"],
        "n_usable": 2,
        "quota": None,
        "n_threads": 2,
    }
    assert document["library"].keys() == {"release", "version", "commit", "features", "unknown", "layouts"}
    assert document["library"]["features"] == ["AVX2", "AMX_INT8"]
    assert document["memory"].keys() == {
        *("available_bytes", "used_bytes", "limit_bytes", "bound_by", "shared", "address_space_bytes"),
    }
    assert document["devices"] == [{"name": "CUDA0", "free_bytes": 20 * GIB, "total_bytes": 24 * GIB}]
    (calibration,) = document["calibrations"]
    assert calibration["experts"] == [
        {"type": "Q4_K", "layout": "amx", "operation": "expert", "n_tokens": 1, "macs_s": 51e9}
    ]
    assert document["folders"]["cache"] == str(home / "cache" / "qwenctl")
    assert document["variables"]["QWENCTL_THREADS"] == "2"
    assert (document["measured"], document["problems"]) == (None, [])


@pytest.mark.usefixtures("machine")
def test_variables_that_native_libraries_read_are_shown(qwenctl, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("GGML_CUDA_DISABLE_GRAPHS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ran = qwenctl("doctor", "--json")
    variables = json.loads(ran.stdout)["variables"]
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["GGML_CUDA_DISABLE_GRAPHS"]) == ("0,1", "1")
    assert "hf_secret" not in ran.stdout


@pytest.mark.usefixtures("machine")
def test_a_driver_without_a_gpu_is_a_problem(qwenctl, monkeypatch):
    monkeypatch.setattr(doctor, "machine_devices", lambda rpc: ())
    monkeypatch.setattr(doctor, "driver_versions", lambda root: ("nvidia 580.95.05",))
    ((what, fix),) = problems(qwenctl("doctor", "--json"))
    assert what == "the driver nvidia 580.95.05 is loaded, and llama.cpp sees no GPU"
    assert "CMAKE_ARGS=-DGGML_CUDA=ON make setup" in fix
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    ((_, fix),) = problems(qwenctl("doctor", "--json"))
    assert fix == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.setattr(doctor, "machine_devices", lambda rpc: (DeviceMemory("CUDA0", 20 * MIB, GIB),))
    assert problems(qwenctl("doctor", "--json")) == [
        ("CUDA0 has 20.0 MiB of memory left", "end the programs that use it")
    ]


@pytest.mark.usefixtures("machine")
def test_the_disk_under_the_models_is_looked_at(qwenctl, monkeypatch, tmp_path):
    monkeypatch.setenv("QWENCTL_MODELS", str(tmp_path))
    assert json.loads(qwenctl("doctor", "--json").stdout)["disk"] is None
    with (tmp_path / "large.gguf").open("wb") as file:
        for _ in range(65):
            file.write(bytes(MIB))
    disk = json.loads(qwenctl("doctor", "--json").stdout)["disk"]
    assert disk["path"] == str(tmp_path / "large.gguf")
    assert disk["one_bytes_s"] > 0
    assert disk["four_bytes_s"] > 0
    lines = [" ".join(line.split()) for line in qwenctl("doctor").stdout.splitlines()]
    assert any(line.startswith("disk ") and "GB/s one read at a time" in line for line in lines)


def test_drivers_are_read_from_the_kernel(tmp_path):
    assert driver_versions(tmp_path) == ()
    nvidia = tmp_path / "proc/driver/nvidia"
    nvidia.mkdir(parents=True)
    (nvidia / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (builder)  Tue Sep 2025\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    (tmp_path / "sys/module/amdgpu").mkdir(parents=True)
    (tmp_path / "sys/module/amdgpu/version").write_text("6.12.12\n")
    (tmp_path / "sys/module/xe").mkdir()
    assert driver_versions(tmp_path) == ("nvidia 580.95.05", "amdgpu 6.12.12", "xe")


@pytest.mark.usefixtures("machine")
def test_lines_for_people(qwenctl, home):
    store_calibration(STORED, home / "cache" / "qwenctl")
    ran = qwenctl("doctor")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "cores 2 may be used; 2 threads by default" in lines
    assert "layouts plain right, amx right" in lines
    assert "2048x768x128 Q4_K amx expert 1 51.0" in lines
    assert lines[-1] == "no problems"
    assert (ran.code, ran.stderr) == (0, "")
    assert "\x1b" not in ran.stdout


# --- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("machine")
def test_a_layout_that_ends_the_process(qwenctl, monkeypatch):
    bad = (RIGHT[0], LayoutTrial("repack", None, "ends the process (SIGILL)"), LayoutTrial("amx", None, "not tried"))
    monkeypatch.setattr(doctor, "try_layouts", lambda: bad)
    ran = qwenctl("doctor")
    assert ran.code == 1
    assert "problem: llama.cpp's repack layout of weights ends the process (SIGILL)\n" in ran.stdout
    assert "what to do: `make setup` builds llama.cpp for this machine again\n" in ran.stdout
    assert ran.stdout.count("problem:") == 1


@pytest.mark.usefixtures("machine")
def test_an_unknown_build(qwenctl, monkeypatch):
    def unknown():
        raise UnknownBuild("the installed ggml 9 is not ggml 1")

    monkeypatch.setattr(doctor, "open_ggml", unknown)
    ran = qwenctl("doctor", "--json")
    assert ran.code == 1
    assert [what for what, _ in problems(ran)] == ["experts are not offloaded: the installed ggml 9 is not ggml 1"]
    assert json.loads(ran.stdout)["devices"] == []


@pytest.mark.usefixtures("machine")
def test_a_library_for_a_lesser_cpu(qwenctl, monkeypatch):
    monkeypatch.setattr(doctor.llama_cpp, "llama_print_system_info", lambda: b"CPU : SSE3 = 1 | ")
    assert [what for what, _ in problems(qwenctl("doctor", "--json"))] == [
        "this CPU multiplies matrices with AMX, and the built llama.cpp does not",
        "the built llama.cpp uses no AVX2, which this CPU has",
    ]


@pytest.mark.usefixtures("machine")
def test_more_threads_than_cores(qwenctl, monkeypatch):
    monkeypatch.setenv("QWENCTL_THREADS", "64")
    assert problems(qwenctl("doctor", "--json")) == [
        ("64 threads are asked for, and 2 can run at once", "set QWENCTL_THREADS to 2, or leave it out")
    ]


@pytest.mark.usefixtures("machine")
def test_little_memory(qwenctl, monkeypatch):
    small = MachineMemory(100 * MIB, 0, GIB, "the control group /sys/fs/cgroup/small", False)
    monkeypatch.setattr(doctor, "machine_memory", lambda devices, root: small)
    ((what, _),) = problems(qwenctl("doctor", "--json"))
    assert "the bound is the control group /sys/fs/cgroup/small" in what


@pytest.mark.usefixtures("machine")
def test_a_cache_folder_that_cannot_be_made(qwenctl, home, monkeypatch):
    (home / "cache").write_text("a file in the folder's place")
    ((what, fix),) = problems(qwenctl("doctor", "--json"))
    assert what.startswith(f"nothing can be kept in {home / 'cache' / 'qwenctl'}")
    assert "XDG_CACHE_HOME" in fix


# --- measuring -------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(machine, monkeypatch):
    """Return a list with what is to be measured on the demo; nothing is timed."""
    found = [STORED, DiskSpeed(53760, True, (DiskRate(1, 1e9), DiskRate(4, 2.5e9)))]
    monkeypatch.setattr(doctor, "calibrated", lambda *arguments, **more: found[0])
    monkeypatch.setattr(doctor, "measure_disk", lambda path, **more: found[1])
    monkeypatch.setattr(doctor, "choose", lambda *arguments: LayoutChoice("amx", True, True, 1.0, 1.5))
    return found


def test_what_was_measured(qwenctl, measured, demo_gguf):
    ran = qwenctl("doctor", demo_gguf, "--measure", "--json")
    document = json.loads(ran.stdout)
    assert ran.code == 0
    assert document["measured"]["path"] == str(demo_gguf)
    assert document["measured"]["disk"]["rates"][1] == {"queue_depth": 4, "bytes_s": 2.5e9}
    assert document["measured"]["choice"]["layout"] == "amx"
    lines = [" ".join(line.split()) for line in qwenctl("doctor", demo_gguf, "--measure").stdout.splitlines()]
    fastest = "amx layout, a product an expert: 1.50 times stock llama.cpp's speed with everything in memory"
    assert f"fastest {fastest}" in lines
    assert "4 2.50" in lines


def test_what_could_not_be_measured(qwenctl, measured, demo_gguf):
    measured[:] = Calibration(KEY), replace(measured[1], past_cache=False)
    ran = qwenctl("doctor", demo_gguf, "--measure", "--json")
    first, second = problems(ran)
    assert first[0] == f"{demo_gguf} lies where files cannot be read past the page cache"
    assert second == (
        "other programs use this machine so much that it could not be measured",
        "try again when it is quiet",
    )
    assert json.loads(ran.stdout)["measured"]["choice"] is None


def test_a_file_that_is_no_model(qwenctl, measured, tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF")
    ran = qwenctl("doctor", path, "--measure")
    assert ran.code == 1
    assert ran.stdout == ""
    assert str(path) in ran.stderr


def test_options_that_do_not_go_together(qwenctl, demo_gguf):
    assert "add --measure" in qwenctl("doctor", demo_gguf).stderr
    ran = qwenctl("doctor", "--measure")
    assert ran.code == 2
    assert "--measure needs a model" in ran.stderr


# --- layouts in a child ----------------------------------------------------------------------------------------------


def child(*lines: object, end: str = "") -> list[str]:
    said = "".join(f"print({json.dumps(line)!r}, flush=True)\n" for line in lines)
    return [sys.executable, "-I", "-c", f"import os, signal, time\n{said}{end}"]


THREE = {"layouts": ["plain", "repack", "amx"]}
PLAIN = {"layout": "plain", "error": 0.0}


def test_a_child_that_dies_in_a_layout():
    dies = "os.kill(os.getpid(), signal.SIGILL)"
    assert try_layouts(child(THREE, PLAIN, end=dies)) == (
        LayoutTrial("plain", 0.0),
        LayoutTrial("repack", None, "ends the process (SIGILL)"),
        LayoutTrial("amx", None, "not tried"),
    )
    assert try_layouts(child(end=dies)) == (LayoutTrial("plain", None, "ends the process (SIGILL)"),)
    assert try_layouts(child(end="raise SystemExit(3)")) == (
        LayoutTrial("plain", None, "ends the process (exit code 3)"),
    )


def test_a_child_that_hangs_in_a_layout():
    (_, hung, _) = try_layouts(child(THREE, PLAIN, end="time.sleep(60)"), time_limit_s=3)
    assert hung == LayoutTrial("repack", None, "had not computed a product after 3 s")


@pytest.mark.parametrize("error", [2e-4, 1.0, None])
def test_a_layout_that_computes_nonsense(error):
    ends = {"layout": "amx", "error": 1e-13}
    assert try_layouts(child(THREE, PLAIN, {"layout": "repack", "error": error}, ends)) == (
        LayoutTrial("plain", 0.0),
        LayoutTrial("repack", error, "computes nonsense"),
        LayoutTrial("amx", 1e-13),
    )


def test_the_child_says_what_it_computed():
    command = [sys.executable, "-P", "-m", "qwenctl.services.layout_trial"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(sys.executable).parent)
    first, *others = (json.loads(line) for line in done.stdout.splitlines())
    assert first["layouts"][0] == "plain"
    assert [one["layout"] for one in others] == first["layouts"]
