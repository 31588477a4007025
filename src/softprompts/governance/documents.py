"""What the run's record and the plan say of each point of `law.yaml`, in sentences."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from softprompts.errors import listed, short
from softprompts.governance.changes import ChangeLog, ScoreChange
from softprompts.governance.compute import Compute, scientific
from softprompts.governance.evidence import Evidence, Rows, moment
from softprompts.governance.groups import ByGroup, why_not
from softprompts.methods.catalog import METHODS
from softprompts.metrics.scoring import Interval, shares_of_right_answers
from softprompts.models.bundled import BUNDLED, PREFIX
from softprompts.readiness.findings import percent
from softprompts.readiness.plan import NO_DATA, Plan
from softprompts.runs.record import scored_prompt
from softprompts.tasks.privacy import shown_names
from softprompts.tasks.rows import key_of_rows

QUANTIZED = {"nf4": "4 bits (nf4)", "int8": "8 bits (int8)"}  # by model.quantization


@dataclass(frozen=True)
class Known:
    """All that a governance record is made of. `readiness` is the record of recipes/readiness.py, if there is one, and
    `readiness_missing` the reason otherwise. `plan.metric` is a score of the run. `changes` is None without an earlier
    run.
    """

    evidence: Evidence
    rows: Rows
    plan: Plan
    readiness: Mapping[str, Any] | None
    readiness_missing: str
    compute: Compute
    by_group: ByGroup
    changes: ChangeLog | None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        return self.evidence.result.settings

    @property
    def section(self) -> Mapping[str, Any]:
        """The settings of one section by its name; an empty one if the recipe has none."""
        return {name: value for name, value in self.settings.items() if isinstance(value, dict)}

    @property
    def method(self) -> str:
        """The trained method: the recipe, or that of a sweep."""
        return str(self.section.get("sweep", {}).get("method") or self.evidence.result.recipe)

    @property
    def generates(self) -> bool:
        """Whether the model writes its answers; otherwise it chooses one of the task's choices."""
        return self.settings["task"].get("choices") is None


def number(value: float | None) -> str:
    """Return a score as text: a share of 1 in per cent, other numbers with four digits."""
    if value is None:
        return "not a number"
    return percent(value) if 0 <= value <= 1 else f"{value:.4f}"


def interval(found: Interval) -> str:
    """Return a score with its interval, in words."""
    between = bounds(found)
    return f"{number(found.value)} ({f'95 % interval {between}' if 'to' in between else between}, {found.rows:,} rows)"


def bounds(found: Interval) -> str:
    """Return an interval in words. Rows that all score alike give none, since resampling them changes nothing."""
    if found.value is not None and found.low == found.high == found.value:
        return "no interval: all rows score alike"
    return f"{number(found.low)} to {number(found.high)}"


def difference(score: ScoreChange, value: float | None) -> str:
    """Return a difference of scores as text: in points of per cent for shares of 1."""
    if value is None or score.was is None or score.now is None:
        return "-"
    shares = min(score.was, score.now) >= 0 and max(score.was, score.now) <= 1
    return f"{100 * value:+.1f} points" if shares else f"{value:+.4f}"


def _purpose(known: Known) -> list[str]:
    return [f"Goal, as in the plan: {known.plan.goal}"]


def _owner(known: Known) -> list[str]:
    return [f"{known.plan.owner} answers for the model."]


def _version(known: Known) -> list[str]:
    before = known.changes.before.version if known.changes else None
    line = f"Version {known.evidence.version}: the day on which the run ended, and the SHA-256 of its result.json."
    return [line, f"It follows version {before}." if before else "No earlier version was named."]


def _software(known: Known) -> list[str]:
    environment = known.evidence.result.environment
    versions = ", ".join(f"{name} {text}" for name, text in environment.get("versions", {}).items())
    return [f"Commit {environment['commit']} of softprompts.", *([f"The run used {versions}."] if versions else [])]


def _artefact(known: Known) -> list[str]:
    notes = known.evidence.result.notes
    if notes.get("soup"):
        mean = "the mean of the adapters as a stock PEFT adapter, without the base model"
        return [f"The run's folder contains adapter/, {mean}. The scores are those of the vote, and not of this mean."]
    if not known.evidence.result.parameters["saved"]:
        return ["The run saved no model."]
    saved = notes.get("saved", "adapter")
    each = " for each task" if notes.get("tasks") else ""
    kind = (
        "a whole model for transformers" if saved == "model" else f"a stock PEFT adapter{each}, without the base model"
    )
    return [f"The run's folder contains {saved}/, {kind}. recipes/export.py writes other forms."]


