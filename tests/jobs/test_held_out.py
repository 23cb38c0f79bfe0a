"""Held-out lines: the prompts of generated text that are taken from them."""

import pathlib

from core.storage import location
from jobs import held_out


def _prompts(folder: pathlib.Path, lines: list[str], count: int, last: bool = False) -> list[str]:
    (folder / "text.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return held_out.prompts(location.Location.parse(str(folder / "text.txt")), count, last)


def test_prompts_are_of_lines_of_all_lengths(tmp_path: pathlib.Path) -> None:
    """The lines are sorted by length: the first ones that are longer than a prompt would all have three words."""
    lines = ["one two"] * 5 + [" ".join([f"w{length}"] * length) for length in (3, 5, 9) for _ in range(20)]
    assert _prompts(tmp_path, lines, 3) == ["w3 w3", "w5 w5", "w9 w9"]


def test_prompts_for_a_backward_model_are_the_ends_of_lines(tmp_path: pathlib.Path) -> None:
    assert _prompts(tmp_path, ["the old king slept", "no"], 3, last=True) == ["king slept"]


def test_text_without_spaces_has_prompts_of_characters(tmp_path: pathlib.Path) -> None:
    assert _prompts(tmp_path, ["我的朋友看见房子。", "猫吃茶。"], 3) == ["我的朋友"]
    assert _prompts(tmp_path, ["我的朋友看见房子。", "猫吃茶。"], 3, last=True) == ["见房子。"]
