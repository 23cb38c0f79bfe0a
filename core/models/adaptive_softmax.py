"""Adaptive softmax: an output layer for large vocabularies, with narrow vectors for rare words."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import errors
from core.models import token_loss

DIVISOR = 4
"""Vectors of a band are narrower by this factor than those of the band before (torch's `div_value`)."""


class AdaptiveSoftmax(nn.Module):
    """Two-level softmax over V tokens: frequent tokens, then bands (the paper: clusters) of rarer ones.

    The vocabulary is cut at `cutoffs` into bands by id. Ids are expected to be sorted from frequent to rare, as those
    of word vocabularies are; any other order is as correct, but slower. The head is a softmax over the tokens of the
    first band and one entry for each further band b. A token w of band b has p(w) = p(b) p(w | b), where p(w | b) is a
    softmax over features of F / `DIVISOR`^b units, mapped linearly from the full ones. The probabilities are exact and
    sum to 1: perplexities are comparable with those of any other output layer.

    Source: Grave et al. 2017, Efficient softmax approximation for GPUs.
    """

    def __init__(self, feature_size: int, vocabulary_size: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        if cutoffs[-1] >= vocabulary_size:
            raise errors.UsageError(
                f"model.adaptive_cutoffs: the vocabulary has {vocabulary_size} entries, so that the band from "
                f"{cutoffs[-1]} on is empty; use smaller cutoffs"
            )
        self.bounds = (0, *cutoffs, vocabulary_size)
        self.feature_size = feature_size
        # At least one unit, however far the vocabulary reaches.
        sizes = [max(1, feature_size // DIVISOR**band) for band in range(len(cutoffs) + 1)]
        self.tables = nn.ParameterList(
            # Variance 1 / width: logits start at the same size in every band.
            nn.Parameter(torch.randn(stop - start, size) * size**-0.5)
            for start, stop, size in zip(self.bounds, self.bounds[1:], sizes, strict=False)
        )
        self.projections = nn.ModuleList(nn.Linear(feature_size, size, bias=False) for size in sizes[1:])
        self.bands = nn.Linear(feature_size, len(cutoffs))
        # One bias for the whole vocabulary: torch's own module has none for rare tokens.
        self.bias_V = nn.Parameter(torch.zeros(vocabulary_size))

    def nll(self, features_NF: Tensor, targets_N: Tensor) -> Tensor:
        """Returns the summed negative log-likelihood in nats, in fp32; every parameter gets a gradient, zero or not."""
        bands_N = self.band_of(targets_N)
        head_size = self.bounds[1]
        weight = torch.cat((self.tables[0], self.bands.weight))
        bias = torch.cat((self.bias_V[:head_size], self.bands.bias))
        # In the head, band b ≥ 1 is entry head_size + b − 1, after the frequent tokens.
        head_targets_N = torch.where(bands_N == 0, targets_N, head_size - 1 + bands_N)
        total = token_loss.summed(features_NF, weight, bias, head_targets_N).loss
        for band, projection in enumerate(self.projections, start=1):
            # A band without targets adds a loss of 0 all the same: DDP waits for a gradient of its parameters.
            rows = (bands_N == band).nonzero().squeeze(1)
            start, stop = self.bounds[band], self.bounds[band + 1]
            narrow = projection(features_NF.index_select(0, rows))
            targets = targets_N.index_select(0, rows) - start
            total = total + token_loss.summed(narrow, self.tables[band], self.bias_V[start:stop], targets).loss
        return total

    def log_probs(self, features: Tensor) -> Tensor:
        """Returns the log-probabilities of all tokens in fp32, (…, V) for features (…, F)."""
        head_size = self.bounds[1]
        head = torch.cat((F.linear(features, self.tables[0], self.bias_V[:head_size]), self.bands(features)), dim=-1)
        head = head.float().log_softmax(dim=-1)
        log_probs = [head[..., :head_size]]
        for band, projection in enumerate(self.projections, start=1):
            bias = self.bias_V[self.bounds[band] : self.bounds[band + 1]]
            within_band = F.linear(projection(features), self.tables[band], bias).float().log_softmax(dim=-1)
            # log p(w) = log p(w | b) + log p(b).
            log_probs.append(within_band + head[..., head_size - 1 + band, None])
        return torch.cat(log_probs, dim=-1)

    def projection(self, band: int) -> nn.Linear:
        """Returns the linear map of the features to those of a band of rarer tokens, 1 the first."""
        projection = self.projections[band - 1]
        assert isinstance(projection, nn.Linear)
        return projection

    def band_of(self, tokens: Tensor) -> Tensor:
        """Returns the band of each token, 0 for frequent ones."""
        cutoffs = torch.tensor(self.bounds[1:-1], device=tokens.device)
        return torch.bucketize(tokens.contiguous(), cutoffs, right=True)


class TiedAdaptiveEmbedding(nn.Module):
    """Adaptive input embedding that shares its vectors and projections with an adaptive output layer.

    A rare token's vector is as narrow as in the output layer, and mapped to F units by the transposed projection. Where
    the embedding `is_scaled`, the factor √F brings its entries to about size 1, as in `recurrent_stack.TiedEmbedding`.

    Source: Baevski and Auli 2019, Adaptive input representations for neural language modeling, sections 3.1 and 3.2.
    """

    def __init__(self, output: AdaptiveSoftmax, is_scaled: bool) -> None:
        super().__init__()
        self.output = output
        self.scale = math.sqrt(output.feature_size) if is_scaled else 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns embeddings (…, F) for tokens (…)."""
        output = self.output
        flat_N = tokens.flatten()
        bands_N = output.band_of(flat_N)
        vectors_by_band: list[Tensor] = []
        rows_by_band: list[Tensor] = []
        for band, table in enumerate(output.tables):
            rows = (bands_N == band).nonzero().squeeze(1)
            vectors = F.embedding(flat_N.index_select(0, rows) - output.bounds[band], table)
            if band > 0:
                # The transpose of the projection: from the width of the band to F.
                vectors = F.linear(vectors, output.projection(band).weight.t())
            vectors_by_band.append(vectors.to(output.bias_V.dtype))  # under autocast the projected ones are bf16
            rows_by_band.append(rows)
        original_order_N = torch.cat(rows_by_band).argsort()
        x = torch.cat(vectors_by_band).index_select(0, original_order_N) * self.scale
        return x.view(*tokens.shape, output.feature_size)
