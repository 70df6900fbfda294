"""A model's configuration file from Hugging Face as a descriptor of the library."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moesim.model.huggingface import FAMILIES, LEFT_OUT, Document, Keys, Locate, local_layers
from moesim.model.parameters import parameters
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError, Where
from moesim.spec.library import did_you_mean
from moesim.spec.marked import display, mark
from moesim.spec.model import ModelSpec

#: transformers' names of the types that descriptors know.
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float8_e4m3fn": "fp8"}
#: (bits, kind) of quantised weights in a compressed-tensors configuration.
_PACKED = {(4, "int"): "int4", (8, "int"): "int8", (8, "float"): "fp8", (4, "float"): "fp4"}


def _nowhere(key: str) -> Where | None:
    return None


def import_config(config: Mapping[str, Any], name: str, locate: Locate = _nowhere) -> Document:
    """The ModelSpec document of a configuration of Hugging Face transformers.

    Multimodal configurations give their text decoder (`text_config`). Layers for multi-token prediction are left out.

    Args:
        config: the parsed config.json.
        name: what the model is called in the library.
        locate: the place of a key in the file, for messages.

    Raises:
        MoesimError: the model type is not supported, a key is missing or its value is no architecture.
    """
    config = _text_decoder(config, locate)
    keys = Keys(config, locate)
    local_layers(keys)  # also families without windows may name layers that are not attention at all
    model_type = str(config["model_type"])
    document: Document = {
        "name": name,
        "description": f"Imported from a Hugging Face configuration of model_type {model_type}.",
        "layers": keys.count("num_hidden_layers"),
        "hidden": keys.count("hidden_size"),
        "vocabulary": keys.count("vocab_size"),
        "context": keys.count("max_position_embeddings"),
        **FAMILIES[model_type](keys),
    }
    if keys.flag("tie_word_embeddings"):
        document["tied_embeddings"] = True
    document |= _dtypes(config)
    fields = [field for field in document if field not in ("name", "description", "unverified")]
    document["sources"] = dict.fromkeys(fields, f"config.json, model_type {model_type}")
    validate(ModelSpec, mark(document, where=locate("")))
    return document


def _text_decoder(config: Mapping[str, Any], locate: Locate) -> Mapping[str, Any]:
    """The part of a configuration that describes a decoder of a supported family."""
    model_type, inner = config.get("model_type"), config.get("text_config")
    if isinstance(inner, Mapping) and (model_type not in FAMILIES or "num_hidden_layers" not in config):
        outer = ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings")
        said = {key: value for key, value in inner.items() if value is not None}
        return _text_decoder({key: config[key] for key in outer if key in config} | said, locate)
    if isinstance(model_type, str) and model_type in FAMILIES:
        return config
    supported = f"supported: {', '.join(sorted(FAMILIES))}"
    if model_type is None:
        raise MoesimError("the configuration has no 'model_type'", where=locate(""), fix=supported)
    reason, near = LEFT_OUT.get(str(model_type)), did_you_mean(str(model_type), FAMILIES)
    what = f"model_type {model_type!r} is not supported" + (f": {reason}" if reason else "")
    fix = f"{near} {supported}" if near and not reason else supported
    raise MoesimError(what, where=locate("model_type"), fix=fix)


def _dtypes(config: Mapping[str, Any]) -> Document:
    """The dtype of the published weights, and of the experts where only they are quantised.

    A quantisation that cannot be read leaves the dtype unquantised and marked as unverified.
    """
    plain = _DTYPES.get(str(config.get("torch_dtype") or config.get("dtype")), "bf16")
    quantization = config.get("quantization_config") or config.get("quantization")
    if not isinstance(quantization, Mapping):
        return {"dtype": plain}
    method = quantization.get("quant_method")
    if method == "mxfp4":  # gpt-oss: attention, router and embeddings stay as they are
        return {"dtype": plain, "expert_dtype": "fp4"}
    if method == "fp8":
        return {"dtype": "fp8"}
    if method in ("gptq", "awq") and quantization.get("bits") in (4, 8):
        return {"dtype": f"int{quantization['bits']}"}
    packed = _packed_dtype(quantization) if method == "compressed-tensors" else None
    if packed is None:
        return {"dtype": plain, "unverified": ["dtype"]}
    ignored = quantization.get("ignore")
    if isinstance(ignored, list) and any("self_attn" in str(entry) for entry in ignored):
        return {"dtype": plain, "expert_dtype": packed}
    return {"dtype": packed}


def _packed_dtype(quantization: Mapping[str, Any]) -> str | None:
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            return _PACKED.get((weights.get("num_bits", 0), str(weights.get("type"))))
    return None


def read_config(path: Path) -> tuple[dict[str, Any], Locate]:
    """The mapping of a JSON file and a function that finds the line of a key in it.

    Raises:
        MoesimError: the file cannot be read, is no JSON (with the line), or is no mapping.
    """
    file = display(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MoesimError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MoesimError("the file is no UTF-8 text", where=Where(file)) from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise MoesimError(f"not valid JSON: {error.msg}", where=Where(file, error.lineno)) from None
    except RecursionError:
        raise MoesimError("nested too deeply", where=Where(file)) from None
    if not isinstance(config, dict):
        raise MoesimError(f"expected a mapping, got {config!r:.60}", where=Where(file))

    def locate(key: str) -> Where:
        found = re.search(rf'"{re.escape(key)}"\s*:', text) if key else None
        return Where(file, text.count("\n", 0, found.start()) + 1 if found else None)

    return config, locate


def _default_name(config: Mapping[str, Any], path: Path) -> str:
    """The repository's name where the configuration says it, otherwise that of the folder or file."""
    origin = config.get("_name_or_path")
    stem = path.resolve().parent.name if path.stem == "config" else path.stem
    text = Path(origin).name if isinstance(origin, str) and origin.strip("./") else stem
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"


