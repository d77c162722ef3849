"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import flax.linen as nn


@contextlib.contextmanager
def stages_again() -> Iterator[None]:
    """Inside it, every stage of a network (a direct child of it) keeps only its input for the
    backward pass, which runs it once more: about a third more work, and of all activations only
    one stage's are held at a time."""
    within = [False]

    def stage(run, arguments, named, context):
        module = context.module
        plain = context.method_name != "__call__" or len(arguments) != 1
        if within[0] or plain or len(module.path) != 1:
            return run(*arguments, **named)

        def again(module, x):
            within[0] = True
            try:
                return module(x, **named)
            finally:
                within[0] = False

        return nn.remat(again)(module, *arguments)

    with nn.intercept_methods(stage):
        yield
