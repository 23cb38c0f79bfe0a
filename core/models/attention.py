"""Attention: weighted means of the encoder's outputs, for the decoder's queries."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Additive or multiplicative attention over the valid positions of a source.

    A query q is compared with the key k of each source position; the weights are the softmax of the scores, and the
    context is the weighted sum of the values, which are the encoder's outputs. By `kind` the score is

    * `dot`: q · k, unscaled. Keys are the encoder's outputs; where sizes differ, a linear map of them to Q.
    * `general`: q · (U k), always with the linear map.
    * `scaled_dot`: `dot` divided by √Q, which keeps the softmax of wide queries from saturating at one position.
    * `additive`: v · tanh(W q + U k).

    Keys do not depend on the query: `keys` computes them once for each source. Queries `queries_BTQ` come in groups of
    T for each source: the steps of a target, or the hypotheses of a beam.

    With `has_coverage` the score also depends on the coverage c of the position, the sum of the weights that earlier
    queries gave to it: v · tanh(W q + U k + w c) for `additive`, q · (U k + w c) for `general`. The vector w is zero at
    first, which is plain attention.

    Source: Bahdanau et al. 2015, Neural machine translation by jointly learning to align and translate (additive);
    Luong et al. 2015, Effective approaches to attention-based neural machine translation (dot, general); Vaswani et al.
    2017, Attention is all you need (scaled). Coverage: Tu et al. 2016, Modeling coverage for neural machine
    translation, section 3.1, with the plain sum as in See et al. 2017, Get to the point, section 2.3.
    """

    def __init__(self, kind: str, query_size: int, memory_size: int, has_coverage: bool = False) -> None:
        super().__init__()
        # In a dot product without a linear map there is nothing that could weigh the coverage.
        assert not has_coverage or kind in ("additive", "general"), f"{kind} attention has no coverage"
        self.kind = kind
        self.scale = query_size**-0.5 if kind == "scaled_dot" else 1.0
        if kind == "additive":
            self.query = nn.Linear(query_size, query_size, bias=False)
            self.key = nn.Linear(memory_size, query_size, bias=False)
            self.score = nn.Linear(query_size, 1, bias=False)
        elif kind == "general" or query_size != memory_size:
            self.key = nn.Linear(memory_size, query_size, bias=False)
        if has_coverage:
            self.coverage_Q = nn.Parameter(torch.zeros(query_size))

    def keys(self, outputs_BSC: Tensor) -> Tensor:
        """Returns the keys (B, S, Q) of the encoder's outputs."""
        keys_BSQ: Tensor = self.key(outputs_BSC) if hasattr(self, "key") else outputs_BSC
        # Scaling the keys once is cheaper than scaling the scores of each step.
        return keys_BSQ if self.scale == 1.0 else keys_BSQ * self.scale

    def forward(
        self,
        queries_BTQ: Tensor,
        keys_BSQ: Tensor,
        values_BSC: Tensor,
        mask_BS: Tensor,
        coverage_BTS: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the contexts (B, T, C) and the attention weights (B, T, S), which are 0 on padding and sum to 1.

        Each query has a coverage of its own, as the hypotheses of a beam do. For the steps of a target, where the
        weights of each step change the coverage of the next, use `attend_stepwise`.
        """
        scores_BTS = self._scores(self._project(queries_BTQ), keys_BSQ, coverage_BTS)
        weights_BTS = self._weights(scores_BTS, mask_BS)
        return torch.bmm(weights_BTS.to(values_BSC.dtype), values_BSC), weights_BTS

    def attend_stepwise(
        self, queries_BTQ: Tensor, keys_BSQ: Tensor, values_BSC: Tensor, mask_BS: Tensor, coverage_BS: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns contexts and weights of the steps of a target, and the coverage after the last step.

        Args:
            queries_BTQ: in the order of steps.
            keys_BSQ: see `forward`.
            values_BSC: see `forward`.
            mask_BS: see `forward`.
            coverage_BS: before the first step.
        """
        weights = []
        for query_BQ in self._project(queries_BTQ).unbind(dim=1):
            scores_B1S = self._scores(query_BQ.unsqueeze(1), keys_BSQ, coverage_BS.unsqueeze(1))
            weights.append(self._weights(scores_B1S, mask_BS))
            coverage_BS = coverage_BS + weights[-1].squeeze(1)
        weights_BTS = torch.cat(weights, dim=1)
        # Contexts do not influence the coverage, so that one product gives those of all steps.
        return torch.bmm(weights_BTS.to(values_BSC.dtype), values_BSC), weights_BTS, coverage_BS

    def _project(self, queries_BTQ: Tensor) -> Tensor:
        """Returns W q for additive attention, else the queries themselves."""
        return self.query(queries_BTQ) if self.kind == "additive" else queries_BTQ

    def _scores(self, queries_BTQ: Tensor, keys_BSQ: Tensor, coverage_BTS: Tensor | None) -> Tensor:
        """Returns the scores (B, T, S) of projected queries."""
        if self.kind != "additive":
            # Under autocast the two may come in different types.
            scores_BTS = torch.bmm(queries_BTQ.to(keys_BSQ.dtype), keys_BSQ.transpose(1, 2))
            if coverage_BTS is None:
                return scores_BTS
            # q · (U k + w c) = q · U k + (q · w) c, without a copy of the keys for each step.
            query_dot_w_BT = queries_BTQ.to(self.coverage_Q.dtype) @ self.coverage_Q
            return scores_BTS + query_dot_w_BT.unsqueeze(-1) * coverage_BTS
        # One query at a time, so that the sums (B, S, Q) stay in the cache: 2.6 times as fast as all T at once.
        scores = []
        for time, query_BQ in enumerate(queries_BTQ.unbind(dim=1)):
            sums_BSQ = query_BQ.unsqueeze(1) + keys_BSQ
            if coverage_BTS is not None:
                sums_BSQ += F.linear(coverage_BTS[:, time].unsqueeze(-1), self.coverage_Q.unsqueeze(-1))
            # In place: the sum is not used again, and the backward pass of tanh needs its output alone.
            scores.append(self.score(sums_BSQ.tanh_()).squeeze(-1))
        return torch.stack(scores, dim=1)

    def _weights(self, scores_BTS: Tensor, mask_BS: Tensor) -> Tensor:
        """Returns the softmax over valid source positions, in fp32 at least."""
        if scores_BTS.dtype in (torch.bfloat16, torch.float16):
            scores_BTS = scores_BTS.float()
        # The lowest finite number rather than -inf, which would make NaN of a row that is all padding.
        lowest = torch.finfo(scores_BTS.dtype).min
        return torch.softmax(scores_BTS.masked_fill(~mask_BS.unsqueeze(1), lowest), dim=-1)
