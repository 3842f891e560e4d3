"""Skip steps whose loss or gradients are not finite, and give up after several in a row."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from codec.errors import SoundloomError


class BadSteps:
    """Count steps in a row whose loss or gradients are not finite, and give up after ``limit`` of them.

    ``shown=False`` (every process but the first) counts without printing.
    """

    def __init__(self, limit: int = 3, in_a_row: int = 0, shown: bool = True) -> None:
        self.limit = limit
        self.in_a_row = in_a_row
        self.shown = shown

    def ok(self, finite: bool, step: int, ids: Iterable[str]) -> bool:
        """Return ``finite``. If it is false, print the step and its utterances; the caller must skip the step.

        Raises:
            SoundloomError: there are more than ``limit`` bad steps in a row.
        """
        if finite:
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        names = ", ".join(ids)
        if self.in_a_row > self.limit:
            raise SoundloomError(
                f"step {step}: loss or gradients not finite, for the {self.in_a_row}th time in a row; "
                f"lower the learning rate, train with bf16: false, or remove broken utterances: {names}"
            )
        if self.shown:
            print(f"warning: step {step} skipped, loss or gradients not finite; utterances: {names}", file=sys.stderr)
        return False
