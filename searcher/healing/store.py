"""Repairs in a folder, so that a plan that took minutes to heal is healed once."""

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from searcher.architecture.blocks import Architecture
from searcher.architecture.devices import device_of
from searcher.architecture.replacement_modules import build, describe
from searcher.contracts import registry
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import Meter
from searcher.healing.heal import Healed
from searcher.loading.environment import environment
from searcher.loading.heal_text import HealText
from searcher.loading.model import LoadedModel
from searcher.loading.text import Texts
from searcher.replay.repair import LowRank, Place, Repair, ReplacementModule
from searcher.runs.dependencies import dependencies_of
from searcher.runs.files import hint_of, replacing
from searcher.runs.fingerprint import digest_of
from searcher.runs.journal import read_json, write_json
from searcher.runs.notation import parse_spec

FOLDER = "healed"
"""Where repairs are kept, in the folder of runs."""
NOTES, TENSORS = "healed.json", "repair.safetensors"


class RepairStore:
    """The repairs of one model, healed in one way on one text.

    Args:
        runs_dir: the folder of runs, in which they are kept.
        model: the model.
        text: the text.
        windows: the windows of its heal split, and the spec.
        architecture: of the model, for blocks that a repair puts in.
    """

    def __init__(
        self, runs_dir: Path, model: LoadedModel, text: Texts, windows: HealText, architecture: Architecture
    ) -> None:
        self._folder, self._architecture = runs_dir / FOLDER, architecture
        self._identity = {
            "model_fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device_type": model.device.type,
            "text_fingerprint": text.heal_fingerprint or text.fingerprint,
            **({} if windows.fit_scored is None else {"answers": True}),
            "heal_windows": windows.rows,
            "window_tokens": windows.fit.shape[1],
            "recipe": windows.spec,
            "version": registry.make("healing", *parse_spec(windows.spec)).version,
            "reads": dependencies_of("healing", *parse_spec(windows.spec)),
            "environment": environment(model.device),
        }

    def find(self, plan: PrunePlan) -> Healed | None:
        """What was kept of this plan; None if nothing was."""
        return load_healed(self._place(plan), self._architecture)

    def keep(self, plan: PrunePlan, healed: Healed, warn: Callable[[str], None]) -> None:
        """Keep a healed plan; a disk that does not take it is no reason to lose what was healed and is measured."""
        place = self._place(plan)
        try:
            save_healed(place, healed, self._identity_of(plan))
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            warn(
                f"The repair of {plan} could not be kept in {self._folder} ({error.strerror}), and will be made again "
                f"when it is wanted again. {hint_of(error, 'Choose another --runs-dir')}"
            )

    def unfinished(self, plan: PrunePlan) -> Path:
        """The folder where fits of this plan are kept while they go on."""
        return self._place(plan)

    def _identity_of(self, plan: PrunePlan) -> dict[str, Any]:
        return {**self._identity, "plan": str(plan)}

    def _place(self, plan: PrunePlan) -> Path:
        return self._folder / digest_of(self._identity_of(plan))[:16]


def save_healed(folder: Path, healed: Healed, identity: Mapping[str, Any]) -> None:
    """Write a healed plan; the notes come last, and say that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    repair = healed.repair
    tensors: dict[str, Tensor] = {}
    for name, added in repair.added.items():
        tensors |= {f"added/{name}/left": added.left, f"added/{name}/right": added.right}
    tensors |= {f"weights/{name}": weight for name, weight in repair.weights.items()}
    for (block, action), replacement in repair.after.items():
        own = replacement.module.state_dict()
        tensors |= {f"after/{block}/{int(action)}/{name}": tensor for name, tensor in own.items()}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with replacing(folder / TENSORS) as temporary:
        temporary.write_bytes(content)
    after = [
        {"block": block, "action": int(action), "like": one.like}
        | ({"module": describe(one.module)} if one.like is None else {})
        for (block, action), one in repair.after.items()
    ]
    write_json(
        folder / NOTES,
        {
            "identity": dict(identity),
            "after": after,
            "dropped": healed.dropped,
            "before": healed.before,
            "after_loss": healed.after,
            "work": vars(healed.work),
            "seconds": healed.seconds,
            "failure": healed.failure,
            "diverged": healed.diverged,
            "in_sample": healed.in_sample,
        },
    )


def load_healed(folder: Path, architecture: Architecture) -> Healed | None:
    """What :func:`save_healed` wrote, for a model on its device; None if nothing whole is there."""
    try:
        notes, tensors = read_json(folder / NOTES), load_file(folder / TENSORS)
        return _healed(notes, tensors, architecture)
    except (UsageError, OSError, ValueError, LookupError, TypeError, RuntimeError):
        return None  # it is healed again


def _healed(notes: Mapping[str, Any], tensors: Mapping[str, Tensor], architecture: Architecture) -> Healed:
    parameter = next(architecture.blocks.parameters())
    on_device = {name: tensor.to(parameter.device) for name, tensor in tensors.items()}
    lefts = [name for name in on_device if name.startswith("added/") and name.endswith("/left")]
    added = {
        name.split("/")[1]: LowRank(on_device[name], on_device[f"{name.removesuffix('/left')}/right"]) for name in lefts
    }
    weights = {n.removeprefix("weights/"): tensor for n, tensor in on_device.items() if n.startswith("weights/")}
    after: dict[Place, ReplacementModule] = {}
    for note in notes["after"]:
        module = build(note["module"]) if note["like"] is None else copy.deepcopy(architecture.blocks[note["like"]])
        prefix = f"after/{note['block']}/{note['action']}/"
        own = {n.removeprefix(prefix): tensor for n, tensor in on_device.items() if n.startswith(prefix)}
        place = device_of(architecture.blocks[note["block"]], parameter.device)
        module.to(place, parameter.dtype).load_state_dict(own)
        module.eval().requires_grad_(False)
        after[note["block"], Action(note["action"])] = ReplacementModule(module, note["like"])
    return Healed(
        Repair(added, weights, after),
        notes["dropped"],
        float(notes["before"]),
        float(notes["after_loss"]),
        Meter(**notes["work"]),
        notes["seconds"],
        notes["failure"],
        notes["diverged"],
        notes.get("in_sample", False),
    )
