"""Which way a model of several directions translates: what stands before a source line tells it."""

import dataclasses

from core import errors
from core.models import bundle as bundles


def with_target_token(bundle: bundles.Bundle, target_token: str | None, where: str) -> bundles.Bundle:
    """The bundle with a source codec that begins each line with a target token; as it is where it knows of none.

    Args:
        bundle: of a model of one direction or of several.
        target_token: the one that the corpus of the wanted direction had in training.
        where: the setting that names it, for errors.

    Raises:
        UsageError: it is not one of the bundle's, or the bundle has some and none is given.
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
        raise errors.UsageError(f"{where}: {target_token!r} is none of this run's; choose {' or '.join(known)}")
    return dataclasses.replace(bundle, codecs={**bundle.codecs, "source": source.with_target_token(target_token)})