def _hardware(known: Known) -> list[str]:
    hardware = known.evidence.result.environment.get("hardware", {})
    if not hardware:
        return ["The record does not name the hardware of the run."]
    gpus = hardware.get("gpus") or ["none"]
    processor, memory = hardware.get("processor", "an unknown processor"), hardware.get("memory_gib", "?")
    machine = f"{processor}, {hardware.get('cores', '?')} cores, {memory} GiB"
    first = f" It had {_processes(known)} processes; this is the machine of the first." if _processes(known) > 1 else ""
    return [f"The run used {machine}; GPUs: {', '.join(map(str, gpus))}.{first}"]


def _processes(known: Known) -> int:
    """Return the number of processes of the run. Its record measures memory and energy in the first one."""
    found: int = known.evidence.result.environment.get("processes", 1)
    return found


def _prompt(known: Known) -> list[str]:
    task = known.settings["task"]
    chat = ", within the chat template" if task.get("chat") else ""
    template, shots = scored_prompt(known.evidence.result)
    line = f"Inputs have this form{chat}: {template!r}. Outputs: {task['target']!r}."
    return [line, *([f"Few-shot examples from train before each input: {shots:,}."] if shots else [])]


def _method(known: Known) -> list[str]:
    label = METHODS[known.method].label if known.method in METHODS else known.method
    return [f"recipes/{known.evidence.result.recipe}.py, method: {label}.", *_scored(known)]


def _scored(known: Known) -> list[str]:
    """Return whose scores a run has that trained nothing itself."""
    recipe, section = known.evidence.result.recipe, known.section
    if recipe == "ensemble":
        adapters = ", ".join(section.get("ensemble", {}).get("adapters", ()))
        return [f"The scores are those of the vote of these adapters: {adapters}."]
    if recipe == "evaluate":
        path = section.get("adapter", {}).get("path")
        return [f"The scores are those of {f'the adapter in {path}' if path else 'the base model alone'}."]
    return []


def _base(known: Known) -> list[str]:
    evidence, model = known.evidence, known.settings["model"]
    name, bits = str(model["name_or_path"]), QUANTIZED.get(model.get("quantization", "none"))
    revision = f", revision {model['revision']}" if model.get("revision") else ""
    lines = [
        f"Base model: the model in {evidence.base}."
        if evidence.base_is_folder
        else f"Pre-trained base model of a third party: {evidence.base}{revision}."
    ]
    lines += [f"The weights were dequantised from 4 bits ({name})."] if name.startswith(PREFIX) else []
    lines += [f"The run loaded the weights in {bits}."] if bits else []
    did = "trained" if known.method == "full_finetuning" else "did not change"
    licences = [model.license for model in BUNDLED.values() if model.source == evidence.base][:1]
    return [
        f"{' '.join(lines)} The run {did} the weights.",
        *(f"Licence of the base model: {licence}." for licence in licences),  # other models name theirs in their card
    ]


def _steps(known: Known) -> list[str]:
    training, settings = known.evidence.result.training, known.section.get("training", {})
    if not training:
        return ["Nothing was trained in this run."]
    how = ", ".join(
        f"{key.replace('_', ' ')} {settings[key]}" for key in ("learning_rate", "optimizer") if key in settings
    )
    back = [
        f"The loss of step {one['step']:g} was not finite. Training went back to step {one['to']:g}, "
        f"with {one['factor']:g} times the learning rate."
        for one in training.get("rollbacks", ())
    ]
    return [
        f"{training.get('step', '?')} steps of {settings.get('batch_size', '?')} rows{f', with {how}' if how else ''}.",
        *back,
        f"Seed {known.evidence.result.seed}. The step {training.get('best_step', '?')} was kept.",
    ]


def _optimised(known: Known) -> list[str]:
    if not known.evidence.result.training:
        return []
    best_by = known.section.get("training", {}).get("best_by")
    return [*_loss(known), *([f"Validation chose the step by {best_by}."] if best_by else [])]


