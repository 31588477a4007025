"""A split's traffic and its log."""

from __future__ import annotations

import json
from pathlib import Path

from made_server import TEXT, make_runs, serving
from softprompts.config.tools import ServeConfig
from softprompts.reports.outcomes import compare_outcomes


def test_a_split_shares_its_traffic_out_and_logs_what_became_of_it(tiny_model: Path, tmp_path: Path) -> None:
    runs = make_runs(tiny_model, tmp_path / "runs")
    log = tmp_path / "log.jsonl"
    config = ServeConfig(
        adapters={"a": str(runs / "one"), "b": str(runs / "two")}, split={"ab": {"a": 1, "b": 3}}, split_log=str(log)
    )
    with serving(tiny_model, config) as served:
        alone = {name: served.complete(name, TEXT, max_tokens=4)["choices"][0]["text"] for name in "ab"}
        replies = [served.complete("ab", TEXT, max_tokens=4, user=f"user {n}") for n in range(40)]
        again = [served.complete("ab", TEXT, max_tokens=4, user=f"user {n}") for n in range(40)]
        texts = [reply["choices"][0]["text"] for reply in replies]
        assert texts == [reply["choices"][0]["text"] for reply in again], "a user stays with one adapter"
        assert replies[0]["model"] == "ab"
        assert served.post("/v1/outcomes", id=replies[0]["id"], outcome=1).status_code == 200
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert [alone[record["adapter"]] for record in records[:40]] == texts
        assert 5 <= sum(record["adapter"] == "a" for record in records[:40]) <= 18
        assert records[-1]["outcome"] == 1
        assert records[-1]["adapter"] == records[0]["adapter"]
        assert served.http.delete("/v1/adapters/a").status_code == 400, "the split needs it"
        assert len({record["user"] for record in records[:80]}) == 40, "a digest of each"
        assert not any("user 3" in line for line in log.read_text().splitlines())
        for number, (reply, record) in enumerate(zip(replies, records, strict=False)):
            value = float(record["adapter"] == "b" or number % 8 == 0)
            assert served.post("/v1/outcomes", id=reply["id"], outcome=value).status_code == 200
    lines = compare_outcomes(str(log), 500)
    assert lines[0] == "ab:"
    assert "b has a higher mean than a in outcome" in lines[3]


def test_a_log_that_was_moved_can_be_compared_with_what_came_later(tiny_model: Path, tmp_path: Path) -> None:
    runs, log = make_runs(tiny_model, tmp_path / "runs"), tmp_path / "log.jsonl"
    config = ServeConfig(
        adapters={"a": str(runs / "one"), "b": str(runs / "two")}, split={"ab": {"a": 1, "b": 1}}, split_log=str(log)
    )
    with serving(tiny_model, config) as served:
        replies = [served.complete("ab", TEXT, max_tokens=1, user=f"user {n // 2}") for n in range(24)]
        log.rename(tmp_path / "log.1")
        for number, reply in enumerate(replies):
            assert served.post("/v1/outcomes", id=reply["id"], outcome=number % 2).status_code == 200
    later = compare_outcomes(str(log), 100)
    (tmp_path / "whole").write_text((tmp_path / "log.1").read_text() + log.read_text())
    assert later == compare_outcomes(str(tmp_path / "whole"), 100)
    assert sum(int(line.split(" answers, ")[1].split()[0]) for line in later[1:3]) == 12, "users"
