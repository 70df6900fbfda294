"""What the stages of a load share, said once beside them, is written into each of them."""

from __future__ import annotations

from moesim.spec.errors import MoesimError
from moesim.spec.layers import merge, yielding
from moesim.spec.marked import OVERRIDE, Marked
from moesim.spec.serving import LoadSpec, RequestsSpec

#: Of the whole list, never of one stage.
_OF_ALL = RequestsSpec.model_fields.keys() - LoadSpec.model_fields.keys()


def spread(requests: Marked) -> Marked:
    """The `requests` of an experiment with complete stages, and nothing beside them that is a stage's.

    Raises:
        MoesimError: an override beside the stages is overruled by every one of them.
    """
    stages = requests.child("stages")
    if stages is None or not isinstance(stages.value, list) or not stages.value:
        return requests
    common = requests.with_items(dict.fromkeys(_OF_ALL))
    whole = [_over(stage, common) for stage in stages.value]
    for key, node in common.items.items():
        overrides = node.place is not None and node.place.file.startswith(OVERRIDE)
        if overrides and all(stage.items and stage.items.get(key) is not node for stage in whole):
            what = f"requests.{key} has no effect: every stage says otherwise"
            raise MoesimError(what, where=node.place, fix=f"remove it, or change the stages (requests.stages.0.{key})")
    rest = dict.fromkeys(common.items)
    return requests.with_items({**rest, "stages": stages.with_value(whole)})


def _over(stage: Marked, common: Marked) -> Marked:
    """A stage with what it does not say itself, and what it says does not rule out."""
    if not isinstance(stage.value, dict):
        return stage  # for validation to complain about
    return merge(stage, yielding("requests", common, stage.items))