def _loss(known: Known) -> list[str]:
    """Return the loss of training: that of softprompts.training.teacher with a teacher."""
    if known.evidence.result.notes.get("kind") == "encoder":
        return ["Training minimises the cross-entropy of the right choice, over the outputs of the classifier."]
    if known.evidence.teacher is None:
        return ["Training minimises the negative log-likelihood of the target's tokens."]
    weight, temperature = known.evidence.teacher
    parts = [(1 - weight, "NLL"), (weight * temperature**2, "KL")]
    loss = " + ".join(f"{factor:.4g} x {name}" for factor, name in parts if factor)
    settings = known.section["training"]
    of = f"the model in {settings['teacher']}" if settings.get("teacher") else "the base model"
    context = ", which also reads training.teacher_context" if settings.get("teacher_context") is not None else ""
    return [
        f"Training minimises {loss}, for each of the target's tokens.",
        "The token that ends an answer has the NLL alone, and so have rows that are examples in the teacher's context.",
        "NLL is the negative log-likelihood of the token.",
        f"KL is the divergence of the model's distribution from the teacher's, both at temperature {temperature:g}.",
        f"The teacher is {of}{context}.",
    ]


def _initial(known: Known) -> list[str]:
    lines = []
    for section in known.section.values():
        text = section.get("prompt_tuning_init_text") or section.get("init_text")
        way = section.get("init_from") or section.get("prompt_tuning_init") or "TEXT"
        if not text or section.get("init_adapter") or way not in ("TEXT", "outputs", "demonstrations"):
            continue  # other starts do not read the text
        lines.append(f"The soft prompt began as the text {text!r}{'' if way == 'TEXT' else f', followed by {way}'}.")
    return lines


def _parameter_counts(known: Known) -> list[str]:
    parameters = known.evidence.result.parameters
    packed = known.settings["model"].get("quantization") == "nf4"
    return [
        f"{parameters['trainable']:,} of {parameters['total']:,} parameters were trained.",
        *(["Two weights of 4 bits count as one parameter in this number."] if packed else []),
    ]


def _compute(known: Known) -> list[str]:
    compute = known.compute
    if compute.flop is None:
        return ["The training compute is unknown."]
    share = f", {share_text(compute.share)} of the base model's" if compute.share is not None else ""
    most = "At most" if compute.upper_bound else "About"
    return [f"{most} {scientific(compute.flop)} FLOP of training{share}; see the part on compute."]


def share_text(share: float) -> str:
    """Return a share that may be tiny in per cent, with two digits that are not 0: "0.00000013 %"."""
    if share == 0 or share >= 1e-4:
        return percent(share)
    return f"{100 * share:.{1 - math.floor(math.log10(100 * share))}f} %"


def _resources(known: Known) -> list[str]:
    cost, notes = known.evidence.result.cost, known.evidence.result.notes
    swept = " of the kept candidate and of those that trained together with it" if "candidates" in notes else ""
    first = " of the first process" if _processes(known) > 1 else ""
    lines = [f"{cost.get('seconds_training') or 0:,.0f} s of training{swept}"]
    lines += [f"{cost['peak_memory_gib']:.1f} GiB of memory{first}"] if cost.get("peak_memory_gib") else []
    energy = cost.get("energy_kwh")
    lines += [f"{energy:.4g} kWh{first}" if energy is not None else "energy not measured (training.energy)"]
    return [f"{', '.join(lines)}."]


def _data(known: Known) -> list[str]:
    result = known.evidence.result
    splits = [f"{name} {split['rows']:,} rows" for name, split in result.data["splits"].items()]
    lines = [f"Task {result.task}: {', '.join(splits)}."]
    has_files = any(source.files for source in known.rows.sources.values())
    lines += ["The Croissant file describes the files."] if has_files else []
    if known.rows.missing:
        lines.append(f"The rows could not be read again: {known.rows.missing}.")
    elif known.rows.changed:
        lines.append(f"Since the run, the rows of these splits have changed: {listed(known.rows.changed)}.")
    else:
        by = "number" if known.evidence.chose_prompt else "SHA-256"
        what = "files still have" if has_files else "data still have"
        lines.append(f"The {what} the rows of the run, by their {by}.")
        lines += ["The rows of train that the run drew are not compared."] if known.evidence.drew_rows else []
    where = known.settings["task"].get("where")
    return [*lines, *([f"Only rows with {where} were used."] if where else [])]


def _licence(known: Known) -> list[str]:
    return [f"Licence of the data: {known.evidence.result.data['licence']}."]


def _readiness(known: Known) -> list[str]:
    if known.readiness is None:
        return [f"No checks of readiness: {known.readiness_missing}."]
    open_points = [f"{f['status']}: {f['title']}: {f['found']}{_accepted(f)}" for f in known.readiness["findings"]]
    bad = [line for line in open_points if not line.startswith("green")]
    head = f"Checked by recipes/readiness.py {_when(known.readiness['made'], known.evidence)}: "
    return [
        f"{head}{known.readiness['status']}, {len(open_points) - len(bad)} of {len(open_points)} points green.",
        *bad,
    ]


