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


TruncationConfig = WindowConfig | RandomConfig
