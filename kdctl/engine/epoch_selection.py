"""Which epoch counts: the last, or the first that reaches the best accuracy on a split."""

from __future__ import annotations

from collections.abc import Mapping

from kdctl.records import EpochResult, Selected, Selection


def winning_rules(result: EpochResult, selected: Mapping[str, Selected]) -> tuple[Selection, ...]:
    """Return the rules that pick this epoch over those they `selected` before.

    An epoch that only equals the best so far does not replace it.
    """
    rules = [Selection.LAST]
    best_test = selected.get(Selection.BEST_TEST)
    if best_test is None or result.test.top1 > best_test.test.top1:
        rules.append(Selection.BEST_TEST)
    if result.val is not None:
        best = selected.get(Selection.BEST_VAL)
        if best is None or best.val is None or result.val.top1 > best.val.top1:
            rules.append(Selection.BEST_VAL)
    return tuple(rules)
