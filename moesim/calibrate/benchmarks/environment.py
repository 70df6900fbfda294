"""What the measurements were made on and with, and the state of the processor beside each of them."""

from __future__ import annotations

import math
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

from moesim.calibrate.benchmarks.pytorch import Bench

#: Seconds for which a reading of clock and temperature holds: asking a GPU takes longer than most kernels.
HOLDS = 2.0

_CPU = Path("/proc/cpuinfo")
_CPU_CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
_HEAT = Path("/sys/class/thermal/thermal_zone0/temp")
_QUERY = ("clocks.sm", "temperature.gpu")


def environment(device: str, bench: Bench) -> dict[str, object]:
    """Names and versions; nothing that changes between two runs on one machine, and nothing that names the machine."""
    import torch

    found: dict[str, object] = {
        "device": device,
        "processor": torch.cuda.get_device_name() if bench.kind == "cuda" else cpu_name(),
        "dtype": bench.format,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if bench.kind == "cuda":
        driver = _nvidia_smi("driver_version")
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver and driver[0]}
    else:
        found |= {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": bench.threads}
    return {**found, "cold_bytes": bench.cold}


def source(way: str) -> str:
    """The `source` of rows: ours, and the stack, which is another for each way to launch."""
    import torch

    return f"moesim:torch-{way}-{str(torch.__version__).partition('+')[0]}"


def cpu_name(path: Path = _CPU) -> str:
    """As the processor names itself."""
    match = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.is_file() else None
    return match[1].strip() if match else platform.processor() or platform.machine()


class Gauge:
    """Clock in MHz and temperature in degrees Celsius; NaN where the system does not say."""

    def __init__(self, bench: Bench) -> None:
        self._read = _gpu_state if bench.kind == "cuda" else _cpu_state
        self._last = -math.inf
        self._state = (math.nan, math.nan)

    def state(self) -> tuple[float, float]:
        if time.monotonic() - self._last > HOLDS:
            self._state, self._last = self._read(), time.monotonic()
        return self._state


def _gpu_state() -> tuple[float, float]:
    values = _nvidia_smi(*_QUERY)
    return (float(values[0]), float(values[1])) if values else (math.nan, math.nan)


def _nvidia_smi(*names: str) -> list[str] | None:
    """What the first visible GPU's driver says, None where there is no such tool."""
    import torch

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    identity = str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-")
    asked = [tool, f"--id=GPU-{identity}", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    values = [value.strip() for value in answer.stdout.strip().split(",")]
    return values if answer.returncode == 0 and len(values) == len(names) else None


def _cpu_state() -> tuple[float, float]:
    clock = math.nan
    if _CPU_CLOCK.is_file():
        clock = float(_CPU_CLOCK.read_text()) / 1e3
    elif _CPU.is_file() and (match := re.search(r"^cpu MHz\s*:\s*([\d.]+)$", _CPU.read_text(), re.MULTILINE)):
        clock = float(match[1])
    return clock, float(_HEAT.read_text()) / 1e3 if _HEAT.is_file() else math.nan
