"""An output layer for large vocabularies: frequent words cost a full row, rare ones a share of one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import errors

DIVISOR = 4
"""Each band of rarer words has vectors narrower by this factor than the band before."""
FEW_LOGITS = 1 << 20
"""Above so many logits the loss is computed without holding them."""


class AdaptiveSoftmax(nn.Module):
    """Exact probabilities of V tokens in two levels: a frequent token or a band of rarer ones, then the one in it.

    The vocabulary is cut at `cutoffs` into bands, by id: ids are expected to go from frequent to rare, as those of
    word vocabularies do (any other order is as right, and slower). The first band and one entry for each further
    band make up the head. A token of a further band has the product of its band's probability and its own in it,
    from features mapped down by `DIVISOR` to the power of the band. The probabilities sum to 1, so that perplexities
    compare with those of any other output layer.

    Source: Grave et al. 2017, Efficient softmax approximation for GPUs.
    """

    def __init__(self, feature_size: int, vocabulary_size: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        if cutoffs[-1] >= vocabulary_size:
            raise errors.UsageError(
                f"model.adaptive_cutoffs: the vocabulary has {vocabulary_size} entries, none is left behind "
                f"{cutoffs[-1]}; use smaller cutoffs"
            )
        self.bounds = (0, *cutoffs, vocabulary_size)
        self.feature_size = feature_size
        sizes = [max(1, feature_size // DIVISOR**band) for band in range(len(cutoffs) + 1)]
        self.tables = nn.ParameterList(
            nn.Parameter(torch.randn(stop - start, size) * size**-0.5)
            for start, stop, size in zip(self.bounds, self.bounds[1:], sizes, strict=False)
        )
        self.projections = nn.ModuleList(nn.Linear(feature_size, size, bias=False) for size in sizes[1:])
        self.bands = nn.Linear(feature_size, len(cutoffs))
        self.bias_V = nn.Parameter(torch.zeros(vocabulary_size))

    def nll(self, features_NF: Tensor, targets_N: Tensor) -> Tensor:
        """Returns the summed negative log-likelihood in nats, in fp32; every parameter gets a gradient, zero or not."""
        bands_N = self.band_of(targets_N)
        first = self.bounds[1]
        weight = torch.cat((self.tables[0], self.bands.weight))
        bias = torch.cat((self.bias_V[:first], self.bands.bias))
        total = _cross_entropy(features_NF, weight, bias, torch.where(bands_N == 0, targets_N, first - 1 + bands_N))
        for band, projection in enumerate(self.projections, start=1):
            rows = (bands_N == band).nonzero().squeeze(1)
            start, stop = self.bounds[band], self.bounds[band + 1]
            narrow = projection(features_NF.index_select(0, rows))
            targets = targets_N.index_select(0, rows) - start
            total = total + _cross_entropy(narrow, self.tables[band], self.bias_V[start:stop], targets)
        return total

    def log_probs(self, features: Tensor) -> Tensor:
        """Returns the log-probabilities of all tokens in fp32, (…, V) for features (…, F)."""
        first = self.bounds[1]
        head = torch.cat((F.linear(features, self.tables[0], self.bias_V[:first]), self.bands(features)), dim=-1)
        head = head.float().log_softmax(dim=-1)
        parts = [head[..., :first]]
        for band, projection in enumerate(self.projections, start=1):
            bias = self.bias_V[self.bounds[band] : self.bounds[band + 1]]
            own = F.linear(projection(features), self.tables[band], bias).float().log_softmax(dim=-1)
            parts.append(own + head[..., first - 1 + band, None])
        return torch.cat(parts, dim=-1)

    def projection(self, band: int) -> nn.Linear:
        """Returns the map of features to those of a band of rarer tokens, 1 the first."""
        found = self.projections[band - 1]
        assert isinstance(found, nn.Linear)
        return found

    def band_of(self, tokens: Tensor) -> Tensor:
        """Returns the band of each token, 0 for the frequent ones."""
        cutoffs = torch.tensor(self.bounds[1:-1], device=tokens.device)
        return torch.bucketize(tokens.contiguous(), cutoffs, right=True)


class TiedAdaptiveEmbedding(nn.Module):
    """An embedding that shares all its vectors and maps with an adaptive output layer.

    A rare token's vector is as narrow as in the output layer, and widened by the same map. As in a tied embedding
    of full rows, √F brings the entries to about size 1, where it `is_scaled`.

    Source: Baevski and Auli 2019, Adaptive input representations, sections 3.1 and 3.2.
    """

    def __init__(self, output: AdaptiveSoftmax, is_scaled: bool) -> None:
        super().__init__()
        self.output = output
        self.scale = math.sqrt(output.feature_size) if is_scaled else 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Looks the rows up: (…, F) for tokens (…)."""
        output = self.output
        flat_N = tokens.flatten()
        bands_N = output.band_of(flat_N)
        found: list[Tensor] = []
        places: list[Tensor] = []
        for band, table in enumerate(output.tables):
            rows = (bands_N == band).nonzero().squeeze(1)
            vectors = F.embedding(flat_N.index_select(0, rows) - output.bounds[band], table)
            if band > 0:
                vectors = F.linear(vectors, output.projection(band).weight.t())
            found.append(vectors.to(output.bias_V.dtype))
            places.append(rows)
        back_N = torch.cat(places).argsort()
        x = torch.cat(found).index_select(0, back_N) * self.scale
        return x.view(*tokens.shape, output.feature_size)


def _cross_entropy(features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    if features_NF.shape[0] * weight_VF.shape[0] <= FEW_LOGITS:
        return F.cross_entropy(F.linear(features_NF, weight_VF, bias_V).float(), targets_N, reduction="sum")
    with torch.autocast(features_NF.device.type, enabled=False):
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=256)
        features_NF = features_NF.to(weight_VF.dtype)
        return F.linear_cross_entropy(
            features_NF, weight_VF, targets_N, linear_bias=bias_V, reduction="sum", options=options
        )