def _accepted(finding: Mapping[str, str]) -> str:
    """Return who accepted a finding and why; empty if nobody did."""
    if "accepted" not in finding:
        return ""
    status = f"{finding['accepted_status']}, " if finding["accepted_status"] else ""
    return f" ({status}accepted by {finding['accepted_by']}: {finding['accepted']})"


def _when(made: str, evidence: Evidence) -> str:
    """Return the day of the checks in words, and whether it was before the run."""
    checked, start, end = moment(made), evidence.started, evidence.finished
    if checked is None or start is None or end is None:
        return "at an unknown time" if checked is None else f"on {made[:10]}"
    when = (
        "before the run started" if checked <= start else "after the run ended" if checked > end else "during the run"
    )
    return f"on {made[:10]}, {when}"


def _readiness_personal(known: Known) -> list[str]:
    found = [f for f in (known.readiness or {"findings": ()})["findings"] if f["key"] in ("personal_data", "secrets")]
    return [f"Found by patterns in the rows: {f['found']}{_accepted(f)}" for f in found]


def _fallback(known: Known) -> list[str]:
    return [f"If the model cannot be used: {known.plan.fallback}"]


def _abstention(known: Known) -> list[str]:
    below = known.section.get("evaluation", {}).get("abstain_below")
    if below == "auto":
        below = known.evidence.result.notes.get("abstain_below")
    if below is None:
        return []
    return [
        f"In the scores, a choice with a probability below {percent(below)} counts as left to a person.",
        "A program that uses the adapter must leave it to a person itself.",
        "Generation and the server return the likeliest choice with its probability.",
    ]


def _validation(known: Known) -> list[str]:
    split, result = known.evidence.split, known.evidence.result
    rows = result.data["splits"].get("validation", {}).get("rows")
    chosen, most = _chosen(known)
    choices = {chosen: most} if chosen else {}
    if known.section.get("evaluation", {}).get("abstain_below") == "auto":
        choices["the threshold of abstention"] = None
    lines = [f"{min(rows, most or rows):,} rows of validation chose {what}." for what, most in choices.items() if rows]
    lines.append(f"The {split} rows were scored once, at the end.")
    if split == "validation" and choices:
        lines[-1] = (
            "The validation rows were also scored at the end. "
            f"They chose {' and '.join(choices)}, so other rows may score less."
        )
    if result.recipe == "ensemble":
        also = ", and by their mean" if result.notes.get("soup") else ""
        lines[-1] = f"The {split} rows were scored at the end, by the vote and by each of its adapters{also}."
    if split == "train" and result.training:
        lines[-1] = "The train rows were scored at the end. The run was trained on them, so other rows may score less."
    return [" ".join(lines)]


def _chosen(known: Known) -> tuple[str, int | None]:
    """Return what validation chose in the run, empty if nothing, and how many rows of it at most."""
    training, hard = known.section.get("training", {}), known.section.get("hard", {})
    if known.evidence.result.training:
        what = "the settings and the step" if "sweep" in known.section else "the step"
        return what, training.get("eval_rows")
    return ("the prompt", hard.get("validation_rows")) if len(hard.get("wordings", ())) > 1 else ("", None)


def _scores(known: Known) -> list[str]:
    named = known.evidence.result.metrics.items()
    return [f"{name} on {known.evidence.split}: {interval(found)}." for name, found in named]


def _baselines(known: Known) -> list[str]:
    return [
        f"{baseline.replace('_', ' ')}: {name} {number(found.value)}."
        for baseline, metrics in known.evidence.result.baselines.items()
        for name, found in metrics.items()
    ]


def _groups(known: Known) -> list[str]:
    if known.by_group.reason:
        return [f"No scores by group: {known.by_group.reason}."]
    lines = []
    for column in known.by_group.columns:
        metric = known.plan.metric
        if gap := known.by_group.gap(column, metric):
            best, worst = gap
            lines.append(
                f"By {column}, {metric} is from {number(worst.metrics[metric].value)} ({worst.value}, "
                f"{worst.rows:,} rows) to {number(best.metrics[metric].value)} ({best.value}, {best.rows:,} rows)."
            )
    if passed_over := known.by_group.passed_over:
        lines.append(f"Columns without groups: {why_not(passed_over)}.")
    return lines or ["The scored rows have one group only."]


