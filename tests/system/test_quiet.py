"""Remarks of libraries that no user can act on are not shown."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

from helpers import load_tuned
from softprompts.system.quiet import quiet_libraries


def test_position_ids_that_peft_counts_itself_are_no_news(tiny_model: Path) -> None:
    tuned, tokenizer = load_tuned(tiny_model)
    inputs = tokenizer("the film was lovely", return_tensors="pt")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quiet_libraries()
        answer = tuned.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert [str(one.message) for one in said if "osition ids" in str(one.message)] == []


def test_a_check_by_schema_does_not_import_the_parser_of_addresses() -> None:
    code = (
        "import sys; from softprompts.system.quiet import quiet_libraries; quiet_libraries(); import jsonschema; "
        "print('lark' in sys.modules, jsonschema.validate({'a': 1}, {'type': 'object'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "None"]
