"""splitwise-sim (github.com/Mutinifni/splitwise-sim): data/perf_model.csv, whole iterations of dense models.

Times are milliseconds: `prompt_time` of the prompts of a batch, `token_time` of each further token of the batch.
"""

from __future__ import annotations

import re

from moesim.calibrate.importers.base import Profile, Tables, add, importer, read_columns, tidy
from moesim.spec.errors import MoesimError, Where

_NEEDED = (
    "model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size", "prompt_time", "token_time",
)  # fmt: skip

#: Its models: name in the library, layers and parameters (Touvron et al., arXiv 2307.09288; Scao et al., 2211.05100).
_MODELS = {"llama2-70b": ("llama-2-70b", 80, 68.98e9), "bloom-176b": ("bloom-176b", 70, 176.25e9)}


@importer("splitwise-sim", "perf_model.csv")
def read(profile: Profile) -> Tables:
    """Whole steps of the rows whose `hardware` is the device (a100-80gb: a100-80-sxm)."""
    tables: Tables = {}
    for path in profile.files("perf_model.csv"):
        rows = read_columns(path, _NEEDED)
        strange = sorted(set(rows["model"]) - set(_MODELS))
        if strange:
            fix = f"keep the rows of {' and '.join(_MODELS)}"
            raise MoesimError(f"the size of the model {strange[0]!r} is not known", where=Where(str(path)), fix=fix)
        rows = rows[rows["hardware"].map(_plain).map(lambda name: _same(name, profile.device))]
        named = {
            "device": profile.device, "source": f"splitwise-sim:{profile.stack or 'splitwise-sim'}",
            "dtype": "float16", "impl": "", "part": "model", "tp": rows["tensor_parallel"],
            "batch": rows["batch_size"],
        }  # fmt: skip
        for place, name in enumerate(("model", "layers", "parameters")):
            named[name] = rows["model"].map({model: known[place] for model, known in _MODELS.items()})
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
