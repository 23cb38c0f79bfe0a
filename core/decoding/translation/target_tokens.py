"""Target-language tags: a token before each source line that selects the direction of a multilingual model.

Source: Johnson et al. 2017, Google's multilingual neural machine translation system, section 3.
"""

import dataclasses

from core import errors
from core.models import bundle as bundles


def with_target_token(bundle: bundles.Bundle, target_token: str | None, where: str) -> bundles.Bundle:
    """Returns the bundle with a source codec that begins each line with a target token.

    A bundle without target tokens is returned unchanged.

    Args:
        bundle: of a model of one direction or of several.
        target_token: that of the corpus with the wanted direction, in training.
        where: name of the setting, for errors.

    Raises:
        UsageError: the token is not one of the bundle's, or the bundle has some and none is given.
    """
    source = bundle.codecs.get("source")
    known = () if source is None else source.tokenizer.target_tokens
    if target_token is None and not known:
        return bundle
    if source is None or not known:
        raise errors.UsageError(f"{where}: this run has no target tokens to choose from; leave it out")
    if target_token is None:
        raise errors.UsageError(f"{where}: this run has several directions; choose {' or '.join(known)}")
    if target_token not in known:
        raise errors.UsageError(
            f"{where}: {target_token!r} is not a target token of this run; choose {' or '.join(known)}"
        )
    return dataclasses.replace(bundle, codecs={**bundle.codecs, "source": source.with_target_token(target_token)})