def _files(known: Known) -> list[str]:
    return [
        "Tensors are saved as safetensors, never pickled.",
        "docs/supply_chain.md describes locked versions and checksums.",
        f"SHA-256 of result.json: {known.evidence.digest}.",
    ]


def _cost_of_error(known: Known) -> list[str]:
    return [f"A wrong answer costs: {known.plan.cost_of_error}"]


def _inputs(known: Known) -> list[str]:
    task = known.settings["task"]
    length = task.get("max_length")
    if not isinstance(length, int) or length == sys.maxsize:  # the baseline of readiness has no limit of its own
        return []
    cut = task.get("long_rows") == "cut_prompt"
    # Programs that read the adapter later do not know this limit.
    return [
        f"Rows of train, validation and test had at most {length:,} tokens each, with their answers.",
        *(["The prompts of longer rows were cut from the left."] if cut else []),
    ]


def _kpi(known: Known) -> list[str]:
    plan, found = known.plan, known.evidence.result.metrics[known.plan.metric]
    line = f"The plan asks for {plan.metric} of {number(plan.target)} or more."
    if found.value is None:
        return [line, f"The run has no score by {plan.metric}."]
    today = f" Today's process reaches {number(plan.today)}." if plan.today is not None else ""
    return [f"{line} The run has {interval(found)}: {_reached(found, plan.target)}.{today}"]


def _reached(found: Interval, target: float) -> str:
    """Return whether a score reaches its target, and whether its interval shows this."""
    if found.value < target:
        return "not reached"
    if found.low < target:
        return "reached, but not shown: the interval begins below the target"
    return "reached, but there is no interval to show it" if found.low == found.high else "reached"


def _changes(known: Known) -> list[str]:
    if known.changes is None:
        return ["No earlier run was named (governance.before)."]
    kinds = Counter(change.kind for change in known.changes.changes)
    counted = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    return [f"Changes since version {known.changes.before.version}: {counted or 'none'}; see the change log."]


def _measured(known: Known) -> list[str]:
    return [f"Measured, as in the plan: {known.plan.measured}"]


def _users(known: Known) -> list[str]:
    return [f"Intended users: {known.plan.intended_users}"]


def _output(known: Known) -> list[str]:
    if known.generates:
        return ["The model writes its answers."]
    choices = known.settings["task"]["choices"]
    names = list(choices.values()) if isinstance(choices, dict) else choices
    shown = ""
    if isinstance(names, list):
        shown = f": {listed(shown_names(str(name).strip() for name in names).values())}"
    return [f"The model chooses one of given answers{shown}. It writes no text of its own."]


def contradiction(known: Known) -> str:
    """Return how the evidence contradicts a plan that states no personal data; empty if it does not."""
    if known.plan.legal_basis != NO_DATA:
        return ""
    said = "The plan says that there are no personal data, but "
    if count := _masked_values(known).total():
        return (
            f"{said}the run masked {count:,} values. Masking is processing (Article 4(2) GDPR) and needs a legal basis."
        )
    checked = (known.readiness or {"findings": ()})["findings"]
    if any(f["key"] == "personal_data" and f["status"] != "green" for f in checked):
        return f"{said}the checks of readiness found some. Their use needs a legal basis."
    return ""


def _legal_basis(known: Known) -> list[str]:
    basis = known.plan.legal_basis
    if basis == NO_DATA:
        return [contradiction(known) or "The plan says that there are no personal data."]
    return [f"Legal basis, as in the plan: {basis} (Article 6(1) GDPR)."]


def _personal_kinds(known: Known) -> list[str]:
    kinds = known.plan.personal_data
    return [f"Kinds that the legal basis covers, as in the plan: {listed(kinds)}."] if kinds else []


def _masked_values(known: Known) -> Counter[str]:
    """Return the number of values of each kind that the run masked."""
    counts: Counter[str] = Counter()
    for split in known.evidence.result.data["splits"].values():
        counts.update(split.get("masked", {}))
    return counts


def _masked(known: Known) -> list[str]:
    pii = known.settings["task"].get("pii", "keep")
    if pii != "mask":
        said = {"refuse": "Rows with personal data of a known form were refused", "keep": "Nothing was masked"}
        return [f"{said.get(pii, f'Setting {pii}')} (task.pii: {pii})."]
    found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(_masked_values(known).items()))
    return [f"Masked in all splits before training (task.pii: mask): {found or 'none were found'}."]


