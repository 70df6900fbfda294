"""splitwise-sim (github.com/Mutinifni/splitwise-sim): data/perf_model.csv, whole iterations of dense models.

Times are milliseconds: `prompt_time` of the prompts of a batch, `token_time` of each further token of the batch.
"""

from __future__ import annotations

import re

from moesim.calibrate.importers.base import Profile, Tables, add, importer, read_columns, tidy

_NEEDED = (
    "model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size", "prompt_time", "token_time",
)  # fmt: skip

#: Its models under the library's names, and their layers.
_MODELS, _LAYERS = {"llama2-70b": "llama-2-70b"}, {"llama2-70b": 80, "bloom-176b": 70}


@importer("splitwise-sim", "perf_model.csv")
def read(profile: Profile) -> Tables:
    """Whole steps of the rows whose `hardware` is the device (a100-80gb: a100-80-sxm)."""
    tables: Tables = {}
    for path in profile.files("perf_model.csv"):
        rows = read_columns(path, _NEEDED)
        rows = rows[rows["hardware"].map(_plain).map(lambda name: _same(name, profile.device))]
        named = {
            "device": profile.device, "source": f"splitwise-sim:{profile.stack or 'splitwise-sim'}",
            "dtype": "float16", "impl": "", "part": "model", "model": rows["model"].replace(_MODELS),
            "layers": rows["model"].map(_LAYERS).fillna(0), "tp": rows["tensor_parallel"], "batch": rows["batch_size"],
        }  # fmt: skip
        prompt = {**named, "kernel": "prefill", "q_len": rows["prompt_size"], "kv_len": rows["prompt_size"]}
        seen = rows["prompt_size"] + (rows["token_size"] // 2).clip(lower=1)
        token = {**named, "kernel": "decode", "q_len": 1, "kv_len": seen}
        add(tables, "steps", tidy(prompt, time=rows["prompt_time"], unit="ms"))
        add(tables, "steps", tidy(token, time=rows["token_time"], unit="ms"))
    return tables


def _plain(hardware: str) -> str:
    """a100-80gb -> a100-80."""
    return re.sub(r"gb\b", "", hardware.lower())


def _same(hardware: str, device: str) -> bool:
    """Whether a name of splitwise-sim, capacity included, means the device: h100-80 is the h100-sxm."""
    chip, _, capacity = hardware.partition("-")
    named = device.split("-")
    sized = [part for part in named if part.isdecimal()]
    return named[0] == chip and capacity.isdecimal() and (not sized or capacity in sized)
