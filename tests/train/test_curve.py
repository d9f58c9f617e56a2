"""The picture of the losses."""

import json
import math
import random
import struct
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.curve import _apart, draw


def write(file, records) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def size(png) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


def evaluation(step, sources) -> dict:
    return {"step": step, "eval_loss": 1.5, **{f"eval_loss/{name}": loss for name, loss in sources.items()}}


@pytest.mark.parametrize("steps", [1, 2, 59, 60, 1000])
def test_runs_of_all_lengths_are_drawn(tmp_path, steps):
    records = [{"step": step, "loss": 2 - step / steps} for step in range(1, steps + 1)]
    write(tmp_path / "metrics.jsonl", [*records, evaluation(steps, {"hc3": 1.2, "oig": 1.8})])
    assert draw(tmp_path / "metrics.jsonl", tmp_path / "loss.png") is True
    width, height = size(tmp_path / "loss.png")
    assert width > height > 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "metrics.jsonl"]


def test_a_hundred_thousand_records_take_seconds(tmp_path):
    chance = random.Random(1)
    write(
        tmp_path / "metrics.jsonl",
        ({"step": step, "loss": 2 + chance.gauss(0, 0.1), "learning_rate": 1e-5} for step in range(1, 100_001)),
    )
    begun = time.monotonic()
    assert draw(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("records", [[], [evaluation(1, {"hc3": 1.0})], [{"step": 1, "loss": math.nan}]])
def test_without_a_training_loss_nothing_is_drawn(tmp_path, records):
    write(tmp_path / "metrics.jsonl", records)
    (tmp_path / "loss.png").write_bytes(b"old")
    assert draw(tmp_path / "metrics.jsonl", tmp_path / "loss.png") is False
    assert (tmp_path / "loss.png").read_bytes() == b"old"


def test_odd_names_odd_numbers_and_a_torn_line_do_no_harm(tmp_path, recwarn):
    names = ("$x_", "$\\frac$", "a\x1b[31m", "中文", "\ud800", "", "n" * 500, *(f"source{i}" for i in range(30)))
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 1.0}]
    records.append(evaluation(3, {name: 9.0 - i / 10 for i, name in enumerate(names)}))
    write(tmp_path / "metrics.jsonl", [*records, evaluation(3, {"worse": math.nan})])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert draw(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    size(tmp_path / "loss.png")
    assert not recwarn.list


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    write(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    (tmp_path / "loss.png").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        draw(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


@given(st.lists(st.floats(0, 10), min_size=1, max_size=17).map(sorted))
def test_labels_do_not_touch_and_stay_inside(wanted):
    levels = _apart(wanted, 0.5, 0.0, 10.0)
    assert all(b - a >= 0.5 - 1e-9 for a, b in pairwise(levels))
    assert levels[0] >= 0
    assert levels[-1] <= 10 + 1e-9


def test_labels_that_have_room_stand_at_their_lines():
    assert _apart([1.0, 2.0, 5.0], 0.5, 0.0, 10.0) == [1.0, 2.0, 5.0]
    assert _apart([5.0, 5.0], 0.5, 0.0, 10.0) == [4.75, 5.25]