def _data_owner(known: Known) -> list[str]:
    return [f"{known.plan.data_owner} answers for the data."]


def _columns(known: Known) -> list[str]:
    if known.rows.task is None:
        return []
    # All of them: a row may lack some, and a record of processing must not leave any out.
    names = dict.fromkeys(name for rows in known.rows.task.splits.values() for row in rows for name in row.record)
    return [f"Columns of the rows: {', '.join(map(short, names))}."] if names else []


def _stored(known: Known) -> list[str]:
    said = []
    if not known.evidence.predictions_missing:
        scored = len(known.evidence.predictions)
        said.append(f"The run's folder keeps the texts of {scored:,} scored rows (predictions.jsonl).")
        _, shots = scored_prompt(known.evidence.result)
        if shots:
            said.append(f"The file also has the texts of the few-shot examples from train: {shots:,}.")
    if (task := known.rows.task) is not None and any(map(key_of_rows, task.splits.values())):
        said.append(
            "Each machine that read the data keeps a copy of the rows in its cache, in the folder softprompts of "
            "HF_DATASETS_CACHE (by default ~/.cache/huggingface/datasets/softprompts)."
        )
    return said


def _balance(known: Known) -> list[str]:
    if known.rows.task is None or known.generates:
        return []
    counts = Counter(row.target.strip() for row in known.rows.task.splits["train"])
    whole = sum(counts.values())
    shown = shown_names(counts)
    labels = ", ".join(f"{shown[name]} {percent(n / whole)}" for name, n in counts.most_common(20))
    return [f"Labels of train: {labels}."]


def _reviewers(known: Known) -> list[str]:
    return [f"Reviewers, as in the plan: {listed(known.plan.reviewers)}."]


# By their names in `law.yaml`.
FACTS: dict[str, Callable[[Known], list[str]]] = {
    "purpose": _purpose,
    "owner": _owner,
    "version": _version,
    "software": _software,
    "artefact": _artefact,
    "hardware": _hardware,
    "prompt": _prompt,
    "method": _method,
    "base": _base,
    "steps": _steps,
    "optimised": _optimised,
    "initial": _initial,
    "parameters": _parameter_counts,
    "compute": _compute,
    "resources": _resources,
    "data": _data,
    "licence": _licence,
    "readiness": _readiness,
    "readiness_personal": _readiness_personal,
    "fallback": _fallback,
    "abstention": _abstention,
    "validation": _validation,
    "scores": _scores,
    "baselines": _baselines,
    "groups": _groups,
    "files": _files,
    "cost_of_error": _cost_of_error,
    "inputs": _inputs,
    "kpi": _kpi,
    "changes": _changes,
    "measured": _measured,
    "users": _users,
    "output": _output,
    "legal_basis": _legal_basis,
    "personal_kinds": _personal_kinds,
    "masked": _masked,
    "data_owner": _data_owner,
    "columns": _columns,
    "stored": _stored,
    "balance": _balance,
    "reviewers": _reviewers,
}


def transparency_note(known: Known, answers: Mapping[str, str]) -> list[str]:
    """Return the text for users: that this is an AI system, for what, how good it is, and whom to ask."""
    plan, contact = known.plan, answers.get("contact")
    written = "writes the answers that you see" if known.generates else "chooses the answers that you see"
    return [
        f"An AI system {written}. They come from a language model.",
        f"It is for this purpose: {plan.goal}",
        " ".join(["It makes mistakes.", *_quality(known, answers.get("quality"))]),
        f"If it is not available: {plan.fallback}",
        f"Questions and complaints: {contact or '[answer `contact`]'}",
    ]


def _quality(known: Known, said: str | None) -> list[str]:
    """Return how often the model is right, if the plan's metric measures this, and what a person says of its quality.

    A user would read another score, such as one of overlap or of costs, as the share of right answers.
    """
    metric, found = known.plan.metric, known.evidence.result.metrics[known.plan.metric]
    if found.value is None or metric not in shares_of_right_answers(known.settings["task"].get("metrics", [])):
        return [said or "[answer `quality`]"]
    split = known.evidence.split
    where = "In a test" if split == "test" else f"On the {split} rows"
    right, low, high = (f"{100 * share:.1f}" for share in (found.value, found.low, found.high))
    between = "" if found.low == found.high else f"95 % interval {low} to {high}, "
    counted = f"{where} it was right in {right} of 100 cases ({between}{found.rows:,} rows)."
    return [counted, *([said] if said else [])]
