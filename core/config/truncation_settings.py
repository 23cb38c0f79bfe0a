"""Settings of truncated backpropagation through time, by kind."""

from typing import Literal

from core.config import section


class WindowConfig(section.Section):
    """Gradients stop at the borders of windows, which are of one length, of random lengths, or a whole lane.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.7.1; for random lengths Merity, Keskar and Socher
    2018, Regularizing and Optimizing LSTM Language Models, section 5.
    """

    kind: Literal["fixed", "variable", "none"] = section.identity(
        "fixed",
        "fixed: gradients stop at the window; variable: windows of random lengths, the learning rate scaled by them; "
        "none: gradients flow through a whole lane",
    )


class RandomConfig(section.Section):
    """Gradients also stop at random positions inside a window; the others are reweighted, which keeps the mean.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.7.1.3 "Randomized Truncation"; Tallec and Ollivier
    2017, Unbiasing Truncated Backpropagation Through Time.
    """

    kind: Literal["random"] = section.identity(
        "random",
        "random: gradients also stop at random positions inside the window, and those that pass are reweighted, so "
        "that their mean is the window's gradient",
    )
    cut_every: int = section.identity(5, "tokens between two positions of a possible cut", ge=1)
    cut_probability: section.Float = section.identity(
        0.2,
        "probability of a cut at each of these positions; a gradient that passes is divided by 1 minus it",
        ge=0,
        lt=1,
    )


class SlidingConfig(section.Section):
    """Gradients of every loss reach the same number of steps back, across the borders of windows.

    Source: Williams and Peng 1990, An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories, BPTT(h); Zhang et al., Dive into Deep Learning (2021), section 8.7.1.2 "Truncating Time Steps".
    """

    kind: Literal["sliding"] = section.identity(
        "sliding",
        "sliding: the gradient of every loss reaches `lookback` steps back, across the borders of windows, TBPTT(1, "
        "lookback); the recurrent layers take about `lookback` times as long, and as much memory",
    )
    lookback: int = section.identity(35, "steps back from every loss that its gradient reaches", ge=1, le=65536)


TruncationConfig = WindowConfig | RandomConfig | SlidingConfig