def _sampling(path: Path) -> Document:
    """What a model's defaults of generation filter."""
    if not path.is_file():
        return {}
    said, _ = read_config(path)
    kept = said.get("top_p")
    filters = said.get("do_sample") is True and isinstance(kept, float) and 0.0 < kept < 1.0
    return {"top_p": kept} if filters else {}


def import_model(path: str | Path, name: str | None = None, output: str | Path | None = None) -> str:
    """The descriptor of a config.json as YAML text, written to `output` where given.

    Args:
        path: the configuration file; how the model samples where a request does not say is read from the
            generation_config.json beside it, where there is one.
        name: the model's name; by default that of `output`, otherwise that of its repository, folder or file.
        output: a .yaml file that does not exist yet, called as the model is.

    Raises:
        MoesimError: the configuration cannot be read or is not supported, or `output` cannot be written.
    """
    source, target = Path(path), None if output is None else Path(output)
    config, locate = read_config(source)
    name = name or (target.stem if target else _default_name(config, source))
    if target and target.name != f"{name}.yaml":
        raise MoesimError(f"the model {name!r} cannot be found as {target.name}", fix=f"write it to {name}.yaml")
    text = _as_yaml(import_config(config, name, locate) | _sampling(source.with_name("generation_config.json")))
    if target:
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise MoesimError(f"{display(target)} exists", fix="name another file") from None
        except OSError as error:
            raise MoesimError(f"cannot write {display(target)}: {error.strerror}") from None
    return text


def _as_yaml(document: Document) -> str:
    """The document as a person would write it, headed by what it counts to."""
    import yaml

    count = parameters(ModelSpec.model_validate(document))
    head = f"# {count.total / 1e9:.2f}e9 parameters, {count.active / 1e9:.2f}e9 of them active per token.\n"
    body = {field: value for field, value in document.items() if field != "sources"}
    text = yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)
    return head + text + yaml.safe_dump({"sources": document["sources"]}, sort_keys=False)
