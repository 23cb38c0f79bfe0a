"""Lanes of a stream of lines: cuts at line ends, into lanes of nearly equal numbers of tokens."""

import itertools
from collections.abc import Callable, Sequence

from core.decoding.lines import inputs


def cut(
    parts: Sequence[inputs.Part],
    num_lanes: int,
    counts: Sequence[int],
    count_lines: Callable[[inputs.Part], Sequence[int]],
) -> list[list[inputs.Part]]:
    """Cuts a stream at line ends into lanes of nearly equal numbers of tokens, each a list of parts.

    A lane ends at the line end that is nearest to its share of the tokens. If lines are so long that a lane would be
    empty, there are fewer lanes.

    Args:
        parts: the parts of the whole stream, in order.
        num_lanes: number of lanes.
        counts: number of tokens of each part.
        count_lines: returns the number of tokens of each line of a part; called only for parts that are cut.
    """
    if num_lanes == 1:
        # One lane needs no cut, and so no counts.
        return [list(parts)] if parts else []
    ends = list(itertools.accumulate(counts))
    total = ends[-1] if ends else 0
    cuts = [0]
    for lane in range(1, num_lanes):
        share = total * lane / num_lanes
        index = next((index for index, end in enumerate(ends) if end >= share), None)
        if index is None:  # the stream is empty
            continue
        before = ends[index - 1] if index else 0
        # Tokens from the start of the stream to each line end of the part in which the share ends.
        line_ends = list(itertools.accumulate(count_lines(parts[index]), initial=before))
        # Of two line ends that are equally near the earlier one, so that every call makes the same cut.
        nearest = min(range(len(line_ends)), key=lambda line: (abs(line_ends[line] - share), line))
        # Never before the last cut: the end of one long line may be nearest to two shares.
        cuts.append(max(cuts[-1], parts[index].first_line + nearest))
    stop = parts[-1].first_line + parts[-1].num_lines if parts else 0
    return [_between(parts, first, last) for first, last in itertools.pairwise([*cuts, stop]) if first < last]


def _between(parts: Sequence[inputs.Part], first: int, last: int) -> list[inputs.Part]:
    """Returns the parts with the lines from `first` up to `last`; those at both ends are narrowed."""
    kept = []
    for part in parts:
        start, stop = max(first - part.first_line, 0), min(last - part.first_line, part.num_lines)
        if start < stop:
            # A part that is cut belongs to two lanes, which name their parts anew.
            kept.append(part.narrow(start, stop))
    return kept
